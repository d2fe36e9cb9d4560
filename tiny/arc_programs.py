"""Synthetic tasks of ARC's look: short numpy programs over grid operations, and grids that suit them.

A program is a few operations, each a comment that says what it does and one or a few lines of plain numpy. Its text
is a sequence of fragments, and each fragment is one token of the bundled policy: colours stand apart, so that a colour
is the same token in every operation. Nothing here was derived from ARC's own tasks.

    random_task(rng)  ->  (steps of the program, [(input grid, output grid), ..])
    text(steps)       ->  the program as it runs in the sandbox
"""
from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np

HEADER, FOOTER = "import numpy as np\n\n\ndef transform(grid):", "\n    return grid"
Step = tuple[str, tuple[int, ...]]      # name of an operation, its colours

# ------------------------------------------------------------------------------------------- operations

# n: one number for each piece, pieces: a mask for each. Neighbours take the larger number until nothing changes.
NUMBER = """n = np.arange(1, grid.size + 1).reshape(grid.shape) * (grid != 0)
for _ in range(grid.size):
    p, q = np.pad(n, 1), np.pad(grid, 1)
    near = [(p[i:i + len(n), j:j + len(n[0])], q[i:i + len(n), j:j + len(n[0])]) for i, j in np.ndindex(3, 3)]
    m = {max} * (grid != 0)
    if (m == n).all():
        break
    n = m
pieces = [n == k for k in np.unique(n[n > 0])]
"""
TOUCHING = NUMBER.replace("{max}", "np.max([a for a, _ in near], axis=0)")
ONE_COLOUR = NUMBER.replace("{max}", "np.max([a * (b == grid) for a, b in near[1::2] + near[4:5]], axis=0)")
CROP = "r, c = np.where(m)\ngrid = grid[r.min():r.max() + 1, c.min():c.max() + 1]"
CUT = CROP.replace("grid[", "(grid * m)[")
COUNTS = "colours, n = np.unique(grid[grid != 0], return_counts=True)\n"
HALVES = """t = grid.T if len(grid) > len(grid[0]) else grid
w = len(t[0]) // 2
a, b = t[:, :w], t[:, -w:]
m = {mask}
grid = m.T if len(grid) > len(grid[0]) else m"""
PANELS = """lines = [[i for i in range(len(g)) if g[i, 0] != 0 and (g[i] == g[i, 0]).all()] for g in (grid, grid.T)]
edges = [[-1, *e, k] for e, k in zip(lines, grid.shape)]
spans = [[(a + 1, b) for a, b in zip(e, e[1:]) if b > a + 1] for e in edges]
panels = [grid[a:b, c:d] for a, b in spans[0] for c, d in spans[1]]
"""
BEHIND = """hidden = grid == {c}
for _ in range(4):
    for g in (grid[::-1], grid[:, ::-1], grid.T if len(grid) == len(grid[0]) else grid):
        grid = np.where(grid == {c}, g, grid)
"""
PERIOD = """size = [(h, w) for h in range(1, 9) for w in range(1, 9) if h <= len(grid) and w <= len(grid[0])]
for h, w in sorted(size, key=lambda s: s[0] * s[1]):
    tile = np.array([[np.max(np.where(grid == {c}, -1, grid)[i::h, j::w]) for j in range(w)] for i in range(h)])
    whole = np.tile(tile, (len(grid) // h + 1, len(grid[0]) // w + 1))[:len(grid), :len(grid[0])]
    if ((whole == grid) | (grid == {c})).all():
        break
"""
AROUND = "p = np.pad(grid, 1)\nnear = [p[i:i + len(grid), j:j + len(grid[0])] for i, j in np.ndindex(3, 3)]\n"
OUTSIDE = """out = np.pad(grid == 0, 1, constant_values=True)
seen = np.zeros(out.shape, bool)
seen[0] = True
for _ in range(out.size):
    p = np.pad(seen, 1)
    more = out & (p[1:-1, 1:-1] | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:])
    if (more == seen).all():
        break
    seen = more
seen = seen[1:-1, 1:-1]
"""
SIDES = {"up": ("grid", ""), "down": ("grid[::-1]", "[::-1]"), "left": ("grid.T", ".T"), "right": ("grid.T[::-1]", "[::-1].T")}


@dataclass(frozen=True)
class Operation:
    hypothesis: str
    code: str               # {c}, {d}: colours
    kinds: str              # grids that suit it, of GRIDS

    @property
    def colours(self) -> int:
        return 1 + ("{d}" in self.code) if "{c}" in self.code else 0


