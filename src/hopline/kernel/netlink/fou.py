"""UDP ports whose payload the kernel takes for a tunnel's (net/ipv4/fou_core.c, include/uapi/linux/fou.h)."""

import struct

from hopline.errors import KernelError
from hopline.kernel.netlink.wire import NETLINK_GENERIC, GenericFamily, Socket, attributes, number

_GET = 3  # FOU_CMD_GET
_PORT, _FAMILY, _TYPE = 1, 2, 4  # FOU_ATTR_
_GUE = 2  # FOU_ENCAP_GUE
_AF_INET6 = 10


def gue_ports() -> dict[int, frozenset[int]]:
    """The ports that GUE is taken apart at, by the family (4 or 6) of the outer header; none without the module."""
    found: dict[int, set[int]] = {4: set(), 6: set()}
    try:
        with Socket(NETLINK_GENERIC) as netlink:
            family = GenericFamily(netlink, "fou")
            answers = netlink.dump(family.number, struct.pack("=BBH", _GET, 1, 0), asked="list fou ports")
    except KernelError:
        answers = []
    for _, body in answers:
        entry = attributes(body, 4)
        if number(entry.get(_TYPE)) == _GUE:
            found[6 if number(entry.get(_FAMILY)) == _AF_INET6 else 4].add(number(entry.get(_PORT), ">"))
    return {family: frozenset(ports) for family, ports in found.items()}
