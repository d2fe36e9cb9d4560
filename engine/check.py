"""Whether the shared-prompt path can serve a model: it reads the configuration, then it tries."""
from __future__ import annotations

import math

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from engine import llama
from engine.attention import NAME, inner_model, shared_cache
from runlog.errors import UserError


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
        model.get_output_embeddings().logit_scale = logit_scale(model)  # for completion_pass
        model.llama = by_hand(model)
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
    own = model.config._attn_implementation
    try:
        if logit_scale(model) is None:
            return "its logits are more than a product with the last hidden state"
        model.set_attn_implementation(NAME)
        same = agrees(model, own)
    except torch.OutOfMemoryError:
        raise
    except Exception:       # its own code may do anything with the keys and values
        same = False
    finally:
        model.set_attn_implementation(own)
    return None if same else "its attention does more than softmax(q k) v"


def layers_that_forget(config) -> str:
    """Why a layer's cache does not hold the keys and values of all tokens; "" if they all do.

    A sliding window that is as long as the model's context forgets nothing: chat.encode
    refuses what is longer than the context.
    """
    try:
        layers = DynamicCache(config=config).layers
    except Exception:       # a model without such a cache fails in a way of its own
        layers = []
    if not layers or {type(layer) for layer in layers} - {DynamicLayer, DynamicSlidingWindowLayer}:
        return "it has state-space or linear-attention layers"
    context = getattr(config, "max_position_embeddings", None) or math.inf
    windows = [x.sliding_window for x in layers if isinstance(x, DynamicSlidingWindowLayer)]
    return "it has layers with a sliding window" if min(windows, default=context) < context else ""


def some_prompts(model) -> list[tuple[list[int], int]]:
    """[(token ids, how many completions)]. Of the middle of the vocabulary, where ordinary tokens
    are: after special ones a model's states are so large that 16 bits hide any difference."""
    V = model.get_input_embeddings().num_embeddings
    a, b, c, d = ((V // 2 + i) % V for i in range(4))
    return [([b, c, a, d], 2), ([c, b], 1)]


@torch.no_grad()
def logit_scale(model) -> float | None:
    """The constant c in logits = c W h, where W is the output layer and h the last hidden state: 1
    in most models. None if the logits are something else.

    It is tried twice. The second time what comes out of the output layer is enlarged: small logits
    pass a soft cap almost unchanged.
    """
    ids = torch.tensor([some_prompts(model)[0][0]], device=model.device)
    head = model.get_output_embeddings()
    hidden = inner_model(model)(ids).last_hidden_state.to(head.weight.device)
    factor, scales = 1.0, []
    for _ in range(2):
        handle = head.register_forward_hook(lambda module, args, out, by=factor: out * by)
        try:
            logits = model(ids).logits.float()
            product = head(hidden).float().to(logits.device)
        finally:
            handle.remove()
        scale = (logits * product).sum() / (product * product).sum()
        error = (logits - scale * product).abs().max() / logits.abs().max()
        if not (scale > 0 and error <= tolerance(model.dtype, 0.02)):
            return None
        factor = 1000 / product.abs().max().item()
        scales.append(scale.item())
    return scales[0] if math.isclose(*scales, rel_tol=0.01) else None


@torch.no_grad()
def agrees(model, own: str) -> bool:
    """Whether a token after a shared prompt has the logits that the model's own attention gives."""
    prompts = some_prompts(model)
    cache = shared_cache(model, prompts, room=1)
    rows = [ids for ids, n in prompts for _ in range(n)]
    last = torch.tensor([[ids[-1]] for ids in rows], device=model.device)           # (3, 1)
    positions = torch.tensor([[len(ids) - 1] for ids in rows], device=model.device)
    shared = model(input_ids=last, position_ids=positions, past_key_values=cache,
                   attention_mask=torch.ones(3, 4, device=model.device),
                   use_cache=True).logits[:, -1].float()                            # (3, V)
    model.set_attn_implementation(own)
    plain = torch.stack([model(torch.tensor([ids], device=model.device)).logits[0, -1].float()
                         for ids in rows])
    error = (shared - plain).abs().max()
    return bool(error <= tolerance(model.dtype, 0.05) * plain.abs().max().clamp(min=1))


@torch.no_grad()
def by_hand(model) -> llama.Llama | None:
    """The forward pass of llama.py for a model; None where it has none, or computes other logits
    than the model itself."""
    try:
        made = llama.made_for(model)
        if made is None:
            return None
        prompts = [ids for ids, _ in some_prompts(model)]
        ran = made.run_prompts(prompts, made.lora())
        ours = made.logits(torch.stack([hidden for _, hidden in ran]))                  # (2, V)
        plain = torch.stack([model(torch.tensor([ids])).logits[0, -1].float() for ids in prompts])
    except Exception:       # layers of another shape, or a CPU without these products
        return None
    error = (ours - plain).abs().max()
    return made if error <= tolerance(model.dtype, 0.1) * plain.abs().max().clamp(min=1) else None


def tolerance(dtype, rounded: float) -> float:
    """Of an error, relative to the largest value. rounded: in less than full precision."""
    return 1e-4 if dtype == torch.float32 else rounded
