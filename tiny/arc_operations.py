"""Operations on whole grids, the first ones (arc_programs.py has them all).

An operation has a name, a hypothesis in words, and a few lines of plain numpy that read and assign
`grid`. {c} and {d} in its code stand for colours. The operations stand in families, a function
each. None of those in this file was derived from ARC's own tasks.
"""
from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    parts: tuple[tuple[str, str], ...]  # (hypothesis, code) of each part; {c}, {d}: colours
    kinds: str              # the kinds of grid that suit it (arc_programs.GRIDS), the best first

    @property
    def slots(self) -> list[str]:
        """The colours that it takes: none, {c}, {d}, or both."""
        return sorted(set(re.findall(r"\{[cd]\}", "".join(code for _, code in self.parts))))


Named = tuple[str, Operation]


def op(name: str, hypothesis: str, code: str,
       kinds: str = "noise dense objects small symmetric") -> Named:
    """An operation of one part and its name. Code that uses {c} several times gets a variable for
    it, so that the colour is chosen in one place."""
    if code.count("{c}") > 1:
        code = "colour = {c}\n" + code.replace("{c}", "colour")
    return name, Operation(((hypothesis, code.strip()),), kinds)


# ------------------------------------------------------------------------ code that several share

# n: one number for each piece. pieces: one mask for each. Every cell takes the largest number
# among its neighbours, again and again, until nothing changes.
NUMBER = (
    "n = np.arange(1, grid.size + 1).reshape(grid.shape) * (grid != 0)\n"
    "for _ in range(grid.size):\n"
    "    p, q = np.pad(n, 1), np.pad(grid, 1)\n"
    "    near = [(p[i:i + len(n), j:j + len(n[0])], q[i:i + len(n), j:j + len(n[0])]) "
    "for i, j in np.ndindex(3, 3)]\n"
    "    m = {max} * (grid != 0)\n"
    "    if (m == n).all():\n"
    "        break\n"
    "    n = m\n"
    "pieces = [n == k for k in np.unique(n[n > 0])]\n")
TOUCHING = NUMBER.replace("{max}", "np.max([a for a, _ in near], axis=0)")
ONE_COLOUR = NUMBER.replace(
    "{max}", "np.max([a * (b == grid) for a, b in near[1::2] + near[4:5]], axis=0)")

# m: a mask. The grid is cut to its box.
CROP = "r, c = np.where(m)\ngrid = grid[r.min():r.max() + 1, c.min():c.max() + 1]"

COUNTS = "colours, n = np.unique(grid[grid != 0], return_counts=True)\n"

# a, b: the halves of the longer side. {mask}: what is made of them.
HALVES = """t = grid.T if len(grid) > len(grid[0]) else grid
w = len(t[0]) // 2
a, b = t[:, :w], t[:, -w:]
m = {mask}
grid = m.T if len(grid) > len(grid[0]) else m"""

# w: a third of the longer side. {part}: what is kept of it.
THIRD = (
    "t = grid.T if len(grid) > len(grid[0]) else grid\n"
    "w = len(t[0]) // 3\n"
    "t = {part}\n"
    "grid = t.T if len(grid) > len(grid[0]) else t")

# panels: the parts of the grid between full rows and columns of one colour, in reading order.
PANELS = (
    "lines = [[i for i in range(len(g)) if g[i, 0] != 0 and (g[i] == g[i, 0]).all()] "
    "for g in (grid, grid.T)]\n"
    "edges = [[-1, *e, k] for e, k in zip(lines, grid.shape)]\n"
    "spans = [[(a + 1, b) for a, b in zip(e, e[1:]) if b > a + 1] for e in edges]\n"
    "panels = [grid[a:b, c:d] for a, b in spans[0] for c, d in spans[1]]\n")

# hidden: the cells of colour {c}. They are filled with what their mirror images show.
BEHIND = """hidden = grid == {c}
for _ in range(4):
    for g in (grid[::-1], grid[:, ::-1], grid.T if len(grid) == len(grid[0]) else grid):
        grid = np.where(grid == {c}, g, grid)
"""

