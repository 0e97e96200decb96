"""forward: whose entry decides, what is rewritten, and everything that is left to the kernel. Packet in, packet out."""

import random

import pytest
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting

from bpf.frames import FROM4, ICMP, IP, TCP, UDP, Case, IPv6, checksum, forwarded, frame, ip4, ip6
from bpf.pipeline import LEARNED_HOP, XDP_PASS, XDP_REDIRECT, Pipeline
from bpf.world import EXACT, EXACT6, P16, P24, P26, P48, P64, P127, SMALL, SMALL6


def size4(octets: int, dst: str, **fields) -> bytes:
    """An IPv4 packet of so many octets."""
    return ip4(dst, bytes(octets - 28), **fields)


def size6(octets: int, dst: str, **fields) -> bytes:
    """An IPv6 packet of so many octets."""
    return ip6(dst, bytes(octets - 48), **fields)


def ext6(*headers, dst: str = "2001:db8:f::7") -> bytes:
    """An IPv6 packet with extension headers in front of UDP."""
    return frame(IPv6(src="2001:db8:1::2", dst=dst), *headers, UDP(sport=1, dport=2), b"behind")


ENTRY_CASES = [
    Case("an exact IPv4 entry decides for its address", ip4(), "FORWARDED", EXACT),
    Case("an exact IPv6 entry decides for its address", ip6(), "FORWARDED", EXACT6),
    Case("the longest of three IPv4 prefixes wins", ip4("198.51.100.65"), "FORWARDED", P26),
    Case("just below the longest IPv4 prefix the next one wins", ip4("198.51.100.63"), "FORWARDED", P24),
    Case("the first address of an IPv4 prefix belongs to it", ip4("198.51.100.64"), "FORWARDED", P26),
    Case("the last address of an IPv4 prefix belongs to it", ip4("198.51.100.127"), "FORWARDED", P26),
    Case("just above an IPv4 prefix the shorter one wins", ip4("198.51.100.128"), "FORWARDED", P24),
    Case("the shortest IPv4 prefix takes the rest", ip4("198.51.99.1"), "FORWARDED", P16),
    Case("the longest of three IPv6 prefixes wins", ip6("2001:db8:f::b"), "FORWARDED", P127),
    Case("just above the longest IPv6 prefix the next one wins", ip6("2001:db8:f::c"), "FORWARDED", P64),
    Case("the shortest IPv6 prefix takes the rest", ip6("2001:db8:f:1::7"), "FORWARDED", P48),
    Case("the high half alone tells IPv6 prefixes apart", ip6("2001:db8:f:0:8000::"), "FORWARDED", P64),
    Case("a connected IPv4 host is learned from the FIB", ip4("10.0.2.2"), "FORWARDED", LEARNED_HOP),
    Case("a connected IPv6 host is learned from the FIB", ip6("2001:db8:2::2"), "FORWARDED", LEARNED_HOP),
    Case("an IPv4 destination behind a gateway is learned", ip4("203.0.113.9"), "FORWARDED", LEARNED_HOP),
    Case("an IPv6 destination behind a gateway is learned", ip6("2001:db8:a::9"), "FORWARDED", LEARNED_HOP),
    Case("TCP is forwarded like UDP", frame(IP(src=FROM4, dst="198.51.100.7"), TCP()), "FORWARDED", EXACT),
    Case("ICMP is forwarded", frame(IP(src=FROM4, dst="198.51.100.7"), ICMP(), b"ping"), "FORWARDED", EXACT),
    Case("an unknown protocol is forwarded", ip4(proto=253), "FORWARDED", EXACT),
    Case("a packet of nothing but the IPv4 header is forwarded", frame(IP(src=FROM4, dst="198.51.100.7")),
         "FORWARDED", EXACT),
    Case("a packet of nothing but the IPv6 header is forwarded", frame(IPv6(src="2001:db8:1::2", dst="2001:db8:f::7")),
         "FORWARDED", EXACT6),
    Case("DSCP and ECN are left as they are", ip4(tos=0xB9), "FORWARDED", EXACT),
    Case("traffic class and flow label are left as they are", ip6(tc=0xB9, fl=0xABCDE), "FORWARDED", EXACT6),
    Case("don't fragment and the id are left as they are", ip4(flags="DF", id=0xBEEF), "FORWARDED", EXACT),
    Case("the reserved flag is left as it is", ip4(flags="evil"), "FORWARDED", EXACT),
]  # fmt: skip

