"""What decap and balance noted, in words, without a kernel."""

from dataclasses import replace

import numpy as np
import pytest

from bpf.frames import ICMP, IP, TCP, UDP, frame
from bpf.tunnels import CLIENT4, FRONT4, LOCAL4, VIP4, decapsulated, inner4, inner6, outer
from daemon.explain.scenes import LAYOUT, LEFT, RIGHT, HostDouble, packed, route, scene
from hopline.config import Decap, Service
from hopline.daemon.explain.frames import left_decoded
from hopline.daemon.explain.served import SeenBackend
from hopline.daemon.explain.steps import steps_of
from hopline.daemon.explain.then import then_of, unseen_of

ONE, TWO = "10.9.0.1", "10.9.0.2"
WEB = Service(name="web", vip=VIP4, port="80-81", protocol="tcp")
BACKENDS = {
    0: SeenBackend(ONE, 1, "up", "HTTP 200 in 3 ms", "10.2.0.2"),
    1: SeenBackend(TWO, 4, "draining", "its weight is 0", "10.2.0.3"),
    2: SeenBackend(""),
}
SYN = frame(IP(src=CLIENT4, dst=VIP4), TCP(sport=4000, dport=80, flags="S"))
ACK = frame(IP(src=CLIENT4, dst=VIP4), TCP(sport=4000, dport=80, flags="A"))
NAMED = {"state": "slot_state", "flow": "flow_answer", "choice": "slot_choice", "adjacency_state": "adjacency_state"}
PREFIX = {"state": "SLOT", "flow": "FLOW", "choice": "CHOICE", "adjacency_state": "ADJACENCY"}
CHOSEN = {"slot": 7, "state": "CLOSED", "flow": "NOT_ASKED", "choice": "NOW", "number": 0}
LEAVES = {
    "adjacency": 16400, "adjacency_state": "READY", "ifindex": RIGHT, "mtu": 1500, "overhead": 20, "outer_family": 4,
    "outer_source": "10.1.0.1", "outer_destination": ONE,
}  # fmt: skip


def balanced(verdict, sent=SYN, host=None, left=None, **note):
    """A scene of a packet to row 5; `note` are fields of balance's note."""
    host = host or HostDouble(services={5: WEB}, backends=BACKENDS)
    made = scene(verdict, sent, host=host)
    record = made.event["balance"]
    for name, value in {"vip": 3, "service": 5, **note}.items():
        if name in NAMED:
            value = LAYOUT.enum(NAMED[name])[f"{PREFIX[name]}_{value}"]
        elif name.startswith("outer_") and name != "outer_family":
            value = packed(value)
        record[name] = value
    return replace(made, left=left or sent)


def told(made):
    """Each step but the first, `came in by`, and those of parse and verdict."""
    return [(step.step, step.says) for step in steps_of(made) if step.step not in ("in", "parse", "verdict")]


def test_a_closed_slot():
    sent = bytes.fromhex("020000000b01020000000c01") + ACK[12:]
    assert told(balanced("BALANCED", ACK, left=sent, **CHOSEN, **LEAVES)) == [
        ("service", f"web: {VIP4} port 80-81 tcp, ipip, affinity ring"),
        ("slot", f"slot 7 of 65537, closed: now {ONE}"),
        ("backend", f"{ONE} weight 1, up: HTTP 200 in 3 ms"),
        ("outer", f"IPv4 10.1.0.1 > {ONE}, 20 octets"),
        ("adjacency", "next hop 16400: right 02:00:00:00:0c:01 > 02:00:00:00:0b:01, "
                      "10.2.0.2 is reachable, confirmed 3.1 s ago"),
        ("mtu", "its 40 octets and 20 of outer header fit the MTU of 1500"),
    ]  # fmt: skip


OPEN = {**CHOSEN, "state": "OPEN", "before": 1}


