"""Crossover and mutation of molecules: domains/graph_operators.py."""
from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import Descriptors

from domains import graph_operators, objectives


def test_children_of_molecules_are_new_canonical_and_of_good_parents():
    """Catches: a child that is spelled in another way than the candidates are, parents that are
    drawn alike, draws that do not come from rng."""
    best = [objectives.canonical(s) for s in (
        "CC(=O)Nc1ccc(O)cc1", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CN1CCC(CC1)c1ccccc1",
        "COc1ccc(CCN)cc1", "O=C(O)c1ccccc1OC(C)=O")]
    made = graph_operators.children(best, 60, random.Random(0))
    assert made == graph_operators.children(best, 60, random.Random(0))
    assert made != graph_operators.children(best, 60, random.Random(1))
    children = [child for child, _ in made]
    assert len(children) == len(set(children)) == 60 and not set(children) & set(best)
    assert all(objectives.canonical(child) == child for child in children)
    used = Counter(parent for _, parents in made for parent in parents)
    assert set(used) <= set(best) and used[best[0]] > 1.5 * used[best[-1]]
    assert graph_operators.children(best[:1], 5, random.Random(0)) == []
    assert graph_operators.children([], 5, random.Random(0)) == []


def marked(part) -> str:
    """The SMILES of a part, with [1*] at its open ends."""
    mol = Chem.RWMol(part.mol)
    for end in part.ends:
        mol.AddBond(end, mol.AddAtom(Chem.AtomFromSmiles("[1*]")), Chem.BondType.SINGLE)
    Chem.SanitizeMol(mol)
    return Chem.MolToSmiles(mol)


def test_a_ring_is_cut_at_two_bonds_with_one_between_or_at_both_bonds_of_an_atom():
    """The cuts of Graph GA, on ethylcyclohexane. Catches: one of them missing, a cut that leaves
    one piece, as many do that hit two rings; a way between the ends that is not the shortest."""
    def cut(smiles, how):
        return {tuple(sorted((marked(part), part.path) for part in parts))
                for bonds in graph_operators.places_to_cut(smiles, *how)
                if (parts := graph_operators.halves(smiles, bonds))}

    apart, at_an_atom = graph_operators.RING_CUTS
    assert (("[1*]CC([1*])CC", 2), ("[1*]CCCC[1*]", 4)) in cut("CCC1CCCCC1", apart)
    assert cut("CCC1CCCCC1", at_an_atom) == {(("[1*]C([1*])CC", 1), ("[1*]CCCCC[1*]", 5))}
    assert cut("CCC1CCCCC1", graph_operators.CHAIN_CUT) == {
        (("[1*]C", 1), ("[1*]CC1CCCCC1", 1)), (("[1*]C1CCCCC1", 1), ("[1*]CC", 1))}
    assert not cut("CCO", apart) and not cut("c1ccccc1", graph_operators.CHAIN_CUT)
    assert {len(parts) for parts in cut("C1CCC2CCCCC2C1", apart)} == {2}
    assert not cut("CCO.CCO", graph_operators.CHAIN_CUT)        # three pieces
    assert not cut("C1CCC2CCCCC2C1.[Na+]", apart)       # two, but of the ring alone or of none
    assert not cut("C1CCC2CCCCC2C1.OC(=O)C(F)(F)F", at_an_atom)


def test_crossover_joins_a_part_of_each_parent():
    """On parents without a carbon in common. Catches: a bond to a wrong atom, a ring that is not
    closed or too large, hydrogens that stay behind at an open end."""
    chains = {Chem.MolToSmiles(child) for rng in map(random.Random, range(60))
              if (child := graph_operators.cross_chains("NCCCCCC", "O=S(=O)(Cl)Cl", rng))}
    assert {"NCCCCCl", "CCCS(=O)(=O)Cl", "NCS(=O)(=O)Cl"} <= chains
    assert all("Cl" in smiles and "C" in smiles.replace("Cl", "N") for smiles in chains)
    rings = Counter(Chem.MolToSmiles(child) for rng in map(random.Random, range(300))
                    if (child := graph_operators.cross_rings("CC1CCCCC1", "N1NNNNN1F", rng)))
    for smiles in rings:
        mol = Chem.MolFromSmiles(smiles)
        ring = {mol.GetAtomWithIdx(i).GetSymbol() for i in mol.GetRingInfo().AtomRings()[0]}
        assert mol.GetRingInfo().NumRings() == 1 and ring == {"C", "N"}
        assert 3 <= len(mol.GetRingInfo().AtomRings()[0]) <= 6
    assert len(rings) > 20 and {"FN1CCCCC1", "CC1NNNNN1", "CC1CCCN1F", "CC1CNN1F"} <= set(rings)


