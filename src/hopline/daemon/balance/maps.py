"""The maps of balance as arrays in memory: what programs read at any time is written word by word.

A view belongs to the map of now: after one was enlarged, `renew` drops the views of the old one.
"""

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.daemon.datapath import Datapath
from hopline.features.balance import Outer, packed, padded
from hopline.kernel import atomic_load32, atomic_load64, atomic_store32, atomic_store64

BLOOM_SHIFT = 23


class BalanceMaps:
    """Typed access for one datapath. Every write is of one thread at a time."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        layout = datapath.layout
        # the members of these come from the object, so no type checker knows them
        self.limits: Any = layout.enum("balance_limit")
        self.vip_flags: Any = layout.enum("vip_flag")
        self.service_flags: Any = layout.enum("service_flag")
        self.backend_flags: Any = layout.enum("backend_flag")
        self.state = datapath.maps["state"].mmap()
        self.vips = datapath.maps["vips"].mmap()
        self.buckets = datapath.maps["vip_buckets"].mmap()["ways"]
        self.pages = datapath.maps["port_pages"].mmap()["entries"]
        self.services = datapath.maps["services"].mmap()
        self.names = datapath.maps["service_names"].mmap()
        self.renew()
        # of rows of backends as tuples: many are read at once so
        self.header_of = _fields(self.backends, "family", "encapsulation", "source", "destination", "vary", "port")
        self.kept_of = _fields(self.backends, "destination", "adjacency", "flags", "family", "weight", "leaving")

    def renew(self) -> None:
        """Look at the maps of now, of which some may be others than before."""
        maps = self.datapath.maps
        self.slots: NDArray[np.uint32] = maps["rings"].mmap()["slots"].reshape(-1)
        self.backends = maps["backends"].mmap()
        self.flows = maps["flows"].mmap()

    def release(self) -> None:
        """Let go of the views of maps that are about to be replaced: they would keep the old ones in memory."""
        del self.slots, self.backends, self.flows

    # the clock

    @property
    def clock(self) -> int:
        """Ticks of a quarter of a second; never 0 once it was wound."""
        return atomic_load32(self.state["clock"][0:1])

    @clock.setter
    def clock(self, ticks: int) -> None:
        atomic_store32(self.state["clock"][0:1], ticks & 0xFFFFFFFF or 1)

    # VIPs

    def mixed(self, address: str) -> int:
        """Return the keyed hash of a VIP: its tag, and its bucket and bit in the filter."""
        octets = packed(address)
        return self.datapath.mix4(octets) if len(octets) == 4 else self.datapath.mix6(octets)

    def set_way(self, bucket: int, way: int, word: int) -> None:
        """Write one way of a bucket of VIPs."""
        atomic_store64(self.buckets[bucket, way : way + 1], word)

    def write_vip(self, row: int, address: str, family: int, flags: int) -> None:
        """Fill a row that nothing leads to yet."""
        vip = self.vips[row : row + 1]
        vip["rules"], vip["pages"] = 0, 0
        vip["address"] = as_field(vip["address"], padded(address))
        atomic_store32(vip["flags"], flags)
        atomic_store32(vip["family"], family)

    def set_rule(self, row: int, protocol: int, place: int, word: int) -> None:
        """Write one rule."""
        atomic_store64(self.vips["rules"][row, protocol, place : place + 1], word)

    def set_page(self, row: int, protocol: int, page: int) -> None:
        """Say where the rest of a protocol's services is; 0 is nowhere."""
        atomic_store32(self.vips["pages"][row, protocol : protocol + 1], page)

    def set_vip_flags(self, row: int, flags: int) -> None:
        """Write a VIP's flags."""
        atomic_store32(self.vips[row : row + 1]["flags"], flags)

    def set_bloom(self, hashes: Iterable[int]) -> None:
        """Make the filter of VIPs say those of these hashes."""
        words = self.state["vip_bloom"][0]
        bloom = [0] * len(words)
        for mixed in hashes:
            bit = mixed >> BLOOM_SHIFT
            bloom[bit // 64] |= 1 << bit % 64
        for i, word in enumerate(bloom):
            atomic_store64(words[i : i + 1], word)

    # services and backends

    def set_ring(self, row: int, first_element: int, slots: int) -> None:
        """Say where a service's ring is."""
        atomic_store64(self.services[row : row + 1]["ring"], first_element | slots << 32)

    def set_word(self, row: int, field: str, value: int) -> None:
        """Write one field of 32 bits of a service."""
        atomic_store32(self.services[row : row + 1][field], value)

    def ring(self, row: int) -> tuple[int, int]:
        """Return first element and slots of a service's ring; (0, 0) where it has none."""
        word = atomic_load64(self.services[row : row + 1]["ring"])
        return word & 0xFFFFFFFF, word >> 32

    def write_backend(self, row: int, header: Outer | None) -> None:
        """Fill the header of a backend that no slot names; without one it stays nobody's address."""
        entry = self.backends[row : row + 1]
        entry["source"] = as_field(entry["source"], header.source if header else bytes(16))
        entry["destination"] = as_field(entry["destination"], header.destination if header else bytes(16))
        entry["vary"] = header.vary if header else 0
        entry["port"] = header.port if header else 0
        entry["family"] = header.family if header else 0
        entry["encapsulation"] = header.encapsulation if header else 0

    def blank_backends(self, base: int, room: int) -> None:
        """Make rows of backends nobody's, that nothing leads to."""
        self.backends[base : base + room] = np.zeros(1, self.backends.dtype)

    def set_backend(self, row: int, field: str, value: int) -> bool:
        """Write one field of 32 bits of a backend; return whether it was another."""
        word = self.backends[row : row + 1][field]
        if int(word[0]) == value:
            return False
        atomic_store32(word, value)
        return True

    def set_name(self, row: int, name: str) -> None:
        """Say what a service is called; "" frees its row."""
        entry = self.names[row : row + 1]["name"]
        entry[...] = np.frombuffer(name.encode().ljust(entry.dtype.itemsize, b"\0"), entry.dtype)

    def name(self, row: int) -> str:
        """Return what a row is called, "" where it is free."""
        return bytes(self.names["name"][row]).rstrip(b"\0").decode(errors="replace")

    def zero_rows(self, name: str, first: int, count: int) -> None:
        """Make counters of a per-CPU map 0."""
        counters = self.datapath.maps[name]
        zeros = np.zeros((count, counters.ncpu), counters.value_dtype)
        counters.update_batch(np.arange(first, first + count, dtype=np.uint32), zeros)


def _fields(rows: NDArray[Any], *names: str) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    assert rows.dtype.names is not None
    return itemgetter(*map(rows.dtype.names.index, names))


def as_field(field: NDArray[Any], octets: bytes) -> NDArray[Any]:
    """Return octets as a field of one row has them, whatever words it is made of."""
    return np.frombuffer(octets, field.dtype.base).reshape(field.shape)
