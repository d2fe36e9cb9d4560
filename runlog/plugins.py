"""Finds a method, a modifier or a task: in a table, in a folder, or in a file of the user."""
from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from pathlib import Path

from runlog.errors import UserError, one_line


@functools.cache
def import_file(path: str):
    """The module in a Python file, executed once. Raises UserError if it is missing or cannot be
    imported."""
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}")
    if not path.endswith(".py"):
        raise UserError(f"{path} is no Python file: its name should end in .py")
    # Not the file's own name: it may be tasks.py or random.py. No dot: pickle looks for a package.
    name = "file " + re.sub(r"\W", "_", path)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module         # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: "
                        f"{one_line(error)}") from error
    return module


def run_module(name: str, argv: list[str]) -> None:
    """Calls main(argv) of a module that imports migrate.py, so that migrate.py cannot import it."""
    importlib.import_module(name).main(argv)


def find(name: str, table: dict, folder: Path):
    """What `name` stands for: an entry of table; of a METHODS in one of the folder's files; or, for
    path/to/file.py:name, what that file calls so. Raises UserError."""
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        module = import_file(path)
        if not hasattr(module, attribute):
            raise UserError(f"{path} defines no {attribute}")
        return getattr(module, attribute)
    if name not in table:
        table = table | entries(folder)
    if name not in table:
        raise UserError(f"unknown method {name!r}; choose from {', '.join(table)}, or give "
                        "path/to/file.py:name")
    return table[name]


def entries(folder: Path) -> dict:
    """Everything that the files of a folder list in their METHODS."""
    found = {}
    for path in sorted(folder.glob("[a-z]*.py")):
        module = importlib.import_module(f"{folder.name}.{path.stem}")
        if not hasattr(module, "METHODS"):
            raise UserError(f"{path} has no METHODS, the table of what it adds: "
                            "METHODS = {NAME: ..} (docs/forking.md)")
        found |= module.METHODS
    return found
