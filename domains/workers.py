"""How many processes a search may have at work."""
from __future__ import annotations

import os


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
