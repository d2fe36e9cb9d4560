"""Sampling, token by token: one copy of each prompt's keys and values for all of its rows."""
from __future__ import annotations

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from transformers.pytorch_utils import Conv1D

from engine import llama
from engine.attention import remembered, shared_cache, shared_layers

BLOCK = 256         # tokens of the vocabulary
MANY = 2**20        # probabilities: to draw a random number for each takes longer than the model


@torch.no_grad()
def sample(model, prompts: list[tuple[list[int], int]], generation):
    """Draws n rows for each (prompt_ids, n) in one batch.

    Returns the new tokens, (rows, T), padded behind the end of each completion.
    """
    by_hand = llama.of(model)
    if by_hand is None:
        return generate(model, prompts, generation)
    lora, counts = by_hand.lora(), [n for _, n in prompts]

    def run(prompts):       # copies of the keys and values: views would keep the queries, too
        return [([[x.clone() for x in of_layer] for of_layer in layers], last)
                for layers, last in by_hand.run_prompts(prompts, lora)]
    ran = remembered(model, [ids for ids, _ in prompts], run)
    caches = shared_layers([layers for layers, _ in ran], counts, generation.max_new_tokens)
    prompt_of_row = [i for i, n in enumerate(counts) for _ in range(n)]
    positions = torch.tensor([len(ids) for ids, n in prompts for _ in range(n)])    # (rows,)
    hidden = torch.stack([last for _, last in ran])[prompt_of_row]                  # (rows, d)
    eos, tokens = torch.tensor(generation.eos_token_id), []
    running = torch.ones(len(hidden), dtype=torch.bool)

    def attend(i, q, k, v):
        caches[i].update(k[:, :, None], v[:, :, None])
        return caches[i].attend(q[:, :, None], q.shape[-1] ** -0.5)[:, 0]
    while True:
        logits = by_hand.logits(hidden) / generation.temperature                    # (rows, V)
        if len(tokens) < (generation.min_new_tokens or 0):
            logits[:, eos] = float("-inf")
        token = draw(logits, exact=by_hand.exact and logits.numel() < MANY)         # (rows,)
        tokens.append(torch.where(running, token, generation.pad_token_id))
        running &= ~torch.isin(token, eos)
        if not running.any() or len(tokens) == generation.max_new_tokens:
            return torch.stack(tokens, dim=1)
        hidden = by_hand(token, positions, attend, lora)
        positions += 1


def draw(logits, exact: bool):
    """One token of each row, with the probabilities softmax(logits): (rows, V) -> (rows,).

    exact: with the random numbers that generate() would use, one for each entry of V. Otherwise
    fewer numbers do: a block of tokens is drawn, then one in it. In 16 bit generate() would draw
    other samples anyway.
    """
    p = logits.softmax(-1)
    if exact:
        return torch.multinomial(p, 1)[:, 0]
    blocks = F.pad(p, (0, -p.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))   # (rows, blocks, BLOCK)
    block = torch.multinomial(blocks.sum(-1), 1)                                    # (rows, 1)
    inside = blocks.take_along_dim(block[..., None], 1)[:, 0]                       # (rows, BLOCK)
    return (BLOCK * block + torch.multinomial(inside, 1))[:, 0]


def generate(model, prompts: list[tuple[list[int], int]], generation):
    """sample() with the loop and the layers of transformers."""
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
