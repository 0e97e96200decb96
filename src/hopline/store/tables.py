"""How a noun lies in the file: a table of its name, a row for each entry, the key first.

A field that is a list of objects is one column of JSON. Where a key is made of several fields, it is a column more. A
row is found by all that it says, so a field that comes later, of those objects too, is a new schema that enters it.

Where many keys share a value, as a million destinations do a few next hops, a second table has each value once, with
how many entries have it, and the first has its number. The tables follow from `hopline.intent.NOUNS`; nothing here
knows one noun from another.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec

from hopline.errors import InvalidInput
from hopline.intent import NOUNS, Change, Delta, Noun
from hopline.store.rows import Rows, Tail, Undecodable, column, is_list

_encoder = msgspec.json.Encoder()


class Table:
    """One noun, each of whose entries is a row of its own."""

    def __init__(self, noun: Noun) -> None:
        self.noun = noun
        names = [field.encode_name for field in msgspec.structs.fields(noun.kind)]
        if noun.composed is None and names[0] != noun.key:
            raise TypeError(f"{noun.kind.__name__}: the key {noun.key} is to be its first field")
        self._names = names if noun.composed else names[1:]  # of the fields in a tail
        self._lists = [place for place, name in enumerate(self._names) if is_list(noun.kind, name)]
        self._columns = [column(noun.kind, name) for name in self._names]
        self._fields = [f'"{name}"' for name in self._names]
        self._key = '"key"' if noun.composed else f'"{noun.key}"'
        self._rows = Rows(noun.name, self._key, self._columns, self._fields)
        self.names: tuple[str, ...] = (noun.name,)  # of its tables in the file
        self.create: tuple[str, ...] = (self._rows.create,)

    def rows(self, connection: sqlite3.Connection) -> dict[str, Any]:
        """Read all entries, in key order; Undecodable names the first row that cannot be one."""
        canonical = self.noun.canonical
        known: dict[Tail, Any] = {}

        def value(key: str, tail: Tail) -> Any:
            found = known.get(tail)
            if found is None or canonical(key) != key:
                found = self.value(key, tail)
                if self.noun.shared:
                    known[tail] = found
            return found

        return {row[0]: value(row[0], row[1:]) for row in self._read(connection, self._rows.select)}

    def value(self, key: str, tail: Tail) -> Any:
        """Return what one row says of its key; Undecodable if that cannot be."""
        noun = self.noun
        try:
            fields = dict(zip(self._names, tail, strict=True))
            for place in self._lists:
                fields[self._names[place]] = msgspec.json.decode(str(tail[place]))
            if noun.composed is None:
                fields[noun.key] = key
            entry = msgspec.convert(fields, noun.kind, strict=False)
            if noun.checked(entry) != entry or noun.key_of(entry) != key:
                raise InvalidInput(noun.key, f"{key} is not in its one spelling")
        except (InvalidInput, ValueError) as error:
            raise Undecodable(f"{noun.name} {key!r}: {error}") from error
        return noun.value_of(entry)

    def tails(self, *several: Mapping[str, Any]) -> dict[int, Tail]:
        """Return what rows say of their keys, by the id() of the value; the values are few where they are shared."""
        distinct = {id(value): value for entries in several for value in entries.values()}
        entry, fields, first = self.noun.entry, msgspec.structs.astuple, 0 if self.noun.composed else 1
        tails = {number: fields(entry("", value))[first:] for number, value in distinct.items()}
        for place in self._lists:
            for number, tail in tails.items():
                tails[number] = (*tail[:place], _encoder.encode(tail[place]).decode(), *tail[place + 1 :])
        return tails

    def write(self, connection: sqlite3.Connection, delta: Delta) -> None:
        """Make the change; Astray if a row that goes or changes is not as `before` has it, or a new one is there."""
        self._rows.write(connection, delta, self.tails(delta.before, delta.after))

    def _read(self, connection: sqlite3.Connection, statement: str) -> Iterator[tuple[Any, ...]]:
        """Yield rows; Undecodable names the last before one that is no text."""
        last: object = ""
        # the driver has no number for text that is no UTF-8, and reports it like a disk that fails
        try:
            for row in connection.execute(statement):
                last = row[0]
                yield row
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) is None:
                raise Undecodable(f"{self.noun.name} after {last!r}: {error}".lower()) from error
            raise


class SharedTable(Table):
    """One noun whose values are shared: entries in a table of its name, values in another."""

    def __init__(self, noun: Noun) -> None:
        super().__init__(noun)
        values = f"{noun.name}_value"
        key = self._key
        self._rows = Rows(noun.name, key, ["value INTEGER NOT NULL"], ["value"])
        self.names = (noun.name, values)
        self.create = (
            self._rows.create,
            f'CREATE TABLE IF NOT EXISTS "{values}" (number INTEGER PRIMARY KEY, entries INTEGER NOT NULL, '
            f"{', '.join(self._columns)}) STRICT",
            f'CREATE INDEX IF NOT EXISTS "{values}_known" ON "{values}" ({", ".join(self._fields)})',
        )
        same = " AND ".join(f"{name} IS ?" for name in self._fields)
        self._find = f'SELECT number FROM "{values}" WHERE {same}'
        self._enter = f'INSERT INTO "{values}" VALUES (NULL, 0, {", ".join("?" * len(self._fields))})'
        self._count = f'UPDATE "{values}" SET entries = entries + ? WHERE number = ?'
        self._forget = f'DELETE FROM "{values}" WHERE number = ? AND entries = 0'
        self._values = f'SELECT number, entries, {", ".join(self._fields)} FROM "{values}"'
        # a fifth of the time that a row each takes; bytes, for they may be no UTF-8
        self._all = [
            f'SELECT CAST(json_group_array({name}) AS BLOB) FROM (SELECT {name} FROM "{noun.name}" ORDER BY {key})'
            for name in (key, "value")
        ]

    def rows(self, connection: sqlite3.Connection) -> dict[str, Any]:
        """Read all entries, in key order; Undecodable names the first row that cannot be one."""
        said = {number: (entries, tuple(tail)) for number, entries, *tail in self._read(connection, self._values)}
        keys, numbers = self._entries(connection)
        # the first key of each value, whose fields are checked together with it
        firsts = dict(zip(reversed(numbers), reversed(keys), strict=True))
        values = {number: self._value(key, number, said) for number, key in firsts.items()}
        found = dict(zip(keys, map(values.__getitem__, numbers), strict=True))
        for key in self.noun.doubtful(keys):
            if not self._canonical(key):
                self.value(key, self.tails({key: found[key]})[id(found[key])])
        uses = Counter(numbers)
        for number, (entries, _) in said.items():
            if uses[number] != entries:
                name = self.names[1]
                raise Undecodable(f"{name} {number}: {uses[number]} entries have it, and it says {entries}")
        return found

    def _entries(self, connection: sqlite3.Connection) -> tuple[list[str], list[int]]:
        """Return keys, in order, and the numbers of their values."""
        with suppress(sqlite3.OperationalError, msgspec.DecodeError, UnicodeDecodeError):
            keys, numbers = (connection.execute(statement).fetchone()[0] for statement in self._all)
            return msgspec.json.decode(keys, type=list[str]), msgspec.json.decode(numbers, type=list[int])
        # slower, and says which row it is that cannot be read
        rows = list(self._read(connection, self._rows.select))
        return [str(key) for key, _ in rows], [int(str(number)) for _, number in rows]

    def _canonical(self, key: str) -> bool:
        try:
            return self.noun.canonical(key) == key
        except InvalidInput:
            return False

    def _value(self, key: str, number: int, said: Mapping[object, tuple[object, Tail]]) -> Any:
        if number not in said:
            raise Undecodable(f"{self.noun.name} {key!r}: its value {number} is missing")
        return self.value(key, said[number][1])

    def write(self, connection: sqlite3.Connection, delta: Delta) -> None:
        """Make the change; Astray if a row that goes or changes is not as `before` has it, or a new one is there."""
        tails = self.tails(delta.before, delta.after)
        number = {tail: self._number(connection, tail) for tail in dict.fromkeys(tails.values())}
        self._rows.write(connection, delta, {place: (number[tail],) for place, tail in tails.items()})
        change: Counter[int] = Counter()
        for sign, entries in ((1, delta.after), (-1, delta.before)):
            for place, count in Counter(map(id, entries.values())).items():
                change[number[tails[place]]] += sign * count
        connection.executemany(self._count, [(more, number) for number, more in change.items() if more])
        connection.executemany(self._forget, [(number,) for number, more in change.items() if more < 0])

    def _number(self, connection: sqlite3.Connection, tail: Tail) -> int:
        """Return the number of a value, entered if nothing has it yet; where it should be there, its row is missed."""
        row = connection.execute(self._find, tail).fetchone()
        return int(connection.execute(self._enter, tail).lastrowid or 0 if row is None else row[0])


@cache
def tables() -> Mapping[str, Table]:
    """Return the tables of all nouns, by the noun's name."""
    return {noun.name: (SharedTable if noun.shared else Table)(noun) for noun in NOUNS}


def write_all(connection: sqlite3.Connection, change: Change) -> None:
    """Make a change of any nouns, quickest with keys in order; Astray as `Table.write` says."""
    for name, delta in change.deltas.items():
        tables()[name].write(connection, delta)