@pytest.mark.parametrize(
    ("sent", "note", "says"),
    [
        (SYN, {"flow": "MISS", "remembers": 1},
         "the flow table does not know this flow: a SYN goes by `now`, and is remembered"),
        (ACK, {"flow": "MISS", "choice": "BEFORE", "number": 1, "remembers": 1},
         "the flow table does not know this flow: what is no SYN goes by `before`, and is remembered"),
        (SYN, {"flow": "MISS", "choice": "BEFORE", "number": 1},
         "the flow table does not know this flow: it has no room for it either, so it goes by `before`"),
        (ACK, {"flow": "HIT", "choice": "TABLE"}, "the flow table knows this flow: it stays where it is"),
        (SYN, {"flow": "IGNORED"},
         "the flow table knows this flow, by a backend that is dead, or drains and this is a SYN: it goes by `now`"),
    ],
)  # fmt: skip
def test_an_open_slot_and_the_flow_table(sent, note, says):
    found = dict(told(balanced("BALANCED", sent, **{**OPEN, **note}, **LEAVES)))
    assert found["slot"] == f"slot 7 of 65537, open: now {ONE}, before {TWO}"
    assert found["flow"] == says


def test_a_residual_slot_names_no_before():
    found = dict(told(balanced("BALANCED", ACK, **{**OPEN, "state": "RESIDUAL", "flow": "MISS"}, **LEAVES)))
    assert found["slot"] == f"slot 7 of 65537, residual: now {ONE}"
    assert found["flow"] == "the flow table does not know this flow: it goes by `now`"


@pytest.mark.parametrize(
    ("verdict", "note", "step", "says"),
    [
        ("DROP_NO_BACKEND", {"choice": "NONE"}, "ring", "it has no backend"),
        ("DROP_NO_BACKEND", {"number": 2}, "backend", "nobody: no backend may take new flows"),
        ("DROP_NO_BACKEND", {**LEAVES, "adjacency_state": "UNRESOLVED"}, "adjacency",
         "next hop 16400: no neighbour for 10.2.0.2 on right"),
        ("DROP_NO_BACKEND", {**LEAVES, "adjacency_state": "NO_DEVICE"}, "adjacency",
         "next hop 16400: no device, so it is not used"),
        ("DROP_NO_BACKEND", {**LEAVES, "adjacency": 0}, "adjacency", "nothing leads to it"),
        ("DROP_NO_BACKEND", LEAVES, "egress", "right takes no redirect in native mode"),
        ("ANSWERED_ERROR", {**LEAVES, "mtu": 50}, "mtu",
         "its 40 octets and 20 of outer header are more than the next hop's MTU of 50: 30 would fit"),
        ("DROP_TOO_BIG", {**LEAVES, "mtu": 50}, "mtu",
         "its 40 octets and 20 of outer header are more than the next hop's MTU of 50: 30 would fit"),
        ("BALANCED", {**LEAVES, "overhead": 28}, "outer", f"IPv4 and UDP (GUE) 10.1.0.1 > {ONE}, 28 octets"),
    ],
)  # fmt: skip
def test_what_keeps_it_from_its_backend(verdict, note, step, says):
    assert dict(told(balanced(verdict, **{**CHOSEN, **note})))[step] == says


def test_no_hop_left_is_said_before_any_slot():
    sent = frame(IP(src=CLIENT4, dst=VIP4, ttl=1), TCP(dport=80))
    assert told(balanced("ANSWERED_ERROR", sent))[1:] == [("ttl", "TTL 1: no hop is left")]


def test_a_fragment():
    assert told(balanced("DROP_FRAGMENT"))[-1][0] == "fragment"
    [(step, says)] = told(balanced("DROP_FRAGMENT", service=0))
    assert step == "service"
    assert says == f"{VIP4} is a VIP and this host's, and has services that need ports, which not all fragments have"


def test_an_error_that_quotes_a_flow():
    found = dict(told(balanced("BALANCED", quoted=1, **CHOSEN, **LEAVES)))
    assert found["quoted"] == "the ICMP error quotes a packet of this service, and goes to the backend of that flow"


@pytest.mark.parametrize(
    ("verdict", "sent", "says"),
    [
        ("PASS_LOCAL", frame(IP(src=CLIENT4, dst=VIP4), TCP(dport=22)), "is a VIP without a service for TCP port 22"),
        ("PASS_LOCAL", frame(IP(src=CLIENT4, dst=VIP4), ICMP()), "is a VIP without a service for ICMP"),
        ("ANSWERED_ECHO", frame(IP(src=CLIENT4, dst=VIP4), ICMP()), "is a VIP, which answers an echo request"),
    ],
)  # fmt: skip
def test_a_vip_without_such_a_service(verdict, sent, says):
    assert told(balanced(verdict, sent, service=0))[0] == ("service", f"{VIP4} {says}")


