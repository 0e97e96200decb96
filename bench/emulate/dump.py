"""The translated program: what the verifier made of a loaded one, as bpf_prog_get_info_by_fd shows it.

Dead branches are gone, look-ups in arrays and some helpers are inlined, accesses to the context have become loads from
struct xdp_buff. A helper is called by its distance from __bpf_call_base, which /proc/kallsyms turns into a name; a map
is named by its id. Only the load itself is still to be done by the JIT, one or two machine instructions each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from hopline.errors import KernelError
from hopline.kernel import Program
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.handle import Handle, check
from hopline.kernel.map import kernel_btf

# struct bpf_prog_info, bpf_insn, bpf_line_info, bpf_func_info of include/uapi/linux/bpf.h
INFO = np.dtype(
    {
        "names": ["xlated_len", "xlated", "btf_id", "func_size", "funcs", "func_count", "line_count", "lines",
                  "line_size"],
        "formats": ["u4", "u8", "u4", "u4", "u8", "u4", "u4", "u8", "u4"],
        "offsets": [20, 32, 128, 132, 136, 144, 148, 152, 172],
        "itemsize": 232,
    }
)  # fmt: skip
INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("off", "i2"), ("imm", "i4")])
LINE = np.dtype([("at", "u4"), ("file", "u4"), ("text", "u4"), ("column", "u4")])
BTF_HEADER = np.dtype([("magic", "u2"), ("version", "u1"), ("flags", "u1"), ("length", "u4"), ("type_at", "u4"),
                       ("type_length", "u4"), ("string_at", "u4"), ("string_length", "u4")])  # fmt: skip
COLUMN_BITS = 10
LOAD_64, CALL = 0x18, 0x85


class HiddenAddresses(Exception):
    """The kernel does not show which helpers a program calls: kernel.kptr_restrict, or a missing right."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; that of 64 bits of immediate value has `more`, and the slot behind it is None."""

    code: int
    dst: int
    src: int
    off: int
    imm: int
    more: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of source: file and number, and its text as the object has it."""

    file: str
    number: int
    text: str


@dataclass(frozen=True)
class Translated:
    """A program's instructions, by slot, and the source line of each."""

    name: str
    instructions: tuple[Instruction | None, ...]
    lines: tuple[Line | None, ...]


def translated(program: Program) -> Translated:
    """Read what the kernel runs for a loaded program; HiddenAddresses where it does not say which helpers."""
    info, buffers = _info(program)
    raw = buffers["xlated"].view(INSTRUCTION)
    made: list[Instruction | None] = []
    for slot, row in enumerate(raw.tolist()):
        code, registers, off, imm = row
        if slot and made[-1] is not None and made[-1].code == LOAD_64:
            made.append(None)
            continue
        more = int(raw[slot + 1]["imm"]) if code == LOAD_64 else 0
        made.append(Instruction(code, registers & 15, registers >> 4, off, imm, more))
    return Translated(program.name, tuple(made), _lines(info, buffers["lines"], len(raw)))


def _info(program: Program) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    def ask(info: np.ndarray) -> np.ndarray:
        size = ffi.new("uint32_t *", info.nbytes)
        check(lib.bpf_obj_get_info_by_fd(program.fd, ffi.from_buffer(info), size), f"read {program.what}")
        return info

    sizes = ask(np.zeros(1, INFO))[0]
    wanted = np.zeros(1, INFO)
    rows = int(sizes["line_count"]), int(sizes["line_size"])
    buffers = {"xlated": np.zeros(int(sizes["xlated_len"]), np.uint8), "lines": np.zeros(rows, np.uint8)}
    wanted["xlated_len"], wanted["xlated"] = sizes["xlated_len"], buffers["xlated"].ctypes.data
    wanted["line_count"], wanted["line_size"] = rows
    wanted["lines"] = buffers["lines"].ctypes.data
    found = ask(wanted)[0]
    if not found["xlated"]:
        raise HiddenAddresses("the kernel shows no translated programs: run as root, with kernel.kptr_restrict < 2")
    return found, buffers


def _lines(info: np.ndarray, raw: np.ndarray, slots: int) -> tuple[Line | None, ...]:
    found: list[Line | None] = [None] * slots
    if not raw.size:
        return tuple(found)
    strings = _strings(int(info["btf_id"]))
    records = np.ascontiguousarray(raw[:, : LINE.itemsize]).view(LINE)[:, 0].tolist()
    ends = [record[0] for record in records[1:]] + [slots]
    for (at, file, text, column), end in zip(records, ends, strict=True):
        line = Line(strings(file), column >> COLUMN_BITS, strings(text).strip())
        found[at:end] = [line] * (end - at)
    return tuple(found)


def _strings(btf_id: int) -> Callable[[int], str]:
    with Handle() as handle:
        handle.fd = check(lib.bpf_btf_get_fd_by_id(btf_id), f"read btf id {btf_id}")
        data = kernel_btf(handle.fd)
    header = np.frombuffer(data, BTF_HEADER, 1)[0]
    base = int(header["length"]) + int(header["string_at"])
    return lambda at: data[base + at : data.index(b"\0", base + at)].decode()


@cache
def _symbols() -> dict[int, str]:
    with open("/proc/kallsyms") as file:
        rows = (line.split(None, 3) for line in file)
        return {int(address, 16): name.strip() for address, kind, name, *_ in rows if kind in "tTwW"}


@cache
def _call_base() -> int:
    found = next((at for at, name in _symbols().items() if name == "__bpf_call_base"), 0)
    if not found:
        raise HiddenAddresses("/proc/kallsyms shows no addresses: run as root, with kernel.kptr_restrict < 2")
    return found


def names_shown(program: Program) -> None:
    """HiddenAddresses where this kernel does not show us what a program calls."""
    for instruction in translated(program).instructions:
        if instruction and instruction.code == CALL and instruction.src == 0:
            called(instruction.imm)


@cache
def called(distance: int) -> str:
    """Return the kernel function that a call with this immediate value goes to."""
    if not distance:
        raise HiddenAddresses("the kernel hides what a program calls: run as root, with kernel.kptr_restrict < 2")
    try:
        return _symbols()[_call_base() + distance]
    except KeyError as error:
        raise KernelError(f"name the helper at __bpf_call_base + {distance:#x}", 2, "not in /proc/kallsyms") from error
