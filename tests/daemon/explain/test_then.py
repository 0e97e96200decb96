"""What the kernel does next with each kind of packet that is passed, in words, and what no run can see."""

import pytest
from scapy.layers.l2 import ARP

from bpf.frames import ICMP, IP, TCP, Ether, ip4, ip6
from bpf.frames import frame as framed
from daemon.explain.scenes import LAYOUT, LEFT, HostDouble, fib, hop, link, route, scene
from hopline.daemon.explain.then import _THEN, then_of, unseen_of

TABLES = ("CACHE", "LOCAL", "EXACT", "PREFIX")
FORWARDS = "the kernel forwards it by its own tables, through netfilter: 10.9.0.0/24 via 10.2.0.2 dev right"
NONE = "the kernel has it now, and by its own tables does not forward it: network unreachable"
NOWHERE = HostDouble(routes="network unreachable")


def learned(code=0, **more):
    return {"lookups": (*TABLES, "FIB"), "found": "FIB", **fib(code, **more)}


def operators(**more):
    return {"lookups": TABLES, "found": "EXACT", **hop(id=16, **more)}


@pytest.mark.parametrize(
    ("verdict", "frame", "note", "says"),
    [
        ("PASS_NOT_IP", framed(ARP()), {}, "the kernel's ARP answers it"),
        ("PASS_NOT_IP", bytes(Ether(type=0x88CC)) + bytes(40), {}, "who listens for LLDP on left gets it"),
        ("PASS_MALFORMED", ip4(chksum=1), {}, "IpExtInCsumErrors of `nstat -az`"),
        ("PASS_MALFORMED", ip4(len=1000), {}, "IpExtInTruncatedPkts"),
        ("PASS_MALFORMED", ip4(len=19), {}, "IpInHdrErrors"),
        ("PASS_MALFORMED", ip6(plen=1000), {}, "Ip6InTruncatedPkts"),
        ("PASS_OTHER_HOST", ip4(), {}, "the kernel drops it: it is for another host"),
        ("PASS_OTHER_HOST", ip4(), {"host": HostDouble(links={LEFT: link(LEFT, master=3), 3: link(3)})},
         "left is a port of right, which gets it"),
        ("PASS_MULTICAST", ip4("224.0.0.5"), {}, "sockets and protocols that joined the group"),
        ("PASS_MARTIAN", ip4("127.0.0.1"), {}, "drops it as a martian (its destination 127.0.0.1 is loopback"),
        ("PASS_MARTIAN", ip6("::1"), {}, "the kernel drops it: its destination ::1 is loopback"),
        ("PASS_MARTIAN", ip6("fe80::1"), {}, "it is delivered if it is for an address of this host on that link"),
        ("PASS_LOCAL", framed(IP(dst="10.1.0.1"), TCP(dport=22)), {}, "delivers it to this host (TCP port 22)"),
        ("PASS_LOCAL", framed(IP(dst="10.1.0.1"), ICMP()), {}, "delivers it to this host (ICMP)"),
        ("PASS_TTL", ip4(), learned(), "answers ICMP time exceeded to 10.0.1.2"),
        ("PASS_TTL", ip6(), learned(), "answers ICMPv6 time exceeded to 2001:db8:1::2"),
        ("PASS_TTL", ip4(), operators(), "answers ICMP time exceeded to 10.0.1.2"),
        ("PASS_TTL", ip4(), {**operators(), "host": NOWHERE}, NONE),
        ("PASS_TOO_BIG", ip4(flags="DF"), learned(8, mtu=1300), "fragmentation needed, MTU 1300, to 10.0.1.2"),
        ("PASS_TOO_BIG", ip4(flags="DF"), learned(8, mtu=0), "fragmentation needed to 10.0.1.2"),
        ("PASS_TOO_BIG", ip4(flags=""), learned(8, mtu=1300), "the kernel fragments it to the MTU of 1300 and"),
        ("PASS_TOO_BIG", ip6(), learned(8, mtu=1300), "ICMPv6 packet too big, MTU 1300, to 2001:db8:1::2"),
        ("PASS_TOO_BIG", ip4(flags="DF"), {**operators(mtu=30), "host": NOWHERE}, NONE),
        ("PASS_NO_NEIGHBOUR", ip4(), learned(7, gateway="10.10.3.5"), "asks for 10.10.3.5 on right by ARP"),
        ("PASS_NO_NEIGHBOUR", ip6(), learned(7, gateway="fd00::5"), "asks for fd00::5 on right by neighbour discovery"),
        ("PASS_NO_NEIGHBOUR", ip4(), operators(), FORWARDS),
        ("PASS_NO_ROUTE", ip4(), learned(1), "drops it in silence"),
        ("PASS_NO_ROUTE", ip4(), learned(2), "answers ICMP host unreachable to 10.0.1.2"),
        ("PASS_NO_ROUTE", ip6(), learned(3), "answers ICMPv6 administratively prohibited"),
        ("PASS_NO_ROUTE", ip4(), {**learned(4), "host": NOWHERE}, "answers ICMP network unreachable to 10.0.1.2"),
        ("PASS_NO_ROUTE", ip6(), {**learned(4), "host": NOWHERE}, "answers ICMPv6 no route to"),
        ("PASS_NO_ROUTE", ip4(), {**learned(4), "host": HostDouble(routes=route(kind="broadcast"))},
         "it is broadcast to the kernel, which delivers it to this host"),
        ("PASS_NO_ROUTE", ip4(), learned(4), FORWARDS),
        ("PASS_FORWARDING_OFF", ip4(), learned(5), "net.ipv4.conf.left.forwarding is 0"),
        ("PASS_FORWARDING_OFF", ip6(), learned(5), "net.ipv6.conf.left.forwarding is 0"),
        ("PASS_HAIRPIN", ip4(), {**learned(), **hop(via="10.1.0.7")},
         "may answer ICMP redirect to 10.0.1.2, which then sends straight to 10.1.0.7"),
        *((verdict, ip4(), {}, FORWARDS) for verdict in
          ("PASS_NOT_LEARNING", "PASS_ENCAPSULATED_ROUTE", "PASS_NO_EGRESS", "PASS_NO_LEASE")),
    ],
)  # fmt: skip
def test_what_is_next(verdict, frame, note, says):
    [found] = then_of(scene(verdict, frame, **note))
    assert says in found


