"""The charts of the pages, as Vega-Lite specifications.

A specification names its rows and does not hold them. On a page the script gives it the page's
rows, and it can be zoomed. `picture` draws the same specification as SVG, for readers without
scripts and for files of their own. The specifications are plain dictionaries: Altair would write
the same ones, but a page would take half a second longer.
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import re
from pathlib import Path

from reports.colours import COLOURS, IN_GROUPS, METHODS, ORIGINS, OTHER, dark_pictures, light
from reports.metrics import SECONDS
from runlog.folder import write_atomically
from runlog.slow import Later

vl_convert = Later("vl_convert")

DOTS = 700              # of a picture, about; on a page all candidates are there
DASHES = ((1, 0), (8, 4), (2, 3), (12, 4, 2, 4))        # they show a line that lies on another one
FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'
AXIS = {"gridColor": light("line"), "domain": False, "ticks": False, "labelColor": light("soft"),
        "titleColor": light("soft"), "titleFontWeight": 400, "labelFontSize": 11,
        "titleFontSize": 11, "labelPadding": 6}
CONFIG = {"aria": False, "font": FONT, "axis": AXIS, "view": {"stroke": None},
          "legend": {"labelColor": light("soft"), "labelFontSize": 12, "symbolOpacity": 1,
                     "symbolSize": 70, "labelLimit": 320},
          "autosize": {"type": "fit-x", "contains": "padding"}}
UNSEEN = {"type": "circle", "opacity": 0.001}       # points of a line, for its tooltips
LICENCE = ("// Vega, Vega-Lite and vega-embed, copyright University of Washington Interactive Data "
           "Lab\n// and contributors, BSD-3-Clause: https://github.com/vega\n")
IN_ORDER = [{"field": "n"}]


# ------------------------------------------------------------------------------------ the search

def search_chart(rows: list[dict], lowest_is_best: bool = False) -> dict:
    """Score against evaluations: every candidate by its origin, the running mean of each origin,
    the best so far. The warm start lies left of 1. rows: those of `candidates` (pages.py)."""
    known = [origin for origin in ORIGINS if any(row["origin"] == origin for row in rows)]
    others = [OTHER] if any(row["origin"] not in ORIGINS for row in rows) else []
    colour = {"field": "colour", "title": None, "scale": colours_of(known + others),
              "legend": {"orient": "top", "labelExpr": name_of_origin("datum.value")}}
    place = {"x": number("n", "evaluations", scale={"nice": False, "padding": 6},
                         axis=whole_numbers()),
             "y": number("score", "score", scale=score_scale([row["score"] for row in rows]))}
    coloured = place | {"color": colour}
    layers = [*border(rows), dots(coloured), *means(coloured, len(rows)),
              *best_so_far(coloured, lowest_is_best)]
    if any(row["label"] for row in rows):
        layers += names_of_records(place, lowest_is_best)
    return chart("candidates", 360, layer=layers, transform=[calculate(
        "colour", f"indexof({list(ORIGINS)}, datum.origin) < 0 ? '{OTHER}' : datum.origin")])


def dots(encoding: dict) -> dict:
    """A dot for every candidate, with all that is known of it in the tooltip."""
    tooltip = [{"field": "words", "title": "candidate"}, {"field": "shown", "title": "score"},
               {"field": "name", "title": "origin"}, number("n", "evaluation", format=",d"),
               number("proposal", "proposal", format=",d"), number("step", "step", format=",d")]
    return {"mark": {"type": "circle", "size": 34, "clip": True},
            "params": [*zoom(), alone("colour")],
            "transform": [
                {"filter": "datum.n % every == 0"},
                calculate("words", "truncate(datum.summary || datum.candidate, 90)"),
                calculate("name", name_of_origin("datum.origin")),
                calculate("shown", "datum.valid ? format(datum.score, '.4f') : 'invalid'")],
            "encoding": encoding | {"tooltip": tooltip, "opacity": unless_alone(0.5)}}


def means(encoding: dict, n: int) -> list[dict]:
    """The running mean of every origin, from the point on where its window is full."""
    window = max(10, n // 20)
    transform = [{"filter": "datum.n > 0"},
                 {"window": [{"op": "mean", "field": "score", "as": "mean"},
                             {"op": "count", "as": "seen"}],
                  "frame": [1 - window, 0], "groupby": ["colour"], "sort": IN_ORDER},
                 {"filter": f"datum.seen >= {window}"}]
    line = {"type": "line", "clip": True, "strokeWidth": 2}
    halo = line | {"strokeWidth": 5, "stroke": light("paper")}
    encoding = encoding | {"y": encoding["y"] | {"field": "mean"}}
    behind = {"x": encoding["x"], "y": encoding["y"], "detail": {"field": "colour"}}
    return [{"mark": halo, "transform": transform, "encoding": behind},
            {"mark": line, "transform": transform, "encoding": encoding}]


def best_so_far(encoding: dict, lowest_is_best: bool) -> list[dict]:
    """The staircase of the best score so far, and a circle for each record."""
    stairs = {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "clip": True,
              "stroke": light("ink")}
    circle = {"type": "circle", "size": 70, "opacity": 1, "stroke": light("paper"),
              "strokeWidth": 1.5, "clip": True}
    best = {"x": encoding["x"], "y": encoding["y"] | {"field": "best"}}
    return [{"mark": stairs, "transform": records(lowest_is_best)[:-1], "encoding": best},
            {"mark": circle, "transform": records(lowest_is_best), "encoding": encoding}]


def records(lowest_is_best: bool) -> list[dict]:
    """The transforms that add the best score so far as `best` and keep the rows that raise it."""
    best, better = ("min", "<") if lowest_is_best else ("max", ">")
    return [calculate("usable", "datum.valid ? datum.score : null"),
            {"window": [{"op": best, "field": "usable", "as": "best"}], "frame": [None, 0],
             "sort": IN_ORDER},
            {"window": [{"op": "lag", "field": "best", "as": "before"}], "sort": IN_ORDER},
            {"filter": "isValid(datum.best)"},
            {"filter": "isValid(datum.usable) && (!isValid(datum.before) || "
                       f"datum.usable {better} datum.before)"}]


def names_of_records(place: dict, lowest_is_best: bool) -> list[dict]:
    """The names of those records that have a `label`, on a ground that hides the lines behind."""
    text = {"type": "text", "align": "right", "dx": -7, "dy": -9, "fontSize": 12, "font": FONT,
            "opacity": {"expr": "width > 480 ? 1 : 0"}}     # on a phone they would overlap
    ground = text | {"stroke": light("paper"), "strokeWidth": 4, "fill": light("paper")}
    what = {"transform": [*records(lowest_is_best), {"filter": "datum.label"}],
            "encoding": place | {"text": {"field": "label"}}}
    return [{"mark": ground, **what}, {"mark": text | {"fill": light("ink")}, **what}]


def border(rows: list[dict]) -> list[dict]:
    """A line between the warm start and the search."""
    if not any(row["n"] < 1 for row in rows):
        return []
    return [{"mark": {"type": "rule", "stroke": light("soft"), "strokeDash": [3, 3]},
             "data": {"values": [{}]}, "encoding": {"x": {"datum": 0.5}}}]


# ----------------------------------------------------------------------------- groups and metrics

def group_chart() -> dict:
    """What each step drew and replayed, by origin; the paler part is repeats and invalid ones."""
    return chart("group", 150, mark="bar", encoding={
        "x": number("from", "steps", bin="binned", axis=whole_numbers()), "x2": {"field": "to"},
        "y": number("n", "candidates"), "order": number("order"),
        "color": {"field": "origin", "title": None,
                  "scale": colours_of((*IN_GROUPS, OTHER)),
                  "legend": {"orient": "top", "values": list(IN_GROUPS),
                             "labelExpr": name_of_origin("datum.value")}},
        "opacity": {"field": "kind", "type": "ordinal", "legend": None, "scale": {
            "domain": ["new", "repeats, invalid"], "range": [0.9, 0.32]}},
        "tooltip": [number("first", "step", format=",d"), {"field": "origin"}, {"field": "kind"},
                    number("n", "candidates", format=".3~g")]})


def metric_chart() -> dict:
    """One quantity over the steps, a line for each origin or for each part of a step."""
    scale = colours_of((*ORIGINS, *SECONDS))
    scale = {"domain": [*scale["domain"], "all"], "range": [*scale["range"], light("ink")]}
    encoding = {"x": number("step", axis=whole_numbers(tickCount=4), scale={"nice": False}),
                "y": number("value", axis={"tickCount": 3, "format": "~g"}),
                "color": {"field": "series", "scale": scale, "legend": None}}
    tooltip = [{"field": "series"}, number("step", "step", format=",.0f"),
               number("value", "value", format=".4~g")]
    return chart("metric", 110, encoding=encoding, layer=[
        {"mark": {"type": "line", "strokeWidth": 1.5}},
        {"mark": UNSEEN | {"size": 120}, "encoding": {"tooltip": tooltip}}])


# --------------------------------------------------------------------------------- several runs

def comparison_chart(methods: list[str], used: list[str], what: str, title: str,
                     scale: dict) -> dict:
    """One line a method, the mean over its seeds; the band reaches from the least seed to the
    greatest.

    methods: all of the page, so that each has one colour. used: those of this chart. what, title:
    of the axes. scale: of y.
    """
    chosen, places = {"domain": used}, [methods.index(method) for method in used]
    colour = {"field": "method", "title": None, "scale": chosen | {
        "range": [METHODS[i % len(METHODS)][0] for i in places]},
        "legend": {"orient": "bottom", "direction": "vertical", "columns": 1,
                   "symbolType": "stroke", "symbolStrokeWidth": 3}}
    dash = {"field": "method", "title": None, "scale": chosen | {
        "range": [DASHES[i % len(DASHES)] for i in places]}}
    encoding = {"x": number("x", what, scale={"nice": False}, axis=whole_numbers()),
                "color": colour, "y": number("mean", title, scale=scale)}
    tooltip = [{"field": "method"}, number("x", what, format=",.0f"),
               *(number(name, name, format=".3f") for name in ("mean", "low", "high")),
               number("seeds", "seeds")]
    band = {"y": number("low", title, scale=scale), "y2": {"field": "high"},
            "opacity": unless_alone(0.16)}
    return chart("curves", 300, encoding=encoding, layer=[
        {"mark": {"type": "area", "clip": True}, "encoding": band},
        {"mark": {"type": "line", "strokeWidth": 2, "clip": True},
         "encoding": {"opacity": unless_alone(1), "strokeDash": dash}},
        {"mark": UNSEEN | {"size": 60, "clip": True},
         "params": [*zoom(), alone("method")], "encoding": {"tooltip": tooltip}}])


# ---------------------------------------------------------------------------------- what they share

def chart(rows: str, height: int, **parts) -> dict:
    """A specification of the rows that have this name, in the style of the pages and as wide as its
    place. `every`: a picture shows every so many dots."""
    return {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "data": {"name": rows},
            "width": "container", "height": height, "background": "transparent", "padding": 4,
            "params": [{"name": "every", "value": 1}], "config": CONFIG, **parts}


def number(field: str, title: str | None = None, **more) -> dict:
    """The encoding of a field that holds numbers. title: of its axis, or in a tooltip."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def calculate(name: str, expression: str) -> dict:
    return {"calculate": expression, "as": name}


