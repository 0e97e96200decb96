"""Anyone's object file: checked, one program of it chosen, its variables set, loaded. What is wrong is one line.

The hook sets the program's type, whatever its section is called.
"""

import os
import stat
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hopline.errors import InvalidInput, KernelError, LayoutError, NotFound
from hopline.host.program.reuse import take_over
from hopline.host.program.shapes import Struct, from_btf
from hopline.host.program.values import encode
from hopline.kernel import elf
from hopline.kernel.btf import Btf, Kind, Variable
from hopline.kernel.codec import PROG_ARRAY
from hopline.kernel.map import Map
from hopline.kernel.object import BpfObject, Declared, ObjectFile
from hopline.kernel.program import CONTEXTS, XDP, Program, map_type
from hopline.kernel.repair import repaired

LEGACY = "maps"  # the section of struct bpf_map_def
LEGACY_FIELDS = ("type", "key_size", "value_size", "max_entries", "map_flags")
LARGEST = 256 << 20  # octets of an object
# what these return means the same: 0 goes on, 2 drops (BPF_OK and TC_ACT_OK, BPF_DROP and TC_ACT_SHOT)
ALIKE = CONTEXTS.keys() - {XDP}
SHOWN = 20  # names of a list in an error


@contextmanager
def opened(
    file: str | Path,
    type: int,
    *,
    program: str | None = None,
    section: str | None = None,
    variables: Sequence[str] = (),
    reuse: Mapping[str, Map] | None = None,
    device: int = 0,
) -> Iterator[tuple[BpfObject, Program]]:
    """A file's object and its program, loaded as one of enum bpf_prog_type `type`; both are closed afterwards.

    `variables` are texts NAME=VALUE; `reuse` has maps to be taken for those of their names (see reuse.py); `device` is
    the interface that runs the program itself. InvalidInput, NotFound, Refused or KernelError, and nothing is left.
    """
    with opened_file(file) as found:
        chosen = choose(found, type, program, section)
        set_variables(found, variables)
        take_over(found, reuse or {})
        names = _needed(found, chosen)
        found.only(*names)
        for name in names:
            found.set_type(name, type)
            if device:
                found.set_device(name, device)
        found.load()
        with found.program(chosen.name) as loaded:
            yield found, loaded


@contextmanager
def opened_file(file: str | Path) -> Iterator[BpfObject]:
    """A file's object, not loaded; InvalidInput or KernelError where it is none that can be."""
    data = read(file)
    check(file, data)
    copy = ObjectFile(file, repaired(data))
    afresh = "compile it afresh: `hopline program build`"
    try:
        Btf(elf.sections(data)[".BTF"].data)  # libbpf dies of some that are damaged
        found = copy.open()
    except LayoutError as error:
        raise InvalidInput(str(file), "its btf cannot be read", afresh) from error
    except KernelError as error:
        said = str(error).partition(f"(errno {error.errno}): ")[2] or os.strerror(error.errno).lower()
        raise InvalidInput(str(file), f"libbpf cannot read it ({said})", afresh) from error
    finally:
        copy.close()
    with found:
        # for errors: what it was opened from is a copy
        found.path, found.name = Path(file), Path(file).name
        if not found.programs():
            raise InvalidInput(str(file), "no program is in it", 'give a function a section, as SEC("xdp")')
        yield found


def check(file: str | Path, data: bytes) -> dict[str, elf.Section]:
    """The sections of a file that is an object with BTF and maps of today; InvalidInput otherwise."""
    what = str(file)
    build = f"build it first: `hopline program build {what}`" if what.endswith(".c") else "see `hopline program build`"
    try:
        machine, found = elf.machine(data), elf.sections(data)
    except ValueError as error:
        raise InvalidInput(what, f"no bpf object: {error}", build) from None
    if machine != elf.EM_BPF:
        raise InvalidInput(what, "no bpf object: it is for another machine", "compile it with clang -target bpf")
    if data[5] != (1 if sys.byteorder == "little" else 2):  # EI_DATA
        hint = "compile it with clang -target bpf"
        raise InvalidInput(what, f"no bpf object of this machine, which is {sys.byteorder}-endian", hint)
    if LEGACY in found:
        raise InvalidInput(what, *_converted(data, found[LEGACY].data))
    if ".BTF" not in found:
        hint = "compile it with clang -g, as `hopline program build` does"
        raise InvalidInput(what, "no btf in it, which says what its maps and variables are", hint)
    return found


