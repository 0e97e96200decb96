"""Keeping next hops resolved: packets that XDP forwards never make the kernel probe a neighbour."""

import errno
from collections.abc import Iterable

from hopline.errors import KernelError
from hopline.kernel.netlink.parse import NEIGHBOUR
from hopline.kernel.netlink.wire import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Socket,
    address_bytes,
    attribute,
    name_of,
)

_RTM_NEWNEIGH = 28
_NTF_USE = 0x01
_GONE = (errno.ENODEV, errno.ENXIO, errno.ENETDOWN, errno.EINVAL)


def keep_alive(entries: Iterable[tuple[int, str]]) -> int:
    """Says to the kernel that each (index, address) is in use, so that it probes a stale one; how many it accepted.

    As `ip neighbour … use`: neigh_event_send() of net/core/neighbour.c, as for a packet the kernel sends. It leaves
    PERMANENT and NOARP entries as they are and changes no MAC. An entry of a device that is gone or down is left out.
    """
    accepted = 0
    with Socket(NETLINK_ROUTE) as netlink:
        for index, address in entries:
            try:
                _use(netlink, index, address)
            except KernelError as error:
                if error.errno not in _GONE:
                    raise
                continue
            accepted += 1
    return accepted


def resolve(index: int, address: str) -> None:
    """Makes the kernel resolve an address it may not know; the watch tells the answer. KernelError if refused."""
    with Socket(NETLINK_ROUTE) as netlink:
        _use(netlink, index, address)


def _use(netlink: Socket, index: int, address: str) -> None:
    family, packed = address_bytes(address)
    body = NEIGHBOUR.pack(family, index, 0, _NTF_USE, 0) + attribute(1, packed)
    asked = f"resolve {address} on {name_of(index)}"
    netlink.request(_RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE, asked=asked)
