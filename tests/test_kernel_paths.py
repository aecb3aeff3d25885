"""A run trains the same whichever code computes its gated layers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.trainer import Trainer
from adaptive_ft_kernels import use_path

Options = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def free_choice_afterwards() -> Iterator[None]:
    yield
    use_path("auto")


def losses(options: list[str], ranks: Ranks) -> list[float]:
    """The training loss of every update."""
    run = build(load_run_config(options), ranks)
    Trainer(run).fit()
    lines = map(json.loads, (run.folder.path / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize("strategy", ["spottune", "spottune_block"])
def test_twenty_updates_follow_the_two_branch_curve(strategy: str, tiny: Options, ranks: Ranks, tmp_path: Path) -> None:
    curves = [
        losses(
            tiny(
                *(f"{kernels}-{strategy}", "--output_dir", str(tmp_path), "--kernels", kernels),
                *("--adapt.strategy", strategy, "--max_steps", "20", "--no-eval_on_start"),
            ),
            ranks,
        )
        for kernels in ("auto", "reference")
    ]
    assert len(curves[0]) == 20
    assert len(set(curves[0])) > 10
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_kernels_that_cannot_run_are_one_sentence(
    tiny: Options, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptive_ft_kernels.dispatch._missing_for_triton", lambda kind: f"no {kind} will do")
    sentence = r"--kernels triton: the Triton kernels were demanded but cannot run on (\w+): no \1 will do"
    with pytest.raises(UserError, match=sentence):
        build(load_run_config(tiny("demanded", "--output_dir", str(tmp_path), "--kernels", "triton")), ranks)
    assert not list(tmp_path.iterdir())
