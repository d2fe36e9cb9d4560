"""The end of a search on the screen: what was found, what it cost, what to try next."""
from __future__ import annotations

import json
import shlex
from pathlib import Path

from runlog.errors import UserError, one_line, printable_in
from runlog.flags import LENGTHS, without

STOPS = {"solved": "solved", "budget": "the budget is spent", "steps": "all steps done",
         "stale": "nothing new was proposed for many steps"}


def json_object(path: Path) -> dict:
    """The JSON object in a file. Raises UserError if there is none, as after a power cut."""
    try:
        if path.exists() and not path.is_file():        # to read a pipe would take for ever
            raise ValueError("it is no file")
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        way_out = f"; remove it, then --resume {path.parent}" * (path.name == "summary.json")
        raise UserError(f"{path} cannot be read: {one_line(error)}{way_out}") from error


def print_summary(folder: Path, task, from_python: bool = False) -> None:
    """What a finished run found, on the screen. from_python: it was not started by a command.
    Raises UserError where the files of the run are damaged."""
    found, record = (printable_in(json_object(folder / name))
                     for name in ("summary.json", "config.json"))
    try:
        lines = summary_lines(folder, found, record, task, from_python)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError,
            StopIteration) as error:        # they may be a stranger's
        raise UserError(f"what {folder} found cannot be read ({type(error).__name__}: "
                        f"{one_line(error)}): remove its summary.json, then --resume {folder}"
                        ) from error
    print(*lines, sep="\n")


def summary_lines(folder: Path, s: dict, record: dict, task, from_python: bool) -> list[str]:
    """What print_summary prints. s, record: what summary.json and config.json hold."""
    asked = record["options"].get("target", "")
    lines = [f"{asked or s['task']}: {verdict(s, task)}"]
    if s["target"] and s["target"] not in (asked, s["best"]):
        lines.append(f"the target was {s['target']}")
    unreadable = max(0, s["proposals"] - s["evaluations"] - s["repeats"])
    lines.append(f"{s['proposals']} proposals ({s['evaluations']} different candidates scored, "
                 f"{s['repeats']} repeats, {unreadable} unreadable; {s['invalid']} invalid in "
                 f"all), {s['steps']} steps, {s['seconds']:.0f} s")
    names = list(s)
    of_task = names[names.index("seconds") + 1:]        # what the task's conclude() added
    more = [f"{name} {s[name]}" for name in of_task if not isinstance(s[name], list)]
    if more:
        lines.append(", ".join(more))
    if is_long(s["best"]):
        lines.append(f"\n{s['best']}\n")
    if not s["solved"] and task.solved_at is not None and "program" not in record:
        lines.append("\n  ".join(["to try next:", *to_try(record, from_python)]))
    report = folder / "report.html"
    return [*lines, f"report: {report}" if report.exists() else f"run: {folder}"]


def verdict(s: dict, task) -> str:
    """Whether it was found, and the best candidate. s: what is in summary.json."""
    if s["best"] is None:
        return f"not found, {STOPS[s['stop']]}; no candidate was valid"
    shown = "(below)" if is_long(s["best"]) else repr(s["best"])
    best = f"{shown} with score {s['best_score']:.4f}, proposal {s['best_at_proposal']}"
    if s["solved"]:
        return f"found {best}"
    if task.solved_at is None:
        return f"{STOPS[s['stop']]}; the best is {best}"
    return f"not found, {STOPS[s['stop']]}; the closest is {best}"


def is_long(candidate: str | None) -> bool:
    """Whether a candidate has several lines: these read better as they are."""
    return "\n" in (candidate or "")


def to_try(record: dict, from_python: bool) -> list[str]:
    """Searches that may find more: another seed, twice as long, another method."""
    config = record["config"]
    length = next(name for name in ("budget", "steps", "proposals") if config.get(name))
    others = {"migrate+novelty": "migrate+screen+novelty",
              "migrate+screen+novelty": "ns+screen+novelty"}
    other = others.get(config["method"], "migrate+novelty")
    found = []
    for name, value, why in (("seed", config["seed"] + 1, "another seed"),
                             (length, 2 * config[length], "a longer search"),
                             ("method", other, "another method")):
        call = f"the same call with {name}={value!r}"
        if not from_python:
            too = LENGTHS if name == length else ()
            if name == "method":        # the settings of its modifiers go with it
                too = {one for own in record.get("modifiers", {}).values() for one in own}
            words = without({name, "out", "resume", *too}, record["command"])
            call = shlex.join(["python", "migrate.py", *words, f"--{name}", str(value)])
        found.append(f"{call}    # {why}")
    return found
