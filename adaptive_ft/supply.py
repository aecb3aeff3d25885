"""The share of the steps' time that is spent waiting for data, and what was left out of the data as damaged."""

import torch

from adaptive_ft.data.reading.stream import TrainStream
from adaptive_ft.engine.ranks import Ranks


class SupplyMeter:
    """How much of the training steps was waiting for the stream's next batch."""

    def __init__(self, stream: TrainStream) -> None:
        self._stream = stream
        self._waited_before = 0.0

    def window(self, ranks: Ranks, step_seconds: float) -> dict[str, float]:
        """Since the last call, over all ranks (collective); training steps took `step_seconds`.

        data_stall_share: max over ranks of (seconds waited / seconds of all steps), since one late rank stops all; 0
        before the first step. data_skipped: damaged examples left out of training, each counted once whoever met it.
        Raises UserError, on every rank, where these are too many.
        """
        waited, bad = self._stream.seconds_waited, self._stream.bad
        own_share = (waited - self._waited_before) / step_seconds if step_seconds else 0.0
        self._waited_before = waited
        own = torch.tensor([own_share, len(bad.left_out)], dtype=torch.float64)
        share, skipped = ranks.max(own).tolist()
        if skipped:  # known to every rank, so that all go the same way
            everyone = ranks.broadcast(frozenset().union(*ranks.gather(bad.left_out)))
            bad.add(everyone)
            skipped = len(everyone)
        return {"data_stall_share": share, "data_skipped": float(skipped)}
