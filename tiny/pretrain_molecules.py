"""Makes tiny/molecule: a small Llama that knows the prompts of the molecule task.

    python -m tiny.pretrain_molecules --data zinc250k.smi.gz --dim 128 --batch 128 --lr 4e-3 \\
        --minutes 45

It learns SMILES of drug-like molecules, uncharged and without stereochemistry, in byte-pair tokens.
An example is a prompt of tasks.Molecule and an answer:

    prompt()                    ->  a molecule of the list
    variation_prompt([parent])  ->  a molecule with the same core and another rest, or with one edit
"""
from __future__ import annotations

import collections
import gzip
import itertools
import multiprocessing
import os
import random
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

import tasks
from domains import objectives
from tiny.trainer import (
    ASSISTANT,
    END,
    PAD,
    UNKNOWN,
    USER,
    chat_ids,
    fast_tokenizer,
    flags,
    save,
    small_llama,
    train,
)

# What this policy reads of a prompt: the parent, and of a list of parents the best. It knows no
# objectives, so the words about them are dropped.
MOLECULE_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>"
    "{% if 'variation of: ' in m['content'] %}"
    "{{ m['content'].split('variation of: ')[1].split(' ')[0] }}"
    "{% elif 'the last the best: ' in m['content'] %}"
    "{{ m['content'].split('the last the best: ')[1].split(' Answer')[0].split(' ')[-1] }}"
    "{% endif %}"
    "{% else %}<assistant>{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}")
SMILES_CHARACTERS = "()[]=#$:/\\\\.+-@*%0123456789BCFHIKLNOPRSTUVWXYZabcdefgiklmnoprstu"
# A single bond from a carbon to another atom, outside rings.
SIDE_BOND = "[#6+0;!$(*=,#[!#6])]!@!=!#[*]"


# -------------------------------------------------------------------------- neighbours of molecules

def flat(smiles: str) -> str | None:
    """Canonical SMILES without stereochemistry and, where possible, without charges; None for a
    text that is no molecule."""
    try:
        mol = Chem.MolFromSmiles(smiles)
        if "+" in smiles or "-]" in smiles:
            mol = rdMolStandardize.Uncharger().uncharge(mol)
        return objectives.canonical(Chem.MolToSmiles(mol, isomericSmiles=False))
    except Exception:       # RDKit raises errors of many kinds
        return None


def cuts(smiles: str, most: int = 4) -> list[tuple[str, str]]:
    """(core, rest) of up to `most` single bonds outside rings, as SMILES with one open bond each,
    in [1*]. The core is more than half of the molecule, the rest has 12 atoms or fewer."""
    mol = Chem.MolFromSmiles(smiles)
    matches = mol.GetSubstructMatches(objectives.pattern(SIDE_BOND))
    bonds = sorted({mol.GetBondBetweenAtoms(*pair).GetIdx() for pair in matches})
    found = []
    for bond in random.Random(smiles).sample(bonds, len(bonds)):
        opened = Chem.FragmentOnBonds(mol, [bond], dummyLabels=[(1, 1)])
        rest, core = sorted(Chem.GetMolFrags(opened, asMols=True),
                            key=lambda part: part.GetNumAtoms())
        if rest.GetNumAtoms() <= min(13, core.GetNumAtoms() - 1):       # the open end counts as one
            found.append((Chem.MolToSmiles(core), Chem.MolToSmiles(rest)))
        if len(found) == most:
            break
    return found


def join(core: str, rest: str) -> str | None:
    """The molecule of two parts with one open bond each."""
    try:
        params = Chem.MolzipParams()
        params.label = Chem.MolzipLabel.Isotope
        joined = Chem.molzip(Chem.MolFromSmiles(core), Chem.MolFromSmiles(rest), params)
        return objectives.canonical(Chem.MolToSmiles(joined))
    except Exception:
        return None


# Edits of one atom or bond, in place. All have the same arguments; each uses some of them.

def change_element(mol, atom, bond, element, rng) -> None:
    atom.SetAtomicNum(element)


def append_atom(mol, atom, bond, element, rng) -> None:
    mol.AddBond(atom.GetIdx(), mol.AddAtom(Chem.Atom(element)), Chem.BondType.SINGLE)


def insert_atom(mol, atom, bond, element, rng) -> None:
    a, b, new = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), mol.AddAtom(Chem.Atom(element))
    mol.RemoveBond(a, b)
    mol.AddBond(a, new, Chem.BondType.SINGLE)
    mol.AddBond(new, b, Chem.BondType.SINGLE)


def delete_atom(mol, atom, bond, element, rng) -> None:
    ends = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
    if len(ends) == 2 and mol.GetBondBetweenAtoms(*ends) is None:
        mol.AddBond(*ends, Chem.BondType.SINGLE)
    mol.RemoveAtom(atom.GetIdx())


