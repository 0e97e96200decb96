"""From what a parser made of a document to the intent that it wants: all that is wrong is found, and named."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from hopline.config import FIELD_CHECKS, Forward, NextHops
from hopline.document.problem import DOCUMENT, Path, path_of, placed
from hopline.errors import MOST_PROBLEMS, InvalidInput, Problems
from hopline.intent import NOUNS, Noun, Wanted
from hopline.spelling import shown

# how a document calls its keys, where the field's name does not say it
_KEY_WORDS = {"to": "destination", "local": "pair of local and from"}


class Repeating(dict[str, Any]):
    """A JSON object in which `repeated` names were given more than once."""

    repeated: tuple[str, ...] = ()


def wanted_from(raw: object, line_of: Callable[[Path], int | None]) -> Wanted:
    """Return what a parsed document wants; its entries may be of their own types already, which is quicker.

    Raises InvalidInput or InvalidInputs with lines and keys.
    """
    problems = Problems()
    if not isinstance(raw, dict):
        _refuse_shape(problems, (), line_of, f"{_what(raw)}, not a document", "give an object of tables")
        problems.refuse()
    assert isinstance(raw, dict)
    known = [noun.name for noun in NOUNS]
    for name in raw:
        if name not in known:
            hint = _instead(str(name), known, "tables")
            problems.add(InvalidInput(shown(str(name)), "no such table", hint, line=line_of((str(name),))))
    for name in getattr(raw, "repeated", ()):
        problems.add(InvalidInput(shown(name), "given twice", "give each table once"))
    wanted = Wanted({noun.name: _Table(noun, line_of, problems).read(raw.get(noun.name, ())) for noun in NOUNS})
    problems.refuse()
    for noun in NOUNS:
        _check_together(noun, wanted.of(noun.name), line_of, problems)
    problems.refuse()
    return wanted


def _check_together(
    noun: Noun, values: Mapping[str, Any], line_of: Callable[[Path], int | None], problems: Problems
) -> None:
    places: dict[str, int] = {}
    for key, error in noun.together(values, values):
        places = places or {key: place for place, key in enumerate(values)}
        line = line_of((noun.name, places[key], error.field))
        problems.add(placed(error, noun.name, places[key], line, key))


def entering(noun: Noun) -> Callable[[Any], tuple[str, Any]]:
    """Return what checks one entry after the other and returns key and value, or raises InvalidInput(s)."""
    if noun.kind is Forward:
        return NextHops().checked

    def enter(entry: Any) -> tuple[str, Any]:
        right = noun.checked(entry)
        return noun.key_of(right), noun.value_of(right)

    return enter


def entry_of(noun: Noun, given: object) -> Any:
    """Return one parsed entry as its type; InvalidInput(s) name the fields that are unknown, missing or ill-typed."""
    return given if isinstance(given, noun.kind) else typed(noun.kind, noun.name, given)


def typed(kind: type[msgspec.Struct], name: str, given: object) -> Any:
    """Return a parsed object as a `kind`, which is called `name`; raises as entry_of, the field of the whole is ""."""
    try:
        if not any(repeated(given)):
            return msgspec.convert(given, kind)
        found = ""
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter of half a surrogate pair
        found = str(error)
    problems = Problems()
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if isinstance(given, dict):
        _check_fields(kind, name, given, problems)
    else:
        problems.add(InvalidInput("", _what(given), f"write a table of {_listed(list(fields))}"))
    if not problems.count:
        problems.add(InvalidInput("", shown(found), f"the fields are {_listed(list(fields))}"))
    problems.refuse()
    raise AssertionError("nothing was wrong")


def repeated(given: object, where: str = "") -> Iterator[str]:
    """Yield the names that a parsed object, and those in its lists, have more than once; `where` goes before them."""
    if isinstance(given, dict):
        for name in getattr(given, "repeated", ()):
            yield f"{where}{name}"
        for name, value in given.items():
            if isinstance(value, list):
                for place, one in enumerate(value):
                    yield from repeated(one, f"{where}{name}[{place}].")


def place_of(key: str, values: Mapping[str, Any], skipped: Sequence[int]) -> int:
    """Return which entry a key came from; `values` has them in order but for those in `skipped`, which ascend."""
    place = next(index for index, other in enumerate(values) if other == key)
    for gap in skipped:
        if gap > place:
            break
        place += 1
    return place


def twin(noun: Noun, key: str, where: str) -> InvalidInput:
    """Return the refusal of a key that another entry has."""
    return InvalidInput(noun.key, f"{key} is also {where}", f"give each {_KEY_WORDS.get(noun.key, noun.key)} once")


def key_in(noun: Noun, given: object) -> str | None:
    """Return the key as an entry has it, right or wrong; None if it has none that can be shown."""
    key = given.get(noun.key) if isinstance(given, dict) else getattr(given, noun.key, None)
    return key if isinstance(key, str) and key.isprintable() else None


def right_key(noun: Noun, given: object) -> str | None:
    """Return the key of an entry that is wrong, in its one spelling, if at least the key is right."""
    if noun.composed is not None:
        return None
    key, check = key_in(noun, given), FIELD_CHECKS.get(noun.kind, {}).get(noun.key)
    try:
        return check(key, noun.key) if key is not None and check is not None else key
    except InvalidInput:
        return None


class _Table:
    """The entries of one noun, as they are read."""

    def __init__(self, noun: Noun, line_of: Callable[[Path], int | None], problems: Problems) -> None:
        self.noun = noun
        self._line_of = line_of
        self._problems = problems
        self._values: dict[str, Any] = {}
        self._skipped: list[int] = []

    def read(self, given: object) -> dict[str, Any]:
        """Return key → value of those that are right; the others are noted."""
        noun, values = self.noun, self._values
        if not isinstance(given, list | tuple):
            hint = f"give a list of entries: in TOML, each begins with [[{noun.name}]]"
            _refuse_shape(self._problems, (noun.name,), self._line_of, _what(given), hint)
            return values
        enter = entering(noun)
        for place, entry in enumerate(given):
            try:
                key, value = enter(entry_of(noun, entry))
                if key in values:
                    raise self._twin(key)
                values[key] = value
            except InvalidInput as error:
                self._note(place, entry, error)
        return values

    def _twin(self, key: str) -> InvalidInput:
        if self._problems.count >= MOST_PROBLEMS:
            return twin(self.noun, key, "given before")  # is counted and not shown
        first = place_of(key, self._values, self._skipped)
        line = self._line_of((self.noun.name, first, self.noun.key))
        return twin(self.noun, key, f"{self.noun.name}[{first}]" + ("" if line is None else f" on line {line}"))

    def _note(self, place: int, entry: object, error: InvalidInput) -> None:
        name, named, key = self.noun.name, key_in(self.noun, entry), right_key(self.noun, entry)
        problems = list(error.problems)
        if key is None:
            self._skipped.append(place)
        elif key not in self._values:
            self._values[key] = None  # so that another of this key is found
        else:
            self._skipped.append(place)
            if all(problem.field != self.noun.key for problem in problems):
                problems.append(self._twin(key))
        for problem in problems:
            line = self._line_of(path_of(f"{name}[{place}].{problem.field}") if problem.field else (name, place))
            self._problems.add(placed(problem, name, place, line, named))


def _check_fields(
    kind: type[msgspec.Struct], of: str, given: Mapping[str, Any], problems: Problems, where: str = ""
) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    checks = FIELD_CHECKS.get(kind, {})
    for name, value in given.items():
        field, path = fields.get(name), f"{where}{name}"
        if field is None:
            hint = _instead(str(name), list(fields), "fields")
            problems.add(InvalidInput(f"{where}{shown(str(name))}", "no such field", hint))
        elif (part := part_of(field.type)) is not None and isinstance(value, list | tuple):
            for place, one in enumerate(value):
                _check_part(part, name, one, problems, f"{path}[{place}]")
        elif name in checks and (_fits(value, field.type) or (isinstance(value, str) and _text(field.type) is str)):
            try:
                if value is not None:
                    checks[name](value, path)
            except InvalidInput as error:
                problems.add(error)
        elif not _fits(value, field.type):
            problems.add(InvalidInput(path, _what(value), _wanted(field.type)))
    for name in getattr(given, "repeated", ()):
        problems.add(InvalidInput(f"{where}{shown(name)}", "given twice", "give each field once"))
    for name, field in fields.items():
        if field.required and name not in given:
            problems.add(InvalidInput(f"{where}{name}", "missing", f"each {of} has one"))


def _check_part(kind: type[msgspec.Struct], of: str, given: object, problems: Problems, where: str) -> None:
    """Note what is wrong with one table of a list within an entry."""
    if isinstance(given, dict):
        _check_fields(kind, of, given, problems, f"{where}.")
    elif not isinstance(given, kind):
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        problems.add(InvalidInput(where, _what(given), f"write a table of {_listed(names)}"))


def part_of(kind: Any) -> type[msgspec.Struct] | None:
    """Return the type of the tables in a field that is a list of them; None of another field."""
    inner = get_args(kind)[0] if get_origin(kind) is tuple else None
    return inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None


def _text(kind: Any) -> Any:
    """Return `str` for a field whose values are texts, whichever; else the field's own type."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return str if any(each is str or get_origin(each) is Literal for each in kinds) else kind


