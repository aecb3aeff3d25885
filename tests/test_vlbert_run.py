"""VL-BERT through whole runs: trained, resumed, restored, evaluated, exported; on the small world and real features.

Mirrors no single module: build, trainer, saving and the eval command hold this together for a second family.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from adaptive_ft import AdaptiveModel
from adaptive_ft.adaptive_files import WEIGHTS_FILE
from adaptive_ft.build import Run, build
from adaptive_ft.commands.eval import Command
from adaptive_ft.commands.shards import Command as ShardsCommand
from adaptive_ft.config import load_run_config
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.data.sources.question_files import QuestionFiles
from adaptive_ft.data.tokenizer import train_words
from adaptive_ft.engine.deepspeed_engine import Engine
from adaptive_ft.engine.ds_config import EngineNumbers, fill_ds_config, read_ds_config
from adaptive_ft.engine.optimizer import OptimConfig
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.errors import UserError
from adaptive_ft.models.loading import ModelConfig
from adaptive_ft.models.tokenizer import load_tokenizer
from adaptive_ft.models.vlbert import VLBertConfig, VLBertForQuestionAnswering
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.same_run import ADAPTIVE
from adaptive_ft.saving import restore
from adaptive_ft.trainer import Trainer
from tests.models import tiny_families

SIZES = (
    *("--model.type", "vl_bert", "--model.name", "None", "--model.hidden_size", "16", "--model.layers", "2"),
    *("--model.num_attention_heads", "2", "--model.intermediate_size", "16", "--model.max_position_embeddings", "24"),
    *("--model.visual_scale_init", "0.5", "--task.flip_probability", "0.5", "--task.max_question_length", "16"),
)


def start(words: list[str], ranks: Ranks) -> Run:
    return build(load_run_config(words), ranks)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return restore(run).model.state_dict()


@pytest.fixture(scope="module")
def trained(ranks: Ranks, tiny: Callable[..., list[str]]) -> Path:
    """Six updates without a break, checkpoints after the third and the last."""
    run = start(
        [*tiny("vlbert", *SIZES), "--max_steps", "6", "--save_steps", "3", "--optim.learning_rate", "2e-2"], ranks
    )
    Trainer(run).fit()
    return run.folder.path


def test_a_run_trains_what_its_strategy_says(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    restored = restore(trained)
    assert restored.step == 6
    assert isinstance(restored.model.base, VLBertForQuestionAnswering)
    assert len(restored.model.decisions) == 2
    assert summary["val_score"] > 0
    assert summary["frozen_parameters"] == 2 * (4 * (16 * 16 + 16) + 2 * (16 * 16 + 16) + 4 * 16)


def test_a_resumed_run_repeats_the_undisturbed_one_bit_for_bit(
    trained: Path, ranks: Ranks, tiny: Callable[..., list[str]]
) -> None:
    """With dropout, Gumbel noise and mirrored examples, all seeded by the update."""
    again = trained.with_name("vlbert_twice")
    shutil.copytree(trained, again)
    checkpoints = RunFolder(again).checkpoints
    checkpoints.forget_after(checkpoints.tag(3))
    words = [*tiny("vlbert_twice", *SIZES), "--max_steps", "6", "--save_steps", "3", "--optim.learning_rate", "2e-2"]
    run = start([*words, "--resume", "auto"], ranks)
    trainer = Trainer(run)
    trainer.fit()
    undisturbed, resumed = weights(trained), weights(again)
    assert undisturbed.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in undisturbed.items())
    earlier = load_file(checkpoints.folder / checkpoints.tag(3) / ADAPTIVE / WEIGHTS_FILE)
    assert any(not torch.equal(value, resumed[name]) for name, value in earlier.items()), "the second half moved"


def test_eval_scores_as_the_run_did(trained: Path, ranks: Ranks, capsys: pytest.CaptureFixture[str]) -> None:
    Command(trained).answer_on(ranks)
    summary = json.loads((trained / "summary.json").read_text())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("all "))
    assert line.split() == [
        "all",
        "77",
        f"{100 * summary['val_score']:.2f}",
        f"{100 * summary['official_accuracy']:.2f}",
    ]


def test_a_run_that_started_from_a_bert_keeps_its_base(
    ranks: Ranks, tiny: Callable[..., list[str]], workplace: Path, tmp_path: Path
) -> None:
    """The BERT gives only half of it again; with the kept base the adapted model is loaded outside of a run."""
    shards = ShardSet.open(workplace / "world/target/train")
    vocabulary = len(load_tokenizer(None, ModelConfig(), shards))
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=vocabulary, **sizes)).save_pretrained(tmp_path)
    words = tiny("vlbert_from_bert", "--model.name", str(tmp_path), "--model.type", "vl_bert", "--max_steps", "1")
    run = start([*words, "--task.max_question_length", "16"], ranks)
    Trainer(run).fit()
    checkpoints = run.folder.checkpoints
    saved = checkpoints.folder / checkpoints.tag(1) / ADAPTIVE
    with pytest.raises(UserError, match="Load the base yourself"):
        AdaptiveModel.from_pretrained(None, saved)
    loaded = AdaptiveModel.from_pretrained(VLBertForQuestionAnswering.from_pretrained(run.folder.base), saved)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in weights(run.folder.path).items())


def test_a_standard_run_is_exported_as_a_model_a_new_run_starts_from(
    ranks: Ranks, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    exported = tmp_path / "exported"
    words = tiny("vlbert_standard", *SIZES, "--adapt.strategy", "standard", "--export_to", str(exported))
    run = start([*words, "--max_steps", "2"], ranks)
    Trainer(run).fit()
    merged = VLBertForQuestionAnswering.from_pretrained(exported)
    restored = restore(run.folder.path, "best")
    assert torch.equal(
        merged.vlbert.embeddings.word_embeddings.weight, restored.model.base.vlbert.embeddings.word_embeddings.weight
    )
    again = start([*tiny("vlbert_again"), "--model.name", str(exported), "--task.max_question_length", "16"], ranks)
    assert isinstance(again.parts.model.base, VLBertForQuestionAnswering)
    again.train.close()


def test_boxes_reach_the_model_in_float32_under_bf16(ranks: Ranks, tiny: Callable[..., list[str]]) -> None:
    run = start([*tiny("vlbert_bf16", *SIZES), "--precision", "bf16", "--max_steps", "1"], ranks)
    seen: list[torch.dtype] = []
    base = run.parts.model.base
    assert isinstance(base, VLBertForQuestionAnswering)
    base.vlbert.embeddings.region_projection.register_forward_pre_hook(
        lambda _, inputs: seen.extend(value.dtype for value in inputs)
    )
    Trainer(run).train_step()
    run.train.close()
    assert seen == [torch.bfloat16, torch.float32, torch.bool]


@pytest.mark.parametrize("stage", range(4))
def test_a_factor_in_place_of_the_visual_norm_trains(stage: int, ranks: Ranks, repository: Path) -> None:
    model = tiny_families.TINY["vl_bert"].backbone(
        VLBertConfig(**{**tiny_families.TINY["vl_bert"].config().to_dict(), "visual_ln": False})
    )
    groups = {"other": list(model.named_parameters())}
    config = repository / f"ds_configs/zero{stage}.json"
    filled = fill_ds_config(read_ds_config(config), EngineNumbers(4, 1, ranks.world_size, 1.0, "fp32"), config)
    engine = Engine(model, groups, OptimConfig(learning_rate=1e-2, warmup_ratio=0.0), filled, ranks, total_updates=2)
    factor = "embeddings.visual_region.scale"
    assert engine.gathered_trainable_state()[factor].tolist() == [0.0]
    engine.backward(engine(**tiny_families.TINY["vl_bert"].inputs(4)).pooler_output[:, 0].sum())
    engine.step()
    assert engine.gathered_trainable_state()[factor].abs() > 1e-3


def test_a_question_needs_room_for_the_regions_and_the_end(ranks: Ranks, tiny: Callable[..., list[str]]) -> None:
    with pytest.raises(UserError, match=r"max_question_length is 23, but the base model has positions for 22"):
        start(tiny("vlbert_long", *SIZES[:-1], "23"), ranks)


def test_real_features(shared_data: Path, ranks: Ranks, tiny: Callable[..., list[str]], tmp_path: Path) -> None:
    """LXMERT's own TSV of 36 regions through `adaptive-ft shards` into two updates and an evaluation."""
    real = shared_data / "coco_train2014_obj36"
    files = QuestionFiles(
        questions=(real / "v2_OpenEnded_mscoco_obj36_questions.json",),
        annotations=(real / "v2_mscoco_obj36_annotations.json",),
    )
    asked = json.loads(files.questions[0].read_text())["questions"]
    train_words(question["question"] for question in asked).save_pretrained(tmp_path / "words")
    shards = tmp_path / "shards"
    ShardsCommand(
        shards, files, (real / "train2014_obj36.tsv",), tokenizer=str(tmp_path / "words"), min_answer_count=1
    ).run()
    data = ("--data.train", str(shards), "--data.val", str(shards), "--task.resize_boxes")
    run = start([*tiny("vlbert_real", *SIZES, *data), "--max_steps", "2"], ranks)
    assert run.parts.train_shards.feature_dim == 2048
    Trainer(run).fit()
    Command(run.folder.path).answer_on(ranks)
