"""Tests of the method: the second half of migrate.py, in the same order.

Each test is about behaviour, and says which mistake it catches. Everything else is tested in
tests/, a file for each room.

    python -m pytest -q
"""
from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

from tests import support  # isort: split

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import migrate
from engine import chat, decode
from migrate import METHODS, Archive, Ask, Method, Row
from runlog.errors import UserError
from runlog.folder import Run
from runlog.ledger import Evaluation, read_jsonl
from runlog.settings import make_task
from tasks import Score, WordSearch
from tests.support import (
    HERE,
    KINDS,
    Disordered,
    Letters,
    completions_for,
    config_for,
    folder_of,
    load,
    naive_logprobs,
    run_search,
    same_weights,
    scored,
    without_times,
)

# ----------------------------------------------------------------------------------------- settings


def test_defaults_preset_method_and_user_override_each_other_in_this_order():
    """Catches: a preset that wins over the user, a method's group that loses against a preset."""
    plain = migrate.resolve({"preset": "tiny"}, WordSearch())
    assert (plain.preset, plain.method, plain.lr) == ("tiny", "migrate", 5e-3)
    assert (plain.n_on_policy, plain.n_greedy, plain.n_neighbors) == (0, 0, 10)
    grpo = migrate.resolve({"method": "grpo", "lr": 1.0}, WordSearch())
    assert (grpo.n_on_policy, grpo.n_greedy, grpo.n_neighbors, grpo.lr) == (10, 0, 0, 1.0)
    assert migrate.resolve({"method": "grpo", "n_on_policy": 3}, WordSearch()).n_on_policy == 3
    default = migrate.resolve({}, WordSearch())
    assert (default.preset, default.method) == ("screen", "migrate+screen+novelty")
    assert (default.budget, default.n_on_policy, default.n_neighbors) == (1000, 0, 10)
    assert migrate.resolve({"preset": "novelty", "method": "ns"}, WordSearch()).method == "ns"
    assert migrate.resolve({"model": "some/model"}, WordSearch()).preset == "paper"


def test_a_budget_of_the_preset_gives_way_to_the_count_that_the_user_gives():
    def count(**given):
        config = migrate.resolve(dict(preset="novelty", **given), WordSearch())
        return config.budget, config.steps, config.proposals
    assert count() == (1000, None, 1000) and count(budget=7) == (7, None, 1000)
    assert count(steps=5) == (None, 5, 50) and count(proposals=30) == (None, None, 30)
    with pytest.raises(UserError, match="Either says how long"):
        count(proposals=30, budget=9)


# ------------------------------------------------------------------------------------------ archive

def archive_of(scores, steps=None, valid=None) -> Archive:
    return Archive([Evaluation(i, steps[i] if steps else 1, i, "on-policy", [], f"c{i}", score,
                               valid[i] if valid else True, [i]) for i, score in enumerate(scores)])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30), st.integers(1, 12),
       st.integers(0, 99))
def test_top_k_holds_the_best_valid_ones(pairs, k, seed):
    archive = archive_of([s for s, _ in pairs], valid=[v for _, v in pairs])
    best, valid = archive.best(k), [s for s, v in pairs if v]
    assert [e.score for e in best] == sorted(valid, reverse=True)[:k]
    assert all(e.valid for e in best)
    assert all(a.score > b.score or a.index < b.index for a, b in zip(best, best[1:]))
    parent = migrate.one_of_top_k(archive, 1, k, random.Random(seed))
    assert len(parent) == bool(valid) and all(p in best for p in parent)
    assert migrate.ranked_list(k, archive, 1, 3, random.Random(seed)) == best[::-1]


def test_an_archive_since_some_point_holds_what_came_later():
    archive = archive_of([0.9, 0.1, 0.8])
    assert list(archive.since(1)) == ["c1", "c2"] and archive.since(0) == archive
    later = archive.since(1)
    archive.add([Evaluation(3, 2, 3, "on-policy", [], "c3", 0.85, True)])
    assert archive.since(1) is later and list(later) == ["c1", "c2", "c3"]
    assert [e.index for e in later.best(2)] == [3, 2]
    assert [e.index for e in archive.best(2)] == [0, 3]
    assert archive_of([0.9, 0.1, 0.8], steps=[0, 0, 1]).spent == 1


# ------------------------------------------------------------------------------------------- policy

