"""Data: source readers -> shards with a manifest -> streams of raw batches; knows no task and no model."""

from adaptive_ft.data.answers import build_answer_table, process_answer, question_scores, soft_scores
from adaptive_ft.data.format.manifest import Manifest, ShardInfo
from adaptive_ft.data.reading.batch import PictureBatch, RawBatch
from adaptive_ft.data.reading.shard_set import ShardSet, verify
from adaptive_ft.data.reading.stream import EvalStream, TrainStream
from adaptive_ft.data.records import ImageRecord, Question
from adaptive_ft.data.writing.shards import write_shards

__all__ = [
    "EvalStream",
    "ImageRecord",
    "Manifest",
    "PictureBatch",
    "Question",
    "RawBatch",
    "ShardInfo",
    "ShardSet",
    "TrainStream",
    "build_answer_table",
    "process_answer",
    "question_scores",
    "soft_scores",
    "verify",
    "write_shards",
]
