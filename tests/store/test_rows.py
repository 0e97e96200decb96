"""Columns of fields, and entries that are more than text: lists within them, numbers, keys of several fields."""

import sqlite3

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from document.texts import decaps, services
from hopline.config import Backend, Decap, Interface, Service
from hopline.intent import Delta, Wanted, difference
from hopline.store.embedded import Store
from hopline.store.fold import in_order
from hopline.store.rows import Astray, column
from hopline.store.tables import tables

WEB = Service("web", "10.0.0.33", "80-81", "both", seed=2**63 - 1, interval=0.1, backend=(Backend("10.0.0.1", 0),))


class Odd(msgspec.Struct):
    number: dict[str, int]


@pytest.mark.parametrize(
    ("kind", "name", "definition"),
    [
        (Interface, "mode", '"mode" TEXT NOT NULL'),
        (Interface, "bypass_policy", '"bypass_policy" INTEGER NOT NULL'),
        (Service, "port", '"port" TEXT NOT NULL'),
        (Service, "local", '"local" TEXT'),
        (Service, "seed", '"seed" INTEGER NOT NULL'),
        (Service, "interval", '"interval" REAL NOT NULL'),
        (Service, "backend", '"backend" TEXT NOT NULL'),
        (Decap, "from", '"from" TEXT NOT NULL'),
    ],
)
def test_a_column_follows_from_the_field_s_type(kind, name, definition):
    assert column(kind, name) == definition


def test_a_type_that_has_no_column_is_a_fault_of_ours():
    with pytest.raises(TypeError, match=r"Odd\.number: no column for its type"):
        column(Odd, "number")


def opened(*nouns):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for noun in nouns:
        for statement in tables()[noun].create:
            connection.execute(statement)
    return connection


@st.composite
def intents_of_balance(draw):
    vips = draw(st.sets(st.integers(1, 9), max_size=4))
    served = [draw(services(f"s-{vip}", f"10.9.0.{vip}")) for vip in vips]
    return {
        "service": {one.name: one for one in served},
        "decap": {one.key: one for one in draw(st.lists(decaps(), max_size=4))},
    }


@given(st.lists(intents_of_balance(), max_size=4))
@settings(deadline=None, max_examples=50)
def test_services_and_decap_are_read_as_they_were_written_through_any_changes(each):
    connection = opened("service", "decap")
    have = {}
    for want in each:
        change = in_order(difference(Wanted(have), Wanted(want)))
        for noun in ("service", "decap"):
            tables()[noun].write(connection, change.of(noun))
            read = tables()[noun].rows(connection)
            assert read == want[noun]
            assert list(read) == sorted(want[noun])
        have = want
    connection.close()


def test_a_change_of_one_backend_starts_from_what_is_stored():
    connection = opened("service")
    table = tables()["service"]
    table.write(connection, Delta(after={"web": WEB}))
    more = msgspec.structs.replace(WEB, backend=(*WEB.backend, Backend("10.0.0.2", drained=True)))
    with pytest.raises(Astray):
        table.write(connection, Delta(before={"web": more}, after={"web": WEB}))
    # a whole number of seconds is the same as one with a fraction of none
    slower = msgspec.structs.replace(more, interval=5)
    table.write(connection, Delta(before={"web": WEB}, after={"web": slower}))
    table.write(connection, Delta(before={"web": msgspec.structs.replace(slower, interval=5.0)}))
    assert table.rows(connection) == {}
    connection.close()


def test_the_history_leads_back_over_services(tmp_path):
    states = [Wanted()]
    with Store.open(tmp_path / "main") as store:
        for n in range(1, 9):
            servers = tuple(Backend(f"10.0.0.{place}", weight=n) for place in range(1, n))
            want = {"web": msgspec.structs.replace(WEB, backend=servers)} if n % 4 else {}
            entry = Decap("10.0.0.1", f"10.{n}.0.0/16")
            states.append(Wanted({"service": want, "decap": {entry.key: entry}}))
            store.write(difference(store.read(), states[-1]), by="x", what="x")
    with Store.open(tmp_path / "main") as store:
        for number in (5, 8, 0, 3):
            store.write(store.back_to(number), by="x", what="x")
            assert store.read() == states[number]
        assert store.history()[-1].counts["service"].added == 1
