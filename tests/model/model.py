"""The model: which verdict a frame gets and what leaves, in as few words as it takes.

Written from docs/packet.md, the RFCs and the kernel's own forwarding path (ip_rcv, ip_route_input, ip_forward, ip6_rcv,
ip6_forward, bpf_fib_lookup), not from the program; there is no cache in it, since a cache may change no answer.
"""

import struct
from dataclasses import dataclass, replace

from bpf.pipeline import IN_MAC
from model.table import Address, Device, Hop, Prefix, Table, longest, mac, prefix

ETHERNET, IPV4, IPV6 = 14, 20, 40  # octets of their headers
TYPE_IPV4, TYPE_IPV6, TYPES_VLAN = 0x0800, 0x86DD, (0x8100, 0x88A8)
MOST_TAGS = 2
HOP_BY_HOP = 0
FIRST_BUFFER = 3520  # of a frame in TEST_RUN: a page less 256 of headroom and 320 of struct skb_shared_info
INGRESS = "in0"

MULTICAST = (prefix("224.0.0.0/4"), prefix("255.255.255.255"), prefix("ff00::/8"))
# RFC 1122 section 3.2.1.3, RFC 4291 sections 2.5.2, 2.5.3 and 2.5.6: nothing of these crosses a router
NOWHERE = tuple(map(prefix, ("0.0.0.0/8", "127.0.0.0/8", "::", "::1", "fe80::/10")))


class Pass(Exception):
    """The packet is the kernel's, untouched; the first argument is the verdict."""


@dataclass(frozen=True)
class Answer:
    """The verdict, the frame that is there afterwards, and the next hop where it was forwarded."""

    verdict: str
    frame: bytes
    hop: Hop | None = None


@dataclass(frozen=True)
class Packet:
    """An IP packet that adds up. `length` is in octets, as its header says; `options`: a router has to look at them."""

    length: int
    ttl: int
    source: Address
    destination: Address
    options: bool


def answer(table: Table, frame: bytes) -> Answer:
    """What Hopline does with a frame that in0 receives."""
    try:
        packet = parse(frame)
        judge(table, frame, packet)
        hop = next_hop(table, packet)
        send(table, frame, packet, hop)
    except Pass as why:
        return Answer(str(why), frame)
    return Answer("FORWARDED", rewritten(frame, packet, hop), hop)


# parse


def internet_checksum(octets: bytes) -> int:
    """RFC 1071, over an even number of octets; 0 over a header that has its right checksum in it."""
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(frame: bytes) -> Packet:
    """Ethernet II, VLAN tags (IEEE 802.1Q), IP."""
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    start, tags = ETHERNET, 0
    while ethertype in TYPES_VLAN and tags < MOST_TAGS:
        if len(frame) < start + 4:
            raise Pass("PASS_MALFORMED")
        (ethertype,) = struct.unpack_from("!H", frame, start + 2)
        start, tags = start + 4, tags + 1
    if ethertype not in (TYPE_IPV4, TYPE_IPV6):
        raise Pass("PASS_VLAN" if tags else "PASS_NOT_IP")
    packet = parse_ipv4(frame[start:]) if ethertype == TYPE_IPV4 else parse_ipv6(frame[start:])
    if tags:
        raise Pass("PASS_VLAN")
    return packet


def parse_ipv4(octets: bytes) -> Packet:
    """RFC 791 section 3.1, RFC 1812 section 5.2.2: what a router must check."""
    if len(octets) < IPV4:
        raise Pass("PASS_MALFORMED")
    first, _, length, _, _, ttl, _, _, source, destination = struct.unpack_from("!BBHHHBBHII", octets)
    version, header = first >> 4, (first & 15) * 4
    if version != 4 or header < IPV4 or not header <= length <= len(octets):
        raise Pass("PASS_MALFORMED")
    # with options the packet is the kernel's anyway, and so is the check
    if header == IPV4 and internet_checksum(octets[:IPV4]):
        raise Pass("PASS_MALFORMED")
    return Packet(length, ttl, Address(4, source), Address(4, destination), header > IPV4)


def parse_ipv6(octets: bytes) -> Packet:
    """RFC 8200 section 3. Of extension headers a router looks at hop-by-hop only, which is the first if it is there."""
    if len(octets) < IPV6 or octets[0] >> 4 != 6:
        raise Pass("PASS_MALFORMED")
    payload, following, limit = struct.unpack_from("!HBB", octets, 4)
    if IPV6 + payload > len(octets):
        raise Pass("PASS_MALFORMED")
    source, destination = (Address(6, int.from_bytes(octets[i : i + 16], "big")) for i in (8, 24))
    return Packet(IPV6 + payload, limit, source, destination, following == HOP_BY_HOP)


# is it ours to forward?


def among(address: Address, prefixes: tuple[Prefix, ...]) -> bool:
    return any(each.covers(address) for each in prefixes)