TTL_CASES = [
    Case("TTL 0 is the kernel's", ip4(ttl=0), "PASS_TTL"),
    Case("TTL 1 is the kernel's, which owes time exceeded", ip4(ttl=1), "PASS_TTL"),
    Case("TTL 2 leaves as 1", ip4(ttl=2), "FORWARDED", EXACT),
    Case("TTL 255 leaves as 254", ip4(ttl=255), "FORWARDED", EXACT),
    Case("TTL 1 to a learned destination is the kernel's", ip4("10.0.2.2", ttl=1), "PASS_TTL"),
    Case("hop limit 0 is the kernel's", ip6(hlim=0), "PASS_TTL"),
    Case("hop limit 1 is the kernel's, which owes time exceeded", ip6(hlim=1), "PASS_TTL"),
    Case("hop limit 2 leaves as 1", ip6(hlim=2), "FORWARDED", EXACT6),
    Case("hop limit 255 leaves as 254", ip6(hlim=255), "FORWARDED", EXACT6),
    Case("TTL 1 for the host itself is delivered", ip4("10.0.2.1", ttl=1), "PASS_LOCAL"),
    Case("hop limit 1 for the host itself is delivered", ip6("2001:db8:2::1", hlim=1), "PASS_LOCAL"),
]

SIZE_CASES = [
    Case("an IPv4 packet of exactly the MTU is forwarded", size4(1500, "198.51.100.7"), "FORWARDED", EXACT),
    Case("an IPv4 packet one octet over the MTU is the kernel's", size4(1501, "198.51.100.7"), "PASS_TOO_BIG"),
    Case("so it is with don't fragment", size4(1501, "198.51.100.7", flags="DF"), "PASS_TOO_BIG"),
    Case("a smaller MTU is kept: exactly 576", size4(576, "198.51.100.5"), "FORWARDED", SMALL),
    Case("a smaller MTU is kept: 577 is the kernel's", size4(577, "198.51.100.5"), "PASS_TOO_BIG"),
    Case("padding does not count: 576 and 20 octets of padding", size4(576, "198.51.100.5") + bytes(20),
         "FORWARDED", SMALL),
    Case("an IPv6 packet of exactly 1280 is forwarded", size6(1280, "2001:db8:f::5"), "FORWARDED", SMALL6),
    Case("an IPv6 packet of 1281 is the kernel's", size6(1281, "2001:db8:f::5"), "PASS_TOO_BIG"),
    Case("the FIB's own MTU: exactly 1500", size4(1500, "203.0.113.9"), "FORWARDED", LEARNED_HOP),
    Case("the FIB's own MTU: 1501 is the kernel's", size4(1501, "203.0.113.9"), "PASS_TOO_BIG"),
    Case("a route's locked MTU: exactly 1000", size4(1000, "203.0.113.200"), "FORWARDED", LEARNED_HOP),
    Case("a route's locked MTU: 1001 is the kernel's", size4(1001, "203.0.113.200"), "PASS_TOO_BIG"),
    Case("an IPv6 route's locked MTU: exactly 1400", size6(1400, "2001:db8:b::9"), "FORWARDED", LEARNED_HOP),
    Case("an IPv6 route's locked MTU: 1401 is the kernel's", size6(1401, "2001:db8:b::9"), "PASS_TOO_BIG"),
    Case("a TTL that runs out goes before the size", size4(1501, "198.51.100.7", ttl=1), "PASS_TTL"),
    Case("an IPv4 packet in a minimum frame loses its padding", frame(IP(src=FROM4, dst="198.51.100.7"), UDP())
         + bytes(18), "FORWARDED", EXACT),
    Case("one octet of padding goes", ip4() + b"\x55", "FORWARDED", EXACT),
    Case("1000 octets of padding go", ip4() + b"\x55" * 1000, "FORWARDED", EXACT),
    Case("an IPv6 packet loses its padding", ip6() + b"\x55" * 6, "FORWARDED", EXACT6),
    Case("an IPv6 packet without payload loses its padding",
         frame(IPv6(src="2001:db8:1::2", dst="2001:db8:f::7", nh=59)) + bytes(6), "FORWARDED", EXACT6),
    Case("a packet that passes keeps its padding", ip4(ttl=1) + b"\x55" * 9, "PASS_TTL"),
]  # fmt: skip

