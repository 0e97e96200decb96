"""The model of decap: RFC 2003, RFC 2473, GUE variant 1, and RFC 6040 for ECN."""

import struct

from model.model import ETHERNET, IPV4, IPV6, Answer, Packet, internet_checksum
from model.services import UDP, Services
from model.transport import IPIP, IPV6_IN, resummed, tos_of, transport


def decapsulated(services: Services, frame: bytes, octets: bytes, packet: Packet) -> Answer | None:
    """RFC 2003, RFC 2473, and GUE variant 1; ECN by RFC 6040, but that nothing is dropped."""
    behind = transport(octets, packet)
    if behind.fragment or behind.odd or behind.protocol not in (IPIP, IPV6_IN, UDP) or behind.octets is None:
        return None
    inner, family, gue = behind.octets, {IPIP: 4, IPV6_IN: 6}.get(behind.protocol, 0), behind.protocol == UDP
    if gue:
        if len(inner) < 8 or struct.unpack_from("!H", inner, 2)[0] not in services.gue_ports:
            return None
        (length,) = struct.unpack_from("!H", inner, 4)
        inner = inner[8:length] if 8 <= length <= len(inner) else b""
        family = {4: 4, 6: 6}.get(inner[0] >> 4, 0) if inner else 0
    accepted = services.accepts(packet.destination, packet.source, gue)
    if accepted is None:
        return None
    if not accepted:
        return Answer("DROP_NOT_ACCEPTED", frame)
    length = inner_length(inner, family)
    if length is None:
        return Answer("DROP_MALFORMED", frame)
    ethertype = b"\x08\x00" if family == 4 else b"\x86\xdd"
    # what follows in the frame is the kernel's to cut off
    start = ETHERNET + packet.length - len(behind.octets) + (8 if gue else 0)
    return Answer("DECAPSULATED", frame[:12] + ethertype + joined_ecn(octets, frame[start:]))


def inner_length(inner: bytes, family: int) -> int | None:
    """How long the inner packet is; None where its header does not add up."""
    if family == 4 and len(inner) >= IPV4:
        header, (length,) = (inner[0] & 15) * 4, struct.unpack_from("!H", inner, 2)
        if inner[0] >> 4 != 4 or header < IPV4 or not header <= length <= len(inner):
            return None
        return None if header == IPV4 and internet_checksum(inner[:IPV4]) else length
    if family == 6 and len(inner) >= IPV6:
        length = IPV6 + struct.unpack_from("!H", inner, 4)[0]
        return length if inner[0] >> 4 == 6 and length <= len(inner) else None
    return None


def joined_ecn(outer: bytes, inner: bytes) -> bytes:
    """RFC 6040 section 4.2: what the tunnel's way has marked, the packet says from now on, if it can."""
    tos, mark = tos_of(inner), tos_of(outer) & 3
    if tos & 3 in (0, 3) or mark in (0, 2):
        return inner
    tos = tos & 0xFC | mark
    changed = bytearray(inner)
    if inner[0] >> 4 == 6:
        changed[1] = changed[1] & 0x0F | (tos & 0x0F) << 4
        return bytes(changed)
    changed[1] = tos
    # from what it was, so that one of a header with options, which nobody has looked at, stays wrong if it is
    (check,) = struct.unpack_from("!H", inner, 10)
    changed[10:12] = resummed(check, tos_of(inner), tos)
    return bytes(changed)