# tile: the smallest tile whose repetition agrees with the grid. whole: this repetition.
PERIOD = (
    "size = [(h, w) for h in range(1, 9) for w in range(1, 9) "
    "if h <= len(grid) and w <= len(grid[0])]\n"
    "for h, w in sorted(size, key=lambda s: s[0] * s[1]):\n"
    "    tile = np.array([[np.max(np.where(grid == {c}, -1, grid)[i::h, j::w]) "
    "for j in range(w)] for i in range(h)])\n"
    "    whole = np.tile(tile, (len(grid) // h + 1, len(grid[0]) // w + 1))"
    "[:len(grid), :len(grid[0])]\n"
    "    if ((whole == grid) | (grid == {c})).all():\n"
    "        break\n")

# near: the grid moved by one cell in each of nine directions; the fifth is the grid itself.
AROUND = (
    "p = np.pad(grid, 1)\n"
    "near = [p[i:i + len(grid), j:j + len(grid[0])] for i, j in np.ndindex(3, 3)]\n")

# seen: the black cells that a path of black cells joins to the edge.
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

# How the grid is turned so that a side is at the top, and turned back.
SIDES = {"up": ("grid", ""), "down": ("grid[::-1]", "[::-1]"),
         "left": ("grid.T", ".T"), "right": ("grid.T[::-1]", "[::-1].T")}


# ------------------------------------------------------------------------------------ the families

def turning_and_mirroring() -> list[Named]:
    return [
        op("rot90", "turn the grid a quarter to the left", "grid = np.rot90(grid)"),
        op("rot270", "turn the grid a quarter to the right", "grid = np.rot90(grid, -1)"),
        op("rot180", "turn the grid upside down", "grid = np.rot90(grid, 2)"),
        op("fliplr", "mirror the grid from left to right", "grid = grid[:, ::-1]"),
        op("flipud", "mirror the grid from top to bottom", "grid = grid[::-1]"),
        op("transpose", "mirror the grid in its main diagonal", "grid = grid.T"),
        op("antitranspose", "mirror the grid in its other diagonal",
           "grid = grid[::-1, ::-1].T"),
    ]


def crops() -> list[Named]:
    return [
        op("crop", "crop to everything that is not black", f"m = grid != 0\n{CROP}",
           "objects one lines"),
        op("crop_colour", "crop to the box of one colour", f"m = grid == {{c}}\n{CROP}",
           "objects noise boxes dense masked"),
        op("crop_rarest", "crop to the box of the rarest colour",
           f"{COUNTS}m = grid == colours[n.argmin()]\n{CROP}", "objects boxes noise"),
        op("crop_commonest", "crop to the box of the commonest colour",
           f"{COUNTS}m = grid == colours[n.argmax()]\n{CROP}", "objects boxes noise"),
        op("peel", "take the outermost ring away", "grid = grid[1:-1, 1:-1]",
           "noise dense boxes"),
    ]


def parts_kept() -> list[Named]:
    halves = "halves dense noise symmetric"
    return [
        op("left_half", "keep the left half", "grid = grid[:, :len(grid[0]) // 2]", halves),
        op("right_half", "keep the right half", "grid = grid[:, -(len(grid[0]) // 2):]", halves),
        op("top_half", "keep the top half", "grid = grid[:len(grid) // 2]", halves),
        op("bottom_half", "keep the bottom half", "grid = grid[-(len(grid) // 2):]", halves),
        op("first_third", "keep the first third of the longer side",
           THIRD.replace("{part}", "t[:, :w]"), "thirds"),
        op("middle_third", "keep the middle third of the longer side",
           THIRD.replace("{part}", "t[:, (len(t[0]) - w) // 2:][:, :w]"), "thirds"),
        op("last_third", "keep the last third of the longer side",
           THIRD.replace("{part}", "t[:, -w:]"), "thirds"),
        op("quarter", "keep the top left quarter",
           "grid = grid[:(len(grid) + 1) // 2, :(len(grid[0]) + 1) // 2]",
           "symmetric dense noise"),
        op("first_row", "keep the first row", "grid = grid[:1]", "dense small"),
        op("first_column", "keep the first column", "grid = grid[:, :1]", "dense small"),
    ]


