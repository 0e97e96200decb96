"""Keys and values in words, many rows at a time: text (`10.0.0.1  packets=5 bytes=7`) or JSON.

A row is a line of fixed width: what is the same in all rows is written once, each field has its place, and the places
are filled column by column (cells.py); what a field leaves of its place is NUL, and all NUL are dropped at the end. So
a million rows take about a second, and the memory of a few thousand.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from hopline.host.program.cells import Octets, Place, Source, blank, write
from hopline.host.program.shapes import Array, Prefix, Scalar, Shape, Struct, numbers_in

AT_ONCE = 1 << 20  # octets of rows that are filled together: as much as a processor's cache holds
_QUOTED = frozenset(("ip4", "ip6", "mac", "octets"))


@dataclass(slots=True)
class Rows:
    """A row in the making, and then what writes many. `as_json` says which of the two languages it speaks."""

    as_json: bool
    line: bytearray = field(default_factory=bytearray)
    places: list[Place] = field(default_factory=list)

    def literal(self, text: str) -> None:
        """The same in every row."""
        self.line += text.encode(errors="backslashreplace")

    def shape(self, shape: Shape, source: Source) -> None:
        """A key or value that begins at `source`."""
        if self.as_json:
            self._json(shape, source)
        else:
            self._words(shape, source, "")

    def _json(self, shape: Shape, source: Source) -> None:
        if isinstance(shape, Struct):
            for index, part in enumerate(shape.fields):
                self.literal(("," if index else "{") + json.dumps(part.name, ensure_ascii=False) + ":")
                self._json(part.shape, source.plus(part.offset))
            self.literal("}" if shape.fields else "{}")
        elif isinstance(shape, Array) and not isinstance(shape.element, Scalar):
            for index in range(shape.count):
                self.literal("," if index else "[")
                self._json(shape.element, source.plus(index * shape.element.size))
            self.literal("]")
        elif isinstance(shape, Array):
            self.literal("[")
            self._scalars(shape, source)
            self.literal("]")
        else:
            self._scalars(shape, source)

    def _words(self, shape: Shape, source: Source, path: str) -> None:
        if isinstance(shape, Struct):
            for index, part in enumerate(shape.fields):
                self.literal(" " if index else "")
                self._words(part.shape, source.plus(part.offset), f"{path}.{part.name}" if path else part.name)
        elif isinstance(shape, Array) and not isinstance(shape.element, Scalar):
            for index in range(shape.count):
                self.literal(" " if index else "")
                self._words(shape.element, source.plus(index * shape.element.size), f"{path}[{index}]")
        else:
            self.literal(f"{path}=" if path else "")
            self._scalars(shape, source)

    def _scalars(self, shape: Scalar | Array | Prefix, source: Source) -> None:
        """A scalar, an array of scalars, or a prefix: an address, a slash and a length."""
        if isinstance(shape, Prefix):
            quote = '"' if self.as_json else ""
            self.literal(quote)
            self._place(shape.address, source.plus(4), 1, quoted=False)
            self.literal("/")
            self._place(Scalar("uint", 4, "u32"), source, 1)
            self.literal(quote)
        elif isinstance(shape, Array):
            assert isinstance(shape.element, Scalar)
            self._place(shape.element, source, shape.count)
        else:
            self._place(shape, source, 1)

    def _place(self, scalar: Scalar, source: Source, count: int, quoted: bool = True) -> None:
        quote = b'"' if quoted and self.as_json and scalar.meaning in _QUOTED else b""
        if scalar.size == 0:
            self.line += quote * 2
            return
        place = Place(scalar, source, count, len(self.line) + len(quote), 0, self.as_json)
        cell = quote + blank(place) + quote + b","
        self.line += (cell * count)[:-1]
        self.places.append(replace(place, step=len(cell)))

    def render(self, octets: Octets) -> Iterator[bytes]:
        """The text of rows whose octets are (n, row's size), contiguous; some rows at a time."""
        at_once = max(1, min(len(octets), AT_ONCE // max(len(self.line), 1)))
        page = np.tile(np.frombuffer(self.line, np.uint8), (at_once, 1))
        for first in range(0, len(octets), at_once):
            some = octets[first : first + at_once]
            out = page[: len(some)]
            for place in self.places:
                write(place, some, out)
            yield out.tobytes().translate(None, b"\0")


def rows(key: Shape, value: Shape, cpus: int, as_json: bool, *, bare: bool = False) -> Rows:
    """A row for each element; its octets are the key's and then those of each CPU's value, padded to 8 if per CPU.

    `cpus` is 0 for maps that are not per CPU. In JSON a row begins with `,` and a line feed, in text it ends with one;
    `bare` leaves the key out of a text.
    """
    made = Rows(as_json)
    stride = (value.size + 7) // 8 * 8
    summed, total = numbers_in(value), Source(key.size, cpus, stride)
    if as_json:
        made.literal(',\n{"key":')
        made.shape(key, Source(0))
        made.literal(',"values":[' if cpus else ',"value":')
        for cpu in range(max(cpus, 1)):
            made.literal("," if cpu else "")
            made.shape(value, Source(key.size + cpu * stride))
        made.literal('],"sum":' if cpus else "")
        if cpus and summed is not None:
            made.shape(summed, total)
        made.literal("null}" if cpus and summed is None else "}")
        return made
    lines: list[tuple[str, Shape, Source]] = [
        (f"cpu {cpu} " if cpus else "", value, Source(key.size + cpu * stride)) for cpu in range(max(cpus, 1))
    ]
    if cpus and summed is not None:
        lines.insert(0, ("sum ", summed, total))
    for label, shape, source in lines:
        if not bare:
            made.shape(key, Source(0))
        made.literal(("" if bare else "  ") + label)
        made.shape(shape, source)
        made.literal("\n")
    return made


def one(shape: Shape, octets: bytes, *, as_json: bool = False) -> str:
    """A single key, value or variable in words, or as JSON."""
    made = Rows(as_json)
    made.shape(shape, Source(0))
    return b"".join(made.render(np.frombuffer(octets, np.uint8)[np.newaxis])).decode()
