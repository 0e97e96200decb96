"""answer: what a VIP says to who sent it a packet: echo replies, and errors. Packet in, packet out, every octet."""

import contextlib
import re
import socket
import subprocess
import threading
import time

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_Redirect,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)

from bpf.answers import QUOTE4, QUOTE6, answers, even, pseudo6, replied, reported
from bpf.frames import Ether, IPv6, checksum, frame
from hopline.kernel import XdpLink, netns
from lab.net import Router, sh

VIP4, VIP6 = "198.51.100.33", "2001:db8:f::33"
CLIENT4, CLIENT6 = "203.0.113.9", "2001:db8:c::9"


@pytest.fixture(scope="module")
def loaded():
    """The programs by the MTU that they tell; 0 is for time exceeded."""
    with answers() as expired, answers(1400) as big, answers(1280) as least:
        yield {0: expired, 1400: big, 1280: least}


def v4(*layers, **fields) -> bytes:
    return frame(IP(**{"src": CLIENT4, "dst": VIP4, "ttl": 9, "id": 77, **fields}), *layers)


def v6(*layers, **fields) -> bytes:
    return frame(IPv6(**{"src": CLIENT6, "dst": VIP6, "hlim": 9, **fields}), *layers)


# echo


ASKED = {
    "a ping of IPv4": v4(ICMP(id=3, seq=4), b"abcdefgh"),
    "a ping of IPv6": v6(ICMPv6EchoRequest(id=3, seq=4, data=b"abcdefgh")),
    "an odd number of octets": v4(ICMP(id=3, seq=4), b"abc"),
    "an odd number of octets over IPv6": v6(ICMPv6EchoRequest(id=3, seq=4, data=b"abc")),
    "nothing in it": v4(ICMP(id=3, seq=4)),
    "nothing in it over IPv6": v6(ICMPv6EchoRequest(id=3, seq=4)),
    "padded to the least frame": v4(ICMP(id=3, seq=4)) + bytes(18),
    "a full frame": v4(ICMP(id=3, seq=4), b"x" * 1472),
    "a full frame of IPv6": v6(ICMPv6EchoRequest(data=b"x" * 1452)),
    "a jumbo frame in several buffers": v4(ICMP(id=3, seq=4), b"x" * 8972),
    "a jumbo frame of IPv6, padded": v6(ICMPv6EchoRequest(data=b"x" * 8952)) + bytes(5),
    "a TTL of 255": v4(ICMP(), ttl=255),
    "a TTL of 1: it has arrived": v4(ICMP(), ttl=1),
    "a TTL of 64 already": v4(ICMP(), ttl=64),
    "a TOS and DF are kept": v4(ICMP(), tos=0xB8, flags="DF"),
    "a traffic class and a flow label are kept": v6(ICMPv6EchoRequest(), tc=0xB8, fl=0x12345),
    "a link-local sender": v6(ICMPv6EchoRequest(), src="fe80::9"),
}

