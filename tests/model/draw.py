"""What Hypothesis draws: tables whose prefixes overlap, and frames that hit their edges and are odd in every field.

A table is drawn field by field, and with it a seed for its frames: to draw each choice of a frame would take ten times
as long as all that is then done with it. The octets that seed and table give are spent by choosing (`Choices`).
"""

import functools
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from bpf.pipeline import FAR_MAC, IN_MAC, NEAR_MAC, OUT_MAC
from model.model import FIRST_BUFFER, internet_checksum
from model.table import BITS, CONNECTED, Address, Hop, Prefix, Route, Table, address, cut, devices, mac, prefix

OCTETS = 64  # for the choices of one frame


def addresses(texts: str) -> tuple[Address, ...]:
    return tuple(address(text) for text in texts.split())


# overlapping trees: the ends of each other's prefixes, the router's own networks, and nothing in particular
BASES = {
    4: addresses(
        "198.51.100.0 198.51.100.64 198.51.100.7 198.51.99.255 203.0.113.0 10.0.2.32 10.0.1.32 100.64.0.0 192.0.2.128"
    ),
    6: addresses(
        "2001:db8:f:: 2001:db8:f::7 2001:db8:f:1:: 2001:db8:f:0:8000:: 64:ff9b:: 2001:db8:2::20 2001:db8:1::20 fd00::"
    ),
}
LENGTHS = {
    4: [0, 1, 8, 12, 15, 16, 17, 20, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32],
    6: [0, 3, 16, 31, 32, 33, 47, 48, 49, 56, 63, 64, 65, 80, 96, 97, 112, 120, 126, 127, 128],
}
GATEWAYS = {
    ("out0", 4): addresses("10.0.2.2 10.0.2.3 10.0.2.4 10.0.2.9"),
    ("out0", 6): addresses("2001:db8:2::2 2001:db8:2::3 fe80::3 fe80::9"),
    ("in0", 4): addresses("10.0.1.2 10.0.1.3 10.0.1.9"),
    ("in0", 6): addresses("2001:db8:1::2 fe80::3 2001:db8:1::9"),
    ("unslotted", 4): addresses("10.0.3.2"),
    ("unslotted", 6): addresses("fe80::4"),
}
# those that any table may know: gateways, and hosts on the two networks
NEIGHBOURS = [(device, each) for (device, _), some in GATEWAYS.items() for each in some] + [
    (device, address(f"{network}{n}"))
    for device, network in (("out0", "10.0.2."), ("out0", "2001:db8:2::"), ("in0", "10.0.1."), ("in0", "2001:db8:1::"))
    for n in (20, 32, 33, 64)
]
SOURCES = {
    4: addresses(
        "10.0.1.2 10.0.1.200 10.0.2.2 10.0.2.1 10.0.1.1 10.0.1.255 0.0.0.0 0.255.0.1 1.0.0.0 126.255.255.255 127.0.0.1"
        " 128.0.0.1 223.255.255.255 224.0.0.1 240.0.0.1 255.255.255.254 255.255.255.255 169.254.1.1 198.51.100.7"
    ),
    6: addresses(
        "2001:db8:1::2 2001:db8:1::77 2001:db8:2::2 2001:db8:2::1 2001:db8:1::1 :: ::1 ::2 0:0:1:: fe80::1 febf::1"
        " fe7f:ffff::1 fec0::1 ff02::1 ff0e::1 feff::1 ::ffff:10.0.1.2 2001:db8:f::7"
    ),
}
DESTINATIONS = {
    4: addresses(
        "10.0.2.2 10.0.1.2 10.0.2.77 10.0.2.1 10.0.1.1 10.0.2.255 10.0.2.0 0.0.0.0 0.1.2.3 1.0.0.1 126.0.0.1 127.0.0.1"
        " 128.0.0.0 223.255.255.255 224.0.0.0 239.255.255.255 240.0.0.1 255.255.255.254 255.255.255.255 169.254.1.1"
    ),
    6: addresses(
        "2001:db8:2::2 2001:db8:1::2 2001:db8:2::77 2001:db8:2::1 2001:db8:1::1 2001:db8:2:: 2001:db8:1:: ff02::1"
        " ff0e::5 feff::1 :: ::1 ::2 fe80::1 febf:ffff:: fec0::1 fe7f::1 ::ffff:10.0.2.2 2600::1"
    ),
}


