"""Crossover and mutation of molecules after Graph GA (Jensen 2019): on graphs, by reactions.

All draws come from the `rng` that is given (random.Random). A function that makes a molecule
returns it sanitised, or None if it came to nothing. Graph GA, the baseline, breeds with them
(examples/graph_ga.py), and so does the modifier `operator` (methods/operator.py).
"""
from __future__ import annotations

import functools
import random

from rdkit import Chem
from rdkit.Chem import rdChemReactions

from domains import objectives

MUTATION_RATE = 0.067       # share of the children that are mutated, as in the PMO benchmark
TRIES = 10          # draws of one operator before it is given up
FORBIDDEN = ("[R]=[R]=[R]", "[r3,r4]=[r3,r4]", "[1*]")
LARGEST_RING = 6

# where a molecule is cut: a pattern of atoms, and the bonds between them that are cut
CHAIN_CUT = ("[*]-;!@[*]", ((0, 1),))
RING_CUTS = [("[R]@[R]@[R]@[R]", ((0, 1), (2, 3))),     # one bond between them
             ("[R]@[R;!D2]@[R]", ((0, 1), (1, 2)))]     # both bonds of an atom: it leaves the ring

NEW_ATOMS = {"-": "C N O F S Cl Br".split(), "=": "C N O".split(), "#": "C N".split()}
INSERTED = {"-": "C N O S".split(), "=": "C N".split(), "#": ["C"]}
ELEMENTS = {6: 0.15, 7: 0.15, 8: 0.14, 9: 0.14, 16: 0.14, 17: 0.14, 35: 0.14}
ORDERS = {"-": 0.60, "=": 0.35, "#": 0.05}


def pick(rng: random.Random, weights: dict):
    return rng.choices(list(weights), list(weights.values()))[0]


def children(best: list[str], n: int, rng) -> list[tuple[str, list[str]]]:
    """Up to n new molecules with their two parents: SMILES, as objectives.canonical spells them.

    best: SMILES, the best first. A parent of rank i, from 0, is drawn with the weight 1 / (1 + i).
    """
    weights, known, made = [1 / (1 + i) for i in range(len(best))], set(best), {}
    for _ in range(TRIES * n if len(best) > 1 else 0):
        parents = rng.choices(best, weights, k=2)
        child = breed(*parents, rng)
        smiles = child and objectives.canonical(Chem.MolToSmiles(child))
        if smiles and smiles not in known:
            made.setdefault(smiles, parents)
        if len(made) == n:
            break
    return list(made.items())


def breed(mother: str, father: str, rng):
    """A child of two molecules (SMILES), and MUTATION_RATE of the children mutated."""
    child = cross(mother, father, rng)
    if child is not None and rng.random() < MUTATION_RATE:
        child = mutate(child, rng)
    return child


# ------------------------------------------------------------------- mutations, as reaction SMARTS

def append_atom(mol, rng):
    order = pick(rng, ORDERS)
    site = {"-": "[*;!H0:1]", "=": "[*;!H0;!H1:1]", "#": "[*;H3:1]"}[order]
    return f"{site}>>[*:1]{order}{rng.choice(NEW_ATOMS[order])}"


def insert_atom(mol, rng):
    order = pick(rng, ORDERS)
    site = {"-": "[*:1]", "=": "[*;!H0:1]", "#": "[*;!R;!H1;!H0:1]"}[order]
    return f"{site}~[*:2]>>[*:1]{order}{rng.choice(INSERTED[order])}-[*:2]"


def change_order(mol, rng):
    return pick(rng, {"[*:1]!-[*:2]>>[*:1]-[*:2]": 0.45,
                      "[*;!H0:1]-[*;!H0:2]>>[*:1]=[*:2]": 0.45,
                      "[*:1]#[*:2]>>[*:1]=[*:2]": 0.05,
                      "[*;!R;!H1;!H0:1]~[*;!R;!H1;!H0:2]>>[*:1]#[*:2]": 0.05})


def change_element(mol, rng):
    present = {atom.GetAtomicNum() for atom in mol.GetAtoms()} & set(ELEMENTS)
    if not present:
        return None
    old = rng.choice(sorted(present))
    others = {element: weight for element, weight in ELEMENTS.items() if element != old}
    return f"[#{old}:1]>>[#{pick(rng, others)}:1]"


