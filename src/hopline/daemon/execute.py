"""Execution: the plan's steps against the kernel, all or, undone, none."""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from hopline.daemon.plan import Bump, DropEntries, PutEntries, RetireAdjacency, Step, WriteAdjacency
from hopline.errors import HoplineError
from hopline.features.forward import Adjacency

log = logging.getLogger("hopline")


class Writable(Protocol):
    """What the steps act on."""

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


def run(step: Step, kernel: Writable) -> None:
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


def undo(step: Step, kernel: Writable) -> None:
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


def execute(steps: Sequence[Step], kernel: Writable) -> None:
    """Run all steps in order. On failure those done are undone, last first, and the failure is raised."""
    for done, step in enumerate(steps):
        try:
            run(step, kernel)
        except BaseException:
            revert(steps[: done + 1], kernel)
            raise


def revert(steps: Sequence[Step], kernel: Writable) -> None:
    """Undo steps that have run, last first; what cannot be undone is logged and the rest goes on."""
    for step in reversed(steps):
        try:
            undo(step, kernel)
        except HoplineError as error:
            log.error("undo %s: %s", type(step).__name__, error)
    kernel.bump_generation()