def change_order(mol, atom, bond, element, rng) -> None:
    bond.SetBondType(rng.choice([Chem.BondType.SINGLE, Chem.BondType.DOUBLE]))


EDITS = [change_element, change_element, append_atom, insert_atom, delete_atom, change_order]
ELEMENTS = [6, 6, 6, 7, 7, 8, 8, 9, 16, 17]


def edit(smiles: str) -> str | None:
    """The molecule with one atom or bond changed; None if 20 draws gave none."""
    rng = random.Random(smiles)
    for _ in range(20):         # most draws break a valence
        try:
            edited = edit_once(smiles, rng)
        except Exception:
            continue
        if edited and edited != smiles:
            return edited
    return None


def edit_once(smiles: str, rng: random.Random) -> str | None:
    mol = Chem.RWMol(Chem.MolFromSmiles(smiles))
    Chem.Kekulize(mol, clearAromaticFlags=True)
    atom, bond = rng.choice(mol.GetAtoms()), rng.choice(mol.GetBonds())
    element = rng.choice(ELEMENTS)
    for a in mol.GetAtoms():    # hydrogens follow from the valence, before and after the edit
        if not a.GetFormalCharge():
            a.SetNoImplicit(False)
            a.SetNumExplicitHs(0)
    rng.choice(EDITS)(mol, atom, bond, element, rng)
    edited = Chem.MolToSmiles(mol)
    return objectives.canonical(edited) if "." not in edited else None


def prepare_molecules(path: Path, folder: Path,
                      paired: int = 150_000) -> list[tuple[str, list[str]]]:
    """(SMILES, up to three neighbours) for every molecule of a list (gzipped, one SMILES a line),
    kept in folder/neighbours.txt. The first `paired` of them, in random order, get neighbours.

    Two neighbours keep the core and have another rest (replaced_rests). One has a single atom or
    bond changed.
    """
    cache = folder / "neighbours.txt"
    if not cache.exists():
        rng = random.Random(0)
        with multiprocessing.Pool() as pool:
            lines = pool.imap(flat, gzip.open(path, "rt"), 1000)
            molecules = sorted(set(filter(None, tqdm(lines, "flat"))))
            rng.shuffle(molecules)
            chosen = molecules[:paired]
            parts = list(tqdm(pool.imap(cuts, chosen, 1000), "cuts", len(chosen)))
            new_pairs = replaced_rests(parts, rng)
            pairs = [(core, rest) for _, core, rest in tqdm(new_pairs, "join")]
            joined = pool.starmap(join, pairs, 1000)
            edited = list(tqdm(pool.imap(edit, chosen, 1000), "edit", len(chosen)))
        neighbours = collections.defaultdict(list)
        numbers = [number for number, _, _ in new_pairs]
        for number, smiles in [*zip(numbers, joined), *enumerate(edited)]:
            if smiles and smiles != molecules[number]:
                neighbours[number].append(smiles)
        folder.mkdir(parents=True, exist_ok=True)
        new = cache.with_suffix(".new")         # a part of it would pass for the whole
        new.write_text("".join(" ".join([molecule, *neighbours[i]]) + "\n"
                               for i, molecule in enumerate(molecules)))
        os.replace(new, cache)
    rows = [line.split() for line in cache.read_text().splitlines()]
    return [(first, rest) for first, *rest in rows]


def replaced_rests(parts: list[list[tuple[str, str]]],
                   rng: random.Random) -> list[tuple[int, str, str]]:
    """(number of the molecule, one of its cores, a new rest), for up to two cuts of each molecule.

    parts: the (core, rest) pairs of each. The new rest is one that some molecule of the list has at
    the same core (a matched molecular pair). Where there is none, it is drawn from all rests, as
    often as they occur.
    """
    at_core, rests = collections.defaultdict(set), []
    for core, rest in itertools.chain(*parts):
        at_core[core].add(rest)
        rests.append(rest)
    found = []
    for number, pairs in enumerate(parts):
        for core, rest in rng.sample(pairs, min(2, len(pairs))):
            others = sorted(at_core[core] - {rest})
            found.append((number, core, rng.choice(others if others else rests)))
    return found


# ---------------------------------------------------------------------------------------- examples

