"""The metrics door: text that Prometheus can read, figures that are what was read, and a door that only shows."""

import asyncio
import contextlib
import json
import logging
import re
import socket
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hopline.daemon.counters import CacheFill, SlotCounters
from hopline.daemon.door import Door
from hopline.daemon.listen import listen_tcp
from hopline.daemon.meters import REPAIRED, Meters, Timer
from hopline.daemon.metrics import MetricsApp, exposition
from hopline.daemon.options import Endpoint
from hopline.daemon.reading import Host, InterfaceReading, Maps
from repository import ROOT

VERDICTS = {"FORWARDED": 90, "PASS_LOCAL": 10, "PASS_NOT_IP": 3}
OCTETS = {"FORWARDED": 9000, "PASS_LOCAL": 1000, "PASS_NOT_IP": 180}


def host(**settings) -> Host:
    both = {"ipv4": True, "ipv6": False}
    made = {
        "instance": "main",
        "version": "1.2.3",
        "uptime_s": 12.5,
        "generation": 4_294_967_295,
        "lease_age_s": 0.125,
        "following": True,
        "interfaces": [
            InterfaceReading("left", 4, True, both),
            InterfaceReading("right", 7, False, {"ipv4": False, "ipv6": False}, "another program is attached"),
            InterfaceReading("gone0", None, False, {"ipv4": False, "ipv6": False}, "no such device"),
        ],
        "operator_entries": 1_000_000,
        "store_bytes": 4096,
        "meters": Meters(
            Timer(2, 0.5), Timer(3, 1.5), Timer(4, 0.25), Counter(done=5, refused=1), 6, Counter(entries=2)
        ),
    }
    return Host(**{**made, **settings})


MAPS = Maps(
    {4: SlotCounters(VERDICTS, OCTETS, 25), 7: SlotCounters(dict.fromkeys(VERDICTS, 0), dict.fromkeys(OCTETS, 0), 0)},
    {4: 75, 7: 0},
    {"ipv4": CacheFill(131_072, 70, 50), "ipv6": CacheFill(81_920, 7, 5)},
)


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels, by a parser that is not ours; none is told twice."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} is told twice"
            found[key] = sample.value
    return found


def told(text: bytes, name: str, /, **labels: str) -> float:
    return samples(text)[f"hopline_{name}", tuple(sorted(labels.items()))]


EXPECTED = [
    ("packets_total", {"interface": "left", "verdict": "FORWARDED"}, 90),
    ("packets_total", {"interface": "right", "verdict": "FORWARDED"}, 0),
    ("bytes_total", {"interface": "left", "verdict": "PASS_NOT_IP"}, 180),
    ("cache_hits_total", {"interface": "left"}, 75),
    ("cache_misses_total", {"interface": "left"}, 25),
    ("entries", {"origin": "operator"}, 1_000_000),
    ("entries", {"origin": "learned"}, 55),
    ("cache_size", {"family": "ipv6"}, 81_920),
    ("cache_used", {"family": "ipv4"}, 70),
    ("interface_attached", {"interface": "left"}, 1),
    ("interface_attached", {"interface": "right"}, 0),
    ("interface_attached", {"interface": "gone0"}, 0),
    ("learning", {"interface": "left", "family": "ipv4"}, 1),
    ("learning", {"interface": "left", "family": "ipv6"}, 0),
    ("lease_age_seconds", {}, 0.125),
    ("lease_held", {}, 1),
    ("generation", {}, 4_294_967_295),
    ("uptime_seconds", {}, 12.5),
    ("build_info", {"version": "1.2.3"}, 1),
    ("instance_info", {"name": "main"}, 1),
    ("store_size_bytes", {}, 4096),
    ("plan_seconds_count", {}, 2),
    ("plan_seconds_sum", {}, 0.5),
    ("execute_seconds_count", {}, 3),
    ("execute_seconds_sum", {}, 1.5),
    ("durable_seconds_count", {}, 4),
    ("durable_seconds_sum", {}, 0.25),
    ("changes_total", {"outcome": "done"}, 5),
    ("changes_total", {"outcome": "refused"}, 1),
    ("comparisons_total", {}, 6),
    ("drift_repairs_total", {"what": "entries"}, 2),
    ("drift_repairs_total", {"what": "devices"}, 0),
]


@pytest.mark.parametrize(("name", "labels", "value"), EXPECTED, ids=lambda each: str(each))
def test_a_figure_is_told_as_it_was_read(name, labels, value):
    assert told(exposition(host(), MAPS), name, **labels) == value


def test_every_family_is_expected_above_and_has_help_and_a_type():
    text = exposition(host(), MAPS).decode()
    names = {re.sub(r"_(sum|count)$", "", f"hopline_{name}") for name, _, _ in EXPECTED}
    assert set(re.findall(r"^# HELP (\S+) .+\.$", text, re.MULTILINE)) == names
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert set(types) == names
    assert {kind for name, kind in types.items() if name.endswith("_total")} == {"counter"}
    assert {kind for name, kind in types.items() if re.search(r"(plan|execute|durable)_seconds$", name)} == {"summary"}
    assert text.endswith("\n")


