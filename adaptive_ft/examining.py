"""A trained run asked some of its validation examples again, on the CPU, for what a run does not record: the decisions
of single samples, beside their pictures and answers.

Shapes: N samples, B rows of a batch, D decisions.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from adaptive_ft.analysis.examined import Examined, Example
from adaptive_ft.data.pixels import UNREADABLE, decode_rgb
from adaptive_ft.data.places.remote import is_remote
from adaptive_ft.data.reading.bad_samples import StopAtBad
from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.reading.batch_memory import BatchMemory
from adaptive_ft.data.reading.choice import open_set
from adaptive_ft.data.reading.shard_bytes import ShardBytes
from adaptive_ft.data.reading.shard_reader import open_reader
from adaptive_ft.data.reading.shard_set import BlindShardSet, Place
from adaptive_ft.distances import component_distances
from adaptive_ft.errors import UserError
from adaptive_ft.saving import Restored, restore

ROWS = 32  # of a batch
LONGEST_SIDE = 320  # of the pictures handed out, in pixels


def examine(run: Path, which: str, samples: int, shards: str | None = None) -> Examined:
    """Ask checkpoint `which` of a run `samples` examples, spread evenly over `shards` (default: its validation set).

    Raises:
        UserError: no such checkpoint or shards, shards that do not fit the run, or a damaged sample.
    """
    restored = restore(run, which)
    found = restored.subject.fit(open_set(address_asked(restored, shards), restored.config.data), restored.model.base)
    dtype = torch.bfloat16 if restored.config.precision == "bf16" else torch.float32
    distance_C = component_distances(restored.model)
    restored.model.to(dtype)
    chosen = spread(samples, found.num_examples)
    gates, examples = [], []
    own = found.for_stream()
    reader, members = open_reader(own, StopAtBad(), BatchMemory(1)), ShardBytes(own)
    try:
        for start in range(0, len(chosen), ROWS):
            numbers = chosen[start : start + ROWS]
            raw = reader.read_batch(numbers)
            gates_BD, told = _asked(restored, raw, dtype)
            gates.append(gates_BD)
            examples += [
                _example(raw, row, answered, own.locate(number), members, isinstance(own, BlindShardSet))
                for row, (number, answered) in enumerate(zip(numbers, told, strict=True))
            ]
    finally:
        reader.close()
        own.files.close()
    return Examined(
        step=restored.step,
        noun=restored.subject.noun,
        address=found.address,
        total=found.num_examples,
        components=restored.model.components,
        tying=restored.model.tying,
        gates_ND=torch.cat(gates),
        examples=examples,
        distance_C=distance_C,
        parameters=restored.model.count_parameters(),
    )


def spread(wanted: int, total: int) -> list[int]:
    """Up to `wanted` of the numbers below `total`, in order and evenly far from each other: the same ones each time."""
    count = min(wanted, total)
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


def address_asked(restored: Restored, shards: str | None) -> str:
    """Where examples of a run are read; raises UserError for what is not read without being named, or is not there."""
    own = restored.config.data.val
    if shards is None and own.startswith("pipe:"):
        raise UserError(
            f"the validation shards come from a command, '{own}', which is not run unless --shards names it"
        )
    if shards is None and not is_remote(own) and not Path(own).is_dir():
        raise UserError(
            f"the validation shards '{own}' are not there, seen from '{Path.cwd()}': start where the training was"
            " started, or name shards with --shards"
        )
    return shards or own


def _asked(restored: Restored, raw: Any, dtype: torch.dtype) -> tuple[torch.Tensor, list[tuple[str, float | None]]]:
    """The gates [B, D] of a batch, and each row's answer with its soft score."""
    batch = restored.task.collate(raw).to("cpu", dtype)
    with torch.no_grad():
        outputs = restored.model(**batch.inputs)
    logits_BA = restored.task.logits(outputs)
    answers, scores = restored.task.answers(logits_BA), restored.task.soft_scores(logits_BA, batch).tolist()
    judged = [score if question.scores else None for question, score in zip(raw.questions, scores, strict=True)]
    return outputs.gates.float().cpu(), list(zip(answers, judged, strict=True))


def _example(
    raw: Any, row: int, answered: tuple[str, float | None], place: Place, members: ShardBytes, blind: bool
) -> Example:
    described = members.describe(place)
    boxes: Sequence[Sequence[float]] = ()
    if isinstance(raw, RawBatch) and not blind:
        boxes = raw.boxes_BN4[row][raw.box_mask_BN[row]].tolist()
    return Example(
        question=raw.questions[row],
        image_id=raw.image_ids[row],
        prediction=answered[0],
        score=answered[1],
        size=(described.width, described.height),
        boxes_R4=tuple(map(tuple, boxes)),
        picture=_small_picture(members, place, described.image_id) if place.row.picture_size else None,
    )


def _small_picture(members: ShardBytes, place: Place, image_id: str) -> bytes | None:
    """The picture as a page shows it; None if it cannot be read."""
    content = bytes(members.fetch(place, "picture", image_id))
    try:
        return as_shown(decode_rgb(content))
    except UNREADABLE:
        return None


def as_shown(picture: Image.Image) -> bytes:
    """No larger than a page needs, as PNG or as JPEG, whichever is smaller: a photograph is a JPEG then."""
    picture = picture.copy()
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    encoded = []
    for options in ({"format": "PNG"}, {"format": "JPEG", "quality": 82}):
        content = io.BytesIO()
        picture.save(content, **options)
        encoded.append(content.getvalue())
    return min(encoded, key=len)
