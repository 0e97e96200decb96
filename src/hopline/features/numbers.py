"""Numbers of one service's backends: which is whose, and which may be given again. Pure.

Slots and the flow table name a backend by its number. One that is gone keeps it until nothing names it any more, and
one that died is not believed under its old number before the flow table has forgotten what it knew: a flow made
elsewhere in the meantime would go back to it.

A round, by which numbers become clean: take due(), wait a grace period, sweep the flow table, then settle().
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.errors import HoplineError
from hopline.features.slots import NUMBERS


class NumbersError(HoplineError):
    """A service has no number left to give."""


@dataclass(slots=True)
class Numbers:
    """`holders`: backend → number. `retired`: of gone ones, not free yet. `tainted`: of holders that died, not swept.

    `most`: numbers from 0 to one less are given, the lowest free first.
    """

    most: int = NUMBERS
    holders: dict[str, int] = field(default_factory=dict)
    retired: set[int] = field(default_factory=set)
    tainted: set[int] = field(default_factory=set)

    def take(self, backend: str) -> int:
        """Give a backend its number: the one it has, else the lowest free one. NumbersError where there is none."""
        if backend in self.holders:
            return self.holders[backend]
        used = self.retired.union(self.holders.values())
        free = next((number for number in range(self.most) if number not in used), None)
        if free is None:
            waiting = f", {len(self.retired)} of them until flows of removed backends end" if self.retired else ""
            raise NumbersError(f"backend {backend}: all {self.most} numbers of the service are in use{waiting}")
        self.holders[backend] = free
        return free

    def leave(self, backend: str) -> int:
        """Take a backend's number away, for good; it is free when a round has found it clean. The number."""
        number = self.holders.pop(backend)
        self.retired.add(number)
        self.tainted.discard(number)
        return number

    def die(self, backend: str) -> int:
        """Note that a backend died, its flag being stored. The number, not to be revived while believed() is false."""
        self.tainted.add(self.holders[backend])
        return self.holders[backend]

    def believed(self, backend: str) -> bool:
        """Whether a backend may be alive under the number it has; else wait for a round, or leave() and take()."""
        return self.holders.get(backend) not in self.tainted

    def due(self) -> frozenset[int]:
        """Return the numbers that a round which begins now may clean: their flags and slots are stored."""
        return frozenset(self.retired | self.tainted)

    def settle(
        self, due: Iterable[int], named: NDArray[np.bool_], remembered: NDArray[np.integer[Any]]
    ) -> frozenset[int]:
        """End a round: of `due`, free what is gone and believe what died, if it is clean. The numbers that became free.

        `named[number]`: whether a slot leads to it (slots.named; in all slots, now). `remembered[number]`: flows that
        the sweep left of it; shorter where the service has fewer rows.
        """
        forgotten = {number for number in due if number >= len(remembered) or not remembered[number]}
        self.tainted -= forgotten
        freed = frozenset(number for number in self.retired & forgotten if not named[number])
        self.retired -= freed
        return freed
