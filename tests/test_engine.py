"""The fast path against the plain one, on every family of models; and docs/models.md, which says
which path each of them takes."""
from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
import random
import re
import tempfile

import pytest
import torch
import transformers

import engine
import migrate
from engine import attention, chat, check, decode, llama, logprobs, memory, plan
from engine.attention import GroupLayer
from runlog.errors import UserError
from runlog.folder import Run
from runlog.ledger import Evaluation
from runlog.settings import RunOptions
from tasks import WordSearch
from tests.support import (
    HERE,
    KINDS,
    Letters,
    command_line,
    completions_for,
    config_for,
    folder_of,
    load,
    move_lora,
    naive_logprobs,
    read_json,
    scored,
    sharpen,
)

# ----------------------------------------------------------------------------- families of models

SHAPE = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             eos_token_id=1, bos_token_id=0, pad_token_id=0)
WIDE = dict(head_dim=8)
ALL_HEADS = {**SHAPE, "num_key_value_heads": 4}
TWO_OF_FOUR = dict(num_local_experts=4, num_experts_per_tok=2)


def config_of(name: str, **settings):
    return getattr(transformers, name + "Config")(**settings)


# family: (a small configuration, models of it). A window of 256 tokens is as long as the context.
FAMILIES = {
    "Llama 2, 3": (config_of("Llama", **SHAPE), "Llama, SmolLM2, Vicuna"),
    "Qwen 2.5": (config_of("Qwen2", **SHAPE), "Qwen2.5-Instruct"),
    "Qwen 3": (config_of("Qwen3", **SHAPE, **WIDE), "Qwen3-4B-Instruct-2507"),
    "Mistral": (config_of("Mistral", **SHAPE, sliding_window=None), "Mistral 7B v0.2 and later"),
    "Mistral with a window": (config_of("Mistral", **SHAPE, sliding_window=16), "Mistral 7B v0.1"),
    "Gemma": (config_of("Gemma", **SHAPE, **WIDE), "gemma-2b"),
    "Gemma 2": (config_of("Gemma2", **SHAPE, **WIDE, sliding_window=16), "gemma-2-2b"),
    "Gemma 3": (config_of("Gemma3Text", **SHAPE, **WIDE, sliding_window=16), "gemma-3-1b"),
    "Phi 3": (config_of("Phi3", **SHAPE, sliding_window=16), "Phi-3-mini-4k"),
    "Phi 3.5, 4": (config_of("Phi3", **SHAPE, sliding_window=256), "Phi-3.5-mini, Phi-4-mini"),
    "SmolLM3": (config_of("SmolLM3", **SHAPE), "SmolLM3-3B"),
    "OLMo 2": (config_of("Olmo2", **SHAPE), "OLMo-2-1B"),
    "OLMo 3": (config_of("Olmo3", **SHAPE, sliding_window=16), "Olmo-3-7B"),
    "Granite": (config_of("Granite", **SHAPE, logits_scaling=4.0), "granite-3.3-2b"),
    "Cohere": (config_of("Cohere", **SHAPE, logit_scale=0.7), "aya-23-8B"),
    "Cohere 2": (config_of("Cohere2", **SHAPE, **WIDE, sliding_window=16), "c4ai-command-r7b"),
    "Seed-OSS": (config_of("SeedOss", **SHAPE, **WIDE), "Seed-OSS-36B"),
    "OPT": (config_of("OPT", vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2,
                      num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=256,
                      eos_token_id=1, bos_token_id=0, pad_token_id=0), "opt-1.3b"),
    "GPT-2": (config_of("GPT2", vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=256,
                        eos_token_id=1, bos_token_id=0), "gpt2, distilgpt2"),
    "GPT-NeoX": (config_of("GPTNeoX", **ALL_HEADS), "Pythia"),
    "Falcon": (config_of("Falcon", vocab_size=64, hidden_size=32, num_hidden_layers=2,
                         num_attention_heads=4, eos_token_id=1, bos_token_id=0), "falcon-7b"),
    "BLOOM": (config_of("Bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=4,
                        eos_token_id=1, bos_token_id=0, pad_token_id=0), "bloom-1b7"),
    "Mixtral": (config_of("Mixtral", **SHAPE, **TWO_OF_FOUR), "Mixtral-8x7B"),
    "Qwen 3 MoE": (config_of("Qwen3Moe", **SHAPE, **WIDE, num_experts=4, num_experts_per_tok=2,
                             moe_intermediate_size=16, mlp_only_layers=[0]), "Qwen3-30B-A3B"),
    "OLMoE": (config_of("Olmoe", **SHAPE, num_experts=4, num_experts_per_tok=2), "OLMoE-1B-7B"),
    "Phi 3.5 MoE": (config_of("Phimoe", **SHAPE, **TWO_OF_FOUR, sliding_window=256),
                    "Phi-3.5-MoE"),
    "AFMoE": (config_of("Afmoe", **SHAPE, **WIDE, num_experts=4, num_experts_per_tok=2,
                        moe_intermediate_size=16, num_dense_layers=1, sliding_window=16),
              "Trinity-Mini"),
    "gpt-oss": (config_of("GptOss", **SHAPE, **WIDE, **TWO_OF_FOUR, sliding_window=16),
                "gpt-oss-20b"),
    "DeepSeek 3": (config_of("DeepseekV3", **ALL_HEADS, q_lora_rank=8, kv_lora_rank=8,
                             qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
                             n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
                             moe_intermediate_size=16, first_k_dense_replace=1), "DeepSeek-V3"),
    "Mamba": (config_of("Mamba", vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4,
                        eos_token_id=1, pad_token_id=0), "mamba-130m"),
    "Qwen 3.5": (config_of("Qwen3_5Text", **SHAPE, **WIDE, layer_types=[
        "linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8), "Qwen3.5"),
}


@functools.cache
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(folder_of("qwen2"))


def model_of(family: str, **changes):
    """A small model with random weights. changes: in its configuration."""
    config = copy.deepcopy(FAMILIES[family][0])
    config.update(changes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = transformers.GenerationConfig(eos_token_id=1, pad_token_id=0)
    sharpen(model)
    return model


@functools.cache
def default_targets(family: str) -> str:
    """What --lora-targets is where nobody gives it."""
    with tempfile.TemporaryDirectory() as folder:
        FAMILIES[family][0].save_pretrained(folder)
        return engine.default_targets(folder)


def policy_of(family: str, path: str = "auto", targets: str = "all-linear", **changes):
    config = config_for("unused", lora_targets=targets, max_new_tokens=6)
    policy = migrate.load_policy(config, family, RunOptions(engine=path),
                                 loaded=(model_of(family, **changes), tokenizer()))
    move_lora(policy)
    return policy


def random_ids(n: int, seed: int) -> list[int]:
    return [random.Random(seed * 1000 + i).randrange(2, 64) for i in range(n)]


PROMPTS = [(random_ids(9, 1), 3), (random_ids(4, 2), 2)]
COMPLETIONS = [random_ids(5, 3), random_ids(1, 4), [*random_ids(2, 5), 1]]


@functools.cache
def reason(family: str) -> str:
    """Why a family takes the plain path; "" if it takes the fast one."""
    model = model_of(family)
    engine.freeze(model)
    return engine.why_not(model) or ""


@pytest.mark.parametrize("family", FAMILIES)
def test_both_paths_give_the_same_samples_log_probabilities_and_gradients(family):
    """On every family that the fast path serves. Where it does not, the plain path is compared with
    one unpadded row at a time. Catches: a model whose attention does more than the fast path knows
    (sinks, soft caps, windows), padding that a family does not hide."""
    plain = policy_of(family, "plain")
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    expected = scored(plain, PROMPTS[0][0], COMPLETIONS, weight)
    assert all(gradient.any() for gradient in expected[3].values())
    rows = [scored(plain, PROMPTS[0][0], [c])[0][0] for c in COMPLETIONS]
    for i, row in enumerate(rows):
        torch.testing.assert_close(expected[0][i, :len(row)], row, rtol=1e-5, atol=1e-5)
    drawn = migrate.sample(plain, PROMPTS, seed=3)
    assert [len(completions) for completions in drawn] == [3, 2]
    if reason(family):
        with pytest.raises(UserError, match="--engine shared cannot serve"):
            policy_of(family, "shared")
        return
    shared = policy_of(family, "shared")
    assert not shared.slow_because and plain.slow_because == "--engine plain"
    assert migrate.sample(shared, PROMPTS, seed=3) == drawn
    ours = scored(shared, PROMPTS[0][0], COMPLETIONS, weight)
    for a, b in zip(ours[:3], expected[:3]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for name, gradient in expected[3].items():
        error = (ours[3][name] - gradient).abs().max()
        assert error < 1e-5 * max(1.0, gradient.abs().max()), name


def test_a_window_as_long_as_the_context_is_none():
    """Prompt and completion fill the context here. Catches: a fast path that forgets, or does not
    forget, what the model's own attention sees."""
    for family in ("Mistral with a window", "Phi 3"):
        settings = dict(sliding_window=15, max_position_embeddings=15)      # 9 + 6 tokens
        fast, plain = (policy_of(family, path, **settings) for path in ("shared", "plain"))
        assert migrate.sample(fast, PROMPTS, 3) == migrate.sample(plain, PROMPTS, 3)
        prompt, completions = PROMPTS[0][0], [random_ids(6, 7), random_ids(6, 8)]
        difference = scored(fast, prompt, completions)[0] - scored(plain, prompt, completions)[0]
        assert difference.abs().max() < 1e-5
        model = model_of(family, **settings | {"sliding_window": 14})
        assert engine.why_not(model) == "it has layers with a sliding window"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_constant_factor_of_the_logits_is_found_and_a_soft_cap_is_none(dtype):
    """Catches: a soft cap that passes for linear while the logits are small; a factor that is not
    exactly 1, which would change every result."""
    for family, setting, expected in [
            ("Llama 2, 3", {}, 1.0), ("Granite", {"logits_scaling": 6.0}, 1 / 6),
            ("Cohere", {"logit_scale": 0.8333}, 0.8333),
            ("Gemma 2", {"final_logit_softcapping": 30.0}, None),
            ("Gemma 2", {"final_logit_softcapping": None}, 1.0)]:
        for size in (1e-3, 1.0):
            model = model_of(family, **setting, tie_word_embeddings=False).to(dtype)
            model.get_output_embeddings().weight.data.mul_(size)
            found = check.logit_scale(model)
            if expected in (None, 1.0):
                assert found == expected
            else:
                assert found == pytest.approx(expected, rel=1e-6 if dtype.itemsize == 4 else 2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_in_a_model_is_random_once_it_is_frozen(family):
    """Every rate of the configuration is 0.5 here. Catches: dropout that is no module (OPT,
    Seed-OSS), layers that are left out (OPT), noise in a router (Phi 3.5 MoE)."""
    config = FAMILIES[family][0].to_dict()
    rates = {name: 0.5 for name, value in config.items()
             if re.search("drop|jitter", name) and isinstance(value, int | float)}
    model, ids = model_of(family, **rates).train(), torch.tensor([PROMPTS[0][0]] * 4)
    with torch.no_grad():
        once, again = (model(ids).logits for _ in range(2))
    assert torch.equal(once, again) == (not rates)
    policy = policy_of(family, **rates)
    once, again = (scored(policy, PROMPTS[0][0], COMPLETIONS)[0] for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_lora_targets_fit(family):
    """Catches: a family in which no layer is called q_proj; a layer that is never called."""
    policy = policy_of(family, targets=default_targets(family))
    gradients = scored(policy, PROMPTS[0][0], COMPLETIONS, torch.ones(3, 5))[3]
    layers = FAMILIES[family][0].num_hidden_layers - (family == "Qwen 3.5")     # one is linear
    assert len(gradients) == 2 * layers * len(default_targets(family).split(","))
    assert all(gradient.any() for gradient in gradients.values())


def test_all_linear_leaves_experts_and_routers_alone():
    """peft adapts what it can: in most families all experts, and routers, which crashes in some."""
    for family in ("Mixtral", "Qwen 3 MoE", "OLMoE", "Phi 3.5 MoE", "AFMoE", "gpt-oss",
                   "DeepSeek 3"):
        assert all(".self_attn." in name for name in policy_of(family).lora), family


def test_experts_with_lora_weights_are_sampled_as_they_are_scored():
    """peft adapts experts if the user names a layer that only some blocks have in plain. Catches:
    a fast path that takes stacked experts for a matrix."""
    fast, plain = (policy_of("Qwen 3 MoE", path, "gate_proj,up_proj,down_proj")
                   for path in ("shared", "plain"))
    assert any("expert" in name for name in fast.lora)
    assert migrate.sample(fast, PROMPTS, 3) == migrate.sample(plain, PROMPTS, 3)
    rows = [scored(policy, PROMPTS[0][0], COMPLETIONS)[0] for policy in (fast, plain)]
    torch.testing.assert_close(*rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family, targets, says", [
    ("GPT-2", "q_proj,v_proj", "no layer 'q_proj': choose from c_attn, c_proj, c_fc, or all-lin"),
    ("Llama 2, 3", "q_proj,vproj", "no layer 'vproj'"),         # peft would take q_proj alone
    ("Llama 2, 3", "q_proj,lm_head", "the output layer"),       # the fast path knows it as frozen
    ("Llama 2, 3", "embed_tokens,q_proj", "the embeddings"),
])
def test_lora_targets_that_do_not_fit_are_one_line_with_the_choices(family, targets, says):
    with pytest.raises(UserError, match=re.escape(says)):
        policy_of(family, targets=targets)


def test_a_search_takes_the_layers_of_its_model_unless_the_user_names_some(tmp_path, capsys):
    """And its settings say which. Catches: a resume that takes them for a change."""
    argv = ["--model", folder_of("gpt2"), "--steps", "1", "--max-new-tokens", "3",
            "--warm-start-words", "3", "--out", tmp_path / "run"]
    code, out, _ = command_line(capsys, *argv)
    assert code == 0 and "LoRA r=64 on c_attn" in out
    assert "lora_targets c_attn (q_proj,v_proj)" in " ".join(out.split())
    assert read_json(tmp_path / "run" / "config.json")["config"]["lora_targets"] == "c_attn"
    assert command_line(capsys, "--resume", tmp_path / "run")[0] == 0
    argv[-1] = tmp_path / "another"
    code, _, err = command_line(capsys, *argv, "--lora-targets", "q_proj,v_proj")
    assert code == 2 and "choose from c_attn, c_proj, c_fc, or all-linear" in err


MODELS_PAGE = """\
# Which models run, and on which path

Any causal language model of transformers runs. Where a model allows it, the fast path (`engine/`)
computes the prompt once for all rows of a group. Else the plain functions of `migrate.py` do the
work. They are slower and give the same results. A run that takes the plain path says so, and why.

A sliding window needs the plain path only where it is shorter than the model's context. Where a
model multiplies its logits by a constant (Granite, Cohere), the fast path divides the temperature
by it.

`tests/test_engine.py` builds a small model of each family with random weights. It compares both
paths where a family has both, and makes this table. (`MAKE_DOCS=1 python -m pytest -q
tests/test_engine.py` writes it anew.)

The last column says which layers have LoRA weights if `--lora-targets` is not given. They make the
queries and the values. In some families the same layer makes the keys. `--lora-targets all-linear`
means every linear layer but the output layer. In a mixture of experts it means the linear layers
of the attention: experts and routers stay as they are.

| family | for example | path | LoRA by default |
|---|---|---|---|
"""


def models_page() -> str:
    """docs/models.md."""
    lines = []
    for family, (_, examples) in FAMILIES.items():
        path = f"plain: {reason(family)}" if reason(family) else "fast"
        lines.append(f"| {family} | {examples} | {path} | {default_targets(family)} |\n")
    return MODELS_PAGE + "".join(lines)


def test_the_table_of_families_is_true():
    """Catches: a page that promises a path that a model does not take any more."""
    page = HERE / "docs" / "models.md"
    if os.environ.get("MAKE_DOCS"):
        page.write_text(models_page())
    assert page.read_text() == models_page()


def test_the_plain_path_serves_what_the_fast_one_cannot_in_a_whole_search(tmp_path):
    """Windows and state space models are slower, never refused."""
    for family in ("Gemma 3", "Mamba"):
        config = migrate.resolve(dict(steps=2, lora_targets=default_targets(family), model="x",
                                      preset="paper", max_new_tokens=3), WordSearch())
        model = transformers.AutoModelForCausalLM.from_config(config_for_words(family))
        sharpen(model)
        policy = migrate.load_policy(config, family, RunOptions(), loaded=(model, tokenizer()))
        said = []
        run = Run(tmp_path / family, {}, False)
        run.say = said.append

        class Letter(Letters):
            def parse(self, completion):
                return [completion[:3]] if completion.strip() else []
        summary = migrate.search(config, migrate.METHODS["migrate"], Letter(), policy, run)
        assert summary["proposals"] == 20 and summary["evaluations"] > 3
        assert "the plain path, which is slower" in said[0] and "memory:" in said[1]


def config_for_words(family: str):
    config = type(FAMILIES[family][0]).from_dict(FAMILIES[family][0].to_dict())
    config.vocab_size, config.max_position_embeddings = len(tokenizer()), 2048
    return config


# ------------------------------------------------------------------------- details of the fast path

@pytest.mark.parametrize("kind", KINDS)
def test_offloading_and_small_chunks_change_nothing(kind, monkeypatch):
    """With the prompt's activations moved and the logits in several chunks. Catches: a chunk left
    out, gradients that do not come back from the CPU."""
    policy = load(folder_of(kind), temperature=0.7)
    assert not policy.slow_because
    prompt_ids = chat.encode(policy, WordSearch().prompt())
    completions = completions_for(policy)
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    expected = scored(policy, prompt_ids, completions, weight)
    for size, offload, chunk in ((4, True, 2**24), (2, False, 2**10), (1, True, 1)):
        monkeypatch.setattr(logprobs, "CHUNK", chunk)
        policy.micro_batch, policy.offload = size, offload
        ours = scored(policy, prompt_ids, completions, weight)
        for a, b in zip(ours[:3], expected[:3]):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        for name, gradient in expected[3].items():
            error = (ours[3][name] - gradient).abs().max()
            assert error < 1e-5 * max(1.0, gradient.abs().max()), (name, size, offload)


def test_the_memory_of_an_update_is_measured_and_decides_the_micro_batches(monkeypatch):
    """The bytes that a backward pass needs, counted without keeping them, against a count of what
    really is kept."""
    policy = load(folder_of("llama3"))
    model = policy.model
    prompt_ids, rows = chat.encode(policy, WordSearch().prompt()), [[5] * 40] * 3

    def score():
        return logprobs.completion_pass(model, logprobs.prompt_pass(model, prompt_ids), rows, 1.0)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.data_ptr(), x),
                                                  lambda x: x):
        alive = score()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept.values()}
    expected = sum(n for pointer, n in storages.items() if pointer not in weights)
    measured, _ = memory.activations(model, score)
    assert alive and measured == pytest.approx(expected, rel=0.02)

    plans = []
    for free in (2**40, 2**22, 5 * 2**19):
        monkeypatch.setattr(plan, "free_memory", lambda model, free=free: free)
        plans.append(plan.plan_shared(model, prompt_ids, 10, 40, 1.0)[0])
    assert plans[0] == 10 > plans[1] > plans[2] == 1
    monkeypatch.setattr(plan, "free_memory", lambda model: 2**40)
    assert plan.plan_shared(model, prompt_ids, 10, 40, 1.0, size=4)[0] == 4     # the user's choice


def test_what_does_not_fit_into_memory_is_told_before_the_search(monkeypatch, capsys, tmp_path):
    """Catches: a search that the system kills in its first step, and advice that does not help."""
    def search(*flags):
        return command_line(capsys, "--task", "wordsearch", "--steps", 1, "--preset", "tiny",
                            "--out", tmp_path / "-".join(map(str, flags)), *flags)
    code, _, error = search("--n-neighbors", 10**8)
    assert code == 2 and "a group of 100000000 rows takes more than" in error
    assert int(re.search(r"a group of (\d+) rows or less", error)[1]) > 1000
    policy, config = load(folder_of("tiny")), config_for(folder_of("tiny"), n_on_policy=64)
    monkeypatch.setattr(plan, "free_memory", lambda model: 180 * 2**20)
    policy.micro_batch = 64
    with pytest.raises(UserError, match=r"an update of \d+ rows at a time .* lower --micro-b"):
        engine.fit_into_memory(policy, [7] * 20, config, migrate.token_logprobs)
    policy.micro_batch = 0
    assert "micro-batches of" in engine.fit_into_memory(policy, [7] * 20, config,
                                                        migrate.token_logprobs)
    policy.micro_batch = 0
    with pytest.raises(UserError, match="an update of 1 rows at a time .* a smaller model"):
        engine.fit_into_memory(policy, [7] * 2000, config, migrate.token_logprobs)



def test_the_plain_path_is_cut_to_fit_as_well(monkeypatch):
    """Catches: a plan that forgets that the plain path keeps the prompt once for each row."""
    policy, rows = load(folder_of("llama3"), "plain"), []
    config = config_for(folder_of("llama3"), max_new_tokens=40)
    monkeypatch.setattr(plan, "free_memory", lambda model: 2**23)
    for P in (30, 300, 1500):
        policy.micro_batch = 0
        line = engine.fit_into_memory(policy, [7] * P, config, migrate.token_logprobs)
        rows.append(policy.micro_batch)
        assert f"of {policy.micro_batch}" in line
    assert rows[0] == 10 > rows[1] > rows[2] >= 1


@pytest.mark.parametrize("kind", ["llama3", "qwen3"])
def test_rows_that_share_the_prompts_keys_are_rows_with_copies_of_them(kind):
    """The attention of an update in 16 bit, here in fp32, where it can be compared. Catches: a
    token that sees a later one, heads that read another's keys, gradients lost at the prompt."""
    policy = load(folder_of(kind))
    ids = torch.tensor([[5, 9, 4], [7, 7, 2]], device=policy.model.device)
    found = []
    for layer_of in (GroupLayer, None):
        prompt = [x.detach().requires_grad_() for x in
                  logprobs.prompt_pass(policy.model, random_ids(7, 1))[1:]]
        cache = logprobs.cache_of_rows(prompt, 2, 3)
        if layer_of:
            cache.layers = [layer_of(*pair) for pair in zip(prompt[::2], prompt[1::2])]
        hidden = attention.inner_model(policy.model)(input_ids=ids, past_key_values=cache,
                                                     use_cache=True).last_hidden_state
        weight = torch.linspace(-1, 1, hidden.numel(), device=hidden.device).view_as(hidden)
        (hidden * weight).sum().backward()
        found.append([hidden, *(x.grad for x in prompt)])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*found))


@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("kind", ["llama3", "qwen2", "qwen3"])
def test_the_layers_by_hand_are_those_of_transformers(kind, size):
    """size: rows of a micro-batch; 0: the prompt is in the same pass. Catches: biases, norms of
    heads or positions that are left out, LoRA on some of the joined layers alone, a row of real
    tokens that reads another's, a gradient lost in joining."""
    found = []
    for by_hand in (True, False):
        policy = load(folder_of(kind), lora_targets="q_proj,o_proj,gate_proj,down_proj")
        policy.micro_batch = size
        assert llama.of(policy.model)
        if not by_hand:
            policy.model.get_base_model().llama = None
        move_lora(policy)
        completions = [random_ids(n, n) for n in (4, 1, 7, 2)]
        logprobs_, _, _, gradients = scored(policy, random_ids(9, 3), completions,
                                            torch.linspace(-1, 1, 28).view(4, 7))
        drawn = migrate.sample(policy, [(random_ids(9, 1), 3), (random_ids(4, 2), 2)], 0)
        found.append((logprobs_, gradients, drawn))
    (ours, gradients, drawn), (theirs, others, also) = found
    assert torch.allclose(ours, theirs, atol=1e-4) and drawn == also
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-4), name


