"""Tests of reports/: rows, measures, tables and pages of runs."""
import json
import re
import xml.etree.ElementTree
from html.parser import HTMLParser

import pytest

from reports import __main__ as command
from reports import markup, measures, pages, tables
from reports.comparison import progress, valid_shares
from reports.labels import label
from reports.records import read
from reports.rows import arc_splits, read_csv, row_of, rows_from, write_csv
from reports.tables import Table
from runlog import metrics
from runlog.errors import UserError, exit_code
from runlog.folder import Run
from runlog.ledger import Evaluation, read_evaluations
from tasks import Task
from tests.support import command_line


def evaluation(index: int, candidate: str, score: float, **other) -> Evaluation:
    settings = {"step": 1, "proposal": index + 1, "origin": "on-policy", "parents": [],
                "valid": True}
    return Evaluation(index=index, candidate=candidate, score=score, **(settings | other))


def make_run(folder, evaluations, task="wordsearch", target="mob", steps=(), completions=(),
             **settings):
    """A finished run with these evaluations, as a search without a policy leaves it."""
    config = {"task": task, "model": "", "method": "by-hand", "preset": "yardstick", "seed": 1,
              "budget": None, "proposals": 10} | settings
    run = Run(folder, {"config": config, "options": {"target": target}, "command": []}, False)
    for e in evaluations:
        run.log_evaluation(e)
    for step in steps:
        run.log_step(step)
    for line in completions:
        run.log_completions(line["step"], [line])
    run.finish(metrics.summary(
        task=task, target=target, method=config["method"], seed=config["seed"],
        model=config["model"], preset=config["preset"], evaluations=evaluations, solved=False,
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


def test_runs_of_a_csv_file_are_paired_with_runs_of_a_folder():
    """Seeds are text in the one and numbers in the other."""
    ours, others = [{"target": "a", "seed": "42", "v": 3}], [{"target": "a", "seed": 42, "v": 1}]
    difference = measures.paired_difference(ours, others, lambda row: row["v"])
    assert tables.with_interval(difference, "{:+.1f}") == "+2.0 [+2.0, +2.0]"
    other_seed = [{"target": "a", "seed": 43, "v": 1}]
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
    ("--patience 7 --quantize 4bit --warm-start-words 5",
     "migrate patience=7 quantize=4bit warm-start-words=5"),
])
def test_a_table_tells_runs_of_different_settings_apart(flags, expected):
    """Catches: rows of different settings that are averaged, or one row for each folder name. All
    counts of a group are shown, also where the user gave one."""
    record = {"config": SETTINGS, "command": flags.split(), "run": {"quantize": "4bit"},
              "modifiers": {"novelty": {"patience": 7}}, "options": {"warm_start_words": 5}}
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
    assert ("migrate (novelty) against ns (novelty): +26.7% [+20.0, +28.0], 2 objectives, "
            "3 pairs") in text                                                      # 1.9 / 1.5
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
    assert table.notes == [
        "published, novelty, 100 evaluations: migrate+novelty minus ns+novelty, paired by target "
        "and seed: found +100.0 [+100.0, +100.0] points, by 250 guesses +100.0 [+100.0, +100.0]",
        "published, tiny, 100 proposals: migrate minus ns, paired by target "
        "and seed: found +0.0 [+0.0, +0.0] points, by 250 guesses +0.0 [+0.0, +0.0]"]
    assert [cells[2:5] for cells in table.rows] == [
        ["migrate+novelty", "1", "100% [100%, 100%]"], ["ns+novelty", "1", "0% [0%, 0%]"],
        ["migrate", "1", "100% [100%, 100%]"], ["ns", "1", "100% [100%, 100%]"]]


def test_the_share_of_valid_candidates_is_that_of_what_was_drawn():
    """Catches: replays counted as drawn, parts of a search that overlap or are left out."""
    def step(n, invalid):
        return {"step": 1, "seconds": {"sampling": 1.0}, "on-policy": {"n": n, "invalid": invalid},
                "neighbor": {"n": 2, "invalid": 0}, "greedy": {"n": 5, "invalid": 0}}
    steps = [step(2, 2), step(2, 0), step(8, 5)]
    assert valid_shares(steps, 3) == [(0.5,), (1.0,), (0.5,)]
    assert valid_shares(steps, 1) == [(11 / 18,)] and valid_shares(steps, 4) == []


def test_a_table_holds_the_same_as_markdown_and_as_html():
    """Catches: a page that shows another table than the terminal; cells that become markup."""
    table = Table("Scores, 10 runs", ["method", "score"], [["a|b", "0.5 [<0.4, 0.6]"], ["---", ""]],
                  ["a minus b: +1.0"])
    assert tables.markdown(table) == (
        "Scores, 10 runs\n\n| method | score |\n|---|---|\n| a|b | 0.5 [<0.4, 0.6] |\n"
        "| --- |  |\n\na minus b: +1.0")
    found = Elements(markup.table(table))
    assert found.tags == ["p", "table", "tr", "th", "th", *["tr", "td", "td"] * 2, "p"]
    assert found.texts == ["Scores, 10 runs", "method", "score", "a|b", "0.5 [<0.4, 0.6]", "---",
                           "a minus b: +1.0"]


