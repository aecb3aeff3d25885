"""Who am I, how many are we: any launcher's environment, and what ranks say to each other, in real processes."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from adaptive_ft.engine.ranks import free_port, read_environment
from adaptive_ft.errors import UserError

SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
MASTER = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


def test_without_a_launcher_there_is_one_rank() -> None:
    """Plain python: rank 0 of 1 on this machine, at a port that is free."""
    found = read_environment({"HOME": "/root"})
    assert {name: found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")} == {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }
    assert found["MASTER_ADDR"] == "127.0.0.1"
    assert 1024 <= int(found["MASTER_PORT"]) < 65536


def test_torchrun_is_taken_at_its_word() -> None:
    """All five variables as they are."""
    assert read_environment(TORCHRUN) == TORCHRUN


def test_srun_is_translated() -> None:
    """SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID under torch's names."""
    found = read_environment({**SRUN, **MASTER})
    assert found == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", **MASTER}


def test_a_launcher_inside_srun_wins() -> None:
    """torchrun started by srun: Slurm's numbers are those of torchrun, not of its ranks."""
    assert read_environment({**SRUN, **TORCHRUN}) == TORCHRUN


def test_a_batch_script_without_srun_is_one_rank() -> None:
    """Python called straight from sbatch sees SLURM_NTASKS, but it is no step and has no peers."""
    found = read_environment({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"})
    assert found["WORLD_SIZE"] == "1"


def test_half_a_launcher_is_an_error() -> None:
    """The message says what is there and what is not."""
    with pytest.raises(UserError, match="set RANK, WORLD_SIZE but not LOCAL_RANK"):
        read_environment({"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_many_ranks_need_to_know_the_master(missing: str) -> None:
    """srun tells no address: the batch script must export it, and the message says so."""
    environment = {**SRUN, **MASTER}
    del environment[missing]
    with pytest.raises(UserError, match=f"4 ranks were started but {missing} is not set: export it"):
        read_environment(environment)


def test_a_single_rank_fills_what_is_missing() -> None:
    """One srun task needs no master."""
    found = read_environment({**SRUN, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"})
    assert found["MASTER_ADDR"] == "127.0.0.1"


CONVERSATION = """
import json, sys
from pathlib import Path
import torch
from adaptive_ft.engine.ranks import ToldElsewhere, run_ranks
from adaptive_ft.errors import UserError

def fail_on(rank, ranks):
    def work():
        if ranks.rank == rank:
            raise UserError(f"rank {rank} cannot")
        return ranks.rank
    try:
        return ranks.together(work)
    except UserError as error:
        return [type(error).__name__, str(error)]

def main(ranks):
    mine = torch.tensor([1.0, 10.0]) * (ranks.rank + 1)
    leaf = mine.clone().requires_grad_()
    mean = ranks.mean_with_local_gradient(leaf)
    mean.sum().backward()
    called = []
    told = {
        "sum": ranks.sum(mine).tolist(),
        "kept": mine.tolist(),
        "mean": mean.tolist(),
        "gradient": leaf.grad.tolist(),
        "gather": ranks.gather({"rank": ranks.rank}),
        "broadcast": ranks.broadcast(["from", ranks.rank]),
        "on_main": ranks.on_main(lambda: called.append(1) or f"made by {ranks.rank}"),
        "called": len(called),
        "together": ranks.together(lambda: ranks.rank),
        "fails_first": fail_on(0, ranks),
        "fails_last": fail_on(ranks.world_size - 1, ranks),
        "main": ranks.is_main,
    }
    ranks.barrier()
    Path(sys.argv[1], f"{ranks.rank}.json").write_text(json.dumps(told))
    if len(sys.argv) > 2:
        ranks.on_main(lambda: (_ for _ in ()).throw(UserError(sys.argv[2])))

run_ranks(main)
"""


def talk(
    place: Path, environment: dict[str, str], world_size: int, *words: str
) -> tuple["subprocess.CompletedProcess[str]", list[dict[str, object]]]:
    """Run CONVERSATION on `world_size` ranks started by hand; what each rank found."""
    (place / "conversation.py").write_text(CONVERSATION)
    launcher = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "conversation.py", str(place), *words]
    ranks = [
        subprocess.Popen(
            command,
            cwd=place,
            env={**environment, **launcher, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    outputs = [rank.communicate(timeout=120) for rank in ranks]
    code = max(rank.returncode for rank in ranks)
    joined = subprocess.CompletedProcess(command, code, *map("".join, zip(*outputs, strict=True)))
    return joined, [json.loads((place / f"{rank}.json").read_text()) for rank in range(world_size)]


@pytest.mark.launch
def test_two_ranks_agree(tmp_path: Path, environment: dict[str, str]) -> None:
    """Sums, means with local gradients, gathering, and errors told on the rank that has them and raised on all."""
    done, (first, second) = talk(tmp_path, environment, 2)
    assert done.returncode == 0, done.stderr
    for told, factor in ((first, 1), (second, 2)):
        assert told["sum"] == [3.0, 30.0]
        assert told["kept"] == [factor * 1.0, factor * 10.0], "sum gives a new tensor"
        assert told["mean"] == [1.5, 15.0]
        assert told["gradient"] == [1.0, 1.0]
        assert told["broadcast"] == ["from", 0]
        assert told["on_main"] == "made by 0"
        assert told["together"] == factor - 1
    assert first["gather"] == [{"rank": 0}, {"rank": 1}]
    assert second["gather"] == []
    assert (first["called"], second["called"]) == (1, 0), "only rank 0 does the work"
    assert (first["main"], second["main"]) == (True, False)
    assert first["fails_first"] == ["UserError", "rank 0 cannot"]
    assert second["fails_first"] == ["ToldElsewhere", "rank 0 cannot"]
    assert first["fails_last"] == ["ToldElsewhere", "rank 1 cannot"]
    assert second["fails_last"] == ["UserError", "rank 1 cannot"]


@pytest.mark.launch
def test_a_mistake_is_told_once_and_ends_all_ranks(tmp_path: Path, environment: dict[str, str]) -> None:
    """Exit code 2 everywhere, one sentence on stderr."""
    done, _ = talk(tmp_path, environment, 2, "this cannot work")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "cannot" in line] == ["error: this cannot work"]


@pytest.mark.launch
def test_one_rank_talks_to_itself(tmp_path: Path, environment: dict[str, str]) -> None:
    """The same code with world size 1: every collective is the identity."""
    done, (told,) = talk(tmp_path, environment, 1)
    assert done.returncode == 0, done.stderr
    assert (told["sum"], told["mean"], told["gradient"]) == ([1.0, 10.0], [1.0, 10.0], [1.0, 1.0])
    assert told["gather"] == [{"rank": 0}]
    assert told["fails_first"] == ["UserError", "rank 0 cannot"]


@pytest.mark.launch
def test_a_port_in_use_is_told_in_one_sentence(tmp_path: Path, environment: dict[str, str]) -> None:
    """Two launchers on one machine take the same port unless told otherwise: exit code 2, the port and the way out."""
    (tmp_path / "conversation.py").write_text(CONVERSATION)
    with socket.socket() as other_run:
        other_run.bind(("127.0.0.1", 0))
        other_run.listen()
        port = str(other_run.getsockname()[1])
        launcher = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        done = subprocess.run(
            [sys.executable, "conversation.py", str(tmp_path)],
            cwd=tmp_path,
            env={**environment, **launcher},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert f"port {port} of 127.0.0.1" in told
    assert "deepspeed --master_port N" in told
    assert "torchrun --standalone" in told
    assert "Traceback" not in done.stderr
