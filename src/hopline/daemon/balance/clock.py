"""The clock that flows are as old as, and what it brings: slots age, entries are forgotten, numbers become free.

A round goes through the flow table once: a grace period, the sweep, then slots close, numbers become clean and open
slots age (features/slots.py and features/sweep.py say why in that order). It is done where there is something to do.
"""

import time

from hopline.daemon.balance.balancer import Balancer
from hopline.daemon.balance.served import Served
from hopline.daemon.datapath import GRACE_S
from hopline.features import slots
from hopline.features.balance import TICKS_PER_S
from hopline.features.sweep import PART, Sweep
from hopline.kernel.atomic import exchange64_at

ROUND_EVERY_S = 2.0  # where there is something to settle
IDLE_ROUND_EVERY_S = 30.0  # flows that a service always remembers grow old


class Clock:
    """state.clock moves while a daemon runs, so that nothing grows old unseen while none does."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._since = time.monotonic()
        self._round = self._swept = self._since
        if not balancer.maps.clock:
            balancer.maps.clock = 1

    def tick(self) -> None:
        """Move on by the whole ticks that have gone by: never ahead of real time."""
        whole = int((time.monotonic() - self._since) * TICKS_PER_S)
        if whole > 0:
            self._since += whole / TICKS_PER_S
            self._balancer.maps.clock += whole

    def due(self) -> bool:
        """Whether it is time for a round."""
        balancer = self._balancer
        since = time.monotonic() - self._round
        if balancer.ending or any(_unsettled(served) for served in list(balancer.by_name.values())):
            return since >= ROUND_EVERY_S
        remembering = any(_remembers(served) for served in list(balancer.by_name.values()))
        return remembering and since >= IDLE_ROUND_EVERY_S

    def round(self) -> None:
        """Sweep and settle; in a thread."""
        self._round = time.monotonic()
        balancer = self._balancer
        with balancer.lock:
            there = list(balancer.by_name.values())
            if not balancer.ending and not any(map(_sweeps, there)) and self._round - self._swept < IDLE_ROUND_EVERY_S:
                for each in there:
                    self._age(each)
                return
            self._swept = self._round
            self._cut_off()
            due = [(each, each.numbers.due(), each.changes, each.base) for each in there]
            settings = balancer.datapath.settings
        time.sleep(GRACE_S)
        with balancer.lock:
            if settings != balancer.datapath.settings:
                return  # maps are others now: the next round goes through those
            maps = balancer.maps
            sweep = Sweep(maps.services, maps.backends, maps.slots, maps.clock)
            size = maps.flows["ways"].size
        for first in range(0, size, PART):
            with balancer.lock:
                if settings != balancer.datapath.settings:
                    return
                sweep.part(maps.flows["ways"].reshape(-1)[first : first + PART], exchange64_at)
        with balancer.lock:
            if settings != balancer.datapath.settings:
                return
            for served, numbers, changes, base in due:
                if balancer.by_name.get(served.service.name) is served and served.base == base:
                    self._settle(served, sweep, numbers, changes)
            self._release(sweep)

    def purge(self) -> None:
        """Forget flows of services that have no ring: nobody is to find them under a row that is given out anew."""
        maps = self._balancer.maps
        with self._balancer.lock:
            sweep = Sweep(maps.services, maps.backends, maps.slots, maps.clock)
            ways = maps.flows["ways"].reshape(-1)
            for first in range(0, len(ways), PART):
                sweep.part(ways[first : first + PART], exchange64_at)

    def _cut_off(self) -> None:
        """What nothing leads to any more has no ring either: the sweep forgets its flows."""
        if self._balancer.undoable:
            return  # what is taken away may have to be put back as it was
        for served in self._balancer.ending:
            self._balancer.maps.set_ring(served.row, 0, 0)

    def _settle(self, served: Served, sweep: Sweep, due: frozenset[int], changes: int) -> None:
        served.silent += int(sweep.silent[served.row])
        # slots that became residual while it swept may have had entries in parts that it had been through
        if served.residual and served.changes == changes:
            served.store(sweep.closing(served.row))
        if due:
            named = slots.named(served.words)
            remembered = sweep.remembered[served.base : served.base + served.room]
            for number in served.numbers.settle(due, named, remembered):
                row = served.base + number
                served.maps.set_backend(row, "flags", 0)
                served.maps.zero_rows("backend_count", row, 1)
                if served.carried is not None:
                    served.carried[number] = 0
            served.aimed = None
        self._age(served)

    def _age(self, served: Served) -> None:
        if not served.unsettled:
            return
        clock, refused = served.maps.clock, int(served.maps.services["refused"][served.row])
        served.store(slots.aged(served.words, clock, served.idle, refused))
        served.take_stock()

    def _release(self, sweep: Sweep) -> None:
        """Give back what services had that are no more, once the flow table has forgotten them."""
        balancer = self._balancer
        for served in list(balancer.ending):
            _, slots_left = balancer.maps.ring(served.row)
            if slots_left or sweep.flows[served.row]:
                continue  # it came while this round was under way
            balancer.ending.remove(served)
            for member in served.members.values():
                if member.hop:
                    balancer.hops.leave(member.hop, time.monotonic())
            balancer.pool.end(served)


def _sweeps(served: Served) -> bool:
    return served.residual or bool(served.numbers.retired or served.numbers.tainted)


def _unsettled(served: Served) -> bool:
    return served.unsettled or _sweeps(served)


def _remembers(served: Served) -> bool:
    return bool(int(served.maps.services["flags"][served.row]) & int(served.maps.service_flags.SERVICE_REMEMBERS))
