"""What `hopline serve` is told, checked before anything is touched."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

from hopline.config import instance_name, shown
from hopline.errors import InvalidInput

if TYPE_CHECKING:
    from ssl import SSLContext

    from hopline.daemon.tokens import Token

STATE_ROOT = Path("/var/lib/hopline")
RUN_ROOT = Path("/run/hopline")

CACHE_SIZE_DEFAULT = 131_072  # 8 bytes an IPv4 way: 1 MiB, which stays in a second-level cache
CACHE_SIZE_LEAST = 131_072  # a way has as many bits for the adjacency as the table has for its index
CACHE_SIZE_MOST = 16_777_216
FLOW_TABLE_DEFAULT = 1 << 20  # 16 bytes a flow: 16 MiB
FLOW_TABLE_LEAST = 1 << 12
FLOW_TABLE_MOST = 1 << 26
CHECK_EVERY_DEFAULT = 60.0  # seconds between two comparisons of intent and kernel
CHECK_EVERY_LEAST = 1.0
CHECK_EVERY_MOST = 86_400.0


@dataclass(frozen=True)
class Endpoint:
    """A TCP address to listen on; `host` is numeric."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach it."""
        return (IPv6Address(self.host) if ":" in self.host else IPv4Address(self.host)).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ApiOverTcp:
    """Where the API is reached by TCP, who may use it, and under what certificate."""

    endpoints: tuple[Endpoint, ...]
    token_file: Path
    tokens: "tuple[Token, ...]"
    tls: "SSLContext | None" = None  # None only where all endpoints are on loopback


@dataclass(frozen=True)
class ServeOptions:
    """A daemon's settings; build one with `serve_options`, which checks them."""

    instance: str
    state: Path
    run: Path
    fwd_api: Endpoint | None = None
    fwd_api_allow: tuple[IPv4Network | IPv6Network, ...] = ()
    cache_size: int = CACHE_SIZE_DEFAULT  # entries per family, a power of two
    trace: bool = False  # print each packet's decision
    view_group: int | None = None  # gid of those who may look
    tcp: ApiOverTcp | None = None
    metrics: Endpoint | None = None
    check_every: float = CHECK_EVERY_DEFAULT  # seconds
    flow_table: int = FLOW_TABLE_DEFAULT  # flows that fit, a power of two


def default_state(instance: str) -> Path:
    """Return the directory of an instance's store."""
    return STATE_ROOT / instance


def default_run(instance: str) -> Path:
    """Return the directory of an instance's sockets."""
    return RUN_ROOT / instance


def serve_options(
    instance: str = "main",
    state: str | Path | None = None,
    run: str | Path | None = None,
    fwd_api: str | None = None,
    fwd_api_allow: Sequence[str] = (),
    cache_size: int = CACHE_SIZE_DEFAULT,
    trace: bool = False,
    view_group: str | None = None,
    listen: Sequence[str] = (),
    token_file: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    metrics: str | None = None,
    check_every: float = CHECK_EVERY_DEFAULT,
    flow_table: int = FLOW_TABLE_DEFAULT,
) -> ServeOptions:
    """Check a daemon's settings and fill in the default directories; sizes are rounded up to powers of two."""
    instance_name(instance)
    if not CACHE_SIZE_LEAST <= cache_size <= CACHE_SIZE_MOST:
        hint = f"give {CACHE_SIZE_LEAST} to {CACHE_SIZE_MOST} entries"
        raise InvalidInput("cache-size", f"{cache_size} is out of range", hint)
    if not (math.isfinite(check_every) and CHECK_EVERY_LEAST <= check_every <= CHECK_EVERY_MOST):
        hint = f"give {CHECK_EVERY_LEAST:g} to {CHECK_EVERY_MOST:g} seconds"
        raise InvalidInput("check-every", f"{check_every:g} is out of range", hint)
    if not FLOW_TABLE_LEAST <= flow_table <= FLOW_TABLE_MOST:
        hint = f"give {FLOW_TABLE_LEAST} to {FLOW_TABLE_MOST} flows"
        raise InvalidInput("flow-table", f"{flow_table} is out of range", hint)
    endpoint, allow = _fwd(fwd_api, fwd_api_allow)
    return ServeOptions(
        instance=instance,
        state=Path(state).absolute() if state is not None else default_state(instance),
        run=Path(run).absolute() if run is not None else default_run(instance),
        fwd_api=endpoint,
        fwd_api_allow=allow,
        cache_size=1 << (cache_size - 1).bit_length(),
        trace=trace,
        view_group=None if view_group is None else parse_group(view_group),
        tcp=_tcp(listen, token_file, tls_cert, tls_key),
        metrics=None if metrics is None else parse_endpoint(metrics, "metrics"),
        check_every=check_every,
        flow_table=1 << (flow_table - 1).bit_length(),
    )


