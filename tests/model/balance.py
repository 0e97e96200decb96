"""The model of balance and decap: which verdict a frame gets, what leaves, and what is remembered, in few words.

Written from docs/features/balance.md, from RFC 2003, 2473, 6935 and 6040 (tunnels and ECN), 792, 1122, 1812 and 4443
(ICMP), and from enum slot_state. It knows no buckets, no bloom, no fast way: a flow table has room for every flow.
"""

import struct
from dataclasses import dataclass, replace

from model.answers import NO_HOST, about_what, echoed, reported
from model.decap import decapsulated
from model.model import (
    ETHERNET,
    IPV4,
    IPV6,
    Answer,
    Packet,
    Pass,
    among,
    answer,
    followed,
    internet_checksum,
    is_too_large_for,
    one_less,
    parse,
    to_router,
)
from model.services import TCP, UDP, Backend, Entry, Flow, Memory, Service, Services, Slot
from model.table import Address, Table, prefix
from model.transport import ICMP, ICMP6, IPIP, IPV6_IN, Transport, ports_of, tos_of, transport

LEAST = {TCP: 20, UDP: 8}  # octets of header
FIN, SYN, RST, ACK = 1, 2, 4, 16
MASK = (1 << 64) - 1
LINK_LOCAL = (prefix("fe80::/10"),)
ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}


@dataclass(frozen=True)
class Segment:
    """What of a packet decides where it goes."""

    flow: Flow
    hash: int
    flags: int = 0  # TCP's
    quoted: bool = False

    @property
    def begins(self) -> bool:
        """A SYN without ACK or RST."""
        return self.flow[4] == TCP and not self.quoted and self.flags & (SYN | ACK | RST) == SYN


def answer_balanced(table: Table, services: Services, memory: Memory, frame: bytes) -> Answer:
    """What Hopline does with a frame that in0 receives; `memory` is what it was, and becomes what it is."""
    try:
        packet = parse(frame)
        to_router(frame)
    except Pass:
        return answer(table, frame)
    octets = frame[ETHERNET : ETHERNET + packet.length]
    found = decapsulated(services, frame, octets, packet) or balanced(table, services, memory, frame, octets, packet)
    return answer(table, frame) if found is None else found


# balance: whose packet is it?


def balanced(
    table: Table, services: Services, memory: Memory, frame: bytes, octets: bytes, packet: Packet
) -> Answer | None:
    """None: no service's."""
    vip = services.vips.get(packet.destination)
    if vip is None or among(packet.source, NO_HOST + LINK_LOCAL):
        return None
    behind = transport(octets, packet)
    if behind.protocol not in (TCP, UDP):
        echo = echoed(frame, octets, packet, behind) if vip.echo else None
        segment = quoted(services, octets, packet, behind) if echo is None else None
    elif behind.fragment:
        echo, segment = None, of_fragment(services, packet, behind)
        if segment is None and vip.local and lacks_ports(services, packet, behind):
            return Answer("DROP_FRAGMENT", frame)
    else:
        echo, segment = None, plain(services, packet, behind)
    if segment is None:
        return echo
    return served(table, services, memory, frame, octets, packet, behind, segment)


def plain(services: Services, packet: Packet, behind: Transport) -> Segment | None:
    """Of a packet with a whole L4 header."""
    if behind.octets is None or len(behind.octets) < LEAST[behind.protocol]:
        return None
    client_port, port = ports_of(behind)
    service = services.service(packet.destination, behind.protocol, port)
    flags = behind.octets[13] if behind.protocol == TCP else 0
    return service and segment_of(service, packet.source, client_port, port, behind.protocol, flags)


def of_fragment(services: Services, packet: Packet, behind: Transport) -> Segment | None:
    """A service of all ports needs none."""
    ports = ports_of(behind)
    service = services.service(packet.destination, behind.protocol, ports[1] if ports else 65535)
    if service is None or not service.any_port:
        return None
    return segment_of(service, packet.source, 0, 0, behind.protocol, 0)


def lacks_ports(services: Services, packet: Packet, behind: Transport) -> bool:
    """Whether it is, or may be, a fragment of a service's."""
    ports = ports_of(behind)
    if ports:
        return services.service(packet.destination, behind.protocol, ports[1]) is not None
    return services.any_service(packet.destination, behind.protocol)


def quoted(services: Services, octets: bytes, packet: Packet, behind: Transport) -> Segment | None:
    """RFC 792, RFC 4443: an error about a packet that a backend has sent in the VIP's name."""
    family = packet.destination.family
    if behind.protocol != {4: ICMP, 6: ICMP6}[family] or behind.fragment or behind.octets is None:
        return None
    if len(behind.octets) < 4 or behind.octets[0] not in ERRORS[family]:
        return None
    inner, header = behind.octets[8:], {4: IPV4, 6: IPV6}[family]
    if len(inner) < header or inner[0] >> 4 != family:
        return None
    sent = about_what(inner, family, packet.destination)
    if sent is None:
        return None
    client, protocol, l4 = sent
    if protocol not in (TCP, UDP) or len(l4) < 4:
        return None
    port, client_port = struct.unpack_from("!HH", l4)
    service = services.service(packet.destination, protocol, port)
    found = service and segment_of(service, client, client_port, port, protocol, 0)
    return found and replace(found, quoted=True)


def segment_of(service: Service, client: Address, client_port: int, port: int, protocol: int, flags: int) -> Segment:
    """Ports do not count where the service has all."""
    if service.any_port:
        client_port = port = 0
    return Segment((service, client, client_port, port, protocol), hash_of(service, client, client_port, port), flags)