def to_router(frame: bytes) -> None:
    """Whether it is addressed to this router's MAC."""
    if frame[0] & 1:
        raise Pass("PASS_MULTICAST")
    if frame[:6] != mac(IN_MAC):
        raise Pass("PASS_OTHER_HOST")


def judge(table: Table, frame: bytes, packet: Packet) -> None:
    """What is not a packet between two other hosts."""
    to_router(frame)
    if among(packet.destination, MULTICAST):
        raise Pass("PASS_MULTICAST")
    if among(packet.source, MULTICAST + NOWHERE) or among(packet.destination, NOWHERE):
        raise Pass("PASS_MARTIAN")
    # fib_validate_source; IPv6 has nothing of the kind
    if packet.source.family == 4 and table.is_own(packet.source):
        raise Pass("PASS_MARTIAN")
    if packet.options:
        raise Pass("PASS_OPTIONS")


# where next?


def next_hop(table: Table, packet: Packet) -> Hop:
    """Our own addresses, then the operator's entries, exact before prefix, then what the kernel would do."""
    to = packet.destination
    if table.is_own(to):
        raise Pass("PASS_LOCAL")
    entry = table.exact.get(to) or longest(table.prefixes, to)
    return learned(table, to) if entry is None else followed(table, entry, to.family)


def followed(table: Table, entry: Hop, family: int) -> Hop:
    """The operator's next hop. While no daemon keeps its MAC right, the kernel is asked for that, and only for that."""
    if entry.state != "READY":
        raise Pass("PASS_NO_NEIGHBOUR" if entry.state == "UNRESOLVED" else "PASS_NO_EGRESS")
    if table.leased or entry.via is None or entry.via.family != family:
        return entry
    try:
        now = by_kernel(table, entry.via)
    except Pass:
        return entry
    return replace(entry, mac=now.mac) if now.device == entry.device else entry


def learned(table: Table, to: Address) -> Hop:
    """The kernel's answer, where it may be used."""
    if to.family not in table.learn:
        raise Pass("PASS_NOT_LEARNING")
    if not table.leased:
        raise Pass("PASS_NO_LEASE")
    hop = by_kernel(table, to)
    if hop.device == INGRESS and not table.bypass:
        raise Pass("PASS_HAIRPIN")
    return hop


def by_kernel(table: Table, to: Address) -> Hop:
    """bpf_fib_lookup: forwarding, route, neighbour. A route's own MTU counts, since it is locked."""
    if to.family not in table.forwarding:
        raise Pass("PASS_FORWARDING_OFF")
    route = table.route_to(to)
    if route is None or route.kind != "unicast":
        raise Pass("PASS_NO_ROUTE")
    if route.encapsulated:
        raise Pass("PASS_ENCAPSULATED_ROUTE")
    at = table.neighbour(route.device, route.via or to)
    if at is None:
        raise Pass("PASS_NO_NEIGHBOUR")
    device = table.devices[route.device]
    if not device.slotted:
        raise Pass("PASS_NO_EGRESS")
    return Hop(at, device.mac, route.device, route.mtu or device.mtu)


# and off it goes


def send(table: Table, frame: bytes, packet: Packet, hop: Hop) -> None:
    """What may still keep a packet whose next hop is known: the kernel's ip_forward looks at these in this order."""
    if packet.ttl <= 1:
        raise Pass("PASS_TTL")
    if packet.length > hop.mtu:
        raise Pass("PASS_TOO_BIG")
    device = table.devices.get(hop.device)
    if device is None or not device.able:
        raise Pass("PASS_NO_EGRESS")
    if is_too_large_for(table, device, frame):
        raise Pass("PASS_NO_EGRESS")


def is_too_large_for(table: Table, device: Device, frame: bytes) -> bool:
    """Whether a frame is in several buffers and the device takes one; in generic mode it is an skb, which any sends."""
    return len(frame) > FIRST_BUFFER and not device.frags and not table.generic


def rewritten(frame: bytes, packet: Packet, hop: Hop) -> bytes:
    """New MACs; what followed the IP packet in the frame is gone."""
    return hop.mac + hop.source + frame[12:ETHERNET] + one_less(frame[ETHERNET : ETHERNET + packet.length])


def one_less(packet: bytes) -> bytes:
    """RFC 1812 section 5.3.1: one TTL less, and a checksum to match."""
    octets = bytearray(packet)
    if octets[0] >> 4 == 6:
        octets[7] -= 1
        return bytes(octets)
    octets[8] -= 1
    if octets[0] & 15 == IPV4 // 4:
        octets[10:12] = bytes(2)
        octets[10:12] = internet_checksum(bytes(octets[:IPV4])).to_bytes(2, "big")
    else:  # nobody has looked at the one of a header with options: from what it was, so that a wrong one stays wrong
        total = int.from_bytes(octets[10:12], "big") + 0x0100
        octets[10:12] = (total + (total >= 0xFFFF) & 0xFFFF).to_bytes(2, "big")
    return bytes(octets)
