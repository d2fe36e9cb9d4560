"""Docks molecules into the 58 proteins of DOCKSTRING with AutoDock Vina.

    python -m domains.docking DRD2 "CC(=O)Nc1ccc(O)cc1"

docks one molecule and prints one line of JSON: vina (kcal/mol) and qed. The score of a molecule is
that of the paper:

    f = 1 - ((vina + (1 - QED)) + 12) / 10, clipped to [0, 1]

In DOCKSTRING's own benchmark (García-Ortegón et al. 2022) 1 - QED weighs ten times as much.

Each molecule is docked by a process of its own, which runs this file. Three things can go wrong
there: RDKit and Open Babel can hang or crash on what a model wrote, and Vina can take very long.
The process is killed, with all processes that it started, when its time is over and when the search
ends. It kills itself when the search has died.

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
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

INSTALL = "pip install dockstring==0.3.4 openbabel-wheel==3.1.1.23"
PROTEINS = (
    "ABL1 ACHE ADAM17 ADORA2A ADRB1 ADRB2 AKT1 AKT2 AR BACE1 CA2 CASP3 CDK2 CSF1R CYP2C9 CYP3A4 "
    "DHFR DPP4 DRD2 DRD3 EGFR ESR1 ESR2 F10 F2 FGFR1 GBA HMGCR HSD11B1 HSP90AA1 IGF1R JAK2 KDR KIT "
    "LCK MAOB MAP2K1 MAPK1 MAPK14 MAPKAPK2 MET MMP13 NOS1 NR3C1 PARP1 PDE5A PGR PLK1 PPARA PPARD "
    "PPARG PTGS2 PTK2 PTPN1 REN ROCK1 SRC THRB").split()
LAST = 1 << 16      # bytes of what a docking prints that are read: the end
BROKEN = 3      # exit status of a docking process if the programs do not work


class DockingBroken(Exception):
    """The docking programs are missing or do not work. The molecule is not the reason."""


def missing() -> str | None:
    """What is not installed, for an error message; None if everything is there."""
    if importlib.util.find_spec("dockstring") is None:
        return "the package dockstring"
    if shutil.which("obabel", path=program_path()) is None:
        return "Open Babel (openbabel-wheel)"
    return None


def program_path() -> str:
    """PATH with the programs of this interpreter first, so that a virtual environment need not be
    activated."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


# --------------------------------------------------------------------------- in the search process

def scores(protein: str, molecules: list[str], seconds: float,
           workers: int = 1) -> Iterator[tuple[str, float | None, dict]]:
    """Yields (SMILES, value, result) as dock_all does. The value is None for a molecule that could
    not be docked; for others it is not clipped to [0, 1]."""
    for smiles, result in dock_all(protein, molecules, seconds, workers):
        value = None
        if "vina" in result:
            value = 1 - (result["vina"] + (1 - result["qed"]) + 12) / 10
        yield smiles, value, result


def dock_all(protein: str, molecules: list[str], seconds: float,
             workers: int = 1) -> Iterator[tuple[str, dict]]:
    """Docks molecules (SMILES), `workers` at a time. Yields (SMILES, result) as they finish, in any
    order.

    A result is {"vina": kcal/mol, "qed": 0 to 1}, or {"reason": why it could not be docked}. One
    such reason is that it took longer than `seconds`. Raises DockingBroken. Leaves no process
    behind, however it ends.
    """
    waiting, running = list(molecules)[::-1], {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                smiles = waiting.pop()
                running[start(protein, smiles)] = smiles, time.monotonic() + seconds
            time.sleep(0.05)
            for process, (smiles, deadline) in list(running.items()):
                if process.poll() is not None:
                    output = last_output(process)
                    del running[process]
                    kill(process)
                    yield smiles, read_result(process.returncode, output)
                elif time.monotonic() > deadline:
                    del running[process]
                    kill(process)
                    yield smiles, {"reason": f"not docked within {seconds:g} s"}
    finally:
        for process in running:
            kill(process)


def start(protein: str, smiles: str) -> subprocess.Popen:
    """A process that docks one molecule, in a session of its own so that it can be killed with all
    that it starts, and in a folder of its own, where all its files are. It prints into a file: a
    pipe that nobody reads would stop it. -P: modules are not looked for in the folder of this file.
    """
    folder = tempfile.mkdtemp(prefix="dock-")
    environment = {"PATH": os.environ.get("PATH", ""), "MIGRATE_PARENT": str(os.getpid()),
                   "OMP_NUM_THREADS": "1", "TMPDIR": folder}
    with open(Path(folder, "output"), "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, protein, smiles], stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment,
            cwd=folder)
    process.folder = folder
    return process


def last_output(process: subprocess.Popen) -> str:
    """The end of what a docking process has printed."""
    with open(Path(process.folder, "output"), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LAST))
        return file.read().decode(errors="replace").strip()


