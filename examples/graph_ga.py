"""Graph GA (Jensen 2019): molecules bred by crossover and mutation of their graphs, without any model. A yardstick.

    python examples/graph_ga.py --target perindopril_mpo --seed 42 --out runs/graph-ga

What a chemist would run instead. Settings of the PMO benchmark: a population of 120, 70 children a generation, parents
drawn in proportion to their scores, 6.7% of the children mutated, the best 120 of all survive. The first generation is
drawn from the bundled policy, so that it begins where the searches begin; --data FILE draws it from a list of SMILES
instead, as the benchmark does. Runs are laid out as the searches' own: report.py reads them.
"""
import argparse
import gzip
import json
import random
import sys
import time
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import rdChemReactions

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import migrate  # noqa: E402
import objectives  # noqa: E402
import tasks  # noqa: E402

POPULATION, CHILDREN, MUTATION_RATE = 120, 70, 0.067
TRIES = 1000        # children that a generation tries to make before it is content with fewer

NEW_ATOMS = {"-": "C N O F S Cl Br".split(), "=": "C N O".split(), "#": "C N".split()}
INSERTED = {"-": "C N O S".split(), "=": "C N".split(), "#": ["C"]}
ELEMENTS = {6: 0.15, 7: 0.15, 8: 0.14, 9: 0.14, 16: 0.14, 17: 0.14, 35: 0.14}
ORDERS = {"-": 0.60, "=": 0.35, "#": 0.05}


def pick(rng: random.Random, weights: dict):
    return rng.choices(list(weights), list(weights.values()))[0]


# ------------------------------------------------------------------------------- mutations: reaction SMARTS

def append_atom(mol, rng):
    order = pick(rng, ORDERS)
    site = {"-": "[*;!H0:1]", "=": "[*;!H0;!H1:1]", "#": "[*;H3:1]"}[order]
    return f"{site}>>[*:1]{order}{rng.choice(NEW_ATOMS[order])}"


def insert_atom(mol, rng):
    order = pick(rng, ORDERS)
    site = {"-": "[*:1]", "=": "[*;!H0:1]", "#": "[*;!R;!H1;!H0:1]"}[order]
    return f"{site}~[*:2]>>[*:1]{order}{rng.choice(INSERTED[order])}-[*:2]"


def change_order(mol, rng):
    return pick(rng, {"[*:1]!-[*:2]>>[*:1]-[*:2]": 0.45, "[*;!H0:1]-[*;!H0:2]>>[*:1]=[*:2]": 0.45,
                      "[*:1]#[*:2]>>[*:1]=[*:2]": 0.05, "[*;!R;!H1;!H0:1]~[*;!R;!H1;!H0:2]>>[*:1]#[*:2]": 0.05})


def change_element(mol, rng):
    present = {atom.GetAtomicNum() for atom in mol.GetAtoms()} & set(ELEMENTS)
    if not present:
        return None
    old = rng.choice(sorted(present))
    return f"[#{old}:1]>>[#{pick(rng, {new: p for new, p in ELEMENTS.items() if new != old})}:1]"


def delete_atom(mol, rng):
    return pick(rng, {"[*:1]~[D1]>>[*:1]": 0.25, "[*:1]~[D2]~[*:2]>>[*:1]-[*:2]": 0.25,
                      "[*:1]~[D3](~[*;!H0:2])~[*:3]>>[*:1]-[*:2]-[*:3]": 0.25,
                      "[*:1]~[D4](~[*;!H0:2])(~[*;!H0:3])~[*:4]>>[*:1]-[*:2]-[*:3]-[*:4]": 0.25})


def close_ring(mol, rng):
    """A bond between two atoms outside rings that makes a ring of 3, 4, 5 or 6."""
    between = int(pick(rng, {1: 0.05, 2: 0.05, 3: 0.45, 4: 0.45}))
    inner = "".join(f"~[*;!r:{i}]" for i in range(2, between + 2))
    last = between + 2
    kept = "".join(f"~[*:{i}]" for i in range(2, last))
    return f"[*;!r;!H0:1]{inner}~[*;!r;!H0:{last}]>>[*:1]1{kept}~[*:{last}]1"


