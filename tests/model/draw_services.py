"""What Hypothesis draws for balance and decap: services in every state, and frames for, beside and about them."""

import random
import struct

from hypothesis import strategies as st

from model.draw import (
    FRAGMENTS,
    ICMP,
    ICMP6,
    MACS,
    OCTETS,
    OPTIONS,
    SIZES,
    SOURCES,
    Choices,
    addresses,
    chance,
    framed,
    hops,
    one_of,
    whole4,
    whole6,
)
from model.model import internet_checksum
from model.services import TCP, UDP, Backend, Decap, Service, Services, Slot, Vip
from model.table import Address, Hop, Prefix, Table, devices, mac, prefix

VIPS = addresses("192.0.2.80 192.0.2.81 198.51.100.7 2001:db8:5::80 2001:db8:5::81")
REALS = {4: addresses("10.0.2.11 10.0.2.12 10.0.2.13"), 6: addresses("2001:db8:2::b1 2001:db8:2::b2 2001:db8:2::b3")}
OUTER = {4: addresses("192.0.2.10 10.0.2.1 198.18.0.0"), 6: addresses("2001:db8:1::10 2001:db8:7::")}
CLIENTS = {
    4: addresses("203.0.113.1 203.0.113.2 203.0.113.3 10.0.1.2"),
    6: addresses("2001:db8:c::1 2001:db8:c::2 2001:db8:c:1::1 2001:db8:1::2"),
}
PORTS = ((80, 80), (80, 81), (443, 443), (0, 65535), (1000, 2000), (53, 53), (65535, 65535), (0, 79))
CLIENT_PORTS = (40000, 40001, 1, 65535)
LOCALS = {4: addresses("10.0.1.1 10.0.2.1"), 6: addresses("2001:db8:1::1 2001:db8:2::1")}
GUE_PORTS = (6080, 5555)
TUNNEL_SOURCES = tuple(map(prefix, ("192.0.2.10", "198.18.0.0/15", "0.0.0.0/0", "2001:db8:1::10", "2001:db8:7::/48")))
HOP = Hop(mac("02:00:00:00:0e:01"), mac("02:00:00:00:02:01"))
FLAGS = (0x10, 0x10, 0x02, 0x02, 0x18, 0x11, 0x14, 0x04, 0x12, 0x01, 0x00, 0x03, 0x29, 0xC2)
OCTETS_MORE = 3 * OCTETS


# services


@st.composite
def backends(draw: st.DrawFn, family: int) -> Backend:
    source = draw(one_of(*OUTER[family]))
    return Backend(
        source,
        draw(one_of(*REALS[family])),
        draw(hops()) if draw(chance(30)) else HOP,
        draw(one_of(bytes(4), bytes(4), b"\0\0\0\xff", b"\0\0\xff\xff")),
        draw(one_of(None, None, None, 6080, 1)),
        draw(chance(20)),
        draw(chance(15)),
    )


@st.composite
def services(draw: st.DrawFn, vip: Address, ports: tuple[int, int], protocols: frozenset[int]) -> Service:
    families = st.sampled_from([4, 4, 6]) if vip.family == 4 else st.just(6)
    each = tuple(draw(backends(draw(families))) for _ in range(draw(st.integers(1, 4))))
    numbers = st.integers(0, len(each) - 1)
    ring = st.lists(
        st.builds(Slot, numbers, numbers, one_of("CLOSED", "CLOSED", "OPEN", "OPEN", "RESIDUAL")),
        min_size=1,
        max_size=7,
    )
    slots = tuple(draw(ring)) if draw(chance(95)) else ()
    return Service(vip, protocols, *ports, each, slots, draw(one_of(0, 1, (1 << 64) - 1)), draw(chance(20)))


