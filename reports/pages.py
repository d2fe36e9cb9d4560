"""One run as a page that stands alone: HTML and SVG, no script, no network.

    python migrate.py ...                       # makes RUN/report.html when the run ends
    python -m reports RUN --html                # makes it again
    python -m reports RUN --svg FILE            # the search curve alone
"""
from __future__ import annotations

import itertools
import shlex
import sys
from pathlib import Path

import tasks
from reports.curves import GLOSSARY, ORIGINS, composition, metric, search_curve
from reports.markup import document, esc, pairs, short, soft
from reports.plots import standalone
from reports.records import RunFiles, read, task_of
from runlog.errors import one_line
from runlog.folder import write_atomically
from runlog.ledger import WARM_START, Evaluation, best_first

__all__ = ["GLOSSARY", "read", "run_page", "search_curve", "standalone", "write",
           "write_safely"]

ENDED = {"solved": "solved", "budget": "budget spent", "steps": "all steps done",
         "stale": "nothing new came any more"}


def write(folder: Path, file: str = "", task: tasks.Task | None = None,
          task_file: str = "") -> Path:
    """Writes the page of a run, finished or not, to its report.html or to another file.

    task: draws the candidates; without it, the task that config.json describes (records.task_of;
    task_file: what the user named). Returns the path.
    """
    run = read(folder)
    path = Path(file) if file else folder / "report.html"
    write_atomically(path, run_page(run, task or task_of(run.record, task_file)))
    return path


def write_safely(folder: Path, task: tasks.Task | None = None) -> None:
    """Writes the page of a finished run. If that fails, it says so on stderr and raises nothing:
    a page can be made again, a run cannot."""
    try:
        write(folder, task=task)
    except Exception as error:
        print(f"the run is finished; its report is not ({type(error).__name__}: "
              f"{one_line(error)}). Try\n  python -m reports {shlex.quote(str(folder))} --html",
              file=sys.stderr)


def run_page(run: RunFiles, task: tasks.Task | None) -> str:
    """The page of a run as HTML. task: draws the candidates; None: no pictures."""
    about = run.record["config"] | run.summary
    options, best = run.record.get("options", {}), best_first(run.evaluations)
    target = options.get("target")
    if target == "random":
        target = "hidden"
    target = run.summary.get("target", target)
    name = run.summary.get("task") or Path(about.get("task", "run")).stem
    parts = [heading(name, target, about, run.summary), facts(run, best)]
    if run.evaluations:
        parts += ["<h2>The search</h2>",
                  soft("Every dot is a candidate that the black box scored; lines are running "
                       "means by origin; the staircase is the best so far."),
                  search_curve(run.evaluations)]
    if best:
        parts.append(best_candidates(best, run.evaluations, task))
    if run.completions:
        parts.append(raw_completions(run.completions))
    if run.steps:
        parts.append(training(run.steps))
    parts.append(how_it_was_made(run))
    return document(f"{name} {target} {about.get('method', '')}", "".join(parts))


def heading(name: str, target: str | None, about: dict, summary: dict) -> str:
    """The title and one line on what was run. about: settings and summary in one dict."""
    title = f"{name}: {target}" if target else name
    settings = [about.get("method", "")]
    if about.get("model"):
        settings[0] += f" on {about['model']}"
    settings += [f"{key} {about[key]}" for key in ("preset", "seed") if about.get(key) is not None]
    ended = ENDED.get(summary.get("stop"), "finished" if summary else "not finished")
    return f"<h1>{esc(title)}</h1>{soft(', '.join(settings) + '; ' + ended + '.')}"


def facts(run: RunFiles, best: list[Evaluation]) -> str:
    """The numbers below the title. best: the valid evaluations, best first."""
    steps, summary = run.steps, run.summary
    if steps:
        proposals = steps[-1]["proposals"]
        seconds = sum(sum(step.get("seconds", {}).values()) for step in steps)
    else:                   # a search without a policy logs no steps
        proposals, seconds = summary.get("proposals", 0), summary.get("seconds", 0)
    numbers = {"best score": f"{best[0].score:.4f}" if best else "-",
               "proposals until then": f"{best[0].proposal:,}" if best else "-",
               "evaluations": f"{sum(e.step > 0 for e in run.evaluations):,}",
               "proposals": f"{proposals:,}",
               "steps": f"{len(steps) or summary.get('steps', 0):,}",
               "seconds": f"{seconds:,.1f}"}
    spans = (f"<span><b>{number}</b>{words}</span>" for words, number in numbers.items())
    return f'<div class="facts">{"".join(spans)}</div>'


# ------------------------------------------------------------------------------ the best candidates

def best_candidates(best: list[Evaluation], evaluations: list[Evaluation],
                    task: tasks.Task | None) -> str:
    """How the best candidate came about, and the eight best. best: best first, at least one."""
    parts = []
    chain = ancestry(best[0], evaluations)
    if len(chain) > 1:
        parts += ["<h2>The way to the best</h2>",
                  soft("Each was proposed as a variation of the one before it."),
                  cards(chain, task, "ancestry")]
    return "".join([*parts, "<h2>Best candidates</h2>", cards(best[:8], task)])


