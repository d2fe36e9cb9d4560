"""Presets: named settings of migrate.Config, of the three tasks and of tasks of the user's own.

small-lm and large-lm are for real language models, whatever the task. small-lm: below 2 billion
parameters. Chosen on development words with SmolLM2, of 135 million (docs/results/real-model.md).
large-lm: above. It differs in the learning rate, and was not measured.

Those of the paper (paper) and of the bundled policies are below, a table for each task.
"""
SMALL_LM = dict(method="migrate+novelty", n_on_policy=4, n_greedy=1, n_neighbors=5, top_k=3,
                lr=2e-4, lora_r=16, lora_alpha=32, lora_targets="all-linear", inner_iterations=1)


def real_models(**of_the_task) -> dict[str, dict]:
    """{"small-lm": settings, "large-lm": settings}. of_the_task: what the task itself decides."""
    return {"small-lm": SMALL_LM | of_the_task, "large-lm": SMALL_LM | of_the_task | dict(lr=1e-4)}


WORDS = {"paper": dict(steps=100, n_on_policy=0, n_greedy=0, n_neighbors=10, top_k=3, lr=5e-5,
                       lora_r=64, lora_alpha=16, inner_iterations=2, max_new_tokens=64)}
# tiny: chosen on the development targets; where the LoRA sits is explained in the policy's card
WORDS["tiny"] = WORDS["paper"] | dict(steps=None, proposals=1000, lr=5e-3, lora_r=16,
                                      lora_alpha=64, lora_targets="2.mlp.up_proj")
WORDS["novelty"] = WORDS["tiny"] | dict(method="migrate+novelty", budget=1000, lr=1e-2)
# screen: the bundled policy draws 32 words for each that is scored in no time.
WORDS["screen"] = WORDS["novelty"] | dict(method="migrate+screen+novelty",
                                          screen=dict(screen_draws=32))
WORDS |= real_models(proposals=1000, max_new_tokens=8)
# Eight words are drawn for each that is scored: slower, and far more are found.
WORDS["small-lm"]["method"] = "migrate+screen+novelty"

MOLECULES = {"paper": dict(steps=40, n_on_policy=2, n_greedy=1, n_neighbors=2, top_k=1, lr=5e-5,
                           lora_r=64, lora_alpha=16, inner_iterations=2, max_new_tokens=256)}
# tiny: for the bundled policy, whose molecules are short. It trains on invalid answers, too.
MOLECULES["tiny"] = MOLECULES["paper"] | dict(
    steps=None, proposals=200, lr=5e-3, lora_r=32, lora_alpha=32, lora_targets="all-linear",
    inner_iterations=1, max_new_tokens=64, mask_zero=False)
# novelty: chosen on osimertinib_mpo and perindopril_mpo; pull_only keeps long searches alive
MOLECULES["novelty"] = MOLECULES["tiny"] | dict(
    method="migrate+novelty", budget=1000, n_on_policy=6, n_greedy=3, n_neighbors=7, top_k=10,
    novelty=dict(pull_only=True, patience=1000))
# screen: chosen on perindopril_mpo and zaleplon_mpo, and on similarities to two other drugs. Most
# neighbours are bred. The policy learns them from many replays, or it would not keep up.
MOLECULES["screen"] = MOLECULES["novelty"] | dict(
    method="migrate+operator+screen+novelty", n_on_policy=3, n_greedy=12, n_neighbors=10, lr=1.5e-3,
    inner_iterations=2, operator=dict(operator_share=0.8),
    novelty=dict(pull_only=True, patience=500))
MOLECULES["paper-group"] = MOLECULES["novelty"] | dict(n_on_policy=2, n_greedy=1, n_neighbors=2)
MOLECULES |= real_models(proposals=300, temperature=0.7, max_new_tokens=64)

ARC = {"paper": dict(steps=64, n_on_policy=11, n_greedy=1, n_neighbors=4, top_k=1, lr=1e-5,
                     lora_r=128, lora_alpha=32, inner_iterations=1, max_new_tokens=1024)}
# tiny: at this rate so small a policy learns, and does not collapse.
ARC["tiny"] = ARC["paper"] | dict(steps=None, proposals=1024, after_solved=32, lr=5e-4, lora_r=32,
                                  max_new_tokens=32)
ARC |= real_models(proposals=300, temperature=0.7, max_new_tokens=128)

# {policy in tiny/: (its presets, the default one)}; "": of any other model
OF_POLICY = {"wordsearch": (WORDS, "screen"), "molecule": (MOLECULES, "novelty"),
             "arc": (ARC, "tiny"), "": ({"paper": {}} | real_models(), "paper")}
