"""HTML text for pages that stand alone.

Nothing is loaded from the network. The policy in a page lets only our two scripts run, by their
hashes, and no `eval`. What a run's files hold may be hostile, so all text is escaped as well.
"""
from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from pathlib import Path

from reports.colours import DARK, ORIGINS, dark_pictures, variables
from reports.tables import Table
from runlog.errors import printable

HERE = Path(__file__).resolve().parent


def esc(value) -> str:
    """Printable text for HTML."""
    return html.escape(printable(value))


def json_text(value) -> str:
    """JSON for a <script> element: no text in it can end the element. Raises ValueError for a
    number that is not finite."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for c in "<>&":             # U+2028 and U+2029 are escaped as all that is not ASCII
        text = text.replace(c, f"\\u{ord(c):04x}")
    return text


def columns(rows: list[dict]) -> dict[str, list]:
    """Rows as {name: values}, which is a shorter JSON."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def short(value, n: int = 60) -> str:
    """A value in one line of at most n characters."""
    line = " ".join(str(value).split())
    return line if len(line) <= n else line[:n - 1] + "\u2026"


def soft(words: str) -> str:
    """A paragraph in the quieter colour."""
    return f'<p class="soft">{esc(words)}</p>'


def pairs(items: Iterable[tuple]) -> str:
    """A table of two columns: names and values."""
    lines = (f"<tr><th>{esc(name)}</th><td>{esc(short(value, 400))}</td></tr>"
             for name, value in items)
    return f'<table class="pairs">{"".join(lines)}</table>'


def table(data: Table, file: str = "table.csv") -> str:
    """A table with its title above it and its notes below it. The script of the page makes it
    sortable. file: the name under which it is saved."""
    head = f"<thead>{table_line(data.header, 'th')}</thead>"
    body = f"<tbody>{''.join(table_line(cells, 'td') for cells in data.rows)}</tbody>"
    title = soft(data.title) if data.title else ""
    return (f'{title}<div class="grid" data-file="{esc(file)}"><div class="scroll"><table>'
            f"{head}{body}</table></div></div>{''.join(map(soft, data.notes))}")


def table_line(cells: list[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{esc(cell)}</{tag}>' for cell in cells)}</tr>"


def figure(chart: str, rows: str, still: str = "", caption: str = "") -> str:
    """The place of a chart. chart, rows: names in `charts` and `rows` of the page's data; what
    stands before a colon in `rows` is what the chart calls them. still: its picture, for readers
    without scripts; without one the figure is hidden from them. caption: HTML."""
    picture = f'<div class="still">{still}</div>' if still else ""
    hidden = "" if still else ' class="scripted" hidden'
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (f'<figure data-chart="{esc(chart)}" data-rows="{esc(rows)}"{hidden}>{picture}'
            f'<div class="live" hidden></div>{caption}</figure>')


def document(title: str, body: str, charts: dict, rows: dict, library: str) -> str:
    """A whole page.

    charts: {name: specification}. rows: {name: {column: values}}, which are JSON values. library:
    the JavaScript that draws (charts.py).
    """
    script = (HERE / "page.js").read_text(encoding="utf-8")
    style = variables() + dark_pictures() + (HERE / "page.css").read_text(encoding="utf-8")
    allowed = " ".join(f"'sha256-{hash_of(text)}'" for text in (library, script))
    policy = (f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
              "base-uri 'none'; form-action 'none'")
    data = json_text({"charts": charts, "rows": rows, "dark": DARK, "origins": ORIGINS})
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{esc(title)}</title><style>{style}</style></head>
<body>{body}
<script type="application/json" id="data">{data}</script>
<script>{library}</script><script>{script}</script></body></html>
"""


def hash_of(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
