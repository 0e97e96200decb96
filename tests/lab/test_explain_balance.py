"""`explain` of services and tunnels before a real daemon, and what leaves held against what is really sent."""

import time

import pytest

import hopline
from bpf.frames import IP, TCP, UDP, IPv6, frame, raw
from hopline.config import Backend
from lab.net import Daemon, Router, Sniffer, send_frames, sh
from lab.traffic import attach, wait_for

VIP4, VIP6, BARE4 = "198.51.100.33", "2001:db8:f::33", "198.51.100.34"
CLIENT4, CLIENT6 = "203.0.113.9", "2001:db8:c::9"
SECOND, SILENT = "10.2.0.9", "10.2.0.77"


@pytest.fixture(scope="module")
def net():
    with Router() as made:
        made.pin_neighbours()
        sh(made.ns, f"ip neigh add {SECOND} lladdr 02:00:00:00:02:09 dev right nud permanent")
        sh(made.ns, "ip route add 203.0.113.0/24 via 10.1.0.2")
        yield made


@pytest.fixture(scope="module")
def node(net, tmp_path_factory):
    with Daemon(net.ns, tmp_path_factory.mktemp("explain") / "d") as daemon:
        attach(daemon, "left", "right")
        client = hopline.connect(daemon.instance)
        client.service.add("web", VIP4, "80-81", "tcp", backend=[Backend(net.server.ip4)], ring=251)
        client.service.add("web6", VIP6, "80", "tcp", backend=[Backend(net.server.ip6)], ring=251, encap="gue")
        client.service.add("bare", BARE4, "80", "tcp", icmp_echo="pass")
        client.decap.add(net.left.ip4, "10.1.0.0/28")
        yield daemon
        assert "Traceback" not in daemon.log.read_text(), daemon.log.read_text()


@pytest.fixture
def client(node):
    return hopline.connect(node.instance)


def four(*layers, **fields):
    """From the client's MAC to left's, which are those of bpf/pipeline.py too."""
    return frame(IP(**{"src": CLIENT4, "dst": VIP4, "flags": "DF", **fields}), *layers)


def six(*layers, **fields):
    return frame(IPv6(**{"src": CLIENT6, "dst": VIP6, **fields}), *layers)


def told(answer):
    return {step.step: step.says for step in answer.steps}


def segment(flags="A", sport=4000):
    return TCP(sport=sport, dport=80, flags=flags, seq=1, ack=2)


def inside(source, net):
    return frame(
        IP(src=source, dst=net.left.ip4, proto=4), raw(IP(src=CLIENT4, dst=net.left.ip4) / UDP(sport=7, dport=9))
    )


def test_every_step_to_a_backend(client):
    answer = client.explain.frame(four(segment()), in_dev="left")
    steps = told(answer)
    assert (answer.verdict, answer.out_dev) == ("BALANCED", "right")
    assert list(steps) == ["in", "parse", "service", "slot", "backend", "outer", "adjacency", "mtu", "verdict"]
    assert steps["service"] == f"web: {VIP4} port 80-81 tcp, ipip, affinity ring"
    assert steps["slot"].endswith("of 251, closed: now 10.2.0.2")
    assert steps["backend"] == "10.2.0.2 weight 1, unchecked"
    assert steps["outer"] == "IPv4 10.2.0.1 > 10.2.0.2, 20 octets"
    assert steps["adjacency"].endswith("right 02:00:00:00:02:01 > 02:00:00:00:02:02, 10.2.0.2 is permanent")
    assert [layer.name for layer in answer.leaves.layers] == ["Ethernet", "IPv4", "IPv4", "TCP"]
    assert answer.then == []


def test_the_headers_of_gue(client):
    answer = client.explain.frame(six(segment()), in_dev="left")
    assert told(answer)["outer"] == "IPv6 and UDP (GUE) fd00:2::1 > fd00:2::2, 48 octets"
    assert [layer.name for layer in answer.leaves.layers] == ["Ethernet", "IPv6", "UDP", "IPv6", "TCP"]


@pytest.mark.parametrize("sent", [four(segment()), four(segment("S"), b"x" * 100, tos=0xB8), six(segment("FA"))])
def test_what_leaves_is_what_is_sent(net, client, sent):
    said = client.explain.frame(sent, in_dev="left").leaves.hex
    with Sniffer(net.server.ns, net.server.dev, match=lambda arrived: arrived.hex() == said) as sniffer:
        send_frames(net.client.ns, net.client.dev, [sent])
        assert sniffer.wait(1), "what was told did not come"


@pytest.mark.parametrize(
    "sent", [four(segment(), ttl=1), four(segment(), b"x" * 1450), six(segment(), b"x" * 1400), six(segment(), hlim=1)]
)
def test_what_is_answered_is_what_comes_back(net, client, sent):
    answer = client.explain.frame(sent, in_dev="left")
    assert (answer.verdict, answer.out_dev) == ("ANSWERED_ERROR", "left")
    with Sniffer(net.client.ns, net.client.dev, match=lambda arrived: arrived.hex() == answer.leaves.hex) as sniffer:
        send_frames(net.client.ns, net.client.dev, [sent])
        assert sniffer.wait(1), "what was told did not come"


def test_a_packet_that_is_too_big_is_told_what_would_fit(client):
    answer = client.explain.frame(four(segment(), b"x" * 1450), in_dev="left")
    sizes = "its 1490 octets and 20 of outer header are more than the next hop's MTU of 1500"
    assert told(answer)["mtu"] == f"{sizes}: 1480 would fit"
    assert ("MTU", "1480") in [(field.name, field.value) for field in answer.leaves.layers[-1].fields]