def mixed(x: int) -> int:
    """The end of MurmurHash3."""
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & MASK
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & MASK
    return x ^ x >> 33


def hash_of(service: Service, client: Address, client_port: int, port: int) -> int:
    """Words as they lie in the packet, read as little-endian; two nodes with one seed agree."""
    ports = int.from_bytes(struct.pack("!HH", client_port, port), "little")
    if client.family == 4:
        return mixed((ports << 32 | int.from_bytes(client.packed, "little")) ^ service.seed)
    high, low = struct.unpack("<QQ", client.packed)
    x = (high ^ service.seed) * 0x9E3779B97F4A7C15 & MASK
    x = ((x ^ x >> 32) + low) * 0xD6E8FEB86659FD93 & MASK
    return mixed((x ^ x >> 32) + ports & MASK)


# balance: which backend?


def choose(memory: Memory, segment: Segment, slot: Slot) -> int:
    """The number of the backend, by what the slot says and what is remembered; the flow is remembered where it must."""
    service, protocol = segment.flow[0], segment.flow[4]
    if slot.state == "CLOSED" and not service.remembers:
        return slot.now
    if protocol == UDP and not service.remembers:
        return slot.now
    known = memory.get(segment.flow)
    ignored = known is not None and is_ignored(service, service.backends[known.number], segment)
    if known is not None and not ignored:
        if not segment.quoted:
            memory[segment.flow] = refreshed(service, known, segment)
        return known.number
    number = slot.now
    # a SYN to a service of all ports does not say that the client is new; if it remembers all, one it knows not is
    new = segment.begins and (not service.any_port or service.remembers)
    if slot.state == "OPEN" and protocol == TCP and not new:
        number = slot.before
    if (ignored and segment.begins) or is_remembered(service, slot, number, segment):
        memory[segment.flow] = Entry(number, finished=finishes(service, segment))
    return number


def is_ignored(service: Service, backend: Backend, segment: Segment) -> bool:
    """A dead one is nobody's; one that drains takes no connection that begins."""
    return backend.dead or (backend.draining and segment.begins and not service.any_port)


def finishes(service: Service, segment: Segment) -> bool:
    """Whether a FIN says that the flow ends; of a service of all ports it says so of one connection only."""
    return bool(segment.flags & FIN) and segment.flow[4] == TCP and not service.any_port


def refreshed(service: Service, known: Entry, segment: Segment) -> Entry:
    """What is known of a flow after one more segment."""
    if segment.begins:
        return replace(known, finished=finishes(service, segment))
    return Entry(known.number, True, known.finished or finishes(service, segment))


def is_remembered(service: Service, slot: Slot, number: int, segment: Segment) -> bool:
    """A reset begins nothing, and who is dead keeps nothing."""
    if segment.quoted or (segment.flags & RST and segment.flow[4] == TCP) or service.backends[number].dead:
        return False
    return service.remembers or slot.state == "OPEN"


# balance: and off it goes


def served(
    table: Table,
    services: Services,
    memory: Memory,
    frame: bytes,
    octets: bytes,
    packet: Packet,
    behind: Transport,
    segment: Segment,
) -> Answer | None:
    """A service's packet, whatever becomes of it."""
    service = segment.flow[0]
    if packet.ttl <= 1:
        return reported(frame, octets, packet, behind, 0)
    if not service.ring:
        return Answer("DROP_NO_BACKEND", frame)
    slot = service.ring[(segment.hash >> 32) * len(service.ring) >> 32]
    backend = service.backends[choose(memory, segment, slot)]
    if backend.hop.state != "READY":
        return Answer("DROP_NO_BACKEND", frame)
    if packet.length + backend.overhead > backend.hop.mtu:
        said, left = None, backend.hop.mtu - backend.overhead
        if left > 0 and (packet.destination.family == 6 or octets[6] & 0x40):
            said = reported(frame, octets, packet, behind, left)
        return said or Answer("DROP_TOO_BIG", frame)
    hop = followed(table, backend.hop, backend.destination.family)
    device = table.devices.get(hop.device)
    if device is None or not device.able or is_too_large_for(table, device, frame):
        return Answer("DROP_NO_BACKEND", frame)
    inner = one_less(octets)
    ethertype = b"\x08\x00" if backend.destination.family == 4 else b"\x86\xdd"
    whole = outer(backend, segment.hash, inner) + inner
    return Answer("BALANCED", hop.mac + hop.source + ethertype + whole, hop)


def outer(backend: Backend, hash: int, inner: bytes) -> bytes:
    """RFC 2003 section 3.1, RFC 2473 section 5, RFC 6438 (the label), RFC 6935 (no checksum)."""
    low = (hash & 0xFFFFFFFF).to_bytes(4, "little")
    spread = bytes(a | b & c for a, b, c in zip(backend.source.packed[-4:], low, backend.vary, strict=True))
    source, tos = backend.source.packed[:-4] + spread, tos_of(inner)
    protocol, udp = IPIP if inner[0] >> 4 == 4 else IPV6_IN, b""
    if backend.gue is not None:
        protocol = UDP
        udp = struct.pack("!HHHH", 0xC000 | hash >> 16 & 0x3FFF, backend.gue, 8 + len(inner), 0)
    length = len(udp) + len(inner)
    if backend.destination.family == 6:
        head = struct.pack("!IHBB", 6 << 28 | tos << 20 | hash & 0xFFFFF, length, protocol, 64)
        return head + source + backend.destination.packed + udp
    start = struct.pack("!BBHHHBB", 0x45, tos, IPV4 + length, 0, 0x4000, 64, protocol)
    ends = source + backend.destination.packed
    return start + internet_checksum(start + bytes(2) + ends).to_bytes(2, "big") + ends + udp
