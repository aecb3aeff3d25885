"""adaptive-ft inspect --memory: the configs are the ready ones, and the columns add up."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import ViTConfig

from adaptive_ft.commands.inspect import Command
from adaptive_ft.commands.memory_table import CONFIGS, KINDS, Machine, overlapping
from adaptive_ft.errors import UserError


def rows(text: str) -> dict[tuple[str, str], dict[str, float]]:
    lines = text.splitlines()
    start = lines.index("") + 1
    columns = lines[start].split()[2:]
    cells = (line.split() for line in lines[start + 1 : -4])
    return {(name, kind): dict(zip(columns, map(float, numbers), strict=True)) for name, kind, *numbers in cells}


def test_the_configs_are_those_of_the_ready_files(repository: Path) -> None:
    """All that the formulas read of them, and none left out."""
    files = {path.stem: json.loads(path.read_text()) for path in (repository / "ds_configs").glob("*.json")}
    for content in files.values():
        for block in content["zero_optimization"].values():
            if isinstance(block, dict):
                block.pop("pin_memory")
    found = {
        name: {key: content[key] for key in ("zero_optimization", "data_types") if key in content}
        for name, content in files.items()
    }
    assert found == CONFIGS


def test_every_config_is_a_row_whose_parts_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ViT-base on 8 ranks: 86 M parameters twice; splitting leaves less on the device, stage by stage."""
    ViTConfig().save_pretrained(tmp_path)
    Command(str(tmp_path), memory=True, world_size=8).run()
    told = capsys.readouterr().out
    table = rows(told)
    whole = table["zero0", "bf16"]["frozen"] + table["zero0", "bf16"]["trained"]
    (start,) = (line for line in told.splitlines() if line.startswith("start: "))
    assert float(start.split()[-3]) == pytest.approx(whole, abs=0.002), (
        "the whole model in bf16, on any number of ranks"
    )
    assert len(table) == 2 * len(CONFIGS) - 1
    for row in table.values():
        assert row["total"] == pytest.approx(sum(row[kind] for kind in KINDS[:5]), abs=0.004)
        assert row["device"] == pytest.approx(row["total"] + row["transient"] - row["host"], abs=0.003)
    totals = [table[f"zero{stage}", "bf16"]["total"] for stage in range(4)]
    assert totals[0] > totals[1] == totals[2] > totals[3]
    frozen = 85.1e6 * 2 / 2**30
    assert table["zero2", "bf16"]["frozen"] == pytest.approx(frozen, rel=0.01)
    assert table["zero3", "bf16"]["frozen"] == pytest.approx(frozen / 8, rel=0.03)
    assert table["zero3_offload", "bf16"]["host"] > 0


def test_a_small_model_is_told_of_in_mib(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model of the tests and of `make train`: no column of zeros."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    ViTConfig(**sizes).save_pretrained(tmp_path)
    Command(str(tmp_path), memory=True, world_size=2).run()
    told = capsys.readouterr().out
    assert "MiB per rank" in told
    assert "GiB" not in told
    assert all(row["trained"] > 0.1 for row in rows(told).values())


def test_alone_a_rank_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ViTConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    options: dict[str, Any] = {"memory": True, "strategy": "standard"}
    Command(str(tmp_path), **options).run()
    assert {row["sent"] for row in rows(capsys.readouterr().out).values()} == {0}
    with pytest.raises(UserError, match="--world-size is 0; it must be at least 1"):
        Command(str(tmp_path), **options, world_size=0).run()


def test_accumulating_sends_more_only_under_stages_that_reduce_every_micro_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two micro-batches: stages 0 and 1 send as much as for one, stages 2 and 3 more, but not twice as much."""
    ViTConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    sent = []
    for count in (1, 2):
        Command(str(tmp_path), memory=True, world_size=8, micro_batches=count).run()
        table = rows(capsys.readouterr().out)
        sent.append([table[f"zero{stage}", "fp32"]["sent"] for stage in range(4)])
    once, twice = sent
    assert twice[:2] == once[:2]
    assert all(alone < both < 2 * alone + 0.001 for alone, both in zip(once[2:], twice[2:], strict=True))
    with pytest.raises(UserError, match="--micro-batches is 0; it must be at least 1"):
        Command(str(tmp_path), memory=True, micro_batches=0).run()


def test_the_efficiency_is_that_of_computing_beside_sending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """6 operations for each of 10^9 weights and 1000 rows at 3 TFLOP/s take 2 s, 50 GB at 25 GB/s as long."""
    assert Machine(rows=1000, tflops=3.0, link=25.0).seconds(10**9, 50 * 10**9) == pytest.approx((2.0, 2.0))
    ViTConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    Command(str(tmp_path), memory=True, world_size=8, rows=20_000).run()
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("config"))
    assert lines[start].endswith("compute s  send s  apart  hidden")
    for line in lines[start + 1 : start + 2 * len(CONFIGS)]:
        *_, computing, sending, apart, hidden = map(float, line.split()[2:])
        assert apart == pytest.approx(computing / (computing + sending), abs=0.1)
        assert apart <= hidden <= 1
        assert (apart < hidden) == line.startswith("zero3"), "the other ready configs send while nothing computes"


def test_what_can_hide_is_what_deepspeed_overlaps() -> None:
    """Everything under stage 3, the reductions of stages 1 and 2 when asked for, nothing without ZeRO."""
    payloads = {"all_reduce": 5, "all_gather": 7}
    asked = {"overlap_comm": True}
    for stage, block, expected in (
        (0, asked, {}),
        (1, {}, {}),
        (2, {}, {}),
        (2, asked, {"all_reduce": 5}),
        (3, {}, payloads),
        (3, {"overlap_comm": False}, {}),
    ):
        assert overlapping(payloads, {"zero_optimization": {"stage": stage, **block}}) == expected
