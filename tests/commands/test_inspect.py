"""adaptive-ft inspect: components, decisions and parameters from a configuration alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, CLIPConfig, Dinov2Config, GPT2Config, LxmertConfig, ViTConfig

from adaptive_ft.commands.inspect import Command, folded, millions, ranges
from adaptive_ft.errors import UserError
from adaptive_ft.models.vlbert import VLBertConfig


@pytest.fixture
def inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the command prints for a configuration, in lines."""

    def run(config: Any, architecture: str | None = None, **options: Any) -> list[str]:
        config.architectures = architecture and [architecture]
        config.save_pretrained(tmp_path)
        Command(str(tmp_path), **options).run()
        return capsys.readouterr().out.splitlines()

    return run


def rows(lines: list[str]) -> dict[tuple[str, str], dict[str, float]]:
    """The numbers of the table by (strategy, policy)."""
    start = lines.index("") + 1
    columns = lines[start].replace("policy net", "net").split()[2:]
    cells = [line.split() for line in lines[start + 1 : -2]]
    return {
        (strategy, policy): dict(zip(columns, map(float, numbers), strict=True)) for strategy, policy, *numbers in cells
    }


def test_lxmert_has_the_originals_numbers(inspect: Any) -> None:
    """213.9 M trainable; 32.0 M with 181.9 M frozen; policies of 66.3 and 65.1 M; 425, 38 and 19 decisions."""
    lines = inspect(LxmertConfig(num_qa_labels=3129), "LxmertForQuestionAnswering")
    assert lines[0].endswith("LxmertForQuestionAnswering, backbone LxmertModel, 425 components")
    assert "  dead columns: 408-420, 422, 424" in lines
    found = rows(lines)
    assert (found["standard", "none"]["trainable"], found["standard", "none"]["frozen"]) == (213.9, 0)
    frozen = found["pretrained_frozen", "none"]
    assert (frozen["trainable"], frozen["frozen"]) == (32.0, 181.9)
    nets = [found[name, "mirror"]["net"] for name in ("spottune", "spottune_block", "blockdrop")]
    assert nets == [66.3, 65.1, 65.1]
    assert (found["blockdrop", "light"]["frozen"], found["blockdrop", "light"]["decisions"]) == (0, 19)
    assert [found[name, "light"]["decisions"] for name in ("spottune", "spottune_res", "spottune_block")] == [
        425,
        38,
        19,
    ]
    assert found["spottune", "light"]["dead"] == 15


def test_vl_bert_has_the_originals_numbers(inspect: Any) -> None:
    """Its table: trainable and frozen millions of every strategy, and the policies of 34.2 and 33.9 M."""
    lines = inspect(VLBertConfig.base(), "VLBertForQuestionAnswering", frozen_layers=(2, 3, 9, 10), policy="mirror")
    assert lines[0].endswith("VLBertForQuestionAnswering, backbone VLBertModel, 180 components")
    found = rows(lines)
    published = {
        ("standard", "none"): (115.0, 0),
        ("pretrained_frozen", "none"): (30.0, 85.1),
        ("last_4", "none"): (58.3, 56.7),
        ("specific_k", "none"): (86.7, 28.4),
        ("spottune", "mirror"): (149.2, 85.1),
        ("spottune_block", "mirror"): (148.9, 85.1),
        ("blockdrop", "mirror"): (148.9, 0),
    }
    assert {key: (found[key]["trainable"], found[key]["frozen"]) for key in published} == published
    assert [found[name, "mirror"]["net"] for name in ("spottune", "spottune_block", "blockdrop")] == [34.2, 33.9, 33.9]
    assert [found[name, "mirror"]["decisions"] for name in ("spottune", "spottune_res", "blockdrop")] == [180, 24, 12]


def test_bert_has_the_originals_encoder(inspect: Any) -> None:
    """85.1 M in 12 layers, of which last_4 leaves 56.7 M frozen, and the original's four frozen layers 28.4 M."""
    lines = inspect(BertConfig(), frozen_layers=(2, 3, 9, 10), policy="light")
    assert "  layer.0 to layer.11: 15 each: attention.head.0-11, attention.output, ffn.in, ffn.out" in lines
    found = rows(lines)
    assert {name: row["frozen"] for (name, _), row in found.items()} == {
        "spottune": 85.1,
        "spottune_res": 85.1,
        "spottune_block": 85.1,
        "blockdrop": 0,
        "standard": 0,
        "pretrained_frozen": 85.1,
        "last_4": 56.7,
        "specific_k": 28.4,
    }
    for row in found.values():
        assert row["trainable"] == pytest.approx(sum(row[part] for part in ("delta", "other", "head", "net")), abs=0.21)
        assert row["held"] == pytest.approx(109.5 + row["delta"] + row["net"], abs=0.21)


def test_one_strategy_lists_its_decisions(inspect: Any) -> None:
    lines = inspect(ViTConfig(num_hidden_layers=2), strategy="SpotTune_Res", policy="mirror")
    at = lines.index("strategy SpotTune_Res: 4 decisions")
    assert lines[at + 1 : at + 3] == ["  0-1: layer.0: attention, ffn", "  2-3: layer.1: attention, ffn"]
    assert list(rows(lines)) == [("SpotTune_Res", "mirror")]
    blocks = inspect(ViTConfig(num_hidden_layers=2), strategy="spottune_block")
    assert "  1: layer.1: the whole layer" in blocks
    assert list(rows(blocks)) == [("spottune_block", "light"), ("spottune_block", "mirror")]
    assert "strategy standard: no decisions" in inspect(ViTConfig(num_hidden_layers=2), strategy="standard")


