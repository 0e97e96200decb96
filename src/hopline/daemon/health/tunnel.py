"""Checks of a VIP through the tunnel to one backend: by which way each goes, kept as the host's routes are."""

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from hopline.daemon.health.room import MARK, Room
from hopline.daemon.health.sockets import FAMILIES, protocol_of
from hopline.daemon.health.targets import Target, Tunnel
from hopline.errors import HoplineError
from hopline.kernel.netlink import query
from hopline.kernel.netlink.types import Address, RouteAnswer

log = logging.getLogger("hopline")

LOOK_EVERY_S = 10.0  # whether routes and addresses are as they were

Path = tuple[Tunnel, str]  # the tunnel, and the VIP that is asked


@dataclass(frozen=True, slots=True)
class Way:
    """How the packets of a check go: `outer` and `inner` are their sources, `index` the device they leave by."""

    index: int
    outer: str
    inner: str


class NoWay(HoplineError):
    """A check cannot be made through the tunnel; the text says why."""


class Tunnels:
    """Gives checks their sockets. `problem` says why there are none, where that is for good."""

    def __init__(self, instance: str) -> None:
        self.problem: str | None = "check_via vip: the daemon has not begun yet"
        self._instance = instance
        self._room: Room | None = None
        self._wanted: frozenset[Path] = frozenset()
        self._changed = asyncio.Event()
        self._marks: dict[tuple[Tunnel, str], int] = {}  # (tunnel, outer source) → mark
        self._numbers = itertools.count(1)
        self._ready: dict[Path, tuple[int, str]] = {}  # (mark, address of the socket)
        self._failed: dict[Path, str] = {}

    def open(self) -> None:
        """Make the namespace, while that is allowed."""
        try:
            self._room = Room(self._instance)
            self.problem = None
        except HoplineError as error:
            self.problem = f"check_via vip: {error}: start the daemon as root, or use check_via backend"
            log.info("%s", self.problem)

    def close(self) -> None:
        """Take it away."""
        if self._room is not None:
            self._room.close()
        self._room, self._ready = None, {}

    def want(self, targets: Iterable[Target]) -> None:
        """Have ways for these, and no others."""
        wanted = frozenset((target.tunnel, target.address) for target in targets if target.tunnel is not None)
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    def open_socket(self, target: Target, kind: int) -> socket.socket:
        """Return a socket whose packets go through the target's tunnel; NoWay or OSError where there is none."""
        assert target.tunnel is not None
        path = (target.tunnel, target.address)
        ready = self._ready.get(path)
        if ready is None or self._room is None:
            raise NoWay(self.problem or self._failed.get(path, "the tunnel is not set up yet"))
        return self._room.open_socket(FAMILIES[target.family], kind, protocol_of(target), *ready)

    async def run(self) -> None:
        """Keep the ways as they should be until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S if self._wanted else None):
                    await self._changed.wait()
            self._changed.clear()
            if self._room is None:
                continue
            wanted = self._wanted
            work = asyncio.ensure_future(asyncio.to_thread(self._set_up, self._room, wanted))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                with contextlib.suppress(HoplineError):
                    await work  # what it is at must be done before all of it is taken away
                raise
            except HoplineError as error:
                log.warning("checks through tunnels: %s", error)
                self._ready = {}
                self._failed = dict.fromkeys(wanted, str(error))

    def _set_up(self, room: Room, wanted: frozenset[Path]) -> None:
        if not wanted:
            room.leave()
            self._ready, self._failed, self._marks = {}, {}, {}
            return
        room.enter()
        ways, failed = _ways(wanted)
        outers, ready = {}, {}
        for path, way in ways.items():
            tunnel, _ = path
            mark = self._marks.get((tunnel, way.outer)) or MARK | next(self._numbers)
            self._marks[tunnel, way.outer] = mark
            outers[mark] = (way.outer, tunnel.backend, tunnel.gue_port)
            ready[path] = (mark, way.inner)
        self._marks = {key: mark for key, mark in self._marks.items() if mark in outers}
        room.set_addresses({way.inner for way in ways.values()})
        room.set_outers(outers)
        room.set_vips({vip for _, vip in ways})
        room.set_answers({(vip, way.inner) for (_, vip), way in ways.items()}, {way.index for way in ways.values()})
        self._ready, self._failed = ready, failed


def _ways(wanted: Collection[Path]) -> tuple[dict[Path, Way], dict[Path, str]]:
    """Find the way of each; (ways, why there is none)."""
    vips = {vip for _, vip in wanted}
    addresses = [one for one in query.addresses() if one.address not in vips]
    routes = dict(query.routes_to({tunnel.backend for tunnel, _ in wanted}))
    ways: dict[Path, Way] = {}
    failed: dict[Path, str] = {}
    for path in wanted:
        tunnel, vip = path
        try:
            ways[path] = way_of(tunnel, vip, routes.get(tunnel.backend), addresses)
        except NoWay as error:
            failed[path] = str(error)
    return ways, failed


def way_of(tunnel: Tunnel, vip: str, route: RouteAnswer | None, addresses: Sequence[Address]) -> Way:
    """Return a check's way by the route to its backend; NoWay says why there is none.

    `addresses` are this node's but for VIPs. The socket has the address that Linux would take towards the backend, for
    there the backend finds its way back to; of the other family, one of the same device.
    """
    if route is None or route.type not in ("unicast", "local"):
        raise NoWay(f"no route to {tunnel.backend}")
    if route.type == "local":
        raise NoWay(f"{tunnel.backend} is this node: use check_via backend")
    inner = _source(6 if ":" in vip else 4, route, addresses)
    if tunnel.source is None:
        return Way(route.index, _source(6 if ":" in tunnel.backend else 4, route, addresses), inner)
    network = ip_network(tunnel.source, strict=False)
    outer = str(network[1]) if "/" in tunnel.source and network.num_addresses > 1 else str(network[0])
    return Way(route.index, outer, inner)


def _source(family: int, route: RouteAnswer, addresses: Sequence[Address]) -> str:
    """An address of this node that answers find their way back to."""
    known = {one.address for one in addresses}
    if route.source in known and (":" in route.source) == (family == 6):
        return route.source
    usable = [one for one in addresses if one.family == family and _is_global(one.address)]
    # the device's own first
    usable.sort(key=lambda one: one.index != route.index)
    if not usable:
        raise NoWay(f"this node has no address of IPv{family} for the answers to come to")
    return usable[0].address


def _is_global(address: str) -> bool:
    parsed = ip_address(address)
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_multicast)
