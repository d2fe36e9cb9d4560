"""Parsers: what a completion proposes. They read what real models write and never raise."""
from __future__ import annotations

import itertools
import json
import re

from domains.words import WORD

FENCE = re.compile(r"```\w*\s*\n?(.*?)```", flags=re.S)


def without_thinking(completion: str) -> str:
    """A completion without the <think> .. </think> of a reasoning model. An unfinished one is left
    out as well: everything from <think> on."""
    return re.sub(r"<think(ing)?>.*?(</think(ing)?>|\Z)", "\n", completion, flags=re.S | re.I)


def json_strings(text: str) -> list[str] | None:
    """All strings among the values of the first JSON list or object in a text, in order. None if
    there is no such list or object."""
    starts = re.finditer(r"[\[{]", text)
    for start in itertools.islice(starts, 20):      # a hostile text is nothing but brackets
        try:
            value, _ = json.JSONDecoder().raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        return strings_within(value)
    return None


def strings_within(value) -> list[str]:
    """All strings in a JSON value, in order; keys of objects are left out."""
    strings, waiting = [], [value]
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, str):
            strings.append(item)
        elif isinstance(item, list):
            waiting[:0] = item
        elif isinstance(item, dict):
            waiting[:0] = item.values()
    return strings


# ------------------------------------------------------------------------------------------ words

def words_in(completion: str) -> list[str]:
    """The words that a completion proposes, in lower case, each once, in order.

    Read are: a bare word, a JSON list or object, a fenced block, a numbered or bulleted list, and a
    quoted or bold word in a sentence; each of them after a thinking tag, too. A sentence with none
    of these proposes nothing. What is not written in plain English letters is no word.
    """
    text = without_thinking(completion)
    fence = FENCE.search(text)
    text = (fence.group(1) if fence else text).strip()
    items = json_strings(text)
    if items is None:
        items = words_in_prose(text)
    words = [item.strip().lower() for item in items]
    return list(dict.fromkeys(word for word in words if WORD.fullmatch(word)))


def words_in_prose(text: str) -> list[str]:
    """The words that a text without JSON proposes. The first form that fits the text counts."""
    lines = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]

    # one word a line
    bare = [line.strip(" .,!:;\"'`*_") for line in lines]
    if lines and all(re.fullmatch(r"[A-Za-z]+", word) for word in bare):
        return bare

    # a, b, c
    if len(lines) == 1 and re.fullmatch(r"[A-Za-z]+(\s*,\s*[A-Za-z]+)+\W*", lines[0]):
        return re.findall(r"[A-Za-z]+", lines[0])

    # I would say "cement".
    marked = re.findall(r"[\"“'‘`*_]+([A-Za-z]+)[\"”'’`*_]+", text)
    if marked:
        return marked

    # My guess is cement.
    named = re.search(r"(?:answer|guess|word)\b[^:\n]{0,30}(?:\bis\b|:)\s*([A-Za-z]+)\W*$", text,
                      flags=re.I)
    return [named.group(1)] if named else []


# -------------------------------------------------------------------------------------- molecules

def smiles_in(completion: str) -> list[str]:
    """The strings of a completion that may be SMILES, in order.

    They are the strings of its JSON, or the words of its last fence, or its quoted words, or the
    last word of each line: the first of these that there is.
    """
    text = without_thinking(completion)
    fences = FENCE.findall(text)
    text = (fences[-1] if fences else text).strip()
    # SMILES have brackets too. Only what starts as JSON does is read as JSON.
    if re.match(r"\{|\[\s*\"", text):
        strings = json_strings(text)
        if strings is not None:
            return strings
    if not fences:
        quoted = re.findall(r"[`\"“*]+([^\s`\"“”*]+)[`\"”*]+", text)
        if quoted:
            return quoted
    return [line.split()[-1].rstrip(".,;:") for line in text.splitlines() if line.split()]


# --------------------------------------------------------------------------------------- programs

def program_in(text: str) -> str | None:
    """The program in a completion that defines `transform`: its last such fenced block, else all
    from the first line that looks like Python. None if there is no such program."""
    text = without_thinking(text)
    fences = re.findall(r"```(?:python|py)?[^\S\n]*\n(.*?)(?:```|\Z)", text, flags=re.S)
    programs = [fence for fence in fences if "def transform" in fence]
    if not programs:
        start = re.search(r"^(#|import |from |def )", text, flags=re.M)
        if start is None:
            return None
        programs = [text[start.start():]]
    program = "\n".join(line.rstrip() for line in programs[-1].strip().splitlines())
    return program if "def transform" in program else None
