"""Speed and memory, side by side in one process, as ratios. On CUDA seconds are of the clock; on the CPU, with one thread,
they are the process's own CPU seconds, which other load on the machine disturbs less.

    python bench.py                 # one GRPO step against TRL, its update against a padded batch, its sampling against generate
    python bench.py memory          # peak memory of a step, here and in TRL, each in a fresh process
    python bench.py gpu 8b          # Llama-3.1-8B's shape (3b: Llama-3.2-3B's; toy: tiny), random 4-bit weights; P G C, LoRA rank
    python bench.py sandbox         # generated programs a second
    python bench.py wordsearch      # where the seconds of `python migrate.py --task wordsearch` go

TRL is needed by the first two alone, and by nothing else here: pip install trl==1.16.0
Letters: P prompt tokens, G rows of a group, C completion tokens (every completion has exactly as many).
"""
from __future__ import annotations

import contextlib
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
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil
import tokenizers
import torch
import transformers

import migrate
from runs import Run

CUDA = torch.cuda.is_available()
SIZES = [(40, 10, 8), (256, 16, 64), (1024, 16, 128)]
WORDS = 1664        # 5.6M parameters with this vocabulary
SMALL = dict(hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
             max_position_embeddings=4096)
LLAMA = {           # the published configurations
    "3b": dict(vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
               num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
    "8b": dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=8, head_dim=128, tie_word_embeddings=False),
    "toy": dict(vocab_size=WORDS, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, tie_word_embeddings=False)}


def clock() -> float:
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(run) -> float:
    started = clock()
    run()
    return clock() - started


def interleaved(repeats: int, **runs) -> dict[str, list[float]]:
    """The seconds of each, in turn, after a warm-up of each."""
    for run in runs.values():
        run()
    times = [{name: seconds(run) for name, run in runs.items()} for _ in range(repeats)]
    return {name: [t[name] for t in times] for name in runs}


def show(size, what: str, times: dict[str, list[float]]) -> None:
    """Medians with their range, and the median of the ratios within each turn: other / ours."""
    (ours, a), (other, b) = times.items()
    spread = "; ".join(f"{name} {statistics.median(t):.3f} s [{min(t):.3f}, {max(t):.3f}]" for name, t in times.items())
    ratio = statistics.median(y / x for x, y in zip(a, b))
    print(f"{size} {what}: {spread}; {ratio:.1f}x over {len(a)} repeats", flush=True)


