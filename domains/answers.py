"""Parsers: what a completion proposes. They read what real models write and never raise.

All of them read the same part of a completion, `final_part`: what follows the thinking, and at most
MAX_LENGTH characters of it. Every repetition in the regular expressions below has an upper limit,
and every loop goes over the text once. So the time grows with the length of a text, never with its
square.
"""
from __future__ import annotations

import json
import re
import textwrap

from domains.words import WORD

MAX_LENGTH = 20_000     # characters; 1,024 tokens are about 5,000
MAX_STRINGS = 100       # strings that smiles_in gives back; each costs its reader a call of RDKit
MAX_JSON = 20           # places at which JSON is looked for; a hostile text is nothing but brackets

THINKING_START = re.compile(r"<think(?:ing)?>", flags=re.I)
THINKING_END = re.compile(r"</think(?:ing)?>", flags=re.I)


def without_thinking(completion: str) -> str:
    """A completion without the thoughts of a reasoning model.

    They end at the last </think>. Everything before it is left out, whether or not there is a
    <think>: some chat templates write that tag at the end of the prompt. A <think> without an end
    is left out with all that follows.
    """
    answer = THINKING_END.split(completion)[-1]
    return THINKING_START.split(answer, maxsplit=1)[0]


def final_part(completion: str) -> str:
    """The part of a completion that is read: the last MAX_LENGTH characters, without thoughts.

    The end is kept, because a model that reasons without tags gives its answer at the end.
    """
    return without_thinking(completion)[-MAX_LENGTH:]


# ------------------------------------------------------------------------ fenced blocks and JSON

# What stands behind the opening fence: a language and the end of the line, or a language alone.
LANGUAGE = re.compile(r"[ \t]{0,3}[\w+#.-]{0,20}[ \t\r]{0,3}\n"
                      r"|(?:json|text|plaintext|smiles|python|py)[ \t]", flags=re.I)


def fenced(text: str) -> list[str]:
    """The contents of the fenced blocks of a text, in order; empty ones are left out. The last one
    may lack its closing fence."""
    blocks = []
    for block in text.split("```")[1::2]:
        language = LANGUAGE.match(block)
        blocks.append(block[language.end():] if language else block)
    return [block for block in blocks if block.strip()]


OPENING = re.compile(r"[\[{]")
CUT_OPENING = re.compile(r"[\[{]\s{0,20}[\"']")
# a string in quotes of either kind, and the colon behind it if it is a key
CUT_STRING = re.compile(r"(?:\"((?:[^\"\\\n]|\\.){0,300})\"|'((?:[^'\\\n]|\\.){0,300})')"
                        r"([ \t]{0,5}:)?")


def json_strings(text: str, keys: tuple[str, ...]) -> list[list[str]]:
    """For each JSON list or object of a text that holds strings: its strings, in order.

    keys: of an object with such a word in one of its keys, only the values of these keys count. If
    no list or object is valid JSON, because the completion ended in it for example, the strings of
    the first one that are complete.
    """
    found = [strings_within(value, keys) for value in json_values(text)]
    found = [strings for strings in found if strings]
    start = CUT_OPENING.search(text)
    if start and not found:
        found = [strings_of_cut_json(text[start.start():], keys)]
    return [strings for strings in found if strings]


def strings_of_cut_json(text: str, keys: tuple[str, ...]) -> list[str]:
    """The complete strings in a text that began as JSON, in order. keys: as in json_strings."""
    strings, named, named_key = [], [], False
    for double, single, colon in CUT_STRING.findall(text):
        string = double or single
        if colon:
            named_key = any(name in string.lower() for name in keys)
        else:
            strings.append(string)
            if named_key:
                named.append(string)
    return named or strings


def json_values(text: str) -> list:
    """The JSON lists and objects in a text, in order. Looks at the first MAX_JSON brackets that
    lie in none of them."""
    values, position = [], 0
    for _ in range(MAX_JSON):
        bracket = OPENING.search(text, position)
        if bracket is None:
            break
        try:
            value, position = json.JSONDecoder().raw_decode(text, bracket.start())
            values.append(value)
        except (ValueError, RecursionError):
            position = bracket.end()
    return values


def strings_within(value, keys: tuple[str, ...]) -> list[str]:
    """All strings in a JSON value, in order. Keys of objects are left out. Of an object that has a
    key with one of the words `keys` in it, the other values are left out."""
    strings, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            strings.append(item)
        elif isinstance(item, list):
            waiting.extend(reversed(item))
        elif isinstance(item, dict):
            named = [value for key, value in item.items()
                     if any(name in key.lower() for name in keys)]
            waiting.extend(reversed(named or list(item.values())))
    return strings


# ------------------------------------------------------------------------------------------ words

