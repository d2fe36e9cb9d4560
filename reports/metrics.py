"""The rows of the charts of a training: what its steps logged, thinned out."""
from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from reports.colours import IN_GROUPS, ORIGINS, OTHER
from runlog.ledger import GREEDY

SECONDS = ("sampling", "scoring", "training")
MOST = 100      # points of a line
BARS = 60


def of_step(key: str) -> Callable[[dict], dict[str, float]]:
    """Reads one value from a line of steps.jsonl."""
    def value(step: dict):
        return {"all": step[key]} if key in step else {}
    return value


def by_origin(key: str) -> Callable[[dict], dict[str, float]]:
    """Reads one value for each origin from a line of steps.jsonl."""
    def value(step: dict):
        return {origin: step[origin][key] for origin in ORIGINS if key in step.get(origin, {})}
    return value


def seconds(step: dict) -> dict[str, float]:
    """What a step spent on each of its parts."""
    return {name: step["seconds"][name] for name in SECONDS if name in step.get("seconds", {})}


# name -> how a line of steps.jsonl gives it ({series: value}), and what it means
GLOSSARY = {
    "mean score": (by_origin("score_mean"),
                   "of all that a step drew (repeats and invalid ones included) or replayed. "
                   "Training should raise it."),
    "entropy": (of_step("entropy"),
                "of the policy's next-token predictions under the task prompt, in nats. "
                "Towards 0: it has collapsed on a few candidates."),
    "log-probability": (by_origin("logprob"),
                        "mean per token under the task prompt, before the update. Neighbours and "
                        "replays were not sampled from it: a low value says how far off-policy "
                        "they are."),
    "clip fraction": (by_origin("clip_fraction"),
                      "share of tokens whose gradient the clip took, in the last inner iteration "
                      "(0 with a single one)."),
    "gradient norm": (of_step("grad_norm"), "before it is clipped at 1."),
    "loss": (of_step("loss"),
             "near 0 by construction: advantages sum to zero. Not a measure of progress."),
    "learning rate": (of_step("lr"),
                      "falls linearly to 0. Steps whose scores are all equal are skipped."),
    "seconds": (seconds, "of a step: sampling, scoring, training."),
}


def metric_rows(name: str, steps: list[dict]) -> list[dict]:
    """The rows of one quantity of GLOSSARY: {step, value, series}, at most MOST of each series."""
    value, _ = GLOSSARY[name]
    series: dict[str, list] = {}
    for step in steps:
        for key, y in value(step).items():
            series.setdefault(key, []).append((step["step"], y))
    return [{"step": x, "value": float(f"{y:.5g}"), "series": key}
            for key, points in series.items() for x, y in thinned(points)]


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST points, each the mean of its share."""
    size = math.ceil(len(points) / MOST) or 1
    parts = [points[i:i + size] for i in range(0, len(points), size)]
    return [(round(statistics.fmean(x for x, _ in part), 1), statistics.fmean(y for _, y in part))
            for part in parts]


def parts_of(step: dict, origin: str) -> list[dict]:
    """What a line of steps.jsonl says of an origin; of OTHER, of every one that a fork made up."""
    if origin != OTHER:
        return [step[origin]] if origin in step else []
    return [part for name, part in step.items()
            if isinstance(part, dict) and name not in (*ORIGINS, "seconds")]


def group_rows(steps: list[dict]) -> list[dict]:
    """What the steps drew and replayed, by origin, in at most BARS bars of means over some steps.
    Repeats and invalid ones stand apart."""
    size = math.ceil(len(steps) / BARS)
    rows = []
    for start in range(0, len(steps), size):
        some = steps[start:start + size]
        for place, origin in enumerate((*IN_GROUPS, OTHER)):
            parts = [part for step in some for part in parts_of(step, origin)]
            n = sum(part["n"] for part in parts) / len(some)
            wasted = 0.0
            if origin != GREEDY:
                wasted = sum(min(p["n"], p["repeats"] + p["invalid"]) for p in parts) / len(some)
            for kind, amount in (("new", n - wasted), ("repeats, invalid", wasted)):
                if amount:
                    rows.append({"first": some[0]["step"], "from": start, "to": start + len(some),
                                 "origin": origin, "kind": kind, "n": round(amount, 3),
                                 "order": 2 * place + (kind != "new")})
    return rows
