"""WordNet 3.0 as a vocabulary of words and weighted relations between them.

Needs WordNet's database files (Debian: wordnet-base, in /usr/share/wordnet). Their format: the
manual pages wndb(5) and wninput(5).
"""
from __future__ import annotations

import collections
import hashlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import torch

from domains.words import PUBLISHED_WORDS

# How much a relation counts in a word's distribution. The symbols: see wninput(5).
RELATION_WEIGHT = {
    "@": 2.0, "~": 2.0, "@i": 1.0, "~i": 1.0, "%p": 2.0, "#p": 2.0, "%m": 1.0, "#m": 1.0, "%s": 1.5,
    "#s": 1.5, "+": 2.0, "&": 2.0, "^": 1.0, "!": 1.0, "*": 1.0, ">": 1.0, "$": 1.0, "\\": 1.5,
    "<": 1.5, "=": 1.0, ";c": 0.5, "-c": 0.5}
HYPONYM = "~"
SYNONYM, CO_HYPONYM, MENTION = 3.0, 1.0, 1.0
STOP_WORDS = set(
    "the of and for with that which from used into having its are was one are not has been being "
    "who where when any such than other others more most some very all can may but also their his "
    "her they this those these there out off over under between through during make made someone "
    "something".split())
# The published words that are no entries of WordNet, and what they are made of.
MADE_OF = {"airbase": ["air", "base"], "birthstone": ["birth", "stone"], "machetes": ["machete"]}

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
LETTER = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}


class Link(NamedTuple):
    symbol: str
    synset: tuple[str, str]     # part of speech and offset of what it points to
    source: int                 # number of the word that it starts from; 0: the whole synset
    target: int                 # number of the word that it points to; 0: the whole synset


class Synset(NamedTuple):
    lemmas: list[str]
    links: list[Link]
    gloss: list[str]            # the words of its definition, lower case


def read_wordnet(folder: Path) -> tuple[list[str], dict[tuple[str, str], float], list[str]]:
    """WordNet's files -> (vocabulary, {(word, word): weight}, the nouns worth hiding).

    The vocabulary: single lower-case words of three letters or more. The sense-tagged texts contain
    them and the glosses use them three times, or the glosses use them ten times. Besides, the ten
    words of the published benchmark.
    """
    tagged, synsets = {}, {}
    for pos in PARTS_OF_SPEECH:
        tagged.update(read_index(folder, pos))
        synsets.update(read_synsets(folder, pos))
    mentions = collections.Counter(word for synset in synsets.values() for word in synset.gloss)
    vocabulary = choose_vocabulary(synsets, tagged, mentions)
    relations = Relations(vocabulary)
    for synset in synsets.values():
        relate_synset(relations, synset, synsets, mentions)
    for word, parts in MADE_OF.items():
        relate_compound(relations, word, parts)
    nouns = [word for word in vocabulary
             if tagged.get((word, "noun")) and len(word) >= 4 and word not in PUBLISHED_WORDS]
    return vocabulary, dict(relations.weights), nouns


def data_lines(path: Path) -> list[str]:
    """The lines of a file of WordNet without the licence at its head, which is indented."""
    return [line for line in path.read_text().splitlines() if not line.startswith(" ")]


def read_index(folder: Path, pos: str) -> dict[tuple[str, str], int]:
    """{(word, part of speech): number of its senses that occur in the tagged texts}."""
    tagged = {}
    for line in data_lines(folder / f"index.{pos}"):
        fields = line.split()
        n_pointers = int(fields[3])
        tagged[fields[0], pos] = int(fields[4 + n_pointers + 1])
    return tagged


def read_synsets(folder: Path, pos: str) -> dict[tuple[str, str], Synset]:
    """{(part of speech, offset): Synset}."""
    synsets = {}
    for line in data_lines(folder / f"data.{pos}"):
        data, gloss = line.split(" | ", 1)
        fields = data.split()
        n_words = int(fields[3], 16)
        lemmas = [fields[4 + 2 * i].split("(")[0] for i in range(n_words)]
        n_links, first = int(fields[4 + 2 * n_words]), 5 + 2 * n_words
        links = []
        for i in range(first, first + 4 * n_links, 4):
            symbol, offset, letter, numbers = fields[i:i + 4]
            source, target = divmod(int(numbers, 16), 256)
            links.append(Link(symbol, (LETTER[letter], offset), source, target))
        words = re.findall(r"(?<![a-z'-])[a-z]{3,}(?![a-z'-])", gloss.lower())
        synsets[pos, fields[0]] = Synset(lemmas, links, words)
    return synsets


