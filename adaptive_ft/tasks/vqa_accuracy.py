"""The official VQA accuracy, its sums over an evaluation, and the best constant answer to compare with.

Two numbers judge an answer, and each is always reported by its own name:
- the official accuracy, against the ten humans' answers after the normalisation of the VQA evaluation code;
- the soft score, the label an answer has in the training data (near the official accuracy, not equal to it).
Both are shares in [0, 1]; percentages appear only when a report is written for reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptive_ft.data.answers import clean_whitespace, process_answer, process_punctuation
from adaptive_ft.data.records import ANSWERS_PER_QUESTION, Question
from adaptive_ft.errors import UserError

# Accuracy in tenths by number of humans, of ten, who gave the answer: the mean over the ten ways to leave one
# human out of min(1, matches among the other nine / 3). Whole numbers, so that sums are exact.
_TENTHS = (0, 3, 6, 9, *[10] * (ANSWERS_PER_QUESTION - 3))


@dataclass(frozen=True, slots=True)
class AccuracyForm:
    """One published form of the official accuracy: how answers are written before they are compared.

    `unanimous`: the prediction where all ten humans said the same (their answer is never rewritten there);
    `prediction` and `human`: both sides where they did not.
    """

    name: str
    unanimous: Callable[[str], str]
    prediction: Callable[[str], str]
    human: Callable[[str], str]


CURRENT = AccuracyForm("current", unanimous=clean_whitespace, prediction=process_answer, human=process_answer)
BEFORE_2021_03_11 = AccuracyForm(
    "before-2021-03-11", unanimous=process_answer, prediction=process_answer, human=process_punctuation
)


def official_accuracy(prediction: str, answers: Sequence[str], form: AccuracyForm = CURRENT) -> float:
    """The official accuracy of one answer: 0, 0.3, 0.6, 0.9 or 1 for 0, 1, 2, 3 or more matching humans.

    `answers` are the ten raw human answers. Where all ten are the same string nothing is normalised in the
    current form and the comparison is literal: "Yes" against ten "yes" earns 0.
    Raises ValueError unless there are ten answers. Source: GT-Vision-Lab/VQA, vqaEval.py.
    """
    unanimous, votes = _count_votes(answers, form)
    written = form.unanimous if unanimous else form.prediction
    return _TENTHS[votes[written(clean_whitespace(prediction))]] / 10


def _count_votes(answers: Sequence[str], form: AccuracyForm) -> tuple[bool, Counter[str]]:
    """Whether the ten raw answers are one string, and the number of humans behind each writing."""
    if len(answers) != ANSWERS_PER_QUESTION:
        raise ValueError(
            f"the official accuracy is defined over ten human answers, got {len(answers)}; "
            "without them report the soft score only"
        )
    cleaned = Counter(clean_whitespace(answer) for answer in answers)
    if len(cleaned) == 1:
        return True, cleaned
    votes: Counter[str] = Counter()
    for answer, count in cleaned.items():
        votes[form.human(answer)] += count
    return False, votes


@dataclass(frozen=True, slots=True)
class Score:
    """Mean scores over some questions, as shares in [0, 1].

    `official` is None where any of the questions lacks its ten human answers: the number is not defined then.
    """

    num_questions: int
    soft: float
    official: float | None

    def percent(self) -> dict[str, float | int | None]:
        """For reading: percentages with two decimals."""
        return {
            "num_questions": self.num_questions,
            "soft": round(100 * self.soft, 2),
            "official": None if self.official is None else round(100 * self.official, 2),
        }


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """The scores of an evaluation, overall and by kind; `form` names the official accuracy's form."""

    form: str
    overall: Score
    by_answer_type: dict[str, Score]
    by_question_type: dict[str, Score]


