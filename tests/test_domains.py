"""What tasks score with: words, grids, objectives, docking, pictures, workers."""
import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from rdkit import Chem

from data import make_word_vectors
from domains import docking, grids, objectives, pictures, words
from domains.workers import cores, workers
from runlog.errors import UserError
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


# Words of everyday answers that the bundled policy's vocabulary lacks.
ORDINARY = """
laptop robot server email desktop wok smartphone tablet podcast selfie emoji hashtag blog website
router download offline superhero wifi tv pizza sushi taco espresso yogurt smoothie hummus seagull
pancake keypad airbag carpool cities children wolves knives computers robots laptops dictionaries
geese skillets swam ran bought thought walked laughed carried stopped running swimming baking
thinking colour theatre grey realise cafe happier quickly hers
""".split()


def test_the_first_word_table_and_what_is_drawn_from_it_never_change():
    """Catches: a table that is made again, in another order or with other vectors. Then no earlier
    search could be repeated."""
    rows, vectors = words.word_vectors()
    assert len(rows) == 12_720 and list(rows.values()) == list(range(12_720))
    stored = np.load(words.DATA / "word_vectors.npz")
    for name, digest in (("words", "2b795a11ae038d8f"), ("vectors", "0a8ec5e3b20ff7e3")):
        assert hashlib.sha256(stored[name].tobytes()).hexdigest().startswith(digest)
    assert [words.hidden_word("random", seed) for seed in range(5)] == [
        "oration", "mathematician", "dramatist", "gay", "perceptive"]
    assert set(WordSearch(warm_start_words=12_719).warm_start(0)) == rows.keys() - {"computer"}


def test_ordinary_words_of_a_real_model_are_valid():
    """Catches: laptop, plurals and past tenses that are worth nothing."""
    first, more = words.word_vectors()[0], words.more_word_vectors()[0]
    assert len(set(ORDINARY)) >= 60 and len(first) + len(more) >= 50_000
    scores = dict(WordSearch(target="computer").score(ORDINARY))
    assert not [word for word in ORDINARY if not scores[word].valid]
    assert scores["computers"].value > scores["laptop"].value > 0.5 > scores["wok"].value
    assert not dict(WordSearch().score(["qqqq"]))["qqqq"].valid


def test_the_second_word_table_is_plain_and_adds_nothing_to_what_the_bundled_policy_can_say():
    """Catches: a word in both tables; slurs; a word of the prompts ("the"), which the bundled
    policy may answer: its searches would change."""
    first, more = words.word_vectors()[0], words.more_word_vectors()[0]
    assert list(more) == sorted(more) and not first.keys() & more.keys()
    assert all(re.fullmatch("[a-z]{2,20}", word) for word in more)
    tokenizer = json.loads((HERE / "tiny" / "wordsearch" / "tokenizer.json").read_text())
    assert not more.keys() & tokenizer["model"]["vocab"].keys()
    assert not more.keys() & make_word_vectors.SLURS
    assert sum(path.stat().st_size for path in words.DATA.glob("*.*")) < 24e6


def test_a_score_does_not_depend_on_what_was_asked_before():
    """The second table is read when a word of it is asked for. Catches: another score of the same
    word afterwards, and a search of the first table's words that reads both."""
    words.more_word_vectors.cache_clear()
    pairs = [["cement", "mortar"], ["cement", "laptop"], ["wok", "laptop"]]

    def cosine(a, b):
        vectors = words.vectors_for([a, b])
        return float(vectors[a] @ vectors[b])
    old = cosine(*pairs[0])
    assert words.more_word_vectors.cache_info().currsize == 0
    new = [cosine(*pair) for pair in pairs]
    assert words.more_word_vectors.cache_info().currsize == 1
    words.more_word_vectors.cache_clear()
    assert new[0] == old and [cosine(*pair) for pair in reversed(pairs)] == new[::-1]


def test_packed_vectors_are_read_as_they_were_written():
    """Catches: bits in another order, a sign that is lost."""
    vectors = np.random.default_rng(0).normal(size=(20, 384)).astype(np.float32)
    packed = make_word_vectors.pack(vectors)
    assert packed.shape == (20, 288) and packed.dtype == np.uint8
    for row, vector in zip(packed, vectors):
        digits = "".join(f"{byte:08b}" for byte in row)
        numbers = [int(digits[i:i + 6], 2) - 32 for i in range(0, len(digits), 6)]
        assert max(map(abs, numbers)) == 31
        assert np.allclose(numbers, vector * 31 / np.abs(vector).max(), atol=0.51)
        unit = words.unpack(row)
        assert unit.dtype == np.float32 and unit @ unit == pytest.approx(1, abs=1e-6)
        assert np.allclose(unit, np.array(numbers) / np.linalg.norm(numbers), atol=1e-6)


def test_any_word_of_the_tables_may_be_hidden():
    """Catches: a target that ends the report page, or that its own guess does not solve."""
    for word in [*ORDINARY, *random.Random(0).sample(list(words.more_word_vectors()[0]), 100)]:
        task = WordSearch(target=word)
        scores = dict(task.score([word, "cement", "mortar"]))
        assert task.hidden == word and task.solved(scores[word])
        assert 0 <= scores["cement"].value < 1 and scores["cement"].valid
    with pytest.raises(UserError, match=r"'qqqq' is not among the 77,226 words of the bundled"):
        WordSearch(target="qqqq")


