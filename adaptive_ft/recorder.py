"""What a person gets from a run, written by rank 0: numbers to the trackers, pictures per epoch, the summary row."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from adaptive_ft.analysis.pictures import save_figure, save_history_csv, save_usage_csv, training_curves, usage_heatmap
from adaptive_ft.analysis.report.run_files import EPOCH
from adaptive_ft.analysis.table import SUMMARY, read_rows, text_table
from adaptive_ft.analysis.usage import UsageMeter
from adaptive_ft.build import Run
from adaptive_ft.data.reading.choice import all_questions
from adaptive_ft.engine.failed_writes import FailedWrite, told_as_failed
from adaptive_ft.evaluation import Evaluation
from adaptive_ft.tasks.vqa_accuracy import best_constant_answer
from adaptive_ft.tracking import ResumePoint, Tracker, open_trackers
from adaptive_ft.versions import versions
from adaptive_ft.whole_files import read_json_object


class Recorder:
    """Rank 0's pen; each of its methods raises `FailedWrite` where the disk refuses, but for `close`."""

    def __init__(self, run: Run, resumed: ResumePoint | None, start_score: float | None = None) -> None:
        self.run = run
        self.constant = best_constant_answer(all_questions(run.parts.val_shards), run.parts.task.answer_table)
        self.start_score = start_score
        run.folder.check()
        self.trackers: list[Tracker] = open_trackers(run.folder.path, run.config.tracking, asdict(run.config), resumed)

    def window(self, step: int, values: Mapping[str, float]) -> None:
        """The means of one interval."""
        self._to_all(step, values)

    def start(self, evaluation: Evaluation) -> None:
        """The pretrained model before the first update."""
        assert evaluation.report is not None
        self.start_score = evaluation.report.overall.soft
        self._to_all(0, {"val/score": self.start_score})
        print(f"the pretrained model, before training: val {100 * self.start_score:.2f}", flush=True)

    def epoch(
        self, epoch: int, means: Mapping[str, float], evaluation: Evaluation, usage: UsageMeter
    ) -> dict[str, Any]:
        """The record of an epoch (numbered from 1) that has ended, with its heatmaps."""
        assert evaluation.report is not None
        step = self.run.engine.updates
        overall = evaluation.report.overall
        record = {
            "epoch": epoch,
            "step": step,
            "loss": means["loss"],
            "train_score": means["score"],
            "val_score": overall.soft,
            "gap": means["score"] - overall.soft,
            "official_accuracy": overall.official,
            "by_answer_type": {kind: asdict(score) for kind, score in evaluation.report.by_answer_type.items()},
            "tuned_share_train": usage.summary()["mean_tuned_share"],
            "tuned_share_val": evaluation.usage.summary()["mean_tuned_share"],
            "global_decisions_on": self._global_on(),
        }
        self._to_all(
            step, {f"{EPOCH}{name}": value for name, value in record.items() if isinstance(value, int | float)}
        )
        if self.run.parts.model.decisions:
            for split, meter in (("train", usage), ("val", evaluation.usage)):
                self._heatmap(epoch, step, split, meter)
        return record

    def curves(self, history: list[dict[str, Any]]) -> None:
        """Score, gap and loss over the epochs so far, as one picture that is replaced."""
        path = self.run.folder.plots / "curves.png"
        with self.run.folder.writing(path):
            save_figure(training_curves(history), path)
            save_history_csv(history, path.with_suffix(".csv"))
        self._picture_to_all(history[-1]["step"], "curves", path)

    def finish(self, history: list[dict[str, Any]], best: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Write summary.json: the run's row in the strategy table. `seconds` counts all processes of the run."""
        last = history[-1] if history else {}
        counts = self.run.parts.model.count_parameters()
        config = self.run.config
        summary = {
            "name": self.run.folder.path.name,
            "strategy": config.adapt.strategy,
            "policy": config.adapt.policy.kind if self.run.parts.model.decisions else None,
            "train_score": last.get("train_score"),
            "val_score": last.get("val_score"),
            "gap": last.get("gap"),
            "official_accuracy": last.get("official_accuracy"),
            "best_val_score": best.get("val_score"),
            "best_step": best.get("step"),
            "start_val_score": self.start_score,
            "best_constant": {
                "answer": self.constant.answer,
                "score": self.constant.score.soft,
                "official_accuracy": self.constant.score.official,
            },
            "train_data": self.run.parts.train_shards.fingerprint,
            "val_data": self.run.parts.val_shards.fingerprint,
            "frozen_sha256": self.run.parts.model.frozen_hash(),
            "trainable_parameters": counts["trainable"],
            "frozen_parameters": counts["frozen"],
            "tuned_share": last.get("tuned_share_val"),
            "global_decisions_on": last.get("global_decisions_on"),
            "seed": config.seed,
            "epochs": last.get("epoch", 0),
            "steps": self.run.engine.updates,
            "world_size": self.run.ranks.world_size,
            "seconds": seconds,
            "versions": versions(),
        }
        self.run.folder.write_summary(summary)
        return summary

    def close(self) -> None:
        """Close the trackers, also those of a run that fails: what they cannot write now ends no run."""
        for tracker in self.trackers:
            try:
                with told_as_failed(f"'{tracker.place}'", self.run.folder.path):
                    tracker.close()
            except FailedWrite as failure:
                print(failure, file=sys.stderr, flush=True)

    def _global_on(self) -> int | None:
        """How many live decisions most training samples of the epoch have taken; None without any decisions."""
        model = self.run.parts.model
        decided_D = model.global_decisions
        if decided_D is None or not model.decisions:
            return None
        return int(decided_D[torch.tensor(model.tying.live)].sum())

    def _heatmap(self, epoch: int, step: int, split: str, meter: UsageMeter) -> None:
        shares = meter.component_shares()
        path = self.run.folder.plots / f"usage_{split}_epoch{epoch:02d}.png"
        components = self.run.parts.model.components
        with self.run.folder.writing(path):
            save_figure(usage_heatmap(shares, components, f"Tuned share, {split}, epoch {epoch}"), path)
            save_usage_csv(shares, components, path.with_suffix(".csv"))
        # The original's key: "SpotTune Finetuning Fraction: train".
        self._picture_to_all(step, f"{self.run.config.adapt.strategy} Finetuning Fraction: {split}", path)

    def _to_all(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            with self.run.folder.writing(tracker.place):
                tracker.log(step, values)

    def _picture_to_all(self, step: int, name: str, path: Path) -> None:
        for tracker in self.trackers:
            with self.run.folder.writing(tracker.place):
                tracker.picture(step, name, path)


def sentence(record: Mapping[str, Any]) -> str:
    """One line about an epoch, for the terminal."""
    official = record["official_accuracy"]
    told = f"  official {100 * official:.2f}" if official is not None else ""
    return (
        f"epoch {record['epoch']}  loss {record['loss']:.3f}  train {100 * record['train_score']:.2f}  "
        f"val {100 * record['val_score']:.2f}  gap {100 * record['gap']:+.2f}{told}  "
        f"tuned {100 * record['tuned_share_val']:.0f} %"
    )


def finished_summary(folder: Path, updates: int) -> dict[str, Any] | None:
    """The summary of a run that has finished with `updates` updates, None while it has not."""
    summary = read_json_object(folder / SUMMARY)
    return summary if summary and summary.get("steps") == updates else None


def show_outcome(folder: Path) -> None:
    """Print the strategy table of the finished runs beside `folder` that were judged on the same data, and where this
    run's pictures lie; whatever becomes of those folders meanwhile, the run has finished.
    """
    own, _ = read_rows([folder])
    rows, skipped = read_rows(sorted(_finished_beside(folder), key=_last_changed))
    alike = [row for row in rows if [row.val_data] == [mine.val_data for mine in own]]
    print("\n" + text_table(alike, skipped))
    print(f"pictures   {folder / 'plots'}")
    print(f"evaluate   adaptive-ft eval --checkpoint {folder}")


def _finished_beside(folder: Path) -> list[Path]:
    """The folder of every finished run beside `folder`, as far as they can be listed."""
    try:
        return [path.parent for path in folder.parent.glob(f"*/{SUMMARY}")]
    except OSError:
        return []


def _last_changed(run: Path) -> float:
    """When something was last made or removed in the folder of a run; 0 where it has just been removed itself."""
    try:
        return run.stat().st_mtime
    except OSError:
        return 0.0
