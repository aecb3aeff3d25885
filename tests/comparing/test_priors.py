"""The baseline of a comparison: what the answers of training alone score on its validation sets."""

from pathlib import Path

import pytest
import yaml

from adaptive_ft.comparing import priors
from adaptive_ft.comparing.priors import prior_scores
from adaptive_ft.comparing.recipe import load_recipe
from adaptive_ft.data.reading.choice import all_questions
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.records import Question
from adaptive_ft.errors import UserError
from adaptive_ft.tasks.answer_priors import answer_priors


def written(place: Path, workplace: Path, **own: str) -> Path:
    """A comparison of the small world, whose second row has its own options."""
    sets = {name: str(workplace / "world/target" / name) for name in ("train", "val", "val_indomain")}
    content = {
        "output_dir": str(place / "runs"), "options": {"data": {"train": sets["train"]}},
        "validation": {"shifted": sets["val"], "in-domain": sets["val_indomain"]},
        "rows": {"a": {}, "b": {"data": own} if own else {}},
    }  # fmt: skip
    path = place / "comparison.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_it_is_learned_from_the_training_questions(workplace: Path, tmp_path: Path) -> None:
    """So that it is worth more where the priors are those of training."""
    found = prior_scores(load_recipe(written(tmp_path, workplace)))
    train, shifted = (all_questions(ShardSet.open(workplace / "world/target" / part)) for part in ("train", "val"))
    assert found["shifted"] == pytest.approx(answer_priors(train).score(shifted))
    assert 0 < found["shifted"] < found["in-domain"] < 1


def test_there_is_none_without_one_training_set(workplace: Path, tmp_path: Path) -> None:
    assert prior_scores(load_recipe(written(tmp_path, workplace, train=str(workplace / "world/target/val")))) == {}


def test_there_is_none_where_all_questions_are_of_one_type(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the class of a picture: what would be told is the best constant answer."""
    question = Question(1, "", "label", "label", (), {"cat": 1.0})
    monkeypatch.setattr(priors, "all_questions", lambda shards: [question])
    assert prior_scores(load_recipe(written(tmp_path, workplace))) == {}


def test_shards_that_are_gone_are_told(workplace: Path, tmp_path: Path) -> None:
    path = written(tmp_path, workplace)
    path.write_text(path.read_text().replace("target/train", "target/gone"))
    with pytest.raises(UserError, match="target/gone"):
        prior_scores(load_recipe(path))
