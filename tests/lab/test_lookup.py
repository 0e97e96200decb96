"""The route and the neighbour that decide, as `ip` shows them; and that asking makes no entry."""

import errno

import pytest

from hopline.errors import KernelError
from hopline.kernel import netns
from hopline.kernel.netlink import query
from hopline.kernel.netlink.lookup import matched_route, seen_neighbour
from lab.net import sh


@pytest.fixture
def routed(wide):
    for route in (
        "10.9.0.0/25 via 10.2.0.2 mtu 1300",
        "unreachable 10.60.0.0/16",
        "blackhole 10.61.0.0/16",
        "prohibit 10.62.0.0/16",
        "default via 10.3.0.2",
    ):
        sh(wide.ns, f"ip route add {route}")
    return wide


def ask(net, function, *arguments, **named):
    return netns.run_in(net.ns, lambda: function(*arguments, **named))


def test_the_route_that_matches_is_named(routed):
    by_left = {"iif": routed.left.index, "source": routed.client.ip4}
    found = ask(routed, matched_route, "10.9.0.9", **by_left)
    assert (found.to, found.answer.gateway, found.answer.mtu, found.table) == ("10.9.0.0/25", "10.2.0.2", 1300, "main")
    assert found.answer.index == routed.right.index
    assert ask(routed, matched_route, "10.9.0.200", **by_left).to == "10.9.0.0/24"
    assert ask(routed, matched_route, "10.200.0.1", **by_left).to == "default"
    assert ask(routed, matched_route, "10.2.0.77", **by_left).answer.gateway is None
    local = ask(routed, matched_route, "10.2.0.1", **by_left)
    assert (local.answer.type, local.to) == ("local", "10.2.0.1/32")
    sh(routed.ns, "ip route add 10.64.0.0/16 via 10.2.0.2 table 77")
    sh(routed.ns, "ip rule add to 10.64.0.0/16 lookup 77")
    assert ask(routed, matched_route, "10.64.0.1", **by_left).table == "77"
    six = ask(routed, matched_route, "fd00:9::9", iif=routed.left.index, source=routed.client.ip6)
    assert (six.to, six.answer.gateway) == ("fd00:9::/64", "fd00:2::2")
    assert not found.tunnel
    sh(routed.ns, "ip route add 10.63.0.0/16 encap ip id 5 dst 10.2.0.9 dev right")
    assert ask(routed, matched_route, "10.63.0.1", **by_left).tunnel


@pytest.mark.parametrize(
    ("address", "number"),
    [("10.60.0.1", errno.EHOSTUNREACH), ("10.61.0.1", errno.EINVAL), ("10.62.0.1", errno.EACCES)],
)
def test_without_one_the_reason_is_in_the_error(routed, address, number):
    with pytest.raises(KernelError) as caught:
        ask(routed, matched_route, address, iif=routed.left.index, source=routed.client.ip4)
    assert caught.value.errno == number


def test_where_there_is_no_route_at_all(wide):
    with pytest.raises(KernelError) as caught:
        ask(wide, matched_route, "192.0.2.77")
    assert caught.value.errno == errno.ENETUNREACH


def test_a_neighbour_says_when_it_was_heard_of_last(router):
    router.warm()
    found = ask(router, seen_neighbour, router.left.index, router.client.ip4)
    assert found.entry.mac == router.client.mac_bytes
    assert found.entry.state in ("reachable", "stale", "delay", "probe")
    assert 0 <= found.unconfirmed_s < 90
    sh(router.ns, f"ip neigh replace {router.client.ip6} lladdr {router.client.mac} dev left nud permanent")
    assert ask(router, seen_neighbour, router.left.index, router.client.ip6).entry.permanent
    assert ask(router, seen_neighbour, router.left.index, "10.1.0.99") is None
    assert ask(router, seen_neighbour, 9999, "10.1.0.99") is None


def test_asking_makes_no_neighbour(wide):
    before = ask(wide, query.neighbours)
    for address in ("10.2.0.77", "10.1.0.88", "fd00:2::77", "10.9.0.9"):
        source = wide.client.ip6 if ":" in address else wide.client.ip4
        ask(wide, matched_route, address, iif=wide.left.index, source=source)
        ask(wide, seen_neighbour, wide.right.index, address)
    assert ask(wide, query.neighbours) == before
