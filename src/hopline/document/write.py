"""An intent, written as a TOML document."""

from functools import cache
from typing import Any, TextIO

import msgspec

from hopline.config import Intent
from hopline.intent import NOUNS, Wanted, wanted_of

_AT_ONCE = 4096  # entries that are written at once


def write_toml(intent: Intent | Wanted, out: TextIO) -> None:
    """Write a checked intent, noun by noun, without what is a default; ASCII, so that any terminal or file will do."""
    wanted = wanted_of(intent) if isinstance(intent, Intent) else intent
    gap = ""
    for noun in NOUNS:
        rest_of: dict[Any, str] = {}  # a million entries share few values
        block: list[str] = []
        for key, value in wanted.of(noun.name).items():
            rest = rest_of.get(value)
            if rest is None:
                rest = rest_of[value] = _fields(value, noun.kind, noun.key, noun.name)
            first = key if noun.composed is None else getattr(value, noun.key)
            block.append(f"{gap}[[{noun.name}]]\n{noun.key} = {_spelled(first)}\n{rest}")
            gap = "\n"
            if len(block) == _AT_ONCE:
                out.write("".join(block))
                block.clear()
        out.write("".join(block))


def _fields(value: Any, kind: type[msgspec.Struct], key: str, table: str, indent: str = "") -> str:
    """Return the lines of what is no default, but for the key, and after them the tables within."""
    lines, tables = [], []
    for name, encoded, default in _fields_of(kind):
        held = getattr(value, name, default)
        if name == key or held == default:
            continue
        if isinstance(held, tuple):
            part, inner = f"{table}.{encoded}", type(held[0])
            tables += [f"{indent}  [[{part}]]\n{_fields(one, inner, '', part, indent + '  ')}" for one in held]
        else:
            lines.append(f"{indent}{encoded} = {_spelled(held)}\n")
    return "".join([*lines, *tables])


@cache
def _fields_of(kind: type[msgspec.Struct]) -> list[tuple[str, str, Any]]:
    return [(field.name, field.encode_name, field.default) for field in msgspec.structs.fields(kind)]


def _spelled(value: str | bool | int | float) -> str:
    if not isinstance(value, str):
        return str(value).lower()
    if value.isascii() and '"' not in value and "\\" not in value and value.isprintable():
        return f'"{value}"'
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isascii() and character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