def open_ring(mol, rng):
    return "[*:1]@[*:2]>>([*:1].[*:2])" if mol.GetRingInfo().NumRings() else None


MUTATIONS = [append_atom, insert_atom, change_order, change_element, delete_atom, close_ring, open_ring]


def mutate(mol, rng):
    """A product of one of the seven kinds of reaction, or None."""
    for _ in range(10):
        smarts = rng.choice(MUTATIONS)(mol, rng)
        if smarts and (child := product(smarts, (mol,), rng)) is not None:
            return child
    return None


def product(smarts, reactants, rng, ring=False):
    """One acceptable product of a reaction, drawn from all of them; None if there is none."""
    products = [p[0] for p in reaction(smarts).RunReactants([kekulized(r) for r in reactants], 200)]
    rng.shuffle(products)
    return next(filter(None, (acceptable(p, rng, ring) for p in products[:20])), None)


def reaction(smarts, _known={}):
    if smarts not in _known:
        _known[smarts] = rdChemReactions.ReactionFromSmarts(smarts)
    return _known[smarts]


def kekulized(mol):
    mol = Chem.Mol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return mol


# --------------------------------------------------------------------------------- crossover: cut and join

def cross_chains(a, b, rng):
    """A part of a and a part of b, each cut at a bond outside rings, joined by a single bond."""
    halves = [cut(mol, "[*]-;!@[*]", [(0, 1)], rng) for mol in (a, b)]
    if None in halves:
        return None
    return product("[*:1]-[1*].[1*]-[*:2]>>[*:1]-[*:2]", [rng.choice(h) for h in halves], rng)


def cross_rings(a, b, rng):
    """A part of a and a part of b, each cut at two bonds of a ring, joined to a new ring: two bonds in turn."""
    halves = [cut(mol, rng.choice(["[R]@[R]@[R]@[R]", "[R;!D2]@[R;D2]@[R;D2]@[R;!D2]"]), [(0, 1), (2, 3)], rng)
              for mol in (a, b)]
    if None in halves:
        return None
    joined = reaction("[*:1]~[1*].[1*]~[*:2]>>[*:1]-[*:2]").RunReactants([kekulized(rng.choice(h)) for h in halves], 20)
    for one, *_ in rng.sample(joined, min(len(joined), 4)):
        order = rng.choice("-=")
        try:
            Chem.SanitizeMol(one)
            if (child := product(f"([*:1]~[1*].[1*]~[*:2])>>[*:1]{order}[*:2]", [one], rng, ring=True)) is not None:
                return child
        except (RuntimeError, ValueError):
            pass
    return None


def cut(mol, smarts, bonds, rng):
    """The two parts of mol after cutting the given bonds of one match, with [1*] at every open end; None if it does not
    fall into two."""
    matches = mol.GetSubstructMatches(objectives.pattern(smarts))
    if not matches:
        return None
    match = rng.choice(matches)
    found = [mol.GetBondBetweenAtoms(match[i], match[j]) for i, j in bonds]
    opened = Chem.FragmentOnBonds(kekulized(mol), [bond.GetIdx() for bond in found], dummyLabels=[(1, 1)] * len(bonds))
    parts = Chem.GetMolFrags(opened, asMols=True, sanitizeFrags=False)
    try:
        for part in parts:
            Chem.SanitizeMol(part)
    except (RuntimeError, ValueError):
        return None
    return parts if len(parts) == 2 else None


