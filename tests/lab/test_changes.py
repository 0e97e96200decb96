"""Changes of the intent by a whole document, back and forth: no frame is lost, and every change is one or none."""

import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hopline
from hopline.config import Forward
from hopline.errors import HoplineError, InvalidInput, Refused
from lab.documents import (
    ATTACHED,
    Node,
    around,
    assert_none_lost,
    document,
    flows,
    forwards_of,
    intent,
    many,
    near,
    put,
)
from lab.net import missing_tools, sh
from lab.node import store_entries, xdp_id
from lab.traffic import Traffic, attach, only_xdp_forwards, state_of

pytestmark = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")


# nothing is lost


def test_nothing_is_lost_over_documents_that_add_change_and_remove_around_a_flow(net, serving):
    first, second = document(around(net, False)), document(around(net, True))
    with Traffic(net, flows(net)) as traffic:
        time.sleep(0.2)
        for content in (second, first) * 4:
            done = put(serving, content)
            assert done.steps > 3
            assert forwards_of(content) == intent(serving)["forward"]
        assert put(serving, content).steps == 0, "what is already so is done again"
    assert done.counts["forward"].changed == 3
    assert done.counts["forward"].added == done.counts["forward"].removed == 203
    assert_none_lost(traffic, net)


def test_nothing_is_lost_over_rollback_back_and_forth(net, serving):
    client = hopline.connect(serving.instance)
    earlier = client.status().revision
    later = put(serving, document(around(net, True))).revision
    assert later == earlier + 1
    with Traffic(net, flows(net)) as traffic:
        for number, second in ((earlier, False), (later, True)) * 4:
            time.sleep(0.1)  # some frames of every flow between one and the next
            done = client.rollback(number)
            assert forwards_of(document(around(net, second))) == intent(serving)["forward"]
    assert done.revision == later + 8
    assert_none_lost(traffic, net)
    row = client.history()[0]
    assert (row.number, row.what) == (done.revision, f"rollback to {later}")


def test_nothing_is_lost_while_another_interface_comes_and_goes(net, serving):
    entries = around(net, False)
    attached = {dev: xdp_id(net.ns, dev) for dev in ("left", "right")}
    with Traffic(net, flows(net)) as traffic:
        for _ in range(3):
            put(serving, document(entries, [*ATTACHED, {"name": "third"}]))
            assert state_of(serving, "third").program_id == xdp_id(net.ns, "third") != 0
            put(serving, document(entries, ATTACHED))
            assert xdp_id(net.ns, "third") == 0
        put(serving, document(entries, [{"name": "left", "mode": "auto", "bypass_policy": False}, {"name": "right"}]))
    # not even its program was another in between
    assert {dev: xdp_id(net.ns, dev) for dev in attached} == attached
    assert_none_lost(traffic, net)


def test_nothing_is_lost_over_twenty_thousand_entries(net, serving):
    entries = around(net, False)
    with Traffic(net, flows(net)) as traffic:
        done = put(serving, document([*entries, *(near(net, to) for to in many(20_000))]))
        assert done.counts["forward"].added == 20_000
        assert put(serving, document(entries), limit=5).counts["forward"].removed == 20_000
        hopline.connect(serving.instance).rollback(done.revision, limit=0)
    assert len(intent(serving)["forward"]) == len(entries) + 20_000
    assert_none_lost(traffic, net)


def test_nothing_is_lost_where_next_hops_come_and_go_that_are_followed(net, serving):
    fast = {name: flow for name, flow in flows(net).items() if name.startswith("changed")}
    first, second = document(around(net, False)), document(around(net, True))
    with Traffic(net, fast, 4000) as traffic:
        for content in (second, first) * 6:
            put(serving, content)
    assert_none_lost(traffic, net)


def test_nothing_that_was_learned_is_lost_over_documents(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "right")
    with Traffic(wide, wide.flows()) as traffic:
        time.sleep(0.2)
        for second in (True, False) * 3:
            put(one, document(around(wide, second)))
    assert_none_lost(traffic, wide)


# wrong values


