"""The three tasks: prompts, parsers, scores, warm start, vote; and how a task is found by name."""
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import migrate
import tasks
from domains import docking, objectives
from domains.grids import in_words
from domains.words import PUBLISHED_WORDS
from runlog import folder
from runlog.errors import TaskFailed
from runlog.ledger import read_evaluations
from tasks import Arc, Checked, Molecule, Score, Task, UserError, WordSearch

# ----------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("results, reason", [
    ([("a", 1)], "gave no score to 'b'"),
    ([("a", 1), ("a", 1)], "scored 'a', which it was not asked for"),
    ([("c", 1)], "scored 'c', which it was not asked for"),
    ([("a", 2.0)], "'a' the score 2.0; scores lie in [0, 1]"),
    ([("a", float("nan"))], "'a' the score nan"),
    ([("a", Score(0.5, valid=False))], "'a' the score 0.5, and called it invalid"),
    ([("a", Score(0.5, info={1: {2}}))], "an info that is no dict that JSON can hold"),
    ([("a", None)], "the score None; it must be a number"),
    ([("a", "0.5")], "the score '0.5'; it must be a number"), ([("a", [1])], "must be a number"),
    ([0.1, 0.2], "must yield pairs (candidate, score), not the float 0.1"),
    ([(0.1, "a")], "must yield pairs (candidate, score), not the tuple"), (["ab"], "not the str")])
@pytest.mark.parametrize("form", [list, iter])
def test_a_faulty_scorer_is_never_a_low_score(results, reason, form):
    """Catches: a bare except that turns every fault of a scorer into score 0."""
    class Faulty(Task):
        def score(self, candidates):
            return form(results)
    line = Faulty.score.__code__.co_firstlineno
    with pytest.raises(TaskFailed, match=re.escape(reason)) as caught:
        list(Checked(Faulty()).score(["a", "b"]))
    assert f"test_tasks.py:{line}: score() of task" in str(caught.value)


FAULTS = [      # (method, its body, what the user reads); the body stands in line 3
    ("prompt(self)", "return None", "must return a string, or a list of turns"),
    ("prompt(self)", "return [{'role': 'robot'}]", "must return a string, or a list"),
    ("variation_prompt(self, parents)", "return parents", "must return a string, or a list"),
    ("parse(self, completion)", "return completion", "must return a list of strings, the candidates"
     " of the completion ([]: none), not the str 'cement'"),
    ("parse(self, completion)", "return None", "([]: none), not None"),
    ("parse(self, completion)", "return [1]", "([]: none), not the list [1]"),
    ("parse(self, completion)", "return completion[99]", "raised IndexError"),
    ("render(self, candidate)", "return 7", "must return a string, not the int 7"),
    ("warm_start(self, seed)", "return 'cement'", "must return a list of strings, not the str"),
    ("score(self, candidates)", "return 0.5", "(candidate, score), not the float 0.5"),
    ("score(self, candidates)", "return None", "must return pairs (candidate, score), not None"),
    ("score(self, candidates)", "1 / 0", "raised ZeroDivisionError: division by zero"),
    ("score(self, candidates)", "sys.exit(3)", "called sys.exit(3)"),
    ("score(self, candidates)", "yield 'cement', helper('cement')", "RuntimeError: no power"),
    ("score(self, candidates)", "yield from [('cement', 2)]", "the score 2; scores lie")]


