"""Pictures of shared invariances: one panel per judge, a dot where each row is largest, bars where gates are."""

import numpy as np
import pytest

from adaptive_ft.analysis.invariance_pictures import retention_and_usage, stir_heatmaps

LAYERS = ("layer.0", "layer.1", "norm")
STIR = np.array([[0.9, 0.3, 0.2], [0.8, 0.7, 0.1], [np.nan, np.nan, np.nan]])
FLOOR = np.array([0.3, 0.2, 0.1])


def test_heatmaps_show_every_judge_and_mark_the_strongest_layer() -> None:
    figure = stir_heatmaps({"fine-tuned": STIR, "random": STIR.T}, LAYERS, "pretrained")
    first, second = figure.axes[:2]
    assert first.get_title(loc="left") == "STIR(fine-tuned | pretrained)"
    assert second.get_title(loc="left") == "STIR(random | pretrained)"
    assert [label.get_text() for label in first.get_yticklabels()] == ["0", "1", "norm"]
    (dots,) = (found for found in first.collections if len(found.get_offsets()) == 2)
    assert dots.get_offsets().tolist() == [[0.5, 0.5], [0.5, 1.5]]
    figure.canvas.draw()


def test_lines_by_layer_stand_before_bars_of_usage() -> None:
    lines = {"fine-tuned": np.array([0.9, 0.7, 0.4]), "pretrained": np.array([0.9, 0.9, 0.8])}
    figure = retention_and_usage(lines, LAYERS, {"layer.0": 0.2, "layer.1": 0.6}, ("a note", "word " * 40), FLOOR)
    (axis,) = figure.axes
    assert [bar.get_height() for bar in axis.patches] == [0.2, 0.6, 0.0]
    assert [line.get_label() for line in axis.lines] == [
        "STIR(fine-tuned | pretrained)",
        "STIR(pretrained | pretrained)",
        "fine-tuned, without a search",
    ]
    assert axis.lines[-1].get_ydata().tolist() == FLOOR.tolist()
    assert axis.get_xlabel().splitlines()[:2] == ["layer", "a note"]
    assert max(map(len, axis.get_xlabel().splitlines())) <= 110
    (below,) = retention_and_usage(lines, LAYERS, {}, (), FLOOR - 0.5).axes
    assert not below.patches
    assert below.get_ylim()[0] == pytest.approx(-0.4)
    figure.canvas.draw()
