"""The modifier screen: methods/screen.py."""
from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

import migrate
import tasks
from engine import chat, features, hidden_means
from methods import screen
from migrate import Archive, Ask, Row
from runlog.errors import TaskFailed, UserError
from runlog.ledger import Evaluation
from tasks import WordSearch
from tests.support import (
    Disordered,
    Letters,
    folder_of,
    load,
    run_search,
    same_weights,
    without_times,
)


class Lengths:
    """A surrogate that likes long candidates. It counts its fits."""
    fits: list = []

    def fit(self, candidates, scores):
        Lengths.fits.append(len(candidates))

    def rank(self, candidates):
        return torch.tensor([float(len(c)) for c in candidates]), torch.zeros(len(candidates))


class WithSurrogate(Letters):
    def surrogate(self):
        return Lengths()


def archive_of(n: int) -> Archive:
    return Archive(Evaluation(i, 1, i, "on-policy", [], f"old{i}", i / n, True, [1])
                   for i in range(n))


def test_the_most_promising_unseen_candidates_fill_the_group():
    """Catches: a repeat that takes the place of an unseen candidate, one candidate twice, rows of
    one prompt under the other, a surrogate that is fitted although nothing is new."""
    asked = []

    def draw(policy, task, asks, archive, key, turn=0):
        asked.append([ask.n for ask in asks])
        words = {"on-policy": ["old1", "a", "bbb", "a", "cc", None],
                 "neighbor": ["bbb", "old2", "dddd", None, "e"]}
        return [Row(ask.origin, [], [1], c) for ask in asks for c in words[ask.origin]]
    method = screen.Screen(screen_draws=3)(migrate.Method(None, None, True, draw=draw))
    asks = [Ask([1], 2, "on-policy", []), Ask([2], 3, "neighbor", [])]
    Lengths.fits, archive = [], archive_of(screen.ENOUGH)
    for turn in range(2):
        rows = method.draw(None, WithSurrogate(), asks, archive, (0, 1), turn)
        assert [(r.origin, r.candidate) for r in rows] == [
            ("on-policy", "bbb"), ("on-policy", "cc"),
            ("neighbor", "dddd"), ("neighbor", "e"), ("neighbor", "bbb")]
    assert asked == [[6, 9]] * 2 and Lengths.fits == [screen.ENOUGH]
    few = archive_of(screen.ENOUGH - 1)
    assert len(method.draw(None, WithSurrogate(), asks, few, (0, 1))) == 11
    assert asked[-1] == [2, 3]              # too little is known: nothing is screened


def test_with_an_operator_the_most_promising_are_bred_for_some_generations(monkeypatch):
    """Long words are promising, and a child is the next one in a row. Catches: children of the best
    alone, a generation too few, parents that f never saw, two draws that are one."""
    words = ["stone", "letters", "homeland", "conductor", "apprentice", "foolishness"]

    class Growing(WithSurrogate):
        def neighbors(self, best, n, rng):
            shown.append((best[0], n, rng.random()))
            i = words.index(best[0]) + 1 if best[0] in words else 0
            return [(word, [best[0], "nobody"]) for word in (words[i], "water")]

    def draw(policy, task, asks, archive, key, *turn):
        return [Row(ask.origin, [], [1], "letters") for ask in asks]
    shown, policy, archive = [], load(folder_of("tiny")), archive_of(screen.ENOUGH)
    asks = [Ask([1], 1, "on-policy", []), Ask([1], 2, "operator", [])]
    monkeypatch.setattr(screen, "GENERATIONS", (3, 3))
    method = screen.Screen(screen_draws=3)(migrate.Method(None, None, True, draw=draw))
    rows = method.draw(policy, Growing(), asks, archive, (0, 1))
    assert [row.candidate for row in rows] == ["letters", "apprentice", "conductor"]
    assert [best for best, _, _ in shown] == ["letters", "homeland", "conductor"]
    assert {n for _, n, _ in shown} == {6} and rows[1].parents == []    # of a word without a score
    rows = method.draw(policy, Growing(), asks[1:], archive, (0, 1), 1)
    best = archive.best(1)[0].candidate
    assert [(row.candidate, row.parents) for row in rows] == [("homeland", [best]),
                                                              ("letters", [best])]
    assert [best for best, _, _ in shown[3:]] == [best, "stone", "letters"]
    assert shown[3][2] != shown[0][2]
    with pytest.raises(UserError, match="--screen-draws must"):
        screen.Screen(screen_draws=0)


