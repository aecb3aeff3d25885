"""Run as a script beside a rank: a module as `python -m` does, that ends when the rank ends, with all its workers.

python bound_program.py PROCESS MODULE WORDS...

A rank that is killed can end nobody. What it has started would go on writing while the next start of the run is at the
same files, so the kernel is asked to kill it (Linux: PR_SET_PDEATHSIG). Nothing of this package is imported here.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Bind this process and each it forks, then become the module."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    multiprocessing.set_start_method("fork")  # else workers have another parent, or would import this script
    os.register_at_fork(after_in_child=die_with_parent)
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)  # it ended before the kernel was asked
    sys.argv[1:] = sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
