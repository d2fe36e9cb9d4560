"""The progress bar of a search."""
from __future__ import annotations

from tqdm import tqdm

from runlog.ledger import Evaluation


class ProgressBar(tqdm):
    """Counts evaluations if there is a budget of them, else steps. Behind it the best candidate."""

    def __init__(self, budget: int | None, steps: int, evaluations: list[Evaluation], step: int):
        unit = "evaluations" if budget else "steps"
        super().__init__(
            total=budget or steps, unit=unit, dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} {unit} "
                       "[{elapsed}<{remaining}] {postfix}")
        self.budget, self.best, self.evaluations = budget, None, 0
        for evaluation in evaluations:
            self.scored(evaluation)
        self.stepped(step)

    def scored(self, evaluation: Evaluation) -> None:
        self.evaluations += evaluation.step > 0
        better = self.best is None or evaluation.score > self.best.score
        if evaluation.valid and better:
            self.best = evaluation
        if self.best:
            self.set_postfix_str(f"best {self.best.candidate[:60]!r} {self.best.score:.3f}, "
                                 f"{self.evaluations} scored", refresh=False)
        self.update(self.evaluations - self.n if self.budget else 0)

    def stepped(self, step: int) -> None:
        if not self.budget:
            self.update(step - self.n)
