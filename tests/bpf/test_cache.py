"""The cache in front of the tables: what answers, what makes an answer stale, and that no two are ever mixed up."""

import ipaddress
import random
import threading
import time

import numpy as np
import pytest

from bpf import test_forward, test_parse
from bpf.frames import forwarded, ip4, ip6
from bpf.pipeline import Hop, Pipeline
from hopline.daemon.counters import BEFORE_THE_LOOK_UP, read_counters
from hopline.daemon.datapath import GENERATIONS, LEASE_S
from hopline.kernel import atomic_store32, netns
from hopline.kernel.netlink import query
from hopline.kernel.netlink.features import device_features

A, B = Hop("02:00:00:00:0a:01", "02:00:00:00:0a:02"), Hop("02:00:00:00:0b:01", "02:00:00:00:0b:02")


WAYS_TO_ANSWER = [
    ("an exact IPv4 entry", ip4(), "FORWARDED", {"LOCAL", "EXACT"}, "EXACT"),
    ("an exact IPv6 entry", ip6(), "FORWARDED", {"LOCAL", "EXACT"}, "EXACT"),
    ("an IPv4 prefix", ip4("198.51.100.65"), "FORWARDED", {"LOCAL", "EXACT", "PREFIX"}, "PREFIX"),
    ("an IPv6 prefix", ip6("2001:db8:f::b"), "FORWARDED", {"LOCAL", "EXACT", "PREFIX"}, "PREFIX"),
    ("the FIB", ip4("10.0.2.2"), "FORWARDED", {"LOCAL", "EXACT", "PREFIX", "FIB"}, "FIB"),
    ("the FIB, for IPv6", ip6("2001:db8:2::2"), "FORWARDED", {"LOCAL", "EXACT", "PREFIX", "FIB"}, "FIB"),
    ("a local address", ip4("10.0.2.1"), "PASS_LOCAL", {"LOCAL"}, "LOCAL"),
    ("a local IPv6 address", ip6("2001:db8:2::1"), "PASS_LOCAL", {"LOCAL"}, "LOCAL"),
    ("a next hop that has no MAC yet", ip4("198.51.100.201"), "PASS_NO_NEIGHBOUR", {"LOCAL", "EXACT"}, "EXACT"),
]


@pytest.mark.parametrize(("sentence", "packet", "verdict", "first", "found"), WAYS_TO_ANSWER)
def test_the_second_packet_is_answered_from_the_cache(world, sentence, packet, verdict, first, found):
    assert world.asked(packet) == (verdict, {"CACHE", *first}, found)
    assert world.asked(packet) == (verdict, {"CACHE", *first}, found), "a dry run caches nothing"
    world.run(packet)
    assert world.asked(packet) == (verdict, {"CACHE"}, "CACHE")
    world.datapath.bump_generation()
    assert world.asked(packet) == (verdict, {"CACHE", *first}, found), "stale after a bump"


def test_what_the_fib_refuses_is_asked_each_time(world):
    for packet in (ip4("100.64.0.1"), ip4("10.0.2.77"), ip4("10.0.1.2"), ip6("2001:db8:ff::1")):
        world.run(packet)
        assert world.asked(packet)[1:] == ({"CACHE", "LOCAL", "EXACT", "PREFIX", "FIB"}, "FIB")


def test_a_refusal_that_ends_is_learned_at_once(pipeline):
    pipeline.learn()
    packet = ip4("192.0.2.33")
    assert pipeline.run(packet).verdict == "PASS_NO_ROUTE"
    pipeline.sh("ip route add 192.0.2.32/28 via 10.0.2.2")
    assert pipeline.run(packet).verdict == "FORWARDED"
    pipeline.sh("ip route del 192.0.2.32/28")


# what makes an answer stale, and what does not


