"""decap: what is encapsulated for us by who may, loses its outer header; all else is dropped, counted, or untouched."""

import itertools
import random
import socket
import struct
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IPOption
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, PadN

from bpf.frames import ICMP, IP, TCP, UDP, IPv6, frame, ip4, ip6
from bpf.pipeline import IN_MAC, XDP_PASS, Pipeline
from bpf.tunnels import (
    CLIENT4,
    CLIENT6,
    FRONT4,
    FRONT6,
    GUE,
    GUE_PORT,
    IPIP,
    LOCAL4,
    LOCAL6,
    VIP4,
    VIP6,
    accept,
    close_all,
    decapsulated,
    inner4,
    inner6,
    open_ports,
    outer,
    overhead_of,
    switched,
)
from hopline.kernel import XdpLink, netns
from lab.net import send_frames

XDP_DROP = 1
ROW4, ROW6, ROW_GUE4, ROW_GUE6, ROW_ANY = 1, 2, 3, 4, 5
OTHER4, ANY4 = "10.0.1.77", "10.0.2.1"


@pytest.fixture(scope="module")
def _opened(_pipeline: Pipeline):
    with switched(_pipeline) as opened:
        yield opened


@pytest.fixture
def tunnels(pipeline: Pipeline, _opened: Pipeline):
    """IPIP for LOCAL from FRONT4/28 and FRONT6, GUE for LOCAL from FRONT alone, anybody's IPIP for ANY4."""
    accept(pipeline, LOCAL4, "192.0.2.0/28", ROW4)
    accept(pipeline, LOCAL6, FRONT6, ROW6)
    accept(pipeline, LOCAL4, FRONT4, ROW_GUE4, GUE)
    accept(pipeline, LOCAL6, FRONT6, ROW_GUE6, GUE)
    accept(pipeline, ANY4, "0.0.0.0/0", ROW_ANY)
    open_ports(pipeline, 4444, GUE_PORT)
    _opened.recount()
    _opened.ring.drain()
    yield _opened
    close_all(pipeline)


@dataclass(frozen=True)
class Row:
    """What it shows, the frame, the verdict, and the row that counts it where it is decapsulated."""

    sentence: str
    packet: bytes
    verdict: str = "DECAPSULATED"
    row: int = 0

    @property
    def out(self) -> bytes:
        return decapsulated(self.packet) if self.verdict == "DECAPSULATED" else self.packet

    @property
    def action(self) -> int:
        return XDP_DROP if self.verdict.startswith("DROP") else XDP_PASS

    def __str__(self) -> str:
        return self.sentence


def broken4(**fields) -> bytes:
    """An inner IPv4 packet with fields that are wrong, its checksum as they are."""
    return bytes(inner4(**fields))


def checksummed(octets: bytes, wrong: int = 1) -> bytes:
    """An inner IPv4 packet whose checksum is off by `wrong`."""
    return octets[:11] + bytes([(octets[11] + wrong) & 0xFF]) + octets[12:]


def gue_of(length: int, octets: bytes, family: int = 4) -> bytes:
    """GUE whose UDP header says `length`."""
    sent = bytearray(outer(octets, family, gue=True))
    at = 14 + (20 if family == 4 else 40) + 4
    sent[at : at + 2] = struct.pack("!H", length)
    return bytes(sent)


