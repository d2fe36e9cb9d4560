"""MiGrATe: search with a language model that learns, while it searches, from what it finds (arXiv 2508.08641).

One black-box problem at a time: a policy pi proposes candidates, f scores them in [0, 1], and GRPO adapts the
policy's LoRA weights online. No training data: every training example is something that the policy proposed and
f scored. One step of the search:

    1. sample    n_on_policy completions from pi(. | x), n_neighbors from pi(. | x_ns) ("vary this good candidate")
    2. score     the candidates that were never scored before
    3. replay    n_greedy of the best completions in the archive
    4. group     all of them, G rows, as if all had been sampled under the task prompt x;  A_i = r_i - mean(r)
    5. update    the LoRA weights by GRPO, inner_iterations times
    6. archive   the new candidates

How this differs from the paper's description and the authors' code: README, "Differences".

Letters in shape comments: G rows of a group, P prompt tokens, T completion tokens (padded), V vocabulary.

    python migrate.py --task wordsearch                       # the bundled policy: a minute on two CPU cores
    python migrate.py --task wordsearch --target skillet --method ns --seed 3 --out runs/skillet
    python migrate.py --task wordsearch --model meta-llama/Llama-3.2-3B-Instruct     # published settings, 4-bit
    python migrate.py --task my_task.py --model Qwen/Qwen3-4B-Instruct-2507          # your own black box
    python migrate.py sample runs/NAME | push runs/NAME USER/NAME                    # after a search: hub.py

Read from top to bottom: configuration, archive and methods, policy, GRPO, one group, the search. Tasks are in tasks.py;
runs.py keeps a run on disk and on the screen; shared_prompt.py makes sampling and scoring under one prompt fast.
"""
from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import logging
import math
import random
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

import tasks
from runs import (Parser, Run, RunStopped, add_flags, check_bounds, describe, exit_code, explain_loading, free_folder,
                  print_summary, run_folder, step_metrics, summarize)
from tasks import Score, Task, UserError, one_line

HERE = Path(__file__).resolve().parent
ON_POLICY, NEIGHBOR, GREEDY, WARM_START = "on-policy", "neighbor", "greedy", "warm-start"
GIVE_UP_AFTER = 50      # steps in a row without a single new candidate


# ---------------------------------------------------------------------------------------- configuration

@dataclass
class Config:
    """All settings of a search but the task's own. The task's preset, the method and the command line override these
    defaults, in this order (resolve)."""
    task: str = "wordsearch"          # a task of tasks.py, or path/to/file.py[:ClassName]
    model: str = "tiny"               # Hub name, local folder, or "tiny": the policy bundled for this task
    method: str = "migrate"           # a row of METHODS
    preset: str = ""                  # settings of the task: paper (default for real models), tiny, or one of its own
    seed: int = 0                     # every random draw derives from (seed, step)
    proposals: int = 1000             # candidates to draw in all, repeats and invalid ones included (but for redraws)
    steps: int | None = None          # number of groups; default: as many as `proposals` takes
    budget: int | None = None         # instead: stop after so many unique evaluations of f, however many steps
    after_solved: int = 0             # candidates to draw after the first solution (ARC votes over solutions)
    n_on_policy: int = 4              # rows of a group sampled under the task prompt (the paper's alpha)
    n_greedy: int = 1                 # rows of a group replayed from the archive's best (beta)
    n_neighbors: int = 5              # rows of a group sampled under the neighbour prompt (gamma)
    top_k: int = 3                    # parents and replays are drawn uniformly from the k best of the archive
    novelty: int = 1                  # draw up to this many times as often; what stays a repeat is worth 0; 1: plain
    patience: int = 0                 # evaluations without a better top k after which the search starts afresh; 0: never
    neighbors_from: str = "policy"    # who answers the neighbour prompt: policy, or base (LoRA switched off)
    temperature: float = 1.0          # of sampling and of scoring alike
    max_new_tokens: int = 64          # longest completion
    lr: float = 5e-5                  # learning rate at the start; falls linearly to 0 over the run
    inner_iterations: int = 2         # GRPO updates on each group (the paper's mu)
    eps_low: float = 0.2              # the ratio is clipped to [1 - eps_low, 1 + eps_high]
    eps_high: float = 0.28            # see eps_low
    kl_coef: float = 0.0              # weight of the KL term to the frozen base
    mask_zero: bool = True            # leave completions of score 0 out of the loss (they count in the mean)
    pull_only: bool = False           # leave neighbours with a negative advantage out of the loss (they count in the mean)
    lora_r: int = 64                  # LoRA rank
    lora_alpha: int = 16              # LoRA scale: the update is multiplied by lora_alpha / lora_r
    lora_targets: str = "q_proj,v_proj"  # modules that get LoRA weights, comma-separated, or all-linear
    init_adapter: str | None = None   # start from these LoRA weights: a run, a folder in PEFT format, or a Hub name
    quantize: str = ""                # 4bit (NF4, double quantisation) or none; default: 4bit on CUDA, none on the CPU
    micro_batch: int = 0              # rows of a group in memory at a time during an update; 0: as many as fit
    out: str = ""                     # folder of the run; default: runs/TASK-TARGET-METHOD-SEED
    resume: bool = False              # continue the run in this folder
    track: bool = False               # log every step to trackio as well (local; pip install trackio)


