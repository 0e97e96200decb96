"""One table of the file: a key and what its row says of it, the tail; written by the statement, many rows at once."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import add
from typing import Any

import msgspec
import msgspec.inspect as shapes

from hopline.intent import Delta

Tail = tuple[object, ...]  # a row but for its key

_AT_ONCE = 16  # rows a statement: two thirds of the time of one

_PLAIN: dict[type[shapes.Type], str] = {
    shapes.StrType: "TEXT",
    shapes.LiteralType: "TEXT",
    shapes.BoolType: "INTEGER",
    shapes.IntType: "INTEGER",
    shapes.FloatType: "REAL",
    shapes.VarTupleType: "TEXT",  # a list of objects, as JSON
}


class Astray(Exception):
    """A change does not start from what is stored."""


class Undecodable(Exception):
    """A row does not say what Hopline could have written; the text names it."""


def column(kind: type[msgspec.Struct], name: str) -> str:
    """Return the definition of a field's column: NULL stands for None, 0 and 1 for a bool, JSON for a list."""
    types = _types(kind, name)
    plain = {_PLAIN.get(type(each)) for each in types if not isinstance(each, shapes.NoneType)}
    if plain == {"TEXT", "INTEGER"}:
        plain = {"TEXT"}  # may be written as a number, and is spelled as text
    if len(plain) != 1 or None in plain:
        raise TypeError(f"{kind.__name__}.{name}: no column for its type: give it one in hopline.store.rows")
    nullable = any(isinstance(each, shapes.NoneType) for each in types)
    return f'"{name}" {plain.pop()}{"" if nullable else " NOT NULL"}'


def is_list(kind: type[msgspec.Struct], name: str) -> bool:
    """Whether a field is a list of objects."""
    return any(isinstance(each, shapes.VarTupleType) for each in _types(kind, name))


def _types(kind: type[msgspec.Struct], name: str) -> tuple[shapes.Type, ...]:
    info = shapes.type_info(kind)
    assert isinstance(info, shapes.StructType)
    of = next(field.type for field in info.fields if field.encode_name == name)
    return of.types if isinstance(of, shapes.UnionType) else (of,)


class Rows:
    """The statements of a table: its name, that of its key, and the definitions and names of the other columns."""

    def __init__(self, name: str, key: str, columns: Sequence[str], others: Sequence[str]) -> None:
        self.name = name
        self.create = (
            f'CREATE TABLE IF NOT EXISTS "{name}" ({", ".join([f"{key} TEXT PRIMARY KEY", *columns])}) '
            "STRICT, WITHOUT ROWID"
        )
        # IS also finds NULL: only the very row that is said to be there is changed
        same = " AND ".join([f"{key} = ?", *(f"{other} IS ?" for other in others)])
        self.select = f'SELECT {", ".join([key, *others])} FROM "{name}" ORDER BY {key}'
        row = f"({', '.join('?' * (1 + len(others)))})"
        self._insert = f'INSERT INTO "{name}" VALUES {row}'
        self._insert_many = f'INSERT INTO "{name}" VALUES {", ".join([row] * _AT_ONCE)}'
        self._update = f'UPDATE "{name}" SET {", ".join(f"{other} = ?" for other in others)} WHERE {same}'
        self._delete = f'DELETE FROM "{name}" WHERE {same}'

    def write(self, connection: sqlite3.Connection, delta: Delta, tails: Mapping[int, Tail]) -> None:
        """Make the change; Astray if a row that goes or changes is not as `before` has it, or a new one is there.

        `tails` are by the id() of values.
        """
        before, after = delta.before, delta.after
        removed = [key for key in before if key not in after] if after else before
        changed = [key for key in before if key in after] if after else ()
        added = [key for key in after if key not in before] if before else after
        self._run(connection, self._delete, _rows(removed, before, tails), len(removed))
        news = map(tails.__getitem__, map(id, map(after.__getitem__, changed)))
        self._run(connection, self._update, map(add, news, _rows(changed, before, tails)), len(changed))
        try:
            rows, whole = _rows(added, after, tails), len(added) // _AT_ONCE
            together = (tuple(chain.from_iterable(islice(rows, _AT_ONCE))) for _ in range(whole))
            self._run(connection, self._insert_many, together, whole * _AT_ONCE)
            self._run(connection, self._insert, rows, len(added) % _AT_ONCE)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                raise
            raise Astray(self.name) from error

    def _run(self, connection: sqlite3.Connection, statement: str, rows: Iterable[Tail], count: int) -> None:
        if count and connection.executemany(statement, rows).rowcount != count:
            raise Astray(self.name)


def _rows(keys: Collection[str], entries: Mapping[str, Any], tails: Mapping[int, Tail]) -> Iterator[Tail]:
    # without a step of Python's own, a million rows take a fifth of the time
    return map(add, zip(keys), map(tails.__getitem__, map(id, map(entries.__getitem__, keys))))
