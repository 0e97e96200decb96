"""The maps of this host: found by pin, id or name, and listed with what they hold and who uses them.

A map is named by its id; by the path of a pin; by its name; or as DEV/NAME, a map of the program on a device of the
calling thread's namespace, or one that is held by such a map. Of a name the kernel keeps 15 characters; the rest is in
BTF and in our pins, and what nothing tells is refused rather than guessed.
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hopline.errors import InvalidInput, KernelError, LayoutError, NotFound, Refused
from hopline.host.program import pins
from hopline.host.program.shapes import ARRAY_OF_MAPS, HASH_OF_MAPS, Array, Prefix, Shape, Struct, shapes_of
from hopline.kernel import bpffs, loaded
from hopline.kernel.btf import Kind
from hopline.kernel.link import query
from hopline.kernel.loaded import NAME_SIZE, MapInfo
from hopline.kernel.map import Map
from hopline.kernel.program import Program, ProgramInfo
from hopline.kernel.record import Layout
from hopline.spelling import shown

# enum bpf_map_type of include/uapi/linux/bpf.h, by number
TYPES = (
    *("unspec", "hash", "array", "prog_array", "perf_event_array", "percpu_hash", "percpu_array", "stack_trace"),
    *("cgroup_array", "lru_hash", "lru_percpu_hash", "lpm_trie", "array_of_maps", "hash_of_maps", "devmap", "sockmap"),
    *("cpumap", "xskmap", "sockhash", "cgroup_storage", "reuseport_sockarray", "percpu_cgroup_storage", "queue"),
    *("stack", "sk_storage", "devmap_hash", "struct_ops", "ringbuf", "inode_storage", "task_storage"),
    *("bloom_filter", "user_ringbuf", "cgrp_storage", "arena"),
)
# BPF_F_* of map_flags there, by bit
FLAGS = (
    *("no_prealloc", "no_common_lru", "numa_node", "rdonly", "wronly", "stack_build_id", "zero_seed", "rdonly_prog"),
    *("wronly_prog", "clone", "mmapable", "preserve_elems", "inner_map", "link", "path_fd", "vtype_btf_obj_fd"),
    *("token_fd", "segv_on_fault", "no_user_conv"),
)

_MOST = 20  # maps of a list in an error


@dataclass(frozen=True, slots=True)
class FieldRow:
    """A field of a key or value: its path, as `map set` takes it, and its type in C; alone, its path is ""."""

    path: str
    type: str


@dataclass(frozen=True, slots=True)
class UserRow:
    """A program that uses a map."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class MapRow:
    """A map of this host: sizes in octets; pins are those under our own directory."""

    id: int
    type: str
    name: str
    key_type: str
    key_size: int
    value_type: str
    value_size: int
    max_entries: int
    flags: list[str]
    locked_bytes: int
    pins: list[str]
    programs: list[UserRow]
    key: list[FieldRow]
    value: list[FieldRow]


def type_name(number: int) -> str:
    """A map type as the kernel calls it, in lower case."""
    return TYPES[number] if number < len(TYPES) else f"type {number}"


def find(name: str) -> Map:
    """The map of an id, a pin, a name or DEV/NAME, as raw octets; NotFound, or Refused where several are meant."""
    if not name:
        raise InvalidInput("map", "none is named", "give an id, the path of a pin, a name or DEV/NAME")
    map_id = id_of(name)
    if map_id is not None:
        return _by_id(map_id)
    if "/" in name:
        return _by_path(name)
    found = _called(name, loaded.maps(name), None, f", or as DEV/{shown(name)}")
    if found is None:
        raise NotFound(f"map {shown(name)}: there is none of this name: `hopline program map show` lists all")
    return _by_id(found.id)


