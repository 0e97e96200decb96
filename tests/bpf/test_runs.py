"""Many runs in one call: the same records as one by one, zeros for what is missing, and errors that name the frame."""

import pytest

from bpf.frames import ip4, ip6
from hopline.errors import KernelError
from hopline.kernel.runs import run_each


@pytest.fixture
def each(world):
    def run(frames, lengths=None, ifindex=None):
        with world.inside():
            return run_each(
                world.tracer,
                world.ring,
                frames,
                lengths or [len(frame) for frame in frames],
                ifindex=ifindex or world.in_index,
                dtype=world.datapath.layout.struct("trace_event"),
            )

    return run


def without_time(event):
    return [(name, event[name].tobytes()) for name in event.dtype.names if name != "time"]


def test_the_records_are_those_of_single_runs_in_the_order_of_the_frames(world, each):
    frames = [ip4(f"203.0.113.{n % 200}", payload=bytes(n)) for n in range(500)] + [ip6(), bytes(14), ip4(ttl=1)] * 3
    records = each(frames)
    assert records["packet"]["length"].tolist() == [len(frame) for frame in frames]
    for place in (0, 255, 499, 500, 501, 502, 508):
        assert without_time(records[place]) == without_time(world.trace(frames[place])[1])


def test_more_than_the_ring_holds(each, world):
    held = world.ring.size // world.datapath.layout.struct("trace_event").itemsize
    records = each([ip4()] * (held + 100))
    assert set(records["verdict"].tolist()) == {int(world.datapath.verdicts.FORWARDED)}


def test_what_is_missing_of_a_frame_is_zeros(each, world):
    whole = ip4("203.0.113.9", payload=bytes(1000))
    for cut in (42, 700):
        [record] = each([whole[:cut]], [len(whole)])
        assert without_time(record)[2:] == without_time(world.trace(whole)[1])[2:]


def test_a_record_that_was_left_in_the_ring_is_nobodys(each, world):
    with world.inside():
        world.quick(ip4())
        world.tracer.test_run(ip4(ttl=1), ifindex=world.in_index)
    [record] = each([ip6()])
    assert int(record["packet"]["family"]) == 6


def test_no_frames_are_no_runs(each):
    assert len(each([])) == 0


def test_the_frame_that_could_not_be_run_is_named(each):
    with pytest.raises(KernelError, match="on frame 2"):
        each([ip4(), ip4(), bytes(5), ip4()])
    with pytest.raises(KernelError, match="on frame 0"):
        each([ip4()], ifindex=99999)
