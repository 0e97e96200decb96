"""What the running kernel's verifier lets a type of program do: which helpers it may call, which octets it may touch.

Helpers are known by name as <linux/bpf.h> has them where this was built (__BPF_FUNC_MAPPER).
"""

import errno
import struct
from functools import cache

from hopline.errors import KernelError
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.handle import check
from hopline.kernel.program import XDP, has_helper

# offsets of data and data_end in struct xdp_md and struct __sk_buff of include/uapi/linux/bpf.h
PACKET_OF_XDP, PACKET_OF_SKB = (0, 4), (76, 80)


@cache
def helper_names() -> dict[int, str]:
    """Number and name of every helper, without `bpf_`."""
    names = {number: ffi.string(lib.hl_helper_name(number)).decode() for number in range(1, lib.hl_helper_count())}
    return {number: name for number, name in names.items() if name}


def helpers_of(program_type: int) -> tuple[str, ...]:
    """The helpers that programs of this type may call, by number; none where the kernel has no such type."""
    names = helper_names()
    try:
        return tuple(name for number, name in names.items() if has_helper(program_type, number))
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        return ()


def touches_packet(program_type: int, *, write: bool) -> bool:
    """Whether programs of this type may read, or write, octets of the packet by pointer."""
    data, end = PACKET_OF_XDP if program_type == XDP else PACKET_OF_SKB
    touch = (0x72, 2, 0, 0) if write else (0x71, 2 << 4, 0, 0)  # one octet at the packet's begin
    packed = b"".join(
        struct.pack("=BBhi", *instruction)
        for instruction in (
            (0x61, 1 << 4 | 2, data, 0),  # r2 = data, r3 = data_end
            (0x61, 1 << 4 | 3, end, 0),
            (0xB7, 0, 0, 0),
            (0xBF, 2 << 4 | 4, 0, 0),  # where r2 + 1 > r3 the packet is left alone
            (0x07, 4, 0, 1),
            (0x2D, 3 << 4 | 4, 1, 0),
            touch,
            (0xB7, 0, 0, 0),
            (0x95, 0, 0, 0),
        )
    )
    return check(lib.hl_probe_instructions(program_type, packed, len(packed) // 8), "probe the verifier") > 0
