"""What an update sees of scores that lie on a scale of the task's own: their ranks."""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from runlog.ledger import Evaluation


def ranks(known: Iterable[Evaluation], rows: list, lower_is_better: bool) -> list[float]:
    """The rank of each row among all valid candidates that are known, divided by their number.

    In (0, 1]: 1 is the best candidate so far, and equal scores have the mean of their ranks. An
    invalid row has 0, which is less than the worst valid one. Ranks are the same whatever the unit
    of the scores, and one huge score does not hide the differences between the others.

    known: evaluations, those of the valid rows included. rows: migrate.Row, with raw scores.
    """
    worths = sorted(e.worth for e in known if e.valid)

    def rank(row) -> float:
        if not row.valid:
            return 0.0
        worth = -row.score if lower_is_better else row.score
        return (bisect_left(worths, worth) + bisect_right(worths, worth) + 1) / (2 * len(worths))
    return [rank(row) for row in rows]
