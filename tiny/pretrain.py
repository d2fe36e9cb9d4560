"""Makes the bundled policies under tiny/: small Llama models that know the very prompts of one task each.

    python tiny/pretrain.py wordsearch --minutes 43        # needs WordNet 3.0 (Debian: wordnet-base)
    python tiny/pretrain.py molecule --data zinc250k.smi.gz --dim 128 --batch 128 --lr 4e-3 --minutes 48
    python tiny/pretrain.py arc --batch 3072 --lr 3e-3 --minutes 122

Trains in bf16 on the CPU, writes a checkpoint every minute, carries on from it when started again, and leaves a folder
that `from_pretrained` loads and that could be pushed to the Hub as it is.

wordsearch: a closed vocabulary, one token a word, learned from WordNet alone, so that what the policy knows is
independent of the sentence encoder that scores its guesses. Each example is a prompt of tasks.WordSearch and,
as its label, a whole distribution over words (every relation of a word at once: far fewer examples are needed
than with one sampled word each):

    prompt(), nothing known                  ->  uniform over the vocabulary
    variation_prompt([parent])               ->  the words related to the parent
    variation_prompt([w_1, .., w_k])         ->  the hidden word that the w come closer and closer to, or one related

The loss is the cross-entropy at the completion's two tokens (the word, the end of sequence), nowhere else.
Prompts of one kind have one length, so a batch holds no padding at all.

molecule: SMILES of drug-like molecules, uncharged and without stereochemistry, in byte-pair tokens:

    prompt()                                 ->  a molecule of the list
    variation_prompt([parent])               ->  a molecule with the same core and another rest, or with one edit

arc: synthetic tasks of arc_programs.py, never ARC's own. A token is two cells of a row or a fragment of a program:

    prompt()                                 ->  the program that made the pairs of grids
    variation_prompt([parent])               ->  the same program; the parent is it with an operation left out, replaced,
                                                 added, or in another colour
"""
from __future__ import annotations

import argparse
import collections
import functools
import gzip
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import arc_programs  # noqa: E402
import objectives  # noqa: E402
import tasks  # noqa: E402

PAD, END, USER, ASSISTANT, UNKNOWN = "<pad>", "<eos>", "<user>", "<assistant>", "<unk>"
CHAT_TEMPLATE = ("{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<assistant>' }} {{ m['content'] }}"
                 "{{ '<eos>' if m['role'] == 'assistant' else '' }}{% endfor %}"
                 "{% if add_generation_prompt %}<assistant>{% endif %}")


# ------------------------------------------------------------------------------------------- WordNet

# How much a relation of WordNet counts in a word's distribution. Pointer symbols: see its manual page wninput(5).
RELATION_WEIGHT = {"@": 2.0, "~": 2.0, "@i": 1.0, "~i": 1.0, "%p": 2.0, "#p": 2.0, "%m": 1.0, "#m": 1.0, "%s": 1.5,
                   "#s": 1.5, "+": 2.0, "&": 2.0, "^": 1.0, "!": 1.0, "*": 1.0, ">": 1.0, "$": 1.0, "\\": 1.5, "<": 1.5,
                   "=": 1.0, ";c": 0.5, "-c": 0.5}
SYNONYM, CO_HYPONYM, MENTION = 3.0, 1.0, 1.0
WORD_NORM = 2.0     # length of every word's vector
SUBJECTS = 16       # principal directions of the word vectors that the policy's last MLP writes to
STOP_WORDS = set("the of and for with that which from used into having its are was one are not has been being who "
                 "where when any such than other others more most some very all can may but also their his her they "
                 "this those these there out off over under between through during make made someone something".split())


