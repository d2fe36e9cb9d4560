"""One run on disk and on the screen: the folder, its ledgers, the bar, flags."""
from __future__ import annotations

import builtins
import dataclasses
import fcntl
import json
import multiprocessing
import os
import pickle
import pty
import random
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import migrate
from migrate import Row
from runlog import errors, flags, folder, plugins, slow
from runlog.bar import ProgressBar
from runlog.completions import by_completion, quote, read_completions
from runlog.folder import Run
from runlog.ledger import (
    Evaluation,
    best_first,
    evaluation_in,
    read_evaluations,
    read_jsonl,
)
from runlog.metrics import differences
from runlog.settings import RunOptions, build_method, from_flags, run_options
from tasks import TASKS, Score, WordSearch, load_task_class
from tests.support import HERE, Letters, command_line, folder_of, read_json, run_search


def evaluation(index, score=0.5, step=1, candidate=None, valid=True) -> Evaluation:
    return Evaluation(index, step, index, "on-policy", [], candidate or f"c{index}", score, valid)


# ---------------------------------------------------------------------------------- ledger

@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), max_size=6),
       st.integers(0, 80))
def test_a_torn_ledger_is_read_to_its_last_whole_line_and_repaired(tmp_path_factory, lines, cut):
    """Reading alone never writes: the run may be going on. Catches: a report that truncates the
    file under a running search."""
    path = tmp_path_factory.mktemp("ledger") / "evals.jsonl"
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()[:cut]
    path.write_bytes(data)
    whole = lines[:data.count(b"\n")]
    assert read_jsonl(path) == whole and path.read_bytes() == data
    assert read_jsonl(path, repair=True) == whole == read_jsonl(path)
    assert path.read_bytes() == data[:data.rfind(b"\n") + 1]


def test_the_best_come_first_and_the_older_of_equals():
    ledger = [evaluation(0, 0.1), evaluation(1, 0.9, valid=False), evaluation(3, 0.7),
              evaluation(2, 0.7)]
    assert [e.index for e in best_first(ledger)] == [2, 3, 0]
    assert best_first(ledger, 1) == [ledger[3]] and best_first([]) == []


def test_an_index_is_never_given_twice_even_past_a_gap(tmp_path):
    """A step that is taken again on a GPU may differ: index 4 is on disk, 3 is free."""
    run = Run(tmp_path / "r", {}, False)
    for index in (0, 1, 2, 4):
        run.log_evaluation(evaluation(index))
    run.close()
    again = Run(tmp_path / "r", {}, True)
    assert [again.next_index() for _ in range(3)] == [3, 5, 6]


def test_what_lies_beyond_the_checkpoint_is_paid_for_and_never_lost(tmp_path):
    """Catches: a candidate that was paid for and does not come again when its step is repeated."""
    run = Run(tmp_path / "r", {}, False)
    for index, step in enumerate((0, 1, 2, 2, 3)):
        run.log_evaluation(evaluation(index, step=step))
    run.close()
    again = Run(tmp_path / "r", {}, True)
    assert [e.candidate for e in again.resume_from(1)] == ["c0", "c1"]
    rows = {c: Row("neighbor", ["c1"], [7, 8], c, proposal=4) for c in ("c2", "unseen", "c4")}
    assert sorted(again.already_paid({c: rows[c] for c in ("c2", "unseen")}, 2)) == ["c2", "c3"]
    assert list(again.paid) == ["c4"] and again.already_paid({"c2": rows["c2"]}, 2) == {}


def test_what_was_paid_for_in_another_step_belongs_to_the_row_that_found_it_now(tmp_path):
    """Catches: a child whose parent comes only in a later step."""
    run = Run(tmp_path / "r", {}, False)
    run.log_evaluation(replace(evaluation(0, step=3), parents=["later"], tokens=[1]))
    run.close()
    again = Run(tmp_path / "r", {}, True)
    again.resume_from(0)
    found = again.already_paid({"c0": Row("on-policy", [], [7, 8], "c0", proposal=4)}, 1)["c0"]
    assert (found.step, found.proposal, found.parents, found.tokens) == (1, 4, [], [7, 8])
    assert (found.index, found.score) == (0, 0.5)


def test_a_torn_first_line_is_cut_off(tmp_path):
    """Catches: the next evaluation, which is appended to half a line and lost."""
    Run(tmp_path / "r", {}, False).close()
    (tmp_path / "r" / "evals.jsonl").write_text('{"index": 0, "st')
    run = Run(tmp_path / "r", {}, True)
    for index in range(2):
        run.log_evaluation(evaluation(index))
    run.close()
    assert [e.candidate for e in read_evaluations(tmp_path / "r")] == ["c0", "c1"]


def test_a_ledger_with_half_a_character_is_damaged():
    line = json.dumps(dataclasses.asdict(evaluation(0))).encode()
    assert evaluation_in(line) == evaluation(0)
    assert evaluation_in(line.replace(b'"c0"', b'"a\\ud800"')) is None
    assert evaluation_in(line.replace(b'[]', b'["a\\ud800"]')) is None


# ---------------------------------------------------------------------------------- folder

