"""Tests of reports/: rows, measures, tables and pages of runs."""
import io
import itertools
import json
import re
import xml.etree.ElementTree
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from reports import __main__ as command
from reports import markup, measures, pages, tables
from reports import metrics as step_metrics
from reports.comparison import progress, valid_shares
from reports.labels import command_of, label
from reports.records import clean_steps, read
from reports.rows import arc_splits, read_csv, row_of, rows_from, write_csv
from reports.tables import Table
from runlog import metrics
from runlog.errors import UserError, exit_code
from runlog.folder import Run
from runlog.ledger import Evaluation, read_evaluations
from tasks import Task
from tests.support import command_line, read_json


def evaluation(index: int, candidate: str, score: float, **other) -> Evaluation:
    settings = {"step": 1, "proposal": index + 1, "origin": "on-policy", "parents": [],
                "valid": True}
    return Evaluation(index=index, candidate=candidate, score=score, **(settings | other))


def make_run(folder, evaluations, task="wordsearch", target="mob", steps=(), completions=(),
             source="", solution=None, given=(), arc_file="", **settings):
    """A finished run with these evaluations, as a search without a policy leaves it. source: the
    file of a task of the user's own. given: what was given from Python."""
    config = {"task": source or task, "model": "", "method": "by-hand", "preset": "yardstick",
              "seed": 1, "budget": None, "proposals": 10} | settings
    options = {"target": target, "arc_file": arc_file}
    record = {"config": config, "options": options, "command": [], "given": given}
    run = Run(folder, record, False)
    for e in evaluations:
        run.log_evaluation(e)
    for step in steps:
        run.log_step(step)
    for line in completions:
        run.log_completions(line["step"], [line])
    run.finish(metrics.summary(
        task=task, target=target, method=config["method"], seed=config["seed"],
        model=config["model"], preset=config["preset"], evaluations=evaluations, solution=solution,
        stop="steps", proposals=len(evaluations), repeats=0,
        invalid=sum(not e.valid for e in evaluations), steps=1, seconds=0.5))
    return folder


# ---------------------------------------------------------------------------------- measures

def test_auc_of_the_top_ten():
    """By hand, k = 2, budget 400: 0.2 at 100 evaluations, 0.5 at 200, the end. Trapezoids 10 and
    35, then 200 x 0.5."""
    scores = [0.2] * 100 + [0.6, 0.4] + [0.0] * 98
    assert measures.auc_top(scores, 400, k=2) == pytest.approx(145 / 400)
    late = measures.auc_top([0.0] * 399 + [1.0], 400, k=2)
    assert late == pytest.approx(100 * 0.5 / 2 / 400)
    assert measures.auc_top([], 400) == 0


def test_repeats_cost_as_much_as_new_candidates_where_proposals_are_counted(tmp_path):
    """Catches: a method that repeats itself, whose curve is squeezed to the left. Worked out
    by hand. Where there are fewer than ten scores, the mean is that of what there is."""
    assert measures.auc_top([0.5, 0.5], 200, [100, 200]) == pytest.approx((25 + 50) / 200)
    assert measures.auc_top([0.5, 0.5], 200) > 0.49
    late = make_run(tmp_path / "a", [evaluation(0, "C", 0.4, proposal=200)], task="molecule",
                    proposals=200)
    assert row_of(read(late), {})["auc"] == pytest.approx(0.1)      # 0 at 100, 0.4 at 200


def test_a_solution_is_found_when_it_is_found_not_when_it_is_bettered(tmp_path):
    """Catches: a search on a scale of its own that goes on, and is found where it was best."""
    low = {"info": {"lower_is_better": True}}
    found = [evaluation(i, name, score, proposal=at, **low) for i, (name, score, at) in enumerate(
        [("a", 40.0, 10), ("b", 9.0, 50), ("c", 3.0, 90)])]
    run = read(make_run(tmp_path / "a", found, task="mine", proposals=100, solution="b"))
    row, early = row_of(run, {}), row_of(run, {}, within=60)
    assert (row["found"], row["guesses"], row["best"]) == (1, 50, "c")
    assert (early["found"], early["guesses"], early["best"]) == (1, 50, "b")
    assert row_of(run, {}, within=49)["found"] == 0
    assert [solved for _, solved in progress(run, 100, n=4)] == [0, 0, 1, 1, 1]
    old = make_run(tmp_path / "old", found, task="mine", proposals=100, solution="b")
    summary = read_json(old / "summary.json")       # of an older version: it says less
    del summary["solution"]
    (old / "summary.json").write_text(json.dumps(summary))
    assert row_of(read(old), {})["guesses"] == 90


def test_tasks_made_in_python_are_no_copies_and_no_command_makes_them_again(tmp_path, capsys):
    """Catches: two black boxes of one name in one row, and a command that searches neither."""
    for name in "ab":
        make_run(tmp_path / name, [evaluation(0, name, 0.5)], task="search", given=["method"])
        make_run(tmp_path / f"{name}-known", [evaluation(0, name, 0.5)], given=["method"])
    rows, _, left_out = rows_from([tmp_path], {})
    assert sorted(row["task"] for row in rows) == ["search", "search", "wordsearch"]
    assert len(left_out) == 1
    assert "made there" in pages.run_page(read(tmp_path / "a"), None)
    assert "migrate.py" in pages.run_page(read(tmp_path / "a-known"), None)


def test_tasks_of_two_files_of_one_name_are_no_copies(tmp_path, capsys):
    """Catches: one of them that is left out, two methods in a table because of the files' names, a
    run that counts twice because it is in a CSV file, too."""
    for name in ("a/puzzle.json", "b/puzzle.json"):
        make_run(tmp_path / name, [evaluation(0, name, 0.5)], task="arc", target="puzzle",
                 arc_file=name)
    make_run(tmp_path / "again", [evaluation(0, "a", 0.5)], task="arc", target="puzzle",
             arc_file="a/puzzle.json")
    rows, _, left_out = rows_from([tmp_path], {})
    assert len(rows) == 2 and len(left_out) == 1 and {row["method"] for row in rows} == {"by-hand"}
    write_csv(tmp_path / "rows.csv", rows)
    assert len(rows_from([tmp_path / "a", tmp_path / "rows.csv"], {}).rows) == 1


