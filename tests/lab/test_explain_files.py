"""`explain` of whole files, by whoever may look; and that asking, of one packet or many, changes nothing."""

import json
import subprocess
import time

import pytest
from scapy.utils import wrpcap

import hopline
from bpf.frames import IP, UDP
from hopline.explain import BATCH_FRAMES
from hopline.kernel import Map, netns
from hopline.kernel.netlink import query
from hopline.lab.shell import enter
from lab.explained import FRAMES, IN_FIELDS, NOBODY, serving, to_left, v4, world
from lab.net import send_frames, sh
from lab.node import assert_refused
from lab.node import hopline as command
from lab.traffic import wait_for
from others import let_others_in


@pytest.fixture(scope="module")
def net():
    with world() as one:
        yield one


@pytest.fixture(scope="module")
def node(net, tmp_path_factory):
    with serving(net, tmp_path_factory.mktemp("explain") / "d") as daemon:
        yield daemon


@pytest.fixture
def explain(node):
    return hopline.connect(node.instance).explain


# nothing is changed


def contents(daemon):
    """Every pinned map, octet for octet, but for the lease and the clock, which are the daemon's own to move."""
    found = {}
    for pin in daemon.pins.iterdir():
        if pin.name.startswith(("link_", "lent")):
            continue
        with Map.from_pin(pin) as table:
            if pin.name.startswith("egress"):
                found[pin.name] = [int(table.get(slot) or 0) for slot in range(table.max_entries)]
                continue
            keys, values = table.items()
            if pin.name == "state":
                values = values.copy()
                values["lease_deadline"] = values["jiffies"] = values["clock"] = 0
            found[pin.name] = sorted((k.tobytes(), v.tobytes()) for k, v in zip(keys, values, strict=True))
    return found


def kernels(net):
    """What a packet that is really sent would leave in the kernel."""

    def ask():
        # what keeps neighbours alive is the daemon's, so states may move; that one is there, and its MAC, may not
        return sorted((n.index, n.address, n.mac) for n in query.neighbours())

    counters = sh(net.ns, "nstat -asz --json").stdout
    icmp = {name: value for name, value in json.loads(counters)["kernel"].items() if "Icmp" in name or "Ip" in name}
    return netns.run_in(net.ns, ask), icmp


def test_asking_changes_no_table_no_counter_and_no_neighbour(net, node, explain, tmp_path):
    def ask_everything():
        for _, fields, _ in IN_FIELDS:
            explain.packet(**{"in_dev": "left", **fields})
        for frame in FRAMES.values():
            explain.frame(frame, in_dev="left")
        wrpcap(str(tmp_path / "all.pcap"), [*FRAMES.values(), v4(), v4("10.2.0.77"), v4("10.9.0.77")] * 50, linktype=1)
        explain.capture(tmp_path / "all.pcap", in_dev="left")
        hopline.connect(node.instance).forward.get("10.9.0.123", in_dev="left")

    def settled():
        held = contents(node)
        time.sleep(0.5)
        return not sh(net.ns, "ip -6 address show tentative").stdout and contents(node) == held

    ask_everything()  # what a first question needs is there now
    assert wait_for(settled, 10)
    before = contents(node), kernels(net)
    ask_everything()
    after = contents(node), kernels(net)
    assert [name for name in before[0] if before[0][name] != after[0][name]] == []
    assert after[1] == before[1]
    # and all of it is seen to change when such packets come
    send_frames(net.client.ns, "eth0", [v4("10.2.0.77"), v4("10.9.0.78"), v4(ttl=1)])
    assert wait_for(lambda: kernels(net)[0] != before[1][0])
    changed = {name for name, held in contents(node).items() if held != before[0][name]}
    assert changed >= {"verdict_count", "cache_misses", "cache4", "next_hop_count"}


# who may ask


def test_the_view_right_is_enough_and_does_no_more(net, node):
    at = ("--instance", node.instance)
    asked = command(net.ns, "explain", "--in", "left", "--dst", "10.9.0.9", "--json", *at, uid=NOBODY)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert json.loads(asked.stdout)["verdict"] == "FORWARDED"
    assert_refused(command(net.ns, "forward", "del", "10.50.0.9", *at, uid=NOBODY), 1, "permission denied")


