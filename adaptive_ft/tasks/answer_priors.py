"""What answers alone tell: to each question the best answer of its type among others, whatever it asks and shows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptive_ft.data.records import Question
from adaptive_ft.tasks.vqa_accuracy import soft_sums


@dataclass(frozen=True)
class AnswerPriors:
    """The answer with the highest sum of soft scores of each type of question, and of all questions together."""

    by_type: dict[str, str]
    overall: str

    def score(self, questions: Sequence[Question]) -> float:
        """The mean soft score, in [0, 1], of questions that all get their type's answer; a type that is not known gets
        that of all. Raises ValueError without questions.
        """
        if not questions:
            raise ValueError("answer priors are judged on questions: there are none.")
        told = (question.scores.get(self._answer(question), 0.0) for question in questions)
        return sum(told) / len(questions)

    def _answer(self, question: Question) -> str:
        return self.by_type.get(question.question_type, self.overall)


def answer_priors(questions: Sequence[Question]) -> AnswerPriors:
    """The priors of these questions; of equal answers the one that came first. Raises ValueError without answers.

    Source: the "per Q-type prior" baseline of Antol et al., arXiv:1505.00468, by the soft score instead of counts.
    """
    overall = soft_sums(questions)
    if not overall:
        raise ValueError("answer priors need questions with answers: there are none.")
    by_type: defaultdict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_type[question.question_type].append(question)
    sums = {kind: soft_sums(asked) for kind, asked in by_type.items()}
    return AnswerPriors({kind: _first_best(told) for kind, told in sums.items() if told}, _first_best(overall))


def _first_best(sums: Mapping[str, float]) -> str:
    return max(sums, key=lambda answer: sums[answer])
