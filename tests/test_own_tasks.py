"""Tasks of the user's own: scores of any scale, functions, presets and prompts of the bundled
policies, the examples, and how a search ends."""
# It keeps transformers offline, and has to be imported before it.
from tests.support import HERE, Letters, command_line, folder_of, read_json, run_search

# isort: split
import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migrate
import tasks
from domains import presets
from domains.bundled import OPENINGS, neighbor_prompt
from domains.prompts import ask_for_variation
from domains.ranks import ranks
from examples.task_expression import Expression
from examples.task_program import Life
from examples.task_word import Word
from methods.discover import puct_parent
from migrate import METHODS, Archive
from runlog import ending, flags
from runlog.errors import TaskFailed, UserError
from runlog.ledger import Evaluation, best_first, read_evaluations, read_jsonl
from runlog.settings import presets_of
from tasks import Arc, Checked, Molecule, Score, Task, WordSearch

# ------------------------------------------------------------------------ scores of any scale


def evaluation(index, score, valid=True, lower=False):
    info = {"lower_is_better": True} if lower else {}
    return Evaluation(index, 1, index, "on-policy", [], f"c{index}", score, valid, info=info)


def row(score, valid=True):
    return SimpleNamespace(score=score, valid=valid)


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FINITE, st.booleans()), min_size=1, max_size=30), st.booleans())
def test_ranks_keep_the_order_of_valid_scores_and_put_invalid_ones_below(scores, lower):
    """Catches: an invalid candidate that is better than a valid one, equal scores with different
    ranks, a scale that matters, a worst valid one that mask_zero would take for invalid."""
    known = [evaluation(i, s, v, lower) for i, (s, v) in enumerate(scores)]
    half = len(known) // 2
    rows = [row(s, v) for s, v in scores]
    found = ranks(Archive(known), [], rows, lower)
    assert found == ranks(Archive(known[:half]), known[half:], rows, lower)
    assert all((0 < rank <= 1) if valid else rank == 0 for rank, (_, valid) in zip(found, scores))
    for a, (s, valid) in zip(found, scores):
        for b, (t, other) in zip(found, scores):
            if valid and other:
                assert (a < b) == (s > t if lower else s < t)


def test_ranks_are_the_same_in_another_unit_and_do_not_drown_in_one_huge_score():
    """Catches: a normalisation by the range of the archive, in which 10^12 hides the rest."""
    def of(scores):
        known = Archive(evaluation(i, s) for i, s in enumerate(scores))
        return ranks(known, [], [*map(row, scores)], False)
    assert of([3, 1, 2, 1e12]) == of([-7, -9, -8, -6]) == [0.75, 0.25, 0.5, 1.0]
    assert of([5, 5, 5, 5]) == [0.625] * 4              # a group without differences: skipped


class Distance(Letters):
    """The distance of a word's length from 7, and more for some letters: the lowest is the best."""
    name, lower_is_better, solved_at = "distance", True, -1000

    def score(self, candidates):
        for c in candidates:
            yield c, tasks.INVALID if "z" in c else 1000 * abs(len(c) - 7) + c.count("e")


def test_a_search_on_a_scale_of_its_own_keeps_raw_scores_and_trains_on_ranks(tmp_path, capsys,
                                                                              monkeypatch):
    """Catches: parents that are the worst, a summary or a bar of the wrong end, an update on raw
    scores, a resumed search that differs."""
    seen, train = [], METHODS["migrate"].advantages

    def spy(rows, scores):
        seen.append((scores.tolist(), [row.valid for row in rows]))
        return train(rows, scores)
    monkeypatch.setitem(METHODS, "spy", dataclasses.replace(METHODS["migrate"], advantages=spy))
    summary = migrate.run(Distance(), steps=6, method="spy", out=str(tmp_path / "a"))
    evaluations = read_evaluations(tmp_path / "a")
    valid = [e for e in evaluations if e.valid]
    assert summary["best_score"] == min(e.score for e in valid) and not summary["solved"]
    assert max(e.score for e in valid) >= 1000
    best = best_first(evaluations, 3)
    assert [e.score for e in best] == sorted(e.score for e in valid)[:3]
    for step in {e.step for e in evaluations} - {0, 1}:
        parents = {p for e in evaluations if e.step == step for p in e.parents}
        before = best_first([e for e in evaluations if e.step < step], 3)
        assert parents <= {e.candidate for e in before}
    for scores, are_valid in seen:
        assert all((0 < s <= 1) == ok and (s == 0) != ok for s, ok in zip(scores, are_valid))
    steps = read_jsonl(tmp_path / "a" / "steps.jsonl")
    assert all(0 <= step["neighbor"]["score_max"] <= 1 for step in steps if "neighbor" in step)
    assert "the best is" not in capsys.readouterr().out     # there is a score that would solve it