@pytest.mark.parametrize("method, body, reason", FAULTS)
def test_a_fault_of_a_task_is_one_line_with_its_place(method, body, reason, tmp_path, monkeypatch):
    """Catches: a string whose every letter is a candidate, tracebacks from the search's own code,
    a sys.exit that ends the search without a word."""
    monkeypatch.chdir(tmp_path)
    name = "faulty.py"
    Path(name).write_text(f"import sys, tasks\nclass T(tasks.Task):\n    def {method}: {body}\n"
                          "def helper(word): raise RuntimeError('no power')\n")
    module = tasks.import_file.__wrapped__(name)
    function = method.partition("(")[0]
    arguments = {"prompt": (), "variation_prompt": (["stone"],), "warm_start": (0,),
                 "score": (["cement", "stone"],)}.get(function, ("cement",))
    task = Checked(module.T())
    with pytest.raises(TaskFailed) as caught:
        result = getattr(task, function)(*arguments)
        list(result)
    line = 4 if "helper" in body else 3
    assert str(caught.value).startswith(f"{name}:{line}: {function}() of task ")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_meant_for_the_user_and_ctrl_c_pass_through_the_contract():
    """Catches: an interrupted search that looks like a broken scorer."""
    class Stopping(Task):
        error: type = UserError

        def score(self, candidates):
            yield candidates[0], 0.5
            raise self.error
    for error in (UserError, KeyboardInterrupt):
        task = Stopping()
        task.error = error
        with pytest.raises(error):
            list(Checked(task).score(["a", "b"]))


def test_a_scorer_may_give_numbers_of_any_kind_and_in_any_order():
    """Catches: scores that JSON cannot hold, and a scorer that is asked for nothing."""
    class Numbers(Task):
        def score(self, candidates):
            assert candidates
            yield "b", np.float32(0.25)
            yield "a", Score(np.float64(1.0), valid=np.bool_(True))
    scores = list(Checked(Numbers()).score(["a", "b"]))
    assert scores == [("b", Score(0.25)), ("a", Score(1.0))]
    assert json.dumps([(score.value, score.valid) for _, score in scores])
    assert list(Checked(Numbers()).score([])) == []


BODY = "    def prompt(self): return '?'\n    def score(self, candidates): return []\n"


def test_a_task_without_a_prompt_or_a_scorer_is_refused_before_a_model_is_loaded(tmp_path):
    """Catches: a NotImplementedError from the search, after minutes of loading."""
    lines = ["import tasks", "", "class Mine(tasks.Task):", *BODY.splitlines()]
    for left_out, name in ((3, "prompt(self)"), (4, "score(self, candidates)")):
        path = tmp_path / f"without_{left_out}.py"
        path.write_text("\n".join(line for i, line in enumerate(lines) if i != left_out) + "\n")
        with pytest.raises(UserError) as caught:
            migrate.run(str(path), out=str(tmp_path / "run"))
        assert f"without_{left_out}.py:3: the task Mine has no {name}" in str(caught.value)
    with pytest.raises(UserError, match="the task Task has no prompt"):
        migrate.run(Task(), out=str(tmp_path / "run"))


def test_a_task_is_found_by_name_or_in_a_file(tmp_path):
    """Catches: a class that the file only imports, and a choice between two that is left to
    chance."""
    assert tasks.load_task_class("arc") is Arc
    (tmp_path / "one.py").write_text(f"from tasks import Arc, Task\nclass Mine(Task):\n{BODY}")
    assert tasks.load_task_class(str(tmp_path / "one.py")).__name__ == "Mine"
    (tmp_path / "two.py").write_text("import tasks\nclass A(tasks.Task):\n"
                                     f"{BODY}class B(A): pass\n")
    assert tasks.load_task_class(f"{tmp_path / 'two.py'}:B").__name__ == "B"
    for name, reason in (("two.py", "defines the tasks A, B: name one"),
                         ("two.py:C", "defines the tasks A, B: name one"),
                         ("one.py:Arc", "defines the tasks Mine: name one"),
                         ("none.py", "there is no task file")):
        with pytest.raises(UserError, match=reason):
            tasks.load_task_class(str(tmp_path / name))
    with pytest.raises(UserError, match="unknown task 'chess'; choose from wordsearch"):
        tasks.load_task_class("chess")


def test_a_file_that_cannot_be_imported_is_one_line_for_the_user(tmp_path):
    """Catches: a traceback for a mistake in a file of the user's."""
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "missing.py").write_text("import nothing_of_the_kind\n")
    for name, reason in (("broken.py", "SyntaxError"), ("missing.py", "ModuleNotFoundError")):
        with pytest.raises(UserError, match=f"{name} cannot be imported: {reason}") as caught:
            tasks.import_file(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="there is no file"):
        tasks.import_file(str(tmp_path / "nowhere.py"))
    (tmp_path / "sane.py").write_text("answer = 42\n")
    assert tasks.import_file(str(tmp_path / "sane.py")).answer == 42