def read_wordnet(folder: Path) -> tuple[list[str], dict[tuple[str, str], float], list[str]]:
    """WordNet's database files -> (vocabulary, {(word, word): weight}, the nouns worth hiding).

    The vocabulary: single lower-case words of three letters or more that WordNet's sense-tagged texts contain and its
    glosses use three times, or that the glosses use ten times; and the ten words of the published benchmark (three of
    them are no WordNet entry: they get the relations of the words that they are made of).
    """
    synsets, tagged, proper = {}, collections.Counter(), collections.defaultdict(list)
    for pos in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"index.{pos}").read_text().splitlines():
            if not line.startswith(" "):
                f = line.split()
                tagged[f[0], pos] = int(f[4 + int(f[3]) + 1])           # senses that occur in the tagged texts
        for line in (folder / f"data.{pos}").read_text().splitlines():
            if not line.startswith(" "):
                data, gloss = line.split(" | ", 1)
                f = data.split()
                n = int(f[3], 16)
                lemmas = [f[4 + 2 * i].split("(")[0] for i in range(n)]
                pointers = f[5 + 2 * n:]
                links = [(pointers[i], {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}[pointers[i + 2]],
                          pointers[i + 1], int(pointers[i + 3], 16)) for i in range(0, 4 * int(f[4 + 2 * n]), 4)]
                synsets[pos, f[0]] = (lemmas, links, re.findall(r"(?<![a-z'-])[a-z]{3,}(?![a-z'-])", gloss.lower()))
                for lemma in lemmas:
                    proper[lemma.lower()].append(lemma[0].isupper())

    mentions = collections.Counter(word for _, _, gloss in synsets.values() for word in gloss)
    single = {w for w in proper if re.fullmatch("[a-z]{3,}", w) and not all(proper[w])} - STOP_WORDS
    n_tagged = collections.Counter()
    for (word, _), n in tagged.items():
        n_tagged[word] += n
    vocabulary = sorted({w for w in single if mentions[w] >= (3 if n_tagged[w] else 10)} | set(tasks.PUBLISHED_WORDS))
    known = set(vocabulary)

    edges = collections.defaultdict(float)

    def relate(a, b, weight):
        for x in known.intersection(a):
            for y in known.intersection(b):
                if x != y:
                    edges[x, y] += weight / len(a) ** 0.5

    for lemmas, links, gloss in synsets.values():
        words = [w.lower() for w in lemmas]
        relate(words, words, SYNONYM)
        hyponyms = []
        for symbol, target_pos, offset, which in links:
            other = [w.lower() for w in synsets[target_pos, offset][0]]
            source, target = which >> 8, which & 255                    # 0: the whole synset, else one of its words
            relate(words[source - 1:source] if source else words, other[target - 1:target] if target else other,
                   RELATION_WEIGHT.get(symbol, 0.0))
            if symbol == "~":
                hyponyms.append(other)
        for a in hyponyms:
            for b in hyponyms:
                if a is not b:
                    relate(a, b, CO_HYPONYM / math.sqrt(len(hyponyms)))
        for word in set(gloss) & known:                                  # rare words of a gloss say most about it
            weight = MENTION * 2 / math.log2(2 + mentions[word])
            relate(words, [word], weight)
            relate([word], words, weight)
    made_of = {"airbase": ["air", "base"], "birthstone": ["birth", "stone"], "machetes": ["machete"]}
    for word, parts in made_of.items():
        for part in parts:
            for b, weight in [(e[1], w) for e, w in edges.items() if e[0] == part]:
                if b not in made_of:
                    edges[word, b] += weight / 2
                    edges[b, word] += weight / 2
            relate([word], [part], 2 * SYNONYM)
            relate([part], [word], 2 * SYNONYM)
    nouns = [w for w in vocabulary if tagged[w, "noun"] and len(w) >= 4 and w not in tasks.PUBLISHED_WORDS]
    return vocabulary, dict(edges), nouns


def split_targets(nouns: list[str]) -> dict[str, list[str]]:
    """Targets drawn by rule: in the order of the SHA-256 of the word, 60 held-out ones, then 60 to develop on."""
    ordered = sorted(nouns, key=lambda word: hashlib.sha256(word.encode()).hexdigest())
    return {"published": list(tasks.PUBLISHED_WORDS), "held-out": ordered[:60], "development": ordered[60:120]}


def neighbour_table(vocabulary, edges, k=96, hub_power=0.25):
    """The k strongest relations of each word: ids (V, k) and probabilities (V, k) float32, rows summing to 1.

    hub_power: a word related to everything ("animal") says little, so its weight is divided by degree ** hub_power.
    """
    index = {word: i for i, word in enumerate(vocabulary)}
    degree = collections.Counter()
    for (_, b), weight in edges.items():
        degree[b] += weight
    rows = collections.defaultdict(list)
    for (a, b), weight in edges.items():
        rows[index[a]].append((weight / degree[b] ** hub_power, index[b]))
    ids, probs = torch.zeros(len(vocabulary), k, dtype=torch.long), torch.zeros(len(vocabulary), k)
    for i, row in rows.items():
        row = sorted(row, reverse=True)[:k]
        ids[i, :len(row)] = torch.tensor([j for _, j in row])
        probs[i, :len(row)] = torch.tensor([weight for weight, _ in row])
    return ids, probs / probs.sum(1, keepdim=True).clamp_min(1e-9)


def graph_embedding(ids, probs, dim, steps=3):
    """Embeds the relation graph: unit vectors (V, dim), near for words that short random walks join, and the principal
    directions of these vectors (dim, dim), most important first.

    Factors log max(1, mean over s <= steps of P(b, s steps from a) / P(b)), as DeepWalk does implicitly
    (Qiu et al. 2018, NetMF).
    """
    n, k = ids.shape
    rows = torch.arange(n).repeat_interleave(k)
    walk = torch.sparse_coo_tensor(torch.stack([rows, ids.flatten()]), probs.flatten(), (n, n)).coalesce()
    both = (walk + walk.t()).coalesce()
    degree = torch.sparse.sum(both, 1).to_dense().clamp_min(1e-6)
    i, j = both.indices()
    walk = torch.sparse_coo_tensor(both.indices(), both.values() / degree[i], (n, n))
    reached, total = torch.eye(n), torch.zeros(n, n)
    for _ in range(steps):
        reached = walk @ reached
        total += reached / steps
    u, s, _ = torch.svd_lowrank((total * degree.sum() / degree).clamp_min(1).log(), q=dim + 32, niter=4)
    vectors = F.normalize(u[:, :dim] * s[:dim] ** 0.5, dim=1)
    return vectors, torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)[2].T


# ------------------------------------------------------------------------------- word-search examples

def word_tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """One token a word: the vocabulary, the words of the prompts, and nothing else."""
    task = tasks.WordSearch()
    text = " ".join([task.prompt(), task.variation_prompt(["x"]), task.variation_prompt(["x", "x"])]).lower()
    extra = sorted(set(re.findall(r"[a-z]+|[^\sa-z]", text)) - set(vocabulary))
    tokens = [PAD, END, UNKNOWN, USER, ASSISTANT, *extra, *vocabulary]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
                                   additional_special_tokens=[USER, ASSISTANT], chat_template=CHAT_TEMPLATE,
                                   padding_side="left", model_max_length=512)


