"""How a noun lies in the file: a table of its name, a column for each field of an entry, the key first.

The tables follow from `hopline.intent.NOUNS`; nothing here knows one noun from another.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import cache
from itertools import chain, islice
from operator import add
from typing import Any

import msgspec
import msgspec.inspect as shapes

from hopline.errors import InvalidInput
from hopline.intent import NOUNS, Change, Delta, Noun

Tail = tuple[object, ...]  # a row but for its key

_AT_ONCE = 16  # rows a statement: two thirds of the time of one

_PLAIN: dict[type[shapes.Type], str] = {
    shapes.StrType: "TEXT",
    shapes.LiteralType: "TEXT",
    shapes.BoolType: "INTEGER",
    shapes.IntType: "INTEGER",
}


class Astray(Exception):
    """A change does not start from what is stored."""


class Undecodable(Exception):
    """A row does not say what Hopline could have written; the text names it."""


class Table:
    """The statements and the rows of one noun."""

    def __init__(self, noun: Noun) -> None:
        self.noun = noun
        names = noun.kind.__struct_fields__
        if names[0] != noun.key:
            raise TypeError(f"{noun.kind.__name__}: the key {noun.key} is to be its first field")
        table, key, *rest = (f'"{name}"' for name in (noun.name, *names))
        columns = ", ".join([f"{key} TEXT PRIMARY KEY", *(_column(noun.kind, name) for name in names[1:])])
        # IS also finds NULL: only the very row that is said to be there is changed
        same = " AND ".join([f"{key} = ?", *(f"{name} IS ?" for name in rest)])
        self.create = f"CREATE TABLE IF NOT EXISTS {table} ({columns}) STRICT, WITHOUT ROWID"
        self._select = f"SELECT {', '.join([key, *rest])} FROM {table}"
        row = f"({', '.join('?' * len(names))})"
        self._insert = f"INSERT INTO {table} VALUES {row}"
        self._insert_many = f"INSERT INTO {table} VALUES {', '.join([row] * _AT_ONCE)}"
        self._update = f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in rest)} WHERE {same}"
        self._delete = f"DELETE FROM {table} WHERE {same}"
        # a value without the key in it says the same of many keys, and is one object for them all
        self.shared = noun.key not in noun.value.__struct_fields__

    def rows(self, connection: sqlite3.Connection) -> dict[str, Any]:
        """Read all entries, in key order; Undecodable names the first row that cannot be one."""
        key, value, found = "", self.values(), {}
        # the driver has no number for text that is no UTF-8, and reports it like a disk that fails
        try:
            for row in connection.execute(self._select):
                key = row[0]
                found[key] = value(key, row[1:])
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) is None:
                raise Undecodable(f"{self.noun.name} after {key!r}: {error}".lower()) from error
            raise
        return found

    def values(self) -> Callable[[str, Tail], Any]:
        """Return what makes values out of rows: a function of key and tail that raises Undecodable."""
        canonical = self.noun.canonical
        known: dict[Tail, Any] = {}

        def value(key: str, tail: Tail) -> Any:
            found = known.get(tail)
            if found is None or canonical(key) != key:
                found = self.value(key, tail)
                if self.shared:
                    known[tail] = found
            return found

        return value

    def value(self, key: str, tail: Tail) -> Any:
        """Return what one row says of its key; Undecodable if that cannot be."""
        noun = self.noun
        try:
            fields = dict(zip(noun.kind.__struct_fields__, (key, *tail), strict=True))
            entry = msgspec.convert(fields, noun.kind, strict=False)
            if noun.checked(entry) != entry:
                raise InvalidInput(noun.key, f"{key} is not in its one spelling")
        except (InvalidInput, ValueError) as error:
            raise Undecodable(f"{noun.name} {key!r}: {error}") from error
        return noun.value_of(entry)

    def tails(self, entries: Mapping[str, Any]) -> dict[int, Tail]:
        """Return what rows say of their keys, by the id() of the value; the values are few where they are shared."""
        distinct = {id(value): value for value in entries.values()}
        entry, fields = self.noun.entry, msgspec.structs.astuple
        return {number: fields(entry("", value))[1:] for number, value in distinct.items()}

    def write(self, connection: sqlite3.Connection, delta: Delta) -> None:
        """Make the change; Astray if a row that goes or changes is not as `before` has it, or a new one is there."""
        both = delta.before.keys() & delta.after.keys()
        removed, added = (_but(entries, both) for entries in (delta.before, delta.after))
        self._run(connection, self._delete, self._rows(removed), len(removed))
        if both:
            old, new = (_but(entries, entries.keys() - both) for entries in (delta.before, delta.after))
            tails = map(self.tails(new).__getitem__, map(id, map(new.__getitem__, old)))
            self._run(connection, self._update, map(add, tails, self._rows(old)), len(both))
        try:
            rows, whole = self._rows(added), len(added) // _AT_ONCE
            together = (tuple(chain.from_iterable(islice(rows, _AT_ONCE))) for _ in range(whole))
            self._run(connection, self._insert_many, together, whole * _AT_ONCE)
            self._run(connection, self._insert, rows, len(added) % _AT_ONCE)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                raise
            raise Astray(self.noun.name) from error

    def _rows(self, entries: Mapping[str, Any]) -> Iterator[Tail]:
        tails = self.tails(entries)
        # without a step of Python's own, a million rows take a fifth of the time
        return map(add, zip(entries), map(tails.__getitem__, map(id, entries.values())))

    def _run(self, connection: sqlite3.Connection, statement: str, rows: Iterator[Tail], count: int) -> None:
        if count and connection.executemany(statement, rows).rowcount != count:
            raise Astray(self.noun.name)


def in_order(change: Change) -> Change:
    """Return the same change with keys in order, so that pages fill one after another: 4 times as fast at a million."""
    deltas = {}
    for noun, delta in change.deltas.items():
        after = sorted(delta.after)
        before = after if delta.before.keys() == delta.after.keys() else sorted(delta.before)
        deltas[noun] = Delta({key: delta.before[key] for key in before}, {key: delta.after[key] for key in after})
    return Change(deltas)


def _but(entries: Mapping[str, Any], keys: Set[str]) -> Mapping[str, Any]:
    if len(keys) in (0, len(entries)):
        return {} if keys else entries
    return {key: value for key, value in entries.items() if key not in keys}


def _column(kind: type[msgspec.Struct], name: str) -> str:
    """Return a column's definition: NULL stands for None, 0 and 1 for a bool."""
    info = shapes.type_info(kind)
    assert isinstance(info, shapes.StructType)
    of = next(field.type for field in info.fields if field.name == name)
    types = of.types if isinstance(of, shapes.UnionType) else (of,)
    plain = {_PLAIN.get(type(each)) for each in types if not isinstance(each, shapes.NoneType)}
    if len(plain) != 1 or None in plain:
        raise TypeError(f"{kind.__name__}.{name}: no column for its type: give it one in hopline.store.tables")
    nullable = any(isinstance(each, shapes.NoneType) for each in types)
    return f'"{name}" {plain.pop()}{"" if nullable else " NOT NULL"}'


