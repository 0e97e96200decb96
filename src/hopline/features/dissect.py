"""A frame decoded field by field, for people; what two frames differ in; and what is wrong with one. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from hopline.features.probe import FLAGS, internet_checksum

_ETHERTYPES = {
    0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6", 0x8100: "802.1Q", 0x88A8: "802.1ad", 0x8847: "MPLS",
    0x8863: "PPPoE discovery", 0x8864: "PPPoE", 0x88CC: "LLDP", 0x888E: "802.1X",
}  # fmt: skip
_PROTOCOLS = {
    0: "hop-by-hop", 1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 17: "UDP", 41: "IPv6", 43: "routing", 44: "fragment",
    47: "GRE", 50: "ESP", 51: "AH", 58: "ICMPv6", 59: "no next header", 60: "destination options", 89: "OSPF",
    112: "VRRP", 132: "SCTP", 136: "UDP-Lite",
}  # fmt: skip
_ICMP = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_ICMP6 = {
    1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply",
    133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation",
    136: "neighbour advertisement",
}  # fmt: skip
_ARP = {1: "request", 2: "reply"}
_TAGS = (0x8100, 0x88A8)


@dataclass(frozen=True)
class Header:
    """One header: its name, its fields as (name, value) in the order they are read, and where its payload begins."""

    name: str
    fields: tuple[tuple[str, str], ...]
    end: int


def ethertype_name(number: int) -> str:
    """Return an EtherType in words: its name where it has a common one."""
    if number < 0x600:
        return "802.3 with LLC"
    return _ETHERTYPES.get(number, f"EtherType {number:#06x}")


def protocol_name(number: int) -> str:
    """Return an IP protocol in words."""
    return _PROTOCOLS.get(number, f"protocol {number}")


def tcp_flags(octet: int) -> str:
    """Return TCP's flags as letters, those of `--flags`."""
    return "".join(letter for letter, bit in FLAGS.items() if octet & bit) or "none"


def icmp_name(protocol: int, kind: int, code: int) -> str:
    """Return an ICMP message's type and code in words."""
    known = (_ICMP if protocol == 1 else _ICMP6).get(kind)
    return f"type {kind} code {code}" + (f" ({known})" if known else "")


def dissect(frame: bytes, *, tunnel: bool = False) -> list[Header]:
    """Return the headers of a frame, outermost first; reading ends where it is cut off or not known.

    `tunnel`: what the first UDP header has behind it is read as a packet where it begins like one, as GUE's does.
    """
    return list(_headers(frame, tunnel))


def _headers(frame: bytes, tunnel: bool) -> Iterator[Header]:
    if len(frame) < 14:
        return
    kind, at = _u16(frame, 12), 14
    fields = [("to", frame[:6].hex(":")), ("from", frame[6:12].hex(":")), ("type", ethertype_name(kind))]
    yield Header("Ethernet", tuple(fields), at)
    while kind in _TAGS and len(frame) >= at + 4:
        tci, kind = _u16(frame, at), _u16(frame, at + 2)
        at += 4
        tagged = (("id", str(tci & 0xFFF)), ("priority", str(tci >> 13)), ("type", ethertype_name(kind)))
        yield Header("VLAN", tagged, at)
    if kind == 0x0800 and len(frame) >= at + 20:
        yield from _ipv4(frame, at, tunnel)
    elif kind == 0x86DD and len(frame) >= at + 40:
        yield from _ipv6(frame, at, tunnel)
    elif kind == 0x0806 and len(frame) >= at + 28:
        yield _arp(frame, at)


def _ipv4(frame: bytes, at: int, tunnel: bool = False) -> Iterator[Header]:
    length, fragment = (frame[at] & 15) * 4, _u16(frame, at + 6)
    flags = [name for name, bit in (("DF", 0x4000), ("MF", 0x2000)) if fragment & bit]
    fields = [
        ("from", _address(frame[at + 12 : at + 16])),
        ("to", _address(frame[at + 16 : at + 20])),
        ("protocol", protocol_name(frame[at + 9])),
        ("TTL", str(frame[at + 8])),
        ("checksum", f"{_u16(frame, at + 10):#06x}"),
        ("length", str(_u16(frame, at + 2))),
        ("id", str(_u16(frame, at + 4))),
        ("flags", " ".join(flags) or "none"),
        ("tos", f"{frame[at + 1]:#04x}"),
    ]
    if fragment & 0x1FFF:
        fields.append(("fragment offset", str((fragment & 0x1FFF) * 8)))
    if length > 20:
        fields.append(("options", frame[at + 20 : at + length].hex()))
    yield Header("IPv4", tuple(fields), at + length)
    if length >= 20 and not fragment & 0x1FFF:
        yield from _l4(frame, at + length, min(len(frame), at + _u16(frame, at + 2)), frame[at + 9], tunnel)


def _ipv6(frame: bytes, at: int, tunnel: bool = False) -> Iterator[Header]:
    fields = (
        ("from", _address(frame[at + 8 : at + 24])),
        ("to", _address(frame[at + 24 : at + 40])),
        ("next header", protocol_name(frame[at + 6])),
        ("hop limit", str(frame[at + 7])),
        ("payload", str(_u16(frame, at + 4))),
        ("traffic class", f"{_u16(frame, at) >> 4 & 0xFF:#04x}"),
        ("flow label", f"{int.from_bytes(frame[at + 1 : at + 4], 'big') & 0xFFFFF:#07x}"),
    )
    end = min(len(frame), at + 40 + _u16(frame, at + 4))
    protocol = frame[at + 6]
    at += 40
    yield Header("IPv6", fields, at)
    # RFC 8200 section 4
    while protocol in (0, 43, 44, 51, 60) and at + 8 <= end:
        name, later = protocol_name(protocol), protocol == 44 and _u16(frame, at + 2) & 0xFFF8
        size = 8 if protocol == 44 else (frame[at + 1] + 2) * 4 if protocol == 51 else (frame[at + 1] + 1) * 8
        protocol = frame[at]
        yield Header(name, (("next header", protocol_name(protocol)), ("octets", str(size))), at + size)
        at += size
        if later:
            return
    yield from _l4(frame, at, end, protocol, tunnel)


