"""What a part of the method is good for: modifiers that leave it out or replace it.

    python migrate.py --task arc --method migrate+std               # A_i / std(r)
    python migrate.py --task arc --method migrate+own-prompt        # neighbours' own prompt
    python migrate.py --task arc --method migrate+base-neighbors    # neighbours from the base model
    python migrate.py --task arc --method migrate+valid-mean        # the mean of the valid rows

Other ablations are settings: --n-on-policy, --n-greedy, --n-neighbors, --top-k, and --lr 0 for a
search without its update.
"""
from __future__ import annotations

import functools
from dataclasses import replace

from migrate import Method, Row, row_logprobs
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
    return replace(method, update=functools.partial(method.update, row_logprobs=own_logprobs))


def own_logprobs(policy, prompt_ids: list[int], rows: list[Row]):
    """migrate.row_logprobs, but each neighbour is under its own prompt: a pass for each prompt."""
    by_prompt: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        prompt = row.prompt_ids if row.origin == NEIGHBOR else prompt_ids
        by_prompt.setdefault(tuple(prompt), []).append(i)
    for prompt, indices in by_prompt.items():
        for part, *batch in row_logprobs(policy, list(prompt), [rows[i] for i in indices]):
            yield [indices[i] for i in part], *batch


METHODS = {"std": std, "valid-mean": valid_mean, "base-neighbors": base_neighbors,
           "own-prompt": own_prompt}
