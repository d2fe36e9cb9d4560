"""Tests of the bundled policies and of how they were made."""
# It keeps transformers offline, and has to be imported before it.
from tests.support import HERE, folder_of, load

# isort: split
import csv
import gzip
import itertools
import json
import random
import types
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import torch
import transformers
from rdkit import Chem

import migrate
import tasks
from domains import objectives
from domains.sandbox import Sandbox
from domains.words import word_vectors
from engine import chat
from runlog.errors import exit_code
from runlog.ledger import read_jsonl
from tasks import Molecule, WordSearch
from tiny import (
    arc_layouts,
    arc_programs,
    pretrain_arc,
    pretrain_molecules,
    pretrain_words,
    quality,
    trainer,
    wordnet,
)
from tiny.arc_grids import random_look

# ----------------------------------------------------------------------------------------- training

def test_a_resumed_training_ends_where_an_uninterrupted_one_ends(tmp_path, monkeypatch):
    """Catches: batches that derive from what was drawn before, an optimizer that starts afresh, a
    rate that begins at its full height again. The clock goes half a second at each look."""
    readings = iter(range(10**6))
    monkeypatch.setattr(trainer.time, "time", lambda: next(readings) / 2)

    def train(folder, stop_at=10**6):
        torch.manual_seed(0)
        model, taken = torch.nn.Linear(3, 1), []

        def losses(generator):
            taken.append(len(taken))
            if len(taken) == stop_at:
                raise KeyboardInterrupt
            x = torch.randn(8, 3, generator=generator)
            return {"loss": (model(x) - x[:, :1]).square().mean()}

        args = types.SimpleNamespace(out=tmp_path / folder, minutes=1, lr=1e-2, seed=3,
                                     log_every=1.0)
        trainer.train(model, losses, args)
        return model.weight.detach(), len(taken)

    whole, n_steps = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("parts", stop_at=60)
    done = trainer.steps_done(tmp_path / "parts")
    rest, n_rest = train("parts")
    assert 0 < done < 60 and n_steps == 120 == done + n_rest
    assert torch.equal(whole, rest)


# -------------------------------------------------------------------------------------------- words

def write_wordnet(folder):
    """Four synsets in WordNet's format: cement and mortar are building materials (two words for
    one thing there), and Portland is a proper name."""
    nouns = [
        "00000001 06 n 01 cement 0 002 @ 00000003 n 0000 + 00000001 n 0101 | used with stone",
        "00000002 06 n 01 mortar 0 001 @ 00000003 n 0000 | cement with stone between stone",
        "00000003 06 n 02 building_material 0 stuff 0 002 ~ 00000001 n 0000 ~ 00000002 n 0000 "
        "| stuff, stuff; stuff: cement, mortar or cement",
        "00000004 06 n 01 Portland 0 000 | a city, mortar mortar"]
    index = ["cement n 1 2 @ + 1 1 00000001", "mortar n 1 1 @ 1 1 00000002",
             "stuff n 1 1 ~ 1 1 00000003", "portland n 1 0 1 1 00000004"]
    for pos in wordnet.PARTS_OF_SPEECH:
        for kind, lines in (("data", nouns), ("index", index)):
            lines = lines if pos == "noun" else []
            text = "\n".join(["  1 the licence", *lines]) + "\n"
            (folder / f"{kind}.{pos}").write_text(text)


def test_wordnet_is_read_as_its_format_says(tmp_path):
    """Hand-made files. Catches: links counted from the wrong field, a part of speech or a licence
    line taken for a word, proper names and stop words in the vocabulary, one direction of a
    relation lost, siblings that are no neighbours of each other."""
    write_wordnet(tmp_path)
    vocabulary, edges, nouns = wordnet.read_wordnet(tmp_path)
    assert set(vocabulary) - set(wordnet.PUBLISHED_WORDS) == {"mortar", "stuff"}
    assert "cement" in vocabulary           # a published target
    assert nouns == ["mortar", "stuff"]
    hypernym, sibling = wordnet.RELATION_WEIGHT["@"], wordnet.CO_HYPONYM / 2 ** 0.5
    assert edges["mortar", "cement"] > sibling and edges["cement", "mortar"] > sibling
    assert edges["cement", "stuff"] > hypernym and edges["stuff", "cement"] > hypernym / 2 ** 0.5
    ids, probs = wordnet.neighbour_table(vocabulary, edges, k=3)
    stuff = vocabulary.index("stuff")
    known = {vocabulary[i] for i, p in zip(ids[stuff].tolist(), probs[stuff].tolist()) if p}
    assert known == {"cement", "mortar"} and probs[stuff].sum() == pytest.approx(1)
    assert wordnet.split_targets(["a", "b"])["held-out"] == ["b", "a"]       # by their SHA-256


