"""A run's folder.

    config.json         settings, task options, versions, command; written once
    evals.jsonl         every evaluation as it happens, append-only
    steps.jsonl         one line a step, append-only
    completions.jsonl   a few completions of each step as the model wrote them, append-only
    checkpoint/         LoRA weights, optimizer and state of the search; replaced atomically
    adapter/            the final LoRA in PEFT format
    summary.json        what was found; it exists once the run is finished
    report.html         all of it as a page (reports/pages.py)
"""
from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import os
import re
import time
from collections import Counter
from dataclasses import asdict, is_dataclass
from pathlib import Path

from runlog import flags
from runlog.bar import ProgressBar
from runlog.errors import UserError, endings
from runlog.ledger import Evaluation, read_evaluations, read_jsonl
from runlog.metrics import describe, length
from runlog.slow import torch

LEDGERS = ("evals.jsonl", "steps.jsonl", "completions.jsonl")


class Run:
    """Writes a run's folder. The ledgers only grow; every other file is replaced atomically.

    After an interruption the steps since the last checkpoint are taken again. What evals.jsonl
    holds of them is not evaluated again, what the other ledgers hold is not written again.

    record: what goes into config.json, a dict of dicts ("config", "run", "modifiers", "options")
    and the command line ("command"). Raises UserError if the folder belongs to another run.
    """

    def __init__(self, folder: Path, record: dict, resume: bool):
        self.folder = folder
        exists = (folder / "config.json").exists()
        if exists and not resume:
            raise UserError(f"{folder} holds a run already: continue it with --resume {folder}, or "
                            "choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        if exists:
            check_same_settings(folder, record)
        else:
            versions = {name: importlib.metadata.version(name)
                        for name in ("torch", "transformers", "peft")}
            write_atomically(folder / "config.json",
                             json.dumps({**record, "versions": versions}, indent=1))
        self.finished = (folder / "summary.json").exists()
        self.evaluations = read_evaluations(folder, repair=True)
        steps = read_jsonl(folder / "steps.jsonl", repair=True)
        self.steps_logged = len(steps)
        self.last_step = steps[-1] if steps else {"step": 0, "proposals": 0}
        completions = read_jsonl(folder / "completions.jsonl", repair=True)
        self.completions_logged = Counter(line["step"] for line in completions)
        self.last_prompt = {line["origin"]: line["prompt"] for line in completions
                            if line["prompt"] is not None}
        self.evals_file, self.steps_file, self.completions_file = (
            open(folder / name, "a") for name in LEDGERS)
        self.next_checkpoint = 0.0
        self.tracker = self.bar = None
        self.paid: dict[str, Evaluation] = {}
        self.indices = {e.index for e in self.evaluations}
        self.first_free = 0

    def resume_from(self, step: int) -> list[Evaluation]:
        """The evaluations up to the step of the checkpoint. Those beyond it are paid for: their
        steps are taken again, and f is not called for them again."""
        self.paid = {e.candidate: e for e in self.evaluations if e.step > step}
        return [e for e in self.evaluations if e.step <= step]

    def already_paid(self, candidates, step: int) -> dict[str, Evaluation]:
        """{candidate: its evaluation} of those that are paid for, and of all that the step had.

        A step that is taken again on a GPU may draw other candidates than the first time. What was
        paid for then is kept all the same.
        """
        found = {c: self.paid.pop(c) for c in candidates if c in self.paid}
        for c in [c for c, e in self.paid.items() if e.step == step]:
            found[c] = self.paid.pop(c)
        return found

    def next_index(self) -> int:
        """The first index that no evaluation has."""
        while self.first_free in self.indices:
            self.first_free += 1
        self.indices.add(self.first_free)
        return self.first_free

    def summary(self) -> dict:
        """What the finished run found."""
        return json.loads((self.folder / "summary.json").read_text())

    def track(self, project: str, settings: dict) -> None:
        """From now on every line of steps.jsonl goes to trackio as well, on this machine."""
        try:
            import trackio
        except ImportError as error:
            raise UserError("--track needs trackio: pip install trackio==0.43.0, or leave --track "
                            "out") from error
        trackio.init(project=project, name=self.folder.name, config=settings, resume="allow",
                     auto_log_gpu=False, auto_log_cpu=False)
        self.tracker = trackio

    def discard_if_empty(self) -> None:
        """Frees the folder of a run that never began, for the next try with other settings."""
        if (self.folder / "evals.jsonl").stat().st_size == 0:
            for name in ("config.json", *LEDGERS):
                (self.folder / name).unlink()
            with contextlib.suppress(OSError):      # files of the user's own stay
                self.folder.rmdir()

    def progress(self, settings) -> ProgressBar:
        """From now on a bar shows what is logged; a context manager. settings: the search's."""
        self.bar = ProgressBar(*length(settings), self.evaluations, self.last_step)
        return self.bar

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self.bar is not None:
            self.bar.say(line)

    def log_evaluation(self, evaluation: Evaluation) -> None:
        self.evals_file.write(json.dumps(asdict(evaluation)) + "\n")
        self.evals_file.flush()
        if self.bar is not None:
            self.bar.scored(evaluation)

    def log_step(self, line: dict) -> None:
        """Appends a line to steps.jsonl, unless the file holds this step already."""
        if self.bar is not None:
            self.bar.stepped(line)
        if line["step"] <= self.steps_logged:
            return
        self.steps_file.write(json.dumps(line) + "\n")
        self.steps_file.flush()
        self.steps_logged = line["step"]
        if self.tracker:
            self.tracker.log(flattened(line), step=line["step"])

    def log_completions(self, step: int, lines: list[dict]) -> None:
        """Appends a step's lines to completions.jsonl, but for those that the file holds already.

        Prompts are long and many are equal: a prompt is None where the last line of the same origin
        has the same.
        """
        for line in lines[self.completions_logged[step]:]:
            origin, prompt = line["origin"], line["prompt"]
            if self.last_prompt.get(origin) == prompt:
                line = line | {"prompt": None}
            self.last_prompt[origin] = prompt
            self.completions_file.write(json.dumps(line) + "\n")
            self.completions_logged[step] += 1
        self.completions_file.flush()

    def save_checkpoint(self, state: dict, optimizer, weights: dict, force: bool = False) -> None:
        """At most every two seconds, and for at most a twentieth of the time: the steps in between
        can be taken again. state: plain numbers. weights: {name: tensor}."""
        started = time.monotonic()
        if not force and started <= self.next_checkpoint:
            return
        (self.folder / "checkpoint").mkdir(exist_ok=True)
        new = self.folder / "checkpoint" / "state.new"
        # An open file, not a path: torch reports a full disk as an OSError only for the former.
        with open(new, "wb") as file:
            torch.save({"state": state, "optimizer": optimizer.state_dict(), "lora": weights}, file)
        os.replace(new, new.with_name("state.pt"))
        self.next_checkpoint = time.monotonic() + max(2.0, 20 * (time.monotonic() - started))

    def load_checkpoint(self, optimizer, weights: dict) -> dict:
        """Puts optimizer and weights back and returns the state; {} if there is no checkpoint."""
        path = self.folder / "checkpoint" / "state.pt"
        if not path.exists():
            return {}
        saved = torch.load(path, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(saved["optimizer"])
        for name, p in weights.items():
            p.data.copy_(saved["lora"][name])
        return saved["state"]

    def finish(self, summary: dict) -> None:
        """Writes summary.json: from now on the run is finished."""
        for file in (self.evals_file, self.steps_file, self.completions_file):
            file.close()
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1))
        if self.tracker:
            self.tracker.finish()


