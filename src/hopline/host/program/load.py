"""Programs on devices: attached, replaced, taken off. Devices are of the calling thread's network namespace.

A program is attached by netlink, so that it outlives the command and other tools see it; one with a time to live is
held by a keeper (keep.py). What else sits on a device, and how it is moved, is seat.py's.
"""

import contextlib
import errno
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from hopline.errors import InvalidInput, KernelError, NotFound, Refused, VerifierRefusal
from hopline.host.program import keep, objects, pins, record
from hopline.host.program.follow import follow
from hopline.host.program.record import XDP_HOOK, Record
from hopline.host.program.reuse import reusable
from hopline.host.program.seat import Seat, Taken
from hopline.host.program.signals import uninterrupted
from hopline.kernel.attach import MODES, Mode, mode_of
from hopline.kernel.netlink import query
from hopline.kernel.object import BpfObject
from hopline.kernel.program import XDP, Program, ProgramInfo


@dataclass(frozen=True, slots=True)
class UsedMap:
    """A map that a loaded program uses; `reused`: it was there before, with what it holds."""

    name: str
    id: int
    reused: bool


@dataclass(frozen=True, slots=True)
class Replaced:
    """What was on the device before."""

    program: str
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What load did. `until` in seconds of the epoch; `notes` are sentences on what is worth knowing."""

    device: str
    ifindex: int
    mode: str
    program: str
    id: int
    tag: str
    maps: list[UsedMap]
    pins: list[str]
    replaced: Replaced | None
    until: float | None
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What unload did; `attached` is false where the program had gone, and only what it left was removed.

    `notes` are sentences on what is worth knowing.
    """

    device: str
    program: str
    id: int
    mode: str
    attached: bool
    notes: list[str] = field(default_factory=list)


def load(
    device: str,
    file: str | Path,
    *,
    program: str | None = None,
    section: str | None = None,
    mode: Mode = "auto",
    pin: bool = False,
    variables: Sequence[str] = (),
    reuse_maps: bool = False,
    replace: bool = False,
    seconds: float | None = None,
) -> Loaded:
    """Attach a program of an object file to a device; with `seconds` it is detached then.

    Refused where another program is there, unless `replace`. Whatever is wrong, nothing is attached and nothing pinned.
    """
    if mode not in MODES:
        raise InvalidInput("mode", f"{mode} is none", f"give one of {', '.join(MODES)}")
    if pin and seconds is not None:
        raise InvalidInput("pin", "a pinned program would outlive its time", "leave --pin or --for out")
    link = query.link(device)
    with record.locked(), ExitStack() as stack:
        pins.sweep()
        follow()
        seat = stack.enter_context(Seat(device, link.index))
        seat.refuse(replace, seconds is not None)
        found = reusable(device, seat.program) if reuse_maps else {}
        for existing in found.values():
            stack.enter_context(existing)
        opened = objects.opened(
            file,
            XDP,
            program=program,
            section=section,
            variables=variables,
            reuse=found,
            device=link.index if mode == "offload" else 0,
        )
        try:
            made, ready = stack.enter_context(opened)
        except KernelError as error:
            verified = isinstance(error, VerifierRefusal)
            if mode == "offload" and not verified and error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                why = "the device cannot run programs itself"
                raise Refused(f"load on {device}: {why}: use --mode native or generic") from error
            raise
        shared = {one.id for one in found.values()} if reuse_maps else None
        return _attach(seat, made, ready, mode, pin, seconds, shared)


def _attach(
    seat: Seat,
    made: BpfObject,
    program: Program,
    mode: Mode,
    pin: bool,
    seconds: float | None,
    shared: set[int] | None,
) -> Loaded:
    """Attach, pin and record; `shared` are the ids of maps that might be taken over, None where none was to be."""
    info = program.info()
    with ExitStack() as stack:
        maps = [(name, stack.enter_context(made.map(name))) for name in made.maps()]
        maps = [(name, one) for name, one in maps if one.id in info.map_ids]
        until = None if seconds is None else time.time() + seconds
        with uninterrupted():
            staged = pins.Staged(seat.device, program, maps) if pin else None
            try:
                taken = seat.take(program, mode, seconds)
                try:
                    lost = _keep(seat, program.name, info, taken, until, staged)
                except BaseException:
                    taken.undo()
                    raise
            except BaseException:
                if staged:
                    staged.discard()
                raise
            taken.settle()
    before = seat.there
    used = [UsedMap(name, one.id, one.id in (shared or ())) for name, one in maps]
    fresh = [one.name for one in used if not one.reused] if shared is not None else []
    notes = [f"no map {name} was there to be reused: it begins empty" for name in fresh]
    if lost:
        notes.append("the pins of the program before were removed: load with --pin to have new ones")
    return Loaded(
        device=seat.device,
        ifindex=seat.ifindex,
        mode=taken.mode,
        program=program.name,
        id=info.id,
        tag=info.tag,
        maps=used,
        pins=staged.paths if staged else [],
        replaced=Replaced(seat.name, before.program_id) if before else None,
        until=until,
        notes=taken.notes + notes,
    )


