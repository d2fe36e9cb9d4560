"""Plots as SVG text: one pair of axes, and what is drawn on it."""
from __future__ import annotations

import math
import statistics

from reports.markup import STYLE, esc

Points = list[tuple[float, float]]


class Plot:
    """One pair of axes: collects SVG elements in data coordinates."""

    def __init__(self, width: int, height: int, x_range: tuple[float, float],
                 y_range: tuple[float, float], x_label: str = "",
                 margin: tuple[int, int, int, int] = (14, 130, 34, 42)):
        """x_range, y_range: the data's ends. margin: top, right, bottom, left, in pixels."""
        self.width, self.height, self.parts = width, height, []
        self.top, self.right, self.bottom, self.left = margin
        self.x0, self.x1 = x_range
        if self.x1 <= self.x0:
            self.x1 = self.x0 + 1
        self.y0, self.y1 = y_range
        if self.y1 <= self.y0:
            self.y0, self.y1 = self.y0 - 0.5, self.y0 + 0.5
        for y in ticks(self.y0, self.y1, 5 if height > 200 else 3):
            self.add(f'<path class="grid" d="M{self.left} {self.y(y):.1f}H{width - self.right}"/>')
            self.add(self.label(self.left - 8, self.y(y) + 4, f"{y:.6g}", "end", "soft"))
        for x in ticks(self.x0, self.x1, 6 if width > 400 else 4):
            self.add(self.label(self.x(x), height - self.bottom + 16, f"{x:,.6g}", "middle",
                                "soft"))
        if x_label:
            self.add(self.label(width - self.right, height - 3, x_label, "end", "soft"))

    def x(self, value: float) -> float:
        """The pixel column of a value."""
        share = (value - self.x0) / (self.x1 - self.x0)
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """The pixel row of a value."""
        share = (value - self.y0) / (self.y1 - self.y0)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def add(self, part: str) -> None:
        self.parts.append(part)

    @staticmethod
    def label(x, y, words, anchor="start", css="", colour="") -> str:
        style = f' style="fill:var(--{colour})"' if colour else ""
        return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}"{style}>'
                f"{esc(words)}</text>")

    def line(self, points: Points, css="thin", colour="", steps=False, dash="") -> None:
        """A line through points, or a staircase (steps)."""
        (x, y), *rest = [(self.x(x), self.y(y)) for x, y in points]
        move = "H{:.1f}V{:.1f}" if steps else "L{:.1f} {:.1f}"
        path = f"M{x:.1f} {y:.1f}" + "".join(move.format(*point) for point in rest)
        style = ""
        if colour:
            style = f' style="stroke:var(--{colour});stroke-dasharray:{dash or "none"}"'
        self.add(f'<path class="{css}" d="{path}"{style}/>')

    def band(self, lower: Points, upper: Points, colour: str) -> None:
        """The area between two lines."""
        points = [f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in [*lower, *reversed(upper)]]
        self.add(f'<path d="M{"L".join(points)}Z" style="fill:var(--{colour});opacity:.16"/>')

    def end_labels(self, labels: list[tuple[float, str, str]]) -> None:
        """Names of lines at their right ends, [(y, words, colour)], moved apart where they would
        overlap."""
        lowest = -math.inf
        for y, words, colour in sorted(labels, key=lambda item: -item[0]):
            row = max(self.y(y) + 4, lowest)
            lowest = row + 15
            self.add(self.label(self.width - self.right + 8, row, words, colour=colour))

    def svg(self, title: str) -> str:
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img">'
                f'<title>{esc(title)}</title>{"".join(self.parts)}</svg>')


def ticks(low: float, high: float, n: int) -> list[float]:
    """About n round numbers in [low, high]."""
    size = 10 ** math.floor(math.log10((high - low) / n))
    step = next(size * k for k in (1, 2, 5, 10) if (high - low) / (size * k) <= n)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def up_to(best: float) -> float:
    """Where an axis of scores ends: at 1, unless nothing comes near."""
    return 1 if best > 0.45 else max(2 * best, 0.05)


def running_mean(points: Points, window: int) -> Points:
    """The mean of every `window` neighbouring points, at most 200 of them."""
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    every = max(1, len(points) // 200)
    return [(points[i - 1][0], (sums[i] - sums[i - window]) / window)
            for i in range(window, len(points) + 1, every)]


def thinned(points: Points, n: int = 160) -> Points:
    """At most n points, each the mean of its share."""
    size = math.ceil(len(points) / n) or 1
    parts = [points[i:i + size] for i in range(0, len(points), size)]
    return [(statistics.fmean(x for x, _ in part), statistics.fmean(y for _, y in part))
            for part in parts]


def standalone(svg: str) -> str:
    """An SVG file of its own: with the style, on its own ground."""
    head, tail = svg.split(">", 1)
    ground = '<rect width="100%" height="100%" style="fill:var(--paper)"/>'
    return f"{head}><style>{STYLE}</style>{ground}{tail}\n"
