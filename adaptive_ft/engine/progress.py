"""How far every rank has come, as rank 0 knows it, and which rank is to blame when a run does not go on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SILENT_BEATS = 3
"""A rank that has missed so many signs of life is taken for frozen rather than for waiting."""


@dataclass(frozen=True)
class Limits:
    """How long what may take, in seconds."""

    timeout: float
    """Without a sign of life, and for a judged step (--rank_timeout)."""
    beat: float
    """From one sign of life to the next."""
    grace: float
    """For the others to end by themselves after a rank that failed: ranks that fail together tell it one by one."""
    work: float
    """For work that is not judged, where others wait for it."""


@dataclass(frozen=True)
class Place:
    """Where a rank is: steps are counted alike on all ranks, and only judged ones must be followed by a next one.

    update: 0 outside of training.
    """

    steps: int = 0
    update: int = 0
    doing: str = "meeting the other ranks"
    judged: bool = False

    def __str__(self) -> str:
        return f"at update {self.update} ({self.doing})" if self.update else f"while {self.doing}"


@dataclass
class Seen:
    """What is known of one rank, by a clock of seconds."""

    heard: float
    stepped: float
    place: Place = field(default_factory=Place)
    ended: str | None = None
    """How its part of the run ended: "died", "failed" (it tells why itself) or "done"; None while it goes on."""
    ended_at: float = 0.0
    host: str | None = None
    """Its machine, None before it has come."""

    def hear(self, place: Place, now: float) -> None:
        """A sign of life."""
        if place != self.place:
            self.stepped = now
        self.heard, self.place = now, place

    def end(self, how: str, now: float) -> None:
        """The last that is heard."""
        self.ended, self.ended_at = how, now

    def forgive(self, now: float) -> None:
        """Count from now on: nothing could be heard until now."""
        self.heard = self.stepped = self.ended_at = now


def blame(ranks: Mapping[int, Seen], now: float, limits: Limits, world_size: int) -> str | None:
    """One sentence about the rank that keeps the others from going on, None while all is well.

    A rank died; or failed `grace` seconds ago while others still wait for it; or gave no sign of life for `timeout`
    seconds; or stands at one judged step for as long. Of those that stand, the one that is behind all others is to
    blame: these wait for it. A rank that waits for a slower one is never behind it.
    """
    for rank, seen in ranks.items():
        if seen.ended == "died":
            return f"{_who([rank], ranks, world_size)} died {seen.place}."
        if seen.ended == "failed" and now - seen.ended_at > limits.grace:
            return f"{_who([rank], ranks, world_size)} ended with an error of its own {seen.place}; it tells why."
    guilty, what, seconds = _standing({rank: seen for rank, seen in ranks.items() if seen.ended is None}, now, limits)
    if not guilty:
        return None
    have = "has" if len(guilty) == 1 else "have"
    option = " (--rank_timeout)" if seconds == limits.timeout else ""
    place = ranks[guilty[0]].place
    return f"{_who(guilty, ranks, world_size)} {have} {what} for {seconds:g} s{option} {place}."


def _standing(alive: Mapping[int, Seen], now: float, limits: Limits) -> tuple[list[int], str, float]:
    """The ranks to blame for standing still, how they do, and for how long; none while all go on."""
    no_sign, no_step = "given no sign of life", "made no step"
    silent = [rank for rank, seen in alive.items() if now - seen.heard > limits.timeout]
    if silent or not alive:
        return sorted(silent), no_sign, limits.timeout
    last = min(seen.place.steps for seen in alive.values())
    behind = {rank: seen for rank, seen in alive.items() if seen.place.steps == last}
    stuck = {rank: seen for rank, seen in behind.items() if seen.place.judged and now - seen.stepped > limits.timeout}
    # Ranks at one step: those that do not even give signs of life are to blame before those that do.
    frozen = [rank for rank, seen in stuck.items() if now - seen.heard > SILENT_BEATS * limits.beat]
    if frozen:
        return sorted(frozen), no_sign, limits.timeout
    if stuck:
        return sorted(stuck), no_step, limits.timeout
    # Work that takes long is nobody's fault unless others are further and wait for it.
    if len(behind) < len(alive):
        slow = [rank for rank, seen in behind.items() if not seen.place.judged and now - seen.stepped > limits.work]
        return sorted(slow), no_step, limits.work
    return [], "", 0.0


def _who(numbers: Iterable[int], ranks: Mapping[int, Seen], world_size: int) -> str:
    """Rank 1 of 4 (n2); Ranks 1 (n2), 3 (n4) of 4; without the machine of one that has never come."""
    names = [(str(number), f" ({ranks[number].host})" if ranks[number].host else "") for number in numbers]
    if len(names) == 1:
        ((number, host),) = names
        return f"Rank {number} of {world_size}{host}"
    return f"Ranks {', '.join(number + host for number, host in names)} of {world_size}"
