"""How soon a change of the host is a change of what Hopline does: the fate of every frame around each change.

Every figure is from just before the change is given to the kernel to the sending of the last wrong frame; `pytest -s`
prints them and the report of the run records them as properties.
"""

import threading
import time
from dataclasses import dataclass

import pytest

import hopline
from hopline.config import Forward
from lab.net import missing_tools, sh
from lab.traffic import (
    BEHIND4,
    BEHIND6,
    DROP,
    LOST,
    Flow,
    Prepared,
    Traffic,
    assert_right_at_the_end,
    attach,
    forwarded,
    ip_lines,
    nft,
    sysctls,
    until_right,
    verdicts,
    wait_for,
)

# netlink is asynchronous, so an answer is stale for some milliseconds; this is what a busy machine is given
BOUND_MS = 1000
# the lease, from the kill, and what a machine that is busy starting processes may add
LEASE_BOUND_MS = 1100
BEFORE_S, AFTER_S = 0.25, 0.35
NEW_MAC = "02:00:00:00:0e:0e"

pytestmark = pytest.mark.skipif(bool(missing_tools("nft")), reason="needs nft")


@pytest.fixture
def serving(wide, daemon):
    """A daemon on all three of the router's devices."""
    one = daemon(wide.ns)
    attach(one, "left", "right", "third")
    return one


def server(net, mac: str | None = None) -> str:
    return f"server {mac or net.server.mac}"


def other(net) -> str:
    return f"other {net.other.mac}"


def both_routes(net) -> None:
    """The other host first, the server where that is gone."""
    net.route("del")
    net.route("add", "other", "metric 10")
    net.route("add", "server", "metric 2000")


@dataclass(frozen=True)
class Case:
    """A change, prepared in `net`'s router; where frames went before it, and where they must go after it."""

    name: str
    change: object
    after: object
    before: object = server
    set_up: object = None
    families: tuple[str, ...] = ("ipv4", "ipv6")
    also_dead: bool = True
    forbids: str = ""  # a word of the reason why nothing may be learned from then on


def lost(net) -> str:
    return LOST


def any_of_two(net) -> set[str]:
    return {server(net), other(net)}


def route_lines(verb, end, extra=""):
    def lines(net):
        to = getattr(net, end)
        return ip_lines(
            net.ns,
            f"route {verb} 10.9.0.0/24 via {to.ip4} {extra}",
            f"route {verb} fd00:9::/64 via {to.ip6} {extra}",
        )

    return lines


def neighbour_lines(net):
    known = [f"neigh replace {a} lladdr {NEW_MAC} dev right nud permanent" for a in (net.server.ip4, net.server.ip6)]
    return ip_lines(net.ns, *known)


def rule_lines(net):
    """A rule on the source; its table, which already exists, leads to the other host."""
    rules = (f"ip rule add from {net.client.ip4} lookup 100", f"ip -6 rule add from {net.client.ip6} lookup 100")
    return Prepared(net.ns, ["sh", "-e"], "\n".join([*rules, ""]))


def multipath_lines(net):
    hops4 = f"nexthop via {net.server.ip4} nexthop via {net.other.ip4}"
    hops6 = f"nexthop via {net.server.ip6} nexthop via {net.other.ip6}"
    return ip_lines(net.ns, f"route replace 10.9.0.0/24 {hops4}", f"route replace fd00:9::/64 {hops6}")


CASES = [
    Case("route replaced", route_lines("replace", "other"), other),
    Case("more specific route added", lambda net: ip_lines(
        net.ns, f"route add {BEHIND4} via {net.other.ip4}", f"route add {BEHIND6} via {net.other.ip6}"), other,
         also_dead=False),
    Case("route deleted", route_lines("del", "server"), lost, also_dead=False),
    Case("link deleted", lambda net: ip_lines(net.ns, "link delete third"), server, other, both_routes),
    Case("link down", lambda net: ip_lines(net.ns, "link set third down"), server, other, both_routes,
         also_dead=False),
    Case("ip_forward off", lambda net: sysctls(net.ns, "net/ipv4/ip_forward=0"), lost, families=("ipv4",)),
    Case("ipv6 forwarding off", lambda net: sysctls(net.ns, "net/ipv6/conf/all/forwarding=0"), lost,
         families=("ipv6",), also_dead=False),
    Case("neighbour replaced", neighbour_lines, lambda net: server(net, NEW_MAC)),
    Case("nft forward drop", lambda net: nft(net.ns, DROP), lost, forbids="inet t/f"),
    Case("rule by source", rule_lines, other, set_up=lambda net: net.route("add", "other", "table 100"),
         forbids="ip rule"),
    Case("multipath route", multipath_lines, any_of_two, also_dead=False, forbids="10.9.0.0/24"),
    Case("address becomes local", lambda net: ip_lines(
        net.ns, f"address add {BEHIND4}/32 dev lo", f"address add {BEHIND6}/128 dev lo nodad"), lost),
]  # fmt: skip


