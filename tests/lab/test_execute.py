"""A change that fails in the middle is undone, and one that the daemon dies in is the old intent or the new one."""

import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import hopline
from hopline.errors import HoplineError
from hopline.features.forward import destination_of
from hopline.kernel import Map
from lab.documents import (
    ATTACHED,
    WITH_THIRD,
    Node,
    around,
    assert_none_lost,
    document,
    far,
    flows,
    forwards_of,
    held_store,
    intent,
    kernel,
    many,
    near,
    programs,
    put,
    raw,
    ready,
    settled,
)
from lab.net import AUTO, missing_tools, sh
from lab.node import TABLES, store_entries, xdp_id
from lab.traffic import Traffic, at_server, limited, only_xdp_forwards, wait_for, without_disk

pytestmark = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")


def assert_undone(net, daemon, content, words: list[str], meanwhile=None) -> None:
    """A document that cannot be carried out leaves everything as it was, and is refused in these words."""
    before = Node.of(net, daemon)
    with Traffic(net, flows(net)) as traffic:
        time.sleep(0.1)
        with meanwhile or contextlib.nullcontext(), pytest.raises(HoplineError) as caught:
            put(daemon, content)
        time.sleep(0.1)
    for word in words:
        assert word in str(caught.value), caught.value
    assert "\n" not in str(caught.value)
    assert before.differs(Node.of(net, daemon)) == []
    assert_none_lost(traffic, net)


def beyond(net) -> list[dict[str, str]]:
    """What another document has more than the first one: entries of every kind, changed ones, and none removed."""
    first = around(net, False)
    first[3] = far(net, "10.50.0.3")  # moved
    fresh = [near(net, to, src_mac="02:00:00:00:00:77") for to in many(40, "10.80")]
    return [*first, *fresh, near(net, "fd00:80::1"), far(net, "10.81.0.0/16"), far(net, "fd00:81::/64")]


def test_a_full_table_leaves_everything_as_it_was(wide, daemon):
    serving = ready(wide, daemon(wide.ns))
    only_xdp_forwards(wide)
    settled(serving)  # or what is put in behind the daemon's back is taken for drift while we look
    with Map.from_pin(serving.pins / "forward_exact4") as table:
        room = table.max_entries - len(table.items()[0])
        strangers = np.arange(room - 10, dtype=np.uint32) + np.uint32(0x0B)
        # 11.0.0.0 and on: the first octet is the lowest
        keys = ((strangers & 0xFF0000) << 8) | ((strangers & 0xFF00) << 8) | ((strangers & 0xFF) << 8) | 11
        table.update_batch(keys.astype("<u4").view(table.key_dtype), np.ones(len(keys), np.uint32))
    words = ["step ", "put 41 entries into forward_exact4", "1048576 entries at most", "undone"]
    assert_undone(wide, serving, document(beyond(wide), WITH_THIRD), words)


def test_a_store_that_cannot_be_written_leaves_everything_as_it_was(net, serving):
    content = document(beyond(net), WITH_THIRD)
    assert_undone(net, serving, content, ["write store", "nothing was changed"], without_disk(serving))
    # and one that somebody else has locked
    assert_undone(net, serving, content, ["write store", "locked", "nothing was changed"], held_store(serving))
    # nothing is wrong with it afterwards
    assert put(serving, content).counts["interface"].added == 1
    assert intent(serving)["forward"] == forwards_of(content)
    serving.restart()
    assert intent(serving)["forward"] == forwards_of(content)


def without_descriptors(daemon):
    """A limit for a while: four more than it has, for the request and what is asked on its way."""
    free = set(range(200)) - {int(fd) for fd in os.listdir(f"/proc/{daemon.pid}/fd")}
    return limited(daemon, "nofile", sorted(free)[4])


def test_no_descriptor_left_while_an_interface_is_attached_leaves_everything_as_it_was(net, serving):
    words = ["step ", "attach third", "too many open files", "undone"]
    assert_undone(net, serving, document(beyond(net), WITH_THIRD), words, without_descriptors(serving))
    assert put(serving, document(beyond(net), WITH_THIRD)).counts["interface"].added == 1
    assert xdp_id(net.ns, "third")


@contextlib.contextmanager
def halfway(daemon, content):
    """A document on its way: it has been looked through, and is not in the store before the block ends."""
    wanted = {entry["name"] for entry in content["interface"]}
    client = hopline.connect(daemon.instance)
    with ThreadPoolExecutor(1) as other, held_store(daemon):
        asked = other.submit(put, daemon, content)
        assert wait_for(lambda: {state.name for state in client.interface.show()} >= wanted or asked.done(), 3, 0.01)
        assert not asked.done(), asked.result()
        time.sleep(0.1)
        yield asked


def test_a_device_that_vanishes_in_the_middle_leaves_everything_as_it_was(wide, daemon):
    serving = ready(wide, daemon(wide.ns))
    only_xdp_forwards(wide)
    before = Node.of(wide, serving)
    # what goes by the device that vanishes is new, and nobody's afterwards
    content = document([*around(wide, False), far(wide, "10.80.0.1"), near(wide, "10.80.0.2")], WITH_THIRD)
    with Traffic(wide, flows(wide)) as traffic:
        with halfway(serving, content) as asked:
            sh(wide.ns, "ip link delete third")
            time.sleep(0.1)  # the daemon has heard of it
        with pytest.raises(HoplineError, match=r"step \d of \d, attach third: .*undone"):
            asked.result()
        time.sleep(0.1)
    assert before.differs(Node.of(wide, serving)) == []
    assert_none_lost(traffic, wide)
    # when it is there again, so can the change be
    wide.remake("third")
    assert wait_for(lambda: attempt(serving, content))
    assert intent(serving)["forward"] == forwards_of(content)


