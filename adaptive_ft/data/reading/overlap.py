"""What a split has in common with another: a score on questions that were trained on would say nothing."""

from collections.abc import Collection, Mapping
from pathlib import Path

from adaptive_ft.data.format.image_json import decode_image
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.records import Question
from adaptive_ft.errors import UserError


def count_shared(folder: Path, questions: Mapping[str, Collection[Question]]) -> tuple[int, int]:
    """How many images, and how many questions about them, the shards in `folder` share with `questions` (by image id).

    Only the images' descriptions are read. Raises UserError naming a shard whose description is damaged.
    """
    images = shared = 0
    shards = ShardSet.open(folder)
    for entry, first in zip(shards.manifest.shards, shards.first_image_S, strict=True):
        with (folder / entry.file).open("rb") as file:
            for row in shards.index_I[first : first + entry.images]:
                file.seek(row["json_offset"])
                try:
                    image = decode_image(file.read(int(row["json_size"])))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(f"shard {folder / entry.file} is damaged ({error!r}); copy it again") from None
                asked = {question.question_id for question in questions.get(image.image_id, ())}
                images += bool(asked)
                shared += sum(question.question_id in asked for question in image.questions)
    return images, shared
