"""Tables into the kernel: routes, neighbours and an MTU as rtnetlink messages, hundreds in one datagram.

A process for each batch, or a library that decodes every answer, would take most of the time that a table has.
Numbers are those of include/uapi/linux/rtnetlink.h, neighbour.h and lwtunnel.h.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from hopline.kernel import netns
from hopline.kernel.netlink.wire import HEADER, NLM_F_CREATE, NLM_F_REQUEST, NLMSG_ERROR, attribute, messages
from model.table import Address, Prefix, Route

NEW_LINK, NEW_ROUTE, DEL_ROUTE, NEW_NEIGHBOUR, DEL_NEIGHBOUR = 16, 24, 25, 28, 29
NLM_F_EXCL, NLM_F_REPLACE = 0x200, 0x100
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
KINDS = {"unicast": 1, "local": 2, "blackhole": 6, "unreachable": 7, "prohibit": 8}
MAIN, LOCAL = 254, 255
STATIC = 4  # RTPROT_STATIC
ON_LINK = 4  # RTNH_F_ONLINK
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_HOST = 0, 253, 254
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_METRICS, RTA_VIA, RTA_ENCAP_TYPE, RTA_ENCAP = 1, 4, 5, 8, 18, 21, 22
RTAX_LOCK, RTAX_MTU = 1, 2
LWTUNNEL_ENCAP_IP, LWTUNNEL_IP_ID, LWTUNNEL_IP_DST = 2, 1, 2
NDA_DST, NDA_LLADDR, NUD_PERMANENT = 1, 2, 0x80
IFLA_MTU = 4


def word(number: int) -> bytes:
    return struct.pack("=I", number)


def message(kind: int, flags: int, body: bytes) -> bytes:
    whole = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 0, 0) + body
    return whole + bytes(-len(whole) % 4)


def route(kind: int, to: Prefix, route: Route, table: int, devices: dict[str, int]) -> bytes:
    """NEW_ROUTE or DEL_ROUTE of one route."""
    scope = SCOPE_UNIVERSE
    if to.family == 4 and route.kind == "local":
        scope = SCOPE_HOST
    elif to.family == 4 and route.kind == "unicast" and route.via is None:
        scope = SCOPE_LINK
    # on-link: a gateway is where the route says it is, whatever other routes say of it
    flags = ON_LINK if route.via is not None else 0
    head = (FAMILIES[to.family], to.length, 0, 0, table, STATIC, scope, KINDS[route.kind], flags)
    body = struct.pack("=BBBBBBBBI", *head) + attribute(RTA_DST, Address(to.family, to.number).packed)
    if route.kind in ("unicast", "local"):
        body += attribute(RTA_OIF, word(devices[route.device]))
    if route.via is not None and route.via.family == to.family:
        body += attribute(RTA_GATEWAY, route.via.packed)
    elif route.via is not None:
        body += attribute(RTA_VIA, struct.pack("=H", FAMILIES[route.via.family]) + route.via.packed)
    if route.mtu is not None:
        locked = attribute(RTAX_LOCK, word(1 << RTAX_MTU)) + attribute(RTAX_MTU, word(route.mtu))
        body += attribute(RTA_METRICS, locked)
    if route.encapsulated:
        tunnel = attribute(LWTUNNEL_IP_ID, struct.pack("!Q", 5)) + attribute(LWTUNNEL_IP_DST, bytes([10, 0, 2, 9]))
        body += attribute(RTA_ENCAP_TYPE, struct.pack("=H", LWTUNNEL_ENCAP_IP)) + attribute(RTA_ENCAP, tunnel)
    return message(kind, NLM_F_CREATE | NLM_F_EXCL if kind == NEW_ROUTE else 0, body)


def neighbour(kind: int, device: int, to: Address, at: bytes) -> bytes:
    """NEW_NEIGHBOUR or DEL_NEIGHBOUR of a permanent one."""
    body = struct.pack("=BxxxiHBB", FAMILIES[to.family], device, NUD_PERMANENT, 0, 0) + attribute(NDA_DST, to.packed)
    if kind == NEW_NEIGHBOUR:
        return message(kind, NLM_F_CREATE | NLM_F_REPLACE, body + attribute(NDA_LLADDR, at))
    return message(kind, 0, body)


def mtu(device: int, octets: int) -> bytes:
    return message(NEW_LINK, 0, struct.pack("=BxHiII", 0, 0, device, 0, 0) + attribute(IFLA_MTU, word(octets)))


class Netlink:
    """A socket that stays in a namespace; what the kernel refuses raises."""

    def __init__(self, namespace: str) -> None:
        self._socket = netns.run_in(namespace, self._open)
        self.devices = netns.run_in(namespace, lambda: {name: index for index, name in socket.if_nameindex()})

    @staticmethod
    def _open() -> socket.socket:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        made.bind((0, 0))
        made.setblocking(False)
        return made

    def send(self, requests: Iterable[bytes]) -> None:
        """All in one datagram, carried out before this returns; only refusals are answered."""
        each = list(requests)
        if not each:
            return
        self._socket.send(b"".join(each))
        refused = sorted(set(self._refusals()))
        if refused:
            raise OSError(refused[0], f"the kernel refused {[errno.errorcode[code] for code in refused]}")

    def _refusals(self) -> Iterator[int]:
        while True:
            with contextlib.suppress(BlockingIOError):
                data = self._socket.recv(1 << 16)
                for kind, _, start, _ in messages(data, len(data)):
                    if kind == NLMSG_ERROR and (code := -struct.unpack_from("=i", data, start)[0]):
                        yield code
                continue
            return

    def close(self) -> None:
        self._socket.close()


class Switch:
    """A sysctl of a namespace that is 0 or 1, held open: /proc/sys/net shows the namespace of who opened it."""

    def __init__(self, namespace: str, name: str) -> None:
        self._fd = netns.run_in(namespace, os.open, f"/proc/sys/net/{name}", os.O_WRONLY)
        self._on: bool | None = None

    def set(self, on: bool) -> None:
        if on != self._on:
            os.pwrite(self._fd, b"1" if on else b"0", 0)
            self._on = on

    def close(self) -> None:
        os.close(self._fd)
