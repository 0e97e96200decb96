"""Reading capture files: pcap (either byte order, µs and ns) and pcapng, of Ethernet frames.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. Only what says where a frame is and how long it was is
looked at.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from hopline.errors import InvalidInput
from hopline.features.probe import LONGEST_FRAME, SHORTEST_FRAME

ETHERNET = 1  # LINKTYPE_ETHERNET
_MOST = 1 << 26  # octets of a block: more is damage, not a packet

_PCAP = {b"\xa1\xb2\xc3\xd4": ">", b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\x3c\x4d": ">", b"\x4d\x3c\xb2\xa1": "<"}
_SECTION, _INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_SECTION_OCTETS = b"\x0a\x0d\x0d\x0a"
_HINT = "give a file of tcpdump's, dumpcap's or Wireshark's, captured on an Ethernet device"


@dataclass(frozen=True, slots=True)
class Captured:
    """One frame of a file: its number from 1, the octets that were kept, and how many it had."""

    number: int
    data: bytes
    length: int

    @property
    def cut(self) -> bool:
        """Whether some of it was not captured."""
        return len(self.data) < self.length


class CaptureFile:
    """An open capture file. When `packets` has ended, `cut`, `skipped` and `incomplete` say what was met."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.cut = 0
        self.skipped = 0
        self.incomplete: str | None = None
        # closed by __exit__, or below
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115
        try:
            self._begin = self._file.read(4)
            if self._begin in _PCAP:
                self.format = "pcap"
            elif self._begin == _SECTION_OCTETS:
                self.format = "pcapng"
            else:
                raise self._refused(_what_else(self._begin))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._file.close()

    def packets(self, limit: int | None = None) -> Iterator[Captured]:
        """Yield the frames that can be run, in order, of the first `limit` that the file has."""
        found = self._pcap() if self.format == "pcap" else self._pcapng()
        for number, (data, length) in enumerate(found, 1):
            if SHORTEST_FRAME <= length <= LONGEST_FRAME and len(data) >= SHORTEST_FRAME:
                self.cut += len(data) < length
                yield Captured(number, data, length)
            else:
                self.skipped += 1
            if number == limit:
                return

    def _refused(self, detail: str) -> InvalidInput:
        return InvalidInput("pcap", f"{self.path}: {detail}", _HINT)

    def _take(self, size: int, what: str) -> bytes | None:
        """Read `size` octets; None at the end of the file, with a word where that is in the middle of something."""
        data = self._file.read(size)
        if len(data) == size:
            return data
        if data or what != "a packet's header":
            self.incomplete = f"the file ends in the middle of {what}"
        return None

    def _damaged(self, what: str) -> None:
        """Say why reading ends here."""
        self.incomplete = f"the file is damaged: {what}"

    # pcap

    def _pcap(self) -> Iterator[tuple[bytes, int]]:
        order = _PCAP[self._begin]
        header = self._file.read(20)
        if len(header) < 20:
            raise self._refused("ends within its own header")
        link = struct.unpack_from(order + "I", header, 16)[0] & 0xFFFF
        if link != ETHERNET:
            raise self._refused(f"link type {link}, not Ethernet ({ETHERNET})")
        record = struct.Struct(order + "8xII")
        while (head := self._take(16, "a packet's header")) is not None:
            held, length = record.unpack(head)
            if held > _MOST:
                return self._damaged(f"a packet of {held} octets")
            data = self._take(held, "a packet")
            if data is None:
                return None
            yield data[:length], length
        return None

    # pcapng

    def _pcapng(self) -> Iterator[tuple[bytes, int]]:
        order, links = "<", list[tuple[int, int]]()  # of each interface of this section: link type, snap length
        head: bytes | None = self._begin + self._file.read(4)
        if head is not None and len(head) < 8:
            raise self._refused("ends within its own header")
        while head is not None:
            kind, size = struct.unpack(order + "II", head)
            if head[:4] == _SECTION_OCTETS:
                magic = self._file.read(4)
                order, links = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}.get(magic, ""), []
                if not order:
                    return self._damaged("a section without a byte order")
                (size,) = struct.unpack(order + "I", head[4:])
                size -= 4  # of which the magic is read
            if not 12 - 4 * (kind == _SECTION) <= size <= _MOST or size % 4:
                return self._damaged(f"a block of {size} octets")
            body = self._take(size - 8, "a block")
            if body is None:
                return None
            if kind == _INTERFACE:
                if len(body) < 12:
                    return self._damaged("an interface block that is too short")
                links.append(struct.unpack_from(order + "HxxI", body))
            elif kind in (_ENHANCED, _SIMPLE, _PACKET):
                found = self._frame(kind, order, body, links)
                if found is None:
                    return None
                yield found
            head = self._take(8, "a packet's header")
        return None

    def _frame(self, kind: int, order: str, body: bytes, links: list[tuple[int, int]]) -> tuple[bytes, int] | None:
        """Return a packet block's octets and the frame's length; None, and a word, where the block is damaged."""
        at = 4 if kind == _SIMPLE else 20
        if len(body) < at + 4:
            self._damaged("a packet block that is too short")
            return None
        interface = held = 0
        if kind == _SIMPLE:
            (length,) = struct.unpack_from(order + "I", body)
        else:
            held, length = struct.unpack_from(order + "II", body, 12)
            (interface,) = struct.unpack_from(order + ("I" if kind == _ENHANCED else "H"), body)
        if interface >= len(links):
            self._damaged("a packet of an interface that it does not name")
            return None
        link, snap = links[interface]
        if kind == _SIMPLE:
            held = min(length, snap or length)
        if link != ETHERNET:
            raise self._refused(f"link type {link}, not Ethernet ({ETHERNET})")
        if at + held + 4 > len(body):
            self._damaged("a packet that is longer than its block")
            return None
        return body[at : at + min(held, length)], length


def _what_else(begin: bytes) -> str:
    if not begin:
        return "is empty"
    known = {b"\x1f\x8b": "is gzipped: unpack it first", b"\x28\xb5": "is compressed by zstd: unpack it first"}
    return known.get(begin[:2], "neither pcap nor pcapng by its beginning")
