"""The embedded store: one SQLite file, its directory locked by one process.

`write` returns when the change would survive a power cut: WAL with synchronous=FULL syncs the log at every commit
(sqlite.org/pragma.html#pragma_synchronous). A file that cannot be read is set aside, never deleted; a file of a newer
schema is refused, never guessed at.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from hopline.config import Forward, Intent, Interface
from hopline.errors import Refused
from hopline.store.change import Change, DeleteForward, DeleteInterface, PutForward, PutInterface

SCHEMA_VERSION = 1
APPLICATION_ID = 0x484F504C  # "HOPL", at offset 68 of the file (sqlite.org/fileformat.html)
FILE = "hopline.db"
FRESH = "fresh"  # beside a file made anew, until its owner has looked for what a lost one knew

_SCHEMA = f"""
CREATE TABLE interface (
    name TEXT PRIMARY KEY, mode TEXT NOT NULL, bypass_policy INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE forward (
    "to" TEXT PRIMARY KEY, dev TEXT, src_mac TEXT, dst_mac TEXT, via TEXT
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_PUT_INTERFACE = "INSERT OR REPLACE INTO interface VALUES (?, ?, ?)"
_DELETE_INTERFACE = "DELETE FROM interface WHERE name = ?"
_PUT_FORWARD = "INSERT OR REPLACE INTO forward VALUES (?, ?, ?, ?, ?)"
_DELETE_FORWARD = 'DELETE FROM forward WHERE "to" = ?'

# primary result codes that say the file's content is damaged, rather than that the disk or the process has a problem
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Store:
    """An open store; made by `Store.open`, used by one thread at a time, closed by `close` or `with`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int, recovered_from: Path | None) -> None:
        self.path = path
        self.recovered_from = recovered_from  # where a damaged file was set aside on this opening
        self._connection = connection
        self._lock = lock

    @staticmethod
    def exists(directory: Path) -> bool:
        """Return whether `directory` holds a store."""
        return (directory / FILE).exists()

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open the store in `directory`, made where missing; Refused if in use, unusable or of a newer schema."""
        lock = _locked(directory)
        try:
            path = directory / FILE
            recovered_from = None
            if not path.exists():
                _mark(directory)
                _create(path)
            try:
                connection = _connected(path)
            except _Damaged:
                _mark(directory)
                recovered_from = _set_aside(path)
                _create(path)
                connection = _connected(path)
        except (OSError, sqlite3.Error) as error:
            os.close(lock)
            raise Refused(f"open store {directory}: {_reason(error)}: put it right, or use another --state") from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, connection, lock, recovered_from)

    @property
    def fresh(self) -> bool:
        """Whether this store was made anew and nobody has said since that it is all there is to know (`settle`)."""
        return (self.path.parent / FRESH).exists()

    def settle(self) -> None:
        """The intent is what it should be: from now on an empty store means that nothing is wanted."""
        (self.path.parent / FRESH).unlink(missing_ok=True)
        _sync(self.path.parent)

    def intent(self) -> Intent:
        """Read everything; Refused if the file can no longer be read."""
        try:
            interfaces = self._connection.execute("SELECT name, mode, bypass_policy FROM interface ORDER BY name")
            forwards = self._connection.execute('SELECT "to", dev, src_mac, dst_mac, via FROM forward')
            return Intent(
                interface=tuple(Interface(name, mode, bool(bypass)) for name, mode, bypass in interfaces),
                forward=tuple(Forward(*row) for row in forwards),
            )
        except sqlite3.Error as error:
            todo = "start again, which sets a damaged file aside"
            raise Refused(f"read store {self.path}: {_reason(error)}: {todo}") from error

    def write(self, changes: Sequence[Change]) -> None:
        """Make all changes durable, in order and in one transaction; on Refused none is made."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for kind, run in groupby(changes, type):
                    self._connection.executemany(*_statement(kind, run))
                self._connection.execute("COMMIT")
            except BaseException:
                # a failed COMMIT or a full disk may have ended the transaction already
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise Refused(f"write store {self.path}: {_reason(error)}: nothing was changed, put it right") from error

    def close(self) -> None:
        """Close the file and let the next opener in; harmless when repeated."""
        if self._lock >= 0:
            self._connection.close()
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Damaged(Exception):
    """The file is there but its content cannot be trusted."""


def _statement(kind: type[Change], run: Iterable[Change]) -> tuple[str, Iterable[tuple[object, ...]]]:
    if kind is PutForward:
        entries = [change.forward for change in run if isinstance(change, PutForward)]
        # in key order, pages fill one after another: 4 times as fast at a million; stable, so the last of a key wins
        entries.sort(key=attrgetter("to"))
        return _PUT_FORWARD, ((f.to, f.dev, f.src_mac, f.dst_mac, f.via) for f in entries)
    if kind is DeleteForward:
        return _DELETE_FORWARD, ((change.to,) for change in run if isinstance(change, DeleteForward))
    if kind is PutInterface:
        interfaces = (change.interface for change in run if isinstance(change, PutInterface))
        return _PUT_INTERFACE, ((i.name, i.mode, int(i.bypass_policy)) for i in interfaces)
    return _DELETE_INTERFACE, ((change.name,) for change in run if isinstance(change, DeleteInterface))


def _locked(directory: Path) -> int:
    """Return the descriptor of the directory's lock, held until it is closed, by death too."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(f"open store {directory}: {_reason(error)}: put it right, or use another --state") from error
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
        raise Refused(f"open store {directory}: {_reason(error)}: put it right, or use another --state") from error
    return lock


def _mark(directory: Path) -> None:
    """Note, durably and before the file is made, that the store to come is new."""
    os.close(os.open(directory / FRESH, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _sync(directory)


def _create(path: Path) -> None:
    """Make an empty store appear whole, so that a `hopline.db` without tables can only be damage."""
    fresh = path.with_name(f"{FILE}.new")
    fresh.unlink(missing_ok=True)
    # SQLite gives its side files the mode of the file itself
    os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(fresh, isolation_level=None)
    try:
        connection.executescript(_SCHEMA)
    finally:
        connection.close()
    os.rename(fresh, path)
    for directory in (path.parent, path.parent.parent):
        _sync(directory)


def _connected(path: Path) -> sqlite3.Connection:
    """Return a connection to a store that has been checked; _Damaged if it cannot be trusted."""
    # the daemon opens in one thread and writes in another, never at once; the C library is built serialized
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        _check(connection, path)
        # only now: setting the mode writes to the file, which must not happen to someone else's
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute("PRAGMA cache_size = -65536")
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF in _DAMAGED:
            raise _Damaged from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application not in (0, APPLICATION_ID):
        raise Refused(f"open store {path}: the file belongs to another application: use another --state")
    if version > SCHEMA_VERSION:
        detail = f"its schema {version} is newer than {SCHEMA_VERSION}, the newest this hopline knows"
        raise Refused(f"open store {path}: {detail}: use the hopline that wrote it")
    if application == 0 or version < SCHEMA_VERSION:
        raise _Damaged
    ((verdict, *_),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if verdict != "ok" or not tables >= {"interface", "forward"}:
        raise _Damaged


def _set_aside(path: Path) -> Path:
    """Rename a damaged file and its log out of the way; return the file's new name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{FILE}.corrupt-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{FILE}.corrupt-{stamp}-{number}")
    # the log first: were it left beside a fresh file, SQLite would replay it there
    for suffix in ("-wal", "-shm", ""):
        side = path.with_name(FILE + suffix)
        if side.exists():
            os.rename(side, aside.with_name(aside.name + suffix))
    _sync(path.parent)
    return aside


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower()
