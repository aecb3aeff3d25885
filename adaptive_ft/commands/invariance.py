"""adaptive-ft invariance: which invariances of a pretrained model a fine-tuned one has kept, layer by layer.

Shapes: N pictures, 3 = red green blue, H and W rows and columns of pixels, L layers.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_ft.analysis.invariance import Matrices, stir_matrices
from adaptive_ft.analysis.invariance_pictures import retention_and_usage, stir_heatmaps
from adaptive_ft.analysis.inversion import InversionConfig, Start
from adaptive_ft.analysis.layer_usage import newest_usage, tuned_by_layer
from adaptive_ft.analysis.measured_images import MeasureConfig
from adaptive_ft.analysis.pictures import save_figure
from adaptive_ft.analysis.rank_correlation import rank_correlation
from adaptive_ft.analysis.retention import centre_of_mass, flow, forgetting, retention, transfer
from adaptive_ft.commands.compared_models import Compared, open_compared
from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.data.reading.choice import DataConfig, open_set
from adaptive_ft.data.reading.shard_set import PictureShardSet
from adaptive_ft.data.reading.stream import EvalStream
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.tasks.classification import WHITE_LEVEL
from adaptive_ft.tracking import Progress, quiet_libraries
from adaptive_ft.whole_files import write_whole

READ_AT_ONCE = 256
FINE_TUNED, PRETRAINED, CONTROL, RANDOM = "fine-tuned", "pretrained", "control", "random"


@dataclass
class Command:
    """Measure shared invariances of picture models (STIR); one inversion per layer of the pretrained model."""

    finetuned: str
    """Run folder, or folder or hub id of a plain model."""
    shards: str
    """Folder or address of labelled pictures to measure with."""
    output: Path
    """Folder for matrices, summary and pictures; the same one again goes on where it was stopped."""
    pretrained: str | None = None
    """Run folder (all its components frozen), folder or hub id; default: the fine-tuned run, all frozen. The embeddings
    of a run are always the trained ones."""
    control: str | None = None
    """A model trained from scratch on the same task; default: a random one, which is measured in any case."""
    policy: str = "network"
    """Which weights of a fine-tuned run: its policy decides per picture, or global, tuned, frozen (blockdrop: used)."""
    images: int = 500
    """Pictures, spread evenly over the shards."""
    iterations: int = 500
    """Steps of a search."""
    step: float = 0.5
    """Length of a step, or adam's learning rate."""
    optimizer: Literal["normalised", "adam"] = "normalised"
    """How steps are taken."""
    start: Start = "noise"
    """Where a search begins."""
    similarity: Literal["linear", "rbf", "minibatch"] = "linear"
    """Kind of CKA."""
    batch_size: int = 100
    """Pictures that are inverted together."""
    layers_at_once: int = 1
    """Layers that are inverted together, as copies along the batch."""
    seed: int = 1
    """Of the noise and of the random model."""
    device: str | None = None
    """cpu or cuda; default: the GPU where there is one."""

    def run(self) -> None:
        """Measure, write, print; raises UserError for models, pictures or options that do not fit."""
        quiet_libraries()
        config, device = self._config(), self._device()
        models, shards = self._models()
        judges = {name: model.reader(device) for name, model in models.items()}
        pictures = read_pictures(shards, self.images).to(device)
        with Shown() as shown:
            matrices = stir_matrices(judges[PRETRAINED], judges, pictures, config, self.output, shown)
        tuned = self._tuned()
        found = {"pictures": len(pictures), **summary(matrices, tuned)}
        write_whole(self.output / "summary.json", json.dumps(found, indent=1))
        save_figure(stir_heatmaps(matrices.stir, matrices.layers, PRETRAINED), self.output / "stir.png")
        by_layer = {name: retention(matrix_LL) for name, matrix_LL in matrices.stir.items()}
        note = correlation_told(found["usage_against_forgetting"])
        figure = retention_and_usage(by_layer, matrices.layers, tuned, note)
        save_figure(figure, self.output / "retention_and_usage.png")
        print("\n".join((*table(found, matrices, tuned), note, f"matrices, summary and pictures in {self.output}")))

    def _config(self) -> MeasureConfig:
        if self.images < 2:
            raise UserError(f"--images is {self.images}: a similarity compares pictures, so give at least two.")
        search = InversionConfig(self.iterations, self.step, self.optimizer, self.start, seed=self.seed)
        return MeasureConfig(search, self.similarity, self.batch_size, self.layers_at_once)

    def _device(self) -> torch.device:
        found = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if found.partition(":")[0] not in ("cpu", "cuda") or (found != "cpu" and not torch.cuda.is_available()):
            raise UserError(f"--device {found}: this machine has {'a GPU' if torch.cuda.is_available() else 'a CPU'}.")
        return torch.device(found)

    def _models(self) -> tuple[dict[str, Compared], PictureShardSet]:
        """All models by their roles, the fine-tuned one first, and the pictures in the frame of the pretrained one."""
        shards = open_set(self.shards, DataConfig())
        if shards.manifest.content != LABELLED_PICTURES:
            raise UserError(f"'{self.shards}' holds {shards.manifest.content}: invariances need labelled pictures.")
        if self.pretrained is None and not RunFolder(Path(self.finetuned)).config_file.is_file():
            raise UserError(f"'{self.finetuned}' is no run folder, so it has no frozen half: name --pretrained too.")
        classes = shards.manifest.answer_table
        pretrained = open_compared(PRETRAINED, self.pretrained or self.finetuned, "frozen", classes)
        models = {FINE_TUNED: open_compared(FINE_TUNED, self.finetuned, self.policy, classes), PRETRAINED: pretrained}
        if self.control is not None:
            # A run that was trained from scratch has nothing pretrained to go back to.
            models[CONTROL] = open_compared(CONTROL, self.control, "tuned", classes)
        models[RANDOM] = pretrained.at_random(self.seed)
        return models, shards.with_pictures(pretrained.framing)

    def _tuned(self) -> dict[str, float]:
        """Share of each layer that the fine-tuned run's policy tuned; nothing where it is no run, or was told what to
        tune.
        """
        file = newest_usage(RunFolder(Path(self.finetuned)).plots)
        return {} if file is None or self.policy not in ("network", "global") else tuned_by_layer(file)


