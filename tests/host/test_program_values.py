"""Words to octets: each kind of field, what does not fit, which words are the key's, and back again by rows.py."""

import json
import random
import shlex
import socket
import struct

import pytest

from hopline.errors import InvalidInput
from hopline.host.program import values
from hopline.host.program.rows import one
from hopline.host.program.shapes import Prefix, Scalar
from host.program_types import shape


def everything() -> dict[str, str]:
    """A word for each field of struct everything that stands for itself."""
    return dict(word.split("=", 1) for word in shlex.split(one(shape("everything"), bytes(shape("everything").size))))


def written(*words: str, struct_name: str = "everything", before: bytes = b"") -> dict:
    """What a struct is once these words are put into it, as JSON."""
    layout = shape(struct_name)
    return json.loads(one(layout, values.encode(layout, words, "value", before), as_json=True))


@pytest.mark.parametrize(
    ("word", "path", "octets"),
    [
        ("numbers.u8=255", "numbers.u8", b"\xff"),
        ("numbers.s8=-0x80", "numbers.s8", b"\x80"),
        ("numbers.u16=0xBEEF", "numbers.u16", b"\xef\xbe"),
        ("numbers.be16=443", "numbers.be16", b"\x01\xbb"),
        ("numbers.be64=1", "numbers.be64", b"\0\0\0\0\0\0\0\1"),
        ("numbers.u32=10.1.2.3", "numbers.u32", b"\x0a\1\2\3"),
        ("numbers.s64=-1", "numbers.s64", b"\xff" * 8),
        ("yes=on", "yes", b"\1"),
        ("weather=WARM", "weather", b"\5\0\0\0"),
        ("weather=COLD", "weather", b"\xff\xff\xff\xff"),
        ("plain=7", "plain", b"\7\0\0\0"),
        ("address=192.0.2.1", "address", b"\xc0\0\2\1"),
        ("ip4=0x0a000001", "ip4", b"\x0a\0\0\1"),
        ("six=2001:db8::1", "six", b"\x20\1\x0d\xb8" + bytes(11) + b"\1"),
        ("ip6=::ffff:1.2.3.4", "ip6", bytes(10) + b"\xff\xff\1\2\3\4"),
        ("words=fe80::1", "words", b"\xfe\x80" + bytes(13) + b"\1"),
        ("mac=02:00:00:00:00:0a", "mac", b"\2\0\0\0\0\x0a"),
        ("hw=02-00-00-00-00-0A", "hw", b"\2\0\0\0\0\x0a"),
        ("octets=10.1.2.3", "octets", b"\x0a\1\2\3"),
        ("octets=1,2,3,0xff", "octets", b"\1\2\3\xff"),
        ("octets[2]=9", "octets", b"\0\0\x09\0"),
        ("list=1,2,65535", "list", b"\1\0\2\0\xff\xff"),
        ("name=hopline8", "name", b"hopline8"),
        ("name=a=b c", "name", b"a=b c\0\0\0"),
        ("inner.b=-2", "inner", b"\0\0\xfe\xff"),
        ("many[1].a=3", "many", b"\0\0\0\0\3\0\0\0"),
        ("either.v6=::1", "either", bytes(15) + b"\1"),
        ("two=0x102", "two", b"\2\1"),
        ("real=1.5", "real", struct.pack("<d", 1.5)),
        ("pointer=0x10", "pointer", struct.pack("<Q", 16)),
    ],
)
def test_a_word_becomes_octets_in_their_place(word, path, octets):
    layout = shape("everything")
    inner, offset = values._find(layout, path, "value")
    found = values.encode(layout, [word], "value")
    assert found[offset : offset + inner.size] == octets
    assert found[:offset] + found[offset + inner.size :] == bytes(layout.size - len(octets)), (
        "something else was written"
    )


