"""A namespace joined to this one by a pair of devices, and what leads marked packets there; for checks by tunnel."""

import array
import errno
import fcntl
import socket
import struct

from hopline.errors import KernelError
from hopline.kernel.netlink import change, encap
from hopline.kernel.netlink.wire import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Socket,
    attribute,
)

_RTM_NEWLINK, _RTM_NEWRULE = 16, 32
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, which of them
_NOARP = 0x80  # IFF_NOARP: whatever the next hop, the other end takes the frame
_IFNAME, _LINKINFO, _NET_NS_FD = 3, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_RULE = struct.Struct("=BBBBBBBBI")  # fib_rule_hdr: family, dst_len, src_len, tos, table, -, -, action, flags
_TO_TABLE = 1  # FR_ACT_TO_TBL
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK = 6, 10, 15, 16
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17


def join(name: str, peer: str, namespace: int) -> None:
    """Make a pair of devices, down and without ARP: `name` here, `peer` in the namespace of descriptor `namespace`.

    One of that name that is there already is replaced: its other end was a namespace that is no more.
    """
    far = _IFINFO.pack(0, 0, 0, _NOARP, _NOARP)
    far += attribute(_IFNAME, peer.encode() + b"\0") + attribute(_NET_NS_FD, struct.pack("=i", namespace))
    data = attribute(_INFO_DATA, attribute(_VETH_PEER, far))
    body = _IFINFO.pack(0, 0, 0, _NOARP, _NOARP) + attribute(_IFNAME, name.encode() + b"\0")
    body += attribute(_LINKINFO, attribute(_INFO_KIND, b"veth\0") + data)
    for last in (False, True):
        try:
            with Socket(NETLINK_ROUTE) as netlink:
                netlink.request(_RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, asked=f"create {name}")
            return
        except KernelError as error:
            if error.errno != errno.EEXIST or last:
                raise
        change.delete_link(name)


def lead_marked(bit: int, table: int, priority: int) -> None:
    """Have packets whose mark has `bit` looked up in `table` first, of both families."""
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _RULE.pack(family, 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)
        for kind, value in ((_FRA_PRIORITY, priority), (_FRA_FWMARK, bit), (_FRA_FWMASK, bit), (_FRA_TABLE, table)):
            body += attribute(kind, struct.pack("=I", value))
        try:
            with Socket(NETLINK_ROUTE) as netlink:
                netlink.request(_RTM_NEWRULE, body, NLM_F_CREATE | NLM_F_EXCL, asked=f"make a rule for table {table}")
        except KernelError as error:
            if error.errno != errno.EAFNOSUPPORT:  # a kernel without IPv6
                raise


def lead_through(address: str, device: str, table: int, hook: encap.NewHook) -> None:
    """Have packets to an address, looked up in `table`, go by a program to a device."""
    to = f"{address}/{128 if ':' in address else 32}"
    change.replace_route(to, dev=device, table=table)
    encap.put(encap.routes_to(to, table)[0], [hook])


def whole_checksums(device: str) -> None:
    """Have the kernel finish checksums before a device: what is put into a tunnel has no one else to do it."""
    value = array.array("I", [_ETHTOOL_STXCSUM, 0])
    request = struct.pack("16sP16x", device.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError as error:
            raise KernelError(f"turn off tx of {device}", error.errno or errno.EIO) from error
