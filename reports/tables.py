"""Tables of runs, as data. Renderers: `markdown` here, `markup.table` for pages.

One line per (group of targets, protocol, method). The protocol is the preset and the number that
was fixed. Below a table, one method minus each other one, paired by target and seed. Intervals are
95%, by bootstrap over targets; the number of targets stands beside them.
"""
from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from domains import docking
from reports.measures import FEWEST, Estimate, Gain, gain, mean_of, paired_difference, target_of

SOON = 250      # guesses
ABOUT_INTERVALS = ("n: how many targets. Brackets: 95% intervals, by bootstrap over targets, where "
                   f"there are {FEWEST} or more.")


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
        others.sort(key=lambda r: (targets_in_words(r), r["protocol"], r["method"]))
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
    """0.50 [0.40, 0.60], or the value alone; form: how each of the numbers is written."""
    if estimate is None:
        return "-"
    value = form.format(estimate.value)
    if estimate.interval is None:
        return value
    low, high = map(form.format, estimate.interval)
    return f"{value} [{low}, {high}]"


def mean_cell(rows: list[dict], value: Callable[[dict], float], form: str) -> str:
    return with_interval(mean_of(rows, value), form)


def n_targets(rows: list[dict]) -> str:
    return str(len(set(map(target_of, rows))))


def in_pairs(*cells: Estimate | None) -> str:
    """(12 targets): how many the paired differences are over; nothing where there are none."""
    n = {estimate.targets for estimate in cells if estimate}
    return "".join(f" ({one} target{'s' * (one != 1)})" for one in n)


def unique_share(rows: list[dict]) -> str:
    """Unique evaluations for each proposal."""
    return f"{sum(r['evaluations'] for r in rows) / max(1, sum(r['proposals'] for r in rows)):.2f}"


# ----------------------------------------------------------------------------------------- words

def targets_in_words(row: dict) -> str:
    """The group of a word; of every other task its name."""
    return row["group"] if row["task"] == "wordsearch" else row["task"]


def by_targets(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """{(group of words or name of a task, protocol): rows}, in the order of the rows."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((targets_in_words(row), row["protocol"]), []).append(row)
    return groups


def word_table(rows: list[dict], against: str) -> Table:
    """Word search, and every task without a table of its own. Lines stand in the order of the
    rows."""
    header = ["targets", "n", "protocol", "method", "runs", "found", f"by {SOON} guesses",
              "median guesses", "best score", "unique/proposals"]
    lines = []
    for (targets, protocol), of_targets in by_targets(rows).items():
        for (method,), chosen in grouped(of_targets, "method").items():
            guesses = [r["guesses"] if r["found"] else math.inf for r in chosen]
            median = statistics.median_low(guesses)
            lines.append([targets, n_targets(chosen), protocol, method, str(len(chosen)),
                          mean_cell(chosen, found, "{:.0f}%"),
                          mean_cell(chosen, found_soon, "{:.0f}%"),
                          "not found" if median == math.inf else f"{median:.0f}",
                          mean_cell(chosen, best_score, "{:.3f}"), unique_share(chosen)])
    return Table("", header, lines, [*word_notes(rows, against), ABOUT_INTERVALS])


def word_notes(rows: list[dict], against: str) -> list[str]:
    notes = []
    for (targets, protocol), chosen in sorted(by_targets(rows).items(), key=lambda g: g[0][::-1]):
        for ours, other, pair in compared_methods(chosen, against):
            differences = [paired_difference(*pair, value) for value in (found, found_soon)]
            all_found, soon = (with_interval(one, "{:+.1f}") for one in differences)
            notes.append(f"{targets}, {protocol}: {ours} minus {other}, paired by target and seed: "
                         f"found {all_found} points, by {SOON} guesses {soon}"
                         + in_pairs(*differences))
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
    header = ["tasks", "n", "programs", "method", "runs", "solved", "pass@2",
              "median programs, where solved", "mean best score", "unique/programs"]
    lines, notes = [], []
    parts: dict[tuple, list[dict]] = {}
    for row in rows:
        preset, _, count = row["protocol"].rpartition(", ")
        model, _, preset = preset.rpartition(" ")       # "": the bundled policy
        group = f"{row['group']}, {model}" if model else row["group"]
        number, _, unit = count.partition(" ")
        key = group, int(number), "" if unit == "proposals" else f" {unit}"
        parts.setdefault(key, []).append(row | {"preset": preset})
    for (group, number, unit), of_group in sorted(parts.items()):
        of_group, limit = with_presets(of_group), str(number)
        for (method,), chosen in sorted(grouped(of_group, "method").items()):
            guesses = [r["guesses"] for r in chosen if r["found"]]
            lines.append([group, n_targets(chosen), limit + unit, method, str(len(chosen)),
                          mean_cell(chosen, found, "{:.0f}%"), mean_cell(chosen, passed, "{:.0f}%"),
                          f"{statistics.median_low(guesses):.0f}" if guesses else "-",
                          mean_cell(chosen, best_score, "{:.3f}"), unique_share(chosen)])
        for ours, other, pair in compared_methods(of_group, against):
            difference = paired_difference(*pair, found)
            notes.append(f"{group}, {limit}{unit or ' programs'}: solved, {ours} minus {other}, "
                         f"paired by task and seed: {with_interval(difference, '{:+.1f}')} points"
                         + in_pairs(difference))
    return Table("", header, lines, [*notes, ABOUT_INTERVALS])


def with_presets(rows: list[dict]) -> list[dict]:
    """The rows, with the preset in the method's name where a method was run under several."""
    presets: dict[str, set] = {}
    for row in rows:
        presets.setdefault(row["method"], set()).add(row["preset"])
    return [row if len(presets[row["method"]]) == 1
            else row | {"method": f"{row['method']} ({row['preset']})"} for row in rows]


# ------------------------------------------------------------------------------------- molecules

Values = dict[tuple[str, str], float]       # {(objective, seed): value}


def molecule_tables(rows: list[dict], against: str, value: str = "auc",
                    what: str = "AUC top-10") -> list[Table]:
    """A table for each number of evaluations or proposals, of the mean over seeds by objective and
    (preset, method). value: the column of the rows that counts, called `what`."""
    by_count: dict[str, dict[tuple[str, str], Values]] = {}
    for row in (row for row in rows if row[value] != ""):
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
    mean = f"{statistics.fmean(numbers):.3f}"
    if len(numbers) > 1:
        mean += f" [{min(numbers):.3f}, {max(numbers):.3f}]"
    return [mean, str(len(numbers))]


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
    """+26.7% [+20.0, +28.0], 6 objectives, 9 pairs; of a single objective, each seed's own gain."""
    if result is None:
        return "-"
    words = f"{result.percent:+.1f}%"
    if result.by_seed:
        return f"{words} (by seed: {', '.join(f'{percent:+.1f}' for percent in result.by_seed)})"
    if result.interval:
        words += " [{:+.1f}, {:+.1f}]".format(*result.interval)
    return f"{words}, {result.objectives} objectives, {result.pairs} pairs"
