"""A program with a test suite: one step of Conway's Game of Life, learned from tests alone.

    python migrate.py --task examples/task_program.py --model Qwen/Qwen3-4B-Instruct-2507

Programs run in the sandbox of domains/sandbox.py: a function transform(grid) from an array of
digits, with two dimensions, to another. The score is the share of the tests that pass.
"""
import numpy as np

import tasks
from domains.answers import program_in
from domains.workers import open_sandbox


def life(grid):
    """What the programs should do: the tests are made with it."""
    padded = np.pad(grid, 1)
    rows, columns = grid.shape
    around = sum(padded[i:i + rows, j:j + columns] for i in range(3) for j in range(3)) - grid
    return ((around == 3) | (grid == 1) & (around == 2)).astype(int)


GRIDS = ["000 000 000", "000 010 000", "110 110 000", "000 111 000", "010 111 010", "111 111 111",
         "0100 0010 1110 0000", "0110 1001 0110 0000"]
GRIDS = [np.array([[int(cell) for cell in row] for row in rows.split()]) for rows in GRIDS]
TESTS = [(grid.tolist(), life(grid).tolist()) for grid in GRIDS]


class Life(tasks.Task):
    name = "life"

    def prompt(self):
        shown = "\n".join(f"transform(np.array({grid})) == {after}" for grid, after in TESTS[3:5])
        return ("Write a Python function transform(grid) that takes a numpy array of zeros and "
                f"ones and returns the next one. These tests have to pass:\n{shown}\n"
                "Answer with the function in a block of Python.")

    def parse(self, completion):
        program = program_in(completion)
        return [program] if program else []

    def score(self, candidates):
        sandbox = open_sandbox(seconds=2.0, prelude="")
        for number, result in sandbox.run(candidates, [grid for grid, _ in TESTS]):
            passed = sum(output == after for output, (_, after) in zip(result.outputs, TESTS))
            info = {"error": result.error} if result.error else {}
            if any(output is not None for output in result.outputs):
                yield candidates[number], tasks.Score(passed / len(TESTS), info=info)
            else:                       # it works on no grid at all
                yield candidates[number], tasks.Score(0.0, valid=False, info=info)

    def warm_start(self, seed):
        return ["def transform(grid):\n    return grid",
                "def transform(grid):\n    return 0 * grid"]
