"""A thousand loads and unloads, on a device and on a route: nothing of them is left, in the kernel or here."""

import pytest

from clang import compile_bpf
from hopline.host.program import load, routes
from hopline.kernel import netns
from lab.leftovers import everything
from lab.netlink_room import needs_root, room
from lab.traffic import wait_for

pytestmark = needs_root

# names that no other test's programs and maps have
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
const volatile __u32 step = 1;
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 5); __type(key, __u32);
         __type(value, __u64); } rd_seen SEC(".maps");
static __always_inline int count(__u32 verdict)
{
    __u64 *found = bpf_map_lookup_elem(&rd_seen, &verdict);
    if (found)
        *found += step;
    return verdict;
}
SEC("xdp") int rd_device(struct xdp_md *ctx) { return count(XDP_PASS); }
SEC("lwt_xmit") int rd_route(struct __sk_buff *skb) { return count(BPF_OK); }
char _license[] SEC("license") = "GPL";
"""
SETUP = """
sysctl -qw net.ipv6.conf.default.addr_gen_mode=1
ip link set lo up
ip link add left type veth peer name right; ip link set left up; ip link set right up
ip address add 10.91.0.1/24 dev left
"""
OLD, NEW = "10.91.0.0/24", "fd92::/64"


@pytest.fixture
def ns():
    with room(SETUP) as name:
        yield name
        netns.run_in(name, load.clear)


def on_a_device(made, number: int) -> None:
    """One round: pinned or not, replaced with the map before, and some of them for a time."""
    mode = ("native", "generic")[number % 2]
    load.load("left", made, program="rd_device", pin=number % 3 > 0, mode=mode, variables=["step=2"])
    load.load("left", made, program="rd_device", pin=number % 3 > 1, replace=True, reuse_maps=True)
    load.unload("left")
    if number % 25 == 0:
        load.load("left", made, program="rd_device", seconds=60)
        load.unload("left")


def on_a_route(made, number: int) -> None:
    """One round: a route that is there, and one that comes and goes with the program."""
    dev = None if number % 2 else "left"
    where = routes.request(OLD if number % 2 else NEW, "xmit", dev=dev)
    routes.load(made, where, program="rd_route")
    routes.load(made, where, program="rd_route", replace=True)
    routes.unload(where.route)
    if number % 25 == 0:
        routes.load(made, where, program="rd_route", seconds=60)
        routes.unload(where.route)


@pytest.mark.parametrize("one_round", [on_a_device, on_a_route])
@pytest.mark.parametrize("rounds", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_rounds_of_load_and_unload_leave_nothing(ns, tmp_path, one_round, rounds):
    made = compile_bpf(tmp_path, SOURCE, "rd")
    with netns.inside(ns):
        one_round(made, 0)  # what is loaded once stays: modules, sockets
    before = everything(ns, "rd")
    assert before["in the kernel"] == before["pins and records"] == before["keepers"] == []
    with netns.inside(ns):
        for number in range(rounds):
            one_round(made, number)
    # the kernel frees what nobody uses a moment later
    assert wait_for(lambda: everything(ns, "rd") == before) or everything(ns, "rd") == before
