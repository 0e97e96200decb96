"""Each thing that XDP would skip turns learning off while it is there, by name, and only where it must."""

import ctypes
import os
import socket
import struct

import pytest

from hopline.kernel import netns
from hopline.kernel.netlink import query
from hopline.kernel.netlink.policy import Policy, forbids
from hopline.kernel.netlink.routes import FlatteningRoutes
from lab.netlink_room import needs_root, room, shell

pytestmark = needs_root
SETUP = """
ip link set lo up
ip link add v0 type veth peer name p0; ip link add v1 type veth peer name p1
for d in v0 v1 p0 p1; do ip link set $d up; done
ip addr add 10.0.0.1/24 dev v0; ip addr add 10.0.1.1/24 dev v1
ip addr add 2001:db8::1/64 dev v0 nodad
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0
for d in v0 v1; do sysctl -qw net.ipv4.conf.$d.rp_filter=0; done
"""

# (what, set up, take down, where: interface → families it must forbid on, the text)
CASES = [
    (
        "nft add table ip t; nft 'add chain ip t c { type filter hook forward priority 0; }'",
        "nft delete table ip t",
        {"v0": {4}, "v1": {4}},
        "nftables chain ip t/c (forward)",
    ),
    (
        "nft add table ip6 t; nft 'add chain ip6 t c { type filter hook prerouting priority 0; }'",
        "nft delete chain ip6 t c",
        {"v0": {6}, "v1": {6}},
        "nftables chain ip6 t/c (prerouting)",
    ),
    (
        "nft add table inet t; nft 'add chain inet t c { type filter hook postrouting priority 0; }'",
        "nft 'add table inet t { flags dormant; }'",
        {"v0": {4, 6}, "v1": {4, 6}},
        "nftables chain inet t/c (postrouting)",
    ),
    (
        "nft add table netdev t; nft 'add chain netdev t c { type filter hook ingress device v0 priority 0; }'",
        "nft delete table netdev t",
        {"v0": {4, 6}, "v1": set()},
        "nftables chain netdev t/c (ingress of v0)",
    ),
    (
        "nft add table inet t; nft 'add chain inet t c { type filter hook ingress device v0 priority 0; }'",
        "nft delete table inet t",
        {"v0": {4, 6}, "v1": set()},
        "nftables chain inet t/c (ingress of v0)",
    ),
    (
        "nft add table netdev t; nft 'add chain netdev t c { type filter hook egress device v0 priority 0; }'",
        "nft delete table netdev t",
        {"v0": {4, 6}, "v1": {4, 6}},
        "nftables chain netdev t/c (egress of v0)",
    ),
    (
        "ip xfrm policy add dst 10.9.0.0/16 dir out",
        "ip xfrm policy flush",
        {"v0": {4}, "v1": {4}},
        "xfrm policy to 10.9.0.0/16 dir out",
    ),
    (
        "ip xfrm policy add dst 2001:db8:9::/48 dir fwd",
        "ip xfrm policy flush",
        {"v0": {6}, "v1": {6}},
        "xfrm policy to 2001:db8:9::/48 dir fwd",
    ),
    (
        "tc qdisc add dev v0 clsact; tc filter add dev v0 egress u32 match u32 0 0",
        "tc filter del dev v0 egress",
        {"v0": {4, 6}, "v1": {4, 6}},
        "tc filter at egress of v0",
    ),
    (
        "tc qdisc add dev v0 clsact; tc filter add dev v0 ingress u32 match u32 0 0",
        "tc qdisc del dev v0 clsact",
        {"v0": {4, 6}, "v1": set()},
        "tc filter at ingress of v0",
    ),
    (
        "tc qdisc add dev v0 handle ffff: ingress; tc filter add dev v0 parent ffff: u32 match u32 0 0",
        "tc qdisc del dev v0 ingress",
        {"v0": {4, 6}, "v1": set()},
        "tc filter at ingress of v0",
    ),
    (
        "tc qdisc add dev v0 root tbf rate 1mbit burst 10k latency 10ms",
        "tc qdisc del dev v0 root",
        {"v0": {4, 6}, "v1": {4, 6}},
        "tc qdisc tbf at egress of v0",
    ),
    (
        "sysctl -qw net.ipv4.conf.v0.rp_filter=1",
        "sysctl -qw net.ipv4.conf.v0.rp_filter=0",
        {"v0": {4}, "v1": set()},
        "strict rp_filter on v0",
    ),
    (
        "sysctl -qw net.ipv4.conf.all.rp_filter=2",
        "sysctl -qw net.ipv4.conf.all.rp_filter=0",
        {"v0": {4}, "v1": {4}},
        "loose rp_filter on v0 without a default route",
    ),
    (
        "ip route add 10.9.0.0/16 via 10.0.0.2 mtu 1000",
        "ip route del 10.9.0.0/16",
        {"v0": {4}, "v1": {4}},
        "without `mtu lock`, mtu 1000 of route 10.9.0.0/16",
    ),
    (
        "sysctl -qw net.ipv6.conf.v0.disable_ipv6=1",
        "sysctl -qw net.ipv6.conf.v0.disable_ipv6=0",
        {"v0": {6}, "v1": set()},
        "ipv6 is disabled on v0",
    ),
    (
        "ip route add default via 10.0.0.2; ip route add blackhole 10.9.0.0/16; "
        "sysctl -qw net.ipv4.conf.all.rp_filter=2",
        "ip route del blackhole 10.9.0.0/16",
        {"v0": {4}, "v1": {4}},
        "loose rp_filter on v0 with blackhole route 10.9.0.0/16",
    ),
    (
        "sysctl -qw net.ipv6.conf.all.proxy_ndp=1",
        "sysctl -qw net.ipv6.conf.all.proxy_ndp=0",
        {"v0": {6}, "v1": {6}},
        "net.ipv6.conf.all.proxy_ndp is on",
    ),
    (
        "sysctl -qw net.ipv4.ip_forward_use_pmtu=1",
        "sysctl -qw net.ipv4.ip_forward_use_pmtu=0",
        {"v0": {4}, "v1": {4}},
        "net.ipv4.ip_forward_use_pmtu is on",
    ),
    (
        "ip rule add priority 7 from 10.9.0.0/16 lookup 9",
        "ip rule del priority 7",
        {"v0": {4}, "v1": {4}},
        "ip rule 7: from lookup 9",
    ),
    (
        "ip -6 rule add priority 7 iif v1 lookup main",
        "ip -6 rule del priority 7",
        {"v0": {6}, "v1": {6}},
        "ip rule 7: iif v1 lookup 254",
    ),
    (
        "ip rule add priority 7 lookup main suppress_prefixlength 0",
        "ip rule del priority 7",
        {"v0": {4}, "v1": {4}},
        "ip rule 7: lookup 254",
    ),
    (
        "ip route add 10.9.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.1.2",
        "ip route del 10.9.0.0/16",
        {"v0": {4}, "v1": {4}},
        "multipath route 10.9.0.0/16",
    ),
    (
        "ip -6 route add 2001:db8:9::/48 nexthop via 2001:db8::2 nexthop via 2001:db8::3",
        "ip -6 route del 2001:db8:9::/48 via 2001:db8::3",
        {"v0": {6}, "v1": {6}},
        "multipath route 2001:db8:9::/48",
    ),
    (
        "ip nexthop add id 1 via 10.0.0.2 dev v0; ip nexthop add id 2 via 10.0.1.2 dev v1;"
        "ip nexthop add id 9 group 1/2; ip route add 10.9.0.0/16 nhid 9",
        "ip nexthop del id 2",
        {"v0": {4}, "v1": {4}},
        "multipath route 10.9.0.0/16",
    ),
    (
        "ip route add 10.9.0.0/16 tos 0x10 via 10.0.0.2",
        "ip link set v0 down; ip link set v0 up",
        {"v0": {4}, "v1": {4}},
        "route with tos 0x10 10.9.0.0/16",
    ),
    (
        "ip -6 route add 2001:db8:9::/48 from 2001:db8:7::/48 via 2001:db8::2",
        "ip -6 route flush root 2001:db8:9::/48",
        {"v0": {6}, "v1": {6}},
        "source-specific route 2001:db8:9::/48",
    ),
    (
        "ip link add br0 type bridge; ip link set v0 master br0",
        "ip link set v0 nomaster",
        {"v0": {4, 6}, "v1": set()},
        "v0 is a port of br0",
    ),
    (
        "sysctl -qw net.ipv4.conf.v0.forwarding=0",
        "sysctl -qw net.ipv4.conf.v0.forwarding=1",
        {"v0": {4}, "v1": set()},
        "forwarding is off: sysctl -w net.ipv4.conf.v0.forwarding=1",
    ),
    (
        "sysctl -qw net.ipv6.conf.v0.forwarding=0",
        "sysctl -qw net.ipv6.conf.v0.forwarding=1",
        {"v0": {6}, "v1": set()},
        "forwarding is off: sysctl -w net.ipv6.conf.v0.forwarding=1",
    ),
    (
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
        {"v0": {6}, "v1": {6}},
        "forwarding is off: sysctl -w net.ipv6.conf.all.forwarding=1",
    ),
]