def test_options_are_looked_at_first():
    assert then_of(scene("PASS_OPTIONS")) == ["the kernel looks at the options", FORWARDS]


@pytest.mark.parametrize(("tag", "says"), [(0x6005, "for tag 5 gets it if there is one"), (0x6000, "a priority alone")])
def test_a_tag_is_its_devices(tag, says):
    made = scene("PASS_VLAN")
    made.event["packet"]["tags"], made.event["packet"]["tag"] = 1, [tag, 0]
    [found] = then_of(made)
    assert says in found


def test_nothing_is_next_where_xdp_forwards_and_something_wherever_it_passes():
    assert then_of(scene("FORWARDED")) == []
    passed = {each.name for each in LAYOUT.enum("verdict") if each.name.startswith("PASS")}
    assert set(_THEN) == {*passed, "DECAPSULATED"}


def test_what_no_run_can_see_is_said_where_it_matters():
    assert unseen_of(scene("FORWARDED")) == ["whether the device takes it: the redirect is not carried out"]
    assert unseen_of(scene("PASS_LOCAL")) == ["what netfilter, tc and xfrm make of it in the kernel"]
    assert unseen_of(scene("PASS_OTHER_HOST")) == []
    card = HostDouble(links={LEFT: link(LEFT, kind="")})
    assert "a VLAN tag that left's card takes off before the program" in unseen_of(scene("FORWARDED", host=card))
    assert any("GRO merges" in text for text in unseen_of(scene("FORWARDED", mode="generic")))
    cut = unseen_of(scene("FORWARDED", ip4(payload=bytes(100)), captured=42))
    assert cut[-1] == "the last 100 octets, which were not captured: zeros stand in their place"
