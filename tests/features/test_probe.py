"""Packets made of fields: octet for octet what scapy makes of the same, and what cannot be made is named."""

import pytest
from scapy.layers.inet6 import ICMPv6EchoRequest

from bpf.frames import ICMP, IP, TCP, UDP, Dot1Q, Ether, IPv6
from hopline.errors import InvalidInput
from hopline.features.probe import LONGEST_FRAME, SENDER4, SENDER6, Fields, hex_frame, internet_checksum, probe_frame

MAC = bytes.fromhex("020000000101")
FROM = "02:00:00:00:00:01"


def ether(dst="02:00:00:00:01:01"):
    return Ether(dst=dst, src=FROM)


def v4(dst="10.2.0.9", **fields):
    return IP(**{"src": SENDER4, "dst": dst, "id": 0, "flags": "DF", **fields})


@pytest.mark.parametrize(
    ("fields", "packet"),
    [
        ({}, ether() / v4() / UDP(sport=40000, dport=53)),
        ({"protocol": "udp", "sport": 1, "dport": 2, "size": 40}, ether() / v4() / UDP(sport=1, dport=2) / bytes(12)),
        ({"dport": 54}, ether() / v4() / UDP(sport=40000, dport=54)),
        ({"protocol": "tcp"}, ether() / v4() / TCP(sport=40000, dport=80, flags="S", window=65535)),
        ({"flags": "A", "dport": 22}, ether() / v4() / TCP(sport=40000, dport=22, flags="A", window=65535)),
        (
            {"protocol": "TCP", "flags": "sa", "dport": 443, "size": 41, "src": "10.1.0.2"},
            ether() / v4(src="10.1.0.2") / TCP(sport=40000, dport=443, flags="SA", window=65535) / b"\0",
        ),
        ({"protocol": "icmp", "ttl": 1}, ether() / v4(ttl=1) / ICMP(id=1, seq=1)),
        ({"protocol": "47", "size": 23}, ether() / v4(proto=47) / bytes(3)),
        ({"protocol": "17"}, ether() / v4() / UDP(sport=40000, dport=53)),
        ({"vlan": 7}, ether() / Dot1Q(vlan=7) / v4() / UDP(sport=40000, dport=53)),
        ({"ttl": 0, "vlan": 0}, ether() / Dot1Q(vlan=0) / v4(ttl=0) / UDP(sport=40000, dport=53)),
        ({"dst": "224.129.2.3"}, ether("01:00:5e:01:02:03") / v4("224.129.2.3") / UDP(sport=40000, dport=53)),
        ({"dst": "255.255.255.255"}, ether("ff:ff:ff:ff:ff:ff") / v4("255.255.255.255") / UDP(sport=40000, dport=53)),
        ({"dst": "fd00:2::9"}, ether() / IPv6(src=SENDER6, dst="fd00:2::9", hlim=64) / UDP(sport=40000, dport=53)),
        (
            {"dst": "fd00:2::9", "protocol": "icmp", "size": 49},
            ether() / IPv6(src=SENDER6, dst="fd00:2::9", hlim=64) / ICMPv6EchoRequest(id=1, seq=1, data=b"\0"),
        ),
        (
            {"dst": "FD00:2::9", "protocol": "tcp", "flags": "F", "sport": 0, "src": "fd00:1::2"},
            ether() / IPv6(src="fd00:1::2", dst="fd00:2::9", hlim=64) / TCP(sport=0, dport=80, flags="F", window=65535),
        ),
        (
            {"dst": "ff02::1:2"},
            ether("33:33:00:01:00:02") / IPv6(src=SENDER6, dst="ff02::1:2", hlim=64) / UDP(sport=40000, dport=53),
        ),
        ({"dst": "fd00:2::9", "protocol": "59"}, ether() / IPv6(src=SENDER6, dst="fd00:2::9", hlim=64, nh=59)),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_packet_is_what_scapy_makes_of_the_same_fields(fields, packet):
    assert probe_frame(Fields(**{"dst": "10.2.0.9", **fields}), MAC) == bytes(packet)


@pytest.mark.parametrize(("dst", "most"), [("10.2.0.9", 14 + 65535), ("fd00:2::9", 14 + 65535)])
def test_the_longest_packet_can_be_made(dst, most):
    assert len(probe_frame(Fields(dst=dst, size=65535), MAC)) == most


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"dst": "nonsense"}, "dst", "IP address"),
        ({"dst": "10.2.0.0/24"}, "dst", "one address"),
        ({"src": "fd00::1"}, "src", "give an IPv4 address"),
        ({"dst": "fd00::1", "src": "10.1.0.2"}, "src", "give an IPv6 address"),
        ({"protocol": "sctp"}, "protocol", "tcp, udp, icmp or a number"),
        ({"protocol": "256"}, "protocol", "0 to 255"),
        ({"protocol": "-1"}, "protocol", "0 to 255"),
        ({"protocol": "٦"}, "protocol", "0 to 255"),
        ({"sport": 80, "protocol": "icmp"}, "sport", "protocol is icmp"),
        ({"dport": 80, "protocol": "47"}, "dport", "protocol is 47"),
        ({"dport": 65536, "protocol": "tcp"}, "dport", "0 to 65535"),
        ({"sport": -1, "protocol": "tcp"}, "sport", "0 to 65535"),
        ({"flags": "S", "protocol": "udp"}, "flags", "protocol is udp"),
        ({"flags": "SX", "protocol": "tcp"}, "flags", "FSRPAUEC"),
        ({"flags": "", "protocol": "tcp"}, "flags", "FSRPAUEC"),
        ({"ttl": 256}, "ttl", "0 to 255"),
        ({"size": 27}, "size", "give 28 to 65535"),
        ({"size": 39, "protocol": "tcp"}, "size", "give 40 to 65535"),
        ({"size": 65536}, "size", "give 28 to 65535"),
        ({"size": 47, "dst": "fd00::1"}, "size", "give 48 to 65535"),
        ({"size": 19, "protocol": "47"}, "size", "give 20 to 65535"),
        ({"vlan": 4095}, "vlan", "0 to 4094"),
    ],
)
def test_what_cannot_be_made_is_named_with_what_can(fields, field, says):
    with pytest.raises(InvalidInput) as caught:
        probe_frame(Fields(**{"dst": "10.2.0.9", **fields}), MAC)
    assert caught.value.field == field
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "02000000010102000000000108004500",
        "0x02000000010102000000000108004500",
        "02:00:00:00:01:01 02:00:00:00:00:01 08:00 45:00",
        " 0200 0000 0101 0200 0000 0001 0800 4500\n",
        "02-00-00-00-01-01-02-00-00-00-00-01-08-00-45-00",
    ],
)
def test_hex_is_read_however_it_is_written(text):
    assert hex_frame(text).hex() == "02000000010102000000000108004500"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("xyz", "not hex"),
        ("02000000010", "an odd number"),
        ("", "0 octets"),
        ("00" * 13, "13 octets are no Ethernet frame: give 14 to"),
        ("00" * (LONGEST_FRAME + 1), "no Ethernet frame"),
    ],
)
def test_what_is_no_frame_in_hex_is_named(text, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        hex_frame(text)
    assert caught.value.field == "hex"


def test_a_sum_over_a_header_with_its_checksum_is_zero():
    frame = probe_frame(Fields(dst="10.2.0.9"), MAC)
    assert internet_checksum(frame[14:34]) == 0
