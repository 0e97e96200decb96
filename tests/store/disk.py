"""A disk that loses power: what crash.c wrote down is done again, and cut off anywhere.

What was synced is there for good: the content of a file since its own sync, a name since its directory's. Of the rest
any part may have reached the disk, sector by sector and in any order, names in the order in which they were made
(the metadata journal of ext4 and xfs; a store that trusts less is safe on either).
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

SECTOR = 512

Image = dict[str, bytes | None]  # by path; None is a directory


class Op(IntEnum):
    """As in crash.c."""

    CREATE = 0
    WRITE = 1
    TRUNCATE = 2
    SYNC = 3
    RENAME = 4
    UNLINK = 5
    MKDIR = 6
    MARK = 7


@dataclass(frozen=True)
class Record:
    """One call that changed something, in the order of the process."""

    op: Op
    path: str
    other: str
    inode: int
    offset: int
    data: bytes


def read_log(log: Path) -> list[Record]:
    """Read what crash.c wrote down; struct record is in its source."""
    head = struct.Struct("=IIIIQq")
    data, at, records = log.read_bytes(), 0, []
    while at < len(data):
        op, path, other, length, inode, offset = head.unpack_from(data, at)
        at += head.size
        parts = []
        for size in (path, other, length):
            parts.append(data[at : at + size])
            at += size
        records.append(Record(Op(op), parts[0].decode(), parts[1].decode(), inode, offset, parts[2]))
    return records


def written(content: bytes, offset: int, data: bytes) -> bytes:
    """Return a file's content with `data` at `offset`; a gap is zeros."""
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


def cut(content: bytes, length: int) -> bytes:
    """Return a file's content with this length."""
    return content[:length].ljust(length, b"\0")


@dataclass
class File:
    """One inode: what is durable, what is written, and the calls between them."""

    durable: bytes = b""
    present: bytes = b""
    waiting: list[Record] = field(default_factory=list)

    def do(self, record: Record) -> None:
        """Write or truncate."""
        self.present = done(self.present, record)
        self.waiting.append(record)

    def sync(self) -> None:
        """Make it durable."""
        self.durable = self.present
        self.waiting.clear()

    def some(self, dice: random.Random) -> bytes:
        """Return what a power cut may leave: each waiting sector written or not."""
        content = self.durable
        for record in self.waiting:
            if record.op is not Op.WRITE:
                content = done(content, record) if dice.random() < 0.5 else content
                continue
            for start in range(0, len(record.data), SECTOR):
                if dice.random() < 0.5:
                    content = written(content, record.offset + start, record.data[start : start + SECTOR])
        return content


def done(content: bytes, record: Record) -> bytes:
    """Return a file's content after a write or a truncate."""
    if record.op is Op.WRITE:
        return written(content, record.offset, record.data)
    return cut(content, record.offset)


class Disk:
    """The names and the files below one directory."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[int, File] = {}
        self.names: dict[str, int | None] = {}  # as the process sees them; None is a directory
        self.durable: dict[str, int | None] = {}
        self.waiting: list[Record] = []  # names made or gone since their directory's sync

    def put(self, inode: int, path: str, content: bytes) -> None:
        """Begin with a file that is durable."""
        self.files[inode] = File(content, content)
        self.names[path] = self.durable[path] = inode

    def do(self, record: Record) -> None:
        """Do what the process did."""
        if record.op in (Op.WRITE, Op.TRUNCATE):
            self.files[record.inode].do(record)
        elif record.op is Op.SYNC and record.inode in self.files:
            self.files[record.inode].sync()
        elif record.op is Op.SYNC:
            self._sync_names(record.path)
        elif record.op is not Op.MARK:
            if record.op is Op.CREATE:
                self.files[record.inode] = File()
            rename(self.names, record)
            self.waiting.append(record)

    def _sync_names(self, directory: str) -> None:
        # a rename here is within one directory
        mine = [record for record in self.waiting if record.path.rpartition("/")[0] == directory]
        for record in mine:
            rename(self.durable, record)
        self.waiting = [record for record in self.waiting if record not in mine]

    def images(self, seed: int) -> Iterator[tuple[str, Image]]:
        """Return what may be there if power goes now: nothing more than was synced, all, and mixtures."""
        yield "synced", self._image(self.durable, lambda file: file.durable)
        yield "names", self._image(self.names, lambda file: file.durable)
        yield "content", self._image(self.durable, lambda file: file.present)
        dice = random.Random(seed)
        names = dict(self.durable)
        for record in self.waiting[: dice.randint(0, len(self.waiting))]:
            rename(names, record)
        yield "some", self._image(names, lambda file: file.some(dice))

    def present(self) -> Image:
        """Return what the process sees."""
        return self._image(self.names, lambda file: file.present)

    def _image(self, names, content) -> Image:
        image: Image = {}
        for path, inode in names.items():
            # a name whose directory never came to be is gone with it
            if all(str(parent) in names for parent in Path(path).parents if str(parent).startswith(f"{self.root}/")):
                image[path] = None if inode is None else content(self.files[inode])
        return image


def rename(names: dict[str, int | None], record: Record) -> None:
    """Make, move or drop a name."""
    if record.op is Op.CREATE:
        names[record.path] = record.inode
    elif record.op is Op.MKDIR:
        names[record.path] = None
    elif record.op is Op.RENAME and record.path in names:
        names[record.other] = names.pop(record.path)
    elif record.op is Op.UNLINK:
        names.pop(record.path, None)


def restore(image: Image, root: str, target: Path) -> None:
    """Put an image below another directory."""
    for path, content in sorted(image.items()):
        place = target / Path(path).relative_to(root)
        if content is None:
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