def test_docs_metrics_md_lists_every_family_and_its_labels():
    listed = re.findall(r"^\| (hopline_\w+) \| ([\w, ]*)\|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert len(listed) == len(dict(listed))
    told = {re.sub(r"_(sum|count)$", "", f"hopline_{name}"): ", ".join(labels) for name, labels, _ in EXPECTED}
    assert {name: labels.strip() for name, labels in listed} == told


def test_nobody_vouches_no_age_is_told():
    text = exposition(host(lease_age_s=None), MAPS)
    assert told(text, "lease_held") == 0
    assert not [name for name, _ in samples(text) if name == "hopline_lease_age_seconds"]


def test_a_lease_that_was_not_extended_for_a_second_is_not_held():
    text = exposition(host(lease_age_s=1.5), MAPS)
    assert (told(text, "lease_held"), told(text, "lease_age_seconds")) == (0, 1.5)


def test_counters_that_can_move_are_there_from_the_first():
    text = exposition(host(interfaces=[], meters=Meters()), Maps({}, {}, {}))
    assert [told(text, "changes_total", outcome=outcome) for outcome in ("done", "refused")] == [0, 0]
    assert [told(text, "drift_repairs_total", what=what) for what in REPAIRED] == [0] * len(REPAIRED)


def test_a_device_whose_slot_was_given_away_meanwhile_has_no_packets_to_tell():
    text = exposition(host(interfaces=[InterfaceReading("new0", 9, True, {})]), MAPS)
    assert told(text, "interface_attached", interface="new0") == 1
    assert "hopline_packets_total{" not in text.decode()


@pytest.mark.parametrize("name", ['qu"ote', "back\\slash", "b\\n", "ümlaut0", "a b", "{x=1}"])
def test_any_name_that_a_device_can_have_is_read_back(name):
    text = exposition(host(interfaces=[InterfaceReading(name, 4, True, {"ipv4": True})]), MAPS)
    assert told(text, "interface_attached", interface=name) == 1
    assert told(text, "packets_total", interface=name, verdict="FORWARDED") == 90


# the door


class Source:
    """What the app is made of, and how often it was asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.asked = 0
        self.faults: list[str] = []
        self.broken: Exception | None = None

    async def text(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        if self.broken is not None:
            raise self.broken
        return b"asked %d\n" % self.asked


@contextlib.asynccontextmanager
async def opened(source: Source):
    """The app behind a real door; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    door = Door(MetricsApp(source.text, lambda: source.faults), listen_tcp(Endpoint("127.0.0.1", port), "metrics"), "m")
    try:
        yield port
    finally:
        await door.close()


async def request(port: int, method: str, path: str, more: str = "") -> tuple[int, dict[str, str], bytes]:
    """(status, headers by lower-case name, body) of one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}Connection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}, body


def through_the_door(source: Source, *requests: tuple[str, str]) -> list[tuple[int, dict[str, str], bytes]]:
    """The answers to requests that come all at once."""

    async def run():
        async with opened(source) as port:
            return await asyncio.gather(*(request(port, method, path) for method, path in requests))

    return asyncio.run(run())


def test_metrics_are_text_of_a_version():
    ((status, headers, body),) = through_the_door(Source(), ("GET", "/metrics"))
    assert (status, body) == (200, b"asked 1\n")
    assert re.fullmatch(r"text/plain; version=\d\.\d\.\d; charset=utf-8", headers["content-type"])


def test_health_is_a_word_or_the_reasons():
    source = Source()
    ((status, headers, body),) = through_the_door(source, ("GET", "/healthz"))
    assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", {"status": "ok"})
    source.faults = ["left is not attached: it does not exist"]
    ((status, _, body),) = through_the_door(source, ("GET", "/healthz?verbose"))
    assert (status, json.loads(body)) == (503, {"status": "failing", "reasons": source.faults})
    assert source.asked == 0


@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
def test_head_is_get_without_the_body(path):
    (got, headers, body), (status, only, nothing) = through_the_door(Source(), ("GET", path), ("HEAD", path))
    assert (status, nothing) == (got, b"")
    assert only["content-length"] == headers["content-length"] == str(len(body))


@pytest.mark.parametrize("path", ["/", "/metrics/", "//metrics", "/metrics/x", "/status", "/forwards", "/HEALTHZ", "*"])
def test_nothing_else_is_there(path):
    assert through_the_door(Source(), ("GET", path))[0][0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
def test_nothing_can_be_done_but_read(method, path):
    ((status, headers, _),) = through_the_door(Source(), (method, path))
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_many_scrapes_at_once_are_one():
    source = Source(0.2)
    answers = through_the_door(source, *[("GET", "/metrics")] * 100)
    assert {status for status, _, _ in answers} == {200}
    assert source.asked <= 3


def test_a_scrape_after_another_is_fresh():
    async def run():
        async with opened(Source()) as port:
            return [(await request(port, "GET", "/metrics"))[2] for _ in range(3)]

    assert asyncio.run(run()) == [b"asked 1\n", b"asked 2\n", b"asked 3\n"]


def test_a_client_that_leaves_takes_nothing_from_the_others():
    async def run():
        async with opened(Source(0.2)) as port:
            _, leaving = await asyncio.open_connection("127.0.0.1", port)
            leaving.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.05)
            staying = asyncio.create_task(request(port, "GET", "/metrics"))
            await asyncio.sleep(0.05)
            leaving.transport.abort()
            return await staying

    assert asyncio.run(run())[2] == b"asked 1\n"


def test_a_fault_is_said_logged_and_over_with_the_next_scrape(caplog):
    source = Source()
    source.broken = RuntimeError("secret")

    async def run():
        async with opened(source) as port:
            first = await request(port, "GET", "/metrics")
            source.broken = None
            return first, await request(port, "GET", "/metrics")

    with caplog.at_level(logging.ERROR):
        (status, _, body), (then, _, _) = asyncio.run(run())
    assert (status, then) == (500, 200)
    assert b"secret" not in body
    assert "secret" in caplog.text
