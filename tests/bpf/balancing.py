"""Services in real maps without a daemon: what the tests of daemon/balance share."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hopline.config import Backend, Service
from hopline.daemon.attachments import Attachments
from hopline.daemon.balance.balancer import Balancer
from hopline.daemon.balance.clock import Clock
from hopline.daemon.datapath import Datapath
from hopline.features import slots
from hopline.features.balance import text_of
from hopline.features.forward import Device, Facts
from hopline.kernel.link import remove_pins
from hopline.kernel.netlink.types import ETHERNET, Link

DEVICE = Device("eth", 7, 3, bytes.fromhex("020000000001"), 1500, True)
LINK = Link(DEVICE.index, "eth", DEVICE.mac, 1500, True, True, "veth", 0, 0, None, ETHERNET, 0, 0)
SOURCES = {("eth", 4): "10.2.0.1", ("eth", 6): "fd00:2::1"}
numbers = itertools.count()


def backend(i: int, **more) -> Backend:
    return Backend(f"10.2.0.{i}", dst_mac=f"02:00:00:00:01:{i:02x}", dev="eth", **more)


def service(name="web", backends=3, **more) -> Service:
    settings = {"vip": "10.9.0.1", "port": "80", "protocol": "tcp", "ring": 251, "check": "tcp", **more}
    return Service(name=name, backend=tuple(backend(i + 1) for i in range(backends)), **settings)


def begin(datapath) -> Balancer:
    balancer = Balancer(Attachments(datapath), Facts(devices={"eth": DEVICE}), 1 << 12)
    balancer.know({DEVICE.index: LINK}, SOURCES, {})
    return balancer


@contextmanager
def open_datapath() -> Iterator[Datapath]:
    held = Datapath.open(f"t{os.getpid()}-balancer{next(numbers)}", 131_072)
    yield held
    remove_pins(held.directory)
    held.close()


def open_balancer(datapath: Datapath) -> Balancer:
    """One over maps that are large enough for services."""
    balancer = begin(datapath)
    balancer.switch(balancing=True, decapsulating=False, elements=256)
    return balancer


def census(balancer, name="web") -> slots.Census:
    return slots.census(balancer.by_name[name].words)


def owners(balancer, name="web") -> dict[str, int]:
    """Slots by the address that each leads to, as the kernel has it."""
    served = balancer.by_name[name]
    found: dict[str, int] = {}
    for number, count in enumerate(slots.shares(served.words).tolist()):
        if count:
            row = served.maps.backends[served.base + number]
            address = text_of(int(row["family"]), row["destination"].tobytes()) if row["family"] else "nobody"
            found[address] = count
    return found


def rounds(balancer, count=2) -> None:
    clock = Clock(balancer)
    for _ in range(count):
        clock.round()


def remember(balancer, slot: int, number: int, name="web") -> None:
    """Put a flow into the table, as a program would."""
    served = balancer.by_name[name]
    ways = served.maps.flows["ways"].reshape(-1)
    free = int(np.flatnonzero(ways["word"] == 0)[0])
    ways["hash"][free] = ((slot << 32) // served.slots + 1) << 32
    ways["word"][free] = number | served.row << 16 | served.maps.clock << 32
