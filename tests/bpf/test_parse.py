"""parse: what a frame is taken for, down to every field, and that nothing cut short is ever forwarded."""

import numpy as np
import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, LLC, Dot1AD
from scapy.layers.sctp import SCTP

from bpf.frames import ICMP, IP, TCP, UDP, Case, Dot1Q, IPv6, checksum, forwarded, frame, ip4, ip6
from bpf.pipeline import XDP_PASS, Hop, Pipeline
from hopline.errors import KernelError

HOP = Hop()
S4, D4, S6, D6 = "10.0.1.2", "198.51.100.7", "2001:db8:1::2", "2001:db8:f::7"
FOUR, SIX = IP(src=S4, dst=D4), IPv6(src=S6, dst=D6)


@pytest.fixture
def everything(pipeline: Pipeline) -> Pipeline:
    """Every IPv4 and IPv6 destination has an operator's entry: what is not forwarded is parse's or judge's doing."""
    for to in ("0.0.0.0/0", "::/0"):
        pipeline.forward(to, HOP)
    return pipeline


def changed(sent: bytes, *at: tuple[int, bytes], fix: bool = True) -> bytes:
    """The frame with octets replaced at offsets of the IPv4 header, its checksum right again unless told."""
    out = bytearray(sent)
    for offset, octets in at:
        out[14 + offset : 14 + offset + len(octets)] = octets
    if fix:
        out[24:26] = bytes(2)
        out[24:26] = checksum(bytes(out[14:34])).to_bytes(2, "big")
    return bytes(out)


def total(length: int, sent: bytes | None = None) -> bytes:
    """An IPv4 packet that says it is so long."""
    return changed(sent or ip4(), (2, length.to_bytes(2, "big")))


def payload6(length: int, sent: bytes | None = None) -> bytes:
    """An IPv6 packet that says its payload is so long."""
    out = bytearray(sent or ip6())
    out[18:20] = length.to_bytes(2, "big")
    return bytes(out)


PLAIN4, PLAIN6 = ip4(), ip6()
LENGTH4, LENGTH6 = len(PLAIN4) - 14, len(PLAIN6) - 14

