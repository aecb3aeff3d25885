"""A finished run judged on the further validation sets of --data.also_val: once, by the weights of its last update.

also_val.json holds by address {"score", "official_accuracy", "best_constant", "data"}: shares in [0, 1], the score of
the best constant answer, and the fingerprint of the shards.
"""

from typing import Any

import torch

from adaptive_ft.build import Run
from adaptive_ft.data.reading.choice import all_questions
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.evaluation import Unsound
from adaptive_ft.judging import Heed, judge
from adaptive_ft.tasks.vqa_accuracy import best_constant_answer


def judge_further_sets(run: Run, heed: Heed) -> dict[str, Any]:
    """The scores by address, written to the run's folder set by set; those that are there are kept (collective).

    `heed` passes batches on until the run is asked to stop: the sets before are not judged again then.
    """
    addresses = dict(zip(run.config.data.also_val, run.parts.also_val_shards, strict=True))
    scores: dict[str, Any] = run.ranks.on_main(lambda: _kept(run, addresses))
    for address in [address for address in addresses if address not in scores]:  # in one order on all ranks
        found = _judge(run, addresses[address], heed)
        if run.ranks.is_main:
            print(f"{address}: {100 * found['score']:.2f}", flush=True)
        scores[address] = found
        run.ranks.on_main(lambda: run.folder.write_also_val(scores))
    return scores


def _kept(run: Run, addresses: dict[str, ShardSet]) -> dict[str, Any]:
    """What an earlier start of the finished run has written about the same shards."""
    try:
        found = run.folder.also_val()
    except UserError as damaged:
        print(f"{damaged} All further sets are judged again.", flush=True)
        return {}
    return {
        address: found[address]
        for address, shards in addresses.items()
        if address in found and found[address]["data"] == shards.fingerprint
    }


def _judge(run: Run, shards: ShardSet, heed: Heed) -> dict[str, Any]:
    torch.manual_seed(run.config.seed)  # matters only where the config samples gates in evaluation
    unsound = Unsound()
    holder = run.parts.model.holder
    with holder.told_later():
        evaluation = judge(run, shards, heed, unsound)
    unsound.refuse(run.ranks, shards.address, holder)
    return run.ranks.on_main(lambda: _scores(run, shards, evaluation.report))


def _scores(run: Run, shards: ShardSet, report: Any) -> dict[str, Any]:
    constant = best_constant_answer(all_questions(shards), run.parts.task.answer_table)
    return {
        "score": report.overall.soft,
        "official_accuracy": report.overall.official,
        "best_constant": {"answer": constant.answer, "score": constant.score.soft},
        "data": shards.fingerprint,
    }
