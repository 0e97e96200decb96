"""daemon/balance over real maps, without a daemon: what health, time and a restart make of rings, rows and VIPs."""

import time
from ipaddress import IPv4Address

import numpy as np
import pytest
from msgspec import structs

from bpf.balancing import begin, census, open_balancer, open_datapath, owners, remember, rounds, service
from hopline.config import Decap
from hopline.daemon.balance import recovery
from hopline.daemon.balance.decaps import Decaps
from hopline.features import slots


@pytest.fixture
def datapath():
    with open_datapath() as held:
        yield held


@pytest.fixture
def balancer(datapath):
    return open_balancer(datapath)


# health


def test_a_backend_that_is_down_has_no_slot_and_the_others_keep_theirs(balancer):
    balancer.put(service())
    assert sorted(owners(balancer).values()) == [83, 84, 84]
    before = slots.now_of(balancer.by_name["web"].words.copy())
    balancer.set_health({("web", "10.2.0.1"): False})
    after = slots.now_of(balancer.by_name["web"].words)
    assert set(owners(balancer)) == {"10.2.0.2", "10.2.0.3"}
    moved = (before != after) & (before != 0)
    assert moved.sum() <= 3
    # nothing of the dead one's slots waits for its flows
    assert census(balancer).open == moved.sum()
    rounds(balancer)
    assert census(balancer).residual == 0


def test_all_down_keeps_the_last_set_or_refuses(balancer):
    down = {("web", f"10.2.0.{i}"): False for i in (1, 2, 3)}
    for all_down, left in (("keep", {"10.2.0.2", "10.2.0.3"}), ("refuse", {"nobody"})):
        balancer.put(service(all_down=all_down))
        balancer.set_health({("web", "10.2.0.1"): False})
        balancer.set_health(down)
        assert set(owners(balancer)) == left
        balancer.set_health(dict.fromkeys(down, True))
        assert set(owners(balancer)) == {"10.2.0.1", "10.2.0.2", "10.2.0.3"}
        balancer.remove("web")
        rounds(balancer)


def test_one_that_died_comes_back_under_a_number_that_no_flow_names(balancer):
    balancer.put(service())
    served = balancer.by_name["web"]
    old = served.numbers.holders["10.2.0.1"]
    balancer.set_health({("web", "10.2.0.1"): False})
    balancer.set_health({("web", "10.2.0.1"): True})
    assert served.numbers.holders["10.2.0.1"] != old
    assert owners(balancer)["10.2.0.1"] in (83, 84)
    rounds(balancer)
    assert old not in served.numbers.retired
    again = served.numbers.holders["10.2.0.1"]
    balancer.set_health({("web", "10.2.0.1"): False})
    rounds(balancer)
    balancer.set_health({("web", "10.2.0.1"): True})
    assert served.numbers.holders["10.2.0.1"] == again, "the flow table was swept meanwhile"


def test_a_backend_that_comes_to_a_checked_service_waits_for_its_first_check(balancer):
    balancer.put(service())
    balancer.put(service(backends=4))
    assert "10.2.0.4" not in owners(balancer)
    balancer.set_health({("web", "10.2.0.4"): True})
    assert owners(balancer)["10.2.0.4"] > 60
    balancer.put(service(backends=5, check="none"))
    assert "10.2.0.5" in owners(balancer)


def test_all_drained_leads_new_flows_to_nobody_and_back_without_a_trace(balancer):
    balancer.put(service())
    whole = owners(balancer)
    drained = tuple(structs.replace(each, drained=True) for each in service().backend)
    balancer.put(structs.replace(service(), backend=drained))
    assert owners(balancer) == {"nobody": 251}
    assert census(balancer).open == 251
    balancer.put(service())
    assert owners(balancer) == whole


# time


def test_open_slots_age_after_their_time_and_close_when_no_flow_is_left(balancer):
    balancer.put(service(idle=10))
    balancer.put(service(idle=10, backends=2))
    opened = census(balancer).open
    assert opened >= 83
    served = balancer.by_name["web"]
    rounds(balancer)
    assert census(balancer).open == opened
    slot = int(np.flatnonzero(slots.state_of(served.words) == slots.State.OPEN)[0])
    served.maps.clock += 44
    remember(balancer, slot, 2)
    rounds(balancer, 1)
    assert (census(balancer).open, census(balancer).residual) == (0, opened)
    rounds(balancer, 1)
    assert census(balancer).residual == 1, "one flow is still where it was"
    served.maps.clock += 44
    rounds(balancer)
    assert census(balancer) == slots.Census(251, 0, 0)
    assert served.silent == 1


