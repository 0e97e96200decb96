"""The service: owner of the intent and of the kernel's state; what the API calls."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import islice

from hopline.config import Forward, Interface, Mode, Origin
from hopline.daemon.ask import Asker
from hopline.daemon.attachments import Attachments
from hopline.daemon.datapath import LEASE_S, Datapath
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
from hopline.errors import HoplineError, InvalidInput, NotFound, Refused
from hopline.features.forward import Facts, next_hop_of
from hopline.kernel import netns
from hopline.kernel.netlink.traps import traps
from hopline.kernel.netlink.types import Link
from hopline.store.change import Change, DeleteForward, DeleteInterface, PutForward, PutInterface
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
        had_store = Store.exists(options.state)
        self.store = Store.open(options.state)
        self.store_lost = not had_store or self.store.recovered_from is not None
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
        self.problems: dict[str, str] = {}
        self.warnings: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self.detached = asyncio.Event()
        self._changes = asyncio.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hopline-change")
        self._tasks: list[asyncio.Task[None]] = []

    # start and stop

    async def start(self) -> None:
        """Adopt what is in the kernel, make it agree with the intent, then vouch for what is learned."""
        await self.surroundings.open()
        self.surroundings.link_returned = self._link_returned
        intent = self.store.intent()
        forwards = list(intent.forward)
        if self.store.recovered_from is not None:
            self.notes.append(f"the store was damaged and is kept as {self.store.recovered_from}")
        if self.datapath.adopted and self.store_lost:
            forwards = self._recover()
        else:
            self.surroundings.wanted = {i.name: i for i in intent.interface}
        self.surroundings.gather_reach({next_hop_of(forward) for forward in forwards})
        steps = self.tables.reconcile(forwards)
        log.info("instance %s: %d entries, %d steps to agree", self.options.instance, len(forwards), len(steps))
        self._attach_all()
        await self.surroundings.read_policy()
        self.datapath.bump_generation()
        self.datapath.extend_lease()
        self.surroundings.resolve(self.tables.next_hops())
        self._tasks = [
            asyncio.create_task(loop)
            for loop in (self.surroundings.run(), self._lease(), self._keep_alive(), self._housekeeping())
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

    def _attach_all(self) -> None:
        """Attach what the intent names; what cannot be adopted is named and left as it is, forwarding."""
        wanted = set()
        for interface in self.surroundings.wanted.values():
            link = self.surroundings.link_named(interface.name)
            if link is None:
                log.warning("%s does not exist: it is attached when it appears", interface.name)
                continue
            wanted.add(link.index)
            try:
                self.attachments.attach(interface, link, replace=False)
                self.warnings[interface.name] = traps(link.index)
            except HoplineError as error:
                self.problems[interface.name] = str(error)
                log.error("%s", error)
        self.attachments.detach_unwanted(wanted)

    async def _link_returned(self, link: Link) -> None:
        async with self._changes:
            interface = self.surroundings.wanted.get(link.name)
            if interface is None or link.index in self.attachments.by_index:
                return
            try:
                self.attachments.attach(interface, link, replace=False)
            except HoplineError as error:
                self.problems[link.name] = str(error)
                raise
            self.problems.pop(link.name, None)
            self.warnings[link.name] = traps(link.index)
            self.surroundings.apply_policy()
            log.info("%s is back: attached", link.name)

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

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)
            async with self._changes:
                self.tables.free_retired()
                self.learned.reclaim()

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
        return self.readout.interfaces(self.problems, self.warnings)

    async def _interface_added(self, interface: Interface) -> InterfaceAdded:
        state = next(i for i in await self.interfaces() if i.name == interface.name)
        return InterfaceAdded(interface, state, state.warnings)

    async def interface_add(self, interface: Interface, replace: bool) -> InterfaceAdded:
        """Attach to a device; `replace` takes it from another program."""
        async with self._changes:
            if interface.name in self.surroundings.wanted and not (replace and interface.name in self.problems):
                raise Refused(f"interface {interface.name} exists: use set")
            await self._attach(interface, replace)
            return await self._interface_added(interface)

    async def interface_set(self, name: str, mode: Mode | None, bypass_policy: bool | None) -> InterfaceAdded:
        """Change what is not None."""
        async with self._changes:
            old = self._wanted(name)
            new = Interface(
                name,
                old.mode if mode is None else mode,
                old.bypass_policy if bypass_policy is None else bypass_policy,
            )
            if self.surroundings.link_named(name) is None:
                self.store.write([PutInterface(new)])
                self.surroundings.wanted[name] = new
            else:
                try:
                    await self._attach(new, False)
                except BaseException:
                    self._restore(old)
                    raise
            return await self._interface_added(new)

    def _wanted(self, name: str) -> Interface:
        if name not in self.surroundings.wanted:
            raise NotFound(f"interface {name}: not one of Hopline's: `hopline interface add {name}` first")
        return self.surroundings.wanted[name]

    async def _attach(self, interface: Interface, replace: bool) -> None:
        link = self.surroundings.link_named(interface.name)
        if link is None:
            raise InvalidInput("interface", f"{interface.name} is no device here", "`ip link` lists them")
        if not link.ethernet or link.name == "lo":
            raise InvalidInput("interface", f"{interface.name} is not an Ethernet device", "name one that is")
        if link.index not in self.attachments.slots:
            raise Refused(f"interface {interface.name}: all {self.datapath.limits.INTERFACE_SLOTS} slots are in use")
        had = link.index in self.attachments.by_index
        self.attachments.attach(interface, link, replace=replace)
        try:
            self.store.write([PutInterface(interface)])
        except BaseException:
            if not had:
                self.attachments.detach(link.index)
            raise
        self.surroundings.wanted[interface.name] = interface
        self.problems.pop(interface.name, None)
        self.warnings[interface.name] = traps(link.index)
        await self.surroundings.read_policy()

    def _restore(self, interface: Interface) -> None:
        link = self.surroundings.link_named(interface.name)
        if link is not None and link.index not in self.attachments.by_index:
            self.attachments.attach(interface, link, replace=False)
            self.surroundings.apply_policy()

    async def interface_del(self, name: str) -> None:
        """Detach and forget."""
        async with self._changes:
            self._wanted(name)
            self.store.write([DeleteInterface(name)])
            del self.surroundings.wanted[name]
            self.problems.pop(name, None)
            if (link := self.surroundings.link_named(name)) is not None:
                self.attachments.detach(link.index)

    async def forward_put(self, forwards: Sequence[Forward], replace: bool) -> None:
        """Enter all or nothing."""
        async with self._changes:
            for forward in forwards:
                self._check(forward)
            changes: list[Change] = [PutForward(forward) for forward in forwards]
            await self._change(lambda: self.tables.put(forwards, replace, lambda: self.store.write(changes)))
            self.surroundings.resolve([next_hop_of(forward) for forward in forwards if forward.via])

    def _check(self, forward: Forward) -> None:
        """Refuse what cannot be carried out on this host."""
        if forward.dev is not None:
            link = self.surroundings.link_named(forward.dev)
            if link is None or link.name == "lo":
                raise InvalidInput("dev", f"{forward.dev} is no device here", "`ip link` lists them")
            if not link.ethernet or link.kind in ("bridge", "vlan", "wireguard"):
                what = link.kind or "not an Ethernet device"
                raise InvalidInput("dev", f"{forward.dev} is {what}, which takes no redirect", "name the device below")
        elif forward.via is not None and forward.via not in self.surroundings.facts.reach:
            name = self.surroundings.device_reaching(forward.via)
            if name is None:
                raise InvalidInput("via", f"{forward.via} is on link of no device", "give a neighbour, or --dev too")
            self.surroundings.facts.reach = {**self.surroundings.facts.reach, forward.via: name}

    async def forward_del(self, destinations: Sequence[str]) -> None:
        """Remove operator entries, all or nothing."""
        async with self._changes:
            changes: list[Change] = [DeleteForward(to) for to in destinations]
            await self._change(lambda: self.tables.remove(destinations, lambda: self.store.write(changes)))

    async def forwards(self, to: str | None, origin: Origin | None, limit: int | None) -> list[ForwardRow]:
        """Return entries, of both origins unless told; at most `limit`."""
        if to is not None and to in self.tables.entries and origin != "learned":
            return [self.readout.operator_row(to, self.tables.entries[to])]
        rows = self.readout.rows(origin)
        return list(islice((row for row in rows if to is None or row.to == to), limit))

    async def next_hops(self) -> list[NextHopRow]:
        """Return the adjacencies in use."""
        return self.readout.next_hops()

    async def forward_get(self, address: str, in_dev: str | None) -> ForwardAnswer:
        """Ask the shipped program about a packet to `address`."""
        async with self._changes:
            if in_dev is not None:
                self._wanted(in_dev)
            for index, attachment in self.attachments.by_index.items():
                link = self.surroundings.watch.links.get(index)
                if link is not None and in_dev in (None, link.name):
                    return self.asker.answer(address, link.name, attachment)
        why = ["no interface is attached: `hopline interface add DEV`"]
        if in_dev is not None:
            why = [f"{in_dev} is not attached: {self.problems.get(in_dev, 'it does not exist')}"]
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
            self.attachments.detach_unwanted(set())
            for pin in self.datapath.directory.iterdir():
                pin.unlink()
            self.datapath.directory.rmdir()
            self.detached.set()

    def interface_index(self, name: str) -> int | None:
        """Return a device's index here, None if there is none."""
        link = self.surroundings.link_named(name)
        return link.index if link else None

    def interface_name(self, index: int) -> str | None:
        """Return the name of the device with this index, None if there is none."""
        link = self.surroundings.watch.links.get(index)
        return link.name if link else None
