"""adaptive-ft tokenizer: train a tokenizer on the questions themselves, for runs without a hub."""

from dataclasses import dataclass, field
from pathlib import Path

from adaptive_ft.data.sources.question_files import QuestionFiles
from adaptive_ft.data.tokenizer import train_wordpiece
from adaptive_ft.data.writing.unfinished import check_free
from adaptive_ft.errors import UserError


@dataclass
class Command:
    """Train a lower-case WordPiece tokenizer in BERT's form on the questions of a split."""

    output: Path
    """New folder for the tokenizer's files."""
    source: QuestionFiles = field(default_factory=QuestionFiles)
    vocab_size: int = 8000

    def run(self) -> None:
        """Train and save."""
        check_free(self.output)
        if self.vocab_size < 1:
            raise UserError(f"--vocab_size is {self.vocab_size}; it must be at least 1.")
        questions = self.source.read()
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"'{self.output}' cannot be made: {error.strerror}; name another folder.") from None
        texts = (question.text for asked in questions.values() for question in asked)
        tokenizer = train_wordpiece(texts, self.vocab_size)
        tokenizer.save_pretrained(self.output)
        print(f"{self.output}: {len(tokenizer)} tokens")
