"""Synthetic tasks of ARC's look: short numpy programs over grid operations, and random grids.

A program is a few operations, each a comment that says what it does and a few lines of plain numpy.
Its text is a sequence of fragments, and each fragment is one token of the bundled policy. Colours
are fragments of their own, so that a colour is the same token in every operation. Nothing here was
derived from ARC's own tasks.

    random_task(rng, depth)  ->  (steps of the program, [(input grid, output grid), ..])
    text(steps)              ->  the program as it runs in the sandbox
"""
from __future__ import annotations

import itertools
import re

import numpy as np

from tiny.arc_grids import GRIDS, Look, random_look
from tiny.arc_operations import OPERATIONS

HEADER, FOOTER = "import numpy as np\n\n\ndef transform(grid):", "\n    return grid"
Step = tuple[str, tuple[int, ...]]      # name of an operation, its colours


# -------------------------------------------------------------------------------- programs as text

def pieces_of(name: str) -> list[str]:
    """The text of an operation, cut where its colours stand: one piece more than it has colours."""
    operation = OPERATIONS[name]
    body = ["# " + operation.hypothesis, *operation.code.splitlines()]
    return re.split(r"\{[cd]\}", "".join("\n    " + line for line in body))


def slots_of(name: str) -> list[int]:
    """Which colour stands at each cut of pieces_of: 0 for {c}, 1 for {d}."""
    return ["cd".index(slot) for slot in re.findall(r"\{([cd])\}", OPERATIONS[name].code)]


def fragments(steps: list[Step]) -> list[str]:
    """The program as the list of fragments that are the policy's tokens."""
    found = [HEADER]
    for name, colours in steps:
        first, *rest = pieces_of(name)
        found.append(first)
        for slot, piece in zip(slots_of(name), rest):
            found.append(str(colours[slot]))
            if piece:
                found.append(piece)
    return [*found, FOOTER]


def text(steps: list[Step]) -> str:
    return "".join(fragments(steps))


def all_fragments() -> list[str]:
    """Every fragment, in a fixed order; colours are the digits."""
    found = dict.fromkeys([HEADER, FOOTER, *"0123456789"])
    for name in OPERATIONS:
        found.update(dict.fromkeys(piece for piece in pieces_of(name) if piece))
    return list(found)


def all_steps() -> list[Step]:
    """Every operation with every choice of colours that makes sense, those with fewer colours
    first."""
    found = [(name, ()) for name, o in OPERATIONS.items() if o.colours == 0]
    found += [(name, (c,)) for name, o in OPERATIONS.items() if o.colours == 1
              for c in range(1, 10)]
    for name, operation in OPERATIONS.items():
        if operation.colours == 2:
            second_black = name == "adjacent"       # only here is black a useful second colour
            found += [(name, (c, d)) for c, d in itertools.permutations(range(10), 2)
                      if c and (d or second_black)]
    return found


# --------------------------------------------------------------------------------- running programs

_compiled: dict[Step, object] = {}


def run(steps: list[Step], grid: np.ndarray) -> np.ndarray | None:
    """The output of our own program, None where it fails or makes no grid.

    Only for programs of this module: nothing is sandboxed here.
    """
    try:
        for step in steps:
            if step not in _compiled:
                space: dict = {}
                exec(text([step]), space)
                _compiled[step] = space["transform"]
            grid = np.asarray(_compiled[step](np.array(grid)))
            if not is_grid(grid):
                return None
        return grid.astype(int)
    except Exception:
        return None


def is_grid(grid: np.ndarray) -> bool:
    return bool(grid.ndim == 2 and grid.size and max(grid.shape) <= 30
                and grid.min() >= 0 and grid.max() <= 9)


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and bool((a == b).all())


# ----------------------------------------------------------------------------------------- tasks

# Operations whose first colour is one that they look for in the grid.
SOURCES = ("crop_colour", "keep_colour", "remove_colour", "recolour", "swap", "adjacent")
COVERS = ("unhide", "hidden", "unhide_period", "hidden_period")


def random_step(rng: np.random.Generator, name: str, look: Look) -> Step:
    """An operation with colours. Those that it looks for are mostly the task's own."""
    colours = rng.permutation(np.arange(1, 10))[:OPERATIONS[name].colours]
    if name in SOURCES and rng.random() < 0.9:
        colours[0] = rng.choice(look.palette)
    if name in ("recolour", "adjacent") and rng.random() < 0.2:
        colours[1] = 0
    if name in COVERS:
        colours[0] = look.palette[-1]
    return name, tuple(int(c) for c in colours)


def random_task(rng: np.random.Generator, depth: int, n_pairs: int = 3, patience: int = 40):
    """(steps, [(input, output), ..]) such that every step matters and the outputs differ.

    depth: number of operations. One of them, drawn evenly, and its place stay for `patience` tries;
    otherwise operations that seldom apply would be rare.
    """
    names = list(OPERATIONS)
    while True:
        anchor, place = names[rng.integers(len(names))], rng.integers(depth)
        for _ in range(patience):
            look = random_look(rng)
            steps = []
            for i in range(depth):
                name = anchor if i == place else names[rng.integers(len(names))]
                steps.append(random_step(rng, name, look))
            pairs = random_pairs(rng, steps, anchor, look, n_pairs)
            if len(pairs) == n_pairs and not degenerate(steps, pairs):
                return steps, pairs


def random_pairs(rng: np.random.Generator, steps: list[Step], anchor: str, look: Look,
                 n_pairs: int) -> list:
    """Pairs of one kind of grid that suits the first step or the anchor. Fewer than `n_pairs` where
    the program fails on a grid or leaves it as it is."""
    chosen = steps[0][0] if rng.random() < 0.5 else anchor
    kinds = OPERATIONS[chosen].kinds.split()
    make = GRIDS[kinds[rng.integers(len(kinds))]]
    pairs = []
    for _ in range(n_pairs):
        grid = make(look)
        output = run(steps, grid)
        if output is None or max(grid.shape) > 30 or same(output, grid):
            break
        pairs.append((grid, output))
    return pairs


def degenerate(steps: list[Step], pairs: list) -> bool:
    """All inputs or all outputs alike, an output all black, or a step that changes nothing."""
    inputs = {str(a.tolist()) for a, _ in pairs}
    outputs = {str(b.tolist()) for _, b in pairs}
    if len(inputs) == 1 or len(outputs) == 1 or any(not b.any() for _, b in pairs):
        return True
    for i in range(len(steps)):
        rest = steps[:i] + steps[i + 1:]
        if rest and all(same(run(rest, a), b) for a, b in pairs):
            return True
    return False


def shard(seed: int, number: int, size: int = 1000, depths=(0.2, 0.5, 0.3)) -> list[dict]:
    """Tasks number * size, .. of the stream of a seed; the grids as strings of digits, a row each.

    depths: how often a program has one operation, two, three.
    """
    rng = np.random.default_rng([seed, number])
    found = []
    for _ in range(size):
        steps, pairs = random_task(rng, 1 + int(rng.choice(len(depths), p=depths)))
        found.append({"steps": steps, "pairs": [[digits(a), digits(b)] for a, b in pairs]})
    return found


def digits(grid: np.ndarray) -> str:
    """A grid as "012/345": a digit a cell, a slash between two rows."""
    return "/".join("".join(map(str, row)) for row in grid.tolist())