def test_runs_of_a_csv_file_are_paired_with_runs_of_a_folder():
    """Seeds are text in the one and numbers in the other."""
    def row(seed, value):
        return {"task": "wordsearch", "target": "a", "seed": seed, "v": value}
    ours, others = [row("42", 3)], [row(42, 1)]
    difference = measures.paired_difference(ours, others, lambda row: row["v"])
    assert tables.with_interval(difference, "{:+.1f}") == "+2.0"
    other_seed = [row(43, 1)]
    nothing = measures.paired_difference(ours, other_seed, lambda row: row["v"])
    assert tables.with_interval(nothing, "{:+.1f}") == "-"


# ------------------------------------------------------------------------------------ labels

SETTINGS = {"task": "own.py", "method": "migrate", "preset": "tiny", "seed": 3, "proposals": 60,
            "budget": None, "after_solved": 0, "n_on_policy": 4, "n_greedy": 1, "n_neighbors": 5,
            "top_k": 10, "lr": 0.0, "mask_zero": False}


@pytest.mark.parametrize("flags, expected", [
    ("--task wordsearch --target mob --seed 3 --preset tiny --proposals 60 --resume --out a/--b",
     "migrate"),
    ("--n-on-policy 4 --n-greedy 1 --n-neighbors 5 --lr 0 --resume --out a",
     "migrate (4,1,5) lr=0"),
    ("--no-mask-zero --out=a --top-k=10", "migrate no-mask-zero top-k=10"),
    ("--budget 10000 --after-solved 10000", "migrate"),
    ("--top-k 10 --n-neighbors 5", "migrate (4,1,5) top-k=10"),
    ("--arc-file a/puzzle.json --lr 0", "migrate lr=0"),
    ("--patience 7 --quantize 4bit --warm-start-words 5",
     "migrate patience=7 quantize=4bit warm-start-words=5"),
])
def test_a_table_tells_runs_of_different_settings_apart(flags, expected):
    """Catches: rows of different settings that are averaged, or one row for each folder name. All
    counts of a group are shown, also where the user gave one."""
    options = {"warm_start_words": 5, "arc_file": "a/puzzle.json"}
    record = {"config": SETTINGS, "command": flags.split(), "run": {"quantize": "4bit"},
              "modifiers": {"novelty": {"patience": 7}}, "options": options}
    assert label("migrate", record) == expected


@pytest.mark.parametrize("method, changed, expected", [
    ("migrate+novelty", {}, "migrate+novelty"),
    ("migrate+novelty", {"lr": 0.1}, "migrate+novelty lr=0.1"),
    ("migrate+novelty", {"n_on_policy": 4, "n_greedy": 1, "n_neighbors": 11},
     "migrate+novelty (4,1,11)"),
    ("grpo", {"n_on_policy": 16, "n_greedy": 0, "n_neighbors": 0}, "grpo"),
    ("grpo", {"n_on_policy": 8, "n_greedy": 0, "n_neighbors": 0}, "grpo (8,0,0)"),
])
def test_a_run_from_python_has_no_command_line_and_is_compared_with_its_preset(method, changed,
                                                                               expected):
    """Catches: migrate.run(.., lr=0.1) in one row with the plain migrate."""
    preset = {"n_on_policy": 6, "n_greedy": 3, "n_neighbors": 7, "top_k": 10, "lr": 5e-3}
    config = {"task": "molecule", "preset": "novelty"} | preset | changed
    modifiers = {"novelty": {"max_draws": 3, "pull_only": True, "patience": 1000}}
    record = {"config": config, "modifiers": modifiers, "options": {"target": "qed"}}
    assert label(method, record) == expected
    modifiers["novelty"]["patience"] = 7
    assert label(method, record) == f"{expected} patience=7"
    config["temperature"] = 0.7         # not in the preset: what was given tells
    assert label(method, record | {"given": ["task", "temperature"]}) \
        == f"{expected} patience=7 temperature=0.7"
    assert "--temperature=0.7" in command_of(record | {"given": ["task", "temperature"]})


def test_a_search_of_steps_counts_all_that_these_drew(tmp_path):
    """Catches: one that redraws, whose result comes behind a number of proposals that it never
    had."""
    run = make_run(tmp_path / "r", [evaluation(i, f"c{i}", i / 20) for i in range(20)])
    record = json.loads((run / "config.json").read_text())
    record["config"] |= {"steps": 1, "proposals": 10}
    (run / "config.json").write_text(json.dumps(record))
    [row] = rows_from([run], {}).rows
    assert row["best_score"] == 0.95 and row["protocol"] == "yardstick, 1 steps"


def test_arc_runs_of_two_models_are_two_lines():
    """Catches: one mean over the bundled policy and a real model."""
    row = {"task": "arc", "group": "ARC-AGI-1 training", "limit": 256, "method": "migrate",
           "best_score": 1.0, "guesses": 3, "proposals": 256, "evaluations": 200, "auc": ""}
    rows = [{**row, "protocol": f"{preset}, 256 proposals", "target": str(t), "seed": 1,
             "found": solved, "pass2": solved}
            for preset, solved in (("tiny", 0), ("Qwen/Qwen3-4B paper", 1)) for t in range(3)]
    lines = tables.arc_table(rows).rows
    assert [(line[0], line[5].split()[0]) for line in lines] == [
        ("ARC-AGI-1 training", "0%"), ("ARC-AGI-1 training, Qwen/Qwen3-4B", "100%")]


@pytest.mark.parametrize("flags", [["--csv", "no/such/folder/x.csv"], ["--targets", "nofile"]])
def test_a_path_that_is_wrong_is_one_line(flags, tmp_path, capsys):
    run = make_run(tmp_path / "r", [evaluation(0, "gang", 0.5)])
    assert exit_code(command.main, [str(run), *flags]) == 2
    assert flags[1] in capsys.readouterr().err


# ------------------------------------------------------------------------------------ tables

