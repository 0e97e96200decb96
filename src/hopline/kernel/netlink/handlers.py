"""One function a watched socket: takes a datagram apart, keeps the watch's tables current and adds events to it."""

import socket
from collections.abc import Callable
from typing import Protocol

from hopline.kernel.netlink import parse
from hopline.kernel.netlink.routes import RTM_DELNEXTHOP, RTM_DELROUTE, RTM_NEWNEXTHOP, FlatteningRoutes
from hopline.kernel.netlink.types import (
    AddressChanged,
    DeviceFeaturesChanged,
    Event,
    Link,
    LinkChanged,
    LinkGone,
    Neighbour,
    NeighbourChanged,
    NeighbourGone,
    NetconfChanged,
    NexthopChanged,
    NftablesChanged,
    RouteChanged,
    RuleChanged,
    TcChanged,
    XfrmPolicyChanged,
)
from hopline.kernel.netlink.wire import HEADER, attributes, messages, number, signed

_NEWLINK, _DELLINK = 16, 17
_NEWADDR, _DELADDR = 20, 21
_NEWNEIGH, _DELNEIGH = 28, 29
_NEWRULE, _DELRULE = 32, 33
_TC = range(36, 46)  # RTM_NEWQDISC … RTM_GETTFILTER
_NEWNETCONF, _DELNETCONF = 80, 81
_NFT_STRUCTURE = {0, 2, 3, 5}  # NFT_MSG_NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN; rules and set elements do not count
_NFNL_SUBSYS_NFTABLES = 10
_NETDEV_DEVICE = {2, 3, 4}  # NETDEV_CMD_DEV_ADD_NTF, DEL, CHANGE
_NETCONF_OF_INTEREST = {2, 3, 5}  # NETCONFA_FORWARDING, NETCONFA_RP_FILTER, NETCONFA_PROXY_NEIGH


class Tables(Protocol):
    """What a handler needs of the watch."""

    links: dict[int, Link]
    neighbours: dict[tuple[int, str], Neighbour]
    routes: FlatteningRoutes
    local_dirty: bool

    def add(self, event: Event) -> None:
        """Queues an event."""


Handler = Callable[[Tables, memoryview, int], None]


def control(watch: Tables, data: memoryview, size: int) -> None:
    """Links, neighbours, addresses, rules, next hops, netconf, tc."""
    for kind, _flags, start, end in messages(data, size):
        if kind in (_NEWNEIGH, _DELNEIGH):
            _neighbour(watch, kind == _DELNEIGH, data, start, end)
        elif kind in (_NEWLINK, _DELLINK):
            _link(watch, kind == _DELLINK, data, start, end)
        elif kind in (_NEWADDR, _DELADDR):
            address = parse.address(data, start, end)
            watch.local_dirty = True
            if address is not None:
                # disabling IPv6 on an interface is seen only by its addresses going
                watch.add(AddressChanged(address, kind == _DELADDR, policy=address.family == 6))
        elif kind in (_NEWRULE, _DELRULE):
            watch.add(RuleChanged(policy=True))
        elif kind in (RTM_NEWNEXTHOP, RTM_DELNEXTHOP):
            watch.routes.note_lost()
            watch.add(NexthopChanged(policy=True))
        elif kind in (_NEWNETCONF, _DELNETCONF):
            found = attributes(data, start + 4, end)
            family = 6 if data[start] == socket.AF_INET6 else 4
            if kind == _DELNETCONF or _NETCONF_OF_INTEREST & found.keys():
                watch.add(NetconfChanged(signed(found.get(1)), family, policy=True))
        elif kind in _TC:
            watch.add(TcChanged(signed(bytes(data[start + 4 : start + 8])), policy=True))


def _link(watch: Tables, gone: bool, data: memoryview, start: int, end: int) -> None:
    link = parse.link(data, start, end)
    if link is None:
        return
    old = watch.links.get(link.index)
    if gone:
        watch.links.pop(link.index, None)
        for key in [key for key in watch.neighbours if key[0] == link.index]:
            del watch.neighbours[key]
        watch.add(LinkGone(link, policy=True))
    elif old == link:
        return
    else:
        watch.links[link.index] = link
        before = None if old is None else (old.master, old.up, old.name, old.mtu)
        policy = before != (link.master, link.up, link.name, link.mtu)
        watch.add(LinkChanged(link, old, matters=old is not None and old.path != link.path, policy=policy))
    if gone or old is None or old.up != link.up:
        watch.local_dirty = True
        if watch.routes.any:
            watch.routes.note_lost()
    if old is not None and not gone and old.mtu != link.mtu:
        watch.routes.note_lost()  # whether a route's MTU is smaller than its device's


def _neighbour(watch: Tables, gone: bool, data: memoryview, start: int, end: int) -> None:
    entry = parse.neighbour(data, start, end)
    if entry is None:
        return
    key = (entry.index, entry.address)
    old = watch.neighbours.pop(key, None)
    if gone:
        # one never heard of may have been used all the same: NOARP entries are created silently
        watch.add(NeighbourGone(entry, matters=(old or entry).usable))
        return
    watch.neighbours[key] = entry
    was = (old.mac, True) if old is not None and old.usable else (None, False)
    now = (entry.mac, True) if entry.usable else (None, False)
    watch.add(NeighbourChanged(entry, old, matters=was != now))


def routes(watch: Tables, data: memoryview, size: int) -> None:
    """Routes: counted; the local table is read again when it changed."""
    length, kind, *_ = HEADER.unpack_from(data)
    if length == size:  # the usual case by far: one route a datagram
        _route(watch, kind, data, 16, length)
        return
    for kind, _flags, start, end in messages(data, size):
        _route(watch, kind, data, start, end)


def _route(watch: Tables, kind: int, data: memoryview, start: int, end: int) -> None:
    if data[start + 4] == 255:  # rtm_table
        watch.local_dirty = True
    policy = watch.routes.note_route(kind == RTM_DELROUTE, data, start, end)
    watch.add(RouteChanged(1, policy=policy))


def nftables(watch: Tables, data: memoryview, size: int) -> None:
    """Tables and chains of nftables."""
    for kind, _flags, _start, _end in messages(data, size):
        if kind >> 8 == _NFNL_SUBSYS_NFTABLES and kind & 0xFF in _NFT_STRUCTURE:
            watch.add(NftablesChanged(policy=True))


def xfrm(watch: Tables, _data: memoryview, _size: int) -> None:
    """IPsec policies, and their defaults."""
    watch.add(XfrmPolicyChanged(policy=True))


def netdev(watch: Tables, data: memoryview, size: int) -> None:
    """XDP features of devices (Documentation/netlink/specs/netdev.yaml)."""
    for _kind, _flags, start, end in messages(data, size):
        if data[start] in _NETDEV_DEVICE:
            index = number(attributes(data, start + 4, end).get(1))
            watch.add(DeviceFeaturesChanged(index, policy=False))