def test_a_new_entry_takes_effect_with_the_next_generation(pipeline):
    pipeline.forward("198.51.100.0/24", A)
    assert pipeline.run(ip4()).data == forwarded(ip4(), A)
    pipeline.forward("198.51.100.7", B)
    assert pipeline.run(ip4()).data == forwarded(ip4(), B)
    pipeline.datapath.drop_entries("forward_exact4", ["198.51.100.7"])
    pipeline.datapath.bump_generation()
    assert pipeline.run(ip4()).data == forwarded(ip4(), A)
    pipeline.datapath.drop_entries("forward_prefix4", ["198.51.100.0/24"])
    pipeline.datapath.bump_generation()
    assert pipeline.run(ip4()).verdict == "PASS_NOT_LEARNING"


def test_the_generation_wraps_past_zero(pipeline):
    id = pipeline.forward("198.51.100.7", A)
    word = pipeline.datapath.maps["state"].mmap()[0:1]["generation"]
    before = pipeline.datapath.generation
    atomic_store32(word, GENERATIONS)
    assert pipeline.run(ip4()).data == forwarded(ip4(), A)
    assert pipeline.asked(ip4())[2] == "CACHE"
    pipeline.datapath.bump_generation()
    assert pipeline.datapath.generation == 1
    assert pipeline.asked(ip4())[2] == "EXACT"
    assert id < pipeline.datapath.learned_base
    atomic_store32(word, before)


def test_entries_are_read_back_as_they_were_entered(pipeline):
    entered = ["1.2.3.4", "1.2.0.0/16", "0.0.0.0/0", "2001:db8::1", "2001:db8::/33", "::/0"]
    ids = {to: pipeline.forward(to, A) for to in entered}
    assert pipeline.datapath.read_entries() == ids


def test_local_addresses_that_are_as_they_were_are_no_change(pipeline):
    assert pipeline.datapath.set_local(["10.0.1.1", "2001:db8:1::1"])
    assert not pipeline.datapath.set_local(["10.0.1.1", "2001:db8:1::1"])
    assert [len(pipeline.datapath.maps[name].items()[0]) for name in ("local4", "local6")] == [1, 1]


@pytest.mark.parametrize(
    ("packet", "ours"), [(ip4("10.0.2.9"), "10.0.2.9"), (ip6("2001:db8:2::9"), "2001:db8:2::9")], ids=["4", "6"]
)
def test_an_address_that_becomes_and_ceases_to_be_ours(pipeline, packet, ours):
    pipeline.forward("10.0.2.9", A)
    pipeline.forward("2001:db8:2::9", A)
    assert pipeline.run(packet).verdict == "FORWARDED"
    others = ["10.0.1.1", "2001:db8:1::1"]
    assert pipeline.datapath.set_local([*others, ours])
    pipeline.datapath.bump_generation()
    assert [pipeline.run(packet).verdict for _ in range(2)] == ["PASS_LOCAL"] * 2
    assert pipeline.datapath.set_local(others)
    pipeline.datapath.bump_generation()
    assert [pipeline.run(packet).verdict for _ in range(2)] == ["FORWARDED"] * 2


def test_a_source_that_only_looks_local_to_the_filter_is_forwarded(pipeline):
    pipeline.forward("198.51.100.7", A)
    bit = pipeline.datapath.local_bit
    ours = bit(ipaddress.ip_address("10.0.1.1").packed)
    alike = [n for n in range(0x0B000000, 0x0B002000) if bit(n.to_bytes(4, "big")) == ours]
    assert len(alike) > 4
    for source in alike:
        packet = ip4(src=str(ipaddress.ip_address(source)))
        assert pipeline.run(packet).data == forwarded(packet, A)


# the lease


