"""MiGrATe: search with a language model that learns from what it finds (arXiv 2508.08641).

A policy pi, which is a language model with LoRA weights, proposes candidates. A black box f scores
them. GRPO adapts the LoRA weights online, to this one problem, on the candidates of this search
alone. A row is a completion with its candidate; without a valid one its reward is 0. One step:

    1. sample    n_on_policy rows from pi(. | x), the task prompt, and n_neighbors from
                 pi(. | x_ns), the neighbour prompt: it shows a good candidate, asks for a variation
    2. score     the candidates that f has not scored before: reward r_i = f in [0, 1], or a rank
    3. replay    n_greedy of the best in the archive
    4. group     all of them, G rows, as if all had been sampled under x;  A_i = r_i - mean(r)
    5. update    the LoRA weights by GRPO, inner_iterations times; mask_zero leaves out r_i = 0
    6. archive   the new candidates

    python migrate.py --task wordsearch                 # the bundled policy: seconds on two cores
    python migrate.py --task wordsearch --model meta-llama/Llama-3.2-3B-Instruct # paper's model
    python migrate.py --task my_task.py --model Qwen/Qwen3-4B-Instruct-2507 --preset large-lm

Read it from top to bottom. tasks.py says what is searched, runlog/ writes a run to disk and screen,
engine/ loads models and has a faster `sample` and `token_logprobs`. Lines marked FORK call what a
method of your own can replace (docs/forking.md). Differences from the paper: docs/differences.md.

Shapes: G rows of a group (rows: a part of it), P prompt tokens, T completion tokens, V vocabulary.
"""
from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import runlog.interrupts  # noqa: F401 (first: Ctrl-C prints one line from here on)
from hub.adapters import load_adapter
from reports import pages
from runlog import ending, flags, plugins, settings
from runlog.completions import log_completions
from runlog.errors import RunStopped, exit_code
from runlog.folder import Run, opened
from runlog.ledger import GREEDY, NEIGHBOR, ON_POLICY, WARM_START, Evaluation, rank_key
from runlog.metrics import step_metrics, summary_of
from runlog.slow import engine, torch  # imported at their first use: --help does not wait for them
from tasks import Score, Task, from_function, load_task_class, ready

VERSION = "0.2.0"
GIVE_UP_AFTER = 50      # steps in a row without a new candidate


# ----------------------------------------------------------------------------------------- settings

@dataclass
class Config:
    """The settings of a search, but for those of the task and of the method's modifiers. The
    preset, the method and the command line override these defaults, in this order (resolve)."""
    task: str = "wordsearch"      # a task of tasks.py, or path/to/file.py[:ClassName]
    model: str = "tiny"           # Hub name, folder, GGUF file, smollm2, or bundled: tiny[/NAME]
    method: str = "migrate"       # NAME[+MODIFIER..] of METHODS and methods/, or file.py:name
    preset: str = ""              # named settings that override these: screen, paper, ..
    seed: int = 0                 # every random draw derives from it and the step
    proposals: int = 1000         # candidates to draw, repeats and invalid ones included
    steps: int | None = None      # instead: number of groups
    budget: int | None = None     # instead: stop after so many unique evaluations of f
    after_solved: int = 0         # candidates to draw after the first solution (ARC: for its vote)
    n_on_policy: int = 4          # rows of a group sampled under the task prompt (paper: alpha)
    n_greedy: int = 1             # rows replayed (greedy) from the archive's best (paper: beta)
    n_neighbors: int = 5          # rows sampled under the neighbour prompt (paper: gamma)
    top_k: int = 3                # replays, and most methods' parents, are from the k best so far
    temperature: float = 1.0      # of sampling, and of the log-probabilities in an update
    max_new_tokens: int = 64      # longest completion
    lr: float = 5e-5              # learning rate at the start; it falls linearly to 0
    inner_iterations: int = 2     # GRPO updates on each group (paper: mu)
    eps_low: float = 0.2          # the ratio is clipped to [1 - eps_low, 1 + eps_high]
    eps_high: float = 0.28        # see eps_low
    kl_coef: float = 0.0          # weight of the KL term to the frozen base model
    mask_zero: bool = True        # leave rows of reward 0 out of the loss (not out of the mean)
    lora_r: int = 64              # LoRA rank
    lora_alpha: int = 16          # LoRA scale: W + lora_alpha / lora_r * B A
    lora_targets: str = "q_proj,v_proj"  # modules with LoRA weights, comma-separated, or all-linear
    init_adapter: str | None = None      # first LoRA weights: a run, a PEFT folder, or a Hub name


