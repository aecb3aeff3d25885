"""One micro-batch of training: forward, losses, backward, and what is counted of it."""

import torch

from adaptive_ft.build import Run
from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.divergence import Divergence
from adaptive_ft.losses import policy_losses
from adaptive_ft.tally import Tally
from adaptive_ft.throughput import ThroughputMeter


class MicroBatch:
    """Learns from one raw batch after the other under the engine of `run`, and tells those who count or watch."""

    def __init__(self, run: Run, tally: Tally, throughput: ThroughputMeter, divergence: Divergence) -> None:
        self._run, self._tally, self._throughput, self._divergence = run, tally, throughput, divergence

    def __call__(self, raw: RawBatch) -> None:
        """Add the gradients of `raw` to those of the update."""
        config, ranks, engine, parts = self._run.config, self._run.ranks, self._run.engine, self._run.parts
        task = parts.task
        self._divergence.feed(raw)
        batch = task.collate(task.augment(raw)).to(ranks.device, engine.dtype)
        num_valid = int(raw.valid_B.sum())  # on the CPU, so that nothing waits for the device
        with self._throughput.forward(batch.inputs, num_valid):
            outputs = engine(**batch.inputs)
        logits_BA = task.logits(outputs)
        answer_loss = task.loss(logits_BA, batch)
        self._divergence.result(answer_loss, outputs.gates)
        # What was left out as damaged has no say in the policy losses either.
        gates_BD = outputs.gates if num_valid in (0, len(batch)) else outputs.gates[batch.valid_B]
        extra = policy_losses(gates_BD, config.losses, parts.model.tying.num_live, ranks.mean_with_local_gradient)
        engine.backward(torch.stack([answer_loss, *extra.values()]).sum())
        values = {
            "loss": answer_loss.detach(),
            "score": task.soft_scores(logits_BA.detach(), batch).sum() / batch.valid_B.sum().clamp(min=1),
            **{f"loss_{name}": value.detach() for name, value in extra.items()},
        }
        self._tally.micro_batch(values, num_valid, outputs.gates, batch.valid_B)
