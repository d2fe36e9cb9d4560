"""Prompts -> token ids, through the chat template of whatever model it is.

A prompt is a string, which is one turn of the user, or a conversation: a list of {"role": "system",
"user" or "assistant", "content": text}.
"""
from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

from jinja2.exceptions import TemplateError

from runlog.errors import UserError, one_line

# Llama 3's template writes today's date unless it is given one. Qwen 3's and SmolLM3's think aloud
# unless they are told not to. A prompt must be the same tomorrow, and an answer must be short.
SETTINGS = dict(date_string="26 Jul 2024", enable_thinking=False)


def encode(policy, prompt: str | list[dict]) -> list[int]:
    """A prompt -> token ids (P,), with what asks the model for its answer behind it.

    policy: as in migrate.py. Raises UserError for what is no conversation, and if the model's
    context does not hold the prompt and the longest completion.
    """
    ids = encode_turns(policy.tokenizer, conversation(prompt), policy.eos_ids)
    context = getattr(policy.model.config, "max_position_embeddings", None)
    longest = policy.generation.max_new_tokens
    if context and len(ids) + longest > context:
        raise UserError(f"the prompt has {len(ids)} tokens, which with --max-new-tokens {longest} "
                        f"is more than the model's context of {context}")
    return ids


def fits(policy, prompt: str | list[dict]) -> bool:
    """Whether the model's context holds a prompt and the answer to it."""
    try:
        encode(policy, prompt)
    except UserError:
        return False
    return True


def encode_turns(tokenizer, turns: list[dict], eos_ids: frozenset[int]) -> list[int]:
    """A conversation -> token ids (P,). eos_ids: what ends a completion."""
    if tokenizer.chat_template:
        return with_template(tokenizer, turns)
    # A model without a template goes on with a text: one turn a line.
    ids = tokenizer("\n".join(turn["content"] for turn in turns) + "\n")["input_ids"]
    if ids and ids[-1] in eos_ids:          # some tokenizers close every text
        ids = ids[:-1]
    return ids


def conversation(prompt: str | list[dict]) -> list[dict]:
    """A prompt as a list of turns. Raises UserError."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    ok = isinstance(prompt, list) and prompt and all(
        isinstance(turn, dict) and turn.get("role") in ("system", "user", "assistant")
        and isinstance(turn.get("content"), str) for turn in prompt)
    if not ok:
        raise UserError("a prompt is a string, or a list of {'role': system, user or assistant, "
                        f"'content': text}}, not {str(prompt)[:80]!r}")
    return prompt


def with_template(tokenizer, turns: list[dict]) -> list[int]:
    """Renders a conversation. Some templates (Gemma's, Mistral's) know no system turn, or want user
    and assistant in turn: these get the conversation of `folded`."""
    if len(turns) > 1:
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, **SETTINGS)
        except TemplateError:
            text = ""
        if not all(turn["content"].strip() in text for turn in turns):     # some drop a turn
            turns = folded(turns)
    try:
        return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True,
                                             **SETTINGS)["input_ids"]
    except TemplateError as error:
        raise UserError("the model's chat template refuses the prompt: "
                        f"{one_line(error)}") from error


def folded(turns: list[dict]) -> list[dict]:
    """The conversation without a system turn, whose text goes in front of the first user turn, and
    with one turn where one side has several in a row."""
    merged: list[dict] = []
    for turn in turns:
        role = "user" if turn["role"] == "system" else turn["role"]
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += "\n\n" + turn["content"]
        else:
            merged.append({"role": role, "content": turn["content"]})
    return merged


def span(tokenizer, tokens: list[int], candidate: str | None, n: int) -> tuple[int, int] | None:
    """Which tokens of a completion are its candidate's: the first, and the one behind the last.

    None, which means all of them, if completions hold n = 1 candidates or this one holds none. (0,
    0), no token, if the candidate does not stand in the completion as it is written. A token that
    holds a letter of the candidate belongs to it, also with a quote or a space in front.
    """
    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)
    if candidate is None or n == 1:
        return None
    whole_word = rf"(?<!\w){re.escape(candidate)}(?!\w)"
    found = re.search(whole_word, decode(tokens), re.IGNORECASE)
    if not found:
        return 0, 0
    ends = [len(decode(tokens[:end])) for end in range(1, len(tokens) + 1)]     # in characters
    return bisect_right(ends, found.start()), bisect_left(ends, found.end()) + 1


QUESTION = {"role": "user", "content": "Which word is it?"}
ANSWER = {"role": "assistant", "content": "An example"}


def end_of_turn(tokenizer, eos_ids: frozenset[int]) -> int:
    """The token that closes an answer of the model, one of eos_ids.

    It is what the chat template writes behind an answer: <|im_end|>, for example. Where that is not
    in eos_ids, or there is no template, it is the tokenizer's EOS, else the first of eos_ids.
    """
    for turns in ([QUESTION, ANSWER], [QUESTION, ANSWER, QUESTION]):
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, **SETTINGS)
        except Exception:       # no template, or one that refuses this
            break
        _, found, behind = text.rpartition(ANSWER["content"])
        ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if found else []
        ends = [token for token in ids if token in eos_ids]
        if ends:
            return ends[0]      # GLM's answers end where the next turn begins: hence the second try
    eos = tokenizer.eos_token_id
    return eos if eos in eos_ids else min(eos_ids)
