"""A packet made of fields, for `explain` and `forward get`: what is not given is chosen, and said in the answer."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NoReturn

from hopline.config import canonical_address, shown
from hopline.errors import InvalidInput

# addresses that no host has (RFC 5737, RFC 3849), and a locally administered MAC: the packet's sender
SENDER4, SENDER6, SENDER_MAC = "192.0.2.1", "2001:db8::1", bytes.fromhex("020000000001")
TTL, SPORT, TCP_DPORT, UDP_DPORT = 64, 40000, 80, 53
LONGEST = 65535  # octets of an IP packet
SHORTEST_FRAME, LONGEST_FRAME = 14, LONGEST + 22  # a bare Ethernet header; one with two tags and the longest packet

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
_NAMES = {"icmp": ICMP, "tcp": TCP, "udp": UDP}
_HEADERS = {ICMP: 8, TCP: 20, UDP: 8, ICMP6: 8}
FLAGS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, "A": 0x10, "U": 0x20, "E": 0x40, "C": 0x80}


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What a packet is to be; None is chosen."""

    dst: str
    src: str | None = None
    protocol: str | None = None
    sport: int | None = None
    dport: int | None = None
    flags: str | None = None
    ttl: int | None = None
    size: int | None = None
    vlan: int | None = None


def probe_frame(fields: Fields, mac: bytes) -> bytes:
    """Return a frame to `mac` (to its group's, where dst is multicast); InvalidInput names the field that is wrong."""
    dst = ip_address(canonical_address(fields.dst, "dst"))
    src = _source(fields.src, dst)
    protocol = _protocol(fields.protocol or ("udp" if fields.flags is None else "tcp"), dst.version)
    _check_ports(fields, protocol)
    header = _l4_header(fields, protocol)
    around = 20 if dst.version == 4 else 40
    size = around + len(header) if fields.size is None else fields.size
    if not around + len(header) <= size <= LONGEST:
        what = f"an IPv{dst.version} packet of protocol {_spoken(protocol)}"
        _refuse("size", f"{size} octets are no size for {what}", f"give {around + len(header)} to {LONGEST}")
    ttl = _within("ttl", fields.ttl, TTL, 255)
    payload = _summed(header + bytes(size - around - len(header)), protocol, src, dst)
    if dst.version == 4:
        packet, ethertype = _ipv4(src, dst, protocol, ttl, payload), b"\x08\x00"
    else:
        packet, ethertype = _ipv6(src, dst, protocol, ttl, payload), b"\x86\xdd"
    tag = b""
    if fields.vlan is not None:
        tag = b"\x81\x00" + _within("vlan", fields.vlan, 0, 4094).to_bytes(2, "big")
    return _addressed(dst, mac) + SENDER_MAC + tag + ethertype + packet


def hex_frame(text: str) -> bytes:
    """Return the octets written in hex, with or without spaces, colons and 0x; InvalidInput where they are no frame."""
    digits = "".join(text.removeprefix("0x").replace(":", " ").replace("-", " ").split())
    hint = "give pairs of hex digits, from the destination MAC on"
    try:
        frame = bytes.fromhex(digits)
    except ValueError:
        odd = "an odd number of hex digits" if all(c in "0123456789abcdefABCDEF" for c in digits) else "not hex"
        _refuse("hex", f"{shown(text)} is {odd}", hint)
    if not SHORTEST_FRAME <= len(frame) <= LONGEST_FRAME:
        _refuse("hex", f"{len(frame)} octets are no Ethernet frame", f"give {SHORTEST_FRAME} to {LONGEST_FRAME} octets")
    return frame


def _refuse(field: str, detail: str, hint: str) -> NoReturn:
    raise InvalidInput(field, detail, hint)


def _within(field: str, value: int | None, chosen: int, most: int) -> int:
    if value is not None and not 0 <= value <= most:
        _refuse(field, f"{value} is out of range", f"give 0 to {most}")
    return chosen if value is None else value


