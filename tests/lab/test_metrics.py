"""The metrics of a real node: they add up with what arrived, with `hopline status`, and with what was done."""

import http.client
import json
import socket
import struct
import threading
import time

import hopline
from daemon.test_metrics import samples
from hopline.kernel import netns
from lab.net import sh
from lab.traffic import Traffic, attach, only_xdp_forwards, verdicts, wait_for

PORT = 9101
FLAGS = ("--metrics", f"127.0.0.1:{PORT}")


def ask(ns: str, path: str, port: int = PORT) -> tuple[int, bytes]:
    """(status, body) of a GET from within a namespace."""

    def get() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    return netns.run_in(ns, get)


class Scrape:
    """One answer of /metrics."""

    def __init__(self, ns: str, port: int = PORT) -> None:
        status, body = ask(ns, "/metrics", port)
        assert status == 200, body
        self._samples = samples(body)

    def __call__(self, name: str, /, **labels: str) -> float:
        return self._samples[f"hopline_{name}", tuple(sorted(labels.items()))]

    def packets(self, dev: str) -> dict[str, int]:
        """Packets by verdict, those that are none left out."""
        found = {}
        for (name, labels), value in self._samples.items():
            named = dict(labels)
            if name == "hopline_packets_total" and named["interface"] == dev and value:
                found[named["verdict"]] = int(value)
        return found


def health(ns: str, port: int = PORT) -> list[str] | None:
    """The reasons, None where all is well."""
    status, body = ask(ns, "/healthz", port)
    told = json.loads(body)
    assert (status, told["status"]) in ((200, "ok"), (503, "failing"))
    return told.get("reasons")


