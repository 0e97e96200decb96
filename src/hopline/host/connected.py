"""By which of this host's addresses whoever runs this is logged in: those are not to be made VIPs by mistake."""

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from hopline.errors import Refused

_MOST_ANCESTORS = 64
_VARIABLE = b"SSH_CONNECTION="  # client's address and port, server's address and port (ssh(1))


def refuse_connected(asked: str, vip: str) -> None:
    """Raise Refused if `vip`, in its one spelling, is an address that this process is logged in by."""
    if vip in set(connected()):
        why = f"{vip} is the address that you are logged in by, and packets to it would go to backends"
        raise Refused(f"{asked}: {why}: use --yes if that is meant")


def connected() -> Iterator[str]:
    """Yield addresses of this host by which this process, or one that started it, came in by ssh.

    sudo takes the variable away, and is itself started by a shell that has it.
    """
    pid = os.getpid()
    for _ in range(_MOST_ANCESTORS):
        address = _server_address(pid)
        if address is not None:
            yield address
        pid = _parent(pid)
        if pid <= 1:
            return


def _server_address(pid: int) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    for entry in environment:
        words = entry.removeprefix(_VARIABLE).split() if entry.startswith(_VARIABLE) else []
        if len(words) == 4:
            try:
                address = ip_address(words[2].decode().partition("%")[0])
            except (UnicodeDecodeError, ValueError):
                continue
            mapped = address.ipv4_mapped if address.version == 6 else None
            return str(mapped or address)
    return None


def _parent(pid: int) -> int:
    try:
        # the name in brackets may hold anything
        return int(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
        )
    except (OSError, IndexError, ValueError):
        return 0
