"""The prompts that the bundled policies were trained on, for tasks of the user's own.

The policies in tiny/ understand their own wording and no other.
"""
from __future__ import annotations

from domains import molecule_prompts, word_prompts
from domains.prompts import Parents, Prompt, ask_for_variation

OPENINGS = {        # how their prompts begin
    "wordsearch": "Guess the hidden word. ",
    "molecule": "Propose a molecule ",
    "arc": "A rule turns each input grid into its output grid. "}
HINTS = {"wordsearch": word_prompts.bundled_hint, "molecule": molecule_prompts.bundled_hint}
REQUEST = "Answer with "        # the hint stands in front of it


def neighbor_prompt(policy: str, prompt: Prompt, parents: Parents) -> Prompt:
    """The neighbour prompt that goes with a task prompt: in the wording of a bundled policy, if it
    knows such prompts, else in plain words. policy: its folder in tiny/; "": another model."""
    known = isinstance(prompt, str) and policy in HINTS and prompt.startswith(OPENINGS[policy])
    if not known or REQUEST not in prompt:
        return ask_for_variation(prompt, parents)
    before, _, after = prompt.rpartition(REQUEST)
    return f"{before}{HINTS[policy](parents)}{REQUEST}{after}"
