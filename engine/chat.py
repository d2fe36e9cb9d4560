"""Prompts -> token ids, through the chat template of whatever model it is.

A prompt is a string, which is one turn of the user, or a conversation: a list of {"role": "system",
"user" or "assistant", "content": text}.
"""
from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right

from runlog.errors import UserError, one_line

# Llama 3's template writes today's date unless it is given one. Qwen 3's and SmolLM3's think aloud
# unless they are told not to. A prompt must be the same tomorrow, and an answer must be short.
SETTINGS = dict(date_string="26 Jul 2024", enable_thinking=False)
DATE = "{% macro strftime_now(format) %}26 July 2024{% endmacro %}"     # some ask for it this way
END_OF_THOUGHT = "</think>"


def encode(policy, prompt: str | list[dict]) -> list[int]:
    """A prompt -> token ids (P,), with what asks the model for its answer behind it.

    policy: as in migrate.py. Raises UserError for what is no conversation, and if the model's
    context does not hold the prompt and the longest completion.
    """
    ids = encode_turns(policy.tokenizer, conversation(prompt), policy.eos_ids)
    context, longest = context_of(policy.model.config), policy.generation.max_new_tokens
    if len(ids) < 2:
        raise UserError("the prompt is empty, or a single token: the model needs two to begin with")
    if len(ids) + longest > context:
        raise UserError(f"the prompt has {len(ids)} tokens, which with --max-new-tokens {longest} "
                        f"is more than the model's context of {context:.0f}")
    return ids


def fits(policy, prompt: str | list[dict]) -> bool:
    """Whether the model's context holds a prompt and the answer to it. Raises UserError for what is
    no conversation."""
    ids = encode_turns(policy.tokenizer, conversation(prompt), policy.eos_ids)
    return len(ids) + policy.generation.max_new_tokens <= context_of(policy.model.config)


def context_of(config) -> float:
    """How many tokens a model may have before it; infinite where it does not say.

    With some rotary embeddings (longrope, dynamic) all angles change once a text is longer than
    what the model was first trained on. Keys of a prompt would then depend on what follows it, so
    the context ends there.
    """
    config = config.get_text_config(decoder=True)       # a model may see pictures, too
    rope = getattr(config, "rope_parameters", None) or {}
    context = getattr(config, "max_position_embeddings", None) or math.inf
    if rope.get("rope_type") in ("longrope", "dynamic"):
        context = min(context, rope.get("original_max_position_embeddings")
                      or getattr(config, "original_max_position_embeddings", None) or context)
    return context


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
    try:
        text = apply_template(tokenizer, turns, tokenize=False)
    except Exception:       # a template may raise anything
        text = ""
    if not all(turn["content"].strip() in text for turn in turns):         # some drop a turn
        turns = folded(turns)
    try:
        return apply_template(tokenizer, turns, add_generation_prompt=True,
                              return_dict=True)["input_ids"]
    except Exception as error:
        raise UserError("the model's chat template refuses the prompt: "
                        f"{one_line(error)}") from error


def apply_template(tokenizer, turns: list[dict], **how):
    """tokenizer.apply_chat_template under SETTINGS."""
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = DATE + template
    return tokenizer.apply_chat_template(turns, chat_template=template, **SETTINGS, **how)


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


def spans(tokenizer, tokens: list[int], candidates: list[str]) -> list[tuple[int, int]]:
    """Which tokens of a completion are each candidate's: the first, and the one behind the last.

    candidates: in their order in the completion. (0, 0), no token, for one that does not stand
    there as it is written. A token that holds a letter of a candidate belongs to it, also with a
    quote or a space in front.
    """
    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)
    text = decode(tokens)
    ends = [len(decode(tokens[:end])) for end in range(1, len(tokens) + 1)]     # in characters
    found, start = [], len(text) - len(text.rpartition(END_OF_THOUGHT)[2])
    for candidate in candidates:
        place = place_of(candidate, text, start)
        if place is None:
            found.append((0, 0))
        else:
            start = place[1]
            found.append((bisect_right(ends, place[0]), bisect_left(ends, place[1]) + 1))
    return found


def place_of(candidate: str, text: str, start: int) -> tuple[int, int] | None:
    """Where a candidate stands behind `start`, in characters. First choice: alone between quotes,
    in the same case; last choice: between other letters' ends, in any case."""
    between_quotes = rf"(?<=[\"'`]){re.escape(candidate)}(?=[\"'`])"
    between_words = rf"(?<![^\W_]){re.escape(candidate)}(?![^\W_])"
    for case in (re.NOFLAG, re.IGNORECASE):
        for pattern in (between_quotes, between_words):
            match = re.compile(pattern, case).search(text, start)
            if match:
                return match.span()
    return None


QUESTION = {"role": "user", "content": "Which word is it?"}
ANSWER = {"role": "assistant", "content": "An example"}


def behind_answer(tokenizer, *turns: dict) -> list[int]:
    """The tokens that the chat template writes behind an answer and in front of these turns."""
    try:
        text = apply_template(tokenizer, [QUESTION, ANSWER, *turns], tokenize=False)
    except Exception:           # no template, or one that refuses this
        return []
    _, found, behind = text.rpartition(ANSWER["content"])
    return tokenizer(behind, add_special_tokens=False)["input_ids"] if found else []


def special_end(tokenizer) -> int | None:
    """The special token that the chat template writes right behind an answer, if it does."""
    for first in behind_answer(tokenizer)[:1]:
        added = tokenizer.added_tokens_decoder.get(first)
        if added and (added.special or added.content.strip()):      # not a token for blank lines
            return first
    return None


def end_of_turn(tokenizer, eos_ids: frozenset[int]) -> int:
    """The token that closes an answer of the model, one of eos_ids.

    It is what the chat template writes behind an answer: <|im_end|>, for example. Where that is not
    in eos_ids, or there is no template, it is the tokenizer's EOS, else the first of eos_ids.
    """
    # GLM's answers end where the next turn begins
    written = behind_answer(tokenizer) + behind_answer(tokenizer, QUESTION)
    ends = [token for token in [*written, tokenizer.eos_token_id] if token in eos_ids]
    return ends[0] if ends else min(eos_ids)
