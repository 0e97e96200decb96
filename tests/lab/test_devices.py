"""Devices come, go, come back while nobody looks, and are more than there are slots: what is redirected where."""

import os
import signal
import time

import pytest

import hopline
from hopline.errors import HoplineError
from hopline.lab.shell import ip_batch
from lab.net import Router, Sniffer, missing_tools, sh
from lab.node import map_items
from lab.traffic import (
    MAGIC,
    Flow,
    Traffic,
    assert_becomes,
    at_server,
    attach,
    enter_fixed,
    forwarded,
    only_xdp_forwards,
    state_of,
    verdicts,
    wait_for,
)

SLOTS, PAIRS = 256, 150
REST_S = 2.2  # how long a slot rests before it is another device's, and a little
HOUSEKEEPING_S = 10  # how often the daemon looks
needs_bpftool = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")


@pytest.fixture
def serving(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "right")
    return one


def test_in_another_namespace_redirects_go_to_its_own_devices_whatever_their_numbers(router, daemon):
    with Router() as elsewhere:
        assert (router.left.index, router.right.index) == (elsewhere.left.index, elsewhere.right.index)
        one = daemon(router.ns)
        attach(one, "left", "right")
        enter_fixed(one, router)
        flow = Flow(router.client.ip4, "10.50.0.1")
        assert_becomes(router, {flow: at_server(router)})
        for dev in ("left", "right"):
            hopline.connect(one.instance).interface.delete(dev)
        one.terminate()
        one.namespace = elsewhere.ns
        one.start()
        attach(one, "left", "right")
        for net in (router, elsewhere):
            only_xdp_forwards(net)
        ours = Sniffer(router.server.ns, "eth0", match=lambda frame: MAGIC in frame)
        with ours, Traffic(elsewhere, {"fixed": flow}, 500) as traffic:
            time.sleep(0.3)
        assert traffic.judge("fixed", at_server(elsewhere), 0).wrong == 0
        assert ours.frames == [], "frames of one namespace arrive in another"
        assert forwarded(one, "left") == traffic.count("fixed"), "counters of the old namespace were taken over"


def test_an_instance_with_interfaces_in_one_namespace_is_not_served_from_another(router, daemon):
    with Router() as elsewhere:
        one = daemon(router.ns)
        attach(one, "left", "right")
        flow = enter_fixed(one, router)
        only_xdp_forwards(router)
        one.terminate()
        one.namespace = elsewhere.ns
        with pytest.raises(HoplineError, match="its interfaces are in network namespace"):
            one.start()
        assert_becomes(router, {flow: at_server(router)})


def leave_and_return(net, dev: str) -> None:
    """To another namespace and back: the index stays, and so does nothing that redirects to it."""
    sh(net.ns, f"ip link set {dev} netns {net.other.ns}")
    sh(net.other.ns, f"ip link set {dev} netns {net.ns}")
    sh(net.ns, f"ip link set {dev} up")


def go_and_be_made_anew(net, dev: str) -> None:
    """Another device of the same name and index."""
    index = {"left": net.left, "right": net.right}[dev].index
    sh(net.ns, f"ip link delete {dev}")
    net.remake(dev, index)


@pytest.mark.parametrize("dev", ["left", "right"])
@pytest.mark.parametrize("change", [leave_and_return, go_and_be_made_anew], ids=lambda f: f.__name__.replace("_", "-"))
@pytest.mark.parametrize("asleep", [True, False], ids=["unseen", "seen"])
def test_a_device_that_leaves_and_returns_is_forwarded_by_again(wide, serving, dev, change, asleep):
    flow = enter_fixed(serving, wide)
    only_xdp_forwards(wide)
    assert_becomes(wide, {flow: at_server(wide)})
    if asleep:
        os.kill(serving.pid, signal.SIGSTOP)  # so that it hears of all of it at once
    try:
        change(wide, dev)
    finally:
        os.kill(serving.pid, signal.SIGCONT)
    assert_becomes(wide, {flow: at_server(wide)}, 8)
    assert wait_for(lambda: state_of(serving, dev).attached)
    assert state_of(serving, dev).problem is None
    before = forwarded(serving, "left")
    assert_becomes(wide, {flow: at_server(wide)})
    assert forwarded(serving, "left") > before


@needs_bpftool
def test_half_an_entry_of_the_slot_tables_is_made_up_for_at_the_next_start(wide, serving):
    serving.kill9()
    assert len(map_items(serving, "interface_slots")) == 3
    key = wide.right.index.to_bytes(4, "little").hex(" ").split()
    command = ["bpftool", "map", "delete", "pinned", str(serving.pins / "interface_slots"), "key", "hex", *key]
    sh(None, command)
    serving.start()
    assert len(map_items(serving, "interface_slots")) == 3
    with Traffic(wide, wide.flows(), 500) as traffic:
        wait_for(lambda: forwarded(serving, "left") > 50)
    assert forwarded(serving, "left") > 50, verdicts(serving, "left")
    assert all(traffic.judge(name, at_server(wide), 0).wrong == 0 for name in wide.flows())


def crowd(net, numbers, verb: str = "add") -> None:
    """Two devices for each number, d and e."""
    ip_batch(net.ns, [f"link {verb} d{i}" + (f" type veth peer name e{i}" if verb == "add" else "") for i in numbers])


def test_with_more_devices_than_slots_those_that_are_wanted_come_first(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "third")
    flow = enter_fixed(one, wide)
    only_xdp_forwards(wide)
    one.terminate()
    for dev in ("right", "third"):
        sh(wide.ns, f"ip link delete {dev}")
    crowd(wide, range(PAIRS))
    wide.remake("right")
    wide.remake("third")  # both have the highest indexes of all
    one.start()
    shown = hopline.connect(one.instance).interface.show()
    assert [(state.name, state.attached, state.problem) for state in shown] == [
        ("left", True, None),
        ("third", True, None),
    ]
    assert_becomes(wide, {flow: at_server(wide)})
    last = f"d{PAIRS - 1}"
    with pytest.raises(HoplineError, match=f"all {SLOTS} device slots are in use"):
        attach(one, last)
    assert {state.name for state in hopline.connect(one.instance).interface.show()} == {"left", "third"}
    # one that is asked for when slots are free again, after their rest, gets one at once
    crowd(wide, range(60), "delete")
    time.sleep(REST_S)
    attach(one, last)


@pytest.mark.slow
def test_an_interface_that_found_no_slot_is_attached_when_there_is_one(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "third")
    sh(wide.ns, "ip link delete third")
    crowd(wide, range(PAIRS))
    wide.remake("third")
    assert wait_for(lambda: state_of(one, "third").problem), state_of(one, "third")
    assert f"all {SLOTS} device slots are in use" in state_of(one, "third").problem
    assert not state_of(one, "third").attached
    crowd(wide, range(60), "delete")
    assert wait_for(lambda: state_of(one, "third").attached, HOUSEKEEPING_S + REST_S + 2), state_of(one, "third")
    assert state_of(one, "third").problem is None
