"""Solves ARC tasks without a language model: a baseline on the same tasks, scores and counts.

    python -m examples.arc_enumerate --target 3c9b0459 --budget 1024 --out runs/enumerate

It tries the programs of the generator that the bundled policy learned from (tiny/arc_programs.py):
all of one operation, those of fewer parts first, then pairs of operations, among equally long ones
in random order, by the seed. Only colours that occur in the training grids are put in, so it looks
at the grids, too, if not for long.
"""
from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator

import tasks
from examples import baseline
from runlog.errors import exit_code
from tiny import arc_programs

BATCH = 16      # programs a step


def programs(task: tasks.Arc, rng: random.Random) -> Iterator[str]:
    """Every program of one operation, then pairs for ever, never the same text twice. There are so
    many pairs that no practical number reaches their end."""
    seen = {cell for pair in task.train for grid in pair for row in grid for cell in row}
    steps = [step for step in arc_programs.all_steps() if seen.issuperset(step[1])]
    rng.shuffle(steps)
    steps.sort(key=lambda step: len(arc_programs.fragments([step])))
    for step in steps:
        yield arc_programs.text([step])
    drawn: set[tuple] = set()
    while True:
        pair = rng.choice(steps), rng.choice(steps)
        if pair not in drawn:
            drawn.add(pair)
            yield arc_programs.text(list(pair))


def main(argv: list[str]) -> None:
    parser = baseline.flags(__doc__, "examples.arc_enumerate", seed=0, budget=1024)
    parser.add_argument("--after-solved", type=int, default=32,
                        help="programs to try after the first solution, for the vote (default: 32)")
    args = parser.parse_args(argv)
    task = tasks.Arc(target=args.target)
    stream = programs(task, random.Random(f"{args.target} {args.seed}"))

    def propose(scores: dict[str, float]) -> list[str]:
        return list(itertools.islice(stream, BATCH))

    settings = baseline.Settings("arc", "enumerate", "yardstick", args.seed,
                                 proposals=args.budget, after_solved=args.after_solved)
    baseline.run(task, settings, propose, args.out, "examples.arc_enumerate", argv)


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
