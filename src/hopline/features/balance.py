"""What `balance` and `decap` mean: services and backends → rules, outer headers, next hops, keys. Pure; no I/O.

A service's backends are known to its ring by small numbers; a number's row holds the outer header, nearly ready-made,
and the adjacency of the next hop towards the backend. How a backend is reached is the kernel's answer, a `Reached`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from hopline.config import Backend, Decap, NextHop, Service
from hopline.errors import InvalidInput

IPIP, GUE = 1, 2  # enum encapsulation
ENCAPSULATIONS: Mapping[str, int] = {"ipip": IPIP, "gue": GUE}
PROTOCOLS: Mapping[str, tuple[int, ...]] = {"tcp": (0,), "udp": (1,), "both": (0, 1)}  # enum service_protocol
ANY_PORT = (0, 65535)
TICKS_PER_S = 4  # of state.clock

IP_HEADER: Mapping[int, int] = {4: 20, 6: 40}  # octets
UDP_HEADER = 8
# what every host must take in one piece: RFC 791 (a datagram of 576 octets), RFC 8200 section 5
LEAST_MTU: Mapping[int, int] = {4: 576, 6: 1280}


@dataclass(frozen=True, slots=True)
class Reached:
    """The kernel's way to an address: `gateway` None on link, `source` what it would send from, `mtu` of the route."""

    dev: str
    gateway: str | None
    source: str | None
    mtu: int


@dataclass(frozen=True, slots=True)
class Outer:
    """The outer header of one backend: fields of struct backend, addresses as 16 octets, `vary` in network order."""

    family: int
    encapsulation: int
    source: bytes
    destination: bytes
    vary: int
    port: int


@dataclass(frozen=True, slots=True)
class Ports:
    """What of a VIP is a service's: protocols of enum service_protocol, and the first and last port."""

    protocols: tuple[int, ...]
    first: int
    last: int


def family_of(address: str) -> int:
    """Return 4 or 6, of an address or a prefix."""
    return 6 if ":" in address else 4


def packed(address: str) -> bytes:
    """Return the octets of a canonical address."""
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address)


@lru_cache(maxsize=1 << 14)
def padded(address: str) -> bytes:
    """Return 16 octets, an IPv4 address in the first four."""
    return packed(address).ljust(16, b"\0")


def text_of(family: int, octets: bytes) -> str:
    """Return the canonical address in 16 octets; the reverse of `padded`."""
    return inet_ntop(AF_INET, octets[:4]) if family == 4 else str(ip_address(octets))


def port_text(first: int, last: int) -> str:
    """Return a range of ports as a service's `port` says it."""
    if (first, last) == ANY_PORT:
        return "any"
    return str(first) if first == last else f"{first}-{last}"


def ports_of(service: Service) -> Ports:
    """Return what of its VIP a service is for."""
    return Ports(PROTOCOLS[service.protocol], *service.ports)


def ticks(seconds: float) -> int:
    """Return a time in ticks of state.clock, one at least."""
    return max(1, round(seconds * TICKS_PER_S))


def flags_of(service: Service, names: Mapping[str, int]) -> int:
    """Return a service's flags; `names` are the members of enum service_flag."""
    flags = 0
    any_port = service.port == "any"
    # of one client's packets to any port a SYN does not tell whether the client is new, so it is remembered
    if service.affinity == "table" or (any_port and service.protocol != "udp"):
        flags |= names["SERVICE_REMEMBERS"]
    if any_port:
        flags |= names["SERVICE_ANY_PORT"]
    if service.quic:
        flags |= names["SERVICE_QUIC"]
    return int(flags)


# the ranges of a VIP's services, and how the program finds them