def test_molecule_table_of_several_objectives_and_of_one():
    """Means over seeds and over the objectives that every method has; the gain in percent over the
    pairs that both have."""
    def run(target, method, seed, auc):
        return {"protocol": "novelty, 1000 evaluations", "target": target, "method": method,
                "seed": seed, "auc": auc}
    rows = [run("qed", "migrate", 42, 0.9), run("qed", "migrate", 43, 0.7),
            run("qed", "ns", 42, 0.5), run("qed", "ns", 43, 0.75),
            run("median1", "migrate", 42, 0.3), run("median1", "ns", 42, 0.25),
            run("deco_hop", "migrate", 42, 0.6)]
    [table] = tables.molecule_tables(rows, "migrate")
    text = tables.markdown(table)
    assert ("| deco_hop | 0.600 |  |\n| median1 | 0.300 | 0.250 |\n"
            "| qed | 0.800 | 0.625 |\n") in text
    assert "| mean of 2 | 0.550 | 0.438 |\n| seeds | 2 | 2 |\n" in text
    assert ("migrate (novelty) against ns (novelty): +26.7%, 2 objectives, 3 pairs"
            ) in text                                                               # 1.9 / 1.5
    [table] = tables.molecule_tables(rows[:4], "migrate")
    alone = tables.markdown(table)
    assert ("| migrate (novelty) | 0.800 [0.700, 0.900] | 2 |\n"
            "| ns (novelty) | 0.625 [0.500, 0.750] | 2 |\n") in alone
    assert "migrate (novelty) against ns (novelty): +28.0% (by seed: +80.0, -6.7)" in alone


def test_molecule_table_of_methods_without_a_common_objective():
    """Catches: a mean over nothing."""
    rows = [{"protocol": "p, 10 evaluations", "target": target, "method": method, "seed": 1,
             "auc": 0.5} for target, method in (("qed", "migrate"), ("median1", "ns"))]
    [table] = tables.molecule_tables(rows, "migrate")
    assert table.rows[-2] == ["mean of 0", "", ""]
    assert table.notes == ["migrate (p) against ns (p): -"]


@pytest.mark.parametrize("against, methods, expected", [
    ("migrate", ["migrate", "migrate+std", "ns"], ["migrate"]),
    ("migrate", ["migrate+novelty", "migrate+novelty+std", "migrate-opro"], ["migrate+novelty"]),
    ("migrate", ["migrate+novelty", "migrate+std", "ns+novelty"],
     ["migrate+novelty", "migrate+std"]),
    ("migrate (4,1,5)", ["migrate+novelty (4,1,5)", "migrate+novelty (4,1,5) lr=0"],
     ["migrate+novelty (4,1,5)"]),
    ("migrate+std", ["migrate+std", "migrate"], ["migrate+std"]),
    ("migrate", ["grpo", "migrate-evo"], []),
])
def test_what_is_compared_with_the_others_may_be_named_without_its_modifiers(against, methods,
                                                                             expected):
    """Catches: no differences under the presets whose method is migrate+novelty, or those of a
    method that only begins alike."""
    assert tables.meant_by(against, methods) == expected


def test_the_methods_of_each_protocol_are_compared_with_each_other():
    """Catches: migrate+novelty compared with the runs of another protocol or another group."""
    def run(method, protocol, found, target="mob"):
        return {"task": "wordsearch", "group": "published", "protocol": protocol, "method": method,
                "target": target, "seed": 1, "found": found, "guesses": 9 if found else "",
                "best_score": 0.5, "evaluations": 50, "proposals": 100}
    rows = [run("migrate+novelty", "novelty, 100 evaluations", 1),
            run("ns+novelty", "novelty, 100 evaluations", 0),
            run("migrate", "tiny, 100 proposals", 1), run("ns", "tiny, 100 proposals", 1)]
    [table] = tables.compare(rows, "migrate")
    assert table.notes[:-1] == [
        "published, novelty, 100 evaluations: migrate+novelty minus ns+novelty, paired by target "
        "and seed: found +100.0 points, by 250 guesses +100.0 (1 target)",
        "published, tiny, 100 proposals: migrate minus ns, paired by target "
        "and seed: found +0.0 points, by 250 guesses +0.0 (1 target)"]
    assert [cells[3:6] for cells in table.rows] == [
        ["migrate+novelty", "1", "100%"], ["ns+novelty", "1", "0%"],
        ["migrate", "1", "100%"], ["ns", "1", "100%"]]


def test_the_share_of_valid_candidates_is_that_of_what_was_drawn():
    """Catches: replays counted as drawn, parts of a search that overlap or are left out."""
    def step(n, invalid):
        return {"step": 1, "seconds": {"sampling": 1.0}, "on-policy": {"n": n, "invalid": invalid},
                "neighbor": {"n": 2, "invalid": 0}, "greedy": {"n": 5, "invalid": 0}}
    steps = [step(2, 2), step(2, 0), step(8, 5)]
    assert valid_shares(steps, 3) == [0.5, 1.0, 0.5]
    assert valid_shares(steps, 1) == [11 / 18] and valid_shares(steps, 4) == []


def test_a_table_holds_the_same_as_markdown_and_as_html():
    """Catches: a page that shows another table than the terminal; cells that become markup."""
    table = Table("Scores, 10 runs", ["method", "score"], [["a|b", "0.5 [<0.4, 0.6]"], ["---", ""]],
                  ["a minus b: +1.0"])
    assert tables.markdown(table) == (
        "Scores, 10 runs\n\n| method | score |\n|---|---|\n| a|b | 0.5 [<0.4, 0.6] |\n"
        "| --- |  |\n\na minus b: +1.0")
    found = Elements(markup.table(table))
    assert found.tags == ["p", "div", "div", "table", "thead", "tr", "th", "th", "tbody",
                          *["tr", "td", "td"] * 2, "p"]
    assert found.texts == ["Scores, 10 runs", "method", "score", "a|b", "0.5 [<0.4, 0.6]", "---",
                           "a minus b: +1.0"]


