"""Interfaces: renamed, their program taken away, their intent not written, and all else changing at the same time."""

import itertools
import threading
import time

import pytest

import hopline
from hopline.errors import HoplineError
from hopline.lab.shell import ip_batch
from lab.net import AUTO, missing_tools, sh
from lab.node import assert_refused, compile_stranger, own_links, xdp_id
from lab.node import hopline as run_hopline
from lab.traffic import (
    assert_becomes,
    at_server,
    attach,
    enter_fixed,
    forwarded,
    only_xdp_forwards,
    state_of,
    wait_for,
    without_disk,
)

needs_bpftool = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")
needs_clang = pytest.mark.skipif(bool(missing_tools("clang")), reason="needs clang")


@pytest.fixture
def serving(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "right")
    return one


def rename(net, old: str, new: str) -> None:
    # Linux before 6.2 renames only what is down
    for line in (f"set {old} down", f"set {old} name {new}", f"set {new} up"):
        sh(net.ns, f"ip link {line}")


def test_a_renamed_interface_is_let_go_and_one_that_gets_its_name_is_attached(wide, serving):
    flow = enter_fixed(serving, wide)
    only_xdp_forwards(wide)
    rename(wide, "left", "lefty")
    assert wait_for(lambda: not state_of(serving, "left").attached)
    assert wait_for(lambda: xdp_id(wide.ns, "lefty") == 0), "a program is left on a device that nobody named"
    assert "does not exist" in state_of(serving, "left").problem
    rename(wide, "lefty", "left")
    assert wait_for(lambda: state_of(serving, "left").attached)
    assert state_of(serving, "left").program_id == xdp_id(wide.ns, "left")
    assert_becomes(wide, {flow: at_server(wide)})


def test_a_renamed_interface_can_be_deleted_and_added_by_its_new_name(wide, serving):
    flow = enter_fixed(serving, wide)
    only_xdp_forwards(wide)
    rename(wide, "left", "lefty")
    assert wait_for(lambda: xdp_id(wide.ns, "lefty") == 0)
    hopline.connect(serving.instance).interface.delete("left")
    attach(serving, "lefty")
    assert_becomes(wide, {flow: at_server(wide)})
    serving.restart()
    shown = hopline.connect(serving.instance).interface.show()
    assert [(state.name, state.attached) for state in shown] == [("lefty", True), ("right", True)]
    assert_becomes(wide, {flow: at_server(wide)})


@needs_bpftool
def test_a_link_that_somebody_detached_is_attached_again(wide, serving):
    flow = enter_fixed(serving, wide)
    only_xdp_forwards(wide)
    before = xdp_id(wide.ns, "left")
    sh(None, ["bpftool", "link", "detach", "pinned", str(serving.pins / f"link_{wide.left.index}")])
    assert wait_for(lambda: xdp_id(wide.ns, "left") not in (0, before)), "nothing is attached"
    assert wait_for(lambda: state_of(serving, "left").attached)
    state = state_of(serving, "left")
    assert (state.program_id, state.problem) == (xdp_id(wide.ns, "left"), None)
    assert len(own_links(serving)) == 2
    assert_becomes(wide, {flow: at_server(wide)})


def test_an_interface_that_another_instance_took_is_shown_so_and_is_back_when_that_lets_go(wide, serving, daemon):
    flow = enter_fixed(serving, wide)
    only_xdp_forwards(wide)
    second = daemon(wide.ns)
    hopline.connect(second.instance).interface.add("left", replace=True)
    taken = xdp_id(wide.ns, "left")
    assert wait_for(lambda: not state_of(serving, "left").attached), "shown as attached, and is not"
    assert wait_for(lambda: second.instance in (state_of(serving, "left").problem or "")), state_of(serving, "left")
    assert xdp_id(wide.ns, "left") == taken == state_of(second, "left").program_id, "the two take it from each other"
    assert len(list(serving.pins.glob("link_*"))) == 1
    hopline.connect(second.instance).interface.delete("left")
    assert wait_for(lambda: state_of(serving, "left").attached)
    assert state_of(serving, "left").problem is None
    assert_becomes(wide, {flow: at_server(wide)})


