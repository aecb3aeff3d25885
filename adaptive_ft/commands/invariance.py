"""adaptive-ft invariance: which invariances of a pretrained model a fine-tuned one has kept, layer by layer.

Shapes: N examples, L layers.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from adaptive_ft.analysis.invariance import Matrices, stir_matrices
from adaptive_ft.analysis.invariance_pictures import retention_and_usage, stir_heatmaps
from adaptive_ft.analysis.invariance_summary import (
    CONTROL,
    FINE_TUNED,
    PRETRAINED,
    RANDOM,
    correlation_told,
    summary,
    table,
)
from adaptive_ft.analysis.inversion import InversionConfig, Start
from adaptive_ft.analysis.layer_usage import newest_usage, tuned_by_layer
from adaptive_ft.analysis.measured_images import MeasureConfig
from adaptive_ft.analysis.pictures import save_figure
from adaptive_ft.analysis.report.page import INVARIANCES
from adaptive_ft.analysis.representations import Reader
from adaptive_ft.analysis.retention import retention
from adaptive_ft.analysis.table import SUMMARY
from adaptive_ft.commands.compared_models import Compared, open_compared
from adaptive_ft.commands.measured_inputs import read_examples, varied_inputs
from adaptive_ft.config import load_run_config
from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.data.reading.choice import DataConfig, open_set
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.tracking import Progress, open_asked_trackers, quiet_libraries
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
    """Run folder (all its components frozen), folder or hub id; default: the fine-tuned run, all frozen. The embeddings
    of a run are always the trained ones."""
    control: str | None = None
    """A model trained from scratch on the same task; default: a random one, which is measured in any case."""
    policy: str = "network"
    """Which weights of a fine-tuned run: its policy decides per example, or global, tuned, frozen (blockdrop: used)."""
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
        config = self._config(shards)
        models = self._models(shards)
        examples = read_examples(models[PRETRAINED].fit(shards), self.images)
        judges = {name: model.reader(device, examples) for name, model in models.items()}
        inputs = varied_inputs(examples).to(device)
        with Shown() as shown:
            matrices = stir_matrices(judges[PRETRAINED], judges, inputs, config, self.place, shown)
        back = self._back(judges, inputs, config) if self.both_ways else None
        tuned = self._tuned()
        found = {"images": len(inputs), **summary(matrices, tuned, back)}
        write_whole(self.place / "summary.json", json.dumps(found, indent=1))
        note = correlation_told(found["usage_against_forgetting"])
        self._to_trackers(self._figures(matrices, back, tuned, note))
        places = (f"figure     {self.place / FIGURE}.png", f"beside it  matrices, summary.json, {MATRICES}.png")
        print("\n".join((*table(found, matrices, tuned), note, *places)))

    @property
    def place(self) -> Path:
        """The folder that is written to."""
        folder = RunFolder(Path(self.finetuned))
        return self.output or (folder.path if folder.config_file.is_file() else Path()) / INVARIANCES

    def _config(self, shards: ShardSet) -> MeasureConfig:
        if self.images < 2:
            raise UserError(f"--images is {self.images}: a similarity compares examples, so give at least two.")
        bounds = (0.0, 1.0) if shards.manifest.content == LABELLED_PICTURES else (None, None)
        low, high = self.range or bounds
        search = InversionConfig(self.iterations, self.step, self.optimizer, self.start, low, high, self.seed)
        return MeasureConfig(search, self.similarity, self.batch_size, self.layers_at_once)

    def _device(self) -> torch.device:
        found = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if found.partition(":")[0] not in ("cpu", "cuda") or (found != "cpu" and not torch.cuda.is_available()):
            raise UserError(f"--device {found}: this machine has {'a GPU' if torch.cuda.is_available() else 'a CPU'}.")
        return torch.device(found)

    def _models(self, shards: ShardSet) -> dict[str, Compared]:
        """All models by their roles, the fine-tuned one first; each reads what the shards hold."""
        if self.pretrained is None and not RunFolder(Path(self.finetuned)).config_file.is_file():
            raise UserError(f"'{self.finetuned}' is no run folder, so it has no frozen half: name --pretrained too.")
        pretrained = open_compared(PRETRAINED, self.pretrained or self.finetuned, "frozen", shards)
        models = {FINE_TUNED: open_compared(FINE_TUNED, self.finetuned, self.policy, shards), PRETRAINED: pretrained}
        if self.control is not None:
            # A run that was trained from scratch has nothing pretrained to go back to.
            models[CONTROL] = open_compared(CONTROL, self.control, "tuned", shards)
        for model in models.values():
            model.fit(shards)
        models[RANDOM] = pretrained.at_random(self.seed)
        return models

    def _back(self, judges: Mapping[str, Reader], inputs_N: Tensor, config: MeasureConfig) -> Matrices:
        """The matrices of inversions on the fine-tuned model, judged by the pretrained one and by itself."""
        both = {name: judges[name] for name in (PRETRAINED, FINE_TUNED)}
        with Shown() as shown:
            return stir_matrices(judges[FINE_TUNED], both, inputs_N, config, self.place / BACK, shown)

    def _tuned(self) -> dict[str, float]:
        """Share of each layer that the fine-tuned run's policy tuned; nothing where it is no run, or was told what to
        tune.
        """
        file = newest_usage(RunFolder(Path(self.finetuned)).plots)
        return {} if file is None or self.policy not in ("network", "global") else tuned_by_layer(file)

    def _figures(self, matrices: Matrices, back: Matrices | None, tuned: Mapping[str, float], note: str) -> list[Path]:
        """Draw the matrices, and the diagonals above the usage; where they lie."""
        by_layer = {name: retention(matrix_LL) for name, matrix_LL in matrices.stir.items()}
        figures = {
            FIGURE: retention_and_usage(by_layer, matrices.layers, tuned, note),
            MATRICES: stir_heatmaps(matrices.stir, matrices.layers, PRETRAINED),
        }
        if back is not None:
            figures[f"{MATRICES}-{BACK}"] = stir_heatmaps(back.stir, back.layers, FINE_TUNED)
        for name, figure in figures.items():
            save_figure(figure, self.place / f"{name}.png")
        return [self.place / f"{name}.png" for name in figures]

    def _to_trackers(self, pictures: Sequence[Path]) -> None:
        """Give the figures to the trackers of the fine-tuned run, at its last step; not to those of one that still
        goes on, whose later numbers would be struck out.
        """
        folder = RunFolder(Path(self.finetuned))
        finished = folder.path / SUMMARY
        if not (finished.is_file() and folder.config_file.is_file()):
            return
        config = load_run_config(["--config", str(folder.config_file)])
        step = json.loads(finished.read_text(encoding="utf-8"))["steps"]
        for tracker in open_asked_trackers(folder.path, config.tracking, asdict(config), step):
            for path in pictures:
                tracker.picture(step, f"invariance/{path.stem}", path)
            tracker.close()


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