# ------------------------------------------------------------------------------------ word search

@given(st.text(max_size=200) | st.text("[]{}\"',:`\n<think>/abc ", max_size=200))
def test_hostile_answers_never_raise_and_propose_only_words(text):
    """Catches: an answer that stops a search, and a candidate that no scorer can score."""
    task = WordSearch()
    for word in task.parse(text):
        assert re.fullmatch("[a-z]+", word) and task.parse(task.render(word)) == [word]
        [(_, score)] = task.score([word])
        assert 0 <= score.value <= 1 and (score.value < 1 or word == "computer")


def test_scores_are_cosines_and_only_the_target_is_worth_one():
    """Catches: a near synonym that ends the search, and an unknown word that is valid."""
    task = WordSearch(target="cement")
    score = dict(task.score(["cement", "concrete", "mortar", "poetry", "qqqq"]))
    assert score["cement"].value == 1.0 and task.solved(score["cement"])
    assert not task.solved(score["concrete"])
    assert score["concrete"].value > 0.5 > score["poetry"].value
    assert score["mortar"].value > score["poetry"].value
    assert not score["qqqq"].valid and score["qqqq"].value == 0 and score["poetry"].valid


@given(st.integers(0, 10**6), st.sampled_from(PUBLISHED_WORDS))
def test_the_warm_start_never_contains_the_answer(seed, target):
    """Catches: a search that is given its answer, and a warm start that does not follow the
    seed."""
    words = WordSearch(target=target).warm_start(seed)
    assert target not in words and len(set(words)) == 20 == len(words)
    assert words != WordSearch(target=target).warm_start(seed + 1)


def test_a_random_target_follows_the_seed_and_stays_out_of_prompts_and_settings():
    """Catches: a secret that the policy, or the user who reads config.json, is told."""
    a, b = WordSearch(target="random", seed=1), WordSearch(target="random", seed=2)
    assert a.hidden == WordSearch(target="random", seed=1).hidden != b.hidden
    options = json.dumps(dataclasses.asdict(a))
    assert a.hidden not in options + a.prompt() + a.variation_prompt(["stone"])


def test_a_random_target_is_told_at_the_end_and_not_before(tmp_path, capsys):
    """Catches: a secret on the screen or in the folder before the search has ended."""
    run = tmp_path / "run"
    migrate.main(["--target", "random", "--seed", "3", "--steps", "2", "--out", str(run)])
    hidden = WordSearch(target="random", seed=3).hidden
    screen = capsys.readouterr().out
    assert screen.count(hidden) == 1 and screen.index(hidden) > screen.index("lr ")
    assert hidden not in (run / "config.json").read_text()
    assert json.loads((run / "summary.json").read_text())["target"] == hidden


# -------------------------------------------------------------------------------------- molecules

@pytest.mark.parametrize("answer, smiles", [
    ("OCC", "CCO"), ("```smiles\nOCC\n```", "CCO"), ('{"smiles": "OCC"}', "CCO"),
    ('["CCN", "OCC"]', "CCO"), ("I propose `OCC`.", "CCO"), ("**OCC**", "CCO"),
    ("SMILES: OCC", "CCO"), ("<think>CCN</think>\nOCC", "CCO"), ("[nH]1cccc1", "c1cc[nH]c1"),
    ("[Na+].[Cl-]", "[Cl-].[Na+]"), ("C[C@H](N)C(=O)O", "C[C@H](N)C(=O)O"),
    ("I cannot help you", None), ("", None), ("C1CC", None), ("c1cccc1", None), ("C" * 81, None),
    ("(" * 5000, None)])
