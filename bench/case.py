"""What a row of the bench is: a program behind the harness, and the tables that it stands on."""

import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from world import (
    FIRST,
    FIRST_LENGTH4,
    FIRST_LENGTH6,
    FULL,
    NAMESPACE,
    NEIGHBOUR_MAC,
    SPAN,
    forget,
    frame,
    ones_complement_sum,
)

from hopline.daemon.attachments import Attachments
from hopline.daemon.datapath import PIPELINE, Datapath
from hopline.daemon.options import CACHE_SIZE_DEFAULT
from hopline.features.forward import Adjacency, mac_word
from hopline.kernel import BpfObject, Program, netns
from hopline.kernel.netlink import query
from hopline.kernel.netlink.features import device_features

SOURCE = Path(__file__).with_name("harness.bpf.c")
LINE = 64
LRU_ROOM = 2  # times as many entries as destinations, so that none is evicted
XDP_PASS, XDP_TX, XDP_REDIRECT = 2, 3, 4
MTU = 1500
ALONE = ("empty", "one random line", "least possible", "LRU hash")
FIRST6_WORD = bytes.fromhex("20010db8")


def cache_size_for(destinations: int, factor: int = 2) -> int:
    """Entries of a cache that is sized to this many destinations; the least that a daemon takes is the default."""
    return max(CACHE_SIZE_DEFAULT, factor * destinations)


@dataclass(frozen=True)
class Tables:
    """What a pipeline has behind its cache, and how large that is."""

    kind: str  # exact, prefix or learned
    entries: int  # the operator's
    cache_size: int


@dataclass
class Pipeline:
    """The shipped program over tables of its own."""

    tables: Tables
    datapath: Datapath
    program: Program

    def forwarded(self) -> int:
        """Return how many packets it has forwarded."""
        rows = self.datapath.maps["verdict_count"].sums()["packets"]
        return int(rows[int(self.datapath.verdicts.FORWARDED) :: int(self.datapath.limits.VERDICT_SLOTS)].sum())

    def misses(self) -> int:
        """Return how many packets its cache did not answer."""
        return int(self.datapath.maps["cache_misses"].sums().sum())


def no_preparation() -> None:
    pass


@dataclass
class Row:
    """A program, and how it is run: with which harness, in which namespace, after what."""

    name: str
    program: Program
    expected: int
    pipeline: Pipeline | None = None
    harness: str = "restore"
    namespace: str = NAMESPACE
    prepare: Callable[[], None] = no_preparation  # before each measured call

    @property
    def base(self) -> str:
        """The row to subtract."""
        return "empty" if self.harness == "restore" else f"empty, {self.harness}"


@dataclass
class Case:
    """One family and number of destinations: its harness, and the rows that take turns behind it."""

    family: int
    destinations: int
    harness: BpfObject
    frame: bytes
    ingress: int
    lines: int
    rows: list[Row] = field(default_factory=list)

    def run(self, row: Row, packets: int) -> int:
        """Return ns a packet of one call, the harness included."""
        self.harness.map("under_test").set(0, row.program.fd)
        if row.pipeline is not None:
            row.pipeline.datapath.extend_lease()
        with netns.inside(row.namespace) if row.namespace != NAMESPACE else contextlib.nullcontext():
            done = self.harness.program(f"{row.harness}{self.family}").test_run(
                self.frame, ifindex=self.ingress, repeat=packets
            )
        assert done.retval == row.expected, f"{row.name}: said {done.retval}, not {row.expected}: nothing is shown"
        return done.duration_ns


def compiled(directory: Path) -> Path:
    target = directory / "harness.bpf.o"
    flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-I/usr/include/x86_64-linux-gnu"]
    subprocess.run(["clang", *flags, "-c", str(SOURCE), "-o", str(target)], check=True)
    return target


def numbers(count: int) -> np.ndarray:
    """Where `count` destinations or networks begin, spread evenly over all, as the harness walks them."""
    return (np.uint32(FIRST) + (np.arange(count, dtype=np.uint32) << np.uint32(SPAN - count.bit_length() + 1))).astype(
        ">u4"
    )


def addresses(family: int, count: int, host: int) -> np.ndarray:
    """Octets of shape (count, 4 or 16); `host` is the last octet of an IPv6 address."""
    last = numbers(count).view(np.uint8).reshape(-1, 4)
    if family == 4:
        return last
    whole = np.zeros((count, 16), np.uint8)
    whole[:, :4] = np.frombuffer(FIRST6_WORD, np.uint8)
    whole[:, 4:8] = last
    whole[:, 15] = host
    return whole


def exact_keys(family: int, count: int) -> np.ndarray:
    return addresses(family, count, host=9)