def _operations() -> dict[str, Operation]:
    table: dict[str, Operation] = {}

    def op(name, hypothesis, code, kinds="noise dense objects small symmetric"):
        if code.count("{c}") > 1:       # a colour is chosen once
            code = "colour = {c}\n" + code.replace("{c}", "colour")
        table[name] = Operation(hypothesis, code.strip(), kinds)

    # turning and mirroring
    op("rot90", "turn the grid a quarter to the left", "grid = np.rot90(grid)")
    op("rot270", "turn the grid a quarter to the right", "grid = np.rot90(grid, -1)")
    op("rot180", "turn the grid upside down", "grid = np.rot90(grid, 2)")
    op("fliplr", "mirror the grid from left to right", "grid = grid[:, ::-1]")
    op("flipud", "mirror the grid from top to bottom", "grid = grid[::-1]")
    op("transpose", "mirror the grid in its main diagonal", "grid = grid.T")
    op("antitranspose", "mirror the grid in its other diagonal", "grid = grid[::-1, ::-1].T")

    # parts of the grid
    op("crop", "crop to everything that is not black", f"m = grid != 0\n{CROP}", "objects one lines")
    op("crop_colour", "crop to the box of one colour", f"m = grid == {{c}}\n{CROP}", "objects noise boxes dense masked")
    op("crop_rarest", "crop to the box of the rarest colour", f"{COUNTS}m = grid == colours[n.argmin()]\n{CROP}",
       "objects boxes noise")
    op("crop_commonest", "crop to the box of the commonest colour", f"{COUNTS}m = grid == colours[n.argmax()]\n{CROP}",
       "objects boxes noise")
    op("peel", "take the outermost ring away", "grid = grid[1:-1, 1:-1]", "noise dense boxes")
    op("left_half", "keep the left half", "grid = grid[:, :len(grid[0]) // 2]", "halves dense noise symmetric")
    op("right_half", "keep the right half", "grid = grid[:, -(len(grid[0]) // 2):]", "halves dense noise symmetric")
    op("top_half", "keep the top half", "grid = grid[:len(grid) // 2]", "halves dense noise symmetric")
    op("bottom_half", "keep the bottom half", "grid = grid[-(len(grid) // 2):]", "halves dense noise symmetric")
    third = "t = grid.T if len(grid) > len(grid[0]) else grid\nw = len(t[0]) // 3\nt = {part}\n" \
            "grid = t.T if len(grid) > len(grid[0]) else t"
    op("first_third", "keep the first third of the longer side", third.replace("{part}", "t[:, :w]"), "thirds")
    op("middle_third", "keep the middle third of the longer side",
       third.replace("{part}", "t[:, (len(t[0]) - w) // 2:][:, :w]"), "thirds")
    op("last_third", "keep the last third of the longer side", third.replace("{part}", "t[:, -w:]"), "thirds")
    op("quarter", "keep the top left quarter", "grid = grid[:(len(grid) + 1) // 2, :(len(grid[0]) + 1) // 2]",
       "symmetric dense noise")
    op("first_row", "keep the first row", "grid = grid[:1]", "dense small")
    op("first_column", "keep the first column", "grid = grid[:, :1]", "dense small")
    op("no_black_lines", "take black rows and columns away", "grid = grid[(grid != 0).any(1)]\n"
       "grid = grid[:, (grid != 0).any(0)]", "objects lines spaced")
    op("no_repeats", "keep one of equal rows and of equal columns in a row",
       "grid = grid[[i for i in range(len(grid)) if i == 0 or (grid[i] != grid[i - 1]).any()]]\n"
       "grid = grid[:, [j for j in range(len(grid[0])) if j == 0 or (grid[:, j] != grid[:, j - 1]).any()]]", "blocks lines")
    op("no_separators", "take rows and columns of one colour away",
       "grid = grid[[not (row[0] != 0 and (row == row[0]).all()) for row in grid]]\n"
       "grid = grid[:, [not (row[0] != 0 and (row == row[0]).all()) for row in grid.T]]", "panels")

    # scaling and tiling
    for k in (2, 3, 4):
        op(f"scale{k}", f"every cell becomes {k} x {k} cells", f"grid = np.kron(grid, np.ones(({k}, {k}), int))", "small")
        op(f"shrink{k}", f"every {k} x {k} cells become one", f"grid = grid[::{k}, ::{k}]", f"blocks{k}")
    op("scale_colours", "every cell grows by the number of colours",
       "k = len(np.unique(grid[grid != 0]))\ngrid = np.kron(grid, np.ones((k, k), int))", "small")
    op("scale_cells", "every cell grows by the number of coloured cells",
       "k = min(10, int((grid != 0).sum()))\ngrid = np.kron(grid, np.ones((k, k), int))", "tiny")
    for k in (2, 3):
        op(f"wider{k}", f"every column becomes {k} columns", f"grid = np.repeat(grid, {k}, axis=1)", "small")
        op(f"taller{k}", f"every row becomes {k} rows", f"grid = np.repeat(grid, {k}, axis=0)", "small")
        op(f"beside{k}", f"{k} copies side by side", f"grid = np.tile(grid, (1, {k}))", "small")
        op(f"below{k}", f"{k} copies one below the other", f"grid = np.tile(grid, ({k}, 1))", "small")
        op(f"tile{k}", f"{k} x {k} copies", f"grid = np.tile(grid, ({k}, {k}))", "small")
    op("mirror_right", "put the mirror image on the right", "grid = np.hstack([grid, grid[:, ::-1]])", "small dense")
    op("mirror_left", "put the mirror image on the left", "grid = np.hstack([grid[:, ::-1], grid])", "small dense")
    op("mirror_below", "put the mirror image below", "grid = np.vstack([grid, grid[::-1]])", "small dense")
    op("mirror_above", "put the mirror image above", "grid = np.vstack([grid[::-1], grid])", "small dense")
    op("mirror_four", "put mirror images on the right and below",
       "grid = np.vstack([grid, grid[::-1]])\ngrid = np.hstack([grid, grid[:, ::-1]])", "small dense")
    op("mirror_around", "put mirror images on the left and above",
       "grid = np.vstack([grid[::-1], grid])\ngrid = np.hstack([grid[:, ::-1], grid])", "small dense")
    op("turned_four", "put the grid and its three turns into a square",
       "grid = np.vstack([np.hstack([grid, np.rot90(grid, -1)]), np.hstack([np.rot90(grid), np.rot90(grid, 2)])])", "square")
    op("weave", "three copies beside and below each other, the middle row of them mirrored",
       "a = np.tile(grid, (1, 3))\nb = np.tile(grid[:, ::-1], (1, 3))\ngrid = np.vstack([a, b, a])", "tiny")
    op("turned_tail", "put the grid turned upside down below it", "grid = np.vstack([grid, np.rot90(grid, 2)])", "small dense")
    op("fractal", "put a copy where a cell is coloured", "grid = np.kron(grid != 0, grid)", "tiny")
    op("fractal_black", "put a copy where a cell is black", "grid = np.kron(grid == 0, grid)", "tiny")
    op("fractal_commonest", "put a copy where a cell has the commonest colour",
       f"{COUNTS}grid = np.kron(grid == colours[n.argmax()], grid)", "tiny")

    # pieces
    for word, pieces, tag in (("piece", TOUCHING, ""), ("piece of one colour", ONE_COLOUR, "_mono")):
        objects = "objects boxes" if tag else "objects mixed"
        op(f"largest{tag}", f"crop to the largest {word}", f"{pieces}m = max(pieces, key=np.sum)\n{CUT}", objects)
        op(f"smallest{tag}", f"crop to the smallest {word}", f"{pieces}m = min(pieces, key=np.sum)\n{CUT}", objects)
        op(f"keep_largest{tag}", f"keep only the largest {word}",
           f"{pieces}grid = grid * max(pieces, key=np.sum)", objects + " specks")
        op(f"remove_largest{tag}", f"take the largest {word} away",
           f"{pieces}grid = grid * ~max(pieces, key=np.sum)", objects)
        op(f"keep_smallest{tag}", f"keep only the smallest {word}", f"{pieces}grid = grid * min(pieces, key=np.sum)", objects)
        op(f"colour_largest{tag}", f"the largest {word} gets a colour",
           f"{pieces}grid = np.where(max(pieces, key=np.sum), {{c}}, grid)", objects + " noise")
        op(f"colour_smallest{tag}", f"the smallest {word} gets a colour",
           f"{pieces}grid = np.where(min(pieces, key=np.sum), {{c}}, grid)", objects)
        op(f"no_specks{tag}", f"take every {word} of a single cell away",
           f"{pieces}grid = grid * sum(m for m in pieces if m.sum() > 1)", "specks objects noise")
    op("most_colours", "crop to the piece of the most colours",
       f"{TOUCHING}m = max(pieces, key=lambda m: len(np.unique(grid[m])))\n{CUT}", "mixed")
    op("symmetric_piece", "crop to the piece that is its own mirror image",
       f"{TOUCHING}found = []\nfor m in pieces:\n    r, c = np.where(m)\n"
       "    found.append((grid * m)[r.min():r.max() + 1, c.min():c.max() + 1])\n"
       "grid = next(g for g in found if (g == g[:, ::-1]).all())", "mixed objects")
    op("odd_piece", "crop to the piece whose shape no other has",
       f"{TOUCHING}found = []\nfor m in pieces:\n    r, c = np.where(m)\n"
       "    found.append((grid * m)[r.min():r.max() + 1, c.min():c.max() + 1])\n"
       "shapes = [str((g != 0).tolist()) for g in found]\n"
       "grid = next(g for g, s in zip(found, shapes) if shapes.count(s) == 1)", "copies")
    op("top_piece", "crop to the topmost piece", f"{TOUCHING}m = min(pieces, key=lambda m: np.where(m)[0].min())\n{CUT}",
       "objects mixed")
    op("left_piece", "crop to the leftmost piece", f"{TOUCHING}m = min(pieces, key=lambda m: np.where(m)[1].min())\n{CUT}",
       "objects mixed")
    op("no_border_pieces", "take pieces that touch the edge away",
       f"{TOUCHING}grid = grid * ~sum((m for m in pieces if m[0].any() or m[-1].any() or m[:, 0].any() or m[:, -1].any()),"
       " np.zeros(grid.shape, bool))", "objects noise")
    op("fill_boxes", "the box of every piece is filled with a colour where it is black",
       f"{TOUCHING}for m in pieces:\n    r, c = np.where(m)\n    box = grid[r.min():r.max() + 1, c.min():c.max() + 1]\n"
       "    box[box == 0] = {c}", "objects boxes")
    op("colour_big", "pieces larger than the mean get a colour",
       f"{ONE_COLOUR}sizes = [m.sum() for m in pieces]\nfor m, size in zip(pieces, sizes):\n"
       "    if size > np.mean(sizes):\n        grid = np.where(m, {c}, grid)", "objects")
    op("pieces_in_row", "a row of as many cells of the commonest colour as there are pieces",
       f"{TOUCHING}{COUNTS}grid = np.full((1, len(pieces)), colours[n.argmax()])", "objects")
    op("holes_colour", "pieces with a hole get a colour",
       f"{ONE_COLOUR}{OUTSIDE}inside = np.pad((grid == 0) & ~seen, 1)\nfor m in pieces:\n    p = np.pad(m, 1)\n"
       "    if (p & (np.roll(inside, 1, 0) | np.roll(inside, -1, 0) | np.roll(inside, 1, 1) | np.roll(inside, -1, 1))).any():\n"
       "        grid = np.where(m, {c}, grid)", "frames")

    # falling and shifting
    for side, (there, back) in SIDES.items():
        op(f"fall_{side}", f"coloured cells fall {'to the ' if side in ('left', 'right') else ''}{side}",
           f"t = {there}\nt = np.take_along_axis(t, np.argsort(t == 0, axis=0, kind='stable'), 0)\ngrid = t{back}",
           "noise lines objects")
        op(f"shift_{side}", f"everything moves one cell {side}",
           f"t = {there}\nt = np.vstack([t[1:], 0 * t[:1]])\ngrid = t{back}", "noise objects small")
    op("roll_right", "columns move one to the right, the last becomes the first", "grid = np.roll(grid, 1, axis=1)",
       "dense small")
    op("roll_down", "rows move one down, the last becomes the first", "grid = np.roll(grid, 1, axis=0)", "dense small")

    # filling
    op("fill_holes", "enclosed black cells get a colour", f"{OUTSIDE}grid = np.where((grid == 0) & ~seen, {{c}}, grid)",
       "frames noise")
    op("fill_holes_same", "enclosed black cells get the commonest colour",
       f"{COUNTS}{OUTSIDE}grid = np.where((grid == 0) & ~seen, colours[n.argmax()], grid)", "frames")
    op("fill_outside", "black cells that are not enclosed get a colour", f"{OUTSIDE}grid = np.where(seen, {{c}}, grid)", "frames")
    op("holes_alone", "only enclosed cells are kept, in one colour",
       f"{OUTSIDE}grid = np.where((grid == 0) & ~seen, {{c}}, 0)", "frames")
    op("inside", "cells with coloured cells all around get a colour",
       f"{AROUND}grid = np.where(np.min(near, axis=0) > 0, {{c}}, grid)", "boxes objects")
    op("halo", "black cells around coloured ones get a colour",
       f"{AROUND}grid = np.where((grid == 0) & (np.max(near, axis=0) > 0), {{c}}, grid)", "specks objects")
    op("halo_plus", "black cells beside, above and below coloured ones get a colour",
       f"{AROUND}grid = np.where((grid == 0) & (np.max(near[1::2], axis=0) > 0), {{c}}, grid)", "specks objects")
    op("grow", "black cells around coloured ones take their colour",
       f"{AROUND}grid = np.where(grid == 0, np.max(near, axis=0), grid)", "specks")
    op("grow_plus", "black cells beside, above and below coloured ones take their colour",
       f"{AROUND}grid = np.where(grid == 0, np.max(near[1::2], axis=0), grid)", "specks")
    op("grow_x", "black cells at the corners of coloured ones get a colour",
       f"{AROUND}grid = np.where((grid == 0) & (np.max(near[::2], axis=0) > 0), {{c}}, grid)", "specks")
    op("adjacent", "cells of one colour that touch black get another colour",
       f"{AROUND}grid = np.where((grid == {{c}}) & (np.min(near[1::2], axis=0) == 0), {{d}}, grid)", "boxes objects")
    op("no_lone", "take cells without coloured neighbours away",
       f"{AROUND}grid = np.where(sum(a != 0 for a in near) > 1, grid, 0)", "specks noise")
    op("majority", "every cell takes the commonest colour around it",
       f"{AROUND}grid = np.argmax([sum(a == k for a in near) for k in range(10)], axis=0)", "specks boxes")

    # halves
    for name, words, mask in (("and", "both halves are coloured", "(a != 0) & (b != 0)"),
                              ("or", "one of the halves is coloured", "(a != 0) | (b != 0)"),
                              ("xor", "just one half is coloured", "(a != 0) ^ (b != 0)"),
                              ("nor", "neither half is coloured", "(a == 0) & (b == 0)"),
                              ("less", "the first half is coloured and the second is not", "(a != 0) & (b == 0)"),
                              ("more", "the second half is coloured and the first is not", "(a == 0) & (b != 0)")):
        op(f"halves_{name}", f"a colour where {words}", HALVES.replace("{mask}", f"np.where({mask}, {{c}}, 0)"), "halves")
    op("first_over", "lay the first half over the second", HALVES.replace("{mask}", "np.where(a != 0, a, b)"), "halves")
    op("second_over", "lay the second half over the first", HALVES.replace("{mask}", "np.where(b != 0, b, a)"), "halves")

    # panels: what lies between rows and columns of one colour
    op("panel_most", "the panel with the most coloured cells", f"{PANELS}grid = max(panels, key=np.count_nonzero)", "panels")
    op("panel_fewest", "the panel with the fewest coloured cells", f"{PANELS}grid = min(panels, key=np.count_nonzero)", "panels")
    op("panel_odd", "the panel that no other equals",
       f"{PANELS}texts = [str(p.tolist()) for p in panels]\ngrid = next(p for p, t in zip(panels, texts) if texts.count(t) == 1)",
       "panels_odd")
    op("panel_colours", "the panel with the most colours", f"{PANELS}grid = max(panels, key=lambda p: len(np.unique(p)))", "panels")
    op("panel_overlay", "lay all panels over each other", f"{PANELS}grid = np.max(panels, axis=0)", "panels")
    op("panel_summary", "every panel becomes a cell of its commonest colour",
       f"{PANELS}cells = [np.bincount(p.flatten(), minlength=10) for p in panels]\n"
       "grid = np.array([k[1:].argmax() + 1 if k[1:].any() else 0 for k in cells]).reshape(len(spans[0]), -1)",
       "panels panels_plain")

    # colours
    op("recolour", "one colour becomes another", "grid = np.where(grid == {c}, {d}, grid)", "noise dense objects boxes frames")
    op("swap", "two colours change places",
       "a, b = {c}, {d}\ngrid = np.where(grid == a, b, np.where(grid == b, a, grid))", "noise dense objects two")
    op("keep_colour", "keep only one colour", "grid = np.where(grid == {c}, grid, 0)", "noise dense objects boxes")
    op("remove_colour", "one colour becomes black", "grid = np.where(grid == {c}, 0, grid)", "noise dense objects boxes masked")
    op("paint", "everything that is not black gets a colour", "grid = np.where(grid != 0, {c}, 0)", "noise objects small")
    op("ground", "black becomes a colour", "grid = np.where(grid == 0, {c}, grid)", "noise objects small")
    op("negative", "black becomes the colour there is, and that becomes black", "grid = np.where(grid == 0, grid.max(), 0)",
       "two noise")
    op("two_negative", "the two commonest colours change places",
       "k = np.argsort(-np.bincount(grid.flatten(), minlength=10), kind='stable')\n"
       "grid = np.where(grid == k[0], k[1], np.where(grid == k[1], k[0], grid))", "two dense")
    op("commonest_alone", "keep only the commonest colour", f"{COUNTS}grid = np.where(grid == colours[n.argmax()], grid, 0)",
       "noise dense objects")
    op("rarest_alone", "keep only the rarest colour", f"{COUNTS}grid = np.where(grid == colours[n.argmin()], grid, 0)",
       "noise dense objects")
    op("commonest_to", "the commonest colour becomes another",
       f"{COUNTS}grid = np.where(grid == colours[n.argmax()], {{c}}, grid)", "noise dense objects")
    op("rarest_to", "the rarest colour becomes another",
       f"{COUNTS}grid = np.where(grid == colours[n.argmin()], {{c}}, grid)", "noise dense objects")
    op("ground_out", "the commonest of all colours becomes black",
       "k = np.bincount(grid.flatten(), minlength=10).argmax()\ngrid = np.where(grid == k, 0, grid)", "coloured dense")
    op("by_top", "coloured cells take the colour at the top of their column",
       "grid = np.where(grid != 0, grid[:1], 0)", "headed")
    op("by_left", "coloured cells take the colour at the left of their row",
       "grid = np.where(grid != 0, grid[:, :1], 0)", "headed")
    op("all_commonest", "everything gets the commonest colour", f"{COUNTS}grid = np.full(grid.shape, colours[n.argmax()])",
       "dense noise")
    op("rows_even", "every other row gets a colour where it is coloured",
       "grid = np.where((grid != 0) & (np.arange(len(grid)) % 2 == 1)[:, None], {c}, grid)", "boxes objects lines")

    # borders
    op("border", "a frame of one colour along the edge",
       "grid = grid.copy()\ngrid[[0, -1]] = {c}\ngrid[:, [0, -1]] = {c}", "noise objects empty small")
    op("frame", "a frame of one colour around the grid", "grid = np.pad(grid, 1, constant_values={c})", "small dense")
    op("double_edge", "the outermost ring is repeated", "grid = np.pad(grid, 1, mode='edge')", "small dense")
    op("outline_box", "a frame of one colour around everything coloured",
       "r, c = np.where(grid != 0)\ng = np.full(grid.shape, 0)\ng[max(0, r.min() - 1):r.max() + 2, max(0, c.min() - 1):c.max() + 2]"
       " = {c}\ng[r.min():r.max() + 1, c.min():c.max() + 1] = 0\ngrid = np.where(grid != 0, grid, g)", "one objects")

    # symmetry
    op("both_lr", "the grid and its mirror image from left to right over each other", "grid = np.maximum(grid, grid[:, ::-1])",
       "noise objects halfsym")
    op("both_ud", "the grid and its mirror image from top to bottom over each other", "grid = np.maximum(grid, grid[::-1])",
       "noise objects halfsym")
    op("both_diagonal", "the grid and its mirror image in the diagonal over each other",
       "grid = np.maximum(grid, grid.T)", "square square_noise")
    op("both_four", "the grid and all its mirror images over each other",
       "grid = np.maximum(grid, grid[::-1])\ngrid = np.maximum(grid, grid[:, ::-1])", "noise halfsym objects")
    op("all_turns", "the grid and all its turns over each other",
       "grid = np.maximum(grid, np.rot90(grid))\ngrid = np.maximum(grid, np.rot90(grid, 2))", "square square_noise")
    op("unhide", "what a colour hides is put back by symmetry", BEHIND.replace("hidden = grid == {c}\n", ""), "masked")
    op("hidden", "what a colour hides is found by symmetry",
       BEHIND + CROP.replace("m)", "hidden)"), "masked")
    op("unhide_period", "what a colour hides is put back from the repeating pattern", PERIOD + "grid = whole", "periodic")
    op("hidden_period", "what a colour hides is found in the repeating pattern",
       "hidden = grid == {c}\n" + PERIOD + "grid = whole\n" + CROP.replace("m)", "hidden)"), "periodic")
    op("tile_of", "the smallest tile of the repeating pattern", PERIOD.replace("{c}", "-1") + "grid = tile", "period_clean")

    # lines
    for side, (there, back) in SIDES.items():
        op(f"ray_{side}", f"coloured cells draw a line {side}",
           f"t = {there}.copy()\nfor i in range(len(t) - 2, -1, -1):\n    t[i] = np.where(t[i] == 0, t[i + 1], t[i])\ngrid = t{back}",
           "specks noise")
    op("rows_full", "a row with a coloured cell is filled with it",
       "k = grid.max(axis=1, keepdims=True)\ngrid = np.where(grid == 0, k, grid)", "specks")
    op("columns_full", "a column with a coloured cell is filled with it",
       "k = grid.max(axis=0, keepdims=True)\ngrid = np.where(grid == 0, k, grid)", "specks")
    op("cross", "coloured cells draw lines along their row and column",
       "k = np.maximum(grid.max(axis=1, keepdims=True), grid.max(axis=0, keepdims=True))\ngrid = np.where(grid == 0, k, grid)", "specks")
    op("diagonals", "coloured cells draw lines along their diagonals",
       "g = grid.copy()\nfor i, j in zip(*np.where(grid != 0)):\n    r, c = np.indices(grid.shape)\n"
       "    g = np.where((g == 0) & (abs(r - i) == abs(c - j)), grid[i, j], g)\ngrid = g", "specks")
    join = ("g = {there}.copy()\nfor row in g:\n    k = np.flatnonzero(row)\n    for a, b in zip(k, k[1:]):\n"
            "        if row[a] == row[b]:\n            row[a + 1:b] = {what}\ngrid = g{back}")
    for what, words in (("row[a]", "its colour"), ("{c}", "a colour")):
        tag = "" if what == "row[a]" else "_in"
        op(f"join_rows{tag}", f"equal cells in a row are joined by {words}",
           join.replace("{what}", what).replace("{there}", "grid").replace("{back}", ""), "pairs specks noise")
        op(f"join_columns{tag}", f"equal cells in a column are joined by {words}",
           join.replace("{what}", what).replace("{there}", "grid.T").replace("{back}", ".T"), "pairs specks noise")

    # counting and ordering
    op("cell_commonest", "one cell of the commonest colour", f"{COUNTS}grid = np.array([[colours[n.argmax()]]])", "noise dense objects")
    op("cell_rarest", "one cell of the rarest colour", f"{COUNTS}grid = np.array([[colours[n.argmin()]]])", "noise dense objects")
    op("colour_row", "the colours in a row, the commonest first",
       f"{COUNTS}grid = colours[np.argsort(-n, kind='stable')][None]", "noise dense objects boxes")
    op("colour_column", "the colours in a column, the commonest first",
       f"{COUNTS}grid = colours[np.argsort(-n, kind='stable')][:, None]", "noise dense objects boxes")
    op("bars", "a bar for each colour, as long as it has cells, the longest first",
       f"{COUNTS}k = np.argsort(-n, kind='stable')\ngrid = np.array([[c if j < m else 0 for j in range(n.max())] "
       "for c, m in zip(colours[k], n[k])])", "small noise")
    op("colours_left_right", "the colours in a row as they first appear from the left",
       "columns = [k for column in grid.T for k in column if k]\ngrid = np.array([list(dict.fromkeys(columns))])", "stripes objects")
    op("colours_top_down", "the colours in a column as they first appear from the top",
       "cells = [k for row in grid for k in row if k]\ngrid = np.array([list(dict.fromkeys(cells))]).T", "stripes objects")
    op("count_row", "a row of all coloured cells, as they are read", "grid = grid[grid != 0][None]", "tiny small")
    op("sort_rows", "rows ordered by their number of coloured cells",
       "grid = grid[np.argsort((grid != 0).sum(1), kind='stable')]", "lines noise")
    op("sort_columns", "columns ordered by their number of coloured cells",
       "grid = grid[:, np.argsort((grid != 0).sum(0), kind='stable')]", "lines noise")
    op("first_square", "the top left square of the shorter side", "k = min(grid.shape)\ngrid = grid[:k, :k]", "thirds")
    op("diagonal_stack", "the row is repeated, moved one further to the right each time",
       "grid = np.array([np.roll(grid[0], i) for i in range(len(grid[0]))])", "row")
    op("growing_row", "the row is repeated, each time one more cell takes its first colour",
       "grid = np.array([[grid[0, 0] if j < (grid[0] != 0).sum() + i else 0 for j in range(len(grid[0]))] "
       "for i in range(len(grid[0]) // 2)])", "row_start")
    return table


