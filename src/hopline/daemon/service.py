"""The service: owner of the intent and of the kernel's state; what the API calls."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from hopline import __version__
from hopline.config import Forward, Interface, Mode, NextHop, Origin
from hopline.daemon.asker import NOBODY
from hopline.daemon.attachments import Attachments
from hopline.daemon.changes import Changes
from hopline.daemon.datapath import Datapath
from hopline.daemon.explain import Explainer
from hopline.daemon.interfaces import Interfaces
from hopline.daemon.learned import LearnedTable
from hopline.daemon.meters import Meters
from hopline.daemon.operator import OperatorTables
from hopline.daemon.options import ServeOptions
from hopline.daemon.possible import placed, plainly
from hopline.daemon.protocol import (
    Applied,
    CacheState,
    Confirmed,
    EntryCount,
    ForwardAnswer,
    ForwardRow,
    HistoryRow,
    InterfaceAdded,
    InterfaceState,
    NextHopRow,
    PendingState,
    Status,
)
from hopline.daemon.readout import Readout, applied
from hopline.daemon.repair import Repair
from hopline.daemon.surroundings import Surroundings
from hopline.daemon.upkeep import Upkeep
from hopline.errors import HoplineError, NotFound, Refused
from hopline.explain import Batch, Explanation, Question, Tallied
from hopline.features.forward import Facts
from hopline.intent import Change, Delta, Wanted, difference, one_entry
from hopline.kernel import netns
from hopline.kernel.link import remove_pins
from hopline.kernel.netlink.types import Link
from hopline.store.embedded import Store

log = logging.getLogger("hopline")


class Service:
    """One instance. Changes come one at a time, each durable and in the kernel before it returns, or undone."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.began = time.monotonic()
        # first: what another version left in the kernel is refused before its store is brought up to date
        self.datapath = Datapath.open(options.instance, options.cache_size)
        try:
            self.store = Store.open(options.state)
        except BaseException:
            self.datapath.close()
            raise
        self.meters = Meters()
        self.attachments = Attachments(self.datapath, options.trace)
        self.tables = OperatorTables(self.datapath, Facts())
        self.learned = LearnedTable(self.datapath)
        self.surroundings = Surroundings(self.datapath, self.attachments, self.tables)
        self.kept_interfaces = Interfaces(self.attachments, self.surroundings)
        self.readout = Readout(self.attachments, self.tables, self.learned, self.surroundings)
        self.explainer = Explainer(self.attachments, self.tables, self.surroundings, self.kept_interfaces)
        self.changes = Changes(
            self.store, self.datapath, self.tables, self.kept_interfaces, self.surroundings, self.meters
        )
        self.repair = Repair(
            self.changes, self.datapath, self.tables, self.surroundings, self.meters, options.check_every
        )
        self.upkeep = Upkeep(
            self.changes, self.datapath, self.tables, self.learned, self.kept_interfaces, self.surroundings, self.meters
        )
        self.notes: list[str] = []
        self.detached = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # start and stop

    async def start(self) -> None:
        """Adopt what is in the kernel, make it agree with the intent, then vouch for what is learned."""
        self._take_back_what_is_overdue()
        intent = self.store.read()
        forwards = intent.of("forward")
        self.surroundings.wanted = dict(intent.of("interface"))
        devices = {hop.dev for hop in set(forwards.values()) if hop.dev}
        self.surroundings.preferred = {*self.surroundings.wanted, *devices}
        await self.surroundings.open()
        self.surroundings.link_returned = self._link_returned
        self.surroundings.suspect_drift = self.repair.suspect
        if self.store.recovered_from is not None:
            self.notes.append(f"the store was damaged and is kept as {self.store.recovered_from}: {self.store.damage}")
        elif self.store.damage is not None:
            self.notes.append(f"the history was damaged: {self.store.damage}")
        if self.datapath.adopted and self.store.fresh:
            forwards = self._recover()
        self.surroundings.gather_reach(set(forwards.values()))
        steps = self.tables.reconcile(forwards)
        log.info("instance %s: %d entries, %d steps to agree", self.options.instance, len(forwards), len(steps))
        self.store.settle()
        self.kept_interfaces.attach_all()
        await self.surroundings.read_policy()
        self.datapath.bump_generation()
        self.datapath.extend_lease()
        self.surroundings.resolve(self.tables.next_hops())
        self.changes.await_confirmation()
        self._tasks = [
            asyncio.create_task(loop)
            for loop in (
                self.surroundings.run(),
                self.surroundings.follow_policy(),
                self.repair.run(),
                *self.upkeep.loops(),
            )
        ]

    def _take_back_what_is_overdue(self) -> None:
        """A change whose time to be confirmed ran out while no daemon was there is not carried out first."""
        pending = self.store.pending
        if pending is None or self.changes.left(pending) > 0:
            return
        before = pending.revision - 1
        what = f"rollback to {before}: not confirmed in time"
        try:
            self.store.write(self.store.back_to(before), by=NOBODY, what=what, settles_pending=True)
        except HoplineError as error:
            log.error("take back change %d: %s: it is tried again", pending.revision, error)
        else:
            log.warning("change %d was not confirmed in time: it is taken back", pending.revision)

    def _recover(self) -> dict[str, NextHop]:
        """The store is lost and the kernel is not: what the kernel does is the best record of what was asked."""
        names = {link.index: link.name for link in self.surroundings.links()}
        forwards = self.tables.recover(names)
        pinned = (int(p.name.removeprefix("link_")) for p in self.datapath.directory.glob("link_*"))
        interfaces = {names[index]: Interface(names[index]) for index in pinned if index in names}
        if forwards or interfaces:
            found = Change({"interface": Delta(after=interfaces), "forward": Delta(after=forwards)})
            self.store.write(found, by=NOBODY, what="recovered from the kernel")
            text = f"the store was lost: {len(forwards)} entries and {len(interfaces)} interfaces taken from the kernel"
            self.notes.append(text)
            log.warning("%s", text)
        self.surroundings.wanted = interfaces
        return forwards

    async def _link_returned(self, link: Link) -> None:
        async with self.changes.lock:
            await self.kept_interfaces.attach_returned(link)

    async def stop(self) -> None:
        """Stop vouching and let go; what is in the kernel goes on forwarding."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.surroundings.close()
        if not self.detached.is_set():
            self.datapath.drop_lease()
        self.changes.close()
        self.explainer.close()
        self.store.close()
        self.datapath.close()

    async def failed(self) -> None:
        """Return only by raising what ended one of the loops: the daemon must not live on half."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    # what the API calls

    async def status(self) -> Status:
        """Return everything `hopline status` shows."""
        used4, used6 = self.learned.used()
        ways = self.datapath.limits
        return Status(
            instance=self.options.instance,
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self.began, 3),
            netns=netns.inode(),
            generation=self.datapath.generation,
            lease_ms=self.datapath.lease_ms,
            interfaces=await self.interfaces(),
            entries=EntryCount(operator=len(self.tables.entries), learned=self.learned.count()),
            cache=CacheState(
                size_ipv4=self.datapath.cache_buckets * ways.CACHE4_WAYS,
                size_ipv6=self.datapath.cache_buckets * ways.CACHE6_WAYS,
                used_ipv4=used4,
                used_ipv6=used6,
            ),
            notes=self.notes,
            revision=self.store.revision,
            pending=self._pending(),
            repairs=dict(self.meters.repairs),
        )

    def _pending(self) -> PendingState | None:
        pending = self.store.pending
        if pending is None:
            return None
        return PendingState(pending.revision, self.changes.left(pending))

    async def interfaces(self) -> list[InterfaceState]:
        """Return all interfaces of the intent."""
        return self.readout.interfaces(self.kept_interfaces.problems, self.kept_interfaces.warnings)

    async def _interface_added(self, interface: Interface) -> InterfaceAdded:
        state = next(i for i in await self.interfaces() if i.name == interface.name)
        return InterfaceAdded(interface, state, state.warnings)

    async def interface_add(self, interface: Interface, replace: bool) -> InterfaceAdded:
        """Attach to a device; `replace` takes it from another program."""
        async with self.changes.lock:
            name = interface.name
            old = self.kept_interfaces.wanted.get(name)
            taken_over = replace and name in self.kept_interfaces.problems
            if old is not None and not taken_over:
                raise Refused(f"interface {name} exists: use set")
            change = one_entry("interface", name, old, interface)
            taking = (name,) if replace else ()
            await self.changes.make(change, f"interface add {name}", taking_over=taking, anew=taking)
            return await self._interface_added(interface)

    async def interface_set(self, name: str, mode: Mode | None, bypass_policy: bool | None) -> InterfaceAdded:
        """Change what is not None."""
        async with self.changes.lock:
            old = self.kept_interfaces.named(name)
            new = Interface(
                name,
                old.mode if mode is None else mode,
                old.bypass_policy if bypass_policy is None else bypass_policy,
            )
            await self.changes.make(one_entry("interface", name, old, new), f"interface set {name}")
            return await self._interface_added(new)

    async def interface_del(self, name: str) -> None:
        """Detach and forget."""
        async with self.changes.lock:
            old = self.kept_interfaces.named(name)
            await self.changes.make(one_entry("interface", name, old, None), f"interface del {name}")

    async def forward_put(self, forwards: Sequence[Forward], replace: bool) -> None:
        """Enter all or nothing."""
        async with self.changes.lock:
            want = {forward.to: NextHop.of(forward) for forward in forwards}
            have = self.tables.wanted()
            if not replace and (there := next((to for to in want if to in have), None)) is not None:
                raise Refused(f"forward {there} exists: use replace")
            change = difference(Wanted({"forward": have}), Wanted({"forward": want}), merge=True)
            named = plainly if len(want) == 1 else placed({"forward": want})
            await self.changes.make(change, _what("replace" if replace else "add", list(want)), named=named)

    async def forward_del(self, destinations: Sequence[str]) -> None:
        """Remove operator entries, all or nothing."""
        async with self.changes.lock:
            have = self.tables.wanted()
            for to in destinations:
                if to not in have:
                    raise NotFound(f"forward {to}: no such entry: `hopline forward show` lists them")
            change = Change({"forward": Delta(before={to: have[to] for to in destinations})})
            await self.changes.make(change, _what("del", destinations))

    # the intent as a whole

    async def intent(self) -> Wanted:
        """Return a copy of the intent, as of one moment."""
        async with self.changes.lock:
            wanted = self.changes.wanted()
            forwards = await self.changes.in_worker(lambda: dict(wanted.of("forward").items()))
            return Wanted({"interface": dict(wanted.of("interface")), "forward": forwards})

    async def apply(
        self,
        want: Wanted,
        *,
        what: str = "apply",
        merge: bool = False,
        dry_run: bool = False,
        confirm_within: float | None = None,
        revision: int | None = None,
        limit: int = 0,
    ) -> Applied:
        """Make the intent equal to `want`, or with `merge` add and change what it names, all or nothing."""
        async with self.changes.lock:
            if revision not in (None, now := self.store.revision):
                raise Refused(f"{what}: the intent has changed meanwhile (it is {now}, not {revision}): look again")
            have = self.changes.wanted()
            # in the worker, as all that takes a look at each of a million entries
            change = await self.changes.in_worker(lambda: difference(have, want, merge))
            if not dry_run:
                within = confirm_within if change else None
                steps = await self.changes.make(change, what, named=placed(want.entries), confirm_within=within)
                self.changes.await_confirmation()
                warnings = [] if change else self.changes.waiting()
                return await self._applied(change, limit, steps=steps, confirm_within_s=within, warnings=warnings)
            rehearsed = await self._applied(change, limit, dry_run=True, warnings=self.changes.waiting())
        # others may make changes meanwhile: who only asks holds up nobody
        await self.changes.possible.check(change, placed(want.entries))
        return rehearsed

    async def _applied(self, change: Change, limit: int, **more: Any) -> Applied:
        revision = self.store.revision
        return await self.changes.in_worker(lambda: applied(change, revision, limit=limit, **more))

    async def history(self) -> list[HistoryRow]:
        """Return the last changes, the newest first."""
        return self.store.history()

    async def rollback(self, number: int, *, dry_run: bool = False, limit: int = 0) -> Applied:
        """Make the intent what it was after change `number`."""
        async with self.changes.lock:
            change = await self.changes.in_worker(lambda: self.store.back_to(number))
            if dry_run:
                return await self._applied(change, limit, dry_run=True)
            pending = self.store.pending
            settling = pending is not None and number < pending.revision
            steps = await self.changes.make(change, f"rollback to {number}", named=None, settling=settling)
            self.changes.await_confirmation()
            return await self._applied(change, limit, steps=steps)

    async def confirm(self) -> Confirmed:
        """Keep the change that waits for it."""
        async with self.changes.lock:
            if self.store.pending is None:
                raise Refused("confirm: no change waits for it: `hopline history` shows what was done")
            revision = await self.changes.in_worker(self.store.confirm)
            self.changes.await_confirmation()
            return Confirmed(revision)

    # what is there

    async def forwards(self, to: str | None, origin: Origin | None, limit: int | None) -> list[ForwardRow]:
        """Return entries, of both origins unless told; at most `limit`."""
        if to is not None and origin != "learned" and (entry := self.tables.entry(to)) is not None:
            return [self.readout.operator_row(*entry)]
        if to is not None:
            if origin == "operator":
                return []
            origin, limit = "learned", None
        rows = (row for row in self.readout.rows(origin, limit) if to is None or row.to == to)
        # in a thread: a million rows take seconds, and the event loop has a lease to keep
        return await asyncio.to_thread(lambda: list(islice(rows, limit)))

    async def next_hops(self) -> list[NextHopRow]:
        """Return the adjacencies in use."""
        return await asyncio.to_thread(self.readout.next_hops)

    async def forward_get(self, address: str, in_dev: str | None) -> ForwardAnswer:
        """Ask the shipped program about a packet to `address`; it comes in where it would not go out again."""
        return await self.explainer.forward_get(address, in_dev)

    async def explain(self, question: Question) -> Explanation:
        """Ask the shipped program about one packet."""
        return await self.explainer.explain(question)

    async def explain_batch(self, batch: Batch) -> Tallied:
        """Ask the shipped program about many packets."""
        return await self.explainer.tally(batch)

    async def forward_flush(self) -> int:
        """Forget the learned entries; return how many were in use."""
        count = self.learned.count()
        self.datapath.bump_generation()
        return count

    async def detach(self) -> None:
        """Remove this instance from the kernel and keep its intent; the daemon ends."""
        async with self.changes.lock:
            for index in list(self.attachments.by_index):
                self.attachments.detach(index)
            remove_pins(self.datapath.directory)
            self.detached.set()

    def interface_index(self, name: str) -> int | None:
        """Return a device's index here, None if there is none."""
        link = self.surroundings.link_named(name)
        return link.index if link else None

    def interface_name(self, index: int) -> str | None:
        """Return the name of the device with this index, None if there is none."""
        link = self.surroundings.watch.links.get(index)
        return link.name if link else None


def _what(verb: str, destinations: Sequence[str]) -> str:
    """Return what the history calls a change of entries."""
    return f"forward {verb} {destinations[0] if len(destinations) == 1 else f'{len(destinations)} entries'}"
