"""Records in words: for every verdict what was looked up, what was found, and why, without a kernel."""

import numpy as np
import pytest
from scapy.layers.l2 import ARP

from bpf.frames import ICMP, IP, TCP, ip4, ip6
from bpf.frames import frame as framed
from daemon.explain.scenes import LAYOUT, LEFT, OWN, HostDouble, fib, hop, route, scene
from hopline.config import NextHop
from hopline.daemon.explain import steps, words
from hopline.daemon.explain.notes import notes_of
from hopline.daemon.explain.steps import steps_of

ALL = ("CACHE", "LOCAL", "EXACT", "PREFIX")


def lines(made):
    """Every step but the first, `came in by`, and the last, the verdict, by name."""
    found = [(step.step, step.says) for step in steps_of(made)]
    assert found[0] == ("in", "came in by left (native xdp)")
    assert found[-1][0] == "verdict"
    return found[1:-1]


def test_learned_anew():
    made = scene("FORWARDED", lookups=(*ALL, "FIB"), found="FIB", generation=17, **fib(), **hop(via="10.2.0.2"))
    assert lines(made) == [
        ("parse", "IPv4 UDP 10.0.1.2:4000 > 10.9.0.9:5000, TTL 64, 35 octets"),
        ("frame", f"addressed to left's own MAC {OWN}"),
        ("cache", "not in the cache, generation 17"),
        ("entry", "no operator entry covers 10.9.0.9"),
        ("fib", "the FIB has a route and a neighbour: 10.2.0.2 on right, MTU 1500"),
        ("route", "by the route 10.9.0.0/24 via 10.2.0.2 dev right"),
        (
            "adjacency",
            "a next hop to learn: right 02:00:00:00:02:01 > 02:00:00:00:02:02, "
            "10.2.0.2 is reachable, confirmed 3.1 s ago",
        ),
        ("mtu", "its 35 octets fit the MTU of 1500"),
    ]


def test_learned_before():
    made = scene(
        "FORWARDED", lookups=("CACHE",), found="CACHE", generation=5, state="READY", **hop(via="10.2.0.2", id=9000)
    )
    assert dict(lines(made))["cache"] == "found in the cache, generation 5: next hop 9000, learned"
    assert dict(lines(made))["adjacency"].startswith("next hop 9000: right ")
    assert "entry" not in dict(lines(made))


@pytest.mark.parametrize(
    ("entry", "next_hop", "says"),
    [
        ("10.9.0.9", NextHop(dev="right", dst_mac=OWN), f"10.9.0.9 (exact): dev right dst-mac {OWN}"),
        ("10.9.0.0/16", NextHop(via="10.2.0.2"), "10.9.0.0/16 (prefix): via 10.2.0.2"),
    ],
)
def test_an_operator_entry_by_table_and_by_cache(entry, next_hop, says):
    host = HostDouble(entries={"10.9.0.9": (entry, next_hop)})
    there = {"host": host, "state": "READY", "generation": 3}
    by_table = dict(lines(scene("FORWARDED", lookups=ALL, found="PREFIX", **there, **hop(id=16))))
    assert by_table["entry"] == f"operator entry {says}"
    assert by_table["adjacency"] == "next hop 16: right 02:00:00:00:02:01 > 02:00:00:00:02:02, entered by MAC"
    cached = dict(lines(scene("FORWARDED", lookups=("CACHE",), found="CACHE", **there, **hop(id=16))))
    assert cached["cache"] == "found in the cache, generation 3: next hop 16, of an operator entry"
    assert cached["entry"] == f"operator entry {says}"


def test_how_fresh_a_neighbour_is():
    def said(**host):
        made = scene(
            "FORWARDED",
            lookups=ALL,
            found="EXACT",
            state="READY",
            host=HostDouble(**host),
            **hop(via="10.2.0.2", id=16),
        )
        return dict(lines(made))["adjacency"].partition(", ")[2]

    assert said() == "10.2.0.2 is reachable, confirmed 3.1 s ago"
    assert said(state="stale", unconfirmed=200) == "10.2.0.2 is stale, not confirmed for 3 min"
    assert said(state="permanent") == "10.2.0.2 is permanent"
    assert said(state=None) == "10.2.0.2 is no neighbour of the kernel's now"
    assert said(mac="02:00:00:00:0f:0f") == "10.2.0.2 is reachable, confirmed 3.1 s ago at 02:00:00:00:0f:0f now"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (1, "the FIB's route is a blackhole"),
        (2, "the FIB's route says unreachable"),
        (3, "the FIB's route says prohibited"),
        (4, "the FIB does not forward it: no route, or not unicast"),
        (5, "the FIB does not forward it: forwarding is off on left"),
        (6, "the FIB's route has a lightweight tunnel, which is the kernel's"),
        (7, "no neighbour for 10.10.3.5 on right: the kernel will ask"),
        (8, "its 35 octets are more than the route's MTU of 20"),
        (99, "the FIB answered 99"),
    ],
)
def test_codes_of_the_fib_are_words(code, says):
    made = scene("PASS_NO_ROUTE", lookups=(*ALL, "FIB"), found="FIB", **fib(code, "10.10.3.5", mtu=20))
    assert dict(lines(made))["fib"] == says


