"""Measures speed and memory.

    python -m tools.bench               # a GRPO step against TRL; its parts against the plain path
    python -m tools.bench memory        # peak memory of two steps, here and in TRL
    python -m tools.bench gpu 8b        # random 4-bit weights in the shape of Llama-3.1-8B
    python -m tools.bench sandbox       # generated programs a second
    python -m tools.bench wordsearch    # where the seconds of a search go, with --preset tiny

The first two take P G C as numbers, and gpu takes P G C RANK behind the shape (8b; 3b and 1b:
Llama-3.2; toy: tiny). Only the first two use TRL, and without it they leave its part out:
pip install trl==1.16.0

Both sides of a comparison take turns in one process, so that other load on the machine disturbs
both. On CUDA seconds are those of the clock. On the CPU they are the process's CPU seconds, with
one thread. `memory` runs each side in a process of its own.

Letters: P prompt tokens, G rows of a group, C completion tokens (every completion has exactly as
many), RANK of the LoRA weights.
"""
from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")    # the Hub client reads it when it is imported

import psutil
import tokenizers
import torch
import transformers

import engine
import migrate
import tasks
from domains.sandbox import Sandbox
from domains.workers import workers
from runlog import settings
from runlog.errors import UserError, exit_code
from runlog.folder import Run
from runlog.ledger import ON_POLICY, read_jsonl

ROOT = Path(__file__).resolve().parent.parent
CUDA = torch.cuda.is_available()
SIZES = [(40, 10, 8), (256, 16, 64), (1024, 16, 128)]       # P, G, C
GPU_SIZE = (512, 10, 64, 64)                                # P, G, C, RANK
WORDS = 1664        # tokens of the vocabulary; SMALL has 5.6M parameters with it
SMALL = dict(hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4,
             num_key_value_heads=4, max_position_embeddings=4096)
LLAMA = {           # 1b, 3b and 8b: the published configurations
    "1b": dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
               num_attention_heads=32, num_key_value_heads=8, head_dim=64,
               tie_word_embeddings=True),
    "3b": dict(vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28,
               num_attention_heads=24, num_key_value_heads=8, head_dim=128,
               tie_word_embeddings=True),
    "8b": dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
               num_attention_heads=32, num_key_value_heads=8, head_dim=128,
               tie_word_embeddings=False),
    "toy": dict(vocab_size=WORDS, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)}
USAGE = ("usage: python -m tools.bench [compare|memory] [P G C], or gpu "
         f"{'|'.join(LLAMA)} [P G C RANK], or sandbox, or wordsearch")


# ------------------------------------------------------------------------------------ measurements

def clock() -> float:
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(run: Callable) -> float:
    started = clock()
    run()
    return clock() - started


def interleaved(repeats: int, **runs: Callable) -> dict[str, list[float]]:
    """The seconds of each of the runs, which take turns. Each one runs once before, to warm up."""
    for run in runs.values():
        run()
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return times


def show(size: tuple, what: str, times: dict[str, list[float]]) -> None:
    """Prints the median seconds of two sides with their range, and the median of the ratios.

    times: our seconds first, then the other's. A ratio is other / ours within one turn.
    """
    ours, other = times.values()
    spread = "; ".join(f"{name} {statistics.median(t):.3f} s [{min(t):.3f}, {max(t):.3f}]"
                       for name, t in times.items())
    ratio = statistics.median(y / x for x, y in zip(ours, other))
    print(f"{size} {what}: {spread}; {ratio:.1f}x over {len(ours)} repeats", flush=True)


def peak() -> int:
    """The most bytes that were in use at a time since the process began."""
    if CUDA:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions() -> str:
    names = ["torch", "transformers", "peft"]
    if has_trl():
        names.append("trl")
    device = f"CPU, {torch.get_num_threads()} thread"
    if CUDA:
        device = torch.cuda.get_device_name()
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{packages}; Python {sys.version.split()[0]}; {device}"


def has_trl() -> bool:
    return importlib.util.find_spec("trl") is not None


# ---------------------------------------------------------------------- one GRPO step of each side