# tables


# a strategy is dearer to make than to draw from, so each is made once


@functools.cache
def one_of(*options: object) -> st.SearchStrategy:
    return st.sampled_from(options)


@functools.cache
def chance(percent: int) -> st.SearchStrategy[bool]:
    # what is likely is what a failing table is made simpler to
    return st.integers(1, 100).map(lambda number: number <= percent if percent > 50 else number > 100 - percent)


def prefixes(family: int, shortest: int = 0) -> st.SearchStrategy[Prefix]:
    def make(base: Address, bit: int, length: int) -> Prefix:
        return cut(Address(family, base.number ^ (1 << bit if bit < BITS[family] else 0)), length)

    lengths = [length for length in LENGTHS[family] if length >= shortest]
    # most often none is flipped
    flips = st.one_of(st.just(BITS[family]), st.integers(0, BITS[family]))
    return st.builds(make, st.sampled_from(BASES[family]), flips, st.sampled_from(lengths))


ADDRESSES = st.one_of(prefixes(4, 32), prefixes(6, 128))
PREFIXES = st.one_of(prefixes(4), prefixes(6))
# not over a gateway, which would make it none
LOCAL = st.frozensets(st.one_of(prefixes(4, 28).filter(lambda to: not hides_gateway(to)), prefixes(6, 48)), max_size=2)
MACS = st.one_of(
    st.sampled_from([mac(FAR_MAC), *(mac(f"02:00:00:00:0e:{n:02x}") for n in range(4))]),
    st.binary(min_size=6, max_size=6).map(lambda octets: bytes([octets[0] & 0xFE]) + octets[1:]),
)
# no link-local ones: the program asks the FIB for the address alone, so any device's network may answer
FOUND_BY = (None, None, None, *GATEWAYS["out0", 4], *GATEWAYS["out0", 6][:2], *GATEWAYS["in0", 4])
SMALL_MTUS = (1500, 1499, 1400, 1281, 1280, 700, 576)
# with one a frame just fits TEST_RUN's first buffer, with the other it is in two or three
LARGE_MTUS = (FIRST_BUFFER - 14, 8000)


@st.composite
def hops(draw: st.DrawFn) -> Hop:
    """Most of them such that a route of the kernel's could say the same."""
    device = draw(one_of(*["out0"] * 9, "in0", "in0", "nowhere"))
    own = mac(IN_MAC if device == "in0" else OUT_MAC)
    return Hop(
        draw(MACS),
        draw(MACS) if draw(chance(10)) else own,
        device,
        draw(one_of(*SMALL_MTUS, 9000, 65535, 0)) if draw(chance(40)) else 1500,
        draw(one_of(*["READY"] * 15, "UNRESOLVED", "NO_DEVICE", "RETIRING")),
        draw(one_of(*FOUND_BY)),
    )


@st.composite
def routes(draw: st.DrawFn) -> tuple[Prefix, Route]:
    to = draw(PREFIXES)
    kind = draw(one_of(*["unicast"] * 14, "unreachable", "blackhole", "prohibit"))
    if kind != "unicast":
        return to, Route(kind, "lo")
    device = draw(one_of(*["out0"] * 7, "in0", "in0", "unslotted"))
    # an IPv4 route may have an IPv6 gateway
    family = draw(one_of(4, 4, 4, 6)) if to.family == 4 else 6
    via = draw(one_of(*GATEWAYS[device, family])) if draw(chance(80)) or device == "unslotted" else None
    mtu = draw(one_of(*(SMALL_MTUS[2:] if to.family == 4 else SMALL_MTUS[2:5]))) if draw(chance(20)) else None
    return to, Route("unicast", device, via, mtu, draw(chance(6)) and to.family == 4)


def hides_gateway(to: Prefix) -> bool:
    """Whether it takes a gateway out of its connected network."""
    within = to.length > (24 if to.family == 4 else 64)
    return within and any(to.covers(each) for some in GATEWAYS.values() for each in some)


