"""The progress of a search on the screen: a bar, or plain lines where there is no terminal."""
from __future__ import annotations

import contextlib
import sys

from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

from runlog.errors import printable
from runlog.ledger import Evaluation

NARROW = "{desc}{percentage:.0f}% {n_fmt}/{total_fmt} {elapsed}<{remaining}"
NARROW_COUNTS = 25      # columns that the counts take
WIDE = "{desc}{percentage:.0f}% {n_fmt}/{total_fmt} {unit} {elapsed}<{remaining} {bar:16}"
WIDE_COUNTS = 55
EVERY = 5.0             # seconds between two plain lines


class ProgressBar(tqdm):
    """Best score and candidate first: a narrow terminal shows these. What is printed while the bar
    stands appears above it.

    total, unit: how long the search is, in "evaluations", "steps" or "proposals". evaluations,
    step: what there is already, and the last line of steps.jsonl.
    """

    def __init__(self, total: int, unit: str, evaluations: list[Evaluation], step: dict):
        self.plain = not sys.stderr.isatty()
        self.best, self.evaluations = None, 0
        super().__init__(total=total, unit=unit, dynamic_ncols=True,
                         mininterval=EVERY if self.plain else 0.1,
                         delay=EVERY if self.plain else 0)
        for evaluation in evaluations:
            self.scored(evaluation)
        self.stepped(step)

    def scored(self, evaluation: Evaluation) -> None:
        self.evaluations += evaluation.step > 0
        better = self.best is None or evaluation.worth > self.best.worth
        if evaluation.valid and better:
            self.best = evaluation
        self.update(self.evaluations - self.n if self.unit == "evaluations" else 0)

    def stepped(self, step: dict) -> None:
        if self.unit != "evaluations":
            self.update(step["step" if self.unit == "steps" else "proposals"] - self.n)

    @property
    def format_dict(self) -> dict:
        """What tqdm shows: the best candidate in the room that the counts leave."""
        values = super().format_dict
        columns = values["ncols"] or 80
        wide = columns >= 80
        values["bar_format"] = WIDE if wide else NARROW
        if self.plain:
            values["bar_format"] = WIDE.removesuffix(" {bar:16}")
        room = max(8, columns - (WIDE_COUNTS if wide else NARROW_COUNTS))
        if self.best:
            best = f"best {self.best.score:.3f} {self.best.candidate[:room]!r}"
            values["prefix"] = (best if len(best) < room else best[:room - 2] + "…") + " "
        return values

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if not self.plain:
            super().display(msg, pos)
        elif msg is None:
            print(self, file=sys.stderr, flush=True)

    def close(self) -> None:
        self.disable = self.disable or self.plain       # a bar ends its line here
        super().close()

    def say(self, line: str) -> None:
        """Prints a line, above the bar. It may hold what a model wrote."""
        line = printable(line)
        if self.plain:
            print(line, flush=True)
        else:
            self.write(line)

    def __enter__(self):
        if not self.plain:
            self.printing = contextlib.redirect_stdout(DummyTqdmFile(sys.stdout))
            self.printing.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        if not self.plain:
            self.printing.__exit__(*error)
        return super().__exit__(*error)