def chat_ids(tokenizer, prompt: str) -> list[int]:
    """The token ids of a prompt as migrate.py gives it to the policy."""
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                         return_dict=True)["input_ids"]


class WordExamples:
    """Draws batches of (prompt ids (B, P), label ids (B, K), label probabilities (B, K))."""

    def __init__(self, tokenizer, vocabulary, ids, probs, embedding):
        self.tokenizer, self.vocabulary, self.ids, self.probs = tokenizer, vocabulary, ids, probs
        self.embedding = embedding
        self.token = torch.tensor(tokenizer.convert_tokens_to_ids(vocabulary))
        self.related = torch.nonzero(probs.sum(1) > 0).flatten()        # words that have any relation
        self.task = tasks.WordSearch()

    def prompts(self, parents: torch.Tensor) -> torch.Tensor:
        """Word numbers (B, k) -> prompt token ids (B, P): one template, the parents put into its slots."""
        blank = self.task.variation_prompt([UNKNOWN] * parents.shape[1])
        template = torch.tensor(chat_ids(self.tokenizer, blank))
        prompts = template.repeat(len(parents), 1)
        prompts[:, template == self.tokenizer.unk_token_id] = self.token[parents]
        return prompts

    def around(self, words: torch.Tensor, generator, steps=(0.3, 0.5, 0.2), through=8, anywhere=64):
        """A distribution over what is near each word (B,): steps[0] of it on its relations, steps[1] on the relations
        of `through` of these, steps[2] on words drawn from anywhere. A narrow one would leave a search that varies
        good words with nothing new to propose, and training with nothing to choose from.

        Returns ids and probabilities, both (B, k + through * k + anywhere).
        """
        n, ids, probs = len(words), self.ids, self.probs
        over = torch.multinomial(probs[words], through, replacement=True, generator=generator)
        over = ids[words].gather(1, over)                               # (B, through)
        return (torch.cat([ids[words], ids[over].flatten(1),
                           torch.randint(len(ids), (n, anywhere), generator=generator)], 1),
                torch.cat([steps[0] * probs[words], steps[1] / through * probs[over].flatten(1),
                           torch.full((n, anywhere), steps[2] / anywhere)], 1))

    def batch(self, generator: torch.Generator, size: int):
        """Three kinds of prompt, one tensor each."""
        one = self.related[torch.randint(len(self.related), (size,), generator=generator)]
        yield self.prompts(one[:, None]), *self.around(one, generator)

        hidden = self.related[torch.randint(len(self.related), (size // 2,), generator=generator)]
        k = int(torch.randint(2, 11, (1,), generator=generator))
        closeness = self.embedding[hidden] @ self.embedding.T           # (B, V)
        # what a search has seen at some stage of it: guesses at random (sharp ~ 2) up to close ones (sharp ~ 20)
        sharp = 2 + 18 * torch.rand(len(hidden), 1, generator=generator)
        closeness[torch.arange(len(hidden)), hidden] = -1e9             # the hidden word itself is never among them
        seen = torch.multinomial(torch.softmax(sharp * closeness, 1), k, generator=generator)
        order = closeness.gather(1, seen).argsort(1)                    # worst to best
        labels, weights = self.around(hidden, generator)
        labels = torch.cat([hidden[:, None], labels], 1)
        weights = torch.cat([torch.full((len(hidden), 1), 0.3), 0.7 * weights], 1)
        yield self.prompts(seen.gather(1, order)), labels, weights

        anything = torch.randint(len(self.vocabulary), (1, 4096), generator=generator)
        prompt = torch.tensor([chat_ids(self.tokenizer, self.task.prompt())])
        yield prompt, anything, torch.full(anything.shape, 1 / anything.shape[1])


def word_loss(model, tokenizer, token, prompts, labels, weights):
    """Cross-entropy of the word after the prompt (against a distribution), and of the end after a sampled word.

    Returns both and, for shared_loss, what enters the last MLP and the last norm at these two positions: (B, 2, D) each.
    """
    word = token[labels.gather(1, torch.multinomial(weights, 1))]       # (B, 1): any word of the label; EOS follows
    seen = []
    hooks = [m.register_forward_pre_hook(lambda _, x: seen.append(x[0][:, -2:].float()))
             for m in (model.model.layers[-1].mlp, model.model.norm)]
    hidden = model.model(torch.cat([prompts, word], 1)).last_hidden_state
    for hook in hooks:
        hook.remove()
    of_word = F.log_softmax(model.lm_head(hidden[:, -2]).float(), dim=-1)
    of_word = -(weights * of_word.gather(1, token[labels])).sum(1).mean()
    # always the same token: a few rows are enough to learn it, and the logits are what costs
    of_end = -F.log_softmax(model.lm_head(hidden[:16, -1]).float(), dim=-1)[:, tokenizer.eos_token_id].mean()
    return of_word, of_end, seen


def shared_loss(model, task_prompt, others, alike=0.5):
    """Makes the last MLP, where LoRA will sit, answer all prompts in the same way: similar input (cosine `alike`), the
    same gates, and an output of the same weight beside the rest of the network.

    A large language model answers a prompt and its variation with much the same circuit, so what LoRA learns under one
    carries over to the other: MiGrATe lives on that. A model this small, left alone, learns two unrelated circuits
    (cosine -0.02, measured), and nothing carries over.
    """
    gates = model.model.layers[-1].mlp.gate_proj
    (x, residual), loss = task_prompt, 0.0
    for other, other_residual in others:
        loss += F.relu(alike - F.cosine_similarity(other[:, 0], x[:, 0])).mean()
        loss += (1 - F.cosine_similarity(F.silu(gates(other[:, 0])), F.silu(gates(x[:, 0])))).mean()
        loss += (other_residual[:, 0].norm(dim=1) / residual[:, 0].norm(dim=1)).log().square().mean()
    # ending is another matter than answering: what is learned about words must not reach it
    return loss + sum(F.cosine_similarity(other[:, 1], x[:, 0]).square().mean() for other, _ in (*others, task_prompt))


def pretrain_wordsearch(args) -> None:
    vocabulary, edges, _ = read_wordnet(args.data)
    ids, probs = neighbour_table(vocabulary, edges)
    print(f"{len(vocabulary)} words, {len(edges)} relations, {(probs > 0).sum() / len(ids):.0f} kept a word")
    torch.manual_seed(args.seed)
    embedding, principal = graph_embedding(ids, probs, args.dim)
    tokenizer = word_tokenizer(vocabulary)
    # The MLPs are as wide as the subjects that words are about, no wider (SUBJECTS below)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=args.dim, intermediate_size=SUBJECTS,
                         num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
                         max_position_embeddings=512, tie_word_embeddings=True, attention_dropout=0.0,
                         bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    config._attn_implementation = "eager"       # for prompts this short, faster backward than the fused kernel
    model = LlamaForCausalLM(config)
    examples = WordExamples(tokenizer, vocabulary, ids, probs, embedding)
    table, last = model.model.embed_tokens.weight, model.model.layers[-1].mlp
    with torch.no_grad():
        table[examples.token] = WORD_NORM * embedding       # the directions of the graph: relations are there from the first step
        # what every answer has in common, so that the last MLP sees it under every prompt and its gates are open
        answer = F.normalize(torch.randn(args.dim), dim=0)
        table[tokenizer.convert_tokens_to_ids(ASSISTANT)] = 4 * answer
        last.gate_proj.weight.copy_(2 / args.dim ** 0.5 * answer.repeat(SUBJECTS, 1))
        last.down_proj.weight.copy_(principal[:, :SUBJECTS])
    last.down_proj.weight.requires_grad_(False)

    def losses(generator):
        near, hidden, anything = [word_loss(model, tokenizer, examples.token, *batch)
                                  for batch in examples.batch(generator, args.batch)]
        shared = shared_loss(model, anything[2], [near[2], hidden[2]])
        ends = near[1] + hidden[1] + anything[1]
        return {"loss": near[0] + 0.5 * hidden[0] + 0.05 * anything[0] + 0.2 * ends + 0.2 * shared,
                "neighbour": near[0], "list": hidden[0], "anything": anything[0], "end": ends, "shared": shared}

    @torch.no_grad()
    def equal_lengths():        # no word is favoured for being a longer vector
        table[examples.token] = WORD_NORM * F.normalize(table[examples.token], dim=1)

    train(model, losses, args, equal_lengths)
    save(model, tokenizer, args.out)


# -------------------------------------------------------------------------------------------- molecules

MOLECULE_TEMPLATE = (   # what this policy reads of a prompt: the parent, of a list the best; objectives it knows none
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>"
    "{% if 'variation of: ' in m['content'] %}{{ m['content'].split('variation of: ')[1].split(' ')[0] }}"
    "{% elif 'the last the best: ' in m['content'] %}"
    "{{ m['content'].split('the last the best: ')[1].split(' Answer')[0].split(' ')[-1] }}{% endif %}"
    "{% else %}<assistant>{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}")
SMILES_CHARACTERS = "()[]=#$:/\\\\.+-@*%0123456789BCFHIKLNOPRSTUVWXYZabcdefgiklmnoprstu"


def flat(smiles: str) -> str | None:
    """Canonical SMILES without charges (where they can go) and without stereochemistry; None for what is no molecule."""
    from rdkit import Chem
    from rdkit.Chem.MolStandardize import rdMolStandardize
    try:
        mol = Chem.MolFromSmiles(smiles)
        if "+" in smiles or "-]" in smiles:
            mol = rdMolStandardize.Uncharger().uncharge(mol)
        return objectives.canonical(Chem.MolToSmiles(mol, isomericSmiles=False))
    except Exception:       # RDKit raises errors of many kinds
        return None


def cuts(smiles: str, most: int = 4) -> list[tuple[str, str]]:
    """(core, rest): up to `most` single bonds outside rings, drawn from those that leave a core of more than half of the
    molecule and a rest of 12 atoms or fewer; SMILES with one open bond each, in [1*]."""
    from rdkit import Chem
    mol = Chem.MolFromSmiles(smiles)
    bonds = [i for pair in mol.GetSubstructMatches(objectives.pattern("[#6+0;!$(*=,#[!#6])]!@!=!#[*]"))
             for i in [mol.GetBondBetweenAtoms(*pair).GetIdx()]]
    bonds, found = sorted(set(bonds)), []
    for bond in random.Random(smiles).sample(bonds, len(bonds)):
        parts = Chem.GetMolFrags(Chem.FragmentOnBonds(mol, [bond], dummyLabels=[(1, 1)]), asMols=True)
        rest, core = sorted(parts, key=lambda part: part.GetNumAtoms())
        if rest.GetNumAtoms() <= min(13, core.GetNumAtoms() - 1):       # the open end counts as one
            found.append((Chem.MolToSmiles(core), Chem.MolToSmiles(rest)))
        if len(found) == most:
            break
    return found


def join(core: str, rest: str) -> str | None:
    """The molecule of two parts with one open bond each."""
    from rdkit import Chem
    try:
        params = Chem.MolzipParams()
        params.label = Chem.MolzipLabel.Isotope
        return objectives.canonical(Chem.MolToSmiles(Chem.molzip(Chem.MolFromSmiles(core), Chem.MolFromSmiles(rest), params)))
    except Exception:
        return None


def edit(smiles: str) -> str | None:
    """The molecule with one atom or bond changed: another element, one atom more or less, another bond order."""
    from rdkit import Chem
    rng = random.Random(smiles)
    for _ in range(20):         # most draws break a valence
        try:
            mol = Chem.RWMol(Chem.MolFromSmiles(smiles))
            Chem.Kekulize(mol, clearAromaticFlags=True)
            atom, bond = rng.choice(mol.GetAtoms()), rng.choice(mol.GetBonds())
            element = rng.choice([6, 6, 6, 7, 7, 8, 8, 9, 16, 17])
            for a in mol.GetAtoms():
                if not a.GetFormalCharge():
                    a.SetNoImplicit(False)
                    a.SetNumExplicitHs(0)
            kind = rng.choice(["element", "element", "append", "insert", "delete", "order"])
            if kind == "element":
                atom.SetAtomicNum(element)
            elif kind == "append":
                mol.AddBond(atom.GetIdx(), mol.AddAtom(Chem.Atom(element)), Chem.BondType.SINGLE)
            elif kind == "insert":
                a, b, new = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), mol.AddAtom(Chem.Atom(element))
                mol.RemoveBond(a, b)
                mol.AddBond(a, new, Chem.BondType.SINGLE)
                mol.AddBond(new, b, Chem.BondType.SINGLE)
            elif kind == "delete":
                ends = [a.GetIdx() for a in atom.GetNeighbors()]
                if len(ends) == 2 and mol.GetBondBetweenAtoms(*ends) is None:
                    mol.AddBond(*ends, Chem.BondType.SINGLE)
                mol.RemoveAtom(atom.GetIdx())
            else:
                bond.SetBondType(rng.choice([Chem.BondType.SINGLE, Chem.BondType.DOUBLE]))
            new = Chem.MolToSmiles(mol)
            new = objectives.canonical(new) if "." not in new else None
            if new and new != smiles:
                return new
        except Exception:
            pass
    return None


def prepare_molecules(path: Path, folder: Path, paired: int = 150_000) -> list[tuple[str, list[str]]]:
    """(SMILES, up to three neighbours) for every molecule of a list, cached in folder/neighbours.txt: neighbours for the
    first `paired` of them in random order.

    Two neighbours keep the core and have another rest: one that some molecule of the list has at the same core where
    there is one (a matched molecular pair), else a rest drawn from all of them (as often as it occurs). One has a single
    atom or bond changed.
    """
    cache = folder / "neighbours.txt"
    if not cache.exists():
        rng = random.Random(0)
        with multiprocessing.Pool() as pool:
            molecules = sorted(set(filter(None, tqdm(pool.imap(flat, gzip.open(path, "rt"), 1000), "flat"))))
            rng.shuffle(molecules)
            chosen = molecules[:paired]
            parts = list(tqdm(pool.imap(cuts, chosen, 1000), "cuts", len(chosen)))
            at_core, rests = collections.defaultdict(set), []
            for of in parts:
                for core, rest in of:
                    at_core[core].add(rest)
                    rests.append(rest)
            wanted = []         # (number of the molecule, core, new rest)
            for i, of in enumerate(parts):
                for core, rest in rng.sample(of, min(2, len(of))):
                    others = sorted(at_core[core] - {rest})
                    wanted.append((i, core, rng.choice(others if others else rests)))
            made = pool.starmap(join, [w[1:] for w in tqdm(wanted, "join")], 1000)
            edited = list(tqdm(pool.imap(edit, chosen, 1000), "edit", len(chosen)))
        neighbours = collections.defaultdict(list)
        for i, smiles in [*zip((w[0] for w in wanted), made), *enumerate(edited)]:
            if smiles and smiles != molecules[i]:
                neighbours[i].append(smiles)
        folder.mkdir(parents=True, exist_ok=True)
        cache.write_text("".join(" ".join([m, *neighbours[i]]) + "\n" for i, m in enumerate(molecules)))
    return [(first, rest) for first, *rest in map(str.split, cache.read_text().splitlines())]


def molecule_tokenizer(molecules: list[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding of SMILES: frequent pieces of molecules are single tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer.train_from_iterator(molecules, trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, END, UNKNOWN, USER, ASSISTANT], show_progress=False,
        initial_alphabet=list(SMILES_CHARACTERS)))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
                                   additional_special_tokens=[USER, ASSISTANT], chat_template=MOLECULE_TEMPLATE,
                                   padding_side="left", model_max_length=512)


def pretrain_molecule(args) -> None:
    prepared = prepare_molecules(args.data, args.out)
    print(f"{len(prepared)} molecules, {sum(len(n) for _, n in prepared)} neighbours")
    tokenizer = molecule_tokenizer([m for m, _ in prepared[::4]], args.vocabulary)
    user, assistant, end, pad = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, END, PAD])
    task = tasks.Molecule()
    assert chat_ids(tokenizer, task.prompt()) == [user, assistant]      # the very prompts of the task
    assert chat_ids(tokenizer, task.variation_prompt(["CCO"])) == [user, *tokenizer.encode("CCO"), assistant]
    texts = sorted({s for m, n in prepared for s in (m, *n)})
    tokens = dict(zip(texts, (e.ids for e in tokenizer.backend_tokenizer.encode_batch(texts))))
    print(f"{sum(map(len, tokens.values())) / len(tokens):.1f} tokens a molecule")
    torch.manual_seed(args.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=args.dim, intermediate_size=3 * args.dim, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        attention_dropout=0.0, bos_token_id=None, eos_token_id=end, pad_token_id=pad)
    config._attn_implementation = "eager"       # as for words
    model = LlamaForCausalLM(config)
    paired = [(m, n) for m, n in prepared if n]

    def rows(rng: random.Random) -> list[tuple[list[int], list[int]]]:
        """(prompt, completion) token ids of a batch: 2 in 5 are molecules as they come, the others neighbours of one. A
        pair is as good backwards: then a made-up neighbour is the parent, and the answer is a real molecule."""
        alone = [([user, assistant], tokens[rng.choice(prepared)[0]]) for _ in range(2 * args.batch // 5)]
        pairs = [(m, rng.choice(n)) for m, n in rng.choices(paired, k=args.batch - len(alone))]
        return alone + [([user, *tokens[a], assistant], tokens[b]) for a, b in
                        (pair if rng.random() < 0.5 else pair[::-1] for pair in pairs)]

    def losses(generator):
        """Cross-entropy at the completion and its EOS. Parents are predicted as well, which no prompt will ever ask for:
        they are molecules, too, and already paid for."""
        batch = sorted(rows(random.Random(int(torch.randint(2 ** 62, (1,), generator=generator)))),
                       key=lambda row: len(row[0]) + len(row[1]))
        nlls, kinds = [], []
        for chunk in (batch[i * len(batch) // 4:(i + 1) * len(batch) // 4] for i in range(4)):  # like lengths: less padding
            longest = max(len(p) + len(c) + 1 for p, c in chunk)
            ids = torch.tensor([p + c + [end] + [pad] * (longest - len(p) - len(c) - 1) for p, c in chunk])
            # what each predicted token belongs to; 0: to nothing
            kinds += [kind for p, c in chunk for kind in [1] * (len(p) - 2) + [0] + [2 if len(p) > 2 else 3] * (len(c) + 1)
                      + [0] * (longest - len(p) - len(c) - 1)]
            logits = model(input_ids=ids[:, :-1]).logits.float()
            nlls.append(F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"))
        nll, kind = torch.cat(nlls), torch.tensor(kinds)
        return {"loss": nll[kind > 0].mean(),
                **{name: nll[kind == i].mean() for i, name in enumerate(("parent", "neighbour", "molecule"), 1)}}

    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    train(model, losses, args, optimizers=[
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")])     # needs fewer examples
    save(model, tokenizer, args.out)


# ------------------------------------------------------------------------------------------------ ARC

# What this policy reads of a prompt: the pairs, and of the programs the last. It sees no test input and no sentence.
ARC_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>"
    "{% for pair in m['content'].split('\n\nTest input:')[0].split('\nInput:')[1:] %}"
    "{{ '\nInput:' + pair.split('\n\n')[0] }}{% endfor %}"
    "{% if '```python\n' in m['content'] %}"
    "<parent>{{ m['content'].split('```python\n')[-1].split('\n```')[0] }}{% endif %}"
    "{% else %}<assistant>{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}")
PARENT = "<parent>"
LONGEST = {120: 0.4, 200: 0.35, 440: 0.25}   # most tokens of the pairs in training, and how often: short ones teach more a second
PARENTS = 2             # neighbour examples a task


def arc_tokenizer() -> PreTrainedTokenizerFast:
    """A token for two cells, or one, of a row (the line break before a row is part of its first token) and for each
    fragment of a program. Whatever else stands in a text is unknown."""
    c = tasks.COLORS
    cells = [start + rest for start in ("\n", " ") for rest in (*(f"{a} {b}" for a in c for b in c), *c)]
    special = [PAD, END, UNKNOWN, USER, ASSISTANT, PARENT]
    tokens = [*special, "\nInput:", "\nOutput:", *cells, *arc_programs.all_fragments()]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in tokens[len(special):]])      # the longest match wins
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
                                   additional_special_tokens=special[3:], chat_template=ARC_TEMPLATE,
                                   padding_side="left")


def shard_file(folder: Path, seed: int, number: int) -> Path:
    path = folder / f"{number:04d}.jsonl"
    if not path.exists():
        lines = [json.dumps(task) + "\n" for task in arc_programs.shard(seed, number)]
        path.with_suffix(".new").write_text("".join(lines))
        os.replace(path.with_suffix(".new"), path)
    return path


class ArcExamples:
    """Draws batches of tasks, the pairs of each followed by several answers that see the pairs but not each other:

        pairs | <assistant> program <eos> | <parent> worse program <assistant> program <eos> | ..

    so that the pairs, by far the longest part, are encoded once.
    """

    def __init__(self, tokenizer, seed: int):
        self.seed, self.id = seed, {t: i for t, i in tokenizer.get_vocab().items()}
        c = tasks.COLORS
        self.row = {(start, a, b): self.id[start + c[int(a)] + (" " + c[int(b)] if b else "")]
                    for start in "\n " for a in "0123456789" for b in ("", *"0123456789")}

    def grid(self, text: str) -> list[int]:
        """Rows of digits -> the token ids of the same rows in words of colours."""
        return [self.row["\n" if j == 0 else " ", row[j], row[j + 1:j + 2]]
                for row in text.split("/") for j in range(0, len(row), 2)]

    def pairs(self, pairs: list, rng: random.Random) -> list[int] | None:
        """Two or three pairs in any order, the largest left out where they are too long (as tasks.Arc does)."""
        pairs = [[self.id["\nInput:"], *self.grid(a), self.id["\nOutput:"], *self.grid(b)] for a, b in pairs]
        pairs = rng.sample(pairs, rng.choice([2, 3, 3]))
        longest = rng.choices(list(LONGEST), list(LONGEST.values()))[0]
        while sum(map(len, pairs)) > longest:
            pairs.remove(max(pairs, key=len))
        return [self.id[USER], *itertools.chain(*pairs)] if len(pairs) >= (1 if longest == max(LONGEST) else 2) else None

    def program(self, steps) -> list[int]:
        return [self.id[f] for f in arc_programs.fragments(steps)]

    def parent(self, steps: list, rng: random.Random) -> list:
        """A worse program: an operation is missing (most often, where there are two), another one, one too many."""
        def any_step():
            name = rng.choice(list(arc_programs.OPERATIONS))
            return name, tuple(rng.sample(range(1, 10), arc_programs.OPERATIONS[name].colours))
        i, what = rng.randrange(len(steps)), rng.random()
        if what < 0.45 and len(steps) > 1:
            return steps[:i] + steps[i + 1:]
        if what < 0.6 and steps[i][1]:
            return steps[:i] + [(steps[i][0], tuple(rng.sample(range(1, 10), len(steps[i][1]))))] + steps[i + 1:]
        if what < 0.85:
            return steps[:i] + [any_step()] + steps[i + 1:]
        i += rng.randrange(2)
        return steps[:i] + [any_step()] + steps[i:]

    def example(self, task: dict, rng: random.Random):
        """(ids, segments: 0 the pairs and 1, 2, .. the answers, positions, labels), or None if no pair is short enough."""
        ids = self.pairs(task["pairs"], rng)
        if ids is None:
            return None
        steps = [(name, tuple(colours)) for name, colours in task["steps"]]
        answer, start = [self.id[ASSISTANT], *self.program(steps), self.id[END]], len(ids)
        segments, positions, labels = [0] * start, list(range(start)), [-100] * start
        for k in range(1 + PARENTS):
            shown = [self.id[PARENT], *self.program(self.parent(steps, rng))] if k else []
            ids = ids + shown + answer
            n = len(shown) + len(answer)
            segments += [k + 1] * n
            positions += range(start, start + n)
            labels += [-100] * len(shown) + answer[1:] + [-100]         # each token's label is the next one
        return ids, segments, positions, labels

    def batches(self, paths, tokens: int):
        """Batches of about as many tokens, made of examples of similar length, for ever new tasks."""
        for number, path in enumerate(paths):
            rng = random.Random(f"{self.seed} {number}")
            examples = [self.example(json.loads(line), rng) for line in path.open()]
            examples = sorted((e for e in examples if e), key=lambda e: len(e[0]))
            batches = []
            while examples:
                size = max(1, tokens // len(examples[-1][0]))
                batches.append(examples[-size:])
                del examples[-size:]
            rng.shuffle(batches)
            yield from map(self.tensors, batches)

    def tensors(self, batch: list):
        """ids, segments, positions, labels (B, L) and the mask (B, 1, L, L) of what each token sees."""
        longest = max(len(e[0]) for e in batch)
        padded = [torch.tensor([e[i] + [fill] * (longest - len(e[i])) for e in batch]) for i, fill in enumerate((0, -1, 0, -100))]
        segments = padded[1]
        sees = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])         # (B, L, L)
        sees = (sees & torch.ones(longest, longest, dtype=torch.bool).tril())[:, None]
        return *padded, torch.zeros(sees.shape).masked_fill_(~sees, float("-inf"))


def arc_model(tokenizer, args) -> LlamaForCausalLM:
    """Two cells of a row start as the sum of one vector for each, so that what they have in common is there from the first step."""
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=args.dim, intermediate_size=3 * args.dim, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=False,
        attention_dropout=0.0, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    model.config._attn_implementation = "eager"     # with a mask of its own and sequences this short, the faster one
    start, left, right = 0.02 * torch.randn(args.dim), 0.02 * torch.randn(10, args.dim), 0.02 * torch.randn(10, args.dim)
    with torch.no_grad():
        for token, i in tokenizer.get_vocab().items():
            words = token.split()
            if words and all(w in tasks.COLORS for w in words):
                numbers = [tasks.COLORS.index(w) for w in words]
                model.model.embed_tokens.weight[i] = left[numbers[0]] + (right[numbers[1]] if numbers[1:] else 0) + (
                    start if token[0] == "\n" else 0)
    return model


def pretrain_arc(args) -> None:
    tokenizer = arc_tokenizer()
    examples, model = ArcExamples(tokenizer, args.seed), arc_model(tokenizer, args)
    check_arc(tokenizer, examples)
    print(f"{len(arc_programs.OPERATIONS)} operations, {len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "layers" in name)]
    optimizers = [torch.optim.Muon(hidden, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
                  torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01)]
    args.data.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    done = torch.load(checkpoint)["step"] if checkpoint.exists() else 0

    def losses(generator):
        ids, segments, positions, labels, mask = next(batches)
        states = model.model(input_ids=ids, position_ids=positions, attention_mask=mask.to(torch.bfloat16)).last_hidden_state
        at = labels >= 0
        of_token = F.cross_entropy(model.lm_head(states[at]).float(), labels[at], reduction="none")
        alone = segments[at] == 1
        task, neighbour = of_token[alone].mean(), of_token[~alone].mean()
        return {"loss": task + neighbour, "task": task, "neighbour": neighbour}

    with multiprocessing.Pool(1, os.nice, (10,)) as pool:       # makes the tasks, ahead of the training
        paths = pool.imap(functools.partial(shard_file, args.data, args.seed), range(10_000))
        batches = itertools.islice(examples.batches(paths, args.batch), done, None)
        train(model, losses, args, optimizers=optimizers)
        pool.terminate()
    save(model, tokenizer, args.out)


def check_arc(tokenizer, examples: ArcExamples) -> None:
    """What the policy is trained on is what migrate.py will show it: the same ids for a task's real prompts."""
    task = tasks.Arc()
    digits = [["/".join("".join(map(str, row)) for row in grid) for grid in pair] for pair in task.train]
    pairs = [i for a, b in digits for i in (examples.id["\nInput:"], *examples.grid(a), examples.id["\nOutput:"], *examples.grid(b))]
    steps = arc_programs.all_steps()[:3]
    assert chat_ids(tokenizer, task.prompt()) == [examples.id[USER], *pairs, examples.id[ASSISTANT]]
    assert chat_ids(tokenizer, task.variation_prompt([arc_programs.text(steps)])) == [
        examples.id[USER], *pairs, examples.id[PARENT], *examples.program(steps), examples.id[ASSISTANT]]
    assert tokenizer.decode(examples.program(steps)) == arc_programs.text(steps)


# ------------------------------------------------------------------------------------- shared: training

def train(model, losses, args, after_step=lambda: None, optimizers=None) -> None:
    """AdamW (or other optimizers, all at one rate) with warm-up and linear decay over args.minutes of training time;
    resumes from args.out/checkpoint.pt.

    losses(generator) -> {"loss": what is minimised, others: what is shown}. The batch of step s derives from
    (seed, s), so a resumed run goes on with the batches that an uninterrupted one would have seen.
    """
    checkpoint = args.out / "checkpoint.pt"
    optimizers = optimizers or [torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)]
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        step, spent = state["step"], state["spent"]
    total, last_saved, shown = args.minutes * 60, time.time(), {}
    with tqdm(total=round(total), initial=round(spent), unit="s", bar_format="{l_bar}{bar}| {n}/{total}s {postfix}",
              disable=None if sys.stderr.isatty() else False, mininterval=args.log_every) as bar:
        while spent < total:
            started = time.time()
            progress = spent / total
            for group in itertools.chain(*(optimizer.param_groups for optimizer in optimizers)):
                group["lr"] = args.lr * min(1.0, (step + 1) / 100) * (1 - progress)
            with torch.autocast("cpu", torch.bfloat16):
                parts = losses(torch.Generator().manual_seed(args.seed * 1_000_003 + step))
            model.zero_grad()
            parts["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            after_step()
            for name, value in parts.items():
                shown[name] = 0.98 * shown.get(name, value.item()) + 0.02 * value.item()
            step, spent = step + 1, spent + time.time() - started
            bar.set_postfix_str(f"step {step} " + " ".join(f"{k} {v:.3f}" for k, v in shown.items()), refresh=False)
            bar.update(min(round(spent), bar.total) - bar.n)
            if time.time() - last_saved > 60 or spent >= total:
                args.out.mkdir(parents=True, exist_ok=True)
                torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                            "step": step, "spent": spent}, checkpoint.with_suffix(".new"))
                os.replace(checkpoint.with_suffix(".new"), checkpoint)
                last_saved = time.time()


def save(model, tokenizer, folder: Path) -> None:
    """A Hub model repo: config, bf16 safetensors, tokenizer with its chat template (the card is written by hand)."""
    model.generation_config.update(do_sample=True, eos_token_id=tokenizer.eos_token_id,
                                   pad_token_id=tokenizer.pad_token_id)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["wordsearch", "molecule", "arc"])
    parser.add_argument("--data", type=Path, help="wordsearch: folder of WordNet's files (default: /usr/share/wordnet); "
                                                  "molecule: zinc250k.smi.gz; arc: where tasks are kept (default: OUT/tasks)")
    parser.add_argument("--out", type=Path, help="default: tiny/TASK")
    parser.add_argument("--minutes", type=float, default=25, help="of training time")
    parser.add_argument("--batch", type=int, help="examples (default: 192); arc: tokens (default: 8192)")
    parser.add_argument("--vocabulary", type=int, default=512, help="molecule: number of tokens")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=float, default=1.0, help="seconds between two updates of the bar")
    args = parser.parse_args()
    args.out = args.out or HERE / args.task
    args.data = args.data or (args.out / "tasks" if args.task == "arc" else Path("/usr/share/wordnet"))
    args.batch = args.batch or (8192 if args.task == "arc" else 192)
    {"wordsearch": pretrain_wordsearch, "molecule": pretrain_molecule, "arc": pretrain_arc}[args.task](args)


if __name__ == "__main__":
    main()
