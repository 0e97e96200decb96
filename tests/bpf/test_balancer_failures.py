"""daemon/balance over real maps where something fails, is cut short or happens meanwhile: nothing is left of it."""

import time
from dataclasses import replace

import pytest
from msgspec import structs

from bpf.balancing import DEVICE, LINK, SOURCES, begin, open_balancer, open_datapath, owners, remember, service
from hopline.config import Backend, Service
from hopline.daemon.attachments import Attachments
from hopline.daemon.balance import clock, recovery, wire
from hopline.daemon.balance.balance import Balance
from hopline.daemon.balance.clock import Clock
from hopline.daemon.balance.follower import Follower
from hopline.errors import Refused
from hopline.features.balance import Reached
from hopline.features.forward import Facts
from hopline.features.sweep import Sweep
from hopline.intent import Delta
from hopline.kernel.netlink.types import Address


@pytest.fixture
def datapath():
    with open_datapath() as held:
        yield held


@pytest.fixture
def balancer(datapath):
    return open_balancer(datapath)


def fail(*_, **__):
    raise Refused("it is refused")


def routed(backends=3, **more) -> Service:
    """A service whose backends are reached as the host's routes say."""
    served = tuple(Backend(f"10.2.0.{i + 1}") for i in range(backends))
    return structs.replace(service(check="none", **more), backend=served)


def reached(via: str) -> dict[str, Reached]:
    return {f"10.2.0.{i}": Reached("eth", via, "10.2.0.77", 1500) for i in (1, 2, 3)}


# health and time


def test_a_backend_that_was_leaving_ends_under_the_next_daemon(balancer):
    balancer.put(service())
    balancer.graces["web", "10.2.0.3"] = 1
    balancer.put(service(backends=2))
    again = begin(balancer.datapath)
    recovery.adopt(again, {"web": service(backends=2)})
    again.put(service(backends=2))
    again.maps.clock += 4
    again.pass_time()
    assert "10.2.0.3" not in again.by_name["web"].members


def test_another_ring_knows_who_is_down(balancer):
    balancer.put(service())
    balancer.set_health({("web", "10.2.0.1"): False})
    balancer.put(service(backends=4, seed=7))
    assert set(owners(balancer)) == {"10.2.0.2", "10.2.0.3", "10.2.0.4"}
    balancer.put(service(backends=4, seed=7, ring=509))
    assert "10.2.0.1" not in owners(balancer)


def test_a_service_that_cannot_follow_holds_up_no_other_and_is_tried_again(balancer, monkeypatch):
    for i in (1, 2, 3):
        balancer.put(service(f"s{i}", vip=f"10.9.0.{i}"))
    with monkeypatch.context() as broken:
        broken.setattr(balancer.by_name["s2"], "aim", fail)
        balancer.set_health({(f"s{i}", "10.2.0.1"): False for i in (1, 2, 3)})
    assert ["10.2.0.1" in owners(balancer, f"s{i}") for i in (1, 2, 3)] == [False, True, False]
    balancer._awaited["s2"] = 0.0
    balancer.pass_time()
    assert "10.2.0.1" not in owners(balancer, "s2")


def test_other_ways_reach_all_services_but_the_one_that_fails(balancer, monkeypatch):
    balancer.know({DEVICE.index: LINK}, SOURCES, reached("10.2.0.250"))
    for i in (1, 2, 3):
        balancer.put(routed(name=f"s{i}", vip=f"10.9.0.{i}"))
    monkeypatch.setattr(balancer.hops, "look_up", lambda *_: reached("10.2.0.251"))
    with monkeypatch.context() as broken:
        broken.setattr(balancer.by_name["s2"], "aim", fail)
        with pytest.raises(Refused):
            Follower(balancer).reroute()
    ways = [balancer.hops.hops.hops[balancer.by_name[f"s{i}"].members["10.2.0.1"].hop].via for i in (1, 3)]
    assert ways == ["10.2.0.251", "10.2.0.251"]


def test_those_that_leave_follow_the_hosts_ways_too(balancer):
    balancer.know({DEVICE.index: LINK}, SOURCES, reached("10.2.0.250"))
    balancer.put(routed())
    balancer.put(routed(2))
    balancer.know({DEVICE.index: LINK}, SOURCES, reached("10.2.0.251"))
    balancer.put(routed(2))
    member = balancer.by_name["web"].members["10.2.0.3"]
    assert member.leaving
    assert balancer.hops.hops.hops[member.hop].via == "10.2.0.251"


