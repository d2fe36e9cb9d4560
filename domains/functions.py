"""A task made of functions of the user: what migrate.run(score=f, prompt="..") searches."""
from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator

from domains.contract import A_PROMPT, INVALID, Score, call, is_prompt, is_text
from domains.prompts import Prompt
from runlog.errors import UserError


class Functions:
    """The methods of such a task; tasks.FunctionTask is the task.

    score: a candidate -> a number of any scale, or None if the candidate is invalid. prompt: the
    task prompt. parse: a completion -> its candidate, or None if there is none. variation_prompt:
    the parents, worst to best -> the neighbour prompt. solved_at: the score that ends the search.
    score_seconds, workers: as of tasks.Task.
    """
    own_scale = True

    def __init__(self, score: Callable, prompt: Prompt, parse: Callable | None = None,
                 variation_prompt: Callable | None = None, lower_is_better: bool = False,
                 solved_at: float | None = None, score_seconds: float = 0.0, workers: int = 0):
        self.scorer, self.text, self.reader, self.varier = score, prompt, parse, variation_prompt
        self.lower_is_better, self.solved_at = lower_is_better, solved_at
        self.score_seconds, self.workers = score_seconds, workers
        name = getattr(score, "__name__", "")
        self.name = name if name.isidentifier() else "search"       # no lambda

    def prompt(self) -> Prompt:
        return self.text

    def variation_prompt(self, parents: list[str]) -> Prompt:
        if self.varier is None:
            return super().variation_prompt(parents)
        return call(self.varier, "variation_prompt()", is_prompt, A_PROMPT, parents)

    def parse(self, completion: str) -> list[str]:
        if self.reader is None:
            return super().parse(completion)
        found = call(self.reader, "parse()", lambda found: found is None or is_text(found),
                     "a string, the candidate, or None", completion)
        return [found] if found else []

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        for candidate in candidates:
            value = call(self.scorer, f"{self.name}({candidate[:40]!r})", is_number_or_none,
                         "a finite number, or None for an invalid candidate", candidate)
            yield candidate, INVALID if value is None else Score(value)


def is_number_or_none(value) -> bool:
    try:
        return value is None or hasattr(value, "__float__") and math.isfinite(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):    # an array, a huge integer
        return False


def options_in(given: dict) -> dict:
    """The options of Functions, taken out of `given`. Raises UserError."""
    options = {name: given.pop(name) for name in inspect.signature(Functions).parameters
               if name in given}
    if not callable(options.get("score")) or not is_prompt(options.get("prompt")):
        raise UserError("run(score=.., prompt=..) takes a function that scores one candidate, and "
                        "a prompt, which is a string or a list of turns")
    return options
