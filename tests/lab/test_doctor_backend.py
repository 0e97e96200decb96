"""hopline doctor backend: each thing set wrong in a namespace, found, and well after the command that was printed."""

import json
import shlex
import subprocess

import pytest

from hopline.host import backend
from hopline.kernel import netns
from hopline.lab.shell import enter, hopline_command
from lab.netlink_room import needs_root, room, shell

pytestmark = needs_root
VIP, VIP6 = "192.168.33.33", "2001:db8::33"
SERVER = """
ip link set lo up
ip link add eth1 type veth peer name far; ip link set eth1 up; ip link set far up
ip address add 192.168.33.11/24 dev eth1; ip address add 2001:db8::11/64 dev eth1 nodad
ip route add default via 192.168.33.1 metric 7; ip -6 route add default via 2001:db8::1
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0
sysctl -qw net.ipv4.conf.eth1.rp_filter=0 net.ipv4.ip_forward=0
"""
NO_TUNNEL = "nothing takes encapsulated packets for"


@pytest.fixture
def ns():
    with room(SERVER) as name:
        yield name


def look(ns, vip=VIP, hopline=None):
    """What is not as it should be, beside that this kernel may have no tunnels."""
    found = netns.run_in(ns, backend.examine, vip, hopline)
    return [one for one in found if one.level != "ok" and not one.text.startswith(NO_TUNNEL)]


def mend(ns, one):
    """Do what a finding says; it is one line for a shell."""
    assert one.mend
    assert "\n" not in one.mend
    shell(ns, one.mend)


def test_a_bare_host_is_mended_command_by_command(ns):
    done = []
    while found := look(ns):
        mend(ns, found[0])
        assert found[0] not in look(ns), "the command changed nothing"
        done.append((found[0].level, found[0].subject, found[0].mend))
    assert done == [
        ("fail", VIP, f"ip address add {VIP}/32 dev lo"),
        ("fail", "eth1", "sysctl -w net.ipv4.conf.all.arp_ignore=1"),
        ("fail", "eth1", "sysctl -w net.ipv4.conf.all.arp_announce=2"),
        ("warn", "eth1", "ip route change default via 192.168.33.1 dev eth1 proto 3 metric 7 advmss 1440"),
    ]
    # found by itself now
    assert look(ns, None) == []
    routes = shell(ns, "ip route show default").split()
    assert routes[routes.index("advmss") + 1] == "1440"


def test_the_same_in_ipv6(ns):
    done = []
    while found := look(ns, VIP6):
        mend(ns, found[0])
        assert found[0] not in look(ns, VIP6), "the command changed nothing"
        done.append(found[0].mend)
    assert done == [
        f"ip address add {VIP6}/128 dev lo",
        "ip -6 route change default via 2001:db8::1 dev eth1 proto 3 metric 1024 advmss 1400",
    ]


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_a_vip_on_the_wire_is_moved(ns, vip):
    shell(ns, f"ip address add {vip}/{128 if ':' in vip else 32} dev eth1{' nodad' if ':' in vip else ''}")
    shell(ns, "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")
    # it is found without being named, for eth1 has other addresses
    first = look(ns, None)[0]
    protocol = "NDP" if ":" in vip else "ARP"
    assert (first.level, first.subject) == ("fail", vip)
    assert first.text == f"is an address of eth1, which answers {protocol} for it in the director's place"
    mend(ns, first)
    assert [one for one in look(ns, None) if one.level == "fail"] == []
    assert f"{vip}/" in shell(ns, "ip -brief address show dev lo")


def test_a_vip_that_went_with_its_device_is_named_again(ns):
    shell(ns, f"ip address add {VIP6}/128 dev lo; ip link set lo down")
    found = look(ns, VIP6)[0]
    assert (found.level, found.subject) == ("fail", VIP6)
    mend(ns, found)
    assert found not in look(ns, VIP6)


def test_ipv4_on_a_device_that_is_down_is_taken_in_all_the_same(ns):
    shell(ns, f"ip tuntap add vip0 mode tun; ip address add {VIP}/32 dev vip0")
    assert VIP not in {one.subject for one in look(ns)}


def test_arp_is_asked_for_only_where_the_vip_would_be(ns):
    shell(ns, "ip address add 203.0.113.5/32 dev lo; ip route change default via 192.168.33.1 metric 7 advmss 1440")
    assert look(ns, "203.0.113.5") == []


@pytest.mark.parametrize("scope", ["all", "eth1"])
def test_a_strict_filter_where_the_answer_leaves_elsewhere(ns, scope):
    from hopline.config import Decap

    hopline = backend.Hopline(netns.inode(ns), [Decap("192.168.33.11", "192.168.33.0/24")], ["eth1"])
    shell(ns, "ip link add out type veth peer name away; ip link set out up; ip link set away up")
    shell(ns, "ip address add 10.9.0.2/24 dev out; ip route add default via 10.9.0.1 metric 1 advmss 1400")
    shell(ns, f"ip address add {VIP}/32 dev lo; sysctl -qw net.ipv4.conf.all.arp_ignore=1")
    shell(ns, f"sysctl -qw net.ipv4.conf.all.arp_announce=2 net.ipv4.conf.{scope}.rp_filter=1")
    (found,) = look(ns, VIP, hopline)
    assert (found.level, found.subject, found.mend) == (
        "fail",
        "eth1",
        "sysctl -w net.ipv4.conf.eth1.rp_filter=2",
    )
    mend(ns, found)
    assert look(ns, VIP, hopline) == []


def command(ns, *words):
    done = subprocess.run(
        enter(ns, [hopline_command(), "doctor", "backend", *words]), capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done


def test_the_command_prints_a_line_each_and_exits_with_1(ns):
    done = command(ns, VIP, "--instance", "none-there")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == (
        f"FAILURE  {VIP}: is an address of no device here, so packets to it are dropped: ip address add {VIP}/32 dev lo"
    )
    found = json.loads(command(ns, VIP, "--instance", "none-there", "--json").stdout)
    marks = {"ok": "ok", "warn": "WARNING", "fail": "FAILURE"}
    assert [marks[one["level"]] for one in found] == [line.split()[0] for line in lines]
    assert found[0]["mend"] == f"ip address add {VIP}/32 dev lo"


def test_a_daemon_makes_it_a_real_server(ns, daemon):
    """Whatever this kernel has: hopline's own decap, by the commands that are printed."""
    serving = daemon(ns)
    done = []
    while True:
        found = json.loads(command(ns, VIP, "--instance", serving.instance, "--json").stdout)
        todo = [one for one in found if one["level"] != "ok"]
        if not todo:
            break
        words = todo[0]["mend"]
        if words.startswith("hopline "):
            words = f"{shlex.quote(hopline_command())} {words.removeprefix('hopline ')}"
        shell(ns, words)
        assert todo[0]["mend"] not in done, "the command changed nothing"
        done.append(todo[0]["mend"])
    ours = [words.replace(f"--instance {serving.instance} ", "") for words in done if words.startswith("hopline")]
    assert ours == ["hopline decap add --local 192.168.33.11 --from 192.168.33.0/24", "hopline interface add eth1"]
    assert command(ns, VIP, "--instance", serving.instance).returncode == 0