def _l4(frame: bytes, at: int, end: int, protocol: int, tunnel: bool) -> Iterator[Header]:
    if protocol == 6 and at + 20 <= end:
        fields = [("from port", str(_u16(frame, at))), ("to port", str(_u16(frame, at + 2)))]
        fields += [("flags", tcp_flags(frame[at + 13])), ("seq", str(int.from_bytes(frame[at + 4 : at + 8], "big")))]
        fields += [("ack", str(int.from_bytes(frame[at + 8 : at + 12], "big"))), ("window", str(_u16(frame, at + 14)))]
        fields += [("checksum", f"{_u16(frame, at + 16):#06x}")]
        yield Header("TCP", tuple(fields), at + (frame[at + 12] >> 4) * 4)
    elif protocol == 17 and at + 8 <= end:
        fields = [("from port", str(_u16(frame, at))), ("to port", str(_u16(frame, at + 2)))]
        fields += [("length", str(_u16(frame, at + 4))), ("checksum", f"{_u16(frame, at + 6):#06x}")]
        yield Header("UDP", tuple(fields), at + 8)
        if tunnel:
            yield from _tunnelled(frame, at + 8, end)
    elif protocol in (4, 41):
        yield from _tunnelled(frame, at, end)
    elif protocol in (1, 58) and at + 4 <= end:
        fields = [("message", icmp_name(protocol, frame[at], frame[at + 1]))]
        fields += [("checksum", f"{_u16(frame, at + 2):#06x}")]
        if frame[at : at + 2] == (b"\x03\x04" if protocol == 1 else b"\x02\x00") and at + 8 <= end:
            fields.append(("MTU", str(int.from_bytes(frame[at + 4 : at + 8], "big"))))
        yield Header(protocol_name(protocol), tuple(fields), min(end, at + 8))


def _tunnelled(frame: bytes, at: int, end: int) -> Iterator[Header]:
    version = frame[at] >> 4 if at < end else 0
    if version == 4 and at + 20 <= end:
        yield from _ipv4(frame, at)
    elif version == 6 and at + 40 <= end:
        yield from _ipv6(frame, at)


def _arp(frame: bytes, at: int) -> Header:
    operation = _u16(frame, at + 6)
    fields = [("operation", _ARP.get(operation, str(operation)))]
    if frame[at + 4 : at + 6] == b"\x06\x04":
        fields += [("sender", f"{_address(frame[at + 14 : at + 18])} {frame[at + 8 : at + 14].hex(':')}")]
        fields += [("target", _address(frame[at + 24 : at + 28]))]
    return Header("ARP", tuple(fields), at + 28)


def _u16(frame: bytes, at: int) -> int:
    return int.from_bytes(frame[at : at + 2], "big")


def _address(packed: bytes) -> str:
    return str(ip_address(packed))


def defects(frame: bytes) -> list[str]:
    """Return what is wrong with an IP packet's header, as ip_rcv and ip6_rcv_core would see it; [] where nothing is."""
    if len(frame) < 14:
        return [f"{len(frame)} octets are less than an Ethernet header has"]
    kind, at = _u16(frame, 12), 14
    while kind in _TAGS:
        if len(frame) < at + 4:
            return ["it ends within a VLAN tag"]
        kind, at = _u16(frame, at + 2), at + 4
    if kind == 0x0800:
        return _ipv4_defects(frame, at)
    return _ipv6_defects(frame, at) if kind == 0x86DD else []


def _ipv4_defects(frame: bytes, at: int) -> list[str]:
    there = len(frame) - at
    if there < 20:
        return [f"it ends within the IPv4 header, after {there} of 20 octets"]
    if frame[at] >> 4 != 4:
        return [f"its EtherType is IPv4's and its IP version is {frame[at] >> 4}"]
    header, total = (frame[at] & 15) * 4, _u16(frame, at + 2)
    if header < 20:
        return [f"its header length is {header} octets, and an IPv4 header has 20 at least"]
    if total < header:
        return [f"its total length of {total} octets is less than its header's {header}"]
    if total > there:
        return [f"its total length is {total} octets, and the frame holds {there} of them"]
    held = frame[at : at + header]
    found, right = _u16(held, 10), internet_checksum(held[:10] + bytes(2) + held[12:])
    # one's complement has two zeros
    if found != right and {found, right} != {0, 0xFFFF}:
        return [f"its header checksum is {found:#06x}, and should be {right:#06x}"]
    return []


def _ipv6_defects(frame: bytes, at: int) -> list[str]:
    there = len(frame) - at
    if there < 40:
        return [f"it ends within the IPv6 header, after {there} of 40 octets"]
    if frame[at] >> 4 != 6:
        return [f"its EtherType is IPv6's and its IP version is {frame[at] >> 4}"]
    payload = _u16(frame, at + 4)
    if payload > there - 40:
        return [f"its payload length is {payload} octets, and the frame holds {there - 40} of them"]
    if payload > 0xFFFF - 40:
        return [f"its payload length of {payload} octets is more than a packet of 65535 has room for"]
    return []
