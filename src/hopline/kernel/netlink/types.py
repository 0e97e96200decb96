"""What is read from the kernel, and the events of a watch.

Addresses are text in the form of inet_ntop, MAC addresses six bytes, a family is 4 or 6, an index is an interface's.
"""

from dataclasses import dataclass, field, fields

ETHERNET = 1  # ARPHRD_ETHER

_STATES = {
    0x00: "none",
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x40: "noarp",
    0x80: "permanent",
}
_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # NUD_VALID (include/net/neighbour.h)


def neighbour_state(nud: int) -> tuple[str, bool]:
    """(name, whether a packet may be sent with the address it has) of an NUD state."""
    return _STATES.get(nud, f"state {nud:#x}"), bool(nud & _USABLE)


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. `kind` is IFLA_INFO_KIND ('veth', 'bridge', …), '' for hardware; `master` 0 when in no bridge."""

    index: int
    name: str
    mac: bytes
    mtu: int
    up: bool
    running: bool
    kind: str
    master: int
    peer_index: int
    peer_netnsid: int | None
    hardware: int
    flags: int
    xdp_id: int

    @property
    def ethernet(self) -> bool:
        """Whether its frames begin with an Ethernet header."""
        return self.hardware == ETHERNET

    @property
    def path(self) -> tuple[object, ...]:
        """What a forwarding answer through it depends on."""
        return (self.mac, self.mtu, self.up, self.running, self.master)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the ARP or NDP table; `usable` says that a frame may be sent to `mac` now."""

    index: int
    address: str
    mac: bytes | None
    state: str
    usable: bool

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4

    @property
    def permanent(self) -> bool:
        """Whether the kernel never probes it."""
        return self.state in ("permanent", "noarp")


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface; `broadcast` is None for IPv6 and where none is set."""

    index: int
    address: str
    prefix_length: int
    broadcast: str | None

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4


@dataclass(frozen=True, slots=True)
class LocalAddresses:
    """What the kernel's local table delivers to the host itself: single addresses, and prefixes such as 127.0.0.0/8."""

    addresses: frozenset[str] = frozenset()
    prefixes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """What the kernel would do with a packet it sends itself; `gateway` None when on link, `mtu` 0: the device's."""

    index: int
    gateway: str | None
    source: str | None
    mtu: int
    type: str
    table: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something changed. `matters`: a learned answer may be stale. `policy`: what forbids learning may have changed."""

    matters: bool = True
    policy: bool = False


@dataclass(frozen=True, slots=True)
class LinkChanged(Event):
    """A link is new (`old` None) or differs from `old`."""

    link: Link
    old: Link | None


@dataclass(frozen=True, slots=True)
class LinkGone(Event):
    """A link left this namespace."""

    link: Link


@dataclass(frozen=True, slots=True)
class NeighbourChanged(Event):
    """`old` None when new. A state that flaps with the same MAC does not matter."""

    neighbour: Neighbour
    old: Neighbour | None


@dataclass(frozen=True, slots=True)
class NeighbourGone(Event):
    """The kernel forgot a neighbour."""

    neighbour: Neighbour


@dataclass(frozen=True, slots=True)
class AddressChanged(Event):
    """An interface got or, with `gone`, lost an address."""

    address: Address
    gone: bool


@dataclass(frozen=True, slots=True)
class LocalAddressesChanged(Event):
    """Addresses and prefixes that are delivered locally from now on, or no longer."""

    added: frozenset[str]
    removed: frozenset[str]


@dataclass(frozen=True, slots=True)
class RouteChanged(Event):
    """`count` routes of any table came, changed or went."""

    count: int


@dataclass(frozen=True, slots=True)
class RuleChanged(Event):
    """A policy routing rule."""


@dataclass(frozen=True, slots=True)
class NexthopChanged(Event):
    """A next-hop object or group."""


@dataclass(frozen=True, slots=True)
class NetconfChanged(Event):
    """forwarding or rp_filter of an interface; index -1 is conf/all, -2 conf/default."""

    index: int
    family: int


@dataclass(frozen=True, slots=True)
class NftablesChanged(Event):
    """A table or chain of nftables (also of iptables over nftables)."""


@dataclass(frozen=True, slots=True)
class XfrmPolicyChanged(Event):
    """An IPsec policy."""


@dataclass(frozen=True, slots=True)
class TcChanged(Event):
    """A qdisc, class or filter of an interface."""

    index: int


@dataclass(frozen=True, slots=True)
class DeviceFeaturesChanged(Event):
    """Whether an interface does XDP or takes a redirect."""

    index: int


@dataclass(frozen=True, slots=True)
class Overflow(Event):
    """The kernel dropped events of `source`; the watch has read its tables anew, its reader must compare all."""

    source: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What changed since the last batch, never empty."""

    events: tuple[Event, ...]
    stale: bool = field(default=False)
    policy: bool = field(default=False)

    def of(self, *kinds: type[Event]) -> list[Event]:
        """The events of these kinds, in order."""
        return [event for event in self.events if isinstance(event, kinds)]


def key_of(event: Event) -> tuple[object, ...]:
    """Events with the same key merge in a batch."""
    kind = type(event).__name__
    match event:
        case LinkChanged(link=link) | LinkGone(link=link):
            return (kind, link.index)  # one that left and came back is both
        case NeighbourChanged(neighbour=neighbour) | NeighbourGone(neighbour=neighbour):
            return ("neighbour", neighbour.index, neighbour.address)
        case AddressChanged(address=address):
            return ("address", address.index, address.address, address.prefix_length)
        case RouteChanged() | LocalAddressesChanged():
            return (kind,)
    return (kind, *(getattr(event, item.name) for item in fields(event) if item.name not in ("matters", "policy")))
