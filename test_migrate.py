"""Tests of behaviour, not of code: each says which mistake it would catch. The whole suite takes under three minutes.

    python -m pytest -q
"""
import csv
import dataclasses
import functools
import importlib.util
import inspect
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
import warnings
from html.parser import HTMLParser
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"      # before transformers is imported: no test may reach for the network

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from huggingface_hub.errors import GatedRepoError
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

sys.path.append(str(Path(__file__).parent / "examples"))
import ablations
import discover
import docking
import hub
import hub_server
import migrate
import objectives
import page
import pictures
import report
import runs
import sandbox as sandbox_module
import shared_prompt
import sweep
import tasks
from migrate import Archive, Config, Evaluation
from runs import Run
from sandbox import Limits, Sandbox
from tasks import Molecule, Score, Task, UserError, WordSearch

HERE = Path(__file__).parent
torch.set_num_threads(1)        # bit-exact repeats, and faster than two for models this small

# ------------------------------------------------------------------- small models of the real kinds

LLAMA3_TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
CHATML_TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
                   "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SHAPE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=2048)


def byte_level_tokenizer(special, eos, pad, template, bos=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    text = [WordSearch().prompt(), WordSearch().variation_prompt(["cement", "mortar"]), '["cement", "mortar"]']
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False,
                                                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=pad, bos_token=bos,
                                                chat_template=template, padding_side="left")


def build(kind: str, folder: Path) -> Path:
    """A folder as the Hub would deliver it: random weights, but the tokenizer, special tokens, head, attention and
    generation defaults of the family."""
    torch.manual_seed(0)
    if kind == "llama3":            # untied head, three EOS ids, no padding token of its own
        special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
        tokenizer = byte_level_tokenizer(special, "<|eot_id|>", None, LLAMA3_TEMPLATE, bos="<|begin_of_text|>")
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=len(tokenizer), tie_word_embeddings=False, bos_token_id=0, eos_token_id=[1, 2, 3], **SHAPE))
        defaults = dict(do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[1, 2, 3], bos_token_id=0)
    elif kind in ("qwen2", "qwen3"):    # tied head; attention biases (2.5) or query-key norms (3); ships all four defaults
        tokenizer = byte_level_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", "<|endoftext|>",
                                         CHATML_TEMPLATE)
        config, cls = ((transformers.Qwen2Config, transformers.Qwen2ForCausalLM) if kind == "qwen2" else
                       (transformers.Qwen3Config, transformers.Qwen3ForCausalLM))
        extra = {"head_dim": 8} if kind == "qwen3" else {}
        model = cls(config(vocab_size=len(tokenizer), tie_word_embeddings=True, bos_token_id=0, eos_token_id=2,
                           use_sliding_window=False, **SHAPE, **extra))
        defaults = dict(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05,
                        eos_token_id=[2, 0], pad_token_id=0)
    elif kind == "gpt2":            # no chat template, learned positions, dropout, pad = eos
        tokenizer = byte_level_tokenizer(["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>", None)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=0, eos_token_id=0))
        defaults = dict(eos_token_id=0, bos_token_id=0)
    with torch.no_grad():           # random weights of this size predict almost uniformly: sharpen what they say
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)
    model.generation_config = transformers.GenerationConfig(**defaults)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    built = {}

    def get(kind):
        if kind == "tiny":
            return HERE / "tiny" / "wordsearch"
        if kind not in built:
            built[kind] = build(kind, tmp_path_factory.mktemp(kind))
        return built[kind]
    return get


def config_for(folder, **settings) -> Config:
    """A resolved configuration for a word search on some model."""
    defaults = dict(model=str(folder), preset="paper", lora_targets="all-linear", lora_r=4, max_new_tokens=12, quantize="none")
    return migrate.resolve({**defaults, **settings}, WordSearch())


def load(folder, **settings) -> migrate.Policy:
    policy = migrate.load_policy(config_for(folder, **settings), str(folder))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():           # LoRA's B starts at zero, where half of the gradients vanish: move it
        for name, p in policy.lora.items():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return policy


KINDS = ["llama3", "qwen2", "qwen3", "gpt2", "tiny"]


def completions_for(policy, lengths=(5, 1, 9, 4)):
    """Rows of different lengths with an EOS at the end of some, and pad-like tokens inside."""
    generator, vocabulary = random.Random(0), policy.model.config.vocab_size
    rows = [[generator.randrange(vocabulary) for _ in range(n)] for n in lengths]
    rows[0][-1] = min(policy.eos_ids)
    rows[2][3] = policy.generation.pad_token_id
    return rows


def naive_logprobs(model, prompt_ids, completions, temperature=1.0, pad=0):
    """The textbook way: one padded batch of prompt + completion, full logits, log-softmax, gather."""
    longest = max(map(len, completions))
    ids = torch.tensor([prompt_ids + c + [pad] * (longest - len(c)) for c in completions])
    attention = torch.tensor([[1] * (len(prompt_ids) + len(c)) + [0] * (longest - len(c)) for c in completions])
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, len(prompt_ids) - 1:-1]
    log_probs = torch.log_softmax(logits.float() / temperature, -1)
    entropy = torch.distributions.Categorical(logits=logits.detach() / temperature).entropy()
    return log_probs.gather(-1, ids[:, len(prompt_ids):, None])[..., 0], entropy, attention[:, len(prompt_ids):].float()


def scored(policy, prompt_ids, completions, weight=None):
    """token_logprobs of the whole group, (G, T) each; with a weight, also the gradients of sum(weight * logprobs)."""
    shape = len(completions), max(map(len, completions))
    logprobs, entropies, masks = (torch.zeros(shape) for _ in range(3))
    policy.model.zero_grad()
    with torch.set_grad_enabled(weight is not None):
        for rows, *tensors in migrate.token_logprobs(policy, prompt_ids, completions):
            T = tensors[0].shape[1]
            if weight is not None:
                (tensors[0] * tensors[2] * weight[rows, :T]).sum().backward()
            for whole, part in zip((logprobs, entropies, masks), tensors):
                whole[rows, :T] = part.detach()
    return logprobs, entropies, masks, {name: p.grad for name, p in policy.lora.items()}


# ------------------------------------------------------------------------------------------- the policy

@pytest.mark.parametrize("kind", KINDS)
def test_scoring_equals_the_naive_batch(kind, folder_of, monkeypatch):
    """Whatever the micro-batches, with the prompt's activations moved and the logits in several chunks. Catches: a prompt
    without gradients, wrong positions after it, padding that leaks into real tokens, a row or a chunk left out."""
    policy = load(folder_of(kind), temperature=0.7)
    prompt_ids = migrate.encode_prompt(policy, WordSearch().prompt())
    completions = completions_for(policy)
    weight = torch.randn(len(completions), max(map(len, completions)), generator=torch.Generator().manual_seed(2))
    naive, entropy, naive_mask = naive_logprobs(policy.model, prompt_ids, completions, temperature=0.7)
    (naive * naive_mask * weight).sum().backward()
    expected = {name: p.grad for name, p in policy.lora.items()}
    assert sum(g.abs().sum() > 0 for g in expected.values()) == len(expected)

    for n_batches, offload, chunk in ((1, False, 2**24), (1, True, 2**24), (2, False, 2**10), (4, True, 1)):
        monkeypatch.setattr(shared_prompt, "CHUNK", chunk)
        policy.micro_batch, policy.offload = len(completions) // n_batches, offload
        ours, our_entropy, mask, gradients = scored(policy, prompt_ids, completions, weight)
        assert torch.equal(mask, naive_mask)
        torch.testing.assert_close(ours, naive.detach() * mask, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(our_entropy, entropy * mask, rtol=1e-5, atol=1e-5)
        for name, g in expected.items():
            assert (gradients[name] - g).abs().max() < 1e-5 * max(1.0, g.abs().max()), (name, n_batches, offload)


def test_an_update_does_not_depend_on_its_micro_batches(folder_of):
    """Catches: a loss normalised by the micro-batch instead of the group, old or base log-probabilities of other rows in
    the second iteration, metrics of the last micro-batch only."""
    results = []
    for size, offload in ((0, False), (1, True), (3, False), (2, True)):
        policy = load(folder_of("qwen3"))
        policy.micro_batch, policy.offload = size, offload
        rows = [migrate.Row(origin, [], tokens, "a", True, 0, score, True) for origin, tokens, score in
                zip(("on-policy", "neighbor", "neighbor", "greedy"), completions_for(policy), (0.9, 0.0, 0.3, 0.5))]
        config = config_for(folder_of("qwen3"), kl_coef=0.1, inner_iterations=3, eps_low=0.01, eps_high=0.01)
        prompt_ids = migrate.encode_prompt(policy, "Guess.")
        at_the_start = [(logprobs.detach() * mask).sum(1) for _, logprobs, _, mask in
                        migrate.token_logprobs(policy, prompt_ids, [row.tokens for row in rows])]
        metrics = migrate.update(policy, torch.optim.SGD(policy.lora.values(), lr=0.1), rows, prompt_ids, 0.1, config)
        assert [logprob for _, logprob, _ in metrics["by_row"]] == pytest.approx(torch.cat(at_the_start).tolist(), abs=1e-3)
        results.append((metrics, {name: p.detach().clone() for name, p in policy.lora.items()}))
    (expected, weights), *others = results
    by_row = np.array(expected.pop("by_row"))           # tokens, log-probability, clipped tokens
    assert by_row.shape == (4, 3) and by_row[3, 2] > 0
    for metrics, w in others:
        assert np.allclose(metrics.pop("by_row"), by_row, atol=1e-4)
        assert metrics == pytest.approx(expected, abs=1e-4)
        assert all(torch.allclose(w[name], weights[name], atol=1e-5) for name in weights)


def test_the_memory_of_an_update_is_measured_and_decides_the_micro_batches(folder_of, monkeypatch):
    """The bytes that a backward pass needs, counted without keeping them, against a count of what really is kept."""
    policy = load(folder_of("llama3"))
    prompt_ids, rows = migrate.encode_prompt(policy, WordSearch().prompt()), [[5] * 40] * 3
    def score():
        return shared_prompt.completion_pass(policy.model, shared_prompt.prompt_pass(policy.model, prompt_ids), rows, 1.0)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.data_ptr(), x), lambda x: x):
        alive = score()
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept.values()}
    expected = sum(n for pointer, n in storages.items() if pointer not in weights)
    measured, _ = shared_prompt.activations(policy.model, score)
    assert alive and measured == pytest.approx(expected, rel=0.02)

    plans = []
    for free in (2**40, 2**22, 2**20):
        monkeypatch.setattr(shared_prompt, "free_memory", lambda model: free)
        plans.append(shared_prompt.plan(policy.model, prompt_ids, 10, 40, 1.0)[0])
    assert plans[0] == 10 > plans[1] > plans[2] == 1
    assert shared_prompt.plan(policy.model, prompt_ids, 10, 40, 1.0, size=4)[0] == 4        # what the user says goes


def test_the_benchmark_builds_4bit_llamas_layer_by_layer(capsys):
    """The GPU benchmark on a tiny shape: NF4 weights under every linear layer but the head, sampled from and trained."""
    import bench
    bench.gpu("toy", 16, 3, 4, 4)
    assert "micro-batch" in (out := capsys.readouterr().out) and "toy (16, 3, 4) r=4: sampling" in out


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_sampled_is_the_distribution_scored(kind, folder_of):
    """Catches: top-k, top-p, temperature or repetition penalty of the model's generation_config leaking into
    sampling (transformers fills whatever is None from it), and a score computed at another temperature."""
    policy = load(folder_of(kind), temperature=1.3)
    long, short = (migrate.encode_prompt(policy, text) for text in (WordSearch().prompt(), "Guess."))
    generate, outputs = policy.model.generate, []

    def recorded(**kwargs):
        outputs.append(generate(output_scores=True, return_dict_in_generate=True, **kwargs))
        return outputs[-1].sequences
    policy.model.generate = recorded
    samples = migrate.sample_batch(policy, [(short, 2), (long, 4)], seed=0)
    scores = torch.log_softmax(torch.stack(outputs[0].scores, 1).float(), -1)                       # (6, T, V)
    assert torch.isfinite(scores).all(), "some token was ruled out: sampling was truncated"
    for prompt_ids, completions, of in ((short, samples[0], scores[:2]), (long, samples[1], scores[2:])):
        logprobs = scored(policy, prompt_ids, completions)[0]
        for i, c in enumerate(completions):
            sampled_from = of[i, range(len(c)), c]
            assert (sampled_from - logprobs[i, :len(c)]).abs().max() < 1e-4


def test_weights_are_the_same_tensors_after_a_draw(folder_of):
    """Catches: LoRA merged and unmerged by adding and subtracting, which drifts (a resumed run would differ in its last
    bits); a draw that fails and leaves the merged weights; LoRA rounded into 4-bit weights."""
    for kind, quantize in (("qwen2", "none"), ("gpt2", "none"), ("llama3", "4bit")):
        policy = load(folder_of(kind), quantize=quantize)
        before = {name: (p.data_ptr(), p.clone()) for name, p in policy.model.named_parameters()}
        prompt_ids = migrate.encode_prompt(policy, "x")
        logprobs = scored(policy, prompt_ids, [[5, 6, 7]])[0]
        migrate.sample(policy, prompt_ids, 3, seed=0)
        with pytest.raises(AttributeError):
            migrate.sample(dataclasses.replace(policy, generation=None), prompt_ids, 3, seed=0)
        for name, p in policy.model.named_parameters():
            assert p.data_ptr() == before[name][0] and torch.equal(p, before[name][1]), name
        assert torch.equal(scored(policy, prompt_ids, [[5, 6, 7]])[0], logprobs)


def test_sampling_depends_on_its_seed_alone_and_follows_the_model(folder_of):
    """Catches: a draw that depends on call history; a cache that mixes rows up (frequencies would be off)."""
    policy = load(folder_of("qwen2"), max_new_tokens=1)
    prompt_ids = migrate.encode_prompt(policy, "x")
    first = migrate.sample(policy, prompt_ids, 2000, seed=5)
    torch.rand(7)
    assert migrate.sample(policy, prompt_ids, 2000, seed=5) == first != migrate.sample(policy, prompt_ids, 2000, seed=6)
    with torch.no_grad():
        probs = torch.softmax(policy.model(torch.tensor([prompt_ids])).logits[0, -1], -1)
    counts = torch.bincount(torch.tensor([c[0] for c in first]), minlength=len(probs)).float()
    sigma = (2000 * probs * (1 - probs)).sqrt().clamp(min=1)
    assert ((counts - 2000 * probs).abs() / sigma).max() < 5


def test_every_eos_of_the_model_ends_a_completion(folder_of):
    policy = load(folder_of("llama3"))
    assert policy.eos_ids == {1, 2, 3} and policy.generation.pad_token_id in policy.eos_ids
    ends = [row[-1] for seed in range(3) for row in migrate.sample(policy, migrate.encode_prompt(policy, "x"), 200, seed)
            if len(row) < 12]
    assert ends and set(ends) <= {1, 2, 3}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_a_completion_keeps_its_first_eos_and_nothing_behind_it(tokens):
    """Catches: masking by token value, which drops the EOS whenever pad = eos: stopping is then never trained."""
    row = migrate.first_eos(tokens, frozenset({1, 3}))
    assert tokens[:len(row)] == row and not {1, 3} & set(row[:-1])
    assert row[-1] in (1, 3) or row == tokens


def test_prompts_go_through_the_chat_template(folder_of):
    policy = load(folder_of("llama3"))
    ids = migrate.encode_prompt(policy, "Guess.")
    assert policy.tokenizer.decode(ids) == ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nGuess.<|eot_id|>"
                                            "<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert ids.count(0) == 1        # one begin-of-text, not two
    with pytest.raises(UserError, match="context of 2048"):
        migrate.encode_prompt(policy, "long " * 3000)


