"""Layer norm with gated scale and shift as Triton kernels: each tensor is read and written once.

One program holds whole rows in registers. All tensors but the gates are contiguous.

Shape suffixes: B samples, S rows per sample, D features, P programs.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from adaptive_ft_kernels.triton_path.tiles import CAPABILITIES, CompiledForm, launching_on

# A warp holds 256 features of a row or two: the backward then needs at most 128 registers, so that 16 warps run on one
# multiprocessor, and the sums over a tile's rows stay within a thread.
WARP_FEATURES = 256
MOST_WARPS = 16
WIDEST = MOST_WARPS * WARP_FEATURES
INTERPRETED_PROGRAMS = 3


def forward(
    x_BSD: Tensor,
    residual_BSD: Tensor | None,
    gates_B1: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """y in `dtype`, x + residual rounded to their common dtype (None without a residual), mean and 1 / deviation."""
    batch, rows_per_sample, num_features = x_BSD.shape
    num_rows = batch * rows_per_sample
    y_BSD = torch.empty_like(x_BSD, dtype=dtype)
    sum_BSD = None
    if residual_BSD is not None:
        sum_BSD = torch.empty_like(x_BSD, dtype=torch.promote_types(x_BSD.dtype, residual_BSD.dtype))
    mean_BS, rstd_BS = (x_BSD.new_empty(batch, rows_per_sample, dtype=torch.float32) for _ in range(2))
    rows, features, num_warps = tile(num_features)
    with launching_on(x_BSD):
        _forward[(triton.cdiv(num_rows, rows),)](
            *(x_BSD, residual_BSD, gates_B1, weight_D, bias_D, delta_weight_D, delta_bias_D),
            *(y_BSD, sum_BSD, mean_BS, rstd_BS),
            num_rows=num_rows,
            rows_per_sample=rows_per_sample,
            num_features=num_features,
            gate_stride=gates_B1.stride(0),
            eps=eps,
            ROWS=rows,
            FEATURES=features,
            num_warps=num_warps,
        )
    return y_BSD, sum_BSD, mean_BS, rstd_BS


def backward(
    grad_BSD: Tensor,
    sum_BSD: Tensor,
    mean_BS: Tensor,
    rstd_BS: Tensor,
    gates_B1: Tensor,
    weight_D: Tensor,
    delta_weight_D: Tensor,
    delta_bias_D: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the sum (in its dtype), of the gates [B, 1] in float32, of delta_weight and delta_bias."""
    batch, rows_per_sample, num_features = sum_BSD.shape
    num_rows = batch * rows_per_sample
    rows, features, num_warps = tile(num_features)
    num_tiles = triton.cdiv(num_rows, rows)
    num_programs = min(num_tiles, most_programs(sum_BSD.device, num_warps))
    of_sum_BSD = torch.empty_like(sum_BSD)
    of_gates_BS = torch.empty_like(mean_BS)
    of_weight_PD, of_bias_PD = mean_BS.new_empty(2, num_programs, num_features)
    with launching_on(sum_BSD):
        _backward[(num_programs,)](
            *(grad_BSD, sum_BSD, mean_BS, rstd_BS, gates_B1, weight_D, delta_weight_D, delta_bias_D),
            *(of_sum_BSD, of_gates_BS, of_weight_PD, of_bias_PD),
            num_rows=num_rows,
            rows_per_sample=rows_per_sample,
            num_features=num_features,
            gate_stride=gates_B1.stride(0),
            num_tiles=num_tiles,
            num_programs=num_programs,
            ROWS=rows,
            FEATURES=features,
            num_warps=num_warps,
        )
    return (
        of_sum_BSD,
        of_gates_BS.sum(1, keepdim=True),
        of_weight_PD.sum(0).to(delta_weight_D.dtype),
        of_bias_PD.sum(0).to(delta_bias_D.dtype),
    )


