"""Crossover and mutation of molecules after Graph GA (Jensen 2019): on graphs.

All draws come from the `rng` that is given (random.Random). A function that makes a child returns
it sanitised, or None if it came to nothing. Graph GA, the baseline, breeds with them
(examples/graph_ga.py), and so does the modifier `operator` (methods/operator.py).
"""
from __future__ import annotations

import functools
import itertools
import random
from typing import NamedTuple

from rdkit import Chem
from rdkit.Chem import rdChemReactions

from domains import objectives

MUTATION_RATE = 0.067       # share of the children that are mutated, as in the PMO benchmark
TRIES = 10          # draws of one operator before it is given up
FORBIDDEN = ("[R]=[R]=[R]", "[r3,r4]=[r3,r4]")
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
            child = product(smarts, mol, rng)
            if child is not None:
                return child
    return None


# ------------------------------------------------------------------------ crossover: cut and join

class Part(NamedTuple):
    """A part of a molecule that was cut. It is without aromatic bonds, and not sanitised."""
    mol: Chem.Mol
    ends: tuple[int, ...]       # the atom at each open end; twice the same where it had both bonds
    path: int                   # atoms on the shortest way from the first end to the last


BONDS = {"-": Chem.BondType.SINGLE, "=": Chem.BondType.DOUBLE}


def cross(a: str, b: str, rng):
    """A child of two molecules, by their chains or by their rings."""
    for _ in range(TRIES):
        child = (cross_chains if rng.random() < 0.5 else cross_rings)(a, b, rng)
        if child is not None:
            return child
    return None


def cross_chains(a: str, b: str, rng):
    """A part of a and a part of b, each cut at a bond outside rings, joined by a single bond."""
    first, second = (part_of(smiles, CHAIN_CUT, rng) for smiles in (a, b))
    if not (first and second):
        return None
    return acceptable(joined(first, second, second.ends, "-"), rng)


def cross_rings(a: str, b: str, rng):
    """A part of a and a part of b, each cut at two bonds of a ring, joined to a new ring by two
    bonds: either way round, single and double ones."""
    first, second = (part_of(smiles, rng.choice(RING_CUTS), rng) for smiles in (a, b))
    if not (first and second and 3 <= first.path + second.path <= LARGEST_RING):
        return None
    ways = list(itertools.product((second.ends, second.ends[::-1]), "-=", "-="))
    for ends, *orders in rng.sample(ways, 4):
        child = acceptable(joined(first, second, ends, orders), rng)
        if child is not None:
            return child
    return None


def joined(first: Part, second: Part, ends: tuple[int, ...], orders):
    """Two parts and a bond from each end of the first to one of `ends` of the second."""
    mol, n = Chem.RWMol(first.mol), first.mol.GetNumAtoms()
    mol.InsertMol(second.mol)
    for i, j, order in zip(first.ends, ends, orders):
        mol.AddBond(i, n + j, BONDS[order])
    return mol


def part_of(smiles: str, how: tuple, rng) -> Part | None:
    """One of the two parts of a molecule that is cut somewhere. None if no cut makes two parts."""
    places = places_to_cut(smiles, *how)
    for bonds in rng.sample(places, len(places)):
        parts = halves(smiles, bonds)
        if parts:
            return rng.choice(parts)
    return None


# The same parents are cut again and again: about 15 kB for each cut.

@functools.lru_cache(1024)
def whole(smiles: str) -> tuple:
    """A molecule, and the same without aromatic bonds."""
    mol = Chem.MolFromSmiles(smiles)
    return mol, kekulized(mol)


@functools.lru_cache(1024)
def places_to_cut(smiles: str, smarts: str, bonds: tuple) -> list[tuple[int, ...]]:
    """The bonds of each match of a pattern, one match for the same atoms. bonds: pairs of atoms of
    the pattern."""
    mol = whole(smiles)[0]
    return [tuple(mol.GetBondBetweenAtoms(match[i], match[j]).GetIdx() for i, j in bonds)
            for match in mol.GetSubstructMatches(objectives.pattern(smarts))]


@functools.lru_cache(8192)
def halves(smiles: str, bonds: tuple[int, ...]) -> tuple[Part, ...]:
    """The two parts of a molecule without these bonds, each with one end of each bond; () where
    there are no such parts, as in a salt whose ring stays whole."""
    cut_mol = Chem.FragmentOnBonds(whole(smiles)[1], bonds)
    fragments = Chem.GetMolFrags(cut_mol, asMols=True, sanitizeFrags=False)
    n_ends = [sum(atom.GetAtomicNum() == 0 for atom in part.GetAtoms()) for part in fragments]
    if n_ends != [len(bonds)] * 2:
        return ()
    try:
        return tuple(opened(fragment, len(bonds)) for fragment in fragments)
    except (RuntimeError, ValueError):      # no molecule of its own
        return ()


def opened(fragment, n: int) -> Part:
    """A fragment without the dummy atoms at its n open ends, which are its last atoms."""
    Chem.SanitizeMol(fragment)
    mol = Chem.RWMol(kekulized(fragment))
    dummies = range(mol.GetNumAtoms() - n, mol.GetNumAtoms())
    ends = [mol.GetAtomWithIdx(i).GetNeighbors()[0].GetIdx() for i in dummies]
    path = len(Chem.GetShortestPath(mol, ends[0], ends[-1])) if ends[0] != ends[-1] else 1
    for i in reversed(dummies):
        mol.RemoveAtom(i)
    for i in ends:
        mol.GetAtomWithIdx(i).SetNoImplicit(False)      # hydrogens may come to those in brackets
    return Part(mol.GetMol(), tuple(ends), path)


# ---------------------------------------------------------------------------- reactions, products

def product(smarts: str, mol, rng):
    """One acceptable product of a reaction of one molecule, drawn from the first 200."""
    try:
        found = reaction(smarts).RunReactants([kekulized(mol)], 200)
    except (RuntimeError, ValueError):      # RDKit cannot kekulize all that it has sanitised
        return None
    for outcome in rng.sample(found, min(len(found), 20)):
        child = acceptable(outcome[0], rng)
        if child is not None:
            return child
    return None


@functools.cache
def reaction(smarts: str):
    return rdChemReactions.ReactionFromSmarts(smarts)


def kekulized(mol):
    mol = Chem.Mol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return mol


def acceptable(mol, rng):
    """The molecule, sanitised, if it is one piece of a plausible size, its rings have six atoms at
    most and no two double bonds in a row, and none between atoms of rings of three or four.

    The size limit is drawn anew each time. mol: without aromatic bonds, changed in place.
    """
    if not 5 < mol.GetNumAtoms() < rng.gauss(39.15, 3.5) or len(Chem.GetMolFrags(mol)) > 1:
        return None
    try:
        Chem.SanitizeMol(mol)
    except (RuntimeError, ValueError):
        return None
    if any(len(atoms) > LARGEST_RING for atoms in mol.GetRingInfo().AtomRings()) or any(
            mol.HasSubstructMatch(objectives.pattern(smarts)) for smarts in FORBIDDEN):
        return None
    return mol
