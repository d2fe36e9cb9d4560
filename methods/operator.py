"""The modifier `operator`: some neighbours are made by an operator of the task. Not in the paper.

    python migrate.py --task molecule --method migrate+operator+novelty

A task may know how to vary its candidates without a language model: `Task.neighbors(best, n, rng)`
makes up to n new ones from the best so far. For molecules it is the crossover and the mutation of a
genetic algorithm (domains/graph_operators.py). What it makes is written as the policy would have
written it, scored, and put into the group as neighbours. The policy answers for the rest of them.
"""
from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from migrate import Archive, Ask, Method, Row, derive, parse_rows, render
from runlog.errors import UserError
from runlog.ledger import NEIGHBOR

POOL = 100      # of the best candidates, which are shown to the operator


@dataclass
class Operator:
    """Method -> Method. The field is its setting, and becomes a flag."""
    operator_share: float = 0.5     # of the neighbours, rounded up

    def __post_init__(self):
        if not 0 <= self.operator_share <= 1:
            raise UserError("--operator-share must be from 0 to 1")

    def __call__(self, method: Method) -> Method:
        self.method = method
        return replace(method, draw=self.draw)

    def draw(self, policy, task, asks: list[Ask], archive: Archive, key: tuple,
             turn: int = 0) -> list[Row]:
        """The rows of the policy, and behind them those of the operator. Where it makes too few
        that are new, the policy draws more."""
        if not hasattr(task, "neighbors"):
            raise UserError(f"+operator needs a task with a method neighbors(best, n, rng), which "
                            f"{task.name} has not: leave +operator away")
        rng = random.Random(derive(*key, "operator", turn))
        best, others, made = [e.candidate for e in archive.best(POOL)], [], []
        for ask in asks:
            own = []
            if ask.origin == NEIGHBOR:
                n = math.ceil(self.operator_share * ask.n)
                own = [row for child, parents in task.neighbors(best, n, rng)[:n]
                       if child not in archive
                       for row in as_written(policy, task, child, ask._replace(parents=parents))]
            made += own
            others.append(ask._replace(n=ask.n - len(own)))
        others = [ask for ask in others if ask.n]
        drawn = self.method.draw(policy, task, others, archive, key, turn) if others else []
        return drawn + made


def as_written(policy, task, candidate: str, ask: Ask) -> list[Row]:
    """The row of a completion that holds the candidate; none if the policy cannot write that: its
    tokens are too many, or say something else."""
    tokens = render(policy, task, candidate)
    rows = parse_rows(policy, task, tokens, ask)
    fits = len(tokens) <= policy.generation.max_new_tokens
    return [row for row in rows if fits and row.candidate == candidate]


METHODS = {"operator": Operator}