def test_molecules_are_read_from_what_models_write(answer, smiles):
    """Catches: brackets of a SMILES read as JSON, and molecules that take seconds to score."""
    assert Molecule().parse(answer) == ([smiles] if smiles else [])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=400),
                 st.text("CNOFSPclnosBr[]()=#$:/\\\\@+-.%*0123456789H", max_size=60)))
def test_hostile_smiles_never_raise_and_canonical_forms_are_fixed_points(text):
    """Catches: one molecule under two names, which is then scored twice."""
    task = Molecule(target="fexofenadine_mpo")
    for candidate in task.parse(text):
        assert task.parse(candidate) == [candidate]
        [(again, score)] = Checked(task).score([candidate])
        assert again == candidate and 0 <= score.value <= 1


def test_prompts_of_objectives_never_name_the_answer():
    """Catches: a prompt from which a large model answers from memory."""
    names = [name.lower() for name in vars(objectives) if name.isupper()]
    names += [name.split("_")[0] for name in objectives.OBJECTIVES]
    harmless = ("qed", "deco", "scaffold", "sulfone", "quinazoline", "benzothiazole", "isomers")
    names = [name for name in names if name not in harmless]
    for target in objectives.OBJECTIVES:
        task = Molecule(target=target)
        text = (task.prompt() + task.variation_prompt(["CCO", "CCN"])).lower()
        assert not [name for name in names if name in text], target


def test_a_task_made_of_the_molecule_task_may_score_in_its_own_way():
    """Catches: a base class that puts its own scorer over that of a subclass."""
    class Short(Molecule):
        def score(self, candidates):
            for smiles in candidates:
                yield smiles, Score(1 / len(smiles))
    assert dict(Checked(Short()).score(["CCO"])) == {"CCO": Score(1 / 3)}


def test_a_broken_docking_installation_stops_the_run(tmp_path, monkeypatch):
    """Catches: molecules that score 0 because a program is missing."""
    script = tmp_path / "dock.py"
    script.write_text(f"import sys; print('no obabel'); sys.exit({docking.BROKEN})")
    monkeypatch.setattr(docking, "__file__", str(script))
    monkeypatch.setattr(docking, "missing", lambda: None)
    with pytest.raises(TaskFailed, match="no obabel"):
        list(Checked(Molecule(target="DRD2")).score(["CCO"]))


@pytest.mark.skipif(docking.missing() is not None, reason=f"not installed: {docking.missing()}")
def test_a_real_docking():
    """Slow (half a minute): Vina docks ethanol into DRD2. A salt cannot be prepared, and the reason
    says so."""
    scores = dict(Checked(Molecule(target="DRD2")).score(["CCO", "[Cl-].[Na+]"]))
    info = scores["CCO"].info
    assert -5 < info["vina"] < -1.5 and info["qed"] == pytest.approx(0.4068, abs=1e-3)
    assert scores["CCO"].value == pytest.approx(1 - (info["vina"] + 1 - info["qed"] + 12) / 10)
    salt = scores["[Cl-].[Na+]"]
    assert not salt.valid and "fragments" in salt.info["reason"]


FAKE_DOCKING = """import json, sys
print(json.dumps({{"vina": -5.0 - 0.1 * sys.argv[2].count("C"), "qed": 0.5}}))
with open({log!r}, "a") as file: file.write(sys.argv[2] + "\\n")
"""


def test_a_resumed_run_never_docks_twice(tmp_path, monkeypatch):
    """The real policy and search; only Vina is replaced. The run is interrupted in the middle of a
    step."""
    script, log, run = tmp_path / "dock.py", tmp_path / "docked", tmp_path / "run"
    script.write_text(FAKE_DOCKING.format(log=str(log)))
    monkeypatch.setattr(docking, "__file__", str(script))
    monkeypatch.setattr(docking, "missing", lambda: None)
    argv = ["--task", "molecule", "--target", "DRD2", "--budget", "12", "--out", str(run)]
    log_evaluation = folder.Run.log_evaluation
    logged = []

    def interrupted(self, evaluation):
        log_evaluation(self, evaluation)
        logged.append(evaluation)
        if len(logged) == 5:
            raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder.Run, "log_evaluation", interrupted)
        migrate.main(argv)
    scored = {e.candidate for e in read_evaluations(run)}
    before = log.read_text().split()
    migrate.main(["--resume", str(run)])
    again = log.read_text().split()[len(before):]
    evaluations = read_evaluations(run)
    assert scored and not scored & set(again) and len(again) == len(set(again))
    assert len(evaluations) == 12 == len({e.candidate for e in evaluations})
    assert all("vina" in e.info for e in evaluations if e.valid)


