"""Prompts for molecules. The goal is said by how the score is computed, never by the name or the
SMILES of a molecule that is the answer. No example has a high score by accident (a test holds them
to it).

The examples are alike on purpose: short, with one ring at the end. A small model copies their form.
With examples as varied as those of a database, SmolLM2-135M writes almost no valid SMILES.
"""
from __future__ import annotations

import json

from domains import docking
from domains.prompts import Parents, Prompt, turns
from runlog.errors import UserError

SHOTS = """
    CNC(=O)CNC(=O)c1ccccc1      CC(=O)NCCNC(=O)c1ccncc1     c1ccccc1CNC(=O)c1ccncc1
    CCNC(=O)CC(=O)Nc1ccccc1     NC(=O)CCNC(=O)c1ccncc1      OCC(=O)NCC1CCCCC1
    CC(O)CNC(=O)C(=O)Nc1ccccc1  CC(C)C(=O)NCC(=O)Nc1ccncc1  c1ccccc1NC(=O)CNc1ccccc1
    CCOC(=O)CNC(=O)c1ccccc1     CN(C)C(=O)CC1CCNCC1         OCCNC(=O)CNC(=O)c1ccccc1
    CC(N)C(=O)NCC(=O)Nc1ccccc1  c1ccncc1CC(=O)NCc1ccccc1    N#CCC(=O)NCC(=O)Nc1ccccc1
    CCC(=O)NCC(=O)NCc1ccccc1""".split()
# (molecule, its score, the molecule after one change). The scores here and below are invented.
PAIRS = (("CCC(=O)NCC(=O)Nc1ccccc1", 0.31, "CCC(=O)NCC(=O)Nc1ccncc1"),
         ("CNC(=O)CCNC(=O)c1ccccc1", 0.42, "CCNC(=O)CCNC(=O)c1ccccc1"),
         ("OCCNC(=O)CC(=O)Nc1ccncc1", 0.27, "NCCNC(=O)CC(=O)Nc1ccncc1"),
         ("CC(C)C(=O)NCCNC(=O)c1ccccc1", 0.38, "CC(O)C(=O)NCCNC(=O)c1ccccc1"),
         ("COCC(=O)NCCc1ccncc1", 0.50, "CCOCC(=O)NCCc1ccncc1"),
         ("NCC(=O)NCc1ccccc1", 0.44, "c1ccccc1NCC(=O)NCc1ccccc1"),
         ("NC(=O)CNC(=O)c1ccncc1", 0.35, "CNC(=O)CNC(=O)c1ccncc1"),
         ("CCOC(=O)CCNc1ccccc1", 0.22, "CCNC(=O)CCNc1ccccc1"),
         ("N#CCNC(=O)Cc1ccccc1", 0.48, "OCCNC(=O)Cc1ccccc1"),
         ("CSCC(=O)NCc1ccncc1", 0.29, "CSCC(=O)NCC1CCCCC1"),
         ("OCC(=O)NCC(=O)Nc1ccccc1", 0.40, "OCC(=O)NCCC(=O)Nc1ccccc1"),
         ("CC(C)NC(=O)COc1ccccc1", 0.33, "CC(C)NC(=O)CNc1ccccc1"))
# (molecules with their scores, worst to best; a better one)
RANKED = (
    ((("CCc1ccccc1", 0.12), ("CCC(=O)Nc1ccccc1", 0.30), ("NCC(=O)NCc1ccccc1", 0.41)),
     "NCC(=O)NCC(=O)Nc1ccccc1"),
    ((("CCCc1ccncc1", 0.20), ("CC(O)CNC(=O)c1ccncc1", 0.33), ("OCCNC(=O)CNc1ccncc1", 0.52)),
     "OCCNC(=O)CNC(=O)c1ccncc1"),
    ((("CCOCc1ccccc1", 0.08), ("COCC(=O)Nc1ccccc1", 0.25), ("CC(C)C(=O)NCc1ccccc1", 0.29)),
     "CC(C)C(=O)NCC(=O)Nc1ccccc1"),
    ((("CCNc1ccncc1", 0.17), ("CCNC(=O)Cc1ccncc1", 0.36), ("CC(N)C(=O)NCc1ccncc1", 0.47)),
     "CC(N)C(=O)NCCNC(=O)c1ccncc1"))