HOPS = st.lists(hops(), min_size=1, max_size=5)
ROUTES = st.lists(routes(), min_size=2, max_size=14)
UNKNOWN = st.frozensets(one_of(*NEIGHBOURS), max_size=12)
THEIR_MACS = st.lists(MACS, min_size=1, max_size=4)
BOTH, NEITHER = frozenset({4, 6}), frozenset()


@st.composite
def tables(draw: st.DrawFn) -> Table:
    pick = st.sampled_from(draw(HOPS))
    exact = draw(st.dictionaries(ADDRESSES, pick, max_size=9))
    macs, unknown = draw(THEIR_MACS), draw(UNKNOWN)
    mtu = draw(one_of(1500, 1500, 1400, 1280, *LARGE_MTUS))
    out0 = {"mtu": mtu, "able": draw(chance(96)), "frags": draw(chance(70))}
    return Table(
        exact={Address(to.family, to.number): hop for to, hop in exact.items()},
        prefixes=draw(st.dictionaries(PREFIXES, pick, max_size=10)),
        local=draw(LOCAL),
        # the kernel takes none in place of its own
        routes={to: route for to, route in draw(ROUTES) if to not in CONNECTED and not hides_gateway(to)},
        neighbours={each: macs[n % len(macs)] for n, each in enumerate(NEIGHBOURS) if each not in unknown},
        devices=devices(**out0),
        learn=draw(one_of(*[BOTH] * 12, frozenset({4}), frozenset({6}), NEITHER)),
        forwarding=draw(one_of(*[BOTH] * 20, frozenset({4}), frozenset({6}))),
        bypass=draw(chance(30)),
        leased=draw(chance(82)),
        whole_frames=draw(chance(80)),
        generic=draw(chance(20)),
    )


SEEDS = st.integers(0, (1 << 64) - 1)


# frames

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NOTHING, DESTINATION = 0, 43, 44, 51, 59, 60
PROTOCOLS = {
    4: [UDP, TCP, UDP, TCP, ICMP, 132, 136, 47, 4, 41, 50, AUTHENTICATION, 253, 0],
    6: [UDP, TCP, UDP, TCP, ICMP6, 132, 136, 47, 4, 41, 50, NOTHING, 253],
}
TTLS = [64, 2, 1, 0, 3, 255, 128]
OPTIONS = [b"\x01\x01\x01\x01", b"\x94\x04\x00\x00", b"\x83\x07\x04\x0a\x02\x00\x02\x00", b"\xff" * 4, b"\x00" * 40]
# with a right checksum of these, taking one from the TTL carries or comes close to it
CARRIES = [0xFEFF, 0xFEFE, 0xFF00, 0xFFFE, 0x0000, 0x0001, 0x00FF, 0x0100, 0xFF01, 0xFE00, 0x7FFF, 0x8000]
CHAINS = [[HOP_BY_HOP], [ROUTING], [FRAGMENT], [AUTHENTICATION], [DESTINATION], [DESTINATION, ROUTING],
          [HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT], [DESTINATION, HOP_BY_HOP], [DESTINATION] * 8]  # fmt: skip
SIZES = [0, 1, 7, 18, 26, 64, 200, 1000]
FRAGMENTS = [0, 0x2000, 0x8000, 0x0001, 0x2010, 0x1FFF, 0xC000, 0x6000]


@dataclass
class Choices:
    """Octets, spent by choosing; the few frames that need more than there are get zeros, which is what is usual."""

    octets: bytes
    spent: int = 0

    def number(self, size: int = 1) -> int:
        taken = self.octets[self.spent : self.spent + size]
        self.spent += size
        return int.from_bytes(taken, "big")

    def of(self, options: Sequence) -> object:
        return options[self.number() * len(options) >> 8]

    def seldom(self, share: float) -> bool:
        """True in about that share of the cases, of 1."""
        return self.number() >= 256 * (1 - share)

    def odd(self, share: float, usual: object, options: Sequence) -> object:
        return self.of(options) if self.seldom(share) else usual


