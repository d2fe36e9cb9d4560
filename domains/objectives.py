"""What a molecule is worth: the objectives of GuacaMol and PMO that need RDKit alone.

Every objective is a function of an RDKit molecule with values in [0, 1], and a row of OBJECTIVES
together with the words that tell a language model what is asked for. These words never name a
molecule that is the answer.

Definitions: GuacaMol (Brown et al. 2019), as the PMO benchmark runs them (Gao et al. 2022). PMO has
three more, DRD2, GSK3B and JNK3, which need trained models. data/pmo_reference.csv holds the values
of an independent implementation; the tests compare with them.
"""
from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rdkit import Chem, DataStructs, RDLogger
from rdkit.Chem import QED, Crippen, GraphDescriptors, rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D

from runlog.errors import one_line

# A search proposes thousands of broken SMILES, and RDKit would print a line for each.
RDLogger.DisableLog("rdApp.*")

MAX_LENGTH = 300            # characters of a SMILES. No answer to an objective has half as many,
MAX_HEAVY_ATOMS = 80        # and none has half as many heavy atoms.


def canonical(text: str) -> str | None:
    """The canonical SMILES of a molecule; canonical(canonical(text)) == canonical(text).

    None for a text that is no molecule. None too for a molecule over the limits above: the
    pharmacophore fingerprint of a hundred atoms takes seconds. Never raises.
    """
    try:
        for _ in range(3):      # a canonical SMILES rarely reads back as another one: repeat
            smiles = canonical_once(text)
            if smiles is None or smiles == text:
                return smiles
            text = smiles
        return None
    except (RuntimeError, ValueError):      # RDKit's own failures
        return None


def canonical_once(text: str) -> str | None:
    """The SMILES that RDKit writes for a molecule; None for no molecule, or a too large one. The
    numbers of an atom map are taken away: a molecule with them is no other molecule."""
    if not 0 < len(text) <= MAX_LENGTH or re.search(r"\s", text):
        return None
    mol = Chem.MolFromSmiles(text)
    if mol is None or not 1 <= mol.GetNumHeavyAtoms() <= MAX_HEAVY_ATOMS:
        return None
    smiles = Chem.MolToSmiles(mol)
    if "*" in smiles:           # any atom
        return None
    if ":" in smiles:           # an atom map
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
        smiles = Chem.MolToSmiles(mol)
    return smiles


# ----------------------------------------------------------------------------------- fingerprints

_generators = {
    "ECFP4": rdFingerprintGenerator.GetMorganGenerator(radius=2),
    "ECFP6": rdFingerprintGenerator.GetMorganGenerator(radius=3),
    "FCFP4": rdFingerprintGenerator.GetMorganGenerator(
        radius=2, atomInvariantsGenerator=rdFingerprintGenerator.GetMorganFeatureAtomInvGen()),
    "AP": rdFingerprintGenerator.GetAtomPairGenerator(maxDistance=10),
}


def fingerprint(mol, kind: str):
    """A fingerprint of a molecule. kind: ECFP4, ECFP6, FCFP4 or AP for sparse counts, PHCO for the
    2D pharmacophore fingerprint of Gobbi and Poppinger."""
    if kind == "PHCO":
        return Generate.Gen2DFingerprint(mol, Gobbi_Pharm2D.factory)
    return _generators[kind].GetSparseCountFingerprint(mol)


@functools.cache
def reference_fingerprint(smiles: str, kind: str):
    """The fingerprint of a reference molecule."""
    return fingerprint(Chem.MolFromSmiles(smiles), kind)


def similarity(mol, reference: str, kind: str) -> float:
    """Tanimoto similarity of the fingerprints of mol and of a reference molecule (SMILES)."""
    return DataStructs.TanimotoSimilarity(fingerprint(mol, kind),
                                          reference_fingerprint(reference, kind))


# ------------------------------------------------------- from a property to [0, 1], and the means

def near(x: float, mu: float, sigma: float) -> float:
    """1 at mu, and less on both sides, as a Gaussian."""
    return math.exp(-0.5 * ((x - mu) / sigma) ** 2)


