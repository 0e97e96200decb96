"""What is loaded in this kernel, whoever loaded it: programs and maps by id, what they lock, and when they came.

Listing takes CAP_SYS_ADMIN (CAP_BPF lists ids and opens nothing).
"""

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hopline.errors import KernelError, NotFound
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.btf import Btf
from hopline.kernel.handle import Handle, check
from hopline.kernel.map import Map, kernel_btf
from hopline.kernel.program import Program, ProgramInfo
from hopline.kernel.record import Layout

NAME_SIZE = 15  # what the kernel keeps of a name

T = TypeVar("T", bound=Handle)


@dataclass(frozen=True, slots=True)
class MapInfo:
    """A map of the kernel: sizes in bytes, `type` of enum bpf_map_type, `name` cut to 15 characters."""

    id: int
    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    locked_bytes: int


def program_ids() -> Iterator[int]:
    """Ids of all loaded programs, rising."""
    return _ids(lib.bpf_prog_get_next_id, "programs")


def map_ids() -> Iterator[int]:
    """Ids of all maps, rising."""
    return _ids(lib.bpf_map_get_next_id, "maps")


def _ids(following: Callable[[int, object], int], what: str) -> Iterator[int]:
    current = ffi.new("uint32_t *")
    while (result := following(current[0], current)) == 0:
        yield int(current[0])
    if result != -errno.ENOENT:
        check(result, f"list {what}")


def programs(*types: int) -> list[ProgramInfo]:
    """All loaded programs, or those of these types (enum bpf_prog_type)."""
    found = [program.info() for program in _opened(Program.from_id, program_ids())]
    return [info for info in found if not types or info.type in types]


def maps(name: str | None = None) -> list[MapInfo]:
    """All maps, or those of this name; of a name of more than 15 characters the kernel has the first 15."""
    wanted = None if name is None else name[:NAME_SIZE]
    found = []
    for map_id in map_ids():
        try:
            # without its types, which take long to read and are not asked for
            handle = Handle()
            handle.fd = check(lib.bpf_map_get_fd_by_id(map_id), f"open map id {map_id}")
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            continue  # gone since
        with handle:
            info = _map_info(handle.fd)
        if wanted in (None, info.name):
            found.append(info)
    return found


def map_info(map_id: int) -> MapInfo:
    """What the kernel says of one map; KernelError ENOENT if there is none."""
    with Handle() as handle:
        handle.fd = check(lib.bpf_map_get_fd_by_id(map_id), f"open map id {map_id}")
        return _map_info(handle.fd)


def _map_info(fd: int) -> MapInfo:
    info = ffi.new("struct bpf_map_info *")
    size = ffi.new("uint32_t *", ffi.sizeof("struct bpf_map_info"))
    check(lib.bpf_obj_get_info_by_fd(fd, info, size), "read map")
    name = ffi.string(info.name).decode()
    sizes = (info.key_size, info.value_size, info.max_entries, info.map_flags)
    return MapInfo(info.id, name, info.type, *sizes, locked_bytes(fd))


def find_program(name: str, *types: int) -> ProgramInfo:
    """The only loaded program of this name; NotFound if there is none, or if there are several."""
    found = [info for info in programs(*types) if info.name == name[:NAME_SIZE]]
    if len(found) == 1:
        return found[0]
    ids = ", ".join(str(info.id) for info in found)
    raise NotFound(f"program {name}: " + (f"ids {ids} are called so: name one by id" if found else "not loaded"))


def _opened(opener: Callable[[int], T], ids: Iterator[int]) -> Iterator[T]:
    for number in ids:
        try:
            handle = opener(number)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            continue  # gone since
        with handle:
            yield handle


def locked_bytes(fd: int) -> int:
    """Memory that the kernel keeps for a program or map, as /proc says of its descriptor."""
    for line in Path(f"/proc/thread-self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        if line.startswith("memlock:"):
            return int(line.split()[1])
    return 0


def loaded_at(loaded_ns: int) -> float:
    """The wall-clock time, in seconds of the epoch, of a `loaded_ns` of ProgramInfo, which counts from the boot."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + loaded_ns / 1e9


def program_layout(info: ProgramInfo) -> Layout | None:
    """All layouts of the object that a program came from, as the kernel keeps them; None where it keeps none."""
    if not info.btf_id:
        return None
    with Handle() as handle:
        handle.fd = check(lib.bpf_btf_get_fd_by_id(info.btf_id), f"read btf of program {info.name}")
        return Layout(Btf(kernel_btf(handle.fd), f"program {info.name}"))


def whole_name(program: Program) -> str:
    """The name of a program's function, which its BTF has whole and the kernel cuts to 15 characters."""
    info, type_id = program.info(), ffi.new("uint32_t *")
    if len(info.name) < NAME_SIZE or lib.hl_program_function(program.fd, type_id) < 0 or not type_id[0]:
        return info.name
    layout = program_layout(info)
    name = layout.btf.types[type_id[0]].name if layout and type_id[0] < len(layout.btf.types) else ""
    return name if name.startswith(info.name) else info.name


def open_maps(info: ProgramInfo) -> list[Map]:
    """The maps that a program uses, open; the caller closes them."""
    return [Map.from_id(map_id) for map_id in info.map_ids]