PLAIN = [
    Row("IPv4 in IPv4", outer(inner4(), 4), row=ROW4),
    Row("IPv6 in IPv4", outer(inner6(), 4), row=ROW4),
    Row("IPv4 in IPv6", outer(inner4(), 6), row=ROW6),
    Row("IPv6 in IPv6", outer(inner6(), 6), row=ROW6),
    Row("IPv4 in GUE over IPv4", outer(inner4(), 4, gue=True), row=ROW_GUE4),
    Row("IPv6 in GUE over IPv4", outer(inner6(), 4, gue=True), row=ROW_GUE4),
    Row("IPv4 in GUE over IPv6", outer(inner4(), 6, gue=True), row=ROW_GUE6),
    Row("IPv6 in GUE over IPv6", outer(inner6(), 6, gue=True), row=ROW_GUE6),
    Row("GUE on another port of ours", outer(inner4(), 4, gue=True, port=4444), row=ROW_GUE4),
    Row("the first address of the prefix is accepted", outer(inner4(), 4, src="192.0.2.0"), row=ROW4),
    Row("the last address of the prefix is accepted", outer(inner4(), 4, src="192.0.2.15"), row=ROW4),
    Row("anybody is accepted where it is said so", outer(inner4(), 4, src="8.8.8.8", dst=ANY4), row=ROW_ANY),
    Row("an inner UDP packet", outer(inner4(l4=UDP(sport=5, dport=53)), 4), row=ROW4),
    Row("an inner ICMP packet", outer(inner4(l4=ICMP()), 4), row=ROW4),
    Row("an inner packet with IPv4 options", outer(inner4(options=[IPOption(b"\x83\x03\x10")]), 4), row=ROW4),
    Row("an inner IPv4 header alone", outer(bytes(IP(src="1.2.3.4", dst="5.6.7.8", proto=253)), 4), row=ROW4),
    Row("an inner IPv6 header alone", outer(bytes(IPv6(src="::2", dst="::3", nh=59)), 4), row=ROW4),
    Row("an inner fragment", outer(inner4(flags="MF", frag=0), 4), row=ROW4),
    Row("an inner packet with an extension header",
        outer(bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
                    / TCP()), 6), row=ROW6),
    Row("an inner TTL of 1 is the stack's to judge", outer(inner4(ttl=1), 4), row=ROW4),
    Row("an outer TTL of 1: it has arrived", outer(inner4(), 4, ttl=1), row=ROW4),
    Row("an outer flow label", outer(inner4(), 6, fl=0xABCDE), row=ROW6),
    Row("padding behind a short packet stays for the kernel to cut",
        outer(bytes(IP(src="1.2.3.4", dst="5.6.7.8", proto=253)), 4) + bytes(6), row=ROW4),
    Row("an outer packet longer than the inner", outer(bytes(inner4()) + b"behind it", 4), row=ROW4),
    Row("a UDP packet longer than the inner", outer(bytes(inner4()) + b"behind it", 4, gue=True), row=ROW_GUE4),
    Row("a full frame", outer(inner4(b"x" * 1440), 4), row=ROW4),
    Row("a jumbo frame", outer(inner4(b"x" * 8900), 4), row=ROW4),
    Row("a frame in several buffers", outer(inner6(b"x" * 20000), 6), row=ROW6),
    Row("GUE in several buffers", outer(inner4(b"x" * 20000), 4, gue=True), row=ROW_GUE4),
    Row("a UDP checksum is not looked at",
        frame(IP(src=FRONT4, dst=LOCAL4), UDP(sport=1, dport=GUE_PORT, chksum=0x1234), bytes(inner4())), row=ROW_GUE4),
]  # fmt: skip

