"""BTF, the kernel's type format, as Python values: what a BPF object says about its own structs.

Format: the kernel's Documentation/bpf/btf.rst and include/uapi/linux/btf.h. All of it that clang emits for BPF is
read; nothing is interpreted here (see record.py for NumPy types).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path

from hopline.errors import LayoutError
from hopline.kernel.elf import sections

MAGIC = 0xEB9F


class Kind(IntEnum):
    """BTF_KIND_* of include/uapi/linux/btf.h; VOID is type 0, which is not stored."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


MODIFIERS = frozenset((Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG))
# bytes that follow a type: once, and for each of its `vlen` parts
FIXED = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
REPEATED = {
    Kind.STRUCT: 12,
    Kind.UNION: 12,
    Kind.ENUM: 8,
    Kind.ENUM64: 12,
    Kind.FUNC_PROTO: 8,
    Kind.DATASEC: 12,
}
# types that are part of a value of another: through these a type cannot come back to itself
CONTAINED = MODIFIERS | {Kind.TYPEDEF, Kind.ARRAY}
DEEPEST = 32  # as the kernel has it: MAX_RESOLVE_DEPTH of kernel/bpf/btf.c
LARGEST = 0xFFFFFFFF  # octets of a value: sizes are 32 bits


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a struct or union; `bit_size` is 0 unless it is a bitfield."""

    name: str
    type_id: int
    bit_offset: int
    bit_size: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A global variable: where it lies in its section, in bytes."""

    name: str
    section: str
    type_id: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Type:
    """One BTF type. `size` in bytes (or 0), `target` the type pointed to, aliased or repeated (or 0).

    `local`: a variable that C calls static.
    """

    id: int
    kind: Kind
    name: str
    size: int = 0
    target: int = 0
    count: int = 0
    signed: bool = False
    boolean: bool = False
    members: tuple[Member, ...] = ()
    values: tuple[tuple[str, int], ...] = ()
    section: tuple[tuple[int, int, int], ...] = ()
    local: bool = False


