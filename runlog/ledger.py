"""evals.jsonl: every evaluation of a run, one JSON object a line, in the order of arrival."""
from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ON_POLICY, NEIGHBOR, GREEDY, WARM_START = "on-policy", "neighbor", "greedy", "warm-start"
OPERATOR = "operator"       # made by the task, not by the policy (methods/operator.py)


@dataclass
class Evaluation:
    """One candidate that f was called on."""
    index: int              # its place in the archive, from 0; results may arrive in another order
    step: int               # 0: warm start
    proposal: int           # how many candidates were drawn when this one appeared; 0: warm start
    origin: str             # ON_POLICY, NEIGHBOR, OPERATOR or WARM_START
    parents: list[str]      # what the neighbour prompt showed, or what the operator varied
    candidate: str
    score: float            # f(candidate)
    valid: bool             # False: it could not be scored; never a parent, never replayed
    # The completion that held it, as it was sampled, the first EOS included. None: warm start.
    tokens: list[int] | None = None
    # What else the scorer said. {"lower_is_better": true}: of the task's scores the lowest is best.
    info: dict = field(default_factory=dict)

    @property
    def worth(self) -> float:
        """What the search maximises: the score, or its negative where the lowest score is best."""
        return -self.score if self.info.get("lower_is_better") is True else self.score


def rank_key(e: Evaluation) -> tuple[float, int]:
    """Sorts the best first; of equal scores the older one first."""
    return -e.worth, e.index


def found_since(evaluations: dict[str, Evaluation], step: int) -> dict[int, list[Evaluation]]:
    """The evaluations of a step and of later ones, by step, in the order of their indices.

    evaluations: in that order. Only what is returned is gone through."""
    newest = itertools.takewhile(lambda e: e.step >= step, reversed(evaluations.values()))
    by_step: dict[int, list[Evaluation]] = defaultdict(list)
    for e in [*newest][::-1]:
        by_step[e.step].append(e)
    return by_step


def best_first(evaluations: Iterable[Evaluation], k: int | None = None) -> list[Evaluation]:
    """The k best valid evaluations (None: all), best first; of equal scores the older one first."""
    valid = [e for e in evaluations if e.valid]
    return sorted(valid, key=rank_key)[:k]


def read_evaluations(folder: Path) -> list[Evaluation]:
    """The evaluations of a run, in the order of the file. A line that holds none is left out."""
    lines = whole_lines(Path(folder) / "evals.jsonl")
    return [e for e in map(evaluation_in, lines) if e is not None]


def evaluation_in(line: bytes) -> Evaluation | None:
    """The evaluation in a line of evals.jsonl, which may be damaged, or a stranger's."""
    try:
        e = Evaluation(**json.loads(line))
        return e if well_formed(e) else None
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def well_formed(e: Evaluation) -> bool:
    kinds = {"index": int, "step": int, "proposal": int, "origin": str, "parents": list,
             "candidate": str, "score": int | float, "valid": bool, "info": dict}
    return (all(isinstance(getattr(e, name), kind) for name, kind in kinds.items())
            and math.isfinite(e.score) and all(map(is_text, [e.candidate, *e.parents]))
            and (e.tokens is None or all(type(token) is int and token >= 0 for token in e.tokens)))


def is_text(value) -> bool:
    """Whether a value is text without half characters, which no tokenizer takes."""
    return isinstance(value, str) and value == value.encode(errors="replace").decode()


def read_jsonl(path: str | Path, repair: bool = False) -> list[dict]:
    """The lines of a file up to the first that holds no JSON object; none if there is no file.

    A process that is killed while it writes leaves a torn last line. It is left out; `repair` cuts
    off what is left out in the file as well. Without `repair` nothing is written: the run may be
    going on.
    """
    read, size = [], 0
    for line in whole_lines(path):
        try:
            read.append(dict(json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            break
        size += len(line)
    if repair and Path(path).exists() and size < Path(path).stat().st_size:
        with open(path, "r+b") as file:
            file.truncate(size)
    return read


def whole_lines(path: str | Path) -> list[bytes]:
    """The lines of a file, with their ends, but for a torn last one; none if there is no file."""
    data = Path(path).read_bytes() if Path(path).is_file() else b""      # no pipe, no device
    return data[:data.rfind(b"\n") + 1].splitlines(keepends=True)