def test_a_folder_belongs_to_one_configuration(tmp_path):
    record = {"config": {"lr": 1}, "run": {"quantize": ""},
              "modifiers": {"novelty": {"patience": 1}}, "options": {"target": "mob"},
              "command": []}
    Run(tmp_path / "r", record, False)
    with pytest.raises(errors.UserError, match="holds a run already"):
        Run(tmp_path / "r", record, False)
    kept = []
    for part, name, value in (("config", "lr", 2), ("run", "quantize", "4bit"),
                              ("modifiers", "novelty", {}), ("options", "target", "oak")):
        with pytest.raises(errors.UserError, match=f"differs in {name}") as refused:
            Run(tmp_path / "r", {**record, part: {name: value}}, True)
        kept.append(refused)        # a notebook keeps exceptions; they must not keep the folder
    assert Run(tmp_path / "r", {**record, "command": ["--resume"]}, True).steps_logged == 0


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """Catches: a run that must stay on a machine as small as the one that it began on."""
    Run(tmp_path, {"config": {}, "options": {"workers": 4}}, False).close()
    Run(tmp_path, {"config": {}, "options": {"workers": 8}}, True).close()
    with pytest.raises(errors.UserError, match="differs in target"):
        Run(tmp_path, {"config": {}, "options": {"workers": 8, "target": "a"}}, True)