def _keep(
    seat: Seat, name: str, info: ProgramInfo, taken: Taken, until: float | None, staged: pins.Staged | None
) -> bool:
    """Put on record what was attached, and its pins in place of those of the program before.

    Whether there were such, and none came in their place.
    """
    made = Record(
        place=seat.device,
        hook=XDP_HOOK,
        ifindex=seat.ifindex,
        program=name,
        program_id=info.id,
        loaded_ns=info.loaded_ns,
        tag=info.tag,
        mode=taken.mode,
        pins=staged.paths if staged else [],
        keeper=taken.keeper,
        until=until,
    )
    before = record.at(seat.device)
    record.write(made)
    try:
        if staged:
            staged.settle()
            return False
        return pins.remove_all(seat.device)
    except BaseException:
        if before:
            record.write(before)
        else:
            record.forget(seat.device)
        raise


def unload(
    device: str, *, program: str | None = None, id: int | None = None, everything: bool = False
) -> list[Unloaded]:
    """Detach what we loaded on a device, or the program of that name or id, or all; its pins and its record go too.

    Refused where another loaded it and it is not named; NotFound where nothing is, or not what is named. What ours
    left that is not attached any more is removed, whoever's is there now.
    """
    with record.locked():
        follow()
        left = record.at(device)
        try:
            ifindex = query.link(device).index
        except NotFound:
            if left is None and pins.of_device(device) is None:
                raise
            ifindex = 0
        done: list[Unloaded] = []
        try:
            while ifindex and (one := _vacate(device, ifindex, program, id, everything)):
                done.append(one)
                if not everything or not one.attached:
                    break
        except BaseException:
            # of several, those before have gone
            if left is not None and left.program_id in [one.id for one in done]:
                _forget(device)
            raise
        if not done:
            _refuse_unmeant(device, left, program, id)
        pinned = _forget(device)
        if not done and not pinned and left is None:
            raise NotFound(f"unload from {device}: no xdp program is attached: see `hopline program show`")
        return done or [_leftover(device, left)]


def _leftover(device: str, left: Record | None, *notes: str) -> Unloaded:
    known = (left.program, left.program_id, left.mode) if left else ("", 0, "")
    return Unloaded(device, *known, attached=False, notes=list(notes))


def _refuse_unmeant(device: str, left: Record | None, program: str | None, id: int | None) -> None:
    """NotFound where nothing is attached, and what is left is not of the program that was named."""
    known = left is not None and program in (None, left.program) and id in (None, left.program_id)
    if known or (program, id) == (None, None):
        return
    what = f"of {left.program} (id {left.program_id}) " if left else ""
    is_left = f": what is left {what}goes without a name" if left or pins.of_device(device) else ""
    raise NotFound(f"unload from {device}: {program or f'program id {id}'} is not attached{is_left}")


def _vacate(device: str, ifindex: int, program: str | None, id: int | None, everything: bool) -> Unloaded | None:
    with Seat(device, ifindex) as seat:
        if seat.there is None:
            return None
        left = record.at(device)
        named = everything or program or id
        if seat.record is None and not named and (left or pins.of_device(device)):
            theirs = f"another's program ({seat.known_as}) is attached to {device} and stays"
            return _leftover(device, left, theirs)
        with uninterrupted():
            seat.vacate(program, id, everything)
        return Unloaded(device, seat.name, seat.there.program_id, mode_of(seat.there), True)


def _forget(place: str) -> bool:
    """Remove the record and the pins of a device, also one that has gone, and its keeper; whether there were pins."""
    found = record.at(place)
    if found and found.keeper:
        keep.end(found.keeper)
    record.forget(place)
    return pins.remove_all(place)


def clear() -> None:
    """Take everything of ours out of the calling thread's namespace: programs, pins, records, keepers."""
    from hopline.host.program import routes

    for one in routes.attached():
        if one.ours and one.id is not None:
            routes.release(one.route, one.hook, one.id)
    for found in record.records():
        if found.hook == XDP_HOOK:
            # who put another program in its place keeps that
            with contextlib.suppress(NotFound, Refused):
                unload(found.place, id=found.program_id)
            _forget(found.place)
        elif found.keeper:
            keep.end(found.keeper)
            record.forget(found.place)
    pins.remove_namespace()
