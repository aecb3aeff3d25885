"""The table of a page: a finished run's summary, an unfinished one's last epoch, and what differs between configs."""

from adaptive_ft.analysis.report.run_files import read_run
from adaptive_ft.analysis.report.strategies_table import COLUMNS, cells, differences, numbers, to_beat
from tests.analysis.report.conftest import MakeRun


def test_a_finished_run_tells_its_summary_and_its_speed(make_run: MakeRun) -> None:
    row = numbers(read_run(make_run()), None)
    assert tuple(row) == COLUMNS
    assert (row["val"], row["trainable"], row["seconds"], row["examples_per_second"]) == (0.5, 2_500_000, 1234.5, 200)
    told = cells(row)
    assert (told["val"], told["gap"], told["parameters"], told["seconds"]) == (
        "50.00",
        "+25.00",
        "2.50 + 1.00",
        "1,234",
    )
    assert told["official"] == "–"


def test_an_unfinished_run_tells_its_last_epoch_and_the_parameters_of_its_checkpoint(make_run: MakeRun) -> None:
    run = read_run(make_run(epochs=2, finished=False))
    row = numbers(run, {"trainable": 7, "frozen": 8})
    assert (row["train"], row["epochs"], row["trainable"], row["finished"]) == (0.5, 2, 7, False)
    assert cells(numbers(run, None))["parameters"] == "–"


def test_only_options_that_differ_are_listed() -> None:
    configs = [
        {"name": "a", "adapt": {"strategy": "spottune", "rank": None}},
        {"name": "b", "adapt": {"strategy": "x"}},
    ]
    assert differences(configs) == [("adapt.strategy", ["spottune", "x"])]
    assert differences(configs[:1]) == []


def test_the_constant_to_beat_is_told_for_each_set_of_data(make_run: MakeRun) -> None:
    runs = [read_run(make_run("a")), read_run(make_run("b")), read_run(make_run("c", finished=False))]
    assert to_beat(runs) == ["Best constant answer on the validation data of a, b: 'yes', 20.00."]
