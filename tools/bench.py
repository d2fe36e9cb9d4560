"""Measures speed and memory.

    python -m tools.bench               # a GRPO step against TRL; its parts against the plain path
    python -m tools.bench memory        # peak memory of two steps, here and in TRL
    python -m tools.bench gpu 8b        # random 4-bit weights in the shape of Llama-3.1-8B
    python -m tools.bench growth        # a step after 1,000, 10,000 and 100,000 evaluations
    python -m tools.bench decoding      # one more token of SmolLM2, against reading its weights
    python -m tools.bench rounding      # what bf16 does to log-probabilities of SmolLM2
    python -m tools.bench sandbox       # generated programs a second
    python -m tools.bench wordsearch    # where the seconds of a search go

The first two take P G C as numbers, and the words smollm2 (that model instead of a Llama of 5.6M
parameters) and bf16 (on the CPU, instead of fp32). wordsearch takes smollm2, too. gpu takes P G C
RANK behind the shape (8b; 3b and 1b: Llama-3.2; toy: tiny). Only the first two use TRL, and without
it they leave its part out: pip install trl==1.16.0

Both sides of a comparison take turns in one process, so that other load on the machine disturbs
both. On CUDA seconds are those of the clock. On the CPU they are the process's CPU seconds, with
one thread; `wordsearch smollm2` has all cores and the clock's seconds. `memory` runs each side in a
process of its own.

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
import random
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
from engine import decode, llama
from engine.attention import shared_layers
from engine.gguf import local_model
from runlog import settings
from runlog.errors import UserError, exit_code, one_line
from runlog.folder import Run
from runlog.ledger import ON_POLICY, Evaluation, read_jsonl

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
USAGE = ("usage: python -m tools.bench [compare|memory] [smollm2] [bf16] [P G C], or gpu "
         f"{'|'.join(LLAMA)} [P G C RANK], or wordsearch [smollm2], or growth, decoding, "
         "rounding or sandbox")


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
    """A tokenizer of one token a word: <pad>, <eos>, w2, w3, .. A special token is found inside a
    word, too. So no word may hold the name of one."""
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, WORDS)}}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>",
                                                pad_token="<pad>")


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


def policy_from(folder: str, config: migrate.Config, dtype: str,
                engine: str = "auto") -> migrate.Policy:
    """A policy from a model's folder. engine: auto, or plain for the plain path of migrate.py."""
    options = settings.RunOptions(engine=engine, quantize="none", dtype=dtype)
    return migrate.load_policy(config, folder, options)


def model_folder(model: str, folder: str) -> str:
    """The folder of a model: SmolLM2's, or `folder` with the small Llama in it."""
    if model == "smollm2":
        return local_model(model)
    build(folder)
    return folder


def prompt_of(P: int, tokenizer) -> str:
    """A text of P tokens."""
    text = " the" * P
    if len(tokenizer) == WORDS:
        text = " ".join(f"w{2 + 7 * i % (WORDS - 2)}" for i in range(P))
    if len(tokenizer(text)["input_ids"]) != P:
        raise RuntimeError(f"the prompt should have {P} tokens")
    return text


class Side:
    """A step of migrate.search() without its task. It samples a group and updates the policy. The
    scores are made up: i / G for row i."""

    def __init__(self, policy: migrate.Policy, config: migrate.Config, P: int):
        self.policy, self.config, self.turn = policy, config, 0
        self.prompt = policy.tokenizer(prompt_of(P, policy.tokenizer))["input_ids"]
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


def compare(sizes: list[tuple], model: str, dtype: str) -> None:
    """Prints the seconds of a step here and in TRL, and those of its update and its sampling here
    and on the plain path: a padded batch, and generate with the prompt once for each row."""
    print(f"{versions()}; {model} in {dtype}")
    with tempfile.TemporaryDirectory() as folder:
        for P, G, C in sizes:
            compare_at(model_folder(model, folder), dtype, P, G, C)


