"""Operations on whole grids: lines, growth, motion and patterns (see arc_operations.py).

The ideas were chosen after a look at the odd half of ARC-AGI-1's training tasks. Each operation
is meant as the rule, or as a step of the rule, of many puzzles.

FAMILIES: functions that make the operations. KINDS: the kinds of grid that they need besides those
of arc_grids.py. SOURCES and COVERS: operations whose first colour is one that they look for in the
grid, any of the palette's, or its last.
"""
from __future__ import annotations

import numpy as np

from tiny.arc_grids import covered, objects, period_clean
from tiny.arc_operations import AROUND, OUTSIDE, PERIOD, SIDES, Named, op

# ------------------------------------------------------------------------ code that several share

# The part of p, the grid with one more cell on all sides, that shows every cell the neighbour from
# which a line in a direction comes.
FROM = {"up": "p[2:, 1:-1]", "down": "p[:-2, 1:-1]", "left": "p[1:-1, 2:]", "right": "p[1:-1, :-2]",
        "up_left": "p[2:, 2:]", "up_right": "p[2:, :-2]", "down_left": "p[:-2, 2:]",
        "down_right": "p[:-2, :-2]"}
ACROSS = "(0, 1), (1, 0), (0, -1), (-1, 0)"
ASLANT = "(1, 1), (1, -1), (-1, 1), (-1, -1)"

# Coloured cells draw lines in the directions {steps} until they meet something.
WALK = """g = grid.copy()
for i, j in np.argwhere(grid):
    for a, b in ({steps}):
        r, c = i + a, j + b
        while 0 <= r < len(g) and 0 <= c < len(g[0]) and grid[r, c] == 0:
            g[r, c] = {ink}
            r, c = r + a, c + b
grid = g"""

# m: the cells {start}, and all cells {over} that a path of such cells joins to them.
FLOOD = """m = {start}
for _ in range(grid.size):
    p = np.pad(m, 1)
    more = m | ({over} & (p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:]))
    if (more == m).all():
        break
    m = more
"""

# areas: one mask for each area of black cells. Every cell takes the largest number beside it, again
# and again.
AREAS = """n = np.arange(1, grid.size + 1).reshape(grid.shape) * (grid == 0)
for _ in range(grid.size):
    p = np.pad(n, 1)
    m = np.max([n, p[:-2, 1:-1], p[2:, 1:-1], p[1:-1, :-2], p[1:-1, 2:]], axis=0) * (grid == 0)
    if (m == n).all():
        break
    n = m
areas = [n == k for k in np.unique(n[n > 0])]
"""

# t: the grid, turned so that a full line of one colour is a row. w: the number of this row.
WALL = """grid = grid.copy()
t = grid if any(r[0] != 0 and (r == r[0]).all() for r in grid) else grid.T
w = next(i for i in range(len(t)) if t[i, 0] != 0 and (t[i] == t[i, 0]).all())
"""

# box: the smallest part of the grid with all coloured cells in it.
BOX = """grid = grid.copy()
r, c = np.where(grid != 0)
box = grid[r.min():r.max() + 1, c.min():c.max() + 1]
"""

# Every coloured cell is copied to {places}. h / 2, w / 2: the middle of colour {c}.
ABOUT = """grid = grid.copy()
r, c = np.where(grid == {c})
h, w = r.min() + r.max(), c.min() + c.max()
for i, j in np.argwhere(grid):
    for a, b in ({places},):
        if 0 <= a < len(grid) and 0 <= b < len(grid[0]) and grid[a, b] == 0:
            grid[a, b] = grid[i, j]"""

ROWS_AND_COLUMNS = (("rows", "row", "grid", ""), ("columns", "column", "grid.T", ".T"))


# ------------------------------------------------------------------------------------ the families

