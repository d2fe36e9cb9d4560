"""Prompts of word search. No example ever names the hidden word: such examples are left out."""
from __future__ import annotations

import json

from domains.prompts import Parents, Prompt, turns

# Three examples: with more of them SmolLM2 repeats the parent, with fewer it makes up words.
GUESSES = "velvet ponder quickly".split()
LISTS = ("velvet ponder quickly brittle orchard whisper trumpet humid pension carve".split(),
         "glacier apology muddy stitch lantern tariff yawn elbow gravel anxious".split())
NEAR = (("river", "bridge"), ("angry", "furious"), ("teacher", "pencil"))
NEAR_LISTS = (
    ("river", "stream creek lake canal flow bank current delta water flood".split()),
    ("angry", "furious upset annoyed rage bitter hostile mad irritated temper resentful".split()))
RANKED = (
    ((("pencil", 0.21), ("garden", 0.34), ("shore", 0.58), ("lake", 0.71)),
     "river stream creek canal flow bank current delta water flood".split()),
    ((("stone", 0.18), ("music", 0.30), ("bored", 0.49), ("upset", 0.77)),
     "angry furious annoyed rage bitter hostile mad irritated temper resentful".split()))


def words(style: str, n: int, parents: Parents, hidden: str) -> Prompt:
    """A request for n words, close in meaning to the parents if there are any. hidden: the word
    that no example may name."""
    answer = "one English word" if n == 1 else f"a JSON list of {n} different English words"
    if style == "bundled":
        return bundled_words(answer, parents)
    if style == "instruct":
        system = ("You play a game in which a hidden English word has to be found. The only hint "
                  "is how close in meaning each guess is. Give single common words in lower case "
                  f"and nothing else. Always answer with {answer}.")
        return turns(system, [], word_request(answer, n, parents))
    shots = [(question, example[:n]) for question, example in word_shots(n, parents)]
    shown = [(word_request(answer, n, question), write_words(example, n))
             for question, example in shots
             if hidden not in example and hidden not in [word for word, _ in question]]
    return turns("", shown, word_request(answer, n, parents))


def bundled_words(answer: str, parents: Parents) -> str:
    """The wording that tiny/wordsearch was trained on."""
    return f"Guess the hidden word. {bundled_hint(parents)}Answer with {answer}."


def bundled_hint(parents: Parents) -> str:
    """What the parents say of the word, in that wording."""
    names = [word for word, _ in parents]
    if len(names) == 1:
        return f"Its meaning is close to: {names[0]}. "
    if names:
        return f"Its meaning is close to these, the last the closest: {', '.join(names)}. "
    return ""


def word_shots(n: int, parents: Parents) -> list[tuple[Parents, list[str]]]:
    """Examples of the same kind as the request: (parents, words)."""
    if len(parents) > 1:
        return [(list(ranked), best) for ranked, best in RANKED]
    if parents and n == 1:
        return [([(a, 0.0)], [b]) for a, b in NEAR]
    if parents:
        return [([(a, 0.0)], near) for a, near in NEAR_LISTS]
    return [([], [word]) for word in GUESSES] if n == 1 else [([], example) for example in LISTS]


def word_request(answer: str, n: int, parents: Parents) -> str:
    related = "A word" if n == 1 else "Words"
    if not parents:
        return f"Guess the hidden word. Answer with {answer}."
    if len(parents) == 1:
        return f"{related} related to: {parents[0][0]}\nAnswer with {answer}."
    ranked = "\n".join(f"{score:.0%} {word}" for word, score in parents)
    return f"How close in meaning each guess was:\n{ranked}\nAnswer with {answer}.\n100%"


def write_words(examples: list[str], n: int) -> str:
    return examples[0] if n == 1 else json.dumps(examples)
