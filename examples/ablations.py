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