def attempt(daemon, content, **query) -> bool:
    """Whether a document could be applied; a device that has just come may not be known yet."""
    try:
        put(daemon, content, **query)
    except HoplineError:
        return False
    return True


def test_an_interface_that_was_given_another_mode_has_its_own_again_and_one_to_be_removed_stays(net, serving):
    put(serving, document(around(net, False), WITH_THIRD))
    before = Node.of(net, serving)
    # its own mode comes first, then what cannot be: a device that goes
    sh(net.ns, "ip link add taken type veth peer name taken2")
    try:
        other = hopline.connect(serving.instance)
        content = document(
            around(net, False), [{"name": "left"}, {"name": "right", "mode": "generic"}, {"name": "taken"}]
        )
        assert wait_for(lambda: attempt(serving, content, dry_run=True))
        with Traffic(net, flows(net)) as traffic:
            with halfway(serving, content) as asked:
                sh(net.ns, "ip link delete taken")
                time.sleep(0.1)
            with pytest.raises(HoplineError, match=r"attach taken: .*undone"):
                asked.result()
        after = Node.of(net, serving)
        assert after.programs.pop("right")  # another one, for it was off in between
        assert before.programs.pop("right")
        assert before.differs(after) == []
        assert [(state.name, state.mode) for state in other.interface.show()] == [
            (dev, AUTO) for dev in ("left", "right", "third")
        ]
        assert_none_lost(traffic, net)
    finally:
        sh(net.ns, "ip link delete taken", check=False)


def test_what_a_refused_document_removes_forwards_all_along(net, serving):
    entries = [entry for entry in around(net, False) if not entry["to"].startswith("10.51.")]
    assert_undone(net, serving, document(entries), ["locked", "nothing was changed"], held_store(serving))
    few = without_descriptors(serving)
    assert_undone(net, serving, document(entries, WITH_THIRD), ["attach third", "undone"], few)


# the daemon dies


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill-9", "sigterm"])
def test_a_daemon_that_ends_before_a_change_is_durable_starts_with_one_intent(net, serving, number):
    before = Node.of(net, serving)
    second = document(around(net, True), WITH_THIRD)
    with Traffic(net, flows(net)) as traffic:
        with halfway(serving, second) as asked:
            serving.process.send_signal(number)
            time.sleep(0.1)
        with contextlib.suppress(HoplineError):
            asked.result()
        serving.process.wait(10)
        time.sleep(0.1)
        serving.start()
        time.sleep(0.1)
    after = Node.of(net, serving)
    if number == signal.SIGTERM and after.revision > before.revision:  # the change was let through to its end
        assert after.intent["forward"] == forwards_of(second)
        assert set(after.intent["forward"]) == destinations(serving)
        assert after.programs["third"]
    else:
        assert (after.intent, after.stored, after.programs) == (before.intent, before.stored, before.programs)
        assert meant(after) == meant(before)
    assert_none_lost(traffic, net)


def test_a_daemon_killed_at_any_moment_of_an_apply_starts_with_the_one_document_or_the_other(net, serving):
    dice = random.Random(3)
    kept = around(net, False)[:3]
    first = document([*kept, *(near(net, to) for to in many(2000, "10.90"))], ATTACHED)
    second = document([*kept, *(far(net, to) for to in many(2000, "10.90")[1000:] + many(1000, "10.91"))], WITH_THIRD)
    names = ("kept", "kept prefix", "kept ipv6")
    seen = set()
    with Traffic(net, {name: flows(net)[name] for name in names}) as traffic:
        for turn in range(4):
            over = threading.Event()

            def alternate(over=over) -> None:
                while not over.is_set():
                    for content in (first, second):
                        try:
                            put(serving, content, limit=0)
                        except HoplineError:
                            return  # it is dead

            applying = threading.Thread(target=alternate)
            applying.start()
            time.sleep(dice.uniform(0.05, 0.6))
            serving.kill9()
            over.set()
            applying.join()
            serving.start()
            now = intent(serving)
            (which,) = [one for one in (first, second) if forwards_of(one) == now["forward"]] or [None]
            assert which is not None, f"turn {turn}: {len(now['forward'])} entries, of neither document"
            assert list(now["interface"]) == [entry["name"] for entry in which["interface"]]
            assert set(now["forward"]) == destinations(serving) == store_entries(serving)
            assert_leads_as_said(net, serving, now["forward"])
            rows = hopline.connect(serving.instance).history()
            assert [row.number for row in rows] == list(range(rows[0].number, rows[0].number - len(rows), -1))
            assert bool(programs(net.ns)["third"]) == (which is second)
            seen.add(which is second)
    for name in names:
        verdict = traffic.judge(name, at_server(net), 0)
        assert (verdict.sent > 500, verdict.wrong) == (True, 0), f"{name}: {verdict}"


def destinations(daemon) -> set[str]:
    """What the operator's tables hold, by Hopline's own reading of maps, which is quicker than bpftool."""
    return {destination_of(table, key) for table in TABLES for key in raw(daemon, table)}


def meant(node: Node) -> dict:
    """Where the kernel's entries lead; by which adjacency they do so is nobody's concern."""
    return {table: {key: meaning for key, (_, meaning) in entries.items()} for table, entries in node.kernel.items()}


def assert_leads_as_said(net, daemon, forwards) -> None:
    """No entry of the kernel's leads elsewhere than the intent says."""
    index = {"right": net.right.index, "third": net.third.index}
    for table, entries in kernel(daemon).items():
        for key, (_, (*_, ifindex)) in entries.items():
            to = destination_of(table, key)
            assert ifindex == index[forwards[to]["dev"]], to
