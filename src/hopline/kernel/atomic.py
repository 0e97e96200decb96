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


def store32_at(words: NDArray[Any], indexes: NDArray[Any], values: NDArray[Any]) -> None:
    """Store `values[i]` at `words[indexes[i]]`, one by one, each 4 aligned bytes with release order.

    `words`: one-dimensional, of 4-byte elements, its elements any distance apart. IndexError: an index is outside.
    """
    indexes = _indexes(words, indexes)
    values = _beside(values, np.uint32, indexes)
    lib.hl_store32_at(
        _words(words, 4),
        words.strides[0],
        ffi.from_buffer("int64_t[]", indexes),
        ffi.from_buffer("uint32_t[]", values),
        len(indexes),
    )


def exchange64_at(
    words: NDArray[Any], indexes: NDArray[Any], expected: NDArray[Any], wanted: NDArray[Any] | None = None
) -> NDArray[np.bool_]:
    """Put `wanted[i]` (None: 0) at `words[indexes[i]]` where `expected[i]` is, each in one step; which were so.

    `words`: one-dimensional, of 8-byte elements, its elements any distance apart. IndexError: an index is outside.
    """
    indexes = _indexes(words, indexes)
    expected = _beside(expected, np.uint64, indexes)
    put = np.zeros(len(indexes), np.uint64) if wanted is None else _beside(wanted, np.uint64, indexes)
    done = np.zeros(len(indexes), np.bool_)
    lib.hl_exchange64_at(
        _words(words, 8),
        words.strides[0],
        ffi.from_buffer("int64_t[]", indexes),
        ffi.from_buffer("uint64_t[]", expected),
        ffi.from_buffer("uint64_t[]", put),
        len(indexes),
        ffi.from_buffer("bool[]", done),
    )
    return done


def _indexes(words: NDArray[Any], indexes: NDArray[Any]) -> NDArray[np.int64]:
    found = np.ascontiguousarray(indexes, np.int64)
    if found.ndim != 1:
        raise TypeError("atomic access: give indexes in one dimension")
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < len(words):
        raise IndexError(f"atomic access: an index is outside the {len(words)} words")
    return found


def _beside(values: NDArray[Any], kind: Any, indexes: NDArray[np.int64]) -> NDArray[Any]:
    given = np.ascontiguousarray(values, kind)
    if given.shape != indexes.shape:
        raise TypeError(f"atomic access: {len(indexes)} indexes and values of shape {given.shape}")
    return given


def _words(words: NDArray[Any], size: int) -> Any:
    """Return where the first of some words is; they need not be contiguous, as no buffer of NumPy's need."""
    if words.ndim != 1 or words.itemsize != size or not words.flags.writeable or words.strides[0] < 0:
        raise TypeError(f"atomic access: give a writable view of {size}-byte words in one dimension")
    address = int(words.__array_interface__["data"][0])
    if address % size or words.strides[0] % size:
        raise ValueError(f"atomic access: the words are not aligned to {size} bytes")
    return ffi.cast("char *", address)


def _pointer(view: NDArray[Any], size: int) -> Any:
    if not isinstance(view, np.ndarray) or view.nbytes != size or not view.flags.writeable:
        raise TypeError(f"atomic access: give a writable view of exactly {size} bytes, such as array['field'][i:i+1]")
    pointer = ffi.from_buffer(view)
    if int(ffi.cast("uintptr_t", pointer)) % size:
        raise ValueError(f"atomic access: the view is not aligned to {size} bytes")
    return pointer
