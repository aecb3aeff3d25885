"""The bytes that `adaptive-ft inspect --memory` foretells are those that DeepSpeed's engines hold on two ranks."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adaptive_ft.commands.memory_table import sizes_of
from adaptive_ft.engine.deepspeed_engine import Engine
from adaptive_ft.engine.memory import padded_groups, rank_bytes, split_elements
from adaptive_ft.engine.ranks import Ranks
from tests.cluster.ranks_by_hand import on_ranks
from tests.cluster.small_runs import ZERO, ds_config_of, loss_of, make_engine, make_model

CASES = [
    *((f"zero{stage}", precision) for stage in range(4) for precision in ("fp32", "bf16")),
    *(("bf16", "bf16"), ("zero2_offload", "bf16"), ("zero3_offload", "fp32"), ("zero3_offload", "bf16")),
]
KINDS = ("frozen", "trained", "gradients", "optimizer", "masters")
# Where DeepSpeed 0.19 keeps what; no optimizer of its has all.
MASTERS = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition")
GRADIENTS = ("averaged_gradients", "grads_in_partition", "grad_partitions_flat_buffer", "fp32_groups_gradients_flat")
TO_AND_FRO = ("temp_grad_buffer_for_cpu_offload", "temp_grad_buffer_for_gpu_offload")
FLAGS = 16  # bytes of counts and norms that live beside a reduction
PROGRAM = """
import json, sys
from pathlib import Path
from adaptive_ft.engine.ranks import run_ranks
from tests.cluster.test_memory import CASES, measured
run_ranks(lambda ranks: Path(sys.argv[1], f"{ranks.rank}.json").write_text(
    json.dumps([measured(ranks, *case) for case in CASES])))
"""


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)


class InsideReductions(TorchDispatchMode):
    """Calls `look` before every all_reduce of gradients, with what is being reduced still in its buffer."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self.look = look

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.namespace == "c10d" and "allreduce" in operator.__name__ and args[0][0].numel() > 2:
            self.look()
        return operator(*args, **(kwargs or {}))


class Storages:
    """Sums the memory behind tensors, each piece only once."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def take(self, tensors: Iterable[Tensor]) -> int:
        pieces = {
            piece.data_ptr(): piece.nbytes()
            for piece in (tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu")
            if piece.nbytes() and piece.data_ptr() not in self.seen
        }
        self.seen |= pieces.keys()
        return sum(pieces.values())


def everything() -> list[Tensor]:
    gc.collect()  # a finished backward pass leaves cycles, whose end else depends on what else was allocated
    return [found for found in gc.get_objects() if issubclass(type(found), Tensor)]


def held(engine: Engine, before: Storages) -> dict[str, int]:
    """Bytes by kind, and the `rest` that is in no kind: the batch, the gates, counters."""
    storages, optimizer, parameters = Storages(), engine.deepspeed.optimizer, list(engine.module.parameters())
    masters = [*tensors_in([getattr(optimizer, name, []) for name in MASTERS])]
    masters += tensors_in(getattr(optimizer, "fp32_groups", []))
    returning = getattr(optimizer, "param_buffer_of_bit16_for_cpu_offload_groups", [])
    parts = {is_trained: [p for p in parameters if p.requires_grad == is_trained] for is_trained in (False, True)}
    sums = {
        "frozen": storages.take(getattr(p, "ds_tensor", p) for p in parts[False]),
        "trained": storages.take([*(getattr(p, "ds_tensor", p) for p in parts[True]), *tensors_in(returning)]),
        "optimizer": storages.take(
            value for value in tensors_in(list(engine.deepspeed.basic_optimizer.state.values())) if value.dim()
        ),
        "masters": storages.take(masters),
    }
    gradients = [value.grad for value in (*parameters, *masters) if value.grad is not None]
    gradients += tensors_in([getattr(optimizer, name, None) for name in GRADIENTS])
    sums["gradients"] = storages.take(gradients)
    buckets = getattr(optimizer, "ipg_buckets", {}).values()
    sums["bucket"] = storages.take(tensors_in([bucket.buffer for bucket in buckets]))
    sums["to_and_fro"] = storages.take(tensors_in([getattr(optimizer, name, None) for name in TO_AND_FRO]))
    sums["whole"] = storages.take(parameters)
    storages.seen |= before.seen
    return {**sums, "rest": storages.take(everything())}


def measured(ranks: Ranks, name: str, precision: str) -> dict[str, Any]:
    """What three updates under a ready config hold, at the fullest moment of the third, and what was foretold."""
    before = Storages()
    before.take(everything())
    model = make_model()
    sizes, ds_config = sizes_of(model), ds_config_of(name, precision, ranks.world_size)
    engine = make_engine(model, ds_config, ranks)
    moments: list[dict[str, int]] = []
    # The update is under way: with gradients, and with their float32 copies.
    reducing: list[dict[str, int]] = []
    losses = []
    for number in range(3):
        loss = loss_of(engine)
        with InsideReductions(lambda: reducing.append(held(engine, before))) if number == 2 else nullcontext():
            engine.backward(loss)
        if number == 2:
            moments.append(held(engine, before))
            engine.deepspeed.basic_optimizer.register_step_pre_hook(lambda *_: moments.append(held(engine, before)))
        engine.step()
        losses.append(loss.item())
    foretold = rank_bytes(sizes, ds_config, precision, ranks.world_size)
    return {
        "held": {kind: max(moment[kind] for moment in moments) for kind in moments[0]},
        "copied": [moment["rest"] - moments[0]["rest"] for moment in reducing],
        "reducing": [sum(moment.values()) - moments[0]["rest"] for moment in reducing],
        "num_trained": sizes.num_trained,
        "padded": sum(padded_groups(sizes, ranks.world_size)),
        "largest": max(sizes.trained_flat),
        "after": held(engine, before),
        "foretold": {kind: getattr(foretold, kind) for kind in (*KINDS, "transient")},
        "losses": losses,
        "frozen_elements": [sizes.num_frozen, split_elements(sizes.frozen, ranks.world_size)],
        "small": sum(size for size in (*sizes.frozen, *sizes.trained_flat) if size <= 30),
        "width": engine.dtype.itemsize,
    }


@pytest.fixture(scope="module")
def two_ranks(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, environment: dict[str, str]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By case what each rank found; one start of the ranks for all."""
    told = on_ranks(PROGRAM, 2, tmp_path_factory.mktemp("memory"), repository, environment)
    return {case: [rank[number] for rank in told] for number, case in enumerate(CASES)}


