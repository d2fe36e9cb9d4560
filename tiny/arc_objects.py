"""Operations on the pieces of a grid: which cells are a piece, which pieces are meant, and what is
done to them.

    pieces            |  choice           |  deed
    cells that touch  |  the largest      |  crop to it
    areas of black    |  all off the edge |  they get a colour
    ..

An operation is one of each, and each of the three is a token of its own in a program (two, with a
colour between them, where it takes one). So the policy learns about 80 tokens and can say thousands
of operations. The choices and deeds were written down after a look at the odd half of ARC's
training tasks; the even half and the evaluation tasks were not looked at.
"""
from __future__ import annotations

import itertools

import numpy as np

from tiny import arc_lines
from tiny.arc_operations import NUMBER, ONE_COLOUR, OUTSIDE, TOUCHING, Named, Operation

# pieces: (mask, box) of each. The mask is as large as the grid; the box is a pair of slices.
BOXES = ("pieces = [(m, np.s_[r.min():r.max() + 1, c.min():c.max() + 1]) "
         "for m in pieces for r, c in [np.where(m)]]")
AREAS = arc_lines.AREAS.replace("areas = ", "pieces = ")
CORNERS_TOO = NUMBER.replace("{max}", "np.max([a * (b == grid) for a, b in near], axis=0)")

# name: (words, code)
PIECES = {
    "touching": ("look at pieces of touching cells", TOUCHING),
    "mono": ("look at pieces of one colour that are joined by sides", ONE_COLOUR),
    "corners": ("look at pieces of one colour that are joined by sides or corners", CORNERS_TOO),
    "colours": ("look at all cells of a colour as one piece",
                "pieces = [grid == k for k in np.unique(grid[grid != 0])]\n"),
    "areas": ("look at areas of black", AREAS),
}


# ------------------------------------------------------------------------------------- the choices

def those(condition: str) -> str:
    return f"chosen = [(m, box) for m, box in pieces if {condition}]"


def best(which: str, of_m: str) -> str:
    return f"chosen = [{which}(pieces, key=lambda p: {of_m})]"


ON_EDGE = "m[[0, -1]].any() or m[:, [0, -1]].any()"
# A piece in the plane has as many holes as its Euler number is below 1; four times that number is
# counted over all squares of two by two cells.
HOLES = ("holes = []\n"
         "for m, box in pieces:\n"
         "    p = np.pad(m, 1).astype(int)\n"
         "    q = p[1:, 1:] + p[1:, :-1] + p[:-1, 1:] + p[:-1, :-1]\n"
         "    slant = (q == 2) & (p[1:, 1:] == p[:-1, :-1])\n"
         "    holes.append(1 - ((q == 1).sum() - (q == 3).sum() - 2 * slant.sum()) // 4)\n")
SHAPES = "shapes = [str(m[box].tolist()) for m, box in pieces]\n"
SHADES = "shades = [str(np.unique(grid[m])) for m, _ in pieces]\n"


def counted(what: str, condition: str) -> str:
    return f"chosen = [p for p, k in zip(pieces, {what}) if {condition}]"


