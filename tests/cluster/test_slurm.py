"""The batch scripts of slurm/ on a real Slurm cluster: whatever happens to a job, its run ends with the weights of one
that nothing happened to, bit for bit.
"""

import json
from collections.abc import Callable

import pytest

from tests.cluster.conftest import LONG, Job
from tests.cluster.machines import wait_until

pytestmark = pytest.mark.launch

Submit = Callable[..., Job]
Undisturbed = Callable[[int], bytes]
ON_FIRST_TWO = ("--nodelist=n1,n2",)


def test_a_job_runs_through(submit: Submit, undisturbed: Undisturbed) -> None:
    """Two ranks on two machines, which meet at the address of the first."""
    job = submit("train.sbatch", *LONG, sbatch=ON_FIRST_TWO)
    assert job.end() == "COMPLETED"
    assert job.restarts == 0
    assert json.loads((job.run / "summary.json").read_text())["world_size"] == 2
    assert f"rank 0 at {job.slurm.network.address['n1']}:" in job.log.read_text()
    assert job.weights == undisturbed(2)
    assert not list(job.run.parent.glob(".slurm/*")), "the script's own files are gone"


@pytest.mark.parametrize("script", ["train.sbatch", "train_torchrun.sbatch", "train_deepspeed.sbatch"])
def test_a_job_that_is_asked_to_stop_goes_on_by_itself(script: str, submit: Submit, undisturbed: Undisturbed) -> None:
    """The signal of --signal=B:USR1: saved at an update, requeued, finished; the launchers that hide exit codes too."""
    job = submit(script, *LONG)
    job.reach(5)
    job.slurm.run("scancel", "--batch", "--signal=USR1", job.number)
    assert job.end() == "COMPLETED"
    assert job.restarts == 1
    log = job.log.read_text()
    assert f"job {job.number}: saved and stopped; requeued" in log
    assert f"job {job.number}: start 2" in log
    assert job.weights == undisturbed(2)


def test_a_job_makes_room_for_a_more_urgent_one(submit: Submit, undisturbed: Undisturbed) -> None:
    """Preempted, ranks and script get SIGTERM: saved within the grace time, requeued, finished after the other job."""
    job = submit("train.sbatch", *LONG)
    job.reach(5)
    urgent = ("--partition=urgent", "--nodes=3", "--exclusive", "--output=urgent.out", "--wrap", "echo urgent")
    other = job.slurm.run("sbatch", "--parsable", *urgent, place=job.log.parent).strip()
    assert job.slurm.wait_for_state(other, "COMPLETED", "FAILED") == "COMPLETED"
    assert not job.finished
    assert job.end() == "COMPLETED"
    assert job.restarts == 1
    assert job.weights == undisturbed(2)


def test_a_rank_that_crashes_costs_the_updates_since_the_last_checkpoint(
    submit: Submit, undisturbed: Undisturbed
) -> None:
    """One rank is killed; the script requeues the job. That it was asked to stop before costs no granted crash."""
    job = submit("train.sbatch", *LONG, sbatch=(*ON_FIRST_TWO, "--export=ALL,ADAPTIVE_FT_RESTARTS=1"))
    job.reach(5)
    job.slurm.run("scancel", "--batch", "--signal=USR1", job.number)
    wait_until(lambda: f"job {job.number}: start 2" in job.log.read_text(), "the second start")
    job.reach(20)
    job.signal_ranks("KILL", "n2")
    assert job.end() == "COMPLETED"
    assert job.restarts == 2
    assert "(crash 1, 1 are granted); requeued" in job.log.read_text()
    assert job.weights == undisturbed(2)


def test_crashes_are_not_repeated_for_ever(submit: Submit) -> None:
    """With no restarts granted the job fails with the code of its ranks, and says so."""
    job = submit("train.sbatch", *LONG, sbatch=("--export=ALL,ADAPTIVE_FT_RESTARTS=0",))
    job.reach(5)
    job.signal_ranks("KILL", "n1")
    assert job.end() == "FAILED"
    assert job.restarts == 0
    assert "not requeued (ADAPTIVE_FT_RESTARTS=0)" in job.log.read_text()


