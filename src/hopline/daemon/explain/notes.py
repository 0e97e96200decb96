"""The notes that steps leave in struct trace_event, found and read through BTF.

A step named `s` notes what it did in the member `struct s_note s`. Whoever adds one need not come here: its fields are
shown under their own names, enums by name, addresses as text, until `steps` has words for them.
"""

from ipaddress import ip_address
from typing import Any

import numpy as np

from hopline.errors import LayoutError
from hopline.features.forward import word_mac
from hopline.kernel.btf import Btf, Kind, Type
from hopline.kernel.record import Layout

RECORD = "trace_event"
PARSED = "packet"  # struct packet: what parse found, which other steps read too
_UNSAID = ("reserved", "spare")


def notes_of(layout: Layout, record: str = RECORD) -> dict[str, Type]:
    """Return each note's struct by the step's name, in the order of the steps."""
    found = layout.btf.find(Kind.STRUCT, record)
    if found is None:
        raise LayoutError(f"{layout.name}: no struct {record}")
    notes = {}
    for member in found.members:
        kind = layout.btf.plain(member.type_id)
        if kind.kind is Kind.STRUCT and kind.name in (f"{member.name}_note", PARSED):
            notes[member.name] = kind
    return notes


def read_note(layout: Layout, kind: Type, note: np.void) -> dict[str, Any]:
    """Return a note's fields by name, each as a number, a text, a list or a dict of such."""
    values = {}
    for member in kind.members:
        if member.name and member.name not in _UNSAID:
            values[member.name] = _value(layout, member.type_id, note[member.name])
    return values


def said(name: str, values: dict[str, Any]) -> str:
    """Return a note that nobody has words for as one line, field by field."""
    return f"{name}: " + ", ".join(f"{field.replace('_', ' ')} {_text(value)}" for field, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_text(inner)}" for name, inner in value.items()) + ")"
    if isinstance(value, list):
        return " ".join(map(_text, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _value(layout: Layout, type_id: int, value: Any) -> Any:
    btf, plain = layout.btf, layout.btf.plain(type_id)
    named = _typedefs(btf, type_id)
    if "mac_word_t" in named:
        return f"{word_mac(int(value))} {int(value) >> 48}"
    if "mac_t" in named:
        return value.tobytes().hex(":")
    if "ip4_t" in named:
        return str(ip_address(int(value)))
    if "ip6_t" in named:
        return address_text(value.tobytes())
    if plain.kind in (Kind.ENUM, Kind.ENUM64):
        return enum_text(plain, int(value))
    if plain.kind is Kind.STRUCT:
        return read_note(layout, plain, value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if plain.kind is Kind.ARRAY:
        return [_value(layout, plain.target, element) for element in value]
    return value.item() if hasattr(value, "item") and not isinstance(value, np.void) else value.tobytes().hex()


def _typedefs(btf: Btf, type_id: int) -> set[str]:
    """Return the names of the typedefs on the way down to a type."""
    names, found = set(), btf.types[type_id]
    while found.target and found.kind in (Kind.TYPEDEF, Kind.CONST, Kind.VOLATILE, Kind.TYPE_TAG):
        if found.kind is Kind.TYPEDEF:
            names.add(found.name)
        found = btf.types[found.target]
    return names


def address_text(packed: bytes) -> str:
    """Return the address in an ip6_t, of which an IPv4 address takes the first word."""
    if not any(packed):
        return "none"
    return str(ip_address(packed if any(packed[4:]) else packed[:4]))


def enum_text(kind: Type, value: int) -> str:
    """Return a value of an enum by name: that of the member, or of all the bits of one that holds flags."""
    exact = [name for name, number in kind.values if number == value]
    if exact:
        return exact[0]
    bits = [(name, number) for name, number in kind.values if number and number & value == number]
    rest = value
    for _, number in bits:
        rest &= ~number
    names = [name for name, _ in bits] + ([f"{rest:#x}"] if rest else [])
    return " ".join(names) or "none"
