"""The directory of a store: locked by one process, changed so that no crash leaves a name without its content."""

import fcntl
import os
import time
from pathlib import Path

from hopline.errors import Refused

FILE = "hopline.db"
FRESH = "fresh"  # beside a file made anew, until its owner has looked for what a lost one knew
SIDES = ("-wal", "-shm")  # what SQLite keeps beside a file in WAL mode (sqlite.org/tempfiles.html)


def locked(directory: Path) -> int:
    """Return the descriptor of the directory's lock, held until it is closed, by death too."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(f"open store {directory}: {reason(error)}: put it right, or use another --state") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        todo = "stop that daemon, or use another --state"
        raise Refused(f"open store {directory}: in use by process {holder}: {todo}") from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
    except OSError as error:
        os.close(lock)
        raise Refused(f"open store {directory}: {reason(error)}: put it right, or use another --state") from error
    return lock


def mark_fresh(directory: Path) -> None:
    """Note, durably and before the file is made, that the store to come is new."""
    os.close(os.open(directory / FRESH, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    sync(directory)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, and what SQLite kept beside it, out of the way; return the file's new name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{FILE}.corrupt-{stamp}")
    number = 1
    while any(aside.with_name(aside.name + suffix).exists() for suffix in ("", *SIDES)):
        number += 1
        aside = path.with_name(f"{FILE}.corrupt-{stamp}-{number}")
    # the log first, durably: were it left beside a fresh file, SQLite would replay it there
    for suffix in (*SIDES, ""):
        side = path.with_name(path.name + suffix)
        if side.exists():
            os.rename(side, aside.with_name(aside.name + suffix))
            sync(path.parent)
    return aside


def orphaned(path: Path) -> bool:
    """Whether a log is there and the file that it belongs to is not."""
    return not path.exists() and any(path.with_name(path.name + suffix).exists() for suffix in SIDES)


def sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: Exception) -> str:
    """Return why a call failed, as the middle of an error's line."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower()
