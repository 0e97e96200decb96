"""One door: a listening socket, its connections, and the limits that keep strangers from holding up the rest.

uvicorn reads and writes HTTP; accepting is done here, so that connections are counted from their first octet on (in
uvicorn a TLS handshake that is never finished counts nowhere), and so are the times that a client may take.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Collection, Mapping
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from hopline.daemon.api.answers import ErrorBody, refusal
from hopline.daemon.encode import encoder
from hopline.daemon.peer import peer_of

CONNECTIONS_MOST = 512  # of one door
HEAD_SECONDS = 10.0  # for the head of a request, from the connection's beginning or the answer before
STALLED_SECONDS = 10.0  # without an octet taken of an answer
HANDSHAKE_SECONDS = 10.0  # of TLS
CLOSE_SECONDS = 2.0  # for requests under way when the daemon ends

_LINGER_SECONDS = 0.5  # until a connection that was one too many is closed, so that it reads why
_LINGERING_MOST = 64
_FULL_SECONDS = 0.1  # until accepting is tried again when there are no descriptors
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = logging.getLogger("hopline.front")


class Conversation(H11Protocol):
    """One connection, with limits to the time it may waste."""

    _timer: asyncio.TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note who it is, and wait for a request."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "peer": peer_of(transport)}
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._rest()

    def data_received(self, data: bytes) -> None:
        """Read on; the time for a head begins with its first octet."""
        if self._asking and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._rest()
        super().data_received(data)
        if self._asking:
            self._watch()
        elif not self.flow.write_paused:
            self._rest()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to keep the connection for an answer: its client has said all, and may yet listen."""
        listening = not self._asking and not self.cycle.more_body and self.scheme == "http"
        if listening:
            self.cycle.keep_alive = False
        return listening

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the answer to be taken."""
        self._rest()
        super().on_response_complete()
        # another request may have come with the one before
        if self._asking:
            self._watch()

    def pause_writing(self) -> None:
        """Give the client a time to take what it asked for."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if not self._asking:
            self._rest()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as everything else that is wrong."""
        body = encoder.encode(ErrorBody(error="invalid_input", field="request", detail="not HTTP/1.1"))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is under way already
            for event in (
                h11.Response(status_code=400, headers=[*headers, (b"connection", b"close")], reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def _asking(self) -> bool:
        """Whether it is the client's turn to send the head of a request."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        if self._timer is None:
            self._unsent = self.transport.get_write_buffer_size()
            limit = HEAD_SECONDS if self._asking else STALLED_SECONDS
            self._timer = self.loop.call_later(limit, self._late)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """Cut off who says nothing and takes nothing; who is taking a long answer may go on."""
        self._timer = None
        left = self.transport.get_write_buffer_size()
        if left and left >= self._unsent:
            self.transport.abort()
        elif left or not self._asking:
            self._watch()
        else:
            self.transport.close()
            # TLS closes in two steps, and half of them is the client's
            self._timer = self.loop.call_later(HANDSHAKE_SECONDS, self.transport.abort)


def _of_one_meaning(app: ASGIApp) -> ASGIApp:
    """Return an app that is not asked what may be read in two ways: that is refused, and ends the connection."""

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        why = ambiguity(scope["http_version"].encode(), {name for name, _ in scope["headers"]})
        if why:
            answer = refusal("invalid_input", why, "request", "send HTTP/1.1, and one length", Connection="close")
            await answer(scope, receive, send)
        else:
            await app(scope, receive, send)

    return asked


def ambiguity(version: bytes, headers: Collection[bytes]) -> str:
    """Return why a request may be read in another way than h11 reads it, or "" (RFC 9112 sections 2.3 and 6.1)."""
    if not version.startswith(b"1."):
        return f"HTTP/{version.decode()} is not spoken here"
    if b"content-length" in headers and b"transfer-encoding" in headers:
        return "both Content-Length and Transfer-Encoding are given"
    return ""


class Door:
    """A listening socket and its connections; `open` begins, `close` ends."""

    def __init__(self, app: ASGIApp, listener: socket.socket, name: str, tls: ssl.SSLContext | None = None) -> None:
        self.name = name
        self._listener = listener
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._config = uvicorn.Config(
            _of_one_meaning(app),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # a client that breaks off is no news; what fails in a request is logged there
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(HEAD_SECONDS),
        )
        self._config.load()
        self._state = ServerState()
        self._arriving: set[asyncio.Task[None]] = set()
        self._shaking: set[Any] = set()  # conversations that have not begun
        self._lingering: set[socket.socket] = set()
        self._accepting = self._loop.create_task(self._accept(), name=f"accept {name}")

    @property
    def connections(self) -> int:
        """How many there are, those that are still shaking hands included."""
        # one whose handshake has just ended is in both
        return len(self._shaking | self._state.connections)

    async def close(self) -> None:
        """Stop listening, wait up to CLOSE_SECONDS for the requests under way, and cut the rest."""
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        for task in list(self._arriving):
            task.cancel()
        for sock in list(self._lingering):
            self._let_go(sock)
        for connection in list(self._state.connections):
            with contextlib.suppress(h11.LocalProtocolError):
                connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._state.tasks or self._state.connections:
                    await asyncio.sleep(0.01)
        for connection in list(self._state.connections):
            connection.transport.abort()
        left = [*self._state.tasks, *self._arriving]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(self._listener)
            except OSError as error:
                # the one who came may have gone again; without descriptors nobody can be let in
                await asyncio.sleep(_FULL_SECONDS if error.errno in _FULL else 0)
                continue
            if self.connections >= CONNECTIONS_MOST:
                self._turn_away(sock)
                continue
            conversation = Conversation(self._config, self._state, {}, self._loop)
            self._shaking.add(conversation)
            task = self._loop.create_task(self._let_in(sock, conversation))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _let_in(self, sock: socket.socket, conversation: Conversation) -> None:
        limits: Mapping[str, float] = {}
        if self._tls is not None:
            limits = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": HANDSHAKE_SECONDS}
        elif sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.connect_accepted_socket(lambda: conversation, sock, ssl=self._tls, **limits)
        except OSError:  # a handshake that failed or took too long, too
            sock.close()
        except BaseException:
            sock.close()
            raise
        finally:
            self._shaking.discard(conversation)

    def _turn_away(self, sock: socket.socket) -> None:
        """Say why, where it can be said, and close a little later: at once, what was said might be lost."""
        if self._tls is not None:
            sock.close()
            return
        detail = f"{CONNECTIONS_MOST} connections are open on {self.name}"
        body = encoder.encode(ErrorBody(error="busy", detail=detail, hint="close some, or try again"))
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        with contextlib.suppress(OSError):
            sock.send(head.encode() + b"Connection: close\r\nRetry-After: 1\r\n\r\n" + body)
            sock.shutdown(socket.SHUT_WR)
        if len(self._lingering) >= _LINGERING_MOST:
            sock.close()
            return
        self._lingering.add(sock)
        self._loop.call_later(_LINGER_SECONDS, self._let_go, sock)

    def _let_go(self, sock: socket.socket) -> None:
        self._lingering.discard(sock)
        sock.close()
