"""The operator's entries where something is missing: the daemon, the disk, the store, or a device that redirects."""

import fcntl
import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

import hopline
from hopline.config import Forward
from hopline.errors import HoplineError
from hopline.kernel import Map
from hopline.lab.shell import enter, environment, hopline_command
from lab.net import missing_tools, sh
from lab.netlink_room import needs_told_features
from lab.node import kernel_entries, shown_entries, store_entries
from lab.traffic import (
    LOST,
    Flow,
    assert_becomes,
    at_server,
    attach,
    enter_fixed,
    ip_lines,
    only_xdp_forwards,
    verdicts,
    wait_for,
    without_disk,
)

NEW_MAC = "02:00:00:00:0e:0e"
LEASE_S = 1.0
needs_bpftool = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")
needs_strace = pytest.mark.skipif(bool(missing_tools("strace")), reason="needs strace")


@pytest.fixture
def serving(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "right")
    return one


def enter_followed(daemon, net) -> list[Flow]:
    """An entry by way of the server's address in each family."""
    forward = hopline.connect(daemon.instance).forward
    forward.add("10.99.0.0/16", via=net.server.ip4)
    forward.add("fd00:99::/32", via=net.server.ip6)
    return [Flow(net.client.ip4, "10.99.0.1"), Flow(net.client.ip6, "fd00:99::1")]


def give_server_another_mac(net) -> None:
    addresses = (net.server.ip4, net.server.ip6)
    ip_lines(net.ns, *(f"neigh replace {a} lladdr {NEW_MAC} dev right nud permanent" for a in addresses)).go()


def test_without_a_daemon_a_followed_next_hop_has_the_mac_that_the_kernel_knows(wide, serving):
    flows = enter_followed(serving, wide)
    fixed = enter_fixed(serving, wide)
    serving.kill9()
    time.sleep(LEASE_S + 0.1)
    assert_becomes(wide, dict.fromkeys([*flows, fixed], at_server(wide)))
    give_server_another_mac(wide)
    new = f"server {NEW_MAC}"
    assert_becomes(wide, {**dict.fromkeys(flows, new), fixed: at_server(wide)})
    # what the kernel cannot say stays as it was, and is obeyed
    for address in (wide.server.ip4, wide.server.ip6):
        sh(wide.ns, f"ip neigh del {address} dev right")
    only_xdp_forwards(wide)
    assert_becomes(wide, dict.fromkeys([*flows, fixed], at_server(wide)))
    give_server_another_mac(wide)
    serving.start()
    assert_becomes(wide, {**dict.fromkeys(flows, new), fixed: at_server(wide)})


@needs_bpftool
def test_where_the_store_cannot_be_written_entries_stay_as_they_are(wide, serving):
    kept = enter_fixed(serving, wide)
    only_xdp_forwards(wide)
    forward = hopline.connect(serving.instance).forward
    other = "02:00:00:00:0a:0a"
    with without_disk(serving):
        for change in (
            lambda: forward.add("10.60.0.1", dev="right", dst_mac=wide.server.mac),
            lambda: forward.add("fd00:60::/32", via=wide.server.ip6),
            lambda: forward.put([Forward(f"10.61.{i >> 8}.{i & 255}", dev="right", dst_mac=other) for i in range(999)]),
            lambda: forward.replace(kept.destination, dev="right", dst_mac=other),
            lambda: forward.delete(kept.destination),
        ):
            with pytest.raises(HoplineError, match=r"write store .*nothing was changed"):
                change()
            assert kernel_entries(serving) == shown_entries(serving) == {kept.destination}
        assert [row.dst_mac for row in rows(forward)] == [wide.server.mac]
        assert [row.entries for row in forward.next_hops() if row.origin == "operator"] == [1]
        new = Flow(wide.client.ip4, "10.60.0.1")
        assert_becomes(wide, {kept: at_server(wide), new: LOST})
    forward.add("10.60.0.1", dev="right", dst_mac=wide.server.mac)
    assert_becomes(wide, {kept: at_server(wide), new: at_server(wide)})
    assert kernel_entries(serving) == store_entries(serving) == {kept.destination, "10.60.0.1"}


def rows(forward):
    return forward.show(origin="operator")


def lose_store(daemon) -> None:
    state = daemon.directory / "state"
    for path in state.glob("hopline.db*"):
        path.unlink()


