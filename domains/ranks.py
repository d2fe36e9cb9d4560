"""What an update sees of scores that lie on a scale of the task's own: their ranks."""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from runlog.ledger import Evaluation


def ranks(archive, new: Iterable[Evaluation], rows: list, lower_is_better: bool) -> list[float]:
    """The rank of each row among all valid candidates that are known, divided by their number.

    In (0, 1]: 1 is the best candidate so far, and equal scores have the mean of their ranks. An
    invalid row has 0, which is less than the worst valid one. Ranks are the same whatever the unit
    of the scores, and one huge score does not hide the differences between the others.

    archive: migrate.Archive; new: what it does not hold as yet. The valid rows are in one of them.
    rows: migrate.Row, with raw scores.
    """
    fresh = sorted(-e.worth for e in new if e.valid)
    n = len(archive.ranked) + len(fresh)

    def rank(row) -> float:
        if not row.valid:
            return 0.0
        place = row.score if lower_is_better else -row.score        # the best has the lowest
        better, not_worse = (find(archive.ranked, place, key=lambda e: -e.worth)
                             + find(fresh, place) for find in (bisect_left, bisect_right))
        return (2 * n - better - not_worse + 1) / (2 * n)
    return [rank(row) for row in rows]
