"""The operator's entries: intent on one side, the kernel's tables on the other, kept the same."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from hopline.config import NextHop
from hopline.daemon.datapath import TABLES, Datapath
from hopline.daemon.execute import execute
from hopline.daemon.fingerprint import Expected
from hopline.daemon.hops import Draft, Hops
from hopline.daemon.plan import DropEntries, PutEntries, Step, Tables, plan
from hopline.errors import Refused
from hopline.features.forward import Adjacency, Facts, covering, recovered_next_hop, resolve, table_of
from hopline.intent import Delta

log = logging.getLogger("hopline")

RETIREMENT_S = 1.0  # far more than a program runs for


class OperatorTables:
    """Destination → adjacency id, next hop ↔ id, and the adjacencies' contents; all changes go through the plan."""

    def __init__(self, datapath: Datapath, facts: Facts) -> None:
        self.datapath = datapath
        self.facts = facts
        self.entries: dict[str, int] = {}
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
        """Make the kernel's tables say what the intent says; return the steps it took, none where they agreed."""
        kernel = self.datapath.read_entries()
        for to, hop in wanted.items():
            if to in kernel:
                self.hops.adopt(hop, kernel[to])
        retiring = self._held("RETIRING")
        self.hops.settle({*kernel.values(), *self._held("READY", "UNRESOLVED", "NO_DEVICE"), *retiring})
        draft = Draft(self.hops)
        entries = {to: draft.use(hop) for to, hop in wanted.items()}
        contents = {id: resolve(hop, self.facts) for hop, id in {**self.hops.ids, **draft.new}.items()}
        held = self._held("READY", "UNRESOLVED", "NO_DEVICE")
        have = Tables(kernel, {id: a for id in held if (a := self.datapath.read_adjacency(id))})
        steps = plan(have, Tables(entries, contents), self._room_beside(kernel, TABLES))
        execute(steps, self.datapath)
        draft.commit()
        self.expected.forget()
        self._counts = Counter(map(table_of, entries))
        self.entries = entries
        self.hops.contents = contents
        gone = set(have.adjacencies) - set(contents)
        self._retire([*gone, *retiring])
        return steps

    def _held(self, *states: str) -> set[int]:
        wanted = [int(self.datapath.states[f"ADJACENCY_{state}"]) for state in states]
        first, end = self.datapath.ids.ADJACENCY_ID_FIRST, self.datapath.learned_base
        states_now = self.datapath.adjacencies["state"][first:end]
        return {first + i for i, state in enumerate(states_now.tolist()) if state in wanted}

    # drift

    def repair_entries(self) -> int:
        """Make the kernel's entries the operator's again; return how many were not. Called where changes are made."""
        wanted, found = self.expected.of(self.entries), self.datapath.fingerprints()
        strange = {table for table in TABLES if wanted.get(table, 0) != found[table]}
        if not strange:
            return 0
        have = Tables(self.datapath.read_entries(strange))
        want = Tables({to: id for to, id in self.entries.items() if table_of(to) in strange})
        steps = plan(have, want, self._room_beside(have.entries, strange))
        execute(steps, self.datapath)
        return sum(len(step.before) if isinstance(step, DropEntries) else len(step.after)
                   for step in steps if isinstance(step, DropEntries | PutEntries))  # fmt: skip

    def _room_beside(self, entries: Iterable[str], tables: Iterable[str]) -> dict[str, int]:
        """Return how many entries tables could take besides those that the kernel was found to have."""
        found = Counter(map(table_of, entries))
        return {table: self.datapath.maps[table].max_entries - found[table] for table in tables}

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

    def commit(
        self, draft: Draft, before: Mapping[str, int], want: Tables, gone: Iterable[int], steps: Iterable[Step]
    ) -> None:
        """The kernel holds what was drafted, and it is durable: it is the truth from now on."""
        for step in steps:
            if isinstance(step, PutEntries):
                self._counts[step.table] += len(step.after) - len(step.before)
            elif isinstance(step, DropEntries):
                self._counts[step.table] -= len(step.before)
        with self._lock:
            draft.commit()
            self.hops.contents.update(want.adjacencies)
            for to in before:
                if to not in want.entries:
                    del self.entries[to]
            self.entries.update(want.entries)
            self.expected.commit(before, want.entries)
            self._retire(gone)
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
        return _Entries(self.entries, self.hops.hops)

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
            id = self.entries.get(to)
            return None if id is None else (to, self.hops.hops[id], self.hops.contents[id])

    def snapshot(self) -> list[tuple[str, NextHop, Adjacency]]:
        """Return (destination, next hop, what its adjacency holds) of every entry, as of one moment."""
        with self._lock:
            hops, contents = self.hops.hops, self.hops.contents
            return [(to, hops[id], contents[id]) for to, id in self.entries.items()]

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
        self._draft = Draft(tables.hops)
        self._gone: list[int] = []
        try:
            self._before = {to: tables.entries[to] for to in delta.before}
            for id in self._before.values():
                self._draft.leave(id)
            entries = {to: self._draft.use(hop) for to, hop in delta.after.items()}
        except BaseException:
            self.abandon()
            raise
        self._gone = self._draft.gone()
        contents = tables.hops.contents
        self.have = Tables(self._before, {id: contents[id] for id in self._gone})
        self._reach = reach
        facts = replace(tables.facts, reach={**tables.facts.reach, **reach})
        fresh = {id: resolve(hop, facts) for hop, id in self._draft.new.items()}
        self.want = Tables(entries, fresh)

    def commit(self, steps: Iterable[Step]) -> None:
        """It is in the kernel, by these steps, and durable."""
        # before anything is resolved anew, which would find that nothing reaches the new ones
        facts = self._tables.facts
        facts.reach = {**facts.reach, **self._reach}
        self._tables.commit(self._draft, self._before, self.want, self._gone, steps)

    def abandon(self) -> None:
        """It was undone, or never begun."""
        self._tables.abandon(self._draft, self._gone)


class _Entries(Mapping[str, NextHop]):
    """The entries with their next hops, without a copy of a million."""

    def __init__(self, entries: Mapping[str, int], hops: Mapping[int, NextHop]) -> None:
        self._entries = entries
        self._hops = hops

    def __getitem__(self, to: str) -> NextHop:
        return self._hops[self._entries[to]]

    def __contains__(self, to: object) -> bool:
        return to in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
