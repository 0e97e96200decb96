"""adjacency: next hops learned and shared, changed under the cache, and left alone where they may not be used."""

import ipaddress
import socket

import numpy as np
import pytest

from bpf.frames import forwarded, ip4, ip6
from bpf.pipeline import IN_MAC, LEARNED_HOP, LOCAL, NEAR_MAC, Hop
from bpf.test_cache import one_bucket4
from hopline.daemon.datapath import GENERATION_BITS
from hopline.daemon.learned import LearnedTable
from hopline.features.forward import mac_word, parse_mac
from hopline.kernel import netns

A, B = Hop("02:00:00:00:0a:01", "02:00:00:00:0a:02"), Hop("02:00:00:00:0b:01", "02:00:00:00:0b:02")


@pytest.mark.parametrize(
    ("packet", "next_hop"),
    [
        (ip4("10.0.2.2"), "10.0.2.2"),
        (ip4("203.0.113.9"), "10.0.2.2"),
        (ip6("2001:db8:2::2"), "2001:db8:2::2"),
        (ip6("2001:db8:a::9"), "2001:db8:2::2"),
        (ip4("100.65.0.1"), "2001:db8:2::2"),
    ],
)
def test_what_is_learned_says_its_next_hop(world, packet, next_hop):
    world.sh("ip route replace 100.65.0.0/16 via inet6 2001:db8:2::2")
    assert world.run(packet).data == forwarded(packet, LEARNED_HOP)
    outcome, event = world.trace(packet)
    note, address = event["forward"], ipaddress.ip_address(next_hop)
    assert outcome.data == forwarded(packet, LEARNED_HOP)
    assert int(note["adjacency"]) >= world.datapath.learned_base
    assert (int(note["family"]), note["next_hop"].tobytes()) == (address.version, address.packed.ljust(16, b"\0"))
    assert int(note["destination"]) == mac_word(parse_mac(LEARNED_HOP.destination), 1500)
    assert int(note["source"]) == mac_word(parse_mac(LEARNED_HOP.source), world.out_slot)
    world.sh("ip route del 100.65.0.0/16")


def test_destinations_behind_one_gateway_share_an_adjacency(world):
    ids = set()
    for last in range(1, 60):
        world.run(ip4(f"203.0.113.{last}"))
        ids.add(int(world.trace(ip4(f"203.0.113.{last}"))[1]["forward"]["adjacency"]))
    assert len(ids) == 1
    totals = world.datapath.maps["next_hop_count"].sums()
    assert int(np.count_nonzero(world.datapath.adjacencies["state"][world.datapath.learned_base :])) == 1
    assert int(totals["packets"][ids.pop()]) >= 59


def test_with_no_adjacency_left_what_is_learned_is_forwarded_and_not_cached(pipeline):
    pipeline.learn()
    states = pipeline.datapath.adjacencies["state"]
    states[pipeline.datapath.learned_base :] = int(pipeline.datapath.states.ADJACENCY_CLAIMED)
    packet = ip4("10.0.2.2")
    for _ in range(2):
        assert pipeline.run(packet).data == forwarded(packet, LEARNED_HOP)
        assert pipeline.asked(packet)[2] == "FIB"


def test_an_adjacency_that_changes_needs_no_new_generation(pipeline):
    id = pipeline.forward("198.51.100.7", A)
    assert pipeline.run(ip4()).data == forwarded(ip4(), A)
    pipeline.adjacency(Hop(B.destination, A.source), id)
    assert pipeline.run(ip4()).data == forwarded(ip4(), Hop(B.destination, A.source))
    pipeline.adjacency(B, id)
    assert pipeline.run(ip4()).data == forwarded(ip4(), B)
    pipeline.adjacency(Hop(B.destination, B.source, mtu=30), id)
    assert pipeline.run(ip4()).verdict == "PASS_TOO_BIG"
    for state, verdict in (
        ("UNRESOLVED", "PASS_NO_NEIGHBOUR"),
        ("NO_DEVICE", "PASS_NO_EGRESS"),
        ("RETIRING", "PASS_NO_EGRESS"),
        ("CLAIMED", "PASS_NO_EGRESS"),
        ("FREE", "PASS_NO_EGRESS"),
    ):
        pipeline.set_state(id, state)
        outcome = pipeline.run(ip4())
        assert (outcome.verdict, outcome.data) == (verdict, ip4())
        assert pipeline.asked(ip4())[2] == "CACHE"
    pipeline.adjacency(A, id)
    assert pipeline.run(ip4()).data == forwarded(ip4(), A)


