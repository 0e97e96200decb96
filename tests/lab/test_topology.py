import re

import pytest

from hopline.errors import HoplineError, InvalidInput
from hopline.lab.forward import MACS, TOPOLOGY
from hopline.lab.shell import namespaces
from hopline.lab.topology import (
    Namespace,
    Port,
    Topology,
    address_commands,
    build,
    check,
    link_commands,
    switch_commands,
    tear_down,
)
from lab.net import Router, Sniffer, send_frames, sh, unique_tag


def cable(*addresses):
    return Topology(
        "cable",
        (
            Namespace("hl-one", (Port("eth0", "cable", "02:00:00:00:00:01", addresses),)),
            Namespace("hl-two", (Port("eth0", "cable", "02:00:00:00:00:02", ()),)),
        ),
    )


@pytest.mark.rootless
def test_a_cable_is_made_once_from_its_first_end():
    assert link_commands(cable()) == {
        "hl-one": [
            "link add eth0 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns hl-two"
        ],
        "hl-two": [],
    }


@pytest.mark.rootless
def test_an_ipv6_address_is_usable_at_once():
    lines = address_commands(cable("10.0.0.1/24", "fd00::1/64").node("hl-one"))
    assert "address add 10.0.0.1/24 dev eth0" in lines
    assert "address add fd00::1/64 dev eth0 nodad" in lines


@pytest.mark.rootless
def test_a_lan_without_a_switch_has_two_ends():
    alone = Topology("alone", (Namespace("hl-one", (Port("eth0", "cable", "02:00:00:00:00:01", ()),)),))
    with pytest.raises(InvalidInput, match="joins two ports, this one has 1"):
        check(alone)


@pytest.mark.rootless
def test_a_name_the_kernel_would_refuse_is_refused_first():
    port = Port("a-very-long-device", "lan", "02:00:00:00:00:01", ())
    with pytest.raises(InvalidInput, match="at most 15 characters"):
        check(Topology("long", (Namespace("hl-one", (port,)),), switch="hl-sw"))


@pytest.mark.rootless
def test_the_forward_lab_is_the_experiment_it_reproduces():
    check(TOPOLOGY)
    ports = {(node.name, port.device): (port.mac, *port.addresses) for node in TOPOLOGY.nodes for port in node.ports}
    assert ports["hl-a", "enp0s3"] == ("08:00:27:f0:1e:41", "10.10.2.4/24")
    assert ports["hl-a", "enp0s8"] == ("08:00:27:f3:81:0e", "192.168.56.4/24")
    assert ports["hl-a", "enp0s9"] == ("08:00:27:13:df:b6", "10.10.3.6/24")
    assert ports["hl-b", "enp0s3"] == ("08:00:27:3b:8d:be", "10.10.2.7/24")
    assert ports["hl-b", "enp0s8"] == ("08:00:27:66:a9:e8", "192.168.56.103/24")
    assert ports["hl-c", "enp0s3"] == ("08:00:27:99:cf:ce", "10.10.2.6/24")
    assert ports["hl-c", "enp0s8"] == ("08:00:27:ac:af:9f", "192.168.56.102/24")
    assert ports["hl-c", "enp0s9"] == ("08:00:27:f2:cb:f9", "10.10.3.5/24")
    assert {ports["hl-gw", device] for device in ("enp0s3", "enp0s9")} == {
        ("52:54:00:12:35:00", "10.10.2.1/24"),
        ("52:54:00:12:35:00", "10.10.3.1/24"),
    }
    assert [node.name for node in TOPOLOGY.nodes if node.forwards] == ["hl-a"]
    assert set(MACS) == {mac for (_, device), (mac, *_) in ports.items() if device != "enp0s8"}
    assert sum(line.startswith("link add") for line in switch_commands(TOPOLOGY)) == 3


def test_build_refused_by_the_kernel_names_the_command_and_leaves_nothing():
    tag = unique_tag()
    wrong = Topology(tag, (Namespace(f"hl-{tag}", (), routes=("default via 10.9.9.9",)),))
    try:
        with pytest.raises(HoplineError, match=r"route add default via 10\.9\.9\.9: Nexthop has invalid gateway"):
            build(wrong)
    finally:
        tear_down(wrong.namespace_names())
    assert f"hl-{tag}" not in namespaces()


def test_the_router_routes_both_families_and_goes_away():
    with Router() as net:
        net.warm()
        assert net.left.index != net.right.index
        for end in (net.client, net.left, net.right, net.server):
            offload = sh(end.ns, f"ethtool -k {end.dev}").stdout
            assert re.search(r"^generic-receive-offload: on", offload, re.M)
            assert re.search(r"^tx-checksumming: off", offload, re.M)
    assert not any(net.tag in name for name in namespaces())


def test_a_sniffer_sees_the_bytes_that_were_sent():
    with Router() as net:
        ethernet = net.left.mac_bytes + net.client.mac_bytes
        plain = ethernet + b"\x88\xb5" + bytes(range(60))
        tagged = ethernet + b"\x81\x00\x20\x05\x88\xb5" + bytes(range(60))
        twice = ethernet + b"\x88\xa8\x00\x07\x81\x00\x20\x05\x88\xb5" + bytes(range(60))
        shortest = ethernet + b"\x88\xb5"
        sent = [plain, tagged, twice, shortest]
        with Sniffer(net.left.ns, net.left.dev, match=lambda frame: b"\x88\xb5" in frame[12:24]) as sniffer:
            send_frames(net.client.ns, net.client.dev, sent)
            assert sniffer.wait(len(sent)) == sent
