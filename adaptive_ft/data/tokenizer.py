"""A tokenizer trained on the questions themselves, in BERT's form: [CLS] question [SEP], lower case, padding id 0."""

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""In the order of their ids, so that padding is 0 as LXMERT expects."""
SPECIAL = list(SPECIAL_TOKENS.values())


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train pieces of words, at most `vocab_size` of them, so that unseen words can be read.

    The library breaks ties by chance: training twice may number the pieces differently, so keep the result.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False)
    return _trained_in_bert_form(tokenizer, trainer, texts)


def train_words(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token per word of a closed language; equal texts give equal tokenizers, byte by byte."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_TOKENS["unk_token"]))
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    return _trained_in_bert_form(tokenizer, trainer, texts)


def _trained_in_bert_form(
    tokenizer: Tokenizer, trainer: trainers.Trainer, texts: Iterable[str]
) -> PreTrainedTokenizerFast:
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=512,
        **SPECIAL_TOKENS,
    )
