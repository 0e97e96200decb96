"""Single aligned loads and stores on memory that BPF programs read and write, for views of mapped arrays.

A view is any writable one-element slice of a mapped array: `adjacencies.mmap()["destination"][7:8]`. NumPy's own
assignment copies bytes and promises nothing about what another CPU sees in between.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.kernel._libbpf import ffi, lib


def atomic_store32(view: NDArray[Any], value: int) -> None:
    """Store 4 aligned bytes with release order."""
    lib.hl_store32(_pointer(view, 4), value)


def atomic_store64(view: NDArray[Any], value: int) -> None:
    """Store 8 aligned bytes with release order."""
    lib.hl_store64(_pointer(view, 8), value)


def atomic_load32(view: NDArray[Any]) -> int:
    """Load 4 aligned bytes with acquire order."""
    return int(lib.hl_load32(_pointer(view, 4)))


def atomic_load64(view: NDArray[Any]) -> int:
    """Load 8 aligned bytes with acquire order."""
    return int(lib.hl_load64(_pointer(view, 8)))


def atomic_add64(view: NDArray[Any], value: int) -> int:
    """Add to 8 aligned bytes, wrapping; the value before."""
    return int(lib.hl_fetch_add64(_pointer(view, 8), value & (1 << 64) - 1))


def _pointer(view: NDArray[Any], size: int) -> Any:
    if not isinstance(view, np.ndarray) or view.nbytes != size or not view.flags.writeable:
        raise TypeError(f"atomic access: give a writable view of exactly {size} bytes, such as array['field'][i:i+1]")
    pointer = ffi.from_buffer(view)
    if int(ffi.cast("uintptr_t", pointer)) % size:
        raise ValueError(f"atomic access: the view is not aligned to {size} bytes")
    return pointer
