"""Runs of the pipeline that record their decisions and write nothing: the same object over the same maps."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.daemon.datapath import PIPELINE, Datapath
from hopline.daemon.explain.notes import RECORD
from hopline.daemon.explain.scene import Ingress
from hopline.errors import KernelError
from hopline.kernel import BpfObject, RingBuffer
from hopline.kernel.runs import run_each

LOADS_MOST = 16  # interfaces asked about lately, each with a program of its own
TIMED_RUNS = 5  # the fastest is told: the first one finds cold memory


@dataclass(frozen=True)
class Ran:
    """What came of one frame: the record, what is left of the frame, and ns of program time."""

    event: np.void
    left: bytes
    ns: int


class Runs:
    """The loads, by interface. Used by one thread; frames run in its network namespace, the daemon's own."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._record = datapath.layout.struct(RECORD)
        self._loads: OrderedDict[tuple[int, str, int], tuple[BpfObject, RingBuffer]] = OrderedDict()

    def one(self, ingress: Ingress, frame: bytes) -> Ran:
        """Run one frame."""
        loaded, ring = self._load(ingress)
        program = loaded.program(PIPELINE)
        ran = [program.test_run(frame, ifindex=ingress.index) for _ in range(TIMED_RUNS)]
        events = ring.drain().records(self._record)
        if len(events) != TIMED_RUNS:
            raise KernelError("run a packet in dry run", 5, "the program recorded nothing: rebuild Hopline")
        return Ran(events[0], ran[0].data, min(one.duration_ns for one in ran))

    def many(self, ingress: Ingress, frames: Sequence[bytes], lengths: Sequence[int]) -> NDArray[Any]:
        """Run frames, each with zeros up to its length; return their records."""
        loaded, ring = self._load(ingress)
        program = loaded.program(PIPELINE)
        return run_each(program, ring, frames, lengths, ifindex=ingress.index, dtype=self._record)

    def _load(self, ingress: Ingress) -> tuple[BpfObject, RingBuffer]:
        settings = self._datapath.settings  # read first: what is loaded then is of these, or of later ones
        key = (ingress.slot, ingress.mode, settings)
        for old in [each for each in self._loads if each[2] != settings]:
            self._release(*self._loads.pop(old))
        found = self._loads.get(key)
        if found is None:
            if len(self._loads) == LOADS_MOST:
                self._release(*self._loads.popitem(last=False)[1])
            loaded = self._datapath.load_pipeline(
                ingress.slot, generic=ingress.mode == "generic", trace=True, dry_run=True
            )
            found = self._loads[key] = (loaded, RingBuffer(loaded.map("trace_events")))
        self._loads.move_to_end(key)
        return found

    @staticmethod
    def _release(loaded: BpfObject, ring: RingBuffer) -> None:
        ring.close()
        loaded.close()

    def close(self) -> None:
        """Let all loads go."""
        while self._loads:
            self._release(*self._loads.popitem()[1])
