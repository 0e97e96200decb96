"""The routine in C that fills a ring of features/maglev.py: arithmetic, which asks the kernel nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.kernel._libbpf import ffi, lib


def fill(
    offsets: NDArray[np.uint32],
    skips: NDArray[np.uint32],
    steps: NDArray[np.uint64],
    quotas: NDArray[np.uint32],
    slots: int,
) -> NDArray[np.uint16]:
    """Match backends with slots, each backend with `quotas[i]` of them; the index of its backend for each slot.

    Backend i wants offset, offset + skip, offset + 2 * skip … modulo `slots`, in this order; slots want the backend of
    whose list they are higher up, counted in `steps[i]`, of equals the one that comes first. The result is the one
    matching in which no slot and no backend would both rather have each other.

    ValueError: arrays of different lengths, none or more than 4,095 backends, an offset outside the slots, a skip
    outside 1 and slots - 1, quotas that do not add up to the slots, steps that overflow. MemoryError.
    """
    arrays = [
        np.ascontiguousarray(array, kind)
        for array, kind in ((offsets, np.uint32), (skips, np.uint32), (steps, np.uint64), (quotas, np.uint32))
    ]
    _check(arrays, slots)
    ring = np.empty(slots, np.uint16)
    names = ("uint32_t[]", "uint32_t[]", "uint64_t[]", "uint32_t[]")
    pointers = [ffi.from_buffer(name, array) for name, array in zip(names, arrays, strict=True)]
    if lib.hl_ring_fill(*pointers, len(arrays[0]), ffi.from_buffer("uint16_t[]", ring), slots):
        raise MemoryError(f"a ring of {slots} slots: no memory for it")
    return ring


def _check(arrays: list[NDArray[Any]], slots: int) -> None:
    offsets, skips, steps, quotas = arrays
    count = len(offsets)
    # 12 bits of what C compares are the backend
    if not 0 < count <= 4095 or any(array.shape != (count,) for array in arrays):
        raise ValueError("a ring: give arrays of one length, of 1 to 4095 backends")
    if not 1 < slots < 1 << 20 or int(offsets.max()) >= slots or not 1 <= int(skips.min()) <= int(skips.max()) < slots:
        raise ValueError(f"a ring of {slots} slots: an offset is 0 to {slots - 1}, a skip 1 to {slots - 1}")
    if int(quotas.sum(dtype=np.uint64)) != slots:
        raise ValueError(f"a ring of {slots} slots: quotas add up to {quotas.sum(dtype=np.uint64)}")
    if int(steps.max()) * slots >= 1 << 64:
        raise ValueError(f"a ring of {slots} slots: a step is less than 2^64 / {slots}")
