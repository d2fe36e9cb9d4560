"""What several test files need: small models of the real families, a task, a search."""
from __future__ import annotations

import atexit
import functools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import migrate
from domains.answers import words_in
from migrate import Config, Policy
from runlog.errors import exit_code
from runlog.folder import Run
from runlog.ledger import read_jsonl
from runlog.settings import RunOptions, build_method, model_source
from tasks import Score, Task, WordSearch

HERE = Path(__file__).resolve().parent.parent       # the repository
torch.set_num_threads(1)        # bit-exact repeats, and faster than two for models this small

# ------------------------------------------------------------------------------- small models

LLAMA3_TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
CHATML_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SHAPE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=2048)
KINDS = ["llama3", "qwen2", "qwen3", "gpt2", "tiny"]


def byte_level_tokenizer(special, eos, pad, template, bos=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = [WordSearch().prompt(), WordSearch().variation_prompt(["cement", "mortar"]),
            '["cement", "mortar"]']
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(text, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=pad, bos_token=bos,
        chat_template=template, padding_side="left")


def llama3():
    """An untied head, three EOS ids, no padding token of its own."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>",
               "<|start_header_id|>", "<|end_header_id|>"]
    tokenizer = byte_level_tokenizer(special, "<|eot_id|>", None, LLAMA3_TEMPLATE,
                                     bos="<|begin_of_text|>")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=False, bos_token_id=0,
        eos_token_id=[1, 2, 3], **SHAPE))
    return tokenizer, model, dict(do_sample=True, temperature=0.6, top_p=0.9,
                                  eos_token_id=[1, 2, 3], bos_token_id=0)


def qwen(kind):
    """A tied head, attention biases (2.5) or query-key norms (3), and sampling defaults that must
    not leak into a search."""
    tokenizer = byte_level_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                     "<|im_end|>", "<|endoftext|>", CHATML_TEMPLATE)
    settings = dict(vocab_size=len(tokenizer), tie_word_embeddings=True, bos_token_id=0,
                    eos_token_id=2, use_sliding_window=False, **SHAPE)
    if kind == "qwen2":
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**settings))
    else:
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(head_dim=8, **settings))
    return tokenizer, model, dict(do_sample=True, temperature=0.7, top_p=0.8, top_k=20,
                                  repetition_penalty=1.05, eos_token_id=[2, 0], pad_token_id=0)


def gpt2():
    """No chat template, learned positions, dropout, pad = eos."""
    tokenizer = byte_level_tokenizer(["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>", None)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=0,
        eos_token_id=0))
    return tokenizer, model, dict(eos_token_id=0, bos_token_id=0)


def sharpen(model):
    """Random weights of this size predict almost uniformly: this makes some tokens likelier."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)


def build(kind: str, folder: Path) -> Path:
    """A folder as the Hub would deliver it: random weights, but the tokenizer, special tokens,
    head, attention and generation defaults of the family."""
    torch.manual_seed(0)
    makers = {"llama3": llama3, "gpt2": gpt2}
    tokenizer, model, defaults = makers[kind]() if kind in makers else qwen(kind)
    sharpen(model)
    model.generation_config = transformers.GenerationConfig(**defaults)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def folder_of(kind: str) -> Path:
    """The folder of a small model, built once; "tiny": the bundled policy for words."""
    if kind == "tiny":
        return HERE / "tiny" / "wordsearch"
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return build(kind, Path(folder.name))


def config_for(folder, **settings) -> Config:
    """The settings of a word search on some model."""
    defaults = dict(model=str(folder), preset="paper", lora_targets="all-linear", lora_r=4,
                    max_new_tokens=12)
    return migrate.resolve({**defaults, **settings}, WordSearch())


def load(folder, engine="auto", quantize="none", **settings) -> Policy:
    """A policy whose LoRA weights are not fresh: B starts at zero, where half of the gradients
    vanish, so it is moved."""
    options = RunOptions(engine=engine, quantize=quantize)
    policy = migrate.load_policy(config_for(folder, **settings), str(folder), options)
    move_lora(policy)
    return policy


def move_lora(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in policy.lora.items():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))


def completions_for(policy: Policy, lengths=(5, 1, 9, 4)) -> list[list[int]]:
    """Rows of different lengths with an EOS at the end of some, and pad-like tokens inside."""
    generator, vocabulary = random.Random(0), policy.model.config.vocab_size
    rows = [[generator.randrange(vocabulary) for _ in range(n)] for n in lengths]
    rows[0][-1] = min(policy.eos_ids)
    rows[2][3] = policy.generation.pad_token_id
    return rows


def scored(policy: Policy, prompt_ids, completions, weight=None):
    """token_logprobs of the whole group: log-probabilities, entropies and mask, (G, T) each, and
    with a weight (G, T) the gradients of sum(weight * log-probabilities)."""
    shape = len(completions), max(map(len, completions))
    logprobs, entropies, masks = (torch.zeros(shape) for _ in range(3))
    policy.model.zero_grad()
    with torch.set_grad_enabled(weight is not None):
        for rows, *tensors in migrate.token_logprobs(policy, prompt_ids, completions):
            T = tensors[0].shape[1]
            if weight is not None:
                here = weight[rows, :T].to(tensors[0].device)
                (tensors[0] * tensors[2] * here).sum().backward()
            for whole, part in zip((logprobs, entropies, masks), tensors):
                whole[rows, :T] = part.detach().cpu()
    return logprobs, entropies, masks, {name: p.grad for name, p in policy.lora.items()}