COUNTS = ("n_on_policy", "n_greedy", "n_neighbors")
CHOICES = {"neighbors_from": ("policy", "base"), "quantize": ("4bit", "none", "")}
AT_LEAST = dict(n_on_policy=0, n_greedy=0, n_neighbors=0, top_k=1, novelty=1, patience=0, inner_iterations=1,
                max_new_tokens=1, lora_r=1, proposals=1, after_solved=0, lr=0, kl_coef=0, eps_low=0, eps_high=0,
                steps=1, budget=1, micro_batch=0)


def resolve(given: dict, task: Task) -> Config:
    """The settings of a search: Config's defaults < preset < method < what the user gave. Raises UserError."""
    config = Config(**given)
    if config.method not in METHODS:
        raise UserError(f"unknown method {config.method!r}; choose from {', '.join(METHODS)}")
    bundled = Path(model_source(config, task)).resolve().parent == HERE / "tiny"
    preset = config.preset or (task.default_preset if bundled else "paper")
    if preset not in task.presets:
        raise UserError(f"unknown preset {preset!r} of {task.name}; choose from {', '.join(task.presets)}")
    if unknown := task.presets[preset].keys() - asdict(config).keys():
        raise UserError(f"preset {preset} of {task.name} sets what is no setting: {', '.join(sorted(unknown))}")
    settings = {**asdict(Config()), **task.presets[preset], "preset": preset}
    mixture = tuple(settings[name] for name in COUNTS)
    settings.update(zip(COUNTS, METHODS[config.method].counts(sum(mixture), mixture)))
    if "proposals" in given or "steps" in given:
        settings["budget"] = None           # the preset's; what the user gives is what counts
    config = Config(**{**settings, **given})
    check_bounds(config, CHOICES, AT_LEAST)
    if config.temperature <= 0:
        raise UserError("--temperature must be above 0: at 0 there is nothing to sample")
    n_new = config.n_on_policy + config.n_neighbors
    if n_new == 0:
        raise UserError("a group needs new completions: --n-on-policy + --n-neighbors must be at least 1")
    config.steps = config.steps or math.ceil(config.proposals / n_new)
    return config


def model_source(config: Config, task: Task) -> str:
    """The folder or Hub name that --model means."""
    if config.model != "tiny":
        return config.model
    if task.bundled is None:
        raise UserError(f"no policy is bundled for {task.name}: choose one with --model HUB_NAME_OR_FOLDER")
    return str(HERE / "tiny" / task.bundled)


# ------------------------------------------------------------------------- archive, parents and methods

@dataclass
class Evaluation:
    """One candidate that f was called on: a line of evals.jsonl."""
    index: int              # order of the archive, from 0; independent of the order in which results arrive
    step: int               # 0: warm start
    proposal: int           # how many candidates the policy had drawn when this one appeared (0: warm start)
    origin: str             # on-policy, neighbor or warm-start
    parents: list[str]      # what the neighbour prompt showed
    candidate: str
    score: float            # f(candidate)
    valid: bool             # False: it could not be scored; never a parent, never replayed
    tokens: list[int] | None  # the completion as it was sampled, first EOS included; None: it never was one
    info: dict = field(default_factory=dict)


class Archive:
    """Unique scored candidates, ordered by index: {candidate: Evaluation} and a few views of it.

    ledger: what is on disk of an earlier part of this run, up to `step` in the archive; what lies beyond (the steps
    after the last checkpoint are taken again) is `paid` for, and looked up instead of being evaluated.
    """

    def __init__(self, ledger: list[Evaluation] = (), step: int = 0):
        self.of: dict[str, Evaluation] = {}
        self.add([e for e in ledger if e.step <= step])
        self.paid = {e.candidate: e for e in ledger if e.step > step}
        self.indices = {e.index for e in ledger}

    def __len__(self):
        return len(self.of)

    def add(self, evaluations: list[Evaluation]) -> None:
        self.of.update((e.candidate, e) for e in sorted(evaluations, key=lambda e: e.index))

    def since(self, start: int) -> Archive:
        """What was found from the start-th evaluation on."""
        part = Archive()
        part.of = dict(itertools.islice(self.of.items(), start, None))
        return part

    def next_index(self) -> int:
        """The first index that no evaluation has."""
        index = next(i for i in itertools.count(len(self.of)) if i not in self.indices)
        self.indices.add(index)
        return index

    def best(self, k: int, among: list[Evaluation] | None = None) -> list[Evaluation]:
        """The k best valid ones, best first; of equal scores the older one first."""
        pool = self.of.values() if among is None else among
        return sorted((e for e in pool if e.valid), key=lambda e: (-e.score, e.index))[:k]


