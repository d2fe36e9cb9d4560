"""What a candidate looks like, as SVG: a word's way to the target, a molecule, the grids of a program. For report pages.

Every function returns one <svg> element and puts nothing into it that a model wrote. Lines are drawn in currentColor: the
page decides between light and dark.
"""
from __future__ import annotations

import itertools
import math

ARC_COLORS = "#111111 #1e78d2 #f93c31 #4fcc30 #ffdc00 #9a9a9a #e53aa3 #ff851b #87d8f1 #921231".split()


def svg(width: float, height: float, *parts: str) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}">{"".join(parts)}</svg>')


def text(x: float, y: float, words: str, size: float = 11, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="currentColor">{words}</text>'


def closeness(rank: int, n: int) -> str:
    """A word's place among n words ordered by closeness to the target (0: the target itself), on a logarithmic scale."""
    at = 190 * (1 - math.log1p(rank) / math.log1p(n - 1)) + 5
    ticks = [5 + 190 * (1 - math.log1p(r) / math.log1p(n - 1)) for r in (0, 10, 100, 1000, n - 1) if r < n]
    words = "the target itself" if rank == 0 else f"rank {rank:,} of {n - 1:,} words"
    return svg(200, 40, '<path d="M5 12H195" stroke="currentColor" stroke-opacity=".35"/>',
               *(f'<path d="M{x:.1f} 8v8" stroke="currentColor" stroke-opacity=".35"/>' for x in ticks),
               f'<path d="M5 12H{at:.1f}" stroke="currentColor" stroke-width="3"/>',
               f'<circle cx="{at:.1f}" cy="12" r="5" fill="currentColor"/>', text(5, 34, words))


def molecule(smiles: str) -> str | None:
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        return None
    drawing = rdMolDraw2D.MolDraw2DSVG(240, 170)
    drawing.drawOptions().clearBackground = False
    drawing.drawOptions().updateAtomPalette({7: (0.27, 0.47, 1), 16: (0.72, 0.6, 0)})     # readable on light and dark
    drawing.DrawMolecule(mol)
    drawing.FinishDrawing()
    drawn = drawing.GetDrawingText()
    return drawn[drawn.index("<svg"):].replace("#000000", "currentColor")


def grids(columns: list[tuple[str, list[tuple[str, list | None]]]], side: float = 88) -> str:
    """ARC grids: one column each of (title, [(label, grid or None), ..]), every grid within a square of `side`."""
    parts, step = [], side + 14
    for i, (title, column) in enumerate(columns):
        x = 62 + i * step
        parts.append(text(x + side / 2, 11, title, 10, "middle"))
        for j, (label, grid) in enumerate(column):
            y = 18 + j * step
            if i == 0:
                parts.append(text(56, y + side / 2 + 4, label, 10, "end"))
            if grid is None:
                parts.append(text(x + side / 2, y + side / 2 + 4, "no output", 10, "middle"))
                continue
            scale = side / max(len(grid), len(grid[0]))
            left, top = x + (side - scale * len(grid[0])) / 2, y + (side - scale * len(grid)) / 2
            parts.append(f'<g transform="translate({left:.2f} {top:.2f}) scale({scale:.4f})">{cells(grid)}</g>')
    return svg(62 + len(columns) * step, 18 + step * max(len(column) for _, column in columns), *parts)


def cells(grid: list[list[int]]) -> str:
    """A grid in units of its cells: one path for each colour, made of horizontal runs, and the lines between the cells."""
    runs: dict[int, str] = {}
    for r, row in enumerate(grid):
        c = 0
        for color, run in itertools.groupby(row):
            n = len(list(run))
            runs[color % 10] = runs.get(color % 10, "") + f"M{c} {r}h{n}v1h-{n}z"
            c += n
    height, width = len(grid), len(grid[0])
    lines = "".join(f"M{c} 0v{height}" for c in range(width + 1)) + "".join(f"M0 {r}h{width}" for r in range(height + 1))
    return ("".join(f'<path fill="{ARC_COLORS[color]}" d="{d}"/>' for color, d in runs.items())
            + f'<path d="{lines}" stroke="#777" stroke-width=".04"/>')
