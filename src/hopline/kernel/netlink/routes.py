"""Which routes a learned answer would flatten: multipath, by TOS, by source, or with an MTU of their own.

bpf_fib_lookup minds a route's MTU only where it is locked; the kernel's own forwarding always does (ip_forward.c).

A table of 100,000 routes is read once; then the watch tells of every change. What makes the answer positive is noted
at once; what may make it negative again only marks it stale, since the kernel says neither which part of an IPv6
multipath route is left nor which IPv4 routes a device took with it (net/ipv4/fib_frontend.c, fib_flush).
"""

import socket
import threading

from hopline.kernel.netlink.parse import ROUTE
from hopline.kernel.netlink.query import TABLE_LOCAL, links, table_routes
from hopline.kernel.netlink.wire import ATTRIBUTE, NETLINK_ROUTE, Bytes, Socket, attribute_list, attributes, number

RTM_DELROUTE = 25
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106

_TABLES = (254, 253, TABLE_LOCAL)  # main, default, local; any other is led to by a rule, which forbids by itself
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_METRICS, _RTA_MULTIPATH, _RTA_NH_ID = 1, 4, 6, 8, 9, 30
_RTAX_LOCK, _RTAX_MTU = 1, 2
_RTM_F_CLONED = 0x200
# rtm_type of routes that lead nowhere: nothing to flatten, but loose rp_filter drops what comes from there
_DEAD_ENDS = {6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}

Key = tuple[int, int, bytes, int, int, int, int]


class FlatteningRoutes:
    """The flattening routes of the calling thread's namespace. `stale` until scan() has run; thread-safe."""

    def __init__(self) -> None:
        self.stale = True
        self._found: dict[Key, str] = {}
        self._groups: frozenset[int] = frozenset()
        self._mtus: dict[int, int] = {}
        self._changes = 0
        self._lock = threading.Lock()

    def example(self, family: int) -> str | None:
        """One of them as text, such as `multipath route 10.0.0.0/8`; None when there is none."""
        wanted = socket.AF_INET6 if family == 6 else socket.AF_INET
        with self._lock:
            return min((t for k, t in self._found.items() if k[0] == wanted and not _is_dead_end(t)), default=None)

    def dead_end(self) -> str | None:
        """An IPv4 route that leads nowhere, such as `blackhole route 10.0.0.0/8`; None when there is none."""
        with self._lock:
            return min((text for text in self._found.values() if _is_dead_end(text)), default=None)

    def scan(self) -> None:
        """Reads all; blocks for about 2 µs a route. Stale again at once when something changed meanwhile."""
        with self._lock:
            changes = self._changes
        with Socket(NETLINK_ROUTE) as netlink:
            groups = _nexthop_groups(netlink)
            mtus = {link.index: link.mtu for link in links(netlink)}
            found: dict[Key, str] = {}
            for family in (socket.AF_INET, socket.AF_INET6):
                for table in _TABLES:
                    for body in table_routes(family, table, netlink):
                        _note_if_flattening(found, groups, mtus, body, 0, len(body))
        with self._lock:
            self._found, self._groups, self._mtus = found, groups, mtus
            self.stale = self._changes != changes

    def note_route(self, gone: bool, body: Bytes, start: int, end: int) -> bool:
        """A route came or went, body[start:end] is its rtmsg; whether the policy must be looked at again."""
        if not self._found and not self._groups and not self.stale and _plain(body, start, end):
            return False
        with self._lock:
            key = _key(body, start, end)
            known = key in self._found
            now: dict[Key, str] = {}
            _note_if_flattening(now, self._groups, self._mtus, body, start, end)
            if now and not gone:
                self._found.update(now)
                self._changes += 1  # a scan under way may have passed this place already
                return True
            if known or now:
                self.stale = True
                self._changes += 1
            return known or bool(now)

    def note_lost(self) -> None:
        """Something may have gone without a word (a link went down, a next-hop group changed, events were dropped)."""
        with self._lock:
            self.stale = True
            self._changes += 1

    @property
    def any(self) -> bool:
        """Whether there is one at all, of either family."""
        return bool(self._found)


