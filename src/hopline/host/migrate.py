"""Moving the contents of one build's maps into another's: by the names of maps, fields and enum members.

What means the same is carried, whatever its place or size; a field that is new is zero. What would be lost or change
its meaning is refused by name, except counters, which then start anew and are said to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.daemon.adoption import CACHES, IDENTITY, SIZED
from hopline.daemon.datapath import TABLES, Datapath
from hopline.errors import KernelError, LayoutError, Refused
from hopline.kernel import Layout, Map
from hopline.kernel.codec import ARRAYS, DEVMAP, DEVMAP_HASH
from hopline.kernel.object import SHARED_FLAGS, DeclaredMap

# of a daemon or a lease that is over, or made afresh with the maps: words of `state`
FRESH_STATE = ("generation", "lease_deadline", "lease_jiffies", "jiffies", "local_bloom")
# one row an adjacency; learned ones are learned again
ADJACENCY_ROWS = ("adjacencies", "next_hop_count")
FILLERS = ("spare", "reserved")
# their numbers are in the maps; those of verdicts only in counters
MEANINGS = (
    *("adjacency_state", "adjacency_id", "interface_flag"),
    *("service_protocol", "vip_flag", "service_flag", "slot_state", "encapsulation", "backend_flag"),
)
# of services: the new programs run over the very same maps where their layout is the same, since the old ones go on
# remembering flows until the last moment
KEPT = (
    *("vip_buckets", "vips", "port_pages", "services", "service_names", "flow_count"),
    *("rings", "backends", "backend_count", "flows"),
    *("decap4", "decap6", "decap_local4", "decap_local6", "decap_ports", "decap_count"),
)


@dataclass
class Moved:
    """What was carried: entries of the operator's, next hops that they use, and what else is worth saying."""

    entries: int = 0
    next_hops: int = 0
    remarks: list[str] = field(default_factory=list)


def migrate(old: Mapping[str, Map], new: Datapath) -> Moved:
    """Fill a fresh datapath with what an instance's maps of another build hold. Refused names what does not fit.

    Adjacency ids stay what they are, so that the maps of both builds can be mixed while pins are renamed one by one.
    """
    moved = Moved()
    layout = old["state"].layout() if "state" in old else None
    if layout is not None:
        for name in MEANINGS:
            _same_meaning(layout, new.layout, name)
    rows = np.concatenate([_move_entries(old, new, moved), _backend_hops(old, layout, new)])
    for name in ADJACENCY_ROWS:
        if name in old:
            _move_rows(old[name], new.maps[name], rows)
    if "state" in old:
        _move_state(old["state"], new)
    if "verdict_count" in old:
        _move_verdicts(old["verdict_count"], new, layout, moved)
    done = {*TABLES, *CACHES, *ADJACENCY_ROWS, IDENTITY, "state", "verdict_count"}
    for name in sorted(old.keys() & new.maps.keys() - done):
        if old[name].id != new.maps[name].id:
            _move_map(old[name], new.maps[name])
    new.refresh_bloom()
    _say_what_differs(old, new, moved)
    return moved


def may_keep(old: Map, ours: DeclaredMap) -> bool:
    """Return whether this build's programs can run over a map of another build as it is."""
    sizes = ours.name in SIZED or old.max_entries == ours.max_entries
    flags = old.flags & SHARED_FLAGS == ours.flags & SHARED_FLAGS
    dtypes = (old.key_dtype, old.value_dtype) == (ours.shape.key_dtype, ours.shape.value_dtype)
    return ours.name in KEPT and sizes and flags and dtypes and old.type == ours.shape.type


def steps_in_use(datapath: Datapath) -> dict[str, bool]:
    """Return which steps the programs over a datapath's maps need."""
    maps = datapath.maps
    return {
        "balancing": bool(maps["vip_buckets"].mmap()["ways"].any()),
        "decapsulating": any(len(maps[f"decap_local{family}"].items()[0]) > 0 for family in (4, 6)),
    }


def _backend_hops(old: Mapping[str, Map], layout: Layout | None, new: Datapath) -> NDArray[np.uint32]:
    """Return the adjacency ids that backends have."""
    none = np.empty(0, np.uint32)
    if "backends" not in old or "adjacencies" not in old or layout is None:
        return none
    first, ours = int(layout.enum("balance_limit")["BACKEND_HOP_FIRST"]), new.layout.enum("balance_limit")
    states = old["adjacencies"].items()[1]["state"][first:]
    rows = np.flatnonzero(states).astype(np.uint32) + np.uint32(first)
    if len(rows) and (first != ours["BACKEND_HOP_FIRST"] or int(rows[-1]) >= new.maps["adjacencies"].max_entries):
        raise Refused(
            "migrate adjacencies: this build has the next hops of backends elsewhere: remove the services first, or "
            "`hopline detach`"
        )
    return rows


