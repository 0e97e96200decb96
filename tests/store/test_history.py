"""The history: numbers that are never given twice, inverses that lead back, and a change that waits."""

import random
import sqlite3
import time
from itertools import pairwise

import pytest

from hopline.config import Interface, NextHop
from hopline.errors import NotFound, Refused
from hopline.intent import Change, Delta, Wanted, difference
from hopline.store.embedded import Pending, Store
from hopline.store.fold import folded
from hopline.store.history import KEPT, packed, unpacked
from hopline.store.rows import Undecodable

HOPS = [NextHop(via=f"10.10.3.{n}") for n in range(1, 9)]


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "main") as store:
        yield store


def random_wanted(seed: int) -> Wanted:
    dice = random.Random(seed)
    forward = {f"10.0.0.{dice.randrange(1, 30)}": dice.choice(HOPS) for _ in range(12)}
    interface = {name: Interface(name, dice.choice(("auto", "native"))) for name in dice.sample("abcd", 2)}
    return Wanted({"interface": interface, "forward": forward})


def put(store: Store, want: Wanted, what: str = "apply", **how) -> int:
    return store.write(difference(store.read(), want), by="root (uid 0)", what=what, **how)


def after(have: Wanted, change: Change) -> Wanted:
    """What comes of a change, by the plainest means."""
    entries = {}
    for noun in ("interface", "forward"):
        delta = change.of(noun)
        assert {key: have.of(noun).get(key) for key in delta.before} == dict(delta.before)
        kept = {key: value for key, value in have.of(noun).items() if key not in delta.before}
        assert not kept.keys() & delta.after.keys()
        entries[noun] = {**kept, **delta.after}
    return Wanted(entries)


def test_every_state_that_is_kept_can_be_gone_back_to(store):
    states = {0: store.read()}
    for seed in range(1, 80):
        number = put(store, random_wanted(seed))
        assert number == seed, "each of these changes something"
        states[number] = store.read()
    numbers = [row.number for row in store.history()]
    assert numbers == list(range(79, 79 - KEPT, -1))
    for number in range(79 - KEPT, 80):
        assert after(store.read(), store.back_to(number)) == states[number]
    assert not store.back_to(79)
    for number in (78 - KEPT, 0, -1, 80):
        with pytest.raises(
            NotFound, match=rf"rollback to {number}: .* after changes 29 to 79 are known: `hopline hist"
        ):
            store.back_to(number)


def test_a_rollback_is_a_change_like_any_other(store):
    put(store, random_wanted(1))
    before = store.read()
    put(store, random_wanted(2))
    assert store.write(store.back_to(1), by="x", what="rollback to 1") == 3
    assert store.read() == before
    assert store.write(store.back_to(2), by="x", what="rollback to 2") == 4
    assert store.read() == random_wanted(2)


def test_a_row_says_who_what_when_and_how_many(store):
    began = time.time()
    put(store, Wanted({"forward": {"10.0.0.1": HOPS[0], "10.0.0.2": HOPS[0]}}))
    put(store, Wanted({"forward": {"10.0.0.2": HOPS[1], "10.0.0.3": HOPS[1]}, "interface": {"a": Interface("a")}}))
    store.write(store.back_to(1), by="a\nb " * 100, what="caf\udce9")
    third, second, first = store.history()
    assert began <= first.when <= second.when <= third.when <= time.time()
    assert (first.by, first.what, first.pending) == ("root (uid 0)", "apply", False)
    counts = second.counts["forward"]
    assert (counts.added, counts.changed, counts.removed) == (1, 1, 1)
    assert second.counts["interface"].added == 1
    assert third.what == "caf?"
    assert "\n" not in third.by
    assert len(third.by) == 200


def test_numbers_and_rows_outlive_the_process(store):
    for seed in range(1, 60):
        put(store, random_wanted(seed))
    rows, directory = store.history(), store.path.parent
    store.close()
    with Store.open(directory) as again:
        assert (again.revision, again.history()) == (59, rows)
        assert put(again, random_wanted(60)) == 60


def test_nothing_to_do_is_no_change(store):
    put(store, random_wanted(1))
    assert store.write(Change(), by="x", what="x") == 1
    assert store.write(Change({"forward": Delta()}), by="x", what="x", confirm_by=time.time() + 9) == 1
    assert (len(store.history()), store.pending) == (1, None)


