"""ELF files of BPF objects (elf(5)): their sections, read without libbpf."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

HEADER = 64  # octets of a 64-bit file's
EM_BPF = 247
STT_SECTION = 3
NULL = 0
NO_BITS = 8  # SHT_NOBITS: a section such as .bss, which has a size and no octets


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its octets, and its size, which .bss has without octets; where in the file, and its number."""

    name: str
    data: bytes
    size: int
    offset: int
    number: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol: the section that it lies in, and where in that."""

    name: str
    section: str
    value: int


def machine(data: bytes) -> int:
    """The machine a 64-bit ELF file is for, EM_BPF or another; ValueError if it is no such file."""
    if data[:4] != b"\x7fELF" or len(data) < HEADER or data[4] != 2:
        raise ValueError("not a 64-bit elf file")
    (number,) = struct.unpack_from(_order(data) + "H", data, 18)
    return int(number)


def sections(data: bytes) -> dict[str, Section]:
    """The sections by name, the first of each; ValueError if the file is damaged or no 64-bit ELF file."""
    machine(data)
    order = _order(data)
    found: dict[str, Section] = {}
    try:
        (table,) = struct.unpack_from(order + "Q", data, 40)
        size, count, names_index = struct.unpack_from(order + "HHH", data, 58)
        if table + size * count > len(data):
            raise ValueError("cut short")
        heads = [struct.unpack_from(order + "IIQQQQ", data, table + size * i) for i in range(count)]
        names_at = heads[names_index][4]
        for number, (name_at, kind, _flags, _address, at, octets) in enumerate(heads):
            start = names_at + name_at
            name = data[start : data.index(b"\0", start)].decode()
            if kind not in (NULL, NO_BITS) and at + octets > len(data):
                raise ValueError("cut short")
            held = b"" if kind == NO_BITS else data[at : at + octets]
            found.setdefault(name, Section(name, held, octets, at, number))
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"damaged elf file ({error})") from error
    return found


def symbols(data: bytes) -> Iterator[Symbol]:
    """The symbols that lie in a section, those that stand for a whole one left out; ValueError as sections().

    Of what is declared only (`extern`) the section's number is 0, which is none.
    """
    found = sections(data)
    names = {one.number: one.name for one in found.values() if one.number}
    if ".symtab" not in found or ".strtab" not in found:
        return
    strings = found[".strtab"].data
    table = found[".symtab"].data
    try:
        # Elf64_Sym: name, info, other, section, value, size
        for name_at, info, _other, number, value, _size in struct.iter_unpack(_order(data) + "IBBHQQ", table):
            if number in names and info & 0xF != STT_SECTION:
                name = strings[name_at : strings.index(b"\0", name_at)].decode()
                yield Symbol(name, names[number], value)
    except (struct.error, ValueError) as error:
        raise ValueError(f"damaged elf file ({error})") from error


def _order(data: bytes) -> str:
    return "<" if data[5] == 1 else ">"