# -------------------------------------------------------------------------------------------- ARC

ROTATE = ("# turn it by half\nimport numpy as np\n\n"
          "def transform(grid):\n    return np.rot90(grid, 2)")


def write_arc(path: Path, rule, n_train=2, n_test=1, answer=True, size=2) -> str:
    """Writes an ARC task file whose outputs are rule(input). answer: with the test outputs."""
    pairs = []
    for i in range(n_train + n_test):
        grid = (np.arange(size * size).reshape(size, size) + i) % 10
        pairs.append({"input": grid.tolist(), "output": rule(grid).tolist()})
    test = [pair if answer else {"input": pair["input"]} for pair in pairs[n_train:]]
    path.write_text(json.dumps({"train": pairs[:n_train], "test": test}))
    return str(path)


def rotate(grid):
    return np.rot90(grid, 2)


def test_arc_scores_a_real_task_in_the_sandbox():
    """3c9b0459 turns grids by half: the right program solves it. Invalid means that a program works
    on no training input."""
    task = Arc(target="3c9b0459")
    same = "def transform(grid): return grid"
    scores = dict(Checked(task).score([ROTATE, same, "def transform(grid): return 1 / 0",
                                        "import os\ndef transform(g): return g"]))
    assert scores[ROTATE] == Score(1.0, info={"predictions": [task.test[0][1]]})
    assert task.solved(scores[ROTATE])
    shares = [(np.array(grid) == np.array(output)).mean() for grid, output in task.train]
    assert scores[same].valid and scores[same].value == pytest.approx(np.mean(shares))
    assert [score.valid for score in scores.values()].count(False) == 2
    assert any("imports os" in score.info.get("error", "") for score in scores.values())


BAD_GRIDS = ([[10]], [[True]], [[0.5]], [[1], [1, 2]], [[]], [], [1], None, "grid")


@pytest.mark.parametrize("pairs", [
    [], 7, {"train": [], "test": [{"input": [[1]]}]},
    {"train": [{"input": [[1]], "output": [[1]]}], "test": []},
    *({"train": [{"input": grid, "output": [[1]]}], "test": [{"input": [[1]]}]}
      for grid in BAD_GRIDS)])
def test_a_file_that_is_no_arc_task_is_refused(pairs, tmp_path):
    """Catches: a traceback, or a search on half a task."""
    (tmp_path / "t.json").write_text(json.dumps(pairs))
    with pytest.raises(UserError, match="is no ARC task in the public JSON format"):
        Arc(arc_file=str(tmp_path / "t.json"))


def test_no_prompt_holds_a_test_output():
    """The authors' training prompt leaked it. Every training pair is shown whole."""
    task = Arc(target="007bbfb7")
    for prompt in (task.prompt(), task.variation_prompt([ROTATE]),
                   task.variation_prompt([ROTATE, ROTATE])):
        assert in_words(task.test[0][1]) not in prompt and in_words(task.test[0][0]) in prompt
        assert all(in_words(grid) in prompt for pair in task.train for grid in pair)


def test_prompts_fit_by_leaving_out_whole_pairs_largest_first():
    """Catches: a prompt that is cut in the middle, or that lost the pairs that are cheap to
    show."""
    task = Arc(target="007bbfb7")
    task.train = [([[1] * n] * n, [[2] * n] * n) for n in (2, 9, 4)]
    whole = len(task.prompt())
    task.fits = lambda text: len(text) < whole
    prompt = task.prompt()
    assert in_words(task.train[1][0]) not in prompt
    assert "Example 2" in prompt and "Example 3" not in prompt
    task.fits = lambda text: False
    prompt = task.prompt()
    assert in_words(task.train[0][0]) in prompt and "Example 2" not in prompt


