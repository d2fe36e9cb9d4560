"""Measures a bundled policy for its card: one table, in Markdown.

    python -m tiny.quality [wordsearch [FOLDER]]
    python -m tiny.quality molecule [FOLDER] [--list NEIGHBOURS_TXT]
    python -m tiny.quality arc [FOLDER]
"""
from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import migrate
import tasks
from domains.words import word_vectors
from runlog.ledger import ON_POLICY
from runlog.slow import engine, torch
from tiny import arc_programs

HERE = Path(__file__).resolve().parent


def load(task: tasks.Task, folder: Path, **settings):
    """The policy with fresh LoRA weights, which change nothing: the base model."""
    given = {"task": task.name, "preset": "tiny", **settings}
    return migrate.load_policy(migrate.resolve(given, task), str(folder))


def sample_candidates(policy, task: tasks.Task, prompt: str, n: int, seed: int) -> list:
    """The first candidate of each of n completions; None where there is none."""
    ask = migrate.Ask(engine.chat.encode(policy, prompt), n, ON_POLICY, [])
    [completions] = migrate.sample(policy, [(ask.prompt_ids, n)], seed)
    return [migrate.parse_rows(policy, task, tokens, ask)[0].candidate for tokens in completions]


def print_table(rows: Iterable[tuple[str, str]]) -> None:
    print("| measure | value |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


# ------------------------------------------------------------------------------------- word search

def wordsearch(folder: Path, listed: Path | None) -> None:
    """1,000 samples of the task prompt, ten neighbours each of 100 words of the vocabulary."""
    task, (number, table) = tasks.WordSearch(), word_vectors()
    policy = load(task, folder, max_new_tokens=4)

    def draw_words(prompt, n, seed=0):
        drawn = sample_candidates(policy, task, prompt, n, seed)
        return [word if word in number else None for word in drawn]

    def similarity(pairs):
        return float(np.mean([table[number[a]] @ table[number[b]] for a, b in pairs]))

    words = draw_words(task.prompt(), 1000)
    known = [word for word in words if word]
    parents = random.Random(0).sample(sorted(number), 100)
    neighbours = [(parent, word) for i, parent in enumerate(parents)
                  for word in draw_words(task.variation_prompt([parent]), 10, i)]
    valid = [(parent, word) for parent, word in neighbours if word]
    others = [(parent, word) for parent, word in valid if parent != word]
    chance = [(word, random.Random(i).choice(known)) for i, word in enumerate(known)]
    print_table([
        ("task prompt: samples in the vocabulary", f"{len(known) / len(words):.1%}"),
        ("task prompt: distinct words in 1,000 samples", f"{len(set(known))}"),
        ("neighbour prompt (100 parents, 10 each): in the vocabulary",
         f"{len(valid) / len(neighbours):.1%}"),
        ("neighbour prompt: different from the parent", f"{len(others) / len(valid):.1%}"),
        ("mean cosine of neighbour and parent, by the word vectors", f"{similarity(others):.3f}"),
        ("mean cosine of random pairs", f"{similarity(chance):.3f}")])


# --------------------------------------------------------------------------------------- molecules

def molecule(folder: Path, listed: Path | None) -> None:
    """2,000 samples of the task prompt, ten neighbours each of 200 of them.

    listed: the neighbours.txt of pre-training, whose first column is the list that was learned.
    Without it the novelty is left out.
    """
    from rdkit import Chem

    from domains import objectives
    task = tasks.Molecule()
    draw = functools.partial(sample_candidates, load(task, folder), task)
    samples = draw(task.prompt(), 2000, 0)
    valid = [smiles for smiles in samples if smiles]
    parents = list(dict.fromkeys(valid))[:200]
    neighbours = [(parent, smiles) for i, parent in enumerate(parents)
                  for smiles in draw(task.variation_prompt([parent]), 10, i)]
    answers = [(parent, smiles) for parent, smiles in neighbours if smiles]
    others = [(parent, smiles) for parent, smiles in answers if parent != smiles]

    def similarity(pairs):
        return np.mean([objectives.similarity(Chem.MolFromSmiles(a), b, "ECFP4")
                        for a, b in pairs])

    rows = [("task prompt (2,000 samples): valid", f"{len(valid) / len(samples):.1%}"),
            ("unique among the valid ones", f"{len(set(valid)) / len(valid):.1%}")]
    if listed:
        known = {line.split()[0] for line in listed.read_text().splitlines()}
        novel = np.mean([smiles not in known for smiles in set(valid)])
        rows.append(("not in the list among the unique ones", f"{novel:.1%}"))
    rows += [(f"neighbour prompt ({len(parents)} parents, 10 each): valid",
              f"{len(answers) / len(neighbours):.1%}"),
             ("different from the parent", f"{len(others) / len(answers):.1%}"),
             ("different neighbours of a parent, of 10", f"{len(set(others)) / len(parents):.1f}"),
             ("mean Tanimoto similarity (ECFP4 counts) of neighbour and parent",
              f"{similarity(others):.2f}"),
             ("of random pairs", f"{similarity(zip(parents, parents[1:])):.2f}")]
    print_table(rows)


# --------------------------------------------------------------------------------------------- ARC

def arc(folder: Path, listed: Path | None, n_tasks: int = 40, n_samples: int = 16) -> None:
    """Synthetic tasks of a seed that the policy was not trained on: three pairs to see and one to
    answer. One line for each number of operations; shares and nats are means over tasks."""
    policy = load(tasks.Arc(), folder)
    print(f"| operations | unique | run | solved, {n_samples} programs | the true program "
          f"| solved, {n_samples} neighbours | nats, own grids | another task's |\n"
          "|---|---|---|---|---|---|---|---|")
    for depth in (1, 2, 3):
        shares, costs = arc_line(policy, depth, n_tasks, n_samples)
        cells = [f"{share:.0%}" for share in shares] + [f"{cost:.1f}" for cost in costs]
        print(f"| {depth} | {' | '.join(cells)} |", flush=True)


def arc_line(policy, depth: int, n_tasks: int, n_samples: int):
    """The columns "unique" to "neighbours" as shares, and the two costs in nats: of the true
    program under the task's own grids, and under those of the task before."""
    rng, shares, costs, before = np.random.default_rng([999, depth]), [], [], None
    for number in range(n_tasks):
        steps, pairs = arc_programs.random_task(rng, depth, n_pairs=4)
        task = synthetic_task(policy, pairs)
        shares.append(arc_shares(policy, task, steps, n_samples, seed=number))
        own = engine.chat.encode(policy, task.prompt())
        true_program = migrate.render(policy, task, arc_programs.text(steps))
        if before:
            costs.append([nats(policy, prompt, true_program) for prompt in (own, before)])
        before = own
    return np.mean(shares, axis=0), np.mean(costs, axis=0)


def synthetic_task(policy, pairs: list) -> tasks.Arc:
    """The last pair is the test."""
    lines = [{"input": a.tolist(), "output": b.tolist()} for a, b in pairs]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.json"
        file.write_text(json.dumps({"train": lines[:-1], "test": lines[-1:]}))
        task = tasks.Arc(arc_file=str(file))
    task.fits = functools.partial(engine.chat.fits, policy)
    return task


def arc_shares(policy, task: tasks.Arc, steps: list, n_samples: int, seed: int) -> tuple:
    """Unique programs, those that run, whether one solves the task, whether one is the true one;
    and whether a neighbour solves it. The parent of the neighbours is the true program without its
    last operation; of a program of one operation that is the identity."""
    true_program, parent = arc_programs.text(steps), arc_programs.text(steps[:-1])
    drawn = [sample_candidates(policy, task, prompt, n_samples, seed)
             for prompt in (task.prompt(), task.variation_prompt([parent]))]
    programs, neighbours = (set(filter(None, candidates)) for candidates in drawn)
    scores, neighbour_scores = (dict(task.score(list(chosen))) for chosen in (programs, neighbours))
    n_running = sum(score.valid for score in scores.values())
    return (len(programs) / n_samples, n_running / max(1, len(programs)),
            any(map(task.solved, scores.values())), true_program in programs,
            any(map(task.solved, neighbour_scores.values())))


def nats(policy, prompt_ids: list[int], completion: list[int]) -> float:
    """- log pi(completion | prompt), its EOS included."""
    with torch.no_grad():
        return sum(-(logprobs * mask).sum().item() for _, logprobs, _, mask
                   in migrate.token_logprobs(policy, prompt_ids, [completion]))


DOMAINS = {"wordsearch": wordsearch, "molecule": molecule, "arc": arc}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", nargs="?", choices=list(DOMAINS), default="wordsearch")
    parser.add_argument("folder", nargs="?", type=Path, help="default: the bundled policy")
    parser.add_argument("--list", type=Path, metavar="NEIGHBOURS_TXT",
                        help="molecule: the file that pre-training left, for the novelty")
    args = parser.parse_args(argv)
    DOMAINS[args.domain](args.folder or HERE / args.domain, args.list)


if __name__ == "__main__":
    main(sys.argv[1:])