def test_a_learned_adjacency_that_retires_passes_until_it_is_learned_anew(pipeline):
    pipeline.learn()
    packet = ip4("10.0.2.2")
    pipeline.run(packet)
    id = int(pipeline.trace(packet)[1]["forward"]["adjacency"])
    pipeline.datapath.retire_adjacency(id)
    assert pipeline.run(packet).verdict == "PASS_NO_EGRESS"
    pipeline.datapath.bump_generation()
    assert pipeline.run(packet).data == forwarded(packet, LEARNED_HOP)
    assert int(pipeline.trace(packet)[1]["forward"]["adjacency"]) != id
    pipeline.datapath.free_adjacencies([id])
    assert pipeline.run(packet).data == forwarded(packet, LEARNED_HOP)


@pytest.mark.parametrize("packet", [ip4("10.0.2.2"), ip6("2001:db8:2::2")])
def test_a_cached_learned_answer_is_not_used_where_learning_is_off(pipeline, packet):
    pipeline.learn()
    assert pipeline.run(packet).verdict == "FORWARDED"
    pipeline.learn(False)
    assert pipeline.run(packet).verdict == "PASS_NOT_LEARNING"
    assert pipeline.asked(packet) == ("PASS_NOT_LEARNING", {"CACHE"}, "CACHE")
    pipeline.learn()
    assert pipeline.asked(packet) == ("FORWARDED", {"CACHE"}, "CACHE")


def test_what_another_interface_found_not_entered_is_still_learned(pipeline):
    packet = ip4("10.0.2.2")
    assert pipeline.run(packet).verdict == "PASS_NOT_LEARNING"
    assert pipeline.run(packet).verdict == "PASS_NOT_LEARNING"
    pipeline.learn()
    assert pipeline.run(packet).data == forwarded(packet, LEARNED_HOP)


def test_what_the_other_interface_learned_is_a_hairpin_here(pipeline):
    """Learned by what came in at out0, and cached; a packet from in0 itself must not be sent back out of in0."""
    pipeline.learn()
    pipeline.attachments.set_learning(pipeline.out_index, learn4=True, learn6=True, bypass=False)
    back = Hop(NEAR_MAC, IN_MAC)
    for here, there in (
        (ip4("10.0.1.2", src="10.0.1.9"), ip4("10.0.1.2", src="10.0.2.2")),
        (ip6("2001:db8:1::2", src="2001:db8:1::9"), ip6("2001:db8:1::2", src="2001:db8:2::2")),
    ):
        there = bytes.fromhex("020000000201") + there[6:]
        with netns.inside(pipeline.router), pipeline.datapath.load_pipeline(pipeline.out_slot, generic=False) as other:
            pipeline.datapath.extend_lease()
            left = other.program("hopline_xdp").test_run(there, ifindex=pipeline.out_index).data
        assert left == forwarded(there, back)
        assert pipeline.run(here).verdict == "PASS_HAIRPIN"
        assert pipeline.asked(here) == ("PASS_HAIRPIN", {"CACHE"}, "CACHE")
        pipeline.learn(bypass=True)
        assert pipeline.run(here).data == forwarded(here, back)
        pipeline.learn()
        assert pipeline.run(here).verdict == "PASS_HAIRPIN"
    pipeline.attachments.set_learning(pipeline.out_index, learn4=False, learn6=False, bypass=False)


def test_an_operators_hairpin_is_obeyed(pipeline):
    back = Hop(slot=pipeline.in_slot)
    pipeline.forward("198.51.100.7", back)
    for _ in range(2):
        assert pipeline.run(ip4()).data == forwarded(ip4(), back)


def test_an_egress_that_leaves_the_devmap_passes_the_packet_untouched(pipeline):
    pipeline.forward("198.51.100.7", A)
    assert pipeline.run(ip4()).verdict == "FORWARDED"
    devices = pipeline.datapath.maps["egress_native"]
    devices.delete(pipeline.out_slot)
    for packet in (ip4(), ip4() + bytes(9)):
        outcome = pipeline.run(packet)
        assert (outcome.verdict, outcome.data) == ("PASS_NO_EGRESS", packet)
    with netns.inside(pipeline.router):
        devices.set(pipeline.out_slot, pipeline.out_index)
    assert pipeline.run(ip4()).data == forwarded(ip4(), A)