@cache
def tables() -> Mapping[str, Table]:
    """Return the tables of all nouns, by the noun's name."""
    return {noun.name: Table(noun) for noun in NOUNS}


def write_all(connection: sqlite3.Connection, change: Change) -> None:
    """Make a change of any nouns, quickest with keys in order; Astray as `Table.write` says."""
    for name, delta in change.deltas.items():
        tables()[name].write(connection, delta)


def folded(changes: Iterable[Change]) -> Change:
    """Return the one change that does all of these in turn, in time that grows with what they touch, not squared."""
    folds: dict[str, _Fold] = {}
    for change in changes:
        for noun, delta in change.deltas.items():
            folds.setdefault(noun, _Fold()).add(delta)
    return Change({noun: delta for noun, fold in folds.items() if (delta := fold.delta())})


class _Fold:
    """What several changes of one noun come to."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}
        self._after: dict[str, Any] = {}
        self._touched: set[str] = set()

    def add(self, delta: Delta) -> None:
        """Take in the next change."""
        if not self._touched:
            self._before, self._after = dict(delta.before), dict(delta.after)
        else:
            for key in delta.before.keys() - self._touched:
                self._before[key] = delta.before[key]
            for key in delta.before.keys() - delta.after.keys():
                self._after.pop(key, None)
            self._after.update(delta.after)
        self._touched |= delta.before.keys() | delta.after.keys()

    def delta(self) -> Delta:
        """Return the whole; what comes out as it was before is no part of it."""
        before, after = self._before, self._after
        same = {key for key in before.keys() & after.keys() if before[key] == after[key]}
        return Delta(_but(before, same), _but(after, same))