@pytest.fixture
def ns():
    with room(SETUP) as name:
        yield name


def reasons(ns: str) -> dict[tuple[str, int], list[str]]:
    def ask() -> dict[tuple[str, int], list[str]]:
        snapshot = Policy().snapshot()
        indexes = {name: query.link(name).index for name in ("v0", "v1")}
        return {(name, family): snapshot.forbids(at, family) for name, at in indexes.items() for family in (4, 6)}

    return netns.run_in(ns, ask)


def test_a_plain_router_may_learn(ns):
    assert not any(reasons(ns).values())


@pytest.mark.parametrize(("begin", "end", "where", "text"), CASES, ids=[case[3].replace("/", "_") for case in CASES])
def test_it_forbids_while_it_is_there(ns, begin, end, where, text):
    shell(ns, begin)
    found = reasons(ns)
    for name, families in where.items():
        for family in (4, 6):
            if family in families:
                expected = text.replace("on v0", f"on {name}")
                assert found[(name, family)] == [expected], (name, family)
            else:
                assert found[(name, family)] == [], (name, family)
    shell(ns, end)
    assert not any(reasons(ns).values())


@pytest.mark.parametrize(
    "harmless",
    [
        "nft add table ip t; nft add chain ip t plain",
        "nft add table ip t; nft 'add chain ip t c { type filter hook input priority 0; }'",
        "nft add table ip t; nft 'add chain ip t c { type filter hook output priority 0; }'",
        "nft add table bridge t; nft 'add chain bridge t c { type filter hook forward priority 0; }'",
        "nft add table arp t; nft 'add chain arp t c { type filter hook input priority 0; }'",
        "tc qdisc add dev v0 clsact",
        "tc qdisc add dev v0 root pfifo limit 100",
        "ip xfrm policy add dst 10.9.0.0/16 dir in",
        "ip route add 10.9.0.0/16 table 99 nexthop via 10.0.0.2 nexthop via 10.0.1.2",
        "ip nexthop add id 1 via 10.0.0.2 dev v0; ip route add 10.9.0.0/16 nhid 1",
        "ip rule add priority 100 lookup local; ip rule del priority 0",
        "ip route add blackhole 10.9.0.0/16",
        "ip route add 10.9.0.0/16 via 10.0.0.2 mtu lock 1000",
        "ip route add 10.9.0.0/16 via 10.0.0.2 mtu 1500",
        "ip route add default via 10.0.0.2; sysctl -qw net.ipv4.conf.all.rp_filter=2",
        "ip route add 10.9.0.0/16 via 10.0.0.2 metric 5; ip route add 10.9.0.0/16 via 10.0.1.2 metric 6",
    ],
)
def test_what_forwarding_never_meets_does_not_forbid(ns, harmless):
    shell(ns, harmless)
    assert not any(reasons(ns).values())


