"""Mirrored and resized examples, against numbers computed by hand from the original's rules."""

import pytest
import torch

from adaptive_ft.data.reading.batch import RawBatch
from adaptive_ft.data.records import Question
from adaptive_ft.data.tokenizer import train_words
from adaptive_ft.tasks.vqa import VqaConfig, VqaTask
from adaptive_ft.tasks.vqa_augment import flip, resize, resized, swap_sides
from adaptive_ft.tasks.vqa_inputs import LxmertInputs, VLBertInputs

TABLE = ["left", "right", "leftover"]


@pytest.fixture
def raw() -> RawBatch:
    """Two questions about a picture of 200 x 100 pixels with a box at its left border and a padding box."""
    question = Question(
        1, "Is the dog LEFT of the right door?", "is", "other", ("left", "right"), {"left": 1.0, "right": 0.3}
    )
    leftover = Question(2, "What is leftover?", "what", "other", ("leftover",), {"leftover": 0.6})
    return RawBatch(
        features_BND=torch.randn(2, 2, 3),
        boxes_BN4=torch.tensor([[[0.0, 10, 50, 90], [0] * 4]] * 2),
        box_mask_BN=torch.tensor([[True, False]] * 2),
        sizes_B2=torch.tensor([[200.0, 100]] * 2),
        questions=[question, leftover],
        image_ids=["a", "a"],
        valid_B=torch.tensor([True, True]),
    )


def test_a_mirrored_box_is_w_minus_1_minus_x_with_its_corners_in_order(raw: RawBatch) -> None:
    """x 0..50 in a width of 200 becomes 149..199; y, features, padding and the other row stay."""
    flipped = flip(raw, torch.tensor([True, False]))
    assert flipped.boxes_BN4.tolist() == [[[149, 10, 199, 90], [0] * 4], [[0, 10, 50, 90], [0] * 4]]
    assert flipped.features_BND is raw.features_BND


def test_left_and_right_change_places_in_question_answers_and_scores(raw: RawBatch) -> None:
    first, second = flip(raw, torch.tensor([True, True])).questions
    assert first.text == "Is the dog RIGHT of the left door?"
    assert (first.answers, first.scores) == (("right", "left"), {"right": 1.0, "left": 0.3})
    assert (second.text, second.scores) == ("What is leftover?", {"leftover": 0.6})
    assert raw.questions[0].text == "Is the dog LEFT of the right door?", "the reader's own example is not touched"


def test_mirroring_twice_gives_the_example_back(raw: RawBatch) -> None:
    twice = flip(flip(raw, torch.tensor([True, True])), torch.tensor([True, True]))
    assert torch.equal(twice.boxes_BN4, raw.boxes_BN4)
    assert twice.questions == raw.questions


def test_only_whole_words_are_sides() -> None:
    assert swap_sides("left, bright-left upright lefty Right") == "right, bright-right upright lefty Left"


@pytest.mark.parametrize("inputs", [LxmertInputs, VLBertInputs])
def test_a_task_mirrors_its_share_of_training_examples(inputs: type, raw: RawBatch) -> None:
    """In augment alone: collate, which evaluation shares, leaves the example as it is."""
    texts = [question.text for question in raw.questions]
    made = inputs(train_words(texts), 16)
    always = VqaTask(TABLE, made, VqaConfig(flip_probability=1.0))
    assert always.collate(raw).targets_BA[0].tolist() == pytest.approx([1, 0.3, 0])
    assert always.collate(always.augment(raw)).targets_BA[0].tolist() == pytest.approx([0.3, 1, 0])
    half = VqaTask(TABLE, made, VqaConfig(flip_probability=0.5))
    seen = {tuple(bool(box[0, 0]) for box in half.augment(raw).boxes_BN4) for _ in range(50)}
    assert len(seen) == 4, "each row has a draw of its own"


def test_without_flips_nothing_is_drawn(raw: RawBatch) -> None:
    state = torch.get_rng_state()
    task = VqaTask(TABLE, LxmertInputs(train_words(["dog"]), 8))
    assert task.augment(raw) is raw
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (800, 600)),  # the short side becomes 600
        ((480, 640), (600, 800)),
        ((1200, 600), (1000, 500)),  # 600 would stay, but 1200 passes 1000: round(1000 * 600 / 1200)
        ((500, 333), (900, 600)),  # int(600 * 500 / 333) = int(900.9)
        ((1999, 500), (999, 250)),  # round(1000 * 500 / 1999) = 250, int(250 * 1999 / 500) = int(999.5)
        ((900, 600), (900, 600)),
        ((0, 0), (0, 0)),
    ],
)
def test_sides_after_resizing(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized(*size) == expected


def test_boxes_are_scaled_by_the_ratio_of_each_side(raw: RawBatch) -> None:
    """500 x 333 becomes 900 x 600: x times 900 / 500, y times 600 / 333."""
    raw.sizes_B2[0] = torch.tensor([500.0, 333])
    raw.sizes_B2[1] = 0.0
    made = resize(raw)
    assert made.sizes_B2.tolist() == [[900, 600], [0, 0]]
    torch.testing.assert_close(made.boxes_BN4[0, 0], torch.tensor([0, 10 * 600 / 333, 90, 90 * 600 / 333]))
    assert torch.equal(made.boxes_BN4[1], raw.boxes_BN4[1])
