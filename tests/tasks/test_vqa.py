"""VQA batches for LXMERT: exact lengths, boxes as shares, soft targets, a loss blind to padding rows."""

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LxmertConfig, LxmertForQuestionAnswering, PreTrainedTokenizerFast

from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.records import Question
from adaptive_ft.errors import UserError
from adaptive_ft.tasks.batch import TaskBatch
from adaptive_ft.tasks.vqa import VqaTask
from adaptive_ft.tasks.vqa_inputs import LxmertInputs

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "color", "is", "the", "dog", "?"]
TABLE = ["", "red", "blue", "2"]
TEXTS = ["What color is the dog?", "What is " + "the " * 30 + "?", "Color?"]
SCORES = [{"red": 1.0, "blue": 0.3, "not in the table": 0.9}, {"": 0.6}, {"2": 0.9}]


@pytest.fixture(scope="module")
def task() -> VqaTask:
    tokenizer = Tokenizer(WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return VqaTask(TABLE, LxmertInputs(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special), 8))


@pytest.fixture
def raw() -> RawBatch:
    """Three questions, pictures of 200 x 100 pixels; the last row only fills the batch, without a picture."""
    boxes = torch.tensor([[0.0, 0, 200, 100], [50, 25, 100, 100.4]]).repeat(3, 1, 1)
    return RawBatch(
        features_BND=torch.randn(3, 2, 6),
        boxes_BN4=boxes,
        box_mask_BN=torch.tensor([[True, True], [True, True], [False, False]]),
        sizes_B2=torch.tensor([[200.0, 100], [200, 100], [0, 0]]),
        questions=[
            Question(n, text, "what", "other", (), scores)
            for n, (text, scores) in enumerate(zip(TEXTS, SCORES, strict=True))
        ],
        image_ids=["a", "a", "a"],
        valid_B=torch.tensor([True, True, False]),
    )


def test_questions_have_exactly_the_length_of_lxmert(task: VqaTask, raw: RawBatch) -> None:
    inputs = task.collate(raw).inputs
    assert inputs["input_ids"].tolist() == [
        [2, 4, 5, 6, 7, 8, 9, 3],
        [2, 4, 6, 7, 7, 7, 7, 3],
        [2, 5, 9, 3, 0, 0, 0, 0],
    ]
    assert inputs["attention_mask"].tolist() == [[1] * 8, [1] * 8, [1] * 4 + [0] * 4]
    assert inputs["token_type_ids"].tolist() == [[0] * 8] * 3


def test_boxes_are_shares_of_the_picture(task: VqaTask, raw: RawBatch) -> None:
    inputs = task.collate(raw).inputs
    assert inputs["visual_pos"][0].tolist() == [[0, 0, 1, 1], [0.25, 0.25, 0.5, 1]]
    assert inputs["visual_pos"][2].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert inputs["visual_feats"] is raw.features_BND


def test_region_mask_only_where_a_box_is_padding(task: VqaTask, raw: RawBatch) -> None:
    assert task.collate(raw).inputs["visual_attention_mask"].tolist() == [[1, 1], [1, 1], [0, 0]]
    raw.box_mask_BN[:] = True
    raw.sizes_B2[:] = 200.0
    assert "visual_attention_mask" not in task.collate(raw).inputs


def test_targets_are_the_scores_of_table_answers(task: VqaTask, raw: RawBatch) -> None:
    targets = task.collate(raw).targets_BA
    expected = torch.tensor([[0, 1.0, 0.3, 0], [0.6, 0, 0, 0], [0, 0, 0, 0]])
    assert torch.equal(targets, expected)


def test_loss_is_the_mean_over_valid_rows_times_answers(task: VqaTask, raw: RawBatch) -> None:
    batch = task.collate(raw)
    logits = torch.randn(3, len(TABLE), requires_grad=True)
    loss = task.loss(logits, batch)
    mean = F.binary_cross_entropy_with_logits(logits[:2], batch.targets_BA[:2])
    torch.testing.assert_close(loss, mean * len(TABLE))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[2].abs().max() == 0
    assert logits.grad[:2].abs().min() > 0


def test_loss_of_a_batch_without_valid_rows_is_zero(task: VqaTask, raw: RawBatch) -> None:
    raw.valid_B[:] = False
    assert task.loss(torch.randn(3, len(TABLE)), task.collate(raw)) == 0


def test_scores_and_answers_of_the_highest_logit(task: VqaTask, raw: RawBatch) -> None:
    logits = torch.eye(4)[[2, 0, 3]]
    assert task.answers(logits) == ["blue", "", "2"]
    torch.testing.assert_close(task.soft_scores(logits, task.collate(raw)), torch.tensor([0.3, 0.6, 0.0]))


def test_only_floating_inputs_change_their_type(task: VqaTask, raw: RawBatch) -> None:
    batch = task.collate(raw).to("cpu", torch.bfloat16)
    assert batch.inputs["visual_feats"].dtype == batch.inputs["visual_pos"].dtype == torch.bfloat16
    assert batch.inputs["input_ids"].dtype == batch.inputs["visual_attention_mask"].dtype == torch.int64
    assert batch.targets_BA.dtype == torch.float32
    assert task.loss(torch.zeros(3, 4, dtype=torch.bfloat16), batch).dtype == torch.float32


def test_features_travel_as_they_are_stored_and_then_become_what_the_model_computes_in(
    task: VqaTask, raw: RawBatch
) -> None:
    raw.features_BND = raw.features_BND.half()
    batch = task.collate(raw)
    assert batch.inputs["visual_feats"].dtype == torch.float16
    assert torch.equal(batch.to("cpu").inputs["visual_feats"], raw.features_BND.float())
    assert batch.to("cpu", torch.bfloat16).inputs["visual_feats"].dtype == torch.bfloat16


def test_lxmert_takes_the_batch_and_ignores_padding_boxes(task: VqaTask, raw: RawBatch) -> None:
    config = LxmertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_attention_heads=2, intermediate_size=16, visual_feat_dim=6,
        l_layers=1, r_layers=1, x_layers=1, num_qa_labels=len(TABLE),
    )  # fmt: skip
    model = LxmertForQuestionAnswering(config).eval()
    raw.box_mask_BN[0, 1] = False

    def logits(batch: TaskBatch) -> torch.Tensor:
        return task.logits(model(**batch.inputs))

    before = logits(task.collate(raw))
    raw.features_BND[0, 1] += 1.0
    after = logits(task.collate(raw))
    assert before.shape == (3, len(TABLE))
    torch.testing.assert_close(before, after)
    raw.features_BND[0, 0] += 1.0
    assert (logits(task.collate(raw))[0] - after[0]).abs().max() > 1e-6


@pytest.mark.parametrize(("table", "message"), [([], "empty"), (["a", "b", "a"], "'a' twice")])
def test_bad_answer_tables(table: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VqaTask(table, LxmertInputs(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordPiece({"[UNK]": 0}))), 8))
