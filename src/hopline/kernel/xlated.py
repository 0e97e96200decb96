"""The texts that loaded programs print with, found in their instructions as the kernel keeps them.

A format string lies in a read-only map, which an instruction points into, or is put together on the stack. Instructions
are those of include/uapi/linux/bpf.h, after the verifier (kernel/bpf/syscall.c, bpf_insn_prepare_dump).
"""

import errno
import struct
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hopline.errors import KernelError
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.handle import check
from hopline.kernel.map import Map
from hopline.kernel.program import XDP, Program

INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("immediate", "<i4")])
BPF_F_RDONLY_PROG = 1 << 7
TRACE_PRINTK, TRACE_VPRINTK = 6, 177  # BPF_FUNC_*

LOAD_64, CALL, EXIT, JUMP, JUMP_FAR = 0x18, 0x85, 0x95, 0x05, 0x06
SET, SET_32, COPY, ADD = 0xB7, 0xB4, 0xBF, 0x07
STORE = {0x7B: 8, 0x63: 4, 0x6B: 2, 0x73: 1}  # of a register, and how many octets
STORE_IMMEDIATE = {0x7A: 8, 0x62: 4, 0x6A: 2, 0x72: 1}
JUMPS = (5, 6)  # classes
ATOMIC_OR_STORE = 3
MAP_VALUE = 2  # BPF_PSEUDO_MAP_VALUE
FRAME = 10
STACK = 512
MOST_STEPS = 50_000
MOST_ARRIVALS = 8  # at one place


