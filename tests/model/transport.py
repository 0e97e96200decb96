"""What is behind an IP header, and the checksums that change with it."""

import struct
from dataclasses import dataclass

from model.model import IPV4, IPV6, Packet

ICMP, ICMP6, IPIP, IPV6_IN = 1, 58, 4, 41
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION)
MOST_EXTENSIONS = 6  # that are walked


@dataclass(frozen=True)
class Transport:
    """What is behind the IP header: protocol, its octets, and whether the packet is a fragment or has odd headers."""

    protocol: int
    octets: bytes | None  # None: of a later fragment, or the chain of headers ends before it
    fragment: bool = False
    later: bool = False
    odd: bool = False  # options or extension headers


def transport(octets: bytes, packet: Packet) -> Transport:
    """RFC 791 section 3.1; RFC 8200 section 4."""
    if packet.destination.family == 4:
        header = (octets[0] & 15) * 4
        fragment = struct.unpack_from("!H", octets, 6)[0] & 0x3FFF
        later = bool(fragment & 0x1FFF)
        return Transport(octets[9], None if later else octets[header:], bool(fragment), later, header > IPV4)
    return walked(octets)


def walked(octets: bytes, at: int = IPV6) -> Transport:
    """The headers of an IPv6 packet, or of what is there of it."""
    protocol, fragment, odd = octets[6], False, False
    for _ in range(MOST_EXTENSIONS):
        if protocol not in EXTENSIONS:
            break
        if len(octets) < at + 4:
            return Transport(protocol, None, fragment, False, True)
        following, length = octets[at], octets[at + 1]
        odd = True
        if protocol == FRAGMENT:
            (offset,) = struct.unpack_from("!H", octets, at + 2)
            fragment = fragment or bool(offset & 0xFFF9)
            if offset & 0xFFF8:
                return Transport(following, None, True, True, True)
            at += 8
        else:
            at += (length + 2) * 4 if protocol == AUTHENTICATION else (length + 1) * 8
        protocol = following
    if protocol in EXTENSIONS:
        return Transport(protocol, None, fragment, False, True)
    return Transport(protocol, octets[at:], fragment, False, odd)


def ports_of(behind: Transport) -> tuple[int, int] | None:
    """The ports of what begins with an L4 header."""
    return struct.unpack_from("!HH", behind.octets) if behind.octets is not None and len(behind.octets) >= 4 else None


def tos_of(octets: bytes) -> int:
    """TOS or traffic class of a packet."""
    return octets[1] if octets[0] >> 4 == 4 else struct.unpack_from("!H", octets)[0] >> 4 & 0xFF


def folded(*words: int) -> int:
    """Their ones' complement sum."""
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def resummed(check: int, old: int, new: int) -> bytes:
    """RFC 1624, equation 3: the checksum where one word under it becomes another."""
    return (~folded(~check & 0xFFFF, ~old & 0xFFFF, new) & 0xFFFF).to_bytes(2, "big")