def points(table: Table) -> dict[int, list[Prefix]]:
    """What frames aim at: every address and prefix in the table, but those so short that all are in them anyway."""
    hosts = [to for device, to in table.neighbours if device == "out0"]
    ends = [Prefix(*each, BITS[each.family]) for each in [*table.exact, *hosts]]
    found = [*table.prefixes, *table.routes, *table.local, *ends]
    return {family: [each for each in found if each.family == family and each.length > 8] for family in (4, 6)}


def frames(table: Table, seed: int, count: int) -> list[bytes]:
    """So many frames for this table; the same for the same seed and table."""
    octets = random.Random(f"{seed} {table}")
    aims = points(table)
    mtus = [device.mtu for device in table.devices.values()]
    mtus += [each.mtu for each in (*table.exact.values(), *table.prefixes.values(), *table.routes.values()) if each.mtu]
    return [frame(Choices(octets.randbytes(OCTETS)), number, aims, mtus) for number in range(count)]


def aim(by: Choices, aims: list[Prefix], family: int) -> Address:
    """The first address of a prefix, its last, one of it, one off either end, or one that a single bit keeps out."""
    at = aims[by.number() * len(aims) >> 8] if aims else prefix(str(BASES[family][0]))
    rest = BITS[family] - at.length
    inside = at.number | by.number(2) & (1 << rest) - 1
    last = at.number | (1 << rest) - 1
    near = [at.number, last, inside, inside, last + 1, at.number - 1, inside ^ (1 << rest)]
    return Address(family, by.of(near) % (1 << BITS[family]))


def destination(by: Choices, aims: list[Prefix], family: int) -> Address:
    if by.seldom(0.15):
        return by.of(DESTINATIONS[family])
    return aim(by, aims, family)


