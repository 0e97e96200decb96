"""Services before real servers: connections stay where they are, whatever becomes of backends and of the daemon."""

import time
from collections import Counter

import pytest

import hopline
from hopline.config import Backend
from hopline.errors import InvalidInput, NotFound, Refused
from lab.balanced import PORT, VIP4, VIP6, Clients, Farm, Servers
from lab.net import Daemon, missing_tools, sh

pytestmark = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    with Farm(3) as farm, Servers(farm, tmp_path_factory.mktemp("servers")):
        yield farm


@pytest.fixture
def node(farm, tmp_path):
    with Daemon(farm.ns, tmp_path / "node") as daemon:
        client = hopline.connect(daemon.instance)
        for dev in ("in", "out"):
            client.interface.add(dev)
        yield daemon


def balance(node) -> hopline.Client:
    return hopline.connect(node.instance)


def shown(node, name="web"):
    (row,) = balance(node).service.show(name, stats=True, flows=True, ring=True)
    return row


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return found


# services


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_connections_are_spread_over_the_servers(farm, node, v6):
    added = farm.serve(node, v6=v6)
    assert [row.state for row in added.state.backends] == ["unchecked"] * 3
    assert added.state.problems == []
    with Clients(farm, VIP6 if v6 else VIP4) as clients:
        homes = Counter(clients.open(60))
        assert set(homes) == {0, 1, 2}, clients.failed
        assert clients.broken() == []
    row = shown(node)
    assert sum(backend.connections for backend in row.backends) == 60
    assert {i: backend.connections for i, backend in enumerate(row.backends)} == homes
    assert row.ring.closed == row.ring.slots == 251
    assert row.flows.now == 0


def test_an_ipv6_server_behind_an_ipv4_address(farm, node):
    served = tuple(Backend(address) for address in farm.addresses6)
    balance(node).service.add("web", VIP4, PORT, "tcp", backend=served, ring=251)
    with Clients(farm) as clients:
        assert set(clients.open(30)) == {0, 1, 2}, clients.failed


def test_a_service_that_is_gone_leaves_the_address_to_the_kernel(farm, node):
    farm.serve(node)
    balance(node).service.delete("web")
    with Clients(farm) as clients:
        assert clients.open(1, timeout=1.0) == [-1]
    with pytest.raises(NotFound, match="service web"):
        balance(node).service.show("web")
    farm.serve(node)
    with Clients(farm) as clients:
        assert set(clients.open(30)) == {0, 1, 2}


def test_names_and_ports_are_given_once(farm, node):
    farm.serve(node)
    with pytest.raises(Refused, match="exists"):
        farm.serve(node)
    with pytest.raises(InvalidInput, match="overlap"):
        farm.serve(node, "twin", port="79-81")
    farm.serve(node, "other", port="81-90")
    assert [row.service.name for row in balance(node).service.show()] == ["other", "web"]


# flows


def test_backends_come_and_go_and_no_connection_moves(farm, node):
    client = balance(node)
    farm.serve(node, backends=1)
    with Clients(farm) as clients:
        assert set(clients.open(20)) == {0}
        for address in farm.addresses[1:]:
            client.backend.add("web", address)
            clients.open(20)
        assert set(clients.homes.values()) == {0, 1, 2}
        client.backend.set("web", farm.addresses[1], weight=5)
        clients.open(20)
        client.backend.drain("web", farm.addresses[0])
        assert 0 not in clients.open(30)
        assert clients.broken() == []
        client.backend.undrain("web", farm.addresses[0])
        client.backend.delete("web", farm.addresses[2])
        assert 2 not in clients.open(30)
        client.backend.add("web", farm.addresses[2])
        clients.open(30)
        assert clients.broken() == []
        assert clients.failed == []
    assert shown(node).flows.refused == 0


def test_a_drained_backend_is_done_when_its_connections_are(farm, node):
    client = balance(node)
    farm.serve(node)
    with Clients(farm) as clients:
        clients.open(30)
        client.backend.drain("web", farm.addresses[0])
        clients.broken()
        left = client.backend.drained("web", farm.addresses[0])
        assert (left.state, left.flows) == ("draining", sum(home == 0 for home in clients.homes.values()))
    wait_for(lambda: client.backend.drained("web", farm.addresses[0], since=0.5).flows == 0)


def test_all_are_drained_and_what_is_there_stays(farm, node):
    client = balance(node)
    farm.serve(node, backends=2)
    with Clients(farm) as clients:
        clients.open(20)
        for address in farm.addresses[:2]:
            client.backend.drain("web", address)
        assert clients.broken() == []
        assert clients.open(2, timeout=0.5) == [-1, -1]
        assert "new flows are refused" in " ".join(shown(node).problems)
        client.backend.undrain("web", farm.addresses[1])
        assert set(clients.open(10)) == {1}
        assert clients.broken() == []


