"""What is done every so often while a daemon runs: the lease, neighbours, programs taken away, old adjacencies."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from hopline.daemon.balance.balance import Balance
from hopline.daemon.changes import Changes
from hopline.daemon.datapath import LEASE_S, Datapath
from hopline.daemon.interfaces import Interfaces
from hopline.daemon.learned import LearnedTable
from hopline.daemon.meters import Meters
from hopline.daemon.operator import OperatorTables
from hopline.daemon.surroundings import Surroundings
from hopline.errors import HoplineError

log = logging.getLogger("hopline")

LEASE_EVERY_S = 0.25
KEEP_ALIVE_EVERY_S = 2.5
HOUSEKEEPING_EVERY_S = 10.0


class Upkeep:
    """The loops that keep one instance's datapath fresh."""

    def __init__(
        self,
        changes: Changes,
        datapath: Datapath,
        tables: OperatorTables,
        learned: LearnedTable,
        interfaces: Interfaces,
        surroundings: Surroundings,
        balance: Balance,
        meters: Meters,
    ) -> None:
        self._changes = changes
        self._datapath = datapath
        self._tables = tables
        self._learned = learned
        self._interfaces = interfaces
        self._surroundings = surroundings
        self._balance = balance
        self._meters = meters

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is to run until the daemon ends."""
        return [self._lease(), self._keep_alive(), self._housekeeping(), self._pass_time(), self._balance.follow()]

    async def _lease(self) -> None:
        # in the event loop on purpose: a loop that hangs follows no events, and must not vouch either
        last = time.monotonic()
        while True:
            if self._surroundings.following:
                self._datapath.extend_lease()
            self._balance.tick()
            now = time.monotonic()
            if now - last > LEASE_S:
                log.warning("busy for %.1f s: the lease ran out and what was learned went to the kernel", now - last)
            last = now
            await asyncio.sleep(LEASE_EVERY_S)

    async def _pass_time(self) -> None:
        while True:
            await asyncio.sleep(LEASE_EVERY_S)
            try:
                await self._balance.pass_time()
            except HoplineError as error:
                log.warning("%s", error)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_EVERY_S)
            try:
                # in a thread: thousands of neighbours take a second
                await asyncio.to_thread(self._surroundings.keep_alive, self._learned.neighbours_in_use())
            except HoplineError as error:
                log.warning("keep neighbours alive: %s", error)
            try:
                await self._mend()
            except HoplineError as error:
                log.warning("%s", error)

    async def _mend(self) -> None:
        """Attach again what somebody detached, detach what is not wanted, free the ids that changes have left.

        If a change is under way, the next time.
        """
        if self._changes.lock.locked():
            return
        async with self._changes.lock:
            self._tables.free_retired()
            for link in self._surroundings.missing_programs():
                if await self._interfaces.attach_returned(link):
                    self._meters.repairs["programs"] += 1
            if unwanted := self._surroundings.detach_unwanted():
                self._meters.repairs["programs"] += unwanted

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)
            async with self._changes.lock:
                self._learned.reclaim()
                self._surroundings.know_the_rest()
