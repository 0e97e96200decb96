"""The plan: the fewest steps from what is to what is wanted, in an order in which no packet is ever led astray."""

from itertools import pairwise

import pytest
from hypothesis import given

from daemon.tables import Model, consistent_tables
from hopline.config import Interface
from hopline.daemon.execute import run
from hopline.daemon.plan import (
    AttachInterface,
    Bump,
    DetachInterface,
    DropEntries,
    PutEntries,
    RetireAdjacency,
    Tables,
    WriteAdjacency,
    described,
    plan,
)
from hopline.features.forward import Adjacency

A, B, C = Adjacency("READY", 1), Adjacency("READY", 2), Adjacency("UNRESOLVED", 3)


def test_everything_new_is_written_before_it_is_pointed_at_and_announced_last():
    want = Tables({"10.0.0.1": 2, "10.0.0.2": 3, "10.1.0.0/16": 2, "fd00::1": 3}, {2: A, 3: B})
    assert plan(Tables(), want) == [
        WriteAdjacency(2, None, A),
        WriteAdjacency(3, None, B),
        PutEntries("forward_exact4", {"10.0.0.1": 2, "10.0.0.2": 3}, {}),
        PutEntries("forward_prefix4", {"10.1.0.0/16": 2}, {}),
        PutEntries("forward_exact6", {"fd00::1": 3}, {}),
        Bump(),
    ]


def test_everything_is_dropped_and_announced_before_its_adjacency_is_retired():
    have = Tables({"10.0.0.1": 2, "fd01::/32": 3}, {2: A, 3: B})
    assert plan(have, Tables()) == [
        DropEntries("forward_exact4", {"10.0.0.1": 2}),
        DropEntries("forward_prefix6", {"fd01::/32": 3}),
        Bump(),
        RetireAdjacency(2, A),
        RetireAdjacency(3, B),
    ]


def test_an_entry_that_moves_is_put_over_the_old_one_and_never_absent():
    have = Tables({"10.0.0.1": 2, "10.0.0.2": 2}, {2: A})
    want = Tables({"10.0.0.1": 3, "10.0.0.2": 3}, {3: B})
    assert plan(have, want) == [
        WriteAdjacency(3, None, B),
        PutEntries("forward_exact4", {"10.0.0.1": 3, "10.0.0.2": 3}, {"10.0.0.1": 2, "10.0.0.2": 2}),
        Bump(),
        RetireAdjacency(2, A),
    ]


def test_another_neighbour_is_one_write_and_needs_no_bump_however_many_entries_there_are():
    entries = {f"10.0.{i >> 8}.{i & 255}": 2 for i in range(1000)}
    assert plan(Tables(entries, {2: A}), Tables(entries, {2: C})) == [WriteAdjacency(2, A, C)]


def test_an_adjacency_that_nothing_points_at_is_retired_without_a_bump():
    assert plan(Tables({}, {2: A}), Tables()) == [RetireAdjacency(2, A)]


@given(consistent_tables())
def test_what_is_as_wanted_takes_no_step(tables):
    assert plan(tables, tables) == []


@given(consistent_tables(), consistent_tables())
def test_the_steps_lead_from_have_to_want_and_no_entry_dangles_on_the_way(have, want):
    model = Model(have)
    model.before = lambda what: check(model, have, want)
    steps = plan(have, want)
    for step in steps:
        run(step, model)
        check(model, have, want)
    assert model.tables() == want
    assert plan(model.tables(), want) == []
    kinds = [type(step).__name__ for step in steps]
    order = [
        *("WriteAdjacency", "PutEntries", "PutService", "PutDecaps", "AttachInterface"),
        *("DropEntries", "DropService", "DropDecaps", "RetireAdjacency", "DetachInterface"),
    ]
    assert (told := [kind for kind in kinds if kind not in ("Bump", "Run")]) == sorted(told, key=order.index)
    # right after what changes answers, whether entries are put or dropped
    followers = [after for step, after in pairwise(kinds) if step in ("PutEntries", "DropEntries")]
    assert set(followers) <= {"PutEntries", "DropEntries", "Bump"}
    assert kinds.count("Bump") == ("PutEntries" in kinds) + ("DropEntries" in kinds)


