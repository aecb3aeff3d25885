"""The formulas of memory at points that can be worked out by hand; real engines are in tests/cluster/test_memory.py."""

from typing import Any

import pytest

from adaptive_ft.engine.memory import ParameterSizes, padded_groups, rank_bytes, touched_elements

SIZES = ParameterSizes(frozen=[100, 60], trained={"delta": [100, 60], "policy": [10]})


def config(stage: int, **zero: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage, "reduce_bucket_size": 1000, **zero}}


def test_without_zero_every_rank_holds_everything() -> None:
    """160 frozen and 170 trained parameters; AdamW keeps two numbers for each, bf16 a master copy besides."""
    plain, half = (rank_bytes(SIZES, config(0), precision, 8) for precision in ("fp32", "bf16"))
    assert (plain.frozen, plain.trained, plain.gradients, plain.optimizer, plain.masters) == (640, 680, 680, 1360, 0)
    assert (half.frozen, half.trained, half.gradients, half.optimizer, half.masters) == (320, 340, 1020, 1360, 680)


def test_stages_1_and_2_split_what_the_optimizer_owns() -> None:
    """Groups are filled up to 160 and 16 elements on 8 ranks; the frozen half stays whole."""
    assert padded_groups(SIZES, 8) == [160, 16]
    found = rank_bytes(SIZES, config(2), "bf16", 8)
    assert (found.frozen, found.trained) == (320, 2 * 176)
    assert (found.optimizer, found.masters) == (8 * 22, 4 * 22)
    assert found.transient == 2 * 1000 + 2 * 170
    assert rank_bytes(SIZES, config(1), "bf16", 8).transient == 2 * 1000 + 2 * 170 + 2 * 170
    assert rank_bytes(SIZES, config(2, overlap_comm=True), "bf16", 8).transient == 2 * 2000 + 2 * 170


def test_without_zero_a_reduction_copies_a_bucket_of_gradients() -> None:
    """All 170, or 5 * 10^8 and at most one parameter more; in bf16 less than the float32 gradients after it."""
    assert rank_bytes(SIZES, config(0), "fp32", 8).transient == 4 * 170
    large = ParameterSizes([], {"delta": [3 * 10**8] * 4})
    assert rank_bytes(large, config(0), "fp32", 8).transient == 4 * 8 * 10**8
    assert rank_bytes(large, config(0), "bf16", 8).transient == 0
    accumulating = {**config(1), "data_types": {"grad_accum_dtype": "fp32"}}
    assert rank_bytes(SIZES, accumulating, "bf16", 8).transient == 6 * 176


def test_a_rank_keeps_the_gradients_its_part_touches_whole() -> None:
    """Parts of 20 elements: the sixth touches the last of the 100 and the first of the 60, and 6 ranks the policy's."""
    assert touched_elements(SIZES, 8) == 100 + 10
    assert touched_elements(ParameterSizes([], {"delta": [90, 70]}), 8) == 90 + 70
    assert touched_elements(SIZES, 1) == 170


def test_stage_3_splits_every_parameter_by_itself() -> None:
    """13 + 8 of 100 and 60, and 2 of 10; the small parameter and as many others as may live are whole in between."""
    zero = {"stage3_param_persistence_threshold": 10, "stage3_max_live_parameters": 50}
    found = rank_bytes(SIZES, config(3, **zero), "bf16", 8)
    assert (found.frozen, found.trained) == (2 * 21, 2 * 23)
    assert found.gradients == 2 * 23 + 4 * 21
    assert (found.optimizer, found.masters) == (8 * 23, 4 * 23)
    assert found.transient == 2 * (10 + 50 + 1000)


@pytest.mark.parametrize("stage", [2, 3])
def test_offloading_moves_bytes_from_the_device_to_the_host(stage: int) -> None:
    """Masters, gradients and optimizer state lie on the host; with offload_param the weights too."""
    blocks = {"offload_optimizer": {"device": "cpu"}}
    if stage == 3:
        blocks["offload_param"] = {"device": "cpu"}
    found = rank_bytes(SIZES, config(stage, **blocks), "bf16", 8)
    assert found.device + found.host == found.total + found.transient
    assert found.host >= found.masters + found.optimizer
    if stage == 3:
        assert found.device == found.transient
