"""One run, or a comparison of runs, as a page that stands alone: HTML and SVG, no script, no network (and a policy in the
page that forbids both, because everything that a model wrote is hostile: it is escaped besides).

    python migrate.py ...                   # makes RUN/report.html when the run ends
    python report.py RUN --html             # makes it again
    python report.py runs/* --html FILE     # a comparison: the tables, and curves with their spread over seeds
    python report.py RUN --svg FILE         # the search curve alone
"""
from __future__ import annotations

import html
import json
import math
import shlex
import statistics
from pathlib import Path

import tasks
from runs import write_atomically

ORIGINS = {"warm-start": "warm start", "on-policy": "on-policy", "neighbor": "neighbours", "greedy": "greedy replays"}

# Okabe and Ito's palette, which is told apart with any colour vision; lighter on dark ground.
STYLE = """
:root, svg { --ink: #1d2024; --soft: #5d6570; --line: #d9dde2; --paper: #ffffff; --tile: #f6f7f9; --warm-start: #8b929b;
  --on-policy: #0072b2; --neighbor: #d55e00; --greedy: #009e73; --m0: #d55e00; --m1: #0072b2; --m2: #009e73; --m3: #cc79a7;
  --m4: #56b4e9; --m5: #b8860b; --m6: #6b4fa0; --m7: #5d6570; }
@media (prefers-color-scheme: dark) {
  :root, svg { --ink: #e9ebee; --soft: #a0a8b2; --line: #363c44; --paper: #15181c; --tile: #1d2126; --warm-start: #838b95;
    --on-policy: #56b4e9; --neighbor: #f58a3c; --greedy: #2fc79a; --m0: #f58a3c; --m1: #56b4e9; --m2: #2fc79a; --m3: #e29bc4;
    --m4: #9ad4f5; --m5: #e6c229; --m6: #a993e0; --m7: #a0a8b2; } }
svg { color: var(--ink); font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg text { fill: var(--ink); } svg text.soft { fill: var(--soft); } .grid { stroke: var(--line); }
.best, .mean { stroke-width: 2; fill: none; stroke-linejoin: round; } .best { stroke: var(--ink); }
.thin { stroke-width: 1.5; fill: none; stroke-linejoin: round; }
.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
"""
PAGE_STYLE = """
body { margin: 0 auto; max-width: 1000px; padding: 40px 24px 80px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 27px; font-weight: 650; margin: 0; letter-spacing: -.01em; }
h2, summary { font-size: 18px; font-weight: 600; margin: 46px 0 4px; } summary { cursor: pointer; }
p { margin: 4px 0 12px; max-width: 75ch; } .soft, figcaption { color: var(--soft); } figure { margin: 0; }
svg { max-width: 100%; height: auto; display: block; }
code, pre { font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { margin: 6px 0; white-space: pre-wrap; max-height: 21em; overflow-y: auto; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 36px; margin: 22px 0 6px; }
.facts span { color: var(--soft); font-size: 13px; }
.facts b { display: block; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; color: var(--ink); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 26px 24px; margin-top: 14px; }
figcaption { font-size: 12.5px; line-height: 1.4; } figcaption b { color: var(--ink); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(225px, 1fr)); gap: 12px; margin-top: 14px; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); }
.card { background: var(--tile); border-radius: 8px; padding: 11px 14px; border-top: 3px solid var(--c); min-width: 0; }
.card b { font-size: 17px; font-variant-numeric: tabular-nums; } .card .soft { font-size: 12.5px; display: block; }
.way .card:not(:first-child) b::before { content: "\\2192\\00a0"; color: var(--soft); }
table { border-collapse: collapse; font-size: 13.5px; margin: 12px 0; display: block; overflow-x: auto; }
td, th { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  font-variant-numeric: tabular-nums; font-weight: 400; } th { color: var(--soft); }
"""


def esc(value) -> str:
    """Text for HTML or SVG. What cannot be printed (control characters, surrogates, direction marks) becomes a dot."""
    return html.escape("".join(c if c.isprintable() or c == "\n" else "\u00b7" for c in str(value)))


def short(value, n: int = 60) -> str:
    line = " ".join(str(value).split())
    return line if len(line) <= n else line[:n - 1] + "\u2026"


# ------------------------------------------------------------------------------------------------ plots