ADDRESS_CASES = [
    Case("an Ethernet broadcast is the kernel's", frame(IP(src=FROM4, dst="198.51.100.7"), UDP(),
         dst="ff:ff:ff:ff:ff:ff"), "PASS_MULTICAST"),
    Case("an Ethernet multicast is the kernel's", frame(IP(src=FROM4, dst="198.51.100.7"), UDP(),
         dst="01:00:5e:00:00:01"), "PASS_MULTICAST"),
    Case("an IPv6 packet in an Ethernet multicast is the kernel's", frame(
         IPv6(src="2001:db8:1::2", dst="2001:db8:f::7"), UDP(), dst="33:33:00:00:00:01"), "PASS_MULTICAST"),
    Case("a frame for another host is left alone", frame(IP(src=FROM4, dst="198.51.100.7"), UDP(),
         dst="02:00:00:00:01:03"), "PASS_OTHER_HOST"),
    Case("a MAC that differs in its first octet is another host's", frame(IP(src=FROM4, dst="198.51.100.7"), UDP(),
         dst="06:00:00:00:01:01"), "PASS_OTHER_HOST"),
    Case("IPv4 multicast is the kernel's, entry or not", ip4("224.0.0.5", ttl=9), "PASS_MULTICAST"),
    Case("the top of IPv4 multicast", ip4("239.255.255.255"), "PASS_MULTICAST"),
    Case("limited broadcast is the kernel's", ip4("255.255.255.255"), "PASS_MULTICAST"),
    Case("a connected subnet's broadcast is the kernel's", ip4("10.0.2.255"), "PASS_LOCAL"),
    Case("IPv6 multicast is the kernel's, entry or not", ip6("ff02::1"), "PASS_MULTICAST"),
    Case("IPv6 multicast of global scope too", ip6("ff0e::1:2"), "PASS_MULTICAST"),
    Case("the address of the ingress is the host's own", ip4("10.0.1.1"), "PASS_LOCAL"),
    Case("the address of another interface too, whatever the operator entered", ip4("10.0.2.1"), "PASS_LOCAL"),
    Case("an IPv6 address of the host too", ip6("2001:db8:1::1"), "PASS_LOCAL"),
    Case("an IPv6 address of the host with an operator's entry", ip6("2001:db8:2::1"), "PASS_LOCAL"),
    Case("the subnet-router anycast address is the host's", ip6("2001:db8:2::"), "PASS_LOCAL"),
    Case("destination 127.0.0.1 is martian", ip4("127.0.0.1"), "PASS_MARTIAN"),
    Case("destination 127.1.2.3 is martian, entry or not", ip4("127.1.2.3"), "PASS_MARTIAN"),
    Case("destination 0.1.2.3 is martian", ip4("0.1.2.3"), "PASS_MARTIAN"),
    Case("source 127.0.0.1 is martian", ip4(src="127.0.0.1"), "PASS_MARTIAN"),
    Case("source 0.0.0.0 is martian", ip4(src="0.0.0.0"), "PASS_MARTIAN"),
    Case("source 0.255.255.255 is martian", ip4(src="0.255.255.255"), "PASS_MARTIAN"),
    Case("a multicast source is martian", ip4(src="224.0.0.1"), "PASS_MARTIAN"),
    Case("a broadcast source is martian", ip4(src="255.255.255.255"), "PASS_MARTIAN"),
    Case("the ingress's own address as source is martian", ip4(src="10.0.1.1"), "PASS_MARTIAN"),
    Case("the egress's own address as source is martian", ip4(src="10.0.2.1"), "PASS_MARTIAN"),
    Case("source 128.0.0.1 is a host", ip4(src="128.0.0.1"), "FORWARDED", EXACT),
    Case("source 240.0.0.1 is forwarded, as the kernel does", ip4(src="240.0.0.1"), "FORWARDED", EXACT),
    Case("source 223.255.255.255 is forwarded", ip4(src="223.255.255.255"), "FORWARDED", EXACT),
    Case("a multicast IPv6 source is martian", ip6(src="ff02::1"), "PASS_MARTIAN"),
    Case("the unspecified IPv6 source is martian", ip6(src="::"), "PASS_MARTIAN"),
    Case("source ::1 is martian", ip6(src="::1"), "PASS_MARTIAN"),
    Case("destination ::1 is martian", ip6("::1"), "PASS_MARTIAN"),
    Case("destination :: is martian", ip6("::"), "PASS_MARTIAN"),
    Case("a link-local source is the kernel's", ip6(src="fe80::1"), "PASS_MARTIAN"),
    Case("the top of the link-local sources", ip6(src="febf::1"), "PASS_MARTIAN"),
    Case("a link-local destination is the kernel's", ip6("fe80::1"), "PASS_MARTIAN"),
    Case("source fec0::1 is a host", ip6(src="fec0::1"), "FORWARDED", EXACT6),
    Case("source fe7f::1 is a host", ip6(src="fe7f::1"), "FORWARDED", EXACT6),
    Case("source ::2 is a host", ip6(src="::2"), "FORWARDED", EXACT6),
    Case("an IPv4-mapped source is forwarded, as the kernel does", ip6(src="::ffff:10.0.1.2"), "FORWARDED", EXACT6),
    Case("an own IPv6 address as source is forwarded, as the kernel does", ip6(src="2001:db8:2::1"),
         "FORWARDED", EXACT6),
]  # fmt: skip