def rays() -> list[Named]:
    found = []
    for side in SIDES:
        found.append(op(
            f"beam_{side}", f"cells of one colour draw a line {side} until they meet another",
            "m = grid == {c}\n"
            "for _ in range(len(grid) + len(grid[0])):\n"
            "    p = np.pad(m, 1)\n"
            f"    m = m | ({FROM[side]} & (grid == 0))\n"
            "grid = np.where(m, {c}, grid)", "specks objects"))
    for side in list(FROM)[4:]:
        words = side.replace("_", " and to the ")
        found.append(op(
            f"ray_{side}", f"coloured cells draw a slanting line {words}",
            "for _ in range(len(grid) + len(grid[0])):\n"
            "    p = np.pad(grid, 1)\n"
            f"    grid = np.where(grid == 0, {FROM[side]}, grid)", "specks corners"))
    return [
        *found,
        op("bounce", "coloured cells draw a slanting line up and to the right, back from each side",
           "g = grid.copy()\n"
           "w = max(1, 2 * len(g[0]) - 2)\n"
           "for i, j in np.argwhere(grid):\n"
           "    for k in range(1, i + 1):\n"
           "        g[i - k, min((j + k) % w, -(j + k) % w)] = grid[i, j]\n"
           "grid = g", "bottom"),
    ]


def crosses() -> list[Named]:
    row_of, column_of = "m.any(axis=1, keepdims=True)", "m.any(axis=0, keepdims=True)"
    return [
        op("cross_clipped", "coloured cells draw lines up, down and to both sides until they meet "
           "something", WALK.format(steps=ACROSS, ink="grid[i, j]"), "specks"),
        op("x_clipped", "coloured cells draw lines along their diagonals until they meet something",
           WALK.format(steps=ASLANT, ink="grid[i, j]"), "specks"),
        op("cross_in", "rows and columns with a coloured cell get a colour where they are black",
           f"m = grid != 0\ngrid = np.where((grid == 0) & ({row_of} | {column_of}), {{c}}, grid)",
           "specks"),
        op("rows_of", "a row with a cell of one colour is filled with it",
           f"m = grid == {{c}}\ngrid = np.where({row_of}, {{c}}, grid)", "specks"),
        op("columns_of", "a column with a cell of one colour is filled with it",
           f"m = grid == {{c}}\ngrid = np.where({column_of}, {{c}}, grid)", "specks"),
        op("crossings", "black cells whose row and column both have coloured cells get a colour",
           f"m = grid != 0\ngrid = np.where((grid == 0) & {row_of} & {column_of}, {{c}}, grid)",
           "specks"),
    ]


def joins() -> list[Named]:
    found = []
    for name, word, there, back in ROWS_AND_COLUMNS:
        half = (f"g = {there}.copy()\n"
                "for row in g:\n"
                "    k = np.flatnonzero(row)\n"
                "    for a, b in zip(k, k[1:]):\n"
                "        row[a:(a + b + 1) // 2] = row[a]\n"
                "        row[(a + b) // 2 + 1:b] = row[b]\n")
        found += [
            op(f"meet_{name}", f"neighbouring cells in a {word} draw lines that meet half way",
               f"{half}grid = g{back}", "ends"),
            op(f"meet_{name}_in", f"neighbouring cells in a {word} draw lines that meet half way "
               "in a cell of one colour",
               half + "        if (a + b) % 2 == 0:\n"
               f"            row[(a + b) // 2] = {{c}}\ngrid = g{back}", "ends"),
        ]
    return [
        *found,
        op("span_both", "all cells between two of one colour in a row or a column take it",
           "g = grid.copy()\n"
           "for k in np.unique(grid[grid != 0]):\n"
           "    for t, out in ((grid, g), (grid.T, g.T)):\n"
           "        for row, new in zip(t == k, out):\n"
           "            if row.any():\n"
           "                new[row.argmax():len(row) - row[::-1].argmax()] = k\n"
           "grid = g", "pairs specks"),
        op("join_both_in", "black cells between two equal cells in a row or a column get a colour",
           "g = grid.copy()\n"
           "for t, out in ((grid, g), (grid.T, g.T)):\n"
           "    for row, new in zip(t, out):\n"
           "        k = np.flatnonzero(row)\n"
           "        for a, b in zip(k, k[1:]):\n"
           "            if row[a] == row[b]:\n"
           "                new[a + 1:b] = {c}\n"
           "grid = g", "pairs specks"),
        op("join_slanting", "equal cells in a diagonal are joined by their colour",
           "for _ in range(2):\n"
           "    grid = grid[:, ::-1]\n"
           "    a, b = grid, grid\n"
           "    for _ in range(max(grid.shape)):\n"
           "        p, q = np.pad(a, 1), np.pad(b, 1)\n"
           "        a, b = np.where(a == 0, p[2:, 2:], a), np.where(b == 0, q[:-2, :-2], b)\n"
           "    grid = np.where(a == b, a, grid)", "slanting_pairs"),
        op("fill_between", "the box that the cells of one colour span is filled with it, for every "
           "colour",
           "g = grid.copy()\n"
           "for k in np.unique(grid[grid != 0]):\n"
           "    r, c = np.where(grid == k)\n"
           "    g[r.min():r.max() + 1, c.min():c.max() + 1] = k\n"
           "grid = g", "pairs objects"),
        op("corner_path", "a cell of one colour and one of another are joined by a line of a "
           "colour along the row of the first and the column of the second",
           "i, j = np.argwhere(grid == {c})[0]\n"
           "r, c = np.argwhere((grid != 0) & (grid != {c}))[0]\n"
           "m = np.zeros(grid.shape, bool)\n"
           "m[i, min(j, c):max(j, c) + 1] = m[min(i, r):max(i, r) + 1, c] = True\n"
           "grid = np.where(m & (grid == 0), {d}, grid)", "two_cells"),
    ]


