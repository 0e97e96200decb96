"""The BTF parser on blobs written by hand, byte by byte after Documentation/bpf/btf.rst."""

import struct

import pytest

from hopline.errors import LayoutError
from hopline.kernel.btf import Btf, Kind, elf_section


def blob(types: bytes, strings: bytes, order: str = "<") -> bytes:
    header = struct.pack(order + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def info(kind: Kind, vlen: int = 0, flag: bool = False) -> int:
    return flag << 31 | kind << 24 | vlen


def sample(order: str = "<") -> bytes:
    strings = b"\0u32\0pair\0a\0b\0alias\0color\0RED\0BLUE\0"
    at = {name: strings.index(b"\0" + name + b"\0") + 1 for name in strings.split(b"\0") if name}
    pack = lambda *words: struct.pack(f"{order}{len(words)}I", *(w & 0xFFFFFFFF for w in words))  # noqa: E731
    types = pack(at[b"u32"], info(Kind.INT), 4, 32)  # 1
    types += pack(at[b"pair"], info(Kind.STRUCT, 2), 8, at[b"a"], 1, 0, at[b"b"], 3, 32)  # 2
    types += pack(at[b"alias"], info(Kind.TYPEDEF), 4)  # 3 → 4
    types += pack(0, info(Kind.CONST), 1)  # 4 → 1
    types += pack(0, info(Kind.ARRAY), 0, 2, 1, 5)  # 5: pair[5]
    types += pack(at[b"color"], info(Kind.ENUM, 2, True), 4, at[b"RED"], -1, at[b"BLUE"], 7)  # 6
    types += pack(0, info(Kind.PTR), 2)  # 7
    types += pack(at[b"color"], info(Kind.ENUM64, 1), 8, at[b"RED"], 1, 2)  # 8
    return blob(types, strings, order)


@pytest.mark.parametrize("order", ["<", ">"])
def test_types_are_read_in_either_byte_order(order):
    btf = Btf(sample(order))
    pair = btf.find(Kind.STRUCT, "pair")
    assert pair is not None
    assert [(m.name, m.bit_offset) for m in pair.members] == [("a", 0), ("b", 32)]
    assert btf.plain(3).name == "u32"
    assert [btf.size_of(i) for i in (1, 2, 3, 5, 7, 8)] == [4, 8, 4, 40, 8, 8]


def test_enumerators_keep_sign_and_width():
    btf = Btf(sample())
    assert btf.types[6].values == (("RED", -1), ("BLUE", 7))
    assert btf.types[8].values == (("RED", 2 << 32 | 1),)


def test_a_bitfield_has_a_size_in_bits():
    types = struct.pack("<4I", 1, info(Kind.INT), 4, 32)
    types += struct.pack("<6I", 1, info(Kind.STRUCT, 1, True), 4, 1, 1, 3 << 24 | 5)
    (member,) = Btf(blob(types, b"\0x\0")).types[2].members
    assert (member.bit_offset, member.bit_size) == (5, 3)


def test_no_truncation_is_accepted():
    whole = sample()
    assert len(Btf(whole).types) == 9
    for length in range(len(whole)):
        with pytest.raises(LayoutError):
            Btf(whole[:length], "short.o")


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\0" * 64, b"\x7fELF\x02\x01" + b"\xff" * 80])
def test_what_is_no_elf_file_is_refused_by_name(data):
    with pytest.raises(LayoutError, match=r"read junk\.o"):
        elf_section(data, ".BTF", "junk.o")


def test_an_unknown_name_is_none():
    assert Btf(sample()).find(Kind.STRUCT, "nobody") is None


def pack(*words):
    return struct.pack(f"<{len(words)}I", *words)


def nested(levels):
    """A struct in a struct, and so on."""
    return b"".join(pack(1, info(Kind.STRUCT, 1), 4, 1, number + 2, 0) for number in range(levels)) + U32


U32 = pack(1, info(Kind.INT), 4, 32)


@pytest.mark.parametrize(
    ("types", "why"),
    [
        (pack(1, info(Kind.TYPEDEF), 2) + pack(1, info(Kind.CONST), 1), "lies within itself"),
        (pack(1, info(Kind.STRUCT, 1), 4, 1, 1, 0), "lies within itself"),
        (pack(0, info(Kind.ARRAY), 0, 1, 1, 3), "lies within itself"),
        (nested(33), "more than 32 types in each other"),
        (U32 + pack(1, info(Kind.STRUCT, 1), 4, 1, 3, 0), "type 2 names type 3, and there are 3"),
        (U32 + pack(1, info(Kind.PTR), 9), "type 2 names type 9"),
        (pack(0, info(Kind.ARRAY), 0, 2, 2, 1 << 30) + pack(1, info(Kind.INT), 4, 32), "more than 4294967295 bytes"),
        (U32 + pack(1, info(Kind.STRUCT, 9), 4, 1, 1, 0), "cut short"),
        (pack(3, info(Kind.INT), 4, 32), "a name that is no text"),
    ],
)
def test_what_no_compiler_writes_is_refused(types, why):
    with pytest.raises(LayoutError, match=why):
        Btf(blob(types, b"\0x\0\n\0"))


def test_what_a_pointer_points_at_may_hold_the_pointer():
    types = pack(1, info(Kind.STRUCT, 1), 8, 1, 2, 0) + pack(0, info(Kind.PTR), 1)
    assert Btf(blob(types, b"\0x\0")).size_of(1) == 8
    assert Btf(blob(nested(31), b"\0x\0")).size_of(1) == 4
