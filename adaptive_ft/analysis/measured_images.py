"""Which images a measurement uses and how: read batch by batch by models, inverted batch by batch on one of them.

Shapes: N images, B images of a batch; X features of a layer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptive_ft.analysis.inversion import InversionConfig, Inverted, invert, start_inputs
from adaptive_ft.analysis.representations import Reader
from adaptive_ft.analysis.similarity import SMALLEST_BATCH, Blocks, summary_of
from adaptive_ft.errors import UserError


@dataclass(frozen=True)
class MeasureConfig:
    """How invariances are measured."""

    inversion: InversionConfig = field(default_factory=InversionConfig)
    similarity: str = "linear"
    """linear, rbf, or minibatch; the first two keep the features of all images of one judge at a time."""
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
        shortest = len(self.inputs_N) % self.config.batch_size or self.config.batch_size
        if self.config.similarity == "minibatch" and shortest < SMALLEST_BATCH:
            raise UserError(
                f"{len(self.inputs_N)} images in batches of {self.config.batch_size} leave one of {shortest}: the"
                f" minibatch similarity needs at least {SMALLEST_BATCH} in each."
            )
        if len(self.inputs_N) < 2:
            raise UserError(f"{len(self.inputs_N)} image(s): a similarity compares images, so give at least two.")
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

    def blocks(self, reader: Reader, inputs_N: Tensor, layers: Sequence[str]) -> dict[str, Blocks]:
        """The centred Gram matrices of these layers for inputs that stand for the images; one forward pass each."""
        start = summary_of(self.config.similarity)
        summaries = {layer: start() for layer in layers}
        with torch.no_grad():
            for numbers_B in self.batches():
                for layer, features_BX in reader(inputs_N[numbers_B], numbers_B, layers).items():
                    summaries[layer].update(features_BX)
        # Each summary goes as soon as its matrices are there: it may hold all features.
        return {layer: summaries.pop(layer).blocks() for layer in layers}

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
