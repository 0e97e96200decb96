"""What the kernel side does with a flow's segments, written anew: the packet rule and a flow table with bounded room.

Maps are structured arrays laid out as sweep.py reads them. Segments come in batches in which a flow occurs once; each
is decided on what the maps hold then and its writes come when it is committed, as on a processor that is slow.
"""

from dataclasses import dataclass

import numpy as np

WAY = np.dtype([("hash", "u8"), ("word", "u8")])
SERVICE = np.dtype([("ring", "u8"), ("backends", "u4"), ("numbers", "u4"), ("flags", "u4"), ("idle", "u4")])
BACKEND = np.dtype([("flags", "u4")])
IN_USE, DRAINING, DEAD = 1, 2, 4
REMEMBERS = 1
ESTABLISHED, FINISHED = 1 << 12, 1 << 13
CLOSED, OPEN, RESIDUAL = 0, 1, 2
SYN, DATA, FIN, RST = 0, 1, 2, 3
FINISHED_LIFE = 240
ROWS = 64  # of backends, a service


@dataclass
class Decided:
    """A batch of segments on their way: which flows, and what was read for them."""

    row: int
    flows: np.ndarray  # indexes, of the caller's
    hashes: np.ndarray
    kinds: np.ndarray
    target: np.ndarray  # numbers
    before: np.ndarray
    opened: np.ndarray
    way: np.ndarray  # -1: no entry
    word: np.ndarray
    hit: np.ndarray
    remembered: np.ndarray
    clock: int
    evicted: list = None  # hashes of entries that gave way
    refused: np.ndarray = None  # flows


