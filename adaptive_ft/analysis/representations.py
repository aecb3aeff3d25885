"""What a model makes of an input on the way: the outputs of its layers, read by name.

Measuring knows a model only as a `Reader`; whoever has the model says how it is fed and where its layers are.
Shapes: B inputs of a batch, any shape behind; X features of a layer, flattened.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from adaptive_ft.errors import UserError, nearest

Read = Callable[[Tensor, Tensor, Sequence[str]], Mapping[str, Tensor]]
"""(inputs [B, ...], their numbers int64 [B], layer names) -> {layer: [B, ...]}.

The numbers say which examples the inputs stand for: what is fixed beside them, as a question, is found by them.
"""
Forward = Callable[[Tensor, Tensor], object]
"""(inputs [B, ...], their numbers [B]) -> anything: runs the model."""


@dataclass(frozen=True)
class Reader:
    """A model as measuring sees it: its layers in order of depth, the shape of one input, and how they are read.

    The model must be in evaluation mode, and should not ask for gradients of its weights. `fingerprint` tells models
    apart, so that a measurement goes on only with the model it began with (`weights_hash`).
    """

    name: str
    layers: tuple[str, ...]
    input_shape: tuple[int, ...]
    read: Read
    fingerprint: str = ""

    def __call__(self, inputs_B: Tensor, numbers_B: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The representations [B, X] of the named layers, from one forward pass."""
        found = self.read(inputs_B, numbers_B, layers)
        return {layer: found[layer].flatten(1) for layer in layers}

    def check_layers(self, layers: Iterable[str]) -> None:
        """Raise UserError for a layer that the model does not have, with the nearest one."""
        for layer in layers:
            if layer not in self.layers:
                raise UserError(
                    f"The {self.name} model has no layer '{layer}'.{nearest(layer, self.layers)}"
                    f" It has {', '.join(self.layers)}."
                )

    def check_inputs(self, inputs_N: Tensor) -> None:
        """Raise UserError for no inputs, or inputs of another shape than the model takes."""
        if not len(inputs_N):
            raise UserError("There are no images to measure with: give at least four.")
        given = tuple(inputs_N.shape[1:])
        if given != self.input_shape:
            raise UserError(
                f"The images are {_times(given)} but the {self.name} model takes {_times(self.input_shape)}: read them"
                " at its size, and compare only models that take the same."
            )


@dataclass(frozen=True)
class Tap:
    """Where a layer is read: a module, and what is taken of its output."""

    module: nn.Module
    pick: Callable[[Any], Tensor] | None = None
    """None takes the output, or the first of several."""


def hooked(forward: Forward, taps: Mapping[str, Tap]) -> Read:
    """Read layers while `forward` runs; it is left as soon as all that are asked for have been seen."""

    def read(inputs_B: Tensor, numbers_B: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def hook(layer: str, tap: Tap) -> Callable[..., None]:
            def keep(module: nn.Module, arguments: object, output: Any) -> None:
                found[layer] = _first(output) if tap.pick is None else tap.pick(output)
                if len(found) == len(set(layers)):
                    raise _Enough

            return keep

        with ExitStack() as stack:
            for layer in set(layers):
                stack.enter_context(taps[layer].module.register_forward_hook(hook(layer, taps[layer])))
            try:
                forward(inputs_B, numbers_B)
            except _Enough:
                return found
        unseen = ", ".join(layer for layer in layers if layer not in found)
        raise ValueError(f"the forward pass did not run through {unseen}")

    return read


def class_token(output: Any) -> Tensor:
    """The first place [B, X] of an output [B, places, X]."""
    return _first(output)[:, 0]


def weights_hash(model: nn.Module) -> str:
    """A hash of names, types and values of all weights and buffers."""
    found = xxhash.xxh3_128()
    for name, weight in model.state_dict().items():
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(tensor_bytes(weight))
    return found.hexdigest()


def tensor_bytes(values: Tensor) -> memoryview:
    """The bytes of a tensor's values."""
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


class _Enough(Exception):
    """All layers that were asked for have been seen."""


def _first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
