"""The entries of a map, in words: get, set, delete, and all of them as a stream of lines or JSON."""

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from hopline.errors import InvalidInput, KernelError, NotFound, Refused
from hopline.host.program import maps, values
from hopline.host.program.cells import Octets
from hopline.host.program.rows import one, rows
from hopline.host.program.shapes import Array, Scalar, Shape, Struct, shapes_of
from hopline.kernel import loaded
from hopline.kernel.map import Map
from hopline.kernel.program import Program
from hopline.spelling import shown

_RING = "what is in it is gone once it is read, which is for the program that it belongs to"
_SOCKETS = "only a program that has the sockets can read or fill it"
_OWNED = "its entries belong to sockets, tasks, files or cgroups, by which alone they are found"
_UNKEYED = "its values have no keys, and taking one is for the program that it belongs to"
# types whose entries cannot be had from outside
_NOT_HERE = {
    "perf_event_array": _RING,
    "ringbuf": _RING,
    "user_ringbuf": _RING,
    "sockmap": _SOCKETS,
    "sockhash": _SOCKETS,
    "xskmap": _SOCKETS,
    "reuseport_sockarray": _SOCKETS,
    "cgroup_array": "it holds cgroups, which the kernel does not tell",
    "sk_storage": _OWNED,
    "inode_storage": _OWNED,
    "task_storage": _OWNED,
    "cgrp_storage": _OWNED,
    "queue": _UNKEYED,
    "stack": _UNKEYED,
    "bloom_filter": "it has no keys, and only answers whether it may hold a value",
    "struct_ops": "it holds functions of the kernel's",
    "arena": "it is memory that its program shares, and has no entries",
}
_OF_MAPS = frozenset(("array_of_maps", "hash_of_maps"))
_OF_DEVICES = frozenset(("devmap", "devmap_hash"))
_FIXED = frozenset(("array", "percpu_array"))  # their entries cannot be deleted
_BUSY = "others are writing it: try again"
# what each type takes, where the kernel's error says no more than that it was something else
_TAKES = {
    ("cpumap", errno.ENODEV): "give a cpu that this host may have: see /sys/devices/system/cpu/possible",
    ("cpumap", errno.EOVERFLOW): "give a queue of 0 to 16384 packets",
    ("cpumap", errno.EINVAL): "give a queue of 0 to 16384 packets, and a program that is for such maps",
    ("prog_array", errno.EINVAL): "give a program of the type, and with the licence, of those that use the map",
    **dict.fromkeys(
        ((kind, errno.EINVAL) for kind in _OF_DEVICES),
        "give a device of the namespace that the map was made in, and a program that is for such maps",
    ),
    **dict.fromkeys(((kind, errno.EINVAL) for kind in _OF_MAPS), "give a map of the type and sizes that it is for"),
}


