"""How entries lie in the file: values that many share are there once, counted, and gone with the last that has them."""

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hopline.config import NextHop
from hopline.intent import Change, Delta, Wanted, difference
from hopline.store.embedded import Store
from hopline.store.fold import in_order
from hopline.store.tables import tables

A, B, C = NextHop("e", None, "08:00:27:00:00:01"), NextHop("e", via="10.0.0.1"), NextHop(via="10.0.0.1")
KEYS = [f"10.0.{n}.1" for n in range(40)]


@pytest.fixture
def connection():
    opened = sqlite3.connect(":memory:", isolation_level=None)
    for table in tables().values():
        for statement in table.create:
            opened.execute(statement)
    yield opened
    opened.close()


def stored(connection) -> dict[tuple, int]:
    """How many entries say that they have a value, by the value; each is there once."""
    rows = connection.execute("SELECT dev, src_mac, dst_mac, via, entries FROM forward_value").fetchall()
    assert len({row[:-1] for row in rows}) == len(rows)
    return {row[:-1]: row[-1] for row in rows}


def change(connection, have: dict, want: dict) -> None:
    delta = in_order(difference(Wanted({"forward": have}), Wanted({"forward": want}))).of("forward")
    tables()["forward"].write(connection, delta)


intents = st.dictionaries(st.sampled_from(KEYS), st.sampled_from([A, B, C]))


@given(st.lists(intents, max_size=5))
@settings(deadline=None)
def test_values_are_counted_through_any_changes(each):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in tables()["forward"].create:
        connection.execute(statement)
    have: dict = {}
    for want in each:
        # equal values need not be one object
        change(connection, have, {to: NextHop(hop.dev, hop.src_mac, hop.dst_mac, hop.via) for to, hop in want.items()})
        have = want
        expected = {(h.dev, h.src_mac, h.dst_mac, h.via): [*want.values()].count(h) for h in set(want.values())}
        assert stored(connection) == expected
        read = tables()["forward"].rows(connection)
        assert read == want
        assert list(read) == sorted(want)
        assert len({id(hop) for hop in read.values()}) == len(expected)
    connection.close()


def test_a_sqlite_without_json_reads_the_same(connection, monkeypatch):
    change(connection, {}, {to: (A, B, C)[place % 3] for place, to in enumerate(KEYS)})
    forward = tables()["forward"]
    read = forward.rows(connection)
    monkeypatch.setattr(forward, "_all", ["SELECT no_such_function()"])
    assert list(forward.rows(connection).items()) == list(read.items())


def test_a_change_is_put_in_order_and_stays_the_change_it_is():
    shuffled = dict.fromkeys(reversed(KEYS), A)
    for delta in (
        Delta(after=shuffled),
        Delta(shuffled),
        Delta(shuffled, dict.fromkeys(KEYS, B)),
        Delta({"b": A}, {"a": B}),
    ):
        ordered = in_order(Change({"forward": delta})).of("forward")
        assert ordered == delta
        assert [list(ordered.before), list(ordered.after)] == [sorted(delta.before), sorted(delta.after)]


def test_entries_that_all_change_leave_one_row_of_the_new_value(tmp_path):
    with Store.open(tmp_path / "main") as store:
        store.write(Change({"forward": Delta(after=dict.fromkeys(KEYS, A))}), by="x", what="x")
        store.write(Change({"forward": Delta(dict.fromkeys(KEYS, A), dict.fromkeys(KEYS, B))}), by="x", what="x")
    connection = sqlite3.connect(tmp_path / "main" / "hopline.db")
    assert stored(connection) == {("e", None, None, "10.0.0.1"): len(KEYS)}
    connection.close()
