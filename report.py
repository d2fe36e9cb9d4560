"""Turns run folders into a table: how often, how soon and how well each method found what it searched for.

    python report.py runs/*                                 # or any folders, searched for runs at any depth
    python report.py results/wordsearch --csv results/wordsearch.csv
    python report.py runs/* --html comparison.html          # with curves, as a page
    python report.py runs/NAME --html                       # makes runs/NAME/report.html again
    python report.py runs/NAME --svg search.svg             # its search curve alone

One row per (protocol, method with the settings that its command line changed): the protocol is the preset and the count
that was fixed. Guesses are proposals where proposals were fixed (repeats count) and unique evaluations where evaluations
were; beyond the fixed count nothing counts. Intervals: 95%, bootstrap over targets (the seeds of a target stay together).
"""
from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import random
import re
import statistics
import sys
from pathlib import Path

import page
from runs import exit_code, read_jsonl
from tasks import UserError

FIELDS = ["task", "target", "group", "protocol", "method", "seed", "limit", "guesses", "found", "best_score", "best",
          "evaluations", "proposals", "repeats", "invalid", "steps", "seconds"]


def read_run(folder: Path, groups: dict[str, str]) -> dict:
    """One row of the CSV: what a finished run found within its limit of guesses."""
    s = json.loads((folder / "summary.json").read_text())
    file = json.loads((folder / "config.json").read_text())
    config = file["config"]
    budget = config.get("budget")
    limit = budget or config["proposals"]
    evaluations = [e for e in read_jsonl(folder / "evals.jsonl") if e["step"] == 0 or budget or e["proposal"] <= limit]
    best = max((e for e in evaluations if e["valid"]), key=lambda e: (e["score"], -e["index"]))
    found = s["solved"] and best["candidate"] == s["best"]
    guesses = best["index"] + 1 - s["warm_start"] if budget else best["proposal"]
    preset = s["preset"] if s.get("model", "tiny") == "tiny" else f"{s['model']} {s['preset']}"
    return {"task": s["task"], "target": s["target"], "group": groups.get(s["target"], "other"),
            "protocol": f"{preset}, {limit} {'evaluations' if budget else 'proposals'}",
            "method": label(s["method"], file.get("command", [])), "seed": s["seed"], "limit": limit,
            "guesses": guesses if found else "", "found": int(found),
            "best_score": round(best["score"], 4), "best": best["candidate"],
            **{k: s[k] for k in ("evaluations", "proposals", "repeats", "invalid", "steps", "seconds")}}


def label(method: str, command: list[str]) -> str:
    """A method, with what its command line changed of the settings: migrate (4,1,5) top-k=1."""
    told_elsewhere = ("task target method seed preset model candidates-per-completion proposals steps budget out resume "
                      "track").split()
    flags = dict(re.findall(r"--([^\s=]+)((?:[ =](?!--)\S+)*)", " ".join(command)))
    counts = [flags.pop(f"n-{name}")[1:] for name in ("on-policy", "greedy", "neighbors") if f"n-{name}" in flags]
    others = [f"{name}{value.replace(' ', '=')}" for name, value in flags.items() if name not in told_elsewhere]
    return " ".join([method, *([f"({','.join(counts)})"] if counts else []), *others])


def interval(by_target: dict[str, list[float]], statistic, draws: int = 2000) -> tuple[float, float]:
    """95% bootstrap interval of statistic(all values), targets drawn with replacement."""
    rng, targets, values = random.Random(0), list(by_target), []
    for _ in range(draws):
        values.append(statistic([x for t in rng.choices(targets, k=len(targets)) for x in by_target[t]]))
    values.sort()
    return values[int(0.025 * draws)], values[int(0.975 * draws)]


def with_interval(rows: list[dict], value, statistic=statistics.mean, form="{:.2f}") -> str:
    by_target: dict[str, list[float]] = {}
    for row in rows:
        by_target.setdefault(row["target"], []).append(value(row))
    low, high = interval(by_target, statistic)
    return f"{form.format(statistic([value(r) for r in rows]))} [{form.format(low)}, {form.format(high)}]"


