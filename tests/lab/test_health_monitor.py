"""A whole node whose servers die and come back: what its checks find, and where new connections go."""

import time

import pytest

import hopline
from hopline.kernel import netns
from hopline.kernel.netlink import tc
from lab.balanced import VIP4, VIP6, Clients, Echo, Farm, Servers
from lab.net import Daemon, sh


@pytest.fixture(scope="module")
def farm():
    with Farm(3) as farm:
        yield farm


@pytest.fixture(scope="module")
def servers(farm, tmp_path_factory):
    with Servers(farm, tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def node(farm, tmp_path):
    with Daemon(farm.ns, tmp_path) as node:
        client = hopline.connect(node.instance)
        client.interface.add("in")
        yield node


def states(node: Daemon, name: str = "web") -> dict[str, str]:
    (row,) = hopline.connect(node.instance).service.show(name)
    return {backend.address: backend.state for backend in row.backends}


def wait(node: Daemon, wanted: list[str], seconds: float = 6.0) -> float:
    """Wait for the states of the backends, in order; return how long it took."""
    began = time.monotonic()
    while list((found := states(node)).values()) != wanted:
        assert time.monotonic() - began < seconds, found
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("via", ["backend", "vip"])
def test_a_server_that_dies_takes_no_new_connection_until_it_is_back(farm, servers, node, via, v6):
    vip = VIP6 if v6 else VIP4
    check = "tcp" if via == "vip" else "icmp"  # the servers listen on the VIP alone
    try:
        farm.serve(node, v6=v6, check=check, check_via=via, interval=0.2, rise=2, fall=2)
        wait(node, ["up"] * 3)
        with Clients(farm, vip) as clients:
            assert {*clients.open(60)} == {0, 1, 2}
            stop(farm, servers, via, 1)
            took = wait(node, ["up", "down", "up"])
            assert took < 3
            assert 1 not in clients.open(60)
            assert clients.broken(dead=(1,)) == []
            start(farm, servers, via, 1)
            wait(node, ["up"] * 3)
            assert 1 in clients.open(60)
    finally:
        start(farm, servers, via, 1)


def stop(farm, servers, via: str, number: int) -> None:
    if via == "vip":
        servers.echoes[number].__exit__()
    else:
        sh(farm.server_ns[number], "ip link set e down")


def start(farm, servers, via: str, number: int) -> None:
    if via == "vip":
        if servers.echoes[number]._stopped:
            servers.echoes[number] = Echo(farm.server_ns[number], number).__enter__()
    else:
        ns = farm.server_ns[number]
        sh(ns, "ip link set e up")
        sh(ns, f"ip addr replace {farm.addresses6[number]}/64 dev e nodad")
        for gateway in ("10.2.0.1", "fd00:2::1"):
            sh(ns, f"ip route replace default via {gateway}")


def test_one_that_is_down_stays_down_when_the_daemon_is_killed_and_started(farm, servers, node):
    servers.echoes[2].__exit__()
    try:
        farm.serve(node, check="tcp", check_via="vip", interval=0.3, rise=2, fall=3)
        wait(node, ["up", "up", "down"])
        node.restart(9)
        for _ in range(10):
            assert states(node)[farm.addresses[2]] == "down"
            time.sleep(0.05)
        with Clients(farm) as clients:
            assert {*clients.open(40)} == {0, 1}
        reason = hopline.connect(node.instance).service.show("web")[0].backends[2].reason
        assert reason == "connection refused"
    finally:
        servers.echoes[2] = Echo(farm.server_ns[2], 2).__enter__()
    wait(node, ["up"] * 3)
    node.terminate()
    assert netns.run_in(farm.ns, tc.attached, f"hopline_check/{node.instance}") == []
    assert "hlc-" not in sh(farm.ns, "ip -br link").stdout
    node.start()
