"""How a check is made: each kind a few non-blocking calls, and what the event loop says in between."""

import asyncio
import contextlib
import socket
import ssl
import struct

from hopline.config.health import CheckKind
from hopline.daemon.health import http
from hopline.daemon.health.echo import Echo, ping
from hopline.daemon.health.outcome import Outcome, bad, good, of_error, silent, unknown
from hopline.daemon.health.sockets import Opener, Turnstile, readable, reading, sent, writable
from hopline.daemon.health.targets import Request, Target
from hopline.errors import HoplineError

LATE_S = 0.25  # a time-out that is noticed so late says more of this node than of the backend
RECEIVE = 65536
HANDSHAKES_A_TURN = 4  # of the event loop: a step of one takes a millisecond
HEARD_OUT_S, HEARD_MOST = 0.1, 1 << 18  # of an answer whose status is known
QUOTED = 40  # octets of an answer that are shown
DEFAULT_PORTS: dict[CheckKind, int] = {"http": 80, "https": 443}
_RESET = struct.pack("ii", 1, 0)  # what close() then does: on, at once


class Prober:
    """Makes checks, each once."""

    def __init__(self, opener: Opener, echo: Echo) -> None:
        """`opener` returns a new socket for a target, or raises OSError or HoplineError: then it was not checked."""
        self._open = opener
        self._echo = echo
        self._tls = _any_certificate()
        self._hands = Turnstile(HANDSHAKES_A_TURN)
        self._kinds = {"tcp": self._tcp, "http": self._http, "https": self._http, "udp": self._udp, "icmp": self._icmp}

    async def probe(self, target: Target) -> Outcome:
        """Make a check and return what it found; raises only when it is cancelled."""
        loop = asyncio.get_running_loop()
        seconds = target.request.interval
        deadline = loop.time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                return await self._kinds[target.request.kind](target)
        except ssl.SSLError as error:
            return bad(f"tls: {_tls_words(error)}")
        except TimeoutError:
            late = loop.time() - deadline
            return silent(seconds) if late < LATE_S else unknown(f"this node was busy for {late:.1f} s")
        except OSError as error:
            if target.request.kind == "udp" and isinstance(error, ConnectionRefusedError):
                return bad("port unreachable")
            return of_error(error, seconds)
        except HoplineError as error:
            return unknown(str(error))
        except ValueError as error:  # a host that is no name for TLS
            return unknown(f"host {target.request.host}: {error}")

    async def _tcp(self, target: Target) -> Outcome:
        _hang_up(await self._connected(target))
        return good("connected")

    async def _connected(self, target: Target) -> socket.socket:
        sock = self._open(target, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            try:
                sock.connect((target.address, target.request.port))
            except BlockingIOError:
                await writable(sock)
                if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(number, "connect") from None
        except BaseException:
            sock.close()
            raise
        return sock

    async def _http(self, target: Target) -> Outcome:
        asked = target.request
        until = asyncio.get_running_loop().time() + asked.interval
        sock = await self._connected(target)
        try:
            if asked.kind == "https":
                name = asked.host.strip("[]")
                sock = secured = self._tls.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=name)
                await self._shaken_hands(secured)
            outcome = await _asked(sock, asked)
            await _heard_out(sock, until)
            return outcome
        finally:
            _hang_up(sock)

    async def _shaken_hands(self, sock: ssl.SSLSocket) -> None:
        while True:
            await self._hands.turn()
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                await readable(sock)
            except ssl.SSLWantWriteError:
                await writable(sock)

    async def _udp(self, target: Target) -> Outcome:
        asked = target.request
        with self._open(target, socket.SOCK_DGRAM) as sock:
            sock.connect((target.address, asked.port))
            sock.send(asked.send)
            answer = await reading(sock, sock.recv, RECEIVE)
        if asked.expect in answer:
            return good("answered")
        return bad(f"answered {_quoted(answer)}, {_quoted(asked.expect)} expected")

    async def _icmp(self, target: Target) -> Outcome:
        if target.tunnel is None:
            await self._echo.ask(target.address)
        else:
            with self._open(target, socket.SOCK_DGRAM) as sock:
                sock.connect((target.address, 0))
                await ping(sock)
        return good("echo answered")


def _hang_up(sock: socket.socket) -> None:
    """End a connection so that nothing of it waits here for a minute, as 30,000 would of a thousand backends.

    A FIN, for the server to read an end and no error, and a reset right behind it.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    sock.close()


async def _asked(sock: socket.socket, asked: Request) -> Outcome:
    await sent(sock, http.request(asked.host, asked.port, asked.path, DEFAULT_PORTS[asked.kind]))
    head = http.Head()
    while head.status is None and not head.broken:
        octets = await reading(sock, sock.recv, RECEIVE)
        if not octets:
            return bad("closed without an answer")
        head.feed(octets)
    if head.status is None:
        return bad("the answer is no HTTP")
    if any(first <= head.status <= last for first, last in asked.statuses):
        return good(f"status {head.status}")
    expected = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in asked.statuses)
    return bad(f"status {head.status}, {expected} expected")


async def _heard_out(sock: socket.socket, until: float) -> None:
    """Take what else comes, for a moment before `until`: a server that may not end it calls that an error."""
    left = HEARD_MOST
    moment = min(asyncio.get_running_loop().time() + HEARD_OUT_S, until - HEARD_OUT_S / 4)
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout_at(moment):
            while left > 0 and (octets := await reading(sock, sock.recv, RECEIVE)):
                left -= len(octets)


def _any_certificate() -> ssl.SSLContext:
    """Whose certificate it is, is not asked: a check is whether something answers, and backends have what they have."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLZeroReturnError | ssl.SSLEOFError):
        return "closed without an answer"
    return (error.reason or "failed").lower().replace("_", " ")


def _quoted(octets: bytes) -> str:
    shown = repr(octets[:QUOTED])[1:]
    return shown if len(octets) <= QUOTED else f"{shown}…"
