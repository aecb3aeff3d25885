"""Which images a measurement uses and how: read batch by batch by models, inverted batch by batch on one of them.

Shapes: N images, B images of a batch, L layers; X features of a layer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from adaptive_ft.analysis.inversion import InversionConfig, Inverted, invert, relative_distance, start_inputs
from adaptive_ft.analysis.representations import Reader
from adaptive_ft.analysis.similarity import SMALLEST_BATCH, Blocks, Summary, summary_of
from adaptive_ft.errors import UserError

KEPT_BYTES = 2**30
"""Features that are kept at a time while a model reads all images; layers beyond that are read in further passes."""


@dataclass(frozen=True)
class MeasureConfig:
    """How invariances are measured."""

    inversion: InversionConfig = field(default_factory=InversionConfig)
    similarity: str = "linear"
    """linear, rbf, or minibatch; the first two keep the features of all images, of a few layers at a time."""
    batch_size: int = 64
    """Images that are inverted together."""
    layers_at_once: int = 1
    """Layers that are inverted together, as copies along the batch."""

    def __post_init__(self) -> None:
        summary_of(self.similarity)
        if self.layers_at_once < 1:
            raise UserError(f"layers_at_once is {self.layers_at_once}: it must be at least 1.")
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: it must be at least 1.")


@dataclass(frozen=True)
class Images:
    """What is measured with: inputs [N, ...], where their searches begin (None: as the config says), batch by batch."""

    inputs_N: Tensor
    config: MeasureConfig
    starts_N: Tensor | None = None

    def __post_init__(self) -> None:
        # Of two images every CKA is 1; of three the unbiased estimator, which divides by n - 3, knows nothing.
        if len(self.inputs_N) < SMALLEST_BATCH:
            raise UserError(
                f"{len(self.inputs_N)} image(s): a similarity compares images, so give at least {SMALLEST_BATCH}."
            )
        shortest = len(self.inputs_N) % self.config.batch_size or self.config.batch_size
        if self.config.similarity == "minibatch" and shortest < SMALLEST_BATCH:
            raise UserError(
                f"{len(self.inputs_N)} images in batches of {self.config.batch_size} leave one of {shortest}: the"
                f" minibatch similarity needs at least {SMALLEST_BATCH} in each."
            )
        if self.starts_N is not None and self.starts_N.shape != self.inputs_N.shape:
            raise ValueError(f"starts {tuple(self.starts_N.shape)} for inputs {tuple(self.inputs_N.shape)}")

    def batches(self) -> Iterator[Tensor]:
        """The numbers [B] of the images of every batch."""
        yield from torch.arange(len(self.inputs_N)).split(self.config.batch_size)

    @property
    def count(self) -> int:
        """How many batches there are."""
        return -(-len(self.inputs_N) // self.config.batch_size)

    def starts(self, numbers_B: Tensor) -> Tensor:
        """Where the search begins for these images."""
        if self.starts_N is not None:
            return self.starts_N[numbers_B]
        return start_inputs(self.inputs_N, numbers_B, self.config.inversion)

    def all_starts(self) -> Tensor:
        """Where all searches begin, in the range: [N, ...]."""
        starts_N = torch.cat([self.starts(numbers_B) for numbers_B in self.batches()])
        return self.config.inversion.clamped(starts_N)

    def residuals(self, reader: Reader, inputs_N: Tensor) -> Tensor:
        """How far inputs that stand for the images are from them, relatively, at every layer: [L, N]."""
        found = []
        with torch.no_grad():
            for numbers_B in self.batches():
                wanted = reader(self.inputs_N[numbers_B], numbers_B, reader.layers)
                seen = reader(inputs_N[numbers_B], numbers_B, reader.layers)
                found.append(torch.stack([relative_distance(seen[layer], wanted[layer]) for layer in reader.layers]))
        return torch.cat(found, dim=1)

    def blocks(self, reader: Reader, inputs_N: Tensor, layers: Sequence[str]) -> dict[str, Blocks]:
        """The centred Gram matrices of these layers for inputs that stand for the images.

        One forward pass over the images where the features of all layers fit into `KEPT_BYTES`, else as many as it
        takes.
        """
        found: dict[str, Blocks] = {}
        while len(found) < len(layers):
            summaries = self._one_pass(reader, inputs_N, layers[len(found) :])
            # Each summary goes as soon as its matrices are there: it may hold all features.
            found.update({layer: summaries.pop(layer).blocks() for layer in list(summaries)})
        return found

    def _one_pass(self, reader: Reader, inputs_N: Tensor, layers: Sequence[str]) -> dict[str, Summary]:
        """What is kept of the first of these layers, as many as fit; the first batch shows how many these are."""
        start = summary_of(self.config.similarity)
        summaries = {layer: start() for layer in layers}
        with torch.no_grad():
            for number, numbers_B in enumerate(self.batches()):
                for layer, features_BX in reader(inputs_N[numbers_B], numbers_B, list(summaries)).items():
                    summaries[layer].update(features_BX)
                if number == 0:
                    at_end = np.cumsum([summary.kept_bytes * self.count for summary in summaries.values()])
                    fitting = max(1, int((at_end <= KEPT_BYTES).sum()))
                    summaries = {layer: summaries[layer] for layer in layers[:fitting]}
        return summaries

    def inverted(
        self, reader: Reader, layers: Sequence[str], tick: Callable[[], None] = lambda: None
    ) -> dict[str, Inverted]:
        """X' and the losses of all images, for every layer; `tick` is called once per layer and batch."""
        parts: dict[str, list[Inverted]] = {layer: [] for layer in layers}
        for numbers_B in self.batches():
            with torch.no_grad():
                targets = reader(self.inputs_N[numbers_B], numbers_B, layers)
            found = invert(reader, targets, self.starts(numbers_B), numbers_B, self.config.inversion)
            for layer in layers:
                parts[layer].append(found[layer])
                tick()
        return {layer: Inverted.joined(part) for layer, part in parts.items()}