def lines_dropped() -> list[Named]:
    return [
        op("no_black_lines", "take black rows and columns away",
           "grid = grid[(grid != 0).any(1)]\n"
           "grid = grid[:, (grid != 0).any(0)]", "objects lines spaced"),
        op("no_repeats", "keep one of equal rows and of equal columns in a row",
           "grid = grid[[i for i in range(len(grid)) "
           "if i == 0 or (grid[i] != grid[i - 1]).any()]]\n"
           "grid = grid[:, [j for j in range(len(grid[0])) "
           "if j == 0 or (grid[:, j] != grid[:, j - 1]).any()]]", "blocks lines"),
        op("no_separators", "take rows and columns of one colour away",
           "grid = grid[[not (row[0] != 0 and (row == row[0]).all()) for row in grid]]\n"
           "grid = grid[:, [not (row[0] != 0 and (row == row[0]).all()) for row in grid.T]]",
           "panels"),
    ]


def scaling() -> list[Named]:
    found = []
    for k in (2, 3, 4):
        found += [
            op(f"scale{k}", f"every cell becomes {k} x {k} cells",
               f"grid = np.kron(grid, np.ones(({k}, {k}), int))", "small"),
            op(f"shrink{k}", f"every {k} x {k} cells become one", f"grid = grid[::{k}, ::{k}]",
               f"blocks{k}"),
        ]
    found += [
        op("scale_colours", "every cell grows by the number of colours",
           "k = len(np.unique(grid[grid != 0]))\ngrid = np.kron(grid, np.ones((k, k), int))",
           "small"),
        op("scale_cells", "every cell grows by the number of coloured cells",
           "k = min(10, int((grid != 0).sum()))\ngrid = np.kron(grid, np.ones((k, k), int))",
           "tiny"),
    ]
    for k in (2, 3):
        found += [
            op(f"wider{k}", f"every column becomes {k} columns",
               f"grid = np.repeat(grid, {k}, axis=1)", "small"),
            op(f"taller{k}", f"every row becomes {k} rows", f"grid = np.repeat(grid, {k}, axis=0)",
               "small"),
            op(f"beside{k}", f"{k} copies side by side", f"grid = np.tile(grid, (1, {k}))",
               "small"),
            op(f"below{k}", f"{k} copies one below the other", f"grid = np.tile(grid, ({k}, 1))",
               "small"),
            op(f"tile{k}", f"{k} x {k} copies", f"grid = np.tile(grid, ({k}, {k}))", "small"),
        ]
    return found


def copies_and_mirror_images() -> list[Named]:
    return [
        op("mirror_right", "put the mirror image on the right",
           "grid = np.hstack([grid, grid[:, ::-1]])", "small dense"),
        op("mirror_left", "put the mirror image on the left",
           "grid = np.hstack([grid[:, ::-1], grid])", "small dense"),
        op("mirror_below", "put the mirror image below",
           "grid = np.vstack([grid, grid[::-1]])", "small dense"),
        op("mirror_above", "put the mirror image above",
           "grid = np.vstack([grid[::-1], grid])", "small dense"),
        op("mirror_four", "put mirror images on the right and below",
           "grid = np.vstack([grid, grid[::-1]])\ngrid = np.hstack([grid, grid[:, ::-1]])",
           "small dense"),
        op("mirror_around", "put mirror images on the left and above",
           "grid = np.vstack([grid[::-1], grid])\ngrid = np.hstack([grid[:, ::-1], grid])",
           "small dense"),
        op("turned_four", "put the grid and its three turns into a square",
           "grid = np.vstack([np.hstack([grid, np.rot90(grid, -1)]), "
           "np.hstack([np.rot90(grid), np.rot90(grid, 2)])])", "square"),
        op("weave", "three copies beside and below each other, the middle row of them mirrored",
           "a = np.tile(grid, (1, 3))\n"
           "b = np.tile(grid[:, ::-1], (1, 3))\n"
           "grid = np.vstack([a, b, a])", "tiny"),
        op("turned_tail", "put the grid turned upside down below it",
           "grid = np.vstack([grid, np.rot90(grid, 2)])", "small dense"),
        op("fractal", "put a copy where a cell is coloured", "grid = np.kron(grid != 0, grid)",
           "tiny"),
        op("fractal_black", "put a copy where a cell is black", "grid = np.kron(grid == 0, grid)",
           "tiny"),
        op("fractal_commonest", "put a copy where a cell has the commonest colour",
           f"{COUNTS}grid = np.kron(grid == colours[n.argmax()], grid)", "tiny"),
    ]


