"""What keys and values are: a tree of fields read from BTF, or what the map's type says where it has none.

Meaning comes from the names of types: `ip4_t`, `ip6_t`, `mac_t`, `__be32` (an IPv4 address), `struct in_addr`,
`struct in6_addr`; without such a name 6 octets are a MAC address, 16 an IPv6 address, and an array of char is text.
"""

from dataclasses import dataclass, replace
from typing import Literal

from hopline.errors import LayoutError
from hopline.kernel import codec
from hopline.kernel.btf import MODIFIERS, Btf, Kind, Type
from hopline.kernel.map import Map
from hopline.kernel.record import Layout

Meaning = Literal["uint", "int", "bool", "enum", "float", "ip4", "ip6", "mac", "text", "octets", "device"]

_ADDRESSES: dict[str, tuple[Meaning, int]] = {
    "ip4_t": ("ip4", 4),
    "ip6_t": ("ip6", 16),
    "mac_t": ("mac", 6),
    "__be32": ("ip4", 4),
    "in_addr": ("ip4", 4),
    "in6_addr": ("ip6", 16),
}
_BIG_ENDIAN = frozenset(("__be16", "__be64", "__sum16"))
_OCTETS: dict[int, Meaning] = {6: "mac", 16: "ip6"}
_NUMBERS = frozenset(("uint", "int"))
# enum bpf_map_type of include/uapi/linux/bpf.h; such maps give the ids of what they hold
ARRAY_OF_MAPS = 12
HASH_OF_MAPS = 13
_OF_IDS = frozenset((codec.PROG_ARRAY, ARRAY_OF_MAPS, HASH_OF_MAPS))
# what the kernel keeps no BTF of: the first field of a value, which may have a program behind it
_FIRST: dict[int, tuple[str, Meaning, str]] = {
    codec.DEVMAP: ("ifindex", "device", "struct bpf_devmap_val"),
    codec.DEVMAP_HASH: ("ifindex", "device", "struct bpf_devmap_val"),
    codec.CPUMAP: ("qsize", "uint", "struct bpf_cpumap_val"),
}
_INDEXED = codec.INDEXED | {ARRAY_OF_MAPS}


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value of `size` octets. `names` are an enum's; a bitfield is `bits` wide, from bit `shift` of the octets."""

    meaning: Meaning
    size: int
    type: str
    big_endian: bool = False
    names: tuple[tuple[str, int], ...] = ()
    shift: int = 0
    bits: int = 0

    @property
    def signed(self) -> bool:
        """Whether it can be negative."""
        return self.meaning == "int" or any(value < 0 for _, value in self.names)

    def range(self) -> tuple[int, int]:
        """The least and the greatest whole number that it can be."""
        bits = self.bits or self.size * 8
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if self.signed else (0, (1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class Array:
    """`count` of one shape behind one another."""

    element: "Shape"
    count: int
    type: str

    @property
    def size(self) -> int:
        """Octets of all elements."""
        return self.element.size * self.count


@dataclass(frozen=True, slots=True)
class Field:
    """A part of a struct, `offset` octets from its start."""

    name: str
    offset: int
    shape: "Shape"


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct, a union (whose fields overlap), or a section of global variables."""

    fields: tuple[Field, ...]
    size: int
    type: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """A key of a LPM trie: the prefix's length, 4 octets in the host's order, and then an address.

    `fields` are both as BTF calls them; None where it does not describe them.
    """

    address: Scalar
    type: str
    fields: Struct | None = None

    @property
    def size(self) -> int:
        """Octets of both."""
        return 4 + self.address.size


Shape = Scalar | Array | Struct | Prefix


def shapes_of(found: Map, known: dict[int, Layout | None] | None = None) -> tuple[Shape, Shape]:
    """Key and value of a map. A BTF that does not fit its sizes counts for nothing; `known` keeps what was read."""
    key, value = _by_type(found)
    layout = _layout(found, {} if known is None else known)
    if layout is not None:
        key_type, value_type = found.btf_types
        told = from_btf(layout.btf, value_type)
        if told.size == found.value_size and found.type not in _FIRST:
            value = told
        told = from_btf(layout.btf, key_type)
        key = told if key_type and told.size == found.key_size else key
    if found.type == codec.LPM_TRIE:
        key = _prefix(key)
    return key, value


def _layout(found: Map, known: dict[int, Layout | None]) -> Layout | None:
    if not found.btf_id or not found.btf_types[1]:
        return None
    if found.btf_id not in known:
        try:
            known[found.btf_id] = found.layout()
        except LayoutError:
            known[found.btf_id] = None
    return known[found.btf_id]


def _by_type(found: Map) -> tuple[Shape, Shape]:
    """What a map's type says of its key and value."""
    number = Scalar("uint", 4, "u32")
    key = number if found.key_size == 4 and found.type in _INDEXED else _octets(found.key_size)
    if found.type in _OF_IDS and found.value_size == 4:
        return key, number
    if found.type not in _FIRST or found.value_size not in (4, 8):
        return key, _octets(found.value_size)
    name, meaning, title = _FIRST[found.type]
    first = Scalar(meaning, 4, "u32")
    both = Struct((Field(name, 0, first), Field("program", 4, number)), 8, title)
    return key, first if found.value_size == 4 else both


def _octets(size: int) -> Scalar:
    return Scalar("octets", size, "octets")


def from_btf(btf: Btf, type_id: int) -> Shape:
    """The shape of a BTF type; octets where it has no size of its own."""
    found, name = btf.types[type_id], ""
    while found.kind in MODIFIERS or found.kind is Kind.TYPEDEF:
        name = name or found.name
        known = _by_name(found.name, btf.size_of(found.id)) if found.kind is Kind.TYPEDEF else None
        if known is not None:
            return known
        found = btf.types[found.target]
    if found.kind in (Kind.STRUCT, Kind.UNION):
        known = _by_name(found.name, found.size)
        return known or Struct(tuple(_members(btf, found)), found.size, name or _tagged(found))
    if found.kind is Kind.DATASEC:
        variables = ((btf.types[part], offset) for part, offset, _ in found.section)
        fields = tuple(Field(var.name, offset, from_btf(btf, var.target)) for var, offset in variables)
        return Struct(fields, found.size, found.name)
    if found.kind is Kind.ARRAY:
        return _array(btf, found, name)
    return _scalar(found, name, btf.size_of(found.id))


def _by_name(name: str, size: int) -> Scalar | None:
    meaning, needed = _ADDRESSES.get(name, ("octets", -1))
    if size == needed:
        return Scalar(meaning, size, name)
    if name in _BIG_ENDIAN:
        return Scalar("uint", size, name, big_endian=True)
    return None


def _tagged(found: Type) -> str:
    return f"{found.kind.name.lower()} {found.name}".rstrip()


def _scalar(found: Type, name: str, size: int) -> Scalar:
    if found.kind in (Kind.ENUM, Kind.ENUM64):
        return Scalar("enum", size, name or _tagged(found), names=found.values)
    if found.kind is Kind.PTR:
        return Scalar("uint", size, "pointer")
    name = name or found.name
    if found.kind is Kind.FLOAT and size in (4, 8):
        return Scalar("float", size, name)
    if found.kind is not Kind.INT or size not in (1, 2, 4, 8):
        return Scalar("octets", size, name)
    return Scalar("bool" if found.boolean else "int" if found.signed else "uint", size, name)


def _array(btf: Btf, found: Type, name: str) -> Shape:
    element = from_btf(btf, found.target)
    title = name or f"{element.type}[{found.count}]"
    plain = btf.plain(found.target)
    if plain.kind is Kind.INT and plain.name == "char":
        return Scalar("text", found.count, title)
    if element == Scalar("uint", 1, element.type) and found.count in _OCTETS:
        return Scalar(_OCTETS[found.count], found.count, title)
    if isinstance(element, Scalar) and element.meaning == "ip4" and found.count == 4:
        return Scalar("ip6", 16, title)
    return Array(element, found.count, title)


def _members(btf: Btf, found: Type) -> list[Field]:
    fields: list[Field] = []
    for member in found.members:
        offset, shift = divmod(member.bit_offset, 8)
        shape = from_btf(btf, member.type_id)
        if member.bit_size and isinstance(shape, Scalar):
            size = (shift + member.bit_size + 7) // 8
            bitfield = replace(shape, size=size, shift=shift, bits=member.bit_size)
            shape = bitfield if size <= 8 else _octets(size)
        if not member.name and isinstance(shape, Struct):
            # C reaches the fields of an unnamed struct or union as if they were the outer one's
            fields += (Field(inner.name, offset + inner.offset, inner.shape) for inner in shape.fields)
        elif member.name and shape.size:
            fields.append(Field(member.name, offset, shape))
    return fields


def _prefix(key: Shape) -> Shape:
    """A LPM trie's key as a prefix, where all behind its length is one address."""
    behind = key
    if isinstance(key, Struct) and key.fields and key.fields[0].shape.size == 4:
        rest = [field for field in key.fields if field.offset == 4 and field.shape.size == key.size - 4]
        if len(key.fields) != 2 or not rest:
            return key
        behind = rest[0].shape
        if isinstance(behind, Struct) or (isinstance(behind, Scalar) and behind.meaning == "text"):
            return key
    elif not (isinstance(key, Scalar) and key.meaning == "octets"):
        return key
    meaning: Meaning | None = {8: "ip4", 20: "ip6"}.get(key.size)  # type: ignore[assignment]
    if meaning is None:
        return key
    return Prefix(Scalar(meaning, key.size - 4, behind.type), key.type, key if isinstance(key, Struct) else None)


def numbers_in(shape: Shape) -> Shape | None:
    """What of a shape can be added up; None if nothing."""
    if isinstance(shape, Array):
        element = numbers_in(shape.element)
        return None if element is None else replace(shape, element=element)
    if isinstance(shape, Struct):
        parts = ((field, numbers_in(field.shape)) for field in shape.fields)
        fields = tuple(replace(field, shape=part) for field, part in parts if part is not None)
        return replace(shape, fields=fields) if fields else None
    adds = isinstance(shape, Scalar) and shape.meaning in _NUMBERS and not shape.bits
    return shape if adds else None