def test_rows_survive_a_csv_file(tmp_path):
    """Catches: numbers that are text after reading, rows that lose a field."""
    run = make_run(tmp_path / "run", [evaluation(0, "gang", 0.5)])
    rows = rows_from([run], {"mob": "published"})
    write_csv(tmp_path / "rows.csv", rows)
    assert read_csv(tmp_path / "rows.csv") == [row | {"seed": "1"} for row in rows]
    assert rows[0]["group"] == "published" and rows[0]["protocol"] == "yardstick, 10 proposals"
    with pytest.raises(UserError, match="nowhere.csv"):
        read_csv(tmp_path / "nowhere.csv")


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
    for task in targets:
        code = exit_code(command.main, [str(tmp_path / task), "--html", str(tmp_path / "c.html")])
        assert code == 0 and "3 runs" in Elements((tmp_path / "c.html").read_text()).words
    printed = capsys.readouterr().out
    assert "| published | yardstick, 10 proposals | by-hand | 2 | 0% [0%, 0%] |" in printed
    assert "| by-hand (yardstick) | 0.000 [0.000, 0.000] | 2 |" in printed
    assert "| ARC-AGI-1 training | 10 | by-hand | 2 | 0% [0%, 0%] | 0% [0%, 0%] | - |" in printed


def test_the_arc_table_counts_only_what_came_within_the_limit(tmp_path):
    """Enumeration of the generator's programs on a real task, at a count where it is solved and at
    one where it is not yet."""
    from examples import arc_enumerate
    for budget in (16, 2):
        arc_enumerate.main(["--target", "3c9b0459", "--seed", "15", "--budget", str(budget),
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
    assert ("| ARC-AGI-1 training | 16 | enumerate | 1 | 100% [100%, 100%] | 100% [100%, 100%] "
            "| 3 |") in text
    assert "| ARC-AGI-1 training | 2 | enumerate | 1 | 0% [0%, 0%] | 0% [0%, 0%] | - |" in text
    words = Elements(pages.write(tmp_path / "16").read_text()).words
    assert "enumerate" in words and "turn the grid upside down" in words
    assert "python -m examples.arc_enumerate --target 3c9b0459" in words
    config = json.loads((tmp_path / "16" / "config.json").read_text())
    config["config"]["proposals"] = 2           # the same run, counted up to its second program
    (tmp_path / "16" / "config.json").write_text(json.dumps(config))
    assert row_of(read(tmp_path / "16"), {})["found"] == 0


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


HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>",
           "</style></svg><svg onload=alert(1)>", "\ud800\x00\x1b",
           "a\n</pre><iframe src=http://x>", "&lt;b&gt;"]


def test_a_page_stands_alone_and_runs_nothing_that_a_model_wrote(tmp_path):
    """Catches: hostile candidates, prompts or completions that become markup, in the page and in
    the picture; anything loaded from elsewhere."""
    class Hostile(Task):
        def picture(self, candidate, info):
            raise ValueError("no picture of this")
    evaluations = []
    for i, text in enumerate(HOSTILE * 6):
        evaluations.append(evaluation(
            i, text + "!" * (i // 6), i / 50, step=i // 3, proposal=i, valid=i % 5 > 0,
            origin=["on-policy", "neighbor", "warm-start"][i % 3],
            parents=[HOSTILE[i % 6 - 1]] if i > 6 else []))
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
    found = Elements(text)
    forbidden = {"script", "img", "iframe", "b>", "i", "u", "link", "object", "foreignobject"}
    assert not forbidden & set(found.tags)
    assert not [name for name, _ in found.attributes
                if name.startswith("on") or name in ("src", "href", "srcset")]
    assert "default-src 'none'" in text and not re.search(r"url\(|@import", text)
    assert not re.search("[\ud800-\udfff\x00\x1b]", text)
    assert "<script>alert(1)</script>" in found.words
    assert found.words.count("the prompt") == 2             # of the first step and of the last
    picture = pages.standalone(pages.search_curve(read(run).evaluations))
    elements = xml.etree.ElementTree.fromstring(picture).iter()
    tags = {element.tag.split("}")[1] for element in elements}
    assert tags == {"svg", "style", "rect", "title", "path", "text", "circle"}


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
    for name, (_, meaning) in pages.GLOSSARY.items():
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
    assert "| published | tiny, 30 proposals | migrate | 2 |" in printed
    assert found.tags.count("table") == 1
    mean = (scores["migrate", 0] + scores["migrate", 1]) / 2
    assert f"migrate {mean:.3f}" in found.words
    assert f"random {scores['random', 0]:.3f}" in found.words
    styles = [value for name, value in found.attributes if name == "style"]
    assert sum("opacity:.16" in style for style in styles) == 1     # one method has two seeds
    run = read(tmp_path / "random0")
    grid = progress(run, row_of(run, {})["limit"], n=30)
    assert [best for best, _ in grid] == [
        max(e.score for e in run.evaluations if e.proposal <= k) for k in range(31)]
    code = exit_code(command.main, [str(tmp_path / "nowhere"), "--html"])
    assert code == 2 and "name a run folder" in capsys.readouterr().err


def test_the_search_curve_of_one_run_is_written_as_a_picture(tmp_path, capsys):
    """Catches: --svg of several runs, of which one would be drawn."""
    for i in range(2):
        make_run(tmp_path / str(i), [evaluation(0, "gang", 0.5)])
    picture = tmp_path / "search.svg"
    assert exit_code(command.main, [str(tmp_path / "0"), "--svg", str(picture)]) == 0
    assert "gang: 0.5000" in picture.read_text() and "<style>" in picture.read_text()
    assert exit_code(command.main, [str(tmp_path), "--svg", str(picture)]) == 2
    assert "name one run folder" in capsys.readouterr().err
