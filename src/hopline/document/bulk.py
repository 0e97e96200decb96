"""Forwards by the million, CSV or JSON lines, read as they arrive.

CSV (RFC 4180, comma, UTF-8): a header that names the columns, in any order, then an entry a line; an empty cell is a
field that is absent. JSON lines: a forward object a line. Empty lines are nothing.
"""

import csv
from array import array
from bisect import bisect_right
from socket import AF_INET, inet_pton
from typing import Any, Literal

import msgspec

from hopline.config import Forward, NextHop, NextHops
from hopline.document import json
from hopline.document.problem import DOCUMENT, placed
from hopline.document.values import entry_of, key_in, place_of, right_key, twin
from hopline.errors import MOST_PROBLEMS, InvalidInput, Problems
from hopline.intent import NOUNS
from hopline.spelling import shown

MOST_COUNTED = 1000  # wrong values after which an upload is given up

_LINE_MOST = 65_536  # bytes
_PIECE = 1 << 20  # bytes that are taken apart at once
_MOST_RESTS = 65_536  # spellings of next hops that are remembered
_COLUMNS = [field.name for field in msgspec.structs.fields(Forward)]
_HEADER = f"begin with a line of column names, as {','.join(_COLUMNS)}"
_FORWARD = next(noun for noun in NOUNS if noun.kind is Forward)

_NO_HOP = NextHop()

_lines_decoder = msgspec.json.Decoder(Forward)