HEADER_CASES = [
    Case("IPv4 options are the kernel's", ip4(options=b"\x01\x01\x01\x01"), "PASS_OPTIONS"),
    Case("40 octets of IPv4 options are the kernel's", ip4(options=b"\x01" * 40), "PASS_OPTIONS"),
    Case("IPv4 options with a wrong checksum are the kernel's too", ip4(options=b"\x01" * 4, chksum=1),
         "PASS_OPTIONS"),
    Case("a hop-by-hop header is the kernel's", ext6(IPv6ExtHdrHopByHop()), "PASS_OPTIONS"),
    Case("a routing header is the destination's affair", ext6(IPv6ExtHdrRouting(addresses=["2001:db8::5"])),
         "FORWARDED", EXACT6),
    Case("destination options are the destination's affair", ext6(IPv6ExtHdrDestOpt()), "FORWARDED", EXACT6),
    Case("a first IPv6 fragment is forwarded", ext6(IPv6ExtHdrFragment(m=1, id=7)), "FORWARDED", EXACT6),
    Case("a later IPv6 fragment is forwarded", ext6(IPv6ExtHdrFragment(offset=100, id=7)), "FORWARDED", EXACT6),
    Case("a hop-by-hop header behind another is not a router's", ext6(IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop()),
         "FORWARDED", EXACT6),
    Case("no next header is forwarded", frame(IPv6(src="2001:db8:1::2", dst="2001:db8:f::7", nh=59)),
         "FORWARDED", EXACT6),
    Case("a first IPv4 fragment is forwarded", ip4(flags="MF"), "FORWARDED", EXACT),
    Case("a later IPv4 fragment is forwarded", ip4(frag=185), "FORWARDED", EXACT),
    Case("the last possible IPv4 fragment is forwarded", ip4(frag=8190), "FORWARDED", EXACT),
]  # fmt: skip


def _forwarding_off(pipeline: Pipeline) -> None:
    pipeline.sh("echo 0 > /proc/sys/net/ipv4/conf/in0/forwarding; echo 0 > /proc/sys/net/ipv6/conf/in0/forwarding")


def _no_lease(pipeline: Pipeline) -> None:
    pipeline.leased = False
    pipeline.datapath.drop_lease()


def _learning_off(pipeline: Pipeline) -> None:
    pipeline.learn(False)


