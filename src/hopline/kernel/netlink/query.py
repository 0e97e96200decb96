"""One question to the kernel, one answer. Everything is of the calling thread's network namespace."""

import errno
import socket
import struct
from collections.abc import Iterable, Iterator

from hopline.errors import KernelError, NotFound
from hopline.kernel.netlink import parse
from hopline.kernel.netlink.types import Address, Link, LocalAddresses, Neighbour, RouteAnswer
from hopline.kernel.netlink.wire import NETLINK_ROUTE, Socket, address_bytes, attribute, attributes, number

RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETNEIGH = 18, 22, 26, 30
TABLE_LOCAL = 255

_LOCAL_TYPES = {2, 3, 4}  # RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST
_TYPES = {
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
}
_SKIP_STATISTICS = attribute(29, struct.pack("=I", 8))  # IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS


def links(netlink: Socket | None = None) -> list[Link]:
    """Every interface."""
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _SKIP_STATISTICS
    found = (parse.link(answer) for _, answer in _dump(netlink, RTM_GETLINK, body, "list interfaces"))
    return [link for link in found if link is not None]


def link(which: str | int) -> Link:
    """The interface of this name or index; NotFound when there is none."""
    index = which if isinstance(which, int) else 0
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0) + _SKIP_STATISTICS
    if isinstance(which, str):
        body += attribute(3, which.encode()[:15] + b"\0")
    try:
        with Socket(NETLINK_ROUTE) as netlink:
            answers = netlink.request(RTM_GETLINK, body, asked=f"look up interface {which}")
    except KernelError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL, errno.ERANGE):
            raise NotFound(f"interface {which}: no such device here: see ip link") from None
        raise
    found = parse.link(answers[0])
    if found is None or (isinstance(which, str) and found.name != which):
        raise NotFound(f"interface {which}: no such device here: see ip link")
    return found


def neighbours(index: int | None = None, netlink: Socket | None = None) -> list[Neighbour]:
    """The ARP and NDP tables, of one interface or all."""
    found: list[Neighbour] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        body = struct.pack("=BxxxiHBB", family, 0, 0, 0, 0)
        for _, answer in _dump(netlink, RTM_GETNEIGH, body, "list neighbours"):
            entry = parse.neighbour(answer)
            if entry is not None and index in (None, entry.index):
                found.append(entry)
    return found


def addresses(netlink: Socket | None = None) -> list[Address]:
    """The addresses of every interface, as they were configured."""
    body = struct.pack("=BBBBI", 0, 0, 0, 0, 0)
    found = (parse.address(answer) for _, answer in _dump(netlink, RTM_GETADDR, body, "list addresses"))
    return [address for address in found if address is not None]


def local_addresses(netlink: Socket | None = None) -> LocalAddresses:
    """What the local table delivers to this host: own, broadcast and anycast addresses, and local prefixes."""
    hosts: set[str] = set()
    prefixes: set[str] = set()
    for family, width in ((socket.AF_INET, 32), (socket.AF_INET6, 128)):
        for answer in table_routes(family, TABLE_LOCAL, netlink):
            header = parse.ROUTE.unpack_from(answer)
            if header[4] != TABLE_LOCAL or header[7] not in _LOCAL_TYPES:
                continue
            packed = attributes(answer, 12).get(1, bytes(width // 8))
            name = socket.inet_ntop(family, packed)
            if header[1] == width:
                hosts.add(name)
            else:
                prefixes.add(f"{name}/{header[1]}")
    return LocalAddresses(frozenset(hosts), frozenset(prefixes))


def table_routes(family: int, table: int, netlink: Socket | None = None) -> Iterator[bytes]:
    """The bodies (rtmsg and attributes) of a table's routes; nothing where the table was never used."""
    body = parse.ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + attribute(15, struct.pack("=I", table))
    own = netlink or Socket(NETLINK_ROUTE)
    try:
        for _, answer in own.stream(RTM_GETROUTE, body, asked=f"list routes of table {table}"):
            yield answer
    except KernelError as error:
        if error.errno not in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise
    finally:
        if netlink is None:
            own.close()


def routes_to(addresses: Iterable[str]) -> Iterator[tuple[str, RouteAnswer]]:
    """The kernel's route to each address; those that have none are left out."""
    with Socket(NETLINK_ROUTE) as netlink:
        for address in addresses:
            try:
                yield address, route_get(address, netlink=netlink)
            except KernelError:
                continue


def route_get(address: str, *, mark: int = 0, iif: int = 0, netlink: Socket | None = None) -> RouteAnswer:
    """The kernel's route to an address; with `iif` for a packet that came in there. KernelError when there is none."""
    family, packed = address_bytes(address)
    body = parse.ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(1, packed)
    if iif:
        body += attribute(3, struct.pack("=i", iif))
    if mark:
        body += attribute(16, struct.pack("=I", mark))
    asked = f"look up the route to {address}"
    if netlink is not None:
        answer = netlink.request(RTM_GETROUTE, body, asked=asked)[0]
    else:
        with Socket(NETLINK_ROUTE) as own:
            answer = own.request(RTM_GETROUTE, body, asked=asked)[0]
    return route_fields(family, answer)


def route_fields(family: int, answer: bytes) -> RouteAnswer:
    """What a route's body (rtmsg and attributes) says."""
    header = parse.ROUTE.unpack_from(answer)
    found = attributes(answer, 12)
    metrics = attributes(found.get(8, b""))
    return RouteAnswer(
        index=number(found.get(4)),
        gateway=gateway_of(family, found),
        source=socket.inet_ntop(family, found[7]) if 7 in found else None,
        mtu=number(metrics.get(2)),
        type=_TYPES.get(header[7], f"type {header[7]}"),
        table=number(found.get(15), default=header[4]),
    )


def gateway_of(family: int, found: dict[int, bytes]) -> str | None:
    """The next hop that a route's attributes, or those of one of its next hops, name; None when on link."""
    if 5 in found:
        return socket.inet_ntop(family, found[5])
    via = found.get(18)  # RTA_VIA: a gateway of the other family (rtvia: family, address)
    if via is None:
        return None
    return socket.inet_ntop(socket.AF_INET6 if len(via) == 18 else socket.AF_INET, via[2:])


def _dump(netlink: Socket | None, kind: int, body: bytes, asked: str) -> list[tuple[int, bytes]]:
    if netlink is not None:
        return netlink.dump(kind, body, asked=asked)
    with Socket(NETLINK_ROUTE) as own:
        return own.dump(kind, body, asked=asked)