def molecule_tokenizer(molecules: list[str], size: int):
    """Byte-pair encoding of SMILES: frequent pieces of molecules are single tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.train_from_iterator(molecules, trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, END, UNKNOWN, USER, ASSISTANT], show_progress=False,
        initial_alphabet=list(SMILES_CHARACTERS)))
    return fast_tokenizer(tokenizer, MOLECULE_TEMPLATE, model_max_length=512)


def check_prompts(tokenizer) -> None:
    """What the policy is trained on is what the task will show it."""
    task = tasks.Molecule()
    user, assistant = tokenizer.convert_tokens_to_ids([USER, ASSISTANT])
    assert chat_ids(tokenizer, task.prompt()) == [user, assistant]
    assert chat_ids(tokenizer, task.variation_prompt(["CCO"])) == [
        user, *tokenizer.encode("CCO"), assistant]


class MoleculeExamples:
    """Draws batches. prepared: what prepare_molecules returns. size: examples of a batch."""

    def __init__(self, tokenizer, prepared: list[tuple[str, list[str]]], size: int):
        self.prepared, self.size = prepared, size
        self.paired = [(molecule, neighbours) for molecule, neighbours in prepared if neighbours]
        self.user, self.assistant, self.end, self.pad = tokenizer.convert_tokens_to_ids(
            [USER, ASSISTANT, END, PAD])
        texts = sorted({smiles for molecule, neighbours in prepared
                        for smiles in (molecule, *neighbours)})
        encodings = tokenizer.backend_tokenizer.encode_batch(texts)
        self.tokens = {text: encoding.ids for text, encoding in zip(texts, encodings)}

    def rows(self, rng: random.Random) -> list[tuple[list[int], list[int]]]:
        """(prompt, completion) token ids of a batch: two fifths are molecules as they come, the
        others neighbours of one. A pair is as good backwards: then a made-up neighbour is the
        parent, and the answer is a real molecule."""
        found = []
        for _ in range(2 * self.size // 5):
            molecule, _ = rng.choice(self.prepared)
            found.append(([self.user, self.assistant], self.tokens[molecule]))
        chosen = rng.choices(self.paired, k=self.size - len(found))
        pairs = [(molecule, rng.choice(neighbours)) for molecule, neighbours in chosen]
        for pair in pairs:
            parent, answer = pair if rng.random() < 0.5 else pair[::-1]
            prompt = [self.user, *self.tokens[parent], self.assistant]
            found.append((prompt, self.tokens[answer]))
        return found

    def batch(self, rng: random.Random):
        """A batch in four chunks of rows of like length, which need less padding."""
        rows = sorted(self.rows(rng), key=lambda row: len(row[0]) + len(row[1]))
        for i in range(4):
            yield self.tensors(rows[i * len(rows) // 4:(i + 1) * len(rows) // 4])

    def tensors(self, rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (B, L) and, of each token but the first, the kind of what it belongs to,
        (B, L - 1). 0: nothing, 1: a parent, 2: the answer to a parent, 3: a molecule alone."""
        longest = max(len(prompt) + len(completion) + 1 for prompt, completion in rows)
        ids, kinds = [], []
        for prompt, completion in rows:
            padding = longest - len(prompt) - len(completion) - 1
            ids.append(prompt + completion + [self.end] + [self.pad] * padding)
            answer = 2 if len(prompt) > 2 else 3
            kinds.append([1] * (len(prompt) - 2) + [0] + [answer] * (len(completion) + 1)
                         + [0] * padding)
        return torch.tensor(ids), torch.tensor(kinds)


def main(argv: list[str]) -> None:
    parser = flags(__doc__, "molecule")
    parser.add_argument("--data", type=Path, required=True, help="zinc250k.smi.gz")
    parser.add_argument("--batch", type=int, default=192, help="examples (default: 192)")
    parser.add_argument("--vocabulary", type=int, default=512, help="number of tokens")
    args = parser.parse_args(argv)
    prepared = prepare_molecules(args.data, args.out)
    print(f"{len(prepared)} molecules, {sum(len(n) for _, n in prepared)} neighbours")
    tokenizer = molecule_tokenizer([molecule for molecule, _ in prepared[::4]], args.vocabulary)
    check_prompts(tokenizer)
    examples = MoleculeExamples(tokenizer, prepared, args.batch)
    lengths = [len(ids) for ids in examples.tokens.values()]
    print(f"{sum(lengths) / len(lengths):.1f} tokens a molecule")
    torch.manual_seed(args.seed)
    model = small_llama(
        tokenizer, hidden_size=args.dim, intermediate_size=3 * args.dim, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)

    def losses(generator):
        """Cross-entropy at the completion and its end, and at the parent. No prompt will ask for a
        parent, but it is a molecule too, and its logits cost nothing more."""
        rng = random.Random(int(torch.randint(2 ** 62, (1,), generator=generator)))
        nlls, kinds = [], []
        for ids, kind in examples.batch(rng):
            logits = model(input_ids=ids[:, :-1]).logits.float()
            nlls.append(F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(),
                                        reduction="none"))
            kinds.append(kind.flatten())
        nll, kind = torch.cat(nlls), torch.cat(kinds)
        names = enumerate(("parent", "neighbour", "molecule"), 1)
        return {"loss": nll[kind > 0].mean(), **{name: nll[kind == i].mean() for i, name in names}}

    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    train(model, losses, args, optimizers=[
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
        # Muon needs fewer examples than AdamW.
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")])
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main(sys.argv[1:])