def versions() -> str:
    names = ["torch", "transformers", "peft", *(["trl"] if has_trl() else [])]
    return (", ".join(f"{n} {importlib.metadata.version(n)}" for n in names) + f"; Python {sys.version.split()[0]}; " +
            (torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} thread"))


def has_trl() -> bool:
    return importlib.util.find_spec("trl") is not None


# ------------------------------------------------------------------------------------- one GRPO step of each

def build(folder: str) -> str:
    """A random Llama of 5.6M parameters and a tokenizer of one token a word, as a Hub folder."""
    vocabulary = {f"w{i}": i for i in range(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0").save_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=WORDS, bos_token_id=None, eos_token_id=1, pad_token_id=0, tie_word_embeddings=False, **SMALL))
    model.save_pretrained(folder)
    return folder


def settings(G: int, C: int, **more) -> migrate.Config:
    """One update a step on G on-policy rows, LoRA r=16 on every linear layer: what both sides are given."""
    return migrate.Config(**{**dict(n_on_policy=G, n_neighbors=0, n_greedy=0, max_new_tokens=C, inner_iterations=1, lr=1e-5,
                                    mask_zero=False, lora_r=16, lora_alpha=32, lora_targets="all-linear", quantize="none"),
                             **more})


def prompt_of(P: int) -> list[int]:
    return [2 + 7 * i % (WORDS - 2) for i in range(P)]


class Ours:
    """A step of migrate.search() without its task: sample a group, score it (by nothing), update."""

    def __init__(self, policy, config, P: int):
        self.policy, self.config, self.prompt, self.turn = policy, config, prompt_of(P), 0
        policy.generation.min_new_tokens = config.max_new_tokens
        self.optimizer = torch.optim.AdamW(policy.lora.values(), lr=config.lr, weight_decay=0.0, fused=True)
        self.line = migrate.fit_into_memory(policy, self.prompt, config)

    def sample(self) -> list[list[int]]:
        self.turn += 1
        return migrate.sample(self.policy, self.prompt, self.config.n_on_policy, self.turn)

    def update(self, completions: list[list[int]]) -> None:
        rows = [migrate.Row(migrate.ON_POLICY, [], c, "", True, 0, i / len(completions), True) for i, c in enumerate(completions)]
        migrate.update(self.policy, self.optimizer, rows, self.prompt, self.config.lr, self.config)

    def step(self) -> None:
        self.update(self.sample())

    def naive_sample(self) -> None:
        """The usual way: the prompt once for each row, a cache that is copied at every token."""
        ids = torch.tensor([self.prompt], device=self.policy.model.device)
        with self.usual_attention(), torch.no_grad():
            self.policy.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=self.policy.generation,
                                       num_return_sequences=self.config.n_on_policy)

    def naive_update(self, completions: list[list[int]]) -> None:
        """The usual way: a padded batch of prompt + completion, logits at the positions of the completions alone."""
        ids = torch.tensor([self.prompt + c for c in completions], device=self.policy.model.device)        # (G, P+C)
        C = ids.shape[1] - len(self.prompt)
        with self.usual_attention():
            logits = self.policy.model(input_ids=ids, use_cache=False, logits_to_keep=C + 1).logits[:, :-1].float()
        log_p = torch.log_softmax(logits / self.config.temperature, -1)                                     # (G, C, V)
        with torch.no_grad():
            entropy = -(log_p.exp() * log_p).sum(-1)
        chosen = log_p.gather(-1, ids[:, -C:, None])[..., 0]
        scores = torch.arange(len(ids), device=ids.device) / len(ids)
        loss, _ = migrate.grpo_loss(chosen, chosen.detach(), migrate.group_advantages(scores), torch.ones_like(entropy), 0.2, 0.28)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.lora.values(), 1.0)
        self.optimizer.step()

    @contextlib.contextmanager
    def usual_attention(self):
        model = self.policy.model.get_base_model()
        model.config._attn_implementation = "sdpa"
        yield
        model.config._attn_implementation = "shared_prompt"


def train_with_trl(folder: str, P: int, G: int, C: int, steps: int, between=lambda: None) -> list[float]:
    """The seconds of each step of TRL's GRPOTrainer under the same settings; between(): called after each."""
    import datasets
    import peft
    import trl
    datasets.disable_progress_bars()
    times = []

    class Timer(transformers.TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.started = clock()

        def on_step_end(self, *args, **kwargs):
            times.append(clock() - self.started)
            between()

    prompt = " ".join(f"w{i}" for i in prompt_of(P))
    config = settings(G, C)
    trainer = trl.GRPOTrainer(
        model=folder, reward_funcs=lambda completions, **_: [i / G for i in range(len(completions))],
        train_dataset=datasets.Dataset.from_dict({"prompt": [prompt] * steps}), callbacks=[Timer()],
        peft_config=peft.LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, target_modules=config.lora_targets,
                                    task_type="CAUSAL_LM"),
        args=trl.GRPOConfig(
            output_dir=str(Path(folder) / "trl"), per_device_train_batch_size=G, num_generations=G, max_completion_length=C,
            gradient_accumulation_steps=1, num_iterations=1, max_steps=steps, learning_rate=config.lr, beta=0.0,
            scale_rewards="none", loss_type="grpo", epsilon=0.2, epsilon_high=0.28, temperature=1.0, top_k=0, top_p=1.0,
            generation_kwargs={"min_new_tokens": C}, gradient_checkpointing=False, bf16=False, use_cpu=not CUDA,
            model_init_kwargs={"dtype": "float32"}, report_to="none", save_strategy="no", logging_steps=10**6, disable_tqdm=True))
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return times


def compare(sizes) -> None:
    print(versions())
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        for P, G, C in sizes:
            repeats = 7 if P * C < 10**4 else 3
            config = settings(G, C)
            ours = Ours(migrate.load_policy(config, folder), config, P)
            print(ours.line)
            times = []
            if has_trl():
                trl_times = train_with_trl(folder, P, G, C, repeats + 1, lambda: times.append(seconds(ours.step)))
                show((P, G, C), "step", {"ours": times[1:], "TRL": trl_times[1:]})
            completions = ours.sample()
            show((P, G, C), "update", interleaved(repeats, ours=lambda: ours.update(completions),
                                                  padded=lambda: ours.naive_update(completions)))
            show((P, G, C), "sampling", interleaved(repeats, ours=ours.sample, generate=ours.naive_sample))


# ------------------------------------------------------------------------------------------------ memory

def peak() -> int:
    return torch.cuda.max_memory_allocated() if CUDA else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(who: str, P: int, G: int, C: int) -> None:
    """Two steps of one side in this process; prints its peak before them and after."""
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        config = settings(G, C)
        if who == "ours":
            ours = Ours(migrate.load_policy(config, folder), config, P)
            before = peak()
            for _ in range(2):
                ours.step()
        else:
            import datasets, peft, trl      # noqa: E401, F401  (their memory is not the step's)
            transformers.AutoModelForCausalLM.from_pretrained(folder)
            before = peak()
            train_with_trl(folder, P, G, C, 2)
    print(json.dumps([before, peak()]))


def memory(sizes) -> None:
    print(versions())
    for size in sizes:
        for who in ("ours", "TRL")[:1 + has_trl()]:
            out = subprocess.run([sys.executable, __file__, "one", who.lower(), *map(str, size)], capture_output=True, text=True, check=True)
            before, after = (n / 2**20 for n in json.loads(out.stdout.splitlines()[-1]))
            print(f"{size} {who}: peak {after:.0f} MiB, of which the steps added {after - before:.0f}", flush=True)


# --------------------------------------------------------------------------------------------------- gpu

def random_4bit(shape: str):
    """A Llama of this shape with random NF4 weights, quantised layer by layer: it never exists in 16 bit as a whole."""
    import bitsandbytes as bnb
    device, dtype = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
    config = transformers.LlamaConfig(max_position_embeddings=131072, rms_norm_eps=1e-5, eos_token_id=1, **LLAMA[shape])
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and name != "lm_head":
            layer = bnb.nn.Linear4bit(module.in_features, module.out_features, bias=False, compute_dtype=dtype, device="meta")
            weight = torch.randn(module.weight.shape, dtype=dtype, device=device) * 0.02
            layer.weight = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4", module=layer).to(device)
            model.set_submodule(name, layer)
        else:
            for key, p in list(module.named_parameters(recurse=False)):
                data = torch.ones(p.shape) if p.ndim == 1 else torch.randn(p.shape, device=device) * 0.02
                setattr(module, key, torch.nn.Parameter(data.to(device, dtype), requires_grad=False))
    model.tie_weights()
    model.model.rotary_emb = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config).to(device)
    model.is_loaded_in_4bit = True      # what tells peft
    return model


