"""Tests of the baselines: searches without a policy."""
# It keeps transformers offline, and has to be imported before it.
from tests.support import HERE, Letters, read_json, wait_until

# isort: split
import csv
import gzip
import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from domains import objectives
from examples import arc_enumerate, arc_synthetic, baseline, graph_ga, yardsticks
from reports.records import read
from reports.rows import row_of
from runlog.errors import TaskFailed, UserError, exit_code
from runlog.folder import Run
from runlog.ledger import read_evaluations
from tasks import Arc, Molecule, Score, Task
from tiny import arc_programs


@dataclass
class Digits(Task):
    """f = the number that a candidate is, of 100. Results arrive backwards; 13 is invalid."""
    fails_at: str = ""
    name = "digits"

    def warm_start(self, seed):
        return ["1", "2"]

    def score(self, candidates):
        for c in reversed(candidates):
            if c == self.fails_at:
                raise ValueError("no power")
            yield c, Score(0.0, valid=False) if c == "13" else Score(int(c) / 100)

    def conclude(self, evaluations):
        return {"n_solvers": sum(self.solved(score) for _, score in evaluations)}


def counting(start, size=5):
    """propose: the next `size` numbers from `start` on, each batch with a repeat."""
    numbers = itertools.count(start)

    def propose(scores):
        return ["1", *(str(next(numbers)) for _ in range(size)), "2"]

    return propose


def search(folder, propose, task=None, **settings):
    settings = baseline.Settings("digits", "counting", "yardstick", 7, **settings)
    baseline.run(task or Digits(), settings, propose, folder, "examples.counting", ["--seed", "7"])
    return read_json(folder / "summary.json"), read_evaluations(folder)


def test_a_baseline_counts_as_a_search_does(tmp_path, capsys):
    """Catches: a warm start or a repeat that counts against the budget, a best candidate that is
    invalid, results in the order of arrival, a step cut at the wrong place."""
    summary, evaluations = search(tmp_path / "run", counting(10), budget=12)
    numbers = [*map(str, range(10, 22))]
    assert [e.candidate for e in evaluations] == ["1", "2", *numbers]
    assert [e.index for e in evaluations] == [*range(14)]
    assert [e.proposal for e in evaluations] == [0, 0, *range(1, 13)]
    assert [e.step for e in evaluations] == [0, 0, *[1] * 5, *[2] * 5, *[3] * 2]
    expected = {"task": "digits", "method": "counting", "seed": 7, "evaluations": 12,
                "proposals": 12, "repeats": 0, "invalid": 1, "warm_start": 2, "steps": 3,
                "best": "21", "best_score": 0.21, "best_at_proposal": 12, "solved": False,
                "stop": "budget", "n_solvers": 0}
    assert {key: summary[key] for key in expected} == expected
    assert "digits" in (tmp_path / "run" / "report.html").read_text()
    assert "python -m examples.counting --seed 7" in (tmp_path / "run" / "report.html").read_text()
    row = row_of(read(tmp_path / "run"), {})
    assert row["protocol"] == "yardstick, 12 evaluations" and row["method"] == "counting"


@pytest.mark.parametrize("after_solved, n, stop", [
    (0, 3, "solved"),           # right at the solution, in the middle of a step
    (4, 9, "solved"),           # the step of the solution, then four more
    (None, 20, "budget"),       # never
    (100, 20, "budget"),        # the budget comes first
])
def test_a_baseline_ends_at_its_solution_as_told(after_solved, n, stop, tmp_path):
    propose = iter([["98", "99", "100", "3", "4"], *([str(i)] for i in range(5, 50))])
    summary, evaluations = search(tmp_path, lambda scores: next(propose), budget=20,
                                  after_solved=after_solved)
    assert summary["evaluations"] == n == len(evaluations) - 2
    assert summary["stop"] == stop and summary["solved"] and summary["n_solvers"] == 1


