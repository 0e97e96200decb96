"""Offloads of a device, by ethtool over netlink (Documentation/networking/ethtool-netlink.rst, Linux 5.6)."""

import struct
from dataclasses import dataclass

from hopline.errors import HoplineError, InvalidInput, KernelError, NotFound
from hopline.kernel.netlink.wire import (
    NETLINK_GENERIC,
    GenericFamily,
    Socket,
    attribute,
    attribute_list,
    attributes,
    text,
)

_FEATURES_GET, _RINGS_GET = 11, 15
_RINGS_TCP_DATA_SPLIT, _SPLIT_DISABLED = 11, 1
_HEADER, _ACTIVE = 1, 4
_NESTED = 0x8000
_ENODEV = 19

# the words of `ethtool -K` and the kernel's feature names they stand for (net/ethtool/common.c); a dash ends a prefix
_WORDS = {
    "tx": ("tx-checksum-",),
    "rx": ("rx-checksum",),
    "gro": ("rx-gro",),
    "gso": ("tx-generic-segmentation",),
    "tso": ("tx-tcp-", "tx-tcp6-"),
    "lro": ("rx-lro",),
    "rx-gro-hw": ("rx-gro-hw",),
    "rxvlan": ("rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"),
}


@dataclass(frozen=True, slots=True)
class Offloads:
    """Feature names of a device that are on."""

    active: frozenset[str]

    def on(self, word: str) -> bool:
        """Whether any feature of this word of `ethtool -K` is on."""
        return bool(_names(word, self.active))


def offloads(name: str) -> Offloads:
    """NotFound when there is no such device here; KernelError on a kernel before 5.6."""
    answer = _ask(_FEATURES_GET, _device(name), f"read the offloads of {name}")[0]
    found = attributes(answer, 4)
    return Offloads(_bits(found.get(_ACTIVE, b"")))


def header_split(name: str) -> bool:
    """Whether the card may put headers and payload into buffers of their own; True where it does not say."""
    try:
        answer = _ask(_RINGS_GET, _device(name), f"read the rings of {name}")[0]
    except HoplineError:
        return True
    split = attributes(answer, 4).get(_RINGS_TCP_DATA_SPLIT, b"\0")
    return split[0] != _SPLIT_DISABLED


def _names(word: str, of: frozenset[str]) -> set[str]:
    if word not in _WORDS:
        raise InvalidInput("feature", f"{word} is none", f"one of {', '.join(_WORDS)}")
    stems = _WORDS[word]
    return {name for name in of if any(name == stem or (stem[-1] == "-" and name.startswith(stem)) for stem in stems)}


def _device(name: str) -> bytes:
    return attribute(_HEADER | _NESTED, attribute(2, name.encode()[:15] + b"\0"))


def _bits(bitset: bytes) -> frozenset[str]:
    """The names in a verbose bitset; with a mask those whose value is set."""
    found = attributes(bitset)
    names = set()
    for _, bit in attribute_list(found.get(3, b"")):
        entry = attributes(bit)
        if 1 in found or 3 in entry:  # ETHTOOL_A_BITSET_NOMASK: being listed is being set
            names.add(text(entry.get(2, b"")))
    return frozenset(names)


def _ask(command: int, body: bytes, asked: str) -> list[bytes]:
    with Socket(NETLINK_GENERIC) as netlink:
        family = GenericFamily(netlink, "ethtool")
        try:
            return netlink.request(family.number, struct.pack("=BBH", command, 1, 0) + body, asked=asked)
        except KernelError as error:
            if error.errno == _ENODEV:
                raise NotFound(f"{asked}: no such device here: see ip link") from None
            raise
