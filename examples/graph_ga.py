"""Graph GA (Jensen 2019): molecules bred by crossover and mutation of their graphs. A baseline.

    python -m examples.graph_ga --target perindopril_mpo --seed 42 --out runs/graph-ga

What a chemist would run instead of a language model. Settings of the PMO benchmark: a population of
120, 70 children a generation, parents drawn in proportion to their scores, 6.7% of the children
mutated, the best 120 of all survive. The first generation is drawn from the bundled policy, so that
it begins where the searches begin. With --data FILE it is drawn from a list of SMILES instead, as
in the benchmark.
"""
from __future__ import annotations

import gzip
import random
import sys
import zlib
from pathlib import Path

from rdkit import Chem

import migrate
import tasks
from domains.graph_operators import breed
from examples import baseline
from runlog.errors import UserError, exit_code, one_line
from tiny.quality import sample_candidates

ROOT = Path(__file__).resolve().parent.parent
POPULATION, CHILDREN = 120, 70
TRIES = 1000        # children that a generation tries to make before it is content with fewer


def next_generation(scores: dict[str, float], rng: random.Random) -> list[str]:
    """Up to CHILDREN new candidates from the best POPULATION of {candidate: score}."""
    population = sorted(scores, key=scores.get, reverse=True)[:POPULATION]
    weights = [scores[c] + 1e-10 for c in population]
    children = {}
    for _ in range(TRIES):
        mother, father = rng.choices(population, weights, k=2)
        child = breed(mother, father, rng)
        if child is None:
            continue
        smiles = Chem.MolToSmiles(child)
        if smiles not in scores:
            children[smiles] = None
        if len(children) == CHILDREN:
            break
    return list(children)


def first_generation(seed: int, data: Path | None) -> list[str]:
    """POPULATION molecules of the bundled policy, or of a list of SMILES (one a line, perhaps
    gzipped)."""
    if data:
        try:
            with (gzip.open if data.suffix == ".gz" else open)(data, "rt") as file:
                listed = [line.split()[0] for line in file if line.strip()]
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise UserError(f"{data} cannot be read: {one_line(error)}") from error
        if len(listed) < POPULATION:
            raise UserError(f"{data} holds {len(listed)} SMILES, and {POPULATION} are needed")
        return random.Random(f"start {seed}").sample(listed, POPULATION)
    task = tasks.Molecule()
    policy = migrate.load_policy(migrate.resolve({"task": "molecule", "seed": seed}, task),
                                 str(ROOT / "tiny" / "molecule"))
    drawn = sample_candidates(policy, task, task.prompt(), 2 * POPULATION, seed)
    return list(dict.fromkeys(smiles for smiles in drawn if smiles))[:POPULATION]


def proposer(task: tasks.Molecule, seed: int, start) -> baseline.Propose:
    """The `propose` of a search: start() for the first generation, then children of the best."""
    rng = random.Random(f"{task.target} {seed}")

    def propose(scores: dict[str, float]) -> list[str]:
        children = next_generation(scores, rng) if scores else start()
        return [smiles for smiles in map(task.canonical, children) if smiles]

    return propose


def main(argv: list[str]) -> None:
    parser = baseline.flags(__doc__, "examples.graph_ga")
    parser.add_argument("--data", type=Path,
                        help="list of SMILES to draw the first generation from")
    args = parser.parse_args(argv)
    task = tasks.Molecule(target=args.target)
    settings = baseline.Settings("molecule", "graph-ga", "graph-ga", args.seed, budget=args.budget,
                                 after_solved=None)
    propose = proposer(task, args.seed, lambda: first_generation(args.seed, args.data))
    baseline.run(task, settings, propose, args.out, "examples.graph_ga", argv)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