def test_a_model_that_the_layers_by_hand_would_compute_otherwise_keeps_its_own():
    """Catches: a bias on some of the joined layers alone, or another computation under the same
    name, that ends the loading or goes unnoticed."""
    def fresh():
        model = model_of("Llama 2, 3")
        model.get_output_embeddings().logit_scale = 1.0
        return model
    model = fresh()
    assert check.by_hand(model)
    model.model.layers[1].self_attn.q_proj.bias = torch.nn.Parameter(torch.ones(32))
    assert check.by_hand(model) is None
    model = fresh()
    model.model.layers[0].mlp.act_fn.forward = torch.relu
    assert check.by_hand(model)             # the module's own function is used
    model.model.layers[0].register_forward_hook(lambda module, args, out: out * 2)
    assert check.by_hand(model) is None


def test_a_token_is_drawn_as_often_as_its_probability_says():
    """In 16 bit, where a block is drawn first. Catches: tokens behind the end of a vocabulary that
    is no multiple of a block, tokens that have no chance, blocks that count all alike."""
    torch.manual_seed(0)
    logits = torch.full((2, 600), float("-inf"))
    logits[0, [3, 255, 256, 599]] = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    logits[1, :512] = 0.0
    drawn = torch.stack([decode.draw(logits, exact=False) for _ in range(4000)])
    counts = torch.bincount(drawn[:, 0], minlength=600)
    assert counts.nonzero().flatten().tolist() == [3, 255, 256, 599]
    assert torch.allclose(counts[[3, 255, 256, 599]] / 4000, torch.tensor([0.1, 0.2, 0.3, 0.4]),
                          atol=0.03)
    assert drawn[:, 1].max() < 512 and 230 < drawn[:, 1].float().mean() < 281


