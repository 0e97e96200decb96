"""Rings: exact shares, the same whoever asks in whatever order, and little that moves."""

import math
import time

import numpy as np
import pytest

from hopline.errors import HoplineError
from hopline.features.maglev import quotas, ring


def backends(count, weights=None, net=0):
    return [(f"10.{net}.{i >> 8}.{i & 255}", 1 if weights is None else int(weights[i])) for i in range(count)]


def shares(given, slots):
    return np.bincount(ring(given, slots), minlength=len(given))


CASES = [(251, 1), (251, 3), (251, 251), (1021, 100), (65537, 2), (65537, 100), (65537, 4095), (1048573, 4095)]


@pytest.mark.parametrize(("slots", "count"), CASES)
def test_each_has_its_share_within_one_slot(slots, count):
    rng = np.random.default_rng(count)
    weights = rng.integers(1, 100, count) if count * 60 < slots else np.ones(count, int)
    exact = weights * slots / weights.sum()
    found = shares(backends(count, weights), slots)
    assert found.sum() == slots
    assert (np.abs(found - exact) < 1).all()
    assert found.min() >= 1


@pytest.mark.parametrize(
    ("slots", "weights"), [(251, (65535, *[1] * 200)), (1021, (500, 500, *[1] * 600)), (251, (1, 65535))]
)
def test_a_weight_has_a_slot_and_the_large_share_what_is_left(slots, weights):
    weights = np.array(weights)
    found = shares(backends(len(weights), weights), slots)
    small = weights * slots <= weights.sum()
    left = slots - small.sum()
    assert (found[small] == 1).all()
    assert (np.abs(found - weights * left / weights[~small].sum())[~small] < 1).all()


def test_a_weight_of_0_has_none_and_changes_nothing():
    given = backends(5)
    assert (ring([*given, ("10.9.9.9", 0)], 1021) == ring(given, 1021)).all()


def test_the_order_of_backends_does_not_matter():
    rng = np.random.default_rng(3)
    given = backends(50, rng.integers(1, 9, 50))
    first = np.array([address for address, _ in given])[ring(given, 4099)]
    for _ in range(5):
        mixed = [given[i] for i in rng.permutation(50)]
        assert (np.array([address for address, _ in mixed])[ring(mixed, 4099)] == first).all()


def test_the_ring_is_what_it_was_in_former_versions():
    # two nodes of different versions decide alike
    assert ring(backends(7), 251)[:24].tolist() == [
        2,
        6,
        6,
        6,
        3,
        2,
        1,
        1,
        1,
        1,
        2,
        0,
        1,
        5,
        4,
        5,
        3,
        5,
        6,
        5,
        6,
        2,
        3,
        4,
    ]


def moved(given, slots, without):
    """Slots that change beyond those of the one that goes, in percent of all."""
    rest = [i for i in range(len(given)) if i != without]
    before, after = ring(given, slots), np.array(rest)[ring([given[i] for i in rest], slots)]
    return 100 * ((before != after).sum() - (before == without).sum()) / slots


@pytest.mark.parametrize("count", [2, 3, 5, 10, 30, 100, 300, 1000])
def test_of_equal_backends_one_moves_its_own_and_a_percent(count):
    assert max(moved(backends(count, net=net), 65537, net * 7 % count) for net in range(3)) <= 1


@pytest.mark.parametrize("slots", [1021, 65537])
@pytest.mark.parametrize("count", [2, 3, 5, 10, 30, 100, 300, 1000])
def test_of_unequal_backends_one_moves_its_own_and_five_percent(slots, count):
    rng = np.random.default_rng(count)
    for net in range(3):
        for weights in (rng.integers(1, 100, count), np.exp(rng.uniform(0, 11, count)).astype(int)):
            assert moved(backends(count, weights, net), slots, int(rng.integers(count))) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("slots", [16381, 65537, 262147, 1048573])
def test_of_equal_backends_few_slots_move_in_all_large_rings(slots):
    for count in (2, 3, 4, 5, 7, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000):
        # a ring of 16,381 goes beyond a percent once in some hundred times
        extra = [moved(backends(count, net=net), slots, net % count) for net in range(20 if slots < 100_000 else 3)]
        assert np.mean(extra) <= 0.9
        assert max(extra) <= (1 if slots > 16381 else 1.5)


def test_quotas_take_from_nobody_to_give_to_another():
    rng = np.random.default_rng(8)
    for _ in range(200):
        weights = rng.integers(1, 50, rng.integers(2, 60))
        before, after = quotas(weights, 1021), quotas(weights[1:], 1021)
        # the bounds of one slot beside the exact share move now and then
        assert (after.astype(int) - before[1:].astype(int) >= 0).mean() > 0.95


@pytest.mark.parametrize(
    ("given", "slots", "message"),
    [
        ([("a", 1)], 252, "the nearest are 251 and 257"),
        ([("a", 1)], 127, "give a prime from 251 to 1048573"),
        ([("a", 0)], 251, "no backend has a weight above 0"),
        ([], 251, "no backend has a weight above 0"),
        ([("a", 1), ("a", 2)], 251, "backend a: it is there twice"),
        ([("a", 65536)], 251, "weight 65536 is not within 0 and 65535"),
        ([("a", -1)], 251, "weight -1 is not within"),
        (backends(252), 251, "smaller than its 252 backends: take 257"),
        (backends(4096), 65537, "4096 backends: a service has 4095 at most"),
    ],
)
def test_what_cannot_be_a_ring_is_refused(given, slots, message):
    with pytest.raises((ValueError, HoplineError), match=message):
        ring(given, slots)


def test_a_ring_is_filled_fast():
    given, best = backends(100), math.inf
    for _ in range(20):
        start = time.perf_counter()
        ring(given, 65537)
        best = min(best, time.perf_counter() - start)
    # 1.7 ms on the machine of docs/performance.md, with nothing beside it
    assert best < 0.003 * 3
