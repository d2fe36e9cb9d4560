"""HTML and SVG text for pages that stand alone.

No script, no network, and a policy in the page that forbids both. What a model wrote may be
hostile, so all text is escaped as well.
"""
from __future__ import annotations

import html
from collections.abc import Iterable

from reports.tables import Table

# Okabe and Ito's palette, which is told apart with any colour vision; lighter on dark ground.
STYLE = """
:root, svg { --ink: #1d2024; --soft: #5d6570; --line: #d9dde2; --paper: #ffffff; --tile: #f6f7f9;
  --warm-start: #8b929b; --on-policy: #0072b2; --neighbor: #d55e00; --greedy: #009e73;
  --m0: #d55e00; --m1: #0072b2; --m2: #009e73; --m3: #cc79a7; --m4: #56b4e9; --m5: #b8860b;
  --m6: #6b4fa0; --m7: #5d6570; }
@media (prefers-color-scheme: dark) {
  :root, svg { --ink: #e9ebee; --soft: #a0a8b2; --line: #363c44; --paper: #15181c; --tile: #1d2126;
    --warm-start: #838b95; --on-policy: #56b4e9; --neighbor: #f58a3c; --greedy: #2fc79a;
    --m0: #f58a3c; --m1: #56b4e9; --m2: #2fc79a; --m3: #e29bc4; --m4: #9ad4f5; --m5: #e6c229;
    --m6: #a993e0; --m7: #a0a8b2; } }
svg { color: var(--ink); font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg text { fill: var(--ink); } svg text.soft { fill: var(--soft); } .grid { stroke: var(--line); }
.best, .mean { stroke-width: 2; fill: none; stroke-linejoin: round; } .best { stroke: var(--ink); }
.thin { stroke-width: 1.5; fill: none; stroke-linejoin: round; }
.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
"""
PAGE_STYLE = """
body { margin: 0 auto; max-width: 1000px; padding: 40px 24px 80px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 27px; font-weight: 650; margin: 0; letter-spacing: -.01em; }
h2, summary { font-size: 18px; font-weight: 600; margin: 46px 0 4px; } summary { cursor: pointer; }
.prompt summary { font-size: 15px; margin-top: 20px; }
p { margin: 4px 0 12px; max-width: 75ch; } .soft, figcaption { color: var(--soft); }
figure { margin: 0; } svg { max-width: 100%; height: auto; display: block; }
code, pre { font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { margin: 6px 0; white-space: pre-wrap; max-height: 21em; overflow-y: auto; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 36px; margin: 22px 0 6px; }
.facts span { color: var(--soft); font-size: 13px; }
.facts b { display: block; font-size: 24px; font-weight: 600; color: var(--ink);
  font-variant-numeric: tabular-nums; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr));
  gap: 26px 24px; margin-top: 14px; }
figcaption { font-size: 12.5px; line-height: 1.4; } figcaption b { color: var(--ink); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(225px, 1fr)); gap: 12px;
  margin-top: 14px; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); }
.card { background: var(--tile); border-radius: 8px; padding: 11px 14px; min-width: 0;
  border-top: 3px solid var(--c); }
.card b { font-size: 17px; font-variant-numeric: tabular-nums; }
.card .soft { font-size: 12.5px; display: block; }
.ancestry .card:not(:first-child) b::before { content: "\\2192\\00a0"; color: var(--soft); }
table { border-collapse: collapse; font-size: 13.5px; margin: 12px 0; display: block;
  overflow-x: auto; }
td, th { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; font-weight: 400; }
th { color: var(--soft); }
"""


def esc(value) -> str:
    """Text for HTML or SVG. What cannot be printed (control characters, surrogates, direction
    marks) becomes a dot."""
    text = "".join(c if c.isprintable() or c == "\n" else "\u00b7" for c in str(value))
    return html.escape(text)


def short(value, n: int = 60) -> str:
    """A value in one line of at most n characters."""
    line = " ".join(str(value).split())
    return line if len(line) <= n else line[:n - 1] + "\u2026"


def soft(words: str) -> str:
    """A paragraph in the quieter colour."""
    return f'<p class="soft">{esc(words)}</p>'


def pairs(items: Iterable[tuple]) -> str:
    """A table of two columns: names and values."""
    lines = (f"<tr><th>{esc(name)}</th><td>{esc(value)}</td></tr>" for name, value in items)
    return f"<table>{''.join(lines)}</table>"


def table(data: Table) -> str:
    """A table with its title above it and its notes below it."""
    lines = [table_line(data.header, "th"), *(table_line(cells, "td") for cells in data.rows)]
    title = soft(data.title) if data.title else ""
    return f"{title}<table>{''.join(lines)}</table>{''.join(map(soft, data.notes))}"


def table_line(cells: list[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{esc(cell)}</{tag}>' for cell in cells)}</tr>"


def document(title: str, body: str) -> str:
    """A whole page. No script can run and nothing can be loaded from it, whatever it contains."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>{esc(title)}</title><style>{STYLE}{PAGE_STYLE}</style></head>
<body>{body}</body></html>
"""
