"""What Prometheus is told of services, their backends and decap."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from hopline.daemon.protocol import DecapRow, ServiceRow
from hopline.daemon.protocol.balance import BackendState

OF_BACKENDS = (
    ("packets", "Packets that a backend was sent."),
    ("bytes", "Bytes of their frames as they came in."),
    ("connections", "TCP connections that were begun."),
)
OF_FLOWS = (
    ("remembered", "Flows that were put into the flow table."),
    ("refused", "Flows that it had no room for."),
    ("evicted", "Flows of one segment that gave way to others."),
    ("silent", "Flows forgotten, for nothing was heard of them."),
)


def of_services(rows: Sequence[ServiceRow]) -> Iterator[Metric]:
    """Yield the figures of services that were read with their counters and flows."""
    yield from _of_backends(rows)
    for name, what in OF_FLOWS:
        family = CounterMetricFamily(f"hopline_flows_{name}", what, labels=("service",))
        for row in rows:
            if row.flows is not None:
                family.add_metric((row.service.name,), getattr(row.flows, name))
        yield family
    now = GaugeMetricFamily("hopline_flows", "Flows that the flow table has now.", labels=("service",))
    slots = GaugeMetricFamily("hopline_ring_slots", "Slots of a service's ring.", labels=("service", "state"))
    problems = GaugeMetricFamily(
        "hopline_service_problems", "What keeps it from serving as it should.", labels=("service",)
    )
    for row in rows:
        problems.add_metric((row.service.name,), len(row.problems))
        if row.flows is not None:
            now.add_metric((row.service.name,), row.flows.now)
        if row.ring is not None:
            for state in ("closed", "open", "residual"):
                slots.add_metric((row.service.name, state), getattr(row.ring, state))
    yield now
    yield slots
    yield problems


def _of_backends(rows: Sequence[ServiceRow]) -> Iterator[Metric]:
    labels = ("service", "backend")
    for name, what in OF_BACKENDS:
        family = CounterMetricFamily(f"hopline_backend_{name}", what, labels=labels)
        for row in rows:
            for backend in row.backends:
                family.add_metric((row.service.name, backend.address), getattr(backend, name) or 0)
        yield family
    share = GaugeMetricFamily("hopline_backend_remembered", "Flows of a backend in the flow table.", labels=labels)
    states = GaugeMetricFamily("hopline_backends", "Backends by state.", labels=("service", "state"))
    for row in rows:
        for backend in row.backends:
            share.add_metric((row.service.name, backend.address), backend.remembered or 0)
        counts = Counter(backend.state for backend in row.backends)
        for state in get_args(BackendState):
            states.add_metric((row.service.name, state), counts[state])
    yield share
    yield states


def of_decaps(rows: Sequence[DecapRow]) -> Iterator[Metric]:
    """Yield what was taken out, by accepted pair."""
    labels = ("local", "from", "encap")
    packets = CounterMetricFamily("hopline_decap_packets", "Packets taken out of an outer header.", labels=labels)
    octets = CounterMetricFamily("hopline_decap_bytes", "Bytes of their frames as they came in.", labels=labels)
    for row in rows:
        key = (row.decap.local, row.decap.from_, row.decap.encap)
        packets.add_metric(key, row.packets)
        octets.add_metric(key, row.bytes)
    yield packets
    yield octets
