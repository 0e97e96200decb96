"""Who takes whose place on a device: modes, times that end, links and programs of others, and what is put back."""

import errno
import os
import signal
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from clang import compile_bpf
from hopline.errors import KernelError, NotFound, Refused
from hopline.host.program import keep, load, pins, record
from hopline.host.program.seat import Seat
from hopline.host.program.show import show
from hopline.kernel import BpfObject, XdpLink, attach, bpffs, netns
from hopline.kernel.program import XDP
from lab.loading import LEFT, SOURCE, attached, command, left_of, loading, refusal, unloading
from lab.netlink_room import needs_root, shell

pytestmark = needs_root


@pytest.fixture(scope="module")
def unpinned(tmp_path_factory):
    """The same where no map asks to be pinned by its name: iproute2 would do so."""
    text = SOURCE.replace("__uint(pinning, LIBBPF_PIN_BY_NAME);", "")
    return str(compile_bpf(tmp_path_factory.mktemp("unpinned"), text))


def test_another_mode_is_taken_only_if_asked_and_the_gap_is_told(ns, made):
    assert loading(ns, made, program="counted", mode="generic").mode == "generic"
    kept = loading(ns, made, program="counted", replace=True)
    assert (kept.mode, kept.notes) == ("generic", []), "a replacement keeps the mode"
    moved = loading(ns, made, program="counted", replace=True, mode="native")
    assert (moved.mode, attached(ns).mode) == ("native", "native")
    assert moved.notes == ["for a moment no program was attached: the program before ran in generic mode"]
    assert unloading(ns)[0].mode == "native"
    lo = loading(ns, made, "lo", program="counted")
    assert lo.mode == "generic", "the driver of lo has none"
    with pytest.raises(KernelError, match="operation not supported"):
        loading(ns, made, "lo", program="counted", replace=True, mode="native")
    assert attached(ns, "lo").program_id == lo.id, "it is put back"
    assert unloading(ns, "lo")[0].id == lo.id, "and still ours"


def gone(ns, within: float) -> bool:
    deadline = time.monotonic() + within
    while attached(ns) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return attached(ns) is None


def test_a_program_with_a_time_goes_by_itself(ns, made):
    start = time.time()
    code, out, _ = command(ns, "load", LEFT, made, "--program", "counted", "--for", "1.5s")
    assert code == 0
    kept = netns.run_in(ns, record.read, LEFT)
    assert out.endswith(f" attached in native mode, until {time.strftime('%H:%M:%S', time.localtime(kept.until))}\n")
    assert start + 1 < kept.until < start + 5
    assert keep.runs(kept.keeper)
    assert attached(ns).link_id is not None
    assert gone(ns, 6)
    assert time.time() >= kept.until - 0.1
    deadline = time.monotonic() + 3
    while keep.runs(kept.keeper) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left_of(ns) == []


def test_a_keeper_that_is_killed_lets_go_and_unload_ends_one(ns, made):
    loading(ns, made, program="counted", seconds=60)
    keeper = netns.run_in(ns, record.read, LEFT).keeper
    os.kill(keeper.pid, signal.SIGKILL)
    assert gone(ns, 3), "the kernel detaches what nobody holds"
    loading(ns, made, program="counted", seconds=60)
    keeper = netns.run_in(ns, record.read, LEFT).keeper
    unloading(ns)
    assert attached(ns) is None
    assert not keep.runs(keeper)


def test_the_next_takes_the_place_of_one_with_a_time(ns, made, capsys):
    """With a time of its own in one step, for good with a moment between; never a time in place of what is for good."""
    first = loading(ns, made, program="counted", seconds=60)
    before = netns.run_in(ns, record.read, LEFT).keeper
    link = attached(ns).link_id
    second = loading(ns, made, program="drop_everything_there", seconds=60, replace=True)
    assert (attached(ns).link_id, attached(ns).program_id) == (link, second.id)
    assert second.replaced.id == first.id
    assert not keep.runs(before)
    after = netns.run_in(ns, record.read, LEFT).keeper
    third = loading(ns, made, program="counted", replace=True)
    assert third.notes == ["for a moment no program was attached: the program before was held by a link"]
    assert (attached(ns).link_id, attached(ns).program_id) == (None, third.id)
    assert not keep.runs(after)
    said = refusal(ns, capsys, "load", LEFT, made, "--program", "counted", "--for", "9", "--replace")
    assert said.endswith("and what replaces it for a time could not give it back: unload it first")


