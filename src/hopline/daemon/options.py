"""What `hopline serve` is told, checked before anything is touched."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from hopline.config import instance_name, shown
from hopline.errors import InvalidInput

STATE_ROOT = Path("/var/lib/hopline")
RUN_ROOT = Path("/run/hopline")

CACHE_SIZE_DEFAULT = 131_072  # 8 bytes an IPv4 way: 1 MiB, which stays in a second-level cache
CACHE_SIZE_LEAST = 131_072  # a way has as many bits for the adjacency as the table has for its index
CACHE_SIZE_MOST = 16_777_216


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
class ServeOptions:
    """A daemon's settings; build one with `serve_options`, which checks them."""

    instance: str
    state: Path
    run: Path
    fwd_api: Endpoint | None = None
    fwd_api_allow: tuple[IPv4Network | IPv6Network, ...] = ()
    cache_size: int = CACHE_SIZE_DEFAULT  # entries per family, a power of two
    trace: bool = False  # print each packet's decision


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
) -> ServeOptions:
    """Check a daemon's settings and fill in the default directories; `cache_size` is rounded up to a power of two."""
    instance_name(instance)
    endpoint = None if fwd_api is None else parse_endpoint(fwd_api, "fwd-api")
    allow = tuple(parse_cidr(text, "fwd-api-allow") for text in fwd_api_allow)
    if endpoint is None and allow:
        raise InvalidInput("fwd-api-allow", "given without --fwd-api", "add --fwd-api ADDR:PORT, or leave it out")
    if endpoint is not None and not endpoint.loopback and not allow:
        detail = f"{endpoint} can be reached from other hosts"
        raise InvalidInput("fwd-api", detail, "say who may use it with --fwd-api-allow CIDR, or listen on 127.0.0.1")
    if not CACHE_SIZE_LEAST <= cache_size <= CACHE_SIZE_MOST:
        hint = f"give {CACHE_SIZE_LEAST} to {CACHE_SIZE_MOST} entries"
        raise InvalidInput("cache-size", f"{cache_size} is out of range", hint)
    return ServeOptions(
        instance=instance,
        state=Path(state).absolute() if state is not None else default_state(instance),
        run=Path(run).absolute() if run is not None else default_run(instance),
        fwd_api=endpoint,
        fwd_api_allow=allow,
        cache_size=1 << (cache_size - 1).bit_length(),
        trace=trace,
    )


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
