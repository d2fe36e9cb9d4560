"""A run's folder.

    config.json         settings, task options, versions, command; written once
    evals.jsonl         every evaluation as it happens, append-only
    steps.jsonl         one line a step, append-only
    completions.jsonl   a few completions of each step as the model wrote them, append-only
    lock                who writes here at the moment
    checkpoint/         LoRA weights, optimizer and state of the search; replaced atomically
    adapter/            the final LoRA in PEFT format
    summary.json        what was found; it exists once the run is finished
    report.html         all of it as a page (reports/pages.py)
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import re
import socket
import time
from collections import Counter
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

import safetensors

from runlog import flags
from runlog.bar import ProgressBar
from runlog.ending import json_object
from runlog.errors import RunStopped, UserError, endings, one_line
from runlog.ledger import Evaluation, read_evaluations, read_jsonl, whole_lines
from runlog.metrics import describe, length
from runlog.slow import torch

LARGEST = 1e3           # of LoRA weights: trained ones stay below 10
LEDGERS = ("evals.jsonl", "steps.jsonl", "completions.jsonl")
WRITTEN = (*LEDGERS, "config.json", "summary.json", "lock", "checkpoint", "adapter", "error.log")


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
        foreign = [name for name in LEDGERS if not exists and (folder / name).exists()
                   and (folder / name).stat().st_size]
        if foreign:         # a search would cut off what it cannot read, or count what it can
            raise UserError(f"{folder} holds {foreign[0]}, but no config.json that says of what: "
                            "put it back, or choose another folder")
        refuse_links(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = locked(folder)
        try:
            if exists:
                check_same_settings(folder, record)
            else:
                versions = {name: importlib.metadata.version(name)
                            for name in ("torch", "transformers", "peft")}
                write_atomically(folder / "config.json",
                                 json.dumps({**record, "versions": versions}, indent=1))
        except BaseException:
            self.lock.close()       # whoever keeps the exception would keep the folder
            raise
        self.finished = (folder / "summary.json").exists()
        self.next_checkpoint = 0.0
        self.tracker = self.bar = None
        self.unusable = 0           # steps in a row without a valid answer
        self.paid: dict[str, Evaluation] = {}
        self.open_ledgers()
        if self.damaged and not self.finished:
            self.mend()

    def open_ledgers(self) -> None:
        """Reads what the ledgers hold, cuts off what is torn, and goes on at their ends. Those of a
        finished run are only read."""
        folder, repair = self.folder, not self.finished
        steps = read_jsonl(folder / "steps.jsonl", repair)
        self.steps_logged = len(steps)
        self.last_step = steps[-1] if steps else {"step": 0, "proposals": 0}
        completions = read_jsonl(folder / "completions.jsonl", repair)
        self.completions_logged = Counter(
            line["step"] for line in completions if isinstance(line.get("step"), int))
        self.last_prompt = {str(line.get("origin")): line["prompt"] for line in completions
                            if line.get("prompt") is not None}
        lines = whole_lines(folder / "evals.jsonl")
        if repair and (folder / "evals.jsonl").exists():    # a torn last line is cut off
            os.truncate(folder / "evals.jsonl", sum(map(len, lines)))
        self.evaluations = read_evaluations(folder)
        unique = ({e.candidate for e in self.evaluations}, {e.index for e in self.evaluations})
        self.damaged = ([len(lines)] * 2 != [len(values) for values in unique]
                        or [line.get("step") for line in steps] != list(range(1, len(steps) + 1))
                        or not isinstance(self.last_step.get("proposals"), int))
        self.bytes_logged = sum(map(len, lines))
        self.digest = hashlib.sha256(b"".join(lines))       # of evals.jsonl, as it grows
        self.indices = {e.index for e in self.evaluations}
        self.first_free = 0
        self.evals_file, self.steps_file, self.completions_file = (
            open(folder / name, "a") for name in LEDGERS)

    def mend(self) -> None:
        """Begins the run again with what evals.jsonl still holds, once each: this is paid for. The
        checkpoint goes; from the same draws the same weights come."""
        (self.bar.say if self.bar else print)(
            f"{self.folder}: its files are damaged (lines are missing, doubled or changed), or its "
            "checkpoint is of another version. The steps are taken again; what evals.jsonl still "
            "holds is not scored again")
        self.close_ledgers()
        by_candidate = {e.candidate: e for e in self.evaluations[::-1]}
        free = itertools.filterfalse(self.indices.__contains__, itertools.count())
        kept: dict[int, Evaluation] = {}
        for e in [*by_candidate.values()][::-1]:    # of two with one index the second gets another
            index = next(free) if e.index in kept else e.index
            kept[index] = replace(e, index=index)
        write_atomically(self.folder / "evals.jsonl",
                         "".join(json.dumps(asdict(e)) + "\n" for e in kept.values()))
        for name in ("steps.jsonl", "completions.jsonl", "checkpoint/state.pt"):
            (self.folder / name).unlink(missing_ok=True)
        self.open_ledgers()

    def close_ledgers(self) -> None:
        for file in (self.evals_file, self.steps_file, self.completions_file):
            file.close()

    def close(self) -> None:
        """Closes the ledgers, and lets go of the folder, also where the disk is full."""
        try:
            self.close_ledgers()
        finally:
            if not self.lock.closed:    # a scorer's processes have copies, which would hold it
                with contextlib.suppress(OSError):
                    fcntl.flock(self.lock, fcntl.LOCK_UN)
            with contextlib.suppress(OSError):
                self.lock.close()

    def resume_from(self, step: int, model=None) -> list[Evaluation]:
        """The evaluations up to the step of the checkpoint. Those beyond it are paid for: their
        steps are taken again, and f is not called for them again. Raises UserError if the model
        does not have the tokens of one."""
        if model is not None:
            self.note_weights(getattr(model, "weights_format", {}))
        known = model.get_input_embeddings().num_embeddings if model else math.inf
        if any(token >= known for e in self.evaluations for token in e.tokens or []):
            raise UserError(f"{self.folder} holds completions with tokens that this model does not "
                            "have: it is a run of another model, or its evals.jsonl was changed")
        self.paid = {e.candidate: e for e in self.evaluations if e.step > step}
        return [e for e in self.evaluations if e.step <= step]

    def note_weights(self, loaded: dict) -> None:
        """config.json says from now on what "auto" became, for who resumes the run or samples from
        its adapter on another machine. loaded: {"quantize": .., "dtype": ..}. Raises UserError if
        the run was begun with others: its LoRA weights belong to those."""
        path = self.folder / "config.json"
        record = json.loads(path.read_text())
        before = {name: value for name, value in record.get("run", {}).items() if name in loaded}
        differing = [f"{name} {value}, not {loaded[name]}" for name, value in before.items()
                     if value not in ("auto", loaded[name])]
        if differing:
            raise UserError(f"{self.folder} was begun with {', '.join(differing)}: give --dtype "
                            "and --quantize as it was begun, or choose another folder")
        if "auto" in before.values():
            record["run"] |= {name: loaded[name] for name in before}
            write_atomically(path, json.dumps(record, indent=1))

    def already_paid(self, rows: dict, step: int) -> dict[str, Evaluation]:
        """{candidate: its evaluation} of those that are paid for, and of all that the step had.

        rows: {candidate: the row that holds it}. A step that is taken again on a GPU may draw other
        candidates than the first time. What was paid for then is kept all the same. What came in
        another step then is of this row now.
        """
        found = {}
        for c, row in rows.items():
            if c in self.paid:
                e = self.paid.pop(c)
                found[c] = e if e.step == step else replace(
                    e, step=step, proposal=row.proposal, origin=row.origin, parents=row.parents,
                    tokens=row.tokens or None)
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
        """What the finished run found. Raises UserError if that cannot be read."""
        return json_object(self.folder / "summary.json")

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
        if (self.folder / "evals.jsonl").stat().st_size == 0 and not self.steps_logged:
            for name in ("config.json", *LEDGERS, "lock"):
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
        line = json.dumps(asdict(evaluation)) + "\n"
        self.evals_file.write(line)
        self.evals_file.flush()
        self.digest.update(line.encode())
        self.bytes_logged += len(line)          # JSON is written in ASCII
        if self.bar is not None:
            self.bar.scored(evaluation)

    def log_step(self, line: dict) -> None:
        """Appends a line to steps.jsonl, unless the file holds this step already."""
        if self.bar is not None:
            self.bar.stepped(line)
        if line["step"] <= self.steps_logged:
            return
        os.fsync(self.evals_file.fileno())      # what was paid for survives a power cut
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
        """At most every two seconds, and for at most a fortieth of the time: the steps in between
        can be taken again. state: plain numbers. weights: {name: tensor}. Raises OSError where the
        disk is full, and RunStopped where a weight is not finite, or far beyond those of any
        policy: a learning rate that is much too high ruins it at once. Either way the last
        checkpoint is still there."""
        largest = torch.nn.utils.get_total_norm(list(weights.values()), math.inf).item()
        if not largest < LARGEST:
            raise RunStopped(f"a LoRA weight has become {largest:g}; what was found is kept. Try a "
                             "lower --lr")
        started = time.monotonic()
        if not force and started <= self.next_checkpoint:
            return
        os.fsync(self.steps_file.fileno())      # or it would lack steps after a power cut
        (self.folder / "checkpoint").mkdir(exist_ok=True)
        new = self.folder / "checkpoint" / "state.new"
        packed = io.BytesIO()       # torch reports a full disk in other ways than an OSError
        torch.save({"state": state, "optimizer": optimizer.state_dict(), "lora": weights,
                    "ledger": [self.bytes_logged, self.digest.hexdigest()]}, packed)
        with open(new, "wb") as file:
            file.write(packed.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, new.with_name("state.pt"))
        self.next_checkpoint = time.monotonic() + max(2.0, 40 * (time.monotonic() - started))

    def save_adapter(self, model) -> None:
        """Writes adapter/. Raises OSError where the disk is full."""
        try:
            model.save_pretrained(self.folder / "adapter", save_embedding_layers=False)
        except safetensors.SafetensorError as error:
            raise OSError(errno.ENOSPC, one_line(error), str(self.folder / "adapter")) from error

    def load_checkpoint(self, first: dict, optimizer, weights: dict) -> dict:
        """Puts optimizer and weights back and returns the state. `first`, the state in which a
        search begins, if there is no checkpoint, or if it is not of this search and its ledgers:
        then it begins again, see mend."""
        path = self.folder / "checkpoint" / "state.pt"
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            shapes = {name: p.shape for name, p in weights.items()}
            largest = torch.nn.utils.get_total_norm(list(saved["lora"].values()), math.inf)
            intact = (self.fits_ledgers(saved) and saved["state"].keys() == first.keys()
                      and all(value is None or isinstance(value, int | float)
                              for value in saved["state"].values())
                      and {name: p.shape for name, p in saved["lora"].items()} == shapes
                      and bool(largest < LARGEST))
            if intact:
                optimizer.load_state_dict(saved["optimizer"])
        except FileNotFoundError:
            return first
        except OSError as error:        # it may be whole, and be read the next time
            raise UserError(f"{path} cannot be read ({error.strerror}): try again, or remove it; "
                            "then the steps are taken again") from error
        except (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise                   # there was no room for it: it may be whole
        except Exception:           # a file that is no checkpoint of this run
            intact = False
        if not intact:
            self.mend()
            return first
        for name, p in weights.items():
            p.data.copy_(saved["lora"][name])
        return saved["state"]

    def fits_ledgers(self, saved: dict) -> bool:
        """Whether evals.jsonl begins with what it held when the checkpoint was written, and
        steps.jsonl has a line for each step up to then."""
        size, digest = saved["ledger"]
        with open(self.folder / "evals.jsonl", "rb") as file:
            before = hashlib.sha256(file.read(size)).hexdigest()
        return before == digest and self.steps_logged >= saved["state"]["step"]

    def finish(self, summary: dict) -> None:
        """Writes summary.json: from now on the run is finished."""
        self.close()
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1))
        if self.tracker:
            self.tracker.finish()


@contextlib.contextmanager
def opened(config, options, method, modifiers: dict, task, argv: list[str] | None, given: dict):
    """The folder of a search, new or resumed; what ends the search early is told in one line.

    config, options, method: migrate.Config, RunOptions and migrate.Method. modifiers: {name:
    settings}. argv: the command line; None if the search was started from Python, with the settings
    `given`. A folder in which nothing was scored before an error of the user is removed again.
    """
    parts = (task.name, task.target, config.method, f"seed{config.seed}")
    name = "-".join(filter(None, parts))
    folder = Path(options.resume or options.out or free_folder(name))
    record = {"config": asdict(config), "modifiers": modifiers,
              "run": {name: getattr(options, name) for name in ("quantize", "dtype", "engine")},
              "options": task_options(task), "command": argv or [],
              "given": sorted(given) if argv is None else []}
    with endings(folder, flags.to_go_on(argv, folder)):
        run = Run(folder, record, bool(options.resume))
        if run.finished:
            print(f"{folder} is finished already")
        else:
            print(describe(config, method, modifiers, task))
            print(f"run: {folder}, loading {config.model} ..", flush=True)
        try:
            if options.track and not run.finished:
                run.track(f"migrate-{task.name}", record["config"])
            yield run
        except UserError:
            run.discard_if_empty()
            raise
        finally:
            run.close()


def locked(folder: Path):
    """The open lock file of a run's folder. The system gives the lock back when the file is closed,
    or when the process ends in whatever way. Raises UserError if another process has it, or if it
    is another file of the user."""
    file = open(folder / "lock", "a+", errors="replace")
    file.seek(0)
    if file.read(8) not in ("", "process "):
        file.close()
        raise UserError(f"{folder}/lock is not the lock of a run: choose another folder")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise UserError(f"{folder} is in use by {file.read(200).strip() or 'another process'}: "
                        "wait for its end, or choose another --out") from error
    except OSError:                 # a file system without locks
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since "
               f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    file.flush()
    return file


def refuse_links(folder: Path) -> None:
    """Raises UserError where a file that a run writes to is there and is no file: a link leads to
    another one, which a stranger may have chosen, and a pipe waits for ever."""
    for path in [folder / name for name in WRITTEN] + [
            *(folder / "checkpoint").glob("*"), *(folder / "adapter").glob("*")]:
        is_plain = not path.exists() or path.is_file() or path.is_dir()
        if path.is_symlink() or not is_plain:
            raise UserError(f"{path} is a link or a pipe, and a search writes to neither: put the "
                            "file itself there (cp -rL copies a folder without its links)")


def task_options(task) -> dict:
    return asdict(task) if is_dataclass(task) else {}


def check_same_settings(folder: Path, record: dict) -> None:
    """Raises UserError if the folder's config.json holds other settings than `record`."""
    try:
        old = dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}/config.json cannot be read ({one_line(error)}): put it back, or "
                        "choose another folder") from error
    differing = set()
    for part in ("config", "run", "modifiers", "options"):
        before, now = old.get(part, {}), record.get(part, {})
        if not isinstance(before, dict):
            raise UserError(f"{folder}/config.json cannot be read ({part} holds no settings): put "
                            "it back, or choose another folder")
        if part == "run":           # of an older version: it says less; "auto" agrees with all
            now = {name: before[name] if value == "auto" else value for name, value in now.items()
                   if name in before}
        differing |= {name for name in before | now if before.get(name) != now.get(name)}
    differing.discard("workers")        # as many as the machine likes: the results are the same
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
    """The file is whole at any time, also after a power cut. No link in its place is followed."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with open(new, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def free_folder(name: str) -> Path:
    """The first free one of runs/NAME, runs/NAME-2, runs/NAME-3, .."""
    name = re.sub(r"[^\w.-]+", "_", name).encode()[:100].decode(errors="ignore")
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(folder for folder in map(Path("runs").joinpath, names) if not folder.exists())