@pytest.mark.parametrize(
    ("fields", "verdict", "step", "says"),
    [
        ({"dst": VIP4, "protocol": "icmp"}, "ANSWERED_ECHO", "service",
         f"{VIP4} is a VIP, which answers an echo request"),
        ({"dst": BARE4, "protocol": "icmp"}, "PASS_NO_ROUTE", "service",
         f"{BARE4} is a VIP without a service for ICMP"),
        ({"dst": BARE4, "dport": 80, "flags": "S"}, "DROP_NO_BACKEND", "ring", "it has no backend"),
        ({"dst": VIP4, "dport": 22, "flags": "S"}, "PASS_NO_ROUTE", "service",
         f"{VIP4} is a VIP without a service for TCP port 22"),
    ],
)  # fmt: skip
def test_what_no_backend_gets(client, fields, verdict, step, says):
    answer = client.explain.packet(in_dev="left", src=CLIENT4, **fields)
    assert (answer.verdict, told(answer)[step]) == (verdict, says)


def test_a_tunnel_s_packet(net, client):
    answer = client.explain.frame(inside("10.1.0.9", net), in_dev="left")
    assert (answer.verdict, answer.out_dev) == ("DECAPSULATED", None)
    assert told(answer)["decap"] == "ipip from 10.1.0.9 for 10.1.0.1: accepted, from 10.1.0.0/28"
    assert [layer.name for layer in answer.leaves.layers] == ["Ethernet", "IPv4", "UDP"]
    assert "delivers the packet from 203.0.113.9 to 10.1.0.1 to this host" in answer.then[0]
    refused = client.explain.frame(inside("10.1.0.99", net), in_dev="left")
    assert refused.verdict == "DROP_NOT_ACCEPTED"
    assert told(refused)["decap"] == "ipip from 10.1.0.99 for 10.1.0.1: not accepted: 10.1.0.0/28 may"


def test_a_slot_that_has_just_changed_and_nothing_is_remembered_by_asking(client):
    client.backend.add("web", SECOND)
    try:
        ports = range(5000, 5200)
        answers = [client.explain.frame(four(segment("A", port)), in_dev="left") for port in ports]
        opened = [port for port, answer in zip(ports, answers, strict=True) if "open: now" in told(answer)["slot"]]
        assert opened, "no slot went to the new backend"
        steps = told(client.explain.frame(four(segment("A", opened[0])), in_dev="left"))
        assert steps["slot"].endswith(f"open: now {SECOND}, before 10.2.0.2")
        assert steps["flow"].startswith("the flow table does not know this flow: what is no SYN goes by `before`")
        assert steps["backend"].startswith("10.2.0.2 ")
        steps = told(client.explain.frame(four(segment("S", opened[0])), in_dev="left"))
        assert steps["flow"].startswith("the flow table does not know this flow: a SYN goes by `now`")
        assert steps["backend"].startswith(f"{SECOND} ")
        [row] = client.service.show("web", flows=True)
        assert row.flows.now == row.flows.remembered == 0
    finally:
        client.backend.delete("web", SECOND, grace=0)


def test_a_flow_that_is_remembered_stays(net, client):
    client.backend.add("web", SECOND)
    try:
        ports = range(6000, 6200)
        answers = {port: client.explain.frame(four(segment("A", port)), in_dev="left") for port in ports}
        port = next(port for port, answer in answers.items() if "open: now" in told(answer)["slot"])
        send_frames(net.client.ns, net.client.dev, [four(segment("A", port))])

        def known():
            steps = told(client.explain.frame(four(segment("A", port)), in_dev="left"))
            return steps.get("flow") == "the flow table knows this flow: it stays where it is"

        assert wait_for(known)
    finally:
        client.backend.delete("web", SECOND, grace=0)


def test_a_backend_that_nobody_answers_for(client):
    client.service.add("lost", "198.51.100.35", "80", "tcp", backend=[Backend(SILENT)], ring=251)
    try:
        time.sleep(1.2)  # for so long it counts as just being asked for
        answer = client.explain.packet(in_dev="left", src=CLIENT4, dst="198.51.100.35", dport=80, flags="S")
        assert answer.verdict == "DROP_NO_BACKEND"
        assert told(answer)["backend"] == f"{SILENT} weight 1, unresolved: nobody answers at {SILENT}"
        assert told(answer)["adjacency"].endswith(f"no neighbour for {SILENT} on right")
    finally:
        client.service.delete("lost")


def test_steps_that_are_switched_on_later_are_asked(tmp_path):
    """The programs that answer are loaded anew when the set of steps changes."""
    with Router() as net, Daemon(net.ns, tmp_path / "d") as daemon:
        attach(daemon, "left")
        client = hopline.connect(daemon.instance)
        assert client.explain.frame(four(segment()), in_dev="left").verdict.startswith("PASS")
        client.service.add(
            "web", VIP4, "80", "tcp", backend=[Backend(net.server.ip4, dev="right", dst_mac=net.server.mac)]
        )
        assert client.explain.frame(four(segment()), in_dev="left").verdict in ("BALANCED", "DROP_NO_BACKEND")
        client.service.delete("web")
        assert client.explain.frame(four(segment()), in_dev="left").verdict.startswith("PASS")