def _called(
    name: str, among: Sequence[MapInfo], programs: Sequence[ProgramInfo] | None, other: str = ""
) -> MapInfo | None:
    """The one of these maps that has this name, None if none has; Refused where several have, or may have.

    `programs` are those whose BTF may have it whole, None all of this host; `other` is another way to name it.
    """
    found = [info for info in among if info.name == name[:NAME_SIZE]]
    if found and len(name) > NAME_SIZE:
        known = whole_names(found, loaded.programs() if programs is None else programs)
        found = [info for info in found if not known[info.id] or name in known[info.id]]
        if len(found) == 1 and not known[found[0].id]:
            said = f"nothing tells more of such a name than {shown(found[0].name)}"
            raise Refused(f"map {shown(name)}: {said}: name it so, or by its id {found[0].id}")
    if len(found) > 1:
        ids = ", ".join(str(info.id) for info in found)
        raise Refused(f"map {shown(name)}: ids {ids} are called so: name one by its id{other}")
    return found[0] if found else None


def whole_names(infos: Iterable[MapInfo], programs: Iterable[ProgramInfo]) -> dict[int, set[str]]:
    """What maps may be called in full, by id: as they are pinned by us, or as BTF of programs that use them has it."""
    infos = list(infos)
    cut = {info.id: info.name for info in infos if len(info.name) == NAME_SIZE}
    known: dict[int, set[str]] = {info.id: set() if info.id in cut else {info.name} for info in infos}
    for path, map_id in _our_pins():
        pinned_as = Path(path).name
        if map_id in cut and pinned_as.startswith(cut[map_id]):
            known[map_id].add(pinned_as)
    unpinned = {map_id for map_id in cut if not known[map_id]}
    read: dict[int, list[str]] = {}
    for program in programs:
        for map_id in unpinned & set(program.map_ids):
            if program.btf_id not in read:
                read[program.btf_id] = _declared(program)
            known[map_id] |= {declared for declared in read[program.btf_id] if declared.startswith(cut[map_id])}
    return known


def _declared(program: ProgramInfo) -> list[str]:
    """The names of the maps in the BTF of a program's object; none where it has no BTF, or one that is not read."""
    try:
        layout = loaded.program_layout(program)
    except KernelError as error:
        if error.errno != errno.ENOENT and not isinstance(error, LayoutError):
            raise
        return []
    types = layout.btf.types if layout else []
    sections = [found.section for found in types if found.kind is Kind.DATASEC and found.name == ".maps"]
    return [types[type_id].name for section in sections for type_id, _, _ in section]


def _held(infos: Iterable[MapInfo]) -> list[MapInfo]:
    """The maps in those of these that hold maps."""
    ids: set[int] = set()
    for info in infos:
        if info.type in (ARRAY_OF_MAPS, HASH_OF_MAPS):
            with _by_id(info.id) as outer:
                for _, found in outer.stream():
                    ids.update(found.reshape(-1).view("u4").tolist())
    held = []
    for map_id in sorted(ids):
        try:
            held.append(loaded.map_info(map_id))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
    return held


def id_of(name: str) -> int | None:
    """The id that a name is; None if it is none."""
    return int(name) if re.fullmatch(r"[0-9]{1,10}", name, re.ASCII) and int(name) < 1 << 32 else None


def _by_id(map_id: int) -> Map:
    try:
        return Map.from_id(map_id, typed=False)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        raise NotFound(f"map {map_id}: there is no such id: `hopline program map show` lists all") from None


def _by_pin(path: Path, name: str) -> Map:
    if not bpffs.is_there(path):
        raise NotFound(f"map {shown(name)}: there is no such pin: `hopline program map show` lists ours")
    try:
        if bpffs.is_bpffs(path) and not path.is_dir():
            return Map.from_pin(path, typed=False)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
    raise NotFound(f"map {shown(name)}: it is no pin of a map: `hopline program map show` lists ours")