def one_of_top_k(archive: Archive, step: int, top_k: int, rng: random.Random) -> list[Evaluation]:
    """One parent, uniformly from the k best (paper, neighbourhood sampling)."""
    best = archive.best(top_k)
    return [rng.choice(best)] if best else []


def ranked_list(archive: Archive, step: int, top_k: int, rng: random.Random, *, n: int) -> list[Evaluation]:
    """The n best, worst first: the prompt of OPRO (Yang et al. 2023)."""
    return archive.best(n)[::-1]


ISLANDS, ELITE, MIGRATE_EVERY, MIGRANTS = 4, 5, 40, 0.05


def islands(archive: Archive, step: int) -> list[list[Evaluation]]:
    """Members of each island at the start of a step, from the archive alone: there is no state to lose.

    Step t evolves island t mod 4 and what it finds is born there (warm-start candidates are dealt round). With every
    40th step, before what it finds is added, each island sends its best 5%, at least one, to both neighbours on the ring.
    """
    members: list[dict[str, Evaluation]] = [{} for _ in range(ISLANDS)]
    evaluations = sorted(archive.of.values(), key=lambda e: (e.step, e.index))
    at = 0
    for t in range(step):
        if t > 0 and t % MIGRATE_EVERY == 0:
            sent = [archive.best(max(1, int(MIGRANTS * len(m))), list(m.values())) for m in members]
            for i, migrants in enumerate(sent):
                for neighbor in (i - 1, i + 1):
                    members[neighbor % ISLANDS].update((e.candidate, e) for e in migrants)
        while at < len(evaluations) and evaluations[at].step == t:
            e = evaluations[at]
            members[(e.index if t == 0 else t) % ISLANDS][e.candidate] = e
            at += 1
    return [list(m.values()) for m in members]


def island_parent(archive: Archive, step: int, top_k: int, rng: random.Random) -> list[Evaluation]:
    """p = 0.2: one of the island's top 3 outside the elite archive (the 5 best of all); p = 0.8: one of its members
    of the elite archive, or of its top 3 where it has none. An empty island takes from the elite archive."""
    island = islands(archive, step)[step % ISLANDS]
    elite = archive.best(ELITE)
    outside = archive.best(3, [e for e in island if e not in elite])
    inside = [e for e in elite if e in island]
    pool = (outside if rng.random() < 0.2 else inside) or archive.best(3, island) or elite
    return [rng.choice(pool)] if pool else []


def group_advantages(scores):
    """A_i = r_i - mean(r), (G,) -> (G,); not divided by the standard deviation (Dr. GRPO, Liu et al. 2025)."""
    return scores - scores.mean()


class Method(NamedTuple):
    counts: Callable        # (G, the preset's mixture) -> (n_on_policy, n_greedy, n_neighbors)
    parents: Callable       # (archive, step, top_k, rng) -> parents for the neighbour prompt, worst to best
    trains: bool            # whether GRPO updates the policy
    advantages: Callable = group_advantages     # scores of a group (G,) -> what each row is worth to the update (G,)


METHODS = {
    "random":       Method(lambda G, mix: (G, 0, 0),     one_of_top_k, False),
    "ns":           Method(lambda G, mix: (0, 0, G),     one_of_top_k, False),
    "opro":         Method(lambda G, mix: (0, 0, G),     functools.partial(ranked_list, n=10), False),
    "grpo":         Method(lambda G, mix: (G, 0, 0),     one_of_top_k, True),
    "grpo-greedy":  Method(lambda G, mix: (G - 1, 1, 0), one_of_top_k, True),
    "migrate":      Method(lambda G, mix: mix,           one_of_top_k, True),
    "migrate-opro": Method(lambda G, mix: mix,           functools.partial(ranked_list, n=5), True),
    "migrate-evo":  Method(lambda G, mix: mix,           island_parent, True),
}


# ------------------------------------------------------------------------------------------------ policy

def derive(seed: int, *names) -> int:
    """A 63-bit child seed for one use, so that no draw depends on what was drawn before it (and a resume is exact)."""
    return int.from_bytes(hashlib.sha256(repr((seed, *names)).encode()).digest()[:8], "big") >> 1


@dataclass
class Policy:
    model: object           # peft model: frozen base, trainable LoRA
    tokenizer: object
    generation: object      # the only GenerationConfig that sampling ever sees
    eos_ids: frozenset[int]
    micro_batch: int = 0    # rows scored at a time in an update; 0: the whole group
    offload: bool = False   # whether the prompt's activations wait in the CPU's memory meanwhile

    def __post_init__(self):
        self.lora = {name: p for name, p in self.model.named_parameters() if p.requires_grad}   # all that is trained