# name: (words, code, kinds of grid that suit it). {c}: a colour that is looked for.
OBJECT_KINDS = "shapes objects mixed boxes"
CHOICES = {
    "all": ("take all of them", "chosen = pieces", OBJECT_KINDS + " frames specks pairs"),
    "largest": ("take the largest", best("max", "p[0].sum()"), OBJECT_KINDS),
    "smallest": ("take the smallest", best("min", "p[0].sum()"), OBJECT_KINDS),
    "not_largest": ("take all but the largest",
                    "chosen = sorted(pieces, key=lambda p: p[0].sum())[:-1]", OBJECT_KINDS),
    "not_smallest": ("take all but the smallest",
                     "chosen = sorted(pieces, key=lambda p: p[0].sum())[1:]", OBJECT_KINDS),
    "big": ("take those larger than the mean",
            those("m.sum() > np.mean([k.sum() for k, _ in pieces])"), OBJECT_KINDS),
    "little": ("take those smaller than the mean",
               those("m.sum() < np.mean([k.sum() for k, _ in pieces])"), OBJECT_KINDS),
    "single": ("take those of a single cell", those("m.sum() == 1"), "specks shapes noise"),
    "several": ("take those of more than one cell", those("m.sum() > 1"), "shapes specks noise"),
    "colour": ("take those with a colour", those("(grid[m] == {c}).any()"), OBJECT_KINDS),
    "not_colour": ("take those without a colour", those("not (grid[m] == {c}).any()"),
                   OBJECT_KINDS),
    "top": ("take the topmost", best("min", "p[1][0].start"), OBJECT_KINDS),
    "bottom": ("take the lowest", best("max", "p[1][0].stop"), OBJECT_KINDS),
    "left": ("take the leftmost", best("min", "p[1][1].start"), OBJECT_KINDS),
    "right": ("take the rightmost", best("max", "p[1][1].stop"), OBJECT_KINDS),
    "edge": ("take those on the edge", those(ON_EDGE), "shapes objects noise"),
    "off_edge": ("take those off the edge", those(f"not ({ON_EDGE})"), "shapes objects noise"),
    "hole": ("take those with a hole", HOLES + counted("holes", "k > 0"), "frames shapes"),
    "no_hole": ("take those without a hole", HOLES + counted("holes", "k == 0"), "frames shapes"),
    "most_holes": ("take the one with the most holes",
                   HOLES + "chosen = [pieces[np.argmax(holes)]]", "frames"),
    "mirrored": ("take those that are their own mirror image",
                 those("(grid * m)[box].tolist() == (grid * m)[box][:, ::-1].tolist()"),
                 "shapes mixed"),
    "not_mirrored": ("take those that are not their own mirror image",
                     those("(grid * m)[box].tolist() != (grid * m)[box][:, ::-1].tolist()"),
                     "shapes mixed"),
    "full": ("take those that fill their box", those("m[box].all()"), "shapes objects"),
    "not_full": ("take those that do not fill their box", those("not m[box].all()"),
                 "shapes objects"),
    "lines": ("take the lines", those("min(m[box].shape) == 1 < m.sum()"), "shapes pairs"),
    "tall": ("take those taller than wide", those("len(m[box]) > len(m[box][0])"), OBJECT_KINDS),
    "wide": ("take those wider than tall", those("len(m[box]) < len(m[box][0])"), OBJECT_KINDS),
    "square": ("take those whose box is a square", those("len(m[box]) == len(m[box][0])"),
               OBJECT_KINDS),
    "odd_shape": ("take those whose shape no other has", SHAPES + counted("shapes",
                  "shapes.count(k) == 1"), "copies"),
    "same_shape": ("take those whose shape another has", SHAPES + counted("shapes",
                   "shapes.count(k) > 1"), "copies"),
    "odd_colour": ("take those whose colours no other has", SHADES + counted("shades",
                   "shades.count(k) == 1"), "odd_colour"),
    "same_colour": ("take those whose colours another has", SHADES + counted("shades",
                    "shades.count(k) > 1"), "odd_colour"),
    "most_colours": ("take the one of the most colours",
                     best("max", "len(np.unique(grid[p[0]]))"), "mixed"),
}
# What can be said of an area of black, which has no colour, and of the cells of a colour.
OF_AREAS = ("largest smallest not_largest big little single several edge off_edge full not_full "
            "tall wide square").split()
OF_COLOURS = ("largest smallest not_largest not_smallest top bottom left right edge off_edge "
              "mirrored full not_full single").split()

ALL_OF_THEM = "\nm = np.any([m for m, _ in chosen], axis=0)"


# --------------------------------------------------------------------------------------- the deeds

BOX_OF_ALL = "r, c = np.where(m)\n"
CELLS = "r.min():r.max() + 1, c.min():c.max() + 1"
ITS_COLOUR = "k = np.bincount(grid[m]).argmax()\n"

# side: (which way, where that way ends, one cell on, where that way begins, which piece goes first)
MOVES = {
    "up": ("up", "[0]", "np.roll(g, -1, 0)", "[-1]", "p[1][0].start"),
    "down": ("down", "[-1]", "np.roll(g, 1, 0)", "[0]", "-p[1][0].stop"),
    "left": ("to the left", "[:, 0]", "np.roll(g, -1, 1)", "[:, -1]", "p[1][1].start"),
    "right": ("to the right", "[:, -1]", "np.roll(g, 1, 1)", "[:, 0]", "-p[1][1].stop"),
}


