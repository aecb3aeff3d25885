"""A run's model asked about shards: one pass under its engine and watchdog, which ends early where a stop is asked."""

import functools
from collections.abc import Callable, Iterable
from contextlib import closing

from adaptive_ft.build import Run
from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.evaluation import Evaluation, Pass, Watch

Heed = Callable[[Iterable[RawBatch]], Iterable[RawBatch]]
"""Passes batches on until the run is asked to stop, and raises then."""


def judge(run: Run, shards: ShardSet, heed: Heed, watch: Watch, policy: str | None = None) -> Evaluation:
    """What the model of `run` makes of all examples of `shards` (collective).

    `watch` is shown every batch with its logits [B, A] and gates [B, D]; `policy` is a word that sets all gates.
    """
    run.engine.module.eval()
    with closing(iter(run.open_val(shards))) as batches:  # its readers end where the pass does
        one_pass = Pass(
            functools.partial(run.engine, policy=policy),
            run.watch.steps(heed(batches), run.engine.updates, "evaluating", then="scoring"),
            shards.num_examples,
            run.parts.task,
            run.parts.model.tying,
            run.ranks,
            run.engine.dtype,
            watch,
        )
        return one_pass.judge()
