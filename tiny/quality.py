"""Measures the bundled word-search policy for its card: python tiny/quality.py [FOLDER]"""
import random
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import migrate  # noqa: E402
import tasks  # noqa: E402


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else str(HERE / "wordsearch")
    task, (row, table) = tasks.WordSearch(), tasks.word_vectors()
    policy = migrate.load_policy(migrate.resolve(dict(max_new_tokens=4), task), folder)     # fresh LoRA: the base

    def draw(prompt, n, seed=0):
        completions = migrate.sample(policy, migrate.encode_prompt(policy, prompt), n, seed)
        words = [task.parse(policy.tokenizer.decode(c, skip_special_tokens=True)) for c in completions]
        return [w[0] if w and w[0] in row else None for w in words]

    def similarity(pairs):
        return float(np.mean([table[row[a]] @ table[row[b]] for a, b in pairs]))

    words = draw(task.prompt(), 1000)
    known = [w for w in words if w]
    parents = random.Random(0).sample(sorted(row), 100)
    neighbours = [(p, w) for i, p in enumerate(parents) for w in draw(task.variation_prompt([p]), 10, i)]
    valid = [(p, w) for p, w in neighbours if w]
    chance = similarity((a, random.Random(i).choice(known)) for i, a in enumerate(known))
    print("| measure | value |\n|---|---|")
    print(f"| task prompt: samples in the vocabulary | {len(known) / len(words):.1%} |")
    print(f"| task prompt: distinct words in 1,000 samples | {len(set(known))} |")
    print(f"| neighbour prompt (100 parents, 10 each): in the vocabulary | {len(valid) / len(neighbours):.1%} |")
    print(f"| neighbour prompt: different from the parent | {sum(p != w for p, w in valid) / len(valid):.1%} |")
    print(f"| mean cosine of neighbour and parent, by the word vectors | {similarity((p, w) for p, w in valid if p != w):.3f} |")
    print(f"| mean cosine of random pairs | {chance:.3f} |")


if __name__ == "__main__":
    main()