def test_bitfields_leave_their_neighbours_alone():
    layout = shape("everything")
    full = values.encode(layout, ["low=15", "middle=33554431", "negative=-1", "bit=true"], "value")
    for word, name, value in (("low=0", "low", 0), ("middle=5", "middle", 5), ("negative=-16", "negative", -16)):
        told = json.loads(one(layout, values.encode(layout, [word], "value", full), as_json=True))
        wanted = {"low": 15, "middle": 33554431, "negative": -1, "bit": True} | {name: value}
        assert {field: told[field] for field in wanted} == wanted


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("numbers.u8=256", "value numbers.u8: 256 is out of range: give 0 to 255"),
        ("numbers.u8=-1", "value numbers.u8: -1 is out of range: give 0 to 255"),
        ("numbers.s8=128", "value numbers.s8: 128 is out of range: give -128 to 127"),
        ("numbers.be16=65536", "value numbers.be16: 65536 is out of range: give 0 to 65535"),
        ("numbers.u64=18446744073709551616", "value numbers.u64: 18446744073709551616 is out of range: give 0 to"),
        pytest.param("numbers.u32=" + "9" * 5000, "value numbers.u32: 999", id="digits"),
        ("numbers.u32=1.2.3.256", "value numbers.u32: 1.2.3.256 is not what it holds"),
        ("numbers.u32=1e3", "value numbers.u32: 1e3 is not a whole number"),
        ("numbers.u32=1_0", "value numbers.u32: 1_0 is not a whole number"),
        ("numbers.u32=", "value numbers.u32: '' is not a whole number"),
        ("low=16", "value low: 16 is out of range: give 0 to 15"),
        ("negative=16", "value negative: 16 is out of range: give -16 to 15"),
        ("yes=2", "value yes: 2 is neither true nor false: write true or false"),
        ("weather=HOT", "value weather: HOT is no member of its enum: write one of COLD, MILD, WARM"),
        ("ip4=10.0.0", "value ip4: 10.0.0 is not what it holds: write an IPv4 address such as 10.10.3.5"),
        ("ip4=300.0.0.1", "value ip4: 300.0.0.1 is not what it holds"),
        ("six=10.0.0.1", "value six: 10.0.0.1 is not what it holds: write an IPv6 address"),
        ("six=fe80::1%lo", "value six: fe80::1%lo is not what it holds"),
        ("mac=02:00:00:00:00", "value mac: 02:00:00:00:00 is not what it holds: write six octets"),
        ("mac=02:00:00:00:00-01", "value mac: 02:00:00:00:00-01 is not what it holds"),
        ("octets=1,2,3", "value octets: 3 elements given: write 4 elements with commas, or [i]=value"),
        ("octets=1,2,3,256", "value octets[3]: 256 is out of range: give 0 to 255"),
        ("octets[4]=1", "value octets[4]: no element 4: there are 0 to 3"),
        ("name=ninechars", "value name: ninechars is not what it holds: write at most 8 octets of text"),
        ("inner=5", "value inner: 5 does not say which field: write field=value; its fields are a, b"),
        ("inner.c=5", "value inner.c: no field c: it has a, b"),
        ("numbers.u8.x=5", "value numbers.u8.x: no field x: write a number from 0 to 255"),
        ("absent=5", "value absent: no field absent: it has numbers, yes, weather"),
        ("5", "value: 5 does not say which field: write field=value"),
        ("real=x", "value real: x is not what it holds: write a decimal number"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_field(word, said):
    with pytest.raises(InvalidInput) as caught:
        values.encode(shape("everything"), [word], "value")
    assert str(caught.value).startswith(said)


def test_fields_that_are_not_named_stay():
    before = values.encode(shape("counter"), ["packets=5", "bytes=7"], "value")
    assert written("bytes=8", struct_name="counter", before=before) == {"packets": 5, "bytes": 8}
    with pytest.raises(InvalidInput, match="value packets: is given twice"):
        written("packets=1", "packets=2", struct_name="counter")
    with pytest.raises(InvalidInput, match="value: 7 does not say which field: write field=value"):
        written("packets=1", "7", struct_name="counter")
    with pytest.raises(InvalidInput, match="key: 2 is one word too many: write a number from 0 to 4294967295"):
        values.encode_key(Scalar("uint", 4, "__u32"), ["1", "2"])


def test_an_index_of_a_device_may_be_its_name():
    found = values.encode(shape("egress"), ["out_ifindex=lo", "other=7"], "value")
    assert found == struct.pack("<II", socket.if_nametoindex("lo"), 7)
    for word, said in (
        ("out_ifindex=hl-none", "no device hl-none in this namespace"),
        ("other=lo", "lo is not a whole"),
    ):
        with pytest.raises(InvalidInput, match=said):
            values.encode(shape("egress"), [word], "value")


FLOW = ["from=10.0.0.1", "port=80", "inner.a=1", "inner.b=-1"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (FLOW, ["packets=1"]),
        (FLOW, ["port=80"]),  # a field of the value that is called as one of the key
        (FLOW, ["7"]),
        (FLOW, []),
        ([*FLOW, "pad=0,0"], ["packets=1", "bytes=2"]),
        ([*FLOW, "pad[0]=1", "pad[1]=2"], ["pad=5"]),
        (["pad=1,1", *reversed(FLOW)], ["packets=1"]),
    ],
)
def test_the_words_of_a_struct_key_end_where_it_is_whole(key, value):
    assert values.split(shape("flow"), [*key, *value]) == (key, value)
    assert len(values.encode_key(shape("flow"), key)) == shape("flow").size


