"""A daemon that serves has three capabilities in every thread, and does all it did with them."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

import hopline
from hopline.lab.shell import enter, environment, hopline_command
from lab.net import AUTO, missing_tools, sh
from lab.node import serve_by_netns_exec, xdp_id
from lab.traffic import (
    BEHIND4,
    Traffic,
    assert_becomes,
    at_server,
    attach,
    enter_fixed,
    forwarded,
    nft,
    only_xdp_forwards,
    state_of,
    wait_for,
)

NET_ADMIN, SYS_ADMIN, PERFMON, BPF = 1 << 12, 1 << 21, 1 << 38, 1 << 39
NEEDED = NET_ADMIN | PERFMON | BPF
FILTER = "table inet t { chain f { type filter hook forward priority 0; policy accept; }; }"


def sets(status: Path) -> tuple[int, ...]:
    """Effective, permitted, inheritable, bounding and ambient set, and no_new_privs, as the kernel tells them."""
    told = dict(re.findall(r"^(Cap\w+|NoNewPrivs):\s*(\w+)$", status.read_text(), re.MULTILINE))
    return (*(int(told[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Inh", "Bnd", "Amb")), int(told["NoNewPrivs"]))


def assert_rights(daemon, wanted: int = NEEDED, bounding: int = 0) -> int:
    """Every thread has exactly these; how many threads there are."""
    process = Path(f"/proc/{daemon.pid}")
    tasks = list((process / "task").iterdir())
    found = {sets(task / "status") for task in tasks} | {sets(process / "status")}
    assert found == {(wanted, wanted, 0, bounding, 0, 1)}, found
    return len(tasks)


def serve_with(daemon, *before: str) -> None:
    """Start a daemon that has not been started (or has ended) by a command such as setpriv."""
    daemon.directory.mkdir(parents=True, exist_ok=True)
    command = enter(daemon.namespace, [*before, hopline_command(), *daemon.arguments])
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), start_new_session=True
        )
    answered = wait_for(lambda: daemon.call("status", check=False).returncode == 0, 15)
    assert answered, daemon.log.read_text()


def setpriv(*kept: str) -> list[str]:
    return ["setpriv", "--bounding-set", ",".join(["-all", *(f"+{name}" for name in kept)])]


def test_what_it_keeps_is_what_the_page_says(wide, daemon):
    one = daemon(wide.ns)
    assert wait_for(lambda: "rights left" in one.log.read_text())
    assert assert_rights(one) > 1
    page = (Path(__file__).parents[2] / "docs" / "rights.md").read_text()
    said = re.findall(r"^\| (CAP_\w+) \|", page, re.MULTILINE)
    assert said == ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"]
    left = re.search(r"rights left: (.*)", one.log.read_text())[1]
    assert sorted(left.split(", ")) == sorted(said)
    assert one.json("status")["notes"] == []


def test_every_verb_works_without_the_rest(wide, daemon):
    one = daemon(wide.ns)
    client = hopline.connect(one.instance)
    assert_rights(one)
    for dev in ("left", "right"):
        one.call("interface", "add", dev)
    # learned: what the FIB says is what arrives, and is used
    assert_becomes(wide, {wide.flows()["ipv4"]: at_server(wide), wide.flows()["ipv6"]: at_server(wide)})
    assert forwarded(one, "left") > 0
    with Traffic(wide, wide.flows(), 250):  # any event makes what is learned stale, so it is asked while there is use
        assert wait_for(lambda: BEHIND4 in {row.to for row in client.forward.show(origin="learned")})
    one.call("forward", "flush", "--origin", "learned")
    # the operator's: fixed and followed, read back, explained, changed, removed
    one.call("forward", "add", "10.66.0.1", "--dev", "right", "--dst-mac", wide.server.mac)
    one.call("forward", "add", "10.67.0.0/16", "--via", wide.server.ip4)
    one.call("forward", "add", "fd66::/64", "--via", wide.server.ip6)
    one.call("forward", "replace", "10.66.0.1", "--via", wide.other.ip4)
    assert client.forward.get("10.66.0.1", in_dev="left").dst_mac == wide.other.mac
    assert client.forward.get("fd66::7", in_dev="left").verdict == "FORWARDED"
    assert len(client.forward.show(origin="operator")) == 3
    assert {row.via for row in client.forward.next_hops()} >= {wide.server.ip4, wide.other.ip4}
    one.call("forward", "del", "10.67.0.0/16")
    # interfaces
    one.call("interface", "set", "left", "--mode", "generic")
    assert state_of(one, "left").mode == "generic"
    one.call("interface", "set", "left", "--mode", "auto", "--bypass-policy")
    assert state_of(one, "left").mode == AUTO
    one.call("interface", "del", "right")
    one.call("interface", "add", "right", "--mode", "generic")
    assert xdp_id(wide.ns, "right") == state_of(one, "right").program_id
    assert_rights(one)
    # threads that came since came with no more
    one.restart()
    assert state_of(one, "left").attached
    assert {row.to for row in client.forward.show(origin="operator")} == {"10.66.0.1", "fd66::/64"}
    assert_rights(one)
    one.call("detach")
    assert one.process.wait(10) == 0
    assert not one.pins.exists()
    assert xdp_id(wide.ns, "left") == 0


def test_it_follows_the_host_without_the_rest(wide, daemon):
    """Policy is read, devices that return and links that somebody took away are attached, next hops are followed."""
    one = daemon(wide.ns)
    attach(one, "left", "right")
    flow = enter_fixed(one, wide)
    assert state_of(one, "left").learning == {"ipv4": True, "ipv6": True}
    nft(wide.ns, FILTER).go()
    assert wait_for(lambda: not any(state_of(one, "left").learning.values()))
    assert wait_for(lambda: any("nftables" in reason for reason in state_of(one, "left").forbids))
    nft(wide.ns, "delete table inet t").go()
    assert wait_for(lambda: all(state_of(one, "left").learning.values()), 8)
    hopline.connect(one.instance).forward.add("10.68.0.1", via=wide.other.ip4)
    sh(wide.ns, f"ip neigh replace {wide.other.ip4} lladdr 02:00:00:00:03:99 dev third nud permanent")
    there = hopline.connect(one.instance).forward
    assert wait_for(lambda: there.get("10.68.0.1", in_dev="left").dst_mac == "02:00:00:00:03:99")
    sh(wide.ns, "ip link del left")
    assert wait_for(lambda: not state_of(one, "left").attached)
    wide.remake("left")
    assert wait_for(lambda: state_of(one, "left").attached)
    only_xdp_forwards(wide)
    assert_becomes(wide, {flow: at_server(wide)})
    assert_rights(one)
    assert "not permitted" not in one.log.read_text()


@pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")
def test_a_link_that_somebody_detached_is_attached_again_and_what_lies_there_is_left(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left")
    pin = one.pins / f"link_{wide.left.index}"
    sh(None, ["bpftool", "link", "detach", "pinned", str(pin)])
    assert wait_for(lambda: state_of(one, "left").attached and xdp_id(wide.ns, "left"))
    second = daemon(wide.ns)
    refused = second.call("interface", "add", "left", check=False)
    assert f"instance {one.instance} serves it" in refused.stderr, "who serves it is known by the pins, not by ids"
    assert_rights(second)


def test_decisions_are_traced_without_the_rest(wide, daemon):
    one = daemon(wide.ns, "--trace")
    attach(one, "left")
    assert_rights(one)
    sh(wide.client.ns, f"ping -n -q -c 2 -i 0.1 -w 3 {wide.server.ip4}")
    assert wait_for(lambda: wide.server.ip4 in one.log.read_text()), one.log.read_text()[-400:]


def test_pins_are_reached_from_a_mount_namespace_of_its_own(wide, daemon, tmp_path):
    one = daemon(wide.ns)
    one.terminate()
    serve_by_netns_exec(one)
    attach(one, "left", "right")
    assert_rights(one)
    assert (one.pins / f"link_{wide.left.index}").exists()
    hopline.connect(one.instance).interface.delete("left")
    assert not (one.pins / f"link_{wide.left.index}").exists()
    attach(one, "left")
    assert hopline.connect(one.instance).forward.get(wide.server.ip4, in_dev="left").verdict == "FORWARDED"


def test_a_daemon_that_is_given_no_more_starts_and_adopts(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "right")
    flow = enter_fixed(one, wide)
    one.terminate()
    before = xdp_id(wide.ns, "left")
    serve_with(one, *setpriv("net_admin", "bpf", "perfmon"))
    assert_rights(one, bounding=NEEDED)
    [note] = one.json("status")["notes"]
    assert note.startswith("the bounding set stays: CAP_SETPCAP")
    assert state_of(one, "left").attached
    assert before, "the program before was attached"
    only_xdp_forwards(wide)
    assert_becomes(wide, {flow: at_server(wide)})
    hopline.connect(one.instance).interface.delete("left")
    attach(one, "left")
    assert_becomes(wide, {flow: at_server(wide)})


def test_where_only_the_old_capability_is_given_it_is_kept_and_that_is_said(wide, daemon):
    one = daemon(wide.ns)
    one.terminate()
    serve_with(one, *setpriv("net_admin", "sys_admin", "setpcap"))
    assert_rights(one, NET_ADMIN | SYS_ADMIN)
    assert one.json("status")["notes"] == ["CAP_SYS_ADMIN is kept: CAP_BPF and CAP_PERFMON were not given"]
    assert one.json("status")["notes"][0] in one.log.read_text()
    attach(one, "left")
    assert state_of(one, "left").attached


def test_a_directory_that_is_shut_from_now_on_is_named(wide, daemon):
    one = daemon(wide.ns)
    one.terminate()
    state = one.directory / "state"
    os.chown(state, 65534, 65534)
    state.chmod(0o700)
    one.start()
    assert one.json("status")["notes"] == [f"{state} cannot be written any more: chown it to root, and restart"]
    one.call("forward", "add", "10.66.0.1", "--dev", "right", "--dst-mac", wide.server.mac)
    os.chown(state, 0, 0)
    one.restart()
    assert one.json("status")["notes"] == []
    assert [row.to for row in hopline.connect(one.instance).forward.show(origin="operator")] == ["10.66.0.1"]


def test_rights_are_given_up_before_anybody_could_ask_for_much(wide, daemon):
    """The doors open first, since they take rights; what comes through them at once finds few left or none at all."""
    one = daemon(wide.ns)
    began = time.monotonic()
    assert wait_for(lambda: sets(Path(f"/proc/{one.pid}/status"))[0] == NEEDED, 2, 0.001)
    assert time.monotonic() - began < 1
