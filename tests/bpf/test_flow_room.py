"""The flow table where it is crowded: who is refused, who gives way, and in what order."""

import numpy as np
import pytest

from bpf.balance_maps import ESTABLISHED, FINISHED, IDLE, FlowEntry, ServiceMaps
from bpf.balanced import CLIENT4, Balanced, tcp, udp
from bpf.test_flow import BEFORE, FOURTH, LAG, NOW, OTHER, service_of, taken_by


def fill(balanced: Balanced, service: ServiceMaps, hash: int, entries: list[tuple[int, int]]) -> None:
    """Fill both buckets of a hash with other flows: (flags, seen) of each way, those of the home first."""
    for i, (flags, seen) in enumerate(entries):
        bucket = balanced.maps.buckets_of(hash)[i // 4]
        balanced.maps.put_flow(service, hash + 1 + i, FOURTH, flags=flags, seen=seen, bucket=bucket, way=i % 4)


FULL = [(ESTABLISHED, 1000)] * 8
CLOCK = 9000


def with_one(at: int, flags: int, seen: int) -> list[tuple[int, int]]:
    """Eight ways that stay, but for one."""
    return [(flags, seen) if i == at else (ESTABLISHED, CLOCK) for i in range(8)]


@pytest.mark.parametrize("flags", ["S", "A"])
def test_refused_it_goes_where_its_next_segment_goes(balanced, flags):
    service = service_of(balanced, "OPEN")
    fill(balanced, service, service.hash_of(CLIENT4, 4000, 80), FULL)
    before = balanced.maps.flows()
    assert taken_by(balanced, service, tcp(flags=flags)) == BEFORE
    assert balanced.maps.flows() == before
    assert int(service.record["refused"][0]) == 1000
    assert service.flow_count() == {"remembered": 0, "refused": 1, "evicted": 0, "hits": 0}


@pytest.mark.parametrize("state", ["CLOSED", "RESIDUAL"])
def test_refused_where_the_ring_alone_would_say_it(balanced, state):
    service = service_of(balanced, state, remembers=True)
    fill(balanced, service, service.hash_of(CLIENT4, 4000, 80), FULL)
    assert taken_by(balanced, service, tcp()) == NOW
    assert service.flow_count()["refused"] == 1


def test_refused_udp_goes_where_its_next_datagram_goes(balanced):
    service = service_of(balanced, "OPEN", protocol="udp", remembers=True)
    fill(balanced, service, service.hash_of(CLIENT4, 4000, 80), FULL)
    assert [taken_by(balanced, service, udp()) for _ in range(2)] == [NOW, NOW]


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize(
    ("flags", "age", "gives_way", "evicted"),
    [
        (ESTABLISHED, IDLE + LAG + 2, True, 0),  # a tick later than anybody obeys it
        (ESTABLISHED, IDLE + LAG + 1, False, 0),
        (ESTABLISHED | FINISHED, 240 + 15 + 2, True, 0),
        (ESTABLISHED | FINISHED, 240 + 15 + 1, False, 0),
        (0, 0, True, 1),
        (0, IDLE + LAG + 2, True, 0),
    ],
)
def test_who_gives_way(balanced, at, flags, age, gives_way, evicted):
    service = service_of(balanced, "OPEN")
    balanced.maps.set_clock(CLOCK)
    hash = service.hash_of(CLIENT4, 4000, 80)
    fill(balanced, service, hash, with_one(at, flags, CLOCK - age))
    assert taken_by(balanced, service, tcp(flags="S")) == (NOW if gives_way else BEFORE)
    entries = {each.hash for each in balanced.maps.flows()}
    assert len(entries) == 8
    assert (hash in entries) == gives_way
    assert (hash + 1 + at in entries) != gives_way
    assert service.flow_count() == {
        "remembered": int(gives_way), "refused": int(not gives_way), "evicted": evicted, "hits": 0,
    }  # fmt: skip


def test_the_order_in_which_they_give_way(balanced):
    """Silent ones first, then finished ones, then the oldest of a single segment."""
    service = service_of(balanced, "OPEN")
    balanced.maps.set_clock(CLOCK)
    hash = service.hash_of(CLIENT4, 4000, 80)
    ways = with_one(6, 0, CLOCK - 2)
    ways[1], ways[3], ways[4] = (0, CLOCK - 5), (FINISHED | ESTABLISHED, CLOCK - 300), (ESTABLISHED, CLOCK - 5000)
    fill(balanced, service, hash, ways)
    balanced.run(tcp(flags="S"))
    assert hash + 1 + 4 not in {each.hash for each in balanced.maps.flows()}
    for at in (3, 1, 6):
        # the last one that came has become established, and makes room no more
        words = balanced.maps.datapath.maps["flows"].mmap()["ways"].reshape(-1)
        for i in np.flatnonzero(words["hash"] == hash):
            words["hash"][i], words["word"][i] = hash + 100 + at, int(words["word"][i]) | ESTABLISHED
        balanced.run(tcp(flags="S"))
        assert hash + 1 + at not in {each.hash for each in balanced.maps.flows()}, at


def test_silence_is_by_each_ones_own_service(balanced):
    patient = service_of(balanced, "OPEN", port="81", idle=100_000)
    service = service_of(balanced, "OPEN", idle=40)
    balanced.maps.set_clock(CLOCK)
    hash = service.hash_of(CLIENT4, 4000, 80)
    fill(balanced, patient, hash, [(ESTABLISHED, 1000)] * 8)
    assert taken_by(balanced, service, tcp(flags="S")) == BEFORE
    balanced.maps.put_flow(service, hash + 50, FOURTH, flags=ESTABLISHED, seen=CLOCK - 44,
                           bucket=balanced.maps.buckets_of(hash)[1], way=2)  # fmt: skip
    assert taken_by(balanced, service, tcp(flags="S")) == NOW


def test_a_way_that_is_being_written_is_left_alone(balanced):
    service = service_of(balanced, "OPEN")
    hash = service.hash_of(CLIENT4, 4000, 80)
    fill(balanced, service, hash, FULL)
    ways = balanced.maps.datapath.maps["flows"].mmap()["ways"][balanced.maps.buckets_of(hash)[0]]
    ways["word"][0], ways["hash"][0] = 0xFFFF << 16, hash
    assert taken_by(balanced, service, tcp(flags="S")) == BEFORE
    assert int(ways["word"][0]) == 0xFFFF << 16


def test_the_emptier_bucket_is_filled(balanced):
    """The home has one free way, the other bucket four; with two free ways the home is taken."""
    service = service_of(balanced, "OPEN")
    hash = service.hash_of(CLIENT4, 4000, 80)
    home, beside = balanced.maps.buckets_of(hash)
    table = balanced.maps.datapath.maps["flows"].mmap()["ways"]
    for taken, expected in ((2, home), (3, beside)):
        table["word"] = 0
        fill(balanced, service, hash, FULL[:taken])
        balanced.run(tcp(flags="S"))
        assert hash in table[expected]["hash"], taken
        table["hash"] = 0


def test_many_flows_are_all_found_again(balanced):
    """A quarter as many flows as ways: all are remembered, and when the ring has changed all stay."""
    service = service_of(balanced, "OPEN")
    clients = [(f"100.64.{i >> 8}.{i & 255}", 1024 + i) for i in range(1000)]
    with balanced.pipeline.inside():
        for client, port in clients:
            balanced.pipeline.quick(tcp(client=client, sport=port, flags="S"))
        assert service.flow_count() == {"remembered": 1000, "refused": 0, "evicted": 0, "hits": 0}
        service.fill(OTHER, FOURTH, "OPEN")
        for client, port in clients:
            balanced.pipeline.quick(tcp(client=client, sport=port))
    assert [service.count(number)[0] for number in range(4)] == [2000, 0, 0, 0]
    assert service.flow_count()["hits"] == 1000
    assert len(balanced.maps.flows()) == 1000


def test_a_flood_of_syns(balanced):
    """Closed, it leaves nothing behind. Open, the table is bounded and what is established stays."""
    service = service_of(balanced, "CLOSED")
    known = service.hash_of(CLIENT4, 4000, 80)
    flood = [tcp(client=f"100.{i >> 16}.{i >> 8 & 255}.{i & 255}", flags="S") for i in range(6000)]
    with balanced.pipeline.inside():
        for packet in flood[:1000]:
            balanced.pipeline.quick(packet)
        assert balanced.maps.flows() == []
        service.fill(NOW, BEFORE, "OPEN")
        balanced.maps.put_flow(service, known, OTHER, flags=ESTABLISHED)
        for packet in flood:
            balanced.pipeline.quick(packet)
    flows = balanced.maps.flows()
    assert len(flows) <= balanced.maps.datapath.maps["flows"].max_entries * 4
    assert FlowEntry(known, service.row, OTHER, ESTABLISHED, 1000) in flows
    counted = service.flow_count()
    assert (counted["remembered"], counted["evicted"]) == (6000, 6001 - len(flows))
