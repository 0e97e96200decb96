"""Whose is a packet: which service, or tunnel, may touch it, and what may come of it. A parser of its own, in Python.

It shares no code with the program or with the daemon, reads what RFC 791, 792, 4443 and 8200 say, and is slow.
"""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from bpf.answers import even, pseudo6, replied, reported
from bpf.balance_maps import GUE, BackendRow, ServiceMaps, flow_hash
from bpf.balanced import encapsulated
from bpf.frames import checksum
from bpf.pipeline import Hop
from bpf.tunnels import GUE_PORT, decapsulated

XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
EXTENSIONS = (0, 43, 44, 51, 60)
SHORTEST = {TCP: 20, UDP: 8}


@dataclass
class Known:
    """A service as it was written into the maps, with its backends and their next hops."""

    maps: ServiceMaps
    vip: str
    protocols: tuple[int, ...]
    ports: range
    backends: list[BackendRow]
    hops: list[Hop]
    local: bool = False
    echo: bool = False
    remembers: bool = False

    def overhead(self, number: int) -> int:
        backend = self.backends[number]
        return (20 if backend.family == 4 else 40) + (8 if backend.encapsulation == GUE else 0)


@dataclass
class World:
    """All services, and what is decapsulated: (local, source prefix, encapsulation)."""

    services: list[Known]
    tunnels: list[tuple[str, str, int]]

    def service(self, vip: str, protocol: int, port: int) -> Known | None:
        for known in self.services:
            if known.vip == vip and protocol in known.protocols and port in known.ports:
                return known
        return None


@dataclass
class Header:
    """An IP header and where its L4 begins; `l4` is None for a later fragment, and where a header is cut off."""

    family: int
    source: str
    destination: str
    protocol: int
    ttl: int
    end: int
    l4: int | None
    fragment: bool


def read_header(octets: bytes) -> Header | None:
    """Read it as far as it is there; lengths are not judged."""
    if not octets:
        return None
    if octets[0] >> 4 == 4 and len(octets) >= 20 and (octets[0] & 15) >= 5:
        offset = int.from_bytes(octets[6:8], "big")
        later, start = offset & 0x1FFF, (octets[0] & 15) * 4
        source, destination = (str(ip_address(octets[i : i + 4])) for i in (12, 16))
        end = int.from_bytes(octets[2:4], "big")
        l4 = None if later or start > len(octets) else start
        return Header(4, source, destination, octets[9], octets[8], end, l4, bool(offset & 0x3FFF))
    if octets[0] >> 4 == 6 and len(octets) >= 40:
        source, destination = (str(ip_address(octets[i : i + 16])) for i in (8, 24))
        protocol, at, fragment, later = octets[6], 40, False, False
        while protocol in EXTENSIONS and not later:
            if at + 4 > len(octets):
                at = -1
                break
            following, size = octets[at], (octets[at + 1] + 1) * 8
            if protocol == 44:
                word, size = int.from_bytes(octets[at + 2 : at + 4], "big"), 8
                fragment, later = fragment or bool(word & 0xFFF9), bool(word & 0xFFF8)
            elif protocol == 51:
                size = (octets[at + 1] + 2) * 4
            protocol, at = following, at + size
        end = 40 + int.from_bytes(octets[4:6], "big")
        return Header(6, source, destination, protocol, octets[7], end, None if at < 0 or later else at, fragment)
    return None


@dataclass
class Claim:
    """A service's packet, and the hash of its flow."""

    known: Known
    hash: int


def claim_of(world: World, sent: bytes) -> Claim | None:
    """Return the service that takes a packet, None where none does."""
    packet = sent[14:]
    header = read_header(packet)
    if header is None:
        return None
    packet = packet[: header.end]
    if header.protocol in (TCP, UDP):
        return _claim(world, header, packet)
    kinds = {(4, ICMP): (3, 11, 12), (6, ICMP6): (1, 2, 3, 4)}.get((header.family, header.protocol), ())
    if header.l4 is None or header.fragment or header.l4 + 8 > len(packet) or packet[header.l4] not in kinds:
        return None
    return _quoted(world, header, packet[header.l4 + 8 :])


def _claim(world: World, header: Header, packet: bytes) -> Claim | None:
    at = header.l4
    if at is not None and at + 4 <= len(packet):
        port = int.from_bytes(packet[at + 2 : at + 4], "big")
        known = world.service(header.destination, header.protocol, port)
        # a fragment has not all of its L4, and is a service's only where it needs no ports
        enough = header.fragment or at + SHORTEST[header.protocol] <= len(packet)
        if known is None or not enough or (header.fragment and not known.maps.any_port):
            return None
        return Claim(known, known.maps.hash_of(header.source, int.from_bytes(packet[at : at + 2], "big"), port))
    known = world.service(header.destination, header.protocol, 0xFFFF)
    if not header.fragment or known is None or not known.maps.any_port:
        return None
    return Claim(known, flow_hash(header.source, 0, 0, seed=int(known.maps.record["seed"][0])))