def test_a_child_of_a_child_has_the_ancestors_that_were_scored():
    """Catches: an order of its own in every process, as that of a set is."""
    words = ["letters", "homeland", "conductor", "apprentice", "foolishness", "cement", "audio"]

    class Chain(WithSurrogate):
        def neighbors(self, best, n, rng):
            return [(word, [parent, *scored[1:]])
                    for parent, word in zip([scored[0], *words], words)]

    archive, policy = archive_of(screen.ENOUGH), load(folder_of("tiny"))
    scored = [e.candidate for e in archive.best(5)]
    method = screen.Screen()(migrate.Method(None, None, True))
    rows = method.draw(policy, Chain(), [Ask([1], 7, "operator", [])], archive, (0, 1))
    assert {row.candidate for row in rows} == set(words)
    assert all(row.parents == scored for row in rows)


def test_a_fresh_start_forgets_what_the_surrogate_has_learned(monkeypatch):
    """Catches: a surrogate that leads back to where the search stood still, generations as many as
    before, screening before the new start has scores enough."""
    fits, generations = [], []

    class Noted(WithSurrogate):
        def surrogate(self):
            made = super().surrogate()
            fits.append([])
            keep = made.fit
            made.fit = lambda names, scores: (fits[-1].append(list(names)), keep(names, scores))
            return made

        def neighbors(self, best, n, rng):
            generations.append(len(fits))
            return [("word", [best[0]])] if best else []
    monkeypatch.setattr(screen, "PER_GENERATION", 20)
    policy, task, archive = load(folder_of("tiny")), Noted(), archive_of(60)
    method = screen.Screen()(migrate.Method(None, None, True, draw=lambda *_: []))
    asks = [Ask([1], 1, "operator", [])]
    method.draw(policy, task, asks, archive, (0, 1))
    known = list(archive)
    archive.since(60 - screen.ENOUGH + 1)
    assert method.draw(policy, task, asks, archive, (0, 2)) == []
    archive.since(60 - screen.ENOUGH)
    method.draw(policy, task, asks, archive, (0, 3))
    assert fits == [[known], [known[-screen.ENOUGH:]]]
    assert generations == [1] * 5 + [2] * 2


@pytest.mark.parametrize("n, generations", [(10, 2), (255, 2), (512, 4), (9000, 24)])
def test_a_step_breeds_more_often_the_more_the_surrogate_knows(n, generations):
    """Catches: a surrogate that is trusted too early, or never."""
    shown = []

    class Shown(WithSurrogate):
        def neighbors(self, best, n, rng):
            shown.append(best)
            return [("word", [best[0]])]
    method = screen.Screen()(migrate.Method(None, None, True))
    asks = [Ask([1], 1, "operator", [])]
    method.draw(load(folder_of("tiny")), Shown(), asks, archive_of(n), (0, 1))
    assert len(shown) == generations


def test_a_screened_search_scores_better_candidates(tmp_path):
    """With the bundled policy's own hidden states, on a real word. Catches: a rank the wrong way
    round, features that say nothing."""
    means = []
    for method in ("ns+novelty", "ns+screen+novelty"):
        found = run_search(tmp_path / method, WordSearch(target="skillet"), method=method,
                           n_neighbors=10, top_k=5, steps=20)
        late = [e["score"] for e in found[1] if e["step"] > 5]
        means.append(sum(late) / len(late))
    assert means[1] > means[0] + 0.03, means


@pytest.mark.parametrize("patience, steps, died_after", [(0, 16, 0.5), (12, 26, 0.95)])
def test_a_resumed_search_ranks_as_an_uninterrupted_one(tmp_path, patience, steps, died_after):
    """Also where it has begun afresh. Catches: a surrogate that remembers what the ledger does not
    hold, or what it has learned before a fresh start; features whose last bits depend on when they
    were computed."""
    given = dict(method="migrate+screen+novelty", steps=steps, patience=patience)
    whole = run_search(tmp_path / "whole", **given)
    task = Disordered()
    task.die_after = int(died_after * len(whole[1]))
    starts = [step["start"] for step in whole[2]]
    assert bool(patience) == any(0 < start < task.die_after - 15 for start in starts)
    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path / "killed", task, **given)
    resumed = run_search(tmp_path / "killed", Disordered(), **given, resume=True)
    assert whole[1] == sorted(resumed[1], key=lambda e: e["index"])
    assert without_times(whole[2]) == without_times(resumed[2])
    assert same_weights(whole[3], resumed[3])


