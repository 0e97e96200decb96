"""daemon/balance/blocks: runs of places, given out once, and again only after their rest."""

from hypothesis import given
from hypothesis import strategies as st

from hopline.daemon.balance.blocks import Blocks


def test_runs_are_given_out_and_come_back_after_their_rest():
    blocks = Blocks(1, 11)
    assert [blocks.take(4), blocks.take(4), blocks.take(4)] == [1, 5, None]
    blocks.give_back(1, 4, until=5.0)
    assert blocks.take(4) is None
    assert blocks.free_rested(4.9) == []
    assert blocks.free_rested(5.0) == [(1, 4)]
    assert blocks.take(4) == 1


def test_neighbours_are_one_run_again():
    blocks = Blocks(0, 8)
    starts = [blocks.take(2) for _ in range(4)]
    for start in starts:
        assert start is not None
        blocks.give_back(start, 2, 0)
    blocks.free_rested(0)
    assert blocks.take(8) == 0


def test_what_is_claimed_is_not_given_out():
    blocks = Blocks(1, 10)
    blocks.claim([(4, 2), (1, 1)])
    assert [blocks.take(2), blocks.take(2), blocks.take(4), blocks.take(1)] == [2, 6, None, 8]


def test_lacking_says_how_far_the_end_must_move():
    blocks = Blocks(0, 10)
    assert blocks.lacking([4, 4]) == 0
    assert blocks.lacking([4, 4, 4]) == 4 - 2
    assert blocks.take(10) == 0
    assert blocks.lacking([3, 3]) == 6
    blocks.grow(16)
    assert [blocks.take(3), blocks.take(3)] == [10, 13]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=40))
def test_no_place_is_two_runs(steps):
    blocks, held, now = Blocks(0, 64), [], 0.0
    for taking, size in steps:
        now += 1
        if taking and (start := blocks.take(size)) is not None:
            held.append((start, size))
        elif not taking and held:
            blocks.give_back(*held.pop(size % len(held)), until=now)
            blocks.free_rested(now)
        places = [place for start, length in held for place in range(start, start + length)]
        assert len(places) == len(set(places))
        assert blocks.free + len(places) == 64


@given(st.lists(st.integers(1, 9), max_size=12), st.lists(st.integers(1, 9), max_size=6))
def test_after_growing_by_what_lacks_all_fit(before, wanted):
    blocks = Blocks(0, 20)
    taken = [(start, size) for size in before if (start := blocks.take(size)) is not None]
    for each in taken[::2]:
        blocks.give_back(*each, until=0)
    blocks.free_rested(0)
    blocks.grow(blocks.end + blocks.lacking(wanted))
    assert all(blocks.take(size) is not None for size in wanted)