def goal(target: str, objectives: dict) -> tuple[str, str]:
    """What is asked for: as the bundled policy reads it, and what the score is, for real models.

    target: a name in objectives, or a protein. Raises UserError."""
    if target in objectives:
        return objectives[target].words, objectives[target].rewards
    if target not in docking.PROTEINS:
        raise UserError(f"unknown target {target!r}; an objective ({', '.join(objectives)}) or a "
                        f"protein ({', '.join(docking.PROTEINS)})")
    if docking.missing():
        raise UserError(f"docking needs {docking.missing()}: {docking.INSTALL}")
    return (f"that binds strongly to the protein {target} and is drug-like",
            "1 - (vina + (1 - QED) + 12) / 10, cut to this range. vina is the energy in kcal/mol "
            f"with which AutoDock Vina docks the molecule into the protein {target}: the lower, "
            "which is the more negative, the better. QED is drug-likeness from 0 to 1: the higher, "
            "the better. One kcal/mol weighs as much as all of QED")


def molecule(style: str, words: str, rewards: str, parents: Parents) -> Prompt:
    """A request for a molecule: a change of the parent, or a better one than the parents, if there
    are any. words: the goal as the bundled policy reads it. rewards: what the score is."""
    if style == "bundled":
        return bundled_molecule(words, parents)
    score = f"The score lies between 0 and 1, and higher is better. It is {rewards}."
    if style == "instruct":
        system = ("You are a medicinal chemist who looks for the molecule with the highest score. "
                  f"{score} Answer with one valid SMILES string, as JSON: "
                  f"{write_molecule(style, '...')}, and nothing else.")
        return turns(system, [], full_request(parents))
    system = f"Answer with one molecule, as a SMILES string. {score}"
    shots = [(short_request(known), answer) for known, answer in molecule_shots(len(parents))]
    return turns(system, shots, short_request(parents))


def bundled_molecule(words: str, parents: Parents) -> str:
    """The wording that tiny/molecule was trained on."""
    return f"Propose a molecule {words}. {bundled_hint(parents)}Answer with one SMILES string."


def bundled_hint(parents: Parents) -> str:
    """What to do with the parents, in that wording."""
    known = [smiles for smiles, _ in parents]
    if len(known) == 1:
        return f"Make it a variation of: {known[0]} "
    if known:
        return f"Learn from these, the last the best: {' '.join(known)} "
    return ""


def molecule_shots(n_parents: int) -> list[tuple[Parents, str]]:
    """Examples of the same kind as a request with so many parents: (parents, answer)."""
    if n_parents > 1:
        return [(list(ranked), better) for ranked, better in RANKED]
    if n_parents == 1:
        return [([(smiles, score)], changed) for smiles, score, changed in PAIRS]
    return [([], smiles) for smiles in SHOTS]


def short_request(parents: Parents) -> str:
    """A request in a few words, as often as there are examples."""
    if not parents:
        return "A molecule:"
    if len(parents) == 1:
        [(smiles, score)] = parents
        return f"{smiles} scores {score:.2f}. One change that keeps it valid, for a higher score:"
    return f"{ranked_list(parents)}\nA molecule with a higher score:"


def full_request(parents: Parents) -> str:
    """A request in sentences."""
    if not parents:
        return "Propose a molecule."
    if len(parents) == 1:
        [(smiles, score)] = parents
        return (f"This molecule scores {score:.2f}: {smiles}\nMake one change to it, of an atom, a "
                "group or a ring, so that it stays a valid molecule and scores higher.")
    return (f"Molecules and their scores, from worst to best:\n{ranked_list(parents)}\n"
            "Learn from them, and propose a new molecule that scores higher than all of them.")


def ranked_list(parents: Parents) -> str:
    return "\n".join(f"{score:.2f} {smiles}" for smiles, score in parents)


def write_molecule(style: str, smiles: str) -> str:
    """An answer in the form that a style asks for."""
    return json.dumps({"smiles": smiles}) if style == "instruct" else smiles
