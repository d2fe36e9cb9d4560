"""Baselines: searches without a policy, to compare with."""