def test_scores_from_0_to_1_are_trained_on_as_they_are():
    """Catches: ranks where the paper has scores."""
    rows = [row(0.25), row(0.5), row(0.0, False)]
    for task in (WordSearch(), Letters(), Task()):
        assert task.as_rewards(Archive([evaluation(0, 0.9)]), rows) == [0.25, 0.5, 0.0]


@pytest.mark.parametrize("lower, at, score, solved", [
    (False, 1.0, 1.0, True), (False, 1.0, 0.99, False), (False, None, 9e9, False),
    (False, 500, 500, True), (True, 0, 0, True), (True, 0, 0.1, False), (True, 0, -3, True)])
def test_solved_at_ends_a_search_from_the_right_side(lower, at, score, solved):
    """Catches: a distance that ends the search when it is large; an invalid candidate, whose score
    is 0, as the solution of a task whose best score is 0."""
    task = Task()
    task.lower_is_better, task.solved_at = lower, at
    assert task.solved(Score(score)) == solved
    assert not task.solved(Score(0.0, valid=False))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_scores_of_any_scale_are_finite(value):
    """Catches: an archive that cannot be sorted, JSON that nothing else can read."""
    class Wild(Letters):
        solved_at = None

        def score(self, candidates):
            yield candidates[0], value
    with pytest.raises(TaskFailed, match="must be a finite number"):
        list(Checked(Wild()).score(["a"]))


def test_puct_takes_the_lowest_score_for_the_best_where_a_task_says_so():
    """Catches: a method that looks at raw scores."""
    archive = Archive()
    archive.add([evaluation(0, 50.0, lower=True), evaluation(1, 3.0, lower=True)])
    assert puct_parent(archive, 2, 3, None)[0].score == 3.0


# ---------------------------------------------------------------------- a function and a prompt

PROMPT = "Guess the hidden word. Answer with one English word."


def count_vowels(word):
    return None if "z" in word else sum(letter in "aeiou" for letter in word)


def test_a_function_and_a_prompt_are_enough(tmp_path, capsys):
    """Catches: a function that has to be put into a class, a count of 1 that ends the search, a
    warning about prompts that the policy knows."""
    summary = migrate.run(score=count_vowels, prompt=PROMPT, model="tiny/wordsearch", steps=4,
                          out=str(tmp_path / "a"))
    screen = capsys.readouterr().out
    evaluations = read_evaluations(tmp_path / "a")
    assert summary["task"] == "count_vowels" and summary["steps"] == 4
    assert summary["best_score"] == max(e.score for e in evaluations) > 1
    assert all(e.score == count_vowels(e.candidate) for e in evaluations if e.valid)
    assert "warning" not in screen and "the best is" in screen and "try next" not in screen
    assert summary["preset"] == "screen"
    prompts = [line["prompt"] for line in read_jsonl(tmp_path / "a" / "completions.jsonl")]
    assert any("meaning is close to" in (prompt or "") for prompt in prompts)


def test_the_functions_of_a_search_can_be_all_four(tmp_path):
    """parse and variation_prompt. Catches: options that reach nothing; a run that cannot go on."""
    asked, out = [], str(tmp_path / "a")

    def vary(parents):
        asked.append(parents)
        return f"Guess the hidden word. Its meaning is close to: {parents[-1]}. Answer with one " \
               "English word."
    given = dict(score=len, prompt=PROMPT, model="tiny/wordsearch", out=out, lower_is_better=True,
                 parse=lambda text: text.upper().strip() or None, variation_prompt=vary,
                 solved_at=0)
    summary = migrate.run(steps=3, **given)
    assert asked and asked[0][0].isupper() and summary["best"].isupper()
    assert summary["best_score"] == min(e.score for e in read_evaluations(out))
    assert migrate.run(**(given | dict(steps=3, resume=out))) == summary


