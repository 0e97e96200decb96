"""What is wanted of a table beside what the kernel has there, without a look at each of a million in Python.

Keys stay as they lie in the map: n rows of octets. Each of the two sides has a key once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.features.forward import destination_of, keys_of

ABSENT = -1


def octets(keys: NDArray[Any]) -> list[bytes]:
    """Return the octets of each key; one element of a big-endian array would come out in the machine's order."""
    whole, size = keys.tobytes(), keys.dtype.itemsize
    return [whole[i : i + size] for i in range(0, len(whole), size)]


def destinations_of(table: str, keys: NDArray[Any]) -> list[str]:
    """Return the canonical destinations of a map's keys, shape (n,)."""
    return [destination_of(table, key) for key in octets(keys)]


@dataclass(frozen=True, slots=True)
class Matched:
    """One table's destinations that are wanted, n of them, beside the kernel's m entries."""

    table: str
    destinations: Sequence[str]
    found: NDArray[np.int64]  # (n,) the adjacency id that the kernel has for each, or ABSENT
    keys: NDArray[Any]  # (m,) the kernel's
    ids: NDArray[Any]  # (m,)
    strange: NDArray[np.bool_]  # (m,) which of the kernel's nobody wants

    def differing(self, ids: NDArray[np.int64]) -> tuple[dict[str, int], dict[str, int]]:
        """Return what the kernel has and what it should have where that is not the same; `ids` (n,) are wanted."""
        places = np.flatnonzero(self.found != ids)
        names = list(map(self.destinations.__getitem__, places.tolist()))
        found = zip(names, self.found[places].tolist(), strict=True)
        have = {to: id for to, id in found if id != ABSENT}
        strays = destinations_of(self.table, self.keys[self.strange])
        have.update(zip(strays, self.ids[self.strange].tolist(), strict=True))
        return have, dict(zip(names, ids[places].tolist(), strict=True))


def found_together(tables: Sequence[Matched], kinds: Sequence[NDArray[np.int64]]) -> list[tuple[int, int]]:
    """Return the pairs of kind and adjacency id that entries have, those of most entries first.

    `kinds` has, for each table, a number for each of its n destinations.
    """
    pairs = [kind[there] << 32 | match.found[there]
             for match, kind in zip(tables, kinds, strict=True) for there in [match.found != ABSENT]]  # fmt: skip
    each, entries = np.unique(np.concatenate(pairs), return_counts=True)
    return [(pair >> 32, pair & 0xFFFFFFFF) for pair in each[np.argsort(-entries, kind="stable")].tolist()]


def matched(table: str, destinations: Sequence[str], keys: NDArray[Any], ids: NDArray[Any]) -> Matched:
    """Find each of n canonical destinations of `table` among the kernel's keys, shape (m,), and their ids, (m,)."""
    wanted = np.frombuffer(keys_of(destinations), np.uint8).reshape(len(destinations), keys.dtype.itemsize)
    have = np.frombuffer(keys.tobytes(), np.uint8).reshape(len(keys), keys.dtype.itemsize)
    found = np.full(len(wanted), ABSENT, np.int64)
    strange = np.ones(len(have), bool)
    if len(have) and len(wanted):
        numbers = _numbered(np.concatenate((have, wanted)))
        there, sought = numbers[: len(have)], numbers[len(have) :]
        # both in order: a search that jumps about takes five times as long
        order, asked = np.argsort(there), np.argsort(sought)
        there, sought = there[order], sought[asked]
        place = np.searchsorted(there, sought).clip(max=len(have) - 1)
        hit = there[place] == sought
        found[asked[hit]] = ids[order[place[hit]]]
        strange[order[place[hit]]] = False
    return Matched(table, destinations, found, keys, ids, strange)


def _numbered(rows: NDArray[np.uint8]) -> NDArray[Any]:
    """Return a number for each row of (n, size) octets, the same for the same octets and for no others."""
    count, size = rows.shape
    if size == 4:
        return rows.view(np.uint32)[:, 0]
    padded = np.zeros((count, -(-size // 8) * 8), np.uint8)
    padded[:, :size] = rows
    words = padded.view(np.uint64)
    numbers = words[:, 0]
    for column in range(1, words.shape[1]):
        # ranks of fewer than 2**32 rows: two of them fit in one word
        first, second = (np.unique(each, return_inverse=True)[1] for each in (numbers, words[:, column]))
        numbers = first.astype(np.uint64) << np.uint64(32) | second.astype(np.uint64)
    return numbers
