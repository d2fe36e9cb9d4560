"""Random grids of ARC's look, of about 40 kinds; arc_lines.py and arc_layouts.py have more. The
operations name the kinds that suit them.

All random draws come from `look.rng`, in a fixed order: one seed gives one stream of tasks.
"""
from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


@dataclass
class Look:
    """What the grids of one task have in common."""
    rng: np.random.Generator
    palette: np.ndarray                     # colours of its cells
    low: int                                # least and greatest side of a grid
    high: int
    same_size: tuple[int, int] | None       # the size of all grids; None: any
    half_colours: np.ndarray | None = None  # one colour for each half; None: the palette's
    separator: int = 0                      # colour of the lines between parts; 0: no lines
    upright: bool = False                   # parts stand below each other, not side by side
    panel: int = 2                          # side of a panel
    panel_counts: tuple[int, int] = (2, 2)  # rows and columns of panels

    def shape(self, low: int = 1, high: int = 30) -> tuple[int, int]:
        if self.same_size:
            h, w = self.same_size
        else:
            h, w = self.rng.integers(self.low, self.high + 1, 2)
        return int(np.clip(h, low, high)), int(np.clip(w, low, high))

    def colour(self) -> int:
        return int(self.rng.choice(self.palette))

    def cells(self, shape, density: float) -> np.ndarray:
        """A grid whose cells are coloured with probability `density`, else black."""
        return self.rng.choice(self.palette, shape) * (self.rng.random(shape) < density)


def random_look(rng: np.random.Generator) -> Look:
    colours = rng.permutation(np.arange(1, 10))
    palette = colours[:rng.choice([1, 2, 3, 4, 6], p=[0.2, 0.25, 0.25, 0.2, 0.1])]
    low = int(rng.choice([3, 4, 6, 8, 10]))
    high = min(16, low + int(rng.choice([0, 2, 4, 6])))
    same_size = tuple(rng.integers(low, high + 1, 2)) if rng.random() < 0.5 else None
    look = Look(rng, palette, low, high, same_size)
    look.half_colours = rng.integers(1, 10, 2) if rng.random() < 0.6 else None
    look.separator = int(rng.integers(1, 10)) if rng.random() < 0.6 else 0
    look.upright = rng.random() < 0.5
    look.panel = int(rng.integers(2, 5))
    look.panel_counts = [(2, 2), (1, 3), (3, 3), (3, 1), (2, 3)][rng.integers(5)]
    return look


# ---------------------------------------------------------------------------------- cells at random

def noise(look, shape=None, density=None):
    shape = shape or look.shape(3)
    return look.cells(shape, density or look.rng.uniform(0.15, 0.6))


def dense(look, shape=None):
    return look.cells(shape or look.shape(2), 1 if look.rng.random() < 0.6 else 0.8)


def small(look):
    if look.same_size:
        shape = np.clip(look.same_size, 2, 4)
    else:
        shape = look.rng.integers(2, 5, 2)
    return look.cells(shape, look.rng.uniform(0.3, 1))


def tiny(look):
    side = 3 if look.rng.random() < 0.7 else 2
    return look.cells((side, side), look.rng.uniform(0.3, 0.8))


def square(look, density=None):
    side = look.rng.integers(2, 5)
    return look.cells((side, side), density or look.rng.uniform(0.4, 1))


def square_noise(look):
    side = look.shape(4, 12)[0]
    return look.cells((side, side), look.rng.uniform(0.1, 0.4))


def specks(look):
    return look.cells(look.shape(4), look.rng.uniform(0.03, 0.15))


def two(look):
    """Two colours, or one and black."""
    shape = look.shape(3)
    other = look.palette[1] if len(look.palette) > 1 else 0
    return np.where(look.rng.random(shape) < 0.5, look.palette[0], other)


def empty(look):
    return np.zeros(look.shape(3), int)


# ------------------------------------------------------------------------------------------- pieces

