"""Command-line flags made from dataclasses: one for each field."""
from __future__ import annotations

import argparse
import dataclasses
import inspect
import re

from runlog.errors import UserError

TYPES = {"int": int, "float": float, "str": str}


def parse(argv: list[str], groups: dict, choices: dict, version: str, **about) -> dict:
    """{field: value} of the flags that the user gave. Raises UserError for unknown ones.

    groups: {title: dataclass}. A field that two of them have belongs to the first. about: what
    argparse.ArgumentParser takes.
    """
    epilog = "[..] holds where neither the preset nor the method sets a value."
    parser = Parser(epilog=epilog, **about)
    seen = set()
    parser.add_argument("--version", action="version", version=f"MiGrATe {version}")
    for title, cls in groups.items():
        add_flags(parser.add_argument_group(title), cls, seen, choices)
        seen |= {f.name for f in dataclasses.fields(cls)}
    return vars(parser.parse_args(argv))


def first_look(argv: list[str], *names: str) -> dict:
    """The values of a few flags, before it is known which other flags there are."""
    parser = Parser(add_help=False)
    for name in names:
        parser.add_argument("--" + name, default=argparse.SUPPRESS)
    return vars(parser.parse_known_args(argv)[0])


class Parser(argparse.ArgumentParser):
    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message):
        raise UserError(f"{message} (--help lists the flags)")


def add_flags(parser, cls, skip=(), choices: dict | None = None) -> None:
    """Adds a flag for each field of a dataclass: its type and, as help, the comment behind it.

    Flags have no default: what the user did not give is not in the result. skip: names of fields.
    """
    comments = field_comments(cls)
    for f in dataclasses.fields(cls):
        if f.name in skip:
            continue
        kind = f.type.__name__ if isinstance(f.type, type) else str(f.type)
        kind = kind.removesuffix(" | None")
        flag = "--" + f.name.replace("_", "-")
        text = comments.get(f.name, "") + shown_default(f)
        options = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if kind == "bool":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif kind in TYPES:
            metavar = kind.upper()
            if choices and f.name in choices:
                metavar = "{" + ",".join(filter(None, choices[f.name])) + "}"
            parser.add_argument(flag, type=TYPES[kind], metavar=metavar, **options)
        else:
            raise UserError(f"the field {f.name} of {cls.__name__} cannot be a flag: it is a "
                            f"{kind}, not a bool, int, float or str")


def field_comments(cls) -> dict[str, str]:
    """{field: the comment behind it} of a dataclass and its bases."""
    bases = [base for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    source = "\n".join(inspect.getsource(base) for base in bases)
    return dict(re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", source, flags=re.M))


def shown_default(f) -> str:
    if f.default in (None, "", dataclasses.MISSING):
        return ""
    return f" [{f.default}]"


def check_bounds(settings, choices: dict, at_least: dict) -> None:
    """Raises UserError where a setting is none of its choices, or too small."""
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise UserError(f"--{name.replace('_', '-')} takes one of "
                            f"{', '.join(filter(None, allowed))}")
    for name, least in at_least.items():
        value = getattr(settings, name)
        if value is not None and not value >= least:        # NaN compares as False
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}")
