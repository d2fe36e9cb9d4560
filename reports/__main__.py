"""Turns runs into tables: how often, how soon and how well each method found what it searched for.

    python -m reports runs/*                                # folders, searched for runs
    python -m reports results/wordsearch --csv results/wordsearch.csv
    python -m reports runs/* --html comparison.html         # with curves, as a page
    python -m reports runs/NAME --html                      # makes runs/NAME/report.html again
    python -m reports runs/NAME --svg search.svg            # its search curve alone

One line per (protocol, method with the settings that the user changed): the protocol is the preset
and the number that was fixed. Guesses are proposals where the number of proposals was fixed
(repeats count), and unique evaluations where that of evaluations was; beyond the fixed number
nothing counts. Intervals: 95%, bootstrap over targets (the seeds of a target stay together).
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reports import pages
from reports.comparison import comparison_page
from reports.curves import search_curve
from reports.plots import standalone
from reports.records import find_runs, is_finished, read
from reports.rows import rows_from, word_groups, write_csv
from reports.tables import Table, compare, markdown
from runlog.errors import UserError, exit_code
from tasks import TASKS

TARGETS = Path(__file__).resolve().parent.parent / "data" / "wordsearch_targets.json"


def main(argv: list[str]) -> None:
    args = parse_arguments(argv)
    for path in args.paths:
        if not path.exists():
            raise UserError(f"there is no {path}")
        if path.suffix != ".csv" and not find_runs([path]):
            raise UserError(f"{path} is no run, and holds none (a run has config.json and "
                            "evals.jsonl)")
    if args.html is None and args.svg is None:
        print_tables(tables_of(args))
        return
    folders = find_runs(args.paths)
    if not folders or (args.svg and len(folders) > 1):
        what = "one run folder" if args.svg else "a run folder, or folders that hold some"
        raise UserError(f"{len(folders)} runs in {', '.join(map(str, args.paths))}: name {what}")
    if args.svg:
        picture = standalone(search_curve(read(folders[0]).evaluations))
        args.svg.write_text(picture, encoding="utf-8")
        print(args.svg)
    elif len(folders) == 1:
        print(pages.write(folders[0], args.html, task_file=args.task))
        warn_of_code(folders[0], args.task)
    else:
        tables = tables_of(args)
        print_tables(tables)
        finished = [folder for folder in folders if is_finished(folder)]
        file = Path(args.html or "comparison.html")
        file.write_text(comparison_page(tables, finished), encoding="utf-8")
        print(file)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN",
                        help="run folders, folders that hold them, or CSV files of runs")
    parser.add_argument("--csv", type=Path, metavar="FILE",
                        help="write the runs, one a line, to this file")
    parser.add_argument("--against", default="migrate", metavar="METHOD",
                        help="the method (as in the table) whose differences are shown; where "
                             "there is none of this name, the one that adds modifiers to it")
    parser.add_argument("--targets", type=Path, default=TARGETS, metavar="FILE",
                        help="JSON: the groups of word-search targets")
    parser.add_argument("--html", nargs="?", const="", metavar="FILE",
                        help="a page: of one run (default: its report.html, finished or not), or a "
                             "comparison of many (default: comparison.html)")
    parser.add_argument("--task", default="", metavar="FILE",
                        help="the file of a task of your own, for the pictures on a page: the file "
                             "that a run names is not executed unless you name it as well")
    parser.add_argument("--svg", type=Path, metavar="FILE",
                        help="the search curve of one run as a picture")
    return parser.parse_args(argv)


def warn_of_code(folder: Path, task_file: str) -> None:
    """Says so where pictures are missing because nobody named the code that draws them."""
    name = str(read(folder).record["config"].get("task"))
    if name not in TASKS and not task_file:
        print(f"without pictures: they need the code of {name!r}. If it is yours, add --task FILE",
              file=sys.stderr)


def tables_of(args: argparse.Namespace) -> list[Table]:
    """The tables of all rows; with --csv the rows are written as well."""
    rows = rows_from(args.paths, word_groups(args.targets))
    if args.csv:
        write_csv(args.csv, rows)
    return compare(rows, args.against)


def print_tables(tables: list[Table]) -> None:
    if tables:
        print("\n\n".join(markdown(table) for table in tables))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