def at_most(x: float, mu: float, sigma: float) -> float:
    """1 up to mu, and less above it, as half a Gaussian."""
    return near(max(x, mu), mu, sigma)


def at_least(x: float, mu: float, sigma: float) -> float:
    """1 from mu on, and less below it, as half a Gaussian."""
    return near(min(x, mu), mu, sigma)


def ramp(x: float, top: float) -> float:
    """x / top, clipped to [0, 1]."""
    return min(max(x / top, 0.0), 1.0)


def mean(*values: float) -> float:
    return sum(values) / len(values)


def geometric_mean(*values: float) -> float:
    return math.prod(values) ** (1 / len(values))


# ------------------------------------------------------------------------------------- properties

log_p = Crippen.MolLogP
tpsa = rdMolDescriptors.CalcTPSA                            # polar surface in square angstrom
bertz = GraphDescriptors.BertzCT                            # complexity
rings = rdMolDescriptors.CalcNumRings
aromatic_rings = rdMolDescriptors.CalcNumAromaticRings


@functools.cache
def properties(smiles: str) -> tuple[float, float, float]:
    """(log P, polar surface in square angstrom, Bertz complexity) of a reference molecule."""
    mol = Chem.MolFromSmiles(smiles)
    return log_p(mol), tpsa(mol), bertz(mol)


@functools.cache
def pattern(smarts: str):
    """A SMARTS pattern, parsed once."""
    return Chem.MolFromSmarts(smarts)


def has(mol, smarts: str) -> bool:
    """Whether a molecule contains a SMARTS pattern."""
    return mol.HasSubstructMatch(pattern(smarts))


def symbols(mol) -> list[str]:
    """The elements of the atoms that mol holds explicitly."""
    return [atom.GetSymbol() for atom in mol.GetAtoms()]


def isomer(mol, formula: str) -> float:
    """How near a molecule's formula is to another one, in [0, 1].

    The geometric mean over the counts of the formula's elements (sigma 1) and the count of all
    atoms (sigma 2), hydrogens included.
    """
    counts = {element: int(n or 1) for element, n in re.findall(r"([A-Z][a-z]?)(\d*)", formula)}
    atoms = symbols(Chem.AddHs(mol))
    elements = [near(atoms.count(element), n, 1) for element, n in counts.items()]
    return geometric_mean(*elements, near(len(atoms), sum(counts.values()), 2))


# ------------------------------------------------------------ reference molecules and patterns

# The molecules that the objectives compare with (SMILES).
ALBUTEROL = "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1"
AMLODIPINE = r"Clc1ccccc1C2C(=C(/N/C(=C2/C(=O)OCC)COCCN)C)\C(=O)OC"
CAMPHOR = "CC1(C)C2CCC1(C)C(=O)C2"
CELECOXIB = "CC1=CC=C(C=C1)C1=CC(=NN1C1=CC=C(C=C1)S(N)(=O)=O)C(F)(F)F"
FEXOFENADINE = "CC(C)(C(=O)O)c1ccc(cc1)C(O)CCCN2CCC(CC2)C(O)(c3ccccc3)c4ccccc4"
KINASE_INHIBITOR = "CCCOc1cc2ncnc(Nc3ccc4ncsc4c3)c2cc1S(=O)(=O)C(C)(C)C"
MENTHOL = "CC(C)C1CCC(C)CC1O"
MESTRANOL = "COc1ccc2[C@H]3CC[C@@]4(C)[C@@H](CC[C@@]4(O)C#C)[C@@H]3CCc2c1"
OSIMERTINIB = "COc1cc(N(C)CCN(C)C)c(NC(=O)C=C)cc1Nc2nccc(n2)c3cn(C)c4ccccc34"
PERINDOPRIL = "O=C(OCC)C(NC(C(=O)N1C(C(=O)O)CC2CCCCC12)C)CCC"
RANOLAZINE = "COc1ccccc1OCC(O)CN2CCN(CC(=O)Nc3c(C)cccc3C)CC2"
SILDENAFIL = "CCCC1=NN(C2=C1N=C(NC2=O)C3=C(C=CC(=C3)S(=O)(=O)N4CCN(CC4)C)OCC)C"
SITAGLIPTIN = "Fc1cc(c(F)cc1F)CC(N)CC(=O)N3Cc2nnc(n2CC3)C(F)(F)F"
TADALAFIL = "O=C1N(CC(N2C1CC3=C(C2C4=CC5=C(OCO5)C=C4)NC6=C3C=CC=C6)=O)C"
THIOTHIXENE = "CN(C)S(=O)(=O)c1ccc2Sc3ccccc3C(=CCCN4CCN(C)CC4)c2c1"
TROGLITAZONE = "Cc1c(C)c2OC(C)(COc3ccc(CC4SC(=O)NC4=O)cc3)CCc2c(C)c1O"
ZALEPLON = "O=C(C)N(CC)C1=CC=CC(C2=CC=NC3=C(C=NN23)C#N)=C1"