@pytest.mark.parametrize("target, word, n", [
    ("cement", "mortar", 12_719), ("cement", "poetry", 12_719),         # both in the first table
    ("cement", "cements", 12_720), ("cement", "laptop", 12_720),        # the word is not
    ("laptop", "computer", 12_720), ("laptop", "poetry", 12_720),       # the target is not
    ("laptop", "laptops", 12_721), ("laptop", "cements", 12_721)])      # neither is
def test_a_word_of_either_table_has_a_rank(target, word, n):
    """Catches: no picture of a word of the second table, a rank that leaves out the target or the
    word itself, a rank above the number of words, another rank for the words of the first table."""
    others = words.word_vectors()[0].keys() - {target, word}
    hidden, vector = words.vector_of(target), words.vector_of(word)
    rank = 1 + sum(float(words.vector_of(other) @ hidden) > vector @ hidden + 1e-7
                   for other in others)
    assert words.closeness_rank(word, target) == (rank, n + 1)
    assert 1 <= rank <= n == len(others) + 1
    task = WordSearch(target=target)
    assert f"rank {rank:,} of {n:,} words" in task.picture(word, {})
    assert "the target itself" in task.picture(target, {})


def test_no_rank_is_above_the_number_of_words():
    """Catches: "rank 12,720 of 12,719" for the farthest word, one of the second table."""
    rows, vectors = words.word_vectors()
    least = (vectors @ words.vector_of("cement")).min()
    more, packed = words.more_word_vectors()
    farthest = next(word for word, row in more.items()
                    if words.unpack(packed[row]) @ words.vector_of("cement") < least)
    assert "rank 12,720 of 12,720 words" in WordSearch(target="cement").picture(farthest, {})


def test_the_words_of_the_second_table_are_chosen_by_rule(tmp_path):
    """Catches: names, accents and contractions that come through, ordinary words that are taken for
    taboo words, taboo words in another form, and slurs."""
    # invented words, since the vocabulary of the bundled policy is left out
    lists = {"english-words.10": "zobot zobots zobot's zafé Zonday the zement x",
             "english-words.50": "zilly zillier zilliest zillily zamily zonest zoner",
             "english-words.55": "zadness zadnesses",
             "british-words.35": "zealise", "british-words.60": "zanthologise",
             "english-upper.10": "zanuary", "english-words.70": "zanimalism",
             "american-words.60": "zarn zarns zarned zarning zarnel zic zics zass moron "
                               "morons yid"}
    for name, text in lists.items():
        (tmp_path / "final").mkdir(exist_ok=True)
        (tmp_path / "final" / name).write_text("\n".join(text.split()), encoding="latin-1")
    (tmp_path / "misc").mkdir()
    for name in make_word_vectors.TABOO:
        (tmp_path / "misc" / name).write_text("zarn\n")
    (tmp_path / "profanity.txt").write_text("zic\nzement\nzas\nmoron\n")
    chosen = make_word_vectors.choose_words(tmp_path, tmp_path / "profanity.txt", {"zement"})
    assert set(chosen) - set(make_word_vectors.ADDED) == set(
        "zobot zobots zafe zilly zillier zamily zonest zoner zadness zealise zarnel zass moron "
        "morons".split())


# ------------------------------------------------------------------------------------- objectives

def test_a_molecule_has_one_name():
    """Catches: numbers of an atom map, with which one molecule is scored again and again; a
    wildcard that passes for an atom."""
    assert {objectives.canonical(text) for text in ("CC", "[CH3:1]C", "[CH3:1][CH3:2]")} == {"CC"}
    assert objectives.canonical("*CC") is None and objectives.canonical("[*:1]CC") is None


def test_objectives_equal_an_independent_implementation():
    """Catches: wrong fingerprints (bits for counts, radius), modifiers or means. 242 molecules
    against PyTDC's values."""
    with open(HERE / "data" / "pmo_reference.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 200
    for name, objective in objectives.OBJECTIVES.items():
        some = rows[::4] if name.endswith("_hop") else rows         # pharmacophores take long
        reference = [float(row[name]) for row in some]
        values = [objective.score(Chem.MolFromSmiles(row["smiles"])) for row in some]
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


@pytest.mark.parametrize("prints, expected", [
    ("print('x' * 300_000); print(json.dumps({'vina': -7.0, 'qed': 0.5}))",
     {"vina": -7.0, "qed": 0.5}),
    ("print(7)", {"reason": "docking ended with status 0"}),
    ("print('[1]')", {"reason": "docking ended with status 0"}), ("", {"reason": "docking ended "
                                                                        "with status 0"})])
def test_whatever_a_docking_prints_is_read_and_its_files_go(prints, expected, tmp_path,
                                                            monkeypatch):
    """Catches: a pipe that is full, which stops the docking until its time is over; a number as the
    last line; the folder of a docking that was killed."""
    script = tmp_path / "dock.py"
    script.write_text("import json, os, tempfile\nopen('here', 'w').write('x')\n"
                      f"tempfile.mkstemp()\n{prints}\n")
    monkeypatch.setattr(docking, "__file__", str(script))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(docking.tempfile, "tempdir", str(tmp_path / "tmp"))
    assert dict(docking.dock_all("DRD2", ["CCO"], 60)) == {"CCO": expected}
    script.write_text("import time\ntime.sleep(60)")
    [(_, result)] = docking.dock_all("DRD2", ["CCO"], seconds=0.2)
    assert "not docked within" in result["reason"]
    assert list((tmp_path / "tmp").iterdir()) == []


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
