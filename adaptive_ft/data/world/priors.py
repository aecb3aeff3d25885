"""Chooses questions: which template, which answer, which wording, so that each split has its answer priors.

In the source domain the answers of a question type are evened out. In the target domain they stand in an
order; of the answers a picture allows, each is drawn `prior_ratio` times as often as the one before it. The
order of target/val is that of target/train reversed: priors turn between training and test, as in VQA-CP;
target/val_indomain has the order of target/train.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from adaptive_ft.data.world.attributes import Scene
from adaptive_ft.data.world.config import Split, WorldConfig
from adaptive_ft.data.world.questions import TEMPLATES, Asked, Template

_PRIOR_STREAM = 99
"""Keeps the drawing of the orders apart from the drawing of the pictures."""


@dataclass(frozen=True, slots=True)
class Priors:
    """A split's answer priors: for each template its answers from the most to the least frequent."""

    orders: tuple[tuple[str, ...], ...]
    ratio: float

    def draw_answer(self, which: int, allowed: Iterable[str], rng: np.random.Generator) -> str:
        """One of the `allowed` answers of template number `which`."""
        ranked = sorted(allowed, key=self.orders[which].index)
        weights = self.ratio ** np.arange(len(ranked))
        return ranked[int(rng.choice(len(ranked), p=weights / weights.sum()))]


def split_priors(config: WorldConfig, split: Split) -> Priors:
    """The priors of one split of a world."""
    if split.domain == "source":
        return Priors(tuple(template.answers for template in TEMPLATES), 1.0)
    rng = np.random.default_rng([config.seed, _PRIOR_STREAM])
    orders = [tuple(str(answer) for answer in rng.permutation(template.answers)) for template in TEMPLATES]
    step = -1 if split.turns_priors else 1
    return Priors(tuple(order[::step] for order in orders), config.prior_ratio)


def choose_questions(
    scene: Scene, number: int, priors: Priors, rng: np.random.Generator
) -> list[tuple[Template, Asked]]:
    """Draw `number` different questions about the scene: a template evenly, its answer by `priors`."""
    chosen: dict[str, tuple[Template, Asked]] = {}
    by_template: dict[int, dict[str, list[Asked]]] = {}
    while len(chosen) < number:
        which = int(rng.integers(len(TEMPLATES)))
        if which not in by_template:
            by_template[which] = _by_answer(TEMPLATES[which], scene)
        answers = by_template[which]
        if answers:
            fitting = answers[priors.draw_answer(which, answers, rng)]
            asked = fitting[int(rng.integers(len(fitting)))]
            chosen.setdefault(asked.text, (TEMPLATES[which], asked))
    return list(chosen.values())


def _by_answer(template: Template, scene: Scene) -> dict[str, list[Asked]]:
    """All questions of the template about the scene, sorted by their answer."""
    groups: dict[str, list[Asked]] = defaultdict(list)
    for asked in template.ask(scene):
        groups[asked.answer].append(asked)
    return groups
