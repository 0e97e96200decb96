"""Attackers: threads that run packets through the shipped pipeline as fast as the kernel can, and judge each.

Every destination has a number, and its next hops have MACs that say the number and an epoch. Who moves a destination
to another next hop announces the new epoch before (`Attack.begin`) and retires the old one when no packet may use it
any more (`Attack.settle`). A packet that leaves with MACs of another destination, or of an epoch that was over before
it came in, is wrong. driver.bpf.c does the judging, between one packet and the next.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpf.pipeline import IN_MAC, NEAR_MAC, Hop, Pipeline
from clang import compile_bpf
from hopline.features.forward import parse_mac
from hopline.kernel import BpfObject, Map, Program, atomic_store32, netns

SOURCE = Path(__file__).with_name("driver.bpf.c")
FRAME = bytes(66)  # of both families: struct headers of driver.bpf.c
FIRST_BURST = 2000  # packets
BURST_NS = 100_000_000  # to begin and end a run takes the kernel some 30 ms, so runs must be longer


def epoch_hop(number: int, epoch: int, slot: int | None = None) -> Hop:
    """The next hop of a destination in an epoch: both are in its MACs."""
    digits = f"{number:04x}{epoch:06x}"
    tail = ":".join(digits[i : i + 2] for i in range(0, 10, 2))
    return Hop(f"06:{tail}", f"0a:{tail}", slot=slot)


@dataclass(frozen=True)
class Tally:
    """What became of the packets of an attack; `sample` says what one that was wrong was like."""

    forwarded: int
    passed: int
    wrong: int
    sample: str


class Attack:
    """The driver, loaded for a list of destinations of one family; `attack` makes it."""

    def __init__(self, pipeline: Pipeline, opened: BpfObject) -> None:
        self._pipeline = pipeline
        self._program: Program = opened.program("drive")
        self._tallies: Map = opened.map("tallies")
        self._windows = opened.map("windows").mmap()
        self._programs: Map = opened.map("pipeline")
        self._opened = opened
        self._stop = threading.Event()

    def use(self, program: Program) -> None:
        """Packets run through this program from now on."""
        self._programs.set(0, program.fd)

    def begin(self, number: int, epoch: int) -> None:
        """From now on a next hop of this epoch is right, too."""
        atomic_store32(self._windows[number : number + 1]["newest"], epoch)

    def settle(self, number: int, epoch: int) -> None:
        """Packets that come in from now on must not leave by one of an earlier epoch."""
        atomic_store32(self._windows[number : number + 1]["oldest"], epoch)

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """One thread on each CPU runs packets until the block ends."""
        cpus = sorted(os.sched_getaffinity(0))[:2]
        failed: list[BaseException] = []

        def run(cpu: int) -> None:
            try:
                os.sched_setaffinity(0, {cpu})  # of this thread alone
                self._run()
            except BaseException as error:
                failed.append(error)

        self._stop.clear()
        threads = [threading.Thread(target=run, args=(cpu,)) for cpu in cpus]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if failed:
            raise failed[0]

    def _run(self) -> None:
        burst = FIRST_BURST
        with netns.inside(self._pipeline.router):
            while not self._stop.is_set():
                ran = self._program.test_run(FRAME, ifindex=self._pipeline.in_index, repeat=burst)
                burst = max(FIRST_BURST, BURST_NS // max(ran.duration_ns, 1))

    def tally(self) -> Tally:
        """What became of all packets so far."""
        rows = self._tallies.get(0)
        wrong = [row for row in rows if row["wrong"]]
        sample = ""
        if wrong:
            row = wrong[0]
            macs = row["macs"].tobytes()
            sample = (
                f"to number {row['number']:04x}, epochs {row['oldest']:06x} to {row['newest']:06x}, "
                f"left for {macs[:6].hex(':')} from {macs[6:].hex(':')}"
            )
        return Tally(*(int(rows[name].sum()) for name in ("forwarded", "passed", "wrong")), sample)


@contextlib.contextmanager
def attack(pipeline: Pipeline, destinations: Sequence[bytes], egress_mac: str = "") -> Iterator[Attack]:
    """The driver for these packed destinations, their places their numbers; what is learned leaves by `egress_mac`."""
    with tempfile.TemporaryDirectory(prefix="hl-driver-") as directory:
        built = compile_bpf(Path(directory), SOURCE.read_text(), "driver")
        with BpfObject.open(built) as opened:
            macs = parse_mac(IN_MAC) + parse_mac(NEAR_MAC)
            opened.set_rodata(target_count=len(destinations), ipv4=len(destinations[0]) == 4, frame_macs=macs)
            if egress_mac:
                opened.set_rodata(egress_mac=parse_mac(egress_mac))
            if not pipeline.datapath.frags:
                opened.set_frags("drive", False)
            opened.load()
            targets = opened.map("targets")
            packed = np.array([np.frombuffer(each.ljust(16, b"\0"), np.uint8) for each in destinations])
            values = packed.reshape(-1).view(targets.value_dtype)
            targets.update_batch(np.arange(len(destinations), dtype=np.uint32), values)
            yield Attack(pipeline, opened)
