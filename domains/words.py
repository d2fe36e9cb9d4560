"""Word vectors: the bundled table, and a sentence encoder that can be used instead of it."""
from __future__ import annotations

import functools
import random
import re
from pathlib import Path

import numpy as np

from runlog.errors import UserError
from runlog.slow import torch

TABLE = Path(__file__).parent.parent / "data" / "word_vectors.npz"
WORD = re.compile(r"[a-z]+")
PUBLISHED_WORDS = ("airbase birthstone cement computer filament machetes meatloaf mob polyethylene "
                   "skillet").split()


def question(word: str) -> str:
    """The sentence that is embedded in place of a word."""
    article = "an" if word[0] in "aeiou" else "a"
    return f"What is {article} {word}?"


# ------------------------------------------------------------------------------ the bundled table

@functools.cache
def word_vectors() -> tuple[dict[str, int], np.ndarray]:
    """The bundled table: {word: row}, and the unit vectors (N, D) float32 of question(word).

    Made by data/make_word_vectors.py with all-MiniLM-L6-v2. Stored as int8, with one scale for all.
    """
    table = np.load(TABLE)
    words = bytes(table["words"]).decode("ascii").split("\n")
    vectors = table["vectors"].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {word: row for row, word in enumerate(words)}, vectors


def hidden_word(target: str, seed: int, any_word: bool = False) -> str:
    """The word to search for. "random" draws one of the table by the seed.

    any_word: whether it may be a word that the table lacks. Raises UserError.
    """
    words = word_vectors()[0]
    hidden = target.lower()
    if target == "random":
        hidden = random.Random(f"target {seed}").choice(list(words))
    if not WORD.fullmatch(hidden):
        raise UserError(f"the target must be one English word in plain letters, not {target!r}")
    if hidden not in words and not any_word:
        raise UserError(f"the target {hidden!r} is not among the {len(words)} words of the bundled "
                        "table: choose another, or score with a sentence encoder "
                        "(--embedder HUB_NAME_OR_FOLDER)")
    return hidden


def closeness_rank(word: str, target: str) -> int:
    """How many words of the table are closer to target than word is (0: the target itself)."""
    rows, vectors = word_vectors()
    order = np.argsort(-vectors @ vectors[rows[target]], kind="stable")
    return int(np.flatnonzero(order == rows[word])[0])


# --------------------------------------------------------------------------- the sentence encoder

@functools.cache
def load_embedder(source: str):
    """(tokenizer, model) of a sentence encoder. source: folder or Hub name. Raises UserError."""
    import transformers
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        return tokenizer, transformers.AutoModel.from_pretrained(source).to(device).eval()
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

    Without a source they come from the bundled table. Words that the table lacks are left out.
    """
    if source:
        return dict(zip(words, embed(words, source)))
    rows, vectors = word_vectors()
    return {word: vectors[rows[word]] for word in words if word in rows}
