"""A namespace whose routes get programs: two neighbours behind one device, and one program for each hook.

`file` is the object, `ns` the namespace, `sink` the one at the device's other end; `hopline` runs the command line.
"""

import re
import time

import pytest

from clang import compile_bpf
from hopline.cli import main as cli
from hopline.errors import KernelError
from hopline.host.program import routes
from hopline.kernel import netns
from hopline.kernel.program import Program
from lab.netlink_room import room, shell

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
const volatile int verdict = BPF_OK;
SEC("lwt_in") int on_in(struct __sk_buff *skb) { return verdict; }
SEC("lwt_out") int on_out(struct __sk_buff *skb) { return verdict; }
SEC("encap_gre") int on_xmit(struct __sk_buff *skb) { return verdict; }
SEC("lwt_seg6local") int on_segment(struct __sk_buff *skb) { return verdict; }
char _license[] SEC("license") = "GPL";
"""
SETUP = """ip -batch - <<END
link set lo up
link add v0 type veth peer name v1 netns {sink}
link set v0 up
address add 10.1.0.1/24 dev v0
address add fd00:1::1/64 dev v0 nodad
neighbour add 10.1.0.2 lladdr 02:00:00:00:00:02 dev v0
neighbour add 10.1.0.3 lladdr 02:00:00:00:00:03 dev v0
neighbour add fd00:1::2 lladdr 02:00:00:00:00:02 dev v0
neighbour add fd00:1::3 lladdr 02:00:00:00:00:03 dev v0
END"""
# an operator's own, by iproute2
FOREIGN = "ip route add 10.9.0.0/24 encap bpf {hook} obj {file} section lwt_{hook} via 10.1.0.2"
PROGRAMS = {"in": "on_in", "out": "on_out", "xmit": "on_xmit", "seg6local": "on_segment"}


@pytest.fixture(scope="module", name="file")
def file_fixture(tmp_path_factory):
    return compile_bpf(tmp_path_factory.mktemp("routes"), SOURCE)


@pytest.fixture(scope="module", name="sink")
def sink_fixture():
    with room() as name:
        yield name


@pytest.fixture(name="ns")
def ns_fixture(sink):
    """A namespace with one device, v0 to `sink`, and two neighbours in each family."""
    with room(SETUP.format(sink=sink)) as name:
        shell(sink, "ip link set v1 up")
        # until the cable is seen to be plugged in, routes say so, and the device's own IPv6 route is not there
        while "linkdown" in shown(name) or "fe80::/64 dev v0" not in shown(name):
            time.sleep(0.002)
        yield name
        shell(name, "ip link delete v0")  # the kernel takes its time over a namespace


def here(ns, function, *arguments, **more):
    return netns.run_in(ns, function, *arguments, **more)


def load(ns, file, route, hook="xmit", *, replace=False, seconds=None, variables=(), **more):
    asked = routes.request(route, hook, **more)
    options = {"program": PROGRAMS[hook], "variables": variables, "replace": replace, "seconds": seconds}
    return here(ns, routes.load, file, asked, **options)


def unload(ns, route, **more):
    return here(ns, routes.unload, route, **more)


def shown(ns, to="") -> str:
    """What `ip` says of one route of the main table, or all of both families; seconds of its life left out."""
    family = "-6" if ":" in to else "-4"
    said = shell(ns, f"ip -d {family} route show exact {to}" if to else "ip -d route show; ip -d -6 route show")
    return re.sub(r"expires \d+sec", "expires", said)


def gone(program_id: int) -> bool:
    """Whether a program is unloaded, or soon is: the kernel waits for readers of the route."""
    for _ in range(200):
        try:
            Program.from_id(program_id).close()
        except KernelError:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(name="hopline")
def hopline_fixture(ns, capsys):
    """A function that runs `hopline program …` in the namespace: exit code, stdout, stderr."""

    def run(*words):
        code = here(ns, cli.main, ["program", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return run
