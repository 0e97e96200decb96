"""Frames decoded for people: every header by name, what is cut off ends it, and what is wrong is said as it is."""

import random

import pytest
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP

from bpf.frames import ICMP, IP, TCP, UDP, Dot1Q, Ether, IPv6, frame, ip4, ip6
from hopline.features.dissect import defects, dissect, ethertype_name, protocol_name


def named(octets):
    return {header.name: dict(header.fields) for header in dissect(octets)}


def test_every_field_of_ipv4_and_udp():
    sent = ip4("198.51.100.7", ttl=7, tos=0x2E, id=0x1234, flags="DF")
    packet = IP(sent[14:])
    assert named(sent) == {
        "Ethernet": {"to": "02:00:00:00:01:01", "from": "02:00:00:00:01:02", "type": "IPv4"},
        "IPv4": {
            "from": "10.0.1.2",
            "to": "198.51.100.7",
            "protocol": "UDP",
            "TTL": "7",
            "checksum": f"{packet.chksum:#06x}",
            "length": "35",
            "id": "4660",
            "flags": "DF",
            "tos": "0x2e",
        },
        "UDP": {"from port": "4000", "to port": "5000", "length": "15", "checksum": f"{packet[UDP].chksum:#06x}"},
    }


def test_ipv6_with_extension_headers_and_icmp():
    found = named(
        frame(IPv6(src="fd00::1", dst="fd00::2", hlim=3, tc=5, fl=9) / IPv6ExtHdrHopByHop() / ICMPv6EchoRequest())
    )
    assert list(found) == ["Ethernet", "IPv6", "hop-by-hop", "ICMPv6"]
    assert found["IPv6"]["hop limit"] == "3"
    assert (found["IPv6"]["traffic class"], found["IPv6"]["flow label"]) == ("0x05", "0x00009")
    assert found["ICMPv6"]["message"] == "type 128 code 0 (echo request)"


def test_tags_arp_flags_and_fragments():
    assert named(frame(Dot1Q(vlan=5, prio=3), IP(dst="10.0.0.1"), TCP(flags="SA")))["VLAN"] == {
        "id": "5", "priority": "3", "type": "IPv4"
    }  # fmt: skip
    assert named(frame(IP(dst="10.0.0.1"), TCP(flags="SA")))["TCP"]["flags"] == "SA"
    arp = named(frame(ARP(psrc="10.0.0.9", pdst="10.0.0.1", hwsrc="02:00:00:00:00:09")))["ARP"]
    assert arp == {"operation": "request", "sender": "10.0.0.9 02:00:00:00:00:09", "target": "10.0.0.1"}
    later = named(frame(IP(dst="10.0.0.1", frag=3, flags="MF", proto=17), b"12345678"))
    assert "UDP" not in later
    assert (later["IPv4"]["flags"], later["IPv4"]["fragment offset"]) == ("MF", "24")
    assert "UDP" not in named(frame(IPv6(dst="fd00::2") / IPv6ExtHdrFragment(offset=4) / UDP()))
    assert named(frame(IP(dst="10.0.0.1"), ICMP(type=3, code=4)))["ICMP"]["message"] == "type 3 code 4 (unreachable)"


def test_names_of_what_is_not_known():
    assert ethertype_name(0x9999) == "EtherType 0x9999"
    assert ethertype_name(0x26) == "802.3 with LLC"
    assert protocol_name(253) == "protocol 253"


def test_whatever_is_cut_off_or_broken_is_decoded_as_far_as_it_goes():
    drawn = random.Random(4)
    for whole in (ip4(), ip6(), frame(IP(dst="10.0.0.1", options=[("NOP")] * 4), TCP())):
        for length in range(len(whole) + 1):
            assert [header.name for header in dissect(whole[:length])] == list(named(whole))[
                : len(dissect(whole[:length]))
            ]
        for _ in range(2000):
            broken = bytearray(whole)
            for _ in range(4):
                broken[drawn.randrange(12, len(broken))] = drawn.randrange(256)
            dissect(bytes(broken))
            defects(bytes(broken))


def changed(octets, at, value):
    return octets[:at] + value + octets[at + len(value) :]


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        (bytes(9), "9 octets are less than an Ethernet header has"),
        (frame(Dot1Q())[:16], "within a VLAN tag"),
        (ip4()[:30], "within the IPv4 header, after 16 of 20 octets"),
        (changed(ip4(), 14, b"\x65"), "IP version is 6"),
        (changed(ip4(), 14, b"\x44"), "header length is 16 octets"),
        (ip4(len=19), "total length of 19 octets is less than its header's 20"),
        (ip4(len=1000), "total length is 1000 octets, and the frame holds 35"),
        (ip4(chksum=0x1234), "checksum is 0x1234, and should be 0x"),
        (ip6()[:50], "within the IPv6 header, after 36 of 40 octets"),
        (changed(ip6(), 14, b"\x45"), "IP version is 4"),
        (ip6(plen=1000), "payload length is 1000 octets, and the frame holds 15"),
    ],
)
def test_what_is_wrong_is_said(octets, says):
    [found] = defects(octets)
    assert says in found


def test_nothing_is_wrong_with_what_is_right():
    for octets in (ip4(), ip6(), frame(ARP()), ip4() + bytes(9), bytes(Ether(type=0x88CC)) + bytes(4)):
        assert defects(octets) == []
