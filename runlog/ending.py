"""The end of a search on the screen: what was found, what it cost, what to try next."""
from __future__ import annotations

import json
import shlex
from pathlib import Path

from runlog.errors import printable_in
from runlog.flags import LENGTHS, without

STOPS = {"solved": "solved", "budget": "the budget is spent", "steps": "all steps done",
         "stale": "nothing new was proposed for many steps"}


def print_summary(folder: Path, task, from_python: bool = False) -> None:
    """What a finished run found, on the screen. from_python: it was not started by a command."""
    s = printable_in(json.loads((folder / "summary.json").read_text()))
    record = printable_in(json.loads((folder / "config.json").read_text()))
    asked = record["options"].get("target", "")
    print(f"{asked or s['task']}: {verdict(s, task)}")
    if s["target"] and s["target"] not in (asked, s["best"]):
        print(f"the target was {s['target']}")
    unreadable = max(0, s["proposals"] - s["evaluations"] - s["repeats"])
    print(f"{s['proposals']} proposals ({s['evaluations']} different candidates scored, "
          f"{s['repeats']} repeats, {unreadable} unreadable; {s['invalid']} invalid in all), "
          f"{s['steps']} steps, {s['seconds']:.0f} s")
    names = list(s)
    of_task = names[names.index("seconds") + 1:]        # what the task's conclude() added
    more = [f"{name} {s[name]}" for name in of_task if not isinstance(s[name], list)]
    if more:
        print(", ".join(more))
    if is_long(s["best"]):
        print(f"\n{s['best']}\n")
    if not s["solved"] and task.solved_at is not None and "program" not in record:
        print("to try next:", *to_try(record, from_python), sep="\n  ")
    report = folder / "report.html"
    print(f"report: {report}" if report.exists() else f"run: {folder}")


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
