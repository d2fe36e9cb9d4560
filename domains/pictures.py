"""Pictures of candidates for the report page: the closeness of a word, a molecule, ARC grids.

Every function returns one <svg> element, and puts no text into it that a model wrote. Lines are
drawn in currentColor, so that the page decides between light and dark.
"""
from __future__ import annotations

import itertools
import math

LARGEST = 300       # heavy atoms of a molecule that is drawn
ARC_COLORS = ("#111111 #1e78d2 #f93c31 #4fcc30 #ffdc00 #9a9a9a #e53aa3 #ff851b #87d8f1 "
              "#921231").split()


def svg(width: float, height: float, *parts: str) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}">{"".join(parts)}</svg>')


def text(x: float, y: float, content: str, size: float = 11, anchor: str = "start") -> str:
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" '
            f'fill="currentColor">{content}</text>')


def closeness(rank: int, n: int) -> str:
    """The place of a word among n words that are ordered by their closeness to the target, on a
    logarithmic scale. rank: 0 is the target itself."""
    def position(rank: int) -> float:
        return 190 * (1 - math.log1p(rank) / math.log1p(n - 1)) + 5
    x = position(rank)
    ticks = [f'<path d="M{position(r):.1f} 8v8" stroke="currentColor" stroke-opacity=".35"/>'
             for r in (0, 10, 100, 1000, n - 1) if r < n]
    caption = "the target itself" if rank == 0 else f"rank {rank:,} of {n - 1:,} words"
    return svg(200, 40,
               '<path d="M5 12H195" stroke="currentColor" stroke-opacity=".35"/>',
               *ticks,
               f'<path d="M5 12H{x:.1f}" stroke="currentColor" stroke-width="3"/>',
               f'<circle cx="{x:.1f}" cy="12" r="5" fill="currentColor"/>',
               text(5, 34, caption))


def molecule(smiles: str) -> str | None:
    """The structural formula of a molecule; None if the SMILES is none, or for a molecule that is
    so large that nobody could see it: to draw one takes minutes."""
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D
    mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumHeavyAtoms() > LARGEST:
        return None
    drawing = rdMolDraw2D.MolDraw2DSVG(240, 170)
    options = drawing.drawOptions()
    options.clearBackground = False
    # colours of nitrogen and sulphur that can be read on light and on dark
    options.updateAtomPalette({7: (0.27, 0.47, 1), 16: (0.72, 0.6, 0)})
    drawing.DrawMolecule(mol)
    drawing.FinishDrawing()
    drawn = drawing.GetDrawingText()
    return drawn[drawn.index("<svg"):].replace("#000000", "currentColor")


def program(train: list[tuple], test: list[tuple], outputs: list) -> str:
    """What a program makes of the pairs (input, truth) of an ARC task: a column for each of them,
    with its input, the program's output, and the truth where it is known."""
    titles = ["train "] * len(train) + ["test "] * len(test)
    columns = []
    for title, (grid, truth), output in zip(titles, [*train, *test], outputs):
        if truth is not None:
            title += "\u2713" if output == truth else "\u2717"
        columns.append((title, [("input", grid), ("program", output), ("truth", truth)]))
    return grids(columns)


def grids(columns: list[tuple[str, list[tuple[str, list | None]]]], side: float = 88) -> str:
    """ARC grids, one column for each (title, [(label, grid or None), ..]). The labels of the first
    column stand at its left. Every grid lies in a square of `side` units."""
    parts, spacing = [], side + 14
    for i, (title, column) in enumerate(columns):
        x = 62 + i * spacing
        parts.append(text(x + side / 2, 11, title, 10, "middle"))
        for j, (label, grid) in enumerate(column):
            y = 18 + j * spacing
            if i == 0:
                parts.append(text(56, y + side / 2 + 4, label, 10, "end"))
            if grid is None:
                parts.append(text(x + side / 2, y + side / 2 + 4, "no output", 10, "middle"))
            else:
                parts.append(placed(grid, x, y, side))
    height = max(len(column) for _, column in columns)
    return svg(62 + len(columns) * spacing, 18 + spacing * height, *parts)


def placed(grid: list[list[int]], x: float, y: float, side: float) -> str:
    """A grid in the middle of the square of `side` units with its upper left corner at (x, y)."""
    height, width = len(grid), len(grid[0])
    scale = side / max(height, width)
    left = x + (side - scale * width) / 2
    top = y + (side - scale * height) / 2
    return (f'<g transform="translate({left:.2f} {top:.2f}) scale({scale:.4f})">'
            f'{cells(grid)}</g>')


def cells(grid: list[list[int]]) -> str:
    """A grid in units of its cells: a path for each colour, made of horizontal runs, and the lines
    between the cells."""
    paths: dict[int, str] = {}
    for r, row in enumerate(grid):
        c = 0
        for color, run in itertools.groupby(row):
            n = len(list(run))
            paths[color % 10] = paths.get(color % 10, "") + f"M{c} {r}h{n}v1h-{n}z"
            c += n
    height, width = len(grid), len(grid[0])
    lines = "".join(f"M{c} 0v{height}" for c in range(width + 1))
    lines += "".join(f"M0 {r}h{width}" for r in range(height + 1))
    filled = "".join(f'<path fill="{ARC_COLORS[color]}" d="{d}"/>' for color, d in paths.items())
    return filled + f'<path d="{lines}" stroke="#777" stroke-width=".04"/>'