def test_parts_of_rings_are_joined_either_way_round(monkeypatch):
    monkeypatch.setattr(graph_operators, "part_of", lambda smiles, *_: graph_operators.Part(
        Chem.MolFromSmiles(smiles), (0, 2), 3))
    children = (graph_operators.cross_rings("NCC", "OCS", random.Random(i)) for i in range(40))
    found = {Chem.MolToSmiles(child) for child in children if child}
    assert {"C1CSCON1", "C1COCSN1"} <= found


@pytest.mark.parametrize("smiles, good", [
    ("Cc1ccccc1", True), ("CCCCC", False), ("CCCCCC", True), ("CCCCCC.C", False),
    ("C" * 60, False), ("CC1CCCCCC1", False), ("CCCCC1=CC1", False), ("CCCC1=CCC1", False),
    ("CCC1=C=CCCC1", False), ("CCC1=CCCCC1", True), ("CCC(C)(C)(C)C", False)])
def test_what_is_bred_has_a_plausible_size_and_plausible_rings(smiles, good):
    mol = graph_operators.kekulized(Chem.MolFromSmiles(smiles, sanitize=False))
    kept = graph_operators.acceptable(mol, random.Random(0))
    assert (kept is not None) == good
    assert kept is None or Chem.MolToSmiles(kept) == objectives.canonical(smiles)


@pytest.mark.parametrize("kind, atoms, rings", [
    ("append_atom", 1, 0), ("insert_atom", 1, 0), ("change_order", 0, 0), ("change_element", 0, 0),
    ("delete_atom", -1, 0), ("close_ring", 0, 1), ("open_ring", 0, -1)])
def test_each_kind_of_mutation_does_what_it_says(kind, atoms, rings):
    mol = Chem.MolFromSmiles("CC1CCCCC1CC(=O)CCCO")
    make, products = getattr(graph_operators, kind), []
    for rng in map(random.Random, range(30)):
        smarts = make(mol, rng)
        products.append(smarts and graph_operators.product(smarts, mol, rng))
    products = [product for product in products if product]
    assert len(products) > 5
    assert {p.GetNumAtoms() - mol.GetNumAtoms() for p in products} == {atoms}
    assert {p.GetRingInfo().NumRings() - 1 for p in products} == {rings}
    assert Chem.MolToSmiles(mol) not in map(Chem.MolToSmiles, products)
    assert graph_operators.mutate(mol, random.Random(0)) is not None


def test_one_child_in_fifteen_is_mutated_and_some_come_of_rings():
    """Catches: crossover by chains alone, or by rings alone; a rate that counts nothing."""
    parents, mutated, n, mixed = ("CC1CCCCC1CCO", "FCC1NNNNN1"), 0, 0, 0
    for rng in map(random.Random, range(500)):
        state = rng.getstate()
        child = graph_operators.cross(*parents, rng)
        rng.setstate(state)
        bred = graph_operators.breed(*parents, rng)
        if child is not None:
            n += 1
            mutated += bred is None or Chem.MolToSmiles(child) != Chem.MolToSmiles(bred)
            ring = [atom.GetSymbol() for atom in child.GetAtoms() if atom.IsInRing()]
            mixed += "C" in ring and 0 < ring.count("N") != 5
    assert 0.03 < mutated / n < 0.11 and 0.1 < mixed / n < 0.9


def test_the_size_limit_of_children_varies():
    kept = [graph_operators.acceptable(Chem.MolFromSmiles("C" * 39), random.Random(seed))
            for seed in range(50)]
    assert 10 < sum(mol is not None for mol in kept) < 40


def test_what_rdkit_cannot_kekulize_ends_no_search():
    """With an atom of iron RDKit sanitises rings that it then cannot write without aromatic
    bonds. Catches: its exception."""
    best = [objectives.canonical(s) for s in ("c1ccc2cc3ccccc3cc2c1", "c1ccccc1[Fe]c1ccccc1")]
    for seed in range(12):
        graph_operators.children(best, 20, random.Random(seed))


@given(st.integers(0, 10 ** 6))
def test_children_of_any_molecules_are_molecules(seed):
    """With charges, stereo marks, hydrogens in brackets. Catches: a child that no SMILES says, a
    radical, where a double bond was cut and the hydrogens stayed as they were."""
    rng = random.Random(seed)
    parents = ["C[C@H]([NH3+])C(=O)[O-]", "F/C=C/c1c[nH]c2ccccc12", "CP(=O)(O)OCCS(C)(=O)=O",
               "O=c1[nH]cnc2c1ncn2[C@@H]1CC[C@H](CO)O1", "CC1=[N+](C)CCC1", "CCN1C=[NH+]C=C1",
               "C[N+](C)(C)Cc1ccc([N+](=O)[O-])cc1", "C1CCC2CCCCC2C1.[Na+]"]
    child = graph_operators.cross(*rng.sample(parents, 2), rng)
    if child is not None:
        assert not Descriptors.NumRadicalElectrons(child)
        for mol in (child, graph_operators.mutate(child, rng)):
            assert mol is None or objectives.canonical(Chem.MolToSmiles(mol))