def fitted(f, n: int, features=None):
    torch.manual_seed(0)
    features = features or torch.randn(2, 2, n + 50, 3)
    surrogate = screen.Surrogate(lambda candidates: features[..., list(map(int, candidates)), :])
    names = list(map(str, range(n)))
    surrogate.fit(names, [f(features[..., i, :]) for i in range(n)])
    return surrogate, features


@pytest.mark.parametrize("spelling", [0, 1])
def test_the_surrogate_finds_the_features_that_tell_and_ranks_by_them(spelling):
    """Catches: features taken by hand, scores that are not undone after they were standardised, an
    uncertainty that does not shrink near what is known."""
    def f(x):
        return 5 + 0.1 * math.sin(2 * x[spelling, 1, 0].item())
    surrogate, features = fitted(f, 150)
    assert {kinds for kinds, _, _ in surrogate.fitted} == {(2 * spelling, 2 * spelling + 2)}
    unseen = list(map(str, range(150, 200)))
    mean, deviation = surrogate.rank(unseen)
    truth = torch.tensor([f(features[..., int(name), :]) for name in unseen], dtype=torch.float64)
    assert torch.corrcoef(torch.stack([mean, truth]))[0, 1] > 0.7
    assert (mean - truth).abs().mean() < 0.04
    known_mean, known_deviation = surrogate.rank(["3", "4"])
    assert known_deviation.max() < deviation.median()


def test_of_many_points_the_best_and_others_are_kept(monkeypatch):
    monkeypatch.setattr(screen, "MOST", 20)
    y = torch.tensor([random.Random(i).random() for i in range(100)])
    kept = screen.Surrogate.subset(y)
    assert len(set(kept.tolist())) == 20 and kept.tolist() == sorted(kept.tolist())
    assert set(y.argsort(descending=True)[:10].tolist()) <= set(kept.tolist())
    assert torch.equal(kept, screen.Surrogate.subset(y))


def test_a_process_is_judged_by_the_scores_that_it_is_not_told():
    """The closed form against fits without one point each, by hand. Catches: errors of the points
    that a process knows, weights that do not add up to 1."""
    torch.manual_seed(1)
    x, y = torch.randn(2, 12, 3).double(), torch.randn(12).double()
    at, z, errors = screen.standardised(x)[0], screen.standardised(y)[0], {}
    for kinds, length, noise in itertools.product([(0, 1), (1, 2), (0, 2)], screen.LENGTHS,
                                                  screen.NOISES):
        k, total = screen.kernel(screen.distances(at, at, kinds), length), 0.0
        for i in range(12):
            told = [j for j in range(12) if j != i]
            inner = screen.with_noise(k[told][:, told], noise)
            total += (z[i] - k[i, told] @ torch.linalg.solve(inner, z[told])).square().item()
        errors[kinds, length, noise] = total / 12
    weights = screen.judge(x, y)
    best = sorted(errors, key=errors.get)[:len(weights)]
    assert list(weights) == best and sum(weights.values()) == pytest.approx(1)
    for one, weight in weights.items():
        expected = math.exp(6 * (errors[best[0]] - errors[one]))
        assert weight / weights[best[0]] == pytest.approx(expected)


def test_what_is_expected_is_the_weighted_mean_of_the_processes():
    surrogate, _ = fitted(lambda x: x[0, 0, 0].item(), 40)
    alone = []
    for process in ((0, 2), 1.2, 0.1), ((2, 4), 0.6, 0.01):
        surrogate.judged = {32: {process: 1.0}}
        surrogate.fit(list(map(str, range(40))), [i % 7 for i in range(40)])
        alone.append(surrogate.rank(["45", "46"]))
    surrogate.judged = {32: {((0, 2), 1.2, 0.1): 0.25, ((2, 4), 0.6, 0.01): 0.75}}
    surrogate.fit(list(map(str, range(40))), [i % 7 for i in range(40)])
    mean, deviation = surrogate.rank(["45", "46"])
    (mean_a, a), (mean_b, b) = alone
    assert torch.allclose(mean, 0.25 * mean_a + 0.75 * mean_b)
    assert torch.allclose(deviation ** 2, 0.25 * a ** 2 + 0.75 * b ** 2)


