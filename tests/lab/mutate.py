"""Random IP packets, mostly right and each wrong or odd in some field, for comparing routers with each other.

Every one ends in a marker of its own, unless it was cut, so that what arrives can be told apart.
"""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

HOP_BY_HOP, ROUTING, FRAGMENT, AH, NO_NEXT, DESTINATION = 0, 43, 44, 51, 59, 60
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
LARGEST = 1514

OPTIONS4 = [
    b"\x01\x01\x01\x01",
    b"\x94\x04\x00\x00",  # router alert
    b"\x07\x07\x04\x00\x00\x00\x00\x00",  # record route, room for one
    b"\x44\x08\x09\x00\x00\x00\x00\x00",  # timestamps, full: one with room would tell the time, and differ
    b"\x83\x07\x04\x0a\x02\x00\x02\x00",  # loose source route
    b"\x86\x04\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x00" * 40,
]
# with a right checksum of these, the decrement carries or comes close to it
CARRIES = [0xFEFF, 0xFEFE, 0xFF00, 0xFFFE, 0x0000, 0x0001, 0x00FF, 0x0100, 0xFF01]


@dataclass(frozen=True)
class World:
    """Addresses that mean something to the router under test; the right MACs of a frame to it."""

    to_router: bytes
    from_host: bytes
    sources4: list[str]
    destinations4: list[str]
    sources6: list[str]
    destinations6: list[str]


