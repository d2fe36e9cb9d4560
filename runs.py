"""A run on disk and on the screen: its folder, its progress bar, its flags, what it says when it ends.

    config.json    settings, task options, versions, command; written once
    evals.jsonl    every evaluation as it happens, append-only
    steps.jsonl    one line a step, append-only
    checkpoint/    LoRA weights, optimizer state and counts after a step; replaced atomically
    adapter/       the final LoRA in PEFT format
    summary.json   what was found; present once the run is finished
    report.html    all of it as a page (page.py)
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import importlib.metadata
import inspect
import json
import os
import re
import shlex
import sys
import time
import traceback
from pathlib import Path

import torch
from tqdm import tqdm

from tasks import ScorerFailed, UserError, one_line


class RunStopped(Exception):
    """The run cannot go on; what it found is on disk. The command line prints it as one line and exits with code 1."""


class Run:
    """A run's folder. evals.jsonl and steps.jsonl only ever grow; everything else is replaced atomically.

    After an interruption the steps since the last checkpoint are taken again; what evals.jsonl already holds of them
    is not evaluated again (migrate.Archive), and what steps.jsonl already holds is not written again.
    """

    def __init__(self, folder: Path, settings: dict, resume: bool):
        self.folder = folder
        exists = (folder / "config.json").exists()
        if exists and not resume:
            raise UserError(f"{folder} holds a run already: continue it with --resume, or choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        if exists:
            old = json.loads((folder / "config.json").read_text())
            differing = sorted(name for part in ("config", "options") for name in settings[part] | old[part]
                               if settings[part].get(name) != old[part].get(name) and name != "micro_batch")
            if differing:
                raise UserError(f"{folder} is in use by another configuration (it differs in {', '.join(differing)}): "
                                "resume it with its own settings, or choose another --out")
        else:
            versions = {p: importlib.metadata.version(p) for p in ("torch", "transformers", "peft")}
            write_atomically(folder / "config.json", json.dumps({**settings, "versions": versions}, indent=1))
        self.finished = (folder / "summary.json").exists()
        self.evaluations = read_jsonl(folder / "evals.jsonl")
        self.steps_logged = len(read_jsonl(folder / "steps.jsonl"))
        self.evals_file = open(folder / "evals.jsonl", "a")
        self.steps_file = open(folder / "steps.jsonl", "a")
        self.next_checkpoint = 0.0
        self.tracker = self.bar = None

    def track(self, project: str, settings: dict) -> None:
        """From now on every line of steps.jsonl goes to trackio, too: kept on this machine, seen with `trackio show`."""
        try:
            import trackio
        except ImportError as error:
            raise UserError("--track needs trackio: pip install trackio==0.43.0, or leave --track out") from error
        trackio.init(project=project, name=self.folder.name, config=settings, resume="allow", auto_log_gpu=False,
                     auto_log_cpu=False)
        self.tracker = trackio

    def discard_if_empty(self) -> None:
        """Frees the folder of a run that never began, for the next try with other settings."""
        if not (self.folder / "evals.jsonl").stat().st_size:
            for name in ("config.json", "evals.jsonl", "steps.jsonl"):
                (self.folder / name).unlink()
            with contextlib.suppress(OSError):      # the user's own files stay
                self.folder.rmdir()

    def progress(self, budget: int | None, steps: int) -> ProgressBar:
        """From now on a bar shows what is logged; a context manager."""
        self.bar = ProgressBar(budget, steps, self.evaluations, self.steps_logged)
        return self.bar

    def say(self, line: str) -> None:
        """Something that should be known once, above the bar."""
        if self.bar is not None:
            self.bar.write(line)

    def log_evaluation(self, line: dict) -> None:
        self.evals_file.write(json.dumps(line) + "\n")
        self.evals_file.flush()
        if self.bar is not None:
            self.bar.scored(line)

    def log_step(self, line: dict) -> None:
        if self.bar is not None:
            self.bar.stepped(line["step"])
        if line["step"] > self.steps_logged:
            self.steps_file.write(json.dumps(line) + "\n")
            self.steps_file.flush()
            self.steps_logged = line["step"]
            if self.tracker:
                nested = {f"{k}/{name}": v for k, part in line.items() if isinstance(part, dict) for name, v in part.items()}
                flat = {k: v for k, v in line.items() if k != "step" and not isinstance(v, dict)}
                self.tracker.log(flat | nested, step=line["step"])

    def save_checkpoint(self, counts: dict, optimizer, weights: dict, force: bool = False) -> None:
        """At most every two seconds, and for at most a twentieth of the time: steps in between can be taken again."""
        started = time.monotonic()
        if force or started > self.next_checkpoint:
            (self.folder / "checkpoint").mkdir(exist_ok=True)
            new = self.folder / "checkpoint" / "state.new"
            with open(new, "wb") as file:       # to a path torch writes by itself, and a full disk is no OSError
                torch.save({"counts": counts, "optimizer": optimizer.state_dict(), "lora": weights}, file)
            os.replace(new, new.with_name("state.pt"))
            self.next_checkpoint = time.monotonic() + max(2.0, 20 * (time.monotonic() - started))

    def load_checkpoint(self, optimizer, weights: dict) -> dict | None:
        """Puts the state of optimizer and weights back, and returns the counts; None if there is no checkpoint."""
        path = self.folder / "checkpoint" / "state.pt"
        if not path.exists():
            return None
        saved = torch.load(path, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(saved["optimizer"])
        for name, p in weights.items():
            p.data.copy_(saved["lora"][name])
        return saved["counts"]

    def finish(self, summary: dict, task=None) -> None:
        """The run is over once summary.json is there. The page comes after it: it can be made again, a run cannot."""
        self.evals_file.close()
        self.steps_file.close()
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1))
        try:
            if self.tracker:
                self.tracker.finish()
            if task:
                import page
                page.write(self.folder, task=task)
        except Exception as error:
            print(f"the run is finished; its report is not ({type(error).__name__}: {one_line(error)}). Try\n"
                  f"  python report.py {shlex.quote(str(self.folder))} --html", file=sys.stderr)


def read_jsonl(path: Path) -> list[dict]:
    """The lines of a ledger. A torn last line (the process was killed while writing) is cut off, in the file too."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[:data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def write_atomically(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


