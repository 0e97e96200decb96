"""Where in a TOML text its tables and keys are: the standard library's parser does not say.

The text has been parsed before, so it is TOML; this only walks over its statements (toml.io/en/v1.0.0).
"""

import re
import tomllib

from hopline.document.problem import Path

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?""""{0,2}|\'\'\'.*?\'\'\'\'{0,2}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]+")
# nearly all of a long document: a key and a short value on a line
_PLAIN = re.compile(r'([A-Za-z0-9_-]+)[ \t]*=[ \t]*(?:"[^"\\\n]*"|true|false|[0-9]+(?:\.[0-9]+)?)[ \t]*\n')


class TomlPlaces:
    """The line of each table, entry and key of a TOML text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: dict[Path, int] = {}
        self._entries: dict[Path, int] = {}  # of each [[table]], how many so far
        self._counted, self._line = 0, 1
        self._walk()

    def line_of(self, path: Path) -> int | None:
        """Return the line (from 1) of a key, else of the entry it would be in; None of an entry that is not there."""
        for length in range(len(path), min(len(path), 2) - 1, -1):
            line = self._lines.get(path[:length])
            if line is not None:
                return line
        return None

    def _walk(self) -> None:
        text, at = self._text, 0
        table: Path = ()
        while True:
            at = self._past(_BLANK, at)
            plain = _PLAIN.match(text, at)
            if plain is not None:
                self._mark((*table, plain[1]), at)
                at = plain.end()
            elif at == len(text):
                return
            elif text[at] == "[":
                table, at = self._header(at)
            else:
                at = self._pair(at, table)

    def _pair(self, at: int, table: Path) -> int:
        """Return where a key and its value end; a key with dots begins the tables that it names."""
        names, end = self._key(at)
        path = table
        for name in names:
            path = (*path, name)
            self._mark(path, at)
        return self._value(self._text.index("=", end) + 1, path)

    def _header(self, at: int) -> tuple[Path, int]:
        array = self._text.startswith("[[", at)
        names, end = self._key(self._past(_BLANK, at + 1 + array))
        path: Path = ()
        for depth, name in enumerate(names, 1):
            path = (*path, name)
            self._mark(path, at)
            if array and depth == len(names):
                self._entries[path] = self._entries.get(path, 0) + 1
            if path in self._entries:
                path = (*path, self._entries[path] - 1)
        self._mark(path, at)
        return path, self._text.index("]]" if array else "]", end) + 1 + array

    def _key(self, at: int) -> tuple[list[str], int]:
        names = []
        while (part := _KEY.match(self._text, at)) is not None:
            name = part[0]
            names.append(next(iter(tomllib.loads(f"{name} = 0"))) if name[0] in "\"'" else name)
            at = part.end()
            dot = _DOT.match(self._text, at)
            if dot is None:
                break
            at = dot.end()
        return names, at

    def _value(self, at: int, path: Path) -> int:
        """Return where a value ends; the keys and elements in it are noted."""
        text = self._text
        at = self._past(_BLANK, at)
        if text[at] in "\"'":
            return self._past(_STRING, at)
        if text[at] not in "[{":
            return self._past(_SCALAR, at)
        closing, place = "]" if text[at] == "[" else "}", 0
        at += 1
        while (at := self._past(_BLANK, at)) < len(text) and text[at] != closing:
            if text[at] == ",":
                at += 1
            elif closing == "]":
                self._mark((*path, place), at)
                at = self._value(at, (*path, place))
                place += 1
            else:
                at = self._pair(at, path)
        return at + 1

    def _past(self, pattern: re.Pattern[str], at: int) -> int:
        found = pattern.match(self._text, at)
        assert found is not None
        return found.end()

    def _mark(self, path: Path, at: int) -> None:
        self._line += self._text.count("\n", self._counted, at)
        self._counted = at
        self._lines.setdefault(path, self._line)
