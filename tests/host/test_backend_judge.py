"""What `hopline doctor backend` makes of what there is, where this kernel may not have it: tunnels, modules, clouds."""

from dataclasses import replace

import pytest

from hopline.config import Decap
from hopline.host.backend.facts import Facts, Hopline
from hopline.host.backend.judge import judge
from hopline.kernel.netlink.defaults import DefaultRoute
from hopline.kernel.netlink.types import Address, Link

VIP, VIP6 = "192.168.33.33", "2001:db8::33"
LOOPBACK, NO_ARP = 0x8, 0x80


def link(index, name, kind="", hardware=1, flags=0, mtu=1500, up=True):
    return Link(index, name, bytes(6), mtu, up, up, kind, 0, 0, None, hardware, flags, 0)


LO = link(1, "lo", hardware=772, flags=LOOPBACK)
ETH1 = link(2, "eth1")
TUNL0 = link(3, "tunl0", "ipip", hardware=768, flags=NO_ARP)
ADDRESSES = [
    Address(1, "127.0.0.1", 8, None),
    Address(2, "192.168.33.11", 24, None),
    Address(2, "2001:db8::11", 64, None),
    Address(2, "fe80::1", 64, None),
]
DEFAULT = DefaultRoute(4, 2, "192.168.33.1", None, 3, 0, 0, 1440, False)
DEFAULT6 = DefaultRoute(6, 2, "fe80::2", None, 0, 1024, 0, 1400, False)
WELL = Facts(
    links=[LO, ETH1, TUNL0],
    addresses=[*ADDRESSES, Address(3, VIP, 32, None)],
    local=frozenset({"192.168.33.11", VIP}),
    settings={"all": {"rp_filter": 0, "arp_ignore": 1, "arp_announce": 2}},
    defaults={4: DEFAULT, 6: DEFAULT6},
)


def wrong(facts, vip=None):
    """What is not as it should be: subject, text and mend of it."""
    return [(one.subject, one.text, one.mend) for one in judge(facts, vip) if one.level != "ok"]


def only(facts, vip=None):
    (one,) = wrong(facts, vip)
    return one


def test_a_real_server_of_the_kernel_alone_is_well():
    assert wrong(WELL) == []
    assert [(one.subject, one.text) for one in judge(WELL)] == [
        (VIP, "is an address of tunl0"),
        ("eth1", f"keeps silent about {VIP}"),
        ("tunl0", "packets are taken out by tunl0 (ipip)"),
        ("tunl0", "lets in what is taken out (rp_filter 0, off)"),
        ("eth1", "segments of 1440 octets fit with 20 of outer header in its MTU 1500"),
        ("ipv4", "forwarding is off, and need not be on"),
    ]


def test_a_tunnel_that_is_down_is_to_be_brought_up():
    down = replace(TUNL0, up=False)
    facts = replace(WELL, links=[LO, ETH1, down], addresses=[*ADDRESSES, Address(1, VIP, 32, None)])
    assert only(facts) == (
        "tunl0",
        f"nothing takes encapsulated packets for {VIP} out: it is down",
        "ip link set tunl0 up",
    )


@pytest.mark.parametrize(
    ("more", "subject", "mend"),
    [
        ({"modules": frozenset({"ipip", "fou"})}, "tunl0", "modprobe ipip && ip link set tunl0 up"),
        ({}, "decap", "hopline serve"),
        ({"hopline": Hopline(1)}, "decap", "hopline decap add --local 192.168.33.11 --from 192.168.33.0/24"),
        ({"hopline": Hopline(1, [Decap("192.168.33.11", "any")])}, "eth1", "hopline interface add eth1"),
        (
            {"hopline": Hopline(1, [Decap("192.168.33.11", "any")], command="hopline --instance b")},
            "eth1",
            "hopline --instance b interface add eth1",
        ),
    ],
)
def test_where_nothing_takes_packets_out_the_nearest_way_is_named(more, subject, mend):
    facts = replace(WELL, links=[LO, ETH1], addresses=[*ADDRESSES, Address(1, VIP, 32, None)], **more)
    found = only(facts)
    assert (found[0], found[2]) == (subject, mend)
    assert found[1].startswith(f"nothing takes encapsulated packets for {VIP} out")


