"""ns a packet of `forward`, over the harness: `.venv/bin/python bench/forward.py [--quick] [--json FILE]`.

A harness in front of each program makes the packet whole again, walks the destinations by a permutation and tail-calls
the program; with an empty program it is the row that is subtracted. All rows of one number of destinations take turns
in each round; before each measured call there is one that is not, so that a row finds its own tables in the CPU's
caches and not the row's before it. Printed are the minimum and the median of the rounds, how far both are over the
harness, and how many packets in a hundred the flow cache did not answer. docs/performance.md explains the rows.

`--against FILE` puts another build of xdp.bpf.o beside this one, `--family` and `--destinations` measure a part. What
no row shows: the redirect itself, which a test run does not carry out; the driver; two CPUs at once.
"""

import argparse
import contextlib
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import cold
from case import (
    XDP_REDIRECT,
    Case,
    Pipeline,
    Row,
    Tables,
    behind,
    cache_lines,
    cache_size_for,
    compared_rows,
    compiled,
    open_case,
    open_pipeline,
)
from emulate import Cost, emulated
from record import Figure, save
from world import in_world

from hopline.daemon import datapath
from hopline.daemon.options import CACHE_SIZE_DEFAULT

# of which all rows are taken; the others are for the plot
WHOLE = (1, 65_536, 1_048_576)
SCALE = (1, 1_024, 16_384, 65_536, 262_144, 1_048_576)
ENTRIES = (1, 1_024, 65_536, 1_048_576)
ENTRIES_DESTINATIONS = 65_536
PACKETS_LEAST = 20_000
LEASE_TIMES = 1000  # a call of the bench may take longer than a lease
HEAD = (
    "family   dest. {:39}    min  median  over: min  median missed % instr calls looks lines"
    "   (ns; of one packet: instructions, helper calls, look-ups, lines of maps)"
)
OTHER = "forward, exact, the other build"
EMPTIED = ", nothing cached"
PLOTTED = (OTHER, "empty", "one random line", "least possible", "FIB each packet", "FIB of 100,000 routes",
           "LRU hash", "forward, exact", "empty, alone", "one random line, alone", "forward, exact, alone")  # fmt: skip
# what a quick run leaves out, by the end of the name
NOT_QUICK = ("hasty", "100,000 routes", "1,024 prefixes", "1,048,576 exact")


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    quick: bool
    families: tuple[int, ...]
    destinations: tuple[int, ...]
    against: Path | None

    def rounds(self, destinations: int) -> int:
        if self.quick:
            return 20 if destinations < 65_536 else 6 if destinations < 1_000_000 else 2
        if destinations not in WHOLE:
            return 40
        return 200 if destinations < 65_536 else 40 if destinations < 1_000_000 else 10

    def all_rows(self, destinations: int) -> bool:
        return destinations in WHOLE and not (self.quick and destinations == WHOLE[-1])

    def wants(self, row: str, destinations: int) -> bool:
        if self.quick and row.endswith(NOT_QUICK):
            return False
        return self.all_rows(destinations) or row in PLOTTED


def wanted_tables(destinations: int) -> dict[str, Tables]:
    """The rows of forward by name: what each has behind its cache."""
    sized = cache_size_for(destinations)
    wanted = {
        "forward, exact": Tables("exact", destinations, sized),
        "forward, prefixes": Tables("prefix", destinations, sized),
        "forward, learned": Tables("learned", 0, sized),
    }
    if cache_size_for(destinations, 1) > CACHE_SIZE_DEFAULT:
        wanted["forward, cache of 1x"] = Tables("exact", destinations, cache_size_for(destinations, 1))
        wanted["forward, cache too small"] = Tables("exact", destinations, CACHE_SIZE_DEFAULT)
    if destinations == ENTRIES_DESTINATIONS:
        # over tables of their own, since a cache that has just been emptied takes more than a walk to settle
        wanted |= {name + EMPTIED: tables for name, tables in wanted.items()}
        for entries in ENTRIES:
            if entries != destinations:
                wanted[f"forward, {entries:,} prefixes"] = Tables("prefix", entries, sized)
        wanted[f"forward, {ENTRIES[-1]:,} exact"] = Tables("exact", ENTRIES[-1], sized)
    return wanted


def forward_rows(pipelines: dict[str, Pipeline]) -> list[Row]:
    rows = [Row(name, pipeline.program, XDP_REDIRECT, pipeline) for name, pipeline in pipelines.items()]
    for row in rows:
        if row.pipeline is not None and row.name.endswith(EMPTIED):
            row.prepare = row.pipeline.datapath.bump_generation
    return rows + [behind(harness, rows[0]) for harness in ("alone", "hasty")]


