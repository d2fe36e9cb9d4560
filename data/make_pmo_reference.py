"""Makes data/pmo_reference.csv: the PMO objectives by an independent implementation, for the tests.

    python -m data.make_pmo_reference ORACLE.py ZINC.smi.gz

ORACLE.py: tdc/chem_utils/oracle/oracle.py of PyTDC 1.1.15 (MIT licence). The project never imports
it. Its two package-relative imports serve objectives that are not used here and are left out.

ZINC.smi.gz: the list that tiny/pretrain_molecules.py learns from. The file holds 200 molecules
spread over this list, the objectives' own reference molecules, and a few oddities.
"""
from __future__ import annotations

import argparse
import csv
import gzip
import types
import warnings
from pathlib import Path

from domains import objectives

HERE = Path(__file__).resolve().parent
ODD = [
    "C", "CCO", "[Na+].[Cl-]", "OO", "c1ccccc1", "CC(=O)[O-].[NH4+]", "[2H]C([2H])([2H])O",
    "FC(F)(F)F", "O=S(=O)(O)O", "CN(C=O)Cc1ccc(-c2ccccc2)cc1", "COc1ccc(N)c2ncncc12",
    "NC1=NC=NC2=CC(OC)=C(C)C=C12", "C[Si](C)(C)C", "N#N", "CC(C)(C)NC[C@H](O)c1ccc(O)c(CO)c1",
    "O=C(O)C[C@H](N)C(=O)O", "CNC1=NC=CC(=O)N1", "ClP(F)(F)=O", "Cc1ccccc1[N+](=O)[O-]",
    "CCCCC(=O)N(Cc1ccc(-c2ccccc2-c2nnn[nH]2)cc1)C(C(=O)O)C(C)C",
    "O=CN(CC(=O)NCCO)Cc1ccc(-c2ccc(F)c(F)c2)cc1",
    "NC(=O)CN(C=O)Cc1ccc(-c2cc(F)c(F)c(O)c2F)cc1",
    "CN(C(=O)CC(N)=O)Cc1ccc(-c2c(F)cc(O)c(F)c2F)cc1",
    "NCC(O)CN(C(=O)C(F)(F)F)Cc1ccc(-c2cc(F)c(N)c(F)c2)cc1"]


def oracle_functions(path: Path) -> dict:
    """{name of an objective: its function in PyTDC's file}."""
    warnings.filterwarnings("ignore")
    source = path.read_text()
    for old, new in (("from ...utils import", "# from ...utils import"),
                     ("import networkx as nx", "pass"),
                     ("from rdkit.six import iteritems", "pass"),
                     ('pkg_resources.get_distribution("scikit-learn").version', '"1.0"'),
                     ("import pkg_resources", "")):
        source = source.replace(old, new)
    functions = {}
    for name in objectives.OBJECTIVES:
        # A module for each, because the two hops overwrite each other's global patterns.
        module = types.ModuleType("oracle")
        exec(compile(source, str(path), "exec"), module.__dict__)
        functions[name] = getattr(module, name)
    return functions


def reference_molecules() -> list[str]:
    """The molecules that the objectives compare with: their module's constants in SMILES, without
    the patterns."""
    return [value for name, value in vars(objectives).items()
            if name.isupper() and isinstance(value, str)
            and "#6" not in value and "#7" not in value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracle", type=Path, help="ORACLE.py")
    parser.add_argument("molecules", type=Path, help="ZINC.smi.gz")
    args = parser.parse_args()
    oracle = oracle_functions(args.oracle)
    with gzip.open(args.molecules, "rt") as file:
        listed = file.read().split()
    spread = listed[::len(listed) // 200][:200]
    molecules = list(dict.fromkeys(spread + reference_molecules() + ODD))
    with open(HERE / "pmo_reference.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", *oracle])
        for smiles in molecules:
            values = [f"{float(function(smiles)):.9g}" for function in oracle.values()]
            writer.writerow([smiles, *values])
    print(len(molecules), "molecules")


if __name__ == "__main__":
    main()
