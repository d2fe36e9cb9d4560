"""More operations for synthetic ARC programs, on the layout of whole grids: panels and halves,
copies and scalings, counting and ordering, colours by place or count, crops by content.

They have the form of those of arc_operations.py. The ideas were chosen after a look at the odd
half of ARC's training tasks. KINDS holds the kinds of grid that they need besides those of
arc_grids.py; SOURCES names the operations whose first colour is one that they look for in the grid.
"""
from __future__ import annotations

import numpy as np

from tiny import arc_grids as grids
from tiny.arc_operations import CROP, HALVES, PANELS, Named, op

SOURCES = ("all_but_to", "to_other", "ground_swap", "fractal_of", "inside_box",
           "count_squares", "ends_colour")


# ------------------------------------------------------------------------ code that several share

# k, n: the colours but black and how often each occurs, the commonest first.
RANKED = (
    "k, n = np.unique(grid[grid != 0], return_counts=True)\n"
    "i = np.argsort(-n, kind='stable')\n"
    "k, n = k[i], n[i]\n")

# four: the quarters in reading order.
QUARTERS = (
    "h, w = len(grid) // 2, len(grid[0]) // 2\n"
    "four = [grid[:h, :w], grid[:h, -w:], grid[-h:, :w], grid[-h:, -w:]]\n")

# parts: the square parts along the longer side, with or without lines between them.
STRIP = (
    "t = grid.T if len(grid) > len(grid[0]) else grid\n"
    "k = len(t)\n"
    "step = k + ((len(t[0]) + 1) % (k + 1) == 0)\n"
    "parts = [t[:, j:j + k] for j in range(0, len(t[0]), step)]\n"
    "if len(grid) > len(grid[0]):\n"
    "    parts = [p.T for p in parts]\n")

# blocks: the 3 x 3 blocks of the grid in reading order.
BLOCKS = (
    "blocks = [grid[i:i + 3, j:j + 3] for i in range(0, len(grid), 3) "
    "for j in range(0, len(grid[0]), 3)]\n")

# parts: the parts between black rows and columns. spans: where they lie.
ISLANDS = (
    "spans = []\n"
    "for g in (grid, grid.T):\n"
    "    e = np.flatnonzero(np.diff(np.pad((g != 0).any(1), 1).astype(int)))\n"
    "    spans.append(list(zip(e[::2], e[1::2])))\n"
    "parts = [grid[a:b, c:d] for a, b in spans[0] for c, d in spans[1]]\n")

# box: the largest rectangle inside the mask m, as first and last row and column.
RECTANGLE = (
    "size, box = 0, None\n"
    "for a, b in zip(*np.triu_indices(len(m))):\n"
    "    run = 0\n"
    "    for j, free in enumerate(m[a:b + 1].all(0)):\n"
    "        run = run + 1 if free else 0\n"
    "        if run * (b - a + 1) > size:\n"
    "            size, box = run * (b - a + 1), (a, b + 1, j - run + 1, j + 1)\n"
    "a, b, c, d = box\n")

# r, c: rows and columns of the colour whose four cells are the corners of a box.
CORNERS = (
    "for k in np.unique(grid[grid != 0]):\n"
    "    r, c = np.where(grid == k)\n"
    "    if len(r) == 4 and len(set(r)) == len(set(c)) == 2:\n"
    "        break\n")

# best: the largest box whose edge is of one colour that occurs nowhere outside the box.
FRAME = (
    "boxes = []\n"
    "for k in np.unique(grid[grid != 0]):\n"
    "    r, c = np.where(grid == k)\n"
    "    b = grid[r.min():r.max() + 1, c.min():c.max() + 1]\n"
    "    if min(b.shape) > 2 and (np.concatenate([b[0], b[-1], b[:, 0], b[:, -1]]) == k).all():\n"
    "        boxes.append(b)\n"
    "best = max(boxes, key=np.size)\n")

GROUND = "k = np.bincount(grid.flatten()).argmax()\n"


# ------------------------------------------------------------------------------------ the families

