"""How an update is cut so that it fits into memory: measured on the model, not guessed."""
from __future__ import annotations

import math
from pathlib import Path

import psutil
import torch

from engine.logprobs import completion_pass, prompt_pass
from engine.memory import CHUNK, activations
from runlog.errors import UserError

CGROUP = Path("/sys/fs/cgroup")


def free_memory(model) -> int:
    """Bytes that can still be had where the model is. Over several devices: as if each had as
    little as the fullest one."""
    devices = {p.device for p in model.parameters()}
    if all(d.type == "cuda" for d in devices):
        free = [torch.cuda.mem_get_info(d)[0] + torch.cuda.memory_reserved(d)
                - torch.cuda.memory_allocated(d) for d in devices]
        return len(devices) * min(free)
    return of_host()


def of_host() -> float:
    """Bytes that can still be had on the CPU's side."""
    return min(psutil.virtual_memory().available, of_container())


def of_container() -> float:
    """Bytes that this process's container still allows; infinite where it does not say."""
    try:
        most, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        parts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # Pages of files are given back when memory is needed.
        pages = int(parts["active_file"]) + int(parts["inactive_file"])
        return max(0, most - used + pages)
    except (OSError, ValueError, KeyError):     # no container, or "max"
        return math.inf


def fit_into_memory(policy, prompt_ids: list[int], config, token_logprobs) -> str:
    """Sets the policy's micro_batch (0: as many rows as fit) and offload; returns a line about it.

    token_logprobs: that of migrate.py, for the plain path. Raises UserError if the group cannot be
    sampled, or not a single row trained, in the memory that there is.
    """
    def one_row():
        return list(token_logprobs(policy, prompt_ids, [[0] * config.max_new_tokens]))
    G = config.n_on_policy + config.n_greedy + config.n_neighbors
    free, logits = free_memory(policy.model), 8 * policy.model.get_output_embeddings().out_features
    if G * logits > free:       # the logits of one token and their probabilities, in fp32
        raise UserError(f"to sample a group of {G} rows takes more than {in_units(G * logits)}, "
                        f"{in_units(free)} are free: choose a group of {free // (2 * logits)} rows "
                        "or less")
    if policy.slow_because:
        plan = plan_plain(policy.model, one_row, G, config.max_new_tokens,
                          policy.micro_batch)
    else:
        plan = plan_shared(policy.model, prompt_ids, G, config.max_new_tokens, config.temperature,
                           policy.micro_batch)
    policy.micro_batch, policy.offload, line = plan
    return line


def plan_shared(model, prompt_ids: list[int], G: int, T: int, tau: float,
                size: int = 0) -> tuple[int, bool, str]:
    """How an update of G rows of T tokens fits into memory on the shared-prompt path.

    size: rows of a micro-batch where the user has chosen; 0: the most that fit. What the backward
    pass keeps is measured with the prompt and one row of full length. Returns the rows of a
    micro-batch, whether the prompt's activations go to the CPU, and a line that says so.
    """
    of_prompt, prompt = activations(model, lambda: prompt_pass(model, prompt_ids))
    leaves = [x.detach().requires_grad_(x.requires_grad) for x in prompt]
    # in 16 bit a row that is no longer than a head is wide takes another path, and may keep more
    rows = [[[0] * T], [[0] * min(T, leaves[1].shape[-1])]]
    of_row = max(activations(model, lambda row=row: completion_pass(model, leaves, row, tau))[0]
                 for row in rows)
    V = model.get_output_embeddings().out_features
    # the prompt's keys and values with their gradients, the logits of a chunk, the optimizer
    fixed = 2 * sum(x.nbytes for x in prompt) + 4 * 4 * max(V, min(CHUNK, G * T * V))
    fixed += of_optimizer(model)
    free = free_memory(model)
    too_much = rows_that_fit(free, fixed + of_prompt, of_row) < (size or 1)
    # on the CPU there is nowhere else to put them; pinned, they take up to twice their size
    if too_much and model.device.type != "cpu" and 2 * of_prompt < 0.9 * of_host():
        rows, line = micro_batches(free, fixed, of_row, G, size)
        return rows, True, f"{line}, the prompt's activations ({in_units(of_prompt)}) on the CPU"
    rows, line = micro_batches(free, fixed + of_prompt, of_row, G, size)
    return rows, False, line


def plan_plain(model, one_row, G: int, T: int, size: int = 0) -> tuple[int, bool, str]:
    """The same for the plain path, which computes the prompt anew for each row.

    one_row: computes the log-probabilities of one row of full length.
    """
    of_row, _ = activations(model, one_row)
    of_row += 4 * 4 * T * model.get_output_embeddings().out_features    # (T, V) in fp32, in passing
    rows, line = micro_batches(free_memory(model), of_optimizer(model), of_row, G, size)
    return rows, False, line


def of_optimizer(model) -> int:
    """Bytes of the gradients and of AdamW's two moments, which come after the first update."""
    return 3 * sum(p.nbytes for p in model.parameters() if p.requires_grad)


def rows_that_fit(free: int, fixed: int, of_row: int) -> int:
    return int((0.9 * free - fixed) // max(1, of_row))


def micro_batches(free: int, fixed: int, of_row: int, G: int, size: int) -> tuple[int, str]:
    """G rows in equal micro-batches: the rows of each, and a line about it. Raises UserError if not
    even these fit."""
    most = size or rows_that_fit(free, fixed, of_row)
    parts = math.ceil(G / max(1, min(most, G)))
    rows = math.ceil(G / parts)
    if fixed + rows * of_row > free:
        way_out = "choose a smaller model, a lower --max-new-tokens or --lora-r"
        if size > 1:
            way_out = "choose a lower --micro-batch, or none: then it is as large as fits"
        raise UserError(f"an update of {rows} rows at a time needs about "
                        f"{in_units(fixed + rows * of_row)}, {in_units(free)} are free: {way_out}")
    batches = "micro-batch" if parts == 1 else "micro-batches"
    return rows, (f"memory: update about {in_units(fixed + rows * of_row)} beside the weights, "
                  f"{in_units(free)} free; {G} rows in {parts} {batches} of {rows}")


def in_units(n: float) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"
