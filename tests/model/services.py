"""What a balancing router knows besides its table, as plain values: services, their rings, decap, known flows.

All is as it lies in the kernel, and not how the daemon brings it about: a slot has the state that it has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from model.table import Address, Hop, Prefix, longest

TCP, UDP = 6, 17


@dataclass(frozen=True)
class Backend:
    """The outer header, and the way to it. `vary`: bits of the source's last four octets that are the flow's."""

    source: Address
    destination: Address
    hop: Hop
    vary: bytes = bytes(4)
    gue: int | None = None  # port
    draining: bool = False
    dead: bool = False

    @property
    def overhead(self) -> int:
        """Octets of outer header."""
        return {4: 20, 6: 40}[self.destination.family] + (0 if self.gue is None else 8)


@dataclass(frozen=True)
class Slot:
    """A slot of a ring: numbers of backends, and a state."""

    now: int
    before: int = 0
    state: str = "CLOSED"


@dataclass(frozen=True)
class Service:
    """Ports of one VIP, for some protocols. `any_port`: a flow is all that one client sends."""

    vip: Address
    protocols: frozenset[int]
    first: int
    last: int
    backends: tuple[Backend, ...]
    ring: tuple[Slot, ...]
    seed: int = 0
    remembers: bool = False

    @property
    def any_port(self) -> bool:
        """Whether it has all ports."""
        return (self.first, self.last) == (0, 65535)


@dataclass(frozen=True)
class Vip:
    """`local`: the kernel would answer for it; `echo`: Hopline answers pings."""

    local: bool = False
    echo: bool = True


@dataclass(frozen=True)
class Decap:
    """Who may encapsulate for a local address."""

    local: Address
    source: Prefix
    gue: bool = False


@dataclass(frozen=True)
class Services:
    """`vips` has every VIP of a service; `gue_ports` are those on which GUE is decapsulated."""

    services: tuple[Service, ...] = ()
    vips: Mapping[Address, Vip] = field(default_factory=dict)
    decaps: frozenset[Decap] = frozenset()
    gue_ports: frozenset[int] = frozenset()
    clock: int = 1000  # ticks; nothing ages while frames are compared

    def __str__(self) -> str:
        lines = [f"service {number}: {each}" for number, each in enumerate(self.services, 1)]
        lines += [f"vip {to}: {each}" for to, each in self.vips.items()]
        lines += [str(each) for each in self.decaps]
        return "\n".join([*lines, f"gue ports {sorted(self.gue_ports)}"] if self.gue_ports else lines)

    def service(self, vip: Address, protocol: int, port: int) -> Service | None:
        """The service that a VIP has on a port."""
        for each in self.services:
            if each.vip == vip and protocol in each.protocols and each.first <= port <= each.last:
                return each
        return None

    def any_service(self, vip: Address, protocol: int) -> bool:
        """Whether a VIP has services of a protocol at all."""
        return any(each.vip == vip and protocol in each.protocols for each in self.services)

    def accepts(self, local: Address, source: Address, gue: bool) -> bool | None:
        """Whether a source may encapsulate for an address; None where nothing is decapsulated for that."""
        there = {each.source: True for each in self.decaps if each.local == local and each.gue == gue}
        return longest(there, source) is not None if there else None


@dataclass(frozen=True)
class Entry:
    """What the flow table has of a flow."""

    number: int
    established: bool = False
    finished: bool = False


# a flow: service, client, ports as the client sends them (0 where the service has all), protocol
Flow = tuple[Service, Address, int, int, int]
Memory = dict[Flow, Entry]