def test_dropout_is_off_although_the_model_stays_in_train_mode(folder_of):
    policy = load(folder_of("gpt2"))
    prompt_ids, completions = migrate.encode_prompt(policy, "x"), [[5, 6, 7]]
    assert policy.model.training
    once, again = (scored(policy, prompt_ids, completions)[0] for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("kind", ["llama3", "tiny"])
def test_4bit_weights_train_after_sampling_and_equal_their_dequantised_twin(kind, folder_of):
    """Real NF4 weights with double quantisation. Catches: LoRA gradients that vanish once an evaluation-mode forward has
    repacked the weights, and a quantised forward that differs from the same computation on the dequantised weights
    (tolerance 2e-3 in log-probability, 2% in gradient: bitsandbytes multiplies in its own precision)."""
    import bitsandbytes as bnb
    policy = load(folder_of(kind), quantize="4bit")
    prompt_ids = migrate.encode_prompt(policy, WordSearch().prompt())
    migrate.sample(policy, prompt_ids, 4, seed=0)
    completions = completions_for(policy)
    policy.micro_batch, policy.offload = 2, True
    ours, _, mask, _ = scored(policy, prompt_ids, completions, torch.ones(4, 9))
    linear = [m for m in policy.model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert linear and all(m.weight.quant_state.nested and m.weight.quant_state.quant_type == "nf4" for m in linear)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.lora.values())

    twin = load(folder_of(kind), quantize="none")
    weights = {name: bnb.functional.dequantize_4bit(m.weight.data, m.weight.quant_state).float()
               for name, m in policy.model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    with torch.no_grad():
        for name, module in twin.model.named_modules():
            if name in weights:
                module.weight.copy_(weights[name])
    expected, _, mask = naive_logprobs(twin.model, prompt_ids, completions)
    (expected * mask).sum().backward()
    assert (ours * mask - expected * mask).abs().max() < 2e-3
    for (name, p), q in zip(policy.lora.items(), twin.lora.values()):
        assert (p.grad - q.grad).norm() < 0.02 * q.grad.norm() + 1e-6, name


@pytest.mark.parametrize("config", [
    transformers.MistralConfig(sliding_window=64, **SHAPE),
    transformers.Gemma2Config(**SHAPE),
    transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4),
], ids=lambda c: c.model_type)
def test_models_without_a_full_attention_cache_are_refused(config):
    with pytest.raises(UserError, match="sliding-window, linear-attention or state-space"):
        shared_prompt.check_full_attention(config, "some/model")


# ------------------------------------------------------------------------------------------------- GRPO

def test_advantages_by_hand():
    assert migrate.group_advantages(torch.tensor([1.0, 0.0, 0.5, 0.1])).tolist() == pytest.approx([0.6, -0.4, 0.1, -0.3])


def test_loss_by_hand():
    """Two rows, A = +-0.5. Row 1: ratios 1.5 (clipped to 1.28) and 1; row 2: ratio 0.5 (clipped to 0.8), one token."""
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
    advantages, mask = torch.randn(G, generator=g).double(), (torch.rand(G, T, generator=g) < 0.7).double()
    inputs = [x.clone() for x in (new, old, advantages, mask, base)]
    loss, _ = migrate.grpo_loss(new, old, advantages, mask, 0.2, 0.28, kl, base)
    expected = independent_loss(*(x.tolist() for x in (new, old, advantages, mask)), 0.2, 0.28, kl, base.tolist())
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(inputs, (new, old, advantages, mask, base)))   # inputs are not written


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
    """d loss / d logprob = - A_i / (G |o_i|): nothing is clipped, every row weighs the same whatever its length."""
    logprobs = torch.randn(2, 3, requires_grad=True)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    loss, _ = migrate.grpo_loss(logprobs, logprobs.detach(), torch.tensor([0.3, -0.3]), mask, 0.2, 0.28)
    loss.backward()
    assert logprobs.grad.flatten().tolist() == pytest.approx([-0.05, -0.05, -0.05, 0.15, 0, 0])


# ------------------------------------------------------------------------------------ a task to search on

class Letters(Task):
    """Real prompts for the bundled policy, a black box of its own: the share of a word's letters that are vowels."""
    name, bundled = "letters", "wordsearch"
    presets = {"paper": {}, "tiny": dict(proposals=60, n_on_policy=3, n_greedy=2, n_neighbors=5, lr=1e-3, lora_r=8,
                                         max_new_tokens=4)}
    calls: list = []            # every candidate that the scorer was called on, over all instances

    def prompt(self):
        return WordSearch().prompt()

    def variation_prompt(self, parents):
        return WordSearch().variation_prompt(parents)

    def parse(self, completion):
        return tasks.words_in(completion)[-1:]

    def score(self, candidates):
        for c in candidates:
            Letters.calls.append(c)
            yield c, Score(0.0, valid=False) if "z" in c else Score(sum(x in "aeiou" for x in c) / (len(c) + 1))

    def warm_start(self, seed):
        return random.Random(seed).sample(["stone", "cement", "audio", "zebra"], 3)


def run(folder, task=None, **settings):
    """One search, as the command line runs it. Returns (summary, evaluations, steps, LoRA weights)."""
    task = task or Letters()
    config = migrate.resolve({"seed": 0, **settings}, task)
    the_run = Run(Path(folder), {"config": {}, "options": {}}, resume=settings.get("resume", False))
    policy = migrate.load_policy(config, migrate.model_source(config, task))
    Letters.calls = []
    summary = migrate.search(config, task, policy, the_run)
    the_run.finish(summary)
    evals, steps = (runs.read_jsonl(Path(folder) / f) for f in ("evals.jsonl", "steps.jsonl"))
    return summary, evals, steps, {k: p.detach().clone() for k, p in policy.lora.items()}


def without_times(lines):
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------------------- the search

@pytest.mark.parametrize("method", migrate.METHODS)
def test_every_method_runs_with_its_own_group(method, tmp_path):
    """Catches: a greedy row that is never inserted (grpo-greedy would equal grpo), a method that trains and should not."""
    task = Letters()
    summary, evals, steps, lora = run(tmp_path / "r", task, method=method, steps=4)
    config = migrate.resolve(dict(method=method), task)
    counts = {"on-policy": config.n_on_policy, "greedy": config.n_greedy, "neighbor": config.n_neighbors}
    expected = {"random": (10, 0, 0), "ns": (0, 0, 10), "opro": (0, 0, 10), "grpo": (10, 0, 0), "grpo-greedy": (9, 1, 0)}
    assert tuple(counts.values()) == expected.get(method, (3, 2, 5))
    for line in steps:
        assert {origin: line[origin]["n"] for origin in counts if origin in line} == {k: v for k, v in counts.items() if v}
    moved = any(p.abs().sum() > 0 for name, p in lora.items() if "lora_B" in name)
    assert moved == migrate.METHODS[method].trains == (tmp_path / "r" / "adapter").exists()
    assert summary["proposals"] == 4 * (config.n_on_policy + config.n_neighbors)
    assert summary["evaluations"] == len(evals) - summary["warm_start"] and summary["warm_start"] == 3
    seen = [p for e in evals for p in e["parents"]]
    order = {e["candidate"]: e["score"] for e in evals}
    if method == "opro":            # worst to best; the authors' greedy row was the worst of the list
        assert seen and all(order[a] <= order[b] for e in evals for a, b in zip(e["parents"], e["parents"][1:]))


def test_lora_moves_and_the_base_does_not(tmp_path):
    config = migrate.resolve(dict(steps=2), Letters())
    policy = migrate.load_policy(config, migrate.model_source(config, Letters()))
    before = {k: p.detach().clone() for k, p in policy.model.named_parameters()}
    migrate.search(config, Letters(), policy, Run(tmp_path / "r", {"config": {}, "options": {}}, False))
    moved = {k for k, p in policy.model.named_parameters() if not torch.equal(p, before[k])}
    assert moved == set(policy.lora) and all("lora_" in k for k in moved)


def test_the_seed_decides_everything_and_changes_everything(tmp_path):
    """Catches: seeds that change nothing; LoRA weights that escape the seed."""
    a, b, c = (run(tmp_path / n, seed=s, steps=4) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert a[1] == b[1] and without_times(a[2]) == without_times(b[2]) and same_weights(a[3], b[3])
    assert [e["candidate"] for e in a[1]] != [e["candidate"] for e in c[1]] and not same_weights(a[3], c[3])


def test_training_raises_the_score_of_what_the_policy_proposes(tmp_path):
    """The point of it all: on-policy samples late in a run score higher than early ones, and than untrained ones."""
    class Endless(WordSearch):
        def solved(self, score):
            return False
    early, late = {}, {}
    for method in ("grpo", "random"):
        _, _, steps, _ = run(tmp_path / method, Endless(target="cement"), preset="tiny", method=method, steps=60, lr=5e-3)
        early[method], late[method] = (sum(s["on-policy"]["score_mean"] for s in part) / 15
                                       for part in (steps[:15], steps[-15:]))
    assert late["grpo"] > early["grpo"] + 0.05 and late["grpo"] > late["random"] + 0.05


def test_no_candidate_is_paid_for_twice(tmp_path):
    """Catches: repeats scored again (a docking costs a minute)."""
    summary, evals, _, _ = run(tmp_path / "r", steps=12)
    assert len(Letters.calls) == len(set(Letters.calls)) == len(evals)
    assert summary["repeats"] > 0 and len(evals) < summary["proposals"]
    assert [e["index"] for e in evals] == list(range(len(evals)))


def test_the_tokens_trained_are_the_tokens_sampled(tmp_path):
    """Catches: decoding and tokenising again, and an EOS that gets lost on the way."""
    _, evals, _, _ = run(tmp_path / "r", steps=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / "tiny" / "wordsearch")
    for e in evals:
        if e["origin"] == "warm-start":
            assert e["tokens"] is None
        else:
            assert e["tokens"][-1] == tokenizer.eos_token_id and e["tokens"].count(tokenizer.eos_token_id) == 1
            assert tokenizer.decode(e["tokens"], skip_special_tokens=True) == e["candidate"]


def test_budget_counts_evaluations_and_steps_count_proposals(tmp_path):
    summary, evals, _, _ = run(tmp_path / "r", budget=37)
    assert summary["stop"] == "budget" and summary["evaluations"] == 37 == len(evals) - 3
    assert summary["proposals"] >= 37
    # what the last group drew beyond the budget was never looked at: it is neither a repeat nor invalid
    rows = [migrate.Row("on-policy", [], [1], c) for c in ("oak", "elm", "oak", "fir", None, "fir", "elm")]
    ledger = types.SimpleNamespace(log_evaluation=lambda line: None)
    migrate.evaluate(ledger, Letters(), migrate.Archive(), rows, 1, 2)
    assert [(row.candidate, row.new, row.valid) for row in rows] == [
        ("oak", True, True), ("elm", True, True), ("oak", False, True), (None, False, False), ("elm", False, True)]


def test_a_budget_of_the_preset_gives_way_to_the_count_that_the_user_gives():
    def count(**given):
        config = migrate.resolve(dict(preset="novelty", **given), WordSearch())
        return config.budget, config.steps
    assert count() == (1000, 100) and count(budget=7) == (7, 100) and count(steps=5) == (None, 5)
    assert count(proposals=30) == (None, 3) and count(proposals=30, budget=9) == (9, 3)


def test_a_policy_that_has_nothing_new_to_say_ends_the_run(tmp_path, monkeypatch):
    class Two(Letters):
        def parse(self, completion):
            return ["aa" if len(completion) % 2 else "bb"]
    monkeypatch.setattr(migrate, "GIVE_UP_AFTER", 3)
    summary, _, _, _ = run(tmp_path / "r", Two(), budget=500)
    assert summary["stop"] == "stale" and summary["evaluations"] == 2


def test_a_group_of_equal_scores_is_skipped_and_counted(tmp_path):
    class Flat(Letters):
        def parse(self, completion):
            return super().parse(completion) or ["unreadable"]

        def score(self, candidates):
            yield from ((c, Score(0.5)) for c in candidates)
    summary, _, steps, lora = run(tmp_path / "r", Flat(), steps=3)
    assert summary["skipped_updates"] == 3 and all(s["skipped"] for s in steps)
    assert all(p.abs().sum() == 0 for name, p in lora.items() if "lora_B" in name)


def test_masking_follows_the_score_and_leaves_the_mean_alone(monkeypatch):
    """mask_zero takes rows of score 0, valid or not, out of the loss; the advantages keep them in the mean."""
    seen = []
    monkeypatch.setattr(migrate, "grpo_loss", lambda new, old, a, mask, *rest: seen.append((a, mask)) or
                        (new.sum() * 0, torch.zeros_like(mask, dtype=torch.bool)))
    rows = [migrate.Row("on-policy", [], [5, 6], "a", score=0.0, valid=True),
            migrate.Row("on-policy", [], [7], "b", score=0.6, valid=True)]
    for mask_zero in (True, False):
        config = migrate.resolve(dict(mask_zero=mask_zero), Letters())
        policy = migrate.load_policy(config, migrate.model_source(config, Letters()))
        migrate.update(policy, torch.optim.AdamW(policy.lora.values()), rows, [9, 9], 0.0, config)
    (a, masked), (_, unmasked) = seen[0], seen[-1]
    assert a.tolist() == pytest.approx([-0.3, 0.3])
    assert masked.tolist() == [[0, 0], [1, 0]] and unmasked.tolist() == [[1, 1], [1, 0]]


def test_with_pull_only_neighbours_below_the_mean_leave_the_loss_and_no_others(monkeypatch):
    seen = []
    monkeypatch.setattr(migrate, "grpo_loss", lambda new, old, a, mask, *rest: seen.append((a.tolist(), mask.tolist())) or
                        (new.sum() * 0, torch.zeros_like(mask, dtype=torch.bool)))
    rows = [migrate.Row(origin, [], [token], "c", score=score, valid=True, new=True) for token, (origin, score) in enumerate(
        [("on-policy", 0.1), ("neighbor", 0.1), ("neighbor", 0.9), ("greedy", 0.1), ("neighbor", 0.8)], start=5)]
    for pull_only in (True, False):
        config = migrate.resolve(dict(pull_only=pull_only, inner_iterations=1), Letters())
        policy = migrate.load_policy(config, migrate.model_source(config, Letters()))
        migrate.update(policy, torch.optim.AdamW(policy.lora.values()), rows, [9, 9], 0.0, config)
    assert [mask for _, mask in seen] == [[[1], [0], [1], [1], [1]], [[1]] * 5]
    assert all(a == pytest.approx([-0.3, -0.3, 0.5, -0.3, 0.4]) for a, _ in seen)       # in the mean they are, either way


def test_a_repeat_that_is_worth_nothing_is_pushed_away_and_a_replay_is_not(monkeypatch):
    """With novelty, to the update, not to the archive or the log, a drawn candidate that is known already counts 0."""
    seen = []
    monkeypatch.setattr(migrate, "grpo_loss", lambda new, old, a, *rest: seen.append(a.tolist()) or
                        (new.sum() * 0, torch.zeros_like(new, dtype=torch.bool)))
    rows = [migrate.Row("on-policy", [], [5, 6], "a", score=0.9, valid=True, new=False),
            migrate.Row("neighbor", ["a"], [7], "b", score=0.6, valid=True, new=True),
            migrate.Row("greedy", [], [8], "c", score=0.9, valid=True)]
    for novelty in (2, 1):
        config = migrate.resolve(dict(novelty=novelty, inner_iterations=1), Letters())
        policy = migrate.load_policy(config, migrate.model_source(config, Letters()))
        migrate.update(policy, torch.optim.AdamW(policy.lora.values()), rows, [9, 9], 0.0, config)
    assert seen == [pytest.approx([-0.5, 0.1, 0.4]), pytest.approx([0.1, -0.2, 0.1])]
    assert [row.score for row in rows] == [0.9, 0.6, 0.9]


def test_novelty_keeps_unseen_candidates_first_and_counts_every_draw(tmp_path):
    plain, novel = (run(tmp_path / str(k), novelty=k, steps=15)[0] for k in (1, 4))
    assert novel["evaluations"] > plain["evaluations"]
    assert novel["proposals"] > plain["proposals"] == 15 * 8
    # redrawn repeats are proposals, too: every one is new, a repeat or unreadable
    assert 0 <= novel["proposals"] - novel["evaluations"] - novel["repeats"] <= novel["invalid"]


def test_several_candidates_in_one_completion_are_rows_of_their_own(folder_of, monkeypatch):
    """Each is scored by itself and trained as its own completion + EOS; one that did not come is an invalid proposal."""
    policy = load(folder_of("llama3"))
    task = WordSearch(candidates_per_completion=3)
    answers = iter(['["cement", "mortar"]', "I cannot say."])
    monkeypatch.setattr(migrate, "sample_batch", lambda policy, prompts, *rest: [
        [policy.tokenizer(next(answers), add_special_tokens=False)["input_ids"] + [3] for _ in range(n)] for _, n in prompts])
    prompt_ids = migrate.encode_prompt(policy, task.prompt())
    rows = migrate.draw(policy, task, [(prompt_ids, 6, "on-policy", [])], set(), config_for(folder_of("llama3")), 1, 100)
    assert [r.candidate for r in rows] == ["cement", "mortar", None, None, None, None]
    assert [r.proposal for r in rows] == list(range(101, 107))
    assert policy.tokenizer.decode(rows[0].tokens) == '["cement"]<|eot_id|>'
    assert [r.kept for r in rows] == [True, True, True, False, False, False]


# --------------------------------------------------------------------------------- interrupted and resumed

def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(tmp_path):
    """kill -9 at two different moments, the last with a torn line; then archive, scores, steps and weights are equal."""
    arguments = ["--task", "wordsearch", "--target", "skillet", "--method", "migrate", "--steps", "14", "--seed", "3",
                 "--n-greedy", "2"]
    command = [sys.executable, "migrate.py", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", tmp_path / "whole"], cwd=HERE, check=True, env=environment, capture_output=True)
    folder = tmp_path / "killed"
    for lines in (30, 90):
        process = subprocess.Popen([*command, "--out", folder, "--resume"], cwd=HERE, env=environment,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        evals = folder / "evals.jsonl"
        while process.poll() is None and not (evals.exists() and evals.read_bytes().count(b"\n") >= lines):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open(folder / "evals.jsonl", "a") as file:
        file.write('{"index": 77, "step": 9, "prop')
    subprocess.run([*command, "--out", folder, "--resume"], cwd=HERE, check=True, env=environment, capture_output=True)

    def everything(folder):
        summary = json.loads((folder / "summary.json").read_text())
        lora = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)["lora"]
        return ({k: v for k, v in summary.items() if k != "seconds"}, runs.read_jsonl(folder / "evals.jsonl"),
                without_times(runs.read_jsonl(folder / "steps.jsonl")), lora)
    whole, killed = everything(tmp_path / "whole"), everything(folder)
    assert whole[:3] == killed[:3] and same_weights(whole[3], killed[3])


class Disordered(Letters):
    """Results arrive out of order, as from a pool of workers; the process may die in the middle of a batch."""
    die_after = 10**9

    def score(self, candidates):
        results = list(super().score(candidates))
        for result in results[1::2] + results[::2]:
            if len(Letters.calls) >= self.die_after:
                raise KeyboardInterrupt
            yield result


def test_order_of_arrival_does_not_matter_and_a_resume_pays_only_for_what_is_missing(tmp_path):
    ordered, disordered = run(tmp_path / "a", Letters(), steps=8), run(tmp_path / "b", Disordered(), steps=8)
    assert [e["index"] for e in disordered[1]] != sorted(e["index"] for e in disordered[1])
    assert ordered[1] == sorted(disordered[1], key=lambda e: e["index"]) and same_weights(ordered[3], disordered[3])

    task = Disordered()
    task.die_after = 30
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", task, steps=8)
    paid = {e["candidate"] for e in runs.read_jsonl(tmp_path / "c" / "evals.jsonl")}
    assert 20 < len(paid) <= 30
    resumed = run(tmp_path / "c", Disordered(), steps=8, resume=True)
    assert not paid & set(Letters.calls)
    assert ordered[1] == sorted(resumed[1], key=lambda e: e["index"]) and same_weights(ordered[3], resumed[3])


def test_a_search_that_finds_nothing_better_starts_afresh_and_resumes_exactly(tmp_path, monkeypatch):
    """The weights are the first ones again, parents and replays come from the new start alone, and nothing is paid twice."""
    states, save = [], runs.Run.save_checkpoint
    monkeypatch.setattr(runs.Run, "save_checkpoint", lambda self, counts, optimizer, lora, **how: states.append(
        (dict(counts), len(optimizer.state), {k: p.detach().clone() for k, p in lora.items()}))
        or save(self, counts, optimizer, lora, **how))
    replayed, real_replay = [], migrate.replay
    monkeypatch.setattr(migrate, "replay", lambda policy, task, archive, *rest: replayed.append(
        min((e.index for e in archive.of.values()), default=0)) or real_replay(policy, task, archive, *rest))
    settings = dict(steps=24, patience=10, lr=5e-2)
    first = migrate.load_policy(migrate.resolve(settings, Letters()), str(HERE / "tiny" / "wordsearch")).lora
    whole = run(tmp_path / "whole", **settings)
    restarts = [(counts, n, lora) for counts, n, lora in states if counts["start"] == counts["better_at"] > 0]
    assert len(restarts) >= 2 and all(n == 0 and same_weights(lora, first) for _, n, lora in restarts)
    assert not same_weights(whole[3], first) and len({e["candidate"] for e in whole[1]}) == len(whole[1]) == len(Letters.calls)
    start, step = restarts[0][0]["start"], restarts[0][0]["step"]
    until = restarts[1][0]["step"]
    index = {e["candidate"]: e["index"] for e in whole[1]}
    parents = {p for e in whole[1] if step < e["step"] <= until for p in e["parents"]}
    assert parents and all(index[p] >= start for p in parents)
    assert all(index[p] < start for e in whole[1] if e["step"] <= step for p in e["parents"])
    assert replayed[:step] == [0] * step and min(replayed[step + 1:until]) >= start     # the first step has none yet

    task = Disordered()
    task.die_after = start + 12
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", task, **settings)
    resumed = run(tmp_path / "killed", Disordered(), **settings, resume=True)
    assert whole[1] == sorted(resumed[1], key=lambda e: e["index"]) and same_weights(whole[3], resumed[3])


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), max_size=6), st.integers(0, 80))
def test_a_torn_ledger_is_repaired_to_its_whole_lines(tmp_path_factory, lines, cut):
    path = tmp_path_factory.mktemp("ledger") / "evals.jsonl"
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    assert runs.read_jsonl(path) == lines[:whole] == runs.read_jsonl(path)
    assert path.read_bytes() == data[:data[:cut].rfind(b"\n") + 1]


