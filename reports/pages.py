"""One run as a page that stands alone: charts, tables and settings in one HTML file.

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
from reports.charts import (
    group_chart,
    library,
    metric_chart,
    picture,
    search_chart,
    standalone,
)
from reports.colours import IN_GROUPS, ORIGINS, OTHER
from reports.labels import IN_PYTHON, command_of, made_in_python
from reports.markup import (
    columns,
    document,
    esc,
    figure,
    pairs,
    short,
    soft,
)
from reports.metrics import GLOSSARY, SECONDS, group_rows, metric_rows
from reports.records import RunFiles, lowest_is_best, read, task_of
from reports.rows import hypothesis
from runlog.errors import one_line
from runlog.folder import write_atomically
from runlog.ledger import Evaluation, best_first

__all__ = ["GLOSSARY", "read", "run_page", "search_picture", "write", "write_safely"]

ENDED = {"solved": "solved", "budget": "budget spent", "steps": "all steps done",
         "stale": "nothing new came any more"}
ZOOM = ("Drag to move, wheel with Ctrl to zoom, double-click to go back. Click on the legend to "
        "see one alone.")
FIELDS = {"n": "evaluation", "score": "score", "candidate": "candidate", "origin": "origin",
          "proposal": "proposal", "step": "step", "parents": "parents"}      # of the table
LESS = ("proposal", "step", "parents")      # left out on a phone


def write(folder: Path, file: str = "", task: tasks.Task | None = None,
          task_file: str = "") -> Path:
    """Writes the page of a run, finished or not, to its report.html or to another file.

    task: draws the candidates; without it, the task that config.json describes (records.task_of;
    task_file: what the user named). Returns the path. Raises UserError if the run cannot be read.
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


def search_picture(folder: Path | str) -> str:
    """The search curve of a run as an SVG file of its own. Raises UserError."""
    evaluations = read(Path(folder)).evaluations
    rows = candidates(evaluations)
    chart = search_chart(rows, lowest_is_best(evaluations))
    return standalone(picture(chart, candidates=rows))


def run_page(run: RunFiles, task: tasks.Task | None) -> str:
    """The page of a run as HTML. task: draws the candidates; None: no pictures."""
    options, summary = run.record["options"], run.summary
    best = best_first(run.evaluations)
    target = options.get("target") or ""
    if target == "random":
        target = "hidden"
    target = summary.get("target", target)
    name = summary.get("task") or Path(run.record["config"]["task"] or "run").stem
    rows = candidates(run.evaluations)
    charts, data, parts = {}, {"candidates": columns(rows)}, [
        heading(name, target, run), verdict(run, best, task), facts(run)]
    if rows:
        charts["search"] = search_chart(rows, lowest_is_best(run.evaluations))
        parts += ["<h2>The search</h2>",
                  soft("Every dot is a candidate that the black box scored. Coloured lines are "
                       "running means by origin. The staircase is the best so far."),
                  figure("search", "candidates", picture(charts["search"], candidates=rows)),
                  f'<p class="soft scripted" hidden>{esc(ZOOM)}</p>']
    if best:
        parts.append(best_candidates(best, run.evaluations, task))
    if rows:
        parts.append(candidate_table(run, best))
    if run.completions:
        parts.append(raw_completions(run.completions))
    if run.steps:
        charts |= {"group": group_chart(), "metric": metric_chart()}
        data |= {"group": columns(group_rows(run.steps))}
        data |= {f"metric:{key}": columns(metric_rows(key, run.steps)) for key in GLOSSARY}
        parts.append(training({key for key, values in data.items() if values}))
    parts.append(how_it_was_made(run))
    title = f"{name} {target} {run.record['config']['method']}"
    return document(title, "".join(parts), charts, data, library())


def candidates(evaluations: list[Evaluation]) -> list[dict]:
    """The rows of the search chart and of the table, in the order of the archive. `n` counts
    evaluations; the warm start ends at 0. `parents` are such numbers. `label`: few records have
    one."""
    numbers, names = numbered(evaluations), names_of_records(evaluations)
    first = min(numbers.values(), default=1)
    rows = [{"n": first + i, "candidate": e.candidate, "score": round(e.score, 6),
             "valid": e.valid, "origin": e.origin, "step": e.step, "proposal": e.proposal,
             "label": names.get(i, ""),
             "parents": [numbers[parent] for parent in e.parents if parent in numbers]}
            for i, e in enumerate(evaluations)]
    if any("\n" in row["candidate"] for row in rows):
        rows = [row | {"summary": as_name(row["candidate"])} for row in rows]
    return rows