def resolve(given: dict, task: Task) -> Config:
    """Config's defaults < preset < method < given, for code and tests. Raises UserError."""
    return settings.resolve(given, task, Config(), METHODS)


# ------------------------------------------------------------------------------------------ archive

class Archive(dict[str, Evaluation]):
    """Unique scored candidates: {candidate: its evaluation}, in the order of their indices. It is
    ranked as it grows: a step costs the same, however long the search has been."""

    def __init__(self, evaluations: Iterable[Evaluation] = ()):
        self.ranked: list[Evaluation] = []      # valid ones, best first
        self.spent = 0                          # what counts against the budget: no warm start
        self.later: tuple = 0, None             # (start, since(start)) of the latest start
        self.add(evaluations)

    def add(self, evaluations: Iterable[Evaluation]) -> None:
        for e in sorted(evaluations, key=lambda e: e.index):
            self[e.candidate] = e
            self.spent += e.step > 0
            if e.valid:
                bisect.insort(self.ranked, e, key=rank_key)
            if self.later[0]:
                self.later[1].add([e])

    def since(self, start: int) -> Archive:
        """What came after the first `start` evaluations."""
        if start and start != self.later[0]:
            self.later = start, Archive(itertools.islice(self.values(), start, None))
        return self.later[1] if start else self

    def best(self, k: int) -> list[Evaluation]:
        """The k best, best first; of equal ones the older."""
        return self.ranked[:k]


# ------------------------------------------------------------------------------------------- policy

def derive(seed: int, *names) -> int:
    """A 63-bit seed for one use. It needs no generator's state: a resumed step draws the same."""
    return int.from_bytes(hashlib.sha256(repr((seed, *names)).encode()).digest()[:8], "big") >> 1


@dataclass
class Policy:
    """The language model. lora: {name: trainable weight}; eos_ids: what ends a completion."""
    model: object               # peft model: frozen base, trainable LoRA
    tokenizer: object
    generation: object          # GenerationConfig: softmax(logits / temperature), nothing else
    n_parameters: int           # of the base model
    slow_because: str = ""      # why engine/ cannot be used, only the functions below; "": it can
    micro_batch: int = 0        # rows at a time in an update; 0: all (set by fit_into_memory)
    offload: bool = False       # the prompt's activations wait in the CPU's memory (set there, too)

    def __post_init__(self):
        self.lora = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.eos_ids = frozenset(self.generation.eos_token_id)


def load_policy(config: Config, source: str, options: settings.RunOptions | None = None,
                loaded=None) -> Policy:
    """A causal language model, frozen, in 4 bits (QLoRA) if large and on CUDA, or asked for; with
    LoRA weights. source: as for engine.load_model; loaded: its result (tests). Raises UserError."""
    options = options or settings.RunOptions()
    model, tokenizer = loaded or engine.load_model(source, options.quantize, options.dtype)
    n_parameters = model.num_parameters()
    engine.freeze(model)        # no dropout either: the ratio would be noise
    generation = engine.exact_sampling(model, tokenizer, source, config)
    slow_because = engine.attach(model, source, options.engine)
    torch.manual_seed(derive(config.seed, "lora"))
    model = engine.add_lora(model, source, config)
    if config.init_adapter:
        load_adapter(model, config.init_adapter)
    return Policy(model, tokenizer, generation, n_parameters, slow_because, options.micro_batch)


def first_eos(tokens: list[int], eos_ids: frozenset[int]) -> list[int]:
    """The tokens up to and with the first EOS. What follows is padding, often of EOS tokens."""
    end = next((i for i, token in enumerate(tokens) if token in eos_ids), len(tokens) - 1)
    return tokens[:end + 1]