def test_a_change_waits_for_confirmation_across_a_restart(store):
    put(store, random_wanted(1))
    assert put(store, random_wanted(2), confirm_by=1234.5) == 2
    directory = store.path.parent
    assert store.pending == Pending(2, 1234.5)
    assert [row.pending for row in store.history()] == [True, False]
    store.close()
    with Store.open(directory) as again:
        assert again.pending == Pending(2, 1234.5)
        assert [row.pending for row in again.history()] == [True, False]
        assert again.confirm() == 2
        assert (again.pending, again.revision) == (None, 2)
        with pytest.raises(Refused, match="no change waits"):
            again.confirm()
    with Store.open(directory) as again:
        assert again.pending is None
        assert [row.pending for row in again.history()] == [False, False]


def test_a_rollback_settles_what_waits(store):
    put(store, random_wanted(1))
    before = store.read()
    put(store, random_wanted(2), confirm_by=1234.5)
    with pytest.raises(Refused, match="change 2 waits to be confirmed"):
        put(store, random_wanted(3), confirm_by=2345.6)
    assert store.write(store.back_to(1), by="x", what="rollback", settles_pending=True) == 3
    assert (store.pending, store.read()) == (None, before)
    put(store, random_wanted(4), confirm_by=1234.5)
    store.write(Change(), by="x", what="x", settles_pending=True)
    assert (store.pending, store.revision) == (None, 4)


def test_what_waits_can_be_rolled_back_however_much_comes_after_it(store):
    put(store, random_wanted(1), confirm_by=1234.5)
    for seed in range(2, KEPT + 10):
        put(store, random_wanted(seed))
    assert store.history()[-1].number == 1
    assert after(store.read(), store.back_to(0)) == Wanted({"interface": {}, "forward": {}})
    store.confirm()
    put(store, random_wanted(99))
    assert len(store.history()) == KEPT


def spoil_inverse(directory, number: int) -> None:
    other = sqlite3.connect(directory / "hopline.db")
    other.execute("UPDATE history SET inverse = substr(inverse, 1, 20) WHERE number = ?", (number,))
    other.commit()
    other.close()


def test_an_inverse_that_is_damaged_is_forgotten_and_said_and_the_intent_stays(store):
    for seed in range(1, 6):
        put(store, random_wanted(seed))
    directory = store.path.parent
    store.close()
    spoil_inverse(directory, 2)
    for said in ("change 2 is damaged: it and those before it cannot be rolled back", None):
        with Store.open(directory) as again:
            assert (again.recovered_from, again.damage) == (None, said)
            assert (again.read(), again.revision) == (random_wanted(5), 5)
            assert [row.number for row in again.history()] == [5, 4, 3]
            assert after(again.read(), again.back_to(2)) == random_wanted(2)
            with pytest.raises(NotFound, match="after changes 2 to 5 are known"):
                again.back_to(1)
    spoil_inverse(directory, 5)
    for _ in range(2):
        with Store.open(directory) as again:
            assert (again.read(), again.revision, again.history()) == (random_wanted(5), 5, [])
            assert not again.back_to(5)
    with Store.open(directory) as again:
        assert put(again, random_wanted(6)) == 6


def test_an_inverse_that_goes_bad_meanwhile_is_named(store):
    put(store, random_wanted(1))
    spoil_inverse(store.path.parent, 1)
    with pytest.raises(Refused, match="rollback to 0: history 1: its inverse is damaged: the intent itself is whole"):
        store.back_to(0)


def test_a_damaged_file_cannot_keep_what_waits(store):
    put(store, random_wanted(1), confirm_by=1234.5)
    directory = store.path.parent
    store.close()
    spoil_inverse(directory, 1)
    with Store.open(directory) as again:
        assert again.damage == "change 1, which waits to be confirmed, is not in the history"
        assert again.recovered_from.exists()


def test_packing_keeps_a_change_and_finds_damage():
    change = difference(random_wanted(1), random_wanted(2))
    blob = packed(change)
    assert unpacked(blob) == change
    assert unpacked(packed(Change())) == Change()
    for place in range(len(blob)):
        with pytest.raises(Undecodable):
            unpacked(blob[:place])
        with pytest.raises(Undecodable):
            unpacked(blob[:place] + bytes([blob[place] ^ 0x10]) + blob[place + 1 :])


def test_folding_is_composing():
    states = [random_wanted(seed) for seed in range(20)]
    changes = [difference(a, b) for a, b in pairwise(states)]
    composed = changes[0]
    for change in changes[1:]:
        composed = composed.then(change)
    assert folded(changes) == composed
    assert folded([changes[0], changes[0].inverse()]) == Change()
    assert folded([]) == Change()
    assert folded(changes[:1]) == changes[0]
