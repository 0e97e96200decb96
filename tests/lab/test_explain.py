"""`explain` before a real daemon: every verdict's reasons, the packet that leaves, and what the kernel does next."""

import pytest

import hopline
from bpf.frames import IP, UDP, ip6
from hopline.errors import InvalidInput, NotFound
from lab.explained import CLIENT, FRAMES, IN_FIELDS, LEFT, serving, to_left, v4, world
from lab.net import AUTO, Sniffer, send_frames, sh
from lab.node import assert_refused
from lab.traffic import attach, wait_for


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


@pytest.mark.parametrize(("verdict", "fields", "says"), IN_FIELDS, ids=lambda value: str(value)[:50])
def test_every_verdict_has_its_reasons(explain, verdict, fields, says):
    def answered():
        """Asked until learning is not off for a moment: an event of the namespace's rules has it read them again."""
        answer = explain.packet(**{"in_dev": "left", "src": None, **fields})
        return answer if not any("it was a moment ago" in step.says for step in answer.steps) else None

    answer = wait_for(answered)
    assert answer, "learning stays off without a reason"
    lines = [f"{step.step}: {step.says}" for step in answer.steps]
    assert answer.verdict == verdict, lines
    assert any(says in line for line in lines), lines
    assert lines[0] == f"in: came in by {fields.get('in_dev', 'left')} ({AUTO} xdp)"
    assert (answer.leaves is None) is (verdict != "FORWARDED")
    assert bool(answer.then) is (verdict != "FORWARDED")
    assert answer.ns > 0


@pytest.mark.parametrize("verdict", FRAMES)
def test_a_frame_in_hex_is_that_frame(explain, verdict):
    answer = explain.frame(FRAMES[verdict], in_dev="left")
    assert (answer.verdict, answer.packet.hex) == (verdict, FRAMES[verdict].hex())


def test_what_leaves_is_what_the_program_sends(net, node, explain):
    sent = [
        v4(ttl=2, id=5),
        v4("10.50.0.1", flags="DF", tos=0x2E),
        v4("10.50.0.9") + bytes(11),  # behind the IP packet: cut off
        v4(id=0xFFFF, ttl=255, chksum=None),
        v4("10.64.0.1"),
    ]
    explained = [explain.frame(each, in_dev="left") for each in sent]
    with Sniffer(net.server.ns, "eth0", match=lambda frame: b"hopline" in frame) as sniffer:
        send_frames(net.client.ns, "eth0", sent, interval=0.02)
        arrived = sniffer.wait(len(sent))
    assert [each.hex() for each in arrived] == [answer.leaves.hex for answer in explained]
    assert {answer.out_dev for answer in explained} == {"right"}
    cut = explained[2]
    assert cut.packet.octets - cut.leaves.octets == 11
    changed = {(layer.name, f.name): (f.was, f.value) for layer in cut.leaves.layers for f in layer.fields if f.was}
    assert changed.pop(("IPv4", "checksum"))
    assert changed == {
        ("Ethernet", "to"): (LEFT, "02:00:00:00:0e:09"),
        ("Ethernet", "from"): (CLIENT, "02:00:00:00:02:01"),
        ("IPv4", "TTL"): ("64", "63"),
    }


def test_the_cache_is_told_from_the_tables(net, node, explain):
    def said():
        answer = explain.packet(dst="10.9.0.200", in_dev="left")
        return answer.cached, next(step.says for step in answer.steps if step.step == "cache")

    def learned():
        send_frames(net.client.ns, "eth0", [v4("10.9.0.200")])
        return said()[0]

    hopline.connect(node.instance).forward.flush()
    assert said() == (False, f"not in the cache, generation {hopline.connect(node.instance).status().generation}")
    assert wait_for(learned)
    assert ", learned" in said()[1]


# what is next


ERRORS = {
    "time exceeded": (11, 0),
    "host unreachable": (3, 1),
    "administratively prohibited": (3, 13),
    "network unreachable": (3, 0),
    "fragmentation needed, MTU 1000,": (3, 4),
}


@pytest.mark.parametrize(
    ("packet", "error"),
    [
        (v4(ttl=1), "time exceeded"),
        (v4("10.50.0.1", ttl=1), "network unreachable"),  # the kernel knows nothing of the operator's entries
        (v4("10.60.0.1"), "host unreachable"),
        (v4("10.62.0.1"), "administratively prohibited"),
        (v4("198.18.0.1"), "network unreachable"),
        (
            to_left(IP(src="10.1.0.2", dst="10.64.0.1", flags="DF"), UDP(), bytes(1200)),
            "fragmentation needed, MTU 1000,",
        ),
    ],
)
def test_the_kernel_does_what_is_said_of_it(net, explain, packet, error):
    [said] = explain.frame(packet, in_dev="left").then
    assert error in said

    # an ICMP error: Ethernet, IPv4, 8 octets of ICMP, and the packet's header from 42 on
    with Sniffer(net.client.ns, "eth0", match=lambda f: f[23] == 1 and f[54:62] == packet[26:34]) as sniffer:
        send_frames(net.client.ns, "eth0", [packet])
        [found] = sniffer.wait(1)
    assert (found[34], found[35]) == ERRORS[error]
    if "MTU" in error:
        assert int.from_bytes(found[40:42], "big") == 1000


