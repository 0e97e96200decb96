"""Many elements of a map at once: the kernel's batch calls, and one call an element where it has none.

Which map types have batches depends on the kernel (kernel/bpf/syscall.c, BPF_DO_BATCH): hash, LRU and array since
5.6, LPM trie and per-CPU arrays since 5.13, device maps never.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.errors import KernelError
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.handle import ENOTSUPP, BatchError, portable

NO_BATCH = frozenset((ENOTSUPP, errno.EOPNOTSUPP, errno.EINVAL))
# elements a call: large enough that the call costs nothing, small enough for the kernel's own buffers
CHUNK = 1 << 16
BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """A map as batches see it; `value_size` is what one element takes in user space, all CPUs' copies together."""

    fd: int
    what: str
    key_size: int
    value_size: int
    max_entries: int

    @property
    def chunk(self) -> int:
        """Elements a call."""
        return max(1, min(CHUNK, BYTES // (self.key_size + self.value_size), self.max_entries))


def update(target: Target, keys: NDArray[Any], values: NDArray[Any], count: int, flags: int) -> int:
    """Write `count` pairs; the number written, or BatchError with `.done`."""
    key_data, value_data = _chars(keys), _chars(values)
    done, each = 0, False
    moved = ffi.new("uint32_t *")
    while done < count:
        here = min(target.chunk, count - done)
        from_keys, from_values = key_data + done * target.key_size, value_data + done * target.value_size
        moved[0] = here
        if each:
            sizes = (target.key_size, from_values, target.value_size)
            result = lib.hl_update_each(target.fd, from_keys, *sizes, here, flags, moved)
        else:
            result = lib.hl_update_batch(target.fd, from_keys, from_values, moved, flags)
            # a refused call leaves the count as it was; a map type without batches refuses the first
            if -result in NO_BATCH and moved[0] in (0, here):
                each = True
                continue
        done += _moved(result, moved[0], here)
        if result < 0:
            raise BatchError(f"update {target.what}", -result, done, _hint(-result, target))
    return done


def delete(target: Target, keys: NDArray[Any], count: int) -> int:
    """Delete `count` keys; the number that were there. Absent keys are passed over."""
    data, done, deleted, each = _chars(keys), 0, 0, False
    moved = ffi.new("uint32_t *")
    while done < count:
        here = min(target.chunk, count - done)
        moved[0], first = here, data + done * target.key_size
        if each:
            result = lib.hl_delete_each(target.fd, first, target.key_size, here, moved)
        else:
            result = lib.hl_delete_batch(target.fd, first, moved)
            if -result in NO_BATCH and moved[0] in (0, here):
                each = True
                continue
        stopped = _moved(result, moved[0], here)
        done, deleted = done + stopped, deleted + stopped
        if result == -errno.ENOENT:
            done += 1
        elif result < 0:
            raise BatchError(f"delete from {target.what}", -result, deleted)
    return deleted


def _moved(result: int, moved: int, here: int) -> int:
    """How many elements a call handled: after EFAULT the kernel's count means nothing."""
    if result >= 0:
        return here
    return 0 if result == -errno.EFAULT else min(moved, here)


def _hint(number: int, target: Target) -> str:
    return f"the map holds {target.max_entries} entries at most" if number in (errno.E2BIG, errno.ENOSPC) else ""


def lookup(target: Target, unique: bool) -> tuple[bytearray, bytearray, int]:
    """All pairs as raw bytes and their number: every element that is there throughout the call, each once.

    `unique` says that the kernel's walk may start over when the element it stands on is deleted (LPM trie, and any
    walk by keys), so that repeated keys have to be dropped.
    """
    try:
        keys, values, count = _lookup_batches(target)
    except _NoBatch:
        keys, values, count = _lookup_each(target)
        unique = True
    if unique and count:
        keys, values, count = _dedupe(target, keys, values, count)
    return keys, values, count


class _NoBatch(Exception):
    """This kernel has no batch look-up for the map's type."""


def stream(target: Target, unique: bool) -> Iterator[tuple[memoryview, memoryview, int]]:
    """What lookup() finds, a part at a time: keys, values and their number, valid until the next is asked for.

    Where repeated keys have to be dropped all of it is read at first.
    """
    if not unique:
        try:
            yield from _batches(target)
            return
        except _NoBatch:
            pass
    keys, values, count = lookup(target, unique)
    for first in range(0, count, target.chunk):
        past = min(first + target.chunk, count)
        some_keys = memoryview(keys)[first * target.key_size : past * target.key_size]
        yield some_keys, memoryview(values)[first * target.value_size : past * target.value_size], past - first


def _lookup_batches(target: Target) -> tuple[bytearray, bytearray, int]:
    keys, values, total = bytearray(), bytearray(), 0
    for some_keys, some_values, count in _batches(target):
        keys += some_keys
        values += some_values
        total += count
    return keys, values, total


def _batches(target: Target) -> Iterator[tuple[memoryview, memoryview, int]]:
    room, total, started, interrupted = target.chunk, 0, False, 0
    cursor, step = ffi.new("char[]", max(8, target.key_size)), ffi.new("char[]", max(8, target.key_size))
    count = ffi.new("uint32_t *")
    keys, values = bytearray(room * target.key_size), bytearray(room * target.value_size)
    while True:
        count[0] = room
        into = (ffi.from_buffer(keys), ffi.from_buffer(values))
        result = lib.hl_lookup_batch(target.fd, cursor if started else ffi.NULL, step, *into, count)
        if -result in NO_BATCH and not started:
            raise _NoBatch
        if result == -errno.ENOSPC:  # one hash bucket holds more than there is room for
            room *= 2
            keys, values = bytearray(room * target.key_size), bytearray(room * target.value_size)
            continue
        if result < 0 and result not in (-errno.ENOENT, -errno.EINTR):
            raise KernelError(f"read {target.what}", portable(-result))
        found = int(count[0])
        total += found
        if found:
            yield memoryview(keys)[: found * target.key_size], memoryview(values)[: found * target.value_size], found
        if result == -errno.ENOENT:
            return
        interrupted = interrupted + 1 if result == -errno.EINTR else 0
        _bound(target, total if interrupted < 100 else 1 << 62)
        if found or not interrupted:
            ffi.memmove(cursor, step, len(cursor))
            started = True


def following(target: Target, key: bytes | None) -> bytes | None:
    """The key that the kernel's walk comes to after `key`, or at first; None at the end."""
    cursor, count = ffi.new("char[]", key or bytes(target.key_size)), ffi.new("uint32_t *")
    room = bytearray(target.key_size), bytearray(target.value_size)
    into = (ffi.from_buffer(room[0]), ffi.from_buffer(room[1]), target.value_size)
    result = lib.hl_lookup_each(target.fd, cursor, int(key is not None), target.key_size, *into, 1, count)
    if result < 0 and result != -errno.ENOENT:
        raise KernelError(f"read {target.what}", portable(-result))
    return bytes(room[0]) if count[0] else None


def _lookup_each(target: Target) -> tuple[bytearray, bytearray, int]:
    room, total, started = target.chunk, 0, 0
    cursor, count = ffi.new("char[]", target.key_size), ffi.new("uint32_t *")
    keys, values = bytearray(), bytearray()
    key_room, value_room = bytearray(room * target.key_size), bytearray(room * target.value_size)
    while True:
        into = (ffi.from_buffer(key_room), ffi.from_buffer(value_room), target.value_size)
        result = lib.hl_lookup_each(target.fd, cursor, started, target.key_size, *into, room, count)
        if result < 0 and result != -errno.ENOENT:
            raise KernelError(f"read {target.what}", portable(-result))
        keys += memoryview(key_room)[: count[0] * target.key_size]
        values += memoryview(value_room)[: count[0] * target.value_size]
        total, started = total + count[0], 1
        if result == -errno.ENOENT:
            return keys, values, total
        _bound(target, total)


def _bound(target: Target, total: int) -> None:
    """A walk that starts over again and again would never end."""
    if total > 8 * target.max_entries + CHUNK:
        raise KernelError(f"read {target.what}", errno.EBUSY, "it changes faster than it can be read; try again")


def _dedupe(target: Target, keys: bytearray, values: bytearray, count: int) -> tuple[bytearray, bytearray, int]:
    seen = np.frombuffer(keys, f"S{target.key_size}" if target.key_size < 1 else np.dtype((np.void, target.key_size)))
    first = np.sort(np.unique(seen, return_index=True)[1])
    if len(first) == count:
        return keys, values, count
    rows = np.frombuffer(values, np.uint8).reshape(count, target.value_size)
    return bytearray(seen[first].tobytes()), bytearray(rows[first].tobytes()), len(first)


def _chars(array: NDArray[Any]) -> Any:
    """A char pointer into a contiguous array; the array must outlive it."""
    return ffi.cast("char *", ffi.from_buffer(array)) if array.nbytes else ffi.NULL
