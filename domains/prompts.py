"""What the prompts of all tasks share: the styles, and conversations.

Few-shot: earlier turns show what an answer looks like; for models below 2 billion parameters, which
follow examples better than instructions. Instruct: a system turn says what to do. Bundled: the
wording that the policies in tiny/ were trained on. The wording itself is in word_prompts.py,
molecule_prompts.py and arc_prompts.py.
"""
from __future__ import annotations

from runlog.errors import UserError

STYLES = ("bundled", "few-shot", "instruct")
SMALL = 2e9         # parameters; below, few-shot is the default

Conversation = list[dict]
Prompt = str | Conversation
Parents = list[tuple[str, float]]       # (candidate, score), worst to best


def choose_style(given: str, bundled: bool, n_parameters: float,
                 styles: tuple[str, ...] = STYLES) -> str:
    """The style of the prompts: what the user gave, or what fits the model. Raises UserError."""
    if given:
        if given not in styles:
            raise UserError(f"--prompt-style takes one of {', '.join(styles)}")
        return given
    if bundled:
        return "bundled"
    return "few-shot" if n_parameters < SMALL else "instruct"


def turns(system: str, shots: list[tuple[str, str]], request: str) -> Conversation:
    """A conversation: system text ("": none), earlier requests with their answers, the request."""
    conversation = [{"role": "system", "content": system}] if system else []
    for question, answer in shots:
        conversation.append({"role": "user", "content": question})
        conversation.append({"role": "assistant", "content": answer})
    return [*conversation, {"role": "user", "content": request}]


def ask_for_variation(prompt: Prompt, parents: Parents) -> Prompt:
    """The task prompt, with the parents behind it and a request for a variation. Of a conversation
    this is the last turn."""
    if not isinstance(prompt, str):
        *earlier, last = prompt
        return [*earlier, last | {"content": ask_for_variation(last["content"], parents)}]
    shown = "\n".join(quoted(candidate) for candidate, _ in parents)
    wish = f"A good answer:\n{shown}\nGive a variation of it that may be better"
    if len(parents) > 1:
        wish = f"Good answers, the best last:\n{shown}\nGive another one that may be better"
    return f"{prompt}\n\n{wish}, in the same form, and nothing else."


def quoted(candidate: str) -> str:
    """A candidate as a prompt shows it: between fences if it has several lines."""
    return f"```\n{candidate}\n```" if "\n" in candidate else candidate
