"""Queries and setters agree with what ip(8) says."""

import asyncio
import json

import pytest

from hopline.errors import InvalidInput, KernelError, NotFound
from hopline.kernel import netns
from hopline.kernel.netlink import change, ethtool, query
from lab.netlink_room import needs_root, room, shell

pytestmark = needs_root
MAC = bytes.fromhex("020000000001")


@pytest.fixture
def ns():
    with room() as name:
        yield name


def test_a_veth_is_made_with_its_macs_across_namespaces_and_seen_from_both_ends(ns):
    with room() as far:
        change.create_veth("east", "west", namespace=ns, peer_namespace=far, mac=MAC, peer_mac=b"\x02\0\0\0\0\2")
        east = netns.run_in(ns, query.link, "east")
        west = netns.run_in(far, query.link, "west")
        assert (east.kind, east.mac, east.mtu, east.up, east.ethernet) == ("veth", MAC, 1500, False, True)
        assert west.mac == b"\x02\0\0\0\0\2"
        assert east.peer_index == west.index
        assert east.peer_netnsid is not None
        assert netns.run_in(ns, query.link, east.index) == east


def test_links_are_those_ip_shows(ns):
    shell(ns, "ip link add v0 type veth peer name v1; ip link add br0 type bridge; ip link set v0 master br0 up")
    shown = {entry["ifname"]: entry for entry in json.loads(shell(ns, "ip -j -d link"))}
    found = {link.name: link for link in netns.run_in(ns, query.links)}
    assert found.keys() == shown.keys()
    for name, link in found.items():
        assert link.mac.hex(":") == shown[name]["address"]
        assert link.mtu == shown[name]["mtu"]
        assert link.up == ("UP" in shown[name]["flags"])
        assert link.kind == shown[name].get("linkinfo", {}).get("info_kind", "")
    assert found["v0"].master == found["br0"].index
    assert found["v0"].peer_index == found["v1"].index
    assert found["v0"].peer_netnsid is None


@pytest.mark.parametrize("which", ["nothing", 4711, "a-name-longer-than-the-kernel-allows"])
def test_an_unknown_link_is_not_found_in_one_line(ns, which):
    with pytest.raises(NotFound, match=f"interface {which}: no such device"):
        netns.run_in(ns, query.link, which)


def test_local_addresses_have_broadcast_anycast_and_prefixes(ns):
    shell(ns, "ip link add v0 type veth peer name v1; ip link set v1 up; ip link set v0 up")
    shell(ns, "ip addr add 10.1.2.3/24 brd + dev v0; ip addr add 2001:db8::5/64 dev v0 nodad")
    shell(ns, "sysctl -qw net.ipv6.conf.all.forwarding=1; ip route add local 192.0.2.0/28 dev lo")
    local = netns.run_in(ns, query.local_addresses)
    assert {"10.1.2.3", "10.1.2.255", "127.0.0.1", "127.255.255.255", "2001:db8::5", "::1"} <= local.addresses
    assert "2001:db8::" in local.addresses, "a forwarding host answers the subnet-router anycast address"
    assert {"127.0.0.0/8", "192.0.2.0/28"} <= local.prefixes
    assert "ff00::/8" not in local.prefixes


def test_the_setters_do_what_ip_would(ns):
    def act() -> None:
        change.create_veth("v0", "v1")
        change.set_link("v0", up=True, mtu=1400, mac=MAC)
        change.set_link("v1", up=True, new_name="w1")
        change.add_address("v0", "10.0.0.1/24")
        change.add_address("v0", "2001:db8::1/64")
        change.replace_neighbour("v0", "10.0.0.2", b"\x02\0\0\0\0\x09")
        change.replace_neighbour("v0", "2001:db8::2", b"\x02\0\0\0\0\x09", "stale")
        change.replace_route("10.9.0.0/16", via="10.0.0.2", mtu=1300)
        change.replace_route("2001:db8:9::/48", via="2001:db8::2")
        change.replace_route("default", via="10.0.0.2", table=77)

    netns.run_in(ns, act)
    link = netns.run_in(ns, query.link, "v0")
    assert (link.mtu, link.mac, link.up) == (1400, MAC, True)
    entries = {entry.address: entry for entry in netns.run_in(ns, query.neighbours)}
    assert (entries["10.0.0.2"].state, entries["10.0.0.2"].usable, entries["10.0.0.2"].permanent) == (
        "permanent",
        True,
        True,
    )
    assert entries["2001:db8::2"].mac == b"\x02\0\0\0\0\x09"
    answer = netns.run_in(ns, query.route_get, "10.9.1.1")
    assert (answer.index, answer.gateway, answer.source, answer.mtu) == (link.index, "10.0.0.2", "10.0.0.1", 1300)
    assert netns.run_in(ns, query.route_get, "2001:db8:9::1").gateway == "2001:db8::2"
    assert netns.run_in(ns, query.route_get, "10.0.0.1").type == "local"
    assert "default via 10.0.0.2" in shell(ns, "ip route show table 77")

    def undo() -> None:
        change.delete_route("10.9.0.0/16")
        change.delete_neighbour("v0", "10.0.0.2")
        change.delete_address("v0", "10.0.0.1/24")
        change.delete_link("v0")

    netns.run_in(ns, undo)
    assert [link.name for link in netns.run_in(ns, query.links)] == ["lo"]


def test_errors_name_the_device_and_what_was_asked(ns):
    with pytest.raises(KernelError, match=r"look up the route to 10\.9\.0\.1: network is unreachable"):
        netns.run_in(ns, query.route_get, "10.9.0.1")
    with pytest.raises(NotFound, match="interface gone"):
        netns.run_in(ns, change.add_address, "gone", "10.0.0.1/24")
    with pytest.raises(NotFound, match=r"delete the route to 10\.0\.0\.0/8"):
        netns.run_in(ns, change.delete_route, "10.0.0.0/8")
    netns.run_in(ns, change.create_veth, "v0", "v1")
    with pytest.raises(KernelError, match="create veth v0: file exists"):
        netns.run_in(ns, change.create_veth, "v0", "v1")


def test_a_setter_works_under_a_running_event_loop_in_its_namespace(ns):
    async def act() -> None:
        change.create_veth("v0", "v1")

    netns.run_in(ns, lambda: asyncio.run(act()))
    assert netns.run_in(ns, query.link, "v1").kind == "veth"


def test_offloads_are_what_ethtool_shows(ns):
    shell(ns, "ip link add v0 type veth peer name v1")
    for word in ("tx", "gro"):
        for on in (True, False):
            shell(ns, f"ethtool -K v0 {word} {'on' if on else 'off'}")
            assert netns.run_in(ns, ethtool.offloads, "v0").on(word) is on
    with pytest.raises(InvalidInput, match="feature"):
        netns.run_in(ns, ethtool.offloads, "v0").on("warp")
    with pytest.raises(NotFound):
        netns.run_in(ns, ethtool.offloads, "gone")