def gpu(shape: str, P: int, G: int, C: int, rank: int) -> None:
    print(versions())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = transformers.AutoTokenizer.from_pretrained(build(folder))
    config = settings(G, C, lora_r=rank, lora_targets="q_proj,v_proj", quantize="4bit")
    ours = Ours(migrate.make_policy(config, shape, random_4bit(shape), tokenizer), config, P)
    print(ours.line)
    sampling, training = [], []
    for _ in range(3):
        completions = []
        sampling.append(seconds(lambda: completions.extend(ours.sample())))
        training.append(seconds(lambda: ours.update(completions)))
    print(f"{shape} {(P, G, C)} r={rank}: sampling {min(sampling):.2f} s, update {min(training):.2f} s (best of 3), "
          f"peak {peak() / 2**30:.2f} GiB")


# --------------------------------------------------------------------------------- sandbox and word search

def sandbox() -> None:
    from sandbox import Sandbox
    from tasks import workers
    identity = "def transform(grid):\n    return grid\n"
    grids = [[[(i * j) % 10 for j in range(10)] for i in range(10)]] * 3
    with Sandbox(workers=workers()) as box:
        def wall(n):
            started = time.perf_counter()
            assert sum(result.outputs == grids for _, result in box.run([identity] * n, grids)) == n
            return time.perf_counter() - started
        wall(20)
        alone, many = [wall(1) for _ in range(50)], [200 / wall(200) for _ in range(5)]
    print(f"{len(box.servers)} workers: one program on three pairs takes {1e3 * statistics.median(alone):.1f} ms "
          f"[{1e3 * min(alone):.1f}, {1e3 * max(alone):.1f}]; {statistics.median(many):.0f} programs a second "
          f"[{min(many):.0f}, {max(many):.0f}]")


def wordsearch() -> None:
    """The default command, but with a target that takes all of its 1,000 guesses, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        config, task = migrate.parse_arguments(["--task", "wordsearch", "--seed", "1", "--target", "skillet"])
        policy = migrate.load_policy(config, migrate.model_source(config, task))
        loaded = time.time() - psutil.Process().create_time()
        run = Run(Path(folder), {"config": {}, "options": {}}, resume=False)
        started = time.perf_counter()
        migrate.search(config, task, policy, run)
        total = time.perf_counter() - started
        steps = [json.loads(line) for line in open(f"{folder}/steps.jsonl")]
    parts = {part: sum(step["seconds"][part] for step in steps) for part in ("sampling", "scoring", "training")}
    parts["the rest"] = total - sum(parts.values())
    print(f"imports and loading {loaded:.1f} s; {steps[-1]['proposals']} guesses {total:.1f} s: " +
          ", ".join(f"{part} {s:.2f} s ({s / total:.0%})" for part, s in parts.items()))


def main(command: str = "compare", *arguments: str) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not CUDA:
        torch.set_num_threads(1)
    numbers = [int(x) for x in arguments if x.isdigit()]
    sizes = [tuple(numbers)] if numbers else SIZES
    if command == "gpu":
        gpu(arguments[0], *(numbers or (512, 10, 64, 64)))
    elif command == "one":
        one(arguments[0], *numbers)
    elif command in ("compare", "memory"):
        {"compare": compare, "memory": memory}[command](sizes)
    else:
        {"sandbox": sandbox, "wordsearch": wordsearch}[command]()


if __name__ == "__main__":
    main(*sys.argv[1:])