def test_a_device_that_is_deleted_while_cached_passes_the_packet_untouched(pipeline):
    pipeline.sh("ip link add gone0 type veth peer name gone1; ip link set gone0 up; ip link set gone1 up")
    slot = 77
    with netns.inside(pipeline.router):
        pipeline.datapath.maps["egress_native"].set(slot, socket.if_nametoindex("gone0"))
    pipeline.forward("198.51.100.7", Hop(slot=slot))
    assert pipeline.run(ip4()).verdict == "FORWARDED"
    pipeline.sh("ip link del gone0")
    outcome = pipeline.run(ip4())
    assert (outcome.verdict, outcome.data) == ("PASS_NO_EGRESS", ip4())


@pytest.mark.parametrize("generic", [False, True])
def test_each_mode_asks_its_own_devmap(pipeline, generic):
    pipeline.forward("198.51.100.7", A)
    mine, other = ("egress_generic", "egress_native") if generic else ("egress_native", "egress_generic")
    held = {name: int(pipeline.datapath.maps[name].get(pipeline.out_slot)) for name in (mine, other)}
    assert held == {mine: pipeline.out_index, other: pipeline.out_index}
    program = pipeline.load(generic=generic)
    pipeline.datapath.maps[other].delete(pipeline.out_slot)
    with pipeline.inside():
        assert program.test_run(ip4(), ifindex=pipeline.in_index).data == forwarded(ip4(), A)
        pipeline.datapath.maps[mine].delete(pipeline.out_slot)
        assert program.test_run(ip4(), ifindex=pipeline.in_index).data == ip4()
        for name in (mine, other):
            pipeline.datapath.maps[name].set(pipeline.out_slot, pipeline.out_index)
    program.close()


@pytest.mark.parametrize(("make", "to", "mtu"), [(ip4, "203.0.113.200", 1000), (ip6, "2001:db8:b::9", 1400)])
def test_a_routes_mtu_holds_for_what_is_cached_too(world, make, to, mtu):
    """The FIB refuses what is too long itself; here it is asked about a short packet only."""
    head = len(make(to, b"")) - 14
    assert world.run(make(to)).verdict == "FORWARDED"
    for length, verdict in ((mtu, "FORWARDED"), (mtu + 1, "PASS_TOO_BIG")):
        packet = make(to, bytes(length - head))
        assert world.asked(packet) == (verdict, {"CACHE"}, "CACHE")
        assert world.run(packet).verdict == verdict


@pytest.mark.parametrize("packet", [ip4("10.0.2.2"), ip6("2001:db8:2::2")], ids=["IPv4", "IPv6"])
def test_a_neighbours_new_mac_is_learned_with_the_next_generation(pipeline, packet):
    pipeline.learn()
    assert pipeline.run(packet).data == forwarded(packet, LEARNED_HOP)
    moved = Hop("02:00:00:00:02:77", LEARNED_HOP.source)
    replace = "for a in 10.0.2.2 2001:db8:2::2; do ip neigh replace $a lladdr {} dev out0 nud permanent; done"
    pipeline.sh(replace.format(moved.destination))
    assert pipeline.run(packet).data == forwarded(packet, LEARNED_HOP), "the daemon has not been told yet"
    pipeline.datapath.bump_generation()
    for _ in range(2):
        assert pipeline.run(packet).data == forwarded(packet, moved)
    pipeline.sh(replace.format(LEARNED_HOP.destination))
    pipeline.datapath.bump_generation()
    for _ in range(2):
        assert pipeline.run(packet).data == forwarded(packet, LEARNED_HOP)


def test_a_source_out_of_a_local_prefix_is_our_own(pipeline):
    """`ip route add local PREFIX dev lo` makes all of it ours, and the kernel drops what claims to come from there."""
    id = pipeline.forward("198.51.100.7", A)
    sources = [f"203.0.113.{last}" for last in range(128, 256)]
    assert {pipeline.run(ip4(src=source)).verdict for source in sources} == {"FORWARDED"}
    pipeline.datapath.set_local([*LOCAL, "203.0.113.128/25"])
    assert {pipeline.run(ip4(src=source)).verdict for source in sources} == {"PASS_MARTIAN"}
    assert pipeline.run(ip4(src="203.0.113.127")).verdict == "FORWARDED"
    pipeline.datapath.set_local(LOCAL)
    assert id < pipeline.datapath.learned_base


def test_what_was_learned_is_listed_also_where_its_bucket_was_full(world):
    world.sh("ip route replace default via 10.0.2.2")
    destinations = [str(ipaddress.ip_address(address)) for address in one_bucket4(world)[:12]]
    for destination in destinations:
        world.run(ip4(destination))
    listed = {learned.to for learned in LearnedTable(world.datapath).entries()}
    assert listed >= set(destinations)
    assert (world.datapath.cache_words("cache4") > GENERATION_BITS).any()
    world.sh("ip route del default")