@pytest.mark.launch
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_is_foretold_is_what_is_held(case: tuple[str, str], two_ranks: Any) -> None:
    """Byte by byte, the padding included, for the fullest rank; and no memory lies anywhere else."""
    found = two_ranks[case]
    for kind in KINDS:
        fullest = max(rank["held"][kind] for rank in found)
        assert fullest == found[0]["foretold"][kind], (kind, fullest)
    for rank in found:
        assert rank["held"]["rest"] < 0.05 * sum(rank["foretold"][kind] for kind in KINDS)
        transient = rank["held"]["bucket"] + rank["held"]["whole"]
        assert transient <= rank["foretold"]["transient"]
        if case[0].startswith("zero3"):
            assert rank["held"]["bucket"] == rank["width"] * ZERO["reduce_bucket_size"]
        assert rank["losses"][-1] < rank["losses"][0], "three updates that help"


@pytest.mark.launch
@pytest.mark.parametrize("case", [case for case in CASES if not case[0].startswith("zero3")], ids="-".join)
def test_a_reduction_copies_what_it_sends(case: tuple[str, str], two_ranks: Any) -> None:
    """Looked at inside the all_reduce: a flat copy of all gradients, in bf16.json in float32 and in bfloat16; with it
    no rank holds more than was foretold, and without ZeRO in float32 or in bf16.json exactly that.
    """
    name, _ = case
    for rank in two_ranks[case]:
        copy = 6 * rank["padded"] if name == "bf16" else rank["width"] * rank["num_trained"]
        assert max(rank["copied"]) <= copy + FLAGS
        if name != "zero2_offload":  # there the moment after the backward pass holds a little more beside
            assert copy <= max(rank["copied"])
        most = sum(rank["foretold"].values())
        assert max(rank["reducing"]) <= most + FLAGS
        if name == "bf16" or case == ("zero0", "fp32"):
            assert max(rank["reducing"]) >= most
        to_and_fro = 2 * rank["width"] * rank["largest"] if name == "zero2_offload" else 0
        assert rank["held"]["to_and_fro"] == to_and_fro


@pytest.mark.launch
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stage_3_splits_the_frozen_half_too(precision: str, two_ranks: Any) -> None:
    """Each of two ranks holds half of it; only parameters of at most 30 elements are whole after an update."""
    width = 4 if precision == "fp32" else 2
    for rank in two_ranks["zero3", precision]:
        num_frozen, half = rank["frozen_elements"]
        assert rank["held"]["frozen"] == width * half
        assert half == num_frozen / 2
        assert rank["after"]["whole"] == width * rank["small"]
    for rank in two_ranks["zero2", precision]:
        assert rank["held"]["frozen"] == width * rank["frozen_elements"][0]