def test_a_file_is_explained_with_the_view_right_and_without_the_interface_s_name(net, node, tmp_path):
    wrpcap(str(tmp_path / "a.pcap"), [v4(), v4("10.2.0.1"), v4(ttl=1)] * 10, linktype=1)
    let_others_in(tmp_path)
    (tmp_path / "a.pcap").chmod(0o644)
    asked = command(
        net.ns, "explain", "--in", "left", "--pcap", str(tmp_path / "a.pcap"), "--instance", node.instance, uid=NOBODY
    )
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith(f"30 packets of {tmp_path / 'a.pcap'} (pcap), as if they came in by left\n\nVERDICT")


# files


def test_a_capture_is_counted_as_the_program_counted_its_packets(net, node, explain, tmp_path):
    def counted():
        [state] = hopline.connect(node.instance).interface.show("left")
        return {name: count.packets for name, count in state.verdicts.items()}

    sent = [v4(), v4("10.2.0.1"), v4(ttl=1), v4("10.50.0.9"), v4("224.0.0.9"), *FRAMES.values()] * 7
    file = tmp_path / "sent.pcap"
    recorder = subprocess.Popen(
        enter(
            net.client.ns,
            ["tcpdump", "-i", "eth0", "-Q", "out", "-U", "--immediate-mode", "-w", str(file), "-Z", "root"],
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "listening on eth0" in recorder.stderr.readline()
        before = counted()
        send_frames(net.client.ns, "eth0", sent, interval=0.001)
        wait_for(lambda: sum(counted().values()) >= sum(before.values()) + len(sent))
        written = 24 + sum(16 + len(frame) for frame in sent)
        assert wait_for(lambda: file.stat().st_size >= written)
    finally:
        recorder.terminate()
        recorder.wait(5)
    moved = {name: now - before.get(name, 0) for name, now in counted().items() if now != before.get(name, 0)}
    found = explain.capture(file, in_dev="left")
    assert {one.verdict: one.packets for one in found.verdicts} == moved


def test_a_summary_and_the_first_of_each(explain, tmp_path):
    frames = [v4("10.2.0.1"), *[v4()] * 6, v4(ttl=1), FRAMES["PASS_NOT_IP"], v4(ttl=1)]
    wrpcap(str(tmp_path / "a.pcap"), frames, linktype=1)
    found = explain.capture(tmp_path / "a.pcap", in_dev="left")
    assert [(one.verdict, one.packets, one.share, one.first) for one in found.verdicts] == [
        ("FORWARDED", 6, 0.6, 2),
        ("PASS_TTL", 2, 0.2, 8),
        ("PASS_LOCAL", 1, 0.1, 1),
        ("PASS_NOT_IP", 1, 0.1, 9),
    ]
    assert [one.explanation.packet.hex for one in found.verdicts] == [
        frames[one.first - 1].hex() for one in found.verdicts
    ]
    assert all(one.explanation.verdict == one.verdict for one in found.verdicts)
    assert sum(one.bytes for one in found.verdicts) == sum(map(len, frames))
    assert explain.capture(tmp_path / "a.pcap", in_dev="left", limit=3).packets == 3


def test_frames_that_were_cut_are_explained_as_far_as_they_are_known(explain, tmp_path):
    whole = to_left(IP(src="10.1.0.2", dst="10.9.0.9"), UDP(sport=4000, dport=5000), bytes(range(256)) * 4)
    file = tmp_path / "cut.pcap"
    wrpcap(str(file), [whole], linktype=1, snaplen=60)
    data = bytearray(file.read_bytes())
    kept = bytes(data[:24]) + bytes(data[24:32]) + (60).to_bytes(4, "little") + len(whole).to_bytes(4, "little")
    file.write_bytes(kept + whole[:60])
    found = explain.capture(file, in_dev="left")
    [one] = found.verdicts
    assert (found.cut, one.verdict, one.bytes) == (1, "FORWARDED", len(whole))
    assert one.explanation.packet.octets == len(whole)
    assert one.explanation.unseen[-1].startswith(f"the last {len(whole) - 60} octets, which were not captured")


def test_more_packets_than_a_request_holds(explain, tmp_path):
    count = BATCH_FRAMES * 2 + 3
    wrpcap(str(tmp_path / "many.pcap"), [v4()] * (count - 1) + [v4("10.2.0.1")], linktype=1)
    found = explain.capture(tmp_path / "many.pcap", in_dev="left")
    assert [(one.verdict, one.packets, one.first) for one in found.verdicts] == [
        ("FORWARDED", count - 1, 1),
        ("PASS_LOCAL", 1, count),
    ]
