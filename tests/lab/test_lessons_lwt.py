"""The lessons on routes: real packets, counters, and the exact bytes on the wire."""

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from clang import compile_bpf
from hopline.host.program import routes
from hopline.kernel import netns
from hopline.kernel.map import Map
from hopline.kernel.program import Program
from lab.net import Router, Sniffer, send_frames, sh
from repository import ROOT

LESSONS = ROOT / "examples" / "lessons"
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"


@pytest.fixture(scope="module")
def net():
    with Router() as one:
        one.pin_neighbours()
        yield one


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A lesson's name → its object, compiled once, with no more than the flags anybody uses."""
    made = {}

    def build(name: str) -> Path:
        if name not in made:
            text = (LESSONS / name / f"{name}.bpf.c").read_text()
            made[name] = compile_bpf(tmp_path_factory.mktemp(name), text, name)
        return made[name]

    return build


@pytest.fixture
def load(net, built):
    """`load(lesson, program, route, hook, set=…)` on the router; all of it is unloaded after the test."""
    loaded = []

    def do(lesson, program, route, hook, variables=(), **more):
        asked = routes.request(route, hook, **more)
        done = netns.run_in(
            net.ns, routes.load, built(lesson), asked, program=program, variables=variables, replace=True
        )
        loaded.append(done)
        return done

    yield do
    for route in {one.route for one in loaded}:
        netns.run_in(net.ns, routes.unload, route)


@contextlib.contextmanager
def map_of(loaded, name):
    """The map of this name of a program that was loaded."""
    with Program.from_id(loaded.id) as program:
        maps = {one.name: one for one in (Map.from_id(number) for number in program.info().map_ids)}
    try:
        yield maps[name[:15]]
    finally:
        for one in maps.values():
            one.close()


def counts(loaded, name) -> dict[str, int]:
    """The value of a map with one element, by field; per CPU the sum."""
    with map_of(loaded, name) as found:
        value = found.sums()[0] if found.per_cpu else found.get(0)
        return {field: int(value[field]) for field in value.dtype.names}


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip4(source, destination, protocol, payload, *, ttl=64, identification=0, flags=0) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    fields = [0x45, 0, 20 + len(payload), identification, flags << 13, ttl, protocol]
    header = struct.pack("!BBHHHBB", *fields)
    return header + struct.pack("!H", checksum(header + b"\0\0" + addresses)) + addresses + payload


def udp(port, payload=b"hopline" * 8) -> bytes:
    return struct.pack("!HHHH", port, 9, 8 + len(payload), 0) + payload


def ip6(source, destination, following, payload, *, hops=64) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 6 << 28, len(payload), following, hops) + addresses + payload


def to_router(net, packet, kind=IPV4) -> bytes:
    return net.left.mac_bytes + net.client.mac_bytes + kind + packet


def to_server(net, packet, kind=IPV4) -> bytes:
    return net.server.mac_bytes + net.right.mac_bytes + kind + packet


def index(end) -> int:
    return netns.run_in(end.ns, socket.if_nametoindex, end.dev)


def ping(ns, address, count=3, *more) -> subprocess.CompletedProcess:
    return sh(ns, ["ping", "-n", "-q", "-c", str(count), "-i", "0.02", "-W", "1", *more, address], check=False)


def test_look(net, load):
    hooks = {hook: load("lwt_look", f"look_{hook}", "10.2.0.0/24", hook) for hook in ("in", "out", "xmit")}
    assert ping(net.client.ns, net.server.ip4).returncode == 0
    seen = {hook: counts(done, f"seen_{hook}") for hook, done in hooks.items()}
    # 20 octets of IP, 8 of ICMP, 56 of data; no Ethernet header at any hook
    assert {hook: (one["packets"], one["octets"]) for hook, one in seen.items()} == dict.fromkeys(hooks, (3, 3 * 84))
    assert {hook: one["ttl"] for hook, one in seen.items()} == {"in": 64, "out": 63, "xmit": 63}
    assert (seen["in"]["device"], seen["xmit"]["device"]) == (index(net.left), index(net.right))
    ours = struct.unpack("!II", socket.inet_aton(net.client.ip4) + socket.inet_aton(net.server.ip4))
    assert all((one["source"], one["destination"]) == ours for one in seen.values())

    # looking changes nothing
    with Sniffer(net.server.ns, net.server.dev, is_protocol(17)) as wire:
        send_frames(net.client.ns, net.client.dev, [to_router(net, ip4(net.client.ip4, net.server.ip4, 17, udp(7)))])
        assert wire.wait(1) == [to_server(net, ip4(net.client.ip4, net.server.ip4, 17, udp(7), ttl=63))]

    # what the router sends itself
    assert ping(net.ns, net.server.ip4, 2).returncode == 0
    assert {hook: counts(done, f"seen_{hook}")["packets"] for hook, done in hooks.items()} == {
        "in": 4, "out": 6, "xmit": 6
    }  # fmt: skip
    assert counts(hooks["out"], "seen_out")["device"] == 0


