"""features/balance: rules and pages, outer headers, next hops, and the MTU that they leave."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopline.config import Backend, Decap, NextHop, Service
from hopline.errors import InvalidInput
from hopline.features.balance import (
    Outer,
    Ports,
    Reached,
    check_mtu,
    decap_key,
    flags_of,
    mtu_warning,
    next_hop,
    outer,
    overhead,
    packed,
    padded,
    paged,
    painted,
    port_text,
    ports_of,
    rule_word,
    ruled,
    text_of,
    ticks,
)

WEB = Service("web", "10.9.0.1", "80", "tcp")
WEB6 = Service("web6", "fd00:9::1", "80", "tcp")
ONE, ONE6 = Backend("10.2.0.11"), Backend("fd00:2::11")
FLAGS = {"SERVICE_REMEMBERS": 1, "SERVICE_ANY_PORT": 2, "SERVICE_QUIC": 4}

ranges = st.tuples(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 9)).map(
    lambda each: (min(each[:2]), max(each[:2]), each[2])
)


def service(**more) -> Service:
    return Service(**{"name": "web", "vip": "10.9.0.1", "port": "80", "protocol": "tcp", **more})


# ports


@pytest.mark.parametrize(("port", "first", "last"), [("80", 80, 80), ("80-81", 80, 81), ("any", 0, 65535)])
@pytest.mark.parametrize(("protocol", "numbers"), [("tcp", (0,)), ("udp", (1,)), ("both", (0, 1))])
def test_what_of_its_vip_is_a_services(port, first, last, protocol, numbers):
    assert ports_of(service(port=port, protocol=protocol)) == Ports(numbers, first, last)
    assert port_text(first, last) == port


@given(st.lists(ranges, max_size=6))
def test_the_later_layer_has_the_port(layers):
    by_port = {port: row for first, last, row in layers for port in range(first, last + 1)}
    found = painted(layers)
    assert {port: row for first, last, row in found for port in range(first, last + 1)} == by_port
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found)), "they overlap"


@given(st.lists(ranges, max_size=6))
def test_rules_and_pages_together_say_what_the_layers_do(layers):
    wanted = painted(layers)
    rules, rest = ruled([0, 0], wanted)
    assert sum(word != 0 for word in rules) == min(2, len(wanted))
    assert sorted([*rest, *((w & 0xFFFF, w >> 16 & 0xFFFF, w >> 32) for w in rules if w)]) == wanted
    whole, leaves = paged(rest)
    for first, last, row in rest:
        for port in (first, last, (first + last) // 2):
            assert whole.get(port >> 8) or leaves[port >> 8][port & 255] == row
    assert not whole.keys() & leaves.keys()


def test_a_rule_that_stays_keeps_its_place_and_one_that_changes_is_changed_there():
    a, b, c = rule_word(80, 80, 1), rule_word(443, 443, 2), rule_word(8080, 8080, 3)
    assert ruled([a, b], [(80, 80, 1), (443, 443, 2), (8080, 8080, 3)]) == ([a, b], [(8080, 8080, 3)])
    assert ruled([a, b], [(443, 443, 2), (8080, 8080, 3)]) == ([c, b], [])
    assert ruled([a, b], [(80, 81, 1), (443, 443, 2)]) == ([rule_word(80, 81, 1), b], [])
    assert ruled([a, b], []) == ([0, 0], [])


def test_a_page_has_whole_octets_and_leaves():
    whole, leaves = paged([(250, 800, 7)])
    assert whole == {1: 7, 2: 7}
    assert sorted(leaves) == [0, 3]
    assert (min(leaves[0]), max(leaves[0]), min(leaves[3]), max(leaves[3])) == (250, 255, 0, 800 - 768)


# settings


@pytest.mark.parametrize(
    ("more", "flags"),
    [
        ({}, 0),
        ({"affinity": "table"}, 1),
        ({"port": "any"}, 3),
        ({"port": "any", "protocol": "udp"}, 2),
        ({"port": "any", "protocol": "both"}, 3),
    ],
)
def test_flags(more, flags):
    assert flags_of(service(**more), FLAGS) == flags


def test_times_are_ticks_of_a_quarter_of_a_second_one_at_least():
    assert [ticks(seconds) for seconds in (900, 1, 0.1)] == [3600, 4, 1]


# the way to a backend

LINK = Reached("eth1", None, "10.2.0.1", 1500)
GATEWAY = Reached("eth0", "10.1.0.254", "10.1.0.1", 1500)


@pytest.mark.parametrize(
    ("backend", "reached", "hop"),
    [
        (ONE, {"10.2.0.11": LINK}, NextHop("eth1", via="10.2.0.11")),
        (ONE, {"10.2.0.11": GATEWAY}, NextHop("eth0", via="10.1.0.254")),
        (ONE, {}, None),
        (Backend("10.3.0.1", via="10.2.0.254"), {"10.2.0.254": LINK}, NextHop("eth1", via="10.2.0.254")),
        (Backend("10.3.0.1", via="10.2.0.254", dev="eth2"), {}, NextHop("eth2", via="10.2.0.254")),
        (Backend("10.3.0.1", via="10.2.0.254", dev="eth2"), {"10.2.0.254": LINK}, NextHop("eth2", via="10.2.0.254")),
        (
            Backend("10.3.0.1", dst_mac="02:00:00:00:00:01", dev="eth3"),
            {},
            NextHop("eth3", dst_mac="02:00:00:00:00:01"),
        ),
    ],
)
def test_next_hops(backend, reached, hop):
    assert next_hop(backend, reached) == hop


def test_outer_headers():
    plain = Outer(4, 1, padded("10.2.0.1"), padded("10.2.0.11"), 0, 0)
    assert outer(WEB, ONE, "10.2.0.1") == plain
    assert outer(WEB, ONE, None) is None
    assert outer(service(local="10.2.0.9"), ONE, None) == Outer(4, 1, padded("10.2.0.9"), padded("10.2.0.11"), 0, 0)
    gue = outer(service(encap="gue", gue_port=7000), ONE6, "fd00:2::1")
    assert gue == Outer(6, 2, packed("fd00:2::1"), packed("fd00:2::11"), 0, 7000)


@pytest.mark.parametrize(
    ("local", "first", "octets"),
    [
        ("10.200.0.0/24", "10.200.0.0", b"\0\0\0\xff"),
        ("10.200.0.0/20", "10.200.0.0", b"\0\0\x0f\xff"),
        ("10.200.0.0/32", "10.200.0.0", bytes(4)),
    ],
)
def test_the_bits_that_vary_are_those_of_the_prefix_as_they_lie_in_a_packet(local, first, octets):
    header = outer(service(local=local), ONE, None)
    assert header is not None
    assert (header.source, header.vary.to_bytes(4, "little")) == (padded(first), octets)


def test_of_an_ipv6_prefix_the_last_word_varies():
    header = outer(service(local="fd00:200::/64"), ONE6, None)
    assert header is not None
    assert (header.source, header.vary) == (packed("fd00:200::"), 0xFFFFFFFF)


@given(st.ip_addresses().map(str))
def test_addresses_come_back(address):
    assert text_of(6 if ":" in address else 4, padded(address)) == address


# mtu


@pytest.mark.parametrize(
    ("family", "encap", "octets"), [(4, "ipip", 20), (6, "ipip", 40), (4, "gue", 28), (6, "gue", 48)]
)
def test_overhead(family, encap, octets):
    assert overhead(family, encap) == octets


@pytest.mark.parametrize(
    ("of", "backend", "least"),
    [(WEB, ONE, 596), (WEB, ONE6, 616), (WEB6, ONE6, 1320), (service(encap="gue"), ONE, 604)],
)
def test_the_least_mtu_is_told_with_what_leads_to_it(of, backend, least):
    check_mtu(of, backend, "eth1", least)
    with pytest.raises(InvalidInput) as refused:
        check_mtu(of, backend, "eth1", least - 1)
    text = str(refused.value)
    assert f"mtu {least - 1} of eth1" in text
    assert f"`ip link set eth1 mtu {least}`" in text


def test_clients_whose_packets_do_not_fit_are_warned_of():
    assert mtu_warning(WEB, ONE, "eth1", 1520, 1500) is None
    warned = mtu_warning(WEB, ONE, "eth1", 1500, 1500)
    assert warned is not None
    assert "leaves 1480" in warned
    assert "an mtu of 1520 on eth1" in warned


# decap


def test_keys_of_accepted_pairs():
    key = decap_key(Decap("10.2.0.11", "10.1.0.0/16"))
    assert key == (32 + 32 + 16).to_bytes(4, "little") + b"\0\0\0\1" + packed("10.2.0.11") + packed("10.1.0.0")
    assert decap_key(Decap("10.2.0.11", "any", "gue"))[:8] == (64).to_bytes(4, "little") + b"\0\0\0\2"
    six = decap_key(Decap("fd00:2::11", "fd00:1::1"))
    assert (int.from_bytes(six[:4], "little"), len(six)) == (32 + 128 + 128, 40)
