"""The ranks of a run: who am I, how many are we, and the few things said between us.

One program serves the deepspeed launcher, torchrun, `accelerate launch`, srun and plain python: each launcher's
environment is mapped to the five variables torch.distributed reads (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT).
"""

import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from adaptive_ft.errors import UserError

Result = TypeVar("Result")

INTERRUPTED = 130  # as the shell counts: 128 + SIGINT
SHARED_MEMORY_OP = "deepspeed_shm_comm"
# The last resort only: the watchdog knows sooner, and that rank 0 may convert or hash for long while others wait.
COLLECTIVE_TIMEOUT = timedelta(hours=2)
SLURM_NAMES = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


@dataclass(frozen=True)
class Ranks:
    """This process among its peers; every method below is a collective unless it says otherwise."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that prints, logs and writes shared files (not a collective)."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks of a tensor of the same shape on each, as a new tensor on the device it came from."""
        total = values.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def max(self, values: Tensor) -> Tensor:
        """Largest over ranks of each element of a tensor of the same shape on each, as `sum` returns it."""
        most = values.detach().to(self.device, copy=True)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return most.to(values.device)

    def mean_with_local_gradient(self, local_mean: Tensor) -> Tensor:
        """The global mean as value, the local mean as gradient.

        With m_r the mean on rank r of R equally large shares, value = (1/R) sum_r m_r and d value / d m_r = 1: the
        engine averages gradients over ranks, which supplies the missing 1/R, so the step is that of the loss on the
        global batch.
        """
        return local_mean + (self.sum(local_mean) / self.world_size - local_mean.detach())

    def gather(self, item: Any) -> list[Any]:
        """Every rank's `item` in rank order on rank 0, an empty list elsewhere (pickled: for results, not for
        tensors of a step).
        """
        items: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(item, items)
        return items or []

    def broadcast(self, item: Any) -> Any:
        """Rank 0's `item` on every rank."""
        box = [item]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        dist.barrier()

    def together(self, work: Callable[[], Result]) -> Result:
        """Run `work()` on every rank; when it raises `UserError` anywhere, every rank raises, and one of them tells it.

        `work` itself must not be a collective.
        """
        failure, result = None, None
        try:
            result = work()
        except UserError as error:
            failure = error
        told: list[tuple[str, int] | None] = [None] * self.world_size
        dist.all_gather_object(told, (str(failure), failure.exit_code) if failure else None)
        for rank, message in enumerate(told):
            if message is not None:
                raise failure if failure and rank == self.rank else ToldElsewhere(*message)
        return cast(Result, result)

    def on_main(self, work: Callable[[], Result]) -> Result:
        """Run `work()` on rank 0 only and give its result to every rank; its `UserError` is raised on every rank."""
        return self.broadcast(self.together(lambda: work() if self.is_main else None))


class ToldElsewhere(UserError):
    """A `UserError` that another rank prints."""

    def __init__(self, message: str, exit_code: int = UserError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The five variables of torch.distributed from any launcher's environment; world size 1 where there is no launcher.

    Raises:
        UserError: the launcher told the world size but not where rank 0 listens (srun without MASTER_ADDR).
    """
    found = {name: environment[name] for name in SLURM_NAMES if name in environment}
    if len(found) < len(SLURM_NAMES) and "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        found = {name: environment[slurm] for name, slurm in SLURM_NAMES.items()}
    if not found:
        found = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    missing = [name for name in SLURM_NAMES if name not in found]
    if missing:
        raise UserError(f"The launcher set {', '.join(found)} but not {', '.join(missing)}; set them, or none of them.")
    alone = found["WORLD_SIZE"] == "1"
    for name, own in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", None)):
        if name in environment:
            found[name] = environment[name]
        elif alone:
            found[name] = own or str(free_port())
        else:
            raise UserError(
                f"{found['WORLD_SIZE']} ranks were started but {name} is not set: export it before the launch."
            )
    return found


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gpu_of(local_rank: int, environment: Mapping[str, str]) -> int:
    """The number of this rank's GPU among those it can see.

    Raises:
        UserError: more ranks were started on this machine than it has GPUs.
    """
    visible = torch.cuda.device_count()
    if local_rank < visible:
        return local_rank
    if visible == 1 and "SLURM_PROCID" in environment:
        return 0  # srun --gpus-per-task=1 shows every task its own GPU only
    raise UserError(f"Local rank {local_rank} has no GPU: {visible} are visible; start at most {visible} ranks here.")


def start_ranks(environment: MutableMapping[str, str] = os.environ) -> Ranks:
    """Join the process group (NCCL on GPUs, gloo on CPUs) and check that the world has the size that was asked for.

    Raises:
        UserError: what reading the environment, choosing the GPU or joining the group refuses.
    """
    environment.update(read_environment(environment))
    # On a CPU DeepSpeed would first compile a shared-memory all-reduce: 30 s, a C++ compiler, and a lock file that a
    # kill leaves behind for every later run to wait on. gloo does the work.
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    rank, world_size, local_rank = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", gpu_of(local_rank, environment)) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in environment:
        ranks_here = int(environment.get("LOCAL_WORLD_SIZE", world_size))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))
    if not dist.is_initialized():
        join_group("nccl" if on_gpu else "gloo", environment)
    if dist.get_world_size() != world_size:
        raise RuntimeError(f"asked for {world_size} ranks, the process group has {dist.get_world_size()}")
    return Ranks(rank, local_rank, world_size, device)


def join_group(backend: str, environment: Mapping[str, str]) -> None:
    """Meet the other ranks where the launcher says that rank 0 listens.

    Raises:
        UserError: rank 0 cannot listen there, mostly because another run on this machine does.
    """
    try:
        deepspeed.init_distributed(
            dist_backend=backend, timeout=COLLECTIVE_TIMEOUT, auto_mpi_discovery=False, verbose=False
        )
    except dist.DistNetworkError as error:
        if "failed to listen" not in str(error):
            raise
        reason = "another program uses it" if "EADDRINUSE" in str(error) else str(error)
        raise UserError(
            f"The ranks cannot meet at port {environment['MASTER_PORT']} of {environment['MASTER_ADDR']}: {reason}."
            " Where another run is on this machine, start this one with deepspeed --master_port N and a free N, or"
            " with torchrun --standalone, which finds one."
        ) from error


def run_ranks(main: Callable[[Ranks], None]) -> NoReturn:
    """Join the ranks, run `main(ranks)` and end the process: 0 done, 2 for a `UserError` (one sentence) unless
    its kind has another code, 130 for Ctrl-C, 1 for a fault of ours, 75 for a run that was asked to stop.

    The process ends without the interpreter's shutdown: under ZeRO-3 that aborted about one run in fifty after all
    work was done.
    """
    code = 0
    try:
        main(start_ranks())
    except ToldElsewhere as error:
        code = error.exit_code
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        print(f"error{'' if rank == '0' else f' (rank {rank})'}: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print(
                "stopped by the keyboard, which saves nothing: a run goes on with --name NAME --resume auto from its"
                " newest checkpoint, or begins again where it has none yet"
            )
        code = INTERRUPTED
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    if code == 0 and dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
