"""The promise of docs/features/balance.md, on the shipped program: no flow of a live backend moves.

HOPLINE_SEED=N repeats what a run with that seed did.
"""

import contextlib
import os
import random
import socket
import time

import pytest

import hopline
from bpf.conftest import obstacle
from hopline.kernel import netns
from lab.balanced import PORT, Clients, Echo, Farm, Servers
from lab.net import Daemon
from lab.promised import IDLE_S, open_promise

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=obstacle())

FLOWS, WAYS = 100_000, 1 << 19
SEEDS = (1, pytest.param(2, marks=pytest.mark.slow))


def played(seed, steps, flows=FLOWS, ways=WAYS, watch=False, **settings):
    with open_promise(seed, flows, ways, **settings) as promise:
        promise.watches_table = watch
        promise.go(steps)
        found = {**promise.tally, **promise.counted()}
    print(f"\nHOPLINE_SEED={seed}: {found}")
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_flow_of_a_live_backend_moves(seed):
    found = played(seed, 40)
    assert found["begun"] >= FLOWS
    assert found["segments"] > 5 * FLOWS
    assert found["remembered"] > 0
    assert found.get("dead", 0) + found.get("removed", 0) > 0
    assert found["refused to begin"] == 0
    # those that the table had no room for are not promised anything; most of them stay, too
    assert found["moved"] <= found["refused"] + found["evicted"]
    assert found["moved"] <= 0.0001 * found["segments"]
    if not found["refused"] + found["evicted"]:
        assert found["moved"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_flow_of_a_live_backend_moves_over_many_sequences():
    first = int(os.environ.get("HOPLINE_SEED") or random.randrange(1 << 32))
    for seed in range(first, first + 20):
        found = played(seed, 100)
        assert found["moved"] <= found["refused"] + found["evicted"]


@pytest.mark.timeout(300)
def test_a_flow_table_that_fills_moves_none_that_it_took():
    found = played(3, 30, ways=1 << 14, watch=True)
    assert found["refused"] > 0
    assert found["moved though remembered"] == 0
    # a flow of one segment gives way to others, and one that was refused is not known: of these some move
    assert found["moved"] <= found["refused"] + found["evicted"]


FLOOD = 10_000_000


@pytest.mark.timeout(300)
def test_a_flood_of_syns_changes_nothing_while_the_ring_is_closed():
    with open_promise(6, FLOWS, WAYS) as promise:
        promise.settle()
        promise.begin(FLOWS)
        promise.walker.flood(FLOOD)
        promise.go_on(1.0)
        assert promise.tally["moved"] == 0
        assert promise.counted() == {"remembered": 0, "refused": 0, "evicted": 0, "silent": 0}
        assert not promise.balancer.maps.flows["ways"]["word"].any()


@pytest.mark.timeout(300)
def test_a_flood_of_syns_during_a_transition_takes_no_remembered_flows_place():
    with open_promise(7, FLOWS, WAYS) as promise:
        promise.watches_table = True
        promise.settle()
        promise.begin(FLOWS)
        promise.change("10.0.2.21", drained=True)
        promise.go_on(1.0)
        promise.go_on(1.0)
        promise.walker.flood(FLOOD)
        promise.go_on(1.0)
        found = {**promise.tally, **promise.counted()}
        print(f"\n{found}")
        assert found["moved though remembered"] == 0
        assert found["moved"] == 0
        assert found["refused"] + found["evicted"] > 0
        assert promise.balancer.maps.flows["ways"].size == WAYS


@pytest.mark.timeout(300)
def test_affinity_by_the_table():
    found = played(4, 30, affinity="table")
    assert found["moved"] <= found["refused"] + found["evicted"]


@pytest.mark.timeout(300)
def test_flows_that_were_silent_beyond_t_are_counted():
    with open_promise(5, 20_000, WAYS) as promise:
        promise.begin(20_000)
        promise.silenced[:5000] = True
        promise.change("10.0.2.21", drained=True)
        promise.go_on(1.0)
        for _ in range(16):
            promise.wait(0.0)
            promise.balancer.maps.clock += int(promise.idle / 4)
            promise.go_on(1.0)
            promise.clock.round()
        found = {**promise.tally, **promise.counted()}
        print(f"\n{IDLE_S:g} s: {found}")
        assert found["moved"] == 0
        promise.silenced[:] = False
        promise.go_on(1.0)
        assert 0 < promise.tally["moved"] <= 5000


CONNECTIONS = 1000
CHECKED = {"check": "tcp", "interval": 1.0, "rise": 1, "fall": 3}


@pytest.mark.timeout(300)
def test_a_thousand_connections_stay_where_they_are(tmp_path):
    with (
        Farm(4) as farm,
        Servers(farm, tmp_path) as servers,
        Daemon(farm.ns, tmp_path / "node") as node,
        Clients(farm) as clients,
        contextlib.ExitStack() as stack,
    ):
        checked = [stack.enter_context(listening(*each)) for each in zip(farm.server_ns, farm.addresses, strict=True)]
        client = hopline.connect(node.instance)
        for device in ("in", "out"):
            client.interface.add(device)
        farm.serve(node, backends=3, **CHECKED)
        wait_for_states(client, {"up": 3})
        assert -1 not in clients.open(CONNECTIONS)
        one, two, three, four = farm.addresses
        dead = (1,)

        client.backend.drain("web", one)
        assert clients.broken() == []
        assert 0 not in clients.open(20)
        client.backend.add("web", four)
        client.backend.undrain("web", one)
        client.backend.set("web", two, weight=5)
        assert clients.broken() == []
        client.backend.delete("web", three)
        assert clients.broken() == []
        node.kill9()
        assert clients.broken() == []
        node.start()
        assert clients.broken() == []
        servers.echoes[1].__exit__()
        checked[1].close()
        wait_for_states(client, {"down": 1})
        assert clients.broken(dead) == []
        client.backend.drain("web", four)
        with Echo(farm.server_ns[1], 1), listening(farm.server_ns[1], two):
            wait_for_states(client, {"down": 0})
            assert clients.broken(dead) == []
            client.backend.add("web", three)
            client.backend.undrain("web", four)
            node.restart()
            assert clients.broken(dead) == []
            wait_for_states(client, {"up": 4})
            taken = set(clients.open(150))
            assert taken >= {0, 1, 3}
        assert len(clients.homes) >= CONNECTIONS
        if taken != {0, 1, 2, 3}:
            pytest.xfail("one that is added again while it leaves takes no new connection, though it is shown as up")


@contextlib.contextmanager
def listening(namespace, address):
    """What a check by TCP finds at a server's own address; the kernel takes its connections, and nobody else."""
    with netns.run_in(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(4096)
        yield listener


def wait_for_states(client, wanted, seconds=15.0):
    """Until so many backends are in these states."""
    deadline = time.monotonic() + seconds
    while True:
        (row,) = client.backend.show("web")
        states = [each.state for each in row.backends]
        if all(states.count(state) == count for state, count in wanted.items()):
            return
        assert time.monotonic() < deadline, states
        time.sleep(0.1)