def test_rows_survive_a_csv_file(tmp_path):
    """Catches: numbers that are text after reading, rows that lose a field."""
    run = make_run(tmp_path / "run", [evaluation(0, "gang", 0.5)])
    rows = rows_from([run], {"mob": "published"}).rows
    write_csv(tmp_path / "rows.csv", rows)
    assert read_csv(tmp_path / "rows.csv") == [row | {"seed": "1"} for row in rows]
    assert rows[0]["group"] == "published" and rows[0]["protocol"] == "yardstick, 10 proposals"
    with pytest.raises(UserError, match="nowhere.csv"):
        read_csv(tmp_path / "nowhere.csv")
    for text in ("task,target\na,b\n", (tmp_path / "rows.csv").read_text().replace("0.5", "nan"),
                 (tmp_path / "rows.csv").read_text().replace("0.5", "much"), "\ud800" * 9):
        (tmp_path / "other.csv").write_text(text, errors="surrogatepass")
        with pytest.raises(UserError, match="other.csv is no table of runs"):
            read_csv(tmp_path / "other.csv")


def test_a_run_without_any_valid_candidate_has_a_row_and_a_page(tmp_path, capsys):
    """Catches: the best of nothing. Molecules and ARC have columns of their own."""
    targets = {"wordsearch": "mob", "molecule": "qed", "arc": "3c9b0459"}
    for task, target in targets.items():
        nothing = [evaluation(i, f"{task} {i}", 0.0, valid=False) for i in range(3)]
        make_run(tmp_path / task / "invalid", nothing, task, target, seed=1)
        make_run(tmp_path / task / "empty", [], task, target, seed=2)
        good = [evaluation(0, f"{task} good", 0.5)]
        make_run(tmp_path / task / "good", good, task, target, seed=1, method="migrate")
    for run in tmp_path.glob("*/*"):
        words = Elements(pages.write(run).read_text()).words
        assert "by-hand, preset yardstick, seed" in words or "migrate, preset" in words
        assert ("Best candidates" in words) == (run.name == "good")
        assert ("no candidate was valid" in words) == (run.name != "good")
    for task in targets:
        code = exit_code(command.main, [str(tmp_path / task), "--html", str(tmp_path / "c.html")])
        assert code == 0 and "3 runs" in Elements((tmp_path / "c.html").read_text()).words
    printed = capsys.readouterr().out
    assert "| published | 1 | yardstick, 10 proposals | by-hand | 2 | 0% |" in printed
    assert "| by-hand (yardstick) | 0.000 [0.000, 0.000] | 2 |" in printed
    assert "| ARC-AGI-1 training | 1 | 10 | by-hand | 2 | 0% | 0% | - |" in printed


def test_the_arc_table_counts_only_what_came_within_the_limit(tmp_path):
    """Enumeration of the generator's programs on a real task, at a count where it is solved and at
    one where it is not yet."""
    from examples import arc_enumerate
    for budget in (16, 2):
        arc_enumerate.main(["--target", "3c9b0459", "--seed", "11", "--budget", str(budget),
                            "--out", str(tmp_path / str(budget))])
    rows = {n: row_of(read(tmp_path / str(n)), {}) for n in (16, 2)}
    assert rows[16]["found"] == rows[16]["pass2"] == 1 and rows[16]["guesses"] == 3
    assert rows[2]["found"] == rows[2]["pass2"] == 0
    sets = list(arc_splits().values())
    assert sets.count("ARC-AGI-1 training") == sets.count("ARC-AGI-1 evaluation") == 400
    assert rows[16]["group"] == "ARC-AGI-1 training"
    assert rows[16]["best"] == "turn the grid upside down"
    candidates = [e.candidate for e in read_evaluations(tmp_path / "16")]
    first_two = [e.candidate for e in read_evaluations(tmp_path / "2")]
    assert len(set(candidates)) == 16 and candidates[:2] == first_two
    text = tables.markdown(tables.arc_table([*rows.values()]))
    assert "| ARC-AGI-1 training | 1 | 16 | enumerate | 1 | 100% | 100% | 3 |" in text
    assert "| ARC-AGI-1 training | 1 | 2 | enumerate | 1 | 0% | 0% | - |" in text
    words = Elements(pages.write(tmp_path / "16").read_text()).words
    assert "enumerate" in words and "turn the grid upside down" in words
    assert "python -m examples.arc_enumerate --target 3c9b0459" in words
    cut = row_of(read(tmp_path / "16"), {}, within=2)
    assert cut == rows[2] | dict.fromkeys(("repeats", "invalid", "steps", "seconds"), "")
    assert row_of(read(tmp_path / "16"), {}, within=100) == rows[16]


@pytest.mark.parametrize("fixed, found, proposals", [
    ({"proposals": 20}, 0, 6), ({"budget": 20, "proposals": 20}, 1, 10)])
def test_the_first_guesses_of_a_run_alone(tmp_path, fixed, found, proposals):
    """Catches: the sixth new candidate, proposal 10 because others were repeats, counted as guess
    10 of a search that fixed evaluations, or as guess 6 of one that fixed proposals."""
    evaluations = [evaluation(i, f"c{i}", 1.0 if i == 5 else i / 20) for i in range(10)]
    evaluations = [replace(e, proposal=2 * e.index) for e in evaluations]
    run = make_run(tmp_path / "r", evaluations, **fixed)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"solved": True, "proposals": 20}))
    row = row_of(read(run), {}, within=6)
    assert (row["found"], row["limit"], row["proposals"]) == (found, 6, proposals)
    assert exit_code(command.main, [str(run), "--within", "6"]) == 0
    write_csv(tmp_path / "rows.csv", [row])
    assert exit_code(command.main, [str(tmp_path / "rows.csv"), "--within", "6"]) == 2
    assert exit_code(command.main, [str(run), "--within", "0"]) == 2

# -------------------------------------------------------------------------- which runs are compared