def sample(policy: Policy, prompts: list[tuple[list[int], int]], seed: int) -> list:
    """Draws n completions from pi(. | x) for each (prompt_ids, n), all of them in one batch.

    Returns for each prompt its completions: token ids up to and with the first EOS. Sets torch's
    seed: the same weights on the same machine draw the same."""
    torch.manual_seed(seed)
    if not policy.slow_because:
        tokens = engine.sample(policy.model, prompts, policy.generation)     # (rows, T)
    else:
        rows = [ids for ids, n in prompts for _ in range(n)]
        P = max(map(len, rows))
        ids = [[policy.generation.pad_token_id] * (P - len(row)) + row for row in rows]
        mask = [[0] * (P - len(row)) + [1] * len(row) for row in rows]
        ids, mask = torch.tensor([ids, mask], device=policy.model.device)           # (rows, P) each
        with torch.no_grad():
            tokens = policy.model.generate(input_ids=ids, attention_mask=mask,
                                           generation_config=policy.generation)[:, P:]
    completions = (first_eos(row, policy.eos_ids) for row in tokens.tolist())
    return [list(itertools.islice(completions, n)) for _, n in prompts]


def token_logprobs(policy: Policy, prompt_ids: list[int], completions: list[list[int]]) -> Iterator:
    """log pi(o_it | x, o_i<t), pi = softmax(logits / temperature), of completions under one prompt.
    Yields micro-batches: (slice of the rows, log-probabilities, entropies -sum_v pi_v log pi_v
    without gradient, mask of real tokens), the last three (rows, T), padded to the longest row.
    Call backward() on each before you ask for the next, and go on to the end."""
    size = policy.micro_batch or len(completions)
    temperature = policy.generation.temperature
    if not policy.slow_because:
        yield from engine.token_logprobs(policy.model, prompt_ids, completions, temperature, size,
                                         policy.offload)
        return
    for start in range(0, len(completions), size):
        batch = completions[start:start + size]
        T = max(map(len, batch))
        # Padding on the right: causal attention hides it from every real token.
        ids = torch.tensor([prompt_ids + c + [0] * (T - len(c)) for c in batch],
                           device=policy.model.device)                              # (rows, P + T)
        mask = torch.tensor([[1.0] * len(c) + [0.0] * (T - len(c)) for c in batch],
                            device=policy.model.device)                             # (rows, T)
        logits = policy.model(input_ids=ids, use_cache=False, logits_to_keep=T + 1).logits
        logp = torch.log_softmax(logits[:, :-1].float() / temperature, dim=-1)      # (rows, T, V)
        chosen = logp.gather(-1, ids[:, -T:, None])[..., 0]                         # (rows, T)
        entropy = -(logp.detach().exp() * logp.detach()).sum(-1)                    # (rows, T)
        yield slice(start, start + size), chosen * mask, entropy * mask, mask


# ---------------------------------------------------------------------------------------- one group

class Ask(NamedTuple):
    """n candidates to draw under one prompt."""
    prompt_ids: list[int]
    n: int
    origin: str
    parents: list[str]          # what the prompt shows


def what_to_ask(config: Config, task: Task, policy: Policy, prompt_ids: list[int],
                parents: list[str]) -> list[Ask]:
    """n_on_policy candidates under the task prompt, n_neighbors under the neighbour prompt. While
    there is no parent, all of them are on-policy."""
    parents = parents if config.n_neighbors else []
    while parents and not engine.chat.fits(policy, prompt := task.variation_prompt(parents)):
        parents = parents[1:]           # the context is full: the worst parent is left out
    if not parents:
        return [Ask(prompt_ids, config.n_on_policy + config.n_neighbors, ON_POLICY, [])]
    asks = [Ask(prompt_ids, config.n_on_policy, ON_POLICY, []),
            Ask(engine.chat.encode(policy, prompt), config.n_neighbors, NEIGHBOR, parents)]
    return [ask for ask in asks if ask.n]