@contextmanager
def held_by_another(daemon):
    """The instance's lock, as a second daemon would hold it."""
    lock = os.open(daemon.pins, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def assert_recovered(daemon, net, flows, entries) -> None:
    daemon.start()
    assert kernel_entries(daemon) == shown_entries(daemon) == store_entries(daemon) == entries
    states = hopline.connect(daemon.instance).interface.show()
    assert [(state.name, state.attached) for state in states] == [("left", True), ("right", True)]
    assert "the store was lost: 3 entries and 2 interfaces taken from the kernel" in daemon.log.read_text()
    assert_becomes(net, dict.fromkeys(flows, at_server(net)))


@needs_bpftool
def test_a_start_that_is_refused_after_the_store_was_lost_loses_nothing(wide, serving):
    flows = [*enter_followed(serving, wide), enter_fixed(serving, wide)]
    only_xdp_forwards(wide)
    entries = shown_entries(serving)
    serving.kill9()
    lose_store(serving)
    with held_by_another(serving), pytest.raises(HoplineError, match="another daemon serves it"):
        serving.start()
    assert not (serving.directory / "state" / "hopline.db").exists(), "what is refused begins no store"
    assert_becomes(wide, dict.fromkeys(flows, at_server(wide)))
    assert_recovered(serving, wide, flows, entries)
    # from now on what the store says is all there is
    for to in entries:
        hopline.connect(serving.instance).forward.delete(to)
    serving.restart()
    assert kernel_entries(serving) == shown_entries(serving) == set()


@needs_bpftool
@needs_strace
def test_a_start_that_is_killed_after_the_store_was_lost_loses_nothing(wide, serving):
    flows = [*enter_followed(serving, wide), enter_fixed(serving, wide)]
    only_xdp_forwards(wide)
    entries = shown_entries(serving)
    serving.kill9()
    lose_store(serving)
    for call in (1, 90, 200):  # of some 300: nothing adopted yet, the maps, one interface
        assert killed_at_bpf_call(serving, call)
        assert kernel_entries(serving) == entries, f"killed at call {call}"
        assert_becomes(wide, dict.fromkeys(flows, at_server(wide)))
    assert_recovered(serving, wide, flows, entries)


def killed_at_bpf_call(daemon, number: int) -> bool:
    """Start the daemon and have it killed at its nth bpf(); whether it was."""
    tracer = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=bpf"]
    tracer += ["-e", f"inject=bpf:signal=SIGKILL:when={number}", hopline_command(), *daemon.arguments]
    with daemon.log.open("ab") as log:
        started = subprocess.Popen(
            enter(daemon.namespace, tracer), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
        )
    try:
        return started.wait(10) == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        return False
    finally:
        started.kill()
        started.wait()


@needs_told_features
def test_an_entry_by_a_device_that_takes_no_redirect_says_so(wide, serving):
    flows = [*enter_followed(serving, wide), enter_fixed(serving, wide)]
    only_xdp_forwards(wide)
    forward = hopline.connect(serving.instance).forward

    def fresh() -> set[str]:
        return {row.fresh for row in rows(forward)}

    assert fresh() == {"followed", "always"}
    sh(wide.server.ns, "ethtool -K eth0 gro off")
    assert wait_for(lambda: fresh() == {"no redirect"}), fresh()
    assert forward.show("10.50.0.1")[0].fresh == "no redirect"
    before = verdicts(serving, "left").get("PASS_NO_EGRESS", 0)
    assert_becomes(wide, dict.fromkeys(flows, LOST))
    assert verdicts(serving, "left").get("PASS_NO_EGRESS", 0) > before
    sh(wide.server.ns, "ethtool -K eth0 gro on")
    assert wait_for(lambda: fresh() == {"followed", "always"}), fresh()
    assert_becomes(wide, dict.fromkeys(flows, at_server(wide)))


@needs_bpftool
def test_a_start_over_a_table_that_strangers_have_filled_enters_what_was_asked_for(wide, serving):
    """The intent's own would not fit beside them, so they go first; and so it is with an older store put back."""
    flow = enter_fixed(serving, wide)
    only_xdp_forwards(wide)
    serving.kill9()
    with Map.from_pin(serving.pins / "forward_exact4") as table:
        keys, ids = table.items()
        table.delete_batch(keys)
        strangers = (np.arange(table.max_entries, dtype=np.uint32) + 0x0B000000).astype(">u4")
        table.update_batch(strangers, np.full(table.max_entries, ids[0], ids.dtype))
    with suppress(HoplineError):  # reading a million takes its time
        serving.start(ready_seconds=0.5)
    assert wait_for(lambda: serving.call("status", check=False).returncode == 0, seconds=90, every=0.5)
    assert_becomes(wide, {flow: at_server(wide)})
    with Map.from_pin(serving.pins / "forward_exact4") as table:
        assert len(table.items()[0]) == 1