def extended() -> list[Named]:
    found = []
    for name, words, steps in (("straight", "rows and columns", ACROSS),
                               ("slanting", "diagonals", ASLANT)):
        found.append(op(
            f"extend_{name}", f"two equal cells in a line go on along {words} over black",
            "for _ in range(max(grid.shape)):\n"
            "    p = np.pad(grid, 2)\n"
            f"    for a, b in ({steps}):\n"
            "        one, two = (p[2 - k * a:len(p) - 2 - k * a, 2 - k * b:len(p[0]) - 2 - k * b] "
            "for k in (1, 2))\n"
            "        grid = np.where((grid == 0) & (one == two), one, grid)",
            f"strokes_{name}"))
    return [
        *found,
        op("dotted", "coloured cells draw a line to the right whose cells have a colour and their "
           "own in turn",
           "g = grid.copy()\n"
           "for i, j in np.argwhere(grid):\n"
           "    g[i, j::2], g[i, j + 1::2] = grid[i, j], {c}\n"
           "grid = g", "specks left_side"),
    ]


def walls() -> list[Named]:
    lines = "for i in {range}:\n    t[i] = np.where(t[i] == 0, t[i {sign} 1], t[i])\n"
    fall = ("t[{part}] = np.take_along_axis(t[{part}], "
            "np.argsort(t[{part}] {sign}= 0, axis=0, kind='stable'), 0)\n")
    return [
        op("line_to_wall", "coloured cells draw a line to the full line of one colour",
           WALL + lines.format(range="range(1, w)", sign="-")
           + lines.format(range="range(len(t) - 2, w, -1)", sign="+"), "wall"),
        op("fall_to_wall", "coloured cells fall towards the full line of one colour",
           WALL + fall.format(part=":w", sign="!") + fall.format(part="w + 1:", sign="="), "wall"),
        op("mirror_in_wall", "both sides of the full line of one colour show each other's cells",
           WALL + "for i in range(1, min(w, len(t) - 1 - w) + 1):\n"
           "    t[w - i] = t[w + i] = np.maximum(t[w - i], t[w + i])", "wall"),
    ]


def regular_patterns() -> list[Named]:
    indices = "r, c = np.indices(grid.shape)\n"
    near_cell = (indices + "cells = np.argwhere({which})\n"
                 "far = np.array([abs(r - i) + abs(c - j) for i, j in cells])\n"
                 "i, j = np.moveaxis(cells[far.argmin(axis=0)], 2, 0)\n")
    found = []
    for name, words, where in (
            ("column", "every second column, from the second on,", "c % 2 == 1"),
            ("last_column", "every second column, from the last on,", "c[:, ::-1] % 2 == 0"),
            ("third_column", "every third column, from the first on,", "c % 3 == 0")):
        found.append(op(f"on_{name}", f"{words} gets a colour where it is coloured",
                        f"{indices}grid = np.where((grid != 0) & ({where}), {{c}}, grid)",
                        "boxes dense lines"))
    for name, words, where in (
            ("checker", "every second cell, as on a chessboard,", "(r + c) % 2 == 0"),
            ("row", "every second row, from the first on,", "r % 2 == 0"),
            ("ring", "every second ring, from the edge inwards,",
             "np.min([r, c, r[::-1], c[:, ::-1]], axis=0) % 2 == 0")):
        found.append(op(f"under_{name}", f"{words} gets a colour where it is black",
                        f"{indices}grid = np.where((grid == 0) & ({where}), {{c}}, grid)",
                        "empty specks objects"))
    return [
        *found,
        op("spiral", "a line of one colour runs from the top left corner inwards in a spiral",
           "g = np.pad(0 * grid, 1)\n"
           "g = np.pad(g, 1, constant_values=1)\n"
           "i, j, a, b, turns, g[2, 2] = 2, 2, 0, 1, 0, 1\n"
           "while turns < 2:\n"
           "    if g[i + a, j + b] + g[i + 2 * a, j + 2 * b] == 0:\n"
           "        i, j, turns = i + a, j + b, 0\n"
           "        g[i, j] = 1\n"
           "    else:\n"
           "        a, b, turns = b, -a, turns + 1\n"
           "grid = np.where(g[2:-2, 2:-2] == 1, {c}, grid)", "empty specks"),
        op("nearest", "every black cell takes the colour of the nearest coloured cell",
           near_cell.replace("{which}", "grid") + "grid = grid[i, j]", "few_cells specks"),
        op("nearest_of", "cells of one colour take the colour of the nearest other coloured cell",
           near_cell.replace("{which}", "(grid != 0) & (grid != {c})")
           + "grid = np.where(grid == {c}, grid[i, j], grid)", "lined"),
    ]


