"""BPF objects: an ELF file opened by libbpf, adjusted, loaded into the kernel, and asked for its programs and maps.

open → set_rodata, resize, reuse, only, set_type, set_frags → load → program(), map(). Programs are chosen by function
name. Where a map asks to be pinned by name, nothing is pinned: who loads the object decides that.
"""

import errno as numbers
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hopline.errors import KernelError, LayoutError, VerifierRefusal
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.btf import Btf, Kind, Variable
from hopline.kernel.codec import Shape
from hopline.kernel.handle import LACKS_RIGHT, check, portable
from hopline.kernel.map import Map
from hopline.kernel.program import XDP, Program
from hopline.kernel.record import Layout

BPF_F_NO_PREALLOC = 1 << 0
BPF_F_MMAPABLE = 1 << 10
SHARED_FLAGS = BPF_F_MMAPABLE | BPF_F_NO_PREALLOC  # that two who share a map have to agree on

ATTACH_XDP = 37  # enum bpf_attach_type; programs of other types that we load have none to say

LOG_BEGIN = "-- BEGIN PROG LOAD LOG --\n"
LOG_END = "-- END PROG LOAD LOG --"

DIGEST_SIZE = 16  # octets


@dataclass(frozen=True, slots=True)
class Declared:
    """A program as the object has it: `type` of enum bpf_prog_type is 0 where the section's name says none."""

    name: str
    section: str
    type: int
    instructions: int


@dataclass(frozen=True, slots=True)
class DeclaredMap:
    """A map as the object has it: `variables` says that it holds global ones, `pinned` asks to be pinned by its name.

    `type_ids` are those of its key and value in the object's BTF, 0 where that does not say.
    """

    name: str
    shape: Shape
    max_entries: int
    flags: int
    variables: bool
    pinned: bool
    type_ids: tuple[int, int]