def tell(record_property, name: str, verdict, margin_ms: float) -> None:
    figure = f"{verdict.stale_ms:.1f} ms, {verdict.wrong} of {verdict.sent} frames (change took {margin_ms:.1f} ms)"
    record_property(name, figure)
    print(f"\n    stale {name:<42} {figure}", end="")


def expected(case: Case, net) -> dict[str, object]:
    """What must become of each family's frames after the change."""
    return {family: case.after(net) if family in case.families else case.before(net) for family in net.flows()}


def run_case(case: Case, net, serving, rate: int, kill_first: bool):
    """Carry a case out; return the traffic, when the daemon was killed, and the span of the change (ns)."""
    if case.set_up is not None:
        case.set_up(net)
    change = case.change(net)
    with Traffic(net, net.flows(), rate) as traffic:
        time.sleep(BEFORE_S)
        began = forwarded(serving, "left")
        killed = time.time_ns()
        if kill_first:
            serving.kill9()
        else:
            assert began > 0, "the frames are not forwarded by XDP, so nothing is shown"
        before, after = change.go()
        if kill_first:
            time.sleep(LEASE_BOUND_MS / 1000 + AFTER_S)
        else:
            until_right(traffic, expected(case, net), BOUND_MS / 1000 + AFTER_S)
    for family in net.flows():
        fine = traffic.judge(family, case.before(net), 0, killed)
        assert fine.wrong == 0, f"before the change: {fine}"
        assert fine.sent > 0
    return traffic, killed, before, after


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_a_change_reaches_the_packets_within_the_bound(case, wide, serving, record_property):
    traffic, _, before, after = run_case(case, wide, serving, 1500, kill_first=False)
    for family, right in expected(case, wide).items():
        verdict = traffic.judge(family, right, before)
        tell(record_property, f"{case.name}, {family}", verdict, (after - before) / 1e6)
        assert verdict.stale_ms < BOUND_MS, verdict
        assert_right_at_the_end(traffic, family, right)
    state = serving.json("interface", "show", "left")[0]
    if case.forbids:
        assert state["learning"] == {"ipv4": False, "ipv6": False}
        assert case.forbids in " ".join(state["forbids"]), state["forbids"]


@pytest.mark.parametrize("case", [c for c in CASES if c.also_dead], ids=lambda case: case.name.replace(" ", "-"))
def test_without_a_daemon_wrong_packets_end_with_the_lease(case, wide, serving, record_property):
    traffic, killed, _, after = run_case(case, wide, serving, 1000, kill_first=True)
    for family, right in expected(case, wide).items():
        # frames between kill and change may go either way; from the change on they are wrong where they are not right
        verdict = traffic.judge(family, right, after)
        from_kill = verdict.stale_ms + (after - killed) / 1e6 if verdict.wrong else 0.0
        record_property(f"{case.name}, {family}, killed", f"{from_kill:.1f} ms after the kill")
        print(f"\n    wrong until {from_kill:7.1f} ms after kill -9: {case.name}, {family}", end="")
        assert from_kill <= LEASE_BOUND_MS, verdict
        assert_right_at_the_end(traffic, family, right)


def test_a_drop_rule_added_long_after_the_kill_is_obeyed_at_once(wide, serving):
    change = nft(wide.ns, DROP)
    with Traffic(wide, wide.flows(), 1000) as traffic:
        time.sleep(0.3)
        serving.kill9()
        time.sleep(LEASE_BOUND_MS / 1000 + 0.2)
        _, after = change.go()
        time.sleep(0.3)
    for family in wide.flows():
        assert traffic.judge(family, server(wide), 0, after - 200_000_000).wrong == 0
        assert traffic.judge(family, LOST, after).wrong == 0


def resumes(serving, seconds: float = 8.0) -> float | None:
    """Seconds until XDP forwards again; None if it does not."""
    began, count = time.monotonic(), forwarded(serving, "left")
    return time.monotonic() - began if wait_for(lambda: forwarded(serving, "left") > count, seconds) else None