def flooding() -> list[Named]:
    spread = ("for _ in range(grid.size):\n"
              "    p = np.pad({ink}, 1)\n"
              "    m = np.max([p[:-2, 1:-1], p[2:, 1:-1], p[1:-1, :-2], p[1:-1, 2:]], axis=0)\n"
              "    m = np.where({where}, m, grid)\n"
              "    if (m == grid).all():\n"
              "        break\n"
              "    grid = m")
    edge = "m[1:-1, 1:-1] = False\n"
    start, over = FLOOD.split("\n", 1)
    from_edge = f"{start}\n{edge}{over}".replace("{start}", "grid == {c}").replace(
        "{over}", "(grid == {c})")
    from_colour = FLOOD.replace("{start}", "grid == {c}")
    return [
        op("flood", "black cells that a path of black joins to cells of one colour take it",
           from_colour.replace("{over}", "(grid == 0)") + "grid = np.where(m, {c}, grid)",
           "seeded specks"),
        op("flood_within", "black areas within walls of one colour take the other colours in them",
           spread.replace("{ink}", "grid * (grid != {c})").replace("{where}", "grid == 0"),
           "seeded"),
        op("inner_area", "areas of one colour that do not touch the edge get another",
           from_edge + "grid = np.where((grid == {c}) & ~m, {d}, grid)", "noise two"),
        op("fill_holes_wall", "enclosed black cells take the colour around them",
           OUTSIDE + spread.replace("{ink}", "grid").replace("{where}", "(grid == 0) & ~seen"),
           "frames"),
    ]


def black_areas() -> list[Named]:
    return [
        op("area_square", "square black areas get a colour",
           f"{AREAS}for m in areas:\n"
           "    r, c = np.where(m)\n"
           "    if np.ptp(r) == np.ptp(c) and len(r) == (np.ptp(r) + 1) ** 2:\n"
           "        grid = np.where(m, {c}, grid)", "lattice holes"),
        op("lone_black", "black cells with coloured cells on all four sides get a colour",
           f"{AROUND}m = np.min(near[1::2], axis=0) > 0\n"
           "grid = np.where((grid == 0) & m, {c}, grid)", "holes noise"),
        op("black_squares", "squares of 2 x 2 black cells get a colour",
           "m = np.zeros(grid.shape, bool)\n"
           "for i, j in np.argwhere(grid == 0):\n"
           "    a = grid[i:i + 2, j:j + 2]\n"
           "    if a.size == 4 and not a.any():\n"
           "        m[i:i + 2, j:j + 2] = True\n"
           "grid = np.where(m, {c}, grid)", "noise"),
        op("black_rows", "rows that are all black get a colour",
           "grid = np.where((grid == 0).all(axis=1, keepdims=True), {c}, grid)", "spaced specks"),
        op("black_columns", "columns that are all black get a colour",
           "grid = np.where((grid == 0).all(axis=0, keepdims=True), {c}, grid)", "spaced specks"),
    ]