@pytest.mark.parametrize("code, reason", [("1 / 0", "ZeroDivisionError"), ("float('nan')", "scores lie in [0, 1]"),
                                          ("2.0", "scores lie in [0, 1]"), ("None", "TypeError"),
                                          ("tasks.Score(0.5, info={1: {2}})", "not JSON serializable")])
def test_a_scorer_that_fails_stops_the_run_and_scores_nothing(code, reason, tmp_path, capsys):
    """Catches: a bare except that turns every fault of the scorer into score 0. What was scored before is kept."""
    (tmp_path / "broken.py").write_text(
        "import tasks\nclass Broken(tasks.WordSearch):\n    def score(self, candidates):\n"
        f"        for i, c in enumerate(candidates):\n            yield c, (0.5 if i == 0 else {code})\n")
    code, _, err = command_line(capsys, "--task", tmp_path / "broken.py", "--out", tmp_path / "r")
    assert code == 1 and reason in err and "best so far: '" in err and "Traceback" not in err
    assert [e["score"] for e in runs.read_jsonl(tmp_path / "r" / "evals.jsonl")] == [0.5]
    assert "Traceback" in (tmp_path / "r" / "error.log").read_text()


def test_a_task_of_numpy_scores_and_with_options_of_its_own(tmp_path, capsys):
    """A user's file: no __future__ import, so that the types of its options are types and not strings."""
    (tmp_path / "mine.py").write_text(
        "import dataclasses, numpy as np, tasks\n@dataclasses.dataclass\nclass Mine(tasks.WordSearch):\n"
        "    weight: float = 0.5     # of every word\n    def score(self, candidates):\n        for c in candidates:\n"
        "            yield c, tasks.Score(np.float32(self.weight), valid=np.bool_(len(c) > 0))\n")
    code, _, err = command_line(capsys, "--task", tmp_path / "mine.py", "--weight", "0.25", "--steps", "1", "--out", tmp_path / "r")
    assert code == 0 and {(e["score"], e["valid"]) for e in runs.read_jsonl(tmp_path / "r" / "evals.jsonl")} == {(0.25, True)}
    (tmp_path / "list.py").write_text("import dataclasses, tasks\n@dataclasses.dataclass\nclass Mine(tasks.WordSearch):\n"
                                      "    weights: list = dataclasses.field(default_factory=list)\n")
    code, _, err = command_line(capsys, "--task", tmp_path / "list.py")
    assert code == 2 and "the field weights of Mine cannot be a flag" in err and err.count("\n") == 1


# ------------------------------------------------------------------------------------ archive and parents

def test_an_index_is_never_given_twice_even_past_a_gap():
    """A step taken again on a GPU is not the same: index 4 is known, 3 is free, and the archive is as long as 4."""
    ledger = [Evaluation(i, 1, i, "on-policy", [], f"c{i}", 0.5, True, [i]) for i in (0, 1, 2, 4)]
    archive = Archive(ledger, 1)
    assert [archive.next_index() for _ in range(3)] == [5, 6, 7]


def archive_of(scores, steps=None, valid=None) -> Archive:
    archive = Archive()
    archive.add([Evaluation(i, steps[i] if steps else 1, i, "on-policy", [], f"c{i}", s, valid[i] if valid else True, [i])
                 for i, s in enumerate(scores)])
    return archive


scores_and_validity = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30)


@given(scores_and_validity, st.integers(1, 12), st.integers(0, 99))
def test_top_k_holds_the_best_valid_ones(pairs, k, seed):
    archive = archive_of([s for s, _ in pairs], valid=[v for _, v in pairs])
    best, valid = archive.best(k), [s for s, v in pairs if v]
    assert [e.score for e in best] == sorted(valid, reverse=True)[:k] and all(e.valid for e in best)
    assert all(a.score > b.score or a.index < b.index for a, b in zip(best, best[1:]))
    parent = migrate.one_of_top_k(archive, 1, k, random.Random(seed))
    assert len(parent) == bool(valid) and all(p in best for p in parent)
    assert migrate.ranked_list(archive, 1, k, random.Random(seed), n=k) == best[::-1]


def test_parents_are_drawn_uniformly_from_the_top_k():
    archive = archive_of([0.9, 0.1, 0.8, 0.7, 0.2])
    drawn = [migrate.one_of_top_k(archive, 1, 3, random.Random(i))[0].candidate for i in range(3000)]
    assert set(drawn) == {"c0", "c2", "c3"} and all(900 < drawn.count(c) < 1100 for c in set(drawn))


def test_greedy_replays_come_from_the_top_k_with_their_own_tokens(folder_of):
    policy, archive = load(folder_of("tiny")), archive_of([0.9, 0.1, 0.8, 0.7, 0.2])
    archive.of["c0"].tokens = None              # warm start: rendered
    archive.of["c0"].candidate = "cement"
    rows = migrate.replay(policy, WordSearch(), archive, config_for(folder_of("tiny"), n_greedy=3, top_k=3), random.Random(0))
    assert sorted(r.score for r in rows) == [0.7, 0.8, 0.9] and all(r.origin == "greedy" for r in rows)
    of = {r.candidate: r.tokens for r in rows}
    assert of["c2"] == [2] and policy.tokenizer.decode(of["cement"]) == "cement <eos>"
    assert not migrate.replay(policy, WordSearch(), Archive(), config_for(folder_of("tiny"), n_greedy=3), random.Random(0))


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 130), st.integers(0, 9))
def test_islands(scores, step, seed):
    """Each candidate is born on one island; every 40 steps the best 5% of each, at least one, reach both neighbours."""
    steps = sorted(random.Random(seed).randrange(step) for _ in scores)
    archive = archive_of(scores, steps)
    members = migrate.islands(archive, step)
    born = [{e.candidate for e in archive.of.values() if (e.index if e.step == 0 else e.step) % 4 == i} for i in range(4)]
    assert set().union(*({e.candidate for e in m} for m in members)) == set(archive.of)
    for i in range(4):
        here = {e.candidate for e in members[i]}
        assert born[i] <= here
        if step <= 40:
            assert here == born[i]
    if 40 < step <= 80 and not any(s >= 40 for s in steps):
        for i in range(4):
            sent = sorted((archive.of[c] for c in born[i]), key=lambda e: (-e.score, e.index))[:max(1, len(born[i]) // 20)]
            for neighbor in ((i - 1) % 4, (i + 1) % 4):
                assert {e.candidate for e in sent} <= {e.candidate for e in members[neighbor]}
    parent = migrate.island_parent(archive, step, 3, random.Random(seed))
    assert len(parent) == 1 and (parent[0] in members[step % 4] or not members[step % 4])


def test_islands_prefer_the_elite_four_times_in_five():
    archive = archive_of([0.1 * i for i in range(1, 9)], steps=[4] * 8)         # all on island 0; elite: c3..c7
    drawn = [migrate.island_parent(archive, 8, 3, random.Random(i))[0].candidate for i in range(2000)]
    outside = sum(c in ("c0", "c1", "c2") for c in drawn)
    assert set(drawn) == set(archive.of) and 320 < outside < 480


# -------------------------------------------------------------------------------------------- word search

@pytest.mark.parametrize("answer, words", [
    ("cement", ["cement"]), (" Cement.\n", ["cement"]), ('"cement"', ["cement"]), ("**Cement**", ["cement"]),
    ('["cement", "mortar"]', ["cement", "mortar"]), ('{"words": ["cement", "Mortar"]}', ["cement", "mortar"]),
    ('```json\n["cement"]\n```', ["cement"]), ('Sure! Here you are:\n```\n{"guess": "cement"}\n```\nGood luck', ["cement"]),
    ("<think>maybe [1] or \"gravel\"?</think>\n\ncement", ["cement"]), ("<think>endless", []),
    ("1. cement\n2. mortar", ["cement", "mortar"]), ("- cement\n- mortar", ["cement", "mortar"]),
    ("cement, mortar, lime", ["cement", "mortar", "lime"]), ('My guess would be "cement".', ["cement"]),
    ("My guess is: cement.", ["cement"]), ("The word is cement!", ["cement"]),
    ("I cannot help with that request.", []), ("", []), ("123", []), ("air base", []), ("naïve", []), ('["x1", "ice cream"]', []),
    ("{" * 5000, []), ("[" * 100_000, []),
])
def test_words_are_read_from_what_real_models_write(answer, words):
    assert tasks.words_in(answer) == words


@given(st.text(max_size=200) | st.text("[]{}\"',:`\n<think>/abc ", max_size=200))
def test_hostile_answers_never_raise_and_propose_only_words(text):
    task = WordSearch()
    for word in task.parse(text):
        assert re.fullmatch("[a-z]+", word) and task.parse(task.render(word)) == [word]
        [(_, score)] = task.score([word])
        assert 0 <= score.value <= 1 and (score.value < 1 or word == "computer")


def test_scores_are_cosines_and_only_the_target_is_worth_one():
    task = WordSearch(target="cement")
    score = dict(task.score(["cement", "concrete", "mortar", "poetry", "qqqq"]))
    assert score["cement"].value == 1.0 and task.solved(score["cement"]) and not task.solved(score["concrete"])
    assert score["concrete"].value > 0.5 > score["poetry"].value and score["mortar"].value > score["poetry"].value
    assert not score["qqqq"].valid and score["qqqq"].value == 0 and score["poetry"].valid


@given(st.integers(0, 10**6), st.sampled_from(tasks.PUBLISHED_WORDS))
def test_the_warm_start_never_contains_the_answer(seed, target):
    words = WordSearch(target=target).warm_start(seed)
    assert target not in words and len(set(words)) == 20 == len(words)
    assert words != WordSearch(target=target).warm_start(seed + 1)


def test_a_random_target_follows_the_seed_and_stays_out_of_prompts_and_settings():
    a, b = WordSearch(target="random", seed=1), WordSearch(target="random", seed=2)
    assert a.hidden == WordSearch(target="random", seed=1).hidden != b.hidden
    assert a.hidden not in json.dumps(dataclasses.asdict(a)) + a.prompt() + a.variation_prompt(["stone"])


def test_a_random_target_is_told_at_the_end_and_not_before(tmp_path, capsys):
    argv = ["--target", "random", "--seed", "3", "--steps", "2", "--out", str(tmp_path / "run")]
    migrate.main(argv)
    hidden, screen = WordSearch(target="random", seed=3).hidden, capsys.readouterr().out
    assert screen.count(hidden) == 1 and screen.index(hidden) > screen.index("no training" if "ns" in argv else "lr ")
    assert hidden not in (tmp_path / "run" / "config.json").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["target"] == hidden


def test_molecule_policy_reads_the_parent_of_the_very_prompts():
    """The tiny policy's chat template keeps the parent and drops the objective's words, which it does not know."""
    sys.path.insert(0, str(HERE / "tiny"))
    import pretrain
    tokenizer, task = pretrain.molecule_tokenizer(["CCO", "c1ccccc1O"] * 20, 100), Molecule()
    user, assistant = tokenizer.convert_tokens_to_ids([pretrain.USER, pretrain.ASSISTANT])
    assert pretrain.chat_ids(tokenizer, task.prompt()) == [user, assistant]
    for parents in (["c1ccccc1O"], ["CCO", "c1ccccc1O"]):
        ids = pretrain.chat_ids(tokenizer, task.variation_prompt(parents))
        assert ids[0] == user and ids[-1] == assistant and tokenizer.decode(ids[1:-1]) == "c1ccccc1O"
    every = "C[C@@H]1C/C=C\\\\C%10.[Na+]#$:*"
    assert tokenizer.unk_token_id not in tokenizer(every)["input_ids"]


def test_neighbours_of_molecules_are_valid_and_keep_the_core(tmp_path):
    import gzip
    sys.path.insert(0, str(HERE / "tiny"))
    import pretrain
    with open(HERE / "data" / "pmo_reference.csv", newline="") as file, gzip.open(tmp_path / "list.gz", "wt") as out:
        out.writelines(row["smiles"] + "\n" for row in list(csv.DictReader(file))[:60])
    prepared = pretrain.prepare_molecules(tmp_path / "list.gz", tmp_path)
    assert prepared == pretrain.prepare_molecules(tmp_path / "list.gz", tmp_path) and len(prepared) > 50
    similar = []
    for molecule, neighbours in prepared:
        assert "@" not in molecule and objectives.canonical(molecule) == molecule
        for neighbour in neighbours:
            assert neighbour != molecule and objectives.canonical(neighbour) == neighbour
            similar.append(objectives.similarity(Chem.MolFromSmiles(neighbour), molecule, "ECFP4"))
    assert len(similar) > 150 and 0.4 < sum(similar) / len(similar) < 0.8


def test_pretraining_sees_the_very_prompts_of_the_task():
    """Also for parents that are words of the prompt itself (meaning, word): only the slots may be filled."""
    sys.path.insert(0, str(HERE / "tiny"))
    import pretrain
    vocabulary = ["cement", "meaning", "mortar", "word"]
    tokenizer = pretrain.word_tokenizer(vocabulary)
    examples = pretrain.WordExamples(tokenizer, vocabulary, torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1), None)
    for parents in ([[0], [1], [3]], [[1, 3], [2, 0]]):
        expected = [pretrain.chat_ids(tokenizer, WordSearch().variation_prompt([vocabulary[i] for i in row]))
                    for row in parents]
        assert examples.prompts(torch.tensor(parents)).tolist() == expected


def test_a_sentence_encoder_scores_by_mean_pooling(tmp_path):
    """--embedder on a real (small, random) BERT: equal to one sentence at a time, so padding takes no part in the mean."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "a", "an", "?", *"cement mortar airbase".split()]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2,
                                                   num_attention_heads=2, intermediate_size=32)).save_pretrained(tmp_path)
    task = WordSearch(target="cement", embedder=str(tmp_path))
    tokenizer, model = tasks.load_embedder(str(tmp_path))
    one = {w: model(**tokenizer(tasks.question(w), return_tensors="pt")).last_hidden_state[0].mean(0).detach()
           for w in ("cement", "mortar", "airbase", "unheardof")}
    score = dict(task.score(["mortar", "airbase", "unheardof", "cement"]))
    for word in ("mortar", "airbase", "unheardof"):
        expected = max(0.0, torch.cosine_similarity(one[word], one["cement"], dim=0).item())
        assert score[word].value == pytest.approx(min(expected, 0.9999), abs=1e-5)
    assert score["cement"].value == 1.0


def test_the_bundled_policy_knows_words(folder_of):
    """In the vocabulary, hardly ever the same twice, and neighbours nearer to their parent than chance."""
    policy, task = load(folder_of("tiny"), lora_targets="q_proj,v_proj"), WordSearch()
    for p in policy.lora.values():
        p.data.zero_()
    row, table = tasks.word_vectors()
    words = [task.parse(policy.tokenizer.decode(c, skip_special_tokens=True))
             for c in migrate.sample(policy, migrate.encode_prompt(policy, task.prompt()), 500, 0)]
    words = [w[0] for w in words if w and w[0] in row]
    assert len(words) > 0.97 * 500 and len(set(words)) > 450
    near = []
    for parent in ("cement", "computer", "skillet", "anger"):
        ids = migrate.encode_prompt(policy, task.variation_prompt([parent]))
        guesses = [policy.tokenizer.decode(c, skip_special_tokens=True) for c in migrate.sample(policy, ids, 200, 0)]
        assert sum(g in row for g in guesses) > 0.95 * 200 and guesses.count(parent) < 30
        near += [table[row[g]] @ table[row[parent]] for g in guesses if g in row and g != parent]
    chance = [table[row[a]] @ table[row[b]] for a, b in zip(words, words[1:])]
    assert sum(near) / len(near) > sum(chance) / len(chance) + 0.05


# ---------------------------------------------------------------------------------------------- molecules

def test_objectives_equal_an_independent_implementation():
    """Wrong fingerprints (bits for counts, radius), modifiers or means: 242 molecules against PyTDC's values."""
    with open(HERE / "data" / "pmo_reference.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 200
    for name, objective in objectives.OBJECTIVES.items():
        reference = [float(row[name]) for row in rows]
        assert [objective.score(Chem.MolFromSmiles(row["smiles"])) for row in rows] == pytest.approx(reference, abs=1e-6), name
        assert max(reference) > 0.25, f"{name}: the fixture says nothing about high scores"


@pytest.mark.parametrize("answer, smiles", [
    ("OCC", "CCO"), ("```smiles\nOCC\n```", "CCO"), ('{"smiles": "OCC"}', "CCO"), ('["CCN", "OCC"]', "CCO"),
    ("I propose `OCC`.", "CCO"), ("**OCC**", "CCO"), ("SMILES: OCC", "CCO"), ("<think>CCN</think>\nOCC", "CCO"),
    ("[nH]1cccc1", "c1cc[nH]c1"), ("[Na+].[Cl-]", "[Cl-].[Na+]"), ("C[C@H](N)C(=O)O", "C[C@H](N)C(=O)O"),
    ("I cannot help you", None), ("", None), ("C1CC", None), ("c1cccc1", None), ("C" * 81, None), ("(" * 5000, None)])
def test_molecules_are_read_from_what_models_write(answer, smiles):
    assert Molecule().parse(answer) == ([smiles] if smiles else [])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=400), st.text("CNOFSPclnosBr[]()=#$:/\\\\@+-.%*0123456789H", max_size=60)))
