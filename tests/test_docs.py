"""The documentation is held to the code: its commands run, its names and numbers are the real ones.

Every ```bash and ```python block of a page is run, in order, in a copy of the repository. A block
marked ```bash slow takes too long for that: its commands are only parsed. Most of the time would go
into starting Python. So one process has everything imported, and each page runs in a fork of it:

    python -m tests.test_docs FOLDER PAGE ..
"""
from __future__ import annotations

import dataclasses
import functools
import glob
import importlib.util
import json
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import pytest

import migrate
import tasks
from domains.workers import cores
from hub.commands import command_parser
from methods.novelty import Novelty
from methods.operator import Operator
from methods.screen import Screen
from migrate import Config, Method
from runlog import metrics, plugins, settings
from runlog.errors import exit_code
from runlog.ledger import Evaluation, read_jsonl
from runlog.settings import COUNTS, RunOptions
from tasks import TASKS, Task

HERE = Path(__file__).resolve().parent.parent       # the repository
PAGES = ["README.md", *sorted(str(p.relative_to(HERE)) for p in HERE.glob("docs/**/*.md"))]
LONGEST = 120       # seconds that a page may take


class Block(NamedTuple):
    """A fenced block: what stands behind its first fence, and its text."""
    info: str
    text: str


@functools.cache
def read(page: str) -> str:
    return (HERE / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    found = re.findall(r"^```(.*)\n((?s:.*?))^```$", text, flags=re.M)
    return [Block(info.strip(), body) for info, body in found]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```(?s:.*?)^```$", "", text, flags=re.M)


def code_spans(text: str) -> list[str]:
    """What stands between single backticks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def command_lines(block: Block) -> list[str]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def file_name(block: Block) -> str:
    """The file that a Python block says it is, in its first line; "": none."""
    named = re.match(r"# (\w+\.py)\n", block.text)
    return named[1] if block.info == "python" and named else ""


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page: rows of cells, the heading first, without the line below it."""
    found = []
    for lines in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M):
        rows = [[cell.strip() for cell in line.strip("|").split("|")]
                for line in lines.splitlines()]
        found.append([row for row in rows if set("".join(row)) - set("-: ")])
    return found


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([\w-]+)", cell)


# ------------------------------------------------------------------- the process that runs pages

def run_pages(folder: str, pages: list[str]) -> dict[str, int]:
    """Runs each page in a folder of its own below `folder`, as many at a time as there are cores.
    Returns their exit codes."""
    task = TASKS["wordsearch"]()
    migrate.load_policy(migrate.resolve({}, task), settings.model_source("tiny", task))
    fork = multiprocessing.get_context("fork")
    waiting, running, codes = list(pages), {}, {}
    while waiting or running:
        while waiting and len(running) < cores():
            page = waiting.pop(0)
            running[page] = fork.Process(target=run_page, args=(page, folder_of(page, folder)))
            running[page].start()
        wait([child.sentinel for child in running.values()])
        ended = [page for page, child in running.items() if not child.is_alive()]
        codes |= {page: running.pop(page).exitcode for page in ended}
    return codes


def folder_of(page: str, parent) -> Path:
    return Path(parent) / page.removesuffix(".md").replace("/", "-")


def run_page(page: str, folder: Path) -> None:
    """Runs a page's blocks in a folder that looks like the repository, as far as the first command
    that fails. What they print goes to output.txt."""
    signal.alarm(LONGEST)       # ends this process
    folder.mkdir()
    for entry in HERE.iterdir():
        (folder / entry.name).symlink_to(entry)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for block in blocks(read(page)):
        if file_name(block):
            Path(file_name(block)).write_text(block.text)
        elif block.info == "python":
            Path("block.py").write_text(block.text)
            run_command("python block.py")
        elif block.info == "bash":
            for line in command_lines(block):
                run_command(line)


def run_command(line: str) -> None:
    """A command of the project runs in this process, as if it had been typed; others in bash.
    Leaves the process if it fails."""
    print(f"$ {line}", flush=True)
    program, *words = shlex.split(line)
    if program == "pip":
        return
    if program != "python" or re.search(r"[|<>&;$]", line):
        code = subprocess.run(["bash", "-e", "-c", line]).returncode
    else:
        code = run_python([hit for word in words for hit in sorted(glob.glob(word)) or [word]])
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        print(f"exit code {code}", flush=True)
        sys.exit(1)