OPERATIONS = _operations()


def pieces_of(step_or_name) -> list[str]:
    """The text of an operation, cut where its colours stand: one piece more than it has colours."""
    operation = OPERATIONS[step_or_name]
    body = "\n".join(["# " + operation.hypothesis, *operation.code.splitlines()])
    return re.split(r"\{[cd]\}", "".join("\n    " + line for line in body.splitlines()))


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
            found += [str(colours[slot]), piece] if piece else [str(colours[slot])]
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
    """Every operation with every choice of colours that makes sense, those with fewer colours first."""
    found = [(name, ()) for name, o in OPERATIONS.items() if o.colours == 0]
    found += [(name, (c,)) for name, o in OPERATIONS.items() if o.colours == 1 for c in range(1, 10)]
    return found + [(name, (c, d)) for name, o in OPERATIONS.items() if o.colours == 2
                    for c, d in itertools.permutations(range(10), 2) if c and (d or name == "adjacent")]


_compiled: dict[Step, object] = {}


def run(steps: list[Step], grid: np.ndarray) -> np.ndarray | None:
    """The output of our own program, None where it fails or makes no grid. Not for what a model wrote."""
    try:
        for step in steps:
            if step not in _compiled:
                space: dict = {}
                exec(text([step]), space)
                _compiled[step] = space["transform"]
            grid = np.asarray(_compiled[step](np.array(grid)))
            if grid.ndim != 2 or not grid.size or max(grid.shape) > 30 or grid.min() < 0 or grid.max() > 9:
                return None
        return grid.astype(int)
    except Exception:
        return None