def ancestry(best: Evaluation, evaluations: list[Evaluation], most: int = 8) -> list[Evaluation]:
    """The best candidate's parent, the parent's parent, .. up to one that had none; oldest first.
    Of a chain longer than `most` the middle is left out."""
    by_candidate = {e.candidate: e for e in evaluations}
    chain = [best]
    while chain[-1].parents:
        parent = by_candidate.get(chain[-1].parents[-1])
        if parent is None or parent in chain:
            break
        chain.append(parent)
    chain.reverse()
    if len(chain) <= most:
        return chain
    return chain[:most // 2] + chain[-(most - most // 2):]


def cards(evaluations: list[Evaluation], task: tasks.Task | None, css: str = "") -> str:
    wide = " wide" if any("\n" in e.candidate for e in evaluations) else ""
    inside = "".join(card(e, task) for e in evaluations)
    return f'<div class="cards{wide} {css}">{inside}</div>'


def card(e: Evaluation, task: tasks.Task | None) -> str:
    """One candidate: its score, where it comes from, its picture and its text."""
    picture = None
    if task:
        try:
            picture = task.picture(e.candidate, e.info)
        except Exception:       # a page without one picture is better than none
            picture = None
    tag = "pre" if "\n" in e.candidate else "code"
    origin = e.origin if e.origin in ORIGINS else WARM_START
    where = f"proposal {e.proposal}, " if e.proposal else ""
    return (f'<div class="card" style="--c:var(--{origin})"><b>{e.score:.4f}</b> '
            f'<span class="soft">{where}{ORIGINS[origin].removesuffix("s")}</span>{picture or ""}'
            f"<div><{tag}>{esc(e.candidate)}</{tag}></div></div>")


# ------------------------------------------------------------------------------ raw completions

def raw_completions(lines: list[dict]) -> str:
    """What the policy wrote in the first step and in the last one, with the prompts to unfold."""
    parts = ["<h2>What the policy wrote</h2>",
             soft("Some completions of the first step and of the last one, as they were sampled. "
                  "Tokens that mark turns and ends are shown. The file completions.jsonl has some "
                  "of every step.")]
    shown = [line for line in lines if line["step"] in (lines[0]["step"], lines[-1]["step"])]
    asked = itertools.groupby(shown, lambda line: (line["step"], line["origin"], line["prompt"]))
    for (step, origin, prompt), group in asked:
        title = f"Step {step}, {ORIGINS.get(origin, origin)}: the prompt"
        parts.append(f'<details class="prompt"><summary>{esc(title)}</summary>'
                     f"<pre>{esc(prompt)}</pre></details>"
                     f'<div class="cards wide">{"".join(map(raw_completion, group))}</div>')
    return "".join(parts)


def raw_completion(line: dict) -> str:
    """One completion, and what was read from it."""
    found = [f"read: {read_in_words(candidate)}" for candidate in line["read"]]
    found = found or ["nothing could be read"]
    if line["cut"]:
        found.append("cut off at max_new_tokens")
    origin = line["origin"] if line["origin"] in ORIGINS else WARM_START
    return (f'<div class="card" style="--c:var(--{origin})"><pre>{esc(line["completion"])}</pre>'
            f'<span class="soft">{"<br>".join(map(esc, found))}</span></div>')


def read_in_words(candidate: dict) -> str:
    """cement, score 1.0000; one that was no use: cemment, invalid."""
    words = f"{short(candidate['candidate'])}, score {candidate['score']:.4f}"
    if not candidate["valid"]:
        words = f"{short(candidate['candidate'])}, invalid"
    return words + ", a repeat" * candidate["repeat"]


# ----------------------------------------------------------------------------- steps and settings

def training(steps: list[dict]) -> str:
    """What each step's group was made of, and the metrics of training."""
    return "".join([
        "<h2>The group</h2>",
        soft("What a step drew and replayed, by origin. Pale: repeats of what was known already, "
             "and invalid ones."), composition(steps),
        "<h2>Training</h2>",
        '<div class="panels">', *(metric(name, steps) for name in GLOSSARY), "</div>"])


def how_it_was_made(run: RunFiles) -> str:
    """The command, and the settings and the summary to unfold."""
    record = run.record
    program = record.get("program", ["migrate.py"])     # a yardstick names its own
    command = shlex.join(["python", *program, *record.get("command", [])])
    parts = [f"<h2>Command</h2><pre>{esc(command)}</pre>",
             f"<details><summary>Settings</summary>{pairs(settings_of(record))}</details>"]
    if run.summary:
        lines = ((name, short(value, 400)) for name, value in run.summary.items())
        parts.append(f"<details><summary>Summary</summary>{pairs(lines)}</details>")
    return "".join(parts)


def settings_of(record: dict) -> list[tuple]:
    """(name, value) of all settings in config.json: of the search, the modifiers, how it was run,
    the task, and the versions of the packages."""
    settings = list(record["config"].items())
    for modifier, of_modifier in record.get("modifiers", {}).items():
        settings += [(f"{modifier}: {name}", value) for name, value in of_modifier.items()]
        if not of_modifier:
            settings.append((modifier, "on"))
    settings += [(f"run: {name}", value) for name, value in record.get("run", {}).items()]
    settings += [(f"task: {name}", value) for name, value in record.get("options", {}).items()]
    return [*settings, *record.get("versions", {}).items()]