def test_hostile_smiles_never_raise_and_canonical_forms_are_fixed_points(text):
    task = Molecule(target="fexofenadine_mpo")
    for candidate in task.parse(text):
        assert task.parse(candidate) == [candidate]
        (again, score), = tasks.checked_scores(task, [candidate])
        assert again == candidate and 0 <= score.value <= 1


def test_prompts_of_objectives_never_name_the_answer():
    names = [name.lower() for name in vars(objectives) if name.isupper()] + [name.split("_")[0] for name in objectives.OBJECTIVES]
    names = [n for n in names if n not in ("qed", "deco", "scaffold", "sulfone", "quinazoline", "benzothiazole", "isomers")]
    for target in objectives.OBJECTIVES:
        text = (Molecule(target=target).prompt() + Molecule(target=target).variation_prompt(["CCO", "CCN"])).lower()
        assert not [n for n in names if n in text], target


HANGING_DOCKING = """import os, subprocess, sys, time
sys.path.insert(0, {here!r})
import docking
docking.die_with(int(os.environ["MIGRATE_PARENT"]))
child = subprocess.Popen(["sleep", "600"])
open({pids!r}, "a").write(f"{{os.getpid()}} {{child.pid}}\\n")
while True:
    time.sleep(1)
"""


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("how", ["time limit", "search ends", "search killed"])
def test_a_killed_docking_leaves_no_process_behind(how, tmp_path, monkeypatch):
    """Vina is a grandchild: killing the child alone leaves it running for minutes."""
    pids, script = tmp_path / "pids", tmp_path / "hang.py"
    script.write_text(HANGING_DOCKING.format(here=str(HERE), pids=str(pids)))
    monkeypatch.setattr(docking, "__file__", str(script))
    pids.touch()

    def started():
        return [int(pid) for line in pids.read_text().splitlines() for pid in line.split()]
    if how == "time limit":
        (smiles, result), = docking.dock_all("DRD2", ["CCO"], seconds=2)
        assert (smiles, result) == ("CCO", {"reason": "not docked within 2 s"})
    elif how == "search ends":
        with pytest.raises(KeyboardInterrupt):
            def interrupt(_):
                if len(started()) == 4:
                    raise KeyboardInterrupt
            monkeypatch.setattr(docking.time, "sleep", interrupt)
            list(docking.dock_all("DRD2", ["CCO", "CCN", "CCC"], seconds=600, workers=2))
        monkeypatch.undo()
    else:
        code = (f"import sys; sys.path.insert(0, {str(HERE)!r}); import docking; docking.__file__ = {str(script)!r}; "
                "list(docking.dock_all('DRD2', ['CCO'], 600))")
        search = subprocess.Popen([sys.executable, "-c", code])
        assert wait_until(lambda: len(started()) == 2)
        search.kill()
        search.wait()
    assert len(started()) == (4 if how == "search ends" else 2)
    assert wait_until(lambda: not any(map(alive, started())))


def test_a_broken_docking_installation_stops_the_run_and_a_crash_is_the_molecules_own(tmp_path, monkeypatch):
    script = tmp_path / "dock.py"
    monkeypatch.setattr(docking, "__file__", str(script))
    script.write_text("import os; os.abort()")
    assert dict(docking.dock_all("DRD2", ["CCO"], 60)) == {"CCO": {"reason": "docking ended with status -6"}}
    script.write_text(f"import sys; print('no obabel'); sys.exit({docking.BROKEN})")
    with pytest.raises(docking.DockingBroken, match="no obabel"):
        list(docking.dock_all("DRD2", ["CCO"], 60))
    monkeypatch.setattr(docking, "missing", lambda: None)
    task = Molecule(target="DRD2")
    with pytest.raises(tasks.ScorerFailed, match="no obabel"):
        list(tasks.checked_scores(task, ["CCO"]))


def test_no_smiles_reaches_a_shell():
    """dockstring hands the string to a shell in double quotes; $( ) is a quadruple bond and a branch."""
    assert Molecule().parse("[W]$(C)C") == [] or "$" in Molecule().parse("[W]$(C)C")[0]
    for smiles in ("[W]$(C)C", "C`id`", 'C"; id; "', "C C"):
        assert "reason" in docking.dock("DRD2", smiles)


@pytest.mark.skipif(docking.missing() is not None, reason=f"not installed: {docking.missing()}")
def test_a_real_docking():
    """Slow (half a minute): Vina docks ethanol into DRD2; a salt cannot be prepared and says so."""
    task = Molecule(target="DRD2")
    scores = dict(tasks.checked_scores(task, ["CCO", "[Cl-].[Na+]"]))
    info = scores["CCO"].info
    assert -5 < info["vina"] < -1.5 and info["qed"] == pytest.approx(0.4068, abs=1e-3)
    assert scores["CCO"].value == pytest.approx(1 - (info["vina"] + 1 - info["qed"] + 12) / 10)
    assert not scores["[Cl-].[Na+]"].valid and "fragments" in scores["[Cl-].[Na+]"].info["reason"]


FAKE_DOCKING = """import json, sys
print(json.dumps({{"vina": -5.0 - 0.1 * sys.argv[2].count("C"), "qed": 0.5}}))
with open({log!r}, "a") as file: file.write(sys.argv[2] + "\\n")
"""