def whole_numbers(**more) -> dict:
    """An axis of counts."""
    return {"tickMinStep": 1, "format": ",d", "grid": False, **more}


def zoom() -> list[dict]:
    """Drag to move, wheel with Ctrl to zoom (the wheel alone scrolls the page), double click."""
    return [{"name": "zoom", "bind": "scales", "select": {
        "type": "interval", "zoom": "wheel![event.ctrlKey || event.metaKey]"}}]


def alone(field: str) -> dict:
    """A click on the legend shows one value of the field alone."""
    return {"name": "alone", "bind": "legend", "select": {"type": "point", "fields": [field]}}


def unless_alone(opacity: float) -> dict:
    return {"condition": {"param": "alone", "value": opacity}, "value": 0.04}


def score_scale(values: list[float]) -> dict:
    """The axis of all scores: from 0 to 1, unless nothing comes near 1, or it is another scale."""
    low, high = min(values, default=0), max(values, default=0)
    if low < 0 or high > 1:
        return {"zero": False, "padding": 8}
    top = 1 if high > 0.45 else max(2 * high, 0.05)
    return {"domain": [0, 1.06 * top], "nice": False}      # room for a dot and its name at the top


def colours_of(names) -> dict:
    return {"domain": list(names), "range": [light(name) for name in names]}


