"""The question templates: every sensible question about a scene with its true answer.

A thing is named by an expression such as "large red circle" or "green thing". Questions about one thing are
asked only when the expression fits exactly one object, so that every question has one true answer. Each
template owns one question type, named by its first words as VQA names them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations, product

from adaptive_ft.data.world.attributes import COLORS, HEIGHTS, IMAGE_SIZE, SHAPES, SIDES, SIZES, Scene, WorldObject

PLURALS = {"cross": "crosses"}
CLEAR = 8.0
"""Pixels by which things must differ in place before a question asks about it."""

MAX_COUNT = 8
COUNTS = tuple(str(number) for number in range(MAX_COUNT + 1))
YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Expression:
    """What a thing is called: any of its attributes, each None when it is not said."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None

    def fits(self, thing: WorldObject) -> bool:
        """Whether the object has every attribute that is said."""
        return (
            self.shape in (None, thing.shape) and self.color in (None, thing.color) and self.size in (None, thing.size)
        )

    def words(self, *, plural: bool = False) -> str:
        """The expression in words; a shape that is not said becomes "thing"."""
        noun = self.shape or "thing"
        noun = PLURALS.get(noun, noun + "s") if plural else noun
        return " ".join(word for word in (self.size, self.color, noun) if word)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with its true answer."""

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of question: its types, its possible answers, and all its questions about a scene."""

    question_type: str
    answer_type: str
    answers: tuple[str, ...]
    ask: Callable[[Scene], Iterator[Asked]]


def _expressions(*, sizes: bool) -> tuple[Expression, ...]:
    """Every expression that says a colour or a shape, with the sizes if wanted."""
    said = product((None, *SIZES) if sizes else (None,), (None, *COLORS), (None, *SHAPES))
    return tuple(Expression(*words) for words in said if words[1] or words[2])


_NAMED = _expressions(sizes=False)
_COLORED = tuple(Expression(size, color) for size in (None, *SIZES) for color in COLORS)
_SHAPED = tuple(Expression(size, None, shape) for size in (None, *SIZES) for shape in SHAPES)


def _single(scene: Scene, expressions: tuple[Expression, ...]) -> Iterator[tuple[Expression, WorldObject]]:
    """Each expression that fits exactly one object, with that object."""
    for expression in expressions:
        fitting = [thing for thing in scene.objects if expression.fits(thing)]
        if len(fitting) == 1:
            yield expression, fitting[0]


def _number(scene: Scene, expression: Expression) -> int:
    """How many objects the expression fits."""
    return sum(expression.fits(thing) for thing in scene.objects)


def _ask_exists(scene: Scene) -> Iterator[Asked]:
    for expression in _NAMED:
        yield Asked(f"is there a {expression.words()}?", "yes" if _number(scene, expression) else "no")


def _ask_count(scene: Scene) -> Iterator[Asked]:
    for expression in _NAMED:
        yield Asked(f"how many {expression.words(plural=True)} are there?", str(_number(scene, expression)))


def _ask_color(scene: Scene) -> Iterator[Asked]:
    for expression, thing in _single(scene, _SHAPED):
        yield Asked(f"what color is the {expression.words()}?", thing.color)


def _ask_shape(scene: Scene) -> Iterator[Asked]:
    for expression, thing in _single(scene, _COLORED):
        yield Asked(f"what shape is the {expression.words()}?", thing.shape)


def _ask_size(scene: Scene) -> Iterator[Asked]:
    for expression, thing in _single(scene, _NAMED):
        yield Asked(f"what size is the {expression.words()}?", thing.size)


def _ask_side(scene: Scene) -> Iterator[Asked]:
    """The half of the picture, left or right, that a thing is clearly in."""
    for expression, thing in _single(scene, _NAMED):
        if abs(thing.x - IMAGE_SIZE / 2) >= CLEAR:
            yield Asked(f"on which side is the {expression.words()}?", "left" if thing.x < IMAGE_SIZE / 2 else "right")


def _ask_height(scene: Scene) -> Iterator[Asked]:
    """The half of the picture, top or bottom, that a thing is clearly in."""
    for expression, thing in _single(scene, _NAMED):
        if abs(thing.y - IMAGE_SIZE / 2) >= CLEAR:
            yield Asked(
                f"at which height is the {expression.words()}?", "top" if thing.y < IMAGE_SIZE / 2 else "bottom"
            )


def _ask_more(scene: Scene) -> Iterator[Asked]:
    """Two shapes or two colours compared in number, where at least one of them is there."""
    shapes = [Expression(shape=shape) for shape in SHAPES]
    colors = [Expression(color=color) for color in COLORS]
    for group in (shapes, colors):
        numbers = [_number(scene, expression) for expression in group]
        for first, second in permutations(range(len(group)), 2):
            if numbers[first] or numbers[second]:
                more, fewer = (group[place].words(plural=True) for place in (first, second))
                answer = "yes" if numbers[first] > numbers[second] else "no"
                yield Asked(f"are there more {more} than {fewer}?", answer)


def _ask_beside(scene: Scene) -> Iterator[Asked]:
    """Whether one single thing is left of another, or above it, where that is clear."""
    colored = tuple(expression for expression in _NAMED if expression.color)
    for (first, one), (second, other) in permutations(_single(scene, colored), 2):
        if one is other:
            continue
        for words, offset in (("left of", other.x - one.x), ("above", other.y - one.y)):
            if abs(offset) >= CLEAR:
                text = f"is the {first.words()} {words} the {second.words()}?"
                yield Asked(text, "yes" if offset > 0 else "no")


TEMPLATES = (
    Template("is there a", "yes/no", YES_NO, _ask_exists),
    Template("how many", "number", COUNTS, _ask_count),
    Template("what color is the", "other", COLORS, _ask_color),
    Template("what shape is the", "other", SHAPES, _ask_shape),
    Template("what size is the", "other", SIZES, _ask_size),
    Template("on which side is the", "other", SIDES, _ask_side),
    Template("at which height is the", "other", HEIGHTS, _ask_height),
    Template("are there more", "yes/no", YES_NO, _ask_more),
    Template("is the", "yes/no", YES_NO, _ask_beside),
)
