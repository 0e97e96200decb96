"""What a sweep takes out of the flow table, and what it counts there. Pure; slots.py has the rules of slots.

Maps are given as they lie, structured arrays of struct flow_way, service and backend, and the slab of rings as flat
words. A sweep begins a grace period after the last store to slots and flags whose consequences it is to draw; it goes
part by part, and slots may change between two parts.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.features.slots import NUMBERS, Indexes, State, Stores, Words, closing, state_of

PART = 1 << 16  # ways that are looked at at once: what that takes stays in the processor's cache
ELEMENT_SLOTS = 1024  # RING_ELEMENT_SLOTS

# struct flow_way's word
NUMBER_MASK = np.uint32(NUMBERS - 1)
ESTABLISHED = np.uint32(1 << 12)
FINISHED = np.uint32(1 << 13)
SERVICE_SHIFT = np.uint64(16)
SERVICE_MASK = np.uint64(0xFFFF)
BUSY = 0xFFFF  # in place of a service: the way is being written
SEEN_SHIFT = np.uint64(32)

# enum service_flag, enum backend_flag
REMEMBERS = 1 << 0
IN_USE = 1 << 0
DEAD = 1 << 2

FINISHED_TICKS = 240  # what is left of a flow's time after its FIN
LAG_SHIFT = 4  # when a flow was last seen is written when that is out of date by a sixteenth of its time

# (words of ways, indexes, expected) → which of them were so, and are 0 now: kernel.atomic.exchange64_at
Exchange = Callable[[NDArray[Any], Indexes, NDArray[np.uint64]], NDArray[np.bool_]]


def lifetime(idle: NDArray[Any], finished: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for how many ticks after it was last seen a flow's entry is obeyed, with the lag of what is written."""
    life = np.where(finished, np.minimum(idle, FINISHED_TICKS), idle).astype(np.int64)
    return life + np.maximum(life >> LAG_SHIFT, 1)


def slot_of(hashes: NDArray[np.uint64], slots: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Return the slot of each flow's hash in a ring of so many slots."""
    return (hashes >> np.uint64(32)) * slots >> np.uint64(32)


class Sweep:
    """One pass over the flow table; part() for each part of it, then what follows.

    `agreed`, `silent`, `lost` and `flows`, a number a service row: entries taken out since their ring says the same;
    since nothing was heard of them, or of a finished flow, for too long; since their backend or service is no more; and
    those that are left. `remembered`, a number a backend row: entries that are left.
    """

    def __init__(self, services: NDArray[Any], backends: NDArray[Any], rings: Words, clock: int) -> None:
        self._services, self._backends, self._rings = services, backends, rings
        self._clock = clock
        self.agreed, self.silent, self.lost, self.flows = (np.zeros(len(services), np.int64) for _ in range(4))
        self.remembered = np.zeros(len(backends), np.int64)
        # residual slots, by their place in the slab, of which something is left: as parts found them, and sorted
        self._found_kept: list[NDArray[np.uint32]] = []
        self._kept = np.empty(0, np.uint32)

    def part(self, ways: NDArray[Any], exchange: Exchange) -> None:
        """Look at some ways, PART or so, and take out what is to go; what changes meanwhile stays for the next one."""
        words = np.ascontiguousarray(ways["word"])
        places = np.flatnonzero(words)
        words = words[places]
        low = words.astype(np.uint32)
        rows = low >> np.uint32(SERVICE_SHIFT)
        known = rows < len(self._services)
        if not known.all():
            places, words, low, rows = places[known], words[known], low[known], rows[known]
        slots, backends, lost = self._found(ways["hash"][places], low, rows)
        silent = self._is_silent(words, low, rows) & ~lost
        states, agreed = self._is_agreed(low, rows, slots)
        agreed &= ~(lost | silent)
        gone = np.flatnonzero(lost | silent | agreed)
        done = gone[exchange(ways["word"], places[gone], words[gone])]
        for counts, why in ((self.agreed, agreed), (self.silent, silent), (self.lost, lost)):
            counts += np.bincount(rows[done[why[done]]], minlength=len(counts))
        left = np.ones(len(places), np.bool_)
        left[done] = False
        self.flows += np.bincount(rows[left], minlength=len(self.flows))
        self.remembered += np.bincount(backends[left], minlength=len(self.remembered))
        self._found_kept.append(slots[left & (states == State.RESIDUAL)].astype(np.uint32))

    def _found(self, hashes: NDArray[np.uint64], low: Words, rows: Words) -> tuple[Indexes, Indexes, NDArray[np.bool_]]:
        """Return the place of each entry's slot, the row of its backend, and whether there is no such backend alive."""
        ring = self._services["ring"].take(rows)
        count = ring >> np.uint64(32)
        slots = (ring & np.uint64(0xFFFFFFFF)) * np.uint64(ELEMENT_SLOTS) + slot_of(hashes, count)
        numbers = low & NUMBER_MASK
        backends = (self._services["backends"].take(rows) + numbers).astype(np.intp)
        lost = numbers >= self._services["numbers"].take(rows)
        lost |= count == 0
        backends[lost] = 0
        lost |= (self._backends["flags"][backends] & (IN_USE | DEAD)) != IN_USE
        return slots.astype(np.intp), backends, lost

    def _is_silent(self, words: NDArray[np.uint64], low: Words, rows: Words) -> NDArray[np.bool_]:
        idle = self._services["idle"].take(rows)
        limits = lifetime(idle, (low & FINISHED) != 0)
        # a program ignores what is older than its limit, by a clock that may be a tick behind this one
        return self._clock - (words >> SEEN_SHIFT).astype(np.int64) > limits + 1

    def _is_agreed(self, low: Words, rows: Words, slots: Indexes) -> tuple[Words, NDArray[np.bool_]]:
        """Return slots' states, and whether the ring alone decides the same (a closed slot's entry should not be)."""
        slot = self._rings.take(slots)
        states = state_of(slot)
        settled = (states == State.RESIDUAL) & (((slot ^ low) & NUMBER_MASK) == 0) | (states == State.CLOSED)
        return states, settled & ((self._services["flags"].take(rows) & REMEMBERS) == 0)

    def closing(self, row: int) -> Stores:
        """Return what closes slots of a service, after all parts, if its slots did not change since the sweep began.

        A service that remembers all its flows asks the table whatever the state, so its slots may close at once.
        """
        if self._found_kept:
            self._kept = np.sort(np.concatenate([self._kept, *self._found_kept]))
            self._found_kept = []
        ring = int(self._services["ring"][row])
        first, count = (ring & 0xFFFFFFFF) * ELEMENT_SLOTS, ring >> 32
        kept = np.empty(0, np.uint32)
        if not int(self._services["flags"][row]) & REMEMBERS:
            # bounds of the array's own type, or all of it is converted
            bounds = np.array([first, first + count], np.uint32)
            kept = self._kept[slice(*np.searchsorted(self._kept, bounds))]
        return closing(self._rings[first : first + count], kept - np.uint32(first))


def sweep(
    ways: NDArray[Any], services: NDArray[Any], backends: NDArray[Any], rings: Words, clock: int, exchange: Exchange
) -> Sweep:
    """Sweep the whole flow table at once."""
    done = Sweep(services, backends, rings, clock)
    for first in range(0, len(ways), PART):
        done.part(ways[first : first + PART], exchange)
    return done
