"""What a search says of itself: lines of steps.jsonl, summary.json, its settings on the screen."""
from __future__ import annotations

import textwrap
from dataclasses import asdict

from runlog.errors import UserError
from runlog.ledger import OPERATOR, Evaluation, best_first
from runlog.settings import COUNTS


def step_metrics(state, task, rows: list, group: list, metrics: dict,
                 clock: list[float]) -> dict:
    """One line of steps.jsonl (docs/runs.md explains every field).

    state, task: the search's, after the step. rows: what was drawn. group: what the update saw.
    metrics: what the update returned, with `by_row` in the order of the group. clock: the times
    before and after sampling, scoring and training.
    """
    archive = task.archive
    best = archive.best(1)
    line = {"step": state.step, "proposals": state.proposals, "archive": len(archive),
            "start": state.start, "best": None, "best_score": 0.0}
    if best:
        line |= {"best": best[0].candidate, "best_score": best[0].score}
    line |= {name: value for name, value in metrics.items() if name != "by_row"}
    seconds = [round(after - before, 4) for before, after in zip(clock, clock[1:])]
    line["seconds"] = dict(zip(("sampling", "scoring", "training"), seconds))
    # The rows of one completion share its tokens. What the operator made was not sampled.
    completions = {id(row.tokens): len(row.tokens) for row in rows if row.origin != OPERATOR}
    n_tokens = sum(completions.values())
    line["tokens_per_second"] = round(n_tokens / max(seconds[0], 1e-9))
    for origin in dict.fromkeys(row.origin for row in [*rows, *group]):
        if origin in line:
            raise UserError(f"rows have the origin {origin!r}, which is the name of another entry "
                            "of steps.jsonl: give them another word (docs/forking.md)")
        line[origin] = origin_metrics(origin, task, rows, group, metrics.get("by_row", []))
    return line


def origin_metrics(origin: str, task, rows: list, group: list, by_row: list) -> dict:
    """What a step drew of one origin; of replays, which are not drawn, what it replayed."""
    chosen = [row for row in rows if row.origin == origin]
    if not chosen:
        chosen = [row for row in group if row.origin == origin]
    scores = task.as_rewards(task.archive, chosen)
    part = {"n": len(chosen), "score_mean": sum(scores) / len(scores), "score_max": max(scores),
            "repeats": sum(row.candidate is not None and not row.new for row in chosen),
            "invalid": sum(not row.valid for row in chosen)}
    trained = [values for row, values in zip(group, by_row) if row.origin == origin]
    if trained:
        tokens, logprob, clipped = (sum(column) for column in zip(*trained))
        tokens = max(1, tokens)     # where completions hold several, a candidate may have none
        part |= {"logprob": logprob / tokens, "clip_fraction": clipped / tokens}
    return part


def summary(*, task: str, target: str, method: str, seed: int, model: str, preset: str,
            evaluations: list[Evaluation], solution: str | None, stop: str, proposals: int,
            repeats: int, invalid: int, steps: int, seconds: float,
            skipped_updates: int = 0, solved_at: float | None = 1.0) -> dict:
    """What goes into summary.json: of every search, also of those without a policy. solution: the
    first candidate that solved the task; None: none did. solved_at: of the task."""
    best = best_first(evaluations, 1)
    return {"task": task, "target": target, "method": method, "seed": seed, "model": model,
            "preset": preset, "best_score": best[0].score if best else 0.0,
            "best": best[0].candidate if best else None, "solved": solution is not None,
            "solution": solution, "solved_at": solved_at, "stop": stop,
            "best_at_proposal": best[0].proposal if best else None,
            "evaluations": sum(e.step > 0 for e in evaluations), "proposals": proposals,
            "repeats": repeats, "invalid": invalid,
            "warm_start": sum(e.step == 0 for e in evaluations), "steps": steps,
            "skipped_updates": skipped_updates, "seconds": round(seconds, 2)}


def summary_of(config, task, state, stop: str, scored: list) -> dict:
    """The summary of a search of migrate.py. state: its State at the end. scored: all (candidate,
    Score), in the order of the archive."""
    solution = None
    if state.solved_at is not None:
        solvers = (c for c, score in scored if score.valid and task.solved(score))
        solution = next(solvers, task.archive.best(1)[0].candidate)
    return summary(task=task.name, target=task.reveal(), method=config.method, seed=config.seed,
                   model=config.model, preset=config.preset,
                   evaluations=list(task.archive.values()),
                   solution=solution, stop=stop, proposals=state.proposals,
                   repeats=state.repeats, invalid=state.invalid, steps=state.step,
                   seconds=state.seconds, skipped_updates=state.skipped,
                   solved_at=task.solved_at)


NOT_COMPARED = {"task", "model", "method", "preset", "seed", "init_adapter"}
PUBLISHED = ("random", "ns", "opro", "grpo", "grpo-greedy", "migrate", "migrate-opro",
             "migrate-evo")


def describe(config, method, modifiers: dict, task) -> str:
    """The settings of a search in a few lines, shown before anything slow happens. The last one
    says what differs from the paper's settings for this task."""
    extent = "{} {}".format(*length(config))
    lines = [f"{task.name}: {config.method} on {config.model}, preset {config.preset}, "
             f"seed {config.seed}",
             f"group: {config.n_on_policy} on-policy + {config.n_greedy} greedy + "
             f"{config.n_neighbors} neighbours, top {config.top_k}; {extent}",
             "no training"]
    if method.trains:
        lines[2] = (f"lr {config.lr:g} x {config.inner_iterations}, LoRA r={config.lora_r} on "
                    f"{config.lora_targets}")
    paper = task.presets.get("paper")
    if paper:
        lines.append(textwrap.fill(differences(config, method, modifiers, paper), 100,
                                   subsequent_indent="  "))
    return "\n".join(lines)


def length(config) -> tuple[int, str]:
    """How long a search is: how many of what."""
    if config.budget:
        return config.budget, "evaluations"
    return (config.steps, "steps") if config.steps else (config.proposals, "proposals")


def differences(config, method, modifiers: dict, paper: dict) -> str:
    """What of these settings is not the paper's. paper: its preset for the task."""
    published = asdict(type(config)()) | paper
    mixture = tuple(published[name] for name in COUNTS)
    published |= zip(COUNTS, method.counts(sum(mixture), mixture))
    name, *extras = config.method.split("+")
    changed = [] if name in PUBLISHED else [f"method {name}"]
    for extra in extras:
        settings = ", ".join(f"{key} {value}" for key, value in modifiers.get(extra, {}).items())
        changed.append(f"+{extra} [{settings}]" if settings else f"+{extra}")
    if published["steps"]:          # lengths are compared in proposals
        published["proposals"] = published["steps"] * (config.n_on_policy + config.n_neighbors)
    not_compared = NOT_COMPARED | ({"steps", "proposals"} if config.budget else {"steps"})
    for key, value in asdict(config).items():
        if key not in not_compared and value != published[key]:
            before = "-" if published[key] is None else published[key]
            changed.append(f"{key} {value} ({before})")
    if not changed:
        return "search settings: the paper's"
    return "search settings: the paper's, but for " + ", ".join(changed)