def _by_path(name: str) -> Map:
    """By the path of a pin, or as DEV/NAME: a pin of ours, or a map of the program that the device runs."""
    path = Path(name)
    if path.is_absolute() or name.startswith("."):
        return _by_pin(path, name)
    device, _, rest = name.partition("/")
    place = pins.of_device(device)
    if place is not None and rest and "/" not in rest and bpffs.is_there(place / rest):
        return _by_pin(place / rest, name)
    # most maps are named otherwise, and it takes a while to load
    from hopline.kernel.netlink.query import link

    attached = query(link(device).index)
    if attached is None:
        raise NotFound(f"map {shown(name)}: no xdp program on {device}, and no pin: load one, or name a map by its id")
    with Program.from_id(attached.program_id) as program:
        info = program.info()
    used = [loaded.map_info(map_id) for map_id in info.map_ids]
    found = _called(rest, used, [info])
    if found is not None:
        return _by_id(found.id)
    held = _held(used)
    # their BTF is the program's, if they are of its object
    info = replace(info, map_ids=tuple(one.id for one in (*used, *held)))
    found = _called(rest, held, [info])
    if found is not None:
        return _by_id(found.id)
    has = _listed([*used, *held], info)
    raise NotFound(f"map {shown(name)}: no map of {attached.known_as} on {device} is called so: it has {has}")


def _listed(infos: Sequence[MapInfo], program: ProgramInfo) -> str:
    """Maps for an error, with their whole names where these are known; of very many the first."""
    known = whole_names(infos, [program])
    texts = []
    for info in infos[:_MOST]:
        (name,) = known[info.id] if len(known[info.id]) == 1 else (info.name,)
        texts.append(f"{name} (id {info.id})")
    more = f" and {len(infos) - _MOST} more" if len(infos) > _MOST else ""
    return ", ".join(texts) + more if texts else "none"


def names() -> list[str]:
    """The names of all maps of this host."""
    return sorted({info.name for info in loaded.maps() if info.name})


def listed(name: str | None = None) -> list[MapRow]:
    """All maps of this host, or the one that is named; in the order of their ids."""
    if name is None:
        infos = loaded.maps()
    else:
        with find(name) as one:
            infos = [loaded.map_info(one.id)]
    pinned: dict[int, list[str]] = {}
    for path, map_id in _our_pins():
        pinned.setdefault(map_id, []).append(path)
    users: dict[int, list[UserRow]] = {}
    for program in loaded.programs():
        for map_id in program.map_ids:
            users.setdefault(map_id, []).append(UserRow(program.id, program.name))
    known: dict[int, Layout | None] = {}
    rows = []
    for info in infos:
        try:
            one = _by_id(info.id)
        except NotFound:
            continue  # gone since
        with one:
            key, value = shapes_of(one, known)
        rows.append(
            MapRow(
                id=info.id,
                type=type_name(info.type),
                name=info.name,
                key_type=key.type,
                key_size=info.key_size,
                value_type=value.type,
                value_size=info.value_size,
                max_entries=info.max_entries,
                flags=[flag for bit, flag in enumerate(FLAGS) if info.flags >> bit & 1],
                locked_bytes=info.locked_bytes,
                pins=sorted(pinned.get(info.id, [])),
                programs=users.get(info.id, []),
                key=list(_fields(key)),
                value=list(_fields(value)),
            )
        )
    return rows


def _our_pins() -> Iterator[tuple[str, int]]:
    """Every map that is pinned in our directory: its path as the usual mount has it, and its id."""
    root = bpffs.root()
    for directory, _, files in os.walk(root / "hopline"):
        for name in files:
            path = Path(directory, name)
            try:
                with Map.from_pin(path, typed=False) as found:
                    yield str(bpffs.USUAL / path.relative_to(root)), found.id
            except KernelError:
                continue  # a program, a link, or gone since


def _fields(shape: Shape, path: str = "") -> Iterator[FieldRow]:
    """The fields of a key or value, those of structs within it one by one."""
    if isinstance(shape, Struct):
        for field in shape.fields:
            yield from _fields(field.shape, f"{path}.{field.name}" if path else field.name)
    elif isinstance(shape, Array) and isinstance(shape.element, Struct):
        yield from _fields(shape.element, f"{path}[0..{shape.count - 1}]")
    elif not isinstance(shape, Prefix) and shape.size == 0:
        return
    else:
        yield FieldRow(path, shape.type)