def test_tasks_of_the_user_are_neither_merged_nor_paired_with_each_other(tmp_path, capsys):
    """Catches: one line for two black boxes; a difference between the scores of two of them. Two
    files may hold tasks of one name."""
    for file, method, score in (("a.py", "migrate", 0.9), ("b.py", "ns", 0.1)):
        make_run(tmp_path / file, [evaluation(0, "x", score)], "mine", "",
                 method=method, source=f"my/{file}")
    make_run(tmp_path / "word", [evaluation(0, "gang", 0.5)], method="ns")
    assert exit_code(command.main, [str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| mine (a.py) | 1 | yardstick, 10 proposals | migrate | 1 |" in printed
    assert "| mine (b.py) | 1 | yardstick, 10 proposals | ns | 1 |" in printed
    assert "| published | 1 | yardstick, 10 proposals | ns | 1 |" in printed
    assert "minus" not in printed


def test_a_run_made_twice_counts_once_in_the_table_and_in_the_curves(tmp_path, capsys):
    """Catches: a mean in which one search weighs twice, and a curve with another one. The copy is
    told; so is a line of a CSV file that is the same run."""
    for name, seed, score in (("a", 1, 0.2), ("b", 1, 0.2), ("c", 2, 0.6)):
        make_run(tmp_path / name, [evaluation(0, "gang", score)], seed=seed)
    page, rows = tmp_path / "page.html", tmp_path / "rows.csv"
    assert exit_code(command.main, [str(tmp_path), "--html", str(page), "--csv", str(rows)]) == 0
    out, err = capsys.readouterr()
    assert "| by-hand | 2 | 0% | 0% | not found | 0.400 |" in out
    assert "1 run has the settings and the seed of another one: left out" in err
    assert rows_in(data_of(page), "curves:chart-0")[-1]["mean"] == pytest.approx(0.4)
    assert len(read_csv(rows)) == 2
    assert exit_code(command.main, [str(rows), str(tmp_path / "a")]) == 0
    out, err = capsys.readouterr()
    assert "| by-hand | 2 |" in out and "1 run has" in err


def test_an_interval_needs_five_targets_and_says_how_many_there_are():
    """Catches: [50%, 50%] of a single target, which looks like a certainty."""
    def rows_of(n, method, step):
        return [{"task": "wordsearch", "target": f"t{i}", "seed": 1, "method": method, "found": 1,
                 "group": "held-out", "protocol": "p", "guesses": 9, "best_score": 0.1 * i + step,
                 "evaluations": 5, "proposals": 10} for i in range(n)]
    for n in (1, 4, 5):
        [table] = tables.compare(rows_of(n, "migrate", 0.1) + rows_of(n, "ns", 0.0), "migrate")
        line = table.rows[0]
        assert line[:5] == ["held-out", str(n), "p", "migrate", str(n)]
        assert all(("[" in line[i]) == (n >= 5) for i in (5, 6, 8))
        assert ("[" in table.notes[0]) == (n >= 5)
        assert table.notes[0].endswith(f"({n} target{'s' * (n > 1)})")
    ours, other = ({(f"o{i}", "1"): v for i in range(4)} for v in (0.2, 0.1))
    assert tables.gain_in_words(measures.gain(ours, other)) == "+100.0%, 4 objectives, 4 pairs"


def test_intervals_are_the_quantiles_of_all_resamples():
    """Five targets can be drawn in 5^5 ways: all of them against the drawn ones. Catches: 90%
    instead of 95%, runs that are drawn instead of targets, draws without replacement."""
    values = {"a": [0.0, 0.2], "b": [0.5], "c": [1.0, 0.6, 0.8], "d": [0.3], "e": [2.0]}
    of = np.array([(sum(runs), len(runs), sum(runs) + 1) for runs in values.values()])
    a, b, c = of[list(itertools.product(range(5), repeat=5))].sum(1).T              # (5^5,) each

    def holds_95_percent(interval, ratios):
        low, high = interval
        return 1.5 < 100 * np.mean(ratios < low) < 3.5 and 1.5 < 100 * np.mean(ratios > high) < 3.5
    estimate = measures.mean_of_pairs([(target, v) for target, runs in values.items()
                                       for v in runs])
    assert estimate.value == pytest.approx(5.4 / 8) and estimate.targets == 5
    assert holds_95_percent(estimate.interval, a / b)
    ours, other = {}, {}
    for target, runs in values.items():
        for seed, v in enumerate(runs):
            ours[target, seed], other[target, seed] = v + 1 / len(runs), v
    gain = measures.gain(ours, other)
    assert gain.percent == pytest.approx(100 * (10.4 / 5.4 - 1))
    assert holds_95_percent(gain.interval, 100 * (c / a - 1))


def test_a_folder_without_runs_is_one_line_and_exit_code_2(tmp_path, capsys):
    """Catches: no output and exit code 0, a traceback; a table that says nothing of what it leaves
    out."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no run")
    unfinished = make_run(tmp_path / "unfinished", [evaluation(0, "gang", 0.5)])
    (unfinished / "summary.json").unlink()
    broken = make_run(tmp_path / "broken", [evaluation(0, "gang", 0.5)])
    (broken / "config.json").write_text("{")
    good = make_run(tmp_path / "good", [evaluation(0, "gang", 0.5)])
    for name, reason in (("empty", "holds no run"), ("nowhere", "does not exist"),
                         ("text.txt", "holds no run"), ("unfinished", "is not finished"),
                         ("broken", "config.json cannot be read")):
        for more in ([], ["--html", str(tmp_path / "c.html")]):
            if name == "unfinished" and more:
                continue            # a search that is going on has a page
            assert exit_code(command.main, [str(tmp_path / name), *more]) == 2
            out, err = capsys.readouterr()
            assert out == "" and len(err.splitlines()) == 1 and reason in err, (name, err)
        code = exit_code(command.main, [str(tmp_path / name), str(good)])
        assert code == (2 if name == "nowhere" else 0)      # a path that is mistyped
        if code:
            capsys.readouterr()
            continue
        out, err = capsys.readouterr()
        assert "by-hand" in out and len(err.splitlines()) == 1 and "left out" in err, (name, err)


# ------------------------------------------------------------------------------------- pages

def test_a_page_shows_what_the_policy_wrote():
    """The first step and the last, each prompt once. Catches: prompts that fill the page; a cut or
    unreadable completion that looks like any other."""
    def line(step, origin, completion, *read, cut=False):
        return {"step": step, "proposal": 1, "origin": origin, "prompt": f"<|user|> {origin}?",
                "completion": completion, "cut": cut, "read": read}
    stone = {"candidate": "stone", "score": 0.25, "valid": True, "repeat": False}
    zebra = {"candidate": "zebra", "score": 0.0, "valid": False, "repeat": True}
    found = Elements(pages.raw_completions([
        line(1, "on-policy", "Sure! Here", cut=True), line(1, "on-policy", "stone<|end|>", stone),
        line(1, "neighbor", "a\x1b[2J", zebra), line(2, "on-policy", "in between"),
        line(3, "on-policy", "[stone, zebra]", stone, zebra)]))
    assert found.words.split(" of every step.")[1] == (
        "Step 1, on-policy: the prompt<|user|> on-policy?"
        "Sure! Herenothing could be readcut off at max_new_tokens"
        "stone<|end|>read: stone, score 0.2500"
        "Step 1, neighbours: the prompt<|user|> neighbor?a\u00b7[2Jread: zebra, invalid, a repeat"
        "Step 3, on-policy: the prompt<|user|> on-policy?"
        "[stone, zebra]read: stone, score 0.2500read: zebra, invalid, a repeat")
    assert found.tags.count("details") == 3


class Elements(HTMLParser):
    """What a browser would find in a page, unless it is lenient in ways of its own."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def words(self):
        return "".join(self.texts)


def data_of(page) -> dict:
    """What a page's script gets: charts, rows, colours."""
    text = page.read_text() if hasattr(page, "read_text") else page
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>',
                                text)[1])