def _quoted(world: World, header: Header, quote: bytes) -> Claim | None:
    inner = read_header(quote)
    if inner is None or inner.family != header.family or inner.source != header.destination:
        return None
    if inner.l4 is None or inner.l4 + 4 > len(quote) or inner.protocol not in (TCP, UDP):
        return None
    own, other = (int.from_bytes(quote[i : i + 2], "big") for i in (inner.l4, inner.l4 + 2))
    known = world.service(inner.source, inner.protocol, own)
    return Claim(known, known.maps.hash_of(inner.destination, other, own)) if known else None


def check(world: World, sent: bytes, verdict: str, action: int, left: bytes) -> None:
    """Fail unless what came of a packet is one of what may."""
    if verdict.startswith("PASS"):
        assert action == XDP_PASS
        assert left == sent
    elif verdict.startswith("DROP"):
        assert action == XDP_DROP
        assert left == sent
        _check_drop(world, sent, verdict)
    elif verdict == "BALANCED":
        assert action == XDP_REDIRECT
        _check_balanced(world, sent, left)
    elif verdict == "DECAPSULATED":
        assert action == XDP_PASS
        assert _tunnel(world, sent, accepted=True)
        assert left.hex() == decapsulated(sent).hex()
    elif verdict == "ANSWERED_ECHO":
        assert action in (XDP_TX, XDP_REDIRECT)
        header = read_header(sent[14:])
        assert header is not None
        assert any(known.echo for known in world.services if known.vip == header.destination)
        assert left.hex() == replied(sent).hex() or _wrong_before(sent, left)
    else:
        assert verdict == "ANSWERED_ERROR"
        assert action in (XDP_TX, XDP_REDIRECT)
        _check_error(world, sent, left)


def _wrong_before(sent: bytes, left: bytes) -> bool:
    """Whether the request's own checksum was wrong, which the reply's then is too, and all else is right."""
    packet, header, wanted = sent[14:], read_header(sent[14:]), replied(sent)
    assert header is not None
    packet, at = packet[: header.end], 36 if header.family == 4 else 56
    right = checksum((b"" if header.family == 4 else pseudo6(packet)) + even(packet[at - 16 :])) in (0, 0xFFFF)
    return not right and left[:at] + left[at + 2 :] == wanted[:at] + wanted[at + 2 :]


def _check_balanced(world: World, sent: bytes, left: bytes) -> None:
    claim = claim_of(world, sent)
    assert claim is not None, "no service's packet was encapsulated"
    known, octets = claim.known, left[14:]
    to = str(ip_address(octets[16:20] if octets[0] >> 4 == 4 else octets[24:40]))
    [number] = [n for n, backend in enumerate(known.backends) if backend.address == to]
    word = int(known.maps.words[known.maps.slot_of(claim.hash)])
    if word >> 24 == 0 and not known.remembers:
        assert number == word & 0xFFF, "a closed slot did not decide"
    wanted = encapsulated(sent, known.backends[number], known.hops[number], claim.hash)
    assert left.hex() == wanted.hex()
    assert len(left) - 14 <= known.hops[number].mtu


def _check_error(world: World, sent: bytes, left: bytes) -> None:
    claim, header = claim_of(world, sent), read_header(sent[14:])
    assert claim is not None
    assert header is not None
    at = 14 + (26 if header.family == 4 else 44)
    told = int.from_bytes(left[at : at + (2 if header.family == 4 else 4)], "big")
    if header.ttl <= 1:
        assert told == 0
    else:
        known = claim.known
        assert told in {hop.mtu - known.overhead(number) for number, hop in enumerate(known.hops)}
        assert header.end > told
    assert left.hex() == reported(sent, told).hex()


def _check_drop(world: World, sent: bytes, verdict: str) -> None:
    header = read_header(sent[14:])
    assert header is not None
    if verdict in ("DROP_NOT_ACCEPTED", "DROP_MALFORMED"):
        assert _tunnel(world, sent, accepted=verdict == "DROP_MALFORMED")
    elif verdict == "DROP_FRAGMENT":
        assert header.fragment
        assert header.protocol in (TCP, UDP)
        assert any(known.local for known in world.services if known.vip == header.destination)
    else:
        assert verdict in ("DROP_NO_BACKEND", "DROP_TOO_BIG")
        assert claim_of(world, sent) is not None, "no service's packet was dropped"


def _tunnel(world: World, sent: bytes, accepted: bool) -> bool:
    """Whether it is encapsulated for an address of ours and its source is, or is not, accepted."""
    header = read_header(sent[14:])
    if header is None or header.fragment or header.protocol not in (4, 41, UDP):
        return False
    if header.protocol == UDP and sent[14 + header.l4 + 2 : 14 + header.l4 + 4] != GUE_PORT.to_bytes(2, "big"):
        return False
    encapsulation = 2 if header.protocol == UDP else 1
    here = [source for local, source, kind in world.tunnels if local == header.destination and kind == encapsulation]
    known = any(ip_address(header.source) in ip_network(source) for source in here)
    return bool(here) and known == accepted
