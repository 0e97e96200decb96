"""What is wanted beside what the kernel has, by arrays: the same as one by one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopline.daemon.compare import ABSENT, destinations_of, found_together, matched, octets
from hopline.features.forward import by_table, key_of, table_of

SIZES = {"forward_exact4": 4, "forward_prefix4": 8, "forward_exact6": 16, "forward_prefix6": 20}
# many share their first or their last octets
DESTINATIONS = {
    "forward_exact4": [f"10.{a}.0.{b}" for a in (0, 1, 255) for b in range(6)],
    "forward_prefix4": [f"10.{a}.0.0/{length}" for a in (0, 1, 255) for length in (16, 17, 24)],
    "forward_exact6": [f"fd00:{a:x}::{b:x}" for a in (1, 0x100) for b in (1, 2, 0x100, 0xFFFF)],
    "forward_prefix6": [f"fd00:{a:x}::/{length}" for a in (1, 2, 0x100) for length in (32, 33, 64)],
}


def kernel(table: str, entries: dict[str, int]):
    """As a map is read: keys of the size that it has, and ids, in an order of its own."""
    size = SIZES[table]
    dtype = np.dtype(">u4") if size == 4 else np.dtype((np.void, size))
    order = sorted(entries, key=hash)
    keys = np.frombuffer(b"".join(map(key_of, order)), dtype)
    return keys, np.array([entries[to] for to in order], np.uint32)


@st.composite
def two_sides(draw):
    table = draw(st.sampled_from(sorted(SIZES)))
    some = st.dictionaries(st.sampled_from(DESTINATIONS[table]), st.integers(2, 5))
    return table, draw(some), draw(some)


@given(two_sides())
def test_what_differs_is_what_differs_one_by_one(sides):
    table, want, have = sides
    match = matched(table, list(want), *kernel(table, have))
    assert match.found.tolist() == [have.get(to, ABSENT) for to in want]
    before, after = match.differing(np.array([*want.values()], np.int64))
    assert after == {to: id for to, id in want.items() if have.get(to) != id}
    assert before == {to: id for to, id in have.items() if want.get(to) != id}
    assert all(table_of(to) == table for to in before)


@given(two_sides())
def test_the_pairs_that_most_entries_have_come_first(sides):
    table, want, have = sides
    match = matched(table, list(want), *kernel(table, have))
    kinds = np.array([*want.values()], np.int64)
    pairs = found_together([match, match], [kinds, kinds])
    counted = Counter((kind, have[to]) for to, kind in want.items() if to in have)
    assert sorted(pairs) == sorted(counted)
    assert [counted[pair] for pair in pairs] == sorted(counted.values(), reverse=True)


@pytest.mark.parametrize("table", SIZES)
def test_keys_are_read_back_in_their_order(table):
    keys, _ = kernel(table, dict.fromkeys(DESTINATIONS[table], 2))
    assert [key_of(to) for to in destinations_of(table, keys)] == octets(keys)
    assert set(destinations_of(table, keys)) == set(DESTINATIONS[table])


@given(st.lists(st.sampled_from([to for some in DESTINATIONS.values() for to in some]), unique=True))
def test_destinations_go_to_their_tables_in_order(destinations):
    tables = by_table(iter(destinations))
    assert sorted(to for some in tables.values() for to in some) == sorted(destinations)
    for table, some in tables.items():
        assert some == [to for to in destinations if table_of(to) == table]
