"""What the host says and does around the datapath: local prefixes, rules and next hops, policy that cannot be read."""

import time

import pytest

import hopline
from lab.net import missing_tools, sh
from lab.node import map_items
from lab.traffic import (
    LOST,
    Flow,
    assert_becomes,
    at_server,
    attach,
    forwarded,
    limited,
    only_xdp_forwards,
    state_of,
    verdicts,
    wait_for,
)

needs_bpftool = pytest.mark.skipif(bool(missing_tools("bpftool")), reason="needs bpftool")
LEARN = 1 | 2  # INTERFACE_LEARN4, INTERFACE_LEARN6


@pytest.fixture
def serving(wide, daemon):
    one = daemon(wide.ns)
    attach(one, "left", "right", "third")
    return one


# what an entry covers, a prefix in it that is local, an address in that, an entry in that, and an address in both
LOCAL = {
    "ipv4": ("192.168.0.0/16", "192.168.77.0/24", "192.168.77.5", "192.168.77.128/25", "192.168.77.130"),
    "ipv6": ("fd00:70::/32", "fd00:70:7::/64", "fd00:70:7::5", "fd00:70:7::80/121", "fd00:70:7::81"),
}


@pytest.mark.parametrize("family", LOCAL)
def test_a_local_prefix_stays_local_whatever_entry_covers_it_or_is_in_it(wide, serving, family):
    covering, local, ours, within, also_ours = LOCAL[family]
    forward = hopline.connect(serving.instance).forward
    for to in (covering, within):
        forward.add(to, dev="right", dst_mac=wide.server.mac)
    source = wide.client.ip6 if family == "ipv6" else wide.client.ip4
    flows = [Flow(source, ours), Flow(source, also_ours)]
    beside = Flow(source, {"ipv4": "192.168.0.9", "ipv6": "fd00:70::9"}[family])
    only_xdp_forwards(wide)
    assert_becomes(wide, dict.fromkeys([*flows, beside], at_server(wide)))
    sh(wide.ns, f"ip route add local {local} dev lo")
    assert_becomes(wide, {**dict.fromkeys(flows, LOST), beside: at_server(wide)})
    assert verdicts(serving, "left").get("PASS_LOCAL", 0) > 0
    serving.restart()
    assert_becomes(wide, {**dict.fromkeys(flows, LOST), beside: at_server(wide)})
    sh(wide.ns, f"ip route del local {local} dev lo")
    assert_becomes(wide, dict.fromkeys([*flows, beside], at_server(wide)))


def test_with_a_local_prefix_nothing_is_learned_for_the_kernel_drops_what_claims_to_come_from_it(wide, serving):
    flows = {"true": wide.flows()["ipv4"], "spoofed": Flow("192.168.77.5", "10.9.0.9")}
    sh(wide.ns, "ip route add local 192.168.77.0/24 dev lo")
    assert wait_for(lambda: not state_of(serving, "left").learning["ipv4"])
    assert "local prefix 192.168.77.0/24" in " ".join(state_of(serving, "left").forbids)
    assert state_of(serving, "left").learning["ipv6"]
    assert_becomes(wide, {flows["true"]: at_server(wide)})
    assert_becomes(wide, {flows["spoofed"]: LOST})
    sh(wide.ns, "ip route del local 192.168.77.0/24 dev lo")
    assert wait_for(lambda: state_of(serving, "left").learning["ipv4"])


HOP = "10.8.0.5"


def reach_by_rule(net) -> tuple[str, str]:
    """On link of `third`, and of `right` for as long as there is a rule."""
    sh(net.ns, f"ip route add {HOP} dev third scope link")
    sh(net.ns, f"ip route add {HOP} dev right scope link table 100")
    return f"ip rule add to {HOP} lookup 100", f"ip rule del to {HOP} lookup 100"


def reach_by_next_hop_object(net) -> tuple[str, str]:
    """On link of the device that a next-hop object names, and no route tells when that changes."""
    sh(net.ns, "sysctl -qw net.ipv4.nexthop_compat_mode=0")
    sh(net.ns, "ip nexthop add id 5 dev third")
    sh(net.ns, f"ip route add {HOP} nhid 5")
    return "ip nexthop replace id 5 dev right", "ip nexthop replace id 5 dev third"


@pytest.mark.parametrize("how", [reach_by_rule, reach_by_next_hop_object], ids=lambda f: f.__name__.replace("_", "-"))
def test_an_entry_moves_to_the_device_that_its_next_hop_is_reached_by(wide, serving, how):
    there, back = how(wide)
    sh(wide.ns, f"ip neigh replace {HOP} lladdr {wide.server.mac} dev right nud permanent")
    sh(wide.ns, f"ip neigh replace {HOP} lladdr {wide.other.mac} dev third nud permanent")
    hopline.connect(serving.instance).forward.add("172.31.0.0/16", via=HOP)
    flow = Flow(wide.client.ip4, "172.31.0.1")
    only_xdp_forwards(wide)
    # no address is on its way any more, so what moves the entry is the change alone
    assert wait_for(lambda: not sh(wide.ns, "ip -6 address show tentative").stdout)
    time.sleep(0.2)
    by_third = f"other {wide.other.mac}"
    assert_becomes(wide, {flow: by_third})
    sh(wide.ns, there)
    assert_becomes(wide, {flow: at_server(wide)})
    sh(wide.ns, back)
    assert_becomes(wide, {flow: by_third})


def learns(daemon, index: int) -> bool:
    """Read by bpftool, for a daemon without a descriptor left answers nobody."""
    for value in map_items(daemon, "interfaces").values():
        if int.from_bytes(value[8:12], "little") == index:
            return bool(int.from_bytes(value[12:16], "little") & LEARN)
    raise AssertionError("no slot")


@needs_bpftool
def test_while_policy_cannot_be_read_nothing_is_learned_and_afterwards_it_is_again(wide, serving):
    index = wide.left.index
    assert learns(serving, index)
    with limited(serving, "nofile", 3):
        assert wait_for(lambda: not learns(serving, index), 8, 0.1), "what is not known to be allowed is done"
        time.sleep(1.5)  # more than one try
        assert not learns(serving, index)
        assert_becomes(wide, dict.fromkeys(wide.flows().values(), at_server(wide)))  # by the kernel
    assert wait_for(lambda: learns(serving, index), 5, 0.1), "it is never read again"
    assert "read policy: " in serving.log.read_text()
    before = forwarded(serving, "left")

    def by_xdp() -> bool:
        # events that came while nothing could be read are made up for within a second or two, and then there is a lease
        assert_becomes(wide, dict.fromkeys(wide.flows().values(), at_server(wide)))
        return forwarded(serving, "left") > before

    assert wait_for(by_xdp, 10)