def load_policy(config: Config, source: str) -> Policy:
    """A causal LM with plain full attention, from the Hub or a folder, 4-bit where asked for, with fresh LoRA weights.

    Raises UserError for a model that cannot be found, reached, quantised or searched with.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)       # what it logs at import would tear the display
    import safetensors          # heavy imports, only once they are needed
    import transformers

    from shared_prompt import check_full_attention
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)    # after its import, which sets the level itself
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    cuda = torch.cuda.is_available()
    quantize = config.quantize or ("4bit" if cuda else "none")
    dtype = torch.bfloat16 if cuda else torch.float32
    options = {"dtype": dtype}
    if cuda:
        options["device_map"] = "auto"
    if quantize == "4bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError("4-bit weights need bitsandbytes: pip install bitsandbytes, or use --quantize none")
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    try:
        model_config = transformers.AutoConfig.from_pretrained(source)
        check_full_attention(model_config, source)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError, safetensors.SafetensorError) as error:
        raise UserError(explain_loading(source, error)) from error
    return make_policy(config, source, model, tokenizer)


def make_policy(config: Config, source: str, model, tokenizer) -> Policy:
    """A loaded model, frozen, with fresh LoRA weights and all that sampling needs. source: its name, for messages."""
    import peft
    import transformers

    from shared_prompt import prepare
    prepare(model, source)
    torch.manual_seed(derive(config.seed, "lora"))
    targets = config.lora_targets if config.lora_targets == "all-linear" else config.lora_targets.split(",")
    try:
        model = peft.get_peft_model(model, peft.LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha,
                                                           target_modules=targets, task_type="CAUSAL_LM"))
    except ValueError as error:
        raise UserError(f"--lora-targets {config.lora_targets} does not fit {source} (all-linear fits any "
                        f"model): {one_line(error)}") from error
    if config.init_adapter:
        import hub
        hub.load_adapter(model, config.init_adapter)

    # What ends a completion: the model's own list (Llama 3 has three), else the tokenizer's.
    eos = model.generation_config.eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    eos_ids = frozenset(eos if isinstance(eos, list) else [eos]) - {None}
    if not eos_ids:
        raise UserError(f"{source} defines no end-of-sequence token: a completion would never end")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos_ids)
    # Sampling must be exactly softmax(logits / temperature), or the ratio is biased. transformers fills whatever is
    # None from the model's own generation_config (Qwen ships top-k, top-p, temperature and a repetition penalty), so
    # that one is replaced as well.
    generation = transformers.GenerationConfig(
        do_sample=True, temperature=config.temperature, top_k=0, top_p=1.0, typical_p=1.0,
        repetition_penalty=1.0, no_repeat_ngram_size=0, num_beams=1, use_cache=True,
        max_new_tokens=config.max_new_tokens, eos_token_id=sorted(eos_ids), pad_token_id=pad)
    model.generation_config = generation
    model.base_model.model.generation_config = generation
    return Policy(model, tokenizer, generation, eos_ids)


def encode_prompt(policy: Policy, prompt: str) -> list[int]:
    """Prompt text -> token ids (P,), through the chat template where the tokenizer has one. P is at least 2."""
    tokenizer = policy.tokenizer
    if tokenizer.chat_template:
        # Llama 3's template writes today's date, unless it is given one: a prompt must be the same tomorrow
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                            return_dict=True, date_string="26 Jul 2024")["input_ids"]
    else:
        ids = tokenizer(prompt + "\n")["input_ids"]
        if ids and ids[-1] in policy.eos_ids:       # some tokenizers close every text: a prompt goes on
            ids = ids[:-1]
    limit = getattr(policy.model.config, "max_position_embeddings", None)
    if limit and len(ids) + policy.generation.max_new_tokens > limit:
        raise UserError(f"the prompt has {len(ids)} tokens, which with --max-new-tokens "
                        f"{policy.generation.max_new_tokens} is more than the model's context of {limit}")
    return ids


def fits(policy: Policy, prompt: str) -> bool:
    """Whether the model's context holds a prompt and the answer to it."""
    try:
        return bool(encode_prompt(policy, prompt))
    except UserError:
        return False


def sample(policy: Policy, prompt_ids: list[int], n: int, seed: int, base: bool = False) -> list[list[int]]:
    """n completions from pi(. | prompt) at the temperature: token ids up to and with the first EOS.

    base: from the frozen base model, its LoRA weights switched off. The draw depends on the seed alone.
    """
    return sample_batch(policy, [(prompt_ids, n)], seed, base)[0]


