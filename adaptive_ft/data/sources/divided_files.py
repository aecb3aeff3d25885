"""Parts of official VQA files, written as VQA-CP's: bare lists, every entry as it was, with its "coco_split"."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from adaptive_ft.data.sources.json_stream import stream_list
from adaptive_ft.data.writing.unfinished import begin_beside

QUESTIONS, ANNOTATIONS = "questions", "annotations"
OURS = re.compile(r"\w+\.json")


def write_divided(files: Mapping[str, Iterable[Path]], parts: Mapping[str, Mapping[int, str]], output: Path) -> None:
    """Write PART_questions.json and PART_annotations.json for every part to the new folder `output`, entry by entry.

    `files` are the official ones by kind; `parts` are the image ids by the number of the question. Entries keep the
    order of the files; what no part has is left out.

    Raises:
        UserError: a file is damaged, or `output` is no place to write to.
    """
    output = output.resolve()
    unfinished = begin_beside(output, OURS)
    part_of = {number: part for part, asked in parts.items() for number in asked}
    for kind, paths in files.items():
        with ExitStack() as stack:
            lists = {
                part: _List(stack.enter_context((unfinished / f"{part}_{kind}.json").open("w", encoding="utf-8")))
                for part in parts
            }
            for path in paths:
                for entry in stream_list(path, f"the official VQA v2 {kind} file", kind):
                    number = entry["question_id"]
                    if number in part_of:
                        part = part_of[number]
                        lists[part].add({**entry, "coco_split": _coco_split(parts[part][number])})
            for one in lists.values():
                one.end()
    unfinished.rename(output)


class _List:
    """A JSON list that grows in a file, an entry a line."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._before = file, "[\n"

    def add(self, entry: dict[str, Any]) -> None:
        self._file.write(self._before + json.dumps(entry, ensure_ascii=False))
        self._before = ",\n"

    def end(self) -> None:
        self._file.write("\n]\n")


def _coco_split(image_id: str) -> str:
    """train2014 of COCO_train2014_000000000025."""
    return image_id.removeprefix("COCO_").rpartition("_")[0]