WORD_KEYS = ("answer", "guess", "word")
MARKS = "\"“”'‘’`*_"                                # quotes, bold, italic, code
AROUND = MARKS + " \t\r\n.,!?:;()[]{}"              # what may stand around a word on its line

# "1. ", "- ", "* ", "**1.** "
BULLET = re.compile(rf"[\s>]{{0,10}}[{MARKS}]{{0,3}}"
                    rf"(?:[-*•·+]\s{{1,4}}|#?\d{{1,3}}[.):][{MARKS}]{{0,3}}\s{{0,4}})")
# the space in front of a number within a line: "1. cement 2. mortar"
BULLET_WITHIN = re.compile(r"(?<=\S)[ \t]{1,3}(?=\d{1,2}[.)][ \t])")
GREETING = re.compile(r"(?:sure|certainly|absolutely|of course|okay|ok|yes|no|well|great|hello|hi)"
                      r"[!.,]{1,3}\s", flags=re.I)
# words that head an answer or its explanation, and are no answer if a mark stands beside them
HEADINGS = frozenset(
    "sure certainly absolutely okay ok yes no well great hello hi sorry thanks note hint here "
    "answer answers guess guesses word words list output result response reply explanation reason "
    "reasoning meaning definition example sentence question solution thought thinking step".split())
LABEL = re.compile(r"\b(?:answers?|guess(?:es)?|words?|here|list|output|response)\b", flags=re.I)
# the word at the start of a line, and what separates it from an explanation: " - ", ":", "(", "."
HEAD = re.compile(rf"[{MARKS}]{{0,3}}([A-Za-z]{{1,45}})[{MARKS}]{{0,3}}"
                  rf"(?:\s{{0,3}}[-–—=]{{1,2}}\s|\s{{0,3}}[–—(|]|\.\s"
                  rf"|:[{MARKS}]{{0,3}}\s(?![{MARKS}]))")
# "cement" within a sentence, and \boxed{cement}
MARKED = re.compile(rf"(?:(?<![\w{MARKS}])[{MARKS}]{{1,6}}|\\boxed{{(?:\\text{{)?)"
                    rf"([A-Za-z]{{1,45}})[.,!?]?[{MARKS}}}](?!\w)")
# what may follow an answer that a sentence names: the end of the sentence, a comma, a bracket
AFTER = rf"(?=[{MARKS}]{{1,3}}(?!\w)|[ \t]{{0,3}}(?:\Z|[\n.,!?;(–—]|-\s))"
# "The answer is cement.", "I'd go with cement.", 'The hidden word is "cement", as ..'
NAMED = re.compile(
    rf"\b(?:(?:answer|guess)\b[^\n:.!?]{{0,40}}?(?:\bis\b|\bbe\b|:)[\s:{MARKS}]{{0,6}}"
    rf"|I(?:['’]d|['’]ll| would| will)? (?:go with|choose|pick|say|guess)[\s{MARKS}]{{1,4}}"
    rf"|word\b[^\n:]{{0,40}}?(?:\bis\b|\bbe\b|:)[\s:]{{0,3}}[{MARKS}]{{1,3}})"
    rf"([A-Za-z]{{1,45}}){AFTER}", flags=re.I)
# "The word is cement": weaker, because it also begins sentences about the word
WORD_IS = re.compile(rf"\bword\b[^\n:]{{0,40}}?(?:\bis\b|:)\s{{0,3}}([A-Za-z]{{1,45}}){AFTER}",
                     flags=re.I)


def words_in(completion: str) -> list[str]:
    """The words that a completion proposes, in lower case, each once, in order.

    Read are: a bare word, a JSON list or object (also one that is cut off), a fenced block, a
    numbered or bulleted list, with or without explanations, and a quoted or bold word in a
    sentence. A sentence with none of these proposes nothing. What is not written in plain English
    letters is no word.
    """
    for text in word_texts(completion):
        lists = json_strings(text, WORD_KEYS)
        words = proper_words([word for strings in lists for word in strings])
        if not lists and not CUT_OPENING.search(text):
            words = proper_words(words_in_prose(text))
        if words:
            return words
    return []


def answer_word(completion: str) -> str | None:
    """The one word that a completion means as its answer, in lower case; None if there is none.

    The first of these that there is: the last word of the last JSON value; the last word that a
    sentence calls the answer or the guess; the first line that is a word, with or without an
    explanation behind it; the last quoted or bold word. A fenced block is read before the text
    around it, and the last such block first.
    """
    *blocks, whole = word_texts(completion)
    for text in [*reversed(blocks), whole]:
        lists = json_strings(text, WORD_KEYS)
        words = proper_words(lists[-1]) if lists else []
        if not lists and not CUT_OPENING.search(text):
            words = proper_words(one_word_in_prose(text))
        if words:
            return words[-1]
    return None