def falling_and_shifting() -> list[Named]:
    found = []
    for side, (there, back) in SIDES.items():
        direction = f"to the {side}" if side in ("left", "right") else side
        found += [
            op(f"fall_{side}", f"coloured cells fall {direction}",
               f"t = {there}\n"
               "t = np.take_along_axis(t, np.argsort(t == 0, axis=0, kind='stable'), 0)\n"
               f"grid = t{back}", "noise lines objects"),
            op(f"shift_{side}", f"everything moves one cell {side}",
               f"t = {there}\nt = np.vstack([t[1:], 0 * t[:1]])\ngrid = t{back}",
               "noise objects small"),
        ]
    return [
        *found,
        op("roll_right", "columns move one to the right, the last becomes the first",
           "grid = np.roll(grid, 1, axis=1)", "dense small"),
        op("roll_down", "rows move one down, the last becomes the first",
           "grid = np.roll(grid, 1, axis=0)", "dense small"),
    ]


def filling() -> list[Named]:
    return [
        op("fill_holes", "enclosed black cells get a colour",
           f"{OUTSIDE}grid = np.where((grid == 0) & ~seen, {{c}}, grid)", "frames noise"),
        op("fill_holes_same", "enclosed black cells get the commonest colour",
           f"{COUNTS}{OUTSIDE}grid = np.where((grid == 0) & ~seen, colours[n.argmax()], grid)",
           "frames"),
        op("fill_outside", "black cells that are not enclosed get a colour",
           f"{OUTSIDE}grid = np.where(seen, {{c}}, grid)", "frames"),
        op("holes_alone", "only enclosed cells are kept, in one colour",
           f"{OUTSIDE}grid = np.where((grid == 0) & ~seen, {{c}}, 0)", "frames"),
    ]


def around_cells() -> list[Named]:
    return [
        op("inside", "cells with coloured cells all around get a colour",
           f"{AROUND}grid = np.where(np.min(near, axis=0) > 0, {{c}}, grid)", "boxes objects"),
        op("halo", "black cells around coloured ones get a colour",
           f"{AROUND}grid = np.where((grid == 0) & (np.max(near, axis=0) > 0), {{c}}, grid)",
           "specks objects"),
        op("halo_plus", "black cells beside, above and below coloured ones get a colour",
           f"{AROUND}grid = np.where((grid == 0) & (np.max(near[1::2], axis=0) > 0), {{c}}, grid)",
           "specks objects"),
        op("grow", "black cells around coloured ones take their colour",
           f"{AROUND}grid = np.where(grid == 0, np.max(near, axis=0), grid)", "specks"),
        op("grow_plus", "black cells beside, above and below coloured ones take their colour",
           f"{AROUND}grid = np.where(grid == 0, np.max(near[1::2], axis=0), grid)", "specks"),
        op("grow_x", "black cells at the corners of coloured ones get a colour",
           f"{AROUND}grid = np.where((grid == 0) & (np.max(near[::2], axis=0) > 0), {{c}}, grid)",
           "specks"),
        op("adjacent", "cells of one colour that touch black get another colour",
           f"{AROUND}grid = np.where((grid == {{c}}) & (np.min(near[1::2], axis=0) == 0), "
           "{d}, grid)", "boxes objects"),
        op("no_lone", "take cells without coloured neighbours away",
           f"{AROUND}grid = np.where(sum(a != 0 for a in near) > 1, grid, 0)", "specks noise"),
        op("majority", "every cell takes the commonest colour around it",
           f"{AROUND}grid = np.argmax([sum(a == k for a in near) for k in range(10)], axis=0)",
           "specks boxes"),
    ]


def halves() -> list[Named]:
    found = []
    for name, words, mask in (
            ("and", "both halves are coloured", "(a != 0) & (b != 0)"),
            ("or", "one of the halves is coloured", "(a != 0) | (b != 0)"),
            ("xor", "just one half is coloured", "(a != 0) ^ (b != 0)"),
            ("nor", "neither half is coloured", "(a == 0) & (b == 0)"),
            ("less", "the first half is coloured and the second is not", "(a != 0) & (b == 0)"),
            ("more", "the second half is coloured and the first is not", "(a == 0) & (b != 0)")):
        found.append(op(f"halves_{name}", f"a colour where {words}",
                        HALVES.replace("{mask}", f"np.where({mask}, {{c}}, 0)"), "halves"))
    return [
        *found,
        op("first_over", "lay the first half over the second",
           HALVES.replace("{mask}", "np.where(a != 0, a, b)"), "halves"),
        op("second_over", "lay the second half over the first",
           HALVES.replace("{mask}", "np.where(b != 0, b, a)"), "halves"),
    ]


