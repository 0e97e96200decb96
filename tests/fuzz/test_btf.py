"""kernel/btf.py and kernel/record.py: whatever a .BTF section says, its layouts are right, or it is refused.

What is accepted is asked for everything it names. A layout that comes out must be one that memory can have: every field
lies within its struct, and a record of it can be made.
"""

import struct
from enum import IntEnum
from importlib.resources import files

import numpy as np
import pytest

from fuzz.fuzzing import Target, search, vary
from hopline.errors import LayoutError
from hopline.kernel.btf import FIXED, REPEATED, Btf, Kind, elf_section
from hopline.kernel.record import Layout
from kernel.test_btf import blob, info, sample

SIZE_MOST = 0xFFFFFFFF  # octets of a value: sizes are 32 bits


def words(*numbers: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}{len(numbers)}I", *(number & 0xFFFFFFFF for number in numbers))


def odd() -> list[bytes]:
    """Sections that are well formed and mean nothing, or too much."""
    strings = b"\0a\0b\0ip4_t\0__be16\0mro\0_\0char\0"
    at = {name: strings.index(b"\0" + name + b"\0") + 1 for name in strings.split(b"\0") if name}
    a, b = at[b"a"], at[b"b"]
    u32 = words(a, info(Kind.INT), 4, 32)
    unnamed = [words(a if n == 1 else 0, info(Kind.STRUCT, 2), 4, 0, n + 1, 0, 0, n + 1, 0) for n in range(1, 12)]
    return [
        blob(types, strings)
        for types in (
            words(a, info(Kind.TYPEDEF), 2) + words(b, info(Kind.CONST), 1),  # each is the other
            words(a, info(Kind.STRUCT, 1), 8, b, 1, 0),  # within itself
            words(a, info(Kind.ARRAY), 0, 1, 1, 3),  # of itself
            u32 + words(b, info(Kind.STRUCT, 1), 8, a, 1, 64),  # a field behind its struct
            u32 + words(b, info(Kind.STRUCT, 2), 8, a, 1, 0, a, 1, 32),  # two fields of one name
            u32 + words(0, info(Kind.ARRAY), 0, 1, 1, 1 << 31) + words(a, info(Kind.STRUCT, 1), 4, b, 2, 0),
            u32 + words(a, info(Kind.STRUCT, 1), 4, b, 99, 0),  # a type that is not there
            u32 + words(at[b"ip4_t"], info(Kind.TYPEDEF), 1) + words(a, info(Kind.STRUCT, 1), 4, b, 2, 0),
            words(a, info(Kind.INT), 3, 24) + words(b, info(Kind.STRUCT, 1), 4, a, 1, 0),
            words(a, info(Kind.FLOAT), 3) + words(b, info(Kind.STRUCT, 1), 4, a, 1, 0),
            words(a, info(Kind.ENUM, 3), 4, at[b"mro"], 1, at[b"_"], 2, 0, 3),
            words(a, info(Kind.ENUM, 2), 7, b, 1, b, 2),
            words(at[b"char"], info(Kind.INT), 1, 8) + words(0, info(Kind.ARRAY), 0, 1, 1, 12)
            + words(a, info(Kind.STRUCT, 1), 12, b, 2, 0),
            u32 + words(a, info(Kind.VAR), 1, 1) + words(b, info(Kind.DATASEC, 1), 4, 2, 0, 4),
            b"".join(unnamed) + words(b, info(Kind.STRUCT, 1), 4, a, 13, 0) + u32,  # twice as many fields a level
            words(a, info(Kind.FWD), 0) + words(b, info(Kind.STRUCT, 1), 4, a, 1, 0),
            words(a, info(Kind.FUNC_PROTO, 1), 0, a, 2) + words(b, info(Kind.FUNC), 1),
        )
    ]  # fmt: skip


def shipped() -> bytes:
    """The section of the object that is shipped."""
    path = files("hopline.bpf") / "xdp.bpf.o"
    return elf_section(path.read_bytes(), ".BTF", "xdp.bpf.o")


def check(data: bytes) -> None:
    """The whole oracle."""
    try:
        btf = Btf(data, "fuzzed.o")
    except LayoutError as error:
        check_refusal(error)
        return
    check_size(btf, data)
    layout = Layout(btf)
    assert [found.id for found in btf.types] == list(range(len(btf.types)))
    asked = [(layout.struct, name) for name in names(btf, Kind.STRUCT, Kind.UNION, Kind.TYPEDEF)]
    asked += [(layout.enum, name) for name in names(btf, Kind.ENUM, Kind.ENUM64)]
    asked += [(layout.dtype, found.id) for found in btf.types]
    asked += [(btf.size_of, found.id) for found in btf.types]
    asked += [(lambda _: btf.variables(), None), (lambda _: layout.require("a", "b"), None)]
    for ask, what in asked:
        try:
            found = ask(what)
        except LayoutError as error:
            check_refusal(error)
            continue
        if isinstance(found, np.dtype):
            check_dtype(found)
        elif isinstance(found, int):
            assert 0 <= found <= SIZE_MOST
        elif isinstance(found, type) and issubclass(found, IntEnum):
            check_enum(btf, found)


def check_size(btf: Btf, data: bytes) -> None:
    """The types that were read take the octets that the header says they take; parameters of functions are not kept."""
    if any(found.kind is Kind.FUNC_PROTO for found in btf.types):
        return
    parts = (len(found.members) + len(found.values) + len(found.section) for found in btf.types[1:])
    sizes = (
        12 + FIXED.get(found.kind, 0) + REPEATED.get(found.kind, 0) * count
        for found, count in zip(btf.types[1:], parts, strict=True)
    )
    (said,) = struct.unpack_from("<I" if data[:2] == b"\x9f\xeb" else ">I", data, 12)
    assert sum(sizes) == said


def names(btf: Btf, *kinds: Kind) -> set[str]:
    return {found.name for found in btf.types if found.kind in kinds}


def check_refusal(error: LayoutError) -> None:
    assert "fuzzed.o" in str(error)
    assert "\n" not in str(error)


def check_dtype(dtype: np.dtype) -> None:
    assert dtype.itemsize <= SIZE_MOST
    for name, (field, offset, *_) in (dtype.fields or {}).items():
        assert 0 <= offset <= offset + field.itemsize <= dtype.itemsize, name
    if 0 < dtype.itemsize <= 4096:  # NumPy makes a byte of none
        assert len(np.zeros(1, dtype).tobytes()) == dtype.itemsize


def check_enum(btf: Btf, made: type[IntEnum]) -> None:
    found = btf.find(Kind.ENUM, made.__name__) or btf.find(Kind.ENUM64, made.__name__)
    assert {name: int(value) for name, value in made.__members__.items()} == dict(found.values)


TARGET = Target(
    check,
    [sample(), sample(">"), shipped(), *odd()],
    [words(number) for number in (0, 1, 2, 3, 5, 24, 0xFFFFFF, 0xFFFFFFFF, 0x80000000, 1 << 16)]
    + [words(info(kind, parts, flag)) for kind in Kind for parts in (0, 1, 9, 0xFFFF) for flag in (False, True)]
    + [b"mac_t\0", b"ip6_t\0", b"ip4_t\0", b"__be64\0", b"char\0", b"\xff", b"a\0", b"\xe2\x80\xa8", b"__class__\0"],
    modules=("hopline.kernel.btf", "hopline.kernel.record"),
    longest=16_384,
)


def test_mutations():
    vary(TARGET, 300)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search(tmp_path):
    search(TARGET, "fuzz.test_btf", tmp_path, runs=150_000)