def word_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of one token a word: w0 (padding), w1 (end of sequence), w2, .."""
    vocabulary = {f"w{i}": i for i in range(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1",
                                                pad_token="w0")


def build(folder: str, **shape) -> None:
    """Writes a random Llama and its tokenizer, as the Hub would deliver them.

    shape: settings of LlamaConfig that differ from SMALL.
    """
    word_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=WORDS, bos_token_id=None, eos_token_id=1,
                                      pad_token_id=0, tie_word_embeddings=False,
                                      **{**SMALL, **shape})
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def config_for(G: int, C: int, **changes) -> migrate.Config:
    """One update a step on G on-policy rows, LoRA r=16 on every linear layer: for both sides."""
    values = dict(n_on_policy=G, n_neighbors=0, n_greedy=0, max_new_tokens=C, inner_iterations=1,
                  lr=1e-5, mask_zero=False, lora_r=16, lora_alpha=32, lora_targets="all-linear")
    return migrate.Config(**{**values, **changes})


def policy_from(folder: str, config: migrate.Config, engine: str = "auto") -> migrate.Policy:
    """A policy from build()'s folder. engine: auto, or plain for the plain path of migrate.py."""
    options = settings.RunOptions(engine=engine, quantize="none")
    return migrate.load_policy(config, folder, options)


def prompt_of(P: int) -> list[int]:
    """P token ids without padding or end of sequence."""
    return [2 + 7 * i % (WORDS - 2) for i in range(P)]


class Side:
    """A step of migrate.search() without its task. It samples a group and updates the policy. The
    scores are made up: i / G for row i."""

    def __init__(self, policy: migrate.Policy, config: migrate.Config, P: int):
        self.policy, self.config, self.prompt, self.turn = policy, config, prompt_of(P), 0
        policy.generation.min_new_tokens = config.max_new_tokens
        self.optimizer = torch.optim.AdamW(policy.lora.values(), lr=config.lr, weight_decay=0.0,
                                           fused=True)
        self.line = engine.fit_into_memory(policy, self.prompt, config,
                                                  migrate.token_logprobs)

    def sample(self) -> list[list[int]]:
        self.turn += 1
        prompts = [(self.prompt, self.config.n_on_policy)]
        [completions] = migrate.sample(self.policy, prompts, self.turn)
        return completions

    def update(self, completions: list[list[int]]) -> None:
        G = len(completions)
        rows = [migrate.Row(ON_POLICY, [], tokens, "", score=i / G, valid=True)
                for i, tokens in enumerate(completions)]
        scores = torch.tensor([row.score for row in rows])
        migrate.train(self.config, migrate.METHODS["grpo"], self.policy, self.optimizer, rows,
                      scores, self.prompt, self.config.lr)

    def step(self) -> None:
        self.update(self.sample())


def compare(sizes: list[tuple]) -> None:
    """Prints the seconds of a step here and in TRL, and those of its update and its sampling here
    and on the plain path: a padded batch, and generate with the prompt once for each row."""
    print(versions())
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        for P, G, C in sizes:
            compare_at(folder, P, G, C)


def compare_at(folder: str, P: int, G: int, C: int) -> None:
    size, config = (P, G, C), config_for(G, C)
    repeats = 7 if P * C < 10**4 else 3
    ours = Side(policy_from(folder, config), config, P)
    print(ours.line)
    if has_trl():
        times = []

        def step_of_ours():
            times.append(seconds(ours.step))
        trl_times = train_with_trl(folder, P, G, C, repeats + 1, after_step=step_of_ours)
        show(size, "step", {"ours": times[1:], "TRL": trl_times[1:]})
    plain = Side(policy_from(folder, config, engine="plain"), config, P)
    completions = ours.sample()

    def update_ours():
        ours.update(completions)

    def update_plain():
        plain.update(completions)
    show(size, "update", interleaved(repeats, ours=update_ours, plain=update_plain))
    show(size, "sampling", interleaved(repeats, ours=ours.sample, plain=plain.sample))


# --------------------------------------------------------------------------------------------- TRL