def name_of_origin(value: str) -> str:
    """A Vega expression: what an origin is called. value: the expression of the origin."""
    return f"{json.dumps(ORIGINS)}[{value}] || {value}"


# ------------------------------------------------------------------------------------- pictures

def picture(spec: dict, width: int = 920, **rows: list[dict]) -> str:
    """A specification with its rows as an <svg> element, in the light colours."""
    every = {"name": "every", "value": math.ceil(len(rows.get("candidates", ())) / DOTS) or 1}
    drawn = vl_convert.vegalite_to_svg(
        spec | {"width": width, "datasets": rows, "params": [every]})
    # Vega numbers its ids on and on. Here they begin with 0, so that a picture is the same whenever
    # it is drawn, and have a prefix of its own, so that two pictures on a page do not mix.
    order = {name: i for i, name in enumerate(re.findall(r'\bid="([^"]+)"', drawn))}
    drawn = re.sub(r'(\bid="|url\(#)([^")]+)', lambda m: f"{m[1]}id-{order.get(m[2], '')}", drawn)
    prefix = hashlib.sha256(drawn.encode()).hexdigest()[:6]
    drawn = re.sub(r'(\bid="|url\(#)id-', rf"\g<1>p{prefix}-", drawn)
    drawn = re.sub(r' (?:d|transform)="[^"]*"', shorter, drawn)
    return drawn.replace("<svg ", '<svg role="img" ', 1)


def shorter(attribute: re.Match) -> str:
    """A path or a place, to a tenth of a pixel."""
    return re.sub(r"-?\d+\.\d+(e-\d+)?", lambda number: f"{float(number[0]):.1f}", attribute[0])


def standalone(svg: str) -> str:
    """A picture as a file of its own: with a ground, light or dark as the browser is."""
    head, tail = svg.split(">", 1)
    ground = f'<rect width="100%" height="100%" fill="{COLOURS["paper"][0]}"/>'
    return f"{head}><style>{dark_pictures()}</style>{ground}{tail}\n"


def library() -> str:
    """The JavaScript that draws specifications: Vega, Vega-Lite and vega-embed, from vl-convert.

    Putting it together takes seconds, so it is kept in the user's cache.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "migrate"
    file = cache / f"vega-embed-{vl_convert.__version__}.js"
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        pass
    text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    text = LICENCE + text.replace("</script", r"<\/script")     # it stands inside of a page
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text)
    except OSError:                 # a home that cannot be written to
        pass
    return text