def sample_batch(policy: Policy, prompts: list[tuple[list[int], int]], seed: int, base: bool = False) -> list:
    """sample() for several (prompt_ids, n) in one batch, which takes hardly longer than one of them alone."""
    from shared_prompt import merged, shared_cache
    torch.manual_seed(seed)
    counts, longest = [n for _, n in prompts], max(len(ids) for ids, _ in prompts)
    padded = [[0] * (longest - len(ids)) + ids for ids, n in prompts for _ in range(n)]
    positions = [[*[0] * (longest - len(ids)), *range(len(ids))] for ids, n in prompts for _ in range(n)]
    inputs, positions = torch.tensor([padded, positions], device=policy.model.device)       # (rows, longest P) each
    with torch.no_grad(), policy.model.disable_adapter() if base else merged(policy.model):
        cache = shared_cache(policy.model, [ids for ids, _ in prompts], counts, policy.generation.max_new_tokens)
        output = policy.model.generate(input_ids=inputs, position_ids=positions, attention_mask=torch.ones_like(inputs),
                                       past_key_values=cache, generation_config=policy.generation)
    completions = iter(first_eos(row, policy.eos_ids) for row in output[:, longest:].tolist())
    return [[next(completions) for _ in range(n)] for n in counts]


def fit_into_memory(policy: Policy, prompt_ids: list[int], config: Config) -> str:
    """Sets how an update is cut into pieces that fit into memory; returns a line about it."""
    from shared_prompt import plan
    G = config.n_on_policy + config.n_greedy + config.n_neighbors
    policy.micro_batch, policy.offload, line = plan(policy.model, prompt_ids, G, config.max_new_tokens,
                                                    config.temperature, config.micro_batch)
    return line


def first_eos(tokens: list[int], eos_ids: frozenset[int]) -> list[int]:
    """Cuts by position, never by the value of the padding token, which often is an EOS itself."""
    end = next((i for i, token in enumerate(tokens) if token in eos_ids), len(tokens) - 1)
    return tokens[:end + 1]


def token_logprobs(policy: Policy, prompt_ids: list[int], completions: list[list[int]]):
    """log pi(o_it | x, o_i<t) of every completion under one prompt x, which is encoded once. Equal, gradients and all, to
    the padded batch of prompt + completion.

    Yields micro-batches: (slice of the rows, log-probabilities, entropies without gradient, mask of real tokens), the
    last three (rows, T). Call backward() on each before the next is asked for, and go on to the end.
    """
    from shared_prompt import micro_batches
    return micro_batches(policy.model, prompt_ids, completions, policy.generation.temperature,
                         policy.micro_batch or len(completions), policy.offload)


# -------------------------------------------------------------------------------------------------- GRPO

def grpo_loss(logprobs, old_logprobs, advantages, mask, eps_low, eps_high, kl_coef=0.0, base_logprobs=None):
    """The clipped policy-gradient loss of a group, with the clip range of DAPO.

        L = - 1/G sum_i 1/|o_i| sum_t [ min( rho_it A_i, clip(rho_it, 1 - eps_low, 1 + eps_high) A_i ) - kl_coef KL_it ]
        rho_it = exp(logprobs - old_logprobs),   KL_it = exp(d) - d - 1,  d = base_logprobs - logprobs

    logprobs, old_logprobs, mask, base_logprobs: (G, T); advantages: (G,). A row whose mask is all 0 adds nothing to
    the sum but counts in G. Returns the loss and, (G, T), which tokens the clip took the gradient from.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    gain = ratio * advantages[:, None]
    clipped = ratio.clamp(1 - eps_low, 1 + eps_high) * advantages[:, None]
    per_token = torch.minimum(gain, clipped)
    if kl_coef:
        d = base_logprobs - logprobs
        per_token = per_token - kl_coef * (torch.exp(d) - d - 1)
    per_row = (per_token * mask).sum(1) / mask.sum(1).clamp(min=1)
    return -per_row.mean(), (clipped < gain).detach() & mask.bool()


# ----------------------------------------------------------------------------------------- one group

@dataclass
class Row:
    """One row of a group: a completion, the candidate in it, and what f said of it."""
    origin: str
    parents: list[str]
    tokens: list[int]
    candidate: str | None       # None: nothing could be parsed from the completion
    kept: bool = True           # False: drawn, but not in the group (with novelty, a repeat that was redrawn)
    proposal: int = 0           # how many candidates the policy had drawn when this one appeared
    score: float = 0.0
    valid: bool = False
    new: bool = False           # its score was not known before this step


def draw(policy: Policy, task: Task, wanted: list[tuple], known: set[str], config: Config, step: int,
         proposals: int) -> list[Row]:
    """Every candidate drawn under some prompts, in order; n of them kept for the group. wanted: (prompt_ids, n, origin,
    parents).

    With novelty K up to K n are drawn, in rounds of what is still missing: unseen candidates are kept first, then the
    earliest of the others. `known` grows by what is drawn. A candidate that was asked for and did not come (a
    completion should have carried several) is an empty row: a proposal, an invalid one, never kept.
    """
    rows: list[Row] = []
    def missing(n, origin):
        return n - sum(row.kept for row in rows if row.origin == origin)
    for turn in range(config.novelty):
        for base in (False, True):          # who answers: the policy, or the frozen base
            ask = [(prompt_ids, missing(n, origin), origin, parents) for prompt_ids, n, origin, parents in wanted
                   if missing(n, origin) and base == (origin == NEIGHBOR and config.neighbors_from == "base")]
            if not ask:
                continue
            prompts = [(prompt_ids, math.ceil(n / task.candidates_per_completion)) for prompt_ids, n, _, _ in ask]
            seed = derive(config.seed, step, *(origin for _, _, origin, _ in ask), turn)
            for (_, n, origin, parents), completions in zip(ask, sample_batch(policy, prompts, seed, base)):
                fresh = [row for tokens in completions for row in parse_rows(policy, task, tokens, origin, parents)]
                fresh += [Row(origin, parents, [], None) for _ in range(n - len(fresh))]
                for row in fresh[:n]:
                    row.kept = row.candidate is not None and row.candidate not in known
                    row.proposal = proposals + len(rows) + 1
                    known.add(row.candidate)
                    rows.append(row)
    for _, n, origin, _ in wanted:
        spare = [row for row in rows if row.origin == origin and not row.kept and row.tokens]
        for row in spare[:missing(n, origin)]:
            row.kept = True
    return rows


def parse_rows(policy: Policy, task: Task, tokens: list[int], origin: str, parents: list[str]) -> list[Row]:
    """A completion -> its rows: one with the very tokens that were sampled, or, where it carries several candidates,
    one for each with the task's rendering of it + EOS."""
    text = policy.tokenizer.decode(tokens, skip_special_tokens=True)
    candidates = task.parse(text)
    if task.candidates_per_completion == 1 or not candidates:
        return [Row(origin, parents, tokens, candidates[0] if candidates else None)]
    return [Row(origin, parents, render_tokens(policy, task, c), c)
            for c in candidates[:task.candidates_per_completion]]