class BulkReader:
    """Reads one upload: `feed` what came, then `finish`. Not for several threads at once."""

    def __init__(self, format: Literal["csv", "jsonl"]) -> None:
        self._take = self._take_csv if format == "csv" else self._take_json
        self._carry = bytearray()
        self._hops = NextHops()
        self._values: dict[str, NextHop] = {}
        self._problems = Problems()
        self._skipped: list[int] = []  # entries that are wrong and not in _values
        self._line = 0  # how many are done
        self._gaps = array("Q")  # for each line that is no entry, how many entries came before it
        self._columns: list[str] = []
        self._rests: dict[str, NextHop] = {}  # of lines to plain IPv4 hosts: what follows the first cell

    @property
    def entries(self) -> int:
        """How many entries were read so far, right or wrong."""
        return self._line - len(self._gaps)

    def line_of(self, place: int) -> int:
        """Return the line (from 1) of an entry (from 0)."""
        return place + 1 + bisect_right(self._gaps, place)

    def feed(self, chunk: bytes) -> None:
        """Read what arrived, cut anywhere; InvalidInput(s) where it is useless to go on."""
        for start in range(0, len(chunk), _PIECE):
            piece = chunk[start : start + _PIECE]
            end = piece.rfind(b"\n") + 1
            if end:
                whole = bytes(self._carry) + piece[: end - 1]
                self._carry.clear()
                self._take(self._first(whole))
            self._carry += piece[end:]
            if len(self._carry) > _LINE_MOST:
                detail = f"a line of more than {_LINE_MOST} bytes"
                raise InvalidInput(DOCUMENT, detail, "put one entry on a line", line=self._line + 1)

    def finish(self) -> dict[str, NextHop]:
        """Return next hops by destination, one object for equal ones; InvalidInput(s) if anything was wrong."""
        if self._carry:
            whole = bytes(self._carry)
            self._carry.clear()
            self._take(self._first(whole))
        self._problems.refuse()
        if not self._values:
            raise InvalidInput(DOCUMENT, "no entry", "give at least one forward")
        return self._values

    def _first(self, block: bytes) -> bytes:
        return block.removeprefix(b"\xef\xbb\xbf") if self._line == 0 else block

    def _take_csv(self, block: bytes) -> None:
        # what is not UTF-8 becomes surrogates, which no value may have
        lines = block.decode("utf-8", "surrogateescape").split("\n")
        done = 0
        while not self._columns and done < len(lines):
            self._take_header(lines[done])
            done += 1
        rests, values = self._rests, self._values
        to_first = self._columns[:1] == ["to"]
        start = self._line - done
        for number in range(done, len(lines)):
            line = lines[number]
            to, _, rest = line.partition(",")
            hop = rests.get(rest)
            if hop is not None and to not in values:
                try:
                    first = inet_pton(AF_INET, to)[0]
                except (OSError, ValueError):
                    first = 0
                # as spelling.canonical_destination takes them without a closer look
                if 0 < first < 224 and first != 127:
                    values[to] = hop
                    continue
            self._line = start + number
            hop = self._take_line(line)
            if to_first and hop is not None and ":" not in to and '"' not in to:
                if len(rests) == _MOST_RESTS:
                    rests.clear()
                rests[rest] = hop
        self._line = start + len(lines)

    def _take_header(self, line: str) -> None:
        self._gaps.append(0)
        self._line += 1
        if not line.strip():
            return
        try:
            columns = [cell.strip() for cell in self._cells(line)]
        except InvalidInput as error:
            raise InvalidInput("header", error.detail, error.hint, line=self._line) from None
        for name in columns:
            if name not in _COLUMNS:
                detail = f"{shown(name)} is no column of forwards"
                raise InvalidInput("header", detail, _HEADER, line=self._line)
            if columns.count(name) > 1:
                raise InvalidInput("header", f"{name} is there twice", "give each column once", line=self._line)
        if "to" not in columns:
            raise InvalidInput("header", "no column to", _HEADER, line=self._line)
        self._columns = columns

    def _take_line(self, line: str) -> NextHop | None:
        """Read one line of CSV, the next after those that are done; None if it is none, or wrong."""
        if not line.strip():
            self._gaps.append(self.entries)
            return None
        given: dict[str, str] = {}
        try:
            cells = self._cells(line)
            given = {name: text for name, cell in zip(self._columns, cells, strict=False) if (text := cell.strip())}
            if len(cells) != len(self._columns):
                detail = f"{len(cells)} cell{'s' * (len(cells) != 1)} where the header has {len(self._columns)}"
                raise InvalidInput("", detail, "leave a cell empty for what is absent")
            return self._enter(Forward(**given) if "to" in given else entry_of(_FORWARD, given))
        except InvalidInput as error:
            self._note(self.entries, self._line + 1, error, given)
            return None

    def _cells(self, line: str) -> list[str]:
        if '"' not in line:
            return line.split(",")
        try:
            return next(csv.reader([line.rstrip("\r")], strict=True, skipinitialspace=True))
        except (csv.Error, StopIteration):
            raise InvalidInput("", "a quote that is not closed, or not around the whole cell", "close it") from None

    def _take_json(self, block: bytes) -> None:
        lines = block.count(b"\n") + 1
        try:
            forwards = _lines_decoder.decode_lines(block)
        except (ValueError, RecursionError):
            forwards = []
        if len(forwards) != lines or json.repeats(block, Forward, forwards):
            for line in block.split(b"\n"):
                self._take_object(line)
            return
        start = self._line
        for number, forward in enumerate(forwards):
            try:
                self._enter(forward)
            except InvalidInput as error:
                place = start + number - len(self._gaps)
                self._note(place, start + number + 1, error, forward)
        self._line = start + lines

    def _take_object(self, line: bytes) -> None:
        given: Any = None
        if not line.strip():
            self._gaps.append(self.entries)
        else:
            try:
                given = json.objects(line, "")
                self._enter(entry_of(_FORWARD, given))
            except InvalidInput as error:
                self._note(self.entries, self._line + 1, error, given)
        self._line += 1

    def _enter(self, forward: Forward) -> NextHop:
        to, hop = self._hops.checked(forward)
        if to in self._values:
            raise self._twin(to)
        self._values[to] = hop
        return hop

    def _twin(self, to: str) -> InvalidInput:
        if self._problems.count >= MOST_PROBLEMS:
            return twin(_FORWARD, to, "given before")  # is counted and not shown
        return twin(_FORWARD, to, f"on line {self.line_of(place_of(to, self._values, self._skipped))}")

    def _note(self, place: int, line: int, error: InvalidInput, given: object) -> None:
        problems, named, to = list(error.problems), key_in(_FORWARD, given), right_key(_FORWARD, given)
        if to is not None and to not in self._values:
            self._values[to] = _NO_HOP  # so that another of this destination is found
        else:
            self._skipped.append(place)
            if to is not None and all(problem.field != "to" for problem in problems):
                problems.append(self._twin(to))
        for problem in problems:
            self._problems.add(placed(problem, _FORWARD.name, place, line, named))
        if self._problems.count > MOST_COUNTED:
            self._problems.refuse()
