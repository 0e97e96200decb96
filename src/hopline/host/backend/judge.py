"""What of a real server is wrong, a line each, and the command that mends it. Looks at nothing itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Literal

from hopline.host.backend.facts import Facts
from hopline.kernel.netlink.defaults import DefaultRoute
from hopline.kernel.netlink.types import Link

Level = Literal["ok", "warn", "fail"]

_NO_ARP = 0x80  # IFF_NOARP
_LOOPBACK = 0x8  # IFF_LOOPBACK
_HEADERS = {4: 40, 6: 60}  # octets of IP and TCP without options
_OUTER = {4: 20, 6: 40}  # octets of an outer header
_GUE_MORE = 8  # its UDP header
_STRICT = 1  # rp_filter
_IGNORES = (1, 2, 8)  # arp_ignore: not answering for an address of another device
_TUNNELS = {"ipip": 4, "ip6tnl": 6}  # kind of a tunnel's device → family of the outer header
_FALLBACKS = {4: ("ipip", "tunl0"), 6: ("ip6_tunnel", "ip6tnl0")}  # module, and the device it comes with


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how bad, what it is about (an address or a device), what is so, and the command that mends it."""

    level: Level
    subject: str
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class _Way:
    """What takes packets out: its name, the device that they then come from, and the octets of the outer header."""

    name: str
    device: Link
    outer: int


def judge(facts: Facts, vip: str | None = None) -> list[Finding]:
    """Return what was found of a VIP, or of every address that looks like one."""
    vips = [vip] if vip is not None else _vips(facts)
    if not vips:
        text = "no address here looks like a VIP, which has /32 or /128 and is not a device's only one: name it"
        return [Finding("fail", "vip", text, "hopline doctor backend ADDR")]
    found: list[Finding] = []
    for one in vips:
        found += _presence(facts, one)
        found += _neighbours(facts, one) if _family(one) == 4 else ()
    for family in sorted({_family(one) for one in vips}):
        found += _of_family(facts, family, next(one for one in vips if _family(one) == family))
    return found


def _of_family(facts: Facts, family: int, vip: str) -> Iterator[Finding]:
    """Yield what is the same for all VIPs of a family, `vip` being one."""
    ways = list(_ways(facts, family))
    yield from _decapsulation(facts, family, vip, ways)
    if family == 4:
        for device in {way.device.index: way.device for way in ways}.values():
            yield _filter(facts, device)
    yield from _room(facts, family, ways)
    on = "is on, and this needs it not" if facts.forwarding[family] else "is off, and need not be on"
    yield Finding("ok", f"ipv{family}", f"forwarding {on}")


def _vips(facts: Facts) -> list[str]:
    """Return addresses that stand alone, but for that by which a cloud's host is known: eth0's first may be a /32."""
    found = []
    for address in facts.addresses:
        parsed = ip_address(address.address)
        link = _link(facts, address.index)
        alone = address.prefix_length == parsed.max_prefixlen
        if link is None or not alone or parsed.is_loopback or parsed.is_link_local or address.address in found:
            continue
        same = [a for a in facts.addresses if (a.index, a.family) == (address.index, address.family)]
        own = [a for a in same if not ip_address(a.address).is_link_local]
        if _asks(link) and own[0] == address and all(a.prefix_length == address.prefix_length for a in own):
            continue
        found.append(address.address)
    return found


def _presence(facts: Facts, vip: str) -> Iterator[Finding]:
    width = 128 if ":" in vip else 32
    places = [(address, _link(facts, address.index)) for address in facts.addresses if address.address == vip]
    on_lo = f"ip address add {vip}/{width} dev lo"
    if not places and vip not in facts.local:
        on = facts.forwarding[_family(vip)]
        what = "packets to it are sent back, forwarding being on" if on else "packets to it are dropped"
        yield Finding("fail", vip, f"is an address of no device here, so {what}", on_lo)
    for address, there in places:
        if there is None:
            continue
        if _asks(there):
            protocol = "NDP" if ":" in vip else "ARP"
            rest = "" if any(other is not None and not _asks(other) for _, other in places) else f" && {on_lo}"
            mend = f"ip address del {vip}/{address.prefix_length} dev {there.name}{rest}"
            text = f"is an address of {there.name}, which answers {protocol} for it in the director's place"
            yield Finding("fail", vip, text, mend)
        elif vip not in facts.local:
            yield Finding("fail", vip, f"is an address of {there.name}, which is down", f"ip link set {there.name} up")
        else:
            yield Finding("ok", vip, f"is an address of {there.name}")