def rows_in(data: dict, name: str) -> list[dict]:
    """The rows of a chart, one dict each."""
    columns = data["rows"][name]
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>",
           "</style></svg><svg onload=alert(1)>", "\ud800\x00\x1b",
           "a\n</pre><iframe src=http://x>", "&lt;b&gt;", "<!--<script>", "\u2028"]
OURS = {"html", "head", "meta", "title", "style", "body", "script", "noscript", "h1", "h2", "p",
        "b", "br", "code", "pre", "span", "div", "figure", "figcaption", "details", "summary",
        "table", "thead", "tbody", "tr", "th", "td", "svg", "g", "path", "text", "rect", "circle",
        "defs", "clippath", "line"}


def assert_nothing_is_alive(page: str) -> None:
    """The page has only elements that we write, two scripts of ours and the data, no handler, and
    no address."""
    found = Elements(page)
    assert set(found.tags) <= OURS, set(found.tags) - OURS
    assert found.tags.count("script") == 3 and found.tags.count("style") == 1
    for name, value in found.attributes:
        assert re.fullmatch(r"[a-z0-9:_-]+", name) and not name.startswith("on"), name
        assert name not in ("src", "href", "srcset", "xlink:href", "action", "background"), value
        assert name != "style" or re.fullmatch(
            r"--c:var\(--[a-z-]+\)|[a-z-]+: ?[^;:()]+(; ?[a-z-]+: ?[^;:()]+)*;?", value), value
    policy, *others = re.findall("<meta http-equiv=.*?>", page)
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy and not others
    assert not re.search("[\ud800-\udfff\x00\x1b\u2028]", page)


def test_a_page_stands_alone_and_runs_nothing_that_a_model_wrote(tmp_path):
    """Catches: hostile candidates, prompts or completions that become markup, in the page and in
    the picture; anything loaded from elsewhere."""
    class Hostile(Task):
        def picture(self, candidate, info):
            raise ValueError("no picture of this")
    evaluations = []
    for i, text in enumerate(HOSTILE * 6):
        evaluations.append(evaluation(
            i, text + "!" * (i // len(HOSTILE)), i / 50, step=i // 3, proposal=i, valid=i % 5 > 0,
            origin=["on-policy", "neighbor", "warm-start", "<b>"][i % 4],
            parents=[HOSTILE[i % len(HOSTILE) - 1]] if i > 6 else []))
    completions = [
        {"step": i, "proposal": i, "origin": HOSTILE[i], "prompt": HOSTILE[i - 1] + "</details>",
         "completion": HOSTILE[i - 2], "cut": True,
         "read": [{"candidate": HOSTILE[i - 3], "score": 0, "valid": False, "repeat": True}]}
        for i in (0, 3, 5)]
    run = make_run(tmp_path / "run", evaluations, "<b>.py", "</title><script>", model="<i>",
                   completions=completions)
    record = json.loads((run / "config.json").read_text())
    record |= {"command": ["--x", "<script>"], "modifiers": {"<b>": {"<u>": "<script>"}}}
    (run / "config.json").write_text(json.dumps(record))
    text = pages.write(run, task=Hostile()).read_text(encoding="utf-8")
    assert_nothing_is_alive(text)
    found = Elements(text)
    assert "<script>alert(1)</script>" in found.words
    assert found.words.count("the prompt") == 2             # of the first step and of the last
    data = re.search(r'id="data">(.*?)</script>', text)[1]
    assert not re.search("[<>&\u2028\u2029]", data)
    assert rows_in(data_of(text), "candidates")[0]["candidate"] == HOSTILE[0]
    elements = xml.etree.ElementTree.fromstring(pages.search_picture(run)).iter()
    tags = {element.tag.split("}")[1] for element in elements}
    assert tags <= {"svg", "style", "rect", "path", "text", "g", "defs", "clipPath", "line"}


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([
        *HOSTILE, 10**400, -10**400, 2**63, 1e308, -0.5, "", "=1+1", "../../x", "arc", "wordsearch",
        "molecule", "migrate+novelty", [], {}, [[]], "\u202e"]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(HOSTILE) | st.text(max_size=3), inner, max_size=3),
    max_leaves=4)


