"""The command line, as a user meets it: errors, endings, own tasks and methods."""
from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from huggingface_hub.errors import GatedRepoError

import migrate
import tasks
from domains import contract
from migrate import Config
from runlog import folder, settings
from runlog.errors import explain_loading
from runlog.ledger import read_jsonl
from tests.support import HERE, command_line, read_json

# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("argv, says", [
    (["--task", "poetry"], "unknown task 'poetry'"),
    (["--task", "nowhere.py"], "there is no task file nowhere.py"),
    (["--target", "qqqqq"], "'qqqqq' is not among the"),
    (["--target", "two words"], "one English word"),
    (["--method", "magic"], "unknown method 'magic'; choose from random, ns"),
    (["--method", "migrate+magic"], "unknown method 'magic'"),
    (["--method", "novelty"], "one method comes first"),
    (["--method", "nowhere.py:mine"], "there is no file nowhere.py"),
    (["--preset", "magic"], "unknown preset 'magic'"),
    (["--no-such-flag", "1"], "Unrecognized options: --no-such-flag"),
    (["--method", "migrate", "--max-draws", "3"], "Unrecognized options: --max-draws"),
    (["--method", "migrate+novelty", "--max-draws", "0"], "--max-draws must be at least 1"),
    (["--step", "1"], "Unrecognized options: --step, 1 Perhaps you meant: --steps"),
    (["--steps", "x"], "--steps"),
    (["--temperature", "0"], "--temperature must be at least 0.001"),
    (["--quantize", "8bit"], "invalid choice '8bit' for argument '--quantize'"),
    (["--engine", "warp"], "invalid choice 'warp'"),
    (["--n-neighbors", "0"], "needs new completions"),
    (["--lr", "nan"], "--lr must be a finite number"),
    (["--candidates-per-completion", "0"], "--candidates-per-completion must be at least 1"),
    (["--candidates-per-completion", "10", "--n-neighbors", "5"], "must be multiples of 10"),
    (["--temperature", "inf"], "--temperature must be a finite number"),
    (["--seed", "-1"], "--seed must be at least 0"),
    (["--lora-r", "999999"], "is more than 4096"),
    (["--task", "arc", "--program-seconds", "-1"], "--program-seconds must be at least 0.01"),
    (["--task", "molecule", "--dock-seconds", "nan"], "--dock-seconds must be a finite number"),
    (["--warm-start-words", "99999"], "--warm-start-words must lie between 0 and"),
    (["--model", "./no/such/folder"], "there is no model folder ./no/such/folder"),
    (["--lora-targets", "nothing_proj"], "--lora-targets nothing_proj does not fit"),
])
def test_errors_are_one_line_with_a_way_out_and_exit_code_2(
        argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command_line(capsys, "--task", "wordsearch", *argv)
    last = err.splitlines()[-1]
    assert code == 2 and says in last and last.startswith("error: ") and "Traceback" not in err
    assert not list((tmp_path / "runs").glob("*"))      # the folder is free for the next try


def test_a_model_that_cannot_be_reached_or_is_gated(capsys, tmp_path):
    code, _, err = command_line(capsys, "--model", "nobody/no-such-model", "--out", tmp_path / "r")
    assert code == 2 and "neither a local folder nor a Hub model that can be reached" in err
    assert not (tmp_path / "r").exists()

    error = OSError("You are trying to access a gated repo.")
    error.__cause__ = GatedRepoError.__new__(GatedRepoError)
    assert "ungated model" in explain_loading("meta-llama/Llama-3.2-3B-Instruct", error)


def test_an_encoder_that_cannot_be_reached_frees_the_folder_again(capsys, tmp_path):
    code, _, err = command_line(capsys, "--embedder", tmp_path / "nowhere", "--out", tmp_path / "r")
    assert code == 2 and "neither a folder nor a reachable Hub model" in err
    assert not (tmp_path / "r").exists()


def test_4bit_without_bitsandbytes(capsys, tmp_path, monkeypatch):
    find = importlib.util.find_spec

    def without(name, *rest):
        return None if name == "bitsandbytes" else find(name, *rest)
    monkeypatch.setattr(importlib.util, "find_spec", without)
    code, _, err = command_line(capsys, "--quantize", "4bit", "--out", tmp_path / "r")
    assert code == 2 and "pip install bitsandbytes" in err


def test_a_damaged_tokenizer_is_called_one(capsys, tmp_path):
    for text in ("{", "[]", '{"version": "1.0"}'):
        model = tmp_path / f"model{len(text)}"
        shutil.copytree(HERE / "tiny" / "wordsearch", model)
        (model / "tokenizer.json").write_text(text)
        code, _, err = command_line(capsys, "--model", model, "--out", tmp_path / "r")
        assert code == 2 and f"the tokenizer of {model} cannot be read" in err, err
        assert err.splitlines()[-1].startswith("error: ") and "Traceback" not in err


def test_a_damaged_model_file_is_one_line(capsys, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(HERE / "tiny" / "wordsearch", model)
    (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    code, _, err = command_line(capsys, "--model", model, "--out", tmp_path / "r")
    assert code == 2 and "holds no causal language model that transformers can load" in err
    assert "Traceback" not in err


# ---------------------------------------------------------------------------------- a run's endings

def test_a_folder_is_never_overwritten(capsys, tmp_path):
    arguments = ["--target", "mob", "--steps", "2", "--out", tmp_path / "r"]
    code, out, _ = command_line(capsys, *arguments)
    assert code == 0 and "proposals" in out and str(tmp_path / "r") in out
    ledger = (tmp_path / "r" / "evals.jsonl").read_bytes()
    code, _, err = command_line(capsys, *arguments)
    assert code == 2 and "holds a run already" in err
    again = ["--resume", tmp_path / "r"]
    code, out, _ = command_line(capsys, *again)
    assert code == 0 and "finished already" in out
    (tmp_path / "r" / "summary.json").unlink()
    code, _, err = command_line(capsys, *again, "--lr", "1")
    assert code == 2 and "it differs in lr" in err
    code, out, _ = command_line(capsys, *again, "--micro-batch", "3")
    assert code == 0 and (tmp_path / "r" / "evals.jsonl").read_bytes() == ledger


BREAKS = """
import dataclasses, migrate, torch
steps = []
def update(*arguments):
    steps.append(1)
    if len(steps) == {step}:
        {what}
    return migrate.update(*arguments)
mine = dataclasses.replace(migrate.METHODS["migrate"], update=update)
"""


def broken_method(path, step, what) -> str:
    """A method whose update fails at some step, as a user's file: its name for --method."""
    path.write_text(BREAKS.format(step=step, what=what))
    return f"{path}:mine"


def test_ctrl_c_ends_tidily_and_the_run_goes_on(capsys, tmp_path):
    method = broken_method(tmp_path / "interrupted.py", 3, "raise KeyboardInterrupt")
    arguments = ["--target", "mob", "--method", method, "--steps", "5", "--out", tmp_path / "r"]
    code, _, err = command_line(capsys, *arguments)
    again = ["--resume", str(tmp_path / "r"), "--method", method]
    assert code == 130 and "best so far: '" in err and shlex.join(again) in err
    code, _, err = command_line(capsys, *again[:2])     # the file may be a stranger's
    assert code == 2 and f"if you trust it, add --method {method}" in err
    assert command_line(capsys, *again)[0] == 0


def test_what_stops_a_run_is_told_with_the_command_that_goes_on(capsys, tmp_path, monkeypatch):
    """The folder is named even if it was chosen for the user, and what would only stop again is not
    offered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["migrate.py"])
    method = broken_method(tmp_path / "hungry.py", 2, "raise torch.OutOfMemoryError('CUDA oom')")
    arguments = ["--target", "mob", "--n-greedy", "1", "--steps", "3", "--method", method,
                 "--micro-batch", "6"]
    code, _, err = command_line(capsys, *arguments)
    assert code == 1 and "--micro-batch 1" in err and "Traceback" not in err
    again = re.search(r"python migrate.py (--resume \S+ --method \S+)", err).group(1).split()
    code, _, err = command_line(capsys, *again, "--micro-batch", "1")
    assert code == 0, err

    method = broken_method(tmp_path / "diverged.py", 1, "raise FloatingPointError('it is nan')")
    code, _, err = command_line(capsys, "--target", "mob", "--steps", "3", "--method", method)
    assert code == 1 and "it is nan; what was found is kept" in err and "--resume" not in err


def test_a_full_disk_is_one_line_also_for_the_checkpoint(capsys, tmp_path, monkeypatch):
    plain = open

    def full(path, mode="r", **more):
        return plain("/dev/full" if str(path).endswith("state.new") else path, mode, **more)
    monkeypatch.setattr(folder, "open", full, raising=False)
    code, _, err = command_line(capsys, "--target", "mob", "--steps", "2", "--out", tmp_path / "r")
    assert code == 2 and "No space left on device; make room" in err and "Traceback" not in err


@pytest.mark.parametrize("code, reason", [
    ("1 / 0", "ZeroDivisionError"), ("float('nan')", "scores lie in [0, 1]"),
    ("2.0", "scores lie in [0, 1]"), ("None", "the score None; it must be a number"),
    ("tasks.Score(0.5, info={1: {2}})", "an info that is no dict that JSON can hold")])
def test_a_scorer_that_fails_stops_the_run_and_scores_nothing(code, reason, tmp_path, capsys):
    """Catches: a bare except that turns every fault of the scorer into score 0. What was scored
    before is kept."""
    (tmp_path / "broken.py").write_text(
        "import tasks\nclass Broken(tasks.WordSearch):\n    def score(self, candidates):\n"
        "        for i, c in enumerate(candidates):\n"
        f"            yield c, (0.5 if i == 0 else {code})\n")
    code, _, err = command_line(capsys, "--task", tmp_path / "broken.py", "--out", tmp_path / "r")
    assert code == 1 and reason in err and "best so far: '" in err and "Traceback" not in err
    assert [e["score"] for e in read_jsonl(tmp_path / "r" / "evals.jsonl")] == [0.5]
    assert "Traceback" in (tmp_path / "r" / "error.log").read_text()
    assert f"the traceback is in {tmp_path / 'r' / 'error.log'}" in err
    assert "broken.py:5: score() of wordsearch" in err


# -------------------------------------------------------------------------- own tasks, own settings

def test_a_task_of_numpy_scores_and_with_options_of_its_own(tmp_path, capsys):
    """A user's file: no __future__ import, so the types of its options are types, not strings."""
    (tmp_path / "mine.py").write_text(
        "import dataclasses, numpy as np, tasks\n@dataclasses.dataclass\n"
        "class Mine(tasks.WordSearch):\n    weight: float = 0.5     # of every word\n"
        "    def score(self, candidates):\n        for c in candidates:\n"
        "            yield c, tasks.Score(np.float32(self.weight), valid=np.bool_(len(c) > 0))\n")
    code, _, err = command_line(capsys, "--task", tmp_path / "mine.py", "--weight", "0.25",
                                "--steps", "1", "--out", tmp_path / "r")
    evaluations = read_jsonl(tmp_path / "r" / "evals.jsonl")
    assert code == 0 and {(e["score"], e["valid"]) for e in evaluations} == {(0.25, True)}
    (tmp_path / "list.py").write_text(
        "import dataclasses, tasks\n@dataclasses.dataclass\nclass Mine(tasks.WordSearch):\n"
        "    weights: list[float] = dataclasses.field(default_factory=list)  # of each part\n"
        "    extra: object = None\n")
    argv = ["--task", tmp_path / "list.py", "--weights", "0.5", "2", "--steps", "1", "--out",
            tmp_path / "lists"]
    assert command_line(capsys, *argv)[0] == 0
    assert read_json(tmp_path / "lists" / "config.json")["options"]["weights"] == [0.5, 2.0]
    again = ["--resume", tmp_path / "lists", "--task", tmp_path / "list.py"]
    assert "finished already" in command_line(capsys, *again)[1]


def test_a_random_target_is_told_at_the_end_and_not_before(tmp_path, capsys):
    code, out, _ = command_line(capsys, "--target", "random", "--steps", "1", "--seed", "5",
                                "--out", tmp_path / "r")
    before, after = out.split("run: ", 1)
    hidden = after.splitlines()[1].split(",")[0]
    record = (tmp_path / "r" / "config.json").read_text()
    assert code == 0 and hidden not in before and hidden not in record


def test_tracking_logs_every_step_and_is_asked_for(tmp_path, capsys, monkeypatch):
    arguments = ["--target", "mob", "--steps", "3", "--out", tmp_path / "r", "--track"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "trackio", None)         # as if it were not installed
        code, _, err = command_line(capsys, *arguments)
        assert code == 2 and "pip install trackio" in err and not (tmp_path / "r").exists()
    if not importlib.util.find_spec("trackio"):
        return
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    assert command_line(capsys, *arguments)[0] == 0
    assert len(list((tmp_path / "trackio").glob("*.db"))) == 1


def test_the_bundled_policy_is_known_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(HERE)
    program = "import migrate, tasks; print(migrate.resolve({}, tasks.WordSearch()).preset)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(tmp_path / "link")})
    assert done.stdout == "screen\n"


def test_every_setting_is_read_and_documented():
    """Catches: flags that reach nothing (the authors' code has eight)."""
    assert len(dataclasses.fields(Config)) <= 25
    rooms = [p for room in ("engine", "runlog") for p in sorted((HERE / room).glob("*.py"))]
    code = "\n".join(p.read_text() for p in [HERE / "migrate.py", *rooms])
    for cls, owner, text in ((Config, "config", code), (settings.RunOptions, "options", code),
                             (tasks.Task, "task", inspect.getsource(contract)),
                             (tasks.WordSearch, "self", inspect.getsource(tasks))):
        inherited = dataclasses.fields(tasks.Task) if cls is tasks.WordSearch else ()
        for f in dataclasses.fields(cls):
            if f.name == "target" and cls is tasks.Task or f in inherited:
                continue
            read = rf"(?i)\b{owner}\.{f.name}\b" if f.name != "config" else '"config" in files'
            assert re.search(read, text), f"{f.name} is never read"
            comment = rf"^    {f.name}: .*#\s*\S+"
            assert re.search(comment, inspect.getsource(cls), flags=re.M), f"{f.name}: no comment"


def test_help_shows_groups_defaults_and_choices(capsys):
    with pytest.raises(SystemExit):
        migrate.main(["--method", "migrate+novelty", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for text in ("rows replayed (greedy) from the archive's best (paper: beta) (default: 0)",
                 "the hidden word", "this-run options", "task-wordsearch options",
                 "modifier-novelty options", "--engine {auto,shared,plain}", "--max-draws INT"):
        assert text in out, text


def test_the_version_is_that_of_the_changelog(capsys):
    with pytest.raises(SystemExit) as done:
        migrate.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"MiGrATe {migrate.VERSION}\n"
    assert migrate.VERSION in (HERE / "CHANGELOG.md").read_text()
