"""JSON, read: as its own types where all is well, and by name where something is wrong or given twice."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from hopline.document.values import Repeating, part_of
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
        if not _document_repeats(data, value):
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
    """Whether an object in `data` may repeat a name: one that has its default and says so makes it say yes too.

    `entries` are all the objects of `kind` that were read from it.
    """
    return _may_repeat(data, [(kind, entries)], [entries])


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


def _document_repeats(data: bytes, value: Any) -> bool:
    """Whether an object in a document that was read as `value`, or the document itself, may repeat a name."""
    names = [table.name for table in msgspec.structs.fields(type(value))]
    if any(data.count(f'"{name}"'.encode()) > 1 and _times(data, name) > 1 for name in names):
        return True
    groups = [entries for name in names if (entries := getattr(value, name))]
    kinds: list[tuple[type[msgspec.Struct], Sequence[Any]]] = []
    for entries in groups:
        kind = type(entries[0])
        kinds.append((kind, entries))
        for field in msgspec.structs.fields(kind):
            part = part_of(field.type)
            if part is not None:
                kinds.append((part, [one for entry in entries for one in getattr(entry, field.name)]))
    return _may_repeat(data, kinds, groups)


def _may_repeat(
    data: bytes, kinds: Sequence[tuple[type[msgspec.Struct], Sequence[Any]]], groups: Sequence[Sequence[Any]]
) -> bool:
    """Whether a name may be repeated: `kinds` are all objects by their type, `groups` those that stand in one list."""
    if b"\\" in data:
        return True  # a name may be spelled with escapes
    given: Counter[str] = Counter()
    for kind, entries in kinds:
        for field in msgspec.structs.fields(kind):
            each = len(entries)
            if not field.required:
                each = sum([getattr(entry, field.name) != field.default for entry in entries])
            given[field.encode_name] += each
    for name, count in given.items():
        # each of these has the name once at least: where there are no more, once
        if data.count(f'"{name}"'.encode()) != count and _times(data, name) != count:
            return not all(_is_canonical(data, entries) for entries in groups)
    return False


def _times(data: bytes, name: str) -> int:
    """Return how often a text without escapes is the name of something, rather than its value."""
    return len(re.findall(rf'"{name}"\s*:'.encode(), data))


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
