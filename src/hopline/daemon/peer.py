"""Who is at the other end of a connection, as the kernel says, in the words that the history keeps."""

import asyncio
import pwd
import socket
import struct
from asyncio import BaseTransport
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hopline.config import shown

_UCRED = struct.Struct("=iII")  # struct ucred (linux/socket.h): pid, uid, gid
_NO_LOGIN = 0xFFFFFFFF  # /proc/PID/loginuid of what no login began


@dataclass(frozen=True)
class Process:
    """The process that connected to a unix socket; `pid` is 0 where it lives outside our pid namespace."""

    pid: int
    uid: int


Peer = Process | str  # or the address of a TCP client


def peer_of(transport: BaseTransport) -> Peer:
    """Return who connected (unix(7), SO_PEERCRED: as of connect)."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Process(pid, uid)
    name = transport.get_extra_info("peername")
    return str(name[0]) if name else "nowhere"


async def asker_of(scope: MutableMapping[str, Any]) -> str:
    """Return who makes a request: `root (uid 0), process 4321 (hopline)`, or `token NAME from 10.0.0.1`."""
    state = scope.get("state", {})
    peer = state.get("peer")
    if isinstance(peer, Process):
        # in a thread: names of users may come over a network
        return await asyncio.to_thread(described, peer)
    return f"token {state.get('token', 'unknown')} from {peer}"


def described(process: Process) -> str:
    """Return a process in words, with the user who logged in where that is another."""
    proc = Path("/proc", str(process.pid))
    text = _user(process.uid)
    login = _read(proc / "loginuid")
    if login.isdigit() and int(login) not in (_NO_LOGIN, process.uid):
        text = f"{text}, logged in as {_user(int(login))}"
    if not process.pid:
        return f"{text}, process of another pid namespace"
    command = _read(proc / "comm")
    return f"{text}, process {process.pid}" + (f" ({shown(command)})" if command else "")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\n\0")
    except OSError:
        return ""  # it has ended


@lru_cache(maxsize=64)
def _user(uid: int) -> str:
    try:
        return f"{shown(pwd.getpwuid(uid).pw_name)} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
