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

from migrate import Method, Row, grpo_loss, row_logprobs
from runlog.ledger import NEIGHBOR
from runlog.slow import torch


def std(method: Method) -> Method:
    """Divides advantages by the group's standard deviation: GRPO as first published."""
    def advantages(rows, rewards):
        A, in_loss = method.advantages(rows, rewards)
        if len(rewards) > 1:        # one row has no deviation
            A = A / rewards.std().clamp(min=1e-8)
        return A, in_loss
    return replace(method, advantages=advantages)


def valid_mean(method: Method) -> Method:
    """Takes invalid rows out of the group: they are not in the loss, and their zeros do not lower
    the mean of the others."""
    def advantages(rows, rewards):
        valid = torch.tensor([row.valid for row in rows])                               # (G,)
        A, in_loss = method.advantages(rows, rewards)
        if valid.any():
            mean = A[valid].mean()      # whatever the method takes away, the mean goes with it
            A = (A - mean).masked_fill(~valid, 0.0)
        return A, in_loss & valid
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
    """migrate.update, but each row counts under its own prompt: one pass for each prompt, and one
    step of the optimizer for all of them. It returns loss and gradient norm alone."""
    by_prompt: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        prompt = row.prompt_ids if row.origin == NEIGHBOR else prompt_ids
        by_prompt.setdefault(tuple(prompt), []).append(i)
    passes = [(list(prompt), indices) for prompt, indices in by_prompt.items()]
    old, base = {}, {}
    if config.kl_coef:
        with torch.no_grad(), policy.model.disable_adapter():
            base = {key: logprobs for key, _, logprobs, _ in under(policy, passes, rows)}
    for _ in range(config.inner_iterations):
        optimizer.zero_grad()
        total = 0.0
        for key, part, logprobs, mask in under(policy, passes, rows):
            old.setdefault(key, logprobs.detach())
            chosen = mask * in_loss[part].to(mask.device)[:, None]
            mean, _ = grpo_loss(logprobs, old[key], advantages[part].to(mask.device), chosen,
                                config.eps_low, config.eps_high, config.kl_coef, base.get(key))
            loss = mean * len(part) / len(rows)         # of the group's loss
            loss.backward()
            total += loss.item()
        grad_norm = torch.nn.utils.clip_grad_norm_(policy.lora.values(), 1.0).item()
        if not math.isfinite(total + grad_norm):
            raise FloatingPointError(f"the loss is {total}, the gradient norm {grad_norm}")
        optimizer.step()
    return {"loss": total, "grad_norm": grad_norm}


def under(policy, passes: list[tuple[list[int], list[int]]], rows: list[Row]):
    """Yields (number of prompt and micro-batch, indices of rows, log-probabilities, mask) of all
    rows, the last two (rows, T). passes: each prompt with the indices of its rows."""
    for p, (prompt, indices) in enumerate(passes):
        batches = row_logprobs(policy, prompt, [rows[i] for i in indices])
        for b, (part, logprobs, _, mask) in enumerate(batches):
            yield (p, b), [indices[i] for i in part], logprobs, mask


METHODS = {"std": std, "valid-mean": valid_mean, "base-neighbors": base_neighbors,
           "own-prompt": own_prompt}
