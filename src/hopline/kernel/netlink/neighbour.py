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

_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NTF_USE = 0x01
_LEFT_ALONE = 0x01 | 0x02 | 0x08 | 0x10 | 0x40 | 0x80  # INCOMPLETE REACHABLE DELAY PROBE NOARP PERMANENT
_GONE = (errno.ENODEV, errno.ENXIO, errno.ENETDOWN, errno.EINVAL)


def keep_alive(entries: Iterable[tuple[int, str]]) -> int:
    """Makes the kernel probe each (index, address) whose entry is stale or failed; how many it was asked to.

    As `ip neighbour … use`: neigh_event_send() of net/core/neighbour.c, as for a packet the kernel sends. Call it
    every few seconds: a neighbour that does not answer at its old MAC fails first, and the next call has it asked for
    anew. An entry of a device that is gone or down is left out, and so are those the kernel is sure of. One that fails
    does not keep the others from being asked for: the first failure is raised at the end.
    """
    asked, failure = 0, None
    with Socket(NETLINK_ROUTE) as netlink:
        for index, address in entries:
            try:
                asked += _use(netlink, index, address)
            except KernelError as error:
                if error.errno not in _GONE:
                    failure = failure or error
    if failure is not None:
        raise failure
    return asked


def resolve(index: int, address: str) -> None:
    """Makes the kernel resolve an address it may not know; the watch tells the answer. KernelError if refused."""
    with Socket(NETLINK_ROUTE) as netlink:
        _use(netlink, index, address)


def _use(netlink: Socket, index: int, address: str) -> bool:
    family, packed = address_bytes(address)
    body = NEIGHBOUR.pack(family, index, 0, _NTF_USE, 0) + attribute(1, packed)
    asked = f"resolve {address} on {name_of(index)}"
    # since Linux 5.16 NTF_USE takes PERMANENT away from an entry (__neigh_update), so it is looked at first
    if _state(netlink, family, index, packed, asked) & _LEFT_ALONE:
        return False
    netlink.request(_RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE, asked=asked)
    return True


def _state(netlink: Socket, family: int, index: int, packed: bytes, asked: str) -> int:
    """The NUD state of an entry, 0 when there is none."""
    body = NEIGHBOUR.pack(family, index, 0, 0, 0) + attribute(1, packed)
    try:
        answer = netlink.request(_RTM_GETNEIGH, body, asked=asked)[0]
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):  # none; or Linux before 5.0, where NTF_USE does no harm
            return 0
        raise
    return int(NEIGHBOUR.unpack_from(answer)[2])