def each(lines: str) -> str:
    return "for m, box in chosen:\n" + "\n".join("    " + line for line in lines.split("\n"))


def moves() -> dict[str, tuple[str, str]]:
    found = {}
    for side, (words, end, on, begin, first) in MOVES.items():
        found[f"shift_{side}"] = (
            f"they move together one cell {words}, if all have room",
            "rest, g = grid * ~m, grid * m\n"
            f"if not g{end}.any():\n"
            f"    g = {on}\n"
            "grid = np.where(g != 0, g, rest)")
        found[f"slide_{side}"] = (
            f"they move {words} until something stops them",
            f"for m, _ in sorted(chosen, key=lambda p: {first}):\n"
            "    rest, g = grid * ~m, grid * m\n"
            f"    while not g{end}.any() and not ({on} * rest).any():\n"
            f"        g = {on}\n"
            "    grid = rest + g")
        found[f"ray_{side}"] = (
            f"they draw lines {words} until something stops them",
            "g = grid * m\n"
            "for _ in range(max(grid.shape)):\n"
            f"    a = {on}\n"
            f"    a{begin} = 0\n"
            "    g = np.where((g == 0) & (grid == 0), a, g)\n"
            "grid = np.where(grid == 0, g, grid)")
    return found


IN_ORDER = "np.bincount(grid[m]).argmax() for m, _ in sorted(chosen, key=lambda p: {key})"


def in_a_row(key: str) -> str:
    return f"grid = np.array([[{IN_ORDER.replace('{key}', key)}]])"


def turned(how: str) -> str:
    return each("g = (grid * m)[box]\n"
                "grid = np.where(m, 0, grid)\n"
                f"grid[box] = np.where(g{how} != 0, g{how}, grid[box])")


INNER = ("p = np.pad(m, 1)\n"
         "inner = m & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]\n")
BEYOND = OUTSIDE.replace("grid == 0", "~m")

