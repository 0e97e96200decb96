"""What a VIP itself says, in ICMP: RFC 792, RFC 1122, RFC 1812, RFC 4443."""

import struct

from model.model import IPV4, IPV6, Answer, Packet, among, internet_checksum
from model.table import Address, prefix
from model.transport import ICMP, ICMP6, Transport, resummed, walked

# no host's: RFC 1122 section 3.2.1.3, and the classes D and E; RFC 4291
NO_HOST = tuple(map(prefix, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::", "::1", "ff00::/8")))
# RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c): how long an error may be
MOST_ERROR = {4: 576, 6: 1280}


def has_sender(packet: Packet) -> bool:
    """RFC 1122 section 3.2.2: whether there is a host to answer."""
    return packet.source != packet.destination and not among(packet.source, NO_HOST)


def echoed(frame: bytes, octets: bytes, packet: Packet, behind: Transport) -> Answer | None:
    """RFC 792: the same octets, addresses the other way round."""
    family = packet.destination.family
    asked, replied = (8, 0) if family == 4 else (128, 129)
    right = behind.protocol == (ICMP if family == 4 else ICMP6) and not behind.fragment and not behind.odd
    if not right or len(behind.octets) < 8 or behind.octets[:2] != bytes([asked, 0]) or not has_sender(packet):
        return None
    body = bytearray(behind.octets)
    (check,) = struct.unpack_from("!H", body, 2)
    body[0] = replied
    # from what it was, so that a wrong one stays wrong
    body[2:4] = resummed(check, asked << 8, replied << 8)
    head = bytearray(octets[: {4: IPV4, 6: IPV6}[family]])
    ends = packet.destination.packed + packet.source.packed
    if family == 4:
        head[8], head[12:20] = 64, ends
        head[10:12] = bytes(2)
        head[10:12] = internet_checksum(bytes(head)).to_bytes(2, "big")
    else:
        head[7], head[8:40] = 64, ends
    return Answer("ANSWERED_ECHO", frame[6:12] + frame[:6] + frame[12:14] + bytes(head + body))


def may_report(packet: Packet, behind: Transport) -> bool:
    """RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e): no error about an error, nor about what may be one."""
    if behind.later or not has_sender(packet):
        return False
    if behind.protocol not in (ICMP, ICMP6):
        return True
    if behind.octets is None or len(behind.octets) < 4:
        return False
    kind = behind.octets[0]
    if behind.protocol == ICMP6:
        return kind >= 128 and kind != 137
    return kind not in (3, 4, 5, 11, 12) and kind <= 18


def reported(frame: bytes, octets: bytes, packet: Packet, behind: Transport, mtu: int) -> Answer | None:
    """Time exceeded, or with an MTU fragmentation needed or packet too big; None where no error may be sent."""
    if not may_report(packet, behind):
        return None
    family = packet.destination.family
    head, (kind, code) = {4: IPV4, 6: IPV6}[family], error_of(family, mtu)
    quote = octets[: MOST_ERROR[family] - head - 8]
    body = bytes([kind, code, 0, 0]) + struct.pack("!I", mtu) + quote
    source, destination = packet.destination.packed, packet.source.packed
    if family == 4:
        start = struct.pack("!BBHHHBB", 0x45, 0xC0, IPV4 + len(body), 0, 0x4000, 64, ICMP)
        check = internet_checksum(start + bytes(2) + source + destination)
        header, under = start + check.to_bytes(2, "big") + source + destination, body
    else:
        header = struct.pack("!IHBB", 6 << 28, len(body), ICMP6, 64) + source + destination
        under = source + destination + struct.pack("!II", len(body), ICMP6) + body
    check = internet_checksum(under + bytes(len(under) % 2))
    whole = header + body[:2] + check.to_bytes(2, "big") + body[4:]
    return Answer("ANSWERED_ERROR", frame[6:12] + frame[:6] + frame[12:14] + whole)


def error_of(family: int, mtu: int) -> tuple[int, int]:
    """Type and code."""
    if family == 4:
        return (3, 4) if mtu else (11, 0)
    return (2, 0) if mtu else (3, 0)


def about_what(inner: bytes, family: int, vip: Address) -> tuple[Address, int, bytes] | None:
    """Of a quoted packet: whom it was for, its protocol, and what there is of its L4 header."""
    if family == 4:
        header = (inner[0] & 15) * 4
        later = struct.unpack_from("!H", inner, 6)[0] & 0x1FFF
        if header < IPV4 or later or inner[12:16] != vip.packed:
            return None
        return Address(4, int.from_bytes(inner[16:20], "big")), inner[9], inner[header:]
    if inner[8:24] != vip.packed:
        return None
    behind = walked(inner)
    if behind.octets is None:
        return None
    return Address(6, int.from_bytes(inner[24:40], "big")), behind.protocol, behind.octets