def render_tokens(policy: Policy, task: Task, candidate: str) -> list[int]:
    """The token ids of a completion that never was sampled as such, closed by the tokenizer's EOS."""
    ids = policy.tokenizer(task.render(candidate), add_special_tokens=False)["input_ids"]
    eos = policy.tokenizer.eos_token_id
    return [*ids, eos if eos in policy.eos_ids else min(policy.eos_ids)]


def replay(policy: Policy, task: Task, archive: Archive, config: Config, rng: random.Random) -> list[Row]:
    """n_greedy completions drawn uniformly from the top k of the archive, without repetition while it lasts."""
    best = archive.best(config.top_k)
    chosen = []
    while best and len(chosen) < config.n_greedy:
        chosen += rng.sample(best, min(len(best), config.n_greedy - len(chosen)))
    return [Row(GREEDY, e.parents, e.tokens or render_tokens(policy, task, e.candidate), e.candidate, True,
                e.proposal, e.score, e.valid) for e in chosen]


def what_rows_teach(rows: list[Row], config: Config):
    """The advantage of each row, (G,), and which rows are in the loss, (G,); None for a group of equal scores, which teaches
    nothing."""
    # A repeat that was redrawn and came again finds nothing: rewarded by its score, it would fill all groups to come.
    worth_0 = [config.novelty > 1 and row.origin != GREEDY and not row.new for row in rows]
    scores = torch.tensor([0.0 if zero else row.score for row, zero in zip(rows, worth_0)])             # (G,)
    if scores.max() == scores.min():
        return None
    advantages = METHODS[config.method].advantages(scores)
    # pull_only: a neighbour is no draw from pi(. | x). Pushing down what pi never says moves the weights as far as pushing
    # down what it says, for nothing, and over thousands of evaluations this destroys the policy.
    drop = [config.mask_zero and row.score == 0 or config.pull_only and row.origin == NEIGHBOR and a < 0
            for row, a in zip(rows, advantages.tolist())]
    return advantages, ~torch.tensor(drop)


def update(policy: Policy, optimizer, rows: list[Row], prompt_ids: list[int], lr: float, config: Config) -> dict:
    """GRPO on one group, in place: inner_iterations steps of the optimizer. Returns metrics for steps.jsonl.

    A group that teaches nothing is skipped; a loss that is not finite raises FloatingPointError.
    """
    lesson = what_rows_teach(rows, config)
    if lesson is None:
        return {"skipped": True}
    device = policy.model.get_output_embeddings().weight.device
    advantages, keep = (x.to(device) for x in lesson)                                                   # (G,) each
    G, completions = len(rows), [row.tokens for row in rows]
    base = [None] * G
    if config.kl_coef:
        with torch.no_grad(), policy.model.disable_adapter():
            base = [logprobs for _, logprobs, _, _ in token_logprobs(policy, prompt_ids, completions)]
    old, sums = [], []                                      # of each micro-batch
    for group in optimizer.param_groups:
        group["lr"] = lr
    for iteration in range(config.inner_iterations):
        optimizer.zero_grad()
        loss, clips = 0.0, []
        for i, (part, logprobs, entropy, mask) in enumerate(token_logprobs(policy, prompt_ids, completions)):
            if iteration == 0:      # the policy has not moved since the step began: rho = 1 by construction
                old.append(logprobs.detach())
                sums.append(torch.stack([mask, entropy * mask, old[i] * mask]).sum(-1))                # (3, part)
            part_loss, clipped = grpo_loss(logprobs, old[i], advantages[part], mask * keep[part, None], config.eps_low,
                                           config.eps_high, config.kl_coef, base[i])
            part_loss = part_loss * len(mask) / G           # a part's mean over its rows -> its share of the group's
            part_loss.backward()
            loss += part_loss.item()
            clips.append(clipped.sum(1))
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        grad_norm = torch.nn.utils.clip_grad_norm_(policy.lora.values(), 1.0)
        if not torch.isfinite(grad_norm):
            raise FloatingPointError(f"the gradient norm is {grad_norm.item()}")
        optimizer.step()
    tokens, entropy, logprob = torch.cat(sums, dim=1).tolist()                                         # (G,) each
    return {"skipped": False, "lr": lr, "loss": loss, "grad_norm": grad_norm.item(), "entropy": sum(entropy) / sum(tokens),
            "by_row": list(zip(tokens, logprob, torch.cat(clips).tolist()))}   # real tokens, log-probability, clipped tokens


