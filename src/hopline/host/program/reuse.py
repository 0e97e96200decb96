"""Maps that outlive a reload: those of the program that is there are taken by the next, if their shapes agree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hopline.errors import KernelError, Refused
from hopline.host.program import pins
from hopline.kernel.loaded import NAME_SIZE
from hopline.kernel.map import Map
from hopline.kernel.object import SHARED_FLAGS, BpfObject, DeclaredMap
from hopline.kernel.program import Program, map_type

DType = np.dtype[Any]


def reusable(device: str, program: Program | None) -> dict[str, Map]:
    """Maps to be taken over, by name: the attached program's, else the pinned ones; the caller closes them.

    A pin has a name whole, the kernel its first 15 characters. Refused where those are all that is known of two maps.
    """
    place = pins.of_device(device)
    pinned = [one for pin in sorted(place.iterdir()) if (one := _pinned(pin))] if place else []
    if program is None:
        return _by_name(device, pinned)
    whole = {one.id: one.name for one in pinned}
    for one in pinned:
        one.close()
    found = [Map.from_id(map_id) for map_id in program.info().map_ids]
    for one in found:
        one.name = whole.get(one.id, one.name)
    return _by_name(device, found)


def _by_name(device: str, found: list[Map]) -> dict[str, Map]:
    named: dict[str, Map] = {}
    twice = ""
    for one in found:
        # one with a dot holds the global variables of its object
        variables = "." in one.name
        if variables or named.setdefault(one.name, one) is not one:
            twice = twice if variables else one.name
            one.close()
    if twice:
        for one in named.values():
            one.close()
        why = f"two of them are called {twice} in the kernel, which cuts names to {NAME_SIZE} characters"
        raise Refused(f"reuse maps of {device}: {why}: load without --reuse-maps, with --pin to keep names whole")
    return named


def _pinned(pin: Path) -> Map | None:
    try:
        found = Map.from_pin(pin)
    except KernelError:
        return None  # the program's pin
    found.name = pin.name
    return found


def take_over(found: BpfObject, named: Mapping[str, Map]) -> None:
    """Have an object use, for those of its maps that are called so, maps that are there; Refused names what differs."""
    taken: dict[int, str] = {}
    for declared in found.declared_maps():
        existing = named.get(declared.name) or named.get(declared.name[:NAME_SIZE])
        if existing is None or declared.variables:
            continue
        what, todo = f"reuse map {declared.name} (id {existing.id})", "load without --reuse-maps"
        if taken.setdefault(existing.id, declared.name) != declared.name:
            why = f"its name of {NAME_SIZE} characters fits {taken[existing.id]} as well"
            raise Refused(f"{what}: {why}: {todo}, with --pin to keep names whole")
        if difference := _difference(declared, existing):
            raise Refused(f"{what}: {difference}: {todo} to begin with an empty one")
        if not declared.max_entries:
            # one for each CPU, which libbpf would fill in
            found.resize(declared.name, existing.max_entries)
        found.reuse(declared.name, existing)


def _difference(declared: DeclaredMap, existing: Map) -> str:
    shape = declared.shape
    pairs = {
        "type": (map_type(existing.type), map_type(shape.type)),
        "key size": (existing.key_size, shape.key_size),
        "value size": (existing.value_size, shape.value_size),
        "max_entries": (existing.max_entries, declared.max_entries or existing.max_entries),
        "map_flags": (existing.flags & SHARED_FLAGS, declared.flags & SHARED_FLAGS),
    }
    for what, (has, wants) in pairs.items():
        if has != wants:
            return f"{what} is {has}, the object's is {wants}"
    parts = (
        ("key", existing.btf_types[0], existing.key_dtype, shape.key_dtype),
        ("value", existing.btf_types[1], existing.value_dtype, shape.value_dtype),
    )
    for part, told, one, other in parts:
        # of maps of devices and some more the kernel keeps no types
        if told and other is not None and (said := _field_difference(part, one, other)):
            return said
    return ""


def _field_difference(where: str, has: DType, wants: DType) -> str:
    """The first field in which two types of one size differ; "" where they agree, or one is but octets."""
    if has.names is None or wants.names is None:
        octets = "V" in (has.base.kind, wants.base.kind) and has.names is None and wants.names is None
        return "" if has == wants or octets else f"{where} is {_words(has)}, the object's is {_words(wants)}"
    assert has.fields is not None
    assert wants.fields is not None
    for name in dict.fromkeys((*wants.names, *has.names)):
        inner = f"{where} field {name}"
        if name not in has.names:
            return f"{inner} is not in it"
        if name not in wants.names:
            return f"{inner} is in it, and not in the object's"
        (one, at, *_), (other, place, *_) = has.fields[name], wants.fields[name]
        if at != place:
            return f"{inner} is at octet {at}, the object's at {place}"
        if said := _field_difference(inner, one, other):
            return said
    return ""


def _words(dtype: DType) -> str:
    return "a struct" if dtype.names else str(dtype)
