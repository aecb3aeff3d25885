"""What the runs of a table stand on: bases and data that are named alike must have been the same ones."""

import json
from collections.abc import Sequence

from adaptive_ft.analysis.table import SUMMARY
from adaptive_ft.comparing.recipe import PlannedRun
from adaptive_ft.errors import UserError


def check_ground(finished: Sequence[PlannedRun]) -> None:
    """Refuse finished runs of one table between which a base, or data, was made anew under the same name.

    Raises:
        UserError: two such runs, by the facts that their summaries hold; a summary without a fact says nothing of it.
    """
    first: dict[tuple[str, str], tuple[str, PlannedRun]] = {}
    for run in finished:
        summary = json.loads((run.folder / SUMMARY).read_text(encoding="utf-8"))
        named = {
            ("model.name", "frozen_sha256"): run.config.model.name,
            ("data.train", "train_data"): run.config.data.train,
            ("data.val", "val_data"): run.config.data.val,
        }
        for (option, fact), name in named.items():
            if name is None or summary.get(fact) is None:
                continue
            found, other = first.setdefault((option, name), (summary[fact], run))
            if found != summary[fact]:
                raise UserError(
                    f"'{other.folder}' and '{run.folder}' do not belong in one table: '{name}' (--{option}) was"
                    " something else for each. Remove the runs of the older one, or name another output_dir."
                )
