"""What makes a value of the intent right, and what its refusal says."""

import contextlib
import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopline.config import (
    Forward,
    Intent,
    Interface,
    NextHop,
    NextHops,
    canonical_address,
    canonical_destination,
    canonical_mac,
    checked_forward,
    checked_forwards,
    checked_interface,
    device_name,
    doubtful_destinations,
    instance_name,
)
from hopline.errors import InvalidInput, InvalidInputs

MAC = "08:00:27:f2:cb:f9"


def refusal(function, *arguments):
    with pytest.raises(InvalidInput) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return caught.value


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.10.3.5", "10.10.3.5"),
        ("10.10.3.5/32", "10.10.3.5"),
        ("10.10.3.0/24", "10.10.3.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("0.0.0.0/1", "0.0.0.0/1"),
        ("128.0.0.0/1", "128.0.0.0/1"),
        ("223.255.255.255", "223.255.255.255"),
        ("240.0.0.1", "240.0.0.1"),
        ("::/0", "::/0"),
        ("2001:DB8:0::5", "2001:db8::5"),
        ("2001:db8::5/128", "2001:db8::5"),
        ("2001:db8::/64", "2001:db8::/64"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_a_destination_has_one_spelling(text, canonical):
    assert canonical_destination(text) == canonical
    assert canonical_destination(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "detail", "hint"),
    [
        ("10.0.0.7/24", "has host bits set", "write 10.0.0.0/24, or 10.0.0.7 for the one address"),
        ("2001:db8::1/64", "has host bits set", "write 2001:db8::/64"),
        ("::ffff:10.0.0.1", "IPv4-mapped", "write 10.0.0.1"),
        ("::ffff:10.0.0.0/120", "IPv4-mapped", "write 10.0.0.0/24"),
        ("::ffff:0:0/96", "IPv4-mapped", "write 0.0.0.0/0"),
        ("224.0.0.1", "multicast", "unicast"),
        ("239.1.0.0/16", "multicast", "unicast"),
        ("224.0.0.0/4", "multicast", "unicast"),
        ("ff02::1", "multicast", "unicast"),
        ("255.255.255.255", "broadcast", "unicast"),
        ("0.0.0.0", "unspecified", "unicast"),
        ("::", "unspecified", "unicast"),
        ("127.0.0.1", "loopback", "unicast"),
        ("127.0.0.0/8", "loopback", "unicast"),
        ("::1", "loopback", "unicast"),
        ("fe80::1", "link-local", "unicast"),
        ("fe80::1%eth0", "has a zone", "dev"),
        ("10.0.0.0/33", "not a prefix length", "0 to 32"),
        ("10.0.0.0/", "not a prefix length", "0 to 32"),
        ("10.0.0.0/-1", "not a prefix length", "0 to 32"),
        ("10.0.0.0/08", "not a prefix length", "0 to 32"),
        ("10.0.0.0/255.0.0.0", "not a prefix length", "0 to 32"),
        ("10.0.0.0/8/8", "not a prefix length", "0 to 32"),
        ("10.0.0.0/٨", "not a prefix length", "0 to 32"),
        ("2001:db8::/129", "not a prefix length", "0 to 128"),
        ("010.0.0.1", "not an IP address", "10.10.3.5"),
        ("10.0.0", "not an IP address", "10.10.3.5"),
        ("1", "not an IP address", "10.10.3.5"),
        (" 10.0.0.1", "not an IP address", "10.10.3.5"),
        ("10.0.0.1\n", "not an IP address", "10.10.3.5"),
        ("10.0.0.1\0", "not an IP address", "10.10.3.5"),
        ("", "not an IP address", "10.10.3.5"),
        ("x" * 10_000, "not an IP address", "10.10.3.5"),
        ("\ud800", "not an IP address", "10.10.3.5"),
    ],
)
def test_a_destination_that_cannot_be_says_what_would_do(text, detail, hint):
    error = refusal(canonical_destination, text)
    assert error.field == "to"
    assert detail in error.detail
    assert hint in error.hint


@given(st.ip_addresses(v=4))
def test_the_quick_way_for_plain_addresses_decides_as_the_long_one(address):
    never = address.is_multicast or address.is_loopback or int(address) in (0, 0xFFFFFFFF)
    if never:
        refusal(canonical_destination, str(address))
    else:
        assert canonical_destination(str(address)) == canonical_destination(f"{address}/32") == str(address)


@given(st.text())
def test_no_text_makes_it_fall_over(text):
    for function in (canonical_destination, canonical_address, canonical_mac, device_name, instance_name):
        with contextlib.suppress(InvalidInput):
            function(text)


@given(st.ip_addresses(v=6), st.integers(0, 128))
def test_an_ipv6_prefix_is_as_the_standard_library_has_it(address, width):
    network = ipaddress.IPv6Network((int(address), width), strict=False)
    if width < 8:
        assert canonical_destination(str(network)) == str(network)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128), st.booleans())
