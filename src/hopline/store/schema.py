"""The file: made whole, checked before it is trusted, brought up to the present schema in one transaction.

Schema 1 had the tables of the nouns; 2 adds `state`, one row, and `history`; 3 has what forwards share once, by number;
4 adds services and decap.
"""

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hopline.daemon.protocol import HistoryRow
from hopline.errors import Refused
from hopline.intent import NOUNS, Change, Delta, Wanted
from hopline.store import history
from hopline.store.place import FILE, sync
from hopline.store.rows import Undecodable
from hopline.store.tables import Table, tables, write_all

SCHEMA_VERSION = 4
LOG_PAGES = 1000  # after which SQLite copies the log back into the file at the end of a write; its own default
APPLICATION_ID = 0x484F504C  # "HOPL", at offset 68 of the file (sqlite.org/fileformat.html)

# `entries` counts what the tables hold, so that a table that lost some is found out
_STATE = """CREATE TABLE IF NOT EXISTS state (
    one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL, entries TEXT NOT NULL,
    pending INTEGER, confirm_by REAL
) STRICT"""
_SET_STATE = "INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?)"
_GET_STATE = "SELECT revision, entries, pending, confirm_by FROM state"

# primary result codes that say the file's content is damaged, rather than that the disk or the process has a problem
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Damaged(Exception):
    """The file is there but its content cannot be trusted; the text says why."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A change that is to be rolled back unless it is confirmed by then, in seconds since the epoch."""

    revision: int
    confirm_by: float


@dataclass(frozen=True, slots=True)
class State:
    """What the file says of itself."""

    revision: int  # of the newest change; 0 before the first
    entries: Mapping[str, int]  # how many, by noun
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """All that a file holds but for the inverses of its changes."""

    wanted: Wanted
    state: State
    history: tuple[HistoryRow, ...]  # the newest first
    damage: str | None = None  # of the history: what had to be forgotten of it


def create(path: Path) -> None:
    """Make an empty store appear whole, so that a file without tables can only be damage."""
    fresh = path.with_name(f"{FILE}.new")
    fresh.unlink(missing_ok=True)
    # SQLite gives its side files the mode of the file itself
    os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(fresh, isolation_level=None)
    try:
        connection.execute("BEGIN")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _upgrade(connection, State(0, {}))
        connection.execute("COMMIT")
    finally:
        connection.close()
    os.rename(fresh, path)
    for directory in (path.parent, path.parent.parent):
        sync(directory)


def connect(path: Path) -> tuple[sqlite3.Connection, Content]:
    """Return a connection to a file that has been checked, and what it holds; Damaged if it cannot be trusted."""
    # the daemon opens in one thread and writes in another, never at once; the C library is built serialized
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        version = _check(connection, path)
        # only now: setting the mode writes to the file, which must not happen to someone else's
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA secure_delete = OFF")  # some builds write zeros over whatever goes
        return connection, _content(connection, version)
    except sqlite3.DatabaseError as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise Damaged(str(error).lower()) from error
        raise
    except Undecodable as error:
        connection.close()
        raise Damaged(str(error)) from error
    except BaseException:
        connection.close()
        raise


def set_state(connection: sqlite3.Connection, state: State) -> None:
    """Enter what the file says of itself."""
    pending = (state.pending.revision, state.pending.confirm_by) if state.pending else (None, None)
    connection.execute(_SET_STATE, (state.revision, msgspec.json.encode(state.entries).decode(), *pending))


def read_wanted(connection: sqlite3.Connection) -> Wanted:
    """Read all entries, in key order; Undecodable names a row that is damaged."""
    return Wanted({name: table.rows(connection) for name, table in tables().items()})


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """Return the file's schema if it is one of Hopline's that can be read and seems whole."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application not in (0, APPLICATION_ID):
        raise Refused(f"open store {path}: the file belongs to another application: use another --state")
    if version > SCHEMA_VERSION:
        detail = f"its schema {version} is newer than {SCHEMA_VERSION}, the newest this hopline knows"
        raise Refused(f"open store {path}: {detail}: use the hopline that wrote it")
    if application == 0 or version < 1:
        raise Damaged("it does not say that it is a store")
    ((verdict, *_),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if verdict != "ok":
        raise Damaged(" ".join(str(verdict).lower().split()))
    needed = {"interface", "forward"}
    if version > 1:
        needed |= {"state", "history"}
    if version > 2:
        needed |= {"forward_value"}
    if version == SCHEMA_VERSION:
        needed.update(*(table.names for table in tables().values()))
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if needed - found:
        raise Damaged(f"no table {min(needed - found)}")
    return int(version)


def _content(connection: sqlite3.Connection, version: int) -> Content:
    wanted = read_wanted(connection) if version == SCHEMA_VERSION else _brought_up(connection, version)
    state = _state(connection)
    _check_counts(wanted, state)
    forgotten = history.forget_damaged(connection)
    rows = history.read_rows(connection, state.pending.revision if state.pending else None)
    numbers = [row.number for row in rows]
    if numbers != list(range(state.revision, state.revision - len(rows), -1)):
        raise Damaged(f"the history does not lead to change {state.revision}")
    if state.pending and state.pending.revision not in numbers:
        raise Damaged(f"change {state.pending.revision}, which waits to be confirmed, is not in the history")
    damage = f"change {forgotten} is damaged: it and those before it cannot be rolled back" if forgotten else None
    return Content(wanted, state, rows, damage)


def _brought_up(connection: sqlite3.Connection, version: int) -> Wanted:
    """Bring an older schema up to the present one, in one transaction; return its entries."""
    connection.execute("BEGIN IMMEDIATE")
    present = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    # up to schema 2 each entry was a row of its own, with all that it says; nouns that came later have none
    alone = version < 3
    known = [noun for noun in NOUNS if noun.name in present]
    wanted = Wanted({noun.name: (Table(noun) if alone else tables()[noun.name]).rows(connection) for noun in known})
    for noun in known:
        if alone and noun.shared:
            connection.execute(f'DROP TABLE "{noun.name}"')
    state = State(0, {name: len(entries) for name, entries in wanted.entries.items()})
    if version > 1:
        state = _state(connection)
        _check_counts(wanted, state)  # before anything is changed of a file that may be set aside
    _upgrade(connection, state)
    changed = {noun.name: Delta(after=wanted.of(noun.name)) for noun in known if alone and noun.shared}
    write_all(connection, Change(changed))
    connection.execute("COMMIT")
    return wanted


def _check_counts(wanted: Wanted, state: State) -> None:
    for name in tables():
        if (held := len(wanted.of(name))) != state.entries.get(name, 0):
            raise Damaged(f"it holds {held} entries of {name} and says {state.entries.get(name, 0)}")


def _upgrade(connection: sqlite3.Connection, state: State) -> None:
    """Make the tables that are missing, within the caller's transaction."""
    for table in tables().values():
        for statement in table.create:
            connection.execute(statement)
    connection.execute(_STATE)
    connection.execute(history.CREATE)
    set_state(connection, state)
    # part of the transaction like the rest: it lies in the first page
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _state(connection: sqlite3.Connection) -> State:
    rows = connection.execute(_GET_STATE).fetchall()
    if len(rows) != 1:
        raise Damaged("it does not say its revision")
    revision, counts, number, confirm_by = rows[0]
    try:
        entries = msgspec.json.decode(counts, type=dict[str, int])
    except msgspec.MsgspecError as error:
        raise Damaged(f"state: entries: {error}") from error
    pending = None if number is None or confirm_by is None else Pending(number, confirm_by)
    return State(revision, entries, pending)
