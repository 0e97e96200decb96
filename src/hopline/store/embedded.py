"""The embedded store: one SQLite file, its directory locked by one process.

`write` returns when the change would survive a power cut: WAL with synchronous=FULL syncs the log at every commit
(sqlite.org/pragma.html#pragma_synchronous). A file that cannot be read is set aside, never deleted; a file of a newer
schema is refused, never guessed at.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from hopline.daemon.protocol import HistoryRow
from hopline.errors import NotFound, Refused
from hopline.intent import Change, Wanted
from hopline.store import history, place, schema
from hopline.store.fold import folded, in_order
from hopline.store.rows import Astray, Undecodable
from hopline.store.schema import Content, Damaged, Pending, State
from hopline.store.tables import write_all

_TODO = "start again, which sets a damaged file aside"


class Store:
    """An open store; made by `Store.open`, closed by `close` or `with`.

    `revision`, `pending`, `history` and `size` never ask the database and may be used by any thread at any time; the
    rest by one thread at a time.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, content: Content, lock: int) -> None:
        self.path = path
        self.recovered_from: Path | None = None  # where a damaged file was set aside on this opening
        self.damage = content.damage  # and what was wrong with it; without such a file, what is lost of the history
        self._connection = connection
        self._state = content.state
        self._history = content.history
        self._opened: Wanted | None = content.wanted  # until it is asked for, or changes
        self._lock = lock

    @staticmethod
    def exists(directory: Path) -> bool:
        """Return whether `directory` holds a store."""
        return (directory / place.FILE).exists()

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open the store in `directory`, made where missing; Refused if in use, unusable or of a newer schema."""
        lock = place.locked(directory)
        path = directory / place.FILE
        try:
            aside = damage = None
            if place.orphaned(path):
                aside, damage = place.set_aside(path), f"{place.FILE} was gone and its log was there"
            if not path.exists():
                place.mark_fresh(directory)
                schema.create(path)
            try:
                connection, content = schema.connect(path)
            except Damaged as error:
                place.mark_fresh(directory)
                aside, damage = place.set_aside(path), str(error)
                schema.create(path)
                connection, content = schema.connect(path)
            store = cls(path, connection, content, lock)
        except (OSError, sqlite3.Error) as error:
            os.close(lock)
            detail = place.reason(error)
            raise Refused(f"open store {directory}: {detail}: put it right, or use another --state") from error
        except BaseException:
            os.close(lock)
            raise
        store.recovered_from, store.damage = aside, damage or content.damage
        return store

    @property
    def fresh(self) -> bool:
        """Whether this store was made anew and nobody has said since that it is all there is to know (`settle`)."""
        return (self.path.parent / place.FRESH).exists()

    def settle(self) -> None:
        """The intent is what it should be: from now on an empty store means that nothing is wanted."""
        try:
            (self.path.parent / place.FRESH).unlink(missing_ok=True)
            place.sync(self.path.parent)
        except OSError as error:
            raise Refused(f"write store {self.path}: {place.reason(error)}: put it right") from error

    # what is known without asking the database

    @property
    def revision(self) -> int:
        """Number of the newest change, 0 before the first; no number is given twice."""
        return self._state.revision

    @property
    def pending(self) -> Pending | None:
        """The change that is to be rolled back unless it is confirmed."""
        return self._state.pending

    def history(self) -> list[HistoryRow]:
        """Return the last changes, the newest first: `history.KEPT`, or all since the one that is pending."""
        return list(self._history)

    @property
    def size(self) -> int:
        """Bytes on disk, of the file and its log."""
        size = 0
        for suffix in ("", *place.SIDES[:1]):
            with suppress(OSError):  # there is no log until something is written
                size += self.path.with_name(self.path.name + suffix).stat().st_size
        return size

    # what asks the database

    def read(self) -> Wanted:
        """Return the intent, the caller's to keep; entries in key order; Refused if it can no longer be read."""
        opened, self._opened = self._opened, None
        if opened is not None:
            return opened
        try:
            return schema.read_wanted(self._connection)
        except (sqlite3.Error, Undecodable) as error:
            raise Refused(f"read store {self.path}: {place.reason(error)}: {_TODO}") from error

    def write(
        self,
        change: Change,
        *,
        by: str,
        what: str,
        confirm_by: float | None = None,
        settles_pending: bool = False,
    ) -> int:
        """Make a change durable, in one transaction with its row in the history; return its number.

        `before` in the change must be what is stored. `confirm_by` (seconds since the epoch) makes it the pending one;
        with `settles_pending` what was pending is so no more. An empty change has no row and no number: that of the
        newest is returned. On Refused nothing was changed.
        """
        pending = None if settles_pending else self.pending
        if not change:
            if pending != self.pending:
                self._keep(State(self.revision, self._state.entries, pending), self._history)
            return self.revision
        number = self.revision + 1
        if confirm_by is not None:
            if pending is not None:
                todo = "confirm it or roll it back first"
                raise Refused(f"write store {self.path}: change {pending.revision} waits to be confirmed: {todo}")
            pending = Pending(number, confirm_by)
        change = in_order(change)
        counts = history.counts_of(change)
        entries = dict(self._state.entries)
        for noun, count in counts.items():
            entries[noun] = entries.get(noun, 0) + count.added - count.removed
        row = HistoryRow(number=number, when=time.time(), by=history.text(by), what=history.text(what), counts=counts)
        keep_from = min(number - history.KEPT + 1, pending.revision if pending else number)
        rows = (row, *(old for old in self._history if old.number >= keep_from))
        self._keep(State(number, entries, pending), rows, change)
        return number

    def retract(self, pending: Pending | None) -> None:
        """Take the newest change back as if nobody had made it, for who could not carry it out; `pending` is pending.

        What it pushed out of the history stays out. On Refused nothing was changed.
        """
        number = self.revision
        change = in_order(self.back_to(number - 1))
        entries = dict(self._state.entries)
        for noun, count in history.counts_of(change).items():
            entries[noun] = entries.get(noun, 0) + count.added - count.removed
        self._keep(State(number - 1, entries, pending), self._history[1:], change, retracted=number)

    def back_to(self, number: int) -> Change:
        """Return the change from the intent now to that after change `number`; NotFound if that is not known."""
        oldest = self._history[-1].number - 1 if self._history else self.revision
        if not oldest <= number <= self.revision:
            known = f"those after changes {oldest} to {self.revision} are known: `hopline history` lists them"
            raise NotFound(f"rollback to {number}: no such intent is kept: {known}")
        try:
            numbers = range(self.revision, number, -1)
            return folded(history.read_inverse(self._connection, each) for each in numbers)
        except (sqlite3.Error, Undecodable) as error:
            todo = "the intent itself is whole: apply a document instead"
            raise Refused(f"rollback to {number}: {place.reason(error)}: {todo}") from error

    def confirm(self) -> int:
        """Keep the change that is pending, durably; return its number; Refused if there is none."""
        pending = self.pending
        if pending is None:
            raise Refused("confirm: no change waits for it: `hopline history` shows what was done")
        self._keep(State(self.revision, self._state.entries), self._history)
        return pending.revision

    def close(self) -> None:
        """Close the file and let the next opener in; harmless when repeated."""
        if self._lock >= 0:
            self._connection.close()
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(
        self, state: State, rows: tuple[HistoryRow, ...], change: Change | None = None, retracted: int | None = None
    ) -> None:
        """Make all of this durable, or none of it; the change has the first row, or none where it retracts one."""
        try:
            with self._transaction():
                schema.set_state(self._connection, state)
                if change is not None:
                    write_all(self._connection, change)
                if retracted is not None:
                    history.drop_row(self._connection, retracted)
                elif change is not None:
                    history.add_row(self._connection, rows[0], change, rows[-1].number)
        except Astray as error:
            detail = f"what is stored of {error} is not what the change starts from"
            raise Refused(f"write store {self.path}: {detail}: nothing was changed, start again") from error
        except sqlite3.Error as error:
            detail = place.reason(error)
            raise Refused(f"write store {self.path}: {detail}: nothing was changed, put it right") from error
        waiting = state.pending.revision if state.pending else None
        self._state = state
        self._history = tuple(_marked(row, row.number == waiting) for row in rows)
        if change is not None:
            self._opened = None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            # a failed COMMIT or a full disk may have ended the transaction already
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                # the log may end in this very change, whole but for the sync that failed: the next opener would find it
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise


def _marked(row: HistoryRow, pending: bool) -> HistoryRow:
    """Return the row, saying whether it is pending."""
    if row.pending == pending:
        return row
    return HistoryRow(number=row.number, when=row.when, by=row.by, what=row.what, counts=row.counts, pending=pending)
