"""Listening sockets: unix sockets with their rights, and TCP."""

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from hopline.daemon.options import Endpoint
from hopline.errors import InvalidInput, Refused

BACKLOG = 1024  # a connect beyond it fails at once on a unix socket

_SUN_PATH_MOST = 107  # bytes of a unix socket's path, without the final NUL (unix(7))


def listen_unix(path: Path, mode: int, instance: str, group: int | None = None) -> socket.socket:
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
        if group is not None:
            os.chown(path, -1, group)
        os.chmod(path, mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            if error.errno != errno.EADDRINUSE:
                path.unlink(missing_ok=True)
        raise _refused(path, error) from error
    return listener


def listen_tcp(endpoint: Endpoint, option: str) -> socket.socket:
    """Return a listening TCP socket; Refused names the option to change."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] is not 0.0.0.0: who means both says both
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((endpoint.host, endpoint.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno).lower() if error.errno else str(error).lower()
        todo = "stop what listens there" if error.errno == errno.EADDRINUSE else "give an address of this host"
        raise Refused(f"listen on {endpoint}: {reason}: {todo}, or use another --{option}") from error
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


def make_directory(directory: Path) -> None:
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