@dataclass
class Row:
    """One row of a group: a completion, the candidate in it, and what f said of it."""
    origin: str
    parents: list[str]
    tokens: list[int]
    candidate: str | None       # None: the completion holds none
    prompt_ids: list[int] | None = None     # what it answered; None: not drawn in this step
    span: tuple[int, int] | None = None     # [first, end) of the candidate's tokens; None: all
    kept: bool = True           # False: it was drawn, but it is not in the group
    proposal: int = 0           # how many candidates had been drawn when this one appeared
    score: float = 0.0
    valid: bool = False
    new: bool = False           # the first row of a candidate that f had not scored before


def parse_rows(policy: Policy, task: Task, tokens: list[int], ask: Ask) -> list[Row]:
    """A completion -> a row for each of its candidates, with the very tokens that were sampled.

    Where completions hold several, a row trains on its own candidate's tokens alone: on no bracket,
    no comma and no end of the list."""
    n = task.candidates_per_completion
    candidates = task.parse(policy.tokenizer.decode(tokens, skip_special_tokens=True))[:n]
    whole = n == 1 or not candidates        # then the row trains on every token
    spans = [None] if whole else engine.chat.spans(policy.tokenizer, tokens, candidates)
    return [Row(ask.origin, ask.parents, tokens, c, ask.prompt_ids, span)
            for c, span in zip(candidates or [None], spans)]


def draw(policy: Policy, task: Task, asks: list[Ask], archive: Archive, key: tuple,
         turn: int = 0) -> list[Row]:
    """The candidates that were asked for, in order. archive: only for a method's own draw.

    key: (seed, step); turn: 0, 1, .. if a method draws several times in a step. A candidate that a
    completion should have carried is an empty row: an invalid proposal, not in the group."""
    origins = [ask.origin for ask in asks]      # in the seed: two calls in a step draw differently
    prompts = [(ask.prompt_ids, math.ceil(ask.n / task.candidates_per_completion)) for ask in asks]
    rows = []
    for ask, drawn in zip(asks, sample(policy, prompts, derive(*key, *origins, turn))):
        own = [row for tokens in drawn for row in parse_rows(policy, task, tokens, ask)]
        missing = ask.n - len(own)
        own += [Row(ask.origin, ask.parents, [], None, kept=False) for _ in range(missing)]
        rows += own[:ask.n]
    return rows


def render(policy: Policy, task: Task, candidate: str) -> list[int]:
    """The tokens of a completion that never was sampled, closed as the model's own turns are."""
    ids = policy.tokenizer(task.render(candidate), add_special_tokens=False)["input_ids"]
    return [*ids, engine.chat.end_of_turn(policy.tokenizer, policy.eos_ids)]


def evaluate(run: Run, task: Task, archive: Archive, rows: list[Row], step: int,
             limit: float = math.inf) -> list[Evaluation]:
    """Scores what f has not scored before, fills the scores into rows, and returns what is new.

    Each result is on disk before the next one is waited for. At most `limit` candidates are new;
    rows with further ones are taken out of `rows`."""
    fresh: dict[str, Row] = {}
    for row in rows:
        c = row.candidate
        if not (c is None or c in archive or c in fresh or len(fresh) >= limit):
            fresh[c] = row
            row.new = True
    new = run.already_paid(fresh, step)         # not empty only after --resume
    index = {c: run.next_index() for c in fresh if c not in new}
    for c, score in task.score(list(index)):
        row = fresh[c]
        new[c] = Evaluation(index[c], step, row.proposal, row.origin, row.parents, c, score.value,
                            score.valid, row.tokens or None, score.info)
        run.log_evaluation(new[c])
    scored = {c: new.get(c) or archive.get(c) for c in {row.candidate for row in rows}}
    rows[:] = [row for row in rows if row.candidate is None or scored[row.candidate]]
    for row in rows:
        if row.candidate is not None:
            row.score, row.valid = scored[row.candidate].score, scored[row.candidate].valid
    return list(new.values())