def test_the_quick_way_for_prefixes_decides_as_the_long_one(address, width, strict):
    address = type(address)(int(address) & -1 << width % 99) if strict else address
    text = f"{address}/{min(width, address.max_prefixlen)}"
    # no IPv6 address with letters is quick in capitals
    assert outcome(text) == outcome(text.upper())


def outcome(text):
    try:
        return canonical_destination(text)
    except InvalidInput:
        return None


@pytest.mark.parametrize("text", ["10.0.0.0/24", "10.0.0.0/8", "126.0.0.0/9", "2001:db8::/32", "fd00::/8", "2000::/8"])
def test_a_prefix_in_its_one_spelling_stays(text):
    assert canonical_destination(text) == text == str(ipaddress.ip_network(text))


@given(st.integers(0, (1 << 125) - 1))
def test_the_c_library_spells_unicast_as_the_standard_library_does(bits):
    address = ipaddress.IPv6Address((1 << 125) + bits)
    assert canonical_destination(address.exploded) == canonical_destination(str(address)) == str(address)


plain = st.sampled_from(["10.0.0.1", "223.255.255.255", "1.0.0.0", "2001:db8::1", "fd00::", "10.0.0.0/8", "fd00::/8"])
odd = st.one_of(
    st.sampled_from(["0.0.0.1", "127.0.0.1", "224.0.0.1", "010.0.0.1", "10.0.0.1/32", "10.1/16", "fe80::1", "::", ""]),
    st.sampled_from(["::ffff:10.0.0.1", "2001:DB8::1", "2001:db8:0::1", "10.0.0.1/8", "10.0.0.1\n", "\x0010.0.0.1"]),
    st.ip_addresses().map(str),
    st.text(max_size=8),
)


@given(st.lists(plain), st.lists(odd, max_size=2), st.randoms())
def test_of_many_destinations_none_is_taken_that_has_another_spelling(right, doubtful, dice):
    texts = [*right, *doubtful]
    dice.shuffle(texts)
    found = doubtful_destinations(texts)
    for text in set(texts) - set(found):
        assert canonical_destination(text) == text
    if not doubtful:
        assert all("/" in text for text in found)


def test_an_address_to_ask_about_may_be_of_any_kind():
    assert canonical_address("224.0.0.1") == "224.0.0.1"
    assert canonical_address("FE80::1") == "fe80::1"
    assert refusal(canonical_address, "::ffff:10.0.0.1").hint == "write 10.0.0.1"
    assert "prefix" in refusal(canonical_address, "10.0.0.0/8").detail
    assert "zone" in refusal(canonical_address, "fe80::1%2").detail
    assert refusal(canonical_address, "10.0.0.0/8\n\x1b[2J").detail == r"'10.0.0.0/8\n\x1b[2J' is a prefix"


def test_a_mac_address_is_lower_case_and_one_station_s():
    assert canonical_mac("08:00:27:F2:CB:F9") == MAC
    for text, detail in [
        ("ff:ff:ff:ff:ff:ff", "broadcast"),
        ("01:00:5e:00:00:01", "multicast"),
        ("00:00:00:00:00:00", "nobody"),
        ("08-00-27-f2-cb-f9", "not a MAC address"),
        ("8:0:27:f2:cb:f9", "not a MAC address"),
        ("08:00:27:f2:cb", "not a MAC address"),
        ("08:00:27:f2:cb:f9:00", "not a MAC address"),
        ("08:00:27:f2:cb:g9", "not a MAC address"),
        (MAC + "\n", "not a MAC address"),
        ("", "not a MAC address"),
    ]:
        error = refusal(canonical_mac, text, "src_mac")
        assert error.field == "src_mac"
        assert detail in error.detail


def test_a_device_name_is_what_the_kernel_would_take():
    for name in ("lo", "enp0s9", "veth-a.100", "a" * 15, "ü", "br_lan@x"):
        assert device_name(name) == name
    for name in ("", ".", "..", "a" * 16, "ü" * 8, "a b", "a/b", "a:b", "a\tb", "a\0", "a\n", "\ud800"):
        assert refusal(device_name, name).field == "dev"


def test_an_instance_s_name_is_safe_in_a_path():
    assert instance_name("lab_1-a") == "lab_1-a"
    for name in ("", ".", "..", "a/b", "a.b", "a" * 33, "é", "a\n"):
        refusal(instance_name, name)


def test_a_forward_goes_by_dev_and_mac_or_by_via():
    direct = checked_forward(Forward("10.0.0.5/32", dev="enp0s9", src_mac=MAC.upper(), dst_mac=MAC.upper()))
    assert direct == Forward("10.0.0.5", dev="enp0s9", src_mac=MAC, dst_mac=MAC)
    assert checked_forward(Forward("10.0.0.5", via="10.0.0.5")).via == "10.0.0.5"
    assert checked_forward(Forward("2001:db8::/32", via="FE80::1", dev="enp0s9")).via == "fe80::1"