def open_rows(held: contextlib.ExitStack, path: Path, family: int, destinations: int, extent: Extent) -> Case:
    wanted = wanted_tables(destinations).items()
    tables = {name: tables for name, tables in wanted if extent.wants(name, destinations)}
    pipelines = {}
    for number, name in enumerate(tables):
        pipelines[name] = open_pipeline(held, family, tables[name], f"{family}-{number}")
    if extent.against is not None:
        ours, datapath.OBJECT = datapath.OBJECT, extent.against
        pipelines[OTHER] = open_pipeline(held, family, tables["forward, exact"], f"{family}-other")
        datapath.OBJECT = ours
    for pipeline in pipelines.values():
        pipeline.datapath.maps["state"].mmap()["lease_jiffies"][0] *= LEASE_TIMES
    first = pipelines["forward, exact"]
    case = open_case(held, path, family, destinations, cache_lines(first, family))
    rows = compared_rows(held, case) + forward_rows(pipelines)
    case.rows = [row for row in rows if extent.wants(row.name, destinations)]
    return case


def measured(case: Case, rounds: int) -> list[Figure]:
    """Let all rows take turns; each is run once over all destinations before it is measured."""
    packets = max(PACKETS_LEAST, case.destinations)
    pipelines = {id(row.pipeline): row.pipeline for row in case.rows if row.pipeline}
    before = {key: pipeline.forwarded() for key, pipeline in pipelines.items()}
    found: dict[str, list[int]] = {row.name: [] for row in case.rows}
    missed = dict.fromkeys(found, 0)
    sent = dict.fromkeys(pipelines, 0)
    for _ in range(rounds):
        for row in case.rows:
            # with one, its tables are there after the first of thousands
            before_it = case.destinations if case.destinations > 1 else 0
            if before_it:
                case.run(row, before_it)
            row.prepare()
            misses = row.pipeline.misses() if row.pipeline else 0
            found[row.name].append(case.run(row, packets))
            if row.pipeline:
                missed[row.name] += row.pipeline.misses() - misses
                sent[id(row.pipeline)] += packets + before_it
    for key, pipeline in pipelines.items():
        assert pipeline.forwarded() - before[key] == sent[key], f"{pipeline.tables}: not all packets were forwarded"
    lru = len(case.harness.map(f"lru{case.family}").items()[0])
    assert lru == case.destinations, "the LRU hash has evicted some: its row would show nothing"
    return [figure(case, row, found, missed[row.name] / rounds / packets, packets) for row in case.rows]


def counted(case: Case, row: Row) -> Cost:
    """Return what a packet costs in instructions and the like, once what can be cached is."""
    case.run(row, case.destinations)
    row.prepare()
    cost = emulated(row.program, case.frame, case.ingress)
    assert cost.action == row.expected, f"{row.name}: the emulated program says {cost.action}: another path is counted"
    return cost


def figure(case: Case, row: Row, found: dict[str, list[int]], missed: float, packets: int) -> Figure:
    cost = counted(case, row)
    rounds, base = found[row.name], found[row.base] if row.base in found else found["empty"]
    tables = row.pipeline.tables if row.pipeline else None
    return Figure(
        family=case.family,
        destinations=case.destinations,
        row=row.name,
        least=min(rounds),
        median=statistics.median(rounds),
        over_least=min(rounds) - min(base),
        over_median=statistics.median(rounds) - statistics.median(base),
        rounds=len(rounds),
        packets=packets,
        missed=missed if tables else None,
        entries=tables.entries if tables else None,
        cache_size=tables.cache_size if tables else None,
        table_lines=case.lines,
        instructions=cost.instructions,
        calls=cost.calls.total(),
        lookups=cost.lookups.total(),
        lines=cost.map_lines,
    )


def tell(figures: list[Figure]) -> None:
    for one in figures:
        ns = f"{one.least:6} {one.median:7g}   {one.over_least:7} {one.over_median:7g}"
        missed = "" if one.missed is None else f"{100 * one.missed:.2f}"
        counted = (one.instructions, one.calls, one.lookups, one.lines)
        counts = " ".join("" if number is None else f"{number:5}" for number in counted)
        print(f"IPv{one.family} {one.destinations:8} {one.row:38} {ns} {missed:>8} {counts}", flush=True)


def measure(extent: Extent, target: Path | None) -> None:
    figures: list[Figure] = []
    print(HEAD.format("row"), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        path = compiled(Path(directory))
        for family in extent.families:
            for destinations in extent.destinations:
                with contextlib.ExitStack() as held:
                    case = open_rows(held, path, family, destinations, extent)
                    figures += measured(case, extent.rounds(destinations))
                    tell(figures[-len(case.rows) :])
                    if destinations == cold.DESTINATIONS:
                        figures += (found := cold.measured(case, cold.QUICK if extent.quick else cold.ROUNDS))
                        tell(found)
    if target is not None:
        save(target, quick=extent.quick, figures=[asdict(one) for one in figures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less often, and fewer rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--against", type=Path, metavar="FILE", help="another build of xdp.bpf.o")
    parser.add_argument("--family", type=int, choices=(4, 6), action="append")
    parser.add_argument("--destinations", type=int, choices=SCALE, action="append")
    asked = parser.parse_args()
    destinations = tuple(asked.destinations or (WHOLE if asked.quick else SCALE))
    extent = Extent(asked.quick, tuple(asked.family or (4, 6)), destinations, asked.against)
    in_world(lambda: measure(extent, asked.json), full=not asked.quick)


if __name__ == "__main__":
    main()