def patch(look, shape, mono=True):
    """A piece with cells on all sides of its box, in one colour (mono) or in several."""
    for _ in range(9):
        mask = look.rng.random(shape) < look.rng.uniform(0.5, 1)
        if mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any():
            break
    else:
        mask = np.ones(shape, bool)
    return mask * (look.colour() if mono else look.cells(shape, 1))


def objects(look, count=None, mono=True, make=patch, most=5):
    """Pieces with a black cell between any two. make(look, shape, mono): draws one; `most`: its
    greatest side."""
    h, w = look.shape(5)
    grid, taken = np.zeros((h, w), int), np.zeros((h + 2, w + 2), bool)
    for _ in range(count or look.rng.integers(2, 6)):
        for _ in range(12):
            shape = tuple(look.rng.integers(1 if mono else 2, most + 1, 2))
            piece = make(look, shape, mono)
            ph, pw = piece.shape
            if ph > h or pw > w:
                continue
            i, j = look.rng.integers(0, h - ph + 1), look.rng.integers(0, w - pw + 1)
            if not taken[i:i + ph + 2, j:j + pw + 2].any():
                grid[i:i + ph, j:j + pw] = piece
                taken[i + 1:i + ph + 1, j + 1:j + pw + 1] = True
                break
    return grid


def mixed(look):
    return objects(look, look.rng.integers(2, 4), mono=False, most=4)


def one(look):
    return objects(look, 1, mono=look.rng.random() < 0.5, most=6)


def full(look, shape, mono):
    return np.full(shape, look.colour())


def boxes(look):
    return objects(look, look.rng.integers(1, 4), make=full, most=6)


def ring(look, shape, mono):
    """The outline of a box, three times in ten with a gap; one time in five a patch instead."""
    piece = np.full(np.clip(shape, 3, 6), look.colour())
    piece[1:-1, 1:-1] = 0
    if look.rng.random() < 0.3:
        piece[0, look.rng.integers(1, piece.shape[1] - 1)] = 0
    return piece if look.rng.random() < 0.8 else patch(look, shape)


def frames(look):
    return objects(look, look.rng.integers(1, 5), make=ring, most=6)


def copies(look):
    """The same shape several times, another one once."""
    shapes = [patch(look, tuple(look.rng.integers(2, 4, 2))) != 0 for _ in range(2)]
    kinds = [0] * int(look.rng.integers(2, 4)) + [1]
    look.rng.shuffle(kinds)
    order = iter(kinds * 20)

    def next_shape(look, shape, mono):
        return shapes[next(order)] * look.colour()

    return objects(look, len(kinds), make=next_shape)


def symmetric_patch(look, shape, mono=True):
    piece = patch(look, shape, mono)
    return np.maximum(piece, piece[:, ::-1]) if look.rng.random() < 0.5 else piece


def shapes(look):
    """Pieces of all sorts: patches, full boxes, outlines, lines, single cells, mirrored ones."""
    def any_piece(look, shape, mono):
        draw = look.rng.integers(6)
        if draw == 0:
            return full(look, shape, mono)
        if draw == 1:
            return ring(look, shape, mono)
        if draw == 2:
            long = int(look.rng.integers(2, 7))
            return full(look, (1, long) if look.rng.random() < 0.5 else (long, 1), mono)
        if draw == 3:
            return full(look, (1, 1), mono)
        return symmetric_patch(look, shape, mono)

    return objects(look, look.rng.integers(2, 7), mono=look.rng.random() < 0.6, make=any_piece)


def odd_colour(look):
    """Pieces of one colour, and one of another."""
    a, b = look.rng.permutation(np.arange(1, 10))[:2]
    grid = objects(look, look.rng.integers(3, 6)) != 0
    k = look.rng.integers(grid.sum())
    odd = np.zeros(grid.shape, bool)
    odd[tuple(np.argwhere(grid)[k])] = True
    for _ in range(grid.size):
        p = np.pad(odd, 1)
        odd = grid & np.any([p[i:i + len(grid), j:j + len(grid[0])] for i, j in np.ndindex(3, 3)],
                            axis=0)
    return grid * a + odd * (b - a)