def overlaps(one: Service, other: Service) -> bool:
    return (
        one.vip == other.vip
        and bool(one.protocols & other.protocols)
        and one.first <= other.last
        and other.first <= one.last
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Table, Services]:
    """A router with services, and forward behind it."""
    made: list[Service] = []
    for _ in range(draw(st.integers(1, 5))):
        protocols = frozenset(draw(one_of((TCP,), (TCP,), (UDP,), (TCP, UDP))))
        each = draw(services(draw(one_of(*VIPS)), draw(one_of(*PORTS)), protocols))
        if not any(overlaps(each, other) for other in made):
            made.append(each)
    vips = {each.vip: Vip(draw(chance(40)), draw(chance(60))) for each in made}
    decaps = draw(st.frozensets(decap(), max_size=3))
    more = frozenset(draw(st.sets(one_of(*GUE_PORTS))))
    table = Table(
        prefixes={prefix("0.0.0.0/0"): HOP, prefix("::/0"): HOP},
        local=frozenset(Prefix(*vip, 32 if vip.family == 4 else 128) for vip, each in vips.items() if each.local),
        neighbours={("out0", address): draw(MACS) for address in draw(st.sets(one_of(*REALS[4], *REALS[6])))},
        devices=devices(able=draw(chance(90)), frags=draw(chance(80))),
        leased=draw(chance(85)),
        whole_frames=draw(chance(90)),
        generic=draw(chance(15)),
    )
    return table, Services(tuple(made), vips, decaps, more)


@st.composite
def decap(draw: st.DrawFn) -> Decap:
    family = draw(one_of(4, 6))
    source = draw(st.sampled_from([each for each in TUNNEL_SOURCES if each.family == family]))
    return Decap(draw(one_of(*LOCALS[family])), source, draw(chance(40)))


# frames


def frames(table: Table, known: Services, seed: int, count: int) -> list[bytes]:
    """So many frames for this router; the same for the same seed and router."""
    octets = random.Random(f"{seed} {table} {known}")
    return [frame(Choices(octets.randbytes(OCTETS_MORE)), known) for _ in range(count)]


def frame(by: Choices, known: Services) -> bytes:
    """One frame: for a service, an echo, an error about a service's packet, or a tunnel's."""
    kind = by.of([segment] * 10 + [echo, error, error, tunnel, tunnel, other])
    family, packet = kind(by, known)
    return framed(by, packet, family)


def client(by: Choices, family: int) -> Address:
    return by.odd(0.05, by.of(CLIENTS[family]), SOURCES[family])


