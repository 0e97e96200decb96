"""How a service's backends are checked, as one text: what to ask, at which port, and what to expect. Pure.

    none                     not at all
    icmp                     an echo
    tcp, tcp://:8080         a connection
    http://…, https://…      a request: http://www.example.org:8080/health?full, host, port and path as wanted
    udp://:53?send=…&expect=…  a datagram, and what the answer must have in it (percent-encoded); without, any will do

Without a port it is the service's first; where the service has all, that of http and https is the scheme's own, and the
others need one. The host is what the request says (Host, TLS server name), the VIP where there is none: who is asked is
the backend.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote_to_bytes

from hopline.errors import InvalidInput
from hopline.spelling import shown

CheckKind = Literal["none", "icmp", "tcp", "http", "https", "udp"]

LONGEST = 1024  # characters of a check
DATAGRAM_MOST = 512  # octets that are sent, or expected

_HINT = "use none, icmp, tcp, tcp://:PORT, http://…, https://… or udp://:PORT?send=…&expect=…"
_URL = re.compile(
    r"(?P<scheme>[A-Za-z]+)://(?P<host>[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]*))?"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?",
    re.ASCII,
)
_PLAIN = re.compile(r"[!-~]+", re.ASCII)  # printable and no space, as RFC 3986 has it
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)
_SCHEME_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A check, taken apart."""

    kind: CheckKind
    host: str = ""  # http, https: what the request says; "": the VIP
    port: int | None = None  # None: the service's first
    path: str = "/"  # http, https: with the query
    send: bytes = b""  # udp
    expect: bytes = b""  # udp: octets that the answer has in it

    def port_of(self, first_port: int) -> int | None:
        """Return the port that is asked, `first_port` being the service's, 0 where it has all; None if unknown."""
        return self.port or first_port or _SCHEME_PORTS.get(self.kind)


def canonical_check(text: str, field: str = "check") -> str:
    """Return a check in its one spelling: words and scheme in lower case, the rest as it was written."""
    parsed_check(text, field)
    scheme, found, rest = text.partition("://")
    return f"{scheme.lower()}{found}{rest}"


@lru_cache(maxsize=4096)
def parsed_check(text: str, field: str = "check") -> HealthCheck:
    """Return a check taken apart; InvalidInput says what would do."""
    word = text.lower()
    if word in ("none", "icmp", "tcp"):
        return HealthCheck(word)  # type: ignore[arg-type]
    found = _URL.fullmatch(text) if _PLAIN.fullmatch(text) and len(text) <= LONGEST else None
    if found is None or (scheme := found["scheme"].lower()) not in ("tcp", "udp", "http", "https"):
        raise InvalidInput(field, f"{shown(text)} is no check", _HINT)
    if _ESCAPES.search(text):
        raise InvalidInput(field, f"{shown(text)} has a % that begins no octet", "write %25 for a percent sign")
    port = _port(found["port"], field)
    if scheme in ("http", "https"):
        path = (found["path"] or "/") + ("" if found["query"] is None else f"?{found['query']}")
        return HealthCheck(scheme, found["host"], port, path)  # type: ignore[arg-type]
    if found["host"] or found["path"]:
        what = "a host" if found["host"] else "a path"
        raise InvalidInput(field, f"{shown(text)} has {what}, and the backend is asked", f"write {scheme}://:PORT")
    if scheme == "udp":
        send, expect = _datagrams(found["query"] or "", field)
        return HealthCheck("udp", port=port, send=send, expect=expect)
    if found["query"] is not None or port is None:
        raise InvalidInput(field, f"{shown(text)} is no check", "write tcp, or tcp://:PORT")
    return HealthCheck("tcp", port=port)


def _port(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    if not text or len(text) > 5 or not 1 <= int(text) <= 65535:
        raise InvalidInput(field, f"{shown(text or 'nothing')} is not a port", "give 1 to 65535, or leave the : out")
    return int(text)


def _datagrams(query: str, field: str) -> tuple[bytes, bytes]:
    """Return what is sent and what is expected."""
    given: dict[str, bytes] = {}
    for part in query.split("&") if query else ():
        name, found, value = part.partition("=")
        if name not in ("send", "expect") or not found or name in given:
            detail = f"{shown(name)} is {'given twice' if name in given else 'no part of a check by udp'}"
            raise InvalidInput(field, detail, "write udp://:PORT?send=…&expect=…, & as %26")
        given[name] = unquote_to_bytes(value)
        if len(given[name]) > DATAGRAM_MOST:
            raise InvalidInput(field, f"{name} has {len(given[name])} octets", f"at most {DATAGRAM_MOST} are taken")
    if not given.get("send"):
        raise InvalidInput(field, "a check by udp sends something", "write udp://:PORT?send=…&expect=…")
    return given["send"], given.get("expect", b"")
