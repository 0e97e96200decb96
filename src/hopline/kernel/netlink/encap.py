"""Routes that carry BPF programs: encap bpf (net/core/lwt_bpf.c) and seg6local End.BPF (net/ipv6/seg6_local.c).

Of encap bpf the kernel tells a program's name only, neither its id nor the headroom; of End.BPF also the id. It takes
two encapsulations for the same when their names are, so what differs needs another name.
"""

import dataclasses
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from hopline.kernel.netlink import parse
from hopline.kernel.netlink.query import RTM_GETROUTE, gateway_of, table_routes
from hopline.kernel.netlink.wire import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Socket,
    address_bytes,
    attribute,
    attribute_list,
    attributes,
    number,
    text,
)

MAIN = 254
UNICAST = 1  # RTN_UNICAST
ROUTER_ADVERTISEMENT = 9  # RTPROT_RA: the kernel refreshes such a route by itself
HEADROOM_LIMIT = 256  # LWT_BPF_MAX_HEADROOM

_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_CACHEINFO = 1, 4, 5, 6, 9, 12
_RTA_TABLE, _RTA_VIA, _RTA_ENCAP_TYPE, _RTA_ENCAP, _RTA_EXPIRES, _RTA_NH_ID = 15, 18, 21, 22, 23, 30
# what a route is given again as it was read: DST SRC OIF GATEWAY PRIORITY PREFSRC METRICS FLOW TABLE VIA PREF
_CARRIED = {1, 2, 4, 5, 6, 7, 8, 11, 15, 18, 20}
_RTNH_F_DEAD, _RTNH_F_ONLINK = 1, 4
_RTM_F_CLONED = 0x200
_RTPROT_STATIC = 4
_RT_SCOPE_LINK = 253

_ENCAP_BPF, _ENCAP_SEG6LOCAL = 6, 7
_ENCAPS = {1: "mpls", 2: "ip", 3: "ila", 4: "ip6", 5: "seg6", 7: "seg6local", 8: "rpl", 9: "ioam6", 10: "xfrm"}
_BPF_HOOKS = {1: "in", 2: "out", 3: "xmit"}
_BPF_NUMBERS = {name: kind for kind, name in _BPF_HOOKS.items()}
_BPF_HEADROOM = 4
_SEG6_ACTION, _SEG6_BPF, _SEG6_END_BPF = 1, 8, 15
_NEXT_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, interface


@dataclass(frozen=True, slots=True)
class Hook:
    """A program on a route: `kind` is in, out, xmit or seg6local; `id` None where the kernel does not tell it."""

    kind: str
    name: str
    id: int | None = None


