"""XDP programs that others attached: named, taken off an interface, put back, and lent to who may not open them.

Opening a program or a link by its id takes CAP_SYS_ADMIN, which a daemon that serves has given up; opening a pin does
not. So who asks a daemon to replace a program pins it, and the link that holds it, in the daemon's directory meanwhile.
"""

import errno
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hopline.errors import KernelError, Refused
from hopline.kernel._libbpf import lib
from hopline.kernel.handle import check
from hopline.kernel.link import FLAGS, Attached, Mode, XdpLink, interface_name, links_of, query
from hopline.kernel.program import Program

# pins are <kind>_<interface index>_<word of its own>
LENT_PROGRAM, LENT_LINK = "lent_program", "lent_link"
LENT_AT_MOST_S = 600.0  # longer than any request: who lent it was killed

Pinned = TypeVar("Pinned", Program, XdpLink)


def identify(ifindex: int, lent: Path | None = None) -> Attached | None:
    """What query() says; the name of a program that may not be asked for is that of the one lent in `lent`."""
    found = query(ifindex)
    if found is None or found.name or lent is None:
        return found
    program = _borrowed(Program, lent, LENT_PROGRAM, ifindex, found)
    if program is None:
        return found
    with program:
        return replace(found, name=program.name, tag=program.tag)


def replace_foreign(ifindex: int, program: Program, mode: Mode = "auto", lent: Path | None = None) -> XdpLink:
    """Detach whatever program is there, and attach ours; if ours fails, the old one is put back and the error says so.

    The interface runs no program for the moment in between: a link cannot take over what something else attached.
    Without the right to open the old program it must be lent in `lent` (see lend), or it is Refused.
    """
    before = identify(ifindex, lent)
    if before is None:
        return XdpLink.attach(program, ifindex, mode)
    with _opened(ifindex, before, lent) as old:
        _detach(ifindex, before, lent)
        try:
            return XdpLink.attach(program, ifindex, mode)
        except (KernelError, Refused) as error:
            result = lib.hl_xdp_attach(ifindex, old.fd, FLAGS[before.mode])
            said = "is attached again" if result >= 0 else f"could not be attached again (errno {-result})"
            failed = f"the program it had ({before.known_as}) {said}"
            if isinstance(error, KernelError):
                # of the same kind, so that who asked for any mode goes on with the next
                hint = str(error).partition(f"(errno {error.errno}): ")[2]
                raise KernelError(error.asked, error.errno, f"{hint}: {failed}" if hint else failed) from error
            raise Refused(f"{error}: {failed}") from error


def lend(ifindex: int, directory: Path, *, link: bool) -> list[Path]:
    """Pin in `directory` what runs on an interface of the calling thread's namespace; the pins, to be taken back.

    With `link` the link that holds it too, so that it can be detached. KernelError without CAP_SYS_ADMIN.
    """
    _forget_old(directory)
    found = query(ifindex)
    if found is None:
        return []
    word, pins = secrets.token_hex(4), []
    try:
        with Program.from_id(found.program_id) as program:
            pins.append(directory / f"{LENT_PROGRAM}_{ifindex}_{word}")
            program.pin(pins[-1])
        if link and len(links := links_of(found.program_id, ifindex)) == 1:
            with XdpLink.from_id(links[0]) as holder:
                pins.append(directory / f"{LENT_LINK}_{ifindex}_{word}")
                holder.pin(pins[-1])
    except BaseException:
        for pin in pins:
            pin.unlink(missing_ok=True)
        raise
    return pins


def _forget_old(directory: Path) -> None:
    for pin in list(directory.glob("lent_*")):
        try:
            if time.time() - pin.stat().st_mtime > LENT_AT_MOST_S:
                pin.unlink()
        except FileNotFoundError:
            continue


def _opened(ifindex: int, there: Attached, lent: Path | None) -> Program:
    program = None if lent is None else _borrowed(Program, lent, LENT_PROGRAM, ifindex, there)
    if program is not None:
        return program
    try:
        return Program.from_id(there.program_id)
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        name = interface_name(ifindex)
        raise Refused(
            f"replace xdp program {there.program_id} of {name}: without CAP_SYS_ADMIN it could not be put back if "
            f"the other fails: run `hopline interface add {name} --replace` as root on this host, or unload it first"
        ) from error


def _borrowed(kind: type[Pinned], lent: Path, name: str, ifindex: int, there: Attached) -> Pinned | None:
    """The lent program, or the lent link of the program, if it is what is on the interface now; else None."""
    for pin in sorted(lent.glob(f"{name}_{ifindex}_*")):
        try:
            opened = kind.from_pin(pin)
        except KernelError:
            continue  # taken back meanwhile
        if isinstance(opened, Program):
            fits = opened.id == there.program_id
        else:
            fits = (opened.program_id, opened.ifindex) == (there.program_id, ifindex)
        if fits:
            return opened
        opened.close()
    return None


def _detach(ifindex: int, there: Attached, lent: Path | None) -> None:
    asked = f"detach xdp program ({there.known_as}) from {interface_name(ifindex)}"
    result = lib.hl_xdp_detach(ifindex, FLAGS[there.mode])
    if result != -errno.EBUSY:
        check(result, asked)
        return
    lib.hl_message_clear()
    # EBUSY: a link holds it
    link = None if lent is None else _borrowed(XdpLink, lent, LENT_LINK, ifindex, there)
    if link is None:
        links = links_of(there.program_id, ifindex)
        if len(links) != 1:
            # the kernel does not say which namespace a link's interface index belongs to
            ids = ", ".join(map(str, links))
            carry = f"links {ids or '(none)'} carry it on an interface of that number"
            raise Refused(f"{asked}: {carry}: detach it by hand")
        link = XdpLink.from_id(links[0])
    with link:
        link.detach()
