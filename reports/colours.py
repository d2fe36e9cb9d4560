"""The colours of charts and pages. Each means one thing, and has a light and a dark variant.

Charts are written in the light ones. A page maps them to the dark ones where the browser is dark,
and so does the style sheet of a picture.
"""
from __future__ import annotations

from runlog.ledger import GREEDY, NEIGHBOR, ON_POLICY, OPERATOR, WARM_START

ORIGINS = {WARM_START: "warm start", ON_POLICY: "on-policy", NEIGHBOR: "neighbours",
           OPERATOR: "operator", GREEDY: "greedy replays"}
IN_GROUPS = (NEIGHBOR, OPERATOR, ON_POLICY, GREEDY)     # from the bottom of a bar to its top
OTHER = "other"         # an origin that a fork of the search made up

# Okabe and Ito's colours, which are told apart with any colour vision, for the origins.
COLOURS = {
    "ink": ("#1d2024", "#e9ebee"), "soft": ("#5d6570", "#a0a8b2"), "line": ("#d9dde2", "#363c44"),
    "paper": ("#ffffff", "#15181c"), "tile": ("#f6f7f9", "#1d2126"),
    WARM_START: ("#8b929b", "#838b95"), ON_POLICY: ("#0072b2", "#56b4e9"),
    NEIGHBOR: ("#d55e00", "#f58a3c"), GREEDY: ("#009e73", "#2fc79a"),
    OPERATOR: ("#cc79a7", "#e39dc2"), OTHER: ("#6f7782", "#a7afb9"),
    "sampling": ("#8e5bb5", "#bd93e3"), "scoring": ("#b07d00", "#e3b341"),
    "training": ("#c0507f", "#f08bb4"),
}
METHODS = (("#3b6fb6", "#7fb0f0"), ("#c8502d", "#f28a66"), ("#2e8b57", "#58c48a"),
           ("#8e5bb5", "#bd93e3"), ("#b07d00", "#e3b341"), ("#00849b", "#4fc3d9"),
           ("#c0507f", "#f08bb4"), ("#6f7782", "#a7afb9"))
DARK = dict([*COLOURS.values(), *METHODS])      # {light: dark}


def light(name: str) -> str:
    return COLOURS[name][0]


def variables() -> str:
    """CSS: every colour as a variable, for both schemes."""
    lights, darks = (" ".join(f"--{name}: {pair[i]};" for name, pair in COLOURS.items())
                     for i in (0, 1))
    return (f":root {{ {lights} }}\n"
            f"@media (prefers-color-scheme: dark) {{ :root {{ {darks} }} }}\n")


def dark_pictures() -> str:
    """CSS: the dark variants in an SVG that is written in the light ones."""
    rules = "".join(f'svg [{what}="{bright}"] {{ {what}: {dark} }} '
                    for bright, dark in DARK.items() for what in ("fill", "stroke"))
    return f"@media (prefers-color-scheme: dark) {{ {rules}}}\n"
