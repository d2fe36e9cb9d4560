"""Measures a bundled policy for its card.

    python tiny/quality.py [FOLDER]                                 # tiny/wordsearch
    python tiny/quality.py molecule [FOLDER [NEIGHBOURS_TXT]]
    python tiny/quality.py arc [FOLDER]
"""
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


def molecule(folder: str, prepared: str = "") -> None:
    """prepared: the neighbours.txt of pre-training, whose first column is the list; without it novelty is left out."""
    from rdkit import Chem
    import objectives
    task = tasks.Molecule()
    policy = migrate.load_policy(migrate.resolve({"task": "molecule", "preset": "tiny"}, task), folder)
    samples = draw(policy, task, task.prompt(), 2000)
    valid = [s for s in samples if s]
    parents = list(dict.fromkeys(valid))[:200]
    neighbours = [(p, s) for i, p in enumerate(parents) for s in draw(policy, task, task.variation_prompt([p]), 10, i)]
    answers = [(p, s) for p, s in neighbours if s]
    others = [(p, s) for p, s in answers if p != s]

    def similarity(pairs):
        return np.mean([objectives.similarity(Chem.MolFromSmiles(a), b, "ECFP4") for a, b in pairs])

    print("| measure | value |\n|---|---|")
    print(f"| task prompt (2,000 samples): valid | {len(valid) / len(samples):.1%} |")
    print(f"| unique among the valid ones | {len(set(valid)) / len(valid):.1%} |")
    if prepared:
        known = {line.split()[0] for line in open(prepared)}
        print(f"| not in the list among the unique ones | {np.mean([s not in known for s in set(valid)]):.1%} |")
    print(f"| neighbour prompt ({len(parents)} parents, 10 each): valid | {len(answers) / len(neighbours):.1%} |")
    print(f"| different from the parent | {len(others) / len(answers):.1%} |")
    print(f"| different neighbours of a parent, of 10 | {len(set(others)) / len(parents):.1f} |")
    print(f"| mean Tanimoto similarity (ECFP4 counts) of neighbour and parent | {similarity(others):.2f} |")
    print(f"| of random pairs | {similarity(zip(parents, parents[1:])):.2f} |")


def draw(policy, task, prompt: str, n: int, seed: int = 0) -> list[str | None]:
    """The candidates of n samples; None for what is none."""
    completions = migrate.sample(policy, migrate.encode_prompt(policy, prompt), n, seed)
    found = [task.parse(policy.tokenizer.decode(c, skip_special_tokens=True)) for c in completions]
    return [f[0] if f else None for f in found]


def arc(folder: str, n_tasks: int = 40, n_samples: int = 16) -> None:
    """Synthetic tasks of a seed that the policy was not trained on, three pairs to see and one to answer. Neighbours: of the
    true program with its last operation left out (of the identity, where it has one). Nats: what the true program costs under
    the task's own grids and under those of the task before (both shares and nats are means over tasks)."""
    print(f"| operations | unique | run | solved, {n_samples} programs | the true program | solved, {n_samples} neighbours "
          "| nats, own grids | another task's |\n|---|---|---|---|---|---|---|---|")
    for depth in (1, 2, 3):
        rng, counts, costs, before = np.random.default_rng([999, depth]), np.zeros(5), [], None
        for number in range(n_tasks):
            steps, pairs = arc_programs.random_task(rng, depth, n_pairs=4)
            pairs = [{"input": a.tolist(), "output": b.tolist()} for a, b in pairs]
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump({"train": pairs[:3], "test": pairs[3:]}, file)
                file.flush()
                task = tasks.Arc(arc_file=file.name)
            if number == 0:
                policy = migrate.load_policy(migrate.resolve({"task": "arc", "preset": "tiny"}, task), folder)
            task.fits = lambda text: migrate.fits(policy, text)

            def draw(prompt):
                completions = migrate.sample(policy, migrate.encode_prompt(policy, prompt), n_samples, number)
                return {p for c in completions for p in task.parse(policy.tokenizer.decode(c, skip_special_tokens=True))}
            programs, neighbours = draw(task.prompt()), draw(task.variation_prompt([arc_programs.text(steps[:-1])]))
            scores, of_neighbours = dict(task.score(list(programs))), dict(task.score(list(neighbours)))
            counts += (len(programs) / n_samples, sum(s.valid for s in scores.values()) / max(1, len(programs)),
                       any(map(task.solved, scores.values())), arc_programs.text(steps) in programs,
                       any(map(task.solved, of_neighbours.values())))
            own, true = migrate.encode_prompt(policy, task.prompt()), migrate.render_tokens(policy, task, arc_programs.text(steps))
            if before:
                costs.append([nats(policy, prompt, true) for prompt in (own, before)])
            before = own
        print(f"| {depth} | " + " | ".join(f"{c / n_tasks:.0%}" for c in counts) + " | "
              + " | ".join(f"{c:.1f}" for c in np.mean(costs, axis=0)) + " |", flush=True)


def nats(policy, prompt_ids: list[int], completion: list[int]) -> float:
    """- log pi(completion | prompt), its EOS included."""
    with torch.no_grad():
        return sum(-(logprobs * mask).sum().item()
                   for _, logprobs, _, mask in migrate.token_logprobs(policy, prompt_ids, [completion]))


def main() -> None:
    if sys.argv[1:2] == ["molecule"]:
        return molecule(sys.argv[2] if len(sys.argv) > 2 else str(HERE / "molecule"), *sys.argv[3:])
    if sys.argv[1:2] == ["arc"]:
        return arc(sys.argv[2] if len(sys.argv) > 2 else str(HERE / "arc"))
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
