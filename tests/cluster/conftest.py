"""The cluster of these tests, the jobs given to it, and the runs nobody disturbs to compare them with."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.machines import NoMachines, wait_until
from tests.cluster.slurm import Slurm, find_or_install

if TYPE_CHECKING:
    import subprocess

STEPS = 40
LONG = ("--max_steps", str(STEPS), "--save_steps", "5")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
# The command line of a rank, and not of the srun that started it.
RANKS = "^[^ ]*python [^ ]*train.py"


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A cluster of a controller and three nodes; the tests are skipped where none can be made."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # pytest's folders are too deep for the name of a socket
    try:
        find_or_install()
        cluster = Slurm(folder, nodes=3)
    except NoMachines as error:
        pytest.skip(f"no Slurm cluster can be made here: {str(error)[:500]}")
    yield cluster
    cluster.stop()
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Job:
    """A job in the queue and what it leaves."""

    slurm: Slurm
    number: str
    run: Path
    log: Path

    def reach(self, step: int) -> None:
        """Wait until a checkpoint of `step` or a later one stands."""
        pointer = self.run / "checkpoints/latest"
        wait_until(lambda: pointer.is_file() and pointer.read_text() >= f"step_{step:06d}", f"{self}: update {step}")
        assert not self.finished, "the job was over before the test disturbed it"

    def signal_ranks(self, signal: str, node: str) -> None:
        """Send a signal to the ranks on one node, past Slurm."""
        self.slurm.network.run_on(node, "pkill", f"-{signal}", "-f", RANKS)

    def end(self) -> str:
        """Wait until the job has ended for good; its state, with the log in the test's report."""
        state = self.slurm.wait_for_state(self.number, *ENDED)
        print(self.log.read_text() if self.log.is_file() else "no log")
        return state

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.run / "summary.json").is_file()

    @property
    def restarts(self) -> int:
        """How often the job was requeued."""
        return int(self.slurm.field(self.number, "Restarts"))

    @property
    def weights(self) -> bytes:
        """What was learned, after the last update."""
        return final_weights(self.run)


def final_weights(run: Path) -> bytes:
    """The file of the tuned half, policy and head after the last update of `LONG`."""
    return (run / f"checkpoints/step_{STEPS:06d}/adaptive/adaptive_model.safetensors").read_bytes()


@pytest.fixture(scope="session")
def submit(
    slurm: Slurm, workplace: Path, repository: Path, environment: dict[str, str], tiny: Callable[..., list[str]]
) -> Callable[..., Job]:
    """Give a script of slurm/ to sbatch in the workplace; further words go to train.py, `sbatch` ones before it."""

    def give(script: str, *more: str, sbatch: tuple[str, ...] = (), without: tuple[str, ...] = ("--name",)) -> Job:
        words = iter(tiny("", *more))
        options = [word for pair in zip(words, words, strict=True) if pair[0] not in without for word in pair]
        command = ("sbatch", "--parsable", *sbatch, repository / "slurm" / script, *options)
        named = {**environment, "ADAPTIVE_FT_HOME": str(repository)}
        number = slurm.run(*command, environment=named, place=workplace).strip()
        name = f"adaptive-ft-{number}"
        return Job(slurm, number, workplace / "runs" / name, workplace / f"{name}.out")

    return give


@pytest.fixture(scope="session")
def undisturbed(
    workplace: Path,
    repository: Path,
    launch: Callable[..., "subprocess.CompletedProcess[str]"],
    tiny: Callable[..., list[str]],
) -> Callable[[int], bytes]:
    """The final weights of the run on so many ranks, without Slurm and without disturbance."""
    known: dict[int, bytes] = {}

    def learned(ranks: int) -> bytes:
        if ranks not in known:
            launcher = ("torchrun", "--standalone", "--nproc-per-node", str(ranks))
            name = f"undisturbed_{ranks}"
            done = launch(*launcher, repository / "train.py", *tiny(name, *LONG))
            assert done.returncode == 0, done.stderr
            known[ranks] = final_weights(workplace / "runs" / name)
        return known[ranks]

    return learned