def halves_more() -> list[Named]:
    found = []
    for name, words, mask in (
            ("halves_equal", "a colour where the halves are equal",
             "np.where(a == b, {c}, 0)"),
            ("halves_differ", "a colour where the halves differ", "np.where(a != b, {c}, 0)"),
            ("halves_agree", "keep the cells that are alike in both halves",
             "np.where(a == b, a, 0)"),
            ("halves_masked", "keep the first half where the second is coloured",
             "np.where(b != 0, a, 0)"),
            ("halves_cut", "keep the first half where the second is black",
             "np.where(b == 0, a, 0)"),
            ("halves_two", "one colour where both halves are coloured, another where just one is",
             "np.where((a != 0) & (b != 0), {c}, np.where((a != 0) | (b != 0), {d}, 0))"),
            ("half_mirrored", "the second half becomes the mirror image of the first",
             "np.hstack([a, t[:, w:-w], a[:, ::-1]])")):
        found.append(op(name, words, HALVES.replace("{mask}", mask),
                        "halves noise" if "b" in mask else "halves noise halfsym"))
    return [
        *found,
        op("fold_left", "fold the right half over onto the left half, which stays on top",
           "w = len(grid[0]) // 2\n"
           "a, b = grid[:, :w], grid[:, -w:][:, ::-1]\n"
           "grid = np.where(a != 0, a, b)", "folded"),
        op("fold_up", "fold the lower half over onto the upper half, which stays on top",
           "h = len(grid) // 2\n"
           "a, b = grid[:h], grid[-h:][::-1]\n"
           "grid = np.where(a != 0, a, b)", "folded"),
    ]


def quarters() -> list[Named]:
    found = []
    for name, words, order in (
            ("last", "the last on top, then the others backwards", (0, 1, 2, 3)),
            ("right", "top right on top, then bottom left, bottom right, top left", (0, 3, 2, 1))):
        found.append(op(f"quarters_{name}", f"lay the quarters over each other, {words}",
                        f"{QUARTERS}grid = four[{order[0]}]\n"
                        f"for q in {order[1:]}:\n"
                        "    grid = np.where(four[q] != 0, four[q], grid)", "quartered"))
    return [
        *found,
        op("quarter_odd", "the quarter that no other equals",
           f"{QUARTERS}texts = [str(q.tolist()) for q in four]\n"
           "grid = next(q for q, t in zip(four, texts) if texts.count(t) == 1)", "quarters_odd"),
        op("quarter_symmetric", "the quarter that is its own mirror image",
           f"{QUARTERS}grid = next(q for q in four if (q == q[:, ::-1]).all())",
           "quarters_symmetric"),
    ]


def parts_in_a_strip() -> list[Named]:
    return [
        op("strip_all", "a colour where all square parts are coloured",
           f"{STRIP}grid = np.where(np.min(parts, axis=0) > 0, {{c}}, 0)", "thirds strip"),
        op("strip_crooked", "the square part that differs from its mirror image in the diagonal",
           f"{STRIP}grid = next(p for p in parts if (p != p.T).any())", "strip_symmetric"),
    ]


def panels_changed() -> list[Named]:
    shape = ".reshape(len(spans[0]), -1)"
    found = []
    for word, at in (("first", "0"), ("middle", "len(panels) // 2"), ("last", "-1")):
        found.append(op(f"panel_{word}_fill", f"fill the {word} panel with a colour",
                        f"{PANELS}panels[{at}][:] = {{c}}", "panels panels_sparse"))
    return [
        *found,
        op("panel_first", "keep the first panel", f"{PANELS}grid = panels[0]", "panels"),
        op("panel_last", "keep the last panel", f"{PANELS}grid = panels[-1]", "panels"),
        op("panels_commonest", "every panel is filled with its commonest colour",
           f"{PANELS}for p in panels:\n"
           "    p[:] = np.bincount(p[p != 0]).argmax() if p.any() else 0", "panels"),
        op("panel_most_fill", "the panels with the most coloured cells are filled with a colour, "
           "all others become black",
           f"{PANELS}most = max(np.count_nonzero(p) for p in panels)\n"
           "for p in panels:\n"
           "    p[:] = {c} if np.count_nonzero(p) == most else 0", "panels"),
        op("panel_copied", "every panel becomes a copy of the one with the most coloured cells",
           f"{PANELS}best = max(panels, key=np.count_nonzero).copy()\n"
           "for p in panels:\n"
           "    p[:] = best", "panels_sparse panels"),
        op("panels_empty_fill", "black panels are filled with a colour",
           f"{PANELS}for p in panels:\n"
           "    p[:] = p if p.any() else {c}", "panels_sparse panels_plain"),
        op("panel_any", "a cell for every panel, with a colour if the panel is not black",
           f"{PANELS}grid = np.array([p.any() * {{c}} for p in panels]){shape}",
           "panels_sparse panels_plain"),
        op("separators_alone", "keep only the full rows and columns of one colour",
           f"{PANELS}for p in panels:\n"
           "    p[:] = 0", "panels"),
    ]


