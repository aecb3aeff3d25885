"""Gated operations: each sample of a batch uses pretrained or tuned weights, per component, by its 0/1 gates.

`plan_gates` partitions the gates of a step once; `gated_linear` and `gated_layer_norm` then compute only the selected
weights, and `gated_mix` mixes activations where weights cannot be selected. `reference` holds the same operations as
plain two-branch formulas, the truth the tests compare with. `use_path` demands one of the ways they can be computed,
else the fastest is taken and named in the log.
"""

from adaptive_ft_kernels import reference
from adaptive_ft_kernels.dispatch import path_on, use_path
from adaptive_ft_kernels.draws import Draws
from adaptive_ft_kernels.gated_linear import gated_linear
from adaptive_ft_kernels.gated_mix import gated_mix
from adaptive_ft_kernels.gated_norm import gated_layer_norm
from adaptive_ft_kernels.plan import FaultyGates, GatePlan, plan_gates

__all__ = [
    "Draws",
    "FaultyGates",
    "GatePlan",
    "gated_layer_norm",
    "gated_linear",
    "gated_mix",
    "path_on",
    "plan_gates",
    "reference",
    "use_path",
]
