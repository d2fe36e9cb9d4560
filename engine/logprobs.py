"""Log-probabilities of a group of completions, with the prompt computed once."""
from __future__ import annotations

from contextlib import nullcontext

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from engine import llama
from engine.attention import GroupLayer, inner_model, run_prompt
from engine.memory import CHUNK, from_cpu, saved_tensors, to_cpu


class TokenLogprobs(torch.autograd.Function):
    """log p(token | hidden state) at temperature tau and the entropy of each prediction.

        log p_v = log softmax(W h / tau)_v,     d log p_v / dh = (W_v - sum_u p_u W_u) / tau

    It works in chunks of hidden states. The forward pass keeps sum_u p_u W_u, a vector of d, and
    drops the logits, V of them, which would be the largest tensors of all. Nothing is computed
    twice. W, the output layer, is frozen and in fp32. Entropies carry no gradient.
    """

    @staticmethod
    def forward(ctx, hidden, source, tokens, head, tau):
        """hidden: (N, d); tokens: (M,). Token j is predicted from hidden[source[j]]; source
        ascends."""
        size = max(1, CHUNK // head.out_features)
        logprobs, entropies, means = [], [], []
        for start, h in zip(range(0, len(hidden), size), hidden.split(size)):
            log_p = torch.log_softmax(head(h).float() / tau, dim=-1)                # (size, V)
            p = log_p.exp()
            here = (source >= start) & (source < start + size)
            logprobs.append(log_p[source[here] - start, tokens[here]])
            entropies.append(-torch.linalg.vecdot(p, log_p))
            if ctx.needs_input_grad[0]:
                means.append(p @ head.weight)                                       # (size, d)
        if means:
            ctx.save_for_backward(torch.cat(means), source, tokens)
        ctx.head, ctx.tau, ctx.dtype = head, tau, hidden.dtype
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy                                         # (M,), (N,)

    @staticmethod
    def backward(ctx, grad, _):                                                     # (M,)
        mean, source, tokens = ctx.saved_tensors
        slopes = (ctx.head.weight[tokens] - mean[source]) / ctx.tau                   # (M, d)
        of_hidden = torch.zeros_like(mean).index_add(0, source, grad[:, None] * slopes)
        return of_hidden.to(ctx.dtype), None, None, None, None


def prompt_pass(model, prompt_ids: list[int]) -> list:
    """What depends on the prompt alone: its last hidden state, (1, d), then the keys and the values
    of each layer, (1, K, P, D)."""
    if by_hand := llama.of(model):
        [(keys_and_values, hidden)] = by_hand.run_prompts([prompt_ids], by_hand.lora())
        return [hidden[None], *(x[None] for pair in keys_and_values for x in pair)]
    cache, hidden = run_prompt(model, prompt_ids)
    return [hidden, *(x for layer in cache.layers for x in (layer.keys, layer.values))]


def completion_pass(model, prompt: list, completions: list[list[int]], tau: float):
    """Log-probabilities, entropies and the mask of real tokens, (n, T) each.

    prompt: what prompt_pass returned, or the prompt's ids: then it is in the same pass. All rows
    have their first token from the same prediction, the prompt's. Rows are padded on the right,
    where causal attention hides the padding.
    """
    n, T = len(completions), max(map(len, completions))
    head = model.get_output_embeddings()
    device = head.weight.device
    tokens = torch.tensor([c + [0] * (T - len(c)) for c in completions], device=device)     # (n, T)
    mask = torch.tensor([[1.0] * len(c) + [0.0] * (T - len(c)) for c in completions], device=device)
    real = mask[:, 1:].bool()                                                       # (n, T-1)
    hidden = hidden_states(model, prompt, tokens[:, :-1], real)                     # (N, d)
    # Which hidden state predicts each token. State 0 is the prompt's last, and predicts the first
    # token of every row. States 1, 2, .. predict the others, row by row.
    source = torch.arange(1 - n, len(hidden), device=device).clamp(min=0)
    in_order = torch.cat([tokens[:, 0], tokens[:, 1:][real]])
    tau = tau / head.logit_scale        # logits = logit_scale * head(hidden): check.logit_scale
    logprobs, entropy = TokenLogprobs.apply(hidden, source, in_order, head, tau)
    padded = torch.zeros_like(mask[:, 1:])

    def as_rows(x):         # (n + real tokens behind the first,) -> (n, T)
        return torch.cat([x[:n, None], padded.masked_scatter(real, x[n:])], dim=1)
    return as_rows(logprobs), as_rows(entropy[source]), mask


def hidden_states(model, prompt: list, tokens, real):
    """The last hidden states of the prompt's last token and of the real ones behind it, row by
    row: (1 + N, d). tokens, real: (n, T-1)."""
    by_hand, ran = llama.of(model), isinstance(prompt[0], torch.Tensor)
    if not ran and by_hand and real.any():
        return by_hand.run_group(prompt, tokens, real, by_hand.lora())
    prompt = prompt if ran else prompt_pass(model, prompt)
    hidden = prompt[0].to(tokens.device)                                            # (1, d)
    if not real.any():
        return hidden
    if by_hand:
        keys_and_values = list(zip(prompt[1::2], prompt[2::2]))
        behind = by_hand.run_completions(keys_and_values, tokens, real, by_hand.lora())
    else:
        cache = cache_of_rows(prompt[1:], *tokens.shape)
        behind = inner_model(model)(input_ids=tokens.to(model.device), past_key_values=cache,
                                    use_cache=True).last_hidden_state.to(hidden.device)[real]
    return torch.cat([hidden, behind])


def cache_of_rows(keys_and_values: list, n: int, T: int) -> DynamicCache:
    """The prompt's keys and values for n rows of T tokens.

    In 16 bit, rows attend to one copy of them, as they did when they were sampled, and the scores
    are written out. Where a completion is longer than a head is wide, T > D, the scores would take
    more room than a copy of keys and values for each row, which torch's attention gets then.
    """
    cache = DynamicCache()
    for k, v in zip(keys_and_values[::2], keys_and_values[1::2]):
        if k.dtype != torch.float32 and T < k.shape[-1]:
            layer = GroupLayer(k, v)
        else:
            layer = DynamicLayer()
            layer.lazy_initialization(k, v)
            layer.keys, layer.values = k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1)
        cache.layers.append(layer)
    return cache


def token_logprobs(model, prompt_ids: list[int], completions: list[list[int]], tau: float,
                   size: int, offload: bool):
    """log pi(o_it | x, o_i<t) of a group of completions under one prompt x, `size` rows at a time.

    Yields (slice of the rows, log-probabilities, entropies, mask), the last three (rows, T). Call
    backward() on what is made of the log-probabilities before the next is asked for, and go on to
    the end: then the gradients that have gathered at the prompt's keys, values and last state go
    through the prompt, once. The result does not depend on the size.
    offload: keeps the prompt's activations in the CPU's memory meanwhile.
    """
    if size >= len(completions) and not offload:
        yield slice(0, size), *completion_pass(model, prompt_ids, completions, tau)
        return
    with saved_tensors(model, to_cpu, from_cpu) if offload else nullcontext():
        prompt = prompt_pass(model, prompt_ids)
    leaves = [x.detach().requires_grad_(x.requires_grad) for x in prompt]
    for start in range(0, len(completions), size):
        rows = slice(start, start + size)
        yield rows, *completion_pass(model, leaves, completions[rows], tau)
    reached = [(x, leaf.grad) for x, leaf in zip(prompt, leaves) if leaf.grad is not None]
    if reached:
        torch.autograd.backward(*zip(*reached))
