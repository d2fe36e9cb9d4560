"""What a row of a table is called: the method, and the settings that the user changed.

    migrate+novelty (4,1,5) lr=0 no-mask-zero

Runs with different labels are different rows. What a table shows elsewhere (task, target, seed,
preset, model, budget) is no part of the label, and neither is what changes no result.
"""
from __future__ import annotations

import dataclasses

import tasks
from runlog.settings import COUNTS

IN_PYTHON = "started from Python, with a task that was made there"
NOT_IN_LABELS = frozenset(
    "task target arc_file seed method preset model data "                       # elsewhere
    "proposals steps budget after_solved "
    "out resume config track engine micro_batch workers".split())       # change no result


def label(method: str, record: dict) -> str:
    """The label of a run. record: its config.json.

    A setting is part of it if the command line names it, or if it differs from the preset or from
    the task's default. The values are those of config.json. The group stands first, the other
    settings in alphabetical order.
    """
    settings = all_settings(record)
    changed = (named_in(record.get("command", []), settings) | differing_from_preset(method, record)
               | differing_options(record) | set(record.get("given", [])) & settings.keys())
    parts = [method]
    if changed & set(COUNTS) and set(COUNTS) <= settings.keys():
        parts.append(f"({','.join(str(settings[name]) for name in COUNTS)})")
    shown = changed - set(COUNTS) - NOT_IN_LABELS
    return " ".join([*parts, *sorted(as_flag(name, settings[name]) for name in shown)])


def command_of(record: dict) -> list[str]:
    """The flags of a search; of one that was started from Python, those of what it was given."""
    settings = all_settings(record)
    return record.get("command") or [f"--{as_flag(name, settings[name])}"
                                     for name in record.get("given", [])
                                     if settings.get(name) not in ("", None)]


def made_in_python(record: dict) -> bool:
    """Whether the task was an object of the user's program: no command makes it again."""
    task = record["config"]["task"]
    return bool(record.get("given")) and task not in tasks.TASKS and ".py" not in task


def base_name(method: str) -> str:
    """The row of METHODS in a label: migrate+novelty (4,1,5) -> migrate."""
    return method.partition(" ")[0].partition("+")[0]


def all_settings(record: dict) -> dict:
    """{name: value} of the task's options, the modifiers and the search itself, in one dict."""
    settings = dict(record.get("options", {}))
    for of_modifier in record.get("modifiers", {}).values():
        settings.update(of_modifier)
    return settings | record.get("run", {}) | record["config"]


def named_in(command: list[str], settings: dict) -> set[str]:
    """The settings that a command line names: --top-k 3, --top-k=3, --no-mask-zero."""
    names = set()
    for word in command:
        if not word.startswith("--"):
            continue
        name = word[2:].partition("=")[0].replace("-", "_")
        if name not in settings:
            name = name.removeprefix("no_")
        if name in settings:
            names.add(name)
    return names


def differing_from_preset(method: str, record: dict) -> set[str]:
    """The settings whose values are not those of the preset: a run from Python has no command line.

    Only settings that the preset holds can be compared; for other tasks than the bundled ones
    nothing is.
    """
    config = record["config"]
    cls = tasks.TASKS.get(config.get("task"))
    preset = cls.presets.get(config.get("preset"), {}) if cls else {}
    names = {name for name in preset.keys() & config.keys() - set(COUNTS)
             if preset[name] != config[name]}
    for modifier, settings in record.get("modifiers", {}).items():
        of_preset = preset.get(modifier, {})
        if isinstance(of_preset, dict):         # a stranger may call a modifier as a setting is
            names |= {name for name, value in of_preset.items() if settings.get(name) != value}
    if set(COUNTS) <= preset.keys() & config.keys() and group_differs(method, config, preset):
        names.update(COUNTS)
    return names


def differing_options(record: dict) -> set[str]:
    """The options of a bundled task that are not its defaults."""
    cls = tasks.TASKS.get(record["config"].get("task"))
    options = record.get("options", {})
    fields = dataclasses.fields(cls) if cls else ()
    return {f.name for f in fields if options.get(f.name, f.default) != f.default}


def group_differs(method: str, config: dict, preset: dict) -> bool:
    """Whether a group is another one than the preset's. migrate and its relatives take the preset's
    mixture as it is; of every other method only the size of the group is compared."""
    counts, mixture = ([source[name] for name in COUNTS] for source in (config, preset))
    if base_name(method).startswith("migrate"):
        return counts != mixture
    return sum(counts) != sum(mixture)


def as_flag(name: str, value) -> str:
    """A setting as the command line writes it: lr=0, mask-zero, no-mask-zero."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else f"no-{flag}"
    return f"{flag}={value:g}" if isinstance(value, float) else f"{flag}={value}"
