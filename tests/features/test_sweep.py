"""What a sweep takes out of the flow table, entry by entry, and what it counts."""

import re
import time

import numpy as np
import pytest

from features.keeper import exchange
from features.node import BACKEND, SERVICE, WAY
from hopline.features import slots, sweep
from repository import ROOT

HEADER = (ROOT / "src/hopline/bpf/lib/layout_balance.h").read_text()
SLOTS, IDLE, CLOCK = 251, 480, 10_000
LIMIT = IDLE + IDLE // 16 + 1


class Tables:
    """Service 1: one ring of which all slots are the same; 2: another, elsewhere; 3: one that remembers; 4: none."""

    def __init__(self, word):
        self.services = np.zeros(6, SERVICE)
        self.services[1] = (1 | SLOTS << 32, 10, 8, 0, IDLE)
        self.services[2] = (2 | SLOTS << 32, 20, 8, 0, IDLE * 10)
        self.services[3] = (3 | SLOTS << 32, 30, 8, sweep.REMEMBERS, IDLE)
        self.backends = np.zeros(40, BACKEND)
        self.backends["flags"][10:38] = sweep.IN_USE
        self.backends["flags"][[15, 25, 35]] |= sweep.DEAD
        self.rings = np.full(4096, word, np.uint32)

    def swept(self, *entries, exchange=exchange):
        """Sweep a table of some entries (service, number, age, flags); return the sweep and which are left."""
        ways = np.zeros(len(entries), WAY)
        for way, (service, number, age, flags) in zip(ways, entries, strict=True):
            way["hash"] = np.uint64(hash((service, number, age)) & (1 << 64) - 1)
            way["word"] = number | flags | service << 16 | CLOCK - age << 32
        found = sweep.sweep(ways, self.services, self.backends, self.rings, CLOCK, exchange)
        return found, [bool(word) for word in ways["word"]]


OPEN = slots.fresh(np.array([2]))[0] | 1 << 12 | 1 << 24
RESIDUAL = 2 | 2 << 24
FINISHED = int(sweep.FINISHED)


@pytest.mark.parametrize(
    ("word", "entry", "left"),
    [
        (OPEN, (1, 1, 0, 0), True),
        (OPEN, (1, 2, 0, 0), True),
        (OPEN, (1, 1, LIMIT - 1, 0), True),
        (OPEN, (1, 1, LIMIT, 0), True),
        (OPEN, (1, 1, LIMIT + 1, 0), False),
        (OPEN, (2, 1, LIMIT + 1, 0), True),
        (OPEN, (1, 1, 240 + 15 + 1, FINISHED), True),
        (OPEN, (1, 1, 240 + 15 + 2, FINISHED), False),
        (OPEN, (1, 5, 0, 0), False),
        (OPEN, (1, 8, 0, 0), False),
        (OPEN, (4, 1, 0, 0), False),
        (OPEN, (1, 1, -3, 0), True),
        (RESIDUAL, (1, 1, 0, 0), True),
        (RESIDUAL, (1, 2, 0, 0), False),
        (RESIDUAL, (3, 2, 0, 0), True),
        (RESIDUAL, (3, 5, 0, 0), False),
        (2, (1, 1, 0, 0), False),
        (2, (3, 1, 0, 0), True),
        (2, (3, 1, LIMIT + 1, 0), False),
        (RESIDUAL, (0xFFFF, 2, 9000, 0), True),
        (RESIDUAL, (5, 2, 0, 0), False),
    ],
)
def test_an_entry_goes_or_stays(word, entry, left):
    assert Tables(word).swept(entry)[1] == [left]


def test_a_sweep_counts():
    found, _ = Tables(RESIDUAL).swept(
        (1, 1, 0, 0), (1, 2, 0, 0), (1, 3, LIMIT + 9, 0), (1, 5, 0, 0), (2, 3, 0, 0), (2, 3, 1, 0)
    )
    counts = [column[1:3].tolist() for column in (found.flows, found.agreed, found.silent, found.lost)]
    assert counts == [[1, 2], [1, 0], [1, 0], [1, 0]]
    assert {row: found.remembered[row] for row in np.flatnonzero(found.remembered)} == {11: 1, 23: 2}


