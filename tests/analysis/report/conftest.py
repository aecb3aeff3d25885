"""A run folder and examined samples as a run leaves them, small and written by hand, so that no model is trained."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from adaptive_ft.analysis.examined import Examined, Example
from adaptive_ft.analysis.pictures import save_figure, save_usage_csv, usage_heatmap
from adaptive_ft.analysis.report.run_files import read_run
from adaptive_ft.analysis.report.sections import Told
from adaptive_ft.components import Component, ComponentMap
from adaptive_ft.data.records import Question
from adaptive_ft.strategies import tie

MakeRun = Callable[..., Path]
HEADS = [Component(f"layer.{layer}", "attention", head) for layer in range(2) for head in range(3)]
COMPONENTS = ComponentMap(
    tuple(
        component
        for layer in range(2)
        for component in (*HEADS[3 * layer : 3 * layer + 3], Component(f"layer.{layer}", "ffn.in"))
    ),
    live=(True,) * 7 + (False,),
)
SUMMARY = {
    "name": "first", "strategy": "spottune", "policy": "light", "train_score": 0.75, "val_score": 0.5, "gap": 0.25,
    "official_accuracy": None, "best_constant": {"answer": "yes", "score": 0.2, "official_accuracy": None},
    "val_data": "0123456789ab", "trainable_parameters": 2_500_000, "frozen_parameters": 1_000_000, "tuned_share": 0.4,
    "epochs": 3, "seconds": 1234.5, "versions": {"torch": "9.9"},
}  # fmt: skip


def shares_of(epoch: int, split: str) -> list[float]:
    """A share of its own for every epoch, split and component."""
    start = 0.1 * epoch + (0.05 if split == "train" else 0)
    return [round(start + 0.05 * place, 3) for place in range(len(COMPONENTS))]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run folder of some epochs; without a summary it is one that has not finished."""

    def make(
        name: str = "first", epochs: int = 3, finished: bool = True, strategy: str = "spottune", **adapt: Any
    ) -> Path:
        folder = tmp_path / name
        (folder / "plots").mkdir(parents=True)
        config = {"name": name, "adapt": {"strategy": strategy, "policy": {"kind": "light"}} | adapt, "seed": len(name)}
        (folder / "config.yaml").write_text(json.dumps(config))
        lines: list[dict[str, Any]] = [{"step": 0, "val/score": 0.3}]
        for epoch in range(1, epochs + 1):
            lines.append({"step": 10 * epoch - 5, "train/loss": 4 / epoch, "time/examples_per_second": 100.0 * epoch})
            told = {"loss": 4 / epoch, "train_score": 0.25 * epoch, "val_score": 0.2 + 0.1 * epoch, "gap": 0.1}
            told |= {"tuned_share_train": 0.5, "tuned_share_val": 0.4}
            lines.append({"step": 10 * epoch, "epoch/epoch": epoch} | {f"epoch/{key}": told[key] for key in told})
            for split in ("train", "val"):
                path = folder / "plots" / f"usage_{split}_epoch{epoch:02d}.csv"
                save_usage_csv(shares_of(epoch, split), COMPONENTS, path)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if finished:
            (folder / "summary.json").write_text(json.dumps({**SUMMARY, "name": name}))
        return folder

    return make


def picture(colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    """A small PNG."""
    content = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(content, format="PNG")
    return content.getvalue()


def example(number: int, **changes: Any) -> Example:
    """A question about a picture with one region, answered right."""
    question = Question(number, f"what is number {number}?", "what is", "other", (), {"cat": 1.0, "dog": 0.3})
    whole = Example(question, f"image{number}", "cat", 1.0, (80, 60), ((10.0, 5.0, 50.0, 45.0),), picture())
    return replace(whole, **changes)


@pytest.fixture
def examined() -> Examined:
    """Four samples of spottune: one that tunes nothing, one that tunes all, two between."""
    rows = [[0] * 8, [1] * 8, [1, 0, 0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 1, 0, 0, 0]]
    return examined_of([example(number) for number in range(4)], torch.tensor(rows, dtype=torch.float32))


def examined_of(examples: Sequence[Example], gates: torch.Tensor, strategy: str = "spottune") -> Examined:
    """These samples with these decisions of a strategy on the small component map."""
    return Examined(
        step=30, noun="questions", address="shards", total=50, components=COMPONENTS, tying=tie(strategy, COMPONENTS),
        gates_ND=gates, examples=list(examples), parameters={"trainable": 5_000_000, "frozen": 1_000_000},
        distance_C=torch.arange(8, dtype=torch.float64) / 10,
    )  # fmt: skip


@pytest.fixture
def told(make_run: MakeRun, examined: Examined) -> Told:
    """The finished run with its samples and a picture of its last epoch."""
    folder = make_run()
    save_figure(usage_heatmap(shares_of(3, "val"), COMPONENTS, "drawn"), folder / "plots/usage_val_epoch03.png")
    return Told(read_run(folder), examined)
