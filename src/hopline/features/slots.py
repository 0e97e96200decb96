"""Slots of a service's ring: how each changes, ages and closes. Pure; docs/features/balance.md proves what it promises.

A slot is one 32-bit word (layout_balance.h): `now` | `before` << 12 | state << 24 | stamp << 26. Functions take the
words of one ring as they lie in the map and return the stores to make, each a store of its own: any of them may be in
effect without the others. CLOSED: `now` decides. OPEN: the flow table, else a SYN goes to `now` and the rest to
`before`, and both are remembered. RESIDUAL: the flow table, else `now`, and nothing is remembered.

The stamp says when an open slot last changed, in steps of the service's idle time / 32, so that nobody keeps a record
of it and none is lost with the daemon. Six bits of it wrap: a slot can look younger than it is, never older.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Indexes = NDArray[np.intp]

NUMBER_BITS = 12
NUMBERS = 1 << NUMBER_BITS
STATE_SHIFT = 24
STATE_MASK = 3
STAMP_SHIFT = 26
STAMPS = 1 << 6

_NUMBER_MASK = np.uint32(NUMBERS - 1)
_BEFORE_SHIFT = np.uint32(NUMBER_BITS)
_STATES = np.uint32(STATE_MASK << STATE_SHIFT)
_STEPS = 32  # of an idle time; an open slot ages within twice that, so the stamp does not come round


class State(IntEnum):
    """enum slot_state."""

    CLOSED = 0
    OPEN = 1
    RESIDUAL = 2


_OPEN = np.uint32(State.OPEN << STATE_SHIFT)
_RESIDUAL = np.uint32(State.RESIDUAL << STATE_SHIFT)


@dataclass(frozen=True, slots=True)
class Stores:
    """What to store where: `words[i]` at slot `indexes[i]`; indexes ascend and are distinct."""

    indexes: Indexes
    words: Words

    def __len__(self) -> int:
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class Census:
    """How many slots are in each state."""

    closed: int
    open: int
    residual: int


def now_of(words: Words) -> Words:
    """Return each slot's `now`, a backend's number."""
    return words & _NUMBER_MASK


def before_of(words: Words) -> Words:
    """Return each slot's `before`; it means something in open slots only."""
    return (words >> _BEFORE_SHIFT) & _NUMBER_MASK


def state_of(words: Words) -> Words:
    """Return each slot's state, a member of State."""
    return (words >> np.uint32(STATE_SHIFT)) & np.uint32(STATE_MASK)


def fresh(wanted: NDArray[Any]) -> Words:
    """Return the words of a ring that no packet has met: all closed. `wanted` has a backend's number a slot."""
    return np.asarray(wanted, np.uint32)


def retarget(words: Words, wanted: NDArray[Any], dead: NDArray[np.bool_], clock: int, idle: int) -> Stores:
    """Return what makes every slot's `now` the number wanted there, and leaves none open that need not be.

    A slot need not be open whose `before` is dead, or the same as `now` again.

    `wanted`: a number a slot; `now_of(words)` where only deaths are to be seen to. `dead[number]`: whether what went
    there is lost: its backend is dead, or it is nobody's. `clock`: state.clock; `idle`: the service's T in ticks.

    The flags of a backend that dies are stored before these words, and those of one that returns too: then no flow
    is sent to, or remembered for, a backend that is not what its slot takes it for.
    """
    wanted = np.asarray(wanted, np.uint32)
    now, before, states = now_of(words), before_of(words), words & _STATES
    was_open = states == _OPEN
    changes = now != wanted
    before = np.where(was_open, before, now)
    lost = dead[before]
    opens = changes & ~lost
    # who is not in the table goes to `before` there, and so he does if `now` is the same and decides
    settles = lost & (changes | was_open) | was_open & (wanted == before)
    opened = wanted | before << _BEFORE_SHIFT | _OPEN | np.uint32(stamp(clock, idle) << STAMP_SHIFT)
    indexes = np.flatnonzero(opens | settles)
    return Stores(indexes, np.where(settles, wanted | _RESIDUAL, opened)[indexes])


def stamp(clock: int, idle: int) -> int:
    """Return the six bits that stand for a tick."""
    return clock // _step(idle) % STAMPS


def _step(idle: int) -> int:
    return idle // _STEPS + 1


def aged(words: Words, clock: int, idle: int, refused: int) -> Stores:
    """Return what makes open slots residual that last changed more than `idle` ticks ago (and not much more).

    Nobody who was sent to such a slot's `before` unseen has been heard of since, unless the flow table refused to
    remember him: none ages while it refused one of the service within `idle` (`refused`: the tick; 0 is never).
    """
    if refused and clock - refused <= idle:
        return _none()
    step = _step(idle)
    steps = (np.uint32(clock // step % STAMPS) - (words >> np.uint32(STAMP_SHIFT))) & np.uint32(STAMPS - 1)
    # a slot that is `steps` old changed in a tick at least (steps - 1) * step + 1 before this one
    least = -(-idle // step) + 1
    indexes = np.flatnonzero(((words & _STATES) == _OPEN) & (steps >= least))
    return Stores(indexes, now_of(words[indexes]) | _RESIDUAL)


def restamped(words: Words, clock: int, idle: int) -> Stores:
    """Return what makes open slots count as changed in this tick: needed where the service gets another idle time."""
    indexes = np.flatnonzero((words & _STATES) == _OPEN)
    stamped = words[indexes] & np.uint32((1 << STAMP_SHIFT) - 1)
    return Stores(indexes, stamped | np.uint32(stamp(clock, idle) << STAMP_SHIFT))


def closing(words: Words, kept: NDArray[np.integer[Any]]) -> Stores:
    """Return what closes the residual slots of which the flow table holds nothing more.

    `kept`: the slots, in any order and repeated, of which a sweep left something that began a grace period after they
    had become residual. A service that remembers every flow asks the table in each state, so its slots close at once.
    """
    residual = (words & _STATES) == _RESIDUAL
    residual[kept] = False
    indexes = np.flatnonzero(residual)
    return Stores(indexes, now_of(words[indexes]))


def doubted(words: Words) -> Stores:
    """Return what makes closed slots residual: a service that remembered every flow is to rely on its ring."""
    indexes = np.flatnonzero((words & _STATES) == 0)
    return Stores(indexes, now_of(words[indexes]) | _RESIDUAL)


def named(words: Words) -> NDArray[np.bool_]:
    """Return which of the NUMBERS numbers a slot leads to: as its `now`, or as `before` while it is open."""
    found = np.zeros(NUMBERS, np.bool_)
    found[now_of(words)] = True
    found[before_of(words[(words & _STATES) == _OPEN])] = True
    return found


def shares(words: Words) -> NDArray[np.intp]:
    """Return how many slots each of the NUMBERS numbers has as their `now`."""
    return np.bincount(now_of(words), minlength=NUMBERS)


def census(words: Words) -> Census:
    """Return how many slots are in each state."""
    counts = np.bincount(state_of(words), minlength=len(State))
    return Census(int(counts[State.CLOSED]), int(counts[State.OPEN]), int(counts[State.RESIDUAL]))


def _none() -> Stores:
    return Stores(np.empty(0, np.intp), np.empty(0, np.uint32))
