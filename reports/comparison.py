"""Many runs as a page: their tables, and curves with the spread over seeds.

    python -m reports runs/* --html FILE
"""
from __future__ import annotations

import statistics
from pathlib import Path

from reports.labels import base_name
from reports.markup import document, esc, soft, table
from reports.plots import Plot, up_to
from reports.records import RunFiles, read
from reports.rows import key_of, row_of
from reports.tables import Table, grouped

DASHES = ("", "8 4", "2 3", "12 4 2 4")     # they show a line that lies on another one


def comparison_page(tables: list[Table], folders: list[Path]) -> str:
    """The page as HTML. folders: finished runs, whose curves are drawn."""
    runs = list({key_of(run): run for run in map(curve_of, folders)}.values())
    parts = [f"<h1>{len(runs)} runs</h1>", *map(table, tables)]
    for (task, protocol), chosen in grouped(runs, "task", "protocol").items():
        targets, seeds = ({run[name] for run in chosen} for name in ("target", "seed"))
        parts += [f"<h2>{esc(task)}, {esc(protocol)}</h2>",
                  soft(f"Runs: {len(chosen)}, targets: {len(targets)}, seeds: {len(seeds)}. A "
                       "seed's curve is the mean over its targets; lines are means over seeds, "
                       "bands reach from the least seed to the greatest."),
                  comparison_curve(chosen, 0, "best score so far")]
        if any(run["grid"][-1][1] for run in chosen):
            parts.append(comparison_curve(chosen, 1, "share of searches solved"))
        drawing = [run for run in chosen if run["valid"]]
        if drawing:
            parts.append(valid_curve(drawing))
    return document(f"{len(runs)} runs", "".join(parts))


def curve_of(folder: Path) -> dict:
    """The row of a finished run and what its curves need: `grid`, and `what` was fixed."""
    run = read(folder)
    row = row_of(run, {})
    what = "evaluations" if run.record["config"].get("budget") else "proposals"
    grid = progress(run, row["limit"])
    return row | {"what": what, "grid": grid, "valid": valid_shares(run.steps)}


def progress(run: RunFiles, limit: int, n: int = 100) -> list[tuple[float, float]]:
    """(best score so far, 1.0 if solved else 0.0) after 0, 1/n, .., n/n of `limit`, which counts
    unique evaluations if the run has a budget of them, else proposals."""
    evaluations, summary = run.evaluations, run.summary
    budget = run.record["config"].get("budget")
    n_warm = sum(e.step == 0 for e in evaluations)
    grid, best, solved, used = [], 0.0, 0.0, 0
    for k in range(n + 1):
        while used < len(evaluations):
            e = evaluations[used]
            cost = max(0, used + 1 - n_warm) if budget else e.proposal
            if cost > limit * k / n:
                break
            best = max(best, e.score)
            if summary["solved"] and e.candidate == summary["best"]:
                solved = 1.0
            used += 1
        grid.append((best, solved))
    return grid


def valid_shares(steps: list[dict], n: int = 20) -> list[tuple[float]]:
    """The share of valid candidates among those that a search drew, in each of n equal parts of its
    steps. Empty for searches that log no steps, or fewer than n."""
    counts = []
    for step in steps:
        drawn = [part for origin, part in step.items()
                 if isinstance(part, dict) and "invalid" in part and origin != "greedy"]
        counts.append((sum(part["n"] - part["invalid"] for part in drawn),
                       sum(part["n"] for part in drawn)))
    parts = [counts[len(counts) * k // n:len(counts) * (k + 1) // n] for k in range(n)]
    if not all(parts):
        return []
    return [(sum(valid for valid, _ in part) / max(1, sum(n for _, n in part)),) for part in parts]


def valid_curve(runs: list[dict]) -> str:
    """How the share of valid candidates changes during a search, one line a method."""
    whole = [run | {"grid": run["valid"], "limit": 100, "what": "% of the search"} for run in runs]
    return comparison_curve(whole, 0, "share of valid candidates among those drawn")


def comparison_curve(runs: list[dict], which: int, y_label: str) -> str:
    """One line a method: the mean over its seeds of the mean over a seed's targets; the band
    reaches from the least seed to the greatest. which: 0 or 1, the part of `grid` that is drawn."""
    limit, n = runs[0]["limit"], len(runs[0]["grid"])
    xs = [limit * k / (n - 1) for k in range(n)]
    curves = seed_curves(runs, which)
    highest = max(max(curve) for seeds in curves.values() for curve in seeds)
    plot = Plot(950, 330, (0, limit), (0, up_to(highest)), runs[0]["what"])
    labels = []
    for number, (method, seeds) in enumerate(curves.items()):
        colour = f"m{number % 8}"
        columns = list(zip(*seeds))
        if len(seeds) > 1:
            plot.band(list(zip(xs, map(min, columns))), list(zip(xs, map(max, columns))), colour)
        mean = [statistics.fmean(ys) for ys in columns]
        plot.line(list(zip(xs, mean)), "mean", colour, dash=DASHES[number % len(DASHES)])
        labels.append((mean[-1], f"{method} {mean[-1]:.3f}", colour))
    plot.end_labels(labels)
    caption = f"<figcaption><b>{esc(y_label)}</b></figcaption>"
    return f"<figure>{plot.svg(y_label)}{caption}</figure>"


def seed_curves(runs: list[dict], which: int) -> dict[str, list[list[float]]]:
    """{method: [the curve of each seed, the mean over its targets]}; migrate comes first."""
    grids: dict[str, dict] = {}
    for run in runs:
        curve = [point[which] for point in run["grid"]]
        grids.setdefault(run["method"], {}).setdefault(run["seed"], []).append(curve)
    order = sorted(grids, key=lambda method: (base_name(method) != "migrate", method))
    return {method: [[statistics.fmean(ys) for ys in zip(*curves)]
                     for curves in grids[method].values()] for method in order}
