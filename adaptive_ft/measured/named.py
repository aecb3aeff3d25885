"""What an `adaptive-ft invariance` compared, by name: models, policies, checkpoints, examples, device, versions."""

from pathlib import Path
from typing import Any

import torch

from adaptive_ft.analysis.repeatable import device_name
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.versions import versions


def named_model(name: str, policy: str, which: str) -> dict[str, Any]:
    """A model as a person named it; of a run also the policy and the checkpoint it was read with."""
    folder = RunFolder(Path(name))
    if not folder.config_file.is_file():
        return {"name": name}
    return {"name": name, "policy": policy, "checkpoint": folder.checkpoints.pointed(which)}


def surroundings(shards: ShardSet, count: int, device: torch.device) -> dict[str, Any]:
    """The examples, and what the numbers were made with."""
    return {"shards": shards.address, "images": count, "device": device_name(device), "versions": versions()}