def free_folder(name: str, resume: bool) -> Path:
    """The first free one (to resume: the last used one) of runs/NAME, runs/NAME-2, runs/NAME-3, .."""
    name, number = re.sub(r"[^\w.-]+", "_", name), 1
    while (folder := Path("runs", name if number == 1 else f"{name}-{number}")).exists():
        last, number = folder, number + 1
    return last if resume and number > 1 else folder


def step_metrics(counts: dict, archive, rows: list, group: list, metrics: dict, clock: list[float]) -> dict:
    """One line of steps.jsonl: see the glossary in the README. rows: what was drawn; group: what the update saw; clock:
    the times before and after sampling, scoring and training; metrics: of the update, `by_row` of it in group's order."""
    best = archive.best(1)
    sampling, scoring, training = (round(b - a, 4) for a, b in zip(clock, clock[1:]))
    line = {"step": counts["step"], "proposals": counts["proposals"], "archive": len(archive), "start": counts["start"],
            "best": best[0].candidate if best else None, "best_score": best[0].score if best else 0.0,
            **{k: v for k, v in metrics.items() if k != "by_row"},
            "seconds": {"sampling": sampling, "scoring": scoring, "training": training},
            "tokens_per_second": round(sum(len(row.tokens) for row in rows) / max(sampling, 1e-9))}
    for origin in dict.fromkeys(row.origin for row in [*rows, *group]):
        drawn = [row for row in rows if row.origin == origin] or [row for row in group if row.origin == origin]    # replays
        scores = [row.score for row in drawn]
        line[origin] = {"n": len(drawn), "score_mean": sum(scores) / len(scores), "score_max": max(scores),
                        "repeats": sum(row.candidate is not None and not row.new for row in drawn),
                        "invalid": sum(not row.valid for row in drawn)}
        trained = [of for row, of in zip(group, metrics.get("by_row", [])) if row.origin == origin]
        if trained:
            tokens, logprob, clipped = map(sum, zip(*trained))
            line[origin] |= {"logprob": logprob / tokens, "clip_fraction": clipped / tokens}
    return line