@pytest.mark.parametrize("dst", ["10.0.2.2", "2001:db8:2::2"])
def test_without_a_lease_the_cache_is_not_asked_and_entries_still_forward(pipeline, dst):
    pipeline.learn()
    make, exact, prefix, inside = (ip4, "198.51.100.7", "192.0.2.0/24", "192.0.2.1")
    if ":" in dst:
        make, exact, prefix, inside = (ip6, "2001:db8:f::7", "2001:db8:e::/48", "2001:db8:e:1::1")
    pipeline.forward(exact, A)
    pipeline.forward(prefix, B)
    learned, by_exact, by_prefix = make(dst), make(exact), make(inside)
    for packet in (learned, by_exact, by_prefix):
        assert pipeline.run(packet).verdict == "FORWARDED"
    pipeline.leased = False
    pipeline.datapath.drop_lease()
    assert pipeline.run(learned).verdict == "PASS_NO_LEASE"
    assert pipeline.asked(learned) == ("PASS_NO_LEASE", {"LOCAL", "EXACT", "PREFIX"}, None)
    assert pipeline.run(by_exact).data == forwarded(by_exact, A)
    assert pipeline.asked(by_exact) == ("FORWARDED", {"LOCAL", "EXACT"}, "EXACT")
    assert pipeline.run(by_prefix).data == forwarded(by_prefix, B)
    assert pipeline.asked(by_prefix) == ("FORWARDED", {"LOCAL", "EXACT", "PREFIX"}, "PREFIX")
    pipeline.leased = True
    assert pipeline.run(learned).verdict == "FORWARDED"


def test_the_lease_runs_out_by_itself(pipeline):
    pipeline.learn()
    packet = ip4("10.0.2.2")
    pipeline.datapath.extend_lease()
    pipeline.leased = False
    began = time.monotonic()
    while pipeline.run(packet).verdict == "FORWARDED":
        assert time.monotonic() - began < 2 * LEASE_S
        time.sleep(0.01)
    assert time.monotonic() - began > 0.8 * LEASE_S
    assert pipeline.run(packet).verdict == "PASS_NO_LEASE"


# hits and misses


def misses_and_hits(pipeline: Pipeline, packet: bytes) -> tuple[int, int]:
    """How many misses and hits a packet adds, on the slot that it came in by and on no other."""
    before = read_counters(pipeline.datapath)
    pipeline.run(packet)
    after = read_counters(pipeline.datapath)
    moved = {slot for slot in after if after[slot] != before[slot]}
    assert moved == {pipeline.in_slot}
    now, was = after[pipeline.in_slot], before[pipeline.in_slot]
    return now.misses - was.misses, now.hits - was.hits


@pytest.mark.parametrize("case", [*test_forward.CASES, *test_parse.CASES], ids=lambda case: case.sentence)
def test_a_packet_is_a_miss_where_the_tables_were_asked_and_a_hit_where_the_cache_knew(world, case):
    world.datapath.bump_generation()
    looked_up = case.verdict not in BEFORE_THE_LOOK_UP
    assert misses_and_hits(world, case.packet) == (1, 0) if looked_up else (0, 0)
    known = world.asked(case.packet)[2] == "CACHE"
    assert misses_and_hits(world, case.packet) == ((0, 1) if known else (1, 0)) if looked_up else (0, 0)


def test_without_a_lease_every_packet_is_a_miss(pipeline):
    pipeline.forward("198.51.100.7", A)
    assert [misses_and_hits(pipeline, ip4()) for _ in range(2)] == [(1, 0), (0, 1)]
    pipeline.leased = False
    pipeline.datapath.drop_lease()
    assert [misses_and_hits(pipeline, ip4()) for _ in range(2)] == [(1, 0), (1, 0)]


def test_a_dry_run_is_neither_hit_nor_miss(pipeline):
    pipeline.forward("198.51.100.7", A)
    before = read_counters(pipeline.datapath)
    pipeline.asked(ip4())
    pipeline.run(ip4())
    pipeline.asked(ip4())
    now, was = read_counters(pipeline.datapath)[pipeline.in_slot], before[pipeline.in_slot]
    assert (now.misses - was.misses, now.hits - was.hits) == (1, 0)