def test_what_has_just_gone_is_told_by_number():
    found = dict(told(balanced("BALANCED", host=HostDouble(), **CHOSEN, **LEAVES)))
    assert found["service"] == "just gone"
    assert found["slot"] == "slot 7, closed: now number 0, which is just gone"
    assert "backend" not in found


def test_without_a_vip_balance_says_nothing():
    assert told(balanced("PASS_LOCAL", vip=0, service=0)) == told(scene("PASS_LOCAL", SYN))


def test_the_outer_header_is_not_held_against_the_inner_one():
    left = outer(bytes(IP(src=CLIENT4, dst=VIP4, ttl=63) / TCP(sport=4000, dport=80, flags="S")), 4, dst=ONE)
    made = balanced("BALANCED", SYN, left=left, **CHOSEN, **LEAVES)
    shown = left_decoded(made)
    assert [layer.name for layer in shown.layers] == ["Ethernet", "IPv4", "IPv4", "TCP"]
    assert all(field.was is None for field in shown.layers[1].fields)
    assert {field.name for field in shown.layers[2].fields if field.was} == {"TTL", "checksum"}
    assert unseen_of(made) == ["whether the device takes it: the redirect is not carried out"]
    assert then_of(made) == []


# decap

TUNNEL = Decap(local=LOCAL4, from_="192.0.2.0/28")
ROUTED = {"outer_family": 4, "outer_source": FRONT4, "outer_destination": LOCAL4}


def tunnelled(verdict, sent, routes=None, left=None, **note):
    host = HostDouble(tunnels=[TUNNEL], routes=routes or route(VIP4, None, LEFT, kind="local"))
    made = scene(verdict, sent, host=host)
    record = made.event["decap"]
    for name, value in {"encapsulation": 1, "overhead": 20, "decap": 1, "accepted": 1, **ROUTED, **note}.items():
        record[name] = packed(value) if name in ("outer_source", "outer_destination") else value
    return replace(made, left=left or sent)


def test_what_is_decapsulated():
    sent = outer(inner6(), 4)
    made = tunnelled("DECAPSULATED", sent, left=decapsulated(sent), inner_family=6)
    assert told(made) == [
        ("decap", f"ipip from {FRONT4} for {LOCAL4}: accepted, from 192.0.2.0/28"),
        ("inner", "IPv6, 20 octets of outer header are taken off"),
    ]
    shown = left_decoded(made)
    assert [layer.name for layer in shown.layers] == ["Ethernet", "IPv6", "TCP"]
    assert {field.name for layer in shown.layers for field in layer.fields if field.was} == {"type"}


def test_who_may_is_told_to_who_may_not():
    made = tunnelled("DROP_NOT_ACCEPTED", outer(inner4(), 4), accepted=0, decap=0, outer_source="8.8.8.8")
    assert told(made) == [("decap", f"ipip from 8.8.8.8 for {LOCAL4}: not accepted: 192.0.2.0/28 may")]
    assert unseen_of(made) == []


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        (bytes(inner4(len=99)), "its total length is 99 octets, and the frame holds 54 of them"),
        (bytes(inner4())[:12], "it ends within the IPv4 header, after 12 of 20 octets"),
        (b"", "0 octets that begin like no IP packet"),
        (bytes(30), "30 octets that begin like no IP packet"),
    ],
)
def test_what_is_wrong_inside(inner, says):
    made = tunnelled("DROP_MALFORMED", outer(inner, 4, proto=4))
    assert dict(told(made))["inner"] == says


@pytest.mark.parametrize(
    ("routes", "says"),
    [
        (
            route(VIP4, None, LEFT, kind="local"),
            f"the kernel delivers the packet from {CLIENT4} to {VIP4} to this host",
        ),
        (route(), f"{VIP4} is no address of this host: the kernel forwards the packet from {CLIENT4} to {VIP4}"),
        ("network unreachable", "by its own tables does not take it: network unreachable"),
    ],
)
def test_what_the_kernel_does_with_it(routes, says):
    sent = outer(inner4(l4=UDP()), 4)
    [found] = then_of(tunnelled("DECAPSULATED", sent, routes, decapsulated(sent), inner_family=4))
    assert says in found


def test_every_verdict_has_words():
    from hopline.daemon.explain.words import VERDICT_WORDS

    assert {each.name for each in LAYOUT.enum("verdict")} - {"CONTINUE"} == set(VERDICT_WORDS)
    assert np.all([len(text) < 110 for text in VERDICT_WORDS.values()])