@pytest.mark.parametrize("T", [3, 40])
def test_in_bf16_the_logits_are_fp32_and_both_paths_agree(T):
    """Short and long completions take different attention (D = 16). Catches: logits rounded to 16
    bit, tied input weights that change, a path that computes something else in 16 bit alone."""
    found = []
    for path in ("shared", "plain"):
        config = config_for(folder_of("llama3"))
        policy = migrate.load_policy(config, str(folder_of("llama3")),
                                     RunOptions(engine=path, dtype="bf16"))
        move_lora(policy)
        assert policy.model.get_input_embeddings().weight.dtype == torch.bfloat16
        logits = policy.model(torch.tensor([[5, 6]], device=policy.model.device)).logits
        assert logits.dtype == torch.float32 and not torch.equal(logits, logits.bfloat16().float())
        completions = [random_ids(T, 1), random_ids(T - 1, 2)]
        found.append(scored(policy, random_ids(9, 3), completions, torch.ones(2, T)))
    (shared, _, _, gradients), (plain, _, _, others) = found
    assert (shared - plain).abs().max() < 0.1
    a, b = (torch.cat([g.flatten().float() for g in x.values()]) for x in (gradients, others))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99


@pytest.mark.parametrize("kind", ["llama3", "gpt2"])
def test_a_prompt_is_computed_once_for_the_same_weights(monkeypatch, kind):
    """Catches: a prompt's keys and values used again after an update, with LoRA switched off, or
    where they take much memory; and computed again where they need not be."""
    policy, fresh = load(folder_of(kind)), load(folder_of(kind))
    runs = []

    def counted(run, runs=runs):
        def and_run(first, ids, *rest):
            runs.append(ids)
            return run(first, ids, *rest)
        return and_run
    monkeypatch.setattr(attention, "run_prompt", counted(attention.run_prompt))         # gpt2
    monkeypatch.setattr(llama.Llama, "run_prompts", counted(llama.Llama.run_prompts))   # llama3
    of_a_batch = 1 if kind == "llama3" else 2
    prompts = [(random_ids(9, 1), 3), (random_ids(4, 2), 2)]
    first = migrate.sample(policy, prompts, 0)
    assert migrate.sample(policy, prompts, 0) == first and len(runs) == of_a_batch
    migrate.sample(policy, prompts[:1], 0)      # computed alone its last bits might be others
    assert len(runs) == of_a_batch + 1
    optimizer = torch.optim.AdamW(policy.lora.values(), lr=0.1, fused=True)
    for p in policy.lora.values():
        p.grad = torch.ones_like(p)
    optimizer.step()            # a fused step leaves the weights' version counters as they are
    for name, p in policy.lora.items():
        fresh.lora[name].data.copy_(p.data)
    assert migrate.sample(policy, prompts, 0) == migrate.sample(fresh, prompts, 0) != first
    runs.clear()
    with policy.model.disable_adapter():
        migrate.sample(policy, prompts, 0)
    assert len(runs) == of_a_batch
    migrate.sample(policy, prompts, 0)
    before = len(runs)
    for name, p in policy.lora.items():         # without an optimizer, and every norm stays
        p.data.neg_() if "lora_B" in name else None
    assert migrate.sample(policy, prompts, 0) and len(runs) == before + of_a_batch
    monkeypatch.setattr(attention, "KEPT", 0)
    migrate.sample(policy, prompts, 0)
    migrate.sample(policy, prompts, 0)
    assert len(runs) == before + 2 * of_a_batch