def wrong_values(net) -> list[dict]:
    """300 entries, every twelfth wrong, in one way or another."""
    entries: list[dict] = [near(net, to) for to in many(300)]
    ways = [
        {"dst_mac": "zz"},
        {"dst_mac": "01:00:5e:00:00:01"},
        {"to": "224.0.0.1"},
        {"to": "10.1.2.3/8"},
        {"dev": "a/b"},
    ]
    for number in range(0, 300, 12):
        entries[number] |= ways[number // 12 % len(ways)]
    return entries


def wrong_here(net) -> list[dict]:
    """300 entries that are right in themselves, every twelfth of which this host cannot carry out."""
    entries: list[dict] = [near(net, to) for to in many(300)]
    for number in range(0, 300, 12):
        to = entries[number]["to"]
        ways = [{"to": to, "via": "192.0.2.77"}, near(net, to) | {"dev": "eth9"}]
        entries[number] = ways[number // 12 % 2] if number else near(net, net.left.ip4)
    return entries


def test_of_many_wrong_values_twenty_are_named_and_nothing_is_applied(net, serving):
    before = Node.of(net, serving)
    with Traffic(net, flows(net)) as traffic:
        for query in ({}, {"merge": True}, {"dry_run": True}, {"confirm_within": 60}):
            for wrong in (wrong_values(net), wrong_here(net)):
                with pytest.raises(InvalidInput) as caught:
                    put(serving, document(wrong), **query)
                problems = caught.value.problems
                places = [problem.field.partition(".") for problem in problems]
                assert sorted(where for where, _, _ in places) == sorted(f"forward[{n}]" for n in range(0, 240, 12))
                assert {field for _, _, field in places} <= {"to", "dev", "dst_mac", "via"}
                assert all(problem.detail and problem.hint for problem in problems), problems
                assert caught.value.count == 25
        # a table beside another: both are looked through before anything is said
        entries = [near(net, "10.50.0.1"), near(net, "10.50.0.9") | {"dev": "eth9"}]
        with pytest.raises(InvalidInput) as caught:
            put(serving, document(entries, [*ATTACHED, {"name": "eth9"}]))
        assert [p.field for p in caught.value.problems] == ["interface[2].name", "forward[1].dev"]
        assert caught.value.count == 2
        time.sleep(0.1)
    assert before.differs(Node.of(net, serving)) == []
    assert_none_lost(traffic, net)


# many at once


def test_of_fifty_clients_at_once_every_acknowledged_change_is_there_and_counted(net, serving):
    began = hopline.connect(serving.instance).status().revision
    start = threading.Barrier(50)

    def ask(number: int) -> Counter:
        """Its own entries, in its own way; what it may expect to be there afterwards, and how many changes it made."""
        client = hopline.connect(serving.instance)
        own = [near(net, f"10.{100 + number}.{i}.1") for i in range(4)]
        start.wait()
        client.forward.put([Forward(**entry) for entry in own[:2]])
        if number % 3 == 0:
            put(serving, document([near(net, own[0]["to"], src_mac=net.right.mac), own[2]], []), merge=True)
        elif number % 3 == 1:
            client.forward.add(**own[2])
        else:
            client.forward.replace(**own[2])
        client.forward.delete(own[1]["to"])
        with pytest.raises(HoplineError):  # and one that is refused
            client.forward.delete(own[1]["to"], own[0]["to"])
        return Counter({own[0]["to"]: 1, own[2]["to"]: 1})

    with Traffic(net, flows(net)) as traffic, ThreadPoolExecutor(50) as clients:
        there = list(clients.map(ask, range(50)))
    assert_none_lost(traffic, net)
    expected = {to for each in there for to in each} | set(forwards_of(document(around(net, False))))
    assert set(intent(serving)["forward"]) == expected == store_entries(serving)
    client = hopline.connect(serving.instance)
    assert client.status().revision == began + 150
    rows = client.history()
    assert [row.number for row in rows] == list(range(began + 150, began + 100, -1))
    assert [row.when for row in rows] == sorted((row.when for row in rows), reverse=True)
    # what the history says of each is what it did: back to the oldest that is known, and forth
    last = Node.of(net, serving)
    client.rollback(rows[-1].number - 1)
    client.rollback(rows[0].number)
    assert intent(serving) == last.intent
    serving.restart()
    now = Node.of(net, serving)
    assert (now.intent, now.kernel.keys()) == (last.intent, last.kernel.keys())
    assert {t: set(now.kernel[t]) for t in now.kernel} == {t: set(last.kernel[t]) for t in last.kernel}


def test_of_documents_at_once_for_one_revision_only_one_is_applied(net, serving):
    revision = hopline.connect(serving.instance).status().revision
    start = threading.Barrier(12)

    def apply(number: int) -> int | None:
        content = document([*around(net, False), near(net, f"10.50.1.{number}")])
        start.wait()
        try:
            assert put(serving, content, revision=revision).revision == revision + 1
        except Refused as error:
            assert f"it is {revision + 1}, not {revision}" in str(error)  # noqa: PT017
            return None
        return number

    with ThreadPoolExecutor(12) as clients:
        winners = [number for number in clients.map(apply, range(12)) if number is not None]
    assert len(winners) == 1
    assert f"10.50.1.{winners[0]}" in intent(serving)["forward"]
    assert len(intent(serving)["forward"]) == len(around(net, False)) + 1


# two instances


@pytest.mark.parametrize("place", ["same", "another"])
def test_two_instances_have_a_document_each_and_one_that_is_detached_leaves_the_other(wide, daemon, place):
    entries = around(wide, False)
    only_xdp_forwards(wide)
    first = daemon(wide.ns)
    second = daemon(wide.ns if place == "same" else wide.client.ns)
    put(first, document(entries, [{"name": "left"}]))
    dev, mac = ("right", wide.client.mac) if place == "same" else ("eth0", wide.left.mac)
    own = [{"to": to, "dev": "left" if place == "same" else "eth0", "dst_mac": mac} for to in many(50, "10.70")]
    with Traffic(wide, flows(wide)) as traffic:
        before = Node.of(wide, first)
        put(second, document(own, [{"name": dev}]))
        assert intent(second)["forward"] == forwards_of(document(own))
        put(second, document(own[:9], [{"name": dev}]))
        hopline.connect(second.instance).rollback(1)
        after = Node.of(wide, first)
        before.programs["right"] = after.programs["right"]  # the second's
        assert before.differs(after) == []
        other = Node.of(wide, second)
        put(first, document(entries[:-1], [{"name": "left"}]))
        assert other.differs(Node.of(wide, second)) == []
        last = Node.of(wide, first)
        hopline.connect(second.instance).detach()
        assert second.process.wait(5) == 0
        last.programs["right"] = 0
        assert last.differs(Node.of(wide, first)) == []
        assert xdp_id(wide.ns if place == "same" else wide.client.ns, dev) == 0
    assert_none_lost(traffic, wide)
    second.start()
    assert intent(second)["forward"] == forwards_of(document(own))


# who


def test_the_history_names_who_asked_by_user_and_process(net, serving):
    name = Path("/proc/self/comm").read_text().strip()
    client = hopline.connect(serving.instance)
    done = put(serving, document([near(net, "10.50.0.1")])).revision
    serving.call("forward", "add", "10.50.0.2", "--via", net.server.ip4)
    client.rollback(done)
    rows = client.history()[:3]
    assert [row.what for row in rows] == [f"rollback to {done}", "forward add 10.50.0.2", "apply"]
    assert rows[0].by == rows[2].by == f"root (uid 0), process {os.getpid()} ({name})"
    assert rows[1].by.startswith("root (uid 0), process ")
    assert rows[1].by.endswith("(hopline)")
    assert str(os.getpid()) not in rows[1].by
    # somebody else who was given the socket is named by his own
    script = f"import hopline; hopline.connect({serving.instance!r}).forward.add('10.50.0.3', via='{net.server.ip4}')"
    run_as = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    os.chmod(serving.run_directory, 0o755)
    os.chmod(serving.run_directory / "admin.sock", 0o666)
    sh(None, [*run_as, sys.executable, "-c", script])
    assert client.history()[0].by.startswith("nobody (uid 65534), process ")
    serving.restart()
    assert client.history()[0].by.startswith("nobody (uid 65534), process ")