def test_a_resumed_run_never_docks_twice(tmp_path, monkeypatch):
    """The real policy and search; only Vina is replaced. The run is interrupted in the middle of a step."""
    script, log = tmp_path / "dock.py", tmp_path / "docked"
    script.write_text(FAKE_DOCKING.format(log=str(log)))
    monkeypatch.setattr(docking, "__file__", str(script))
    monkeypatch.setattr(docking, "missing", lambda: None)
    argv = ["--task", "molecule", "--target", "DRD2", "--budget", "12", "--out", str(tmp_path / "r")]
    log_evaluation = runs.Run.log_evaluation

    landed = []

    def interrupted(self, line):
        log_evaluation(self, line)
        landed.append(line)
        if len(landed) == 5:
            raise KeyboardInterrupt
    monkeypatch.setattr(runs.Run, "log_evaluation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        migrate.main(argv)
    paid = {e["candidate"] for e in runs.read_jsonl(tmp_path / "r" / "evals.jsonl")}
    monkeypatch.setattr(runs.Run, "log_evaluation", log_evaluation)
    before = log.read_text().split()
    migrate.main([*argv, "--resume"])
    again = log.read_text().split()[len(before):]
    evals = runs.read_jsonl(tmp_path / "r" / "evals.jsonl")
    assert paid and not paid & set(again) and len(again) == len(set(again))
    assert len(evals) == 12 == len({e["candidate"] for e in evals}) and all("vina" in e["info"] for e in evals if e["valid"])


def test_the_bundled_policy_knows_molecules(folder_of):
    """Valid, hardly ever the same twice, and neighbours much nearer to their parent than chance."""
    task = Molecule()
    policy = migrate.load_policy(migrate.resolve({"task": "molecule"}, task), str(HERE / "tiny" / "molecule"))

    def draw(prompt, n):
        completions = migrate.sample(policy, migrate.encode_prompt(policy, prompt), n, 0)
        return [c for tokens in completions for c in task.parse(policy.tokenizer.decode(tokens, skip_special_tokens=True))]

    def mean_similarity(pairs):
        similar = [objectives.similarity(Chem.MolFromSmiles(a), b, "ECFP4") for a, b in pairs]
        return sum(similar) / len(similar)
    molecules = draw(task.prompt(), 200)
    assert len(molecules) > 0.75 * 200 and len(set(molecules)) > 0.98 * len(molecules)
    neighbours = [(parent, n) for parent in molecules[:10] for n in draw(task.variation_prompt([parent]), 20)]
    assert len(neighbours) > 0.75 * 200
    assert mean_similarity(neighbours) > mean_similarity(zip(molecules, molecules[1:])) + 0.15


def test_graph_ga_breeds_better_molecules_and_scores_none_twice():
    """The yardstick works: sane molecules come out of its operators, and generations improve."""
    sys.path.insert(0, str(HERE / "examples"))
    import graph_ga
    with open(HERE / "data" / "pmo_reference.csv", newline="") as file:
        start = [c for row in csv.DictReader(file) if (c := objectives.canonical(row["smiles"]))][:60]
    summary, lines = graph_ga.search("qed", 0, 250, start)
    scores = [line["score"] for line in lines]
    assert len({line["candidate"] for line in lines}) == len(lines) == 250 and all(line["valid"] for line in lines)
    assert sum(sorted(scores)[-10:]) > sum(sorted(scores[:len(start)])[-10:]) + 0.15
    assert summary["best_score"] == max(scores)


def test_auc_of_the_top_ten():
    """By hand, k = 2, budget 400: 0.2 at 100 evaluations, 0.5 at 200, the end. Trapezoids 10 and 35, then 200 x 0.5."""
    assert report.auc_top([0.2] * 100 + [0.6, 0.4] + [0.0] * 98, 400, k=2) == pytest.approx(145 / 400)
    assert report.auc_top([0.0] * 399 + [1.0], 400, k=2) == pytest.approx(100 * 0.5 / 2 / 400)
    assert report.auc_top([], 400) == 0


def test_molecule_table_of_several_objectives_and_of_one():
    """Means over seeds and over the objectives that every method has; the gain in percent over the pairs that both have."""
    def run(target, method, seed, auc):
        return {"protocol": "novelty, 1000 evaluations", "target": target, "method": method, "seed": seed, "auc": auc}
    rows = [run("qed", "migrate", 42, 0.9), run("qed", "migrate", 43, 0.7), run("qed", "ns", 42, 0.5), run("qed", "ns", 43, 0.75),
            run("median1", "migrate", 42, 0.3), run("median1", "ns", 42, 0.25), run("deco_hop", "migrate", 42, 0.6)]
    text = report.molecule_table(rows, "migrate")
    assert "| deco_hop | 0.600 |  |\n| median1 | 0.300 | 0.250 |\n| qed | 0.800 | 0.625 |\n" in text
    assert "| mean of 2 | 0.550 | 0.438 |\n| seeds | 2 | 2 |\n" in text
    assert "migrate (novelty) against ns (novelty): +26.7% [+20.0, +28.0], 2 objectives, 3 pairs" in text     # 1.9 / 1.5
    alone = report.molecule_table(rows[:4], "migrate")
    assert "| migrate (novelty) | 0.800 [0.700, 0.900] | 2 |\n| ns (novelty) | 0.625 [0.500, 0.750] | 2 |\n" in alone
    assert "migrate (novelty) against ns (novelty): +28.0% (by seed: +80.0, -6.7)" in alone


# ---------------------------------------------------------------------------------------------- sandbox

GRID = [[1, 2], [3, 4]]
SANE = "import numpy as np\ndef transform(grid): return np.rot90(grid)"

# What a model may write by malice or by accident. {dir}: a folder that the test watches; {pid}: the test's own process.
HOSTILE = {
    "endless loop": "def transform(g):\n while True: pass",
    "loop that swallows everything": "def transform(g):\n while True:\n  try:\n   while True: pass\n  except BaseException: pass",
    "signals ignored": "import signal\ndef transform(g):\n for s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except BaseException: pass\n while True: pass",
    "a C call that takes forever": "def transform(g): return [[len(str(7 ** (10 ** 8)))]]",
    "a regex that takes forever": "import re\ndef transform(g): return re.match('(a+)+$', 'a' * 64 + 'b') or g",
    "fork bomb": "import os\ndef transform(g):\n while True:\n  try: os.fork()\n  except OSError: pass",
    "fork and survive": "import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(600)\ndef transform(g): return g",
    "threads": "import threading, time\ndef transform(g):\n for _ in range(99): threading.Thread(target=time.sleep, args=(600,)).start()\n return g",
    "subprocess": "import subprocess\ndef transform(g):\n subprocess.Popen(['sleep', '600']); return g",
    "os.system": "import os\ndef transform(g):\n os.system('touch {dir}/made'); return g",
    "exec": "import os\ndef transform(g): os.execv('/bin/sleep', ['sleep', '600'])",
    "memory bomb": "def transform(g):\n x = []\n while True: x.append(bytearray(10 ** 8))",
    "numpy memory bomb": "import numpy as np\ndef transform(g): return np.ones((10 ** 6, 10 ** 6))",
    "deep recursion": "def f(x): return f([x])\ndef transform(g): return f(g)",
    "C stack": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return f(x)\ndef transform(g): return f(g)",
    "a crash": "import ctypes\ndef transform(g): ctypes.string_at(0)",
    "huge output": "def transform(g): return [[1] * 10 ** 6] * 10 ** 6",
    "huge output past the checks": "import os\ndef transform(g):\n while True: os.write(3, b'[' * 10 ** 6)",
    "write a file": "def transform(g):\n open('{dir}/made', 'w').write('x'); return g",
    "write a file by number": "import ctypes\ndef transform(g):\n c = ctypes.CDLL(None); f = c.syscall(2, b'{dir}/made', 65, 511); c.write(f, b'x', 1); return g",
    "write by openat": "import ctypes\ndef transform(g):\n c = ctypes.CDLL(None); f = c.syscall(257, -100, b'{dir}/made', 65, 511); c.write(f, b'x', 1); return g",
    "truncate by a descriptor left open": "import os\ndef transform(g):\n for f in range(64):\n  try: os.ftruncate(f, 0)\n  except OSError: pass\n return g",
    "delete a file": "import os\ndef transform(g):\n os.unlink('{dir}/victim'); return g",
    "rename": "import os\ndef transform(g):\n os.rename('{dir}/victim', '{dir}/made'); return g",
    "read a file": "def transform(g): return [[int(open('{dir}/victim').read())]]",
    "read the environment": "import os\ndef transform(g): return [[int(os.environ['SECRET'])]]",
    "read the parent's environment": "def transform(g): return [[int(open('/proc/{pid}/environ').read().split('SECRET=')[1][0])]]",
    "read the server's requests": "import os\ndef transform(g):\n for f in range(64):\n  try:\n   if os.read(f, 9): return [[7]]\n  except OSError: pass",
    "a socket": "import _socket\ndef transform(g):\n s = _socket.socket(); s.connect(('127.0.0.1', {port})); return [[7]]",
    "a socket by number": "import ctypes\ndef transform(g): return [[7 if ctypes.CDLL(None).socket(2, 1, 0) >= 0 else 0]]",
    "kill the parent": "import os\ndef transform(g):\n os.kill(os.getppid(), 9); return g",
    "kill everything": "import os, ctypes\ndef transform(g):\n ctypes.CDLL(None).kill(-1, 9); os.killpg(0, 9); return g",
    "kill the test": "import ctypes\ndef transform(g):\n ctypes.CDLL(None).syscall(62, {pid}, 9); return g",
    "ptrace": "import ctypes, os\ndef transform(g): return [[7 if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 else 0]]",
    "at exit": "import atexit, os\natexit.register(os.system, 'touch {dir}/made')\ndef transform(g): return g",
    "monkeypatched numpy": "import numpy as np\nnp.rot90 = lambda g: [[7]]\nnp.asarray = lambda g: [[7]]\ndef transform(g): return g",
    "monkeypatched builtins": "import builtins, json, os\nbuiltins.len = lambda x: 7\njson.dumps = lambda x: '7'\nos.write = None\ndef transform(g): return g",
    "subclasses walk": "def transform(g):\n for c in ().__class__.__base__.__subclasses__():\n  if c.__name__ == '_wrap_close': c.__init__.__globals__['system']('touch {dir}/made')\n return g",
    "hostile __eq__ and __array__": "class A:\n def __eq__(self, o): return True\n def __array__(self, *a, **k):\n  while True: pass\ndef transform(g): return A()",
    "an int that is none": "class I(int):\n def __eq__(self, o): return True\n def __repr__(self): return '7]], \"x\": [['\ndef transform(g): return [[I(99)]]",
    "forged answers": "import os\nos.write(3, b'{{\"output\": [[true]]}}\\n{{\"output\": [[1e308]]}}\\n' + b'[' * 99999)\nos._exit(0)",
    "exits": "import sys\ndef transform(g): sys.exit(0)",
    "interrupts": "def transform(g): raise KeyboardInterrupt",
    "raises something strange": "class E(BaseException):\n def __str__(self):\n  while True: pass\ndef transform(g): raise E",
}
WRONG_RESULTS = {
    "a string": "'x'", "None": "None", "a number": "7", "three dimensions": "[[[1]]]", "ragged": "[[1], [1, 2]]", "empty": "[]",
    "NaN": "[[float('nan')]]", "infinite": "[[float('inf')]]", "negative": "[[-1]]", "ten": "[[10]]", "half": "[[0.5]]",
    "complex": "[[1j]]", "text": "[['1']]", "object": "[[object()]]", "generator": "(row for row in g)", "a type": "list",
    "too large": "[[1] * 65]", "a date": "np.array([['2020']], dtype='M8')"}


@pytest.fixture(scope="module")
def sandbox():
    with warnings.catch_warnings(record=True) as said, Sandbox(Limits(seconds=1.0, cpu_seconds=1), workers=2, check=False) as s:
        warnings.simplefilter("always")
        if not s.strict:
            pytest.skip(f"no seccomp on this system: {said}")
        yield s


def processes_of(server) -> set[str]:
    """Processes in the session of a server of the sandbox, and whatever has left it but keeps its environment."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = stat.read_text().rsplit(")", 1)[1].split()[3]
            marked = b"OPENBLAS_NUM_THREADS=1\0" in (stat.parent / "environ").read_bytes()
        except OSError:
            continue
        if int(session) == server.pid or marked and b"sandbox" in (stat.parent / "cmdline").read_bytes():
            found.add(stat.parent.name)
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_have_no_effect(name, sandbox, tmp_path, monkeypatch):
    """Asserted on what happens outside: files, processes, secrets, the next program; never on how the program ends."""
    monkeypatch.setenv("SECRET", "7")
    (tmp_path / "victim").write_text("7")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        program = HOSTILE[name]
        for what, value in dict(dir=tmp_path, pid=os.getpid(), port=listening.getsockname()[1]).items():
            program = program.replace(f"{{{what}}}", str(value))
        program = program.replace("{{", "{").replace("}}", "}")
        before = set().union(*map(processes_of, sandbox.servers))
        started = time.monotonic()
        (_, result), = sandbox.run([program], [GRID])
        assert time.monotonic() - started < 5
        assert result.outputs in ([None], [GRID], [[[0]]]), result
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert wait_until(lambda: set().union(*map(processes_of, sandbox.servers)) <= before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["victim"] and (tmp_path / "victim").read_text() == "7"
    assert list(Path(sandbox.folder.name).iterdir()) == []
    assert dict(sandbox.run([SANE] * 4, [GRID])) == dict.fromkeys(range(4), sandbox_module.Result([[[2, 4], [1, 3]]]))


@pytest.mark.parametrize("name", WRONG_RESULTS)
def test_what_is_no_grid_is_no_output(name, sandbox):
    (_, result), = sandbox.run([f"import numpy as np\ndef transform(g): return {WRONG_RESULTS[name]}"], [GRID])
    assert result.outputs == [None] and result.error


def test_the_sandbox_gives_what_programs_return(sandbox):
    """A failure on one input leaves the others; bool and whole floats count; the input may be modified in place."""
    program = "def transform(g):\n g[0, 0] = 9\n return g if g.shape == (2, 2) else 1 / 0"
    (_, result), = sandbox.run([program], [GRID, [[1]], GRID])
    assert result.outputs == [[[9, 2], [3, 4]], None, [[9, 2], [3, 4]]] and "ZeroDivisionError" in result.error
    random_one = "import random, numpy as np\ndef transform(g): return [[random.randrange(10), np.random.randint(10)]]"
    answers = {str(result.outputs) for _, result in sandbox.run([random_one] * 6, [GRID])}
    assert len(answers) == 1        # chance is the same chance in every run
    for cast in ("g > 2", "g * 1.0", "g.astype('uint8')", "g.tolist()", "[tuple(row) for row in g]"):
        assert next(sandbox.run([f"def transform(g): return {cast}"], [GRID]))[1].error == ""


def test_leaving_a_run_early_does_not_mix_up_answers(sandbox):
    for _ in sandbox.run([SANE] * 5, [GRID]):
        break
    assert next(sandbox.run(["def transform(g): return [[5]]"], [GRID]))[1].outputs == [[[5]]]


def test_the_main_process_keeps_its_random_state(sandbox):
    random.seed(5)
    torch.manual_seed(5)
    states = random.getstate(), torch.get_rng_state()
    list(sandbox.run([SANE, HOSTILE["monkeypatched numpy"]], [GRID]))
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


@pytest.mark.parametrize("program, reason", [
    ("import os\ndef transform(g): return g", "imports os"), ("from subprocess import run\ndef transform(g): return g", "subprocess"),
    ("def transform(g): return eval('g')", "eval"), ("def transform(g): return g.__class__", "__class__"),
    ("def transform(g) return g", "SyntaxError"), ("def f(g): return g", "no function transform"), ("x" * 30_000, "longer"),
    ("(" * 5000, "no Python"), ("def transform(g): return g\0", "no Python"), (SANE, None),
    ("# rotate it\nfrom collections import Counter\ndef transform(grid):\n    return grid.copy()", None)])
def test_the_obvious_is_refused_before_it_runs(program, reason):
    refused = sandbox_module.refuse(program)
    assert refused is None if reason is None else reason in refused


def test_without_seccomp_it_is_said_loudly_and_limits_remain(tmp_path):
    """The same file on a system that has no such filter: a copy that believes itself to be on another platform."""
    copy = tmp_path / "sandbox_elsewhere.py"
    copy.write_text((HERE / "sandbox.py").read_text().replace('sys.platform != "linux"', 'sys.platform != "plan9"'))
    spec = importlib.util.spec_from_file_location("sandbox_elsewhere", copy)
    module = sys.modules["sandbox_elsewhere"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.warns(UserWarning, match="seccomp"):
        elsewhere = module.Sandbox(module.Limits(seconds=1.0, cpu_seconds=1), workers=1)
    with elsewhere:
        assert next(elsewhere.run([SANE], [GRID]))[1].outputs == [[[2, 4], [1, 3]]]
        assert next(elsewhere.run([HOSTILE["endless loop"]], [GRID]))[1].outputs == [None]


def test_a_prelude_is_there_for_programs_under_its_name(tmp_path):
    (tmp_path / "common.py").write_text("import numpy as np\ndef turn(g): return np.rot90(g)\nclass Color: BLACK = 0\n")
    with Sandbox(prelude=str(tmp_path / "common.py"), workers=1) as s:
        for start in ("from common import *\n", "import common\nturn = common.turn\n", ""):
            assert next(s.run([start + "def transform(g): return turn(g)"], [GRID]))[1].outputs == [[[2, 4], [1, 3]]]
    (tmp_path / "broken.py").write_text("import nothing_of_the_kind")
    with pytest.raises(RuntimeError, match="broken.py cannot be imported: ModuleNotFoundError"):
        Sandbox(prelude=str(tmp_path / "broken.py"), workers=1)


# -------------------------------------------------------------------------------------------------- ARC

ROTATE = "# turn it by half\nimport numpy as np\n\ndef transform(grid):\n    return np.rot90(grid, 2)"


def write_arc(path: Path, rule, n_train=2, n_test=1, answer=True, size=2) -> str:
    grids = [(np.arange(size * size).reshape(size, size) + i) % 10 for i in range(n_train + n_test)]
    pairs = [{"input": g.tolist(), "output": rule(g).tolist()} for g in grids]
    test = [pair if answer else {"input": pair["input"]} for pair in pairs[n_train:]]
    path.write_text(json.dumps({"train": pairs[:n_train], "test": test}))
    return str(path)


@pytest.mark.parametrize("output, score", [
    ([[1, 2], [3, 4]], 1), ([[1, 2], [3, 0]], 0.75), ([[1, 2]], 0.5), ([[1], [3]], 0.5), ([[0]], 0), ([[1, 2, 0], [3, 4, 0]], 0),
    ([[1, 2], [3, 4], [5, 6]], 0), (None, 0)])
def test_pair_scores_by_hand(output, score):
    """A larger output must not score, however right its corner is; what a smaller one lacks is wrong."""
    assert tasks.pair_score(output, [[1, 2], [3, 4]]) == score


@pytest.mark.parametrize("answer, program", [
    (f"Sure.\n```python\n{ROTATE}\n```\nThat is it.", ROTATE), (f"```\n{ROTATE}\n```", ROTATE), (ROTATE, ROTATE),
    (f"I think:\n{ROTATE}", ROTATE), (f"```python\nx = 1\n```\n```py\n{ROTATE}   \n```", ROTATE),
    (f"<think>```python\ndef transform(g): return 1\n```</think>{ROTATE}", ROTATE), (f"```python\n{ROTATE}", ROTATE),
    ("no program", None), ("```python\nprint(1)\n```", None), ("", None), ("<think>" + ROTATE, None)])
def test_programs_are_read_from_what_models_write(answer, program):
    assert tasks.Arc().parse(answer) == ([program] if program else [])


def test_arc_scores_a_real_task_in_the_sandbox():
    """3c9b0459 turns grids by half: the right program solves it; invalid means that it works on no training input."""
    task = tasks.Arc(target="3c9b0459")
    other = "def transform(grid): return grid"
    scores = dict(tasks.checked_scores(task, [ROTATE, other, "def transform(grid): return 1 / 0", "import os\ndef transform(g): return g"]))
    assert scores[ROTATE] == Score(1.0, info={"predictions": [task.test[0][1]]}) and task.solved(scores[ROTATE])
    assert scores[other].valid and scores[other].value == pytest.approx(
        sum((np.array(a) == np.array(b)).mean() for a, b in task.train) / len(task.train))
    assert [s.valid for s in scores.values()].count(False) == 2
    assert any("imports os" in s.info.get("error", "") for s in scores.values())


@pytest.mark.parametrize("pairs", [
    [], 7, {"train": [], "test": [{"input": [[1]]}]}, {"train": [{"input": [[1]], "output": [[1]]}], "test": []},
    *({"train": [{"input": grid, "output": [[1]]}], "test": [{"input": [[1]]}]} for grid in
      ([[10]], [[True]], [[0.5]], [[1], [1, 2]], [[]], [], [1], None, "grid"))])
def test_a_file_that_is_no_arc_task_is_refused(pairs, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(pairs))
    with pytest.raises(UserError, match="is no ARC task in the public JSON format"):
        tasks.Arc(arc_file=str(tmp_path / "t.json"))


def test_no_prompt_holds_a_test_output():
    """The authors' training prompt leaked it. Every pair of every ARC-AGI-1 task is shown whole or not at all."""
    task = tasks.Arc(target="007bbfb7")
    for prompt in (task.prompt(), task.variation_prompt([ROTATE]), task.variation_prompt([ROTATE, ROTATE])):
        assert tasks.in_words(task.test[0][1]) not in prompt and tasks.in_words(task.test[0][0]) in prompt
        assert all(tasks.in_words(grid) in prompt for pair in task.train for grid in pair)


def test_prompts_fit_by_leaving_out_whole_pairs_largest_first():
    task = tasks.Arc(target="007bbfb7")
    task.train = [([[1] * n] * n, [[2] * n] * n) for n in (2, 9, 4)]
    whole = len(task.prompt())
    task.fits = lambda text: len(text) < whole
    assert tasks.in_words(task.train[1][0]) not in task.prompt() and "Example 2" in task.prompt() and "Example 3" not in task.prompt()
    task.fits = lambda text: False
    assert tasks.in_words(task.train[0][0]) in task.prompt() and "Example 2" not in task.prompt()


def test_the_vote_is_over_all_test_inputs_and_prefers_the_many_then_the_short(tmp_path):
    task = tasks.Arc(arc_file=write_arc(tmp_path / "t.json", lambda g: np.rot90(g, 2), n_test=2))
    truth, wrong, third = [o for _, o in task.test], [[[1]], [[1]]], [[[2]], [[2]]]

    def run(*votes):
        return task.conclude([(program, Score(1.0, info={"predictions": answer})) for program, answer in votes]
                             + [("loser", Score(0.9))])
    assert run() == {"solvers": 0, "answers": [], "pass@1": False, "pass@2": False, "oracle": False}
    assert run(("aa", wrong), ("b", truth))["answers"] == [truth, wrong]          # one vote each: the shortest program
    said = run(("a", wrong), ("b", wrong), ("cccc", truth))
    assert (said["pass@1"], said["pass@2"], said["oracle"], said["solvers"]) == (False, True, True, 3)
    said = run(("a", wrong), ("b", wrong), ("c", third), ("d", third), ("e", truth))
    assert (said["pass@1"], said["pass@2"], said["oracle"]) == (False, False, True)
    half = [truth[0], [[1]]]            # right on one test input only: not right
    assert run(("a", half))["oracle"] is False
    blind = tasks.Arc(arc_file=write_arc(tmp_path / "blind.json", lambda g: g, answer=False))
    assert blind.conclude([("a", Score(1.0, info={"predictions": [[[1]]]}))])["pass@1"] is None


def test_a_solved_arc_search_draws_on_for_the_vote(tmp_path, capsys, monkeypatch):
    """A policy that proposes one of four programs: two of them solve the training pair, one of these also the test."""
    path = write_arc(tmp_path / "t.json", lambda g: np.rot90(g, 2), n_train=1, n_test=1)
    monkeypatch.setitem(tasks.TASKS, "arc", FourPrograms)
    argv = ["--task", "arc", "--arc-file", path, "--model", "tiny", "--preset", "paper", "--seed", "1", "--out", str(tmp_path / "run")]
    migrate.main([*argv, "--after-solved", "64", "--lora-r", "4", "--max-new-tokens", "8"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["solved"] and summary["stop"] == "solved" and summary["solvers"] == 2
    assert summary["pass@2"] and summary["oracle"] and "pass@2 True" in capsys.readouterr().out
    solved_at = min(json.loads(line)["proposal"] for line in open(tmp_path / "run" / "evals.jsonl") if json.loads(line)["score"] == 1)
    assert 64 <= summary["proposals"] - solved_at < 64 + 2 * 15


class FourPrograms(tasks.Arc):
    """ARC for a policy that writes words: every word stands for one of four programs."""
    bundled = "wordsearch"
    PROGRAMS = ("def transform(g): return g", ROTATE, "def transform(g): return g[::-1, ::-1] if g.max() == 3 else g", "def transform(g): return g.T")

    def prompt(self):
        return WordSearch().prompt()

    def variation_prompt(self, parents):
        return WordSearch().variation_prompt(["stone"])

    def parse(self, completion):
        return [self.PROGRAMS[len(completion) % 4]] if completion else []


# ------------------------------------------------------------------------------------------------- forks

def test_entropic_advantages_by_hand():
    """One best of four: softmax puts q on it, KL = ln 4 + q ln q + (1-q) ln((1-q)/3) = ln 2 at q = 0.8107, so that
    exp(eta) = 3 q / (1-q) = 12.85; A = 12.85 / 1 - 1 for the best and 1 / ((12.85 + 2) / 3) - 1 for the others."""
    scores = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert discover.entropic_eta(scores) == pytest.approx(math.log(12.85), abs=1e-3)
    assert discover.entropic_advantages(scores).tolist() == pytest.approx([-0.798, 11.85, -0.798, -0.798], abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=16))
def test_entropic_advantages_are_finite_and_in_the_order_of_the_scores(ranks):
    scores = torch.tensor(ranks) / 50
    advantages, eta = discover.entropic_advantages(scores), discover.entropic_eta(scores)
    assert advantages.isfinite().all() and (advantages[scores.argsort()].diff() >= -1e-6).all()
    reachable = math.log(len(ranks) / ranks.count(max(ranks)))
    if reachable == 0:
        assert advantages.tolist() == [0.0] * len(ranks)
    else:
        assert discover.softmax_kl(eta, scores) == pytest.approx(min(math.log(2), 0.9 * reachable), abs=1e-6)
        assert torch.allclose(discover.entropic_advantages(scores / 7), advantages, rtol=1e-3)     # whatever the scale


def evaluation(index, step, candidate, score, parent=None):
    return Evaluation(index, step, 0, "neighbor" if parent else "warm-start", [parent] if parent else [], candidate, score,
                      True, [1])


def test_puct_by_hand():
    """A small tree: a, of score 0.2, was the parent of b (0.5) and c (0.42) in step 1. Priors are 1/6, 3/6 and 2/6.

    Steps 2 and 3 leave no child, so that it must be seen from the tree that both were b's:
    step 2: a 0.5 + 0.3 sqrt(2)/6/2 = 0.535   b 0.5 + 0.3 sqrt(2)/2 = 0.712     c 0.42 + 0.3 sqrt(2)/3 = 0.561
    step 3: a 0.5 + 0.3 sqrt(3)/6/3 = 0.529   b 0.5 + 0.3 sqrt(3)/2/2 = 0.630   c 0.42 + 0.3 sqrt(3)/3 = 0.593
    step 4: a 0.5 + 0.3 sqrt(4)/6/4 = 0.525   b 0.5 + 0.3 sqrt(4)/2/3 = 0.600   c 0.42 + 0.3 sqrt(4)/3 = 0.620
    """
    values = discover.puct([0.2, 0.5, 0.42], [0.5, None, None], [1, 0, 0], 1)
    assert values == pytest.approx([0.5354, 0.7121, 0.5614], abs=1e-4)
    archive = Archive()
    assert discover.puct_parent(archive, 1, 3, None) == []
    archive.add([evaluation(0, 0, "a", 0.2)])
    assert discover.puct_parent(archive, 1, 3, None)[0].candidate == "a"
    archive.add([evaluation(1, 1, "b", 0.5, "a"), evaluation(2, 1, "c", 0.42, "a")])
    assert [discover.puct_parent(archive, step, 3, None)[0].candidate for step in (2, 3, 4)] == ["b", "b", "c"]
    # every visit of b is one of a, which has the same Q and a third of the prior: a's turn never comes
    archive.of["c"].score = 0.21
    assert {discover.puct_parent(archive, step, 3, None)[0].candidate for step in range(2, 9)} == {"b"}


def test_puct_reads_its_tree_off_the_archive(tmp_path):
    """Catches a choice that depends on anything but the archive, after which a resumed run would be another one."""
    _, evals, _, _ = run(tmp_path / "r", method="discover", steps=12)
    ledger = [Evaluation(**e) for e in evals]
    chosen = {e.step: e.parents[0] for e in ledger if e.parents}
    assert len(set(chosen.values())) > 2
    for step, parent in chosen.items():
        archive = Archive([e for e in ledger if e.step < step][::-1], step)
        assert discover.puct_parent(archive, step, 1, None)[0].candidate == parent


def test_training_under_the_own_prompt_differs_in_the_prompt_alone(folder_of):
    """Without neighbours the rows give the very update of migrate.py; with them the gradient of
    - 1/G sum_i A_i mean_t log pi(o_it | own prompt), computed here row by row, without padding."""
    config, task = migrate.resolve(dict(method="migrate", lora_r=4, inner_iterations=1), Letters()), Letters()
    rows = [migrate.Row("on-policy", parents, tokens, "x", score=score, valid=True)
            for parents, tokens, score in ((["stone"], [5, 6], 0.1), (["cement"], [7, 1, 4], 0.5), ([], [8], 0.9))]

    def change(update):
        policy = migrate.load_policy(config, str(folder_of("llama3")))
        flat = lambda: torch.cat([p.detach().flatten() for p in policy.lora.values()])
        before = flat()
        update(policy, torch.optim.SGD(policy.lora.values()), rows, [9, 8, 7], 1.0, config)
        return flat() - before
    expected, own = change(migrate.update), functools.partial(ablations.own_prompt_update, task)
    assert torch.allclose(change(own), expected, atol=1e-6)
    for row in rows[:2]:
        row.origin = "neighbor"
    assert torch.equal(change(migrate.update), expected)

    policy = migrate.load_policy(config, str(folder_of("llama3")))
    for row, advantage in zip(rows, (-0.4, 0.0, 0.4)):
        prompt = migrate.encode_prompt(policy, task.variation_prompt(row.parents)) if row.parents else [9, 8, 7]
        log_probs = policy.model(torch.tensor([prompt + row.tokens])).logits[0].log_softmax(-1)
        (-advantage / 3 * log_probs[range(len(prompt) - 1, len(prompt) - 1 + len(row.tokens)), row.tokens].mean()).backward()
    by_row = -torch.cat([p.grad.flatten() for p in policy.lora.values()])
    assert torch.cosine_similarity(change(own), by_row, dim=0) > 0.9999 > torch.cosine_similarity(change(own), expected, dim=0)


def test_advantages_by_the_standard_deviation_by_hand():
    assert ablations.standardised(torch.tensor([0.0, 0.2, 0.4])).tolist() == pytest.approx([-1, 0, 1])


# ------------------------------------------------------------------------------------------- many searches

@pytest.mark.parametrize("flags, expected", [
    ("--task wordsearch --target mob --seed 3 --preset tiny --proposals 60 --resume --out a/--b", "migrate"),
    ("--n-on-policy 4 --n-greedy 1 --n-neighbors 5 --lr 0 --resume --out a", "migrate (4,1,5) lr=0"),
    ("--no-mask-zero --out=a --top-k=10", "migrate no-mask-zero top-k=10"),
    ("--budget 10000 --after-solved 10000", "migrate"),
])
def test_a_table_tells_runs_of_different_settings_apart(flags, expected):
    assert report.label("migrate", flags.split()) == expected


def test_runs_of_a_csv_file_are_paired_with_runs_of_a_folder():
    """Seeds are text in the one and numbers in the other."""
    rows = [{"protocol": "p", "method": m, "target": "a", "seed": seed, "v": v} for m, seed, v in (("x", "42", 3), ("y", 42, 1))]
    assert report.difference(rows, ("p", "p"), ("x", "y"), lambda r: r["v"]) == "+2.0 [+2.0, +2.0]"


QUICK = """
import json, sys
from pathlib import Path

def main(argv):
    out = Path(argv[argv.index("--out") + 1])
    print("searching", argv)
    if "--break" in argv:
        raise ValueError("broken")
    out.mkdir(parents=True)
    (out / "summary.json").write_text(json.dumps({}))
"""


@pytest.fixture
def searches(tmp_path):
    """Four lines for sweep.py, the third of which fails."""
    (tmp_path / "quick.py").write_text(QUICK)
    return [f"{tmp_path / 'quick.py'} --n {n} {'--break' if n == 2 else ''} --out {tmp_path / 'runs' / 'deep' / str(n)}"
            for n in range(4)]


def test_a_sweep_runs_what_is_missing_and_tells_what_failed(searches, tmp_path):
    def swept():
        return subprocess.run([sys.executable, HERE / "sweep.py", "--out", tmp_path / "runs", "--jobs", "2"], text=True,
                              input="\n".join(searches), capture_output=True)
    first = swept()
    runs_folder = tmp_path / "runs" / "deep"
    assert first.returncode == 1 and "4 searches, 0 of them finished already" in first.stdout
    assert f"not finished (see {runs_folder / '2.log'})" in first.stderr and "1 of 4" in first.stderr
    assert sorted(p.parent.name for p in runs_folder.rglob("summary.json")) == ["0", "1", "3"]
    assert "ValueError: broken" in (runs_folder / "2.log").read_text()
    searches[2] = searches[2].replace("--break", "")
    second = swept()
    assert second.returncode == 0 and "3 of them finished already" in second.stdout
    assert (runs_folder / "0.log").read_text().count("searching") == 1       # and nothing ran twice


def test_slurm_gets_one_array_whose_tasks_cover_the_searches(searches, tmp_path, monkeypatch):
    """With programs that stand in for SLURM's (the real ones: README): what is submitted is run, task by task."""
    (tmp_path / "bin").mkdir()
    for name, code in (("squeue", "cat queue"), ("sbatch", "printf '%s\\n' \"$@\" > submitted")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{code}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "queue").write_text("12_3 all migrate-1 me PD\n")
    (tmp_path / "runs").mkdir()
    with pytest.raises(sweep.SweepError, match="are in the queue"):         # never twice into the same folders
        sweep.slurm(searches, tmp_path / "runs", None)
    (tmp_path / "queue").write_text("")
    sweep.slurm(searches, tmp_path / "runs", 2)
    submitted = (tmp_path / "submitted").read_text().splitlines()
    assert "--wait" in submitted and submitted[submitted.index("--array") + 1] == "0-3%2"
    task = submitted[submitted.index("--wrap") + 1]
    for number in range(4):
        argv = [a.replace("$SLURM_ARRAY_TASK_ID", str(number)) for a in shlex.split(task)][1:]
        monkeypatch.setattr(sys, "argv", argv)
        assert sweep.main() == (number == 2)
    assert len(list((tmp_path / "runs").rglob("summary.json"))) == 3


def test_hugging_face_jobs_bring_their_runs_back(searches, tmp_path, monkeypatch):
    """With a hub that keeps the bucket in a folder and runs each job's command on the spot. Not tested: the real one."""
    hub, jobs = tmp_path / "hub", []

    def sync_job_volume(self, source, mount_path, *, remote_name, read_only):
        assert not read_only and mount_path == "/sweep"
        shutil.copytree(source, hub / remote_name, dirs_exist_ok=True)
        return huggingface_hub.Volume(type="bucket", source="me/bucket", mount_path=mount_path, path=remote_name)

    def run_job(self, **spec):
        inspect.signature(real_run_job).bind(self, **spec)
        json.dumps(huggingface_hub._jobs_api._create_job_spec(**spec))
        home = tmp_path / f"home{len(jobs)}"
        home.mkdir()
        jobs.append(huggingface_hub.JobInfo(id=str(len(jobs)), owner=dict(id="1", name="me", type="user"), status=dict(stage="ERROR")))
        command = [c.replace("/sweep/", f"{hub / spec['volumes'][0].path}/").replace("pip install", "echo")
                   for c in spec["command"]]
        # the container sees no folder of this machine: its own runs folder stands in
        (hub / spec["name"] / "code" / "searches.txt").write_text(
            (hub / spec["name"] / "code" / "searches.txt").read_text().replace(str(tmp_path / "runs"), str(tmp_path / "there")))
        command[-1] = command[-1].replace(str(tmp_path / "runs"), str(tmp_path / "there"))
        subprocess.run(command, env={**os.environ, "HOME": str(home)}, stdout=subprocess.DEVNULL)
        return jobs[-1]

    real_run_job = huggingface_hub.HfApi.run_job
    fakes = {"sync_job_volume": sync_job_volume, "run_job": run_job, "list_jobs": lambda self, **which: [],
             "wait_for_job": lambda self, ids, poll_interval: jobs,
             "sync_bucket": lambda self, source, dest, exclude: shutil.copytree(
                 hub / source.removeprefix("hf://buckets/me/bucket/"), dest, dirs_exist_ok=True)}
    for name, fake in fakes.items():
        monkeypatch.setattr(huggingface_hub.HfApi, name, fake)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_test")
    (tmp_path / "runs").mkdir()
    sweep.hf(searches, tmp_path / "runs", 2)
    assert len(jobs) == 2
    assert sorted(p.parent.name for p in (tmp_path / "runs").rglob("summary.json")) == ["0", "1", "3"]
    assert "broken" in (tmp_path / "runs" / "deep" / "2.log").read_text()
# ------------------------------------------------------------------------ ARC: generator, bundled policy

sys.path[:0] = [str(HERE / "tiny"), str(HERE / "examples")]


def test_every_operation_of_the_generator_runs_in_the_sandbox_as_it_does_outside():
    """Programs must stand on their own: numpy alone, nothing of the module that holds them. Parsing must not change them."""
    import arc_programs
    task, rng, programs, grids, expected = tasks.Arc(), np.random.default_rng(0), [], [], []
    for name, operation in arc_programs.OPERATIONS.items():
        for _ in range(30):
            look = arc_programs.random_look(rng)
            grid = arc_programs.GRIDS[operation.kinds.split()[0]](look)
            step = arc_programs.random_step(rng, name, look)
            output = arc_programs.run([step], grid)
            if output is not None and not arc_programs.same(output, grid):
                break
        assert output is not None, name
        programs.append(arc_programs.text([step]))
        grids.append(grid.tolist())
        expected.append(output.tolist())
        assert task.parse(programs[-1]) == [programs[-1]]
        assert operation.hypothesis in programs[-1].split("def transform")[1]
    with Sandbox(workers=2) as sandbox:
        for program, grid, output in zip(programs, grids, expected):
            [(_, result)] = sandbox.run([program], [grid])
            assert result.outputs == [output], (program, result.error)


def test_synthetic_tasks_have_no_step_too_many_and_derive_from_their_seed():
    import arc_programs
    lines = arc_programs.shard(7, 3, size=30)
    assert lines == arc_programs.shard(7, 3, size=30) != arc_programs.shard(7, 4, size=30)
    assert {len(line["steps"]) for line in lines} == {1, 2, 3}
    for line in lines:
        pairs = [[np.array([list(map(int, row)) for row in grid.split("/")]) for grid in pair] for pair in line["pairs"]]
        steps = [(name, tuple(colours)) for name, colours in line["steps"]]
        assert all(arc_programs.same(arc_programs.run(steps, a), b) for a, b in pairs)
        for i in range(len(steps) if len(steps) > 1 else 0):
            fewer = steps[:i] + steps[i + 1:]
            assert not all(arc_programs.same(arc_programs.run(fewer, a), b) for a, b in pairs), line["steps"]


def test_programs_and_prompts_are_the_tokens_that_the_policy_learned():
    """A fragment each for every operation and colour, alone and after each other; prompts without an unknown token."""
    import arc_programs
    import pretrain
    tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / "tiny" / "arc")
    assert tokenizer.get_vocab() == pretrain.arc_tokenizer().get_vocab()
    pretrain.check_arc(tokenizer, pretrain.ArcExamples(tokenizer, 0))
    rng, steps = random.Random(0), arc_programs.all_steps()
    for program in [[step] for step in steps] + [rng.sample(steps, rng.choice([2, 3])) for _ in range(300)]:
        ids = tokenizer(arc_programs.text(program), add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == arc_programs.fragments(program)
        assert tokenizer.decode(ids, skip_special_tokens=True) == arc_programs.text(program)
    for target in ("007bbfb7", "3c9b0459", "00d62c1b"):
        task = tasks.Arc(target=target)
        for prompt in (task.prompt(), task.variation_prompt([arc_programs.text(steps[:2])] * 2)):
            assert tokenizer.unk_token_id not in pretrain.chat_ids(tokenizer, prompt)
    assert tokenizer.unk_token_id in pretrain.chat_ids(tokenizer, task.variation_prompt(["def transform(g): return g"]))


def test_answers_packed_behind_the_same_pairs_are_those_of_a_prompt_each():
    """The mask of pre-training: an answer sees the pairs and itself, no padding and no other answer; its place is the same."""
    import arc_programs
    import pretrain
    tokenizer = pretrain.arc_tokenizer()
    examples = pretrain.ArcExamples(tokenizer, 0)
    model = pretrain.arc_model(tokenizer, pretrain.argparse.Namespace(seed=0, dim=16)).eval()
    packed = [e for e in (examples.example(t, random.Random(0)) for t in arc_programs.shard(1, 0, size=12)) if e][:3]
    ids, segments, positions, labels, mask = examples.tensors(packed)
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions, attention_mask=mask).logits
        checked = 0
        for row, at in enumerate(segments):
            for k in range(1, 2 + pretrain.PARENTS):
                alone = (at == 0) | (at == k)
                inside = alone & (labels[row] >= 0)
                expected = model(input_ids=ids[row, alone][None]).logits[0][(labels[row, alone] >= 0)]
                torch.testing.assert_close(logits[row, inside], expected, atol=1e-5, rtol=1e-4)
                answer = tokenizer.decode(labels[row, inside])
                assert answer.startswith(arc_programs.HEADER) and answer.endswith("return grid<eos>")
                checked += 1
    assert checked == 9


def test_a_worse_parent_is_never_the_program_itself():
    import arc_programs
    import pretrain
    examples, rng = pretrain.ArcExamples(pretrain.arc_tokenizer(), 0), random.Random(0)
    steps = [("recolour", (1, 2)), ("rot90", ()), ("frame", (3,))]
    lengths = [len(parent) for parent in (examples.parent(steps, rng) for _ in range(300)) if parent != steps]
    assert len(lengths) > 290 and set(lengths) == {2, 3, 4}
    assert examples.parent([("rot90", ())], rng) and arc_programs.text([]) == "import numpy as np\n\n\ndef transform(grid):\n    return grid"


def test_the_bundled_arc_policy_searches_a_real_task(tmp_path, capsys):
    """Two real steps of the default: programs that run, in the sandbox, from both prompts; weights that moved."""
    argv = ["--task", "arc", "--steps", "3", "--after-solved", "99", "--seed", "1", "--out", str(tmp_path / "run")]
    assert runs.exit_code(migrate.main, argv) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    evaluations = runs.read_jsonl(tmp_path / "run" / "evals.jsonl")
    assert summary["preset"] == "tiny" and summary["target"] == "0b148d64" and summary["proposals"] == 45
    assert {e["origin"] for e in evaluations} == {"on-policy", "neighbor"}
    assert sum(e["valid"] for e in evaluations) > len(evaluations) / 2 and summary["best_score"] > 0.3
    assert all(e["candidate"].startswith("import numpy as np") for e in evaluations)
    assert sum(not step["skipped"] for step in runs.read_jsonl(tmp_path / "run" / "steps.jsonl")) == 3


def test_the_arc_table_counts_only_what_came_within_the_limit(tmp_path, capsys):
    """Enumeration of the generator's programs on a real task, at a count where it is solved and at one where it is not yet."""
    import arc_enumerate
    import report
    for budget in (16, 2):
        arc_enumerate.main(["--target", "3c9b0459", "--seed", "15", "--budget", str(budget), "--out", str(tmp_path / str(budget))])
    rows = {n: report.read_run(tmp_path / str(n), {}) for n in (16, 2)}
    assert rows[16]["found"] == rows[16]["pass2"] == 1 and rows[16]["guesses"] == 3 and rows[2]["found"] == rows[2]["pass2"] == 0
    sets = list(report.arc_splits().values())
    assert sets.count("ARC-AGI-1 training") == sets.count("ARC-AGI-1 evaluation") == 400
    assert rows[16]["group"] == "ARC-AGI-1 training" and rows[16]["best"] == "turn the grid upside down"
    lines = [line["candidate"] for line in runs.read_jsonl(tmp_path / "16" / "evals.jsonl")]
    assert len(set(lines)) == 16 and lines[:2] == [line["candidate"] for line in runs.read_jsonl(tmp_path / "2" / "evals.jsonl")]
    config = json.loads((tmp_path / "16" / "config.json").read_text())
    config["config"]["proposals"] = 2           # the same run, counted up to its second program
    (tmp_path / "16" / "config.json").write_text(json.dumps(config))
    assert report.read_run(tmp_path / "16", {})["found"] == 0
    table = report.arc_table([*rows.values()])
    assert "| ARC-AGI-1 training | 16 | enumerate | 1 | 100% [100%, 100%] | 100% [100%, 100%] | 3 |" in table
    assert "| ARC-AGI-1 training | 2 | enumerate | 1 | 0% [0%, 0%] | 0% [0%, 0%] | - |" in table


# ------------------------------------------------------------------------------------ after a search: the Hub

IN_A_FRESH_PROCESS = """
import contextlib, io, json, os, sys, time, urllib.request
import hub, migrate, runs
from huggingface_hub import HfApi, constants, hf_hub_download
assert not constants.HF_HUB_OFFLINE and not os.path.exists(os.environ["HF_HOME"])     # an empty cache
time.sleep = lambda seconds: None       # neither we nor the client wait before another try

def command(*argv):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = runs.exit_code(migrate.main, list(argv))
    return code, out.getvalue()

def faults(*wanted):
    urllib.request.urlopen(urllib.request.Request(os.environ["HF_ENDPOINT"] + "/faults", json.dumps(wanted).encode()))
"""
PUSH = IN_A_FRESH_PROCESS + """
run, token, said = sys.argv[1], sys.argv[2], {}
said["no token"] = command("push", run, "alice/found")
os.environ["HF_TOKEN"] = "hf_some_other_token"
said["401"] = command("push", run, "alice/found")
os.environ["HF_TOKEN"] = token
said["403"] = command("push", run, "bob/found")
said["409"] = command("push", run, "alice/taken")
faults(*[["/blob/", "close"]] * 100)
said["closed in the weights"] = command("push", run, "alice/found")
faults(*[["/commit/", "close"]] * 100)
said["closed"] = command("push", run, "alice/found")
faults(["repos/create", 500], ["repos/create", 500], ["/preupload/", 500], ["/preupload/", 503],
       ["/lfs/", "close"], ["/commit/", "close"])
said["mended"] = command("push", run, "alice/found")
said["again"] = command("push", run, "alice/found")
said["card"] = open(hf_hub_download("alice/found", "README.md")).read()
HfApi().create_repo("alice/words")
HfApi().upload_folder(repo_id="alice/words", folder_path="tiny/wordsearch")
said["base"] = command("push", run, "alice/found", "--base", "alice/words")
said["card with base"] = open(hf_hub_download("alice/found", "README.md")).read()
print(json.dumps(said))
"""
LOAD = IN_A_FRESH_PROCESS + """
from peft import PeftModel
from transformers import AutoModelForCausalLM
import tasks, torch
config = migrate.Config(**json.loads(sys.argv[1]))
task = tasks.WordSearch()
source = migrate.model_source(config, task)
rows, found = [[5, 1], [300, 1], [4000, 77, 1]], {}

def logprobs(model, prompt):
    with torch.no_grad():
        return [model(torch.tensor([prompt + row])).logits[0].log_softmax(-1)[range(len(prompt) - 1, len(prompt) + len(row) - 1),
                row].sum().item() for row in rows]

for name, adapter, base in (("hub", "alice/found", "alice/words"), ("disk", sys.argv[2], source), ("fresh", None, source)):
    config.init_adapter = adapter
    policy = migrate.load_policy(config, base)
    prompt = migrate.encode_prompt(policy, task.prompt())
    found[name] = logprobs(policy.model, prompt)
base = AutoModelForCausalLM.from_pretrained("alice/words", dtype="float32")
found["peft"] = logprobs(PeftModel.from_pretrained(base, "alice/found").eval(), prompt)
found["sample"] = command("sample", "alice/found", "-n", "5")
found["no adapter"], found["no such"] = command("sample", "alice/taken"), command("sample", "alice/nothing")
print(json.dumps(found))
"""


def fresh_process(script, *arguments, server, home):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    result = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], cwd=HERE, capture_output=True, text=True, env={
        **environment, "HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stdout + result.stderr


def test_a_run_is_pushed_and_loads_back_in_a_fresh_process_whatever_goes_wrong_in_between(tmp_path):
    """The real client against a server that speaks the Hub's HTTP API. Catches: a half-pushed repository that blocks the next
    try, a token on disk or in a message, a path of this machine in the card, weights that are not the run's."""
    folder, token = tmp_path / "r", hub_server.TOKEN
    code = runs.exit_code(migrate.main, ["--target", "cement", "--steps", "5", "--lr", "0.1", "--out", str(folder)])
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with hub_server.HubServer() as server:
        server.create("alice/taken", {"README.md": b"something else"})
        said, output = fresh_process(PUSH, folder, token, server=server, home=tmp_path / "home1")
        for fault, words in {"no token": "hf auth login", "401": "does not accept the token", "403": "no right to write to bob/found",
                             "409": "alice/taken is taken", "closed": "connection to the Hub broke",
                             "closed in the weights": "connection to the Hub broke"}.items():
            code, text = said[fault]
            assert code == 2 and text.startswith("error: ") and text.count("\n") == 1 and words in text, (fault, text)
            assert f"python migrate.py push {folder} " in text, fault
        assert server.repos.keys() == {"alice/taken", "alice/found", "alice/words"} and server.repos["alice/taken"]["README.md"] == b"something else"
        assert [said[name][0] for name in ("mended", "again", "base")] == [0, 0, 0], said
        assert server.commits["alice/found"] == 3       # the creation, the push, and that with a base; none for nothing new
        assert files == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        everything = output + "".join(p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file())
        everything += "".join(data.decode("latin-1") for data in server.repos["alice/found"].values())
        assert token not in everything and "hf_some_other_token" not in everything

        there = server.repos["alice/found"]
        assert set(there) == {".gitattributes", "README.md", "search.svg", "adapter_config.json", "adapter_model.safetensors",
                              "search/config.json", "search/summary.json", "search/evals.jsonl", "search/steps.jsonl"}
        assert str(HERE) not in there["adapter_config.json"].decode() and str(folder) not in said["card"]
        card = ModelCard(said["card"])
        assert card.data.license == "apache-2.0" and card.data.library_name == "peft" and card.data.base_model is None
        assert ModelCard(said["card with base"]).data.base_model == "alice/words"
        assert json.loads(there["adapter_config.json"])["base_model_name_or_path"] == "alice/words"
        summary = json.loads((folder / "summary.json").read_text())
        metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert metrics["best_score"] == summary["best_score"] and metrics["evaluations"] == summary["evaluations"]

        config = json.loads((folder / "config.json").read_text())["config"]
        found, _ = fresh_process(LOAD, json.dumps(config), folder, server=server, home=tmp_path / "home2")
    assert found["hub"] == pytest.approx(found["disk"], abs=1e-6) and found["peft"] == pytest.approx(found["disk"], abs=1e-6)
    assert max(abs(a - b) for a, b in zip(found["hub"], found["fresh"])) > 1e-2
    assert found["sample"][0] == 0 and len(found["sample"][1].splitlines()) > 3
    for name, words in (("no adapter", "holds no LoRA adapter"), ("no such", "neither a folder with an adapter nor a Hub repository")):
        assert found[name][0] == 2 and words in found[name][1] and found[name][1].count("\n") == 1


def test_a_card_holds_whatever_a_model_wrote(tmp_path):
    """Catches: a candidate that leaves its code block, or ends the metadata, or names the base by its path on this machine."""
    hostile = ["```\n---\nlicense: mit\n---\n<script>", "````` # title", "\x1b[31mred \u202e ![](http://x)"]
    evals = [dict(index=i, step=1, proposal=i + 1, origin="on-policy", parents=[], candidate=c, score=0.5, valid=True, tokens=None,
                  info={}) for i, c in enumerate(hostile)]
    summary = dict(task="a: `task`", target="---\n# x", best_score=0.5, best=hostile[0], best_at_proposal=1, evaluations=3, proposals=3)
    record = dict(config=dataclasses.asdict(Config()), options={"target": "`"}, versions={"torch": "2"},
                  command=["--task", "x.py", "--out", "/home/me/r", "--seed", "1", "--resume"])
    card = ModelCard(str(hub.model_card("me/x", record, summary, evals, "llama", False, False, {})))
    assert card.data.license == "other" and card.data.base_model is None and len(card.data.eval_results) == 4
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", card.text)
    assert not re.search("<script>|title|http://x|license|\x1b|\u202e", outside) and "/home/me" not in card.text
    assert "python migrate.py --task x.py --seed 1\n" in card.text
    assert hub.without(["--out", "a", "--out=b", "--resume", "--seed", "1"], "--out", "--resume") == ["--seed", "1"]


def test_a_search_starts_from_the_adapter_of_another(tmp_path, capsys, monkeypatch):
    """Catches: an adapter that is not loaded, or not by a resumed run; a wrong base or shape that is loaded all the same."""
    _, _, _, lora = run(tmp_path / "a", WordSearch(target="mob"), preset="tiny", method="grpo", steps=3)
    task = WordSearch(target="mob")
    config = migrate.resolve(dict(preset="tiny", init_adapter=str(tmp_path / "a")), task)
    assert same_weights(migrate.load_policy(config, migrate.model_source(config, task)).lora, lora)

    arguments = ["--target", "mob", "--steps", "4", "--init-adapter", tmp_path / "a"]
    assert command_line(capsys, *arguments, "--out", tmp_path / "whole")[0] == 0
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["config"]["init_adapter"] == str(tmp_path / "a")
    real, steps = migrate.update, []

    def interrupted(*given):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(*given)
    monkeypatch.setattr(migrate, "update", interrupted)
    assert command_line(capsys, *arguments, "--out", tmp_path / "parts")[0] == 130
    monkeypatch.setattr(migrate, "update", real)
    code, _, err = command_line(capsys, *arguments[:-2], "--out", tmp_path / "parts", "--resume")
    assert code == 2 and "differs in init_adapter" in err
    assert command_line(capsys, *arguments, "--out", tmp_path / "parts", "--resume")[0] == 0
    for name in ("evals.jsonl", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()

    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "adapter_config.json").write_text((tmp_path / "a" / "adapter" / "adapter_config.json").read_text())
    (bad / "adapter_model.safetensors").write_bytes(b"not at all")
    for extra, words in ((["--lora-r", "8"], "has another shape (--lora-r 16 --lora-alpha 64 --lora-targets 2.mlp.up_proj)"),
                         (["--lora-alpha", "8"], "has another shape"), (["--lora-targets", "all-linear"], "has another shape"),
                         (["--init-adapter", bad], "holds no readable LoRA adapter"), (["--init-adapter", tmp_path], "holds no LoRA adapter"),
                         (["--init-adapter", "../nowhere"], "neither a folder with an adapter nor a Hub repository")):
        code, _, err = command_line(capsys, *arguments, *extra, "--out", tmp_path / "none")
        assert code == 2 and words in err and err.count("\n") == 1 and not (tmp_path / "none").exists()
    other = tmp_path / "other-base"
    other.symlink_to(HERE / "tiny" / "wordsearch")
    code, _, err = command_line(capsys, *arguments, "--model", other, "--preset", "tiny", "--out", tmp_path / "none")
    assert code == 2 and "belongs to the base" in err


def test_sampling_shows_what_a_search_learned(tmp_path, capsys):
    """The share of cement's relatives among samples rises; the scores beside them are those of the search."""
    _, evals, _, _ = run(tmp_path / "r", WordSearch(target="cement"), preset="tiny", method="migrate", n_on_policy=5, n_neighbors=4,
                         n_greedy=1, steps=40, lr=2e-2)
    (tmp_path / "r" / "config.json").write_text(json.dumps({
        "config": {k: v for k, v in dataclasses.asdict(migrate.resolve(dict(preset="tiny", lr=2e-2), WordSearch())).items()},
        "options": {"target": "cement"}}))
    code, out, _ = command_line(capsys, "sample", tmp_path / "r", "-n", 200)
    lines = [line.split() for line in out.splitlines()[1:]]
    assert code == 0 and sum(int(times) for times, *_ in lines) == 200
    known = {e["candidate"]: f"{e['score']:.4f}" for e in evals}
    assert all(score == known.get(word, "-") for _, score, word in lines)
    row, vectors = tasks.word_vectors()
    closeness = [vectors[row[word]] @ vectors[row["cement"]] for times, _, word in lines for _ in range(int(times)) if word in row]
    assert np.mean(closeness) > 0.05 + np.mean(vectors @ vectors[row["cement"]])


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in (HERE / "tiny").glob("*/config.json")))
def test_bundled_policies_are_hub_artifacts(folder):
    """`hf upload USER/NAME tiny/...` is all it takes: card, metadata and files as the Hub wants them; nothing of this machine."""
    files = {p.name for p in (HERE / "tiny" / folder).iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "generation_config.json", "tokenizer.json"} <= files
    card = ModelCard.load(HERE / "tiny" / folder / "README.md")
    assert card.data.license and card.data.library_name == "transformers" and card.data.pipeline_tag == "text-generation"
    assert card.data.base_model is None and isinstance(card.data.tags, list) and len(card.text) > 500
    for name in files - {"model.safetensors"}:
        assert not re.search(r"/(home|tmp|work|root|Users)/", (HERE / "tiny" / folder / name).read_text()), name


