"""The kernel as oracle: two identical routers get the same frames, one forwards by the kernel, the other by Hopline.

What arrives behind them must be the same, octet for octet, also where the way is longer: through netfilter, a
reverse path filter, rules, or a route with an MTU of its own. Seeded: HOPLINE_SEED=N pytest … tries others.
"""

import contextlib
import dataclasses
import os
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

import hopline
from hopline.daemon.protocol import InterfaceState
from lab.mutate import World, frames
from lab.net import Daemon, Router, Sniffer, send_frames, sh

SEED = int(os.environ.get("HOPLINE_SEED", "1"))
COUNT = 500
PAUSE_S = 1e-5  # between frames: a veth's ring takes 256

BASE = [
    "ip route add 203.0.113.0/24 via 10.2.0.2",
    "ip route add unreachable 192.0.2.0/28",
    "ip route add blackhole 192.0.2.16/28",
    "ip route add prohibit 192.0.2.32/28",
    "ip route add 192.0.2.48/28 encap ip id 5 dst 10.2.0.2 dev right",
    "ip route add 100.64.0.0/10 via 10.1.0.9",
    "ip route add default via 10.2.0.2",
    "ip -6 route add 2001:db8:a::/48 via fd00:2::2",
    "ip -6 route add unreachable 2001:db8:b::/48",
    "ip -6 route add blackhole 2001:db8:c::/48",
    "ip -6 route add 2001:db8:d::/48 via fd00:1::9",
    "ip -6 route add default via fd00:2::2",
    "ip neigh add 10.2.0.9 lladdr 02:00:00:00:02:09 dev right nud permanent",
    "ip neigh add fd00:2::9 lladdr 02:00:00:00:02:09 dev right nud permanent",
    "ip neigh add 10.1.0.9 lladdr 02:00:00:00:01:09 dev left nud permanent",
    "ip neigh add fd00:1::9 lladdr 02:00:00:00:01:09 dev left nud permanent",
    # smaller than the ingress's, so that some are too big
    "ip link set right mtu 1300",
]
WORLD = World(
    to_router=bytes.fromhex("020000000101"),
    from_host=bytes.fromhex("020000000102"),
    sources4=["10.1.0.2", "10.1.0.200", "10.2.0.2", "10.1.0.1", "10.2.0.1", "10.1.0.255", "10.2.0.255", "0.0.0.0",
              "0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "169.254.1.1", "198.51.100.1",
              "203.0.113.200"],
    destinations4=["10.2.0.2", "203.0.113.7", "203.0.113.200", "10.2.0.9", "10.1.0.9", "100.64.1.1", "192.0.2.1",
                   "192.0.2.17", "192.0.2.33", "192.0.2.49", "10.1.0.1", "10.2.0.1", "10.2.0.255", "10.2.0.0",
                   "224.0.0.5", "239.1.1.1", "255.255.255.255", "127.0.0.1", "0.0.0.0", "240.0.0.1", "169.254.1.1"],
    sources6=["fd00:1::2", "fd00:1::77", "fd00:2::2", "fd00:1::1", "fd00:2::1", "::", "::1", "::2", "fe80::1",
              "ff02::1", "::ffff:10.1.0.2", "2001:db8::9", "fec0::1", "2001:db8:a:1::9"],
    destinations6=["fd00:2::2", "2001:db8:a::7", "2001:db8:a:1::7", "fd00:2::9", "fd00:1::9", "2001:db8:d::1",
                   "2001:db8:b::1", "2001:db8:c::1", "fd00:1::1", "fd00:2::1", "fd00:2::", "ff02::1", "ff0e::5",
                   "::1", "::", "fe80::1", "::ffff:10.2.0.2", "fec0::1"],
)  # fmt: skip


def is_routers_own(frame: bytes) -> bool:
    """ARP, neighbour discovery, multicast listener reports and ICMP errors: of the router itself, by its own clock.

    What it makes has a whole TTL; what it forwards came with one of lab/mutate.py's, and has one less.
    """
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\x08\x00":
        return packet[8] == 64
    if kind == b"\x86\xdd":
        return packet[7] in (64, 255) or packet[8:10] == b"\xfe\x80" or packet[8:24] == bytes(16)
    return kind == b"\x08\x06"


