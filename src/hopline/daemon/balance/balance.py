"""The nouns `service` and `decap` as the rest of the daemon knows them: intent, changes, and what the host does."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hopline.config import Decap, Service
from hopline.daemon.attachments import Attachments
from hopline.daemon.balance import recovery
from hopline.daemon.balance.balancer import Balancer
from hopline.daemon.balance.clock import Clock
from hopline.daemon.balance.decaps import Decaps
from hopline.daemon.balance.follower import Follower
from hopline.daemon.plan import Running, Tables
from hopline.errors import HoplineError
from hopline.features.forward import Facts
from hopline.intent import Delta
from hopline.kernel.netlink import query
from hopline.kernel.netlink.types import Link

log = logging.getLogger("hopline")

GATHER_S = 0.02  # what happens in so short a time is followed together
RETRY_S, RETRY_MOST_S = 1.0, 30.0  # of what could not be followed, the first time and ever after
LINK_LOCAL = ("fe80:", "fe90:", "fea0:", "feb0:", "169.254.")


class Balance:
    """Intent and kernel state of services and decaps, kept together.

    Changes are made by the worker, one at a time; what the host does is noted in the event loop and followed in a
    thread, since the balancer may be busy.
    """

    def __init__(self, attachments: Attachments, facts: Facts, flow_ways: int) -> None:
        self.attachments = attachments
        self.datapath = attachments.datapath
        self.balancer = Balancer(attachments, facts, flow_ways)
        self.decaps = Decaps(self.datapath)
        self.clock = Clock(self.balancer)
        self.follower = Follower(self.balancer)
        self.wanted: dict[str, Service] = {}
        self.problems: dict[str, str] = {}  # by service: why it could not be carried out when the daemon started
        self.configure_health: Callable[[Mapping[str, Service]], None] = lambda _: None
        self._links: Callable[[], Mapping[int, Link]] = dict
        self._adopted = False
        self._wake = asyncio.Event()
        self._host_changed = False
        self._neighbours: set[str] = set()
        self._local: frozenset[str] | None = None

    # start

    def recover(self, links: Mapping[int, Link]) -> tuple[dict[str, Service], dict[str, Decap]]:
        """Return what the kernel has, for when the store is lost."""
        self._know(links)
        self._adopted = True
        return recovery.adopt(self.balancer, {}), self.decaps.recover()

    def start(
        self,
        services: Mapping[str, Service],
        decaps: Mapping[str, Decap],
        links: Callable[[], Mapping[int, Link]],
        local: Iterable[str],
    ) -> int:
        """Adopt what is in the kernel and make it what is wanted; return how many services were not.

        What cannot be is named in `problems` and logged; the others are served. Called before programs are loaded.
        """
        self._links = links
        self._know(links())
        balancer = self.balancer
        if not self._adopted:
            recovery.adopt(balancer, services)
        have = list(balancer.by_name)
        self.clock.purge()
        balancer.know_local(frozenset(local))
        strays = [name for name in have if name not in services]
        before = {name: balancer.by_name[name].changes for name in have}
        balancer.switch(
            balancing=bool(services), decapsulating=bool(decaps), elements=balancer.lacking(services.values())
        )
        for service in services.values():
            try:
                balancer.put(service)
            except HoplineError as error:
                self.problems[service.name] = str(error)
                log.error("service %s: %s", service.name, error)
        for name in strays:
            balancer.remove(name)
        self.decaps.adopt(decaps)
        self.wanted = dict(services)
        changed = [n for n in services if n not in before or before[n] != balancer.by_name[n].changes]
        return len(changed) + len(strays)

    def _know(self, links: Mapping[int, Link]) -> None:
        """Look at the host's devices, and at what each would send from."""
        sources: dict[tuple[str, int], str] = {}
        for held in query.addresses():
            link = links.get(held.index)
            if link is not None and not held.address.startswith(LINK_LOCAL):
                sources.setdefault((link.name, held.family), held.address)
        self.balancer.know(dict(links), sources, self.balancer.hops.reached)

    # changes

    def draft(self, services: Delta, decaps: Delta) -> "BalanceDraft":
        """Return what a change asks of the kernel; nothing is changed before its steps are."""
        return BalanceDraft(self, services, decaps)

    def run_with(self, running: Running) -> None:
        """Have every program run with these steps, over rings that are large enough."""
        self.balancer.switch(
            balancing=running.balancing, decapsulating=running.decapsulating, elements=running.elements
        )

    def commit(self, services: Delta) -> None:
        """It is in the kernel and durable."""
        for name in services.removed:
            self.wanted.pop(name, None)
            self.problems.pop(name, None)
        for name, service in services.after.items():
            self.wanted[name] = service
            self.problems.pop(name, None)

    def changed(self) -> None:
        """Tell health checks what there is; in the event loop."""
        self.configure_health(dict(self.wanted))

    def known_health(self) -> dict[tuple[str, str], bool | None]:
        """Return the backends that the kernel was left with as down."""
        return {
            (name, address): False
            for name, served in self.balancer.by_name.items()
            for address, member in served.members.items()
            if member.healthy is False
        }

    async def set_health(self, states: Mapping[tuple[str, str], bool | None]) -> None:
        """Backends are up or down from now on."""
        await asyncio.to_thread(self.balancer.set_health, states)

    # what the host does: noted in the event loop

    def note_host(self) -> None:
        """Devices, routes, rules or addresses have changed."""
        self._host_changed = True
        self._wake.set()

    def note_neighbours(self, addresses: Iterable[str]) -> None:
        """Neighbours came, changed or went."""
        self._neighbours.update(addresses)
        self._wake.set()

    def note_local(self, addresses: frozenset[str]) -> None:
        """The host's own addresses are these from now on."""
        self._local = addresses
        self.note_host()

    async def follow(self) -> None:
        """Follow what was noted, until cancelled."""
        retry_after = RETRY_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            host, self._host_changed = self._host_changed, False
            neighbours, self._neighbours = self._neighbours, set()
            local, self._local = self._local, None
            try:
                await asyncio.to_thread(self._catch_up, host, neighbours, local)
                retry_after = RETRY_S
            except HoplineError as error:
                log.warning("follow the way to backends: %s: it is tried again", error)
                await asyncio.sleep(retry_after)
                retry_after = min(2 * retry_after, RETRY_MOST_S)
                self.note_host()
            await asyncio.sleep(GATHER_S)

    def _catch_up(self, host: bool, neighbours: set[str], local: frozenset[str] | None) -> None:
        if local is not None:
            self.balancer.know_local(local)
        if host:
            self._know(self._links())
            self.follower.reroute()
        elif neighbours:
            self.follower.follow(self.balancer.hops.following(neighbours))

    # what time does

    def tick(self) -> None:
        """Move the clock on; in the loop that holds the lease, also without a service: the first one finds it right."""
        self.clock.tick()

    async def pass_time(self) -> None:
        """Do what time has brought; called every quarter of a second."""
        if not self.wanted and not self.balancer.ending:
            return
        await asyncio.to_thread(self.balancer.pass_time)
        if self.clock.due():
            await asyncio.to_thread(self.clock.round)

    def neighbours(self) -> set[tuple[int, str]]:
        """Return the neighbours that have to be kept alive: device index and address."""
        return self.balancer.hops.neighbours()

    def repair(self) -> dict[str, int]:
        """Make what somebody else has changed right again; return how much of what kind was not. In the worker."""
        balancer = self.balancer
        if balancer.pool.behind:
            self._catch_up_programs()
        found = {"decap": self.decaps.adopt(dict(self.decaps.wanted))}
        with balancer.lock:
            found["backends' next hops"] = balancer.hops.repair()
        found["services"] = sum(map(self._repair, list(self.wanted)))
        return found

    def _catch_up_programs(self) -> None:
        """Programs that could not be loaded for a change may be now."""
        try:
            self.balancer.switch(balancing=self.datapath.balancing, decapsulating=self.datapath.decapsulating)
        except HoplineError as error:
            log.warning("load programs over the maps of now: %s", error)

    def _repair(self, name: str) -> bool:
        try:
            return self.balancer.repair(name)
        except HoplineError as error:
            log.warning("service %s: %s", name, error)  # the others are looked at nonetheless
            return False

    def disown_all(self) -> None:
        """Take VIPs off the devices that they were added to: nothing serves them any more."""
        for vip in list(self.balancer.vips.owned):
            self.balancer.wire.remove(vip)

    def close(self) -> None:
        """Let go; what is in the kernel goes on."""
        self.balancer.wire.close()


class BalanceDraft:
    """A change of services and decaps: what the kernel has of what it touches, and what it should have."""

    def __init__(self, balance: Balance, services: Delta, decaps: Delta) -> None:
        datapath = balance.datapath
        elements = datapath.maps["rings"].max_entries
        # programs that run over former maps are loaded anew: nothing new may be where they do not look
        now = Running(datapath.balancing, datapath.decapsulating, 0 if balance.balancer.pool.behind else elements)
        if not services and not decaps:
            self.have = self.want = Tables()
            return
        then = Running(
            _left(balance.wanted, services),
            _left(balance.decaps.wanted, decaps),
            max(elements, balance.balancer.lacking(services.after.values()) if services.after else 0),
        )
        self.have = Tables(services=services.before, decaps=decaps.before, running=now)
        self.want = Tables(services=services.after, decaps=decaps.after, running=then)


def _left(there: Mapping[str, Any], delta: Delta) -> bool:
    """Return whether anything is left of a noun after a change."""
    return bool(delta.after) or len(there) > len(delta.removed)