NOT_ASKED = {
    "an echo reply": v4(ICMP(type=0)),
    "an echo reply of IPv6": v6(ICMPv6EchoReply()),
    "a timestamp request": v4(ICMP(type=13)),
    "an echo request with a code": v4(ICMP(type=8, code=1)),
    "an error": v4(ICMP(type=3, code=1), bytes(IP() / UDP())),
    "options": v4(ICMP(), options=[IPOption(b"\x83\x03\x10")]),
    "router alert": v4(ICMP(), options=[IPOption_Router_Alert()]),
    "the first fragment": v4(ICMP(), b"x" * 16, flags="MF"),
    "a later fragment": v4(ICMP(), b"x" * 16, frag=2),
    "a fragment of IPv6": v6(IPv6ExtHdrFragment(m=1), ICMPv6EchoRequest(data=b"x" * 16)),
    "an extension header": v6(IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]), ICMPv6EchoRequest()),
    "a hop-by-hop header": v6(IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]), ICMPv6EchoRequest()),
    "half an ICMP header": v4(b"\x08\x00\x00\x00\x00\x00", proto=1),
    "half an ICMP header and padding": v4(b"\x08\x00\x00\x00\x00\x00", proto=1) + bytes(40),
    "less than the type": v4(b"\x08", proto=1),
    "half an ICMPv6 header": v6(b"\x80\x00\x00\x00\x00\x00", nh=58),
    "ICMPv6 in IPv4": v4(b"\x80\x00" + bytes(10), proto=58),
    "ICMP in IPv6": v6(b"\x08\x00" + bytes(10), nh=1),
    "UDP": v4(UDP()),
    "from nobody": v4(ICMP(), src="0.0.0.0"),
    "from a loopback address": v4(ICMP(), src="127.0.0.1"),
    "from a group": v4(ICMP(), src="224.0.0.1"),
    "from the reserved range": v4(ICMP(), src="240.0.0.1"),
    "from all": v4(ICMP(), src="255.255.255.255"),
    "from itself": v4(ICMP(), src=VIP4),
    "from nobody of IPv6": v6(ICMPv6EchoRequest(), src="::"),
    "from loopback of IPv6": v6(ICMPv6EchoRequest(), src="::1"),
    "from a group of IPv6": v6(ICMPv6EchoRequest(), src="ff02::1"),
    "from itself of IPv6": v6(ICMPv6EchoRequest(), src=VIP6),
}


@pytest.mark.parametrize("sentence", ASKED)
def test_an_echo_request_becomes_the_reply(loaded, sentence):
    sent = ASKED[sentence]
    reply = loaded[0].echo(sent)
    assert reply is not None
    assert reply.hex() == replied(sent).hex()
    read = Ether(reply)
    assert bytes(Ether(reply[:14] + bytes(_without_sums(read)))) == reply  # scapy's checksums are the same


def _without_sums(read: Ether):
    packet = read.payload.copy()
    for layer in (packet, packet.payload):
        for name in ("chksum", "cksum"):
            if name in layer.fields:
                del layer.fields[name]
    return packet


@pytest.mark.parametrize("sentence", NOT_ASKED)
def test_what_is_no_echo_request_is_left_as_it_was(loaded, sentence):
    assert loaded[0].echo(NOT_ASKED[sentence]) is None


@pytest.mark.parametrize("seq", [0, 1, 0xF7FF, 0xF800, 0xFFFF, 0x07FF, 0x0800])
def test_the_reply_s_checksum_carries(loaded, seq):
    for ident in range(0, 0x10000, 37):
        sent = v4(ICMP(id=ident, seq=seq))
        assert loaded[0].echo(sent) == replied(sent)


def test_a_wrong_checksum_stays_wrong(loaded):
    reply = loaded[0].echo(v4(ICMP(id=3, seq=4, chksum=0x1234), b"abc"))
    assert reply is not None
    assert checksum(even(reply[34:])) != 0


# errors


