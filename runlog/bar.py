"""The progress of a search on the screen: a bar, or plain lines where there is no terminal."""
from __future__ import annotations

import contextlib
import sys

from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

from runlog.ledger import Evaluation

COUNTS = "{desc}{percentage:.0f}% {n_fmt}/{total_fmt} {unit} {elapsed}<{remaining}"
NARROW = 31             # columns that the counts take
WIDE = 80               # from here on there is room for a bar as well
EVERY = 5.0             # seconds between two plain lines


class ProgressBar(tqdm):
    """Best score and candidate first: a narrow terminal shows these. Counts evaluations if there is
    a budget of them, else steps. What is printed while it stands appears above it."""

    def __init__(self, budget: int | None, steps: int, evaluations: list[Evaluation], step: int):
        self.plain = not sys.stderr.isatty()
        self.budget, self.best, self.evaluations = budget, None, 0
        super().__init__(
            total=budget or steps, unit="evals" if budget else "steps", dynamic_ncols=True,
            mininterval=EVERY if self.plain else 0.1,
            delay=EVERY if self.plain else 0)
        for evaluation in evaluations:
            self.scored(evaluation)
        self.stepped(step)

    def scored(self, evaluation: Evaluation) -> None:
        self.evaluations += evaluation.step > 0
        better = self.best is None or evaluation.score > self.best.score
        if evaluation.valid and better:
            self.best = evaluation
        self.update(self.evaluations - self.n if self.budget else 0)

    def stepped(self, step: int) -> None:
        if not self.budget:
            self.update(step - self.n)

    @property
    def format_dict(self) -> dict:
        """What tqdm shows: the best candidate in the room that the counts leave."""
        values = super().format_dict
        columns = values["ncols"] or WIDE
        bar = " {bar:16}" if columns >= WIDE and not self.plain else ""
        room = max(8, columns - NARROW - (17 if bar else 0))
        values["bar_format"] = COUNTS + bar
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
        """Prints a line, above the bar."""
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