def blocks() -> list[Named]:
    side = ".reshape(len(grid) // 3, -1)"
    return [
        op("block_summary", "every 3 x 3 block becomes a cell of the commonest of all its colours",
           f"{BLOCKS}grid = np.array([np.bincount(b.flatten()).argmax() for b in blocks]){side}",
           "blocks_noisy nine"),
        op("island_summary",
           "every part between black rows and columns becomes a cell of its commonest colour",
           f"{ISLANDS}grid = np.array([np.bincount(p.flatten())[1:].argmax() + 1 for p in parts])"
           ".reshape(len(spans[0]), -1)", "islands"),
        op("shrink_auto", "undo the enlargement: every block of one colour becomes a cell",
           "for k in range(min(grid.shape), 0, -1):\n"
           "    g = np.kron(grid[::k, ::k], np.ones((k, k), int))\n"
           "    if g.shape == grid.shape and (g == grid).all():\n"
           "        break\n"
           "grid = grid[::k, ::k]", "blocks2 blocks3 blocks4"),
    ]


def copies_arranged() -> list[Named]:
    return [
        op("mirror_sides", "put the grid between two mirror images",
           "grid = np.hstack([grid[:, ::-1], grid, grid[:, ::-1]])", "small"),
        op("mirror_nine", "put mirror images on all sides of the grid",
           "grid = np.pad(grid, [(k, k) for k in grid.shape], mode='symmetric')", "small tiny"),
        op("mirror_joined_below", "put the mirror image below, the last row shared",
           "grid = np.vstack([grid, grid[-2::-1]])", "dense small"),
        op("mirror_joined_right", "put the mirror image on the right, the last column shared",
           "grid = np.hstack([grid, grid[:, -2::-1]])", "dense small"),
        op("turned_left", "put the grid and its turns into a square, turning to the left",
           "grid = np.vstack([np.hstack([grid, np.rot90(grid)]), "
           "np.hstack([np.rot90(grid, -1), np.rot90(grid, 2)])])", "square"),
        op("negative_right", "put a copy on the right, with black and colour exchanged",
           "grid = np.hstack([grid, np.where(grid == 0, grid.max(), 0)])", "two small"),
    ]


def scaling_by_content() -> list[Named]:
    return [
        op("fractal_rarest", "put a copy where a cell has the rarest colour",
           f"{RANKED}grid = np.kron(grid == k[-1], grid)", "tiny"),
        op("fractal_of", "put a copy where a cell has a certain colour",
           "grid = np.kron(grid == {c}, grid)", "tiny"),
        op("fractal_own", "every cell becomes a copy of the shape in the cell's colour",
           "grid = np.kron(grid, grid != 0)", "tiny"),
        op("black_ring", "a black ring around the grid", "grid = np.pad(grid, 1)",
           "small dense noise"),
        op("edge_outside", "the outermost ring is repeated outside, with black corners",
           "grid = np.pad(grid, 1, mode='edge')\n"
           "grid[[0, 0, -1, -1], [0, -1, 0, -1]] = 0", "small dense"),
    ]


