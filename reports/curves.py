"""The pictures of a run's page: the search, the groups, the metrics of every step."""
from __future__ import annotations

import math
from collections.abc import Callable

from reports.markup import esc, short
from reports.plots import Plot, running_mean, thinned, up_to
from runlog.ledger import GREEDY, NEIGHBOR, ON_POLICY, WARM_START, Evaluation

ORIGINS = {WARM_START: "warm start", ON_POLICY: "on-policy", NEIGHBOR: "neighbours",
           GREEDY: "greedy replays"}
SERIES = {"sampling": "m1", "scoring": "m0", "training": "m2"}      # colours
Placed = list[tuple[int, Evaluation]]       # evaluations with their places on the x axis


# ------------------------------------------------------------------------------------ the search

def search_curve(evaluations: list[Evaluation], width: int = 950, height: int = 400) -> str:
    """Score against evaluations: every candidate by its origin, the running mean of each origin,
    the best so far. The warm start lies left of 1."""
    n_warm = sum(e.step == 0 for e in evaluations)
    points = [(i + 1 - n_warm, e) for i, e in enumerate(evaluations)]
    highest = max((e.score for e in evaluations), default=0)
    left_end, right_end = 1 - n_warm if n_warm else 0, max(len(evaluations) - n_warm, 1)
    plot = Plot(width, height, (left_end, right_end), (0, up_to(highest)), "evaluations",
                (26, 150, 36, 42))
    border = plot.x(0.5)
    if n_warm:
        plot.add(f'<path d="M{border:.1f} {plot.top}V{height - plot.bottom}" class="grid" '
                 'stroke-dasharray="3 3"/>')
    draw_dots(plot, points)
    if n_warm:
        anchor = "end" if border - plot.left > 70 else "start"
        plot.add(plot.label(border, 14, "warm start \u2190", anchor, colour=WARM_START))
    labels = draw_means(plot, points) + draw_best_so_far(plot, points)
    plot.end_labels(labels)
    return plot.svg("Score of every evaluation, mean by origin and best so far")


