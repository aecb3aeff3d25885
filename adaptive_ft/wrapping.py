"""Putting gates into a model and taking them out again: at the leaves of its layers, or around whole layers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from adaptive_ft.bypass import BypassBlock, bypass
from adaptive_ft.errors import UserError
from adaptive_ft.gates import GateHolder
from adaptive_ft.layers import GatedLayerNorm, GatedLeaf, GatedLinear
from adaptive_ft.low_rank import MakeLinear, linear_form
from adaptive_ft.models import Anatomy, Leaf
from adaptive_ft.models.config_sizes import resize
from adaptive_ft.overlay import check_bare, lift
from adaptive_ft.refusals import check_leaf
from adaptive_ft.strategies import BLOCK, FROZEN, Tying
from adaptive_ft.two_branch import check_two_branches, mix_outputs, unmix_outputs

# With it transformers' `init_weights` passes a module over; a new module without it would get random weights there.
INITIALISED = "_is_hf_initialized"
GateGradient = Literal["first_order", "two_branch"]


class Gating(Protocol):
    """How a strategy's gates stand in a model; `with_deltas` are the paths of the modules that get a delta."""

    with_deltas: frozenset[str]

    def frozen_weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The weights of a plain `model` that never train, by name."""

    def wrap(self, model: nn.Module, holder: GateHolder) -> None:
        """Gate `model` in place; the gates are found in `holder`."""

    def unload(self, model: nn.Module) -> None:
        """Make `model` plain again, in place and as pretrained where a pretrained half was kept."""

    def merge(self, model: nn.Module, gates_C: Tensor) -> None:
        """Make `model` plain, in place and with what the gates choose."""


def is_gated(model: nn.Module) -> bool:
    """Whether some gate stands in `model`."""
    return any(isinstance(module, GatedLeaf | BypassBlock) for module in model.modules())


def gating(anatomy: Anatomy, tying: Tying, delta_rank: int | None, gate_gradient: GateGradient) -> Gating:
    """The gating of a strategy's unit. Raises UserError for a rank of deltas where there are none."""
    if gate_gradient == "two_branch":
        return InTwoBranches(anatomy, tying, linear_form(delta_rank))
    if tying.unit is not BLOCK:
        return AtLeaves(anatomy, tying, linear_form(delta_rank))
    if delta_rank is not None:
        raise UserError(
            f"delta_rank {delta_rank} has no meaning for a strategy that trains the layers themselves; leave it out."
        )
    return AtBlocks(anatomy)


