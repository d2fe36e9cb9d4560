"""evals.jsonl: every evaluation of a run, one JSON object a line, in the order of arrival."""
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ON_POLICY, NEIGHBOR, GREEDY, WARM_START = "on-policy", "neighbor", "greedy", "warm-start"


@dataclass
class Evaluation:
    """One candidate that f was called on."""
    index: int              # its place in the archive, from 0; results may arrive in another order
    step: int               # 0: warm start
    proposal: int           # how many candidates were drawn when this one appeared; 0: warm start
    origin: str             # ON_POLICY, NEIGHBOR or WARM_START
    parents: list[str]      # the candidates that the neighbour prompt showed
    candidate: str
    score: float            # f(candidate)
    valid: bool             # False: it could not be scored; never a parent, never replayed
    # The tokens that a replay trains on: those sampled, the first EOS included, or the task's
    # rendering where a completion held several candidates. None: warm start.
    tokens: list[int] | None = None
    # What else the scorer said. {"lower_is_better": true}: of the task's scores the lowest is best.
    info: dict = field(default_factory=dict)

    @property
    def worth(self) -> float:
        """What the search maximises: the score, or its negative where the lowest score is best."""
        return -self.score if self.info.get("lower_is_better") else self.score


def best_first(evaluations: Iterable[Evaluation], k: int | None = None) -> list[Evaluation]:
    """The k best valid evaluations (None: all), best first; of equal scores the older one first."""
    valid = [e for e in evaluations if e.valid]
    return sorted(valid, key=lambda e: (-e.worth, e.index))[:k]


def read_evaluations(folder: Path, repair: bool = False) -> list[Evaluation]:
    """The evaluations of a run, in the order of the file."""
    return [Evaluation(**line) for line in read_jsonl(Path(folder) / "evals.jsonl", repair)]


def read_jsonl(path: str | Path, repair: bool = False) -> list[dict]:
    """The whole lines of a file; none if there is no file.

    A process that is killed while it writes leaves a torn last line. It is left out; `repair` cuts
    it off in the file as well. Without `repair` nothing is written: the run may be going on.
    """
    path = Path(path)
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[:data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]