def test_pretraining_sees_the_very_prompts_of_the_task():
    """Also for parents that are words of the prompt itself (meaning, word): only the slots may be
    filled."""
    vocabulary = ["cement", "meaning", "mortar", "word"]
    tokenizer = pretrain_words.word_tokenizer(vocabulary)
    ids, probs = torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1)
    examples = pretrain_words.WordExamples(tokenizer, vocabulary, ids, probs, None)
    for parents in ([[0], [1], [3]], [[1, 3], [2, 0]]):
        expected = []
        for row in parents:
            prompt = WordSearch().variation_prompt([vocabulary[i] for i in row])
            expected.append(trainer.chat_ids(tokenizer, prompt))
        assert examples.prompts(torch.tensor(parents)).tolist() == expected


def test_the_bundled_policy_knows_words():
    """In the vocabulary, hardly ever the same twice, and neighbours nearer to their parent than
    chance."""
    policy, task = load(folder_of("tiny"), lora_targets="q_proj,v_proj"), WordSearch()
    for p in policy.lora.values():
        p.data.zero_()
    number, table = word_vectors()

    def draw(prompt, n):
        [completions] = migrate.sample(policy, [(chat.encode(policy, prompt), n)], 0)
        return [policy.tokenizer.decode(c, skip_special_tokens=True) for c in completions]

    parsed = [task.parse(text) for text in draw(task.prompt(), 500)]
    words = [found[0] for found in parsed if found and found[0] in number]
    assert len(words) > 0.97 * 500 and len(set(words)) > 450
    near = []
    for parent in ("cement", "computer", "skillet", "anger"):
        guesses = draw(task.variation_prompt([parent]), 200)
        assert sum(guess in number for guess in guesses) > 0.95 * 200
        assert guesses.count(parent) < 30
        near += [table[number[guess]] @ table[number[parent]] for guess in guesses
                 if guess in number and guess != parent]
    chance = [table[number[a]] @ table[number[b]] for a, b in zip(words, words[1:])]
    assert sum(near) / len(near) > sum(chance) / len(chance) + 0.05


# ---------------------------------------------------------------------------------------- molecules

def similarity(pairs) -> float:
    """Mean Tanimoto similarity of pairs of SMILES."""
    values = [objectives.similarity(Chem.MolFromSmiles(a), b, "ECFP4") for a, b in pairs]
    return sum(values) / len(values)


def test_molecule_policy_reads_the_parent_of_the_very_prompts():
    """The tiny policy's chat template keeps the parent and drops the objective's words, which it
    does not know."""
    tokenizer = pretrain_molecules.molecule_tokenizer(["CCO", "c1ccccc1O"] * 20, 100)
    task = Molecule()
    user, assistant = tokenizer.convert_tokens_to_ids([trainer.USER, trainer.ASSISTANT])
    assert trainer.chat_ids(tokenizer, task.prompt()) == [user, assistant]
    for parents in (["c1ccccc1O"], ["CCO", "c1ccccc1O"]):
        ids = trainer.chat_ids(tokenizer, task.variation_prompt(parents))
        assert ids[0] == user and ids[-1] == assistant
        assert tokenizer.decode(ids[1:-1]) == "c1ccccc1O"
    every_character = "C[C@@H]1C/C=C\\\\C%10.[Na+]#$:*"
    assert tokenizer.unk_token_id not in tokenizer(every_character)["input_ids"]


def test_neighbours_of_molecules_are_valid_and_keep_the_core(tmp_path):
    with open(HERE / "data" / "pmo_reference.csv", newline="") as file:
        molecules = [row["smiles"] for row in csv.DictReader(file)][:60]
    listed = tmp_path / "list.gz"
    with gzip.open(listed, "wt") as file:
        file.write("\n".join(molecules) + "\n")
    prepared = pretrain_molecules.prepare_molecules(listed, tmp_path)
    again = pretrain_molecules.prepare_molecules(listed, tmp_path)
    assert prepared == again and len(prepared) > 50
    pairs = []
    for molecule, neighbours in prepared:
        assert "@" not in molecule and objectives.canonical(molecule) == molecule
        for neighbour in neighbours:
            assert neighbour != molecule and objectives.canonical(neighbour) == neighbour
            pairs.append((neighbour, molecule))
    assert len(pairs) > 150 and 0.4 < similarity(pairs) < 0.8