def test_the_style_of_the_prompts_does_not_depend_on_the_data_type():
    """Catches: an output layer that counts twice where it is kept in fp32 beside the input's, and
    LoRA weights that count."""
    sizes = {migrate.load_policy(config_for(folder_of("qwen2"), lora_r=r), str(folder_of("qwen2")),
                                 RunOptions(dtype=dtype)).n_parameters
             for dtype, r in (("fp32", 4), ("bf16", 32))}
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder_of("qwen2"))
    assert sizes == {plain.num_parameters()}


def test_a_context_ends_where_the_angles_of_a_prompt_would_change():
    config = copy.deepcopy(FAMILIES["Phi 3.5, 4"][0])
    config.update({"max_position_embeddings": 96, "original_max_position_embeddings": 16})
    half = config.hidden_size // config.num_attention_heads // 2
    config.rope_parameters = {"rope_type": "longrope", "rope_theta": 1e4,
                              "short_factor": [1.0] * half, "long_factor": [4.0] * half,
                              "original_max_position_embeddings": 16}
    assert chat.context_of(config) == 16
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4}
    assert chat.context_of(config) == 96
    both = transformers.Gemma3Config(text_config={"max_position_embeddings": 77})   # and pictures
    assert chat.context_of(both) == 77


def test_a_padding_token_that_the_model_has_no_vector_for_is_not_used():
    """Catches: a tokenizer that was given [PAD] and a model that was not, which crashes where the
    first row of a batch ends."""
    policy = load(folder_of("llama3"))
    policy.tokenizer.add_special_tokens({"pad_token": "<of its own>"})
    assert policy.tokenizer.pad_token_id >= policy.model.get_input_embeddings().num_embeddings
    settings = engine.exact_sampling(policy.model, policy.tokenizer, "", config_for("tiny"))
    assert settings.pad_token_id in settings.eos_token_id


