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
from reports.records import find_runs, read
from reports.rows import Found, rows_from, word_groups, write_csv
from reports.tables import Table, compare, markdown
from runlog.errors import UserError, exit_code, printable
from tasks import TASKS

TARGETS = Path(__file__).resolve().parent.parent / "data" / "wordsearch_targets.json"


def main(argv: list[str]) -> None:
    try:
        run(argv)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error


def run(argv: list[str]) -> None:
    args = parse_arguments(argv)
    if args.within is not None and args.within < 1:
        raise UserError(f"--within {args.within}: at least 1")
    folders = find_runs(args.paths)
    if args.svg:
        if len(folders) != 1:
            raise UserError(f"{len(folders)} runs in {', '.join(map(str, args.paths))}: name one "
                            "run folder")
        args.svg.write_text(pages.search_picture(folders[0]), encoding="utf-8")
        print(printable(args.svg))
    elif (args.html is not None and len(folders) == len(args.paths) == 1
          and args.csv is None and args.within is None):
        print(printable(pages.write(folders[0], args.html, task_file=args.task)))
        warn_of_code(folders[0], args.task)
    else:
        found = rows_of(args)
        tables = compare(found.rows, args.against)
        print("\n\n".join(map(markdown, tables)))
        if args.html is not None:
            print(printable(write_comparison(Path(args.html or "comparison.html"), tables, found)))


def write_comparison(file: Path, tables: list[Table], found: Found) -> Path:
    """The page of many runs. Rows of CSV files have no curves."""
    drawn = [(row, run) for row, run in zip(found.rows, found.runs) if run]
    if not drawn:
        raise UserError("a page needs run folders; a CSV file has no curves")
    file.write_text(comparison_page(tables, *map(list, zip(*drawn))), encoding="utf-8")
    return file


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN",
                        help="run folders, folders that hold them, or CSV files of runs")
    parser.add_argument("--csv", type=Path, metavar="FILE",
                        help="write the runs, one a line, to this file")
    parser.add_argument("--within", type=int, metavar="N",
                        help="count only the first N guesses of every run")
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


def rows_of(args: argparse.Namespace) -> Found:
    """All rows, with a word on what is left out; with --csv they are written as well."""
    found = rows_from(args.paths, word_groups(args.targets), args.within)
    for line in found.left_out:
        print(f"{printable(line)}: left out", file=sys.stderr)
    if args.csv:
        write_csv(args.csv, found.rows)
    return found


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
