"""A change that waits to be confirmed: kept in time, taken back otherwise, also over the daemon's death."""

import signal
import time

import pytest

import hopline
from hopline.errors import HoplineError, Refused
from lab.documents import (
    Node,
    all_maps,
    around,
    assert_none_lost,
    document,
    flows,
    forwards_of,
    held_store,
    intent,
    put,
    second,
    settled,
    stored,
)
from lab.net import missing_tools, sh
from lab.node import compile_stranger
from lab.traffic import Traffic, wait_for

pytestmark = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")
needs_clang = pytest.mark.skipif(bool(missing_tools("clang")), reason="needs clang")


def assert_back(net, daemon, before: Node, revision: int) -> None:
    """All is as it was, but for two changes more in the history: the one and its roll-back, by the daemon itself."""
    after = Node.of(net, daemon)
    assert (after.intent, after.programs) == (before.intent, before.programs)
    assert after.stored["forward"] == before.stored["forward"]
    assert after.stored["interface"] == before.stored["interface"]
    assert {t: {k: m for k, (_, m) in e.items()} for t, e in after.kernel.items()} == {
        t: {k: m for k, (_, m) in e.items()} for t, e in before.kernel.items()
    }
    assert (after.pending, after.revision) == (None, revision + 1)
    assert after.history[2:] == before.history
    rolled, made = after.history[:2]
    assert (rolled.number, rolled.what) == (revision + 1, f"rollback to {revision - 1}: not confirmed in time")
    assert rolled.by == "the daemon itself"
    assert (made.number, made.what, made.pending, rolled.pending) == (revision, "apply", False, False)
    assert {noun: (c.added, c.removed) for noun, c in rolled.counts.items()} == {
        noun: (c.removed, c.added) for noun, c in made.counts.items()
    }


def test_a_change_that_is_confirmed_in_time_stays(net, serving):
    client = hopline.connect(serving.instance)
    with Traffic(net, flows(net)) as traffic:
        done = put(serving, second(net), confirm_within=1.5)
        assert done.confirm_within_s == 1.5
        pending = client.status().pending
        assert pending.revision == done.revision == client.status().revision
        assert 0 < pending.left_s <= 1.5
        assert [row.number for row in client.history() if row.pending] == [done.revision]
        assert client.intent.confirm().revision == done.revision
        with pytest.raises(Refused, match="no change waits"):
            client.intent.confirm()
        time.sleep(1.6)
        assert client.status().revision == done.revision
        serving.restart(signal.SIGKILL)  # nor does a start take it back
    assert_none_lost(traffic, net)
    assert (client.status().pending, client.status().revision) == (None, done.revision)
    assert intent(serving)["forward"] == forwards_of(second(net))
    assert list(intent(serving)["interface"]) == ["left", "right", "third"]


def test_a_change_that_nobody_confirms_is_taken_back_and_keeps_others_out_until_then(net, serving):
    client = hopline.connect(serving.instance)
    before = Node.of(net, serving)
    with Traffic(net, flows(net)) as traffic:
        done = put(serving, second(net), confirm_within=2.5)
        waiting = Node.of(net, serving)
        assert waiting.pending == done.revision
        for other in (
            lambda: client.forward.add("10.50.0.9", via=net.server.ip4),
            lambda: client.forward.replace("10.50.0.1", via=net.server.ip4),
            lambda: client.forward.delete("10.50.0.1"),
            lambda: client.interface.set("left", bypass_policy=True),
            lambda: client.interface.delete("left"),
            lambda: put(serving, document([], [])),
            lambda: put(serving, document([]), confirm_within=1.5),
            lambda: client.rollback(done.revision),
        ):
            with pytest.raises(Refused) as caught:
                other()
            for word in (f"change {done.revision} waits", "hopline confirm", f"hopline rollback {done.revision - 1}"):
                assert word in str(caught.value)
        assert waiting.differs(Node.of(net, serving)) == []
        # looking is allowed
        assert put(serving, document(around(net, False)), dry_run=True).counts["forward"].removed
        assert wait_for(lambda: client.status().pending is None, 5, 0.1)
        time.sleep(0.1)
    assert_none_lost(traffic, net)
    assert_back(net, serving, before, done.revision)
    # and it can be made again
    assert put(serving, second(net)).revision == done.revision + 2


@pytest.mark.parametrize("to", ["before", "earlier"])
def test_a_rollback_while_a_change_waits(net, serving, to):
    client = hopline.connect(serving.instance)
    put(serving, document(around(net, True)[:9]))
    put(serving, document(around(net, False)))
    before = Node.of(net, serving)
    done = put(serving, second(net), confirm_within=60)
    with pytest.raises(HoplineError):
        client.rollback(done.revision + 1)
    assert client.rollback(done.revision - 1, dry_run=True).counts["forward"].added
    assert client.status().pending.revision == done.revision
    number = done.revision - (1 if to == "before" else 2)
    with Traffic(net, flows(net)) as traffic:
        client.rollback(number)
        time.sleep(0.2)
    assert client.status().pending is None
    assert client.status().revision == done.revision + 1
    if to == "before":
        assert intent(serving) == before.intent
        assert_none_lost(traffic, net)
    else:
        assert intent(serving)["forward"] == forwards_of(document(around(net, True)[:9]))
    with pytest.raises(Refused, match="no change waits"):
        client.intent.confirm()
    client.forward.add("10.50.0.9", via=net.server.ip4)


