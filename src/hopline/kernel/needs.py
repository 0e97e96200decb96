"""What the pipeline cannot do without, asked of the running kernel itself: versions say little where features are
backported.
"""

import struct

from hopline.kernel._libbpf import lib
from hopline.kernel.handle import check
from hopline.kernel.program import XDP

# struct bpf_insn: opcode, registers (source in the upper four bits), offset, immediate
_INSTRUCTION = struct.Struct("=BBhi")
_STORE_IMMEDIATE, _SET, _ATOMIC, _EXIT = 0x7A, 0xB7, 0xDB, 0x95  # of 64 bits each
_COMPARE_AND_EXCHANGE = 0xF1  # BPF_CMPXCHG of include/uapi/linux/bpf.h
_FRAME_POINTER = 10


def lacks() -> str:
    """Why this kernel cannot run the pipeline, in words, or "". KernelError where programs cannot be loaded at all."""
    compare_and_exchange = (
        (_STORE_IMMEDIATE, _FRAME_POINTER, -8, 0),
        (_SET, 0, 0, 0),
        (_SET, 1, 0, 1),
        (_ATOMIC, 1 << 4 | _FRAME_POINTER, -8, _COMPARE_AND_EXCHANGE),
        (_SET, 0, 0, 0),
        (_EXIT, 0, 0, 0),
    )
    if _loads(compare_and_exchange):
        return ""
    return "its BPF has no compare-and-exchange (Linux 5.12), which the cache is written with: boot Linux 6.1 or later"


def _loads(instructions: tuple[tuple[int, int, int, int], ...]) -> bool:
    packed = b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)
    return check(lib.hl_probe_instructions(XDP, packed, len(instructions)), "probe the verifier") > 0