def test_hopline_s_decap_will_do_where_it_is_attached():
    hopline = Hopline(1, [Decap("192.168.33.11", "any")], ["eth1"])
    facts = replace(WELL, links=[LO, ETH1], addresses=[*ADDRESSES, Address(1, VIP, 32, None)], hopline=hopline)
    assert wrong(facts) == []
    strict = replace(facts, settings={**facts.settings, "eth1": {"rp_filter": 1}})
    assert wrong(strict) == []
    other = replace(strict, defaults={4: replace(DEFAULT, index=9), 6: None})
    assert wrong(other)[0] == (
        "eth1",
        "drops what is taken out, for the way back to clients is by another device (rp_filter 1, strict)",
        "sysctl -w net.ipv4.conf.eth1.rp_filter=2",
    )


def test_a_strict_filter_of_all_devices_is_a_tunnel_s_too():
    settings = {**WELL.settings, "all": {**WELL.settings["all"], "rp_filter": 1}}
    assert only(replace(WELL, settings=settings)) == (
        "tunl0",
        "drops what is taken out, for the way back to clients is by another device (rp_filter 1, strict)",
        "sysctl -w net.ipv4.conf.tunl0.rp_filter=2",
    )
    assert wrong(replace(WELL, settings={**settings, "tunl0": {"rp_filter": 2}})) == []


def test_gue_takes_eight_octets_more():
    facts = replace(WELL, gue={4: frozenset({6080}), 6: frozenset()})
    assert only(facts)[2] == "ip route change default via 192.168.33.1 dev eth1 proto 3 advmss 1432"


def test_what_a_route_says_is_said_again():
    route = replace(DEFAULT, metric=100, source="192.168.33.11", mtu=1500, advmss=0)
    assert only(replace(WELL, defaults={4: route, 6: None})) == (
        "eth1",
        "clients are told to send segments of 1460 octets, and beside 20 of outer header 1440 fit: the director answers"
        " longer ones with 'too big'",
        "ip route change default via 192.168.33.1 dev eth1 proto 3 metric 100 src 192.168.33.11 mtu 1500 advmss 1440",
    )


def test_ipv6_asks_for_a_tunnel_of_its_own():
    six = replace(WELL, addresses=[*ADDRESSES, Address(1, VIP6, 128, None)], local=frozenset({VIP6}))
    found = wrong(replace(six, modules=frozenset({"ip6_tunnel"})))
    assert [mend for _, _, mend in found] == ["modprobe ip6_tunnel && ip link set ip6tnl0 up"]
    tunnel = link(4, "ip6tnl0", "ip6tnl", hardware=769, flags=NO_ARP)
    assert wrong(replace(six, links=[*WELL.links, tunnel])) == []
    long = replace(DEFAULT6, advmss=0)
    assert only(replace(six, links=[*WELL.links, tunnel], defaults={4: None, 6: long}))[2] == (
        "ip -6 route change default via fe80::2 dev eth1 metric 1024 advmss 1400"
    )


def test_an_ipv4_vip_is_reached_by_either_tunnel():
    tunnel = link(4, "ip6tnl0", "ip6tnl", hardware=769, flags=NO_ARP)
    facts = replace(WELL, links=[LO, ETH1, tunnel], addresses=[*ADDRESSES, Address(1, VIP, 32, None)])
    assert "packets are taken out by ip6tnl0 (ip6tnl)" in [one.text for one in judge(facts)]


def test_a_cloud_s_host_address_is_no_vip():
    cloud = replace(WELL, addresses=[Address(2, "10.128.0.5", 32, None)], local=frozenset({"10.128.0.5"}))
    assert only(cloud) == (
        "vip",
        "no address here looks like a VIP, which has /32 or /128 and is not a device's only one: name it",
        "hopline doctor backend ADDR",
    )
    assert wrong(replace(cloud, addresses=[*cloud.addresses, Address(2, VIP, 32, None)]))[0][0] == VIP


def test_a_vip_beside_the_tunnel_on_a_device_is_taken_off_there():
    facts = replace(WELL, addresses=[*WELL.addresses, Address(2, VIP, 24, None)])
    assert only(facts) == (
        VIP,
        "is an address of eth1, which answers ARP for it in the director's place",
        f"ip address del {VIP}/24 dev eth1",
    )


def test_without_a_default_route_it_is_said_and_no_command_made_up():
    assert only(replace(WELL, defaults={4: None, 6: None})) == (
        "ipv4",
        "there is no default route, so clients beyond this host's networks get no answer: add one",
        "",
    )
