"""Waiting for sockets without asyncio's streams, which take twice the time; and where a check's socket comes from."""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hopline.daemon.health.targets import Target

Opener = Callable[[Target, int], socket.socket]  # (what is to be checked, SOCK_STREAM or SOCK_DGRAM)

P = ParamSpec("P")
T = TypeVar("T")

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PROTOCOLS = {"icmp": {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}}


def protocol_of(target: Target) -> int:
    """Return the protocol to open a target's socket with; 0 where its type says it."""
    return int(PROTOCOLS.get(target.request.kind, {}).get(target.family, 0))


def open_here(target: Target, kind: int) -> socket.socket:
    """Return a new non-blocking socket of the daemon's own namespace."""
    return socket.socket(FAMILIES[target.family], kind | socket.SOCK_NONBLOCK, protocol_of(target))


async def readable(sock: socket.socket) -> None:
    """Return when there is something to read, or an error to be told."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock, _done, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


async def writable(sock: socket.socket) -> None:
    """Return when it can be written to, or a connection has been made or refused."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(sock, _done, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


def _done(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


async def reading(sock: socket.socket, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call until it need not wait for the other side's octets, or for room where TLS has something to say."""
    while True:
        try:
            return call(*args, **kwargs)
        except (BlockingIOError, ssl.SSLWantReadError):
            await readable(sock)
        except ssl.SSLWantWriteError:
            await writable(sock)


async def sent(sock: socket.socket, octets: bytes) -> None:
    """Send all of it."""
    while octets:
        try:
            octets = octets[sock.send(octets) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            await writable(sock)
        except ssl.SSLWantReadError:
            await readable(sock)


class Turnstile:
    """Lets a few through each turn of the event loop, so that many woken together keep no one else waiting."""

    def __init__(self, a_turn: int) -> None:
        self._a_turn = a_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False

    async def turn(self) -> None:
        """Return when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        self._waiting.append(mine)
        if not self._turning:
            self._turning = True
            loop.call_soon(self._let_through)
        await mine

    def _let_through(self) -> None:
        for _ in range(min(self._a_turn, len(self._waiting))):
            _done(self._waiting.popleft())
        self._turning = bool(self._waiting)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._let_through)