def delete_atom(mol, rng):
    return pick(rng, {"[*:1]~[D1]>>[*:1]": 0.25,
                      "[*:1]~[D2]~[*:2]>>[*:1]-[*:2]": 0.25,
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


MUTATIONS = [append_atom, insert_atom, change_order, change_element, delete_atom, close_ring,
             open_ring]


def mutate(mol, rng):
    """A product of one of the seven kinds of reaction."""
    for _ in range(TRIES):
        smarts = rng.choice(MUTATIONS)(mol, rng)
        if smarts:
            child = product(smarts, [kekulized(mol)], rng)
            if child is not None:
                return child
    return None


# ------------------------------------------------------------------------ crossover: cut and join

def cross(a: str, b: str, rng):
    """A child of two molecules, by their chains or by their rings."""
    for _ in range(TRIES):
        child = (cross_chains if rng.random() < 0.5 else cross_rings)(a, b, rng)
        if child is not None:
            return child
    return None


def cross_chains(a: str, b: str, rng):
    """A part of a and a part of b, each cut at a bond outside rings, joined by a single bond."""
    cuts = [halves(smiles, *CHAIN_CUT) for smiles in (a, b)]
    if not all(cuts):
        return None
    parts = [rng.choice(rng.choice(found)) for found in cuts]
    return product("[*:1]-[1*].[1*]-[*:2]>>[*:1]-[*:2]", parts, rng)


def cross_rings(a: str, b: str, rng):
    """A part of a and a part of b, each cut at two bonds of a ring, joined to a new ring by two
    bonds, one after the other."""
    cuts = [halves(smiles, *rng.choice(RING_CUTS)) for smiles in (a, b)]
    if not all(cuts):
        return None
    parts = [rng.choice(rng.choice(found)) for found in cuts]
    joined = products(f"[*:1]~[1*].[1*]~[*:2]>>[*:1]{rng.choice('-=')}[*:2]", parts)
    for one in rng.sample(joined, min(len(joined), 4)):
        order = rng.choice("-=")
        try:
            Chem.SanitizeMol(one)
            child = product(f"([*:1]~[1*].[1*]~[*:2])>>[*:1]{order}[*:2]", [kekulized(one)],
                            rng, ring=True)
        except (RuntimeError, ValueError):
            continue
        if child is not None:
            return child
    return None


@functools.lru_cache(768)       # the same parents are cut again and again; 300 kB for each
def halves(smiles: str, smarts: str, bonds: tuple) -> list[tuple]:
    """All that a molecule can be cut into by its matches of a pattern: two parts each, with [1*] at
    every open end. Empty if no cut makes two parts."""
    mol, found = Chem.MolFromSmiles(smiles), []
    whole = kekulized(mol)
    for match in mol.GetSubstructMatches(objectives.pattern(smarts)):
        cut = [mol.GetBondBetweenAtoms(match[i], match[j]).GetIdx() for i, j in bonds]
        opened = Chem.FragmentOnBonds(whole, cut, dummyLabels=[(1, 1)] * len(cut))
        parts = Chem.GetMolFrags(opened, asMols=True, sanitizeFrags=False)
        if len(parts) != 2:
            continue
        try:
            for part in parts:
                Chem.SanitizeMol(part)
        except (RuntimeError, ValueError):
            continue
        found.append(tuple(map(kekulized, parts)))
    return found


# ---------------------------------------------------------------------------- reactions, products

def product(smarts: str, reactants, rng, ring: bool = False):
    """One acceptable product of a reaction, drawn from all of them. ring: it must have a ring."""
    found = products(smarts, reactants)
    for candidate in rng.sample(found, min(len(found), 20)):
        mol = acceptable(candidate, rng, ring)
        if mol is not None:
            return mol
    return None


def products(smarts: str, reactants) -> list:
    """The first products of a reaction, unsanitised. reactants: without aromatic bonds."""
    return [outcome[0] for outcome in reaction(smarts).RunReactants(reactants, 200)]


@functools.cache
def reaction(smarts: str):
    return rdChemReactions.ReactionFromSmarts(smarts)


def kekulized(mol):
    mol = Chem.Mol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return mol


def acceptable(mol, rng, ring: bool = False):
    """The sanitised molecule if it is one piece of a plausible size, its rings have six atoms at
    most and no two double bonds in a row, and no ring of three or four has a double bond.

    ring: it must have a ring. The size limit is drawn anew each time.
    """
    if not 5 < mol.GetNumAtoms() < rng.gauss(39.15, 3.5) or len(Chem.GetMolFrags(mol)) > 1:
        return None
    try:
        Chem.SanitizeMol(mol)
        rings = mol.GetRingInfo().AtomRings()
        if any(len(atoms) > LARGEST_RING for atoms in rings) or (ring and not rings):
            return None
        mol = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
    except (RuntimeError, ValueError):
        return None
    if mol is None or any(
            mol.HasSubstructMatch(objectives.pattern(smarts)) for smarts in FORBIDDEN):
        return None
    return mol