def table(rows: list[dict]) -> str:
    """Markdown: one line per (group of targets, protocol, method), in the order of the rows."""
    lines = ["| targets | protocol | method | runs | found | by 250 guesses | median guesses | best score | unique/proposals |",
             "|---|---|---|---|---|---|---|---|---|"]
    keys = list(dict.fromkeys((r["group"], r["protocol"], r["method"]) for r in rows))
    for key in keys:
        chosen = [r for r in rows if (r["group"], r["protocol"], r["method"]) == key]
        guesses = [float(r["guesses"]) if int(r["found"]) else math.inf for r in chosen]
        median = statistics.median_low(guesses)
        unique = sum(int(r["evaluations"]) for r in chosen) / max(1, sum(int(r["proposals"]) for r in chosen))
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {len(chosen)} "
                     f"| {with_interval(chosen, lambda r: 100 * int(r['found']), form='{:.0f}%')} "
                     f"| {with_interval(chosen, lambda r: 100 * (int(r['found']) and float(r['guesses']) <= 250), form='{:.0f}%')} "
                     f"| {'not found' if median == math.inf else f'{median:.0f}'} "
                     f"| {with_interval(chosen, lambda r: float(r['best_score']), form='{:.3f}')} | {unique:.2f} |")
    return "\n".join(lines)


def difference(rows: list[dict], protocols: tuple[str, str], methods: tuple[str, str], value) -> str:
    """Paired difference of two (protocol, method) rows over the (target, seed) pairs that both have, with interval."""
    a, b = ({(r["target"], r["seed"]): value(r) for r in rows if (r["protocol"], r["method"]) == key}
            for key in zip(protocols, methods))
    pairs = [{"target": t, "d": a[t, s] - b[t, s]} for t, s in a.keys() & b.keys()]
    return with_interval(sorted(pairs, key=lambda p: p["target"]), lambda r: r["d"], form="{:+.1f}") if pairs else "-"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, folders that hold them, or CSV files of runs")
    parser.add_argument("--csv", type=Path, help="write the runs, one a line, to this file")
    parser.add_argument("--against", default="migrate", help="the method (as in the table) whose differences are shown")
    parser.add_argument("--targets", type=Path, default=Path(__file__).parent / "data" / "wordsearch_targets.json")
    parser.add_argument("--html", nargs="?", const="", metavar="FILE", help="a page: of one run (default: its report.html, "
                        "finished or not), or a comparison of many (default: comparison.html)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="the search curve of one run as a picture")
    args = parser.parse_args(argv)
    if args.html is None and args.svg is None:
        return compare(args)
    folders = [p.parent for path in args.paths for p in sorted(path.rglob("config.json"))
               if (p.parent / "evals.jsonl").exists()]
    if not folders or (args.svg and len(folders) > 1):
        raise UserError(f"{len(folders)} runs in {', '.join(map(str, args.paths))}: name "
                        + ("one run folder" if args.svg else "a run folder, or folders that hold some"))
    if args.svg:
        args.svg.write_text(page.standalone(page.search_curve(page.read(folders[0])[1])), encoding="utf-8")
        print(args.svg)
    elif len(folders) == 1:
        print(page.write(folders[0], args.html))
    else:
        rows = {folder: read_run(folder, {}) for folder in folders if (folder / "summary.json").exists()}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            compare(args)
        print(printed.getvalue(), end="")
        file = Path(args.html or "comparison.html")
        file.write_text(page.comparison_page(rows, printed.getvalue()), encoding="utf-8")
        print(file)


def compare(args) -> None:
    groups = {word: group for group, words in json.loads(args.targets.read_text()).items() for word in words}
    rows = []
    for path in args.paths:
        if path.suffix == ".csv":
            rows += list(csv.DictReader(path.open()))
        else:
            rows += [read_run(p.parent, groups) for p in sorted(path.rglob("summary.json"))]
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
    print(table(sorted(rows, key=lambda r: (r["group"], r["protocol"], r["method"]))))
    for protocol, group in sorted({(r["protocol"], r["group"]) for r in rows if r["method"] == args.against}):
        chosen = [r for r in rows if (r["protocol"], r["group"]) == (protocol, group)]
        for other in sorted({r["method"] for r in chosen} - {args.against}):
            d = difference(chosen, (protocol, protocol), (args.against, other), lambda r: 100 * int(r["found"]))
            print(f"{group}, {protocol}: found, {args.against} minus {other}, paired by target and seed: {d} points")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
