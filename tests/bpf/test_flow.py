"""The flow table: who is remembered, who is followed, who gives way. Open and residual slots, affinity "table"."""

import pytest

from bpf.balance_maps import ESTABLISHED, FINISHED, IDLE, UDP, FlowEntry, ServiceMaps
from bpf.balanced import CLIENT4, CLIENT6, VIP4, VIP6, Balanced, tcp, udp
from bpf.pipeline import XDP_REDIRECT

NOW, BEFORE, OTHER, FOURTH = 0, 1, 2, 3
LAG = IDLE // 16


def service_of(balanced: Balanced, state: str, **more) -> ServiceMaps:
    """A service of four backends whose slots all say the same."""
    made = balanced.service(count=4, **more)
    made.fill(NOW, BEFORE if state == "OPEN" else 0, state)
    return made


def taken_by(balanced: Balanced, service: ServiceMaps, packet: bytes) -> int:
    """The number of the backend that gets a packet."""
    before = [service.count(number)[0] for number in range(4)]
    outcome = balanced.run(packet)
    assert (outcome.verdict, outcome.action) == ("BALANCED", XDP_REDIRECT)
    moved = [number for number in range(4) if service.count(number)[0] != before[number]]
    assert len(moved) == 1
    return moved[0]


def entry(service: ServiceMaps, number: int, flags: int = 0, seen: int = 1000, client: str = CLIENT4) -> FlowEntry:
    return FlowEntry(service.hash_of(client, 4000, 80), service.row, number, flags, seen)


# open, residual, closed: a flow that is not in the table


@pytest.mark.parametrize(
    ("state", "flags", "number", "remembered"),
    [
        ("CLOSED", "S", NOW, None),
        ("CLOSED", "A", NOW, None),
        ("OPEN", "S", NOW, 0),
        ("OPEN", "SEC", NOW, 0),  # of ECN
        ("OPEN", "A", BEFORE, 0),
        ("OPEN", "SA", BEFORE, 0),
        ("OPEN", "PA", BEFORE, 0),
        ("OPEN", "FA", BEFORE, FINISHED),
        ("OPEN", "R", BEFORE, None),
        ("OPEN", "RA", BEFORE, None),
        ("RESIDUAL", "S", NOW, None),
        ("RESIDUAL", "A", NOW, None),
        ("RESIDUAL", "FA", NOW, None),
    ],
)
@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_a_flow_that_is_not_in_the_table(balanced, vip, state, flags, number, remembered):
    service = service_of(balanced, state, vip=vip)
    assert taken_by(balanced, service, tcp(vip, flags=flags)) == number
    client = CLIENT4 if vip == VIP4 else CLIENT6
    expected = [] if remembered is None else [entry(service, number, remembered, client=client)]
    assert balanced.maps.flows() == expected
    assert service.flow_count()["remembered"] == len(expected)


@pytest.mark.parametrize("state", ["OPEN", "RESIDUAL"])
@pytest.mark.parametrize("flags", ["S", "A", "FA", "R"])
def test_a_flow_in_the_table_stays(balanced, state, flags):
    service = service_of(balanced, state)
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER)
    assert taken_by(balanced, service, tcp(flags=flags)) == OTHER
    assert service.flow_count() == {"remembered": 0, "refused": 0, "evicted": 0, "hits": 1}


def test_a_closed_slot_does_not_ask(balanced):
    service = service_of(balanced, "CLOSED")
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER)
    assert taken_by(balanced, service, tcp()) == NOW
    assert service.flow_count()["hits"] == 0


def test_the_stamp_of_a_slot_is_not_its_state(balanced):
    service = service_of(balanced, "OPEN")
    service.words[:] |= 63 << 26
    assert taken_by(balanced, service, tcp(flags="A")) == BEFORE


def test_a_whole_connection_in_an_open_slot(balanced):
    service = service_of(balanced, "OPEN")
    assert taken_by(balanced, service, tcp(flags="S")) == NOW
    service.fill(OTHER, BEFORE, "OPEN")
    for flags in ("A", "PA", "S", "FA", "A"):
        assert taken_by(balanced, service, tcp(flags=flags)) == NOW, flags
    service.fill(OTHER, 0, "RESIDUAL")
    assert taken_by(balanced, service, tcp(flags="A")) == NOW


def test_flows_differ_by_any_of_what_makes_them(balanced):
    service, beside = service_of(balanced, "OPEN"), service_of(balanced, "OPEN", port="81")
    both = service_of(balanced, "OPEN", vip="192.0.2.99", protocol="both", remembers=True)
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER)
    assert taken_by(balanced, service, tcp(sport=4001)) == BEFORE
    assert taken_by(balanced, service, tcp(client="198.51.100.10")) == BEFORE
    assert taken_by(balanced, beside, tcp(dport=81)) == BEFORE
    assert taken_by(balanced, both, tcp("192.0.2.99", flags="A")) == BEFORE
    assert taken_by(balanced, both, udp("192.0.2.99")) == NOW
    assert taken_by(balanced, both, tcp("192.0.2.99", flags="A")) == BEFORE