def test_a_rendered_completion_that_is_too_long_is_not_replayed():
    """Of the warm start. Catches: rows that neither the context nor the plan of memory knows."""
    policy = load(folder_of("llama3"))
    archive = migrate.Archive(Evaluation(i, 0, 0, "warm-start", [], "ab" * n, n / 50, True)
                              for i, n in enumerate((1, 50)))
    config = config_for(folder_of("llama3"), n_greedy=2, max_new_tokens=8)
    rows = migrate.replay(policy, Letters(), archive, config, random.Random(0))
    assert [row.candidate for row in rows] == ["ab"]


@pytest.mark.parametrize("said, allowed", [(("1000", "400"), 607), (("max", "400"), math.inf)])
def test_a_container_may_allow_less_memory_than_the_machine_has(said, allowed, tmp_path,
                                                                monkeypatch):
    monkeypatch.setattr(plan, "CGROUP", tmp_path)
    assert plan.of_container() == math.inf
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 3\nactive_file 4\n")
    for name, text in zip(("memory.max", "memory.current"), said):
        (tmp_path / name).write_text(text + "\n")
    assert plan.of_container() == allowed
    policy = load(folder_of("llama3"))
    assert plan.free_memory(policy.model) <= allowed


def test_weights_are_the_same_tensors_after_a_draw():
    """Catches: LoRA merged and unmerged by adding and subtracting, which drifts (a resumed run
    would differ in its last bits); a draw that fails and leaves the merged weights; LoRA rounded
    into 4-bit weights."""
    for kind, quantize in (("qwen2", "none"), ("gpt2", "none"), ("llama3", "4bit")):
        policy = load(folder_of(kind), quantize=quantize)
        before = {name: (p.data_ptr(), p.clone()) for name, p in policy.model.named_parameters()}
        prompt_ids = chat.encode(policy, "x")
        scores = scored(policy, prompt_ids, [[5, 6, 7]])[0]
        migrate.sample(policy, [(prompt_ids, 3)], seed=0)
        broken = dataclasses.replace(policy)
        broken.generation = None
        with pytest.raises(AttributeError):
            migrate.sample(broken, [(prompt_ids, 3)], seed=0)
        for name, p in policy.model.named_parameters():
            assert p.data_ptr() == before[name][0] and torch.equal(p, before[name][1]), name
        assert torch.equal(scored(policy, prompt_ids, [[5, 6, 7]])[0], scores)


