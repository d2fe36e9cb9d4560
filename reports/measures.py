"""Statistics over runs: areas under curves, bootstrap intervals, paired differences.

A row is one run (rows.py). All intervals are 95% bootstrap intervals over targets: the seeds of a
target stay together. Fewer than five targets say too little about others: they get no interval.
"""
from __future__ import annotations

import bisect
import functools
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 5          # targets that an interval needs


class Estimate(NamedTuple):
    value: float
    interval: tuple[float, float] | None    # 95%; None: there are too few targets
    targets: int


class Gain(NamedTuple):
    """How much higher one mean is than another, in percent, over pairs of (objective, seed)."""
    percent: float
    interval: tuple[float, float] | None    # 95%; None: there are too few objectives
    by_seed: list[float]    # each seed's own gain; empty where there are several objectives
    objectives: int
    pairs: int


def auc_top(scores: Sequence[float], budget: int, at: Sequence[int] = (), k: int = 10,
            every: int = 100) -> float:
    """PMO's measure (Gao et al. 2022): the area under the mean of the k best scores so far over
    the guesses, divided by the budget of them.

    at: how many guesses each score took, in ascending order; none: 1, 2, .., as for evaluations.
    Trapezoids between every 100th guess, from 0. A search that ended early keeps its last value.
    """
    area, last, counted = 0.0, 0.0, 0
    at = at or range(1, len(scores) + 1)
    end = at[-1] if scores else 0
    after = {-(-n // every) * every for n in at} if scores else set()   # where the mean may change
    for n in sorted({n for n in after | {n - every for n in after} if 0 < n < end} | {end}):
        best = sorted(scores[:bisect.bisect(at, n)])[-k:]
        mean = sum(best) / max(1, len(best))
        area += (n - counted) * (last + mean) / 2
        last, counted = mean, n
    return (area + (budget - counted) * last) / budget


def interval(by_target: dict[tuple, list[tuple[float, float]]],
             draws: int = 2000) -> tuple[float, float] | None:
    """95% bootstrap interval of sum(a) / sum(b) over all (a, b), targets drawn with replacement;
    None for fewer than FEWEST targets. A mean has b = 1."""
    if len(by_target) < FEWEST:
        return None
    sums = np.array([np.sum(pairs, axis=0) for pairs in by_target.values()])        # (targets, 2)
    a, b = sums[resamples(len(sums), draws)].sum(1).T                               # (draws,) each
    ratios = np.sort(a / np.maximum(1e-9, b))
    return float(ratios[int(0.025 * draws)]), float(ratios[int(0.975 * draws)])


@functools.cache
def resamples(n: int, draws: int) -> np.ndarray:
    """(draws, n): in each row, n of the numbers below n, with replacement; always the same ones."""
    rng = random.Random(0)
    return np.array([rng.choices(range(n), k=n) for _ in range(draws)])


def mean_of(rows: Iterable[dict], value: Callable[[dict], float]) -> Estimate:
    """The mean of value(row) over some rows, at least one, with its interval."""
    return mean_of_pairs([(target_of(row), value(row)) for row in rows])


def target_of(row: dict) -> tuple[str, str]:
    """Targets of different tasks are different ones, whatever they are called."""
    return row["task"], row["target"]


def mean_of_pairs(pairs: list[tuple[tuple, float]]) -> Estimate:
    """The mean of the values of [(target, value)], at least one, with its interval."""
    by_target: dict[tuple, list[tuple[float, float]]] = {}
    for target, value in pairs:
        by_target.setdefault(target, []).append((value, 1))
    mean = statistics.fmean(value for _, value in pairs)
    return Estimate(mean, interval(by_target), len(by_target))


def paired_difference(ours: Iterable[dict], others: Iterable[dict],
                      value: Callable[[dict], float]) -> Estimate | None:
    """Mean of value(one of ours) - value(one of the others) over the (task, target, seed) that
    both have; None if they have none in common. Seeds may be numbers or text."""
    a = {(*target_of(row), str(row["seed"])): value(row) for row in ours}
    b = {(*target_of(row), str(row["seed"])): value(row) for row in others}
    common = sorted(a.keys() & b.keys())
    if not common:
        return None
    return mean_of_pairs([(pair[:2], a[pair] - b[pair]) for pair in common])


def gain(ours: dict[tuple[str, str], float], other: dict[tuple[str, str], float]) -> Gain | None:
    """How much higher the mean of ours is than the other's, over the {(objective, seed): value}
    that both have; None if they have none in common, or if all of the other's are 0."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for objective, seed in sorted(ours.keys() & other.keys()):
        pair = ours[objective, seed], other[objective, seed]
        pairs.setdefault(objective, []).append(pair)
    everything = [pair for of_objective in pairs.values() for pair in of_objective]
    if not any(b for _, b in everything):
        return None
    percent = percent_higher(everything)
    by_seed = [percent_higher([pair]) for pair in everything] if len(pairs) == 1 else []
    ratios = interval(pairs)
    percents = ratios and tuple(100 * (ratio - 1) for ratio in ratios)
    return Gain(percent, percents, by_seed, len(pairs), len(everything))


def percent_higher(pairs: list[tuple[float, float]]) -> float:
    """By how many percent the sum of the first numbers is higher than that of the second ones."""
    return 100 * (sum(a for a, _ in pairs) / max(1e-9, sum(b for _, b in pairs)) - 1)