def test_what_an_in_hook_lets_pass_is_forwarded_when_the_host_s_own_packets_are_apart(net, load):
    sh(net.ns, "ip route add 10.2.0.0/24 dev right src 10.2.0.1 table 77")
    sh(net.ns, "ip rule add iif lo to 10.2.0.0/24 lookup 77")
    try:
        done = load("lwt_look", "look_in", "10.2.0.0/24", "in")
        assert done.notes == ()
        for sender in (net.client.ns, net.ns, net.client.ns):
            assert ping(sender, net.server.ip4).returncode == 0
        assert counts(done, "seen_in")["packets"] == 6
    finally:
        sh(net.ns, "ip rule del iif lo to 10.2.0.0/24 lookup 77")
        sh(net.ns, "ip route del 10.2.0.0/24 table 77")


def is_protocol(number):
    return lambda frame: frame[12:14] == IPV4 and frame[23] == number


def prefix(address, length) -> bytes:
    return struct.pack("=I4s", length, socket.inet_aton(address))


def test_gre_from_a_map(net, load):
    done = load("lwt_gre", "push_gre", "10.20.0.0/16", "xmit", ["local=10.2.0.1"], dev="right", headroom=24)
    with map_of(done, "endpoints") as endpoints:
        endpoints.set(prefix("10.20.0.0", 16), socket.inet_aton("10.2.0.2"))
        endpoints.set(prefix("10.20.7.0", 24), socket.inet_aton("10.2.0.7"))
    sh(net.ns, f"ip neigh replace 10.2.0.7 lladdr {net.server.mac} dev right nud permanent")
    gre = struct.pack("!HH", 0, 0x0800)
    with Sniffer(net.server.ns, net.server.dev, is_protocol(47)) as wire:
        inner = [ip4(net.client.ip4, address, 17, udp(7)) for address in ("10.20.1.1", "10.20.7.1")]
        send_frames(net.client.ns, net.client.dev, [to_router(net, packet) for packet in inner], 0.01)
        wanted = []
        for address, endpoint in (("10.20.1.1", "10.2.0.2"), ("10.20.7.1", "10.2.0.7")):
            forwarded = ip4(net.client.ip4, address, 17, udp(7), ttl=63)
            wanted.append(to_server(net, ip4("10.2.0.1", endpoint, 47, gre + forwarded, flags=2)))
        assert wire.wait(2) == wanted
        wire.clear()
        ping(net.client.ns, "10.20.1.1", 2, "-W", "0.1")
        ping(net.ns, "10.20.1.1", 2, "-W", "0.1")
        frames = wire.wait(4)
        # the router's own packets are encapsulated too, and come from it
        sources = [net.client.ip4, net.client.ip4, net.right.ip4, net.right.ip4]
        assert [socket.inet_ntoa(frame[50:54]) for frame in frames] == sources
        assert {frame[34:38] for frame in frames} == {gre}
        assert {len(frame) for frame in frames} == {14 + 24 + 84}
    assert counts(done, "gre_counts") == {"pushed": 6, "no_endpoint": 0, "failed": 0}

    with map_of(done, "endpoints") as endpoints:
        assert endpoints.delete(prefix("10.20.0.0", 16))
    ping(net.client.ns, "10.20.1.1", 2, "-W", "0.1")
    assert counts(done, "gre_counts") == {"pushed": 6, "no_endpoint": 2, "failed": 0}


def test_an_endpoint_behind_the_route_itself_gets_one_outer_header(net, load):
    done = load("lwt_gre", "push_gre", "10.20.0.0/16", "xmit", ["local=10.2.0.1"], dev="right")
    with map_of(done, "endpoints") as endpoints:
        endpoints.set(prefix("10.20.0.0", 16), socket.inet_aton("10.20.9.9"))
    sh(net.ns, f"ip neigh replace 10.20.9.9 lladdr {net.server.mac} dev right nud permanent")
    with Sniffer(net.server.ns, net.server.dev, is_protocol(47)) as wire:
        send_frames(net.client.ns, net.client.dev, [to_router(net, ip4(net.client.ip4, "10.20.1.1", 17, udp(7)))])
        inner = struct.pack("!HH", 0, 0x0800) + ip4(net.client.ip4, "10.20.1.1", 17, udp(7), ttl=63)
        assert wire.wait(1) == [to_server(net, ip4("10.2.0.1", "10.20.9.9", 47, inner, flags=2))]
    assert counts(done, "gre_counts") == {"pushed": 1, "no_endpoint": 0, "failed": 0}


