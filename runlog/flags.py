"""Command-line flags made from dataclasses, one for each field, and settings read from files."""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import io
import json
import math
import numbers
import os
import re
import shlex
import sys
import types
import typing
from pathlib import Path

import tyro
import yaml

from runlog.errors import UserError, one_line

PARTS = ("config", "run", "options", "modifiers")   # of the config.json of a run: its settings
LENGTHS = ("steps", "proposals", "budget")  # what says how long a search is
CODE = ("task", "method", "arc_prelude")    # settings that may name a file of code


def parse(argv: list[str], groups: dict, **about) -> dict:
    """{field: value} of the flags that the user gave. Raises UserError for others.

    groups: {title: {name: (type, field, help)}} (see `described`). A field that two of them have
    belongs to the first. about: what tyro.cli takes.
    """
    parts, seen = [], set()
    for title, of_group in groups.items():
        own = [(name, typing.Annotated[kind, tyro.conf.arg(help=text)], field)
               for name, (kind, field, text) in of_group.items() if name not in seen]
        part = dataclasses.make_dataclass("part", own, kw_only=True)
        title = re.sub(r"\W", "_", title)
        parts.append((title, part, dataclasses.field(default_factory=part)))
        seen |= of_group.keys()
    everything = dataclasses.make_dataclass("settings", parts)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            parsed = tyro.cli(everything, args=argv, config=(tyro.conf.OmitArgPrefixes,), **about)
    except SystemExit as error:
        if error.code:
            raise UserError(f"{without_box(said.getvalue())} (--help lists the flags)") from None
        raise
    named = {name for word in argv for name in field_names(word)}
    values = {name: value for part in vars(parsed).values() for name, value in vars(part).items()}
    return {name: value for name, value in values.items() if name in named}


def without_box(text: str) -> str:
    """What tyro says of a mistake, in one line: it draws a box, and repeats the help below."""
    lines = [line.strip("│| ") for line in text.splitlines()[1:]]
    lines = [line for line in lines if line.strip("╰─╯+-")]
    end = next((i for i, line in enumerate(lines) if "helptext" in line), len(lines))
    return " ".join(lines[:end])


def field_names(word: str) -> set[str]:
    """The fields that a word of the command line may stand for: --no-mask-zero, mask_zero."""
    name = word[2:].split("=")[0].replace("-", "_") if word.startswith("--") else ""
    return {name, name.removeprefix("no_")} - {""}


def without(names: set[str], words: list[str]) -> list[str]:
    """The words of a command line without the flags of some settings, and without their values."""
    kept, skip = [], False
    for word in words:
        skip = skip and not word.startswith("--")       # a flag for yes or no has no value
        if field_names(word) & names:
            skip = "=" not in word
        elif skip:
            skip = False
        else:
            kept.append(word)
    return kept


def described(cls, values: dict | None = None) -> dict:
    """{name: (type, field, help)} of a dataclass. The help is the comment behind the field.

    values: what holds instead of the defaults of the class.
    """
    hints, comments, found = typing.get_type_hints(cls), field_comments(cls), {}
    for f in dataclasses.fields(cls):
        default = {"default": f.default, "default_factory": f.default_factory}
        if f.name in (values or {}):
            default = {"default": values[f.name]}
        default = {k: v for k, v in default.items() if v is not dataclasses.MISSING}
        found[f.name] = hints[f.name], dataclasses.field(**default), comments.get(f.name, "")
    return found


