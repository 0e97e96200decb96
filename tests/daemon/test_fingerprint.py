"""Fingerprints of tables: equal for equal entries in any order, kept up by changes, told apart by any difference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.tables import DESTINATIONS
from hopline.daemon import fingerprint as module
from hopline.daemon.fingerprint import Expected, fingerprint, fingerprints
from hopline.features.forward import key_of

tables = st.dictionaries(st.sampled_from(DESTINATIONS), st.integers(16, 20))


def raw(entries: dict[str, int]) -> int:
    """As the datapath reckons it, from the keys as the kernel gives them."""
    keys = [key_of(to) for to in entries]
    return fingerprint(np.array(keys, np.dtype((np.void, len(keys[0])))), np.array([*entries.values()], np.uint32))


def test_the_order_does_not_matter_and_the_table_is_the_key_s():
    entries = {"10.0.0.1": 16, "10.0.0.2": 17, "10.0.0.0/24": 16, "fd00::1": 16, "fd00::/64": 18}
    found = fingerprints(entries)
    assert found == fingerprints(dict(reversed(entries.items())))
    assert set(found) == {"forward_exact4", "forward_prefix4", "forward_exact6", "forward_prefix6"}
    assert found["forward_exact4"] == raw({"10.0.0.2": 17, "10.0.0.1": 16})
    assert fingerprints({}) == {}
    assert fingerprint(np.empty(0, np.uint32), np.empty(0, np.uint32)) == 0


def test_big_endian_keys_count_as_they_lie_in_memory():
    keys = np.array([0x0A000001, 0x0A000002], ">u4")
    assert fingerprint(keys, np.array([16, 17], np.uint32)) == raw({"10.0.0.1": 16, "10.0.0.2": 17})


@pytest.mark.parametrize(
    "other",
    [
        {"10.0.0.1": 16},
        {"10.0.0.1": 16, "10.0.0.2": 16},
        {"10.0.0.1": 17, "10.0.0.2": 16},
        {"10.0.0.1": 16, "10.0.0.3": 17},
        {"10.0.0.1": 16, "10.0.0.2": 17, "10.0.0.3": 0},
    ],
)
def test_whatever_differs_shows(other):
    assert raw(other) != raw({"10.0.0.1": 16, "10.0.0.2": 17})


@given(tables, st.lists(tables, max_size=4), st.sampled_from([0, 3, 10_000]))
def test_what_is_kept_up_is_what_is_reckoned_anew(first, later, one_by_one_most):
    before_that = module.ONE_BY_ONE_MOST
    module.ONE_BY_ONE_MOST = one_by_one_most
    try:
        entries, expected = dict(first), Expected()
        expected.of(lambda: entries)
        for changed in later:
            # of the entries there are some are dropped, others put
            after = {to: id for to, id in changed.items() if id != 20}
            before = {to: entries[to] for to in changed if to in entries}
            entries = {to: id for to, id in entries.items() if to not in before} | after
            expected.commit(before, after)
            nonzero = {table: value for table, value in expected.of(lambda now=entries: now).items() if value}
            assert nonzero == fingerprints(entries)
    finally:
        module.ONE_BY_ONE_MOST = before_that