def _neighbours(facts: Facts, vip: str) -> Iterator[Finding]:
    """Yield whether devices in whose networks the VIP is keep silent about it."""
    for link in facts.links:
        # where it is the device's own, arp_ignore=1 would not help: it has been told to go
        if not _asks(link) or not _in_network(facts, link, vip) or vip in _addresses(facts, link):
            continue
        ignore, announce = _setting(facts, link, "arp_ignore"), _setting(facts, link, "arp_announce")
        if ignore not in _IGNORES:
            text = f"answers ARP for {vip} in the director's place (arp_ignore {ignore})"
            yield Finding("fail", link.name, text, "sysctl -w net.ipv4.conf.all.arp_ignore=1")
        if announce < 2:
            text = f"asks for neighbours in the name of {vip}, who then send to it (arp_announce {announce})"
            yield Finding("fail", link.name, text, "sysctl -w net.ipv4.conf.all.arp_announce=2")
        if ignore in _IGNORES and announce >= 2:
            yield Finding("ok", link.name, f"keeps silent about {vip}")


def _ways(facts: Facts, family: int) -> Iterator[_Way]:
    """Yield what takes packets of a family out now."""
    for link in facts.links:
        outer = _TUNNELS.get(link.kind, 0)
        if not outer or not link.up or (family == 6 and outer == 4):
            continue
        yield _Way(f"{link.name} ({link.kind})", link, _OUTER[outer])
        if facts.gue[outer]:
            ports = ", ".join(map(str, sorted(facts.gue[outer])))
            yield _Way(f"GUE at UDP port {ports} and {link.name}", link, _OUTER[outer] + _GUE_MORE)
    if facts.hopline is None:
        return
    for entry in facts.hopline.decaps:
        outer = _family(entry.local)
        size = _OUTER[outer] + (_GUE_MORE if entry.encap == "gue" else 0)
        for address in facts.addresses:
            there = _link(facts, address.index)
            if address.address != entry.local or there is None or there.name not in facts.hopline.attached:
                continue
            if family == 4 or outer == 6:
                yield _Way(f"hopline decap of {entry.local} from {entry.from_}", there, size)


def _decapsulation(facts: Facts, family: int, vip: str, ways: list[_Way]) -> Iterator[Finding]:
    for way in ways:
        yield Finding("ok", way.device.name, f"packets are taken out by {way.name}")
    if ways:
        return
    what = f"nothing takes encapsulated packets for {vip} out"
    tunnel = _tunnel_for(facts, family)
    down = [link for link in facts.links if _TUNNELS.get(link.kind) in ((4, 6) if family == 4 else (6,))]
    waiting = _not_attached(facts, family)
    if waiting is not None and facts.hopline is not None:
        mend = f"{facts.hopline.command} interface add {waiting.name}"
        yield Finding("fail", waiting.name, f"{what}: hopline decap knows how, but is not attached here", mend)
    elif down:
        yield Finding("fail", down[0].name, f"{what}: it is down", f"ip link set {down[0].name} up")
    elif facts.hopline is not None and tunnel is not None:
        local, source = tunnel
        mend = f"{facts.hopline.command} decap add --local {local} --from {source}"
        yield Finding("fail", "decap", f"{what}; the director is taken to be in {source}", mend)
    elif (fallback := _FALLBACKS[4 if family == 4 else 6])[0] in facts.modules:
        module, device = fallback
        yield Finding("fail", device, what, f"modprobe {module} && ip link set {device} up")
    else:
        text = f"{what}, and this kernel has no module for it: hopline has, see `hopline decap --help`"
        yield Finding("fail", "decap", text, "hopline serve")


