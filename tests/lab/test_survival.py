"""Forwarding and acknowledged entries outlive the daemon, however it ends, and the kernel is left clean when asked."""

import random
import shutil
import signal
import threading
import time

import pytest

import hopline
from hopline.errors import HoplineError
from lab.net import Daemon, missing_tools, sh, unique_tag
from lab.node import (
    assert_refused,
    bpf_links,
    compile_stranger,
    kernel_entries,
    own_links,
    serve_by_netns_exec,
    shown_entries,
    store_entries,
    xdp_id,
)
from lab.node import hopline as run_hopline
from lab.traffic import Flow, Traffic, attach, forwarded, sysctls, verdicts, wait_for

needs_bpftool = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")
needs_clang = pytest.mark.skipif(bool(missing_tools("clang")), reason="needs clang")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill-9", "sigterm"])


@pytest.fixture
def serving(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "right")
    return one


def operator_flows(net, serving) -> dict[str, Flow]:
    """One flow for each kind of operator entry, entered; the destinations are on no route."""
    mac = net.server.mac
    entries = {
        "exact": ("10.50.0.1", ["--dev", "right", "--dst-mac", mac]),
        "prefix": ("10.51.0.0/16", ["--dev", "right", "--dst-mac", mac, "--src-mac", net.right.mac]),
        "via": ("10.52.0.0/24", ["--via", net.server.ip4]),
        "via with dev": ("10.53.0.1", ["--via", net.server.ip4, "--dev", "right"]),
        "ipv6 exact": ("fd00:50::1", ["--dev", "right", "--dst-mac", mac]),
        "ipv6 via": ("fd00:52::1", ["--via", net.server.ip6]),
    }
    for to, hop in entries.values():
        serving.call("forward", "add", to, *hop)
    hosts = {name: to.replace(".0/24", ".9").replace(".0.0/16", ".7.9") for name, (to, _) in entries.items()}
    return {name: Flow(net.client.ip6 if ":" in to else net.client.ip4, to) for name, to in hosts.items()}


def assert_all_arrive(traffic, net) -> None:
    for name in traffic.flows:
        verdict = traffic.judge(name, f"server {net.server.mac}", 0)
        assert verdict.sent > 200, name
        assert verdict.wrong == 0, f"{name}: {verdict}"


@SIGNALS
def test_operator_entries_lose_nothing_over_a_restart_and_need_no_kernel_forwarding(wide, serving, number):
    sysctls(wide.ns, "net/ipv4/ip_forward=0", "net/ipv6/conf/all/forwarding=0").go()
    flows = operator_flows(wide, serving)
    with Traffic(wide, flows, 1500) as traffic:
        time.sleep(0.3)
        serving.stop(number)
        time.sleep(0.4)
        serving.start()
        time.sleep(0.3)
        serving.restart(number)
        time.sleep(0.3)
    assert_all_arrive(traffic, wide)
    # the store and the kernel agree, so a restart that touches something touches what was right
    steps = [line for line in serving.log.read_text().splitlines() if "steps to agree" in line]
    assert all(" 0 steps" in line for line in steps[-2:]), steps


@SIGNALS
def test_learned_traffic_loses_nothing_over_a_restart(wide, serving, number):
    with Traffic(wide, wide.flows(), 1500) as traffic:
        time.sleep(0.3)
        assert forwarded(serving, "left") > 0
        serving.stop(number)
        time.sleep(1.3)  # past the lease
        serving.start()
        again = forwarded(serving, "left")
        assert wait_for(lambda: forwarded(serving, "left") > again), "nothing is learned again"
    assert_all_arrive(traffic, wide)
    # the kernel's meanwhile, either way: an event that may change policy, just before the stop, leaves learning off
    seen = verdicts(serving, "left")
    assert seen.get("PASS_NO_LEASE", 0) + seen.get("PASS_NOT_LEARNING", 0) > 0


@needs_bpftool
def test_every_acknowledged_entry_survives_kill_9_at_any_moment(wide, serving):
    dice = random.Random(7)
    acknowledged: set[str] = set()
    for turn in range(4):
        stop = threading.Event()

        def enter(turn=turn, stop=stop):
            client = hopline.connect(serving.instance)
            for i in range(10_000):
                if stop.is_set():
                    return
                to = f"10.{60 + turn}.{i >> 8}.{i & 255}" if i % 2 else f"fd00:60:{turn + 1}::{i + 1:x}"
                try:
                    client.forward.add(to, dev="right", dst_mac=f"02:00:00:00:{turn:02x}:{i % 50:02x}")
                except HoplineError:
                    return  # the daemon went before it could answer
                acknowledged.add(to)

        adder = threading.Thread(target=enter)
        adder.start()
        time.sleep(dice.uniform(0.02, 0.5))
        serving.kill9()
        stop.set()
        adder.join()
        serving.start()
        shown = shown_entries(serving)
        assert acknowledged <= shown, f"turn {turn}: {len(acknowledged - shown)} acknowledged entries are gone"
        assert shown == kernel_entries(serving) == store_entries(serving)
    assert len(acknowledged) > 20