@contextlib.contextmanager
def opened(config, options, method, modifiers: dict, task, argv: list[str] | None):
    """The folder of a search, new or resumed; what ends the search early is told in one line.

    config, options, method: migrate.Config, RunOptions and migrate.Method. modifiers: {name:
    settings}. argv: the command line; None if the search was started from Python. A folder in which
    nothing was scored before an error of the user is removed again.
    """
    parts = (task.name, task.target, config.method, f"seed{config.seed}")
    name = "-".join(filter(None, parts))
    folder = Path(options.resume or options.out or free_folder(name))
    record = {"config": asdict(config), "modifiers": modifiers,
              "run": {"quantize": options.quantize, "dtype": options.dtype},
              "options": task_options(task), "command": argv or []}
    with endings(folder, flags.to_go_on(argv, folder)):
        run = Run(folder, record, bool(options.resume))
        if run.finished:
            print(f"{folder} is finished already")
        else:
            print(describe(config, method, modifiers, task))
            print(f"run: {folder}\nloading {config.model} ..", flush=True)
        try:
            if options.track and not run.finished:
                run.track(f"migrate-{task.name}", record["config"])
            yield run
        except UserError:
            run.discard_if_empty()
            raise


def task_options(task) -> dict:
    return asdict(task) if is_dataclass(task) else {}


def check_same_settings(folder: Path, record: dict) -> None:
    """Raises UserError if the folder's config.json holds other settings than `record`."""
    old = json.loads((folder / "config.json").read_text())
    differing = set()
    for part in ("config", "run", "modifiers", "options"):
        before, now = old.get(part, {}), record.get(part, {})
        differing |= {name for name in before | now if before.get(name) != now.get(name)}
    if differing:
        raise UserError(f"{folder} is in use by another configuration (it differs in "
                        f"{', '.join(sorted(differing))}): resume it with its own settings, or "
                        "choose another --out")


def flattened(line: dict) -> dict:
    """{"a": 1, "b": {"c": 2}} -> {"a": 1, "b/c": 2}, without the step."""
    flat = {}
    for name, value in line.items():
        if isinstance(value, dict):
            flat.update({f"{name}/{inner}": v for inner, v in value.items()})
        elif name != "step":
            flat[name] = value
    return flat


def write_atomically(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


def free_folder(name: str) -> Path:
    """The first free one of runs/NAME, runs/NAME-2, runs/NAME-3, .."""
    name = re.sub(r"[^\w.-]+", "_", name)
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(folder for folder in map(Path("runs").joinpath, names) if not folder.exists())