def source(by: Choices, aims: list[Prefix], family: int) -> Address:
    if not by.seldom(0.2):
        return SOURCES[family][0]
    if by.seldom(0.3):
        return aim(by, aims, family)
    return Address(family, by.number(BITS[family] // 8)) if by.seldom(0.2) else by.of(SOURCES[family])


def payload(by: Choices, protocol: int, number: int, head: int, mtus: list[int]) -> bytes:
    """Something like L4, as long as an MTU allows or one octet more or less; no two alike, nor of one flow."""
    ports = struct.pack("!HH", 1024 + number, by.number(2))
    known = {TCP: ports + bytes(8) + b"\x50\x10" + bytes(6), UDP: ports + bytes(4), ICMP: b"\x08\0" + ports + b"ping"}
    start = known.get(protocol, b"\x80\0" + ports + b"some")
    near = by.of(mtus) - head - len(start) - 4 + by.of([0, 1, -1, 8])
    size = near if by.seldom(0.2) else by.of(SIZES)
    return start + bytes(min(max(size, 0), 8950)) + struct.pack("!I", number)


def packet4(by: Choices, number: int, aims: list[Prefix], mtus: list[int]) -> bytes:
    options = by.odd(0.05, b"", OPTIONS)
    protocol = by.of(PROTOCOLS[4])
    body = payload(by, protocol, number, 20 + len(options), mtus)
    fragment = by.odd(0.3, 0x4000, FRAGMENTS)
    return whole4(by, source(by, aims, 4), destination(by, aims, 4), protocol, body, options, fragment)


def whole4(
    by: Choices, source: Address, to: Address, protocol: int, body: bytes, options: bytes = b"", fragment: int = 0x4000
) -> bytes:
    """A packet that is sometimes odd in a field of its header."""
    real = 20 + len(options) + len(body)
    first = by.odd(0.02, 0x45 + len(options) // 4, [0x44, 0x55, 0x46, 0x4F, 0x40, 0x65, 0x35])
    length = by.odd(0.04, real, [0, 19, 20, 21, real - 1, real + 1, real - 4, real + 4, 65535])
    fields = [first, by.odd(0.3, 0, range(256)), length, by.number(2), fragment, by.odd(0.3, 64, TTLS), protocol]
    ends = source.packed + to.packed

    def header(checksum: int) -> bytes:
        return struct.pack("!BBHHHBBH", *fields, checksum) + ends

    if by.seldom(0.15):
        # in one's complement, the id that makes the checksum this very one
        wanted, fields[3] = by.of(CARRIES), 0
        fields[3] = (internet_checksum(header(0)) - wanted) % 0xFFFF
    right = internet_checksum(header(0) + options)
    wrong = [0, 0xFFFF, right ^ 1, right ^ 0x8000, right ^ 0x0100, right ^ (1 << by.number() % 16)]
    return header(by.odd(0.04, right, wrong)) + options + body


def extension(by: Choices, kind: int, following: int) -> bytes:
    """One extension header, sometimes longer than it should be."""
    if kind == FRAGMENT:
        return bytes([following, 0]) + struct.pack("!HI", by.of([0, 1, 8, 9, 0xFFF8]), 7)
    if kind == AUTHENTICATION:
        return bytes([following, 4]) + bytes(22)
    if kind == ROUTING:
        return bytes([following, 2, by.of([0, 2, 3, 4]), by.of([0, 1])]) + bytes(20)
    return bytes([following, by.odd(0.1, 0, [1, 255])]) + by.of([b"\x01\x04\0\0\0\0", b"\x05\x02\0\0\x01\0"])


def packet6(by: Choices, number: int, aims: list[Prefix], mtus: list[int]) -> bytes:
    protocol = by.of(PROTOCOLS[6])
    body = payload(by, protocol, number, 40, mtus)
    return whole6(by, source(by, aims, 6), destination(by, aims, 6), protocol, body)


def whole6(by: Choices, source: Address, to: Address, protocol: int, body: bytes) -> bytes:
    """A packet that sometimes has extension headers, or is odd in a field of its header."""
    for kind in reversed(by.odd(0.2, [], CHAINS)):
        body, protocol = extension(by, kind, protocol) + body, kind
    real = len(body)
    length = by.odd(0.04, real, [0, max(real - 1, 0), real + 1, real + 8, max(real - 8, 0), 65535])
    word = by.odd(0.02, 6, [4, 5, 7, 0, 14]) << 28 | by.odd(0.3, 0, [1 << 20, 0xFFFFFFF, 0xB9ABCDE, 0x80001])
    limit = by.odd(0.3, 64, TTLS)
    return struct.pack("!IHBB", word, length, protocol, limit) + source.packed + to.packed + body


TO_ROUTER = mac(IN_MAC)
OTHER_MACS = [b"\xff" * 6, mac("33:33:00:00:00:01"), mac("01:00:5e:00:00:05"), TO_ROUTER[:5] + b"\x77",
              b"\x06" + TO_ROUTER[1:], b"\x03" + TO_ROUTER[1:], mac(OUT_MAC)]  # fmt: skip
# the second is of VLAN 0, which is no VLAN to the kernel
TAGS = [b"\x81\x00\x00\x07", b"\x81\x00\xa0\x00", b"\x88\xa8\x00\x07\x81\x00\x00\x08", b"\x81\x00\x00\x07" * 3]
ETHERTYPES = [0x0800, 0x86DD, 0x0806, 0x88B5, 0x8100, 0x0000, 0x05DC, 0x8847]
PADDINGS = [bytes(6), b"\x55" * 18, b"\xaa", b"\x55" * 46, bytes(1000)]


def frame(by: Choices, number: int, aims: dict[int, list[Prefix]], mtus: list[int]) -> bytes:
    """One frame around a packet of either family."""
    family = by.of([4, 6])
    return framed(by, (packet4 if family == 4 else packet6)(by, number, aims[family], mtus), family)


def framed(by: Choices, packet: bytes, family: int) -> bytes:
    """A frame, sometimes tagged, padded, cut, or to another MAC."""
    to, tag = by.odd(0.04, TO_ROUTER, OTHER_MACS), by.odd(0.04, b"", TAGS)
    padding, cut_at = by.odd(0.12, b"", PADDINGS), by.number(2) if by.seldom(0.02) else None
    ethertype = by.odd(0.02, 0x0800 if family == 4 else 0x86DD, ETHERTYPES)
    whole = to + mac(NEAR_MAC) + tag + struct.pack("!H", ethertype) + packet + padding
    return whole if cut_at is None else whole[: 14 + cut_at % (len(whole) - 13)]