# Patterns (SMARTS): the scaffold of deco_hop and scaffold_hop, its decorations, and valsartan's.
QUINAZOLINE = "[#7]-c1n[c;h1]nc2[c;h1]c(-[#8])[c;h0][c;h1]c12"
BENZOTHIAZOLE = "[#7]-c1ccc2ncsc2c1"
SULFONE = "CS([#6])(=O)=O"
PROPOXY_TO_BENZOTHIAZOLE = "[#6]-[#6]-[#6]-[#8]-[#6]~[#6]~[#6]~[#6]~[#6]-[#7]-c1ccc2ncsc2c1"
BIPHENYL_AMIDE = "CN(C=O)Cc1ccc(c2ccccc2)cc1"


# ------------------------------------------------------------------------------------- objectives

class Objective(NamedTuple):
    score: Callable     # RDKit molecule -> [0, 1]
    words: str          # what is asked for, as the bundled policy reads it: "a molecule ..."
    rewards: str        # what the score is, for real models: "the score is ..."


OBJECTIVES: dict[str, Objective] = {}


def objective(words: str, rewards: str):
    """A decorator: enters a function of an RDKit molecule into OBJECTIVES, under its name.

    Where one known molecule is the answer, rewards does not even say of which kind it is. A large
    model knows most drugs by such a description."""
    def enter(function: Callable) -> Callable:
        OBJECTIVES[function.__name__] = Objective(function, words, rewards)
        return function
    return enter


def scores(name: str, molecules: list[str]) -> Iterator[tuple[str, float | None, dict]]:
    """Yields (SMILES, value, {}) for each molecule; (SMILES, None, {"reason": ..}) for one of which
    RDKit cannot compute a property. Rounding can put a value outside of [0, 1]."""
    for smiles in molecules:
        try:
            yield smiles, OBJECTIVES[name].score(Chem.MolFromSmiles(smiles)), {}
        except (RuntimeError, ValueError) as error:
            yield smiles, None, {"reason": one_line(error)}


HIDDEN_DRUG = "the Tanimoto similarity (ECFP4) to a hidden drug; only this drug itself scores 1"


@objective("that is as drug-like as can be",
           "QED, the quantitative estimate of drug-likeness, which joins molecular weight, log P, "
           "polar surface, hydrogen bond donors and acceptors, rotatable bonds, aromatic rings and "
           "structural alerts")
def qed(mol) -> float:
    return QED.qed(mol)


@objective("with the pharmacophores of a small phenylethanolamine bronchodilator",
           "the Tanimoto similarity (FCFP4 fingerprints, which see pharmacophores) to a hidden "
           "molecule, in full from 0.75 on")
def albuterol_similarity(mol) -> float:
    return ramp(similarity(mol, ALBUTEROL, "FCFP4"), 0.75)


@objective("similar to a dihydropyridine calcium channel blocker, with three rings",
           "the geometric mean of two parts: the Tanimoto similarity (ECFP4) to a dihydropyridine "
           "calcium channel blocker; and the number of rings, of which three are best")
def amlodipine_mpo(mol) -> float:
    return geometric_mean(similarity(mol, AMLODIPINE, "ECFP4"), near(rings(mol), 3, 0.5))


