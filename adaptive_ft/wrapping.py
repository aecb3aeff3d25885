"""Putting gated leaves into a model and taking them out again."""

from collections.abc import Sequence

from torch import Tensor, nn

from adaptive_ft.gates import GateHolder
from adaptive_ft.layers import GatedLayerNorm, GatedLeaf, GatedLinear
from adaptive_ft.low_rank import MakeLinear
from adaptive_ft.models import Leaf
from adaptive_ft.strategies import FROZEN


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
    a `Linear` gated (`linear_form`). A refusal of one leaf leaves all as they were.
    """
    gated: dict[str, nn.Module] = {}
    for leaf in leaves:
        module = model.get_submodule(leaf.path)
        module.requires_grad_(False)
        if any(index[column] != FROZEN for column in range(leaf.start, leaf.stop)):
            gated[leaf.path] = _gated(module, leaf, holder, make_linear)
    for path, module in gated.items():
        model.set_submodule(path, module)


def unwrap(model: nn.Module, leaves: Sequence[Leaf], tuned_C: Tensor) -> None:
    """Replace the gated leaves by plain ones, each component tuned (1) or as pretrained (0).

    All leaves train again afterwards, as in any model just loaded.
    """
    for leaf in leaves:
        module = model.get_submodule(leaf.path)
        if isinstance(module, GatedLeaf):
            model.set_submodule(leaf.path, module.to_plain(tuned_C[leaf.start : leaf.stop]))
        model.get_submodule(leaf.path).requires_grad_(True)


def _gated(module: nn.Module, leaf: Leaf, holder: GateHolder, make_linear: MakeLinear) -> nn.Module:
    """The gated form of a Linear or LayerNorm, around the same weight tensors."""
    if isinstance(module, nn.Linear):
        return make_linear(module, holder, leaf.start, leaf.stop, leaf.path)
    assert isinstance(module, nn.LayerNorm), f"{leaf.path} is a {type(module).__name__}"
    return GatedLayerNorm.from_layer_norm(module, holder, leaf.start, leaf.stop, leaf.path)
