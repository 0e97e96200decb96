"""The records of programs that are on a route for a time."""

import time
from collections.abc import Sequence

from hopline.host.program import keep, record
from hopline.host.program.identity import identity_of
from hopline.kernel.netlink.encap import Hook
from hopline.kernel.program import Program

PATIENCE_S = 2.0  # that a keeper may take to begin


def place_of(to: str, hook: str, program_id: int) -> str:
    """What the record of a program on a route is about."""
    return f"route {to} {hook} {program_id}"


def write(to: str, hook: str, program: Program, keeper: record.Keeper, until: float) -> None:
    """Put it on record; the caller has record.locked()."""
    info = program.info()
    record.write(
        record.Record(
            place=place_of(to, hook, program.id),
            hook=hook,
            ifindex=0,
            program=program.name,
            program_id=program.id,
            loaded_ns=info.loaded_ns,
            tag=info.tag,
            keeper=keeper,
            until=until,
        )
    )


def on_record(to: str, hook: Hook) -> record.Record | None:
    """The record of a program on a route; None where it is there for good."""
    identity = identity_of(hook)
    return record.read(place_of(to, hook.kind, identity.id)) if identity else None


def late(kept: record.Record) -> str | None:
    """Why a program does not go at its time; None where all is well."""
    if kept.keeper is None or kept.until is None:
        return None
    if not keep.runs(kept.keeper):
        return "its keeper died"
    return "its time is over" if kept.until + PATIENCE_S < time.time() else None


def keepers(to: str, hooks: Sequence[Hook]) -> list[record.Keeper]:
    """The processes that would take these hooks off later."""
    found = (on_record(to, hook) for hook in hooks)
    return [kept.keeper for kept in found if kept is not None and kept.keeper is not None]


def forget(to: str, hook: Hook) -> None:
    """Drop the record of a program on a route, if there is one."""
    identity = identity_of(hook)
    if identity:
        record.forget(place_of(to, hook.kind, identity.id))
