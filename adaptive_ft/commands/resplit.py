"""adaptive-ft resplit: questions with other answer priors in validation than in training, divided as VQA-CP's are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adaptive_ft.data.sources.divided_files import ANNOTATIONS, QUESTIONS, write_divided
from adaptive_ft.data.sources.prior_distance import answer_priors, prior_distance, words_covered
from adaptive_ft.data.sources.prior_shift import IN_DOMAIN, SHIFTED, SOURCE_TRAIN, TRAIN, Asked, Shares, asked, divide
from adaptive_ft.data.sources.question_files import QuestionFiles
from adaptive_ft.data.writing.unfinished import check_free
from adaptive_ft.errors import UserError


@dataclass
class Command:
    """Divide official VQA files: a part to pretrain on with the answers as they come (source_train, source_val), one
    to fine-tune on (target_train), its validation with the answer priors of training (target_val_indomain) and with
    those of the questions that training lacks (target_val). docs/data.md says how.
    """

    output: Path
    """New folder for the parts, in VQA-CP's form: PART_questions.json and PART_annotations.json."""
    questions: tuple[Path, ...]
    """Official question files; plain or gzip."""
    annotations: tuple[Path, ...]
    """Official annotation files of the same splits, in the same order."""
    coco_split: str | None = None
    """COCO split of the image names, for files that do not say it: train2014, val2014."""
    shares: Shares = field(default_factory=Shares)
    seed: int = 1
    """Of all that is by chance; equal seeds give equal parts."""

    def run(self) -> None:
        """Read, divide, write, and say what was made."""
        check_free(self.output)
        self.shares.check()
        if not (self.questions and self.annotations):
            raise UserError("Questions are divided by their answers: name --questions and --annotations.")
        store = QuestionFiles(self.questions, self.annotations, coco_split=self.coco_split).read()
        everything = [asked(image_id, question) for image_id, listed in store.items() for question in listed]
        parts = divide(everything, self.shares, self.seed)
        write_divided(
            {QUESTIONS: self.questions, ANNOTATIONS: self.annotations},
            {part: {question.number: question.image_id for question in found} for part, found in parts.items()},
            self.output,
        )
        print("\n".join(self._told(len(everything), len(store), parts)))

    def _told(self, questions: int, images: int, parts: Mapping[str, Sequence[Asked]]) -> list[str]:
        in_parts = sum(map(len, parts.values()))
        both = _images(parts[SHIFTED]) & _images(parts[IN_DOMAIN])
        covered = words_covered(parts[TRAIN], parts[SHIFTED])
        at_all = words_covered([*parts[SOURCE_TRAIN], *parts[TRAIN]], parts[SHIFTED])
        return [
            f"{self.output}: {questions} questions about {images} images, divided with seed {self.seed}",
            *(f"{part:<20} {len(found):>7} questions {len(_images(found)):>7} images" for part, found in parts.items()),
            f"left out: {questions - in_parts} questions of the shifted side about images that are trained on",
            f"images in two parts: {len(both)}, all in {SHIFTED} and {IN_DOMAIN}",
            f"answer priors by question type, mean total variation distance from {TRAIN} (0 equal, 1 no answer in"
            f" common): {_distances(parts)}",
            f"different words of {SHIFTED}: {100 * covered:.1f} % in {TRAIN}, {100 * at_all:.1f} % there or in"
            f" {SOURCE_TRAIN}",
        ]


def _distances(parts: Mapping[str, Sequence[Asked]]) -> str:
    training = answer_priors(parts[TRAIN])
    told = []
    for part in (SHIFTED, IN_DOMAIN, SOURCE_TRAIN):
        found = prior_distance(training, answer_priors(parts[part]))
        unknown = f" (besides {found.unknown} questions of types it lacks)" if found.unknown else ""
        told.append(f"{part} {'none' if found.mean is None else f'{found.mean:.3f}'}{unknown}")
    return ", ".join(told)


def _images(questions: Sequence[Asked]) -> set[str]:
    return {question.image_id for question in questions}
