"""push: every octet of what leaves for a backend. Packet in, packet out; scapy builds what is expected."""

from dataclasses import dataclass, field, replace

import pytest
from scapy.layers.inet import IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting

from bpf.balance_maps import GUE, BackendRow, ServiceMaps, with_vary
from bpf.balanced import (
    BACKENDS4,
    BACKENDS6,
    CLIENT4,
    CLIENT6,
    LOCAL4,
    LOCAL6,
    VIP4,
    VIP6,
    Balanced,
    behind6,
    encapsulated,
    hop_of,
    options4,
    sized,
    tcp,
    udp,
)
from bpf.frames import IP, TCP, UDP, IPv6, frame
from bpf.pipeline import XDP_REDIRECT, Hop


@dataclass(frozen=True)
class Way:
    """One row: what it shows, the packet, and the service: its VIP, port, protocol and backends."""

    sentence: str
    packet: bytes
    vip: str = VIP4
    port: str = "80"
    protocol: str = "tcp"
    outer6: bool = False
    backend: dict[str, object] = field(default_factory=dict)  # fields of BackendRow
    service: dict[str, object] = field(default_factory=dict)  # of BalanceMaps.service
    mtu: int = 1500
    prefix: int | None = None  # of a source that varies
    ports: tuple[int, int] = (4000, 80)

    def __str__(self) -> str:
        return self.sentence

    @property
    def client(self) -> str:
        return CLIENT6 if ":" in self.vip else CLIENT4


SIX: dict = {"vip": VIP6, "outer6": True}
GUE_BACKEND: dict = {"encapsulation": GUE, "port": 6080}
SYN = tcp(flags="S")


PUSH_WAYS = [
    Way("TCP over IPv4 goes in IPIP", tcp()),
    Way("a SYN goes in IPIP", SYN),
    Way("a RST goes where its flow is", tcp(flags="R")),
    Way("UDP over IPv4 goes in IPIP", udp(), protocol="udp"),
    Way("UDP without payload", udp(payload=b""), protocol="udp"),
    Way("a service of both protocols takes TCP", tcp(), protocol="both"),
    Way("a service of both protocols takes UDP", udp(), protocol="both"),
    Way("TCP over IPv6 goes in IPv6", tcp(VIP6), **SIX),
    Way("UDP over IPv6 goes in IPv6", udp(VIP6), protocol="udp", **SIX),
    Way("IPv4 goes to an IPv6 backend", tcp(), outer6=True),
    Way("IPv4 goes to an IPv6 backend in GUE", tcp(), outer6=True, backend=GUE_BACKEND),
    Way("IPv4 goes in GUE", tcp(), backend=GUE_BACKEND),
    Way("IPv6 goes in GUE", tcp(VIP6), backend=GUE_BACKEND, **SIX),
    Way("IPv6 goes to an IPv4 backend", tcp(VIP6), vip=VIP6),
    Way("IPv6 goes to an IPv4 backend in GUE", tcp(VIP6), vip=VIP6, backend=GUE_BACKEND),
    Way("GUE to a port of its own", tcp(), backend={"encapsulation": GUE, "port": 9999}),
    Way("TOS is copied, ECN too", tcp(tos=0xB9), backend={}),
    Way("TOS is copied into an IPv6 header", tcp(tos=0xB9), outer6=True),
    Way("traffic class is copied", tcp(VIP6, tos=0xB9), **SIX),
    Way("traffic class is copied into an IPv4 header", tcp(VIP6, tos=0xB9), vip=VIP6),
    Way("the inner id, flags and checksum stay", tcp(id=0xBEEF)),
    Way("TTL 2 leaves as 1", tcp(ttl=2)),
    Way("TTL 255 leaves as 254", tcp(ttl=255)),
    Way("hop limit 2 leaves as 1", tcp(VIP6, ttl=2), **SIX),
    Way("padding is taken off", tcp(payload=b"") + bytes(6)),
    Way("padding is taken off, GUE over IPv6", tcp(payload=b"") + bytes(600), outer6=True, backend=GUE_BACKEND),
    Way("a UDP datagram in a padded frame", udp(payload=b"") + bytes(18), protocol="udp"),
    Way("as long as the next hop takes", sized(1480)),
    Way("as long as the next hop takes in GUE", sized(1472), backend=GUE_BACKEND),
    Way("as long as the next hop takes in IPv6", sized(1460, VIP6), **SIX),
    Way("as long as the next hop takes in GUE over IPv6", sized(1452), outer6=True, backend=GUE_BACKEND),
    Way("a frame in several buffers", sized(8900), mtu=9000),
    Way("the source varies with the flow", tcp(sport=4711), prefix=24, ports=(4711, 80)),
    Way("the source varies over sixteen bits", tcp(sport=4712), prefix=16, ports=(4712, 80)),
    Way("an IPv6 source varies", tcp(VIP6), prefix=112, **SIX),
    Way("a port range takes its first", tcp(dport=80), port="80-90"),
    Way("a port range takes its last", tcp(dport=90), port="80-90", ports=(4000, 90)),
    Way("port 65535", tcp(dport=65535), port="65535", ports=(4000, 65535)),
    Way("port 0 of a service that has it", tcp(dport=0), port="0", ports=(4000, 0)),
    Way("a seed of its own", tcp(), service={"seed": 0xDEADBEEFCAFEF00D}),
    Way("a seed of its own, IPv6", tcp(VIP6), service={"seed": 0xDEADBEEFCAFEF00D}, **SIX),
    Way("a ring of several elements", tcp(), service={"slots": 65537}),
    Way("a port found in a page's leaf", tcp(dport=80), service={"pages": True}),
    Way("a port found in a page", tcp(dport=600), port="512-1023", service={"pages": True}, ports=(4000, 600)),
    Way("a service of all ports", tcp(dport=31337), port="any", ports=(0, 0)),
    Way("a service of all ports, UDP over IPv6", udp(VIP6, dport=31337), port="any", protocol="udp", ports=(0, 0),
        **SIX),
]  # fmt: skip


