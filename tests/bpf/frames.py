"""Frames by scapy, cases of the packet tables, and what a router makes of a frame, worked out in plain Python."""

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.compat import raw  # noqa: E402  (scapy warns of missing routes when it is imported)
from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.layers.l2 import Dot1Q, Ether  # noqa: E402

from bpf.pipeline import IN_MAC, NEAR_MAC, Hop, Pipeline  # noqa: E402

__all__ = ["ICMP", "IP", "TCP", "UDP", "Case", "Dot1Q", "Ether", "IPv6", "checksum", "forwarded", "frame", "ip4", "ip6"]

FROM4, FROM6 = "10.0.1.2", "2001:db8:1::2"


def frame(*layers, dst: str = IN_MAC, src: str = NEAR_MAC, **ether) -> bytes:
    """An Ethernet frame from `near` to the router with these layers in it."""
    packet = Ether(dst=dst, src=src, **ether)
    for layer in layers:
        packet = packet / layer
    return raw(packet)


def ip4(dst: str = "198.51.100.7", payload: bytes = b"hopline", **fields) -> bytes:
    """A UDP packet over IPv4 in a frame to the router; fields are those of scapy's IP."""
    return frame(IP(**{"src": FROM4, "dst": dst, **fields}), UDP(sport=4000, dport=5000), payload)


def ip6(dst: str = "2001:db8:f::7", payload: bytes = b"hopline", **fields) -> bytes:
    """A UDP packet over IPv6 in a frame to the router; fields are those of scapy's IPv6."""
    return frame(IPv6(**{"src": FROM6, "dst": dst, **fields}), UDP(sport=4000, dport=5000), payload)


def checksum(header: bytes) -> int:
    """The Internet checksum over octets whose checksum field is zero (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def forwarded(sent: bytes, hop: Hop) -> bytes:
    """What a router sends on: new MACs, one TTL less, the checksum computed anew, no padding behind the IP packet."""
    macs = bytes.fromhex((hop.destination + hop.source).replace(":", ""))
    packet = bytearray(sent[14:])
    if packet[0] >> 4 == 4:
        packet[8] -= 1
        packet[10:12] = bytes(2)
        packet[10:12] = checksum(bytes(packet[:20])).to_bytes(2, "big")
        length = int.from_bytes(packet[2:4], "big")
    else:
        packet[7] -= 1
        length = 40 + int.from_bytes(packet[4:6], "big")
    return macs + sent[12:14] + bytes(packet[:length])


@dataclass(frozen=True)
class Case:
    """One row: what it shows, the packet in, the verdict, and the next hop where it is forwarded."""

    sentence: str
    packet: bytes
    verdict: str
    hop: Hop | None = None
    prepare: Callable[[Pipeline], object] | None = None

    @property
    def out(self) -> bytes:
        """The exact octets that must be there after the program."""
        return self.packet if self.hop is None else forwarded(self.packet, self.hop)

    def __str__(self) -> str:
        return self.sentence
