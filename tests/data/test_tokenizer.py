"""Tokenizers trained on questions: BERT's form, unseen words readable, one token per word of a closed language."""

from pathlib import Path

from transformers import AutoTokenizer

from adaptive_ft.data.tokenizer import SPECIAL, train_wordpiece, train_words

TEXTS = ["Is the man running?", "Are the men walking?", "Is she running or walking?"] * 3


def test_the_special_tokens_have_the_first_ids_and_frame_every_question() -> None:
    for tokenizer in (train_wordpiece(TEXTS, 200), train_words(TEXTS)):
        assert tokenizer.convert_ids_to_tokens(range(len(SPECIAL))) == SPECIAL
        tokens = tokenizer.convert_ids_to_tokens(tokenizer("IS THE man walking?")["input_ids"])
        assert tokens == ["[CLS]", "is", "the", "man", "walking", "?", "[SEP]"]


def test_pieces_read_words_nobody_trained_on_and_words_do_not() -> None:
    unseen = "mannings"
    assert "[UNK]" not in train_wordpiece(TEXTS, 200).tokenize(unseen)
    assert train_words(TEXTS).tokenize(unseen) == ["[UNK]"]


def test_the_vocabulary_keeps_to_its_size() -> None:
    assert len(train_wordpiece(TEXTS, 40)) <= 40


def test_a_saved_tokenizer_loads_by_its_folder(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(TEXTS, 200)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("is she running?")["input_ids"] == tokenizer("is she running?")["input_ids"]