def counting_more() -> list[Named]:
    return [
        op("histogram_up", "a column for each colour, as high as it has cells, the highest first",
           f"{RANKED}grid = np.array([[c if m > i else 0 for c, m in zip(k, n)] "
           "for i in range(n.max())])[::-1]", "small noise"),
        op("colour_rings", "a ring for each colour, the commonest outermost",
           f"{RANKED}s = 2 * len(k) - 1\n"
           "i, j = np.indices((s, s))\n"
           "grid = k[np.min([i, j, s - 1 - i, s - 1 - j], axis=0)]", "noise dense objects"),
        op("count_squares", "a row of five cells, coloured for every 2 x 2 square of a colour",
           "m = grid == {c}\n"
           "n = (m[1:, 1:] & m[:-1, 1:] & m[1:, :-1] & m[:-1, :-1]).sum()\n"
           "grid = np.where(np.arange(5) < n, {c}, 0)[None]", "squares"),
        op("is_symmetric", "a cell of one colour if the grid is symmetric, else of another",
           "same = (grid == grid[:, ::-1]).all()\n"
           "grid = np.array([[{c} if same else {d}]])", "perhaps_symmetric"),
    ]


def rows_and_columns() -> list[Named]:
    found = []
    for name, word, there, back in (("row", "row", "grid", ""),
                                    ("column", "column", "grid.T", ".T")):
        found += [
            op(f"{name}_most_to",
               f"the coloured cells of the {word}s with the most of them get a colour",
               f"t = {there}\n"
               "n = (t != 0).sum(1, keepdims=True)\n"
               f"grid = np.where((n == n.max()) & (t != 0), {{c}}, t){back}", "noise standing"),
            op(f"{name}_plain", f"{word}s of one colour get a colour, all else becomes black",
               f"t = {there}\n"
               f"grid = np.where((t == t[:, :1]).all(1)[:, None], {{c}}, 0 * t){back}",
               f"plain_{word}s"),
            op(f"{name}_fill", f"every {word} takes the commonest of all its colours",
               f"t = {there}\n"
               "k = np.array([[np.bincount(r).argmax()] for r in t])\n"
               f"grid = np.repeat(k, len(t[0]), 1){back}", "rows_noisy dense"),
        ]
    return [
        *found,
        op("sort_columns_back",
           "columns ordered by their number of coloured cells, the fullest first",
           "grid = grid[:, np.argsort(-(grid != 0).sum(0), kind='stable')]",
           "standing noise lines"),
        op("columns_rank", "columns get a number as colour, the one with the most cells 1",
           "n = np.where((grid != 0).any(0), -(grid != 0).sum(0), 0)\n"
           "rank = np.argsort(np.argsort(n, kind='stable'), kind='stable') + 1\n"
           "grid = np.where(grid != 0, np.minimum(rank, 9), 0)", "standing"),
        op("columns_ends", "the fullest column gets one colour, the emptiest another, "
           "the rest becomes black",
           "n = (grid != 0).sum(0)\n"
           "n = np.where(n == n.max(), {c}, np.where(n == n[n > 0].min(), {d}, 0))\n"
           "grid = np.where(grid != 0, n, 0)", "standing"),
    ]


def colours_by_rank() -> list[Named]:
    return [
        op("extremes_swapped", "the commonest and the rarest colour change places",
           f"{RANKED}grid = np.where(grid == k[0], k[-1], np.where(grid == k[-1], k[0], grid))",
           "noise dense objects"),
        op("rarest_on_all", "everything coloured takes the rarest colour, whose cells become black",
           f"{RANKED}grid = np.where((grid != 0) & (grid != k[-1]), k[-1], 0)", "keyed objects"),
        op("to_other", "one colour becomes the commonest other colour",
           "other = grid[(grid != 0) & (grid != {c})]\n"
           "grid = np.where(grid == {c}, np.bincount(other).argmax(), grid)",
           "noise dense objects"),
        op("all_but_to", "everything coloured but one colour gets another colour",
           "grid = np.where((grid != 0) & (grid != {c}), {d}, grid)", "noise dense objects"),
        op("ground_swap", "black and one colour change places",
           "grid = np.where(grid == 0, {c}, np.where(grid == {c}, 0, grid))",
           "noise dense objects"),
        op("all_but_ground_to", "all but the commonest of all colours gets a colour",
           f"{GROUND}grid = np.where(grid != k, {{c}}, grid)", "coloured dense"),
        op("diagonal_cycle",
           "every colour becomes the one before it on the diagonal, the first the last",
           "k = list(dict.fromkeys(grid.diagonal().tolist()))\n"
           "grid = np.array([[k[k.index(c) - 1] if c in k else c for c in row] "
           "for row in grid.tolist()])", "rings"),
    ]