def coloured(look):
    """Pieces on a ground that is not black."""
    grid = objects(look)
    ground = int(look.rng.integers(1, 10)) if look.rng.random() < 0.5 else 8
    return np.where(grid == 0, ground, grid)


# -------------------------------------------------------------------------- symmetry and repetition

def symmetric(look):
    grid = look.cells(look.shape(3), look.rng.uniform(0.4, 1))
    grid = np.maximum(grid, grid[:, ::-1])
    return np.maximum(grid, grid[::-1]) if look.rng.random() < 0.6 else grid


def halfsym(look):
    """Noise, half of the time on the left side alone."""
    grid = noise(look, look.shape(4), 0.3)
    if look.rng.random() < 0.5:
        grid[:, grid.shape[1] // 2:] = 0
    return grid


def masked(look):
    """A symmetric grid, parts of it behind boxes of the palette's last colour."""
    side = look.shape(6, 12)[0] // 2 * 2
    if len(look.palette) > 1:
        grid = look.rng.choice(look.palette[:-1], (side, side))
    else:
        grid = np.ones((side, side), int)
    grid = np.maximum(grid, grid[::-1])
    grid = np.maximum(grid, grid[:, ::-1])
    grid = np.maximum(grid, grid.T)
    return covered(look, grid)


def covered(look, grid):
    """The grid with one or two boxes of the palette's last colour laid over it, in place."""
    h, w = grid.shape
    for _ in range(look.rng.integers(1, 3)):
        a, b = (look.rng.integers(1, max(2, side // 3) + 1) for side in (h, w))
        i, j = look.rng.integers(0, h - a + 1), look.rng.integers(0, w - b + 1)
        grid[i:i + a, j:j + b] = look.palette[-1]
    return grid


def period_clean(look):
    h, w = look.shape(5, 14)
    a, b = look.rng.integers(1, 4), look.rng.integers(2, 4)
    palette = look.palette[:-1] if len(look.palette) > 1 else look.palette
    tile = look.rng.choice(palette, (a, b))
    return np.tile(tile, (h // a + 1, w // b + 1))[:h, :w]


def periodic(look):
    return covered(look, period_clean(look))


# ------------------------------------------------------------------------ halves, thirds and panels

def side_by_side(look, parts):
    """The parts with separators between them, if the look has any; below each other if upright."""
    rows = [parts[0]]
    for part in parts[1:]:
        if look.separator:
            rows.append(np.full((len(part), 1), look.separator))
        rows.append(part)
    grid = np.hstack(rows)
    return grid.T if look.upright else grid


def halves(look):
    h, w = look.shape(2, 6)
    w = max(w, (h + 2) // 2)
    parts = [look.cells((h, w), look.rng.uniform(0.3, 0.7)) for _ in range(2)]
    if look.half_colours is not None:
        parts = [(part != 0) * colour for part, colour in zip(parts, look.half_colours)]
    return side_by_side(look, parts)


def thirds(look):
    side = look.rng.integers(2, 5)
    return side_by_side(look, [look.cells((side, side), 0.6) for _ in range(3)])


def random_panel(look):
    return look.cells((look.panel, look.panel), look.rng.uniform(0.1, 0.9))


def panels(look, make=random_panel):
    """Square panels in rows and columns, with lines of one colour between them. make(look): one."""
    n_rows, n_columns = look.panel_counts
    tiles = [[make(look) for _ in range(n_columns)] for _ in range(n_rows)]
    colour = look.separator or 5
    beside = np.full((look.panel, 1), colour)
    below = np.full((1, n_columns * (look.panel + 1) - 1), colour)
    bands = []
    for row in tiles:
        parts = []
        for tile in row:
            parts += [beside, tile]
        bands += [below, np.hstack(parts[1:])]
    return np.vstack(bands[1:])


def panels_odd(look):
    """One panel differs, all others are equal."""
    common, odd = (look.cells((look.panel, look.panel), 0.6) for _ in range(2))
    n_rows, n_columns = look.panel_counts
    is_odd = iter(look.rng.permutation([1] + [0] * (n_rows * n_columns - 1)))

    def next_panel(look):
        return odd if next(is_odd) else common

    return panels(look, next_panel)


def plain_panel(look):
    colour = look.colour() * int(look.rng.random() < 0.7)
    return np.full((look.panel, look.panel), colour)


def panels_plain(look):
    return panels(look, plain_panel)


# --------------------------------------------------------------------------- lines, rows and blocks

def lines(look):
    grid = np.zeros(look.shape(4), int)
    for _ in range(look.rng.integers(1, 4)):
        if look.rng.random() < 0.5:
            grid[look.rng.integers(len(grid))] = look.colour()
        else:
            grid[:, look.rng.integers(len(grid[0]))] = look.colour()
    return grid * (look.rng.random(grid.shape) < (1 if look.rng.random() < 0.5 else 0.7))


def spaced(look):
    """Some rows and some columns are black."""
    grid = look.cells(look.shape(4), 0.7)
    grid = grid * (look.rng.random((len(grid), 1)) < 0.6)
    return grid * (look.rng.random(len(grid[0])) < 0.6)


def blocks(look):
    """Rows and columns repeated one to three times."""
    grid = look.cells(look.rng.integers(2, 4, 2), 0.8)
    grid = np.repeat(grid, look.rng.integers(1, 4, len(grid)), 0)
    return np.repeat(grid, look.rng.integers(1, 4, len(grid[0])), 1)


def blocks_of(look, k):
    """Every cell k x k times."""
    return np.kron(look.cells(look.rng.integers(2, 5, 2), 0.7), np.ones((k, k), int))


def stripes(look):
    colours = look.rng.permutation(look.palette)
    grid = np.repeat(colours[None], look.shape(3, 8)[0], 0)
    grid = np.repeat(grid, look.rng.integers(1, 4, len(colours)), 1)
    return grid.T if look.upright else grid


def headed(look):
    """The first row and the first column are coloured."""
    grid = look.cells(look.shape(4), look.rng.uniform(0.2, 0.5))
    if look.half_colours is not None:
        grid = (grid != 0) * look.half_colours[0]
    grid[0] = look.rng.integers(1, 10, len(grid[0]))
    grid[:, 0] = look.rng.integers(1, 10, len(grid))
    return grid


def pairs(look):
    """Pairs of equal cells in one row or in one column."""
    grid = np.zeros(look.shape(5), int)
    for _ in range(look.rng.integers(1, 4)):
        colour = look.colour()
        i, i2 = look.rng.integers(len(grid), size=2)
        j, j2 = look.rng.integers(len(grid[0]), size=2)
        grid[i, j] = colour
        if look.rng.random() < 0.5:
            grid[i, j2] = colour
        else:
            grid[i2, j] = colour
    return grid


def row(look):
    return look.cells((1, int(look.rng.integers(3, 9))), 0.4)


def row_start(look):
    """A row whose first one to three cells have a colour."""
    grid = np.zeros((1, 2 * int(look.rng.integers(2, 6))), int)
    grid[0, :look.rng.integers(1, 4)] = look.colour()
    return grid


KINDS = (noise, dense, small, tiny, square, square_noise, specks, objects, mixed, one, boxes,
         frames, copies, symmetric, halfsym, masked, periodic, period_clean, halves, thirds, panels,
         panels_odd, panels_plain, lines, spaced, blocks, stripes, headed, pairs, two, coloured,
         empty, row, row_start, shapes, odd_colour)
GRIDS = {make.__name__: make for make in KINDS}
GRIDS.update({f"blocks{k}": functools.partial(blocks_of, k=k) for k in (2, 3, 4)})
