"""What forward means, without a kernel: next hops, what their adjacencies hold, and the keys of destinations."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopline.config import Forward, NextHop
from hopline.features.forward import (
    Adjacency,
    Device,
    Facts,
    covering,
    destination_of,
    device_of,
    freshness,
    key_of,
    keys_of,
    mac_word,
    packed_next_hop,
    parse_mac,
    recovered_next_hop,
    resolve,
    table_of,
    trie_key,
    word_mac,
)

OURS, THEIRS, OTHER = "02:00:00:00:02:01", "02:00:00:00:02:02", "0e:aa:bb:cc:dd:ee"
RIGHT = Device("right", index=7, slot=3, mac=parse_mac(OURS), mtu=1500, usable=True)
DOWN = Device("down", index=8, slot=4, mac=parse_mac(OURS), mtu=1500, usable=False)
JUMBO = Device("jumbo", index=9, slot=255, mac=parse_mac(OURS), mtu=1 << 20, usable=True)
FACTS = Facts(
    devices={device.name: device for device in (RIGHT, DOWN, JUMBO)},
    macs={(7, "10.2.0.2"): parse_mac(THEIRS), (7, "fd00:2::2"): parse_mac(OTHER), (8, "10.2.0.2"): parse_mac(THEIRS)},
    reach={"10.2.0.2": "right", "10.2.0.9": "right", "10.4.0.2": "gone"},
)
SOURCE = mac_word(parse_mac(OURS), 3)
VIA4 = ip_address("10.2.0.2").packed + bytes(12)
VIA6 = ip_address("fd00:2::2").packed

macs = st.binary(min_size=6, max_size=6)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@st.composite
def prefixes(draw):
    address = draw(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
    return str(ip_network((address, draw(st.integers(0, address.max_prefixlen - 1))), strict=False))


# next hop, and the adjacency that it must have
RESOLVED = {
    "a device and a MAC": (
        NextHop(dev="right", dst_mac=THEIRS),
        Adjacency("READY", mac_word(parse_mac(THEIRS), 1500), SOURCE, 7),
    ),
    "a source MAC in the device's place": (
        NextHop(dev="right", src_mac=OTHER, dst_mac=THEIRS),
        Adjacency("READY", mac_word(parse_mac(THEIRS), 1500), mac_word(parse_mac(OTHER), 3), 7),
    ),
    "an mtu above 16 bits is cut, not wrapped": (
        NextHop(dev="jumbo", dst_mac=THEIRS),
        Adjacency("READY", mac_word(parse_mac(THEIRS), 0xFFFF), mac_word(parse_mac(OURS), 255), 9),
    ),
    "a neighbour": (
        NextHop(via="10.2.0.2"),
        Adjacency("READY", mac_word(parse_mac(THEIRS), 1500), SOURCE, 7, 4, VIA4),
    ),
    "a neighbour on a device that is named, whatever reaches it": (
        NextHop(dev="right", via="fd00:2::2"),
        Adjacency("READY", mac_word(parse_mac(OTHER), 1500), SOURCE, 7, 6, VIA6),
    ),
    "a neighbour without a MAC": (
        NextHop(via="10.2.0.9"),
        Adjacency("UNRESOLVED", 0, SOURCE, 7, 4, ip_address("10.2.0.9").packed + bytes(12)),
    ),
    "a neighbour whose MAC is known on another device only": (
        NextHop(dev="jumbo", via="10.2.0.2"),
        Adjacency("UNRESOLVED", 0, mac_word(parse_mac(OURS), 255), 9, 4, VIA4),
    ),
    "a device that is down": (
        NextHop(dev="down", dst_mac=THEIRS),
        Adjacency("NO_DEVICE", 0, mac_word(parse_mac(OURS), 4), 8),
    ),
    "a neighbour on a device that is down": (
        NextHop(dev="down", via="10.2.0.2"),
        Adjacency("NO_DEVICE", 0, mac_word(parse_mac(OURS), 4), 8, 4, VIA4),
    ),
    "a device that is not there": (NextHop(dev="absent", dst_mac=THEIRS), Adjacency("NO_DEVICE")),
    "a neighbour that nothing reaches": (
        NextHop(via="10.5.0.2"),
        Adjacency("NO_DEVICE", family=4, next_hop=ip_address("10.5.0.2").packed + bytes(12)),
    ),
    "a neighbour reached by a device that has gone": (
        NextHop(via="10.4.0.2"),
        Adjacency("NO_DEVICE", family=4, next_hop=ip_address("10.4.0.2").packed + bytes(12)),
    ),
}


@pytest.mark.parametrize("name", RESOLVED)
def test_what_the_adjacency_of_a_next_hop_holds(name):
    hop, adjacency = RESOLVED[name]
    assert resolve(hop, FACTS) == adjacency


def test_without_facts_no_next_hop_has_a_device():
    for hop, _ in RESOLVED.values():
        assert device_of(hop, Facts()) is None
        assert resolve(hop, Facts()).state == "NO_DEVICE"


@pytest.mark.parametrize("name", RESOLVED)
def test_what_is_not_ready_has_no_destination_and_with_it_an_mtu_of_0(name):
    adjacency = resolve(RESOLVED[name][0], FACTS)
    assert (adjacency.state == "READY") == (adjacency.destination != 0)
    assert len(adjacency.next_hop) == 16


def test_a_next_hop_and_its_entry_say_the_same():
    forward = Forward(to="10.9.0.0/24", dev="right", src_mac=OTHER, dst_mac=THEIRS)
    hop = NextHop.of(forward)
    assert hop == NextHop(dev="right", src_mac=OTHER, dst_mac=THEIRS)
    assert hop.entry("10.9.0.0/24") == forward
    followed = Forward(to="fd00:9::1", via="fd00:2::2")
    assert NextHop.of(followed).entry("fd00:9::1") == followed


@pytest.mark.parametrize(
    ("hop", "state", "takes", "fresh"),
    [
        (NextHop(dev="right", dst_mac=THEIRS), "READY", True, "always"),
        (NextHop(via="10.2.0.2"), "READY", True, "followed"),
        (NextHop(dev="right", dst_mac=THEIRS), "READY", False, "no redirect"),
        (NextHop(via="10.2.0.2"), "READY", False, "no redirect"),
        (NextHop(via="10.2.0.9"), "UNRESOLVED", True, "no neighbour"),
        (NextHop(via="10.2.0.9"), "UNRESOLVED", False, "no neighbour"),
        (NextHop(dev="absent", dst_mac=THEIRS), "NO_DEVICE", False, "no device"),
    ],
)
def test_how_an_entry_stands_in_a_word_or_two(hop, state, takes, fresh):
    assert freshness(hop, Adjacency(state), takes) == fresh


# words


def test_the_first_octet_of_a_mac_is_the_lowest_of_its_word_and_the_top_16_bits_are_free():
    assert mac_word(bytes.fromhex("0200000001fe"), 0x05DC) == 0x05DC_FE01_0000_0002
    assert word_mac(0x05DC_FE01_0000_0002) == "02:00:00:00:01:fe"


@given(macs, st.integers(0, 0xFFFF))
def test_a_mac_comes_out_of_its_word_as_it_went_in(mac, top):
    word = mac_word(mac, top)
    assert word < 1 << 64
    assert word >> 48 == top
    assert parse_mac(word_mac(word)) == mac
    assert word.to_bytes(8, "little")[:6] == mac


def test_a_next_hops_address_takes_16_octets_whatever_its_family():
    assert packed_next_hop(None) == (0, bytes(16))
    assert packed_next_hop("10.2.0.2") == (4, VIA4)
    assert packed_next_hop("fd00:2::2") == (6, VIA6)


# keys


@pytest.mark.parametrize(
    ("to", "table", "key"),
    [
        ("10.50.0.1", "forward_exact4", "0a320001"),
        ("fd00::1", "forward_exact6", "fd00" + "00" * 13 + "01"),
        ("10.51.0.0/16", "forward_prefix4", "100000000a330000"),
        ("0.0.0.0/0", "forward_prefix4", "0000000000000000"),
        ("fd00:99::/32", "forward_prefix6", "20000000fd000099" + "00" * 12),
        ("::/0", "forward_prefix6", "00" * 20),
    ],
)
def test_a_destinations_table_and_key(to, table, key):
    assert table_of(to) == table
    assert key_of(to).hex() == key
    assert destination_of(table, key_of(to)) == to


def test_an_address_in_a_trie_is_a_prefix_of_full_length():
    assert trie_key("10.1.0.1").hex() == "200000000a010001"
    assert trie_key("fd00::1").hex() == "80000000fd00" + "00" * 13 + "01"
    assert trie_key("10.0.0.0/8") == key_of("10.0.0.0/8")


@given(st.one_of(addresses, prefixes()))
def test_a_key_says_its_destination(to):
    key = key_of(to)
    assert destination_of(table_of(to), key) == to
    assert len(key) == (16 if ":" in to else 4) + (4 if "/" in to else 0)


# which destination covers an address


ENTRIES = dict.fromkeys(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "fd00::/16", "fd00:1::/64"], 1)


@pytest.mark.parametrize(
    ("address", "entry"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.4", "10.1.0.0/16"),
        ("10.2.0.0", "10.0.0.0/8"),
        ("192.0.2.1", "0.0.0.0/0"),
        ("fd00:1::9", "fd00:1::/64"),
        ("fd00:2::9", "fd00::/16"),
        ("2001:db8::1", None),
        ("::", None),
    ],
)
def test_the_most_specific_destination_decides(address, entry):
    assert covering(address, ENTRIES) == entry


def test_no_entries_cover_nothing():
    assert covering("10.0.0.1", {}) is None


@given(st.ip_addresses(v=4), st.lists(st.tuples(st.ip_addresses(v=4), st.integers(0, 31)), max_size=8))
def test_covering_is_the_longest_of_those_that_hold_the_address(address, pairs):
    networks = [ip_network(pair, strict=False) for pair in pairs]
    holding = [network for network in networks if address in network]
    expected = str(max(holding, key=lambda network: network.prefixlen)) if holding else None
    assert covering(str(address), {str(network): 1 for network in networks}) == expected


# what a lost store is made up from

NAMES = {7: "right", 8: "down", 9: "jumbo"}


@pytest.mark.parametrize("state", ["READY", "UNRESOLVED", "NO_DEVICE"])
def test_a_followed_next_hop_is_recovered_in_any_state(state):
    for via, family, packed in (("10.2.0.2", 4, VIA4), ("fd00:2::2", 6, VIA6)):
        adjacency = Adjacency(state, 5, SOURCE, 7, family, packed)
        assert recovered_next_hop(adjacency, NAMES) == NextHop(dev="right", via=via)
        unknown = Adjacency(state, 0, 0, 0, family, packed)
        assert recovered_next_hop(unknown, NAMES) == NextHop(via=via)


def test_a_fixed_next_hop_is_recovered_with_both_macs_where_they_and_the_device_are_known():
    ready = resolve(NextHop(dev="right", dst_mac=THEIRS), FACTS)
    assert recovered_next_hop(ready, NAMES) == NextHop(dev="right", src_mac=OURS, dst_mac=THEIRS)
    assert recovered_next_hop(ready, {}) is None
    assert recovered_next_hop(resolve(NextHop(dev="down", dst_mac=THEIRS), FACTS), NAMES) is None


@pytest.mark.parametrize("name", RESOLVED)
def test_what_is_recovered_resolves_to_what_was_there(name):
    adjacency = resolve(RESOLVED[name][0], FACTS)
    hop = recovered_next_hop(adjacency, NAMES)
    if hop is not None:
        assert resolve(hop, FACTS) == adjacency


@given(
    st.one_of(st.lists(st.ip_addresses(v=4).map(str)), st.lists(st.ip_addresses(v=6).map(str)), st.lists(prefixes()))
)
def test_many_keys_are_those_of_each(destinations):
    one_table = [to for to in destinations if table_of(to) == table_of(destinations[0])]
    assert keys_of(one_table) == b"".join(map(key_of, one_table))
