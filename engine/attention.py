"""Sampling: one copy of each prompt's keys and values for all rows that are drawn under it."""
from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.pytorch_utils import Conv1D

NAME = "shared_prompt"      # of this attention, in transformers' registry


def run_prompt(model, prompt_ids: list[int]):
    """Runs a prompt as one row without padding, which needs no attention mask.

    Returns the cache of its keys and values, (1, K, P, D) in each layer, and its last hidden state,
    (1, d). Both carry gradients.
    """
    cache = DynamicCache()
    ids = torch.tensor([prompt_ids], device=model.device)                           # (1, P)
    hidden = inner_model(model)(input_ids=ids, past_key_values=cache,
                                use_cache=True).last_hidden_state                   # (1, P, d)
    return cache, hidden[:, -1]


def inner_model(model):
    """The model without its output layer, with or without LoRA around it."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return model.base_model


class SharedLayer(DynamicLayer):
    """One layer's keys and values while completions are drawn.

    A prompt's keys and values are stored once for all of its rows. What the rows add is written in
    place: the usual cache is copied as a whole at every token.
    """

    def __init__(self, prompts: list[DynamicLayer], counts: list[int], room: int):
        super().__init__()
        first = prompts[0].keys
        self.prompts = [(p.keys[0], p.values[0]) for p in prompts]                  # (K, P, D) each
        self.counts = counts            # rows of each prompt
        self.length = 0                 # tokens that the rows have added so far
        self.longest = max(p.get_seq_length() for p in prompts)
        n, K = sum(counts), first.shape[1]
        self.keys = first.new_empty(n, K, room, first.shape[3])         # (n, K, room, D)
        self.values = first.new_empty(n, K, room, prompts[0].values.shape[3])
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.longest + self.length

    def update(self, keys, values, *args, **kwargs):
        """Stores the newest token's keys and values, (n, K, 1, D) each.

        transformers passes on what this returns to the attention function. The layer itself stands
        for all keys and values: see `attention`.
        """
        self.keys[:, :, self.length] = keys[:, :, 0]
        self.values[:, :, self.length] = values[:, :, 0]
        self.length += 1
        return self, self

    def attend(self, query, scale: float):
        """softmax(scale q k^T) v of each row's newest token over its prompt and its own tokens.

        query: (n, H, 1, D). Returns (n, 1, H, D).
        """
        n, H, _, D = query.shape
        K = self.keys.shape[1]
        q = (query * scale).reshape(n, K, H // K, D).split(self.counts)
        k = self.keys[:, :, :self.length].split(self.counts)
        v = self.values[:, :, :self.length].split(self.counts)
        parts = [attend_to_prompt(*prompt, *own) for prompt, *own in zip(self.prompts, q, k, v)]
        return torch.cat(parts).reshape(n, 1, H, -1)


class GroupLayer(DynamicLayer):
    """One layer's keys and values in an update: those of the prompt once, for all rows of a group.

    prompt_keys, prompt_values: (1, K, P, D), with gradients.
    """

    def __init__(self, prompt_keys, prompt_values):
        super().__init__()
        self.prompt = prompt_keys[0], prompt_values[0]
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.prompt[0].shape[1]

    def update(self, keys, values, *args, **kwargs):
        """Takes the rows' keys and values, (n, K, T, D) each. Returned as in SharedLayer."""
        self.keys, self.values = keys, values
        return self, self

    def attend(self, query, scale: float):
        """softmax(scale q k^T) v of each token of the rows over the prompt and the row's own tokens
        up to it. query: (n, H, T, D). Returns (n, T, H, D)."""
        n, H, T, D = query.shape
        K = self.keys.shape[1]
        q = (query * scale).reshape(n, K, H // K * T, D)
        later = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1).repeat(H // K, 1)
        out = attend_to_prompt(*self.prompt, q, self.keys, self.values, later)
        return out.reshape(n, H, T, -1).transpose(1, 2)


def attend_to_prompt(prompt_keys, prompt_values, q, k, v, hidden=None):
    """The attention of the rows of one prompt, with one matrix product for the prompt's part.

    prompt_keys, prompt_values: (K, P, D); q: (n, K, m, D); k, v: (n, K, t, D), the rows' own;
    hidden: (m, t) bool, which of them a query must not see. Returns (n, K, m, D).
    """
    P, own = prompt_keys.shape[1], q @ k.mT                                     # (n, K, m, t)
    if hidden is not None:
        own = own.masked_fill(hidden, float("-inf"))
    scores = torch.cat([times_shared(q, prompt_keys.mT), own], dim=-1)          # (n, K, m, P + t)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return times_shared(weights[..., :P], prompt_values) + weights[..., P:] @ v


def times_shared(x, y):
    """x @ y with the same y for all rows: (n, K, m, a), (K, a, b) -> (n, K, m, b)."""
    n = len(x)
    product = x.transpose(0, 1).flatten(1, 2) @ y                               # (K, n m, b)
    return product.unflatten(1, (n, -1)).transpose(0, 1)


def attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """transformers' own attention, except where rows share a prompt."""
    if isinstance(key, SharedLayer | GroupLayer):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return key.attend(query, scale), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling,
                                  **kwargs)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def shared_cache(model, prompts: list[tuple[list[int], int]], room: int) -> DynamicCache:
    """The cache of a batch of n rows for each (prompt_ids, n), with room for so many tokens a row.

    The last token of each prompt is left out: generate() needs something to begin with.
    """
    caches = prompt_caches(model, [ids[:-1] for ids, _ in prompts])
    counts = [n for _, n in prompts]
    cache = DynamicCache()
    by_layer = zip(*(c.layers for c in caches))
    cache.layers = [SharedLayer(layers, counts, room) for layers in by_layer]
    return cache


