"""The shipped program with services of its own: written straight into its maps, as the daemon would."""

import contextlib
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import numpy as np
from world import (
    FIRST,
    FIRST_LENGTH4,
    FIRST_LENGTH6,
    NAMESPACE,
    NEIGHBOUR_MAC,
    SENDER_MAC,
    address4,
    address6,
    forget,
    ones_complement_sum,
)

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from bpf.balance_maps import GUE, IPIP, BalanceMaps, ServiceMaps
from hopline.daemon.attachments import Attachments
from hopline.daemon.datapath import PIPELINE, Datapath
from hopline.daemon.options import CACHE_SIZE_DEFAULT
from hopline.features import slots
from hopline.features.forward import Adjacency, mac_word
from hopline.kernel import Program
from hopline.kernel.netlink import query
from hopline.kernel.netlink.features import device_features

BACKENDS, RING = 100, 65_537
PORT = 80
VIPS = {4: "198.51.100.33", 6: "2001:db8:5::33"}
CLIENT6 = "2001:db8:c::"
SOURCES = {4: "192.0.2.10", 6: "2001:db8:1::10"}  # outer
MTU = 1600
SYN, ACK = 0x02, 0x10


@dataclass(frozen=True)
class Tables:
    """What a pipeline stands on: the services' family, that of the outer header, and what is in front of the ring."""

    family: int = 4
    outer: int = 4
    gue: bool = False
    vips: int = 1
    flow_ways: int = 4
    remembers: bool = False
    balancing: bool = True
    cache_size: int = CACHE_SIZE_DEFAULT  # forward's


@dataclass
class Balance:
    """One instance's maps, filled, and the program over them; `service` is the one that is measured."""

    tables: Tables
    datapath: Datapath
    program: Program
    service: ServiceMaps

    def counted(self, verdict: str) -> int:
        """How many packets have had a verdict."""
        rows = self.datapath.maps["verdict_count"].sums()["packets"]
        return int(rows[int(self.datapath.verdicts[verdict]) :: int(self.datapath.limits.VERDICT_SLOTS)].sum())

    def forget(self) -> None:
        """Empty the flow table."""
        self.datapath.maps["flows"].mmap()["ways"]["word"] = 0

    def set_state(self, state: slots.State) -> None:
        """Put every slot into a state; in open ones `before` is another backend than `now`."""
        words = self.service.words
        now = words & np.uint32(slots.NUMBERS - 1)
        before = (now + 1) % BACKENDS if state == slots.State.OPEN else np.zeros_like(now)
        words[:] = now | before << slots.NUMBER_BITS | np.uint32(state << slots.STATE_SHIFT)


def backend_address(family: int, number: int) -> str:
    return f"192.0.2.{number + 100}" if family == 4 else f"2001:db8:2::{number + 1:x}"


def vip(family: int, number: int) -> str:
    """The address of VIP `number`; the first is the one that is measured."""
    return str((IPv4Address(VIPS[4]) if family == 4 else IPv6Address(VIPS[6])) + number)


def write_services(datapath: Datapath, tables: Tables, slot: int, ifindex: int, mac: bytes) -> ServiceMaps:
    """A service of 100 backends, each with a next hop of its own, and as many VIPs more, of few backends."""
    maps = BalanceMaps(datapath, rings=RING // 1024 + 2 + tables.vips, flows=tables.flow_ways)

    def backend(number: int) -> object:
        hop = bytes([*NEIGHBOUR_MAC[:5], number]).hex(":")
        id = maps.hop(hop, mac.hex(":"), slot, ifindex, MTU)
        kind = GUE if tables.gue else IPIP
        return maps.backend(backend_address(tables.outer, number), SOURCES[tables.outer], id, encapsulation=kind)

    backends = [backend(number) for number in range(BACKENDS)]
    # equal shares, in no order: what matters here is which line is read
    ring = np.random.default_rng(1).permutation(np.arange(RING) % BACKENDS)
    made = maps.service(
        VIPS[tables.family], str(PORT), "tcp", backends, slots=RING, remembers=tables.remembers, ring=ring
    )
    for number in range(1, tables.vips):
        maps.service(vip(tables.family, number), str(PORT), "tcp", backends[:1])
    return made


def write_forward(datapath: Datapath, slot: int, ifindex: int, mac: bytes) -> None:
    """An operator's prefix that all destinations which are no VIP fall into."""
    id = int(datapath.ids.ADJACENCY_ID_FIRST)
    datapath.write_adjacency(id, Adjacency("READY", mac_word(NEIGHBOUR_MAC, MTU), mac_word(mac, slot), ifindex))
    for family, prefix in ((4, f"{address4(0)}/{FIRST_LENGTH4}"), (6, f"{address6(0)}/{FIRST_LENGTH6}")):
        datapath.put_entries(f"forward_prefix{family}", {str(ip_network(prefix, strict=False)): id})


def open_balance(held: contextlib.ExitStack, name: str, tables: Tables) -> Balance:
    """An instance of its own with these tables; it goes when `held` is closed."""
    instance = f"{NAMESPACE}-{name}"
    held.callback(forget, instance)
    datapath = Datapath.open(instance, tables.cache_size)
    held.callback(datapath.close)
    attachments = Attachments(datapath)
    ingress, egress = query.link("in0"), query.link("out0")
    for link in (ingress, egress):
        attachments.know(link, device_features(link))
    leaving = attachments.slots[egress.index], egress.index, egress.mac
    write_forward(datapath, *leaving)
    service = write_services(datapath, tables, *leaving)
    datapath.maps["state"].mmap()["lease_jiffies"] *= 1000  # a call of the bench may take longer than a lease
    datapath.switch(balancing=tables.balancing, decapsulating=False)
    opened = held.enter_context(datapath.load_pipeline(attachments.slots[ingress.index], generic=False))
    return Balance(tables, datapath, held.enter_context(opened.program(PIPELINE)), service)


def segment(family: int, mac: bytes, destination: str, flags: int) -> bytes:
    """A frame of 64 octets (IPv6: 84), nothing of it padding: TCP from the first client to `destination`."""
    payload = bytes(10)
    tcp = struct.pack("!HHIIBBHHH", 49152, PORT, 1, 1, 5 << 4, flags, 1024, 0, 0) + payload
    if family == 6:
        source = IPv6Address(CLIENT6).packed
        head = struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + source + IPv6Address(destination).packed
        return mac + SENDER_MAC + b"\x86\xdd" + head + tcp
    addresses = IPv4Address(FIRST).packed + IPv4Address(destination).packed
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6)
    check = 0xFFFF - ones_complement_sum(start + bytes(2) + addresses)
    return mac + SENDER_MAC + b"\x08\x00" + start + check.to_bytes(2, "big") + addresses + tcp