def train_with_trl(folder: str, P: int, G: int, C: int, steps: int,
                   after_step: Callable | None = None) -> list[float]:
    """The seconds of each step of TRL's GRPOTrainer under the same settings.

    after_step: called after each step. Its seconds are not counted.
    """
    times = []

    class Timer(transformers.TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.started = clock()

        def on_step_end(self, *args, **kwargs):
            times.append(clock() - self.started)
            if after_step:
                after_step()

    trainer = make_trl_trainer(folder, P, G, C, steps, Timer())
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return times


def make_trl_trainer(folder: str, P: int, G: int, C: int, steps: int, callback):
    """A GRPOTrainer that does what Side does: the same policy, prompt, scores and loss."""
    import datasets
    import peft
    import trl
    datasets.disable_progress_bars()

    def scores(completions, **_):
        return [i / G for i in range(len(completions))]

    config = config_for(G, C)
    prompt = " ".join(f"w{i}" for i in prompt_of(P))
    return trl.GRPOTrainer(
        model=folder, reward_funcs=scores,
        train_dataset=datasets.Dataset.from_dict({"prompt": [prompt] * steps}),
        callbacks=[callback],
        peft_config=peft.LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha,
                                    target_modules=config.lora_targets, task_type="CAUSAL_LM"),
        args=trl.GRPOConfig(
            output_dir=str(Path(folder) / "trl"), per_device_train_batch_size=G,
            num_generations=G, max_completion_length=C, gradient_accumulation_steps=1,
            num_iterations=1, max_steps=steps, learning_rate=config.lr, beta=0.0,
            scale_rewards="none", loss_type="grpo", epsilon=0.2, epsilon_high=0.28,
            temperature=1.0, top_k=0, top_p=1.0, generation_kwargs={"min_new_tokens": C},
            gradient_checkpointing=False, bf16=False, use_cpu=not CUDA,
            model_init_kwargs={"dtype": "bfloat16" if CUDA else "float32"},
            report_to="none", save_strategy="no", logging_steps=10**6, disable_tqdm=True))


# ------------------------------------------------------------------------------------------ memory

def memory(sizes: list[tuple]) -> None:
    """Prints the peak memory of two steps, each side in a fresh process."""
    print(versions())
    sides = ["ours"]
    if has_trl():
        sides.append("TRL")
    for size in sizes:
        for side in sides:
            command = [sys.executable, "-m", "tools.bench", "one", side.lower(), *map(str, size)]
            out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            before, after = json.loads(out.stdout.splitlines()[-1])
            print(f"{size} {side}: peak {after / 2**20:.0f} MiB, of which the steps added "
                  f"{(after - before) / 2**20:.0f}", flush=True)


def one(side: str, P: int, G: int, C: int) -> None:
    """Takes two steps of one side, ours or trl. Prints the peak before and after them, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        config = config_for(G, C)
        if side == "ours":
            ours = Side(policy_from(folder, config), config, P)
            before = peak()
            for _ in range(2):
                ours.step()
        else:
            for name in ("datasets", "peft", "trl"):    # their memory is not that of the steps
                importlib.import_module(name)
            transformers.AutoModelForCausalLM.from_pretrained(folder)
            before = peak()
            train_with_trl(folder, P, G, C, 2)
    print(json.dumps([before, peak()]))


# --------------------------------------------------------------------------------------------- gpu

def random_4bit(shape: str):
    """A Llama of this shape with random NF4 weights. It is quantised layer by layer, so that it
    never exists in 16 bit as a whole."""
    device, dtype = "cpu", torch.float32
    if CUDA:
        device, dtype = "cuda", torch.bfloat16
    torch.manual_seed(0)
    config = transformers.LlamaConfig(max_position_embeddings=131072, rms_norm_eps=1e-5,
                                      eos_token_id=1, **LLAMA[shape])
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and name != "lm_head":
            model.set_submodule(name, random_linear_4bit(module, device, dtype))
        else:
            fill_randomly(module, device, dtype)
    model.tie_weights()
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    model.model.rotary_emb = rotary.to(device)
    model.is_loaded_in_4bit = True      # peft reads it
    return model


def random_linear_4bit(linear: torch.nn.Linear, device: str, dtype: torch.dtype):
    """A layer of NF4 weights in the shape of `linear`, whose own weights are on the meta device."""
    import bitsandbytes as bnb
    layer = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=False,
                              compute_dtype=dtype, device="meta")
    weight = torch.randn(linear.weight.shape, dtype=dtype, device=device) * 0.02
    parameter = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4",
                                  module=layer)
    layer.weight = parameter.to(device)     # this quantises it
    return layer


def fill_randomly(module: torch.nn.Module, device: str, dtype: torch.dtype) -> None:
    """Gives a module's own parameters values: ones for a norm, random ones for a matrix."""
    for name, p in list(module.named_parameters(recurse=False)):
        if p.ndim == 1:
            values = torch.ones(p.shape)
        else:
            values = torch.randn(p.shape, device=device) * 0.02
        parameter = torch.nn.Parameter(values.to(device, dtype), requires_grad=False)
        setattr(module, name, parameter)