CASES = [
    Case("ARP is not IP", frame(ARP(pdst="10.0.1.1")), "PASS_NOT_IP"),
    Case("an unknown EtherType is not IP", frame(b"x" * 46, type=0x88B5), "PASS_NOT_IP"),
    Case("EtherType 0 is not IP", frame(bytes(46), type=0), "PASS_NOT_IP"),
    Case("an 802.3 length instead of an EtherType is not IP", frame(LLC(), b"x" * 40, type=46), "PASS_NOT_IP"),
    Case("IPv6 under the EtherType of IPv4 is malformed", PLAIN6[:12] + b"\x08\x00" + PLAIN6[14:], "PASS_MALFORMED"),
    Case("IPv4 under the EtherType of IPv6 is malformed", PLAIN4[:12] + b"\x86\xdd" + PLAIN4[14:], "PASS_MALFORMED"),
    Case("not IP, to another host", frame(ARP(), dst="02:00:00:00:09:09"), "PASS_NOT_IP"),
    Case("one VLAN tag", frame(Dot1Q(vlan=7), FOUR, UDP()), "PASS_VLAN"),
    Case("one VLAN tag before IPv6", frame(Dot1Q(vlan=7), SIX, UDP()), "PASS_VLAN"),
    Case("a priority tag, VLAN 0", frame(Dot1Q(vlan=0, prio=5), FOUR, UDP()), "PASS_VLAN"),
    Case("a service tag", frame(Dot1AD(vlan=7), FOUR, UDP()), "PASS_VLAN"),
    Case("two VLAN tags", frame(Dot1AD(vlan=7), Dot1Q(vlan=8), FOUR, UDP()), "PASS_VLAN"),
    Case("three VLAN tags", frame(Dot1AD(vlan=7), Dot1Q(vlan=8), Dot1Q(vlan=9), FOUR, UDP()), "PASS_VLAN"),
    Case("a VLAN tag before what is not IP", frame(Dot1Q(vlan=7), ARP()), "PASS_VLAN"),
    Case("a VLAN tag and nothing behind it", frame(Dot1Q(vlan=7, type=0x0800)), "PASS_MALFORMED"),
    Case("a VLAN tag cut short", frame(b"\0\7", type=0x8100), "PASS_MALFORMED"),
    Case("a second VLAN tag cut short", frame(Dot1Q(vlan=7, type=0x8100), b"\0\7\x08"), "PASS_MALFORMED"),
    Case("a wrong IPv4 header behind a tag", frame(Dot1Q(vlan=7, type=0x0800), b"\x44" + bytes(40)), "PASS_MALFORMED"),
    Case("IP version 5 is malformed", changed(PLAIN4, (0, b"\x55")), "PASS_MALFORMED"),
    Case("IP version 0 is malformed", changed(PLAIN4, (0, b"\x05")), "PASS_MALFORMED"),
    Case("a header length of 4 words is malformed", changed(PLAIN4, (0, b"\x44")), "PASS_MALFORMED"),
    Case("a header length of 0 is malformed", changed(PLAIN4, (0, b"\x40")), "PASS_MALFORMED"),
    Case("IPv6 with version 7 is malformed", PLAIN6[:14] + b"\x70" + PLAIN6[15:], "PASS_MALFORMED"),
    Case("a right IPv4 packet", PLAIN4, "FORWARDED", HOP),
    Case("a right IPv6 packet", PLAIN6, "FORWARDED", HOP),
    Case("a checksum off by one is malformed", changed(PLAIN4, (10, (int.from_bytes(PLAIN4[24:26], "big") ^ 1)
         .to_bytes(2, "big")), fix=False), "PASS_MALFORMED"),
    Case("a checksum of zero where it should not be is malformed", changed(PLAIN4, (10, b"\0\0"), fix=False),
         "PASS_MALFORMED"),
    Case("a total length of 0 is malformed", total(0), "PASS_MALFORMED"),
    Case("a total length below the header's is malformed", total(19), "PASS_MALFORMED"),
    Case("a total length of just the header is forwarded, the rest is padding", total(20), "FORWARDED", HOP),
    Case("a total length one octet over the frame is malformed", total(LENGTH4 + 1), "PASS_MALFORMED"),
    Case("a total length of 65535 in a short frame is malformed", total(65535), "PASS_MALFORMED"),
    Case("a total length one below the frame: the last octet is padding", total(LENGTH4 - 1), "FORWARDED", HOP),
    Case("with options a total length below the header's is malformed",
         total(23, ip4(options=b"\1\1\1\1")), "PASS_MALFORMED"),
    Case("options that reach beyond the frame are malformed", changed(PLAIN4, (0, b"\x4f")), "PASS_MALFORMED"),
    Case("an IPv6 payload one octet over the frame is malformed", payload6(LENGTH6 - 40 + 1), "PASS_MALFORMED"),
    Case("an IPv6 payload of 65535 in a short frame is malformed", payload6(65535), "PASS_MALFORMED"),
    Case("an IPv6 payload one below the frame: the last octet is padding", payload6(LENGTH6 - 41), "FORWARDED", HOP),
    Case("an IPv6 payload of 0: all behind is padding", payload6(0), "FORWARDED", HOP),
    Case("hop-by-hop with a payload of 0 may be a jumbogram: the kernel's",
         payload6(0, frame(SIX, IPv6ExtHdrHopByHop(), UDP())), "PASS_OPTIONS"),
    Case("an EtherType of IPv4 and nothing else", frame(type=0x0800), "PASS_MALFORMED"),
    Case("an EtherType of IPv6 and nothing else", frame(type=0x86DD), "PASS_MALFORMED"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_frame(everything, case):
    recorded, _ = everything.trace(case.packet)
    outcome = everything.run(case.packet)
    assert (outcome.verdict, outcome.data.hex()) == (case.verdict, case.out.hex())
    assert recorded == outcome


# every field of struct packet, as the tracer saw it

UDP8 = UDP(sport=0x1234, dport=0x5678)
DEFAULTS = {
    "l3_offset": 14, "ttl": 64, "tos": 0, "tags": 0, "flags": set(), "tag": [0, 0], "l4_offset": 0,
    "source_port": 0, "destination_port": 0, "icmp_type": 0, "icmp_code": 0,
}  # fmt: skip
V4 = {**DEFAULTS, "family": 4, "ethertype": 0x0800, "source": S4, "destination": D4}
V6 = {**DEFAULTS, "family": 6, "ethertype": 0x86DD, "source": S6, "destination": D6}
PORTS = {"flags": {"PORTS"}, "source_port": 0x1234, "destination_port": 0x5678}
NOT_IP = {
    **DEFAULTS, "family": 0, "protocol": 0, "ttl": 0, "l3_length": 0, "l3_offset": 0, "source": "", "destination": "",
}  # fmt: skip

RECORDS = [
    ("UDP over IPv4", frame(FOUR, UDP8), {**V4, **PORTS, "protocol": 17, "l3_length": 28, "l4_offset": 34}),
    ("TCP over IPv4", frame(IP(src=S4, dst=D4, ttl=3, tos=0xB9), TCP(sport=0x1234, dport=0x5678)),
     {**V4, **PORTS, "protocol": 6, "l3_length": 40, "l4_offset": 34, "ttl": 3, "tos": 0xB9}),
    ("SCTP over IPv4", frame(FOUR, SCTP(sport=0x1234, dport=0x5678)),
     {**V4, **PORTS, "protocol": 132, "l3_length": 32, "l4_offset": 34}),
    ("UDP-Lite over IPv4", frame(IP(src=S4, dst=D4, proto=136), bytes.fromhex("1234567800080000")),
     {**V4, **PORTS, "protocol": 136, "l3_length": 28, "l4_offset": 34}),
    ("ICMP over IPv4", frame(FOUR, ICMP(type=3, code=4)),
     {**V4, "protocol": 1, "l3_length": 28, "l4_offset": 34, "flags": {"ICMP"}, "icmp_type": 3, "icmp_code": 4}),
    ("an unknown protocol", frame(IP(src=S4, dst=D4, proto=253), b"abcd"),
     {**V4, "protocol": 253, "l3_length": 24, "l4_offset": 34}),
    ("IPv4 options move the ports", frame(IP(src=S4, dst=D4, options=b"\1" * 8), UDP8),
     {**V4, **PORTS, "protocol": 17, "l3_length": 36, "l4_offset": 42, "flags": {"PORTS", "OPTIONS"}}),
    ("40 octets of IPv4 options", frame(IP(src=S4, dst=D4, options=b"\1" * 40), UDP8),
     {**V4, **PORTS, "protocol": 17, "l3_length": 68, "l4_offset": 74, "flags": {"PORTS", "OPTIONS"}}),
    ("a first IPv4 fragment has ports", frame(IP(src=S4, dst=D4, flags="MF"), UDP8),
     {**V4, **PORTS, "protocol": 17, "l3_length": 28, "l4_offset": 34, "flags": {"PORTS", "FRAGMENT"}}),
    ("a middle IPv4 fragment has none", frame(IP(src=S4, dst=D4, flags="MF", frag=1, proto=17), UDP8),
     {**V4, "protocol": 17, "l3_length": 28, "flags": {"FRAGMENT", "LATER_FRAGMENT"}}),
    ("the last IPv4 fragment has none", frame(IP(src=S4, dst=D4, frag=0x1FFF, proto=17), UDP8),
     {**V4, "protocol": 17, "l3_length": 28, "flags": {"FRAGMENT", "LATER_FRAGMENT"}}),
    ("don't fragment and the reserved bit are no fragment", frame(IP(src=S4, dst=D4, flags="DF+evil"), UDP8),
     {**V4, **PORTS, "protocol": 17, "l3_length": 28, "l4_offset": 34}),
    ("three octets of UDP are truncated", frame(IP(src=S4, dst=D4, proto=17), b"abc"),
     {**V4, "protocol": 17, "l3_length": 23, "flags": {"L4_TRUNCATED"}}),
    ("four octets are enough for ports", frame(IP(src=S4, dst=D4, proto=17), bytes.fromhex("12345678")),
     {**V4, **PORTS, "protocol": 17, "l3_length": 24, "l4_offset": 34}),
    ("padding is no UDP header", frame(IP(src=S4, dst=D4, proto=17, len=20), UDP8),
     {**V4, "protocol": 17, "l3_length": 20, "flags": {"L4_TRUNCATED"}}),
    ("UDP over IPv6", frame(IPv6(src=S6, dst=D6, tc=0xB9, fl=0xFEDCB, hlim=9), UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 48, "l4_offset": 54, "ttl": 9, "tos": 0xB9}),
    ("TCP over IPv6", frame(SIX, TCP(sport=0x1234, dport=0x5678)),
     {**V6, **PORTS, "protocol": 6, "l3_length": 60, "l4_offset": 54}),
    ("ICMPv6", frame(SIX, ICMPv6EchoRequest(code=7)),
     {**V6, "protocol": 58, "l3_length": 48, "l4_offset": 54, "flags": {"ICMP"}, "icmp_type": 128, "icmp_code": 7}),
    ("no next header", frame(IPv6(src=S6, dst=D6, nh=59), b"abcd"),
     {**V6, "protocol": 59, "l3_length": 44, "l4_offset": 54}),
    ("hop-by-hop, then UDP", frame(SIX, IPv6ExtHdrHopByHop(), UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 56, "l4_offset": 62, "flags": {"PORTS", "HOP_BY_HOP", "EXTENSION"}}),
    ("a routing header of two addresses", frame(SIX, IPv6ExtHdrRouting(addresses=["2001:db8::5", "2001:db8::6"]), UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 88, "l4_offset": 94, "flags": {"PORTS", "EXTENSION"}}),
    ("destination options", frame(SIX, IPv6ExtHdrDestOpt(), UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 56, "l4_offset": 62, "flags": {"PORTS", "EXTENSION"}}),
    ("a first IPv6 fragment has ports", frame(SIX, IPv6ExtHdrFragment(m=1), UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 56, "l4_offset": 62, "flags": {"PORTS", "EXTENSION", "FRAGMENT"}}),
    ("an atomic IPv6 fragment is none", frame(SIX, IPv6ExtHdrFragment(), UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 56, "l4_offset": 62, "flags": {"PORTS", "EXTENSION"}}),
    ("a later IPv6 fragment has no ports", frame(SIX, IPv6ExtHdrFragment(m=1, offset=1, nh=17), UDP8),
     {**V6, "protocol": 17, "l3_length": 56, "flags": {"EXTENSION", "FRAGMENT", "LATER_FRAGMENT"}}),
    ("an authentication header", frame(SIX, AH(nh=17, payloadlen=4, icv=b"\0" * 12), UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 72, "l4_offset": 78, "flags": {"PORTS", "EXTENSION"}}),
    ("a chain of five", frame(SIX, IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=["::5"]),
                              IPv6ExtHdrFragment(m=1), AH(nh=17, payloadlen=4, icv=b"\0" * 12), UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 40 + 8 + 8 + 24 + 8 + 24 + 8, "l4_offset": 54 + 72,
      "flags": {"PORTS", "HOP_BY_HOP", "EXTENSION", "FRAGMENT"}}),
    ("six extension headers are walked", frame(SIX, *[IPv6ExtHdrDestOpt()] * 5, IPv6ExtHdrDestOpt(nh=17), UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 96, "l4_offset": 102, "flags": {"PORTS", "EXTENSION"}}),
    ("the seventh is not: no L4 header is claimed", frame(SIX, *[IPv6ExtHdrDestOpt()] * 7, UDP8),
     {**V6, "protocol": 60, "l3_length": 104, "flags": {"EXTENSION"}}),
    ("a chain cut in an extension header", frame(IPv6(src=S6, dst=D6, nh=60), b"\x11"),
     {**V6, "protocol": 60, "l3_length": 41, "flags": {"L4_TRUNCATED"}}),
    ("a chain cut before L4", frame(IPv6(src=S6, dst=D6, nh=60), b"\x11\0" + bytes(6)),
     {**V6, "protocol": 17, "l3_length": 48, "flags": {"EXTENSION", "L4_TRUNCATED"}}),
    ("an extension header longer than the packet", frame(IPv6(src=S6, dst=D6, nh=60), b"\x11\xff" + bytes(30)),
     {**V6, "protocol": 17, "l3_length": 72, "flags": {"EXTENSION", "L4_TRUNCATED"}}),
    ("padding is no extension header", frame(IPv6(src=S6, dst=D6, nh=60, plen=0), b"\x11\0" + bytes(6), UDP8),
     {**V6, "protocol": 60, "l3_length": 40, "flags": {"L4_TRUNCATED"}}),
    ("a VLAN tag moves everything", frame(Dot1Q(vlan=0x123, prio=5), FOUR, UDP8),
     {**V4, **PORTS, "protocol": 17, "l3_length": 28, "l3_offset": 18, "l4_offset": 38, "tags": 1, "tag": [0xA123, 0]}),
    ("two VLAN tags", frame(Dot1AD(vlan=0x123), Dot1Q(vlan=0xFFF, prio=7, dei=1), SIX, UDP8),
     {**V6, **PORTS, "protocol": 17, "l3_length": 48, "l3_offset": 22, "l4_offset": 62, "tags": 2,
      "tag": [0x0123, 0xFFFF]}),
    ("three VLAN tags: the third is what follows", frame(Dot1Q(vlan=1), Dot1Q(vlan=2), Dot1Q(vlan=3), FOUR, UDP8),
     {**NOT_IP, "ethertype": 0x8100, "tags": 2, "tag": [1, 2]}),
    ("ARP", frame(ARP()), {**NOT_IP, "ethertype": 0x0806}),
]  # fmt: skip


def shown(found: np.void, flag_names: type) -> dict:
    """A struct packet as the table writes it: flags by name, addresses as text."""
    from ipaddress import ip_address

    family = int(found["family"])
    fields = {name: int(found[name]) for name in found.dtype.names if name not in ("tag", "source", "destination")}
    fields["flags"] = {flag.name.removeprefix("PACKET_") for flag in flag_names if fields["flags"] & flag}
    fields["tag"] = [int(tci) for tci in found["tag"]]
    for name in ("source", "destination"):
        octets = found[name].tobytes()
        assert family == 6 or octets[4:] == bytes(12)
        fields[name] = str(ip_address(octets[: 4 if family == 4 else 16])) if family else ""
    return fields


@pytest.mark.parametrize(("sentence", "sent", "fields"), RECORDS, ids=[row[0] for row in RECORDS])
def test_record(everything, sentence, sent, fields):
    _, event = everything.trace(sent)
    assert int(event["ifindex"]) == everything.in_index
    found = shown(event["packet"], everything.datapath.layout.enum("packet_flag"))
    assert found == {**fields, "length": len(sent)}


# frames of every length


def at_least(length: int, *layers) -> bytes:
    """A frame of exactly so many octets: UDP's payload fills it up."""
    short = frame(*layers, UDP8)
    return frame(*layers, UDP8, bytes(i & 0xFF for i in range(length - len(short))))


TEMPLATES = {
    "IPv4": (FOUR,),
    "IPv4 with options": (IP(src=S4, dst=D4, options=b"\1" * 12),),
    "IPv6": (SIX,),
    "IPv6 with destination options and fragment": (SIX, IPv6ExtHdrDestOpt(), IPv6ExtHdrFragment(m=1)),
    "IPv6 with hop-by-hop": (SIX, IPv6ExtHdrHopByHop()),
    "IPv4 in a VLAN": (Dot1Q(vlan=7), FOUR),
    "IPv6 in two VLANs": (Dot1AD(vlan=7), Dot1Q(vlan=8), SIX),
    "IPv4 in three VLANs": (Dot1Q(vlan=7), Dot1Q(vlan=8), Dot1Q(vlan=9), FOUR),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_frame_cut_short_is_never_forwarded(everything, name):
    whole = at_least(121, *TEMPLATES[name])
    for length in range(14, 121):
        cut = whole[:length]
        outcome = everything.run(cut)
        assert outcome.verdict in ("PASS_MALFORMED", "PASS_VLAN"), length
        assert (outcome.action, outcome.data) == (XDP_PASS, cut), length
        assert everything.trace(cut)[0] == outcome, length


@pytest.mark.parametrize("name", ["IPv4", "IPv6", "IPv6 with destination options and fragment"])
def test_a_frame_of_any_length_that_is_whole_is_forwarded(everything, name):
    for length in range(len(frame(*TEMPLATES[name], UDP8)), 121):
        whole = at_least(length, *TEMPLATES[name])
        outcome = everything.run(whole)
        assert (outcome.verdict, outcome.data) == ("FORWARDED", forwarded(whole, HOP)), length


@pytest.mark.parametrize("first", [0x45, 0x4F, 0x60, 0x00, 0xFF])
@pytest.mark.parametrize("ethertype", [0x0800, 0x86DD, 0x8100, 0x88A8])
def test_no_length_of_one_repeated_octet_is_forwarded(everything, ethertype, first):
    for length in range(14, 121):
        sent = (frame(type=ethertype) + bytes([first]) * 120)[:length]
        outcome = everything.run(sent)
        assert (outcome.action, outcome.data) == (XDP_PASS, sent)


@pytest.mark.parametrize("length", range(14))
def test_a_frame_without_an_ethernet_header_is_refused_by_the_kernel(everything, length):
    with pytest.raises(KernelError):
        everything.run(bytes(length))


# frames larger than a page

# what TEST_RUN puts into the first page: less XDP_PACKET_HEADROOM and struct skb_shared_info (net/bpf/test_run.c)
LINEAR = 4096 - 256 - 320


def jumbo4(length: int) -> bytes:
    """An IPv4 packet of so many octets in a frame."""
    return ip4(payload=bytes(i * 7 & 0xFF for i in range(length - 28)))


def jumbo6(length: int) -> bytes:
    """An IPv6 packet of so many octets in a frame."""
    return ip6(payload=bytes(i * 7 & 0xFF for i in range(length - 48)))


@pytest.fixture
def big(pipeline: Pipeline):
    """Both devices with MTU 9000, and entries that say so."""
    pipeline.sh("ip link set in0 mtu 9000; ip link set out0 mtu 9000")
    pipeline.know(redirect_target_frags=True)  # which an older kernel does not tell
    for to in ("0.0.0.0/0", "::/0"):
        pipeline.forward(to, Hop(mtu=9000))
    yield pipeline
    pipeline.sh("ip link set in0 mtu 1500; ip link set out0 mtu 1500")


@pytest.mark.parametrize("jumbo", [jumbo4, jumbo6])
@pytest.mark.parametrize("length", [3000, 3500, 4000, 4082, 4083, 4096, 8192, 8999, 9000])
def test_a_frame_larger_than_a_page_is_forwarded_whole(big, jumbo, length):
    sent = jumbo(length)
    outcome = big.run(sent)
    assert outcome.verdict == "FORWARDED"
    assert outcome.data == forwarded(sent, HOP)


@pytest.mark.parametrize("jumbo", [jumbo4, jumbo6])
def test_a_large_frame_over_the_mtu_passes_untouched(big, jumbo):
    outcome = big.run(jumbo(9001))
    assert (outcome.verdict, outcome.data) == ("PASS_TOO_BIG", jumbo(9001))


@pytest.mark.parametrize("padding", [1, 100, 4000, 7000])
@pytest.mark.parametrize("length", [60, 3000, LINEAR - 15, LINEAR - 14, LINEAR - 13, 4096])
def test_padding_in_further_pages_is_trimmed(big, length, padding):
    """Also where the IP packet ends just where the first page does, so that padding is all there is in the next."""
    sent = jumbo4(length) + b"\x55" * padding
    outcome = big.run(sent)
    assert (outcome.verdict, outcome.data) == ("FORWARDED", forwarded(sent, HOP))


def test_a_large_frame_whose_ip_packet_is_cut_passes(big):
    cut = jumbo4(9000)[:-1]
    outcome = big.run(cut)
    assert (outcome.verdict, outcome.data) == ("PASS_MALFORMED", cut)


def test_a_large_frame_is_not_sent_to_a_device_that_cannot_take_its_pages(big):
    flags = big.datapath.layout.enum("interface_flag")
    row = big.datapath.interfaces[big.out_slot : big.out_slot + 1]
    assert row["flags"][0] & flags.INTERFACE_EGRESS_FRAGS
    row["flags"] = row["flags"][0] & ~np.uint32(flags.INTERFACE_EGRESS_FRAGS)
    outcome = big.run(jumbo4(9000))
    assert (outcome.verdict, outcome.data) == ("PASS_NO_EGRESS", jumbo4(9000))
    assert big.run(jumbo4(1500)).verdict == "FORWARDED"
    big.know(redirect_target_frags=True)
    assert big.run(jumbo4(9000)).verdict == "FORWARDED"


@pytest.mark.parametrize("length", [5000, LINEAR, LINEAR + 1])
@pytest.mark.parametrize(
    ("start", "verdict"),
    [
        (frame(type=0x88B5), "PASS_NOT_IP"),
        (frame(Dot1Q(vlan=7, type=0x88B5)), "PASS_VLAN"),
        (frame(type=0x0800) + b"\x44", "PASS_MALFORMED"),
        (frame(type=0x86DD) + b"\x44", "PASS_MALFORMED"),
        (jumbo4(5000), "FORWARDED"),
    ],
    ids=["not IP", "VLAN", "bad IPv4", "bad IPv6", "IPv4"],
)
def test_a_large_frame_counts_with_all_its_octets(big, start, verdict, length):
    """`run` compares the octets counted with the frame's."""
    if verdict == "FORWARDED":
        length = len(start)
    assert big.run(start[:length].ljust(length, b"x")).verdict == verdict


def test_a_frame_of_one_page_and_padding_is_not_sent_in_pages_to_a_device_that_cannot_take_them(big):
    row = big.datapath.interfaces[big.out_slot : big.out_slot + 1]
    row["flags"] = 0
    sent = jumbo4(LINEAR - 14) + bytes(4)
    outcome = big.run(sent)
    assert (outcome.verdict, outcome.data) in (("PASS_NO_EGRESS", sent), ("FORWARDED", forwarded(sent, HOP)))
    big.know(redirect_target_frags=True)


@pytest.mark.parametrize("jumbo", [jumbo4, jumbo6])
def test_a_frame_over_the_mtu_of_its_own_ingress_passes_untouched(everything, jumbo):
    """A veth's peer may send TCP segments that are still to be cut, however small the MTU."""
    for length in (1501, 3000, LINEAR, 9000, 60000):
        packet = jumbo(length)
        with everything.inside():
            assert everything.quick(packet) == packet
    everything.recount()


def test_the_largest_ip_packet_of_all(big):
    big.forward("198.51.100.7", Hop(mtu=65535))
    sent = jumbo4(65535)
    outcome = big.run(sent)
    assert (outcome.verdict, outcome.data) == ("FORWARDED", forwarded(sent, HOP))
