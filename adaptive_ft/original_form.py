"""A gated model in the original's form: both copies of every module run, and the gates mix their outputs.

The original mixes after softmax (a head's context), after GELU (FFN in) and after LayerNorm (attention output, FFN
out). With gates of 0 and 1 the outputs are those of chosen weights; the gradients of the gates are not the same: they
hold the difference of two outputs, where chosen weights have its first-order form. A training step costs 5 products
instead of 3 (docs/method.md 1).

Shape suffixes: B samples, S rows of a sample, N outputs, C components.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_ft.errors import UserError
from adaptive_ft.gates import Columns, GateHolder
from adaptive_ft.models import Anatomy
from adaptive_ft.overlay import Overlay, lay_over, lift
from adaptive_ft.refusals import check_own_forward
from adaptive_ft.strategies import Tying


class MixedModule(Overlay):
    """g tuned(x) + (1 - g) frozen(x), the outputs split evenly over the components of the holder's `columns`.

    Where no gate gradient is asked for, the module runs once, with the weights that its gates choose. Of an attention,
    which may return its probabilities too, these are the frozen copy's. Raises ValueError as `GateHolder.read`.
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
    """Let the modules of a gated `model` mix the outputs of both their copies, in place.

    Raises UserError as `mixed_modules`, and for a module whose class's forward is not what runs; the model is then as
    it was.
    """
    columns = mixed_modules(anatomy)
    for path in columns:
        check_own_forward(model.get_submodule(path), path)
    for path, own in columns.items():
        lay_over(model.get_submodule(path), MixedModule, path, holder=holder, columns=own)


def choose_weights(model: nn.Module) -> None:
    """Undo `mix_outputs`, in place; a model that mixes nothing stays as it is."""
    for module in model.modules():
        if isinstance(module, MixedModule):
            lift(module)


def check_has_original_form(anatomy: Anatomy, tying: Tying) -> None:
    """Raises UserError unless every component has a decision of its own, and as `mixed_modules`."""
    if tying.index != tuple(range(len(anatomy.components))):
        raise UserError(
            "The original's form has other modules for each way of tying components to decisions; here it is that of"
            " one decision per component: take strategy 'spottune'."
        )
    mixed_modules(anatomy)


def mixed_modules(anatomy: Anatomy) -> dict[str, Columns]:
    """The modules that hold the leaves of one component, or of the heads of one attention: path and columns.

    Raises UserError for a module with leaves of several components: only BERT and its kin, VL-BERT and LXMERT have
    none.
    """
    columns = defaultdict(set)
    for leaf in anatomy.leaves:
        columns[leaf.path.rpartition(".")[0]].add((leaf.start, leaf.stop))
    shared = [path for path, found in columns.items() if len(found) > 1]
    if shared:
        raise UserError(
            f"This model has no original form: '{shared[0]}' holds leaves of several components, and the original mixes"
            " the outputs of whole modules. BERT and its kin, VL-BERT and LXMERT have one."
        )
    return {path: found.pop() for path, found in columns.items()}


def _mixed(gates_BC: Tensor, frozen_BSN: Tensor, tuned_BSN: Tensor) -> Tensor:
    block = frozen_BSN.shape[-1] // gates_BC.shape[1]
    gates_B1N = gates_BC.to(frozen_BSN.dtype).repeat_interleave(block, dim=1).unsqueeze(1)
    return gates_B1N * tuned_BSN + (1 - gates_B1N) * frozen_BSN