def _tunnel_for(facts: Facts, family: int) -> tuple[str, str] | None:
    """Return an address of this host that a director may send to, and its network; that of the default route first."""
    preferred = [route.index for route in (facts.defaults[family], facts.defaults[4]) if route is not None]
    candidates = []
    for address in facts.addresses:
        link = _link(facts, address.index)
        interface = ip_interface(f"{address.address}/{address.prefix_length}")
        alone = address.prefix_length == interface.max_prefixlen
        if link is None or not _asks(link) or interface.ip.is_link_local or alone or family > address.family:
            continue
        candidates.append((address.index not in preferred, address.family, address.address, str(interface.network)))
    return min(candidates)[2:] if candidates else None


def _not_attached(facts: Facts, family: int) -> Link | None:
    """Return a device that hopline would decapsulate on, were it attached there."""
    for entry in facts.hopline.decaps if facts.hopline is not None else ():
        for address in facts.addresses:
            if address.address == entry.local and (family == 4 or address.family == 6):
                return _link(facts, address.index)
    return None


def _filter(facts: Facts, device: Link) -> Finding:
    """Return whether inner packets, whose senders are clients, pass the reverse path filter of a device."""
    value = _setting(facts, device, "rp_filter")
    route = facts.defaults[4]
    if value == _STRICT and (route is None or route.index != device.index):
        text = "drops what is taken out, for the way back to clients is by another device (rp_filter 1, strict)"
        return Finding(
            "fail", device.name, text, f"sysctl -w net.ipv4.conf.{device.name.replace('.', '/')}.rp_filter=2"
        )
    how = {0: "off", _STRICT: "strict, and the way to clients is by this device"}.get(value, "loose")
    return Finding("ok", device.name, f"lets in what is taken out (rp_filter {value}, {how})")


def _room(facts: Facts, family: int, ways: list[_Way]) -> Iterator[Finding]:
    """Yield whether clients' full segments fit with an outer header in the MTU that they arrive by."""
    route = facts.defaults[family]
    if route is None:
        text = "there is no default route, so clients beyond this host's networks get no answer: add one"
        yield Finding("warn", f"ipv{family}", text)
        return
    link = _link(facts, route.index)
    if link is None or route.several:
        return
    outer = max((way.outer for way in ways), default=_OUTER[family])
    told = route.advmss or (route.mtu or link.mtu) - _HEADERS[family]
    most = link.mtu - outer - _HEADERS[family]
    if told <= most:
        yield Finding(
            "ok", link.name, f"segments of {told} octets fit with {outer} of outer header in its MTU {link.mtu}"
        )
        return
    text = f"clients are told to send segments of {told} octets, and beside {outer} of outer header {most} fit"
    yield Finding(
        "warn", link.name, f"{text}: the director answers longer ones with 'too big'", _changed(route, link, most)
    )


def _changed(route: DefaultRoute, link: Link, advmss: int) -> str:
    """Return the command that makes a default route advertise another segment size; what it says else is said again."""
    via = f" via {'inet6 ' * (':' in route.gateway and route.family == 4)}{route.gateway}" if route.gateway else ""
    more = f" proto {route.protocol}" if route.protocol else ""
    more += f" metric {route.metric}" if route.metric else ""
    more += f" src {route.source}" if route.source else ""
    more += f" mtu {route.mtu}" if route.mtu else ""
    return f"ip {'-6 ' * (route.family == 6)}route change default{via} dev {link.name}{more} advmss {advmss}"


def _asks(link: Link) -> bool:
    """Whether neighbours are asked for on a device, by ARP or NDP, and so may ask it."""
    return link.ethernet and not link.flags & (_NO_ARP | _LOOPBACK)


def _setting(facts: Facts, link: Link, name: str) -> int:
    """Return what holds on a device: the greater of its own and that of all (include/linux/inetdevice.h, MAXCONF)."""
    return max(facts.settings.get(scope, {}).get(name, 0) for scope in ("all", link.name))


def _in_network(facts: Facts, link: Link, vip: str) -> bool:
    networks = (
        ip_interface(f"{a.address}/{a.prefix_length}").network for a in facts.addresses if a.index == link.index
    )
    return any(network.num_addresses > 1 and ip_address(vip) in network for network in networks)


def _addresses(facts: Facts, link: Link) -> set[str]:
    return {address.address for address in facts.addresses if address.index == link.index}


def _link(facts: Facts, index: int) -> Link | None:
    return next((link for link in facts.links if link.index == index), None)


def _family(address: str) -> int:
    return 6 if ":" in address else 4
