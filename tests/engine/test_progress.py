"""Which rank is to blame when a run does not go on."""

from adaptive_ft.engine.progress import Limits, Place, Seen, blame

LIMITS = Limits(timeout=60.0, beat=2.0, grace=10.0, work=7000.0)


def seen(steps: int, *, heard: float = 0.0, stepped: float = 0.0, judged: bool = True) -> Seen:
    """A rank that was heard and made its last step so many seconds ago."""
    return Seen(-heard, -stepped, Place(steps, update=7, doing="training", judged=judged), host="n1")


def told(*ranks: Seen) -> str | None:
    return blame(dict(enumerate(ranks)), 0.0, LIMITS, len(ranks))


def test_all_is_well() -> None:
    """Signs of life and steps, none older than the limit."""
    assert told(seen(5), seen(4, heard=59, stepped=59)) is None


def test_a_dead_rank_is_named_at_once() -> None:
    """With where it was."""
    dead = seen(4)
    dead.end("died", 0.0)
    assert told(seen(5), dead) == "Rank 1 of 2 (n1) died at update 7 (training)."


def test_a_rank_that_failed_has_time_to_be_followed_by_the_others() -> None:
    """A mistake of all ranks is told by one of them, and none is to blame."""
    failed = seen(4)
    failed.end("failed", -9.0)
    assert told(seen(5), failed) is None
    failed.end("failed", -11.0)
    assert (told(seen(5), failed) or "").startswith("Rank 1 of 2 (n1) ended with an error of its own at update 7")


def test_a_rank_that_is_done_is_not_missed() -> None:
    """It said goodbye."""
    done = seen(4, heard=1000, stepped=1000)
    done.end("done", -1000.0)
    assert told(seen(5), done) is None


def test_a_silent_rank_is_named_whatever_it_does() -> None:
    """Also while it saves."""
    sentence = "Rank 1 of 2 (n1) has given no sign of life for 60 s (--rank_timeout) at update 7 (training)."
    assert told(seen(5), seen(6, heard=61, stepped=61, judged=False)) == sentence


def test_the_rank_behind_is_to_blame_and_not_the_one_that_waits_for_it() -> None:
    """Rank 0 has been ready for an hour; rank 1 stands at an earlier step, or is slow and goes on."""
    waiting = seen(9, stepped=3600)
    assert told(waiting, seen(5, stepped=61)) == (
        "Rank 1 of 2 (n1) has made no step for 60 s (--rank_timeout) at update 7 (training)."
    )
    assert told(waiting, seen(5, stepped=59)) is None


def test_work_of_any_length_is_not_judged_by_its_steps() -> None:
    """Hashing a checkpoint: all stand, all give signs of life."""
    assert told(seen(5, stepped=3600, judged=False), seen(5, stepped=3600, judged=False)) is None


def test_of_ranks_at_one_step_the_frozen_one_is_to_blame() -> None:
    """It has missed its signs of life; where all give them, all are named."""
    assert told(seen(5, stepped=61), seen(5, heard=59, stepped=61)) == (
        "Rank 1 of 2 (n1) has given no sign of life for 60 s (--rank_timeout) at update 7 (training)."
    )
    assert (told(seen(5, stepped=61), seen(5, stepped=61)) or "").startswith(
        "Ranks 0 (n1), 1 (n1) of 2 have made no step"
    )


def test_a_rank_that_has_never_come_is_named_without_its_machine() -> None:
    """Nothing was heard of it."""
    assert told(seen(0), Seen(-61, -61)) == (
        "Rank 1 of 2 has given no sign of life for 60 s (--rank_timeout) while meeting the other ranks."
    )


def test_a_rank_that_dies_before_the_training_is_named_with_what_it_did() -> None:
    """No update is spoken of."""
    dead = Seen(0, 0, Place(3, doing="building the model"), host="n2")
    dead.end("died", 0)
    assert told(seen(3), dead) == "Rank 1 of 2 (n2) died while building the model."


def test_work_that_others_wait_for_ends_before_their_collective_does() -> None:
    """Whoever builds the model alone for two hours is named; as long as all of them do, it is a slow disk."""
    slow = Seen(0, -7001, Place(3, doing="building the model"), host="n2")
    assert told(slow, slow) is None
    assert told(seen(4), slow) == "Rank 1 of 2 (n2) has made no step for 7000 s while building the model."
