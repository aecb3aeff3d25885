"""Answer priors: even in the source domain, turned round between training and validation in the target domain."""

from collections import Counter

import numpy as np

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.world import WorldConfig
from adaptive_ft.data.world.attributes import Scene
from adaptive_ft.data.world.config import WORLD_SPLITS
from adaptive_ft.data.world.priors import Priors, choose_questions, split_priors
from adaptive_ft.data.world.questions import TEMPLATES
from adaptive_ft.data.world.scenes import draw_scene

Made = dict[str, list[tuple[Scene, ImageRecord]]]


def test_target_orders_are_turned_round() -> None:
    source, _, train, val, indomain = (split_priors(WorldConfig(), split) for split in WORLD_SPLITS)
    assert source.ratio == 1
    assert indomain == train
    for one, other, template in zip(train.orders, val.orders, TEMPLATES, strict=True):
        assert one == other[::-1]
        assert set(one) == set(template.answers)


def test_answers_are_drawn_in_the_wanted_shares() -> None:
    priors, rng = Priors((("a", "b", "c"),), 0.5), np.random.default_rng(0)
    drawn = Counter(priors.draw_answer(0, ("c", "a"), rng) for _ in range(3000))
    assert abs(drawn["a"] / 3000 - 2 / 3) < 0.03
    assert set(drawn) == {"a", "c"}


def test_questions_about_a_picture_differ() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene = draw_scene("source", 0.5, rng)
        chosen = choose_questions(scene, 9, split_priors(WorldConfig(), WORLD_SPLITS[0]), rng)
        assert len({asked.text for _, asked in chosen}) == 9


def test_priors_shift_between_target_train_and_val(made: Made) -> None:
    """The best constant answers of one target split score far worse on the other."""
    for one, other in (("target/train", "target/val"), ("target/val", "target/train")):
        best = {kind: answers.most_common(1)[0][0] for kind, answers in _counts(made, one).items()}
        at_home, away = (_share_right(_counts(made, split), best) for split in (one, other))
        assert at_home > away + 0.15


def test_priors_stay_between_target_train_and_indomain_validation(made: Made) -> None:
    """The best constant answers of training score there as at home, on other pictures and questions."""
    counts = _counts(made, "target/train")
    best = {kind: answers.most_common(1)[0][0] for kind, answers in counts.items()}
    assert abs(_share_right(counts, best) - _share_right(_counts(made, "target/val_indomain"), best)) < 0.08
    assert {record.features.tobytes() for _, record in made["target/train"]}.isdisjoint(
        record.features.tobytes() for _, record in made["target/val_indomain"]
    )


def _counts(made: Made, split: str) -> dict[str, Counter[str]]:
    """How often each answer is the majority's, by question type."""
    counts: dict[str, Counter[str]] = {template.question_type: Counter() for template in TEMPLATES}
    for _, record in made[split]:
        for question in record.questions:
            counts[question.question_type][Counter(question.answers).most_common(1)[0][0]] += 1
    return counts


def _share_right(counts: dict[str, Counter[str]], best: dict[str, str]) -> float:
    right = sum(answers[best[kind]] for kind, answers in counts.items())
    return right / sum(answers.total() for answers in counts.values())
