"""A group under one prompt at the cost of one prompt: sampling and scoring, fast and small. Knows nothing of GRPO.

Letters in shape comments: n rows, P prompt tokens, T completion tokens, V vocabulary, d width of the model, H heads of
the queries, K heads of the keys, D width of a head.
"""
from __future__ import annotations

import functools
import math
from contextlib import contextmanager, nullcontext

import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tasks import UserError

CHUNK = 2**24       # elements of the logits that exist at a time: 64 MB in fp32, a few times over


def check_full_attention(config, name: str) -> None:
    """Raises UserError unless every layer's cache holds all keys and values: the prompt is shared through it."""
    try:
        layers = DynamicCache(config=config).layers
    except Exception:       # architectures without any such cache (state space models) fail in their own ways
        layers = [None]
    if any(type(layer) is not DynamicLayer for layer in layers):
        raise UserError(f"{name} ({config.model_type}) has sliding-window, linear-attention or state-space layers; the "
                        "prompt is shared through a full-attention cache: use a Llama or Qwen 2.5/3, say")


def prepare(model, name: str) -> None:
    """Freezes a model and turns its dropout off, in train mode: bitsandbytes' CPU kernels repack 4-bit weights at the first
    evaluation-mode forward, after which no gradient reaches the LoRA weights. From then on it attends as shared prompts need.
    Raises UserError if it cannot."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    for p in model.parameters():
        p.requires_grad_(False)
    check_output_layer(model, name)
    model.set_attn_implementation("shared_prompt")


def check_output_layer(model, name: str) -> None:
    """Raises UserError unless attention can be replaced and logits are just the output layer's product, taken in chunks."""
    ids = torch.tensor([[0, 1]], device=model.device)
    with torch.no_grad():
        hidden = model.base_model(ids).last_hidden_state
        plain = torch.allclose(model(ids).logits, model.get_output_embeddings()(hidden.to(ids.device)).to(ids.device))
    if not plain or not model._can_set_attn_implementation():
        raise UserError(f"{name} ({model.config.model_type}) rescales its logits or has an attention of its own: use a "
                        "Llama or Qwen 2.5/3, say")


def run_prompt(model, prompt_ids: list[int]):
    """A prompt in one row without padding, which needs no mask: the cache of its keys and values, (1, K, P, D) in each
    layer, and its last hidden state, (1, d). Both carry gradients."""
    cache = DynamicCache()
    ids = torch.tensor([prompt_ids], device=model.device)                                               # (1, P)
    hidden = model.get_base_model().base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    return cache, hidden[:, -1]


# ---------------------------------------------------------------------------------------------- sampling

class SharedLayer(DynamicLayer):
    """A layer's keys and values while completions are drawn: every prompt's once for all of its rows, and those that the
    rows have added, written in place (the usual cache is copied as a whole at every token)."""

    def __init__(self, prompts: list[DynamicLayer], counts: list[int], room: int):
        super().__init__()
        self.prompts, self.counts, self.length = [(p.keys[0], p.values[0]) for p in prompts], counts, 0    # (K, P, D)
        self.longest = max(p.get_seq_length() for p in prompts)
        self.keys, self.values = (x.new_empty(sum(counts), x.shape[1], room, x.shape[3])                # (n, K, room, D)
                                  for x in (prompts[0].keys, prompts[0].values))
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.longest + self.length

    def update(self, keys, values, *args, **kwargs):
        """keys, values: (n, K, 1, D) of the newest token. The layer itself stands for the whole of them: attention()."""
        self.keys[:, :, self.length], self.values[:, :, self.length] = keys[:, :, 0], values[:, :, 0]
        self.length += 1
        return self, self

    def attend(self, query, scale: float):
        """softmax(scale q k^T) v of every row's newest token over its prompt and its own tokens, (n, H, 1, D) ->
        (n, 1, H, D)."""
        n, H, _, D = query.shape
        q = (query * scale).reshape(n, -1, H // self.keys.shape[1], D)                                  # (n, K, H/K, D)
        k, v = self.keys[:, :, :self.length], self.values[:, :, :self.length]
        parts = zip(self.prompts, q.split(self.counts), k.split(self.counts), v.split(self.counts))
        return torch.cat([attend_to_prompt(*prompt, *own) for prompt, *own in parts]).reshape(n, 1, H, -1)


def attend_to_prompt(prompt_keys, prompt_values, q, k, v):
    """Rows of one prompt meet its keys in one product. prompt_*: (K, P, D); q: (n, K, H/K, D); k, v: (n, K, t, D)."""
    def on_prompt(x, y):                                    # (n, K, H/K, a), (K, a, b) -> (n, K, H/K, b)
        return (x.transpose(0, 1).flatten(1, 2) @ y).unflatten(1, (len(x), -1)).transpose(0, 1)
    scores = torch.cat([on_prompt(q, prompt_keys.mT), q @ k.mT], dim=-1)                                # (n, K, H/K, P+t)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    P = prompt_keys.shape[1]
    return on_prompt(weights[..., :P], prompt_values) + weights[..., P:] @ v


def attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """transformers' own attention, except for completions that are being drawn."""
    if isinstance(key, SharedLayer):
        return key.attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register("shared_prompt", attention)
AttentionMaskInterface.register("shared_prompt", sdpa_mask)


def shared_cache(model, prompts: list[list[int]], counts: list[int], room: int) -> DynamicCache:
    """The cache of a batch with counts[i] rows under prompt i and room for so many tokens a row. The last token of each
    prompt is left to generate(), which needs something to begin with."""
    caches, cache = [run_prompt(model, ids[:-1])[0] for ids in prompts], DynamicCache()
    cache.layers = [SharedLayer(layers, counts, room) for layers in zip(*(c.layers for c in caches))]
    return cache


@functools.lru_cache(maxsize=1)
def mergeable(model) -> list:
    return [m for m in model.modules() if getattr(m, "lora_A", None) and m.get_base_layer().weight.dtype == torch.float32]


@contextmanager
def merged(model):
    """W + scale B A in the place of every W while completions are drawn: this spares LoRA's own products at every token.
    In full precision only (rounded to 16 or 4 bit the sum would be another policy). The very tensors come back."""
    layers = mergeable(model)
    weights = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, weights):
            A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight                   # (r, in), (out, r)
            factors = (A.T, B.T) if layer.fan_in_fan_out else (B, A)                        # GPT-2 keeps W transposed
            layer.get_base_layer().weight.data = torch.addmm(weight, *factors, alpha=layer.scaling["default"])
            layer.forward = layer.get_base_layer().forward
        yield
    finally:
        for layer, weight in zip(layers, weights):
            layer.get_base_layer().weight.data = weight
            vars(layer).pop("forward", None)