def test_the_headroom_of_a_tunnel_is_told_to_who_sends_too_much(net, load):
    load("lwt_gre", "push_gre", "10.20.0.0/16", "xmit", ["local=10.2.0.1"], dev="right", headroom=24)
    with Sniffer(net.client.ns, net.client.dev, is_protocol(1)) as wire:
        packet = ip4(net.client.ip4, "10.20.1.1", 17, udp(7, bytes(1477 - 28)), flags=2)
        send_frames(net.client.ns, net.client.dev, [to_router(net, packet)])
        (told,) = wire.wait(1)
    # destination unreachable, fragmentation needed, with the next hop's MTU (RFC 1191)
    assert (told[34:36], struct.unpack("!H", told[40:42])) == (b"\x03\x04", (1476,))


def test_push_at_the_in_hook_of_a_gateway(net, load):
    variables = ["local=10.2.0.1", "remote=10.2.0.2"]
    packet = to_router(net, ip4(net.client.ip4, "10.20.1.1", 17, udp(7)))
    gue = b"\x00\x04\x00\x00"

    def pushed(hook, inner_ttl, outer_ttl):
        done = load("lwt_in_gateway", f"push_{hook}", "10.20.0.0/16", hook, variables, dev="right")
        with Sniffer(net.server.ns, net.server.dev, is_protocol(17)) as wire:
            send_frames(net.client.ns, net.client.dev, [packet])
            (frame,) = wire.wait(1)
        port = struct.unpack("!H", frame[34:36])[0]
        assert port >= 0xC000
        inner = ip4(net.client.ip4, "10.20.1.1", 17, udp(7), ttl=inner_ttl)
        outer_udp = struct.pack("!HHHH", port, 6080, 8 + 4 + len(inner), 0) + gue + inner
        assert frame == to_server(net, ip4("10.2.0.1", "10.2.0.2", 17, outer_udp, ttl=outer_ttl, flags=2))
        assert counts(done, "gue_pushed") == {"packets": 1, "octets": len(frame) - 14}
        netns.run_in(net.ns, routes.unload, "10.20.0.0/16")
        return done

    # at in, what is forwarded is the outer packet; at xmit, the inner one
    sh(net.ns, "sysctl -qw net.ipv4.conf.right.accept_local=1")
    pushed("in", inner_ttl=64, outer_ttl=63)
    pushed("xmit", inner_ttl=63, outer_ttl=64)

    done = load("lwt_in_gateway", "push_in", "10.20.0.0/16", "in", variables, dev="right")
    with Sniffer(net.server.ns, net.server.dev, is_protocol(17)) as wire:
        flows = [to_router(net, ip4(net.client.ip4, "10.20.1.1", 17, udp(port))) for port in range(32)]
        send_frames(net.client.ns, net.client.dev, flows * 2)
        ports = [frame[34:36] for frame in wire.wait(64)]
        assert ports[:32] == ports[32:]
        assert len(set(ports)) > 16
        # what the gateway sends itself never passes its in hook
        ping(net.ns, "10.20.1.1", 1, "-W", "0.1")
        assert counts(done, "gue_pushed")["packets"] == 64
    sh(net.ns, "sysctl -qw net.ipv4.conf.right.accept_local=0")
    send_frames(net.client.ns, net.client.dev, [packet])
    assert counts(done, "gue_pushed")["packets"] == 65
    with Sniffer(net.server.ns, net.server.dev, is_protocol(17)) as wire:
        send_frames(net.client.ns, net.client.dev, [packet])
        assert wire.wait(1, 0.2) == [], "a packet that comes in with an address of the gateway's own is a martian"


@contextlib.contextmanager
def tun(ns, name):
    """A device whose packets have no header in front, and its descriptor."""

    def make():
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
        return fd

    fd = netns.run_in(ns, make)
    try:
        sh(ns, f"ip link set {name} up")
        yield fd
    finally:
        os.close(fd)