# ------------------------------------------------------------------------------------ after a search: pages

class Elements(HTMLParser):
    """What a browser would find in a page, unless it is lenient in ways of its own."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.words += data


def test_a_page_stands_alone_and_runs_nothing_that_a_model_wrote(tmp_path):
    """Catches: hostile candidates that become markup, in the page and in the picture; anything loaded from elsewhere."""
    hostile = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</style></svg><svg onload=alert(1)>", "\ud800\x00\x1b",
               "a\n</pre><iframe src=http://x>", "&lt;b&gt;"]

    class Hostile(Letters):
        def picture(self, candidate, info):
            raise ValueError("no picture of this")
    (tmp_path / "config.json").write_text(json.dumps(dict(config=dataclasses.asdict(Config(task="<b>.py", model="<i>")), options={
        "target": "</title><script>"}, command=["--x", "<script>"])))
    with open(tmp_path / "evals.jsonl", "w") as file:
        for i, c in enumerate(hostile * 6):
            origin = ["on-policy", "neighbor", "warm-start"][i % 3]
            file.write(json.dumps(dict(index=i, step=i // 3, proposal=i, origin=origin, parents=[hostile[i % 6 - 1]] if i > 6 else [],
                                       candidate=c + "!" * (i // 6), score=i / 50, valid=i % 5 > 0, tokens=None, info={})) + "\n")
    (tmp_path / "steps.jsonl").write_text("")
    text = page.write(tmp_path, task=Hostile()).read_text(encoding="utf-8")
    found = Elements(text)
    assert not {"script", "img", "iframe", "b>", "i", "link", "object", "foreignobject"} & set(found.tags)
    assert not [k for k, v in found.attributes if k.startswith("on") or k in ("src", "href", "srcset")]
    assert "default-src 'none'" in text and not re.search(r"url\(|@import", text)
    assert not re.search("[\ud800-\udfff\x00\x1b]", text) and "<script>alert(1)</script>" in found.words
    picture = page.standalone(page.search_curve(page.read(tmp_path)[1]))
    import xml.etree.ElementTree
    tags = {element.tag.split("}")[1] for element in xml.etree.ElementTree.fromstring(picture).iter()}
    assert tags == {"svg", "style", "rect", "title", "path", "text", "circle"}


def test_every_run_leaves_a_page_and_a_broken_page_loses_no_run(tmp_path, capsys, monkeypatch):
    arguments = ["--target", "mob", "--steps", "4", "--n-on-policy", "3", "--n-greedy", "1", "--n-neighbors", "3"]
    assert command_line(capsys, *arguments, "--out", tmp_path / "a")[0] == 0
    text = (tmp_path / "a" / "report.html").read_text()
    found, summary = Elements(text), json.loads((tmp_path / "a" / "summary.json").read_text())
    assert f"{summary['best_score']:.4f}" in found.words and summary["best"] in found.words and "rank" in found.words
    for name, (_, meaning) in page.GLOSSARY.items():
        assert name in found.words and meaning in found.words
    monkeypatch.setattr(page, "run_page", lambda *_: 1 / 0)
    code, out, err = command_line(capsys, *arguments, "--out", tmp_path / "b")
    assert code == 0 and "run: " in out and f"python report.py {tmp_path / 'b'} --html" in err
    monkeypatch.undo()
    assert runs.exit_code(report.main, [str(tmp_path / "b"), "--html"]) == 0 and (tmp_path / "b" / "report.html").exists()
    (tmp_path / "b" / "summary.json").unlink()          # a run that is not finished has a page as well
    assert runs.exit_code(report.main, [str(tmp_path / "b"), "--html"]) == 0
    assert "not finished" in (tmp_path / "b" / "report.html").read_text()


def test_runs_are_compared_with_the_spread_over_seeds(tmp_path, capsys):
    """The numbers in the page are those of the runs; a band reaches from the worst seed to the best."""
    scores = {}
    for method, seed in (("migrate", 0), ("migrate", 1), ("random", 0)):
        command_line(capsys, "--target", "mob", "--proposals", 30, "--method", method, "--seed", seed, "--out", tmp_path / f"{method}{seed}")
        scores[method, seed] = json.loads((tmp_path / f"{method}{seed}" / "summary.json").read_text())["best_score"]
    assert runs.exit_code(report.main, [str(tmp_path), "--html", str(tmp_path / "c.html")]) == 0
    found = Elements((tmp_path / "c.html").read_text())
    assert "| published | tiny, 30 proposals | migrate | 2 |" in capsys.readouterr().out and found.tags.count("table") == 1
    assert f"migrate {(scores['migrate', 0] + scores['migrate', 1]) / 2:.3f}" in found.words
    assert f"random {scores['random', 0]:.3f}" in found.words
    assert sum(k == "style" and "opacity:.16" in v for k, v in found.attributes) == 1       # one method has two seeds
    run_points = page.progress(tmp_path / "random0", report.read_run(tmp_path / "random0", {}), n=30)["grid"]
    evals = runs.read_jsonl(tmp_path / "random0" / "evals.jsonl")
    assert [best for best, _ in run_points] == [max(e["score"] for e in evals if e["proposal"] <= k) for k in range(31)]
    code = runs.exit_code(report.main, [str(tmp_path / "nowhere"), "--html"])
    assert code == 2 and "name a run folder" in capsys.readouterr().err


def test_pictures_show_ranks_molecules_and_grids():
    word = WordSearch(target="cement")
    assert "the target itself" in word.picture("cement", {}) and word.picture("<b>", {}) is None
    row, vectors = tasks.word_vectors()
    nearest = sorted(row, key=lambda w: -float(vectors[row[w]] @ vectors[row["cement"]]))
    assert "rank 7 of 12,719" in word.picture(nearest[7], {})
    molecule = Molecule(target="qed").picture("CC(=O)Nc1ccc(O)cc1", {})
    assert molecule.startswith("<svg") and molecule.count("class='bond-") >= 11 and Molecule(target="qed").picture("C(", {}) is None
    arc = tasks.Arc(target="3c9b0459")
    turned = arc.picture("import numpy as np\ndef transform(grid):\n    return np.rot90(grid, 2)", {})
    assert turned.count("\u2713") == 5 and turned.count("<g ") == 5 * 3
    areas = [int(n) for n in re.findall(r"M\d+ \d+h(\d+)v1h-\1z", pictures.cells([[1, 1, 2], [2, 1, 1]]))]
    assert areas == [2, 2, 1, 1] and pictures.cells([[3]]).count("#4fcc30") == 1
    broken = arc.picture("def transform(grid):\n    return 1 / 0", {})
    assert broken.count("no output") == 5 == broken.count("\u2717")


def test_tracking_logs_every_step_and_is_asked_for(tmp_path, capsys, monkeypatch):
    arguments = ["--target", "mob", "--steps", "3", "--out", tmp_path / "r", "--track"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "trackio", None)         # as if it were not installed
        code, _, err = command_line(capsys, *arguments)
        assert code == 2 and "pip install trackio" in err and err.count("\n") == 1 and not (tmp_path / "r").exists()
    if not importlib.util.find_spec("trackio"):
        return
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    assert command_line(capsys, *arguments)[0] == 0
    assert len(list((tmp_path / "trackio").glob("*.db"))) == 1


# ---------------------------------------------------------------------------------------- command line

def command_line(capsys, *argv):
    code = runs.exit_code(migrate.main, [str(a) for a in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("argv, says", [
    (["--task", "poetry"], "unknown task 'poetry'"),
    (["--task", "nowhere.py"], "there is no task file nowhere.py"),
    (["--target", "qqqqq"], "'qqqqq' is not among the"),
    (["--target", "two words"], "one English word"),
    (["--method", "magic"], "unknown method 'magic'; choose from random, ns"),
    (["--preset", "magic"], "unknown preset 'magic'"),
    (["--no-such-flag", "1"], "unrecognized arguments: --no-such-flag"),
    (["--step", "1"], "unrecognized arguments: --step"),
    (["--steps", "x"], "invalid int value"),
    (["--temperature", "0"], "--temperature must be above 0"),
    (["--quantize", "8bit"], "--quantize takes one of 4bit, none"),
    (["--n-neighbors", "0"], "needs new completions"),
    (["--lr", "nan"], "--lr must be at least 0"),
    (["--candidates-per-completion", "0"], "--candidates-per-completion must be at least 1"),
    (["--warm-start-words", "99999"], "--warm-start-words must lie between 0 and"),
    (["--model", "./no/such/folder"], "there is no model folder ./no/such/folder"),
    (["--lora-targets", "nothing_proj"], "--lora-targets nothing_proj does not fit"),
])
def test_errors_are_one_line_with_a_way_out_and_exit_code_2(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command_line(capsys, "--task", "wordsearch", *argv)
    assert code == 2 and says in err and err.startswith("error: ") and err.count("\n") == 1


def test_a_model_that_cannot_be_reached_or_is_gated(capsys, tmp_path):
    code, _, err = command_line(capsys, "--model", "nobody/no-such-model", "--out", tmp_path / "r")
    assert code == 2 and "neither a local folder nor a Hub model that can be reached" in err
    assert not (tmp_path / "r").exists()        # and the folder is free for the next try

    error = OSError("You are trying to access a gated repo.")
    error.__cause__ = GatedRepoError.__new__(GatedRepoError)
    assert "ungated model" in runs.explain_loading("meta-llama/Llama-3.2-3B-Instruct", error)


def test_an_encoder_that_cannot_be_reached_frees_the_folder_again(capsys, tmp_path):
    code, _, err = command_line(capsys, "--embedder", tmp_path / "nowhere", "--out", tmp_path / "r")
    assert code == 2 and "neither a folder nor a reachable Hub model" in err and not (tmp_path / "r").exists()


def test_4bit_without_bitsandbytes(capsys, tmp_path, monkeypatch):
    find = migrate.importlib.util.find_spec
    monkeypatch.setattr(migrate.importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a))
    code, _, err = command_line(capsys, "--quantize", "4bit", "--out", tmp_path / "r")
    assert code == 2 and "pip install bitsandbytes" in err


def test_a_folder_is_never_overwritten(capsys, tmp_path):
    arguments = ["--target", "mob", "--steps", "2", "--out", tmp_path / "r"]
    code, out, _ = command_line(capsys, *arguments)
    assert code == 0 and "proposals" in out and str(tmp_path / "r") in out
    ledger = (tmp_path / "r" / "evals.jsonl").read_bytes()
    code, _, err = command_line(capsys, *arguments)
    assert code == 2 and "holds a run already" in err
    code, out, _ = command_line(capsys, *arguments, "--resume")
    assert code == 0 and "finished already" in out
    (tmp_path / "r" / "summary.json").unlink()
    code, _, err = command_line(capsys, *arguments, "--resume", "--lr", "1")
    assert code == 2 and "it differs in lr" in err
    code, out, _ = command_line(capsys, *arguments, "--resume")
    assert code == 0 and (tmp_path / "r" / "evals.jsonl").read_bytes() == ledger


def test_ctrl_c_ends_tidily_and_the_run_goes_on(capsys, tmp_path, monkeypatch):
    real, steps = migrate.update, []

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(*arguments)
    monkeypatch.setattr(migrate, "update", interrupted)
    arguments = ["--target", "mob", "--method", "migrate", "--steps", "5", "--out", tmp_path / "r"]
    code, _, err = command_line(capsys, *arguments)
    assert code == 130 and "best so far: '" in err and "--resume" in err
    monkeypatch.setattr(migrate, "update", real)
    assert command_line(capsys, *arguments, "--resume")[0] == 0


def test_what_stops_a_run_is_told_with_the_command_that_goes_on(capsys, tmp_path, monkeypatch):
    """The folder is named even if it was chosen for the user, and what would only stop again is not offered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["examples/fork.py"])
    arguments = ["--target", "mob", "--n-greedy", "1", "--steps", "3", "--micro-batch", "6"]
    real, steps = migrate.update, []

    def out_of_memory(*rest):
        steps.append(1)
        if len(steps) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*rest)
    monkeypatch.setattr(migrate, "update", out_of_memory)
    code, _, err = command_line(capsys, *arguments)
    folder = "runs/wordsearch-mob-migrate-seed0"
    assert code == 1 and "--micro-batch 1" in err and "Traceback" not in err
    assert f"python examples/fork.py {' '.join(arguments)} --out {folder} --resume" in err
    code, _, err = command_line(capsys, *arguments[:-1], "1", "--out", folder, "--resume")      # which changes no result
    assert code == 0, err

    def diverged(*rest):
        raise FloatingPointError("the loss is nan")
    monkeypatch.setattr(migrate, "update", diverged)
    code, _, err = command_line(capsys, *arguments, "--seed", "1")
    assert code == 1 and "step 1: the loss is nan" in err and "--resume" not in err