def prefix_keys(family: int, count: int) -> np.ndarray:
    """Prefixes that together cover all destinations, however few."""
    length = (FIRST_LENGTH4 if family == 4 else FIRST_LENGTH6) + count.bit_length() - 1
    networks = addresses(family, count, host=0)
    lengths = np.full((count, 1), length, "<u4").view(np.uint8)
    return np.concatenate([lengths, networks], axis=1)


def open_pipeline(held: contextlib.ExitStack, family: int, tables: Tables, name: str) -> Pipeline:
    """An instance of its own with these tables; it goes when `held` is closed."""
    instance = f"{NAMESPACE}-{name}"
    held.callback(forget, instance)
    datapath = Datapath.open(instance, tables.cache_size)
    held.callback(datapath.close)
    attachments = Attachments(datapath)
    ingress, egress = query.link("in0"), query.link("out0")
    for link in (ingress, egress):
        attachments.know(link, device_features(link))
    id = int(datapath.ids.ADJACENCY_ID_FIRST)
    source = mac_word(egress.mac, attachments.slots[egress.index])
    datapath.write_adjacency(id, Adjacency("READY", mac_word(NEIGHBOUR_MAC, MTU), source, egress.index))
    if tables.kind == "learned":
        attachments.set_learning(ingress.index, learn4=True, learn6=True, bypass=False)
    else:
        keys = (exact_keys if tables.kind == "exact" else prefix_keys)(family, tables.entries)
        ids = np.full(tables.entries, id, np.uint32)
        datapath.maps[f"forward_{tables.kind}{family}"].update_batch(keys, ids)
    loaded = held.enter_context(datapath.load_pipeline(attachments.slots[ingress.index], generic=False))
    return Pipeline(tables, datapath, held.enter_context(loaded.program(PIPELINE)))


def cache_lines(pipeline: Pipeline, family: int) -> int:
    cache = pipeline.datapath.maps[f"cache{family}"]
    return cache.max_entries * cache.value_size // LINE


def open_case(held: contextlib.ExitStack, path: Path, family: int, destinations: int, lines: int) -> Case:
    """The harness for so many destinations, and what stands beside it in a table of `lines` cache lines."""
    ingress, egress = query.link("in0"), query.link("out0")
    packet = frame(family, ingress.mac)
    harness = held.enter_context(BpfObject.open(path, f"h{family}{destinations.bit_length()}"))
    # of the IPv4 header without destination and check, in the machine's order
    header = packet[14:24] + bytes(2) + packet[26:30]
    swapped = b"".join(header[i : i + 2][::-1] for i in range(0, len(header), 2))
    harness.set_rodata(
        ethernet=packet[:14] + bytes(2),
        first=FIRST,
        bits=destinations.bit_length() - 1,
        shift=SPAN - destinations.bit_length() + 1,
        checksum=ones_complement_sum(swapped),
        lines_count=lines,
        egress=egress.index,
    )
    harness.resize("lines", lines)
    harness.resize(f"lru{family}", LRU_ROOM * destinations)
    harness.load()
    harness.map("devices").set(0, egress.index)
    lru = harness.map(f"lru{family}")
    hop = np.zeros(1, lru.value_dtype)
    hop["ifindex"] = egress.index
    lru.update_batch(exact_keys(family, destinations), np.repeat(hop, destinations))
    return Case(family, destinations, harness, packet, ingress.index, lines)


def behind(harness: str, row: Row) -> Row:
    """The same row behind another harness."""
    return replace(row, name=f"{row.name}, {harness}", harness=harness)


def compared_rows(held: contextlib.ExitStack, case: Case) -> list[Row]:
    """What forward is compared with: all that needs none of its tables."""
    family = case.family

    def row(name: str, program: str, expected: int, **how: str) -> Row:
        return Row(name, held.enter_context(case.harness.program(program)), expected, **how)

    rows = [
        row("empty", "empty", XDP_PASS),
        row("one random line", f"one_line{family}", XDP_TX),
        row("rewriter", f"rewriter{family}", XDP_TX),
        row("rewriter, redirect", f"redirect{family}", XDP_REDIRECT),
        row("rewriter, redirect_map", f"redirect_map{family}", XDP_REDIRECT),
        row("least possible", f"least{family}", XDP_REDIRECT),
        row("FIB each packet", f"fib{family}", XDP_REDIRECT),
        row("FIB of 100,000 routes", f"fib{family}", XDP_REDIRECT, namespace=FULL),
        row("LRU hash", f"lru{family}_forward", XDP_REDIRECT),
    ]
    by_name = {one.name: one for one in rows}
    rows.append(behind("hasty", by_name["empty"]))
    return rows + [behind("alone", by_name[name]) for name in ALONE]
