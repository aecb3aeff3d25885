"""VL-BERT's view of a question: a pair with [MASK], the whole picture as region 0, boxes in float32 shares."""

from dataclasses import replace

import pytest
import torch

from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.records import Question
from adaptive_ft.data.tokenizer import train_words
from adaptive_ft.errors import UserError
from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering
from adaptive_ft.tasks.vqa import VqaConfig, VqaTask
from adaptive_ft.tasks.vqa_inputs import VLBertInputs

PAD, _, CLS, SEP, MASK = range(5)
TOKENIZER = train_words(["left dog"])
DOG, LEFT = TOKENIZER.convert_tokens_to_ids(["dog", "left"])


@pytest.fixture
def raw() -> RawBatch:
    """Pictures of 200 x 100 and 50 x 50 pixels with two boxes and one; the last row has no picture."""
    return RawBatch(
        features_BND=torch.tensor([[[1.0, 2], [3, 8]], [[5, 7], [0, 0]], [[0, 0], [0, 0]]]),
        boxes_BN4=torch.tensor([[[0.0, 0, 200, 100], [50, 25, 100, 50]], [[10, 0, 20, 50.4], [0] * 4], [[0] * 4] * 2]),
        box_mask_BN=torch.tensor([[True, True], [True, False], [False, False]]),
        sizes_B2=torch.tensor([[200.0, 100], [50, 50], [0, 0]]),
        questions=[Question(n, text, "", "", (), {}) for n, text in enumerate(["dog", "left " * 9, "dog left"])],
        image_ids=["a", "b", "c"],
        valid_B=torch.tensor([True, True, False]),
    )


def test_only_the_question_is_cut_and_the_mask_survives(raw: RawBatch) -> None:
    inputs = VLBertInputs(TOKENIZER, 7)(raw)
    assert inputs["input_ids"].tolist() == [
        [CLS, DOG, SEP, MASK, SEP, PAD, PAD],
        [CLS, LEFT, LEFT, LEFT, SEP, MASK, SEP],
        [CLS, DOG, LEFT, SEP, MASK, SEP, PAD],
    ]
    assert inputs["attention_mask"].tolist() == [[1] * 5 + [0] * 2, [1] * 7, [1] * 6 + [0]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0, 0], [0] * 5 + [1] * 2, [0] * 4 + [1] * 2 + [0]]


def test_region_0_is_the_whole_picture_with_the_mean_of_the_real_features(raw: RawBatch) -> None:
    """Box [0, 0, w-1, h-1], corners inside it, all divided by width and height: 199 / 200, 99 / 100, 49 / 50."""
    inputs = VLBertInputs(TOKENIZER, 7)(raw)
    expected = [
        [[0, 0, 0.995, 0.99], [0, 0, 0.995, 0.99], [0.25, 0.25, 0.5, 0.5]],
        [[0, 0, 0.98, 0.98], [0.2, 0, 0.4, 0.98], [0, 0, 0, 0]],
        [[0, 0, 0, 0]] * 3,
    ]
    torch.testing.assert_close(inputs["visual_pos"], torch.tensor(expected))
    assert inputs["visual_feats"].tolist() == [[[2, 5], [1, 2], [3, 8]], [[5, 7], [5, 7], [0, 0]], [[0, 0]] * 3]
    assert inputs["visual_attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]


def test_boxes_stay_float32_in_a_bf16_run(raw: RawBatch) -> None:
    batch = VqaTask(["yes"], VLBertInputs(TOKENIZER, 7)).collate(raw).to("cpu", torch.bfloat16)
    assert batch.inputs["visual_pos"].dtype == torch.float32
    assert batch.inputs["visual_feats"].dtype == torch.bfloat16
    assert batch.to("cpu", torch.bfloat16).inputs["visual_pos"].dtype == torch.float32


def test_resized_pictures_change_the_shares_by_the_last_pixel_only(raw: RawBatch) -> None:
    """200 x 100 becomes 1000 x 500 (the long side binds): the whole picture ends at 999 / 1000 and 499 / 500."""
    task = VqaTask(["yes"], VLBertInputs(TOKENIZER, 7), VqaConfig(resize_boxes=True))
    pos = task.collate(raw).inputs["visual_pos"][0]
    torch.testing.assert_close(pos, torch.tensor([[0, 0, 0.999, 0.998], [0, 0, 0.999, 0.998], [0.25, 0.25, 0.5, 0.5]]))


def test_vlbert_takes_the_batch_and_the_padding_does_not_reach_the_answer(raw: RawBatch) -> None:
    model = VLBertForQuestionAnswering(
        VLBertConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=8,
            num_attention_heads=2,
            num_hidden_layers=1,
            intermediate_size=8,
            visual_feat_dim=2,
            visual_scale_init=1,
            num_answers=3,
            mask_token_id=MASK,
        )
    ).eval()
    task = VqaTask(["a", "b", "c"], VLBertInputs(TOKENIZER, 7))
    logits = task.logits(model(**task.collate(raw).inputs))
    raw.features_BND[1, 1] += 1
    raw.boxes_BN4[1, 1] = torch.tensor([1.0, 1, 9, 9])
    torch.testing.assert_close(task.logits(model(**task.collate(raw).inputs)), logits)
    raw.features_BND[1, 0] += 1
    assert (task.logits(model(**task.collate(raw).inputs)) - logits)[1].abs().max() > 1e-6


def test_a_length_without_room_and_a_tokenizer_without_the_pair_are_refused(raw: RawBatch) -> None:
    assert VLBertInputs(TOKENIZER, 5)(raw)["input_ids"].tolist()[1] == [CLS, LEFT, SEP, MASK, SEP]
    with pytest.raises(UserError, match=r"max_question_length is 4; .* at least 5"):
        VLBertInputs(TOKENIZER, 4)
    maskless = train_words(["dog"])
    maskless.mask_token = None
    with pytest.raises(UserError, match="does not write this pair"):
        VLBertInputs(maskless, 7)


def test_an_unseen_mask_in_the_question_is_no_harm(raw: RawBatch) -> None:
    """The answer's place is the last [MASK], whatever a person typed."""
    typed = replace(raw, questions=[replace(raw.questions[0], text="dog [MASK] dog"), *raw.questions[1:]])
    assert VLBertInputs(TOKENIZER, 8)(typed)["input_ids"][0].tolist() == [CLS, DOG, MASK, DOG, SEP, MASK, SEP, PAD]