def summarize(config, task, archive, counts: dict, solved: bool, stop: str) -> dict:
    """What goes into summary.json."""
    best = archive.best(1)[0] if archive.best(1) else None
    return {"task": task.name, "target": task.reveal(), "method": config.method, "seed": config.seed,
            "model": config.model, "preset": config.preset, "best_score": best.score if best else 0.0,
            "best": best.candidate if best else None, "solved": solved, "stop": stop,
            "best_at_proposal": best.proposal if best else None,
            "evaluations": sum(e.step > 0 for e in archive.of.values()), "proposals": counts["proposals"],
            "repeats": counts["repeats"], "invalid": counts["invalid"],
            "warm_start": sum(e.step == 0 for e in archive.of.values()), "steps": counts["step"],
            "skipped_updates": counts["skipped"], "seconds": round(counts["seconds"], 2)}


class ProgressBar(tqdm):
    """A bar over evaluations if there is a budget of them, else over steps, with the best candidate so far behind it."""

    def __init__(self, budget: int | None, steps: int, evaluations: list[dict], step: int):
        super().__init__(total=budget or steps, unit="evaluations" if budget else "steps", dynamic_ncols=True, bar_format=
                         "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}] {postfix}")
        self.budget, self.best, self.evaluations = budget, None, 0
        for line in evaluations:
            self.scored(line)
        self.stepped(step)

    def scored(self, line: dict) -> None:
        self.evaluations += line["step"] > 0
        if line["valid"] and (self.best is None or line["score"] > self.best["score"]):
            self.best = line
        if self.best:
            self.set_postfix_str(f"best {self.best['candidate'][:60]!r} {self.best['score']:.3f}, {self.evaluations} scored",
                                 refresh=False)
        self.update(self.evaluations - self.n if self.budget else 0)

    def stepped(self, step: int) -> None:
        if not self.budget:
            self.update(step - self.n)


def describe(config, task_name: str, trains: bool) -> str:
    """The resolved settings in three lines, shown before anything slow happens."""
    extent = f"{config.budget} evaluations" if config.budget else f"{config.steps} steps"
    training = f"lr {config.lr:g} x {config.inner_iterations}, LoRA r={config.lora_r} on {config.lora_targets}"
    return (f"{task_name}: {config.method} on {config.model}, preset {config.preset}, seed {config.seed}\n"
            f"group: {config.n_on_policy} on-policy + {config.n_greedy} greedy + {config.n_neighbors} neighbours, "
            f"top {config.top_k}, novelty {config.novelty}; {extent}\n"
            f"{training if trains else 'no training'}")


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message} (--help lists the flags)")


def add_flags(parser, cls, skip=()) -> None:
    """One flag for each field of a dataclass: its type and, as help, the comment behind it. No default: what the user
    did not give is not in the result."""
    source = "\n".join(inspect.getsource(base) for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base))
    comments = dict(re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", source, flags=re.M))
    for f in dataclasses.fields(cls):
        if f.name not in skip:
            kind = (f.type.__name__ if isinstance(f.type, type) else str(f.type)).removesuffix(" | None")
            if kind not in ("bool", "int", "float", "str"):
                raise UserError(f"the field {f.name} of {cls.__name__} cannot be a flag: it is a {kind}, not a bool, int, "
                                "float or str")
            how = ({"action": argparse.BooleanOptionalAction} if kind == "bool" else
                   {"type": {"int": int, "float": float, "str": str}[kind], "metavar": kind.upper()})
            parser.add_argument("--" + f.name.replace("_", "-"), default=argparse.SUPPRESS,
                                help=comments.get(f.name, "").replace("%", "%%"), **how)


def check_bounds(config, choices: dict, at_least: dict) -> None:
    """Raises UserError where a setting is none of its choices, or too small."""
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise UserError(f"--{name.replace('_', '-')} takes one of {', '.join(filter(None, allowed))}")
    for name, least in at_least.items():
        value = getattr(config, name)
        if value is not None and not value >= least:        # NaN is not, either
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}")