@pytest.mark.parametrize(
    ("off", "on", "families"),
    [
        ("net/ipv4/ip_forward=0", "net/ipv4/ip_forward=1", ["ipv4"]),
        ("net/ipv6/conf/all/forwarding=0", "net/ipv6/conf/all/forwarding=1", ["ipv6"]),
        (DROP, "delete table inet t", ["ipv4", "ipv6"]),
    ],
    ids=["ip_forward", "ipv6-forwarding", "nft"],
)
def test_what_was_forbidden_resumes_when_it_is_allowed_again(off, on, families, wide, serving, record_property):
    make = nft if "table" in on else sysctls
    changes = [make(wide.ns, off), make(wide.ns, on)]
    with Traffic(wide, {f: wide.flows()[f] for f in families}, 1000) as traffic:
        time.sleep(BEFORE_S)
        changes[0].go()
        time.sleep(0.6)
        assert verdicts(serving, "left").get("FORWARDED"), "nothing was forwarded by XDP to begin with"
        idle = forwarded(serving, "left")
        time.sleep(0.2)
        assert forwarded(serving, "left") == idle, "XDP still forwards what is forbidden"
        before, after = changes[1].go()
        again = resumes(serving)
        time.sleep(0.2)
    assert again is not None, "XDP does not forward again"
    for family in families:
        verdict = traffic.judge(family, server(wide), before)
        tell(record_property, f"resumed, {family}, by XDP after {again * 1000:.0f} ms", verdict, (after - before) / 1e6)
        assert verdict.stale_ms < BOUND_MS
        assert traffic.judge(family, LOST, before - 300_000_000, before).wrong == 0


def test_strict_rp_filter_drops_what_could_not_be_answered(wide, serving, record_property):
    flows = {"true": Flow(wide.client.ip4, BEHIND4), "spoofed": Flow("10.3.0.77", BEHIND4)}
    change = sysctls(wide.ns, "net/ipv4/conf/left/rp_filter=1")
    with Traffic(wide, flows, 1000) as traffic:
        time.sleep(BEFORE_S)
        assert forwarded(serving, "left") > 0
        before, after = change.go()
        until_right(traffic, {"spoofed": LOST}, BOUND_MS / 1000 + AFTER_S)
    assert_right_at_the_end(traffic, "spoofed", LOST)
    assert traffic.judge("spoofed", server(wide), 0, before).wrong == 0
    verdict = traffic.judge("spoofed", LOST, before)
    tell(record_property, "rp_filter on, spoofed source", verdict, (after - before) / 1e6)
    assert verdict.stale_ms < BOUND_MS
    assert traffic.judge("true", server(wide), 0).wrong == 0
    assert "strict rp_filter on left" in " ".join(serving.json("interface", "show", "left")[0]["forbids"])


def test_an_operator_entry_follows_a_neighbour_that_is_replaced(wide, serving, record_property):
    flows = {"via": Flow(wide.client.ip4, "10.99.0.1"), "via6": Flow(wide.client.ip6, "fd00:99::1")}
    serving.call("forward", "add", "10.99.0.0/16", "--via", wide.server.ip4)
    serving.call("forward", "add", "fd00:99::/32", "--via", wide.server.ip6)
    change = neighbour_lines(wide)
    with Traffic(wide, flows, 1000) as traffic:
        time.sleep(BEFORE_S)
        before, after = change.go()
        until_right(traffic, dict.fromkeys(flows, server(wide, NEW_MAC)), BOUND_MS / 1000 + AFTER_S)
    for name in flows:
        assert_right_at_the_end(traffic, name, server(wide, NEW_MAC))
        assert traffic.judge(name, server(wide), 0, before).wrong == 0
        verdict = traffic.judge(name, server(wide, NEW_MAC), before)
        tell(record_property, f"neighbour of a {name} entry replaced", verdict, (after - before) / 1e6)
        assert verdict.stale_ms < BOUND_MS


BASE_REACHABLE_MS, DELAY_S, RETRANS_MS = 1000, 1, 200
KEEP_ALIVE_S = 5  # how often the daemon looks
# reachable for up to 1.5 times the base, seen stale at the next look, then a delay and three probes
# (net/core/neighbour.c), and one look more for good measure where nothing else asks anew
PROBE_BOUND_S = 1.5 * BASE_REACHABLE_MS / 1000 + KEEP_ALIVE_S + DELAY_S + 3 * RETRANS_MS / 1000 + 1


