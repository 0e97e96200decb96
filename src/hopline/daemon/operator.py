"""The operator's entries: intent on one side, the kernel's tables on the other, kept the same."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from hopline.config import Forward, NextHop
from hopline.daemon.datapath import Datapath
from hopline.daemon.execute import execute, revert
from hopline.daemon.hops import Draft, Hops
from hopline.daemon.plan import Step, Tables, plan
from hopline.errors import NotFound, Refused
from hopline.features.forward import Adjacency, Facts, covering, recovered_next_hop, resolve

log = logging.getLogger("hopline")

RETIREMENT_S = 1.0  # far more than a program runs for


class OperatorTables:
    """Destination → adjacency id, next hop ↔ id, and the adjacencies' contents; all changes go through the plan."""

    def __init__(self, datapath: Datapath, facts: Facts) -> None:
        self.datapath = datapath
        self.facts = facts
        self.entries: dict[str, int] = {}
        self.hops = Hops(datapath.ids.ADJACENCY_ID_FIRST, datapath.learned_base)
        self._retired: list[tuple[float, int]] = []
        # Changes run in one worker thread, events are followed in the event loop. Only the worker changes entries and
        # next hops, so it reads them as they are; it takes the lock to commit, and others take it to read or refresh.
        self._lock = threading.RLock()

    # start

    def recover(self, names: Mapping[int, str]) -> list[Forward]:
        """Rebuild the intent from the kernel's entries, for when the store is lost; `names` by interface index."""
        found: list[Forward] = []
        for to, id in self.datapath.read_entries().items():
            adjacency = self.datapath.read_adjacency(id)
            hop = recovered_next_hop(adjacency, names) if adjacency else None
            if hop is not None:
                found.append(hop.entry(to))
        return found

    def reconcile(self, forwards: Iterable[Forward]) -> list[Step]:
        """Make the kernel's tables say what the intent says; return the steps it took, none where they agreed."""
        wanted = {forward.to: NextHop.of(forward) for forward in forwards}
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
        steps = plan(have, Tables(entries, contents))
        execute(steps, self.datapath)
        draft.commit()
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

    # changes

    def put(self, forwards: Sequence[Forward], replace: bool, make_durable: Callable[[], None]) -> None:
        """Enter all or nothing: kernel, then store; where the store fails the kernel is put back."""
        if not replace:
            for forward in forwards:
                if forward.to in self.entries:
                    raise Refused(f"forward {forward.to} exists: use replace")
        draft = Draft(self.hops)
        try:
            after: dict[str, int] = {}
            for forward in forwards:
                if (old := self.entries.get(forward.to)) is not None:
                    draft.leave(old)
                after[forward.to] = draft.use(NextHop.of(forward))
            before = {to: self.entries[to] for to in after if to in self.entries}
            self._change(draft, before, after, make_durable)
        except BaseException:
            # like any id in use: a step that was undone may have shown it to packets
            self._retire(draft.new.values())
            raise

    def remove(self, destinations: Sequence[str], make_durable: Callable[[], None]) -> None:
        """Remove all or nothing."""
        for to in destinations:
            if to not in self.entries:
                raise NotFound(f"forward {to}: no such entry: `hopline forward show` lists them")
        draft = Draft(self.hops)
        before = {to: self.entries[to] for to in destinations}
        for id in before.values():
            draft.leave(id)
        self._change(draft, before, {}, make_durable)

    def _change(
        self, draft: Draft, before: Mapping[str, int], after: Mapping[str, int], make_durable: Callable[[], None]
    ) -> None:
        gone = draft.gone()
        have = Tables(before, {id: self.hops.contents[id] for id in gone})
        fresh = {id: resolve(hop, self.facts) for hop, id in draft.new.items()}
        steps = plan(have, Tables(after, fresh))
        execute(steps, self.datapath)
        try:
            make_durable()
        except BaseException:
            revert(steps, self.datapath)
            raise
        with self._lock:
            draft.commit()
            self.hops.contents.update(fresh)
            for to in before:
                if to not in after:
                    del self.entries[to]
            self.entries.update(after)
            self._retire(gone)
        # the host may have changed while the new next hops were nobody's yet
        self.refresh(draft.new)

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
