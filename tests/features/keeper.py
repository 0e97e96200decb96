"""Who changes a Node's maps: backends come, go, drain, die and return at random, and what features/ says is stored.

It is the daemon reduced to what matters for the promise: flags, slots, numbers and rounds of the sweep, in the order in
which they must come. `between` is called wherever packets may come in between two stores.
"""

from dataclasses import dataclass

import numpy as np

from features.node import DEAD, DRAINING, IN_USE, ROWS
from hopline.features import maglev, numbers, slots, sweep

NOBODY = "nobody"


@dataclass
class Member:
    """A backend as the operator and the health checks see it."""

    weight: int
    drained: bool = False
    alive: bool = True
    leaving: int = 0


class Keeper:
    """One service's keeper. `owner[number]`: which life of which backend it stands for; lives end in `ended`."""

    def __init__(self, node, row, rng, between, grace):
        self.node, self.row, self.rng = node, row, rng
        self.between, self.grace = between, grace
        self.idle = int(node.services["idle"][row])
        self.members = {}
        self.numbers = numbers.Numbers(most=ROWS)
        self.owner = np.full(slots.NUMBERS, -1)
        self.lives = 0
        self.ended = set()
        self.changes = self.stores = 0
        self.busy = False
        self.started = False
        node.flags(row)[self.numbers.take(NOBODY)] = IN_USE | DEAD

    # what the operator and health checks do

    def add(self, address, weight):
        if address in self.members:
            self.members[address].leaving = 0
            self.members[address].weight = weight
        else:
            self.members[address] = Member(weight)
            self._enter(address)
        self.apply()

    def remove(self, address, grace):
        member = self.members[address]
        if not member.alive or not grace:
            self._end(address)
            return
        member.leaving = self.node.clock + grace
        self.apply()

    def drain(self, address, drained):
        self.members[address].drained = drained
        self.apply()

    def weigh(self, address, weight):
        self.members[address].weight = weight
        self.apply()

    def die(self, address):
        self.members[address].alive = False
        self.ended.add(int(self.owner[self.numbers.holders[address]]))
        self.numbers.die(address)
        self.apply()

    def revive(self, address):
        """Return whether it was believed under its number; else it gets another one, or waits for a round."""
        believed = self.numbers.believed(address)
        if not believed:
            if self.rng.random() < 0.5:
                return False
            self.node.flags(self.row)[self.numbers.leave(address)] = IN_USE | DEAD
            self._enter(address)
        self.members[address].alive = True
        self._live(address)
        self.apply()
        return True

    def end_leaving(self):
        for address in [a for a, m in self.members.items() if m.leaving and m.leaving <= self.node.clock]:
            self._end(address)

    def _enter(self, address):
        number = self.numbers.take(address)
        self.node.flags(self.row)[number] = IN_USE
        self._live(address)

    def _live(self, address):
        self.lives += 1
        self.owner[self.numbers.holders[address]] = self.row << 32 | self.lives

    def _end(self, address):
        number = self.numbers.holders[address]
        self.ended.add(int(self.owner[number]))
        self.members[address].alive = False
        self.apply()
        del self.members[address]
        self.numbers.leave(address)

    # flags, then slots

    def apply(self):
        """Make flags and slots what members are."""
        self.busy = True
        self.store_flags()
        self.between()
        self.store_slots()
        self.busy = False

    def store_flags(self):
        flags = self.node.flags(self.row)
        for address, member in self.members.items():
            away = member.drained or member.leaving or not member.weight
            state = IN_USE | (DRAINING if away else 0) if member.alive else IN_USE | DEAD
            flags[self.numbers.holders[address]] = state

    def wanted(self):
        """The number that each slot should have."""
        takers = [
            (a, m.weight) for a, m in self.members.items() if m.alive and m.weight and not m.drained and not m.leaving
        ]
        if not takers:
            return np.full(self.node.slots, self.numbers.holders[NOBODY])
        order = np.array([self.numbers.holders[address] for address, _ in takers])
        return order[maglev.ring(takers, self.node.slots)]

    def store_slots(self):
        words = self.node.ring(self.row)
        if not self.started:
            words[:] = slots.fresh(self.wanted())
            self.started = True
            return
        dead = self.node.flags(self.row) & (IN_USE | DEAD) != IN_USE
        self.store(
            slots.retarget(words, self.wanted(), np.pad(dead, (0, slots.NUMBERS - ROWS)), self.node.clock, self.idle)
        )

    def store(self, stores):
        """Store slot by slot, in no order, with packets in between."""
        if not len(stores):
            return
        self.changes += 1
        self.stores += len(stores)
        order = self.rng.permutation(len(stores))
        for some in np.array_split(order, min(len(order), 3)):
            self.node.ring(self.row)[stores.indexes[some]] = stores.words[some]
            self.between()


def exchange(words, indexes, expected):
    """Compare and exchange, as kernel.atomic does it."""
    done = words[indexes] == expected
    words[indexes[done]] = 0
    return done


def round_of(node, keepers, between, grace, exchange=exchange, part=1 << 12):
    """A round: a grace period, the sweep, then slots close, numbers become clean and open slots age."""
    due = [(keeper, keeper.numbers.due(), keeper.changes) for keeper in keepers]
    grace()
    swept = sweep.Sweep(node.services, node.backends, node.rings, node.clock)
    for first in range(0, len(node.ways), part):
        swept.part(node.ways[first : first + part], exchange)
        between()
    for keeper, numbers_due, changes in due:
        words = node.ring(keeper.row)
        if keeper.changes == changes:
            keeper.store(swept.closing(keeper.row))
        remembered = swept.remembered[keeper.row * ROWS : (keeper.row + 1) * ROWS]
        for number in keeper.numbers.settle(numbers_due, slots.named(words), remembered):
            node.flags(keeper.row)[number] = 0
            keeper.owner[number] = -1
        keeper.store(slots.aged(words, node.clock, keeper.idle, node.refused[keeper.row]))
    return swept