def quicken_neighbours(net) -> None:
    """Let the router forget and probe in seconds rather than a minute, and know the server by asking only."""
    for family in ("ipv4", "ipv6"):
        place = f"net/{family}/neigh/right"
        wait = (f"{place}/base_reachable_time_ms={BASE_REACHABLE_MS}", f"{place}/delay_first_probe_time={DELAY_S}")
        sysctls(net.ns, *wait, f"{place}/retrans_time_ms={RETRANS_MS}").go()
    sh(net.server.ns, "ip address add 10.2.0.3/24 dev eth0")
    sh(net.server.ns, "ip address add fd00:2::3/64 dev eth0 nodad")
    sh(net.ns, "ip neigh flush dev right nud all")
    for address in (net.server.ip4, net.server.ip6, "10.2.0.3", "fd00:2::3"):
        sh(net.ns, f"ip neigh del {address} dev right", check=False)
        sh(net.ns, f"ping -n -q -c 1 -w 5 {address}")


def test_a_mac_swapped_without_announcement_heals_within_the_kernels_bound(wide, serving, record_property):
    quicken_neighbours(wide)
    serving.call("forward", "add", "10.99.0.1", "--via", "10.2.0.3")
    serving.call("forward", "add", "fd00:99::1", "--via", "fd00:2::3")
    flows = {
        **{f"learned {name}": flow for name, flow in wide.flows().items()},
        "via ipv4": Flow(wide.client.ip4, "10.99.0.1"),
        "via ipv6": Flow(wide.client.ip6, "fd00:99::1"),
    }
    # the server's own entries stay, so that it need not ask, and by asking tell
    keep = [
        f"neigh replace {a} lladdr {wide.right.mac} dev eth0 nud permanent" for a in (wide.right.ip4, wide.right.ip6)
    ]
    change = ip_lines(wide.server.ns, f"link set eth0 address {NEW_MAC}", *keep)
    with Traffic(wide, flows, 800) as traffic:
        time.sleep(0.5)
        assert forwarded(serving, "left") > 0
        before, after = change.go()
        new = server(wide, NEW_MAC)
        wait_for(lambda: all(traffic.judge(n, new, time.time_ns() - 300_000_000).fates[new] > 50 for n in flows),
                 PROBE_BOUND_S + 2, 0.5)  # fmt: skip
        time.sleep(0.5)
    for name in flows:
        assert traffic.judge(name, server(wide), 0, before).wrong == 0, name
        verdict = traffic.judge(name, new, before)
        tell(record_property, f"MAC swapped silently, {name}", verdict, (after - before) / 1e6)
        assert verdict.stale_ms < PROBE_BOUND_S * 1000, (name, verdict)
        assert traffic.judge(name, new, traffic.sent[0][-1] - 200_000_000).wrong == 0, name


def test_a_daemon_that_is_busy_still_follows(wide, serving, record_property):
    """20,000 entries are being entered and 20,000 routes come by netlink while the route of the traffic changes."""
    many = [Forward(f"100.{i >> 8}.{i & 255}.1", dev="right", dst_mac=wide.server.mac) for i in range(20_000)]
    load = threading.Thread(target=lambda: hopline.connect(serving.instance).forward.put(many))
    storm = ip_lines(wide.ns, *(f"route add 101.{i >> 8}.{i & 255}.0/24 dev third" for i in range(20_000)))
    change = route_lines("replace", "other")(wide)
    with Traffic(wide, wide.flows(), 1000) as traffic:
        time.sleep(BEFORE_S)
        load.start()
        flood = threading.Thread(target=storm.go)
        flood.start()
        time.sleep(0.1)
        before, after = change.go()
        flood.join()
        load.join()
        until_right(traffic, dict.fromkeys(wide.flows(), other(wide)), 3)
    assert serving.json("status")["entries"]["operator"] == len(many)
    for family in wide.flows():
        assert traffic.judge(family, server(wide), 0, before).wrong == 0
        verdict = traffic.judge(family, other(wide), before)
        tell(record_property, f"route replaced, busy, {family}", verdict, (after - before) / 1e6)
        assert verdict.stale_ms < BOUND_MS + LEASE_BOUND_MS, verdict
        assert_right_at_the_end(traffic, family, other(wide))


def test_a_question_does_not_hold_up_a_change(wide, serving, record_property):
    """The first `forward get` loads a program; what the host does meanwhile is followed as soon as ever."""
    change = route_lines("replace", "other")(wide)
    ask = threading.Thread(target=lambda: hopline.connect(serving.instance).forward.get(wide.server.ip4))
    with Traffic(wide, wide.flows(), 1000) as traffic:
        time.sleep(BEFORE_S)
        ask.start()
        time.sleep(0.02)
        before, after = change.go()
        ask.join()
        time.sleep(0.4)
    for family in wide.flows():
        verdict = traffic.judge(family, other(wide), before)
        tell(record_property, f"route replaced during `forward get`, {family}", verdict, (after - before) / 1e6)
        assert verdict.stale_ms < 250, verdict
        assert_right_at_the_end(traffic, family, other(wide))