def test_a_removed_backend_ends_with_its_grace_and_its_row_is_free_again(balancer):
    balancer.put(service(idle=10))
    balancer.graces["web", "10.2.0.3"] = 1
    balancer.put(service(idle=10, backends=2))
    served = balancer.by_name["web"]
    row = served.at("10.2.0.3")
    balancer.pass_time()
    assert served.members["10.2.0.3"].leaving
    served.maps.clock += 4
    balancer.pass_time()
    assert "10.2.0.3" not in served.members
    rounds(balancer)
    assert int(served.maps.backends["flags"][row]) == 0
    assert served.numbers.retired == set()


def test_one_that_returns_within_its_grace_keeps_its_number(balancer):
    balancer.put(service())
    number = balancer.by_name["web"].numbers.holders["10.2.0.3"]
    balancer.put(service(backends=2))
    balancer.put(service(check="none"))
    assert balancer.by_name["web"].numbers.holders["10.2.0.3"] == number
    assert not balancer.by_name["web"].members["10.2.0.3"].leaving


def test_what_a_service_had_is_anothers_once_the_flow_table_has_forgotten_it(balancer):
    balancer.put(service())
    first = balancer.by_name["web"]
    remember(balancer, 3, 1)
    balancer.remove("web")
    balancer.put(service("other", vip="10.9.0.2"))
    other = balancer.by_name["other"]
    assert (other.row, other.first, other.base) != (first.row, first.first, first.base)
    rounds(balancer)
    assert not other.maps.flows["ways"]["word"].any()
    assert other.maps.name(first.row) == ""
    time.sleep(1.1)
    balancer.put(service("third", vip="10.9.0.3"))
    third = balancer.by_name["third"]
    assert (third.row, third.first, third.base) == (first.row, first.first, first.base)


# changes


def test_a_service_that_grows_moves_to_a_larger_block_and_keeps_counting(balancer):
    balancer.put(service(backends=2, check="none"))
    served = balancer.by_name["web"]
    counts = served.maps.datapath.maps["backend_count"]
    value = np.zeros(counts.ncpu, counts.value_dtype)
    value["packets"] = 5
    counts.set(served.at("10.2.0.1"), value)
    base = served.base
    balancer.put(service(backends=40, check="none"))
    assert served.base != base
    assert len(owners(balancer)) == 40
    assert int(served.counts()[served.numbers.holders["10.2.0.1"]][0]) == 5 * counts.ncpu
    assert int(served.maps.services["backends"][served.row]) == served.base
    assert int(served.maps.services["numbers"][served.row]) == served.room


def test_another_encapsulation_is_in_all_rows_at_once_and_moves_no_slot(balancer):
    balancer.put(service(check="none"))
    served = balancer.by_name["web"]
    words, base = served.words.copy(), served.base
    balancer.put(service(check="none", encap="gue", gue_port=7000, local="10.200.0.0/24"))
    assert served.base != base
    rows = served.maps.backends[served.base : served.base + 3]
    assert set(rows["encapsulation"].tolist()) == {2}
    assert set(rows["port"].tolist()) == {7000}
    assert set(rows["vary"].tolist()) == {0xFF000000}
    assert (served.words == words).all()


def test_many_services_of_a_vip_are_in_rules_and_pages(balancer):
    for i in range(5):
        balancer.put(service(f"s{i}", port=f"{1000 + i * 300}-{1100 + i * 300}", backends=1))
    balancer.remove("s0")
    balancer.put(service("s5", port="80", backends=1))
    vip = balancer.vips.vips["10.9.0.1"]
    rules = [int(word) for word in balancer.maps.vips["rules"][vip.row, 0]]
    page = int(balancer.maps.vips["pages"][vip.row, 0])

    def leads_to(port: int) -> int:
        for word in rules:
            if word and word & 0xFFFF <= port <= word >> 16 & 0xFFFF:
                return word >> 32
        entry = int(balancer.maps.pages[page, port >> 8])
        return int(balancer.maps.pages[entry & 0x7FFF, port & 255]) if entry & 0x8000 else entry

    for i in range(1, 5):
        assert leads_to(1050 + i * 300) == balancer.by_name[f"s{i}"].row
    assert leads_to(80) == balancer.by_name["s5"].row
    assert [leads_to(port) for port in (81, 1050, 1299, 2301)] == [0, 0, 0, 0]


