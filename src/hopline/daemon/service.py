"""The service: owner of the intent and of the kernel's state; what the API calls."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import islice

from hopline.config import Forward, Interface, Mode, NextHop, Origin
from hopline.daemon.ask import Asker
from hopline.daemon.attachments import Attachments
from hopline.daemon.datapath import LEASE_S, Datapath
from hopline.daemon.interfaces import Interfaces
from hopline.daemon.learned import LearnedTable
from hopline.daemon.operator import OperatorTables
from hopline.daemon.options import ServeOptions
from hopline.daemon.protocol import (
    CacheState,
    EntryCount,
    ForwardAnswer,
    ForwardRow,
    InterfaceAdded,
    InterfaceState,
    NextHopRow,
    Status,
)
from hopline.daemon.readout import Readout
from hopline.daemon.surroundings import Surroundings
from hopline.errors import HoplineError, InvalidInput, Refused
from hopline.features.forward import Facts
from hopline.kernel import netns
from hopline.kernel.link import remove_pins
from hopline.kernel.netlink.types import Link
from hopline.store.change import Change, DeleteForward, PutForward, PutInterface
from hopline.store.embedded import Store

log = logging.getLogger("hopline")

LEASE_EVERY_S = 0.25
KEEP_ALIVE_EVERY_S = 2.5
HOUSEKEEPING_EVERY_S = 10.0


class Service:
    """One instance. Changes come one at a time, each durable and in the kernel before it returns, or undone."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.began = time.monotonic()
        self.store = Store.open(options.state)
        try:
            self.datapath = Datapath.open(options.instance, options.cache_size)
        except BaseException:
            self.store.close()
            raise
        self.attachments = Attachments(self.datapath, options.trace)
        self.tables = OperatorTables(self.datapath, Facts())
        self.learned = LearnedTable(self.datapath)
        self.surroundings = Surroundings(self.datapath, self.attachments, self.tables)
        self.readout = Readout(self.attachments, self.tables, self.learned, self.surroundings)
        self.asker = Asker(self.attachments, self.tables, self.surroundings)
        self.kept_interfaces = Interfaces(self.store, self.attachments, self.surroundings)
        self.notes: list[str] = []
        self.detached = asyncio.Event()
        self._changes = asyncio.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hopline-change")
        self._tasks: list[asyncio.Task[None]] = []

    # start and stop

    async def start(self) -> None:
        """Adopt what is in the kernel, make it agree with the intent, then vouch for what is learned."""
        intent = self.store.intent()
        forwards = list(intent.forward)
        self.surroundings.wanted = {i.name: i for i in intent.interface}
        self.surroundings.preferred = {*self.surroundings.wanted, *(f.dev for f in forwards if f.dev)}
        await self.surroundings.open()
        self.surroundings.link_returned = self._link_returned
        if self.store.recovered_from is not None:
            self.notes.append(f"the store was damaged and is kept as {self.store.recovered_from}")
        if self.datapath.adopted and self.store.fresh:
            forwards = self._recover()
        self.surroundings.gather_reach({NextHop.of(forward) for forward in forwards})
        steps = self.tables.reconcile(forwards)
        log.info("instance %s: %d entries, %d steps to agree", self.options.instance, len(forwards), len(steps))
        self.store.settle()
        self.kept_interfaces.attach_all()
        await self.surroundings.read_policy()
        self.datapath.bump_generation()
        self.datapath.extend_lease()
        self.surroundings.resolve(self.tables.next_hops())
        self._tasks = [
            asyncio.create_task(loop)
            for loop in (
                self.surroundings.run(),
                self.surroundings.follow_policy(),
                self._lease(),
                self._keep_alive(),
                self._housekeeping(),
            )
        ]

    def _recover(self) -> list[Forward]:
        """The store is lost and the kernel is not: what the kernel does is the best record of what was asked."""
        names = {link.index: link.name for link in self.surroundings.links()}
        forwards = self.tables.recover(names)
        pinned = (int(p.name.removeprefix("link_")) for p in self.datapath.directory.glob("link_*"))
        interfaces = [Interface(names[index]) for index in pinned if index in names]
        if forwards or interfaces:
            self.store.write([*map(PutInterface, interfaces), *map(PutForward, forwards)])
            text = f"the store was lost: {len(forwards)} entries and {len(interfaces)} interfaces taken from the kernel"
            self.notes.append(text)
            log.warning("%s", text)
        self.surroundings.wanted = {i.name: i for i in interfaces}
        return forwards

    async def _link_returned(self, link: Link) -> None:
        async with self._changes:
            await self.kept_interfaces.attach_returned(link)

    async def stop(self) -> None:
        """Stop vouching and let go; what is in the kernel goes on forwarding."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.surroundings.close()
        if not self.detached.is_set():
            self.datapath.drop_lease()
        self._worker.shutdown()
        self.store.close()
        self.datapath.close()

    async def failed(self) -> None:
        """Return only by raising what ended one of the loops: the daemon must not live on half."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _lease(self) -> None:
        # in the event loop on purpose: a loop that hangs follows no events, and must not vouch either
        last = time.monotonic()
        while True:
            if self.surroundings.following:
                self.datapath.extend_lease()
            now = time.monotonic()
            if now - last > LEASE_S:
                log.warning("busy for %.1f s: the lease ran out and what was learned went to the kernel", now - last)
            last = now
            await asyncio.sleep(LEASE_EVERY_S)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_EVERY_S)
            try:
                self.surroundings.keep_alive(self.learned.neighbours_in_use())
            except HoplineError as error:
                log.warning("keep neighbours alive: %s", error)
            if not self._changes.locked():
                self.surroundings.check_programs()

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)
            async with self._changes:
                self.tables.free_retired()
                self.learned.reclaim()
                self.surroundings.know_the_rest()

    async def _change(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._worker, work)

    # what the API calls

    async def status(self) -> Status:
        """Return everything `hopline status` shows."""
        used4, used6 = self.learned.used()
        ways = self.datapath.limits
        return Status(
            instance=self.options.instance,
            version=version("hopline"),
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
        )

    async def interfaces(self) -> list[InterfaceState]:
        """Return all interfaces of the intent."""
        return self.readout.interfaces(self.kept_interfaces.problems, self.kept_interfaces.warnings)

    async def _interface_added(self, interface: Interface) -> InterfaceAdded:
        state = next(i for i in await self.interfaces() if i.name == interface.name)
        return InterfaceAdded(interface, state, state.warnings)

    async def interface_add(self, interface: Interface, replace: bool) -> InterfaceAdded:
        """Attach to a device; `replace` takes it from another program."""
        async with self._changes:
            taken_over = replace and interface.name in self.kept_interfaces.problems
            if interface.name in self.kept_interfaces.wanted and not taken_over:
                raise Refused(f"interface {interface.name} exists: use set")
            await self.kept_interfaces.put(interface, replace)
            return await self._interface_added(interface)

    async def interface_set(self, name: str, mode: Mode | None, bypass_policy: bool | None) -> InterfaceAdded:
        """Change what is not None."""
        async with self._changes:
            old = self.kept_interfaces.named(name)
            new = Interface(
                name,
                old.mode if mode is None else mode,
                old.bypass_policy if bypass_policy is None else bypass_policy,
            )
            if self.surroundings.link_named(name) is None:
                self.kept_interfaces.put_absent(new)
            else:
                await self.kept_interfaces.put(new)
            return await self._interface_added(new)

    async def interface_del(self, name: str) -> None:
        """Detach and forget."""
        async with self._changes:
            self.kept_interfaces.delete(name)

    async def forward_put(self, forwards: Sequence[Forward], replace: bool) -> None:
        """Enter all or nothing."""
        async with self._changes:
            for forward in forwards:
                self._check(forward)
            changes: list[Change] = [PutForward(forward) for forward in forwards]
            await self._change(lambda: self.tables.put(forwards, replace, lambda: self.store.write(changes)))
            followed = [NextHop.of(forward) for forward in forwards if forward.via]
            if followed:
                # events may have been followed while the entries were made
                self.surroundings.gather_reach(self.tables.next_hops())
                self.tables.refresh(followed)
                self.surroundings.resolve(followed)

    def _check(self, forward: Forward) -> None:
        """Refuse what cannot be carried out on this host."""
        if forward.to in self.surroundings.watch.local.addresses:
            raise InvalidInput("to", f"{forward.to} is this host's own address", "its packets stay here")
        name = forward.dev
        if name is None and forward.via is not None:
            name = self.surroundings.device_reaching(forward.via)
            if name is None:
                raise InvalidInput("via", f"{forward.via} is on link of no device", "give a neighbour, or --dev too")
            self.surroundings.facts.reach = {**self.surroundings.facts.reach, forward.via: name}
        field = "dev" if forward.dev is not None else "via"
        link = self.surroundings.link_named(name or "")
        if link is None or link.name == "lo":
            raise InvalidInput(field, f"{name} is no device here", "`ip link` lists them")
        if not link.ethernet or link.kind in ("bridge", "vlan", "wireguard"):
            what = link.kind or "not an Ethernet device"
            raise InvalidInput(field, f"{name} is {what}, which takes no redirect", "name the device below")

    async def forward_del(self, destinations: Sequence[str]) -> None:
        """Remove operator entries, all or nothing."""
        async with self._changes:
            changes: list[Change] = [DeleteForward(to) for to in destinations]
            await self._change(lambda: self.tables.remove(destinations, lambda: self.store.write(changes)))

    async def forwards(self, to: str | None, origin: Origin | None, limit: int | None) -> list[ForwardRow]:
        """Return entries, of both origins unless told; at most `limit`."""
        if to is not None and origin != "learned" and (entry := self.tables.entry(to)) is not None:
            return [self.readout.operator_row(*entry)]
        rows = (row for row in self.readout.rows(origin) if to is None or row.to == to)
        # in a thread: a million rows take seconds, and the event loop has a lease to keep
        return await asyncio.to_thread(lambda: list(islice(rows, limit)))

    async def next_hops(self) -> list[NextHopRow]:
        """Return the adjacencies in use."""
        return await asyncio.to_thread(self.readout.next_hops)

    async def forward_get(self, address: str, in_dev: str | None) -> ForwardAnswer:
        """Ask the shipped program about a packet to `address`; it comes in where it would not go out again."""
        async with self._changes:
            if in_dev is not None:
                self.kept_interfaces.named(in_dev)
            answer: ForwardAnswer | None = None
            for index, attachment in list(self.attachments.by_index.items()):
                link = self.surroundings.watch.links.get(index)
                if link is not None and in_dev in (None, link.name):
                    # in a thread: the first question loads a program, and the event loop has events to follow
                    answer = await asyncio.to_thread(self.asker.answer, address, link.name, attachment)
                    if in_dev is not None or answer.dev != link.name:
                        break
        if answer is not None:
            return answer
        why = ["no interface is attached: `hopline interface add DEV`"]
        if in_dev is not None:
            why = [f"{in_dev} is not attached: {self.kept_interfaces.problems.get(in_dev, 'it does not exist')}"]
        return ForwardAnswer(address=address, verdict="NOT_ATTACHED", why=why)

    async def forward_flush(self) -> int:
        """Forget the learned entries; return how many were in use."""
        count = self.learned.count()
        self.datapath.bump_generation()
        return count

    async def detach(self) -> None:
        """Remove this instance from the kernel and keep its intent; the daemon ends."""
        async with self._changes:
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