ODD_WAYS = [
    Way("IPv4 options are carried along, ports read behind them", options4(IPOption_NOP(), IPOption_NOP())),
    Way("forty octets of IPv4 options", options4(IPOption_RR(length=39, routers=["0.0.0.0"] * 9), IPOption_NOP())),
    Way("UDP behind IPv4 options", options4(IPOption_NOP(), layer=UDP(sport=4000, dport=80)), protocol="udp"),
    Way("hop-by-hop options", behind6(IPv6ExtHdrHopByHop()), **SIX),
    Way("destination options", behind6(IPv6ExtHdrDestOpt()), **SIX),
    Way("a routing header", behind6(IPv6ExtHdrRouting()), **SIX),
    Way("a fragment header of a whole packet", behind6(IPv6ExtHdrFragment(id=7)), **SIX),
    Way("several extension headers", behind6(IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting()), **SIX),
    Way("UDP behind extension headers", behind6(IPv6ExtHdrDestOpt(), layer=UDP(sport=4000, dport=80)), protocol="udp",
        **SIX),
    Way("a first fragment for a service of all ports", frame(IP(src=CLIENT4, dst=VIP4, flags="MF"),
        TCP(sport=4000, dport=80, flags="A"), bytes(8)), port="any", ports=(0, 0)),
    Way("a later fragment for a service of all ports", frame(IP(src=CLIENT4, dst=VIP4, frag=100, proto=6), bytes(64)),
        port="any", ports=(0, 0)),
    Way("a later UDP fragment over IPv6 for a service of all ports", frame(IPv6(src=CLIENT6, dst=VIP6, nh=44),
        IPv6ExtHdrFragment(nh=17, offset=100, id=7), bytes(64)), port="any", protocol="udp", ports=(0, 0), **SIX),
]  # fmt: skip


def prepared(balanced: Balanced, way: Way) -> tuple[ServiceMaps, list[BackendRow]]:
    """The service of a row with three backends, each with a next hop of its own."""
    addresses, source = (BACKENDS6, LOCAL6) if way.outer6 else (BACKENDS4, LOCAL4)
    rows = [
        BackendRow(addresses[number], source, balanced.hop(hop_of(number, way.mtu)), **way.backend)
        for number in range(3)
    ]
    if way.prefix is not None:
        rows = [with_vary(row, way.prefix) for row in rows]
        rows = [replace(row, source="10.20.0.0" if not way.outer6 else "2001:db8:2::") for row in rows]
    return balanced.maps.service(way.vip, way.port, way.protocol, rows, **way.service), rows


@pytest.mark.parametrize("way", [*PUSH_WAYS, *ODD_WAYS], ids=str)
def test_what_leaves_for_a_backend(balanced: Balanced, way: Way):
    service, rows = prepared(balanced, way)
    hash = service.hash_of(way.client, *way.ports)
    number = service.number_of(hash)
    outcome = balanced.run(way.packet)
    assert (outcome.verdict, outcome.action) == ("BALANCED", XDP_REDIRECT)
    assert outcome.data.hex() == encapsulated(way.packet, rows[number], hop_of(number, way.mtu), hash).hex()
    assert service.count(number)[:2] == (1, len(way.packet))
    assert sum(service.count(other)[0] for other in range(3)) == 1
    assert service.count(number)[2] == (way.packet is SYN)
    assert balanced.maps.flows() == []


def test_generic_mode_redirects_by_its_own_table(balanced: Balanced):
    backends = balanced.backends(3)
    service = balanced.maps.service(VIP4, "80", "tcp", backends)
    hash = service.hash_of(CLIENT4, 4000, 80)
    number = service.number_of(hash)
    program = balanced.pipeline.load(generic=True)
    with balanced.pipeline.inside():
        ran = program.test_run(tcp(), ifindex=balanced.pipeline.in_index)
    balanced.pipeline.recount()
    assert (ran.retval, ran.data) == (XDP_REDIRECT, encapsulated(tcp(), backends[number], hop_of(number), hash))


def test_an_adjacency_that_changes_is_followed_at_once(balanced: Balanced):
    """A new MAC is one store: no cache holds what a backend's next hop was."""
    hop = Hop("06:00:00:00:00:01", "06:00:00:00:00:02")
    adjacency = balanced.hop(hop)
    backend = BackendRow(BACKENDS4[0], LOCAL4, adjacency)
    service = balanced.maps.service(VIP4, "80", "tcp", [backend])
    hash = service.hash_of(CLIENT4, 4000, 80)
    assert balanced.run(tcp()).data == encapsulated(tcp(), backend, hop, hash)
    fresh = replace(hop, destination="06:00:00:00:00:77")
    balanced.pipeline.adjacency(fresh, adjacency)
    assert balanced.run(tcp()).data == encapsulated(tcp(), backend, fresh, hash)
