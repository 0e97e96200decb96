"""What the program counts on its way, by interface slot, and what its cache holds.

A packet that the cache answers adds to nothing but its verdict, so hits are no counter of the kernel's. They follow:
each packet ends in one verdict, a verdict is reached either before the next hop is looked for or after, and of those
that were looked for `cache_misses` has all that the cache did not answer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.daemon.datapath import GENERATION_BITS, Datapath

# parse, and bpf/lib/judge.h; every other verdict comes after the cache was asked
BEFORE_THE_LOOK_UP = frozenset(
    f"PASS_{name}" for name in ("NOT_IP", "MALFORMED", "VLAN", "OTHER_HOST", "MULTICAST", "MARTIAN", "OPTIONS")
)
BUCKETS_AT_ONCE = 1 << 13  # half a MiB of the cache: what is computed from it stays in a processor's own cache


@dataclass(frozen=True, slots=True)
class SlotCounters:
    """One slot's; packets and bytes by the name in enum verdict, zeros among them."""

    packets: dict[str, int]
    bytes: dict[str, int]
    misses: int  # of the cache; all packets that were looked up, while no daemon holds the lease

    @property
    def looked_up(self) -> int:
        """Packets for which a next hop was looked for."""
        return sum(packets for name, packets in self.packets.items() if name not in BEFORE_THE_LOOK_UP)

    @property
    def hits(self) -> int:
        """Packets that the cache answered; one that is under way as the two are read counts once it has left."""
        return max(self.looked_up - self.misses, 0)


def read_counters(datapath: Datapath) -> dict[int, SlotCounters]:
    """Return the counters of every slot that a device holds; takes milliseconds, so not for the event loop.

    Verdicts are read first: a packet in between is then a miss too many, and no hit is told that did not happen.
    """
    verdicts = datapath.maps["verdict_count"].sums()
    misses = datapath.maps["cache_misses"].sums()
    held = datapath.interfaces["ifindex"].nonzero()[0].tolist()
    return {slot: _slot(datapath, verdicts, slot, int(misses[slot])) for slot in held}


def _slot(datapath: Datapath, verdicts: NDArray[Any], slot: int, misses: int) -> SlotCounters:
    width = int(datapath.limits.VERDICT_SLOTS)
    rows = verdicts[slot * width : (slot + 1) * width]
    # CONTINUE is no way out
    named = [verdict for verdict in datapath.verdicts if verdict]
    return SlotCounters(
        {verdict.name: int(rows[verdict]["packets"]) for verdict in named},
        {verdict.name: int(rows[verdict]["bytes"]) for verdict in named},
        misses,
    )


@dataclass(frozen=True, slots=True)
class CacheFill:
    """One family's cache, in entries: how many fit, are of this generation, and of those came from the FIB."""

    size: int
    used: int
    learned: int


def read_caches(datapath: Datapath) -> dict[str, CacheFill]:
    """Return how full the cache of each family is; 16 million entries take a quarter of a second."""
    return {family: _fill(datapath, name) for family, name in (("ipv4", "cache4"), ("ipv6", "cache6"))}


def _fill(datapath: Datapath, name: str) -> CacheFill:
    ways = datapath.cache_words(name)
    id_bits, first_learned = np.uint64(datapath.cache_buckets - 1), np.uint64(datapath.learned_base)
    generation, shift = np.uint64(datapath.generation), np.uint64(32)
    used = learned = 0
    for start in range(0, len(ways), BUCKETS_AT_ONCE):
        words = ways[start : start + BUCKETS_AT_ONCE]
        words = words[(words & GENERATION_BITS) >> shift == generation]
        used += len(words)
        learned += int(np.count_nonzero((words & id_bits) >= first_learned))
    return CacheFill(ways.size, used, learned)
