"""The ring buffer: nothing lost, nothing twice, in order, over many turns of the ring."""

import asyncio
import select
import threading

import numpy as np
import pytest

from bpf.fixtures import compiled
from hopline.errors import KernelError
from hopline.kernel import BpfObject, RingBuffer

PASS, DROP = 2, 1


@pytest.fixture
def emitter():
    with BpfObject.open(compiled("pipe")) as kernel_object:
        kernel_object.only("emit")
        kernel_object.load()
        yield kernel_object


def discarded(number):
    return (number % 11 == 10) & (number % 7 != 6)


def test_records_come_as_they_were_written(emitter):
    program, ring = emitter.program("emit"), RingBuffer(emitter.map("events"))
    program.test_run(bytes(60), repeat=22)
    span = ring.drain()
    assert (ring.records, ring.discarded) == (20, 2)
    assert [len(record) for record in span][:8] == [32, 32, 32, 32, 32, 32, 8, 32]
    assert [int.from_bytes(record[:8], "little") for record in span] == [n for n in range(22) if n not in (10, 21)]
    events = span.records(emitter.layout.struct("event"))
    assert events["number"].tolist() == [n for n in range(22) if n not in (10, 21)]
    assert events["size"][6] == 0  # the short record is filled up with zeros
    assert events["data"][5].tolist() == [5] * 16
    assert len(ring.drain()) == 0
    ring.close()


def test_a_hundred_thousand_records_arrive_once_and_in_order_while_the_ring_wraps(emitter):
    program, ring = emitter.program("emit"), RingBuffer(emitter.map("events"))
    sent = emitter.map("sent")
    wanted, stop = 110_000, threading.Event()

    def produce():
        while int(sent.get(0)) < wanted:
            program.test_run(bytes(60), repeat=2000)
        stop.set()

    producer = threading.Thread(target=produce)
    producer.start()
    numbers = []
    event = emitter.layout.struct("event")
    while True:
        last = stop.is_set()
        select.select([ring], [], [], 0.01)
        span = ring.drain()
        numbers.append(span.records(event)["number"])
        if last and not len(span):
            break
    producer.join()
    got = np.concatenate(numbers)
    total = int(sent.get(0))
    every = np.arange(total)
    assert np.array_equal(got, every[~discarded(every)])
    assert ring.records == len(got)
    assert ring.discarded == discarded(every).sum()
    assert total * 32 > 20 * ring.size
    ring.close()


def test_a_full_ring_keeps_what_it_has_and_goes_on_after_a_drain(emitter):
    program, ring = emitter.program("emit"), RingBuffer(emitter.map("events"))
    assert program.test_run(bytes(60), repeat=5000).retval == DROP
    first = ring.drain()
    assert ring.size - 64 < int((first.lengths + 8).sum()) + ring.discarded * 40 <= ring.size
    assert program.test_run(bytes(60)).retval == PASS
    assert len(ring.drain()) + ring.discarded >= 1
    ring.close()


def test_a_span_stays_valid_after_the_ring_moved_on(emitter):
    program, ring = emitter.program("emit"), RingBuffer(emitter.map("events"))
    program.test_run(bytes(60))
    kept = ring.drain()[0]
    for _ in range(3):
        program.test_run(bytes(60), repeat=5000)
        ring.drain()
    ring.close()
    assert bytes(kept[:8]) == bytes(8)


def test_the_descriptor_wakes_an_event_loop(emitter):
    program, ring = emitter.program("emit"), RingBuffer(emitter.map("events"))
    assert select.select([ring], [], [], 0)[0] == []

    async def wait():
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(ring.fd, woken.set)
        program.test_run(bytes(60))
        await asyncio.wait_for(woken.wait(), 2)
        loop.remove_reader(ring.fd)

    asyncio.run(wait())
    assert len(ring.drain()) == 1
    assert select.select([ring], [], [], 0)[0] == []
    ring.close()


def test_a_closed_ring_and_a_map_that_is_none_are_refused(emitter):
    with pytest.raises(KernelError, match="it is no ring buffer"):
        RingBuffer(emitter.map("table"))
    ring = RingBuffer(emitter.map("events"))
    ring.close()
    ring.close()
    with pytest.raises(KernelError, match="it is closed"):
        ring.drain()
