"""LXMERT's attention through PyTorch's fused scaled-dot-product attention.

transformers computes softmax(Q K^T / sqrt(d) + mask) V of LXMERT step by step and keeps every [B, H, Q, K]
table for the backward pass; the fused form keeps none where the device has a kernel for it. Shape suffixes:
B samples, H heads, Q and K rows of the two sides, D width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.lxmert.modeling_lxmert import LxmertAttention


class SdpaLxmertAttention(LxmertAttention):
    """LxmertAttention around the very projections of `attention`, computed by scaled_dot_product_attention.

    Same arguments, results and state dict. Where attention probabilities are asked for, and under dropout on a
    CPU, the parent computes it.
    """

    def __init__(self, attention: LxmertAttention) -> None:
        nn.Module.__init__(self)  # the parent's would make projections of its own
        self.num_attention_heads = attention.num_attention_heads
        self.attention_head_size = attention.attention_head_size
        self.head_size = attention.head_size
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.dropout = attention.dropout
        self.train(attention.training)

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        dropout = self.dropout.p if self.dropout.training else 0.0
        # CPUs have no fused kernel with dropout, and what PyTorch does instead is slower than transformers' steps:
        # 17.7 against 12.8 ms forward and backward (one core, 32 samples, 36 rows, 12 heads of 64).
        if output_attentions or (dropout and hidden_states.device.type == "cpu"):
            return super().forward(hidden_states, context, attention_mask, output_attentions)
        query_BHQD = self._by_head(self.query(hidden_states))
        if attention_mask is not None:
            query_BHQD, attention_mask = _with_finite_mask(query_BHQD, attention_mask)
        attended_BHQD = scaled_dot_product_attention(
            query_BHQD,
            self._by_head(self.key(context)),
            self._by_head(self.value(context)),
            attn_mask=attention_mask,
            dropout_p=dropout,
        )
        return (attended_BHQD.transpose(1, 2).flatten(2),)

    def _by_head(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.num_attention_heads, self.attention_head_size)).transpose(1, 2)


def use_sdpa(model: nn.Module) -> int:
    """Replace every LxmertAttention in `model` by its fused form, in place, and return how many there were.

    Weights and their names stay; outputs and gradients change in the last bits only. Forward hooks on the
    replaced modules are lost, so call it on a model just built.
    """
    found = [path for path, module in model.named_modules() if type(module) is LxmertAttention]
    for path in found:
        model.set_submodule(path, SdpaLxmertAttention(model.get_submodule(path)))
    return len(found)


def undo_sdpa(model: nn.Module) -> int:
    """Give every attention that `use_sdpa` has replaced in `model` transformers' own form back, around the same
    projections, and return how many there were.
    """
    found = [path for path, module in model.named_modules() if type(module) is SdpaLxmertAttention]
    for path in found:
        fused: SdpaLxmertAttention = model.get_submodule(path)  # type: ignore[assignment]
        plain = LxmertAttention.__new__(LxmertAttention)  # its __init__ would make projections of its own
        plain.__dict__ = fused.__dict__
        model.set_submodule(path, plain)
    return len(found)


def _with_finite_mask(query_BHQD: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Query and additive mask [B, 1, 1 or Q, K] that the fused kernels can work with, at the same result.

    LXMERT masks with the lowest float32, which 16 bits and a change to base 2 (times 1.44) turn into -inf:
    half the range is low enough. A row with nothing to attend to is the mean of all values, because that mask
    drowns the scores. There a kernel would save max + log(sum) = max and its backward would take every weight
    for 1 (pytorch/pytorch#110213 is kin): with the query and the whole mask at 0 the mean and its gradient to
    the values are right, and query and keys, on which the mean does not depend, get none.
    """
    lowest = torch.finfo(query_BHQD.dtype).min / 2
    mask = attention_mask.clamp(min=lowest).to(query_BHQD.dtype)
    highest = mask.amax(-1, keepdim=True)
    return query_BHQD * (highest > lowest), mask - highest
