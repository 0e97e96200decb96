"""Ring buffers: events of programs, drained in spans by C; Python never runs once an event.

A span is what one drain found: records of [u32 length][u32 0][bytes, padded to 8], copied out of the ring.
"""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.errors import KernelError
from hopline.kernel import codec
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.handle import check
from hopline.kernel.map import Map


class Span:
    """Records drained together, in order; they stay valid after the ring has moved on.

    `data` holds the raw span, shape (bytes,) of u1; `offsets` and `lengths`, shape (n,) of u8, find record i at
    data[offsets[i] : offsets[i] + lengths[i]].
    """

    def __init__(self, data: NDArray[np.uint8], count: int) -> None:
        self.data = data
        self.offsets = np.empty(count, "u8")
        self.lengths = np.empty(count, "u8")
        if count:
            lists = (ffi.from_buffer("uint64_t[]", self.offsets), ffi.from_buffer("uint64_t[]", self.lengths))
            lib.hl_span_index(ffi.from_buffer("char[]", data), data.size, *lists)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> memoryview:
        start = int(self.offsets[index])
        return self.data.data[start : start + int(self.lengths[index])]

    def __iter__(self) -> Iterator[memoryview]:
        view = self.data.data
        for start, length in zip(self.offsets.tolist(), self.lengths.tolist(), strict=True):
            yield view[start : start + length]

    def records(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The start of every record as `dtype`, shape (n,); a shorter record is filled up with zeros."""
        records = np.empty(len(self), dtype)
        if len(self):
            into = ffi.from_buffer("char[]", records.view(np.uint8))
            lib.hl_span_gather(ffi.from_buffer("char[]", self.data), self.data.size, into, dtype.itemsize)
        return records


class RingBuffer:
    """The one consumer of a BPF_MAP_TYPE_RINGBUF map. `records` and `discarded` count since it was opened.

    `fd` becomes readable when there is something to drain (loop.add_reader, select, poll).
    """

    def __init__(self, source: Map) -> None:
        if source.type != codec.RINGBUF:
            raise KernelError(f"open ring {source.name}", errno.EINVAL, "it is no ring buffer")
        self.map = source
        self.size = source.max_entries
        self.records = 0
        self.discarded = 0
        holder = ffi.new("struct hl_ring **")
        check(lib.hl_ring_open(source.fd, self.size, holder), f"open ring {source.name}")
        self._ring = ffi.gc(holder[0], lib.hl_ring_close)
        self._lock = threading.Lock()

    @property
    def fd(self) -> int:
        """The map's descriptor, for polling."""
        return self.map.fd

    def fileno(self) -> int:
        """The same, for selectors."""
        return self.map.fd

    def drain(self) -> Span:
        """Everything in the ring now, at most its size; an empty span if nothing. `Span.records(dtype)` types it."""
        with self._lock:
            if self._ring is None:
                raise KernelError(f"drain ring {self.map.name}", errno.EBADF, "it is closed")
            room = min(int(lib.hl_ring_available(self._ring)), self.size)
            data = np.empty(room, np.uint8)
            counts = ffi.new("uint64_t[2]")
            used = 0
            if room:
                into = ffi.from_buffer("char[]", data)
                used = lib.hl_ring_drain(self._ring, into, room, counts, counts + 1)
            self.records += counts[0]
            self.discarded += counts[1]
            return Span(data[:used], int(counts[0]))

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Hold the ring for C that drains it by itself; nobody else does meanwhile, and it stays mapped."""
        with self._lock:
            if self._ring is None:
                raise KernelError(f"drain ring {self.map.name}", errno.EBADF, "it is closed")
            yield self._ring

    def close(self) -> None:
        """Unmap the ring; the map stays."""
        with self._lock:
            ring, self._ring = self._ring, None
            if ring is not None:
                ffi.release(ring)

    def __enter__(self) -> "RingBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