def edges_of_areas() -> list[Named]:
    alike = "(np.min(near, axis=0) == np.max(near, axis=0))"
    return [
        op("hollow", "cells with their own colour all around become black",
           f"{AROUND}grid = np.where({alike}, 0, grid)", "boxes"),
        op("rim", "coloured cells beside, above or below black or the edge get a colour",
           f"{AROUND}grid = np.where((grid != 0) & (np.min(near[1::2], axis=0) == 0), {{c}}, grid)",
           "boxes objects"),
    ]


def stamps() -> list[Named]:
    beside, corner = "(np.max(near[1::2], axis=0) > 0)", "(np.max(near[::2], axis=0) > 0)"
    return [
        op("halo_of", "black cells around cells of one colour get another",
           f"{AROUND}m = np.any([a == {{c}} for a in near], axis=0)\n"
           "grid = np.where((grid == 0) & m, {d}, grid)", "specks objects"),
        op("stamp", "black cells beside, above and below coloured ones get one colour, those at "
           "their corners another",
           f"{AROUND}g = np.where({beside}, {{c}}, np.where({corner}, {{d}}, 0))\n"
           "grid = np.where(grid == 0, g, grid)", "specks"),
        op("grow_x_own", "black cells at the corners of coloured ones take their colour",
           f"{AROUND}grid = np.where(grid == 0, np.max(near[::2], axis=0), grid)", "specks"),
    ]


def noise_and_gaps() -> list[Named]:
    bridge = (AROUND + "a = np.where(near[1] == near[7], near[1], 0)\n"
              "b = np.where(near[3] == near[5], near[3], 0)\n")
    ringed = "m = np.min(near[:4] + near[5:], axis=0) == np.max(near[:4] + near[5:], axis=0)\n"
    return [
        op("smooth", "cells with one colour, or black, all around take it",
           f"{AROUND}{ringed}grid = np.where(m, near[0], grid)", "speckled specks"),
        op("no_colour", "cells of one colour take the commonest other colour, or black, around "
           "them",
           f"{AROUND}k = [sum(a == k for a in near) for k in range(10)]\n"
           "k[{c}] = 0 * grid\n"
           "grid = np.where(grid == {c}, np.argmax(k, axis=0), grid)", "speckled dense"),
        op("solid", "only cells that are part of a square of 2 x 2 equal cells are kept",
           "a, b, c, d = grid[1:, 1:], grid[:-1, 1:], grid[1:, :-1], grid[:-1, :-1]\n"
           "m = np.pad((a == b) & (a == c) & (a == d), 1)\n"
           "grid = grid * (m[1:, 1:] | m[:-1, 1:] | m[1:, :-1] | m[:-1, :-1])", "speckled"),
        op("lone_in", "coloured cells with no coloured cell beside, above or below get a colour",
           f"{AROUND}m = np.max(near[1::2], axis=0) == 0\n"
           "grid = np.where((grid != 0) & m, {c}, grid)", "noise specks speckled"),
        op("bridge", "a black cell between two equal cells takes their colour",
           f"{bridge}grid = np.where(grid == 0, np.maximum(a, b), grid)", "noise"),
        op("bridge_in", "a black cell between two equal coloured cells gets a colour",
           f"{bridge}grid = np.where((grid == 0) & (np.maximum(a, b) > 0), {{c}}, grid)",
           "noise"),
    ]


def colours_moved() -> list[Named]:
    found = []
    for side, (there, back) in SIDES.items():
        found.append(op(
            f"fall_{side}_of", f"cells of one colour fall {side} until they meet something",
            f"t = {there}.copy()\n"
            "for _ in t:\n"
            "    for a, b in zip(t, t[1:]):\n"
            "        m = (a == 0) & (b == {c})\n"
            "        a[m], b[m] = {c}, 0\n"
            f"grid = t{back}", "specks noise objects"))
    for side in ("down", "right"):
        found.append(op(
            f"move_{side}_of", f"cells of one colour move one cell {side}",
            "p = np.pad(grid == {c}, 1)\n"
            "grid = np.where(grid == {c}, 0, grid)\n"
            f"grid = np.where({FROM[side]}, {{c}}, grid)", "objects specks noise"))
    return found


def sheared() -> list[Named]:
    return [
        op("centre", "everything moves together to the middle of the grid",
           "r, c = np.where(grid != 0)\n"
           "a, b = (len(grid) - 1 - r.min() - r.max()) // 2, "
           "(len(grid[0]) - 1 - c.min() - c.max()) // 2\n"
           "grid = np.roll(grid, (a, b), axis=(0, 1))", "one"),
        op("shear_right", "every row moves one cell further to the right than the row above it, in "
           "a circle", "grid = np.array([np.roll(row, i) for i, row in enumerate(grid)])",
           "stripes dense lines"),
    ]