def panels() -> list[Named]:
    return [
        op("panel_most", "the panel with the most coloured cells",
           f"{PANELS}grid = max(panels, key=np.count_nonzero)", "panels"),
        op("panel_fewest", "the panel with the fewest coloured cells",
           f"{PANELS}grid = min(panels, key=np.count_nonzero)", "panels"),
        op("panel_odd", "the panel that no other equals",
           f"{PANELS}texts = [str(p.tolist()) for p in panels]\n"
           "grid = next(p for p, t in zip(panels, texts) if texts.count(t) == 1)", "panels_odd"),
        op("panel_colours", "the panel with the most colours",
           f"{PANELS}grid = max(panels, key=lambda p: len(np.unique(p)))", "panels"),
        op("panel_overlay", "lay all panels over each other",
           f"{PANELS}grid = np.max(panels, axis=0)", "panels"),
        op("panel_summary", "every panel becomes a cell of its commonest colour",
           f"{PANELS}cells = [np.bincount(p.flatten(), minlength=10) for p in panels]\n"
           "grid = np.array([k[1:].argmax() + 1 if k[1:].any() else 0 for k in cells])"
           ".reshape(len(spans[0]), -1)", "panels panels_plain"),
    ]


def colours() -> list[Named]:
    return [
        op("recolour", "one colour becomes another", "grid = np.where(grid == {c}, {d}, grid)",
           "noise dense objects boxes frames"),
        op("swap", "two colours change places",
           "a, b = {c}, {d}\ngrid = np.where(grid == a, b, np.where(grid == b, a, grid))",
           "noise dense objects two"),
        op("keep_colour", "keep only one colour", "grid = np.where(grid == {c}, grid, 0)",
           "noise dense objects boxes"),
        op("remove_colour", "one colour becomes black", "grid = np.where(grid == {c}, 0, grid)",
           "noise dense objects boxes masked"),
        op("paint", "everything that is not black gets a colour",
           "grid = np.where(grid != 0, {c}, 0)", "noise objects small"),
        op("ground", "black becomes a colour", "grid = np.where(grid == 0, {c}, grid)",
           "noise objects small"),
        op("negative", "black becomes the colour there is, and that becomes black",
           "grid = np.where(grid == 0, grid.max(), 0)", "two noise"),
        op("two_negative", "the two commonest colours change places",
           "k = np.argsort(-np.bincount(grid.flatten(), minlength=10), kind='stable')\n"
           "grid = np.where(grid == k[0], k[1], np.where(grid == k[1], k[0], grid))",
           "two dense"),
    ]


def colours_by_count_or_place() -> list[Named]:
    return [
        op("commonest_alone", "keep only the commonest colour",
           f"{COUNTS}grid = np.where(grid == colours[n.argmax()], grid, 0)",
           "noise dense objects"),
        op("rarest_alone", "keep only the rarest colour",
           f"{COUNTS}grid = np.where(grid == colours[n.argmin()], grid, 0)",
           "noise dense objects"),
        op("commonest_to", "the commonest colour becomes another",
           f"{COUNTS}grid = np.where(grid == colours[n.argmax()], {{c}}, grid)",
           "noise dense objects"),
        op("rarest_to", "the rarest colour becomes another",
           f"{COUNTS}grid = np.where(grid == colours[n.argmin()], {{c}}, grid)",
           "noise dense objects"),
        op("ground_out", "the commonest of all colours becomes black",
           "k = np.bincount(grid.flatten(), minlength=10).argmax()\n"
           "grid = np.where(grid == k, 0, grid)", "coloured dense"),
        op("by_top", "coloured cells take the colour at the top of their column",
           "grid = np.where(grid != 0, grid[:1], 0)", "headed"),
        op("by_left", "coloured cells take the colour at the left of their row",
           "grid = np.where(grid != 0, grid[:, :1], 0)", "headed"),
        op("all_commonest", "everything gets the commonest colour",
           f"{COUNTS}grid = np.full(grid.shape, colours[n.argmax()])", "dense noise"),
        op("rows_even", "every other row gets a colour where it is coloured",
           "grid = np.where((grid != 0) & (np.arange(len(grid)) % 2 == 1)[:, None], {c}, grid)",
           "boxes objects lines"),
    ]


