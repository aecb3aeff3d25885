"""One owner per number: the JSON's "auto" fields get the run's numbers, and a contradiction is an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptive_ft.engine.ds_config import EngineNumbers, fill_ds_config, read_ds_config
from adaptive_ft.errors import UserError

NUMBERS = EngineNumbers(micro_batch=4, accumulation=2, world_size=3, max_grad_norm=1.0, precision="bf16")
SOURCE = Path("zero.json")


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


READY = {**{f"zero{stage}": stage for stage in range(4)}, "zero2_offload": 2, "zero3_offload": 3, "bf16": 1}


def test_every_ready_config_is_known(repository: Path) -> None:
    assert {path.stem for path in (repository / "ds_configs").glob("*.json")} == READY.keys()


@pytest.mark.parametrize("name", READY)
def test_the_ready_configs_take_the_numbers(name: str, repository: Path) -> None:
    """ds_configs/NAME.json: its stage, every "auto" filled, the batch size the product of its three parts."""
    path = repository / f"ds_configs/{name}.json"
    filled = fill_ds_config(read_ds_config(path), NUMBERS, path)
    assert filled["zero_optimization"]["stage"] == READY[name]
    assert filled["train_micro_batch_size_per_gpu"] == 4
    assert filled["gradient_accumulation_steps"] == 2
    assert filled["train_batch_size"] == 24
    assert filled["gradient_clipping"] == 1.0
    assert filled["bf16"] == {"enabled": True}


def test_the_global_batch_is_the_product_of_its_three_parts() -> None:
    """4 examples x 2 micro-batches x 3 ranks."""
    assert NUMBERS.global_batch == 24


def test_absent_fields_are_filled_too() -> None:
    """An empty JSON is a whole config."""
    filled = fill_ds_config({}, NUMBERS, SOURCE)
    assert (filled["train_batch_size"], filled["bf16"]["enabled"]) == (24, True)


def test_the_given_content_stays_as_it_was() -> None:
    """Filling makes a copy, so that one JSON can serve two engines."""
    content = {"train_batch_size": "auto", "bf16": {}}
    fill_ds_config(content, NUMBERS, SOURCE)
    assert content == {"train_batch_size": "auto", "bf16": {}}


def test_equal_numbers_are_no_conflict() -> None:
    """A JSON that states what the run wants anyway is fine."""
    assert fill_ds_config({"train_batch_size": 24}, NUMBERS, SOURCE)["train_batch_size"] == 24


@pytest.mark.parametrize(
    ("content", "stated", "wanted", "option"),
    [
        ({"train_batch_size": 32}, "train_batch_size = 32", "24", "--per_device_train_batch_size x"),
        ({"train_micro_batch_size_per_gpu": 8}, "gpu = 8", "4", "--per_device_train_batch_size"),
        ({"gradient_accumulation_steps": 1}, "steps = 1", "2", "--gradient_accumulation_steps"),
        ({"gradient_clipping": 0.5}, "clipping = 0.5", "1.0", "--optim.max_grad_norm"),
        ({"bf16": {"enabled": False}}, "bf16.enabled = False", "True", "--precision"),
    ],
)
def test_a_contradiction_names_both_values_and_the_option(
    content: dict[str, Any], stated: str, wanted: str, option: str
) -> None:
    """Neither side wins silently."""
    with pytest.raises(UserError) as told:
        fill_ds_config(content, NUMBERS, SOURCE)
    message = str(told.value)
    assert "zero.json" in message
    assert stated in message
    assert f"the run says {wanted} ({option}" in message


def test_an_auto_nobody_fills_is_named() -> None:
    """DeepSpeed itself does not know the word."""
    content = {"zero_optimization": {"reduce_bucket_size": "auto"}}
    with pytest.raises(UserError, match=r"zero_optimization\.reduce_bucket_size, which this trainer does not fill"):
        fill_ds_config(content, NUMBERS, SOURCE)


@pytest.mark.parametrize("block", ["scheduler", "optimizer", "wandb", "tensorboard"])
def test_blocks_the_run_owns_are_refused(block: str, tmp_path: Path) -> None:
    """Each with the reason and the way out."""
    with pytest.raises(UserError, match=f"has a '{block}' block: .*remove the block"):
        read_ds_config(write(tmp_path / "x.json", {block: {}}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{not json", "is not JSON"),
        ([1], "must hold one JSON object, it holds a list"),
        ({"fp16": {"enabled": True}}, "fp16.enabled = true; .* use --precision bf16"),
        ({"fp16": {"enabled": "auto"}}, 'fp16.enabled = "auto"; .* not fp16'),
        ({"fp16": True}, "fp16 = true; it must be an object"),
        ({"bf16": True}, "bf16 = true; it must be an object"),
        ({"zero_optimization": 2}, "zero_optimization = 2; it must be an object"),
    ],
)
def test_unusable_files_are_named(content: Any, reason: str, tmp_path: Path) -> None:
    """The message names the file and what is wrong with it."""
    with pytest.raises(UserError, match=rf"x\.json.*{reason}"):
        read_ds_config(write(tmp_path / "x.json", content))


@pytest.mark.parametrize("block", [{}, {"enabled": False}])
def test_fp16_that_is_off_is_no_matter(block: dict[str, Any], tmp_path: Path) -> None:
    """Many a JSON carries the block."""
    assert read_ds_config(write(tmp_path / "x.json", {"fp16": block})) == {"fp16": block}


def test_a_missing_file_points_to_the_ready_ones(tmp_path: Path) -> None:
    """The way out is in the message."""
    with pytest.raises(UserError, match=r"no DeepSpeed config '.*zero9\.json'; the ready ones are in ds_configs/"):
        read_ds_config(tmp_path / "zero9.json")