REFUSED = [
    Row("IPIP by a source that is not accepted", outer(inner4(), 4, src="192.0.2.16"), "DROP_NOT_ACCEPTED"),
    Row("IPIP over IPv6 by a source that is not accepted", outer(inner4(), 6, src="2001:db8:5::11"),
        "DROP_NOT_ACCEPTED"),
    Row("GUE by a source whose IPIP alone is accepted", outer(inner4(), 4, gue=True, src="192.0.2.11"),
        "DROP_NOT_ACCEPTED"),
    Row("a source that is not accepted is not told what is wrong inside", outer(b"\x45", 4, src="8.8.8.8"),
        "DROP_NOT_ACCEPTED"),
    Row("nothing inside", outer(b"", 4, proto=4), "DROP_MALFORMED"),
    Row("nothing inside GUE", outer(b"", 4, gue=True), "DROP_MALFORMED"),
    Row("half an IPv4 header inside", outer(bytes(inner4())[:12], 4), "DROP_MALFORMED"),
    Row("an IPv4 header inside but for an octet", outer(bytes(inner4())[:19], 4), "DROP_MALFORMED"),
    Row("an IPv6 header inside but for an octet", outer(bytes(inner6())[:39], 4), "DROP_MALFORMED"),
    Row("half an IPv4 header and padding", outer(bytes(inner4())[:12], 4) + bytes(20), "DROP_MALFORMED"),
    Row("the inner packet is longer than the outer says", outer(broken4(len=55), 4), "DROP_MALFORMED"),
    Row("the inner packet ends in the padding", outer(broken4(len=60), 4) + bytes(10), "DROP_MALFORMED"),
    Row("the inner length is less than a header", outer(broken4(len=19), 4), "DROP_MALFORMED"),
    Row("the inner header is longer than the packet", outer(broken4(ihl=15, len=40), 4), "DROP_MALFORMED"),
    Row("the inner header is shorter than a header", outer(broken4(ihl=4), 4), "DROP_MALFORMED"),
    Row("a wrong inner checksum", outer(checksummed(bytes(inner4())), 4), "DROP_MALFORMED"),
    Row("an inner IPv6 packet that is longer than the outer", outer(bytes(inner6(plen=35)), 6), "DROP_MALFORMED"),
    Row("IPv6 where the protocol says IPv4", outer(inner6(), 4, proto=4), "DROP_MALFORMED"),
    Row("IPv4 where the protocol says IPv6", outer(inner4(), 4, proto=41), "DROP_MALFORMED"),
    Row("GUE variant 0", outer(b"\x00\x04\x00\x00" + bytes(inner4()), 4, gue=True), "DROP_MALFORMED"),
    Row("GUE of another version within variant 1", outer(b"\x55" + bytes(inner4())[1:], 4, gue=True),
        "DROP_MALFORMED"),
    Row("a UDP length of less than its header", gue_of(7, bytes(inner4())), "DROP_MALFORMED"),
    Row("a UDP length of more than the packet", gue_of(63, bytes(inner4())), "DROP_MALFORMED"),
    Row("a UDP length that cuts the inner packet", gue_of(61, bytes(inner4())), "DROP_MALFORMED"),
]  # fmt: skip

NOT_OURS = [
    Row("IPIP for an address that nothing is decapsulated for", outer(inner4(), 4, dst="10.0.1.255"), "PASS_LOCAL"),
    Row("IPIP for a host behind us", outer(inner4(), 4, dst="10.0.2.2"), "PASS_NOT_LEARNING"),
    Row("GUE for an address that takes IPIP alone", outer(inner4(), 4, gue=True, dst=ANY4), "PASS_LOCAL"),
    Row("UDP to another port", outer(inner4(), 4, gue=True, port=6081), "PASS_LOCAL"),
    Row("UDP to port 0, which says that there is none", outer(inner4(), 4, gue=True, port=0), "PASS_LOCAL"),
    Row("a UDP header cut off", outer(b"\x17\xc0", 4, proto=17), "PASS_LOCAL"),
    Row("GRE", outer(inner4(), 4, proto=47), "PASS_LOCAL"),
    Row("TCP", frame(IP(src=FRONT4, dst=LOCAL4), TCP(dport=GUE_PORT)), "PASS_LOCAL"),
    Row("UDP over IPv6 to another port", outer(inner4(), 6, gue=True, port=6081), "PASS_LOCAL"),
    Row("an outer packet with options", outer(inner4(), 4, options=[IPOption(b"\x83\x03\x10")]), "PASS_OPTIONS"),
    Row("the first fragment of an outer packet", outer(inner4(b"x" * 40), 4, flags="MF"), "PASS_LOCAL"),
    Row("a later fragment of an outer packet", outer(inner4(), 4, flags="", frag=5), "PASS_LOCAL"),
    Row("an outer extension header",
        frame(IPv6(src=FRONT6, dst=LOCAL6), IPv6ExtHdrDestOpt(nh=4, options=[PadN(optdata=bytes(4))]),
              bytes(inner4())), "PASS_LOCAL"),
    Row("an outer IPv6 fragment",
        frame(IPv6(src=FRONT6, dst=LOCAL6), IPv6ExtHdrFragment(nh=4, m=1), bytes(inner4())), "PASS_LOCAL"),
    Row("a wrong outer checksum", outer(inner4(), 4, chksum=1), "PASS_MALFORMED"),
    Row("a frame to another MAC",
        frame(IP(src=FRONT4, dst=LOCAL4, proto=4), bytes(inner4()), dst="02:00:00:00:0e:0e"), "PASS_OTHER_HOST"),
    Row("a broadcast frame",
        frame(IP(src=FRONT4, dst=LOCAL4, proto=4), bytes(inner4()), dst="ff:ff:ff:ff:ff:ff"), "PASS_MULTICAST"),
    Row("plain IPv4", ip4(), "PASS_NOT_LEARNING"),
    Row("plain IPv6", ip6(), "PASS_NOT_LEARNING"),
]  # fmt: skip


