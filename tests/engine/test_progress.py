"""Which rank is to blame when a run does not go on."""

from adaptive_ft.engine.progress import Place, Seen, blame

TIMEOUT, BEAT, GRACE = 60.0, 2.0, 10.0


def seen(steps: int, *, heard: float = 0.0, stepped: float = 0.0, judged: bool = True) -> Seen:
    """A rank that was heard and made its last step so many seconds ago."""
    return Seen(-heard, -stepped, Place(steps, update=7, doing="training", judged=judged))


def told(*ranks: Seen) -> str | None:
    return blame(dict(enumerate(ranks)), 0.0, TIMEOUT, BEAT, GRACE)


def test_all_is_well() -> None:
    """Signs of life and steps, none older than the limit."""
    assert told(seen(5), seen(4, heard=59, stepped=59)) is None


def test_a_dead_rank_is_named_at_once() -> None:
    """With where it was."""
    dead = seen(4)
    dead.end("died", 0.0)
    assert told(seen(5), dead) == "Rank 1 died at update 7 (training)."


def test_a_rank_that_failed_has_time_to_be_followed_by_the_others() -> None:
    """A mistake of all ranks is told by one of them, and none is to blame."""
    failed = seen(4)
    failed.end("failed", -9.0)
    assert told(seen(5), failed) is None
    failed.end("failed", -11.0)
    assert (told(seen(5), failed) or "").startswith("Rank 1 ended with an error of its own at update 7")


def test_a_rank_that_is_done_is_not_missed() -> None:
    """It said goodbye."""
    done = seen(4, heard=1000, stepped=1000)
    done.end("done", -1000.0)
    assert told(seen(5), done) is None


def test_a_silent_rank_is_named_whatever_it_does() -> None:
    """Also while it saves."""
    sentence = "Rank 1 has given no sign of life for 60 s (--rank_timeout) at update 7 (training)."
    assert told(seen(5), seen(6, heard=61, stepped=61, judged=False)) == sentence


def test_the_rank_behind_is_to_blame_and_not_the_one_that_waits_for_it() -> None:
    """Rank 0 has been ready for an hour; rank 1 stands at an earlier step, or is slow and goes on."""
    waiting = seen(9, stepped=3600)
    assert told(waiting, seen(5, stepped=61)) == (
        "Rank 1 has made no step for 60 s (--rank_timeout) at update 7 (training)."
    )
    assert told(waiting, seen(5, stepped=59)) is None


def test_work_of_any_length_is_not_judged_by_its_steps() -> None:
    """Hashing a checkpoint: all stand, all give signs of life."""
    assert told(seen(5, stepped=3600, judged=False), seen(5, stepped=3600, judged=False)) is None


def test_of_ranks_at_one_step_the_frozen_one_is_to_blame() -> None:
    """It has missed its signs of life; where all give them, all are named."""
    assert told(seen(5, stepped=61), seen(5, heard=59, stepped=61)) == (
        "Rank 1 has given no sign of life for 60 s (--rank_timeout) at update 7 (training)."
    )
    assert (told(seen(5, stepped=61), seen(5, stepped=61)) or "").startswith("Ranks 0, 1 have made no step")
