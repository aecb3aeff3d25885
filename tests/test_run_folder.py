"""One folder per run: names, numbers, and never two runs in one folder."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.engine.generation import TakenOver
from adaptive_ft.engine.living import ALIVE, identity
from adaptive_ft.errors import UserError
from adaptive_ft.policy import PolicyConfig
from adaptive_ft.run_folder import RunFolder, default_name, open_run_folder


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(output_dir=str(tmp_path / "runs"))


def begin(config: RunConfig) -> RunFolder:
    """Open the folder and write its config, as a run does once it knows that it will train."""
    folder = open_run_folder(config)
    folder.begin(config)
    return folder


def test_a_named_run_gets_its_folder_and_config(config: RunConfig) -> None:
    """output_dir/name with room for pictures; config.yaml reads back equal."""
    named = replace(config, name="mine")
    folder = begin(named)
    assert folder.path == Path(config.output_dir) / "mine"
    assert folder.plots.is_dir()
    assert load_run_config(["--config", str(folder.config_file)]) == named


def test_runs_without_a_name_are_numbered(config: RunConfig) -> None:
    """strategy-policy, then -2, -3; another strategy starts anew."""
    names = [begin(config).path.name for _ in range(3)]
    assert names == ["spottune-light", "spottune-light-2", "spottune-light-3"]
    other = replace(config, adapt=AdaptiveConfig(strategy="SpotTune_Block", policy=PolicyConfig(kind="mirror")))
    assert default_name(other) == "spottune_block-mirror"
    assert begin(other).path.name == "spottune_block-mirror"


def test_resume_takes_the_newest_of_its_kind(config: RunConfig) -> None:
    """--resume auto without a name continues the highest number, and makes a folder where there is none."""
    resumed = replace(config, resume="auto")
    assert begin(resumed).path.name == "spottune-light"
    begin(config)
    assert begin(resumed).path.name == "spottune-light-2"


def test_a_taken_folder_is_refused(config: RunConfig) -> None:
    """The message names the folder and both ways out; nothing in it changes."""
    named = replace(config, name="mine")
    folder = begin(named)
    before = folder.config_file.read_text()
    with pytest.raises(UserError, match=r"'.*mine' is not empty: continue it with --resume auto, or choose another"):
        open_run_folder(replace(named, seed=7))
    assert folder.config_file.read_text() == before


def test_an_empty_folder_may_be_used(config: RunConfig) -> None:
    """mkdir beforehand is no run."""
    (Path(config.output_dir) / "mine").mkdir(parents=True)
    assert open_run_folder(replace(config, name="mine")).plots.is_dir()


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "/tmp", "a/"])
def test_a_name_is_one_folder(name: str, config: RunConfig) -> None:
    """Anything else would put the run, or delete its leavings, somewhere unseen."""
    with pytest.raises(UserError, match=r"is not one folder name; the folder above it is --output_dir"):
        open_run_folder(replace(config, name=name))
    assert not Path(config.output_dir).exists()


def test_runs_started_together_get_folders_of_their_own(config: RunConfig) -> None:
    """Eight at the same moment: eight folders; eight of one name: one run, seven refusals."""
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: open_run_folder(config).path, range(8)))
        assert len(set(folders)) == 8
        named = [threads.submit(open_run_folder, replace(config, name="mine")) for _ in range(8)]
        refusals = [told for told in (one.exception() for one in named) if told]
    assert len(refusals) == 7
    assert all(isinstance(told, UserError) for told in refusals)


def test_a_run_that_never_began_gives_its_name_back(config: RunConfig) -> None:
    """What opening made goes, and the next run is not number 2; a run with something to show keeps its folder."""
    failed = open_run_folder(config)
    failed.give_back()
    assert not failed.path.exists()
    begun = open_run_folder(config)
    assert begun.path == failed.path
    (begun.path / "metrics.jsonl").write_text("{}")
    begun.give_back()
    assert begun.config_file.is_file()


def test_a_start_that_was_overtaken_gives_nothing_back(config: RunConfig) -> None:
    """It slept while another start took the folder over, which has no more in it yet than what opening makes."""
    named = replace(config, name="mine", resume="auto")
    asleep = open_run_folder(named)
    newer = open_run_folder(named)
    asleep.give_back()
    newer.check()
    assert newer.config_file.is_file()
    newer.give_back()
    assert not newer.path.exists()


def test_folders_without_a_file_are_free(config: RunConfig) -> None:
    """Empty ones, however deep, are no run: neither for a fresh run nor for one that resumes."""
    (Path(config.output_dir) / "spottune-light/plots").mkdir(parents=True)
    assert open_run_folder(replace(config, resume="auto")).path.name == "spottune-light"
    assert open_run_folder(config).path.name == "spottune-light-2"


def test_opening_to_resume_leaves_the_config_alone(config: RunConfig) -> None:
    """Whether the checkpoint accepts the new config is known only later."""
    named = replace(config, name="mine")
    before = begin(named).config_file.read_text()
    folder = open_run_folder(replace(named, resume="auto", seed=7))
    assert folder.config_file.read_text() == before


def test_the_summary_is_written_whole(config: RunConfig) -> None:
    """Its presence says that the run has finished; no temporary file stays beside it."""
    folder = begin(config)
    folder.write_summary({"val_score": 0.5})
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "alive",
        "config.yaml",
        "generation",
        "plots",
        "summary.json",
    ]
    assert '"val_score": 0.5' in (folder.path / "summary.json").read_text()


def test_a_resume_takes_the_folder_over(config: RunConfig) -> None:
    """The earlier start can neither write its config nor declare the run finished, and the folder stays as it is."""
    named = replace(config, name="mine", resume="auto")
    earlier = begin(named)
    later = begin(named)
    before = {path: path.stat().st_mtime_ns for path in later.path.rglob("*")}
    for write in (lambda: earlier.begin(named), lambda: earlier.write_summary({}), earlier.check):
        with pytest.raises(TakenOver, match="generation 2, this process is generation 1"):
            write()
    assert {path: path.stat().st_mtime_ns for path in later.path.rglob("*")} == before
    later.write_summary({})


@pytest.mark.parametrize("resume", ["none", "auto"])
def test_who_opens_a_folder_is_seen_in_it_at_once(resume: str, config: RunConfig) -> None:
    """Building the model may take minutes: a second start must be refused in them already."""
    named = replace(config, name="mine", resume=resume)
    if resume == "auto":
        (begin(named).path / ALIVE).unlink()
    folder = open_run_folder(named)
    assert json.loads((folder.path / ALIVE).read_text()) == identity()


def test_a_run_that_goes_on_beyond_its_end_has_no_summary_any_more(config: RunConfig) -> None:
    """What the table shows as finished has finished."""
    folder = begin(replace(config, name="mine"))
    folder.write_summary({"steps": 3})
    assert folder.summary_file.is_file()
    again = open_run_folder(replace(config, name="mine", resume="auto"))
    assert again.summary_file.is_file(), "until the new start knows that it will train"
    again.begin(replace(config, name="mine", resume="auto", max_steps=6))
    assert not again.summary_file.exists()
