"""What a search may rely on: each method of a task does what tasks.Task says, or the run stops.

The search calls a task through `Checked`. Where the task's own code raises, calls sys.exit or
returns what it should not, the user reads one line: the file and line of that code, and what was
expected. A fault of a task is never taken for a low score.
"""
from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields

import numpy as np

from domains import bundled
from domains.prompts import Prompt
from domains.timed import Workers
from domains.workers import workers
from runlog.errors import TaskFailed, UserError, one_line


@dataclass(frozen=True)
class Score:
    """value: f(candidate), in [0, 1] unless the task has a scale of its own. valid: False if the
    candidate could not be scored; its value is then 0, but a valid candidate may score 0 too.
    info: more for evals.jsonl, as JSON."""
    value: float
    valid: bool = True
    info: dict = field(default_factory=dict)


INVALID = Score(0.0, valid=False)
LARGEST = 1e100         # of scores: sums and products of a few thousand stay finite


# ------------------------------------------------------------------------- what methods return

def is_prompt(value) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, list) and bool(value) and all(
        isinstance(turn, dict) and turn.get("role") in ("system", "user", "assistant")
        and isinstance(turn.get("content"), str) for turn in value)


def is_text(value) -> bool:
    return isinstance(value, str)


def is_list_of_text(value) -> bool:
    return isinstance(value, list | tuple) and all(map(is_text, value))


def is_children(value) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and is_text(pair[0])
        and is_list_of_text(pair[1]) for pair in value)


def is_yes_or_no(value) -> bool:
    return isinstance(value, bool | np.bool_)


def is_record(value) -> bool:
    try:
        return isinstance(value, dict) and bool(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return False


def is_series(value) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | dict)


def is_surrogate(value) -> bool:
    return callable(getattr(value, "fit", None)) and callable(getattr(value, "rank", None))


A_PROMPT = "a string, or a list of turns {'role': system, user or assistant, 'content': text}"
PAIRS = "pairs (candidate, score)"
RETURNS = {     # method: (whether a value is what it should return, what that is)
    "prompt": (is_prompt, A_PROMPT),
    "variation_prompt": (is_prompt, A_PROMPT),
    "parse": (is_list_of_text, "a list of strings, the candidates of the completion ([]: none)"),
    "render": (is_text, "a string"),
    "warm_start": (is_list_of_text, "a list of strings"),
    "neighbors": (is_children, "a list of pairs (candidate, list of its parents)"),
    "solved": (is_yes_or_no, "True or False"),
    "reveal": (is_text, "a string"),
    "conclude": (is_record, "a dict that JSON can hold"),
    "surrogate": (is_surrogate, "an object with the methods fit and rank"),
    "score": (is_series, PAIRS)}


class Checked:
    """A task that is held to its contract. Every other attribute is the task's own.

    policy: which of the bundled policies answers, by its folder in tiny/; "": another model. say:
    prints a line. The methods raise TaskFailed, or the task's own UserError. The first prompt of a
    kind that a bundled policy was not trained on is warned about. If the task says score_seconds
    or workers, candidates are scored in processes of their own (domains/timed.py).
    """

    def __init__(self, task, policy: str = "", say: Callable[[str], None] = print):
        self.task, self.policy, self.say = task, policy, say
        self.warned: set[str] = set()
        self.processes = None
        if not task.has_processes and (task.score_seconds or task.workers):
            self.processes = Workers(self.score_in_worker, task.score_seconds,
                                     task.workers or workers())

    def __getattr__(self, name: str):
        value = getattr(self.task, name)
        return functools.partial(self.call, name) if name in RETURNS else value

    def call(self, name: str, *arguments):
        """The task's method of this name, held to RETURNS."""
        what = f"{name}() of {self.task.name}"
        result = call(getattr(self.task, name), what, *RETURNS[name], *arguments)
        if RETURNS[name][0] is is_prompt and name not in self.warned:
            self.warn(name, result, what)
        if name in ("parse", "warm_start"):     # no prompt and no file takes half a character
            return [candidate.encode(errors="replace").decode() for candidate in result]
        return result

    def warn(self, name: str, prompt: Prompt, what: str) -> None:
        opening = bundled.OPENINGS.get(self.policy, "")
        if not (isinstance(prompt, str) and prompt.startswith(opening)) and self.policy:
            self.warned.add(name)
            self.say(f"warning: {what} is a prompt that the bundled policy {self.policy} has never "
                     f"seen. It knows those that begin with {opening!r}: expect poor answers")

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        """A checked Score for each candidate, in any order, as results arrive. A scorer may give a
        number instead of a Score. One that took longer than score_seconds, or whose process
        crashed, is invalid, and its info has the reason."""
        if self.processes is None:
            yield from self.score_here(candidates)
            return
        failed = None
        for candidate, result, reason in self.processes.results(candidates):
            if isinstance(result, Exception):   # what other processes are at work on is not lost
                failed = failed or result
                self.processes.begin_no_more()
            else:
                yield candidate, result or Score(0.0, valid=False, info={"reason": reason})
        if failed:
            raise failed

    def score_in_worker(self, candidate: str) -> Score | TaskFailed | UserError:
        """The score of one candidate, or why the search has to stop."""
        try:
            [(_, score)] = self.score_here([candidate])
            return score
        except (TaskFailed, UserError) as error:
            return type(error)(str(error))      # what pickle takes

    def score_here(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        """The checked scores of `score`, in this process."""
        missing, method = set(candidates), self.task.score
        if not missing:
            return
        what, lower = f"score() of {self.task.name}", self.task.lower_is_better
        with guarded(method, what):
            results = iter(self.call("score", candidates))
            for result in results:
                reason = wrong_result(result, missing, self.task.own_scale)
                if reason:
                    raise TaskFailed(f"{place(method, results=results)}: {what} {reason}")
                candidate, score = result[0], as_score(result[1])
                missing.discard(candidate)
                info = json.loads(json.dumps(score.info))       # as a resumed run will read it
                info |= {"lower_is_better": True} if lower else {}
                yield candidate, Score(float(score.value), bool(score.valid), info)
        if missing:
            raise TaskFailed(f"{place(method)}: {what} gave no score to {sorted(missing)[0]!r}")


def complete(cls: type, base: type) -> type:
    """The class of a task, if it has what each needs and no setting that would not count. base:
    tasks.Task. Raises UserError."""
    for method, gives in (("prompt(self)", A_PROMPT), ("score(self, candidates)", PAIRS)):
        name = method.partition("(")[0]
        if getattr(cls, name) is getattr(base, name):
            raise UserError(f"{where(cls)} has no {method}, which gives {gives}")
    if cls.lower_is_better and (cls.solved_at, cls.solved) == (base.solved_at, base.solved):
        raise UserError(f"{where(cls)} has lower_is_better, and no solved_at: the score that ends "
                        "the search, or None")
    for option in fields(cls):      # without its type the value would not reach an instance
        value = getattr(cls, option.name, option.default)
        if value is not option.default and not inspect.ismemberdescriptor(value):   # of slots=True
            raise UserError(f"{where(cls)} sets {option.name} without its type. Write "
                            f"{option.name}: {getattr(option.type, '__name__', option.type)} = "
                            f"{short(value)}, and @dataclass above the class")
    return cls


def where(cls: type) -> str:
    try:
        file, line = inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):        # typed into a shell
        return f"the task {cls.__name__}"
    return f"{short_path(file)}:{line}: the task {cls.__name__}"