def marked(inner_family: int, outer_family: int, inner_ecn: int, outer_ecn: int) -> Row:
    inner = inner4(tos=0xB8 | inner_ecn) if inner_family == 4 else inner6(tc=0xB8 | inner_ecn)
    field = {"tos" if outer_family == 4 else "tc": 0x28 | outer_ecn}
    names = {0: "not capable", 1: "ECT(1)", 2: "ECT(0)", 3: "congestion"}
    sentence = f"ECN of IPv{inner_family} in IPv{outer_family}: {names[inner_ecn]} in {names[outer_ecn]}"
    return Row(sentence, outer(inner, outer_family, **field), row=ROW4 if outer_family == 4 else ROW6)


MARKS = [marked(*way) for way in itertools.product((4, 6), (4, 6), range(4), range(4))]
ROWS = [*PLAIN, *REFUSED, *NOT_OURS, *MARKS]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_packet(tunnels, row):
    """The verdict, counted once, the action, every octet, the row's counter; and the dry run counts nothing."""
    counters = tunnels.datapath.maps["decap_count"]
    before = counters.sums()
    recorded, _ = tunnels.trace(row.packet)
    assert (recorded.verdict, recorded.action, recorded.data.hex()) == (row.verdict, row.action, row.out.hex())
    assert (counters.sums() == before).all()
    outcome = tunnels.run(row.packet)
    assert (outcome.verdict, outcome.action, outcome.data.hex()) == (row.verdict, row.action, row.out.hex())
    after = counters.sums()
    changed = (after["packets"] != before["packets"]).nonzero()[0]
    moved = {n: tuple(int(after[name][n] - before[name][n]) for name in ("packets", "bytes")) for n in changed}
    assert moved == ({row.row: (1, len(row.packet))} if row.verdict == "DECAPSULATED" else {})


def test_what_ecn_comes_to_is_the_table_of_rfc_6040():
    """Figure 4 of RFC 6040 section 4.2, by hand: rows the inner field, columns the outer; but for the dropped one."""
    not_capable, ect1, ect0, congestion = 0, 1, 2, 3
    table = {
        not_capable: {not_capable: 0, ect0: 0, ect1: 0, congestion: 0},
        ect0: {not_capable: 2, ect0: 2, ect1: 1, congestion: 3},
        ect1: {not_capable: 1, ect0: 1, ect1: 1, congestion: 3},
        congestion: {not_capable: 3, ect0: 3, ect1: 3, congestion: 3},
    }
    for inner, columns in table.items():
        for mark, joined in columns.items():
            assert IP(decapsulated(outer(inner4(tos=inner), 4, tos=mark))[14:]).tos == joined
            assert IPv6(decapsulated(outer(inner6(tc=inner), 4, tos=mark))[14:]).tc == joined


def test_every_sentence_is_said_once():
    sentences = [row.sentence for row in ROWS]
    assert len(sentences) == len(set(sentences))


