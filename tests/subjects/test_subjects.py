"""Choosing and restoring a subject: what a checkpoint keeps of it is read back, or refused in one line."""

from pathlib import Path

import pytest

from adaptive_ft.config import RunConfig
from adaptive_ft.data.tokenizer import train_words
from adaptive_ft.errors import UserError
from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering
from adaptive_ft.subjects import restore_subject
from adaptive_ft.subjects.questions import Questions

FACTS = {"answer_table": ["yes"], "content": "questions", "visual_feat_dim": 4, "feature_extractor": "none"}


def test_questions_come_back_with_the_tokenizer_they_saved(tmp_path: Path) -> None:
    tokenizer = train_words(["one two"])
    base = VLBertForQuestionAnswering(VLBertConfig(num_hidden_layers=1, hidden_size=12))
    Questions(["yes"], tokenizer, 4, "none", False).save(tmp_path, base)
    restored = restore_subject(FACTS, tmp_path, RunConfig())
    assert isinstance(restored, Questions)
    assert restored.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert restored.facts.vocab_size == 7


def test_a_folder_without_its_tokenizer_or_with_a_cut_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"The tokenizer '{tmp_path}' cannot be read"):
        restore_subject(FACTS, tmp_path, RunConfig())
    train_words(["one two"]).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=f"The tokenizer '{tmp_path}' cannot be read: JSONDecodeError"):
        restore_subject(FACTS, tmp_path, RunConfig())