def _fwd(text: str | None, allowed: Sequence[str]) -> tuple[Endpoint | None, tuple[IPv4Network | IPv6Network, ...]]:
    endpoint = None if text is None else parse_endpoint(text, "fwd-api")
    allow = tuple(parse_cidr(text, "fwd-api-allow") for text in allowed)
    if endpoint is None and allow:
        raise InvalidInput("fwd-api-allow", "given without --fwd-api", "add --fwd-api ADDR:PORT, or leave it out")
    if endpoint is not None and not endpoint.loopback and not allow:
        detail = f"{endpoint} can be reached from other hosts"
        raise InvalidInput("fwd-api", detail, "say who may use it with --fwd-api-allow CIDR, or listen on 127.0.0.1")
    return endpoint, allow


def _tcp(
    listen: Sequence[str], token_file: str | Path | None, cert: str | Path | None, key: str | Path | None
) -> ApiOverTcp | None:
    for name, value in (("token-file", token_file), ("tls-cert", cert), ("tls-key", key)):
        if value is not None and not listen:
            raise InvalidInput(name, "given without --listen", "add --listen ADDR:PORT, or leave it out")
    if not listen:
        return None
    endpoints = tuple(dict.fromkeys(parse_endpoint(text, "listen") for text in listen))
    if token_file is None:
        raise InvalidInput("listen", "given without --token-file", "say who may use it with --token-file FILE")
    if cert is None or key is None:
        if cert is not None or key is not None:
            given, missing = ("tls-cert", "tls-key") if key is None else ("tls-key", "tls-cert")
            raise InvalidInput(given, f"given without --{missing}", "give both")
        for endpoint in endpoints:
            if not endpoint.loopback:
                detail = f"{endpoint} can be reached from other hosts, and tokens would cross the network in clear"
                raise InvalidInput("listen", detail, "add --tls-cert FILE and --tls-key FILE, or listen on 127.0.0.1")
    from hopline.daemon.tls import server_context
    from hopline.daemon.tokens import read_tokens

    path = Path(token_file).absolute()
    tls = None if cert is None or key is None else server_context(Path(cert), Path(key))
    return ApiOverTcp(endpoints, path, read_tokens(path), tls)


def parse_group(text: str, field: str = "view-group") -> int:
    """Return the gid of a group given by its name or number."""
    import grp

    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 1 << 32:
        number = int(text)
        if number != (1 << 32) - 1:  # chown's "leave it as it is"
            return number
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        hint = "give a group's name, as `getent group` shows it, or its number"
        raise InvalidInput(field, f"{shown(text)} is no group here", hint) from None


def parse_endpoint(text: str, field: str) -> Endpoint:
    """Parse ADDR:PORT or [ADDR]:PORT with a numeric address and a port from 1 to 65535."""
    host, colon, port = text.rpartition(":")
    hint = "write ADDR:PORT, as 127.0.0.1:5555 or [::1]:5555"
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = IPv6Address(host[1:-1]) if bracketed else IPv4Address(host)
    except AddressValueError:
        raise InvalidInput(field, f"{shown(text)} has no numeric address before its port", hint) from None
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise InvalidInput(field, f"{shown(text)} has no port from 1 to 65535", hint)
    return Endpoint(str(address), int(port))


def parse_cidr(text: str, field: str) -> IPv4Network | IPv6Network:
    """Parse one network whose clients are let in; a bare address is itself alone."""
    try:
        return IPv6Network(text) if ":" in text else IPv4Network(text)
    except ValueError as error:
        hint = "write a network, as 192.168.56.0/24"
        if "host bits" in str(error):
            hint = f"write {IPv6Network(text, strict=False) if ':' in text else IPv4Network(text, strict=False)}"
        raise InvalidInput(field, f"{shown(text)} is not a network", hint) from None
