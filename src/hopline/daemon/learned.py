"""Learned entries: reading them out of the cache, keeping their neighbours alive, taking old adjacencies back."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import numpy as np

from hopline.daemon.datapath import Datapath
from hopline.kernel import atomic_load32, atomic_store32


@dataclass(frozen=True, slots=True)
class Learned:
    """One learned destination and the id of its adjacency."""

    to: str
    id: int


class LearnedTable:
    """A view of the cache and of the learned range of the adjacencies."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self._cache4 = datapath.maps["cache4"].mmap()
        self._cache6 = datapath.maps["cache6"].mmap()
        self._mask = np.uint64(datapath.cache_buckets - 1)
        self._packets: dict[int, int] = {}
        self._retiring = self._in_state("RETIRING")  # of a daemon that did not come to free them

    def _valid(self, words: np.ndarray) -> np.ndarray:
        """Return which ways are of this generation and of the learned range."""
        current = words >> np.uint64(32) == np.uint64(self.datapath.generation)
        return current & ((words & self._mask) >= np.uint64(self.datapath.learned_base))

    def used(self) -> tuple[int, int]:
        """Return how many entries each family's cache holds, the operator's destinations among them."""
        now = np.uint64(self.datapath.generation)
        return tuple(  # type: ignore[return-value]
            int(np.count_nonzero(cache["ways"] >> np.uint64(32) == now)) for cache in (self._cache4, self._cache6)
        )

    def count(self) -> int:
        """Return how many learned destinations are cached."""
        return sum(int(np.count_nonzero(self._valid(c["ways"]))) for c in (self._cache4, self._cache6))

    def entries(self) -> Iterator[Learned]:
        """Yield the cached learned destinations of this generation, IPv4 first."""
        ways = self._cache4["ways"].copy()
        buckets, columns = np.nonzero(self._valid(ways))
        words = ways[buckets, columns]
        mask = int(self._mask)
        mixed = (words & np.uint64(0xFFFFFFFF & ~mask)).astype(np.uint32) | buckets.astype(np.uint32)
        for octets, word in zip(self.datapath.unmix4(mixed), words, strict=True):
            yield Learned(str(IPv4Address(int(octets).to_bytes(4, "little"))), int(word) & mask)
        ways = self._cache6["ways"].copy()
        buckets, columns = np.nonzero(self._valid(ways))
        for bucket, column in zip(buckets.tolist(), columns.tolist(), strict=True):
            address = self._cache6["addresses"][bucket, column].tobytes()
            if self._cache6["ways"][bucket, column] == ways[bucket, column]:
                yield Learned(str(IPv6Address(address)), int(ways[bucket, column]) & mask)

    def entries_by_id(self) -> Counter[int]:
        """Return how many cached destinations each learned adjacency has."""
        ids: Counter[int] = Counter()
        for cache in (self._cache4, self._cache6):
            ways = cache["ways"]
            found, counts = np.unique((ways[self._valid(ways)] & self._mask), return_counts=True)
            ids.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        return ids

    def ready(self) -> list[int]:
        """Return the ids of the learned range that are in use."""
        return self._in_state("READY")

    def _in_state(self, name: str) -> list[int]:
        base, end = self.datapath.learned_base, self.datapath.adjacency_limit
        states = self.datapath.adjacencies["state"][base:end]
        return (np.nonzero(states == self.datapath.states[f"ADJACENCY_{name}"])[0] + base).tolist()

    def neighbours_in_use(self) -> list[tuple[int, str]]:
        """Return (ifindex, address) of the next hops that packets have left through since the last call."""
        totals = self.datapath.maps["next_hop_count"].sums()["packets"]
        moved: list[tuple[int, str]] = []
        for id in self.ready():
            packets = int(totals[id])
            if packets != self._packets.get(id, 0):
                row = self.datapath.adjacencies[id]
                moved.append((int(row["ifindex"]), next_hop_text(int(row["family"]), row["next_hop"].tobytes())))
            self._packets[id] = packets
        return moved

    def reclaim(self) -> None:
        """Take learned adjacencies back when three quarters are in use; called every so often.

        What this generation has not handed out is retired at one call and freed at the next, with a bump between:
        an answer that was on its way into the cache when its adjacency was retired is stale by then.
        """
        self.datapath.free_adjacencies(self._retiring)
        for id in self._retiring:
            self._packets.pop(id, None)
        self._retiring = []
        ready = self.ready()
        if len(ready) * 4 < (self.datapath.adjacency_limit - self.datapath.learned_base) * 3:
            return
        now = self.datapath.generation
        for id in ready:
            row = self.datapath.adjacencies[id : id + 1]
            if atomic_load32(row["generation"]) != now:
                atomic_store32(row["state"], int(self.datapath.states.ADJACENCY_RETIRING))
                self._retiring.append(id)
        # also where all are of this generation: those still in use are handed out again, the others can go next time
        self.datapath.bump_generation()


def next_hop_text(family: int, octets: bytes) -> str:
    """Return the address in struct adjacency's next_hop."""
    return str(ip_address(octets[:4] if family == 4 else octets))
