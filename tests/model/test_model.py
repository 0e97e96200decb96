"""The model by itself, beside examples that others worked out and cases that are plain to see."""

import dataclasses
from ipaddress import ip_address

import pytest

from bpf.pipeline import FAR_MAC, IN_MAC, NEAR_MAC, OUT_MAC
from model.model import answer, internet_checksum
from model.table import Hop, Route, Table, address, devices, longest, mac, prefix, simpler

HOP = Hop(mac("02:00:00:00:0e:01"), mac("02:00:00:00:0e:02"))
OTHER = Hop(mac("02:00:00:00:0e:03"), mac(OUT_MAC), mtu=576)
# the example of a header that textbooks have, and its checksum
HEADER = bytes.fromhex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7")
TO = address("192.168.0.199")


def frame(packet: bytes, kind: str = "0800", to: str = IN_MAC) -> bytes:
    return mac(to) + mac(NEAR_MAC) + bytes.fromhex(kind) + packet


def ip4(**octets: bytes) -> bytes:
    """HEADER and its payload; at an octet's place, others, with the checksum made right."""
    header = bytearray(HEADER)
    for name, value in octets.items():
        start = int(name.removeprefix("at"))
        header[start : start + len(value)] = value
    header[10:12] = bytes(2)
    header[10:12] = internet_checksum(bytes(header)).to_bytes(2, "big")
    return frame(bytes(header) + bytes(0x73 - 20))


def ip6(destination: str = "2001:db8:f::7", limit: int = 64, following: int = 59) -> bytes:
    ends = ip_address("2001:db8:1::2").packed + ip_address(destination).packed
    return frame(bytes.fromhex("60000000 0004") + bytes([following, limit]) + ends + b"four", "86dd")


def verdict(sent: bytes, **table: object) -> str:
    return answer(Table(**{"prefixes": {prefix("0.0.0.0/0"): HOP, prefix("::/0"): HOP}, **table}), sent).verdict


def test_the_checksum_of_the_rfc():
    """RFC 1071 section 3: 00 01 f2 03 f4 f5 f6 f7 sum up to ddf2."""
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2
    assert internet_checksum(HEADER) == 0


def test_a_packet_leaves_with_one_ttl_less_new_macs_and_no_padding():
    left = answer(Table(exact={TO: HOP}), ip4() + b"padding")
    header = HEADER.replace(b"\x40\x11\xb8\x61", b"\x3f\x11\xb9\x61")
    assert (left.verdict, left.hop) == ("FORWARDED", HOP)
    assert left.frame == HOP.mac + HOP.source + b"\x08\x00" + header + bytes(0x73 - 20)


def test_a_checksum_that_becomes_zero():
    """RFC 1624 section 3: where the sum comes to nothing it is 0000, never ffff."""
    # in one's complement: an id of what the checksum is too large by
    too_large = internet_checksum(HEADER[:10] + bytes(2) + HEADER[12:]) - 0xFEFF
    sent = ip4(at4=(too_large % 0xFFFF).to_bytes(2, "big"))
    assert sent[24:26] == b"\xfe\xff"
    assert answer(Table(exact={TO: HOP}), sent).frame[24:26] == b"\x00\x00"


