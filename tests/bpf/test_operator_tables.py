"""A start finds entries in the kernel: what agrees is adopted, what a change left half done is put right, gently."""

import pytest

from hopline.config import NextHop
from hopline.daemon.operator import OperatorTables
from hopline.daemon.plan import Bump, PutEntries, RetireAdjacency, WriteAdjacency
from hopline.features.forward import Device, Facts, parse_mac, resolve, table_of

NEAR = NextHop(dev="out0", dst_mac="02:00:00:00:0a:01")
FAR = NextHop(dev="out0", dst_mac="02:00:00:00:0a:02")
VIA = NextHop(via="10.0.2.2")
KEPT = ["10.1.0.1", "10.2.0.0/16", "fd00::1", "fd00:1::/64"]
OTHERS = [f"10.9.0.{n}" for n in range(1, 200)]


@pytest.fixture
def facts(pipeline) -> Facts:
    mac = parse_mac("02:00:00:00:02:01")
    out0 = Device("out0", index=pipeline.out_index, slot=pipeline.out_slot, mac=mac, mtu=1500, usable=True)
    known = {(pipeline.out_index, "10.0.2.2"): parse_mac("02:00:00:00:02:02")}
    return Facts(devices={"out0": out0}, macs=known, reach={"10.0.2.2": "out0"})


@pytest.fixture
def start(pipeline, facts):
    """What a daemon does with the intent when it starts."""

    def start(wanted: dict[str, NextHop]) -> tuple[OperatorTables, list]:
        tables = OperatorTables(pipeline.datapath, facts)
        return tables, tables.reconcile(dict(wanted))

    return start


def leads(pipeline, wanted: dict[str, NextHop], facts: Facts) -> bool:
    """Whether the kernel's entries are those wanted, each by an adjacency that holds what its next hop asks for."""
    entries = pipeline.datapath.read_entries()
    return {to: pipeline.datapath.read_adjacency(id) for to, id in entries.items()} == {
        to: resolve(hop, facts) for to, hop in wanted.items()
    }


def test_the_second_start_takes_no_step(pipeline, start, facts):
    wanted = {**dict.fromkeys(KEPT, NEAR), **dict.fromkeys(OTHERS, VIA)}
    wanted |= {"10.77.0.1": NextHop(**{name: getattr(NEAR, name) for name in NEAR.__struct_fields__})}
    _, steps = start(wanted)
    assert {type(step) for step in steps} == {WriteAdjacency, PutEntries, Bump}
    assert leads(pipeline, wanted, facts)
    before = pipeline.contents()
    tables, steps = start(wanted)
    assert steps == []
    assert pipeline.contents() == before
    assert tables.wanted() == wanted
    assert {hop: entries for _, hop, entries in tables.uses()} == {NEAR: len(KEPT) + 1, VIA: len(OTHERS)}
    assert tables.repair_entries() == tables.repair_adjacencies() == 0


def test_a_change_cut_short_does_not_move_the_next_hop_of_what_it_left_alone(pipeline, start, facts):
    """The store says FAR of most, and the kernel still has NEAR's adjacency for them, which a few others use."""
    near = dict.fromkeys([*KEPT, *OTHERS], NEAR)
    start(near)
    id = pipeline.datapath.read_entries()[KEPT[0]]
    wanted = {**dict.fromkeys(KEPT, NEAR), **dict.fromkeys(OTHERS, FAR)}
    _, steps = start(wanted)
    assert {pipeline.datapath.read_entries()[to] for to in KEPT} == {id}
    written = {step.id for step in steps if isinstance(step, WriteAdjacency | RetireAdjacency)}
    assert id not in written
    assert {to for step in steps if isinstance(step, PutEntries) for to in step.after} == set(OTHERS)
    assert leads(pipeline, wanted, facts)


def test_a_device_that_came_back_with_another_number_keeps_its_entries(pipeline, start, facts):
    wanted = dict.fromkeys([*KEPT, *OTHERS], NEAR)
    start(wanted)
    entries = pipeline.datapath.read_entries()
    facts.devices["out0"] = Device("out0", pipeline.in_index, pipeline.in_slot, facts.devices["out0"].mac, 1400, True)
    _, steps = start(wanted)
    assert {type(step) for step in steps} == {WriteAdjacency}
    assert pipeline.datapath.read_entries() == entries
    assert leads(pipeline, wanted, facts)


def test_drift_of_every_table_is_put_right(pipeline, start, facts):
    wanted = {**dict.fromkeys(KEPT, NEAR), **dict.fromkeys(OTHERS, FAR)}
    tables, _ = start(wanted)
    ids = pipeline.datapath.read_entries()
    for to in KEPT:
        pipeline.datapath.drop_entries(table_of(to), [to])
    pipeline.datapath.put_entries("forward_exact4", {OTHERS[0]: ids[KEPT[0]], "10.66.0.1": ids[KEPT[0]]})
    pipeline.datapath.put_entries("forward_prefix6", {"fd66::/16": ids[KEPT[0]]})
    assert tables.repair_entries() == len(KEPT) + 3
    assert pipeline.datapath.read_entries() == ids
    assert tables.repair_entries() == 0
    assert leads(pipeline, wanted, facts)


def test_nothing_wanted_is_nothing_left(pipeline, start):
    start(dict.fromkeys(KEPT, NEAR))
    tables, _ = start({})
    assert pipeline.datapath.read_entries() == {}
    assert tables.uses() == []
    assert start({})[1] == []