def painted(layers: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return (first port, last port, service) in order, without overlap, of layers that cover those before them."""
    ranges: list[tuple[int, int, int]] = []
    for first, last, row in layers:
        rest = []
        for other_first, other_last, other in ranges:
            if other_first < first:
                rest.append((other_first, min(other_last, first - 1), other))
            if other_last > last:
                rest.append((max(other_first, last + 1), other_last, other))
        ranges = [*rest, (first, last, row)]
    return sorted(ranges)


def rule_word(first: int, last: int, row: int) -> int:
    """Return a rule: first port | last port << 16 | service << 32."""
    return first | last << 16 | row << 32


def ruled(now: Sequence[int], ranges: Sequence[tuple[int, int, int]]) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Return the rules, as many as `now` has, that a VIP's protocol should have, and the ranges left for its page.

    A rule that stays keeps its place, and a service whose range changes is in its place from one store to the next.
    """
    wanted = {rule_word(*each): each for each in ranges}
    rules = [word if word in wanted else 0 for word in now]
    left = {word: each for word, each in wanted.items() if word not in rules}
    for place, word in enumerate(now):
        if rules[place]:
            continue
        same = [candidate for candidate in left if candidate >> 32 == word >> 32]
        if not same and not left:
            continue
        rules[place] = same[0] if same else next(iter(left))
        del left[rules[place]]
    return rules, sorted(left.values())


def paged(ranges: Iterable[tuple[int, int, int]]) -> tuple[dict[int, int], dict[int, dict[int, int]]]:
    """Return a page's entries: ports' high octet → service where it has all 256, else high → low octet → service."""
    whole: dict[int, int] = {}
    leaves: dict[int, dict[int, int]] = {}
    for first, last, row in ranges:
        for high in range(first >> 8, (last >> 8) + 1):
            low, top = max(first, high << 8) & 0xFF, min(last, high << 8 | 0xFF) & 0xFF
            if (low, top) == (0, 0xFF):
                whole[high] = row
            else:
                leaves.setdefault(high, {}).update(dict.fromkeys(range(low, top + 1), row))
    return whole, leaves


# outer headers and next hops


def overhead(family: int, encap: str) -> int:
    """Return the octets of the outer header to a backend of this family."""
    return IP_HEADER[family] + (UDP_HEADER if encap == "gue" else 0)


def next_hop(backend: Backend, reached: Mapping[str, Reached]) -> NextHop | None:
    """Return the next hop towards a backend: as it was told, else by whatever way `reached` has; None without one."""
    if backend.dst_mac is not None:
        return NextHop(dev=backend.dev, dst_mac=backend.dst_mac)
    asked = asked_for(backend)
    way = reached.get(asked)
    if way is None:
        return None if backend.via is None or backend.dev is None else NextHop(dev=backend.dev, via=backend.via)
    if backend.dev is not None and backend.dev != way.dev:
        return NextHop(dev=backend.dev, via=asked)
    return NextHop(dev=way.dev, via=way.gateway or asked)


def asked_for(backend: Backend) -> str:
    """Return the address whose way leads to a backend."""
    return backend.via or backend.address


def outer(service: Service, backend: Backend, source: str | None) -> Outer | None:
    """Return a backend's outer header; `source` is what its device sends from, None where there is nothing.

    None where the service's own `local` does not help either: it has none, or one of the other family.
    """
    family, vary = family_of(backend.address), 0
    if service.local is not None and family_of(service.local) == family:
        source, vary = _varying(service.local)
    if source is None:
        return None
    port = service.gue_port if service.encap == "gue" else 0
    return Outer(family, ENCAPSULATIONS[service.encap], padded(source), padded(backend.address), vary, port)


@lru_cache(maxsize=4096)
def _varying(local: str) -> tuple[str, int]:
    """Return the first address of a prefix, and its host bits in the last word, in network order."""
    network = ip_network(local, strict=False)
    # only the last word's: of IPv6 32 bits, more than there are source addresses that a NIC tells apart
    mask = int(network.hostmask) & 0xFFFFFFFF
    return str(network.network_address), int.from_bytes(mask.to_bytes(4, "big"), "little")


def check_mtu(service: Service, backend: Backend, dev: str, mtu: int) -> None:
    """InvalidInput where what is left of a device's MTU is less than the VIP's family must carry in one piece."""
    added = overhead(family_of(backend.address), service.encap)
    least = LEAST_MTU[family_of(service.vip)]
    if mtu - added < least:
        detail = f"mtu {mtu} of {dev}, the way to backend {backend.address}, less {added} octets of outer header"
        raise InvalidInput(
            "encap",
            f"{detail} leaves {mtu - added}, and {least} must pass",
            f"give {dev} an mtu of {least + added} at least: `ip link set {dev} mtu {least + added}`",
        )


def mtu_warning(service: Service, backend: Backend, dev: str, mtu: int, clients: int) -> str | None:
    """Return what to beware of where clients' packets as large as `clients`, their MTU, do not fit any more."""
    added = overhead(family_of(backend.address), service.encap)
    if mtu - added >= clients:
        return None
    return (
        f"mtu {mtu} of {dev}, the way to {backend.address}, less {added} octets of outer header leaves {mtu - added}: "
        f"larger packets of clients are answered with 'too big'; an mtu of {clients + added} on {dev} avoids that"
    )


# decap


def decap_key(decap: Decap) -> bytes:
    """Return the key of an accepted pair in its trie: bits, then encapsulation, local address and source prefix."""
    family = family_of(decap.local)
    network = ip_network(
        decap.from_ if decap.from_ != "any" else ("0.0.0.0/0" if family == 4 else "::/0"), strict=False
    )
    local = packed(decap.local)
    bits = 32 + len(local) * 8 + network.prefixlen
    return (
        bits.to_bytes(4, "little")
        + ENCAPSULATIONS[decap.encap].to_bytes(4, "big")
        + local
        + (network.network_address.packed)
    )
