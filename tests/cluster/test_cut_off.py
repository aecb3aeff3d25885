"""A node whose network fails while its ranks live on: the job goes on elsewhere, and the old ranks do no harm."""

from collections.abc import Callable

from tests.cluster.conftest import LONG, RANKS, Job
from tests.cluster.machines import wait_until

Submit = Callable[..., Job]
Undisturbed = Callable[[int], bytes]


def test_a_job_leaves_a_node_that_was_cut_off(submit: Submit, undisturbed: Undisturbed) -> None:
    """Slurm gives the node up and requeues the job, which ends on another one as if nothing had happened."""
    job = submit("train.sbatch", *LONG)
    job.reach(5)
    job.slurm.network.cut("n2")
    try:
        assert job.end() == "COMPLETED"
    finally:
        job.slurm.mend("n2")
    assert job.restarts == 1
    assert job.slurm.field(job.number, "NodeList") == "n[1,3]"
    assert job.weights == undisturbed(2)


def test_a_rank_that_wakes_up_after_its_job_went_on_elsewhere_writes_nothing(
    submit: Submit, undisturbed: Undisturbed
) -> None:
    """Its node is cut off and it sleeps; when it goes on with the update it was in, the run is another start's."""
    job = submit("train.sbatch", *LONG, sbatch=("--nodes=1",))
    job.reach(5)
    slurm, old_node = job.slurm, job.slurm.field(job.number, "BatchHost")
    job.signal_ranks("STOP", old_node)
    slurm.network.cut(old_node)
    try:
        wait_until(lambda: f"job {job.number}: start 2" in job.log.read_text(), "the job on another node")
        before = (job.run / "checkpoints/latest").read_text()
        wait_until(lambda: (job.run / "checkpoints/latest").read_text() > before, "a checkpoint of the second start")
        job.signal_ranks("CONT", old_node)
        wait_until(lambda: not slurm.network.processes(old_node, RANKS), "the old rank ends by itself")
        assert job.end() == "COMPLETED"
    finally:
        slurm.mend(old_node)
    assert "was taken over by generation 2" in job.log.read_text()
    assert job.slurm.field(job.number, "BatchHost") != old_node
    assert job.weights == undisturbed(1)
