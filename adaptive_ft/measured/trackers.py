"""Figures about a run that has finished, for the trackers it reported to: told beforehand what will not go there."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.tracking import ResumePoint, TrackingConfig, check_trackers, open_asked_trackers


@dataclass(frozen=True)
class LateTracker:
    """One tracker of a run, asked for by `tracking`, and the step at which the run has ended."""

    folder: Path
    config: RunConfig
    tracking: TrackingConfig
    step: int

    def give(self, pictures: Sequence[Path]) -> None:
        """Record `pictures` at the last step.

        Raises:
            UserError: the tracker does not take them; says that they lie where they lie all the same.
        """
        try:
            (tracker,) = open_asked_trackers(self.folder, self.tracking, asdict(self.config), ResumePoint(self.step))
            with closing(tracker):
                for path in pictures:
                    tracker.picture(self.step, f"invariance/{path.stem}", path)
        except Exception as error:  # a tracker's library raises what it likes, and the measurement is whole
            found = error.__cause__ or error  # of a failed write what the system said: its way out is a run's
            raise UserError(
                f"All is measured and written, but {self.tracking.report_to[0]} did not take the figures of"
                f" '{self.folder}': {type(found).__name__}: {' '.join(str(found).split())}. Give the same command again"
                " when that is mended: nothing is measured twice."
            ) from error


def late_trackers(folder: RunFolder) -> list[LateTracker]:
    """The trackers of a finished run that are installed here; a printed line for each of the others.

    None where there is no run, or one that still goes on, whose later numbers would be struck out.
    """
    summary = folder.summary()
    if summary is None or not folder.config_file.is_file():
        return []
    config = load_run_config(["--config", str(folder.config_file)])
    step = summary["steps"]
    asked = [replace(config.tracking, report_to=[name]) for name in config.tracking.report_to]
    return [LateTracker(folder.path, config, tracking, step) for tracking in asked if _is_here(tracking, folder)]


def _is_here(tracking: TrackingConfig, folder: RunFolder) -> bool:
    try:
        check_trackers(tracking)
    except UserError as error:
        print(f"'{folder.path}' reports to {tracking.report_to[0]}, which gets no figures: {error}", flush=True)
        return False
    return True
