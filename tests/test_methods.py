"""What is not in the paper: methods/."""
from __future__ import annotations

import functools
import json
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import migrate
from domains.answers import words_in
from domains.contract import Checked
from methods import ablations, discover, evo, novelty, operator, screen
from migrate import METHODS, Archive, Ask, Row
from runlog.errors import TaskFailed, UserError
from runlog.folder import Run
from runlog.ledger import Evaluation, read_evaluations, read_jsonl
from runlog.metrics import step_metrics
from runlog.settings import RunOptions, build_method, load_method
from tasks import Molecule
from tests.support import (
    HERE,
    Disordered,
    Letters,
    config_for,
    folder_of,
    load,
    run_search,
    same_weights,
)

# ------------------------------------------------------------------------ names on the command line


def test_methods_and_modifiers_are_found_by_name_and_in_files(tmp_path):
    """Catches: a modifier taken for a method, a preset's settings of a modifier that get lost."""
    task = Letters()
    task.presets = {**task.presets, "careful": dict(method="ns+novelty", novelty={"patience": 5})}
    config = migrate.resolve({"preset": "careful"}, task)
    method, used = build_method(config, task, {"max_draws": 7}, METHODS)
    assert config.method == "ns+novelty" and not method.trains
    assert used == {"novelty": {"max_draws": 7, "pull_only": False, "patience": 5}}

    (tmp_path / "fork.py").write_text(
        "import dataclasses, migrate\n"
        "mine = dataclasses.replace(migrate.METHODS['migrate'], trains=False)\n"
        "def twice(method):\n"
        "    return dataclasses.replace(method, counts=lambda G, mix: (2 * G, 0, 0))\n")
    name = f"{tmp_path}/fork.py:mine"
    assert load_method(name, METHODS)[0].trains is False
    row, modifiers = load_method(f"migrate+{tmp_path}/fork.py:twice", METHODS)
    assert modifiers[f"{tmp_path}/fork.py:twice"](row).counts(5, (1, 2, 2)) == (10, 0, 0)

    for wrong, says in (("novelty", "one method comes first"), ("migrate+ns", "one method comes"),
                        ("migrate+magic", "unknown method 'magic'"),
                        (f"{tmp_path}/fork.py:nothing", "defines no nothing")):
        with pytest.raises(UserError, match=says):
            load_method(wrong, METHODS)


def test_a_preset_that_sets_what_is_no_setting_is_refused():
    task = Letters()
    task.presets = {"odd": dict(learning_rate=1.0), "lost": dict(novelty={"patience": 5})}
    for preset in task.presets:
        with pytest.raises(UserError, match="sets what is no setting"):
            migrate.resolve({"preset": preset}, task)


# ------------------------------------------------------------------------------------------ novelty

def rows_of(*specs) -> list[Row]:
    """Rows from (origin, score, new), each with a token of its own."""
    return [Row(origin, [], [token], f"c{token}", score=score, valid=True, new=new)
            for token, (origin, score, new) in enumerate(specs, 5)]


def worth_of(method, rows):
    worth, in_loss = method.advantages(rows, torch.tensor([row.score for row in rows]))
    return worth.tolist(), in_loss.tolist()


def test_with_pull_only_neighbours_below_the_mean_leave_the_loss_and_no_others():
    rows = rows_of(("on-policy", 0.1, True), ("neighbor", 0.1, True), ("neighbor", 0.9, True),
                   ("greedy", 0.1, False), ("neighbor", 0.8, True))
    for pull_only in (True, False):
        method = novelty.Novelty(pull_only=pull_only)(METHODS["migrate"])
        worth, in_loss = worth_of(method, rows)
        assert worth == pytest.approx([-0.3, -0.3, 0.5, -0.3, 0.4])     # in the mean, either way
        assert in_loss == [True, not pull_only, True, True, True]


def test_a_repeat_is_worth_nothing_and_a_replay_keeps_its_score():
    """To the update only: the archive and the log keep the scores."""
    rows = rows_of(("on-policy", 0.9, False), ("neighbor", 0.6, True), ("greedy", 0.9, False))
    worth, _ = worth_of(novelty.Novelty()(METHODS["migrate"]), rows)
    assert worth == pytest.approx([-0.5, 0.1, 0.4])
    assert worth_of(METHODS["migrate"], rows)[0] == pytest.approx([0.1, -0.2, 0.1])
    assert [row.score for row in rows] == [0.9, 0.6, 0.9]


