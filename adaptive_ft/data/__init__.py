"""Data: source readers -> shards with a manifest -> streams of raw batches; knows no task and no model."""

from adaptive_ft.data.answers import build_answer_table, process_answer, question_scores, soft_scores
from adaptive_ft.data.batch import PictureBatch, RawBatch
from adaptive_ft.data.manifest import Manifest, ShardInfo
from adaptive_ft.data.records import ImageRecord, Question
from adaptive_ft.data.shard_set import ShardSet, verify
from adaptive_ft.data.shards import write_shards
from adaptive_ft.data.stream import EvalStream, TrainStream

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