def acceptable(mol, rng, ring=False):
    """The sanitised molecule if it is one piece of a plausible size, with rings of at most six atoms that hold no two
    double bonds in a row, and with no double bond in a ring of three or four; else None."""
    try:
        Chem.SanitizeMol(mol)
        mol = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
    except (RuntimeError, ValueError):
        return None
    if mol is None or len(Chem.GetMolFrags(mol)) > 1 or not 5 < mol.GetNumAtoms() < rng.gauss(39.15, 3.5):
        return None
    if any(len(r) > 6 for r in mol.GetRingInfo().AtomRings()) or (ring and not mol.GetRingInfo().NumRings()):
        return None
    forbidden = ("[R]=[R]=[R]", "[r3,r4]=[r3,r4]", "[1*]")
    return None if any(mol.HasSubstructMatch(objectives.pattern(s)) for s in forbidden) else mol


def cross(a, b, rng):
    for _ in range(10):
        child = (cross_chains if rng.random() < 0.5 else cross_rings)(a, b, rng)
        if child is not None:
            return child
    return None


# ------------------------------------------------------------------------------------------------- search

def breed(scores: dict[str, float], rng: random.Random) -> list[str]:
    """Up to CHILDREN new candidates from the best POPULATION of {candidate: score}."""
    population = sorted(scores, key=scores.get, reverse=True)[:POPULATION]
    weights = [scores[c] + 1e-10 for c in population]
    molecules, children = {c: Chem.MolFromSmiles(c) for c in population}, {}
    for _ in range(TRIES):
        child = cross(*(molecules[c] for c in rng.choices(population, weights, k=2)), rng)
        if child is not None and rng.random() < MUTATION_RATE:
            child = mutate(child, rng)
        if child is not None and (smiles := Chem.MolToSmiles(child)) not in scores:
            children[smiles] = None
        if len(children) == CHILDREN:
            break
    return list(children)


def search(target: str, seed: int, budget: int, start: list[str]) -> tuple[dict, list[dict]]:
    """Breeds until `budget` molecules are scored; returns the summary and the lines of evals.jsonl."""
    task, rng, began = tasks.Molecule(target=target), random.Random(f"{target} {seed}"), time.time()
    scores, lines, generation, children = {}, [], 0, start
    while children and len(scores) < budget:
        generation += 1
        wanted = list(dict.fromkeys(c for c in map(task.canonical, children) if c and c not in scores))
        for candidate, score in task.score(wanted[:budget - len(scores)]):
            scores[candidate] = score.value
            lines.append({"index": len(lines), "step": generation, "proposal": len(scores), "candidate": candidate,
                          "score": score.value, "valid": score.valid})
        children = breed(scores, rng)
    best, n = max(scores, key=scores.get), len(scores)
    return {"task": "molecule", "target": target, "method": "graph-ga", "seed": seed, "preset": "graph-ga",
            "best_score": scores[best], "best": best, "solved": scores[best] >= 1, "evaluations": n, "proposals": n,
            "repeats": 0, "invalid": 0, "steps": generation, "seconds": round(time.time() - began, 1),
            "warm_start": 0}, lines


def first_generation(seed: int, data: Path | None) -> list[str]:
    if data:
        with (gzip.open if data.suffix == ".gz" else open)(data, "rt") as file:
            return random.Random(f"start {seed}").sample([line.split()[0] for line in file], POPULATION)
    task = tasks.Molecule()
    config = migrate.resolve({"seed": seed}, task)
    policy = migrate.load_policy(config, migrate.model_source(config, task))
    completions = migrate.sample(policy, migrate.encode_prompt(policy, task.prompt()), 2 * POPULATION, seed)
    found = [c for tokens in completions for c in task.parse(policy.tokenizer.decode(tokens, skip_special_tokens=True))]
    return list(dict.fromkeys(found))[:POPULATION]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--data", type=Path, help="list of SMILES to draw the first generation from")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    summary, lines = search(args.target, args.seed, args.budget, first_generation(args.seed, args.data))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (args.out / "config.json").write_text(json.dumps({"config": {"budget": args.budget}, "command": argv}))
    (args.out / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main(sys.argv[1:])
