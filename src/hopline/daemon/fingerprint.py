"""Fingerprints of tables: whether the kernel's entries are the operator's, without a look at each of a million.

A fingerprint is the sum over a table's entries, modulo 2**64, of a mix of key and adjacency id: the order does not
matter, and a change adds and subtracts its own entries. It tells drift from none; it is no defence against malice.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.features.forward import by_table, keys_of

ONE_BY_ONE_MOST = 10_000  # entries of a change that are added and subtracted; beyond, all are summed anew when asked
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(32)


def fingerprint(keys: NDArray[Any], ids: NDArray[Any]) -> int:
    """Return the sum over n entries: keys of any dtype whose size is a multiple of 4, shape (n,); ids u32, (n,)."""
    if not len(keys):
        return 0
    words = np.frombuffer(keys.tobytes(), np.uint32).reshape(len(keys), -1)
    mixed = ids.astype(np.uint64) + np.uint64(1)
    for column in range(words.shape[1]):
        mixed = (mixed ^ words[:, column]) * _ODD
        mixed ^= mixed >> _SHIFT
    return int(mixed.sum(dtype=np.uint64))


def fingerprints(entries: Mapping[str, int]) -> dict[str, int]:
    """Return the fingerprint of each table that has entries: destination → adjacency id."""
    sums = {}
    for table, destinations in by_table(entries).items():
        keys = keys_of(destinations)
        each = np.dtype((np.void, len(keys) // len(destinations)))
        ids = np.fromiter(map(entries.__getitem__, destinations), np.uint32, len(destinations))
        sums[table] = fingerprint(np.frombuffer(keys, each), ids)
    return sums


class Expected:
    """The fingerprints that the kernel's tables should have."""

    def __init__(self) -> None:
        self._sums: dict[str, int] | None = None

    def forget(self) -> None:
        """Reckon them anew when they are next asked for."""
        self._sums = None

    def commit(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Entries have changed from `before` to `after`."""
        if self._sums is None:
            return
        if len(before) + len(after) > ONE_BY_ONE_MOST:
            self._sums = None
            return
        for sign, entries in ((-1, before), (1, after)):
            for table, amount in fingerprints(entries).items():
                self._sums[table] = (self._sums.get(table, 0) + sign * amount) % (1 << 64)

    def of(self, entries: Callable[[], Mapping[str, int]]) -> Mapping[str, int]:
        """Return the fingerprint of each table, of all `entries`, if they are not known; one that is absent has 0."""
        if self._sums is None:
            self._sums = fingerprints(entries())
        return self._sums
