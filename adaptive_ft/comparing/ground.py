"""What the runs of a table stand on: data that can be opened, bases and data that are the same ones if named alike."""

from collections.abc import Iterator, Sequence
from functools import partial

from adaptive_ft.comparing.recipe import PlannedRun
from adaptive_ft.data.reading.choice import open_set, open_train
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder

Named = tuple[str, str, str]
"""An option, its value, and what else it depends on."""


def check_sets(runs: Sequence[PlannedRun]) -> None:
    """Open every shard set that `runs` name, once, before hours of work.

    Raises:
        UserError: sets that cannot be opened, all of them; or a run that names none.
    """
    if not all(run.config.data.train and run.config.data.val for run in runs):
        raise UserError("No shards are named: give data.train under 'options', and validation.")
    trained_on = {run.config.data.train: run.config.data for run in runs}
    judged_on = {place: run.config.data for run in runs for place in (run.config.data.val, *run.config.data.also_val)}
    opened = [
        *(partial(open_train, data) for data in trained_on.values()),
        *(partial(open_set, place, data) for place, data in judged_on.items()),
    ]
    refused = []
    for open_it in opened:
        try:
            open_it()
        except UserError as error:
            refused.append(str(error).rstrip("."))
    if refused:
        raise UserError(f"{'; '.join(refused)}.")


def check_ground(finished: Sequence[PlannedRun]) -> None:
    """Refuse finished runs of one table between which a base, or data, was made anew under the same name.

    Raises:
        UserError: two such runs, by the facts that their summaries hold; a summary without a fact says nothing of it.
    """
    first: dict[Named, tuple[str, PlannedRun]] = {}
    for run in finished:
        for named, fact in _facts(run):
            found, other = first.setdefault(named, (fact, run))
            if found != fact:
                option, name, _ = named
                raise UserError(
                    f"'{other.folder}' and '{run.folder}' do not belong in one table: '{name}' (--{option}) was"
                    " something else for each. Remove the runs of the older one, or name another place with runs_dir."
                )


def _facts(run: PlannedRun) -> Iterator[tuple[Named, str]]:
    """What the run's folder says that each thing named was; random weights have no name."""
    folder = RunFolder(run.folder)
    summary = folder.summary() or {}
    data, model = run.config.data, run.config.model
    facts: dict[Named, str | None] = {
        ("data.train", data.train, ""): summary.get("train_data"),
        ("data.val", data.val, ""): summary.get("val_data"),
        **{("data.also_val", place, ""): told.get("data") for place, told in folder.also_val().items()},
    }
    if model.name is not None:
        facts["model.name", str(model.name), repr(model)] = summary.get("frozen_sha256")
    yield from ((named, fact) for named, fact in facts.items() if fact is not None)