def patterns_continued() -> list[Named]:
    found = []
    for side, there, back in (("top", "grid", ""), ("left", "grid.T", ".T")):
        found.append(op(
            f"repeat_{side}", f"the coloured part at the {side} is repeated to the other end",
            f"t = {there}\n"
            "k = [*t.any(axis=1), False].index(False)\n"
            "t = np.resize(t[:k], t.shape)\n"
            f"grid = t{back}", f"part_{side}"))
    for name, word, there, back in ROWS_AND_COLUMNS:
        found.append(op(
            f"period_{name}", f"black cells in a {word} are filled by its shortest repetition",
            f"g = {there}.copy()\n"
            "for row in g:\n"
            "    for k in range(1, min(9, len(row))):\n"
            "        whole = np.resize([row[i::k].max() for i in range(k)], len(row))\n"
            "        if ((row == 0) | (row == whole)).all():\n"
            "            row[:] = whole\n"
            "            break\n"
            f"grid = g{back}", f"gaps_{name}"))
    for name, words, sign in (("falling", "falling", "-"), ("rising", "rising", "+")):
        found.append(op(
            f"period_{name}", f"black cells are filled by the repetition of {words} diagonals",
            "r, c = np.indices(grid.shape)\n"
            "for k in range(1, len(grid) + len(grid[0])):\n"
            f"    n = (r {sign} c) % k\n"
            "    whole = np.array([grid[n == i].max(initial=0) for i in range(k)])[n]\n"
            "    if ((grid == 0) | (grid == whole)).all():\n"
            "        break\n"
            "grid = np.where(grid == 0, whole, grid)", f"gaps_{name}"))
    return [
        *found,
        op("reflect", "the coloured part at the top and its mirror image follow each other down to "
           "the bottom",
           "k = [*grid.any(axis=1), False].index(False)\n"
           "grid = np.resize(np.vstack([grid[:k], grid[:k][::-1]]), grid.shape)", "part_top"),
        op("fill_period", "black cells are filled from the repeating pattern",
           PERIOD.replace("{c}", "0") + "grid = np.where(grid == 0, whole, grid)", "gaps_both"),
    ]


def own_symmetry() -> list[Named]:
    fill = "box[:] = np.where(box == 0, {image}, box)"
    sides, ends = fill.format(image="box[:, ::-1]"), fill.format(image="box[::-1]")
    turn = "((h - w) // 2 + j, (h + w) // 2 - i), "
    back = ", ((h + w) // 2 - j, (w - h) // 2 + i)"
    return [
        op("own_lr", "the coloured part becomes its own mirror image from left to right",
           f"{BOX}{sides}", "one mixed"),
        op("own_four", "the coloured part becomes its own mirror image in both directions",
           f"{BOX}{sides}\n{ends}", "one mixed few_cells"),
        op("own_turns", "the coloured part is completed so that a quarter turn does not change it",
           BOX + "for _ in range(3):\n    " + fill.format(image="np.rot90(box)"), "square_part"),
        op("about_four", "everything is mirrored in both directions about the middle of one colour",
           ABOUT.replace("{places}", "(i, w - j), (h - i, j), (h - i, w - j)"), "anchored"),
        op("about_turns", "everything is turned about the middle of one colour three times",
           ABOUT.replace("{places}", f"{turn}(h - i, w - j){back}"), "anchored"),
    ]


# ------------------------------------------------------------------------------- kinds of grid

def few_cells(look):
    """One to three single cells."""
    grid = np.zeros(look.shape(5), int)
    for _ in range(look.rng.integers(1, 4)):
        grid[look.rng.integers(len(grid)), look.rng.integers(len(grid[0]))] = look.colour()
    return grid


def two_cells(look):
    """One cell of the palette's last colour and one of another."""
    grid = np.zeros(look.shape(5), int)
    i, j = look.rng.choice(grid.size, 2, replace=False)
    grid.flat[i] = look.palette[-1]
    grid.flat[j] = look.palette[0] if len(look.palette) > 1 else look.palette[0] % 9 + 1
    return grid


