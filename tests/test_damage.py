"""Run folders that are damaged, or that a stranger made: one line and exit code 2, nothing lost,
nothing written where a link leads."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migrate
from domains import pictures
from domains.contract import Checked
from domains.presets import OF_POLICY
from hub import card
from reports import __main__ as command
from reports import labels, measures, pages, records
from runlog import errors, flags, folder, plugins
from runlog import settings as settings_of_a_search
from runlog.errors import UserError, exit_code
from runlog.folder import Run
from runlog.ledger import read_evaluations
from runlog.settings import RunOptions
from tasks import Score
from tests.support import HERE, Letters, read_json
from tests.test_reports import evaluation, make_run
from tools import finished, sweep

SEARCH = ["--task", "wordsearch", "--target", "mob", "--preset", "tiny", "--proposals", "20"]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    assert exit_code(migrate.main, [*SEARCH, "--out", str(run)]) == 0
    return run


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def resumed(run) -> int:
    return exit_code(migrate.main, ["--resume", str(run)])


# --------------------------------------------------------------------------- what is there already

@pytest.mark.parametrize("line", ["", "no JSON\n"])
def test_the_files_of_a_finished_run_are_only_read(run, line, capsys):
    """Catches: logs that are thrown away to be made again, of a run that never goes on."""
    for name in ("steps.jsonl", "completions.jsonl", "evals.jsonl"):
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join([*lines[:1], line, *lines[2:]]))
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert resumed(run) == 0 and "is finished already" in capsys.readouterr().out
    after = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {name for name in before if before[name] != after[name]} <= {"report.html", "lock"}


@pytest.mark.parametrize("name", ["completions.jsonl", "steps.jsonl", "evals.jsonl", "lock"])
def test_a_folder_of_the_users_own_is_refused_and_left_as_it_is(tmp_path, name, capsys):
    (tmp_path / name).write_text("my data\n")
    assert exit_code(migrate.main, [*SEARCH, "--out", str(tmp_path)]) == 2
    assert f"{tmp_path}" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "my data\n"
    assert {path.name for path in tmp_path.iterdir()} <= {name, "lock"}


@pytest.mark.parametrize("name", ["evals.jsonl", "steps.jsonl", "completions.jsonl", "lock",
                                  "config.json", "error.log", "checkpoint/state.new", "adapter"])
def test_nothing_is_written_where_a_link_leads(run, name, tmp_path, capsys):
    """Also where the link leads to nothing yet. Catches: a run folder of a stranger that has a file
    of the user overwritten."""
    (run / "summary.json").unlink()
    victim = tmp_path / "victim"
    if (run / name).is_dir():
        shutil.rmtree(run / name)
        victim.mkdir()
        (victim / "README.md").write_text("mine")
    elif (run / name).exists():
        (run / name).rename(victim)
    (run / name).symlink_to(victim)
    before = victim.exists() and (victim / "README.md" if victim.is_dir() else victim).read_bytes()
    assert resumed(run) == 2
    assert f"{run / name} is a link or a pipe" in capsys.readouterr().err
    assert before == (victim.exists() and (
        victim / "README.md" if victim.is_dir() else victim).read_bytes())


def test_a_page_is_not_written_through_a_link(run, tmp_path):
    (tmp_path / "victim").write_text("mine")
    for name in ("report.html.new", "report.html"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / "victim")
    pages.write(run)
    assert (tmp_path / "victim").read_text() == "mine"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not (run / "report.html").is_symlink()


@pytest.mark.parametrize("name", ["evals.jsonl", "steps.jsonl", "completions.jsonl", "config.json",
                                  "summary.json"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(run, name):
    """In a process of its own, which is killed if it waits."""
    (run / name).unlink()
    os.mkfifo(run / name)
    for words in (["-m", "reports", str(run)], ["migrate.py", "--resume", str(run)]):
        done = subprocess.run([sys.executable, *words], cwd=HERE, timeout=60, capture_output=True,
                              text=True)
        assert done.returncode in (0, 2) and "Traceback" not in done.stderr


# -------------------------------------------------------------------------- damaged and odd values

@pytest.mark.parametrize("name, text", [
    ("summary.json", ""), ("summary.json", "{}"), ("summary.json", "[1]"),
    ("summary.json", '{"best": 5}'), ("config.json", ""), ("config.json", "[]")])
def test_a_finished_run_whose_record_is_damaged_says_so(run, name, text, capsys):
    (run / name).write_text(text)
    assert resumed(run) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("part, value", [("command", [5]), ("options", []), ("modifiers", 5)])
def test_a_finished_run_whose_settings_are_odd_says_so(run, part, value, capsys):
    record = read_json(run / "config.json")
    (run / "config.json").write_text(json.dumps(record | {part: value}))
    assert resumed(run) == 2 and capsys.readouterr().err.startswith("error: ")


def test_a_summary_that_is_empty_after_a_power_cut_is_made_again(run, capsys):
    """As the error says. Catches: a way out that leads nowhere."""
    whole = read_json(run / "summary.json")
    (run / "summary.json").write_text("")
    assert resumed(run) == 2 and f"remove it, then --resume {run}" in capsys.readouterr().err
    (run / "summary.json").unlink()
    assert resumed(run) == 0
    again = read_json(run / "summary.json")
    assert again | {"seconds": 0} == whole | {"seconds": 0}


@pytest.mark.parametrize("name, value", [
    ("max_new_tokens", 8.5), ("lora_r", 16.5), ("lora_targets", 5), ("model", None),
    ("mask_zero", "yes"), ("lr", "fast"), ("seed", True)])
def test_a_sample_of_a_run_with_odd_settings_says_so(run, name, value):
    record = read_json(run / "config.json")
    with pytest.raises(UserError, match=name.replace("_", "-")):
        finished.draw(record | {"config": record["config"] | {name: value}}, run / "adapter", 1, 0,
                      "", "")


def test_a_sample_in_a_precision_that_there_is_none_of_says_so(run):
    record = read_json(run / "config.json")
    with pytest.raises(UserError, match="--dtype takes one of auto, bf16, fp32"):
        finished.draw(record | {"run": {"dtype": "fp64"}}, run / "adapter", 1, 0, "", "")


def test_a_setting_may_be_a_whole_number_where_any_is_allowed():
    """Catches: a check of types that refuses lr=1, or a folder that is a Path."""
    flags.check_bounds(migrate.Config(lr=1, temperature=2), {})
    flags.check_bounds(RunOptions(out=HERE, micro_batch=2), {})


def test_reports_take_any_number_and_any_name(tmp_path, capsys):
    """Catches: an index that no memory holds, a modifier that is called as a setting is, a number
    of steps that is text, and names of folders that move the cursor."""
    assert measures.auc_top([0.5, 0.7], 2**53, [1, 2**52]) == pytest.approx(0.55)
    record = {"config": {"task": "wordsearch", "preset": "tiny"}, "modifiers": {"lr": {"a": 1}}}
    assert "a" not in labels.differing_from_preset("migrate", records.clean_record(record))
    row = make_run(tmp_path / "odd\033[31m\007", [evaluation(0, "gang", 0.5)], task="arc",
                   target="3c9b0459")
    config = read_json(row / "config.json")
    config["config"]["steps"] = "q_proj"
    (row / "config.json").write_text(json.dumps(config))
    assert exit_code(command.main, [str(tmp_path)]) == 0
    assert exit_code(command.main, [str(row), "--html"]) == 0
    unfinished = tmp_path / "also\033[31m"
    shutil.copytree(row, unfinished)
    (unfinished / "summary.json").unlink()
    exit_code(command.main, [str(tmp_path)])
    said = capsys.readouterr()
    assert "is not finished" in said.err and "\033" not in said.out + said.err


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.data())
def test_the_area_under_a_curve_is_that_of_every_hundredth_guess(scores, data):
    """However far apart the scores came. Catches: a stretch without any that is left out."""
    guesses = st.lists(st.integers(1, 3000), min_size=len(scores), max_size=len(scores))
    at = sorted(data.draw(guesses))
    area, last, before = 0.0, 0.0, 0
    for n in [*range(100, at[-1], 100), at[-1]]:
        best = sorted(score for score, guess in zip(scores, at) if guess <= n)[-10:]
        mean = sum(best) / max(1, len(best))
        area, last, before = area + (n - before) * (last + mean) / 2, mean, n
    whole = (area + (5000 - before) * last) / 5000
    assert measures.auc_top(scores, 5000, at) == pytest.approx(whole)


def test_the_policies_that_bring_presets_are_those_in_tiny():
    assert {*settings_of_a_search.BUNDLED, ""} == OF_POLICY.keys()
    assert all((HERE / "tiny" / name / "config.json").exists()
               for name in settings_of_a_search.BUNDLED)


def test_a_molecule_that_is_too_large_to_see_is_not_drawn():
    """To draw it takes minutes."""
    assert pictures.molecule("C" * 4000) is None and pictures.molecule("CCO")


def test_a_card_of_a_run_without_versions_can_be_written():
    assert card.versions_in({}) == ""
    assert card.versions_in({"versions": {"torch": "2", "peft": "1"}}) == "torch 2, peft 1"


# ----------------------------------------------------------------------------- code and its results

def test_what_a_scorer_says_besides_is_what_a_resumed_run_reads():
    """Catches: conclude() that gets a tuple and numbers as names, and after --resume a list and
    text."""
    class Said(Letters):
        info: object = {"place": (1, 2), 3: "three"}

        def score(self, candidates):
            yield from ((c, Score(0.5, info=self.info)) for c in candidates)
    [(_, score)] = Checked(Said()).score(["a"])
    assert score.info == {"place": [1, 2], "3": "three"} == json.loads(json.dumps(score.info))
    Said.info = None
    with pytest.raises(errors.TaskFailed, match="an info that is no dict that JSON can hold: None"):
        list(Checked(Said()).score(["a"]))


def test_a_candidate_to_begin_with_may_hold_half_a_character():
    class Half(Letters):
        def warm_start(self, seed):
            return ["a\udcff"]
    assert Checked(Half()).warm_start(0) == ["a?"]


def test_a_task_that_cannot_be_made_is_one_line(tmp_path, capsys):
    """Whatever it raises."""
    task = tmp_path / "mine.py"
    for line in ("open('no-such-file')", "assert False, 'why'", "raise RuntimeError('no')"):
        task.write_text((HERE / "examples" / "task_word.py").read_text().replace(
            "    def prompt(self)", f"    def __post_init__(self):\n        {line}\n\n"
            "    def prompt(self)", 1))
        assert exit_code(migrate.main, ["--task", str(task), "--out", str(tmp_path / "r")]) == 2
        assert "cannot be made with these options" in capsys.readouterr().err


def test_an_error_that_holds_half_a_character_is_told(tmp_path, capsys):
    class Bad(Letters):
        def score(self, candidates):
            raise ValueError("bad \udcff name")
    with pytest.raises(errors.TaskFailed):
        migrate.run(Bad(), model="tiny/wordsearch", preset="tiny", steps=1, out=str(tmp_path / "r"))
    assert "bad" in (tmp_path / "r" / "error.log").read_text()
    assert "the traceback is in" in capsys.readouterr().err


def test_a_folder_is_let_go_where_the_disk_is_full(tmp_path):
    """Catches: a notebook that has to be restarted before the run can go on."""
    first = Run(tmp_path / "run", {"config": {}}, False)
    first.evals_file.close()
    first.evals_file = open("/dev/full", "w")
    first.evals_file.write("x" * 10)
    with pytest.raises(OSError):
        first.close()
    folder.locked(tmp_path / "run").close()


# ------------------------------------------------------------------------------------ command lines

LONG = 300 * "x"


@pytest.mark.parametrize("argv", [
    ["--resume", LONG], ["--task", LONG + ".py"], ["--task", "arc", "--arc-file", LONG],
    ["--model", LONG, "--out", "OUT"], ["--method", LONG + ".py:x"], ["sample", LONG],
    ["push", LONG, "USER/NAME"], ["--model", "tiny/words", "--out", "OUT"],
    ["--task", "arc", "--arc-prelude", "README.md", "--out", "OUT"]])
def test_a_name_that_is_none_is_one_line(argv, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(HERE)
    argv = [str(tmp_path / "out") if word == "OUT" else word for word in argv]
    assert exit_code(migrate.main, argv) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_file_of_settings_with_a_zero_byte_is_refused(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"out": "a\0b"}))
    with pytest.raises(UserError, match="'out' is no setting, or has a value that is"):
        flags.settings_in(tmp_path / "mine.json")


def test_a_file_among_the_methods_without_its_table_is_named(tmp_path, monkeypatch):
    (tmp_path / "forks").mkdir()
    (tmp_path / "forks" / "mine.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="mine.py has no METHODS, the table of what it adds"):
        plugins.find("other", {}, tmp_path / "forks")


def test_a_prelude_is_a_python_file(tmp_path):
    (tmp_path / "mine.txt").write_text("x = 1")
    with pytest.raises(UserError, match="should end in .py"):
        plugins.import_file(str(tmp_path / "mine.txt"))


@pytest.mark.parametrize("setup, program, code, said", [
    ("PYTHONIOENCODING=latin-1", "print('\\u4e2d')", 0, "\\u4e2d"),
    ("", "raise BrokenPipeError(32, 'Broken pipe')", 141, ""),
    ("", "open('no-such-file')", 2, "error: no-such-file: No such file or directory")])
def test_what_the_terminal_or_the_system_refuses_is_no_traceback(setup, program, code, said):
    program = f"from runlog.errors import exit_code\ndef main(argv): {program}\n" \
              "raise SystemExit(exit_code(main, []))"
    done = subprocess.run(["env", *filter(None, [setup]), sys.executable, "-c", program], cwd=HERE,
                          capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_takes_no_longer_command_for_the_same(tmp_path, capsys):
    """Catches: the run of another target, whose command ends alike."""
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "summary.json").write_text("{}")
    (tmp_path / "searches").write_text(f"migrate.py --steps 4 --out {run}\n")
    argv = ["--out", str(tmp_path / "runs"), "--file", str(tmp_path / "searches")]
    for command_of_run, code in ((["--steps", "4", "--out", "b"], 0), (
            ["--target", "mob", "--steps", "4", "--out", "b"], 2)):
        (run / "config.json").write_text(json.dumps({"command": command_of_run}))
        assert sweep.main(argv) == code
    (run / "config.json").write_text("")
    assert sweep.main(argv) == 2 and "config.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [["--jobs", "0"], ["--jobs", "-1"], ["--parts", "0"],
                                   ["--file", "no-such-file"], ["--file", "/bin/true"]])
def test_a_sweep_with_odd_arguments_is_one_line(extra, tmp_path, capsys):
    (tmp_path / "searches").write_text(f"migrate.py --steps 4 --out {tmp_path / 'a'}\n")
    argv = ["--out", str(tmp_path), "--file", str(tmp_path / "searches"), *extra]
    assert sweep.main(argv) == 2 and capsys.readouterr().err.startswith("error: ")
    assert read_evaluations(tmp_path / "a") == []
