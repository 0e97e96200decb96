"""ns a packet of `forward`, over the harness: `.venv/bin/python bench/forward.py [--quick]`.

A harness in front of each program makes the packet whole again, walks the destinations by a permutation and tail-calls
the program; with an empty program it is the row that is subtracted. All rows of one number of destinations take turns
in each round. Printed are the minimum and the median of the rounds, and how far both are over the harness. The cache is
given twice as many entries as there are destinations, at least the default.

What it does not show: the redirect itself, which a test run does not carry out; the driver; two CPUs at once; caches
that are cold because something else runs in between. On a busy machine medians move by a quarter, minima by a
twentieth.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
from world import NAMESPACE, in_world

from hopline.daemon.ask import probe_packet
from hopline.daemon.attachments import Attachments
from hopline.daemon.datapath import PIPELINE, Datapath
from hopline.daemon.options import CACHE_SIZE_DEFAULT
from hopline.features.forward import Adjacency, mac_word
from hopline.kernel import BpfObject, Program, bpffs
from hopline.kernel.link import remove_pins
from hopline.kernel.netlink import query
from hopline.kernel.netlink.features import device_features

SOURCE = Path(__file__).with_name("harness.bpf.c")
FIRST = 0x0B000000  # 11.0.0.0, or the last word of an IPv6 destination
FIRST6 = "2001:db8:9::"
CACHE_LINE_WAYS = 8
XDP_REDIRECT = 4
LRU_ROOM = 2  # times as many entries as destinations, so that none is evicted


@dataclass
class Case:
    """One family and number of destinations: its harness, and the programs that take turns behind it."""

    family: int
    destinations: int
    harness: BpfObject
    rows: dict[str, Program]
    frame: bytes
    datapath: Datapath
    ingress: int

    def run(self, row: str, packets: int) -> int:
        """Return ns a packet of one call, the harness included."""
        self.harness.map("under_test").set(0, self.rows[row].fd)
        self.datapath.extend_lease()
        return (
            self.harness.program(f"restore{self.family}")
            .test_run(self.frame, ifindex=self.ingress, repeat=packets)
            .duration_ns
        )

    def verdict(self, row: str) -> int:
        """Return what the program says of one packet."""
        self.harness.map("under_test").set(0, self.rows[row].fd)
        return self.harness.program(f"restore{self.family}").test_run(self.frame, ifindex=self.ingress).retval

    def forwarded(self) -> int:
        """Return how many packets the pipeline has forwarded."""
        rows = self.datapath.maps["verdict_count"].sums()["packets"]
        return int(rows[int(self.datapath.verdicts.FORWARDED) :: int(self.datapath.limits.VERDICT_SLOTS)].sum())


def compiled(directory: Path) -> Path:
    target = directory / "harness.bpf.o"
    flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-I/usr/include/x86_64-linux-gnu"]
    subprocess.run(["clang", *flags, "-c", str(SOURCE), "-o", str(target)], check=True)
    return target


def opened(held: contextlib.ExitStack, path: Path, family: int, destinations: int) -> Case:
    """Make everything for one case: an instance of its own with an operator's entry for each destination."""
    name = f"{NAMESPACE}-{family}-{destinations}"
    cache_size = max(CACHE_SIZE_DEFAULT, 2 * destinations)
    datapath = Datapath.open(name, cache_size)
    held.callback(lambda: (datapath.close(), remove_pins(bpffs.instance_dir(name))))
    attachments = Attachments(datapath)
    ingress, egress = query.link("in0"), query.link("out0")
    for link in (ingress, egress):
        attachments.know(link, device_features(link))
    id = int(datapath.ids.ADJACENCY_ID_FIRST)
    source = mac_word(egress.mac, attachments.slots[egress.index])
    datapath.write_adjacency(id, Adjacency("READY", mac_word(ingress.mac, 1500), source, egress.index))
    keys = keys_of(family, destinations)
    datapath.maps[f"forward_exact{family}"].update_batch(keys, np.full(destinations, id, np.uint32))
    first = str(IPv4Address(FIRST)) if family == 4 else str(IPv6Address(FIRST6) + FIRST)
    frame = probe_packet(first, ingress.mac)
    harness = held.enter_context(BpfObject.open(path, f"h{family}{destinations.bit_length()}"))
    harness.set_rodata(
        ethernet=frame[:14],
        first=FIRST,
        bits=destinations.bit_length() - 1,
        checksum=sum(int.from_bytes(frame[i : i + 2], "little") for i in range(14, 30, 2) if i != 24),
        lines_mask=cache_size // CACHE_LINE_WAYS - 1,
    )
    harness.resize("lines", cache_size // CACHE_LINE_WAYS)
    harness.resize("lru", LRU_ROOM * destinations)
    harness.load()
    names = ("empty", *(("one_line", "rewriter", "lru_forward", "fib_forward") if family == 4 else ()))
    rows = {row: held.enter_context(harness.program(row)) for row in names}
    pipeline = held.enter_context(datapath.load_pipeline(attachments.slots[ingress.index], generic=False))
    rows["forward"] = held.enter_context(pipeline.program(PIPELINE))
    if family == 4:
        hop = np.zeros(1, harness.map("lru").value_dtype)
        hop["ifindex"] = egress.index
        harness.map("lru").update_batch(keys, np.repeat(hop, destinations))
    return Case(family, destinations, harness, rows, frame, datapath, ingress.index)


def keys_of(family: int, destinations: int) -> np.ndarray:
    last = (np.arange(destinations, dtype=np.uint32) + np.uint32(FIRST)).astype(">u4")
    if family == 4:
        return last
    whole = np.zeros((destinations, 16), np.uint8)
    whole[:] = np.frombuffer(IPv6Address(FIRST6).packed, np.uint8)
    whole[:, 12:] = last.view(np.uint8).reshape(-1, 4)
    return whole


def measured(case: Case, rounds: int, packets: int) -> None:
    for row in case.rows:
        # twice over, so that what can be cached is
        case.run(row, max(packets, 2 * case.destinations))
    before = case.forwarded()
    found: dict[str, list[int]] = {row: [] for row in case.rows}
    for _ in range(rounds):
        for row in case.rows:
            found[row].append(case.run(row, packets))
    if "fib_forward" in case.rows:
        assert case.verdict("fib_forward") == XDP_REDIRECT, "the FIB has no route: its row would show nothing"
    passed = rounds * packets - (case.forwarded() - before)
    assert passed == 0, f"{passed} packets were not forwarded"
    least = {row: min(values) for row, values in found.items()}
    middle = {row: statistics.median(values) for row, values in found.items()}
    for row in case.rows:
        over = f"{least[row] - least['empty']:5} {middle[row] - middle['empty']:7g}"
        print(f"IPv{case.family} {case.destinations:8} {row:12} {least[row]:5} {middle[row]:7g}   {over}", flush=True)


def measure() -> None:
    quick = "--quick" in sys.argv
    rounds, packets = (40, 20_000) if quick else (300, 50_000)
    print("family  dest.  program        min  median   over: min  median  (ns a packet)")
    with tempfile.TemporaryDirectory() as directory:
        path = compiled(Path(directory))
        for family in (4, 6):
            for destinations in (1, 65_536, 1_048_576):
                with contextlib.ExitStack() as held:
                    measured(opened(held, path, family, destinations), rounds, packets)


if __name__ == "__main__":
    in_world(measure)
