"""Checks through the tunnel, between namespaces: what goes out, what comes back, and what is left afterwards."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from hopline.config import Backend, Service
from hopline.daemon.health import tunnel
from hopline.kernel import netns
from hopline.kernel.netlink import hooks, query, tc
from hopline.lab.shell import enter
from lab.backends import Server
from lab.net import Sniffer, sh, unique_tag
from lab.tunnel_room import NODE, ONE, ONE6, TWO, TWO6, VIP, VIP6, Checking, Net


@pytest.fixture(scope="module")
def net():
    with Net() as net:
        yield net


@pytest.fixture(scope="module")
def servers(net):
    with Server(net.one, VIP, VIP6) as one, Server(net.two, VIP, VIP6) as two:
        yield one, two


@pytest.fixture
def checking(net):
    with Checking(net.node, unique_tag()) as checking:
        yield checking


def service(check: str, vip: str = VIP, backends=(ONE, TWO), name: str = "web", **fields) -> Service:
    fields = {"port": "80", "protocol": "tcp", "interval": 0.3, "rise": 2, "fall": 2, "check_via": "vip", **fields}
    return Service(name=name, vip=vip, check=check, backend=tuple(map(Backend, backends)), **fields)


@pytest.mark.parametrize("check", ["tcp", "http://www.example.org/", "icmp", "udp://:53?send=ping&expect=pong"])
@pytest.mark.parametrize(
    ("vip", "backends", "encap"),
    [
        (VIP, (ONE, TWO), "ipip"),
        (VIP, (ONE, TWO), "gue"),
        (VIP6, (ONE6, TWO6), "ipip"),
        (VIP6, (ONE6, TWO6), "gue"),
        (VIP, (ONE6, TWO6), "ipip"),
        (VIP, (ONE6, TWO6), "gue"),
    ],
    ids=["4in4", "4gue4", "6in6", "6gue6", "4in6", "4gue6"],
)
def test_each_kind_of_check_goes_through_each_tunnel_though_the_vip_is_local(
    servers, checking, vip, backends, encap, check
):
    for server in servers:
        server.outer.clear(), server.clients.clear()
    checking.configure(service(check, vip, backends, encap=encap))
    for backend in backends:
        checking.wait("web", backend, True)
    assert [server.outer for server in servers] == [{NODE[backend]} for backend in backends]
    if check.startswith("http") and (":" in vip) == (":" in backends[0]):
        # a check comes from the address of the node that the server knows, so the server needs no route for it
        assert [server.clients for server in servers] == [{NODE[backend]} for backend in backends]


def outer_of(frame: bytes):
    """(outer IP header, outer UDP header or None, inner packet) of a frame, by scapy."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    outer = Ether(frame).payload
    if UDP in outer and outer[UDP].dport == 6080:
        octets = bytes(outer[UDP].payload)
        return outer, outer[UDP], IPv6(octets) if octets[0] >> 4 == 6 else IP(octets)
    return outer, None, outer.payload


@pytest.mark.parametrize("encap", ["ipip", "gue"])
@pytest.mark.parametrize(("vip", "backend"), [(VIP, ONE), (VIP6, ONE6), (VIP, ONE6)], ids=["4in4", "6in6", "4in6"])
def test_the_outer_header_is_right_to_the_octet(net, servers, checking, vip, backend, encap):
    from scapy.layers.inet import IP, TCP, UDP

    def tunnelled(frame: bytes) -> bool:
        protocol = frame[23] if frame[12:14] == b"\x08\x00" else frame[20]
        return protocol in (4, 41) or (protocol == 17 and frame[-1:] != b"" and b"\x17\xc0" in frame[34:60])

    local = "10.60.1.77" if ":" not in backend else "fd60:1::77"
    with Sniffer(net.one, "eth0", match=tunnelled) as sniffer:
        checking.configure(service("tcp", vip, (backend,), encap=encap, local=local))
        checking.wait("web", backend, True)
        frames = sniffer.wait(3)
    assert len(frames) >= 3
    for frame in frames:
        outer, udp, inner = outer_of(frame)
        assert (outer.src, outer.dst) == (local, backend)
        assert (inner.dst, inner[TCP].dport) == (vip, 80)
        assert inner[TCP].sport >= 61000
        size = len(inner) + (8 if udp else 0)
        if outer.version == 4:
            again = IP(bytes(outer))
            del again.chksum
            assert outer.chksum == IP(bytes(again)).chksum
            assert (outer.len, outer.ttl, outer.id, str(outer.flags)) == (20 + size, 64, 0, "DF")
            assert outer.proto == (17 if udp else 4 if inner.version == 4 else 41)
        else:
            assert (outer.plen, outer.hlim, outer.tc) == (size, 64, 0)
            assert outer.nh == (17 if udp else 4 if inner.version == 4 else 41)
        if udp:
            assert (udp.sport, udp.dport, udp.len, udp.chksum) == (50000, 6080, size, 0)
        # the inner checksum is whole, as nobody after the tunnel would finish it
        again = inner.__class__(bytes(inner))
        del again[TCP].chksum
        assert inner[TCP].chksum == inner.__class__(bytes(again))[TCP].chksum
        assert UDP not in inner