def test_one_service_may_take_anothers_place_and_give_it_back(balancer):
    balancer.put(service())
    balancer.put(service("other"))
    vip = balancer.vips.vips["10.9.0.1"]
    assert int(balancer.maps.vips["rules"][vip.row, 0, 0]) >> 32 == balancer.by_name["other"].row
    balancer.remove("other")
    assert int(balancer.maps.vips["rules"][vip.row, 0, 0]) >> 32 == balancer.by_name["web"].row


# restart, loss and drift


def kernel(balancer) -> dict[str, bytes]:
    names = ("vip_buckets", "vips", "port_pages", "services", "service_names", "rings", "backends")
    return {name: balancer.datapath.maps[name].mmap().tobytes() for name in names}


def test_what_is_read_back_is_what_there_was_and_nothing_is_written(balancer):
    wanted = {"web": service(), "six": service("six", vip="10.9.0.1", port="443-444", protocol="both")}
    for each in wanted.values():
        balancer.put(each)
    balancer.set_health({("web", "10.2.0.1"): False})
    balancer.put(service(backends=2))
    wanted["web"] = service(backends=2)
    before = kernel(balancer)
    again = begin(balancer.datapath)
    found = recovery.adopt(again, wanted)
    assert set(found) == set(wanted)
    for each in wanted.values():
        again.put(each)
    assert kernel(again) == before
    assert again.by_name["web"].members["10.2.0.3"].leaving
    assert again.by_name["web"].members["10.2.0.1"].healthy is False


@pytest.mark.parametrize(
    "lost",
    [
        {},
        {"port": "any", "protocol": "udp", "affinity": "table"},
        {"encap": "gue", "gue_port": 7000, "local": "10.200.0.0/24", "idle": 60},
        {"local": "10.2.0.99", "seed": 12345, "icmp_echo": "pass", "ring": 1021},
    ],
    ids=["plain", "any udp", "gue", "other"],
)
def test_services_are_recovered_from_the_kernel_alone(balancer, lost):
    wanted = service(**lost)
    balancer.put(wanted)
    found = recovery.adopt(begin(balancer.datapath), {})
    assert found == {"web": structs.replace(wanted, check="none")}


def test_what_a_change_that_was_cut_short_left_is_forgotten(balancer):
    balancer.put(service())
    balancer.put(service("half", vip="10.9.0.2"))
    half = balancer.by_name["half"]
    balancer.vips.unlink(half.row, "10.9.0.2")  # as before it was linked
    again = begin(balancer.datapath)
    assert set(recovery.adopt(again, {})) == {"web"}
    rounds(again)
    assert again.maps.name(half.row) == ""
    assert again.ending == []


def test_drift_is_found_and_put_right(balancer):
    balancer.put(service())
    served, maps = balancer.by_name["web"], balancer.maps
    right = kernel(balancer)
    damages = [
        lambda: maps.set_word(served.row, "backends", 9),
        lambda: maps.set_ring(served.row, 0, 0),
        lambda: maps.set_backend(served.base, "flags", 0),
        lambda: maps.set_rule(balancer.vips.vips["10.9.0.1"].row, 0, 0, 0),
        lambda: maps.set_way(*balancer.vips.vips["10.9.0.1"].place, 0),
    ]
    assert not balancer.repair("web")
    for damage in damages:
        damage()
        assert balancer.repair("web")
        assert not balancer.repair("web")
        assert kernel(balancer) == right


# decap


def test_accepted_pairs_are_in_the_tries_and_what_leads_to_them(datapath):
    decaps = Decaps(datapath)
    pairs = [Decap("10.2.0.11", "10.1.0.0/16"), Decap("10.2.0.11", "any", "gue", 7000), Decap("fd00:2::11", "any")]
    decaps.put(pairs)
    assert datapath.maps["decap_local4"].get(IPv4Address("10.2.0.11")) == 1 << 1 | 1 << 2
    assert datapath.maps["decap_ports"].mmap()["ports"][0].tolist()[:2] == [7000, 0]
    assert len(datapath.maps["decap4"].items()[0]) == 2
    assert decaps.recover() == {pair.key: pair for pair in pairs}
    again = Decaps(datapath)
    assert again.adopt({pair.key: pair for pair in pairs}) == 0
    assert again.rows == decaps.rows
    assert again.adopt({pairs[0].key: pairs[0]}) > 0
    assert datapath.maps["decap_local4"].get(IPv4Address("10.2.0.11")) == 1 << 1
    again.drop(pairs[:1])
    assert datapath.maps["decap_local4"].get(IPv4Address("10.2.0.11")) is None
    assert len(datapath.maps["decap4"].items()[0]) == 0
