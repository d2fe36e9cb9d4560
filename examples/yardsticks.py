"""Searches for a word without a language model: two baselines, on the same targets and scores.

    python -m examples.yardsticks ridge --target skillet --out runs/ridge-skillet
    python -m examples.yardsticks hillclimb --target skillet --seed 3 --out runs/hillclimb-skillet

ridge: least squares from the token embeddings of the bundled policy to the scores seen so far. Each
step guesses the ten words with the best predictions. It shows how much can be learned from the
scores in the very weights that LoRA moves.

hillclimb: ten unseen relatives, in WordNet's graph, of the best word that has any. The bundled
policy learned from this graph.

Both start from the same 20 warm-start words as the searches and never guess a word twice.
"""
from __future__ import annotations

import functools
import random
import sys
from pathlib import Path

import tasks
from domains.words import word_vectors
from examples import baseline
from runlog.errors import exit_code
from runlog.slow import torch
from tiny import wordnet

ROOT = Path(__file__).resolve().parent.parent
GUESSES = 10        # words a step
RIDGE = 0.3         # weight of the penalty of the least squares


@functools.cache
def policy_embedding(words: tuple[str, ...]):
    """Unit vectors (N, D) of the words: the bundled policy's token embeddings."""
    import transformers
    folder = ROOT / "tiny" / "wordsearch"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    table = model.get_input_embeddings().weight.detach()
    return torch.nn.functional.normalize(table[tokenizer.convert_tokens_to_ids(list(words))], dim=1)


def ridge(scores: dict[str, float]) -> list[str]:
    """The unseen words with the best predictions of a ridge regression on the scores."""
    number, _ = word_vectors()
    words = list(number)
    x = policy_embedding(tuple(words))                                          # (N, D)
    chosen = [number[word] for word in scores]
    seen = x[chosen]                                                            # (n, D)
    y = torch.tensor(list(scores.values()))
    kernel = seen @ seen.T + RIDGE * torch.eye(len(seen))
    predicted = x @ (seen.T @ torch.linalg.solve(kernel, y - y.mean()))         # (N,)
    predicted[chosen] = -torch.inf
    return [words[i] for i in predicted.topk(GUESSES).indices]


@functools.cache
def relatives(folder: Path) -> dict[str, list[str]]:
    """{word: its relatives in WordNet, the closest first}. folder: of WordNet's files."""
    vocabulary, edges, _ = wordnet.read_wordnet(folder)
    ids, probs = wordnet.neighbour_table(vocabulary, edges)
    return {word: [vocabulary[j] for j, p in zip(row, weights) if p > 0]
            for word, row, weights in zip(vocabulary, ids.tolist(), probs.tolist())}


def hillclimb(scores: dict[str, float], rng: random.Random, folder: Path) -> list[str]:
    """Unseen relatives of the best word that has any, else words at random."""
    related = relatives(folder)
    for parent in sorted(scores, key=scores.get, reverse=True):
        unseen = [word for word in related[parent] if word not in scores]
        if unseen:
            return unseen[:GUESSES]
    return rng.sample([word for word in word_vectors()[0] if word not in scores], GUESSES)


def main(argv: list[str]) -> None:
    parser = baseline.flags(__doc__, "examples.yardsticks")
    parser.add_argument("yardstick", choices=["ridge", "hillclimb"])
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"),
                        help="folder of WordNet's files (default: /usr/share/wordnet)")
    args = parser.parse_args(argv)
    task = tasks.WordSearch(target=args.target)
    propose = ridge
    if args.yardstick == "hillclimb":
        rng = random.Random(f"{args.target} {args.seed}")
        propose = functools.partial(hillclimb, rng=rng, folder=args.wordnet)
    settings = baseline.Settings("wordsearch", args.yardstick, "yardstick", args.seed,
                                 budget=args.budget)
    baseline.run(task, settings, propose, args.out, "examples.yardsticks", argv)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