def test_unseen_candidates_are_kept_first_and_every_draw_counts(tmp_path):
    plain = run_search(tmp_path / "plain", steps=15)[0]
    novel = run_search(tmp_path / "novel", method="migrate+novelty", max_draws=4, steps=15)[0]
    assert novel["evaluations"] > plain["evaluations"]
    assert novel["proposals"] > plain["proposals"] == 15 * 8
    # redrawn repeats are proposals, too: every one is new, a repeat or unreadable
    rest = novel["proposals"] - novel["evaluations"] - novel["repeats"]
    assert 0 <= rest <= novel["invalid"]


def test_a_group_is_filled_with_the_earliest_repeats_when_nothing_new_comes():
    """Catches: a group that shrinks, and an empty row (a candidate that did not come) in it."""
    turns = []

    def draw(policy, task, asks, archive, key, turn=0):
        turns.append([(ask.origin, ask.n) for ask in asks])
        drawn = [Row(asks[0].origin, [], [turn], c) for c in ("old", "new", "old")]
        return [*drawn, Row(asks[0].origin, [], [], None, kept=False)][:asks[0].n]
    method = novelty.Novelty(max_draws=3)(migrate.Method(None, None, True, draw=draw))
    archive = Archive([Evaluation(0, 1, 1, "on-policy", [], "old", 0.5, True)])
    rows = method.draw(None, Letters(), [Ask([1], 4, "on-policy", [])], archive, (0, 1))
    assert turns == [[("on-policy", 4)], [("on-policy", 3)], [("on-policy", 3)]]
    assert len(rows) == 10
    assert [i for i, row in enumerate(rows) if row.kept] == [0, 1, 2, 4]    # 3 is an empty row


def test_novelty_within_a_modifier_that_draws_several_times_draws_anew_each_time():
    """Catches: a second call that fails, or that draws what the first one drew."""
    turns = []

    def draw(policy, task, asks, archive, key, turn=0):
        turns.append(turn)
        return [Row(asks[0].origin, [], [5], "old")] * asks[0].n
    method = novelty.Novelty(max_draws=2)(migrate.Method(None, None, True, draw=draw))
    archive = Archive([Evaluation(0, 1, 1, "on-policy", [], "old", 0.5, True)])
    for turn in range(3):
        method.draw(None, Letters(), [Ask([1], 4, "on-policy", [])], archive, (0, 1), turn)
    assert turns == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("modifier", [novelty.Novelty(), screen.Screen()])
def test_a_modifier_tells_rows_apart_by_their_origin_and_says_so(modifier):
    """Catches: of two asks of one origin, one that is asked and never answered."""
    method = modifier(migrate.Method(None, None, True, draw=lambda *_: []))
    asks = [Ask([1], 2, "neighbor", ["a"]), Ask([2], 2, "neighbor", ["b"])]
    with pytest.raises(UserError, match="origins neighbor, neighbor: give each"):
        method.draw(None, Letters(), asks, Archive(), (0, 1))
    other = asks[1]._replace(origin="neighbor of the second")
    assert method.draw(None, Letters(), [asks[0], other], Archive(), (0, 1)) == []


def test_an_empty_group_teaches_nothing():
    """Catches: a fork whose draw keeps no row, and a maximum of nothing."""
    config = SimpleNamespace(mask_zero=True)
    assert migrate.train(config, METHODS["migrate"], None, None, [], torch.zeros(0), [], 0.1) == {
        "skipped": True}


def test_advantages_that_are_all_alike_train_unless_the_rewards_are_alike_too():
    """Catches: a fork that imitates the best rows, each with an advantage of 1, and never trains.
    And AdamW, which moves the weights by its momentum where every advantage is 0."""
    seen, config = [], SimpleNamespace(mask_zero=True)

    def noted(policy, optimizer, rows, prompt_ids, advantages, in_loss, config):
        seen.append(in_loss.tolist())
        return {}
    for A, rewards, trains in ((1.0, [0.2, 0.6], True), (1.0, [0.6, 0.6], False),
                               (0.0, [0.2, 0.6], False)):
        method = replace(METHODS["grpo"], update=noted, advantages=lambda rows, r, A=A: (
            torch.full_like(r, A), r > 0.5))
        rows = [Row("on-policy", [], [5], word) for word in ("river", "water")]
        metrics = migrate.train(config, method, None, SimpleNamespace(param_groups=[]), rows,
                                torch.tensor(rewards), [], 0.1)
        assert metrics["skipped"] != trains, (A, rewards)
    assert seen == [[False, True]]