def test_one_that_gets_no_other_number_stays_out_and_comes_back_once_there_is_one(balancer, monkeypatch):
    balancer.put(service())
    served = balancer.by_name["web"]
    balancer.set_health({("web", "10.2.0.1"): False})
    with monkeypatch.context() as full:
        full.setattr(served, "enter", fail)
        balancer.set_health({("web", "10.2.0.1"): True})
        assert served.at("10.2.0.1") >= 0
        assert "10.2.0.1" not in owners(balancer)
    balancer.set_health({("web", "10.2.0.1"): True})
    assert "10.2.0.1" in owners(balancer)


# a sweep and what happens meanwhile


def test_rings_may_be_enlarged_while_the_flow_table_is_swept(balancer, monkeypatch):
    balancer.put(service())
    balancer.set_health({("web", "10.2.0.1"): False})
    monkeypatch.setattr(clock, "PART", 1024)
    swept, part = [], Sweep.part

    def swept_part(self, ways, exchange):
        part(self, ways, exchange)
        swept.append(len(ways))
        if len(swept) == 1:
            balancer.switch(balancing=True, decapsulating=False, elements=2048)
            balancer.put(service("large", vip="10.9.0.2", ring=1048573))
            ways = balancer.maps.flows["ways"].reshape(-1)
            remember(balancer, 1048572, 0, "large")
            ways[2000], ways[0] = ways[0], 0

    monkeypatch.setattr(Sweep, "part", swept_part)
    rounds = Clock(balancer)
    rounds.round()
    assert len(swept) == 1
    rounds.round()
    assert len(swept) == 5


def test_what_a_change_takes_away_is_put_back_whole_however_long_it_takes(balancer):
    balancer.put(service())
    served = balancer.by_name["web"]
    with balancer.keeping():
        balancer.remove("web")
        Clock(balancer).round()
        balancer.put(service())
        assert balancer.by_name["web"] is served
    balancer.remove("web")
    Clock(balancer).round()
    assert balancer.ending == []


# changes that fail


def test_programs_that_could_not_be_loaded_over_larger_maps_are_loaded_with_the_next_change(balancer, monkeypatch):
    attachments, loaded = balancer.pool._attachments, []
    with monkeypatch.context() as broken:
        broken.setattr(attachments, "reload", fail)
        with pytest.raises(Refused):
            balancer.switch(balancing=True, decapsulating=False, elements=2048)
    monkeypatch.setattr(attachments, "reload", lambda: loaded.append(True))
    balancer.switch(balancing=True, decapsulating=False)
    balancer.switch(balancing=True, decapsulating=False)
    assert loaded == [True]


def test_a_vip_for_which_there_are_no_pages_leads_where_it_led(balancer):
    for i in range(4):
        balancer.put(service(f"s{i}", port=f"{1000 + i * 300}-{1100 + i * 300}", backends=1))
    vips = balancer.vips
    taken = vips._free_pages.take(vips._free_pages.free)
    with pytest.raises(Refused, match="pages"):
        balancer.put(service("s4", port="5000", backends=1))
    row = balancer.by_name["s4"].row
    balancer.remove("s4")
    vips._free_pages.give_back(taken, 100, 0.0)
    balancer.put(service("s5", port="6000", backends=1))
    assert row not in vips.vips["10.9.0.1"].links
    assert not (balancer.maps.vips["rules"][vips.vips["10.9.0.1"].row] >> 32 == row).any()
    assert not (balancer.maps.pages[:] == row).any()


def test_another_ring_that_cannot_be_led_to_leaves_the_one_there_was(balancer, monkeypatch):
    balancer.put(service())
    served = balancer.by_name["web"]
    with monkeypatch.context() as full:
        full.setattr(balancer.vips, "_write", fail)
        with pytest.raises(Refused):
            balancer.put(service(seed=5))
    assert balancer.by_name["web"] is served
    assert len(balancer.ending) == 1
    assert list(balancer.vips.vips["10.9.0.1"].links) == [served.row]


def test_a_vip_is_taken_off_its_device_before_what_says_that_it_is_there(balancer, monkeypatch):
    balancer.put(service())
    balancer.vips.owned.add("10.9.0.1")
    there = []
    monkeypatch.setattr(balancer.wire, "remove", lambda vip: there.append(vip in balancer.vips.vips))
    balancer.remove("web")
    assert there == [True]
    assert "10.9.0.1" not in balancer.vips.vips


