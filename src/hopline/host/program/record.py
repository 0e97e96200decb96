"""What Hopline loaded, on record: /run/hopline/.programs/NETNS-INODE/PLACE.json, of the calling thread's namespace.

A record says what we did, not what is: it counts only while the very program it names is loaded, and who reads it
compares that with what is attached.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec

from hopline.errors import KernelError
from hopline.kernel import netns
from hopline.kernel.program import Program

DIRECTORY = Path("/run/hopline/.programs")
SUFFIX = ".json"
XDP_HOOK = "xdp"


class Keeper(msgspec.Struct, frozen=True):
    """The process that ends a program's time: `started` is when it began, in ticks since the boot (proc(5), stat)."""

    pid: int
    started: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One program that we loaded: on a device (hook xdp, `place` its name) or on a route.

    `loaded_ns` since the boot, which with the id tells it from every other; `until` in seconds of the epoch;
    `namespace` is the cookie of that it was written in.
    """

    place: str
    hook: str
    ifindex: int
    program: str
    program_id: int
    loaded_ns: int
    tag: str
    mode: str = ""
    pins: list[str] = []
    keeper: Keeper | None = None
    until: float | None = None
    namespace: int = 0


def clock(until: float) -> str:
    """When a program goes, as a person of this host reads it: the time, and the date where it is not within a day."""
    form = "%H:%M:%S" if until - time.time() < 86400 else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, time.localtime(until))


def path_of(place: str) -> Path:
    """Where the record of a place is kept."""
    return _directory() / (quote(place, safe=" :+") + SUFFIX)


def _directory() -> Path:
    return DIRECTORY / str(netns.inode())


def at(place: str) -> Record | None:
    """The record of a place, its program loaded or not; None where there is none."""
    return _read(path_of(place))


def read(place: str) -> Record | None:
    """The record of a place; None where there is none, or its program is not loaded any more."""
    found = at(place)
    return found if found is not None and is_loaded(found) else None


def records() -> list[Record]:
    """All records of this namespace, those too whose program is not loaded any more."""
    here = netns.cookie()
    return [found for found in _all() if found.namespace == here]


def dead() -> list[Record]:
    """Records of a namespace that has gone, and whose inode is that of the calling thread's now."""
    here = netns.cookie()
    return [found for found in _all() if found.namespace != here]


def _all() -> list[Record]:
    paths = sorted(_directory().glob(f"*{SUFFIX}"))
    return [found for path in paths if (found := _decoded(path)) is not None]


def _read(path: Path) -> Record | None:
    found = _decoded(path)
    return found if found is not None and found.namespace == netns.cookie() else None


def _decoded(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def is_loaded(record: Record) -> bool:
    """Whether the very program that a record names is loaded."""
    try:
        with Program.from_id(record.program_id) as program:
            return program.info().loaded_ns == record.loaded_ns
    except KernelError:
        return False


def write(record: Record) -> None:
    """Keep a record in place of the one before, whole or not at all; the caller has locked()."""
    path = path_of(record.place)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    try:
        fresh.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, namespace=netns.cookie())))
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def forget(place: str) -> None:
    """Drop the record of a place, if there is one."""
    path_of(place).unlink(missing_ok=True)


def forget_of(path: Path, pid: int) -> None:
    """Drop the record of that file if the keeper of that number is its; the caller has its directory's lock."""
    found = _decoded(path)
    if found is not None and found.keeper is not None and found.keeper.pid == pid:
        path.unlink()


@contextmanager
def locked() -> Iterator[None]:
    """One at a time loads and unloads in a namespace; afterwards the directory goes if no record is in it."""
    with _locked(_directory(), fcntl.LOCK_EX):
        yield


@contextmanager
def locked_now(directory: Path) -> Iterator[bool]:
    """The same of the namespace whose records are there, if no other has the lock now; says whether."""
    with ExitStack() as stack:
        try:
            stack.enter_context(_locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    lock = _lock(directory, how)
    try:
        for left in directory.iterdir():
            if left.suffix != SUFFIX:
                left.unlink()  # of a write() that was killed
        yield
    finally:
        with contextlib.suppress(OSError):
            directory.rmdir()
        os.close(lock)


def _lock(directory: Path, how: int) -> int:
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # removed by who had the lock
        try:
            fcntl.flock(lock, how)
        except OSError:
            os.close(lock)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(lock).st_ino == directory.stat().st_ino:
                return lock
        os.close(lock)
