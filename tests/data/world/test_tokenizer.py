"""The tokenizer: knows every word of the world, and comes back from its files as it was."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.world.attributes import Scene
from adaptive_ft.data.world.tokenizer import build_tokenizer, language, write_tokenizer

Made = dict[str, list[tuple[Scene, ImageRecord]]]


def test_every_question_goes_there_and_back_without_unknown_words(made: Made) -> None:
    tokenizer = build_tokenizer()
    texts = {question.text for split in made.values() for _, record in split for question in record.questions}
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert ids[0] == tokenizer.cls_token_id
        assert ids[-1] == tokenizer.sep_token_id
        assert len(ids) <= 20
        assert tokenizer.decode(ids[1:-1]).replace(" ?", "?") == text
    assert len(texts) > 200


def test_padding_is_zero_and_unknown_words_are_told() -> None:
    tokenizer = build_tokenizer()
    assert [tokenizer.pad_token_id, tokenizer.unk_token_id] == [0, 1]
    assert tokenizer("IS there a Zebra?")["input_ids"].count(1) == 1
    batch = tokenizer(["is there a star?", "what size is the large red circle?"], padding=True)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
    assert batch["input_ids"][0][-1] == 0
    assert batch["attention_mask"][0][-1] == 0


def test_the_files_are_the_same_each_time_and_load(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_tokenizer(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "tokenizer.json" in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    texts = list(language())[:200]
    wanted = build_tokenizer()(texts)["input_ids"]
    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        assert kind.from_pretrained(tmp_path / "one")(texts)["input_ids"] == wanted
