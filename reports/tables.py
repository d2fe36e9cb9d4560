"""Tables of runs, as data. Renderers: `markdown` here, `markup.table` for pages.

One line per (group of targets, protocol, method). The protocol is the preset and the number that
was fixed. Below a table, one method minus each other one, paired by target and seed.
"""
from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from domains import docking
from reports.measures import Estimate, Gain, gain, mean_of, paired_difference

SOON = 250      # guesses
FEW = 5         # targets; of fewer there is no interval


@dataclass
class Table:
    title: str
    header: list[str]
    rows: list[list[str]]                               # cells, as many as in the header
    notes: list[str] = field(default_factory=list)      # lines below the table


def markdown(table: Table) -> str:
    """A table as Markdown: title, table, notes, with an empty line between them."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    parts = [table.title, "\n".join(markdown_line(cells) for cells in lines),
             "\n".join(table.notes)]
    return "\n\n".join(part for part in parts if part)


def markdown_line(cells: list[str]) -> str:
    if set(cells) == {"---"}:
        return "|" + "|".join(cells) + "|"
    return "| " + " | ".join(cells) + " |"


def compare(rows: list[dict], against: str) -> list[Table]:
    """All tables of some rows: molecules, ARC, then words and tasks of a user's own.

    against: the method whose differences to the others are shown; see `meant_by`.
    """
    molecules, arc, others = [], [], []
    for row in rows:
        {"molecule": molecules, "arc": arc}.get(row["task"], others).append(row)
    molecules.sort(key=lambda r: (r["method"], r["protocol"], r["target"], str(r["seed"])))
    computed = [r for r in molecules if r["target"] not in docking.PROTEINS]
    docked = [r for r in molecules if r["target"] in docking.PROTEINS]
    tables = molecule_tables(computed, against)
    # A docking takes a minute, so there are few evaluations: what counts is the best one.
    tables += molecule_tables(docked, against, "best_score", "best score")
    if arc:
        tables.append(arc_table(arc, against))
    if others:
        others.sort(key=lambda r: (r["group"], r["protocol"], r["method"]))
        tables.append(word_table(others, against))
    return tables


def meant_by(against: str, methods: list[str]) -> list[str]:
    """The methods among some that a name means.

    That is the method of exactly this name. If there is none, it is the methods that add modifiers
    to it, as few as there are: `migrate` means migrate+novelty where there is no migrate.
    """
    if against in methods:
        return [against]
    name, _, settings = against.partition(" ")
    more: dict[int, list[str]] = {}
    for method in methods:
        method_name, _, method_settings = method.partition(" ")
        if method_name.startswith(f"{name}+") and method_settings == settings:
            more.setdefault(method_name.count("+"), []).append(method)
    return more[min(more)] if more else []


def grouped(rows: list[dict], *fields: str) -> dict[tuple, list[dict]]:
    """{values of these fields: rows that have them}, in the order of the rows."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in fields), []).append(row)
    return groups


# ---------------------------------------------------------------------------- what a cell shows

def found(row: dict) -> float:
    return 100 * row["found"]


def found_soon(row: dict) -> float:
    return 100 * (row["found"] and row["guesses"] <= SOON)


def passed(row: dict) -> float:
    return 100 * row["pass2"]


def best_score(row: dict) -> float:
    return row["best_score"]


def with_interval(estimate: Estimate | None, form: str) -> str:
    """0.50 [0.40, 0.60]; of fewer than FEW targets 0.50. form: how the numbers are written."""
    if estimate is None:
        return "-"
    value, low, high = (form.format(x) for x in estimate[:3])
    return f"{value} [{low}, {high}]" if estimate.n >= FEW else value


def difference_cell(pair: tuple[list[dict], list[dict]], value: Callable[[dict], float]) -> str:
    """The paired difference of two methods' rows in points, and over how many targets."""
    estimate = paired_difference(*pair, value)
    n = f" (n = {estimate.n})" if estimate else ""
    return with_interval(estimate, "{:+.1f}") + n


def runs_cell(rows: list[dict]) -> str:
    """How many runs there are, and on how many targets if that is another number: 60 on 20."""
    n = len({row["target"] for row in rows})
    return f"{len(rows)}" if n == len(rows) else f"{len(rows)} on {n}"


def mean_cell(rows: list[dict], value: Callable[[dict], float], form: str) -> str:
    return with_interval(mean_of(rows, value), form)


def unique_share(rows: list[dict]) -> str:
    """Unique evaluations for each proposal."""
    return f"{sum(r['evaluations'] for r in rows) / max(1, sum(r['proposals'] for r in rows)):.2f}"


# ----------------------------------------------------------------------------------------- words

def word_table(rows: list[dict], against: str) -> Table:
    """Word search, and every task without a table of its own. Lines stand in the order of the
    rows."""
    header = ["targets", "protocol", "method", "runs", "found", f"by {SOON} guesses",
              "median guesses", "best score", "unique/proposals"]
    lines = []
    for (group, protocol, method), chosen in grouped(rows, "group", "protocol", "method").items():
        guesses = [r["guesses"] if r["found"] else math.inf for r in chosen]
        median = statistics.median_low(guesses)
        lines.append([group, protocol, method, runs_cell(chosen),
                      mean_cell(chosen, found, "{:.0f}%"), mean_cell(chosen, found_soon, "{:.0f}%"),
                      "not found" if median == math.inf else f"{median:.0f}",
                      mean_cell(chosen, best_score, "{:.3f}"), unique_share(chosen)])
    return Table("", header, lines, word_notes(rows, against))