KEPT = 2**26        # bytes of keys and values that are kept for the next draw
n_updates = 0       # steps of any optimizer in this process


def count_update(*_) -> None:
    global n_updates
    n_updates += 1


register_optimizer_step_post_hook(count_update)


def prompt_caches(model, prompts: list[list[int]]) -> list[DynamicCache]:
    """The keys and values of each prompt, (1, K, P, D) in each layer.

    They are kept for the next call, and used again if the weights are the same then: a method that
    draws several times in a step, or that does not train, computes its prompts once. The LoRA
    weights count as changed after a step of an optimizer, or if a norm or a sum is another one:
    then they have been loaded, or reset. (Version counters do not tell: fused optimizers leave them
    as they are.)
    """
    lora = [p for p in model.parameters() if p.requires_grad]
    off = any(getattr(module, "disable_adapters", False) is True for module in model.modules())
    weights = n_updates, off, [x.item() for p in lora for x in (p.norm(), p.sum())]
    last_weights, known = getattr(model, "known_prompts", (None, {}))
    if weights != last_weights:
        known = {}
    known = known | {tuple(ids): run_prompt(model, ids)[0]
                     for ids in prompts if tuple(ids) not in known}
    size = sum(layer.keys.nbytes + layer.values.nbytes
               for cache in known.values() for layer in cache.layers)
    model.known_prompts = weights, known if size <= KEPT else {}
    return [known[tuple(ids)] for ids in prompts]


def sample(model, prompts: list[tuple[list[int], int]], generation):
    """Draws n rows for each (prompt_ids, n) in one batch.

    Returns the new tokens, (rows, T), padded behind the end of each completion.
    """
    longest = max(len(ids) for ids, _ in prompts)
    padded, positions = [], []
    for ids, n in prompts:
        padding = [0] * (longest - len(ids))
        padded += [padding + ids] * n
        positions += [padding + list(range(len(ids)))] * n
    inputs, positions = torch.tensor([padded, positions], device=model.device)  # (rows, longest)
    with torch.no_grad(), merged(model):
        cache = shared_cache(model, prompts, generation.max_new_tokens)
        output = model.generate(input_ids=inputs, position_ids=positions,
                                attention_mask=torch.ones_like(inputs), past_key_values=cache,
                                generation_config=generation)
    return output[:, longest:]


@contextmanager
def merged(model):
    """Puts W + scale B A in the place of every W with LoRA weights, while completions are drawn.

    This saves LoRA's own products at every token. It happens in fp32 only: rounded to 16 or 4 bit
    the sum would be another policy. Afterwards the layers hold the very tensors they had before.
    """
    layers = [m for m in model.modules() if getattr(m, "lora_A", None) and not m.disable_adapters
              and isinstance(m.get_base_layer(), (torch.nn.Linear, Conv1D))     # no experts
              and m.get_base_layer().weight.dtype == torch.float32]
    weights = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, weights):
            base = layer.get_base_layer()
            A = layer.lora_A["default"].weight                          # (r, in)
            B = layer.lora_B["default"].weight                          # (out, r)
            factors = (A.T, B.T) if layer.fan_in_fan_out else (B, A)    # GPT-2 stores W transposed
            base.weight.data = torch.addmm(weight, *factors, alpha=layer.scaling["default"])
            layer.forward = base.forward
        yield
    finally:
        for layer, weight in zip(layers, weights):
            layer.get_base_layer().weight.data = weight
            vars(layer).pop("forward", None)
