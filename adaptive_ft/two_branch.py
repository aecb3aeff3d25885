"""A gated model that computes both branches: every module runs frozen and tuned, and the gates mix its outputs.

So does the original, after softmax (a head's context), after GELU (FFN in) and after LayerNorm (attention output, FFN
out). Without dropout the outputs are those of chosen weights, as the gates are 0 and 1; the gradients of the gates are
not the same: they hold the difference of two outputs, where chosen weights have its first-order form. In training each
branch draws its own dropout, as in the original, so that this difference holds that of two masks. A training step costs
5 products where chosen weights cost 3 + p (docs/method.md 1).

Shape suffixes: B samples, S rows of a sample, N outputs, C components.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_ft.errors import UserError
from adaptive_ft.gates import Columns, GateHolder
from adaptive_ft.models import Anatomy
from adaptive_ft.overlay import Overlay, check_bare, lay_over, lift
from adaptive_ft.strategies import Tying


class TwoBranchModule(Overlay):
    """g tuned(x) + (1 - g) frozen(x), the outputs split evenly over the components of the holder's `columns`.

    Where no gate gradient is asked for, the module runs once, with the weights that its gates choose. Of an attention,
    which may return its probabilities too, these are the frozen branch's. Raises ValueError as `GateHolder.read`.
    """

    holder: GateHolder
    columns: Columns
    name: str

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        batch = next(value.shape[0] for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        gates_BC, _ = self.holder.read(*self.columns, batch, self.name)
        if not (torch.is_grad_enabled() and gates_BC.requires_grad):
            return super().forward(*args, **kwargs)
        with self.holder.constant(*self.columns, 1.0):
            tuned = super().forward(*args, **kwargs)
        with self.holder.constant(*self.columns, 0.0):
            frozen = super().forward(*args, **kwargs)
        if isinstance(frozen, tuple):
            return _mixed(gates_BC, frozen[0], tuned[0]), *frozen[1:]
        return _mixed(gates_BC, frozen, tuned)


def mix_outputs(model: nn.Module, anatomy: Anatomy, holder: GateHolder) -> None:
    """Let the modules of a gated `model` compute both branches, in place; `check_two_branches` comes first."""
    for path, columns in _modules(anatomy).items():
        lay_over(model.get_submodule(path), TwoBranchModule, name=path, holder=holder, columns=columns)


def unmix_outputs(model: nn.Module) -> None:
    """Undo `mix_outputs`, in place; a model that mixes nothing stays as it is."""
    for module in model.modules():
        if isinstance(module, TwoBranchModule):
            lift(module)


def check_two_branches(model: nn.Module, anatomy: Anatomy, tying: Tying) -> None:
    """Refuse a model of which `mix_outputs` would not give the original's form.

    Raises:
        UserError: components share decisions (the original then mixes the outputs of whole layers or their halves);
            leaves of several components lie in one module; or the class's forward is not what runs in one.
    """
    if tying.index != tuple(range(len(anatomy.components))):
        raise UserError(
            f"two_branch gate gradients are those of one decision per component, and here {len(anatomy.components)}"
            f" components have {len(tying.decisions)} decisions: take strategy 'spottune', or leave them out."
        )
    modules = _modules(anatomy)
    leaves: defaultdict[str, set[Columns]] = defaultdict(set)
    for leaf in anatomy.leaves:
        leaves[_owner(leaf.path)].add((leaf.start, leaf.stop))
    for path in modules:
        if len(leaves[path]) > 1:
            raise UserError(
                f"{type(model).__name__} has no two_branch gate gradients: '{path}' holds leaves of several components,"
                " and the original mixes the outputs of whole modules. BERT and its kin, VL-BERT and LXMERT have them."
            )
        check_bare(model.get_submodule(path), TwoBranchModule, path)


def _modules(anatomy: Anatomy) -> dict[str, Columns]:
    """The modules that hold the leaves of one component, or of the heads of one attention: path and columns."""
    return {_owner(leaf.path): (leaf.start, leaf.stop) for leaf in anatomy.leaves}


def _owner(path: str) -> str:
    return path.rpartition(".")[0]


def _mixed(gates_BC: Tensor, frozen_BSN: Tensor, tuned_BSN: Tensor) -> Tensor:
    """In float32 at least: the gate gradient is the difference of two sums that are almost the same."""
    block = frozen_BSN.shape[-1] // gates_BC.shape[1]
    gates_B1N = gates_BC.repeat_interleave(block, dim=1).unsqueeze(1)
    wide = torch.promote_types(frozen_BSN.dtype, torch.float32)
    mixed_BSN = gates_B1N * tuned_BSN.to(wide) + (1 - gates_B1N) * frozen_BSN.to(wide)
    return mixed_BSN.to(frozen_BSN.dtype)