def test_the_bundled_policy_knows_molecules():
    """Valid, hardly ever the same twice, and neighbours much nearer to their parent than chance."""
    task = Molecule()
    policy = migrate.load_policy(migrate.resolve({"task": "molecule"}, task),
                                 str(HERE / "tiny" / "molecule"))

    def draw(prompt, n):
        drawn = quality.sample_candidates(policy, task, prompt, n, 0)
        return [smiles for smiles in drawn if smiles]

    molecules = draw(task.prompt(), 200)
    assert len(molecules) > 0.75 * 200 and len(set(molecules)) > 0.98 * len(molecules)
    neighbours = [(parent, smiles) for parent in molecules[:10]
                  for smiles in draw(task.variation_prompt([parent]), 20)]
    assert len(neighbours) > 0.75 * 200
    assert similarity(neighbours) > similarity(zip(molecules, molecules[1:])) + 0.15


# ------------------------------------------------------------------------- ARC: synthetic tasks

def example_of(name, operation, rng):
    """(program of one operation, a grid that it changes, what it makes of it)."""
    kinds = operation.kinds.split()
    for i in range(30 * len(kinds)):
        look = random_look(rng)
        grid = arc_programs.GRIDS[kinds[i // 30]](look)
        step = arc_programs.random_step(rng, name, look)
        output = arc_programs.run([step], grid)
        if output is not None and not arc_programs.same(output, grid):
            return arc_programs.text([step]), grid.tolist(), output.tolist()
    raise AssertionError(f"{name} changes no grid that suits it")


def test_every_operation_of_the_generator_runs_in_the_sandbox_as_it_does_outside():
    """Programs must stand on their own: numpy alone, nothing of the module that holds them. Parsing
    must not change them. Of the operations on pieces, as many as show every part of them."""
    task, rng = tasks.Arc(), np.random.default_rng(0)
    names, examples, shown = list(arc_programs.PLAIN), [], set()
    for name in sorted(arc_programs.OBJECTS, key=lambda name: name.split(".")[1] != "all"):
        if not shown.issuperset(name.split(".")):
            names.append(name)
            shown.update(name.split("."))
    for name in names:
        operation = arc_programs.OPERATIONS[name]
        program, grid, output = example_of(name, operation, rng)
        assert task.parse(program) == [program]
        for hypothesis, _ in operation.parts:
            assert f"# {hypothesis}\n" in program.split("def transform")[1]
        examples.append((program, grid, output))
    with Sandbox(workers=2) as sandbox:
        for program, grid, output in examples:
            [(_, result)] = sandbox.run([program], [grid])
            assert result.outputs == [output], (program, result.error)


MEANINGS = [        # (operation, its colours, a grid, what it makes of it; rows as digits)
    ("touching.largest.crop", (), "110/100/002", "11/10"),
    ("mono.little.paint", (7,), "1102/1100/0000", "1107/1100/0000"),
    ("corners.all.keep", (), "10/01", None),
    ("colours.smallest.remove", (), "112/100", "110/100"),
    ("areas.off_edge.paint", (5,), "111/101/111", "111/151/111"),
    ("touching.hole.remove", (), "11103/10100/11100", "00003/00000/00000"),
    ("touching.odd_shape.keep", (), "11022/00000/30000", "00000/00000/30000"),
    ("touching.all.slide_down", (), "1100/0000/0220", "0000/1100/0220"),
    ("touching.left.ray_right", (), "1000/0002", "1111/0002"),
    ("touching.all.shift_up", (), "10/00/02", "10/00/02"),
    ("mono.all.row_size", (), "1103/0003/2003", "312"),
    ("touching.most_colours.swap_in", (), "12011/10000", "21011/20000"),
    ("touching.all.beside", (), "1102/1000", None),
    ("beam_right", (1,), "10020/00000", "11120/00000"),
    ("meet_rows", (), "10002", "11022"),
    ("nearest", (), "100002", "111222"),
    ("flood", (1,), "1003/0033/0030", "1113/1133/1130"),
    ("period_falling", (), "103/310/231", "123/312/231"),
    ("period_rows", (), "1210", "1212"),
    ("strip_all", (6,), "11051105010/10051105100/00150005111", "060/600/000"),
    ("panel_most_fill", (4,), "1052/0150", "4450/4450"),
    ("block_summary", (), "300300000/030000111/300000111", "001"),
    ("row_fill", (), "33300/00033", "33333/00000"),
    ("shrink_auto", (), "1122/1122/3300/3300", "12/30"),
    ("halves_differ", (8,), "1001/0101", "88/00"),
    ("extremes_swapped", (), "1112/1133", "2221/2233")]


def grid_of(rows: str):
    return np.array([list(map(int, row)) for row in rows.split("/")])


@pytest.mark.parametrize("name, colours, grid, expected", MEANINGS)
def test_an_operation_does_what_it_says(name, colours, grid, expected):
    output = arc_programs.run([(name, colours)], grid_of(grid))
    assert (None if output is None else arc_programs.digits(output)) == expected


def test_the_parts_of_a_strip_are_its_square_parts():
    """With lines between them or without, of every size and number that the generator draws."""
    sizes = [(2, 3), *itertools.product((3, 4), (3, 4))]        # of a part; how many
    for (side, n), line in itertools.product(sizes, (0, 1)):
        parts = [np.full((side, side), i + 1) for i in range(n)]
        grid = np.hstack([np.pad(p, ((0, 0), (0, line)), constant_values=9) for p in parts])
        grid = grid[:, :grid.shape[1] - line]
        space = {"grid": grid, "np": np}
        exec(arc_layouts.STRIP, space)
        assert [p.tolist() for p in space["parts"]] == [p.tolist() for p in parts], (side, n, line)


def test_tasks_are_made_in_order_and_a_few_ahead():
    asked = []

    def make(number):
        asked.append(number)
        return 10 * number

    with ThreadPool(1) as pool:
        made = pretrain_arc.made_ahead(pool, make, n_ahead=3)
        assert [next(made), next(made)] == [0, 10]
        pool.close()
        pool.join()
    assert asked == [0, 1, 2, 3, 4]


def test_a_resumed_training_goes_on_with_the_batches_that_come_next(tmp_path):
    """Each task comes twice, and not the same way."""
    examples = pretrain_arc.ArcExamples(pretrain_arc.arc_tokenizer(), 0)
    lines = [json.dumps(task) + "\n" for task in arc_programs.shard(3, 0, size=12)]
    for number in range(2):
        (tmp_path / f"{number}.jsonl").write_text("".join(lines[6 * number:6 * number + 6]))
    paths = sorted(tmp_path.iterdir())
    whole = [batch[0].tolist() for batch in examples.batches(paths, 400)]
    rest = itertools.islice(examples.batches(paths, 400), 4, None)
    assert [batch[0].tolist() for batch in rest] == whole[4:] != []
    first, second = (batch[0].tolist() for batch in examples.batches(paths[:1], 10**6))
    assert first != second


def test_synthetic_tasks_have_no_step_too_many_and_derive_from_their_seed():
    lines = arc_programs.shard(7, 3, size=30)
    assert lines == arc_programs.shard(7, 3, size=30) != arc_programs.shard(7, 4, size=30)
    assert {len(line["steps"]) for line in lines} == {1, 2, 3}

    def solves(steps, pairs):
        return all(arc_programs.same(arc_programs.run(steps, a), b) for a, b in pairs)

    for line in lines:
        pairs = [[np.array([list(map(int, row)) for row in grid.split("/")]) for grid in pair]
                 for pair in line["pairs"]]
        steps = [(name, tuple(colours)) for name, colours in line["steps"]]
        assert solves(steps, pairs)
        for i in range(len(steps) if len(steps) > 1 else 0):
            assert not solves(steps[:i] + steps[i + 1:], pairs), line["steps"]


# ------------------------------------------------------------------------- ARC: the bundled policy

def test_programs_and_prompts_are_the_tokens_that_the_policy_learned():
    """A fragment each for every operation and colour, alone and after each other; prompts without
    an unknown token."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / "tiny" / "arc")
    assert tokenizer.get_vocab() == pretrain_arc.arc_tokenizer().get_vocab()
    pretrain_arc.check_prompts(tokenizer, pretrain_arc.ArcExamples(tokenizer, 0))
    rng, steps = random.Random(0), arc_programs.all_steps()
    programs = [[step] for step in steps]
    programs += [rng.sample(steps, rng.choice([2, 3])) for _ in range(300)]
    for program in programs:
        text = arc_programs.text(program)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == arc_programs.fragments(program)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    for target in ("007bbfb7", "3c9b0459", "00d62c1b"):
        task = tasks.Arc(target=target)
        parents = [arc_programs.text(steps[:2])] * 2
        for prompt in (task.prompt(), task.variation_prompt(parents)):
            assert tokenizer.unk_token_id not in trainer.chat_ids(tokenizer, prompt)
    unknown = task.variation_prompt(["def transform(g): return g"])
    assert tokenizer.unk_token_id in trainer.chat_ids(tokenizer, unknown)


def test_answers_packed_behind_the_same_pairs_are_those_of_a_prompt_each():
    """The mask of pre-training: an answer sees the pairs and itself, no padding and no other
    answer; its place is the same."""
    tokenizer = pretrain_arc.arc_tokenizer()
    examples = pretrain_arc.ArcExamples(tokenizer, 0)
    model = pretrain_arc.arc_model(tokenizer, dim=16, seed=0).eval()
    shard = arc_programs.shard(1, 0, size=12)
    packed = [examples.example(task, np.random.default_rng(0)) for task in shard]
    ids, segments, positions, labels, mask = examples.tensors([e for e in packed if e][:3])
    checked = 0
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions, attention_mask=mask).logits
        for row, segment in enumerate(segments):
            for k in range(1, 2 + pretrain_arc.PARENTS):
                alone = (segment == 0) | (segment == k)
                inside = (segment == k) & (labels[row] >= 0)
                expected = model(input_ids=ids[row, alone][None]).logits[0]
                expected = expected[inside[alone]]
                torch.testing.assert_close(logits[row, inside], expected, atol=1e-5, rtol=1e-4)
                answer = tokenizer.decode(labels[row, inside])
                assert answer.startswith(arc_programs.HEADER)
                assert answer.endswith("return grid<eos>")
                checked += 1
    assert checked == 15


def test_the_outputs_of_the_pairs_are_learned_and_nothing_else_of_them():
    examples = pretrain_arc.ArcExamples(pretrain_arc.arc_tokenizer(), 0)
    [task] = arc_programs.shard(2, 0, size=1)
    ids = [examples.id[trainer.USER]]
    for a, b in task["pairs"]:
        ids += examples.pair(a, b)
    labels = examples.output_labels(ids)
    outputs = [token for _, b in task["pairs"] for token in examples.grid(b)]
    assert [label for label in labels if label >= 0] == outputs
    assert all(label in (-100, following) for label, following in zip(labels, ids[1:]))


def test_a_step_nearby_is_another_one_that_can_be_written():
    rng = np.random.default_rng(0)
    for _ in range(300):
        step = arc_programs.random_step(rng, arc_programs.random_name(rng), random_look(rng))
        name, colours = other = arc_programs.nearby(rng, step)
        assert len(colours) == len(arc_programs.OPERATIONS[name].slots)
        assert other != step


def test_a_worse_parent_is_never_the_program_itself():
    examples = pretrain_arc.ArcExamples(pretrain_arc.arc_tokenizer(), 0)
    rng = np.random.default_rng(0)
    steps = [("recolour", (1, 2)), ("touching.largest.paint", (4,)), ("frame", (3,))]
    parents = [examples.parent(steps, rng) for _ in range(300)]
    assert all(parent != steps for parent in parents)
    assert {len(parent) for parent in parents} == {2, 3, 4}
    assert examples.parent([("rot90", ())], rng)
    identity = "import numpy as np\n\n\ndef transform(grid):\n    return grid"
    assert arc_programs.text([]) == identity


def test_the_bundled_arc_policy_searches_a_real_task(tmp_path):
    """Three real steps of the default: programs that run, in the sandbox, from both prompts;
    weights that moved."""
    run = tmp_path / "run"
    argv = ["--task", "arc", "--steps", "3", "--after-solved", "99", "--seed", "1",
            "--out", str(run)]
    assert exit_code(migrate.main, argv) == 0
    summary = json.loads((run / "summary.json").read_text())
    evaluations, steps = (read_jsonl(run / f"{name}.jsonl") for name in ("evals", "steps"))
    assert summary["preset"] == "tiny" and summary["target"] == "45737921"
    assert summary["proposals"] == 45 and summary["best_score"] > 0.3
    assert {e["origin"] for e in evaluations} == {"on-policy", "neighbor"}
    assert sum(e["valid"] for e in evaluations) > len(evaluations) / 2
    assert all(e["candidate"].startswith("import numpy as np") for e in evaluations)
    assert sum(not step["skipped"] for step in steps) == 3
