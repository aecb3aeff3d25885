"""Progress of many runs: a line when one ends, the share done by its log, the time left by the pace."""

from pathlib import Path

import pytest

from adaptive_ft.comparing.progress import RunsProgress, seconds_left, share_done


def test_a_log_tells_how_far_its_run_is(tmp_path: Path) -> None:
    """The last line counts, not one of the data that was generated before, and a finished one is still to be judged."""
    log = tmp_path / "run.log"
    assert share_done(log) == 0
    log.write_text("world source/train: 100%|###| 600/600\nrun folder x\n")
    assert share_done(log) == 0
    log.write_text(
        log.read_text() + "train 20/80  loss 1.0  2.0 steps/s\ntrain 40/80  loss 0.9  2.0 steps/s\n" + "x " * 50
    )
    assert share_done(log) == 0.5
    log.write_text("train 80/80  loss 0.9  2.0 steps/s\n")
    assert 0.5 < share_done(log) < 1
    assert share_done(log, since=log.stat().st_size) == 0, "an earlier start has said it"


def test_the_time_left_follows_the_pace() -> None:
    assert seconds_left(10, 0, 4) is None
    assert seconds_left(10, 2.5, 5) == 10
    assert seconds_left(10, 5, 5) == 0


def test_without_a_terminal_a_line_tells_each_end(capsys: pytest.CaptureFixture[str]) -> None:
    with RunsProgress("compare", 2) as progress:
        progress.look({"a": 0.1})
        progress.ended("a", "done in 3 s", {"b": 0.5})
        progress.look({"b": 0.7})
        progress.ended("b", "FAILED with exit code 2", {})
    began, first, second = capsys.readouterr().out.splitlines()
    assert began == "compare: 2 to do"
    assert first.startswith("compare 1/2  a done in 3 s; about 0 s left")
    assert second == "compare 2/2  b FAILED with exit code 2"
