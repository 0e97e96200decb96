"""Why learning from the FIB must be off: what the kernel's own path does, per interface and family, that XDP skips."""

import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from hopline.errors import KernelError
from hopline.kernel.netlink import hooks, query
from hopline.kernel.netlink.routes import FlatteningRoutes
from hopline.kernel.netlink.types import Link
from hopline.kernel.netlink.wire import NETLINK_ROUTE, Socket, attribute_list, attributes, number, signed, text

_RTM_GETRULE, _RTM_GETNETCONF = 34, 82
_STRICT = 1  # of rp_filter; 2 is loose
_ALL = -1  # NETCONFA_IFINDEX_ALL
_FORWARDING, _RP_FILTER, _PROXY_NEIGH = 2, 3, 5  # NETCONFA_
_RULE = struct.Struct("=BBBBBBBBI")  # fib_rule_hdr: family, dst_len, src_len, tos, table, -, -, action, flags
_FRA_PRIORITY, _FRA_SUPPRESS_IFGROUP, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE = 6, 13, 14, 15
_FRA_PAD, _FRA_PROTOCOL = 18, 21
_HARMLESS = {_FRA_PRIORITY, _FRA_TABLE, _FRA_PAD, _FRA_PROTOCOL}
_RULE_DETAIL = {1: "to", 2: "from", 3: "iif", 10: "fwmark", 17: "oif", 19: "l3mdev", 20: "uidrange", 22: "ipproto"}
_INVERT = 2
_NO_SUPPRESSION = 0xFFFFFFFF

Netconf = dict[tuple[int, int], dict[int, int]]  # (family, index) → {attribute: value}


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """Reasons by (index, family) for every interface that existed; an empty tuple allows learning."""

    summary: dict[tuple[int, int], tuple[str, ...]]

    def forbids(self, index: int, family: int) -> list[str]:
        """Why learning is off for packets of `family` received there; an unknown interface forbids."""
        return list(self.summary.get((index, family), ("the interface is gone: see ip link",)))


class Policy:
    """Computes snapshots; keeps the scan of routes, which is the only dear part, between them."""

    def __init__(self, routes: FlatteningRoutes | None = None) -> None:
        """`routes` of a Watch, which marks them stale; without it every snapshot reads the tables."""
        self._routes = routes

    def snapshot(self) -> PolicySnapshot:
        """Everything that forbids, now. Blocks for milliseconds, and 2 µs a route when routes must be read."""
        routes = self._routes or FlatteningRoutes()
        if routes.stale:
            routes.scan()
        with Socket(NETLINK_ROUTE) as netlink:
            links = query.links(netlink)
            reasons = hooks.Reasons()
            _rules(netlink, reasons)
            settings = _netconf(netlink)
        hooks.netfilter(reasons, {link.name: link.index for link in links})
        hooks.xfrm(reasons)
        hooks.traffic_control(reasons, {link.index: link.name for link in links})
        for family in (4, 6):
            example = routes.example(family)
            if example:
                reasons.add(example, (family,))
        names = {link.index: link.name for link in links}
        dead_end = routes.dead_end()
        loose = (f"with {dead_end}" if dead_end else "") if _has_default_route() else "without a default route"
        summary: dict[tuple[int, int], tuple[str, ...]] = {}
        for link in links:
            for family in (4, 6):
                own = _of_interface(link, family, settings, names, loose)
                summary[(link.index, family)] = (*own, *reasons.ingress[(link.index, family)], *reasons.all[family])
        return PolicySnapshot(summary)


def forbids(index: int, family: int) -> list[str]:
    """Why learning must be off for packets of this family received on this interface; reads everything anew."""
    return Policy().snapshot().forbids(index, family)