def as_score(result) -> Score:
    return result if isinstance(result, Score) else Score(result)


def wrong_result(result, missing: set[str], own_scale: bool) -> str:
    """What is wrong with one thing that a scorer gave, ""; nothing. missing: the candidates that
    have no score yet. own_scale: whether scores may be any finite number."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        return f"must yield {PAIRS}, not {shown(result)}"
    candidate, score = result[0], as_score(result[1])
    if not is_text(candidate):
        return f"must yield {PAIRS}, not {shown(result)}"
    if candidate not in missing:
        return f"scored {candidate!r}, which it was not asked for"
    gave = f"gave {candidate!r} the score {short(score.value)}"
    if not hasattr(score.value, "__float__"):       # numbers of Python, numpy and torch have it
        return f"{gave}; it must be a number, or a Score"
    value = float(score.value)
    if not score.valid and value:
        return f"{gave}, and called it invalid: then the score is 0"
    if own_scale and not abs(value) <= LARGEST:
        return f"{gave}; it must be a finite number, of {LARGEST:g} at most"
    if not own_scale and not 0 <= value <= 1:       # NaN is not in [0, 1] either
        return (f"{gave}; scores lie in [0, 1], unless the task has lower_is_better "
                "or a solved_at other than 1")
    if not is_record(score.info):                   # evals.jsonl keeps it
        return f"gave {candidate!r} an info that is no dict that JSON can hold: {short(score.info)}"
    return ""


# --------------------------------------------------------------------------- code of the user

def call(function: Callable, what: str, is_right: Callable, expected: str, *arguments):
    """function(*arguments). Raises TaskFailed.

    what: what the user calls it. is_right: whether a result is what it should be. expected: what
    that is, in words.
    """
    with guarded(function, what):
        result = function(*arguments)
    if not is_right(result):
        raise TaskFailed(f"{place(function)}: {what} must return {expected}, not {shown(result)}")
    return result


@contextlib.contextmanager
def guarded(function: Callable, what: str):
    """Whatever the function raises within the block becomes a TaskFailed, sys.exit as well. What is
    meant for the user already, and Ctrl-C, pass."""
    try:
        yield
    except (UserError, TaskFailed):
        raise
    except (Exception, SystemExit) as error:
        said = f"raised {type(error).__name__}: {one_line(error)}"
        if isinstance(error, SystemExit):
            said = f"called sys.exit({one_line(error)})"
        raise TaskFailed(f"{place(function, error)}: {what} {said}") from error


def place(function: Callable, error: BaseException | None = None, results=None) -> str:
    """FILE:LINE of a function: the line that raised the error, that of the last yield of the
    generator `results`, or that of its definition."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:            # a partial, an object that can be called
        return getattr(function, "__name__", type(function).__name__)
    line, frame = code.co_firstlineno, getattr(results, "gi_frame", None)
    if frame is not None and frame.f_code is code:
        line = frame.f_lineno
    for step in traceback.extract_tb(error.__traceback__ if error else None):
        if step.filename == code.co_filename:
            line = step.lineno
    return f"{short_path(code.co_filename)}:{line}"


def short_path(path: str) -> str:
    """A path from the working folder, if the file is in it."""
    here = os.getcwd() + os.sep
    return path.removeprefix(here)


def short(value) -> str:
    """A value in one line, cut."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:59] + "\u2026"


def shown(value) -> str:
    """A value with its type."""
    return "None" if value is None else f"the {type(value).__name__} {short(value)}"
