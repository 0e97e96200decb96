"""VIPs on the wire: added to a device, announced and answered for, and gone with the service."""

import time

import pytest

import hopline
from hopline.config import Backend
from hopline.errors import InvalidInput, Refused
from lab.balanced import Clients, Farm, Servers
from lab.net import Daemon, Sniffer, missing_tools, sh

pytestmark = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")
ON_LAN = "10.1.0.33"


@pytest.fixture(scope="module")
def farm():
    with Farm(1) as farm:
        yield farm


@pytest.fixture
def node(farm, tmp_path):
    with Daemon(farm.ns, tmp_path / "node") as daemon:
        hopline.connect(daemon.instance).interface.add("in")
        yield daemon
    sh(farm.ns, f"ip addr del {ON_LAN}/32 dev in", check=False)


def add(node, farm, vip=ON_LAN, **more):
    served = tuple(Backend(address) for address in farm.addresses)
    settings = {"own": "on-wire", "ring": 251, **more}
    return hopline.connect(node.instance).service.add("web", vip, 80, "tcp", backend=served, **settings)


def held(farm) -> str:
    return sh(farm.ns, "ip -o addr show dev in").stdout


def test_it_is_added_announced_answered_for_and_removed(farm, node):
    def announcement(frame: bytes) -> bool:
        sender, target = frame[28:32], frame[38:42]
        return frame[12:14] == b"\x08\x06" and sender == target == bytes(map(int, ON_LAN.split(".")))

    with Sniffer(farm.client_ns, "e", announcement) as sniffer:
        added = add(node, farm)
        assert added.state.vip_local
        assert f"{ON_LAN}/32" in held(farm)
        frames = sniffer.wait(3)
    assert len(frames) == 3
    assert {frame[22:28].hex(":") for frame in frames} == {"02:00:00:00:01:01"}
    assert "1 received" in sh(farm.client_ns, f"ping -c 1 -W 2 {ON_LAN}").stdout
    hopline.connect(node.instance).service.delete("web")
    assert ON_LAN not in held(farm)


def test_an_ipv6_address_is_announced_too(farm, node):
    def advertisement(frame: bytes) -> bool:
        return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136

    with Sniffer(farm.client_ns, "e", advertisement) as sniffer:
        served = (Backend(farm.addresses6[0]),)
        client = hopline.connect(node.instance)
        client.service.add("web", "fd00:1::33", 80, "tcp", backend=served, own="on-wire", ring=251)
        frames = sniffer.wait(2)
    assert frames[0][62:78].hex() == "fd000001000000000000000000000033"
    assert "fd00:1::33/128" in held(farm)
    assert "lladdr 02:00:00:00:01:01" in sh(
        farm.client_ns, "ip neigh show fd00:1::33", check=False
    ).stdout or "1 received" in (sh(farm.client_ns, "ping -c 1 -W 2 fd00:1::33").stdout)
    client.service.delete("web")
    assert "fd00:1::33" not in held(farm)


def test_one_that_was_there_before_stays(farm, node):
    sh(farm.ns, f"ip addr add {ON_LAN}/32 dev in")
    add(node, farm)
    hopline.connect(node.instance).service.delete("web")
    assert f"{ON_LAN}/32" in held(farm)


def test_it_goes_with_its_last_service_also_after_a_restart(farm, node):
    client = hopline.connect(node.instance)
    add(node, farm)
    client.service.add("more", ON_LAN, 81, "tcp", own="on-wire", ring=251)
    node.kill9()
    assert f"{ON_LAN}/32" in held(farm)
    node.start()
    client.service.delete("web")
    assert f"{ON_LAN}/32" in held(farm)
    client.service.set("more", own="routed")
    assert ON_LAN not in held(farm)


def test_it_is_removed_with_the_instance(farm, node):
    add(node, farm)
    node.call("detach")
    deadline = time.monotonic() + 5
    while ON_LAN in held(farm):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_is_refused_where_no_device_is_in_its_network(farm, node):
    with pytest.raises(InvalidInput, match=r"own_dev: 10\.77\.0\.1 is in the network of no device here: say which"):
        add(node, farm, vip="10.77.0.1")
    with pytest.raises(InvalidInput, match="own_dev: absent is no Ethernet device here"):
        add(node, farm, own_dev="absent")
    add(node, farm, vip="10.77.0.1", own_dev="in")
    assert "10.77.0.1/32" in held(farm)


# what else this host refuses


def test_what_the_host_cannot_do_is_refused_by_its_field(farm, node):
    client = hopline.connect(node.instance)
    cases = [
        (Backend("10.1.0.1"), r"backend\[0\]\.address: 10\.1\.0\.1 is this host's own address"),
        (Backend("10.2.0.11", dev="absent", dst_mac="02:00:00:00:00:09"), r"backend\[0\]\.dev: absent is no device"),
    ]
    for backend, words in cases:
        with pytest.raises(InvalidInput, match=words):
            client.service.add("web", "10.9.0.1", 80, "tcp", backend=(backend,), ring=251)
    assert client.service.show() == []


def test_an_mtu_that_is_too_small_is_refused_with_what_would_do(farm, node):
    sh(farm.ns, "ip link set out mtu 1300")
    try:
        client = hopline.connect(node.instance)
        served = (Backend(farm.addresses6[0]),)
        with pytest.raises(InvalidInput, match=r"mtu 1300 of out.*less 40 octets.*leaves 1260, and 1280.*mtu of 1320"):
            client.service.add("web", "fd00:9::1", 80, "tcp", backend=served, ring=251)
    finally:
        sh(farm.ns, "ip link set out mtu 1500")


def test_a_next_hop_by_hand_needs_no_neighbour(farm, node, tmp_path):
    client = hopline.connect(node.instance)
    client.interface.add("out")
    by_hand = Backend(farm.addresses[0], dst_mac="02:00:00:00:03:00", dev="out")
    client.service.add("web", "10.9.0.1", 80, "tcp", backend=(by_hand,), ring=251)
    (row,) = client.service.show("web", ring=True)
    assert (row.backends[0].dev, row.backends[0].mac) == ("out", "02:00:00:00:03:00")
    with Servers(farm, tmp_path / "servers"), Clients(farm) as clients:
        assert clients.open(3) == [0, 0, 0], clients.failed
    with pytest.raises(Refused, match="exists"):
        client.service.add("web", "10.9.0.1", 80, "tcp", ring=251)
