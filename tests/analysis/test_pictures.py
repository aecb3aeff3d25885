"""Pictures: every cell shows its own component, nothing is clipped, files are whole with their data beside."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from adaptive_ft.analysis.pictures import (
    save_figure,
    save_history_csv,
    save_usage_csv,
    training_curves,
    usage_heatmap,
)
from adaptive_ft.components import Component, ComponentMap

HISTORY = [
    {"epoch": 1, "train_score": 0.4, "val_score": 0.3, "loss": 5.0},
    {"epoch": 2, "train_score": 0.6, "val_score": 0.35, "loss": 3.0},
]


def lxmert_like(num_layers: int, num_heads: int) -> ComponentMap:
    """Layers of two kinds with different components; the last cross layer's region part is dead."""
    components = []
    for number in range(num_layers):
        components += [Component(f"language.{number}", "attention", head) for head in range(num_heads)]
        components += [Component(f"language.{number}", part) for part in ("attention.output", "ffn.in", "ffn.out")]
    for stream in ("language", "region"):
        components += [Component("cross.0", f"{stream}_attention", head) for head in range(num_heads)]
        components += [Component("cross.0", f"{stream}_ffn.{side}") for side in ("in", "out")]
    return ComponentMap(tuple(components), tuple("region" not in each.part for each in components))


def meshes(figure: Figure) -> list[QuadMesh]:
    """The coloured cells of every panel."""
    axes = [axis for axis in figure.axes if axis.get_title(loc="left")]
    return [child for axis in axes for child in axis.get_children() if isinstance(child, QuadMesh)]


def heights(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata()).tolist()


def test_every_cell_shows_its_component_and_dead_ones_are_hatched() -> None:
    components = lxmert_like(num_layers=2, num_heads=2)
    shares = torch.arange(len(components)) / 100
    figure = usage_heatmap(shares, components, "title")
    cells: list[np.ma.MaskedArray] = [np.ma.asarray(mesh.get_array()) for mesh in meshes(figure)]
    language, cross = cells
    assert language.tolist() == [pytest.approx(row.tolist()) for row in shares[:10].reshape(2, 5)]
    assert cross.mask.tolist() == [[False] * 4 + [True] * 4]
    assert cross.compressed().tolist() == pytest.approx(shares[10:14].tolist())
    hatched = [
        patch for axis in figure.axes for patch in axis.patches if isinstance(patch, Rectangle) and patch.get_hatch()
    ]
    assert sorted(int(patch.get_x()) for patch in hatched) == [4, 5, 6, 7]
    assert "dead" in figure.legends[0].get_texts()[-1].get_text()


def test_dark_means_tuned() -> None:
    components = lxmert_like(1, 2)
    mesh = meshes(usage_heatmap([0.0, 1.0] + [0.5] * (len(components) - 2), components, "title"))[0]
    mesh.update_scalarmappable()
    frozen, tuned = np.asarray(mesh.get_facecolor())[:2, :3].sum(axis=1)
    assert tuned < 0.1 < 2.0 < frozen


@pytest.mark.parametrize(("num_layers", "num_heads"), [(1, 1), (2, 4), (9, 12)])
def test_no_label_is_clipped_or_overlaps_its_neighbour(num_layers: int, num_heads: int) -> None:
    components = lxmert_like(num_layers, num_heads)
    figure = usage_heatmap([0.5] * len(components), components, "Tuned share, validation, epoch 12")
    figure.draw_without_rendering()
    page = figure.bbox
    for axis in figure.axes:
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels if label.get_text()]
            assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 for box in boxes)
            assert not any(one.overlaps(two) for one, two in pairwise(boxes))


def test_curves_hold_percent_and_gap() -> None:
    score, gap, loss = training_curves(HISTORY).axes
    assert [heights(line) for line in score.lines] == [[40.0, 60.0], [30.0, 35.0]]
    assert heights(gap.lines[-1]) == pytest.approx([10.0, 25.0])
    assert heights(loss.lines[0]) == [5.0, 3.0]


def test_files_are_whole_and_hold_the_data(tmp_path: Path) -> None:
    components = lxmert_like(1, 1)
    shares = torch.linspace(0, 1, len(components), dtype=torch.float64)
    save_figure(training_curves(HISTORY), tmp_path / "plots" / "curves.png")
    save_history_csv(HISTORY, tmp_path / "plots" / "curves.csv")
    save_usage_csv(shares, components, tmp_path / "plots" / "usage.csv")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["curves.csv", "curves.png", "usage.csv"]
    assert imread(tmp_path / "plots" / "curves.png").shape[1] > 1000
    with (tmp_path / "plots" / "usage.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["tuned_share"]) for row in rows] == shares.tolist()
    assert (rows[0]["component"], rows[0]["head"], rows[1]["head"]) == ("language.0.attention.head.0", "0", "")
    assert [row["live"] for row in rows] == [str(int(live)) for live in components.live]
    lines = (tmp_path / "plots" / "curves.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,train_score,val_score,gap"
    assert lines[2].startswith("2,3.0,0.6,0.35,0.25")


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ValueError, match=r"the model has 10 components, the shares have shape \(3,\)"):
        usage_heatmap([0.1, 0.2, 0.3], lxmert_like(1, 1), "title")
    with pytest.raises(ValueError, match="no finished epoch"):
        training_curves([])
    with pytest.raises(ValueError, match="record 1 of the history has no 'loss'"):
        training_curves([HISTORY[0], {**HISTORY[1], "loss": None}])
