"""The netlink protocol: sockets, messages and attributes (RFC 3549; include/uapi/linux/netlink.h).

pyroute2 decodes every attribute of every message, which is 2 to 4 thousand routes a second; a watch that must follow
100,000 route changes and a scan of a full table need the few bytes that matter, so reading is done here with struct.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Self

from hopline.errors import KernelError

NETLINK_ROUTE, NETLINK_XFRM, NETLINK_NETFILTER, NETLINK_GENERIC = 0, 6, 12, 16

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x300, 0x100, 0x200, 0x400
NLM_F_ACK_TLVS = 0x200

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 1, 10, 11, 12
_SO_RCVBUFFORCE = 33
_TYPE_MASK = 0x3FFF  # NLA_F_NESTED and NLA_F_NET_BYTEORDER are the two bits above
_TIMEOUT = 10.0
_READ = 65536  # the kernel fills at most 32 KiB a dump datagram
_DUMP_TRIES = 5

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type

Bytes = bytes | bytearray | memoryview


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: Bytes, offset: int = 0, end: int | None = None) -> dict[int, bytes]:
    """The attributes of data[offset:end] by type; of a repeated one the last."""
    return dict(attribute_list(data, offset, end))


def attribute_list(data: Bytes, offset: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The attributes of data[offset:end] in order, as (type, value)."""
    end = len(data) if end is None else end
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & _TYPE_MASK, bytes(data[offset + 4 : offset + length])
        offset += (length + 3) & ~3


def text(value: bytes) -> str:
    """An attribute that is a C string."""
    return value.split(b"\0", 1)[0].decode(errors="replace")


def number(value: bytes | None, order: str = "=", default: int = 0) -> int:
    """An attribute that is an unsigned number of 1, 2, 4 or 8 bytes; `order` ">" for the network's."""
    if value is None:
        return default
    return int(struct.unpack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[len(value)], value)[0])


def signed(value: bytes | None, default: int = 0) -> int:
    """An attribute that is an int (interface and namespace numbers, where -1 means all or none)."""
    return default if value is None else int(struct.unpack("=i", value)[0])


def address_bytes(address: str) -> tuple[int, bytes]:
    """(AF_INET or AF_INET6, packed address)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return int(family), socket.inet_pton(family, address)


def messages(data: Bytes, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The messages of one datagram as (type, flags, start of body, end of body)."""
    offset = 0
    while offset + 16 <= end:
        length, kind, flags, _sequence, _port = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            return
        yield kind, flags, offset + 16, offset + length
        offset += (length + 3) & ~3


class Socket:
    """A netlink socket of the calling thread's network namespace, for requests; blocking, with a time-out."""

    def __init__(self, protocol: int) -> None:
        """Opens; KernelError where the kernel lacks the protocol."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise KernelError(f"open netlink protocol {protocol}", error.errno or errno.EIO) from None
        self._socket.settimeout(_TIMEOUT)
        self._sequence = 0
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                continue  # kernels before 4.3, 4.12 and 4.20: less text in errors, unfiltered dumps
        self._socket.bind((0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the descriptor back; may be called twice."""
        self._socket.close()

    def request(self, kind: int, body: bytes, flags: int = 0, *, asked: str) -> list[bytes]:
        """Asks once; the bodies of the answers (none where the kernel only acknowledges). KernelError names `asked`."""
        self._send(kind, body, flags | NLM_F_ACK)
        return [bytes(answer) for _kind, answer in self._answers(asked)]

    def dump(self, kind: int, body: bytes, *, asked: str) -> list[tuple[int, bytes]]:
        """All entries as (message type, body); starts again when the table changed underway."""
        for _ in range(_DUMP_TRIES):
            found = list(self.stream(kind, body, asked=asked))
            if not self.interrupted:
                break
        return found

    def stream(self, kind: int, body: bytes, *, asked: str) -> Iterator[tuple[int, bytes]]:
        """One dump as it comes, for tables too large to hold; afterwards `interrupted` says if it may have holes."""
        self._send(kind, body, NLM_F_DUMP)
        return self._answers(asked)

    def _send(self, kind: int, body: bytes, flags: int) -> None:
        self._sequence += 1
        self.interrupted = False
        try:
            self._socket.send(HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0) + body)
        except OSError as error:
            raise KernelError("ask the kernel by netlink", error.errno or errno.EIO) from None

    def _answers(self, asked: str) -> Iterator[tuple[int, bytes]]:
        while True:
            try:
                data = self._socket.recv(_READ)
            except OSError as error:
                raise KernelError(asked, error.errno or errno.ETIMEDOUT) from None
            if HEADER.unpack_from(data)[3] != self._sequence:
                continue  # the tail of an earlier request that failed half-way
            for kind, flags, start, end in messages(data, len(data)):
                self.interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    _raise_if_failed(data, flags, start, end, asked)
                    return
                yield kind, data[start:end]


def _raise_if_failed(data: bytes, flags: int, start: int, end: int, asked: str) -> None:
    code = -struct.unpack_from("=i", data, start)[0] if end - start >= 4 else 0
    if code <= 0:
        return
    said = attributes(data, start + 20, end).get(1, b"") if flags & NLM_F_ACK_TLVS else b""
    raise KernelError(asked, code, text(said).rstrip(".").lower())


class Subscription:
    """A non-blocking netlink socket that hears multicast groups of the calling thread's namespace."""

    def __init__(self, protocol: int, groups: Iterable[int], receive_buffer: int) -> None:
        """`receive_buffer` in bytes, beyond rmem_max where the caller has CAP_NET_ADMIN. KernelError if refused."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise KernelError(f"watch netlink protocol {protocol}", error.errno or errno.EIO) from None
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.bind((0, 0))
        for group in groups:
            try:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            except OSError as error:
                self._socket.close()
                raise KernelError(f"watch netlink group {group}", error.errno or errno.EIO) from None
        self._buffer = bytearray(_READ)
        self.view = memoryview(self._buffer)

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Gives the descriptor back; may be called twice."""
        self._socket.close()

    def receive(self) -> int:
        """Bytes of the next datagram, now in `view`; 0 when there is none; -1 when the kernel had to drop some."""
        try:
            return self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return -1
            raise KernelError("read netlink events", error.errno or errno.EIO) from None


class GenericFamily:
    """A generic netlink family (net/netlink/genetlink.c): its number and its multicast groups by name."""

    def __init__(self, netlink: Socket, name: str) -> None:
        """KernelError ENOENT where the kernel has no such family."""
        request = struct.pack("=BBH", 3, 1, 0) + attribute(2, name.encode() + b"\0")
        answer = netlink.request(16, request, asked=f"find netlink family {name}")[0]
        found = attributes(answer, 4)
        self.number = number(found[1])
        self.groups: dict[str, int] = {}
        for _, group in attribute_list(found.get(7, b"")):
            entry = attributes(group)
            self.groups[text(entry[1])] = number(entry[2])


def name_of(index: int) -> str:
    """The interface's name, or `interface N` when it is gone; for texts."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def thread_proc(path: str) -> str:
    """A file of /proc/net as this thread's namespace has it (/proc/net is the main thread's)."""
    return os.path.join("/proc/thread-self/net", path)