def test_every_code_that_the_kernel_has_is_a_word():
    # enum of struct bpf_fib_lookup's results, 0 to 9 on the kernels there are
    assert sorted(steps.FIB_WORDS) == list(range(10))


def test_the_route_is_named_with_what_is_special_about_it():
    def said(found):
        made = scene("PASS_NO_ROUTE", lookups=(*ALL, "FIB"), found="FIB", host=HostDouble(routes=found), **fib(4))
        return dict(lines(made))["route"]

    assert said(route("default", mtu=1300, table=77)) == "by the route default via 10.2.0.2 dev right mtu 1300 table 77"
    assert said(route(gateway=None, kind="local", index=LEFT)) == "by the route local 10.9.0.0/24 dev left"
    assert said(route(tunnel=True)).endswith("dev right with a lightweight tunnel")
    assert said("network unreachable") == "the kernel's answer to `ip route get`: network unreachable"


def test_without_a_lease_the_next_hop_is_asked_for():
    made = scene(
        "FORWARDED", lookups=("LOCAL", "EXACT", "FIB"), found="FIB", state="READY",
        **fib(asked="10.2.0.2"), **hop(via="10.2.0.2", id=16),
    )  # fmt: skip
    found = dict(lines(made))
    assert found["cache"] == "cache not asked: the lease has run out, so nobody vouches for it"
    assert found["fib"].startswith("the FIB is asked for next hop 10.2.0.2: the FIB has a route")


def test_what_forbids_learning_is_a_line_each():
    host = HostDouble(reasons=("strict rp_filter on left", "nftables chain t f"))
    found = lines(scene("PASS_NOT_LEARNING", lookups=ALL, host=host, adjacency=2))
    assert [text for name, text in found if name == "learning"] == [
        "learning off: strict rp_filter on left",
        "learning off: nftables chain t f",
    ]
    assert ("learning", "learning off: it was a moment ago, and no reason is left") in lines(
        scene("PASS_NOT_LEARNING", lookups=ALL, adjacency=2)
    )


def test_policy_that_is_bypassed_is_said():
    flag = int(LAYOUT.enum("interface_flag").INTERFACE_BYPASS_POLICY)
    host = HostDouble(reasons=("nftables chain t f",))
    learned = {"lookups": (*ALL, "FIB"), "found": "FIB", "host": host, **fib(), **hop(via="10.2.0.2")}
    says = "learned though the kernel's own path has more, by bypass_policy: nftables chain t f"
    assert ("learning", says) in lines(scene("FORWARDED", flags=flag, **learned))
    assert "learning" not in dict(lines(scene("FORWARDED", flags=0, **learned)))
    operators = {"lookups": ALL, "found": "EXACT", "host": host, "state": "READY", **hop(id=16)}
    assert "learning" not in dict(lines(scene("FORWARDED", flags=flag, **operators)))


@pytest.mark.parametrize(
    ("packet", "verdict", "name", "says"),
    [
        (ip4(ttl=1), "PASS_TTL", "ttl", "TTL 1: no hop is left"),
        (ip4("10.1.0.1"), "PASS_LOCAL", "entry", "10.1.0.1 is one of this host's own addresses"),
        (ip4("127.0.0.1"), "PASS_MARTIAN", "address", "destination 127.0.0.1 is loopback, which no router"),
        (ip4(src="0.0.0.9"), "PASS_MARTIAN", "address", "source 0.0.0.9 is of this network (0.0.0.0/8), which"),
        (ip4(src="10.1.0.1"), "PASS_MARTIAN", "address", "its source 10.1.0.1 is an address of this host"),
        (ip6("fe80::1"), "PASS_MARTIAN", "address", "its destination fe80::1 is link-local, which no router forwards"),
        (ip6(src="::"), "PASS_MARTIAN", "address", "its source :: is unspecified, which no router forwards"),
        (ip6(src="ff02::1"), "PASS_MARTIAN", "address", "source ff02::1 is multicast or broadcast, which"),
        (ip4("224.0.0.9"), "PASS_MULTICAST", "address", "its destination 224.0.0.9 is multicast or broadcast"),
        (ip4(), "PASS_OPTIONS", "options", "it has options that a router must look at"),
        (framed(IP(), dst="01:00:5e:00:00:09"), "PASS_MULTICAST", "frame", "addressed to the group 01:00:5e:00:00:09"),
        (
            framed(IP(), dst="02:00:00:00:99:99"), "PASS_OTHER_HOST", "frame",
            f"addressed to 02:00:00:00:99:99, and left is {OWN}: somebody else's, or on its way out of a capture",
        ),
        (framed(ARP()), "PASS_NOT_IP", "parse", "ARP, 42 octets"),
        (ip4(chksum=1), "PASS_MALFORMED", "parse", "49 octets: its header checksum is 0x0001, and should be 0x"),
        (framed(IP(dst="10.9.0.9"), TCP(flags="SA", dport=22)), "FORWARDED", "parse", ":22, flags SA, TTL 64, 40 oct"),
        (framed(IP(dst="10.9.0.9"), ICMP()), "FORWARDED", "parse", "type 8 code 0 (echo request), TTL 64"),
        (ip6("2001:db8::9"), "FORWARDED", "parse", "UDP [2001:db8:1::2]:4000 > [2001:db8::9]:5000, TTL 64, 55"),
    ],
)  # fmt: skip
def test_what_decides_is_said(packet, verdict, name, says):
    lookups = ALL if verdict in ("PASS_TTL", "PASS_LOCAL") else ()
    assert says in dict(lines(scene(verdict, packet, lookups=lookups)))[name]


