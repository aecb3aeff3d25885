"""Usage by layer: live components only, from the last epoch's table."""

from pathlib import Path

import pytest

from adaptive_ft.analysis.layer_usage import newest_usage, tuned_by_layer
from adaptive_ft.analysis.pictures import save_usage_csv
from adaptive_ft.components import Component, ComponentMap
from adaptive_ft.errors import UserError

PARTS = ComponentMap(
    tuple(Component(f"layer.{layer}", part) for layer in (0, 1) for part in ("ffn.in", "ffn.out")),
    live=(True, True, True, False),
)


def test_the_table_that_a_run_wrote_gives_the_share_of_every_layer(tmp_path: Path) -> None:
    for epoch, first in ((2, 0.0), (10, 0.5)):
        save_usage_csv([first, 1.0, 0.25, 1.0], PARTS, tmp_path / f"usage_val_epoch{epoch}.csv")
    (tmp_path / "usage_val_epochs.csv").touch()
    newest = newest_usage(tmp_path)
    assert newest == tmp_path / "usage_val_epoch10.csv"
    assert tuned_by_layer(newest) == {"layer.0": 0.75, "layer.1": 0.25}


def test_no_table_and_another_table(tmp_path: Path) -> None:
    assert newest_usage(tmp_path / "nowhere") is None
    (tmp_path / "other.csv").write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(UserError, match="is no table of gate usage"):
        tuned_by_layer(tmp_path / "other.csv")
