"""The modifier `screen`: draw many, spend f on the most promising. Not in the paper.

    python migrate.py --task wordsearch --method migrate+screen+novelty

Each step draws `screen_draws` times as many candidates as its group needs. A surrogate, which is
fitted to what f has said so far, ranks those that f has not seen. The best of them fill the group
and are scored; the others are dropped, and may be drawn again. They do not count as proposals.

The surrogate needs nothing from the task. It is a Gaussian process on the hidden states that the
frozen policy, without LoRA, has for a candidate. A task may bring another one: `Task.surrogate()`
returns an object with the two methods of `Surrogate`.
"""
from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from migrate import Archive, Ask, Method, Row, derive
from runlog.errors import UserError
from runlog.slow import engine, torch

ENOUGH = 10             # valid evaluations, before which nothing is screened
MOST = 2000             # points of a fit: the best half of them, and as many others at random
BLOCK = 64              # candidates whose hidden states are computed together
CHOSEN_ON = 256         # points that kernel and layer are chosen on, at most
LENGTHS, NOISES = (0.3, 0.6, 1.2, 2.4), (0.001, 0.01, 0.1, 1.0)     # of the kernel, to choose from


@dataclass
class Screen:
    """Method -> Method. The field is its setting, and becomes a flag."""
    screen_draws: int = 8       # candidates drawn for each one that is wanted

    def __post_init__(self):
        if self.screen_draws < 1:
            raise UserError("--screen-draws must be at least 1")

    def __call__(self, method: Method) -> Method:
        self.method, self.archive = method, None
        return replace(method, draw=self.draw)

    def draw(self, policy, task, asks: list[Ask], archive: Archive, key: tuple,
             turn: int = 0) -> list[Row]:
        """As many rows as were asked for: unseen candidates, the most promising first. Where there
        are too few, the earliest of the other rows."""
        if len(archive.ranked) < ENOUGH:
            return self.method.draw(policy, task, asks, archive, key, turn)
        many = [ask._replace(n=ask.n * self.screen_draws) for ask in asks]
        drawn = self.method.draw(policy, task, many, archive, key, turn)
        unseen: dict[str, Row] = {}
        for row in drawn:
            if row.candidate is not None and row.candidate not in archive:
                unseen.setdefault(row.candidate, row)
        promise = dict(zip(unseen, self.promise(policy, task, list(unseen), archive, key)))
        rows = []
        for ask in asks:
            own = [row for row in drawn if row.origin == ask.origin]
            fresh = [row for row in own if unseen.get(row.candidate) is row]
            fresh.sort(key=lambda row: -promise[row.candidate])
            others = [row for row in own if unseen.get(row.candidate) is not row]
            rows += (fresh + others)[:ask.n]
        return rows

    def promise(self, policy, task, candidates: list[str], archive: Archive,
                key: tuple) -> list[float]:
        """Mean + beta deviation of each candidate's score. beta is another one in each step, from
        0.01 to 1: now the sure ones, now the uncertain ones."""
        if self.archive is not archive:     # the first step of a search
            make = getattr(task, "surrogate", None)
            self.surrogate = make() if make else Surrogate(hidden_states(policy, task))
            self.archive, self.fitted = archive, 0
        if self.fitted != len(archive):
            known = [e for e in archive.values() if e.valid]
            self.surrogate.fit([e.candidate for e in known], [e.worth for e in known])
            self.fitted = len(archive)
        if not candidates:
            return []
        mean, deviation = self.surrogate.rank(candidates)
        beta = 10 ** random.Random(derive(*key, "screen")).uniform(-2, 0)
        return (mean + beta * deviation).tolist()


def hidden_states(policy, task) -> Callable:
    """A function from candidates to features, (layers, n, d): hidden states at three depths of the
    frozen policy, their mean over the candidate's tokens."""
    def features(candidates: list[str]):
        ids = [policy.tokenizer(task.render(c), add_special_tokens=False)["input_ids"] or [0]
               for c in candidates]
        with policy.model.disable_adapter():
            return engine.hidden_means(policy.model, ids)
    return features


