"""`--metrics`: what one daemon and its datapath have done, as Prometheus text, and whether all is well.

    GET /metrics    every figure (Prometheus text exposition format)
    GET /healthz    200 {"status": "ok"}, or 503 {"status": "failing", "reasons": […]}

Both only read. What the event loop owns is read in the event loop. The maps, which may be large, are read in a thread,
where the text is made too, for one scrape at a time: who asks meanwhile is given the answer that is under way.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hopline.daemon.balance.metrics import of_decaps, of_services
from hopline.daemon.meters import REPAIRED, Timer
from hopline.daemon.protocol import DecapRow, ServiceRow
from hopline.daemon.reading import HitCounter, Host, InterfaceReading, Maps, read_host, read_maps

if TYPE_CHECKING:
    from hopline.daemon.service import Service

OUTCOMES = ("done", "refused")

log = logging.getLogger("hopline.metrics")


def metrics_app(service: "Service") -> ASGIApp:
    """Return the app of the metrics door of one daemon."""
    hits = HitCounter()

    async def text() -> bytes:
        host = read_host(service)
        checks = {name: service.health.rows(name) for name in service.balance.wanted}

        def told() -> bytes:
            rows = service.service_rows
            services = rows.rows(
                sorted(checks), checks, stats=True, flows=True, ring=True, attached=bool(service.attachments.by_index)
            )
            return exposition(host, read_maps(service.datapath, hits), services, rows.decaps())

        return await asyncio.to_thread(told)

    return MetricsApp(text, lambda: read_host(service).faults())


class MetricsApp:
    """Answers GET and HEAD of /metrics with what `text` returns, and of /healthz by what `faults` names."""

    def __init__(self, text: Callable[[], Awaitable[bytes]], faults: Callable[[], list[str]]) -> None:
        self._text = text
        self._faults = faults
        self._scrape: asyncio.Future[bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"metrics: {scope['type']} is not served")
        try:
            response = await self._answer(scope["method"], scope["path"])
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            response = PlainTextResponse("a fault of hopline's own: the daemon's log has it: please report it\n", 500)
        await response(scope, receive, send)

    async def _answer(self, method: str, path: str) -> Response:
        if path not in ("/metrics", "/healthz"):
            return PlainTextResponse("no such resource: /metrics and /healthz are here\n", 404)
        if method not in ("GET", "HEAD"):
            return PlainTextResponse("nothing can be changed here\n", 405, {"Allow": "GET, HEAD"})
        if path == "/metrics":
            return Response(await self._shared(), headers={"Content-Type": CONTENT_TYPE_LATEST})
        faults = self._faults()
        body = {"status": "failing", "reasons": faults} if faults else {"status": "ok"}
        return Response(msgspec.json.encode(body), 503 if faults else 200, media_type="application/json")

    async def _shared(self) -> bytes:
        if self._scrape is None or self._scrape.done():
            self._scrape = asyncio.ensure_future(self._text())
        # a client that goes away takes nothing from the others
        return await asyncio.shield(self._scrape)


def exposition(host: Host, maps: Maps, services: Sequence[ServiceRow] = (), decaps: Sequence[DecapRow] = ()) -> bytes:
    """Return what is told, in the Prometheus text format."""

    class Told(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from _of_packets(host, maps)
            yield from _of_the_cache(host, maps)
            yield from _of_interfaces(host)
            yield from _of_the_daemon(host)
            yield from _of_changes(host)
            if services:
                yield from of_services(services)
            if decaps:
                yield from of_decaps(decaps)

    return generate_latest(Told())


def _with_slot(host: Host, maps: Maps) -> Iterator[tuple[InterfaceReading, int]]:
    # a device may have got its slot after the maps were read, or lost it before
    for interface in host.interfaces:
        if interface.slot is not None and interface.slot in maps.counters:
            yield interface, interface.slot


def _of_packets(host: Host, maps: Maps) -> Iterator[Metric]:
    labels = ("interface", "verdict")
    packets = CounterMetricFamily("hopline_packets", "Packets received, by what became of them.", labels=labels)
    octets = CounterMetricFamily("hopline_bytes", "Bytes of their frames as received.", labels=labels)
    for interface, slot in _with_slot(host, maps):
        counters = maps.counters[slot]
        for verdict, number in counters.packets.items():
            packets.add_metric((interface.name, verdict), number)
            octets.add_metric((interface.name, verdict), counters.bytes[verdict])
    yield packets
    yield octets


def _of_the_cache(host: Host, maps: Maps) -> Iterator[Metric]:
    entries = GaugeMetricFamily("hopline_entries", "Destinations that are forwarded to.", labels=("origin",))
    entries.add_metric(("operator",), host.operator_entries)
    entries.add_metric(("learned",), sum(cache.learned for cache in maps.caches.values()))
    yield entries
    hits = CounterMetricFamily("hopline_cache_hits", "Packets whose next hop the cache knew.", labels=("interface",))
    misses = CounterMetricFamily(
        "hopline_cache_misses", "Packets whose next hop was looked up in the tables.", labels=("interface",)
    )
    for interface, slot in _with_slot(host, maps):
        hits.add_metric((interface.name,), maps.hits[slot])
        misses.add_metric((interface.name,), maps.counters[slot].misses)
    yield hits
    yield misses
    size = GaugeMetricFamily("hopline_cache_size", "Entries that fit into the cache.", labels=("family",))
    used = GaugeMetricFamily("hopline_cache_used", "Entries in the cache that still hold.", labels=("family",))
    for family, cache in maps.caches.items():
        size.add_metric((family,), cache.size)
        used.add_metric((family,), cache.used)
    yield size
    yield used


def _of_interfaces(host: Host) -> Iterator[Metric]:
    attached = GaugeMetricFamily(
        "hopline_interface_attached", "1 where the interface's packets meet Hopline.", labels=("interface",)
    )
    learning = GaugeMetricFamily(
        "hopline_learning", "1 where the kernel's routes are used.", labels=("interface", "family")
    )
    for interface in host.interfaces:
        attached.add_metric((interface.name,), interface.attached)
        for family, on in interface.learning.items():
            learning.add_metric((interface.name, family), on)
    yield attached
    yield learning


def _of_the_daemon(host: Host) -> Iterator[Metric]:
    build = GaugeMetricFamily("hopline_build_info", "1; the version that runs.", labels=("version",))
    build.add_metric((host.version,), 1)
    yield build
    # "instance" is a label that Prometheus gives to whom it asks
    instance = GaugeMetricFamily("hopline_instance_info", "1; the name of the instance.", labels=("name",))
    instance.add_metric((host.instance,), 1)
    yield instance
    yield GaugeMetricFamily("hopline_uptime_seconds", "Since the daemon was started.", host.uptime_s)
    yield GaugeMetricFamily(
        "hopline_generation", "What cached answers must have to hold; it may wrap.", host.generation
    )
    yield GaugeMetricFamily("hopline_lease_held", "1 while the daemon vouches for what was learned.", host.lease_held)
    age = GaugeMetricFamily("hopline_lease_age_seconds", "Since the lease was extended; absent where it was given up.")
    if host.lease_age_s is not None:
        age.add_metric((), host.lease_age_s)
    yield age
    yield GaugeMetricFamily("hopline_store_size_bytes", "Of the store on disk.", host.store_bytes)


def _of_changes(host: Host) -> Iterator[Metric]:
    meters = host.meters
    for name, timer, what in (
        ("plan", meters.plan, "Planning a change: what of the kernel differs from the intent."),
        ("execute", meters.execute, "Carrying a change out, the store's part included."),
        ("durable", meters.durable, "Making a change durable in the store."),
    ):
        yield _summary(f"hopline_{name}_seconds", what, timer)
    changes = CounterMetricFamily("hopline_changes", "Changes of the intent.", labels=("outcome",))
    for outcome in sorted({*OUTCOMES, *meters.changes}):
        changes.add_metric((outcome,), meters.changes[outcome])
    yield changes
    yield CounterMetricFamily("hopline_comparisons", "Of the intent with the kernel.", meters.comparisons)
    repairs = CounterMetricFamily(
        "hopline_drift_repairs", "What others had changed in the kernel and was put right.", labels=("what",)
    )
    for what in sorted({*REPAIRED, *meters.repairs}):
        repairs.add_metric((what,), meters.repairs[what])
    yield repairs


def _summary(name: str, what: str, timer: Timer) -> Metric:
    return SummaryMetricFamily(name, what, count_value=timer.count, sum_value=timer.seconds)