@needs_clang
def test_where_the_store_cannot_be_written_the_other_program_stays(wide, daemon, tmp_path):
    one = daemon(wide.ns)
    sh(wide.ns, f"ip link set dev left xdpdrv obj {compile_stranger(tmp_path)} sec xdp")
    stranger = xdp_id(wide.ns, "left")
    with without_disk(one):
        refused = run_hopline(wide.ns, "interface", "add", "left", "--replace", "--instance", one.instance)
        assert_refused(refused, 1, "write store", "nothing was changed")
        assert xdp_id(wide.ns, "left") == stranger
        assert hopline.connect(one.instance).interface.show() == []
        assert list(one.pins.glob("link_*")) == []
    # and the other way round: where the program cannot be attached the store does not say so
    with pytest.raises(HoplineError, match=f"id {stranger}, stranger"):
        attach(one, "left")
    one.restart()
    assert hopline.connect(one.instance).interface.show() == []
    assert xdp_id(wide.ns, "left") == stranger
    hopline.connect(one.instance).interface.add("left", replace=True)
    assert state_of(one, "left").program_id == xdp_id(wide.ns, "left") != stranger


def test_where_the_store_cannot_be_written_an_interface_stays_as_it_is(wide, serving):
    flow = enter_fixed(serving, wide)
    only_xdp_forwards(wide)
    before = state_of(serving, "left")
    there = hopline.connect(serving.instance).interface
    with without_disk(serving):
        for change in (
            lambda: there.set("left", mode="generic"),
            lambda: there.set("left", bypass_policy=True),
            lambda: there.delete("left"),
            lambda: there.add("third"),
        ):
            with pytest.raises(HoplineError, match=r"write store .*nothing was changed"):
                change()
        after = state_of(serving, "left")
        assert (after.mode, after.wanted_mode, after.bypass_policy) == (AUTO, "auto", False)
        assert after.program_id == before.program_id == xdp_id(wide.ns, "left")
        assert [state.name for state in there.show()] == ["left", "right"]
        assert xdp_id(wide.ns, "third") == 0
        assert_becomes(wide, {flow: at_server(wide)})
    serving.restart()
    assert state_of(serving, "left").program_id == before.program_id
    count = forwarded(serving, "left")
    there.set("left", mode="generic")
    assert state_of(serving, "left").mode == "generic"
    assert_becomes(wide, {flow: at_server(wide)})
    assert forwarded(serving, "left") > count


def test_an_interface_that_changes_while_it_is_added_stays_attached(wide, daemon):
    """The daemon hears of the device before it has done all that adding takes."""
    one = daemon(wide.ns)
    there = hopline.connect(one.instance).interface
    over = threading.Event()

    def change() -> None:
        for i in itertools.count():
            if over.is_set():
                return
            ip_batch(wide.ns, [f"link set third mtu {1400 + n % 99 + i % 2}" for n in range(50)])

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for turn in range(12):
            there.add("third")
            time.sleep(0.03)
            state = state_of(one, "third")
            assert (state.attached, state.program_id) == (True, xdp_id(wide.ns, "third")), f"turn {turn}: {state}"
            there.delete("third")
    finally:
        over.set()
        changing.join()


def test_policy_addresses_and_devices_change_while_interfaces_come_and_go(wide, daemon):
    """What follows events goes over interfaces while a change attaches and detaches them in a thread of its own."""
    node = daemon(wide.ns)
    client = hopline.connect(node.instance)
    names = [f"v{n}" for n in range(6)]
    for name in names:
        sh(wide.ns, f"ip link add {name} type veth peer name p{name}")
    rows = [{"name": name} for name in ("left", "right", "third", *names)]
    over = threading.Event()

    def stir() -> None:
        for number in itertools.cycle(range(50)):
            if over.is_set():
                return
            sh(wide.ns, f"ip address add 10.77.{number}.1/32 dev third")
            sh(wide.ns, ["nft", f"add table inet t{number}"])
            sh(wide.ns, ["nft", f"add chain inet t{number} f {{ type filter hook forward priority 0; }}"])
            sh(wide.ns, f"ip link add w{number} type veth peer name q{number}")
            sh(wide.ns, f"ip link del w{number}")
            sh(wide.ns, ["nft", f"delete table inet t{number}"])
            sh(wide.ns, f"ip address del 10.77.{number}.1/32 dev third")

    stirring = threading.Thread(target=stir, daemon=True)
    stirring.start()
    try:
        for _ in range(4):
            for wanted in (rows, []):
                client.ask("PUT", "/intent", None, {"interface": wanted, "forward": []}, kind=dict)
                client.ask("POST", "/intent/diff", None, {"interface": rows, "forward": []}, kind=dict)
    finally:
        over.set()
        stirring.join()
    assert node.process.poll() is None
    assert "fault of hopline" not in node.log.read_text()
    assert "Traceback" not in node.log.read_text()
    client.ask("PUT", "/intent", None, {"interface": rows, "forward": []}, kind=dict)
    assert all(state.attached for state in client.interface.show())