class AtLeaves:
    """Gates that choose each leaf's weights, pretrained or tuned."""

    def __init__(self, anatomy: Anatomy, tying: Tying, make_linear: MakeLinear) -> None:
        self.anatomy, self.tying, self.make_linear = anatomy, tying, make_linear
        self.with_deltas = frozenset(leaf.path for leaf in anatomy.leaves)

    def frozen_weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Every weight of the layers."""
        return self.anatomy.frozen_weights(model)

    def wrap(self, model: nn.Module, holder: GateHolder) -> None:
        """Gated leaves where something may be tuned."""
        wrap(model, self.anatomy.leaves, self.tying.index, holder, self.make_linear)

    def unload(self, model: nn.Module) -> None:
        """Every leaf as pretrained."""
        self.merge(model, torch.zeros(len(self.anatomy.components)))

    def merge(self, model: nn.Module, gates_C: Tensor) -> None:
        """Each component tuned (1) or as pretrained (0)."""
        unwrap(model, self.anatomy.leaves, gates_C)


class InTwoBranches(AtLeaves):
    """Gates at leaves, in modules that compute both branches while a gate gradient is asked for."""

    def wrap(self, model: nn.Module, holder: GateHolder) -> None:
        """Gated leaves, in the modules that the original mixes. A refusal leaves all as it was."""
        check_two_branches(model, self.anatomy, self.tying)
        super().wrap(model, holder)
        mix_outputs(model, self.anatomy, holder)

    def merge(self, model: nn.Module, gates_C: Tensor) -> None:
        """Each component tuned (1) or as pretrained (0), in plain modules."""
        unmix_outputs(model)
        super().merge(model, gates_C)


class AtBlocks:
    """Gates that let each sample use or skip whole layers, of which there is one copy, and all of it trains."""

    with_deltas: frozenset[str] = frozenset()

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy

    def frozen_weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def wrap(self, model: nn.Module, holder: GateHolder) -> None:
        """Every layer may be skipped. A refusal of one layer leaves all as they were."""
        for block in self.anatomy.blocks:
            check_bare(model.get_submodule(block.path), BypassBlock, block.path)
        for block in self.anatomy.blocks:
            bypass(model.get_submodule(block.path), holder, block.column, tuple(block.streams), block.path)

    def unload(self, model: nn.Module) -> None:
        """Every layer with the weights it has now."""
        for block in self.anatomy.blocks:
            lift(model.get_submodule(block.path))

    def merge(self, model: nn.Module, gates_C: Tensor) -> None:
        """Without the layers that are skipped (0), and with their number in the config.

        Raises UserError when a stream of the model would be left without any layer.
        """
        kept = [block for block in self.anatomy.blocks if gates_C[block.column]]
        streams = {stream for block in self.anatomy.blocks for stream in block.streams.values()}
        bare = streams - {stream for block in kept for stream in block.streams.values()}
        if bare:
            raise UserError(f"no layer would be left for {', '.join(sorted(bare))}; keep at least one.")
        self.unload(model)
        for block in reversed(self.anatomy.blocks):
            if block not in kept:
                stack, _, number = block.path.rpartition(".")
                layers: Any = model.get_submodule(stack)
                del layers[int(number)]
        sizes = {block.counted_by: 0 for block in self.anatomy.blocks}
        for block in kept:
            sizes[block.counted_by] += 1
        resize(self.anatomy.backbone(model).config, sizes)


def wrap(
    model: nn.Module,
    leaves: Sequence[Leaf],
    index: Sequence[int],
    holder: GateHolder,
    make_linear: MakeLinear = GatedLinear.from_linear,
) -> None:
    """Freeze all `leaves` of `model` and replace those that may be tuned by gated ones.

    holder: where the gated leaves find their gates. index: one entry per component, as in `Tying.index`. A
    leaf whose components are all FROZEN stays plain: it needs neither a delta nor a gate. make_linear: what makes
    a `Linear` gated (`linear_form`). Raises UserError for a leaf that is not a plain one; then no module has been
    replaced.
    """
    gated: dict[str, nn.Module] = {}
    for leaf in leaves:
        module = model.get_submodule(leaf.path)
        module.requires_grad_(False)
        if any(index[column] != FROZEN for column in range(leaf.start, leaf.stop)):
            gated[leaf.path] = _gated(module, leaf, holder, make_linear)
    for path, module in gated.items():
        _replace(model, path, module)


def unwrap(model: nn.Module, leaves: Sequence[Leaf], tuned_C: Tensor) -> None:
    """Replace the gated leaves by plain ones, each component tuned (1) or as pretrained (0).

    All leaves train again afterwards, as in any model just loaded.
    """
    for leaf in leaves:
        module = model.get_submodule(leaf.path)
        if isinstance(module, GatedLeaf):
            _replace(model, leaf.path, module.to_plain(tuned_C[leaf.start : leaf.stop]))
        model.get_submodule(leaf.path).requires_grad_(True)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module`, which has its weights, into the place `path` of `model`."""
    setattr(module, INITIALISED, True)
    model.set_submodule(path, module)


def _gated(module: nn.Module, leaf: Leaf, holder: GateHolder, make_linear: MakeLinear) -> nn.Module:
    """The gated form of a Linear or LayerNorm, around the same weight tensors."""
    if isinstance(module, nn.Linear):
        check_leaf(module, nn.Linear, leaf.path)
        return make_linear(module, holder, leaf.start, leaf.stop, leaf.path)
    check_leaf(module, nn.LayerNorm, leaf.path)
    assert isinstance(module, nn.LayerNorm)
    return GatedLayerNorm.from_layer_norm(module, holder, leaf.start, leaf.stop, leaf.path)
