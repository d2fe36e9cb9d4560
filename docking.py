"""Docks molecules into the 58 proteins of DOCKSTRING (García-Ortegón et al. 2022): AutoDock Vina, for real.

    python docking.py DRD2 "CC(=O)Nc1ccc(O)cc1"         # one molecule, one line of JSON: vina (kcal/mol) and qed

    f = 1 - ((vina + (1 - QED)) + 12) / 10, clipped to [0, 1]

Each molecule is docked by a process of its own, in a session of its own, because what runs there is not ours to trust:
RDKit and Open Babel can hang or crash on what a model wrote, and Vina takes as long as it takes. Such a process is killed
with all that it started when its time is over, when the search ends, and by itself when the search has died.

Needs two packages beyond requirements.txt: pip install dockstring==0.3.4 openbabel-wheel==3.1.1.23
"""
from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

INSTALL = "pip install dockstring==0.3.4 openbabel-wheel==3.1.1.23"
PROTEINS = ("ABL1 ACHE ADAM17 ADORA2A ADRB1 ADRB2 AKT1 AKT2 AR BACE1 CA2 CASP3 CDK2 CSF1R CYP2C9 CYP3A4 DHFR DPP4 DRD2 "
            "DRD3 EGFR ESR1 ESR2 F10 F2 FGFR1 GBA HMGCR HSD11B1 HSP90AA1 IGF1R JAK2 KDR KIT LCK MAOB MAP2K1 MAPK1 "
            "MAPK14 MAPKAPK2 MET MMP13 NOS1 NR3C1 PARP1 PDE5A PGR PLK1 PPARA PPARD PPARG PTGS2 PTK2 PTPN1 REN ROCK1 SRC "
            "THRB").split()
BROKEN = 3      # exit status of a docking that failed for no fault of the molecule


class DockingBroken(Exception):
    """The docking programs are missing or do not work: no molecule is to blame."""


def missing() -> str | None:
    """What is not installed, in words; None if all is there."""
    if importlib.util.find_spec("dockstring") is None:
        return "the package dockstring"
    if shutil.which("obabel", path=program_path()) is None:
        return "Open Babel (openbabel-wheel)"
    return None


def program_path() -> str:
    """PATH with this interpreter's programs first: a virtual environment need not be activated."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def dock_all(protein: str, molecules: list[str], seconds: float, workers: int = 1) -> Iterator[tuple[str, dict]]:
    """Docks SMILES, `workers` at a time; yields (SMILES, result) as they finish, whatever their order.

    A result is {"vina": kcal/mol, "qed": [0, 1]}, or {"reason": why this molecule could not be docked}, that it took
    longer than `seconds` among them. Raises DockingBroken. Leaves no process behind, however it ends.
    """
    waiting, running = list(molecules)[::-1], {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                smiles = waiting.pop()
                process = subprocess.Popen(
                    [sys.executable, __file__, protein, smiles], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, start_new_session=True,
                    env={"PATH": os.environ.get("PATH", ""), "MIGRATE_PARENT": str(os.getpid()), "OMP_NUM_THREADS": "1"})
                running[process] = (smiles, time.monotonic() + seconds)
            time.sleep(0.05)
            for process, (smiles, deadline) in list(running.items()):
                if process.poll() is not None:
                    output = process.stdout.read().decode(errors="replace").strip()
                    del running[process]
                    kill(process)
                    if process.returncode == BROKEN:
                        raise DockingBroken(output.splitlines()[-1][:300] if output else "docking failed without a word")
                    yield smiles, result_of(process.returncode, output)
                elif time.monotonic() > deadline:
                    del running[process]
                    kill(process)
                    yield smiles, {"reason": f"not docked within {seconds:g} s"}
    finally:
        for process in running:
            kill(process)


def result_of(status: int, output: str) -> dict:
    """The child's last line of JSON; a crash (RDKit and Open Babel are C++) is the molecule's own doing."""
    try:
        return json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return {"reason": f"docking ended with status {status}"}


def kill(process: subprocess.Popen) -> None:
    """Ends a docking with all that it started, and closes its pipe."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    process.stdout.close()


# ------------------------------------------------------------------------- in the docking process

def die_with(parent: int) -> None:
    """Kills this session as soon as the search is gone, even by kill -9."""
    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()


def dock(protein: str, smiles: str) -> dict:
    """One docking, here and now. Raises what dockstring raises."""
    # dockstring puts the string into a shell command, and $( ) is valid SMILES: a quadruple bond and a branch
    if not re.fullmatch(r"[A-Za-z0-9@+\-\[\]()=#/\\%.:]+", smiles):
        return {"reason": "a SMILES with characters that no drug needs"}
    import dockstring
    from rdkit import Chem
    from rdkit.Chem import QED
    target = dockstring.load_target(protein)
    try:
        vina, _ = target.dock(smiles, num_cpus=1)
    except dockstring.DockstringError as error:
        return {"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    if vina is None:
        return {"reason": "Vina found no pose"}
    return {"vina": vina, "qed": QED.qed(Chem.MolFromSmiles(smiles))}


def works() -> None:
    """Raises DockingBroken unless the docking programs run at all."""
    try:
        from dockstring.utils import check_obabel_install, get_vina_path
        check_obabel_install()
        done = subprocess.run([get_vina_path(), "--version"], capture_output=True, text=True)
        if done.returncode:
            raise DockingBroken(f"Vina does not run: {done.stdout}{done.stderr}")
    except DockingBroken:
        raise
    except Exception as error:
        raise DockingBroken(f"{type(error).__name__}: {error}") from error


def main() -> int:
    protein, smiles = sys.argv[1:]
    os.environ["PATH"] = program_path()
    if "MIGRATE_PARENT" in os.environ:
        die_with(int(os.environ["MIGRATE_PARENT"]))
    try:
        works()
        print(json.dumps(dock(protein, smiles)))
        return 0
    except (DockingBroken, ImportError, OSError) as error:
        print(" ".join(str(error).split()))
        return BROKEN


if __name__ == "__main__":
    sys.exit(main())