@pytest.mark.parametrize("engine", ["plain", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_scoring_equals_the_naive_batch(kind, engine):
    """Whatever the micro-batches. Catches: a prompt without gradients, wrong positions after it,
    padding that leaks into real tokens, a row left out."""
    policy = load(folder_of(kind), engine, temperature=0.7)
    prompt_ids = chat.encode(policy, WordSearch().prompt())
    completions = completions_for(policy)
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    naive, entropy, mask = naive_logprobs(policy.model, prompt_ids, completions, temperature=0.7)
    (naive * mask * weight).sum().backward()
    expected = {name: p.grad for name, p in policy.lora.items()}
    assert all(gradient.abs().sum() > 0 for gradient in expected.values())

    for size in (4, 2, 1):
        policy.micro_batch = size
        ours, our_entropy, our_mask, gradients = scored(policy, prompt_ids, completions, weight)
        assert torch.equal(our_mask, mask)
        torch.testing.assert_close(ours, naive.detach() * mask, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(our_entropy, entropy * mask, rtol=1e-5, atol=1e-5)
        for name, g in expected.items():
            assert (gradients[name] - g).abs().max() < 1e-5 * max(1.0, g.abs().max()), name


@pytest.mark.parametrize("engine", ["plain", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_sampled_is_the_distribution_scored(monkeypatch, kind, engine):
    """Catches: top-k, top-p, temperature or repetition penalty of the model's generation_config
    leaking into sampling (transformers fills whatever is None from it), and a score computed at
    another temperature."""
    policy = load(folder_of(kind), engine, temperature=1.3)
    long = chat.encode(policy, WordSearch().prompt())
    short = chat.encode(policy, "Guess.")
    generate, draw, logits = policy.model.generate, decode.draw, []     # (6, V) of each token

    def recorded(**settings):
        output = generate(output_scores=True, return_dict_in_generate=True, **settings)
        logits.extend(output.scores)
        return output.sequences

    def recorded_draw(scores, exact):
        logits.append(scores)
        return draw(scores, exact)
    policy.model.generate = recorded
    monkeypatch.setattr(decode, "draw", recorded_draw)      # of Llama and its like
    samples = migrate.sample(policy, [(short, 2), (long, 4)], seed=0)
    predictions = torch.log_softmax(torch.stack(logits, 1).float(), -1)                 # (6, T, V)
    assert torch.isfinite(predictions).all(), "a token was ruled out: sampling was truncated"
    for prompt_ids, completions, predicted in ((short, samples[0], predictions[:2]),
                                               (long, samples[1], predictions[2:])):
        logprobs = scored(policy, prompt_ids, completions)[0]
        for i, c in enumerate(completions):
            sampled_from = predicted[i, range(len(c)), c]
            assert (sampled_from - logprobs[i, :len(c)]).abs().max() < 1e-4


@pytest.mark.parametrize("engine", ["plain", "shared"])
def test_sampling_depends_on_its_seed_alone_and_follows_the_model(engine):
    """Catches: a draw that depends on call history; a cache that mixes rows up (frequencies would
    be off)."""
    policy = load(folder_of("qwen2"), engine, max_new_tokens=1)
    prompt_ids = chat.encode(policy, "x")

    def draw(seed):
        return migrate.sample(policy, [(prompt_ids, 2000)], seed)[0]
    first = draw(5)
    torch.rand(7)
    assert draw(5) == first != draw(6)
    with torch.no_grad():
        probs = torch.softmax(policy.model(torch.tensor([prompt_ids])).logits[0, -1], -1)
    counts = torch.bincount(torch.tensor([c[0] for c in first]), minlength=len(probs)).float()
    sigma = (2000 * probs * (1 - probs)).sqrt().clamp(min=1)
    assert ((counts - 2000 * probs).abs() / sigma).max() < 5


def test_every_eos_of_the_model_ends_a_completion():
    policy = load(folder_of("llama3"))
    assert policy.eos_ids == {1, 2, 3} and policy.generation.pad_token_id in policy.eos_ids
    prompt_ids = chat.encode(policy, "x")
    [drawn] = migrate.sample(policy, [(prompt_ids, 600)], 0)
    ends = {row[-1] for row in drawn if len(row) < 12}
    assert ends and ends <= {1, 2, 3}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_a_completion_keeps_its_first_eos_and_nothing_behind_it(tokens):
    """Catches: masking by token value, which drops the EOS whenever pad = eos: stopping is then
    never trained."""
    row = migrate.first_eos(tokens, frozenset({1, 3}))
    assert tokens[:len(row)] == row and not {1, 3} & set(row[:-1])
    assert row[-1] in (1, 3) or row == tokens


def test_prompts_go_through_the_chat_template():
    policy = load(folder_of("llama3"))
    ids = chat.encode(policy, "Guess.")
    assert policy.tokenizer.decode(ids) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nGuess.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert ids.count(0) == 1        # one begin-of-text, not two
    with pytest.raises(UserError, match="context of 2048"):
        chat.encode(policy, "long " * 3000)


def test_a_prompt_is_the_same_tomorrow():
    """Llama 3's template writes the date into every prompt."""
    policy = load(folder_of("llama3"))
    policy.tokenizer.chat_template = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }}")
    ids = chat.encode(policy, "Guess.")
    assert policy.tokenizer.decode(ids).endswith("26 Jul 2024")


@pytest.mark.parametrize("engine", ["plain", "shared"])
def test_dropout_is_off(engine):
    policy = load(folder_of("gpt2"), engine)
    prompt_ids = chat.encode(policy, "x")
    once, again = (scored(policy, prompt_ids, [[5, 6, 7]])[0] for _ in range(2))
    assert torch.equal(once, again)


# ---------------------------------------------------------------------------------------- one group

def test_several_candidates_in_one_completion_are_rows_of_their_own(monkeypatch):
    """Each is scored by itself and keeps the completion as it was sampled, with its own tokens
    marked; one that did not come is an invalid proposal. Catches: a word that is trained as a list
    of one, which teaches the policy to end its lists after one word."""
    policy = load(folder_of("llama3"))
    texts = ['["Cement", "mortar"]', "I cannot say."]
    answers = [policy.tokenizer(text, add_special_tokens=False)["input_ids"] + [3]
               for text in texts]
    monkeypatch.setattr(migrate, "sample", lambda *_: [answers])
    ask = Ask(chat.encode(policy, "x"), 6, "on-policy", [])
    task = WordSearch(candidates_per_completion=3)
    rows = migrate.draw(policy, task, [ask], Archive(), (0, 1))
    assert [r.candidate for r in rows] == ["cement", "mortar", None, None, None, None]
    assert [r.tokens for r in rows[:3]] == [answers[0], answers[0], answers[1]]
    words = [policy.tokenizer.decode(r.tokens[slice(*r.span)]) for r in rows[:2]]
    assert [word.strip(' "') for word in words] == ["Cement", "mortar"] and rows[2].span is None
    assert [r.kept for r in rows] == [True, True, True, False, False, False]
    [e] = archive_of([0.5]).values()
    archive = Archive([dataclasses.replace(e, candidate="mortar", tokens=answers[0])])
    config = config_for(folder_of("llama3"), n_greedy=1)
    [replayed] = migrate.replay(policy, task, archive, config, random.Random(0))
    assert replayed.tokens == answers[0] and replayed.span == rows[1].span


def test_greedy_replays_come_from_the_top_k_with_their_own_tokens():
    policy, archive = load(folder_of("tiny")), archive_of([0.9, 0.1, 0.8, 0.7, 0.2])
    archive["c0"].tokens = None                 # warm start: rendered
    archive["c0"].candidate = "cement"
    config = config_for(folder_of("tiny"), n_greedy=3, top_k=3)
    rows = migrate.replay(policy, WordSearch(), archive, config, random.Random(0))
    assert sorted(r.score for r in rows) == [0.7, 0.8, 0.9]
    assert all(r.origin == "greedy" for r in rows)
    tokens = {r.candidate: r.tokens for r in rows}
    assert tokens["c2"] == [2] and policy.tokenizer.decode(tokens["cement"]) == "cement <eos>"
    assert not migrate.replay(policy, WordSearch(), Archive(), config, random.Random(0))


def test_what_lies_beyond_the_budget_is_neither_scored_nor_counted(tmp_path):
    candidates = ("oak", "elm", "oak", "fir", None, "fir", "elm")
    rows = [Row("on-policy", [], [1], c) for c in candidates]
    migrate.evaluate(Run(tmp_path / "r", {}, False), Letters(), Archive(), rows, 1, 2)
    assert [(row.candidate, row.new, row.valid) for row in rows] == [
        ("oak", True, True), ("elm", True, True), ("oak", False, True), (None, False, False),
        ("elm", False, True)]


# --------------------------------------------------------------------------------------------- GRPO

def test_advantages_by_hand():
    worth, in_loss = migrate.group_advantages([None] * 4, torch.tensor([1.0, 0.0, 0.5, 0.1]))
    assert worth.tolist() == pytest.approx([0.6, -0.4, 0.1, -0.3]) and in_loss.all()


def test_loss_by_hand():
    """Two rows, A = +-0.5. Row 1: ratios 1.5 (clipped to 1.28) and 1; row 2: ratio 0.5 (clipped to
    0.8), one token."""
    old = torch.zeros(2, 2)
    new = torch.log(torch.tensor([[1.5, 1.0], [0.5, 9.0]]))
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    loss, clipped = migrate.grpo_loss(new, old, torch.tensor([0.5, -0.5]), mask, 0.2, 0.28)
    assert loss.item() == pytest.approx(-((1.28 * 0.5 + 1.0 * 0.5) / 2 + 0.8 * -0.5) / 2)
    assert clipped.tolist() == [[True, False], [True, False]]


def independent_loss(new, old, advantages, mask, low, high, kl, base):
    """The same equation, token by token in plain Python."""
    total = 0.0
    for i, a in enumerate(advantages):
        row, n = 0.0, 0
        for t, m in enumerate(mask[i]):
            if m:
                ratio = math.exp(new[i][t] - old[i][t])
                row += min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)
                d = base[i][t] - new[i][t]
                row -= kl * (math.exp(d) - d - 1)
                n += 1
        total += row / max(n, 1)
    return -total / len(advantages)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([0.0, 0.1]))
def test_loss_against_an_independent_implementation(G, T, seed, kl):
    g = torch.Generator().manual_seed(seed)
    new, old, base = (torch.randn(G, T, generator=g).double() for _ in range(3))
    advantages = torch.randn(G, generator=g).double()
    mask = (torch.rand(G, T, generator=g) < 0.7).double()
    inputs = (new, old, advantages, mask, base)
    before = [x.clone() for x in inputs]
    loss, _ = migrate.grpo_loss(new, old, advantages, mask, 0.2, 0.28, kl, base)
    expected = independent_loss(*(x.tolist() for x in (new, old, advantages, mask)), 0.2, 0.28, kl,
                                base.tolist())
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before))       # inputs are not written


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
    """d loss / d logprob = - A_i / (G |o_i|): nothing is clipped, every row weighs the same
    whatever its length."""
    logprobs = torch.randn(2, 3, requires_grad=True)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    loss, _ = migrate.grpo_loss(logprobs, logprobs.detach(), torch.tensor([0.3, -0.3]), mask, 0.2,
                                0.28)
    loss.backward()
    assert logprobs.grad.flatten().tolist() == pytest.approx([-0.05, -0.05, -0.05, 0.15, 0, 0])


