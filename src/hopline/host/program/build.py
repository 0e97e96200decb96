"""A source compiled, and what is in an object."""

import os
import platform
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from hopline.errors import HoplineError, InvalidInput, KernelError, NotFound
from hopline.host.program.objects import check, is_settable, opened_file, read
from hopline.host.program.rows import one
from hopline.host.program.shapes import from_btf
from hopline.kernel.btf import Btf, Kind, Variable
from hopline.kernel.object import BpfObject
from hopline.kernel.program import map_type, program_type

FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Wno-unused-parameter")
SOURCE_ENDS = (".bpf.c", ".c")


class CompilerRefusal(HoplineError):
    """The compiler did not take a source; what it said is on stderr already."""


@dataclass(frozen=True, slots=True)
class ProgramInside:
    """A program of an object: `type` as its section's name says it, "" where the hook alone will."""

    name: str
    section: str
    type: str
    instructions: int


@dataclass(frozen=True, slots=True)
class MapInside:
    """A map of an object: sizes in bytes, `key` and `value` its types as C has them, "" where nothing says."""

    name: str
    type: str
    key: str
    key_size: int
    value: str
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class VariableInside:
    """A global variable: its type as C has it, its value until it is set, and what a btf_decl_tag says of it.

    `settable`: the compiler left it open, so that `load --set` takes it.
    """

    name: str
    type: str
    size: int
    section: str
    value: str
    settable: bool
    description: str


@dataclass(frozen=True, slots=True)
class Inside:
    """What is in an object file; `licence` as it states it to the kernel, "" if it does not."""

    file: str
    licence: str
    programs: list[ProgramInside]
    maps: list[MapInside]
    variables: list[VariableInside]


def build(source: str | Path, out: str | Path | None = None) -> Path:
    """Compile a source to an object, beside it unless `out` says where; what the compiler says goes to stderr as it is.

    CompilerRefusal if it does not compile; an object that was there is replaced only by a whole one.
    """
    source = Path(source)
    if not source.is_file():
        raise NotFound(f"build {source}: {'not a file' if source.exists() else 'not there'}: name a source in C")
    target = Path(out) if out is not None else _beside(source)
    if target.resolve() == source.resolve():
        raise InvalidInput("out", f"{target} is the source itself", "name another file")
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _compile(source, fresh)
        fresh.replace(target)
    except OSError as error:
        raise KernelError(f"build {target}", error.errno or 0, "name another place by -o") from None
    finally:
        fresh.unlink(missing_ok=True)
    return target


def _beside(source: Path) -> Path:
    for end in SOURCE_ENDS:
        if source.name.endswith(end) and source.name != end:
            return source.with_name(source.name.removesuffix(end) + ".bpf.o")
    raise InvalidInput(str(source), "its name does not end with .c, so the object's is not known", "name it by -o")


def _compile(source: Path, target: Path) -> None:
    clang = shutil.which("clang")
    if clang is None:
        raise NotFound(f"build {source}: clang is not installed: apt-get install clang libbpf-dev")
    if not target.parent.is_dir():
        raise NotFound(f"build {source}: {target.parent} is no directory: name another by -o")
    # <linux/icmp.h> reaches headers of the C library, which ask what machine this is; for bpf clang does not say
    machine = f"-D__{platform.machine()}__"
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"
    # the object does not say where it was built, so that two builds of one source are one version
    nowhere = ["-fdebug-compilation-dir=.", f"-ffile-prefix-map={source.parent}/="]
    more = [machine, "-I", f"/usr/include/{multiarch}", *nowhere]
    made = subprocess.run([clang, *FLAGS, *more, "-c", str(source), "-o", str(target)], check=False)
    if made.returncode:
        raise CompilerRefusal(f"build {source}: clang does not take it, see above: mend it and build again")
    if shutil.which("llvm-strip"):
        # without DWARF the object is a tenth the size; BTF stays
        subprocess.run(["llvm-strip", "-g", str(target)], check=False)


def inspect(file: str | Path) -> Inside:
    """What is in an object file; InvalidInput or KernelError if it is none that load would take."""
    licence = check(file, read(file)).get("license")
    with opened_file(file) as found:
        return Inside(
            str(file),
            licence.data.partition(b"\0")[0].decode(errors="replace") if licence else "",
            [ProgramInside(p.name, p.section, program_type(p.type), p.instructions) for p in found.declared()],
            [_map(found, name) for name in found.maps()],
            [_variable(found, variable) for variable in found.variables().values()],
        )


def _map(found: BpfObject, name: str) -> MapInside:
    declared = next(one for one in found.declared_maps() if one.name == name)
    shape = declared.shape
    key, value = (_type(found, type_id) for type_id in declared.type_ids)
    return MapInside(
        name,
        map_type(shape.type),
        key,
        shape.key_size,
        value,
        shape.value_size,
        declared.max_entries,
        declared.flags,
    )


def _type(found: BpfObject, type_id: int) -> str:
    return from_btf(found.layout.btf, type_id).type if type_id else ""


def _variable(found: BpfObject, variable: Variable) -> VariableInside:
    btf = found.layout.btf
    shape = from_btf(btf, variable.type_id)
    return VariableInside(
        variable.name,
        shape.type,
        variable.size,
        variable.section,
        one(shape, found.initial_value(variable.name)),
        is_settable(found, variable),
        _description(btf, variable.name),
    )


def _description(btf: Btf, name: str) -> str:
    """What `__attribute__((btf_decl_tag("…")))` says of a variable."""
    number = next(found.id for found in btf.types if found.kind is Kind.VAR and found.name == name)
    return "; ".join(found.name for found in btf.types if found.kind is Kind.DECL_TAG and found.target == number)
