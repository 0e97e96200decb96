"""What tests of `hopline program load` share: an object with programs that count, and a room to load them in.

In the room is a veth pair, LEFT and right: frames that are sent at right reach the program on LEFT.
"""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from hopline.cli import main as cli
from hopline.host.program import load, record
from hopline.kernel import bpffs, netns
from hopline.kernel.link import query
from hopline.kernel.loaded import map_ids, program_ids
from hopline.kernel.map import Map
from hopline.lab.shell import hopline_command
from lab.netlink_room import room

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct totals { __u64 packets; __u64 bytes; };
const volatile __u32 action = XDP_PASS;
const __u32 fixed = 3;
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 5); __type(key, __u32);
         __type(value, struct totals); __uint(pinning, LIBBPF_PIN_BY_NAME); } verdicts SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32);
         __type(value, __u64); } unused SEC(".maps");

static __always_inline int count(struct xdp_md *ctx, __u32 verdict)
{
    struct totals *found = bpf_map_lookup_elem(&verdicts, &verdict);

    if (found) {
        found->packets++;
        found->bytes += ctx->data_end - ctx->data;
    }
    return verdict;
}

SEC("xdp_counted") int counted(struct xdp_md *ctx) { return count(ctx, action); }
SEC("xdp_drop") int drop_everything_there(struct xdp_md *ctx) { return count(ctx, XDP_DROP); }
SEC("lwt_xmit/capture") int see(struct __sk_buff *skb) { return bpf_map_lookup_elem(&unused, &fixed) ? 1 : 0; }
char _license[] SEC("license") = "GPL";
"""
FRAME = bytes.fromhex("ffffffffffff02000000000988b5") + bytes(range(50))
LEFT = "left.100"  # a name with a dot, which bpffs refuses


@contextmanager
def loading_room() -> Iterator[str]:
    """Its namespace; at the end everything of ours is cleared, and nothing of it is left."""
    setup = f"ip link add {LEFT} type veth peer name right; ip link set {LEFT} up; ip link set right up"
    # nothing but what a test sends
    with room(f"sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip link set lo up; {setup}") as name:
        yield name
        netns.run_in(name, load.clear)
        assert left_of(name) == []


def left_of(ns: str) -> list[str]:
    """Pins and records of a namespace."""
    number = str(netns.inode(ns))
    places = (bpffs.root() / "hopline/.programs" / number, record.DIRECTORY / number)
    return [str(path) for place in places for path in place.rglob("*")]


def loading(ns, file, device=LEFT, **options):
    return netns.run_in(ns, load.load, device, file, **options)


def unloading(ns, device=LEFT, **options):
    return netns.run_in(ns, load.unload, device, **options)


def attached(ns, device=LEFT):
    return netns.run_in(ns, lambda: query(socket.if_nametoindex(device)))


def counts(done, name="verdicts"):
    """Packets and bytes by action of a loaded program's map."""
    with Map.from_id(next(one.id for one in done.maps if one.name == name)) as found:
        return {
            action: (int(row["packets"]), int(row["bytes"]))
            for action, row in enumerate(found.sums())
            if row["packets"]
        }


def command(ns, *words) -> tuple[int, str, str]:
    """The command in a process of its own, in a namespace: exit code, stdout, stderr."""
    argv = ["nsenter", f"--net=/run/netns/{ns}", hopline_command(), "program", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def refusal(ns, capsys, *words) -> str:
    """The one line with which a command fails; nothing is attached or pinned, and no program or map is left."""
    before = (attached(ns), left_of(ns), set(program_ids()), set(map_ids()))
    code = netns.run_in(ns, cli.main, ["program", *map(str, words)])
    out, err = capsys.readouterr()
    assert (code, out) == (1, ""), err
    assert err.startswith("hopline: ")
    assert err.count("\n") == 1
    assert attached(ns) == before[0]
    assert left_of(ns) == before[1]
    return err.removeprefix("hopline: ").rstrip()