def rows_of(*specs) -> list[Row]:
    """Rows from (origin, score) or (origin, score, new), each with a token of its own."""
    return [Row(spec[0], [], [token], f"c{token}", score=spec[1], valid=True,
                new=spec[2] if len(spec) > 2 else True) for token, spec in enumerate(specs, 5)]


def in_the_update(method: Method, rows: list[Row], **given):
    """What a method gives to the update for these rows: advantages, and which are in the loss."""
    seen = []

    def record(policy, optimizer, rows, prompt_ids, advantages, in_loss, config):
        seen.append((advantages.tolist(), in_loss.tolist()))
        return {}
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    config = migrate.resolve(given, WordSearch())
    method = dataclasses.replace(method, update=record)
    scores = torch.tensor([row.score for row in rows])
    migrate.train(config, method, None, optimizer, rows, scores, [9], 0.1)
    return seen[0] if seen else None


def test_masking_follows_the_score_and_leaves_the_mean_alone():
    """mask_zero takes rows of score 0, valid or not, out of the loss. They stay in the mean."""
    rows = rows_of(("on-policy", 0.0), ("on-policy", 0.6))
    worth, in_loss = in_the_update(METHODS["migrate"], rows, mask_zero=True)
    assert worth == pytest.approx([-0.3, 0.3]) and in_loss == [False, True]
    worth, in_loss = in_the_update(METHODS["migrate"], rows, mask_zero=False)
    assert worth == pytest.approx([-0.3, 0.3]) and in_loss == [True, True]