def test_the_kernel_asks_for_a_neighbour_as_is_said(net, explain):
    [said] = explain.packet(dst="10.2.0.78", in_dev="left", src="10.1.0.2").then
    assert said.startswith("the kernel asks for 10.2.0.78 on right by ARP, keeps the packet meanwhile")
    asked = bytes([10, 2, 0, 78])
    with Sniffer(net.server.ns, "eth0", match=lambda f: f[12:14] == b"\x08\x06" and f[38:42] == asked) as sniffer:
        send_frames(net.client.ns, "eth0", [v4("10.2.0.78")])
        assert sniffer.wait(1)


# by which interface


def test_which_interface_is_chosen_is_said(explain):
    def first(**fields):
        return explain.packet(**fields).steps[0].says

    assert first(dst="10.9.0.9", src="10.1.0.2") == f"came in by left ({AUTO} xdp): the way back to 10.1.0.2 is by it"
    assert first(dst="10.1.0.2", src="10.2.0.2").startswith(f"came in by right ({AUTO} xdp): the way back")
    assert first(dst="10.1.0.2") == f"came in by right ({AUTO} xdp): the first that it would not leave by again"
    assert explain.frame(v4()).steps[0].says == f"came in by left ({AUTO} xdp): the frame is addressed to its MAC"
    with pytest.raises(InvalidInput, match="give left, right, third") as caught:
        explain.frame(FRAMES["PASS_OTHER_HOST"])
    assert caught.value.field == "in"


def test_an_interface_that_is_not_hopline_s_is_not_asked(explain):
    for name in ("bridge", "nosuch"):
        with pytest.raises(NotFound, match=f"interface {name}"):
            explain.packet(dst="10.9.0.9", in_dev=name)


def test_without_interfaces_there_is_nobody_to_ask(wide, daemon):
    one = daemon(wide.ns)
    assert_refused(
        one.call("explain", "--dst", "10.9.0.9", check=False), 1, "no interface is attached", "interface add"
    )
    assert_refused(one.call("explain", "--hex", v4().hex(), check=False), 1, "no interface is attached")
    attach(one, "left")
    assert one.json("explain", "--dst", "10.9.0.9")["in"] == "left"  # the only one
    sh(wide.ns, "ip link del left")
    assert wait_for(lambda: one.call("explain", "--dst", "10.9.0.9", check=False).returncode == 1)
    assert_refused(one.call("explain", "--in", "left", "--dst", "10.9.0.9", check=False), 1, "left is not attached")


def test_it_answers_for_generic_mode_too(wide, daemon):
    one = daemon(wide.ns)
    one.call("interface", "add", "left", "--mode", "generic")
    answer = hopline.connect(one.instance).explain.packet(dst="10.9.0.9")
    assert (answer.verdict, answer.mode) == ("FORWARDED", "generic")
    assert answer.steps[0].says == "came in by left (generic xdp)"
    assert any("GRO merges" in text for text in answer.unseen)


def test_the_json_is_one_object_with_these_fields(node):
    found = node.json("explain", "--in", "left", "--dst", "10.50.7.7")
    assert list(found) == [
        *("in", "mode", "verdict", "says", "steps", "packet", "out_dev", "leaves", "origin", "entry", "via", "cached"),
        *("then", "unseen", "ns", "ns_says", "notes"),
    ]
    assert found["entry"] == "10.50.0.0/16"
    assert list(found["steps"][0]) == ["step", "says"]
    assert list(found["leaves"]) == ["octets", "hex", "layers"]
    assert found["leaves"]["layers"][1]["fields"][3] == {"name": "TTL", "value": "63", "was": "64"}
    assert list(found["notes"]) == ["packet", "decap", "balance", "forward"]
    assert found["notes"]["forward"]["found"] == "LOOKUP_PREFIX"


def test_six_is_as_good_as_four(explain):
    frame = ip6("fd00:9::9", src="fd00:1::2")
    answer = explain.frame(bytes.fromhex(LEFT.replace(":", "")) + frame[6:], in_dev="left")
    assert answer.verdict == "FORWARDED"
    assert explain.packet(dst="fd00:9::9", size=1501, in_dev="left").then == [
        "the kernel drops it and answers ICMPv6 packet too big, MTU 1500, to 2001:db8::1"
    ]
