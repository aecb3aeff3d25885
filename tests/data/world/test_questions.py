"""Questions: each true answer is worked out again here, from the words of the question and the scene alone."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from adaptive_ft.data.world.attributes import COLORS, SHAPES, SIZES, Scene, WorldObject
from adaptive_ft.data.world.questions import TEMPLATES, Template
from adaptive_ft.data.world.scenes import draw_scene

SCENES = [draw_scene(domain, 0.5, np.random.default_rng(seed)) for domain in ("source", "target") for seed in range(12)]


def _named(scene: Scene, words: str) -> list[WorldObject]:
    """The objects that "large red circles", "things", ... can mean."""
    fitting = list(scene.objects)
    for word in words.split():
        single = {"things": "thing", "crosses": "cross"}.get(word, word.removesuffix("s"))
        word = word if word in (*COLORS, *SIZES, *SHAPES) else single
        assert word in (*COLORS, *SIZES, *SHAPES, "thing")
        if word != "thing":
            fitting = [thing for thing in fitting if word in (thing.color, thing.shape, thing.size)]
    return fitting


def _the(scene: Scene, words: str) -> WorldObject:
    (only,) = _named(scene, words)
    return only


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


RULES: dict[str, Callable[..., str]] = {
    r"is there a (.+)\?": lambda scene, what: _yes(len(_named(scene, what)) > 0),
    r"how many (.+) are there\?": lambda scene, what: str(len(_named(scene, what))),
    r"what color is the (.+)\?": lambda scene, what: _the(scene, what).color,
    r"what shape is the (.+)\?": lambda scene, what: _the(scene, what).shape,
    r"what size is the (.+)\?": lambda scene, what: _the(scene, what).size,
    r"on which side is the (.+)\?": lambda scene, what: ["left", "right"][int(_the(scene, what).x // 56)],
    r"at which height is the (.+)\?": lambda scene, what: ["top", "bottom"][int(_the(scene, what).y // 56)],
    r"are there more (.+) than (.+)\?": lambda scene, one, other: _yes(
        len(_named(scene, one)) > len(_named(scene, other))
    ),
    r"is the (.+) left of the (.+)\?": lambda scene, one, other: _yes(_the(scene, one).x < _the(scene, other).x),
    r"is the (.+) above the (.+)\?": lambda scene, one, other: _yes(_the(scene, one).y < _the(scene, other).y),
}


def _work_out(scene: Scene, text: str) -> str:
    for pattern, rule in RULES.items():
        found = re.fullmatch(pattern, text)
        if found:
            return rule(scene, *found.groups())
    raise AssertionError(f"no rule reads '{text}'")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.question_type)
def test_every_answer_follows_from_the_scene(template: Template) -> None:
    given = set()
    for scene in SCENES:
        for asked in template.ask(scene):
            assert asked.text.startswith(template.question_type)
            assert asked.answer == _work_out(scene, asked.text), asked.text
            assert asked.answer in template.answers
            given.add(asked.answer)
    rare = {str(number) for number in range(4, 9)}
    assert given >= set(template.answers) - rare


def test_a_scene_gives_each_question_once() -> None:
    for scene in SCENES:
        texts = [asked.text for template in TEMPLATES for asked in template.ask(scene)]
        assert len(texts) == len(set(texts))


def test_no_question_tells_its_own_answer() -> None:
    for scene in SCENES:
        for template in TEMPLATES:
            assert all(asked.answer not in asked.text.rstrip("?").split() for asked in template.ask(scene))