def read_pictures(shards: PictureShardSet, count: int) -> Tensor:
    """`count` pictures spread evenly over the shards, or all where there are fewer: float32 [N, 3, H, W] in [0, 1]."""
    total = shards.num_examples
    wanted = sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))
    chosen, first = [], 0
    for batch in EvalStream(shards, batch_size=min(READ_AT_ONCE, total)):
        inside = [number - first for number in wanted if first <= number < first + len(batch.questions)]
        chosen.append(batch.pixels_B3HW[inside].float() / WHITE_LEVEL)
        first += len(batch.questions)
    return torch.cat(chosen)


def summary(matrices: Matrices, tuned: Mapping[str, float]) -> dict[str, Any]:
    """The numbers by layer, what they say, and the rank correlation of forgetting and usage; null for no number."""
    blocks = len(matrices.layers) - 1  # the last is the final norm
    fine_tuned = matrices.stir[FINE_TUNED]
    if np.isnan(fine_tuned).any():
        raise UserError("A layer of the fine-tuned model gives the same for all pictures: they cannot be told apart.")
    found = flow(fine_tuned, blocks)
    against = transfer(fine_tuned, matrices.stir.get(CONTROL, matrices.stir[RANDOM]))
    return {
        "layers": list(matrices.layers),
        "retention": plain(retention(fine_tuned)),
        "forgetting": plain(forgetting(fine_tuned)),
        "within_pretrained": plain(retention(matrices.stir[PRETRAINED])),
        "control": CONTROL if CONTROL in matrices.stir else RANDOM,
        "control_retention": plain(against.control),
        "transferred": plain(against.transferred),
        "rsm": plain(retention(matrices.rsm[FINE_TUNED])),
        "strongest_layer": found.strongest.tolist(),
        "shift": found.shift.tolist(),
        "centre_of_mass": plain(centre_of_mass(fine_tuned, matrices.stir[RANDOM], blocks)),
        "centre_of_mass_within_pretrained": plain(
            centre_of_mass(matrices.stir[PRETRAINED], matrices.stir[RANDOM], blocks)
        ),
        "median_residual": plain(np.median(matrices.residuals, axis=1)),
        "tuned_share": dict(tuned),
        "usage_against_forgetting": usage_against_forgetting(matrices, tuned),
    }


def usage_against_forgetting(matrices: Matrices, tuned: Mapping[str, float]) -> dict[str, Any] | None:
    """Do policies tune where invariances are forgotten? Over the layers that have gates; None where it is not known."""
    gated = [number for number, layer in enumerate(matrices.layers) if layer in tuned]
    shares = np.array([tuned[matrices.layers[number]] for number in gated])
    forgotten = forgetting(matrices.stir[FINE_TUNED])[gated]
    found = rank_correlation(shares, forgotten) if gated else None
    return None if found is None else asdict(found)


def correlation_told(found: Mapping[str, Any] | None) -> str:
    """The rank correlation in one line."""
    if found is None:
        return "no rank correlation of tuned share and forgetting: it takes four layers whose shares differ"
    few = found["low"] is None
    sure = "too few for an interval" if few else f"95 % {found['low']:+.2f} to {found['high']:+.2f}"
    return (
        f"rank correlation of tuned share and forgetting over {found['layers']} layers: {found['rho']:+.2f}"
        f" ({sure}, p {found['p']:.2g})"
    )


def table(found: Mapping[str, Any], matrices: Matrices, tuned: Mapping[str, float]) -> list[str]:
    """One line per layer."""
    named = f"{'retained':>9} {'within':>7} {found['control']:>8} {'strongest':>10} {'residual':>9} {'tuned':>6}"
    rows = [f"{'layer':<10} {named}"]
    for number, layer in enumerate(matrices.layers):
        share = f"{100 * tuned[layer]:.0f} %" if layer in tuned else "–"
        strongest = found["strongest_layer"][number] if number < len(found["strongest_layer"]) else "–"
        columns = [found[name][number] for name in ("retention", "within_pretrained", "control_retention")]
        kept, within, control = ("–" if value is None else f"{value:.3f}" for value in columns)
        residual = found["median_residual"][number]
        rows.append(f"{layer:<10} {kept:>9} {within:>7} {control:>8} {strongest:>10} {residual:>9.3f} {share:>6}")
    return rows


def plain(values: NDArray[Any]) -> list[float | None]:
    """Numbers for JSON, which knows no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


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