def test_an_ipv6_packet_leaves_with_one_hop_less():
    left = answer(Table(prefixes={prefix("2001:db8:f::/48"): HOP}), ip6() + bytes(6))
    assert left.frame == HOP.mac + HOP.source + ip6(limit=63)[12:]


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (frame(HEADER[:19]), "PASS_MALFORMED"),
        (frame(HEADER), "PASS_MALFORMED"),  # says that it is longer
        (ip4()[:-1], "PASS_MALFORMED"),
        (ip4().replace(b"\xb8\x61", b"\xb8\x62"), "PASS_MALFORMED"),
        (ip4(at0=b"\x65"), "PASS_MALFORMED"),
        (ip4(at0=b"\x44"), "PASS_MALFORMED"),
        (ip4(at0=b"\x46"), "PASS_OPTIONS"),
        (ip4(at2=b"\x00\x13"), "PASS_MALFORMED"),
        (ip4(at2=b"\x00\x14"), "FORWARDED"),
        (ip4(at8=b"\x01"), "PASS_TTL"),
        (ip4(at8=b"\x02"), "FORWARDED"),
        (ip4(at12=bytes([127, 0, 0, 1])), "PASS_MARTIAN"),
        (ip4(at12=bytes([10, 0, 2, 1])), "PASS_MARTIAN"),
        (ip4(at16=bytes([224, 0, 0, 1])), "PASS_MULTICAST"),
        (ip4(at16=bytes([10, 0, 2, 1])), "PASS_LOCAL"),
        (ip4().replace(mac(IN_MAC), mac(FAR_MAC)), "PASS_OTHER_HOST"),
        (ip4().replace(mac(IN_MAC), b"\xff" * 6), "PASS_MULTICAST"),
        (frame(b"\x00\x07\x08\x00" + ip4()[14:], "8100"), "PASS_VLAN"),
        (frame(b"\x00\x07\x08\x00" + HEADER, "8100"), "PASS_MALFORMED"),
        (frame(b"\x00\x07\x08", "8100"), "PASS_MALFORMED"),
        (frame(b"\x00\x07\x81\x00" * 3, "8100"), "PASS_VLAN"),
        (frame(bytes(46), "0806"), "PASS_NOT_IP"),
        (ip6(), "FORWARDED"),
        (ip6()[:-1], "PASS_MALFORMED"),
        (ip6(following=0), "PASS_OPTIONS"),
        (ip6(following=43), "FORWARDED"),
        (ip6("ff02::1"), "PASS_MULTICAST"),
        (ip6("fe80::1"), "PASS_MARTIAN"),
        (ip6(limit=1), "PASS_TTL"),
    ],
)
def test_a_frame_and_its_verdict(sent, wanted):
    assert verdict(sent) == wanted


def test_the_longest_prefix_is_asked_and_an_address_before_it():
    table = {prefix("192.168.0.0/16"): OTHER, prefix("192.168.0.128/25"): HOP, prefix("0.0.0.0/0"): OTHER}
    assert longest(table, TO) == HOP
    assert longest(table, address("192.168.0.127")) == OTHER
    assert longest(table, address("::")) is None
    assert answer(Table(prefixes=table, exact={TO: OTHER}), ip4()).hop == OTHER


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, "FORWARDED"),
        ({"neighbours": {}}, "PASS_NO_NEIGHBOUR"),
        ({"routes": {}}, "PASS_NO_ROUTE"),
        ({"routes": {prefix("192.168.0.0/24"): Route("blackhole", "lo")}}, "PASS_NO_ROUTE"),
        ({"routes": {prefix("192.168.0.0/24"): Route(encapsulated=True)}}, "PASS_ENCAPSULATED_ROUTE"),
        ({"routes": {prefix("192.168.0.0/24"): Route(via=address("10.0.2.9"), mtu=114)}}, "PASS_TOO_BIG"),
        ({"routes": {prefix("192.168.0.0/24"): Route(device="in0", via=address("10.0.1.2"))}}, "PASS_HAIRPIN"),
        ({"learn": frozenset({6})}, "PASS_NOT_LEARNING"),
        ({"leased": False}, "PASS_NO_LEASE"),
        ({"forwarding": frozenset({6})}, "PASS_FORWARDING_OFF"),
        ({"devices": devices(able=False)}, "PASS_NO_EGRESS"),
        ({"local": frozenset({prefix("192.168.0.199")})}, "PASS_LOCAL"),
        ({"exact": {TO: dataclasses.replace(HOP, state="UNRESOLVED")}}, "PASS_NO_NEIGHBOUR"),
        ({"exact": {TO: dataclasses.replace(HOP, device="nowhere")}}, "PASS_NO_EGRESS"),
    ],
)
def test_what_is_learned_and_what_keeps_it_from_being(changed, wanted):
    routes = {prefix("192.168.0.0/24"): Route(via=address("10.0.2.9"))}
    table = Table(routes=routes, neighbours={("out0", address("10.0.2.9")): HOP.mac}, exact={})
    assert answer(dataclasses.replace(table, **changed), ip4()).verdict == wanted


def test_without_a_lease_the_mac_is_the_kernels():
    entry = dataclasses.replace(HOP, via=address("10.0.2.2"))
    assert answer(Table(exact={TO: entry}), ip4()).frame[:6] == HOP.mac
    assert answer(Table(exact={TO: entry}, leased=False), ip4()).frame[:6] == mac(FAR_MAC)


def test_a_table_is_made_simpler_one_thing_at_a_time():
    table = Table(exact={TO: HOP}, bypass=True)
    assert list(simpler(table)) == [Table(bypass=True), Table(exact={TO: HOP})]
