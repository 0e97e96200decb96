"""A document, read: the intent that it wants, and where in it each value stands."""

import re
from collections.abc import Callable
from functools import cached_property
from typing import Literal, get_args

import msgspec

from hopline.config import Intent
from hopline.document import json, toml
from hopline.document.bulk import BulkReader
from hopline.document.places import TomlPlaces
from hopline.document.problem import DOCUMENT, Path, path_of
from hopline.document.values import wanted_from
from hopline.errors import InvalidInput, InvalidInputs
from hopline.intent import Wanted

Format = Literal["toml", "json", "jsonl", "csv"]

FORMATS: tuple[Format, ...] = get_args(Format)

_BY_SUFFIX: dict[str, Format] = {"json": "json", "jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv"}
_JSON_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{|\[\s*[\]{])")  # no TOML does


class Document:
    """What a document wants, its entries in its own order; `name` is the file's."""

    def __init__(self, wanted: Wanted, name: str, line_of: Callable[[Path], int | None]) -> None:
        self.wanted = wanted
        self.name = name
        self._line_of = line_of

    def line_of(self, field: str) -> int | None:
        """Return the line of a field such as `forward[3].dev`, or of the entry it would be in; None in JSON."""
        return self._line_of(path_of(field))

    def located(self, error: InvalidInput) -> InvalidInput:
        """Return what somebody else found wrong with this document, with the line and the entry's key."""
        if isinstance(error, InvalidInputs):
            return InvalidInputs([self.located(problem) for problem in error.problems], error.count)
        line = self.line_of(error.field) if error.line is None else error.line
        key = self._keys_by_place.get(path_of(error.field)[:2]) if error.key is None else error.key
        return InvalidInput(error.field, error.detail, error.hint, line=line, key=key)

    @cached_property
    def _keys_by_place(self) -> dict[Path, str]:
        return {(noun, place): key for noun, values in self.wanted.entries.items() for place, key in enumerate(values)}


def read_document(data: bytes, name: str, format: Format | None = None) -> Document:
    """Read a document; `name`, a path or "-", says the format unless `format` does.

    Raises InvalidInput where one value is wrong and InvalidInputs where several are, with lines and keys.
    """
    format = format or _format_of(data, name)
    if format == "toml":
        return _read_toml(data, name)
    if format == "json":
        return Document(_read_json(data, DOCUMENT), name, lambda path: None)
    reader = BulkReader(format)
    reader.feed(data)
    entries = reader.finish()

    def line_of(path: Path) -> int | None:
        place = path[1] if len(path) > 1 and path[0] == "forward" else None
        return reader.line_of(place) if isinstance(place, int) and place < reader.entries else None

    return Document(Wanted({"forward": entries}), name, line_of)


def read_json(data: bytes, name: str = "body") -> Wanted:
    """Read the JSON of the API; what is no document at all is refused as the field `name`."""
    return _read_json(data, name)


def _format_of(data: bytes, name: str) -> Format:
    if name == "-":
        return "json" if _JSON_BEGINS.match(data) else "toml"
    return _BY_SUFFIX.get(name.rpartition(".")[2].lower(), "toml")


def _read_toml(data: bytes, name: str) -> Document:
    text = toml.decoded(data)
    places: list[TomlPlaces] = []  # made when first asked for, which is when something is wrong

    def line_of(path: Path) -> int | None:
        if not places:
            places.append(TomlPlaces(text))
        return places[0].line_of(path)

    return Document(wanted_from(toml.parsed(text), line_of), name, line_of)


def _read_json(data: bytes, whole: str) -> Wanted:
    raw = json.parsed(data, Intent, whole)
    if isinstance(raw, Intent):
        raw = msgspec.structs.asdict(raw)
    return wanted_from(raw, lambda path: None)