STATE_CASES = [
    Case("an unresolved IPv4 next hop is the kernel's", ip4("198.51.100.201"), "PASS_NO_NEIGHBOUR"),
    Case("an unresolved IPv6 next hop is the kernel's", ip6("2001:db8:f::c9"), "PASS_NO_NEIGHBOUR"),
    Case("a next hop without device passes", ip4("198.51.100.202"), "PASS_NO_EGRESS"),
    Case("an IPv6 next hop without device passes", ip6("2001:db8:f::ca"), "PASS_NO_EGRESS"),
    Case("a retiring next hop passes", ip4("198.51.100.203"), "PASS_NO_EGRESS"),
    Case("a next hop on a slot without device passes untouched", ip4("198.51.100.204"), "PASS_NO_EGRESS"),
    Case("a route to a device that takes no redirect passes untouched", ip4("192.0.2.21"), "PASS_NO_EGRESS"),
    Case("an IPv6 route to a device that takes no redirect", ip6("2001:db8:e::7"), "PASS_NO_EGRESS"),
    Case("a neighbour that is not known yet is the kernel's to find", ip4("10.0.2.77"), "PASS_NO_NEIGHBOUR"),
    Case("an IPv6 neighbour that is not known yet", ip6("2001:db8:2::77"), "PASS_NO_NEIGHBOUR"),
    Case("no IPv4 route", ip4("100.64.0.1"), "PASS_NO_ROUTE"),
    Case("no IPv6 route", ip6("2001:db8:ff::1"), "PASS_NO_ROUTE"),
    Case("an unreachable route", ip4("192.0.2.1"), "PASS_NO_ROUTE"),
    Case("a blackhole route", ip4("192.0.2.5"), "PASS_NO_ROUTE"),
    Case("a prohibit route", ip4("192.0.2.9"), "PASS_NO_ROUTE"),
    Case("an unreachable IPv6 route", ip6("2001:db8:c::1"), "PASS_NO_ROUTE"),
    Case("a route with an IPIP encapsulation", ip4("192.0.2.17"), "PASS_ENCAPSULATED_ROUTE"),
    Case("a route with a segment routing header", ip6("2001:db8:d::1"), "PASS_ENCAPSULATED_ROUTE"),
    Case("learned and back out where it came from: the kernel may owe a redirect", ip4("10.0.1.2", src="10.0.2.2"),
         "PASS_HAIRPIN"),
    Case("an IPv6 hairpin", ip6("2001:db8:1::2", src="2001:db8:2::2"), "PASS_HAIRPIN"),
    Case("learning off, no entry", ip4("10.0.2.2"), "PASS_NOT_LEARNING", None, _learning_off),
    Case("learning off, no IPv6 entry", ip6("2001:db8:2::2"), "PASS_NOT_LEARNING", None, _learning_off),
    Case("learning off, an operator's entry still forwards", ip4(), "FORWARDED", EXACT, _learning_off),
    Case("learning IPv4 only: IPv6 is not learned", ip6("2001:db8:2::2"), "PASS_NOT_LEARNING", None,
         lambda p: p.learn(ipv4=True, ipv6=False)),
    Case("learning IPv6 only: IPv4 is not learned", ip4("10.0.2.2"), "PASS_NOT_LEARNING", None,
         lambda p: p.learn(ipv4=False, ipv6=True)),
    Case("learning IPv6 only: IPv6 is learned", ip6("2001:db8:2::2"), "FORWARDED", LEARNED_HOP,
         lambda p: p.learn(ipv4=False, ipv6=True)),
    Case("the lease has run out: nothing is learned", ip4("10.0.2.2"), "PASS_NO_LEASE", None, _no_lease),
    Case("the lease has run out: nothing is learned of IPv6", ip6("2001:db8:2::2"), "PASS_NO_LEASE", None, _no_lease),
    Case("the lease has run out: an exact entry still forwards", ip4(), "FORWARDED", EXACT, _no_lease),
    Case("the lease has run out: a prefix still forwards", ip6("2001:db8:f:1::7"), "FORWARDED", P48, _no_lease),
    Case("forwarding off on the ingress", ip4("10.0.2.2"), "PASS_FORWARDING_OFF", None, _forwarding_off),
    Case("IPv6 forwarding off on the ingress", ip6("2001:db8:2::2"), "PASS_FORWARDING_OFF", None, _forwarding_off),
    Case("forwarding off, an operator's entry still forwards", ip4(), "FORWARDED", EXACT, _forwarding_off),
]  # fmt: skip