class Surrogate:
    """A Gaussian process with the kernel exp(-|x - y|^2 / (2 d length^2)) on standardised features.

    Layer, length and noise are those with the highest marginal likelihood. They are chosen anew
    whenever the number of points has doubled, up to CHOSEN_ON. All of it depends on the points and
    their order alone: a resumed search ranks as an uninterrupted one does.
    """

    def __init__(self, features: Callable):
        self.features, self.blocks = features, {}
        self.chosen: dict[int, tuple] = {}          # number of points: (layer, length, noise)

    def fit(self, candidates: list[str], scores: list[float]) -> None:
        """candidates: in the order in which they came."""
        x = self.known(candidates)                                              # (layers, n, d)
        y = torch.tensor(scores, dtype=torch.float64)
        n = 2 ** int(math.log2(min(len(y), CHOSEN_ON)))
        if n not in self.chosen:
            settings = [(layer, length, noise) for layer in range(len(x)) for length in LENGTHS
                        for noise in NOISES]
            self.chosen[n] = max(settings, key=lambda s: evidence(x[s[0], :n], y[:n], *s[1:]))
        self.layer, self.length, self.noise = self.chosen[n]
        kept = self.subset(y)
        self.x, self.center, self.scale = standardised(x[self.layer, kept])
        y, self.mean, self.deviation = standardised(y[kept])
        self.root = root(self.x, self.length, self.noise)
        self.weights = torch.cholesky_solve(y[:, None], self.root)              # (n, 1)

    def rank(self, candidates: list[str]):
        """The expected score of each candidate and its standard deviation, (n,) each."""
        x = (self.features(candidates)[self.layer].double() - self.center) / self.scale
        k = kernel(x, self.x, self.length)                                      # (n, points)
        explained = torch.linalg.solve_triangular(self.root, k.T, upper=False)  # (points, n)
        deviation = (1 + self.noise - explained.square().sum(0)).clamp(min=0).sqrt()
        return self.mean + self.deviation * (k @ self.weights)[:, 0], self.deviation * deviation

    def known(self, candidates: list[str]):
        """The features of all candidates, in blocks: a full block is computed once. So each is
        computed with the same others in a resumed search, and has the same last bits."""
        parts = []
        for i in range(0, len(candidates), BLOCK):
            block = tuple(candidates[i:i + BLOCK])
            found = self.blocks.get(block)
            if found is None:
                found = self.features(list(block)).double()
                if len(block) == BLOCK:
                    self.blocks[block] = found
            parts.append(found)
        return torch.cat(parts, dim=1)

    @staticmethod
    def subset(y):
        """Which points are fitted to: all, or the best and others at random."""
        if len(y) <= MOST:
            return torch.arange(len(y))
        order = y.argsort(descending=True, stable=True)
        others = torch.randperm(len(y) - MOST // 2, generator=torch.Generator().manual_seed(0))
        return torch.cat([order[:MOST // 2], order[MOST // 2:][others[:MOST // 2]]]).sort().values


def standardised(x):
    """x with mean 0 and deviation 1 in each column, the means and the deviations."""
    mean, deviation = x.mean(0), x.std(0).clamp(min=1e-9)
    return (x - mean) / deviation, mean, deviation


def root(x, length: float, noise: float):
    """The Cholesky factor of the kernel of x, (n, d), with noise on its diagonal: (n, n)."""
    return torch.linalg.cholesky(kernel(x, x, length) + noise * torch.eye(len(x), dtype=x.dtype))


def kernel(x, y, length: float):
    """(n, d), (m, d) -> (n, m)"""
    squared = torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist").square()
    return torch.exp(-squared / (2 * x.shape[1] * length ** 2))


def evidence(x, y, length: float, noise: float) -> float:
    """The logarithm of the marginal likelihood of y given x, up to a constant."""
    factor, y = root(standardised(x)[0], length, noise), standardised(y)[0][:, None]
    fit = (y * torch.cholesky_solve(y, factor)).sum()
    return -0.5 * fit.item() - factor.diagonal().log().sum().item()


METHODS = {"screen": Screen}
