"""Low-rank deltas: what a gated linear layer learns is up @ down of rank r, as in LoRA.

The tuned weight is weight + up @ down, but the two are never summed while training: the pretrained weight gives one
product for all samples, and the gates scale the r numbers in between. Biases and LayerNorms keep full deltas.
Shape suffixes: B samples, S rows per sample, C components, N outputs, n outputs of one component, K inputs, R the
rank (and 1 more where the bias rides along).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_ft.errors import UserError
from adaptive_ft.gates import GateHolder
from adaptive_ft.layers import GatedLinear, LinearLeaf

MakeLinear = Callable[[nn.Linear, GateHolder, int, int, str], LinearLeaf]


def linear_form(delta_rank: int | None) -> MakeLinear:
    """What makes a `Linear` gated: with a full delta, or with one of this rank."""
    return GatedLinear.from_linear if delta_rank is None else partial(LowRankLinear.from_linear, rank=delta_rank)


class LowRankLinear(LinearLeaf):
    """y[b, c] = x[b] W_c^T + g[b, c] (x[b] down^T) up_c^T + bias, c running over the holder's columns `start:stop`.

    `x` is [B, ..., K]; the N outputs, and with them the rows of `up` [N, R], are split evenly over the components,
    which share `down` [R, K]. `up` starts at zero, `down` as a new `Linear` would. Costs 1 + R (K + N) / (K N)
    products forward and as much for the gradient of x; none of the size of the weight for what is trained. Raises
    ValueError as `GateHolder.read`. Source: Hu et al., arXiv:2106.09685 (without its constant factor alpha / r).
    """

    delta_up: nn.Parameter
    delta_down: nn.Parameter

    @classmethod
    def from_linear(cls, linear: nn.Linear, holder: GateHolder, start: int, stop: int, name: str, *, rank: int) -> Self:
        """Takes over the very parameters of `linear`, frozen from now on. `name` is for messages.

        Raises ValueError when the outputs cannot be split evenly over the components, and UserError for a rank that
        the weight cannot have.
        """
        if rank > min(linear.weight.shape):
            raise UserError(
                f"delta_rank is {rank}, but {name} has {linear.in_features} inputs and {linear.out_features} outputs: "
                f"take {min(linear.weight.shape)} or less, or leave it out for full deltas."
            )
        gated = cls(linear.get_parameter("weight"), linear.bias, holder, range(start, stop), name)
        gated.delta_up = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        gated.delta_down = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        nn.init.kaiming_uniform_(gated.delta_down, a=math.sqrt(5))
        return gated

    def delta(self) -> Tensor:
        """up @ down, in float32 or wider."""
        wide = torch.promote_types(self.delta_up.dtype, torch.float32)
        return self.delta_up.to(wide) @ self.delta_down.to(wide)

    def forward(self, x: Tensor) -> Tensor:
        gates_BC, _ = self.holder.read(self.start, self.stop, x.shape[0], self.name)
        hidden: Tensor = F.linear(x, self.delta_down)
        up: Tensor = self.delta_up
        if self.delta_bias is not None:
            # The bias is one more column of `up`, fed by a constant 1: its gate costs no pass over the outputs.
            hidden, up = F.pad(hidden, (0, 1), value=1.0), torch.cat([up, self.delta_bias.unsqueeze(1)], dim=1)
        y = F.linear(x, self.weight, self.bias)
        rows_BSN = y.reshape(len(y), -1, y.shape[-1])
        return add_gated(rows_BSN, hidden.reshape(len(y), -1, hidden.shape[-1]), gates_BC, up).view(y.shape)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.delta_up.shape[1]}"


def add_gated(y_BSN: Tensor, hidden_BSR: Tensor, gates_BC: Tensor, up_NR: Tensor) -> Tensor:
    """y[b, s, c] + g[b, c] hidden[b, s] up_c^T, [B, S, N].

    The hidden rows are gated, C times r numbers a row, and go through one batched product over the components: the
    backward keeps them and nothing of the size of y. One CPU core, float32, 32 samples of 56 rows, 768 -> 768, r 8,
    12 heads, a step in units of ordinary fine-tuning's: .81; by a block-diagonal `up` .94, by one `up` per sample
    .81 (which keeps more where a sample has fewer than 64 rows), gating the outputs .83 (which keeps all of them).
    """
    batch, num_rows, num_outputs = y_BSN.shape
    num_components = gates_BC.shape[1]
    gated_CBSR = hidden_BSR * gates_BC.to(hidden_BSR.dtype).t()[:, :, None, None]
    up_CnR = up_NR.unflatten(0, (num_components, -1))
    y_CMn = y_BSN.reshape(batch * num_rows, num_components, -1).transpose(0, 1)
    sum_CMn = torch.baddbmm(y_CMn, gated_CBSR.flatten(1, 2), up_CnR.transpose(1, 2))
    return sum_CMn.transpose(0, 1).reshape(batch, num_rows, num_outputs)
