"""Objects that clang makes and neither libbpf nor the kernel takes: BTF that puts a variable into the wrong section.

A `static const` array of 4, 8, 16 or 32 octets goes to a section of its own, such as .rodata.cst8, and clang's BTF says
.rodata all the same. Then two variables of .rodata overlap, and the kernel refuses the BTF, which
libbpf takes for unimportant: the maps have no types any more. Or there is no .rodata, and libbpf refuses the object.
Nothing reads such a variable by its BTF, so it is taken out of its section there.
"""

import struct

from hopline.kernel import elf
from hopline.kernel.btf import FIXED, REPEATED, Kind

TYPE = struct.Struct("=III")  # struct btf_type: name, info, size or type
PLACED = struct.Struct("=III")  # struct btf_var_secinfo: type, offset, size
# in place of what is taken out, a type that nothing refers to: `const void`
FILLER = TYPE.pack(0, Kind.CONST << 24, 0)


def repaired(data: bytes) -> bytes:
    """The octets of an object file without such variables; the same where there are none, or it cannot be read."""
    try:
        place = elf.sections(data)[".BTF"].offset
        changes = _changes(data, place, {one.name: one.section for one in elf.symbols(data)})
    except (ValueError, KeyError, IndexError, struct.error):
        return data  # who opens it says why
    changed = bytearray(data)
    for at, octets in changes:
        changed[at : at + len(octets)] = octets
    return bytes(changed)


def _changes(data: bytes, place: int, homes: dict[str, str]) -> list[tuple[int, bytes]]:
    """Places in the file, and what is to be there instead; `homes` has each symbol's section."""
    header, types_at, types_size, strings_at = struct.unpack_from("=4xIIII", data, place)
    at, strings = place + header + types_at, place + header + strings_at
    end = at + types_size
    variables: dict[int, str] = {}
    changes: list[tuple[int, bytes]] = []
    number = 0
    while at < end:
        number += 1
        name_at, info, _ = TYPE.unpack_from(data, at)
        kind, count = Kind(info >> 24 & 0x1F), info & 0xFFFF
        following = at + TYPE.size + FIXED.get(kind, 0) + REPEATED.get(kind, 0) * count
        name = data[strings + name_at : data.index(b"\0", strings + name_at)].decode()
        if kind is Kind.VAR:
            variables[number] = name
        elif kind is Kind.DATASEC:
            octets = data[at:following]
            kept = [
                one for one in PLACED.iter_unpack(octets[TYPE.size :]) if homes.get(variables[one[0]], name) == name
            ]
            if len(kept) < count:
                changes.append((at, _without(octets, kept, count)))
        elif changes:
            raise ValueError("a type follows whose number would change")
        at = following
    return changes


def _without(octets: bytes, kept: list[tuple[int, int, int]], count: int) -> bytes:
    """A section with fewer variables, in as many octets; none at all where none is left."""
    if not kept:
        return FILLER * (1 + count)
    name_at, info, size = TYPE.unpack_from(octets)
    head = TYPE.pack(name_at, info & ~0xFFFF | len(kept), size)
    return head + b"".join(PLACED.pack(*one) for one in kept) + FILLER * (count - len(kept))
