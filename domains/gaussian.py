"""What the surrogates share: Gaussian processes on the scores of a search."""
from __future__ import annotations

from runlog.slow import torch


def with_worst(scores: list[float | None]):
    """The scores, (n,). An invalid candidate counts as the worst valid one among them."""
    worst = min((score for score in scores if score is not None), default=0.0)
    return torch.tensor([worst if score is None else score for score in scores],
                        dtype=torch.float64)


def with_noise(k, noise: float):
    return k + noise * torch.eye(len(k), dtype=k.dtype)


def error_left_out(k, y, noise: float) -> float:
    """The mean square of what a process is off by at a point that it is not told. k: (n, n).
    y: (n,), with mean 0. It expects y - (K^-1 y) / diag(K^-1) there, where K = k + noise I."""
    inverse = torch.linalg.inv(with_noise(k, noise))
    return ((inverse @ y) / inverse.diagonal()).square().mean().item()