def test_misses_of_all_processors_add_up(pipeline):
    """More destinations than their bucket has ways, from four threads at once: each misses once or more."""
    pairs = enter_all(pipeline, one_bucket4(pipeline)[:40])
    before = read_counters(pipeline.datapath)[pipeline.in_slot]
    threads = [threading.Thread(target=hammer, args=(pipeline, pairs, 50, seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = read_counters(pipeline.datapath)[pipeline.in_slot]
    misses, hits = after.misses - before.misses, after.hits - before.hits
    assert misses + hits == 4 * 50 * len(pairs)
    assert misses >= len(pairs)
    assert hits > len(pairs)


def test_a_device_in_a_slot_that_was_another_s_begins_with_none(pipeline):
    misses, attachments = pipeline.datapath.maps["cache_misses"], pipeline.attachments
    for slot in set(range(misses.max_entries)) - set(attachments.slots.values()):
        misses.set(slot, 7)
    pipeline.sh("ip link add extra type veth peer name extra2")
    with netns.inside(pipeline.router):
        link = query.link("extra")
        attachments.know(link, device_features("extra"))
    slot = attachments.slots[link.index]
    assert read_counters(pipeline.datapath)[slot].misses == 0
    assert misses.sums().tolist().count(7 * misses.ncpu) == misses.max_entries - len(attachments.slots)
    attachments.forget(link.index)
    assert slot not in read_counters(pipeline.datapath)
    pipeline.sh("ip link del extra")


# collisions: many destinations, each with an adjacency of its own


def numbered(number: int) -> Hop:
    """A next hop whose MACs say its number."""
    return Hop(f"02:0d:00:00:{number >> 8:02x}:{number & 255:02x}", f"02:05:00:00:{number >> 8:02x}:{number & 255:02x}")


def enter_all(pipeline: Pipeline, destinations: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Give each destination its own next hop; the packets to them, and what must leave."""
    first = int(pipeline.datapath.ids.ADJACENCY_ID_FIRST)
    template = ip4() if len(destinations[0]) == 4 else ip6()
    pairs, tables = [], {}
    for number, packed in enumerate(destinations):
        pipeline.adjacency(numbered(number), first + number)
        tables[str(ipaddress.ip_address(packed))] = first + number
        packet = bytearray(template)
        if len(packed) == 4:
            packet[30:34], packet[24:26] = packed, bytes(2)
            packet[24:26] = test_forward.checksum(bytes(packet[14:34])).to_bytes(2, "big")
        else:
            packet[38:54] = packed
        pairs.append((bytes(packet), forwarded(bytes(packet), numbered(number))))
    pipeline.datapath.put_entries("forward_exact4" if len(destinations[0]) == 4 else "forward_exact6", tables)
    pipeline.datapath.bump_generation()
    return pairs


def hammer(pipeline: Pipeline, pairs: list[tuple[bytes, bytes]], rounds: int, seed: int) -> list[str]:
    """Run all packets `rounds` times in random order; the first few that left otherwise than they must."""
    order, wrong = random.Random(seed), []
    with pipeline.inside():
        for _ in range(rounds):
            pipeline.datapath.extend_lease()
            for packet, out in order.sample(pairs, len(pairs)):
                if pipeline.quick(packet) != out:
                    wrong.append(packet.hex())
    return wrong[:3]


def routable(packed: bytes) -> bool:
    address = ipaddress.ip_address(packed)
    plain = not (address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local)
    return plain and (len(packed) == 16 or (packed[0] not in (0, 10, 127) and packed != b"\xff" * 4))


def random_addresses(size: int) -> list[bytes]:
    source = random.Random(size)
    found = {source.randbytes(size) for _ in range(5000)}
    return [packed for packed in sorted(found) if routable(packed)][:4000]


def one_bucket4(pipeline: Pipeline) -> list[bytes]:
    """IPv4 addresses of one bucket: hashes that differ in the tag only, neighbouring tags among them."""
    bits = (pipeline.datapath.cache_buckets - 1).bit_length()
    mixed = (np.arange(3000, dtype=np.uint32) << np.uint32(bits)) | np.uint32(1234)
    packed = [int(octets).to_bytes(4, "little") for octets in pipeline.datapath.unmix4(mixed)]
    assert {pipeline.datapath.mix4(each) & (pipeline.datapath.cache_buckets - 1) for each in packed} == {1234}
    return [each for each in packed if routable(each)]


def one_hash6(pipeline: Pipeline, low_bits: int) -> list[bytes]:
    """IPv6 addresses of one bucket whose 32-bit hashes take 2**(32 - low_bits) values: mix6 run backwards."""
    row, wide = pipeline.datapath.maps["state"].mmap()[0], (1 << 64) - 1
    key = int(row["mix_add"]) << 32 | int(row["mix_multiply"])
    high = bytes.fromhex("20010db800aa0000")
    start = (int.from_bytes(high, "little") ^ key) * 0x9E3779B97F4A7C15 & wide
    start ^= start >> 32
    found = []
    for number in range(2000):
        tag = number << low_bits & 0xFFFFFFFF if low_bits < 32 else 0
        x = (tag | 99) << 32 | number * 7919
        x = x * pow(0xD6E8FEB86659FD93, -1, 1 << 64) & wide
        x ^= x >> 32
        x = (x * pow(key, -1, 1 << 64) - start) & wide
        found.append(high + x.to_bytes(8, "little"))
    return found


def one_hash_and_low_half6(pipeline: Pipeline) -> list[bytes]:
    """IPv6 addresses with the same hash and the same low half, so that only the high one tells them apart."""
    row, wide = pipeline.datapath.maps["state"].mmap()[0], (1 << 64) - 1
    key, low = int(row["mix_add"]) << 32 | int(row["mix_multiply"]), 0x0100000000000000
    found = []
    for number in range(2500):
        x = 99 << 32 | number * 7919
        x = x * pow(0xD6E8FEB86659FD93, -1, 1 << 64) & wide
        x ^= x >> 32
        x = (x * pow(key, -1, 1 << 64) - low) & wide
        x ^= x >> 32
        high = x * pow(0x9E3779B97F4A7C15, -1, 1 << 64) & wide ^ key
        found.append(high.to_bytes(8, "little") + low.to_bytes(8, "little"))
    return [packed for packed in found if routable(packed)]


CROWDS = {
    "random IPv4": lambda pipeline: random_addresses(4),
    "random IPv6": lambda pipeline: random_addresses(16),
    "IPv4 of one bucket": one_bucket4,
    "IPv6 of one bucket": lambda pipeline: one_hash6(pipeline, 14),
    "IPv6 of one and the same hash": lambda pipeline: one_hash6(pipeline, 32),
    "IPv6 of one hash and one low half": one_hash_and_low_half6,
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_each_destination_always_goes_to_its_own_adjacency(pipeline, crowd):
    pairs = enter_all(pipeline, CROWDS[crowd](pipeline))
    assert len(pairs) > 1900
    assert hammer(pipeline, pairs, 3, 0) == []


@pytest.mark.parametrize("crowd", list(CROWDS)[2:])
def test_two_processors_that_fight_for_one_bucket_never_mix_answers_up(pipeline, crowd):
    """Eight and five ways for 40 destinations: every packet evicts what the other processor is reading."""
    pairs = enter_all(pipeline, CROWDS[crowd](pipeline)[:40])
    wrong: list[str] = []
    threads = [
        threading.Thread(target=lambda seed=seed: wrong.extend(hammer(pipeline, pairs, 200, seed))) for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_bucket_holds_as_many_as_it_has_ways(pipeline):
    pairs = enter_all(pipeline, one_bucket4(pipeline)[: pipeline.datapath.limits.CACHE4_WAYS])
    for packet, _ in pairs:
        pipeline.run(packet)
    assert [pipeline.asked(packet)[2] for packet, _ in pairs] == ["CACHE"] * len(pairs)


def test_an_ipv6_bucket_holds_as_many_as_it_has_ways(pipeline):
    pairs = enter_all(pipeline, one_hash6(pipeline, 32)[: pipeline.datapath.limits.CACHE6_WAYS])
    for packet, _ in pairs:
        pipeline.run(packet)
    assert [pipeline.asked(packet)[2] for packet, _ in pairs] == ["CACHE"] * len(pairs)


def test_stale_ways_are_replaced_before_valid_ones(pipeline):
    ways = pipeline.datapath.limits.CACHE4_WAYS
    pairs = enter_all(pipeline, one_bucket4(pipeline)[: 2 * ways])
    for packet, _ in pairs[:ways]:
        pipeline.run(packet)
    pipeline.datapath.bump_generation()
    for packet, _ in pairs[ways:]:
        pipeline.run(packet)
    assert [pipeline.asked(packet)[2] for packet, _ in pairs[ways:]] == ["CACHE"] * ways
