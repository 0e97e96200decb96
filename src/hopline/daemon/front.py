"""The doors: two unix sockets for two rights, and the seed-compatible front where it was asked for.

`Front.open` makes them all or none; `close` stops listening, lets requests under way finish, and removes the sockets.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from hopline.daemon.api import admin_app, view_app
from hopline.daemon.fwd_api import FwdApi
from hopline.daemon.fwd_http import FwdServer
from hopline.daemon.options import ServeOptions
from hopline.daemon.protocol import ServiceProtocol
from hopline.errors import InvalidInput, Refused

ADMIN_SOCKET = "admin.sock"
VIEW_SOCKET = "view.sock"
CLOSE_SECONDS = 2  # for requests under way

_SUN_PATH_MOST = 107  # bytes of a unix socket's path, without the final NUL (unix(7))
_log = logging.getLogger("hopline.front")


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handler."""
        yield


class Front:
    """All listening sockets of one daemon; made by `open`."""

    def __init__(self) -> None:
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []
        self._paths: list[Path] = []
        self._fwd: FwdServer | None = None

    @classmethod
    async def open(cls, service: ServiceProtocol, options: ServeOptions) -> Self:
        """Listen on admin.sock (0600) and view.sock (0660) in `options.run`, and on `options.fwd_api` if it is set."""
        front = cls()
        try:
            _make_directory(options.run)
            await front._serve(admin_app(service), options.run / ADMIN_SOCKET, 0o600, options.instance)
            await front._serve(view_app(service), options.run / VIEW_SOCKET, 0o660, options.instance)
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

    async def close(self) -> None:
        """Stop listening, wait up to CLOSE_SECONDS for requests under way, remove the sockets."""
        for server, _ in self._servers:
            server.should_exit = True
        if self._fwd:
            await self._fwd.close()
        results = await asyncio.gather(*(task for _, task in self._servers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                _log.error("close a socket: %s", result)
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._servers, self._paths, self._fwd = [], [], None

    async def _serve(self, app: ASGIApp, path: Path, mode: int, instance: str) -> None:
        listener = listen(path, mode, instance)
        self._paths.append(path)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # a client that breaks off is no news; what fails in a request is logged there
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]), name=f"serve {path.name}")
        self._servers.append((server, task))
        while not server.started and not task.done():
            await asyncio.sleep(0.001)
        if task.done():
            await task  # raises what stopped it


def listen(path: Path, mode: int, instance: str) -> socket.socket:
    """Return a listening unix socket at `path`, never more open than `mode`; a stale one is replaced."""
    if len(os.fsencode(path)) > _SUN_PATH_MOST:
        detail = f"{path} is longer than a unix socket's {_SUN_PATH_MOST} bytes"
        raise InvalidInput("run", detail, "give a shorter directory with --run")
    _remove_stale(path, instance)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # the kernel makes the socket's file with the descriptor's mode and the umask: never open for an instant
        os.fchmod(listener.fileno(), mode & 0o600)
        listener.bind(os.fspath(path))
        os.chmod(path, mode)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _refused(path, error) from error
    return listener


def _remove_stale(path: Path, instance: str) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Refused(f"listen on {path}: something that is no socket is there: move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # a full backlog (EAGAIN) or a time-out: someone is there, if only just
            if error.errno not in (errno.EAGAIN, None) and not isinstance(error, TimeoutError):
                raise _refused(path, error) from error
    raise Refused(f"instance {instance}: a daemon already answers on {path}: stop it, or use another --instance")


def _make_directory(directory: Path) -> None:
    """Make what is missing of the path, open to be entered whatever the umask: the sockets' modes are the rights."""
    try:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise _refused(directory, error) from error


def _refused(path: Path, error: OSError) -> Refused:
    reason = os.strerror(error.errno).lower() if error.errno else str(error).lower()
    return Refused(f"listen on {path}: {reason}: put it right, or use another --run")
