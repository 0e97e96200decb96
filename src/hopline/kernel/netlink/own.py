"""Addresses that this host takes on a device, and telling the others there: what a virtual address on the wire needs.

An IPv4 address is announced by an ARP request for itself (RFC 5227 section 3) and an IPv6 one by an unsolicited
neighbour advertisement with the override flag (RFC 4861 section 7.2.6): who knew it elsewhere sends here from now on.
"""

import contextlib
import errno
import socket
import struct

from hopline.errors import KernelError
from hopline.kernel.netlink.types import Link
from hopline.kernel.netlink.wire import NETLINK_ROUTE, NLM_F_CREATE, Socket, address_bytes, attribute

_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_NLM_F_EXCL = 0x200
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
_BROADCAST = b"\xff" * 6
_ALL_NODES, _ALL_NODES_MAC = socket.inet_pton(socket.AF_INET6, "ff02::1"), bytes.fromhex("333300000001")
_ETH_ARP, _ETH_IPV6 = 0x0806, 0x86DD
_ICMPV6, _ADVERTISEMENT, _OVERRIDE, _HOP_LIMIT = 58, 136, 0x20000000, 255


def add_address(link: Link, address: str) -> bool:
    """Add an address alone (/32, /128) to a device; False where it is there already. KernelError if refused."""
    family, packed = address_bytes(address)
    body = struct.pack(
        "=BBBBI", family, len(packed) * 8, _IFA_F_NODAD if family == socket.AF_INET6 else 0, 0, link.index
    )
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    try:
        with Socket(NETLINK_ROUTE) as netlink:
            netlink.request(_RTM_NEWADDR, body, NLM_F_CREATE | _NLM_F_EXCL, asked=f"add {address} to {link.name}")
    except KernelError as error:
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


def remove_address(index: int, address: str) -> bool:
    """Remove an address that was added so; False where it is not there any more."""
    family, packed = address_bytes(address)
    body = struct.pack("=BBBBI", family, len(packed) * 8, 0, 0, index) + attribute(_IFA_LOCAL, packed)
    try:
        with Socket(NETLINK_ROUTE) as netlink:
            netlink.request(_RTM_DELADDR, body, asked=f"remove {address}")
    except KernelError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENOENT):
            return False
        raise
    return True


class Announcer:
    """A raw socket, opened while that is allowed; where it is not, nothing is announced."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        with contextlib.suppress(PermissionError):
            # protocol 0: it receives nothing
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)

    @property
    def able(self) -> bool:
        """Whether it can announce anything."""
        return self._socket is not None

    def announce(self, link: Link, address: str) -> bool:
        """Tell a device's network that an address is at its MAC; False where that could not be sent."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto(announcement(link.mac, address), (link.name, 0))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let the socket go."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def announcement(mac: bytes, address: str) -> bytes:
    """Return the frame that says that an address is at a MAC."""
    family, packed = address_bytes(address)
    if family == socket.AF_INET:
        body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, packed, bytes(6), packed)
        return (_BROADCAST + mac + struct.pack("!H", _ETH_ARP) + body).ljust(60, b"\0")
    message = struct.pack("!BBHI16sBB6s", _ADVERTISEMENT, 0, 0, _OVERRIDE, packed, 2, 1, mac)
    pseudo = packed + _ALL_NODES + struct.pack("!II", len(message), _ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB16s16s", 6 << 28, len(message), _ICMPV6, _HOP_LIMIT, packed, _ALL_NODES)
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETH_IPV6) + header + message


def _checksum(data: bytes) -> int:
    """The checksum of RFC 1071 over an even number of octets."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
