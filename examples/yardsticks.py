"""What searches a word without a language model: two yardsticks for word search, on the same targets and scores.

    python examples/yardsticks.py ridge --target skillet --out runs/ridge-skillet
    python examples/yardsticks.py hillclimb --target skillet --seed 3 --wordnet /usr/share/wordnet --out runs/hillclimb-skillet

ridge: least squares from the bundled policy's own token embeddings to the scores seen so far; each step guesses the
ten best unseen predictions. How much could be learned from what was scored, in the very weights that LoRA moves.
hillclimb: from the best word that has unseen relatives in WordNet's graph, guess ten of them. The policy is a lossy
copy of this graph.

Both start from the same 20 warm-start words as the searches and never guess a word twice.
"""
import argparse
import functools
import json
import random
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tiny")]
import tasks  # noqa: E402


@functools.cache
def ridge_guesser():
    import transformers
    words = list(tasks.word_vectors()[0])
    folder = HERE.parent / "tiny" / "wordsearch"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    embedding = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).get_input_embeddings().weight
    x = torch.nn.functional.normalize(embedding.detach()[tokenizer.convert_tokens_to_ids(words)], dim=1)     # (N, D)
    number = {word: i for i, word in enumerate(words)}

    def guess(scores: dict[str, float], rng: random.Random) -> list[str]:
        seen = x[[number[w] for w in scores]]                                       # (n, D)
        y = torch.tensor(list(scores.values()))
        kernel = seen @ seen.T + 0.3 * torch.eye(len(seen))
        predicted = x @ (seen.T @ torch.linalg.solve(kernel, y - y.mean()))
        predicted[[number[w] for w in scores]] = -torch.inf
        return [words[i] for i in predicted.topk(10).indices]
    return guess


@functools.cache
def hillclimb_guesser(wordnet: Path):
    import pretrain
    words = list(tasks.word_vectors()[0])
    vocabulary, edges, _ = pretrain.read_wordnet(wordnet)
    ids, probs = pretrain.neighbour_table(vocabulary, edges)
    related = {w: [vocabulary[j] for j, p in zip(i.tolist(), q.tolist()) if p > 0] for w, i, q in zip(vocabulary, ids, probs)}

    def guess(scores: dict[str, float], rng: random.Random) -> list[str]:
        for parent in sorted(scores, key=scores.get, reverse=True):
            unseen = [w for w in related[parent] if w not in scores]
            if unseen:
                return unseen[:10]
        return rng.sample([w for w in words if w not in scores], 10)
    return guess


def search(guess, target: str, seed: int, budget: int) -> dict:
    """Evaluates ten guesses a step until the word is found; returns a summary as report.py reads it."""
    task = tasks.WordSearch(target=target)
    rng = random.Random(f"{target} {seed}")
    scores = {c: s.value for c, s in task.score(task.warm_start(seed))}
    warm, lines = len(scores), []
    while len(scores) - warm < budget and target not in scores:
        for candidate, score in task.score(guess(scores, rng)):
            if len(scores) - warm < budget and target not in scores:
                scores[candidate] = score.value
    best = max(scores, key=scores.get)
    for i, (c, s) in enumerate(scores.items()):
        lines.append({"index": i, "step": int(i >= warm), "proposal": max(0, i + 1 - warm), "candidate": c, "score": s,
                      "valid": True})
    n = len(scores) - warm
    return {"task": "wordsearch", "target": target, "seed": seed, "preset": "yardstick", "best_score": scores[best],
            "best": best, "solved": best == target, "evaluations": n, "proposals": n, "repeats": 0, "invalid": 0,
            "steps": (n + 9) // 10, "seconds": 0, "warm_start": warm, "lines": lines}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yardstick", choices=["ridge", "hillclimb"])
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    guess = ridge_guesser() if args.yardstick == "ridge" else hillclimb_guesser(args.wordnet)
    summary = {**search(guess, args.target, args.seed, args.budget), "method": args.yardstick}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in summary.pop("lines")))
    (args.out / "config.json").write_text(json.dumps({"config": {"budget": args.budget}, "command": argv}))
    (args.out / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main(sys.argv[1:])