def tile(num_features: int) -> tuple[int, int, int]:
    """Rows and features of a tile, powers of two, and its warps.

    Raises ValueError for rows that are too wide for the registers of one program.
    """
    if num_features > WIDEST:
        raise ValueError(
            f"the Triton layer norm takes at most {WIDEST} features, not {num_features}; "
            "ADAPTIVE_FT_KERNELS=torch has no such limit"
        )
    features = max(WARP_FEATURES, triton.next_power_of_2(num_features))
    num_warps = features // WARP_FEATURES
    return 2 if num_warps < MOST_WARPS else 1, features, num_warps


@cache
def most_programs(device: torch.device, num_warps: int) -> int:
    """How many programs of the backward run at the same time; it fixes the order of the sums over rows."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return MOST_WARPS // num_warps * torch.cuda.get_device_properties(device).multi_processor_count


# Neither the batch nor the column that a layer has in the gates of a step shall compile another form.
@triton.jit(do_not_specialize=["gates", "num_rows", "rows_per_sample", "gate_stride"])
def _forward(
    x, residual, gates, weight, bias, delta_weight, delta_bias,
    y, summed, mean, rstd,
    num_rows, rows_per_sample, num_features, gate_stride, eps,
    ROWS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """`residual` and `summed` are both None or both there."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    feature = tl.arange(0, FEATURES)
    in_rows = row < num_rows
    in_features = feature < num_features
    inside = in_rows[:, None] & in_features[None, :]
    place = row.to(tl.int64)[:, None] * num_features + feature[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        # The backward sees the rounded sum, as PyTorch's addition leaves it.
        rounded = value.to(summed.dtype.element_ty)
        tl.store(summed + place, rounded, mask=inside)
        value = rounded.to(tl.float32)
    gate = tl.load(gates + row // rows_per_sample * gate_stride, mask=in_rows, other=0).to(tl.float32)
    tuned = (gate != 0)[:, None]
    row_mean = tl.sum(value, 1) / num_features
    centred = tl.where(inside, value - row_mean[:, None], 0.0)
    row_rstd = tl.rsqrt(tl.sum(centred * centred, 1) / num_features + eps)
    scale = _selected(
        tl.load(weight + feature, mask=in_features, other=0.0).to(tl.float32),
        tl.load(delta_weight + feature, mask=in_features, other=0.0).to(tl.float32),
        tuned,
        weight.dtype.element_ty,
    )
    shift = _selected(
        tl.load(bias + feature, mask=in_features, other=0.0).to(tl.float32),
        tl.load(delta_bias + feature, mask=in_features, other=0.0).to(tl.float32),
        tuned,
        bias.dtype.element_ty,
    )
    result = centred * row_rstd[:, None] * scale + shift
    tl.store(y + place, result.to(y.dtype.element_ty), mask=inside)
    tl.store(mean + row, row_mean, mask=in_rows)
    tl.store(rstd + row, row_rstd, mask=in_rows)


@triton.jit(do_not_specialize=["gates", "num_rows", "rows_per_sample", "gate_stride", "num_tiles", "num_programs"])
def _backward(
    grad, summed, mean, rstd, gates, weight, delta_weight, delta_bias,
    of_sum, of_gates, of_weight, of_bias,
    num_rows, rows_per_sample, num_features, gate_stride, num_tiles, num_programs,
    ROWS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Every `num_programs`-th row tile; the delta gradients of its tuned rows go to this program's own partial sum."""
    feature = tl.arange(0, FEATURES)
    in_features = feature < num_features
    frozen_scale = tl.load(weight + feature, mask=in_features, other=0.0).to(tl.float32)
    delta_scale = tl.load(delta_weight + feature, mask=in_features, other=0.0).to(tl.float32)
    delta_shift = tl.load(delta_bias + feature, mask=in_features, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((FEATURES,), tl.float32)
    bias_sum = tl.zeros((FEATURES,), tl.float32)
    for index in range(tl.program_id(0), num_tiles, num_programs):
        row = index * ROWS + tl.arange(0, ROWS)
        in_rows = row < num_rows
        inside = in_rows[:, None] & in_features[None, :]
        place = row.to(tl.int64)[:, None] * num_features + feature[None, :]
        slope = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(summed + place, mask=inside, other=0.0).to(tl.float32)
        row_mean = tl.load(mean + row, mask=in_rows, other=0.0)[:, None]
        row_rstd = tl.load(rstd + row, mask=in_rows, other=0.0)[:, None]
        gate = tl.load(gates + row // rows_per_sample * gate_stride, mask=in_rows, other=0).to(tl.float32)
        tuned = (gate != 0)[:, None]
        normed = tl.where(inside, (value - row_mean) * row_rstd, 0.0)
        of_gate = tl.sum(slope * (normed * delta_scale[None, :] + delta_shift[None, :]), 1)
        tl.store(of_gates + row, of_gate, mask=in_rows)
        scaled = slope * _selected(frozen_scale, delta_scale, tuned, weight.dtype.element_ty)
        along = tl.sum(scaled * normed, 1)[:, None] / num_features
        level = tl.sum(scaled, 1)[:, None] / num_features
        of_value = (scaled - normed * along - level) * row_rstd
        tl.store(of_sum + place, of_value.to(of_sum.dtype.element_ty), mask=inside)
        tuned_slope = tl.where(tuned, slope, 0.0)
        weight_sum += tl.sum(tuned_slope * normed, 0)
        bias_sum += tl.sum(tuned_slope, 0)
    partial = tl.program_id(0) * num_features + feature
    tl.store(of_weight + partial, weight_sum, mask=in_features)
    tl.store(of_bias + partial, bias_sum, mask=in_features)


@triton.jit
def _selected(frozen_D, delta_D, tuned, stored: tl.constexpr):
    """The parameter of every row, [rows, D] in float32; a tuned one rounded once, as it would be stored."""
    return (frozen_D[None, :] + tl.where(tuned, delta_D[None, :], 0.0)).to(stored).to(tl.float32)


def compiled_forms() -> Iterator[CompiledForm]:
    """Every dtype (of x, and of the parameters and y) at the width of base models, and every width.

    All widths but the widest give a thread the same work. Rows that are no multiple of 16 long are loaded number by
    number.
    """
    dtypes = [("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16"), ("bf16", "fp32"), ("fp16", "fp32")]
    widths = [256, 512, 2048, WIDEST, 1023, WIDEST - 1]
    cases = [*((1024, *pair) for pair in dtypes), *((width, "bf16", "fp32") for width in widths)]
    for capability in CAPABILITIES:
        for width, x, parameter in cases:
            yield _form(_forward, capability, width, x, parameter, residual=True)
            yield _form(_backward, capability, width, x, parameter, residual=True)
        for x, parameter in dtypes:
            yield _form(_forward, capability, 1024, x, parameter, residual=False)


def _form(kernel: Any, capability: int, width: int, x: str, parameter: str, *, residual: bool) -> CompiledForm:
    parameters = ("weight", "bias", "delta_weight", "delta_bias", "y", "grad")
    numbers = ("mean", "rstd", "gates", "of_gates", "of_weight", "of_bias")
    integers = ("num_rows", "rows_per_sample", "num_features", "gate_stride", "num_tiles", "num_programs")
    types = {
        **dict.fromkeys(("x", "residual", "summed", "of_sum"), f"*{x}"),
        **dict.fromkeys(parameters, f"*{parameter}"),
        **dict.fromkeys(numbers, "*fp32"),
        **dict.fromkeys(integers, "i32"),
        "eps": "fp32",
    }
    rows, features, num_warps = tile(width)
    constants: dict[str, Any] = {"ROWS": rows, "FEATURES": features}
    if not residual:
        constants |= {"residual": None, "summed": None}
    return CompiledForm(
        name=f"norm{kernel.__name__}{'' if residual else '-alone'}-{x}-{parameter}-{width}",
        kernel=kernel,
        signature={name: types[name] for name in kernel.arg_names if name not in constants},
        constants=constants,
        capability=capability,
        num_warps=num_warps,
        num_stages=3,
        aligned=("num_features",) if width % 16 == 0 else (),
        tensor_cores=False,
    )