def test_the_bar_counts_what_is_fixed_and_shows_the_best():
    def line(step, score, valid, candidate):
        return {"step": step, "score": score, "valid": valid, "candidate": candidate}
    before = [line(0, 0.5, True, "warm"), line(1, 0.0, False, "bad")]
    for budget, expected in ((10, (1, 2, 2)), (None, (4, 4, 5))):
        with runs.ProgressBar(budget, 20, before, 4) as bar:            # resumed after step 4
            seen = [bar.n]
            assert bar.postfix == "best 'warm' 0.500, 1 scored"
            bar.scored(line(5, 0.7, True, "better"))
            bar.scored(line(0, 0.7, True, "as good, later"))
            seen.append(bar.n)
            assert bar.postfix == "best 'better' 0.700, 2 scored" and bar.total == (budget or 20)
            bar.stepped(5)
            assert (*seen, bar.n) == expected


def test_a_full_disk_is_one_line_also_for_the_checkpoint(capsys, tmp_path, monkeypatch):
    plain = open
    monkeypatch.setattr(runs, "open", lambda path, mode="r": plain("/dev/full" if str(path).endswith("state.new") else path, mode),
                        raising=False)
    code, _, err = command_line(capsys, "--target", "mob", "--steps", "2", "--out", tmp_path / "r")
    assert code == 2 and "No space left on device; make room" in err and "Traceback" not in err