def test_packets_hits_and_misses_add_up_with_what_arrived(wide, daemon):
    node = daemon(wide.ns, *FLAGS)
    attach(node, "left", "right")
    only_xdp_forwards(wide)
    hopline.connect(node.instance).forward.add("10.9.0.9", dev="right", dst_mac=wide.server.mac)
    flows = {"ipv4": wide.flows()["ipv4"]}
    time.sleep(1)  # nothing bumps the generation any more
    before = Scrape(wide.ns)
    with Traffic(wide, flows) as traffic:
        time.sleep(1)
    after = Scrape(wide.ns)
    sent, arrived = traffic.count("ipv4"), traffic.delivered("ipv4")
    assert sent == arrived > 300

    def moved(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    assert moved("packets_total", interface="left", verdict="FORWARDED") == sent
    octets = 14 + 20 + 8 + flows["ipv4"].payload
    assert moved("bytes_total", interface="left", verdict="FORWARDED") == sent * octets
    looked_up = moved("cache_hits_total", interface="left") + moved("cache_misses_total", interface="left")
    assert sent <= looked_up < sent + 20, "a few of the host's own may have come in besides"
    assert 1 <= moved("cache_misses_total", interface="left") < sent / 10
    assert after("entries", origin="operator") == 1
    assert after("cache_used", family="ipv4") >= 1


def test_pings_entries_and_learning_are_as_status_says(router, daemon):
    node = daemon(router.ns, *FLAGS)
    router.pin_neighbours()
    attach(node, "left", "right")
    router.warm()
    client = hopline.connect(node.instance)
    client.forward.add("10.50.0.1", dev="right", dst_mac=router.server.mac)
    client.forward.add("fd50::/64", dev="right", dst_mac=router.server.mac)
    sh(router.client.ns, f"ping -n -q -i 0.01 -c 50 -w 5 {router.server.ip4}")
    sh(router.client.ns, f"ping -n -q -i 0.01 -c 50 -w 5 {router.server.ip6}")
    # neighbour discovery may come in at any time: read until both saw the same
    assert wait_for(lambda: Scrape(router.ns).packets("left") == verdicts(node, "left"))
    status, told = client.status(), Scrape(router.ns)
    assert told.packets("left")["FORWARDED"] >= 100
    assert told("entries", origin="operator") == status.entries.operator == 2
    assert told("entries", origin="learned") == status.entries.learned >= 2
    assert told("cache_size", family="ipv4") == status.cache.size_ipv4
    assert told("cache_used", family="ipv6") == status.cache.used_ipv6
    for state in status.interfaces:
        assert told("interface_attached", interface=state.name) == state.attached == 1
        for family, on in state.learning.items():
            assert told("learning", interface=state.name, family=family) == on == 1
    assert told("generation") == status.generation
    assert told("build_info", version=status.version) == 1
    assert told("instance_info", name=node.instance) == 1
    assert told("lease_held") == 1
    assert told("lease_age_seconds") < 0.9
    assert abs(told("uptime_seconds") - status.uptime_s) < 2
    assert told("store_size_bytes") == sum(f.stat().st_size for f in (node.directory / "state").glob("hopline.db*")
                                           if not f.name.endswith("-shm"))  # fmt: skip
    assert health(router.ns) is None


def test_what_was_done_is_counted(router, daemon):
    node = daemon(router.ns, *FLAGS, "--check-every", "1")
    attach(node, "left")
    client = hopline.connect(node.instance)
    before = Scrape(router.ns)
    client.forward.add("10.50.0.1", dev="right", dst_mac=router.server.mac)
    assert node.call("forward", "add", "10.50.0.1", "--dev", "right", "--dst-mac", "02:00:00:00:00:01",
                     check=False).returncode == 1  # fmt: skip
    after = Scrape(router.ns)
    assert after("changes_total", outcome="done") - before("changes_total", outcome="done") == 1
    for timer in ("plan", "execute", "durable"):
        assert after(f"{timer}_seconds_count") > before(f"{timer}_seconds_count")
        assert 0 < after(f"{timer}_seconds_sum") - before(f"{timer}_seconds_sum") < 1

    key = [f"0x{octet:02x}" for octet in socket.inet_aton("10.50.0.1")]
    assert after("drift_repairs_total", what="entries") == 0
    sh(None, ["bpftool", "map", "delete", "pinned", str(node.pins / "forward_exact4"), "key", *key])
    assert wait_for(lambda: Scrape(router.ns)("drift_repairs_total", what="entries") == 1)
    then = Scrape(router.ns)("comparisons_total")
    assert then > after("comparisons_total")
    assert wait_for(lambda: Scrape(router.ns)("comparisons_total") > then)
    assert Scrape(router.ns)("drift_repairs_total", what="entries") == 1


def test_health_names_a_device_that_is_gone_and_is_well_again_with_it(wide, daemon):
    node = daemon(wide.ns, *FLAGS)
    attach(node, "left", "right")
    assert health(wide.ns) is None
    sh(wide.ns, "ip link del right")
    (reason,) = wait_for(lambda: health(wide.ns))
    assert "right is not attached" in reason
    told = Scrape(wide.ns)
    assert told("interface_attached", interface="right") == 0
    assert told("learning", interface="right", family="ipv4") == 0
    assert told.packets("right") == {}
    assert told("interface_attached", interface="left") == 1
    wide.remake("right")
    assert wait_for(lambda: health(wide.ns) is None)
    assert Scrape(wide.ns)("interface_attached", interface="right") == 1


def test_counters_outlive_the_daemon_and_its_own_begin_anew(wide, daemon):
    node = daemon(wide.ns, *FLAGS)
    attach(node, "left", "right")
    with Traffic(wide, wide.flows()):
        time.sleep(0.5)
    before = Scrape(wide.ns)
    assert before("changes_total", outcome="done") == 2
    node.kill9()
    node.start()
    after = Scrape(wide.ns)
    for name in ("cache_hits_total", "cache_misses_total"):
        assert after(name, interface="left") >= before(name, interface="left") > 0
    assert after.packets("left")["FORWARDED"] >= before.packets("left")["FORWARDED"] > 0
    assert after("changes_total", outcome="done") == 0


def test_two_instances_tell_of_themselves_only(wide, daemon):
    one = daemon(wide.ns, *FLAGS)
    two = daemon(wide.ns, "--metrics", f"127.0.0.1:{PORT + 1}")
    attach(one, "left", "right")
    attach(two, "third")
    hopline.connect(two.instance).forward.add("10.50.0.1", dev="third", dst_mac=wide.other.mac)
    first, second = Scrape(wide.ns), Scrape(wide.ns, PORT + 1)
    assert (first("entries", origin="operator"), second("entries", origin="operator")) == (0, 1)
    assert first("interface_attached", interface="left") == second("interface_attached", interface="third") == 1
    assert (first("instance_info", name=one.instance), second("instance_info", name=two.instance)) == (1, 1)
    assert second.packets("left") == {}
    one.terminate()
    assert Scrape(wide.ns, PORT + 1)("lease_held") == 1
    assert health(wide.ns, PORT + 1) is None


def test_scrapes_without_end_hold_up_neither_packets_nor_changes(wide, daemon):
    node = daemon(wide.ns, *FLAGS)
    attach(node, "left", "right", "third")
    over = threading.Event()
    ages: list[float] = []

    def scrape() -> None:
        while not over.is_set():
            ages.append(Scrape(wide.ns)("lease_age_seconds"))

    threads = [threading.Thread(target=scrape) for _ in range(8)]
    client = hopline.connect(node.instance)
    try:
        for thread in threads:
            thread.start()
        with Traffic(wide, wide.flows()) as traffic:
            for number in range(40):
                client.forward.add(f"10.50.0.{number}", dev="right", dst_mac=wide.server.mac)
            time.sleep(1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert len(ages) > 40
    assert max(ages) < 0.9
    for name in traffic.names:
        assert traffic.delivered(name) == traffic.count(name)
    assert "the lease ran out" not in node.log.read_text()


def test_half_a_request_and_garbage_leave_the_door_open(router, daemon):
    daemon(router.ns, *FLAGS)

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", PORT), 5)

    held = [netns.run_in(router.ns, connect) for _ in range(50)]
    try:
        for number, sock in enumerate(held):
            sock.sendall(
                (b"GET /met", b"\0\xff" * 50, b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n")[number % 3]
            )
        for sock in held[:10]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        assert Scrape(router.ns)("lease_held") == 1
        assert health(router.ns) is None
    finally:
        for sock in held:
            sock.close()