@contextmanager
def held_by_another(ns, made):
    """A program of another's, on a link of another's."""
    with BpfObject.open(made) as found:
        found.only("counted")
        found.set_type("counted", XDP)
        found.load()
        program = found.program("counted")
    with netns.run_in(ns, lambda: XdpLink.attach(program, socket.if_nametoindex(LEFT))) as link:
        yield program, link


def test_a_link_of_anothers_is_updated_and_stays_its_owners(ns, made, capsys):
    with held_by_another(ns, made) as (theirs, link):
        known = f"id {theirs.id}, counted"
        said = refusal(ns, capsys, "load", LEFT, made, "--program", "counted")
        assert said == f"load on {LEFT}: another program ({known}) is attached: unload it or use --replace"
        said = refusal(ns, capsys, "load", LEFT, made, "--program", "counted", "--mode", "generic", "--replace")
        assert "a link that is not hopline's holds it in native mode" in said
        said = refusal(ns, capsys, "unload", LEFT)
        assert said.endswith(
            f"hopline did not load what is attached ({known}): use --program counted, --id {theirs.id} or --all"
        )
        assert f"program id 1 is not there, but {known}: name that" in refusal(ns, capsys, "unload", LEFT, "--id", "1")
        done = loading(ns, made, program="drop_everything_there", replace=True)
        assert link.program_id == done.id
        assert done.notes == [
            f"it is held by link id {link.id}, which is not hopline's: it goes when the link's owner lets go of it"
        ]
        assert unloading(ns)[0].id == done.id
        assert (link.ifindex, attached(ns)) == (0, None)
    with held_by_another(ns, made) as (theirs, link):
        assert unloading(ns, id=theirs.id)[0].id == theirs.id
        assert attached(ns) is None


def test_a_name_is_meant_whole(ns, made, capsys):
    """The kernel has 15 characters of it: enough to name the program, and another that begins so is not meant.

    What we loaded is called by its whole name, also where it is in the way.
    """
    for name in ("drop_everything_there", "drop_everything"):
        done = loading(ns, made, program="drop_everything_there")
        said = refusal(ns, capsys, "unload", LEFT, "--program", "drop_everything_here")
        known = f"id {done.id}, drop_everything_there"
        assert said == f"unload from {LEFT}: drop_everything_here is not there, but {known}: name that"
        assert f"another program ({known}) is attached" in refusal(ns, capsys, "load", LEFT, made)
        assert unloading(ns, program=name)[0].id == done.id


def test_an_instance_of_hopline_is_never_moved(ns, made, capsys):
    with held_by_another(ns, made) as (theirs, link):
        instance = f"t{os.getpid()}-instance"
        directory = bpffs.instance_dir(instance)
        try:
            link.pin(directory / "link_9")
            undo = f"`hopline interface del {LEFT} --instance {instance}` first"
            for words in (
                ("load", LEFT, made, "--program", "counted", "--replace"),
                ("unload", LEFT, "--all"),
            ):
                said = refusal(ns, capsys, *words)
                assert said.endswith(f"instance {instance} serves it (program id {theirs.id}): {undo}")
            assert [row.instance for row in netns.run_in(ns, show, LEFT)] == [instance]
        finally:
            link.unpin()
            directory.rmdir()


def test_what_others_put_in_our_place_is_theirs(ns, made, unpinned, capsys):
    ours = loading(ns, made, program="counted", pin=True)
    shell(ns, f"ip link set dev {LEFT} xdp off; ip -force link set dev {LEFT} xdpgeneric obj {unpinned} sec xdp_drop")
    theirs = attached(ns)
    assert theirs.program_id != ours.id
    code, out, err = command(ns, "unload", LEFT)
    known = f"id {theirs.program_id}, drop_everything_there"
    assert (code, err) == (0, f"hopline: warning: another's program ({known}) is attached to {LEFT} and stays\n")
    assert out == f"{LEFT}: counted (id {ours.id}) was not attached any more: what was left of it is removed\n"
    assert attached(ns).program_id == theirs.program_id
    assert left_of(ns) == []
    assert refusal(ns, capsys, "unload", LEFT).startswith(f"unload from {LEFT}: hopline did not load what is attached")
    assert unloading(ns, program="drop_everything_there") == [
        load.Unloaded(LEFT, "drop_everything_there", theirs.program_id, "generic", True)
    ]


def test_what_is_left_of_one_program_does_not_go_by_anothers_name(ns, made, capsys):
    done = loading(ns, made, program="counted", pin=True)
    shell(ns, f"ip link set dev {LEFT} xdp off")
    left = f"what is left of counted (id {done.id}) goes without a name"
    for words, what in ((("--program", "nope"), "nope"), (("--id", str(done.id + 1)), f"program id {done.id + 1}")):
        said = refusal(ns, capsys, "unload", LEFT, *words)
        assert said == f"unload from {LEFT}: {what} is not attached: {left}"
    assert unloading(ns, program="counted", id=done.id) == [load.Unloaded(LEFT, "counted", done.id, "native", False)]
    assert left_of(ns) == []


