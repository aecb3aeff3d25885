"""Bad input gets one sentence and exit code 2, before anything is written: through the real programs where the way out
of the process matters, and through the same functions for the rest of the list.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_ft.build import build
from adaptive_ft.config import load_run_config
from adaptive_ft.data.format.shard_index import load_index
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.engine.ranks import Ranks, free_port
from adaptive_ft.errors import UserError

Launch = Callable[..., "subprocess.CompletedProcess[str]"]
Tiny = Callable[..., list[str]]


@pytest.fixture
def shards(workplace: Path, tmp_path: Path) -> Path:
    """A copy of the training shards that a test may damage."""
    shutil.copytree(workplace / "world/target/train", tmp_path / "shards")
    return tmp_path / "shards"


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def lose_a_shard(shards: Path) -> None:
    (shards / "shard-00001.tar").unlink()


def cut_a_shard(shards: Path) -> None:
    path = shards / "shard-00000.tar"
    os.truncate(path, path.stat().st_size - 512)


def miscount(shards: Path) -> None:
    edit_json(shards / "manifest.json", questions=7)


def other_answers(shards: Path) -> None:
    edit_json(shards / "manifest.json", answer_table=["yes", "no"])


def other_version(shards: Path) -> None:
    edit_json(shards / "manifest.json", format_version=99)


def other_index(shards: Path) -> None:
    shutil.copy(shards / "shard-00001.index.npy", shards / "shard-00000.index.npy")


def no_manifest(shards: Path) -> None:
    (shards / "manifest.json").unlink()


def nan_features(shards: Path) -> None:
    """Overwrite the first feature of every image of the first shard with NaN; the size stays."""
    entry = ShardSet.open(shards).manifest.shards[0]
    with (shards / entry.file).open("r+b") as file:
        for row in load_index(shards, entry):
            file.seek(int(row["features_offset"]))
            file.write(np.float16(np.nan).tobytes())


DAMAGES: dict[Callable[[Path], None], str] = {
    lose_a_shard: r"shard .*shard-00001\.tar is missing, the manifest lists it",
    cut_a_shard: r"shard .*shard-00000\.tar has \d+ bytes, the manifest says \d+",
    miscount: r"manifest\.json says 7 questions, its shards sum up to 122",
    other_answers: r"manifest\.json: the answer table does not match its hash",
    other_version: r"manifest\.json has format version 99, this program reads 2; write",
    other_index: r"shard-00000\.index\.npy",
    no_manifest: r"has no manifest\.json",
}
OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "strategy": (("--strategy", "spottune_blok"), "unknown strategy 'spottune_blok'. Did you mean 'spottune_block'?"),
    "layers": (("--strategy", "last_9"), "'last_9' needs K from 1 to 3"),
    "export": (("--export_to", "out"), "--export_to 'out' needs one set of weights, but strategy 'spottune_block'"),
    "export_taken": (
        ("--export_to", "world", "--strategy", "standard"),
        "--export_to 'world' is in use: choose a new folder",
    ),
    "ds_config": (("--ds_config", "none.json"), "There is no DeepSpeed config 'none.json'"),
    "model": (("--model.name", "./nowhere"), "model folder './nowhere' does not exist"),
    "shards": (("--data.train", "nowhere"), "there is no folder 'nowhere'"),
    "name": (("--name", "a/b"), "--name 'a/b' is not one folder name"),
    "seed": (("--seed", "-1"), "--seed is -1; it lies from 0 to 4294967295"),
    "heads": (("--model.num_attention_heads", "0"), "--model.num_attention_heads is 0; it must be at least 1"),
    "policy_size": (("--adapt.policy.hidden_size", "0"), "policy.hidden_size is 0; it must be a whole number and at"),
    "temperature": (("--adapt.temperature", "0"), "temperature is 0.0; it must be above 0 and finite"),
    "rate": (("--optim.head_learning_rate", "-1e-3"), "--optim.head_learning_rate is -0.001; it must be at least 0"),
    "nan": (("--optim.learning_rate", "nan"), "--optim.learning_rate is nan; it must be at least 0"),
    "warmup": (("--optim.warmup_ratio", "1.5"), "--optim.warmup_ratio is 1.5; it is a share, from 0 to 1"),
    "betas": (("--optim.betas", "0.9", "1"), "--optim.betas are (0.9, 1.0); both lie from 0 to below 1"),
    "short": (("--task.max_question_length", "2"), "--task.max_question_length is 2; it must be at least 3"),
    "long": (("--task.max_question_length", "25"), "the base model has positions for 24 tokens: use 24 or less"),
    "batch": (("--per_device_train_batch_size", "0"), "--per_device_train_batch_size is 0; it must be at least 1"),
    "accumulation": (("--gradient_accumulation_steps", "0"), "--gradient_accumulation_steps is 0"),
    "limit": (("--save_total_limit", "0"), "--save_total_limit is 0"),
    "readers": (("--data.readers", "0"), "--data.readers is 0"),
    "interval": (("--tracking.logging_steps", "0"), "--tracking.logging_steps is 0"),
    "epochs": (("--num_train_epochs", "0"), "--num_train_epochs is 0"),
}


def refused(tiny: Tiny, ranks: Ranks, *more: str) -> str:
    """The sentence with which a run is refused."""
    with pytest.raises(UserError) as told:
        build(load_run_config(tiny("refused", *more)), ranks)
    assert "\n" not in str(told.value), "one sentence is one line"
    return str(told.value)


@pytest.fixture
def no_run(workplace: Path) -> Any:
    """Afterwards there is no folder of the refused run."""
    yield
    assert not (workplace / "runs/refused").exists()


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_shards(damage: Callable[[Path], None], shards: Path, tiny: Tiny, ranks: Ranks) -> None:
    """Each damage is found when the shards are opened, and named with file, expected and found."""
    damage(shards)
    assert re.search(DAMAGES[damage], refused(tiny, ranks, "--data.train", str(shards), "--data.on_bad", "fail"))


@pytest.mark.usefixtures("no_run")
def test_a_shard_that_lost_more_than_may_be_skipped(shards: Path, tiny: Tiny, ranks: Ranks) -> None:
    """Known before training, from the index."""
    os.truncate(shards / "shard-00000.tar", 1024)
    told = refused(tiny, ranks, "--data.train", str(shards), "--data.on_bad", "skip")
    assert re.fullmatch(
        r"\d+ of 122 examples are damaged, and --data\.max_bad_share 0\.001 allows no more than 0 .*", told
    )


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_work(
    case: str, tiny: Tiny, ranks: Ranks, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the run folder is made; what would only fail after the training is refused before it."""
    monkeypatch.chdir(workplace)
    words, sentence = OPTIONS[case]
    assert sentence in refused(tiny, ranks, *words)


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("which", ["--data.train", "--data.val"])
def test_unanswered_shards(which: str, shards: Path, tiny: Tiny, ranks: Ranks) -> None:
    """A split without public answers would be learned, or judged, as if every answer were wrong."""
    edit_json(shards / "manifest.json", answered=False)
    told = refused(tiny, ranks, which, str(shards))
    assert re.search(r"The questions in '.*shards' have no answers", told)


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"bf16": true}', "has bf16 = true; it must be an object"),
        ('{"train_batch_size": 64}', "train_batch_size = 64, the run says 4"),
        ('{"gradient_accumulation_steps": 2}', "gradient_accumulation_steps = 2, the run says 1"),
        ('{"scheduler": {"type": "WarmupLR"}}', "has a 'scheduler' block"),
        ("{", "is not JSON"),
    ],
)
def test_ds_configs_that_contradict(content: str, sentence: str, tmp_path: Path, tiny: Tiny, ranks: Ranks) -> None:
    """Neither the JSON nor the run wins silently."""
    path = tmp_path / "wrong.json"
    path.write_text(content)
    assert sentence in refused(tiny, ranks, "--ds_config", str(path))


