"""Virtual machines of one Linux host, as far as Slurm and the ranks can tell: each has a network, an address, a host
name, /etc/hosts and process ids of its own, and shares the disks. Nothing is added to the host's own network.

A machine is a process that waits, in namespaces of its own; it dies with the test run, and all that runs in it dies
with it.
"""

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PATIENCE_SECONDS = 240  # for whatever must happen in the end; a quiet machine needs a tenth
NETWORK = "10.213.77"
# bash as the first process collects the orphans; `wait` ends with the sleep, that is never.
FIRST_PROCESS = 'hostname "$0" && mount --bind "$1" /etc/hosts && ip link set lo up && echo up && sleep infinity & wait'


class NoMachines(RuntimeError):
    """This host cannot have virtual machines or Slurm; everything else that goes wrong is a fault."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Until `condition()` is true.

    Raises:
        TimeoutError: it was not, for `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {seconds} seconds")
        time.sleep(0.1)


def succeed(words: list[str], environment: Mapping[str, str] | None = None) -> str:
    """The output of a command.

    Raises:
        RuntimeError: it failed; the message is the last it said.
    """
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


class Machine:
    """One virtual machine; `hosts` becomes its /etc/hosts, and its name must be in there."""

    def __init__(self, name: str, hosts: Path) -> None:
        self.name, self.hosts = name, hosts
        self.start()

    def start(self) -> None:
        """Boot it, without a network but its own loopback.

        Raises:
            NoMachines: this host allows no namespaces.
        """
        own = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *own, "bash", "-c", FIRST_PROCESS, self.name, self.hosts],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout
        told = self._holder.stdout.readline()
        if told != "up\n":
            self.kill()
            raise NoMachines(f"no virtual machine can be made here: {told.strip()}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        self.first_process = children.read_text().split()[0]

    def inside(self, *command: str | Path) -> list[str]:
        """The words that run `command` in this machine."""
        return ["nsenter", "--target", self.first_process, "--net", "--uts", "--mount", "--pid", *map(str, command)]

    def run_daemon(self, log: Path, *command: str | Path) -> "subprocess.Popen[bytes]":
        """Start a program that stays."""
        with log.open("ab") as file:
            return subprocess.Popen(self.inside(*command), stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def kill(self) -> None:
        """Everything in it ends at once, as when the power fails."""
        self._holder.kill()
        self._holder.wait()


class Network:
    """Machines with a cable each to a switch in the first one.

    Raises:
        NoMachines: this host allows no namespaces.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.address = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=1)}
        self._hosts = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.address.items())]
        self._hosts.write_text("".join(f"{line}\n" for line in lines))
        self.machines: dict[str, Machine] = {}
        for name in names:
            self.machines[name] = Machine(name, self._hosts)
            self._plug_in(name)

    @property
    def first(self) -> Machine:
        """The machine with the switch."""
        return next(iter(self.machines.values()))

    def run_on(self, name: str, *command: str) -> str:
        """The output of a command on a machine.

        Raises:
            RuntimeError: it failed.
        """
        return succeed(self.machines[name].inside(*command))

    def processes(self, name: str, pattern: str) -> list[str]:
        """The numbers of the processes on a machine whose command line fits."""
        done = subprocess.run(self.machines[name].inside("pgrep", "-f", pattern), capture_output=True, text=True)
        return done.stdout.split()

    def revive(self, name: str) -> None:
        """Boot a machine that was killed."""
        self.machines[name].start()
        self._plug_in(name)

    def cut(self, name: str) -> None:
        """Pull the cable: the machine runs on, and nobody reaches it."""
        self.run_on(self.first.name, "ip", "link", "set", f"to-{name}", "down")

    def mend(self, name: str) -> None:
        """Put the cable back."""
        self.run_on(self.first.name, "ip", "link", "set", f"to-{name}", "up")

    def stop(self) -> None:
        """End all machines with everything in them."""
        for machine in self.machines.values():
            machine.kill()

    def _plug_in(self, name: str) -> None:
        plug = "eth0"
        if name == self.first.name:
            self.run_on(name, "ip", "link", "add", plug, "type", "bridge")
        else:
            # By way of the host's numbering of processes, which the inside of a machine does not see.
            cable = ["ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", plug]
            in_first = ["nsenter", "--target", self.first.first_process, "--net"]
            succeed([*in_first, *cable, "netns", self.machines[name].first_process])
            self.run_on(self.first.name, "ip", "link", "set", f"to-{name}", "master", plug, "up")
        self.run_on(name, "ip", "address", "add", f"{self.address[name]}/24", "dev", plug)
        self.run_on(name, "ip", "link", "set", plug, "up")