REPORTED = {
    "a TCP segment": v4(TCP(), b"x" * 1500, flags="DF"),
    "a TCP segment of IPv6": v6(TCP(), b"x" * 1500),
    "a short packet is quoted whole": v4(UDP(), b"abcdefgh"),
    "an odd number of octets": v4(UDP(), b"abc"),
    "two octets more than words": v4(UDP(), b"ab"),
    "one octet more than words": v4(UDP(), b"a"),
    "an odd number of octets of IPv6": v6(UDP(), b"abc"),
    "a header alone": v4(proto=253),
    "a header alone of IPv6": v6(nh=59),
    "just what is quoted": v4(UDP(), b"x" * (QUOTE4 - 28)),
    "one octet more than is quoted": v4(UDP(), b"x" * (QUOTE4 - 27)),
    "one octet less than is quoted": v4(UDP(), b"x" * (QUOTE4 - 29)),
    "just what is quoted of IPv6": v6(UDP(), b"x" * (QUOTE6 - 48)),
    "one octet more than is quoted of IPv6": v6(UDP(), b"x" * (QUOTE6 - 47)),
    "padding is not quoted": v4(UDP(), b"abc") + bytes(15),
    "padding is not quoted of IPv6": v6(UDP(), b"abc") + bytes(15),
    "a jumbo frame in several buffers": v4(UDP(), b"x" * 8000),
    "a jumbo frame of IPv6": v6(UDP(), b"x" * 8000),
    "options": v4(UDP(), b"abc", options=[IPOption(b"\x83\x03\x10")]),
    "a hop-by-hop header": v6(IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]), UDP()),
    "the first fragment": v4(UDP(), b"x" * 16, flags="MF"),
    "the first fragment of IPv6": v6(IPv6ExtHdrFragment(m=1), UDP(), b"x" * 16),
    "an echo request": v4(ICMP()),
    "an echo request of IPv6": v6(ICMPv6EchoRequest()),
    "a header cut off": v4(b"\x00\x50", proto=6),
    "octets of all ones": v4(UDP(sport=65535, dport=65535, chksum=65535), b"\xff" * 999),
    "octets of all ones of IPv6": v6(UDP(sport=65535, dport=65535, chksum=65535), b"\xff" * 1999),
}  # fmt: skip

UNREPORTED = {
    "unreachable": v4(ICMP(type=3, code=4), bytes(IP() / UDP())),
    "source quench": v4(ICMP(type=4), bytes(IP() / UDP())),
    "redirect": v4(ICMP(type=5), bytes(IP() / UDP())),
    "time exceeded": v4(ICMP(type=11), bytes(IP() / UDP())),
    "parameter problem": v4(ICMP(type=12), bytes(IP() / UDP())),
    "a type that nobody knows": v4(ICMP(type=19), bytes(8)),
    "packet too big of IPv6": v6(ICMPv6PacketTooBig(), bytes(IPv6() / UDP())),
    "time exceeded of IPv6": v6(ICMPv6TimeExceeded(), bytes(IPv6() / UDP())),
    "parameter problem of IPv6": v6(ICMPv6ParamProblem(), bytes(IPv6() / UDP())),
    "an error of IPv6 that nobody knows": v6(b"\x64\x00\x00\x00" + bytes(8), nh=58),
    "redirect of IPv6": v6(ICMPv6ND_Redirect()),
    "a later fragment": v4(UDP(), b"x" * 16, frag=2),
    "a later fragment of IPv6": v6(IPv6ExtHdrFragment(offset=2), b"x" * 16),
    "an ICMP type cut off": v4(b"\x08", proto=1),
    "from nobody": v4(UDP(), src="0.0.0.0"),
    "from this network": v4(UDP(), src="0.1.2.3"),
    "from a loopback address": v4(UDP(), src="127.1.2.3"),
    "from a group": v4(UDP(), src="239.1.2.3"),
    "from the reserved range": v4(UDP(), src="250.1.2.3"),
    "from all": v4(UDP(), src="255.255.255.255"),
    "from itself": v4(UDP(), src=VIP4),
    "from a group of IPv6": v6(UDP(), src="ff02::1"),
    "from nobody of IPv6": v6(UDP(), src="::"),
    "from loopback of IPv6": v6(UDP(), src="::1"),
    "from itself of IPv6": v6(UDP(), src=VIP6),
}


@pytest.mark.parametrize("mtu", [0, 1280, 1400])
@pytest.mark.parametrize("sentence", REPORTED)
def test_an_error_quotes_what_it_answers(loaded, sentence, mtu):
    sent = REPORTED[sentence]
    error = loaded[mtu].error(sent)
    assert error is not None
    assert error.hex() == reported(sent, mtu).hex()


@pytest.mark.parametrize("mtu", [0, 1400])
@pytest.mark.parametrize("sentence", UNREPORTED)
def test_what_may_not_be_answered_is_left_as_it_was(loaded, sentence, mtu):
    assert loaded[mtu].error(UNREPORTED[sentence]) is None