def compare_at(folder: str, dtype: str, P: int, G: int, C: int) -> None:
    size, config, repeats = (P, G, C), config_for(G, C), 5
    ours = Side(policy_from(folder, config, dtype), config, P)
    print(ours.line)
    if has_trl():
        times = []

        def step_of_ours():
            times.append(seconds(ours.step))
        trl_times = train_with_trl(folder, dtype, P, G, C, repeats + 1, after_step=step_of_ours)
        show(size, "step", {"ours": times[1:], "TRL": trl_times[1:]})
    plain = Side(policy_from(folder, config, dtype, engine="plain"), config, P)
    completions = ours.sample()

    def update_ours():
        ours.update(completions)

    def update_plain():
        plain.update(completions)
    show(size, "update", interleaved(repeats, ours=update_ours, plain=update_plain))
    show(size, "sampling", interleaved(repeats, ours=ours.sample, plain=plain.sample))


# --------------------------------------------------------------------------------------------- TRL

def train_with_trl(folder: str, dtype: str, P: int, G: int, C: int, steps: int,
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

    with tempfile.TemporaryDirectory() as out:
        trainer = make_trl_trainer(folder, out, dtype, P, G, C, steps, Timer())
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return times


def make_trl_trainer(folder: str, out: str, dtype: str, P: int, G: int, C: int, steps: int,
                     callback):
    """A GRPOTrainer that does what Side does: the same policy, prompt, scores and loss."""
    import datasets
    import peft
    import trl
    datasets.disable_progress_bars()

    def scores(completions, **_):
        return [i / G for i in range(len(completions))]

    config = config_for(G, C)
    prompt = prompt_of(P, transformers.AutoTokenizer.from_pretrained(folder))
    return trl.GRPOTrainer(
        model=folder, reward_funcs=scores,
        train_dataset=datasets.Dataset.from_dict({"prompt": [prompt] * steps}),
        callbacks=[callback],
        peft_config=peft.LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha,
                                    target_modules=config.lora_targets, task_type="CAUSAL_LM"),
        args=trl.GRPOConfig(
            output_dir=out, per_device_train_batch_size=G,
            num_generations=G, max_completion_length=C, gradient_accumulation_steps=1,
            num_iterations=1, max_steps=steps, learning_rate=config.lr, beta=0.0,
            scale_rewards="none", loss_type="grpo", epsilon=0.2, epsilon_high=0.28,
            temperature=1.0, top_k=0, top_p=1.0, generation_kwargs={"min_new_tokens": C},
            gradient_checkpointing=False, bf16=False, use_cpu=not CUDA,
            model_init_kwargs={"dtype": {"bf16": "bfloat16", "fp32": "float32"}[dtype]},
            report_to="none", save_strategy="no", logging_steps=10**6, disable_tqdm=True))


# ------------------------------------------------------------------------------------------ memory

def memory(sizes: list[tuple], model: str, dtype: str) -> None:
    """Prints the peak memory of two steps, each side in a fresh process."""
    print(f"{versions()}; {model} in {dtype}")
    sides = ["ours"]
    if has_trl():
        sides.append("TRL")
    for size in sizes:
        for side in sides:
            command = [sys.executable, "-m", "tools.bench", "one", side.lower(), model, dtype,
                       *map(str, size)]
            out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            before, after = json.loads(out.stdout.splitlines()[-1])
            print(f"{size} {side}: peak {after / 2**20:.0f} MiB, of which the steps added "
                  f"{(after - before) / 2**20:.0f}", flush=True)


