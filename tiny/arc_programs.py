"""Synthetic tasks of ARC's look: short numpy programs over grid operations, and random grids.

A program is a few operations, each a comment that says what it does and a few lines of plain numpy.
There are those on whole grids (arc_operations.py, arc_lines.py, arc_layouts.py), and those on the
pieces of a grid (arc_objects.py). The text of a program is a sequence of fragments, and each
fragment is one token of the bundled policy. Colours are fragments of their own, so that a colour is
the same token in every operation.

    random_task(rng, depth)  ->  (steps of the program, [(input grid, output grid), ..])
    text(steps)              ->  the program as it runs in the sandbox
"""
from __future__ import annotations

import itertools
import re

import numpy as np

from tiny import arc_grids, arc_layouts, arc_lines, arc_operations
from tiny.arc_grids import Look, random_look
from tiny.arc_objects import object_operations, random_object_operation

HEADER, FOOTER = "import numpy as np\n\n\ndef transform(grid):", "\n    return grid"
Step = tuple[str, tuple[int, ...]]      # name of an operation, its colours

# The order decides the numbers of the policy's tokens.
MODULES = (arc_operations, arc_lines, arc_layouts)
PLAIN = dict(itertools.chain(*(family() for m in MODULES for family in m.FAMILIES)))
OBJECTS = dict(object_operations())
OPERATIONS = PLAIN | OBJECTS
PLAIN_NAMES = list(PLAIN)
SOURCES = {name for m in MODULES for name in m.SOURCES}
COVERS = {name for m in MODULES for name in getattr(m, "COVERS", ())}
GRIDS = arc_grids.GRIDS | {kind.__name__: kind for m in MODULES[1:] for kind in m.KINDS}


# -------------------------------------------------------------------------------- programs as text

def fragments_of(name: str) -> list[str]:
    """The text of an operation, cut between its parts and around colours; {c}, {d}: a colour."""
    found = []
    for hypothesis, code in OPERATIONS[name].parts:
        lines = ["# " + hypothesis, *code.splitlines()]
        found += re.split(r"(\{[cd]\})", "".join("\n    " + line for line in lines))
    return [piece for piece in found if piece]


def fragments(steps: list[Step]) -> list[str]:
    """The program as the list of fragments that are the policy's tokens."""
    found = [HEADER]
    for name, colours in steps:
        chosen = dict(zip(OPERATIONS[name].slots, map(str, colours)))
        found += [chosen.get(piece, piece) for piece in fragments_of(name)]
    return [*found, FOOTER]


def text(steps: list[Step]) -> str:
    return "".join(fragments(steps))


def all_fragments() -> list[str]:
    """Every fragment of the operations, in a fixed order; colours are the digits."""
    found = dict.fromkeys([HEADER, FOOTER, *"0123456789"])
    for name in OPERATIONS:
        found.update(dict.fromkeys(fragments_of(name)))
    return [fragment for fragment in found if fragment not in ("{c}", "{d}")]


def all_steps() -> list[Step]:
    """Every operation with every choice of colours that makes sense, those with fewer colours
    first."""
    n_colours = {name: len(operation.slots) for name, operation in OPERATIONS.items()}
    found = [(name, ()) for name, n in n_colours.items() if n == 0]
    found += [(name, (c,)) for name, n in n_colours.items() if n == 1 for c in range(1, 10)]
    for name, n in n_colours.items():
        if n == 2:
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

OBJECT_SHARE = 0.4          # of operations on the pieces of a grid among all that are drawn


def random_name(rng: np.random.Generator) -> str:
    if rng.random() < OBJECT_SHARE:
        return random_object_operation(rng, OBJECTS)
    return PLAIN_NAMES[rng.integers(len(PLAIN_NAMES))]


def fresh_colours(rng: np.random.Generator, name: str) -> tuple[int, ...]:
    return tuple(rng.permutation(np.arange(1, 10))[:len(OPERATIONS[name].slots)].tolist())


def random_step(rng: np.random.Generator, name: str, look: Look) -> Step:
    """An operation with colours. Those that it looks for are mostly the task's own."""
    colours = list(fresh_colours(rng, name))
    looks_for_one = name in SOURCES or name in OBJECTS and "{c}" in OPERATIONS[name].slots
    if looks_for_one and rng.random() < 0.9:
        colours[0] = rng.choice(look.palette)
    if name in ("recolour", "adjacent") and rng.random() < 0.2:
        colours[1] = 0
    if name in COVERS:
        colours[0] = look.palette[-1]
    return name, tuple(map(int, colours))


def random_task(rng: np.random.Generator, depth: int, n_pairs: int = 3, patience: int = 40):
    """(steps, [(input, output), ..]) such that every step matters and the outputs differ.

    depth: number of operations. One of them and its place stay for `patience` tries; otherwise
    operations that seldom apply would be rare.
    """
    while True:
        anchor, place = random_name(rng), rng.integers(depth)
        for _ in range(patience):
            look = random_look(rng)
            steps = []
            for i in range(depth):
                name = anchor if i == place else random_name(rng)
                steps.append(random_step(rng, name, look))
            pairs = random_pairs(rng, steps, anchor, look, n_pairs)
            if len(pairs) == n_pairs and not degenerate(steps, pairs):
                return steps, pairs


def nearby(rng: np.random.Generator, step: Step) -> Step:
    """Another operation that is like this one: of an operation on pieces one of the three parts is
    another; of any other the colours are. One that has none becomes any operation."""
    other = step
    while other == step:
        name, colours = step
        if name in OBJECTS:
            parts, place = name.split("."), rng.integers(3)
            parts[place] = random_object_operation(rng, OBJECTS).split(".")[place]
            if ".".join(parts) not in OBJECTS:
                continue
            name = ".".join(parts)
        elif not colours:
            name = random_name(rng)
        if name == step[0] or len(OPERATIONS[name].slots) != len(colours):
            colours = fresh_colours(rng, name)
        other = name, colours
    return other


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


def shard(seed: int, number: int, size: int = 1000, depths=(0.4, 0.4, 0.2)) -> list[dict]:
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
