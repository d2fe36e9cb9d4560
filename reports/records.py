"""The files of a run, read in one place.

They may be a stranger's, and hold anything. What is not of the type that the search writes is left
out here, and what cannot be printed becomes a dot, so that nothing behind this file meets it.
Markup in a text stays as it is: reports/markup.py escapes it.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import tasks
from domains.contract import LARGEST
from runlog import ending
from runlog.completions import read_completions
from runlog.errors import UserError, printable, printable_in
from runlog.ledger import Evaluation, evaluation_in, read_jsonl, whole_lines
from runlog.settings import COUNTS

LARGEST_COUNT = 2**53   # of counts: JavaScript's numbers hold those below exactly
STEP_NUMBERS = ("entropy", "grad_norm", "loss", "lr")


class RunFiles(NamedTuple):
    folder: Path
    record: dict                    # config.json: config, modifiers, options, command, ..
    evaluations: list[Evaluation]   # evals.jsonl, in the order of the archive
    steps: list[dict]               # steps.jsonl; empty for searches that log no steps
    completions: list[dict]         # completions.jsonl; empty for searches without a policy
    summary: dict                   # summary.json; empty while the run is not finished


def read(folder: Path) -> RunFiles:
    """All files of a run, finished or not. Nothing is written: the run may be going on.

    Raises UserError if one of them cannot be read. A line of a ledger that is none is left out.
    """
    try:
        record = clean_record(json_object(folder / "config.json"))
        summary = {}
        if is_finished(folder):
            summary = clean_summary(json_object(folder / "summary.json"), record["config"])
        return RunFiles(folder, record, read_evaluations(folder),
                        clean_steps(read_jsonl(folder / "steps.jsonl")),
                        clean_completions(folder), summary)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}") from error


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among some folders and below them, finished or not, in order."""
    return [file.parent for path in paths for file in sorted(path.rglob("config.json"))
            if (file.parent / "evals.jsonl").exists()]


def is_finished(folder: Path) -> bool:
    return (folder / "summary.json").exists()


def task_of(record: dict, task_file: str = "") -> tasks.Task | None:
    """The task that a config.json describes, or None where it cannot be had.

    The record may be a stranger's: a task of its own is code, and so is ARC's prelude. That code is
    run only if the user names it, as task_file. A package may be missing, an option may be none.
    Whoever asks can do without the task, so every error means None.
    """
    try:
        name, options = record["config"]["task"], dict(record["options"])
        # Nor does a stranger say how many processes there are, or how long they run.
        options = {name: value for name, value in options.items()
                   if name not in ("arc_prelude", "workers") and not name.endswith("_seconds")}
        if name not in tasks.TASKS and not task_file:
            return None
        return tasks.load_task_class(name if name in tasks.TASKS else task_file)(**options)
    except Exception:
        return None


# ------------------------------------------------------------------------------------ JSON values

def json_object(path: Path) -> dict:
    """The JSON object in a file, its texts printable. Raises UserError if there is none."""
    return printable_in(ending.json_object(path))


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def is_number(value) -> bool:
    """Whether a value is a number that can be added up and drawn."""
    return (isinstance(value, int | float) and not isinstance(value, bool)
            and -LARGEST <= value <= LARGEST)       # NaN is not between


def is_count(value) -> bool:
    return isinstance(value, int) and is_number(value) and 0 <= value <= LARGEST_COUNT


def is_text(value) -> bool:
    return isinstance(value, str)


def typed(values: dict, kind, defaults: dict) -> dict:
    """{name: values[name], or its default where that is not of the kind}. kind: one of the
    functions above."""
    return {name: values[name] if kind(values.get(name)) else default
            for name, default in defaults.items()}


def names_in(values: dict, defaults: dict) -> dict:
    """typed() of texts that stand in one line."""
    found = typed(values, is_text, defaults)
    return {name: in_one_line(text) for name, text in found.items()}


def dict_in(values: dict, name: str) -> dict:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def texts_in(values: dict, name: str) -> list[str]:
    found = values.get(name)
    return list(filter(is_text, found)) if isinstance(found, list) else []


