"""What the API asks of the intent as a whole, and of its history."""

from typing import Any

from hopline.daemon.core import Core
from hopline.daemon.possible import placed
from hopline.daemon.protocol import (
    Applied,
    Confirmed,
    HistoryRow,
)
from hopline.daemon.readout import applied
from hopline.errors import Refused
from hopline.intent import Change, Wanted, difference


class IntentCalls(Core):
    """Of all nouns at once."""

    # the intent as a whole

    async def intent(self) -> Wanted:
        """Return a copy of the intent, as of one moment."""
        async with self.changes.lock:
            wanted = self.changes.wanted()
            forwards = await self.changes.in_worker(lambda: dict(wanted.of("forward").items()))
            return Wanted({**wanted.entries, "forward": forwards})

    async def apply(
        self,
        want: Wanted,
        *,
        what: str = "apply",
        merge: bool = False,
        dry_run: bool = False,
        confirm_within: float | None = None,
        revision: int | None = None,
        limit: int = 0,
    ) -> Applied:
        """Make the intent equal to `want`, or with `merge` add and change what it names, all or nothing."""
        async with self.changes.lock:
            if revision not in (None, now := self.store.revision):
                raise Refused(f"{what}: the intent has changed meanwhile (it is {now}, not {revision}): look again")
            have = self.changes.wanted()
            # in the worker, as all that takes a look at each of a million entries
            change = await self.changes.in_worker(lambda: difference(have, want, merge))
            if not dry_run:
                within = confirm_within if change else None
                steps = await self.changes.make(change, what, named=placed(want.entries), confirm_within=within)
                self.changes.await_confirmation()
                warnings = [] if change else self.changes.waiting()
                return await self._applied(change, limit, steps=steps, confirm_within_s=within, warnings=warnings)
            have = Wanted({noun: dict(wanted) for noun, wanted in have.entries.items() if noun != "forward"})
            rehearsed = await self._applied(change, limit, dry_run=True, warnings=self.changes.waiting())
        # others may make changes meanwhile: who only asks holds up nobody
        await self.changes.possible.check(change, placed(want.entries), have)
        return rehearsed

    async def _applied(self, change: Change, limit: int, **more: Any) -> Applied:
        revision = self.store.revision
        return await self.changes.in_worker(lambda: applied(change, revision, limit=limit, **more))

    async def history(self) -> list[HistoryRow]:
        """Return the last changes, the newest first."""
        return self.store.history()

    async def rollback(self, number: int, *, dry_run: bool = False, limit: int = 0) -> Applied:
        """Make the intent what it was after change `number`."""
        async with self.changes.lock:
            change = await self.changes.in_worker(lambda: self.store.back_to(number))
            if dry_run:
                return await self._applied(change, limit, dry_run=True)
            pending = self.store.pending
            settling = pending is not None and number < pending.revision
            steps = await self.changes.make(change, f"rollback to {number}", named=None, settling=settling)
            self.changes.await_confirmation()
            return await self._applied(change, limit, steps=steps)

    async def confirm(self) -> Confirmed:
        """Keep the change that waits for it."""
        async with self.changes.lock:
            if self.store.pending is None:
                raise Refused("confirm: no change waits for it: `hopline history` shows what was done")
            revision = await self.changes.in_worker(self.store.confirm)
            self.changes.await_confirmation()
            return Confirmed(revision)