def test_flags_of_parse_and_tags():
    flags = LAYOUT.enum("packet_flag")
    made = scene("PASS_OPTIONS")
    for held, says in (
        (flags.PACKET_FRAGMENT, "octets, the first fragment"),
        (flags.PACKET_FRAGMENT | flags.PACKET_LATER_FRAGMENT, "octets, a later fragment, so without ports"),
        (flags.PACKET_OPTIONS, "octets, IPv4 options"),
        (flags.PACKET_HOP_BY_HOP | flags.PACKET_L4_TRUNCATED, "a hop-by-hop header, too short for its L4 header"),
    ):
        made.event["packet"]["flags"] = held
        assert dict(lines(made))["parse"].endswith(says)
    made.event["packet"]["tags"] = 2
    made.event["packet"]["tag"] = [0x6005, 7]
    assert dict(lines(made))["parse"].startswith("VLAN 5, VLAN 7, IPv4 UDP")


@pytest.mark.parametrize(
    ("state", "via", "says"),
    [
        ("UNRESOLVED", "10.2.0.9", "next hop 16: no neighbour for 10.2.0.9 on right"),
        ("UNRESOLVED", None, "next hop 16: no neighbour on right"),
        ("NO_DEVICE", None, "next hop 16: no device, so it is not used"),
        ("RETIRING", None, "next hop 16: retiring, so it is not used"),
    ],
)
def test_a_next_hop_that_is_not_ready(state, via, says):
    made = scene("PASS_NO_EGRESS", lookups=ALL, found="EXACT", state=state, **hop(via=via, id=16))
    assert dict(lines(made))["adjacency"] == says


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ("NO_SLOT", "right has no slot in Hopline's tables: it came just now, or there are too many devices"),
        ("NO_REDIRECT", "right takes no redirect in native mode: it is gone, down, or of a kind that cannot"),
        ("ONE_BUFFER", "right takes a frame in one buffer only, and this one is in several"),
    ],
)
def test_why_a_device_does_not_take_it(refusal, says):
    made = scene("PASS_NO_EGRESS", lookups=(*ALL, "FIB"), found="FIB", refusal=refusal, **fib(), **hop(via="10.2.0.2"))
    assert dict(lines(made))["egress"] == says


def test_every_refusal_has_words():
    assert set(steps.REFUSAL_WORDS) == {each.name for each in LAYOUT.enum("refusal")} - {"REFUSAL_NONE"}


def test_every_verdict_has_words():
    assert set(words.VERDICT_WORDS) == {each.name for each in LAYOUT.enum("verdict")} - {"CONTINUE"}


def test_too_big_by_the_next_hop():
    made = scene("PASS_TOO_BIG", lookups=ALL, found="EXACT", state="READY", **hop(id=16, mtu=30))
    assert dict(lines(made))["mtu"] == "its 35 octets are more than the next hop's MTU of 30"


def test_a_step_without_words_is_shown_field_by_field_and_only_where_it_noted_something(monkeypatch):
    made = scene("FORWARDED", lookups=ALL, found="EXACT", state="READY", **hop(id=16))
    monkeypatch.delitem(steps.RENDERERS, "forward")
    text = dict(lines(made))["forward"]
    assert text.startswith(
        "forward: lookups LOOKUP_CACHE LOOKUP_LOCAL LOOKUP_EXACT LOOKUP_PREFIX, found LOOKUP_EXACT, fib -1"
    )
    assert "destination 02:00:00:00:02:02 1500" in text
    made.event["forward"] = np.zeros(1, made.event["forward"].dtype)[0]
    assert "forward" not in dict(lines(made))


def test_every_note_of_the_shipped_program_has_words():
    assert set(notes_of(LAYOUT)) == set(steps.RENDERERS)