def check(model: Model, have: Tables, want: Tables) -> None:
    """At every single write, not only after each step."""
    assert model.dangling() == {}
    for to in have.entries.keys() & want.entries.keys():
        assert model.entries.get(to) in (have.entries[to], want.entries[to]), f"{to} leads nowhere meanwhile"


@given(consistent_tables(), consistent_tables())
def test_what_is_the_same_on_both_sides_is_not_touched(have, want):
    for step in plan(have, want):
        match step:
            case WriteAdjacency(id, before, after):
                assert before == have.adjacencies.get(id) != after == want.adjacencies[id]
            case PutEntries(_, after, before):
                assert all(have.entries.get(to) != id == want.entries[to] for to, id in after.items())
                assert before == {to: have.entries[to] for to in after if to in have.entries}
            case DropEntries(_, before):
                assert all(have.entries[to] == id and to not in want.entries for to, id in before.items())
            case RetireAdjacency(id, before):
                assert have.adjacencies[id] == before
                assert id not in want.adjacencies
            case AttachInterface(before, after):
                assert before == have.interfaces.get(after.name) != after == want.interfaces[after.name]
            case DetachInterface(before):
                assert have.interfaces[before.name] == before
                assert before.name not in want.interfaces


def test_interfaces_are_attached_when_entries_are_there_and_detached_when_nothing_can_fail_any_more():
    have = Tables({"10.0.0.1": 2}, {2: A}, {"eth0": Interface("eth0"), "eth1": Interface("eth1")})
    want = Tables({"10.0.0.1": 3}, {3: B}, {"eth0": Interface("eth0", "native"), "eth2": Interface("eth2")})
    assert plan(have, want)[-5:] == [
        Bump(),
        AttachInterface(Interface("eth0"), Interface("eth0", "native")),
        AttachInterface(None, Interface("eth2")),
        RetireAdjacency(2, A),
        DetachInterface(Interface("eth1")),
    ]


def test_tables_of_two_nouns_stand_beside_each_other():
    forwards = Tables({"10.0.0.1": 2}, {2: A})
    interfaces = Tables(interfaces={"eth0": Interface("eth0")})
    both = interfaces.beside(forwards)
    assert both == Tables({"10.0.0.1": 2}, {2: A}, {"eth0": Interface("eth0")})
    assert both.entries is forwards.entries


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (WriteAdjacency(3, None, A), "write adjacency 3"),
        (PutEntries("forward_exact4", {"10.0.0.1": 2}, {}), "put entry 10.0.0.1 into forward_exact4"),
        (PutEntries("forward_exact4", {"10.0.0.1": 2, "10.0.0.2": 2}, {}), "put 2 entries into forward_exact4"),
        (DropEntries("forward_prefix6", {"fd01::/32": 2}), "drop entry fd01::/32 from forward_prefix6"),
        (Bump(), "make cached answers stale"),
        (RetireAdjacency(3, A), "retire adjacency 3"),
        (AttachInterface(None, Interface("eth0")), "attach eth0"),
        (DetachInterface(Interface("eth0")), "detach eth0"),
    ],
)
def test_a_step_is_told_in_words(step, text):
    assert described(step) == text


def test_where_the_new_entries_would_not_fit_the_old_ones_go_first_and_in_that_table_only():
    have = Tables({"10.0.0.1": 2, "10.1.0.0/16": 2}, {2: A})
    want = Tables({"10.0.0.2": 2, "10.2.0.0/16": 2}, {2: A})
    room = {"forward_exact4": 0, "forward_prefix4": 1}
    assert plan(have, want, room) == [
        DropEntries("forward_exact4", {"10.0.0.1": 2}),
        PutEntries("forward_exact4", {"10.0.0.2": 2}, {}),
        PutEntries("forward_prefix4", {"10.2.0.0/16": 2}, {}),
        Bump(),
        DropEntries("forward_prefix4", {"10.1.0.0/16": 2}),
        Bump(),
    ]