def test_a_mark_leads_to_its_own_backend(servers, checking):
    _, two = servers
    two.status = 503
    try:
        checking.configure(service("http://x/"))
        checking.wait("web", ONE, True)
        assert checking.wait("web", TWO, False).text == "status 503, 200-399 expected"
        two.status = 200
        checking.wait("web", TWO, True)
    finally:
        two.status = 200
    time.sleep(0.1)
    assert checking.states == {("web", ONE): True, ("web", TWO): True}


def leftovers(ns: str) -> tuple[list[str], str]:
    """Devices of ours, and the qdiscs of a namespace."""
    links = netns.run_in(ns, query.links)
    return [link.name for link in links if link.name.startswith("hlc-")], sh(ns, "tc qdisc show").stdout


def clean(ns: str) -> bool:
    links, qdiscs = leftovers(ns)
    return not links and "clsact" not in qdiscs


def test_nothing_is_there_before_or_after(net, servers, monkeypatch):
    monkeypatch.setattr(tunnel, "LOOK_EVERY_S", 0.5)
    assert clean(net.node)
    with Checking(net.node, unique_tag()) as checking:
        assert clean(net.node)
        checking.configure(service("tcp"))
        checking.wait("web", ONE, True)
        assert not clean(net.node)
        # the last one that needs it gone, it goes
        checking.configure(service("tcp", check_via="backend"))
        deadline = time.monotonic() + 5
        while not clean(net.node):
            assert time.monotonic() < deadline, leftovers(net.node)
            time.sleep(0.05)
        # and comes back with the next, also where somebody took the device away
        for check in ("tcp", "icmp"):
            checking.configure(service(check, interval=0.3 if check == "tcp" else 0.2))
            checking.wait_for_text("web", ONE, {"tcp": "connected", "icmp": "echo answered"}[check])
            checking.wait_for_text("web", TWO, {"tcp": "connected", "icmp": "echo answered"}[check])
            (device,) = leftovers(net.node)[0]
            sh(net.node, f"ip link del {device}")
    assert clean(net.node)


def child(net, instance: str, one: Service) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).with_name("health_child.py")), instance]
    return subprocess.Popen(
        enter(net.node, [*command, msgspec.json.encode(one).decode()]), stdout=subprocess.PIPE, text=True
    )


def heard(process: subprocess.Popen, wanted: dict) -> None:
    states: dict = {}
    while not wanted.items() <= states.items():
        line = process.stdout.readline()
        assert line, states
        states.update({address: state for _, address, state in json.loads(line)})