@objective("that is a known selective COX-2 inhibitor of the coxib family", HIDDEN_DRUG)
def celecoxib_rediscovery(mol) -> float:
    return similarity(mol, CELECOXIB, "ECFP4")


@objective("that keeps a 4-aminoquinazoline scaffold of a kinase inhibitor, without a sulfone and "
           "without a benzothiazole",
           "the mean of four parts of equal weight: the pharmacophore similarity to a kinase "
           "inhibitor, in full from 0.85 on; whether the molecule has no sulfone; whether it has "
           "no benzothiazole; and whether it keeps the inhibitor's scaffold, a 4-aminoquinazoline "
           "with an oxygen at position 7 and a substituent at position 6")
def deco_hop(mol) -> float:
    return mean(ramp(similarity(mol, KINASE_INHIBITOR, "PHCO"), 0.85),
                1.0 - has(mol, SULFONE),
                1.0 - has(mol, BENZOTHIAZOLE),
                float(has(mol, QUINAZOLINE)))


@objective("similar to a second-generation antihistamine, with a polar surface above 90 and log P "
           "below 4",
           "the geometric mean of three parts: a polar surface of 90 or more; log P of 4 or less; "
           "and the similarity of its atom pairs to a second-generation antihistamine, in full "
           "from 0.8 on")
def fexofenadine_mpo(mol) -> float:
    return geometric_mean(at_least(tpsa(mol), 90, 10),
                          at_most(log_p(mol), 4, 1),
                          ramp(similarity(mol, FEXOFENADINE, "AP"), 0.8))


@objective("with the formula C7H8N2O2",
           "how near its formula is to C7H8N2O2: the geometric mean of five parts, one for the "
           "count of each element and one for the count of all atoms, each best if it is exact")
def isomers_c7h8n2o2(mol) -> float:
    return isomer(mol, "C7H8N2O2")


@objective("with the formula C9H10N2O2PF2Cl",
           "how near its formula is to C9H10N2O2PF2Cl: the geometric mean of eight parts, one for "
           "the count of each element and one for the count of all atoms, each best if it is exact")
def isomers_c9h10n2o2pf2cl(mol) -> float:
    return isomer(mol, "C9H10N2O2PF2Cl")


@objective("halfway between a bicyclic terpene ketone and a monocyclic terpene alcohol",
           "the geometric mean of two Tanimoto similarities (ECFP4): to a bicyclic terpene ketone, "
           "and to a monocyclic terpene alcohol")
def median1(mol) -> float:
    return geometric_mean(similarity(mol, CAMPHOR, "ECFP4"), similarity(mol, MENTHOL, "ECFP4"))


@objective("halfway between two PDE5 inhibitors of different scaffolds",
           "the geometric mean of two Tanimoto similarities (ECFP6), to two PDE5 inhibitors of "
           "different scaffolds")
def median2(mol) -> float:
    return geometric_mean(similarity(mol, TADALAFIL, "ECFP6"),
                          similarity(mol, SILDENAFIL, "ECFP6"))


@objective("similar to a steroidal estrogen with an ethynyl group",
           "the Tanimoto similarity of its atom pairs to those of a hidden molecule, in full from "
           "0.75 on")
def mestranol_similarity(mol) -> float:
    return ramp(similarity(mol, MESTRANOL, "AP"), 0.75)


@objective("similar to a third-generation EGFR inhibitor, with a polar surface above 100 and log P "
           "below 1",
           "the geometric mean of four parts: a polar surface of 100 or more; log P of 1 or less; "
           "the similarity (FCFP4) to a third-generation EGFR inhibitor, in full from 0.8 on; and "
           "not being that inhibitor (an ECFP6 similarity to it of 0.85 or less)")
def osimertinib_mpo(mol) -> float:
    return geometric_mean(at_least(tpsa(mol), 100, 10),
                          at_most(log_p(mol), 1, 1),
                          ramp(similarity(mol, OSIMERTINIB, "FCFP4"), 0.8),
                          at_most(similarity(mol, OSIMERTINIB, "ECFP6"), 0.85, 0.1))


