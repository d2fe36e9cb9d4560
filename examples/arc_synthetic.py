"""Writes synthetic ARC tasks that need so many operations, each a file in the public JSON format.

    python -m examples.arc_synthetic --operations 3 --out synthetic
    python migrate.py --task arc --arc-file synthetic/d3-00.json

They come from the generator that the bundled policy learned from (tiny/arc_programs.py), with other
random numbers. Each has three training pairs and a test pair. What is left of its program when an
operation is taken away does not solve it.
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runlog.errors import UserError, exit_code
from tiny import arc_programs

MOST_CELLS = 1100       # of the training pairs, so that they fit into the policy's context


def task(seed: int, operations: int, number: int) -> dict:
    """A task in the public JSON format; "operations" are the names of those in its solution."""
    rng = np.random.default_rng([seed, operations, number])
    while True:
        steps, pairs = arc_programs.random_task(rng, operations, n_pairs=4)
        if sum(a.size + b.size for a, b in pairs[:3]) < MOST_CELLS:
            break
    pairs = [{"input": a.tolist(), "output": b.tolist()} for a, b in pairs]
    return {"train": pairs[:3], "test": pairs[3:], "operations": [name for name, _ in steps]}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.arc_synthetic", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=2, choices=range(1, 5))
    parser.add_argument("--tasks", type=int, default=24, help="how many (default: 24)")
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    args = parser.parse_args(argv)
    if args.seed < 0 or args.tasks < 1:
        raise UserError("--seed must not be negative, --tasks must be at least 1")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for number in tqdm(range(args.tasks), unit="task", disable=None):
            path = args.out / f"d{args.operations}-{number:02d}.json"
            path.write_text(json.dumps(task(args.seed, args.operations, number)) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {args.out}: {error.strerror}") from error
    print(f"{args.tasks} tasks in {args.out}")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
