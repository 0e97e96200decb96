"""An intent, written as a TOML document."""

from typing import Any, TextIO

import msgspec

from hopline.config import Intent
from hopline.intent import NOUNS, Noun, Wanted, wanted_of

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
                rest = rest_of[value] = _rest(noun, value)
            block.append(f"{gap}[[{noun.name}]]\n{noun.key} = {_spelled(key)}\n{rest}")
            gap = "\n"
            if len(block) == _AT_ONCE:
                out.write("".join(block))
                block.clear()
        out.write("".join(block))


def _rest(noun: Noun, value: Any) -> str:
    lines = []
    for field in msgspec.structs.fields(noun.kind):
        held = getattr(value, field.name, field.default)
        if field.name != noun.key and held != field.default:
            lines.append(f"{field.name} = {_spelled(held)}\n")
    return "".join(lines)


def _spelled(value: str | bool | int) -> str:
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
