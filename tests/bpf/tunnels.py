"""The pipeline with decap on: what it accepts, encapsulated frames, and what is left of them, in plain Python."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

from bpf.frames import IP, TCP, UDP, IPv6, checksum, frame
from bpf.pipeline import PIPELINE, Pipeline
from hopline.kernel import RingBuffer

IPIP, GUE = 1, 2
GUE_PORT = 6080
LOCAL4, LOCAL6 = "10.0.1.1", "2001:db8:1::1"
FRONT4, FRONT6 = "192.0.2.10", "2001:db8:5::10"  # who encapsulates
VIP4, VIP6 = "198.51.100.33", "2001:db8:f::33"
CLIENT4, CLIENT6 = "203.0.113.9", "2001:db8:c::9"


@contextlib.contextmanager
def switched(pipeline: Pipeline) -> Iterator[Pipeline]:
    """The same pipeline with decap on, in its run and its trace."""
    datapath, slot = pipeline.datapath, pipeline.in_slot
    balancing, was = datapath.balancing, datapath.decapsulating
    with contextlib.ExitStack() as stack:
        datapath.switch(balancing=balancing, decapsulating=True)
        try:
            plain = stack.enter_context(datapath.load_pipeline(slot, generic=False))
            traced = stack.enter_context(datapath.load_pipeline(slot, generic=False, trace=True, dry_run=True))
        finally:
            datapath.switch(balancing=balancing, decapsulating=was)
        ring = stack.enter_context(RingBuffer(traced.map("trace_events")))
        program, tracer = plain.program(PIPELINE), traced.program(PIPELINE)
        yield replace(pipeline, program=program, tracer=tracer, ring=ring, _last=pipeline._rows())


def accept(pipeline: Pipeline, local: str, source: str, row: int, encapsulation: int = IPIP) -> None:
    """Accept what is encapsulated for `local` by `source`, an address or a prefix; counted in `row`."""
    maps, packed = pipeline.datapath.maps, ip_address(local).packed
    prefix, family = ip_network(source), ip_address(local).version
    kinds = maps[f"decap_local{family}"]
    known = kinds.get(packed)
    kinds.set(packed, int(known or 0) | 1 << encapsulation)
    bits = 32 + len(packed) * 8 + prefix.prefixlen
    key = struct.pack("=I", bits) + struct.pack("!I", encapsulation) + packed + prefix.network_address.packed
    maps[f"decap{family}"].set(key, row)


def open_ports(pipeline: Pipeline, *ports: int) -> None:
    """Decapsulate GUE on these UDP ports and no others."""
    row = pipeline.datapath.maps["decap_ports"].mmap()["ports"][0]
    row[:] = 0
    # ports lie there as they do on the wire
    row[: len(ports)] = [port if row.dtype.byteorder == ">" else socket.htons(port) for port in ports]


def close_all(pipeline: Pipeline) -> None:
    """Decapsulate nothing."""
    for name in ("decap4", "decap6", "decap_local4", "decap_local6"):
        table = pipeline.datapath.maps[name]
        table.delete_batch(table.items()[0])
    open_ports(pipeline)


def inner4(payload: bytes = b"GET / HTTP/1.0", *, l4=None, **fields) -> IP:
    """An IPv4 packet of a client to the VIP, TCP unless told."""
    l4 = TCP(sport=40000, dport=80, flags="PA", seq=7, ack=9) if l4 is None else l4
    return IP(**{"src": CLIENT4, "dst": VIP4, "ttl": 57, "id": 1234, **fields}) / l4 / payload


def inner6(payload: bytes = b"GET / HTTP/1.0", *, l4=None, **fields) -> IPv6:
    """An IPv6 packet of a client to the VIP, TCP unless told."""
    l4 = TCP(sport=40000, dport=80, flags="PA", seq=7, ack=9) if l4 is None else l4
    return IPv6(**{"src": CLIENT6, "dst": VIP6, "hlim": 57, "fl": 0x12345, **fields}) / l4 / payload


def outer(inner, family: int, *, gue: bool = False, src: str | None = None, dst: str | None = None, **fields) -> bytes:
    """A frame to the router with `inner`, a packet or octets, in an outer header of this family; UDP too for GUE."""
    octets = inner if isinstance(inner, bytes) else bytes(inner)
    number = 4 if octets[:1] and octets[0] >> 4 == 4 else 41
    between = (UDP(sport=50000, dport=fields.pop("port", GUE_PORT), chksum=0),) if gue else ()
    protocol = fields.pop("proto", 17 if gue else number)
    if family == 4:
        header = IP(**{"src": src or FRONT4, "dst": dst or LOCAL4, "proto": protocol, "flags": "DF", "id": 0, **fields})
    else:
        header = IPv6(**{"src": src or FRONT6, "dst": dst or LOCAL6, "nh": protocol, "hlim": 64, **fields})
    return frame(header, *between, octets)


def overhead_of(sent: bytes) -> int:
    """Octets of the outer header, with UDP's."""
    ipv4 = sent[12:14] == b"\x08\x00"
    protocol = sent[14 + 9] if ipv4 else sent[14 + 6]
    return (20 if ipv4 else 40) + (8 if protocol == 17 else 0)


def outer_tos(sent: bytes) -> int:
    """The outer TOS or traffic class."""
    return sent[15] if sent[12:14] == b"\x08\x00" else (int.from_bytes(sent[14:16], "big") >> 4) & 0xFF


def decapsulated(sent: bytes) -> bytes:
    """What decap leaves of a frame: the same MACs, the inner packet, its ECN joined with the outer (RFC 6040)."""
    inner = bytearray(sent[14 + overhead_of(sent) :])
    mark = outer_tos(sent) & 3
    if inner[0] >> 4 == 4:
        own = inner[1]
        inner[1] = _joined(mark, own)
        if inner[1] != own:
            inner[10:12] = _resummed(bytes(inner), own)
        return sent[:12] + b"\x08\x00" + bytes(inner)
    own = int.from_bytes(inner[:2], "big") >> 4 & 0xFF
    inner[1] = (inner[1] & 0x0F) | (_joined(mark, own) & 15) << 4
    return sent[:12] + b"\x86\xdd" + bytes(inner)


def _resummed(inner: bytes, tos: int) -> bytes:
    """The checksum of an IPv4 header whose TOS was `tos`; one that was wrong, as may be with options, stays wrong."""
    header, was = (inner[0] & 15) * 4, inner[:1] + bytes([tos]) + inner[2:]
    if checksum(was[:header]) in (0, 0xFFFF):
        return checksum(inner[:10] + bytes(2) + inner[12:header]).to_bytes(2, "big")
    total = sum(~int.from_bytes(word, "big") & 0xFFFF for word in (was[10:12], was[:2])) + int.from_bytes(
        inner[:2], "big"
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def _joined(mark: int, own: int) -> int:
    not_capable, congestion = 0, 3
    if own & 3 in (not_capable, congestion) or mark in (0, 2):
        return own
    return own & ~3 | mark
