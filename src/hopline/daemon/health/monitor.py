"""The checks of all services: what the daemon configures, asks and is told by."""

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hopline.config import Service
from hopline.daemon.health.echo import Echo
from hopline.daemon.health.probe import Prober
from hopline.daemon.health.report import OnChange, Pair, Report
from hopline.daemon.health.schedule import Checker, Schedule
from hopline.daemon.health.sockets import open_here
from hopline.daemon.health.targets import Target, targets_of
from hopline.daemon.health.tunnel import Tunnels

SLICE_S = 0.005  # of configuring at a time: the event loop has a lease to keep


@dataclass(frozen=True, slots=True)
class HealthRow:
    """A backend's health: `state` None while not known, the last result in words, since when (seconds since 1970)."""

    state: bool | None
    text: str
    since: float


class Health:
    """Checks backends from `start` to `stop`, and tells `on_change` of states that changed.

    on_change({(service, backend): True | False | None}) is awaited, one call at a time, for what changed within 40 ms;
    None is a state that is not known, also of a backend that is checked no more. HoplineError from it: told again.
    """

    def __init__(self, instance: str, on_change: OnChange) -> None:
        self._echo = Echo()
        self._tunnels = Tunnels(instance)
        self._prober = Prober(self._open, self._echo)
        self._schedule = Schedule(self._prober.probe, self._heard)
        self._report = Report(on_change)
        self._wanted: Mapping[str, Service] = {}
        self._known: dict[Pair, bool | None] = {}
        self._done: dict[str, Service] = {}  # services as their checks are
        self._checkers: dict[Target, Checker] = {}
        self._targets: dict[str, dict[str, Target]] = {}  # service → backend → its check
        self._configured = asyncio.Event()

    async def start(self) -> None:
        """Make what takes rights that the daemon gives up; call it before."""
        self._echo.open()
        await asyncio.to_thread(self._tunnels.open)

    async def run(self) -> None:
        """Check, and tell, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for loop in (self._report.run(), self._follow(), self._tunnels.run()):
                group.create_task(loop)

    async def stop(self) -> None:
        """Make no more checks and take away what they needed."""
        self._schedule.close()
        under_way = [checker.task for checker in self._checkers.values() if checker.task is not None]
        for checker in self._checkers.values():
            checker.stop()
        await asyncio.gather(*under_way, return_exceptions=True)
        self._echo.close()
        await asyncio.to_thread(self._tunnels.close)

    def configure(self, services: Mapping[str, Service], known: Mapping[Pair, bool | None] | None = None) -> None:
        """Have these services checked, and no others; returns at once.

        What is known of a check that stays, stays known; a backend's state stays when its check becomes another one.
        `known` are states to begin with, such as those that the kernel was left with.
        """
        self._wanted = dict(services)
        self._known.update(known or {})
        self._configured.set()

    def refusal(self, service: Service) -> str | None:
        """Why a service's check cannot be made by this daemon, in one line; None where it can."""
        return self._tunnels.problem if service.check_via == "vip" and service.check != "none" else None

    def rows(self, name: str) -> dict[str, HealthRow]:
        """Return the health of each backend of a service; nothing where it is not checked."""
        return {backend: _row(self._checkers[target]) for backend, target in self._targets.get(name, {}).items()}

    def _open(self, target: Target, kind: int) -> socket.socket:
        return open_here(target, kind) if target.tunnel is None else self._tunnels.open_socket(target, kind)

    def _heard(self, checker: Checker, changed: bool) -> None:
        if not changed:
            return
        checker.since = time.time()
        for name in checker.wanted_by:
            self._report.tell((name, checker.target.backend), checker.verdict.state)

    # from services to checks

    async def _follow(self) -> None:
        """Make the checks those of the services that are wanted, a few milliseconds at a time."""
        while True:
            await self._configured.wait()
            self._configured.clear()
            began = time.monotonic()
            for _ in self._changes():
                if time.monotonic() - began > SLICE_S:
                    await asyncio.sleep(0)
                    began = time.monotonic()
            if not self._configured.is_set():
                self._known.clear()
            self._tunnels.want(target for target in self._checkers if target.tunnel is not None)

    def _changes(self) -> Iterator[None]:
        """Do what is to be done, service by service and backend by backend."""
        wanted = self._wanted
        for name in [name for name in self._done if name not in wanted]:
            yield from self._turn(name, iter(()))
            del self._done[name]
        for name, service in wanted.items():
            before = self._done.get(name)
            if before is service:
                continue
            if before != service:
                yield from self._turn(name, targets_of(service))
            self._done[name] = service
            yield

    def _turn(self, name: str, targets: Iterator[tuple[str, Target]]) -> Iterator[None]:
        """Give the backends of a service these checks, and take away those that they had."""
        before = self._targets.pop(name, {})
        after: dict[str, Target] = {}
        self._targets[name] = after
        for backend, target in targets:
            former = before.pop(backend, None)
            after[backend] = former if former == target else self._begin(name, backend, target, former)
            yield
        for backend, target in before.items():
            self._release(name, target)
            self._report.tell((name, backend), None)
            yield
        if not after:
            del self._targets[name]

    def _begin(self, name: str, backend: str, target: Target, former: Target | None) -> Target:
        """Have a backend checked so, in place of `former`; return the target as the check has it."""
        told = self._known.get((name, backend))
        if former is not None:
            told = self._checkers[former].verdict.state
            self._release(name, former)
        checker = self._checkers.get(target)
        if checker is None:
            checker = self._checkers[target] = Checker(target, told)
            self._schedule.add(checker)
        checker.wanted_by.add(name)
        if checker.verdict.state != told:
            self._report.tell((name, backend), checker.verdict.state)
        return checker.target

    def _release(self, name: str, target: Target) -> None:
        checker = self._checkers[target]
        checker.wanted_by.discard(name)
        if not checker.wanted_by:
            checker.stop()
            del self._checkers[target]


def _row(checker: Checker) -> HealthRow:
    text = checker.outcome.text if checker.outcome is not None else "not checked yet"
    return HealthRow(checker.verdict.state, text, checker.since)
