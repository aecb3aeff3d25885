"""A finished run asked again: the answers of an evaluation, on examples spread over the set, with their pictures."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from adaptive_ft.commands.eval import Command as Evaluate
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.examining import LONGEST_SIDE, as_shown, examine, spread
from adaptive_ft.run_folder import RunFolder


@pytest.mark.parametrize(
    ("wanted", "total", "chosen"), [(2, 8, [2, 6]), (3, 3, [0, 1, 2]), (9, 4, [0, 1, 2, 3]), (1, 5, [2])]
)
def test_examples_are_spread_evenly(wanted: int, total: int, chosen: list[int]) -> None:
    assert spread(wanted, total) == chosen


def test_every_sample_is_answered_and_decided_as_in_an_evaluation(
    finished_run: RunFolder, ranks: Ranks, tmp_path: Path
) -> None:
    """The whole set, in batches: answers as `adaptive-ft eval` gives them, usage and score as in the summary."""
    found = examine(finished_run.path, "latest", 10_000)
    assert len(found.examples) == found.total == len(found.gates_ND)
    Evaluate(finished_run.path, predictions=tmp_path / "answers.json").answer_on(ranks)
    written = {told["question_id"]: told["answer"] for told in json.loads((tmp_path / "answers.json").read_text())}
    assert {example.question.question_id: example.prediction for example in found.examples} == written
    summary = json.loads((finished_run.path / "summary.json").read_text())
    scores = [example.score or 0.0 for example in found.examples]
    assert sum(scores) / len(scores) == pytest.approx(summary["val_score"])
    assert found.usage.summary()["mean_tuned_share"] == pytest.approx(summary["tuned_share"])
    assert found.parameters["trainable"] == summary["trainable_parameters"]
    assert found.gates_NC.shape[1] == len(found.components)


def test_a_few_samples_bring_their_regions_and_pictures(finished_run: RunFolder) -> None:
    found = examine(finished_run.path, "best", 5)
    assert len(found.examples) == len(found.gates_ND) == len(found.per_sample()) == 5
    for example in found.examples:
        width, height = example.size
        assert example.picture is not None
        assert max(Image.open(io.BytesIO(example.picture)).size) <= LONGEST_SIDE
        assert example.boxes_R4
        assert all(x1 < x2 <= width + 1 and y1 < y2 <= height + 1 for x1, y1, x2, y2 in example.boxes_R4)
    assert found.distance_C is not None
    assert found.distance_C[torch.tensor(found.components.live)].gt(0).all()
    assert all(set(told["decisions"]) <= {"0", "1"} for told in found.per_sample())


def test_a_picture_is_encoded_the_smaller_way() -> None:
    """A photograph, even a small one, as JPEG, a drawing as PNG; neither larger than a page needs."""
    grain = torch.randint(0, 256, (240, 320, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photograph, drawing = Image.fromarray(grain.numpy()), Image.new("RGB", (640, 480), (200, 30, 30))
    shown = [Image.open(io.BytesIO(as_shown(picture))) for picture in (photograph, drawing)]
    assert [(picture.format, picture.size) for picture in shown] == [("JPEG", (320, 240)), ("PNG", (320, 240))]


def test_shards_that_are_not_there_are_named(
    finished_run: RunFolder, change_config: Callable[[str, str], Path]
) -> None:
    with pytest.raises(UserError, match=r"validation shards 'gone/val' are not there.*name shards with --shards"):
        examine(change_config("world/target/val", "gone/val"), "best", 5)
    with pytest.raises(UserError, match="come from a command, 'pipe:cat', which is not run unless --shards names it"):
        examine(change_config("gone/val", "pipe:cat"), "best", 5)


@pytest.fixture
def change_config(finished_run: RunFolder, tmp_path: Path, workplace: Path) -> Callable[[str, str], Path]:
    """A copy of the run whose config names other validation shards."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for name in ("checkpoints", "config.yaml"):
        (folder / name).symlink_to(finished_run.path / name)

    def change(before: str, after: str) -> Path:
        text = (folder / "config.yaml").read_text().replace(f"{workplace}/", "")
        text = text.replace("name: base", f"name: {workplace}/base").replace(before, after)
        (folder / "config.yaml").unlink()
        (folder / "config.yaml").write_text(text)
        return folder

    return change
