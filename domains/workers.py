"""How many processes a search may have at work, and those that run programs."""
from __future__ import annotations

import atexit
import functools
import os

from domains.sandbox import Limits, Sandbox
from runlog.errors import UserError


def cores() -> int:
    """How many cores this process may use. In a container or a batch job these are often fewer
    than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def workers() -> int:
    """How many processes one search may have at work: OMP_NUM_THREADS where it is set (torch reads
    it too), else one for each core."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > 0:
        return int(threads)
    return cores()


@functools.cache
def open_sandbox(seconds: float, prelude: str, workers: int = 1) -> Sandbox:
    """A sandbox for all searches of this process. Its servers end with the process.

    seconds: time limit of a program for each input. prelude: a Python file of helpers, or "".
    workers: how many programs may run at a time. Raises UserError if the file cannot be imported.
    """
    try:
        sandbox = Sandbox(Limits(seconds=seconds), prelude, workers)
    except RuntimeError as error:
        raise UserError(str(error)) from error
    atexit.register(sandbox.close)
    return sandbox
