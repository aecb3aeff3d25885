"""Makes a world: pictures, regions, questions and answers of five splits, in the shards that real data gets.

Each picture has a random stream of its own (seed, split, number), so a record never depends on how many
others are made or in which order.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from adaptive_ft.data.format.manifest import Manifest, ShardInfo
from adaptive_ft.data.records import ImageRecord, Question
from adaptive_ft.data.world.annotators import ANSWER_TABLE, annotate
from adaptive_ft.data.world.attributes import IMAGE_SIZE, Scene
from adaptive_ft.data.world.config import (
    IMAGE_ID_SPACE,
    QUESTION_ID_SPACE,
    WORLD_SPLITS,
    WORLD_VERSION,
    Split,
    WorldConfig,
)
from adaptive_ft.data.world.features import EXTRACTOR, extract_features
from adaptive_ft.data.world.pictures import encode_png, paint
from adaptive_ft.data.world.priors import Priors, choose_questions, split_priors
from adaptive_ft.data.world.regions import find_boxes
from adaptive_ft.data.world.scenes import draw_scene
from adaptive_ft.data.world.tokenizer import write_tokenizer
from adaptive_ft.data.writing.shard_part import SHARD_FILES
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.data.writing.unfinished import begin_beside, check_free
from adaptive_ft.errors import UserError

WORLD_FILE = "world.json"
TOKENIZER_FOLDER = "tokenizer"
WORLD_FILES = re.compile(
    rf"{re.escape(WORLD_FILE)}|{TOKENIZER_FOLDER}/[^/]+"
    rf"|({'|'.join(split.name for split in WORLD_SPLITS)})(\.unfinished)?/({SHARD_FILES.pattern})"
)

Progress = Callable[[str, int, int], None]
"""Called with the split's name, its pictures made so far, and their number in all."""


def no_progress(split: str, done: int, total: int) -> None:
    """Say nothing."""


def generate_world(folder: Path, config: WorldConfig, progress: Progress = no_progress) -> dict[str, Manifest]:
    """Write the world of `config` to `folder`, or open it if it is there; manifests by split name.

    The world is built beside `folder` and moved there in one step, so `folder` never holds half a world.
    Equal configs give equal shards, byte by byte. Raises UserError when `folder` holds anything else.
    """
    folder = folder.resolve()
    description = {"version": WORLD_VERSION, "config": config.to_dict()}
    if holds_world(folder, description):
        return {split.name: Manifest.load(folder / split.name) for split in WORLD_SPLITS}
    unfinished = begin_beside(folder, WORLD_FILES)
    write_tokenizer(unfinished / TOKENIZER_FOLDER)
    manifests = {split.name: _write_split(unfinished, config, split, progress) for split in WORLD_SPLITS}
    (unfinished / WORLD_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder)
    return manifests


def split_records(config: WorldConfig, split: Split) -> Iterator[ImageRecord]:
    """Make the records of one split, one picture after the other."""
    priors = split_priors(config, split)
    for number in range(split.num_images(config)):
        yield make_record(config, split, number, priors)[1]


def make_record(config: WorldConfig, split: Split, number: int, priors: Priors) -> tuple[Scene, ImageRecord]:
    """Make picture `number` of a split with its questions; the scene is returned beside it for checks."""
    rng = np.random.default_rng([config.seed, split.number, number])
    scene = draw_scene(split.domain, config.new_pair_share, rng)
    picture = paint(scene, rng)
    boxes = find_boxes(scene, config.num_regions, rng)
    record = ImageRecord(
        image_id=f"{split.domain}-{split.part}-{number:06d}",
        width=IMAGE_SIZE,
        height=IMAGE_SIZE,
        boxes=boxes,
        features=extract_features(picture, boxes),
        questions=_make_questions(config, split, number, scene, priors, rng),
        picture=encode_png(picture) if split.keeps_pictures else None,
    )
    return scene, record


def _make_questions(
    config: WorldConfig,
    split: Split,
    number: int,
    scene: Scene,
    priors: Priors,
    rng: np.random.Generator,
) -> tuple[Question, ...]:
    """Ask one question fewer than the mean, as many, or one more, and let ten people answer each."""
    wanted = config.questions_per_image + int(rng.integers(-1, 2))
    first_id = (split.number * IMAGE_ID_SPACE + number) * QUESTION_ID_SPACE
    return tuple(
        Question(
            question_id=first_id + place,
            text=asked.text,
            question_type=template.question_type,
            answer_type=template.answer_type,
            answers=annotate(asked.answer, config.disagreement, rng),
            scores={},
        )
        for place, (template, asked) in enumerate(choose_questions(scene, wanted, priors, rng))
    )


def _write_split(world: Path, config: WorldConfig, split: Split, progress: Progress) -> Manifest:
    """Write one split's shards to world/domain/part."""
    info = ShardInfo(
        split=split.part,
        domain=split.domain,
        feature_extractor=EXTRACTOR,
        answer_table=list(ANSWER_TABLE),
        tokenizer=world / TOKENIZER_FOLDER,
    )
    total = split.num_images(config)

    def counted() -> Iterator[ImageRecord]:
        for done, record in enumerate(split_records(config, split), start=1):
            yield record
            progress(split.name, done, total)

    return write_shards(counted(), world / split.name, info, images_per_shard=config.images_per_shard)


def holds_world(folder: Path, description: dict[str, object]) -> bool:
    """Whether `folder` holds the world described; False when it is not there or empty; else UserError."""
    if not folder.is_dir() or not any(folder.iterdir()):
        check_free(folder)  # a file
        return False
    try:
        found = json.loads((folder / WORLD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != description:
        held = "a world of another config" if isinstance(found, dict) else "something else"
        raise UserError(f"'{folder}' is not empty: it holds {held}; choose another folder or delete this one.")
    return True
