"""What sits on a device's XDP hook, and how a program takes its place.

nothing             attached by netlink, or for a time by a link that a keeper holds
one by netlink      replaced in one step, in its mode; in another mode there is a moment without
one by a link       replaced by an update of that link, which stays its owner's
one of our keeper   replaced by an update of its link where the next has a time too, else with a moment without
Hopline's instance  never moved: `hopline interface` does that
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import msgspec

from hopline.errors import NotFound, Refused
from hopline.host.program import keep, record
from hopline.host.program.record import XDP_HOOK, Keeper, Record
from hopline.kernel import attach, bpffs
from hopline.kernel.attach import Mode, mode_of
from hopline.kernel.link import Attached, XdpLink, links_of, pinned_by, query
from hopline.kernel.loaded import NAME_SIZE, whole_name
from hopline.kernel.program import Program


@dataclass(slots=True)
class Taken:
    """How a program came to its place: `undo` puts things back, `settle` ends what is not needed any more."""

    mode: Mode
    keeper: Keeper | None = None
    notes: list[str] = field(default_factory=list)
    undo: Callable[[], object] = lambda: None
    settle: Callable[[], object] = lambda: None


class Seat:
    """The hook of one device as it is now. `there` is what is attached, `program` the same, open; None for nothing.

    `record` is what we have on record of it; None where another loaded it.
    """

    def __init__(self, device: str, ifindex: int) -> None:
        self.device, self.ifindex = device, ifindex
        self.there: Attached | None = query(ifindex)
        self.program: Program | None = None
        self.record: Record | None = None
        if self.there is not None:
            self.program = Program.from_id(self.there.program_id)
            self.record = on_record(self.there, ifindex)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.program is not None:
            self.program.close()

    @property
    def name(self) -> str:
        """The program's name, whole where it is known."""
        assert self.program is not None
        return self.record.program if self.record else whole_name(self.program)

    @property
    def known_as(self) -> str:
        """The program's id, and its name, whole where it is known."""
        assert self.there is not None
        return f"id {self.there.program_id}, {self.name}"

    def refuse(self, replace: bool, timed: bool) -> None:
        """Refused where a program may not be loaded here."""
        if self.there is None:
            return
        doing = f"load on {self.device}"
        self._refuse_instance(doing)
        if not replace:
            raise Refused(f"{doing}: another program ({self.known_as}) is attached: unload it or use --replace")
        if timed and not (self.record and self.record.keeper):
            why = "what replaces it for a time could not give it back"
            raise Refused(f"{doing}: another program ({self.known_as}) is attached, and {why}: unload it first")

    def _refuse_instance(self, doing: str) -> None:
        assert self.there is not None
        instance = pinned_by(bpffs.root() / "hopline", self.there.program_id)
        if instance is not None:
            undo = f"`hopline interface del {self.device} --instance {instance}`"
            raise Refused(f"{doing}: instance {instance} serves it (program id {self.there.program_id}): {undo} first")

    def take(self, program: Program, mode: Mode, seconds: float | None) -> Taken:
        """Put a program here, and say how; KernelError or Refused, and what was here is here still."""
        if self.there is None:
            return self._hold(program, mode, seconds) if seconds else self._attach(program, mode)
        present = mode_of(self.there)
        if seconds:
            return self._hold_instead(program, mode, present, seconds)
        if self.record and self.record.keeper:
            return self._attach_instead(program, mode)
        if mode in ("auto", present):
            return self._swap(program, present)
        return self._attach_instead(program, mode)

    def _attach(self, program: Program, mode: Mode) -> Taken:
        used = attach.attach(program, self.ifindex, mode)
        return Taken(used, undo=lambda: attach.detach(self.ifindex, program, used))

    def _hold(self, program: Program, mode: Mode, seconds: float) -> Taken:
        if mode == "offload":
            raise Refused(f"load on {self.device}: an offloaded program cannot be had for a time: leave --for out")
        with XdpLink.attach(program, self.ifindex, mode) as link:
            keeper = keep.start_link(link, self.device, seconds)
            used: Mode = "generic" if link.mode == "generic" else "native"
            return Taken(used, keeper, undo=lambda: keep.end(keeper))

    def _hold_instead(self, program: Program, mode: Mode, present: Mode, seconds: float) -> Taken:
        assert self.program is not None
        assert self.record is not None
        if mode not in ("auto", present):
            raise Refused(f"load on {self.device}: a program is there in {present} mode for a time: unload it first")
        old, before = self.program, self.record.keeper
        link = self._link("replace")
        try:
            link.update(program)
            keeper = keep.start_link(link, self.device, seconds)
        except BaseException:
            with link:
                link.update(old)
            raise

        def undo() -> None:
            with link:
                link.update(old)
            keep.end(keeper)

        def settle() -> None:
            link.close()
            if before:
                keep.end(before)

        return Taken(present, keeper, undo=undo, settle=settle)

    def _swap(self, program: Program, present: Mode) -> Taken:
        assert self.program is not None
        old = self.program
        if attach.replace(program, self.ifindex, old, present):
            return Taken(present, undo=lambda: attach.replace(old, self.ifindex, program, present))
        link = self._link("replace")
        link.update(program)
        note = f"it is held by link id {link.id}, which is not hopline's: it goes when the link's owner lets go of it"
        return Taken(present, notes=[note], undo=lambda: link.update(old), settle=link.close)

    def _attach_instead(self, program: Program, mode: Mode) -> Taken:
        """Detach, attach; where that fails the old one is put back."""
        assert self.there is not None
        keeper = self.record.keeper if self.record else None
        present = mode_of(self.there)
        if keeper is None and self._is_held():
            why = f"a link that is not hopline's holds it in {present} mode"
            raise Refused(f"load on {self.device}: {why}: leave --mode out, or unload it first")
        self._detach()
        try:
            taken = self._attach(program, mode)
        except BaseException:
            self._put_back()
            raise
        used = taken.mode

        def undo() -> None:
            attach.detach(self.ifindex, program, used)
            self._put_back()

        taken.undo = undo
        why = "the program before was held by a link" if keeper else f"the program before ran in {present} mode"
        taken.notes = [f"for a moment no program was attached: {why}"]
        if keeper is not None:
            taken.settle = lambda: keep.end(keeper)
        return taken

    def _detach(self) -> None:
        assert self.there is not None
        assert self.program is not None
        if not attach.detach(self.ifindex, self.program, mode_of(self.there)):
            with self._link("unload") as link:
                link.detach()

    def _put_back(self) -> None:
        assert self.there is not None
        assert self.program is not None
        present = mode_of(self.there)
        if not (self.record and self.record.keeper):
            attach.attach(self.program, self.ifindex, present)
            return
        left = (self.record.until or 0) - time.time()
        if left > 0 and present != "offload":
            taken = self._hold(self.program, present, left)
            keep.end(self.record.keeper)
            self.record = msgspec.structs.replace(self.record, keeper=taken.keeper)
            record.write(self.record)

    def _is_held(self) -> bool:
        assert self.there is not None
        return bool(links_of(self.there.program_id, self.ifindex))

    def _link(self, doing: str) -> XdpLink:
        assert self.there is not None
        links = links_of(self.there.program_id, self.ifindex)
        if len(links) != 1:
            # the kernel does not say which namespace a link's interface index belongs to
            ids = ", ".join(map(str, links)) or "(none)"
            asked = f"{doing} the program ({self.known_as}) of {self.device}"
            raise Refused(f"{asked}: links {ids} carry it on an interface of that number: detach it by hand")
        return XdpLink.from_id(links[0])

    def vacate(self, program: str | None, id: int | None, everything: bool) -> None:
        """Take off what is here, if it is ours or the one meant; Refused, NotFound or KernelError otherwise."""
        assert self.there is not None
        doing = f"unload from {self.device}"
        # the whole name may not be known
        cut = program is not None and len(self.name) == NAME_SIZE and program[:NAME_SIZE] == self.name
        called = cut or program in (None, self.name, self.there.name)
        if not called or id not in (None, self.there.program_id):
            raise NotFound(f"{doing}: {program or f'program id {id}'} is not there, but {self.known_as}: name that")
        self._refuse_instance(doing)
        if not (self.record or everything or program or id):
            known = f"--program {self.name}, --id {self.there.program_id} or --all"
            raise Refused(f"{doing}: hopline did not load what is attached ({self.known_as}): use {known}")
        self._detach()
        if self.record and self.record.keeper:
            keep.end(self.record.keeper)


def on_record(there: Attached, ifindex: int) -> Record | None:
    """The record of the very program that is attached to a device, if we loaded it."""
    for found in record.records():
        same = (found.hook, found.ifindex, found.program_id) == (XDP_HOOK, ifindex, there.program_id)
        if same and record.is_loaded(found):
            return found
    return None
