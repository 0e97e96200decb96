"""Many test runs in one call: a program that sends one record a run to a ring buffer, on frame after frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.handle import check
from hopline.kernel.program import Program
from hopline.kernel.ring import RingBuffer


def run_each(
    program: Program,
    ring: RingBuffer,
    frames: Sequence[bytes],
    lengths: Sequence[int],
    *,
    ifindex: int,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Run an XDP program once on each frame, as if it came in by `ifindex`; return the records, shape (n,) of `dtype`.

    A frame shorter than its length is filled up with zeros. Runs in the calling thread's network namespace; `ring` is
    the program's own, with no other reader. KernelError says on which frame it went wrong.
    """
    records = np.zeros(len(frames), dtype)
    held = np.fromiter(map(len, frames), np.uint32, len(frames))
    full = np.maximum(np.fromiter(lengths, np.uint32, len(frames)), held)
    done = ffi.new("uint32_t *")
    with ring.opened() as opened:
        error = lib.hl_run_each(
            program.fd,
            opened,
            ffi.from_buffer(b"".join(frames)),
            ffi.from_buffer("uint32_t[]", held),
            ffi.from_buffer("uint32_t[]", full),
            len(frames),
            ifindex,
            ffi.from_buffer("char[]", records.view(np.uint8)),
            dtype.itemsize,
            done,
        )
    check(error, f"test-run {program.name} on frame {done[0]}", "needs an interface that is there")
    return records
