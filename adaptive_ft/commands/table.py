"""adaptive-ft table: the strategy table of some runs, as the original's: train, val, gap, parameters."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from adaptive_ft.analysis.table import markdown_table, read_rows, text_table
from adaptive_ft.errors import UserError


@dataclass
class Command:
    """Print the strategy table of finished runs."""

    runs: Positional[list[Path]]
    """Run folders."""
    markdown: bool = False
    """As Markdown, for a paper or a README."""

    def run(self) -> None:
        """Print one row per run, and below the table what is not in it."""
        if not self.runs:
            raise UserError("Name run folders: adaptive-ft table runs/*")
        render = markdown_table if self.markdown else text_table
        rows, skipped = read_rows(self.runs)
        if not rows:
            raise UserError(
                f"None of these is a finished run: {', '.join(f'{run.folder} ({run.reason})' for run in skipped)}."
            )
        print(render(rows, skipped), end="")