def bottom(look):
    """One or two cells in the last row."""
    grid = np.zeros(look.shape(3), int)
    grid[-1, look.rng.integers(0, len(grid[0]), look.rng.integers(1, 3))] = look.colour()
    return grid


def left_side(look):
    """One or two cells in the first column."""
    return np.rot90(bottom(look), -1)


def lined(look):
    """The first and the last row, or column, have a colour each; single cells between them."""
    grid = look.cells(look.shape(5), look.rng.uniform(0.05, 0.2))
    a, b = look.rng.permutation(np.arange(1, 10))[:2]
    grid[0], grid[-1] = a, b
    return grid.T if look.upright else grid


def ends(look):
    """Some rows, or columns, have a cell at both ends, or two cells somewhere."""
    grid = np.zeros(look.shape(5), int)
    for row in grid[look.rng.integers(0, 2)::2]:
        if look.rng.random() < 0.4:
            a, b = (0, -1) if look.rng.random() < 0.6 else look.rng.integers(0, len(row), 2)
            row[a], row[b] = look.colour(), look.colour()
    return grid.T if look.upright else grid


def slanting_pairs(look):
    """Pairs of equal cells in one diagonal, and a few other cells."""
    grid = look.cells(look.shape(6), 0.03)
    for _ in range(look.rng.integers(1, 4)):
        k = int(look.rng.integers(2, min(grid.shape)))
        i, j = (look.rng.integers(0, side - k) for side in grid.shape)
        a, b = (j, j + k) if look.rng.random() < 0.5 else (j + k, j)
        grid[i, a] = grid[i + k, b] = look.colour()
    return grid


def stroke(look, slanting, most=5):
    length = int(look.rng.integers(2, most))
    if not slanting:
        piece = np.full((1, length), look.colour())
        return piece if look.rng.random() < 0.5 else piece.T
    piece = np.eye(length, dtype=int) * look.colour()
    return piece if look.rng.random() < 0.5 else piece[::-1]


def strokes_straight(look):
    """Short straight lines."""
    return objects(look, look.rng.integers(1, 5), make=lambda look, *_: stroke(look, False))


def strokes_slanting(look):
    """Short slanting lines."""
    return objects(look, look.rng.integers(1, 4), make=lambda look, *_: stroke(look, True))


def corners(look):
    """Small boxes that often lack some cells, and single cells."""
    return objects(look, look.rng.integers(1, 4), most=3)


def wall(look):
    """A full row or column of one colour, and single cells."""
    grid = look.cells(look.shape(5), look.rng.uniform(0.05, 0.2))
    at = int(look.rng.integers(0, len(grid)))
    grid[at] = look.separator or look.palette[-1]
    return grid.T if look.upright else grid


def seeded(look):
    """Walls of the palette's last colour around areas, a few cells of other colours in them."""
    h, w = look.shape(6)
    grid = np.zeros((h, w), int)
    others = look.palette[:-1] if len(look.palette) > 1 else look.palette % 9 + 1
    grid[look.rng.integers(2, h - 2)] = grid[:, look.rng.integers(2, w - 2)] = look.palette[-1]
    if look.rng.random() < 0.5:
        grid[[0, -1]] = grid[:, [0, -1]] = look.palette[-1]
    for _ in range(look.rng.integers(2, 5)):
        free = np.argwhere(grid == 0)
        grid[tuple(free[look.rng.integers(len(free))])] = look.rng.choice(others)
    return grid


def lattice(look):
    """Full rows and columns of one colour at random distances, one time in two with gaps."""
    grid, colour = np.zeros(look.shape(6), int), look.colour()
    for t in (grid, grid.T):
        at = int(look.rng.integers(0, 4))
        while at < len(t):
            t[at] = colour
            at += int(look.rng.integers(2, 6))
    return grid * (look.rng.random(grid.shape) < (1 if look.rng.random() < 0.5 else 0.9))


def holes(look):
    """Boxes of one colour, each with a black box within."""
    def box(look, shape, mono):
        piece = np.full(np.clip(shape, 3, 6), look.colour())
        a, b = (look.rng.integers(1, side - 1) for side in piece.shape)
        piece[1:a + 1, 1:b + 1] = 0
        return piece
    return objects(look, look.rng.integers(2, 5), make=box, most=6)


