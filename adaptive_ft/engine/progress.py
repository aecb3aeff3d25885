"""How far every rank has come, as rank 0 knows it, and which rank is to blame when a run does not go on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

SILENT_BEATS = 3
"""A rank that has missed so many signs of life is taken for frozen rather than for waiting."""


@dataclass(frozen=True)
class Place:
    """Where a rank is: steps are counted alike on all ranks, and only judged ones must be followed by a next one."""

    steps: int = 0
    update: int = 0
    doing: str = "starting"
    judged: bool = False


@dataclass
class Seen:
    """What is known of one rank, by a clock of seconds."""

    heard: float
    stepped: float
    place: Place = field(default_factory=Place)
    ended: str | None = None
    """How its part of the run ended: "died", "failed" (it tells why itself) or "done"; None while it goes on."""
    ended_at: float = 0.0

    def hear(self, place: Place, now: float) -> None:
        """A sign of life."""
        if place != self.place:
            self.stepped = now
        self.heard, self.place = now, place

    def end(self, how: str, now: float) -> None:
        """The last that is heard."""
        self.ended, self.ended_at = how, now


def blame(ranks: Mapping[int, Seen], now: float, timeout: float, beat: float, grace: float) -> str | None:
    """One sentence about the rank that keeps the others from going on, None while all is well.

    A rank died; or failed `grace` seconds ago while others still wait for it; or gave no sign of life for `timeout`
    seconds; or stands at one judged step for as long. Of those that stand, the one that is behind all others is to
    blame: these wait for it. A rank that waits for a slower one is never behind it.
    """
    for rank, seen in ranks.items():
        where = f"at update {seen.place.update} ({seen.place.doing})"
        if seen.ended == "died":
            return f"Rank {rank} died {where}."
        if seen.ended == "failed" and now - seen.ended_at > grace:
            return f"Rank {rank} ended with an error of its own {where}; it tells why."
    alive = {rank: seen for rank, seen in ranks.items() if seen.ended is None}
    silent = [rank for rank, seen in alive.items() if now - seen.heard > timeout]
    if not silent and alive:
        last = min(seen.place.steps for seen in alive.values())
        behind = {rank: seen for rank, seen in alive.items() if seen.place.steps == last}
        stuck = {rank: seen for rank, seen in behind.items() if seen.place.judged and now - seen.stepped > timeout}
        # Ranks at one step: those that do not even give signs of life are to blame before those that do.
        silent = [rank for rank, seen in stuck.items() if now - seen.heard > SILENT_BEATS * beat]
        if stuck and not silent:
            return _sentence(sorted(stuck), ranks, "made no step", timeout)
    return _sentence(sorted(silent), ranks, "given no sign of life", timeout) if silent else None


def _sentence(guilty: list[int], ranks: Mapping[int, Seen], what: str, timeout: float) -> str:
    place = ranks[guilty[0]].place
    who = f"Rank {guilty[0]} has" if len(guilty) == 1 else f"Ranks {', '.join(map(str, guilty))} have"
    return f"{who} {what} for {timeout:g} s (--rank_timeout) at update {place.update} ({place.doing})."
