"""Another build takes over services under connections: no flow moves, whether its layouts are the same or not."""

import pytest

import hopline
from lab.balanced import Clients, Farm, Servers
from lab.build import LATER, Build, make_build
from lab.net import Daemon, missing_tools

pytestmark = pytest.mark.skipif(
    bool(missing_tools("clang", "llvm-strip", "bpftool")), reason="needs clang, llvm and bpftool"
)
BALANCE = "bpf/lib/layout_balance.h"
# a row of a backend has another field, before the others
LAST = "\t__u32 leaving; /* for the daemon: tick in which a removed one ends, 0 where it is none */\n"
OTHER_LAYOUT = (
    (BALANCE, "struct backend {\n", "struct backend {\n\t__u64 colour;\n"),
    (BALANCE, f"{LAST}\t__u64 spare;\n", LAST),
)


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    with Farm(3) as farm, Servers(farm, tmp_path_factory.mktemp("servers")):
        yield farm


@pytest.fixture(scope="module", params=[LATER, OTHER_LAYOUT], ids=["same layout", "other layout"])
def later(tmp_path_factory, request) -> Build:
    return make_build(tmp_path_factory.mktemp("later"), "0.2.0", request.param)


def test_no_connection_breaks_over_an_upgrade(farm, later, tmp_path):
    with Daemon(farm.ns, tmp_path / "node") as node, Clients(farm) as clients:
        client = hopline.connect(node.instance)
        for dev in ("in", "out"):
            client.interface.add(dev)
        farm.serve(node, backends=2)
        clients.open(20)
        client.backend.add("web", farm.addresses[2])
        client.backend.set("web", farm.addresses[0], weight=3)
        clients.open(20)
        (before,) = client.service.show("web", stats=True, flows=True, ring=True)
        assert before.ring.open > 0
        node.terminate()
        clients.open(5)
        done = later.run(farm.ns, "upgrade", "--instance", node.instance)
        assert done.returncode == 0, done
        assert clients.broken() == []
        clients.open(5)
        with later.at_work():
            node.start()
            (after,) = client.service.show("web", stats=True, flows=True, ring=True)
            assert after.ring == before.ring
            assert [row.slots for row in after.backends] == [row.slots for row in before.backends]
            connections = [sum(row.connections for row in each.backends) for each in (before, after)]
            assert connections == [40, 50]
            client.backend.drain("web", farm.addresses[1])
            assert clients.broken() == []
            clients.open(10)
            assert clients.failed == []
            node.terminate()
