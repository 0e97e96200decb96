"""What a VIP answers and what is followed: too big, no hop left, echo, and errors about what a backend sent."""

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
)

from bpf.balanced import (
    CLIENT4,
    CLIENT6,
    VIP4,
    VIP6,
    Balanced,
    encapsulated,
    hop_of,
    ip_of,
    quoting,
    sized,
    tcp,
)
from bpf.frames import ICMP, IP, TCP, UDP, IPv6, frame
from bpf.pipeline import XDP_REDIRECT

XDP_DROP = 1


@pytest.mark.parametrize(
    ("packet", "mtu"),
    [
        (sized(1481), 1500),
        (sized(1461, VIP6), 1500),
        (sized(577), 576),
    ],
)
def test_too_big_for_the_next_hop(balanced: Balanced, packet: bytes, mtu: int):
    """What may not be fragmented is reported with the MTU that fits; the answer itself is test_answer.py's."""
    ipv6 = packet[14] >> 4 == 6
    balanced.service(VIP6 if ipv6 else VIP4, count=3)
    backends = balanced.backends(3, ipv6=ipv6, mtu=mtu)
    service = balanced.service(VIP6 if ipv6 else VIP4, port="81", count=3)
    balanced.maps.write_backends(service, backends)
    changed = bytearray(packet)
    at = 14 + (40 if ipv6 else 20) + 2
    changed[at : at + 2] = (81).to_bytes(2, "big")
    sent = bytes(changed)
    if not ipv6:
        dropped = balanced.run(sent)
        assert (dropped.verdict, dropped.action, dropped.data) == ("DROP_TOO_BIG", XDP_DROP, sent)
        changed[20] |= 0x40
        total = int.from_bytes(changed[24:26], "big") - 0x4000
        changed[24:26] = (total % 0xFFFF).to_bytes(2, "big")
        sent = bytes(changed)
    outcome = balanced.run(sent)
    assert (outcome.verdict, outcome.action) == ("ANSWERED_ERROR", XDP_REDIRECT)
    layers = (IPv6 if ipv6 else IP)(outcome.data[14:])
    assert (layers.src, layers.dst) == ((VIP6, CLIENT6) if ipv6 else (VIP4, CLIENT4))
    if ipv6:
        assert (layers.nh, outcome.data[54], int.from_bytes(outcome.data[58:62], "big")) == (58, 2, mtu - 40)
    else:
        assert (outcome.data[34], outcome.data[35], int.from_bytes(outcome.data[40:42], "big")) == (3, 4, mtu - 20)


@pytest.mark.parametrize(("vip", "kind"), [(VIP4, 11), (VIP6, 3)])
@pytest.mark.parametrize("ttl", [0, 1])
def test_no_hop_left(balanced: Balanced, vip: str, kind: int, ttl: int):
    service = balanced.service(vip)
    outcome = balanced.run(tcp(vip, ttl=ttl))
    assert (outcome.verdict, outcome.action) == ("ANSWERED_ERROR", XDP_REDIRECT)
    assert outcome.data[34 if vip == VIP4 else 54] == kind
    assert [service.count(number)[0] for number in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_echo(balanced: Balanced, vip: str):
    balanced.service(vip, echo=True)
    asked, answered = (
        (ICMP(id=7, seq=9), ICMP(type=0, id=7, seq=9))
        if vip == VIP4
        else (ICMPv6EchoRequest(id=7, seq=9, data=b""), ICMPv6EchoReply(id=7, seq=9, data=b""))
    )
    client = CLIENT4 if vip == VIP4 else CLIENT6
    outcome = balanced.run(frame(ip_of(client, vip), asked, b"are you there"))
    assert (outcome.verdict, outcome.action) == ("ANSWERED_ECHO", XDP_REDIRECT)
    assert outcome.data == frame(
        ip_of(vip, client, ttl=64), answered, b"are you there", dst="02:00:00:00:01:02", src="02:00:00:00:01:01"
    )


@pytest.mark.parametrize(
    ("vip", "kind", "octets"),
    [(VIP4, 3, 28), (VIP4, 3, 100), (VIP4, 11, 28), (VIP4, 12, 28), (VIP6, 1, 48), (VIP6, 2, 48), (VIP6, 2, 400),
     (VIP6, 3, 48), (VIP6, 4, 48)],
)  # fmt: skip
@pytest.mark.parametrize("state", ["CLOSED", "OPEN", "RESIDUAL"])
def test_an_error_follows_the_flow_that_it_quotes(balanced: Balanced, vip: str, kind: int, octets: int, state: str):
    backends = balanced.backends(3, ipv6=vip == VIP6)
    service = balanced.maps.service(vip, "80", "tcp", backends)
    service.fill(1, 2, state)
    client = CLIENT4 if vip == VIP4 else CLIENT6
    reply = ip_of(vip, client) / TCP(sport=80, dport=4000, flags="A") / bytes(500)
    sent = quoting(vip, bytes(reply)[:octets], kind)
    hash = service.hash_of(client, 4000, 80)
    number = 2 if state == "OPEN" else 1
    outcome = balanced.run(sent)
    assert outcome.verdict == "BALANCED"
    assert outcome.data.hex() == encapsulated(sent, backends[number], hop_of(number), hash).hex()
    assert balanced.maps.flows() == []
    assert service.count(number) == (1, len(sent), 0)
    assert int(balanced.note(sent)["quoted"]) == 1


def test_an_error_follows_the_flow_table(balanced: Balanced):
    service = balanced.service()
    service.fill(1, 2, "OPEN")
    hash = service.hash_of(CLIENT4, 4000, 80)
    balanced.maps.put_flow(service, hash, 0)
    before = balanced.maps.flows()
    balanced.maps.set_clock(3000)
    outcome = balanced.run(quoting(VIP4, bytes(IP(src=VIP4, dst=CLIENT4) / TCP(sport=80, dport=4000)), 3))
    assert outcome.verdict == "BALANCED"
    assert service.count(0)[0] == 1
    assert balanced.maps.flows() == before, "an error from anywhere must not keep a flow alive"


@pytest.mark.parametrize(
    "quoted",
    [
        IP(src="192.0.2.99", dst=CLIENT4) / TCP(sport=80, dport=4000),  # not from the VIP
        IP(src=VIP4, dst=CLIENT4) / TCP(sport=81, dport=4000),  # not from the service
        IP(src=VIP4, dst=CLIENT4) / UDP(sport=80, dport=4000),
        IP(src=VIP4, dst=CLIENT4, frag=7) / TCP(sport=80, dport=4000),
        IP(src=VIP4, dst=CLIENT4, proto=47) / bytes(20),
    ],
)
def test_errors_about_others_are_not_ours(balanced: Balanced, quoted):
    balanced.service()
    sent = quoting(VIP4, bytes(quoted), 3)
    outcome = balanced.run(sent)
    assert (outcome.verdict, outcome.data) == ("PASS_NOT_LEARNING", sent)
