"""What the XDP program of a device decides, by the second: packets and bytes a verdict, or else runs and their time.

A program that counts by verdict does it in an array with an element for each XDP action, whose value is a number or a
struct of such; which array that is, and which field counts what, is told by BTF.
"""

import errno
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hopline.errors import KernelError, LayoutError, NotFound
from hopline.kernel.bpffs import root
from hopline.kernel.codec import ARRAY, PERCPU_ARRAY
from hopline.kernel.link import Attached, pinned_by, query
from hopline.kernel.loaded import NAME_SIZE, map_info, program_layout, whole_name
from hopline.kernel.map import Map
from hopline.kernel.netlink.query import link
from hopline.kernel.program import Program, ProgramInfo
from hopline.kernel.statistics import RunStatistics

# enum xdp_action of include/uapi/linux/bpf.h, by number
ACTIONS = ("XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT")
OURS = "its runs, counted by the kernel: it is hopline's own, whose verdicts are in"
NO_COUNTERS = "its runs, counted by the kernel: no map of it counts by xdp action"

Declared = tuple[np.dtype[Any] | None, np.dtype[Any] | None]  # key and value

ACTION = "xdp_action"  # the enum
MOST_ELEMENTS = 8  # of an array whose key does not say that it is an action: five, and some room
MOST_KEYS = 64  # of any


def _any_of(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(one, re.IGNORECASE) for one in patterns)


# what counters are called, the likeliest first; a packet's length is bytes
_BYTES = _any_of("^(rx_?|total_?)?(bytes|octets)$", "byte|octet", "(^|_)len(gth)?(_|$)")
_PACKETS = _any_of(
    "^(rx_?|total_?)?(packets|pkts|frames)$", "^(packet|pkt|frame)", "packet|pkt|frame", "^(count|counter|cnt)s?$"
)
_NEITHER = _any_of(
    "(^|_)(ns|us|ms|ts|time|timestamp|latency|cycles|last|min|max|avg|size)(_|$)", "^_*(pad|reserved|unused)"
)
# an array of six to eight that is called so counts by something else
_ELSE = _any_of("rxq|queue|cpu|port|proto|vlan|dev|iface")


@dataclass(frozen=True, slots=True)
class VerdictRate:
    """What was counted for one action, and how fast; None: not counted, or nothing yet to compare with."""

    verdict: str
    packets: int | None
    pps: float | None
    bytes: int | None
    mbit_s: float | None


