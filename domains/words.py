"""Word vectors: the bundled tables, and a sentence encoder that can be used instead of them."""
from __future__ import annotations

import functools
import random
import re
import zlib
from pathlib import Path

import numpy as np

from runlog.errors import UserError
from runlog.slow import torch

DATA = Path(__file__).parent.parent / "data"
BITS = 6            # of a number in more_word_vectors.npz
WORD = re.compile(r"[a-z]+")
PUBLISHED_WORDS = ("airbase birthstone cement computer filament machetes meatloaf mob polyethylene "
                   "skillet").split()


def question(word: str) -> str:
    """The sentence that is embedded in place of a word."""
    article = "an" if word[0] in "aeiou" else "a"
    return f"What is {article} {word}?"


# ----------------------------------------------------------------------------- the bundled tables
#
# Both are made by data/make_word_vectors.py with all-MiniLM-L6-v2.
#
# The first holds the 12,720 words of the bundled policy's vocabulary, from WordNet. The second
# holds 64,506 other ordinary words, from SCOWL's word lists, for the guesses of real language
# models. It is read when a word is asked for that the first one lacks.
#
# The error of cosines of random pairs, stored against exact, on average and at most (the cosines
# themselves: 0.20 +- 0.08):
#
#   first-first     0.0007    0.004
#   first-second    0.0013    0.008
#   second-second   0.0017    0.010

@functools.cache
def word_vectors() -> tuple[dict[str, int], np.ndarray]:
    """The first table: {word: row}, and the unit vectors (N, D) float32 of question(word).

    Warm starts and random targets are drawn from its words. Stored as int8, with one scale for all.
    """
    table = np.load(DATA / "word_vectors.npz")
    words = bytes(table["words"]).decode("ascii").split("\n")
    vectors = table["vectors"].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {word: row for row, word in enumerate(words)}, vectors


@functools.cache
def more_word_vectors() -> tuple[dict[str, int], np.ndarray]:
    """The second table: {word: row}, and packed vectors (N, D * BITS / 8) uint8 for `unpack`.

    The numbers of a word are stored with BITS bits and a scale for each word.
    """
    table = np.load(DATA / "more_word_vectors.npz")
    words = zlib.decompress(bytes(table["words"])).decode("ascii").split("\n")
    return {word: row for row, word in enumerate(words)}, table["vectors"]


def unpack(packed: np.ndarray) -> np.ndarray:
    """A packed vector (D * BITS / 8,) uint8 -> the unit vector (D,) float32.

    Each number has BITS bits, the highest first, and 2 ** (BITS - 1) stands for 0.
    """
    bits = np.unpackbits(packed).reshape(-1, BITS)                              # (D, BITS)
    numbers = bits @ (2 ** np.arange(BITS)[::-1]) - 2 ** (BITS - 1)             # (D,) integers
    return (numbers / np.sqrt(numbers @ numbers)).astype(np.float32)


def vector_of(word: str) -> np.ndarray | None:
    """The unit vector (D,) float32 of a word, from either table. None if both lack the word."""
    rows, vectors = word_vectors()
    if word in rows:
        return vectors[rows[word]]
    rows, packed = more_word_vectors()
    return unpack(packed[rows[word]]) if word in rows else None


def hidden_word(target: str, seed: int, any_word: bool = False) -> str:
    """The word to search for. "random" draws one of the first table by the seed.

    any_word: whether it may be a word that both tables lack. Raises UserError.
    """
    hidden = target.lower()
    if target == "random":
        hidden = random.Random(f"target {seed}").choice(list(word_vectors()[0]))
    if not WORD.fullmatch(hidden):
        raise UserError(f"the target must be one English word in plain letters, not {target!r}")
    if not any_word and vector_of(hidden) is None:
        n_words = len(word_vectors()[0]) + len(more_word_vectors()[0])
        raise UserError(f"the target {hidden!r} is not among the {n_words:,} words of the bundled "
                        "tables: choose another, or score with a sentence encoder "
                        "(--embedder HUB_NAME_OR_FOLDER)")
    return hidden


def closeness_rank(word: str, target: str) -> tuple[int, int]:
    """(rank, n): the place of word among n words, ordered by their closeness to target.

    The n words are those of the first table, and word and target where it lacks them. Rank 0 is the
    target itself. word and target: of either table.
    """
    rows, vectors = word_vectors()
    others = [other for other in dict.fromkeys([target, word]) if other not in rows]
    words = [*rows, *others]
    hidden = vector_of(target)
    closeness = np.append(vectors @ hidden, [vector_of(other) @ hidden for other in others])
    order = np.argsort(-closeness, kind="stable")
    return int(np.flatnonzero(order == words.index(word))[0]), len(words)


# --------------------------------------------------------------------------- the sentence encoder

@functools.cache
def load_embedder(source: str):
    """(tokenizer, model) of a sentence encoder. source: folder or Hub name. Raises UserError."""
    import transformers
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        code = {"trust_remote_code": False}
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **code)
        return tokenizer, transformers.AutoModel.from_pretrained(source, **code).to(device).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"the sentence encoder {source} is neither a folder nor a reachable Hub "
                        "model") from error


def embed(words: list[str], source: str, batch: int = 256) -> np.ndarray:
    """Unit vectors (N, D) float32 of question(word): the mean of the last hidden states over the
    tokens of the question. batch: questions encoded at a time. Raises UserError."""
    tokenizer, model = load_embedder(source)
    vectors = []
    for start in range(0, len(words), batch):
        questions = [question(word) for word in words[start:start + batch]]
        inputs = tokenizer(questions, padding=True, return_tensors="pt").to(model.device)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state                          # (B, T, D)
        weight = inputs["attention_mask"][..., None].to(hidden.dtype)           # (B, T, 1)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        vectors.append(torch.nn.functional.normalize(mean.float(), dim=1).cpu().numpy())
    return np.concatenate(vectors)


def vectors_for(words: list[str], source: str = "") -> dict[str, np.ndarray]:
    """The unit vector (D,) of each word, from the sentence encoder `source`.

    Without a source they come from the bundled tables. Words that these lack are left out.
    """
    if source:
        return dict(zip(words, embed(words, source)))
    vectors = {word: vector_of(word) for word in words}
    return {word: vector for word, vector in vectors.items() if vector is not None}
