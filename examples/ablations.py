"""Two questions that a reader of the paper asks, as a fork that run_all.sh ablations uses.

    python examples/ablations.py --method migrate-std           # advantages divided by the group's standard deviation
    python examples/ablations.py --method migrate-own-prompt    # neighbours trained under the prompt they answered

The other ablations are settings of migrate.py: --n-on-policy, --n-greedy, --n-neighbors, --top-k, and --lr 0 for the same
search without its update.
"""
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import migrate  # noqa: E402


def standardised(scores: torch.Tensor) -> torch.Tensor:
    """A_i = (r_i - mean(r)) / std(r), (G,) -> (G,): GRPO as first published."""
    return migrate.group_advantages(scores) / scores.std()


def own_prompt_update(policy, optimizer, rows, prompt_ids, lr, config) -> dict:
    """migrate.update but for one thing: each row counts under the prompt that it answered, a replay under the task prompt.
    The gradients of the prompts add up to that of the group, whose loss is a mean over its rows."""
    scores = torch.tensor([row.score for row in rows])                                      # (G,)
    if scores.max() == scores.min():
        return {"skipped": True}
    advantages = migrate.group_advantages(scores).to(policy.model.device)
    keep = torch.tensor([[not (config.mask_zero and row.score == 0)] for row in rows], device=policy.model.device)  # (G, 1)
    members, old_logprobs = {}, {}
    for i, row in enumerate(rows):
        members.setdefault(tuple(row.prompt_ids or prompt_ids), []).append(i)
    for group in optimizer.param_groups:
        group["lr"] = lr
    for _ in range(config.inner_iterations):
        optimizer.zero_grad()
        for prompt, of in members.items():
            logprobs, _, mask = migrate.token_logprobs(policy, list(prompt), [rows[i].tokens for i in of])
            old = old_logprobs.setdefault(prompt, logprobs.detach())
            loss, _ = migrate.grpo_loss(logprobs, old, advantages[of], mask * keep[of], config.eps_low, config.eps_high)
            (loss * len(of) / len(rows)).backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters().values(), 1.0)
        optimizer.step()
    return {"skipped": False, "lr": lr, "grad_norm": grad_norm.item()}


def update(policy, optimizer, rows, prompt_ids, lr, config) -> dict:
    which = own_prompt_update if config.method == "migrate-own-prompt" else task_prompt_update
    return which(policy, optimizer, rows, prompt_ids, lr, config)


task_prompt_update, migrate.update = migrate.update, update
migrate.METHODS["migrate-std"] = migrate.METHODS["migrate"]._replace(advantages=standardised)
migrate.METHODS["migrate-own-prompt"] = migrate.METHODS["migrate"]
main = migrate.main

if __name__ == "__main__":
    sys.exit(migrate.exit_code(main, sys.argv[1:]))