def test_rows_out_of_the_loss_give_no_gradient_and_still_count_in_the_group():
    """- 1/G sum_i A_i / |o_i| sum_t log pi, computed here without the row that is out."""
    policy, prompt_ids = load(folder_of("llama3")), [9, 8, 7]
    rows = [Row("on-policy", [], tokens, "x") for tokens in ([5, 6], [7, 4, 1], [8])]
    A, in_loss = torch.tensor([0.4, 0.1, -0.5]), torch.tensor([True, False, True])
    naive, _, mask = naive_logprobs(policy.model, prompt_ids, [row.tokens for row in rows])
    per_row = (naive * mask).sum(1) / mask.sum(1)
    (-(A * in_loss * per_row).sum() / 3).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.lora.values()])
    before = torch.cat([p.detach().flatten() for p in policy.lora.values()])
    config = config_for(folder_of("llama3"), inner_iterations=1)
    metrics = migrate.update(policy, torch.optim.SGD(policy.lora.values(), lr=0.1), rows,
                             prompt_ids, A, in_loss, config)
    after = torch.cat([p.detach().flatten() for p in policy.lora.values()])
    clip = min(1.0, 1.0 / expected.norm().item())
    assert metrics["grad_norm"] == pytest.approx(expected.norm().item(), rel=1e-4)
    assert torch.allclose(after - before, -0.1 * clip * expected, atol=1e-6)