class AccuracyMeter:
    """Collects judged answers, one record per question, and sums them up.

    `records` maps question_id to {answer, soft_score, official_accuracy, answer_type, question_type}: plain
    values, so that ranks can exchange them and a file can hold them.
    """

    def __init__(self, form: AccuracyForm = CURRENT) -> None:
        self.form = form
        self.records: dict[int, dict[str, Any]] = {}

    def update(
        self,
        questions: Sequence[Question],
        answers: Sequence[str],
        soft_scores: Iterable[float],
        valid: Iterable[bool],
    ) -> None:
        """Judge one batch; rows that are not valid are passed over.

        Raises ValueError for a question already counted and UserError for one that nobody has answered.
        """
        rows = zip(questions, answers, soft_scores, valid, strict=True)
        for question, answer, soft_score, counts in rows:
            if counts:
                self.merge({question.question_id: self._judge(question, answer, float(soft_score))})

    def merge(self, records: Mapping[int, Mapping[str, Any]]) -> None:
        """Add another rank's records; raises ValueError for a question already counted."""
        for question_id, record in records.items():
            if question_id in self.records:
                raise ValueError(
                    f"question {question_id} was counted twice in one evaluation; "
                    "every question must reach exactly one rank once"
                )
            self.records[question_id] = dict(record)

    def report(self, expected: int | None = None) -> AccuracyReport:
        """Means over everything collected.

        Raises ValueError when nothing was counted or the number of questions is not the `expected` one.
        """
        if expected is not None and len(self.records) != expected:
            raise ValueError(
                f"{len(self.records)} questions were counted but the evaluation has {expected}; "
                "merge every rank's records before the report"
            )
        if not self.records:
            raise ValueError("no question was counted, so there is no accuracy to report")
        return AccuracyReport(
            form=self.form.name,
            overall=_mean(self.records.values()),
            by_answer_type=self._by("answer_type"),
            by_question_type=self._by("question_type"),
        )

    def _judge(self, question: Question, answer: str, soft_score: float) -> dict[str, Any]:
        if not question.answers and not question.scores:
            raise UserError(
                f"Question {question.question_id} has neither human answers nor scores; "
                "an unanswered split can be predicted but not scored."
            )
        official = official_accuracy(answer, question.answers, self.form) if question.answers else None
        return {
            "answer": answer,
            "soft_score": soft_score,
            "official_accuracy": official,
            "answer_type": question.answer_type,
            "question_type": question.question_type,
        }

    def _by(self, kind: str) -> dict[str, Score]:
        groups: dict[str, list[dict[str, Any]]] = {}
        for record in self.records.values():
            groups.setdefault(record[kind], []).append(record)
        return {name: _mean(groups[name]) for name in sorted(groups)}


def both_forms(questions: Sequence[Question], answers: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """The percentages of an evaluation, by form of the official accuracy: overall and by kind, ready for JSON.

    `answers` are by question id. Raises KeyError for a question without one, and as AccuracyMeter does.
    """
    told = {}
    for form in (CURRENT, BEFORE_2021_03_11):
        meter = AccuracyMeter(form)
        given = [answers[question.question_id] for question in questions]
        soft = [question.scores.get(answer, 0.0) for question, answer in zip(questions, given, strict=True)]
        meter.update(questions, given, soft, [True] * len(given))
        report = meter.report(expected=len(questions))
        told[form.name] = {
            "overall": report.overall.percent(),
            "by_answer_type": {kind: score.percent() for kind, score in report.by_answer_type.items()},
            "by_question_type": {kind: score.percent() for kind, score in report.by_question_type.items()},
        }
    return told


def _mean(records: Iterable[Mapping[str, Any]]) -> Score:
    """Means in one order of summation, whatever order the ranks' records came in."""
    records = list(records)
    soft = sum(sorted(record["soft_score"] for record in records))
    official = [record["official_accuracy"] for record in records]
    tenths = None if None in official else sum(round(10 * accuracy) for accuracy in official)
    return Score(
        num_questions=len(records),
        soft=soft / len(records),
        official=None if tenths is None else tenths / (10 * len(records)),
    )


@dataclass(frozen=True, slots=True)
class ConstantAnswer:
    """One answer given to every question, with its mean scores: what a model must beat to count as taught."""

    answer: str
    score: Score


def best_constant_answer(
    questions: Sequence[Question], answer_table: Sequence[str], form: AccuracyForm = CURRENT
) -> ConstantAnswer:
    """The answer of the table with the best official accuracy when given to every question.

    Where some question lacks its ten human answers the soft score decides instead, and the official accuracy
    is None. Ties: the higher soft score, then the place in the table. Exact, and linear in questions plus
    answers: the votes are summed once per distinct writing, and each answer looks its own writings up.
    Raises ValueError without questions or answers.
    """
    if not questions or not answer_table:
        raise ValueError(
            "the best constant answer needs questions and an answer table, "
            f"got {len(questions)} questions and {len(answer_table)} answers"
        )
    soft = soft_sums(questions)
    official = _official_tenths(questions, answer_table, form)
    best = max(answer_table, key=lambda answer: (official[answer] if official else 0, soft.get(answer, 0.0)))
    return ConstantAnswer(
        answer=best,
        score=Score(
            num_questions=len(questions),
            soft=soft.get(best, 0.0) / len(questions),
            official=official[best] / (10 * len(questions)) if official else None,
        ),
    )


def soft_sums(questions: Iterable[Question]) -> dict[str, float]:
    """The sum of soft scores of every answer, in the order in which the answers come."""
    sums: dict[str, float] = {}
    for question in questions:
        for answer, score in question.scores.items():
            sums[answer] = sums.get(answer, 0.0) + score
    return sums


def _official_tenths(
    questions: Sequence[Question], answer_table: Sequence[str], form: AccuracyForm
) -> dict[str, int] | None:
    """Each table answer's official accuracy in tenths, summed over the questions; None if not defined."""
    if not all(question.answers for question in questions):
        return None
    same: Counter[str] = Counter()
    mixed: Counter[str] = Counter()
    for question in questions:
        unanimous, votes = _count_votes(question.answers, form)
        for answer, count in votes.items():
            (same if unanimous else mixed)[answer] += _TENTHS[count]
    return {
        answer: same[form.unanimous(clean_whitespace(answer))] + mixed[form.prediction(clean_whitespace(answer))]
        for answer in answer_table
    }