def test_a_mistake_ends_the_job(submit: Submit) -> None:
    """A wrong option is told in the log, and no requeue repeats it."""
    job = submit("train.sbatch", "--strategy", "spotune")
    assert job.end() == "FAILED"
    assert (job.slurm.field(job.number, "ExitCode"), job.restarts) == ("2:0", 0)
    (told,) = [line for line in job.log.read_text().splitlines() if line.startswith("error: ")]
    assert "Did you mean 'spottune'?" in told


def test_programs_run_in_a_container_where_one_is_named(submit: Submit) -> None:
    """ADAPTIVE_FT_WITHIN stands before the program and ADAPTIVE_FT_SRUN after srun; here words that show the rest."""
    named = "--export=ALL,ADAPTIVE_FT_WITHIN=echo inside:,ADAPTIVE_FT_SRUN=--label --nodes=1"
    job = submit("train.sbatch", "--max_steps", "7", sbatch=("--nodes=1", named))
    assert job.end() == "COMPLETED"
    (told,) = [line for line in job.log.read_text().splitlines() if line.startswith("0: inside: python ")]
    assert "/train.py --ds_config " in told
    assert f" --name adaptive-ft-{job.number} --resume auto --stop_file " in told
    assert told.endswith(" --max_steps 7"), "options of the command line come last and win"


def test_a_cancelled_job_does_not_come_back(submit: Submit) -> None:
    """scancel ends the ranks with SIGTERM, at which they save; the script must not put the job into the queue again."""
    job = submit("train.sbatch", *LONG)
    job.reach(5)
    job.slurm.run("scancel", job.number)
    assert job.end() == "CANCELLED"
    wait_until(lambda: set(job.slurm.run("sinfo", "--noheader", "--format=%t").split()) == {"idle"}, "nodes idle")
    assert job.slurm.field(job.number, "JobState") == "CANCELLED"
    assert not job.finished


def test_a_node_that_dies_is_replaced(submit: Submit, undisturbed: Undisturbed) -> None:
    """Slurm gives the node up and requeues the job, which goes on with another node from its last checkpoint."""
    job = submit("train.sbatch", *LONG)
    job.reach(5)
    job.slurm.kill_node("n2")
    try:
        assert job.end() == "COMPLETED"
    finally:
        job.slurm.start_node("n2")
    assert job.restarts == 1
    assert job.slurm.field(job.number, "NodeList") == "n[1,3]"
    assert job.weights == undisturbed(2)


def test_a_job_does_not_need_the_controller(submit: Submit, undisturbed: Undisturbed) -> None:
    """It is away for ten updates: the job runs on."""
    job = submit("train.sbatch", *LONG)
    job.reach(5)
    job.slurm.stop_controller()
    job.reach(15)
    job.slurm.start_controller()
    assert job.end() == "COMPLETED"
    assert job.restarts == 0
    assert job.weights == undisturbed(2)


def test_an_array_trains_one_strategy_per_job(submit: Submit) -> None:
    """Two jobs of one array, each with its own strategy file and folder."""
    strategies = ("spottune_block", "standard")
    named = f"--export=ALL,ADAPTIVE_FT_STRATEGIES={' '.join(strategies)}"
    left_to_script = ("--name", "--adapt.strategy")
    job = submit("array.sbatch", sbatch=("--array=0-1", "--nodes=1", named), without=left_to_script)
    for task, strategy in enumerate(strategies):
        one = f"{job.number}_{task}"
        assert job.slurm.wait_for_state(one, "COMPLETED", "FAILED") == "COMPLETED"
        (run,) = job.run.parent.glob(f"adaptive-ft-{one}-*")
        assert run.name.endswith(f"-{strategy}")
        assert json.loads((run / "summary.json").read_text())["strategy"] == strategy


@pytest.mark.parametrize(
    ("left_out", "told"),
    [("--name", "The array sets the strategy"), ("--adapt.strategy", "The array names its runs, one per strategy")],
)
def test_an_array_refuses_a_strategy_or_a_name_of_its_own(left_out: str, told: str, submit: Submit) -> None:
    """Every job of the array would train the same, or all of them in one folder."""
    job = submit("array.sbatch", sbatch=("--array=0", "--nodes=1"), without=(left_out,))
    assert job.slurm.wait_for_state(f"{job.number}_0", "COMPLETED", "FAILED") == "FAILED"
    assert told in (job.log.parent / f"adaptive-ft-{job.number}_0.out").read_text()