@objective("similar to an ACE inhibitor with a perhydroindole, but with two aromatic rings",
           "the geometric mean of two parts: the Tanimoto similarity (ECFP4) to an ACE inhibitor "
           "with a perhydroindole; and the number of aromatic rings, of which two are best")
def perindopril_mpo(mol) -> float:
    return geometric_mean(similarity(mol, PERINDOPRIL, "ECFP4"),
                          near(aromatic_rings(mol), 2, 0.5))


@objective("similar to a piperazine antianginal, with a polar surface above 95, log P above 7 and "
           "one fluorine",
           "the geometric mean of four parts: a polar surface of 95 or more; log P of 7 or more; "
           "the similarity of its atom pairs to a piperazine antianginal, in full from 0.7 on; and "
           "the number of fluorine atoms, of which one is best")
def ranolazine_mpo(mol) -> float:
    return geometric_mean(at_least(tpsa(mol), 95, 20),
                          at_least(log_p(mol), 7, 1),
                          ramp(similarity(mol, RANOLAZINE, "AP"), 0.7),
                          near(symbols(mol).count("F"), 1, 1))


@objective("that keeps the propoxy and benzothiazole decorations of a kinase inhibitor on another "
           "scaffold than quinazoline",
           "the mean of three parts of equal weight: the pharmacophore similarity to a kinase "
           "inhibitor, in full from 0.75 on; whether the molecule keeps the inhibitor's "
           "decorations, a propoxy group and an aminobenzothiazole, five carbon atoms apart; and "
           "whether it has no 4-aminoquinazoline scaffold")
def scaffold_hop(mol) -> float:
    return mean(ramp(similarity(mol, KINASE_INHIBITOR, "PHCO"), 0.75),
                float(has(mol, PROPOXY_TO_BENZOTHIAZOLE)),
                1.0 - has(mol, QUINAZOLINE))


@objective("with the formula C16H15F6N5O, log P near 2 and polar surface near 77, unlike any known "
           "gliptin",
           "the geometric mean of four parts: being unlike a gliptin (an ECFP4 similarity near 0); "
           "log P near 2.02; a polar surface near 77; and how near its formula is to C16H15F6N5O")
def sitagliptin_mpo(mol) -> float:
    target_log_p, target_tpsa, _ = properties(SITAGLIPTIN)
    return geometric_mean(near(similarity(mol, SITAGLIPTIN, "ECFP4"), 0, 0.1),
                          near(log_p(mol), target_log_p, 0.2),
                          near(tpsa(mol), target_tpsa, 5),
                          isomer(mol, "C16H15F6N5O"))


@objective("that is a known thioxanthene antipsychotic with a sulfonamide", HIDDEN_DRUG)
def thiothixene_rediscovery(mol) -> float:
    return similarity(mol, THIOTHIXENE, "ECFP4")


@objective("that is a known thiazolidinedione antidiabetic with a chroman", HIDDEN_DRUG)
def troglitazone_rediscovery(mol) -> float:
    return similarity(mol, TROGLITAZONE, "ECFP4")


@objective("with an N-(biphenylmethyl)formamide pattern, log P near 2 and polar surface near 77",
           "the geometric mean of four parts: whether the molecule has an amide whose nitrogen "
           "carries an alkyl group and a biphenyl-4-ylmethyl group; a polar surface near 77; log P "
           "near 2.02; and a Bertz complexity near 896")
def valsartan_smarts(mol) -> float:
    target_log_p, target_tpsa, target_bertz = properties(SITAGLIPTIN)
    return geometric_mean(float(has(mol, BIPHENYL_AMIDE)),
                          near(tpsa(mol), target_tpsa, 5),
                          near(log_p(mol), target_log_p, 0.2),
                          near(bertz(mol), target_bertz, 30))


@objective("similar to a pyrazolopyrimidine hypnotic, with the formula C19H17N3O2",
           "the geometric mean of two parts: the Tanimoto similarity (ECFP4) to a "
           "pyrazolopyrimidine hypnotic; and how near its formula is to C19H17N3O2")
def zaleplon_mpo(mol) -> float:
    return geometric_mean(similarity(mol, ZALEPLON, "ECFP4"), isomer(mol, "C19H17N3O2"))
