"""Measures a bundled policy for its card: python tiny/quality.py [FOLDER], python tiny/quality.py arc|grids [FOLDER]"""
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import arc_programs  # noqa: E402
import migrate  # noqa: E402
import tasks  # noqa: E402


def synthetic_tasks(depth: int, n: int):
    """(steps, task): three pairs to see and one to answer, of a seed that the policy was not trained on."""
    rng = np.random.default_rng([999, depth])
    for _ in range(n):
        steps, pairs = arc_programs.random_task(rng, depth, n_pairs=4)
        pairs = [{"input": a.tolist(), "output": b.tolist()} for a, b in pairs]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"train": pairs[:3], "test": pairs[3:]}, file)
            file.flush()
            yield steps, tasks.Arc(arc_file=file.name)


def arc_policy(folder: str) -> migrate.Policy:
    policy = migrate.load_policy(migrate.resolve({"task": "arc", "preset": "tiny"}, tasks.Arc()), folder)
    tasks.Arc.fits = lambda self, text: migrate.fits(policy, text)
    return policy


def grids(folder: str, n: int = 60) -> None:
    """What the true program costs under the task's own prompt and under that of the task before."""
    policy = arc_policy(folder)
    for depth in (1, 2, 3):
        costs, other = [], None
        for steps, task in synthetic_tasks(depth, n):
            ids = migrate.encode_prompt(policy, task.prompt())
            program = migrate.render_tokens(policy, task, arc_programs.text(steps))
            with torch.no_grad():
                costs.append([-migrate.token_logprobs(policy, x, [program])[0].sum().item() for x in (ids, other or ids)])
            other = ids
        own, others = np.mean(costs[1:], axis=0)
        print(f"{depth} operations: {own:.1f} nats with the task's own grids, {others:.1f} with another task's", flush=True)


def arc(folder: str, n_tasks: int = 40, n_samples: int = 16) -> None:
    """Neighbours are drawn for the true program with its last operation left out (for the identity, where it has one)."""
    policy = arc_policy(folder)
    print(f"| operations | unique | run | solved, {n_samples} programs | the true program | solved, {n_samples} neighbours |\n"
          "|---|---|---|---|---|---|")
    for depth in (1, 2, 3):
        counts = np.zeros(5)
        for number, (steps, task) in enumerate(synthetic_tasks(depth, n_tasks)):
            def draw(prompt):
                completions = migrate.sample(policy, migrate.encode_prompt(policy, prompt), n_samples, number)
                return {p for c in completions for p in task.parse(policy.tokenizer.decode(c, skip_special_tokens=True))}
            programs, neighbours = draw(task.prompt()), draw(task.variation_prompt([arc_programs.text(steps[:-1])]))
            scores, of_neighbours = dict(task.score(list(programs))), dict(task.score(list(neighbours)))
            counts += (len(programs) / n_samples, sum(s.valid for s in scores.values()) / max(1, len(programs)),
                       any(map(task.solved, scores.values())), arc_programs.text(steps) in programs,
                       any(map(task.solved, of_neighbours.values())))
        print(f"| {depth} | " + " | ".join(f"{c / n_tasks:.0%}" for c in counts) + " |", flush=True)


def main() -> None:
    if sys.argv[1:2] in (["arc"], ["grids"]):
        return (arc if sys.argv[1] == "arc" else grids)(sys.argv[2] if len(sys.argv) > 2 else str(HERE / "arc"))
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
