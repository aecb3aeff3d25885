"""The gated mix of two activations in PyTorch.

Shape suffixes: B samples, S rows per sample, C components, N features.
"""

import torch
from torch import Tensor


def forward(tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor) -> Tensor:
    """frozen + g (tuned - frozen), [B, S, N] in the dtype of the inputs."""
    tuned, frozen, gates = _by_component(tuned_BSN, frozen_BSN, gates_BC)
    # lerp starts from the nearer end, so that gates of 0 and 1 give that end exactly.
    return torch.lerp(frozen, tuned, gates).flatten(2).to(tuned_BSN.dtype)


def backward(
    grad_BSN: Tensor, tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of tuned, of frozen, and of the gates [B, C] in float32 or wider."""
    tuned, frozen, gates = _by_component(tuned_BSN, frozen_BSN, gates_BC)
    grad = grad_BSN.unflatten(2, tuned.shape[2:])
    of_tuned, of_frozen = (grad * gates).to(grad_BSN.dtype), (grad * (1 - gates)).to(grad_BSN.dtype)
    return of_tuned.flatten(2), of_frozen.flatten(2), (tuned - frozen).mul_(grad).sum((1, 3))


def _by_component(tuned_BSN: Tensor, frozen_BSN: Tensor, gates_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both activations as [B, S, C, block] and the gates as [B, 1, C, 1], in float32 or wider."""
    dtype = torch.promote_types(tuned_BSN.dtype, torch.float32)
    num_components = gates_BC.shape[1]
    shape = (num_components, tuned_BSN.shape[2] // num_components)
    tuned, frozen = (x.to(dtype).unflatten(2, shape) for x in (tuned_BSN, frozen_BSN))
    return tuned, frozen, gates_BC.to(dtype)[:, None, :, None]
