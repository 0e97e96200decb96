"""The plan: intent − what the kernel has = ordered steps. Pure.

The order is what keeps every packet right in between: an adjacency is written before an entry points at it, the
generation is bumped after the entries have changed, and an adjacency is retired only after that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hopline.features.forward import Adjacency, table_of


@dataclass(frozen=True, slots=True)
class Tables:
    """The operator's part of the datapath, all of it or the part that a change touches."""

    entries: Mapping[str, int] = field(default_factory=dict)  # canonical destination → adjacency id
    adjacencies: Mapping[int, Adjacency] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WriteAdjacency:
    """Write one adjacency; `before` is what it holds, None where the id was free."""

    id: int
    before: Adjacency | None
    after: Adjacency


@dataclass(frozen=True, slots=True)
class PutEntries:
    """Point destinations of one table at adjacencies; `before` has the ids of those that existed."""

    table: str
    after: Mapping[str, int]
    before: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DropEntries:
    """Remove destinations of one table; `before` has their ids."""

    table: str
    before: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Bump:
    """Make every cached answer stale."""


@dataclass(frozen=True, slots=True)
class RetireAdjacency:
    """Take an id back; it is free for another next hop after a grace period."""

    id: int
    before: Adjacency


Step = WriteAdjacency | PutEntries | DropEntries | Bump | RetireAdjacency


def plan(have: Tables, want: Tables) -> list[Step]:
    """Return the steps that turn `have` into `want`; what is already so is not repeated."""
    writes: list[Step] = [
        WriteAdjacency(id, have.adjacencies.get(id), after)
        for id, after in want.adjacencies.items()
        if have.adjacencies.get(id) != after
    ]
    puts: dict[str, dict[str, int]] = {}
    for to, id in want.entries.items():
        if have.entries.get(to) != id:
            puts.setdefault(table_of(to), {})[to] = id
    drops: dict[str, dict[str, int]] = {}
    for to, id in have.entries.items():
        if to not in want.entries:
            drops.setdefault(table_of(to), {})[to] = id
    steps = writes
    for table, after in puts.items():
        steps.append(PutEntries(table, after, {to: have.entries[to] for to in after if to in have.entries}))
    steps += [DropEntries(table, before) for table, before in drops.items()]
    if puts or drops:
        steps.append(Bump())
    steps += [RetireAdjacency(id, old) for id, old in have.adjacencies.items() if id not in want.adjacencies]
    return steps