def port_of(by: Choices, service: Service) -> int:
    """One of the service's ports, or one beside."""
    inside = [service.first, service.last, service.first + (service.last - service.first) // 3]
    return by.odd(0.1, by.of(inside), [(service.first - 1) & 0xFFFF, (service.last + 1) & 0xFFFF, 22])


def l4(by: Choices, protocol: int, ports: tuple[int, int], size: int) -> bytes:
    """A header and so many octets behind it; sometimes it is cut short."""
    if protocol == TCP:
        whole = struct.pack("!HHIIBBHI", *ports, 1, 1, 0x50, by.of(FLAGS), 1024, 0) + bytes(size)
    else:
        whole = struct.pack("!HHHH", *ports, min(8 + size, 65535), 0) + bytes(size)
    return whole[: by.odd(0.04, len(whole), [0, 3, 4, 7, 8, 13, 14, 19, 20])]


def size_of(by: Choices, service: Service, head: int) -> int:
    """Of a payload: any, or one with which the packet is about as long as fits a backend's next hop."""
    if not by.seldom(0.25):
        return by.of(SIZES)
    backend = by.of(service.backends)
    return min(max(backend.hop.mtu - backend.overhead - head + by.of([0, 1, -1, 8]), 0), 8950)


def segment(by: Choices, known: Services) -> tuple[int, bytes]:
    """A TCP segment or a datagram to a service's port, or nearly so."""
    service = by.of(known.services)
    family, protocol = service.vip.family, by.odd(0.1, by.of(sorted(service.protocols)), [TCP, UDP])
    sender, ports = client(by, family), (by.of(CLIENT_PORTS), port_of(by, service))
    head = {4: 20, 6: 40}[family] + {TCP: 20, UDP: 8}[protocol]
    body = l4(by, protocol, ports, size_of(by, service, head))
    return family, whole(by, sender, service.vip, protocol, body)


def whole(by: Choices, source: Address, to: Address, protocol: int, body: bytes) -> bytes:
    if to.family == 6:
        return whole6(by, source, to, protocol, body)
    options, fragment = by.odd(0.08, b"", OPTIONS), by.odd(0.15, 0x4000, FRAGMENTS)
    return whole4(by, source, to, protocol, body, options, fragment)


def echo(by: Choices, known: Services) -> tuple[int, bytes]:
    """An echo request, or another message that is no error."""
    vip = by.of(known.services).vip
    kind = by.odd(0.2, 8 if vip.family == 4 else 128, [0, 8, 13, 19, 128, 129, 133, 137])
    message = bytes([kind, by.odd(0.1, 0, [1, 3])]) + by.number(2).to_bytes(2, "big") + bytes(by.of([4, 12, 60, 1]))
    return vip.family, whole(by, client(by, vip.family), vip, ICMP if vip.family == 4 else ICMP6, message)


def error(by: Choices, known: Services) -> tuple[int, bytes]:
    """An ICMP error that quotes what a backend has sent to a client, or nearly so."""
    service = by.of(known.services)
    family, protocol = service.vip.family, by.odd(0.1, by.of(sorted(service.protocols)), [TCP, UDP, 132])
    receiver, port = by.of(CLIENTS[family]), by.of(CLIENT_PORTS)
    source = by.odd(0.1, service.vip, VIPS)
    if source.family != family:
        source = service.vip
    sent = whole(by, source, receiver, protocol, l4(by, UDP, (port_of(by, service), port), by.of([0, 100])))
    sent = sent[: by.odd(0.3, len(sent), [{4: 28, 6: 48}[family], 20, 24, 27, 44, 10])]
    kind = by.odd(0.1, by.of([3, 11, 12] if family == 4 else [1, 2, 3, 4]), [0, 4, 5, 3, 1, 128])
    message = bytes([kind, by.of([0, 1, 3, 4]), 0, 0]) + struct.pack("!I", by.of([0, 1400])) + sent
    router = by.of(CLIENTS[family])
    return family, whole(by, router, service.vip, ICMP if family == 4 else ICMP6, message)


def tunnel(by: Choices, known: Services) -> tuple[int, bytes]:
    """A packet in another, for this host or nearly so."""
    outer, inner = by.of([4, 6]), by.of([4, 4, 6])
    _, packet = segment(by, known)
    inner = packet[0] >> 4
    if inner == 4 and by.seldom(0.5):
        packet = marked(packet, by.of([0, 1, 2, 3]))
    protocol, body = {4: 4, 6: 41}.get(inner, 4), packet + by.odd(0.1, b"", [b"pad", bytes(20)])
    if by.seldom(0.4):
        length = by.odd(0.1, 8 + len(body), [0, 7, 8, 9, 20, 8 + len(body) - 1, 8 + len(body) + 1])
        head = struct.pack("!HHHH", 50000, by.odd(0.1, by.of(GUE_PORTS), [0, 80]), length & 0xFFFF, by.number(2))
        protocol, body = UDP, head + body
    to = by.odd(0.15, by.of(LOCALS[outer]), [*VIPS, *LOCALS[4], *LOCALS[6]])
    sources = [Address(outer, each.number) for each in TUNNEL_SOURCES if each.family == outer and each.number]
    sender = by.odd(0.3, by.of(sources), CLIENTS[to.family])
    if sender.family != to.family:
        sender = by.of(CLIENTS[to.family])
    protocol = by.odd(0.05, protocol, [4, 41, UDP])
    return to.family, whole(by, sender, to, protocol, body)


def marked(packet: bytes, ecn: int) -> bytes:
    """An IPv4 packet with another ECN field, and a checksum to match, if it had a header at all."""
    changed, header = bytearray(packet), (packet[0] & 15) * 4
    changed[1] = changed[1] & 0xFC | ecn
    changed[10:12] = bytes(2)
    if header % 2 == 0 and len(packet) >= max(header, 20):
        changed[10:12] = internet_checksum(bytes(changed[:header])).to_bytes(2, "big")
    return bytes(changed)


def other(by: Choices, known: Services) -> tuple[int, bytes]:
    """A protocol that no service has, or an address beside a VIP."""
    service = by.of(known.services)
    family = service.vip.family
    to = Address(family, service.vip.number ^ by.of([0, 1, 2, 1 << 8, 1 << 31]))
    body = l4(by, by.of([TCP, UDP]), (by.of(CLIENT_PORTS), port_of(by, service)), by.of(SIZES))
    return family, whole(by, client(by, family), to, by.of([TCP, UDP, 132, 47, 50, 4, ICMP, ICMP6]), body)