def test_slots_are_stamped_anew_before_programs_go_by_another_idle_time(balancer, monkeypatch):
    balancer.put(service(idle=10))
    balancer.put(service(idle=10, backends=2))
    served, order = balancer.by_name["web"], []
    store, set_word = served.store, balancer.maps.set_word
    monkeypatch.setattr(served, "store", lambda stores: (order.append("slots"), store(stores)))
    monkeypatch.setattr(balancer.maps, "set_word", lambda *word: (order.append(word[1]), set_word(*word)))
    balancer.put(service(idle=900, backends=2))
    assert order.index("slots") < order.index("idle")


class Host:
    """Addresses of devices, as the kernel would have them."""

    def __init__(self, monkeypatch):
        self.held: list[Address] = []
        self.dumps = 0
        monkeypatch.setattr(wire.query, "addresses", self.addresses)
        monkeypatch.setattr(wire, "add_address", self.add)
        monkeypatch.setattr(wire, "remove_address", self.remove)

    def addresses(self):
        self.dumps += 1
        return list(self.held)

    def add(self, link, address):
        self.held.append(Address(link.index, address, 32, None))
        return True

    def remove(self, index, address):
        self.held.remove(Address(index, address, 32, None))
        return True


def test_a_vip_goes_to_the_device_that_is_said_now(balancer, monkeypatch):
    host, other = Host(monkeypatch), replace(LINK, index=8, name="other")
    monkeypatch.setattr(balancer.wire._announcer, "announce", lambda *_: None)
    balancer.know({DEVICE.index: LINK, 8: other}, SOURCES, {})
    balancer.put(service(own="on-wire", own_dev="eth"))
    assert [held.index for held in host.held] == [DEVICE.index]
    balancer.wire._on.clear()  # as after a restart
    balancer.put(service(own="on-wire", own_dev="other"))
    assert [held.index for held in host.held] == [8]
    balancer.remove("web")
    assert host.held == []


def test_addresses_are_not_read_for_vips_that_are_known_to_be_there(balancer, monkeypatch):
    host = Host(monkeypatch)
    balancer.know_local(frozenset({"10.9.0.1"}))
    balancer.put(service(own="on-wire", own_dev="eth"))
    assert not balancer.repair("web")
    assert (host.held, host.dumps) == ([], 0)


# the whole


@pytest.fixture
def balance(datapath):
    balance = Balance(Attachments(datapath), Facts(devices={"eth": DEVICE}), 1 << 12)
    balance.balancer.know({DEVICE.index: LINK}, SOURCES, {})
    balance.balancer.switch(balancing=True, decapsulating=False, elements=256)
    yield balance
    balance.close()


def test_the_clock_does_not_leap_when_the_first_service_comes(balance):
    before = balance.balancer.maps.clock
    balance.clock._since -= 25
    balance.tick()
    assert balance.balancer.maps.clock - before >= 100
    assert time.monotonic() - balance.clock._since < 1


def test_one_service_that_cannot_be_repaired_holds_up_no_other(balance):
    balancer = balance.balancer
    for name, vip in (("a", "10.9.0.1"), ("b", "10.9.0.2")):
        balance.wanted[name] = service(name, vip=vip)
        balancer.put(balance.wanted[name])
    balancer.by_name["a"].service = service("a", own="on-wire", own_dev="nothing")
    balancer.maps.set_word(balancer.by_name["b"].row, "backends", 9)
    assert balance.repair()["services"] == 1
    assert balancer.by_name["b"].intact()


def test_a_change_loads_programs_that_run_over_former_maps(balance):
    added = Delta(before={}, after={"web": service()})
    now = balance.draft(added, Delta())
    assert now.have.running == now.want.running
    balance.balancer.pool.behind = True
    behind = balance.draft(added, Delta())
    assert behind.have.running != behind.want.running


def test_what_is_read_back_without_a_store_is_read_back_once(balance):
    balancer = balance.balancer
    balancer.put(service())
    half = balancer.by_name["web"]
    balancer.vips.unlink(half.row, "10.9.0.1")
    again = Balance(balance.attachments, Facts(devices={"eth": DEVICE}), 1 << 12)
    assert again.recover({DEVICE.index: LINK}) == ({}, {})
    again.start({}, {}, dict, ())
    assert len(again.balancer.ending) == 1
    again.close()