def test_an_invalid_candidate_counts_as_the_worst_valid_one():
    """Catches: an invalid candidate that the surrogate never hears of, or hears its score of 0."""
    told = []

    class Told(Lengths):
        def fit(self, candidates, scores):
            told.extend(zip(candidates, scores))

    class Own(Letters):
        def surrogate(self):
            return Told()

    def draw(policy, task, asks, archive, key, turn=0):
        return [Row(ask.origin, [], [1], "new") for ask in asks]
    archive = Archive(Evaluation(i, 1, i, "on-policy", [], str(i), 0.1 + i, True, [1])
                      for i in range(screen.ENOUGH))
    archive.add([Evaluation(99, 1, 99, "on-policy", [], "bad", 0.0, False, [1])])
    method = screen.Screen()(migrate.Method(None, None, True, draw=draw))
    method.draw(None, Own(), [Ask([1], 2, "on-policy", [])], archive, (0, 1))
    assert told[-2:] == [("9", 9.1), ("bad", None)]
    assert screen.with_worst([None, 0.5, -0.2, None]).tolist() == [-0.2, 0.5, -0.2, -0.2]
    assert screen.with_worst([None, None]).tolist() == [0, 0]


@pytest.mark.parametrize("in_ranks", [False, True])
def test_a_surrogate_does_not_depend_on_when_it_was_fitted(in_ranks):
    """In one go, as after a resume, or on the way. Catches: processes that were judged by what came
    after them, or by ranks among what came after them, features of a block that was not full
    yet."""
    class Untidy:
        """Features whose last bits depend on how many are computed together."""
        def __init__(self):
            self.all = torch.randn(2, 2, 150, 3, generator=torch.Generator().manual_seed(0))

        def __call__(self, candidates):
            of_these = self.all[..., list(map(int, candidates)), :]
            return of_these * (1 + 1e-4 * len(candidates))
    names, rng = list(map(str, range(120))), random.Random(0)
    # the worst scores come late, and one in three of the early ones is invalid
    scores = [None if i < 60 and i % 3 == 0 else rng.random() - i / 50 for i in range(120)]
    on_the_way, in_one_go = (screen.Surrogate(Untidy(), in_ranks) for _ in range(2))
    for n in (12, 14, 20, 30, 40, 70, 110):
        on_the_way.fit(names[:n], scores[:n])
        fresh = screen.Surrogate(Untidy(), in_ranks)
        fresh.fit(names[:n], scores[:n])
        for a, b in zip(on_the_way.rank(["130", "140"]), fresh.rank(["130", "140"])):
            assert torch.equal(a, b), n
    in_one_go.fit(names, scores)
    assert in_one_go.judged[64] == on_the_way.judged[64]


def test_of_many_evaluations_the_latest_are_told_late(monkeypatch):
    """Catches: a fit in every step of a long search, one that depends on earlier fits."""
    monkeypatch.setattr(screen, "MOST", 100)
    modifier, Lengths.fits = screen.Screen(), []
    modifier(migrate.Method(None, None, True))
    for n in (100, 101, 102, 201, 202, 203, 204, 207):
        modifier.promise(None, WithSurrogate(), ["a"], archive_of(n), (0, 1))
    assert Lengths.fits == [100, 100, 102, 200, 200, 200, 204, 204]
    archive, Lengths.fits = archive_of(9000), []
    modifier.promise(None, WithSurrogate(), ["a"], archive, (0, 1))
    for n in range(9000, 10000):
        archive.add([Evaluation(n, 1, n, "on-policy", [], f"new{n}", 0.5, True, [1])])
        modifier.promise(None, WithSurrogate(), ["a"], archive, (0, 1))
    assert Lengths.fits == [8960, *range(9088, 10001, 128)]


@pytest.mark.parametrize("ranking", [3, ([1.0], [0.1, 0.2]), ([1.0, "x"], [0, 0]),
                                     ([1.0, math.nan], [0.0, 0.0])])
def test_a_surrogate_of_a_task_is_held_to_its_contract(ranking, monkeypatch):
    """Catches: a bare traceback, a candidate without a promise."""
    monkeypatch.setattr(Lengths, "rank", lambda self, candidates: ranking)
    modifier = screen.Screen()
    modifier(migrate.Method(None, None, True))
    with pytest.raises(TaskFailed, match=r"rank\(\) of the surrogate of letters must return"):
        modifier.promise(None, WithSurrogate(), ["a", "b"], archive_of(20), (0, 1))
    monkeypatch.setattr(Lengths, "fit", lambda self, *known: 1 / 0)
    with pytest.raises(TaskFailed, match=r"fit\(\) of the surrogate .* ZeroDivisionError"):
        modifier.promise(None, WithSurrogate(), ["a", "b"], archive_of(21), (0, 1))


@pytest.mark.parametrize("made, said", [
    (lambda: 1 / 0, "raised ZeroDivisionError"), (lambda: 3, "must return an object with")])
