"""Which checks a service's backends need. Pure; two targets that are equal are one check."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from hopline.config import Service
from hopline.config.health import CheckKind, parsed_check
from hopline.config.numbers import status_ranges


@dataclass(frozen=True, slots=True)
class Tunnel:
    """How a check reaches one backend through its tunnel; `source` is the configured one, perhaps a prefix."""

    backend: str
    encap: str
    gue_port: int  # 0 with ipip
    source: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, and what is good: the same of all backends of a service."""

    kind: CheckKind
    port: int  # 0: the kind has none
    host: str  # Host and TLS server name of http and https; "": the address that is asked
    path: str
    statuses: tuple[tuple[int, int], ...]
    send: bytes
    expect: bytes
    interval: float
    rise: int
    fall: int


@dataclass(frozen=True, slots=True)
class Target:
    """A check: `address` is the one that the socket talks to, the backend's or, through the tunnel, the VIP."""

    address: str
    request: Request
    tunnel: Tunnel | None = None

    @property
    def backend(self) -> str:
        """The address of the backend that it is about."""
        return self.address if self.tunnel is None else self.tunnel.backend

    @property
    def family(self) -> int:
        """4 or 6, of the address that is talked to."""
        return 6 if ":" in self.address else 4


def targets_of(service: Service) -> Iterator[tuple[str, Target]]:
    """Yield (address of the backend, its check); nothing where the service has none."""
    request = request_of(service)
    if request is None:
        return
    for backend in service.backend:
        if service.check_via == "backend":
            yield backend.address, Target(backend.address, request)
            continue
        gue_port = service.gue_port if service.encap == "gue" else 0
        yield (
            backend.address,
            Target(service.vip, request, Tunnel(backend.address, service.encap, gue_port, service.local)),
        )


def request_of(service: Service) -> Request | None:
    """Return what a service's check asks, None where it has none."""
    return _request(
        service.check,
        service.ports[0],
        service.vip,
        service.expect,
        service.interval,
        service.rise,
        service.fall,
    )


@lru_cache(maxsize=4096)
def _request(
    text: str, first_port: int, vip: str, expect: str, interval: float, rise: int, fall: int
) -> Request | None:
    check = parsed_check(text)
    if check.kind == "none":
        return None
    http = check.kind in ("http", "https")
    return Request(
        kind=check.kind,
        port=0 if check.kind == "icmp" else check.port_of(first_port) or 0,
        host=(check.host or vip) if http else "",
        path=check.path if http else "",
        statuses=status_ranges(expect) if http else (),
        send=check.send,
        expect=check.expect,
        interval=interval,
        rise=rise,
        fall=fall,
    )
