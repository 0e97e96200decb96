"""One field of many rows: read from their octets, and written into its place in lines of fixed width."""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.host.program.shapes import Meaning, Scalar

Octets = NDArray[np.uint8]

_ESCAPED = 6  # octets of a character as JSON has it, at most
_DEVICE = 17  # octets of a device's name in quotes


@dataclass(frozen=True, slots=True)
class Source:
    """Where in a row's octets something is; of a sum over CPUs, `cpus` copies that lie `stride` octets apart."""

    offset: int
    cpus: int = 0
    stride: int = 0

    def plus(self, octets: int) -> "Source":
        """So much further on."""
        return Source(self.offset + octets, self.cpus, self.stride)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field is in all rows: `count` scalars, the first written at `at` and each `step` further in the line."""

    scalar: Scalar
    source: Source
    count: int
    at: int
    step: int
    as_json: bool

    @property
    def pieces(self) -> int:
        """How many groups of four digits a number may have."""
        return 5 if self.source.cpus else {1: 1, 2: 2, 4: 3}.get(self.scalar.size, 5)


def blank(place: Place) -> bytes:
    """A place before it is filled: NUL, and the punctuation that all rows have there."""
    scalar = place.scalar
    if scalar.meaning in ("mac", "octets"):
        return (b":" if scalar.meaning == "mac" else b" ").join([b"\0\0"] * scalar.size)
    if scalar.meaning == "text":
        return b'"' + bytes(_ESCAPED * scalar.size) + b'"'
    if scalar.meaning == "enum":
        return bytes(max(20, *(len(name.encode()) + 2 for name, _ in scalar.names), 0))
    widths: dict[Meaning, int] = {"bool": 5, "float": 24, "ip4": 16, "ip6": 39, "device": _DEVICE}
    return bytes(widths.get(scalar.meaning) or 4 * place.pieces + scalar.signed)


def write(place: Place, octets: Octets, out: Octets) -> None:
    """Write a field of rows of octets, (n, row's size), into their lines, (n, line's width)."""
    _WRITERS[place.scalar.meaning](place, octets, out)


def _cells(place: Place, out: Octets, kind: str, offset: int = 0, inner: tuple[int, int] | None = None) -> NDArray[Any]:
    """A view of what is written: (rows, count) of `kind`, or with `inner`, (number, step), (rows, count, number)."""
    shape: tuple[int, ...] = (len(out), place.count)
    strides: tuple[int, ...] = (out.strides[0], place.step)
    if inner is not None:
        shape, strides = (*shape, inner[0]), (*strides, inner[1])
    return np.ndarray(shape, kind, out, place.at + offset, strides)


def _read(place: Place, octets: Octets) -> NDArray[Any]:
    """A view of what is read, as single octets: (rows, count, size)."""
    shape = (len(octets), place.count, place.scalar.size)
    strides = (octets.strides[0], place.scalar.size, 1)
    return np.ndarray(shape, "u1", octets, place.source.offset, strides)


# numbers


def _table(texts: list[bytes]) -> NDArray[Any]:
    """Texts of 2 or 4 octets as unsigned numbers, which are copied quickest."""
    size = max(map(len, texts))
    return np.array(texts, f"S{size}").view(f"u{size}")


@cache
def _groups() -> tuple[NDArray[Any], NDArray[Any]]:
    """Four digits: 0 to 9999 without leading zeros, and all again with them. Of the last group a lone 0 is written."""
    padded = [b"%04d" % number for number in range(10000)]
    bare = [text.lstrip(b"0").rjust(4, b"\0") for text in padded]
    return _table(bare + padded), _table([b"\0\0\0" + b"0", *bare[1:], *padded])


def _digits(place: Place, out: Octets, offset: int, numbers: NDArray[Any]) -> None:
    """Write unsigned numbers, four digits at a time from the last."""
    inner, last = _groups()
    ten_thousand = numbers.dtype.type(10000)
    for piece in reversed(range(place.pieces)):
        above = numbers // ten_thousand
        index = (numbers - above * ten_thousand).astype(np.intp)
        index += (above != 0) * 10000
        texts = last if piece == place.pieces - 1 else inner
        _cells(place, out, "u4", offset + 4 * piece)[...] = texts[index]
        numbers = above


def _numbers(place: Place, octets: Octets) -> NDArray[Any]:
    """Whole numbers, (rows, count) of 4 or 8 octets; those of a sum added up, as 64 bits wrap."""
    scalar, source = place.scalar, place.source
    sign = "i" if scalar.signed else "u"
    if scalar.bits:
        whole = np.zeros((len(octets), place.count, 8), np.uint8)
        whole[..., : scalar.size] = _read(place, octets)
        found = whole.view("<u8")[..., 0] >> np.uint64(scalar.shift) & np.uint64((1 << scalar.bits) - 1)
        top = np.uint64(1 << scalar.bits - 1)
        return ((found ^ top) - top).view(np.int64) if scalar.signed else found
    kind = np.dtype(f"{'>' if scalar.big_endian else '='}{sign}{scalar.size}")
    shape = (len(octets), max(source.cpus, 1), place.count)
    strides = (octets.strides[0], source.stride, scalar.size)
    found = np.ndarray(shape, kind, octets, source.offset, strides)
    if source.cpus:
        return found.sum(axis=1, dtype=f"{sign}8")
    return found[:, 0].astype(f"{sign}{max(scalar.size, 4)}")


def _write_numbers(place: Place, octets: Octets, out: Octets) -> None:
    numbers = _numbers(place, octets)
    if not place.scalar.signed:
        _digits(place, out, 0, numbers)
        return
    negative = numbers < 0
    _cells(place, out, "u1")[...] = negative * np.uint8(ord("-"))
    magnitude = numbers.view(f"u{numbers.dtype.itemsize}")
    _digits(place, out, 1, np.where(negative, ~magnitude + magnitude.dtype.type(1), magnitude))


# what is looked up in a table


def _write_texts(place: Place, out: Octets, texts: NDArray[np.bytes_]) -> None:
    """Write (rows, count) texts."""
    _cells(place, out, texts.dtype.str)[...] = texts


def _write_bools(place: Place, octets: Octets, out: Octets) -> None:
    true = _numbers(place, octets) != 0
    _write_texts(place, out, np.where(true, np.bytes_(b"true"), np.bytes_(b"false")))


def _write_named(place: Place, out: Octets, numbers: NDArray[Any], names: dict[int, str]) -> None:
    """Write numbers by name, those without one as they are."""
    values, inverse = np.unique(numbers, return_inverse=True)
    texts = []
    for value in values.tolist():
        name = names.get(value)
        texts.append(str(value) if name is None else json.dumps(name, ensure_ascii=False) if place.as_json else name)
    table = np.array([text.encode(errors="backslashreplace") for text in texts], f"S{len(blank(place))}")
    _write_texts(place, out, table[inverse.reshape(numbers.shape)])


def _write_enums(place: Place, octets: Octets, out: Octets) -> None:
    # of two names of one value the first counts
    names = {value: name for name, value in reversed(place.scalar.names)}
    _write_named(place, out, _numbers(place, octets), names)


def _write_devices(place: Place, octets: Octets, out: Octets) -> None:
    """Indices of devices, by their names in the calling thread's network namespace."""
    _write_named(place, out, _numbers(place, octets), dict(socket.if_nameindex()))