# ------------------------------------------------------------------------------------------------ search

def evaluate(run: Run, task: Task, archive: Archive, rows: list[Row], step: int, limit: int) -> list[Evaluation]:
    """Fills in the scores of rows and returns what is new: every candidate is paid for once, ever.

    At most `limit` candidates are evaluated; rows beyond are taken out of `rows`. Each result is on disk before the next
    one is waited for.
    """
    wanted: dict[str, Evaluation] = {}
    new: dict[str, Evaluation] = {}
    for row in rows:
        c = row.candidate
        if not row.kept or c is None or c in archive.of or c in wanted or c in new:
            continue
        row.new = len(wanted) + len(new) < limit
        if c in archive.paid:
            new[c] = archive.paid.pop(c)
        elif row.new:
            wanted[c] = Evaluation(archive.next_index(), step, row.proposal, row.origin, row.parents, c, 0.0, False,
                                   row.tokens or None)
    for c, score in tasks.checked_scores(task, list(wanted)):
        e = wanted.pop(c)
        e.score, e.valid, e.info = score.value, score.valid, score.info
        run.log_evaluation(asdict(e))
        new[c] = e
    # where a step taken again is not exactly the same (GPU kernels), nothing that was paid for is lost
    new.update((e.candidate, archive.paid.pop(e.candidate)) for e in list(archive.paid.values()) if e.step == step)
    rows[:] = [row for row in rows if row.candidate is None or row.candidate in archive.of or row.candidate in new]
    for row in rows:
        if e := archive.of.get(row.candidate) or new.get(row.candidate):
            row.score, row.valid = e.score, e.valid
    return list(new.values())


