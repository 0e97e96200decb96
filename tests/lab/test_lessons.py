"""The programs of examples/lessons on real devices: what arrives, octet for octet, and what was counted."""

import contextlib
import socket
import struct
import threading

import numpy as np
import pytest
from scapy.layers.inet import TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6ExtHdrHopByHop

from bpf.frames import ICMP, IP, Dot1Q, IPv6, checksum
from bpf.frames import frame as framed
from hopline.host.program.build import build
from hopline.kernel import BpfObject, netns
from hopline.kernel.program import Program
from hopline.lab.program.lessons import find
from lab.lesson_room import (
    CLIENT,
    CLIENT4,
    CLIENT6,
    LEFT,
    MARK,
    RIGHT,
    SERVER,
    SERVER4,
    SERVER6,
    Room,
    answer_once,
    ask,
    attached,
    crossing,
    echo,
    frame,
    listening,
    mac,
    marked,
    ping,
    remade,
    say,
    udp4,
    udp6,
)
from lab.net import Sniffer, send_frames, sh


@pytest.fixture(scope="module")
def room():
    with Room() as one:
        yield one


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function: the object of a lesson, compiled once."""
    directory, made = tmp_path_factory.mktemp("lessons"), {}

    def compiled(name: str):
        if name not in made:
            made[name] = build(find(name).source, directory / f"{name}.bpf.o")
        return made[name]

    return compiled


@pytest.mark.parametrize(
    ("program", "arrive", "verdict"), [("xdp_pass", 2, 2), ("xdp_drop", 0, 1), ("xdp_abort", 0, 0)]
)
def test_what_a_program_returns_is_what_becomes_of_the_packet(room, built, program, arrive, verdict):
    with attached(room.left, built("actions"), program) as one:
        assert one.program.test_run(udp4()).retval == verdict
        sent = [udp4(), udp6()]
        assert crossing(room.client, sent, room.left, marked, arrive) == sent[:arrive]
        assert ping(room.client, "10.1.0.1") == (3 if arrive else 0)
    assert ping(room.client, "10.1.0.1", 1) == 1


@pytest.mark.parametrize(("ipv6", "passed"), [(2, 5), (1, 3)])
def test_packets_and_bytes_are_counted_by_verdict(room, built, ipv6, passed):
    four, six = [udp4()] * 3, [udp6()] * 2
    with attached(room.left, built("count"), "count", ipv6=ipv6) as one:
        assert len(crossing(room.client, four + six, room.left, marked, passed)) == passed
        found = one.maps["verdicts"].sums()
    # a host's kernel may say something of its own in IPv6, and never in IPv4
    if ipv6 == 1:
        assert found["packets"][2] == 3
        assert found["bytes"][2] == sum(map(len, four))
        assert found["packets"][1] >= 2
        assert found["bytes"][1] >= sum(map(len, six))
    else:
        assert found["packets"][2] >= 5
        assert found["packets"][1] == 0


def test_a_sender_is_known_by_its_mac_and_may_send_so_much(room, built):
    stranger = frame(IP(src="10.1.0.9", dst="10.1.0.1"), UDP(dport=9), src="02:00:00:00:01:99")
    with attached(room.left, built("pin"), "guard", limit=4) as one:
        assert crossing(room.client, [stranger] * 6, room.left, marked, 4) == [stranger] * 4
        assert crossing(room.client, [udp4()], room.left, marked) == [udp4()]
        talker = one.maps["talkers"].get(mac("02:00:00:00:01:99"))
        assert (talker["packets"], talker["bytes"]) == (6, 6 * len(stranger))
    with attached(room.left, built("pin"), "watch") as one:
        assert len(crossing(room.client, [stranger] * 12, room.left, marked)) == 12
        assert one.maps["talkers"].get(mac("02:00:00:00:01:99"))["packets"] == 12


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tags", [(), (Dot1Q(vlan=7),), (Dot1Q(vlan=8, type=0x8100), Dot1Q(vlan=7))], ids=len)
def test_every_second_ping_is_dropped_behind_any_tags(room, built, version, tags):
    sent = [echo(sequence, version=version, tags=tags) for sequence in range(1, 7)]
    with attached(room.left, built("parse"), "every_second"):
        assert crossing(room.client, sent, room.left, marked, 3) == sent[::2]


def test_pings_are_told_from_what_only_looks_alike(room, built):
    reply = frame(IP(src=CLIENT4, dst="10.1.0.1"), ICMP(type=0, id=7, seq=2))
    fragment = frame(IP(src=CLIENT4, dst="10.1.0.1", frag=3, proto=1), ICMP(id=7, seq=2))
    short = echo(2)[:38]
    hop_by_hop = frame(IPv6(src=CLIENT6, dst="fd00:1::1"), IPv6ExtHdrHopByHop(), ICMPv6EchoRequest(seq=2))
    passed = [udp4(), reply, fragment, hop_by_hop]
    with attached(room.left, built("parse"), "every_second") as one:
        assert crossing(room.client, passed, room.left, marked) == passed
        assert one.program.test_run(short).retval == 2
        options = echo(2, options=(IPOption_NOP(),) * 4)
        assert one.program.test_run(options).retval == 1
        assert ping(room.client, "10.1.0.1", 4) == 2
        assert ping(room.client, "fd00:1::1", 4) == 2


def test_the_set_of_sources_is_filled_while_packets_flow(room, built):
    with attached(room.left, built("sources"), "deny") as one:
        for address, target, name in ((CLIENT4, "10.1.0.1", "sources4"), (CLIENT6, "fd00:1::1", "sources6")):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            key, sources = socket.inet_pton(family, address), one.maps[name]
            assert ping(room.client, target) == 3
            sources.set(key, 0)
            before = int(sources.get(key))
            sent = [udp4(), udp4()] if family == socket.AF_INET else [udp6(), udp6()]
            assert crossing(room.client, sent, room.left, marked, 0) == []
            assert sources.get(key) == before + 2
            assert ping(room.client, target) == 0
            assert sources.delete(key)
            assert ping(room.client, target, 1) == 1


def zero_sum() -> tuple[bytes, bytes]:
    """A datagram whose checksum is ffff with the port that arrives, and that datagram as it arrives."""
    ip = IP(src=CLIENT4, dst="10.1.0.1")
    # with this source port all that is summed comes to nothing
    source = int.from_bytes(frame(ip, UDP(sport=0, dport=6999))[40:42], "big")
    sent, arrives = (frame(ip, UDP(sport=source, dport=port)) for port in (7000, 6999))
    assert arrives[40:42] == b"\xff\xff"
    return sent, arrives


def ported(ip, transport):
    """The same packet to two ports."""
    return tuple(frame(ip, transport(sport=4000, dport=port)) for port in (7000, 6999))


def test_the_port_is_one_less_and_every_checksum_is_right(room, built):
    ip4, ip6 = IP(src=CLIENT4, dst="10.1.0.1"), IPv6(src=CLIENT6, dst="fd00:1::1")
    unsummed = tuple(frame(ip4, UDP(sport=4000, dport=port, chksum=0)) for port in (7000, 6999))
    pairs = [
        *(ported(ip, transport) for ip in (ip4, ip6) for transport in (UDP, TCP)),
        ported(IP(src=CLIENT4, dst="10.1.0.1", options=[IPOption_NOP()] * 4), UDP),
        tuple(frame(ip4, UDP(sport=4000, dport=port)) for port in (0x0100, 0x00FF)),
        unsummed,
        zero_sum(),
    ]
    same = [udp4(0), udp4(frag=3), frame(ip4, ICMP())]
    with attached(room.left, built("ports"), "port_minus_one"):
        sent = [before for before, _ in pairs] + same
        assert crossing(room.client, sent, room.left, marked) == [after for _, after in pairs] + same
        # and the kernel, which looks at the sums, hands it to whoever listens there
        heard = netns.run_in(room.ns, listening, 6999)
        with heard:
            netns.run_in(room.client.ns, say, "10.1.0.1", 7000)
            assert heard.recv(100) == MARK


def test_a_tag_is_taken_off_and_put_in(room, built):
    tagged = frame(Dot1Q(vlan=7, prio=3), IP(src=CLIENT4, dst="10.1.0.1"), UDP(sport=4000, dport=7000))
    service = tagged[:12] + b"\x88\xa8\x00\x64" + tagged[12:]
    with attached(room.left, built("vlan"), "pop"):
        # the outer tag only, and what has none stays
        sent = [tagged, service, udp4()]
        assert crossing(room.client, sent, room.left, marked) == [udp4(), tagged, udp4()]
    with attached(room.left, built("vlan"), "push", vlan_id=300):
        arrived = crossing(room.client, [udp4(), tagged], room.left, marked)
        assert arrived == [each[:12] + struct.pack("!HH", 0x8100, 300) + each[12:] for each in (udp4(), tagged)]
    # a tagged ping is answered by a kernel that never sees a tag, and the answer is tagged on its way in
    asked = echo(1, tags=(Dot1Q(vlan=7),))
    answer = framed(
        Dot1Q(vlan=7), IP(src="10.1.0.1", dst=CLIENT4), ICMP(type=0, id=7, seq=1), MARK, dst=CLIENT, src=LEFT
    )
    with attached(room.left, built("vlan"), "pop"), attached(room.client, built("vlan"), "push"):
        (came,) = crossing(room.client, [asked], room.client, marked)
        # the kernel chose the identification, which its checksum follows
        assert came[:22] + came[24:28] + came[30:] == answer[:22] + answer[24:28] + answer[30:]


@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_is_answered_from_where_it_came(room, built, version):
    if version == 4:
        asked = frame(IP(src=CLIENT4, dst="198.51.100.1", ttl=9), ICMP(id=7, seq=1))
        reply = framed(
            IP(src="198.51.100.1", dst=CLIENT4, ttl=64), ICMP(type=0, id=7, seq=1), MARK, dst=CLIENT, src=LEFT
        )
        other = frame(IP(src=CLIENT4, dst="198.51.100.1"), ICMP(type=13))
    else:
        asked = frame(IPv6(src=CLIENT6, dst="2001:db8::1", hlim=9), ICMPv6EchoRequest(id=7, seq=1))
        reply = framed(
            IPv6(src="2001:db8::1", dst=CLIENT6, hlim=64), ICMPv6EchoReply(id=7, seq=1), MARK, dst=CLIENT, src=LEFT
        )
        other = frame(IPv6(src=CLIENT6, dst="2001:db8::1"), ICMPv6EchoReply(id=7, seq=1))
    group = b"\x01" + asked[1:]
    # XDP_TX wakes the far end of a veth pair only if that has a program too
    with attached(room.left, built("echo"), "echo"), attached(room.client, built("echo"), "far_end"):
        assert crossing(room.client, [asked], room.client, marked) == [reply]
        assert crossing(room.client, [other, group], room.left, marked) == [other, group]
        assert ping(room.client, "198.51.100.1" if version == 4 else "2001:db8::1") == 3
    assert ping(room.client, "198.51.100.1" if version == 4 else "2001:db8::1", 1) == 0


def to_server(version: int = 4, **fields):
    ip = IP(**{"src": CLIENT4, "dst": SERVER4, **fields}) if version == 4 else IPv6(src=CLIENT6, dst=SERVER6, **fields)
    return frame(ip, UDP(sport=4000, dport=7000))


def test_a_packet_leaves_by_the_other_device_with_other_macs(room, built):
    assert ping(room.client, SERVER4) == 0
    there = {"device": room.right.index, "source": mac(RIGHT), "destination": mac(SERVER)}
    back = {"device": room.left.index, "source": mac(LEFT), "destination": mac(CLIENT)}
    sent = [to_server(4), to_server(6)]
    with attached(room.left, built("send"), "send", **there), attached(room.right, built("send"), "send", **back):
        assert crossing(room.client, sent, room.server, marked) == [remade(each, RIGHT, SERVER) for each in sent]
        group = b"\x33\x33" + sent[1][2:]
        assert crossing(room.client, [group], room.left, marked) == [group]
        assert ping(room.client, SERVER4) == 3
        assert ping(room.client, SERVER6) == 3


def test_devices_and_macs_are_read_from_maps(room, built):
    devices = (room.left, room.right)
    with contextlib.ExitStack() as stack:
        left, right = (stack.enter_context(attached(end, built("redirect"), "redirect")) for end in devices)
        assert ping(room.client, SERVER4, 1) == 0
        left.maps["macs"].set(mac(CLIENT), mac(SERVER))
        # a sender that is known, and no device yet: dropped
        assert crossing(room.client, [to_server()], room.left, marked, 0) == []
        # an index means a device of the namespace it is written in
        netns.run_in(room.ns, left.maps["ports"].set, 0, room.right.index)
        netns.run_in(room.ns, right.maps["ports"].set, 0, room.left.index)
        right.maps["macs"].set(mac(SERVER), mac(CLIENT))
        sent = [to_server(4), to_server(6)]
        assert crossing(room.client, sent, room.server, marked) == [remade(each, CLIENT, SERVER) for each in sent]
        assert ping(room.client, SERVER4) == 3
        assert ping(room.client, SERVER6) == 3
        stranger = sent[0][:6] + mac("02:00:00:00:01:99") + sent[0][12:]
        assert crossing(room.client, [stranger], room.left, marked) == [stranger]


ANSWERS = {
    "10.2.0.2": "SUCCESS",
    "10.61.0.1": "BLACKHOLE",
    "10.60.0.1": "UNREACHABLE",
    "10.62.0.1": "PROHIBIT",
    "10.1.0.1": "NOT_FORWARDED",
    "10.63.0.1": "ENCAPSULATED",
    "10.2.0.77": "NO_NEIGHBOUR",
    "10.64.0.1": "TOO_BIG",
}
ROUTES = (
    "unreachable 10.60.0.0/16",
    "blackhole 10.61.0.0/16",
    "prohibit 10.62.0.0/16",
    "10.63.0.0/16 encap ip id 5 dst 10.2.0.9 dev right",
    "10.64.0.0/16 via 10.2.0.2 mtu lock 1000",
)


def test_the_routing_table_is_asked_and_every_answer_is_counted(room, built):
    for route in ROUTES:
        sh(room.ns, f"ip route add {route}")
    with BpfObject.open(built("router")) as opened:
        answer = opened.layout.enum("answer")
    with attached(room.left, built("router"), "router") as one:
        assert crossing(room.client, [to_server()], room.server, marked, 0) == []
        assert one.counters("answers") == {answer.FORWARDING_OFF: 1}
        room.forwarding(True)
        sent = [framed(IP(src=CLIENT4, dst=dst), UDP(dport=9), bytes(1100), dst=LEFT, src=CLIENT) for dst in ANSWERS]
        send_frames(room.client.ns, "eth0", sent)
        sent = [to_server(4), to_server(6), to_server(4, tos=0x10, ttl=2)]
        arrived = crossing(room.client, sent, room.server, marked)
        counted = {answer[name]: 1 for name in ("FORWARDING_OFF", *ANSWERS.values())}
        assert one.counters("answers") == counted | {answer.SUCCESS: 4}
        room.forwarding(False)
    for each, got in zip(sent, arrived, strict=True):
        expected = bytearray(remade(each, RIGHT, SERVER))
        if expected[14] >> 4 == 4:
            expected[22] -= 1
            expected[24:26] = bytes(2)
            expected[24:26] = checksum(bytes(expected[14:34])).to_bytes(2, "big")
        else:
            expected[21] -= 1
        assert got == bytes(expected)


def test_every_checksum_survives_a_hop(room, built):
    with BpfObject.open(built("router")) as opened:
        opened.load()
        with opened.program("router") as program:
            netns.run_in(room.ns, hop_all, room, program)


def hop_all(room, program: Program) -> None:
    room.forwarding(True)
    for identifier in range(0, 0x10000, 997):
        sent = to_server(id=identifier)
        left = program.test_run(sent, ifindex=room.left.index).data
        assert left[22] == 63
        assert checksum(left[14:34]) == 0, identifier
    room.forwarding(False)


VIP, PEER = "203.0.113.1", "10.1.0.1"


def tunnel(device: int, source: str, destination: str) -> tuple:
    addresses = (socket.inet_aton(address) for address in (PEER, SERVER4))
    return b"".join(addresses) + struct.pack("=I", device) + mac(source) + mac(destination)


def key(port: int, protocol: int) -> bytes:
    return socket.inet_aton(VIP) + struct.pack("!HBx", port, protocol)


def test_a_vips_packets_go_through_the_tunnel_and_are_counted_by_protocol(room, built):
    asked = [
        frame(IP(src=CLIENT4, dst=VIP, tos=0x10), UDP(sport=4000, dport=53)),
        frame(IP(src=CLIENT4, dst=VIP), TCP(sport=4000, dport=80)),
        frame(IP(src=CLIENT4, dst=VIP), ICMP(seq=1)),
    ]
    ignored = [
        frame(IP(src=CLIENT4, dst=VIP), UDP(sport=4000, dport=54)),
        frame(IP(src=CLIENT4, dst=VIP, frag=3, proto=17), UDP(sport=4000, dport=53)),
    ]
    with attached(room.left, built("vip"), "vip") as one:
        for port, protocol in ((53, 17), (80, 6), (0, 1)):
            one.maps["vips"].set(key(port, protocol), tunnel(room.right.index, RIGHT, SERVER))
        expected = [
            framed(
                IP(src=PEER, dst=SERVER4, id=0, flags="DF", ttl=64, proto=4, tos=each[15]),
                each[14:],
                dst=SERVER,
                src=RIGHT,
            )
            for each in asked
        ]
        assert crossing(room.client, asked, room.server, marked) == expected
        assert crossing(room.client, ignored, room.left, marked) == ignored
        counted = {number: int(packets) for number, packets in one.counters("protocols").items() if packets}
        assert counted == {17: 1, 6: 1, 1: 1}
        # without a device it goes back where it came from
        one.maps["vips"].set(key(53, 17), tunnel(0, LEFT, CLIENT))
        with attached(room.client, built("actions"), "xdp_pass"):
            assert crossing(room.client, asked[:1], room.client, marked) == [remade(expected[0], LEFT, CLIENT)]
    with attached(
        room.server, built("vip"), "decap", peer=np.array(struct.unpack("!I", socket.inet_aton(PEER)), ">u4")
    ):
        assert crossing(room.right, expected, room.server, marked) == [remade(each, RIGHT, SERVER) for each in asked]
        foreign = framed(IP(src="10.1.0.7", dst=SERVER4, proto=4), asked[0][14:], dst=SERVER, src=RIGHT)
        assert crossing(room.right, [foreign], room.server, marked) == [foreign]


def test_a_connection_to_the_vip_is_answered_straight_from_the_server(room, built):
    sh(room.server.ns, f"ip address add {VIP}/32 dev lo")
    # answers are forwarded by the router's kernel
    room.forwarding(True)
    peer = np.array(struct.unpack("!I", socket.inet_aton(PEER)), ">u4")
    served = netns.run_in(room.server.ns, socket.create_server, (VIP, 80))
    thread = threading.Thread(target=answer_once, args=(served,))
    with attached(room.left, built("vip"), "vip") as one, attached(room.server, built("vip"), "decap", peer=peer):
        one.maps["vips"].set(key(80, 6), tunnel(room.right.index, RIGHT, SERVER))
        thread.start()
        with Sniffer(room.client.ns, "eth0", lambda each: each[23] == 6) as sniffer:
            assert netns.run_in(room.client.ns, ask, VIP, 80) == b"x" * 20_000
        thread.join()
        assert all(each[26:30] == socket.inet_aton(VIP) for each in sniffer.frames)
        assert one.counters("protocols")[6] >= 4
    room.forwarding(False)
