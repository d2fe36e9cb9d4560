"""Two questions that a reader of the paper asks, as a fork that run_all.sh ablations uses.

    python examples/ablations.py --method migrate-std           # advantages divided by the group's standard deviation
    python examples/ablations.py --method migrate-own-prompt    # neighbours trained under the prompt they answered

The other ablations are settings of migrate.py: --n-on-policy, --n-greedy, --n-neighbors, --top-k, and --lr 0 for the same
search without its update.
"""
import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import migrate  # noqa: E402


def standardised(scores: torch.Tensor) -> torch.Tensor:
    """A_i = (r_i - mean(r)) / std(r), (G,) -> (G,): GRPO as first published."""
    return migrate.group_advantages(scores) / scores.std()


def logprobs_under(policy, prompts: list[list[int]], completions: list[list[int]]):
    """log pi(o_it | x_i, o_i<t) with a prompt for each row, and the mask of real tokens, (G, T) each: one padded batch."""
    device, longest = policy.model.device, max(map(len, completions))
    rows = [prompt + completion for prompt, completion in zip(prompts, completions)]
    ids = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows], device=device)   # (G, P + T)
    attention = torch.tensor([[1] * len(row) + [0] * (ids.shape[1] - len(row)) for row in rows], device=device)
    log_probs = torch.log_softmax(policy.model(input_ids=ids, attention_mask=attention).logits.float()
                                  / policy.generation.temperature, dim=-1)                                  # (G, P + T, V)
    mask = torch.tensor([[1.0] * len(c) + [0.0] * (longest - len(c)) for c in completions], device=device)  # (G, T)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)[:, None]                             # (G, 1)
    start = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]                       # (G, 1)
    at = (start + torch.arange(longest, device=device)).minimum(last)                                       # (G, T)
    targets = ids.gather(1, at)
    return log_probs[torch.arange(len(rows), device=device)[:, None], at - 1, targets], mask


def own_prompt_update(task, policy, optimizer, rows, prompt_ids, lr, config) -> dict:
    """migrate.update but for one thing: a neighbour counts under the prompt that it answered, not under the task prompt."""
    lesson = migrate.what_rows_teach(rows, config)
    if lesson is None:
        return {"skipped": True}
    advantages, keep = (x.to(policy.model.device) for x in lesson)                                          # (G,) each
    prompts = [migrate.encode_prompt(policy, task.variation_prompt(row.parents)) if row.origin == migrate.NEIGHBOR
               else prompt_ids for row in rows]
    for group in optimizer.param_groups:
        group["lr"] = lr
    for iteration in range(config.inner_iterations):
        logprobs, mask = logprobs_under(policy, prompts, [row.tokens for row in rows])
        if iteration == 0:
            old_logprobs = logprobs.detach()
        loss, _ = migrate.grpo_loss(logprobs, old_logprobs, advantages, mask * keep[:, None], config.eps_low, config.eps_high)
        optimizer.zero_grad()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(policy.lora.values(), 1.0)
        optimizer.step()
    return {"skipped": False, "lr": lr, "loss": loss.item(), "grad_norm": grad_norm.item()}


def search(config, task, *rest):
    plain = migrate.update
    if config.method == "migrate-own-prompt":
        migrate.update = functools.partial(own_prompt_update, task)
    try:
        return plain_search(config, task, *rest)
    finally:
        migrate.update = plain


plain_search, migrate.search = migrate.search, search
migrate.METHODS["migrate-std"] = migrate.METHODS["migrate"]._replace(advantages=standardised)
migrate.METHODS["migrate-own-prompt"] = migrate.METHODS["migrate"]
main = migrate.main

if __name__ == "__main__":
    sys.exit(migrate.exit_code(main, sys.argv[1:]))