def test_other_keys_are_one_word_or_as_many_octets():
    assert values.split(Scalar("uint", 4, "__u32"), ["1", "a=2"]) == (["1"], ["a=2"])
    assert values.split(shape("one"), ["5", "6"]) == (["5"], ["6"])
    octets = Scalar("octets", 4, "octets")
    assert values.split(octets, ["0a", "00", "00", "01", "ff"]) == (["0a", "00", "00", "01"], ["ff"])
    assert values.split(octets, ["0a000001", "ff"]) == (["0a000001"], ["ff"])
    array = next(field.shape for field in shape("everything").fields if field.name == "octets")
    assert values.split(array, ["[0]=1", "[3]=2", "x=3"]) == (["[0]=1", "[3]=2"], ["x=3"])


def test_a_key_must_be_whole_but_for_its_padding():
    with pytest.raises(InvalidInput, match=r"key: no port, inner.b in it: give all fields of the key, field=value"):
        values.encode_key(shape("flow"), ["from=10.0.0.1", "inner.a=1"])
    assert values.encode_key(shape("flow"), FLOW)[:6] == b"\x0a\0\0\1\x50\0"


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("0a 00 00 01", b"\x0a\0\0\1"),
        ("0x0a 0x00 0x00 0x01", b"\x0a\0\0\1"),
        ("0A000001", b"\x0a\0\0\1"),
        ("10.0.0.1", b"\x0a\0\0\1"),
    ],
)
def test_octets_without_btf(text, octets):
    assert values.encode(Scalar("octets", 4, "octets"), text.split(), "key") == octets


def test_octets_may_be_an_address():
    assert values.encode(Scalar("octets", 6, ""), ["02:00:00:00:00:01"], "key") == b"\2\0\0\0\0\1"
    assert values.encode(Scalar("octets", 16, ""), ["::1"], "key") == bytes(15) + b"\1"
    for text in ("0a0000", "0a00000", "1", "::1", "0a 00 00 0g"):
        with pytest.raises(InvalidInput, match="write 4 octets in hex, as 0a1b2c3d"):
            values.encode(Scalar("octets", 4, ""), [text], "key")


@pytest.mark.parametrize(
    ("size", "text", "octets"),
    [
        (4, "10.0.0.0/8", b"\x08\0\0\0\x0a\0\0\0"),
        (4, "10.1.2.3", b"\x20\0\0\0\x0a\1\2\3"),
        (4, "0.0.0.0/0", bytes(8)),
        (16, "2001:db8::/32", b"\x20\0\0\0\x20\1\x0d\xb8" + bytes(12)),
    ],
)
def test_a_prefix(size, text, octets):
    assert values.encode_key(Prefix(Scalar("ip4" if size == 4 else "ip6", size, ""), ""), [text]) == octets


