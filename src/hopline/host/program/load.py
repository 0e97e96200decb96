"""Programs on devices: attached, replaced, taken off. Devices are of the calling thread's network namespace.

A program is attached by netlink, so that it outlives the command and other tools see it; one with a time to live is
held by a keeper (keep.py). What else sits on a device, and how it is moved, is seat.py's.
"""

import contextlib
import errno
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
    """What unload did; `attached` is false where the program had gone, and only what it left was removed."""

    device: str
    program: str
    id: int
    mode: str
    attached: bool


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
                    _keep(seat, program.name, info, taken, until, staged)
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
) -> None:
    """Put on record what was attached, and its pins in place of those of the program before."""
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
        else:
            pins.remove_all(seat.device)
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

    Refused where another loaded it and it is not named; NotFound where nothing is, or not what is named.
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
        while ifindex and (one := _vacate(device, ifindex, program, id, everything)):
            done.append(one)
            if not everything:
                break
        pinned = _forget(device)
        if not done and not pinned and left is None:
            raise NotFound(f"unload from {device}: no xdp program is attached: see `hopline program show`")
        if not done:
            known = (left.program, left.program_id, left.mode) if left else ("", 0, "")
            done.append(Unloaded(device, *known, attached=False))
        return done


def _vacate(device: str, ifindex: int, program: str | None, id: int | None, everything: bool) -> Unloaded | None:
    with Seat(device, ifindex) as seat:
        if seat.there is None:
            return None
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
