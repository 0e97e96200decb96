"""HTTP as far as a check needs it: one GET, and the status line of the answer (RFC 9112). Pure."""

import re

from hopline import __version__

LONGEST_HEAD = 16384  # octets of an answer in which there must be a status

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r\n]")
_INTERIM = (100, 102, 103)  # an answer before the answer
_END = b"\r\n\r\n"


def host_header(host: str) -> str:
    """Return a host or an address as a Host header has it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def request(host: str, port: int, path: str, default_port: int) -> bytes:
    """Return the octets of a GET that asks for no more than one answer."""
    named = host_header(host) + ("" if port == default_port else f":{port}")
    return (
        f"GET {path} HTTP/1.1\r\nHost: {named}\r\nUser-Agent: hopline-check/{__version__}\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode("ascii")


class Head:
    """What has come of an answer so far. `status` is None until it is known; `broken` says that it never will be."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.broken = False
        self._octets = b""

    def feed(self, octets: bytes) -> None:
        """Take what came next."""
        self._octets += octets
        while self.status is None and not self.broken:
            line, found, _ = self._octets.partition(b"\n")
            if not found:
                self.broken = len(line) > LONGEST_HEAD or not _may_begin(line)
                return
            matched = _STATUS.match(line + b"\n")
            if matched is None:
                self.broken = True
            elif int(matched[1]) not in _INTERIM:
                self.status = int(matched[1])
            else:
                _, ended, rest = self._octets.partition(_END)
                if not ended:
                    self.broken = len(self._octets) > LONGEST_HEAD
                    return
                self._octets = rest


def _may_begin(line: bytes) -> bool:
    return line[:5] == b"HTTP/"[: len(line[:5])]