def internet_checksum(octets: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frames(world: World, seed: int, count: int, kinds: tuple[int, ...] = (4, 6)) -> list[bytes]:
    """`count` frames, the same for the same seed."""
    rng = random.Random(seed)
    make = {4: packet4, 6: packet6}
    return [framed(rng, world, *make[rng.choice(kinds)](rng, world, number)) for number in range(count)]


def often(rng: random.Random, usual: object, *odd: object, share: float = 0.1) -> object:
    """The usual value, or one of the odd ones in `share` of the cases; a function among them is called."""
    value = rng.choice(odd) if rng.random() < share else usual
    return value() if isinstance(value, Callable) else value


def length_of(rng: random.Random) -> int:
    return rng.choice([0, 1, 4, 7, 8, 20, 64, 200, 1000, rng.randrange(1400)])


def payload(rng: random.Random, protocol: int, number: int, room: int) -> bytes:
    """Something like L4, then a marker; ports differ from packet to packet, so that nothing is taken for one flow."""
    ports = struct.pack("!HH", 1024 + number, rng.randrange(1, 65536))
    heads = {
        TCP: ports + rng.randbytes(8) + b"\x50" + rng.choice([b"\x10", b"\x02", b"\x18"]) + rng.randbytes(6),
        UDP: ports + struct.pack("!HH", 8 + room + 8, 0),
        ICMP: bytes([rng.choice([8, 0, 3, 5, 11, 13])]) + rng.randbytes(7),
        ICMP6: bytes([rng.choice([128, 129, 1, 2])]) + rng.randbytes(7),
    }
    return heads.get(protocol, rng.randbytes(8)) + rng.randbytes(room) + struct.pack("!4sI", b"mark", number)


def packet4(rng: random.Random, world: World, number: int) -> tuple[int, bytes]:
    options = often(rng, b"", *OPTIONS4, share=0.06)
    protocol = rng.choice([UDP, UDP, TCP, TCP, ICMP, 132, 136, 47, 4, 41, 50, 51, 253, 0])
    body = payload(rng, protocol, number, length_of(rng))
    real = 20 + len(options) + len(body)
    fields = {
        "first": often(rng, 0x45 + len(options) // 4, 0x44, 0x55, 0x46, 0x4F, 0x40, 0x65, share=0.02),
        "tos": often(rng, 0, lambda: rng.randrange(256), share=0.3),
        "length": often(rng, real, 0, 19, 20, real - 1, real + 1, 65535, real - 8, share=0.06),
        "id": rng.randrange(65536),
        "fragment": often(rng, 0x4000, 0, 0x2000, 0x8000, 0x0001, 0x2010, 0x1FFF, 0xC000, 0x6000, share=0.4),
        "ttl": often(rng, 64, 0, 1, 2, 3, 255, share=0.3),
        "protocol": protocol,
        "source": address4(rng, world.sources4, 0.3),
        "destination": address4(rng, world.destinations4, 0.6),
    }
    if rng.random() < 0.1:
        # one's complement: the id that makes the checksum this very one
        fields["id"] = (internet_checksum(header4(fields, 0, options, identity=0)) - rng.choice(CARRIES)) % 0xFFFF
    right = internet_checksum(header4(fields, 0, options))
    sum_ = often(rng, right, 0, 0xFFFF, right ^ 1, right ^ 0x8000, share=0.04)
    return 0x0800, header4(fields, sum_, options) + body


def address4(rng: random.Random, known: list[str], share: float) -> IPv4Address:
    return IPv4Address(often(rng, known[0], *known, lambda: rng.randrange(1 << 32), share=share))


def header4(fields: dict, checksum: int, options: bytes, identity: int | None = None) -> bytes:
    numbers = [fields[name] for name in ("first", "tos", "length", "id", "fragment", "ttl", "protocol")]
    if identity is not None:
        numbers[3] = identity
    ends = fields["source"].packed + fields["destination"].packed
    return struct.pack("!BBHHHBBH", *numbers, checksum) + ends + options


def extension(rng: random.Random, kind: int, next_header: int) -> bytes:
    """One IPv6 extension header, sometimes longer than it should be."""
    if kind == FRAGMENT:
        return bytes([next_header, 0]) + struct.pack("!HI", rng.choice([0, 1, 8, 9, 0xFFF8]), rng.randrange(1 << 32))
    if kind == AH:
        return bytes([next_header, 4]) + rng.randbytes(22)
    if kind == ROUTING:
        left = rng.choice([0, 1])
        return bytes([next_header, 2, rng.choice([0, 2, 3, 4]), left, 0, 0, 0, 0]) + rng.randbytes(16)
    # router alert, an unknown option to skip, one to drop for, and PadN
    options = [b"\x05\x02\x00\x00\x01\x00", b"\x1e\x04abcd", b"\x9e\x04abcd", b"\x01\x04\0\0\0\0"]
    return bytes([next_header, often(rng, 0, 1, 255, share=0.1)]) + rng.choice(options)


def packet6(rng: random.Random, world: World, number: int) -> tuple[int, bytes]:
    protocol = rng.choice([UDP, UDP, TCP, TCP, ICMP6, 132, 136, 47, 4, 41, 50, NO_NEXT, 253])
    body = payload(rng, protocol, number, length_of(rng))
    chain = rng.choice([[]] * 8 + [[HOP_BY_HOP], [ROUTING], [FRAGMENT], [AH], [DESTINATION], [DESTINATION, ROUTING],
                                   [HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, AH], [DESTINATION, HOP_BY_HOP],
                                   [DESTINATION] * 8])  # fmt: skip
    next_header = protocol
    for kind in reversed(chain):
        body = extension(rng, kind, next_header) + body
        next_header = kind
    real = len(body)
    length = often(rng, real, 0, max(real - 1, 0), real + 1, 65535, max(real - 8, 0), share=0.06)
    version = often(rng, 6, 4, 5, 7, 0, share=0.02)
    word = version << 28 | often(rng, 0, lambda: rng.randrange(1 << 28), share=0.3)
    limit = often(rng, 64, 0, 1, 2, 3, 255, share=0.3)
    source = often(rng, world.sources6[0], *world.sources6, lambda: rng.randrange(1 << 128), share=0.3)
    destination = often(rng, world.destinations6[0], *world.destinations6, lambda: rng.randrange(1 << 128), share=0.6)
    ends = IPv6Address(source).packed + IPv6Address(destination).packed
    return 0x86DD, struct.pack("!IHBB", word, length, next_header, limit) + ends + body


def framed(rng: random.Random, world: World, ethertype: int, packet: bytes) -> bytes:
    """The packet in a frame, sometimes tagged, padded, cut, or to another MAC."""
    to = often(rng, world.to_router, b"\xff" * 6, bytes.fromhex("333300000001"), bytes.fromhex("01005e000005"),
               world.to_router[:5] + b"\x77", share=0.04)  # fmt: skip
    # VLAN 0 is no VLAN: the kernel forwards what is in such a tag
    tag = often(rng, b"", struct.pack("!HH", 0x8100, 7), struct.pack("!HH", 0x8100, 0xA000),
                struct.pack("!HHHH", 0x88A8, 7, 0x8100, 8), share=0.03)  # fmt: skip
    ethertype = often(rng, ethertype, 0x0800, 0x86DD, 0x0806, 0x88B5, share=0.01)
    padding = often(rng, b"", b"\0" * 6, b"\x55" * 18, b"\xaa", share=0.1)
    frame = to + world.from_host + tag + struct.pack("!H", ethertype) + packet + padding
    if rng.random() < 0.04:
        frame = frame[: rng.randrange(14, len(frame))]
    return frame[:LARGEST]