@pytest.mark.parametrize("size", [0, 1])
def test_candidates_of_one_completion_train_on_their_own_tokens_alone(size):
    """Against a row a candidate, each computed by itself. Catches: brackets, commas or the end of
    the list in the loss, a completion that counts once instead of once a candidate, rows mixed up
    where completions are shared."""
    policy, prompt_ids = load(folder_of("llama3")), [1, 10, 11, 12]
    policy.micro_batch = size
    spans = [([5, 6, 7, 4, 9], (1, 2)), ([8, 3], None), ([5, 6, 7, 4, 9], (3, 5)),
             ([5, 6, 7, 4, 9], (0, 0))]
    rows = [Row("on-policy", [], tokens, "x", span=span) for tokens, span in spans]
    A = torch.tensor([0.4, 0.1, -0.5, 0.2])
    naive, _, _ = naive_logprobs(policy.model, prompt_ids, [row.tokens for row in rows])
    per_row = torch.stack([naive[0, 1], naive[1, :2].mean(), naive[2, 3:5].mean()])
    (-(A[:3] * per_row).sum() / 4).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.lora.values()])
    config = config_for(folder_of("llama3"), inner_iterations=1)
    before = torch.cat([p.detach().flatten() for p in policy.lora.values()])
    metrics = migrate.update(policy, torch.optim.SGD(policy.lora.values(), lr=0.1), rows,
                             prompt_ids, A, torch.ones(4, dtype=torch.bool), config)
    after = torch.cat([p.detach().flatten() for p in policy.lora.values()])
    clip = min(1.0, 1.0 / expected.norm().item())
    assert torch.allclose(after - before, -0.1 * clip * expected, atol=1e-6)
    assert [row[0] for row in metrics["by_row"]] == [1, 2, 2, 0]


@pytest.mark.parametrize("engine", ["plain", "shared"])
def test_an_update_does_not_depend_on_its_micro_batches(engine):
    """Catches: a loss normalised by the micro-batch instead of the group, old or base
    log-probabilities of other rows in the second iteration, metrics of the last micro-batch."""
    results = []
    for size, offload in ((0, False), (1, True), (3, False), (2, True)):
        policy = load(folder_of("qwen3"), engine)
        policy.micro_batch, policy.offload = size, offload
        rows = [Row(origin, [], tokens, "a") for origin, tokens in
                zip(("on-policy", "neighbor", "neighbor", "greedy"), completions_for(policy))]
        config = config_for(folder_of("qwen3"), kl_coef=0.1, inner_iterations=3, eps_low=0.01,
                            eps_high=0.01)
        prompt_ids = chat.encode(policy, "Guess.")
        logprobs, _, mask, _ = scored(policy, prompt_ids, [row.tokens for row in rows])
        metrics = migrate.update(
            policy, torch.optim.SGD(policy.lora.values(), lr=0.1), rows, prompt_ids,
            torch.tensor([0.475, -0.425, -0.125, 0.075]), torch.tensor([True, False, True, True]),
            config)
        at_the_start = (logprobs * mask).sum(1).tolist()
        assert [row[1] for row in metrics["by_row"]] == pytest.approx(at_the_start, abs=1e-3)
        weights = {name: p.detach().clone() for name, p in policy.lora.items()}
        results.append((metrics, weights))
    (expected, weights), *others = results
    by_row = np.array(expected.pop("by_row"))           # tokens, log-probability, clipped tokens
    assert by_row.shape == (4, 3) and by_row[3, 2] > 0
    for metrics, other_weights in others:
        assert np.allclose(metrics.pop("by_row"), by_row, atol=1e-4)
        assert metrics == pytest.approx(expected, abs=1e-4)
        for name, p in weights.items():
            assert torch.allclose(other_weights[name], p, atol=1e-5), name


