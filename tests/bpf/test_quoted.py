"""quoted: the flow that an ICMP error is about, out of eight octets of L4, behind options and extensions."""

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)

from bpf.answers import Flow, answers
from bpf.frames import IPv6, frame

VIP4, VIP6 = "198.51.100.33", "2001:db8:f::33"
CLIENT4, CLIENT6 = "203.0.113.9", "2001:db8:c::9"
ROUTER4, ROUTER6 = "203.0.113.254", "2001:db8:c::ffff"
OUTER6 = IPv6(src=ROUTER6, dst=VIP6)
PAD = PadN(optdata=bytes(4))
TOO_BIG = ICMP(type=3, code=4, nexthopmtu=1400)

SEGMENT = TCP(sport=80, dport=40000, flags="A", seq=5, ack=6)
DATAGRAM = UDP(sport=443, dport=50000)
OPTIONS = [IPOption(b"\x83\x07\x04\x01\x02\x03\x04"), IPOption(b"\x01")]
LONGEST = [IPOption(b"\x83\x27" + bytes(37)), IPOption(b"\x01")]
TCP4, TCP6 = Flow(CLIENT4, 40000, 80, 6), Flow(CLIENT6, 40000, 80, 6)
UDP4, UDP6 = Flow(CLIENT4, 50000, 443, 17), Flow(CLIENT6, 50000, 443, 17)


def of4(quote: bytes, error=TOO_BIG, **fields) -> bytes:
    """An error of a router to the VIP about this packet."""
    return frame(IP(**{"src": ROUTER4, "dst": VIP4, "ttl": 50, **fields}), error, quote)


def of6(quote: bytes, error=None, **fields) -> bytes:
    error = ICMPv6PacketTooBig(mtu=1400) if error is None else error
    return frame(IPv6(**{"src": ROUTER6, "dst": VIP6, "hlim": 50, **fields}), error, quote)


def sent4(*layers, **fields) -> bytes:
    """A packet that a backend sent in the VIP's name."""
    packet = IP(**{"src": VIP4, "dst": CLIENT4, "flags": "DF", **fields})
    for layer in layers:
        packet = packet / layer
    return bytes(packet)


def sent6(*layers, **fields) -> bytes:
    packet = IPv6(**{"src": VIP6, "dst": CLIENT6, **fields})
    for layer in layers:
        packet = packet / layer
    return bytes(packet)


FOUND = {
    "fragmentation needed": (of4(sent4(SEGMENT, b"x" * 400)), TCP4),
    "port unreachable": (of4(sent4(DATAGRAM, b"x" * 400), ICMP(type=3, code=3)), UDP4),
    "host unreachable": (of4(sent4(SEGMENT), ICMP(type=3, code=1)), TCP4),
    "time exceeded": (of4(sent4(SEGMENT), ICMP(type=11)), TCP4),
    "parameter problem": (of4(sent4(SEGMENT), ICMP(type=12)), TCP4),
    "eight octets of TCP": (of4(sent4(SEGMENT, b"x" * 1400)[:28]), TCP4),
    "eight octets of UDP": (of4(sent4(DATAGRAM, b"x" * 1400)[:28]), UDP4),
    "the ports alone": (of4(sent4(SEGMENT)[:24]), TCP4),
    "options in the quoted header": (of4(sent4(SEGMENT, options=OPTIONS)[:36]), TCP4),
    "options in the outer header": (of4(sent4(SEGMENT), options=OPTIONS), TCP4),
    "the longest header there is": (of4(sent4(SEGMENT, options=LONGEST)[:68]), TCP4),
    "its first fragment": (of4(sent4(SEGMENT, b"x" * 64, flags="MF")), TCP4),
    "its TTL and checksum are those of the way there": (of4(sent4(SEGMENT, ttl=1, chksum=0x1234)), TCP4),
    "padding behind the error": (of4(sent4(SEGMENT)[:28]) + bytes(4), TCP4),
    "too big of IPv6": (of6(sent6(SEGMENT, b"x" * 1100)), TCP6),
    "unreachable of IPv6": (of6(sent6(DATAGRAM), ICMPv6DestUnreach(code=4)), UDP6),
    "time exceeded of IPv6": (of6(sent6(SEGMENT), ICMPv6TimeExceeded()), TCP6),
    "parameter problem of IPv6": (of6(sent6(SEGMENT), ICMPv6ParamProblem()), TCP6),
    "eight octets of TCP over IPv6": (of6(sent6(SEGMENT, b"x" * 1400)[:48]), TCP6),
    "destination options in what is quoted": (of6(sent6(IPv6ExtHdrDestOpt(options=[PAD]), SEGMENT)[:56]), TCP6),
    "hop-by-hop and destination options": (
        of6(sent6(IPv6ExtHdrHopByHop(options=[PAD]), IPv6ExtHdrDestOpt(options=[PAD]), DATAGRAM)), UDP6),
    "its first fragment of IPv6": (of6(sent6(IPv6ExtHdrFragment(m=1, id=9), SEGMENT)), TCP6),
    "an extension header outside": (
        frame(OUTER6, IPv6ExtHdrDestOpt(options=[PAD]), ICMPv6PacketTooBig(), sent6(SEGMENT)), TCP6),
    "a full frame": (of6(sent6(SEGMENT, b"x" * 1192)), TCP6),
}  # fmt: skip