def _source(text: str | None, dst: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if text is None:
        return ip_address(SENDER4 if dst.version == 4 else SENDER6)
    src = ip_address(canonical_address(text, "src"))
    if src.version != dst.version:
        detail = f"{src} is IPv{src.version} and dst {dst} is IPv{dst.version}"
        _refuse("src", detail, f"give an IPv{dst.version} address")
    return src


def _protocol(text: str, version: int) -> int:
    number = _NAMES.get(text.lower())
    if number is None and text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 255:
        number = int(text)
    if number is None:
        _refuse("protocol", f"{shown(text)} is not a protocol", "give tcp, udp, icmp or a number from 0 to 255")
    if version == 6 and text.lower() == "icmp":
        return ICMP6
    return number


def _spoken(protocol: int) -> str:
    return {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMP6: "icmpv6"}.get(protocol, str(protocol))


def _check_ports(fields: Fields, protocol: int) -> None:
    named = f"protocol is {_spoken(protocol)}"
    for name, value in (("sport", fields.sport), ("dport", fields.dport)):
        if value is not None and protocol not in (TCP, UDP):
            _refuse(name, f"only TCP and UDP have ports, and {named}", "give protocol tcp or udp")
        _within(name, value, 0, 65535)
    if fields.flags is not None and protocol != TCP:
        _refuse("flags", f"only TCP has flags, and {named}", "give protocol tcp")


def _l4_header(fields: Fields, protocol: int) -> bytes:
    """Return the header with its lengths and checksum zero, empty for a protocol that is not known here."""
    ports = (SPORT if fields.sport is None else fields.sport).to_bytes(2, "big")
    known = UDP_DPORT if protocol == UDP else TCP_DPORT
    ports += (known if fields.dport is None else fields.dport).to_bytes(2, "big")
    if protocol == UDP:
        return ports + bytes(4)
    if protocol == TCP:
        return ports + bytes(8) + b"\x50" + _flags(fields.flags).to_bytes(1, "big") + b"\xff\xff" + bytes(4)
    if protocol in (ICMP, ICMP6):
        return (b"\x08" if protocol == ICMP else b"\x80") + bytes(3) + b"\x00\x01\x00\x01"  # echo request
    return b""


def _flags(text: str | None) -> int:
    letters = "S" if text is None else text.upper()
    if not letters or any(letter not in FLAGS for letter in letters):
        _refuse("flags", f"{shown(letters)} are not TCP flags", f"give letters of {''.join(FLAGS)}, as in SA")
    total = 0
    for letter in letters:
        total |= FLAGS[letter]
    return total


def internet_checksum(octets: bytes) -> int:
    """Return the checksum of RFC 1071 over octets whose own checksum field is zero."""
    padded = octets + bytes(len(octets) % 2)
    total = sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _summed(segment: bytes, protocol: int, src: IPv4Address | IPv6Address, dst: IPv4Address | IPv6Address) -> bytes:
    """Return a segment with its length, where it has one, and its checksum filled in."""
    if protocol not in _HEADERS:
        return segment
    if protocol == UDP:
        segment = segment[:4] + len(segment).to_bytes(2, "big") + segment[6:]
    pseudo = src.packed + dst.packed + len(segment).to_bytes(4, "big") + protocol.to_bytes(4, "big")
    total = internet_checksum((b"" if protocol == ICMP else pseudo) + segment)
    if protocol == UDP and not total:
        total = 0xFFFF  # RFC 768: zero says that there is none
    at = {ICMP: 2, ICMP6: 2, UDP: 6, TCP: 16}[protocol]
    return segment[:at] + total.to_bytes(2, "big") + segment[at + 2 :]


def _ipv4(
    src: IPv4Address | IPv6Address, dst: IPv4Address | IPv6Address, protocol: int, ttl: int, rest: bytes
) -> bytes:
    head = b"\x45\x00" + (20 + len(rest)).to_bytes(2, "big") + b"\x00\x00\x40\x00" + bytes((ttl, protocol))
    total = internet_checksum(head + bytes(2) + src.packed + dst.packed)
    return head + total.to_bytes(2, "big") + src.packed + dst.packed + rest


def _ipv6(
    src: IPv4Address | IPv6Address, dst: IPv4Address | IPv6Address, protocol: int, ttl: int, rest: bytes
) -> bytes:
    # a payload length has 16 bits
    return b"\x60\x00\x00\x00" + len(rest).to_bytes(2, "big") + bytes((protocol, ttl)) + src.packed + dst.packed + rest


def _addressed(dst: IPv4Address | IPv6Address, mac: bytes) -> bytes:
    """Return the MAC that a frame to `dst` is sent to: the router's, or the group's (RFC 1112, RFC 2464)."""
    if dst.version == 4 and dst.packed == b"\xff\xff\xff\xff":
        return b"\xff\xff\xff\xff\xff\xff"
    if not dst.is_multicast:
        return mac
    if dst.version == 6:
        return b"\x33\x33" + dst.packed[12:]
    return b"\x01\x00\x5e" + bytes((dst.packed[1] & 0x7F,)) + dst.packed[2:]
