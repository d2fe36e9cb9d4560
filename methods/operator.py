"""The modifier `operator`: some neighbours are made by an operator of the task. Not in the paper.

    python migrate.py --task molecule --method migrate+operator+novelty

A task may know how to vary its candidates without a language model: `Task.neighbors(best, n, rng)`
makes up to n new ones from the best so far. For molecules it is the crossover and the mutation of a
genetic algorithm (domains/graph_operators.py). What it makes is written as the policy would have
written it, scored, and put into the group. The policy answers for the rest of the neighbours.
"""
from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, replace

from migrate import Archive, Ask, Method, Row, derive, parse_rows, render
from runlog.errors import UserError
from runlog.ledger import NEIGHBOR, OPERATOR

POOL = 100      # of the best candidates, which are shown to the operator


@dataclass
class Operator:
    """Method -> Method. The field is its setting, and becomes a flag."""
    operator_share: float = 0.5     # of the neighbours, rounded up, but not all of them

    def __post_init__(self):
        if not 0 <= self.operator_share <= 1:
            raise UserError("--operator-share must be from 0 to 1")

    def __call__(self, method: Method) -> Method:
        if screens(method):
            raise UserError("+operator behind +screen would make what nothing screens: write "
                            "..+operator+screen")
        self.method = method
        return replace(method, asks=self.asks, draw=self.draw)

    def asks(self, config, task, policy, prompt_ids: list[int], parents: list[str]) -> list[Ask]:
        """The method's own, but a share of the neighbours is asked of the operator."""
        if not hasattr(task, "neighbors"):
            raise UserError(f"+operator needs a task with a method neighbors(best, n, rng), which "
                            f"{task.name} has not: leave +operator away")
        asks, each = [], task.candidates_per_completion
        for ask in self.method.asks(config, task, policy, prompt_ids, parents):
            completions, n = ask.n // each, 0
            if ask.origin == NEIGHBOR:
                n = min(math.ceil(self.operator_share * completions), completions - 1) * each
            asks += [ask._replace(n=ask.n - n), Ask(prompt_ids, n, OPERATOR, [])]
        return [ask for ask in asks if ask.n]

    def draw(self, policy, task, asks: list[Ask], archive: Archive, key: tuple, *turn) -> list[Row]:
        """The rows of the method, and behind them those of the operator: all different and new, and
        perhaps fewer than were asked for."""
        rows, others = [], [ask for ask in asks if ask.origin != OPERATOR]
        if others:
            rows = self.method.draw(policy, task, others, archive, key, *turn)
        for ask in asks:
            if ask.origin == OPERATOR:
                rng = random.Random(derive(*key, OPERATOR, *turn))
                rows = rows + made(policy, task, ask, archive, rng)
        return rows


def screens(method: Method) -> bool:
    """Whether one of the modifiers that stand before is `screen`."""
    modifier = getattr(method.draw, "__self__", None)
    inner = getattr(modifier, "method", None)
    return hasattr(modifier, "screen_draws") or isinstance(inner, Method) and screens(inner)


def made(policy, task, ask: Ask, archive: Archive, rng: random.Random) -> list[Row]:
    """What the operator makes of the best."""
    best = best_of(archive)
    rows = [as_written(policy, task, child, ask._replace(
                parents=[parent for parent in dict.fromkeys(parents) if parent in best]))
            for child, parents in bred(task, archive, best, ask.n, rng).items()]
    return [row for row in rows if row]


def recent(archive: Archive) -> Archive:
    """What came since the search last began afresh: the same object until it does so again."""
    return archive.since(archive.later[0])


def best_of(archive: Archive) -> list[str]:
    """The best that came since the search last began afresh."""
    return [e.candidate for e in recent(archive).best(POOL)]


def bred(task, archive: Archive, best: list[str], n: int, rng) -> dict[str, list[str]]:
    """{child: parents}: up to n children of the candidates, which f has not seen."""
    new: dict[str, list[str]] = {}
    for child, parents in task.neighbors(best, n, rng):
        if child not in archive:
            new.setdefault(child, parents)
    return dict(itertools.islice(new.items(), n))


def as_written(policy, task, candidate: str, ask: Ask) -> Row | None:
    """The row of a completion that holds the candidate. None if the policy cannot write that: its
    tokens are too many, or say something else."""
    tokens = render(policy, task, candidate)
    rows = parse_rows(policy, task, tokens, ask)
    if len(tokens) > policy.generation.max_new_tokens or rows[0].candidate != candidate:
        return None
    return rows[0]


METHODS = {"operator": Operator}
