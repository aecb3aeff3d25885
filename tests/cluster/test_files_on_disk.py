"""What two ranks write holds nothing of the frozen half: neither its names nor its bytes, in any file of any stage."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.engine.checkpoint import CheckpointFolder
from adaptive_ft.engine.universal import convert
from adaptive_ft.saving import restore

pytestmark = pytest.mark.launch

Launch = Callable[..., "subprocess.CompletedProcess[str]"]
Tiny = Callable[..., list[str]]
CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    "disk0": (0, ()),
    "disk1": (1, ("--precision", "bf16")),
    "disk2": (2, ()),
    "disk3": (3, ()),
    "disk3_bf16": (3, ("--precision", "bf16")),
}
PIECE = 16


@pytest.fixture(scope="module")
def written(launch: Launch, tiny: Tiny, repository: Path, workplace: Path) -> Path:
    """The folder of the runs, one of each stage."""
    (workplace / "on_disk").mkdir()
    runs = [
        {"words": tiny(name, "--max_steps", "2", *words, stage=stage), "stop_at": None}
        for name, (stage, words) in CASES.items()
    ]
    program = repository / "tests/cluster/several_runs.py"
    launcher = ("torchrun", "--standalone", "--nproc-per-node", "2")
    done = launch(*launcher, program, workplace / "on_disk", json.dumps(runs))
    assert done.returncode == 0, done.stderr
    return workplace / "runs"


def pieces(tensor: Tensor) -> list[bytes]:
    """Runs of numbers out of `tensor`, as float32 and as bfloat16: from its start, its second half and its end."""
    flat = tensor.flatten()
    cut = [flat[:PIECE], flat[flat.numel() // 2 :][:PIECE], flat[-PIECE:]]
    stored = [piece.to(dtype) for piece in cut if len(piece) == PIECE for dtype in (torch.float32, torch.bfloat16)]
    # Scales of norms are near 1: rounded, any two of them may look alike.
    return [piece.view(torch.uint8).numpy().tobytes() for piece in stored if len(piece.unique()) > PIECE // 2]


def frozen_half(model: AdaptiveModel) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}


@pytest.mark.parametrize("name", CASES)
def test_no_file_of_a_checkpoint_knows_the_frozen_half(name: str, written: Path) -> None:
    """DeepSpeed's files, ours, and what another number of ranks would read."""
    restored = restore(written / name)
    frozen = frozen_half(restored.model)
    place = restored.place.parent
    if not name.startswith("disk0"):
        convert(CheckpointFolder(place.parent), place.name)
    files = [path for path in place.rglob("*") if path.is_file()]
    assert any("optim_states" in path.name for path in files) or name == "disk0"
    contents = {path.relative_to(place).as_posix(): path.read_bytes() for path in files}
    sought = {key: pieces(value) for key, value in frozen.items()}
    assert sum(map(bool, sought.values())) > 10, "too few frozen tensors that chance could not have made"
    for key, parts in sought.items():
        for path, content in contents.items():
            assert key.encode() not in content, f"{path} names {key}"
            assert not any(part in content for part in parts), f"{path} holds numbers of {key}"


def test_the_search_finds_what_is_there(written: Path) -> None:
    """The learned weights, sought in the same way, are found in the files that hold them."""
    restored = restore(written / "disk2")
    learned = load_file(restored.place / "adaptive_model.safetensors")
    sought = [part for key, value in learned.items() if "delta" in key for part in pieces(value)[:1]]
    engine = next(restored.place.parent.glob("mp_rank_00*")).read_bytes()
    assert sought
    assert all(part in engine for part in sought)