@pytest.mark.parametrize("changed, reason", [
    (dict(score=lambda c: "high"), "must return a finite number, or None for an invalid candidate, "
                                   "not the str 'high'"),
    (dict(score=lambda c: math.nan), "must return a finite number"),
    (dict(score=lambda c: 1 / 0), "raised ZeroDivisionError"),
    (dict(score=lambda c: exit(1)), "called sys.exit(1)"),
    (dict(parse=str.split), "must return a string, the candidate, or None, not the list"),
    (dict(parse=lambda text: text.split()), "must return a string, the candidate, or None"),
    (dict(variation_prompt=lambda parents: None), "must return a string, or a list of turns")])
def test_a_fault_of_a_function_is_one_line_with_its_place(changed, reason):
    """Catches: a line of the project's own code as the place of the user's mistake."""
    task = Checked(tasks.from_function(dict(score=len, prompt=PROMPT) | changed))
    with pytest.raises(TaskFailed) as caught:
        task.parse("two words")
        task.variation_prompt(["stone"])
        list(task.score(["stone"]))
    assert reason in str(caught.value)
    place = str(caught.value).removeprefix(f"{HERE}/").partition(": ")[0]
    assert place == "split" or re.fullmatch(r"tests/test_own_tasks\.py:\d+", place)


@pytest.mark.parametrize("given, reason", [
    (dict(score=len), "takes a function that scores one candidate, and a prompt"),
    (dict(score=0.5, prompt=PROMPT), "takes a function"),
    (dict(prompt=PROMPT), "no setting prompt"),
    (dict(score=len, prompt=["a"]), "a prompt, which is a string or a list of turns"),
    (dict(score=len, prompt=PROMPT), "no policy is bundled for len"),
    (dict(task="wordsearch", score=len), "no setting score")])
