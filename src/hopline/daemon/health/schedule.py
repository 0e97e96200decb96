"""When each check is made: first at a random moment of its interval, then an interval later, more or less."""

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable

from hopline.daemon.health.outcome import Outcome, unknown
from hopline.daemon.health.targets import Target
from hopline.daemon.health.verdict import Verdict

log = logging.getLogger("hopline")

JITTER = 0.1  # of the interval, either way: checks that began together drift apart
AT_ONCE = 16  # are begun before others have their turn: each takes the event loop 0.1 ms

Probe = Callable[[Target], Awaitable[Outcome]]
Heard = Callable[["Checker", bool], None]


class Checker:
    """One check that is made again and again, its last result, and who wants to know."""

    def __init__(self, target: Target, state: bool | None) -> None:
        self.target = target
        self.verdict = Verdict(target.request.rise, target.request.fall, state)
        self.outcome: Outcome | None = None
        self.since = time.time()  # of its state
        self.wanted_by: set[str] = set()  # services
        self.task: asyncio.Task[None] | None = None
        self.stopped = False

    def stop(self) -> None:
        """Make it no more; one under way is given up."""
        self.stopped = True
        if self.task is not None:
            self.task.cancel()


class Schedule:
    """Begins checks when they are due."""

    def __init__(self, probe: Probe, heard: Heard) -> None:
        """`heard(checker, changed)` is called after each result."""
        self._probe = probe
        self._heard = heard
        self._due: list[tuple[float, int, Checker]] = []
        self._order = itertools.count()  # of those due at one moment
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def add(self, checker: Checker) -> None:
        """Make a check from now on, for the first time within its interval."""
        now = asyncio.get_running_loop().time()
        self._put(now + random.random() * checker.target.request.interval, checker)

    def close(self) -> None:
        """Begin no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for _, _, checker in self._due:
            checker.stop()

    def _put(self, when: float, checker: Checker) -> None:
        heapq.heappush(self._due, (when, next(self._order), checker))
        if self._timer is None or when < self._timer.when():
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._due[0][0], self._begin)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        begun = 0
        while self._due and begun < AT_ONCE and not self._closed:
            when, _, checker = self._due[0]
            if when > loop.time() and not checker.stopped:
                break
            heapq.heappop(self._due)
            if not checker.stopped:
                checker.task = loop.create_task(self._make(checker))
                begun += 1
        if self._due and not self._closed:
            self._set_timer()  # at once, with others' turn before, where more are due

    async def _make(self, checker: Checker) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            outcome = await self._probe(checker.target)
        except Exception:
            # the others go on, and so does this one
            log.exception("a fault of hopline's own")
            outcome = unknown("a fault of hopline's own: see its log")
        checker.task = None
        if checker.stopped or self._closed:
            return
        checker.outcome = outcome
        self._heard(checker, checker.verdict.take(outcome))
        interval = checker.target.request.interval
        # one that took long is followed at once, never by two
        self._put(max(began + interval * random.uniform(1 - JITTER, 1 + JITTER), loop.time()), checker)