def test_weights_without_a_gate_are_named(inspect: Any) -> None:
    lines = inspect(Dinov2Config(num_hidden_layers=2), strategy="standard")
    assert "  always frozen: encoder.layer.*.layer_scale1.lambda1, encoder.layer.*.layer_scale2.lambda1" in lines
    row = rows(lines)["standard", "none"]
    assert row["delta"] > 0


def test_deltas_of_low_rank_are_counted_and_stand_on_the_pretrained_weights(inspect: Any) -> None:
    """Rank 8 in each of 12 layers: 8 (K + N) for 6 linears, all biases and LayerNorms in full: 1.45 M of 85.1 M."""
    found = rows(inspect(BertConfig(), delta_rank=8, policy="learned"))
    for strategy, kind in (("spottune", "learned"), ("standard", "none")):
        assert (found[strategy, kind]["delta"], found[strategy, kind]["frozen"]) == (1.45, 85.1)
    assert found["spottune", "learned"]["net"] == 0.00036, "180 decisions of two numbers"
    assert found["last_4", "none"]["delta"] == 0.482


def test_numbers_keep_three_digits_however_small_the_model(inspect: Any) -> None:
    """At least one decimal, as in the original's table, and never fewer than three digits that say something."""
    told = [millions(count) for count in (213_946_000, 10_000_000, 1_427_712, 99_940, 360, 0)]
    assert told == ["213.9", "10.0", "1.43", "0.0999", "0.000360", "0.0"]
    small = ViTConfig(hidden_size=8, num_attention_heads=2, intermediate_size=17, num_hidden_layers=2, image_size=32)
    row = rows(inspect(small, strategy="standard"))["standard", "none"]
    assert row["delta"] == 0.00123, "1234 in both layers"


def test_the_table_leaves_out_last_k_that_is_every_layer(inspect: Any) -> None:
    """It would repeat the row of standard; asked for by name it is shown."""
    assert "last_4" in {strategy for strategy, _ in rows(inspect(ViTConfig(num_hidden_layers=5)))}
    for few in (4, 2):
        strategies = {strategy for strategy, _ in rows(inspect(ViTConfig(num_hidden_layers=few)))}
        assert "standard" in strategies
        assert not any(strategy.startswith("last_") for strategy in strategies)
    assert ("last_2", "none") in rows(inspect(ViTConfig(num_hidden_layers=2), strategy="last_2"))


def test_a_run_folder_is_answered_with_the_base_it_started_from(tmp_path: Path) -> None:
    """A run is no model: --model.name of its config, or the base it keeps where its weights were random."""
    (tmp_path / "config.yaml").write_text("model: {name: some/base}\n")
    with pytest.raises(UserError) as told:
        Command(str(tmp_path)).run()
    assert str(told.value) == f"'{tmp_path}' is a run folder, no model: give the base it started from, 'some/base'."
    (tmp_path / "config.yaml").write_text("model: {name: null}\n")
    (tmp_path / "base").mkdir()
    with pytest.raises(UserError, match=r"is a run folder, no model: give the base it started from, '.*/base'\."):
        Command(str(tmp_path)).run()


def test_clip_is_whole_where_its_class_is_named(inspect: Any) -> None:
    """The text side, 63.2 M, and both projections train beside the adapted picture side."""
    lines = inspect(CLIPConfig(), "CLIPModel", strategy="pretrained_frozen")
    assert lines[0].endswith("CLIPModel, backbone CLIPVisionModel, 180 components")
    assert rows(lines)["pretrained_frozen", "none"]["head"] == 63.8
    lines = inspect(CLIPConfig(), "SomebodysClip", strategy="pretrained_frozen")
    assert lines[1] == "  only the backbone is shown and counted, not the rest of SomebodysClip"
    assert rows(lines)["pretrained_frozen", "none"]["head"] == 0


@pytest.mark.parametrize(
    ("config", "options", "told"),
    [
        (GPT2Config(), {}, "is of type 'gpt2'; these can be adapted: lxmert, vl_bert, bert, "),
        (ViTConfig(num_hidden_layers=2), {"strategy": "last_3"}, "needs K from 1 to 2"),
        (ViTConfig(num_hidden_layers=2), {"strategy": "spotune"}, "unknown strategy 'spotune'. Did you mean"),
        (ViTConfig(num_hidden_layers=2), {"frozen_layers": (2,)}, r"frozen_layers \[2\] do not exist"),
    ],
)
def test_mistakes_print_nothing_but_one_sentence(
    inspect: Any, capsys: pytest.CaptureFixture[str], config: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told) as refusal:
        inspect(config, **options)
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == ""


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the model"):
        Command(str(tmp_path)).run()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such"}))
    with pytest.raises(UserError, match="no_such"):
        Command(str(tmp_path)).run()
    for content in (
        "null",
        "3",
        "[]",
        '["vit"]',
        "{",
        '{"model_type": 3}',
        '{"model_type": "vit", "hidden_size": "x"}',
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"cannot load the model '.*', read as a folder: "):
            Command(str(tmp_path)).run()


def test_runs_of_numbers_and_heads_are_drawn_together() -> None:
    assert ranges([1, 2, 3, 5, 8, 9]) == "1-3, 5, 8-9"
    assert ranges([]) == ""
    places = ["a.head.0", "a.head.1", "a.output", "b.head.0", "ffn.in"]
    assert folded(places) == ["a.head.0-1", "a.output", "b.head.0", "ffn.in"]