CASES = [*ENTRY_CASES, *TTL_CASES, *SIZE_CASES, *ADDRESS_CASES, *HEADER_CASES, *STATE_CASES]


@pytest.fixture
def prepared(world: Pipeline, request):
    """The world as a case wants it, and forwarding on again afterwards."""
    case: Case = request.param
    try:
        if case.prepare:
            case.prepare(world)
        yield world, case
    finally:
        if case.prepare is _forwarding_off:
            world.sh("for f in 4 6; do echo 1 > /proc/sys/net/ipv$f/conf/in0/forwarding; done")


@pytest.mark.parametrize("prepared", CASES, ids=str, indirect=True)
def test_packet(prepared):
    """The verdict, counted once, the action and every octet; then the same from cache, and from the dry run."""
    world, case = prepared
    action = XDP_REDIRECT if case.verdict == "FORWARDED" else XDP_PASS
    before = world.datapath.maps["next_hop_count"].sums()
    for state in ("at first", "again"):
        recorded, _ = world.trace(case.packet)
        assert (recorded.verdict, recorded.action, recorded.data.hex()) == (case.verdict, action, case.out.hex()), state
        outcome = world.run(case.packet)
        assert (outcome.verdict, outcome.action, outcome.data.hex()) == (case.verdict, action, case.out.hex()), state
    after = world.datapath.maps["next_hop_count"].sums()
    packets = 2 if case.verdict == "FORWARDED" else 0
    assert int((after["packets"] - before["packets"]).sum()) == packets
    assert int((after["bytes"] - before["bytes"]).sum()) == packets * len(case.packet)


# the checksum


def with_checksum(wanted: int, dst: str = "10.0.2.2") -> bytes:
    """An IPv4 packet whose right checksum is `wanted`: the id makes up for it."""
    base = bytearray(ip4(dst, b"sum" + wanted.to_bytes(2, "big"), id=0))
    base[24:26] = bytes(2)
    there = checksum_of(base)
    # one's complement: the id that takes the sum from `there` to `wanted`
    identity = (there - wanted) % 0xFFFF
    base[18:20] = identity.to_bytes(2, "big")
    base[24:26] = wanted.to_bytes(2, "big")
    return bytes(base)


def checksum_of(sent: bytearray) -> int:
    return checksum(bytes(sent[14:24] + bytes(2) + sent[26:34]))


CARRIES = [0xFEFF, 0xFEFE, 0xFF00, 0xFFFF, 0xFFFE, 0x0000, 0x0001, 0x00FF, 0x0100, 0xFE00, 0xFF01, 0x7FFF, 0x8000]


@pytest.mark.parametrize("wanted", CARRIES, ids=hex)
def test_the_checksum_carries_as_a_recomputation_and_as_the_kernel(world, wanted):
    sent = with_checksum(wanted)
    outcome = world.run(sent)
    assert outcome.verdict == "FORWARDED"
    assert outcome.data.hex() == forwarded(sent, LEARNED_HOP).hex()
    assert world.by_kernel([sent], b"sum" + wanted.to_bytes(2, "big")) == [outcome.data]


def test_the_checksum_is_right_for_thousands_of_headers(world):
    random.seed(1141)
    with world.inside():
        for wanted in random.sample(range(0x10000), 4000):
            sent = bytes(with_checksum(wanted, "198.51.100.7"))
            assert world.quick(sent).hex() == forwarded(sent, EXACT).hex(), hex(wanted)


@pytest.mark.parametrize("bit", range(160))
def test_one_wrong_bit_in_the_header_is_never_forwarded(world, bit):
    sent = bytearray(ip4())
    sent[14 + bit // 8] ^= 1 << bit % 8
    outcome = world.run(bytes(sent))
    assert outcome.data == bytes(sent)
    assert outcome.verdict in ("PASS_MALFORMED", "PASS_OPTIONS")
