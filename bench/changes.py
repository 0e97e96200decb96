"""Changes of a host as netlink messages, made beforehand: one system call is the change (RFC 3549; linux/rtnetlink.h).

When the call returns, the kernel has done it; a process that runs `ip` or `nft` would add milliseconds of its own.
"""

import socket
import struct

from hopline.kernel import netns
from hopline.kernel.netlink import wire
from hopline.kernel.netlink.wire import HEADER, attribute

RTM_NEWLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_NEWNEIGH = 16, 20, 21, 24, 28
REQUEST, ACK, REPLACE, CREATE = wire.NLM_F_REQUEST, wire.NLM_F_ACK, wire.NLM_F_REPLACE, wire.NLM_F_CREATE
APPEND = 0x800
MAIN_TABLE, STATIC, UNIVERSE, UNICAST = 254, 4, 0, 1
PERMANENT, UP = 0x80, 1
# linux/netfilter/nfnetlink.h and nf_tables.h
BATCH_BEGIN, BATCH_END, TABLES = 0x10, 0x11, 10
NEW_TABLE, DEL_TABLE, NEW_CHAIN, NEW_RULE = 0, 2, 3, 6
INET, HOOK_FORWARD, DROP = 1, 2, 0
NESTED = 0x8000


def family_of(address: str) -> int:
    return wire.address_bytes(address)[0]


def packed(address: str) -> bytes:
    return wire.address_bytes(address)[1]


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    return HEADER.pack(16 + len(body), kind, REQUEST | flags, sequence, 0) + body


def route(to: str, via: str, device: int, metric: int = 1024) -> bytes:
    """`ip route replace TO via VIA dev DEVICE metric METRIC`."""
    network, _, length = to.partition("/")
    body = struct.pack("=BBBBBBBBI", family_of(network), int(length), 0, 0, MAIN_TABLE, STATIC, UNIVERSE, UNICAST, 0)
    body += attribute(1, packed(network)) + attribute(5, packed(via)) + attribute(4, struct.pack("=I", device))
    return message(RTM_NEWROUTE, ACK | CREATE | REPLACE, body + attribute(6, struct.pack("=I", metric)))


def neighbour(address: str, mac: bytes, device: int) -> bytes:
    """`ip neigh replace ADDRESS lladdr MAC dev DEVICE nud permanent`."""
    body = struct.pack("=BBHiHBB", family_of(address), 0, 0, device, PERMANENT, 0, 0)
    return message(RTM_NEWNEIGH, ACK | CREATE | REPLACE, body + attribute(1, packed(address)) + attribute(2, mac))


def link(device: int, up: bool) -> bytes:
    """`ip link set DEVICE up` or `down`."""
    return message(RTM_NEWLINK, ACK, struct.pack("=BBHiII", 0, 0, 0, device, UP * up, UP))


def address(text: str, device: int, present: bool) -> bytes:
    """`ip address add TEXT dev DEVICE` or `del`, a host's own address, without a prefix."""
    body = struct.pack("=BBBBI", family_of(text), 8 * len(packed(text)), 0, 0, device)
    body += attribute(2, packed(text)) + attribute(1, packed(text))
    return message(RTM_NEWADDR, ACK | CREATE, body) if present else message(RTM_DELADDR, ACK, body)


class Transaction(bytes):
    """Messages for nf_tables, which has a socket of its own kind."""


def tables(*parts: tuple[int, int, bytes]) -> Transaction:
    """One transaction of nf_tables, of (kind, flags, attributes); only the last is acknowledged."""
    mark = struct.pack("!BBH", 0, 0, TABLES)
    out = message(BATCH_BEGIN, 0, mark)
    for number, (kind, flags, body) in enumerate(parts):
        last = ACK if number == len(parts) - 1 else 0
        out += message(TABLES << 8 | kind, flags | last, struct.pack("!BBH", INET, 0, 0) + body, 2 + number)
    return Transaction(out + message(BATCH_END, 0, mark))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def nested(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(inner))


def forward_drop() -> Transaction:
    """A table, a chain on forward, and a rule in it that drops everything."""
    hook = nested(4, number(1, HOOK_FORWARD), number(2, 0))
    chain = text(1, "bench") + text(3, "f") + hook + text(7, "filter")
    verdict = nested(2, nested(2, number(1, DROP)))
    rule = nested(1, text(1, "immediate"), nested(2, number(1, 0), verdict))
    return tables(
        (NEW_TABLE, CREATE, text(1, "bench")),
        (NEW_CHAIN, CREATE, chain),
        (NEW_RULE, CREATE | APPEND, text(1, "bench") + text(2, "f") + nested(4, rule)),
    )


def drop_no_more() -> Transaction:
    return tables((DEL_TABLE, 0, text(1, "bench")))


class Changer:
    """Sockets in a namespace; `make` is one system call, then the kernel's word on it is read."""

    def __init__(self, namespace: str) -> None:
        self._sockets = {
            protocol: netns.run_in(namespace, socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, protocol)
            for protocol in (wire.NETLINK_ROUTE, wire.NETLINK_NETFILTER)
        }
        for one in self._sockets.values():
            one.bind((0, 0))
            one.settimeout(5)

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()

    def send(self, change: bytes) -> socket.socket:
        """The change; the socket that will say what came of it."""
        to_tables = isinstance(change, Transaction)
        chosen = self._sockets[wire.NETLINK_NETFILTER if to_tables else wire.NETLINK_ROUTE]
        chosen.send(change)
        return chosen

    @staticmethod
    def confirm(answering: socket.socket) -> None:
        answer = answering.recv(65536)
        code = struct.unpack_from("=i", answer, 16)[0]
        assert code == 0, f"the kernel refused a change: {-code}"

    def make(self, change: bytes) -> None:
        self.confirm(self.send(change))
