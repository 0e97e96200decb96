"""NumPy dtypes and IntEnums from BTF, so that a C struct is written down once.

Byte order and meaning come from typedef names: `__be16`, `__be32`, `__be64` are big endian; `ip4_t` is a big-endian
u32, `ip6_t` 16 bytes and `mac_t` 6 bytes (dtype V16 and V6: `bytes(value)` gives the octets), each with the dtype
metadata {"kind": "ip4" | "ip6" | "mac"}; an enum field is an integer with metadata {"enum": name}.
A `char` array is S: text up to the first zero.
"""

from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from hopline.errors import LayoutError
from hopline.kernel.btf import Btf, Kind, Type

BIG_ENDIAN = {"__be16": ">u2", "__be32": ">u4", "__be64": ">u8", "__sum16": ">u2"}
ADDRESSES = {"ip4_t": ("ip4", ">u4"), "ip6_t": ("ip6", "V16"), "mac_t": ("mac", "V6")}


class Layout:
    """The layouts one BPF object defines; `name` is how errors call the object."""

    def __init__(self, btf: Btf, name: str | None = None) -> None:
        self.btf = btf
        self.name = name or btf.name
        self._dtypes: dict[int, np.dtype[Any]] = {}
        self._enums: dict[str, type[IntEnum]] = {}

    @classmethod
    def from_elf(cls, path: str | Path) -> "Layout":
        """Read the layouts of an object file without opening it in the kernel; needs no rights."""
        return cls(Btf.from_elf(path))

    def struct(self, name: str) -> np.dtype[Any]:
        """The structured dtype of `struct name`, `union name` or the typedef `name`; itemsize is C's sizeof."""
        for kind in (Kind.STRUCT, Kind.UNION, Kind.TYPEDEF):
            found = self.btf.find(kind, name)
            if found is not None:
                return self.dtype(found.id)
        raise LayoutError(f"{self.name}: no struct {name}")

    def enum(self, name: str) -> type[IntEnum]:
        """`enum name` as an IntEnum with C's member names."""
        if name not in self._enums:
            found = self.btf.find(Kind.ENUM, name) or self.btf.find(Kind.ENUM64, name)
            if found is None:
                raise LayoutError(f"{self.name}: no enum {name}")
            self._enums[name] = self._int_enum(found)
        return self._enums[name]

    def require(self, struct: str, *fields: str) -> np.dtype[Any]:
        """The dtype of `struct`, or LayoutError that names object, struct and the first field it lacks."""
        dtype = self.struct(struct)
        for field in fields:
            if field not in (dtype.names or ()):
                raise LayoutError(f"{self.name}: struct {struct} has no field {field}")
        return dtype

    def dtype(self, type_id: int) -> np.dtype[Any]:
        """The dtype of any BTF type by number."""
        if type_id not in self._dtypes:
            found = self.btf.types[type_id]
            what = f"{self.name}: {found.kind.name.lower()} {found.name or '(unnamed)'}"
            try:
                dtype = self._derive(type_id)
            except (TypeError, ValueError) as error:
                raise LayoutError(f"{what}: {error}") from error
            if dtype.itemsize != self.btf.size_of(type_id):
                raise LayoutError(f"{what}: takes {self.btf.size_of(type_id)} bytes, and should {dtype.itemsize}")
            self._dtypes[type_id] = dtype
        return self._dtypes[type_id]

    def possible_dtype(self, type_id: int) -> np.dtype[Any] | None:
        """The dtype of a type of anyone's object; None for type 0, and where NumPy has none, as for bitfields."""
        try:
            return self.dtype(type_id) if type_id else None
        except LayoutError:
            return None

    def _int_enum(self, found: Type) -> type[IntEnum]:
        # a name known only at run time is more than mypy follows
        make: Any = IntEnum
        try:
            made: type[IntEnum] = make(found.name, found.values)
            same = list(made.__members__.items()) == list(found.values)
        except (TypeError, ValueError):
            same = False
        if not same:
            # such as `mro`, `_` or `__x__`, or one name twice
            raise LayoutError(f"{self.name}: enum {found.name} has a name that no Python enum can have")
        return made

    def _derive(self, type_id: int) -> np.dtype[Any]:
        known = self._by_typedef(type_id)
        if known is not None:
            return known
        found = self.btf.plain(type_id)
        if found.kind in (Kind.STRUCT, Kind.UNION):
            return self._aggregate(found)
        if found.kind is Kind.ARRAY:
            return self._array(found)
        if found.kind is Kind.PTR:
            return np.dtype("u8")
        if found.kind in (Kind.ENUM, Kind.ENUM64):
            code = f"{'i' if found.signed else 'u'}{found.size}"
            return np.dtype(code, metadata={"enum": found.name})
        if found.kind is Kind.FLOAT:
            return np.dtype(f"f{found.size}")
        if found.kind is Kind.DATASEC:
            return np.dtype(f"V{found.size}")  # .rodata as one value: its variables are not laid out like a struct
        if found.kind is not Kind.INT:
            raise LayoutError(f"{self.name}: a {found.kind.name.lower()} {found.name} has no size")
        if found.boolean:
            return np.dtype("?")
        if found.size > 8:
            return np.dtype(f"V{found.size}")
        return np.dtype(f"{'i' if found.signed else 'u'}{found.size}")

    def _by_typedef(self, type_id: int) -> np.dtype[Any] | None:
        """What a typedef's name on the way down says about byte order or kind of address."""
        found = self.btf.types[type_id]
        while found.target and found.kind in (Kind.TYPEDEF, Kind.CONST, Kind.VOLATILE, Kind.TYPE_TAG):
            if found.kind is Kind.TYPEDEF:
                if found.name in BIG_ENDIAN:
                    return np.dtype(BIG_ENDIAN[found.name])
                if found.name in ADDRESSES:
                    kind, code = ADDRESSES[found.name]
                    return np.dtype(code, metadata={"kind": kind})
            found = self.btf.types[found.target]
        return None

    def _array(self, found: Type) -> np.dtype[Any]:
        element = self.dtype(found.target)
        if self.btf.plain(found.target).name == "char":
            return np.dtype(f"S{found.count}")
        return np.dtype((element.base, (found.count, *element.shape)))

    def _aggregate(self, found: Type) -> np.dtype[Any]:
        names: list[str] = []
        formats: list[np.dtype[Any]] = []
        offsets: list[int] = []
        for member in found.members:
            where = f"{self.name}: struct {found.name or '(unnamed)'}, field {member.name or '(unnamed)'}"
            if member.bit_size or member.bit_offset % 8:
                raise LayoutError(f"{where}: a bitfield, which numpy cannot show; use whole bytes and masks")
            offset, inner = member.bit_offset // 8, self.dtype(member.type_id)
            if member.name:
                names.append(member.name)
                formats.append(inner)
                offsets.append(offset)
                continue
            # C reaches the fields of an unnamed struct or union as if they were the outer one's
            for name, (field, inside, *_) in (inner.fields or {}).items():
                names.append(name)
                formats.append(field)
                offsets.append(offset + inside)
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": found.size})
