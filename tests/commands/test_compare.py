"""adaptive-ft compare with real runs of train.py: what has finished stands in the table, what has failed is told."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from adaptive_ft.analysis.report.compared_table import read_table
from adaptive_ft.cli import run_command
from adaptive_ft.commands import compare
from adaptive_ft.commands.prepare import Command as Prepare
from adaptive_ft.comparing.jobs import Failed, Job
from adaptive_ft.config import dump_run_config, load_run_config
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from tests.conftest import REPOSITORY

Tiny = Callable[..., list[str]]


@pytest.fixture
def comparison(tiny: Tiny, workplace: Path, tmp_path: Path) -> Path:
    """Two rows of one seed, the second of which asks for layers the model does not have."""
    options = yaml.safe_load(dump_run_config(load_run_config(tiny("unused"))))
    sets = [str(workplace / f"world/target/{part}") for part in ("val", "val_indomain")]
    for own in ("name", "output_dir", "resume", "stop_file", "seed"):
        del options[own]
    rows = {"standard": {"adapt": {"strategy": "standard"}}, "last": {"adapt": {"strategy": "last_99"}}}
    content = {
        "output_dir": str(tmp_path / "runs"), "options": options, "rows": rows, "jobs": 2,
        "note": "One seed says little.",
        "validation": dict(zip(("shifted", "in-domain"), sets, strict=True)),
    }  # fmt: skip
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.launch
def test_a_failed_run_is_told_and_the_others_make_the_table(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1; a second look starts nothing and finds the same; the page begins with the table."""
    with pytest.raises(SystemExit) as ended:
        run_command(["compare", str(comparison)])
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    log = tmp_path / "runs/logs/last-seed1.log"
    assert err.splitlines()[-1].startswith("error: last-seed1 ended with exit code 2: error: ")
    assert err.splitlines()[-1].endswith(f"(log: {log}).")
    assert "compare 2/2" in out
    assert "Not finished: last-seed1." in out
    assert "\nOne seed says little.\nScores in percent" in out
    assert "Best answer of each type of question in training: shifted " in out
    table = read_table(tmp_path / "runs")
    assert [row[:2] for row in table.rows] == [["standard", "1"], ["last", "0"]]
    assert "Val in-domain" in table.header
    page = (tmp_path / "runs/report.html").read_text(encoding="utf-8")
    assert 'id="comparison"' in page
    drawn = tmp_path / "runs/comparison.png"
    assert base64.b64encode(drawn.read_bytes()).decode() in page
    drawn.unlink()

    summary = (tmp_path / "runs/standard-seed1/summary.json").stat().st_mtime_ns
    log_size = log.stat().st_size
    run_command(["compare", str(comparison), "--table-only"])
    assert drawn.is_file()
    assert read_table(tmp_path / "runs") == table
    assert (tmp_path / "runs/standard-seed1/summary.json").stat().st_mtime_ns == summary
    assert log.stat().st_size == log_size


def test_a_table_of_nothing_is_refused(comparison: Path) -> None:
    with pytest.raises(
        UserError, match=r"No run of .*comparison\.yaml. is finished in .*: start it without --table-only"
    ):
        run_command(["compare", str(comparison), "--table-only"])


def test_data_that_is_not_there_is_told_before_the_first_run(comparison: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(comparison.read_text())
    content["validation"]["in-domain"] = str(tmp_path / "gone")
    comparison.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError, match=r"there is no folder '.*gone'"):
        run_command(["compare", str(comparison)])
    assert not list((tmp_path / "runs").glob("*-seed1"))


def test_where_nothing_finishes_each_failure_is_told(comparison: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason that its log gives, not only that there is no table."""
    failures = [Failed(Job(name, (), Path(f"{name}.log")), 2, f": error: {name} is full") for name in ("disk", "tray")]
    monkeypatch.setattr(compare, "make", lambda recipe, left: failures)
    with pytest.raises(UserError) as refused:
        run_command(["compare", str(comparison)])
    assert str(refused.value) == " ".join(map(str, failures))


def test_minutes_of_preparation_say_where_their_progress_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where neither the generated world nor the base lies
    path = tmp_path / "comparison.yaml"
    path.write_text(f"output_dir: runs\nconfig: [{REPOSITORY / 'recipes/world.yaml'}]\nrows: {{a: {{}}}}\n")
    monkeypatch.setattr(compare, "run_jobs", lambda jobs, at_once, title: [Failed(jobs[0], 1, "")])
    with pytest.raises(UserError, match="making data/world and data/base ended"):
        run_command(["compare", str(path)])
    told = "making data/world and data/base, once: its progress is in runs/logs/prepare-1.log\n"
    assert told in capsys.readouterr().out


def test_what_is_there_already_is_not_made_again(
    ranks: Ranks, tiny: Tiny, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "run.yaml"
    recipe.write_text(dump_run_config(load_run_config(tiny("prepared"))))
    Prepare([recipe]).prepare_on(ranks)
    assert f"ready: {workplace / 'world/target/train'}, " in capsys.readouterr().out
    assert not (workplace / "runs/prepared").exists()