# ----------------------------------------------------------------------------------------------- scoring

class TokenLogprobs(torch.autograd.Function):
    """log p(token | hidden state) at temperature tau and the entropy of each prediction, in chunks of hidden states:

        log p_v = log softmax(W h / tau)_v,     d log p_v / dh = (W_v - sum_u p_u W_u) / tau

    The forward pass keeps sum_u p_u W_u, a vector of d, and drops the logits, V of them, which would be the largest
    tensors of all: nothing is computed twice. W, the output layer, is frozen. Entropies carry no gradient.
    """

    @staticmethod
    def forward(ctx, hidden, rows, tokens, head, tau):          # (N, d); (M,) tokens to score behind hidden[rows], sorted
        size, logprobs, entropies, means = max(1, CHUNK // head.out_features), [], [], []
        for start, h in zip(range(0, len(hidden), size), hidden.split(size)):
            log_p = torch.log_softmax(head(h).float() / tau, dim=-1)                                    # (size, V)
            p = log_p.exp()
            here = (rows >= start) & (rows < start + size)
            logprobs.append(log_p[rows[here] - start, tokens[here]])
            entropies.append(-torch.linalg.vecdot(p, log_p))
            if ctx.needs_input_grad[0]:
                means.append(p.to(h.dtype) @ head.weight)                                               # (size, d)
        if means:
            ctx.save_for_backward(torch.cat(means), rows, tokens)
        ctx.head, ctx.tau, entropy = head, tau, torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy                                                             # (M,), (N,)

    @staticmethod
    def backward(ctx, grad, _):                                                                         # (M,)
        mean, rows, tokens = ctx.saved_tensors
        slopes = (ctx.head.weight[tokens] - mean[rows]) / ctx.tau                                       # (M, d)
        return torch.zeros_like(mean).index_add(0, rows, grad.to(mean.dtype)[:, None] * slopes), None, None, None, None


def prompt_pass(model, prompt_ids: list[int]) -> list:
    """What depends on the prompt alone: its last hidden state, (1, d), and keys and values of each layer, (1, K, P, D)."""
    cache, hidden = run_prompt(model, prompt_ids)
    return [hidden, *(x for layer in cache.layers for x in (layer.keys, layer.values))]


def completion_pass(model, prompt: list, completions: list[list[int]], tau: float):
    """n completions on what prompt_pass returned: log-probabilities, entropies and the mask of real tokens, (n, T) each.

    All rows have their first token from the same prediction, the prompt's. They are padded on the right, where causal
    attention hides the padding from every real token.
    """
    n, longest, head = len(completions), max(map(len, completions)), model.get_output_embeddings()
    tokens = torch.tensor([c + [0] * (longest - len(c)) for c in completions], device=head.weight.device)   # (n, T)
    mask = torch.tensor([[1.0] * len(c) + [0.0] * (longest - len(c)) for c in completions], device=tokens.device)
    real = mask[:, 1:].bool()                                                                           # (n, T-1)
    hidden = prompt[0].to(tokens.device)                                                                # (1, d)
    if longest > 1:
        cache = DynamicCache()
        for k, v in zip(prompt[1::2], prompt[2::2]):
            layer = DynamicLayer()
            layer.lazy_initialization(k, v)
            layer.keys, layer.values = k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1)
            cache.layers.append(layer)
        inner = model.get_base_model().base_model(input_ids=tokens[:, :-1].to(model.device), past_key_values=cache,
                                                  use_cache=True).last_hidden_state.to(tokens.device)   # (n, T-1, d)
        hidden = torch.cat([hidden, inner[real]])                                                       # (N, d)
    rows = torch.arange(1 - n, len(hidden), device=tokens.device).clamp(min=0)              # n times 0, then 1, 2, ..
    logprobs, entropy = TokenLogprobs.apply(hidden, rows, torch.cat([tokens[:, 0], tokens[:, 1:][real]]), head, tau)
    padded = torch.zeros_like(mask[:, 1:])
    return (*(torch.cat([x[:n, None], padded.masked_scatter(real, x[n:])], dim=1) for x in (logprobs, entropy[rows])), mask)