def test_it_needs_no_right_that_the_daemon_gives_up_and_a_kill_leaves_what_the_next_start_removes(net, servers):
    instance = unique_tag()
    first = child(net, instance, service("icmp"))
    try:
        told = json.loads(first.stdout.readline())
        assert told == {"rights": ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"], "remarks": []}
        heard(first, {ONE: True, TWO: True})
    finally:
        first.kill()
        first.wait()
    # the device goes with the namespace, a moment later; the filters stay
    deadline = time.monotonic() + 5
    while leftovers(net.node)[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(netns.run_in(net.node, tc.attached, f"hopline_check/{instance}")) == 2
    second = child(net, instance, service("tcp", backends=(ONE,)))
    try:
        second.stdout.readline()
        heard(second, {ONE: True})
        # that of the first server's device and that of the pair; the second server's is gone
        assert len(netns.run_in(net.node, tc.attached, f"hopline_check/{instance}")) == 2
        assert not netns.run_in(net.node, tc.attached, f"hopline_check/{instance}", 3)
    finally:
        second.terminate()
        assert second.wait(10) == 0
    assert clean(net.node)


def test_a_host_that_filters_and_does_not_forward_is_no_hindrance(net, servers, checking):
    sysctls = ["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth1/rp_filter"]
    rules = "table inet t { chain i { type filter hook input priority 0; policy drop; }; "
    rules += "chain f { type filter hook forward priority 0; policy drop; }; "
    rules += "chain o { type filter hook output priority 0; policy drop; }; }"
    try:
        for name in sysctls:
            sh(net.node, ["sh", "-c", f"echo 1 > /proc/sys/{name}"])
        sh(net.node, ["nft", rules])
        checking.configure(service("tcp"))
        # neighbours answer without the IP layer
        checking.wait("web", ONE, True)
        checking.wait("web", TWO, True)
    finally:
        sh(net.node, "nft flush ruleset")
        for name in sysctls:
            sh(net.node, ["sh", "-c", f"echo 0 > /proc/sys/{name}"])


def test_what_others_attached_stays_and_ours_is_no_policy(net, servers):
    sh(net.node, "tc qdisc add dev eth1 clsact")
    for place in ("ingress", "egress"):
        sh(net.node, ["tc", *f"filter add dev eth1 {place} protocol all prio 1 bpf bytecode".split(), "1,6 0 0 0,"])
    try:
        with Checking(net.node, unique_tag()) as checking:
            checking.configure(service("tcp"))
            checking.wait("web", ONE, True)
            checking.wait("web", TWO, True)
            reasons = hooks.Reasons()
            netns.run_in(net.node, hooks.traffic_control, reasons, {2: "eth1", 3: "eth2"})
            assert dict(reasons.ingress) == {
                (2, 4): ["tc filter at ingress of eth1"],
                (2, 6): ["tc filter at ingress of eth1"],
            }
            assert reasons.all[4] == ["tc filter at egress of eth1"]
        for place in ("ingress", "egress"):
            left = sh(net.node, f"tc filter show dev eth1 {place}").stdout
            assert "bytecode" in left
            assert "hopline" not in left
    finally:
        sh(net.node, "tc qdisc del dev eth1 clsact")
    assert clean(net.node)


def test_only_answers_to_checks_are_taken(net, servers, checking):
    """Of what a server sends from the VIP, only that to ports of checks misses the node's own sockets."""
    other_vip = "10.60.8.8"
    sh(net.one, f"ip address add {other_vip} dev lo")
    sh(net.node, f"ip route add {other_vip} via {ONE}")
    try:
        checking.configure(service("icmp", other_vip, (ONE,)))
        checking.wait("web", ONE, True)

        def sockets():
            made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
            for sock, port in zip(made, (5000, 61500), strict=True):
                sock.bind((NODE[ONE], port))
                sock.settimeout(0.5)
            return made

        below, above = netns.run_in(net.node, sockets)

        def send(source: str):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((source, 0))
                for port in (5000, 61500):
                    sock.sendto(source.encode(), (NODE[ONE], port))

        with below, above:
            netns.run_in(net.one, send, other_vip)
            netns.run_in(net.one, send, ONE)
            assert [below.recv(64), below.recv(64)] == [other_vip.encode(), ONE.encode()]
            assert above.recv(64) == ONE.encode()
    finally:
        sh(net.node, f"ip route del {other_vip}")
        sh(net.one, f"ip address del {other_vip} dev lo")


def test_a_way_follows_the_routes(net, servers, checking, monkeypatch):
    monkeypatch.setattr(tunnel, "LOOK_EVERY_S", 0.2)
    far = "10.61.0.1"
    for ns in (net.one, net.two):
        sh(ns, f"ip address add {far} dev lo")
    try:
        checking.configure(service("tcp", backends=(far,)))
        checking.wait_for_text("web", far, f"not checked: no route to {far}")
        assert checking.row("web", far).state is None
        for device, via, server in (("eth1", ONE, servers[0]), ("eth2", TWO, servers[1])):
            before = server.connections
            sh(net.node, f"ip route replace {far} via {via} dev {device}")
            checking.wait("web", far, True)
            deadline = time.monotonic() + 5
            while server.connections == before:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        sh(net.node, f"ip route del {far}", check=False)
        for ns in (net.one, net.two):
            sh(ns, f"ip address del {far} dev lo")