def _same_meaning(old: Layout, new: Layout, name: str) -> None:
    try:
        theirs = old.enum(name).__members__
    except LayoutError:
        return  # of a build that did not have it yet
    ours = new.enum(name).__members__
    for member, number in theirs.items():
        if member in ours and ours[member] != number:
            raise Refused(f"migrate: {member} of enum {name} is {int(number)} there and {int(ours[member])} here")


def _move_entries(old: Mapping[str, Map], new: Datapath, moved: Moved) -> NDArray[np.uint32]:
    """Carry the operator's tables; return the adjacency ids that their entries have, in order."""
    used: set[int] = set()
    for table in TABLES:
        if table not in old:
            continue
        moved.entries += _move_map(old[table], new.maps[table])
        values = new.maps[table].items()[1]
        numbers = values[values.dtype.names[0]] if values.dtype.names else values
        used.update(np.unique(numbers).tolist())
    first, end = int(new.ids.ADJACENCY_ID_FIRST), new.learned_base
    rows = np.array(sorted(id for id in used if id >= first), np.uint32)
    moved.next_hops = len(rows)
    if len(rows) and rows[-1] >= end:
        raise Refused(
            f"migrate adjacencies: id {rows[-1]} is in use, and this build has room for the operator's up to "
            f"{end - 1}: share next hops among entries, or `hopline detach` first"
        )
    return rows


def _move_map(old: Map, new: Map) -> int:
    """Carry all elements; return how many the map has now, of an array those that are not zero."""
    keys, values = old.items()
    if old.type in ARRAYS and new.type in ARRAYS:
        return _move_array(old, new, keys, values)
    if len(keys) > new.max_entries:
        raise Refused(
            f"migrate {old.name}: it holds {len(keys):,} entries, and this build's holds {new.max_entries:,} at most: "
            "remove some first"
        )
    new_keys = carried(keys, new.key_dtype, f"{old.name} key")
    new_values = carried(values, new.value_dtype, f"{old.name} value")
    if new.type in (DEVMAP, DEVMAP_HASH):
        _point_at_devices(new, new_keys, new_values)
    elif len(keys):
        new.update_batch(new_keys, new_values)
    return len(keys)


def _point_at_devices(new: Map, keys: NDArray[Any], values: NDArray[Any]) -> None:
    for key, value in zip(keys, values, strict=True):
        try:
            new.set(key, value)
        except KernelError:
            continue  # the device went away in this moment, and is nobody's next hop any more


def _move_array(old: Map, new: Map, keys: NDArray[Any], values: NDArray[Any]) -> int:
    held = _nonzero(values)
    keys, values = keys[held], values[held]
    beyond = keys >= new.max_entries
    if beyond.any():
        if not new.per_cpu:
            raise Refused(
                f"migrate {old.name}: element {int(keys[beyond][0])} is in use, and this build's has "
                f"{new.max_entries:,}: free it first"
            )
        keys, values = keys[~beyond], values[~beyond]
    if len(keys):
        new.update_batch(keys, carried(values, new.value_dtype, old.name))
    return len(keys)


def _move_rows(old: Map, new: Map, rows: NDArray[np.uint32]) -> None:
    if len(rows):
        _, values = old.items()
        new.update_batch(rows, carried(values[rows], new.value_dtype, old.name))


def _move_state(old: Map, new: Datapath) -> None:
    value, target = old.get(0), new.maps["state"].mmap()
    before = np.array([value])
    wanted = carried(before, new.maps["state"].value_dtype, "state")
    for name in wanted.dtype.names or ():
        if name not in FRESH_STATE and name in (before.dtype.names or ()):
            target[name][0] = wanted[name][0]
    new.bump_generation()


def _move_verdicts(old: Map, new: Datapath, layout: Layout | None, moved: Moved) -> None:
    """Counters by interface slot and verdict: verdicts keep their numbers, but not how many a slot has room for."""
    counters = new.maps["verdict_count"]
    there = dict(layout.enum("verdict").__members__) if layout is not None else {}
    here = dict(new.verdicts.__members__)
    if layout is None or any(here.get(name, number) != number for name, number in there.items()):
        moved.remarks.append("counters of verdicts start at 0: they are numbered anew")
        return
    width = (int(layout.enum("limit")["VERDICT_SLOTS"]), int(new.limits["VERDICT_SLOTS"]))
    keys, values = old.items()
    held = _nonzero(values)
    slots, verdicts = np.divmod(keys[held], width[0])
    fits = (verdicts < width[1]) & (slots < new.limits["INTERFACE_SLOTS"])
    if fits.any():
        rows = (slots * width[1] + verdicts)[fits].astype(np.uint32)
        counters.update_batch(rows, carried(values[held][fits], counters.value_dtype, old.name))


