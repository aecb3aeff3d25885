"""Representation inversion: other inputs that a layer of a model cannot tell from the given ones.

x' is sought from a start that knows nothing of x: per input, with t = m(x) flattened,

    loss(x') = ||m(x') - t|| / ||t||        x' <- clamp(x' - step * g / (||g|| + 1e-10))        g = gradient of loss

and the best x' on the way is kept (Mahendran and Vedaldi, CVPR 2015, in the form of Nanda et al., ICML 2022; no
momentum, no prior on pictures). Starts are drawn per input from (seed, its number), so that a result does not depend
on batches. Shapes: B inputs of a batch, N all inputs, X features of a layer; inputs have any shape behind.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from adaptive_ft.analysis.representations import Reader
from adaptive_ft.errors import UserError

Start = Literal["noise", "same_noise", "uniform", "white", "black", "flipped"]
"""Gaussian noise per input, the same for all, uniform in the range, its ends, or the inputs in reverse order (where
their count is odd, the middle one begins at the first)."""
Step = Callable[[Tensor, Tensor], Tensor]
"""(inputs [B, ...], gradients [B, ...]) -> the next inputs, before they are clamped."""

_SMALLEST_GRADIENT = 1e-10
_SHARED = 2**32 - 1  # the number that stands for all inputs, where they start from the same noise


@dataclass(frozen=True)
class InversionConfig:
    """How inputs are sought."""

    iterations: int = 500
    """Steps; each costs a forward and a backward pass up to the layer."""
    step: float = 0.5
    """Length of a step of `normalised`, or learning rate of `adam`."""
    optimizer: Literal["normalised", "adam"] = "normalised"
    """Steps of one length against the gradient of each input, or Adam's, also per input."""
    start: Start = "noise"
    """Where the search begins."""
    low: float | None = 0.0
    high: float | None = 1.0
    """Range of the inputs; None: no bound."""
    seed: int = 1
    """Of the noise."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UserError(f"iterations is {self.iterations}: an inversion takes at least one step.")
        if not self.step > 0:
            raise UserError(f"step is {self.step}: it must be above 0.")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise UserError(f"low {self.low} is not below high {self.high}: inputs need a range.")
        is_bounded = self.low is not None and self.high is not None and math.isfinite(self.high - self.low)
        if self.start in ("uniform", "white", "black") and not is_bounded:
            raise UserError(f"start '{self.start}' needs a range: give low and high, or start from noise.")

    def clamped(self, inputs: Tensor) -> Tensor:
        """The inputs with what lies outside the range moved to its ends."""
        return inputs if self.low is None and self.high is None else inputs.clamp(self.low, self.high)

    def stepping(self) -> Step:
        """A search of its own: it may remember earlier gradients."""
        return AdamSteps(self.step) if self.optimizer == "adam" else NormalisedSteps(self.step)


class NormalisedSteps:
    """x - step * g / (||g|| + 1e-10), the norm over each input."""

    def __init__(self, step: float) -> None:
        self._step = step

    def __call__(self, inputs_B: Tensor, gradients_B: Tensor) -> Tensor:
        """The next inputs."""
        norms_B = gradients_B.flatten(1).norm(dim=1) + _SMALLEST_GRADIENT
        return inputs_B - self._step * gradients_B / norms_B.view(-1, *[1] * (inputs_B.dim() - 1))


class AdamSteps:
    """Adam (Kingma and Ba, 2015) with its usual constants; element by element, so inputs do not influence another."""

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self._inputs: Tensor | None = None

    def __call__(self, inputs_B: Tensor, gradients_B: Tensor) -> Tensor:
        """The next inputs."""
        if self._inputs is None:
            self._inputs = inputs_B.detach().clone().requires_grad_()
            self._adam = torch.optim.Adam([self._inputs], lr=self._learning_rate)
        with torch.no_grad():
            self._inputs.copy_(inputs_B)
        self._inputs.grad = gradients_B
        self._adam.step()
        return self._inputs.detach().clone()


@dataclass(frozen=True)
class Inverted:
    """The best inputs [B, ...] that were found, and their losses [B]: how far they are from the target, relatively."""

    inputs_B: Tensor
    loss_B: Tensor

    @staticmethod
    def joined(parts: "Sequence[Inverted]") -> "Inverted":
        """Those of several batches, one after another."""
        return Inverted(torch.cat([part.inputs_B for part in parts]), torch.cat([part.loss_B for part in parts]))


def start_inputs(inputs_N: Tensor, numbers_B: Tensor, config: InversionConfig) -> Tensor:
    """Where the search for the inputs of these numbers begins: [B, ...], in the range, on the inputs' device.

    The noise is clamped at once: the first step gets a gradient for every pixel, as all others do.
    """
    shape, like = inputs_N.shape[1:], inputs_N[:0]
    if config.start == "flipped":
        return config.clamped(inputs_N[_opposite(numbers_B.to(inputs_N.device), len(inputs_N))])
    if config.start in ("white", "black"):
        level = config.high if config.start == "white" else config.low
        return like.new_full((len(numbers_B), *shape), float(level or 0.0))
    drawn = [_SHARED if config.start == "same_noise" else number for number in numbers_B.tolist()]
    noise = torch.stack([_noise(shape, number, config) for number in drawn])
    return config.clamped(noise.to(like))


def invert(
    reader: Reader, targets: Mapping[str, Tensor], starts_B: Tensor, numbers_B: Tensor, config: InversionConfig
) -> dict[str, Inverted]:
    """Seek, for every layer of `targets` ({layer: [B, X]}), inputs that this layer cannot tell from the targets'.

    Several layers are sought together, in copies along the batch that do not influence each other: faster than one
    after another where one batch does not fill the device, at the price of running all copies to the deepest layer.
    Raises ValueError for no target or one of another number of inputs.
    """
    layers = list(targets)
    if not layers or any(len(target) != len(starts_B) for target in targets.values()):
        raise ValueError(f"targets of layers {layers} for {len(starts_B)} starts: each needs one row per start")
    inputs = config.clamped(torch.cat([starts_B] * len(layers)))
    numbers = torch.cat([numbers_B] * len(layers))
    best, least = inputs, inputs.new_full((len(inputs),), float("inf"))
    step = config.stepping()
    for _ in range(config.iterations):
        inputs = inputs.detach().requires_grad_()
        loss = _losses(reader, targets, inputs, numbers)
        (gradients,) = torch.autograd.grad(loss.sum(), inputs)
        best, least = _better(best, least, inputs, loss)
        inputs = config.clamped(step(inputs.detach(), gradients))
    with torch.no_grad():
        best, least = _better(best, least, inputs, _losses(reader, targets, inputs, numbers))
    parts = zip(best.split(len(starts_B)), least.split(len(starts_B)), strict=True)
    return {layer: Inverted(*part) for layer, part in zip(layers, parts, strict=True)}


def _opposite(numbers_B: Tensor, count: int) -> Tensor:
    """The number from the other end; the middle one of an odd count, which would begin at its own target, gets 0."""
    opposite_B = count - 1 - numbers_B
    return torch.where(opposite_B == numbers_B, 0, opposite_B)


def _losses(reader: Reader, targets: Mapping[str, Tensor], inputs: Tensor, numbers: Tensor) -> Tensor:
    """The loss of every copy, at its own layer: [layers * B]."""
    layers = list(targets)
    found = reader(inputs, numbers, layers)
    size = len(inputs) // len(layers)
    own = [found[layer][place * size : (place + 1) * size] for place, layer in enumerate(layers)]
    return torch.cat([relative_distance(one, targets[layer]) for one, layer in zip(own, layers, strict=True)])


def relative_distance(found_BX: Tensor, target_BX: Tensor) -> Tensor:
    """||found - target|| / ||target|| per row: [B]; of a target that is 0, the distance over the smallest number."""
    norms_B = target_BX.norm(dim=1).clamp(min=torch.finfo(target_BX.dtype).tiny)
    return (found_BX - target_BX).norm(dim=1) / norms_B


def _better(best: Tensor, least: Tensor, inputs: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Input by input what has the smaller loss; a loss that is no number never has."""
    inputs, loss = inputs.detach(), loss.detach()
    is_better = loss < least
    chosen = torch.where(is_better.view(-1, *[1] * (inputs.dim() - 1)), inputs, best)
    return chosen, torch.where(is_better, loss, least)


def _noise(shape: Sequence[int], number: int, config: InversionConfig) -> Tensor:
    """float32 noise of one input, from a generator of its own."""
    (state,) = np.random.SeedSequence((config.seed, number)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state) >> 1)
    if config.start == "uniform" and config.low is not None and config.high is not None:
        return config.low + (config.high - config.low) * torch.rand(tuple(shape), generator=generator)
    return torch.randn(tuple(shape), generator=generator)
