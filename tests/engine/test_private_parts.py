"""The parts of DeepSpeed and torch that this project uses or replaces though their names promise nothing."""

from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch.distributed as dist

from adaptive_ft.engine.ranks import SHARED_MEMORY_OP, Ranks
from tests.engine.test_deepspeed_engine import batches, make_engine, update

# Where a part is looked for -> its names, with the file of adaptive_ft/engine that needs them.
PARTS = {
    "engine": {"_copy_recovery_script": "failed_saves.py", "checkpoint_engine": "failed_saves.py"},
    "config": {"load_universal_checkpoint": "universal.py"},
    "optimizer": {
        "load_hp_checkpoint_state_from_checkpoint_dir": "universal.py",
        "_load_global_state": "universal.py",
        "param_names": "universal.py",
        "_global_grad_norm": "deepspeed_engine.py",
    },
    "parameter": {"_hp_mapping": "universal.py", "load_hp_checkpoint_state": "universal.py"},
    "ops": {"__compatible_ops__": "ranks.py"},
    "torch": {"_get_default_store": "watchdog.py"},
}


@pytest.fixture
def places(ranks: Ranks, repository: Path) -> dict[str, Any]:
    """An engine under ZeRO-1 after an update, and what else is patched."""
    engine = make_engine(ranks, repository / "ds_configs/zero1.json")
    update(engine, batches(1))
    return {
        "engine": engine.deepspeed,
        "config": engine.deepspeed._config,
        "optimizer": engine.optimizer,
        "parameter": next(value for value in engine.module.parameters() if value.requires_grad),
        "ops": deepspeed.ops,
        "torch": dist.distributed_c10d,
    }


def test_every_private_part_is_there(places: dict[str, Any]) -> None:
    """One that is gone is named with the file that has to change."""
    gone = [
        f"{place}.{name} (adaptive_ft/engine/{user})"
        for place, names in PARTS.items()
        for name, user in names.items()
        if not hasattr(places[place], name)
    ]
    assert not gone, f"deepspeed {deepspeed.__version__} or torch no longer has {gone}"


def test_the_replaced_parts_are_asked(places: dict[str, Any]) -> None:
    """A name that nobody reads any more would be set without effect: the switch turns, the kernel is listed."""
    places["config"].load_universal_checkpoint = True
    assert places["engine"].load_universal_checkpoint() is True
    assert SHARED_MEMORY_OP in deepspeed.ops.__compatible_ops__