def test_a_folder_of_the_user_survives_a_run_that_never_began(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").write_text("mine")
    Run(tmp_path / "r", {}, False).discard_if_empty()
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["notes.txt"]
    run = Run(tmp_path / "r", {}, False)
    run.log_step({"step": 1, "proposals": 10})      # ten answers, none of which could be read
    run.discard_if_empty()
    assert (tmp_path / "r" / "steps.jsonl").read_text()


def test_free_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        path = folder.free_folder("a/b c")
        path.mkdir(parents=True)
        names.append(str(path))
    assert names == ["runs/a_b_c", "runs/a_b_c-2", "runs/a_b_c-3"]
    folder.free_folder("\u5206" * 90).mkdir(parents=True)       # three bytes each


def test_a_full_disk_is_told_by_the_checkpoint_as_an_oserror(tmp_path, monkeypatch):
    """torch reports a full disk as an error of its own kind if it opens the file itself."""
    plain = open

    def full(path, mode="r"):
        return plain("/dev/full" if str(path).endswith("state.new") else path, mode)
    run = Run(tmp_path / "r", {}, False)
    monkeypatch.setattr(folder, "open", full, raising=False)
    assert folder.open is full and builtins.open is plain
    import torch
    weights = {"w": torch.zeros(10**6)}
    with pytest.raises(OSError, match="No space left"):
        run.save_checkpoint({"step": 1}, torch.optim.SGD([torch.zeros(1)], lr=1), weights, True)


def test_the_summary_of_a_run_without_any_valid_candidate(tmp_path):
    """Catches: best()[0] of an empty list."""
    class Nothing(Letters):
        def parse(self, completion):
            return []

        def warm_start(self, seed):
            return []
    summary = run_search(tmp_path / "r", Nothing(), steps=2)[0]
    assert summary["best"] is None and summary["best_score"] == 0 and summary["invalid"] == 16
    assert read_json(tmp_path / "r" / "summary.json") == summary
    assert read_evaluations(tmp_path / "r") == []


# ------------------------------------------------------------------------------ completions

def line(step, origin, prompt, completion="x") -> dict:
    return {"step": step, "proposal": 1, "origin": origin, "prompt": prompt,
            "completion": completion, "cut": False, "read": []}


@given(st.lists(st.lists(st.tuples(st.sampled_from("on"), st.sampled_from("ab")), max_size=3),
                max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_completions_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path_factory, steps,
                                                                        kept, checkpoint):
    """Killed at any byte, resumed from any step that the file has. Catches: a step that is there
    twice, or in part; a prompt that is left out though the last one of its origin was another."""
    lines = {t: [line(t, origin, prompt, f"{t} {i}") for i, (origin, prompt) in enumerate(of_step)]
             for t, of_step in enumerate(steps, 1)}
    folder = tmp_path_factory.mktemp("run")

    def write(first, resume):
        run = Run(folder, {}, resume)
        for t in range(first, len(steps) + 1):
            run.log_completions(t, lines[t])
        run.completions_file.close()
        return (folder / "completions.jsonl").read_bytes()
    whole = write(1, False)
    part = whole[:round(kept * len(whole))]
    (folder / "completions.jsonl").write_bytes(part)
    there = max([entry["step"] for entry in read_jsonl(folder / "completions.jsonl")], default=0)
    assert write(round(checkpoint * max(0, there - 1)) + 1, True) == whole
    assert read_completions(folder) == [entry for t in lines for entry in lines[t]]
    last = {}
    for full, short in zip(read_completions(folder), read_jsonl(folder / "completions.jsonl")):
        assert (short["prompt"] is None) == (full["prompt"] == last.get(full["origin"]))
        last[full["origin"]] = full["prompt"]


def test_completions_are_kept_as_the_model_wrote_them(tmp_path):
    """A small Llama 3 with its chat template. Catches: a prompt without the template, a completion
    without its special tokens, an origin that is never shown."""
    task = WordSearch(target="mob", prompt_style="bundled")
    run_search(tmp_path / "r", task, model=str(folder_of("llama3")), preset="paper", steps=3,
               n_on_policy=5, n_greedy=1, n_neighbors=4, max_new_tokens=12, lora_r=4)
    lines = read_completions(tmp_path / "r")
    assert [(one["step"], one["origin"]) for one in lines] == [
        (t, origin) for t in (1, 2, 3) for origin in ("on-policy",) * 2 + ("neighbor",) * 2]
    proposals = [one["proposal"] for one in lines]
    assert proposals == [t + p for t in (0, 9, 18) for p in (1, 2, 6, 7)]
    known = [e.candidate for e in read_evaluations(tmp_path / "r")]
    requests = {"on-policy": {task.prompt()},
                "neighbor": {task.variation_prompt([word]) for word in known}}
    for one in lines:
        assert one["prompt"] in {
            f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{request}"
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            for request in requests[one["origin"]]}
        ends = one["completion"].endswith(("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"))
        assert one["cut"] is not ends


def test_what_was_read_from_a_completion_stands_beside_it(tmp_path):
    """Catches: scores from before the scoring, a repeat that looks new, a candidate beside another
    one's completion."""
    run_search(tmp_path / "r", Letters(), steps=12)
    evaluations = {e.candidate: e for e in read_evaluations(tmp_path / "r")}
    repeats = []
    for one in read_completions(tmp_path / "r"):
        [read] = one["read"]
        e = evaluations[read["candidate"]]
        assert one["completion"] == f"{e.candidate} <eos>"
        assert (read["score"], read["valid"]) == (e.score, e.valid)
        assert read["repeat"] is (e.proposal != one["proposal"])
        repeats.append(read["repeat"])
    assert set(repeats) == {True, False}


def test_several_candidates_of_a_completion_stand_together():
    """They share the completion's tokens. Catches: a list of ten words that looks like ten
    completions; two equal completions that look like one; rows that never were completions."""
    def row(tokens, candidate=None):
        return migrate.Row("on-policy", [], tokens, candidate)
    one, same = [1, 2], [1, 2]
    rows = [row(one, "a"), row(same, "a"), row(one, "b"), row([]), row([3])]
    assert [[r.candidate for r in of_one] for of_one in by_completion(rows)] == [
        ["a", "b"], ["a"], [None]]


class Unreadable(Letters):
    def parse(self, completion):
        return []


class Unscored(Letters):
    def score(self, candidates):
        return ((c, Score(0.0, valid=False)) for c in candidates)


@dataclasses.dataclass
class Styled(Unreadable):
    prompt_style: str = ""      # how to ask


@pytest.mark.parametrize("task, settings, says", [
    (Unreadable(), {}, r"warning: no candidate could be read from the 8 completions of the first "
                       r"step, such as '\w+ <eos>'\. See completions\.jsonl in the run's folder\. "
                       r"Look at prompt\(\) and parse\(\) of the task\."),
    (Styled(), {"max_new_tokens": 1},
     r"warning: no candidate .* such as '\w+'\. See completions\.jsonl in the run's folder\. "
     r"8 of 8 were cut: give more --max-new-tokens\. Try another --prompt-style\."),
    (Unscored(), {}, r"warning: none of the 8 candidates of the first step is valid, such as "
                     r"'\w+'\. See completions\.jsonl .*"),
    (Letters(), {}, None),
])
def test_a_warning_after_the_first_step_if_nothing_can_be_used(task, settings, says, tmp_path,
                                                               capsys):
    """Catches: a prompt or a parser that does not work, which shows only as a best score of 0."""
    migrate.run(task, steps=2, out=str(tmp_path / "r"), **settings)
    warnings = [one for one in capsys.readouterr().out.splitlines() if one.startswith("warning")]
    assert len(warnings) == (says is not None)
    assert says is None or re.fullmatch(says, warnings[0])


def test_a_warning_quotes_one_short_line():
    """Catches: a completion that takes over the terminal."""
    assert quote("a\x1b[2J\nb") == r"'a\x1b[2J\nb'"
    assert len(quote("\n" * 500)) == 100 and quote("\n" * 500).endswith("\u2026")


# -------------------------------------------------------------------------------- on the screen

def test_the_bar_counts_what_is_fixed_and_shows_the_best():
    before = [evaluation(0, 0.5, step=0, candidate="warm"), evaluation(1, 0.0, valid=False)]
    after = {"step": 4, "proposals": 44}
    for unit, expected in (("evaluations", (1, 2, 2)), ("steps", (4, 4, 5)),
                           ("proposals", (44, 44, 56))):
        with ProgressBar(99, unit, before, after) as bar:           # resumed after step 4
            seen = [bar.n]
            assert str(bar).startswith("best 0.500 'warm' ")
            bar.scored(evaluation(2, 0.7, step=5, candidate="better"))
            bar.scored(evaluation(3, 0.7, step=0, candidate="as good, later"))
            seen.append(bar.n)
            assert str(bar).startswith("best 0.700 'better' ")
            bar.stepped({"step": 5, "proposals": 56})
            assert (*seen, bar.n) == expected


def test_a_bar_fits_a_narrow_terminal_and_what_a_scorer_prints_stands_above_it(monkeypatch):
    """What a terminal of 50 columns shows. Catches: a bar that wraps, output that it tears, a
    candidate that ends the line or moves the cursor."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    with open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", terminal)
        with ProgressBar(1000, "proposals", [], {"step": 0, "proposals": 0}) as bar:
            bar.scored(evaluation(1, 0.1234, candidate="a very long candidate\n\x1b[2J" * 9))
            print("scoring", "it")
            bar.say("a remark")
            bar.stepped({"step": 70, "proposals": 700})
        monkeypatch.undo()
        terminal.flush()
        shown = b""
        while select.select([master], [], [], 0)[0]:
            shown += os.read(master, 4096)
        shown = shown.decode()
    frames = [frame.rstrip() for frame in re.split("[\r\n]", shown)]
    assert "scoring it" in frames and "a remark" in frames and "\x1b[2J" not in shown
    bars = [frame for frame in frames if "/1000" in frame]
    assert all(len(frame) <= 50 for frame in bars)
    assert bars[-1].startswith("best 0.123 'a very lon…") and "70% 700/1000 " in bars[-1]


def test_without_a_terminal_there_are_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr("runlog.bar.EVERY", 0.0)
    with ProgressBar(10, "steps", [], {"step": 0}) as bar:
        bar.scored(evaluation(1, 0.25, candidate="one"))
        for step in range(1, 4):
            bar.stepped({"step": step})
        bar.say("a \x1bremark")
    out, err = capsys.readouterr()
    assert out == "a \u00b7remark\n" and "\r" not in err
    assert err.splitlines()[-1].startswith("best 0.250 'one' 30% 3/10 steps ")


# --------------------------------------------------------------------------- settings from files

def settings_of(*argv) -> dict:
    return from_flags(flags.with_files([str(word) for word in argv]), migrate.Config(),
                      migrate.METHODS, load_task_class)


def test_settings_come_from_a_file_and_flags_win(tmp_path):
    """YAML takes 1e-3 for a string, and a run's config.json has its settings in parts."""
    file = tmp_path / "settings.yaml"
    file.write_text("task: arc\ntarget: 00576224\nlr: 1e-3\nmask_zero: false\nsteps: 3\n"
                    "budget:\n")
    given = {"task": "arc", "target": "00576224", "lr": 1e-3, "mask_zero": False, "steps": 3,
             "config": str(file)}           # an octal number, had it been one
    assert settings_of("--config", file) == given
    assert settings_of("--config", file, "--lr", "2", "--mask-zero") == \
        given | {"lr": 2.0, "mask_zero": True}
    for text, says in (("lr: {a: 1}", "lr should be one value"), ("3", "holds no settings"),
                       ("lrr: 1", "Unrecognized options: --lrr"), ("lr: x", "Error parsing --lr"),
                       ("{", "cannot be read"), ("1: 2", "is no setting")):
        file.write_text(text)
        with pytest.raises(errors.UserError, match=says):
            settings_of("--config", file)
    with pytest.raises(errors.UserError, match="cannot be read"):
        settings_of("--config", tmp_path / "nothing.yaml")


def test_a_run_goes_on_with_its_own_settings(tmp_path, monkeypatch, capsys):
    """Whatever the presets say by then. Catches: a setting that the record does not bring back."""
    run = tmp_path / "r"
    whole = migrate.run("wordsearch", target="mob", method="migrate+novelty", max_draws=2,
                        proposals=27, seed=3, lr=2e-3, warm_start_words=4, out=str(run))
    ledger = (run / "evals.jsonl").read_bytes()
    for name in ("summary.json", "checkpoint/state.pt", "evals.jsonl", "steps.jsonl"):
        (run / name).unlink()
    monkeypatch.setitem(WordSearch.presets, "tiny", WordSearch.presets["tiny"] | {"lr": 9.0})
    again = migrate.run(resume=str(run))
    assert (run / "evals.jsonl").read_bytes() == ledger
    del whole["seconds"], again["seconds"]
    assert whole == again
    with pytest.raises(errors.UserError, match="there is no run in"):
        migrate.run(resume=str(tmp_path / "nowhere"))


def small_run(folder, **given) -> dict:
    """A search of six steps; its summary without times."""
    summary = migrate.run("wordsearch", target="mob", preset="tiny", method="migrate", steps=6,
                          n_on_policy=3, n_neighbors=3, warm_start_words=4,
                          **{"out": str(folder), **given})
    del summary["seconds"]
    return summary


def test_two_processes_never_write_into_one_folder(tmp_path, capsys):
    """Catches: two resumes of one run, and a lock that a killed process leaves behind."""
    folder = tmp_path / "r"
    small_run(folder)
    (folder / "summary.json").unlink()
    program = ("import sys, time; from pathlib import Path; from runlog.folder import locked\n"
               f"file = locked(Path({str(folder)!r})); print('ready', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", program], cwd=HERE, stdout=subprocess.PIPE,
                          text=True) as other:
        assert other.stdout.readline() == "ready\n"
        assert errors.exit_code(migrate.main, ["--resume", str(folder)]) == 2
        assert f"is in use by process {other.pid} on " in capsys.readouterr().err
        other.kill()
    assert errors.exit_code(migrate.main, ["--resume", str(folder)]) == 0


def test_a_child_that_lives_on_does_not_keep_the_folder(tmp_path):
    """Catches: a run of a notebook that cannot be resumed while its scorer's processes live."""
    small_run(tmp_path / "r")
    (tmp_path / "r" / "summary.json").unlink()
    record = read_json(tmp_path / "r" / "config.json")
    run = Run(tmp_path / "r", record, resume=True)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
    child.start()
    run.close()
    Run(tmp_path / "r", record, resume=True).close()
    child.kill()
    child.join()


def damaged(name: str, change):
    """Changes the lines of a file in a run's folder."""
    def damage(folder):
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        (folder / name).write_bytes(b"".join(change(lines)))
    return damage


def rekeyed(part: str):
    """Makes a checkpoint one of another version: a part of it has another key."""
    def damage(folder):
        path = folder / "checkpoint" / "state.pt"
        saved = torch.load(path)
        saved[part]["another"] = saved[part].popitem()[1]
        torch.save(saved, path)
    return damage


@pytest.mark.parametrize("damage, told", [
    (damaged("evals.jsonl", lambda lines: lines[:9] + lines[11:]), True),           # missing
    (damaged("evals.jsonl", lambda lines: lines[:9] + lines[8:]), True),            # doubled
    (damaged("evals.jsonl", lambda lines: [*lines[:9], b"\xff{]\n", *lines[10:]]), True),
    (damaged("evals.jsonl", lambda lines: [*lines[:9], b'{"index": "x"}\n', *lines[10:]]), True),
    (damaged("evals.jsonl", lambda lines: [
        line.replace(b'"index": 9,', b'"index": 8,') for line in lines]), True),
    (damaged("evals.jsonl", lambda lines: [*lines, lines[0][:20]]), False),         # torn
    (damaged("steps.jsonl", lambda lines: lines[:2] + lines[3:]), True),
    (damaged("steps.jsonl", lambda lines: [*lines, b'{"step": 7, "prop']), False),
    (damaged("completions.jsonl", lambda lines: [*lines[:2], b"}{\n", *lines[3:]]), False),
    (damaged("checkpoint/state.pt", lambda lines: lines[:1]), True),
    (rekeyed("state"), True),
    (rekeyed("lora"), True),
    (rekeyed("optimizer"), True),
    (lambda folder: (folder / "checkpoint" / "state.pt").unlink(), False)])
def test_a_damaged_run_is_told_and_ends_as_the_whole_one(damage, told, tmp_path, capsys):
    """What evals.jsonl still holds is not scored again, and ledger, weights and summary are those
    of a run that nothing happened to."""
    whole, folder = tmp_path / "whole", tmp_path / "r"
    expected = small_run(whole)
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    damage(folder)
    capsys.readouterr()
    assert errors.exit_code(migrate.main, ["--resume", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert ("files are damaged" in out + err) == told and "Traceback" not in err
    summary = read_json(folder / "summary.json")
    del summary["seconds"]
    assert summary == expected
    before, after = (sorted(read_evaluations(f), key=lambda e: e.index) for f in (whole, folder))
    assert before == after
    assert len(read_jsonl(folder / "steps.jsonl")) == 6
    adapters = [(f / "adapter" / "adapter_model.safetensors").read_bytes() for f in (whole, folder)]
    assert adapters[0] == adapters[1]


def test_what_a_file_of_the_user_defines_can_be_pickled(tmp_path):
    """A scorer may use processes of its own, which get its functions by their module's name."""
    (tmp_path / "my.task.py").write_text("def f(x):\n    return x + 1\n")
    module = plugins.import_file(str(tmp_path / "my.task.py"))
    assert pickle.loads(pickle.dumps(module.f)) is module.f


def test_tokens_that_a_model_does_not_have_are_told(tmp_path, capsys):
    """A run of another model, or a stranger's file: no index error from within torch."""
    folder = tmp_path / "r"
    small_run(folder)
    (folder / "summary.json").unlink()
    for token, said in (("99999", "tokens that this model does not have"),
                        ("-5", "its files are damaged"), ("true", "its files are damaged")):
        text = (folder / "evals.jsonl").read_text()
        (folder / "evals.jsonl").write_text(re.sub(r'"tokens": \[\d+', f'"tokens": [{token}', text,
                                                   count=1))
        code = errors.exit_code(migrate.main, ["--resume", str(folder)])
        out, err = capsys.readouterr()
        assert said in out + err and "Traceback" not in err
        assert code == (2 if token == "99999" else 0)
        (folder / "summary.json").unlink(missing_ok=True)
        if code:
            (folder / "evals.jsonl").write_text(text)


def test_a_report_that_a_finished_run_lacks_is_made_when_it_is_resumed(tmp_path):
    """Ctrl-C between the end of the search and its page."""
    folder = tmp_path / "r"
    small_run(folder)
    (folder / "report.html").unlink()
    assert errors.exit_code(migrate.main, ["--resume", str(folder)]) == 0
    assert (folder / "report.html").exists()


def test_a_run_says_what_auto_became_and_goes_on_with_that_alone(tmp_path):
    """Catches a search that goes on with other weights than its LoRA weights were trained on: begun
    on a CPU, continued on a GPU."""
    folder = tmp_path / "r"
    small_run(folder)
    record = read_json(folder / "config.json")
    assert record["run"] == {"quantize": "none", "dtype": "fp32", "engine": "auto"}
    (folder / "summary.json").unlink()
    small_run(folder, resume=str(folder))               # which says "auto" again
    assert read_json(folder / "config.json") == record
    run = Run(folder, record, True)
    with pytest.raises(errors.UserError, match="begun with dtype fp32, not bf16: give --dtype"):
        run.note_weights({"quantize": "none", "dtype": "bf16"})


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_checkpoint_outlives_a_memory_that_is_full(error, tmp_path, monkeypatch):
    """Catches: no room on the GPU for the optimizer, and the checkpoint thrown away as damaged."""
    folder = tmp_path / "r"
    small_run(folder)
    (folder / "summary.json").unlink()
    before = (folder / "checkpoint" / "state.pt").read_bytes()
    steps = (folder / "steps.jsonl").read_bytes()

    def full(*_):
        raise error
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "load_state_dict", full)
        assert errors.exit_code(migrate.main, ["--resume", str(folder)]) in (1, 2)
    assert (folder / "checkpoint" / "state.pt").read_bytes() == before
    assert errors.exit_code(migrate.main, ["--resume", str(folder)]) == 0
    assert (folder / "steps.jsonl").read_bytes() == steps


def test_no_settings_are_no_licence_to_resume_with_others(tmp_path):
    folder = tmp_path / "r"
    small_run(folder)
    (folder / "summary.json").unlink()
    for text in ("{", "[1]", ""):
        (folder / "config.json").write_text(text)
        with pytest.raises(errors.UserError, match="config.json"):
            small_run(folder, resume=str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(errors.UserError, match="no config.json that says of what"):
        small_run(folder)


@pytest.mark.parametrize("lr", [1e30, 1e5])
def test_a_ruined_policy_is_told_and_stops(lr, tmp_path, capsys):
    argv = ["--target", "mob", "--preset", "tiny", "--steps", "3", "--lr", str(lr), "--out",
            str(tmp_path / "r")]
    assert errors.exit_code(migrate.main, argv) == 1
    out, err = capsys.readouterr()
    assert "a LoRA weight has become 1" in err and "Try a lower --lr" in err
    assert read_evaluations(tmp_path / "r") and "Traceback" not in err


def test_steps_without_a_valid_answer_are_told_once(tmp_path, capsys):
    class Refuses(Letters):
        def parse(self, completion):
            return super().parse(completion) if len(self.archive) < 8 else []
    migrate.run(Refuses(), steps=20, out=str(tmp_path / "r"))
    out = capsys.readouterr().out
    assert out.count("in the last 5 steps no answer was valid, such as") == 1


@settings(deadline=None, max_examples=60)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
                        st.sampled_from(["config", "run", "options", "modifiers", "task", "lr",
                                         "method", "steps", "out", "resume", "x"]), inner,
                        max_size=4), max_leaves=8))