class Node:
    """The maps of `services` services, each with a ring of `slots`, and a flow table of `buckets` buckets of 4 ways."""

    def __init__(self, services, slots, buckets, idle, seed=0):
        elements = -(-slots // 1024)
        self.slots, self.buckets = slots, buckets
        self.services = np.zeros(services + 1, SERVICE)
        self.backends = np.zeros((services + 1) * ROWS, BACKEND)
        self.rings = np.zeros((services + 1) * elements * 1024, np.uint32)
        self.ways = np.zeros(buckets * 4, WAY)
        self.refused = [0] * (services + 1)
        self.clock = 1
        self.key = int(np.random.default_rng(seed).integers(1, 1 << 62)) | 1
        self.evictions = self.refusals = self.insertions = 0
        for row in range(1, services + 1):
            self.services[row] = (row * elements | slots << 32, row * ROWS, ROWS, 0, idle)

    def ring(self, row):
        """The words of a service's ring, as they lie there."""
        first = row * -(-self.slots // 1024) * 1024
        return self.rings[first : first + self.slots]

    def flags(self, row):
        """The flags of a service's backends, by number."""
        return self.backends["flags"][row * ROWS : (row + 1) * ROWS]

    # finding

    def _buckets(self, hashes):
        mixed = hashes * np.uint64(self.key)
        home = (mixed >> np.uint64(40)) % np.uint64(self.buckets)
        beside = (mixed >> np.uint64(16)) % np.uint64(self.buckets)
        return home.astype(np.intp), beside.astype(np.intp)

    def _find(self, row, hashes):
        found = np.full(len(hashes), -1)
        for bucket in self._buckets(hashes):
            for way in range(4):
                at = bucket * 4 + way
                word = self.ways["word"][at]
                there = (
                    (self.ways["hash"][at] == hashes) & (word != 0) & (word >> np.uint64(16) & np.uint64(0xFFFF) == row)
                )
                found = np.where((found < 0) & there, at, found)
        return found

    # deciding

    def decide(self, row, flows, hashes, kinds):
        """Read what there is for these segments."""
        words = self.ring(row)[(hashes >> np.uint64(32)) * np.uint64(self.slots) >> np.uint64(32)]
        now, before, state = words & 0xFFF, words >> 12 & 0xFFF, words >> 24 & 3
        flags, syn, opened = self.flags(row), kinds == SYN, state == OPEN
        remembers = bool(self.services["flags"][row] & REMEMBERS)
        way = np.full(len(hashes), -1)
        asked = np.flatnonzero((state != CLOSED) | remembers)
        way[asked] = self._find(row, hashes[asked])
        word = np.where(way >= 0, self.ways["word"][way], np.uint64(0))
        number = (word & np.uint64(0xFFF)).astype(np.int64)
        ignored = (flags[number] & DEAD != 0) | (flags[number] & DRAINING != 0) & syn
        life, lag = self.life(row, word & np.uint64(FINISHED) != 0)
        ignored |= self.clock - (word >> np.uint64(32)).astype(np.int64) > life + lag
        hit = (way >= 0) & ~ignored
        target = np.where(hit, number, np.where(opened & ~syn, before, now)).astype(np.int64)
        remembered = ~hit & (kinds != RST) & (flags[target] & DEAD == 0) & (opened | remembers)
        remembered |= self.anew((way >= 0) & ignored, syn)
        return Decided(
            row, flows, hashes, kinds, target, before.astype(np.int64), opened, way, word, hit, remembered, self.clock
        )

    def anew(self, ignored, syn):
        """Whether an ignored entry is led to where the segment goes, whatever the slot's state."""
        return ignored & syn

    # writing

    def life(self, row, finished):
        """Ticks that an entry lives without a segment, and how far behind its time of last seen may be."""
        idle = int(self.services["idle"][row])
        life = np.where(finished, min(idle, FINISHED_LIFE), idle)
        return life, np.maximum(life // 16, 1)

    def commit(self, decided):
        """Write what was decided; then `target` is where the segments go."""
        decided.evicted, refused = [], []
        self._refresh(decided)
        wanted = np.flatnonzero(decided.remembered)
        homes = [bucket.tolist() for bucket in self._buckets(decided.hashes[wanted])]
        for i, *buckets in zip(wanted.tolist(), *homes, strict=True):
            number, kind = int(decided.target[i]), int(decided.kinds[i])
            word = number | (FINISHED if kind == FIN else 0) | decided.row << 16 | decided.clock << 32
            # the ignored entry, if it is still there and this flow's
            at = int(decided.way[i])
            if at >= 0 and self.ways["word"][at] and self.ways["hash"][at] == decided.hashes[i]:
                self.ways["word"][at] = word
                continue
            if not self._insert(int(decided.hashes[i]), word, buckets, decided):
                self.refused[decided.row] = decided.clock
                self.stray(decided, i)
                refused.append(i)
        decided.refused = decided.flows[refused]
        return decided

    def stray(self, decided, i):
        """Where a segment goes that found no room."""
        if decided.opened[i]:
            decided.target[i] = decided.before[i]

    def _refresh(self, decided):
        chosen = np.flatnonzero(decided.hit)
        at, word, kinds = decided.way[chosen], decided.word[chosen], decided.kinds[chosen]
        fresh = np.where(kinds == SYN, word & ~np.uint64(FINISHED), word | np.uint64(ESTABLISHED))
        fresh = np.where(kinds == FIN, fresh | np.uint64(FINISHED), fresh)
        _, lag = self.life(decided.row, fresh & np.uint64(FINISHED) != 0)
        age = decided.clock - (word >> np.uint64(32)).astype(np.int64)
        written = ((fresh != word) | (age >= lag)) & (self.ways["word"][at] == word)
        fresh = fresh & np.uint64(0xFFFFFFFF) | np.uint64(decided.clock << 32)
        self.ways["word"][at[written]] = fresh[written]

    def _insert(self, hash_, word, buckets, decided):
        places = [bucket * 4 + way for bucket in buckets for way in range(4)]
        words = self.ways["word"][places].tolist()
        worst, victim = 0, None
        for place, found in zip(places, words, strict=True):
            worth = self._worth(found)
            if worth > worst:
                worst, victim = worth, place
        if victim is None:
            self.refusals += 1
            return False
        if worst < 1 << 40:
            self.evictions += 1
            decided.evicted.append(int(self.ways["hash"][victim]))
        self.insertions += 1
        self.ways[victim] = (hash_, word)
        return True

    def _worth(self, word):
        """How readily a way is given: free, silent, finished and silent, of a single segment; 0 is not at all."""
        if not word:
            return 1 << 60
        age = max(0, self.clock - (word >> 32))
        life, lag = self.life(word >> 16 & 0xFFFF, bool(word & FINISHED))
        if age > life + lag + 1:
            return 1 << 50 | age
        return 0 if word & ESTABLISHED else 1 + age