def numbered(evaluations: list[Evaluation]) -> dict[str, int]:
    """{candidate: its number}. The first evaluation of the search is 1, the warm start ends at 0.
    """
    n_warm = sum(e.step == 0 for e in evaluations)
    return {e.candidate: i + 1 - n_warm for i, e in enumerate(evaluations)}


def as_name(candidate: str) -> str:
    """A candidate in one line; of a program what its comments say."""
    said = hypothesis(candidate) if "\n" in candidate else ""
    return short(said or candidate, 90)


def names_of_records(evaluations: list[Evaluation]) -> dict[int, str]:
    """{place in the archive: name} of those that were the best so far, where a name has room: it is
    short, and the next one is far. The last ones go first."""
    best, records = None, []
    for i, e in enumerate(evaluations):
        if e.valid and (best is None or e.worth > best):
            best = e.worth
            records.append(i)
    names, free = {}, len(evaluations) + 1.0
    for i in reversed(records):
        name = short(evaluations[i].candidate, 99)
        width = len(evaluations) * (len(name) + 2) / 120      # a line has room for 120 letters
        if len(name) <= 18 and i < free and i > width:
            names[i] = name
            free = i - width
    return names


# ------------------------------------------------------------------------------ the top of a page

def heading(name: str, target: str, run: RunFiles) -> str:
    """The title and one line on what was run."""
    config, record = run.record["config"], run.record
    settings = [config["method"], config["preset"] and f"preset {config['preset']}",
                f"seed {config['seed']}", record["date"], record["machine"]]
    if config["model"]:
        settings[0] += f" on {config['model']}"
    title = f"{name}: {target}" if target else name
    return f"<h1>{esc(title)}</h1>{soft(', '.join(filter(None, settings)) + '.')}"


def verdict(run: RunFiles, best: list[Evaluation], task: tasks.Task | None) -> str:
    """Whether it was found; the best candidate, and after how many evaluations. best: the valid
    evaluations, best first."""
    summary, n = run.summary, sum(e.step > 0 for e in run.evaluations)
    ended = ENDED.get(summary.get("stop"), "finished" if summary else "not finished")
    if not best:
        return (f'<p class="verdict"><b>Not found</b>, {ended}: no candidate was valid in {n:,} '
                "evaluations.</p>")
    name = f"<code>{esc(as_name(best[0].candidate))}</code>"
    after = "in the warm start"
    if best[0].step:
        number = numbered(run.evaluations)[best[0].candidate]
        after = f"after {number:,} evaluations ({best[0].proposal:,} proposals)"
    score = f"score {best[0].score:.4f}"
    if summary.get("solved"):
        return f'<p class="verdict found"><b>Found</b> {name}, {score}, {after}.</p>'
    if not summary:
        return f'<p class="verdict"><b>Best so far</b>: {name}, {score}, {after}; {ended}.</p>'
    if summary.get("solved_at", getattr(task, "solved_at", 1.0)) is None:  # a scale without an end
        return f'<p class="verdict"><b>Best</b>: {name}, {score}, {after}; {ended}.</p>'
    return (f'<p class="verdict"><b>Not found</b>, {ended}. The closest is {name}, {score}, '
            f"{after}.</p>")


def facts(run: RunFiles) -> str:
    """The numbers below the verdict."""
    steps, summary = run.steps, run.summary
    if steps:
        proposals = steps[-1]["proposals"]
        seconds = sum(sum(step.get("seconds", {}).values()) for step in steps)
    else:                   # a search without a policy logs no steps
        proposals, seconds = summary.get("proposals", 0), summary.get("seconds", 0)
    invalid = sum(not e.valid for e in run.evaluations)
    numbers = {"evaluations": f"{sum(e.step > 0 for e in run.evaluations):,}",
               "proposals": f"{proposals:,}",
               "invalid": f"{summary.get('invalid', invalid):,}",
               "steps": f"{len(steps) or summary.get('steps', 0):,}",
               "seconds": f"{seconds:,.1f}"}
    spans = (f"<span><b>{esc(number)}</b>{words}</span>" for words, number in numbers.items())
    return f'<div class="facts">{"".join(spans)}</div>'


# ------------------------------------------------------------------------------------ candidates

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
    drawn = None
    if task:
        try:
            drawn = task.picture(e.candidate, e.info)
        except Exception:       # a page without one picture is better than none
            drawn = None
    tag = "pre" if "\n" in e.candidate else "code"
    where = f"proposal {e.proposal:,}, " if e.proposal else ""
    name = ORIGINS.get(e.origin, e.origin).removesuffix("s")
    return (f'<div class="card" style="--c:var(--{colour(e.origin)})"><b>{e.score:.4f}</b> '
            f'<span class="soft">{where}{esc(name)}</span>{drawn or ""}'
            f"<div><{tag}>{esc(e.candidate)}</{tag}></div></div>")