def test_a_fork_can_give_another_loss():
    """Catches: an update that looks its loss up elsewhere."""
    shapes = []

    def mine(logprobs, old_logprobs, advantages, mask, *settings):
        shapes.append((advantages.shape[0], *mask.shape))
        return migrate.grpo_loss(logprobs, old_logprobs, advantages, mask, *settings)
    own = replace(METHODS["grpo"], update=functools.partial(migrate.update, grpo_loss=mine))
    own = ablations.own_prompt(own)         # which keeps the fork's loss
    policy, config = load(folder_of("tiny")), migrate.resolve({"inner_iterations": 1}, Letters())
    rows = [Row("on-policy", [], [5, 6], "a"), Row("on-policy", [], [7], "b")]
    own.update(policy, torch.optim.AdamW(policy.lora.values()), rows, [1, 2],
               torch.tensor([0.5, -0.5]), torch.ones(2, dtype=torch.bool), config)
    assert shapes == [(2, 2, 2)]


def test_an_origin_that_steps_jsonl_has_for_something_else_is_refused():
    state, task = SimpleNamespace(step=1, proposals=2, start=0), SimpleNamespace(archive=Archive())
    rows = [Row("loss", [], [5], "a")]
    with pytest.raises(UserError, match="origin 'loss', which is the name of another entry"):
        step_metrics(state, task, rows, rows, {"loss": 0.1}, [0, 1])


def test_a_search_that_finds_nothing_better_starts_afresh_and_resumes_exactly(
        tmp_path, monkeypatch):
    """The weights are the first ones again, parents and replays come from the new start alone, and
    nothing is paid twice."""
    states, save = [], Run.save_checkpoint

    def record(self, state, optimizer, lora, **how):
        weights = {name: p.detach().clone() for name, p in lora.items()}
        states.append((dict(state), len(optimizer.state), weights))
        return save(self, state, optimizer, lora, **how)
    monkeypatch.setattr(Run, "save_checkpoint", record)
    replayed, replay = [], migrate.replay

    def recorded_replay(policy, task, archive, *rest):
        replayed.append(min((e.index for e in archive.values()), default=0))
        return replay(policy, task, archive, *rest)
    monkeypatch.setattr(migrate, "replay", recorded_replay)
    given = dict(method="migrate+novelty", max_draws=1, patience=8, steps=28, lr=5e-2)
    first = migrate.load_policy(migrate.resolve(given, Letters()), str(folder_of("tiny"))).lora
    whole = run_search(tmp_path / "whole", **given)

    starts = [state["start"] for state, _, _ in states]
    restarts = [i for i in range(1, len(starts)) if starts[i] != starts[i - 1]]
    assert len(restarts) >= 2
    for i in restarts:
        assert states[i][1] == 0 and same_weights(states[i][2], first)
    assert not same_weights(states[restarts[0] - 1][2], first)      # it had learned before
    assert len({e["candidate"] for e in whole[1]}) == len(whole[1]) == len(Letters.calls)
    start, step, until = starts[restarts[0]], states[restarts[0]][0]["step"], \
        states[restarts[1]][0]["step"]
    index = {e["candidate"]: e["index"] for e in whole[1]}
    before = {p for e in whole[1] if e["step"] <= step for p in e["parents"]}
    after = {p for e in whole[1] if step < e["step"] <= until for p in e["parents"]}
    assert after and all(index[p] >= start for p in after)
    assert all(index[p] < start for p in before)
    assert replayed[:step] == [0] * step
    assert min(replayed[step + 1:until]) >= start           # the first step has none yet

    task = Disordered()
    task.die_after = start + 12
    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path / "killed", task, **given)
    resumed = run_search(tmp_path / "killed", Disordered(), **given, resume=True)
    assert whole[1] == sorted(resumed[1], key=lambda e: e["index"])
    assert same_weights(whole[3], resumed[3])


# ------------------------------------------------------------------------------- what a step costs

class CountedEvaluation(Evaluation):
    """Counts how often a field of any evaluation is read."""
    reads = 0

    def __getattribute__(self, name):
        CountedEvaluation.reads += 1
        return super().__getattribute__(name)


class CountedArchive(Archive):
    """Counts how many candidates are gone through, in whatever way, as well."""

    def __iter__(self):
        return counted(super().__iter__())

    def __reversed__(self):
        return counted(super().__reversed__())

    def keys(self):
        return CountedView(self, lambda c: c)

    def values(self):
        return CountedView(self, self.__getitem__)

    def items(self):
        return CountedView(self, lambda c: (c, self[c]))


class CountedView:
    def __init__(self, archive, of):
        self.archive, self.of = archive, of

    def __iter__(self):
        return map(self.of, iter(self.archive))

    def __reversed__(self):
        return map(self.of, reversed(self.archive))