def read_result(status: int, output: str) -> dict:
    """The result of a docking process that has ended: the last line that it printed, as JSON.

    If that is no JSON object, the process crashed in RDKit or in Open Babel (both are C++), because
    of this molecule. Raises DockingBroken if the process says that the programs do not work.
    """
    if status == BROKEN:
        lines = output.splitlines() or ["docking failed and printed nothing"]
        raise DockingBroken(lines[-1][:300])
    try:
        return dict(json.loads(output.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return {"reason": f"docking ended with status {status}"}


def kill(process: subprocess.Popen) -> None:
    """Ends a docking process with all processes that it started, and removes its folder."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    shutil.rmtree(process.folder, ignore_errors=True)


# -------------------------------------------------------------------------- in the docking process

def die_with(parent: int) -> None:
    """Kills this session as soon as the search (process id `parent`) is gone, even by kill -9."""
    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        shutil.rmtree(os.environ.get("TMPDIR", ""), ignore_errors=True)
        os.killpg(0, signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()


def dock(protein: str, smiles: str) -> dict:
    """Docks one molecule in this process. Raises what dockstring raises."""
    # dockstring puts the SMILES into a shell command. $( ) is a command there, and it is a valid
    # SMILES too: a quadruple bond and a branch.
    if not re.fullmatch(r"[A-Za-z0-9@+\-\[\]()=#/\\%.:]+", smiles):
        return {"reason": "a SMILES with characters that no drug needs"}
    import dockstring
    from rdkit import Chem
    from rdkit.Chem import QED
    target = dockstring.load_target(protein)
    try:
        vina, _ = target.dock(smiles, num_cpus=1)
    except dockstring.DockstringError as error:
        message = " ".join(str(error).split())[:200]
        return {"reason": f"{type(error).__name__}: {message}"}
    if vina is None:
        return {"reason": "Vina found no pose"}
    return {"vina": vina, "qed": QED.qed(Chem.MolFromSmiles(smiles))}


def check_programs() -> None:
    """Raises DockingBroken if the docking programs do not run at all."""
    try:
        from dockstring.utils import check_obabel_install, get_vina_path
        check_obabel_install()
        done = subprocess.run([get_vina_path(), "--version"], capture_output=True, text=True)
    except Exception as error:
        raise DockingBroken(f"{type(error).__name__}: {error}") from error
    if done.returncode:
        raise DockingBroken(f"Vina does not run: {done.stdout}{done.stderr}")


def main() -> int:
    protein, smiles = sys.argv[1:]
    os.environ["PATH"] = program_path()
    if "MIGRATE_PARENT" in os.environ:
        die_with(int(os.environ["MIGRATE_PARENT"]))
    try:
        check_programs()
        print(json.dumps(dock(protein, smiles)))
        return 0
    except (DockingBroken, ImportError, OSError) as error:
        print(" ".join(str(error).split()))
        return BROKEN


if __name__ == "__main__":
    sys.exit(main())
