"""The memory an emulated program sees, and which 64-octet lines of it were touched.

Every region has 4 GiB of addresses of its own, so an address says what it is of. Values of maps are read from the
kernel's maps when first touched, and changed here only.
"""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from hopline.kernel import Map

WINDOW_BITS = 32
OFFSET = (1 << WINDOW_BITS) - 1
LINE, PAGE = 64, 4096
KERNEL = 0xFFFF800000000000
ARRAY, PER_CPU_ARRAY = 2, 6  # enum bpf_map_type
BPF_F_MMAPABLE = 1 << 10
HASH_SPACING = PAGE


class Fault(Exception):
    """The program did what this emulator does not know, or what the kernel would not let it."""


@dataclass
class Region:
    """Addresses with plain octets behind them: packet, stack, context."""

    kind: str
    data: bytearray

    def load(self, at: int, size: int) -> int:
        if at + size > len(self.data):
            raise Fault(f"{size} octets at {at} of {self.kind}, which has {len(self.data)}")
        return int.from_bytes(self.data[at : at + size], "little")

    def store(self, at: int, size: int, value: int) -> None:
        if at + size > len(self.data):
            raise Fault(f"{size} octets at {at} of {self.kind}, which has {len(self.data)}")
        self.data[at : at + size] = value.to_bytes(size, "little")

    def line(self, at: int) -> tuple[str, int]:
        return self.kind, at // LINE


@dataclass
class Constant(Region):
    """A struct of the kernel's of which one field is read: whichever it is, it holds this."""

    value: int

    def load(self, at: int, size: int) -> int:
        return self.value


@dataclass
class Elements(Region):
    """Values of a map; `written` are those that the program changed."""

    map: Map
    cpu: int
    start: int = 0  # offset of the first value behind the map's own address
    values: dict[int, bytearray] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)

    @property
    def stride(self) -> int:
        return (self.map.value_size + 7) // 8 * 8

    def value(self, key: int) -> bytearray:
        if key not in self.values:
            found = self.map.get(key)
            if found is None:
                raise Fault(f"map {self.map.name} has no element {key}")
            self.values[key] = bytearray(found.tobytes().ljust(self.stride, b"\0"))
        return self.values[key]

    def key(self, index: int) -> int | bytes:
        """The key of an element."""
        return index

    def place(self, at: int) -> tuple[int, int]:
        """Which element an offset is in, and where in it."""
        if at < self.start:
            raise Fault(f"octet {at} of map {self.map.name} itself")
        return divmod(at - self.start, self.stride)

    def load(self, at: int, size: int) -> int:
        key, inside = self.place(at)
        return int.from_bytes(self.value(key)[inside : inside + size], "little")

    def store(self, at: int, size: int, value: int) -> None:
        key, inside = self.place(at)
        self.value(key)[inside : inside + size] = value.to_bytes(size, "little")
        self.written.add(key)

    def line(self, at: int) -> tuple[str, int]:
        # values of a mapped array begin on a page, others where struct bpf_array ends
        return self.kind, (at - self.start if self.map.flags & BPF_F_MMAPABLE else at) // LINE


@dataclass
class PerCpu(Elements):
    """Values of a per-CPU array, as of one CPU. Each has a place of its own, taken to begin on a line."""

    def value(self, key: int) -> bytearray:
        if key not in self.values:
            found = self.map.get(key)[self.cpu]
            self.values[key] = bytearray(found.tobytes().ljust(self.stride, b"\0"))
        return self.values[key]

    def line(self, at: int) -> tuple[str, int]:
        key, inside = self.place(at)
        return self.kind, key * LINE + inside // LINE


@dataclass
class Pointers(Elements):
    """The array of pointers in front of a per-CPU array's values, which an inlined look-up reads."""

    values_at: int = 0

    def load(self, at: int, size: int) -> int:
        key = (at - self.start) // 8
        return self.values_at + key * self.stride