def lpm_key(name: str) -> Prefix:
    """The shape of an LPM trie's key whose fields are those of `struct NAME`."""
    fields = shape(name)
    return Prefix(Scalar("ip4" if fields.size == 8 else "ip6", fields.size - 4, ""), fields.type, fields)


@pytest.mark.parametrize(
    ("name", "words", "text"),
    [
        ("prefix", ["prefixlen=16", "data=10.1.0.0"], "10.1.0.0/16"),
        ("prefix", ["data=10,1,0,0", "prefixlen=16"], "10.1.0.0/16"),
        ("prefix6", ["prefixlen=32", "data=2001:db8::"], "2001:db8::/32"),
    ],
)
def test_a_prefix_by_its_fields(name, words, text):
    key = lpm_key(name)
    assert values.split(key, [*words, "packets=1"]) == (words, ["packets=1"])
    assert values.split(key, [text, "packets=1"]) == ([text], ["packets=1"])
    assert values.encode_key(key, words) == values.encode_key(key, [text])


def test_a_prefix_without_btf_may_be_hex():
    key = Prefix(Scalar("ip4", 4, ""), "octets")
    octets = ["08", "00", "00", "00", "0a", "00", "00", "00"]
    assert values.split(key, [*octets, "ff"]) == (octets, ["ff"])
    for words in (octets, ["".join(octets)], ["0x" + "".join(octets)], ["10.0.0.0/8"]):
        assert values.split(key, [*words, "ff"]) == (words, ["ff"])
        assert values.encode_key(key, words) == b"\x08\0\0\0\x0a\0\0\0"


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("prefix", ["prefixlen=33", "data=10.0.0.0"], "key: 33 is not a prefix length: give a number from 0"),
        ("prefix", ["prefixlen=8", "data=10.1.0.0"], "key: 'prefixlen=8 data=10.1.0.0' has host bits set: write"),
        ("prefix", ["prefixlen=8"], "key: no data in it: give all fields of the key"),
        ("prefix", [], "key: none given: write a prefix such as 10.0.0.0/8, or its fields prefixlen and data"),
        (None, ["280000000a000000"], "key: 40 is not a prefix length"),
        (None, ["0a", "00"], "key: 00 is one word too many: write a prefix such as 10.0.0.0"),
    ],
)
def test_what_is_no_prefix_by_field_or_in_hex(name, words, said):
    key = lpm_key(name) if name else Prefix(Scalar("ip4", 4, ""), "octets")
    with pytest.raises(InvalidInput) as caught:
        values.encode_key(key, words)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.1.0.0/8", "key: 10.1.0.0/8 has host bits set: write 10.0.0.0/8"),
        ("10.0.0.0/33", "key: /33 is not a prefix length: give a number from 0 to 32"),
        (f"10.0.0.0/{'1' * 5000}", "key: /111"),
        ("10.0.0.0/-1", "key: /-1 is not a prefix length"),
        ("10.0.0.0/", "key: /'' is not a prefix length"),
        ("::/0", "key: :: is not what it holds"),
    ],
)
def test_what_is_no_prefix(text, said):
    with pytest.raises(InvalidInput) as caught:
        values.encode_key(Prefix(Scalar("ip4", 4, ""), ""), [text])
    assert str(caught.value).startswith(said)


def test_what_is_shown_can_be_written_back():
    """Random structs, in words and back: every octet is as it was, but for padding, which has no name."""
    layout, chance = shape("everything"), random.Random(5)
    blank = values.encode(layout, [f"{path}={text}" for path, text in everything().items()], "value")
    assert blank == bytes(layout.size)
    for _ in range(50):
        random_words = [
            f"{path}={chance.randrange(2)}" if path in ("yes", "bit") else f"{path}={shown}"
            for path, shown in (
                word.split("=", 1) for word in shlex.split(one(layout, chance.randbytes(layout.size)), posix=True)
            )
            if path not in ("name", "real")
        ]
        first = values.encode(layout, [*random_words, "name=h p'e", "real=0.1"], "value")
        again = values.encode(layout, shlex.split(one(layout, first)), "value")
        assert again == first