NOT_FOUND = {
    "an echo request": frame(IP(src=ROUTER4, dst=VIP4), ICMP(), sent4(SEGMENT)),
    "source quench, which nobody heeds": of4(sent4(SEGMENT), ICMP(type=4)),
    "redirect": of4(sent4(SEGMENT), ICMP(type=5)),
    "a TCP segment to the VIP": frame(IP(src=ROUTER4, dst=VIP4), SEGMENT, sent4(SEGMENT)),
    "what somebody else sent": of4(sent4(SEGMENT, src="198.51.100.34")),
    "what was sent to the VIP": of4(sent4(SEGMENT, src=CLIENT4, dst=VIP4)),
    "a later fragment": of4(sent4(SEGMENT, frag=5)),
    "ICMP in it": of4(sent4(ICMP())),
    "SCTP in it": of4(sent4(bytes(12), proto=132)),
    "two octets of the ports": of4(sent4(SEGMENT)[:22]),
    "ports that are padding": of4(sent4(SEGMENT)[:20]) + bytes(26),
    "half an IPv4 header": of4(sent4(SEGMENT)[:16]),
    "nothing quoted": of4(b""),
    "a header length of four words": of4(sent4(SEGMENT, ihl=4)),
    "a header that is longer than the quote": of4(sent4(SEGMENT, ihl=15)[:40]),
    "IPv6 in an error of IPv4": of4(sent6(SEGMENT)),
    "the first fragment of the error itself": of4(sent4(SEGMENT), flags="MF"),
    "a later fragment of the error itself": of4(sent4(SEGMENT), frag=3),
    "an echo request of IPv6": of6(sent6(SEGMENT), ICMPv6EchoRequest()),
    "an unknown error of IPv6": frame(IPv6(src=ROUTER6, dst=VIP6, nh=58), b"\x05" + bytes(7), sent6(SEGMENT)),
    "type 0 of IPv6": frame(IPv6(src=ROUTER6, dst=VIP6, nh=58), bytes(8), sent6(SEGMENT)),
    "what somebody else sent over IPv6": of6(sent6(SEGMENT, src="2001:db8:f::34")),
    "an address of IPv6 that differs in its upper half": of6(sent6(SEGMENT, src="2001:db9:f::33")),
    "a later fragment of IPv6": of6(sent6(IPv6ExtHdrFragment(offset=5), SEGMENT)),
    "ICMPv6 in it": of6(sent6(ICMPv6EchoRequest())),
    "an extension header cut off": of6(sent6(IPv6ExtHdrDestOpt(options=[PAD]), SEGMENT)[:42]),
    "IPv4 in an error of IPv6": of6(sent4(SEGMENT, b"x" * 60)),
    "half an IPv6 header": of6(sent6(SEGMENT)[:39]),
    "a fragment of the error of IPv6": frame(
        IPv6(src=ROUTER6, dst=VIP6), IPv6ExtHdrFragment(m=1), ICMPv6PacketTooBig(), sent6(SEGMENT)),
    "ICMPv6 in IPv4": of4(sent4(SEGMENT), b"\x01" + bytes(7), proto=58),
    "ICMP in IPv6": frame(IPv6(src=ROUTER6, dst=VIP6, nh=1), b"\x03\x04" + bytes(6), sent6(SEGMENT)),
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded():
    with answers() as made:
        yield made


@pytest.mark.parametrize("sentence", FOUND)
def test_the_flow_that_an_error_is_about(loaded, sentence):
    packet, flow = FOUND[sentence]
    assert loaded.quoted(packet) == flow


@pytest.mark.parametrize("sentence", NOT_FOUND)
def test_what_tells_of_no_flow(loaded, sentence):
    assert loaded.quoted(NOT_FOUND[sentence]) is None


def test_cut_anywhere_it_finds_the_flow_or_nothing(loaded):
    """However much of the quote is there: with the ports it is the flow, without them nothing."""
    for make, sent, flow, ports in (
        (of4, sent4(SEGMENT, b"x" * 40, options=OPTIONS), TCP4, 28 + 4),
        (of6, sent6(IPv6ExtHdrDestOpt(options=[PAD]), SEGMENT, b"x" * 40), TCP6, 48 + 4),
    ):
        for octets in range(len(sent)):
            assert loaded.quoted(make(sent[:octets])) == (flow if octets >= ports else None), octets


def test_damaged_quotes_are_never_another_service_s(loaded):
    """Random octets of the quoted header changed: what is found has the VIP as its sender, and ports that are there."""
    random.seed(792)
    for number in range(4000):
        make, sent, at = random.choice(((of4, sent4(SEGMENT), 20), (of6, sent6(SEGMENT), 40)))
        quote = bytearray(sent)
        for _ in range(random.randrange(1, 4)):
            quote[random.randrange(at + 4)] = random.randrange(256)
        packet = make(bytes(quote))
        found = loaded.quoted(packet)
        sender = slice(12, 16) if at == 20 else slice(8, 24)
        if quote[sender] != sent[sender]:
            assert found is None, number
        if found is not None:
            assert found.protocol in (6, 17)
