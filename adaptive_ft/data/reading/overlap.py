"""What a split has in common with another: a score on questions that were trained on would say nothing."""

from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path

from adaptive_ft.data.reading.shard_bytes import ShardBytes
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.records import Question


def count_shared(folder: Path, questions: Mapping[str, Collection[Question]]) -> tuple[int, int]:
    """How many images, and how many questions about them, the shards in `folder` share with `questions` (by image id).

    Only the images' descriptions are read. Raises UserError naming a shard and an image whose description is damaged.
    """
    images = shared = 0
    shards = ShardSet.open(folder)
    with closing(shards.files):
        for image in map(ShardBytes(shards).describe, shards.images()):
            asked = {question.question_id for question in questions.get(image.image_id, ())}
            images += bool(asked)
            shared += sum(question.question_id in asked for question in image.questions)
    return images, shared