def test_a_surrogate_that_cannot_be_made_is_told_in_one_line(made, said):
    """Catches: a bare traceback in the middle of a run."""
    task = Letters()
    task.surrogate = made
    modifier = screen.Screen()
    modifier(migrate.Method(None, None, True))
    with pytest.raises(TaskFailed, match=rf"surrogate\(\) of letters {said}"):
        modifier.promise(None, tasks.Checked(task), ["a"], archive_of(20), (0, 1))


def test_one_huge_score_hides_no_other():
    """Of a task on a scale of its own the surrogate is told ranks. Catches: a fit to a difference
    of a million, in which all others vanish."""
    assert screen.as_ranks([3.0, None, 1e9, -1.0, 3.0]) == [0.75, None, 1.0, 0.25, 0.75]

    class OwnScale(Letters):
        solved_at = None
    policy, found = load(folder_of("llama3")), []
    for huge in (19.0, 1e9):
        archive = Archive(Evaluation(i, 1, i, "on-policy", [], "abcdefghijklmnopqrst"[:i + 1],
                                     huge if i == 19 else i, True, [1]) for i in range(20))
        modifier = screen.Screen()
        modifier(migrate.Method(None, None, True))
        found.append(modifier.promise(policy, OwnScale(), ["ab", "xyz"], archive, (0, 1)))
    assert found[0] == found[1] and 0 < found[0]["xyz"] < 2


def test_hidden_means_of_many_texts_come_in_parts(monkeypatch):
    """Catches: parts in another order, a mean over the wrong tokens."""
    policy = load(folder_of("llama3"))
    texts = [[5, 6, 7], [8], [9, 10, 11, 12], [3, 4], [7]]
    whole = hidden_means(policy.model, texts, [3])
    monkeypatch.setattr(features, "AT_ONCE", 10)
    torch.testing.assert_close(hidden_means(policy.model, texts, [3]), whole, rtol=1e-5, atol=1e-5)


def test_equal_scores_are_no_trouble():
    surrogate, _ = fitted(lambda x: 0.5, 30)
    mean, deviation = surrogate.rank(["40", "41"])
    assert mean.tolist() == pytest.approx([0.5, 0.5]) and deviation.isfinite().all()


@pytest.mark.parametrize("kind", ["llama3", "gpt2", "tiny"])
def test_hidden_means_are_those_of_the_frozen_model_without_padding(kind):
    """Catches: padding in the mean, LoRA left on, a hook that stays."""
    policy, fresh = load(folder_of(kind)), load(folder_of(kind))
    texts = [[5, 6, 7], [8], [9, 10, 11, 12]]
    with policy.model.disable_adapter():
        found = hidden_means(policy.model, texts)
        behind = hidden_means(policy.model, texts, [3, 4])
        states, states_behind = (
            [policy.model(torch.tensor([before + ids]), output_hidden_states=True).hidden_states
             for ids in texts] for before in ([], [3, 4]))
    n = policy.model.config.num_hidden_layers
    depths = sorted({max(1, round(depth * n)) for depth in (1 / 6, 1 / 3, 1 / 2)})
    assert len(found) == len(depths)
    for at, means, means_behind in zip(depths, found, behind):
        for mean, hidden in zip(means, states):
            assert torch.allclose(mean, hidden[at][0].mean(0), atol=1e-4)
        for mean, hidden in zip(means_behind, states_behind):
            assert torch.allclose(mean, hidden[at][0, 2:].mean(0), atol=1e-4)
    features = screen.hidden_states(policy, Letters())(["sea", "lava"])
    end = chat.encode(fresh, Letters().prompt())[-screen.PREFIX:]
    with fresh.model.disable_adapter():
        for space, prefix, part in (("", [], 0), (" ", end, 1)):
            ids = [fresh.tokenizer(space + word, add_special_tokens=False)["input_ids"]
                   for word in ("sea", "lava")]
            assert torch.equal(features[part], hidden_means(fresh.model, ids, prefix))
    prompt = [(texts[0], 2)]
    assert migrate.sample(policy, prompt, 0) == migrate.sample(fresh, prompt, 0)


@pytest.mark.parametrize("method", ["ns+screen+operator", "ns+screen+novelty+operator"])
def test_an_operator_that_nothing_would_screen_is_refused(method, tmp_path):
    """Catches: modifiers in another order, whose search breeds and never screens what is bred."""
    with pytest.raises(UserError, match="operator.screen"):
        run_search(tmp_path, WithSurrogate(), method=method)
