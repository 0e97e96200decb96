"""What the XDP program of a device decides, by the second: packets and bytes a verdict, or else runs and their time.

A program that counts by verdict does it in an array of five elements, one an XDP action, whose value is a u64 or a
struct of such; which array that is, and which field counts what, is told by BTF.
"""

import errno
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hopline.errors import KernelError, NotFound
from hopline.kernel.bpffs import root
from hopline.kernel.codec import ARRAY, PERCPU_ARRAY
from hopline.kernel.link import Attached, pinned_by, query
from hopline.kernel.loaded import map_info
from hopline.kernel.map import Map
from hopline.kernel.netlink.query import link
from hopline.kernel.program import Program
from hopline.kernel.statistics import RunStatistics

# enum xdp_action of include/uapi/linux/bpf.h, by number
ACTIONS = ("XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT")
OURS = "its runs, counted by the kernel: it is hopline's own, whose verdicts are in"
NO_COUNTERS = "its runs, counted by the kernel: no map of it counts by xdp action"


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
        self._note = ""
        self._last: _Reading | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            program=found.name,
            program_id=found.program_id,
            mode=found.mode,
            map=None if counters is None else counters.map.name,
            map_id=None if counters is None else counters.map.id,
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
        self._program_id, self._counters = program_id, None
        self._counters = find_counters(program_id) if program_id else None
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
        for row, name in enumerate((self.packets, self.bytes)):
            if name is not None:
                column = (values[name] if name else values).astype(np.uint64)
                numbers[row, keys] = column.sum(axis=1, dtype=np.uint64) if self.map.per_cpu else column
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
    """The map of a program that counts by action, one with packets and bytes before one without, open; None if none."""
    with Program.from_id(program_id) as program:
        map_ids = program.info().map_ids
    best: Counters | None = None
    for map_id in sorted(map_ids):
        candidate = _candidate(map_id)
        if candidate is None:
            continue
        found = counters_of(candidate)
        if found is None or (best is not None and (best.bytes is not None or found.bytes is None)):
            candidate.close()
            continue
        if best is not None:
            best.map.close()
        best = found
    return best


def _candidate(map_id: int) -> Map | None:
    """That map, open, if its shape is one that counters can have; to read the types of all would take long."""
    try:
        info = map_info(map_id)
        fits = info.type in (PERCPU_ARRAY, ARRAY) and info.max_entries == len(ACTIONS)
        return Map.from_id(map_id) if fits else None
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return None  # gone since


def counters_of(candidate: Map) -> Counters | None:
    """What an array of five elements counts by action, or None."""
    value: np.dtype[Any] = candidate.value_dtype
    if _counts(value):
        # five numbers that are no CPU's own may be anything
        return Counters(candidate, "", None) if candidate.per_cpu else None
    names = value.names or ()
    if not names or not all(_counts(value[name]) for name in names):
        return None
    in_bytes = next((name for name in names if "byte" in name.lower()), None)
    packets = next((name for name in names if name != in_bytes), None)
    if not candidate.per_cpu and not (packets and ("packet" in packets.lower() or "pkt" in packets.lower())):
        return None
    return Counters(candidate, packets, in_bytes)


def _counts(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "ui" and dtype.itemsize == 8 and dtype.isnative and not (dtype.metadata or {})


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