def replay(policy: Policy, task: Task, archive: Archive, config: Config,
           rng: random.Random) -> list[Row]:
    """n_greedy completions, uniformly from the archive's top k, none twice before each came once.
    Those longer than max_new_tokens, which only the warm start has, make the group smaller."""
    best = archive.best(config.top_k)
    chosen = []
    while best and len(chosen) < config.n_greedy:
        chosen += rng.sample(best, min(len(best), config.n_greedy - len(chosen)))
    rows = [Row(GREEDY, [], e.tokens or render(policy, task, e.candidate), e.candidate,
                score=e.score, valid=e.valid) for e in chosen]
    for row in rows:        # with the span that it had when it was sampled
        parsed = parse_rows(policy, task, row.tokens, Ask([], 1, GREEDY, []))
        row.span = next((other.span for other in parsed if other.candidate == row.candidate), None)
    return [row for row in rows if len(row.tokens) <= config.max_new_tokens]


# --------------------------------------------------------------------------------------------- GRPO

def group_advantages(rows: list[Row], rewards):
    """The advantages A_i = r_i - mean(r), (G,), and which rows are in the loss, (G,) bool: all. Not
    divided by the deviation, as in Dr. GRPO (Liu et al. 2025); the loss keeps 1/|o_i|. r: (G,)"""
    return rewards - rewards.mean(), torch.ones(len(rows), dtype=torch.bool)


def grpo_loss(logprobs, old_logprobs, advantages, mask, eps_low, eps_high, kl_coef=0.0,
              base_logprobs=None):
    """The clipped loss of GRPO (Shao et al. 2024), with the clip range of DAPO (Yu et al. 2025).

        L = - 1/G sum_i 1/|o_i| sum_t [ min( rho_it A_i, c_it A_i ) - kl_coef KL_it ]
        rho_it = exp(logprobs - old_logprobs),   c_it = clip(rho_it, 1 - eps_low, 1 + eps_high)
        KL_it  = exp(d) - d - 1,                 d = base_logprobs - logprobs

    logprobs and old_logprobs (before the first update) are under the task prompt, for neighbours
    and replays too: no weight corrects for where they were sampled. mask: the |o_i| tokens of row
    i; a row without any adds nothing to the sum but counts in G. advantages: (rows,), the others
    (rows, T). Returns the loss and, (rows, T), which tokens the clip took the gradient from."""
    ratio = torch.exp(logprobs - old_logprobs)
    gain = ratio * advantages[:, None]
    clipped = ratio.clamp(1 - eps_low, 1 + eps_high) * advantages[:, None]
    per_token = torch.minimum(gain, clipped)
    if kl_coef:
        d = base_logprobs - logprobs
        per_token = per_token - kl_coef * (torch.exp(d) - d - 1)
    per_row = (per_token * mask).sum(1) / mask.sum(1).clamp(min=1)
    return -per_row.mean(), (clipped < gain).detach() & mask.bool()


def row_logprobs(policy: Policy, prompt_ids: list[int], rows: list[Row]) -> Iterator:
    """token_logprobs of the rows of a group, with the mask of each row's own tokens.

    Yields micro-batches: (indices of rows, log-probabilities, entropies, mask), the last three
    (rows, T). Candidates that came in one completion share it: it is computed once."""
    by_completion: dict = {}
    for i, row in enumerate(rows):
        by_completion.setdefault(tuple(row.tokens) if row.span else i, []).append(i)
    users = list(by_completion.values())            # the rows of each completion
    completions = [rows[of_one[0]].tokens for of_one in users]
    for part, *batch in token_logprobs(policy, prompt_ids, completions):
        indices = [i for of_one in users[part] for i in of_one]
        copies = [n for n, of_one in enumerate(users[part]) for _ in of_one]
        logprobs, entropy, mask = (x[copies] for x in batch)                            # (rows, T)
        position = torch.arange(mask.shape[1], device=mask.device)                      # (T,)
        spans = [rows[i].span or (0, len(rows[i].tokens)) for i in indices]
        first, end = torch.tensor(spans, device=mask.device).T[..., None]               # (rows, 1)
        yield indices, logprobs, entropy, mask * ((first <= position) & (position < end))


