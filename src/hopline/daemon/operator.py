"""The operator's entries: intent on one side, the kernel's tables on the other, kept the same."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hopline.config import NextHop
from hopline.daemon.compare import Matched, found_together
from hopline.daemon.datapath import TABLES, Datapath
from hopline.daemon.execute import execute
from hopline.daemon.fingerprint import Expected
from hopline.daemon.hops import Draft, Hops
from hopline.daemon.plan import DropEntries, PutEntries, Step, Tables, plan
from hopline.errors import Refused
from hopline.features.forward import Adjacency, Facts, covering, recovered_next_hop, resolve, table_of, word_mac
from hopline.intent import Delta

log = logging.getLogger("hopline")

T = TypeVar("T")

RETIREMENT_S = 1.0  # far more than a program runs for


class OperatorTables:
    """Destination → next hop, next hop ↔ adjacency id, and adjacencies' contents; all changes go through the plan."""

    def __init__(self, datapath: Datapath, facts: Facts) -> None:
        self.datapath = datapath
        self.facts = facts
        self.entries: dict[str, NextHop] = {}
        self.hops = Hops(datapath.ids.ADJACENCY_ID_FIRST, datapath.learned_base)
        self.expected = Expected()
        self._counts: Counter[str] = Counter()  # entries of each table
        self._retired: list[tuple[float, int]] = []
        # Changes run in one worker thread, events are followed in the event loop. Only the worker changes entries and
        # next hops, so it reads them as they are; it takes the lock to commit, and others take it to read or refresh.
        self._lock = threading.RLock()

    # start

    def recover(self, names: Mapping[int, str]) -> dict[str, NextHop]:
        """Rebuild the intent from the kernel's entries, for when the store is lost; `names` by interface index."""
        found: dict[str, NextHop] = {}
        for to, id in self.datapath.read_entries().items():
            adjacency = self.datapath.read_adjacency(id)
            hop = recovered_next_hop(adjacency, names) if adjacency else None
            if hop is not None:
                found[to] = hop
        return found

    def reconcile(self, wanted: Mapping[str, NextHop]) -> list[Step]:
        """Make the kernel's tables say what the intent says; return the steps it took, none where they agreed.

        A dict is kept as it is and belongs to the tables from now on: it may be large.
        """
        shared = {id(hop): hop for hop in wanted.values()}  # few, where a million entries share them
        hops, place = list(shared.values()), {number: place for place, number in enumerate(shared)}
        tables = self.datapath.match(wanted)
        places = [
            np.fromiter(map(place.__getitem__, map(id, _values(wanted, match.destinations))), np.int64)
            for match in tables
        ]
        resolved = [resolve(hop, self.facts) for hop in hops]
        held = self._held("READY", "UNRESOLVED", "NO_DEVICE")
        have = {known: a for known in held if (a := self.datapath.read_adjacency(known))}
        pairs = found_together(tables, places)
        # first where the adjacency is that next hop's: a change that was cut short left entries with that of another
        for which, known in sorted(pairs, key=lambda pair: not _alike(resolved[pair[0]], have.get(pair[1]))):
            self.hops.adopt(hops[which], known)
        retiring = self._held("RETIRING")
        in_kernel = {known for match in tables for known in np.unique(match.ids).tolist()}
        self.hops.settle(in_kernel | held | retiring)
        draft = Draft(self.hops)
        entries = np.bincount(np.concatenate(places), minlength=len(hops)).tolist()
        ids = [draft.use(hop, count) for hop, count in zip(hops, entries, strict=True)]
        contents = dict(zip(ids, resolved, strict=True))
        steps = self._agree(tables, [np.array(ids, np.int64)[each] for each in places], have, contents)
        draft.commit()
        self.expected.forget()
        self._counts = Counter({match.table: len(match.destinations) for match in tables})
        self.entries = wanted if isinstance(wanted, dict) else dict(wanted)
        self.hops.contents = contents
        self._retire([*(have.keys() - contents.keys()), *retiring])
        return steps

    def _agree(
        self,
        tables: Sequence[Matched],
        ids: Sequence[NDArray[np.int64]],
        have: Mapping[int, Adjacency],
        want: Mapping[int, Adjacency],
    ) -> list[Step]:
        """Carry out what differs of tables, whose wanted entries are to have `ids`, and of adjacencies."""
        before: dict[str, int] = {}
        after: dict[str, int] = {}
        for match, wanted in zip(tables, ids, strict=True):
            found, right = match.differing(wanted)
            before |= found
            after |= right
        room = {match.table: self.datapath.maps[match.table].max_entries - len(match.keys) for match in tables}
        steps = plan(Tables(before, have), Tables(after, want), room)
        execute(steps, self.datapath)
        return steps

    def _held(self, *states: str) -> set[int]:
        wanted = [int(self.datapath.states[f"ADJACENCY_{state}"]) for state in states]
        first, end = self.datapath.ids.ADJACENCY_ID_FIRST, self.datapath.learned_base
        states_now = self.datapath.adjacencies["state"][first:end]
        return {first + i for i, state in enumerate(states_now.tolist()) if state in wanted}

    # drift

    def repair_entries(self) -> int:
        """Make the kernel's entries the operator's again; return how many were not. Called where changes are made."""
        wanted, found = self.expected.of(lambda: self.ids(self.entries)), self.datapath.fingerprints()
        strange = {table for table in TABLES if wanted.get(table, 0) != found[table]}
        if not strange:
            return 0
        tables = self.datapath.match((to for to in self.entries if table_of(to) in strange), strange)
        id_of = self._id_of(self.entries)
        ids = [
            np.fromiter(map(id_of.__getitem__, map(id, _values(self.entries, match.destinations))), np.int64)
            for match in tables
        ]
        steps = self._agree(tables, ids, {}, {})
        return sum(len(step.before) if isinstance(step, DropEntries) else len(step.after)
                   for step in steps if isinstance(step, DropEntries | PutEntries))  # fmt: skip

    def repair_adjacencies(self) -> int:
        """Make the adjacencies of the operator's next hops what they should be; return how many were not."""
        with self._lock:
            wrong = {
                id: wanted for id, wanted in self.hops.contents.items() if self.datapath.read_adjacency(id) != wanted
            }
            self.datapath.write_adjacencies(wrong)
        return len(wrong)

    # changes

    def draft(self, delta: Delta, reach: Mapping[str, str]) -> "ForwardDraft":
        """Return what a change of entries asks of the kernel; nothing is changed before its `commit`.

        `reach` says which device a new `via` without one is reached by. Refused where there are not enough next hops;
        those that a change before this one left are waited for.
        """
        try:
            return ForwardDraft(self, delta, reach)
        except Refused:
            if not self._retired:
                raise
            time.sleep(RETIREMENT_S)
            self.free_retired()
            return ForwardDraft(self, delta, reach)

    def room(self) -> dict[str, int]:
        """Return how many entries each table could still take."""
        return {table: self.datapath.maps[table].max_entries - self._counts[table] for table in TABLES}

    def _id_of(self, entries: Mapping[str, NextHop]) -> dict[int, int]:
        """Return the adjacency ids of entries' next hops, by the id() of those, which are few."""
        return {place: self.hops.ids[hop] for place, hop in {id(hop): hop for hop in entries.values()}.items()}

    def ids(self, entries: Mapping[str, NextHop]) -> dict[str, int]:
        """Return the adjacency id of each of some entries."""
        id_of = self._id_of(entries)
        return dict(zip(entries, map(id_of.__getitem__, map(id, entries.values())), strict=True))

    def commit(self, draft: Draft, delta: Delta, have: Tables, want: Tables, steps: Iterable[Step]) -> None:
        """The kernel holds what was drafted, and it is durable: it is the truth from now on."""
        for step in steps:
            if isinstance(step, PutEntries):
                self._counts[step.table] += len(step.after) - len(step.before)
            elif isinstance(step, DropEntries):
                self._counts[step.table] -= len(step.before)
        with self._lock:
            draft.commit()
            self.hops.contents.update(want.adjacencies)
            for to in delta.before:
                if to not in delta.after:
                    del self.entries[to]
            self.entries.update(delta.after)
            self.expected.commit(have.entries, want.entries)
            self._retire(have.adjacencies)
        # the host may have changed while the new next hops were nobody's yet
        self.refresh(draft.new)

    def abandon(self, draft: Draft, gone: Iterable[int]) -> None:
        """Nothing came of it. Its ids are retired like any in use: a step that was undone may have shown them.

        Those that would have gone stay, with what was found out about them meanwhile.
        """
        self._retire(draft.new.values())
        with self._lock:
            stale = {id: now for id in gone if (now := self.hops.contents[id]) != self.datapath.read_adjacency(id)}
            self.datapath.write_adjacencies(stale)

    def wanted(self) -> Mapping[str, NextHop]:
        """Return a view of the entries: destination → next hop. Good for as long as changes wait."""
        return self.entries

    def refresh(self, hops: Iterable[NextHop] | None = None) -> bool:
        """Resolve next hops anew (all, unless told which) and write what changed; return whether anything did."""
        changed: dict[int, Adjacency] = {}
        with self._lock:
            for hop in self.hops.ids if hops is None else hops:
                id = self.hops.ids.get(hop)
                now = resolve(hop, self.facts)
                if id is not None and now != self.hops.contents.get(id):
                    changed[id] = now
            self.datapath.write_adjacencies(changed)
            self.hops.contents.update(changed)
        return bool(changed)

    def uses(self) -> list[tuple[int, NextHop, int]]:
        """Return (adjacency id, next hop, number of entries) of every next hop in use, as of one moment."""
        with self._lock:
            return [(id, hop, self.hops.entries[id]) for id, hop in self.hops.hops.items()]

    def entry(self, to: str) -> tuple[str, NextHop, Adjacency] | None:
        """Return one entry as `snapshot` has it, None where there is none to this destination."""
        with self._lock:
            hop = self.entries.get(to)
            return None if hop is None else (to, hop, self.hops.contents[self.hops.ids[hop]])

    def snapshot(self, limit: int | None = None) -> list[tuple[str, NextHop, Adjacency]]:
        """Return (destination, next hop, what its adjacency holds) of entries, `limit` at most, as of one moment."""
        with self._lock:
            entries = self.entries if limit is None else dict(islice(self.entries.items(), limit))
            contents = {place: self.hops.contents[known] for place, known in self._id_of(entries).items()}
            return [(to, hop, contents[id(hop)]) for to, hop in entries.items()]

    def following(self, addresses: set[str]) -> list[NextHop]:
        """Return the next hops whose MAC is followed through one of these neighbours."""
        return [hop for hop in self.next_hops() if hop.via in addresses]

    def next_hops(self) -> list[NextHop]:
        """Return the next hops that entries use."""
        with self._lock:
            return list(self.hops.ids)

    def entry_for(self, address: str) -> str | None:
        """Return the destination that decides for an address, None where no operator entry covers it."""
        with self._lock:
            return covering(address, self.entries)

    # retirement

    def _retire(self, ids: Iterable[int]) -> None:
        now = time.monotonic()
        self._retired += [(now, id) for id in ids]

    def free_retired(self) -> None:
        """Give ids back whose grace period is over; called every so often."""
        now = time.monotonic()
        done = [id for since, id in self._retired if now - since >= RETIREMENT_S]
        self._retired = [(since, id) for since, id in self._retired if now - since < RETIREMENT_S]
        self.datapath.free_adjacencies(done)
        self.hops.give_back(done)


