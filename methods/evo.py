"""The method `migrate-evo`: parents from four islands with an archive of elites (paper, appendix).

Step t evolves island t mod 4, and what it finds belongs to that island. With every 40th step each
island sends its best 5% to both of its neighbours on a ring.
"""
from __future__ import annotations

import random
from dataclasses import replace

from migrate import METHODS as PLAIN
from migrate import Archive
from runlog.ledger import Evaluation, best_first

ISLANDS, ELITE, MIGRATE_EVERY, MIGRANTS = 4, 5, 40, 0.05


def islands(archive: Archive, step: int) -> list[list[Evaluation]]:
    """The members of each island at the start of a step.

    They are worked out from the archive alone, so a resumed run has no further state to load.
    Warm-start candidates are dealt out to the islands in turn. Migration comes before what its step
    finds is added.
    """
    members: list[dict[str, Evaluation]] = [{} for _ in range(ISLANDS)]
    evaluations = sorted(archive.values(), key=lambda e: (e.step, e.index))
    position = 0
    for t in range(step):
        if t > 0 and t % MIGRATE_EVERY == 0:
            migrate_between(members)
        while position < len(evaluations) and evaluations[position].step == t:
            e = evaluations[position]
            home = e.index if t == 0 else t
            members[home % ISLANDS][e.candidate] = e
            position += 1
    return [list(island.values()) for island in members]


def migrate_between(members: list[dict[str, Evaluation]]) -> None:
    """Each island sends its best 5%, at least one, to both neighbours on the ring, in place."""
    sent = [best_first(island.values(), max(1, int(MIGRANTS * len(island)))) for island in members]
    for i, migrants in enumerate(sent):
        for neighbor in (i - 1, i + 1):
            members[neighbor % ISLANDS].update((e.candidate, e) for e in migrants)


def island_parent(archive: Archive, step: int, top_k: int, rng: random.Random) -> list[Evaluation]:
    """With p = 0.2 one of the island's top 3 outside the elite archive (the 5 best of all). With
    p = 0.8 one of its members of the elite archive or, where it has none, of its top 3. An empty
    island takes from the elite archive."""
    island = islands(archive, step)[step % ISLANDS]
    elite = archive.best(ELITE)
    outside = best_first([e for e in island if e not in elite], 3)
    inside = [e for e in elite if e in island]
    pool = outside if rng.random() < 0.2 else inside
    pool = pool or best_first(island, 3) or elite
    return [rng.choice(pool)] if pool else []


METHODS = {"migrate-evo": replace(PLAIN["migrate"], parents=island_parent)}
