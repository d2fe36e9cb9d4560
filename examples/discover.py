"""A fork of the method: the advantage and the choice of parents of TTT-Discover (arXiv 2601.16175) in MiGrATe's loop.

    python examples/discover.py --task wordsearch --target skillet

All that a fork takes: pure functions for what differs, a row of migrate.METHODS that names them, and migrate.main. Group,
update, budget, run folder and --resume stay MiGrATe's, so that the row can stand in the same table. Not taken over: their
batches of groups, the training of a row under its parent's prompt, the KL penalty.
"""
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import migrate  # noqa: E402

C = 1.0     # weight of exploration in PUCT, theirs


def softmax_kl(eta: float, scores: torch.Tensor) -> float:
    """KL(softmax(eta r) || uniform) of a group of G: 0 at eta = 0, growing to ln(G / number of best rows)."""
    log_q = torch.log_softmax(eta * scores.double(), 0)
    return float((log_q.exp() * log_q).sum()) + math.log(len(scores))


def entropic_eta(scores: torch.Tensor) -> float:
    """The eta at which softmax(eta r) is ln 2 from uniform, by bisection: as greedy as one bit allows, whatever the scale of
    the scores. A group with many best rows never gets that far: then nine tenths of as far as it gets."""
    if scores.max() == scores.min():
        return 0.0
    target = min(math.log(2), 0.9 * math.log(len(scores) / int((scores == scores.max()).sum())))
    low, high = 0.0, 1.0
    while softmax_kl(high, scores) < target:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if softmax_kl(middle, scores) < target else (low, middle)
    return high


def entropic_advantages(scores: torch.Tensor) -> torch.Tensor:
    """A_i = exp(eta r_i) / mean_{j != i} exp(eta r_j) - 1, (G,) -> (G,): the gradient of log E[exp(eta r)] with a
    leave-one-out estimate of the expectation. The best rows get nearly all of the push. Equal scores: all 0."""
    weights = entropic_eta(scores) * (scores - scores.max()).double()                       # logarithms (G,)
    if not weights.any():
        return torch.zeros_like(scores)
    others = weights.expand(len(scores), -1).clone().fill_diagonal_(-torch.inf)             # (G, G)
    return torch.expm1(weights - others.logsumexp(1) + math.log(len(scores) - 1)).to(scores.dtype)


def puct(scores: list[float], best_child: list[float | None], n: list[int], total: int) -> list[float]:
    """Q(s) + C (max r - min r) P(s) sqrt(1 + T) / (1 + n(s)) of each archived candidate s, oldest first.

    Q: the best score among the children of s, its own before it has any. n: how often s or a descendant of it was the
    parent of a step; T: how many steps had a parent. P, by rank: N for the best of N, N - 1, .. 1, normalised.
    """
    prior = [0.0] * len(scores)
    for rank, i in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i])):
        prior[i] = (len(scores) - rank) / (len(scores) * (len(scores) + 1) / 2)
    explore = C * (max(scores, default=0) - min(scores, default=0)) * math.sqrt(1 + total)
    return [(r if q is None else q) + explore * p / (1 + k) for r, q, p, k in zip(scores, best_child, prior, n)]


def puct_parent(archive: migrate.Archive, step: int, top_k: int, rng) -> list[migrate.Evaluation]:
    """The candidate with the highest PUCT. The tree is read off the archive, so that there is no state to lose: a child
    names its parent, and a step that left no child chose what PUCT says it chose."""
    known, born, visits, best_child, total = [], defaultdict(list), Counter(), {}, 0

    def choose():
        values = puct([e.score for e in known], [best_child.get(e.candidate) for e in known],
                      [visits[e.candidate] for e in known], total)
        return known[max(range(len(known)), key=values.__getitem__)] if known else None

    for e in sorted(archive.of.values(), key=lambda e: e.index):
        born[e.step].append(e)
    for t in range(step):
        children = [e for e in born[t] if e.parents]
        parent = archive.of[children[0].parents[0]] if children else choose() if t else None
        total += parent is not None
        for e in children:
            best_child[parent.candidate] = max(e.score, best_child.get(parent.candidate, 0))
        while parent:
            visits[parent.candidate] += 1
            parent = archive.of[parent.parents[0]] if parent.parents else None
        known += [e for e in born[t] if e.valid]
    return [choose()] if known else []


migrate.METHODS["discover"] = migrate.Method(lambda G, mix: mix, puct_parent, True, entropic_advantages)


def main(argv: list[str]) -> None:
    migrate.main(["--method", "discover", *argv])       # a later --method wins


if __name__ == "__main__":
    sys.exit(migrate.exit_code(main, sys.argv[1:]))