@dataclass
class Hashed(Elements):
    """Elements that look-ups found; `start` is where the value begins in one, as the program has it."""

    keys: list[bytes] = field(default_factory=list)

    def find(self, key: bytes) -> int | None:
        """The offset of the element with this key, None where there is none."""
        if key not in self.keys:
            found = self.map.get(key)
            if found is None:
                return None
            self.values[len(self.keys)] = bytearray(found.tobytes().ljust(self.stride, b"\0"))
            self.keys.append(key)
        return (self.keys.index(key) + 1) * HASH_SPACING

    def key(self, index: int) -> int | bytes:
        return self.keys[index]

    def place(self, at: int) -> tuple[int, int]:
        return at // HASH_SPACING - 1, at % HASH_SPACING

    def load(self, at: int, size: int) -> int:
        # what is in front of the value: a look-up in an LRU reads whether the element was used of late
        key, inside = self.place(at)
        if inside < self.start:
            return 0
        return int.from_bytes(self.value(key)[inside - self.start : inside - self.start + size], "little")

    def store(self, at: int, size: int, value: int) -> None:
        key, inside = self.place(at)
        if inside >= self.start:
            self.value(key)[inside - self.start : inside - self.start + size] = value.to_bytes(size, "little")
            self.written.add(key)

    def line(self, at: int) -> tuple[str, int]:
        return self.kind, at // LINE


@lru_cache(maxsize=256)
def dtypes(map_id: int) -> tuple[np.dtype, np.dtype]:
    """A map's own, which are slow to work out; the map itself is not kept."""
    with Map.from_id(map_id) as table:
        return table.key_dtype, table.value_dtype


class Memory:
    """All regions, and what was touched of them."""

    def __init__(self) -> None:
        self.regions: dict[int, Region] = {}
        self.maps: dict[int, Elements] = {}
        self._bases: dict[int, int] = {}
        self.lines: dict[str, set[int]] = defaultdict(set)
        self.loads: dict[str, int] = defaultdict(int)
        self.stores: dict[str, int] = defaultdict(int)
        self.kernel = Constant("jiffies", bytearray(), 0)
        self.cpu = min(os.sched_getaffinity(0))

    def add(self, region: Region) -> int:
        """Give a region addresses; the first of them."""
        window = len(self.regions) + 1
        self.regions[window] = region
        return window << WINDOW_BITS

    def map_at(self, map_id: int) -> int:
        """The address that stands for the map with this id."""
        if map_id not in self._bases:
            key_dtype, value_dtype = dtypes(map_id)
            table = Map.from_id(map_id, key_dtype=key_dtype, value_dtype=value_dtype)
            name = ".rodata" if table.name.endswith(".rodata") else table.name
            if table.type == PER_CPU_ARRAY:
                values = PerCpu(name, bytearray(), table, self.cpu, PAGE)
                at = self.add(values) + PAGE
                pointers = Pointers(f"{name} pointers", bytearray(), table, self.cpu, values_at=at)
                self.maps[map_id], self._bases[map_id] = values, self.add(pointers)
            else:
                kind = Elements if table.type == ARRAY else Hashed
                self.maps[map_id] = kind(name, bytearray(), table, self.cpu)
                self._bases[map_id] = self.add(self.maps[map_id])
        return self._bases[map_id]

    def value_at(self, map_id: int, offset: int) -> int:
        """The address in the only value of an array that the program names by itself, as .rodata."""
        base = self.map_at(map_id)
        self.maps[map_id].start = PAGE
        return base + PAGE + offset

    def map_of(self, address: int) -> Elements | None:
        """The map that an address stands for, if it is a map's own."""
        region = self.regions.get(address >> WINDOW_BITS)
        return region if isinstance(region, Elements) and not address & OFFSET else None

    def region(self, address: int) -> Region:
        """What an address is of."""
        region = self.kernel if address >= KERNEL else self.regions.get(address >> WINDOW_BITS)
        if region is None:
            raise Fault(f"address {address:#x} is of nothing")
        return region

    def touch(self, address: int, size: int) -> tuple[Region, int]:
        """Note the lines of so many octets; the region and the offset in it."""
        region, at = self.region(address), address & OFFSET
        for octet in {at, *range(at | LINE - 1, at + size, LINE), at + size - 1}:
            kind, line = region.line(octet)
            self.lines[kind].add(line)
        return region, at

    def load(self, address: int, size: int) -> int:
        """Load a number of 1, 2, 4 or 8 octets."""
        region, at = self.touch(address, size)
        self.loads[region.kind] += 1
        return region.load(at, size)

    def store(self, address: int, size: int, value: int) -> None:
        """Store a number of 1, 2, 4 or 8 octets."""
        region, at = self.touch(address, size)
        self.stores[region.kind] += 1
        region.store(at, size, value & (1 << 8 * size) - 1)

    def read(self, address: int, size: int) -> bytes:
        """Octets that a helper reads."""
        region, at = self.touch(address, size)
        return bytes(region.load(at + i, 1) for i in range(size))

    def write(self, address: int, data: bytes) -> None:
        """Octets that a helper writes."""
        region, at = self.touch(address, len(data))
        for i, octet in enumerate(data):
            region.store(at + i, 1, octet)