def speckled(look):
    """Boxes or bands of one colour, single cells strewn over them and over the black."""
    grid = objects(look, look.rng.integers(1, 4), make=lambda look, shape, mono:
                   np.full(np.add(shape, 2), look.colour()), most=5)
    strewn = look.rng.random(grid.shape) < look.rng.uniform(0.03, 0.12)
    return np.where(strewn, look.palette[-1], grid)


def part_top(look):
    """Coloured rows at the top, all else black."""
    h, w = look.shape(5)
    grid = np.zeros((h, w), int)
    k = int(look.rng.integers(2, max(3, h // 2 + 1)))
    grid[:k] = look.cells((k, w), look.rng.uniform(0.6, 1))
    grid[:k, look.rng.integers(w)] = look.colour()
    return grid


def part_left(look):
    return part_top(look).T


def gaps(look, grid):
    """The grid with black boxes or black cells in it."""
    if look.rng.random() < 0.5:
        return grid * (look.rng.random(grid.shape) < 0.85)
    hidden = covered(look, np.zeros(grid.shape, int))
    return np.where(hidden == look.palette[-1], 0, grid)


def gaps_both(look):
    """A repeated tile, partly black."""
    return gaps(look, period_clean(look))


def gaps_rows(look):
    """Every row repeats a sequence of its own, partly black or black from some place on."""
    h, w = look.shape(6)
    grid = np.array([np.resize(look.rng.choice(look.palette, look.rng.integers(2, 5)), w)
                     for _ in range(h)])
    grid = grid * (look.rng.random((h, 1)) < 0.7)
    if look.rng.random() < 0.5:
        return grid * (np.arange(w) < w - look.rng.integers(1, w // 2 + 1))
    return gaps(look, grid)


def gaps_columns(look):
    return gaps_rows(look).T


def gaps_rising(look):
    """Repeated diagonals, partly black, or just a few of them."""
    r, c = np.indices(look.shape(5))
    k = int(look.rng.integers(2, 5))
    grid = look.rng.permutation(np.resize(look.palette, k))[(r + c) % k]
    if look.rng.random() < 0.5:
        return gaps(look, grid)
    start = int(look.rng.integers(0, max(1, len(grid) - k)))
    return grid * (r + c >= start) * (r + c < start + k + 1)


def gaps_falling(look):
    return gaps_rising(look)[:, ::-1]


def square_part(look):
    """One square part, some of its cells black, on black."""
    def part(look, shape, mono):
        side = int(look.rng.integers(3, 6))
        piece = look.cells((side, side), 0.5)
        piece[0, look.rng.integers(side)] = piece[look.rng.integers(side), 0] = look.colour()
        piece[-1, look.rng.integers(side)] = piece[look.rng.integers(side), -1] = look.colour()
        return piece
    return objects(look, 1, make=part)


def anchored(look):
    """A small square of the palette's last colour, and a part that touches one of its corners."""
    h, w = look.shape(7)
    grid, side = np.zeros((h, w), int), int(look.rng.integers(1, 3))
    others = look.palette[:-1] if len(look.palette) > 1 else look.palette % 9 + 1
    i, j = h // 2 - look.rng.integers(0, 2), w // 2 - look.rng.integers(0, 2)
    part = look.rng.choice(others, (3, 3)) * (look.rng.random((3, 3)) < 0.6)
    a, b = min(i, 3), min(j, 3)
    grid[i - a:i, j - b:j] = part[-a:, -b:]
    grid[i:i + side, j:j + side] = look.palette[-1]
    return np.rot90(grid, look.rng.integers(4))


FAMILIES = (
    rays, crosses, joins, extended, walls, regular_patterns, flooding, black_areas, edges_of_areas,
    stamps, noise_and_gaps, colours_moved, sheared, patterns_continued, own_symmetry)
KINDS = (few_cells, two_cells, bottom, left_side, lined, ends, slanting_pairs, strokes_straight,
         strokes_slanting, corners, wall, seeded, lattice, holes, speckled, part_top, part_left,
         gaps_both, gaps_rows, gaps_columns, gaps_rising, gaps_falling, square_part, anchored)
SOURCES = (
    *(f"beam_{side}" for side in SIDES), *(f"fall_{side}_of" for side in SIDES), "move_down_of",
    "move_right_of", "rows_of", "columns_of", "flood", "inner_area", "halo_of", "nearest_of")
COVERS = ("corner_path", "flood_within", "no_colour", "about_four", "about_turns")