@pytest.mark.usefixtures("no_run")
def test_what_only_deepspeed_refuses_leaves_no_folder(tmp_path: Path, tiny: Tiny, ranks: Ranks) -> None:
    """The run had its folder by then; its name is free again for the next try."""
    path = tmp_path / "wrong.json"
    path.write_text('{"zero_optimization": {"stage": 9}}')
    with pytest.raises(ValueError, match="stage"):
        build(load_run_config(tiny("refused", "--ds_config", str(path))), ranks)


def test_a_run_folder_in_use(finished_run: Any, tiny: Tiny, ranks: Ranks) -> None:
    """A second run of the same name does not touch the first."""
    before = {path: path.stat().st_mtime_ns for path in finished_run.path.rglob("*")}
    with pytest.raises(UserError, match="is not empty: continue it with --resume auto"):
        build(load_run_config(tiny("finished")), ranks)
    assert {path: path.stat().st_mtime_ns for path in finished_run.path.rglob("*")} == before


@pytest.mark.launch
@pytest.mark.parametrize(
    ("launcher", "words", "sentence"),
    [
        ("python", ("--strategy", "spotune"), "error: unknown strategy 'spotune'. Did you mean 'spottune'?"),
        (
            "deepspeed --num_gpus 2 --master_port {port}",
            ("--config", "wrong.yaml"),
            "error: 'wrong.yaml' has an unknown key 'optim.lerning_rate'. Did you mean 'optim.learning_rate'?",
        ),
    ],
)
def test_the_program_says_one_sentence(
    launcher: str, words: tuple[str, ...], sentence: str, launch: Launch, tiny: Tiny, workplace: Path, repository: Path
) -> None:
    """train.py in real processes: exit code 2, one line for all ranks that begins with error:, no traceback, no run."""
    (workplace / "wrong.yaml").write_text("optim: {lerning_rate: 1e-3}")
    program = launcher.format(port=free_port()).split()
    done = launch(*program, repository / "train.py", *tiny("refused", *words))
    assert_one_sentence(done.returncode, done.stderr, sentence)
    assert not (workplace / "runs/refused").exists()


@pytest.mark.launch
def test_nan_in_a_shard_stops_all_ranks(
    shards: Path, launch: Launch, tiny: Tiny, workplace: Path, repository: Path
) -> None:
    """What only reading can find ends both ranks with shard and sample; the run has no checkpoint and no summary."""
    nan_features(shards)
    words = tiny("nan", "--data.train", str(shards), "--per_device_train_batch_size", "32")
    done = launch("torchrun", "--standalone", "--nproc-per-node", "2", repository / "train.py", *words)
    assert done.returncode != 0
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert sentences
    assert all("--data.max_bad_share 0.001 allows no more than 0" in line for line in sentences)
    assert not (workplace / "runs/nan/summary.json").exists()
    assert not (workplace / "runs/nan/checkpoints").exists()


def assert_one_sentence(code: int | str | None, stderr: str, sentence: str) -> None:
    assert code == 2, stderr
    sentences = [line for line in stderr.splitlines() if line.startswith("error")]
    assert len(sentences) == 1, stderr
    assert sentences[0].startswith(sentence)
    assert "Traceback" not in stderr
