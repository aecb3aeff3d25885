"""The table of `adaptive-ft inspect --memory`: bytes per rank under every kind of DeepSpeed config, and what they leave
of the devices' speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.engine.memory import ParameterSizes, rank_bytes
from adaptive_ft.engine.traffic import sent_bytes, step_traffic
from adaptive_ft.errors import UserError

HOST = {"device": "cpu"}
BUCKET = {"reduce_bucket_size": 50_000_000}  # as the ready configs have it; a test compares them
CONFIGS: dict[str, dict[str, Any]] = {
    "zero0": {"zero_optimization": {"stage": 0}},
    "zero1": {"zero_optimization": {"stage": 1, **BUCKET}},
    "bf16": {"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": "fp32"}},
    "zero2": {"zero_optimization": {"stage": 2, **BUCKET}},
    "zero3": {"zero_optimization": {"stage": 3, **BUCKET}},
    "zero2_offload": {"zero_optimization": {"stage": 2, **BUCKET, "offload_optimizer": HOST}},
    "zero3_offload": {"zero_optimization": {"stage": 3, **BUCKET, "offload_optimizer": HOST, "offload_param": HOST}},
}
KINDS = ("frozen", "trained", "gradients", "optimizer", "masters", "total", "transient", "device", "host")
COLUMNS = ("config", "precision", *KINDS, "sent")
UNITS = {"GiB": 2**30, "MiB": 2**20}
SMALL = 2**27
"""Bytes: a model that needs less in all is told of in MiB."""
LEGEND = (
    "{unit} per rank. total: all that is held at an update, without activations, which depend on the batch; transient:",
    "reduction buffer, and under ZeRO-3 the parameters whole at one time, at the most; device = total + transient -",
    "host; host: in the machine's memory with offloading. sent: what a rank sends per update.",
    "Formulas: adaptive_ft/engine/memory.py and traffic.py.",
)


@dataclass(frozen=True)
class Machine:
    """How fast ranks are assumed to be: `rows` (words, regions, patches) per rank and update, `tflops` that a device
    reaches on dense products, `link` GB/s that a rank sends.
    """

    rows: int
    tflops: float
    link: float

    def seconds(self, num_used: int, sent: int) -> tuple[float, float]:
        """Seconds of computing and of sending in an update.

        6 FLOPs for every row and parameter of the gated layers: forward, input and weight gradient, one weight of the
        two each; attention's own products, embeddings and the policy are left out.
        """
        return 6 * num_used * self.rows / (self.tflops * 1e12), sent / (self.link * 1e9)


PLAN_COLUMNS = ("compute s", "send s", "apart", "hidden")
PLAN_LEGEND = (
    "apart, hidden: share of the devices' speed that is left where no sending overlaps computing, and where all does",
    "that can under this config: ZeRO-3's; stages 0 to 2 of the ready configs send while nothing computes.",
)


def sizes_of(model: AdaptiveModel) -> ParameterSizes:
    """The sizes of a model's parameters, in the order in which the optimizer gets them; recomputed are those of the
    layers whose gradient checkpointing is on.
    """
    frozen = [parameter.numel() for parameter in model.parameters() if not parameter.requires_grad]
    groups = model.parameter_groups().items()
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    recomputed = {value for layer in layers if layer.gradient_checkpointing for value in layer.parameters()}
    return ParameterSizes(
        frozen,
        {name: [value.numel() for _, value in members] for name, members in groups},
        recomputed_frozen=[value.numel() for value in recomputed if not value.requires_grad],
        recomputed_trained=[value.numel() for value in recomputed if value.requires_grad],
    )


def overlapping(payloads: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, int]:
    """The payloads that DeepSpeed can move while it computes: all under stage 3, which overlaps unless told not to; of
    stages 1 and 2 with overlap_comm the reductions, not the gathering after the update; of stage 0 none.
    """
    zero = config["zero_optimization"]
    stage = zero["stage"]
    if not stage or not zero.get("overlap_comm", stage == 3):
        return {}
    return {kind: size for kind, size in payloads.items() if stage == 3 or kind == "all_reduce"}


def memory_lines(
    model: AdaptiveModel, world_size: int, micro_batches: int = 1, machine: Machine | None = None
) -> list[str]:
    """The table for `model` on `world_size` ranks that accumulate `micro_batches` in every update, with its legend;
    with a machine its expected efficiency too.

    Raises UserError for a number of ranks or micro-batches below 1.
    """
    for option, value in (("--world-size", world_size), ("--micro-batches", micro_batches)):
        if value < 1:
            raise UserError(f"{option} is {value}; it must be at least 1.")
    sizes = sizes_of(model)
    counts = f"{sizes.num_frozen:,} frozen and {sizes.num_trained:,} trained parameters, {world_size} ranks"
    unit = "GiB" if rank_bytes(sizes, CONFIGS["zero0"], "fp32", world_size).total >= SMALL else "MiB"
    rows = [
        (name, precision, *memory_cells(sizes, config, precision, world_size, micro_batches, machine, unit))
        for name, config in CONFIGS.items()
        for precision in ("fp32", "bf16")
        if name != "bf16" or precision == "bf16"
    ]
    columns = (*COLUMNS, *PLAN_COLUMNS) if machine else COLUMNS
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    table = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (columns, *rows)
    ]
    legend = [line.format(unit=unit) for line in LEGEND]
    whole = (sizes.num_frozen + sizes.num_trained) / UNITS[unit]
    start = f"start: the whole model is on every device before ZeRO-3 splits it, {4 * whole:.3f} {unit} fp32"
    return [counts, f"{start}, {2 * whole:.3f} {unit} bf16", "", *table, *legend, *(PLAN_LEGEND if machine else ())]


def memory_cells(
    sizes: ParameterSizes,
    config: Mapping[str, Any],
    precision: str,
    world_size: int,
    micro_batches: int,
    machine: Machine | None,
    unit: str,
) -> tuple[str, ...]:
    """One config's numbers, bytes in `unit`, with three decimals."""
    found = rank_bytes(sizes, config, precision, world_size)
    payloads = step_traffic(sizes, config, precision, world_size, micro_batches)
    sent = sent_bytes(payloads, world_size)
    counted = (*(getattr(found, kind) for kind in KINDS), sent)
    cells = tuple(f"{count / UNITS[unit]:.3f}" for count in counted)
    if machine is None:
        return cells
    computing, sending = machine.seconds(sizes.num_frozen or sizes.num_trained, sent)
    behind = sending * sent_bytes(overlapping(payloads, config), world_size) / max(sent, 1)
    apart = computing / (computing + sending)
    hidden = computing / (max(computing, behind) + sending - behind)
    return (*cells, f"{computing:.3f}", f"{sending:.3f}", f"{apart:.2f}", f"{hidden:.2f}")
