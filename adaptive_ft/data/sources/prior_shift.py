"""Questions divided anew so that the answers of a question type come in other shares in training than in validation.

The groups of questions go to the two sides as VQA-CP's do (Agrawal, Batra, Parikh and Kembhavi, "Don't Just Assume;
Look and Answer", CVPR 2018, arXiv 1712.00377, section 4). Two things are added: some images are put aside with all
their questions, to pretrain on, and no image that is trained on is validated on, which VQA-CP allows.
"""

import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adaptive_ft.data.answers import process_answer
from adaptive_ft.data.records import Question
from adaptive_ft.errors import UserError

SOURCE_TRAIN, SOURCE_VAL = "source_train", "source_val"
TRAIN, SHIFTED, IN_DOMAIN = "target_train", "target_val", "target_val_indomain"
PARTS = (SOURCE_TRAIN, SOURCE_VAL, TRAIN, SHIFTED, IN_DOMAIN)
_WORDS = re.compile(r"\w+")
Group = tuple[str, str]
"""Question type and answer."""


@dataclass(frozen=True)
class Shares:
    """How much goes where; all are shares in [0, 1]."""

    source: float = 0.5
    """Share of the images that are put aside to pretrain on, with the answers as they come."""
    source_val: float = 0.1
    """Share of those that the pretraining is validated on."""
    val: float = 0.4
    """Share of the other images that are validated on."""
    shifted: float = 1 / 3
    """Share of the other images' questions in the groups that training does not have."""
    crossing: float = 0.0
    """Share of the questions that change the side of their group, so that training has a few of every group and the
    priors are turned round, not apart; VQA-CP, as it is described, has none."""

    def check(self) -> None:
        """Raises UserError for a share that is none, or for an empty part."""
        for name, share in vars(self).items():
            if not 0 <= share < 1 or (share == 0 and name != "crossing"):
                raise UserError(f"The share '{name}' is {share}; give one between 0 and 1.")


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a question decides where it goes: `words` are those of question and answer."""

    number: int
    image_id: str
    group: Group
    words: tuple[str, ...]

    @property
    def question_type(self) -> str:
        """The first words, as the annotations name them."""
        return self.group[0]

    @property
    def answer(self) -> str:
        """The one that most people gave."""
        return self.group[1]


def asked(image_id: str, question: Question) -> Asked:
    """What `question` is to the division; its answer is the most frequent of the ten, of equals the one given first.

    Raises:
        UserError: it has no question type or no ten answers.
    """
    if not question.question_type or not question.answers:
        lacking = "answers" if question.question_type else "question_type"
        raise UserError(f"question {question.question_id} has no {lacking}, by which questions are grouped")
    answer = Counter(map(process_answer, question.answers)).most_common(1)[0][0]
    words = dict.fromkeys(_WORDS.findall(f"{question.text} {answer}".lower()))
    # Half a million questions have few different words: each is kept once.
    group = (sys.intern(question.question_type), sys.intern(answer))
    return Asked(question.question_id, image_id, group, tuple(map(sys.intern, words)))


def divide(questions: Sequence[Asked], shares: Shares, seed: int) -> dict[str, list[Asked]]:
    """The questions of every part by number; the same for equal questions, shares and seed, in any order.

    source_train, source_val: all questions about the images that are put aside. Of the others target_train and
    target_val_indomain have the groups of one side, target_val those of the other. Questions of the other side about
    images that are trained on are left out.

    Raises:
        UserError: a part would be empty.
    """
    draw = random.Random(seed)
    questions = sorted(questions, key=lambda question: question.number)
    images = sorted({question.image_id for question in questions})
    source, target = _drawn(images, shares.source, draw)
    source_val, _ = _drawn(sorted(source), shares.source_val, draw)
    val, _ = _drawn(sorted(target), shares.val, draw)
    shifted = shifted_groups([question for question in questions if question.image_id in target], shares.shifted, draw)
    parts: dict[str, list[Asked]] = {part: [] for part in PARTS}
    for question in questions:
        if question.image_id in source:
            parts[SOURCE_VAL if question.image_id in source_val else SOURCE_TRAIN].append(question)
            continue
        is_shifted = (question.group in shifted) != (draw.random() < shares.crossing)
        if question.image_id in val:
            parts[SHIFTED if is_shifted else IN_DOMAIN].append(question)
        elif not is_shifted:
            parts[TRAIN].append(question)
    empty = [part for part, found in parts.items() if not found]
    if empty:
        raise UserError(
            f"{len(questions)} questions about {len(images)} images leave nothing for {' and '.join(empty)}: give more "
            "questions, or other shares."
        )
    return parts


def _drawn(names: Sequence[str], share: float, draw: random.Random) -> tuple[set[str], set[str]]:
    """`share` of the names by chance, and the others."""
    order = list(names)
    draw.shuffle(order)
    cut = round(share * len(order))
    return set(order[:cut]), set(order[cut:])


def shifted_groups(questions: Sequence[Asked], share: float, draw: random.Random) -> set[Group]:
    """The groups of the shifted side, with about `share` of the questions.

    Greedy, as VQA-CP: one group after the other that is not on the training side yet goes to the shifted side, and
    after each the free group that has most of the words that the shifted side has and the training side lacks goes to
    the training side. When the shifted side has its share, what is left goes to the training side.

    VQA-CP does not say in which order the groups come. Here a group comes with the first of its questions, these in an
    order by chance, so that large groups come early: otherwise all of them would go to the training side, having most
    words, and the shifted side would be rare answers. VQA-CP leaves stop words out; here they are words like others,
    as the first training groups have them all.
    """
    sizes, words = Counter[Group](), defaultdict[Group, set[str]](set)
    for question in draw.sample(questions, len(questions)):
        sizes[question.group] += 1
        words[question.group].update(question.words)
    order = list(sizes)
    free = _FreeGroups(order, words)
    enough, taken = share * sizes.total(), 0
    shifted: set[Group] = set()
    covered, missing = set[str](), set[str]()
    for group in order:
        if taken >= enough:
            break
        if group not in free:
            continue
        free.take(group)
        shifted.add(group)
        taken += sizes[group]
        missing |= words[group] - covered
        best = free.richest_in(missing)
        if best is not None:
            free.take(best)
            covered |= words[best]
            missing -= words[best]
    return shifted


class _FreeGroups:
    """The groups that are on no side yet, and which of them have a word."""

    def __init__(self, order: Sequence[Group], words: Mapping[Group, set[str]]) -> None:
        self._words = words
        self._place = {group: place for place, group in enumerate(order)}
        self._having = defaultdict[str, set[Group]](set)
        for group in order:
            for word in words[group]:
                self._having[word].add(group)

    def __contains__(self, group: Group) -> bool:
        return group in self._place

    def take(self, group: Group) -> None:
        """It is on a side now."""
        del self._place[group]
        for word in self._words[group]:
            self._having[word].discard(group)

    def richest_in(self, wanted: Iterable[str]) -> Group | None:
        """The group with most of these words, of equals the first in the order; None if no group has any."""
        found = Counter(group for word in wanted for group in self._having[word])
        return max(found, key=lambda group: (found[group], -self._place[group]), default=None)