class Btf:
    """All types of one BTF blob; `types[id]` is the type numbered `id`, and type 0 is void."""

    def __init__(self, data: bytes, name: str = "btf") -> None:
        self.name = name
        self.types: list[Type] = [Type(0, Kind.VOID, "void")]
        try:
            self._parse(bytes(data))
            self._check()
        except (struct.error, ValueError, IndexError) as error:
            raise LayoutError(f"read btf of {name}: {error}") from error

    @classmethod
    def from_elf(cls, path: str | Path) -> "Btf":
        """The .BTF section of an ELF file. Section offsets of variables are as clang left them (see object.py)."""
        return cls(elf_section(Path(path).read_bytes(), ".BTF", str(path)), Path(path).name)

    def _parse(self, data: bytes) -> None:
        if len(data) < 24:
            raise ValueError(f"{len(data)} bytes are too few")
        order = "<" if data[:2] == b"\x9f\xeb" else ">"
        magic, _version, _flags, header = struct.unpack_from(order + "HBBI", data)
        if magic != MAGIC:
            raise ValueError(f"magic is {magic:#x}, not {MAGIC:#x}")
        types_at, types_size, strings_at, strings_size = struct.unpack_from(order + "IIII", data, 8)
        start = header + types_at
        end = start + types_size
        strings = data[header + strings_at : header + strings_at + strings_size]
        if end > len(data) or len(strings) != strings_size:
            raise ValueError("cut short")
        data = data[:end]
        while start < end:
            start = self._parse_type(data, start, strings, order)

    def _check(self) -> None:
        """Refuse what no compiler writes and a reader would fall for: ValueError."""
        depths: dict[int, int] = {}
        for found in self.types:
            mentioned = [found.target, *(m.type_id for m in found.members), *(part[0] for part in found.section)]
            if max(mentioned) >= len(self.types):
                raise ValueError(f"type {found.id} names type {max(mentioned)}, and there are {len(self.types)}")
            self._depth(found, depths)
            if found.kind is Kind.ARRAY and self.size_of(found.id) > LARGEST:
                raise ValueError(f"type {found.id} is an array of more than {LARGEST} bytes")

    def _depth(self, found: Type, depths: dict[int, int], above: int = 0) -> int:
        """How many types lie in each other in `found`."""
        if found.id not in depths:
            parts = [m.type_id for m in found.members] or [found.target] * (found.kind in CONTAINED)
            depth = 0
            if above <= DEEPEST:
                depth = max((1 + self._depth(self.types[part], depths, above + 1) for part in parts), default=0)
            if above + depth > DEEPEST:
                raise ValueError(f"type {found.id} lies within itself, or more than {DEEPEST} types in each other")
            depths[found.id] = depth
        return depths[found.id]

    def _parse_type(self, data: bytes, at: int, strings: bytes, order: str) -> int:
        name_at, info, size_or_type = struct.unpack_from(order + "III", data, at)
        kind, vlen, flag = Kind(info >> 24 & 0x1F), info & 0xFFFF, bool(info >> 31)
        at += 12
        end = at + FIXED.get(kind, 0) + REPEATED.get(kind, 0) * vlen
        if end > len(data):
            raise ValueError("cut short")

        def text(offset: int) -> str:
            name = strings[offset : strings.index(b"\0", offset)].decode()
            if not name.isprintable():
                raise ValueError(f"type {len(self.types)} has a name that is no text")
            return name

        def parts(form: str) -> Iterator[tuple[int, ...]]:
            return struct.iter_unpack(order + form, data[at:end])

        size = target = count = 0
        signed = boolean = local = False
        members: tuple[Member, ...] = ()
        values: tuple[tuple[str, int], ...] = ()
        section: tuple[tuple[int, int, int], ...] = ()
        if kind in (Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT, Kind.DATASEC):
            size = size_or_type
        else:
            target = size_or_type
        if kind is Kind.INT:
            ((encoding,),) = parts("I")
            signed, boolean = bool(encoding >> 24 & 1), bool(encoding >> 24 & 4)
        elif kind is Kind.ARRAY:
            ((target, _index, count),) = parts("III")
        elif kind in (Kind.STRUCT, Kind.UNION):
            split = (lambda o: (o & 0xFFFFFF, o >> 24)) if flag else (lambda o: (o, 0))
            members = tuple(Member(text(n), t, *split(o)) for n, t, o in parts("III"))
        elif kind is Kind.ENUM:
            signed = flag
            values = tuple((text(n), v) for n, v in parts("Ii" if flag else "II"))
        elif kind is Kind.ENUM64:
            signed = flag
            values = tuple((text(n), high << 32 | low) for n, low, high in parts("IIi" if flag else "III"))
        elif kind is Kind.VAR:
            local = list(parts("I")) == [(0,)]
        elif kind is Kind.DATASEC:
            section = tuple((t, o, s) for t, o, s in parts("III"))
        number = len(self.types)
        self.types.append(
            Type(number, kind, text(name_at), size, target, count, signed, boolean, members, values, section, local)
        )
        return end

    @cached_property
    def _named(self) -> dict[tuple[Kind, str], int]:
        return {(t.kind, t.name): t.id for t in reversed(self.types) if t.name}

    def find(self, kind: Kind, name: str) -> Type | None:
        """The first type of that kind and name, or None."""
        number = self._named.get((kind, name))
        return None if number is None else self.types[number]

    def plain(self, type_id: int) -> Type:
        """The type below typedefs, const, volatile, restrict and type tags."""
        found = self.types[type_id]
        while found.kind in MODIFIERS or found.kind is Kind.TYPEDEF:
            found = self.types[found.target]
        return found

    def size_of(self, type_id: int) -> int:
        """Bytes a value of this type takes; pointers are 8, as BPF's are."""
        found = self.plain(type_id)
        if found.kind is Kind.PTR:
            return 8
        if found.kind is Kind.ARRAY:
            return found.count * self.size_of(found.target)
        return found.size

    def variables(self) -> dict[str, Variable]:
        """Global variables by name, of all data sections; of static ones libbpf does not say where they lie."""
        found = {}
        for kept in self.types:
            if kept.kind is Kind.DATASEC:
                for type_id, offset, size in kept.section:
                    var = self.types[type_id]
                    if var.kind is Kind.VAR and not var.local:
                        found[var.name] = Variable(var.name, kept.name, var.target, offset, size)
        return found


def elf_section(data: bytes, wanted: str, name: str) -> bytes:
    """The contents of a section of a 64-bit ELF file (elf(5)); LayoutError if it has none of that name."""
    try:
        found = sections(data).get(wanted)
    except ValueError as error:
        raise LayoutError(f"read {name}: {error}") from error
    if found is None:
        raise LayoutError(f"read {name}: no section {wanted}, so nothing says how its structs lie")
    return found.data
