"""Maps: typed by the BTF of the object they came from, or by the kernel's own when reached by pin or id.

Keys and values are given as int, bytes, tuple, ipaddress address, NumPy scalar, record or array, and come back as
NumPy scalars, records and arrays of `key_dtype` and `value_dtype`.
"""

import errno
import math
import mmap as mappings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.errors import KernelError, LayoutError
from hopline.kernel import batch, codec
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.btf import Btf
from hopline.kernel.codec import DType, Element, Shape, encode, encode_many, strided
from hopline.kernel.handle import Handle, check, open_pin
from hopline.kernel.record import Layout

BPF_F_MMAPABLE = 1 << 10


class Map(Handle):
    """A map in the kernel. Attributes: fd, name, id, type, key_size, value_size, max_entries, flags (as created)."""

    def __init__(
        self,
        fd: int,
        name: str = "",
        *,
        key_dtype: DType | None = None,
        value_dtype: DType | None = None,
        typed: bool = True,
    ) -> None:
        """Takes over `fd`. Without dtypes the kernel is asked for the map's BTF; unless `typed` all is raw octets."""
        self.fd = fd
        info = ffi.new("struct bpf_map_info *")
        size = ffi.new("uint32_t *", ffi.sizeof("struct bpf_map_info"))
        check(lib.bpf_obj_get_info_by_fd(fd, info, size), f"read map {name}")
        self.name = name or ffi.string(info.name).decode()
        self.what = f"map {self.name}"
        self.id, self.type, self.flags = int(info.id), int(info.type), int(info.map_flags)
        self.key_size, self.value_size = int(info.key_size), int(info.value_size)
        self.max_entries = int(info.max_entries)
        # of its BTF, and in it of key and value; 0 where there is none
        self.btf_id = int(info.btf_id)
        self.btf_types = int(info.btf_key_type_id), int(info.btf_value_type_id)
        if not typed:
            key_dtype, value_dtype = np.dtype(f"V{self.key_size}"), np.dtype(f"V{self.value_size}")
        elif value_dtype is None and info.btf_id and info.btf_value_type_id:
            key_dtype, value_dtype = _kernel_dtypes(info, self.name)
        shape = Shape(self.type, self.key_size, self.value_size, key_dtype, value_dtype)
        self.key_dtype, self.value_dtype = codec.default_dtypes(shape)
        self.per_cpu = self.type in codec.PER_CPU
        self.ncpu = check(lib.libbpf_num_possible_cpus(), "count cpus") if self.per_cpu else 1
        # user space sees per-CPU values, and values of mapped arrays, padded to 8 bytes
        self._stride = (self.value_size + 7) // 8 * 8
        self._room = self._stride * self.ncpu if self.per_cpu else self.value_size

    @classmethod
    def from_pin(
        cls,
        path: str | Path,
        *,
        key_dtype: DType | None = None,
        value_dtype: DType | None = None,
        typed: bool = True,
    ) -> "Map":
        """The map pinned at `path`; give key_dtype and value_dtype where it has no BTF."""
        found = cls(open_pin(path, "map"), key_dtype=key_dtype, value_dtype=value_dtype, typed=typed)
        found.pinned = Path(path)
        return found

    @classmethod
    def from_id(
        cls, map_id: int, *, key_dtype: DType | None = None, value_dtype: DType | None = None, typed: bool = True
    ) -> "Map":
        """The map with this id; KernelError ENOENT if there is none."""
        fd = check(lib.bpf_map_get_fd_by_id(map_id), f"open map id {map_id}")
        return cls(fd, key_dtype=key_dtype, value_dtype=value_dtype, typed=typed)

    @classmethod
    def create(
        cls,
        type: int,
        name: str,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        *,
        key_dtype: DType | None = None,
        value_dtype: DType | None = None,
    ) -> "Map":
        """A new map of enum bpf_map_type `type`; sizes in bytes; the kernel keeps 15 characters of the name."""
        asked = f"create map {name}"
        fd = check(lib.hl_map_create(type, name[:15].encode(), key_size, value_size, max_entries, flags), asked)
        return cls(fd, name, key_dtype=key_dtype, value_dtype=value_dtype)

    def layout(self) -> Layout | None:
        """All layouts of the object that the map was made by, as the kernel keeps them; None where it keeps none."""
        return _kernel_layout(self.btf_id, self.name) if self.btf_id else None

    @property
    def _target(self) -> batch.Target:
        return batch.Target(self.fd, self.what, self.key_size, self._room, self.max_entries)

    def _key(self, key: Element) -> bytes:
        return encode(self.key_dtype, key, f"{self.what}, key")

    def _value(self, value: Element) -> bytes:
        if not self.per_cpu:
            return encode(self.value_dtype, value, f"{self.what}, value")
        return self._per_cpu_values([value], 1).tobytes()

    def _decode(self, buffer: Any, count: int) -> NDArray[Any]:
        """`count` values as (count, …) or, per CPU, (count, ncpu, …)."""
        if self.per_cpu:
            return strided(buffer, (count, self.ncpu), self.value_dtype, (self._room, self._stride))
        return strided(buffer, (count,), self.value_dtype, (self.value_size,))

    def get(self, key: Element) -> Any:
        """The value of `key` (per CPU: an array of ncpu values), or None if there is none."""
        value = bytearray(self._room)
        result = lib.bpf_map_lookup_elem(self.fd, self._key(key), ffi.from_buffer(value))
        if result == -errno.ENOENT:
            return None
        check(result, f"read {self.what}")
        return self._decode(value, 1)[0]

    def set(self, key: Element, value: Element, flags: int = 0) -> None:
        """Write one element; flags 1 only if new (BPF_NOEXIST), 2 only if there (BPF_EXIST).

        A single value for a per-CPU map is written to every CPU's copy.
        """
        asked = f"update {self.what}"
        check(lib.bpf_map_update_elem(self.fd, self._key(key), self._value(value), flags), asked)

    def holds(self, key: Element) -> bool:
        """Whether this very key is there; get() of an LPM trie finds shorter prefixes too."""
        raw = self._key(key)
        if self.type != codec.LPM_TRIE:
            return self.get(raw) is not None
        # only what follows a key that is not there is the first of all (kernel/bpf/lpm_trie.c, trie_get_next_key)
        first = batch.following(self._target, None)
        return first is not None and (raw == first or batch.following(self._target, raw) != first)

    def delete(self, key: Element) -> bool:
        """Delete one element; False if it was not there."""
        result = lib.bpf_map_delete_elem(self.fd, self._key(key))
        if result == -errno.ENOENT:
            return False
        check(result, f"delete from {self.what}")
        return True

    def update_batch(self, keys: Any, values: Any, flags: int = 0) -> int:
        """Write n pairs: keys of shape (n,), values (n,) or, per CPU, (n, ncpu). BatchError.done counts what was."""
        key_array = encode_many(self.key_dtype, keys, f"{self.what}, keys")
        count = len(key_array)
        if self.per_cpu:
            value_array = self._per_cpu_values(values, count)
        else:
            value_array = encode_many(self.value_dtype, values, f"{self.what}, values")
        if value_array.nbytes != count * self._room:
            raise codec.CodecError(f"{self.what}: {count} keys but {len(value_array)} values: give as many")
        return batch.update(self._target, key_array, value_array, count, flags)

    def _per_cpu_values(self, values: Any, count: int) -> NDArray[Any]:
        packed = encode_many(self.value_dtype.base, np.asarray(values, self.value_dtype.base), f"{self.what}, values")
        inner = self.value_dtype.shape
        if packed.shape == (count, *inner):
            packed = np.repeat(packed[:, np.newaxis], self.ncpu, axis=1)
        if packed.shape != (count, self.ncpu, *inner):
            shape = f"({count}, {self.ncpu})"
            raise codec.CodecError(f"{self.what}: values of shape {packed.shape}: give {shape}, one a cpu")
        raw = bytearray(count * self._room)
        self._decode(raw, count)[...] = packed
        return np.frombuffer(raw, np.uint8).reshape(count, self._room)

    def lookup_batch(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """(keys, values) of all elements: (n,) and (n,), per CPU (n, ncpu). In no order, each key once.

        Complete for what is there throughout the call, also while others change the map.
        """
        keys, values, count = batch.lookup(self._target, self.type == codec.LPM_TRIE)
        return strided(keys, (count,), self.key_dtype, (self.key_size,)), self._decode(values, count)

    items = lookup_batch

    def stream(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """What lookup_batch() finds, thousands of elements at a time: the octets of keys, (n, key_size), and values,
        (n, ncpu, room), where `room` is value_size, per CPU padded to 8. Valid until the next is asked for.
        """
        for keys, values, count in batch.stream(self._target, self.type == codec.LPM_TRIE):
            octets = np.frombuffer(keys, np.uint8).reshape(count, self.key_size)
            yield octets, np.frombuffer(values, np.uint8).reshape(count, self.ncpu, self._room // self.ncpu)

    def delete_batch(self, keys: Any) -> int:
        """Delete these keys; the number that were there."""
        array = encode_many(self.key_dtype, keys, f"{self.what}, keys")
        return batch.delete(self._target, array, len(array))

    def sums(self) -> NDArray[Any]:
        """Per-CPU array: totals over CPUs by index, shape (max_entries,), every number added as 64 bits wrap."""
        if self.type != codec.PERCPU_ARRAY:
            raise KernelError(f"sum {self.what}", errno.EINVAL, "only per-cpu arrays have sums")
        keys, values = self.lookup_batch()
        totals = np.zeros(self.max_entries, self.value_dtype)
        _add_up(totals, values, keys)
        return totals

    def mmap(self) -> NDArray[Any]:
        """A writable view, shape (max_entries,), of an array map with BPF_F_MMAPABLE; changes reach programs at once.

        The view keeps the mapping alive, also after close(). For single 32- or 64-bit stores that programs must see
        whole, use atomic_store64() and its like.
        """
        return self._mapped

    @cached_property
    def _mapped(self) -> NDArray[Any]:
        if self.type != codec.ARRAY or not self.flags & BPF_F_MMAPABLE:
            raise KernelError(f"map {self.what} into memory", errno.EINVAL, "declare it an array with BPF_F_MMAPABLE")
        page = mappings.PAGESIZE
        size = math.ceil(self.max_entries * self._stride / page) * page
        try:
            memory = mappings.mmap(self.fd, size)
        except OSError as error:
            raise KernelError(f"map {self.what} into memory", error.errno or 0) from error
        return strided(memory, (self.max_entries,), self.value_dtype, (self._stride,))


def _add_up(totals: NDArray[Any], values: NDArray[Any], keys: NDArray[Any]) -> None:
    """Add the CPUs' values of shape (n, ncpu, …) into totals[keys], field by field."""
    if totals.dtype.names is None:
        totals[keys] = values.sum(axis=1, dtype=totals.dtype)
        return
    for name in totals.dtype.names:
        _add_up(totals[name], values[name], keys)


def _kernel_dtypes(info: Any, name: str) -> tuple[DType | None, DType | None]:
    """Key and value dtype from the BTF that the kernel keeps for a map; None where we may not see or cannot read it."""
    try:
        layout = _kernel_layout(info.btf_id, name)
    except LayoutError:
        return None, None
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        return None, None  # without CAP_SYS_ADMIN nothing is opened by its id
    return layout.possible_dtype(info.btf_key_type_id), layout.possible_dtype(info.btf_value_type_id)


def _kernel_layout(btf_id: int, name: str) -> Layout:
    fd = check(lib.bpf_btf_get_fd_by_id(btf_id), f"read btf of map {name}")
    with Handle() as handle:
        handle.fd = fd
        return Layout(Btf(kernel_btf(fd), f"map {name}"))


def kernel_btf(fd: int) -> bytes:
    """The raw BTF behind a BTF file descriptor."""
    info = ffi.new("struct bpf_btf_info *")
    size = ffi.new("uint32_t *", ffi.sizeof("struct bpf_btf_info"))
    check(lib.bpf_obj_get_info_by_fd(fd, info, size), "read btf")
    data = ffi.new("char[]", max(info.btf_size, 1))
    room = info.btf_size
    info = ffi.new("struct bpf_btf_info *")
    info.btf, info.btf_size = int(ffi.cast("uintptr_t", data)), room
    size[0] = ffi.sizeof("struct bpf_btf_info")
    check(lib.bpf_obj_get_info_by_fd(fd, info, size), "read btf")
    return bytes(ffi.buffer(data, room))