def test_what_changed_meanwhile_stays_and_is_counted():
    found, left = Tables(RESIDUAL).swept(
        (1, 2, 0, 0), exchange=lambda words, indexes, expected: np.zeros(len(indexes), bool)
    )
    assert left == [True]
    assert (found.flows[1], found.agreed[1], found.remembered[12]) == (1, 0, 1)
    assert len(found.closing(1)) == SLOTS - 1


def test_slots_close_but_for_those_that_something_is_left_of():
    tables = Tables(RESIDUAL)
    found, _ = tables.swept((1, 1, 0, 0), (1, 2, 0, 0), (2, 1, 0, 0), (3, 1, 0, 0))
    assert [len(found.closing(row)) for row in (1, 2, 3)] == [SLOTS - 1, SLOTS - 1, SLOTS]
    hashes = np.array([hash((1, 1, 0)) & (1 << 64) - 1], np.uint64)
    (kept,) = set(range(SLOTS)) - set(found.closing(1).indexes.tolist())
    assert kept == int(sweep.slot_of(hashes, np.uint64(SLOTS))[0])


def test_parts_make_a_whole():
    rng = np.random.default_rng(4)
    entries = [(int(s), int(n), int(a), 0) for s, n, a in rng.integers((1, 0, 0), (5, 9, 700), (300, 3))]
    found, left = Tables(RESIDUAL).swept(*entries)
    whole = sweep.PART
    sweep.PART = 7
    try:
        parts, same = Tables(RESIDUAL).swept(*entries)
    finally:
        sweep.PART = whole
    assert same == left
    assert all(
        (getattr(parts, name) == getattr(found, name)).all() for name in ("flows", "lost", "silent", "remembered")
    )
    assert (parts.closing(2).indexes == found.closing(2).indexes).all()


def test_words_are_laid_out_as_the_header_says():
    for name, value in (("ESTABLISHED", sweep.ESTABLISHED), ("FINISHED", sweep.FINISHED)):
        assert 1 << int(re.search(rf"#define FLOW_{name} \(1ULL << (\d+)\)", HEADER)[1]) == value
    assert int(re.search(r"#define FLOW_SERVICE_SHIFT (\d+)", HEADER)[1]) == sweep.SERVICE_SHIFT
    assert int(re.search(r"#define FLOW_SEEN_SHIFT (\d+)", HEADER)[1]) == sweep.SEEN_SHIFT
    assert int(re.search(r"#define FLOW_BUSY \((\w+)ULL << FLOW_SERVICE_SHIFT", HEADER)[1], 16) == sweep.BUSY
    for name, value in (
        ("SERVICE_REMEMBERS", sweep.REMEMBERS),
        ("BACKEND_IN_USE", sweep.IN_USE),
        ("BACKEND_DEAD", sweep.DEAD),
    ):
        assert 1 << int(re.search(rf"{name} = 1 << (\d+)", HEADER)[1]) == value
    assert int(re.search(r"RING_ELEMENT_SLOTS = (\d+)", HEADER)[1]) == sweep.ELEMENT_SLOTS
    life = (ROOT / "src/hopline/bpf/lib/flow.h").read_text()
    assert int(re.search(r"#define FLOW_FINISHED_LIFE (\d+)", life)[1]) == sweep.FINISHED_TICKS
    assert int(re.search(r"#define FLOW_REFRESHES (\d+)", life)[1]) == 1 << sweep.LAG_SHIFT


def test_a_full_table_is_swept_fast():
    tables, rng = Tables(OPEN), np.random.default_rng(1)
    ways = np.zeros(1 << 20, WAY)
    ways["hash"] = rng.integers(0, 1 << 63, len(ways), dtype=np.uint64)
    ways["word"] = rng.integers(0, 5, len(ways)).astype(np.uint64) | np.uint64(1 << 16 | CLOCK << 32)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        found = sweep.sweep(ways, tables.services, tables.backends, tables.rings, CLOCK, exchange)
        took.append(time.perf_counter() - start)
    assert found.flows[1] == len(ways)
    # 30 ms on the machine of docs/performance.md, with nothing beside it
    assert min(took) < 0.06 * 4
