"""What tests of balance share: the pipeline with the step on, packets of clients, and what must leave for them."""

import contextlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bpf.balance_maps import GUE, BackendRow, BalanceMaps, ServiceMaps, family_of
from bpf.frames import IP, TCP, UDP, IPv6, frame, raw
from bpf.pipeline import Hop, Outcome, Pipeline, open_pipeline

VIP4, VIP6 = "192.0.2.80", "2001:db8:80::80"
CLIENT4, CLIENT6 = "198.51.100.9", "2001:db8:c::9"
LOCAL4, LOCAL6 = "10.0.1.1", "2001:db8:1::1"
BACKENDS4 = tuple(f"10.9.0.{number}" for number in range(1, 8))
BACKENDS6 = tuple(f"2001:db8:9::{number}" for number in range(1, 8))


def hop_of(number: int, mtu: int = 1500) -> Hop:
    """The next hop of a backend: its number is in both MACs."""
    return Hop(f"06:00:00:00:0b:{number:02x}", f"06:00:00:00:0c:{number:02x}", mtu)


@dataclass
class Balanced:
    """A pipeline with services, and their maps."""

    pipeline: Pipeline
    maps: BalanceMaps

    def reset(self) -> None:
        """No services."""
        self.pipeline.reset()
        self.maps.clear()
        self.maps.set_clock(1000)

    def hop(self, hop: Hop, via: str | None = None) -> int:
        slot = self.pipeline.out_slot if hop.slot is None else hop.slot
        return self.maps.hop(hop.destination, hop.source, slot, self.pipeline.out_index, hop.mtu, hop.state, via)

    def backends(self, count: int = 3, *, ipv6: bool = False, mtu: int = 1500, **more) -> list[BackendRow]:
        """Backends 0 to count - 1, each with a next hop of its own."""
        addresses, source = (BACKENDS6, LOCAL6) if ipv6 else (BACKENDS4, LOCAL4)
        hops = [self.hop(hop_of(number, mtu)) for number in range(count)]
        return [BackendRow(addresses[number], source, hops[number], **more) for number in range(count)]

    def service(self, vip: str = VIP4, port: str = "80", protocol: str = "tcp", count: int = 3, **more) -> ServiceMaps:
        """A service on `count` backends of the VIP's own family, by IPIP."""
        return self.maps.service(vip, port, protocol, self.backends(count, ipv6=family_of(vip) == 6), **more)

    def run(self, packet: bytes) -> Outcome:
        """Run a packet. The load that records must make the same of it, and write nothing."""
        before = self.flow_words()
        traced, _ = self.pipeline.trace(packet)
        assert np.array_equal(before, self.flow_words()), "the dry run has written to the flow table"
        outcome = self.pipeline.run(packet)
        assert traced.action == outcome.action
        return outcome

    def note(self, packet: bytes) -> np.void:
        """The note of balance on a packet."""
        return self.pipeline.trace(packet)[1]["balance"]

    def flow_words(self) -> np.ndarray:
        return self.maps.datapath.maps["flows"].mmap()["ways"]["word"].copy()


@contextlib.contextmanager
def open_balanced(flows: int = 1 << 12) -> Iterator[Balanced]:
    """A pipeline of its own, since the step is there or not from the load on."""
    made: list[BalanceMaps] = []
    with open_pipeline(prepare=lambda datapath: made.append(BalanceMaps(datapath, flows=flows))) as pipeline:
        pipeline.balance = made[0]
        yield Balanced(pipeline, made[0])


def ip_of(source: str, destination: str, **fields):
    """An IP header of the family of the addresses; `ttl` and `tos` are named so in both."""
    if family_of(destination) == 4:
        return IP(src=source, dst=destination, **fields)
    names = {"ttl": "hlim", "tos": "tc"}
    return IPv6(src=source, dst=destination, **{names.get(name, name): value for name, value in fields.items()})


def client_of(vip: str) -> str:
    return CLIENT4 if family_of(vip) == 4 else CLIENT6


def tcp(
    vip: str = VIP4, sport: int = 4000, dport: int = 80, flags: str = "A", client: str | None = None,
    payload: bytes = b"hopline", **fields,
) -> bytes:  # fmt: skip
    """A TCP segment to a VIP; fields are those of scapy's IP, by their names there, in both families."""
    header = ip_of(client or client_of(vip), vip, **fields)
    return frame(header, TCP(sport=sport, dport=dport, flags=flags, seq=7, ack=9), payload)


