"""Gated operations: each sample of a batch uses pretrained or tuned weights, per component, by its 0/1 gates.

`plan_gates` reads a batch of gates once; `gated_linear` and `gated_layer_norm` then compute only the selected
weights. `reference` holds the same operations as plain two-branch formulas, the truth the tests compare with.
"""

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.gated_linear import gated_linear
from adaptive_ft_kernels.gated_norm import gated_layer_norm
from adaptive_ft_kernels.plan import GatePlan, Piece, plan_gates

__all__ = ["GatePlan", "Piece", "gated_layer_norm", "gated_linear", "plan_gates", "reference"]