def colours_by_place() -> list[Named]:
    return [
        op("unlike_mirror",
           "cells that differ from the mirror image from left to right get a colour",
           "grid = np.where(grid != grid[:, ::-1], {c}, grid)", "halfsym almost_symmetric"),
        op("by_corner", "coloured cells take the colour in a corner, which becomes black",
           "k = grid[[0, 0, -1, -1], [0, -1, 0, -1]].max()\n"
           "grid = np.where((grid != 0) & (grid != k), k, 0)", "keyed"),
        op("legend_rows", "colours become what the first two columns say: the left one the right",
           "old = grid.copy()\n"
           "for a, b in old[:, :2]:\n"
           "    if a and b:\n"
           "        grid[:, 2:][old[:, 2:] == a] = b", "legend"),
        op("legend_swap", "colours that stand side by side in the first two columns change places",
           "old = grid.copy()\n"
           "for a, b in old[:, :2]:\n"
           "    if a and b:\n"
           "        grid[:, 2:][old[:, 2:] == a] = b\n"
           "        grid[:, 2:][old[:, 2:] == b] = a", "legend"),
        op("ends_colour", "cells of one colour take the colour of the nearer of two coloured sides",
           "t = grid if grid[:, 0].all() and grid[:, -1].all() else grid.T\n"
           "left = np.arange(len(t[0])) * 2 < len(t[0])\n"
           "k = np.where(left, t[:, :1], t[:, -1:])\n"
           "m = np.where(t == {c}, k, t)\n"
           "grid = m if t is grid else m.T", "two_sides"),
    ]


def crops_by_content() -> list[Named]:
    box = "grid[r.min():r.max() + 1, c.min():c.max() + 1]"
    inner = "grid[r.min() + 1:r.max(), c.min() + 1:c.max()]"
    return [
        op("marked_inside", "crop to what four cells of one colour at the corners of a box enclose",
           f"{CORNERS}grid = {inner}", "four_corners"),
        op("marked_coloured", "crop to what is inside four corner cells, and give it their colour",
           f"{CORNERS}grid = np.where({inner} != 0, k, 0)", "four_corners"),
        op("framed_inside", "crop to the inside of the largest frame of one colour",
           f"{FRAME}grid = best[1:-1, 1:-1]", "framed_noise"),
        op("inside_box", "crop to the inside of the box of one colour",
           f"r, c = np.where(grid == {{c}})\ngrid = {inner}", "framed_noise dense noise"),
        op("rings_off", "take the outermost ring away as long as it is of one colour",
           "while min(grid.shape) > 2:\n"
           "    ring = np.concatenate([grid[0], grid[-1], grid[:, 0], grid[:, -1]])\n"
           "    if (ring != ring[0]).any():\n"
           "        break\n"
           "    grid = grid[1:-1, 1:-1]", "ringed"),
        op("crop_ground", "crop to everything that is not of the commonest of all colours",
           f"{GROUND}m = grid != k\n{CROP}", "coloured objects one"),
        op("rectangle_fill", "the largest black rectangle gets a colour",
           f"m = grid == 0\n{RECTANGLE}grid[a:b, c:d] = {{c}}", "noise dense holed"),
        op("smallest_box", "crop to the colour whose box is smallest",
           "found = []\n"
           "for k in np.unique(grid[grid != 0]):\n"
           "    r, c = np.where(grid == k)\n"
           f"    found.append({box})\n"
           "grid = min(found, key=np.size)", "objects noise framed_noise"),
        op("around_rarest", "crop to the 3 x 3 cells around the cell of the rarest colour",
           f"{RANKED}r, c = np.argwhere(grid == k[-1])[0]\n"
           "grid = np.pad(grid, 1)[r:r + 3, c:c + 3]", "once"),
        op("once_ringed", "keep only the cell of the rarest colour, in a ring of a colour",
           f"{RANKED}r, c = np.argwhere(grid == k[-1])[0]\n"
           "grid = np.zeros(grid.shape, int)\n"
           "grid[max(0, r - 1):r + 2, max(0, c - 1):c + 2] = {c}\n"
           "grid[r, c] = k[-1]", "once"),
        op("black_unhidden", "black cells are put back by symmetry",
           "for g in (grid[::-1], grid[:, ::-1], grid[::-1, ::-1]):\n"
           "    grid = np.where(grid == 0, g, grid)", "holed_symmetric"),
        op("black_found", "what the black box hides is found by symmetry",
           "m = grid == 0\n"
           "for g in (grid[::-1], grid[:, ::-1], grid[::-1, ::-1]):\n"
           f"    grid = np.where(grid == 0, g, grid)\n{CROP}", "holed_symmetric"),
    ]


