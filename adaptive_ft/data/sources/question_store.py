"""Questions by image, on the disk: data sets ask up to 14 million, and as objects they would fill the memory."""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path

from adaptive_ft.data.records import Question
from adaptive_ft.data.sources.staging import LARGEST_ID, staging, staging_database
from adaptive_ft.errors import UserError


class QuestionStore(Mapping[str, list[Question]]):
    """The questions of several files as if they stood in one: images in the order in which they are first asked about,
    the questions of each in the order of the files.

    `parts` are files with what they ask: (image id, question), read once. In memory are only names of images and how
    many questions each has. Raises UserError if a question is asked twice, also about another image: predictions are
    told by its number.
    """

    def __init__(self, parts: Iterable[tuple[Path, Iterable[tuple[str, Question]]]]) -> None:
        self._database = staging_database()
        self._images: dict[str, int] = {}
        self._counts = array("q")
        self._files: list[Path] = []
        with staging():
            self._database.execute(
                "CREATE TABLE staged (place INTEGER PRIMARY KEY, image INTEGER, file INTEGER, id INTEGER, content TEXT)"
            )
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT INTO staged (image, file, id, content) VALUES (?, ?, ?, ?)", self._rows(parts)
            )
            self._refuse_repeated()
            self._database.execute("CREATE TABLE asked (place INTEGER PRIMARY KEY, id INTEGER, content TEXT)")
            self._database.execute(
                "INSERT INTO asked (id, content) SELECT id, content FROM staged ORDER BY image, place"
            )
            self._database.execute("DROP TABLE staged")
            self._database.execute("COMMIT")
        self._ends = array("q", accumulate(self._counts))

    def __getitem__(self, image_id: str) -> list[Question]:
        number = self._images[image_id]
        end = self._ends[number]
        rows = self._database.execute(
            "SELECT id, content FROM asked WHERE place > ? AND place <= ? ORDER BY place",
            (end - self._counts[number], end),
        )
        return [_question(*row) for row in rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._images

    def _rows(
        self, parts: Iterable[tuple[Path, Iterable[tuple[str, Question]]]]
    ) -> Iterator[tuple[int, int, int, str]]:
        """What is staged of each question, while images are counted."""
        for file, (path, asked) in enumerate(parts):
            self._files.append(path)
            for image_id, question in asked:
                number = self._images.setdefault(image_id, len(self._images))
                if number == len(self._counts):
                    self._counts.append(0)
                self._counts[number] += 1
                if abs(question.question_id) > LARGEST_ID:
                    raise UserError(f"{path}: the question id {question.question_id} has more than 63 bits")
                yield number, file, question.question_id, _content(question)

    def _refuse_repeated(self) -> None:
        found = self._database.execute(
            "SELECT id, min(file), max(file) FROM staged GROUP BY id HAVING count(*) > 1 LIMIT 1"
        ).fetchone()
        if found is None:
            return
        number, first, last = found[0], self._files[found[1]], self._files[found[2]]
        if first == last:
            raise UserError(f"question {number} stands in '{first}' twice; leave one out, and name every file once")
        raise UserError(
            f"question {number} stands in '{first}' and in '{last}': the files overlap; give files of different "
            "questions"
        )


def _content(question: Question) -> str:
    told = (question.text, question.question_type, question.answer_type, question.answers, dict(question.scores))
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def _question(number: int, content: str) -> Question:
    text, question_type, answer_type, answers, scores = json.loads(content)
    return Question(number, text, question_type, answer_type, tuple(answers), scores)