@pytest.mark.parametrize(
    ("forward", "field"),
    [
        (Forward("10.0.0.5"), "dev"),
        (Forward("10.0.0.5", dev="a"), "dst_mac"),
        (Forward("10.0.0.5", dst_mac=MAC), "dev"),
        (Forward("10.0.0.5", dev="a", dst_mac=MAC, via="10.0.0.1"), "dst_mac"),
        (Forward("10.0.0.5", src_mac=MAC, via="10.0.0.1"), "src_mac"),
        (Forward("10.0.0.5", via="2001:db8::1"), "via"),
        (Forward("2001:db8::5", via="10.0.0.1"), "via"),
        (Forward("2001:db8::5", via="fe80::1"), "via"),
        (Forward("2001:db8::5", via="ff02::1", dev="a"), "via"),
        (Forward("10.0.0.5", via="127.0.0.1"), "via"),
        (Forward("10.0.0.5", via="0.0.0.0"), "via"),
        (Forward("10.0.0.5", via="255.255.255.255"), "via"),
        (Forward("10.0.0.5", via="10.0.0.0/24"), "via"),
        (Forward("10.0.0.5", via="::ffff:10.0.0.1"), "via"),
        (Forward("10.0.0.5", via=""), "via"),
    ],
)
def test_a_forward_that_cannot_be_names_its_field(forward, field):
    assert refusal(checked_forward, forward).field == field
    assert refusal(checked_forward, forward, "forward[7].").field == f"forward[7].{field}"


def test_a_list_names_the_place_and_finds_twins():
    good = Forward("10.0.0.5", via="10.0.0.1")
    assert checked_forwards([good]) == [good]
    assert refusal(checked_forwards, [good, Forward("bad", via="10.0.0.1")]).field == "forward[1].to"
    twin = refusal(checked_forwards, [good, Forward("10.0.0.5/32", via="10.0.0.1")])
    assert (twin.field, "forward[0]" in twin.detail) == ("forward[1].to", True)


def test_everything_that_is_wrong_with_an_entry_is_said():
    error = refusal(checked_forward, Forward("bad", dev="a b", src_mac="zz", dst_mac="zz"), "forward[7].")
    fields = [problem.field for problem in error.problems]
    assert fields == ["forward[7].to", "forward[7].dev", "forward[7].src_mac", "forward[7].dst_mac"]
    assert (error.field, error.count) == ("forward[7].to", 4)
    missing = refusal(checked_forward, Forward("10.0.0.5", src_mac="zz"))
    assert [problem.field for problem in missing.problems] == ["src_mac", "dev", "dst_mac"]
    both = refusal(checked_interface, Interface("a b", "fast"))
    assert [problem.field for problem in both.problems] == ["name", "mode"]


def test_of_many_that_are_wrong_twenty_are_named_and_all_are_counted():
    entries = [Forward(f"10.0.{n >> 8}.{n & 255}", via="10.0.0.1" if n % 40 else "x") for n in range(1000)]
    error = refusal(checked_forwards, entries)
    assert isinstance(error, InvalidInputs)
    assert (len(error.problems), error.count) == (20, 25)
    assert [problem.field for problem in error.problems] == [f"forward[{n * 40}].via" for n in range(20)]


def test_equal_next_hops_are_checked_once_and_are_one_object():
    hops = NextHops()
    entries = [Forward(f"10.0.0.{n}/32", dev="a", dst_mac=MAC.upper() if n & 1 else MAC) for n in range(1, 9)]
    checked = [hops.checked(entry) for entry in entries]
    assert [to for to, _ in checked] == [f"10.0.0.{n}" for n in range(1, 9)]
    assert {id(hop) for _, hop in checked} == {id(checked[0][1])}
    # a next hop that is right for one family is not for the other
    assert hops.checked(Forward("10.0.0.9", via="10.0.0.1"))[1] == NextHop(via="10.0.0.1")
    assert refusal(hops.checked, Forward("2001:db8::1", via="10.0.0.1")).field == "via"
    assert refusal(hops.checked, Forward("10.0.0.9/8", via="10.0.0.1")).field == "to"


def test_an_interface_has_a_name_and_a_mode():
    assert checked_interface(Interface("enp0s3", "native")).mode == "native"
    assert refusal(checked_interface, Interface("a b")).field == "name"
    assert refusal(checked_interface, Interface("a", "fast")).field == "mode"


def test_the_types_are_the_document_s():
    text = b'{"interface": [{"name": "enp0s3"}], "forward": [{"to": "10.0.0.5", "via": "10.0.0.1"}]}'
    intent = msgspec.json.decode(text, type=Intent)
    assert intent == Intent((Interface("enp0s3"),), (Forward("10.0.0.5", via="10.0.0.1"),))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"forward": [{"to": "10.0.0.5", "mtu": 1}]}', type=Intent)