def draw_dots(plot: Plot, points: Placed) -> None:
    """A dot for every evaluation, in the colour of its origin; about 2,500 at most."""
    shown = points[::max(1, len(points) // 2500)]
    for origin in ORIGINS:
        dots = "".join(f"M{plot.x(x):.1f} {plot.y(e.score):.1f}h0"
                       for x, e in shown if e.origin == origin)
        if dots:
            plot.add(f'<path d="{dots}" style="stroke:var(--{origin});stroke-width:4.5;'
                     'stroke-linecap:round;opacity:.3"/>')


def draw_means(plot: Plot, points: Placed) -> list[tuple[float, str, str]]:
    """The running mean of every origin that has 20 evaluations. Returns the labels of all."""
    labels = []
    for origin, name in ORIGINS.items():
        scores = [(x, e.score) for x, e in points if e.origin == origin]
        if not scores or origin == WARM_START:
            continue
        if len(scores) < 20:
            labels.append((scores[-1][1], name, origin))
            continue
        mean = running_mean(scores, max(10, len(scores) // 20))
        plot.line(mean, "mean halo", colour="paper")
        plot.line(mean, "mean", colour=origin)
        labels.append((mean[-1][1], f"{name}, mean", origin))
    return labels


def draw_best_so_far(plot: Plot, points: Placed) -> list[tuple[float, str, str]]:
    """The staircase of the best score so far and a circle for each record. Returns its label."""
    best, records = -1.0, []
    for x, e in points:
        if e.valid and e.score > best:
            best = e.score
            records.append((x, e))
    if not records:
        return []
    stairs = [*((x, e.score) for x, e in records), (points[-1][0], best)]
    plot.line(stairs, "best", steps=True)
    draw_records(plot, records)
    return [(best, f"best so far {best:.3f}", "ink")]


def draw_records(plot: Plot, records: Placed) -> None:
    """A circle for each record; short candidates are named where there is room, the last first."""
    free = math.inf         # labels may reach up to this pixel column
    for x, e in reversed(records):
        column, row, words = plot.x(x), plot.y(e.score), short(e.candidate, 99)
        plot.add(f'<circle cx="{column:.1f}" cy="{row:.1f}" r="4.5" style="fill:'
                 f'var(--{esc(e.origin)});stroke:var(--paper);stroke-width:1.5">'
                 f"<title>{esc(words)}: {e.score:.4f}</title></circle>")
        if len(words) <= 18 and column < free and column - 7 * len(words) > plot.left:
            plot.add(plot.label(column - 6, row - 8, words, "end", "halo"))
            free = column - 6.6 * len(words) - 12


# ------------------------------------------------------------------------------------ the groups

def composition(steps: list[dict]) -> str:
    """What each step drew and replayed, by origin; the paler part is repeats and invalid ones.
    steps: lines of steps.jsonl, at least one."""
    size = math.ceil(len(steps) / 60)
    highest = max(sum(step.get(origin, {}).get("n", 0) for origin in ORIGINS) for step in steps)
    plot = Plot(950, 210, (0, len(steps)), (0, highest), "steps", (12, 150, 36, 42))
    labels = []
    for start in range(0, len(steps), size):
        labels = draw_bar(plot, start, steps[start:start + size])
    plot.end_labels(labels)         # of the last bar
    return plot.svg("Candidates of each step by origin")


def draw_bar(plot: Plot, start: int, steps: list[dict]) -> list[tuple[float, str, str]]:
    """One bar for some steps, of the means over them. Returns its labels."""
    x, base, labels = plot.x(start), 0.0, []
    width = max(plot.x(start + len(steps)) - x - 1, 0.8)
    for origin in (NEIGHBOR, ON_POLICY, GREEDY):
        parts = [step[origin] for step in steps if origin in step]
        n = sum(part["n"] for part in parts) / len(steps)
        wasted = 0.0
        if origin != GREEDY:
            wasted = sum(min(p["n"], p["repeats"] + p["invalid"]) for p in parts) / len(steps)
        for height, opacity, name in ((n - wasted, 0.9, ORIGINS[origin]),
                                      (wasted, 0.32, "repeats, invalid")):
            if not height:
                continue
            upper, lower = plot.y(base + height), plot.y(base)
            plot.add(f'<rect x="{x:.1f}" y="{upper:.1f}" width="{width:.1f}" '
                     f'height="{lower - upper:.1f}" '
                     f'style="fill:var(--{origin});opacity:{opacity}"/>')
            base += height
            labels.append((base - height / 2, name, origin))
    return labels


# ----------------------------------------------------------------------------------- the metrics

def of_step(key: str) -> Callable[[dict], float | dict | None]:
    """Reads one value from a line of steps.jsonl."""
    def value(step: dict):
        return step.get(key)
    return value


def by_origin(key: str) -> Callable[[dict], dict[str, float]]:
    """Reads one value for each origin from a line of steps.jsonl."""
    def value(step: dict):
        return {origin: step[origin][key] for origin in ORIGINS if key in step.get(origin, {})}
    return value


# name -> how a line of steps.jsonl gives it (one value, or several by name), and what it means
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
    "seconds": (of_step("seconds"), "of a step: sampling, scoring, training."),
}


def metric(name: str, steps: list[dict]) -> str:
    """A small plot of one quantity of GLOSSARY over the steps, with what it means; empty if the
    run has none of it."""
    value, meaning = GLOSSARY[name]
    series = {key: thinned(points) for key, points in metric_series(value, steps).items()}
    if not series:
        return ""
    single = "" in series
    values = [y for points in series.values() for _, y in points]
    low, high = min(0, *values) if min(values) >= 0 else min(values), max(values)
    plot = Plot(310, 150, (0, steps[-1]["step"]), (low, high if high > low else low + 1),
                margin=(8, 12 if single else 74, 22, 46))
    for key, points in series.items():
        plot.line(points, colour=SERIES.get(key, key or "ink"))
    if not single:
        plot.end_labels([(points[-1][1], ORIGINS.get(key, key).split()[0], SERIES.get(key, key))
                         for key, points in series.items()])
    return (f"<figure>{plot.svg(name)}<figcaption><b>{name}</b> {meaning}</figcaption>"
            "</figure>")


def metric_series(value: Callable, steps: list[dict]) -> dict[str, list[tuple[float, float]]]:
    """{name: [(step, value)]} of one quantity, without what is missing or infinite; the name is
    empty where a step has a single value."""
    series: dict[str, list] = {}
    for step in steps:
        found = value(step)
        for key, y in (found if isinstance(found, dict) else {"": found}).items():
            if y is not None and math.isfinite(y):
                series.setdefault(key, []).append((step["step"], y))
    return series