class Plot:
    """One pair of axes: collects SVG elements in data coordinates."""

    def __init__(self, width, height, x_range, y_range, x_label="", margin=(14, 130, 34, 42)):
        self.width, self.height, self.parts = width, height, []
        self.top, self.right, self.bottom, self.left = margin
        self.x0, self.x1 = x_range if x_range[1] > x_range[0] else (x_range[0], x_range[0] + 1)
        self.y0, self.y1 = y_range if y_range[1] > y_range[0] else (y_range[0] - 0.5, y_range[0] + 0.5)
        for y in ticks(self.y0, self.y1, 5 if height > 200 else 3):
            self.add(f'<path class="grid" d="M{self.left} {self.y(y):.1f}H{width - self.right}"/>')
            self.add(self.label(self.left - 8, self.y(y) + 4, f"{y:.6g}", "end", "soft"))
        for x in ticks(self.x0, self.x1, 6 if width > 400 else 4):
            self.add(self.label(self.x(x), height - self.bottom + 16, f"{x:,.6g}", "middle", "soft"))
        if x_label:
            self.add(self.label(width - self.right, height - 3, x_label, "end", "soft"))

    def x(self, value):
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.width - self.left - self.right)

    def y(self, value):
        return self.height - self.bottom - (value - self.y0) / (self.y1 - self.y0) * (self.height - self.top - self.bottom)

    def add(self, part):
        self.parts.append(part)

    @staticmethod
    def label(x, y, words, anchor="start", css="", colour=""):
        style = f' style="fill:var(--{colour})"' if colour else ""
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}"{style}>{esc(words)}</text>'

    def line(self, points, css="thin", colour="", steps=False, dash=""):
        at = [(self.x(x), self.y(y)) for x, y in points]
        path = "M{:.1f} {:.1f}".format(*at[0]) + "".join(("H{:.1f}V{:.1f}" if steps else "L{:.1f} {:.1f}").format(*p)
                                                         for p in at[1:])
        style = f' style="stroke:var(--{colour});stroke-dasharray:{dash or "none"}"' if colour else ""
        self.add(f'<path class="{css}" d="{path}"{style}/>')

    def band(self, lower, upper, colour):
        at = [f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in [*lower, *reversed(upper)]]
        self.add(f'<path d="M{"L".join(at)}Z" style="fill:var(--{colour});opacity:.16"/>')

    def end_labels(self, labels):
        """Names of lines at their right ends, [(y, words, colour)], moved apart where they would overlap."""
        placed = []
        for y, words, colour in sorted(labels, key=lambda item: -item[0]):
            at = max(self.y(y) + 4, placed[-1] + 15 if placed else -math.inf)
            placed.append(at)
            self.add(self.label(self.width - self.right + 8, at, words, colour=colour))

    def svg(self, title):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
                f'height="{self.height}" role="img"><title>{esc(title)}</title>{"".join(self.parts)}</svg>')


def ticks(low: float, high: float, n: int) -> list[float]:
    """About n round numbers in [low, high]."""
    size = 10 ** math.floor(math.log10((high - low) / n))
    step = next(size * k for k in (1, 2, 5, 10) if (high - low) / (size * k) <= n)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def up_to(best: float) -> float:
    """Where an axis of scores ends: at 1, unless nothing comes near."""
    return 1 if best > 0.45 else max(2 * best, 0.05)


