"""adaptive-ft report: one HTML page about some runs, finished or not, that needs nothing else; tables beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from adaptive_ft.analysis.report.compared_table import read_table
from adaptive_ft.analysis.report.measurements import INVARIANCE_FIGURES
from adaptive_ft.analysis.report.page import write_report
from adaptive_ft.analysis.report.run_files import RunFiles, read_run
from adaptive_ft.analysis.report.sections import Told
from adaptive_ft.errors import UserError
from adaptive_ft.examining import examine
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.tracking import quiet_libraries
from adaptive_ft.versions import versions


@dataclass
class Command:
    """Write a page about runs: scores, curves, what was tuned where, for which questions, and examples."""

    runs: Positional[list[Path]]
    """Run folders."""
    output: Path | None = None
    """The HTML file; default: report.html, in the run's folder if there is one run, else here. What else is written
    goes to a folder beside it, report_files."""
    samples: int = 200
    """Validation examples to ask again, on the CPU, for usage by question type and for examples; 0 asks none."""
    examples: int = 8
    """How many of them are shown."""
    which: Literal["best", "latest"] = "best"
    """The checkpoint that is asked."""
    shards: str | None = None
    """Folder or address of shards to ask about; default: the validation shards of each run."""

    invariance: list[Path] = field(default_factory=list)
    """Folders that adaptive-ft invariance wrote: their figures stand at the end of the page; default: those in the
    runs' folders."""
    comparison: Path | None = None
    """The folder of adaptive-ft compare: its table stands at the beginning of the page."""

    def run(self) -> None:
        """Read, ask, write, and say where."""
        if not self.runs:
            raise UserError("Name run folders: adaptive-ft report runs/*")
        if self.samples < 0 or self.examples < 0:
            raise UserError("--samples and --examples count: give 0 or more.")
        runs = [read_run(folder) for folder in self._folders()]
        output = self.output or Path("report.html" if len(runs) > 1 else runs[0].folder / "report.html")
        if not output.parent.is_dir():
            raise UserError(f"--output '{output}': there is no folder '{output.parent}'.")
        table = read_table(self.comparison) if self.comparison else None
        quiet_libraries()
        told = [self._told(run) for run in runs]
        invariances = self.invariance or _invariances(runs)
        beside = write_report(told, output, self.examples, page_made(), invariances, table)
        print(f"report     {output}\nbeside it  {beside}")

    def _folders(self) -> list[Path]:
        """Those that were named, but of several, as by runs/*, those alone that a run has begun."""
        begun = [folder for folder in self.runs if RunFolder(folder).config_file.is_file()]
        others = [folder for folder in self.runs if folder not in begun]
        if not begun or not all(folder.is_dir() for folder in others):
            return self.runs
        for folder in others:
            print(f"'{folder}' is left out: it is no run folder.", flush=True)
        return begun

    def _told(self, run: RunFiles) -> Told:
        """A run with what its checkpoint answers, or why it cannot be asked."""
        if self.samples == 0:
            return Told(run)
        try:
            return Told(run, examine(run.folder, self.which, self.samples, self.shards))
        except UserError as error:
            sentence = f"No examples, and no usage by kind of question: {str(error).rstrip('.')}."
            print(f"{run.name}: {sentence}", flush=True)
            return Told(run, notes=(sentence,))


def _invariances(runs: Sequence[RunFiles]) -> list[Path]:
    """The runs' own measurements that have been finished."""
    places = [RunFolder(run.folder).invariance for run in runs]
    return [place for place in places if any((place / name).is_file() for name in INVARIANCE_FIGURES)]


def page_made() -> dict[str, str]:
    """When and by what the page was made."""
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return {"made": now, **versions()}