def instructions(program: Program) -> NDArray[np.void]:
    """The program's instructions, an array of INSTRUCTION; empty where we may not see them."""
    info, size = ffi.new("struct bpf_prog_info *"), ffi.new("uint32_t *", ffi.sizeof("struct bpf_prog_info"))
    room = bytearray(max(program.info().xlated_bytes, 8))
    memory = ffi.from_buffer(room)
    info.xlated_prog_len, info.xlated_prog_insns = len(room), int(ffi.cast("uintptr_t", memory))
    check(lib.bpf_obj_get_info_by_fd(program.fd, info, size), f"read instructions of {program.what}")
    shown = bool(info.xlated_prog_insns)
    return np.frombuffer(room, INSTRUCTION)[: info.xlated_prog_len // 8 if shown else 0]


def formats(program: Program) -> set[bytes]:
    """The format strings of what a program may print, and possibly other texts of its; empty if it prints nothing."""
    code = instructions(program)
    calls = (code["code"] == CALL) & (code["registers"] >> 4 == 0)
    printers = _printers()
    # where calls are not shown any may be one
    printing = calls & np.isin(code["immediate"], list(printers)) if any(printers) else calls
    if not printing.any():
        return set()
    return {text for text in (*_in_maps(code), *_on_the_stack(code, printing)) if text}


@cache
def _printers() -> frozenset[int]:
    """How calls of the two helpers that print are seen in a program: {0} where we may not see what is called."""
    found = set()
    for helper in (TRACE_PRINTK, TRACE_VPRINTK):
        packed = b"".join(
            struct.pack("<BBhi", *instruction)
            for instruction in (
                (0x7A, FRAME, -8, ord("-")),
                (COPY, FRAME << 4 | 1, 0, 0),
                (ADD, 1, 0, -8),
                (SET, 2, 0, 8),
                (SET, 3, 0, 0),
                (SET, 4, 0, 0),
                (CALL, 0, 0, helper),
                (SET, 0, 0, 0),
                (0x95, 0, 0, 0),
            )
        )
        fd = lib.hl_load_instructions(XDP, packed, len(packed) // 8)
        if fd < 0:
            continue  # bpf_trace_vprintk came with Linux 5.16
        with Program(fd) as probe:
            code = instructions(probe)
            found |= {int(one["immediate"]) for one in code if one["code"] == CALL}
    return frozenset(found)


def _in_maps(code: NDArray[np.void]) -> Iterator[bytes]:
    """What lies, up to a zero, where instructions point into read-only maps."""
    places = np.flatnonzero((code["code"] == LOAD_64) & (code["registers"] >> 4 == MAP_VALUE))
    contents: dict[int, bytes] = {}
    for place in places:
        map_id, offset = int(code["immediate"][place]), int(code["immediate"][place + 1])
        if map_id not in contents:
            contents[map_id] = _read_only(map_id)
        yield contents[map_id][offset:].partition(b"\0")[0]


def _read_only(map_id: int) -> bytes:
    try:
        with Map.from_id(map_id, typed=False) as found:
            return bytes(found.get(0)) if found.flags & BPF_F_RDONLY_PROG else b""
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return b""


def _on_the_stack(code: NDArray[np.void], printing: NDArray[np.bool_]) -> Iterator[bytes]:
    """The texts that stores of constants have made where a call's first register points.

    Both ways of each branch are followed, loops a few times; at worst a text is missed.
    """
    lines: list[tuple[int, int, int, int]] = code.tolist()
    returns = np.flatnonzero(code["code"] == EXIT)
    # functions lie behind one another
    waiting = [(place, _State()) for place in (0, *(int(place) + 1 for place in returns)) if place < len(lines)]
    arrivals: Counter[int] = Counter()
    steps = 0
    while waiting and steps < MOST_STEPS:
        place, state = waiting.pop()
        arrivals[place] += 1
        if arrivals[place] > MOST_ARRIVALS:
            continue
        while place < len(lines) and steps < MOST_STEPS:
            steps += 1
            operation, pair, offset, immediate = lines[place]
            if operation == EXIT:
                break
            if operation == CALL:
                if printing[place]:
                    yield state.text()
                state.forget_scratch()
            elif operation & 7 in JUMPS:
                target = place + 1 + (immediate if operation == JUMP_FAR else offset)
                waiting.append((target, state.copy()))
                if operation in (JUMP, JUMP_FAR):
                    break
            else:
                state.step(operation, pair & 15, pair >> 4, offset, immediate, lines[place + 1][3])
            place += 2 if operation == LOAD_64 else 1


class _State:
    """What is known of registers and stack: numbers, and how far from the frame's top a register points."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._pointers: dict[int, int] = {FRAME: 0}
        self._stack: dict[int, int] = {}

    def copy(self) -> "_State":
        made = _State()
        made._numbers, made._pointers, made._stack = dict(self._numbers), dict(self._pointers), dict(self._stack)
        return made

    def forget_scratch(self) -> None:
        """Registers 0 to 5 are the called function's."""
        for register in range(6):
            self._numbers.pop(register, None)
            self._pointers.pop(register, None)

    def step(self, operation: int, target: int, source: int, offset: int, immediate: int, following: int) -> None:
        """Follow one instruction that is no jump; `following` is the next one's immediate."""
        if operation in STORE:
            self._store(target, offset, STORE[operation], self._numbers.get(source))
            return
        if operation in STORE_IMMEDIATE:
            self._store(target, offset, STORE_IMMEDIATE[operation], immediate)
            return
        if operation & 7 == ATOMIC_OR_STORE:
            return
        number, pointer = self._numbers.pop(target, None), self._pointers.pop(target, None)
        if operation == SET:
            self._numbers[target] = immediate
        elif operation == SET_32:
            self._numbers[target] = immediate & 0xFFFFFFFF
        elif operation == LOAD_64 and source == 0:
            self._numbers[target] = following << 32 | immediate & 0xFFFFFFFF
        elif operation == COPY and source in self._numbers:
            self._numbers[target] = self._numbers[source]
        elif operation == COPY and source in self._pointers:
            self._pointers[target] = self._pointers[source]
        elif operation == ADD and pointer is not None:
            self._pointers[target] = pointer + immediate
        elif operation == ADD and number is not None:
            self._numbers[target] = number + immediate

    def _store(self, base: int, offset: int, size: int, value: int | None) -> None:
        if base not in self._pointers:
            return
        first = self._pointers[base] + offset
        for i in range(size):
            if value is None:
                self._stack.pop(first + i, None)
            else:
                self._stack[first + i] = value >> 8 * i & 0xFF

    def text(self) -> bytes:
        """What registers 1 and 2 give the address and size of, up to a zero; "" where some of it is not known."""
        place, size = self._pointers.get(1), self._numbers.get(2, 0)
        if place is None or not 0 < size <= STACK:
            return b""
        octets = [self._stack.get(place + i, -1) for i in range(size)]
        return b"" if -1 in octets else bytes(octets).partition(b"\0")[0]