def _say_what_differs(old: Mapping[str, Map], new: Datapath, moved: Moved) -> None:
    for name in sorted(new.maps.keys() - old.keys() - {IDENTITY}):
        moved.remarks.append(f"{name} is new and empty")
    for name in sorted(old.keys() - new.maps.keys()):
        _leave_behind(old[name], moved)
    for name in sorted(old.keys() & new.maps.keys() - {*CACHES, IDENTITY}):
        before, after = old[name], new.maps[name]
        if before.max_entries != after.max_entries:
            moved.remarks.append(f"{name}: room for {after.max_entries:,} in place of {before.max_entries:,}")
        fields = (_fields(before.value_dtype), _fields(after.value_dtype))
        for field_name in sorted(fields[1] - fields[0] - set(FILLERS)):
            moved.remarks.append(f"{name}: field {field_name} is new and 0")
        for field_name in sorted(fields[0] - fields[1] - set(FILLERS)):
            moved.remarks.append(f"{name}: field {field_name} is gone")


def _leave_behind(old: Map, moved: Moved) -> None:
    if old.per_cpu:
        moved.remarks.append(f"{old.name} is gone, with its counters")
        return
    keys, values = old.items()
    held = int(_nonzero(values).sum()) if old.type in ARRAYS else len(keys)
    if held and not old.name.startswith("cache"):
        raise Refused(f"migrate: this build has no map {old.name}, and it holds {held:,} entries: remove them first")
    moved.remarks.append(f"{old.name} is gone")


def _fields(dtype: np.dtype[Any]) -> set[str]:
    return set(dtype.names or ())


def _nonzero(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of n values, of any dtype and shape (n, …), have an octet that is not zero."""
    if not len(values):
        return np.zeros(0, bool)
    octets = np.frombuffer(values.tobytes(), np.uint8).reshape(len(values), -1)
    return np.asarray(octets.any(axis=1))


def carried(old: NDArray[Any], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    """Return n values as `dtype` has them, by field names; trailing dimensions (CPUs, array fields) stay.

    A number by itself and a struct's first field are taken for one another, as C does. Refused names the field that
    has no place, where it holds anything.
    """
    base, inner = dtype.subdtype if dtype.subdtype else (dtype, ())
    outer = old.shape if not inner else old.shape[: old.ndim - len(inner)]
    new = np.zeros((*outer, *inner), base)
    _carry(old, new, where)
    return new


def _carry(old: NDArray[Any], new: NDArray[Any], where: str) -> None:
    if old.dtype.names and new.dtype.names:
        for name in old.dtype.names:
            if name in new.dtype.names:
                if name not in FILLERS:
                    _carry(old[name], new[name], f"{where}.{name}")
            elif name not in FILLERS:
                _must_be_empty(old[name], f"{where}.{name}")
    elif new.dtype.names:
        _carry(old, new[new.dtype.names[0]], where)
    elif old.dtype.names:
        first, *others = old.dtype.names
        _carry(old[first], new, f"{where}.{first}")
        for name in others:
            if name not in FILLERS:
                _must_be_empty(old[name], f"{where}.{name}")
    else:
        _carry_plain(old, new, where)


def _carry_plain(old: NDArray[Any], new: NDArray[Any], where: str) -> None:
    kinds = {old.dtype.kind, new.dtype.kind}
    numbers = kinds <= set("iub")
    sizes = (old.dtype.itemsize, new.dtype.itemsize)
    fits = numbers or (kinds == {"S"} and sizes[0] <= sizes[1]) or (kinds == {"V"} and sizes[0] == sizes[1])
    if old.ndim != new.ndim or not fits:
        raise Refused(f"migrate {where}: {old.dtype} there and {new.dtype} here: this build cannot take it over")
    common = tuple(slice(0, min(pair)) for pair in zip(old.shape, new.shape, strict=True))
    target = new[common]
    target[...] = old[common].astype(new.dtype)
    if numbers and not np.array_equal(target.astype(old.dtype), old[common]):
        raise Refused(f"migrate {where}: a value there is too large for this build")
    if old.shape != target.shape:
        rest = old.copy()
        rest[common] = np.zeros((), old.dtype)
        _must_be_empty(rest, where)


def _must_be_empty(old: NDArray[Any], where: str) -> None:
    used = int(_nonzero(old).sum())
    if used:
        raise Refused(
            f"migrate {where}: this build has no place for it, and {used:,} of {len(old):,} elements use it: "
            "remove what uses it first, or `hopline detach`"
        )
