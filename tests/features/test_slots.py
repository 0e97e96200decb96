"""How slots change, age and close, word by word; and that the words are laid out as layout_balance.h says."""

import re
import time

import numpy as np
import pytest

from hopline.features import slots
from hopline.features.slots import State
from repository import ROOT

HEADER = (ROOT / "src/hopline/bpf/lib/layout_balance.h").read_text()
ALIVE = np.zeros(slots.NUMBERS, np.bool_)
IDLE = 3600


def word(now, before=0, state=State.CLOSED, stamp=0):
    return now | before << 12 | state << 24 | stamp << 26


def words(*given):
    return np.array(given, np.uint32)


def dead(*numbers):
    found = ALIVE.copy()
    found[list(numbers)] = True
    return found


def changed(old, wanted, dead=ALIVE, clock=5000):
    """The word that a slot has after retarget()."""
    have = words(old)
    stores = slots.retarget(have, np.array([wanted]), dead, clock, IDLE)
    have[stores.indexes] = stores.words
    return int(have[0])


NOW = slots.stamp(5000, IDLE)


@pytest.mark.parametrize(
    ("old", "wanted", "lost", "new"),
    [
        (word(1), 1, (), word(1)),
        (word(1), 2, (), word(2, 1, State.OPEN, NOW)),
        (word(1), 2, (1,), word(2, 0, State.RESIDUAL)),
        (word(1), 1, (1,), word(1)),
        (word(1, state=State.RESIDUAL), 1, (), word(1, state=State.RESIDUAL)),
        (word(1, state=State.RESIDUAL), 2, (), word(2, 1, State.OPEN, NOW)),
        (word(1, state=State.RESIDUAL), 2, (1,), word(2, 0, State.RESIDUAL)),
        (word(2, 1, State.OPEN, 9), 2, (), word(2, 1, State.OPEN, 9)),
        (word(2, 1, State.OPEN, 9), 3, (), word(3, 1, State.OPEN, NOW)),
        (word(2, 1, State.OPEN, 9), 3, (2,), word(3, 1, State.OPEN, NOW)),
        (word(2, 1, State.OPEN, 9), 1, (), word(1, 0, State.RESIDUAL)),
        (word(2, 1, State.OPEN, 9), 2, (1,), word(2, 0, State.RESIDUAL)),
        (word(2, 1, State.OPEN, 9), 3, (1,), word(3, 0, State.RESIDUAL)),
        (word(4095), 4094, (), word(4094, 4095, State.OPEN, NOW)),
    ],
)
def test_a_slot_changes(old, wanted, lost, new):
    assert changed(old, wanted, dead(*lost)) == new
    # and once it has changed it stays
    assert changed(new, wanted, dead(*lost)) == new


def test_only_what_changes_is_stored():
    have = slots.fresh(np.arange(1000) % 7)
    wanted = np.where(np.arange(1000) % 100 == 3, 9, slots.now_of(have))
    assert slots.retarget(have, wanted, ALIVE, 5, IDLE).indexes.tolist() == list(range(3, 1000, 100))


@pytest.mark.parametrize("idle", [0, 1, 4, 31, 32, 33, 64, 240, 3600, 86400 * 4])
def test_an_open_slot_ages_after_t_and_not_before(idle):
    rng = np.random.default_rng(idle)
    late = 0
    for changed_at in rng.integers(1, 1 << 31, 50).tolist():
        have = words(word(2, 1, State.OPEN, slots.stamp(changed_at, idle)), word(1), word(2, state=State.RESIDUAL))
        ages = [
            age
            for age in range(0, 2 * idle + 3, max(1, idle // 200))
            if len(slots.aged(have, changed_at + age, idle, 0))
        ]
        assert min(ages) > idle
        late = max(late, min(ages) - idle)
        stores = slots.aged(have, changed_at + min(ages), idle, 0)
        assert (stores.indexes.tolist(), stores.words.tolist()) == ([0], [word(2, 0, State.RESIDUAL)])
    assert late <= idle // 16 + 2


def test_none_ages_while_the_table_refuses():
    have = words(word(2, 1, State.OPEN, slots.stamp(1000, 96)))
    assert len(slots.aged(have, 1110, 96, 0)) == 1
    assert not len(slots.aged(have, 1110, 96, 1014))
    assert len(slots.aged(have, 1111, 96, 1014)) == 1


def test_another_idle_time_stamps_anew():
    have = words(word(2, 1, State.OPEN, 63), word(3), word(4, state=State.RESIDUAL))
    stores = slots.restamped(have, 5000, IDLE)
    assert (stores.indexes.tolist(), stores.words.tolist()) == ([0], [word(2, 1, State.OPEN, NOW)])


def test_residual_slots_close_where_nothing_is_left():
    have = words(*[word(i, state=State.RESIDUAL) for i in range(4)], word(9, 8, State.OPEN, 5), word(7))
    stores = slots.closing(have, np.array([2, 0, 2]))
    assert (stores.indexes.tolist(), stores.words.tolist()) == ([1, 3], [1, 3])


def test_closed_slots_are_doubted():
    stores = slots.doubted(words(word(5), word(6, state=State.RESIDUAL), word(9, 8, State.OPEN, 5)))
    assert (stores.indexes.tolist(), stores.words.tolist()) == ([0], [word(5, state=State.RESIDUAL)])


def test_who_is_named_and_what_there_is():
    have = words(word(1), word(2, 3, State.OPEN), word(4, 5, State.RESIDUAL), word(1))
    assert np.flatnonzero(slots.named(have)).tolist() == [1, 2, 3, 4]
    assert slots.shares(have)[:6].tolist() == [0, 2, 1, 0, 1, 0]
    assert slots.census(have) == slots.Census(2, 1, 1)
    assert slots.before_of(have).tolist() == [0, 3, 5, 0]


def test_words_are_laid_out_as_the_header_says():
    defined = {
        "SLOT_NUMBER_BITS": slots.NUMBER_BITS,
        "SLOT_STATE_SHIFT": slots.STATE_SHIFT,
        "SLOT_STATE_MASK": slots.STATE_MASK,
        "SLOT_STAMP_SHIFT": slots.STAMP_SHIFT,
    }
    for name, value in defined.items():
        assert int(re.search(rf"#define {name} (\d+)", HEADER)[1]) == value
    for state in State:
        assert int(re.search(rf"SLOT_{state.name} = (\d+)", HEADER)[1]) == state


def test_a_large_ring_is_gone_through_fast():
    rng = np.random.default_rng(1)
    have = slots.fresh(rng.integers(0, 100, 65537))
    wanted = np.where(rng.random(65537) < 0.01, 7, have)
    took = []
    for _ in range(10):
        start = time.perf_counter()
        slots.retarget(have, wanted, ALIVE, 5000, IDLE)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.01