def test_redirect_with_and_without_an_ethernet_header(net, load):
    # the route leads back to where the packet came from; the program sends it to the other side
    ways = {"via": net.client.ip4, "dev": "left"}
    macs = [f"source={net.right.mac}", f"destination={net.server.mac}"]
    sent = [to_router(net, ip4(net.client.ip4, "10.30.0.1", 17, udp(7)))]
    forwarded = ip4(net.client.ip4, "10.30.0.1", 17, udp(7), ttl=63)
    sh(net.server.ns, "ip address replace 10.30.0.1/32 dev lo")

    done = load("lwt_redirect", "redirect_bare", "10.30.0.1", "xmit", [f"port={index(net.right)}"], **ways)
    with Sniffer(net.server.ns, net.server.dev) as wire:
        assert ping(net.client.ns, "10.30.0.1", 2, "-W", "0.1").returncode == 1
        assert [frame for frame in wire.frames if frame[30:34] == socket.inet_aton("10.30.0.1")] == []
    assert counts(done, "redirected") == {"packets": 2, "failed": 0}

    variables = [f"port={index(net.right)}", *macs]
    done = load("lwt_redirect", "redirect_ethernet", "10.30.0.1", "xmit", variables)
    with Sniffer(net.server.ns, net.server.dev, is_protocol(17)) as wire:
        send_frames(net.client.ns, net.client.dev, sent)
        assert wire.wait(1) == [to_server(net, forwarded)]
    assert ping(net.client.ns, "10.30.0.1").returncode == 0
    assert counts(done, "redirected") == {"packets": 4, "failed": 0}

    with tun(net.ns, "tun7") as fd:
        number = netns.run_in(net.ns, socket.if_nametoindex, "tun7")
        load("lwt_redirect", "redirect_bare", "10.30.0.1", "xmit", [f"port={number}"])
        send_frames(net.client.ns, net.client.dev, sent)
        # the kernel speaks IPv6 there, unasked
        assert next(packet for packet in iter(lambda: os.read(fd, 2048), None) if packet[0] >> 4 == 4) == forwarded


def test_a_real_srv6_packet_passes_a_segment_of_ours(net, load):
    segment, final = "fd00:55::5", net.server.ip6
    done = load("lwt_seg6local", "end_bpf", segment, "seg6local", ["tag=4711"], dev="right")

    def packet(destination, left, tag, hops):
        echo = bytes(4)
        echo = struct.pack("!BBH", 60, 0, 0) + echo  # no such protocol's header is looked at on the way
        srh = struct.pack("!BBBBBBH", 59, 4, 4, left, 1, 0, tag)
        srh += b"".join(socket.inet_pton(socket.AF_INET6, one) for one in (final, segment))
        return ip6(net.client.ip6, destination, 43, srh + echo, hops=hops)

    is_routed = lambda frame: frame[12:14] == IPV6 and frame[20] == 43  # noqa: E731
    with Sniffer(net.server.ns, net.server.dev, is_routed) as wire:
        send_frames(net.client.ns, net.client.dev, [to_router(net, packet(segment, 1, 7, 64), IPV6)])
        assert wire.wait(1) == [to_server(net, packet(final, 0, 4711, 63), IPV6)]
    # the kernel moves to the next segment before the program looks
    seen = counts(done, "segment_counts")
    assert (seen["packets"], seen["segments_left"], seen["tag"]) == (1, 0, 7)

    # the kernel's own: the client writes the segment into its packets, the server answers
    sh(net.client.ns, f"ip -6 route add {final}/128 encap seg6 mode inline segs {segment} via {net.left.ip6} dev eth0")
    try:
        for scope in ("all", "eth0"):
            sh(net.server.ns, f"sysctl -qw net.ipv6.conf.{scope}.seg6_enabled=1")
        with Sniffer(net.server.ns, net.server.dev, is_routed) as wire:
            assert ping(net.client.ns, final, 3, "-6").returncode == 0
            assert [frame[60:62] for frame in wire.wait(3)] == [struct.pack("!H", 4711)] * 3
    finally:
        sh(net.client.ns, f"ip -6 route del {final}/128 encap seg6 mode inline segs {segment} dev eth0", check=False)
    assert counts(done, "segment_counts")["packets"] == 4

    # without a routing header it is no packet for a segment
    with Sniffer(net.server.ns, net.server.dev) as wire:
        send_frames(net.client.ns, net.client.dev, [to_router(net, ip6(net.client.ip6, segment, 17, udp(7)), IPV6)])
        assert [frame for frame in wire.wait(1, 0.2) if frame[12:14] == IPV6 and frame[20] == 17] == []
    assert counts(done, "segment_counts")["packets"] == 4