def naive_logprobs(model, prompt_ids, completions, temperature=1.0, pad=0):
    """The textbook way, written independently of migrate.py: one padded batch with an attention
    mask, full logits, torch's Categorical. Log-probabilities, entropies, mask, (G, T) each."""
    longest, P = max(map(len, completions)), len(prompt_ids)
    ids = torch.tensor([prompt_ids + c + [pad] * (longest - len(c)) for c in completions])
    real = torch.tensor([[1] * (P + len(c)) + [0] * (longest - len(c)) for c in completions])
    logits = model(input_ids=ids.to(model.device), attention_mask=real.to(model.device),
                   use_cache=False).logits[:, P - 1:-1].cpu()
    predictions = torch.distributions.Categorical(logits=logits.float() / temperature)
    return predictions.log_prob(ids[:, P:]), predictions.entropy().detach(), real[:, P:].float()


# -------------------------------------------------------------------------- a task and a search

class Letters(Task):
    """Real prompts for the bundled policy, a black box of its own: the share of a word's letters
    that are vowels."""
    name, bundled = "letters", "wordsearch"
    presets = {"paper": {}, "tiny": dict(proposals=60, n_on_policy=3, n_greedy=2, n_neighbors=5,
                                         lr=1e-3, lora_r=8, max_new_tokens=4)}
    calls: list = []            # every candidate that the scorer was called on, over all instances

    def prompt(self):
        return WordSearch().prompt()

    def variation_prompt(self, parents):
        return WordSearch().variation_prompt(parents)

    def parse(self, completion):
        return words_in(completion)[-1:]

    def score(self, candidates):
        for c in candidates:
            Letters.calls.append(c)
            if "z" in c:
                yield c, Score(0.0, valid=False)
            else:
                yield c, Score(sum(letter in "aeiou" for letter in c) / (len(c) + 1))

    def warm_start(self, seed):
        return random.Random(seed).sample(["stone", "cement", "audio", "zebra"], 3)


class Disordered(Letters):
    """Results arrive out of order, as from a pool of workers. The process may die in a batch."""
    die_after = 10**9

    def score(self, candidates):
        results = list(super().score(candidates))
        for result in results[1::2] + results[::2]:
            if len(Letters.calls) >= self.die_after:
                raise KeyboardInterrupt
            yield result


def run_search(folder, task=None, resume=False, engine="auto", **settings):
    """One search, without the command line. Returns (summary, evaluations, steps, LoRA weights);
    evaluations and steps as the dicts that are on disk."""
    task = task or Letters()
    given = {"seed": 0, **settings}
    config = migrate.resolve(given, task)
    method, _ = build_method(config, task, given, migrate.METHODS)
    run = Run(Path(folder), {}, resume)
    source = model_source(config.model, task)
    policy = migrate.load_policy(config, source, RunOptions(engine=engine))
    Letters.calls = []
    summary = migrate.search(config, method, task, policy, run)
    run.finish(summary)
    evaluations, steps = (read_jsonl(Path(folder) / f) for f in ("evals.jsonl", "steps.jsonl"))
    return summary, evaluations, steps, {k: p.detach().clone() for k, p in policy.lora.items()}


def without_times(lines):
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")}
            for line in lines]


def same_weights(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def command_line(capsys, *argv):
    """migrate.py in this process: (exit code, standard output, standard error)."""
    capsys.readouterr()
    code = exit_code(migrate.main, [str(a) for a in argv])
    return code, *capsys.readouterr()


def read_json(path: Path) -> dict:
    return json.loads(Path(path).read_text())


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


# ------------------------------------------------------------------ the Hub, in a fresh process

IN_A_FRESH_PROCESS = """
import contextlib, io, json, os, sys, time, urllib.request
import migrate
from engine import chat
from huggingface_hub import HfApi, constants, hf_hub_download
from runlog.errors import exit_code
assert not constants.HF_HUB_OFFLINE and not os.path.exists(os.environ["HF_HOME"])  # an empty cache

def no_wait(seconds):       # neither we nor the client wait before another try
    pass
time.sleep = no_wait

def command(*argv):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = exit_code(migrate.main, list(argv))
    return code, out.getvalue()

def faults(*faults):
    request = urllib.request.Request(os.environ["HF_ENDPOINT"] + "/faults",
                                     json.dumps(faults).encode())
    urllib.request.urlopen(request)
"""


def fresh_process(script, *arguments, server, home):
    """Runs a script from the repository root, with nothing of this process's Hub settings.

    Returns (what its last line of output holds as JSON, all of its output).
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
                    "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], cwd=HERE,
                            capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stdout + result.stderr
