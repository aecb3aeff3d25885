"""An adapted model in the original's form: both copies of every module run, and the gates mix their outputs.

The original mixes after softmax (a head's context), after GELU (FFN in) and after LayerNorm (attention output, FFN
out). With gates of 0 and 1 the outputs are those of the adapted model; the gradients of the gates are not the same:
they hold the difference of two outputs, where the adapted model has its first-order form. To compare the two.

Shape suffixes: B samples, S rows of a sample, N outputs, C components.
"""

import copy
from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.errors import UserError


class OriginalForm(nn.Module):
    """A copy of `model` in the original's form, for gates of its decisions; the model itself stays as it is.

    Raises UserError unless the strategy has one decision per component and each component's leaves are alone in a
    module of their own (BERT and its kin, VL-BERT, LXMERT).
    """

    def __init__(self, model: AdaptiveModel) -> None:
        super().__init__()
        if model.tying.index != tuple(range(len(model.components))):
            raise UserError(
                f"The original's form is compared decision by decision: it needs strategy 'spottune', not "
                f"'{model.config.strategy}'."
            )
        self.tying = model.tying
        self.base = copy.deepcopy(model).merge_and_unload("frozen")
        tuned = copy.deepcopy(model).merge_and_unload("tuned")
        self.mixed = []
        for path, (start, stop) in _modules(model).items():
            mixed = MixedOutputs(self.base.get_submodule(path), tuned.get_submodule(path), start, stop)
            self.base.set_submodule(path, mixed)
            self.mixed.append(mixed)
        self.eval()

    def forward(self, gates_BD: Tensor, **inputs: Any) -> Any:
        """The output of the base for gates [B, D], differentiable in them."""
        gates_BC = self.tying.expand(gates_BD)
        for mixed in self.mixed:
            mixed.gates_BC = gates_BC[:, mixed.start : mixed.stop]
        return self.base(**{**inputs, "return_dict": True})


class MixedOutputs(nn.Module):
    """g tuned(x) + (1 - g) frozen(x), the outputs split evenly over the components of the columns `start:stop`."""

    gates_BC: Tensor

    def __init__(self, frozen: nn.Module, tuned: nn.Module, start: int, stop: int) -> None:
        super().__init__()
        self.frozen, self.tuned, self.start, self.stop = frozen, tuned, start, stop

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The mixed output; of an attention, which returns its probabilities too, those of the frozen copy."""
        frozen, tuned = self.frozen(*inputs, **options), self.tuned(*inputs, **options)
        if isinstance(frozen, tuple):
            return self._mix(frozen[0], tuned[0]), *frozen[1:]
        return self._mix(frozen, tuned)

    def _mix(self, frozen_BSN: Tensor, tuned_BSN: Tensor) -> Tensor:
        block = frozen_BSN.shape[-1] // (self.stop - self.start)
        gates_B1N = self.gates_BC.repeat_interleave(block, dim=1).unsqueeze(1)
        return gates_B1N * tuned_BSN + (1 - gates_B1N) * frozen_BSN


def _modules(model: AdaptiveModel) -> dict[str, tuple[int, int]]:
    """The modules that hold the leaves of one component, or of the heads of one attention: path and columns."""
    columns = defaultdict(set)
    for leaf in model.anatomy.leaves:
        columns[leaf.path.rpartition(".")[0]].add((leaf.start, leaf.stop))
    shared = [path for path, found in columns.items() if len(found) > 1]
    if shared:
        raise UserError(
            f"{type(model.base).__name__} has no original form: '{shared[0]}' holds leaves of several components, and"
            " the original mixes the outputs of whole modules. BERT and its kin, VL-BERT and LXMERT have one."
        )
    return {path: found.pop() for path, found in columns.items()}
