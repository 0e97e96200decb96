"""balance: which packets a service takes, and every octet of what leaves. Packet in, packet out."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scapy.layers.inet import IPOption_NOP
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)

from bpf.balance_maps import BackendRow, ServiceMaps
from bpf.balanced import (
    BACKENDS4,
    CLIENT4,
    LOCAL4,
    VIP4,
    VIP6,
    Balanced,
    behind6,
    encapsulated,
    inner_length,
    options4,
    quoting,
    tcp,
    udp,
)
from bpf.frames import ICMP, IP, TCP, IPv6, checksum, frame
from bpf.pipeline import LEARNED_HOP, XDP_PASS, XDP_REDIRECT, Hop

XDP_DROP = 1


SYN = tcp(flags="S")


def first_fragment(dport: int = 80, **fields) -> bytes:
    return frame(IP(src=CLIENT4, dst=VIP4, flags="MF", **fields), TCP(sport=4000, dport=dport, flags="A"), bytes(12))


def later_fragment(proto: int = 6) -> bytes:
    """What lies where ports would be looks like those of the service."""
    return frame(IP(src=CLIENT4, dst=VIP4, frag=185, proto=proto), (4000).to_bytes(2, "big") + (80).to_bytes(2, "big"),
                 bytes(64))  # fmt: skip


def fragment6(offset: int, more: bool = True, dport: int = 80) -> bytes:
    return behind6(IPv6ExtHdrFragment(offset=offset, m=more, id=9), layer=TCP(sport=4000, dport=dport, flags="A"))


def misread() -> bytes:
    """Options that look like ports of the service, in front of ports of another."""
    return options4(IPOption_NOP(), IPOption_NOP(), IPOption_NOP(), IPOption_NOP(), layer=TCP(sport=4000, dport=81))


@dataclass(frozen=True)
class Left:
    """One row: a packet that the step leaves alone, or drops."""

    sentence: str
    packet: bytes
    verdict: str
    local: bool = False

    def __str__(self) -> str:
        return self.sentence


# what no step takes is looked up by forward, which has nothing and may not learn
LEFT = [
    Left("another address", tcp("192.0.2.81"), "PASS_NOT_LEARNING"),
    Left("another IPv6 address", tcp("2001:db8:80::81"), "PASS_NOT_LEARNING"),
    Left("another port", tcp(dport=81), "PASS_NOT_LEARNING"),
    Left("the port below", tcp(dport=79), "PASS_NOT_LEARNING"),
    Left("another port over IPv6", tcp(VIP6, dport=81), "PASS_NOT_LEARNING"),
    Left("the client's port is the service's", tcp(sport=80, dport=4000), "PASS_NOT_LEARNING"),
    Left("another protocol", udp(), "PASS_NOT_LEARNING"),
    Left("a protocol without ports", frame(IP(src=CLIENT4, dst=VIP4, proto=47), bytes(40)), "PASS_NOT_LEARNING"),
    Left("another host's MAC", frame(IP(src=CLIENT4, dst=VIP4), TCP(dport=80), dst="02:00:00:00:01:03"),
         "PASS_OTHER_HOST"),
    Left("a broadcast MAC", frame(IP(src=CLIENT4, dst=VIP4), TCP(dport=80), dst="ff:ff:ff:ff:ff:ff"), "PASS_MULTICAST"),
    Left("a multicast source", tcp(client="224.0.0.1"), "PASS_MARTIAN"),
    Left("a loopback source", tcp(client="127.0.0.1"), "PASS_MARTIAN"),
    Left("the unspecified IPv6 source", tcp(VIP6, client="::"), "PASS_MARTIAN"),
    Left("a link-local IPv6 source", tcp(VIP6, client="fe80::1"), "PASS_MARTIAN"),
    Left("a wrong checksum", tcp(chksum=1), "PASS_MALFORMED"),
    Left("a TCP header that is cut short", frame(IP(src=CLIENT4, dst=VIP4, proto=6), bytes(19)), "PASS_NOT_LEARNING"),
    Left("a TCP header of padding", frame(IP(src=CLIENT4, dst=VIP4, proto=6, len=30), bytes(40)), "PASS_NOT_LEARNING"),
    Left("options that look like ports", misread(), "PASS_OPTIONS"),
    Left("ICMP that is no echo and quotes nothing", frame(IP(src=CLIENT4, dst=VIP4), ICMP(type=13)),
         "PASS_NOT_LEARNING"),
    Left("an echo to a VIP that passes it", frame(IP(src=CLIENT4, dst=VIP4), ICMP(), b"ping"), "PASS_NOT_LEARNING"),
    Left("a first fragment, the VIP routed", first_fragment(), "PASS_NOT_LEARNING"),
    Left("a later fragment, the VIP routed", later_fragment(), "PASS_NOT_LEARNING"),
    Left("a first fragment, the VIP local", first_fragment(), "DROP_FRAGMENT", local=True),
    Left("a later fragment, the VIP local", later_fragment(), "DROP_FRAGMENT", local=True),
    Left("a first fragment for another port, the VIP local", first_fragment(81), "PASS_NOT_LEARNING", local=True),
    Left("a later fragment of a protocol without services", later_fragment(17), "PASS_NOT_LEARNING", local=True),
    Left("a fragment of ICMP", frame(IP(src=CLIENT4, dst=VIP4, frag=1, proto=1), bytes(64)), "PASS_NOT_LEARNING",
         local=True),
    Left("a first IPv6 fragment, the VIP local", fragment6(0), "DROP_FRAGMENT", local=True),
    Left("a later IPv6 fragment, the VIP local", fragment6(100), "DROP_FRAGMENT", local=True),
    Left("a later IPv6 fragment, the VIP routed", fragment6(100), "PASS_NOT_LEARNING"),
    Left("a first IPv6 fragment for another port", fragment6(0, dport=81), "PASS_NOT_LEARNING", local=True),
]  # fmt: skip


@pytest.mark.parametrize("left", LEFT, ids=str)
def test_what_is_not_a_services_is_left_alone(balanced: Balanced, left: Left):
    for vip in (VIP4, VIP6):
        balanced.service(vip, local=left.local)
    outcome = balanced.run(left.packet)
    assert (outcome.verdict, outcome.data) == (left.verdict, left.packet)
    assert outcome.action == (XDP_DROP if left.verdict.startswith("DROP") else XDP_PASS)


def test_forward_takes_what_no_service_does(balanced: Balanced):
    balanced.service()
    balanced.pipeline.learn()
    outcome = balanced.run(tcp("10.0.2.2"))
    assert outcome.verdict == "FORWARDED"
    assert outcome.data[:6].hex(":") == LEARNED_HOP.destination


Change = Callable[[Balanced, ServiceMaps], object]


def change_ring(balanced: Balanced, service: ServiceMaps) -> None:
    service.record["ring"] = 0


def change_state(state: str) -> Change:
    def change(balanced: Balanced, service: ServiceMaps) -> None:
        first = balanced.maps._first_hop
        for number in range(3):
            balanced.pipeline.set_state(first + number, state)

    return change


def to_nobody(balanced: Balanced, service: ServiceMaps) -> None:
    rows = [BackendRow(BACKENDS4[0], LOCAL4, 0, flags=5)] * 3
    balanced.maps.write_backends(service, rows)


def to_no_slot(balanced: Balanced, service: ServiceMaps) -> None:
    hop = balanced.hop(Hop(slot=200))
    balanced.maps.write_backends(service, [BackendRow(BACKENDS4[0], LOCAL4, hop)] * 3)


@pytest.mark.parametrize(
    "change",
    [change_ring, change_state("UNRESOLVED"), change_state("NO_DEVICE"), change_state("FREE"), to_nobody, to_no_slot],
)
def test_no_backend_no_packet(balanced: Balanced, change: Change):
    service = balanced.service()
    change(balanced, service)
    outcome = balanced.run(tcp())
    assert (outcome.verdict, outcome.action, outcome.data) == ("DROP_NO_BACKEND", XDP_DROP, tcp())
    assert [service.count(number) for number in range(3)] == [(0, 0, 0)] * 3


def test_without_a_lease_the_fib_is_asked_for_the_next_hops_mac(balanced: Balanced):
    """10.0.2.2 has another MAC by now than the adjacency says."""
    hop = Hop("06:00:00:00:00:99", "06:00:00:00:00:98")
    adjacency = balanced.hop(hop, via="10.0.2.2")
    backend = BackendRow("10.0.2.2", LOCAL4, adjacency)
    service = balanced.maps.service(VIP4, "80", "tcp", [backend])
    hash = service.hash_of(CLIENT4, 4000, 80)
    assert balanced.run(tcp()).data == encapsulated(tcp(), backend, hop, hash)
    balanced.pipeline.leased = False
    balanced.pipeline.datapath.drop_lease()
    fresh = replace(hop, destination=LEARNED_HOP.destination)
    assert balanced.run(tcp()).data == encapsulated(tcp(), backend, fresh, hash)


def test_without_a_lease_what_the_fib_does_not_know_stays(balanced: Balanced):
    hop = Hop("06:00:00:00:00:99", "06:00:00:00:00:98")
    backend = BackendRow("10.77.0.1", LOCAL4, balanced.hop(hop, via="10.77.0.1"))
    service = balanced.maps.service(VIP4, "80", "tcp", [backend])
    balanced.pipeline.leased = False
    balanced.pipeline.datapath.drop_lease()
    assert balanced.run(tcp()).data == encapsulated(tcp(), backend, hop, service.hash_of(CLIENT4, 4000, 80))


def test_the_note_says_what_was_decided(balanced: Balanced):
    service = balanced.service()
    hash = service.hash_of(CLIENT4, 4000, 80)
    number = service.number_of(hash)
    note = balanced.note(tcp())
    found = {name: int(note[name]) for name in ("vip", "service", "hash", "slot", "state", "now", "number", "backend")}
    assert found == {
        "vip": 1, "service": service.row, "hash": hash, "slot": service.slot_of(hash), "state": 0, "now": number,
        "number": number, "backend": service.base + number,
    }  # fmt: skip
    assert (int(note["choice"]), int(note["flow"]), int(note["overhead"]), int(note["mtu"])) == (1, 0, 20, 1500)
    assert note["outer_destination"].tobytes()[:4] == bytes([10, 9, 0, number + 1])


def test_the_note_on_another_port_names_the_vip_alone(balanced: Balanced):
    balanced.service()
    note = balanced.note(tcp(dport=81))
    assert (int(note["vip"]), int(note["service"])) == (1, 0)
    assert int(balanced.note(tcp("192.0.2.81"))["vip"]) == 0


def test_services_share_a_vip(balanced: Balanced):
    """More of them than a VIP has rules: those behind are in its pages."""
    services = {port: balanced.service(port=str(port)) for port in (80, 443, 8080, 8443, 9000)}
    for port, service in services.items():
        assert balanced.run(tcp(dport=port)).verdict == "BALANCED"
        assert sum(service.count(number)[0] for number in range(3)) == 1, port
    assert balanced.run(tcp(dport=8081)).verdict == "PASS_NOT_LEARNING"


def test_many_vips_of_one_bucket(balanced: Balanced):
    """Sixteen addresses whose hash is of one bucket: eight lie in the one beside it."""
    wanted, found = 5, []
    for tag in range(1, 1 << 20):
        mixed = np.array([tag << 10 | wanted], np.uint32)
        octets = int(balanced.maps.datapath.unmix4(mixed)[0]).to_bytes(4, "little")
        if 0 < octets[0] < 224 and octets[0] not in (10, 127):
            found.append(".".join(map(str, octets)))
        if len(found) == 16:
            break
    services = {vip: balanced.service(vip) for vip in found}
    for vip, service in services.items():
        assert balanced.run(tcp(vip)).verdict == "BALANCED", vip
        assert sum(service.count(number)[0] for number in range(3)) == 1


def test_a_vip_of_the_same_hash_and_the_other_family(balanced: Balanced):
    service = balanced.service(VIP4)
    other = balanced.maps.vip("2001:db8:80::1")
    buckets = balanced.maps.datapath.maps["vip_buckets"].mmap()["ways"]
    home = balanced.maps.mixed(VIP4) & (len(buckets) - 1)
    ways = buckets[home]
    right = int(ways[0])
    ways[0], ways[1] = right >> 32 << 32 | other, right
    assert balanced.run(tcp()).verdict == "BALANCED"
    assert sum(service.count(number)[0] for number in range(3)) == 1


def mutated(draw: random.Random, packet: bytes) -> bytes:
    changed = bytearray(packet)
    for _ in range(draw.randint(0, 4)):
        changed[draw.randrange(12, len(changed))] = draw.randrange(256)
    if draw.random() < 0.2:
        del changed[draw.randrange(14, len(changed)) :]
    if draw.random() < 0.5 and len(changed) >= 34 and changed[14] >> 4 == 4:
        changed[24:26] = bytes(2)
        changed[24:26] = checksum(bytes(changed[14:34])).to_bytes(2, "big")
    return bytes(changed)


SEEDS = [tcp(), udp(), SYN, tcp(VIP6), udp(VIP6), first_fragment(), later_fragment(), fragment6(0),
         options4(IPOption_NOP()), behind6(IPv6ExtHdrHopByHop()), behind6(IPv6ExtHdrDestOpt()),
         frame(IP(src=CLIENT4, dst=VIP4), ICMP(), b"ping"),
         quoting(VIP4, bytes(IP(src=VIP4, dst=CLIENT4) / TCP(sport=80, dport=4000)), 3)]  # fmt: skip


def is_encapsulation(sent: bytes, left: bytes) -> bool:
    """Whether what left is the packet, one hop less, behind an outer header that scapy finds right."""
    packet = sent[14 : 14 + inner_length(sent)]
    ipv6 = left[12:14] == b"\x86\xdd"
    outer = (IPv6 if ipv6 else IP)(left[14:])
    inner = left[14 + (40 if ipv6 else 20) :]
    if not ipv6:
        rebuilt = IP(bytes(outer))
        del rebuilt.chksum
        if IP(bytes(rebuilt)).chksum != outer.chksum or outer.len != len(left) - 14:
            return False
    at = 7 if ipv6 else 8
    differences = [i for i in range(len(packet)) if packet[i] != inner[i]]
    return len(inner) == len(packet) and inner[at] == packet[at] - 1 and set(differences) <= {at, *({10, 11} - {ipv6})}


@pytest.mark.parametrize("seed", range(4))
def test_mutated_packets_pass_drop_or_are_encapsulated(balanced: Balanced, seed: int):
    """Every outcome is an untouched PASS, a counted drop, an answer, or a correct encapsulation."""
    draw = random.Random(seed)
    balanced.service(echo=True, local=seed % 2 == 0)
    balanced.service(VIP6, protocol="both")
    for _ in range(600):
        sent = mutated(draw, draw.choice(SEEDS))
        outcome = balanced.pipeline.run(sent)
        if outcome.verdict == "BALANCED":
            assert is_encapsulation(sent, outcome.data), sent.hex()
        elif outcome.verdict.startswith("ANSWERED"):
            assert outcome.action == XDP_REDIRECT
        else:
            assert outcome.data == sent
            assert outcome.action == (XDP_DROP if outcome.verdict.startswith("DROP") else XDP_PASS)