# ------------------------------------------------------------------------------------------ methods

def test_parents_are_drawn_uniformly_from_the_top_k():
    archive = archive_of([0.9, 0.1, 0.8, 0.7, 0.2])
    drawn = [migrate.one_of_top_k(archive, 1, 3, random.Random(i))[0].candidate
             for i in range(3000)]
    assert set(drawn) == {"c0", "c2", "c3"}
    assert all(900 < drawn.count(c) < 1100 for c in set(drawn))


@pytest.mark.parametrize("method", [*METHODS, "migrate-evo", "discover"])
def test_every_method_runs_with_its_own_group(method, tmp_path):
    """Catches: a greedy row that is never inserted (grpo-greedy would equal grpo), a method that
    trains and should not."""
    folder, task = tmp_path / "r", Letters()
    summary, evaluations, steps, lora = run_search(folder, task, method=method, steps=4)
    config = migrate.resolve(dict(method=method), task)
    counts = {"on-policy": config.n_on_policy, "greedy": config.n_greedy,
              "neighbor": config.n_neighbors}
    expected = {"random": (10, 0, 0), "ns": (0, 0, 10), "opro": (0, 0, 10), "grpo": (10, 0, 0),
                "grpo-greedy": (9, 1, 0)}
    assert tuple(counts.values()) == expected.get(method, (3, 2, 5))
    for line in steps:
        drawn = {origin: line[origin]["n"] for origin in counts if origin in line}
        assert drawn == {origin: n for origin, n in counts.items() if n}
    moved = any(p.abs().sum() > 0 for name, p in lora.items() if "lora_B" in name)
    assert moved == (method not in ("random", "ns", "opro")) == (folder / "adapter").exists()
    assert summary["proposals"] == 4 * (config.n_on_policy + config.n_neighbors)
    assert summary["evaluations"] == len(evaluations) - 3 and summary["warm_start"] == 3
    score = {e["candidate"]: e["score"] for e in evaluations}
    parents = [e["parents"] for e in evaluations if e["parents"]]
    if method == "opro":            # worst to best; the authors' greedy row was the list's worst
        assert parents and all(score[a] <= score[b] for p in parents for a, b in zip(p, p[1:]))


# ------------------------------------------------------------------------------------------- search

def test_lora_moves_and_the_base_does_not(tmp_path):
    config = migrate.resolve(dict(steps=2), Letters())
    policy = migrate.load_policy(config, str(folder_of("tiny")))
    before = {k: p.detach().clone() for k, p in policy.model.named_parameters()}
    migrate.search(config, METHODS["migrate"], Letters(), policy, Run(tmp_path / "r", {}, False))
    moved = {k for k, p in policy.model.named_parameters() if not torch.equal(p, before[k])}
    assert moved == set(policy.lora) and all("lora_" in k for k in moved)