def ruin(draw, value, chance: int):
    """A JSON value of which some parts are replaced by wild ones, or left out."""
    if draw(st.integers(0, chance)) == 0:
        return draw(WILD)
    if isinstance(value, dict):
        return {name if draw(st.integers(0, 40)) else draw(st.sampled_from(HOSTILE)):
                ruin(draw, one, chance) for name, one in value.items()
                if draw(st.integers(0, 40))}
    return [ruin(draw, one, chance) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """{name: lines} of the files of a run that has everything."""
    def step(n):
        part = {"n": 3, "score_mean": 0.3, "score_max": 0.5, "repeats": 1, "invalid": 1,
                "logprob": -2.0, "clip_fraction": 0.1}
        return {"step": n, "proposals": 6 * n, "archive": 3 * n, "best": "gang", "best_score": 0.5,
                "seconds": {"sampling": 0.1, "scoring": 0.2, "training": 0.3}, "loss": 0.01,
                "grad_norm": 1.0, "entropy": 3.0, "lr": 0.1, "skipped": False, "on-policy": part,
                "neighbor": part, "greedy": part}
    read = [{"candidate": "gang", "score": 0.5, "valid": True, "repeat": False}]
    completions = [{"step": 1, "proposal": 1, "origin": "on-policy", "prompt": "?",
                    "completion": "gang", "cut": False, "read": read}]
    evaluations = [evaluation(i, f"word {i}", i / 9, origin=["warm-start", "on-policy"][i > 1],
                              step=int(i > 1), parents=["word 1"], info={"rank": 3})
                   for i in range(6)]
    folder = make_run(tmp_path_factory.mktemp("whole") / "run", evaluations,
                      steps=map(step, range(1, 4)), completions=completions)
    return {file.name: [json.loads(line) for line in (
        [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines())]
        for file in folder.iterdir() if file.suffix in (".json", ".jsonl")}


def test_the_rows_that_a_fork_made_up_are_in_the_chart_of_the_group():
    """All of them as one origin. Catches: a group of ten in which six are drawn."""
    def part(n, repeats=0):
        return {"n": n, "repeats": repeats, "invalid": 0}
    steps = clean_steps([{"step": 1, "seconds": {"sampling": 1.0, "n": 4}, "on-policy": part(6, 2),
                          "crossed": part(3), "odd": part(1, 1)}])
    bars = [(row["origin"], row["kind"], row["n"]) for row in step_metrics.group_rows(steps)]
    assert bars == [("on-policy", "new", 4), ("on-policy", "repeats, invalid", 2),
                    ("other", "new", 3), ("other", "repeats, invalid", 1)]


@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_whatever_the_files_of_a_run_hold_it_is_text_and_never_a_traceback(whole_run, tmp_path,
                                                                            data):
    """Any value of any file may be anything. Catches: numbers that are strings with markup, huge
    integers, NaN, lists where a name is expected; in the page, the picture, the comparison and the
    table."""
    folder = tmp_path / f"run{next(NUMBERS_OF_RUNS)}"
    folder.mkdir()
    chance = data.draw(st.sampled_from([10, 60, 300]))
    for name, lines in whole_run.items():
        ruined = [json.dumps(ruin(data.draw, line, chance)) for line in lines]
        (folder / name).write_text("".join(line + "\n" for line in ruined))
    good = make_run(folder / "good", [evaluation(0, "gang", 0.5)])
    page, both = folder / "page.html", folder / "both.html"
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        codes = [exit_code(command.main, list(map(str, arguments))) for arguments in (
            [folder, good], [folder, good, "--html", both, "--csv", folder / "rows.csv"])]
        (good / "config.json").unlink()
        code = exit_code(command.main, [str(folder), "--html", str(page)])
        exit_code(command.main, [str(folder), "--svg", str(folder / "search.svg")])
    output.getvalue().encode()
    assert codes == [0, 0] and code in (0, 2) and page.exists() == (code == 0)
    for file in filter(lambda file: file.exists(), (page, both)):
        assert_nothing_is_alive(file.read_text(encoding="utf-8"))
    if (folder / "search.svg").exists():
        xml.etree.ElementTree.fromstring((folder / "search.svg").read_text())


NUMBERS_OF_RUNS = itertools.count()


def test_every_run_leaves_a_page_and_a_broken_page_loses_no_run(tmp_path, capsys, monkeypatch):
    """Catches: a finished run that ends with a traceback, because of its page; a page that lacks
    what the run found, or how a metric is read."""
    arguments = ["--target", "mob", "--steps", "4", "--n-on-policy", "3", "--n-greedy", "1",
                 "--n-neighbors", "3", "--method", "migrate+novelty"]
    assert command_line(capsys, *arguments, "--out", tmp_path / "a")[0] == 0
    found = Elements((tmp_path / "a" / "report.html").read_text())
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert f"{summary['best_score']:.4f}" in found.words and summary["best"] in found.words
    assert "rank" in found.words and "novelty: max_draws" in found.words
    assert "the prompt<user> guess the hidden word . answer with" in found.words
    for name, (_, meaning) in step_metrics.GLOSSARY.items():
        assert name in found.words and meaning in found.words
    monkeypatch.setattr(pages, "run_page", lambda *_: 1 / 0)
    code, out, err = command_line(capsys, *arguments, "--out", tmp_path / "b")
    assert code == 0 and "run: " in out and f"python -m reports {tmp_path / 'b'} --html" in err
    monkeypatch.undo()
    assert exit_code(command.main, [str(tmp_path / "b"), "--html"]) == 0
    assert (tmp_path / "b" / "report.html").exists()
    (tmp_path / "b" / "summary.json").unlink()      # a run that is not finished has a page as well
    assert exit_code(command.main, [str(tmp_path / "b"), "--html"]) == 0
    assert "not finished" in (tmp_path / "b" / "report.html").read_text()


def test_runs_are_compared_with_the_spread_over_seeds(tmp_path, capsys):
    """Catches: curves of other numbers than the runs', bands over targets instead of
    seeds."""
    scores = {}
    for method, seed in (("migrate", 0), ("migrate", 1), ("random", 0)):
        folder = tmp_path / f"{method}{seed}"
        command_line(capsys, "--target", "mob", "--preset", "tiny", "--proposals", 30, "--method",
                     method, "--seed", seed, "--out", folder)
        scores[method, seed] = json.loads((folder / "summary.json").read_text())["best_score"]
    assert exit_code(command.main, [str(tmp_path), "--html", str(tmp_path / "c.html")]) == 0
    found = Elements((tmp_path / "c.html").read_text())
    printed = capsys.readouterr().out
    assert "| published | 1 | tiny, 30 proposals | migrate | 2 |" in printed
    assert found.tags.count("table") == 1
    data = data_of(tmp_path / "c.html")
    rows = {name: rows_in(data, name) for name in data["rows"]}
    last = {row["method"]: row for row in rows["curves:chart-0"]}
    mean = (scores["migrate", 0] + scores["migrate", 1]) / 2
    assert last["migrate"]["mean"] == pytest.approx(mean, abs=1e-4)
    assert last["random"]["mean"] == pytest.approx(scores["random", 0], abs=1e-4)
    ends = sorted((scores["migrate", 0], scores["migrate", 1]))
    assert [last["migrate"][end] for end in ("low", "high")] == pytest.approx(ends, abs=1e-4)
    assert last["random"]["low"] == last["random"]["high"] and last["random"]["seeds"] == 1
    colours = [chart["encoding"]["color"]["scale"] for chart in data["charts"].values()]
    assert colours and all(colour == colours[0] for colour in colours)
    run = read(tmp_path / "random0")
    grid = progress(run, row_of(run, {})["limit"], n=30)
    assert [best for best, _ in grid] == [
        max(e.score for e in run.evaluations if e.proposal <= k) for k in range(31)]
    code = exit_code(command.main, [str(tmp_path / "nowhere"), "--html"])
    assert code == 2 and "does not exist" in capsys.readouterr().err


def test_curves_of_searches_of_steps_are_means_at_equal_proposals(tmp_path, capsys):
    """Searches of so many steps draw different numbers. Catches: the curve of a long one over the
    axis of a short one."""
    for seed, (n, best) in enumerate(((10, 1.0), (20, 0.5))):
        run = make_run(tmp_path / str(seed), [evaluation(k, f"{seed} {k}", best if k == n - 1 else
                                                         0.1) for k in range(n)], seed=seed)
        record = json.loads((run / "config.json").read_text())
        record["config"]["steps"] = 3
        (run / "config.json").write_text(json.dumps(record))
    assert exit_code(command.main, [str(tmp_path), "--html", str(tmp_path / "c.html")]) == 0
    rows = rows_in(data_of(tmp_path / "c.html"), "curves:chart-0")
    mean = {row["x"]: row["mean"] for row in rows}
    assert [mean[x] for x in (0, 5, 10, 20)] == pytest.approx([0, 0.1, 0.55, 0.75])
    assert max(mean) == 20


def test_the_search_curve_of_one_run_is_written_as_a_picture(tmp_path, capsys):
    """Catches: --svg of several runs, of which one would be drawn."""
    evaluations = [evaluation(i, f"word {i}", 0.1) for i in range(20)]
    for i in range(2):
        make_run(tmp_path / str(i), [*evaluations, evaluation(20, "gang", 0.5)])
    picture = tmp_path / "search.svg"
    assert exit_code(command.main, [str(tmp_path / "0"), "--svg", str(picture)]) == 0
    text = picture.read_text()
    assert exit_code(command.main, [str(tmp_path / "0"), "--svg", str(picture)]) == 0
    assert picture.read_text() == text      # else every push to the Hub would be a commit
    assert ">gang</text>" in text and "prefers-color-scheme: dark" in text
    dark = dict(re.findall(r'\[fill="(#\w+)"\] \{ fill: (#\w+)', text))
    used = set(re.findall(r'(?:fill|stroke)="(#\w+)"', text.split("</style>")[1]))
    assert used <= dark.keys()                              # readable on dark ground
    assert exit_code(command.main, [str(tmp_path), "--svg", str(picture)]) == 2
    assert "name one run folder" in capsys.readouterr().err


def test_arc_searches_of_steps_are_one_line_whenever_they_were_solved(tmp_path):
    """The default with a real model. Catches: a line for each number of programs at which a search
    ended, and a cut search that passes for one of so many steps."""
    for i, (solved, n) in enumerate(((True, 4), (True, 9), (False, 12))):
        evaluations = [evaluation(k, f"{i} {k}", 1.0 if solved and k == n - 1 else 0.1)
                       for k in range(n)]
        run = make_run(tmp_path / str(i), evaluations, task="arc", target=str(i), steps=[],
                       proposals=12)
        record = json.loads((run / "config.json").read_text())
        record["config"]["steps"] = 3
        (run / "config.json").write_text(json.dumps(record))
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"solved": solved}))
    found = rows_from([tmp_path], {}).rows
    assert {row["limit"] for row in found} == {12}
    [line] = tables.arc_table(found).rows
    assert line[1:6] == ["3", "3 steps", "by-hand", "3", "67%"]
    cut = rows_from([tmp_path], {}, within=5).rows
    assert [row["found"] for row in cut] == [1, 0, 0]
    [line] = tables.arc_table(cut).rows
    assert line[2] == "5"
    two = [row | {"protocol": f"{preset}, 5 proposals"} for preset in "ab" for row in cut]
    assert [line[3] for line in tables.arc_table(two).rows] == ["by-hand (a)", "by-hand (b)"]


def test_a_csv_file_holds_no_formula_and_every_number(tmp_path):
    row = row_of(read(make_run(tmp_path / "r", [evaluation(0, "=1+1", 0.3)])), {})
    write_csv(tmp_path / "rows.csv", [row])
    assert ",'=1+1," in (tmp_path / "rows.csv").read_text()
    assert read_csv(tmp_path / "rows.csv")[0]["best"] == "=1+1"
    for wrong in ({"found": ""}, {"found": 1}, {"task": "arc"},
                  {"task": "arc", "pass2": 0, "protocol": "mine"}):
        write_csv(tmp_path / "rows.csv", [row | wrong])
        with pytest.raises(UserError, match="is no table of runs"):
            read_csv(tmp_path / "rows.csv")
    (tmp_path / "groups.json").write_text("[1]")
    assert exit_code(command.main, [str(tmp_path / "r"), "--targets",
                                    str(tmp_path / "groups.json")]) == 2
