"""The modifier `screen`: draw many, spend f on the most promising. Not in the paper.

    python migrate.py --task wordsearch --method migrate+screen+novelty

Each step draws `screen_draws` times as many candidates as its group needs. A surrogate, which is
fitted to what f has said so far, ranks those that f has not seen. The best of them fill the group
and are scored; the others are dropped, and may be drawn again. They do not count as proposals. A
search that begins afresh (`patience`) begins with another surrogate, too: the old one would lead it
back to where it stood still.

The surrogate needs nothing from the task: Gaussian processes on the hidden states that the frozen
policy, without LoRA, has for a candidate. A task may bring another one: `Task.surrogate()` returns
an object with the methods `fit` and `rank` of `Surrogate`.
"""
from __future__ import annotations

import bisect
import functools
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from domains.contract import call
from domains.gaussian import error_left_out, with_noise, with_worst
from methods import by_origin, operator
from migrate import Archive, Ask, Method, Row, derive
from runlog.errors import UserError
from runlog.ledger import OPERATOR
from runlog.slow import engine, torch

ENOUGH = 10             # valid evaluations, before which nothing is screened
MOST = 2000             # points of a fit: the best half of them, and as many others at random
LATER = 50              # of more evaluations than that, up to the latest fiftieth is left out
GENERATIONS = 2, 24     # with +operator: how often a step breeds, at first and at most
PER_GENERATION = 256    # evaluations: for each so many it breeds once more
BLOCK = 64              # candidates whose hidden states are computed together
JUDGED_ON = 256         # points that processes are judged on, at most
AT_MOST = 4             # processes of a fit
LENGTHS, NOISES = (0.6, 1.2, 2.4, 4.8), (0.01, 0.1, 1.0)    # of the processes to choose from
PREFIX = 4              # tokens of the task prompt that stand before a candidate


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

    def draw(self, policy, task, asks: list[Ask], archive: Archive, key: tuple, *turn) -> list[Row]:
        """As many rows as were asked for: unseen candidates, the most promising first. Where there
        are too few, the earliest of the other rows. (The operator may make fewer.)"""
        by_origin(asks)
        if len(operator.recent(archive).ranked) < ENOUGH:
            return self.method.draw(policy, task, asks, archive, key, *turn)
        many = [ask._replace(n=ask.n * self.screen_draws) for ask in asks if ask.origin != OPERATOR]
        drawn = self.method.draw(policy, task, many, archive, key, *turn) if many else []
        unseen: dict[str, Row] = {}
        for row in drawn:
            if row.candidate is not None and row.candidate not in archive:
                unseen.setdefault(row.candidate, row)
        promise = self.promise(policy, task, list(unseen), archive, key)
        rows = []
        for ask in asks:
            if ask.origin == OPERATOR:
                rows += self.bred_rows(policy, task, ask, archive, key, promise, *turn)
                continue
            own = [row for row in drawn if row.origin == ask.origin]
            fresh = [row for row in own if unseen.get(row.candidate) is row]
            fresh.sort(key=lambda row: -promise[row.candidate])
            others = [row for row in own if unseen.get(row.candidate) is not row]
            rows += (fresh + others)[:ask.n]
        return rows

    def bred_rows(self, policy, task, ask: Ask, archive: Archive, key: tuple,
                  promise: dict[str, float], *turn) -> list[Row]:
        """The most promising of what the operator of the task makes in some generations: of the
        best and of what the policy drew, of these and their children, and so on. None of them is
        scored on the way. Their parents are those ancestors that were.

        The more the surrogate knows, the further it is followed. With many generations from the
        start it would lead astray."""
        rng = random.Random(derive(*key, OPERATOR, *turn))
        best = operator.best_of(archive)
        pool = promise | self.promise(policy, task, best, archive, key)
        ancestors = {candidate: [candidate] for candidate in best} | {c: [] for c in promise}
        children: dict[str, float] = {}
        first, last = GENERATIONS
        for _ in range(min(last, first + len(operator.recent(archive)) // PER_GENERATION)):
            ranked = sorted(pool, key=pool.get, reverse=True)[:operator.POOL]
            made = operator.bred(task, archive, ranked, ask.n * self.screen_draws, rng)
            new = [child for child in made if child not in pool]
            for child in new:
                of_parents = (ancestors.get(parent, []) for parent in made[child])
                ancestors[child] = list(dict.fromkeys(itertools.chain(*of_parents)))
            found = self.promise(policy, task, new, archive, key)
            children |= found
            pool |= found
        ranked = sorted(children, key=children.get, reverse=True)
        rows = (operator.as_written(policy, task, child,
                                    ask._replace(parents=ancestors[child])) for child in ranked)
        return list(itertools.islice(filter(None, rows), ask.n))

    def promise(self, policy, task, candidates: list[str], archive: Archive,
                key: tuple) -> dict[str, float]:
        """{candidate: mean + beta deviation of its score}. beta is another one in each step, from
        0.01 to 1: now the sure ones, now the uncertain ones."""
        archive = operator.recent(archive)
        if self.archive is not archive:     # the first step of a search, or after a fresh start
            make = getattr(task, "surrogate", None)
            self.surrogate = make() if make else Surrogate(
                hidden_states(policy, task), in_ranks=task.own_scale)
            self.archive, self.fitted = archive, 0
        n = len(archive)
        if n > MOST:        # a fit at each multiple of a power of two, which is below n / LATER
            n -= n % 2 ** ((n // LATER).bit_length() - 1)
        if self.fitted != n:
            known = list(itertools.islice(archive.values(), n))
            scores = [e.worth if e.valid else None for e in known]
            call(self.surrogate.fit, f"fit() of the surrogate of {task.name}", lambda _: True, "",
                 [e.candidate for e in known], scores)
            self.fitted = n
        if not candidates:
            return {}
        mean, deviation = as_numbers(call(
            self.surrogate.rank, f"rank() of the surrogate of {task.name}",
            functools.partial(is_ranking, len(candidates)),
            "the mean and the deviation of each candidate: two series of finite numbers",
            candidates))
        beta = 10 ** random.Random(derive(*key, "screen")).uniform(-2, 0)
        return dict(zip(candidates, (mean + beta * deviation).tolist()))


def is_ranking(n: int, value) -> bool:
    """Whether a value is what rank() of a surrogate returns for n candidates."""
    try:
        numbers = as_numbers(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return numbers.shape == (2, n) and bool(numbers.isfinite().all())


def as_numbers(value):
    """Two series, of whatever kind, as one tensor (2, n)."""
    return torch.stack([torch.as_tensor(series) for series in value])


def hidden_states(policy, task) -> Callable:
    """A function from candidates to features, (2, depths, n, d): hidden states of the frozen policy
    at some depths, their mean over the candidate's tokens. First those of the candidate alone, then
    those of it in a text: after the end of the task prompt and a space.

    A real language model knows a word in a text far better: its first token is no word to it, and
    most words begin with a space. A policy that was trained on nothing else knows it alone."""
    prompt_end = engine.chat.encode(policy, task.prompt())[-PREFIX:]

    def features(candidates: list[str]):
        found = []
        for space, prefix in ("", []), (" ", prompt_end):
            texts = [space + task.render(c) for c in candidates]
            ids = policy.tokenizer(texts, add_special_tokens=False)["input_ids"]
            with policy.model.disable_adapter():
                found.append(engine.hidden_means(policy.model, [x or [0] for x in ids], prefix))
        return torch.stack(found)
    return features


class Surrogate:
    """Gaussian processes on the candidate's features, and their mean, weighted by how well each
    foretells a score that it is not told.

        k(x, y) = mean over kinds of exp(-|x_kind - y_kind|^2 / (2 d length^2)) + noise [x is y]

    A kind is a spelling (alone, or in a text) at a depth; x_kind: those features, standardised. The
    processes differ in their kinds, length and noise. Each has the weight exp(-n error / 2). Its
    error is the mean square of what it gets wrong, in deviations, where each of n scores in turn is
    left out. They are judged anew whenever the number of points has doubled, up to JUDGED_ON. All
    of it depends on the points and their order alone: a resumed search ranks as an uninterrupted
    one does.
    """

    def __init__(self, features: Callable, in_ranks: bool = False):
        """in_ranks: whether scores stand for their ranks. One huge score would hide all other
        differences."""
        self.features, self.blocks = features, {}
        self.worths = as_ranks if in_ranks else list
        self.judged: dict[int, dict] = {}       # number of points: {(kinds, length, noise): weight}

    def fit(self, candidates: list[str], scores: list[float | None]) -> None:
        """candidates: in the order in which they came. scores: None for an invalid candidate."""
        n = 2 ** int(math.log2(min(len(scores), JUDGED_ON)))
        if n not in self.judged:        # by the first n alone, however many are known by now
            y = with_worst(self.worths(scores[:n]))
            self.judged[n] = judge(self.known(candidates[:n]).double(), y)
        x, y = self.known(candidates), with_worst(self.worths(scores))      # (kinds, n, d), (n,)
        kept = self.subset(y)
        self.x, self.center, self.scale = standardised(x[:, kept].double())
        y, self.mean, self.deviation = standardised(y[kept])
        self.fitted, apart = {}, self.distances_to(self.x, self.judged[n])
        for (kinds, length, noise), weight in self.judged[n].items():
            root = torch.linalg.cholesky(with_noise(kernel(apart[kinds], length), noise))
            self.fitted[kinds, length, noise] = weight, root, torch.cholesky_solve(y[:, None], root)

    def rank(self, candidates: list[str]):
        """The expected score of each candidate, and its standard deviation within the processes
        (without how far these lie apart), (n,) each."""
        x = (self.features(candidates).flatten(0, 1).double() - self.center) / self.scale
        mean, variance, apart = 0, 0, self.distances_to(x, self.fitted)
        for (kinds, length, noise), (weight, root, solved) in self.fitted.items():
            k = kernel(apart[kinds], length)                                    # (n, points)
            explained = torch.linalg.solve_triangular(root, k.T, upper=False)   # (points, n)
            mean = mean + weight * (k @ solved)[:, 0]
            variance = variance + weight * (1 + noise - explained.square().sum(0)).clamp(min=0)
        return self.mean + self.deviation * mean, self.deviation * variance.sqrt()

    def distances_to(self, x, processes) -> dict:
        """{kinds: distances from x to the points of the fit}. Several processes share them."""
        return {kinds: distances(x, self.x, kinds) for kinds in {one[0] for one in processes}}

    def known(self, candidates: list[str]):
        """The features of all candidates, (kinds, n, d), in blocks: a full block is computed once.
        So each is computed with the same others in a resumed search, and has the same last bits."""
        parts = []
        for i in range(0, len(candidates), BLOCK):
            block = tuple(candidates[i:i + BLOCK])
            found = self.blocks.get(block)
            if found is None:
                found = self.features(list(block)).flatten(0, 1)
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


def as_ranks(scores: list[float | None]) -> list[float | None]:
    """For each score the share of scores that are not above it. None stays None."""
    order = sorted(score for score in scores if score is not None)
    return [None if score is None else bisect.bisect(order, score) / len(order)
            for score in scores]


def judge(x, y) -> dict:
    """{(kinds, length, noise): weight} of the best processes. x: (kinds, n, d), y: (n,).

    A process has the kinds of one spelling, or all of them."""
    half, x, y = len(x) // 2, standardised(x)[0], standardised(y)[0]
    errors = {}
    for kinds in dict.fromkeys([(0, half), (half, len(x)), (0, len(x))]):
        apart = distances(x, x, kinds)
        for length in LENGTHS:
            for noise in NOISES:
                errors[kinds, length, noise] = error_left_out(kernel(apart, length), y, noise)
    best = sorted(errors, key=errors.get)[:AT_MOST]
    weights = {one: math.exp(len(y) * (errors[best[0]] - errors[one]) / 2) for one in best}
    weights = {one: weight for one, weight in weights.items() if weight > 0.1}
    return {one: weight / sum(weights.values()) for one, weight in weights.items()}


def standardised(x):
    """x, (.., n, d) or (n,), with mean 0 and deviation 1 over n, the means and the deviations."""
    over = -2 if x.dim() > 1 else 0
    mean, deviation = x.mean(over, keepdim=True), x.std(over, keepdim=True).clamp(min=1e-9)
    return (x - mean) / deviation, mean, deviation


def distances(x, y, kinds: tuple[int, int]):
    """|x - y|^2 / 2d of each kind, first <= i < end: (kinds, n, d), (kinds, m, d) -> (.., n, m)"""
    x, y = x[slice(*kinds)], y[slice(*kinds)]
    apart = torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")
    return apart.square() / (2 * x.shape[-1])


def kernel(apart, length: float):
    """Distances (kinds, n, m) -> (n, m)."""
    return torch.exp(-apart / length ** 2).mean(0)


METHODS = {"screen": Screen}
