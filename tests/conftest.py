"""Fixtures every test may use; those of the second half are for tests that train."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from adaptive_ft.engine.ranks import Ranks
    from adaptive_ft.run_folder import RunFolder

# Models here are tiny: a second thread gains nothing, and waits actively where another process has its core (a test of
# 12 s took 114 s beside two others). Processes that tests start inherit it.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCHER_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TINY_MODEL = {
    "hidden_size": "16",
    "num_attention_heads": "2",
    "intermediate_size": "16",
    "language_layers": "1",
    "region_layers": "1",
    "cross_layers": "1",
    "max_position_embeddings": "24",
    # Without dropout a run does not depend on how its batch is cut into ranks.
    "hidden_dropout": "0",
    "attention_dropout": "0",
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not found beside the checkout ({folder.parent.name}/{folder.name})")
    return folder


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small generated world in `world/`; programs run in it and leave their runs in `runs/`."""
    from adaptive_ft.data.world.config import WorldConfig
    from adaptive_ft.data.world.generate import generate_world

    place = tmp_path_factory.mktemp("workplace")
    generate_world(place / "world", WorldConfig.small())
    return place


@pytest.fixture(scope="session")
def launch(workplace: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a program of the environment in the workplace, as a person would; its exit code is not judged."""

    def run(*words: str | Path, patience: float = 240) -> "subprocess.CompletedProcess[str]":
        program, *rest = words
        path = Path(sys.executable).with_name(str(program))
        return subprocess.run(
            [path, *map(str, rest)],
            cwd=workplace,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )

    return run


def clean_environment() -> dict[str, str]:
    """Ours without a launcher's words in it, one thread a process, the environment's programs first in the path."""
    own = {name: value for name, value in os.environ.items() if name not in LAUNCHER_NAMES}
    return {
        **own,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}",
    }


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment for processes a test starts itself."""
    return clean_environment()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory; only root may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system of a chosen size can be made here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The number of a process that lives until the end of the test."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def start_by_hand(workplace: Path) -> Iterator[Callable[..., "list[subprocess.Popen[str]]"]]:
    """Start ranks of a python program without any launcher, so that a test may signal each of them; what still lives
    at the end of the test is killed.
    """
    started: list[subprocess.Popen[str]] = []

    def start(world_size: int, *words: str | Path, **variables: str) -> "list[subprocess.Popen[str]]":
        from adaptive_ft.engine.ranks import free_port

        meeting = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [
            subprocess.Popen(
                [sys.executable, *map(str, words)],
                cwd=workplace,
                env={**clean_environment(), **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank), **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world_size)
        ]
        started.extend(ranks)
        return ranks

    yield start
    for rank in started:
        rank.kill()
        rank.communicate()


@pytest.fixture
def two_ranks(start_by_hand: "Callable[..., list[subprocess.Popen[str]]]") -> Callable[..., None]:
    """Run a program's text on two ranks to its good end; it may import from the tests."""

    def run(program: str, *words: str | Path) -> None:
        path = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        ranks = start_by_hand(2, "-c", program, *words, PYTHONPATH=path)
        told = ["".join(rank.communicate(timeout=240)) for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], told

    return run


@pytest.fixture(scope="session")
def tiny_base(workplace: Path, launch: Callable[..., "subprocess.CompletedProcess[str]"]) -> Path:
    """A tiny base in `base/`, made as a person makes one: a short standard run from random weights, exported."""
    sizes = [word for name, value in TINY_MODEL.items() for word in (f"--model.{name}", value)]
    done = launch(
        *("python", REPOSITORY / "train.py", "--ds_config", REPOSITORY / "ds_configs/zero0.json"),
        *("--model.name", "None", *sizes, "--adapt.strategy", "standard", "--name", "pretraining"),
        *("--data.train", "world/source/train", "--data.val", "world/source/val"),
        *("--max_steps", "2", "--per_device_train_batch_size", "8", "--export_to", "base"),
    )
    assert done.returncode == 0, done.stderr
    return workplace / "base"


@pytest.fixture(scope="session")
def tiny(workplace: Path, tiny_base: Path) -> Callable[..., list[str]]:
    """The options of a run called `name` of few updates on the small world; more options may follow."""

    def options(name: str, *more: str, stage: int = 2) -> list[str]:
        given = {
            "--name": name,
            "--output_dir": str(workplace / "runs"),
            "--ds_config": str(REPOSITORY / f"ds_configs/zero{stage}.json"),
            "--model.name": str(tiny_base),
            "--data.train": str(workplace / "world/target/train"),
            "--data.val": str(workplace / "world/target/val"),
            "--max_steps": "3",
            "--per_device_train_batch_size": "4",
            "--tracking.logging_steps": "1",
            "--adapt.strategy": "spottune_block",
            "--adapt.policy.embedding_size": "8",
            "--adapt.policy.hidden_size": "8",
            "--optim.learning_rate": "1e-3",
        }
        return [word for pair in given.items() for word in pair] + list(more)

    return options


@pytest.fixture(scope="session")
def ranks() -> Iterator["Ranks"]:
    """A world of one rank in this process."""
    # Only the tests that train pay for importing DeepSpeed.
    import torch.distributed as dist

    from adaptive_ft.engine.ranks import start_ranks

    before = dict(os.environ)
    yield start_ranks()
    dist.destroy_process_group()
    for name in LAUNCHER_NAMES:
        os.environ.pop(name, None)
    os.environ.update({name: before[name] for name in LAUNCHER_NAMES if name in before})


@pytest.fixture(scope="session")
def finished_run(ranks: "Ranks", tiny: Callable[..., list[str]]) -> "RunFolder":
    """The folder of a short run that has finished, with checkpoints after updates 2 and 3; tests only read it."""
    from adaptive_ft.build import build
    from adaptive_ft.config import load_run_config
    from adaptive_ft.trainer import Trainer

    run = build(load_run_config(tiny("finished", "--save_steps", "2")), ranks)
    Trainer(run).fit()
    return run.folder
