"""`hopline service show --rate`: what came in a second, by service and backend; on a terminal again and again."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from hopline.cli import output
from hopline.cli.balance import listing
from hopline.cli.program.stream import until_stopped

if TYPE_CHECKING:
    from hopline.daemon.protocol import BackendRow, ServiceRow

_SECOND = 1.0
_HEADS = ("CPS", "InPPS", "InBPS")

Read = Callable[[], "list[ServiceRow]"]
Counters = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class BackendRate:
    """What came in a second for a backend: TCP connections that begin, packets, bytes."""

    address: str
    connections: float
    packets: float
    bytes: float


@dataclass(frozen=True, slots=True)
class ServiceRate:
    """The same for a service, and for each of its backends."""

    name: str
    connections: float
    packets: float
    bytes: float
    backends: list[BackendRate]


def show(read: Read, as_json: bool) -> None:
    """Print what comes in a second: once, or on a terminal until Ctrl-C."""
    if as_json or not sys.stdout.isatty():
        rows, rates = next(_readings(read))
        if as_json:
            output.json(rates)
        else:
            click.echo("\n".join(_lines(rows, rates)))
        return
    from rich.live import Live
    from rich.text import Text

    with until_stopped(), Live(Text(""), auto_refresh=False) as screen:
        for rows, rates in _readings(read):
            screen.update(Text("\n".join(_lines(rows, rates)), no_wrap=True, overflow="crop"), refresh=True)


def _readings(read: Read) -> "Iterator[tuple[list[ServiceRow], list[ServiceRate]]]":
    before, taken = read(), time.monotonic()
    while True:
        time.sleep(_SECOND)
        rows, now = read(), time.monotonic()
        yield rows, list(_rates(before, rows, now - taken))
        before, taken = rows, now


def _rates(before: "Sequence[ServiceRow]", rows: "Sequence[ServiceRow]", seconds: float) -> Iterator[ServiceRate]:
    known = {(row.service.name, one.address): _counters(one) for row in before for one in row.backends}
    for row in rows:
        backends = []
        for one in row.backends:
            now = _counters(one)
            then = known.get((row.service.name, one.address), now)
            # a backend that was removed and came back counts from 0 again
            grown = [max(value - old, 0) / seconds for value, old in zip(now, then, strict=True)]
            backends.append(BackendRate(one.address, *grown))
        connections, packets = sum(one.connections for one in backends), sum(one.packets for one in backends)
        yield ServiceRate(row.service.name, connections, packets, sum(one.bytes for one in backends), backends)


def _counters(one: "BackendRow") -> Counters:
    return one.connections or 0, one.packets or 0, one.bytes or 0


def _lines(rows: "Sequence[ServiceRow]", rates: Sequence[ServiceRate]) -> list[str]:
    by_service = {rate.name: _cells(rate) for rate in rates}
    by_backend = {(rate.name, one.address): _cells(one) for rate in rates for one in rate.backends}
    return listing.columns(
        rows,
        _HEADS,
        (),
        lambda row: by_service[row.service.name],
        lambda row, one: by_backend[(row.service.name, one.address)],
    )


def _cells(rate: ServiceRate | BackendRate) -> list[str]:
    return [f"{value:.0f}" for value in (rate.connections, rate.packets, rate.bytes)]