def borders() -> list[Named]:
    return [
        op("border", "a frame of one colour along the edge",
           "grid = grid.copy()\ngrid[[0, -1]] = {c}\ngrid[:, [0, -1]] = {c}",
           "noise objects empty small"),
        op("frame", "a frame of one colour around the grid",
           "grid = np.pad(grid, 1, constant_values={c})", "small dense"),
        op("double_edge", "the outermost ring is repeated", "grid = np.pad(grid, 1, mode='edge')",
           "small dense"),
        op("outline_box", "a frame of one colour around everything coloured",
           "r, c = np.where(grid != 0)\n"
           "g = np.full(grid.shape, 0)\n"
           "g[max(0, r.min() - 1):r.max() + 2, max(0, c.min() - 1):c.max() + 2] = {c}\n"
           "g[r.min():r.max() + 1, c.min():c.max() + 1] = 0\n"
           "grid = np.where(grid != 0, grid, g)", "one objects"),
    ]


def symmetry() -> list[Named]:
    return [
        op("both_lr", "the grid and its mirror image from left to right over each other",
           "grid = np.maximum(grid, grid[:, ::-1])", "noise objects halfsym"),
        op("both_ud", "the grid and its mirror image from top to bottom over each other",
           "grid = np.maximum(grid, grid[::-1])", "noise objects halfsym"),
        op("both_diagonal", "the grid and its mirror image in the diagonal over each other",
           "grid = np.maximum(grid, grid.T)", "square square_noise"),
        op("both_four", "the grid and all its mirror images over each other",
           "grid = np.maximum(grid, grid[::-1])\ngrid = np.maximum(grid, grid[:, ::-1])",
           "noise halfsym objects"),
        op("all_turns", "the grid and all its turns over each other",
           "grid = np.maximum(grid, np.rot90(grid))\ngrid = np.maximum(grid, np.rot90(grid, 2))",
           "square square_noise"),
        op("unhide", "what a colour hides is put back by symmetry",
           BEHIND.replace("hidden = grid == {c}\n", ""), "masked"),
        op("hidden", "what a colour hides is found by symmetry",
           BEHIND + CROP.replace("m)", "hidden)"), "masked"),
        op("unhide_period", "what a colour hides is put back from the repeating pattern",
           PERIOD + "grid = whole", "periodic"),
        op("hidden_period", "what a colour hides is found in the repeating pattern",
           "hidden = grid == {c}\n" + PERIOD + "grid = whole\n" + CROP.replace("m)", "hidden)"),
           "periodic"),
        op("tile_of", "the smallest tile of the repeating pattern",
           PERIOD.replace("{c}", "-1") + "grid = tile", "period_clean"),
    ]


def lines() -> list[Named]:
    found = []
    for side, (there, back) in SIDES.items():
        found.append(op(
            f"ray_{side}", f"coloured cells draw a line {side}",
            f"t = {there}.copy()\n"
            "for i in range(len(t) - 2, -1, -1):\n"
            "    t[i] = np.where(t[i] == 0, t[i + 1], t[i])\n"
            f"grid = t{back}", "specks noise"))
    return [
        *found,
        op("rows_full", "a row with a coloured cell is filled with it",
           "k = grid.max(axis=1, keepdims=True)\ngrid = np.where(grid == 0, k, grid)", "specks"),
        op("columns_full", "a column with a coloured cell is filled with it",
           "k = grid.max(axis=0, keepdims=True)\ngrid = np.where(grid == 0, k, grid)", "specks"),
        op("cross", "coloured cells draw lines along their row and column",
           "k = np.maximum(grid.max(axis=1, keepdims=True), grid.max(axis=0, keepdims=True))\n"
           "grid = np.where(grid == 0, k, grid)", "specks"),
        op("diagonals", "coloured cells draw lines along their diagonals",
           "g = grid.copy()\n"
           "for i, j in zip(*np.where(grid != 0)):\n"
           "    r, c = np.indices(grid.shape)\n"
           "    g = np.where((g == 0) & (abs(r - i) == abs(c - j)), grid[i, j], g)\n"
           "grid = g", "specks"),
    ]


