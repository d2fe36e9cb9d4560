"""sample and token_logprobs of migrate.py for a group under one prompt: faster, in less memory.

The prompt is computed once for all rows of a group, not once a row. Samples and gradients are those
of the plain functions (but see decode.draw); tests/test_engine.py compares them. Where a model does
not allow it, why_not says why, and migrate.py uses its plain functions.

Letters in shape comments: n rows, P prompt tokens, T completion tokens, V vocabulary, d width of
the model, H heads of the queries, K heads of the keys, D width of a head.
"""
from engine import chat
from engine.check import attach, why_not
from engine.decode import sample
from engine.features import hidden_means
from engine.loading import exact_sampling, freeze, load_model
from engine.logprobs import token_logprobs
from engine.lora import add_lora, default_targets
from engine.plan import fit_into_memory

__all__ = ["add_lora", "attach", "chat", "default_targets", "exact_sampling", "fit_into_memory",
           "freeze", "hidden_means", "load_model", "sample", "token_logprobs", "why_not"]
