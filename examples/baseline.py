"""One loop for searches without a policy: what proposes candidates is a plain function.

    propose(scores) -> candidates       scores: {candidate: f(candidate)} of all that was scored

It is called once a step. The task scores what is new among its candidates. Everything else is as in
a search of migrate.py: the warm start, the counts, the files of the run folder, the page. So a
baseline stands in the same tables (`python -m reports`).

A run is not repeated: a finished one is left alone, and an interrupted one goes on when the same
command is given again. For that `propose` has to derive from the seed. It is called again from the
first step on, and what the folder holds of its candidates is not scored again.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from domains.contract import Checked
from reports import pages
from runlog.ending import print_summary
from runlog.errors import UserError
from runlog.flags import Parser
from runlog.folder import Run
from runlog.ledger import ON_POLICY, WARM_START, Evaluation
from runlog.metrics import summary
from tasks import Score, Task

GIVE_UP_AFTER = 50      # steps in a row without a new candidate

Propose = Callable[[dict[str, float]], list[str]]


@dataclass
class Settings:
    """What config.json says of such a search. The names are those of migrate.Config."""
    task: str
    method: str
    preset: str
    seed: int
    budget: int | None = None       # stop after so many evaluations
    proposals: int | None = None    # the same, where a comparison fixes the proposals instead
    after_solved: int | None = 0    # evaluations after the first solution. 0: stop right there;
    model: str = ""                 # more: finish its step first; None: go on to the end

    @property
    def limit(self) -> int:
        """How many evaluations there are at most. No candidate is proposed twice, so budget and
        proposals count the same."""
        return self.proposals if self.budget is None else self.budget


def flags(description: str, program: str, seed: int = 42, budget: int = 1000) -> Parser:
    """The flags that all baselines have. program: the module, as in `python -m PROGRAM`."""
    parser = Parser(prog=f"python -m {program}", description=description,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, default=seed, help=f"default: {seed}")
    parser.add_argument("--budget", type=int, default=budget,
                        help=f"candidates to score (default: {budget})")
    parser.add_argument("--out", type=Path, required=True,
                        help="folder of the run; left alone if the run is finished")
    return parser


def run(task: Task, settings: Settings, propose: Propose, folder: Path, program: str,
        command: list[str]) -> None:
    """Searches and leaves a run folder. command: what was typed behind `python -m PROGRAM`."""
    if settings.limit < 1:
        raise UserError(f"--budget {settings.limit}: at least 1")
    record = {"config": asdict(settings), "options": asdict(task), "program": ["-m", program],
              "command": command}
    files = Run(folder, record, resume=True)
    if files.finished:
        print(f"{folder} is finished already")
        return
    with files.progress(replace(settings, budget=settings.limit)):
        found = search(task, settings, propose, files)
    files.finish(found)
    pages.write_safely(folder, task)
    print_summary(folder, task)


def search(task: Task, settings: Settings, propose: Propose, files: Run) -> dict:
    """Searches until the task is solved or the budget is spent; returns what summary.json holds."""
    started = time.perf_counter()
    files.resume_from(-1)           # all that the folder holds is paid for
    archive: dict[str, Evaluation] = {}
    for e in evaluate(files, task, task.warm_start(settings.seed), step=0):
        archive[e.candidate] = e
    n_warm, step, stale, limit = len(archive), 0, 0, settings.limit
    solution, solved_at = None, None
    while len(archive) - n_warm < limit and stale < GIVE_UP_AFTER:
        proposed = propose({c: e.score for c, e in archive.items()})
        if not proposed:
            break
        step += 1
        spent = len(archive) - n_warm
        new = [c for c in dict.fromkeys(proposed) if c not in archive][:limit - spent]
        stale = 0 if new else stale + 1
        for e in evaluate(files, task, new, step, spent):
            archive[e.candidate] = e
            if solution is None and task.solved(score_of(e)):
                solution = e.candidate
            if solution is not None and settings.after_solved == 0:
                break
        if solution is not None and solved_at is None:
            solved_at = len(archive) - n_warm
            if settings.after_solved is not None:
                limit = min(limit, solved_at + settings.after_solved)

    evaluations = list(archive.values())
    n = len(archive) - n_warm
    found = summary(
        task=task.name, target=task.reveal(), method=settings.method, seed=settings.seed,
        model=settings.model, preset=settings.preset, evaluations=evaluations,
        solution=solution, stop=why_stopped(settings, n, solved_at), proposals=n,
        repeats=0, invalid=sum(not e.valid for e in evaluations if e.step > 0), steps=step,
        seconds=time.perf_counter() - started, solved_at=task.solved_at)
    return found | task.conclude([(e.candidate, score_of(e)) for e in evaluations])


def evaluate(files: Run, task: Task, candidates: list[str], step: int,
             spent: int = 0) -> Iterator[Evaluation]:
    """Scores candidates and yields them in their order, each as soon as it and all before it are
    scored. What is paid for comes from the folder. spent: proposals so far."""
    results = Checked(task).score([c for c in candidates if c not in files.paid])
    arrived: dict[str, Score] = {}
    for number, candidate in enumerate(candidates, 1):
        if candidate in files.paid:
            yield files.paid[candidate]
            continue
        while candidate not in arrived:
            other, score = next(results)
            arrived[other] = score
        score = arrived.pop(candidate)
        e = Evaluation(
            index=files.next_index(), step=step, proposal=spent + number if step else 0,
            origin=ON_POLICY if step else WARM_START, parents=[], candidate=candidate,
            score=score.value, valid=score.valid, info=score.info)
        files.log_evaluation(e)
        yield e


def score_of(e: Evaluation) -> Score:
    return Score(e.score, e.valid, e.info)


def why_stopped(settings: Settings, n: int, solved_at: int | None) -> str:
    if solved_at is not None and settings.after_solved is not None:
        if n >= solved_at + settings.after_solved:
            return "solved"
    return "budget" if n >= settings.limit else "stale"
