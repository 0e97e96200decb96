"""Octets to text and JSON, many rows at a time, held against each value read by plain Python."""

import ipaddress
import json
import random
import socket
import struct

import numpy as np
import pytest

from hopline.host.program import rows as module
from hopline.host.program.rows import one, rows
from hopline.host.program.shapes import Array, Prefix, Scalar, Shape, Struct, from_btf, numbers_in
from hopline.kernel.btf import Kind
from host.program_types import btf, shape

U32, U64 = Scalar("uint", 4, "__u32"), Scalar("uint", 8, "__u64")
EDGES = [0, 1, 9, 10, 99, 9999, 10000, 10001, 99999999, 100000000, 2**31, 2**32 - 1, 10**12, 2**63, 10**19, 2**64 - 1]


def plain(layout: Shape, octets: bytes):
    """What JSON should have of a value."""
    if isinstance(layout, Struct):
        return {f.name: plain(f.shape, octets[f.offset : f.offset + f.shape.size]) for f in layout.fields}
    if isinstance(layout, Array):
        size = layout.element.size
        return [plain(layout.element, octets[at * size : (at + 1) * size]) for at in range(layout.count)]
    if isinstance(layout, Prefix):
        return f"{plain(layout.address, octets[4:])}/{int.from_bytes(octets[:4], 'little')}"
    number = int.from_bytes(octets, "big" if layout.big_endian else "little")
    if layout.bits:
        number = number >> layout.shift & (1 << layout.bits) - 1
    if layout.meaning == "int" and number >> (layout.bits or layout.size * 8) - 1:
        number -= 1 << (layout.bits or layout.size * 8)
    return {
        "uint": lambda: number,
        "int": lambda: number,
        "bool": lambda: bool(number),
        "enum": lambda: next((name for name, value in layout.names if value % 2**32 == number), number),
        "float": lambda: struct.unpack("<d", octets)[0],
        "ip4": lambda: str(ipaddress.IPv4Address(octets)),
        "ip6": lambda: socket.inet_ntop(socket.AF_INET6, octets),
        "mac": lambda: octets.hex(":"),
        "octets": lambda: octets.hex(" "),
        "text": lambda: text(octets.partition(b"\0")[0]),
    }[layout.meaning]()


def text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return "".join(chr(octet) if octet < 128 else f"\\x{octet:02x}" for octet in octets)


def rendered(key: Shape, value: Shape, octets: np.ndarray, cpus: int = 0, as_json: bool = True) -> str:
    return b"".join(rows(key, value, cpus, as_json).render(octets)).decode()


def table(text: str) -> list:
    return json.loads("[" + text.removeprefix(",") + "]")


def random_rows(size: int, count: int, seed: int) -> np.ndarray:
    """Random octets, of which some rows are all zeros, all ones, or small."""
    found = np.frombuffer(random.Random(seed).randbytes(size * count), np.uint8).reshape(count, size).copy()
    found[0], found[1] = 0, 255
    found[2:5] &= 3
    return found


def test_every_kind_of_field_is_what_plain_python_reads(monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 5000)  # a few rows at a time, so that buffers are used again
    key, value = shape("flow"), shape("everything")
    octets = random_rows(key.size + value.size, 300, 7)
    real = next(field.offset for field in value.fields if field.name == "real") + key.size
    octets[:, real : real + 8] = np.frombuffer(np.linspace(-1e300, 1e-300, 300).tobytes(), np.uint8).reshape(300, 8)
    told = table(rendered(key, value, octets))
    assert len(told) == 300
    for row, raw in zip(told, octets, strict=True):
        whole = raw.tobytes()
        assert row == {"key": plain(key, whole[: key.size]), "value": plain(value, whole[key.size :])}


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("meaning", ["uint", "int"])
def test_numbers_at_their_edges(size, meaning):
    scalar = Scalar(meaning, size, "")
    lowest, highest = scalar.range()
    numbers = sorted({lowest, highest, *(sign * edge for edge in EDGES for sign in (1, -1))})
    numbers = [number for number in numbers if lowest <= number <= highest]
    raw = b"".join(number.to_bytes(size, "little", signed=number < 0) for number in numbers)
    lines = Array(scalar, len(numbers), "")
    assert json.loads(one(lines, raw, as_json=True)) == numbers
    assert one(lines, raw) == ",".join(map(str, numbers))