def joining() -> list[Named]:
    found = []
    for what, words, tag in (("row[a]", "its colour", ""), ("{c}", "a colour", "_in")):
        for name, word, there, back in (("rows", "row", "grid", ""),
                                        ("columns", "column", "grid.T", ".T")):
            code = (f"g = {there}.copy()\n"
                    "for row in g:\n"
                    "    k = np.flatnonzero(row)\n"
                    "    for a, b in zip(k, k[1:]):\n"
                    "        if row[a] == row[b]:\n"
                    f"            row[a + 1:b] = {what}\n"
                    f"grid = g{back}")
            found.append(op(f"join_{name}{tag}", f"equal cells in a {word} are joined by {words}",
                            code, "pairs specks noise"))
    return found


def counting() -> list[Named]:
    return [
        op("cell_commonest", "one cell of the commonest colour",
           f"{COUNTS}grid = np.array([[colours[n.argmax()]]])", "noise dense objects"),
        op("cell_rarest", "one cell of the rarest colour",
           f"{COUNTS}grid = np.array([[colours[n.argmin()]]])", "noise dense objects"),
        op("colour_row", "the colours in a row, the commonest first",
           f"{COUNTS}grid = colours[np.argsort(-n, kind='stable')][None]",
           "noise dense objects boxes"),
        op("colour_column", "the colours in a column, the commonest first",
           f"{COUNTS}grid = colours[np.argsort(-n, kind='stable')][:, None]",
           "noise dense objects boxes"),
        op("bars", "a bar for each colour, as long as it has cells, the longest first",
           f"{COUNTS}k = np.argsort(-n, kind='stable')\n"
           "grid = np.array([[c if j < m else 0 for j in range(n.max())] "
           "for c, m in zip(colours[k], n[k])])", "small noise"),
        op("colours_left_right", "the colours in a row as they first appear from the left",
           "columns = [k for column in grid.T for k in column if k]\n"
           "grid = np.array([list(dict.fromkeys(columns))])", "stripes objects"),
        op("colours_top_down", "the colours in a column as they first appear from the top",
           "cells = [k for row in grid for k in row if k]\n"
           "grid = np.array([list(dict.fromkeys(cells))]).T", "stripes objects"),
        op("count_row", "a row of all coloured cells, as they are read",
           "grid = grid[grid != 0][None]", "tiny small"),
    ]


def ordering_and_repeating() -> list[Named]:
    return [
        op("sort_rows", "rows ordered by their number of coloured cells",
           "grid = grid[np.argsort((grid != 0).sum(1), kind='stable')]", "lines noise"),
        op("sort_columns", "columns ordered by their number of coloured cells",
           "grid = grid[:, np.argsort((grid != 0).sum(0), kind='stable')]", "lines noise"),
        op("first_square", "the top left square of the shorter side",
           "k = min(grid.shape)\ngrid = grid[:k, :k]", "thirds"),
        op("diagonal_stack", "the row is repeated, moved one further to the right each time",
           "grid = np.array([np.roll(grid[0], i) for i in range(len(grid[0]))])", "row"),
        op("growing_row", "the row is repeated, each time one more cell takes its first colour",
           "grid = np.array([[grid[0, 0] if j < (grid[0] != 0).sum() + i else 0 "
           "for j in range(len(grid[0]))] for i in range(len(grid[0]) // 2)])", "row_start"),
    ]


# Operations whose first colour is one that they look for in the grid: any of the palette's
# (SOURCES), or its last (COVERS).
SOURCES = ("crop_colour", "keep_colour", "remove_colour", "recolour", "swap", "adjacent")
COVERS = ("unhide", "hidden", "unhide_period", "hidden_period")
FAMILIES = (
    turning_and_mirroring, crops, parts_kept, lines_dropped, scaling, copies_and_mirror_images,
    falling_and_shifting, filling, around_cells, halves, panels, colours,
    colours_by_count_or_place, borders, symmetry, lines, joining, counting,
    ordering_and_repeating)
