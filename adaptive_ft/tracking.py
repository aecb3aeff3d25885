"""Where the numbers of a run go: metrics.jsonl always; wandb and TensorBoard when asked; rank 0 only.

Neither tracker is imported unless it is asked for. wandb is offline by default; its run id stays in the run folder
and in every checkpoint, so a resumed or requeued run continues the same curves on the axis `step`.
"""

import importlib
import importlib.util
import json
import sys
import time
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import transformers
from tqdm import tqdm

from adaptive_ft.analysis.report.run_files import EPOCH
from adaptive_ft.engine.failed_writes import told_as_failed
from adaptive_ft.errors import UserError
from adaptive_ft.whole_files import write_whole

TRACKER_ID = "wandb_id"


@dataclass
class TrackingConfig:
    """What is recorded where."""

    report_to: list[Literal["wandb", "tensorboard"]] = field(default_factory=list)
    """Trackers beside metrics.jsonl; each needs its extra: pip install adaptive-ft[wandb]."""
    logging_steps: int = 10
    """Updates between two recorded lines."""
    peak_tflops: float | None = None
    """Speed of one device on dense products that `time/model_flops_utilization` is a share of, in TFLOP/s; default:
    that of a product timed on the device."""
    wandb_project: str = "adaptive-finetuning"
    wandb_mode: Literal["offline", "online"] = "offline"
    """Offline runs are sent later with the `wandb sync` line that is printed at the end."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on: after `update`. `owes_epoch`: its checkpoint was written before the record of the epoch that
    ends there, which comes from here on, perhaps once more.
    """

    update: int
    owes_epoch: bool = False


class Tracker(Protocol):
    """What a place for numbers must offer."""

    place: Path
    """The file or the folder it writes."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars at `step`."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """Record a PNG."""

    def close(self) -> None:
        """Flush."""


class JsonLines:
    """metrics.jsonl: one JSON object per line, flushed at once; on resume the lines after the checkpoint are cut
    away, with a record of the epoch that is owed, on a fresh start all of them (an attempt killed before its first
    checkpoint may have left some).
    """

    def __init__(self, path: Path, resumed: ResumePoint | None) -> None:
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _is_kept(line, resumed)] if resumed else []
            write_whole(path, "".join(line + "\n" for line in kept))
        self.place = path
        self._stream = path.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append {"step": step, **values}."""
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        self._stream.flush()

    def picture(self, step: int, name: str, path: Path) -> None:
        """Pictures already lie in the run folder."""

    def close(self) -> None:
        """Close the file. What could not be flushed has been told by `log`; closing would try, and raise, again."""
        with suppress(OSError):
            self._stream.close()


def _is_kept(line: str, resumed: ResumePoint) -> bool:
    """Whether a line tells of what the checkpoint holds."""
    step = _step_of(line)
    return step < resumed.update or (step == resumed.update and not (resumed.owes_epoch and EPOCH in line))


def _step_of(line: str) -> float:
    """The step of one line; a line torn by a kill counts as later than everything."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def tracker_id(folder: Path) -> str | None:
    """By which a tracker knows the run of a folder, None where none has been asked yet."""
    file = folder / TRACKER_ID
    return file.read_text(encoding="utf-8") if file.is_file() else None


def keep_tracker_id(folder: Path, number: str) -> None:
    """Give the run of a folder this id, unless it has one."""
    if tracker_id(folder) is None:
        write_whole(folder / TRACKER_ID, number)


class Wandb:
    """Weights & Biases, offline unless told otherwise."""

    def __init__(self, folder: Path, config: TrackingConfig, run_config: Mapping[str, Any]) -> None:
        self._wandb = importlib.import_module("wandb")
        self.place = folder / "wandb"
        keep_tracker_id(folder, uuid.uuid4().hex[:8])
        self._folder = folder
        self._offline = config.wandb_mode == "offline"
        self._run = self._wandb.init(
            project=config.wandb_project,
            name=folder.name,
            id=tracker_id(folder),
            resume="allow",
            dir=folder,
            mode=config.wandb_mode,
            config=dict(run_config),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars on our own axis `step`."""
        self._run.log({"step": step, **values})

    def picture(self, step: int, name: str, path: Path) -> None:
        """The PNG as an image (a matplotlib figure would go through plotly and lose heatmaps: wandb#3987)."""
        self._run.log({"step": step, name: self._wandb.Image(str(path))})

    def close(self) -> None:
        """Finish, and say how to send an offline run."""
        place = Path(self._run.dir).parent
        self._run.finish()
        if self._offline:
            print(f"wandb recorded offline; send it with: wandb sync {place}")


