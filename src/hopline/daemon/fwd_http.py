"""HTTP for the seed-compatible front: status 200 whatever happens, so even a broken request gets an answer of its form.

A general HTTP server answers a malformed or half-sent request itself, with a status and a body that the seed's clients
do not expect. So this one stands on h11, the protocol's state machine, alone.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Self

import h11

from hopline.daemon.asker import asker
from hopline.daemon.door import ambiguity
from hopline.daemon.fwd_api import BODY_MOST, Code, Failure, FwdApi, failed
from hopline.daemon.options import Endpoint
from hopline.errors import Refused

REQUEST_SECONDS = 10.0  # for a body, after its header
SEND_SECONDS = 60.0  # for an answer to be taken
IDLE_SECONDS = 30.0  # between two requests of one connection
CLIENTS_MOST = 256

_CHUNK = 65536
_DRAIN_MOST = 16 * 1024 * 1024  # bytes thrown away so that a client that is still sending reads its answer
_DRAIN_SECONDS = 2.0


class FwdServer:
    """The listening socket and its connections; made by `open`."""

    def __init__(self, api: FwdApi, allow: Sequence[IPv4Network | IPv6Network], loopback: bool) -> None:
        self._api = api
        self._allow = tuple(allow)
        self._loopback = loopback  # a socket that only this host reaches needs no list
        self._connections: set[asyncio.Task[None]] = set()
        self._actions: set[asyncio.Task[bytes]] = set()
        self._server: asyncio.Server | None = None
        self.address = ("", 0)

    @classmethod
    async def open(cls, api: FwdApi, endpoint: Endpoint, allow: Sequence[IPv4Network | IPv6Network] = ()) -> Self:
        """Listen on `endpoint`; clients in `allow` have a right to act, and loopback's where that is the endpoint."""
        server = cls(api, allow, endpoint.loopback)
        try:
            server._server = await asyncio.start_server(server._accept, endpoint.host, endpoint.port, backlog=128)
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno else str(error).lower()
            todo = "stop what listens there" if error.errno == errno.EADDRINUSE else "give an address of this host"
            raise Refused(f"listen on {endpoint}: {reason}: {todo}, or use another --fwd-api") from error
        server.address = server._server.sockets[0].getsockname()[:2]
        return server

    async def close(self) -> None:
        """Stop listening, end the connections, and wait for the actions under way, whose answers are lost."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, *self._actions, return_exceptions=True)
        self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > CLIENTS_MOST:
                return
            client = writer.get_extra_info("peername")[0]
            asker.set(f"fwd client {client}")
            refusal = self.refusal(client)
            await _Conversation(self, reader, writer, refusal).run()
        except (OSError, asyncio.CancelledError):
            pass  # the client went, or the daemon goes
        finally:
            await _end(writer)
            self._connections.discard(task)

    async def act(self, body: bytes, refusal: str | None) -> bytes:
        """Answer one request; once begun it is finished, even if its connection ends meanwhile."""
        action = asyncio.create_task(self._api.answer(body, refusal))
        self._actions.add(action)
        action.add_done_callback(self._actions.discard)
        return await asyncio.shield(action)

    def refusal(self, client: str) -> str | None:
        """Return why a client has no right to act, None if it has."""
        address = ip_address(client.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if (self._loopback and address.is_loopback) or any(address in network for network in self._allow):
            return None
        return f"no right: {address} is not an allowed client: start hopline with --fwd-api-allow {address}"


class _Conversation:
    """One connection: requests in, answers out, in turn."""

    def __init__(
        self, server: FwdServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refusal: str | None
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._refusal = refusal
        self._http = h11.Connection(h11.SERVER)
        self._head = False  # the request is a HEAD, whose answer has no body

    async def run(self) -> None:
        """Serve until either side ends it."""
        while await self._one():
            self._http.start_next_cycle()

    async def _one(self) -> bool:
        """Serve one request; return whether another may follow."""
        try:
            request = await self._request()
            if request is None:
                return False
            answer = await self._answered(*request)
        except Failure as failure:
            answer = failed(failure)
        async with asyncio.timeout(SEND_SECONDS):
            await self._send(answer)
            if self._http.their_state is not h11.DONE:
                await self._drain()
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _request(self) -> tuple[h11.Request, bytes] | None:
        """Return the next request and its body; None when the client has none, Failure READ if it is not whole."""
        self._head = False
        limit = IDLE_SECONDS
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                event = await self._next()
            if not isinstance(event, h11.Request):
                return None
            self._head = event.method == b"HEAD"
            limit = REQUEST_SECONDS
            async with asyncio.timeout(REQUEST_SECONDS):
                return event, await self._body(event)
        except TimeoutError:
            if self._http.their_state is h11.IDLE and not self._http.trailing_data[0]:
                return None
            raise Failure(Code.READ, f"not complete after {limit:g} s: send it faster") from None
        except h11.RemoteProtocolError as error:
            raise Failure(Code.READ, f"{_reason(error)}: send POST / with a whole body") from None

    async def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._reader.read(_CHUNK))

    async def _body(self, request: h11.Request) -> bytes:
        if why := ambiguity(request.http_version, {name for name, _ in request.headers}):
            raise Failure(Code.READ, f"{why}: send HTTP/1.1, and one length")
        too_large = Failure(Code.READ, f"larger than {BODY_MOST} bytes: send a smaller request")
        for name, value in request.headers:
            if name == b"content-length" and int(value) > BODY_MOST:
                raise too_large
        if self._http.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
        parts: list[bytes] = []
        size = 0
        while isinstance(event := await self._next(), h11.Data):
            size += len(event.data)
            if size > BODY_MOST:
                raise too_large
            parts.append(bytes(event.data))
        return b"".join(parts)

    async def _answered(self, request: h11.Request, body: bytes) -> bytes:
        if request.method != b"POST" or request.target.partition(b"?")[0] != b"/":
            asked = f"{request.method.decode('ascii')} {request.target.decode('ascii', 'replace')[:64]}"
            raise Failure(Code.READ, f"{asked} is not served here: send POST /")
        refusal = self._refusal
        if any(name == b"origin" for name, _ in request.headers):
            # a page in a browser on an allowed host could otherwise post here: such requests need no permission
            refusal = "no right: requests that a web page makes are refused: use a program"
        return await self._server.act(body, refusal)

    async def _send(self, answer: bytes) -> None:
        with contextlib.suppress(h11.LocalProtocolError):
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))]
            if self._http.their_state is not h11.DONE:
                headers.append(("Connection", "close"))
            self._write(h11.Response(status_code=200, headers=headers))
            if not self._head:
                self._write(h11.Data(data=answer))
            self._write(h11.EndOfMessage())
        await self._writer.drain()

    def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)

    async def _drain(self) -> None:
        """Read on for a while: closing with unread data resets the connection, and the answer may be lost."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                self._writer.write_eof()
                left = _DRAIN_MOST
                while left > 0 and (data := await self._reader.read(_CHUNK)):
                    left -= len(data)


async def _end(writer: asyncio.StreamWriter) -> None:
    """Close a connection; one whose client takes nothing more is cut."""
    writer.close()
    try:
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
    except (OSError, asyncio.CancelledError):
        writer.transport.abort()


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else "not HTTP"
    return text[:1].lower() + text[1:]
