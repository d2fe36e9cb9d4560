"""The modifier `novelty`: spend f on candidates that it has not seen. Not in the paper.

    python migrate.py --task wordsearch --method migrate+novelty

Three parts, for searches that count unique evaluations of f (--budget):

1. A repeat or an unreadable completion is drawn again, `max_draws` times at most. A repeat that
   remains enters the update with score 0: its advantage is negative, and it stays in the loss. If
   it kept its score, the policy would learn to repeat it, and groups would fill with repeats.
2. `pull_only`: a neighbour that is worth less than the group's mean is left out of the loss. It was
   sampled under another prompt. Lowering its probability under the task prompt moves the weights
   and teaches nothing; over thousands of evaluations it destroys the policy.
3. `patience`: a search that has not improved its top k for so many evaluations begins afresh, with
   the first weights and without its parents. What was scored stays known, and the learning rate
   goes on falling.
"""
from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace

from methods import by_origin
from migrate import Archive, Ask, Method, Row
from runlog.errors import UserError
from runlog.ledger import GREEDY, NEIGHBOR
from runlog.slow import torch


@dataclass
class Novelty:
    """Method -> Method. The fields are its settings, and become flags."""
    max_draws: int = 3          # draws of a row in all, while it is a repeat or unreadable
    pull_only: bool = False     # leave neighbours with a negative advantage out of the loss
    patience: int = 0           # begin afresh after so many evaluations without a better top k

    def __post_init__(self):
        if self.max_draws < 1 or self.patience < 0:
            raise UserError("--max-draws must be at least 1, --patience at least 0")

    def __call__(self, method: Method) -> Method:
        self.method = method
        return replace(method, draw=self.draw, advantages=self.advantages,
                       restart=self.restart if self.patience else method.restart)

    def draw(self, policy, task, asks: list[Ask], archive: Archive, key: tuple,
             turn: int = 0) -> list[Row]:
        """Draws until each ask has n candidates that nobody has seen, at most max_draws times.

        Returns every row in order. Those in the group (`kept`) are the unseen ones first, then the
        earliest repeats, as many as were asked for.
        """
        rows, seen, kept = [], set(), Counter()
        wanted, each = by_origin(asks), task.candidates_per_completion
        for redraw in range(self.max_draws):
            missing = [ask._replace(n=ask.n - kept[ask.origin]) for ask in asks]
            # whole completions: every candidate that was sampled counts
            missing = [ask._replace(n=math.ceil(ask.n / each) * each) for ask in missing if ask.n]
            if not missing:
                break
            drawn = self.method.draw(policy, task, missing, archive, key,
                                     turn * self.max_draws + redraw)
            for row in drawn:
                row.kept = (row.candidate not in {None, *seen} and row.candidate not in archive
                            and kept[row.origin] < wanted[row.origin].n)
                kept[row.origin] += row.kept
                seen.add(row.candidate)
                rows.append(row)
        for ask in asks:
            spare = [row for row in rows
                     if row.origin == ask.origin and not row.kept and row.tokens]
            for row in spare[:ask.n - kept[ask.origin]]:
                row.kept = True
        return rows

    def advantages(self, rows: list[Row], rewards):
        """The method's own advantages, as if every repeat had a reward of 0; (G,) and (G,) bool.

        A replay is no repeat: it is there because it is known.
        """
        repeat = torch.tensor([row.origin != GREEDY and not row.new for row in rows])       # (G,)
        A, in_loss = self.method.advantages(rows, rewards.masked_fill(repeat, 0.0))
        if self.pull_only:
            neighbor = torch.tensor([row.origin == NEIGHBOR for row in rows])
            in_loss = in_loss & ~(neighbor & (A < 0))
        return A, in_loss

    def restart(self, archive: Archive, start: int, top_k: int) -> bool:
        """Whether the best k of what came since `start` have not changed for so long.

        They last changed in the step in which the latest of them was found.
        """
        best = archive.since(start).best(top_k)
        if not best:
            return len(archive) - start >= self.patience
        step = max(e.step for e in best)
        newest = itertools.islice(reversed(archive.values()), self.patience)
        return sum(e.step > step for e in newest) >= self.patience


METHODS = {"novelty": Novelty}