def test_an_unknown_interface_forbids(ns):
    assert netns.run_in(ns, forbids, 4711, 4)
    assert netns.run_in(ns, forbids, netns.run_in(ns, query.link, "v0").index, 4) == []


def test_snapshots_of_the_same_state_are_equal(ns):
    assert netns.run_in(ns, Policy().snapshot) == netns.run_in(ns, Policy().snapshot)


def test_routes_are_scanned_again_only_after_something_may_have_gone(ns):
    routes = FlatteningRoutes()
    policy = Policy(routes)
    netns.run_in(ns, policy.snapshot)
    assert not routes.stale
    shell(ns, "ip route add 10.9.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.1.2")
    assert routes.example(4) is None, "nobody told: this one has no watch"
    routes.note_lost()
    netns.run_in(ns, policy.snapshot)
    assert routes.example(4) == "multipath route 10.9.0.0/16"
    assert routes.example(6) is None


def _registers_a_legacy_table() -> None:
    """Asks for iptables' filter table (IPT_SO_GET_INFO), as `iptables-legacy -L` would; that registers it."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        information = ctypes.create_string_buffer(b"filter", 84)
        length = ctypes.c_uint32(84)
        if ctypes.CDLL(None).getsockopt(raw.fileno(), 0, 64, information, ctypes.byref(length)):
            pytest.skip("this kernel has no legacy iptables")


def test_legacy_iptables_forbid(ns):
    netns.run_in(ns, _registers_a_legacy_table)
    found = reasons(ns)
    assert found[("v0", 4)] == ["iptables (legacy) table filter"]
    assert found[("v0", 6)] == []


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, 128)
    number = {"x86_64": 321}.get(os.uname().machine, 280)
    return ctypes.CDLL(None).syscall(number, command, buffer, 128)


@pytest.mark.parametrize(("attach_type", "place"), [(46, "ingress"), (47, "egress")])
def test_tcx_programs_forbid_though_tc_does_not_show_them(ns, attach_type, place):
    instructions = ctypes.create_string_buffer(bytes.fromhex("b7000000ffffffff9500000000000000"))  # r0 = -1; exit
    licence = ctypes.create_string_buffer(b"GPL")

    def attach() -> int:
        pointers = struct.pack("=QQ", ctypes.addressof(instructions), ctypes.addressof(licence))
        program = _bpf(5, struct.pack("=II", 3, 2) + pointers)  # BPF_PROG_LOAD, SCHED_CLS
        assert program >= 0
        link = _bpf(28, struct.pack("=IIII", program, query.link("v0").index, attach_type, 0))  # BPF_LINK_CREATE
        os.close(program)
        return link

    link = netns.run_in(ns, attach)
    if link < 0:
        pytest.skip("this kernel has no tcx")
    found = reasons(ns)
    assert found[("v0", 4)] == found[("v0", 6)] == [f"tcx program at {place} of v0"]
    assert found[("v1", 4)] == ([] if place == "ingress" else found[("v0", 4)])
    os.close(link)
    assert not any(reasons(ns).values())
