"""NumPy dtypes and IntEnums from structs that clang compiled: nothing is loaded, so no rights are needed."""

import struct

import numpy as np
import pytest

from clang import compile_bpf
from hopline.errors import LayoutError
from hopline.kernel.btf import Btf, Kind
from hopline.kernel.record import Layout
from kernel.test_btf import blob, info

SOURCE = """
#include <linux/types.h>
#include <stdbool.h>
typedef __be32 ip4_t;
typedef struct { __u8 octets[16]; } ip6_t;
typedef __u8 mac_t[6];
enum color { RED = 1, BLUE = 7 };
struct inner { __u8 a; __u32 b; };
struct outer {
    __u8 first;
    __be16 port;
    const __be64 wide;
    ip4_t v4;
    ip6_t v6;
    mac_t mac;
    mac_t pair[2];
    char name[12];
    enum color color;
    struct inner list[3];
    union { __u32 word; __u8 octets[4]; };
    struct { __s16 x; __s64 y; } named;
    void *pointer;
    bool yes;
    volatile __s32 number;
    __u16 grid[2][3];
};
struct packed { __u8 a; __u64 b; } __attribute__((packed));
struct bits { __u32 low : 3; __u32 high : 29; };
typedef struct { __u32 z; } alias_t;
#define ANCHOR(kind, name) kind name *anchor_##name __attribute__((section("layout"), used))
ANCHOR(struct, outer);
ANCHOR(struct, packed);
ANCHOR(struct, bits);
ANCHOR(enum, color);
alias_t *anchor_alias __attribute__((section("layout"), used));
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return Layout.from_elf(compile_bpf(tmp_path_factory.mktemp("record"), SOURCE))


def test_byte_order_comes_from_the_typedef(layout):
    outer = layout.struct("outer")
    assert [outer[f].str for f in ("port", "wide", "v4")] == [">u2", ">u8", ">u4"]
    assert outer["number"].str == "<i4"


@pytest.mark.parametrize(("field", "kind", "size"), [("v4", "ip4", 4), ("v6", "ip6", 16), ("mac", "mac", 6)])
def test_addresses_say_what_they_are(layout, field, kind, size):
    dtype = layout.struct("outer")[field]
    assert dtype.metadata["kind"] == kind
    assert dtype.itemsize == size


def test_an_address_is_its_octets(layout):
    record = np.zeros(1, layout.struct("outer"))
    record["v4"] = 0x0A000001
    record["mac"] = np.void(b"\2\0\0\0\0\1")
    start = layout.struct("outer").fields["v4"][1]
    assert record.tobytes()[start : start + 4] == b"\x0a\0\0\1"
    assert bytes(record["mac"][0]) == b"\2\0\0\0\0\1"


def test_padding_is_that_of_c(layout):
    outer = layout.struct("outer")
    assert {n: outer.fields[n][1] for n in ("first", "port", "wide", "v4")} == {
        "first": 0,
        "port": 2,
        "wide": 8,
        "v4": 16,
    }
    assert layout.struct("packed").fields["b"][1] == 1
    assert layout.struct("packed").itemsize == 9
    assert layout.struct("outer").itemsize % 8 == 0


def test_nested_structs_arrays_and_text(layout):
    outer = layout.struct("outer")
    assert outer["list"].shape == (3,)
    assert outer["list"].base.names == ("a", "b")
    assert outer["list"].base.fields["b"][1] == 4
    assert outer["pair"].shape == (2,)
    assert outer["grid"].shape == (2, 3)
    assert outer["name"].kind == "S"
    assert outer["named"].names == ("x", "y")
    assert outer["pointer"].str == "<u8"
    assert outer["yes"].kind == "b"


def test_a_union_without_a_name_overlaps(layout):
    record = np.zeros(1, layout.struct("outer"))
    record["word"] = 0x04030201
    assert record["octets"][0].tolist() == [1, 2, 3, 4]


def test_enums_have_names_and_fields_point_to_them(layout):
    color = layout.enum("color")
    assert color.BLUE == 7
    assert color(1).name == "RED"
    assert layout.struct("outer")["color"].metadata["enum"] == "color"


def test_a_typedef_of_an_unnamed_struct_is_found(layout):
    assert layout.struct("alias_t").names == ("z",)


def test_a_bitfield_is_refused_not_guessed(layout):
    with pytest.raises(LayoutError, match="struct bits, field low: a bitfield"):
        layout.struct("bits")


def test_what_python_names_must_be_there(layout):
    assert layout.require("outer", "mac", "word").itemsize
    with pytest.raises(LayoutError, match=r"fixture\.bpf\.o: struct outer has no field colour"):
        layout.require("outer", "mac", "colour")
    with pytest.raises(LayoutError, match=r"fixture\.bpf\.o: no struct nobody"):
        layout.struct("nobody")
    with pytest.raises(LayoutError, match=r"fixture\.bpf\.o: no enum nothing"):
        layout.enum("nothing")


def words(*numbers):
    return struct.pack(f"<{len(numbers)}I", *numbers)


def read(*types):
    """The layout of types by hand, whose one name is x; the first is number 1."""
    return Layout(Btf(blob(b"".join(types), b"\0x\0__be64\0ip6_t\0mro\0__y__\0"), "by-hand.o"))


@pytest.mark.parametrize(
    "types",
    [
        (words(1, info(Kind.INT), 3, 24),),
        (words(1, info(Kind.FLOAT), 3),),
        (words(1, info(Kind.INT), 4, 4 << 24),),  # a bool of four octets
        (words(3, info(Kind.TYPEDEF), 2), words(1, info(Kind.INT), 4, 32)),  # a __be64 of four
        (words(1, info(Kind.STRUCT, 1), 4, 1, 2, 32), words(1, info(Kind.INT), 4, 32)),  # a field behind the end
        (words(1, info(Kind.STRUCT, 2), 8, 1, 2, 0, 1, 2, 32), words(1, info(Kind.INT), 4, 32)),  # two of one name
        (words(1, info(Kind.FWD), 0),),
    ],
)
def test_what_numpy_cannot_show_is_refused(types):
    layout = read(*types)
    with pytest.raises(LayoutError, match=r"^by-hand\.o: "):
        layout.dtype(1)


def test_unnamed_structs_within_each_other_do_not_multiply():
    twice = [words(0, info(Kind.STRUCT, 2), 4, 0, number + 2, 0, 0, number + 2, 0) for number in range(30)]
    layout = read(*twice, words(1, info(Kind.STRUCT, 1), 4, 1, 32, 0), words(1, info(Kind.INT), 4, 32))
    with pytest.raises(LayoutError, match="name already used"):
        layout.dtype(1)


@pytest.mark.parametrize("name", [16, 20], ids=["mro", "__y__"])
def test_a_name_that_an_enum_of_python_cannot_have_is_refused(name):
    layout = read(words(1, info(Kind.ENUM, 1), 4, name, 7))
    with pytest.raises(LayoutError, match="enum x has a name that no Python enum can have"):
        layout.enum("x")
