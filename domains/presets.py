"""Presets for real language models, whatever the task.

small-lm: below 2 billion parameters. Chosen on development words with SmolLM2, of 135 million
(docs/results/real-model.md). large-lm: above. It differs in the learning rate, and was not
measured.
"""
SMALL_LM = dict(method="migrate+novelty", n_on_policy=4, n_greedy=1, n_neighbors=5, top_k=3,
                lr=2e-4, lora_r=16, lora_alpha=32, lora_targets="all-linear", inner_iterations=1)


def real_models(**of_the_task) -> dict[str, dict]:
    """{"small-lm": settings, "large-lm": settings}. of_the_task: what the task itself decides."""
    return {"small-lm": SMALL_LM | of_the_task, "large-lm": SMALL_LM | of_the_task | dict(lr=1e-4)}