def read(file: str | Path) -> bytes:
    """The octets of a file; KernelError says why not."""
    try:
        # a FIFO nobody writes to would hold everything up
        with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as source:
            about = os.fstat(source.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise InvalidInput("file", f"{file} is no regular file", "name an object")
            if about.st_size > LARGEST:
                raise InvalidInput("file", f"{file} has {about.st_size >> 20} MiB", "name an object")
            return source.read()
    except OSError as error:
        raise KernelError(f"open {file}", error.errno or 0, "name another file") from None


def _converted(data: bytes, section: bytes) -> tuple[str, str]:
    """What is wrong with maps of SEC("maps"), and the first of them as it is written today."""
    try:
        placed = {one.name: one.value for one in elf.symbols(data) if one.section == LEGACY}
        name = min(placed, key=lambda one: placed[one])
        values = dict(zip(LEGACY_FIELDS, struct.unpack_from("=4I", section, placed[name]), strict=False))
    except (ValueError, KeyError, struct.error):
        placed, name, values = {}, "NAME", {}
    said = f'maps of SEC("maps") ({", ".join(placed) or "unreadable"}), which libbpf takes no more since 1.0'
    fields = f"__uint(type, BPF_MAP_TYPE_{map_type(values.get('type', 1)).upper()}); "
    fields += "".join(f"__uint({field}, {value}); " for field, value in list(values.items())[1:])
    return said, f'write it as `struct {{ {fields}}} {name} SEC(".maps");`'


def choose(found: BpfObject, type: int, program: str | None, section: str | None) -> Declared:
    """The program that is meant: by name, by section, the only one, or the only one whose section says the type."""
    all_ = found.declared()
    fits = [one for one in all_ if program in (None, one.name) and section in (None, one.section)]
    if program is not None and not fits:
        known = listed(one.name for one in all_ if section in (None, one.section)) or listed(one.name for one in all_)
        raise NotFound(
            f"{found.path}: no program {program}{f' in section {section}' if section else ''}: it has {known}"
        )
    if section is not None and not fits:
        raise NotFound(f"{found.path}: no section {section}: it has {listed(one.section for one in all_)}")
    if len(fits) == 1:
        if program is None and section is None:
            _refuse_wrong_kind(found, fits[0], type)
        return fits[0]
    typed = [one for one in fits if one.type == type]
    if len(typed) == 1:
        return typed[0]
    known = listed(f"{one.name} ({one.section})" for one in fits)
    raise InvalidInput(str(found.path), f"{len(fits)} programs are in it", f"name one by --program: {known}")


def _refuse_wrong_kind(found: BpfObject, only: Declared, type: int) -> None:
    """InvalidInput where the section says another hook, whose codes mean other things: 2 is XDP_PASS and BPF_DROP.

    An old section's name says nothing of that.
    """
    if only.type in (0, type) or (only.type in ALIKE and type in ALIKE):
        return
    why = f'its only program, {only.name}, is of SEC("{only.section}"), where return codes mean other things than here'
    raise InvalidInput(str(found.path), why, f"name it by --program {only.name} if it is meant")


def listed(names: Iterator[str]) -> str:
    """Names for an error, each once; of very many the first."""
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - SHOWN} more" if len(unique) > SHOWN else ""
    return ", ".join(unique[:SHOWN]) + more


def _needed(found: BpfObject, chosen: Declared) -> list[str]:
    """The chosen program, and where one may call another by a map, those that it may be filled with.

    Of those whose section says no type only such as are called like the chosen one's, as xdp_tail beside xdp: another
    may be of any kind, and the verifier would refuse them all for it.
    """
    if not any(one.shape.type == PROG_ARRAY for one in found.declared_maps()):
        return [chosen.name]
    begins = chosen.section.partition("/")[0].partition(".")[0] if chosen.type else ""
    return [
        one.name
        for one in found.declared()
        if one == chosen
        or (chosen.type and one.type == chosen.type)
        or (one.type == 0 and one.section.startswith(begins))
    ]


def set_variables(found: BpfObject, texts: Sequence[str]) -> None:
    """Set global variables by NAME=VALUE; InvalidInput or NotFound says which is wrong."""
    known = found.variables()
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidInput("set", f"{text!r} sets nothing", "write NAME=VALUE")
        if name not in known:
            has = listed(iter(known)) or "none"
            raise NotFound(f"set {name}: no such variable in {found.path}: it has {has}")
        variable = known[name]
        if not is_settable(found, variable):
            hint = "declare it `const volatile`, or the compiler takes its value for granted"
            raise InvalidInput(f"set {name}", f"it is a constant of {found.path}", hint)
        shape = from_btf(found.layout.btf, variable.type_id)
        words = value.split() if isinstance(shape, Struct) else [value]
        found.set_variable(name, encode(shape, words, f"set {name}", found.initial_value(name)))


def is_settable(found: BpfObject, variable: Variable) -> bool:
    """Whether a program reads a variable: of a constant that is not volatile the compiler has taken the value."""
    btf = found.layout.btf
    one = btf.types[variable.type_id]
    while one.kind in (Kind.CONST, Kind.ARRAY):
        one = btf.types[one.target]
    return one.kind is Kind.VOLATILE or not variable.section.startswith(".rodata")