def test_killed_while_a_change_waits_it_waits_on_and_is_taken_back_at_its_time(net, serving):
    client = hopline.connect(serving.instance)
    before = Node.of(net, serving)
    with Traffic(net, flows(net)) as traffic:
        began = time.monotonic()
        done = put(serving, second(net), confirm_within=6)
        serving.kill9()
        serving.start()
        pending = client.status().pending
        assert pending.revision == done.revision
        assert pending.left_s <= 6 - (time.monotonic() - began) + 0.5
        assert intent(serving)["forward"] == forwards_of(second(net))
        assert wait_for(lambda: client.status().pending is None, 9, 0.1)
        assert 5.5 < time.monotonic() - began < 8
        time.sleep(0.1)
    assert_none_lost(traffic, net)
    assert_back(net, serving, before, done.revision)


def test_killed_while_a_change_waits_it_is_taken_back_by_a_start_that_comes_too_late(net, serving):
    before = Node.of(net, serving)
    with Traffic(net, flows(net)) as traffic:
        done = put(serving, second(net), confirm_within=1)
        serving.kill9()
        time.sleep(1.2)
        assert intent_stored(serving) == set(forwards_of(second(net)))
        serving.start()
        time.sleep(0.1)
    assert_none_lost(traffic, net)
    assert_back(net, serving, before, done.revision)
    assert f"change {done.revision} was not confirmed in time" in serving.log.read_text()


def intent_stored(daemon) -> set[str]:
    return {str(row[0]) for row in stored(daemon)["forward"]}


def test_where_a_change_cannot_be_taken_back_in_time_it_is_tried_until_it_can(net, serving):
    client = hopline.connect(serving.instance)
    before = Node.of(net, serving)
    with Traffic(net, flows(net)) as traffic:
        done = put(serving, second(net), confirm_within=1)
        with held_store(serving):
            assert wait_for(lambda: f"take back change {done.revision}: write store" in serving.log.read_text())
            assert client.status().pending.left_s == 0
            assert intent(serving)["forward"] == forwards_of(second(net))
            with pytest.raises(Refused, match="waits to be confirmed"):
                client.forward.delete("10.50.0.1")
            # it may still be confirmed, but for the same reason
            with pytest.raises(Refused, match="write store"):
                client.intent.confirm()
        assert wait_for(lambda: client.status().pending is None, 8, 0.1)
    assert_none_lost(traffic, net)
    assert_back(net, serving, before, done.revision)


@needs_clang
def test_a_program_that_a_stranger_has_put_on_a_device_meanwhile_does_not_hold_up_the_rest(net, serving, tmp_path):
    """The change took an interface away, and a stranger its device: entries go back, the interface waits for it."""
    client = hopline.connect(serving.instance)
    with Traffic(net, flows(net)) as traffic:
        gone = document(around(net, True), [{"name": "left"}])
        put(serving, gone, confirm_within=2)
        sh(net.ns, f"ip link set dev right xdp obj {compile_stranger(tmp_path)} sec xdp")
        try:
            assert wait_for(lambda: client.status().pending is None, 8, 0.1)
            assert intent(serving)["forward"] == forwards_of(document(around(net, False)))
            right = {state.name: state for state in client.interface.show()}["right"]
            assert not right.attached
            assert "another program" in right.problem
            client.forward.add("10.50.200.1", dev="third", dst_mac=net.other.mac)
        finally:
            sh(net.ns, "ip link set dev right xdp off")
        assert wait_for(lambda: all(state.attached for state in client.interface.show()), 8, 0.1)
    assert_none_lost(traffic, net)


# what changes nothing


def test_a_dry_run_and_a_wrong_revision_change_nothing_at_all(net, serving):
    settled(serving)
    client = hopline.connect(serving.instance)
    generation = client.status().generation
    maps, before = all_maps(serving), Node.of(net, serving)
    with Traffic(net, flows(net)) as traffic:
        for query in ({}, {"merge": True}, {"confirm_within": 5}, {"revision": before.revision}, {"limit": 0}):
            done = put(serving, second(net), dry_run=True, **query)
            assert done.dry_run
            assert done.revision == before.revision
            assert done.counts["interface"].added == 1
            assert done.counts["forward"].added == 203
            assert done.counts["forward"].changed == 3
            assert done.counts["forward"].removed == (0 if "merge" in query else 203)
        oldest = before.history[-1].number
        assert client.rollback(oldest - 1, dry_run=True).counts["forward"].removed == len(before.intent["forward"])
        for revision in (before.revision - 1, before.revision + 1, 10**9):
            with pytest.raises(Refused, match=f"it is {before.revision}, not {revision}"):
                put(serving, second(net), revision=revision)
        # the document that is in force, as it is told: nothing to do, and nothing is said to have been done
        told = client.ask("GET", "/intent", kind=dict)
        assert (put(serving, told).steps, put(serving, told, confirm_within=5).counts) == (0, {})
        difference = client.ask("POST", "/intent/diff", {"limit": 1000}, second(net), kind=dict)["differences"]
        assert len(difference) == 1 + 203 + 3 + 203
        time.sleep(0.1)
    assert_none_lost(traffic, net)
    assert before.differs(Node.of(net, serving)) == []
    assert all_maps(serving) == maps
    assert client.status().generation == generation, "cached answers are stale though nothing has changed"
    assert put(serving, second(net), revision=before.revision).revision == before.revision + 1
