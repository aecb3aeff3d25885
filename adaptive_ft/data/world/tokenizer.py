"""The world's own tokenizer: one token per word of its small language, in BERT's form [CLS] question [SEP].

It is trained on the whole language (every word in every wording), not on one world's questions: worlds of any
seed and size share token ids, so that a base pretrained on one can be used on another.
"""

from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from adaptive_ft.data.tokenizer import train_words
from adaptive_ft.data.world.attributes import COLORS, SHAPES, SIZES
from adaptive_ft.data.world.questions import Expression


def language() -> Iterator[str]:
    """Every wording with every expression in it."""
    for size in (None, *SIZES):
        for color in (None, *COLORS):
            for shape in (None, *SHAPES):
                one, many = (Expression(size, color, shape).words(plural=plural) for plural in (False, True))
                yield f"is there a {one}?"
                yield f"how many {many} are there?"
                for asked in ("what color", "what shape", "what size", "on which side", "at which height"):
                    yield f"{asked} is the {one}?"
                yield f"are there more {many} than {many}?"
                yield f"is the {one} left of the {one}?"
                yield f"is the {one} above the {one}?"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on the language; the same words always get the same ids."""
    return train_words(language())


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files to `folder`; AutoTokenizer.from_pretrained(folder) reads them."""
    build_tokenizer().save_pretrained(folder)
