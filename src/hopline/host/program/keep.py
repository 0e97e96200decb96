"""The keeper: a small process that ends a program's time, whatever became of the command that loaded it.

On a device it holds the only descriptor of the program's link: when the time is over, or the keeper dies, the kernel
detaches the program. It lives in the host's namespace, so that the device's can go before it. On a route it takes the
program off when the time is over, or on SIGTERM or SIGHUP.

    python -m hopline.host.program.keep DEADLINE RECORD {LINK | ROUTE HOOK PROGRAM-ID}

DEADLINE is of the monotonic clock, LINK a descriptor; RECORD, the file of the record, is removed at the end if it still
names this keeper.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hopline.host.program.signals import ENDS

if TYPE_CHECKING:
    from hopline.host.program.record import Keeper
    from hopline.kernel.link import XdpLink

PATIENCE_S = 5.0
POLL_S = 0.005


def start_link(link: "XdpLink", place: str, seconds: float) -> "Keeper":
    """Hand a link that is not pinned to a keeper, for so many seconds; the caller closes its own descriptor."""
    from hopline.host.program.record import path_of
    from hopline.kernel import netns

    path = path_of(place)
    with netns.outside():
        return _start(seconds, path, [str(link.fd)], (link.fd,))


def start_route(place: str, route: str, hook: str, program_id: int, seconds: float) -> "Keeper":
    """Have a keeper take a program off a hook of a route after so many seconds; `place` is that of its record."""
    from hopline.host.program.record import path_of

    return _start(seconds, path_of(place), [route, hook, str(program_id)], ())


def _start(seconds: float, path: Path, more: list[str], descriptors: tuple[int, ...]) -> "Keeper":
    from hopline.host.program.record import Keeper

    # -P: the directory that the command runs in is not searched for modules
    command = [sys.executable, "-P", "-m", __name__, str(time.monotonic() + seconds), str(path), *more]
    # inherited: a signal that comes before the keeper waits for one is not lost
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        nowhere = subprocess.DEVNULL
        process = subprocess.Popen(
            command,
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            cwd="/",
            start_new_session=True,
            pass_fds=descriptors,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    keeper = Keeper(process.pid, _started(process.pid) or 0)
    # its end is nobody's business here: who waits for it is init, or end()
    process.returncode = 0
    return keeper


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the boot; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def runs(keeper: "Keeper") -> bool:
    """Whether it is still there, and no other process of its number."""
    return _started(keeper.pid) == keeper.started


def end(keeper: "Keeper") -> None:
    """End a keeper before its time, and with it what it keeps; nothing if it has ended."""
    deadline = time.monotonic() + PATIENCE_S
    number = signal.SIGTERM
    while runs(keeper):
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper.pid, number)
        time.sleep(POLL_S)
        if time.monotonic() > deadline:
            number = signal.SIGKILL
    # a child of this very process leaves a zombie
    with contextlib.suppress(ChildProcessError):
        os.waitpid(keeper.pid, os.WNOHANG)


def main(arguments: list[str]) -> None:
    """Wait for the deadline or a signal, then let go."""
    deadline, path = float(arguments[0]), Path(arguments[1])
    while (left := deadline - time.monotonic()) > 0:
        if signal.sigtimedwait(ENDS, min(left, 3600.0)) is not None:
            break
    if len(arguments) > 3:
        from hopline.host.program import routes

        route, hook, program_id = arguments[2:]
        routes.leave(route, hook, int(program_id))
    else:
        os.close(int(arguments[2]))
    _forget(path)


def _forget(path: Path) -> None:
    """Remove the record if it is this keeper's; who ends it has the lock, and sees to the record."""
    from hopline.host.program import record

    while True:
        with record.locked_now(path.parent) as locked:
            if locked:
                record.forget_of(path, os.getpid())
                return
        if signal.sigtimedwait(ENDS, POLL_S) is not None:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