def exit_code(main, argv: list[str]) -> int:
    """Runs main(argv). 0: done; 1: the run had to stop; 2: an error that the user can mend; 130: Ctrl-C."""
    try:
        main(argv)
        return 0
    except KeyboardInterrupt:
        return 130
    except (UserError, RunStopped, ScorerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


@contextlib.contextmanager
def run_folder(folder: Path, argv: list[str]):
    """Whatever ends a run early, the user is told what was found, where it is and, where that helps, how to go on."""
    try:
        yield
    except (KeyboardInterrupt, RunStopped, ScorerFailed, torch.OutOfMemoryError) as error:
        if isinstance(error, ScorerFailed):
            (folder / "error.log").write_text("".join(traceback.format_exception(error)))
        valid = [e for e in read_jsonl(folder / "evals.jsonl") if e["valid"]]
        best = max(valid, key=lambda e: e["score"], default=None)
        found = f"best so far: {best['candidate']!r} with score {best['score']:.4f}" if best else "nothing scored yet"
        told = f"\nstopped; {found}. Everything scored is in {folder}"
        if not isinstance(error, RunStopped):       # which would only stop there again
            again = [a for a in argv if a != "--resume"] + ([] if "--out" in argv else ["--out", str(folder)]) + ["--resume"]
            told += f"; continue with\n  python {shlex.join([sys.argv[0], *again])}"
        print(told, file=sys.stderr)
        if isinstance(error, torch.OutOfMemoryError):
            raise RunStopped(f"out of memory on the device: {one_line(error)[:160]}. Continue with --micro-batch 1, or "
                             "choose a smaller group or model") from error
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST):
            raise
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}; make room or choose another "
                        "--out, then --resume") from error


def explain_loading(name: str, error: Exception) -> str:
    """One line on why a model could not be loaded, and what to do."""
    chain = repr(error) + repr(error.__cause__) + repr(error.__context__)
    if "GatedRepo" in chain or "gated repo" in chain:
        return (f"{name} is gated: accept its licence on its Hub page and run `hf auth login`, or use an ungated "
                "model, for example --model Qwen/Qwen3-4B-Instruct-2507")
    if Path(name).is_dir():
        return f"{name} holds no causal language model that transformers can load: {one_line(error)}"
    if os.sep in name and name.count("/") != 1 or name.startswith((".", "~")):
        return f"there is no model folder {name}"
    if "Unrecognized" in chain or "does not recognize" in chain or not isinstance(error, OSError):
        return f"transformers cannot load {name}: {one_line(error)}"
    return (f"model {name} is neither a local folder nor a Hub model that can be reached (check the name, the network, "
            "HF_TOKEN; --model tiny needs none of them)")


def print_summary(folder: Path) -> None:
    s = json.loads((folder / "summary.json").read_text())
    why = {"solved": "solved", "budget": "the budget is spent", "steps": "all steps done",
           "stale": "ended early, nothing new was proposed for many steps"}[s["stop"]]
    program = s["best"] if "\n" in (s["best"] or "") else ""        # several lines read better as they are
    print(f"{s['target']}, {why}: best {'(below)' if program else repr(s['best'])} with score {s['best_score']:.4f}, proposal {s['best_at_proposal']}\n"
          f"{s['proposals']} proposals ({s['evaluations']} different candidates scored, {s['repeats']} repeats, "
          f"{s['invalid']} invalid), {s['steps']} steps, {s['seconds']:.0f} s")
    more = [f"{k} {v}" for k, v in list(s.items())[list(s).index("seconds") + 1:] if not isinstance(v, list)]
    print(*([", ".join(more)] if more else []), *(["", program, ""] if program else []), f"run: {folder}", sep="\n")