def counted(iterator):
    for x in iterator:
        CountedEvaluation.reads += 1
        yield x


@pytest.mark.parametrize("method, lower", [
    ("random", False), ("ns", False), ("opro", False), ("grpo-greedy", False), ("migrate", True),
    ("migrate+novelty", False), ("migrate-evo", False), ("discover", True)])
def test_a_step_costs_the_same_however_long_the_search_has_been(tmp_path, monkeypatch, method,
                                                                lower):
    """Counts what the last of three steps reads. lower: the task's scores lie on a scale of its
    own, and become ranks. Catches: an archive that is sorted, copied or gone through in a step,
    islands or a tree of parents that are worked out anew."""
    monkeypatch.setattr(migrate, "Archive", CountedArchive)
    monkeypatch.setattr(Run, "save_checkpoint", lambda *_, **__: ends.append(
        CountedEvaluation.reads))
    found = []
    for n in (400, 4000):
        rng = random.Random(0)
        before = [CountedEvaluation(i, i // 10 + 1, i, "on-policy", [f"c{i - 20}"] * (i % 3 == 0),
                                    f"c{i}", rng.random(), True, [5, 1], {"lower_is_better": lower})
                  for i in range(20, n + 20)]
        before[:0] = [CountedEvaluation(i, 0, 0, "warm-start", [], f"c{i}", 0.1, True, [5, 1])
                      for i in range(20)]
        monkeypatch.setattr(Run, "resume_from", lambda *_, before=before: before)
        monkeypatch.setattr(Run, "load_checkpoint", lambda *_, n=n: {"step": n // 10 + 2})
        monkeypatch.setattr(Run, "next_index", lambda self, n=n: n + 20 + len(Letters.calls))
        task, ends = Letters(), []
        if lower:
            task.lower_is_better, task.solved_at = True, -1.0
        settings_of = dict(patience=100) if "novelty" in method else {}
        run_search(tmp_path / str(n), task, method=method, steps=n // 10 + 5, **settings_of)
        found.append(ends[2] - ends[1])
    few, many = found
    assert many < few + 1000, found         # a pass through the archive reads 4,000 or more


# ------------------------------------------------------------------------------------------ islands

def archive_of(scores, steps) -> Archive:
    return Archive(Evaluation(i, step, i, "on-policy", [], f"c{i}", score, True, [i])
                   for i, (score, step) in enumerate(zip(scores, steps)))


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 130), st.integers(0, 9))
def test_islands(scores, step, seed):
    """Each candidate is born on one island. Every 40 steps the best 5% of each, at least one, reach
    both neighbours."""
    steps = sorted(random.Random(seed).randrange(step) for _ in scores)
    archive = archive_of(scores, steps)
    members = evo.Islands().at(archive, step)
    born = [set() for _ in range(4)]
    for e in archive.values():
        home = e.index if e.step == 0 else e.step
        born[home % 4].add(e.candidate)
    names = [set(island) for island in members]
    assert set().union(*names) == set(archive)
    assert all(b <= n for b, n in zip(born, names))
    if step <= 40:
        assert born == names
    if 40 < step <= 80 and not any(s >= 40 for s in steps):
        for i in range(4):
            ranked = sorted((archive[c] for c in born[i]), key=lambda e: (-e.score, e.index))
            sent = {e.candidate for e in ranked[:max(1, len(ranked) // 20)]}
            assert sent <= names[(i - 1) % 4] and sent <= names[(i + 1) % 4]
    [parent] = evo.island_parent(archive, step, 3, random.Random(seed))
    assert parent.candidate in members[step % 4] or not members[step % 4]
    grown, evolving = archive_of([], []), evo.Islands()
    for t in range(step + 1):       # from step to step they are the same
        again = evolving.at(grown, t)
        grown.add(e for e in archive.values() if e.step == t)
    assert [set(island) for island in again] == names


def test_islands_prefer_the_elite_four_times_in_five():
    # all on island 0; the elite is c3..c7
    archive = archive_of([0.1 * i for i in range(1, 9)], steps=[4] * 8)
    drawn = [evo.island_parent(archive, 8, 3, random.Random(i))[0].candidate for i in range(2000)]
    outside = sum(c in ("c0", "c1", "c2") for c in drawn)
    assert set(drawn) == set(archive) and 320 < outside < 480


# ----------------------------------------------------------------------------------------- discover

def test_entropic_advantages_by_hand():
    """One best of four: softmax puts q on it, KL = ln 4 + q ln q + (1-q) ln((1-q)/3) = ln 2 at
    q = 0.8107, so that exp(eta) = 3 q / (1-q) = 12.85. A = 12.85 / 1 - 1 for the best and
    1 / ((12.85 + 2) / 3) - 1 for the others."""
    scores = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert discover.entropic_eta(scores) == pytest.approx(math.log(12.85), abs=1e-3)
    worth, in_loss = discover.entropic_advantages([None] * 4, scores)
    assert worth.tolist() == pytest.approx([-0.798, 11.85, -0.798, -0.798], abs=2e-3)
    assert in_loss.all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=16))
def test_entropic_advantages_are_finite_and_in_the_order_of_the_scores(ranks):
    scores = torch.tensor(ranks) / 50
    advantages, _ = discover.entropic_advantages(ranks, scores)
    eta = discover.entropic_eta(scores)
    assert advantages.isfinite().all() and (advantages[scores.argsort()].diff() >= -1e-6).all()
    reachable = math.log(len(ranks) / ranks.count(max(ranks)))
    if reachable == 0:
        assert advantages.tolist() == [0.0] * len(ranks)
        return
    target = min(math.log(2), 0.9 * reachable)
    assert discover.softmax_kl(eta, scores) == pytest.approx(target, abs=1e-6)
    scaled, _ = discover.entropic_advantages(ranks, scores / 7)         # whatever the scale
    assert torch.allclose(scaled, advantages, rtol=1e-3, atol=1e-5)


def evaluation(index, step, candidate, score, parent=None) -> Evaluation:
    origin = "neighbor" if parent else "warm-start"
    parents = [parent] if parent else []
    return Evaluation(index, step, 0, origin, parents, candidate, score, True, [1])


def test_puct_by_hand():
    """A small tree: a, of score 0.2, was the parent of b (0.5) and c (0.42) in step 1. Priors are
    1/6, 3/6 and 2/6.

    Steps 2 and 3 leave no child. That both were b's must be seen from the tree:
    step 2: a 0.5 + 0.3 sqrt(2)/6/2 = 0.535   b 0.5 + 0.3 sqrt(2)/2 = 0.712     c 0.561
    step 3: a 0.5 + 0.3 sqrt(3)/6/3 = 0.529   b 0.5 + 0.3 sqrt(3)/2/2 = 0.630   c 0.593
    step 4: a 0.5 + 0.3 sqrt(4)/6/4 = 0.525   b 0.5 + 0.3 sqrt(4)/2/3 = 0.600   c 0.620
    """
    exploration = 0.3 * math.sqrt(2)
    values = [discover.puct(0.2, 0.5, 1, 2, 3, exploration),
              discover.puct(0.5, None, 0, 0, 3, exploration),
              discover.puct(0.42, None, 0, 1, 3, exploration)]
    assert values == pytest.approx([0.5354, 0.7121, 0.5614], abs=1e-4)
    a, b, c = (evaluation(0, 0, "a", 0.2), evaluation(1, 1, "b", 0.5, "a"),
               evaluation(2, 1, "c", 0.42, "a"))

    def parent(step, *found):
        return [e.candidate for e in discover.puct_parent(Archive(found), step, 3, None)]
    assert parent(1) == [] and parent(1, a) == ["a"]
    assert [parent(step, a, b, c) for step in (2, 3, 4)] == [["b"], ["b"], ["c"]]
    # every visit of b is one of a, which has the same Q and a third of the prior: never a
    c.score = 0.21
    assert all(parent(step, a, b, c) == ["b"] for step in range(2, 9))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_puct_chooses_as_if_it_looked_at_every_candidate(seed):
    """Catches: a candidate passed over by the bound, one that stands at an old place after a visit,
    another choice after a resume than without it, an invalid child that counts as 0 where the
    lowest score is the best."""
    rng, archive, known = random.Random(seed), Archive(), []
    info = rng.choice([{}, {"lower_is_better": True}])
    visits, best_child, total, by_name = {}, {}, 0, {}
    for step in range(30):
        chosen = discover.puct_parent(archive, step, 3, None) if step else []
        assert chosen == (discover.puct_parent(Archive(known), step, 3, None) if step else [])
        valid = [e for e in known if e.valid]
        if valid and step:
            ranked = sorted(valid, key=lambda e: (-e.worth, e.index))
            worst = min(0, ranked[-1].worth)
            spread = ranked[0].worth - ranked[-1].worth
            values = [discover.puct(e.worth, best_child.get(e.candidate),
                                    visits.get(e.candidate, 0), ranked.index(e), len(valid),
                                    spread * math.sqrt(1 + total)) for e in valid]
            assert chosen == [valid[values.index(max(values))]]
        found = []
        for _ in range(rng.randrange(4)):
            parent = chosen[0].candidate if chosen and rng.random() < 0.6 else None
            e = evaluation(len(known) + len(found), step, f"c{len(known) + len(found)}",
                           rng.randrange(6) / 5, parent)
            e.info, e.valid = info, rng.random() < 0.8
            e.score *= e.valid
            found.append(e)
            by_name[e.candidate] = e
        if chosen:
            total += 1
            scores = [e.worth if e.valid else worst for e in found if e.parents]
            name = chosen[0].candidate
            if scores:
                best_child[name] = max([*scores, best_child.get(name, -1)])
            while name:
                visits[name] = visits.get(name, 0) + 1
                name = next(iter(by_name[name].parents), None)
        archive.add(found)
        known += found


def test_puct_reads_its_tree_off_the_archive(tmp_path):
    """Catches a choice that depends on anything but the archive, after which a resumed run would be
    another one."""
    run_search(tmp_path / "r", method="discover", steps=12)
    ledger = read_evaluations(tmp_path / "r")
    chosen = {e.step: e.parents[0] for e in ledger if e.parents}
    assert len(set(chosen.values())) > 2
    for step, parent in chosen.items():
        archive = Archive([e for e in ledger if e.step < step][::-1])
        assert discover.puct_parent(archive, step, 1, None)[0].candidate == parent
    gone = next(iter(chosen.values()))          # as a step that is taken again on a GPU may have it
    archive = Archive([e for e in ledger if e.candidate != gone])
    assert discover.puct_parent(archive, 13, 1, None)[0].candidate in archive


# ---------------------------------------------------------------------------------------- ablations

def test_training_under_the_own_prompt_differs_in_the_prompt_alone():
    """Without neighbours the rows give the very update of migrate.py. With them it is the gradient
    of - 1/G sum_i A_i mean_t log pi(o_it | own prompt), computed here row by row, unpadded."""
    folder, A = str(folder_of("llama3")), torch.tensor([-0.4, 0.0, 0.4])
    config = config_for(folder, inner_iterations=1)
    own = [[4, 7, 9, 11, 5], [8, 8], [9, 8, 7]]
    rows = [Row("on-policy", [], tokens, "x", prompt) for prompt, tokens in
            zip(own, ([5, 6], [7, 1, 4], [8]))]

    def flat(policy):
        return torch.cat([p.detach().flatten() for p in policy.lora.values()])

    def change(update, config=config):
        policy = migrate.load_policy(config, folder, RunOptions(micro_batch=2))
        before, optimizer = flat(policy), torch.optim.SGD(policy.lora.values(), lr=1.0)
        update(policy, optimizer, rows, [9, 8, 7], A, torch.ones(3, dtype=torch.bool), config)
        return flat(policy) - before
    own_update, expected = ablations.own_prompt(METHODS["migrate"]).update, change(migrate.update)
    assert torch.allclose(change(own_update), expected, atol=1e-6)
    with_kl = config_for(folder, inner_iterations=2, kl_coef=0.5)
    assert torch.allclose(change(own_update, with_kl), change(migrate.update, with_kl), atol=1e-6)
    for row in rows[:2]:
        row.origin = "neighbor"
    assert torch.equal(change(migrate.update), expected)

    policy = migrate.load_policy(config, folder)
    for row, prompt, advantage in zip(rows, own, A):
        ids = torch.tensor([prompt + row.tokens], device=policy.model.device)
        log_probs = policy.model(ids).logits[0].log_softmax(-1)
        positions = range(len(prompt) - 1, len(prompt) - 1 + len(row.tokens))
        (-advantage / 3 * log_probs[positions, row.tokens].mean()).backward()
    by_row = -torch.cat([p.grad.flatten() for p in policy.lora.values()])
    ours = change(own_update)
    assert torch.cosine_similarity(ours, by_row, dim=0) > 0.9999
    assert torch.cosine_similarity(ours, expected, dim=0) < 0.9999


def test_advantages_by_the_standard_deviation_by_hand():
    method = ablations.std(METHODS["migrate"])
    worth, _ = method.advantages([None] * 3, torch.tensor([0.0, 0.2, 0.4]))
    assert worth.tolist() == pytest.approx([-1, 0, 1])
    for scores in ([0.3, 0.3], [0.3]):          # and no NaN
        assert not method.advantages([None] * len(scores), torch.tensor(scores))[0].any()


def test_neighbours_of_the_base_are_not_those_of_the_policy(tmp_path):
    """At the first step LoRA does nothing, and both are the same; later they are not."""
    given = dict(steps=6, lr=5e-2)
    plain = run_search(tmp_path / "plain", **given)[1]
    base = run_search(tmp_path / "base", method="migrate+base-neighbors", **given)[1]

    def neighbors(evaluations, steps):
        return [e["candidate"] for e in evaluations
                if e["origin"] == "neighbor" and e["step"] in steps]
    assert neighbors(base, range(2, 7)) != neighbors(plain, range(2, 7))
    assert {e["origin"] for e in base} == {"warm-start", "on-policy", "neighbor"}


class Pairs(Letters):
    """Two words in a completion, none of which stands there as it is written."""
    candidates_per_completion = 2

    def parse(self, completion):
        return [f"{word}-{end}" for word in words_in(completion)[-1:] for end in "ab"]


def test_a_search_goes_on_where_no_candidate_has_tokens_of_its_own(tmp_path):
    """Catches: a division by the number of trained tokens, which is 0."""
    summary, _, steps, _ = run_search(tmp_path / "r", Pairs(), steps=3, n_on_policy=4,
                                      n_neighbors=4, n_greedy=1)
    assert summary["steps"] == 3 and steps[0]["on-policy"]["logprob"] == 0


def test_novelty_counts_every_candidate_of_a_completion(tmp_path, monkeypatch):
    """Catches: candidates that were sampled and dropped, because fewer were missing."""
    drawn, sample = [], migrate.sample

    def counted(*arguments):
        found = sample(*arguments)
        drawn.extend(completion for some in found for completion in some)
        return found
    monkeypatch.setattr(migrate, "sample", counted)
    summary, _, steps, _ = run_search(tmp_path / "r", Pairs(), method="migrate+novelty", steps=4,
                                      n_on_policy=4, n_neighbors=4, n_greedy=0, temperature=0.3)
    assert summary["proposals"] == 2 * len(drawn) > 4 * 8
    assert summary["steps"] == 4            # and --steps counts groups, however often it draws
    assert all(s["on-policy"]["n"] >= 4 for s in steps)


def test_valid_mean_leaves_invalid_rows_out_of_loss_and_mean():
    """Catches: zeros of invalid rows in the mean, which make every valid row better than it."""
    method = ablations.valid_mean(METHODS["migrate"])
    rows = [Row("on-policy", [], [5], "x", valid=valid) for valid in (True, False, True)]
    worth, in_loss = method.advantages(rows, torch.tensor([0.2, 0.0, 0.6]))
    assert worth.tolist() == pytest.approx([-0.2, 0.0, 0.2]) and in_loss.tolist() == [1, 0, 1]
    nothing = [Row("on-policy", [], [5], "x") for _ in range(2)]
    worth, in_loss = method.advantages(nothing, torch.zeros(2))
    assert not worth.any() and not in_loss.any()


# ----------------------------------------------------------------------------------------- operator

class Bred(Disordered):
    """Its operator thinks of other words, and calls the two best ones their parents."""
    words = json.loads((HERE / "data" / "wordsearch_targets.json").read_text())["development"]

    def neighbors(self, best, n, rng):
        return [(word, best[:2]) for word in rng.sample(self.words, n)]


class Given(Letters):
    """Its operator makes a word, a known one, a text that reads otherwise, and that word again."""
    def neighbors(self, best, n, rng):
        self.asked = best, n, rng.random()
        return [("stone", ["water", "x"]), ("water", []), ("two words", []), ("stone", []),
                ("letters", ["river"]), ("gang", [])]


def test_an_operator_makes_its_share_of_the_neighbours():
    """Catches: all of the neighbours, parts of a completion, a share of what is on-policy."""
    config = config_for(folder_of("tiny"), n_on_policy=20, n_neighbors=70)
    policy, task = load(folder_of("tiny")), Given()
    task.fits = lambda prompt: True
    for share, each, n in ((0.5, 1, 35), (0.01, 1, 1), (0, 1, 0), (1, 1, 69), (0.5, 10, 40)):
        task.candidates_per_completion = each
        method = operator.Operator(operator_share=share)(METHODS["migrate"])
        asks = method.asks(config, task, policy, [1], ["river"])
        counts = {ask.origin: ask.n for ask in asks}
        assert counts == {"on-policy": 20, "neighbor": 70 - n} | ({"operator": n} if n else {})
        assert asks[-1].prompt_ids == [1] or not n
    assert [a.origin for a in method.asks(config, task, policy, [1], [])] == ["on-policy"]
    with pytest.raises(UserError, match="leave .operator away"):
        method.asks(config, Letters(), policy, [1], [])
    with pytest.raises(UserError, match="from 0 to 1"):
        operator.Operator(operator_share=1.1)


def test_what_an_operator_makes_is_new_and_written_as_the_policy_would():
    """Catches: a child that is known or comes twice, that the policy could not write or that reads
    otherwise; parents that nobody scored, or from before a fresh start; two draws that are one."""
    def draw(policy, task, asks, archive, key, *turn):
        return [Row(ask.origin, [], [1], "drawn") for ask in asks for _ in range(ask.n)]
    policy, task = load(folder_of("tiny"), max_new_tokens=4), Given()
    method = operator.Operator()(migrate.Method(None, None, True, draw=draw))
    archive = Archive(Evaluation(i, 1, i, "on-policy", [], word, i / 3, True, [1])
                      for i, word in enumerate(["lake", "water", "river"]))
    asks = [Ask([1], 2, "on-policy", []), Ask([1], 4, "operator", [])]
    rows = method.draw(policy, task, asks, archive, (0, 1))
    assert [(r.origin, r.candidate, r.parents) for r in rows] == [
        ("on-policy", "drawn", []), ("on-policy", "drawn", []), ("operator", "stone", ["water"]),
        ("operator", "letters", ["river"]), ("operator", "gang", [])]
    assert policy.tokenizer.decode(rows[2].tokens, skip_special_tokens=True).strip() == "stone"
    assert rows[2].tokens[-1] in policy.eos_ids
    best, n, first = task.asked
    assert best == ["river", "water", "lake"] and n == 4
    few = method.draw(policy, task, [asks[1]._replace(n=1)], archive, (0, 1), 1)
    assert [r.candidate for r in few] == ["stone"] and task.asked[2] != first
    archive.since(2)                            # the search began afresh behind two evaluations
    rows = method.draw(policy, task, asks, archive, (0, 1))
    assert task.asked[0] == ["river"] and [r.parents for r in rows[2:]] == [[], ["river"], []]
    policy.generation.max_new_tokens = 1        # no room for the end of the turn
    assert len(method.draw(policy, task, asks, archive, (0, 1))) == 2
    task.neighbors = lambda best, n, rng: ["stone"]
    with pytest.raises(TaskFailed, match="neighbors.. of letters must return a list of pairs"):
        method.draw(policy, Checked(task), asks, archive, (0, 1))


@pytest.mark.parametrize("name", ["migrate+operator+novelty", "migrate+novelty+operator",
                                  "discover+operator"])
def test_a_search_with_an_operator_trains_on_its_children(name, tmp_path, monkeypatch):
    """Catches: children that are scored but not in the group, modifiers that do not fit together,
    children that the log calls the policy's own."""
    trained, train = [], migrate.train

    def seen(config, method, policy, optimizer, group, *others):
        trained.extend(row.candidate for row in group if row.origin == "operator")
        return train(config, method, policy, optimizer, group, *others)
    monkeypatch.setattr(migrate, "train", seen)
    found = run_search(tmp_path, Bred(), method=name, steps=5, n_neighbors=6)
    bred = [e["candidate"] for e in found[1] if e["origin"] == "operator"]
    assert len(bred) > 5 and set(bred) <= set(trained)
    written = read_jsonl(tmp_path / "completions.jsonl")
    assert "operator" not in {line["origin"] for line in written}


def test_a_search_with_an_operator_and_a_screen_resumes(tmp_path):
    given = dict(method="migrate+operator+screen+novelty", steps=6, lr=1e-3, n_neighbors=6)
    whole = run_search(tmp_path / "whole", Bred(), **given)
    task = Bred()
    task.die_after = len(whole[1]) // 2
    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path / "killed", task, **given)
    resumed = run_search(tmp_path / "killed", Bred(), **given, resume=True)
    by_index = [sorted(found[1], key=lambda e: e["index"]) for found in (whole, resumed)]
    assert by_index[0] == by_index[1] and "operator" in {e["origin"] for e in whole[1]}
    assert same_weights(whole[3], resumed[3])


def test_molecules_have_an_operator(tmp_path):
    found = run_search(tmp_path, Molecule(target="qed"), method="ns+operator+novelty", budget=40,
                       n_neighbors=8)
    bred = [e for e in found[1] if e["origin"] == "operator"]
    assert len(bred) > 5 and all(e["valid"] and len(set(e["parents"])) <= 2 for e in bred)
