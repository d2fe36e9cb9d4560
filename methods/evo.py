"""The method `migrate-evo`: parents from four islands with an archive of elites (paper, appendix).

Step t evolves island t mod 4, and what it finds belongs to that island. With every 40th step each
island sends its best 5% to both of its neighbours on a ring.
"""
from __future__ import annotations

import random
from dataclasses import replace

from migrate import METHODS as PLAIN
from migrate import Archive
from runlog.ledger import Evaluation, found_since

ISLANDS, ELITE, MIGRATE_EVERY, MIGRANTS = 4, 5, 40, 0.05


class Islands:
    """The members of each island at the start of a step.

    They are worked out from the archive alone, so a resumed run has no further state to load: from
    its beginning at the first call, from the last step at the next ones. Warm-start candidates are
    dealt out to the islands in turn. Migration comes before what its step finds is added.
    """

    def __init__(self):
        self.members, self.step = [Archive() for _ in range(ISLANDS)], 0

    def at(self, archive: Archive, step: int) -> list[Archive]:
        found = found_since(archive, self.step)
        for t in range(self.step, step):
            if t > 0 and t % MIGRATE_EVERY == 0:
                migrate_between(self.members)
            for e in found[t]:
                home = e.index if t == 0 else t
                self.members[home % ISLANDS].add([e])
        self.step = step
        return self.members


def migrate_between(members: list[Archive]) -> None:
    """Each island sends its best 5%, at least one, to both neighbours on the ring, in place."""
    sent = [island.best(max(1, int(MIGRANTS * len(island)))) for island in members]
    for i, migrants in enumerate(sent):
        for neighbor in (members[(i - 1) % ISLANDS], members[(i + 1) % ISLANDS]):
            neighbor.add(e for e in migrants if e.candidate not in neighbor)


def island_parent(archive: Archive, step: int, top_k: int, rng: random.Random) -> list[Evaluation]:
    """With p = 0.2 one of the island's top 3 outside the elite archive (the 5 best of all). With
    p = 0.8 one of its members of the elite archive or, where it has none, of its top 3. An empty
    island takes from the elite archive."""
    islands = vars(archive).setdefault("islands", Islands())
    island = islands.at(archive, step)[step % ISLANDS]
    elite = archive.best(ELITE)
    outside = [e for e in island.best(3 + ELITE) if e not in elite][:3]
    inside = [e for e in elite if e.candidate in island]
    pool = outside if rng.random() < 0.2 else inside
    pool = pool or island.best(3) or elite
    return [rng.choice(pool)] if pool else []


METHODS = {"migrate-evo": replace(PLAIN["migrate"], parents=island_parent)}
