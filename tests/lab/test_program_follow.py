"""What is on record and pinned follows its device when that is renamed, and ends with its namespace."""

import os
import signal
import subprocess
import time

import msgspec
import pytest

from hopline.errors import InvalidInput
from hopline.host.program import keep, load, record, routes
from hopline.host.program.record import Record
from hopline.kernel import bpffs, netns
from hopline.kernel.map import Map
from lab.loading import LEFT, attached, counts, left_of, loading, unloading
from lab.netlink_room import needs_root, room, shell

pytestmark = needs_root


def renamed(ns: str, *pairs: tuple[str, str]) -> None:
    for old, new in pairs:
        # Linux before 6.2 renames only what is down
        shell(ns, f"ip link set {old} down; ip link set {old} name {new}; ip link set {new} up")


def pins_of(ns: str, device: str) -> set[str]:
    place = bpffs.root() / f"hopline/.programs/{netns.inode(ns)}/{device}"
    return {pin.name for pin in place.iterdir()} if netns.run_in(ns, bpffs.is_there, place) else set()


def test_a_renamed_device_is_unloaded_by_its_name_of_now(ns, made):
    loaded = loading(ns, made, program="counted", pin=True)
    renamed(ns, (LEFT, "other.1"))
    (done,) = unloading(ns, "other.1")
    assert (done.id, done.attached) == (loaded.id, True)
    assert attached(ns, "other.1") is None
    assert left_of(ns) == []


def test_a_new_device_of_its_old_name_takes_nothing_from_it(ns, made):
    first = loading(ns, made, program="counted", pin=True)
    renamed(ns, (LEFT, "other"))
    shell(ns, f"ip link add {LEFT} type veth peer name more")
    second = loading(ns, made, program="drop_everything_there", pin=True)
    assert pins_of(ns, "other") == {"counted", "verdicts"}
    assert pins_of(ns, LEFT) == {"drop_everything_there", "verdicts"}
    assert [one.id for one in unloading(ns, "other")] == [first.id]
    assert [one.id for one in unloading(ns)] == [second.id]
    assert left_of(ns) == []


def test_two_devices_that_take_each_others_names_keep_what_is_theirs(ns, made):
    first = loading(ns, made, program="counted", pin=True)
    second = loading(ns, made, "right", program="drop_everything_there")
    renamed(ns, (LEFT, "between"), ("right", LEFT), ("between", "right"))
    assert [one.id for one in unloading(ns)] == [second.id]
    assert pins_of(ns, "right") == {"counted", "verdicts"}
    kept = netns.run_in(ns, record.at, "right")
    assert {path.rpartition("/")[2] for path in kept.pins} == {"counted", "verdicts"}
    assert all("/right/" in path for path in kept.pins)
    assert [one.id for one in unloading(ns, "right")] == [first.id]
    assert left_of(ns) == []


def test_a_namespace_has_nothing_of_one_that_has_gone(ns, made):
    with room(f"ip link add {LEFT} type veth peer name right") as old:
        done = loading(old, made, program="counted", pin=True)
        with Map.from_pin(done.pins[1]) as verdicts:
            verdicts.set(1, (7, 700))
        route = Record(
            place="route 10.9.0.0/24 xmit 7", hook="xmit", ifindex=0, program="x", program_id=7, loaded_ns=1, tag=""
        )
        netns.run_in(old, record.write, route)
        left = netns.inode(old)
    # as if the kernel had given this namespace the inode of that one, which it does as soon as it is free
    for place in (bpffs.root() / "hopline/.programs", record.DIRECTORY):
        (place / str(left)).rename(place / str(netns.inode(ns)))
    assert len(left_of(ns)) == 5
    fresh = loading(ns, made, program="counted", pin=True, reuse_maps=True)
    assert [one.reused for one in fresh.maps] == [False]
    assert counts(fresh) == {}


def test_a_load_on_a_device_does_what_a_killed_keeper_of_a_route_left(ns, made):
    shell(ns, f"ip addr add 10.7.0.1/24 dev {LEFT}; ip route add 10.8.0.0/16 dev {LEFT}")
    with netns.inside(ns):
        routes.load(made, routes.request("10.8.0.0/16", "xmit"), program="see", seconds=60)
        (kept,) = record.records()
        os.kill(kept.keeper.pid, signal.SIGKILL)
        deadline = time.monotonic() + 2
        while keep.runs(kept.keeper) and time.monotonic() < deadline:
            time.sleep(0.01)
        load.load(LEFT, made, program="counted")
        assert routes.attached() == []
        assert [found.hook for found in record.records()] == ["xdp"]


@pytest.mark.parametrize("file", ["/dev/zero", "fifo"])
def test_what_never_ends_is_not_read(ns, tmp_path, file):
    place = tmp_path / "fifo"
    subprocess.run(["mkfifo", place], check=True)
    with pytest.raises(InvalidInput, match="no regular file"):
        loading(ns, place if file == "fifo" else file)
    assert left_of(ns) == []


def test_a_program_of_the_same_id_that_was_loaded_at_another_time_is_not_ours(ns, made):
    """Ids are given again after a while."""
    done = loading(ns, made, program="counted")
    kept = netns.run_in(ns, record.at, LEFT)
    netns.run_in(ns, record.write, msgspec.structs.replace(kept, loaded_ns=kept.loaded_ns - 1))
    assert [one.attached for one in unloading(ns)] == [False], "what is left of ours goes"
    assert attached(ns).program_id == done.id, "and the other's program stays"
    unloading(ns, id=done.id)