def colour(origin: str) -> str:
    """The variable of an origin's colour, without its dashes."""
    return origin if origin in ORIGINS else OTHER


def candidate_table(run: RunFiles, best: list[Evaluation]) -> str:
    """The ten best as a table, which the script of the page fills with all candidates."""
    heads = "".join(f'<th data-field="{field}" class="{css_of(field)}"'
                    f'{" data-sorted" * (field == "score")}>{name}</th>'
                    for field, name in FIELDS.items())
    numbers, lines = numbered(run.evaluations), ""
    for e in best[:10]:
        parents = (f"evaluation {numbers.get(parent, '?')}" if "\n" in parent else parent
                   for parent in e.parents)
        cells = {"n": numbers[e.candidate], "score": f"{e.score:.4f}", "candidate": e.candidate,
                 "origin": ORIGINS.get(e.origin, e.origin), "proposal": e.proposal, "step": e.step,
                 "parents": ", ".join(parents)}
        lines += "<tr>" + "".join(f'<td class="{css_of(field)}">{esc(cells[field])}</td>'
                                  for field in FIELDS) + "</tr>"
    return (f'<h2>All candidates</h2><noscript>{soft("Without scripts these are the ten best.")}'
            '</noscript><div class="grid" data-rows="candidates" data-file="candidates.csv">'
            f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody>'
            "</table></div></div>")


def css_of(field: str) -> str:
    """The class of a column."""
    return " ".join(filter(None, ("text" * (field in ("candidate", "parents")),
                                  "less" * (field in LESS))))


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
    return (f'<div class="card" style="--c:var(--{colour(line["origin"])})">'
            f'<pre>{esc(line["completion"])}</pre>'
            f'<span class="soft">{"<br>".join(map(esc, found))}</span></div>')


def read_in_words(candidate: dict) -> str:
    """cement, score 1.0000; one that was no use: cemment, invalid."""
    words = f"{short(candidate['candidate'])}, score {candidate['score']:.4f}"
    if not candidate["valid"]:
        words = f"{short(candidate['candidate'])}, invalid"
    return words + ", a repeat" * candidate["repeat"]


# ----------------------------------------------------------------------------- steps and settings

def training(present: set[str]) -> str:
    """What each step's group was made of, and the metrics of training. present: the names of the
    rows that there are."""
    key = "".join(f'<span style="--c:var(--{name})">{ORIGINS.get(name, name)}</span>'
                  for name in (*IN_GROUPS, *SECONDS))
    parts = []
    panels = "".join(figure("metric", f"metric:{name}", caption=f"<b>{name}</b> {esc(meaning)}")
                     for name, (_, meaning) in GLOSSARY.items() if f"metric:{name}" in present)
    if "group" in present:
        about = soft("What a step drew and replayed, by origin. Pale: repeats of what was known "
                     "already, and invalid ones.")
        parts.append(f'<div class="scripted" hidden><h2>The group</h2>{about}'
                     f'{figure("group", "group")}</div>')
    no_scripts = soft("These charts need scripts. The file steps.jsonl has the numbers.")
    return "".join([*parts, f"<h2>Training</h2><noscript>{no_scripts}</noscript>",
                    f'<div class="key scripted" hidden>{key}</div>',
                    f'<div class="panels">{panels}</div>'])


def how_it_was_made(run: RunFiles) -> str:
    """The command, and the settings and the summary to unfold."""
    record = run.record
    command = shlex.join(["python", *record["program"], *command_of(record)])
    if made_in_python(record):
        command = IN_PYTHON
    parts = [f"<h2>Command</h2><pre>{esc(command)}</pre>",
             f"<details><summary>Settings</summary>{pairs(settings_of(record))}</details>"]
    if run.summary:
        parts.append("<details><summary>Summary</summary>"
                     f"{pairs(run.summary.items())}</details>")
    return "".join(parts)


def settings_of(record: dict) -> list[tuple]:
    """(name, value) of all settings in config.json: of the search, the modifiers, how it was run,
    the task, and the versions of the packages."""
    settings = list(record["config"].items())
    for modifier, of_modifier in record["modifiers"].items():
        settings += [(f"{modifier}: {name}", value) for name, value in of_modifier.items()]
        if not of_modifier:
            settings.append((modifier, "on"))
    settings += [(f"run: {name}", value) for name, value in record["run"].items()]
    settings += [(f"task: {name}", value) for name, value in record["options"].items()]
    return [*settings, *record["versions"].items()]
