"""Programs on routes where something went: a next hop's device, a keeper; and routes of several next hops."""

import os
import signal
import time

import pytest

from hopline.errors import Refused
from hopline.host.program import identity, keep, record, routes
from hopline.host.program.show import show
from lab.netlink_room import needs_root, shell
from lab.route_room import file_fixture, here, hopline_fixture, load, ns_fixture, shown, sink_fixture, unload  # noqa: F401

pytestmark = needs_root

SECOND = (
    "ip link add v2 type veth peer name v3; ip link set v3 up; ip link set v2 up;"
    "ip address add 10.2.0.1/24 dev v2; ip address add fd00:2::1/64 dev v2 nodad;"
)
SEVERAL = {
    "10.9.0.0/24": ("via 10.1.0.2 dev v0", "via 10.2.0.2 dev v2"),
    "fd00:9::/64": ("via fd00:1::2 dev v0", "via fd00:2::2 dev v2"),
}


def several(ns, to) -> None:
    first, second = SEVERAL[to]
    shell(ns, f"{SECOND} ip route add {to} nexthop {first} nexthop {second}")


def down(ns, to) -> None:
    shell(ns, "ip link set v2 down")
    assert " dead" in shown(ns, to)


def test_all_next_hops_are_told_and_each_of_their_devices_shows_the_program(ns, file):
    several(ns, "10.9.0.0/24")
    done = load(ns, file, "10.9.0.0/24", via="10.2.0.2")
    assert identity.sentence(done).startswith(
        f"route 10.9.0.0/24 via 10.1.0.2 dev v0 and via 10.2.0.2 dev v2: on_xmit (id {done.id}) attached at xmit;"
    )
    assert [[row.route for row in here(ns, show, device)] for device in ("v0", "v2", "v3")] == [
        ["10.9.0.0/24"], ["10.9.0.0/24"], []
    ]  # fmt: skip


@pytest.mark.parametrize("to", SEVERAL)
def test_a_program_comes_off_and_is_replaced_where_a_next_hop_is_down(ns, file, to):
    several(ns, to)
    first = load(ns, file, to)
    down(ns, to)
    with pytest.raises(Refused, match=f"of which {SEVERAL[to][1]} is down: bring it up first"):
        load(ns, file, to, "out")
    assert f"hopline/on_xmit/{first.id}/" in shown(ns, to)
    (taken,) = unload(ns, to)
    assert "bpf" not in shown(ns, to)
    assert SEVERAL[to][0] in shown(ns, to)
    without = f"without {SEVERAL[to][1]}, which is down: add it again when it is up"
    assert identity.sentence(taken).endswith(f"the route stays {without}")


def test_a_program_is_replaced_where_a_next_hop_is_down(ns, file):
    several(ns, "10.9.0.0/24")
    load(ns, file, "10.9.0.0/24")
    down(ns, "10.9.0.0/24")
    second = load(ns, file, "10.9.0.0/24", replace=True)
    assert [str(hop) for hop in second.next_hops] == ["via 10.1.0.2 dev v0"]
    assert second.notes == (
        "route 10.9.0.0/24 is now without via 10.2.0.2 dev v2, which is down: add it again when it is up",
    )
    unload(ns, "10.9.0.0/24")
    assert "bpf" not in shown(ns)


def test_a_keeper_waits_for_a_next_hop_that_is_down(ns, file, hopline, monkeypatch):
    several(ns, "10.9.0.0/24")
    plain = shown(ns, "10.9.0.0/24")
    load(ns, file, "10.9.0.0/24", seconds=0.3)
    down(ns, "10.9.0.0/24")
    monkeypatch.setattr("hopline.host.program.timed.PATIENCE_S", 0.2)
    wait_until(lambda: "hopline, its time is over: unload it" in hopline("show")[1])
    assert "bpf" in shown(ns)
    shell(ns, "ip link set v2 up")
    wait_until(lambda: "bpf" not in shown(ns))
    assert shown(ns, "10.9.0.0/24") == plain


def wait_until(true, seconds=6.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed(ns, file, to, **more) -> None:
    load(ns, file, to, seconds=60.0, **more)
    (kept,) = here(ns, record.records)
    os.kill(kept.keeper.pid, signal.SIGKILL)
    wait_until(lambda: not keep.runs(kept.keeper))


def test_what_a_killed_keeper_left_is_told_and_the_next_load_or_unload_takes_it_off(ns, file, hopline):
    killed(ns, file, "10.9.0.0/24", dev="v0")
    code, out, _ = hopline("show", "v0")
    assert (code, "hopline, its keeper died: unload it" in out, "until" in out) == (0, True, False)
    load(ns, file, "fd00:9::/64", dev="v0")
    assert "10.9.0.0/24" not in shown(ns)
    assert here(ns, record.records) == []
    killed(ns, file, "10.9.0.0/24", dev="v0")
    unload(ns, "fd00:9::/64")
    assert "bpf" not in shown(ns)
    killed(ns, file, "10.9.0.0/24", dev="v0")
    assert [one.stays for one in unload(ns, "10.9.0.0/24")] == [False]
    assert here(ns, record.records) == []


def test_what_stays_is_not_replaced_for_a_time(ns, file):
    first = load(ns, file, "10.9.0.0/24", dev="v0")
    with pytest.raises(
        Refused, match=rf"on_xmit \(id {first.id}\) is there, and what replaces it for a time could not"
    ):
        load(ns, file, "10.9.0.0/24", seconds=60.0, replace=True)
    assert [one.id for one in here(ns, routes.attached)] == [first.id]
    assert here(ns, record.records) == []


def test_the_default_route_is_unloaded_by_the_word_it_was_loaded_by(ns, file):
    load(ns, file, "default", via="fd00:1::2")
    assert [one.route for one in unload(ns, "default")] == ["::/0"]
    load(ns, file, "default", via="fd00:1::2")
    load(ns, file, "default", via="10.1.0.2")
    with pytest.raises(Refused, match=r"unload from route default: programs are on both: say 0.0.0.0/0 or ::/0"):
        unload(ns, "default")
    unload(ns, "::/0")
    assert [one.route for one in unload(ns, "default")] == ["0.0.0.0/0"]