@pytest.mark.parametrize("row", [*PLAIN, *REFUSED[:4]], ids=str)
def test_the_note(tunnels, row):
    _, event = tunnels.trace(row.packet)
    note, sent = event["decap"], row.packet
    ipv4 = sent[12:14] == b"\x08\x00"
    accepted = row.verdict == "DECAPSULATED"
    addresses = sent[26:34] if ipv4 else sent[22:54]
    half = len(addresses) // 2
    assert note["outer_source"].tobytes() == addresses[:half].ljust(16, b"\0")
    assert note["outer_destination"].tobytes() == addresses[half:].ljust(16, b"\0")
    names = ("encapsulation", "decap", "accepted", "overhead", "outer_family", "inner_family")
    gue = overhead_of(sent) in (28, 48)
    assert [int(note[name]) for name in names] == [
        GUE if gue else IPIP,
        row.row,
        int(accepted),
        overhead_of(sent),
        4 if ipv4 else 6,
        (4 if sent[14 + overhead_of(sent)] >> 4 == 4 else 6) if accepted else 0,
    ]


@pytest.mark.parametrize("row", NOT_OURS, ids=str)
def test_what_is_not_ours_has_an_empty_note(tunnels, row):
    _, event = tunnels.trace(row.packet)
    assert not any(event["decap"].tobytes())


def test_off_it_costs_and_does_nothing(tunnels, pipeline):
    for row in PLAIN:
        outcome = pipeline.run(row.packet)
        assert outcome.verdict == "PASS_LOCAL"
        assert outcome.data == row.packet


def test_ecn_leaves_a_right_checksum_for_thousands_of_headers(tunnels):
    random.seed(6040)
    with tunnels.inside():
        for number in range(3000):
            fields = {"tos": random.randrange(256), "id": random.randrange(1 << 16), "src": random.randbytes(4)}
            fields["src"] = ".".join(map(str, fields["src"]))
            sent = outer(bytes(inner4(b"", **fields)), 4, tos=random.choice((1, 3, 0x29, 0xFF)))
            assert tunnels.quick(sent).hex() == decapsulated(sent).hex(), number


def test_the_macs_stay(tunnels):
    left = tunnels.run(outer(inner4(), 6)).data
    assert left[:6].hex(":") == IN_MAC


# a real host


WAYS = {
    "IPv4 in IPv4": (4, 4, False),
    "IPv6 in IPv4": (6, 4, False),
    "IPv4 in IPv6": (4, 6, False),
    "IPv6 in IPv6": (6, 6, False),
    "IPv4 in GUE over IPv4": (4, 4, True),
    "IPv6 in GUE over IPv6": (6, 6, True),
}


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_decapsulated_reaches_a_socket(tunnels, pipeline, way, mode):
    """A client's datagram in a frame on the wire; a socket on the VIP hears it, from the client's address."""
    inner, family, gue = WAYS[way]
    vip, client = (VIP4, CLIENT4) if inner == 4 else (VIP6, CLIENT6)
    own = f"{vip}/32 dev lo" if inner == 4 else f"{vip}/128 dev lo nodad"
    pipeline.sh(f"ip addr replace {own}; ip link set lo up")
    kind = socket.AF_INET if inner == 4 else socket.AF_INET6
    datagram = UDP(sport=4321, dport=5555)
    packet = (inner4 if inner == 4 else inner6)(b"through the tunnel", l4=datagram)

    def listen() -> socket.socket:
        made = socket.socket(kind, socket.SOCK_DGRAM)
        made.bind((vip, 5555))
        made.settimeout(5)
        return made

    with (
        netns.run_in(pipeline.router, listen) as heard,
        netns.run_in(pipeline.router, XdpLink.attach, tunnels.program, pipeline.in_index, mode),
    ):
        send_frames(pipeline.near, "eth0", [outer(packet, family, gue=gue)])
        octets, sender = heard.recvfrom(100)
    assert (octets, sender[:2]) == (b"through the tunnel", (client, 4321))
    pipeline.sh(f"ip addr del {own.removesuffix(' nodad')}")
