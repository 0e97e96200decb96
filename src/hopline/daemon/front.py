"""The doors: two unix sockets for two rights, and what else was asked for: the API over TCP, metrics, the seed's front.

`Front.open` makes them all or none; `close` stops listening, lets requests under way finish, and removes the sockets.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from hopline.daemon.api import admin_app, token_app, view_app
from hopline.daemon.api.room import Room
from hopline.daemon.door import Door
from hopline.daemon.fwd_api import FwdApi
from hopline.daemon.fwd_http import FwdServer
from hopline.daemon.listen import listen_tcp, listen_unix, make_directory
from hopline.daemon.options import ApiOverTcp, Endpoint, ServeOptions
from hopline.daemon.protocol import ServiceProtocol
from hopline.daemon.tokens import Token, read_tokens
from hopline.errors import InvalidInput

ADMIN_SOCKET = "admin.sock"
VIEW_SOCKET = "view.sock"

_log = logging.getLogger("hopline.front")


class Front:
    """All listening sockets of one daemon; made by `open`."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._room, self._view_room = Room(), Room()
        self._doors: list[Door] = []
        self._paths: list[Path] = []
        self._fwd: FwdServer | None = None
        self._tokens: Sequence[Token] = options.tcp.tokens if options.tcp else ()

    @classmethod
    async def open(cls, service: ServiceProtocol, options: ServeOptions) -> Self:
        """Listen on admin.sock (0600) and view.sock (0660) in `options.run`, and wherever else the options say."""
        front = cls(options)
        try:
            make_directory(options.run)
            front._unix(service, options)
            if options.tcp is not None:
                front._tcp(service, options.tcp)
            if options.metrics is not None:
                front._metrics(service, options.metrics)
            if options.fwd_api is not None:
                front._fwd = await FwdServer.open(FwdApi(service), options.fwd_api, options.fwd_api_allow)
        except BaseException:
            await front.close()
            raise
        return front

    @property
    def fwd_address(self) -> tuple[str, int] | None:
        """The TCP address of the seed-compatible front."""
        return self._fwd.address if self._fwd else None

    def reload_tokens(self) -> None:
        """Read the token file again; if it is wrong, say so and keep the tokens that are known."""
        if self._options.tcp is None:
            return
        try:
            self._tokens = read_tokens(self._options.tcp.token_file)
        except InvalidInput as error:
            _log.error("%s: the tokens known before stay", error)
        else:
            _log.info("%s: %d tokens are known now", self._options.tcp.token_file, len(self._tokens))

    async def close(self) -> None:
        """Stop listening, wait a little for requests under way, remove the sockets."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        closing = [door.close() for door in self._doors]
        if self._fwd:
            closing.append(self._fwd.close())
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, BaseException):
                _log.error("close a socket: %s", result)
        self._doors, self._paths, self._fwd = [], [], None

    def _unix(self, service: ServiceProtocol, options: ServeOptions) -> None:
        admin, view = options.run / ADMIN_SOCKET, options.run / VIEW_SOCKET
        listener = listen_unix(admin, 0o600, options.instance)
        self._paths.append(admin)
        self._doors.append(Door(admin_app(service, self._room), listener, str(admin)))
        listener = listen_unix(view, 0o660, options.instance, options.view_group)
        self._paths.append(view)
        self._doors.append(Door(view_app(service, self._view_room), listener, str(view)))

    def _tcp(self, service: ServiceProtocol, tcp: ApiOverTcp) -> None:
        app = token_app(service, lambda: self._tokens, self._room, self._view_room)
        for endpoint in tcp.endpoints:
            listener = listen_tcp(endpoint, "listen")
            self._doors.append(Door(app, listener, str(endpoint), tcp.tls))

    def _metrics(self, service: ServiceProtocol, endpoint: Endpoint) -> None:
        # prometheus_client is not needed by a daemon that nobody scrapes
        from hopline.daemon.metrics import metrics_app

        listener = listen_tcp(endpoint, "metrics")
        self._doors.append(Door(metrics_app(service), listener, str(endpoint)))  # type: ignore[arg-type]
