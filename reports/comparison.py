"""Many runs as a page: their tables, and curves with the spread over seeds.

    python -m reports runs/* --html FILE
"""
from __future__ import annotations

import statistics

from reports.charts import comparison_chart, library, picture, score_scale
from reports.labels import base_name
from reports.markup import columns, document, esc, figure, soft, table
from reports.pages import ZOOM
from reports.records import RunFiles, lowest_is_best
from reports.tables import Table, grouped

SCORE, SOLVED, VALID = ("best score so far", "share of searches solved",
                        "share of valid candidates among those drawn")


def comparison_page(tables: list[Table], rows: list[dict], runs: list[RunFiles]) -> str:
    """The page as HTML. rows, runs: the finished runs whose curves are drawn, and their rows; they
    are those of the tables."""
    longest: dict[tuple, int] = {}      # of searches of so many steps some draw more than others
    for row in rows:
        key = row["task"], row["protocol"]
        longest[key] = max(longest.get(key, 0), row["limit"])
    curves = [curves_of(row | {"limit": longest[row["task"], row["protocol"]]}, run)
              for row, run in zip(rows, runs)]
    methods = sorted({row["method"] for row in rows},
                     key=lambda method: (base_name(method) != "migrate", method))
    charts, data = {}, {}
    parts = [f"<h1>{len(runs)} runs</h1>",
             *(table(one, f"runs-{i}.csv") for i, one in enumerate(tables, 1)),
             f'<p class="soft scripted" hidden>{esc(ZOOM)}</p>']
    for (task, protocol), chosen in grouped(curves, "task", "protocol").items():
        targets, seeds = ({curve[name] for curve in chosen} for name in ("target", "seed"))
        parts += [f"<h2>{esc(task)}, {esc(protocol)}</h2>",
                  soft(f"Runs: {len(chosen)}, targets: {len(targets)}, seeds: {len(seeds)}. A "
                       "seed's curve is the mean over its targets; lines are means over seeds, "
                       "bands reach from the least seed to the greatest.")]
        for title in (SCORE, SOLVED, VALID):
            drawn = mean_curves([curve for curve in chosen if curve[title]], title)
            if title == SOLVED and not any(row["mean"] for row in drawn):
                continue
            if drawn:
                what = "% of the search" if title == VALID else chosen[0]["what"]
                scale = score_scale([row[key] for row in drawn for key in ("low", "high")])
                name = f"chart-{len(charts)}"
                used = [method for method in methods if any(r["method"] == method for r in drawn)]
                charts[name] = comparison_chart(methods, used, what, title, scale)
                data[f"curves:{name}"] = columns(drawn)
                parts.append(figure(name, f"curves:{name}", picture(charts[name], curves=drawn)))
    return document(f"{len(runs)} runs", "".join(parts), charts, data, library())


def curves_of(row: dict, run: RunFiles) -> dict:
    """The row of a finished run, the points [(x, y)] of its curves, and `what` was fixed."""
    what = "evaluations" if run.record["config"]["budget"] else "proposals"
    grid, shares = progress(run, row["limit"]), valid_shares(run.steps)
    xs = [row["limit"] * k / (len(grid) - 1) for k in range(len(grid))]
    return row | {"what": what, SCORE: [(x, best) for x, (best, _) in zip(xs, grid)],
                  SOLVED: [(x, solved) for x, (_, solved) in zip(xs, grid)],
                  VALID: [(100 * (k + 0.5) / len(shares), share)
                          for k, share in enumerate(shares)]}


def progress(run: RunFiles, limit: int, n: int = 100) -> list[tuple[float, float]]:
    """(best score so far, 1.0 if solved else 0.0) after 0, 1/n, .., n/n of `limit`, which counts
    unique evaluations if the run has a budget of them, else proposals."""
    evaluations, summary = run.evaluations, run.summary
    n_warm = sum(e.step == 0 for e in evaluations)
    grid, best, solved, used = [], None, 0.0, 0
    for k in range(n + 1):
        while used < len(evaluations):
            e = evaluations[used]
            cost = e.proposal
            if run.record["config"]["budget"]:
                cost = max(0, used + 1 - n_warm)
            if cost > limit * k / n:
                break
            if e.valid and (best is None or e.worth > best.worth):
                best = e
            if e.candidate == summary["solution"]:
                solved = 1.0
            used += 1
        grid.append((before_any(evaluations) if best is None else best.score, solved))
    return grid


def before_any(evaluations: list) -> float:
    """The score before there is a valid candidate: 0, or the worst one if 0 may be a good one."""
    valid = [e for e in evaluations if e.valid]
    if lowest_is_best(evaluations) or any(e.score < 0 for e in valid):
        return min(valid, key=lambda e: e.worth).score if valid else 0.0
    return 0.0


def valid_shares(steps: list[dict], n: int = 20) -> list[float]:
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
    return [sum(valid for valid, _ in part) / max(1, sum(n for _, n in part)) for part in parts]


def mean_curves(runs: list[dict], title: str) -> list[dict]:
    """The rows of a chart: of each method and x the mean over its seeds of the mean over a seed's
    targets, the least and the greatest seed."""
    seeds: dict[str, dict] = {}
    for run in runs:
        seeds.setdefault(run["method"], {}).setdefault(str(run["seed"]), []).append(run[title])
    rows = []
    for method, of_method in sorted(seeds.items()):
        means = [[statistics.fmean(y for _, y in points) for points in zip(*curves)]
                 for curves in of_method.values()]
        xs = [x for x, _ in next(iter(of_method.values()))[0]]
        rows += [{"x": round(x, 2), "method": method, "mean": round(statistics.fmean(ys), 5),
                  "low": round(min(ys), 5), "high": round(max(ys), 5), "seeds": len(ys)}
                 for x, ys in zip(xs, zip(*means))]
    return rows