# ------------------------------------------------------------------------------------------------ grids

@dataclass
class Look:
    """What the grids of one task have in common."""
    rng: np.random.Generator
    palette: np.ndarray     # colours of its cells
    low: int                # least and greatest side of a grid
    high: int
    same_size: tuple[int, int] | None

    def shape(self, low: int = 1, high: int = 30) -> tuple[int, int]:
        if self.same_size:
            h, w = self.same_size
        else:
            h, w = self.rng.integers(self.low, self.high + 1, 2)
        return int(np.clip(h, low, high)), int(np.clip(w, low, high))

    def colour(self) -> int:
        return int(self.rng.choice(self.palette))

    def cells(self, shape, density: float) -> np.ndarray:
        return self.rng.choice(self.palette, shape) * (self.rng.random(shape) < density)


def noise(look, shape=None, density=None):
    shape = shape or look.shape(3)
    return look.cells(shape, density or look.rng.uniform(0.15, 0.6))


def dense(look, shape=None):
    return look.cells(shape or look.shape(2), 1 if look.rng.random() < 0.6 else 0.8)


def small(look):
    return look.cells(look.rng.integers(2, 5, 2) if not look.same_size else np.clip(look.same_size, 2, 4), look.rng.uniform(0.3, 1))


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


def patch(look, shape, mono=True):
    """A connected piece with cells on all sides of its box."""
    h, w = shape
    for _ in range(9):
        mask = look.rng.random(shape) < look.rng.uniform(0.5, 1)
        if mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any():
            break
    else:
        mask = np.ones(shape, bool)
    return mask * (look.colour() if mono else look.cells(shape, 1))