def update(policy: Policy, optimizer, rows: list[Row], prompt_ids: list[int], advantages, in_loss,
           config: Config, row_logprobs=row_logprobs, grpo_loss=grpo_loss) -> dict:
    """GRPO on one group, in place, inner_iterations times. A fork can give its own last two.

    advantages: (G,), in_loss: (G,) bool. Returns loss and gradient norm (before it is clipped to 1)
    of the last iteration, entropy (nats a token) of the first, and by_row: (tokens, log-probability
    in the first, tokens clipped in the last). Raises FloatingPointError if they are not finite."""
    totals = torch.zeros(4, len(rows))      # of each row: tokens, entropy, log-probability, clipped
    old, base = [], [None] * len(rows)      # log-probabilities of each micro-batch
    if config.kl_coef:
        with torch.no_grad(), policy.model.disable_adapter():
            base = [batch[1] for batch in row_logprobs(policy, prompt_ids, rows)]
    for iteration in range(config.inner_iterations):
        optimizer.zero_grad()
        loss, batches = 0.0, row_logprobs(policy, prompt_ids, rows)
        for i, (part, logprobs, entropy, mask) in enumerate(batches):
            if iteration == 0:          # the policy has not moved since the step began: rho = 1
                old.append(logprobs.detach())
                totals[:3, part] = torch.stack([mask, entropy * mask, old[i] * mask]).sum(-1).cpu()
            A, in_part = advantages[part].to(mask.device), in_loss[part].to(mask.device)
            mean, clipped = grpo_loss(logprobs, old[i], A, mask * in_part[:, None], config.eps_low,
                                      config.eps_high, config.kl_coef, base[i])
            share = mean * len(part) / len(rows)        # of the group's loss
            share.backward()
            loss += share.item()
            totals[3, part] = clipped.sum(1).cpu().float()
        grad_norm = torch.nn.utils.clip_grad_norm_(policy.lora.values(), 1.0).item()
        if not math.isfinite(loss + grad_norm):
            raise FloatingPointError(f"the loss is {loss}, the gradient norm {grad_norm}")
        optimizer.step()
    tokens, entropy, logprob, clipped = totals.tolist()                                 # (G,) each
    return {"loss": loss, "grad_norm": grad_norm, "entropy": sum(entropy) / max(1, sum(tokens)),
            "by_row": list(zip(tokens, logprob, clipped))}


# ------------------------------------------------------------------------------------------ methods

def one_of_top_k(archive: Archive, step: int, top_k: int, rng: random.Random) -> list[Evaluation]:
    """One parent, uniformly from the k best (paper, neighbourhood sampling)."""
    best = archive.best(top_k)
    return [rng.choice(best)] if best else []


def ranked_list(n: int, archive: Archive, step: int, top_k: int, rng) -> list[Evaluation]:
    """The n best, worst first: the prompt of OPRO (Yang et al. 2023)."""
    return archive.best(n)[::-1]


@dataclass(frozen=True)
class Method:
    """What makes a method. Any of it can be replaced: dataclasses.replace(METHODS[..], ..)."""
    counts: Callable            # (G, the preset's three counts) -> this method's three counts
    parents: Callable           # (recent, step, top_k, rng) -> parents (Evaluations), worst to best
    trains: bool                # whether GRPO updates the policy
    advantages: Callable = group_advantages     # (rows, rewards) -> (A, in_loss), (G,) each
    asks: Callable = what_to_ask    # (config, task, policy, prompt_ids, parents' texts) -> asks
    draw: Callable = draw       # (policy, task, asks, archive, key, turn=0) -> rows
    update: Callable = update   # (policy, optimizer, rows, prompt_ids, A, in_loss, config) -> dict
    restart: Callable | None = None     # (archive, start, top_k) -> whether to begin afresh


top_10, top_5 = functools.partial(ranked_list, 10), functools.partial(ranked_list, 5)
METHODS = {
    "random":       Method(lambda G, mixture: (G, 0, 0),     one_of_top_k, trains=False),
    "ns":           Method(lambda G, mixture: (0, 0, G),     one_of_top_k, trains=False),
    "opro":         Method(lambda G, mixture: (0, 0, G),     top_10,       trains=False),
    "grpo":         Method(lambda G, mixture: (G, 0, 0),     one_of_top_k, trains=True),
    "grpo-greedy":  Method(lambda G, mixture: (G - 1, 1, 0), one_of_top_k, trains=True),
    "migrate":      Method(lambda G, mixture: mixture,       one_of_top_k, trains=True),
    "migrate-opro": Method(lambda G, mixture: mixture,       top_5,        trains=True),
}       # methods/ has more: migrate-evo, discover, and modifiers such as novelty