@needs_bpftool
def test_kill_9_right_after_the_command_line_was_answered(wide, serving):
    assert serving.call("forward", "add", "10.70.0.1", "--via", wide.server.ip4).returncode == 0
    serving.kill9()
    assert kernel_entries(serving) == {"10.70.0.1"} == store_entries(serving)
    serving.start()
    assert shown_entries(serving) == {"10.70.0.1"}


@needs_bpftool
@pytest.mark.parametrize("damage", ["deleted", "garbage", "truncated"])
def test_a_lost_store_is_recovered_from_the_kernel_and_said(wide, serving, damage):
    operator_flows(wide, serving)
    before = {row["to"]: (row["dev"], row["dst_mac"], row["via"]) for row in serving.json("forward", "show")}
    serving.terminate()
    state = serving.directory / "state"
    database = state / "hopline.db"
    if damage == "deleted":
        for path in state.glob("hopline.db*"):
            path.unlink()
    else:
        size = database.stat().st_size
        database.write_bytes(bytes(range(256)) * (size // 256) if damage == "garbage" else database.read_bytes()[:5000])
    with Traffic(wide, {"exact": Flow(wide.client.ip4, "10.50.0.1")}, 500) as traffic:
        serving.start()
        time.sleep(0.3)
    assert traffic.judge("exact", f"server {wide.server.mac}", 0).wrong == 0
    after = {row["to"]: (row["dev"], row["dst_mac"], row["via"]) for row in serving.json("forward", "show")}
    assert after == before
    assert store_entries(serving) == set(before) == kernel_entries(serving)
    states = serving.json("interface", "show")
    assert {(s["name"], s["attached"]) for s in states} == {("left", True), ("right", True)}
    notes = " ".join(serving.json("status")["notes"])
    assert "the store was lost" in notes
    if damage != "deleted":
        assert "damaged" in notes
        kept = [path for path in state.iterdir() if path.name.startswith("hopline.db.")]
        assert kept, "the damaged file is not kept aside"
        assert str(kept[0]) in notes or kept[0].name in notes


def test_two_instances_side_by_side_on_different_interfaces(wide, daemon):
    first, second = daemon(wide.ns), daemon(wide.ns)
    first.call("interface", "add", "left")
    second.call("interface", "add", "right")
    first.call("forward", "add", "10.50.0.1", "--dev", "right", "--dst-mac", wide.server.mac)
    with Traffic(wide, {"one": Flow(wide.client.ip4, "10.50.0.1")}, 500) as traffic:
        # again where the kernel forwarded: while an address comes up, policy is read anew and nothing is learned
        ping = f"ping -n -q -c 3 -i 0.05 -w 5 {wide.client.ip4}"
        assert wait_for(lambda: sh(wide.server.ns, ping) and forwarded(second, "right") >= 3)
        second.kill9()
        time.sleep(0.2)
        second.start()
    assert traffic.judge("one", f"server {wide.server.mac}", 0).wrong == 0
    assert forwarded(first, "left") > 0
    assert forwarded(second, "right") >= 3
    assert second.json("forward", "show", "--origin", "operator") == []
    refused = run_hopline(wide.ns, "interface", "add", "left", "--instance", second.instance)
    assert_refused(refused, 1, first.instance, "left")
    refused = run_hopline(wide.ns, "interface", "show", "left", "--instance", second.instance)
    assert_refused(refused, 1, "left")


@pytest.mark.parametrize("apart", [[], ["--run"], ["--state"], ["--run", "--state"]], ids="-".join)
def test_a_second_daemon_of_the_same_instance_is_refused(router, daemon, tmp_path, apart):
    first = daemon(router.ns)
    arguments = list(first.arguments)
    for option in apart:
        arguments[arguments.index(option) + 1] = str(tmp_path / f"other{option}")
    refused = run_hopline(router.ns, *arguments)
    line = assert_refused_among_log(refused)
    assert any(word in line for word in ("another daemon", "already answers", "in use by process")), line
    assert first.json("status")["pid"] == first.pid
    assert first.call("interface", "add", "left").returncode == 0


def assert_refused_among_log(refused) -> str:
    """A daemon logs as well; its last line says why it ended."""
    assert refused.returncode == 1, refused
    assert "Traceback" not in refused.stderr, refused.stderr
    lines = [line for line in refused.stderr.splitlines() if line.startswith("hopline: ")]
    assert len(lines) == 1, refused.stderr
    return lines[0]


@needs_clang
def test_a_program_of_somebody_elses_is_named_and_replaced_only_when_asked(wide, daemon, tmp_path):
    one = daemon(wide.ns)
    sh(wide.ns, f"ip link set dev left xdpdrv obj {compile_stranger(tmp_path)} sec xdp")
    stranger = xdp_id(wide.ns, "left")
    assert stranger
    refused = run_hopline(wide.ns, "interface", "add", "left", "--instance", one.instance)
    assert_refused(refused, 1, f"id {stranger}", "stranger", "--replace")
    assert xdp_id(wide.ns, "left") == stranger
    assert one.json("interface", "show") == []
    one.call("interface", "add", "left", "--replace")
    assert xdp_id(wide.ns, "left") not in (0, stranger)
    with Traffic(wide, wide.flows(), 500) as traffic:
        time.sleep(0.3)
    assert_forwarded(traffic, wide, one)
    one.restart()
    assert one.json("interface", "show", "left")[0]["attached"]


def assert_forwarded(traffic, net, serving) -> None:
    for name in traffic.flows:
        assert traffic.judge(name, f"server {net.server.mac}", 0).wrong == 0
    assert forwarded(serving, "left") > 0


def test_an_interface_that_vanishes_and_returns_forwards_again(wide, serving):
    serving.call("forward", "add", "10.50.0.1", "--dev", "right", "--dst-mac", wide.server.mac)
    flows = {"exact": Flow(wide.client.ip4, "10.50.0.1"), **wide.flows()}
    for gone in ("left", "right"):
        sh(wide.ns, f"ip link delete {gone}")
        state = wait_for(lambda gone=gone: not serving.json("interface", "show", gone)[0]["attached"])
        assert state, f"{gone} is deleted and shown as attached"
        wide.remake(gone)
        back = wait_for(lambda gone=gone: serving.json("interface", "show", gone)[0]["attached"])
        assert back, serving.json("interface", "show", gone)
        count = forwarded(serving, "left")
        with Traffic(wide, flows, 600) as traffic:
            time.sleep(0.4)
        for name in flows:
            verdict = traffic.judge(name, f"server {wide.server.mac}", 0)
            assert verdict.wrong == 0, f"{gone}, {name}: {verdict}"
        assert forwarded(serving, "left") - count > 200, verdicts(serving, "left")
    assert {path.name for path in serving.pins.glob("link_*")} == {
        f"link_{end.index}" for end in (wide.left, wide.right)
    }


@needs_bpftool
@pytest.mark.parametrize("alive", [True, False], ids=["with-daemon", "without-daemon"])
def test_detach_leaves_the_kernel_clean_and_serve_brings_all_back(wide, daemon, alive):
    serving = daemon(wide.ns)
    attach(serving, "left", "right")
    operator_flows(wide, serving)
    entries = shown_entries(serving)
    links = own_links(serving)
    assert len(links) == 2
    process = serving.process
    if not alive:
        serving.kill9()
    done = run_hopline(wide.ns, "detach", "--instance", serving.instance)
    assert (done.returncode, done.stderr) == (0, ""), done
    if alive:
        assert process.wait(5) == 0
    assert not serving.pins.exists()
    assert (xdp_id(wide.ns, "left"), xdp_id(wide.ns, "right")) == (0, 0)
    assert bpf_links() & links == set()
    with Traffic(wide, wide.flows(), 500) as traffic:  # the kernel alone
        time.sleep(0.2)
    assert all(traffic.judge(name, f"server {wide.server.mac}", 0).wrong == 0 for name in wide.flows())
    serving.start()
    assert shown_entries(serving) == entries == kernel_entries(serving)
    assert all(state["attached"] for state in serving.json("interface", "show"))
    with Traffic(wide, {"exact": Flow(wide.client.ip4, "10.50.0.1")}, 500) as traffic:
        time.sleep(0.2)
    assert_forwarded(traffic, wide, serving)


def test_detach_of_nothing_says_so(router):
    refused = run_hopline(router.ns, "detach", "--instance", unique_tag())
    assert_refused(refused, 1, "nothing of it is in the kernel")


def test_started_by_ip_netns_exec_the_pins_outlive_the_daemon(wide, tmp_path):
    serving = Daemon(wide.ns, tmp_path / "exec")
    try:
        serve_by_netns_exec(serving)
        for dev in ("left", "right"):
            serving.call("interface", "add", dev)
        serving.call("forward", "add", "10.50.0.1", "--dev", "right", "--dst-mac", wide.server.mac)
        sysctls(wide.ns, "net/ipv4/ip_forward=0").go()
        with Traffic(wide, {"exact": Flow(wide.client.ip4, "10.50.0.1")}, 1000) as traffic:
            time.sleep(0.2)
            serving.kill9()
            assert (serving.pins / "state").exists(), "the pins went with the daemon's mount namespace"
            time.sleep(0.3)
            serve_by_netns_exec(serving)
            time.sleep(0.2)
        assert traffic.judge("exact", f"server {wide.server.mac}", 0).wrong == 0
        assert shown_entries(serving) == {"10.50.0.1"}
    finally:
        serving.clean()
        shutil.rmtree(serving.directory, ignore_errors=True)
