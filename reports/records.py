"""The files of a run, read in one place."""
from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import tasks
from runlog.completions import read_completions
from runlog.ledger import Evaluation, read_evaluations, read_jsonl


class RunFiles(NamedTuple):
    record: dict                    # config.json: config, modifiers, options, command, ..
    evaluations: list[Evaluation]   # evals.jsonl, in the order of the archive
    steps: list[dict]               # steps.jsonl; empty for searches that log no steps
    completions: list[dict]         # completions.jsonl; empty for searches without a policy
    summary: dict                   # summary.json; empty while the run is not finished


def read(folder: Path) -> RunFiles:
    """All files of a run, finished or not. Nothing is written: the run may be going on."""
    summary = folder / "summary.json"
    return RunFiles(
        record=json.loads((folder / "config.json").read_text()),
        evaluations=sorted(read_evaluations(folder), key=lambda e: e.index),
        steps=read_jsonl(folder / "steps.jsonl"),
        completions=read_completions(folder),
        summary=json.loads(summary.read_text()) if summary.exists() else {})


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
        options.pop("arc_prelude", None)
        if name not in tasks.TASKS and not task_file:
            return None
        return tasks.load_task_class(name if name in tasks.TASKS else task_file)(**options)
    except Exception:
        return None