def running_mean(points: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """The mean of every `window` neighbouring points, at most 200 of them."""
    total, sums = 0.0, [0.0]
    for _, y in points:
        sums.append(total := total + y)
    every = max(1, len(points) // 200)
    return [(points[i - 1][0], (sums[i] - sums[i - window]) / window) for i in range(window, len(points) + 1, every)]


def thinned(points: list[tuple[float, float]], n: int = 160) -> list[tuple[float, float]]:
    """At most n points, each the mean of its share."""
    size = math.ceil(len(points) / n) or 1
    parts = [points[i:i + size] for i in range(0, len(points), size)]
    return [(statistics.fmean(x for x, _ in p), statistics.fmean(y for _, y in p)) for p in parts]


# -------------------------------------------------------------------------------------------- one run

def read(folder: Path) -> tuple[dict, list[dict], list[dict], dict]:
    """config.json, evaluations in order, steps, summary.json (empty while the run is not finished)."""
    def whole_lines(file):      # unlike runs.read_jsonl this never writes: the run may be going on
        data = file.read_bytes() if file.exists() else b""
        return [json.loads(line) for line in data[:data.rfind(b"\n") + 1].splitlines()]
    summary = folder / "summary.json"
    return (json.loads((folder / "config.json").read_text()),
            sorted(whole_lines(folder / "evals.jsonl"), key=lambda e: e["index"]), whole_lines(folder / "steps.jsonl"),
            json.loads(summary.read_text()) if summary.exists() else {})


def search_curve(evals: list[dict], width: int = 950, height: int = 400) -> str:
    """Score against evaluations: every candidate by its origin, the running mean of each origin, the best so far."""
    warm = sum(e["step"] == 0 for e in evals)
    points = [(i + 1 - warm, e) for i, e in enumerate(evals)]
    top = max([e["score"] for e in evals], default=0)
    plot = Plot(width, height, (1 - warm if warm else 0, max(len(evals) - warm, 1)), (0, up_to(top)), "evaluations",
                (26, 150, 36, 42))
    if warm:
        plot.add(f'<path d="M{plot.x(0.5):.1f} {plot.top}V{height - plot.bottom}" class="grid" stroke-dasharray="3 3"/>')
    best, records = -1.0, []
    for x, e in points:
        if e["valid"] and e["score"] > best:
            best = e["score"]
            records.append((x, e))
    shown = points[::max(1, len(points) // 2500)]
    for origin in ORIGINS:
        dots = "".join(f'M{plot.x(x):.1f} {plot.y(e["score"]):.1f}h0' for x, e in shown if e["origin"] == origin)
        if dots:
            plot.add(f'<path d="{dots}" style="stroke:var(--{origin});stroke-width:4.5;stroke-linecap:round;opacity:.3"/>')
    if warm:
        plot.add(plot.label(plot.x(0.5), 14, "warm start \u2190", "end" if plot.x(0.5) - plot.left > 70 else "start",
                            colour="warm-start"))
    labels = []
    for origin, name in ORIGINS.items():
        of = [(x, e["score"]) for x, e in points if e["origin"] == origin]
        if of and origin != "warm-start":
            mean = running_mean(of, max(10, len(of) // 20)) if len(of) >= 20 else []
            if mean:
                plot.line(mean, "mean halo", colour="paper")
                plot.line(mean, "mean", colour=origin)
            labels.append(((mean or of)[-1][1], f"{name}, mean" if mean else name, origin))
    if records:
        plot.line([(x, e["score"]) for x, e in records] + [(points[-1][0], best)], "best", steps=True)
        labels.append((best, f"best so far {best:.3f}", "ink"))
    right_of_last = math.inf
    for x, e in reversed(records):
        at, y, words = plot.x(x), plot.y(e["score"]), short(e["candidate"], 99)
        plot.add(f'<circle cx="{at:.1f}" cy="{y:.1f}" r="4.5" style="fill:var(--{esc(e["origin"])});stroke:var(--paper);'
                 f'stroke-width:1.5"><title>{esc(words)}: {e["score"]:.4f}</title></circle>')
        if len(words) <= 18 and at < right_of_last and at - 7 * len(words) > plot.left:
            plot.add(plot.label(at - 6, y - 8, words, "end", "halo"))
            right_of_last = at - 6.6 * len(words) - 12
    plot.end_labels(labels)
    return plot.svg("Score of every evaluation, mean by origin and best so far")


def standalone(svg: str) -> str:
    """An SVG file of its own: with the style, on its own ground."""
    head, tail = svg.split(">", 1)
    return f'{head}><style>{STYLE}</style><rect width="100%" height="100%" style="fill:var(--paper)"/>{tail}\n'


def composition(steps: list[dict]) -> str:
    """What each step drew and replayed, by origin; the paler part is repeats and invalid candidates."""
    size = math.ceil(len(steps) / 60)
    top = max(sum(s.get(o, {}).get("n", 0) for o in ORIGINS) for s in steps)
    plot = Plot(950, 210, (0, len(steps)), (0, top), "steps", (12, 150, 36, 42))
    for start in range(0, len(steps), size):
        part, base, labels = steps[start:start + size], 0.0, []
        x = plot.x(start)
        wide = max(plot.x(start + len(part)) - x - 1, 0.8)
        for origin in ("neighbor", "on-policy", "greedy"):
            lines = [s[origin] for s in part if origin in s]
            n = sum(line["n"] for line in lines) / len(part)
            known = 0 if origin == "greedy" else sum(min(s["n"], s["repeats"] + s["invalid"]) for s in lines) / len(part)
            for tall, opacity, name in ((n - known, 0.9, ORIGINS[origin]), (known, 0.32, "repeats, invalid")):
                if tall:
                    plot.add(f'<rect x="{x:.1f}" y="{plot.y(base + tall):.1f}" width="{wide:.1f}" height='
                             f'"{plot.y(base) - plot.y(base + tall):.1f}" style="fill:var(--{origin});opacity:{opacity}"/>')
                    base += tall
                    labels.append((base - tall / 2, name, origin))
    plot.end_labels(labels)         # of the last bar
    return plot.svg("Candidates of each step by origin")


# name -> how a line of steps.jsonl gives it (one value, or one for each origin), and what it means
GLOSSARY = {
    "mean score": (lambda s: {o: s[o]["score_mean"] for o in ORIGINS if o in s},
                   "of all that a step drew (repeats and invalid ones included) or replayed. Training should raise it."),
    "entropy": (lambda s: s.get("entropy"),
                "of the policy's next-token predictions under the task prompt, in nats. Towards 0: it has collapsed on a few "
                "candidates."),
    "log-probability": (lambda s: {o: s[o]["logprob"] for o in ORIGINS if "logprob" in s.get(o, {})},
                        "mean per token under the task prompt, before the update. Neighbours and replays were not sampled "
                        "from it: a low value says how far off-policy they are."),
    "clip fraction": (lambda s: {o: s[o]["clip_fraction"] for o in ORIGINS if "clip_fraction" in s.get(o, {})},
                      "share of tokens whose gradient the clip took, in the last inner iteration (0 with a single one)."),
    "gradient norm": (lambda s: s.get("grad_norm"), "before it is clipped at 1."),
    "loss": (lambda s: s.get("loss"), "near 0 by construction: advantages sum to zero. Not a measure of progress."),
    "learning rate": (lambda s: s.get("lr"), "falls linearly to 0. Steps whose scores are all equal are skipped."),
    "seconds": (lambda s: s["seconds"], "of a step: sampling, scoring, training."),
}
SERIES = {"sampling": "m1", "scoring": "m0", "training": "m2"}


def metric(name: str, steps: list[dict]) -> str:
    """A small plot of one quantity over the steps with what it means; empty if the run has none of it."""
    value, meaning = GLOSSARY[name]
    series: dict[str, list] = {}
    for s in steps:
        v = value(s)
        for key, y in (v if isinstance(v, dict) else {"": v}).items():
            if y is not None and math.isfinite(y):
                series.setdefault(key, []).append((s["step"], y))
    series = {key: thinned(points) for key, points in series.items()}
    if not series:
        return ""
    values = [y for points in series.values() for _, y in points]
    low, high = min(0, *values) if min(values) >= 0 else min(values), max(values)
    plot = Plot(310, 150, (0, steps[-1]["step"]), (low, high if high > low else low + 1),
                margin=(8, 12 if "" in series else 74, 22, 46))
    for key, points in series.items():
        plot.line(points, colour=SERIES.get(key, key or "ink"))
    if "" not in series:
        plot.end_labels([(points[-1][1], ORIGINS.get(key, key).split()[0], SERIES.get(key, key))
                         for key, points in series.items()])
    return f"<figure>{plot.svg(name)}<figcaption><b>{name}</b> {meaning}</figcaption></figure>"


def way(best: dict, evals: list[dict], most: int = 8) -> list[dict]:
    """The best candidate's parent, the parent's parent, .. up to one that had none; oldest first. What is left out of a
    long way is its middle."""
    of, chain = {e["candidate"]: e for e in evals}, [best]
    while chain[-1]["parents"] and (parent := of.get(chain[-1]["parents"][-1])) and parent not in chain:
        chain.append(parent)
    chain.reverse()
    return chain if len(chain) <= most else chain[:most // 2] + chain[-(most - most // 2):]


def card(e: dict, task) -> str:
    try:
        picture = task.picture(e["candidate"], e["info"]) if task else None
    except Exception:       # a page without one picture is better than none
        picture = None
    words = f"<code>{esc(e['candidate'])}</code>" if "\n" not in e["candidate"] else f"<pre>{esc(e['candidate'])}</pre>"
    origin = e["origin"] if e["origin"] in ORIGINS else "warm-start"
    where = f"proposal {e['proposal']}, " if e["proposal"] else ""
    return (f'<div class="card" style="--c:var(--{origin})"><b>{e["score"]:.4f}</b> <span class="soft">{where}'
            f"{ORIGINS[origin].removesuffix('s')}</span>{picture or ''}<div>{words}</div></div>")


def cards(evals: list[dict], task, css: str = "") -> str:
    wide = " wide" if any("\n" in e["candidate"] for e in evals) else ""
    return f'<div class="cards{wide} {css}">{"".join(card(e, task) for e in evals)}</div>'


def rows(pairs) -> str:
    return "<table>" + "".join(f"<tr><th>{esc(k)}</th><td>{esc(v)}</td></tr>" for k, v in pairs) + "</table>"


def document(title: str, body: str) -> str:
    """No script can run and nothing can be loaded from this page, whatever stands in it."""
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>{esc(title)}</title><style>{STYLE}{PAGE_STYLE}</style></head>
<body>{body}</body></html>
"""


ENDED = {"solved": "solved", "budget": "budget spent", "steps": "all steps done", "stale": "nothing new came any more",
         None: "not finished"}


def run_page(folder: Path, task: tasks.Task | None) -> str:
    record, evals, steps, summary = read(folder)
    config, options = record["config"], record["options"]
    valid = sorted((e for e in evals if e["valid"]), key=lambda e: (-e["score"], e["index"]))
    name = summary.get("task", Path(config["task"]).stem)
    target = summary.get("target", "hidden" if options.get("target") == "random" else options.get("target"))
    facts = {"best score": f"{valid[0]['score']:.4f}" if valid else "-",
             "proposals until then": f"{valid[0]['proposal']:,}" if valid else "-",
             "evaluations": f"{sum(e['step'] > 0 for e in evals):,}",
             "proposals": f"{steps[-1]['proposals'] if steps else 0:,}", "steps": f"{len(steps):,}",
             "seconds": f"{sum(sum(s['seconds'].values()) for s in steps):,.1f}"}
    parts = [f"<h1>{esc(name)}{': ' + esc(target) if target else ''}</h1>",
             soft(f"{config['method']} on {config['model']}, preset {config['preset']}, seed {config['seed']}; "
                  f"{ENDED[summary.get('stop')]}."),
             '<div class="facts">' + "".join(f"<span><b>{n}</b>{words}</span>" for words, n in facts.items()) + "</div>"]
    if evals:
        parts += ["<h2>The search</h2>", soft("Every dot is a candidate that the black box scored; lines are running means by "
                                              "origin; the staircase is the best so far."), search_curve(evals)]
    if valid:
        chain = way(valid[0], evals)
        if len(chain) > 1:
            parts += ["<h2>The way to the best</h2>", soft("Each was proposed as a variation of the one before it."),
                      cards(chain, task, "way")]
        parts += ["<h2>Best candidates</h2>", cards(valid[:8], task)]
    if steps:
        parts += ["<h2>The group</h2>", soft("What a step drew and replayed, by origin. Pale: repeats of what was known already, "
                                             "and invalid ones."), composition(steps), "<h2>Training</h2>",
                  '<div class="panels">', *(metric(name, steps) for name in GLOSSARY), "</div>"]
    settings = [*config.items(), *((f"task: {k}", v) for k, v in options.items()), *record.get("versions", {}).items()]
    parts += [f"<h2>Command</h2><pre>{esc(shlex.join(['python', 'migrate.py', *record.get('command', [])]))}</pre>",
              f"<details><summary>Settings</summary>{rows(settings)}</details>"]
    if summary:
        parts.append(f"<details><summary>Summary</summary>{rows((k, short(v, 400)) for k, v in summary.items())}</details>")
    return document(f"{name} {target} {config['method']}", "".join(parts))


def soft(words: str) -> str:
    return f'<p class="soft">{esc(words)}</p>'


def task_of(record: dict) -> tasks.Task | None:
    """The task of a run from its config.json, for its pictures; None where that cannot be had any more."""
    try:
        return tasks.load_task_class(record["config"]["task"])(**record["options"])
    except Exception:
        return None


def write(folder: Path, file: str = "", task: tasks.Task | None = None) -> Path:
    """The page of a run, finished or not, as its report.html or as another file."""
    task = task or task_of(json.loads((folder / "config.json").read_text()))
    path = Path(file) if file else folder / "report.html"
    write_atomically(path, run_page(folder, task))
    return path


# ------------------------------------------------------------------------------------------ several runs

def progress(folder: Path, row: dict, n: int = 100) -> dict:
    """A run as points of a comparison: best score so far and whether it is solved, after 0, 1/n, .., n/n of what was fixed.
    row: the run as report.py's tables name it."""
    record, evals, _, summary = read(folder)
    budget, limit, warm = record["config"].get("budget"), row["limit"], sum(e["step"] == 0 for e in evals)
    grid, best, solved, at = [], 0.0, 0.0, 0
    for k in range(n + 1):
        while at < len(evals) and (max(0, at + 1 - warm) if budget else evals[at]["proposal"]) <= limit * k / n:
            best = max(best, evals[at]["score"])
            solved = float(solved or summary["solved"] and evals[at]["candidate"] == summary["best"])
            at += 1
        grid.append((best, solved))
    return {**row, "what": "evaluations" if budget else "proposals", "grid": grid}


def comparison_curve(runs: list[dict], which: int, y_label: str) -> str:
    """One line a method: the mean over its seeds of the mean over a seed's targets; the band reaches from the least seed to
    the greatest."""
    limit, n = runs[0]["limit"], len(runs[0]["grid"])
    xs = [limit * k / (n - 1) for k in range(n)]
    curves = {}
    for method in sorted({r["method"] for r in runs}, key=lambda m: (m != "migrate", m)):
        seeds: dict[int, list] = {}
        for r in runs:
            if r["method"] == method:
                seeds.setdefault(r["seed"], []).append([point[which] for point in r["grid"]])
        curves[method] = [[statistics.fmean(ys) for ys in zip(*grids)] for grids in seeds.values()]
    top = max(max(c) for seeds in curves.values() for c in seeds)
    plot = Plot(950, 330, (0, limit), (0, up_to(top)), runs[0]["what"])
    labels = []
    for number, (method, seeds) in enumerate(curves.items()):
        colour = f"m{number % 8}"
        at = list(zip(*seeds))
        if len(seeds) > 1:
            plot.band(list(zip(xs, map(min, at))), list(zip(xs, map(max, at))), colour)
        mean = [statistics.fmean(ys) for ys in at]
        dash = ("", "8 4", "2 3", "12 4 2 4")[number % 4]       # shows a line that lies on another
        plot.line(list(zip(xs, mean)), "mean", colour, dash=dash)
        labels.append((mean[-1], f"{method} {mean[-1]:.3f}", colour))
    plot.end_labels(labels)
    return f"<figure>{plot.svg(y_label)}<figcaption><b>{esc(y_label)}</b></figcaption></figure>"


def tables(text: str) -> str:
    """What report.py prints, as HTML: its Markdown tables as tables, its other lines as they are."""
    parts, table = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if not all(set(cell) <= set("-: ") and cell for cell in cells):
                tag = "td" if table else "th"
                table.append("<tr>" + "".join(f"<{tag}>{esc(cell)}</{tag}>" for cell in cells) + "</tr>")
        else:
            if table:
                parts.append(f"<table>{''.join(table)}</table>")
                table = []
            if line.strip():
                parts.append(soft(line))
    return "".join(parts)


def comparison_page(rows: dict[Path, dict], text: str) -> str:
    """rows: {run folder: its row in report.py's tables}; text: the tables."""
    runs = [progress(folder, row) for folder, row in rows.items()]
    parts = [f"<h1>{len(runs)} runs</h1>{tables(text)}"]
    for task, protocol in dict.fromkeys((r["task"], r["protocol"]) for r in runs):
        of = [r for r in runs if (r["task"], r["protocol"]) == (task, protocol)]
        targets, seeds = ({r[what] for r in of} for what in ("target", "seed"))
        parts += [f"<h2>{esc(task)}, {esc(protocol)}</h2>",
                  soft(f"Runs: {len(of)}, targets: {len(targets)}, seeds: {len(seeds)}. A seed's curve is the mean over its targets; "
                       "lines are means over seeds, bands reach from the least seed to the greatest."),
                  comparison_curve(of, 0, "best score so far")]
        if any(r["grid"][-1][1] for r in of):
            parts.append(comparison_curve(of, 1, "share of searches solved"))
    return document(f"{len(runs)} runs", "".join(parts))
