"""`forward get`: ask the shipped program about a packet, by a second load of it that records and writes nothing."""

from ipaddress import ip_address
from typing import Any

import numpy as np

from hopline.config import Origin
from hopline.daemon.attachments import Attachment, Attachments
from hopline.daemon.datapath import PIPELINE
from hopline.daemon.learned import next_hop_text
from hopline.daemon.operator import OperatorTables
from hopline.daemon.protocol import ForwardAnswer
from hopline.daemon.surroundings import Surroundings
from hopline.errors import KernelError
from hopline.features.forward import word_mac
from hopline.kernel import RingBuffer

# addresses that no host has (RFC 5737, RFC 3849), and a locally administered MAC: the packet's sender
SENDER4, SENDER6, SENDER_MAC = "192.0.2.1", "2001:db8::1", bytes.fromhex("020000000001")

# bpf_fib_lookup's return codes (include/uapi/linux/bpf.h), as an operator would say them
FIB_WORDS = {
    0: "the FIB has a route and a neighbour",
    1: "the route is a blackhole",
    2: "the route says unreachable",
    3: "the route says prohibited",
    4: "the FIB does not forward it: no route, or not unicast",
    5: "forwarding is off on the interface it came in by",
    6: "the route has a lightweight tunnel, which is the kernel's",
    7: "no neighbour for the next hop: the kernel will ask",
    8: "it is larger than the route's MTU",
    9: "no source address",
}
# what an operator wants to know behind a verdict's name
VERDICT_WORDS = {
    "FORWARDED": "forwarded by XDP",
    "PASS_LOCAL": "passed: it is an address of this host",
    "PASS_MULTICAST": "passed: multicast or broadcast",
    "PASS_MARTIAN": "passed: no router forwards this address",
    "PASS_NO_NEIGHBOUR": "passed: the next hop has no MAC yet, the kernel asks for it",
    "PASS_NO_ROUTE": "passed: the kernel's FIB does not forward it",
    "PASS_NOT_LEARNING": "passed: no operator entry covers it, and learning is off on this interface",
    "PASS_FORWARDING_OFF": "passed: forwarding is off",
    "PASS_ENCAPSULATED_ROUTE": "passed: the route has a lightweight tunnel",
    "PASS_NO_EGRESS": "passed: the next hop's device is gone, down, or cannot take a redirect",
    "PASS_HAIRPIN": "passed: it would leave by the interface it came in by, and the kernel may owe an ICMP redirect",
    "PASS_NO_LEASE": "passed: the lease has run out",
    "PASS_TOO_BIG": "passed: larger than the next hop's MTU",
}


