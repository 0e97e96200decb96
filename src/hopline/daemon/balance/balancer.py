"""All services of one datapath: made, changed and taken away; what becomes of their backends is followed.

Changes, events of the host and health come from several threads; each is done under one lock, in steps short enough
that nobody waits long. The event loop never takes it.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from hopline.config import Backend, NextHop, Service
from hopline.daemon.attachments import Attachments
from hopline.daemon.balance.hops import BackendHops
from hopline.daemon.balance.maps import BalanceMaps
from hopline.daemon.balance.pool import Pool
from hopline.daemon.balance.served import UNRESOLVED_S, Member, Served, Unbelieved
from hopline.daemon.balance.vips import VipIndex
from hopline.daemon.balance.wire import Wire
from hopline.errors import HoplineError
from hopline.features.balance import Outer, Reached, outer, ports_of, ticks
from hopline.features.forward import Facts
from hopline.features.slots import restamped
from hopline.kernel.netlink.types import Link

log = logging.getLogger("hopline")

RETRY_S = 5.0  # of what a service's slots should be and cannot


class Balancer:
    """Services by name, and the next hops that they share."""

    def __init__(self, attachments: Attachments, facts: Facts, flow_ways: int) -> None:
        self.datapath = attachments.datapath
        self.maps = BalanceMaps(self.datapath)
        self.pool = Pool(self.maps, attachments, flow_ways)
        self.vips = VipIndex(self.maps)
        self.wire = Wire(self.vips)
        self.hops = BackendHops(self.maps, facts)
        self.by_name: dict[str, Served] = {}
        self.ending: list[Served] = []  # nothing leads to them; a sweep forgets their flows
        self.by_hop: defaultdict[int, set[str]] = defaultdict(set)
        self.graces: dict[tuple[str, str], float] = {}  # of backends about to be removed, seconds
        self.links: Mapping[int, Link] = {}
        self.sources: Mapping[tuple[str, int], str] = {}  # an address of each device, by name and family
        self.ways = 0  # grows whenever how backends are reached, or what from, may be another way
        self.undoable = False  # a change is under way that may be undone
        self.lock = threading.RLock()
        self._awaited: dict[str, float] = {}  # services to be looked at then: a backend may be unresolved from then on
        self._leaving: set[str] = set()  # services that a backend leaves

    # room

    def lacking(self, services: Iterable[Service]) -> int:
        """Return how many elements `rings` must have for these, new or with another ring than they have."""
        with self.lock:
            return self.pool.lacking([service.ring for service in services if not self._has_ring(service)])

    def _has_ring(self, service: Service) -> bool:
        served = self.by_name.get(service.name)
        return served is not None and served.service.ring == service.ring and served.service.seed == service.seed

    def switch(self, *, balancing: bool, decapsulating: bool, elements: int = 0) -> None:
        """Have every pipeline run with these steps, over maps that are large enough; all of them or none."""
        with self.lock:
            self.pool.switch(balancing=balancing, decapsulating=decapsulating, elements=elements)

    # changes

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """What is taken away meanwhile keeps its flows, so that it can be put back as it was."""
        self.undoable = True
        try:
            yield
        finally:
            self.undoable = False

    def put(self, service: Service) -> None:
        """Serve as this says, whatever was there under its name; what is so already is not touched.

        Refused where the maps have no room; the service may be half changed then, and is put back by another call.
        """
        with self.lock:
            now = self._free_rested()
            self.hops.known(service.backend, self.links)
            served, replaced = self.by_name.get(service.name), None
            if served is not None and not self._has_ring(service):
                # its flows have other slots: another service in the place of the old one
                served, replaced = None, served
            known = served or self._back(service)
            served = self._begun(service, now, replaced) if known is None else known
            self.by_name[service.name] = served
            if known is not None:
                self.change(served, service, now)
            try:
                self._link(served)
            except HoplineError:
                if replaced is not None:  # packets are led to it still
                    self.by_name[service.name] = replaced
                    self.ending.append(served)
                raise
            if replaced is not None:
                self._end(replaced)
            self._own(served)
            self.hops.ask()

    def remove(self, name: str) -> None:
        """Stop serving; where nobody is served of this name it is no error."""
        with self.lock:
            served = self.by_name.pop(name, None)
            if served is not None:
                self._end(served)

    def _end(self, served: Served) -> None:
        vip, served.vip = served.vip, None
        self.ending.append(served)
        if vip is not None:
            self._unlink(served, vip)

    def _unlink(self, served: Served, vip: str) -> None:
        try:
            # first: who is killed in between still has it on record that the address is its own to remove
            self._disown(vip)
        finally:
            self.vips.unlink(served.row, vip)

    def _back(self, service: Service) -> Served | None:
        """Return a service that was just taken away, as when that is undone."""
        for served in self.ending:
            old = served.service
            same = (old.name, old.vip, old.ring, old.seed) == (service.name, service.vip, service.ring, service.seed)
            if same and served.ringed:
                self.ending.remove(served)
                return served
        return None

    def _begun(self, service: Service, now: float, former: Served | None) -> Served:
        """Return a new service, whole but for what leads to it; `former` knows more of its backends."""
        served = self.pool.begin(service)
        hops: list[int] = []
        try:
            backends = service.backend
            headers = [self.header(service, backend) for backend in backends]
            for backend, header in zip(backends, headers, strict=True):
                hops.append(self._use(served, None if header is None else self.hops.hop_of(backend)))
            served.fill(backends, headers, hops, now)
            if former is not None:
                served.inherit(former)
            served.headed = (service.encap, service.gue_port, service.local, self.ways)
            for member in served.members.values():
                self.note_ready(served, member, now)
            served.write_words()
            self.aim(served, now)
        except BaseException:
            if not served.members:
                for id in filter(None, hops):
                    self.hops.leave(id, now)
            self.ending.append(served)
            raise
        return served

    def _use(self, served: Served, hop: NextHop | None) -> int:
        if hop is None:
            return 0
        id = self.hops.use(hop)
        self.by_hop[id].add(served.service.name)
        return id

    def change(self, served: Served, service: Service, now: float) -> None:
        """Make a service's backends, words and slots what it should be; what leads to it is not touched."""
        old, served.service = served.service, service
        wanted = {backend.address: backend for backend in service.backend}
        for address, member in served.members.items():
            if address not in wanted and not member.leaving:
                self._leave(served, address, member)
        headed = (service.encap, service.gue_port, service.local, self.ways)
        fresh = {
            address: backend
            for address, backend in wanted.items()
            if headed != served.headed or not _same_way(served.members.get(address), backend)
        }
        headers = {address: self.header(service, backend) for address, backend in fresh.items()}
        held = served.headers() if fresh else {}
        moved = {a: h for a, h in headers.items() if a in held and h is not None and held[a] != h}
        if moved:
            served.move(served.room, moved, self.pool.backends.take, self.pool.rest_rows)
        for address, backend in wanted.items():
            member = served.members.get(address) or self._join(served, backend, headers[address], now)
            if member.leaving or member.backend is not backend:
                member.backend, member.leaving = backend, 0
                served.note(address)
            if address in fresh:
                headless = headers[address] is None and (address not in held or not held[address].family)
                self._lead(served, address, now, headless=headless)
        if served.headed not in (None, headed):
            self._lead_leaving(served, now)
        served.headed = headed
        if any(member.leaving for member in served.members.values()):
            self._leaving.add(service.name)  # also where it was another daemon that they began to leave under
        if served.ringed and old.idle != service.idle:
            # first: by the new time alone, slots would seem to have changed at another one
            served.store(restamped(served.words, self.maps.clock, served.idle))
        served.write_words()
        self.aim(served, now)

    def _lead_leaving(self, served: Served, now: float) -> None:
        """Those that leave follow the host's ways too, as long as there is one; their headers stay."""
        for address, member in served.members.items():
            if member.leaving and served.header(address).family and self.hops.hop_of(member.backend) is not None:
                self._lead(served, address, now, headless=False)

    def _join(self, served: Served, backend: Backend, header: Outer | None, now: float) -> Member:
        checked = served.service.check != "none"
        member = Member(backend, since=now, new=checked and served.ringed and bool(served.members))
        served.enter(backend.address, header, self.pool.backends.take, self.pool.rest_rows)
        served.members[backend.address] = member
        self._awaited[served.service.name] = now + UNRESOLVED_S
        return member

    def _leave(self, served: Served, address: str, member: Member) -> None:
        grace = self.graces.pop((served.service.name, address), served.service.idle)
        member.leaving = self.maps.clock + ticks(grace) if grace > 0 else self.maps.clock or 1
        self._leaving.add(served.service.name)
        served.note(address)

    def header(self, service: Service, backend: Backend) -> Outer | None:
        """Return the outer header that a backend should have, None where nothing says what it is sent from."""
        return outer(service, backend, self.hops.source_for(backend, self.sources))

    def _lead(self, served: Served, address: str, now: float, *, headless: bool) -> None:
        """Point a backend at the next hop that leads to it now, and note whether packets reach it."""
        member = served.members[address]
        hop = None if headless else self.hops.hop_of(member.backend)
        if hop != self.hops.hops.hops.get(member.hop):
            old = member.hop
            served.point(address, self._use(served, hop))
            if old:
                self.hops.leave(old, now)
        self.note_ready(served, member, now)

    def note_ready(self, served: Served, member: Member, now: float) -> bool:
        """Note whether packets reach a backend; return whether that is another than before."""
        ready = self.hops.ready(member.hop)
        if not ready:
            self._awaited[served.service.name] = now + UNRESOLVED_S
        if ready == member.ready:
            return False
        member.ready, member.since = ready, now
        return True

    def aim(self, served: Served, now: float) -> None:
        """Make a service's flags and slots what its backends' states ask for."""
        while True:
            try:
                served.aim(now, self.maps.clock)
                return
            except Unbelieved as error:
                for address in error.addresses:
                    served.renumber(address, self.pool.backends.take, self.pool.rest_rows)

    def aim_in_time(self, served: Served, now: float) -> None:
        """Aim a service; where that cannot be, others need not wait behind it: it is tried again after a while."""
        try:
            self.aim(served, now)
        except HoplineError as error:
            log.warning("service %s: %s: it is tried again", served.service.name, error)
            self._awaited[served.service.name] = now + RETRY_S

    def _link(self, served: Served) -> None:
        service, old = served.service, served.vip
        echo = service.icmp_echo == "answer"
        linked = self.vips.vips.get(service.vip)
        ports = ports_of(service)
        if linked is None or linked.links.get(served.row) != ports or linked.echo.get(served.row) != echo:
            self.vips.link(served.row, service.vip, ports, echo)
        served.vip = service.vip
        self.maps.set_word(served.row, "vip", self.vips.vips[service.vip].row)
        if old is not None and old != service.vip:
            self._unlink(served, old)

    def _own(self, served: Served) -> None:
        if served.service.own == "on-wire":
            self.wire.own(served.service, self.links)
        else:
            self._disown(served.service.vip)

    def _disown(self, vip: str) -> None:
        if not any(s.service.vip == vip and s.service.own == "on-wire" for s in self.by_name.values()):
            self.wire.disown(vip)

    # what happens

    def know(
        self, links: Mapping[int, Link], sources: Mapping[tuple[str, int], str], reached: Mapping[str, Reached]
    ) -> None:
        """The host's devices, what each would send from, and how addresses are reached, are these from now on."""
        with self.lock:
            self.links = links
            if (sources, reached) != (self.sources, self.hops.reached):
                self.ways += 1
            self.sources, self.hops.reached = sources, dict(reached)

    def set_health(self, states: Mapping[tuple[str, str], bool | None]) -> None:
        """Backends are up or down from now on; None where that is not known."""
        by_name: defaultdict[str, dict[str, bool | None]] = defaultdict(dict)
        for (name, address), state in states.items():
            by_name[name][address] = state
        for name, found in by_name.items():
            with self.lock:
                served = self.by_name.get(name)
                if served is None:
                    continue
                for address, state in found.items():
                    member = served.members.get(address)
                    if member is not None:
                        member.healthy = state
                        member.new = member.new and state is None
                self.aim_in_time(served, time.monotonic())

    def know_local(self, addresses: frozenset[str]) -> None:
        """The host's own addresses are these from now on."""
        with self.lock:
            self.vips.know_local(addresses)

    def repair(self, name: str) -> bool:
        """Make what the program finds of a service what it should be; return whether it was not."""
        with self.lock:
            served = self.by_name.get(name)
            if served is None:
                return False
            amiss = self.vips.repair(served.service.vip)
            if not served.intact():
                amiss = True
                served.restore()
                served.headed = None
                self.change(served, served.service, time.monotonic())
            lost = served.service.own == "on-wire" and not self.wire.has(served.service.vip)
            self._own(served)
            return amiss or lost

    # what time does

    def _free_rested(self) -> float:
        now = time.monotonic()
        self.vips.free_rested(now)
        self.hops.free_rested(now)
        self.pool.free_rested(now)
        return now

    def pass_time(self) -> None:
        """End backends whose grace is over, and take those out that have been without a next hop for too long."""
        with self.lock:
            now, clock = self._free_rested(), self.maps.clock
            self.wire.pass_time(self.links)
            for name in list(self._leaving):
                served = self.by_name.get(name)
                leaving = {} if served is None else {a: m for a, m in served.members.items() if m.leaving}
                if served is None or not leaving:
                    self._leaving.discard(name)
                    continue
                for address in [a for a, m in leaving.items() if m.leaving <= clock]:
                    self._gone(served, address, now)
            for name in [name for name, due in self._awaited.items() if due <= now]:
                del self._awaited[name]
                if (served := self.by_name.get(name)) is not None:
                    self.aim_in_time(served, now)

    def _gone(self, served: Served, address: str, now: float) -> None:
        """A removed backend's grace is over: its flows are lost."""
        flags, row = self.maps.backend_flags, served.at(address)
        self.maps.set_backend(row, "flags", int(flags.BACKEND_IN_USE | flags.BACKEND_DEAD))
        self.maps.set_backend(row, "leaving", 0)
        member = served.members.pop(address)
        number = served.numbers.leave(address)
        served.aimed = None
        self.aim_in_time(served, now)
        self.maps.set_backend(served.base + number, "adjacency", 0)
        if member.hop:
            self.hops.leave(member.hop, now)


def _same_way(member: Member | None, backend: Backend) -> bool:
    """Return whether a backend that is there is to be reached as before."""
    if member is None:
        return False
    old = member.backend
    return old is backend or (old.via, old.dst_mac, old.dev) == (backend.via, backend.dst_mac, backend.dev)
