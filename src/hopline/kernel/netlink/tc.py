"""BPF programs at a device's ingress, by clsact and cls_bpf (net/sched), which old kernels have too.

What Hopline attaches is named `hopline_…`, so that it is known for its own whoever attached it.
"""

import errno
import struct
from dataclasses import dataclass

from hopline.errors import KernelError
from hopline.kernel.netlink.query import links
from hopline.kernel.netlink.wire import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Socket,
    attribute,
    attributes,
    text,
)

OURS = "hopline_"

_NEWQDISC, _DELQDISC, _NEWTFILTER, _DELTFILTER, _GETTFILTER = 36, 37, 44, 45, 46
_TCMSG = struct.Struct("=BxxxiIII")  # family, device, handle, parent, priority << 16 | protocol
_HANDLE, _CLSACT = 0xFFFF0000, 0xFFFFFFF1
_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS = 6, 7, 8
_DIRECT_ACTION = 1
_ALL_PROTOCOLS = 0x0300  # htons(ETH_P_ALL)
_PRIORITIES = range(1, 9)  # a priority is of one kind of filter: another's may have the first
_ABSENT = (errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOENT)


@dataclass(frozen=True, slots=True)
class Filter:
    """A program at the ingress of a device: `name` as it was given with it."""

    index: int
    name: str
    handle: int
    info: int


def attach(index: int, program: int, name: str) -> None:
    """Put the program of descriptor `program` at the ingress of a device, before others' where they let it.

    `name` begins with OURS. Where there is no clsact or ingress qdisc yet one is made, and the name says so by a `+`
    at its end, for detach().
    """
    asked = f"attach {name} to the ingress of interface {index}"
    with Socket(NETLINK_ROUTE) as netlink:
        made = _make_qdisc(netlink, index, asked)
        options = attribute(_BPF_FD, struct.pack("=I", program))
        options += attribute(_BPF_NAME, (name + "+" * made).encode() + b"\0")
        options += attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        for priority in _PRIORITIES:
            body = _TCMSG.pack(0, index, 0, _INGRESS, priority << 16 | _ALL_PROTOCOLS)
            body += attribute(_KIND, b"bpf\0") + attribute(_OPTIONS, options)
            try:
                netlink.request(_NEWTFILTER, body, NLM_F_CREATE | NLM_F_EXCL, asked=asked)
                return
            except KernelError as error:
                if error.errno not in (errno.EINVAL, errno.EEXIST) or priority == _PRIORITIES[-1]:
                    raise


def _make_qdisc(netlink: Socket, index: int, asked: str) -> bool:
    """Whether there was none."""
    body = _TCMSG.pack(0, index, _HANDLE, _CLSACT, 0) + attribute(_KIND, b"clsact\0")
    try:
        netlink.request(_NEWQDISC, body, NLM_F_CREATE | NLM_F_EXCL, asked=asked)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        return False
    return True


def attached(name: str, index: int | None = None) -> list[Filter]:
    """The filters of that name at ingress, of one device or all."""
    with Socket(NETLINK_ROUTE) as netlink:
        indexes = [link.index for link in links(netlink)] if index is None else [index]
        found = [one for number in indexes for one in _filters(netlink, number, _INGRESS)]
    return [one for one in found if one.name.rstrip("+") == name]


def detach(name: str, index: int | None = None) -> int:
    """Take the filters of that name off one device or all, and what attach() made for them; return how many."""
    there = attached(name, index)
    for one in there:
        asked = f"detach {name} from the ingress of interface {one.index}"
        with Socket(NETLINK_ROUTE) as netlink:
            body = _TCMSG.pack(0, one.index, one.handle, _INGRESS, one.info) + attribute(_KIND, b"bpf\0")
            netlink.request(_DELTFILTER, body, asked=asked)
            others = [*_filters(netlink, one.index, _INGRESS, "any"), *_filters(netlink, one.index, _EGRESS, "any")]
            if one.name.endswith("+") and not others:
                body = _TCMSG.pack(0, one.index, _HANDLE, _CLSACT, 0) + attribute(_KIND, b"clsact\0")
                netlink.request(_DELQDISC, body, asked=asked)
    return len(there)


def _filters(netlink: Socket, index: int, parent: int, kind: str = "bpf") -> list[Filter]:
    asked = f"list tc filters of interface {index}"
    try:
        bodies = netlink.dump(_GETTFILTER, _TCMSG.pack(0, index, 0, parent, 0), asked=asked)
    except KernelError as error:
        if error.errno in _ABSENT:
            return []  # no such qdisc, or the device has gone
        raise
    found = []
    for _, body in bodies:
        _, device, handle, _, info = _TCMSG.unpack_from(body)
        said = attributes(body, _TCMSG.size)
        # the first answer of each priority names no filter
        if handle and kind in ("any", text(said.get(_KIND, b""))):
            name = text(attributes(said.get(_OPTIONS, b"")).get(_BPF_NAME, b""))
            found.append(Filter(device, name, handle, info))
    return found
