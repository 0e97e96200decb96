"""What `forward` means: operator entries → next hops → the contents of adjacencies. Pure; no I/O.

An entry's destination leads to an adjacency's id, and the adjacency to the device and the MAC addresses. The id
follows from what the operator wrote (device and MACs, or `via`), so when a neighbour or a device changes only the
adjacency's contents do, however many entries share it.
"""

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from itertools import repeat
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from hopline.config import NextHop

MTU_MOST = 0xFFFF  # the adjacency keeps it in 16 bits


@dataclass(frozen=True, slots=True)
class Device:
    """What an adjacency needs of a device; `usable` is false while it is down."""

    name: str
    index: int
    slot: int
    mac: bytes
    mtu: int
    usable: bool


@dataclass(frozen=True, slots=True)
class Adjacency:
    """The contents of one struct adjacency: words as the kernel side reads them, the state by its name."""

    state: str
    destination: int = 0
    source: int = 0
    ifindex: int = 0
    family: int = 0
    next_hop: bytes = bytes(16)


@dataclass
class Facts:
    """What is known of the host: devices by name, neighbours' MACs, and by which device a next hop is reached."""

    devices: dict[str, Device] = field(default_factory=dict)
    macs: Mapping[tuple[int, str], bytes] = field(default_factory=dict)  # (ifindex, address) → MAC, usable ones only
    reach: dict[str, str] = field(default_factory=dict)  # next hop's address → device name


def mac_word(mac: bytes, top: int) -> int:
    """Pack a MAC and 16 bits into the word of struct adjacency (little-endian: octet 0 is the lowest)."""
    return int.from_bytes(mac, "little") | top << 48


def word_mac(word: int) -> str:
    """Return the MAC in a word as text."""
    return (word & (1 << 48) - 1).to_bytes(6, "little").hex(":")


def parse_mac(text: str) -> bytes:
    """Return the six octets of a canonical MAC."""
    return bytes.fromhex(text.replace(":", ""))


def packed_next_hop(address: str | None) -> tuple[int, bytes]:
    """Return (family 4, 6 or 0; 16 octets, an IPv4 address in the first four)."""
    if address is None:
        return 0, bytes(16)
    parsed = ip_address(address)
    return parsed.version, parsed.packed.ljust(16, b"\0")


def device_of(hop: NextHop, facts: Facts) -> Device | None:
    """Return the device that a next hop leaves by, None while it does not exist or nothing reaches `via`."""
    name = hop.dev if hop.dev is not None else facts.reach.get(hop.via or "")
    return facts.devices.get(name) if name is not None else None


def resolve(hop: NextHop, facts: Facts) -> Adjacency:
    """Return what the adjacency of `hop` must hold, given the host's facts."""
    family, next_hop = packed_next_hop(hop.via)
    device = device_of(hop, facts)
    if device is None:
        return Adjacency("NO_DEVICE", family=family, next_hop=next_hop)
    source = mac_word(parse_mac(hop.src_mac) if hop.src_mac else device.mac, device.slot)
    if not device.usable:
        return Adjacency("NO_DEVICE", 0, source, device.index, family, next_hop)
    mac = parse_mac(hop.dst_mac) if hop.dst_mac else facts.macs.get((device.index, hop.via or ""))
    if mac is None:
        return Adjacency("UNRESOLVED", 0, source, device.index, family, next_hop)
    destination = mac_word(mac, min(device.mtu, MTU_MOST))
    return Adjacency("READY", destination, source, device.index, family, next_hop)


def freshness(hop: NextHop, adjacency: Adjacency, takes_redirects: bool) -> str:
    """Return the FRESH column of an operator entry: followed or fixed, or what is missing."""
    if adjacency.state == "READY" and not takes_redirects:
        return "no redirect"
    if adjacency.state == "READY":
        return "followed" if hop.via else "always"
    return {"UNRESOLVED": "no neighbour", "NO_DEVICE": "no device"}[adjacency.state]


def table_of(to: str) -> str:
    """Return the name of the map that a canonical destination belongs to."""
    return ("forward_prefix" if "/" in to else "forward_exact") + ("6" if ":" in to else "4")


def key_of(to: str) -> bytes:
    """Return the destination's key in its map: the address, behind the prefix length where there is one."""
    if "/" in to:
        return trie_key(to)
    # a fifth of what ip_address takes, and there may be a million
    return inet_pton(AF_INET6 if ":" in to else AF_INET, to)


def keys_of(destinations: Collection[str]) -> bytes:
    """Return the keys of destinations that belong to one map, one after the other."""
    first = next(iter(destinations), "")
    if "/" in first:
        return b"".join(map(trie_key, destinations))
    # without a step of Python's own: a quarter of the time, for a million
    return b"".join(map(inet_pton, repeat(AF_INET6 if ":" in first else AF_INET), destinations))


def by_table(destinations: Iterable[str]) -> dict[str, list[str]]:
    """Return canonical destinations by the name of the map that they belong to, in their order."""
    together = list(destinations)
    if not together:
        return {}
    text = "\n".join(together)
    if "/" not in text and (":" not in text or "." not in text):
        return {table_of(together[0]): together}  # addresses of one family, as most of a million are
    tables: dict[str, list[str]] = {}
    for to in together:
        tables.setdefault(table_of(to), []).append(to)
    return tables


def trie_key(to: str) -> bytes:
    """Return the key of an address or a prefix in a trie: its length in bits, then the address."""
    address, slash, length = to.partition("/")
    packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    return (int(length) if slash else len(packed) * 8).to_bytes(4, "little") + packed


def destination_of(table: str, key: bytes) -> str:
    """Return the canonical destination of a map's key; the reverse of `key_of`."""
    family = AF_INET6 if table.endswith("6") else AF_INET
    address = inet_ntop(family, key[-16 if family == AF_INET6 else -4 :])
    if family == AF_INET6 and "." in address:
        address = str(IPv6Address(key[-16:]))  # the C library writes some with dots, we never do
    return address if table.startswith("forward_exact") else f"{address}/{int.from_bytes(key[:4], 'little')}"


def covering(address: str, destinations: Container[str]) -> str | None:
    """Return the most specific of the operator's destinations that covers an address, None where none does."""
    if address in destinations:
        return address
    bits = IPv6Address(address).max_prefixlen if ":" in address else 32
    for length in range(bits, -1, -1):
        network = ip_network((address, length), strict=False)
        if str(network) in destinations:
            return str(network)
    return None


def recovered_next_hop(adjacency: Adjacency, names: Mapping[int, str]) -> NextHop | None:
    """Rebuild what the operator must have written from an adjacency in the kernel, for when the store is lost."""
    name = names.get(adjacency.ifindex)
    if adjacency.family:
        packed = adjacency.next_hop[:4] if adjacency.family == 4 else adjacency.next_hop
        return NextHop(dev=name, via=str(ip_address(packed)))
    if name is None or adjacency.state != "READY":
        return None
    return NextHop(dev=name, src_mac=word_mac(adjacency.source), dst_mac=word_mac(adjacency.destination))
