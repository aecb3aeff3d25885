"""The loop: fit, one training step, the end of an epoch, save and resume.

    batch -> AdaptiveModel.forward (policy -> gates -> base) -> task loss + policy losses -> backward -> step

A step is a pure function of (weights, data position, seed, update): every micro-batch seeds the generators anew from
(seed, update, micro-batch, rank), so a resumed run needs no saved generator and repeats the undisturbed one bit for
bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from adaptive_ft.build import Run
from adaptive_ft.divergence import Divergence
from adaptive_ft.engine.checkpoint import BEST
from adaptive_ft.engine.generation import taken_over_told
from adaptive_ft.engine.preemption import AskedToStop, StoppedOnRequest, StopRequests
from adaptive_ft.evaluation import Evaluation
from adaptive_ft.exported import is_export_of
from adaptive_ft.exporting import export_merged
from adaptive_ft.further_sets import judge_further_sets
from adaptive_ft.judging import judge
from adaptive_ft.micro_batch import MicroBatch
from adaptive_ft.recorder import Recorder, finished_summary, sentence
from adaptive_ft.saving import load_checkpoint, restore, save_checkpoint
from adaptive_ft.supply import SupplyMeter
from adaptive_ft.tally import Tally
from adaptive_ft.throughput import ThroughputMeter
from adaptive_ft.tracking import Progress, ResumePoint, tracker_id

Result = TypeVar("Result")

EVALUATION = 2**32 - 1


class Trainer:
    """Fine-tunes the model of a `Run`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.config, self.ranks, self.engine = run.config, run.ranks, run.engine
        self.tying = run.parts.model.tying
        self.tally = Tally(self.tying, run.ranks)
        self.supply = SupplyMeter(run.train)
        self.throughput = ThroughputMeter(run.parts.model, run.ranks, run.config.tracking.peak_tflops)
        self.start_score: float | None = None
        self.recorder: Recorder | None = None
        self.requests = StopRequests(run.ranks, run.config.stop_file)
        self.divergence = Divergence(run)
        self.micro_batch = MicroBatch(run, self.tally, self.throughput, self.divergence)
        self.watch = run.watch
        self.saved_at: int | None = None

    def fit(self) -> dict[str, Any]:
        """Train to the last update, judge the further sets, export; the summary of the run (the same on every rank).

        Raises:
            StoppedOnRequest: the run was asked to stop; what it had learned is in a whole checkpoint.
        """
        try:
            with self._own_folder():
                with self.requests, self._leaving_when_asked():
                    with self.divergence.watch():
                        resumed = self._resume()
                        summary = self._finished() or self._run_to_the_end(resumed)
                    judge_further_sets(self.run, self.requests.heed)
                self._export()
        finally:
            self.run.train.close()
            if self.recorder:
                self.recorder.close()
        return summary

    @contextmanager
    def _own_folder(self) -> Iterator[None]:
        """Seen to be alive in the run folder; whatever fails because another start has taken it over is told so."""
        with taken_over_told(self.run.folder.generation), self.run.sign:
            yield

    @contextmanager
    def _leaving_when_asked(self) -> Iterator[None]:
        """Close, tell, and end with the exit code of a request; what is to be saved has been saved inside."""
        try:
            yield
        except AskedToStop as asked:
            self.watch.rest("leaving")
            if self.recorder:
                self.recorder.close()
                self.recorder = None
            if self.ranks.is_main:
                name, update = self.run.folder.path.name, self.engine.updates
                print(f"stopped at update {update} on request ({asked}); continue with --name {name} --resume auto")
            # The first rank that leaves makes the launcher end the others: rank 0 must have closed everything.
            self.ranks.barrier()
            raise StoppedOnRequest from None

    def _export(self) -> None:
        """All ranks wait for the files: the next run of this process may start from them."""
        folder, destination = self.run.folder, self.config.export_to

        def export(to: Path) -> None:
            if not is_export_of(folder, to):  # an earlier start of the finished run may have come so far
                export_merged(restore(folder.path, BEST), to, folder.check)

        if destination:
            self.watch.phase("exporting the model")
            self.ranks.on_main(lambda: export(Path(destination)))

    def _finished(self) -> dict[str, Any] | None:
        """The summary where nothing is left to do: then the folder stays as it is."""
        if self.engine.updates < self.run.total_updates:
            return None
        return self.ranks.on_main(lambda: finished_summary(self.run.folder.path, self.engine.updates))

    def _run_to_the_end(self, resumed: ResumePoint | None) -> dict[str, Any]:
        self.watch.on_main("opening the record", lambda: self._begin_record(resumed))
        if resumed is None and self.config.eval_on_start:
            self._evaluate_start()
        with Progress("train", self.run.total_updates, self.engine.updates, self.ranks.is_main) as progress:
            if resumed and resumed.owes_epoch:
                progress.say(self._end_epoch())
            while self.engine.updates < self.run.total_updates:
                with self.throughput.update(self.engine.updates + 1):
                    rates = self.train_step()
                progress.advance()
                self._after_update(self.engine.updates, rates, progress)
                self._stop_if_asked()
        tally, seconds = self.tally, self.tally.seconds
        return self._record(lambda recorder: recorder.finish(tally.history, tally.best, seconds))

    def _owes_end_of_epoch(self) -> bool:
        """Whether the checkpoint was written after an epoch's last update but before its score was known: the run was
        asked to stop while it was judged, or is cut short at this very checkpoint.
        """
        update, history = self.engine.updates, self.tally.history
        return self.run.ends_epoch(update) and (not history or history[-1]["step"] < update)

    def _begin_record(self, resumed: ResumePoint | None) -> None:
        self.run.folder.begin(self.config)
        self.recorder = Recorder(self.run, resumed, self.start_score)

    def _record(self, write: Callable[[Recorder], Result]) -> Result:
        """What rank 0 writes, on every rank: all of them end where its disk refuses."""

        def written() -> Result:
            assert self.recorder is not None
            return write(self.recorder)

        return self.watch.on_main("recording", written)

    def train_step(self) -> dict[str, float]:
        """One optimizer update over all micro-batches of all ranks; the learning rates used, by group."""
        self.engine.module.train()
        update = self.engine.updates
        self.run.parts.model.anneal(update / self.run.total_updates)
        for micro in range(self.config.gradient_accumulation_steps):
            self.watch.step(update + 1, "training")
            self._seed_step(update, micro)
            self.micro_batch(next(self.run.train))
            rates = self.engine.step()
        self.watch.rest("between two updates")
        return rates

    def _seed_step(self, update: int, micro: int) -> None:
        """Seed augmentation, dropout, Gumbel noise and gate gradients: each rank and micro-batch has its own."""
        parts = [self.config.seed, update, micro, self.ranks.rank]
        seed = int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1
        torch.manual_seed(seed)
        self.run.parts.model.holder.seed(seed)

    def _after_update(self, update: int, rates: dict[str, float], progress: Progress) -> None:
        """Record, evaluate and save where it is time to; never what has diverged."""
        is_interval = update % self.config.tracking.logging_steps == 0 or update == self.run.total_updates
        ends_epoch = self.run.ends_epoch(update)
        is_save = self.config.save_steps is not None and update % self.config.save_steps == 0
        if not (is_interval or ends_epoch or is_save):
            return
        self.throughput.settle()
        self.divergence.look()
        if is_interval:
            progress.tell(self._record_window(rates))
        if ends_epoch:
            progress.say(self._end_epoch())
        elif is_save:
            self._save(self._state(), best=False)

    def _stop_if_asked(self) -> None:
        """Save and leave when somebody has asked for it; after the last update only what judges it listens."""
        update = self.engine.updates
        asked = self.requests.heard() if update < self.run.total_updates else None
        if asked is None:
            return
        if self.saved_at != update:
            self.divergence.look()
            self._save(self._state(), best=False)
        raise AskedToStop(asked)

    def _record_window(self, rates: dict[str, float]) -> dict[str, str]:
        """Record the means over ranks since the last interval; the few to show beside the progress."""
        means = self.tally.end_window()
        values = {f"train/{name}": value for name, value in means.items()}
        values |= {
            f"train/{name}": value
            for name, value in self.supply.window(self.ranks, self.throughput.all_seconds).items()
        }
        values |= {f"time/{name}": value for name, value in self.throughput.window().items()}
        values |= {"time/seconds": self.tally.seconds, "time/ranks": self.ranks.world_size}
        values["train/gradient_norm"] = self.engine.gradient_norm()
        if self.tying.decisions:
            values["train/temperature"] = self.run.parts.model.decider.temperature
        values |= {f"learning_rate/{name}": rate for name, rate in rates.items()}
        self._record(lambda recorder: recorder.window(self.engine.updates, values))
        return {"loss": f"{means['loss']:.3f}", "score": f"{100 * means['score']:.1f}"}

    def _evaluate(self, policy: str | None = None) -> Evaluation:
        # Matters only where the config samples gates in evaluation; no training step uses this micro-batch number.
        self._seed_step(self.engine.updates, EVALUATION)
        evaluation = judge(self.run, self.run.parts.val_shards, self.requests.heed, self.divergence.answered, policy)
        self.divergence.look()
        return evaluation

    def _evaluate_start(self) -> None:
        """The pretrained model before any update."""
        evaluation = self._evaluate(self.run.parts.model.pretrained_policy)
        self._record(lambda recorder: recorder.start(evaluation))

    def _end_epoch(self) -> str:
        """Score, gap, pictures, checkpoint; one sentence about the epoch.

        Raises:
            AskedToStop: while it was judged; the checkpoint is that of before, and the next start ends the epoch.
        """
        tally, before = self.tally, self._state()
        tally.reduce_epoch()
        # Before the evaluation, which may go by it.
        self.run.parts.model.global_decisions = tally.usage.majority()
        try:
            evaluation = self._evaluate()
        except AskedToStop:
            self.run.parts.model.global_decisions = before["global_decisions"]
            if self.saved_at != self.engine.updates:
                self.divergence.look()  # never what has diverged in the answers so far
                self._save(before | {"seconds": tally.seconds}, best=False)
            raise
        epoch = self.run.epoch_of(self.engine.updates)
        means, usage = tally.epoch_means.means(), tally.usage
        record = self._record(lambda recorder: recorder.epoch(epoch, means, evaluation, usage))
        is_best = tally.end_epoch(record, self.engine.updates)
        self._record(lambda recorder: recorder.curves(tally.history))
        self._save(self._state(), best=is_best)
        return sentence(record)

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the engine's part (collective)."""
        return self.tally.state_dict() | {
            "stream": self.run.train.state_dict(),
            "left_out": sorted(self.run.train.bad.left_out),
            "global_decisions": self.run.parts.model.global_decisions,
            "start_score": self.recorder.start_score if self.recorder else None,
            "tracker_id": tracker_id(self.run.folder.path),
        }

    def _save(self, state: dict[str, Any], *, best: bool) -> None:
        """Write a checkpoint."""
        self.watch.rest("saving")
        save_checkpoint(self.run, state, best=best)
        self.saved_at = self.engine.updates

    def _resume(self) -> ResumePoint | None:
        """Continue from the newest whole checkpoint when asked to; where that is."""
        self.watch.phase("reading the checkpoint")
        state = load_checkpoint(self.run)
        if state is None:
            return None
        self.run.train.load_state_dict(state["stream"])
        self.run.train.bad.add(state["left_out"])
        self.tally.load_state_dict(state)
        self.start_score = state["start_score"]
        self.run.parts.model.global_decisions = state["global_decisions"]
        if number := state.get("tracker_id"):
            self.ranks.on_main(lambda: self.run.folder.keep_tracker_id(number))
        self.saved_at = self.engine.updates
        return ResumePoint(self.saved_at, self._owes_end_of_epoch())