def test_the_same_hash_of_another_service_is_another_flow(balanced):
    """Same client, same ports, another VIP: the same hash."""
    one, other = service_of(balanced, "OPEN"), service_of(balanced, "OPEN", vip="192.0.2.99")
    balanced.maps.put_flow(one, one.hash_of(CLIENT4, 4000, 80), OTHER)
    assert taken_by(balanced, other, tcp("192.0.2.99")) == BEFORE
    assert taken_by(balanced, one, tcp()) == OTHER


# what an entry becomes


@pytest.mark.parametrize(
    ("flags", "had", "gets"),
    [
        ("A", 0, ESTABLISHED),
        ("S", 0, 0),
        ("S", ESTABLISHED, ESTABLISHED),
        ("FA", 0, ESTABLISHED | FINISHED),
        ("A", FINISHED, ESTABLISHED | FINISHED),
        ("S", ESTABLISHED | FINISHED, ESTABLISHED),
    ],
)
def test_what_a_segment_makes_of_the_entry(balanced, flags, had, gets):
    service = service_of(balanced, "OPEN")
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER, seen=990, flags=had)
    taken_by(balanced, service, tcp(flags=flags))
    assert balanced.maps.flows() == [entry(service, OTHER, gets, 1000 if gets != had else 990)]


@pytest.mark.parametrize(
    ("flags", "age", "seen"),
    [
        (ESTABLISHED, LAG - 1, 0),
        (ESTABLISHED, LAG, LAG),
        (ESTABLISHED, 10 * LAG, 10 * LAG),
        (ESTABLISHED | FINISHED, 14, 0),  # a life of 240 ticks, so a lag of 15
        (ESTABLISHED | FINISHED, 15, 15),
    ],
)
def test_last_seen_is_written_a_few_times_in_a_life(balanced, flags, age, seen):
    service = service_of(balanced, "OPEN")
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER, seen=1000, flags=flags)
    balanced.maps.set_clock(1000 + age)
    taken_by(balanced, service, tcp())
    assert balanced.maps.flows() == [entry(service, OTHER, flags, 1000 + seen)]


@pytest.mark.parametrize(
    ("flags", "age", "number"),
    [
        (ESTABLISHED, IDLE + LAG, OTHER),
        (ESTABLISHED, IDLE + LAG + 1, NOW),
        (ESTABLISHED | FINISHED, 240 + 15, OTHER),
        (ESTABLISHED | FINISHED, 240 + 15 + 1, NOW),
    ],
)
def test_an_entry_beyond_its_life_is_none(balanced, flags, age, number):
    """A sweep may take it at any moment: a connection of the same ports would be led elsewhere by its next segment."""
    service = service_of(balanced, "OPEN")
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER, seen=1000, flags=flags)
    balanced.maps.set_clock(1000 + age)
    assert [taken_by(balanced, service, tcp(flags=each)) for each in ("S", "A")] == [number, number]
    assert [each.number for each in balanced.maps.flows()] == [number]


def test_with_a_short_idle_time_each_tick_counts(balanced):
    service = service_of(balanced, "OPEN", idle=8)
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER, flags=ESTABLISHED)
    balanced.maps.set_clock(1001)
    taken_by(balanced, service, tcp())
    assert balanced.maps.flows()[0].seen == 1001


# dead and draining backends


@pytest.mark.parametrize(
    ("state", "flags", "number", "left"),
    [
        ("OPEN", "S", NOW, NOW),
        ("OPEN", "A", BEFORE, BEFORE),
        ("OPEN", "R", BEFORE, OTHER),
        ("RESIDUAL", "A", NOW, OTHER),
        ("RESIDUAL", "S", NOW, NOW),
    ],
)
def test_a_dead_backend_is_not_followed(balanced, state, flags, number, left):
    service = service_of(balanced, state)
    service.set_flags(OTHER, "DEAD")
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER)
    assert taken_by(balanced, service, tcp(flags=flags)) == number
    assert [each.number for each in balanced.maps.flows()] == [left], "one entry, whichever"


@pytest.mark.parametrize("state", ["OPEN", "RESIDUAL"])
def test_a_draining_backend_keeps_its_flows_and_takes_none(balanced, state):
    service = service_of(balanced, state)
    service.set_flags(OTHER, "DRAINING")
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER, flags=ESTABLISHED)
    for flags in ("A", "FA", "R"):
        assert taken_by(balanced, service, tcp(flags=flags)) == OTHER
    assert taken_by(balanced, service, tcp(flags="S")) == NOW
    assert taken_by(balanced, service, tcp(flags="A")) == NOW
    assert balanced.maps.flows() == [entry(service, NOW, ESTABLISHED)]


def test_nothing_is_remembered_of_a_dead_now(balanced):
    service = service_of(balanced, "OPEN")
    service.set_flags(NOW, "DEAD")
    assert taken_by(balanced, service, tcp(flags="S")) == NOW
    assert balanced.maps.flows() == []


# UDP, and affinity "table"


