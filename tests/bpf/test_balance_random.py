"""Random and mutated packets through decap and balance: each comes out as one of what may come of it, and no other.

What may is worked out by claims.py. Seeded: HOPLINE_SEED=N pytest … tries others.
"""

import os
import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)

from bpf.balance_maps import GUE, IPIP, BackendRow, BalanceMaps, with_vary
from bpf.balanced import CLIENT4, CLIENT6, LOCAL4, LOCAL6, Balanced, hop_of, open_pipeline
from bpf.claims import TCP as TCP_NUMBER
from bpf.claims import UDP as UDP_NUMBER
from bpf.claims import Known, World, check
from bpf.frames import IPv6, checksum, frame, raw
from bpf.pipeline import Hop
from bpf.tunnels import FRONT4, FRONT6, GUE_PORT, accept, inner4, inner6, open_ports, outer

SEED = int(os.environ.get("HOPLINE_SEED", "1"))
WEB4, ANY4, DOWN4, LOST4, TABLE4 = "192.0.2.80", "192.0.2.90", "192.0.2.91", "192.0.2.92", "192.0.2.93"
WEB6, ANY6 = "2001:db8:80::80", "2001:db8:80::90"
OTHER4, OTHER6 = "192.0.2.99", "2001:db8:80::99"
PAD = PadN(optdata=bytes(4))
OPTIONS = [IPOption(b"\x83\x07\x04\x01\x02\x03\x04"), IPOption(b"\x01")]


@dataclass
class Stage:
    """The pipeline with services and tunnels, and what is known of them."""

    balanced: Balanced
    world: World


def service(balanced: Balanced, vip: str, port: str, protocol: str, backends: list[BackendRow], **more) -> Known:
    """Write a service whose slots are in all states, and what is known of it."""
    made = balanced.maps.service(vip, port, protocol, backends, **more)
    first, last = (0, 0xFFFF) if port == "any" else (int(port.split("-")[0]), int(port.split("-")[-1]))
    rng = random.Random(vip + port)
    for slot in range(made.slots if backends else 0):
        state = rng.choice(("CLOSED", "CLOSED", "OPEN", "RESIDUAL"))
        made.set_slot(slot, rng.randrange(len(backends)), rng.randrange(len(backends)), state)
    numbers = {"tcp": (TCP_NUMBER,), "udp": (UDP_NUMBER,), "both": (TCP_NUMBER, UDP_NUMBER)}[protocol]
    flags = {name: more.get(name, False) for name in ("local", "echo", "remembers")}
    return Known(made, vip, numbers, range(first, last + 1), backends, [], **flags)


def backends_of(
    balanced: Balanced, subnet: int, *, ipv6: bool = False, mtu: int = 1500, state: str = "READY", vary: int = 0, **more
) -> tuple[list[BackendRow], list[Hop]]:
    """Three backends of a service and their next hops, other addresses for each subnet."""
    rows, hops = [], []
    for number in range(3):
        hop = replace(hop_of(subnet * 16 + number, mtu), state=state)
        address = f"2001:db8:9:{subnet}::{number + 1}" if ipv6 else f"10.9.{subnet}.{number + 1}"
        row = BackendRow(address, LOCAL6 if ipv6 else "10.66.0.0", balanced.hop(hop), **more)
        rows.append(with_vary(row, vary) if vary else row)
        hops.append(hop)
    return rows, hops


def services(balanced: Balanced) -> list[Known]:
    """Of every kind there is."""
    plans = [
        (WEB4, "80-81", "tcp", {}, {"local": True, "echo": True}),
        (WEB4, "53", "udp", {"encapsulation": GUE, "port": 7777, "vary": 24}, {"local": True, "echo": True}),
        (WEB6, "80", "tcp", {"ipv6": True, "vary": 112}, {"echo": True}),
        (ANY4, "any", "both", {"ipv6": True, "mtu": 1400}, {}),
        (ANY6, "any", "both", {"ipv6": True, "encapsulation": GUE}, {"local": True}),
        (LOST4, "80", "tcp", {"state": "UNRESOLVED"}, {}),
        (TABLE4, "1000-2000", "udp", {}, {"remembers": True}),
    ]
    made = []
    for subnet, (vip, port, protocol, backends, more) in enumerate(plans):
        rows, hops = backends_of(balanced, subnet, **backends)
        known = service(balanced, vip, port, protocol, rows, **more)
        known.hops = hops
        made.append(known)
    made[0].maps.set_flags(1, "DRAINING")
    made[2].maps.set_flags(2, "DEAD")
    return [*made, service(balanced, DOWN4, "80", "tcp", [])]


