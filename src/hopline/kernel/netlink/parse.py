"""rtnetlink bodies (include/uapi/linux/rtnetlink.h, if_link.h, neighbour.h, if_addr.h) as the types of this package."""

import socket
import struct

from hopline.kernel.netlink.types import Address, Link, Neighbour, neighbour_state
from hopline.kernel.netlink.wire import Bytes, attributes, number, signed, text

IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change mask
NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
IFADDR = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags

_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_NTF_PROXY = 0x08
_IP = (socket.AF_INET, socket.AF_INET6)


def link(body: Bytes, start: int = 0, end: int | None = None) -> Link | None:
    """A link; None for what AF_BRIDGE and others say about a port under the same message type."""
    family, hardware, index, flags, _mask = IFINFO.unpack_from(body, start)
    if family != socket.AF_UNSPEC:
        return None
    found = attributes(body, start + 16, end)
    information = attributes(found.get(18, b""))  # IFLA_LINKINFO
    netnsid = found.get(37)
    return Link(
        index=index,
        name=text(found.get(3, b"")),
        mac=found.get(1, b""),
        mtu=number(found.get(4)),
        up=bool(flags & _IFF_UP),
        running=bool(flags & _IFF_RUNNING),
        kind=text(information.get(1, b"")),
        master=number(found.get(10)),
        peer_index=number(found.get(5)),
        peer_netnsid=None if netnsid is None else signed(netnsid),
        hardware=hardware,
        flags=flags,
        xdp_id=number(attributes(found.get(43, b"")).get(4)),
    )


def neighbour(body: Bytes, start: int = 0, end: int | None = None) -> Neighbour | None:
    """A neighbour; None for bridge forwarding entries, proxies, and multicast, whose MAC is computed."""
    family, index, nud, flags, _type = NEIGHBOUR.unpack_from(body, start)
    if family not in _IP or flags & _NTF_PROXY:
        return None
    found = attributes(body, start + 12, end)
    if 1 not in found or _multicast(family, found[1]):
        return None
    state, usable = neighbour_state(nud)
    mac = found.get(2)
    return Neighbour(index, socket.inet_ntop(family, found[1]), mac, state, usable and mac is not None)


def _multicast(family: int, packed: bytes) -> bool:
    return packed[0] == 0xFF if family == socket.AF_INET6 else packed[0] & 0xF0 == 0xE0


def address(body: Bytes, start: int = 0, end: int | None = None) -> Address | None:
    """An address. IFA_LOCAL is the host's own where IFA_ADDRESS is the other end of a point-to-point link."""
    family, prefix_length, _flags, _scope, index = IFADDR.unpack_from(body, start)
    found = attributes(body, start + 8, end)
    own = found.get(2) or found.get(1)
    if family not in _IP or own is None:
        return None
    broadcast = socket.inet_ntop(family, found[4]) if family == socket.AF_INET and 4 in found else None
    return Address(index, socket.inet_ntop(family, own), prefix_length, broadcast)
