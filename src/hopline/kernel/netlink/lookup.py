"""One route and one neighbour, with what a person asks for: which route it is, and when a neighbour was last heard of.

Everything is of the calling thread's network namespace, and nothing is created by asking.
"""

import errno
import os
import socket
import struct
from dataclasses import dataclass

from hopline.errors import KernelError
from hopline.kernel.netlink import parse
from hopline.kernel.netlink.query import RTM_GETNEIGH, RTM_GETROUTE, route_fields
from hopline.kernel.netlink.types import Neighbour, RouteAnswer
from hopline.kernel.netlink.wire import NETLINK_ROUTE, Socket, address_bytes, attribute, attributes, number

_RTM_F_LOOKUP_TABLE, _RTM_F_FIB_MATCH = 0x1000, 0x2000
_RTA_DST, _RTA_SRC, _RTA_IIF, _RTA_ENCAP_TYPE = 1, 2, 3, 21
_NDA_DST, _NDA_CACHEINFO = 1, 3
_TABLES = {253: "default", 254: "main", 255: "local"}


@dataclass(frozen=True, slots=True)
class MatchedRoute:
    """The route that decides for a packet: where to, and the rest as in RouteAnswer; `tunnel`: it encapsulates."""

    to: str
    answer: RouteAnswer
    tunnel: bool

    @property
    def table(self) -> str:
        """The name of its table, or its number."""
        return _TABLES.get(self.answer.table, str(self.answer.table))


@dataclass(frozen=True, slots=True)
class SeenNeighbour:
    """A neighbour, and for how many seconds it has not been confirmed to be there.

    Of a permanent one that says nothing; one that never was begins with twice the reachable time (neigh_alloc).
    """

    entry: Neighbour
    unconfirmed_s: float


def matched_route(address: str, *, source: str | None = None, iif: int = 0) -> MatchedRoute:
    """The route that matches a packet to `address`, with `iif` one that came in there. KernelError when none does.

    Of errno: ENETUNREACH no route, EHOSTUNREACH unreachable, EACCES prohibited, EINVAL a blackhole or a martian, EXDEV
    a source that rp_filter refuses.
    """
    family, packed = address_bytes(address)
    _, packed_source = address_bytes(source) if source else (0, b"")
    width, source_width = len(packed) * 8, len(packed_source) * 8
    # IPv6 says the table anyway, and refuses to be asked
    flags = _RTM_F_FIB_MATCH | (_RTM_F_LOOKUP_TABLE if family == socket.AF_INET else 0)
    body = parse.ROUTE.pack(family, width, source_width, 0, 0, 0, 0, 0, flags) + attribute(_RTA_DST, packed)
    if source:
        body += attribute(_RTA_SRC, packed_source)
    if iif:
        body += attribute(_RTA_IIF, struct.pack("=i", iif))
    with Socket(NETLINK_ROUTE) as netlink:
        answer = netlink.request(RTM_GETROUTE, body, asked=f"look up the route to {address}")[0]
    length = parse.ROUTE.unpack_from(answer)[1]
    found = attributes(answer, 12)
    to = socket.inet_ntop(family, found.get(_RTA_DST, bytes(len(packed))))
    return MatchedRoute(
        f"{to}/{length}" if length else "default", route_fields(family, answer), number(found.get(_RTA_ENCAP_TYPE)) != 0
    )


def seen_neighbour(index: int, address: str) -> SeenNeighbour | None:
    """The entry of one neighbour, None where the kernel has none."""
    family, packed = address_bytes(address)
    body = struct.pack("=BxxxiHBB", family, index, 0, 0, 0) + attribute(_NDA_DST, packed)
    try:
        with Socket(NETLINK_ROUTE) as netlink:
            answer = netlink.request(RTM_GETNEIGH, body, asked=f"look up neighbour {address}")[0]
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return None
        raise
    entry = parse.neighbour(answer)
    if entry is None:
        return None
    # nda_cacheinfo (linux/neighbour.h): confirmed, used, updated, in clock ticks ago
    confirmed = number(attributes(answer, 12).get(_NDA_CACHEINFO, bytes(4))[:4])
    return SeenNeighbour(entry, confirmed / os.sysconf("SC_CLK_TCK"))