def train(config: Config, method: Method, policy: Policy, optimizer, group: list[Row], rewards,
          prompt_ids: list[int], lr: float) -> dict:
    """Advantages, and an update on the rows in the loss. Skipped: no row in the loss, all A = 0,
    or all A equal and all rewards, too. rewards: (G,). Returns metrics. Raises RunStopped."""
    advantages, in_loss = method.advantages(group, rewards)                 # FORK: (G,) each
    if config.mask_zero:
        in_loss = in_loss & (rewards != 0)          # such a row still counts in the mean
    if not method.trains or not (in_loss.any() and advantages.any()) or (
            advantages.max() == advantages.min() and rewards.max() == rewards.min()):
        return {"skipped": True}
    for parameters in optimizer.param_groups:
        parameters["lr"] = lr
    try:                                                                    # FORK
        metrics = method.update(policy, optimizer, group, prompt_ids, advantages, in_loss, config)
    except FloatingPointError as error:
        raise RunStopped(f"{error}; what was found is kept. Try a lower --lr") from error
    return {"skipped": False, "lr": lr, **metrics}


# ------------------------------------------------------------------------------------------- search

@dataclass
class State:
    """Where a search stands. With the LoRA weights, the optimizer and evals.jsonl it is all that a
    resumed run needs: there is no generator state, every draw derives from (seed, step)."""
    step: int = -1                  # -1: before the warm start, which is step 0
    proposals: int = 0
    invalid: int = 0                # proposals without a valid candidate, unreadable ones too
    repeats: int = 0
    skipped: int = 0                # groups that taught nothing
    stale: int = 0                  # steps in a row without a new candidate
    solved_at: int | None = None    # proposals after the step with the first solution
    start: int = 0                  # evaluations that were there when the search last began afresh
    seconds: float = 0.0


def progress(config: Config, state: State, archive: Archive) -> float:
    """The share of the search that is done. A number of proposals is rounded up to whole steps."""
    if config.budget:
        return archive.spent / config.budget
    if config.steps:
        return state.step / config.steps
    drawn = config.n_on_policy + config.n_neighbors         # in a step; replays are not drawn
    return state.proposals / (math.ceil(config.proposals / drawn) * drawn)


def reason_to_stop(config: Config, state: State, archive: Archive) -> str | None:
    if state.solved_at is not None and state.proposals - state.solved_at >= config.after_solved:
        return "solved"
    if state.stale >= GIVE_UP_AFTER:
        return "stale"
    if progress(config, state, archive) < 1:
        return None
    return "budget" if config.budget else "steps"       # "steps": where proposals are counted, too


def note_solution(state: State, task: Task, archive: Archive) -> None:
    best = archive.best(1)
    if state.solved_at is None and best and task.solved(Score(best[0].score, True, best[0].info)):
        state.solved_at = state.proposals