def test_an_error_is_never_longer_than_its_family_allows(loaded):
    for octets in range(0, 3000, 7):
        four, six = (loaded[0].error(make(UDP(), b"x" * octets)) for make in (v4, v6))
        assert four is not None
        assert six is not None
        assert len(four) == 14 + min(56 + octets, 576)
        assert len(six) == 14 + min(96 + octets, 1280)
        assert checksum(even(four[34:])) == 0
        assert checksum(pseudo6(six[14:]) + even(six[54:])) == 0


# real hosts


@pytest.fixture
def net():
    with Router() as made:
        made.pin_neighbours()
        yield made


@contextlib.contextmanager
def attached(net: Router, mtu: int, mode: str = "native"):
    """The programs on the router's left device, as a service would call them."""
    with answers(mtu, generic=mode == "generic") as loaded:
        # a devmap takes an index for that of the namespace it is written from
        netns.run_in(net.ns, loaded.opened.map("egress_native").set, 0, net.left.index)
        with netns.run_in(net.ns, XdpLink.attach, loaded.opened.program("live"), net.left.index, mode):
            yield


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("family", [4, 6])
def test_ping_gets_replies(net, family, mode):
    to = "198.51.100.33" if family == 4 else "2001:db8:f::33"  # nobody has it
    with attached(net, 0, mode):
        for size in (0, 1, 56, 1452):
            said = sh(net.client.ns, f"ping -n -c 3 -i 0.05 -W 2 -s {size} {to}").stdout
            assert "3 received" in said
            assert said.count("ttl=64") == 3


@pytest.mark.parametrize("family", [4, 6])
def test_ping_is_told_that_no_hop_is_left(net, family):
    to = "198.51.100.33" if family == 4 else "2001:db8:f::33"
    with attached(net, 0):
        said = sh(net.client.ns, f"ping -n -c 1 -W 2 -t 1 {to}", check=False).stdout
    assert re.search(rf"From {to}:? icmp_seq=1 Time (to live )?exceeded", said), said


@pytest.mark.parametrize("family", [4, 6])
def test_a_tcp_connection_lowers_its_path_mtu_and_all_of_it_arrives(net, family):
    """A megabyte to a server behind a program that lets through no packet of more than 1,300 octets."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    to = net.server.ip4 if family == 4 else net.server.ip6
    sent = bytes(range(256)) * 4096
    for end in (net.client, net.server):
        sh(end.ns, f"ethtool -K {end.dev} tso off gso off")
    received = bytearray()
    listener = netns.run_in(net.server.ns, lambda: socket.create_server((to, 5001), family=kind))
    listener.settimeout(20)

    def take() -> None:
        accepted, _ = listener.accept()
        with accepted:
            while piece := accepted.recv(1 << 16):
                received.extend(piece)

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    with attached(net, 1300), listener:
        client = netns.run_in(net.client.ns, lambda: socket.create_connection((to, 5001), timeout=20))
        with client:
            client.sendall(sent)
            mtu = path_mtu(client, family, below=1500)
        taker.join(20)
    assert not taker.is_alive()
    assert bytes(received) == sent
    assert mtu == 1300
    route = subprocess.run(["ip", "-n", net.client.ns, "route", "get", to], capture_output=True, text=True, check=True)
    assert "mtu 1300" in route.stdout


def path_mtu(connected: socket.socket, family: int, below: int) -> int:
    """The path MTU that a connection has learned (IP_MTU, IPV6_MTU of linux/in.h and in6.h)."""
    level, name = (socket.IPPROTO_IP, 14) if family == 4 else (socket.IPPROTO_IPV6, 24)
    deadline = time.monotonic() + 5
    while (mtu := connected.getsockopt(level, name)) >= below and time.monotonic() < deadline:
        time.sleep(0.01)
    return mtu