def _of_interface(link: Link, family: int, settings: Netconf, names: dict[int, str], loose: str) -> list[str]:
    """Forwarding, rp_filter and masters: what depends on the interface that receives.

    Loose rp_filter drops only what no unicast route leads back to, so nothing where there is a default route and no
    route that is a dead end.
    """
    reasons = []
    if link.master:
        reasons.append(f"{link.name} is a port of {names.get(link.master, link.master)}")
    own, every = settings.get((family, link.index), {}), settings.get((family, _ALL), {})
    if family == 4:
        if not own.get(_FORWARDING):
            reasons.append(f"forwarding is off: sysctl -w net.ipv4.conf.{link.name}.forwarding=1")
        filtering = max(own.get(_RP_FILTER, 0), every.get(_RP_FILTER, 0))
        if filtering == _STRICT or (filtering and loose):
            how = "strict" if filtering == _STRICT else "loose"
            reasons.append(f"{how} rp_filter on {link.name} {loose if how == 'loose' else ''}".strip())
    elif _setting(f"ipv6/conf/{link.name}/disable_ipv6"):
        reasons.append(f"ipv6 is disabled on {link.name}")
    elif not every.get(_FORWARDING):
        reasons.append("forwarding is off: sysctl -w net.ipv6.conf.all.forwarding=1")
    elif not own.get(_FORWARDING):
        reasons.append(f"forwarding is off: sysctl -w net.ipv6.conf.{link.name}.forwarding=1")
    if family == 6 and every.get(_PROXY_NEIGH):
        reasons.append("net.ipv6.conf.all.proxy_ndp is on")  # ip6_forward answers for others (net/ipv6/ip6_output.c)
    if family == 4 and _setting("ipv4/ip_forward_use_pmtu"):
        reasons.append("net.ipv4.ip_forward_use_pmtu is on")  # a path's MTU, learned later, is told to nobody
    return reasons


def _setting(name: str) -> bool:
    """Whether a sysctl that no netlink message tells is on; off where the kernel has no such thing."""
    try:
        return Path("/proc/sys/net", name).read_text().strip() != "0"
    except OSError:
        return False


def _has_default_route() -> bool:
    """Whether every IPv4 source has a route back: the ends of the address space stand for all of it."""
    try:
        return all(query.route_get(end).type == "unicast" for end in ("0.0.0.1", "255.255.255.254"))
    except KernelError:
        return False


def _netconf(netlink: Socket) -> Netconf:
    """Forwarding and rp_filter of every interface and of conf/all, without a file read for each."""
    found: Netconf = {}
    for number_of, family in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
        try:
            answers = netlink.dump(_RTM_GETNETCONF, struct.pack("=Bxxx", number_of), asked="read netconf")
        except KernelError:
            continue  # IPv6 is off: nothing is forwarded, and that is what an empty entry says
        for _, body in answers:
            if body[0] == number_of:
                values = attributes(body, 4)
                wanted = (_FORWARDING, _RP_FILTER, _PROXY_NEIGH)
                entry = {kind: signed(values[kind]) for kind in wanted if kind in values}
                found[(family, signed(values.get(1)))] = entry
    return found


def _rules(netlink: Socket, reasons: hooks.Reasons) -> None:
    """Rules that choose by more than the destination, or lead to other tables than local, main and default."""
    for number_of, family in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
        try:
            answers = netlink.dump(_RTM_GETRULE, _RULE.pack(number_of, 0, 0, 0, 0, 0, 0, 0, 0), asked="list rules")
        except KernelError:
            continue  # a kernel without policy routing, or without this family, has no rules
        for _, body in answers:
            if body[0] == number_of and (what := _rule(body)):
                reasons.add(what, (family,))


def _rule(body: bytes) -> str | None:
    _family, to_length, from_length, tos, table, _, _, action, flags = _RULE.unpack_from(body)
    found = dict(attribute_list(body, 12))
    for kind in (_FRA_SUPPRESS_IFGROUP, _FRA_SUPPRESS_PREFIXLEN):
        if number(found.get(kind)) == _NO_SUPPRESSION:
            del found[kind]
    table = number(found.get(_FRA_TABLE), default=table)
    selects = bool(to_length or from_length or tos or flags & _INVERT or found.keys() - _HARMLESS)
    if not selects and action == 1 and table in (253, 254, 255):
        return None
    details = [name for kind, name in _RULE_DETAIL.items() if kind in found]
    if 3 in found:
        details[details.index("iif")] = f"iif {text(found[3])}"
    leads = f"lookup {table}" if action == 1 and table else f"action {action}" if action != 1 else ""
    return " ".join(part for part in (f"ip rule {number(found.get(_FRA_PRIORITY))}:", *details, leads) if part)
