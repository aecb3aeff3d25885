"""Ten simulated people answer each question: mostly right, sometimes off by one, and each in their own words.

Errors are the ones people make: a neighbouring count, a similar colour or shape, the other side. Some
questions are hard and draw most of the errors. Words differ too: some write "two" or "Red.", which the
official answer processing undoes, others say "big" for "large", which it does not; so the soft scores are
real ones.
"""

import numpy as np

from adaptive_ft.data.world.attributes import COLORS, HEIGHTS, SHAPES, SIDES, SIZES
from adaptive_ft.data.world.questions import COUNTS, MAX_COUNT, YES_NO

NUM_ANNOTATORS = 10
SYNONYMS = {"large": "big", "small": "little", "purple": "violet", "top": "up", "bottom": "down"}
SYNONYM_SHARE = 0.12
STYLE_SHARE = 0.15
"""Share of answers written in an unusual way that answer processing undoes."""

HARD_SHARE = 0.2
"""Share of hard questions; they draw the errors of HARD_FACTOR easy ones."""

HARD_FACTOR = 6.0

CONFUSIONS: dict[str, tuple[str, ...]] = {
    "yes": ("no",),
    "no": ("yes",),
    "small": ("large",),
    "large": ("small",),
    "red": ("orange", "purple"),
    "orange": ("red", "yellow"),
    "yellow": ("orange", "green"),
    "green": ("blue", "yellow"),
    "blue": ("purple", "green"),
    "purple": ("blue", "red"),
    "circle": ("square",),
    "square": ("circle", "cross"),
    "triangle": ("star",),
    "star": ("cross", "triangle"),
    "cross": ("star", "square"),
    "left": ("right",),
    "right": ("left",),
    "top": ("bottom",),
    "bottom": ("top",),
    **{
        str(count): tuple(str(near) for near in (count - 1, count + 1) if 0 <= near <= MAX_COUNT)
        for count in range(MAX_COUNT + 1)
    },
}

NUMBER_WORDS = dict(zip(COUNTS, ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight"), strict=True))

ANSWER_TABLE = (*YES_NO, *COUNTS, *COLORS, *SHAPES, *SIZES, *SIDES, *HEIGHTS, *SYNONYMS.values())
"""Every processed answer that an annotator can give, in the order of the classes."""


def annotate(answer: str, disagreement: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Ten raw answers to a question whose true answer is `answer`; `disagreement` is the mean error rate."""
    easy_rate = disagreement / (1 - HARD_SHARE + HARD_SHARE * HARD_FACTOR)
    rate = easy_rate * HARD_FACTOR if rng.random() < HARD_SHARE else easy_rate
    given = []
    for _ in range(NUM_ANNOTATORS):
        said = str(rng.choice(CONFUSIONS[answer])) if rng.random() < rate else answer
        if rng.random() < SYNONYM_SHARE:
            said = SYNONYMS.get(said, said)
        given.append(_in_own_style(said, rng) if rng.random() < STYLE_SHARE else said)
    return tuple(given)


def _in_own_style(answer: str, rng: np.random.Generator) -> str:
    """The same answer as a hasty person types it."""
    ways = (answer.capitalize(), f"{answer}.", NUMBER_WORDS.get(answer, f" {answer}"))
    return ways[int(rng.integers(len(ways)))]