def test_parents_that_the_context_cannot_hold_are_left_out(tmp_path, monkeypatch):
    """The worst first; without any that fits the step is on-policy, and the search goes on."""
    monkeypatch.setattr(migrate, "fits", lambda policy, prompt: prompt.count(", ") <= 2)       # one of them is the prompt's own
    _, evals, _, _ = run(tmp_path / "a", method="migrate-opro", steps=5)
    shown = [e for e in evals if e["origin"] == "neighbor"]
    for e in shown:         # the two best of what was known, worst first
        known = sorted((k for k in evals if k["step"] < e["step"] and k["valid"]), key=lambda k: (-k["score"], k["index"]))
        assert e["parents"] == [k["candidate"] for k in known[1::-1]]
    assert len({e["step"] for e in shown}) > 2
    monkeypatch.setattr(migrate, "fits", lambda policy, prompt: False)
    _, evals, _, _ = run(tmp_path / "b", method="migrate-opro", steps=3)
    assert {e["origin"] for e in evals if e["step"] > 0} == {"on-policy"}


def test_a_damaged_model_file_is_one_line(capsys, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(HERE / "tiny" / "wordsearch", model)
    (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    code, _, err = command_line(capsys, "--model", model, "--out", tmp_path / "r")
    assert code == 2 and "holds no causal language model that transformers can load" in err and err.count("\n") == 1


def test_a_prompt_is_the_same_tomorrow(folder_of):
    """Llama 3's template writes the date into every prompt."""
    policy = load(folder_of("llama3"))
    policy.tokenizer.chat_template = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}"
    assert policy.tokenizer.decode(migrate.encode_prompt(policy, "Guess.")).endswith("26 Jul 2024")


def test_a_search_has_as_many_workers_as_it_may_use(monkeypatch):
    """A batch job has fewer cores than its machine, and of several searches each takes its share."""
    monkeypatch.setattr(tasks.os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert tasks.cores() == tasks.workers() == 3
    for threads, expected in (("1", 1), ("12", 12), ("0", 3), ("4,2", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert (tasks.cores(), tasks.workers()) == (3, expected)
    used = []
    monkeypatch.setattr(docking, "dock_all", lambda protein, molecules, seconds, workers: used.append(workers) or iter(()))
    task = Molecule(target="qed")
    task.target = "DRD2"
    list(task._dock(["CCO"]))
    assert used == [3]


def test_the_bundled_policy_is_known_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(HERE)
    program = "import migrate, tasks; print(migrate.resolve({}, tasks.WordSearch()).preset)"
    path = {**os.environ, "PYTHONPATH": str(tmp_path / "link")}
    assert subprocess.run([sys.executable, "-c", program], env=path, cwd=tmp_path, capture_output=True, text=True).stdout == "tiny\n"


def test_every_setting_is_read_and_documented():
    """Catches: flags that reach nothing (the authors' code has eight)."""
    names = [f.name for f in dataclasses.fields(Config)]
    assert len(names) <= 34
    for cls, owner in ((Config, "config"), (WordSearch, "self")):
        text = inspect.getsource(migrate if cls is Config else tasks)
        for f in dataclasses.fields(cls):
            assert re.search(rf"(?i)\b{owner}\.{f.name}\b", text), f"{f.name} is never read"
            assert re.search(rf"^    {f.name}: .*#\s*\S+", inspect.getsource(cls), flags=re.M), f"{f.name} has no comment"


def test_help_shows_the_comments(capsys):
    with pytest.raises(SystemExit):
        migrate.main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "rows of a group replayed from the archive's best" in out and "the hidden word" in out


def test_the_readme_task_runs_as_it_stands(tmp_path, capsys):
    """The README's own task, word for word."""
    text = (HERE / "README.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.S) if "(Task)" in block]
    (tmp_path / "my_task.py").write_text(code)
    code, out, err = command_line(capsys, "--task", tmp_path / "my_task.py", "--steps", "3", "--out", tmp_path / "r")
    assert code == 0, err
    evals = runs.read_jsonl(tmp_path / "r" / "evals.jsonl")
    assert len(evals) > 5 and len({e["score"] for e in evals}) > 1
