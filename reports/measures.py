"""Statistics over runs: areas under curves, bootstrap intervals, paired differences.

A row is one run (rows.py). All intervals are 95% bootstrap intervals over targets: the seeds of a
target stay together.
"""
from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    value: float
    low: float          # 95% interval
    high: float
    n: int              # of targets


class Gain(NamedTuple):
    """How much higher one mean is than another, in percent, over pairs of (objective, seed)."""
    percent: float
    low: float              # 95% interval; of a single objective: the lowest and the highest
    high: float             # of by_seed
    by_seed: list[float]    # each seed's own gain; empty where there are several objectives
    objectives: int
    pairs: int


def auc_top(scores: Sequence[float], budget: int, k: int = 10, every: int = 100) -> float:
    """PMO's measure (Gao et al. 2022): the area under the mean of the k best scores so far over
    the evaluations, divided by the budget.

    scores: in the order of the evaluations. Trapezoids between every 100th evaluation, from 0. A
    search that ended early keeps its last value.
    """
    area, last, counted = 0.0, 0.0, 0
    for n in [*range(every, len(scores), every), len(scores)]:
        best = sorted(scores[:n])[-k:]
        mean = sum(best) / max(1, len(best))
        area += (n - counted) * (last + mean) / 2
        last, counted = mean, n
    return (area + (budget - counted) * last) / budget


def interval(by_target: dict[str, list], statistic: Callable[[list], float],
             draws: int = 2000) -> tuple[float, float]:
    """95% bootstrap interval of statistic(all values), targets drawn with replacement."""
    rng, targets, values = random.Random(0), list(by_target), []
    for _ in range(draws):
        drawn = rng.choices(targets, k=len(targets))
        values.append(statistic([x for target in drawn for x in by_target[target]]))
    values.sort()
    return values[int(0.025 * draws)], values[int(0.975 * draws)]


def mean_of(rows: Iterable[dict], value: Callable[[dict], float]) -> Estimate:
    """The mean of value(row) over some rows, at least one, with its interval."""
    return mean_of_pairs([(row["target"], value(row)) for row in rows])


def mean_of_pairs(pairs: list[tuple[str, float]]) -> Estimate:
    """The mean of the values of [(target, value)], at least one, with its interval."""
    by_target: dict[str, list[float]] = {}
    for target, value in pairs:
        by_target.setdefault(target, []).append(value)
    low, high = interval(by_target, statistics.fmean)
    return Estimate(statistics.fmean(value for _, value in pairs), low, high, len(by_target))


def paired_difference(ours: Iterable[dict], others: Iterable[dict],
                      value: Callable[[dict], float]) -> Estimate | None:
    """Mean of value(one of ours) - value(one of the others) over the (target, seed) pairs that
    both have; None if they have none in common. Seeds may be numbers or text."""
    a = {(row["target"], str(row["seed"])): value(row) for row in ours}
    b = {(row["target"], str(row["seed"])): value(row) for row in others}
    common = sorted(a.keys() & b.keys())
    if not common:
        return None
    return mean_of_pairs([(pair[0], a[pair] - b[pair]) for pair in common])


def gain(ours: dict[tuple[str, str], float], other: dict[tuple[str, str], float]) -> Gain | None:
    """How much higher the mean of ours is than the other's, over the {(objective, seed): value}
    that both have; None if they have none in common."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for objective, seed in sorted(ours.keys() & other.keys()):
        pair = ours[objective, seed], other[objective, seed]
        pairs.setdefault(objective, []).append(pair)
    if not pairs:
        return None
    everything = [pair for of_objective in pairs.values() for pair in of_objective]
    percent = percent_higher(everything)
    if len(pairs) == 1:
        by_seed = [percent_higher([pair]) for pair in everything]
        return Gain(percent, min(by_seed), max(by_seed), by_seed, 1, len(everything))
    return Gain(percent, *interval(pairs, percent_higher), [], len(pairs), len(everything))


def percent_higher(pairs: list[tuple[float, float]]) -> float:
    """By how many percent the sum of the first numbers is higher than that of the second ones."""
    return 100 * (sum(a for a, _ in pairs) / max(1e-9, sum(b for _, b in pairs)) - 1)