def field_comments(cls) -> dict[str, str]:
    """{field: the comment behind it} of a dataclass and its bases."""
    bases = [base for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    source = "\n".join(inspect.getsource(base) for base in bases)
    return dict(re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", source, flags=re.M))


def first_look(argv: list[str], *names: str) -> dict:
    """The values of a few flags, before it is known which other flags there are."""
    parser = Parser(add_help=False)
    for name in names:
        parser.add_argument("--" + name, default=argparse.SUPPRESS)
    return vars(parser.parse_known_args(argv)[0])


class Parser(argparse.ArgumentParser):
    """For the small command lines beside the search."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message):
        raise UserError(f"{message} (--help lists the flags)")


# ------------------------------------------------------------------------------ settings from files

def with_files(argv: list[str]) -> list[str]:
    """The command line with the settings of --config FILE, and of the run in --resume FOLDER, in
    front: what stands on the command line itself wins. Raises UserError."""
    files = first_look(argv, "config", "resume")
    words = []
    if "config" in files:
        words += words_of(Path(files["config"]), argv)
    record = Path(files.get("resume", "")) / "config.json"
    if "resume" in files and record.is_file():
        words += words_of(record, argv)
    elif "resume" in files and all(field_names(word) <= {"resume"} for word in argv):
        raise UserError(f"there is no run in {files['resume']} (it has no config.json)")
    return [*words, *argv]


def to_go_on(argv: list[str] | None, folder: Path) -> str:
    """What continues the run in a folder. argv: the command line; None: it began from Python."""
    if argv is None:
        return f"the same call and resume={str(folder)!r}"
    code = first_look(argv, *(name.replace("_", "-") for name in CODE))
    words = [word for name, value in code.items() if ".py" in value
             for word in ("--" + name.replace("_", "-"), value)]
    return shlex.join(["python", sys.argv[0], "--resume", str(folder), *words])


def words_of(path: Path, argv: list[str]) -> list[str]:
    """The settings in a YAML or JSON file, or in a run's config.json, as words of a command line.

    Code is run only if the command line itself names it: the file may be a stranger's. What counts
    is what the words come to, however the file spells it. Raises UserError.
    """
    found, words = settings_in(path), []
    if first_look(argv, *LENGTHS):      # any of them replaces all of them
        found = {name: value for name, value in found.items() if name not in LENGTHS}
    for name, value in found.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        elif value is not None:
            words.append(f"{flag}={value}")
    code = [name.replace("_", "-") for name in CODE]
    given = first_look(argv, *code)
    for name, value in first_look(words, *code).items():
        if value and (".py" in value or name == "arc_prelude") and given.get(name) != value:
            raise UserError(f"{path} names the file {value}, which is code: if you trust it, add "
                            f"--{name.replace('_', '-')} {value}")
    return words


class NumbersAsText(yaml.SafeLoader):
    """Leaves numbers as they are written. 00576224, a task of ARC, is an octal number in YAML."""
    yaml_implicit_resolvers = {
        first: [one for one in found if one[0].split(":")[-1] not in ("int", "float")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}


def settings_in(path: Path) -> dict:
    """{setting: value} of a YAML or JSON file, or of a run's config.json. Raises UserError."""
    try:
        text = path.read_text()
        try:
            found = json.loads(text)        # YAML reads some of what JSON writes in another way
        except ValueError:
            found = yaml.load(text, NumbersAsText)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
    is_run = isinstance(found, dict) and isinstance(found.get("config"), dict)
    parts = [found.get(part) for part in PARTS] if is_run else [found]
    if is_run and isinstance(found.get("modifiers"), dict):
        parts = [*parts[:-1], *found["modifiers"].values()]
    settings = {}
    for part in filter(None, parts):
        if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
            raise UserError(f"{path} holds no settings: it should say `name: value`, line by line")
        settings |= {name.replace("-", "_"): value for name, value in part.items()}
    # A name or a list must not become other flags.
    odd = [name for name in settings if not re.fullmatch(r"[a-z]\w*", name)]
    odd += [name for name, value in settings.items() if isinstance(value, list)
            and any(re.match(r"-(?![\d.])", str(one)) for one in value)]
    odd += [name for name, value in settings.items() if "\0" in str(value)]
    if odd:
        raise UserError(f"{path}: {odd[0]!r} is no setting, or has a value that is a flag, or no "
                        "text")
    nested = [name for name, value in settings.items()
              for one in (value if isinstance(value, list) else [value])
              if isinstance(one, (dict, list))]
    if nested:
        raise UserError(f"{path}: {nested[0]} should be one value, or a list of such")
    if is_run:      # the record has more counts than the one that decides
        decides = next((name for name in ("budget", "steps") if settings.get(name)), "proposals")
        settings = {name: value for name, value in settings.items()
                    if name not in LENGTHS or name == decides}
    return settings


# ---------------------------------------------------------------------------------------- bounds

def is_number(value, kind=numbers.Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


# type of a field: (whether a value is one, what that is)
KINDS = {int: (lambda value: is_number(value, numbers.Integral), "a whole number"),
         float: (is_number, "a number"),
         str: (lambda value: isinstance(value, str | os.PathLike), "text"),
         bool: (lambda value: isinstance(value, bool), "True or False"),
         type(None): (lambda value: value is None, "None")}


def check_bounds(settings, at_least: dict) -> None:
    """Raises UserError where a setting is none of its choices, of another type, not finite, or too
    small.

    settings: a dataclass. at_least: {field: least value}.
    """
    hints = typing.get_type_hints(type(settings))
    for f in dataclasses.fields(settings):
        name, value = f.name, getattr(settings, f.name)
        flag, allowed = "--" + name.replace("_", "-"), typing.get_args(hints.get(name))
        origin = typing.get_origin(hints.get(name))
        if origin is typing.Literal and value not in allowed:
            raise UserError(f"{flag} takes one of {', '.join(allowed)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{flag} must be a finite number")
        either = allowed if origin in (typing.Union, types.UnionType) else [hints.get(name)]
        kinds = [KINDS[kind] for kind in either] if KINDS.keys() >= set(either) else []
        given = value is not f.default          # from Python, or in a file
        if kinds and given and not any(is_one(value) for is_one, _ in kinds):
            raise UserError(f"{flag} must be {kinds[0][1]}, not {value!r}")
        if name in at_least and value is not None and value < at_least[name]:
            raise UserError(f"{flag} must be at least {at_least[name]}")