class ObjectFile:
    """An object file as it is now: what is opened later is this, whatever becomes of the file, as when its package
    is upgraded under a running process. `digest` tells it from every other build. `data` is given where it is not quite
    what the file holds.
    """

    def __init__(self, path: str | Path, data: bytes | None = None) -> None:
        try:
            data = Path(path).read_bytes() if data is None else data
        except OSError as error:
            number = error.errno or numbers.ENOENT
            raise KernelError(f"open object {path}", number, "build the package (make) or name another file") from error
        self.name = Path(path).name.partition(".")[0]
        self.digest = hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()
        # libbpf reads a path, so the copy is given one
        with os.fdopen(os.memfd_create(self.name, os.MFD_CLOEXEC), "wb", closefd=False) as copy:
            copy.write(data)
            self._fd = copy.fileno()

    def open(self) -> "BpfObject":
        """Read it; nothing reaches the kernel before load()."""
        return BpfObject.open(f"/proc/self/fd/{self._fd}", self.name)

    def close(self) -> None:
        """Let the copy go; objects opened from it stay."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class BpfObject:
    """One opened object. `layout` holds its structs and enums; `name` is the file's name or the one given."""

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.name
        self.loaded = False
        asked = f"open object {self.path}"
        if not self.path.is_file():
            raise KernelError(asked, numbers.ENOENT, "build the package (make) or name another file")
        holder = ffi.new("struct bpf_object **")
        lib.hl_message_clear()
        title = ffi.new("char[]", name.encode()) if name else ffi.NULL
        check(lib.hl_object_open(os.fsencode(self.path), title, holder), asked)
        self._object = holder[0]
        self.layout = Layout(self._btf(), self.name)
        self._variables = self.layout.btf.variables()
        self._programs = self._walk(lib.bpf_object__next_program, lib.bpf_program__name)
        # libbpf renames a map that it reuses and forgets types the kernel cannot take, so both are noted now
        self._maps = self._walk(lib.bpf_object__next_map, lib.bpf_map__name)
        self._shapes = {name: self._shape(pointer) for name, pointer in self._maps.items()}
        self._pinned = {name for name, pointer in self._maps.items() if lib.bpf_map__pin_path(pointer) != ffi.NULL}
        for name in self._pinned:
            check(lib.bpf_map__set_pin_path(self._maps[name], ffi.NULL), asked)

    @classmethod
    def open(cls, path: str | Path, name: str | None = None) -> Self:
        """Read an object file; nothing reaches the kernel before load()."""
        return cls(path, name)

    def _btf(self) -> Btf:
        """BTF as libbpf corrected it: clang leaves the offsets of variables to the loader."""
        btf = lib.bpf_object__btf(self._object)
        if btf == ffi.NULL:
            raise LayoutError(f"open object {self.path}: no btf in it, compile with -g")
        size = ffi.new("uint32_t *")
        data = lib.btf__raw_data(btf, size)
        return Btf(bytes(ffi.buffer(data, size[0])), self.name)

    def _walk(self, following: object, named: object) -> dict[str, object]:
        found, pointer = {}, ffi.NULL
        while (pointer := following(self._object, pointer)) != ffi.NULL:  # type: ignore[operator]
            found[ffi.string(named(pointer)).decode()] = pointer  # type: ignore[operator]
        return found

    def _shape(self, pointer: object) -> Shape:
        key, value = lib.bpf_map__btf_key_type_id(pointer), lib.bpf_map__btf_value_type_id(pointer)
        known = key and not lib.bpf_map__is_internal(pointer)
        return Shape(
            lib.hl_map_type(pointer),
            lib.bpf_map__key_size(pointer),
            lib.bpf_map__value_size(pointer),
            self.layout.possible_dtype(key) if known else None,
            self.layout.possible_dtype(value) if known else None,
        )

    def programs(self) -> list[str]:
        """Names of all programs (C functions) in the object."""
        return list(self._programs)

    def declared(self) -> list[Declared]:
        """All programs as the object has them."""
        return [
            Declared(
                name,
                ffi.string(lib.bpf_program__section_name(pointer)).decode(),
                lib.hl_program_type(pointer),
                lib.bpf_program__insn_cnt(pointer),
            )
            for name, pointer in self._programs.items()
        ]

    def declared_maps(self) -> list[DeclaredMap]:
        """All maps as the object has them, those of global variables too."""
        return [
            DeclaredMap(
                name,
                self._shapes[name],
                lib.bpf_map__max_entries(pointer),
                lib.bpf_map__map_flags(pointer),
                lib.bpf_map__is_internal(pointer),
                name in self._pinned,
                (lib.bpf_map__btf_key_type_id(pointer), lib.bpf_map__btf_value_type_id(pointer)),
            )
            for name, pointer in self._maps.items()
        ]

    def maps(self) -> list[str]:
        """Names of all maps, those of global variables left out."""
        return [name for name, pointer in self._maps.items() if not lib.bpf_map__is_internal(pointer)]

    def variables(self) -> dict[str, Variable]:
        """Global variables (.rodata, .data, .bss) by name, with section, offset and size in bytes."""
        return {n: v for n, v in self._variables.items() if v.section.startswith((".rodata", ".data", ".bss"))}

    def set_rodata(self, **variables: int | bool | bytes | np.ndarray | np.generic) -> None:
        """Set `const volatile` variables by name; LayoutError if one is missing, too small or not read-only."""
        self._before_load("set variables")
        for name, value in variables.items():
            variable = self._variables.get(name)
            if variable is None or not variable.section.startswith(".rodata"):
                raise LayoutError(f"{self.name}: no read-only variable {name}")
            self._set_variable(variable, self._encode(variable, value))

    def set_variable(self, name: str, value: bytes) -> None:
        """Set any global variable, in its own size; LayoutError if it is missing or of another size."""
        self._before_load("set variables")
        variable = self.variables().get(name)
        if variable is None:
            raise LayoutError(f"{self.name}: no variable {name}")
        self._set_variable(variable, self._encode(variable, value))

    def initial_value(self, name: str) -> bytes:
        """What a global variable holds when the object is loaded; LayoutError if it is missing."""
        variable = self.variables().get(name)
        if variable is None:
            raise LayoutError(f"{self.name}: no variable {name}")
        _, section = self._section(variable)
        return bytes(section[variable.offset : variable.offset + variable.size])

    def _encode(self, variable: Variable, value: int | bool | bytes | np.ndarray | np.generic) -> bytes:
        asked = f"{self.name}: set variable {variable.name}"
        if isinstance(value, (np.ndarray, np.generic)) and not isinstance(value, (np.integer, np.bool_)):
            value = value.tobytes()
        if isinstance(value, bytes):
            if len(value) != variable.size:
                raise LayoutError(f"{asked}: {len(value)} bytes given, it has {variable.size}")
            return value
        plain = self.layout.btf.plain(variable.type_id)
        if plain.kind not in (Kind.INT, Kind.ENUM, Kind.ENUM64):
            raise LayoutError(f"{asked}: a {plain.kind.name.lower()} takes bytes, not a number")
        dtype = self.layout.dtype(variable.type_id)
        if dtype.kind == "b" and int(value) not in (0, 1):
            raise LayoutError(f"{asked}: {value} is neither true nor false")
        try:
            return np.array([int(value)], dtype).tobytes()
        except OverflowError as error:
            raise LayoutError(f"{asked}: {value} does not fit in {variable.size} bytes") from error

    def _set_variable(self, variable: Variable, value: bytes) -> None:
        pointer, section = self._section(variable)
        section[variable.offset : variable.offset + variable.size] = value
        changed = ffi.from_buffer(bytes(section))
        check(lib.bpf_map__set_initial_value(pointer, changed, len(section)), f"{self.name}: set {variable.name}")

    def _section(self, variable: Variable) -> tuple[object, bytearray]:
        """The map that the section of a variable becomes, and its initial octets."""
        size = ffi.new("size_t *")
        # by name: a section's map is called after the object and cut, so it is found by its end
        found = (p for n, p in self._maps.items() if n.endswith(variable.section) or n == variable.section)
        pointer = next(found, ffi.NULL)
        # NULL where libbpf dropped the section
        data = ffi.NULL if pointer == ffi.NULL else lib.bpf_map__initial_value(pointer, size)
        if data == ffi.NULL:
            raise LayoutError(f"{self.name}: section {variable.section} has no data")
        return pointer, bytearray(ffi.buffer(data, size[0]))

    def resize(self, map_name: str, max_entries: int) -> None:
        """Give a map another number of entries than its declaration says."""
        self._before_load(f"resize {map_name}")
        asked = f"{self.name}: resize map {map_name} to {max_entries} entries"
        check(lib.bpf_map__set_max_entries(self._map(map_name), max_entries), asked)

    def reuse(self, map_name: str, existing: Map) -> None:
        """Use `existing` (of another object, or pinned) for the map `map_name`; KernelError names what differs."""
        self._before_load(f"reuse {map_name}")
        pointer, shape = self._map(map_name), self._shapes[map_name]
        pairs = {
            "type": (shape.type, existing.type),
            "key size": (shape.key_size, existing.key_size),
            "value size": (shape.value_size, existing.value_size),
            "max entries": (lib.bpf_map__max_entries(pointer), existing.max_entries),
            "flags": (lib.bpf_map__map_flags(pointer) & SHARED_FLAGS, existing.flags & SHARED_FLAGS),
        }
        asked = f"{self.name}: share map {map_name} with map id {existing.id}"
        for what, (ours, theirs) in pairs.items():
            if ours != theirs:
                raise KernelError(
                    f"{asked}: {what} is {theirs}, the object wants {ours}", numbers.EINVAL, "use a fresh map"
                )
        check(lib.bpf_map__reuse_fd(pointer, existing.fd), asked)

    def only(self, *program_names: str) -> None:
        """Load only these programs."""
        self._before_load("choose programs")
        for name in program_names:
            self._program(name)
        for name, pointer in self._programs.items():
            check(lib.bpf_program__set_autoload(pointer, name in program_names), f"{self.name}: choose {name}")

    def set_type(self, program_name: str, program_type: int) -> None:
        """Load a program as one of enum bpf_prog_type `program_type`, whatever its section says."""
        self._before_load("set type")
        attach = ATTACH_XDP if program_type == XDP else 0
        result = lib.hl_program_set_type(self._program(program_name), program_type, attach)
        check(result, f"{self.name}: set type of {program_name}")

    def set_device(self, program_name: str, ifindex: int) -> None:
        """Load a program, and all maps, into a device that runs programs itself."""
        self._before_load("set device")
        lib.bpf_program__set_ifindex(self._program(program_name), ifindex)
        for name, pointer in self._maps.items():
            check(lib.bpf_map__set_ifindex(pointer, ifindex), f"{self.name}: set device of {name}")

    def set_frags(self, program_name: str, enabled: bool) -> None:
        """Load an XDP program with or without support for frames of several buffers, whatever its section says."""
        self._before_load("set frags")
        pointer = self._program(program_name)
        check(lib.hl_program_set_frags(pointer, enabled), f"{self.name}: set frags of {program_name}")

    def load(self) -> None:
        """Create the maps and load the programs; VerifierRefusal (`.log` has all) or KernelError, and nothing stays."""
        self._before_load("load")
        lib.hl_message_clear()
        result = lib.bpf_object__load(self._object)
        if result < 0:
            raise self._refusal(portable(-result))
        lib.hl_message_clear()
        self.loaded = True

    def _refusal(self, errno: int) -> KernelError:
        text = ffi.string(lib.hl_message()).decode(errors="replace")
        if LOG_BEGIN in text:
            log = text.split(LOG_BEGIN, 1)[1].split(LOG_END)[0]
            lib.hl_message_clear()
            # libbpf's own lines end with its "libbpf: prog 'x': " prefix in front of the end mark
            log = "\n".join(line for line in log.splitlines() if not line.startswith("libbpf: "))
            program = text.split(LOG_BEGIN, 1)[0].rpartition("prog '")[2].partition("'")[0]
            return VerifierRefusal(f"load program {program} of {self.name}", errno, log + "\n")
        if errno in (numbers.EPERM, numbers.EACCES):
            return KernelError(f"load {self.name}", errno, LACKS_RIGHT)
        complaints = [x.removeprefix("libbpf: ") for x in text.splitlines() if "failed to load object" not in x]
        lib.hl_message_clear()
        return KernelError(f"load {self.name}", errno, complaints[0] if complaints else "")

    def program(self, name: str) -> Program:
        """A loaded program, with a descriptor of its own that outlives this object."""
        pointer = self._program(name)
        fd = lib.bpf_program__fd(pointer)
        check(fd if self.loaded else -numbers.ENOENT, f"{self.name}: program {name}", "load the object first")
        return Program(os.dup(fd), name)

    def map(self, name: str) -> Map:
        """A created or shared map, with a descriptor of its own that outlives this object."""
        pointer = self._map(name)
        fd = lib.bpf_map__fd(pointer)
        check(fd if self.loaded else -numbers.ENOENT, f"{self.name}: map {name}", "load the object first")
        shape = self._shapes[name]
        return Map(os.dup(fd), name, key_dtype=shape.key_dtype, value_dtype=shape.value_dtype)

    def _program(self, name: str) -> object:
        if name not in self._programs:
            raise LayoutError(f"{self.name}: no program {name} among {', '.join(self._programs)}")
        return self._programs[name]

    def _map(self, name: str) -> object:
        if name not in self._maps:
            raise LayoutError(f"{self.name}: no map {name} among {', '.join(self.maps())}")
        return self._maps[name]

    def _before_load(self, asked: str) -> None:
        if self._object == ffi.NULL or self.loaded:
            raise KernelError(f"{self.name}: {asked}", numbers.EBUSY, "open the object afresh; it is loaded or closed")

    def close(self) -> None:
        """Drop the object; programs and maps taken from it, pinned or attached, stay."""
        pointer, self._object = self._object, ffi.NULL
        self._programs, self._maps, self.loaded = {}, {}, False
        if pointer != ffi.NULL:
            lib.bpf_object__close(pointer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_object", None) is not None and ffi is not None:
            self.close()