class Table:
    """A map that is open, its keys and values by name."""

    def __init__(self, name: str) -> None:
        """Find and open the map; NotFound or Refused (see maps.find)."""
        self._map = maps.find(name)
        self.type = maps.type_name(self._map.type)
        self.known_as = f"map {self._map.name or name} (id {self._map.id})"
        if self.type in _NOT_HERE:
            self._map.close()
            why = _NOT_HERE[self.type]
            raise Refused(f"{self.known_as} is of type {self.type}: {why}: `hopline program map show` tells the rest")
        self.key, self.value = shapes_of(self._map)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def get(self, words: Sequence[str]) -> "Entry":
        """The entry of a key, in an LPM trie that of the longest prefix around it; NotFound if there is none."""
        key = self._key(words)
        found = self._lookup(key)
        if found is None:
            raise NotFound(f"{self.known_as}: no entry {shown(' '.join(words))}: `hopline program map dump` shows all")
        return Entry(self, key, found)

    def set(self, words: Sequence[str]) -> "Entry":
        """Write an entry: the words of its key, and those of its value; return what is there now.

        Fields of the value that are not named stay, where the key was there; per CPU on each of them. They are read
        and written back, so what a program counts in between is lost.
        """
        key_words, value_words = _split(self.key, words)
        key = self._key(key_words)
        with ExitStack() as opened:
            if self.type == "prog_array" or self.type in _OF_MAPS:
                holder = self._inner(value_words)
                opened.callback(holder.close)
                self._write(key, [holder.fd.to_bytes(4, "little")])
                return Entry(self, key, [holder.id.to_bytes(4, "little")])
            before: list[bytes] = [b""] * self._map.ncpu
            if isinstance(self.value, Struct | Array) and self._map.holds(key):
                before = self._lookup(key) or before
            after = [values.encode(self.value, value_words, "value", old) for old in before]
            self._write(key, [self._with_program(value, opened) for value in after])
        return Entry(self, key, after)

    def delete(self, words: Sequence[str]) -> Any:
        """Remove an entry; its key, as JSON has it. NotFound if there is none."""
        key = self._key(words)
        if self.type in _FIXED:
            raise Refused(f"delete from {self.known_as}: an array has all its entries always: set it to zero")
        if not self._map.delete(key):
            raise NotFound(f"{self.known_as}: no entry {shown(' '.join(words))}: `hopline program map dump` shows all")
        return json.loads(one(self.key, key, as_json=True))

    def dump(self, as_json: bool) -> Iterator[bytes]:
        """All entries in no order: a line each, or a JSON array; in parts, which are made as they are asked for."""
        lines, began = rows(self.key, self.value, self.cpus, as_json), False
        for keys, found in self._map.stream():
            for part in lines.render(np.concatenate([keys, found.reshape(len(found), -1)], axis=1)):
                # in JSON each row begins with a comma
                yield part if began or not as_json else b"[" + part[1:]
                began = True
        if as_json:
            yield b"\n]\n" if began else b"[]\n"

    @property
    def cpus(self) -> int:
        """How many copies a value has; 0 where they are not per CPU."""
        return self._map.ncpu if self._map.per_cpu else 0

    def _key(self, words: Sequence[str]) -> bytes:
        words = words[1:] if len(words) > 1 and words[0] == "key" else words
        by_action = self.type in _FIXED and any(word.startswith("XDP_") for word in words)
        key = values.encode_key(self._actions() if by_action else self.key, words)
        indexed = isinstance(self.key, Scalar) and self.key.size == 4 and "array" in self.type
        if (indexed or self.type in ("devmap", "cpumap")) and int.from_bytes(key, "little") >= self._map.max_entries:
            raise InvalidInput("key", f"{shown(words[0])} is out of range", f"give 0 to {self._map.max_entries - 1}")
        return key

    def _actions(self) -> Shape:
        """The key, where the map counts by XDP action with these for names."""
        from hopline.host.program.stats import ACTIONS, counters_of

        if not isinstance(self.key, Scalar) or self.key.names or self._map.max_entries < len(ACTIONS):
            return self.key
        with Map.from_id(self._map.id) as typed:
            counts = counters_of(typed) is not None
        return replace(self.key, names=tuple((name, at) for at, name in enumerate(ACTIONS))) if counts else self.key

    def _lookup(self, key: bytes) -> list[bytes] | None:
        """The octets of a value, of each CPU's copy."""
        found = self._map.get(key)
        if found is None:
            return None
        octets, size = found.tobytes(), self._map.value_size
        return [octets[start : start + size] for start in range(0, len(octets), size)]

    def _write(self, key: bytes, copies: list[bytes]) -> None:
        value = np.frombuffer(b"".join(copies), f"V{self._map.value_size}")
        try:
            self._map.set(key, value if self._map.per_cpu else value[0])
        except KernelError as error:
            asked = f"set an entry of {self.known_as}"
            if error.errno == errno.EPERM and _frozen(self._map):
                raise Refused(f"{asked}: it is frozen: load its program again with other values (--set)") from error
            if error.errno in (errno.E2BIG, errno.ENOSPC):
                full = f"{asked}: it is full: delete one of its {self._map.max_entries} entries first"
                raise Refused(full) from error
            if error.errno in (errno.EPERM, errno.EACCES):
                raise
            other = _BUSY if error.errno == errno.EBUSY else "the kernel does not take this value in this map"
            raise KernelError(asked, error.errno, _TAKES.get((self.type, error.errno), other)) from error

    def _inner(self, words: Sequence[str]) -> Map | Program:
        """The program or map that an entry is to hold, by pin, id or name."""
        kind = "program" if self.type == "prog_array" else "map"
        if len(words) != 1:
            raise InvalidInput("value", f"{len(words)} words given", f"name one {kind} by its id, pin or name")
        name = words[0]
        if kind == "map":
            return maps.find(name)
        if "/" in name:
            return Program.from_pin(Path(name))
        program_id = maps.id_of(name)
        if program_id is not None:
            return _program(program_id)
        found = _program(loaded.find_program(name).id)
        # the kernel compares 15 characters; BTF may know better
        if len(found.name) < len(name) and len(whole := loaded.whole_name(found)) > len(found.name) and whole != name:
            found.close()
            raise NotFound(f"program {shown(name)}: not loaded, but {whole} is: `hopline program show` lists all")
        return found

    def _with_program(self, value: bytes, opened: ExitStack) -> bytes:
        """A device's or CPU's value as the kernel takes it: with a descriptor where it gives a program's id."""
        if self.type not in _OF_DEVICES | {"cpumap"} or len(value) != 8:
            return value
        program_id = int.from_bytes(value[4:], "little")
        if not program_id:
            return value
        program = opened.enter_context(_program(program_id))
        return value[:4] + program.fd.to_bytes(4, "little")


class Entry:
    """A key and its value, of which there may be a copy for each CPU."""

    def __init__(self, table: Table, key: bytes, copies: list[bytes]) -> None:
        self._table = table
        stride = (table.value.size + 7) // 8 * 8
        octets = key + b"".join(copy.ljust(stride, b"\0") for copy in copies)
        self._octets: Octets = np.frombuffer(octets, np.uint8)[np.newaxis]

    def text(self) -> str:
        """The value in words; per CPU lines for the sum and for each."""
        return self._render(as_json=False)

    def json(self) -> Any:
        """What JSON has of it: an object with key and value, per CPU with key, values and sum."""
        return json.loads(self._render(as_json=True).removeprefix(","))

    def _render(self, as_json: bool) -> str:
        table = self._table
        made = rows(table.key, table.value, table.cpus, as_json, bare=True)
        return b"".join(made.render(self._octets)).decode()


def _split(key: Shape, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of key and value, which may be told apart as `key … value …`."""
    if words and words[0] == "key" and "value" in words:
        middle = words.index("value")
        return list(words[:middle]), list(words[middle + 1 :])
    return values.split(key, words)


def _program(program_id: int) -> Program:
    try:
        return Program.from_id(program_id)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        raise NotFound(f"program {program_id}: there is no such id: `hopline program show` lists all") from None


def _frozen(found: Map) -> bool:
    lines = Path(f"/proc/thread-self/fdinfo/{found.fd}").read_text(encoding="ascii").splitlines()
    return "frozen:\t1" in lines