def _refuse_shape(
    problems: Problems, path: Path, line_of: Callable[[Path], int | None], detail: str, hint: str
) -> None:
    field = str(path[0]) if path else DOCUMENT
    problems.add(InvalidInput(field, detail, hint, line=line_of(path)))


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


def _wanted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"use one of {_listed(list(get_args(kind)))}"
    if get_origin(kind) in (Union, UnionType):
        return _wanted(get_args(kind)[0])
    if get_origin(kind) in (list, tuple):
        return "write a list"
    words = {bool: "write true or false", int: "write a whole number", float: "write a number"}
    return words.get(kind, "write text in quotes")


def _what(value: object) -> str:
    if isinstance(value, bool):
        return f"{str(value).lower()} is not text"
    if isinstance(value, int | float):
        return f"{shown(str(value))} is a number"
    if isinstance(value, str):
        return f"{shown(value)} is text"
    if isinstance(value, datetime | date | time):
        return f"{value} is a date or a time"
    if value is None:
        return "null is no value"
    return "a list" if isinstance(value, list | tuple) else "a table"


def _instead(name: str, known: list[str], what: str) -> str:
    near = get_close_matches(name[:64], known, 1)
    return (f"did you mean {near[0]}? " if near else "") + f"the {what} are {_listed(known)}"


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
