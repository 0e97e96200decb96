"""JSON, read: as its own types where all is well, and by name where something is wrong or given twice."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from hopline.document.values import Repeating
from hopline.errors import InvalidInput

_TODO = "write it as JSON (RFC 8259)"
_AT_ONCE = 4096  # entries that are written at once, to be compared
_WHERE = re.compile(r"(.*) \(byte (\d+)\)", re.DOTALL)


_encoder = msgspec.json.Encoder()


def parsed(data: bytes, kind: Any, whole: str) -> Any:
    """Return `data` as `kind`, or as plain objects where it is not of that kind or repeats a name.

    What is no JSON raises InvalidInput for the field `whole`, with the line.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        value = msgspec.json.decode(data, type=kind)
        if not _may_repeat(data, value):
            return value
    except msgspec.ValidationError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refusal(str(error), data, whole) from None
    except RecursionError:
        raise InvalidInput(whole, "not JSON: nested too deeply", "write objects of plain values") from None
    return objects(data, whole)


def objects(data: bytes, whole: str) -> Any:
    """Return `data` as plain objects, each a Repeating where it repeats a name; refuses as `parsed` does."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidInput(whole, "not JSON: nested too deeply", "write objects of plain values") from None
    except json.JSONDecodeError as error:
        detail = f"not JSON: {error.msg.lower()} in column {error.colno}"
        raise InvalidInput(whole, detail, _TODO, line=error.lineno) from None
    except ValueError as error:
        raise refusal(str(error), data, whole) from None


def repeats(data: bytes, kind: type[msgspec.Struct], entries: Sequence[Any]) -> bool:
    """Whether an object in `data` may repeat a name: names are counted, so one that is also a value says yes too.

    `entries` are all the objects of `kind` that were read from it.
    """
    if b"\\" in data:
        return True  # a name may be spelled with escapes
    for field in msgspec.structs.fields(kind):
        given = len(entries)
        if not field.required:
            given = sum([getattr(entry, field.name) != field.default for entry in entries])
        # each of these has the name once at least: where there are no more, once
        if data.count(f'"{field.encode_name}"'.encode()) != given:
            return not _is_canonical(data, entries)
    return False


def refusal(message: str, data: bytes, whole: str) -> InvalidInput:
    """Return what a parser's message about `data` means, for the field `whole`."""
    said = message.removeprefix("JSON is malformed: ")
    found = _WHERE.fullmatch(said)
    if found is not None:
        at = int(found[2])
        line, column = data.count(b"\n", 0, at) + 1, at - data.rfind(b"\n", 0, at)
        return InvalidInput(whole, f"not JSON: {found[1]} in column {column}", _TODO, line=line)
    if "truncated" in said and b"\\u" in data and _is_whole(data):
        return InvalidInput(whole, "not JSON: half a surrogate pair, as \\ud800 alone", "write the character as UTF-8")
    if "truncated" in said:
        line = data.rstrip().count(b"\n") + 1
        return InvalidInput(whole, "not JSON: it ends too soon", "give all of it", line=line)
    if "codec can't" in said:
        return InvalidInput(whole, "not JSON: not UTF-8", "send it as UTF-8")
    if "digits" in said:
        return InvalidInput(whole, "not JSON: a number that is too long", "no value here is that long")
    return InvalidInput(whole, f"not JSON: {said[:1].lower()}{said[1:]}", _TODO)


def _is_whole(data: bytes) -> bool:
    """Whether a reader that lets half of a surrogate pair pass, which is taken for a text cut short, finds no fault."""
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _is_canonical(data: bytes, entries: Sequence[Any]) -> bool:
    """Whether each entry stands in `data` as msgspec writes it, defaults too, as what Hopline writes itself does."""
    for start in range(0, len(entries), _AT_ONCE):
        some = entries[start : start + _AT_ONCE]
        if start == 0:
            at = 0
            in_lines = data.find(_encoder.encode(some)[1:-1]) < 0
        text = _encoder.encode_lines(some)[:-1] if in_lines else _encoder.encode(some)[1:-1]
        at = data.find(text, at)
        if at < 0:
            return False
        at += len(text)
    return True


def _may_repeat(data: bytes, value: Any) -> bool:
    if b"\\" in data:
        return True
    for table in msgspec.structs.fields(type(value)):
        entries = getattr(value, table.name)
        if data.count(f'"{table.name}"'.encode()) > 1:
            return True
        if entries and repeats(data, type(entries[0]), entries):
            return True
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    times = Counter(name for name, _ in pairs)
    repeating = Repeating(value)
    repeating.repeated = tuple(name for name in value if times[name] > 1)
    return repeating


def _no_constant(name: str) -> Any:
    raise ValueError(f"the constant {name} is no value")