def word_notes(rows: list[dict], against: str) -> list[str]:
    notes = []
    for (protocol, group), chosen in sorted(grouped(rows, "protocol", "group").items()):
        for ours, other, pair in compared_methods(chosen, against):
            all_found, soon = (difference_cell(pair, value) for value in (found, found_soon))
            notes.append(f"{group}, {protocol}: {ours} minus {other}, paired by target and seed: "
                         f"found {all_found} points, by {SOON} guesses {soon}")
    return notes


def compared_methods(rows: list[dict], against: str):
    """(method meant by `against`, another method, the rows of both) of some rows, in order."""
    of_method = {method: chosen for (method,), chosen in grouped(rows, "method").items()}
    for ours in meant_by(against, sorted(of_method)):
        for other in sorted(of_method.keys() - {ours}):
            yield ours, other, (of_method[ours], of_method[other])


# ------------------------------------------------------------------------------------------- ARC

def arc_table(rows: list[dict], against: str = "migrate") -> Table:
    """One line per (set of tasks, programs, method)."""
    header = ["tasks", "programs", "method", "runs", "solved", "pass@2",
              "median programs to solve", "mean best score", "unique/programs"]
    lines, notes = [], []
    for (group, limit), of_group in sorted(grouped(rows, "group", "limit").items()):
        for (method,), chosen in sorted(grouped(of_group, "method").items()):
            guesses = [r["guesses"] for r in chosen if r["found"]]
            lines.append([group, str(limit), method, runs_cell(chosen),
                          mean_cell(chosen, found, "{:.0f}%"), mean_cell(chosen, passed, "{:.0f}%"),
                          f"{statistics.median_low(guesses):.0f}" if guesses else "-",
                          mean_cell(chosen, best_score, "{:.3f}"), unique_share(chosen)])
        for ours, other, pair in compared_methods(of_group, against):
            notes.append(f"{group}, {limit} programs: solved, {ours} minus {other}, paired by task "
                         f"and seed: {difference_cell(pair, found)} points")
    return Table("", header, lines, notes)


# ------------------------------------------------------------------------------------- molecules

Values = dict[tuple[str, str], float]       # {(objective, seed): value}


def molecule_tables(rows: list[dict], against: str, value: str = "auc",
                    what: str = "AUC top-10") -> list[Table]:
    """A table for each number of evaluations or proposals, of the mean over seeds by objective and
    (preset, method). value: the column of the rows that counts, called `what`."""
    by_count: dict[str, dict[tuple[str, str], Values]] = {}
    for row in rows:
        preset, _, count = row["protocol"].rpartition(", ")
        runs = by_count.setdefault(count, {})
        values = runs.setdefault((preset, row["method"]), {})
        values[row["target"], str(row["seed"])] = float(row[value])
    return [molecule_table(count, runs, against, what) for count, runs in sorted(by_count.items())]


def molecule_table(count: str, runs: dict[tuple[str, str], Values], against: str,
                   what: str) -> Table:
    """Several objectives: a line for each. A single one: a line for each method."""
    names = {(preset, method): method if preset == method else f"{method} ({preset})"
             for preset, method in runs}
    objectives = sorted({objective for values in runs.values() for objective, _ in values})
    if len(objectives) == 1:
        header = [f"{objectives[0]}, {count}", f"{what} [lowest, highest]", "seeds"]
        table = Table("", header, [[names[key], *spread(runs[key])] for key in runs])
    else:
        table = Table(f"{what}, {count}", ["objective", *names.values()],
                      objective_lines(objectives, list(runs.values())))
    meant = meant_by(against, [method for _, method in runs])
    for ours, other in itertools.permutations(runs, 2):
        if ours[1] in meant:
            table.notes.append(f"{names[ours]} against {names[other]}: "
                               f"{gain_in_words(gain(runs[ours], runs[other]))}")
    return table


def spread(values: Values) -> list[str]:
    """Two cells: mean, lowest and highest value; the number of seeds."""
    numbers = values.values()
    mean = statistics.fmean(numbers)
    return [f"{mean:.3f} [{min(numbers):.3f}, {max(numbers):.3f}]", str(len(numbers))]


def objective_lines(objectives: list[str], runs: list[Values]) -> list[list[str]]:
    """A line for each objective, the mean over the objectives that every column has, the number of
    seeds."""
    lines, complete = [], []
    for objective in objectives:
        means = [mean_of_objective(values, objective) for values in runs]
        lines.append([objective, *("" if mean is None else f"{mean:.3f}" for mean in means)])
        if None not in means:
            complete.append(means)
    columns = zip(*complete) if complete else [()] * len(runs)
    lines.append([f"mean of {len(complete)}",
                  *(f"{statistics.fmean(column):.3f}" if column else "" for column in columns)])
    lines.append(["seeds", *(str(len({seed for _, seed in values})) for values in runs)])
    return lines


def mean_of_objective(values: Values, objective: str) -> float | None:
    chosen = [value for (of_objective, _), value in values.items() if of_objective == objective]
    return statistics.fmean(chosen) if chosen else None


def gain_in_words(result: Gain | None) -> str:
    """+26.7% [+20.0, +28.0], 2 objectives, 3 pairs; of a single objective, each seed's own gain."""
    if result is None:
        return "-"
    if result.by_seed:
        seeds = ", ".join(f"{percent:+.1f}" for percent in result.by_seed)
        return f"{result.percent:+.1f}% (by seed: {seeds})"
    return (f"{result.percent:+.1f}% [{result.low:+.1f}, {result.high:+.1f}], "
            f"{result.objectives} objectives, {result.pairs} pairs")