def word_texts(completion: str) -> list[str]:
    """What is read for words, one after the other: the fenced blocks, and then the whole answer."""
    text = final_part(completion)
    return [*fenced(text), text.replace("```", "\n")]


def proper_words(items: list[str]) -> list[str]:
    """Those of the strings that are English words, in lower case, each once."""
    words = [item.strip().lower() for item in items]
    return list(dict.fromkeys(word for word in words if WORD.fullmatch(word)))


def plain(text: str) -> bool:
    """Whether a text is one word in plain English letters."""
    return text.isascii() and text.isalpha()


def words_in_prose(text: str) -> list[str]:
    """The words that a text without JSON proposes. The first form that fits the text counts."""
    if plain(text.strip(AROUND)):
        return [text.strip(AROUND)]
    lines = word_lines(text)
    listed = [word for line, bullet in lines if bullet for word in words_of_line(line)]
    any_line = [word for line, _ in lines for word in words_of_line(line)]
    return (listed or any_line or MARKED.findall(text) or NAMED.findall(text)
            or WORD_IS.findall(text)[-1:])


def one_word_in_prose(text: str) -> list[str]:
    """The word that a text without JSON gives as its answer, in a list; [] if there is none."""
    if plain(text.strip(AROUND)):
        return [text.strip(AROUND)]
    named = NAMED.findall(text)
    if named:
        return named[-1:]
    for line, _ in word_lines(text):
        words = words_of_line(line)
        if words:
            return words[-1:]
    return MARKED.findall(text)[-1:] or WORD_IS.findall(text)[-1:]


def word_lines(text: str) -> list[tuple[str, bool]]:
    """The lines of a text without their bullets and numbers, and whether each had one."""
    lines = []
    for line in BULLET_WITHIN.sub("\n", text).splitlines():
        bullet = BULLET.match(line)
        line = line[bullet.end():] if bullet else line
        if line.strip():
            lines.append((line.strip(), bullet is not None))
    return lines


def words_of_line(line: str) -> list[str]:
    """The words that a line gives: "cement", "cement, mortar", "cement - a binder" or, behind a
    label such as "Answer:", any of these. [] for a heading or a sentence."""
    greeting = GREETING.match(line)
    if greeting:
        line = line[greeting.end():].strip()
    label, colon, rest = line.partition(":")
    if colon and not rest.strip(AROUND):
        return []
    if colon and LABEL.search(label):
        line = rest.strip(AROUND + "-")

    pieces = [piece.strip(AROUND) for piece in line.strip(AROUND).split(",")]
    pieces = [piece.removeprefix("and ").strip(AROUND) for piece in pieces]
    if len(pieces) == 1 and pieces[0].lower() in HEADINGS and pieces[0] != line:
        return []
    if all(plain(piece) for piece in pieces):
        return pieces

    head = HEAD.match(line)
    if head and head.group(1).lower() not in HEADINGS:
        return [head.group(1)]
    return []


# -------------------------------------------------------------------------------------- molecules

SMILES_KEYS = ("smiles", "answer", "molecule")
SMILES_MARKS = "`\"“”*"
LEAST_ATOMS = 3         # of a SMILES within prose, where I and NO are words
# Abbreviations of medicinal chemistry that read as molecules: nervous system, blood-brain barrier.
ABBREVIATIONS = {"CNS", "BBB"}

HYDROGEN = re.compile(r"\[\d{0,3}H[+-]?\]")
ATOM = re.compile(r"\[[^\[\]\s]{1,40}\]|Br|Cl|[BCNOPSFIbcnops*]")
BONDS = set("-=#$:/\\.()%0123456789~")
SMILES_START = re.compile(r"[\[{]\s{0,20}\"")
MARKED_SMILES = re.compile(rf"(?:(?<![{SMILES_MARKS}])[{SMILES_MARKS}]{{1,300}}|\\boxed{{)"
                           rf"([^\s{SMILES_MARKS}]{{1,300}})[{SMILES_MARKS}}}]")
LABELLED_SMILES = re.compile(
    rf"\b(smiles|answer|molecule)\b[^:\n]{{0,40}}?(?::|=|\bis\b)"
    rf"[\s:{SMILES_MARKS}]{{0,8}}([^\s{SMILES_MARKS}]{{1,300}})", flags=re.I)
# what may follow a SMILES at the start of a line
EXPLANATION = re.compile(r"[(\-–—:=|#,]|is\b|//")


