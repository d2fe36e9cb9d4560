"""The method `discover`: TTT-Discover's advantage and choice of parents (arXiv 2601.16175).

    python migrate.py --task wordsearch --preset tiny --method discover --target skillet

Two fields of a Method are replaced. The group, the update, the budget and --resume stay MiGrATe's,
so that the method can stand in the same table. Not taken over: their batches of groups, the
training of a row under its parent's prompt, the KL penalty.
"""
from __future__ import annotations

import bisect
import math
from collections import Counter
from dataclasses import replace

from migrate import METHODS as PLAIN
from migrate import Archive
from runlog.ledger import OPERATOR, Evaluation, found_since, rank_key
from runlog.slow import torch

C = 1.0     # weight of exploration in PUCT, as in their paper


def softmax_kl(eta: float, scores) -> float:
    """KL(softmax(eta r) || uniform) of G scores: 0 at eta = 0; grows to ln(G / number of best)."""
    log_q = torch.log_softmax(eta * scores.double(), 0)
    return float((log_q.exp() * log_q).sum()) + math.log(len(scores))


def entropic_eta(scores) -> float:
    """The eta at which softmax(eta r) is ln 2 away from uniform, by bisection.

    It adapts to the scale of the scores. A group with many equal best rows never gets that far:
    then eta is where it gets nine tenths as far as it can.
    """
    if scores.max() == scores.min():
        return 0.0
    n_best = int((scores == scores.max()).sum())
    target = min(math.log(2), 0.9 * math.log(len(scores) / n_best))
    low, high = 0.0, 1.0
    while softmax_kl(high, scores) < target:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if softmax_kl(middle, scores) < target:
            low = middle
        else:
            high = middle
    return high


def entropic_advantages(rows: list, rewards):
    """A_i = exp(eta r_i) / mean_{j != i} exp(eta r_j) - 1, (G,), and all rows in the loss, (G,).

    This is the gradient of log E[exp(eta r)], with a leave-one-out estimate of the expectation. The
    best rows get nearly all of the push. Equal rewards: all 0. rewards r: (G,).
    """
    G = len(rewards)
    in_loss = torch.ones(G, dtype=torch.bool)
    log_weights = entropic_eta(rewards) * (rewards - rewards.max()).double()            # (G,)
    if not log_weights.any():
        return torch.zeros_like(rewards), in_loss
    others = log_weights.repeat(G, 1).fill_diagonal_(-torch.inf)                        # (G, G)
    log_mean = others.logsumexp(1) - math.log(G - 1)
    return torch.expm1(log_weights - log_mean).to(rewards.dtype), in_loss


def puct(score: float, best_child: float | None, visits: int, rank: int, N: int,
         exploration: float) -> float:
    """Q(s) + C (max r - min r) P(s) sqrt(1 + T) / (1 + n(s)) of an archived candidate s.

    Q: best_child, the best score among the children of s; its own before it has any. n: visits, how
    often s or a descendant of it was the parent of a step. P: (N - rank) / (N + .. + 1) for the
    rank 0, 1, .. of its score among N. exploration: C (max r - min r) sqrt(1 + T), where T is how
    many steps had a parent.
    """
    prior = (N - rank) / (N * (N + 1) / 2)
    return (score if best_child is None else best_child) + exploration * prior / (1 + visits)


class Tree:
    """The tree of parents and children, worked out from the archive alone.

    A child names its parent. A step that left no child chose what PUCT says that it chose. The tree
    grows from one step to the next: no step goes through all candidates. Those without a visit
    stand in the order of their ranks, so that the first has the highest PUCT. Those with visits
    stand in the order of their Q, which is most of PUCT.
    """

    def __init__(self):
        self.step = self.total = 0
        self.ranked: list[Evaluation] = []          # valid ones, best first
        self.fresh: list[Evaluation] = []           # those without a visit, best first
        self.visited: list[tuple[float, int, Evaluation]] = []      # (-Q, index, evaluation)
        self.visits, self.best_child = Counter(), {}

    def at(self, archive: Archive, step: int) -> Tree:
        """The tree at the start of a step, which is not before that of the last call."""
        found = found_since(archive, self.step)
        for t in range(self.step, step):
            self.add_step(archive, t, found[t])
        self.step = step
        return self

    def choose(self) -> Evaluation | None:
        """The candidate with the highest PUCT; of equal ones the oldest."""
        if not self.ranked:
            return None
        N = len(self.ranked)
        spread = self.ranked[0].worth - self.ranked[-1].worth
        exploration = C * spread * math.sqrt(1 + self.total)

        def value(e: Evaluation) -> tuple[float, int]:
            rank = bisect.bisect_left(self.ranked, rank_key(e), key=rank_key)
            return puct(e.worth, self.best_child.get(e.candidate), self.visits[e.candidate], rank,
                        N, exploration), -e.index
        best = max(map(value, self.fresh[:1]), default=(-math.inf, 0))
        chosen = self.fresh[:1]
        for minus_q, _, e in self.visited:
            if puct(-minus_q, None, 1, 0, N, exploration) < best[0]:
                break           # nor can any that comes later be better
            if value(e) > best:
                best, chosen = value(e), [e]
        return chosen[0]

    def add_step(self, archive: Archive, t: int, found: list[Evaluation]) -> None:
        # A parent may be missing: a step that was taken again on a GPU may draw other candidates.
        children = [e for e in found
                    if e.parents and e.parents[0] in archive and e.origin != OPERATOR]
        parent = None
        if children:
            parent = archive[children[0].parents[0]]
        elif t > 0:
            parent = self.choose()
        self.total += parent is not None
        for e in children:
            best = self.best_child.get(parent.candidate, -math.inf)
            # Where the lowest is best, or scores are negative, 0 is a good score, and no child that
            # could not be scored may have it. A parent is valid, so there is a worst one.
            worth = e.worth if e.valid else min(0.0, self.ranked[-1].worth)
            self.move(parent, max(worth, best))
        while parent:
            self.move(parent, self.best_child.get(parent.candidate))
            self.visits[parent.candidate] += 1
            parent = archive.get(parent.parents[0]) if parent.parents else None
        for e in found:
            if e.valid:
                bisect.insort(self.ranked, e, key=rank_key)
                bisect.insort(self.fresh, e, key=rank_key)

    def move(self, e: Evaluation, q: float | None) -> None:
        """Puts a candidate that was visited where its Q belongs. q: of its best child."""
        old = self.best_child.get(e.candidate, e.worth)
        place = bisect.bisect_left(self.visited, (-old, e.index), key=lambda entry: entry[:2])
        if place < len(self.visited) and self.visited[place][2] is e:
            del self.visited[place]
        else:
            del self.fresh[bisect.bisect_left(self.fresh, rank_key(e), key=rank_key)]
        if q is not None:
            self.best_child[e.candidate] = q
        bisect.insort(self.visited, (-(e.worth if q is None else q), e.index, e))


def puct_parent(archive: Archive, step: int, top_k: int, rng) -> list[Evaluation]:
    parent = vars(archive).setdefault("tree", Tree()).at(archive, step).choose()
    return [parent] if parent else []


METHODS = {"discover": replace(PLAIN["migrate"], parents=puct_parent,
                               advantages=entropic_advantages)}