def one(side: str, model: str, dtype: str, P: int, G: int, C: int) -> None:
    """Takes two steps of one side, ours or trl. Prints the peak before and after them, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        folder, config = model_folder(model, folder), config_for(G, C)
        if side == "ours":
            ours = Side(policy_from(folder, config, dtype), config, P)
            before = peak()
            for _ in range(2):
                ours.step()
        else:
            for name in ("datasets", "peft", "trl"):    # their memory is not that of the steps
                importlib.import_module(name)
            transformers.AutoModelForCausalLM.from_pretrained(folder)
            before = peak()
            train_with_trl(folder, dtype, P, G, C, 2)
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
    """Prints the seconds of sampling and of an update in three steps, the peak memory, and a row
    for the table of docs/models-and-gpu.md, whatever part of it did not fit or was not reached."""
    print(versions())
    config = config_for(G, C, lora_r=rank, lora_targets="q_proj,v_proj")
    options = settings.RunOptions(quantize="4bit")
    sampling, updating, trouble = [], [], ""
    try:
        policy = migrate.load_policy(config, shape, options,
                                     loaded=(random_4bit(shape), word_tokenizer()))
        print(f"weights and LoRA: {torch.cuda.memory_allocated() / 2**30:.2f} GiB", flush=True)
        ours = Side(policy, config, P)
        print(ours.line)
        for step in range(3):
            started = clock()
            completions = ours.sample()
            sampling.append(clock() - started)
            ours.update(completions)
            updating.append(clock() - started - sampling[-1])
            print(f"{shape} {(P, G, C)} r={rank}, step {step}: sampling {sampling[-1]:.2f} s, "
                  f"update {updating[-1]:.2f} s, peak {peak() / 2**30:.2f} GiB", flush=True)
    except (torch.cuda.OutOfMemoryError, UserError) as error:
        trouble = f"; did not fit: {one_line(error)}"
    best = [f"{min(times):.2f}" if times else "-" for times in (sampling, updating)]
    print(f"| {shape.upper()} | {P}, {G}, {C} | {rank} | {best[0]} | {best[1]} | "
          f"{peak() / 2**30:.1f} GiB{trouble} |")


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


def wordsearch(model: str) -> None:
    """Prints where the seconds of a search for a word go. The targets are such that take most of
    the 1,000 guesses."""
    given = {"seed": 1, "target": "skillet", "preset": "tiny"}
    if model == "smollm2":
        given |= {"preset": "small-lm", "model": model, "method": "migrate+novelty"}
        torch.set_num_threads(os.cpu_count())
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


# --------------------------------------------------------------------------- growth and rounding

class GrownRun(Run):
    """A run that has n evaluations behind it."""

    def __init__(self, folder: Path, n: int):
        super().__init__(folder, {}, resume=False)
        rng, self.n, self.clock = random.Random(0), n, []
        self.before = [
            Evaluation(i, max(0, i // 10 - 1), i, ON_POLICY,
                       [f"c{i - 20:06}"] if i > 20 and i % 3 == 0 else [], f"c{i:06}",
                       rng.random() / 2, True, [5, 1]) for i in range(n)]
        self.indices = set(range(n))

    def load_checkpoint(self, first: dict, optimizer, weights: dict) -> dict:
        return {"step": self.n // 10, "proposals": self.n}

    def resume_from(self, step: int, model=None) -> list[Evaluation]:
        return self.before

    def save_checkpoint(self, *args, **kwargs) -> None:
        super().save_checkpoint(*args, **kwargs)
        self.clock.append(clock())


def growth() -> None:
    """Prints the CPU seconds of a step after so many evaluations, for each method: the median of 30
    steps. Only what is before the first step may take longer."""
    print(versions())
    for name in [*migrate.METHODS, "migrate+novelty", "migrate-evo", "discover"]:
        medians = []
        for n in (1000, 10_000, 100_000):
            given = {"method": name, "preset": "tiny", "target": "skillet", "steps": n // 10 + 32}
            task, given = settings.make_task("wordsearch", given, tasks.load_task_class)
            config = migrate.resolve(given, task)
            method, _ = settings.build_method(config, task, given, migrate.METHODS)
            policy = migrate.load_policy(config, settings.model_source(config.model, task))
            with tempfile.TemporaryDirectory() as folder:
                run = GrownRun(Path(folder), n)
                migrate.search(config, method, task, policy, run)
            steps = [after - before for before, after in zip(run.clock[1:], run.clock[2:])]
            medians.append(statistics.median(steps))
        print(f"{name}: {', '.join(f'{1e3 * m:.1f}' for m in medians)} ms; "
              f"{medians[-1] / medians[0]:.2f} times", flush=True)


def decoding() -> None:
    """Prints the CPU seconds of one more token of 10 rows of SmolLM2 in bf16, in 15 turns: its
    layers, the same without LoRA, the layers' products with the weights alone, the logits, and for
    comparison a sum over as many numbers as the model has."""
    print(versions())
    policy = policy_from("smollm2", config_for(10, 8), "bf16")
    by_hand, numbers = llama.of(policy.model), torch.ones(policy.n_parameters).bfloat16()
    prompt = policy.tokenizer(prompt_of(50, policy.tokenizer))["input_ids"]
    with torch.no_grad():
        lora = by_hand.lora()
        [(keys_and_values, hidden)] = by_hand.run_prompts([prompt], lora)
        rows = hidden.expand(10, -1)

        products = [(joined, torch.ones(10, joined.weight.shape[1]).bfloat16())
                    for layer in by_hand.layers
                    for joined in (layer.qkv, layer.out, layer.gate, layer.down)]

        def multiply():
            for joined, x in products:
                llama.packed_linear(x, joined.packed)

        def layers(lora=lora):
            caches = shared_layers([keys_and_values], [10], 8)

            def attend(i, q, k, v):
                caches[i].update(k[:, :, None], v[:, :, None])
                return caches[i].attend(q[:, :, None], q.shape[-1] ** -0.5)[:, 0]
            by_hand(torch.arange(10), torch.full((10,), 50), attend, lora)
        bare = [[None] * len(of_layer) for of_layer in lora]
        times = interleaved(15, layers=layers, without_lora=lambda: layers(bare),
                            products=multiply, logits=lambda: by_hand.logits(rows),
                            reading=numbers.sum)
    print("; ".join(f"{name} {1e3 * statistics.median(t):.0f} ms" for name, t in times.items()))
    both = [a + b for a, b in zip(times["layers"], times["logits"])]
    ratio = statistics.median(x / y for x, y in zip(both, times["reading"]))
    print(f"layers and logits take {ratio:.1f} times as long as reading")


def rounding() -> None:
    """Prints how far log-probabilities of SmolLM2's guesses in bf16 are from those in fp32, and the
    sampler's from the scorer's, per token."""
    print(versions())
    task, given = settings.make_task("wordsearch", {"model": "smollm2", "seed": 0},
                                     tasks.load_task_class)
    config = migrate.resolve(given, task)
    policies = [policy_from("smollm2", config, dtype) for dtype in ("fp32", "bf16")]
    prompt, logits, draw = engine.chat.encode(policies[0], task.prompt()), [], decode.draw

    def recorded(scores, exact):
        logits.append(scores.log_softmax(-1))
        return draw(scores, exact)
    decode.draw = recorded
    found = []
    for seed in range(20):
        logits.clear()
        [completions] = migrate.sample(policies[1], [(prompt, 10)], seed)
        sampled = [logits[t][i, token] for i, c in enumerate(completions)
                   for t, token in enumerate(c)]
        by_dtype = []
        for policy in policies:
            with torch.no_grad():
                [(_, logprobs, _, mask)] = migrate.token_logprobs(policy, prompt, completions)
            by_dtype.append(logprobs[mask.bool()])
        found.append(torch.stack([*by_dtype, torch.stack(sampled)]))
    exact, scored, sampled = torch.cat(found, dim=1)
    for name, error in (("bf16 - fp32", scored - exact), ("sampler - scorer", sampled - scored)):
        print(f"{name}: mean {error.mean():+.4f}, standard deviation {error.std():.4f}, largest "
              f"{error.abs().max():.3f}, over {len(error)} tokens")


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
    names = [word for word in argv if not word.isdigit()]
    model = "smollm2" if "smollm2" in names else "small"
    dtype = "bf16" if CUDA or "bf16" in names else "fp32"
    names = [name for name in names if name not in ("smollm2", "small", "bf16", "fp32")]
    sizes = [tuple(numbers)] if numbers else SIZES
    match names or ["compare"], len(numbers):
        case ["compare"], 0 | 3:
            compare(sizes, model, dtype)
        case ["memory"], 0 | 3:
            memory(sizes, model, dtype)
        case ["one", side], 3:          # `memory` starts this one
            one(side, model, dtype, *numbers)
        case ["growth"], 0:
            growth()
        case ["decoding"], 0:
            decoding()
        case ["rounding"], 0:
            rounding()
        case ["gpu", shape], 0 | 4 if shape in LLAMA:
            gpu(shape, *(numbers or GPU_SIZE))
        case ["sandbox"], 0:
            sandbox()
        case ["wordsearch"], 0:
            wordsearch(model)
        case _:
            raise UserError(USAGE)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