def test_a_load_without_pins_tells_that_those_before_are_gone(ns, made):
    loading(ns, made, program="counted", pin=True)
    done = loading(ns, made, program="counted", replace=True)
    assert done.notes == ["the pins of the program before were removed: load with --pin to have new ones"]
    assert loading(ns, made, program="counted", replace=True).notes == []


def test_of_several_that_go_those_before_a_refusal_leave_nothing(ns, made, monkeypatch):
    """A device that runs a program itself may have another beside it."""
    done = loading(ns, made, program="counted", pin=True)
    vacate = Seat.vacate
    came = []

    def once(self, *named):
        came.append(self)
        if len(came) > 1:
            raise Refused("the second stays")
        vacate(self, *named)
        attach.attach(self.program, self.ifindex)

    monkeypatch.setattr(Seat, "vacate", once)
    with pytest.raises(Refused, match="the second stays"):
        unloading(ns, everything=True)
    assert left_of(ns) == []
    monkeypatch.undo()
    assert unloading(ns, everything=True)[0].id == done.id


def test_pins_that_cannot_be_put_in_place_leave_those_before(ns, made, monkeypatch):
    loading(ns, made, program="counted", pin=True)
    before = left_of(ns)
    rename = Path.rename

    def fail(self, target):
        if "before" not in str(target) and "before" not in str(self):
            raise OSError(errno.ENOSPC, "no room")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KernelError, match="no space left on device"):
        loading(ns, made, program="drop_everything_there", pin=True, replace=True)
    assert sorted(left_of(ns)) == sorted(before)


def test_what_is_left_of_ours_is_removed(ns, made):
    """Taken off by another; or the device has gone, or has another name."""
    done = loading(ns, made, program="counted", pin=True)
    shell(ns, f"ip link set dev {LEFT} xdp off")
    assert unloading(ns) == [load.Unloaded(LEFT, "counted", done.id, "native", False)]
    with pytest.raises(NotFound, match="no xdp program is attached"):
        unloading(ns)
    loading(ns, made, program="counted", pin=True)
    shell(ns, f"ip link set {LEFT} down; ip link set {LEFT} name lan0; ip link set lan0 up")
    assert unloading(ns, "lan0")[0].attached
    assert left_of(ns) == []
    loading(ns, made, "lan0", program="counted", pin=True)
    shell(ns, "ip link del lan0")
    assert not unloading(ns, "lan0")[0].attached
    assert left_of(ns) == []


def test_a_keeper_ends_with_the_device(ns, made):
    loading(ns, made, program="counted", seconds=60)
    keeper = netns.run_in(ns, record.read, LEFT).keeper
    shell(ns, f"ip link del {LEFT}")
    assert keep.runs(keeper)
    assert not unloading(ns)[0].attached
    assert not keep.runs(keeper)


def test_a_load_that_fails_late_is_undone(ns, made, monkeypatch):
    """The pins cannot be put in place: what was there before is there again, and its record and pins with it."""
    first = loading(ns, made, program="counted", pin=True)
    before = left_of(ns)

    def fail(self):
        raise KernelError("pin to there", 28)

    monkeypatch.setattr(pins.Staged, "settle", fail)
    with pytest.raises(KernelError, match="pin to there"):
        loading(ns, made, program="drop_everything_there", pin=True, replace=True)
    assert attached(ns).program_id == first.id
    assert left_of(ns) == before
    assert netns.run_in(ns, record.read, LEFT).program_id == first.id
    unloading(ns)
    with pytest.raises(KernelError, match="pin to there"):
        loading(ns, made, program="counted", pin=True)
    assert attached(ns) is None
    assert left_of(ns) == []


def test_clear_takes_all_of_ours_and_nothing_else(ns, made, unpinned):
    shell(ns, "ip link add more type veth peer name rest")
    loading(ns, made, program="counted", pin=True)
    loading(ns, made, "lo", program="counted", seconds=60)
    keeper = netns.run_in(ns, record.read, "lo").keeper
    shell(ns, f"ip link set dev more xdpgeneric obj {unpinned} sec xdp_drop")
    netns.run_in(ns, load.clear)
    assert (attached(ns), attached(ns, "lo")) == (None, None)
    assert attached(ns, "more").mode == "generic"
    assert not keep.runs(keeper)
    assert left_of(ns) == []
