"""What a part of the method is good for: modifiers that leave it out or replace it.

    python migrate.py --task arc --method migrate+std               # A_i / std(r)
    python migrate.py --task arc --method migrate+own-prompt        # neighbours' own prompt
    python migrate.py --task arc --method migrate+base-neighbors    # neighbours from the base model
    python migrate.py --task arc --method migrate+valid-mean        # the mean of the valid rows

Other ablations are settings: --n-on-policy, --n-greedy, --n-neighbors, --top-k, and --lr 0 for a
search without its update.
"""
from __future__ import annotations

import math
from dataclasses import replace

from migrate import Method, Row, grpo_loss
from runlog.errors import UserError
from runlog.ledger import NEIGHBOR
from runlog.slow import torch


def std(method: Method) -> Method:
    """Divides advantages by the group's standard deviation: GRPO as first published."""
    def advantages(rows, scores):
        worth, in_loss = method.advantages(rows, scores)
        if len(scores) > 1:         # one row has no deviation
            worth = worth / scores.std().clamp(min=1e-8)
        return worth, in_loss
    return replace(method, advantages=advantages)


def valid_mean(method: Method) -> Method:
    """Takes invalid rows out of the group: they are not in the loss, and their zeros do not lower
    the mean of the others."""
    def advantages(rows, scores):
        valid = torch.tensor([row.valid for row in rows])                               # (G,)
        worth, in_loss = method.advantages(rows, scores)
        if valid.any():
            mean = worth[valid].mean()      # whatever the method takes away, the mean goes with it
            worth = (worth - mean).masked_fill(~valid, 0.0)
        return worth, in_loss & valid
    return replace(method, advantages=advantages)


def base_neighbors(method: Method) -> Method:
    """The frozen base model answers the neighbour prompt, with LoRA switched off."""
    def draw(policy, task, asks, archive, key, *turn):
        own = [ask for ask in asks if ask.origin != NEIGHBOR]
        other = [ask for ask in asks if ask.origin == NEIGHBOR]
        rows = method.draw(policy, task, own, archive, key, *turn) if own else []
        with policy.model.disable_adapter():
            if other:
                rows += method.draw(policy, task, other, archive, key, *turn)
        return rows
    return replace(method, draw=draw)


def own_prompt(method: Method) -> Method:
    """Neighbours count under the prompt that they answered, not under the task prompt."""
    return replace(method, update=own_prompt_update)


def own_prompt_update(policy, optimizer, rows: list[Row], prompt_ids: list[int], advantages,
                      in_loss, config) -> dict:
    """migrate.update with a prompt for each row: one padded batch, no KL term, no micro-batches."""
    if config.kl_coef:
        raise UserError("+own-prompt has no KL term: leave --kl-coef out")
    if any(row.span for row in rows):
        raise UserError("+own-prompt takes one candidate a completion: leave "
                        "--candidates-per-completion out")
    device = policy.model.device
    advantages, in_loss = advantages.to(device), in_loss.to(device)                     # (G,) each
    prompts = [row.prompt_ids if row.origin == NEIGHBOR else prompt_ids for row in rows]
    completions = [row.tokens for row in rows]
    for iteration in range(config.inner_iterations):
        logprobs, mask = logprobs_under(policy, prompts, completions)                   # (G, T)
        if iteration == 0:
            old_logprobs = logprobs.detach()
        loss, _ = grpo_loss(logprobs, old_logprobs, advantages, mask * in_loss[:, None],
                            config.eps_low, config.eps_high)
        optimizer.zero_grad()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(policy.lora.values(), 1.0).item()
        if not math.isfinite(loss.item() + grad_norm):
            raise FloatingPointError(f"the loss is {loss.item()}, the gradient norm {grad_norm}")
        optimizer.step()
    return {"loss": loss.item(), "grad_norm": grad_norm}


def logprobs_under(policy, prompts: list[list[int]], completions: list[list[int]]):
    """log pi(o_it | x_i, o_i<t) with a prompt for each row, and the mask of real tokens, (G, T)
    each: one batch of prompt + completion, padded on the right."""
    device, T = policy.model.device, max(map(len, completions))
    rows = [prompt + completion for prompt, completion in zip(prompts, completions)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows],
                        device=device)                                              # (G, P + T)
    logits = policy.model(input_ids=ids, attention_mask=real).logits.float()
    log_probs = torch.log_softmax(logits / policy.generation.temperature, dim=-1)   # (G, P + T, V)
    mask = torch.tensor([[1.0] * len(c) + [0.0] * (T - len(c)) for c in completions],
                        device=device)                                              # (G, T)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)[:, None]     # (G, 1)
    start = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]
    position = (start + torch.arange(T, device=device)).minimum(last)               # (G, T)
    row = torch.arange(len(rows), device=device)[:, None]
    return log_probs[row, position - 1, ids.gather(1, position)], mask


METHODS = {"std": std, "valid-mean": valid_mean, "base-neighbors": base_neighbors,
           "own-prompt": own_prompt}
