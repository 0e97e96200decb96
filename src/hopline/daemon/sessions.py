"""Connections that end at an address of this host, as /proc/net has them: what a VIP would take away."""

from ipaddress import ip_address
from pathlib import Path

ESTABLISHED = 0x01  # include/net/tcp_states.h
PLACE = Path("/proc/thread-self/net")  # of the calling thread's network namespace


def sessions_on(address: str, place: Path = PLACE) -> set[int]:
    """Return the local TCP ports of this host that have connections at an address."""
    parsed = ip_address(address)
    wanted = parsed.packed
    found: set[int] = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = (place / name).read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6
        for line in lines:
            _, local, _, state, *_ = line.split()
            octets, port = local.split(":")
            if int(state, 16) == ESTABLISHED and _same(_packed(octets), wanted):
                found.add(int(port, 16))
    return found


def _packed(octets: str) -> bytes:
    """Return the octets of an address: words of 32 bits, each in the machine's order."""
    words = bytes.fromhex(octets)
    return b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))


def _same(found: bytes, wanted: bytes) -> bool:
    mapped = bytes(10) + b"\xff\xff"
    return found in (wanted, mapped + wanted)