def test_a_draw_with_lora_switched_off_is_one_from_the_base():
    """Catches: merged weights that forget that the adapter is disabled."""
    policy, fresh = load(folder_of("qwen2")), load(folder_of("qwen2"))
    for name, p in fresh.lora.items():
        if "lora_B" in name:
            p.data.zero_()
    prompts = [(chat.encode(policy, "x"), 50)]
    with policy.model.disable_adapter():
        base = migrate.sample(policy, prompts, seed=1)
    assert base == migrate.sample(fresh, prompts, seed=1) != migrate.sample(policy, prompts, seed=1)


@pytest.mark.parametrize("kind", ["llama3", "tiny"])
def test_4bit_weights_train_after_sampling_and_equal_their_dequantised_twin(kind):
    """Real NF4 weights with double quantisation. Catches: LoRA gradients that vanish once an
    evaluation-mode forward has repacked the weights, and a quantised forward that differs from the
    same computation on the dequantised weights (tolerance 2e-3 in log-probability, 2% in gradient:
    bitsandbytes multiplies in its own precision)."""
    import bitsandbytes as bnb
    policy = load(folder_of(kind), quantize="4bit")
    prompt_ids = chat.encode(policy, WordSearch().prompt())
    migrate.sample(policy, [(prompt_ids, 4)], seed=0)
    completions = completions_for(policy)
    policy.micro_batch, policy.offload = 2, True
    ours, _, mask, _ = scored(policy, prompt_ids, completions, torch.ones(4, 9))
    layers = {name: module for name, module in policy.model.named_modules()
              if isinstance(module, bnb.nn.Linear4bit)}
    states = [m.weight.quant_state for m in layers.values()]
    assert states and all(s.nested and s.quant_type == "nf4" for s in states)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.lora.values())

    twin = load(folder_of(kind))
    with torch.no_grad():
        for name, module in twin.model.named_modules():
            if name in layers:
                weight = layers[name].weight
                module.weight.copy_(bnb.functional.dequantize_4bit(weight.data, weight.quant_state))
    expected, _, mask = naive_logprobs(twin.model, prompt_ids, completions)
    (expected * mask).sum().backward()
    assert (ours * mask - expected * mask).abs().max() < 2e-3
    for (name, p), q in zip(policy.lora.items(), twin.lora.values()):
        assert (p.grad - q.grad).norm() < 0.02 * q.grad.norm() + 1e-6, name


def test_an_attention_that_the_fast_path_does_not_know_is_noticed():
    """gpt-oss adds a learned sink to every softmax. Nothing in its configuration says so: the check
    by trial has to find it."""
    config = config_of("GptOss", **SHAPE, **WIDE, num_local_experts=2, num_experts_per_tok=1,
                       layer_types=["full_attention"] * 2)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for layer in model.model.layers:
        torch.nn.init.constant_(layer.self_attn.sinks, 3.0)
    own = model.config._attn_implementation
    assert engine.why_not(model) and model.config._attn_implementation == own != attention.NAME


def test_a_model_whose_code_fails_on_the_fast_path_takes_the_plain_one():
    """DiffLlama cuts the values in two, JetMoE repeats the keys: not what a cache of a shared
    prompt can do."""
    for config in (config_of("DiffLlama", **SHAPE), config_of("JetMoe", **SHAPE)):
        model = transformers.AutoModelForCausalLM.from_config(config)
        assert engine.why_not(model) == "its attention does more than softmax(q k) v"