def smiles_in(completion: str) -> list[str]:
    """The strings of a completion that may be SMILES, in order; at most the last MAX_STRINGS.

    They are the strings of its JSON, or those of its last fenced block, or the whole answer if it
    is one string, or what follows "SMILES:", or the quoted and bold strings, or those at the start
    of a line, or in a sentence: the first of these that there are. Within prose a string needs
    LEAST_ATOMS atoms. An answer that is nothing but "C" is methane.
    """
    text = final_part(completion).strip()
    blocks = fenced(text)
    part = blocks[-1].strip() if blocks else text
    # SMILES have brackets too. Only a bracket with a quote behind it is read as JSON.
    found = []
    if SMILES_START.search(part):
        strings = [string for strings in json_strings(part, SMILES_KEYS) for string in strings]
        found = smiles_of_lines("\n".join(strings).splitlines())
    if blocks and not found:
        found = smiles_of_lines(part.splitlines())
    if not found and len(text.split(maxsplit=1)) == 1:
        found = MARKED_SMILES.findall(text) or [text.rstrip(".,;:")]
    if not found:
        found = smiles_in_prose(text.replace("```", "\n"))
    return found[-MAX_STRINGS:]


def smiles_in_prose(text: str) -> list[str]:
    """The strings of an answer of several words that may be SMILES."""
    labelled = []
    for label, string in LABELLED_SMILES.findall(text):
        least = 1 if label.lower() == "smiles" else LEAST_ATOMS
        if atoms_in(trimmed(string)) >= least:
            labelled.append(trimmed(string))
    if labelled:
        return labelled
    marked = [string for string in MARKED_SMILES.findall(text) if atoms_in(string) >= LEAST_ATOMS]
    return marked or smiles_of_lines(text.splitlines(), LEAST_ATOMS) or smiles_in_sentences(text)


def smiles_of_lines(lines: list[str], least: int = 1) -> list[str]:
    """The strings that may be SMILES of lines such as "CCO", "1. CCO", "CCO (ethanol)" and
    "SMILES: CCO". least: the least number of atoms of a string that is alone on its line."""
    found = []
    for line in lines:
        bullet = BULLET.match(line)
        words = (line[bullet.end():] if bullet else line).split(maxsplit=2)
        strings = [trimmed(word) for word in words]
        if len(words) == 1 and atoms_in(strings[0]) >= least:
            found.append(strings[0])
        elif len(words) == 2 and words[0].endswith(":") and atoms_in(strings[1]) >= least:
            found.append(strings[1])
        elif len(words) > 1 and atoms_in(strings[0]) >= LEAST_ATOMS:
            if words[0][-1] in ":," or EXPLANATION.match(words[1]):
                found.append(strings[0])
    return found


def smiles_in_sentences(text: str) -> list[str]:
    """The words of a text that may be SMILES. One that is made of letters alone counts at the end
    of a line only: it may be a word, or the name of something."""
    found = []
    for line in text.splitlines():
        words = [trimmed(word) for word in line.split()]
        for place, word in enumerate(words, 1):
            if atoms_in(word) < LEAST_ATOMS:
                continue
            if place == len(words) or not word.isalpha():
                found.append(word)
    return found


def trimmed(word: str) -> str:
    """A word without the punctuation and the marks around it."""
    word = word.strip(SMILES_MARKS + ".,:;!?'").removeprefix("(")
    if word.count(")") > word.count("("):
        word = word.removesuffix(")")
    return word


def atoms_in(text: str) -> int:
    """How many heavy atoms a text has if it is a SMILES. 0 if it cannot be one. No chemistry."""
    if text in ABBREVIATIONS or not set(ATOM.sub("", text)) <= BONDS:
        return 0
    return len(ATOM.findall(text)) - len(HYDROGEN.findall(text))


# --------------------------------------------------------------------------------------- programs

TRANSFORM = re.compile(r"def transform(?!\w)")
PYTHON = re.compile(r"^(?:#|import |from |def )", flags=re.M)
# A line of prose: a capital, more letters, a space and the next word, or a bullet, or bold text.
# Hardly a line of a program begins so.
SENTENCE = re.compile(r"[A-Z][a-z']{0,30},? [A-Za-z`(]|[-*•] |\d{1,2}\. |\*\*")


def program_in(completion: str) -> str | None:
    """The program in a completion that defines `transform`: its last such fenced block, else all
    from the first line that looks like Python. None if there is no such program."""
    text = final_part(completion)
    programs = [textwrap.dedent(block) for block in fenced(text) if TRANSFORM.search(block)]
    if not programs:
        for part in text.split("```")[::2]:
            start = PYTHON.search(part)
            if start and TRANSFORM.search(part, start.start()):
                programs.append(without_sentences(part[start.start():]))
    if not programs:
        return None
    return "\n".join(line.rstrip() for line in programs[-1].strip().splitlines())


def without_sentences(program: str) -> str:
    """A program without the sentences behind it, which explain it to the reader."""
    lines = program.rstrip().splitlines()
    while lines and (not lines[-1].strip() or SENTENCE.match(lines[-1])):
        lines.pop()
    return "\n".join(lines)
