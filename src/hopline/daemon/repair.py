"""Drift: what somebody else changed of the kernel's state is found by comparing it with the intent, and put right."""

import asyncio
import logging

from hopline.daemon.balance.balance import Balance
from hopline.daemon.changes import Changes
from hopline.daemon.meters import Meters
from hopline.daemon.operator import OperatorTables
from hopline.daemon.surroundings import Surroundings
from hopline.errors import HoplineError

log = logging.getLogger("hopline")

SETTLE_S = 1.0  # after an event, others are waited for


class Repair:
    """Compares every so often and after events. What is found is repaired, logged and counted."""

    def __init__(
        self,
        changes: Changes,
        tables: OperatorTables,
        surroundings: Surroundings,
        balance: Balance,
        meters: Meters,
        every_s: float,
    ) -> None:
        self._changes = changes
        self._tables = tables
        self._surroundings = surroundings
        self._balance = balance
        self._meters = meters
        self._every_s = every_s
        self._suspected = asyncio.Event()

    def suspect(self) -> None:
        """Something happened that may have changed more than was said: compare soon."""
        self._suspected.set()

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._suspected.wait(), self._every_s)
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass
            self._suspected.clear()
            async with self._changes.lock:
                try:
                    await self.compare()
                except HoplineError as error:
                    log.warning("compare intent and kernel: %s: it is tried again", error)

    async def compare(self) -> None:
        """Compare everything once, with changes locked out."""
        self._count("local addresses", int(self._surroundings.repair_local()))
        self._count("devices", self._surroundings.repair_devices())
        self._count("adjacencies", await self._changes.in_worker(self._tables.repair_adjacencies))
        self._count("entries", await self._changes.in_worker(self._tables.repair_entries))
        for what, number in (await self._changes.in_worker(self._balance.repair)).items():
            self._count(what, number)
        self._meters.comparisons += 1

    def _count(self, what: str, number: int) -> None:
        if number:
            log.warning("drift: %d %s were not as they should be: put right", number, what)
            self._meters.repairs[what] += number