def test_a_backend_that_is_removed_at_once_loses_its_flows_and_the_others_none(farm, node):
    client = balance(node)
    farm.serve(node)
    with Clients(farm) as clients:
        clients.open(30)
        client.backend.delete("web", farm.addresses[0], grace=0)
        wait_for(lambda: len(shown(node).backends) == 2)
        assert clients.broken(dead=(0,)) == []
        assert 0 not in clients.open(30)


def test_a_removed_backend_keeps_its_flows_for_its_grace_and_its_number_is_free_again(farm, node):
    client = balance(node)
    farm.serve(node)
    with Clients(farm) as clients:
        clients.open(30)
        client.backend.delete("web", farm.addresses[0], grace=6)
        assert clients.broken() == []
        assert shown(node).backends[-1].state == "leaving"
        wait_for(lambda: len(shown(node).backends) == 2)
        assert clients.broken(dead=(0,)) == []


def test_a_server_that_dies_loses_its_own_connections_alone_and_comes_back(tmp_path):
    with (
        Farm(3) as farm,
        Servers(farm, tmp_path / "servers"),
        Daemon(farm.ns, tmp_path / "node") as node,
        Clients(farm) as clients,
    ):
        client = balance(node)
        for dev in ("in", "out"):
            client.interface.add(dev)
        farm.serve(node, check="icmp", interval=0.2, rise=2, fall=2)
        wait_for(lambda: [row.state for row in shown(node).backends] == ["up"] * 3)
        clients.open(30)
        sh(farm.server_ns[0], "ip link set e down")
        wait_for(lambda: shown(node).backends[0].state in ("down", "unresolved"))
        wait_for(lambda: shown(node, "web").backends[0].slots == 0)
        assert 0 not in clients.open(30)
        assert clients.broken(dead=(0,)) == []
        sh(farm.server_ns[0], "ip link set e up")
        sh(farm.server_ns[0], "ip route replace default via 10.2.0.1")
        wait_for(lambda: shown(node).backends[0].state == "up" and shown(node).backends[0].slots, seconds=20)
        assert 0 in clients.open(40)
        assert clients.broken(dead=(0,)) == []


# the daemon


@pytest.mark.parametrize("end", ["terminate", "kill9"])
def test_no_connection_breaks_when_the_daemon_ends_and_comes_back(farm, node, end):
    client = balance(node)
    farm.serve(node)
    with Clients(farm) as clients:
        clients.open(20)
        client.backend.set("web", farm.addresses[1], weight=4)
        clients.open(20)
        before = shown(node)
        getattr(node, end)()
        clients.open(10)
        assert clients.broken() == []
        node.start()
        after = shown(node)
        assert after.ring == before.ring
        assert [row.slots for row in after.backends] == [row.slots for row in before.backends]
        clients.open(10)
        client.backend.drain("web", farm.addresses[2])
        assert clients.broken() == []
        assert clients.failed == []
    log = node.log.read_text()
    assert "1 services, 0 of them changed" in log, log[-2000:]


def test_what_changed_while_no_daemon_was_there_is_made_so(farm, node):
    """The intent is durable before the kernel has it: a daemon that dies in between leaves a difference."""
    farm.serve(node)
    with Clients(farm) as clients:
        clients.open(20)
        node.kill9()
        sh(None, ["bpftool", "map", "update", "pinned", str(node.pins / "service_names"), "key", "1", "0", "0", "0",
                  "value", *(["0"] * 64)])  # fmt: skip
        node.start()
        assert set(clients.open(30)) == {0, 1, 2}
        assert clients.broken() == []


def test_a_lost_store_is_made_anew_from_the_kernel(farm, node):
    client = balance(node)
    farm.serve(node, port="80-82", idle=600, affinity="table")
    client.backend.set("web", farm.addresses[1], weight=4)
    with Clients(farm) as clients:
        clients.open(20)
        wanted = shown(node).service
        node.terminate()
        for file in (node.directory / "state").iterdir():
            file.unlink()
        node.start()
        assert shown(node).service == wanted
        assert clients.broken() == []
    assert "health checks are not known" in " ".join(balance(node).status().notes)


def test_a_backend_without_a_neighbour_takes_nothing_and_the_others_serve(farm, node):
    client = balance(node)
    farm.serve(node)
    client.backend.add("web", "10.2.0.99")
    row = wait_for(lambda: [b for b in shown(node).backends if b.state == "unresolved" and not b.slots])[0]
    assert (row.address, row.slots, row.reason) == ("10.2.0.99", 0, "nobody answers at 10.2.0.99")
    with Clients(farm) as clients:
        assert set(clients.open(40)) == {0, 1, 2}, clients.failed
    assert "backend 10.2.0.99: nobody answers at 10.2.0.99" in shown(node).problems
