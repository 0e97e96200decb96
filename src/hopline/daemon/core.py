"""What one daemon has: the intent, the kernel's state, and all that keeps the two together; start and stop."""

import asyncio
import logging
import time
from typing import Any

from hopline.config import Decap, Interface, NextHop, Service
from hopline.daemon.asker import NOBODY
from hopline.daemon.attachments import Attachments
from hopline.daemon.balance.balance import Balance
from hopline.daemon.balance.recovery import UNKNOWN
from hopline.daemon.balance.rows import ServiceRows
from hopline.daemon.changes import Changes
from hopline.daemon.datapath import Datapath
from hopline.daemon.explain import Explainer, ServedHost
from hopline.daemon.health import Health
from hopline.daemon.interfaces import Interfaces
from hopline.daemon.learned import LearnedTable
from hopline.daemon.meters import Meters
from hopline.daemon.operator import OperatorTables
from hopline.daemon.options import ServeOptions
from hopline.daemon.readout import Readout
from hopline.daemon.repair import Repair
from hopline.daemon.surroundings import Surroundings
from hopline.daemon.upkeep import Upkeep
from hopline.errors import HoplineError
from hopline.features.forward import Facts
from hopline.intent import Change, Delta
from hopline.kernel.netlink.types import Link
from hopline.store.embedded import Store

log = logging.getLogger("hopline")


class Core:
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
        facts = Facts()
        self.tables = OperatorTables(self.datapath, facts)
        self.learned = LearnedTable(self.datapath)
        self.balance = Balance(self.attachments, facts, options.flow_table)
        self.health = Health(options.instance, self.balance.set_health)
        self.service_rows = ServiceRows(self.balance)
        self.surroundings = Surroundings(self.datapath, self.attachments, self.tables, self.balance)
        self.kept_interfaces = Interfaces(self.attachments, self.surroundings)
        self.readout = Readout(self.attachments, self.tables, self.learned, self.surroundings)
        served = ServedHost(self.balance, self.service_rows, self.health.rows)
        self.explainer = Explainer(self.attachments, self.tables, self.surroundings, self.kept_interfaces, served)
        self.changes = Changes(
            self.store, self.datapath, self.tables, self.kept_interfaces, self.surroundings, self.balance, self.meters
        )
        self.repair = Repair(
            self.changes, self.tables, self.surroundings, self.balance, self.meters, options.check_every
        )
        self.upkeep = Upkeep(
            self.changes,
            self.datapath,
            self.tables,
            self.learned,
            self.kept_interfaces,
            self.surroundings,
            self.balance,
            self.meters,
        )
        self.notes: list[str] = []
        self.detached = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # start and stop

    async def start(self) -> None:
        """Adopt what is in the kernel, make it agree with the intent, then vouch for what is learned."""
        self._take_back_what_is_overdue()
        intent = self.store.read()
        forwards, services, decaps = intent.of("forward"), intent.of("service"), intent.of("decap")
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
            forwards, services, decaps = self._recover()
        self.surroundings.gather_reach(set(forwards.values()))
        steps = self.tables.reconcile(forwards)
        log.info("instance %s: %d entries, %d steps to agree", self.options.instance, len(forwards), len(steps))
        mended = self.balance.start(
            services, decaps, lambda: self.surroundings.watch.links, self.surroundings.watch.local.addresses
        )
        log.info("instance %s: %d services, %d of them changed", self.options.instance, len(services), mended)
        self.store.settle()
        self.kept_interfaces.attach_all()
        await self.health.start()
        await self.surroundings.read_policy()
        self.datapath.bump_generation()
        self.datapath.extend_lease()
        self.surroundings.resolve(self.tables.next_hops())
        self.changes.await_confirmation()
        self.balance.configure_health = self.health.configure
        self.health.configure(services, self.balance.known_health())
        self._tasks = [
            asyncio.create_task(loop)
            for loop in (
                self.surroundings.run(),
                self.surroundings.follow_policy(),
                self.repair.run(),
                self.health.run(),
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

    def _recover(self) -> tuple[dict[str, NextHop], dict[str, Service], dict[str, Decap]]:
        """The store is lost and the kernel is not: what the kernel does is the best record of what was asked."""
        names = {link.index: link.name for link in self.surroundings.links()}
        forwards = self.tables.recover(names)
        pinned = (int(p.name.removeprefix("link_")) for p in self.datapath.directory.glob("link_*"))
        interfaces = {names[index]: Interface(names[index]) for index in pinned if index in names}
        services, decaps = self.balance.recover(self.surroundings.watch.links)
        deltas: dict[str, dict[str, Any]] = {
            "interface": interfaces,
            "forward": forwards,
            "service": services,
            "decap": decaps,
        }
        if any(deltas.values()):
            found = Change({noun: Delta(after=entries) for noun, entries in deltas.items() if entries})
            self.store.write(found, by=NOBODY, what="recovered from the kernel")
            text = f"the store was lost: {len(forwards)} entries and {len(interfaces)} interfaces taken from the kernel"
            if services or decaps:
                text += f", and {len(services)} services and {len(decaps)} pairs of decap; {UNKNOWN}"
            self.notes.append(text)
            log.warning("%s", text)
        self.surroundings.wanted = interfaces
        return forwards, services, decaps

    async def _link_returned(self, link: Link) -> None:
        async with self.changes.lock:
            await self.kept_interfaces.attach_returned(link)

    async def stop(self) -> None:
        """Stop vouching and let go; what is in the kernel goes on forwarding."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.health.stop()
        await self.surroundings.close()
        self.balance.close()
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
