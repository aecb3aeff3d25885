"""Classification batches: normalised pixels, one-hot targets, a loss blind to padding rows, repeatable augmentation."""

import pytest
import torch
import torch.nn.functional as F

from adaptive_ft.data.reading.batch import PictureBatch
from adaptive_ft.data.records import Question
from adaptive_ft.errors import UserError
from adaptive_ft.tasks.classification import ClassificationTask, Normalisation, PictureConfig, crop

CLASSES = ["cat", "cow", "dog"]


@pytest.fixture
def raw() -> PictureBatch:
    """A dog, a cat, and a row that only fills the batch; 6 x 6 pixels of noise."""
    return PictureBatch(
        questions=[Question(n, "label", "label", "label", (), {label: 1.0}) for n, label in enumerate(("dog", "cat"))]
        + [Question(1, "label", "label", "label", (), {"cat": 1.0})],
        image_ids=["a", "b", "b"],
        valid_B=torch.tensor([True, True, False]),
        pixels_B3HW=torch.randint(0, 256, (3, 3, 6, 6), dtype=torch.uint8),
    )


def test_pixels_are_measured_by_mean_and_spread(raw: PictureBatch) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    values = ClassificationTask(CLASSES, Normalisation(mean, std)).collate(raw).inputs["pixel_values"]
    share = raw.pixels_B3HW.double() / 255
    wanted = (share - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, wanted.float(), rtol=0, atol=1e-5)


def test_targets_are_one_hot_and_loss_is_the_mean_over_valid_rows(raw: PictureBatch) -> None:
    task, logits_BA = ClassificationTask(CLASSES), torch.randn(3, 3)
    batch = task.collate(raw)
    assert batch.targets_BA.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(task.loss(logits_BA, batch), F.cross_entropy(logits_BA[:2], torch.tensor([2, 0])))
    smooth = ClassificationTask(CLASSES, config=PictureConfig(label_smoothing=0.2))
    wanted = F.cross_entropy(logits_BA[:2], torch.tensor([2, 0]), label_smoothing=0.2)
    torch.testing.assert_close(smooth.loss(logits_BA, batch), wanted)


def test_loss_of_a_batch_without_valid_rows_is_zero(raw: PictureBatch) -> None:
    raw.valid_B[:] = False
    task = ClassificationTask(CLASSES)
    assert task.loss(torch.randn(3, 3), task.collate(raw)).item() == 0


def test_the_score_of_a_class_is_one_or_nothing(raw: PictureBatch) -> None:
    task = ClassificationTask(CLASSES)
    logits_BA = torch.tensor([[0.0, 1, 2], [0, 3, 1], [5, 0, 0]])
    assert task.soft_scores(logits_BA, task.collate(raw)).tolist() == [1, 0, 0]
    assert task.answers(logits_BA) == ["dog", "cow", "cat"]


def test_nothing_is_changed_unless_asked(raw: PictureBatch) -> None:
    assert torch.equal(ClassificationTask(CLASSES).augment(raw).pixels_B3HW, raw.pixels_B3HW)


def test_mirrored_pictures(raw: PictureBatch) -> None:
    flipped = ClassificationTask(CLASSES, config=PictureConfig(flip_probability=1.0)).augment(raw)
    assert torch.equal(flipped.pixels_B3HW, raw.pixels_B3HW.flip(3))
    half = ClassificationTask(CLASSES, config=PictureConfig(flip_probability=0.5))
    seen = {tuple((half.augment(raw).pixels_B3HW == raw.pixels_B3HW).all((1, 2, 3)).tolist()) for _ in range(50)}
    assert len(seen) == 8  # every row by itself


def test_a_crop_is_a_part_of_the_picture_enlarged() -> None:
    left_to_right = torch.arange(0, 256, 4, dtype=torch.uint8).expand(200, 3, 64, 64)
    cut = crop(left_to_right, 0.5)
    assert cut.shape == left_to_right.shape
    assert cut.dtype == torch.uint8
    steps = (cut[:, 0, 5, 48].float() - cut[:, 0, 5, 16].float()) / (32 * 4)  # the share of the width that is left
    assert 0.48 < steps.min() < 0.55
    assert 0.95 < steps.max() < 1.02
    assert torch.equal(crop(left_to_right, 1.0), left_to_right)


def test_augmentation_repeats_itself_with_the_seed(raw: PictureBatch) -> None:
    task = ClassificationTask(CLASSES, config=PictureConfig(flip_probability=0.5, smallest_crop=0.5))
    torch.manual_seed(3)
    first = task.augment(raw).pixels_B3HW
    torch.manual_seed(3)
    assert torch.equal(task.augment(raw).pixels_B3HW, first)


@pytest.mark.parametrize(("classes", "message"), [([], "is empty"), (["a", "b", "a"], "'a' twice")])
def test_impossible_classes(classes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassificationTask(classes)
