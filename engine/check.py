"""Whether the shared-prompt path can serve a model: it reads the configuration, then it tries."""
from __future__ import annotations

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from engine.attention import NAME, inner_model, shared_cache
from runlog.errors import UserError

PROMPTS = [([1, 2, 0, 3], 2), ([2, 1], 1)]      # token ids that every vocabulary has


def attach(model, source: str, engine: str) -> str:
    """Gives the model the attention that the fast path needs, where it can have it.

    engine: auto, shared or plain, as for --engine. source: the model's name, for messages. Returns
    why the plain path has to do, "" if the fast one is ready. Raises UserError for shared where it
    cannot be had.
    """
    if engine == "plain":
        return "--engine plain"
    reason = why_not(model)
    if reason and engine == "shared":
        raise UserError(f"--engine shared cannot serve {source}: {reason}; leave it out")
    if not reason:
        model.set_attn_implementation(NAME)
    return reason or ""


def why_not(model) -> str | None:
    """The reason why a model cannot use the shared prompt, in a few words; None if it can.

    Leaves the model with its own attention.
    """
    forgets = layers_that_forget(model.config)
    if forgets:
        return forgets
    if not model._can_set_attn_implementation():
        return "it has an attention of its own"
    with torch.no_grad():
        if rescales_logits(model):
            return "it rescales its logits"
        own = model.config._attn_implementation
        try:
            model.set_attn_implementation(NAME)
            same = agrees(model, own)
        finally:
            model.set_attn_implementation(own)
    return None if same else "its attention does more than softmax(q k) v"


def layers_that_forget(config) -> str | None:
    """Why a layer's cache does not hold the keys and values of all tokens; None if they all do."""
    try:
        kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    except Exception:       # a model without such a cache fails in a way of its own
        kinds = {None}
    if kinds == {DynamicLayer}:
        return None
    if kinds == {DynamicLayer, DynamicSlidingWindowLayer} or kinds == {DynamicSlidingWindowLayer}:
        return "it has layers with a sliding window"
    return "it has state-space or linear-attention layers"


def rescales_logits(model) -> bool:
    """Whether logits are more than the output layer's product with the last hidden state."""
    ids = torch.tensor([[0, 1]], device=model.device)
    hidden = inner_model(model)(ids).last_hidden_state
    head = model.get_output_embeddings()
    logits = model(ids).logits
    return not torch.allclose(logits, head(hidden.to(head.weight.device)).to(logits.device))


def agrees(model, own: str) -> bool:
    """Whether a token after a shared prompt has the logits that the model's own attention gives."""
    cache = shared_cache(model, PROMPTS, room=1)
    rows = [ids for ids, n in PROMPTS for _ in range(n)]
    last = torch.tensor([[ids[-1]] for ids in rows], device=model.device)           # (3, 1)
    positions = torch.tensor([[len(ids) - 1] for ids in rows], device=model.device)
    shared = model(input_ids=last, position_ids=positions, past_key_values=cache,
                   attention_mask=torch.ones(3, 4, device=model.device),
                   use_cache=True).logits[:, -1].float()                            # (3, V)
    model.set_attn_implementation(own)
    plain = torch.stack([model(torch.tensor([ids], device=model.device)).logits[0, -1].float()
                         for ids in rows])
    tolerance = 1e-4 if plain.dtype == model.dtype else 0.05
    return bool((shared - plain).abs().max() <= tolerance * plain.abs().max().clamp(min=1))
