"""ns a packet where the CPU's caches hold nothing of it: between two calls, memory larger than all of them is walked.

`first packet` is a call of one: code, tables and packet come from memory, and so does what runs it, which the empty
row shows and which is subtracted. `burst of 64` is what a card's poll finds after others had the CPU: 64 packets.
"""

import os
import statistics
from pathlib import Path

import numpy as np
from case import Case, Row
from record import Figure

DESTINATIONS = 65_536
ROUNDS, QUICK = 100, 8
CALLS = {"first packet": 1, "burst of 64": 64}
ROWS = ("empty", "one random line", "rewriter, redirect_map", "least possible", "FIB each packet",
        "FIB of 100,000 routes", "LRU hash", "forward, exact", "forward, learned",
        "forward, exact, the other build")  # fmt: skip
UNITS = {"K": 1 << 10, "M": 1 << 20}
LINE = 64


def largest_cache() -> int:
    places = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")
    sizes = [(place / "size").read_text().strip() for place in places]
    return max(int(size[:-1]) * UNITS[size[-1]] for size in sizes or ["32M"])


def measured(case: Case, rounds: int) -> list[Figure]:
    """Let the rows take turns, each from cold caches."""
    rows = [row for row in case.rows if row.name in ROWS]
    memory = np.zeros(2 * largest_cache() // LINE * (LINE // 8), np.uint64)
    found: dict[tuple[str, str], list[int]] = {(row.name, kind): [] for row in rows for kind in CALLS}
    allowed = os.sched_getaffinity(0)
    for row in rows:
        case.run(row, case.destinations)  # what the flow cache can hold, it holds
    try:
        # the walk must be on the CPU that runs the packets; a second-level cache is one CPU's own
        os.sched_setaffinity(0, {min(allowed)})
        for _ in range(rounds):
            for row in rows:
                for kind, packets in CALLS.items():
                    memory[:: LINE // 8] += np.uint64(1)
                    found[row.name, kind].append(case.run(row, packets))
    finally:
        os.sched_setaffinity(0, allowed)
    return [figure(case, row, kind, found) for kind in CALLS for row in rows]


def figure(case: Case, row: Row, kind: str, found: dict[tuple[str, str], list[int]]) -> Figure:
    values, base = found[row.name, kind], found["empty", kind]
    return Figure(
        family=case.family,
        destinations=case.destinations,
        row=f"{row.name}, {kind}",
        least=min(values),
        median=statistics.median(values),
        over_least=min(values) - min(base),
        over_median=statistics.median(values) - statistics.median(base),
        rounds=len(values),
        packets=CALLS[kind],
        table_lines=case.lines,
    )
