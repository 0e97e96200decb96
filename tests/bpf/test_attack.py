"""The cache under attack: never a packet to a next hop that was not right at some moment since the packet came in.

Two processors run packets through the pipeline by the million (bpf/driver.py) while what it reads is changed. Each race
is also run in a build whose window is held open (faults/windows.py), for what else would happen once in a day.
"""

import contextlib
import random
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from bpf.attackers import (
    CROWDED,
    POOL,
    REST_S,
    SECONDS,
    SHIPPED,
    Movers,
    attacked,
    first_ids,
    for_a_while,
    names,
    one_bucket,
    widened,
)
from bpf.driver import epoch_hop
from bpf.frames import forwarded, ip4
from bpf.pipeline import OUT_MAC, Hop, Pipeline
from bpf.test_cache import CROWDS, routable
from faults import windows
from hopline.daemon.datapath import GENERATION_SWEEP, GENERATIONS
from hopline.daemon.learned import LearnedTable
from hopline.features.forward import key_of, table_of
from hopline.kernel import atomic_store32


def twins4(pipeline: Pipeline) -> list[bytes]:
    """IPv4 addresses of one bucket, and for each the one of the same tag in the bucket that it may be displaced to."""
    index_bits = pipeline.datapath.cache_buckets - 1
    tags = np.arange(1, CROWDED // 2 + 1, dtype=np.uint32) * np.uint32(2 * (index_bits + 1))
    beside = (np.uint32(1234) ^ (tags >> np.uint32(15) | np.uint32(1))) & np.uint32(index_bits)  # other_bucket()
    mixed = np.concatenate([tags | np.uint32(1234), tags | beside])
    packed = [int(octets).to_bytes(4, "little") for octets in pipeline.datapath.unmix4(mixed)]
    return [each for each in packed if routable(each)]


@pytest.mark.parametrize("crowd", [*list(CROWDS)[2:], "IPv4 twins"])
def test_destinations_of_one_bucket_are_never_mixed_up(pipeline, crowd):
    destinations = {**CROWDS, "IPv4 twins": twins4}[crowd](pipeline)[:CROWDED]
    first_ids(pipeline, destinations)
    with attacked(pipeline, destinations):
        for_a_while(pipeline, lambda: time.sleep(0.05))


@pytest.mark.parametrize(
    "window", [*widened("WORD_THEN_ADDRESS", "ADDRESS_THEN_WORD", slow=False), *widened("CHOSEN_THEN_TAKEN")]
)
def test_a_way_that_is_written_while_it_is_read(pipeline, window):
    destinations = one_bucket(pipeline, 6)
    first_ids(pipeline, destinations)
    with attacked(pipeline, destinations, window):
        for_a_while(pipeline, lambda: time.sleep(0.05))


MOVING = [
    SHIPPED,
    *widened("GENERATION_THEN_TABLES", "TABLES_THEN_STORE", "ID_THEN_ADJACENCY", "DESTINATION_THEN_SOURCE"),
]


@pytest.mark.parametrize("window", MOVING)
@pytest.mark.parametrize("family", [4, 6])
def test_entries_that_move_over_ids_that_are_used_again(pipeline, family, window):
    destinations = one_bucket(pipeline, family)
    first_ids(pipeline, destinations)
    with attacked(pipeline, destinations, window) as made:
        movers = Movers(pipeline, destinations, made)
        for_a_while(pipeline, movers.move)
    assert movers.epoch > 10


TABLES = [
    pytest.param(4, None, None, id="exact4 as shipped", marks=pytest.mark.slow),
    pytest.param(6, None, None, id="exact6 as shipped"),
    pytest.param(4, None, windows.ENTRY_THEN_ID, id="exact4 widened"),
    pytest.param(6, None, windows.ENTRY_THEN_ID, id="exact6 widened", marks=pytest.mark.slow),
    pytest.param(4, 28, windows.PREFIX_THEN_ID, id="prefix4 widened", marks=pytest.mark.slow),
    pytest.param(6, 126, windows.PREFIX_THEN_ID, id="prefix6 widened", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "length", "window"), TABLES)
def test_entries_written_anew_while_they_are_looked_up(pipeline, family, length, window):
    """The kernel gives the place of an entry that was replaced to the next one at once, whoever reads it there."""
    destinations = one_bucket(pipeline, family)
    to = names(destinations, length)
    assert len(set(to)) == len(to)
    ids = first_ids(pipeline, destinations)
    if length is not None:
        pipeline.datapath.drop_entries(table_of(names(destinations)[0]), names(destinations))
    table = pipeline.datapath.maps[table_of(to[0])]
    keys, values = np.frombuffer(b"".join(map(key_of, to)), dtype=table.key_dtype), np.array(ids, np.uint32)
    table.update_batch(keys, values)
    pipeline.datapath.drop_lease()  # so that each packet looks its entry up
    with attacked(pipeline, destinations, window):
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            table.update_batch(keys, values)


@pytest.mark.parametrize("window", [SHIPPED, *widened("DESTINATION_THEN_SOURCE")])
def test_a_mac_that_changes_is_the_old_or_the_new_one_and_never_half_of_each(pipeline, window):
    destinations = one_bucket(pipeline, 4)
    ids = first_ids(pipeline, destinations)
    with attacked(pipeline, destinations, window) as made:
        epochs = iter(range(1, 1 << 24))

        def change() -> None:
            epoch = next(epochs)
            for number, id in enumerate(ids):
                made.begin(number, epoch)
                pipeline.adjacency(epoch_hop(number, epoch), id)
                made.settle(number, epoch)

        assert for_a_while(pipeline, change) > 10


# what is learned

LEARNED_IDS = 64  # in all, for CROWDED next hops


def gateway(number: int) -> str:
    return f"10.0.2.{100 + number}"


def neighbours(count: int, epoch: int) -> str:
    """Lines for ip that give every gateway the MAC of its number and an epoch."""
    macs = (epoch_hop(number, epoch).destination for number in range(count))
    return "\n".join(f"neigh replace {gateway(n)} lladdr {mac} dev out0 nud permanent" for n, mac in enumerate(macs))


@pytest.fixture
def learning(pipeline: Pipeline, monkeypatch):
    """Destinations of one bucket, each behind a gateway of its own, and so few learned ids that they must be reused."""
    monkeypatch.setattr(pipeline.datapath, "learned_base", LEARNED_IDS)
    monkeypatch.setattr(pipeline.datapath, "adjacency_limit", 2 * LEARNED_IDS)
    destinations = one_bucket(pipeline, 4)
    routes = "\n".join(f"route add {to} via {gateway(number)}" for number, to in enumerate(names(destinations)))
    pipeline.sh(f"ip -batch - <<E\n{neighbours(len(destinations), 0)}\n{routes}\nE")
    pipeline.learn()
    yield pipeline, destinations
    pipeline.sh("ip route flush via 10.0.2.0/24; ip neigh flush dev out0 to 10.0.2.96/27 nud all;"
                "ip neigh flush dev out0 to 10.0.2.128/25 nud all")  # fmt: skip


@pytest.mark.parametrize("window", [SHIPPED, *widened("GENERATION_THEN_TABLES", "TABLES_THEN_STORE")])
def test_neighbours_that_change_and_learned_ids_that_are_used_again(learning, window):
    pipeline, destinations = learning
    table, epochs, count = LearnedTable(pipeline.datapath), iter(range(1, 1 << 24)), len(destinations)
    with attacked(pipeline, destinations, window, egress_mac=OUT_MAC) as made:

        def change() -> None:
            epoch = next(epochs)
            for number in range(count):
                made.begin(number, epoch)
            pipeline.sh(f"ip -batch - <<E\n{neighbours(count, epoch)}\nE")
            pipeline.datapath.bump_generation()
            for number in range(count):
                made.settle(number, epoch)
            table.reclaim()

        changes = for_a_while(pipeline, change, 2 * SECONDS)
    assert changes > 10
    assert changes * count > 3 * LEARNED_IDS, "no id was used again"


@pytest.mark.parametrize("window", [SHIPPED, *widened("CLAIM_THEN_WRITE")])
def test_learned_ids_that_are_taken_back_and_handed_out_anew(learning, window):
    pipeline, destinations = learning
    table, datapath = LearnedTable(pipeline.datapath), pipeline.datapath

    def take_back() -> None:
        ids = table.ready()
        for id in ids:
            datapath.retire_adjacency(id)
        datapath.bump_generation()
        time.sleep(REST_S)
        datapath.free_adjacencies(ids)
        time.sleep(0.001)

    with attacked(pipeline, destinations, window, egress_mac=OUT_MAC):
        assert for_a_while(pipeline, take_back, 2 * SECONDS) > 10


@pytest.mark.parametrize("window", [SHIPPED, *widened("CACHE_THEN_BEHIND")])
def test_an_entry_that_is_put_while_packets_are_on_their_way_to_the_fib(learning, window):
    """The cache has said that no entry covers the destination; by the time that the FIB answers, one does."""
    pipeline, destinations = learning
    datapath, count = pipeline.datapath, len(destinations)
    to, first = names(destinations), int(datapath.ids.ADJACENCY_ID_FIRST)
    ids = {name: first + number for number, name in enumerate(to)}
    for number in range(count):
        pipeline.adjacency(Hop(epoch_hop(number, 1).destination, OUT_MAC), first + number)
    with attacked(pipeline, destinations, window, egress_mac=OUT_MAC) as made:

        def put_and_drop() -> None:
            pipeline.learn(False)
            for number in range(count):
                made.settle(number, 0)
                made.begin(number, 1)
            datapath.drop_entries("forward_exact4", to)
            datapath.bump_generation()
            time.sleep(0.005)  # the cache fills with what is to be asked of the FIB
            datapath.put_entries("forward_exact4", ids)
            datapath.bump_generation()
            pipeline.learn()
            for number in range(count):
                made.settle(number, 1)
            time.sleep(0.005)

        assert for_a_while(pipeline, put_and_drop, 2 * SECONDS) > 10


# the generation


@contextlib.contextmanager
def generation_at(pipeline: Pipeline, generation: int) -> Iterator[None]:
    """Begin with this generation; afterwards go on with the one there was."""
    word, before = pipeline.datapath.maps["state"].mmap()[0:1]["generation"], pipeline.datapath.generation
    atomic_store32(word, generation)
    try:
        yield
    finally:
        atomic_store32(word, before)
        pipeline.datapath.bump_generation()


@pytest.mark.parametrize("family", [4, 6])
def test_entries_that_move_while_the_generation_wraps(pipeline, family):
    destinations = one_bucket(pipeline, family)
    first_ids(pipeline, destinations)
    with generation_at(pipeline, GENERATIONS - 5):
        with attacked(pipeline, destinations) as made:
            movers = Movers(pipeline, destinations, made)
            for_a_while(pipeline, movers.move)
        assert 0 < pipeline.datapath.generation < 1000


def test_an_answer_of_this_number_a_whole_turn_ago_stays_dead(pipeline):
    """A turn of bumps would take an hour: those are made that do more than count, at each quarter and at the end."""
    old, new = Hop("02:00:00:00:0a:01"), Hop("02:00:00:00:0b:01")
    pipeline.forward("198.51.100.7", old)
    assert pipeline.run(ip4()).data == forwarded(ip4(), old)
    then = pipeline.datapath.generation
    word = pipeline.datapath.maps["state"].mmap()[0:1]["generation"]
    for landmark in (*range(GENERATION_SWEEP, GENERATIONS, GENERATION_SWEEP), GENERATIONS):
        atomic_store32(word, landmark - 1)
        pipeline.datapath.bump_generation()
    pipeline.forward("198.51.100.7", new)
    while pipeline.datapath.generation < then:
        pipeline.datapath.bump_generation()
    assert pipeline.datapath.generation == then
    assert pipeline.run(ip4()).data == forwarded(ip4(), new)


def test_no_bump_is_lost_or_taken_back_where_two_threads_bump(pipeline):
    datapath, before, seen = pipeline.datapath, pipeline.datapath.generation, []
    threads = [threading.Thread(target=lambda: [datapath.bump_generation() for _ in range(3000)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(datapath.generation)
    for thread in threads:
        thread.join()
    assert datapath.generation - before == 6000
    assert seen == sorted(seen)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_minute_of_everything_at_once(pipeline):
    """Both families, entries that move, leases that run out and come back, and a generation about to wrap."""
    crowds = {family: one_bucket(pipeline, family) for family in (4, 6)}
    first, rng = int(pipeline.datapath.ids.ADJACENCY_ID_FIRST), random.Random(4)
    with contextlib.ExitStack() as stack:
        stack.enter_context(generation_at(pipeline, GENERATIONS - 500))
        movers = []
        for place, destinations in enumerate(crowds.values()):
            base = first + place * POOL * CROWDED
            first_ids(pipeline, destinations, base)
            made = stack.enter_context(attacked(pipeline, destinations))
            movers.append(Movers(pipeline, destinations, made, base))

        def change() -> None:
            rng.choice(movers).move()
            if rng.random() < 0.01:
                pipeline.datapath.drop_lease()
            elif rng.random() < 0.05:
                pipeline.datapath.bump_generation()

        for_a_while(pipeline, change, 60)
        assert pipeline.datapath.generation < GENERATION_SWEEP, "it has not wrapped"
    assert min(mover.epoch for mover in movers) > 50