def test_a_docking_score_that_is_cut_at_1_ends_no_search():
    task = Molecule(target="qed")
    assert task.solved(Score(1.0))
    task.has_processes = True       # what a protein has, for which a package may be missing
    assert not task.solved(Score(1.0))


def test_the_vote_is_over_all_test_inputs_and_prefers_the_many_then_the_short(tmp_path):
    """Catches: a vote over the wrong axis, and a division by zero when nothing was solved (both in
    the authors' code)."""
    task = Arc(arc_file=write_arc(tmp_path / "t.json", rotate, n_test=2))
    truth = [output for _, output in task.test]
    wrong, third = [[[1]], [[1]]], [[[2]], [[2]]]

    def vote(*solvers):
        evaluations = [(program, Score(1.0, info={"predictions": answer}))
                       for program, answer in solvers]
        return task.conclude([*evaluations, ("loser", Score(0.9))])

    def verdict(result):
        return result["pass@1"], result["pass@2"], result["oracle"]
    assert vote() == {"solvers": 0, "answers": [], "pass@1": False, "pass@2": False,
                      "oracle": False}
    # one vote each: the shortest program
    assert vote(("aa", wrong), ("b", truth))["answers"] == [truth, wrong]
    result = vote(("a", wrong), ("b", wrong), ("cccc", truth))
    assert verdict(result) == (False, True, True) and result["solvers"] == 3
    result = vote(("a", wrong), ("b", wrong), ("c", third), ("d", third), ("e", truth))
    assert verdict(result) == (False, False, True)
    # those that fail on a test input agree on nothing
    result = vote(*[(str(i), [None, [[1]]]) for i in range(9)], ("a", third), ("cc", truth))
    assert verdict(result) == (False, True, True) and result["solvers"] == 11
    # right on one test input only: not right
    assert vote(("a", [truth[0], [[1]]]))["oracle"] is False
    # a test output that is secret
    blind = Arc(arc_file=write_arc(tmp_path / "blind.json", np.copy, answer=False))
    result = blind.conclude([("a", Score(1.0, info={"predictions": [[[1]]]}))])
    assert verdict(result) == (None, None, None)


class FourPrograms(Arc):
    """ARC for a policy that writes words: every word stands for one of four programs."""
    bundled = "wordsearch"
    PROGRAMS = ("def transform(g): return g", ROTATE,
                "def transform(g): return g[::-1, ::-1] if g.max() == 3 else g",
                "def transform(g): return g.T")

    def prompt(self):
        return WordSearch().prompt()

    def variation_prompt(self, parents):
        return WordSearch().variation_prompt(["stone"])

    def parse(self, completion):
        return [self.PROGRAMS[len(completion) % 4]] if completion else []


def test_a_solved_arc_search_draws_on_for_the_vote(tmp_path, capsys, monkeypatch):
    """A policy that proposes one of four programs: two of them solve the training pair, one of
    these also the test pair."""
    path, run = write_arc(tmp_path / "t.json", rotate, n_train=1, n_test=1), tmp_path / "run"
    monkeypatch.setitem(tasks.TASKS, "arc", FourPrograms)
    migrate.main(["--task", "arc", "--arc-file", path, "--model", "tiny", "--preset", "paper",
                  "--seed", "1", "--out", str(run), "--after-solved", "64", "--lora-r", "4",
                  "--max-new-tokens", "8"])
    summary = json.loads((run / "summary.json").read_text())
    assert summary["solved"] and summary["stop"] == "solved" and summary["solvers"] == 2
    assert summary["pass@2"] and summary["oracle"] and "pass@2 True" in capsys.readouterr().out
    solved_at = min(e.proposal for e in read_evaluations(run) if e.score == 1)
    assert 64 <= summary["proposals"] - solved_at < 64 + 2 * 15