# name: (words, code). m: the cells of all chosen pieces. {d}: a colour that is put in.
DEEDS = {
    "keep": ("only they are kept", "grid = grid * m"),
    "remove": ("they are taken away", "grid = grid * ~m"),
    "paint": ("they get a colour", "grid = np.where(m, {d}, grid)"),
    "crop": ("crop to them", f"{BOX_OF_ALL}grid = (grid * m)[{CELLS}]"),
    "crop_all": ("crop to their box", f"{BOX_OF_ALL}grid = grid[{CELLS}]"),
    "inside": ("crop to what is inside their outermost ring",
               f"{BOX_OF_ALL}grid = grid[r.min() + 1:r.max(), c.min() + 1:c.max()]"),
    "fill_box": ("the black cells in their boxes get a colour",
                 each("grid[box] = np.where(grid[box] == 0, {d}, grid[box])")),
    "outline": ("a frame of a colour around the box of each",
                each("r, c = np.where(m)\n"
                     "ring = np.zeros(grid.shape, int)\n"
                     "a, b = max(0, r.min() - 1), max(0, c.min() - 1)\n"
                     "ring[a:r.max() + 2, b:c.max() + 2] = {d}\n"
                     "ring[box] = 0\n"
                     "grid = np.where(grid == 0, ring, grid)")),
    "halo": ("black cells around them get a colour",
             "p = np.pad(m, 1)\n"
             "near = [p[i:i + len(m), j:j + len(m[0])] for i, j in np.ndindex(3, 3)]\n"
             "grid = np.where((grid == 0) & np.any(near, axis=0), {d}, grid)"),
    "rim": ("their outer cells get a colour", f"{INNER}grid = np.where(m & ~inner, {{d}}, grid)"),
    "core": ("their inner cells get a colour", f"{INNER}grid = np.where(inner, {{d}}, grid)"),
    "hollow": ("their inner cells become black", f"{INNER}grid = np.where(inner, 0, grid)"),
    "holes": ("the black cells that they enclose get a colour",
              f"{BEYOND}grid = np.where((grid == 0) & ~seen, {{d}}, grid)"),
    "mirror_lr": ("each is mirrored from left to right", turned("[:, ::-1]")),
    "mirror_ud": ("each is mirrored from top to bottom", turned("[::-1]")),
    "turn": ("each is turned upside down", turned("[::-1, ::-1]")),
    "count": ("a row with a cell of a colour for each of them",
              "grid = np.full((1, len(chosen)), {d})"),
    "row_left": ("a row of their colours from left to right", in_a_row("p[1][1].start")),
    "column_top": ("a column of their colours from top to bottom",
                   in_a_row("p[1][0].start") + ".T"),
    "row_size": ("a row of their colours, the largest first", in_a_row("-p[0].sum()")),
    "column_size": ("a column of their colours, the largest first",
                    in_a_row("-p[0].sum()") + ".T"),
    "all_take": ("everything gets their colour", f"{ITS_COLOUR}grid = np.where(grid != 0, k, 0)"),
    "cell": ("one cell of their colour", f"{ITS_COLOUR}grid = np.array([[k]])"),
    "swap_in": ("the two colours of each change places",
                each("k = np.unique(grid[m])\n"
                     "if len(k) == 2:\n"
                     "    grid = np.where(m, k.sum() - grid, grid)")),
    "commonest_in": ("each gets its commonest colour",
                     each("grid = np.where(m, np.bincount(grid[m]).argmax(), grid)")),
    "rarest_in": ("each gets its rarest colour",
                  each("k, n = np.unique(grid[m], return_counts=True)\n"
                       "grid = np.where(m, k[n.argmin()], grid)")),
    "beside": ("they are put side by side",
               "grid = np.hstack([(grid * m)[box] for m, box in "
               "sorted(chosen, key=lambda p: p[1][1].start)])"),
    "stacked": ("they are put one below the other",
                "grid = np.vstack([(grid * m)[box] for m, box in "
                "sorted(chosen, key=lambda p: p[1][0].start)])"),
    "overlaid": ("they are laid over each other",
                 "grid = np.max([(grid * m)[box] for m, box in chosen], axis=0)"),
    **moves(),
}

# What says something of pieces of several colours alone.
OF_MIXED = ("swap_in", "commonest_in", "rarest_in")
# What can be done with areas of black: they have no colour of their own.
TO_AREAS = ("paint", "crop_all", "count", "rim", "core")


# -------------------------------------------------------------------------------------- together

def object_operations() -> list[Named]:
    """Every operation of one kind of piece, one choice and one deed."""
    found = []
    for pieces, choice, deed in itertools.product(PIECES, CHOICES, DEEDS):
        if pieces == "areas" and not (choice in OF_AREAS and deed in TO_AREAS):
            continue
        if pieces == "colours" and choice not in OF_COLOURS:
            continue
        if (choice, deed) in (("all", "keep"), ("all", "remove")):
            continue
        if pieces != "touching" and (deed in OF_MIXED or choice == "most_colours"):
            continue
        found.append((f"{pieces}.{choice}.{deed}", operation(pieces, choice, deed)))
    return found


def operation(pieces: str, choice: str, deed: str) -> Operation:
    words, code = PIECES[pieces]
    which, how, kinds = CHOICES[choice]
    parts = ((words, code + BOXES), (which, how + ALL_OF_THEM), DEEDS[deed])
    return Operation(parts, kinds)


# How often a kind of piece, a choice or a deed is drawn, where it is not 1.
WEIGHTS = {"touching": 4, "mono": 3, "corners": 2, "areas": 2, "all": 4,
           **dict.fromkeys(moves(), 0.5)}


def random_object_operation(rng: np.random.Generator, names: dict) -> str:
    """The name of one of `names`, as object_operations() names them."""
    while True:
        name = ".".join(one_of(rng, part) for part in (PIECES, CHOICES, DEEDS))
        if name in names:
            return name


def one_of(rng: np.random.Generator, table: dict) -> str:
    weights = np.array([WEIGHTS.get(name, 1) for name in table], float)
    return list(table)[rng.choice(len(table), p=weights / weights.sum())]