def gpu(shape: str, P: int, G: int, C: int, rank: int) -> None:
    """Prints the seconds of sampling and of an update in three steps, and the peak memory."""
    print(versions())
    config = config_for(G, C, lora_r=rank, lora_targets="q_proj,v_proj")
    options = settings.RunOptions(quantize="4bit")
    policy = migrate.load_policy(config, shape, options,
                                 loaded=(random_4bit(shape), word_tokenizer()))
    ours = Side(policy, config, P)
    print(ours.line)
    print(f"weights and LoRA: {peak() / 2**30:.2f} GiB", flush=True)
    for step in range(3):
        started = clock()
        completions = ours.sample()
        sampled = clock()
        ours.update(completions)
        print(f"{shape} {(P, G, C)} r={rank}, step {step}: sampling {sampled - started:.2f} s, "
              f"update {clock() - sampled:.2f} s, peak {peak() / 2**30:.2f} GiB", flush=True)


# ------------------------------------------------------------------------- sandbox and word search

def sandbox() -> None:
    """Prints how long a program on three pairs takes alone, and how many run in a second."""
    with Sandbox(workers=workers()) as box:
        run_programs(box, 20)       # to warm up
        alone = [1e3 * run_programs(box, 1) for _ in range(50)]             # milliseconds
        many = [200 / run_programs(box, 200) for _ in range(5)]             # programs a second
        n_workers = len(box.servers)
    print(f"{n_workers} workers: one program on three pairs takes {statistics.median(alone):.1f} "
          f"ms [{min(alone):.1f}, {max(alone):.1f}]; {statistics.median(many):.0f} programs a "
          f"second [{min(many):.0f}, {max(many):.0f}]")


def run_programs(box: Sandbox, n: int) -> float:
    """The wall-clock seconds that n programs take. Each returns three grids of 10 x 10 as they
    are. Raises RuntimeError if one of them does not."""
    identity = "def transform(grid):\n    return grid\n"
    grids = [[[(i * j) % 10 for j in range(10)] for i in range(10)]] * 3
    started = time.perf_counter()
    results = [result for _, result in box.run([identity] * n, grids)]
    elapsed = time.perf_counter() - started
    if any(result.outputs != grids for result in results):
        raise RuntimeError("a program of the benchmark failed in the sandbox")
    return elapsed


def wordsearch() -> None:
    """Prints where the seconds of a search for a word go, with the preset tiny. The target is one
    that takes all of the 1,000 guesses."""
    given = {"seed": 1, "target": "skillet", "preset": "tiny"}
    task, given = settings.make_task("wordsearch", given, tasks.load_task_class)
    config = migrate.resolve(given, task)
    method, _ = settings.build_method(config, task, given, migrate.METHODS)
    policy = migrate.load_policy(config, settings.model_source(config.model, task))
    loading = time.time() - psutil.Process().create_time()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), {}, resume=False)
        started = time.perf_counter()
        migrate.search(config, method, task, policy, run)
        total = time.perf_counter() - started
        steps = read_jsonl(Path(folder) / "steps.jsonl")
    parts = {part: sum(step["seconds"][part] for step in steps)
             for part in ("sampling", "scoring", "training")}
    parts["the rest"] = total - sum(parts.values())
    shares = ", ".join(f"{part} {s:.2f} s ({s / total:.0%})" for part, s in parts.items())
    print(f"imports and loading {loading:.1f} s; {steps[-1]['proposals']} guesses {total:.1f} s: "
          f"{shares}")


# ------------------------------------------------------------------------------------ command line

def quiet() -> None:
    """Nothing but the measurements is printed."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def main(argv: list[str]) -> None:
    """Runs a command; without its name it is compare. Raises UserError for an unknown one."""
    quiet()
    if not CUDA:
        torch.set_num_threads(1)
    numbers = [int(word) for word in argv if word.isdigit()]
    names = [word for word in argv if not word.isdigit()] or ["compare"]
    sizes = [tuple(numbers)] if numbers else SIZES
    match names, len(numbers):
        case ["compare"], 0 | 3:
            compare(sizes)
        case ["memory"], 0 | 3:
            memory(sizes)
        case ["one", side], 3:          # `memory` starts this one
            one(side, *numbers)
        case ["gpu", shape], 0 | 4 if shape in LLAMA:
            gpu(shape, *(numbers or GPU_SIZE))
        case ["sandbox"], 0:
            sandbox()
        case ["wordsearch"], 0:
            wordsearch()
        case _:
            raise UserError(USAGE)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
