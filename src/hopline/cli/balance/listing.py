"""What `hopline service show` prints: as `ipvsadm -Ln` does, with what Hopline knows (ipvsadm.c, print_service_entry).

In place of active and inactive connections, which nobody counts here, stand a backend's state, its share of the ring
and the flows that are remembered; replies do not pass, so there are no columns of what goes out.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from hopline import __version__

if TYPE_CHECKING:
    from hopline.config import Service
    from hopline.daemon.protocol import BackendRow, ServiceRow

_PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "both": "BOTH"}
_REMOTE = 28  # columns of an address and a port, as ipvsadm has them; more where one is longer
_NONE = "-"

Heads = Sequence[str]
Cells = Callable[["ServiceRow"], Sequence[object]]
BackendCells = Callable[["ServiceRow", "BackendRow"], Sequence[object]]


def lines(rows: "Sequence[ServiceRow]", what: str | None) -> list[str]:
    """Return services and their backends as text; `what` is stats, flows, ring, or None for the plain listing."""
    if what is None:
        return list(_plain(rows))
    if what == "stats":
        return columns(rows, ("Conns", "InPkts", "InBytes"), (), _stats, _backend_stats)
    if what == "flows":
        heads = ("Now", "Remembered", "Refused", "Evicted", "Silent")
        return columns(rows, heads, heads[:1], _flows, lambda _, one: [one.remembered])
    return columns(rows, ("Slots", "Closed", "Open", "Residual"), ("Slots", "Share", "Exact"), _ring, _backend_ring)


def columns(
    rows: "Sequence[ServiceRow]", heads: Heads, below: Heads, service_cells: Cells, backend_cells: BackendCells
) -> list[str]:
    """Return a listing with numbers, under `heads` those of services, and under `below` those of backends."""
    cells = [(row, service_cells(row), [(one, backend_cells(row, one)) for one in row.backends]) for row in rows]
    width = 5 + max([_REMOTE, *(len(_remote(row.service, one.address)) for row in rows for one in row.backends)])
    every = [heads, below, *(some for _, some, _ in cells), *(some for _, _, many in cells for _, some in many)]
    widths = [
        max(8, *(len(_text(some[place])) for some in every if len(some) > place))
        for place in range(max(map(len, every)))
    ]

    def line(left: str, some: Sequence[object]) -> str:
        padded = (_text(value).rjust(wide) for value, wide in zip(some, widths, strict=False))
        return " ".join([left.ljust(width), *padded]).rstrip()

    found = [_title(rows), line("Prot LocalAddress:Port", heads), line("  -> RemoteAddress:Port", below)]
    for row, some, many in cells:
        found.append(line(f"{_PROTOCOLS[row.service.protocol]:4} {local(row.service)} {row.service.name}", some))
        found += [line(f"  -> {_remote(row.service, one.address)}", own) for one, own in many]
    return found


def local(service: "Service") -> str:
    """Return VIP and port, or ports, as one word."""
    return _remote(service, service.vip)


def _plain(rows: "Sequence[ServiceRow]") -> Iterator[str]:
    wide = max([_REMOTE, *(len(_remote(row.service, one.address)) for row in rows for one in row.backends)])
    yield _title(rows)
    yield "Prot LocalAddress:Port Scheduler Name Flags"
    yield f"  -> {'RemoteAddress:Port':{wide}} Forward Weight State      Share    Flows"
    for row in rows:
        service = row.service
        words = [f"{_PROTOCOLS[service.protocol]:4}", local(service), "maglev", service.name, *_flags(service)]
        yield " ".join(words)
        for problem in row.problems:
            yield f"     {problem}"
        for one in row.backends:
            share = _NONE if one.share is None else f"{one.share:.2%}"
            left = f"  -> {_remote(service, one.address):{wide}} {'Tunnel':7} {one.weight:<6} {one.state:10}"
            yield f"{left} {share:8} {_text(one.remembered):7} {one.reason}".rstrip()


def _title(rows: "Sequence[ServiceRow]") -> str:
    counted = [row.flows.now for row in rows if row.flows is not None]
    services = "1 service" if len(rows) == 1 else f"{len(rows)} services"
    return f"Hopline {__version__} ({services}{f', {sum(counted)} flows remembered' if counted else ''})"


def _flags(service: "Service") -> Iterator[str]:
    """Yield what of a service's settings is not as it is unless told."""
    if service.encap == "gue":
        yield f"gue:{service.gue_port}"
    if service.affinity == "table":
        yield f"table {service.idle}"
    if service.own == "on-wire":
        yield "on-wire"
    if service.check != "none":
        yield f"check {service.check}"


def _remote(service: "Service", address: str) -> str:
    return f"[{address}]:{service.port}" if ":" in address else f"{address}:{service.port}"


def _stats(row: "ServiceRow") -> list[object]:
    return [_sum([one.connections for one in row.backends]), *_octets(row)]


def _octets(row: "ServiceRow") -> list[object]:
    return [_sum([one.packets for one in row.backends]), _sum([one.bytes for one in row.backends])]


def _backend_stats(_: "ServiceRow", one: "BackendRow") -> list[object]:
    return [one.connections, one.packets, one.bytes]


def _flows(row: "ServiceRow") -> list[object]:
    flows = row.flows
    return [] if flows is None else [flows.now, flows.remembered, flows.refused, flows.evicted, flows.silent]


def _ring(row: "ServiceRow") -> list[object]:
    ring = row.ring
    return [] if ring is None else [ring.slots, ring.closed, ring.open, ring.residual]


def _backend_ring(row: "ServiceRow", one: "BackendRow") -> list[object]:
    """Return slots, their share, and the slots that the weight would be worth exactly among those that have any."""
    if row.ring is None or one.slots is None:
        return []
    weights = sum(other.weight for other in row.backends if other.slots)
    exact = row.ring.slots * one.weight / weights if one.slots else 0
    return [one.slots, f"{one.slots / (row.ring.slots or 1):.4%}", f"{exact:.2f}"]


def _sum(values: Sequence[int | None]) -> int:
    return sum(value or 0 for value in values)


def _text(value: object) -> str:
    return _NONE if value is None else str(value)
