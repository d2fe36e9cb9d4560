"""Scores candidates in processes of their own, where a scorer that hangs, crashes or takes long
harms nothing but the candidate.

The processes are forks of the search, so any function can score, a lambda or one of a notebook too.
They cannot use CUDA. They live as long as the search: what a scorer loads once stays loaded.
"""
from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as TookTooLong
from concurrent.futures import as_completed

import pebble

from domains.sandbox import end_with_parent

SCORER: list[Callable] = []         # in a worker: what scores one candidate


class Workers:
    """Processes that score, started at the first candidate.

    score: a method, candidate -> picklable result. It must not raise. seconds: time limit of each
    candidate; 0: none. workers: how many candidates are scored at a time. The processes end with
    `close`, with the object that the method belongs to, and with the search.
    """

    def __init__(self, score: Callable, seconds: float, workers: int):
        self.score, self.seconds, self.workers = weakref.WeakMethod(score), seconds, workers
        self.pool: pebble.ProcessPool | None = None
        self.futures: dict = {}

    def results(self, candidates: list[str]) -> Iterator[tuple[str, object, str]]:
        """Yields (candidate, what the scorer gave, "") as they finish, in any order, or (candidate,
        None, why there is no result)."""
        if self.pool is None:
            self.pool = pebble.ProcessPool(self.workers, initializer=begin,
                                           initargs=(self.score, os.getpid()),
                                           context=multiprocessing.get_context("fork"))
            self.close = weakref.finalize(self, stop, self.pool)
        self.futures = {self.pool.schedule(score_one, [c], timeout=self.seconds or None): c
                        for c in candidates}
        try:
            for future in as_completed(self.futures):
                if not future.cancelled():
                    yield self.futures[future], *outcome(future, self.seconds)
        finally:
            for future in self.futures:
                future.cancel()         # kills the process, if one is at work on it

    def begin_no_more(self) -> None:
        """From now on `results` yields those candidates alone that a process is at work on."""
        for future in self.futures:
            if not future.running():
                future.cancel()


def outcome(future, seconds: float) -> tuple[object, str]:
    """(result, "") of a candidate, or (None, reason)."""
    try:
        return future.result(), ""
    except TookTooLong:
        return None, f"not scored within {seconds:g} s"
    except pebble.ProcessExpired as error:
        return None, f"the scorer's process ended with status {error.exitcode}"


def stop(pool: pebble.ProcessPool) -> None:
    pool.stop()
    pool.join()


# ------------------------------------------------------------------------------------- in a worker

def begin(score: weakref.WeakMethod, parent: int) -> None:
    """Prepares a worker. Ctrl-C is the search's business. One thread: those that the search had
    are gone after a fork, and waiting for them would never end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    SCORER[:] = [score()]


def score_one(candidate: str):
    return SCORER[0](candidate)