def run_python(argv: list[str]) -> int:
    """`python ARGV` in this process. Returns the exit code."""
    name = argv[1] if argv[0] == "-m" else argv[0]
    sys.argv = argv[argv.index(name):]
    try:
        if name == "migrate.py":
            return exit_code(migrate.main, sys.argv[1:])
        if argv[0] == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


# ------------------------------------------------------------------------------------- commands

@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the repository, without what git ignores."""
    copy = tmp_path_factory.mktemp("copy") / "house"
    ignored = [line.strip("/") for line in read(".gitignore").splitlines()]
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns(".git", *ignored))
    return copy


@pytest.fixture(scope="module")
def results(request, house, tmp_path_factory):
    """{page: (exit code, what it printed)} of the pages that this session tests."""
    folder, programs = tmp_path_factory.mktemp("pages"), tmp_path_factory.mktemp("programs")
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
           "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    pages = [item.callspec.params["page"] for item in request.session.items
             if getattr(item, "originalname", "") == "test_the_commands_of_a_page_run"]
    done = subprocess.run([sys.executable, "-m", "tests.test_docs", str(folder), *pages], cwd=house,
                          env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {page: (code, (folder_of(page, folder) / "output.txt").read_text())
            for page, code in json.loads(done.stdout).items()}


def is_run(page: str) -> bool:
    return any(block.info in ("bash", "python") and not file_name(block)
               for block in blocks(read(page)))


@pytest.mark.parametrize("page", [page for page in PAGES if is_run(page)])
def test_the_commands_of_a_page_run(page, results):
    """Catches: a command that a reader copies from a page and that fails."""
    code, output = results[page]
    assert code == 0, f"exit code {code}\n{output[-3000:]}"


def unrun_commands(page: str) -> list[str]:
    """The commands of `bash slow` blocks and, in the text, those of migrate.py."""
    lines = [line for block in blocks(read(page)) if block.info == "bash slow"
             for line in command_lines(block)]
    lines += [span for span in code_spans(read(page)) if span.startswith("python migrate.py ")]
    return [part.strip() for line in lines for part in line.split("&&")]


@pytest.mark.parametrize("page", [page for page in PAGES if unrun_commands(page)])
def test_commands_that_are_too_slow_to_run_are_understood(page, tmp_path, monkeypatch):
    """Catches: flags, methods, presets and modules in a slow command that are gone or renamed."""
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(HERE / "examples")
    for block in filter(file_name, blocks(read(page))):
        Path(file_name(block)).write_text(block.text)
    plugins.import_file.cache_clear()       # my_task.py is another file on every page
    try:
        for line in unrun_commands(page):
            check_command(shlex.split(line))
    finally:
        plugins.import_file.cache_clear()
        sys.modules.pop("my_task", None)


def check_command(words: list[str]) -> None:
    """Raises if a command cannot be what it looks like. Loads no model."""
    scripts = read("run_all.sh") + read("tools/sweep.py")
    while re.match("[A-Z_]+=", words[0]):
        name, *words = words[0].partition("=")[0], *words[1:]
        assert re.search(rf"\b{name}\b", scripts) or name.startswith("SBATCH_"), name
    match words:
        case ["python", "migrate.py", "push" | "sample", *_]:
            command_parser().parse_args(words[2:])
        case ["python", "migrate.py", *argv]:
            check_search(argv)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), words
        case ["bash", script, *sections]:
            text = read(script)
            assert all(f"\n{section}() {{" in text for section in sections), words
        case [program, *_]:
            assert program in ("pip", "hf"), f"is this a command? {shlex.join(words)}"


def check_search(argv: list[str]) -> None:
    """The steps of migrate.main that need no model."""
    given = settings.from_flags(argv, Config(), migrate.METHODS, tasks.load_task_class)
    cls = tasks.load_task_class(given.get("task", Config.task))
    settings.run_options(given)
    settings.build_method(migrate.resolve(given, cls), cls, given, migrate.METHODS)


# ---------------------------------------------------------------------------------------- links

@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Catches: links and pictures whose file or heading is gone or renamed."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(page))):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (HERE / page).parent / path if path else HERE / page
        assert file.exists(), f"{page}: there is no {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(file.read_text()), flags=re.M)
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{page}: {path} has no heading {anchor}"


def test_files_that_pages_name_exist():
    """Catches: a page that sends the reader to a file which was moved."""
    examples = {"path/to/file.py"}
    for page in PAGES:
        for span in code_spans(read(page)):
            if re.fullmatch(r"(\w+/)+[\w-]+\.(py|sh|csv|json|npz|svg)", span):
                assert span in examples or (HERE / span).exists(), f"{page}: {span}"


def test_flags_that_pages_name_exist():
    """Catches: a flag in the text that was renamed or moved to a modifier of another name."""
    source = "\n".join(path.read_text() for path in HERE.glob("*/*.py")) + read("migrate.py")
    known = set(re.findall(r'"(--[a-z][a-z-]*)"', source)) | {"--help", "--version"}
    for cls in (Config, RunOptions, Novelty, *TASKS.values()):
        known |= {flag(f.name) for f in dataclasses.fields(cls)}
    for page in PAGES:
        examples = {flag(name) for block in filter(file_name, blocks(read(page)))
                    for name in re.findall(r"^    (\w+): .* = ", block.text, flags=re.M)}
        for span in code_spans(read(page)):
            for name in re.findall(r"(?<!\S)--[a-z][a-z-]*", span):
                plain = name.replace("--no-", "--", 1)
                assert {name, plain} & (known | examples), f"{page}: {name}"


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# -------------------------------------------------------------------------------- names, numbers

def test_the_readme_is_short():
    """Catches: a README that grows until nobody reads it."""
    assert len(read("README.md").splitlines()) <= 220
    assert len(read("README.md").split()) <= 2500


def test_the_readme_shows_what_a_search_prints_first():
    """Catches: an output in the README from before the last change to the screen or a preset."""
    task = TASKS["wordsearch"]()
    config = migrate.resolve({}, task)
    method, modifiers = settings.build_method(config, task, {}, migrate.METHODS)
    first_lines = metrics.describe(config, method, modifiers, task)
    assert f"```\n{first_lines}\nrun: runs/" in read("README.md")


def documented_settings() -> dict[tuple[str, str], str]:
    """{(task or "", setting): its default} as docs/settings.md has them."""
    found, task = {}, ""
    for heading, *rows in tables(read("docs/settings.md")):
        if heading == ["setting", "default", "meaning"]:
            found |= {("", names_in(row[0])[0]): row[1] for row in rows}
        elif heading == ["task", "setting", "default", "meaning"]:
            for row in rows:
                task = row[0] or task
                found[task, names_in(row[1])[0]] = row[2]
    return found


def test_every_setting_is_documented_with_its_default():
    """Catches: settings without a line in docs/settings.md, lines of settings that are gone, and
    defaults that have changed since."""
    fields = {("", f.name): f for cls in (Config, RunOptions, Novelty, Operator, Screen)
              for f in dataclasses.fields(cls)}
    of_all = [f for f in dataclasses.fields(Task) if f.name != "target"]
    # a task's field of the same name has the same flag
    general = {name for _, name in fields} | {f.name for f in of_all}
    fields |= {("all", f.name): f for f in of_all}
    for name, cls in TASKS.items():
        fields |= {(name, f.name): f for f in dataclasses.fields(cls) if f.name not in general}
    documented = documented_settings()
    assert documented.keys() == fields.keys()
    for key, f in fields.items():
        assert shows(documented[key], f.default), f"{key}: {documented[key]}, not {f.default}"


def shows(cell: str, value) -> bool:
    """Whether a cell shows a value. How it says None and "" is up to the page."""
    if isinstance(value, bool):
        return cell == ("yes" if value else "no")
    if isinstance(value, (int, float)):
        return re.fullmatch(r"[\d.e-]+", cell) is not None and float(cell) == value
    if value in (None, ""):
        return not re.fullmatch(r"[\d.e-]+|yes|no", cell)
    return cell == value


@pytest.mark.parametrize("task", TASKS)
def test_the_presets_are_documented_with_their_numbers(task):
    """Catches: a preset, or a number in one, that changed in tasks.py and not on the page."""
    [(heading, *rows)] = [table for table in tables(read("docs/settings.md"))
                          if table[0][:2] == [task, "`paper`"]]
    presets = TASKS[task].presets
    assert heading[1:] == [f"`{name}`" for name in presets]
    shown = {name for row in rows for name in settings_in(row)}
    assert set().union(*presets.values()) - {"novelty", "screen", "operator"} <= shown
    for row in rows:
        before = None
        for cell, preset in zip(row[1:], presets.values(), strict=True):
            values = [all_settings(preset)[name] for name in settings_in(row)]
            if cell == "-":
                assert values == before, row
            else:
                cells = cell.split(", ") if len(values) > 1 else [cell]
                assert len(cells) == len(values) and all(map(shows, cells, values)), row
            before = values


def settings_in(row: list[str]) -> tuple[str, ...]:
    """The settings that a row of a table of presets has."""
    together = {"on-policy, greedy, neighbours": COUNTS,
                "lora_r, lora_alpha": ("lora_r", "lora_alpha")}
    return together.get(row[0], (row[0],))


def all_settings(preset: dict) -> dict:
    """What a search has under a preset; the settings of `novelty` as the page has them, and of
    other modifiers what it sets. Where the preset counts steps, there is no number of proposals."""
    found = dataclasses.asdict(Config()) | preset | {"of `novelty`": ""}
    for modifier, setting in (("screen", "screen_draws"), ("operator", "operator_share")):
        found[setting] = str(preset.get(modifier, {}).get(setting, ""))
    if found["steps"]:
        found["proposals"] = None
    if "novelty" in preset:
        own = dataclasses.asdict(Novelty(**preset["novelty"]))
        words = [name if value is True else f"{name} {value}" for name, value in own.items()]
        found["of `novelty`"] = ", ".join(words)
    return found


def test_every_method_and_modifier_is_documented():
    """Catches: a method that only its source file knows."""
    everything = "\n".join(read(page) for page in PAGES)
    for name in migrate.METHODS | plugins.entries(HERE / "methods"):
        assert re.search(rf"`\+?{name}`", everything), name
    modifiers = {names_in(row[0])[0] for table in tables(read("docs/settings.md"))
                 if table[0][0] == "modifier" for row in table[1:]}
    rows = plugins.entries(HERE / "methods").items()
    assert modifiers == {name for name, row in rows if not isinstance(row, Method)}


def first_column(page: str, *heading: str) -> list[str]:
    """The names in the first cells of the tables with this heading."""
    return [name for table in tables(read(page)) if tuple(table[0][:len(heading)]) == heading
            for row in table[1:] for name in names_in(row[0])]


def test_what_a_method_and_a_task_consist_of_is_documented():
    """Catches: a seam that a fork or a task of one's own can use, and that no page shows."""
    assert first_column("docs/forking.md", "field", "what it is") == [
        f.name for f in dataclasses.fields(Method)]
    page = first_column("docs/your-own-task.md", "method or attribute", "gives", "needed?")
    public = {name for name in vars(Task) if not name.startswith("_")}
    in_the_text = {"target", "fits", "archive", "scored", "style", "policy"}
    flags = {"score_seconds", "workers"}        # above, and in docs/settings.md
    of_modifiers = {"neighbors", "surrogate"}   # a task need not have them
    for_the_search = {"own_scale", "as_rewards", "presets_with", "has_processes"}
    assert set(page) | in_the_text | flags | for_the_search == public | of_modifiers
    text = read("docs/your-own-task.md")
    assert all(f"`self.{name}" in text for name in in_the_text - {"target"})


def test_every_field_of_the_logs_is_explained(tmp_path):
    """Catches: a field of steps.jsonl, evals.jsonl or completions.jsonl that docs/runs.md does not
    explain, and explained ones that no line has."""
    migrate.run("wordsearch", steps=2, n_on_policy=2, n_greedy=1, out=str(tmp_path / "run"))
    line = {}
    for step in read_jsonl(tmp_path / "run" / "steps.jsonl"):
        line |= step
    origins = {"on-policy", "neighbor", "greedy"}
    assert origins <= line.keys()
    step, origin, evaluation, completion = [
        {name for row in rows for name in names_in(row[0])}
        for heading, *rows in tables(read("docs/runs.md")) if heading == ["field", "meaning"]]
    assert step == set(line)
    assert origin == {name for one in origins for name in line[one]}
    assert evaluation == {f.name for f in dataclasses.fields(Evaluation)}
    written = read_jsonl(tmp_path / "run" / "completions.jsonl")[0]
    assert completion == set(written)
    assert all(f"`{name}`" in read("docs/runs.md") for name in written["read"][0])
    for name in line["seconds"]:
        assert name in read("docs/runs.md")


if __name__ == "__main__":
    print(json.dumps(run_pages(sys.argv[1], sys.argv[2:])))