def test_a_baseline_that_has_nothing_new_to_propose_ends(tmp_path):
    """Catches: a search that never ends."""
    summary, _ = search(tmp_path / "repeats", lambda scores: ["1"], budget=9)
    assert summary["stop"] == "stale" and summary["evaluations"] == 0 and summary["steps"] == 50
    summary, _ = search(tmp_path / "nothing", lambda scores: [], budget=9)
    assert summary["stop"] == "stale" and summary["best"] == "2"


def test_an_interrupted_baseline_goes_on_and_a_finished_one_is_left_alone(tmp_path, capsys):
    """Catches: candidates that are paid for twice, another result than without the interruption, a
    finished run that is overwritten, two searches in one folder."""
    search(tmp_path / "whole", counting(10), budget=18)
    with pytest.raises(TaskFailed):
        search(tmp_path / "parts", counting(10), Digits(fails_at="17"), budget=18)
    paid = (tmp_path / "parts" / "evals.jsonl").read_text()
    assert 7 <= paid.count("\n") < 20
    config = tmp_path / "parts" / "config.json"
    config.write_text(config.read_text().replace('"fails_at": "17"', '"fails_at": ""'))
    search(tmp_path / "parts", counting(10), budget=18)
    whole, parts = ((tmp_path / name / "evals.jsonl").read_text() for name in ("whole", "parts"))
    assert parts == whole and parts.startswith(paid)

    def never(scores):
        raise AssertionError("a finished run was started again")

    search(tmp_path / "parts", never, budget=18)
    assert "is finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match="budget"):
        search(tmp_path / "parts", never, budget=19)


def test_a_killed_baseline_goes_on(tmp_path):
    """A real one, killed in the middle: the same command, given again, ends as if nothing had
    happened."""
    def command(folder):
        return [sys.executable, "-m", "examples.arc_enumerate", "--target", "3c9b0459", "--seed",
                "42", "--budget", "150", "--after-solved", "150", "--out",
                str(tmp_path / folder)]

    def n_scored():
        evals = tmp_path / "parts" / "evals.jsonl"
        return evals.read_text().count("\n") if evals.exists() else 0

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command("parts"), cwd=HERE, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: n_scored() >= 20)
    process.kill()
    process.wait()
    assert n_scored() < 150 and not (tmp_path / "parts" / "summary.json").exists()
    for folder in ("parts", "whole"):
        subprocess.run(command(folder), cwd=HERE, env=environment, check=True, capture_output=True)
    parts, whole = ((tmp_path / name / "evals.jsonl").read_text() for name in ("parts", "whole"))
    assert parts == whole and whole.count("\n") == 150


def test_graph_ga_breeds_better_molecules_and_scores_none_twice(tmp_path):
    """The baseline works: sane molecules come out of its operators, and generations improve."""
    with open(HERE / "data" / "pmo_reference.csv", newline="") as file:
        listed = [objectives.canonical(row["smiles"]) for row in csv.DictReader(file)]
    start = [smiles for smiles in listed if smiles][:60]
    task = Molecule(target="qed")
    settings = baseline.Settings("molecule", "graph-ga", "graph-ga", 0, budget=250,
                                 after_solved=None)
    files = Run(tmp_path, {}, resume=False)
    propose = graph_ga.proposer(task, 0, lambda: start)
    summary = baseline.search(task, settings, propose, files)
    lines = [json.loads(line) for line in (tmp_path / "evals.jsonl").read_text().splitlines()]
    scores = [line["score"] for line in lines]
    assert len({line["candidate"] for line in lines}) == len(lines) == 250
    assert all(line["valid"] for line in lines)
    assert sum(sorted(scores)[-10:]) > sum(sorted(scores[:len(start)])[-10:]) + 0.15
    assert summary["best_score"] == max(scores)