def micro_batches(model, prompt_ids: list[int], completions: list[list[int]], tau: float, size: int, offload: bool):
    """log p(o_it | x, o_i<t) of a group of completions under one prompt x, `size` rows at a time.

    Yields (slice of the rows, log-probabilities, entropies, mask), the last three (rows, T). Call backward() on what is
    made of the log-probabilities before the next is asked for; after the last, the gradients that have gathered at the
    prompt's keys, values and last state go through the prompt, once. Exact, whatever the size. offload: keeps the prompt's
    activations in the CPU's memory meanwhile.
    """
    with saved_tensors(model, to_cpu, from_cpu) if offload else nullcontext():
        prompt = prompt_pass(model, prompt_ids)
    leaves = [x.detach().requires_grad_(x.requires_grad) for x in prompt]
    for start in range(0, len(completions), size):
        rows = slice(start, start + size)
        yield rows, *completion_pass(model, leaves, completions[rows], tau)
    reached = [(x, leaf.grad) for x, leaf in zip(prompt, leaves) if leaf.grad is not None]
    if reached:
        torch.autograd.backward(*zip(*reached))


# ------------------------------------------------------------------------------------------------ memory

def saved_tensors(model, pack, unpack):
    """torch.autograd.graph.saved_tensors_hooks for everything but the model's weights, which are there anyway."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    def is_weight(x):
        return isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() in weights
    return torch.autograd.graph.saved_tensors_hooks(lambda x: x if is_weight(x) else pack(x),
                                                    lambda x: x if is_weight(x) else unpack(x))


def to_cpu(x):
    packed = torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda)
    return x.device, packed.copy_(x, non_blocking=x.is_cuda)


def from_cpu(packed):
    device, x = packed
    return x.to(device, non_blocking=True)


def activations(model, run) -> tuple[int, object]:
    """The bytes that run() keeps for its backward pass, measured without keeping them, and its result."""
    seen, total = {}, 0
    def count(x):
        nonlocal total
        storage = x.untyped_storage()
        if (known := seen.get(storage.data_ptr())) is None or known.expired():      # freed memory is used again
            seen[storage.data_ptr()] = StorageWeakRef(storage)
            total += storage.nbytes()
    with saved_tensors(model, count, lambda _: None):
        result = run()
    return total, result


def free_memory(model) -> int:
    """Bytes that can still be had where the model is; over several devices, as if each had as little as the fullest."""
    devices = {p.device for p in model.parameters()}
    if all(d.type == "cuda" for d in devices):
        return len(devices) * min(torch.cuda.mem_get_info(d)[0] + torch.cuda.memory_reserved(d) -
                                  torch.cuda.memory_allocated(d) for d in devices)
    return psutil.virtual_memory().available


def plan(model, prompt_ids: list[int], G: int, T: int, tau: float, size: int = 0) -> tuple[int, bool, str]:
    """How an update of G rows of T tokens fits into memory: (rows in a micro-batch, whether the prompt's activations go to
    the CPU, a line that says so). size: rows in a micro-batch where the user has chosen; 0: the most that fit.

    What the backward pass needs is measured on the model as it is, with the prompt and one row of full length.
    """
    of_prompt, prompt = activations(model, lambda: prompt_pass(model, prompt_ids))
    leaves = [x.detach().requires_grad_(x.requires_grad) for x in prompt]
    of_row, _ = activations(model, lambda: completion_pass(model, leaves, [[0] * T], tau))
    V = model.get_output_embeddings().out_features
    fixed = 2 * sum(x.nbytes for x in prompt) + 4 * 4 * max(V, min(CHUNK, G * T * V))   # keys, values, gradients; logits
    free = free_memory(model)
    for offload in (False, True):
        kept = 0 if offload else of_prompt
        fits = int((0.9 * free - fixed - kept) // max(1, of_row))
        if fits >= (size or 1) or model.device.type == "cpu":       # on the CPU there is nowhere else to put them
            break
    parts = math.ceil(G / max(1, min(size or fits, G)))
    size = math.ceil(G / parts)
    line = (f"memory: update about {in_units(fixed + kept + size * of_row)} beside the weights, {in_units(free)} free; "
            f"{G} rows in {parts} micro-batch{'es' * (parts > 1)} of {size}"
            + f", the prompt's activations ({in_units(of_prompt)}) on the CPU" * offload)
    return size, offload, line


def in_units(n: float) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"
