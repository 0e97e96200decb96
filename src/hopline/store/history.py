"""The last changes as the file keeps them: a row each, with what takes the change back."""

import sqlite3
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from hopline.daemon.protocol import Counts, HistoryRow
from hopline.intent import Change, Delta
from hopline.store.rows import Tail, Undecodable
from hopline.store.tables import Table, tables

KEPT = 50  # changes
MOST_TEXT = 200  # characters of who and of what: a row without its inverse fits in one page

CREATE = """CREATE TABLE IF NOT EXISTS history (
    number INTEGER PRIMARY KEY, "when" REAL NOT NULL, "by" TEXT NOT NULL, what TEXT NOT NULL, counts TEXT NOT NULL,
    inverse BLOB NOT NULL
) STRICT"""
_CRC = 4  # bytes
_INSERT = "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)"
_PRUNE = "DELETE FROM history WHERE number < ?"
_SELECT = 'SELECT number, "when", "by", what, counts FROM history ORDER BY number DESC'
_INVERSE = "SELECT inverse FROM history WHERE number = ?"


class _Side(msgspec.Struct, array_like=True):
    """Entries of one noun: keys, and for each the place of its tail."""

    keys: list[str]
    places: list[int]


class _Packed(msgspec.Struct, array_like=True):
    """What changes of one noun. Tails are listed once: a million entries have few next hops."""

    tails: list[list[Any]]
    before: _Side
    after: _Side


def counts_of(change: Change) -> dict[str, Counts]:
    """Return how many entries a change touches, by noun."""
    return {
        noun: Counts(len(delta.after) - both, both, len(delta.before) - both)
        for noun, delta in change.deltas.items()
        if delta
        for both in [len(delta.before.keys() & delta.after.keys())]
    }


def packed(change: Change) -> bytes:
    """Return a change as one blob: CRC-32 of what follows (little-endian), zlib (RFC 1950) around MessagePack."""
    nouns: dict[str, _Packed] = {}
    for noun, delta in change.deltas.items():
        before, after = (tables()[noun].tails(entries) for entries in (delta.before, delta.after))
        places: dict[Tail, int] = {}
        for tail in (*before.values(), *after.values()):
            places.setdefault(tail, len(places))
        nouns[noun] = _Packed(
            [list(tail) for tail in places],
            _side(delta.before, {number: places[tail] for number, tail in before.items()}),
            _side(delta.after, {number: places[tail] for number, tail in after.items()}),
        )
    squeezed = zlib.compress(msgspec.msgpack.encode(nouns), 1)
    return zlib.crc32(squeezed).to_bytes(_CRC, "little") + squeezed


def whole(blob: bytes) -> bool:
    """Whether a blob is as `packed` made it: 1 GB a second, where unpacking takes twenty times as long."""
    return len(blob) > _CRC and zlib.crc32(memoryview(blob)[_CRC:]) == int.from_bytes(blob[:_CRC], "little")


def _side(entries: Mapping[str, Any], places: dict[int, int]) -> _Side:
    return _Side(list(entries), list(map(places.__getitem__, map(id, entries.values()))))


def unpacked(blob: bytes) -> Change:
    """Return what `packed` was given; Undecodable where it is damaged."""
    try:
        if not whole(blob):
            raise Undecodable("its inverse is damaged")
        nouns = msgspec.msgpack.decode(zlib.decompress(memoryview(blob)[_CRC:]), type=dict[str, _Packed])
        deltas = {noun: _delta(tables()[noun], content) for noun, content in nouns.items()}
    except (zlib.error, msgspec.MsgspecError, LookupError, ValueError) as error:
        raise Undecodable(f"its inverse does not decode: {error}") from error
    return Change(deltas)


def _delta(table: Table, content: _Packed) -> Delta:
    tails = [tuple(tail) for tail in content.tails]
    known: dict[int, Any] = {}

    def entries(side: _Side) -> dict[str, Any]:
        if not table.noun.shared:
            return {key: table.value(key, tails[at]) for key, at in zip(side.keys, side.places, strict=True)}
        for at, key in dict(zip(side.places, side.keys, strict=True)).items():
            known.setdefault(at, table.value(key, tails[at]))
        return dict(zip(side.keys, map(known.__getitem__, side.places), strict=True))

    return Delta(entries(content.before), entries(content.after))


def read_rows(connection: sqlite3.Connection, pending: int | None) -> tuple[HistoryRow, ...]:
    """Return what is known of the last changes, the newest first; Undecodable where a row is damaged."""
    rows = []
    for number, when, by, what, counts in connection.execute(_SELECT):
        try:
            decoded = msgspec.json.decode(counts, type=dict[str, Counts])
        except msgspec.MsgspecError as error:
            raise Undecodable(f"history {number}: counts: {error}") from error
        rows.append(HistoryRow(number=number, when=when, by=by, what=what, counts=decoded, pending=number == pending))
    return tuple(rows)


def forget_damaged(connection: sqlite3.Connection) -> int:
    """Forget, durably, the changes that cannot be taken back, those before one that is damaged too; return its number.

    0 if all is well. The entries are what they are, with or without a way back.
    """
    for number, blob in connection.execute("SELECT number, inverse FROM history ORDER BY number DESC"):
        if not whole(blob):
            connection.execute(_PRUNE, (number + 1,))
            return int(number)
    return 0


def add_row(connection: sqlite3.Connection, row: HistoryRow, change: Change, keep_from: int) -> None:
    """Enter a change and forget those with numbers below `keep_from`."""
    counts = msgspec.json.encode(row.counts).decode()
    connection.execute(_PRUNE, (keep_from,))
    connection.execute(_INSERT, (row.number, row.when, row.by, row.what, counts, packed(change.inverse())))


def drop_row(connection: sqlite3.Connection, number: int) -> None:
    """Forget one change."""
    connection.execute("DELETE FROM history WHERE number = ?", (number,))


def read_inverse(connection: sqlite3.Connection, number: int) -> Change:
    """Return what takes change `number` back; Undecodable where it is damaged or missing."""
    row = connection.execute(_INVERSE, (number,)).fetchone()
    if row is None:
        raise Undecodable(f"history {number}: missing")
    try:
        return unpacked(row[0])
    except Undecodable as error:
        raise Undecodable(f"history {number}: {error}") from error


def text(value: str) -> str:
    """Return a text fit for a row: valid Unicode, one line, cut."""
    plain = " ".join(value.encode("utf-8", "replace").decode("utf-8").split())
    return plain if len(plain) <= MOST_TEXT else f"{plain[: MOST_TEXT - 1]}…"
