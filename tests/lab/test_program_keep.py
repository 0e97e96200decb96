"""The keeper of a program with a time: what it holds, what it leaves alone, and what is on record of it."""

import fcntl
import os
import signal
import socket
import subprocess
import time

import pytest

from hopline.errors import KernelError
from hopline.host.program import keep, record
from hopline.kernel import netns
from lab.loading import LEFT, attached, left_of, loading, unloading
from lab.netlink_room import needs_root, room

pytestmark = needs_root


def within(seconds: float, true) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


def keeper_of(ns):
    return netns.run_in(ns, record.at, LEFT).keeper


def devices(ns) -> list[str]:
    return netns.run_in(ns, lambda: [name for _, name in socket.if_nameindex()])


def test_a_namespace_goes_before_the_time_of_its_program(ns, made):
    """Its devices go with it, and so does the other end of a pair, which is seen from elsewhere."""
    with room() as gone:
        subprocess.run(["ip", "-n", gone, "link", "add", LEFT, "type", "veth", "peer", "far", "netns", ns], check=True)
        loading(gone, made, program="counted", seconds=60)
        keeper = keeper_of(gone)
        place = netns.run_in(gone, record.path_of, LEFT)
    try:
        assert within(5, lambda: "far" not in devices(ns))
        assert keep.runs(keeper)
    finally:
        keep.end(keeper)
        place.unlink(missing_ok=True)
    assert not place.parent.exists()


def test_a_keeper_at_its_end_waits_for_a_load_that_is_under_way(ns, made):
    """It lets go in time, but the record, which may be another's by then, is not its until the lock is."""
    loading(ns, made, program="counted", seconds=0.5)
    keeper, kept = keeper_of(ns), netns.run_in(ns, record.at, LEFT)
    place = netns.run_in(ns, record.path_of, LEFT)
    lock = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert within(3, lambda: attached(ns) is None)
        time.sleep(0.3)
        assert place.exists()
        assert keep.runs(keeper)
        netns.run_in(ns, record.write, record.Record(**{**as_dict(kept), "keeper": None}))
    finally:
        os.close(lock)
    assert within(3, lambda: not keep.runs(keeper))
    assert place.exists(), "it is another's"
    netns.run_in(ns, record.forget, LEFT)
    place.parent.rmdir()


def as_dict(kept) -> dict:
    return {name: getattr(kept, name) for name in kept.__struct_fields__}


def test_a_keeper_that_is_ended_by_hand_leaves_nothing(ns, made):
    loading(ns, made, program="counted", seconds=60)
    keeper = keeper_of(ns)
    os.kill(keeper.pid, signal.SIGTERM)
    assert within(3, lambda: not keep.runs(keeper))
    assert attached(ns) is None
    assert left_of(ns) == []


def test_the_keeper_that_an_undo_starts_is_on_record(ns, made, monkeypatch):
    first = loading(ns, made, program="counted", seconds=60)
    before = keeper_of(ns)
    write = record.write
    came = []

    def once(kept):
        came.append(kept)
        if len(came) == 1:
            raise KernelError("write the record", 28)
        write(kept)

    monkeypatch.setattr(record, "write", once)
    with pytest.raises(KernelError, match="write the record"):
        loading(ns, made, program="drop_everything_there", mode="generic", replace=True)
    assert attached(ns).program_id == first.id
    after = keeper_of(ns)
    assert not keep.runs(before)
    assert keep.runs(after)
    assert unloading(ns)[0].id == first.id
    assert not keep.runs(after)