@pytest.fixture(scope="module")
def stage():
    made: list[BalanceMaps] = []

    def prepare(datapath) -> None:
        made.append(BalanceMaps(datapath, flows=1 << 12))
        datapath.switch(balancing=True, decapsulating=True)

    with open_pipeline(prepare=prepare) as pipeline:
        balanced = Balanced(pipeline, made[0])
        balanced.reset()
        world = World(services(balanced), [(LOCAL4, "192.0.2.0/28", IPIP), (LOCAL6, f"{FRONT6}/128", IPIP),
                                           (LOCAL4, f"{FRONT4}/32", GUE), (LOCAL6, f"{FRONT6}/128", GUE)])  # fmt: skip
        for row, (local, source, kind) in enumerate(world.tunnels, 1):
            accept(pipeline, local, source, row, kind)
        open_ports(pipeline, GUE_PORT)
        pipeline.recount()
        yield Stage(balanced, world)


# packets as they should be


def quote4(vip: str, l4, size: int = 28) -> bytes:
    return raw(IP(src=vip, dst=CLIENT4, flags="DF") / l4 / bytes(40))[:size]


def quote6(vip: str, l4, size: int = 1000) -> bytes:
    return raw(IPv6(src=vip, dst=CLIENT6) / l4 / bytes(40))[:size]


def four(to: str, *layers, **fields) -> bytes:
    return frame(IP(**{"src": CLIENT4, "dst": to, "flags": "DF", **fields}), *layers)


def six(to: str, *layers, **fields) -> bytes:
    return frame(IPv6(**{"src": CLIENT6, "dst": to, **fields}), *layers)


def templates() -> dict[str, list[bytes]]:
    """Frames by the verdict that they must get as they are; "" where it depends."""

    ack, syn, query = (
        TCP(sport=4000, dport=80, flags="A"),
        TCP(sport=4000, dport=80, flags="S"),
        UDP(sport=4000, dport=53),
    )
    fin = TCP(sport=4000, dport=81, flags="FA")
    sent = TCP(sport=80, dport=4000, flags="A")
    return {
        "BALANCED": [
            four(WEB4, ack, b"x" * 40), four(WEB4, syn), four(WEB4, fin), four(WEB4, query, b"x" * 99),
            four(WEB4, TCP(dport=80, flags="R")), four(WEB4, ack, options=OPTIONS), four(WEB4, ack, tos=0xB9),
            four(WEB4, ack, b"x" * 1440), four(ANY4, ack), four(ANY4, UDP(dport=9), b"x" * 64, flags="MF"),
            four(ANY4, b"x" * 64, proto=17, flags="", frag=9), four(TABLE4, UDP(dport=1500), b"abc"),
            six(WEB6, syn), six(WEB6, ack, b"x" * 300), six(ANY6, UDP(dport=443), b"x" * 99), six(WEB6, ack, tc=0xB9),
            six(WEB6, IPv6ExtHdrDestOpt(options=[PAD]), ack), six(WEB6, IPv6ExtHdrHopByHop(options=[PAD]), ack),
            six(WEB6, IPv6ExtHdrRouting(addresses=[]), ack), six(ANY6, IPv6ExtHdrFragment(m=1, id=3), query, b"x" * 16),
            six(ANY6, IPv6ExtHdrFragment(offset=3, id=3, nh=17), b"x" * 64),
            four(WEB4, ICMP(type=3, code=4, nexthopmtu=1400), quote4(WEB4, sent)),
            four(WEB4, ICMP(type=11), quote4(WEB4, UDP(sport=53, dport=4000))),
            six(WEB6, ICMPv6PacketTooBig(mtu=1300), quote6(WEB6, sent, 48)),
            six(WEB6, ICMPv6TimeExceeded(), quote6(WEB6, IPv6ExtHdrDestOpt(options=[PAD]) / sent)),
        ],
        "ANSWERED_ECHO": [four(WEB4, ICMP(), b"abcdefg"), six(WEB6, ICMPv6EchoRequest(data=b"abcdefg"))],
        "ANSWERED_ERROR": [
            four(WEB4, ack, ttl=1), six(WEB6, ack, hlim=1), four(ANY4, ack, b"x" * 1400), six(ANY6, query, b"x" * 1430),
            four(WEB4, query, b"x" * 1460),
        ],
        "DROP_TOO_BIG": [four(ANY4, ack, b"x" * 1400, flags="")],
        "DROP_NO_BACKEND": [four(DOWN4, ack), four(LOST4, syn)],
        "DROP_FRAGMENT": [four(WEB4, ack, b"x" * 40, flags="MF"), four(WEB4, b"x" * 40, proto=6, flags="", frag=9)],
        "DECAPSULATED": [
            outer(inner4(), 4), outer(inner6(), 4), outer(inner4(), 6), outer(inner6(), 6),
            outer(inner4(), 4, gue=True), outer(inner6(), 6, gue=True), outer(inner4(tos=2), 4, tos=3),
        ],
        "DROP_NOT_ACCEPTED": [outer(inner4(), 4, src="8.8.8.8")],
        "DROP_MALFORMED": [outer(inner4(len=999), 4), outer(b"\x00" * 30, 4, gue=True)],
        "PASS_LOCAL": [four(LOCAL4, ack), four(LOCAL4, query)],
        "PASS_NOT_LEARNING": [
            four(OTHER4, ack), six(OTHER6, ack), four(WEB4, TCP(dport=82)), six(WEB6, TCP(dport=81)),
            four(ANY4, ICMP()), four(WEB4, ICMP(type=3, code=4), quote4(OTHER4, sent)), four(ANY4, b"x" * 40, proto=47),
        ],
    }  # fmt: skip