def udp(vip: str = VIP4, sport: int = 4000, dport: int = 80, client: str | None = None, payload: bytes = b"hopline",
        **fields) -> bytes:  # fmt: skip
    """A UDP datagram to a VIP."""
    return frame(ip_of(client or client_of(vip), vip, **fields), UDP(sport=sport, dport=dport), payload)


def sized(octets: int, vip: str = VIP4, **fields) -> bytes:
    """A TCP segment in an IP packet of so many octets."""
    return tcp(vip, payload=bytes(octets - (40 if vip == VIP4 else 60)), **fields)


def options4(*options, layer=None, **fields) -> bytes:
    """IPv4 options in front of TCP."""
    header = IP(src=CLIENT4, dst=VIP4, options=list(options), **fields)
    return frame(header, layer or TCP(sport=4000, dport=80, flags="A"), b"behind options")


def behind6(*headers, layer=None) -> bytes:
    """IPv6 extension headers in front of TCP."""
    return frame(IPv6(src=CLIENT6, dst=VIP6), *headers, layer or TCP(sport=4000, dport=80, flags="A"), b"behind")


def inner_length(sent: bytes) -> int:
    """Octets of the IP packet in a frame, as its header says."""
    return int.from_bytes(sent[16:18], "big") if sent[14] >> 4 == 4 else 40 + int.from_bytes(sent[18:20], "big")


def decremented(packet: bytes) -> bytes:
    """The packet with one hop less; of IPv4 with the checksum as ip_decrease_ttl leaves it, right where it was."""
    changed = bytearray(packet)
    if packet[0] >> 4 == 6:
        changed[7] -= 1
        return bytes(changed)
    changed[8] -= 1
    total = int.from_bytes(packet[10:12], "big") + 0x0100
    changed[10:12] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
    return bytes(changed)


def varied(source: str, vary: bytes, hash: int) -> str:
    """The outer source, its host bits from the flow's hash."""
    octets = bytearray(ipaddress.ip_address(source).packed)
    low = (hash & 0xFFFFFFFF).to_bytes(4, "little")
    for i in range(4):
        octets[len(octets) - 4 + i] |= low[i] & vary[i]
    return str(ipaddress.ip_address(bytes(octets)))


def encapsulated(sent: bytes, backend: BackendRow, hop: Hop, hash: int) -> bytes:
    """What leaves for a backend, built by scapy: outer Ethernet, IP and perhaps UDP, then the packet, one hop less."""
    packet = decremented(sent[14 : 14 + inner_length(sent)])
    ipv6 = packet[0] >> 4 == 6
    tos = packet[1] if not ipv6 else int.from_bytes(packet[:2], "big") >> 4 & 0xFF
    gue = backend.encapsulation == GUE
    protocol = 17 if gue else 41 if ipv6 else 4
    source = varied(backend.source, backend.vary, hash)
    if backend.family == 4:
        outer = IP(src=source, dst=backend.address, proto=protocol, ttl=64, id=0, flags="DF", tos=tos)
    else:
        outer = IPv6(src=source, dst=backend.address, nh=protocol, hlim=64, tc=tos, fl=hash & 0xFFFFF)
    if gue:
        port = 0xC000 | hash >> 16 & 0x3FFF
        header = port.to_bytes(2, "big") + backend.port.to_bytes(2, "big") + (8 + len(packet)).to_bytes(2, "big")
        packet = header + bytes(2) + packet
    macs = bytes.fromhex((hop.destination + hop.source).replace(":", ""))
    ethertype = b"\x08\x00" if backend.family == 4 else b"\x86\xdd"
    return macs + ethertype + raw(outer / packet)


def quoting(vip: str, quoted, kind: int, source: str | None = None) -> bytes:
    """An ICMP error from a router on the way, about a packet that a backend sent in the VIP's name."""
    body = bytes([kind, 0, 0, 0, 0, 0, 5, 0])
    if vip == VIP4:
        return frame(IP(src=source or "203.0.113.1", dst=vip, proto=1), body + bytes(quoted))
    return frame(IPv6(src=source or "2001:db8:aaaa::1", dst=vip, nh=58), body + bytes(quoted))
