"""Scenes made by hand: a record of the shipped program's layout, filled as a test wants it, and a host that answers."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import numpy as np

import hopline.bpf
from bpf.frames import ip4
from hopline.daemon.explain.scene import Ingress, Scene
from hopline.features.forward import mac_word, parse_mac
from hopline.kernel.netlink.lookup import MatchedRoute, SeenNeighbour
from hopline.kernel.netlink.types import Link, Neighbour, RouteAnswer
from hopline.kernel.record import Layout

LAYOUT = Layout.from_elf(Path(hopline.bpf.__file__).parent / "xdp.bpf.o")
LEFT, RIGHT = 2, 3
OWN, NEXT = "02:00:00:00:01:01", "02:00:00:00:02:02"
DEVICES = {LEFT: "left", RIGHT: "right"}


def link(index, **more):
    given = {"mac": bytes(6), "mtu": 1500, "up": True, "running": True, "kind": "veth", "master": 0, "peer_index": 0}
    return Link(**{"index": index, "name": DEVICES[index], **given, "peer_netnsid": None, "hardware": 1, "flags": 1,
                   "xdp_id": 0, **more})  # fmt: skip


def route(to="10.9.0.0/24", gateway="10.2.0.2", index=RIGHT, kind="unicast", mtu=0, table=254, tunnel=False):
    return MatchedRoute(to, RouteAnswer(index, gateway, None, mtu, kind, table), tunnel)


@dataclass
class HostDouble:
    """A host that says what it is told to."""

    entries: dict = field(default_factory=dict)
    reasons: tuple = ()
    routes: object = field(default_factory=route)
    state: str | None = "reachable"
    unconfirmed: float = 3.14
    mac: str = NEXT
    links: dict = field(default_factory=lambda: {index: link(index) for index in DEVICES})

    services: dict = field(default_factory=dict)  # by row
    backends: dict = field(default_factory=dict)  # by number
    tunnels: list = field(default_factory=list)  # row 1 first

    def link(self, index):
        return self.links.get(index)

    def service(self, row):
        return self.services.get(row)

    def backend(self, row, number):
        return self.backends.get(number)

    def decap(self, row):
        return self.tunnels[row - 1] if row <= len(self.tunnels) else None

    def decaps(self, local, encap):
        return [each for each in self.tunnels if (each.local, each.encap) == (local, encap)]

    def forbids(self, index, family):
        return list(self.reasons)

    def entry(self, address):
        return self.entries.get(address)

    def route(self, address, source, iif):
        return self.routes

    def neighbour(self, index, address):
        if self.state is None:
            return None
        return SeenNeighbour(Neighbour(index, address, parse_mac(self.mac), self.state, True), self.unconfirmed)


def packed(address):
    return np.void(ip_address(address).packed.ljust(16, b"\0"))


def scene(
    verdict, frame=None, host=None, lookups=(), found="NONE", layout=LAYOUT, captured=None, mode="native", **note
):
    """A scene with this verdict; `note` are fields of forward's note, addresses as text, states and such by name."""
    frame = ip4("10.9.0.9") if frame is None else frame
    event = np.zeros(1, layout.struct("trace_event"))[0]
    event["verdict"] = layout.enum("verdict")[verdict]
    fill_packet(event["packet"], frame, layout)
    members = layout.enum("lookup")
    record = event["forward"]
    record["fib"] = -1
    record["mac"] = mac_word(parse_mac(OWN), 0)
    record["lookups"] = sum(members[f"LOOKUP_{name}"] for name in lookups)
    record["found"] = members[f"LOOKUP_{found}"]
    record["leased"] = "CACHE" in lookups
    for name, value in note.items():
        if name in ("next_hop", "fib_asked", "fib_gateway"):
            value = packed(value)
        elif name in ("state", "refusal"):
            value = layout.enum({"state": "adjacency_state"}.get(name, name))[f"{name_of(name)}_{value}"]
        record[name] = value
    ingress = Ingress(LEFT, 0, "left", mode, parse_mac(OWN))
    known = len(frame) if captured is None else captured
    return Scene(ingress, frame, frame, known, event, layout, 1 << 13, host or HostDouble())


def name_of(field_name):
    return {"state": "ADJACENCY", "refusal": "REFUSAL"}[field_name]


def fill_packet(packet, frame, layout):
    """What parse would have noted of a frame without tags, options and fragments."""
    flags = layout.enum("packet_flag")
    packet["length"] = len(frame)
    packet["ethertype"] = int.from_bytes(frame[12:14], "big")
    packet["family"] = {0x0800: 4, 0x86DD: 6}.get(int(packet["ethertype"]), 0)
    if not packet["family"]:
        return
    four = packet["family"] == 4
    packet["l3_offset"], packet["l4_offset"] = 14, 34 if four else 54
    packet["l3_length"] = int.from_bytes(frame[16:18], "big") if four else 40 + int.from_bytes(frame[18:20], "big")
    packet["protocol"], packet["ttl"] = (frame[23], frame[22]) if four else (frame[20], frame[21])
    packet["source"] = np.void((frame[26:30] if four else frame[22:38]).ljust(16, b"\0"))
    packet["destination"] = np.void((frame[30:34] if four else frame[38:54]).ljust(16, b"\0"))
    at = int(packet["l4_offset"])
    if packet["protocol"] in (6, 17):
        packet["flags"] = flags.PACKET_PORTS
        packet["source_port"] = int.from_bytes(frame[at : at + 2], "big")
        packet["destination_port"] = int.from_bytes(frame[at + 2 : at + 4], "big")
    elif packet["protocol"] in (1, 58):
        packet["flags"] = flags.PACKET_ICMP
        packet["icmp_type"], packet["icmp_code"] = frame[at], frame[at + 1]


def hop(source="02:00:00:00:02:01", destination=NEXT, mtu=1500, index=RIGHT, via=None, id=0):
    """The fields of a next hop in the note."""
    return {
        "source": mac_word(parse_mac(source), 1),
        "destination": mac_word(parse_mac(destination), mtu),
        "ifindex": index,
        "adjacency": id,
        **({"next_hop": via, "family": ip_address(via).version} if via else {}),
    }


def fib(code=0, gateway="10.2.0.2", asked="10.9.0.9", index=RIGHT, mtu=1500):
    """The fields of the FIB's answer in the note."""
    family = ip_address(gateway).version
    return {"fib": code, "fib_gateway": gateway, "fib_asked": asked, "fib_ifindex": index, "fib_family": family,
            "fib_mtu": mtu if code in (0, 8) else 0}  # fmt: skip