@dataclass
class Side:
    """One of the two routers; `daemon` on the one that Hopline runs on."""

    net: Router
    daemon: Daemon | None = None

    def configure(self, commands: list[str]) -> None:
        sh(self.net.ns, ["sh", "-ec", "\n".join(commands)])

    def through(self, sent: list[bytes]) -> Counter[bytes]:
        """Send frames from the client; what arrives at the server, with how often."""
        end = b"the end of it all"
        last = udp_sentinel(self.net, end)
        with Sniffer(self.net.server.ns, self.net.server.dev) as sniffer:
            send_frames(self.net.client.ns, self.net.client.dev, sent, PAUSE_S)
            time.sleep(0.05)
            # by a way that no configuration closes: from the router itself
            send_frames(self.net.ns, self.net.right.dev, [last])
            deadline = time.monotonic() + 5
            while not any(frame.endswith(end) for frame in sniffer.frames):
                assert time.monotonic() < deadline, "the server's capture has stopped"
                time.sleep(0.005)
            arrived = [frame for frame in sniffer.frames if not frame.endswith(end)]
        return Counter(frame for frame in arrived if not is_routers_own(frame))

    def left(self) -> InterfaceState:
        """What the daemon says of the left interface."""
        assert self.daemon is not None
        return hopline.connect(self.daemon.instance).interface.show("left")[0]

    def verdicts(self) -> Counter[str]:
        """Packets by verdict on the left interface."""
        return Counter({name: count.packets for name, count in self.left().verdicts.items()})

    def learning(self) -> tuple[bool, bool]:
        """Whether the left interface learns (IPv4, IPv6)."""
        learning = self.left().learning
        return learning["ipv4"], learning["ipv6"]


def udp_sentinel(net: Router, text: bytes) -> bytes:
    return net.server.mac_bytes + net.right.mac_bytes + struct.pack("!H", 0x88B5) + text


@contextlib.contextmanager
def quiet_router() -> Iterator[Router]:
    """A router whose hosts say nothing of their own: what arrives was forwarded."""
    with Router() as net:
        net.pin_neighbours()
        sh(net.ns, ["sh", "-ec", "\n".join(BASE)])
        for end in (net.client, net.server):
            sh(end.ns, ["sh", "-ec", f"ip addr flush dev {end.dev}; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"])
        yield net


@pytest.fixture
def sides(daemon) -> Iterator[tuple[Side, Side]]:
    with quiet_router() as plain, quiet_router() as programmed:
        node = daemon(programmed.ns)
        yield Side(plain), Side(programmed, node)


def attach(side: Side, mode: str = "native") -> None:
    assert side.daemon is not None
    for end in (side.net.left, side.net.right):
        hopline.connect(side.daemon.instance).interface.add(end.dev, mode=mode)


def first_difference(expected: Counter[bytes], found: Counter[bytes], sent: list[bytes]) -> str:
    """A line for each of the first few that differ, with the frame that was sent, as far as its marker tells."""
    lines = []
    for frame in list((expected - found) + (found - expected))[:6]:
        who = f"kernel {expected[frame]}x, hopline {found[frame]}x"
        origin = next((each.hex() for each in sent if b"mark" in frame and frame[-8:] in each), "?")
        lines.append(f"{who}: {frame.hex()}\n    sent: {origin}")
    return "\n".join(lines)


def compare(sides: tuple[Side, Side], sent: list[bytes]) -> tuple[Counter[bytes], Counter[str]]:
    """Send the same through both; what arrived must be equal. What arrived, and Hopline's verdicts."""
    before = sides[1].verdicts()
    with ThreadPoolExecutor() as pool:
        expected, found = pool.map(lambda side: side.through(sent), sides)
    verdicts = sides[1].verdicts() - before
    assert expected == found, first_difference(expected, found, sent)
    return found, verdicts


def wait_for_learning(side: Side, wanted: tuple[bool, bool]) -> None:
    deadline = time.monotonic() + 5
    while side.learning() != wanted:
        assert time.monotonic() < deadline, f"learning is {side.learning()}, not {wanted}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Configuration:
    """What the router is told, and whether learning may stay on (IPv4, IPv6)."""

    name: str
    commands: list[str]
    learning: tuple[bool, bool]
    arrives: bool = True

    def __str__(self) -> str:
        return self.name


def nft(*rules: str) -> list[str]:
    return [f"nft '{rule}'" for rule in rules]


def sysctl(value: int, *names: str) -> list[str]:
    return [f"echo {value} > /proc/sys/net/{name.replace('.', '/')}" for name in names]