@dataclass(frozen=True, slots=True)
class NewHook:
    """A program to be put on a route, by its descriptor, under a name that no other has."""

    kind: str
    name: str
    fd: int


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a route leads: `index` 0 when nowhere, `via` None when on link; `rest` is what a replacement repeats.

    `dead`: its device is down, and the route waits for it, but the kernel takes no route with it.
    """

    index: int
    via: str | None
    hooks: tuple[Hook, ...]
    encapsulation: str | None
    flags: int = 0
    weight: int = 0
    rest: bytes = b""
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A route as the kernel tells it. `to` has its length always; `encapsulation` names one that is not BPF's."""

    family: int
    to: str
    table: int
    metric: int
    tos: int
    type: int
    protocol: int
    nexthop_id: int
    hops: tuple[NextHop, ...]
    multipath: bool
    header: bytes = field(repr=False)
    rest: bytes = field(repr=False)

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The programs on it, each once however many next hops it has."""
        return tuple(dict.fromkeys(hook for hop in self.hops for hook in hop.hooks))

    @property
    def encapsulation(self) -> str | None:
        """What it encapsulates by, where that is no program."""
        return next((hop.encapsulation for hop in self.hops if hop.encapsulation), None)

    @property
    def alive(self) -> "Route":
        """The same without its dead next hops."""
        return dataclasses.replace(self, hops=tuple(hop for hop in self.hops if not hop.dead))


def routes_to(to: str, table: int = MAIN) -> list[Route]:
    """The routes of a table to exactly this prefix (with its length), in the order in which the kernel tries them."""
    address, _, length = to.partition("/")
    family, packed = address_bytes(address)
    found = []
    with Socket(NETLINK_ROUTE) as netlink:
        for body in table_routes(family, table, netlink):
            if body[1] == int(length) and attributes(body, 12).get(_RTA_DST, bytes(len(packed))) == packed:
                found.append(_route(body))
    return [route for route in found if route is not None and route.table == table]


def hooked_routes() -> list[Route]:
    """Every route that has a program, of all tables, IPv4 first."""
    with Socket(NETLINK_ROUTE) as netlink:
        bodies = [body for family in (socket.AF_INET, socket.AF_INET6) for body in _suspects(netlink, family)]
    routes = (_route(body) for body in bodies)
    return [route for route in routes if route is not None and route.hooks]


def _suspects(netlink: Socket, family: int) -> Iterator[bytes]:
    """Bodies in which an attribute that says bpf or seg6local may be; a full table is passed over quickly."""
    signs = [struct.pack("=HHH", 6, _RTA_ENCAP_TYPE, kind) for kind in (_ENCAP_BPF, _ENCAP_SEG6LOCAL)]
    asked = "list the routes that have programs"
    for _, body in netlink.dump(RTM_GETROUTE, parse.ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), asked=asked):
        if any(sign in body for sign in signs):
            yield body


def put(route: Route, hooks: Sequence[NewHook], headroom: int = 0) -> None:
    """Give a route these programs and no others, none at all if there are none; everything else of it stays.

    One message, so that every packet finds the route, as it was or as it is. Of an IPv6 route with several next hops
    the first is alone for a moment (net/ipv6/route.c, ip6_route_multipath_add). KernelError where the route has gone,
    or a next hop is dead.
    """
    encap = _encap(hooks, headroom)
    body = route.header + route.rest
    if not route.multipath:
        body += encap
    else:
        body += attribute(_RTA_MULTIPATH, b"".join(_next_hop(hop, encap) for hop in route.hops))
    asked = f"put {' and '.join(hook.kind for hook in hooks) or 'no hook'} on the route to {route.to}"
    _ask(_RTM_NEWROUTE, body, NLM_F_REPLACE, asked)


def create(to: str, via: str | None, index: int, hooks: Sequence[NewHook], headroom: int = 0) -> None:
    """Make a static route of the main table with programs; `index` 0 lets the kernel find the device of `via`.

    KernelError EEXIST where there is one of the same metric.
    """
    address, _, length = to.partition("/")
    family, packed = address_bytes(address)
    on_link = family == socket.AF_INET and via is None
    scope = _RT_SCOPE_LINK if on_link else 0
    body = parse.ROUTE.pack(family, int(length), 0, 0, MAIN, _RTPROT_STATIC, scope, UNICAST, 0)
    body += attribute(_RTA_DST, packed) if int(length) else b""
    if via is not None:
        other, gateway = address_bytes(via)
        same = other == family
        body += attribute(_RTA_GATEWAY, gateway) if same else attribute(_RTA_VIA, struct.pack("=H", other) + gateway)
    if index:
        body += attribute(_RTA_OIF, struct.pack("=i", index))
    _ask(_RTM_NEWROUTE, body + _encap(hooks, headroom), NLM_F_CREATE | NLM_F_EXCL, f"make the route to {to}")


def delete(route: Route) -> None:
    """Remove a route, with its programs."""
    body = route.header + route.rest
    if route.multipath:
        body += attribute(_RTA_MULTIPATH, b"".join(_next_hop(hop, b"") for hop in route.hops))
    _ask(_RTM_DELROUTE, body, 0, f"remove the route to {route.to}")


def _ask(kind: int, body: bytes, flags: int, asked: str) -> None:
    with Socket(NETLINK_ROUTE) as netlink:
        netlink.request(kind, body, flags, asked=asked)


def _encap(hooks: Sequence[NewHook], headroom: int) -> bytes:
    if not hooks:
        return b""
    if hooks[0].kind == "seg6local":
        program = attribute(1, struct.pack("=I", hooks[0].fd)) + attribute(2, hooks[0].name.encode() + b"\0")
        action = attribute(_SEG6_ACTION, struct.pack("=I", _SEG6_END_BPF))
        kind, nested = _ENCAP_SEG6LOCAL, action + attribute(_SEG6_BPF, program)
    else:
        kind, nested = _ENCAP_BPF, b""
        for hook in hooks:
            program = attribute(1, struct.pack("=I", hook.fd)) + attribute(2, hook.name.encode() + b"\0")
            nested += attribute(_BPF_NUMBERS[hook.kind], program)
        if headroom:
            nested += attribute(_BPF_HEADROOM, struct.pack("=I", headroom))
    return attribute(_RTA_ENCAP_TYPE, struct.pack("=H", kind)) + attribute(_RTA_ENCAP, nested)


def _next_hop(hop: NextHop, encap: bytes) -> bytes:
    attached = hop.rest + encap
    return _NEXT_HOP.pack(_NEXT_HOP.size + len(attached), hop.flags, hop.weight, hop.index) + attached


def _route(body: bytes) -> Route | None:
    """What a body (rtmsg and attributes) says; None for a cached exception of another route."""
    family, length, source_length, tos, table, protocol, scope, kind, flags = parse.ROUTE.unpack_from(body)
    if flags & _RTM_F_CLONED:
        return None
    found = attributes(body, 12)
    several = _RTA_MULTIPATH in found
    hops = _several(family, found[_RTA_MULTIPATH]) if several else (_hop(family, found, number(found.get(_RTA_OIF))),)
    rest = b"".join(attribute(name, value) for name, value in attribute_list(body, 12) if name in _CARRIED)
    expires = struct.unpack_from("=i", found[_RTA_CACHEINFO], 8)[0] if _RTA_CACHEINFO in found else 0
    if expires > 0:
        rest += attribute(_RTA_EXPIRES, struct.pack("=I", max(1, expires // _ticks())))
    packed = found.get(_RTA_DST, bytes(16 if family == socket.AF_INET6 else 4))
    return Route(
        family=6 if family == socket.AF_INET6 else 4,
        to=f"{socket.inet_ntop(family, packed)}/{length}",
        table=number(found.get(_RTA_TABLE), default=table),
        metric=number(found.get(_RTA_PRIORITY)),
        tos=tos,
        type=kind,
        protocol=protocol,
        nexthop_id=number(found.get(_RTA_NH_ID)),
        hops=hops,
        multipath=several,
        header=parse.ROUTE.pack(
            family, length, source_length, tos, table, protocol, scope, kind, flags & _RTNH_F_ONLINK
        ),
        rest=rest,
    )


@cache
def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


def _several(family: int, multipath: bytes) -> tuple[NextHop, ...]:
    hops, offset = [], 0
    while offset + _NEXT_HOP.size <= len(multipath):
        length, flags, weight, index = _NEXT_HOP.unpack_from(multipath, offset)
        if length < _NEXT_HOP.size:
            break
        attached = multipath[offset + _NEXT_HOP.size : offset + length]
        hop = _hop(family, attributes(attached), index, flags & _RTNH_F_ONLINK, weight, attached)
        hops.append(dataclasses.replace(hop, dead=bool(flags & _RTNH_F_DEAD)))
        offset += (length + 3) & ~3
    return tuple(hops)


def _hop(
    family: int, found: dict[int, bytes], index: int, flags: int = 0, weight: int = 0, attached: bytes = b""
) -> NextHop:
    hooks, encapsulation = _hooks(number(found.get(_RTA_ENCAP_TYPE)), found.get(_RTA_ENCAP, b""))
    dropped = (_RTA_ENCAP, _RTA_ENCAP_TYPE)
    rest = b"".join(attribute(name, value) for name, value in attribute_list(attached) if name not in dropped)
    return NextHop(index, gateway_of(family, found), hooks, encapsulation, flags, weight, rest)


def _hooks(kind: int, encap: bytes) -> tuple[tuple[Hook, ...], str | None]:
    """(programs, the name of an encapsulation that has none)."""
    if not kind:
        return (), None
    parts = attributes(encap)
    if kind == _ENCAP_BPF:
        hooks = ((_BPF_HOOKS.get(number_), attributes(value)) for number_, value in parts.items())
        return tuple(Hook(name, text(inner.get(2, b""))) for name, inner in hooks if name), None
    if kind == _ENCAP_SEG6LOCAL and number(parts.get(_SEG6_ACTION)) == _SEG6_END_BPF:
        inner = attributes(parts.get(_SEG6_BPF, b""))
        return (Hook("seg6local", text(inner.get(2, b"")), number(inner.get(1))),), None
    return (), _ENCAPS.get(kind, f"type {kind}")
