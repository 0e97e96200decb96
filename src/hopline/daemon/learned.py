"""Learned entries: reading them out of the cache, keeping their neighbours alive, taking old adjacencies back."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import numpy as np

from hopline.daemon.datapath import GENERATION_BITS, Datapath
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
        self._words4, self._words6 = datapath.cache_words("cache4"), datapath.cache_words("cache6")
        self._ways6 = datapath.maps["cache6"].mmap()["ways"]
        self._mask = np.uint64(datapath.cache_buckets - 1)
        self._packets: dict[int, int] = {}
        self._retiring = self._in_state("RETIRING")  # of a daemon that did not come to free them

    def _valid(self, words: np.ndarray) -> np.ndarray:
        """Return which ways are of this generation and of the learned range."""
        return self._current(words) & ((words & self._mask) >= np.uint64(self.datapath.learned_base))

    def _current(self, words: np.ndarray) -> np.ndarray:
        return (words & GENERATION_BITS) >> np.uint64(32) == np.uint64(self.datapath.generation)

    def used(self) -> tuple[int, int]:
        """Return how many entries each family's cache holds, the operator's destinations among them."""
        used4, used6 = (int(np.count_nonzero(self._current(words))) for words in (self._words4, self._words6))
        return used4, used6

    def count(self) -> int:
        """Return how many learned destinations are cached."""
        return sum(int(np.count_nonzero(self._valid(words))) for words in (self._words4, self._words6))

    def entries(self) -> Iterator[Learned]:
        """Yield the cached learned destinations of this generation, IPv4 first."""
        words = self._words4.copy()
        buckets, columns = np.nonzero(self._valid(words))
        words = words[buckets, columns]
        mask = int(self._mask)
        for octets, word in zip(self.datapath.unmix4(self._mixed4(words, buckets)), words, strict=True):
            yield Learned(str(IPv4Address(int(octets).to_bytes(4, "little"))), int(word) & mask)
        words = self._words6.copy()
        buckets, columns = np.nonzero(self._valid(words))
        for bucket, column in zip(buckets.tolist(), columns.tolist(), strict=True):
            address = self._ways6[bucket, column]["address"].tobytes()
            if self._words6[bucket, column] == words[bucket, column]:
                yield Learned(str(IPv6Address(address)), int(words[bucket, column]) & mask)

    def _mixed4(self, words: np.ndarray, buckets: np.ndarray) -> np.ndarray:
        """Return the hashes of cached IPv4 addresses: what their words have of them, and the bucket meant for each."""
        mask = np.uint32(self._mask)
        tags, buckets = words.astype(np.uint32) & ~mask, buckets.astype(np.uint32)
        displaced = words > GENERATION_BITS
        # as other_bucket() of bpf/lib/cache.h, which is its own inverse
        meant = np.where(displaced, (buckets ^ (tags >> np.uint32(15) | np.uint32(1))) & mask, buckets)
        return tags | meant

    def entries_by_id(self) -> Counter[int]:
        """Return how many cached destinations each learned adjacency has."""
        ids: Counter[int] = Counter()
        for words in (self._words4, self._words6):
            found, counts = np.unique((words[self._valid(words)] & self._mask), return_counts=True)
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