@cache
def _quads() -> tuple[NDArray[Any], NDArray[Any]]:
    """An octet in decimal, with a dot behind it and without."""
    numbers = [b"%d" % number for number in range(256)]
    return _table([(text + b".").rjust(4, b"\0") for text in numbers]), _table([n.rjust(4, b"\0") for n in numbers])


def _write_ip4(place: Place, octets: Octets, out: Octets) -> None:
    found, (dotted, last) = _read(place, octets), _quads()
    for index in range(4):
        _cells(place, out, "u4", 4 * index)[...] = (last if index == 3 else dotted)[found[..., index]]


@cache
def _hex() -> NDArray[Any]:
    return _table([b"%02x" % number for number in range(256)])


def _write_octets(place: Place, octets: Octets, out: Octets) -> None:
    _cells(place, out, "u2", inner=(place.scalar.size, 3))[...] = _hex()[_read(place, octets)]


@cache
def _characters() -> NDArray[Any]:
    """Each octet as JSON has it within quotes, and all again as they are where they are no UTF-8: `\\xff`."""
    plain = [json.dumps(chr(octet))[1:-1].encode() for octet in range(128)]
    plain[0] = b""
    high = [bytes([octet]) for octet in range(128, 256)]
    return np.array([*plain, *high, *plain, *(b"\\\\x%02x" % octet for octet in range(128, 256))], f"S{_ESCAPED}")


def _write_char_arrays(place: Place, octets: Octets, out: Octets) -> None:
    found = _read(place, octets)
    # what is behind the first NUL is no part of it
    index = np.where(np.logical_and.accumulate(found != 0, axis=2), found, 0).astype(np.intp)
    for row, cell in np.argwhere((index > 127).any(axis=2)):
        characters = index[row, cell]
        try:
            bytes(characters.tolist()).decode()
        except UnicodeDecodeError:
            characters += 256
    inner = (place.scalar.size, _ESCAPED)
    _cells(place, out, f"S{_ESCAPED}", 1, inner)[...] = _characters()[index]


# what Python has to spell one by one


def _spelled(place: Place, out: Octets, texts: list[str]) -> None:
    table = np.array([text.encode() for text in texts], f"S{len(blank(place))}")
    _write_texts(place, out, table.reshape(len(out), place.count))


def _write_ip6(place: Place, octets: Octets, out: Octets) -> None:
    found = np.ascontiguousarray(_read(place, octets)).tobytes()
    each = [found[start : start + 16] for start in range(0, len(found), 16)]
    _spelled(place, out, list(map(socket.inet_ntop, repeat(socket.AF_INET6), each)))


def _write_floats(place: Place, octets: Octets, out: Octets) -> None:
    found = np.ascontiguousarray(_read(place, octets)).view(f"f{place.scalar.size}")
    texts = [str(number) for number in found.ravel()]
    no_json = ("nan", "inf", "-inf")
    _spelled(place, out, ["null" if place.as_json and text in no_json else text for text in texts])


_WRITERS: dict[Meaning, Callable[[Place, Octets, Octets], None]] = {
    "uint": _write_numbers,
    "int": _write_numbers,
    "bool": _write_bools,
    "enum": _write_enums,
    "float": _write_floats,
    "ip4": _write_ip4,
    "ip6": _write_ip6,
    "mac": _write_octets,
    "text": _write_char_arrays,
    "octets": _write_octets,
    "device": _write_devices,
}