def probe_packet(address: str, mac: bytes) -> bytes:
    """Return a UDP packet with TTL 64 to `address`, in a frame to `mac`."""
    destination = ip_address(address)
    if destination.version == 6:
        header = bytearray(bytes.fromhex("6000000000081140") + ip_address(SENDER6).packed + destination.packed)
        ethertype = b"\x86\xdd"
    else:
        header = bytearray(bytes.fromhex("4500001c0000400040110000") + ip_address(SENDER4).packed + destination.packed)
        total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, 20, 2))
        total = (total & 0xFFFF) + (total >> 16)
        header[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
        ethertype = b"\x08\x00"
    udp = bytes.fromhex("ffff00350008 0000")
    return mac + SENDER_MAC + ethertype + bytes(header) + udp


def run_traced(attachments: Attachments, attachment: Attachment, packet: bytes) -> np.void:
    """Run a packet through the interface's program in dry run; return its struct trace_event."""
    explainer = attachments.explainer(attachment)
    explainer.program(PIPELINE).test_run(packet, ifindex=attachment.index)
    ring = RingBuffer(explainer.map("trace_events"))
    try:
        events = ring.drain().records(attachments.datapath.layout.struct("trace_event"))
    finally:
        ring.close()
    if not len(events):
        raise KernelError("run a packet in dry run", 5, "the program recorded nothing: rebuild Hopline")
    return events[-1]


class Asker:
    """Answers what a destination would get."""

    def __init__(self, attachments: Attachments, tables: OperatorTables, surroundings: Surroundings) -> None:
        self.attachments = attachments
        self.tables = tables
        self.surroundings = surroundings
        self.lookups: Any = attachments.datapath.layout.enum("lookup")

    def answer(self, address: str, in_dev: str, attachment: Attachment) -> ForwardAnswer:
        """Return what a packet to `address` would get on the interface, from where and why."""
        mac = int(self.attachments.datapath.interfaces[attachment.slot]["mac"]).to_bytes(8, "little")[:6]
        event = run_traced(self.attachments, attachment, probe_packet(address, mac))
        note = event["forward"]
        verdict = self.attachments.datapath.verdicts(int(event["verdict"])).name
        entry = self.tables.entry_for(address)
        found = int(note["found"])
        origin = self.origin(found, int(note["adjacency"]), entry)
        link = self.surroundings.watch.links.get(int(note["ifindex"]))
        ready = verdict == "FORWARDED"
        via = self.via(note)
        return ForwardAnswer(
            address=address,
            verdict=verdict,
            dev=link.name if link else None,
            src_mac=word_mac(int(note["source"])) if ready else None,
            dst_mac=word_mac(int(note["destination"])) if ready else None,
            mtu=int(note["destination"]) >> 48 or None,
            origin=origin,
            entry=entry if origin == "operator" else None,
            via=via if via != address else None,
            cached=found == self.lookups.LOOKUP_CACHE,
            why=self.reasons(event, verdict, in_dev, entry if origin == "operator" else None, attachment),
        )

    def origin(self, found: int, id: int, entry: str | None) -> Origin | None:
        """Return whose answer it was: an adjacency's id tells, and without one what was asked last."""
        if id >= self.attachments.datapath.learned_base or found == self.lookups.LOOKUP_FIB:
            return "learned"
        known = id >= self.attachments.datapath.ids.ADJACENCY_ID_FIRST
        return "operator" if known and entry is not None else None

    def via(self, note: np.void) -> str | None:
        """Return the next hop's address, None for one that was given by its MAC."""
        family = int(note["family"])
        return next_hop_text(family, note["next_hop"].tobytes()) if family else None

    def reasons(
        self, event: np.void, verdict: str, in_dev: str, entry: str | None, attachment: Attachment
    ) -> list[str]:
        """Return one line a step: what was asked, what was found, and the verdict."""
        note, family = event["forward"], int(event["packet"]["family"])
        asked, found = int(note["lookups"]), int(note["found"])
        lookups, lines = self.lookups, [f"came in by {in_dev} ({attachment.mode} xdp)"]
        if not asked & lookups.LOOKUP_CACHE:
            lines.append("cache not asked: " + ("the lease has run out" if asked else "decided before any look-up"))
        elif found == lookups.LOOKUP_CACHE:
            lines.append(f"found in the cache, generation {int(note['generation'])}")
        else:
            lines.append(f"not in the cache, generation {int(note['generation'])}")
        if found == lookups.LOOKUP_LOCAL:
            lines.append("it is one of this host's own addresses")
        if entry is not None:
            lines.append(f"operator entry {entry}")
        elif asked & lookups.LOOKUP_PREFIX:
            lines.append("no operator entry covers it")
        if asked & lookups.LOOKUP_FIB:
            lines.append(FIB_WORDS.get(int(note["fib"]), f"the FIB answered {int(note['fib'])}"))
        if verdict == "PASS_NOT_LEARNING":
            lines += [f"learning off: {reason}" for reason in self.surroundings.forbids(attachment.index, family)]
        lines.append(VERDICT_WORDS.get(verdict, verdict.lower().replace("_", " ")))
        return lines