def test_the_seed_decides_everything_and_changes_everything(tmp_path):
    """Catches: seeds that change nothing; LoRA weights that escape the seed."""
    a, b, c = (run_search(tmp_path / n, seed=s, steps=4) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert a[1] == b[1] and without_times(a[2]) == without_times(b[2])
    assert same_weights(a[3], b[3]) and not same_weights(a[3], c[3])
    assert [e["candidate"] for e in a[1]] != [e["candidate"] for e in c[1]]


def test_training_raises_the_score_of_what_the_policy_proposes(tmp_path):
    """The point of it all: on-policy samples late in a run score higher than early ones, and than
    untrained ones."""
    class Endless(WordSearch):
        def solved(self, score):
            return False

    def means(method):
        _, _, steps, _ = run_search(tmp_path / method, Endless(target="cement"), preset="tiny",
                                    method=method, steps=60, lr=5e-3)
        scores = [s["on-policy"]["score_mean"] for s in steps]
        return sum(scores[:15]) / 15, sum(scores[-15:]) / 15
    early, late = means("grpo")
    _, untrained = means("random")
    assert late > early + 0.05 and late > untrained + 0.05


def test_no_candidate_is_paid_for_twice(tmp_path):
    """Catches: repeats scored again (a docking costs a minute)."""
    summary, evaluations, _, _ = run_search(tmp_path / "r", steps=12)
    assert len(Letters.calls) == len(set(Letters.calls)) == len(evaluations)
    assert summary["repeats"] > 0 and len(evaluations) < summary["proposals"]
    assert [e["index"] for e in evaluations] == list(range(len(evaluations)))


def test_the_tokens_trained_are_the_tokens_sampled(tmp_path):
    """Catches: decoding and tokenising again, and an EOS that gets lost on the way."""
    _, evaluations, _, _ = run_search(tmp_path / "r", steps=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of("tiny"))
    eos = tokenizer.eos_token_id
    for e in evaluations:
        if e["origin"] == "warm-start":
            assert e["tokens"] is None
        else:
            assert e["tokens"][-1] == eos and e["tokens"].count(eos) == 1
            assert tokenizer.decode(e["tokens"], skip_special_tokens=True) == e["candidate"]


def test_budget_counts_evaluations_and_steps_count_proposals(tmp_path):
    summary, evaluations, _, _ = run_search(tmp_path / "r", budget=37)
    assert summary["stop"] == "budget" and summary["evaluations"] == 37 == len(evaluations) - 3
    assert summary["proposals"] >= 37


def test_a_method_that_draws_again_draws_no_more_in_all(tmp_path):
    """--proposals counts them all, so its steps are fewer. Catches: a method that draws three
    times as many candidates as those it is compared with."""
    drawn = {}
    for method in ("migrate", "migrate+novelty"):
        summary, _, steps, _ = run_search(tmp_path / method, method=method, proposals=160)
        drawn[method] = summary["proposals"], len(steps)
        last = steps[-1]["proposals"] - steps[-2]["proposals"]
        assert 160 <= summary["proposals"] < 160 + last + 1
    assert drawn["migrate"] == (160, 20) and drawn["migrate+novelty"][1] < 20


def test_a_policy_that_has_nothing_new_to_say_ends_the_run(tmp_path, monkeypatch):
    class Two(Letters):
        def parse(self, completion):
            return ["aa" if len(completion) % 2 else "bb"]
    monkeypatch.setattr(migrate, "GIVE_UP_AFTER", 3)
    summary, _, _, _ = run_search(tmp_path / "r", Two(), budget=500)
    assert summary["stop"] == "stale" and summary["evaluations"] == 2


def test_a_group_of_equal_scores_is_skipped_and_counted(tmp_path):
    class Flat(Letters):
        def parse(self, completion):
            return super().parse(completion) or ["unreadable"]

        def score(self, candidates):
            yield from ((c, Score(0.5)) for c in candidates)
    summary, _, steps, lora = run_search(tmp_path / "r", Flat(), steps=3)
    assert summary["skipped_updates"] == 3 and all(s["skipped"] for s in steps)
    assert all(p.abs().sum() == 0 for name, p in lora.items() if "lora_B" in name)


def test_a_group_without_a_row_in_the_loss_is_skipped():
    """Catches: AdamW, which moves the weights by its momentum where every gradient is 0."""
    rows, rewards = [Row("on-policy", [], [5, 1], c) for c in "ab"], torch.tensor([0.0, 1.0])
    config = migrate.resolve({"preset": "tiny"}, WordSearch())
    method = dataclasses.replace(METHODS["grpo"], advantages=lambda rows, r: (
        r - r.mean(), torch.tensor([True, False])))
    assert migrate.train(config, method, None, None, rows, rewards, [], 0.1) == {"skipped": True}


def test_parents_that_the_context_cannot_hold_are_left_out(tmp_path, monkeypatch):
    """The worst first; without any that fits the step is on-policy, and the search goes on."""
    # at most two parents: one of the two commas is the prompt's own
    monkeypatch.setattr(chat, "fits", lambda policy, prompt: prompt.count(", ") <= 2)
    _, evaluations, _, _ = run_search(tmp_path / "a", method="migrate-opro", steps=5)
    shown = [e for e in evaluations if e["origin"] == "neighbor"]
    for e in shown:         # the two best of what was known, worst first
        known = [k for k in evaluations if k["step"] < e["step"] and k["valid"]]
        known.sort(key=lambda k: (-k["score"], k["index"]))
        assert e["parents"] == [k["candidate"] for k in known[1::-1]]
    assert len({e["step"] for e in shown}) > 2
    monkeypatch.setattr(chat, "fits", lambda policy, prompt: False)
    _, evaluations, _, _ = run_search(tmp_path / "b", method="migrate-opro", steps=3)
    assert {e["origin"] for e in evaluations if e["step"] > 0} == {"on-policy"}


# -------------------------------------------------------------------------- interrupted and resumed

def wait_for_lines(path, n: int, lives) -> None:
    """Returns when a file has n lines, or its writer lives no longer."""
    while lives() and not (path.exists() and path.read_bytes().count(b"\n") >= n):
        time.sleep(0.005)


def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(tmp_path):
    """kill -9 at two different moments, the last with a torn line; then archive, scores, steps and
    weights are equal."""
    argv = ["--task", "wordsearch", "--target", "skillet", "--method", "migrate", "--steps", "14",
            "--seed", "3", "--n-greedy", "2"]
    migrate.main([*argv, "--out", str(tmp_path / "whole")])
    folder = tmp_path / "killed"
    evals = folder / "evals.jsonl"
    again = [*argv, "--resume", str(folder)]
    forked = multiprocessing.get_context("fork").Process(target=migrate.main, args=[again])
    forked.start()
    wait_for_lines(evals, 30, forked.is_alive)
    forked.kill()
    forked.join()
    fresh = subprocess.Popen([sys.executable, "migrate.py", *again], cwd=HERE,
                             env={**os.environ, "OMP_NUM_THREADS": "1"},
                             stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for_lines(evals, 90, lambda: fresh.poll() is None)
    fresh.kill()
    assert forked.exitcode == fresh.wait() == -signal.SIGKILL
    with open(evals, "a") as file:
        file.write('{"index": 77, "step": 9, "prop')
    migrate.main([*argv, "--resume", str(folder)])

    def everything(folder):
        summary = json.loads((folder / "summary.json").read_text())
        del summary["seconds"]
        steps = without_times(read_jsonl(folder / "steps.jsonl"))
        written = (folder / "completions.jsonl").read_text()
        return summary, read_jsonl(folder / "evals.jsonl"), steps, written
    assert everything(tmp_path / "whole") == everything(folder)
    weights = [torch.load(f / "checkpoint" / "state.pt", weights_only=True)["lora"]
               for f in (tmp_path / "whole", folder)]
    assert same_weights(*weights)


def test_order_of_arrival_does_not_matter_and_a_resume_pays_only_for_what_is_missing(tmp_path):
    ordered = run_search(tmp_path / "a", Letters(), steps=8)
    disordered = run_search(tmp_path / "b", Disordered(), steps=8)

    def by_index(evaluations):
        return sorted(evaluations, key=lambda e: e["index"])
    assert disordered[1] != by_index(disordered[1]) and ordered[1] == by_index(disordered[1])
    assert same_weights(ordered[3], disordered[3])

    task = Disordered()
    task.die_after = 30
    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path / "c", task, steps=8)
    paid = {e["candidate"] for e in read_jsonl(tmp_path / "c" / "evals.jsonl")}
    assert 20 < len(paid) <= 30
    resumed = run_search(tmp_path / "c", Disordered(), steps=8, resume=True)
    assert not paid & set(Letters.calls)
    assert ordered[1] == by_index(resumed[1]) and same_weights(ordered[3], resumed[3])


# -------------------------------------------------------------------------------------- from Python

def test_a_search_from_python_is_the_search_of_the_command_line(tmp_path, capsys):
    arguments = dict(target="mob", seed=3, proposals=40, preset="tiny")
    summary = migrate.run("wordsearch", out=str(tmp_path / "python"), **arguments)
    flags = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    assert support.command_line(capsys, *flags, "--out", tmp_path / "flags")[0] == 0
    ledgers = [read_jsonl(tmp_path / name / "evals.jsonl") for name in ("python", "flags")]
    assert ledgers[0] == ledgers[1] and summary["target"] == "mob" and summary["proposals"] == 40
    own = migrate.run(Letters(), steps=2, out=str(tmp_path / "own"))
    assert own["task"] == "letters" and own["steps"] == 2
    with pytest.raises(UserError, match="no setting stepps"):
        migrate.run("wordsearch", stepps=2)
    with pytest.raises(UserError, match="no setting patience"):     # not a setting of this method
        migrate.run("wordsearch", method="migrate", patience=2)
    with pytest.raises(UserError, match=r"target: the task is made already.* WordSearch\(\.\.\)"):
        migrate.run(WordSearch(), target="cement")
    del arguments["proposals"], arguments["preset"]
    task, known = make_task(WordSearch, arguments, migrate.load_task_class)
    assert task == WordSearch(**arguments) and known == {**arguments, "task": "wordsearch"}