def search(config: Config, method: Method, task: Task, policy: Policy, run: Run) -> dict:
    """Searches until there is a reason to stop, and returns what summary.json holds."""
    optimizer = torch.optim.AdamW(policy.lora.values(), lr=config.lr, weight_decay=0.0, fused=True)
    first_weights = {name: p.detach().clone() for name, p in policy.lora.items()}
    state = State(**run.load_checkpoint(asdict(State()), optimizer, policy.lora))
    archive = Archive(run.resume_from(state.step, policy.model))
    task = ready(task, functools.partial(engine.chat.fits, policy), archive,
                 settings.bundled_policy(config.model, task), policy.n_parameters, run.say)
    prompt_ids = engine.chat.encode(policy, task.prompt())
    if policy.slow_because:
        run.say(f"the plain path, which is slower ({policy.slow_because})")
    if method.trains:   # sets the micro-batch
        run.say(engine.fit_into_memory(policy, prompt_ids, config, token_logprobs))
    if state.step < 0:
        rows = [Row(WARM_START, [], [], c) for c in task.warm_start(config.seed)]
        archive.add(evaluate(run, task, archive, rows, step=0))
        state.step = 0
        note_solution(state, task, archive)
    while not (stop := reason_to_stop(config, state, archive)):
        step, clock = state.step + 1, [time.perf_counter()]
        rng = random.Random(derive(config.seed, step, "choices"))
        recent = archive.since(state.start)
        # 1. sample: on-policy, and neighbours of a parent
        parents = method.parents(recent, step, config.top_k, rng)                       # FORK
        asks = method.asks(config, task, policy, prompt_ids, [e.candidate for e in parents])  # FORK
        rows = method.draw(policy, task, asks, archive, (config.seed, step))            # FORK
        for number, row in enumerate(rows, state.proposals + 1):
            row.proposal = number
        clock.append(time.perf_counter())
        # 2. score what is new
        limit = config.budget - archive.spent if config.budget else math.inf
        new = evaluate(run, task, archive, rows, step, limit)
        clock.append(time.perf_counter())
        # 3. replay, 4. group, 5. update
        group = [row for row in rows if row.kept] + replay(policy, task, recent, config, rng)
        lr = config.lr * (1 - progress(config, state, archive))
        rewards = torch.tensor(task.as_rewards(archive, group, new))    # (G,): f, or its rank
        metrics = train(config, method, policy, optimizer, group, rewards, prompt_ids, lr)
        clock.append(time.perf_counter())
        # 6. archive
        archive.add(new)
        state.step = step
        state.proposals += len(rows)
        state.invalid += sum(not row.valid for row in rows)
        state.repeats += sum(row.candidate is not None and not row.new for row in rows)
        state.skipped += method.trains and metrics["skipped"]
        state.stale = 0 if new else state.stale + 1
        state.seconds += clock[-1] - clock[0]
        note_solution(state, task, archive)
        if method.restart and method.restart(archive, state.start, config.top_k):       # FORK
            state.start = len(archive)
            policy.model.load_state_dict(first_weights, strict=False)
            optimizer.state.clear()
        run.log_step(step_metrics(state, task, rows, group, metrics, clock))
        log_completions(run, policy, task, rows, prompt_ids, step)
        run.save_checkpoint(asdict(state), optimizer, policy.lora)
    if method.trains:
        run.save_checkpoint(asdict(state), optimizer, policy.lora, force=True)
        run.save_adapter(policy.model)
    scored = [(c, Score(e.score, e.valid, e.info)) for c, e in archive.items()]
    found = summary_of(config, task, state, stop, scored)
    return found | task.conclude(scored) | found        # a task adds entries, and replaces none


# ------------------------------------------------------------------------------------- command line

def run(task: str | Task | type[Task] = "", *, argv: list[str] | None = None, **given) -> dict:
    """A search from Python: run("wordsearch", target="cement", seed=1). Returns its summary.

    task: a name as for --task, a Task, or its class; "": score=f and prompt="..", as in
    domains/functions.py. given: flags, with underscores. argv: a command line. Raises UserError."""
    task = task or from_function(given)
    if argv is None:
        given = settings.from_files(task, given, Config(), METHODS, load_task_class)
    task, given = settings.make_task(task or given.get("task", Config.task), given, load_task_class)
    config, method, modifiers, options = settings.of_search(task, given, Config(), METHODS)
    with opened(config, options, method, modifiers, task, argv, given) as this_run:
        if not this_run.finished:
            policy = load_policy(config, settings.model_source(config.model, task), options)
            with this_run.progress(config):
                found = search(config, method, task, policy, this_run)
            this_run.finish(found)
        pages.write_safely(this_run.folder, task)
    ending.print_summary(this_run.folder, task, from_python=argv is None)
    return this_run.summary()


def main(argv: list[str]) -> None:
    if argv and argv[0] in ("push", "sample"):      # what becomes of a finished search
        return plugins.run_module("tools.finished", argv)
    argv = flags.with_files(argv)
    given = settings.from_flags(argv, Config(), METHODS, load_task_class, VERSION, __doc__)
    run(given.pop("task", Config.task), argv=argv, **given)


if __name__ == "__main__":
    sys.modules["migrate"] = sys.modules["__main__"]    # what methods/ imports is this very file
    sys.exit(exit_code(main, sys.argv[1:]))
