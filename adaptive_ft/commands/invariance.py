"""adaptive-ft invariance: which invariances of a pretrained model a fine-tuned one has kept, layer by layer.

Shapes: N examples, L layers.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from adaptive_ft.analysis.invariance import Matrices, stir_matrices
from adaptive_ft.analysis.invariance_pictures import retention_and_usage, stir_heatmaps
from adaptive_ft.analysis.invariance_summary import (
    CONTROL,
    FINE_TUNED,
    PRETRAINED,
    RANDOM,
    compared_told,
    correlation_told,
    far_told,
    summary,
    table,
)
from adaptive_ft.analysis.inversion import InversionConfig, Start
from adaptive_ft.analysis.layer_usage import newest_usage, tuned_by_layer
from adaptive_ft.analysis.measured_images import MeasureConfig
from adaptive_ft.analysis.pictures import save_figure
from adaptive_ft.analysis.representations import Reader
from adaptive_ft.analysis.retention import retention
from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.data.reading.choice import DataConfig, open_set
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.measured.inputs import read_examples, varied_inputs
from adaptive_ft.measured.models import NETWORK, Compared, is_run, open_base, open_compared
from adaptive_ft.measured.named import named_model, surroundings
from adaptive_ft.measured.trackers import late_trackers
from adaptive_ft.models.bases.reading import refuse_missing
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.tracking import Progress, quiet_libraries
from adaptive_ft.whole_files import write_whole

FIGURE, MATRICES = "retention_and_usage", "stir"
"""The pictures: diagonals above the usage, and the matrices."""
BACK = "on-fine-tuned"
"""The folder in the output, and the ending of the picture, of inversions on the fine-tuned model."""


@dataclass
class Command:
    """Measure shared invariances (STIR) of models of pictures, or of regions under fixed questions; one inversion per
    layer of the pretrained model."""

    finetuned: str
    """Run folder, or folder or hub id of a plain model."""
    shards: str
    """Folder or address of labelled pictures, or of questions, to measure with."""
    output: Path | None = None
    """Folder for matrices, summary and pictures, which goes on where it was stopped; default: invariance, in the folder
    of the fine-tuned run, or here where it is none."""
    pretrained: str | None = None
    """Folder or hub id, or a run folder (all its components frozen; what no gate chooses, as the embeddings, the final
    norm and the pooler, as trained); default: the base that the fine-tuned run started from."""
    control: str | None = None
    """A model trained from scratch on the same task; default: a random one, which is measured in any case."""
    policy: str = NETWORK
    """Which weights of a fine-tuned run: its policy decides per example, or global, tuned, frozen (blockdrop: used)."""
    which: Literal["latest", "best"] = "latest"
    """Checkpoint of the models that are runs: that of the last update, or that with the best validation score."""
    control_policy: str = NETWORK
    """Which weights of a control that is a run, in the same words."""
    both_ways: bool = False
    """Invert the fine-tuned model too, for STIR(pretrained | fine-tuned): about twice the time."""
    images: int = 500
    """Pictures, or questions, spread evenly over the shards."""
    iterations: int = 500
    """Steps of a search."""
    step: float = 0.5
    """Length of a step, or adam's learning rate."""
    optimizer: Literal["normalised", "adam"] = "normalised"
    """How steps are taken."""
    start: Start = "noise"
    """Where a search begins."""
    range: tuple[float, float] | None = None
    """Bounds of what is sought; default: 0 1 for pixels, none for features of regions."""
    similarity: Literal["linear", "rbf", "minibatch"] = "linear"
    """Kind of CKA."""
    batch_size: int = 100
    """Examples that are inverted together."""
    layers_at_once: int = 1
    """Layers that are inverted together, as copies along the batch."""
    seed: int = 1
    """Of the noise and of the random model."""
    device: str | None = None
    """cpu or cuda; default: the GPU where there is one."""

    def run(self) -> None:
        """Measure, write, print; raises UserError for models, shards or options that do not fit."""
        quiet_libraries()
        shards, device = open_set(self.shards, DataConfig()), self._device()
        config, later = self._config(shards), late_trackers(self._folder)
        models = self._models(shards)
        examples = read_examples(models[PRETRAINED].fit(shards), self.images)
        judges = {name: model.reader(device, examples) for name, model in models.items()}
        inputs = varied_inputs(examples).to(device)
        compared = self._compared(models[FINE_TUNED], shards, len(inputs), device)
        with Shown() as shown:
            matrices = stir_matrices(judges[PRETRAINED], judges, inputs, config, self.place, shown, compared=compared)
        back = self._back(judges, inputs, config, compared) if self.both_ways else None
        tuned, unknown = self._tuned(models[FINE_TUNED])
        found = {"images": len(inputs), "compared": compared, **summary(matrices, tuned, back)}
        write_whole(self.place / "summary.json", json.dumps(found, indent=1))
        note = unknown or correlation_told(found["usage_against_forgetting"])
        figures = self._figures(matrices, back, tuned, (note, compared_told(compared)))
        places = (f"figure     {self.place / FIGURE}.png", f"beside it  matrices, summary.json, {MATRICES}.png")
        print("\n".join((*table(found, matrices, tuned), *far_told(found), note, *places)), flush=True)
        for tracker in later:
            tracker.give(figures)

    @property
    def place(self) -> Path:
        """The folder that is written to."""
        return self.output or (self._folder.invariance if is_run(self.finetuned) else Path("invariance"))

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(Path(self.finetuned))

    def _config(self, shards: ShardSet) -> MeasureConfig:
        if self.images < 4:
            raise UserError(f"--images is {self.images}: a similarity compares examples, so give at least four.")
        bounds = (0.0, 1.0) if shards.manifest.content == LABELLED_PICTURES else (None, None)
        low, high = self.range or bounds
        search = InversionConfig(self.iterations, self.step, self.optimizer, self.start, low, high, self.seed)
        return MeasureConfig(search, self.similarity, self.batch_size, self.layers_at_once)

    def _device(self) -> torch.device:
        number = torch.cuda.device_count()
        known = ["cpu", *(["cuda"] if number else []), *(f"cuda:{gpu}" for gpu in range(number))]
        found = self.device or ("cuda" if number else "cpu")
        if found not in known:
            raise UserError(f"--device {found}: this machine has {', '.join(known)}.")
        return torch.device(found)

    def _models(self, shards: ShardSet) -> dict[str, Compared]:
        """All models by their roles, the fine-tuned one first; each reads what the shards hold."""
        run = is_run(self.finetuned)
        if not run:
            refuse_missing(self.finetuned)
        if self.pretrained is None and not run:
            raise UserError(f"'{self.finetuned}' is no run folder, so it names no base: give --pretrained too.")
        fine_tuned = open_compared(FINE_TUNED, self.finetuned, self.policy, shards, which=self.which)
        fine_tuned.fit(shards)
        beside = fine_tuned if run else None
        if self.pretrained is None:
            pretrained = open_base(PRETRAINED, fine_tuned, self._folder)
        else:
            pretrained = open_compared(PRETRAINED, self.pretrained, "frozen", shards, beside, self.which)
        models = {FINE_TUNED: fine_tuned, PRETRAINED: pretrained}
        if self.control is not None:
            models[CONTROL] = open_compared(CONTROL, self.control, self.control_policy, shards, beside, self.which)
        for model in models.values():
            model.fit(shards)
        models[RANDOM] = pretrained.at_random(self.seed)
        return models

    def _compared(self, run: Compared, shards: ShardSet, count: int, device: torch.device) -> dict[str, Any]:
        """What is measured, by name; `run` names the base where --pretrained does not."""
        base = self.pretrained or run.config.model.name or f"the base of {self.finetuned}"
        named = {
            FINE_TUNED: named_model(self.finetuned, self.policy, self.which),
            PRETRAINED: named_model(base, "frozen", self.which),
        }
        if self.control is not None:
            named[CONTROL] = named_model(self.control, self.control_policy, self.which)
        return {**named, **surroundings(shards, count, device)}

    def _back(
        self, judges: Mapping[str, Reader], inputs_N: Tensor, config: MeasureConfig, compared: Mapping[str, Any]
    ) -> Matrices:
        """The matrices of inversions on the fine-tuned model, judged by the pretrained one and by itself."""
        both = {name: judges[name] for name in (PRETRAINED, FINE_TUNED)}
        with Shown() as shown:
            return stir_matrices(
                judges[FINE_TUNED], both, inputs_N, config, self.place / BACK, shown, compared=compared
            )

    def _tuned(self, fine_tuned: Compared) -> tuple[Mapping[str, float], str]:
        """Share of each layer that is tuned in the model that is measured; or nothing, and a line that says why."""
        if fine_tuned.tuned:
            return fine_tuned.tuned, ""
        file = newest_usage(self._folder.plots)
        if not is_run(self.finetuned):
            reason = "the fine-tuned model is no run with gates"
        elif self.policy != NETWORK:
            reason = f"--policy {self.policy} set all gates alike"
        elif file is None:
            reason = "the run has no usage_val_epoch*.csv in plots"
        else:
            return tuned_by_layer(file), ""
        return {}, f"no rank correlation of tuned share and forgetting: {reason}"

    def _figures(
        self, matrices: Matrices, back: Matrices | None, tuned: Mapping[str, float], notes: Sequence[str]
    ) -> list[Path]:
        """Draw the matrices, and the diagonals above the usage; where they lie."""
        by_layer = {name: retention(matrix_LL) for name, matrix_LL in matrices.stir.items()}
        figures = {
            FIGURE: retention_and_usage(by_layer, matrices.layers, tuned, notes, matrices.unsearched.stir[FINE_TUNED]),
            MATRICES: stir_heatmaps(matrices.stir, matrices.layers, PRETRAINED),
        }
        if back is not None:
            figures[f"{MATRICES}-{BACK}"] = stir_heatmaps(back.stir, back.layers, FINE_TUNED)
        for name, figure in figures.items():
            save_figure(figure, self.place / f"{name}.png")
        return [self.place / f"{name}.png" for name in figures]


class Shown:
    """A bar of the inversions, made when it is known how many there are."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, done: int, total: int) -> None:
        """So many inverted batches are done."""
        if self._bar is None:
            self._bar = self._stack.enter_context(Progress("inversions", total, start=done))
        else:
            self._bar.advance()
            self._bar.tell({})