CONFIGURATIONS = [
    Configuration("plain", [], (True, True)),
    Configuration(
        "an nft rule that drops half of what is forwarded",
        nft(
            "add table inet oracle",
            "add chain inet oracle forward { type filter hook forward priority 0; }",
            "add rule inet oracle forward udp sport 1024-1300 drop",
            "add rule inet oracle forward tcp sport 1024-1300 drop",
        ),
        (False, False),
    ),
    Configuration(
        "an nft rule that marks what comes in, by its TTL",
        nft(
            "add table ip oracle",
            "add chain ip oracle before { type filter hook prerouting priority 0; }",
            "add rule ip oracle before ip ttl 64 ip dscp set 10",
        ),
        (False, True),
    ),
    Configuration("strict rp_filter", sysctl(1, "ipv4.conf.left.rp_filter"), (False, True)),
    Configuration(
        "a second table by source",
        [
            "ip rule add from 10.1.0.0/25 lookup 100",
            "ip route add blackhole 203.0.113.0/25 table 100",
            "ip route add 203.0.113.128/25 via 10.2.0.9 table 100",
        ],
        (False, True),
    ),
    Configuration(
        "a second IPv6 table by traffic class",
        ["ip -6 rule add tos 0x10 lookup 100", "ip -6 route add 2001:db8:a::/48 via fd00:2::9 table 100"],
        (True, False),
    ),
    Configuration(
        "prefixes that are the router's own",
        ["ip route add local 203.0.113.128/25 dev lo", "ip -6 route add local 2001:db8:a:1::/64 dev lo"],
        # the kernel takes none of its own addresses as a source, and asks the whole FIB for that
        (False, True),
    ),
    Configuration(
        "an IPsec policy that blocks",
        [
            "ip xfrm policy add dir fwd src 10.1.0.0/24 dst 203.0.113.0/24 action block",
            "ip xfrm policy add dir fwd src fd00:1::/64 dst 2001:db8:a::/48 action block",
        ],
        (False, False),
    ),
    Configuration("forwarding off", sysctl(0, "ipv4.ip_forward", "ipv6.conf.all.forwarding"), (False, False), False),
    Configuration("IPv4 forwarding off", sysctl(0, "ipv4.ip_forward"), (False, True)),
    Configuration(
        "another route, an unreachable host, another MAC",
        [
            "ip route replace 203.0.113.0/24 via 10.2.0.9",
            "ip -6 route replace 2001:db8:a::/48 via fd00:2::9",
            "ip route add unreachable 203.0.113.200",
            "ip neigh replace 10.2.0.2 lladdr 02:00:00:00:02:0a dev right nud permanent",
            "ip neigh replace fd00:2::2 lladdr 02:00:00:00:02:0a dev right nud permanent",
        ],
        (True, True),
    ),
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_the_same_octets_arrive(sides, configuration):
    """Warm first, so that answers are cached, then configured under the running daemon, then compared."""
    attach(sides[1])
    sent = frames(WORLD, SEED, COUNT)
    arrived, verdicts = compare(sides, sent[:200])
    assert verdicts["FORWARDED"] > 40
    for side in sides:
        side.configure(configuration.commands)
    wait_for_learning(sides[1], configuration.learning)
    time.sleep(0.3)
    arrived, verdicts = compare(sides, sent)
    assert verdicts.total() >= len(sent)
    assert bool(arrived) == configuration.arrives
    assert (verdicts["FORWARDED"] > 0) == any(configuration.learning)


def test_a_routes_own_mtu_is_the_kernels_affair(sides):
    """bpf_fib_lookup heeds a route's MTU only where it is locked, the kernel's own path always."""
    attach(sides[1])
    for side in sides:
        side.configure(
            [
                "ip route add 203.0.113.0/25 via 10.2.0.2 mtu 700",
                "ip -6 route add 2001:db8:a:1::/64 via fd00:2::2 mtu 1280",
            ]
        )
    time.sleep(1)
    world = dataclasses.replace(WORLD, destinations4=["203.0.113.7"], destinations6=["2001:db8:a:1::7"])
    sent = [frame for seed in range(2) for frame in frames(world, SEED + seed, COUNT) if 600 < len(frame) < 1400]
    compare(sides, sent)


def test_operator_entries_that_say_what_the_routes_say(sides):
    """With learning forbidden, entries by `via` forward by XDP, and the octets are still the kernel's."""
    attach(sides[1])
    for side in sides:
        side.configure(nft("add table inet oracle", "add chain inet oracle f { type filter hook forward priority 0; }"))
    wait_for_learning(sides[1], (False, False))
    for to, via in (("203.0.113.0/24", "10.2.0.2"), ("10.2.0.2", "10.2.0.2"), ("2001:db8:a::/48", "fd00:2::2"),
                    ("fd00:2::2", "fd00:2::2")):  # fmt: skip
        hopline.connect(sides[1].daemon.instance).forward.add(to, via=via)
    _, verdicts = compare(sides, frames(WORLD, SEED + 1, COUNT))
    assert verdicts["FORWARDED"] > COUNT // 5


@pytest.mark.parametrize(("seed", "mode"), [(101, "native"), (102, "native"), (103, "generic")])
def test_other_seeds(sides, seed, mode):
    attach(sides[1], mode)
    assert sides[1].left().mode == mode
    _, verdicts = compare(sides, frames(WORLD, SEED + seed, 3 * COUNT))
    assert verdicts["FORWARDED"] > COUNT // 2