def search(config: Config, task: Task, policy: Policy, run: Run) -> dict:
    """Searches until the task is solved or its budget is spent; returns what goes into summary.json."""
    method = METHODS[config.method]
    optimizer = torch.optim.AdamW(policy.lora.values(), lr=config.lr, weight_decay=0.0, fused=True)
    fresh = {name: p.detach().clone() for name, p in policy.lora.items() if config.patience}
    # Counts, optimizer and LoRA weights are all that a resumed run needs besides the ledger: there is no random state,
    # draws derive from (seed, step).
    counts = run.load_checkpoint(optimizer, policy.lora) or {
        "step": -1, "proposals": 0, "invalid": 0, "repeats": 0, "skipped": 0, "stale": 0, "solved_at": None,
        "seconds": 0.0, "start": 0, "better_at": 0}              # the last two: sizes of the archive
    archive = Archive([Evaluation(**line) for line in run.evaluations], counts["step"])
    task.fits = functools.partial(fits, policy)
    prompt_ids = encode_prompt(policy, task.prompt())
    if method.trains:
        run.say(fit_into_memory(policy, prompt_ids, config))

    if counts["step"] < 0:                                               # warm start: step 0
        rows = [Row(WARM_START, [], [], c) for c in task.warm_start(config.seed)]
        archive.add(evaluate(run, task, archive, rows, 0, len(rows)))
        counts["step"] = 0

    while True:
        best = archive.best(1)
        solved = bool(best) and task.solved(Score(best[0].score, True, best[0].info))
        evaluations = sum(e.step > 0 for e in archive.of.values())
        if solved and counts["solved_at"] is None:
            counts["solved_at"] = counts["proposals"]
        stop = ("solved" if solved and counts["proposals"] - counts["solved_at"] >= config.after_solved else
                "stale" if counts["stale"] >= GIVE_UP_AFTER else
                "budget" if config.budget and evaluations >= config.budget else
                "steps" if not config.budget and counts["step"] >= config.steps else None)
        if stop:
            break
        step, clock = counts["step"] + 1, [time.perf_counter()]
        rng = random.Random(derive(config.seed, step, "choices"))
        known = set(archive.of)
        current = archive.since(counts["start"])

        # 1. sample: on-policy, then neighbours of a parent (on-policy as well while there is nothing to vary)
        parents = [e.candidate for e in method.parents(current, step, config.top_k, rng)]
        while parents and not fits(policy, task.variation_prompt(parents)):     # the context is full: the worst leaves first
            parents = parents[1:]
        n_neighbors = config.n_neighbors if parents else 0
        n_on_policy = config.n_on_policy + config.n_neighbors - n_neighbors
        wanted = [(prompt_ids, n_on_policy, ON_POLICY, [])]
        if n_neighbors:
            wanted.append((encode_prompt(policy, task.variation_prompt(parents)), n_neighbors, NEIGHBOR, parents))
        rows = draw(policy, task, wanted, known, config, step, counts["proposals"])
        clock.append(time.perf_counter())

        # 2. score what is new
        new = evaluate(run, task, archive, rows, step, config.budget - evaluations if config.budget else len(rows))
        clock.append(time.perf_counter())

        # 3. replay, 4. group, 5. update
        group = [row for row in rows if row.kept] + replay(policy, task, current, config, rng)
        progress = evaluations / config.budget if config.budget else (step - 1) / config.steps
        metrics = {"skipped": True}
        if method.trains:
            try:
                metrics = update(policy, optimizer, group, prompt_ids, config.lr * (1 - progress), config)
            except FloatingPointError as error:
                raise RunStopped(f"step {step}: {error}; the run is kept in {run.folder}. Try a lower --lr") from error
        clock.append(time.perf_counter())

        # 6. archive
        archive.add(new)
        counts["step"], counts["stale"] = step, 0 if new else counts["stale"] + 1
        for name, more in {"proposals": len(rows), "invalid": sum(not row.valid for row in rows),
                           "repeats": sum(row.candidate is not None and not row.new for row in rows),
                           "skipped": method.trains and metrics["skipped"], "seconds": clock[-1] - clock[0]}.items():
            counts[name] += more
        if archive.since(counts["start"]).best(config.top_k) != current.best(config.top_k):
            counts["better_at"] = len(archive)
        elif config.patience and len(archive) - counts["better_at"] >= config.patience:
            # A search that has settled refines one optimum for as long as it is paid: forget all but what is known.
            counts["start"] = counts["better_at"] = len(archive)
            policy.model.load_state_dict(fresh, strict=False)
            optimizer.state.clear()
        run.log_step(step_metrics(counts, archive, rows, group, metrics, clock))
        run.save_checkpoint(counts, optimizer, policy.lora)

    if method.trains:
        run.save_checkpoint(counts, optimizer, policy.lora, force=True)
        policy.model.save_pretrained(run.folder / "adapter")
    conclusion = task.conclude([(e.candidate, Score(e.score, e.valid, e.info)) for e in archive.of.values()])
    return {**summarize(config, task, archive, counts, solved, stop), **conclusion}


# -------------------------------------------------------------------------------------------------- main

def parse_arguments(argv: list[str]) -> tuple[Config, Task]:
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--task", default=Config.task)
    cls = tasks.load_task_class(first.parse_known_args(argv)[0].task)
    parser = Parser(prog="migrate.py", allow_abbrev=False, description=__doc__.split("\n")[0],
                    epilog="After a search: migrate.py sample --help, migrate.py push --help.")
    add_flags(parser.add_argument_group("search"), Config)
    add_flags(parser.add_argument_group(f"task {cls.name}"), cls, skip=[f.name for f in dataclasses.fields(Config)])
    flags = vars(parser.parse_args(argv))
    task = cls(**{f.name: flags[f.name] for f in dataclasses.fields(cls) if f.name in flags})
    return resolve({f.name: flags[f.name] for f in dataclasses.fields(Config) if f.name in flags}, task), task


def main(argv: list[str]) -> None:
    if argv and argv[0] in ("push", "sample"):      # what becomes of a finished search
        import hub
        return hub.main(argv)
    config, task = parse_arguments(argv)
    name = f"{task.name}-{task.target}-{config.method}-seed{config.seed}"
    folder = Path(config.out) if config.out else free_folder(name, config.resume)
    with run_folder(folder, argv):
        settings = {k: v for k, v in asdict(config).items() if k not in ("out", "resume", "track")}
        run = Run(folder, {"config": settings, "options": asdict(task), "command": argv}, config.resume)
        if run.finished:
            print(f"{folder} is finished already")
        else:
            print(f"{describe(config, task.name, METHODS[config.method].trains)}\nrun: {folder}")
            try:
                if config.track:
                    run.track(f"migrate-{task.name}", settings)
                policy = load_policy(config, model_source(config, task))
                with run.progress(config.budget, config.steps):
                    summary = search(config, task, policy, run)
            except UserError:
                run.discard_if_empty()
                raise
            run.finish(summary, task)
        print_summary(folder)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