def choose_vocabulary(synsets, tagged, mentions) -> list[str]:
    capitals = collections.defaultdict(list)
    for synset in synsets.values():
        for lemma in synset.lemmas:
            capitals[lemma.lower()].append(lemma[0].isupper())
    single = {word for word, capital in capitals.items()
              if re.fullmatch("[a-z]{3,}", word) and not all(capital)} - STOP_WORDS
    n_tagged = collections.Counter()
    for (word, _), n in tagged.items():
        n_tagged[word] += n
    chosen = {word for word in single if mentions[word] >= (3 if n_tagged[word] else 10)}
    return sorted(chosen | set(PUBLISHED_WORDS))


class Relations:
    """{(word, word): weight} of a vocabulary."""

    def __init__(self, vocabulary: list[str]):
        self.vocabulary = set(vocabulary)
        self.weights = collections.defaultdict(float)

    def add(self, first: list[str], second: list[str], weight: float) -> None:
        """From each of the first words to each of the second; the first share the weight."""
        for a in self.vocabulary.intersection(first):
            for b in self.vocabulary.intersection(second):
                if a != b:
                    self.weights[a, b] += weight / len(first) ** 0.5


def relate_synset(relations: Relations, synset: Synset, synsets, mentions) -> None:
    """Adds what a synset says: synonyms, its links, words with a common hypernym, its gloss."""
    words = [lemma.lower() for lemma in synset.lemmas]
    relations.add(words, words, SYNONYM)
    hyponyms = []
    for link in synset.links:
        others = [lemma.lower() for lemma in synsets[link.synset].lemmas]
        sources = words[link.source - 1:link.source] if link.source else words
        targets = others[link.target - 1:link.target] if link.target else others
        relations.add(sources, targets, RELATION_WEIGHT.get(link.symbol, 0.0))
        if link.symbol == HYPONYM:
            hyponyms.append(others)
    for a in hyponyms:
        for b in hyponyms:
            if a is not b:
                relations.add(a, b, CO_HYPONYM / math.sqrt(len(hyponyms)))
    for word in set(synset.gloss) & relations.vocabulary:
        weight = MENTION * 2 / math.log2(2 + mentions[word])    # rare words say most
        relations.add(words, [word], weight)
        relations.add([word], words, weight)


def relate_compound(relations: Relations, word: str, parts: list[str]) -> None:
    """Gives a word that is no entry of WordNet the relations of its parts, at half their weight."""
    weights = relations.weights
    for part in parts:
        for b, weight in [(b, weight) for (a, b), weight in weights.items() if a == part]:
            if b not in MADE_OF:
                weights[word, b] += weight / 2
                weights[b, word] += weight / 2
        relations.add([word], [part], 2 * SYNONYM)
        relations.add([part], [word], 2 * SYNONYM)


def split_targets(nouns: list[str]) -> dict[str, list[str]]:
    """Targets drawn by rule: 60 held-out ones, then 60 to develop on, in the order of the SHA-256
    of the word."""
    ordered = sorted(nouns, key=lambda word: hashlib.sha256(word.encode()).hexdigest())
    return {"published": list(PUBLISHED_WORDS), "held-out": ordered[:60],
            "development": ordered[60:120]}


def neighbour_table(vocabulary, edges, k=96, hub_power=0.25):
    """The k strongest relations of each of V words: ids (V, k) and probabilities (V, k) float32,
    whose rows sum to 1.

    hub_power: a word that is related to everything ("animal") says little, so its weight is divided
    by degree ** hub_power.
    """
    index = {word: i for i, word in enumerate(vocabulary)}
    degree = collections.Counter()
    for (_, b), weight in edges.items():
        degree[b] += weight
    rows = collections.defaultdict(list)
    for (a, b), weight in edges.items():
        rows[index[a]].append((weight / degree[b] ** hub_power, index[b]))
    ids = torch.zeros(len(vocabulary), k, dtype=torch.long)
    probs = torch.zeros(len(vocabulary), k)
    for i, row in rows.items():
        row = sorted(row, reverse=True)[:k]
        ids[i, :len(row)] = torch.tensor([j for _, j in row])
        probs[i, :len(row)] = torch.tensor([weight for weight, _ in row])
    return ids, probs / probs.sum(1, keepdim=True).clamp_min(1e-9)
