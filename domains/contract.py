"""What a task of the user's own has to give back, checked at every call: one line says what is
wrong and where, in the user's file."""
from __future__ import annotations

import functools
import inspect
import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from runlog.errors import RunStopped, TaskFailed, UserError, one_line


@dataclass(frozen=True)
class Score:
    """value: f(candidate) in [0, 1]. valid: False if the candidate could not be scored; its value
    is then 0, but a valid candidate may score 0 too. info: more for evals.jsonl, as JSON."""
    value: float
    valid: bool = True
    info: dict = field(default_factory=dict)


def is_strings(value) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def is_prompt(value) -> bool:
    return isinstance(value, (str, list)) and bool(value)


# method: (what it should return, whether a value is that)
RETURNS = {
    "prompt": ("a string, or a list of chat turns", is_prompt),
    "variation_prompt": ("a string, or a list of chat turns", is_prompt),
    "parse": ("a list of candidates, which are strings ([]: none)", is_strings),
    "render": ("a string", lambda value: isinstance(value, str)),
    "warm_start": ("a list of candidates, which are strings", is_strings),
    "score": ("pairs (candidate, score), or yield them one by one",
              lambda value: isinstance(value, Iterable) and not isinstance(value, str))}


def check_methods(cls: type) -> None:
    """Puts the check around those methods of RETURNS that a class defines itself."""
    for name in RETURNS.keys() & vars(cls).keys():
        method = vars(cls)[name]
        if inspect.isfunction(method):
            setattr(cls, name, checked(name, method))


def checked(name: str, method: Callable) -> Callable:
    """A method that raises TaskFailed where the task's own raises, or returns the wrong thing."""
    expected, fits = RETURNS[name]

    @functools.wraps(method)
    def call(self, *args):
        try:
            result = method(self, *args)
        except Exception as error:
            raise failure(self, name, error) from error
        except SystemExit as error:
            raise failure(self, name, error) from error
        if not fits(result):
            raise TaskFailed(f"{place(method)}: {name}() should return {expected}, not "
                             f"{one_line(repr(result))[:80]}")
        return result
    return call


def failure(task, name: str, error: BaseException) -> Exception:
    """An error in a task's method, as one line with the place in the task's file where it came
    from. Errors that are one line already stay as they are."""
    if isinstance(error, (UserError, TaskFailed, RunStopped)):
        return error
    file = inspect.getsourcefile(type(task))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename == file]
    where = f"{file}:{frames[-1].lineno}" if frames else place(getattr(type(task), name))
    return TaskFailed(f"{where}: {name}() of {task.name} failed: {type(error).__name__}: "
                      f"{one_line(error)}")


def place(method: Callable) -> str:
    code = inspect.unwrap(method).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def checked_scores(task, candidates: list[str]) -> Iterator[tuple[str, Score]]:
    """task.score(candidates), checked: one score in [0, 1] for each candidate. A scorer may yield a
    number instead of a Score. Raises TaskFailed, or the task's own UserError."""
    missing = set(candidates)
    try:
        for pair in task.score(candidates) if candidates else ():
            if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
                raise TypeError("it should give pairs (candidate, score), one for each candidate, "
                                f"not {pair!r}")
            candidate, result = pair
            if candidate not in missing:
                raise ValueError(f"it scored {candidate!r}, which it was not asked for")
            missing.discard(candidate)
            yield candidate, checked_score(candidate, result)
        if missing:
            raise ValueError(f"it gave no score to {sorted(missing)[0]!r}")
    except GeneratorExit:
        raise
    except (Exception, SystemExit) as error:
        raise failure(task, "score", error) from error


def checked_score(candidate: str, result: Score | float) -> Score:
    """What a scorer gave, as a Score of plain Python values. Raises TypeError or ValueError."""
    score = result if isinstance(result, Score) else Score(float(result))
    if not 0 <= score.value <= 1 or (score.value and not score.valid):  # NaN is not in [0, 1]
        raise ValueError(f"it gave {candidate!r} the score {score.value}; scores lie in [0, 1], "
                         "invalid: 0")
    json.dumps(score.info)                                              # evals.jsonl keeps it
    return Score(float(score.value), bool(score.valid), score.info)
