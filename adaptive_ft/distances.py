"""How far each component's weights have moved from the pretrained ones.

Shapes: C components.
"""

import torch
from torch import Tensor

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.layers import GatedLeaf
from adaptive_ft.strategies import LEAF


def component_distances(model: AdaptiveModel) -> Tensor | None:
    """||delta_c|| / ||W_c||, float64 [C] on the CPU: Euclidean norms over all weights and biases of a component.

    0 for a component the strategy keeps frozen; None for a strategy that keeps no pretrained half (blockdrop).
    """
    if model.tying.unit is not LEAF:
        return None
    moved_C, before_C = torch.zeros(2, len(model.components), dtype=torch.float64)
    with torch.no_grad():
        for leaf in model.modules():
            if not isinstance(leaf, GatedLeaf):
                continue
            own = slice(leaf.start, leaf.stop)
            moved_C[own] += _squares(leaf.delta(), leaf)
            before_C[own] += _squares(leaf.weight, leaf)
            if leaf.bias is not None and leaf.delta_bias is not None:
                moved_C[own] += _squares(leaf.delta_bias, leaf)
                before_C[own] += _squares(leaf.bias, leaf)
    return (moved_C / before_C.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()


def _squares(tensor: Tensor, leaf: GatedLeaf) -> Tensor:
    """Sums of squares over the rows of each of the leaf's components, float64 on the CPU."""
    return tensor.detach().double().cpu().reshape(leaf.stop - leaf.start, -1).square().sum(dim=1)