FAMILIES = (
    halves_more, quarters, parts_in_a_strip, panels_changed, blocks, copies_arranged,
    scaling_by_content, counting_more, rows_and_columns, colours_by_rank, colours_by_place,
    crops_by_content)


# ---------------------------------------------------------------------------------- kinds of grid

def folded(look):
    """Cells on both sides of a line, which may be black, in the middle."""
    grid = look.cells(look.shape(4, 12), look.rng.uniform(0.2, 0.6))
    if len(grid[0]) % 2:
        grid[:, len(grid[0]) // 2] = look.separator
    return grid


def quartered(look, make=None):
    """Four equal parts, with lines between them if the look has any, each part in a colour of its
    own. make(look, shape): draws one."""
    shape = tuple(look.rng.integers(3, 6, 2))
    if make:
        four = [make(look, shape) for _ in range(4)]
    else:
        four = [(look.rng.random(shape) < 0.5) * (1 + (look.palette[0] + 2 * i) % 9)
                for i in range(4)]
    grid = np.vstack([np.hstack(four[:2]), np.hstack(four[2:])])
    if look.separator:
        grid = np.insert(grid, shape[0], look.separator, 0)
        grid = np.insert(grid, shape[1], look.separator, 1)
    return grid


def quarters_odd(look):
    """Four equal parts, one of which differs."""
    odd, common = iter(look.rng.permutation([1, 0, 0, 0])), []

    def make(look, shape):
        if not common:
            common.append(look.cells(shape, 0.6))
        return look.cells(shape, 0.6) if next(odd) else common[0]

    return quartered(look, make)


def quarters_symmetric(look):
    """Four parts, one of which is its own mirror image."""
    number = iter(look.rng.permutation([1, 0, 0, 0]))

    def make(look, shape):
        part = look.cells(shape, 0.6)
        return np.maximum(part, part[:, ::-1]) if next(number) else part

    return quartered(look, make)


def strip(look, parts=None):
    """Three or four square parts in a row, with lines between them if the look has any."""
    if parts is None:
        side = look.rng.integers(3, 5)
        parts = [(look.rng.random((side, side)) < 0.6) * (1 + (look.palette[0] + 2 * i) % 9)
                 for i in range(look.rng.integers(3, 5))]
    return grids.side_by_side(look, parts)


def strip_symmetric(look):
    """Three square parts in a row. All but one equal their mirror image in the diagonal."""
    parts = [look.cells((3, 3), 0.7) for _ in range(3)]
    parts = [np.tril(p) + np.tril(p, -1).T for p in parts]
    odd = look.rng.integers(3)
    parts[odd][0, 1] = 0 if parts[odd][1, 0] else look.colour()
    return strip(look, parts)


def panels_sparse(look):
    """Panels between lines, most of them black."""
    return grids.panels(look, lambda look: grids.random_panel(look) * (look.rng.random() < 0.5))


def nine(look, make=None):
    """3 x 3 blocks in rows and columns, with nothing between them. make(look): draws one."""
    n_rows, n_columns = look.panel_counts
    make = make or (lambda look: look.cells((3, 3), look.rng.uniform(0.2, 0.9)))
    return np.vstack([np.hstack([make(look) for _ in range(n_columns)]) for _ in range(n_rows)])


def blocks_noisy(look):
    """3 x 3 blocks of one colour each, with cells of the palette's last colour strewn over them."""
    grid = np.kron(look.rng.integers(0, 10, (3, 3)), np.ones((3, 3), int))
    return np.where(look.rng.random(grid.shape) < 0.15, look.palette[-1], grid)


def islands(look):
    """Rectangles in rows and columns with black lines between them, a colour each, with holes."""
    heights, widths = (look.rng.integers(2, 6, n) for n in look.panel_counts)
    bands = []
    for h in heights:
        parts = [np.pad(np.where(look.rng.random((h, w)) < 0.75, look.rng.integers(1, 10), 0),
                        ((0, 1), (0, 1))) for w in widths]
        bands.append(np.hstack(parts))
    return np.vstack(bands)[:-1, :-1]


def squares(look):
    """2 x 2 squares, often of the palette's first colour, among other cells."""
    grid = np.zeros(look.shape(6, 12), int)
    for _ in range(look.rng.integers(1, 7)):
        i, j = (look.rng.integers(0, k - 1) for k in grid.shape)
        if not grid[max(0, i - 1):i + 3, max(0, j - 1):j + 3].any():
            grid[i:i + 2, j:j + 2] = look.palette[0] if look.rng.random() < 0.7 else look.colour()
    return grid


def perhaps_symmetric(look):
    grid = look.cells(look.shape(3, 5), 0.6)
    return np.maximum(grid, grid[:, ::-1]) if look.rng.random() < 0.5 else grid


def almost_symmetric(look):
    """A symmetric grid in which a few cells are changed."""
    grid = grids.symmetric(look)
    grid = np.maximum(grid, grid[::-1])
    change = look.rng.random(grid.shape) < 0.06
    return np.where(change, np.where(grid == 0, look.colour(), 0), grid)


def plain_rows(look):
    """Rows of one colour among mixed ones."""
    grid = look.rng.integers(1, 10, look.rng.integers(3, 6, 2))
    for i in range(len(grid)):
        if look.rng.random() < 0.5:
            grid[i] = look.colour()
    return grid


def plain_columns(look):
    return plain_rows(look).T


def rows_noisy(look):
    """Rows, or columns, of one colour with a few other cells in them."""
    h, w = look.shape(5)
    grid = np.repeat(look.rng.integers(1, 10, (h, 1)), w, 1)
    grid = np.where(look.rng.random((h, w)) < 0.15, look.palette[-1], grid)
    return grid.T if look.upright else grid


def standing(look):
    """Bars that stand on the lowest row."""
    h, w = look.shape(5, 10)
    heights = look.rng.permutation(h)[:(w + 1) // 2] + 1
    grid = np.zeros((h, w), int)
    for j, height in zip(range(0, w, 2), heights):
        grid[-height:, j] = look.palette[0] if look.separator else look.colour()
    return grid


def keyed(look):
    """A piece of one colour, and a cell of another colour in a corner."""
    grid = np.pad(grids.patch(look, tuple(look.rng.integers(2, 5, 2))), look.rng.integers(1, 4))
    key = look.rng.integers(1, 9)
    grid[look.rng.choice([0, -1]), look.rng.choice([0, -1])] = key + (key >= grid.max())
    return grid


def rings(look):
    """Rings of a few colours inside each other."""
    n = int(look.rng.integers(2, 4))
    colours = look.rng.permutation(10)[:n]
    i, j = np.indices(look.rng.integers(2 * n - 1, 2 * n + 2, 2))
    ring = np.min([i, j, i.max() - i, j.max() - j], axis=0)
    return colours[np.minimum(ring, n - 1)]


def ringed(look):
    """Cells with one or more rings of one colour around them."""
    grid = grids.dense(look, tuple(look.rng.integers(2, 6, 2)))
    for _ in range(look.rng.integers(1, 4)):
        grid = np.pad(grid, 1, constant_values=look.rng.integers(10))
    return grid


def legend(look):
    """Pairs of colours in the first two columns; boxes of the left ones' colours to the right."""
    n = int(look.rng.integers(1, 4))
    colours = look.rng.permutation(np.arange(1, 10))[:2 * n].reshape(n, 2)
    grid = np.zeros(look.shape(6, 12), int)
    for _ in range(2 * n):
        i, j = look.rng.integers(0, len(grid) - 2), look.rng.integers(3, len(grid[0]) - 1)
        grid[i:i + look.rng.integers(1, 4), j:j + look.rng.integers(1, 4)] = look.rng.choice(
            colours[:, 0] if look.upright else colours.flatten())
    grid[:n, :2] = colours
    return grid


def two_sides(look):
    """Two opposite sides of one colour each, and cells of the palette's first colour between."""
    grid = (look.rng.random(look.shape(5)) < 0.15) * look.palette[0]
    ends = look.rng.integers(1, 9, 2)
    grid[:, 0], grid[:, -1] = ends + (ends >= look.palette[0])
    return grid.T if look.upright else grid


def four_corners(look):
    """Four cells of one colour at the corners of a box, and cells of another colour."""
    shape = look.shape(6, 14)
    a, b = look.rng.permutation(np.arange(1, 10))[:2]
    grid = (look.rng.random(shape) < 0.4) * a
    first = [look.rng.integers(0, k // 3) for k in shape]
    last = [look.rng.integers(k // 2 + 1, k) for k in shape]
    grid[np.ix_([first[0], last[0]], [first[1], last[1]])] = b
    return grid


def framed_noise(look):
    """A frame of one colour with cells inside, and other cells outside."""
    h, w = look.shape(7, 15)
    grid = look.rng.integers(1, 9, (h, w)) * (look.rng.random((h, w)) < look.rng.uniform(0.1, 0.5))
    colour = look.palette[0]
    grid[grid == colour] = 9 if colour < 9 else 0
    a, b = look.rng.integers(4, 7, 2)
    i, j = look.rng.integers(0, h - a + 1), look.rng.integers(0, w - b + 1)
    inside = grid[i + 1:i + a - 1, j + 1:j + b - 1].copy()
    grid[i:i + a, j:j + b] = colour
    grid[i + 1:i + a - 1, j + 1:j + b - 1] = inside
    return grid


def holed(look):
    """Cells with a black box among them."""
    grid = look.cells(look.shape(5), look.rng.uniform(0.7, 1))
    a, b = look.rng.integers(2, 5, 2)
    i, j = look.rng.integers(0, len(grid) - 2), look.rng.integers(0, len(grid[0]) - 2)
    grid[i:i + a, j:j + b] = 0
    return grid


def holed_symmetric(look):
    """A symmetric grid with a black box in its upper half."""
    grid = look.rng.choice(look.palette, look.shape(4, 8))
    grid = np.hstack([grid, grid[:, ::-1]])
    grid = np.vstack([grid, grid[::-1]])
    a, b = look.rng.integers(1, 4, 2)
    i, j = look.rng.integers(0, len(grid) // 2 - 1), look.rng.integers(0, len(grid[0]) - b + 1)
    grid[i:i + a, j:j + b][:len(grid) // 2 - i] = 0
    return grid


def once(look):
    """Cells of a few colours, and one cell of a colour that occurs once."""
    colours = look.rng.permutation(np.arange(1, 10))
    grid = look.rng.choice(colours[1:4], look.shape(6))
    grid = grid * (look.rng.random(grid.shape) < look.rng.uniform(0.2, 0.6))
    grid[look.rng.integers(len(grid)), look.rng.integers(len(grid[0]))] = colours[0]
    return grid


KINDS = (folded, quartered, quarters_odd, quarters_symmetric, strip, strip_symmetric,
         panels_sparse, nine, blocks_noisy, islands, squares, perhaps_symmetric, almost_symmetric,
         plain_rows, plain_columns, rows_noisy, standing, keyed, rings, ringed, legend, two_sides,
         four_corners, framed_noise, holed, holed_symmetric, once)
