"""The watch tells everything that can make a learned answer stale, and keeps its tables as the kernel's."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from hopline.kernel import netns
from hopline.kernel.netlink import change, query, types
from hopline.kernel.netlink.types import Batch, Event
from hopline.kernel.netlink.watch import Watch
from lab.netlink_room import needs_root, needs_told_features, room, shell

pytestmark = needs_root
SETUP = """
ip link set lo up; ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up
sysctl -qw net.ipv6.conf.v0.disable_ipv6=1 net.ipv6.conf.v1.disable_ipv6=1
ip addr add 10.0.0.1/24 dev v0
"""


@pytest.fixture
def ns():
    with room(SETUP) as name:
        yield name


async def gather(watch: Watch, quiet: float = 0.3) -> list[Batch]:
    """Batches until nothing has come for `quiet` seconds."""
    batches = []
    while True:
        try:
            batches.append(await asyncio.wait_for(anext(watch), quiet))
        except TimeoutError:
            return batches


def watching(ns: str, body: Callable[[Watch], Awaitable[object]]) -> object:
    async def main() -> object:
        async with Watch() as watch:
            await gather(watch)
            return await body(watch)

    return netns.run_in(ns, lambda: asyncio.run(main()))


def after(ns: str, command: str) -> list[Event]:
    """The events that a shell command causes."""

    async def body(watch: Watch) -> list[Event]:
        await asyncio.to_thread(shell, ns, command)
        return [event for batch in await gather(watch) for event in batch.events]

    return watching(ns, body)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ip link set v0 address 02:00:00:00:00:77", types.LinkChanged),
        ("ip link set v0 mtu 1400", types.LinkChanged),
        ("ip link set v0 down", types.LinkChanged),
        ("ip link set v1 down", types.LinkChanged),
        ("ip link del v0", types.LinkGone),
        ("ip addr add 10.0.0.9/24 dev v0", types.AddressChanged),
        ("ip addr add 10.0.0.9/24 dev v0", types.LocalAddressesChanged),
        ("ip addr del 10.0.0.1/24 dev v0", types.LocalAddressesChanged),
        ("ip route add 10.1.0.0/16 via 10.0.0.2", types.RouteChanged),
        ("ip rule add priority 7 from 10.2.0.0/16 lookup 9", types.RuleChanged),
        ("ip -6 rule add priority 7 lookup 9", types.RuleChanged),
        ("ip nexthop add id 5 via 10.0.0.2 dev v0", types.NexthopChanged),
        ("sysctl -qw net.ipv4.ip_forward=1", types.NetconfChanged),
        ("sysctl -qw net.ipv6.conf.all.forwarding=1", types.NetconfChanged),
        ("sysctl -qw net.ipv4.conf.v0.rp_filter=1", types.NetconfChanged),
        ("nft add table ip t; nft 'add chain ip t c { type filter hook forward priority 0; }'", types.NftablesChanged),
        ("ip xfrm policy add dst 10.9.0.0/16 dir out", types.XfrmPolicyChanged),
        ("tc qdisc add dev v0 clsact", types.TcChanged),
        pytest.param("ethtool -K v1 gro on", types.DeviceFeaturesChanged, marks=needs_told_features),
        ("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0", types.NeighbourChanged),
    ],
)
def test_what_can_make_a_learned_answer_stale_is_told(ns, command, expected):
    told = [event for event in after(ns, command) if type(event) is expected]
    assert told, command
    assert any(event.matters for event in told)


@pytest.mark.parametrize(
    "command",
    [
        "sysctl -qw net.ipv4.ip_forward=1",
        "sysctl -qw net.ipv4.conf.v0.rp_filter=1",
        "ip rule add priority 7 lookup 9",
        "nft add table ip t",
        "ip xfrm policy add dst 10.9.0.0/16 dir out",
        "tc qdisc add dev v0 clsact",
        "ip link add br0 type bridge; ip link set v0 master br0",
        "ip route add 10.1.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.0.3",
        "ip route add 10.1.0.0/16 tos 0x10 via 10.0.0.2",
    ],
)
def test_what_can_forbid_learning_is_marked_so(ns, command):
    assert any(event.policy for event in after(ns, command))


def test_a_plain_route_does_not_ask_for_the_policy(ns):
    events = after(ns, "ip route add 10.1.0.0/16 via 10.0.0.2; ip route del 10.1.0.0/16")
    assert [type(event) for event in events if event.policy] == []


def test_a_neighbour_that_flaps_with_the_same_mac_does_not_matter(ns):
    shell(ns, "ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale")
    states = "; ".join(
        f"ip neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud {state}"
        for state in ("reachable", "stale", "delay", "probe", "reachable")
    )
    told = [event for event in after(ns, states) if isinstance(event, types.NeighbourChanged)]
    assert told
    assert not any(event.matters for event in told)


@pytest.mark.parametrize(
    "command",
    [
        "ip neigh replace 10.0.0.2 lladdr 02:00:00:00:00:03 dev v0 nud stale",
        "ip neigh change 10.0.0.2 dev v0 nud failed",
        "ip neigh del 10.0.0.2 dev v0",
        # away and back within a batch: what was learned between would stay
        "ip neigh replace 10.0.0.2 lladdr 02:00:00:00:00:03 dev v0 nud stale;"
        "ip neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale",
    ],
)
def test_a_neighbour_with_another_mac_or_none_matters(ns, command):
    shell(ns, "ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale")

    async def body(watch: Watch) -> bool:
        await asyncio.to_thread(shell, ns, command)
        return any(batch.stale for batch in await gather(watch))

    assert watching(ns, body)


def test_events_of_one_batch_merge_but_keep_that_they_mattered(ns):
    async def body(watch: Watch) -> list[Event]:
        netns.run_in(ns, change.replace_neighbour, "v0", "10.0.0.2", b"\2\0\0\0\0\3", "stale")
        netns.run_in(ns, change.replace_neighbour, "v0", "10.0.0.2", b"\2\0\0\0\0\2", "stale")
        batch = await anext(watch)
        return batch.of(types.NeighbourChanged)

    shell(ns, "ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale")
    [event] = watching(ns, body)
    assert event.matters
    assert event.old.mac == event.neighbour.mac == b"\2\0\0\0\0\2"


def test_the_tables_stay_the_kernels(ns):
    async def body(watch: Watch) -> None:
        await asyncio.to_thread(
            shell,
            ns,
            "ip link add x0 type veth peer name x1; ip link set x0 up; ip link set x1 up; ip link set v0 mtu 1300;"
            "ip addr add 10.5.0.1/24 brd + dev x0; ip neigh add 10.5.0.2 lladdr 02:00:00:00:00:05 dev x0;"
            "ip addr add 10.6.0.1/24 dev x1; ip addr del 10.6.0.1/24 dev x1; "
            "ip link set x1 down; ip link set x1 name y1; ip link set y1 up; "
            "ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:05 dev v0; ip link add z0 type veth peer name z1;"
            "ip link del z0",
        )
        await gather(watch)
        assert watch.links == {link.index: link for link in query.links()}
        assert watch.neighbours == {(entry.index, entry.address): entry for entry in query.neighbours()}
        assert watch.local == query.local_addresses()
        await asyncio.to_thread(shell, ns, "ip link del v0; ip link set x0 down")
        await gather(watch)
        assert watch.links == {link.index: link for link in query.links()}
        assert watch.neighbours == {(entry.index, entry.address): entry for entry in query.neighbours()}
        assert watch.local == query.local_addresses()

    watching(ns, body)


def test_local_addresses_tell_what_came_and_went(ns):
    events = after(ns, "ip addr del 10.0.0.1/24 dev v0; ip addr add 10.7.0.1/24 brd + dev v0")
    added, removed = set(), set()
    for event in events:
        if isinstance(event, types.LocalAddressesChanged):
            added |= event.added
            removed |= event.removed
    assert {"10.7.0.1", "10.7.0.255"} <= added
    assert {"10.0.0.1"} <= removed


def test_a_hundred_thousand_routes_are_followed_and_scanned_in_seconds(ns, tmp_path):
    lines = "".join(f"route add 10.{16 + (n >> 16)}.{n >> 8 & 255}.{n & 255}/32 dev v0\n" for n in range(100_000))
    batch_file = tmp_path / "routes"
    batch_file.write_text(lines)

    async def body(watch: Watch) -> tuple[int, float, float, bool]:
        watch.routes.scan()
        began = time.perf_counter()
        done = asyncio.create_task(asyncio.to_thread(shell, ns, f"ip -batch {batch_file}"))
        batches = await gather(watch, 1.0)
        await done
        followed = time.perf_counter() - began - 1.0
        events = [event for batch in batches for event in batch.events]
        count = sum(event.count for event in events if isinstance(event, types.RouteChanged))
        overflow = any(isinstance(event, types.Overflow) for event in events)
        began = time.perf_counter()
        watch.routes.scan()
        return count, followed, time.perf_counter() - began, overflow

    count, followed, scanned, overflow = watching(ns, body)
    print(f"100,000 routes followed in {followed:.2f} s, scanned in {scanned:.2f} s")
    assert count == 100_000 or overflow
    assert followed < 30
    assert scanned < 10


def test_an_overflow_is_told_and_the_tables_are_right_after_it(ns):
    async def main() -> tuple[bool, bool]:
        async with Watch(receive_buffer=4096) as watch:
            await gather(watch)
            entries = "".join(f"ip neigh add 10.0.0.{n} lladdr 02:00:00:00:00:02 dev v0;" for n in range(10, 250))
            shell(ns, entries)  # the loop stands still meanwhile
            batches = await gather(watch)
            overflow = any(batch.of(types.Overflow) and batch.stale and batch.policy for batch in batches)
            current = {(entry.index, entry.address): entry for entry in query.neighbours()}
            return overflow, watch.neighbours == current and watch.routes.stale

    assert netns.run_in(ns, lambda: asyncio.run(main())) == (True, True)


def test_an_event_arrives_within_milliseconds(ns):
    async def body(watch: Watch) -> list[float]:
        delays = []
        index = query.link("v0").index
        for number in range(50):
            mac = bytes([2, 0, 0, 0, 1, number])
            done = await asyncio.to_thread(netns.run_in, ns, _stamp_after_change, mac)
            batch = await asyncio.wait_for(anext(watch), 1)
            delays.append(time.perf_counter() - done)
            assert watch.neighbours[(index, "10.0.0.2")].mac == mac
            assert batch.stale
        return delays

    delays = sorted(watching(ns, body))
    print(f"from the change's return to its batch: median {delays[25] * 1e3:.2f} ms, worst {delays[-1] * 1e3:.2f} ms")
    assert delays[25] < 0.1


def _stamp_after_change(mac: bytes) -> float:
    change.replace_neighbour("v0", "10.0.0.2", mac, "stale")
    return time.perf_counter()


def test_a_closed_watch_leaves_no_reader_behind(ns):
    async def main() -> None:
        watch = Watch()
        async with watch:
            pass
        watch.close()
        shell(ns, "ip link set v0 mtu 1400")
        await asyncio.sleep(0.05)

    netns.run_in(ns, lambda: asyncio.run(main()))
