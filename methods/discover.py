"""The method `discover`: TTT-Discover's advantage and choice of parents (arXiv 2601.16175).

    python migrate.py --task wordsearch --preset tiny --method discover --target skillet

Two fields of a Method are replaced. The group, the update, the budget and --resume stay MiGrATe's,
so that the method can stand in the same table. Not taken over: their batches of groups, the
training of a row under its parent's prompt, the KL penalty.
"""
from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace

from migrate import METHODS as PLAIN
from migrate import Archive
from runlog.ledger import Evaluation
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


def entropic_advantages(rows: list, scores):
    """A_i = exp(eta r_i) / mean_{j != i} exp(eta r_j) - 1, (G,), and all rows in the loss, (G,).

    This is the gradient of log E[exp(eta r)], with a leave-one-out estimate of the expectation. The
    best rows get nearly all of the push. Equal scores: all 0.
    """
    G = len(scores)
    in_loss = torch.ones(G, dtype=torch.bool)
    log_weights = entropic_eta(scores) * (scores - scores.max()).double()               # (G,)
    if not log_weights.any():
        return torch.zeros_like(scores), in_loss
    others = log_weights.repeat(G, 1).fill_diagonal_(-torch.inf)                        # (G, G)
    log_mean = others.logsumexp(1) - math.log(G - 1)
    return torch.expm1(log_weights - log_mean).to(scores.dtype), in_loss


def puct(scores: list[float], best_child: list[float | None], n: list[int],
         total: int) -> list[float]:
    """Q(s) + C (max r - min r) P(s) sqrt(1 + T) / (1 + n(s)) of each archived candidate s.

    All lists go from the oldest to the newest candidate. Q: the best score among the children of s,
    its own before it has any. n: how often s or a descendant of it was the parent of a step. T:
    how many steps had a parent. P, by rank: N for the best of N, N - 1, .. 1, normalised.
    """
    N = len(scores)
    prior = [0.0] * N
    for rank, i in enumerate(sorted(range(N), key=lambda i: -scores[i])):
        prior[i] = (N - rank) / (N * (N + 1) / 2)
    explore = C * (max(scores, default=0) - min(scores, default=0)) * math.sqrt(1 + total)
    return [(r if q is None else q) + explore * p / (1 + k)
            for r, q, p, k in zip(scores, best_child, prior, n)]


class Tree:
    """The tree of parents and children at some step, worked out from the archive alone.

    A child names its parent. A step that left no child chose what PUCT says that it chose.
    """

    def __init__(self, archive: Archive, step: int):
        self.archive = archive
        self.known: list[Evaluation] = []           # valid ones, oldest first
        self.visits, self.best_child, self.total = Counter(), {}, 0
        born = defaultdict(list)
        for e in sorted(archive.values(), key=lambda e: e.index):
            born[e.step].append(e)
        for t in range(step):
            self.add_step(t, born[t])

    def choose(self) -> Evaluation | None:
        """The candidate with the highest PUCT."""
        if not self.known:
            return None
        names = [e.candidate for e in self.known]
        values = puct([e.worth for e in self.known], [self.best_child.get(c) for c in names],
                      [self.visits[c] for c in names], self.total)
        return self.known[max(range(len(values)), key=values.__getitem__)]

    def add_step(self, t: int, found: list[Evaluation]) -> None:
        children = [e for e in found if e.parents]
        parent = None
        if children:
            parent = self.archive[children[0].parents[0]]
        elif t > 0:
            parent = self.choose()
        self.total += parent is not None
        for e in children:
            best = self.best_child.get(parent.candidate, -math.inf)
            self.best_child[parent.candidate] = max(e.worth, best)
        while parent:
            self.visits[parent.candidate] += 1
            parent = self.archive[parent.parents[0]] if parent.parents else None
        self.known += [e for e in found if e.valid]


def puct_parent(archive: Archive, step: int, top_k: int, rng) -> list[Evaluation]:
    parent = Tree(archive, step).choose()
    return [parent] if parent else []


METHODS = {"discover": replace(PLAIN["migrate"], parents=puct_parent,
                               advantages=entropic_advantages)}