def test_a_record_of_a_stranger_is_read_or_refused_in_one_line(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("r") / "config.json"
    path.write_text(json.dumps(record))
    try:
        settings_of("--resume", path.parent)
    except errors.UserError as error:
        assert "\n" not in str(error)


def test_code_runs_only_if_the_command_line_names_it(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    evil = str(tmp_path / "evil.py")
    for part, name, value in (("config", "task", evil), ("config", "method", f"{evil}:m"),
                              ("options", "arc_prelude", evil)):
        record = {"config": {"task": "arc"}, "options": {}}
        record[part][name] = value
        (tmp_path / "config.json").write_text(json.dumps(record))
        flag = "--" + name.replace("_", "-")
        with pytest.raises(errors.UserError, match=f"if you trust it, add {flag} {value}"):
            settings_of("--resume", tmp_path)
        with pytest.raises(errors.UserError, match="if you trust it"):
            settings_of("--config", tmp_path / "config.json")
    assert settings_of("--resume", tmp_path, "--arc-prelude", evil)["arc_prelude"] == evil


@pytest.mark.parametrize("text", [
    "target: [computer, --task, evil.py]", "'task=evil.py': true", "top_k: [3, --task, evil.py]",
    "arc-prelude: evil.py", "arc_prelude: evil.so", "'-task': evil.py", "task: [evil.py]",
    "{task: wordsearch, 'Task': evil.py}", "config: {task: arc, 'task=evil.py': true}",
    "{target: mob, 'target --task': evil.py}", "lr: [-x, --method, 'evil.py:m']"])
def test_no_spelling_in_a_file_of_settings_becomes_code(text, tmp_path, monkeypatch):
    """Catches: a value that is read as a flag of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('it ran', 'w')")
    (tmp_path / "config.json").write_text(text)
    for flag, value in (("--config", "config.json"), ("--resume", ".")):
        with pytest.raises(errors.UserError, match="code: if you trust it|is no setting"):
            settings_of(flag, value)
    assert not (tmp_path / "it ran").exists()


def test_the_first_lines_say_what_is_not_the_papers():
    """Catches: a preset that passes for the paper's, a published method's group that does not."""
    def line(**given):
        config = migrate.resolve(given, WordSearch)
        method, modifiers = build_method(config, WordSearch, given, migrate.METHODS)
        return differences(config, method, modifiers, WordSearch.presets["paper"])
    for method in ("migrate", "grpo"):
        assert line(preset="paper", method=method) == "search settings: the paper's"
    novelty = line(preset="novelty")
    assert "budget 1000 (-)" in novelty and "lr 0.01 (5e-05)" in novelty
    assert "+novelty [max_draws 3, pull_only False, patience 0]" in novelty
    assert line(preset="paper", method="discover").endswith("but for method discover")
    assert line(preset="paper", n_greedy=2).endswith("but for n_greedy 2 (0)")
    assert line(preset="paper", proposals=30).endswith("but for proposals 30 (1000)")
    evaluations = line(preset="paper", method="grpo-greedy", budget=30)     # steps count nothing
    assert evaluations.endswith("but for budget 30 (-)")
    letters = migrate.resolve({"proposals": 30}, Letters)       # a paper preset that counts nothing
    assert "proposals 30 (1000)" in differences(letters, migrate.METHODS["migrate"], {}, {})


# ---------------------------------------------------------------------------------- presets

def resolved(task, **given):
    return migrate.resolve(given, TASKS[task])


@pytest.mark.parametrize("task, steps, group, top_k, lr, lora, mu, tokens", [
    ("wordsearch", 100, (0, 0, 10), 3, 5e-5, (64, 16), 2, 64),
    ("molecule", 40, (2, 1, 2), 1, 5e-5, (64, 16), 2, 256),
    ("arc", 64, (11, 1, 4), 1, 1e-5, (128, 32), 1, 1024),
])
def test_the_presets_called_paper_are_the_papers(task, steps, group, top_k, lr, lora, mu, tokens):
    """They count steps, and the replays are among a step's group. Catches: 50 steps for the 40 of
    the paper, because a count of proposals leaves the replays out; draws after the solution."""
    config = resolved(task, preset="paper")
    assert (config.n_on_policy, config.n_greedy, config.n_neighbors) == group
    assert (config.steps, config.top_k, config.lr) == (steps, top_k, lr)
    assert (config.lora_r, config.lora_alpha) == lora
    assert (config.inner_iterations, config.max_new_tokens) == (mu, tokens)
    assert config.budget is None and config.after_solved == 0 and config.mask_zero
    assert config.proposals == steps * (group[0] + group[2])
    size = sum(group)
    for method, drawn in (("ns", size), ("grpo", size), ("grpo-greedy", size - 1)):
        config = resolved(task, preset="paper", method=method)
        assert (config.steps, config.proposals) == (steps, steps * drawn)


def test_arcs_opro_of_the_paper_is_ns():
    """Their OPRO shows one program in ARC, the best. docs/differences.md says: take ns, whose
    parent under the preset is the best program. Catches: a top_k that makes this untrue."""
    archive = migrate.Archive()
    archive.add([evaluation(i, score) for i, score in enumerate((0.2, 0.9, 0.4))])
    top_k = resolved("arc", preset="paper").top_k
    for seed in range(5):
        rng = random.Random(seed)
        assert (migrate.one_of_top_k(archive, 1, top_k, rng)
                == migrate.ranked_list(1, archive, 1, top_k, rng))


def test_the_count_that_the_user_gives_replaces_the_presets():
    """(budget, steps, proposals). Catches: --proposals or --budget that the preset's steps
    override; a table that counts a run of many steps up to 1,000 proposals only."""
    def count(**given):
        config = resolved("molecule", preset="paper", **given)
        return config.budget, config.steps, config.proposals
    assert count() == (None, 40, 160)
    assert count(steps=300) == (None, 300, 1200)
    assert count(proposals=200) == (None, None, 200)
    with pytest.raises(errors.UserError, match="--steps or --budget"):
        count(budget=10, steps=3)
    assert count(budget=70)[0] == 70
    assert count(budget=None) == (None, 40, 160)


@pytest.mark.parametrize("task, preset, expected", [
    ("wordsearch", "tiny", (None, None, 1000, 0)), ("wordsearch", "novelty", (1000, None, 1000, 0)),
    ("molecule", "tiny", (None, None, 200, 0)), ("molecule", "novelty", (1000, None, 200, 0)),
    ("molecule", "screen", (1000, None, 200, 0)), ("molecule", "paper-group", (1000, None, 200, 0)),
    ("arc", "tiny", (None, None, 1024, 32)),
])
def test_the_presets_of_the_bundled_policies_count_proposals(task, preset, expected):
    """(budget, steps, proposals, after_solved). Catches: presets built on the paper's that take
    over its steps, and with them other results."""
    config = resolved(task, preset=preset)
    assert (config.budget, config.steps, config.proposals, config.after_solved) == expected


# ---------------------------------------------------------------------------- flags and plugins

@dataclasses.dataclass
class Base:
    rate: float = 0.5           # of something, 100%
    name: Literal["a", "b"] = "a"       # what it is called
    fast: bool = True           # a switch


@dataclasses.dataclass
class Other:
    rate: int = 1               # the first one wins
    count: int | None = None    # may be left out


def test_flags_are_the_fields_of_dataclasses(capsys):
    groups = {"one": flags.described(Base, {"rate": 0.7}), "two": flags.described(Other)}
    given = flags.parse(["--rate", "0.25", "--no-fast", "--count", "3"], groups)
    assert given == {"rate": 0.25, "fast": False, "count": 3}
    assert flags.parse(["--rate=0.7"], groups) == {"rate": 0.7}         # given, though no change
    with pytest.raises(SystemExit) as done:
        flags.parse(["--help"], groups)
    out = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0 and "of something, 100% (default: 0.7)" in out
    assert "--name {a,b}" in out and "two options" in out
    for wrong, says in ((["--rat", "1"], "--rat, 1 Perhaps you meant: --rate FLOAT"),
                        (["--count", "x"], "--count"), (["--name", "c"], "invalid choice 'c'")):
        with pytest.raises(errors.UserError, match=says) as error:
            flags.parse(wrong, groups)
        assert "\n" not in str(error.value)


def test_a_file_of_the_user_runs_once_and_its_errors_are_one_line(tmp_path):
    (tmp_path / "count.py").write_text(
        "import builtins\nbuiltins.runs = getattr(builtins, 'runs', 0) + 1\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for _ in range(3):
        plugins.import_file(str(tmp_path / "count.py"))
    assert builtins.runs == 1
    del builtins.runs
    with pytest.raises(errors.UserError, match="cannot be imported: ZeroDivisionError"):
        plugins.import_file(str(tmp_path / "broken.py"))


def test_help_and_mistakes_do_not_wait_for_torch():
    """Catches: an import of torch (more than a second) on the way to --help or to an error."""
    program = ("import sys, migrate; from runlog.errors import exit_code\n"
               "code = exit_code(migrate.main, ['--task', 'nonsense'])\n"
               "slow = {'torch._C', 'transformers', 'peft', 'rdkit'}\n"
               "print(code, sorted(slow & sys.modules.keys()))")
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True)
    assert done.stdout == "2 []\n", done.stderr
    assert slow.torch.__name__ == "torch"


def test_a_missing_torch_is_one_line(capsys):
    missing = slow.Later("no_such_module_at_all")
    assert errors.exit_code(lambda argv: missing.anything, []) == 2
    assert capsys.readouterr().err == ("error: No module named 'no_such_module_at_all': "
                                       "pip install -r requirements.txt\n")


def test_ctrl_c_during_an_import_waits_for_its_end(tmp_path, monkeypatch):
    """Libraries catch it while they are imported. Catches: half of a torch, and a traceback of
    something else."""
    (tmp_path / "catches.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    for _ in range(1000): pass\nexcept BaseException:\n    whole = False\n"
        "else:\n    whole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = slow.Later("catches")
    with pytest.raises(KeyboardInterrupt):
        module.whole                                                    # noqa: B018
    assert module.whole


def test_what_is_slow_to_import_waits_until_it_is_needed():
    """Catches: a library that finds a lazy torch in sys.modules and begins to import it; a plain
    search that imports bitsandbytes; 4-bit layers that peft takes for plain ones, because it was
    told before that there is no bitsandbytes."""
    program = """
import sys, migrate
sys.argv = ["migrate.py"]
try:
    migrate.main(["--help"])
except SystemExit:
    print()
found = ["torch" in sys.modules]
import torch._dynamo
from tests.support import folder_of, load
load(folder_of("llama3"))
found.append("bitsandbytes" in sys.modules)
policy = load(folder_of("llama3"), quantize="4bit")
print(*found, {type(m).__name__ for m in policy.model.modules() if hasattr(m, "lora_A")})"""
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True)
    assert done.stdout.endswith("\nFalse False {'Linear4bit'}\n"), done.stdout + done.stderr


def test_run_options_and_bounds():
    assert run_options({"engine": "plain", "lr": 1}) == RunOptions(engine="plain")
    for wrong in ({"engine": "magic"}, {"quantize": "8bit"}, {"micro_batch": -1}):
        with pytest.raises(errors.UserError):
            run_options(wrong)


HOSTILE = "\x1b]0;title\x07\x1b[2J\u202e\x9b31m\ud800"


class Terminal(Letters):
    """Its candidates would take over a terminal."""
    name = "terminal"

    def parse(self, completion):
        return [f"{word}\n{HOSTILE}" for word in super().parse(completion)]

    def render(self, candidate):
        return candidate.split("\n")[0]

    def score(self, candidates):
        for c in candidates:
            yield c, Score(len(c) / 100)

    def solved(self, score):
        return False


def test_nothing_that_a_model_or_a_stranger_wrote_reaches_the_terminal_raw(tmp_path, capsys):
    """Catches: control characters, direction marks and surrogates in lines of a search, in its
    summary, and in errors about a recorded setting."""
    folder = tmp_path / "run"
    migrate.run(Terminal(), steps=2, out=str(folder), seed=1)
    screen = "".join(capsys.readouterr())
    assert "\u00b7]0;title" in screen
    record = read_json(folder / "config.json")
    record["options"]["quantize"] = HOSTILE
    (folder / "config.json").write_text(json.dumps(record))
    for argv in (["--resume", folder], ["--config", folder / "config.json"], ["--task", HOSTILE],
                 ["sample", folder]):
        code, out, error = command_line(capsys, *argv)
        assert code == 2 and error.count("\n") == 1
        screen += out + error
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", screen)


def test_only_what_says_that_memory_is_short_is_told_as_that():
    """Catches: advice to choose a smaller model where something else went wrong."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60)
    assert errors.is_out_of_memory(refused.value)
    assert errors.is_out_of_memory(MemoryError()) and errors.is_out_of_memory(
        torch.OutOfMemoryError("CUDA out of memory"))
    assert not errors.is_out_of_memory(RuntimeError("the size of tensor a must match"))
    assert not errors.is_out_of_memory(OSError("out of memory"))
