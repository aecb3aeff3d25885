"""adaptive-ft eval on a finished run: any shards that fit, any number of ranks, one sentence for what does not."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import LxmertForQuestionAnswering
from transformers.models.lxmert.modeling_lxmert import LxmertVisualAnswerHead

from adaptive_ft.build import build
from adaptive_ft.commands.eval import Command
from adaptive_ft.config import load_run_config
from adaptive_ft.data.format.manifest import Manifest, ShardInfo
from adaptive_ft.data.records import ImageRecord
from adaptive_ft.data.sources.join import records_without_regions
from adaptive_ft.data.world.config import SPLITS, WorldConfig
from adaptive_ft.data.world.generate import split_records
from adaptive_ft.data.writing.shards import write_shards
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.trainer import Trainer
from tests.conftest import TINY_MODEL as SIZES

Launch = Callable[..., "subprocess.CompletedProcess[str]"]
Tiny = Callable[..., list[str]]
WORLD = WorldConfig.small()
TINY_MODEL = {f"--model.{name}": value for name, value in SIZES.items()}


@pytest.fixture
def val(workplace: Path) -> Path:
    """The shards the run was validated on."""
    return workplace / "world/target/val"


@pytest.fixture
def other(tmp_path: Path, val: Path) -> Callable[..., Path]:
    """The first pictures of the validation split, changed, as shards of their own that say something else."""

    def write(change: Callable[[ImageRecord], ImageRecord] = lambda record: record, **info: Any) -> Path:
        manifest = Manifest.load(val)
        own = {name: getattr(manifest, name) for name in ("split", "domain", "feature_extractor", "answer_table")}
        records = [record for record, _ in zip(split_records(WORLD, SPLITS[3]), range(3), strict=False)]
        write_shards(map(change, records), tmp_path / "other", ShardInfo(**{**own, **info}))
        return tmp_path / "other"

    return write


def without_answers(record: ImageRecord) -> ImageRecord:
    return replace(record, questions=tuple(replace(asked, answers=()) for asked in record.questions))


def without_regions(record: ImageRecord) -> ImageRecord:
    return next(iter(records_without_regions({record.image_id: list(record.questions)})))


def narrower(record: ImageRecord) -> ImageRecord:
    return replace(record, features=record.features[:, :5])


def test_scores_and_predictions(
    finished_run: RunFolder, val: Path, ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's own shards: the score of its summary, the constant to beat, every question in the file once."""
    files = {name: tmp_path / f"{name}.json" for name in ("predictions", "report")}
    Command(finished_run.path, **files).answer_on(ranks)
    told = capsys.readouterr().out
    summary = json.loads((finished_run.path / "summary.json").read_text())
    questions = Manifest.load(val).questions
    assert re.search(rf"^all +{questions} +{100 * summary['val_score']:.2f} ", told, re.MULTILINE)
    assert f"best constant answer '{summary['best_constant']['answer']}'" in told
    assert "name other answers" not in told
    written = json.loads(files["predictions"].read_text())
    assert len({line["question_id"] for line in written}) == len(written) == questions
    assert {tuple(line) for line in written} == {("question_id", "answer")}  # and no more: the server's form
    scores = json.loads(files["report"].read_text())
    assert list(scores) == ["current", "before-2021-03-11"]
    assert scores["current"]["overall"]["num_questions"] == questions
    assert scores["current"]["overall"]["soft"] == pytest.approx(100 * summary["val_score"], abs=0.005)
    kinds = scores["current"]["by_question_type"].values()
    assert sum(score["num_questions"] for score in kinds) == questions


def test_an_unanswered_split_is_answered_not_judged(
    finished_run: RunFolder, other: Callable[..., Path], ranks: Ranks, tmp_path: Path, capsys: Any
) -> None:
    """The official test split: predictions, no score, no constant; without a file for them there is nothing to do."""
    folder = other(without_answers, answered=False, answer_table=())
    Command(finished_run.path, shards=str(folder), predictions=tmp_path / "answers.json").answer_on(ranks)
    told, written = capsys.readouterr().out, json.loads((tmp_path / "answers.json").read_text())
    assert f"{len(written)} questions answered; they have no public answers to judge by" in told
    assert len(written) == Manifest.load(folder).questions
    assert not re.search("soft|constant|name other answers", told)
    with pytest.raises(UserError, match="answer to judge by: give --predictions FILE"):
        Command(finished_run.path, shards=str(folder)).answer_on(ranks)


@pytest.mark.parametrize("words", [{}, {"predictions": "answers.json"}])
def test_a_model_that_gives_no_numbers_is_not_scored(
    words: dict[str, str], finished_run: RunFolder, other: Callable[..., Path], ranks: Ranks, tmp_path: Path
) -> None:
    """Its weights are sound, its answers are not: as with features that bf16 cannot hold."""
    shards = other(without_answers, answered=False, answer_table=()) if words else None
    files = {name: tmp_path / file for name, file in words.items()}
    hook = register_module_forward_hook(no_numbers)
    try:
        with pytest.raises(UserError, match="gives no finite numbers for"):
            Command(finished_run.path, shards=str(shards) if shards else None, **files).answer_on(ranks)
    finally:
        hook.remove()
    assert not list(tmp_path.glob("*.json"))


def no_numbers(module: nn.Module, inputs: Any, output: Any) -> Any:
    """What the head of LXMERT answers."""
    return output * float("nan") if isinstance(module, LxmertVisualAnswerHead) else None


