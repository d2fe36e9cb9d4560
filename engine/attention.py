"""Attention of rows that share a prompt: its keys and values exist once for all of them."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

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

    A prompt's keys and values are stored once for all of its rows. Those of all prompts stand in
    one row, (K, P, D) with P tokens of all prompts together, and `others` hides from each row the
    prompts that are not its own. What the rows add is written in place: the usual cache is copied
    as a whole at every token.
    """

    def __init__(self, keys, values, others, n: int, room: int, longest: int):
        """keys, values: (K, P, D). others: (n, P), 0 or -inf; None for a single prompt. room: how
        many tokens each of n rows can add. longest: tokens of the longest prompt."""
        super().__init__()
        self.prompt = in_fp32(keys).mT.contiguous(), in_fp32(values)        # (K, D, P), (K, P, D)
        self.others = others
        self.length, self.longest = 0, longest      # tokens that the rows have added so far
        K, P, D = keys.shape
        self.keys = self.prompt[0].new_empty(K * n, room, D)
        self.values = self.prompt[0].new_empty(K * n, room, values.shape[2])
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.longest + self.length

    def update(self, keys, values, *args, **kwargs):
        """Stores the newest token's keys and values, (n, K, 1, D) each.

        transformers passes on what this returns to the attention function. The layer itself stands
        for all keys and values: see `attention`.
        """
        self.keys[:, self.length] = keys[:, :, 0].transpose(0, 1).flatten(0, 1)
        self.values[:, self.length] = values[:, :, 0].transpose(0, 1).flatten(0, 1)
        self.length += 1
        return self, self

    def attend(self, query, scale: float):
        """softmax(scale q k^T) v of each row's newest token over its prompt and its own tokens.

        query: (n, H, 1, D). Returns (n, 1, H, D).
        """
        n, H, _, D = query.shape
        (keys, values), t = self.prompt, self.length
        K, _, P = keys.shape
        q = (in_fp32(query) * scale).view(n, K, -1, D).transpose(0, 1).contiguous()
        q = q.view(K, -1, D)                                                        # (K, n g, D)
        prompt = q @ keys                                                           # (K, n g, P)
        if self.others is not None:
            prompt.unflatten(1, (n, -1)).add_(self.others[:, None])
        own = torch.bmm(q.view(K * n, -1, D), self.keys[:, :t].mT).view(K, -1, t)
        weights = torch.cat([prompt, own], dim=-1).softmax(-1, dtype=torch.float32).to(q.dtype)
        out = (weights[..., :P] @ values).view(K * n, -1, values.shape[2])
        own = weights[..., P:].view(K * n, -1, t)
        out = torch.baddbmm(out, own, self.values[:, :t])                           # (K n, g, D)
        return out.view(K, n, -1).transpose(0, 1).reshape(n, 1, H, -1).to(query.dtype)


class GroupLayer(DynamicLayer):
    """One layer's keys and values in an update: those of the prompt once, for all rows of a group.

    prompt_keys, prompt_values: (1, K, P, D), with gradients.
    """

    def __init__(self, prompt_keys, prompt_values):
        super().__init__()
        self.prompt = in_fp32(prompt_keys[0]), in_fp32(prompt_values[0])
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.prompt[0].shape[1]

    def update(self, keys, values, *args, **kwargs):
        """Takes the rows' keys and values, (n, K, T, D) each. Returned as in SharedLayer."""
        self.keys, self.values = in_fp32(keys), in_fp32(values)
        return self, self

    def attend(self, query, scale: float):
        """softmax(scale q k^T) v of each token of the rows over the prompt and the row's own tokens
        up to it. query: (n, H, T, D). Returns (n, T, H, D)."""
        n, H, T, D = query.shape
        K = self.keys.shape[1]
        q = (in_fp32(query) * scale).reshape(n, K, H // K * T, D)
        later = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1).repeat(H // K, 1)
        out = attend_to_prompt(*self.prompt, q, self.keys, self.values, later)
        return out.reshape(n, H, T, -1).transpose(1, 2).to(query.dtype)


def in_fp32(x):
    """Keys, values and queries in fp32 on the CPU, where small products in 16 bit are slower."""
    return x.float() if x.device.type == "cpu" else x


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
    def run(shortened):
        caches = [run_prompt(model, ids)[0] for ids in shortened]
        return [[(layer.keys[0], layer.values[0]) for layer in cache.layers] for cache in caches]
    known = remembered(model, [ids[:-1] for ids, _ in prompts], run)
    cache = DynamicCache()
    cache.layers = shared_layers(known, [n for _, n in prompts], room)
    return cache


def shared_layers(prompts: list[list[tuple]], counts: list[int], room: int) -> list[SharedLayer]:
    """prompts: of each prompt and each layer the keys and values, (K, P, D) each. counts: rows of
    each prompt."""
    lengths = [keys_and_values[0][0].shape[1] for keys_and_values in prompts]
    prompt_of_row, prompt_of_key = (torch.arange(len(x)).repeat_interleave(torch.tensor(x))
                                    for x in (counts, lengths))
    hidden = prompt_of_row[:, None] != prompt_of_key                                # (n, P)
    others, layers = None, []
    if len(prompts) > 1:
        others = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    for of_layer in zip(*prompts):
        keys, values = (torch.cat(x, dim=1) for x in zip(*of_layer))                # (K, P, D)
        if others is not None:
            others = others.to(keys.device)     # of several GPUs each layer has its own
        layers.append(SharedLayer(keys, values, others, sum(counts), room, max(lengths)))
    return layers


KEPT = 2**26        # bytes of keys and values that are kept for the next draw
n_updates = 0       # steps of any optimizer in this process


def count_update(*_) -> None:
    global n_updates
    n_updates += 1


register_optimizer_step_post_hook(count_update)


def remembered(model, prompts: list[list[int]], run: Callable) -> list:
    """run(prompts): what a model made of these prompts, computed now or at an earlier call.

    It is kept for the next call, and used again if the weights are the same then: a method that
    draws several times in a step, or that does not train, computes its prompts once. The LoRA
    weights count as changed after a step of an optimizer, or if a norm or a sum is another one:
    then they have been loaded, or reset. (Version counters do not tell: fused optimizers leave them
    as they are.) Prompts are kept as they were computed, all of a batch or none: alone, their last
    bits might be others.
    """
    lora = [p for p in model.parameters() if p.requires_grad]
    off = any(getattr(module, "disable_adapters", False) is True for module in model.modules())
    weights = n_updates, off, []
    if lora:        # one copy to the CPU, not one for each
        sums = [*torch._foreach_norm(lora), *(p.sum() for p in lora)]
        weights = n_updates, off, torch.stack([x.to(lora[0].device) for x in sums]).tolist()
    last_weights, known = getattr(model, "known_prompts", (None, {}))
    if weights != last_weights:
        known = {}
    batch = tuple(map(tuple, prompts))
    if batch not in known:
        known = {**known, batch: run(prompts)}
    size = sum(x.nbytes for result in known.values() for x in tensors(result))
    model.known_prompts = weights, known if size <= KEPT else {}
    return known[batch]


def tensors(nested) -> Iterator:
    """The tensors in nested lists and tuples."""
    if isinstance(nested, torch.Tensor):
        yield nested
    else:
        for part in nested:
            yield from tensors(part)
