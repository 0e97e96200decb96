"""ICMP echo (RFC 792, RFC 4443) without a process a ping.

One socket a family asks all backends. It is opened when the daemon starts, since raw sockets cannot be opened once its
rights are given up, and ping sockets only where net.ipv4.ping_group_range has its group, which by itself has none.
"""

import array
import asyncio
import os
import socket
import struct
from ipaddress import ip_address

from hopline.daemon.health.sockets import reading
from hopline.errors import HoplineError

ECHO = {4: (8, 0), 6: (128, 129)}  # request, reply
PAYLOAD = b"hopline check   "
RECEIVE = 2048
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_SO_ATTACH_FILTER = 26
_SEQUENCES = 1 << 16


class NoEcho(HoplineError):
    """This process may not send echo requests."""


def checksum(octets: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of octets."""
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def request(family: int, identifier: int, sequence: int) -> bytes:
    """Return an echo request; of IPv6 the kernel fills in the checksum."""
    kind = ECHO[family][0]
    plain = _HEADER.pack(kind, 0, 0, identifier, sequence) + PAYLOAD
    return _HEADER.pack(kind, 0, checksum(plain), identifier, sequence) + PAYLOAD if family == 4 else plain


async def ping(sock: socket.socket) -> None:
    """Send one echo request on a connected ping socket and return when it is answered."""
    family = 6 if sock.family == socket.AF_INET6 else 4
    sock.send(request(family, 0, 1))
    while True:
        answer = await reading(sock, sock.recv, RECEIVE)
        if len(answer) >= _HEADER.size and answer[0] == ECHO[family][1]:
            return


class Echo:
    """Asks any number of addresses at once."""

    def __init__(self) -> None:
        self._speakers: dict[int, _Speaker] = {}
        self._problems: dict[int, str] = {}

    def open(self) -> None:
        """Open both sockets; what cannot be opened is told by ask()."""
        for family in ECHO:
            try:
                self._speakers[family] = _Speaker(family)
            except OSError as error:
                self._problems[family] = os.strerror(error.errno or 0).lower()

    def close(self) -> None:
        """Close them; who still waits is cancelled by its own time-out."""
        for speaker in self._speakers.values():
            speaker.close()
        self._speakers.clear()

    async def ask(self, address: str) -> None:
        """Return when `address` has answered an echo request; NoEcho or OSError where none can be sent."""
        family = 6 if ":" in address else 4
        if family not in self._speakers:
            why = self._problems.get(family, "the socket is closed")
            raise NoEcho(f"no socket for ICMP ({why}): have net.ipv4.ping_group_range hold group 0, and restart")
        await self._speakers[family].ask(address)


class _Speaker:
    """One socket: a ping socket, or a raw one that is given only the answers to its own requests."""

    def __init__(self, family: int) -> None:
        self._family = family
        self._identifier = int.from_bytes(os.urandom(2)) | 1
        self._sequence = 0
        self._waiting: dict[int, tuple[bytes, asyncio.Future[None]]] = {}
        self._listening = False
        domain = socket.AF_INET if family == 4 else socket.AF_INET6
        protocol = socket.IPPROTO_ICMP if family == 4 else socket.IPPROTO_ICMPV6
        try:
            self._raw = False
            self._sock = socket.socket(domain, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, protocol)
        except PermissionError:
            self._raw = True
            self._sock = socket.socket(domain, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
            _only_answers(self._sock, family, self._identifier)

    def close(self) -> None:
        if self._listening:
            asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    async def ask(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        if not self._listening:
            self._listening = True
            loop.add_reader(self._sock, self._read)
        sequence = self._next()
        answered: asyncio.Future[None] = loop.create_future()
        self._waiting[sequence] = (ip_address(address).packed, answered)
        try:
            self._sock.sendto(request(self._family, self._identifier, sequence), (address, 0))
            await answered
        finally:
            del self._waiting[sequence]

    def _next(self) -> int:
        for _ in range(_SEQUENCES):
            self._sequence = (self._sequence + 1) % _SEQUENCES
            if self._sequence not in self._waiting:
                return self._sequence
        raise NoEcho("too many echo requests wait for an answer")

    def _read(self) -> None:
        for _ in range(64):  # then others have their turn
            try:
                octets, (address, *_rest) = self._sock.recvfrom(RECEIVE)
            except BlockingIOError:
                return
            except OSError:
                continue  # an error that a request met: it is not answered
            if self._raw and self._family == 4 and octets:
                octets = octets[4 * (octets[0] & 0xF) :]
            if len(octets) < _HEADER.size:
                continue
            kind, _, _, _, sequence = _HEADER.unpack_from(octets)
            waits = self._waiting.get(sequence)
            if kind != ECHO[self._family][1] or waits is None or waits[1].done():
                continue
            if ip_address(address.partition("%")[0]).packed == waits[0]:
                waits[1].set_result(None)


def _only_answers(sock: socket.socket, family: int, identifier: int) -> None:
    """Have the kernel drop what is no answer to us: a raw socket is given all ICMP of the host (classic BPF)."""
    reply = ECHO[family][1]
    load_byte, load_half, jump_equal, give = 0x50, 0x48, 0x15, 0x06
    if family == 4:
        # the octets begin with the IP header, whose length goes to X
        program = [(0xB1, 0, 0, 0), (load_byte, 0, 0, 0), (jump_equal, 0, 3, reply), (load_half, 0, 0, 4)]
    else:
        program = [(0x30, 0, 0, 0), (jump_equal, 0, 3, reply), (0x28, 0, 0, 4)]
    program += [(jump_equal, 0, 1, identifier), (give, 0, 0, 0xFFFF), (give, 0, 0, 0)]
    code = array.array("B", b"".join(struct.pack("=HBBI", *line) for line in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), code.buffer_info()[0]))