def test_another_answer_table_is_told(
    finished_run: RunFolder, other: Callable[..., Path], ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    Command(finished_run.path, shards=str(other(answer_table=["yes", "no"]))).answer_on(ranks)
    assert "these shards name other answers; the model chooses among its own" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "info", "sentence"),
    [
        (narrower, {}, r"The run reads region features of \d+ values, those in '.*other' have 5"),
        (without_regions, {"feature_extractor": "none"}, r"features of \d+ values, those in '.*other' have 0"),
        (replace, {"feature_extractor": "theirs"}, r"trained on features of '.*', those in '.*other' are of 'theirs'"),
    ],
)
def test_shards_that_do_not_fit_the_run_are_refused(
    change: Any, info: dict[str, str], sentence: str, finished_run: RunFolder, other: Callable[..., Path], ranks: Ranks
) -> None:
    """Before any question is answered."""
    with pytest.raises(UserError, match=sentence):
        Command(finished_run.path, shards=str(other(change, **info))).answer_on(ranks)


def test_a_blind_run_answers_any_shards(
    tiny: Tiny, workplace: Path, other: Callable[..., Path], ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also shards whose features have another size: none is read, and the zero vector has the run's."""
    folder = build_and_fit(tiny("blind", "--data.blind", "--max_steps", "1"), ranks)
    shards = other(narrower)
    Command(folder, shards=str(shards)).answer_on(ranks)
    assert re.search(rf"^all +{Manifest.load(shards).questions} ", capsys.readouterr().out, re.MULTILINE)


def test_a_blockdrop_run_from_random_weights_is_evaluated_and_has_no_frozen_half(
    tiny: Tiny, ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its start is scored with every layer used; the random start is kept under the plain model's names."""
    random_weights = ("--model.name", "None", *(word for size, value in TINY_MODEL.items() for word in (size, value)))
    folder = build_and_fit(tiny("blockdrop", "--adapt.strategy", "BlockDrop", *random_weights), ranks)
    kept = LxmertForQuestionAnswering.from_pretrained(folder / "base")
    saved = load_file(folder / "base/model.safetensors")
    assert {name for name, _ in kept.named_parameters()} >= saved.keys()
    assert any(".layer.0.attention.self.query.weight" in name for name in saved)
    capsys.readouterr()
    for policy in ("network", "used"):
        Command(folder, policy=policy).answer_on(ranks)
        assert re.search(r"^all +\d+ ", capsys.readouterr().out, re.MULTILINE)
    with pytest.raises(
        UserError, match="--policy frozen has no meaning for strategy 'BlockDrop': choose network or global or used"
    ):
        Command(folder, policy="frozen").answer_on(ranks)


def build_and_fit(options: list[str], ranks: Ranks) -> Path:
    run = build(load_run_config(options), ranks)
    Trainer(run).fit()
    return run.folder.path


def test_paths_seen_from_elsewhere_are_explained(
    finished_run: RunFolder, ranks: Ranks, tmp_path: Path, workplace: Path
) -> None:
    """config.yaml keeps relative folders as they were typed; the message says from where they are seen."""
    moved = tmp_path / "moved"
    shutil.copytree(finished_run.path, moved)
    text = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(text.replace(f"{workplace}/world", "world"))
    with pytest.raises(
        UserError, match=r"shards 'world/target/val' are not there, seen from '/.* name shards with --shar"
    ):
        Command(moved).answer_on(ranks)
    (moved / "config.yaml").write_text(text.replace(f"{workplace}/base", "runs/base"))
    with pytest.raises(UserError, match=r"model folder 'runs/base' does not exist \(seen from '/"):
        Command(moved).answer_on(ranks)
    with pytest.raises(UserError, match=r"--predictions 'no/answers\.json': there is no folder 'no'"):
        Command(moved, predictions=Path("no/answers.json")).answer_on(ranks)
    with pytest.raises(UserError, match="--batch_size is 0; it must be at least 1"):
        Command(moved, batch_size=0).answer_on(ranks)


@pytest.mark.launch
def test_two_ranks_answer_as_one(finished_run: RunFolder, launch: Launch, workplace: Path) -> None:
    """The same lines, printed once, and the same predictions; a mistake is told once, with exit code 2."""
    words = ("eval", "--checkpoint", finished_run.path, "--batch_size", "16", "--predictions")
    pair = ("torchrun", "--standalone", "--nproc-per-node", "2", "-m", "adaptive_ft.cli")
    one = launch("adaptive-ft", *words, "one.json")
    two = launch(*pair, *words, "two.json")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    # DeepSpeed says on every rank which accelerator it found.
    lines = [[line for line in done.stdout.splitlines() if "WARNING" not in line] for done in (one, two)]
    assert lines[0] == [line.replace("two.json", "one.json") for line in lines[1]]
    answers = [json.loads((workplace / name).read_text()) for name in ("one.json", "two.json")]
    assert answers[0] == sorted(answers[1], key=lambda line: answers[0].index(line))
    wrong = launch(*pair, "eval", "--checkpoint", "nowhere")
    assert wrong.returncode != 0
    told = [line for line in wrong.stderr.splitlines() if line.startswith("error")]
    assert told == ["error: 'nowhere' is not a run folder: it has no config.yaml; give one that train.py made."]
