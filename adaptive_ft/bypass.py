"""A whole layer that each sample uses or skips: y[b] = a[b] layer(x)[b] + (1 - a[b]) x[b], a exactly 0 or 1.

There is one copy of the layer, and all of it trains. Only the samples that use it are computed, in training as in
evaluation. The gate gradient <dy[b], layer(x)[b] - x[b]> comes for free where the layer was used; where it was skipped
the layer runs without a graph, on the samples the plan drew. Source: docs/method.md 2.

Shape suffixes: B samples, U samples that use the layer, S skipping samples whose gate gradient is evaluated.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from adaptive_ft.errors import UserError
from adaptive_ft.gates import GateHolder, Split
from adaptive_ft.overlay import Overlay, lay_over

# Arguments that say the same for every sample.
SHARED = (bool, int, float, str, torch.dtype, torch.device)


class BypassBlock(Overlay):
    """A layer that computes only the samples that use it.

    Raises ValueError as `GateHolder.read`, and UserError for an argument that is an object, as flex attention's mask,
    where not every sample uses the layer.
    """

    holder: GateHolder
    column: int
    name: str
    streams: dict[str, int]
    """Arguments that the layer maps to its outputs, in the order of these, with their positions."""
    returns_tuple: bool | None
    """Whether the layer returns a tuple; known once it has run."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inputs = [kwargs[name] if name in kwargs else args[place] for name, place in self.streams.items()]
        batch = inputs[0].shape[0]
        gates_B1, split = self.holder.split(self.column, batch, self.name)
        needs_gate_gradient = torch.is_grad_enabled() and gates_B1.requires_grad
        if len(split.used_U) == batch and not needs_gate_gradient:
            return super().forward(*args, **kwargs)

        def run(samples: Tensor) -> list[Tensor]:
            """The layer's outputs for some samples alone."""
            if len(samples) == 0 and not self._must_run():
                return [x[:0] for x in inputs]
            # Attentions cannot reshape an empty batch: one sample stands in, and its output is dropped.
            rows = samples if len(samples) else samples.new_zeros(1)

            of_rows = partial(_of_rows, rows=rows, batch=batch, layer=self.name)
            found = super(BypassBlock, self).forward(*map(of_rows, args), **of_rows(kwargs))
            self.returns_tuple = isinstance(found, tuple)
            return [output[: len(samples)] for output in (found if self.returns_tuple else (found,))]

        outputs = run(split.used_U)
        if needs_gate_gradient:
            differences = _differences(run, inputs, split)
            mixed = [
                _Bypassed.apply(x, output, gates_B1, difference, split)
                for x, output, difference in zip(inputs, outputs, differences, strict=True)
            ]
        else:
            mixed = [x.index_copy(0, split.used_U, output) for x, output in zip(inputs, outputs, strict=True)]
        return tuple(mixed) if self.returns_tuple else mixed[0]

    def _must_run(self) -> bool:
        """Whether the layer has to run even if no sample needs it.

        Under a graph, because its weights must get a gradient, zero, on every rank; under ZeRO-3, because all ranks
        gather the weights of the same modules in the same order; and the first time.
        """
        is_partitioned = any(hasattr(parameter, "ds_id") for parameter in self.parameters())
        return torch.is_grad_enabled() or is_partitioned or self.returns_tuple is None


def bypass(layer: nn.Module, holder: GateHolder, column: int, streams: Sequence[str], name: str) -> None:
    """Let `layer` be used or skipped by each sample, in place, as the holder's column `column` says.

    streams: the arguments that the layer maps to its outputs. `name` is for messages. Raises ValueError when another
    module has claimed the column; `check_bare` comes first.
    """
    positions = list(inspect.signature(layer.forward).parameters)
    holder.claim(column, column + 1, name)
    places = {stream: positions.index(stream) for stream in streams}
    lay_over(layer, BypassBlock, holder=holder, column=column, name=name, streams=places, returns_tuple=None)


def _of_rows(value: Any, rows: Tensor, batch: int, layer: str) -> Any:
    """An argument of a layer, for the samples `rows` of a batch alone; what is no tensor of the batch is everybody's.

    Raises UserError for an object: whether it holds something of each sample cannot be seen. Flex attention's mask
    does, and left whole it would mask sample u of the rows as sample number u of the batch.
    """
    if isinstance(value, Tensor):
        return value.index_select(0, rows) if value.dim() > 0 and value.shape[0] == batch else value
    if type(value) in (tuple, list):
        return type(value)(_of_rows(entry, rows, batch, layer) for entry in value)
    if type(value) is dict:
        return {name: _of_rows(entry, rows, batch, layer) for name, entry in value.items()}
    if value is None or isinstance(value, SHARED):
        return value
    raise UserError(
        f"{layer} is given a {type(value).__name__}, which cannot be split into the samples that use the layer and"
        ' those that skip it: load the model with attn_implementation="sdpa" or "eager" where it is a mask, and'
        " without a cache where it is one."
    )


@torch.no_grad()
def _differences(run: Callable[[Tensor], list[Tensor]], inputs: Sequence[Tensor], split: Split) -> list[Tensor]:
    """layer(x)[s] - x[s] of every stream, for the skipping samples that were drawn.

    With random numbers of its own: how many samples are looked at must not change the dropout of those that count.
    """
    with _own_random_numbers(split.seed, inputs[0].device):
        outputs = run(split.skipped_S)
    return [output - x.index_select(0, split.skipped_S) for x, output in zip(inputs, outputs, strict=True)]


@contextmanager
def _own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, random numbers on the CPU and on `device` start from `seed`; outside, they go on as if it had not been.

    Neither `fork_rng` nor `manual_seed`: the seed of one device must not reach the others.
    """
    on_device = [torch.cuda.default_generators[device.index]] if device.type == "cuda" else []
    before = [(generator, generator.get_state()) for generator in (torch.default_generator, *on_device)]
    try:
        for generator, _ in before:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)


class _Bypassed(torch.autograd.Function):
    """x with the rows `used_U` replaced by the layer's output, and the gradients of both and of the gates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, gates_B1: Tensor, difference: Tensor, split: Split) -> Tensor:
        y = x.index_copy(0, split.used_U, output)
        # Both lie in memory anyway, as this layer's input and the next one's: no third tensor is kept for the used.
        ctx.save_for_backward(x, y, gates_B1, difference, split.used_U, split.skipped_S)
        ctx.weight = split.weight
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, None, None]:
        x, y, gates_B1, difference, used_U, skipped_S = ctx.saved_tensors
        of_used = dy.index_select(0, used_U)
        of_gates = torch.zeros_like(gates_B1)
        gained = y.index_select(0, used_U) - x.index_select(0, used_U)
        of_gates.index_copy_(0, used_U, _inner(of_used, gained).to(of_gates.dtype))
        drawn = ctx.weight * _inner(dy.index_select(0, skipped_S), difference)
        of_gates.index_copy_(0, skipped_S, drawn.to(of_gates.dtype))
        of_x = dy.index_fill(0, used_U, 0) if ctx.needs_input_grad[0] else None
        return of_x, of_used, of_gates, None, None


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """<left[b], right[b]>, [B, 1]; summed in float32 at least."""
    products = (left * right).flatten(1)
    return products.sum(1, keepdim=True, dtype=torch.promote_types(products.dtype, torch.float32))
