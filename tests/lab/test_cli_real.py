"""The command line against a daemon that forwards: what it prints is what the packets do."""

import hashlib
import os
import re
import socket
import threading
import time

import pytest

from hopline.kernel import netns
from lab.net import AUTO, Daemon, sh
from lab.netlink_room import TELLS_FEATURES
from lab.node import hopline, xdp_id
from lab.traffic import BEHIND4, BEHIND6, DROP, Flow, Traffic, WideRouter, attach, forwarded, nft, verdicts, wait_for

NEW_MAC = "02:00:00:00:0a:0a"


@pytest.fixture
def wide():
    with WideRouter() as net:
        yield net


@pytest.fixture
def serving(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "right")
    return one


def lines(one: Daemon, *arguments: str) -> list[list[str]]:
    return [line.split() for line in one.call(*arguments).stdout.splitlines()]


def hop_counts(one: Daemon) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Packets and bytes by (device, destination MAC, origin)."""
    counts: dict[tuple[str, str, str], tuple[int, int]] = {}
    for row in one.json("forward", "show", "--next-hops"):
        key = (row["dev"], row["dst_mac"], row["origin"])
        packets, octets = counts.get(key, (0, 0))
        counts[key] = (packets + row["packets"], octets + row["bytes"])
    return counts


def test_what_is_shown_is_what_was_entered_and_learned(wide, serving):
    mac = wide.server.mac
    assert lines(serving, "forward", "show") == [["DESTINATION", "DEV", "SRC-MAC", "DST-MAC", "ORIGIN", "FRESH"]]
    serving.call("forward", "add", "10.50.0.0/16", "--dev", "right", "--dst-mac", mac.upper(), "--src-mac", NEW_MAC)
    serving.call("forward", "add", "fd00:50::7", "--via", wide.server.ip6)
    with Traffic(wide, wide.flows(), 400):
        time.sleep(0.3)
        table = lines(serving, "forward")
        assert ["10.50.0.0/16", "right", NEW_MAC, mac, "operator", "always"] in table
        assert ["fd00:50::7", "right", wide.right.mac, mac, "operator", "followed"] in table
        for behind in (BEHIND4, BEHIND6):
            # an event of the host's, such as the end of duplicate address detection, may just have made all stale
            row = [behind, "right", wide.right.mac, mac, "learned", "yes"]
            assert wait_for(lambda row=row: row in lines(serving, "forward")), lines(serving, "forward")
            shown = ["forward", "show", behind, "--origin", "learned"]
            assert wait_for(lambda shown=shown: [row["to"] for row in serving.json(*shown)]) == [behind]
        assert len(serving.json("forward", "show", "--limit", "1")) == 1
        operator = serving.json("forward", "show", "--origin", "operator")
        assert {row["to"] for row in operator} == {"10.50.0.0/16", "fd00:50::7"}
        assert [row["to"] for row in serving.json("forward", "show", "10.50.0.0/16")] == ["10.50.0.0/16"]
    told = serving.call("forward", "flush", "--origin", "learned").stdout
    assert re.fullmatch(r"\d+ learned entr(y|ies) forgotten\n", told), told
    assert serving.json("forward", "show", "--origin", "learned") == []
    assert len(serving.json("forward", "show")) == 2
    serving.call("forward", "del", "10.50.0.0/16")
    assert [row["to"] for row in serving.json("forward", "show")] == ["fd00:50::7"]


def test_the_longest_entry_decides_and_a_replaced_one_at_once(wide, serving):
    by = {
        "server": ["--dev", "right", "--dst-mac", wide.server.mac],
        "other": ["--dev", "third", "--dst-mac", wide.other.mac],
    }
    for to in ("10.50.0.0/16", "fd00:50::/32"):
        serving.call("forward", "add", to, *by["server"])
    for to in ("10.50.7.0/24", "fd00:50:7::/48"):
        serving.call("forward", "add", to, *by["other"])
    for to in ("10.50.7.7", "fd00:50:7::7"):
        serving.call("forward", "add", to, *by["server"])
    four, six = wide.client.ip4, wide.client.ip6
    flows = {
        "wide": Flow(four, "10.50.1.1"), "narrow": Flow(four, "10.50.7.1"), "host": Flow(four, "10.50.7.7"),
        "wide6": Flow(six, "fd00:50:1::1"), "narrow6": Flow(six, "fd00:50:7::1"), "host6": Flow(six, "fd00:50:7::7"),
    }  # fmt: skip
    with Traffic(wide, flows, 1000) as traffic:
        time.sleep(0.3)
        before = time.time_ns()
        serving.call("forward", "replace", "10.50.7.7", *by["other"])
        serving.call("forward", "replace", "fd00:50:7::7", *by["other"])
        after = time.time_ns()
        time.sleep(0.2)
    for name in flows:
        place, end = ("other", wide.other) if name.startswith("narrow") else ("server", wide.server)
        until = before if name.startswith("host") else None
        assert traffic.judge(name, f"{place} {end.mac}", 0, until).wrong == 0, name
        if name.startswith("host"):
            assert traffic.judge(name, f"other {wide.other.mac}", after).wrong == 0, name
            either = {f"server {wide.server.mac}", f"other {wide.other.mac}"}
            assert traffic.judge(name, either, 0).wrong == 0, name


def test_next_hops_count_what_the_receivers_counted(wide, serving):
    serving.call("forward", "add", "10.50.0.1", "--dev", "right", "--dst-mac", wide.server.mac)
    serving.call("forward", "add", "10.50.0.2", "--dev", "third", "--dst-mac", wide.other.mac)
    serving.call("forward", "add", "fd00:50::2", "--dev", "third", "--dst-mac", wide.other.mac)
    four, six = wide.client.ip4, wide.client.ip6
    own = {"one": Flow(four, "10.50.0.1", 200), "two": Flow(four, "10.50.0.2"), "six": Flow(six, "fd00:50::2")}
    flows = {**own, **wide.flows()}
    before = hop_counts(serving)
    began = forwarded(serving, "left")
    with Traffic(wide, flows, 1500) as traffic:
        time.sleep(0.7)
    arrived = {name: traffic.delivered(name) for name in flows}
    assert arrived == {name: traffic.count(name) for name in flows}

    def moved(*key: str) -> tuple[int, int]:
        now, then = hop_counts(serving).get(key, (0, 0)), before.get(key, (0, 0))
        return now[0] - then[0], now[1] - then[1]

    ether, ip4, ip6, udp = 14, 20, 40, 8
    one, small = arrived["one"] * (ether + ip4 + udp + 200), ether + udp + 64
    assert moved("right", wide.server.mac, "operator") == (arrived["one"], one)
    other = arrived["two"] * (small + ip4) + arrived["six"] * (small + ip6)
    assert moved("third", wide.other.mac, "operator") == (arrived["two"] + arrived["six"], other)
    # a learned destination's first packets, and those just after an event of the host's, go by the kernel
    by_xdp = forwarded(serving, "left") - began
    learned = moved("right", wide.server.mac, "learned")[0]
    assert learned == by_xdp - sum(arrived[name] for name in own)
    assert 0.8 * (arrived["ipv4"] + arrived["ipv6"]) < learned <= arrived["ipv4"] + arrived["ipv6"]
    table = lines(serving, "forward", "show", "--next-hops")
    assert table[0] == ["DEV", "SRC-MAC", "DST-MAC", "MTU", "ENTRIES", "PACKETS", "BYTES"]
    assert ["third", wide.third.mac, wide.other.mac, "1500", "2"] in [row[:5] for row in table]


def test_get_says_what_the_packets_do(wide, serving):
    serving.call("forward", "add", "10.50.0.0/24", "--dev", "third", "--dst-mac", wide.other.mac)
    answer = serving.json("forward", "get", "10.50.0.9", "--in", "left")
    assert (answer["verdict"], answer["dev"], answer["dst_mac"]) == ("FORWARDED", "third", wide.other.mac)
    assert (answer["origin"], answer["entry"], answer["cached"]) == ("operator", "10.50.0.0/24", False)
    assert answer["why"]
    for address in (BEHIND4, BEHIND6):
        answer = serving.json("forward", "get", address)
        assert (answer["verdict"], answer["origin"], answer["dst_mac"]) == ("FORWARDED", "learned", wide.server.mac)
    assert serving.json("forward", "get", wide.left.ip4)["verdict"] == "PASS_LOCAL"
    assert serving.json("forward", "get", "192.0.2.1")["verdict"] == "PASS_NO_ROUTE"
    assert serving.json("forward", "get", "10.1.0.2", "--in", "left")["verdict"] == "PASS_HAIRPIN"
    sh(wide.ns, "sysctl -qw net.ipv4.ip_forward=0")
    denied = wait_for(lambda: serving.json("forward", "get", BEHIND4)["verdict"] != "FORWARDED")
    assert denied
    why = " ".join(serving.json("forward", "get", BEHIND4)["why"])
    assert "forwarding is off" in why, why
    line = serving.call("forward", "get", "10.50.0.9").stdout.splitlines()[0]
    assert line.startswith("10.50.0.9 dev third src-mac ")
    assert " verdict FORWARDED" in line


def test_asking_moves_no_counter_and_sends_nothing(wide, serving):
    serving.call("forward", "add", "10.50.0.9", "--dev", "third", "--dst-mac", wide.other.mac)
    before = verdicts(serving, "left"), hop_counts(serving), serving.json("forward", "show")
    with Traffic(wide, {"none": Flow(wide.client.ip4, BEHIND4)}, 1) as traffic:
        for _ in range(3):
            serving.call("forward", "get", "10.50.0.9")
        sent = traffic.count("none")
    after = verdicts(serving, "left"), hop_counts(serving), serving.json("forward", "show")
    assert after[0].get("FORWARDED", 0) - before[0].get("FORWARDED", 0) <= sent
    assert after[1].get(("third", wide.other.mac, "operator")) == before[1].get(("third", wide.other.mac, "operator"))


def test_generic_mode_forwards_and_native_again_without_loss(wide, serving):
    serving.call("forward", "add", "10.50.0.1", "--dev", "right", "--dst-mac", wide.server.mac)
    native = xdp_id(wide.ns, "left")
    with Traffic(wide, {"operator": Flow(wide.client.ip4, "10.50.0.1"), **wide.flows()}, 600) as traffic:
        time.sleep(0.2)
        told = serving.call("interface", "set", "left", "--mode", "generic")
        assert "generic mode" in told.stdout
        state = serving.json("interface", "show", "left")[0]
        assert (state["mode"], state["wanted_mode"]) == ("generic", "generic")
        assert "xdpgeneric" in sh(wide.ns, "ip link show dev left").stdout
        moment = time.time_ns()
        count = forwarded(serving, "left")
        time.sleep(0.4)
        assert forwarded(serving, "left") - count > 100
        serving.restart()
        assert serving.json("interface", "show", "left")[0]["mode"] == "generic"
        native_again = time.time_ns()
        serving.call("interface", "set", "left", "--mode", "native")
        assert serving.json("interface", "show", "left")[0]["mode"] == "native"
        later = time.time_ns()
        time.sleep(0.3)
    assert xdp_id(wide.ns, "left") not in (0, native)
    for name in traffic.flows:
        # changing the mode detaches for a moment: then the kernel forwards what has a route
        spans = [(0, None)] if name != "operator" else [(moment, native_again), (later, None)]
        for since, until in spans:
            assert traffic.judge(name, f"server {wide.server.mac}", since, until).wrong == 0, (name, since)


def test_bypass_policy_forwards_where_the_kernel_would_drop(wide, serving):
    nft(wide.ns, DROP).go()
    assert wait_for(lambda: not any(serving.json("interface", "show", "left")[0]["learning"].values()))
    status = serving.call("status").stdout
    assert re.search(r"because .*(nft|netfilter)", status), status
    told = serving.call("interface", "set", "left", "--bypass-policy")
    assert "learning on" in told.stdout, told
    with Traffic(wide, wide.flows(), 400) as traffic:
        time.sleep(0.4)
        time_on = time.time_ns()
        serving.call("interface", "set", "left", "--no-bypass-policy")
        time_off = time.time_ns()
        time.sleep(0.3)
    for family in wide.flows():
        assert traffic.judge(family, f"server {wide.server.mac}", 0, time_on).wrong == 0
        assert traffic.judge(family, "lost", time_off).wrong == 0
    serving.call("interface", "set", "left", "--bypass-policy")
    serving.restart()
    assert serving.json("interface", "show", "left")[0]["bypass_policy"]


def test_status_in_words_and_as_json(wide, serving):
    with Traffic(wide, wide.flows(), 300):
        time.sleep(0.3)
    status = serving.json("status")
    assert status["instance"] == serving.instance
    assert status["pid"] == serving.pid
    assert status["lease_ms"] == 1000
    assert status["netns"] == os.stat(f"/proc/{serving.pid}/ns/net").st_ino
    assert status["entries"]["operator"] == 0
    names = {state["name"] for state in status["interfaces"]}
    assert names == {"left", "right"}
    left = next(state for state in status["interfaces"] if state["name"] == "left")
    assert left["steps"][0] == "parse"
    assert "forward" in left["steps"]
    assert left["program_id"] == xdp_id(wide.ns, "left")
    assert left["verdicts"]["FORWARDED"]["packets"] > 0
    text = serving.call("status").stdout
    assert f"left: {AUTO} mode, program hopline_xdp (id {left['program_id']}" in text
    assert re.search(r"FORWARDED +\d+ .*\d+", text)


def test_instance_before_and_after_the_verb_and_hidden_names(wide, serving):
    instance = ["--instance", serving.instance]
    serving.call("forward", "add", "10.50.0.1", "--via", wide.server.ip4)
    wanted = serving.call("forward", "show").stdout
    for words in (
        [*instance, "forward", "show"], ["forward", *instance, "show"], ["forward", "show", *instance],
        [*instance, "forward"], ["forward", *instance], ["forward", "list", *instance], ["forward", "ls", *instance],
        [f"--instance={serving.instance}", "forward"], [*instance, "forward", "show", *instance],
    ):  # fmt: skip
        told = hopline(wide.ns, *words)
        assert (told.returncode, told.stdout, told.stderr) == (0, wanted, ""), words
    for verb in ("delete", "rm"):
        assert hopline(wide.ns, "forward", verb, "10.50.0.1", *instance).returncode == 0
        serving.call("forward", "add", "10.50.0.1", "--via", wide.server.ip4)
    helped = hopline(wide.ns, "forward", "--help").stdout
    assert "  show" in helped
    assert not re.search(r"^  (list|ls|delete|rm)\b", helped, re.MULTILINE)
    assert hopline(wide.ns, "interface", "rm", "left", *instance).returncode == 0
    assert xdp_id(wide.ns, "left") == 0


@pytest.mark.parametrize("family", [4, 6])
def test_tcp_carries_5_mb_each_way_unchanged(family, wide, serving):
    there, back = os.urandom(5_000_000), os.urandom(5_000_000)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    address = wide.server.ip4 if family == 4 else wide.server.ip6
    listener = netns.run_in(wide.server.ns, socket.create_server, (address, 7000), family=kind)
    got: dict[str, bytes] = {}

    def serve() -> None:
        with listener, listener.accept()[0] as stream:
            stream.settimeout(20)
            got["there"] = drained(stream)
            stream.sendall(back)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    before = forwarded(serving, "left"), forwarded(serving, "right")
    with netns.run_in(wide.client.ns, socket.create_connection, (address, 7000), 20) as stream:
        stream.sendall(there)
        stream.shutdown(socket.SHUT_WR)
        got["back"] = drained(stream)
    server.join(20)
    for name, sent in (("there", there), ("back", back)):
        assert hashlib.sha256(got[name]).digest() == hashlib.sha256(sent).digest(), name
    for dev, count in zip(("left", "right"), before, strict=True):
        assert forwarded(serving, dev) - count > len(there) // 1500, f"{dev}: it did not go by XDP"


def drained(stream: socket.socket) -> bytes:
    parts = []
    while part := stream.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_traps_are_said_when_an_interface_is_added(wide, daemon):
    sh(wide.client.ns, "ethtool -K eth0 gro off tx on")
    one = daemon(wide.ns)
    added = one.call("interface", "add", "left")
    warnings = added.stderr.splitlines()
    assert added.returncode == 0
    assert all(line.startswith("hopline: warning: left: ") for line in warnings), warnings
    for what, mend in (("neither gro nor an xdp program", "gro on"), ("without checksum", "tx off")):
        assert any(what in line and line.endswith(f"ethtool -K eth0 {mend}") for line in warnings), warnings
    # the daemon has given up the right to look into the peer's namespace, so it names what it sees from here
    kept = one.json("interface", "show", "left")[0]["warnings"]
    assert ["neither gro nor an xdp program" in warning for warning in kept] == [True] * TELLS_FEATURES
    for line in warnings:  # the hint, word for word, mends it
        sh(None, line.rpartition(": ")[2])
    one.call("interface", "del", "left")
    assert one.call("interface", "add", "left").stderr == ""