def test_what_is_no_search_of_a_function_is_refused(given, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        migrate.run(**given, out=str(tmp_path / "r"))


def test_text_for_a_number_and_a_file_that_ends_python_are_refused(tmp_path):
    """From Python, where no flag is parsed."""
    with pytest.raises(UserError, match="--seed must be a whole number, not '1'"):
        migrate.run("wordsearch", seed="1", out=str(tmp_path / "r"))
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(UserError, match="ends.py cannot be imported: SystemExit: 0"):
        migrate.run(str(tmp_path / "ends.py"), out=str(tmp_path / "r"))


@pytest.mark.parametrize("line, reason", [
    ("score_seconds = 10.0", "sets score_seconds without its type. Write score_seconds: float = "
                             "10.0, and @dataclass above the class"),
    ("target = 'stone'", "sets target without its type. Write target: str = 'stone'"),
    ("target: str = 'stone'", "Write target: str = 'stone', and @dataclass above the class"),
    ("lower_is_better = True", "has lower_is_better, and no solved_at"),
    ("", ""), ("solved_at = 0.5", ""),
    ("lower_is_better = True\n\n    def solved(self, score):\n        return False", ""),
    ("lower_is_better, solved_at = True, 0.0", ""),
    ("lower_is_better, solved_at = True, None", "")])
def test_an_option_that_would_not_count_is_told(line, reason, tmp_path):
    """Catches: a time limit that stands in the file and is never kept."""
    file = tmp_path / "tasks.py"        # a file may be called like one of the project's
    file.write_text("from tasks import Task\n\n\nclass Mine(Task):\n"
                    f"    {line or 'pass'}\n\n    def prompt(self):\n        return 'a word'\n\n"
                    "    def score(self, candidates):\n        return []\n")
    if reason:
        with pytest.raises(UserError, match=re.escape(reason)) as caught:
            tasks.load_task_class(str(file))
        assert f"{file}:4: the task Mine " in str(caught.value)
    else:
        assert issubclass(tasks.load_task_class(str(file)), Task)
    assert sys.modules["tasks"] is tasks


@pytest.mark.parametrize("name, gives, said", [
    ("solved", None, "solved() of letters must return True or False, not None"),
    ("solved", [True, False], "solved() of letters must return True or False, not the list"),
    ("reveal", 3, "reveal() of letters must return a string, not the int 3")])
def test_the_methods_of_a_searchs_end_are_held_to_what_they_should_return(name, gives, said,
                                                                        tmp_path):
    task = Letters()
    setattr(task, name, lambda *_: gives)
    with pytest.raises(TaskFailed, match=re.escape(said)):
        run_search(tmp_path / "r", task, steps=1)


def test_a_setting_has_one_owner(tmp_path):
    """Catches: --temperature that sets an option of the task and the policy's as well. Options of
    the task's own may be any number."""
    @dataclasses.dataclass
    class Oven(Letters):
        pause_seconds: float = 0.0

        def __post_init__(self):
            self.hottest = math.inf

    @dataclasses.dataclass
    class Hot(Oven):
        temperature: float = 300.0
    assert run_search(tmp_path / "oven", Oven(), steps=1)[0]["steps"] == 1
    with pytest.raises(UserError, match="two settings called temperature: rename that of letters"):
        migrate.run(Hot(), steps=1, out=str(tmp_path / "hot"))
    with pytest.raises(UserError, match="config: .* made already"):
        migrate.run(Oven(), config="settings.yaml")


def test_a_task_that_cannot_be_made_is_told_in_one_line(tmp_path):
    @dataclasses.dataclass
    class Odd(Letters):
        shape: str = ""

        def __post_init__(self):
            self.shape = {"": "round"}[self.shape]

        def meet(self, bundled, size):
            raise KeyError("size")
    with pytest.raises(UserError, match="Odd cannot be made with these options: KeyError: 'flat'"):
        migrate.run(Odd, shape="flat")
    with pytest.raises(TaskFailed, match=r"meet\(\) of letters raised KeyError"):
        run_search(tmp_path / "r", Odd(), steps=1)


@pytest.mark.parametrize("length", ["steps", "budget", "proposals"])
def test_from_python_a_length_beside_a_file_wins(length, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("steps: 2\ntarget: mob\n")
    given = migrate.settings.from_files("wordsearch", {"config": str(file), length: 7},
                                        migrate.Config(), METHODS, tasks.load_task_class)
    assert given == {"config": str(file), "task": "wordsearch", "target": "mob", length: 7}


@pytest.mark.parametrize("value", [np.array([1.0, 2.0]), 10 ** 400])
def test_a_score_that_is_no_number_is_told_with_the_users_line(value):
    scorer = tasks.from_function(dict(score=lambda word: value, prompt=PROMPT))
    with pytest.raises(TaskFailed, match=r"test_own_tasks.py:\d+: .* a finite number"):
        list(scorer.score(["a"]))


@pytest.mark.parametrize("conclusion, said", [
    ({"best_score": 9.0, "more": 1}, None), (None, "conclude() of letters must return a dict"),
    ({"more": {1, 2}}, "conclude() of letters must return a dict that JSON can hold")])
def test_what_a_task_concludes_adds_to_the_summary_and_changes_nothing_of_it(conclusion, said,
                                                                             tmp_path):
    task = Letters()
    task.conclude = lambda evaluations: conclusion
    if said:
        with pytest.raises(TaskFailed, match=re.escape(said)):
            run_search(tmp_path / "r", task, steps=1)
    else:
        summary = run_search(tmp_path / "r", task, steps=1)[0]
        assert summary["more"] == 1 and summary["best_score"] <= 1


def test_the_default_parser_reads_the_answer_and_nothing_around_it():
    """Catches: thoughts, or the fences of a block, as part of the candidate."""
    parse = tasks.from_function(dict(score=len, prompt=PROMPT)).parse
    assert parse(" 1 + 2 \n") == ["1 + 2"] and parse(" \n") == []
    assert parse("<think>no</think>Here:\n```python\ndef f():\n    pass\n```\n") == [
        "def f():\n    pass"]


def test_the_default_neighbour_prompt_shows_the_parents_after_the_task():
    """Catches: a parent that gets lost, a conversation that is changed in place."""
    text = ask_for_variation("Write one.", [("a", 0.1)])
    assert text.startswith("Write one.\n\n") and "\na\n" in text and "variation" in text
    many = ask_for_variation("Write one.", [("a\nb", 0.1), ("c", 0.2)])
    assert "```\na\nb\n```\nc\n" in many and "the best last" in many
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    asked = ask_for_variation(turns, [("a", 0.1)])
    assert turns[1]["content"] == "U" and asked[0] == turns[0] and asked[1]["role"] == "user"
    assert asked[1]["content"] == ask_for_variation("U", [("a", 0.1)])


# -------------------------------------------------------------- what the bundled policies bring

def test_a_bundled_policy_brings_its_presets_to_a_task_that_has_none():
    """Catches: the paper's learning rate on a tiny model."""
    class Plain(Task):
        name = "plain"
    own = Plain()
    config = migrate.resolve({"model": "tiny/wordsearch"}, own)
    assert (config.preset, config.lr, config.lora_targets) == ("screen", 1e-2, "2.mlp.up_proj")
    assert migrate.resolve({"model": "tiny/arc"}, own).preset == "tiny"
    assert migrate.resolve({"model": "some/model"}, own).lr == migrate.Config.lr
    assert presets_of("smollm2", own)[1] == "small-lm"
    assert migrate.resolve({"model": "tiny/wordsearch"}, Letters()).lr == 1e-3      # its own win
    for name, cls in tasks.TASKS.items():
        # molecules have an operator and a surrogate, which a task of the user's own has not
        default = "novelty" if name == "molecule" else cls.default_preset
        assert presets.OF_POLICY[name] == (cls.presets, default)


def test_the_openings_and_hints_are_those_of_the_prompts_that_the_policies_know():
    """Catches: a wording that changed in one place."""
    for task in (WordSearch(), Molecule(), Arc()):
        assert task.prompt().startswith(OPENINGS[task.bundled])
        assert task.variation_prompt(["CCO"]).startswith(OPENINGS[task.bundled])
    for task in (WordSearch(), Molecule()):
        for parents in (["CCO"], ["CCO", "CCN"]):
            made = neighbor_prompt(task.bundled, task.prompt(), task.scored(parents))
            assert made == task.variation_prompt(parents)


def test_a_prompt_that_the_bundled_policy_has_never_seen_is_warned_about_once(tmp_path, capsys):
    """Catches: a search that can find nothing, without a word."""
    given = dict(score=count_vowels, model="tiny/wordsearch", steps=3)
    migrate.run(prompt="Write a haiku.", out=str(tmp_path / "a"), **given)
    screen = capsys.readouterr().out
    assert screen.count("warning: prompt() of count_vowels is a prompt that the bundled") == 1
    assert screen.count("warning: variation_prompt() of count_vowels") == 1
    said = []
    Checked(WordSearch(), "wordsearch", said.append).prompt()
    Checked(Molecule(), "", said.append).prompt()
    assert said == []


# ----------------------------------------------------------------------------------- the examples

@pytest.mark.parametrize("argv", [
    ["task_word.py", "--letters", "xyz"],
    ["task_expression.py", "--model", folder_of("llama3"), "--preset", "small-lm"],
    ["task_program.py", "--model", folder_of("llama3"), "--preset", "small-lm"]])
def test_an_example_runs_from_the_command_line(argv, tmp_path, capsys):
    """Catches: an example that a user copies and that fails."""
    code, out, err = command_line(capsys, "--task", HERE / "examples" / argv[0], *argv[1:],
                                  "--steps", 2, "--max-new-tokens", 8, "--out", tmp_path / "r")
    assert code == 0 and "report: " in out and "Traceback" not in err, err
    assert read_json(tmp_path / "r" / "summary.json")["best"] is not None


LIFE = """def transform(grid):
    p = np.pad(grid, 1)
    r, c = grid.shape
    n = sum(p[i:i + r, j:j + c] for i in range(3) for j in range(3)) - grid
    return (n == 3) | (grid == 1) & (n == 2)"""


def test_the_examples_score_what_they_say():
    """Catches: an example whose best answer does not solve it."""
    expressions = Checked(Expression())
    scores = dict(expressions.score(["((100+6)*3*75-50)/25", "25*50", "25+25", "1/0", "2**9"]))
    assert expressions.solved(scores["((100+6)*3*75-50)/25"]) and scores["25*50"].value == 298
    assert [score.valid for score in scores.values()] == [True, True, False, False, False]
    assert expressions.parse("(100 + 6) * 3 = 318") == ["(100+6)*3"]
    assert dict(Checked(Word()).score(["area", "zzz"])) == {"area": Score(0.6), "zzz": Score(0.0)}
    life = Checked(Life())
    scores = dict(life.score([LIFE, *life.warm_start(0), "import os"]))
    assert life.solved(scores[LIFE]) and not scores["import os"].valid
    assert all(0 < scores[program].value < 1 for program in life.warm_start(0))


# ------------------------------------------------------------------------------ the end of a search

def summary_of(**changed) -> dict:
    return {"task": "t", "target": "", "solved": False, "stop": "steps", "best": "a",
            "best_score": 0.5, "best_at_proposal": 9, "proposals": 20, "evaluations": 9,
            "repeats": 1, "invalid": 0, "steps": 2, "seconds": 1.0} | changed


def screen_of(folder, capsys, summary, task, options=(), command=(), from_python=False, **config):
    config = {"seed": 4, "steps": None, "proposals": 20, "method": "migrate"} | config
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps(
        {"config": config, "options": dict(options), "command": list(command)}))
    ending.print_summary(folder, task, from_python)
    return capsys.readouterr().out


def test_the_end_says_what_was_found_and_where_the_page_is(tmp_path, capsys):
    """Catches: a reader who has to know that 1.0000 means found."""
    task = WordSearch()
    found = summary_of(target="mob", solved=True, stop="solved", best="mob", best_score=1.0)
    (tmp_path / "report.html").touch()
    text = screen_of(tmp_path, capsys, found, task, {"target": "random"})
    assert text.startswith("random: found 'mob' with score 1.0000, proposal 9\n")
    assert text.endswith(f"report: {tmp_path}/report.html\n") and "try" not in text
    assert "the target was" not in text
    lost = summary_of(target="mob")
    text = screen_of(tmp_path, capsys, lost, task, {"target": "random"})
    assert "not found, all steps done; the closest is 'a' with score 0.5000" in text
    assert "\nthe target was mob\n" in text
    text = screen_of(tmp_path, capsys, summary_of(best=None, stop="stale"), task)
    assert "no candidate was valid" in text
    task = Task()
    task.solved_at = None               # nothing is ever found: then nothing was missed, either
    text = screen_of(tmp_path, capsys, lost, task)
    assert "all steps done; the best is 'a'" in text and "not found" not in text
    assert "try" not in text


def test_what_to_try_next_is_a_command_that_the_search_understands(tmp_path, capsys):
    """Catches: a command that overwrites the run, gives two lengths, or loses a flag."""
    argv = ["--task", "wordsearch", "--seed=4", "--out", "runs/mine", "--target", "random",
            "--proposals", "20", "--no-mask-zero"]
    text = screen_of(tmp_path, capsys, summary_of(), WordSearch(), command=argv)
    commands = re.findall(r"^  (python migrate.py .*?)    # ", text, flags=re.M)
    assert len(commands) == 3 and not any("--out" in command for command in commands)
    given = [migrate.settings.from_flags(command.split()[2:], migrate.Config(), METHODS,
                                         tasks.load_task_class) for command in commands]
    assert [(g.get("seed"), g.get("proposals"), g.get("method")) for g in given] == [
        (5, 20, None), (4, 40, None), (4, 20, "migrate+novelty")]
    assert all(g["mask_zero"] is False and g["target"] == "random" for g in given)
    text = screen_of(tmp_path, capsys, summary_of(), WordSearch(), from_python=True, budget=7,
                     method="migrate+novelty")
    assert "the same call with budget=14" in text and "method='migrate+screen+novelty'" in text
    assert flags.field_names("--seed=4") == {"seed"}


# ------------------------------------------------------------------- scorers with a time limit

class Difficult(Letters):
    """Letters, but some words take for ever, end the process, or are a mistake of the scorer's."""
    name, mistake = "difficult", ""

    def score(self, candidates):
        for c in candidates:
            if c == "forever":
                time.sleep(1000)
            if c == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if c.startswith("slow"):
                time.sleep(0.2)
            if c == self.mistake:
                raise ValueError("no such vowel")
            yield c, Score(len(c) / 10, info={"process": os.getpid()})


def limited() -> Checked:
    return Checked(Difficult(score_seconds=0.5, workers=2))


def test_a_scorer_that_hangs_or_crashes_costs_one_candidate_and_no_more():
    """Catches: a search that waits for ever, a hung candidate that takes others along, a crash that
    ends the search, a process that outlives it, a new process for every candidate."""
    checked = limited()
    scores = dict(checked.score(["forever", "one", "crash", "three", "forever2"]))
    assert [scores[c].valid for c in ("forever", "one", "crash", "three")] == [False, True] * 2
    assert scores["forever"] == Score(0.0, False, {"reason": "not scored within 0.5 s"})
    assert scores["crash"].info == {"reason": "the scorer's process ended with status -9"}
    assert scores["three"].value == 0.5
    later = [dict(checked.score([c]))[c].info["process"] for c in ("two", "four", "five", "six")]
    workers = {child.pid for child in psutil.Process().children()} & set(later)
    assert workers == set(later) and os.getpid() not in later and len(workers) <= 2
    checked.processes.close()
    assert not any(map(psutil.pid_exists, workers))


def test_a_mistake_in_a_scorer_stops_the_search_with_its_line_from_a_process_too():
    checked = limited()
    checked.task.mistake = "wrong"
    with pytest.raises(TaskFailed, match=r"test_own_tasks.py:\d+: score\(\) of difficult raised "
                                         "ValueError: no such vowel"):
        list(checked.score(["one", "wrong"]))
    found = []      # the mistake comes at once; what another process is at work on is not lost
    with pytest.raises(TaskFailed):
        for pair in checked.score(["slow", "wrong", *(f"slow{i}" for i in range(30))]):
            found.append(pair[0])
    assert "slow" in found and len(found) < 10
    here = Checked(checked.task)            # in this process: the same words
    here.processes = None
    with pytest.raises(TaskFailed, match="raised ValueError: no such vowel"):
        list(here.score(["wrong"]))


def test_the_processes_of_a_killed_search_end_with_it():
    """kill -9, while a worker hangs."""
    program = """if True:
        import time
        from domains.timed import Workers
        class Scorer:
            def score(self, seconds):
                time.sleep(seconds)
        scorer = Scorer()
        for candidate, *_ in Workers(scorer.score, 0, 2).results([0, 1000, 0]):
            print(candidate, flush=True)
        """
    search = subprocess.Popen([sys.executable, "-c", program], cwd=HERE, stdout=subprocess.PIPE)
    search.stdout.readline()
    workers = psutil.Process(search.pid).children()
    search.kill()
    search.wait()
    assert workers and not psutil.wait_procs(workers, timeout=10)[1]


def test_any_function_can_be_scored_with_a_limit(tmp_path):
    """Catches: a lambda or a closure that would have to be pickled, options that are lost."""
    scored_here = []
    here = dict(method="random", proposals=30, model="tiny/wordsearch", max_new_tokens=4, seed=3,
                prompt=WordSearch().prompt())
    found = []
    for limit in ({}, dict(score_seconds=5.0, workers=2)):
        folder = tmp_path / str(len(limit))
        scored_here.clear()
        migrate.run(score=lambda word: (scored_here.append(word), len(word) / 20)[1],
                    out=str(folder), **here, **limit)
        assert bool(scored_here) != bool(limit)     # a process has a list of its own
        found.append([(e.candidate, e.score) for e in
                      sorted(read_evaluations(folder), key=lambda e: e.index)])
    assert found[0] == found[1]


@pytest.mark.parametrize("task, flag", [("arc", "--program-seconds"),
                                        ("molecule --target DRD2", "--dock-seconds")])
def test_tasks_with_a_limit_of_their_own_name_it(task, flag, capsys, monkeypatch):
    monkeypatch.setattr("domains.docking.missing", lambda: None)
    status, _, error = command_line(capsys, *f"--task {task} --score-seconds 3".split())
    assert status == 2 and flag in error and error.count("\n") == 1


def test_a_slow_objective_can_be_given_a_limit():
    """The pharmacophores of deco_hop take 12 seconds for this sugar of 73 atoms."""
    sugar = "C(O)" * 36 + "C"
    scores = dict(Checked(Molecule("deco_hop", score_seconds=2)).score([sugar, "CCO"]))
    assert scores[sugar].info == {"reason": "not scored within 2 s"} and scores["CCO"].valid