def test_text_is_a_line_a_row_as_it_can_be_written():
    octets = np.frombuffer(struct.pack("<IQQ", 0x0100000A, 5, 7) * 2, np.uint8).reshape(2, 20)
    shown = rendered(Scalar("ip4", 4, "ip4_t"), shape("counter"), octets, as_json=False)
    assert shown == "10.0.0.1  packets=5 bytes=7\n" * 2


def test_per_cpu_values_are_shown_with_their_sum():
    value = shape("per_cpu")  # 12 octets, which take 16
    copies = [struct.pack("<IiHH4x", 2**32 - 1, 1, 7, 2), struct.pack("<IiHH4x", 3, 5, 65535, 1)]
    octets = np.frombuffer(struct.pack("<I", 9) + b"".join(copies), np.uint8)[np.newaxis]
    assert table(rendered(U32, value, octets, cpus=2)) == [
        {
            "key": 9,
            "values": [
                {"packets": 4294967295, "weather": 1, "sizes": [7, 2]},
                {"packets": 3, "weather": "WARM", "sizes": [65535, 1]},
            ],
            # 64 bits wide, and only of what are numbers
            "sum": {"packets": 4294967298, "sizes": [65542, 3]},
        }
    ]
    assert rendered(U32, value, octets, cpus=2, as_json=False).splitlines() == [
        "9  sum packets=4294967298 sizes=65542,3",
        "9  cpu 0 packets=4294967295 weather=1 sizes=7,2",
        "9  cpu 1 packets=3 weather=WARM sizes=65535,1",
    ]


def test_what_has_no_numbers_has_no_sum():
    octets = np.zeros((1, 4 + 8 * 2), np.uint8)
    mac = Scalar("mac", 6, "mac_t")
    zero = "00:00:00:00:00:00"
    assert table(rendered(U32, mac, octets, cpus=2)) == [{"key": 0, "values": [zero, zero], "sum": None}]
    assert rendered(U32, mac, octets, cpus=2, as_json=False) == f"0  cpu 0 {zero}\n0  cpu 1 {zero}\n"
    assert numbers_in(shape("flow")).fields[0].name == "port"


@pytest.mark.parametrize(
    ("octets", "shown"),
    [
        (b"eth0\0\0\0\0", "eth0"),
        (b"eth0\0old", "eth0"),
        (b"12345678", "12345678"),
        (b'a"b\\c\n\t\x7f', 'a"b\\c\n\t\x7f'),
        ("züge".encode() + b"\0\0\0", "züge"),
        (b"z\xfcge\0\0\0\0", "z\\xfcge"),
        (bytes(8), ""),
    ],
)
def test_char_arrays_are_text(octets, shown):
    name = Scalar("text", 8, "char[8]")
    assert json.loads(one(name, octets, as_json=True)) == shown
    assert json.loads(one(name, octets)) == shown  # quoted, so that it is one word for a shell


def test_a_device_without_a_name_is_its_index():
    device = Scalar("device", 4, "u32")
    assert one(device, struct.pack("<I", socket.if_nametoindex("lo"))) == "lo"
    assert json.loads(one(device, struct.pack("<I", socket.if_nametoindex("lo")), as_json=True)) == "lo"
    assert json.loads(one(device, struct.pack("<I", 2**31), as_json=True)) == 2**31


def test_a_float_that_json_does_not_have_is_null():
    real = Scalar("float", 8, "double")
    assert one(real, struct.pack("<d", float("nan")), as_json=True) == "null"
    assert one(real, struct.pack("<d", float("-inf"))) == "-inf"


def test_a_prefix_is_an_address_and_a_length():
    layout = Prefix(Scalar("ip4", 4, "ip4_t"), "struct prefix")
    assert one(layout, b"\x08\0\0\0\x0a\0\0\0", as_json=True) == '"10.0.0.0/8"'


def test_global_variables_are_fields():
    section = from_btf(btf(), btf().find(Kind.DATASEC, ".rodata").id)
    assert [field.name for field in section.fields] == ["start", "limit"]