# and as they should not


def mutated(rng: random.Random, sent: bytes) -> bytes:
    """A frame with some of its octets, or its length, changed; the IPv4 checksum mostly made right again."""
    octets = bytearray(sent)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        at = rng.randrange(12, min(len(octets), rng.choice((24, 40, 60, 110))))
        octets[at] = rng.choice((rng.randrange(256), octets[at] ^ 1 << rng.randrange(8), 0, 255))
    kind = rng.random()
    if kind < 0.1:
        del octets[rng.randrange(14, len(octets)) :]
    elif kind < 0.2:
        octets += rng.randbytes(rng.randrange(1, 50))
    elif kind < 0.25:
        octets[rng.randrange(14, len(octets)) :] = rng.randbytes(rng.randrange(60))
    if rng.random() < 0.5:
        _other_flow(rng, octets)
    if rng.random() < 0.8:
        _right_again(octets, 14)
    if rng.random() < 0.5:
        for inner in (34, 54, 42, 62):
            _right_again(octets, inner)
    return bytes(octets)


def _other_flow(rng: random.Random, octets: bytearray) -> None:
    """Another client, another port of it."""
    ipv4 = octets[12:14] == b"\x08\x00"
    at = 26 if ipv4 else 36
    if len(octets) > at + 30:
        octets[at + 3 : at + 4] = rng.randbytes(1)
        port = 34 if ipv4 else 54
        octets[port : port + 2] = rng.randbytes(2)


def _right_again(octets: bytearray, at: int) -> None:
    size = (octets[at] & 15) * 4 if at < len(octets) and octets[at] >> 4 == 4 else 0
    if 20 <= size <= len(octets) - at:
        octets[at + 10 : at + 12] = bytes(2)
        octets[at + 10 : at + 12] = checksum(bytes(octets[at : at + size])).to_bytes(2, "big")


def put_through(stage: Stage, seed: int, count: int) -> Counter[str]:
    """Run so many packets and check what comes of each; how often there was which verdict."""
    rng, seen = random.Random(seed), Counter[str]()
    known = [packet for packets in templates().values() for packet in packets]
    pipeline, maps = stage.balanced.pipeline, stage.balanced.maps
    for number in range(count):
        if number % 1000 == 0:
            maps.set_clock(maps.clock + rng.choice((1, 40, 4000)))
        packet = mutated(rng, rng.choice(known))
        outcome = pipeline.run(packet)
        seen[outcome.verdict] += 1
        try:
            check(stage.world, packet, outcome.verdict, outcome.action, outcome.data)
        except AssertionError as error:
            said = f"seed {seed}, packet {number}: {outcome.verdict} {packet.hex()} > {outcome.data.hex()}"
            raise AssertionError(f"{said}: {error}") from error
    return seen


def test_packets_as_they_should_be(stage):
    """Each template gets its verdict: so what is random begins with packets that mean something."""
    for verdict, packets in templates().items():
        for packet in packets:
            outcome = stage.balanced.pipeline.run(packet)
            assert outcome.verdict == verdict, packet.hex()
            check(stage.world, packet, outcome.verdict, outcome.action, outcome.data)


EVERY_WAY_OUT = {
    "BALANCED", "DECAPSULATED", "ANSWERED_ECHO", "ANSWERED_ERROR", "DROP_NO_BACKEND", "DROP_FRAGMENT", "DROP_TOO_BIG",
    "DROP_NOT_ACCEPTED", "DROP_MALFORMED", "PASS_MALFORMED", "PASS_LOCAL", "PASS_OPTIONS", "PASS_NOT_LEARNING",
}  # fmt: skip


def test_mutated_packets(stage):
    seen = put_through(stage, SEED, 8_000)
    assert set(seen) >= EVERY_WAY_OUT


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutated_packets(stage):
    seen = Counter[str]()
    for part in range(10):
        seen += put_through(stage, SEED * 1000 + part, 20_000)
    assert seen.total() == 200_000
    assert set(seen) >= EVERY_WAY_OUT
    assert min(seen[verdict] for verdict in EVERY_WAY_OUT) > 100


def test_noise(stage):
    """Octets that are nothing at all behind a MAC address that is right."""
    rng, pipeline = random.Random(SEED), stage.balanced.pipeline
    macs = frame()[:12]
    for _ in range(2000):
        packet = macs + rng.choice((b"\x08\x00", b"\x86\xdd")) + rng.randbytes(rng.randrange(90))
        outcome = pipeline.run(packet)
        check(stage.world, packet, outcome.verdict, outcome.action, outcome.data)
