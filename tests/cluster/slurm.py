"""A Slurm cluster of virtual machines: slurmctld and munged on the first, one slurmd on each of the others."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.machines import Network, NoMachines, succeed, wait_until

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare", "setpriv")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge", "iproute2")
CONTROLLER = "ctl"
READY = {"idle", "mix", "alloc", "comp"}
# Short times, so that failures are noticed within seconds: a requeued job waits for cred_expire (120 s by default), a
# lost node is given up after SlurmdTimeout (300 s).
CONFIGURATION = """
ClusterName=test
SlurmctldHost={controller}({address})
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0,requeue_delay=0
AccountingStorageType=accounting_storage/none
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=3600
InactiveLimit=0
SlurmctldTimeout=10
SlurmdTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def find_or_install() -> None:
    """Make Slurm's programs available, as root from Debian's packages.

    Raises:
        NoMachines: this is no place for a cluster, or the packages cannot be had.
    """
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin{os.pathsep}/sbin"
    if os.geteuid() != 0:
        raise NoMachines("a cluster of virtual machines needs root")
    if not os.path.ismount("/sys/fs/cgroup"):
        raise NoMachines("slurmd needs /sys/fs/cgroup, which is not mounted here")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise NoMachines(f"{', '.join(missing)} not found, and no apt-get to install them with")
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    try:
        try:
            succeed(install)
        except RuntimeError:
            succeed(["apt-get", "update"])  # a bare machine has no lists of packages yet
            succeed(install)
    except RuntimeError as error:
        raise NoMachines(str(error)) from error


class Slurm:
    """A running cluster with the nodes n1, n2, ...; everything of it lies in `folder` or dies with `stop`.

    Raises:
        NoMachines: this host allows no namespaces.
        RuntimeError: a daemon did not start, with what all of them said.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder, self.nodes = folder, [f"n{number}" for number in range(1, nodes + 1)]
        self.network = Network(folder, [CONTROLLER, *self.nodes])
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._configure()
            self._start_munged()
            self.start_controller()
            for node in self.nodes:
                self._start_slurmd(node)
            wait_until(self._all_ready, "all nodes ready", 30)
        except BaseException as error:
            logs = [f"{log.name}: {log.read_text()[-300:]}" for log in sorted(folder.glob("*.log"))]
            self.stop()
            raise RuntimeError("\n".join([str(error), *logs])) from error

    def run(self, *command: str | Path, environment: Mapping[str, str] | None = None, place: Path | None = None) -> str:
        """The output of a client command (sbatch, scontrol, ...) given on the controller's machine.

        Raises:
            RuntimeError: the command failed.
        """
        nsenter, *rest = self.network.machines[CONTROLLER].inside(*command)
        own = {**(environment or os.environ), "SLURM_CONF": str(self._configuration)}
        return succeed([nsenter, *([f"--wd={place}"] if place else []), *rest], own)

    def field(self, job: str, name: str) -> str:
        """One field of `scontrol show job`, empty where it has none."""
        found = re.search(rf"(?:^|\s){name}=(\S*)", self.run("scontrol", "--oneliner", "show", "job", job))
        return found[1] if found else ""

    def wait_for_state(self, job: str, *states: str) -> str:
        """Until the job is in one of `states`; which one."""
        wait_until(lambda: self.field(job, "JobState") in states, f"job {job} in {' or '.join(states)}")
        return self.field(job, "JobState")

    def stop_controller(self) -> None:
        """End slurmctld alone; jobs run on."""
        daemon = self._daemons.pop(CONTROLLER)
        self.run("pkill", "slurmctld")
        daemon.wait()

    def start_controller(self) -> None:
        """Start slurmctld with what it has saved of its jobs."""
        self._daemons[CONTROLLER] = self._daemon(CONTROLLER, "slurmctld", "-D", "-i")

    def kill_node(self, node: str) -> None:
        """A power failure: slurmd, the job's steps and the ranks on it end at once."""
        self.network.machines[node].kill()

    def start_node(self, node: str) -> None:
        """Boot a killed node and wait until Slurm gives it work again."""
        self.network.revive(node)
        self._start_slurmd(node)
        wait_until(self._all_ready, f"{node} ready")

    def mend(self, node: str) -> None:
        """Put a cut node back and wait until Slurm gives it work again."""
        self.network.mend(node)
        self.run("scontrol", "reconfigure")  # asks every node anew, also those given up
        wait_until(self._all_ready, f"{node} ready")

    def stop(self) -> None:
        """End all of it."""
        self.network.stop()
        for daemon in self._daemons.values():
            daemon.wait()

    @property
    def _configuration(self) -> Path:
        return self.folder / "slurm.conf"

    def _configure(self) -> None:
        address = self.network.address
        nodes = [
            f"NodeName={node} NodeAddr={address[node]} CPUs=2 RealMemory=8192 State=UNKNOWN" for node in self.nodes
        ]
        self._configuration.write_text(
            CONFIGURATION.format(
                controller=CONTROLLER,
                address=address[CONTROLLER],
                user="root",
                folder=self.folder,
                nodes="\n".join(nodes),
            )
        )
        (self.folder / "state").mkdir()
        for node in self.nodes:
            (self.folder / f"spool-{node}").mkdir()

    def _start_munged(self) -> None:
        key, socket = self.folder / "munge.key", self.folder / "munge.socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"socket": socket, "key-file": key, "pid-file": "munged.pid", "seed-file": "munge.seed"}
        words = [f"--{name}={self.folder / file}" for name, file in files.items()]
        log = f"--log-file={self.folder}/munged.log"
        self._daemons["munged"] = self._daemon(CONTROLLER, "munged", "--foreground", "--force", *words, log)
        wait_until(socket.exists, "munged", 10)

    def _start_slurmd(self, node: str) -> None:
        self._daemons[node] = self._daemon(node, "slurmd", "-D", "-N", node)

    def _daemon(self, machine: str, *command: str) -> "subprocess.Popen[bytes]":
        log = self.folder / f"{command[0]}-{machine}.log"
        return self.network.machines[machine].run_daemon(log, "env", f"SLURM_CONF={self._configuration}", *command)

    def _all_ready(self) -> bool:
        try:
            told = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%t").split()
        except RuntimeError:
            return False  # the controller is not there yet
        return len(told) == len(self.nodes) and set(told) <= READY
