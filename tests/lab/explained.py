"""The world in which `explain` is asked, and packets for every verdict that it can come to."""

import contextlib
import grp

from scapy.layers.inet import IPOption_NOP
from scapy.layers.l2 import ARP

import hopline
from bpf.frames import IP, UDP, Dot1Q
from bpf.frames import frame as framed
from lab.net import AUTO, Daemon, sh
from lab.traffic import WideRouter, attach

NOBODY = 65534
LEFT, CLIENT = "02:00:00:00:01:01", "02:00:00:00:01:02"
ROUTES = (
    "unreachable 10.60.0.0/16",
    "blackhole 10.61.0.0/16",
    "prohibit 10.62.0.0/16",
    "10.63.0.0/16 encap ip id 5 dst 10.2.0.9 dev right",
    "10.64.0.0/16 via 10.2.0.2 mtu lock 1000",
    "10.70.0.0/16 dev bridge",
)


@contextlib.contextmanager
def world():
    """A wide router with routes of every kind, whose hosts say nothing of their own accord."""
    with WideRouter() as one:
        sh(one.ns, "ip link add bridge type bridge")
        sh(one.ns, "ip link set bridge up")
        sh(one.ns, "ip neigh add 10.70.0.1 lladdr 02:00:00:00:70:01 dev bridge nud permanent")
        for route in ROUTES:
            sh(one.ns, f"ip route add {route}")
        sh(one.ns, "sysctl -qw net.ipv4.conf.third.rp_filter=1")
        sh(one.ns, "sysctl -qw net.ipv4.icmp_ratemask=0")
        for host in (one.client, one.server, one.other):
            sh(host.ns, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
        yield one


@contextlib.contextmanager
def serving(net, directory):
    """A daemon on it, with interfaces and entries; who is nobody may look."""
    group = grp.getgrgid(NOBODY).gr_name
    with Daemon(net.ns, directory, f"--view-group={group}") as daemon:
        attach(daemon, "left", "right", "third")
        forward = hopline.connect(daemon.instance).forward
        forward.add("10.50.0.0/16", via="10.2.0.2")
        forward.add("10.50.0.9", dev="right", dst_mac="02:00:00:00:0e:09")
        forward.add("10.51.0.0/16", via="10.2.0.99", dev="right")
        forward.add("fd00:50::/64", via="fd00:2::2")
        yield daemon
        assert "Traceback" not in daemon.log.read_text(), daemon.log.read_text()


def to_left(*layers, **fields):
    return framed(*layers, **{"dst": LEFT, "src": CLIENT, **fields})


def v4(dst="10.9.0.9", **fields):
    return to_left(IP(**{"src": "10.1.0.2", "dst": dst, **fields}), UDP(sport=4000, dport=5000), b"hopline")


OPTIONS = v4(options=[IPOption_NOP()] * 4)
FRAMES = {
    "PASS_NOT_IP": to_left(ARP(pdst="10.1.0.1")),
    "PASS_MALFORMED": v4(chksum=0x1234),
    "PASS_VLAN": to_left(Dot1Q(vlan=5), IP(src="10.1.0.2", dst="10.9.0.9"), UDP()),
    "PASS_OTHER_HOST": framed(IP(src="10.1.0.2", dst="10.9.0.9"), UDP(), dst="02:00:00:00:99:99"),
    "PASS_OPTIONS": OPTIONS,
}
IN_FIELDS = [
    ("FORWARDED", {"dst": "10.9.0.9"}, "fib: the FIB has a route and a neighbour: 10.2.0.2 on right, MTU 1500"),
    ("FORWARDED", {"dst": "10.9.0.9"}, "route: by the route 10.9.0.0/24 via 10.2.0.2 dev right"),
    ("FORWARDED", {"dst": "fd00:9::9"}, "route: by the route fd00:9::/64 via fd00:2::2 dev right"),
    ("FORWARDED", {"dst": "10.50.0.1"}, "entry: operator entry 10.50.0.0/16 (prefix): via 10.2.0.2"),
    ("FORWARDED", {"dst": "10.50.0.1"}, "10.2.0.2 is permanent"),
    ("FORWARDED", {"dst": "10.50.0.9"}, "entry: operator entry 10.50.0.9 (exact): dev right dst-mac 02:00:00:00:0e:09"),
    ("FORWARDED", {"dst": "10.50.0.9"}, "entered by MAC"),
    ("FORWARDED", {"dst": "fd00:50::9", "protocol": "tcp", "flags": "SA"}, "[fd00:50::9]:80, flags SA, TTL 64"),
    ("PASS_MULTICAST", {"dst": "224.0.0.5"}, "frame: addressed to the group 01:00:5e:00:00:05"),
    ("PASS_MARTIAN", {"dst": "127.0.0.9"}, "address: its destination 127.0.0.9 is loopback"),
    ("PASS_MARTIAN", {"dst": "10.9.0.9", "src": "10.2.0.1"}, "address: its source 10.2.0.1 is an address of this host"),
    ("PASS_LOCAL", {"dst": "10.2.0.1"}, "entry: 10.2.0.1 is one of this host's own addresses"),
    ("PASS_TTL", {"dst": "10.9.0.9", "ttl": 1}, "ttl: TTL 1: no hop is left"),
    (
        "PASS_TOO_BIG",
        {"dst": "10.50.0.1", "size": 1501},
        "mtu: its 1501 octets are more than the next hop's MTU of 1500",
    ),
    (
        "PASS_TOO_BIG",
        {"dst": "10.64.0.1", "size": 1001},
        "mtu: its 1001 octets are more than the next hop's MTU of 1000",
    ),
    ("PASS_NO_NEIGHBOUR", {"dst": "10.2.0.77"}, "fib: no neighbour for 10.2.0.77 on right: the kernel will ask"),
    ("PASS_NO_NEIGHBOUR", {"dst": "fd00:2::77"}, "fib: no neighbour for fd00:2::77 on right: the kernel will ask"),
    ("PASS_NO_NEIGHBOUR", {"dst": "10.51.0.1"}, "no neighbour for 10.2.0.99 on right"),
    ("PASS_NO_ROUTE", {"dst": "198.18.0.1"}, "network unreachable"),
    ("PASS_NO_ROUTE", {"dst": "10.60.0.1"}, "fib: the FIB's route says unreachable"),
    ("PASS_NO_ROUTE", {"dst": "10.61.0.1"}, "fib: the FIB's route is a blackhole"),
    ("PASS_NO_ROUTE", {"dst": "10.62.0.1"}, "fib: the FIB's route says prohibited"),
    ("PASS_ENCAPSULATED_ROUTE", {"dst": "10.63.0.1"}, "dev right with a lightweight tunnel"),
    ("PASS_NO_EGRESS", {"dst": "10.70.0.1"}, f"egress: bridge takes no redirect in {AUTO} mode"),
    ("PASS_HAIRPIN", {"dst": "10.1.0.2"}, "verdict: passed: it would leave by the interface it came in by"),
    ("PASS_NOT_LEARNING", {"dst": "10.9.0.9", "in_dev": "third"}, "learning: learning off: strict rp_filter"),
]