@pytest.mark.parametrize("state", ["CLOSED", "OPEN", "RESIDUAL"])
def test_udp_with_the_ring_alone(balanced, state):
    service = service_of(balanced, state, protocol="udp")
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER, flags=UDP)
    assert taken_by(balanced, service, udp()) == NOW
    assert service.flow_count()["hits"] == 0
    assert len(balanced.maps.flows()) == 1


@pytest.mark.parametrize("state", ["CLOSED", "OPEN", "RESIDUAL"])
def test_udp_that_is_remembered(balanced, state):
    service = service_of(balanced, state, protocol="udp", remembers=True)
    assert taken_by(balanced, service, udp()) == NOW
    assert balanced.maps.flows() == [entry(service, NOW, UDP)]
    service.fill(OTHER, NOW, state)
    assert taken_by(balanced, service, udp()) == NOW
    assert balanced.maps.flows() == [entry(service, NOW, UDP | ESTABLISHED)]


@pytest.mark.parametrize(
    ("state", "flags", "number", "remembered"),
    [
        ("CLOSED", "S", NOW, 0),
        ("CLOSED", "A", NOW, 0),
        ("CLOSED", "R", NOW, None),
        ("OPEN", "S", NOW, 0),
        ("OPEN", "A", BEFORE, 0),
        ("RESIDUAL", "S", NOW, 0),
        ("RESIDUAL", "A", NOW, 0),
    ],
)
def test_a_service_that_remembers_all(balanced, state, flags, number, remembered):
    service = service_of(balanced, state, remembers=True)
    assert taken_by(balanced, service, tcp(flags=flags)) == number
    assert balanced.maps.flows() == ([] if remembered is None else [entry(service, number)])
    service.fill(FOURTH, FOURTH, state)
    assert taken_by(balanced, service, tcp()) == (FOURTH if remembered is None else number)


# all ports: a flow is all that one client sends


@pytest.mark.parametrize(("remembers", "number"), [(False, BEFORE), (True, NOW)])
def test_a_syn_to_a_service_of_all_ports(balanced, remembers, number):
    """Where not all is remembered, the client may be here with another connection, so it begins nothing."""
    service = service_of(balanced, "OPEN", port="any", remembers=remembers)
    assert taken_by(balanced, service, tcp(flags="S")) == number
    assert taken_by(balanced, service, tcp(sport=9, dport=9, flags="S")) == number
    assert len(balanced.maps.flows()) == 1


def test_a_fin_does_not_end_all_that_a_client_sends(balanced):
    service = service_of(balanced, "OPEN", port="any")
    taken_by(balanced, service, tcp(flags="FA"))
    taken_by(balanced, service, tcp(sport=9, flags="FA"))
    assert [each.flags for each in balanced.maps.flows()] == [ESTABLISHED]


def test_a_draining_backend_keeps_a_client_of_all_ports(balanced):
    service = service_of(balanced, "OPEN", port="any")
    service.set_flags(OTHER, "DRAINING")
    balanced.maps.put_flow(service, service.hash_of(CLIENT4, 0, 0), OTHER)
    assert taken_by(balanced, service, tcp(flags="S")) == OTHER


@pytest.mark.parametrize(
    ("state", "known", "flags", "flow", "choice", "remembers"),
    [
        ("CLOSED", False, "S", "NOT_ASKED", "NOW", 0),
        ("OPEN", False, "S", "MISS", "NOW", 1),
        ("OPEN", False, "A", "MISS", "BEFORE", 1),
        ("OPEN", False, "R", "MISS", "BEFORE", 0),
        ("OPEN", True, "A", "HIT", "TABLE", 0),
        ("RESIDUAL", False, "A", "MISS", "NOW", 0),
        ("RESIDUAL", True, "A", "HIT", "TABLE", 0),
    ],
)
def test_the_note_says_what_the_table_said(balanced, state, known, flags, flow, choice, remembers):
    service = service_of(balanced, state)
    if known:
        balanced.maps.put_flow(service, service.hash_of(CLIENT4, 4000, 80), OTHER)
    note = balanced.note(tcp(flags=flags))
    layout = balanced.maps.datapath.layout
    assert layout.enum("flow_answer")(int(note["flow"])).name == f"FLOW_{flow}"
    assert layout.enum("slot_choice")(int(note["choice"])).name == f"CHOICE_{choice}"
    assert int(note["remembers"]) == remembers
    assert (int(note["now"]), int(note["before"])) == (NOW, BEFORE if state == "OPEN" else 0)


def test_the_same_on_both_families(balanced):
    """Of IPv6 the hash stands for the address: another client is another flow."""
    service = service_of(balanced, "OPEN", vip=VIP6)
    assert taken_by(balanced, service, tcp(VIP6, flags="S")) == NOW
    assert taken_by(balanced, service, tcp(VIP6, flags="A")) == NOW
    assert taken_by(balanced, service, tcp(VIP6, flags="A", client="2001:db8:c::a")) == BEFORE
    assert taken_by(balanced, service, tcp(VIP6, flags="A", sport=4001)) == BEFORE
    assert len(balanced.maps.flows()) == 3