class ForwardDraft:
    """A change of the operator's entries: what the kernel has of what it touches, and what it should have."""

    def __init__(self, tables: OperatorTables, delta: Delta, reach: Mapping[str, str]) -> None:
        self._tables = tables
        self._delta = delta
        self._draft = Draft(tables.hops)
        self._gone: list[int] = []
        try:
            before = tables.ids(delta.before)
            for known, entries in Counter(before.values()).items():
                self._draft.leave(known, entries)
            after = self._drafted(delta.after)
        except BaseException:
            self.abandon()
            raise
        self._gone = self._draft.gone()
        contents = tables.hops.contents
        self.have = Tables(before, {id: contents[id] for id in self._gone})
        self._reach = reach
        facts = replace(tables.facts, reach={**tables.facts.reach, **reach})
        fresh = {id: resolve(hop, facts) for hop, id in self._draft.new.items()}
        self.want = Tables(after, fresh)

    def _drafted(self, entries: Mapping[str, NextHop]) -> dict[str, int]:
        """Return the ids that entries are to have; their next hops are few."""
        hops = {id(hop): hop for hop in entries.values()}
        id_of = {
            place: self._draft.use(hops[place], count) for place, count in Counter(map(id, entries.values())).items()
        }
        return dict(zip(entries, map(id_of.__getitem__, map(id, entries.values())), strict=True))

    def commit(self, steps: Iterable[Step]) -> None:
        """It is in the kernel, by these steps, and durable."""
        # before anything is resolved anew, which would find that nothing reaches the new ones
        facts = self._tables.facts
        facts.reach = {**facts.reach, **self._reach}
        self._tables.commit(self._draft, self._delta, self.have, self.want, steps)

    def abandon(self) -> None:
        """It was undone, or never begun."""
        self._tables.abandon(self._draft, self._gone)


def _alike(wanted: Adjacency, found: Adjacency | None) -> bool:
    """Whether an adjacency is to the same neighbour by the same device, whatever else has become of it."""
    if found is None or (wanted.family, wanted.next_hop, wanted.ifindex) != (
        found.family,
        found.next_hop,
        found.ifindex,
    ):
        return False
    return bool(wanted.family) or word_mac(wanted.destination) == word_mac(found.destination)


def _values(entries: Mapping[str, T], destinations: Sequence[str]) -> Iterable[T]:
    """Return the values of some of the entries, in the order of both."""
    return entries.values() if len(entries) == len(destinations) else map(entries.__getitem__, destinations)
