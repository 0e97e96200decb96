"""How a value of the intent is spelled: one way, or InvalidInput with the field's name and what would do. Pure."""

import re
from collections.abc import Sequence
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
)
from itertools import repeat
from socket import AF_INET, AF_INET6, AddressFamily, inet_ntop, inet_pton

from hopline.errors import InvalidInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.ASCII)
_INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_SERVICE = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
_PLAIN_DEVICE = re.compile(r"[A-Za-z0-9_.@-]+", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")
# what no router forwards (RFC 1122 3.2.1.3, RFC 4291 2.5.3, 2.5.6 and 2.7): a prefix inside one of these is refused
_NEVER_FORWARDED: tuple[tuple[Network, str], ...] = (
    (IPv4Network("224.0.0.0/4"), "multicast"),
    (IPv4Network("127.0.0.0/8"), "loopback"),
    (IPv4Network("255.255.255.255/32"), "broadcast"),
    (IPv4Network("0.0.0.0/32"), "the unspecified address"),
    (IPv6Network("ff00::/8"), "multicast"),
    (IPv6Network("fe80::/10"), "link-local"),
    (IPv6Network("::1/128"), "loopback"),
    (IPv6Network("::/128"), "the unspecified address"),
)
# a shorter prefix may hold something of the above
_PLAIN_LENGTHS = {str(width): width for width in range(8, 128)}
# first octets of what needs no closer look: 1/8 to 223/8 but 127/8; 2000::/3 and fc00::/7
_UNICAST_4 = frozenset(range(1, 224)) - {127}
_UNICAST_6 = frozenset(range(0x20, 0x40)) | {0xFC, 0xFD}
_DESTINATION_HINT = "give an address or a prefix, such as 10.10.3.5, 10.10.3.0/24 or 2001:db8::/64"


def canonical_destination(text: str, field: str = "to") -> str:
    """Return an address (never with /32 or /128) or a prefix in its one spelling; InvalidInput if never forwarded."""
    if _is_plain_ipv4(text) or _is_plain(text):
        return text
    bare, slash, length = text.partition("/")
    address = _parse(bare, field, _DESTINATION_HINT)
    bits = address.max_prefixlen
    width = _prefix_length(length, bits, field) if slash else bits
    network = _network(address, width)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        inner = IPv4Network((int(network.network_address) & 0xFFFFFFFF, width - 96))
        raise InvalidInput(field, f"{text} is an IPv4-mapped IPv6 destination", f"write {_spelled(inner)}")
    if network.network_address != address:
        raise InvalidInput(field, f"{text} has host bits set", f"write {network}, or {address} for the one address")
    for never, what in _NEVER_FORWARDED:
        if never.version == network.version and network.subnet_of(never):  # type: ignore[arg-type]
            raise InvalidInput(field, f"{text} is {what}, which is never forwarded", "give a unicast destination")
    return _spelled(network)


def doubtful_destinations(texts: Sequence[str]) -> Sequence[str]:
    """Return those of many destinations that need a closer look; the others are in their one spelling.

    Hosts are looked at all together: where one of them is doubtful, all of its family are.
    """
    together = "\n".join(texts)
    if "/" not in together and ":" not in together:
        return () if _are_plain(texts, AF_INET) else texts
    hosts = [text for text in texts if "/" not in text]
    ipv4, ipv6 = ([text for text in hosts if (":" in text) is six] for six in (False, True))
    doubtful = [text for text in texts if "/" in text]
    for family, some in ((AF_INET, ipv4), (AF_INET6, ipv6)):
        if not _are_plain(some, family):
            doubtful += some
    return doubtful


def _are_plain(hosts: Sequence[str], family: AddressFamily) -> bool:
    """Whether _plain_octets has something to say of every one of them, but in a tenth of the time."""
    try:
        octets = list(map(inet_pton, repeat(family), hosts))
    except (OSError, ValueError):
        return False
    first = b"".join(octets)[:: 4 if family == AF_INET else 16]
    if family == AF_INET:
        return set(first) <= _UNICAST_4
    return set(first) <= _UNICAST_6 and list(map(inet_ntop, repeat(family), octets)) == list(hosts)


def canonical_address(text: str, field: str = "address") -> str:
    """Return one IPv4 or IPv6 address, of any kind, in its one spelling."""
    if "/" in text:
        raise InvalidInput(field, f"{shown(text)} is a prefix", "give one address")
    address = _parse(text, field, "give an IPv4 or IPv6 address, such as 10.10.3.5 or 2001:db8::5")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise InvalidInput(field, f"{text} is an IPv4-mapped IPv6 address", f"write {address.ipv4_mapped}")
    return str(address)


def canonical_host(text: str, field: str = "address") -> str:
    """Return one unicast address in its one spelling; InvalidInput for what no packet between hosts is addressed to."""
    if _plain_octets(text) is not None:
        return text
    address = canonical_address(text, field)
    _refuse_unroutable(_network(_parse(address, field, ""), 128 if ":" in address else 32), field)
    return address


def canonical_source(text: str, field: str = "local", *, wide: bool = False) -> str:
    """Return one unicast address or a prefix of unicast addresses in its one spelling; a `wide` one may hold others."""
    if "/" not in text:
        return canonical_host(text, field)
    bare, _, length = text.partition("/")
    address = _parse(bare, field, "give an address or a prefix, such as 10.10.3.5 or 10.10.3.0/24")
    network = _network(address, _prefix_length(length, address.max_prefixlen, field))
    if network.network_address != address:
        raise InvalidInput(field, f"{text} has host bits set", f"write {network}, or {address} for the one address")
    if isinstance(network, IPv6Network) and (network.subnet_of(_MAPPED) or (network.overlaps(_MAPPED) and not wide)):
        raise InvalidInput(field, f"{network} has IPv4-mapped addresses", "write IPv4 as IPv4")
    if not wide or any(network.subnet_of(never) for never in _never(network)):  # type: ignore[arg-type]
        _refuse_unroutable(network, field)
    return _spelled(network)


def network_of(text: str) -> Network:
    """Return a canonical address or prefix as a network."""
    return IPv6Network(text) if ":" in text else IPv4Network(text)


def _never(network: Network) -> dict[Network, str]:
    return {never: what for never, what in _NEVER_FORWARDED if never.version == network.version}


def _refuse_unroutable(network: Network, field: str) -> None:
    for never, what in _never(network).items():
        if network.overlaps(never):
            spelled = _spelled(network)
            inside = network.subnet_of(never)  # type: ignore[arg-type]
            says = f"{spelled} is {what}" if inside else f"{spelled} holds {_spelled(never)}, {what}"
            raise InvalidInput(field, says, "give a unicast address")


def canonical_mac(text: str, field: str = "dst_mac") -> str:
    """Return a unicast MAC address as six lower-case octets with colons (IEEE 802: bit 0 of the first is multicast)."""
    mac = text.lower()
    if not _MAC.fullmatch(mac):
        raise InvalidInput(field, f"{shown(text)} is not a MAC address", "write six octets, as 08:00:27:f2:cb:f9")
    if mac == "ff:ff:ff:ff:ff:ff":
        raise InvalidInput(field, f"{mac} is the broadcast address", "give the MAC address of one station")
    if int(mac[:2], 16) & 1:
        raise InvalidInput(field, f"{mac} is a multicast address", "give the MAC address of one station")
    if mac == "00:00:00:00:00:00":
        raise InvalidInput(field, f"{mac} is nobody's address", "give the MAC address of one station")
    return mac


def device_name(text: str, field: str = "dev") -> str:
    """Return `text` if the kernel could have a device of that name (net/core/dev.c, dev_valid_name)."""
    hint = "give the name of a device, as `ip link` shows it"
    if not text or text in (".", "..") or len(text.encode("utf-8", "surrogatepass")) > 15:
        raise InvalidInput(field, f"{shown(text)} is not a device name of 1 to 15 bytes", hint)
    if not _PLAIN_DEVICE.fullmatch(text) and any(c in "/:" or c.isspace() or not c.isprintable() for c in text):
        raise InvalidInput(field, f"{shown(text)} has a character that no device name has", hint)
    return text


def instance_name(text: str, field: str = "instance") -> str:
    """Return `text` if it can name an instance: it becomes a directory under /run, /var/lib and bpffs."""
    if not _INSTANCE.fullmatch(text):
        raise InvalidInput(field, f"{shown(text)} cannot name an instance", "use 1 to 32 of A-Z a-z 0-9 _ -")
    return text


def service_name(text: str, field: str = "name") -> str:
    """Return `text` if it can name a service: the kernel's row of it has 64 octets for that."""
    if not _SERVICE.fullmatch(text):
        raise InvalidInput(field, f"{shown(text)} cannot name a service", "use 1 to 63 of A-Z a-z 0-9 _ -")
    return text


def canonical_via(text: str, to: str, dev: str | None, field: str = "via") -> str:
    """Return a next hop's address in its one spelling; InvalidInput if packets to `to`, by `dev`, cannot go to it."""
    via = _parse(canonical_address(text, field), field, "give the next hop's address")
    destination_is_ipv6 = ":" in to
    if destination_is_ipv6 and via.version == 4:
        raise InvalidInput(field, f"{via} is IPv4 and {to} is IPv6", "give an IPv6 next hop")
    if not destination_is_ipv6 and via.version == 6:
        hint = "an IPv6 next hop for IPv4 is not supported yet: give an IPv4 one, or dev and dst_mac"
        raise InvalidInput(field, f"{via} is IPv6 and {to} is IPv4", hint)
    broadcast = via == IPv4Address("255.255.255.255")
    if via.is_multicast or via.is_loopback or via.is_unspecified or broadcast:
        raise InvalidInput(field, f"{via} is not a unicast address of a neighbour", "give the next hop's own address")
    if via.version == 6 and via.is_link_local and dev is None:
        raise InvalidInput(field, f"{via} is link-local, so it says nothing without a device", "give dev too")
    return str(via)


def shown(text: str) -> str:
    """Return a stranger's text fit for one line of an error: quoted where it needs it, cut after 64 characters."""
    cut = text if len(text) <= 64 else text[:61] + "..."
    # punctuation alone would be lost in a sentence, but for ::, which is an address
    plain = cut.isprintable() and " " not in cut and (cut == "::" or any(map(str.isalnum, cut)))
    return cut if plain else ascii(cut)


def _is_plain_ipv4(text: str) -> bool:
    """Whether `text` needs no closer look: a host in 1/8 to 223/8 but 127/8; most of a bulk load, ten times as fast."""
    try:
        # takes only the canonical spelling: four numbers, no leading zeros
        return inet_pton(AF_INET, text)[0] in _UNICAST_4
    except (OSError, ValueError):
        return False


def _is_plain(text: str) -> bool:
    """Whether `text` needs no closer look: a host or prefix in its one spelling, away from what is never forwarded."""
    bare, slash, length = text.partition("/")
    octets = _plain_octets(bare)
    if octets is None or not slash:
        return octets is not None
    width = _PLAIN_LENGTHS.get(length, 0)
    rest = len(octets) * 8 - width
    return width > 0 and rest > 0 and int.from_bytes(octets, "big") & ((1 << rest) - 1) == 0


def _plain_octets(text: str) -> bytes | None:
    """Return an address of 1/8 to 223/8 but 127/8, 2000::/3 or fc00::/7, None for another or another spelling."""
    try:
        if ":" not in text:
            octets = inet_pton(AF_INET, text)
            return octets if octets[0] in _UNICAST_4 else None
        octets = inet_pton(AF_INET6, text)
    except (OSError, ValueError):
        return None
    # in these two the C library spells an address as RFC 5952 does
    return octets if octets[0] in _UNICAST_6 and inet_ntop(AF_INET6, octets) == text else None


def _parse(text: str, field: str, hint: str) -> Address:
    if "%" in text:
        raise InvalidInput(field, f"{shown(text)} has a zone", "name the device with dev and leave %... out")
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        raise InvalidInput(field, f"{shown(text)} is not an IP address", hint) from None


def _prefix_length(text: str, bits: int, field: str) -> int:
    # int() alone would take " 24", "+24" and other scripts' digits
    if text.isascii() and text.isdigit() and len(text) <= 3 and text == str(int(text)) and int(text) <= bits:
        return int(text)
    raise InvalidInput(field, f"/{shown(text)} is not a prefix length", f"give a number from 0 to {bits}")


def _network(address: Address, width: int) -> Network:
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), width), strict=False)
    return IPv6Network((int(address), width), strict=False)


def _spelled(network: Network) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)
