"""Questions about regions, or labelled pictures: chosen by what the shards hold, known to nothing further up."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptive_ft.config import RunConfig
from adaptive_ft.data.format.manifest import LABELLED_PICTURES, QUESTIONS
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.models.tokenizer import load_tokenizer, read_tokenizer
from adaptive_ft.subjects.picture_processing import load_processing
from adaptive_ft.subjects.pictures import Pictures
from adaptive_ft.subjects.questions import Questions
from adaptive_ft.subjects.subject import Subject

__all__ = ["Subject", "choose_subject", "restore_subject", "subject_facts"]


def choose_subject(config: RunConfig, shards: ShardSet) -> Subject:
    """The subject of a run on the training `shards`.

    Raises:
        UserError: no tokenizer, or no image processor, can be read; pictures are not to be looked at.
    """
    manifest = shards.manifest
    if manifest.content == LABELLED_PICTURES:
        if config.data.blind:
            raise UserError("--data.blind leaves nothing of labelled pictures to look at: leave it out.")
        return Pictures(manifest.answer_table, load_processing(config.model.name))
    tokenizer = load_tokenizer(config.data.tokenizer, config.model, shards)
    return Questions(
        manifest.answer_table, tokenizer, shards.feature_dim, manifest.feature_extractor, config.data.blind
    )


def subject_facts(subject: Subject, shards: ShardSet) -> dict[str, Any]:
    """What a checkpoint keeps of a subject beside its files, as plain JSON values."""
    return {
        "answer_table": list(subject.facts.answer_table),
        "content": subject.facts.content,
        "visual_feat_dim": subject.facts.visual_feat_dim,
        "feature_extractor": shards.manifest.feature_extractor,
    }


def restore_subject(facts: Mapping[str, Any], folder: Path, config: RunConfig) -> Subject:
    """The subject that wrote `facts`, with the files it saved in `folder`.

    Raises:
        UserError: these files cannot be read.
    """
    if facts.get("content", QUESTIONS) == LABELLED_PICTURES:
        return Pictures(facts["answer_table"], load_processing(str(folder)))
    tokenizer = read_tokenizer(folder)
    return Questions(
        facts["answer_table"], tokenizer, facts["visual_feat_dim"], facts["feature_extractor"], config.data.blind
    )
