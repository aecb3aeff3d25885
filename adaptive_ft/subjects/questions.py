"""Questions about regions: a tokenizer reads the words, and the features must be of the kind the run began with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adaptive_ft.checks import check_question_length
from adaptive_ft.config import RunConfig
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import DataFacts
from adaptive_ft.tasks.task import Task
from adaptive_ft.tasks.vqa import VqaTask
from adaptive_ft.tasks.vqa_inputs import LxmertInputs, VLBertInputs

# How each family of base models is asked a question.
INPUTS: dict[str, type[LxmertInputs | VLBertInputs]] = {"lxmert": LxmertInputs, "vl_bert": VLBertInputs}


@dataclass(frozen=True)
class Questions:
    """Questions about images of which region features are known; `blind` where those are not looked at."""

    answer_table: Sequence[str]
    tokenizer: PreTrainedTokenizerBase
    visual_feat_dim: int
    feature_extractor: str
    blind: bool
    noun: str = "questions"

    @property
    def facts(self) -> DataFacts:
        """What the data asks of a base model."""
        return DataFacts(self.answer_table, self.visual_feat_dim, len(self.tokenizer), self.tokenizer.mask_token_id)

    def fit(self, shards: ShardSet, base: PreTrainedModel) -> ShardSet:
        """The shards with features as the base model reads them, or blind.

        Raises:
            UserError: features of another size or extractor than the run's.
        """
        config: Any = base.config
        wanted = config.visual_feat_dim
        if self.blind:
            return shards.with_blind(wanted)
        if shards.feature_dim != wanted:
            raise UserError(
                f"The run reads region features of {wanted} values, those in '{shards.address}' have"
                f" {shards.feature_dim}: choose shards of the same extractor."
            )
        if shards.manifest.feature_extractor != self.feature_extractor:
            raise UserError(
                f"The run was trained on features of '{self.feature_extractor}', those in '{shards.address}' are of"
                f" '{shards.manifest.feature_extractor}': choose shards of the same extractor."
            )
        return shards

    def task(self, config: RunConfig, base: PreTrainedModel) -> Task:
        """The task as the family of `base` is asked.

        Raises:
            UserError: questions of more tokens than `base` has positions for, or a tokenizer or answer table without
                use.
        """
        make = INPUTS[base.config.model_type]
        longest = base.config.max_position_embeddings - make.other_positions
        check_question_length(config.task.max_question_length, longest)
        return VqaTask(self.answer_table, make(self.tokenizer, config.task.max_question_length), config.task)

    def save(self, folder: Path, base: PreTrainedModel) -> None:
        """Write the tokenizer's files to `folder`."""
        self.tokenizer.save_pretrained(folder)
