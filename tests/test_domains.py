"""What tasks score with: words, grids, objectives, docking, pictures, workers."""
import csv
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from rdkit import Chem

from domains import docking, grids, objectives, pictures, words
from domains.workers import cores, workers
from tasks import Arc, Molecule, WordSearch
from tests.support import HERE, alive, wait_until

ROTATE = ("# turn it by half\nimport numpy as np\n\n"
          "def transform(grid):\n    return np.rot90(grid, 2)")


# ------------------------------------------------------------------------------------------ words

def test_a_sentence_encoder_scores_by_mean_pooling(tmp_path):
    """--embedder on a real (small, random) BERT. Equal to one sentence at a time, so that padding
    takes no part in the mean."""
    import transformers
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "a", "an", "?",
                  "cement", "mortar", "airbase"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(vocabulary), hidden_size=16,
                                     num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=32)
    transformers.BertModel(config).save_pretrained(tmp_path)
    task = WordSearch(target="cement", embedder=str(tmp_path))
    tokenizer, model = words.load_embedder(str(tmp_path))

    def alone(word):
        inputs = tokenizer(words.question(word), return_tensors="pt")
        return model(**inputs).last_hidden_state[0].mean(0).detach()
    score = dict(task.score(["mortar", "airbase", "unheardof", "cement"]))
    for word in ("mortar", "airbase", "unheardof"):
        cosine = torch.cosine_similarity(alone(word), alone("cement"), dim=0).item()
        expected = min(max(0.0, cosine), 0.9999)
        assert score[word].value == pytest.approx(expected, abs=1e-5)
    assert score["cement"].value == 1.0


# ------------------------------------------------------------------------------------------ grids

@pytest.mark.parametrize("output, score", [
    ([[1, 2], [3, 4]], 1), ([[1, 2], [3, 0]], 0.75), ([[1, 2]], 0.5), ([[1], [3]], 0.5),
    ([[0]], 0), ([[1, 2, 0], [3, 4, 0]], 0), ([[1, 2], [3, 4], [5, 6]], 0), (None, 0)])
def test_pair_scores_by_hand(output, score):
    """A larger output must not score, however right its corner is. What a smaller one lacks is
    wrong."""
    assert grids.pair_score(output, [[1, 2], [3, 4]]) == score


# ------------------------------------------------------------------------------------- objectives