@dataclass(frozen=True, slots=True)
class RunRate:
    """How often a program ran since its runs are counted, how often a second, and ns a run since the last sample."""

    runs: int
    per_s: float | None
    ns: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading; either `verdicts`, from `map`, or `runs`, or neither while no program is attached.

    `packets_field` and `bytes_field` are those of the map's value, "" where it is but a number, None: has none.
    `when` is in seconds of the epoch. `interval_s` lies between this reading and the one that its rates are relative
    to; None where there is none, as after the program or its map was replaced.
    """

    when: float
    device: str
    interval_s: float | None
    program: str | None = None
    program_id: int | None = None
    mode: str | None = None
    map: str | None = None
    map_id: int | None = None
    packets_field: str | None = None
    bytes_field: str | None = None
    verdicts: tuple[VerdictRate, ...] = ()
    runs: RunRate | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Reading:
    """Raw numbers, their source (a map or a program) and when they were read."""

    source: tuple[str, int]
    at: float
    numbers: NDArray[np.uint64]


class Stats:
    """Readings of one device, in the calling thread's network namespace; follows programs that are swapped.

    NotFound where there is no such device, or no program on it; later a device without a program is waited with.
    """

    def __init__(self, device: str) -> None:
        self._device, self._index = device, link(device).index
        if query(self._index) is None:
            todo = f"`hopline program load {device} FILE` attaches one"
            raise NotFound(f"stats of {device}: no xdp program is attached: {todo}")
        self._counting: RunStatistics | None = None
        self._counters: Counters | None = None
        self._program_id = 0
        self._name = ""
        self._note = ""
        self._last: _Reading | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._follow(0)

    def sample(self) -> Sample:
        """Read once; NotFound when the device has gone."""
        found = query(self._index)
        if found is not None:
            try:
                return self._read(found)
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
        elif not self._is_there():
            raise NotFound(f"stats of {self._device}: the device is gone: see `ip link`")
        self._follow(0)
        return Sample(_now(), self._device, None, note="no xdp program is attached now")

    def _is_there(self) -> bool:
        try:
            link(self._index)
        except NotFound:
            return False
        return True

    def _read(self, found: Attached) -> Sample:
        self._follow(found.program_id)
        reading = self._count(found.program_id) if self._counters is None else self._counters.read()
        before, self._last = self._last, reading
        if before is not None and (before.source != reading.source or (reading.numbers < before.numbers).any()):
            before = None
        elapsed = None if before is None else reading.at - before.at
        grown = None if before is None else reading.numbers - before.numbers
        counters = self._counters
        return Sample(
            when=_now(),
            device=self._device,
            interval_s=None if elapsed is None else round(elapsed, 6),
            program=self._name or found.name,
            program_id=found.program_id,
            mode=found.mode,
            map=None if counters is None else counters.map.name,
            map_id=None if counters is None else counters.map.id,
            packets_field=None if counters is None else counters.packets,
            bytes_field=None if counters is None else counters.bytes,
            verdicts=() if counters is None else counters.rates(reading.numbers, grown, elapsed),
            runs=_run_rate(reading.numbers, grown, elapsed) if counters is None else None,
            note=self._note,
        )

    def _follow(self, program_id: int) -> None:
        """Have the counters of this program (0: of none) open, and runs counted where it has none."""
        if program_id == self._program_id:
            return
        if self._counters is not None:
            self._counters.map.close()
        self._program_id, self._counters, self._name = program_id, None, ""
        if program_id:
            self._counters = find_counters(program_id)
            self._name = _whole_name(program_id)
        self._note = _why_runs(program_id) if program_id and self._counters is None else ""
        if self._note:
            self._counting = self._counting or RunStatistics()
        elif self._counting is not None:
            self._counting.close()
            self._counting = None

    def _count(self, program_id: int) -> _Reading:
        with Program.from_id(program_id) as program:
            info = program.info()
        numbers = np.array([info.run_count, info.run_time_ns], np.uint64)
        return _Reading(("program", program_id), time.monotonic(), numbers)


@dataclass(frozen=True, slots=True)
class Counters:
    """A map that counts by action; `packets` and `bytes` are the fields that do, "" the value itself, None no field."""

    map: Map
    packets: str | None
    bytes: str | None

    def read(self) -> _Reading:
        """Packets and bytes by action, shape (2, 5), summed over CPUs."""
        numbers = np.zeros((2, len(ACTIONS)), np.uint64)
        keys, values = self.map.lookup_batch()
        at = time.monotonic()
        places = np.ascontiguousarray(keys).view(np.uint32).reshape(-1)
        actions = places < len(ACTIONS)
        for row, name in enumerate((self.packets, self.bytes)):
            if name is not None:
                column = (values[name] if name else values).astype(np.uint64)
                summed = column.sum(axis=1, dtype=np.uint64) if self.map.per_cpu else column
                numbers[row, places[actions]] = summed[actions]
        return _Reading(("map", self.map.id), at, numbers)

    def rates(
        self, numbers: NDArray[np.uint64], grown: NDArray[np.uint64] | None, elapsed: float | None
    ) -> tuple[VerdictRate, ...]:
        """One for each action."""
        return tuple(
            VerdictRate(
                verdict=verdict,
                packets=None if self.packets is None else int(numbers[0, action]),
                pps=None if self.packets is None else _rate(grown, (0, action), elapsed),
                bytes=None if self.bytes is None else int(numbers[1, action]),
                mbit_s=None if self.bytes is None else _rate(grown, (1, action), elapsed, 8e-6),
            )
            for action, verdict in enumerate(ACTIONS)
        )


def find_counters(program_id: int) -> Counters | None:
    """The map of a program that counts by action, open; None if none.

    Of several the one whose key says so, else of five elements, else with packets and bytes, else the first.
    """
    with Program.from_id(program_id) as program:
        info = program.info()
    fitting = [map_id for map_id in sorted(info.map_ids) if _fits(map_id)]
    declared = _declared(info) if fitting else {}
    best: Counters | None = None
    for map_id in fitting:
        candidate = _opened(map_id, declared)
        found = counters_of(candidate)
        if found is None or (best is not None and _merit(found) <= _merit(best)):
            candidate.close()
            continue
        if best is not None:
            best.map.close()
        best = found
    return best


def _merit(found: Counters) -> tuple[bool, ...]:
    told, five = _by_action(found.map), found.map.max_entries == len(ACTIONS)
    return told, five, found.bytes is not None, found.packets is not None


def _by_action(candidate: Map) -> bool:
    told = candidate.key_dtype.metadata
    return told is not None and told.get("enum") == ACTION


def _fits(map_id: int) -> bool:
    """Whether it has a shape that counters can have; to read the types of all maps would take long."""
    try:
        info = map_info(map_id)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return False  # gone since
    return info.type in (PERCPU_ARRAY, ARRAY) and len(ACTIONS) <= info.max_entries <= MOST_KEYS


def _declared(info: ProgramInfo) -> dict[str, Declared]:
    """By whole name, what the maps of a program's object hold: key and value."""
    found: dict[str, Declared] = {}
    with suppress(LayoutError):  # BTF that we cannot read
        layout = program_layout(info)
        if layout is None:
            return {}
        types = layout.btf.types
        for number in [number for one in types if one.name == ".maps" for number, *_ in one.section]:
            members = layout.btf.plain(types[number].target).members
            parts = {one.name: layout.btf.plain(one.type_id).target for one in members}
            key, value = (layout.possible_dtype(parts.get(part, 0)) for part in ("key", "value"))
            found[types[number].name] = key, value
    return found


