"""TOML, read: what is no TOML is refused in one line; what is plain is read several times as fast as the rest.

Plain is a document of [[tables]] and [[tables.within]] whose lines are `key = value`, with text, whole and decimal
numbers and bools for values: what `write` writes, and most of what people do.
"""

import re
import tomllib
from typing import Any

import msgspec

from hopline.config import Forward
from hopline.document.problem import DOCUMENT
from hopline.errors import InvalidInput

_WHERE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_QUOTES = 'text goes in quotes, as dev = "enp0s9"'
_ONCE = "give each key once, and begin each entry with [[...]], two brackets"
# how the standard library's refusals begin, what they mean, and what to do
_SAYINGS = (
    ("Expected newline or end of document", "something follows the value", f"{_QUOTES}, and one key stands on a line"),
    ("Invalid value", "no value", _QUOTES),
    ("Cannot overwrite a value", "a key or table that is there already", _ONCE),
    ("Cannot declare", "a table that is there already", _ONCE),
    ("Cannot mutate", "a key or table that is there already", _ONCE),
    ("Cannot redefine", "a key or table that is there already", _ONCE),
    ("Duplicate inline table key", "a key that is there already", _ONCE),
    ("Unterminated string", "a quote that is not closed", "close it"),
    ("Illegal character '\\n'", "a quote that is not closed on its line", "close it"),
    ("Expected \"'''", "a quote that is not closed", "close it"),
    ("Expected ']", "a table's name that is not closed", "write [[forward]]"),
    ("Unclosed array", "a list that is not closed", "close it with ]"),
    ("Unclosed inline table", "a table that is not closed", "close it with }"),
    ("Unescaped", "a \\ that means nothing", "write \\\\ for a \\"),
    ("Expected '=' after a key", "a key without =", "write key = value"),
    ("Invalid statement", "neither a key nor a table", "write key = value, or [[forward]]"),
)

# one entry as `write` writes it, its next hop apart: strings without escapes, so that they mean what they show
_ENTRY = re.compile(r'\[\[forward\]\]\nto = "([^"\\\x00-\x1f\x7f]*)"\n((?:[a-z_]+ = "[^"\\\x00-\x1f\x7f]*"\n)*)\n*')
_FIRST = "[[forward]]\nto = "
# one table and its lines, and a line; bare keys, strings without escapes, numbers as Python's own
_VALUE = r'(?:"[^"\\\x00-\x1f\x7f]*"|true|false|(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?)'
_EMPTY = r"(?:[ \t]*(?:\#[^\x00-\x08\x0a-\x1f\x7f]*)?\n)"
_LINE = rf"[ \t]*[A-Za-z0-9_-]+[ \t]*=[ \t]*{_VALUE}{_EMPTY}"
_TABLE = re.compile(rf"[ \t]*\[\[([A-Za-z0-9_-]+)(?:\.([A-Za-z0-9_-]+))?\]\][ \t]*\n((?:{_LINE}|{_EMPTY})*)")
_HEAD = re.compile(rf"{_EMPTY}*")
_PAIR = re.compile(rf"^[ \t]*([A-Za-z0-9_-]+)[ \t]*=[ \t]*({_VALUE})", re.MULTILINE)
# the standard library takes a time that grows with the square of a key's parts
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*{_PART}(?:[ \t]*\.[ \t]*{_PART}){{64}}", re.MULTILINE)


def decoded(data: bytes) -> str:
    """Return a file's text, line ends being \\n; InvalidInput where it is not UTF-8."""
    try:
        text = data.decode("utf-8-sig")  # editors of other systems put a mark at the start
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            DOCUMENT, f"byte 0x{data[error.start]:02x} is not UTF-8", "save it as UTF-8", line=line
        ) from None
    return text.replace("\r\n", "\n")


def parsed(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text; entries may be of their own types already. InvalidInput has the line."""
    for quick in (_written, _plain):
        found = quick(text)
        if found is not None:
            return found
    long = _LONG_KEY.search(text)
    if long is not None:
        line = text.count("\n", 0, long.end()) + 1
        raise InvalidInput(DOCUMENT, "not TOML: a key of too many parts", "write tables of plain values", line=line)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InvalidInput(DOCUMENT, "not TOML: nested too deeply", "write tables of plain values") from None
    except ValueError as error:
        raise _refusal(str(error), text) from None


def _refusal(message: str, text: str) -> InvalidInput:
    found = _WHERE.fullmatch(message)
    if found is None:  # a number of thousands of digits
        return InvalidInput(DOCUMENT, "not TOML: a number that is too long", "no value here is that long")
    # the end of the document is the last line that has something in it
    line = int(found[2]) if found[2] else text.rstrip().count("\n") + 1
    column = f" in column {found[3]}" if found[3] else ""
    for begins, means, todo in _SAYINGS:
        if found[1].startswith(begins):
            return InvalidInput(DOCUMENT, f"not TOML: {means}{column}", todo, line=line)
    said = f"{found[1][:1].lower()}{found[1][1:]}"
    return InvalidInput(DOCUMENT, f"not TOML: {said}{column}", "see toml.io", line=line)


def _written(text: str) -> dict[str, Any] | None:
    """Return what parsed() does where all forwards, one after the other, are spelled as `write` spells them."""
    start = 0 if text.startswith(_FIRST) else text.find("\n" + _FIRST) + 1
    if start == 0 and not text.startswith(_FIRST):
        return None
    forwards: list[Forward] = []
    hops: dict[str, Forward] = {}
    at = start
    try:
        # a head that ends within a string or a list is no TOML by itself; what follows a head begins a table of its own
        raw = _either(text[:start])
        for found in _ENTRY.finditer(text, start):
            if found.start() != at:
                break
            at = found.end()
            to, named = found.groups()
            hop = hops.get(named)
            if hop is None:
                hop = hops[named] = msgspec.convert(tomllib.loads(f'to = "to"\n{named}'), Forward)
            forwards.append(Forward(to, hop.dev, hop.src_mac, hop.dst_mac, hop.via))
        # the last entry ends at a line that begins a table, or it is not as `write` writes it
        if not text.startswith("[[", at) and at != len(text):
            return None
        rest = _either(text[at:])
    except (ValueError, RecursionError):
        return None
    if "forward" in raw.keys() | rest.keys() or raw.keys() & rest.keys():
        return None
    return {**raw, "forward": forwards, **rest}


def _either(text: str) -> dict[str, Any]:
    found = _plain(text)
    return tomllib.loads(text) if found is None else found


def _plain(text: str) -> dict[str, Any] | None:
    """Return what parsed() does where every line is plain; None where one is not, or is no TOML beside the others."""
    if not text.endswith("\n"):
        text += "\n"
    head = _HEAD.match(text)
    at = 0 if head is None else head.end()
    found: dict[str, Any] = {}
    while at < len(text):
        table = _TABLE.match(text, at)
        if table is None:
            return None
        at = table.end()
        name, within, lines = table.groups()
        pairs = [(key, _value(value)) for key, value in _PAIR.findall(lines)]
        entry = dict(pairs)
        if len(entry) != len(pairs):
            return None
        entries = found.setdefault(name, [])
        if within is not None:
            if not entries:
                return None
            entries = entries[-1].setdefault(within, [])
            # a key of that name is no table
            if not isinstance(entries, list):
                return None
        entries.append(entry)
    return found


def _value(text: str) -> str | bool | int | float:
    if text[0] == '"':
        return text[1:-1]
    if text[0] in "tf":
        return text == "true"
    return float(text) if "." in text else int(text)