class TensorBoard:
    """TensorBoard event files in the run folder; on resume what came after the checkpoint is struck out."""

    def __init__(self, folder: Path, resumed: ResumePoint | None) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        first = 0 if resumed is None else resumed.update + 1
        self.place = folder / "tensorboard"
        self._writer = module.SummaryWriter(str(self.place), purge_step=first)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """The PNG as an image."""
        import_array = importlib.import_module("matplotlib.image").imread
        self._writer.add_image(name, import_array(path)[..., :3], step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


def check_trackers(config: TrackingConfig) -> None:
    """Refuse before any work a tracker whose package is not there; nothing is imported.

    Raises:
        UserError: names the package and the command that installs it.
    """
    for name in config.report_to:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--tracking.report_to {name} needs the package {name}: pip install 'adaptive-ft[{name}]'.")


def open_trackers(
    folder: Path, config: TrackingConfig, run_config: Mapping[str, Any], resumed: ResumePoint | None
) -> list[Tracker]:
    """metrics.jsonl and the trackers asked for, in that order (call it on rank 0 only).

    Raises:
        FailedWrite: the disk refuses one of them.
    """
    path = folder / "metrics.jsonl"
    with told_as_failed(f"'{path}'", folder):
        lines = JsonLines(path, resumed)
    return [lines, *open_asked_trackers(folder, config, run_config, resumed)]


def open_asked_trackers(
    folder: Path, config: TrackingConfig, run_config: Mapping[str, Any], resumed: ResumePoint | None
) -> list[Tracker]:
    """The trackers asked for, without metrics.jsonl: also for what is found out about a finished run.

    Raises:
        FailedWrite: the disk refuses one of them.
    """
    trackers: list[Tracker] = []
    with told_as_failed(f"A tracker's folder in '{folder}'", folder):
        if "wandb" in config.report_to:
            trackers.append(Wandb(folder, config, run_config))
        if "tensorboard" in config.report_to:
            trackers.append(TensorBoard(folder, resumed))
    return trackers


def quiet_libraries() -> None:
    """Silence what others print about themselves: loading bars, and deprecated calls between DeepSpeed and torch."""
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\..* is deprecated", category=FutureWarning)


class Progress:
    """A bar on a terminal; under a batch system one plain line per interval, so that a log file stays readable."""

    def __init__(self, title: str, total: int, start: int = 0, shown: bool = True) -> None:
        self._title, self._total, self._done, self._shown = title, total, start, shown
        self._told, self._told_at = start, time.monotonic()
        self._bar = (
            tqdm(total=total, initial=start, desc=title, unit="step", dynamic_ncols=True)
            if shown and sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """One step further."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()

    def tell(self, facts: Mapping[str, str]) -> None:
        """Show `facts` beside the bar, or as a line of their own with the speed since the last one."""
        if self._bar is not None:
            self._bar.set_postfix(dict(facts))
        elif self._shown:
            now = time.monotonic()
            rate = (self._done - self._told) / max(1e-9, now - self._told_at)
            self._told, self._told_at = self._done, now
            told = "  ".join(f"{name} {value}" for name, value in facts.items())
            print(f"{self._title} {self._done}/{self._total}  {told}  {rate:.3g} steps/s", flush=True)

    def say(self, text: str) -> None:
        """One line of text that does not tear the bar."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._shown:
            print(text, flush=True)
