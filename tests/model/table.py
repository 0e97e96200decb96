"""What a router knows, as plain values: the operator's entries, its own addresses, and the kernel's routes.

An address is a number beside its family, 4 or 6. A Table is all that a verdict may depend on besides the frame.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, TypeVar

from bpf.pipeline import FAR_MAC, IN_MAC, NEAR_MAC, OUT_MAC

T = TypeVar("T")
BITS = {4: 32, 6: 128}


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


class Address(NamedTuple):
    family: int
    number: int

    def __str__(self) -> str:
        return str((IPv4Address if self.family == 4 else IPv6Address)(self.number))

    @property
    def packed(self) -> bytes:
        return self.number.to_bytes(BITS[self.family] // 8, "big")


class Prefix(NamedTuple):
    """Addresses whose first `length` bits are those of `number`; the bits behind them are zero."""

    family: int
    number: int
    length: int

    def __str__(self) -> str:
        return f"{Address(self.family, self.number)}/{self.length}"

    def covers(self, address: Address) -> bool:
        return address.family == self.family and cut(address, self.length) == self


def address(text: str) -> Address:
    parsed = ip_address(text)
    return Address(parsed.version, int(parsed))


def cut(of: Address, length: int) -> Prefix:
    """The prefix of so many bits that an address is in."""
    rest = BITS[of.family] - length
    return Prefix(of.family, of.number >> rest << rest, length)


def prefix(text: str) -> Prefix:
    """As written; a lone address is a prefix of all its bits."""
    start, _, length = text.partition("/")
    whole = address(start)
    return cut(whole, int(length) if length else BITS[whole.family])


def longest(prefixes: Mapping[Prefix, T], wanted: Address) -> T | None:
    """The value of the most specific prefix that an address is in, None where there is none."""
    for length in sorted({each.length for each in prefixes if each.family == wanted.family}, reverse=True):
        if (found := prefixes.get(cut(wanted, length))) is not None:
            return found
    return None


@dataclass(frozen=True)
class Device:
    """A port of the router. `slotted`: Hopline knows it; `able`: it takes a redirect; `frags`: of a large frame too."""

    mac: bytes
    mtu: int = 12000
    slotted: bool = True
    able: bool = True
    frags: bool = True


@dataclass(frozen=True)
class Hop:
    """A next hop: how a packet leaves. Of the operator's, `via` is the address that its MAC was found by."""

    mac: bytes
    source: bytes
    device: str = "out0"
    mtu: int = 1500
    state: str = "READY"
    via: Address | None = None


@dataclass(frozen=True)
class Route:
    """A route of the kernel's: `kind` unicast, local, unreachable, blackhole or prohibit; `mtu` is locked."""

    kind: str = "unicast"
    device: str = "out0"
    via: Address | None = None
    mtu: int | None = None
    encapsulated: bool = False


CONNECTED = {
    prefix("10.0.1.0/24"): Route(device="in0"),
    prefix("10.0.2.0/24"): Route(device="out0"),
    prefix("2001:db8:1::/64"): Route(device="in0"),
    prefix("2001:db8:2::/64"): Route(device="out0"),
}
OWN = {
    *("10.0.1.1", "10.0.2.1", "10.0.1.255", "10.0.2.255", "2001:db8:1::1", "2001:db8:2::1"),
    *("2001:db8:1::", "2001:db8:2::"),
}
STANDING_NEIGHBOURS = {
    ("in0", address("10.0.1.2")): mac(NEAR_MAC),
    ("in0", address("2001:db8:1::2")): mac(NEAR_MAC),
    ("out0", address("10.0.2.2")): mac(FAR_MAC),
    ("out0", address("2001:db8:2::2")): mac(FAR_MAC),
}
UNSLOTTED_MAC = "02:00:00:00:03:01"


def devices(**out0: object) -> dict[str, Device]:
    """The router's ports; what is told is of out0."""
    return {
        "in0": Device(mac(IN_MAC)),
        "out0": dataclasses.replace(Device(mac(OUT_MAC), 1500), **out0),
        "unslotted": Device(mac(UNSLOTTED_MAC), slotted=False),
    }


@dataclass(frozen=True)
class Table:
    """`learn`, `forwarding`: for which families; `routes` and `neighbours` are those besides the standing ones."""

    exact: Mapping[Address, Hop] = field(default_factory=dict)
    prefixes: Mapping[Prefix, Hop] = field(default_factory=dict)
    local: frozenset[Prefix] = frozenset()
    routes: Mapping[Prefix, Route] = field(default_factory=dict)
    neighbours: Mapping[tuple[str, Address], bytes] = field(default_factory=dict)
    devices: Mapping[str, Device] = field(default_factory=devices)
    learn: frozenset[int] = frozenset({4, 6})
    forwarding: frozenset[int] = frozenset({4, 6})
    bypass: bool = False
    leased: bool = True
    whole_frames: bool = True  # no frame's headers are split from the rest, so its length is known at once
    generic: bool = False  # in0's mode

    def __str__(self) -> str:
        """A line for each thing that is not as it is by default, to be read by a person."""
        lines = [f"{to} -> {hop}" for to, hop in {**self.exact, **self.prefixes}.items()]
        lines += [f"local {each}" for each in sorted(self.local)]
        lines += [f"route {to} {route}" for to, route in self.routes.items()]
        lines += [f"neighbour {to} on {device} is {at.hex(':')}" for (device, to), at in self.neighbours.items()]
        default = Table()
        for name in ("devices", "learn", "forwarding", "bypass", "leased", "whole_frames", "generic"):
            if getattr(self, name) != getattr(default, name):
                lines.append(f"{name} {getattr(self, name)}")
        return "\n".join(lines)

    def is_own(self, wanted: Address) -> bool:
        """Whether an address is the router's, as Hopline was told."""
        return str(wanted) in OWN or any(each.covers(wanted) for each in self.local)

    def route_to(self, wanted: Address) -> Route | None:
        """What the kernel's FIB says."""
        if self.is_own(wanted):
            return Route("local", "lo")  # the table local is asked before all others
        return longest({**CONNECTED, **self.routes}, wanted)

    def neighbour(self, device: str, wanted: Address) -> bytes | None:
        known = self.neighbours.get((device, wanted))
        return STANDING_NEIGHBOURS.get((device, wanted)) if known is None else known


def without(table: Table, name: str, key: object) -> Table:
    """The table with one thing less in one of its collections."""
    whole = getattr(table, name)
    rest = whole - {key} if isinstance(whole, frozenset) else {each: whole[each] for each in whole if each != key}
    return dataclasses.replace(table, **{name: rest})


def simpler(table: Table) -> Iterable[Table]:
    """Tables that differ from this one in one thing that is missing, or is as it is by default."""
    for name in ("exact", "prefixes", "local", "routes", "neighbours"):
        yield from (without(table, name, key) for key in getattr(table, name))
    for name in ("devices", "learn", "forwarding", "bypass", "leased", "whole_frames", "generic"):
        usual = getattr(Table(), name)
        if getattr(table, name) != usual:
            yield dataclasses.replace(table, **{name: usual})