def test_objectives_equal_an_independent_implementation():
    """Catches: wrong fingerprints (bits for counts, radius), modifiers or means. 242 molecules
    against PyTDC's values."""
    with open(HERE / "data" / "pmo_reference.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 200
    for name, objective in objectives.OBJECTIVES.items():
        reference = [float(row[name]) for row in rows]
        values = [objective.score(Chem.MolFromSmiles(row["smiles"])) for row in rows]
        assert values == pytest.approx(reference, abs=1e-6), name
        assert max(reference) > 0.25, f"{name}: the file says nothing about high scores"


# ---------------------------------------------------------------------------------------- docking

HANGING_DOCKING = """import os, runpy, subprocess, time
docking = runpy.run_path({docking!r})
docking["die_with"](int(os.environ["MIGRATE_PARENT"]))
child = subprocess.Popen(["sleep", "600"])
open({pids!r}, "a").write(f"{{os.getpid()}} {{child.pid}}\\n")
while True:
    time.sleep(1)
"""


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    """Replaces the docking process by one that starts a child and hangs. Returns a function that
    lists the process ids of both, for every docking that was started."""
    pids, script = tmp_path / "pids", tmp_path / "hang.py"
    script.write_text(HANGING_DOCKING.format(docking=docking.__file__, pids=str(pids)))
    monkeypatch.setattr(docking, "__file__", str(script))
    pids.touch()

    def started():
        return [int(pid) for line in pids.read_text().splitlines() for pid in line.split()]
    return started


def test_a_docking_over_its_time_leaves_no_process_behind(hanging):
    """Vina is a grandchild: killing the child alone leaves it running for minutes."""
    [(smiles, result)] = docking.dock_all("DRD2", ["CCO"], seconds=2)
    assert (smiles, result) == ("CCO", {"reason": "not docked within 2 s"})
    assert len(hanging()) == 2
    assert wait_until(lambda: not any(map(alive, hanging())))


def test_an_interrupted_search_leaves_no_docking_behind(hanging, monkeypatch):
    """Ctrl-C while two dockings run and a third waits."""
    def interrupt(_):
        if len(hanging()) == 4:
            raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(docking.time, "sleep", interrupt)
        list(docking.dock_all("DRD2", ["CCO", "CCN", "CCC"], seconds=600, workers=2))
    assert len(hanging()) == 4
    assert wait_until(lambda: not any(map(alive, hanging())))


def test_a_killed_search_leaves_no_docking_behind(hanging):
    """kill -9 of the search: its `finally` never runs, so the docking has to end by itself."""
    code = (f"from domains import docking; docking.__file__ = {docking.__file__!r}; "
            "list(docking.dock_all('DRD2', ['CCO'], 600))")
    search = subprocess.Popen([sys.executable, "-c", code], cwd=HERE)
    assert wait_until(lambda: len(hanging()) == 2)
    search.send_signal(signal.SIGKILL)
    search.wait()
    assert wait_until(lambda: not any(map(alive, hanging())))


def test_a_broken_docking_program_is_not_a_bad_molecule(tmp_path, monkeypatch):
    """A crash is the molecule's own doing. A missing program is not, and must not score 0."""
    script = tmp_path / "dock.py"
    monkeypatch.setattr(docking, "__file__", str(script))
    script.write_text("import os; os.abort()")
    expected = {"CCO": {"reason": "docking ended with status -6"}}
    assert dict(docking.dock_all("DRD2", ["CCO"], 60)) == expected
    script.write_text(f"import sys; print('no obabel'); sys.exit({docking.BROKEN})")
    with pytest.raises(docking.DockingBroken, match="no obabel"):
        list(docking.dock_all("DRD2", ["CCO"], 60))


def test_the_docking_process_imports_nothing_from_its_own_folder(tmp_path, monkeypatch):
    """Its file lies beside modules of this project, which a package of the same name that RDKit or
    dockstring imports must not be mistaken for."""
    (tmp_path / "dock.py").write_text(
        "import json, sys\nprint(json.dumps({'vina': 0, 'qed': 0, 'path': sys.path}))")
    monkeypatch.setattr(docking, "__file__", str(tmp_path / "dock.py"))
    [(_, result)] = docking.dock_all("DRD2", ["CCO"], 60)
    assert str(tmp_path) not in result["path"] and str(HERE) not in result["path"]


def test_the_docking_process_runs_without_the_project(tmp_path):
    """Catches: an import of the project in the file that runs as a script. Where the docking
    programs are not installed, it ends with the status that stops the run, and says why."""
    done = subprocess.run([sys.executable, "-P", docking.__file__, "DRD2", "[W]$(C)C"],
                          capture_output=True, text=True, cwd=tmp_path)
    if docking.missing() is None:
        assert done.returncode == 0 and "no drug needs" in done.stdout
    else:
        assert done.returncode == docking.BROKEN and done.stderr == ""
        assert "dockstring" in done.stdout or "obabel" in done.stdout


def test_no_smiles_reaches_a_shell():
    """dockstring hands the string to a shell in double quotes, and $( ) is a valid SMILES: a
    quadruple bond and a branch."""
    parsed = Molecule().parse("[W]$(C)C")
    assert parsed == [] or "$" in parsed[0]
    for smiles in ("[W]$(C)C", "C`id`", 'C"; id; "', "C C"):
        assert "reason" in docking.dock("DRD2", smiles)


# --------------------------------------------------------------------------- pictures and workers

def test_pictures_show_ranks_molecules_and_grids():
    """Catches: a wrong rank, a picture of what cannot be drawn, colours in the wrong cells."""
    word = WordSearch(target="cement")
    assert "the target itself" in word.picture("cement", {})
    assert word.picture("<b>", {}) is None
    row, vectors = words.word_vectors()
    closeness = vectors @ vectors[row["cement"]]
    nearest = sorted(row, key=lambda w: -float(closeness[row[w]]))
    assert "rank 7 of 12,719" in word.picture(nearest[7], {})

    molecule = Molecule(target="qed").picture("CC(=O)Nc1ccc(O)cc1", {})
    assert molecule.startswith("<svg") and molecule.count("class='bond-") >= 11
    assert Molecule(target="qed").picture("C(", {}) is None

    arc = Arc(target="3c9b0459")
    turned = arc.picture(ROTATE, {})
    assert turned.count("\u2713") == 5 and turned.count("<g ") == 5 * 3
    broken = arc.picture("def transform(grid):\n    return 1 / 0", {})
    assert broken.count("no output") == 5 == broken.count("\u2717")

    runs = re.findall(r"M\d+ \d+h(\d+)v1h-\1z", pictures.cells([[1, 1, 2], [2, 1, 1]]))
    assert [int(n) for n in runs] == [2, 2, 1, 1]
    assert pictures.cells([[3]]).count("#4fcc30") == 1


def test_a_search_has_as_many_workers_as_it_may_use(monkeypatch):
    """A batch job has fewer cores than its machine, and of several searches each takes its
    share."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores() == workers() == 3
    for threads, expected in (("1", 1), ("12", 12), ("0", 3), ("4,2", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert (cores(), workers()) == (3, expected)
    used = []

    def dock_all(protein, molecules, seconds, workers):
        used.append(workers)
        return iter(())
    monkeypatch.setattr(docking, "dock_all", dock_all)
    monkeypatch.setattr(docking, "missing", lambda: None)
    list(Molecule(target="DRD2").score(["CCO"]))
    assert used == [3]
