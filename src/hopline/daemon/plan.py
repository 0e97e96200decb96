"""The plan: intent − what the kernel has = ordered steps. Pure.

The order is what keeps every packet right in between: an adjacency is written before an entry points at it, the
generation is bumped after the entries have changed, and an adjacency is retired only after that. Interfaces are
attached when the entries are there. What takes something away comes after all that may fail: packets would miss it.
Steps of the program are switched on before a service or decap is there that needs them, and off when none is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hopline.config import Decap, Interface, Service
from hopline.features.forward import Adjacency, by_table

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Running:
    """Which steps the programs have, and how many elements of rings they need at least."""

    balancing: bool = False
    decapsulating: bool = False
    elements: int = 0


@dataclass(frozen=True, slots=True)
class Tables:
    """The operator's part of the kernel's state, all of it or the part that a change touches."""

    entries: Mapping[str, int] = field(default_factory=dict)  # canonical destination → adjacency id
    adjacencies: Mapping[int, Adjacency] = field(default_factory=dict)
    interfaces: Mapping[str, Interface] = field(default_factory=dict)  # device → settings of what is attached there
    services: Mapping[str, Service] = field(default_factory=dict)  # by name
    decaps: Mapping[str, Decap] = field(default_factory=dict)  # by key
    running: Running | None = None  # None where it does not change

    def beside(self, other: "Tables") -> "Tables":
        """Return both together; they are of different nouns and have nothing in common."""
        return Tables(
            _joined(self.entries, other.entries),
            _joined(self.adjacencies, other.adjacencies),
            _joined(self.interfaces, other.interfaces),
            _joined(self.services, other.services),
            _joined(self.decaps, other.decaps),
            self.running or other.running,
        )


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


@dataclass(frozen=True, slots=True)
class AttachInterface:
    """Attach the pipeline to a device, or give it other settings; `before` are those it has, None where it has none."""

    before: Interface | None
    after: Interface


@dataclass(frozen=True, slots=True)
class DetachInterface:
    """Take the pipeline off a device."""

    before: Interface


@dataclass(frozen=True, slots=True)
class Run:
    """Have every program run with other steps, or over larger rings."""

    before: Running
    after: Running


@dataclass(frozen=True, slots=True)
class PutService:
    """Serve a VIP; `before` is what is served under its name, None where nothing is."""

    before: Service | None
    after: Service


@dataclass(frozen=True, slots=True)
class DropService:
    """Stop serving; the flows end."""

    before: Service


@dataclass(frozen=True, slots=True)
class PutDecaps:
    """Take packets out that come so encapsulated; `before` are those whose key was there."""

    before: tuple[Decap, ...]
    after: tuple[Decap, ...]


@dataclass(frozen=True, slots=True)
class DropDecaps:
    """Stop that."""

    before: tuple[Decap, ...]


OfEntries = WriteAdjacency | PutEntries | DropEntries | Bump | RetireAdjacency
OfBalance = Run | PutService | DropService | PutDecaps | DropDecaps
Step = OfEntries | OfBalance | AttachInterface | DetachInterface


def _joined(one: Mapping[K, V], other: Mapping[K, V]) -> Mapping[K, V]:
    # a million entries are not copied where there is nothing to join them with
    return {**one, **other} if one and other else one or other


def _part(entries: Mapping[str, int], some: Sequence[str]) -> Mapping[str, int]:
    # a million entries are not copied where all of them are meant
    return entries if len(some) == len(entries) else {to: entries[to] for to in some}


def _in_tables(entries: Mapping[str, int]) -> dict[str, Mapping[str, int]]:
    tables = by_table(entries)
    if len(tables) == 1:
        return dict.fromkeys(tables, entries)
    return {table: {to: entries[to] for to in some} for table, some in tables.items()}


def plan(have: Tables, want: Tables, room: Mapping[str, int] | None = None) -> list[Step]:
    """Return the steps that turn `have` into `want`; what is already so is not repeated.

    `room` says how many entries a table could still take: where the new ones would not fit, the old ones go first.
    """
    writes: list[Step] = [
        WriteAdjacency(id, have.adjacencies.get(id), after)
        for id, after in want.adjacencies.items()
        if have.adjacencies.get(id) != after
    ]
    fresh = _part(want.entries, [to for to, id in want.entries.items() if have.entries.get(to) != id])
    drops = _in_tables(_part(have.entries, [to for to in have.entries if to not in want.entries]))
    old = _in_tables(_part(have.entries, [to for to in have.entries if to in fresh]))
    put = [PutEntries(table, after, old.get(table, {})) for table, after in _in_tables(fresh).items()]
    full = {step.table for step in put if room and len(step.after) - len(step.before) > room[step.table]}
    steps = [*writes, *(DropEntries(table, before) for table, before in drops.items() if table in full), *put]
    if put:
        steps.append(Bump())
    on, off = _balance(have, want)
    steps += on
    for name, interface in want.interfaces.items():
        if have.interfaces.get(name) != interface:
            steps.append(AttachInterface(have.interfaces.get(name), interface))
    late = [DropEntries(table, before) for table, before in drops.items() if table not in full]
    if late:
        steps += [*late, Bump()]
    steps += off
    steps += [RetireAdjacency(id, old) for id, old in have.adjacencies.items() if id not in want.adjacencies]
    steps += [DetachInterface(old) for name, old in have.interfaces.items() if name not in want.interfaces]
    return steps


def _balance(have: Tables, want: Tables) -> tuple[list[Step], list[Step]]:
    """Return the steps of services and decaps that put something there, and those that take something away."""
    on: list[Step] = []
    off: list[Step] = []
    now, then = have.running or Running(), want.running or Running()
    both = Running(
        now.balancing or then.balancing, now.decapsulating or then.decapsulating, max(now.elements, then.elements)
    )
    if both != now:
        on.append(Run(now, both))
    for name, service in want.services.items():
        if have.services.get(name) != service:
            on.append(PutService(have.services.get(name), service))
    fresh = [decap for key, decap in want.decaps.items() if have.decaps.get(key) != decap]
    if fresh:
        on.append(PutDecaps(tuple(have.decaps[d.key] for d in fresh if d.key in have.decaps), tuple(fresh)))
    off += [DropService(old) for name, old in have.services.items() if name not in want.services]
    if gone := tuple(old for key, old in have.decaps.items() if key not in want.decaps):
        off.append(DropDecaps(gone))
    if (both.balancing, both.decapsulating) != (then.balancing, then.decapsulating):
        off.append(Run(both, Running(then.balancing, then.decapsulating, both.elements)))
    return on, off


def described(step: Step) -> str:
    """Return what a step does, for the one who reads why it failed."""
    match step:
        case WriteAdjacency(id, _, _):
            return f"write adjacency {id}"
        case PutEntries(table, after, _):
            return f"put {_entries(after)} into {table}"
        case DropEntries(table, before):
            return f"drop {_entries(before)} from {table}"
        case Bump():
            return "make cached answers stale"
        case RetireAdjacency(id, _):
            return f"retire adjacency {id}"
        case AttachInterface(_, after):
            return f"attach {after.name}"
        case DetachInterface(before):
            return f"detach {before.name}"
        case Run(_, after):
            return f"load programs {_steps(after)}"
        case PutService(_, after):
            return f"serve {after.name}"
        case DropService(before):
            return f"stop serving {before.name}"
        case PutDecaps(_, after):
            return f"accept {_pairs(after)}"
        case DropDecaps(before):
            return f"accept {_pairs(before)} no more"


def _steps(running: Running) -> str:
    names = [name for name, on in (("balance", running.balancing), ("decap", running.decapsulating)) if on]
    return f"with {' and '.join(names)}" if names else "without balance and decap"


def _pairs(decaps: tuple[Decap, ...]) -> str:
    return f"decap {decaps[0].key}" if len(decaps) == 1 else f"{len(decaps)} pairs of decap"


def _entries(some: Mapping[str, int]) -> str:
    return f"entry {next(iter(some))}" if len(some) == 1 else f"{len(some)} entries"