def objects(look, count=None, mono=True, make=None, most=5):
    """Pieces with a black cell between any two."""
    h, w = look.shape(5)
    grid, taken = np.zeros((h, w), int), np.zeros((h + 2, w + 2), bool)
    for _ in range(count or look.rng.integers(2, 6)):
        for _ in range(12):
            piece = (make or patch)(look, tuple(look.rng.integers(1 if mono else 2, most + 1, 2)), mono)
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
    piece = np.full(np.clip(shape, 3, 6), look.colour())
    piece[1:-1, 1:-1] = 0
    if look.rng.random() < 0.3:     # open: no hole
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
    return objects(look, len(kinds), make=lambda look, shape, mono: shapes[next(order)] * look.colour())


def symmetric(look):
    grid = look.cells(look.shape(3), look.rng.uniform(0.4, 1))
    grid = np.maximum(grid, grid[:, ::-1])
    return np.maximum(grid, grid[::-1]) if look.rng.random() < 0.6 else grid


def halfsym(look):
    grid = noise(look, look.shape(4), 0.3)
    h, w = grid.shape
    grid[:, w // 2:] = 0 if look.rng.random() < 0.5 else grid[:, w // 2:]
    return grid


def masked(look):
    """A symmetric grid, a part of it behind a box of the palette's last colour."""
    side = look.shape(6, 12)[0] // 2 * 2
    grid = look.rng.choice(look.palette[:-1], (side, side)) if len(look.palette) > 1 else np.ones((side, side), int)
    grid = np.maximum(grid, grid[::-1])
    grid = np.maximum(grid, grid[:, ::-1])
    grid = np.maximum(grid, grid.T)
    return _cover(look, grid)


def _cover(look, grid):
    h, w = grid.shape
    for _ in range(look.rng.integers(1, 3)):
        a, b = look.rng.integers(1, max(2, h // 3) + 1), look.rng.integers(1, max(2, w // 3) + 1)
        i, j = look.rng.integers(0, h - a + 1), look.rng.integers(0, w - b + 1)
        grid[i:i + a, j:j + b] = look.palette[-1]
    return grid


def period_clean(look):
    h, w = look.shape(5, 14)
    a, b = look.rng.integers(1, 4), look.rng.integers(2, 4)
    colours = look.palette[:-1] if len(look.palette) > 1 else look.palette
    tile = look.rng.choice(colours, (a, b))
    return np.tile(tile, (h // a + 1, w // b + 1))[:h, :w]


def periodic(look):
    return _cover(look, period_clean(look))


def halves(look):
    h, w = look.shape(2, 6)
    w = max(w, (h + 2) // 2)
    a, b = (look.cells((h, w), look.rng.uniform(0.3, 0.7)) for _ in range(2))
    if look.half_colours is not None:
        a, b = (a != 0) * look.half_colours[0], (b != 0) * look.half_colours[1]
    line = [np.full((h, 1), look.separator)] if look.separator else []
    grid = np.hstack([a, *line, b])
    return grid.T if look.upright else grid


def thirds(look):
    side = look.rng.integers(2, 5)
    parts = [look.cells((side, side), 0.6) for _ in range(3)]
    line = [np.full((side, 1), look.separator)] if look.separator else []
    grid = np.hstack([parts[0], *line, parts[1], *line, parts[2]])
    return grid.T if look.upright else grid


def panels(look, make=None):
    side = look.panel
    rows, columns = look.panel_counts
    tiles = [[(make or (lambda: look.cells((side, side), look.rng.uniform(0.1, 0.9))))() for _ in range(columns)] for _ in range(rows)]
    colour = look.separator or 5
    with_lines = []
    for row in tiles:
        parts = [p for tile in row for p in (np.full((side, 1), colour), tile)][1:]
        with_lines += [np.full((1, columns * (side + 1) - 1), colour), np.hstack(parts)]
    return np.vstack(with_lines[1:])


def panels_odd(look):
    a, b = look.cells((look.panel, look.panel), 0.6), look.cells((look.panel, look.panel), 0.6)
    which = iter(look.rng.permutation([1] + [0] * (look.panel_counts[0] * look.panel_counts[1] - 1)))
    return panels(look, lambda: b if next(which) else a)


def panels_plain(look):
    return panels(look, lambda: np.full((look.panel, look.panel), look.colour() * int(look.rng.random() < 0.7)))


def lines(look):
    grid = np.zeros(look.shape(4), int)
    for _ in range(look.rng.integers(1, 4)):
        if look.rng.random() < 0.5:
            grid[look.rng.integers(len(grid))] = look.colour()
        else:
            grid[:, look.rng.integers(len(grid[0]))] = look.colour()
    return grid * (look.rng.random(grid.shape) < (1 if look.rng.random() < 0.5 else 0.7))


def spaced(look):
    grid = look.cells(look.shape(4), 0.7)
    return grid * (look.rng.random((len(grid), 1)) < 0.6) * (look.rng.random(len(grid[0])) < 0.6)


def blocks(look, k=None):
    if k:
        return np.kron(look.cells(look.rng.integers(2, 5, 2), 0.7), np.ones((k, k), int))
    grid = look.cells(look.rng.integers(2, 4, 2), 0.8)
    return np.repeat(np.repeat(grid, look.rng.integers(1, 4, len(grid)), 0), look.rng.integers(1, 4, len(grid[0])), 1)


def stripes(look):
    colours = look.rng.permutation(look.palette)
    grid = np.repeat(colours[None], look.shape(3, 8)[0], 0)
    grid = np.repeat(grid, look.rng.integers(1, 4, len(colours)), 1)
    return grid.T if look.upright else grid


def headed(look):
    grid = look.cells(look.shape(4), look.rng.uniform(0.2, 0.5))
    if look.half_colours is not None:
        grid = (grid != 0) * look.half_colours[0]
    grid[0] = look.rng.integers(1, 10, len(grid[0]))
    grid[:, 0] = look.rng.integers(1, 10, len(grid))
    return grid


def pairs(look):
    grid = np.zeros(look.shape(5), int)
    for _ in range(look.rng.integers(1, 4)):
        colour, (i, i2), (j, j2) = look.colour(), look.rng.integers(len(grid), size=2), look.rng.integers(len(grid[0]), size=2)
        grid[i, j] = colour
        if look.rng.random() < 0.5:
            grid[i, j2] = colour
        else:
            grid[i2, j] = colour
    return grid


def two(look):
    shape = look.shape(3)
    return np.where(look.rng.random(shape) < 0.5, look.palette[0], look.palette[1 % len(look.palette)] if len(look.palette) > 1 else 0)


def coloured(look):
    grid = objects(look)
    return np.where(grid == 0, int(look.rng.integers(1, 10)) if look.rng.random() < 0.5 else 8, grid)


def empty(look):
    return np.zeros(look.shape(3), int)


def row(look):
    return look.cells((1, int(look.rng.integers(3, 9))), 0.4)


def row_start(look):
    grid = np.zeros((1, 2 * int(look.rng.integers(2, 6))), int)
    grid[0, :look.rng.integers(1, 4)] = look.colour()
    return grid


GRIDS = {f.__name__: f for f in (noise, dense, small, tiny, square, square_noise, specks, objects, mixed, one, boxes, frames, copies,
                                 symmetric, halfsym, masked, periodic, period_clean, halves, thirds, panels, panels_odd,
                                 panels_plain, lines, spaced, blocks, stripes, headed, pairs, two, coloured, empty, row, row_start)}
GRIDS.update({f"blocks{k}": (lambda look, k=k: blocks(look, k)) for k in (2, 3, 4)})


# ------------------------------------------------------------------------------------------------ tasks

def random_look(rng: np.random.Generator) -> Look:
    palette = rng.permutation(np.arange(1, 10))[:rng.choice([1, 2, 3, 4, 6], p=[0.2, 0.25, 0.25, 0.2, 0.1])]
    low = int(rng.choice([3, 4, 6, 8, 10]))
    high = min(16, low + int(rng.choice([0, 2, 4, 6])))
    look = Look(rng, palette, low, high, tuple(rng.integers(low, high + 1, 2)) if rng.random() < 0.5 else None)
    look.half_colours = rng.integers(1, 10, 2) if rng.random() < 0.6 else None
    look.separator = int(rng.integers(1, 10)) if rng.random() < 0.6 else 0
    look.upright = rng.random() < 0.5
    look.panel, look.panel_counts = int(rng.integers(2, 5)), [(2, 2), (1, 3), (3, 3), (3, 1), (2, 3)][rng.integers(5)]
    return look


SOURCES = ("crop_colour", "keep_colour", "remove_colour", "recolour", "swap", "adjacent")     # the first colour is looked for
COVERS = ("unhide", "hidden", "unhide_period", "hidden_period")


def random_step(rng: np.random.Generator, name: str, look: Look) -> Step:
    """An operation with colours: those that it looks for mostly from the task's own."""
    colours = rng.permutation(np.arange(1, 10))[:OPERATIONS[name].colours]
    if name in SOURCES and rng.random() < 0.9:
        colours[0] = rng.choice(look.palette)
    if name in ("recolour", "adjacent") and rng.random() < 0.2:
        colours[1] = 0
    if name in COVERS:
        colours[0] = look.palette[-1]
    return name, tuple(int(c) for c in colours)


def random_task(rng: np.random.Generator, depth: int, n_pairs: int = 3, patience: int = 40):
    """(steps, [(input, output), ..]) such that every step matters and the outputs are not all the same.

    One operation, drawn evenly, and its place stay for `patience` tries: else those that seldom apply would be rare.
    """
    names = list(OPERATIONS)
    while True:
        anchor, place = names[rng.integers(len(names))], rng.integers(depth)
        for _ in range(patience):
            look = random_look(rng)
            steps = [random_step(rng, anchor if i == place else names[rng.integers(len(names))], look) for i in range(depth)]
            kinds = OPERATIONS[steps[0][0] if rng.random() < 0.5 else anchor].kinds.split()
            make = GRIDS[kinds[rng.integers(len(kinds))]]
            pairs = []
            for _ in range(n_pairs):
                grid = make(look)
                output = run(steps, grid)
                if output is None or max(grid.shape) > 30 or same(output, grid):
                    break
                pairs.append((grid, output))
            if len(pairs) == n_pairs and not degenerate(steps, pairs):
                return steps, pairs


def degenerate(steps: list[Step], pairs: list) -> bool:
    """All outputs alike or empty, or a program that does as well with a step left out."""
    outputs = {str(b.tolist()) for _, b in pairs}
    if len(outputs) == 1 or any(not b.any() for _, b in pairs) or len({str(a.tolist()) for a, _ in pairs}) == 1:
        return True
    for i in range(len(steps)):
        rest = steps[:i] + steps[i + 1:]
        if rest and all(same(run(rest, a), b) for a, b in pairs):
            return True
    return False


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and bool((a == b).all())


def shard(seed: int, number: int, size: int = 1000, depths=(0.2, 0.5, 0.3)) -> list[dict]:
    """Tasks number * size .. of the stream of a seed; the grids as strings of digits, a row each."""
    rng = np.random.default_rng([seed, number])
    found = []
    for _ in range(size):
        steps, pairs = random_task(rng, 1 + int(rng.choice(len(depths), p=depths)))
        found.append({"steps": steps, "pairs": [["/".join("".join(map(str, row)) for row in grid.tolist()) for grid in pair]
                                                for pair in pairs]})
    return found