def _plain(body: Bytes, start: int, end: int) -> bool:
    """Whether a route has nothing that flattens; the way of nearly every route, so it looks at headers only."""
    family, _dst, source_length, tos, _table, _protocol, _scope, kind, _flags = ROUTE.unpack_from(body, start)
    if tos or source_length or (kind in _DEAD_ENDS and family == socket.AF_INET):
        return False
    offset = start + 12
    unpack = ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(body, offset)
        if kind & 0x3FFF in (_RTA_METRICS, _RTA_MULTIPATH, _RTA_NH_ID):
            return False
        if length < 4:
            break
        offset += (length + 3) & ~3
    return True


def _key(body: Bytes, start: int, end: int) -> Key:
    family, destination, source, tos, table, *_ = ROUTE.unpack_from(body, start)
    found = attributes(body, start + 12, end)
    return (family, table, found.get(_RTA_DST, b""), destination, source, tos, number(found.get(_RTA_PRIORITY)))


def _note_if_flattening(
    into: dict[Key, str], groups: frozenset[int], mtus: dict[int, int], body: Bytes, start: int, end: int
) -> None:
    if _plain(body, start, end):
        return
    family, length, source_length, tos, table, _protocol, _scope, kind, flags = ROUTE.unpack_from(body, start)
    if table not in _TABLES or flags & _RTM_F_CLONED:
        return
    found = attributes(body, start + 12, end)
    if source_length and family == socket.AF_INET6:
        what = "source-specific route"
    elif kind in _DEAD_ENDS and family == socket.AF_INET:
        what = f"{_DEAD_ENDS[kind]} route"
    elif tos and family == socket.AF_INET:
        what = f"route with tos {tos:#04x}"
    elif _next_hops(found.get(_RTA_MULTIPATH, b"")) > 1 or number(found.get(_RTA_NH_ID)) in groups:
        what = "multipath route"
    elif mtu := _own_mtu(found, mtus):
        what = f"without `mtu lock`, mtu {mtu} of route"
    else:
        return
    packed = found.get(_RTA_DST, bytes(16 if family == socket.AF_INET6 else 4))
    into[_key(body, start, end)] = f"{what} {socket.inet_ntop(family, packed)}/{length}"


def _is_dead_end(text: str) -> bool:
    return text.split(" ", 1)[0] in _DEAD_ENDS.values()


def _own_mtu(found: dict[int, bytes], mtus: dict[int, int]) -> int:
    """The route's MTU where it is smaller than its device's and not locked, else 0."""
    metrics = attributes(found.get(_RTA_METRICS, b""))
    mtu = number(metrics.get(_RTAX_MTU))
    locked = number(metrics.get(_RTAX_LOCK)) >> _RTAX_MTU & 1
    return 0 if locked or mtu >= mtus.get(number(found.get(_RTA_OIF)), 1 << 16) else mtu


def _next_hops(multipath: bytes) -> int:
    """How many rtnexthop records (length in the first two bytes) a RTA_MULTIPATH has."""
    count = offset = 0
    while offset + 8 <= len(multipath):
        length = number(multipath[offset : offset + 2])
        if length < 8:
            break
        count += 1
        offset += (length + 3) & ~3
    return count


def _nexthop_groups(netlink: Socket) -> frozenset[int]:
    """The ids of next-hop objects (include/uapi/linux/nexthop.h) that are groups of more than one."""
    groups: set[int] = set()
    for _, body in netlink.dump(RTM_GETNEXTHOP, bytes(8), asked="list next-hop objects"):
        found = dict(attribute_list(body, 8))
        if len(found.get(2, b"")) > 8:  # NHA_GROUP: nexthop_grp of 8 bytes each
            groups.add(number(found.get(1)))
    return frozenset(groups)
