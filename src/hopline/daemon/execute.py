"""Execution: the plan's steps against the kernel, all or, undone, none."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from hopline.config import Decap, Interface, Service
from hopline.daemon.plan import (
    AttachInterface,
    Bump,
    DetachInterface,
    DropDecaps,
    DropEntries,
    DropService,
    OfBalance,
    PutDecaps,
    PutEntries,
    PutService,
    RetireAdjacency,
    Run,
    Running,
    Step,
    WriteAdjacency,
    described,
)
from hopline.errors import HoplineError, StepFailed
from hopline.features.forward import Adjacency

log = logging.getLogger("hopline")


class EntriesWritable(Protocol):
    """What the steps of entries act on."""

    def write_adjacency(self, id: int, adjacency: Adjacency) -> None:
        """Make adjacency `id` hold this."""

    def retire_adjacency(self, id: int) -> None:
        """Take `id` out of use; packets that still hold it are passed to the kernel."""

    def put_entries(self, table: str, entries: Mapping[str, int]) -> None:
        """Point each destination at its adjacency."""

    def drop_entries(self, table: str, destinations: Sequence[str]) -> None:
        """Remove destinations; one that is absent is no error."""

    def bump_generation(self) -> None:
        """Make every cached answer stale."""


@runtime_checkable
class Writable(EntriesWritable, Protocol):
    """What all steps act on."""

    def attach_interface(self, before: Interface | None, after: Interface) -> None:
        """Attach the pipeline to a device, or give it other settings."""

    def detach_interface(self, name: str) -> None:
        """Take the pipeline off a device; where there is none it is no error."""

    def run_with(self, running: Running) -> None:
        """Have every program run with these steps, over rings that are large enough."""

    def put_service(self, service: Service) -> None:
        """Serve as this says, whatever was served under its name."""

    def drop_service(self, name: str) -> None:
        """Stop serving; where nothing is of this name it is no error."""

    def put_decaps(self, decaps: Sequence[Decap]) -> None:
        """Accept what these say."""

    def drop_decaps(self, decaps: Sequence[Decap]) -> None:
        """Accept it no more; one that is absent is no error."""


def run(step: Step, kernel: EntriesWritable) -> None:
    """Carry out one step."""
    match step:
        case WriteAdjacency(id, _, after):
            kernel.write_adjacency(id, after)
        case PutEntries(table, after, _):
            kernel.put_entries(table, after)
        case DropEntries(table, before):
            kernel.drop_entries(table, list(before))
        case RetireAdjacency(id, _):
            kernel.retire_adjacency(id)
        case Bump():
            kernel.bump_generation()
        case AttachInterface(before, after):
            _whole(kernel).attach_interface(before, after)
        case DetachInterface(interface):
            _whole(kernel).detach_interface(interface.name)
        case Run() | PutService() | DropService() | PutDecaps() | DropDecaps():
            _run_balance(step, _whole(kernel))


def _run_balance(step: OfBalance, kernel: Writable) -> None:
    match step:
        case Run(_, after):
            kernel.run_with(after)
        case PutService(_, service):
            kernel.put_service(service)
        case DropService(service):
            kernel.drop_service(service.name)
        case PutDecaps(_, decaps):
            kernel.put_decaps(decaps)
        case DropDecaps(decaps):
            kernel.drop_decaps(decaps)


def undo(step: Step, kernel: EntriesWritable) -> None:
    """Put back what a step changed, also when it was only half done."""
    match step:
        case WriteAdjacency(id, None, _):
            kernel.retire_adjacency(id)
        case WriteAdjacency(id, Adjacency() as before, _) | RetireAdjacency(id, before):
            kernel.write_adjacency(id, before)
        case PutEntries(table, after, before):
            kernel.put_entries(table, before)
            kernel.drop_entries(table, [to for to in after if to not in before])
        case DropEntries(table, before):
            kernel.put_entries(table, before)
        case Bump():
            kernel.bump_generation()
        case AttachInterface(None, interface):
            _whole(kernel).detach_interface(interface.name)
        case AttachInterface(Interface() as before, after):
            _whole(kernel).attach_interface(after, before)
        case DetachInterface(interface):
            _whole(kernel).attach_interface(None, interface)
        case Run() | PutService() | DropService() | PutDecaps() | DropDecaps():
            _undo_balance(step, _whole(kernel))


def _undo_balance(step: OfBalance, kernel: Writable) -> None:
    match step:
        case Run(before, _):
            kernel.run_with(before)
        case PutService(None, service):
            kernel.drop_service(service.name)
        case PutService(Service() as before, _) | DropService(before):
            kernel.put_service(before)
        case PutDecaps(before, after):
            there = {decap.key for decap in before}
            kernel.drop_decaps([decap for decap in after if decap.key not in there])
            kernel.put_decaps(before)
        case DropDecaps(decaps):
            kernel.put_decaps(decaps)


def _whole(kernel: EntriesWritable) -> Writable:
    assert isinstance(kernel, Writable), "a plan with interfaces needs a kernel that has them"
    return kernel


def execute(
    steps: Sequence[Step],
    kernel: EntriesWritable,
    make_durable: Callable[[], None] = lambda: None,
    retract: Callable[[], None] = lambda: None,
) -> None:
    """Make the change durable, then run all steps in order.

    The store comes first: what it refuses has touched no packet. Where a step fails, what was done is undone, last
    first, the store's part by `retract`, and the failure is raised: a HoplineError of one step among several as
    StepFailed, which says which. A program that cannot be taken off its device, the last of all, is left to the repair
    of drift.
    """
    detaching = next((i for i, step in enumerate(steps) if isinstance(step, DetachInterface)), len(steps))
    make_durable()
    for number, step in enumerate(steps[:detaching], 1):
        try:
            run(step, kernel)
        except BaseException as error:
            revert(steps[:number], kernel)
            try:
                retract()
            except HoplineError as stuck:
                log.error("undo: take the change out of the store: %s: the next start carries it out", stuck)
            if isinstance(error, HoplineError) and len(steps) > 1:
                raise StepFailed(f"step {number} of {len(steps)}, {described(step)}", error) from error
            raise
    for last in steps[detaching:]:
        try:
            run(last, kernel)
        except HoplineError as error:
            log.error("%s: %s: it is tried again", described(last), error)


def revert(steps: Sequence[Step], kernel: EntriesWritable) -> None:
    """Undo steps that have run, last first; what cannot be undone is logged and the rest goes on."""
    for step in reversed(steps):
        try:
            undo(step, kernel)
        except HoplineError as error:
            log.error("undo: %s: %s", described(step), error)
    kernel.bump_generation()
