"""Objects that others built: those of Debian's xdp-tools and libxdp, and of plain clang with the options people use.

Each is loaded on the router's left while the client pings it, and does what it says.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from clang import INCLUDES
from hopline.host.program import load, objects, routes
from hopline.host.program.stats import find_counters
from hopline.host.program.table import Table
from hopline.kernel import netns
from hopline.kernel.program import LWT_XMIT, XDP
from lab.lesson_room import ping
from lab.loading import left_of
from lab.net import Router
from lab.netlink_room import needs_root

pytestmark = needs_root

DEBIAN = next(Path("/usr/lib").glob("*/bpf/xdpfilt_dny_all.o"), Path("/gone")).parent
needs_xdp_tools = pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs xdp-tools")
# object, program where it has several, whether pings pass
OBJECTS = [
    ("xdp-dispatcher.o", "xdp_dispatcher", True),
    ("xdp-dispatcher.o", "xdp_pass", True),
    ("xdpdump_xdp.o", None, True),
    ("xsk_def_xdp_prog.o", None, True),
    ("xsk_def_xdp_prog_5.3.o", None, True),
    # policy allow, and policy deny, with lists that are empty
    ("xdpfilt_alw_all.o", None, True),
    ("xdpfilt_dny_all.o", None, False),
    *(
        pytest.param(f"xdpfilt_{policy}_{what}.o", None, policy == "alw", marks=pytest.mark.slow)
        for policy in ("alw", "dny")
        for what in ("eth", "ip", "tcp", "udp")
    ),
]

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 5); __type(key, __u32);
         __type(value, __u64); } counted SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 2); __uint(key_size, 4);
         __uint(value_size, 4); } next SEC(".maps");
__u64 runs;
static __u64 own;
int answer = 42;
const volatile int verdict = 2;

static __attribute__((noinline)) int slow(struct xdp_md *ctx) { return ctx->data_end - ctx->data > 40000; }
__attribute__((noinline)) int count(__u32 key)
{
    __u64 *found = bpf_map_lookup_elem(&counted, &key);
    if (found)
        *found += 1;
    return key;
}
SEC("xdp_pass") int pass_by_old_name(struct xdp_md *ctx)
{
    runs++;
    own += answer;
    if (slow(ctx))
        bpf_printk("%d octets", ctx->data_end - ctx->data);
    bpf_tail_call(ctx, &next, 0);
    return count(verdict);
}
SEC("xdp/drop") int drop_by_old_name(struct xdp_md *ctx) { return count(XDP_DROP); }
SEC("prog") int whatever(struct __sk_buff *skb) { return count(0); }
char LICENSE[] SEC("license") = "Dual MIT/GPL";
"""
OPTIONS = [
    "-mcpu=v1",
    "-mcpu=v3 -gdwarf-5 -fno-inline",
    *(pytest.param(one, marks=pytest.mark.slow) for one in ("-mcpu=v2", "-mcpu=v3", "-O1", "-Os -mcpu=probe")),
]


@pytest.fixture(scope="module")
def net():
    with Router() as one:
        one.pin_neighbours()
        yield one
        netns.run_in(one.ns, load.clear)
        assert left_of(one.ns) == []


@needs_xdp_tools
@pytest.mark.parametrize(("name", "program", "passed"), OBJECTS)
def test_an_object_of_xdp_tools_does_what_it_does(net, name, program, passed):
    done = netns.run_in(net.ns, load.load, "left", DEBIAN / name, program=program)
    try:
        assert ping(net.client, net.left.ip4, 2) == 2 * passed
        if "xdpfilt" in name:
            with find_counters(done.id).map as found:
                assert found.name == "xdp_stats_map"
                assert found.sums()[2 if passed else 1]["rx_packets"] >= 2
    finally:
        assert netns.run_in(net.ns, load.unload, "left")[0].id == done.id
    assert ping(net.client, net.left.ip4, 1) == 1


@needs_xdp_tools
def test_a_filter_of_xdp_tools_is_filled_by_hand(net):
    """What xdp-filter writes, written by `program map`: an address whose packets are dropped as source or target."""
    netns.run_in(net.ns, load.load, "left", DEBIAN / "xdpfilt_alw_ip.o", pin=True)
    assert ping(net.client, net.left.ip4, 1) == 1
    with netns.inside(net.ns), Table("left/filter_ipv4") as table:
        # MAP_FLAG_SRC
        table.set([net.client.ip4, "1"])
    assert ping(net.client, net.left.ip4, 1) == 0
    netns.run_in(net.ns, load.unload, "left")
    assert left_of(net.ns) == []


def compiled(directory: Path, options: str) -> Path:
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    (directory / "tool.c").write_text(SOURCE)
    flags = ["-O2", "-g", "-target", "bpf", *(f"-I{path}" for path in INCLUDES), *options.split()]
    subprocess.run(["clang", *flags, "-c", "tool.c", "-o", "tool.o"], check=True, cwd=directory, capture_output=True)
    return directory / "tool.o"


@pytest.mark.parametrize("options", OPTIONS)
def test_an_object_of_plain_clang_does_what_it_does(net, tmp_path, options):
    file = compiled(tmp_path, options)
    done = netns.run_in(net.ns, load.load, "left", file, section="xdp_pass")
    assert ping(net.client, net.left.ip4, 2) == 2
    with find_counters(done.id).map as found:
        assert int(found.sums()[2]) >= 2
    dropped = netns.run_in(net.ns, load.load, "left", file, program="drop_by_old_name", replace=True)
    assert ping(net.client, net.left.ip4, 1) == 0
    assert netns.run_in(net.ns, load.unload, "left")[0].id == dropped.id
    asked = routes.request("10.2.0.0/24", "xmit")
    with netns.inside(net.ns):
        on_route = routes.load(file, asked, section="prog")
        assert ping(net.client, net.server.ip4, 2) == 2
        assert routes.unload("10.2.0.0/24")[0].id == on_route.id
    assert ping(net.client, net.server.ip4, 1) == 1


def test_the_hook_makes_the_type_of_any_section(tmp_path):
    file = compiled(tmp_path, "-mcpu=v3")
    for program, type_ in (("pass_by_old_name", XDP), ("whatever", LWT_XMIT), ("whatever", XDP)):
        with objects.opened(file, type_, program=program) as (_, loaded):
            assert loaded.info().type == type_