def _opened(map_id: int, declared: dict[str, Declared]) -> Map:
    """That map, by its whole name, and typed: of one whose key is an enum the kernel takes no types."""
    found = Map.from_id(map_id)
    names = [name for name in declared if name[:NAME_SIZE] == found.name]
    if len(names) != 1:
        return found
    if not found.btf_types[1]:
        found.close()
        key, value = declared[names[0]]
        found = Map.from_id(map_id, key_dtype=key, value_dtype=value)
    found.name = names[0]
    return found


def counters_of(candidate: Map) -> Counters | None:
    """What an array counts by action, or None."""
    value: np.dtype[Any] = candidate.value_dtype
    told, five = _by_action(candidate), candidate.max_entries == len(ACTIONS)
    if _counts(value):
        # numbers that are no CPU's own may be anything
        return Counters(candidate, "", None) if told or (five and candidate.per_cpu) else None
    packets, in_bytes, named = fields_of(value)
    if packets is None and in_bytes is None:
        return None
    may_be = five or (named and candidate.max_entries <= MOST_ELEMENTS and _rank(_ELSE, candidate.name) is None)
    return Counters(candidate, packets, in_bytes) if told or (may_be and (candidate.per_cpu or named)) else None


def fields_of(value: np.dtype[Any]) -> tuple[str | None, str | None, bool]:
    """The fields of packets and of bytes, None where there is none, and whether the former is called so.

    Only where names say nothing, and there are two u64 at most, the first that is not of bytes counts packets.
    """
    other = [name for name in value.names or () if value[name].subdtype is None and _rank(_NEITHER, name) is None]
    counting = [name for name in other if _counts(value[name])]
    in_bytes = _likeliest(_BYTES, counting)
    left = [name for name in counting if _rank(_BYTES, name) is None]
    packets = _likeliest(_PACKETS, left)
    if packets is not None:
        return packets, in_bytes, True
    u64 = [name for name in other if _counts(value[name]) and value[name].itemsize == 8]
    unsaid = u64 == other and len(other) <= 2
    return next(iter(left), None) if unsaid else None, in_bytes, False


def _rank(called: tuple[re.Pattern[str], ...], name: str) -> int | None:
    """The first of these patterns that a name has; None if it has none."""
    return next((rank for rank, pattern in enumerate(called) if pattern.search(name)), None)


def _likeliest(called: tuple[re.Pattern[str], ...], names: list[str]) -> str | None:
    ranked = [(rank, place) for place, name in enumerate(names) if (rank := _rank(called, name)) is not None]
    return names[min(ranked)[1]] if ranked else None


def _counts(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "ui" and dtype.itemsize in (4, 8) and dtype.isnative and not (dtype.metadata or {})


def _whole_name(program_id: int) -> str:
    with Program.from_id(program_id) as program, suppress(LayoutError):  # BTF that we cannot read
        return whole_name(program)
    return ""


def _why_runs(program_id: int) -> str:
    instance = pinned_by(root() / "hopline", program_id)
    if instance is None:
        return NO_COUNTERS
    return f"{OURS} `hopline status{'' if instance == 'main' else f' --instance {instance}'}`"


def _rate(
    grown: NDArray[np.uint64] | None, place: tuple[int, int], elapsed: float | None, scale: float = 1.0
) -> float | None:
    if grown is None or not elapsed:
        return None
    return round(float(grown[place]) * scale / elapsed, 3)


def _run_rate(numbers: NDArray[np.uint64], grown: NDArray[np.uint64] | None, elapsed: float | None) -> RunRate:
    runs = int(numbers[0])
    if grown is None or not elapsed:
        return RunRate(runs, None, None)
    ran = int(grown[0])
    return RunRate(runs, round(ran / elapsed, 3), round(int(grown[1]) / ran, 1) if ran else None)


def _now() -> float:
    return round(time.time(), 6)
