r"""VQA answers: the official normalisation, soft scores, and the table of answers a model can give.

The normalisation repeats the official evaluation (GT-Vision-Lab/VQA, vqaEval.py, commit a013f00) including
its oddities, because a score is comparable only if the same strings count as equal.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from adaptive_ft.data.records import ANSWERS_PER_QUESTION, OUTSIDE_TABLE, Question

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# The official look-behind for digits is mistyped and always true: only the following character decides.
_LOOSE_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the official code passes re.UNICODE (= 32) where a count is expected
_NUMBERS = {"none": "0", "zero": "0"} | {
    word: str(number)
    for number, word in enumerate(re.findall(r"\w+", "one two three four five six seven eight nine ten"), start=1)
}
_ARTICLES = frozenset(("a", "an", "the"))
# The official dictionary maps each of these forms with exactly one apostrophe missing to the full form.
_CONTRACTED = re.findall(
    r"\S+",
    """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
    """,
)
_CONTRACTIONS = {
    form[:place] + form[place + 1 :]: form for form in _CONTRACTED for place, mark in enumerate(form) if mark == "'"
} | {"somebody'd": "somebodyd"}  # reversed in the official dictionary too


def clean_whitespace(answer: str) -> str:
    """Newlines and tabs become spaces, the ends are stripped: the official step applied to every answer."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def process_punctuation(answer: str) -> str:
    """Remove or blank the punctuation marks, then drop periods that no digit follows.

    A mark disappears if it touches a space anywhere in `answer` or if `answer` holds digit-comma-digit;
    otherwise it becomes a space. Source: GT-Vision-Lab/VQA, vqaEval.py.
    """
    joined_number = _DIGIT_COMMA_DIGIT.search(answer) is not None
    processed = answer
    for mark in _MARKS:
        loose = f"{mark} " in answer or f" {mark}" in answer
        processed = processed.replace(mark, "" if loose or joined_number else " ")
    return _LOOSE_PERIOD.sub("", processed, count=_MAX_PERIODS)


def process_digits_and_articles(answer: str) -> str:
    """Lower-case, write none..ten as digits, drop articles, restore apostrophes, join with single spaces."""
    words = (_NUMBERS.get(word, word) for word in answer.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 16)
def process_answer(answer: str) -> str:
    """The full official normalisation of one answer: white space, punctuation, digits, articles.

    The official accuracy skips it when all ten raw answers are the same string; that rule is the metric's. An
    answer that is only an article ("a") becomes the empty string, as officially.
    """
    return process_digits_and_articles(process_punctuation(clean_whitespace(answer)))


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Soft score of every answer ten people gave, on processed answers, in order of first appearance.

    The mean over the ten leave-one-out sets of min(1, matches / 3); k equal answers of ten give
    0.3, 0.6, 0.9 and, from k = 4 on, 1. Raises ValueError unless there are ten answers.
    """
    if len(answers) != ANSWERS_PER_QUESTION:
        raise ValueError(f"soft scores need {ANSWERS_PER_QUESTION} answers, got {len(answers)}: {list(answers)}")
    total = 3 * ANSWERS_PER_QUESTION
    # Integer arithmetic up to the last division: exactly 0.3, 0.6, 0.9, 1.0.
    return {
        answer: (count * min(3, count - 1) + (ANSWERS_PER_QUESTION - count) * min(3, count)) / total
        for answer, count in Counter(map(process_answer, answers)).items()
    }


def merge_scores(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Soft scores of raw answers as scores of processed answers.

    Scores of raw answers that become equal add up to at most 1: exact, as a score is min(1, 0.3 k).
    """
    merged: dict[str, float] = {}
    for answer, score in scores:
        key = process_answer(answer)
        merged[key] = min(1.0, round(merged.get(key, 0.0) + score, 6))
    return merged


def build_answer_table(questions: Iterable[Question], *, min_count: int) -> list[str]:
    """The answers a model may give: processed, most frequent first, equal counts in alphabetical order.

    An answer counts once per question in which anybody gave it; the table holds those that count at least `min_count`.
    """
    counts: Counter[str] = Counter()
    for question in questions:
        counts.update(question_scores(question).keys())  # of a mapping it would add the values
    del counts[OUTSIDE_TABLE]
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [answer for answer, count in ranked if count >= min_count]


def question_scores(question: Question) -> dict[str, float]:
    """The soft scores of a question: those of its source, else computed from its ten answers, else none."""
    if question.scores or not question.answers:
        return dict(question.scores)
    return soft_scores(question.answers)


def count_outside(questions: Iterable[Question], table: Sequence[str]) -> tuple[int, int]:
    """How many answered questions have no answer in `table`, so that nothing can be learned from them; and how many are
    answered.
    """
    known = frozenset(table)
    outside = answered = 0
    for scores in filter(None, map(question_scores, questions)):
        answered += 1
        outside += known.isdisjoint(scores)
    return outside, answered
