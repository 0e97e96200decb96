"""A change's way through the daemon: what differs → is it possible here → plan → execute → durable, or all undone.

One change at a time, each recorded in the history with who asked for it. A change may be made to wait for a
confirmation; until it comes, or the time is over and the change is taken back, no other is made.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any, TypeVar

from hopline.config import Decap, Interface, NextHop, Service
from hopline.daemon.asker import asker
from hopline.daemon.balance.balance import Balance
from hopline.daemon.datapath import Datapath
from hopline.daemon.execute import execute
from hopline.daemon.interfaces import InterfaceDraft, Interfaces
from hopline.daemon.meters import Meters
from hopline.daemon.operator import OperatorTables
from hopline.daemon.plan import Running, plan
from hopline.daemon.possible import Named, Possible, plainly
from hopline.daemon.surroundings import Surroundings
from hopline.errors import HoplineError, Refused
from hopline.features.forward import Adjacency
from hopline.intent import Change, Wanted
from hopline.store.embedded import Pending, Store

log = logging.getLogger("hopline")

RETRY_S = 5.0  # of taking back what nobody confirmed

T = TypeVar("T")


class Kernel:
    """All that steps act on: entries in the maps, and interfaces."""

    def __init__(self, datapath: Datapath, interfaces: Interfaces, balance: Balance) -> None:
        self._datapath = datapath
        self._interfaces = interfaces
        self._balance = balance

    def write_adjacency(self, id: int, adjacency: Adjacency) -> None:
        """Make adjacency `id` hold this."""
        self._datapath.write_adjacency(id, adjacency)

    def retire_adjacency(self, id: int) -> None:
        """Take `id` out of use."""
        self._datapath.retire_adjacency(id)

    def put_entries(self, table: str, entries: Mapping[str, int]) -> None:
        """Point each destination at its adjacency."""
        self._datapath.put_entries(table, entries)

    def drop_entries(self, table: str, destinations: Sequence[str]) -> None:
        """Remove destinations."""
        self._datapath.drop_entries(table, destinations)

    def bump_generation(self) -> None:
        """Make every cached answer stale."""
        self._datapath.bump_generation()

    def attach_interface(self, before: Interface | None, after: Interface) -> None:
        """Attach the pipeline to a device, or give it other settings."""
        self._interfaces.attach_interface(before, after)

    def detach_interface(self, name: str) -> None:
        """Take the pipeline off a device."""
        self._interfaces.detach_interface(name)

    def run_with(self, running: Running) -> None:
        """Have every program run with these steps."""
        self._balance.run_with(running)

    def put_service(self, service: Service) -> None:
        """Serve as this says."""
        self._balance.balancer.put(service)

    def drop_service(self, name: str) -> None:
        """Stop serving."""
        self._balance.balancer.remove(name)

    def put_decaps(self, decaps: Sequence[Decap]) -> None:
        """Accept what these say."""
        self._balance.decaps.put(decaps)

    def drop_decaps(self, decaps: Sequence[Decap]) -> None:
        """Accept it no more."""
        self._balance.decaps.drop(decaps)


class Changes:
    """Makes changes of the intent. `lock` is held for as long as one is under way."""

    def __init__(
        self,
        store: Store,
        datapath: Datapath,
        tables: OperatorTables,
        interfaces: Interfaces,
        surroundings: Surroundings,
        balance: Balance,
        meters: Meters,
    ) -> None:
        self.lock = asyncio.Lock()
        self.store = store
        self.tables = tables
        self.interfaces = interfaces
        self.surroundings = surroundings
        self.balance = balance
        self.meters = meters
        self.possible = Possible(surroundings, balance, tables.hops.most)
        self._kernel = Kernel(datapath, interfaces, balance)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hopline-change")
        self._waiting: asyncio.Task[None] | None = None  # for a confirmation

    async def in_worker(self, work: Callable[[], T]) -> T:
        """Do something in the one thread that changes entries, so that the event loop is free for the lease."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def close(self) -> None:
        """Wait for the change under way."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._worker.shutdown()

    def wanted(self) -> Wanted:
        """Return the intent as it is; a view, good for as long as the lock is held."""
        return Wanted(
            {
                "interface": dict(self.interfaces.wanted),
                "forward": self.tables.wanted(),
                "service": dict(self.balance.wanted),
                "decap": dict(self.balance.decaps.wanted),
            }
        )

    async def make(
        self,
        change: Change,
        what: str,
        *,
        named: Named | None = plainly,
        confirm_within: float | None = None,
        settling: bool = False,
        taking_over: Collection[str] = (),
        anew: Collection[str] = (),
    ) -> int:
        """Make a change, all or nothing; return how many steps it took. Call it with the lock held.

        `named` says what the fields of something impossible are called; None makes the change even where a device is
        missing, as when an earlier intent comes back. `settling`: it takes back the change that waits.
        """
        if not settling:
            self._refuse_while_waiting()
        if not (change or anew or settling):
            return 0
        if named is not None:
            reach = await self.possible.check(change, named, self.wanted())
        else:
            reach = await self.possible.reaching(list(set(change.of("forward").after.values())))
        # a client may go, and the daemon may be told to end: what was begun is brought to its end first
        draft = self.interfaces.draft(change.of("interface"), taking_over, anew)
        return await _to_the_end(self._carry_out(change, what, draft, reach, confirm_within, settling))

    async def _carry_out(
        self,
        change: Change,
        what: str,
        draft: InterfaceDraft,
        reach: Mapping[str, str],
        confirm_within: float | None,
        settling: bool,
    ) -> int:
        confirm_by = None if confirm_within is None else time.time() + confirm_within
        by, pending = asker.get(), self.store.pending

        def durable() -> None:
            if change or settling:
                with self.meters.durable.running():
                    self.store.write(change, by=by, what=what, confirm_by=confirm_by, settles_pending=settling)

        def retract() -> None:
            if change:
                self.store.retract(pending)

        try:
            steps, followed = await self.in_worker(lambda: self._make(change, draft, reach, durable, retract))
        except BaseException:
            draft.abandon()
            self.meters.changes["refused"] += 1
            raise
        draft.commit()
        self.meters.changes["done"] += 1
        await self._follow(draft, followed)
        return steps

    def _make(
        self,
        change: Change,
        interfaces: InterfaceDraft,
        reach: Mapping[str, str],
        durable: Callable[[], None],
        retract: Callable[[], None],
    ) -> tuple[int, list[NextHop]]:
        """Plan and execute in the worker; return the number of steps, and the new next hops that are followed."""
        with self.meters.plan.running():
            forwards = self.tables.draft(change.of("forward"), reach)
        try:
            with self.meters.plan.running():
                have, want = forwards.have.beside(interfaces.have), forwards.want.beside(interfaces.want)
                balanced = self.balance.draft(change.of("service"), change.of("decap"))
                have, want = have.beside(balanced.have), want.beside(balanced.want)
                steps = plan(have, want, self.tables.room())
            with self.meters.execute.running(), self.balance.balancer.keeping():
                execute(steps, self._kernel, durable, retract)
        except BaseException:
            forwards.abandon()
            raise
        forwards.commit(steps)
        self.balance.commit(change.of("service"))
        return len(steps), [hop for hop in set(change.of("forward").after.values()) if hop.via]

    async def _follow(self, draft: InterfaceDraft, hops: list[NextHop]) -> None:
        """Catch up with the host: events may have been followed while nobody knew of what is new."""
        if hops:
            self.surroundings.facts.reach |= await self.possible.reaching(hops)
            self.tables.refresh(hops)
            self.surroundings.resolve(hops)
        self.balance.changed()
        if draft.want.interfaces or draft.have.interfaces:
            try:
                await self.surroundings.read_policy()
            except HoplineError as error:
                log.warning("read policy: %s", error)  # it is read again every few seconds

    # changes that wait for a confirmation

    def _refuse_while_waiting(self) -> None:
        for waiting in self.waiting():
            raise Refused(waiting)

    def waiting(self) -> list[str]:
        """Return what there is to say of a change that waits to be confirmed; [] where none does."""
        pending = self.store.pending
        if pending is None:
            return []
        return [
            f"change {pending.revision} waits to be confirmed for another {self.left(pending):.0f} s: "
            f"`hopline confirm` keeps it, `hopline rollback {pending.revision - 1}` takes it back"
        ]

    def left(self, pending: Pending) -> float:
        """Return the seconds until a change is taken back; never more than it was given, whatever the clock says."""
        made = next((row.when for row in self.store.history() if row.number == pending.revision), pending.confirm_by)
        given = pending.confirm_by - made
        return min(max(0.0, pending.confirm_by - time.time()), given)

    def await_confirmation(self) -> None:
        """Take back the change that waits when its time is over; called after it was made, and at the start."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self.store.pending is not None:
            # not in the context of the request that it ends for: nobody asks for it then
            self._waiting = asyncio.create_task(self._take_back(), context=Context())

    async def _take_back(self) -> None:
        pending = self.store.pending
        assert pending is not None
        # asleep by the monotonic clock: somebody who sets the other one neither hastens nor delays it
        await asyncio.sleep(self.left(pending))
        while True:
            async with self.lock:
                if self.store.pending != pending:
                    return
                # a program that somebody else has put on a device meanwhile must not hold up the rest
                self.interfaces.patient = True
                try:
                    change = await self.in_worker(lambda: self.store.back_to(pending.revision - 1))
                    what = f"rollback to {pending.revision - 1}: not confirmed in time"
                    await self.make(change, what, named=None, settling=True)
                    log.warning("change %d was not confirmed in time: it is taken back", pending.revision)
                    return
                except HoplineError as error:
                    log.error("take back change %d: %s: it is tried again", pending.revision, error)
                except Exception:
                    log.exception("take back change %d: a fault of hopline's own: it is tried again", pending.revision)
                finally:
                    self.interfaces.patient = False
            await asyncio.sleep(RETRY_S)


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await something that is carried out even where who waits for it is cancelled; that is passed on afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
