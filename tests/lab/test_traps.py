"""Traps are told with a command that mends them: the command is run, and the trap is gone."""

import subprocess

import pytest

from hopline.kernel import netns
from hopline.kernel.netlink import query
from hopline.kernel.netlink.traps import traps
from lab.netlink_room import needs_root, needs_told_features, room, shell

pytestmark = needs_root


@pytest.fixture
def ns():
    with room("ip link set lo up; ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up") as name:
        yield name


def told(ns: str, name: str) -> list[str]:
    return netns.run_in(ns, lambda: traps(query.link(name).index))


def mend(ns: str, line: str) -> None:
    shell(ns, line.rsplit(": ", 1)[1])


def test_a_peer_beside_it(ns):
    lost, partial = told(ns, "v0")
    assert lost.endswith("peer v1 has neither gro nor an xdp program: ethtool -K v1 gro on")
    assert partial.endswith(": ethtool -K v1 tx off")
    mend(ns, lost)
    assert told(ns, "v0") == [partial]
    mend(ns, partial)
    assert told(ns, "v0") == []


def test_a_peer_in_a_named_namespace(ns):
    with room() as far:
        shell(ns, f"ip link add x0 type veth peer name x1 netns {far}")
        lines = told(ns, "x0")
        assert [line.rsplit(": ", 1)[1] for line in lines] == [
            f"ip netns exec {far} ethtool -K x1 gro on",
            f"ip netns exec {far} ethtool -K x1 tx off",
        ]
        for line in lines:
            mend(ns, line)
        assert told(ns, "x0") == []
        assert "tx-checksumming: off" in shell(far, "ethtool -k x1")


def test_a_peer_in_the_namespace_of_a_process(ns):
    with subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 30"], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()  # it is in its namespace now
            shell(ns, f"ip link add x0 type veth peer name x1; ip link set x1 netns {process.pid}")
            lines = told(ns, "x0")
            assert len(lines) == 2
            assert f"nsenter --net=/proc/{process.pid}/ns/net ethtool -K x1 gro on" in lines[0]
            for line in lines:
                mend(ns, line)
            assert told(ns, "x0") == []
        finally:
            process.kill()


@needs_told_features
def test_a_peer_that_cannot_be_looked_into(ns, monkeypatch):
    with room() as far:
        shell(ns, f"ip link add x0 type veth peer name x1 netns {far}")
        monkeypatch.setattr("hopline.kernel.netlink.traps._candidates", lambda: iter(()))
        lost, partial = told(ns, "x0")
        assert lost.endswith("ethtool -K PEER gro on, at the peer")
        assert partial.endswith("ethtool -K PEER tx off, at the peer")


def test_a_port_of_a_bridge(ns):
    shell(ns, "ethtool -K v1 gro on tx off; ip link add br0 type bridge; ip link set v0 master br0")
    [line] = told(ns, "v0")
    assert "v0 is a port of br0" in line
    assert line.endswith("ip link set v0 nomaster")


def test_a_tap_has_none(ns):
    shell(ns, "ip tuntap add t0 mode tap")
    assert told(ns, "t0") == []