def test_every_baseline_leaves_a_run_that_the_reports_read(tmp_path, capsys):
    """From the command line: the bundled policy's first generation, ridge regression, enumeration.
    Catches: a KeyError of `python -m reports`, a seed that changes nothing."""
    molecule = ["--target", "qed", "--budget", "60"]
    word = ["ridge", "--target", "skillet", "--budget", "30"]
    arc = ["--target", "3c9b0459", "--budget", "40"]
    found = {}
    for module, argv in ((graph_ga, molecule), (yardsticks, word), (arc_enumerate, arc)):
        for seed in ("1", "2"):
            folder = tmp_path / module.__name__ / seed
            out = ["--seed", seed, "--out", str(folder)]
            assert exit_code(module.main, [*argv, *out]) == 0
            candidates = tuple(e.candidate for e in read_evaluations(folder))
            found[module, seed] = candidates
            row = row_of(read(folder), {})
            assert row["evaluations"] == row["limit"] == int(argv[-1])
            page = (folder / "report.html").read_text()
            assert f"python -m {module.__name__} {argv[0]}" in page
        assert found[module, "1"] != found[module, "2"]
    assert exit_code(graph_ga.main, ["--target", "no", "--out", str(tmp_path / "no")]) == 2
    assert "unknown target 'no'" in capsys.readouterr().err
    broken = tmp_path / "list.smi.gz"
    whole = gzip.compress(b"CCO\n" * 999)
    for i, content in enumerate((whole[:-20], b"no gzip", whole[:12] + b"\xff" * 40)):
        broken.write_bytes(content)
        given = ["--data", str(broken), "--out", str(tmp_path / f"broken-{i}")]
        assert exit_code(graph_ga.main, [*molecule, *given]) == 2
        assert "cannot be read" in capsys.readouterr().err


def test_ridge_regression_finds_what_its_vectors_explain(tmp_path, capsys):
    """On a published word, in far fewer guesses than there are words."""
    argv = ["ridge", "--target", "skillet", "--seed", "42", "--budget", "300",
            "--out", str(tmp_path)]
    assert exit_code(yardsticks.main, argv) == 0
    summary = read_json(tmp_path / "summary.json")
    assert summary["solved"] and summary["best"] == "skillet" and summary["warm_start"] == 20
    assert summary["evaluations"] < 300 and summary["stop"] == "solved"


def test_a_task_of_the_user_can_have_a_baseline(tmp_path):
    """The loop asks nothing of a task but the contract of tasks.py."""
    words = iter(["aeon", "ae", "z", "oui"])
    settings = baseline.Settings("letters", "by-hand", "yardstick", 0, proposals=4)
    files = Run(tmp_path, {}, resume=False)
    summary = baseline.search(Letters(), settings, lambda scores: [next(words)], files)
    assert summary["best"] == "oui" and summary["invalid"] == 1 and summary["warm_start"] == 3


def solves(program: list, pairs: list) -> bool:
    return all(arc_programs.same(arc_programs.run(program, grid), np.array(output))
               for grid, output in pairs)


def test_synthetic_tasks_of_arc_need_all_of_their_operations(tmp_path, capsys):
    """Catches: a file that is no task, another one each time, a solution that is too long."""
    argv = ["--operations", "2", "--tasks", "3", "--out"]
    for folder in ("a", "b"):
        assert exit_code(arc_synthetic.main, [*argv, str(tmp_path / folder)]) == 0
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        task, names = Arc(arc_file=str(path)), read_json(path)["operations"]
        n_colours = [len(arc_programs.OPERATIONS[name].slots) for name in names]
        colours = [itertools.permutations(range(10), n) for n in n_colours]
        steps = [[(name, c) for c in some] for name, some in zip(names, colours)]
        assert any(solves(list(program), task.train) for program in itertools.product(*steps))
        assert not any(solves([step], task.train) for some in steps for step in some)
        assert len(task.train) == 3 and len(task.test) == 1
    (tmp_path / "file").touch()
    for wrong, says in ((["--seed", "-1", "--out", str(tmp_path / "c")], "must not be negative"),
                        (["--tasks", "0", "--out", str(tmp_path / "c")], "at least 1"),
                        (["--out", str(tmp_path / "file")], "cannot write to")):
        assert exit_code(arc_synthetic.main, wrong) == 2
        assert says in capsys.readouterr().err