# --------------------------------------------------------------------------------- the five files

def clean_record(record: dict) -> dict:
    """What config.json holds, with every part, and with known settings of their types."""
    config = dict_in(record, "config")
    config |= names_in(config, dict.fromkeys(("task", "model", "method", "preset"), ""))
    config |= typed(config, is_count, {"seed": 0, "budget": None, "proposals": None, "steps": None})
    config |= typed(config, is_count, {name: 0 for name in COUNTS if name in config})
    modifiers = {name: values for name, values in dict_in(record, "modifiers").items()
                 if isinstance(values, dict)}
    parts = {name: dict_in(record, name) for name in ("run", "options", "versions")}
    return {"config": config, "modifiers": modifiers, **parts,
            "command": texts_in(record, "command"),
            "program": texts_in(record, "program") or ["migrate.py"],
            "given": texts_in(record, "given"),
            **names_in(record, {"date": "", "machine": ""})}


def clean_summary(summary: dict, config: dict) -> dict:
    """What summary.json holds; what it lacks comes from the settings."""
    texts = {name: config[name] for name in ("task", "method", "model", "preset")}
    counts = dict.fromkeys(("evaluations", "proposals", "repeats", "invalid", "warm_start",
                            "steps"), 0)
    solved = summary.get("solved") is True
    solution = summary.get("best") if solved else None      # of an older version: it says less
    return summary | names_in(summary, texts | {"target": "", "stop": ""}) | (
        typed(summary, is_text, {"best": None})
        | typed(summary, is_count, counts | {"seed": config["seed"], "best_at_proposal": None})
        | typed(summary, is_number, {"best_score": 0.0, "seconds": 0.0})
        | typed(summary, is_text, {"solution": solution if is_text(solution) else None})
        | {"solved": solved, "pass@2": summary.get("pass@2") is True})


def read_evaluations(folder: Path) -> list[Evaluation]:
    """The evaluations of a run in the order of the archive."""
    found = []
    for line in whole_lines(folder / "evals.jsonl"):
        e = evaluation_in(line)
        if e and is_number(e.score) and all(map(is_count, (e.index, e.step, e.proposal))):
            found.append(replace(e, candidate=printable(e.candidate), origin=in_one_line(
                printable(e.origin)), parents=list(map(printable, e.parents))))
    return sorted(found, key=lambda e: e.index)


def clean_steps(lines: list[dict]) -> list[dict]:
    """Lines of steps.jsonl: their numbers of STEP_NUMBERS, and the numbers of each origin. An
    origin may be one that a fork made up."""
    steps = []
    for line in filter(lambda line: is_count(line.get("step")), lines):
        step = typed(line, is_count, {"step": 0, "proposals": 0})
        step |= {name: line[name] for name in STEP_NUMBERS if is_number(line.get(name))}
        for name, part in line.items():
            if name not in step and name not in STEP_NUMBERS and isinstance(part, dict):
                step[name] = {key: value for key, value in part.items() if is_number(value)}
                if name != "seconds":
                    step[name] |= typed(part, is_count, {"n": 0, "repeats": 0, "invalid": 0})
        steps.append(step)
    return steps


def clean_completions(folder: Path) -> list[dict]:
    """Lines of completions.jsonl, each with its prompt."""
    try:
        lines = list(map(printable_in, read_completions(folder)))
    except (KeyError, TypeError, RecursionError):       # a line without its fields
        return []
    found = []
    for line in lines:
        line |= typed(line, is_text, {"origin": "", "prompt": "", "completion": ""})
        line |= typed(line, is_count, {"step": 0})
        read = line.get("read") if isinstance(line.get("read"), list) else []
        line["read"] = [typed(one, is_text, {"candidate": ""}) | typed(one, is_number, {"score": 0})
                        | {flag: one.get(flag) is True for flag in ("valid", "repeat")}
                        for one in read if isinstance(one, dict)]
        found.append(line | {"cut": line.get("cut") is True})
    return found


def lowest_is_best(evaluations: list[Evaluation]) -> bool:
    return any(e.info.get("lower_is_better") is True for e in evaluations)
