"""`hopline program show`: programs on devices and routes, ours and others', and those that are only loaded."""

import errno
import json
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from clang import compile_bpf
from hopline.cli import main as cli
from hopline.errors import KernelError, NotFound
from hopline.host.program import load
from hopline.host.program.show import show
from hopline.kernel import BpfObject, netns
from hopline.kernel.link import Attached
from hopline.kernel.program import XDP, Program
from lab.net import send_frames
from lab.netlink_room import needs_root, room, shell

pytestmark = needs_root

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32);
         __type(value, __u64); } counts SEC(".maps");
SEC("xdp") int a_name_that_the_kernel_cuts(struct xdp_md *ctx)
{
    __u32 key = 0;

    return bpf_map_lookup_elem(&counts, &key) ? XDP_PASS : XDP_DROP;
}
SEC("lwt_xmit") int look(struct __sk_buff *skb) { return BPF_OK; }
char _license[] SEC("license") = "GPL";
"""
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return str(compile_bpf(tmp_path_factory.mktemp("show"), SOURCE))


@pytest.fixture
def ns():
    setup = "ip link add left type veth peer name right; ip link set left up; ip link set right up"
    with room(f"{setup}; ip addr add 10.9.0.1/24 dev left") as name:
        yield name
        netns.run_in(name, load.clear)


@contextmanager
def only_loaded(made):
    with BpfObject.open(made) as found:
        found.only("a_name_that_the_kernel_cuts")
        found.load()
        yield found.program("a_name_that_the_kernel_cuts")


def test_ours_and_others_and_those_on_no_device(ns, made):
    start = time.time()
    ours = netns.run_in(ns, load.load, "left", made, pin=True)
    shell(ns, f"ip link set dev right xdpgeneric obj {made} sec xdp")
    shell(ns, f"ip route add 10.77.0.0/16 encap bpf xmit obj {made} section lwt_xmit dev left")
    with only_loaded(made) as program:
        rows = netns.run_in(ns, show)
        assert (mine := next(row for row in rows if row.device == "left" and row.hook == "xdp")).ours
        assert (mine.name, mine.id, mine.mode) == ("a_name_that_the_kernel_cuts", ours.id, "native")
        assert (mine.tag, mine.pins, mine.link_id, mine.instance) == (ours.tag, tuple(ours.pins), None, None)
        assert (mine.uid, mine.gpl, mine.map_ids) == (0, True, (ours.maps[0].id,))
        assert start - 1 < mine.loaded_at < time.time() + 1
        assert mine.xlated_bytes > 16
        assert mine.jited_bytes > 16
        assert mine.locked_bytes == 4096
        theirs = next(row for row in rows if row.device == "right")
        assert (theirs.name, theirs.mode, theirs.ours) == ("a_name_that_the_kernel_cuts", "generic", False)
        route = next(row for row in rows if row.route == "10.77.0.0/16")
        assert (route.hook, route.device, route.table, route.ours, route.id) == ("xmit", "left", "main", False, None)
        loose = next(row for row in rows if row.id == program.id)
        assert (loose.device, loose.route, loose.hook, loose.name) == (None, None, "xdp", mine.name)
        # of one device only what is on it, and on routes that leave by it
        names = [(row.hook, row.device) for row in netns.run_in(ns, show, "left")]
        assert names == [("xdp", "left"), ("xmit", "left")]
    with pytest.raises(NotFound, match="interface gone"):
        netns.run_in(ns, show, "gone")


def test_runs_are_shown_where_somebody_counts(ns, made):
    netns.run_in(ns, load.load, "left", made)
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        send_frames(ns, "right", [bytes(60)] * 5)
        deadline = time.monotonic() + 2
        while (row := netns.run_in(ns, show, "left")[0]).runs < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        STATISTICS.write_text(before)
    assert row.runs >= 5
    assert row.ns_a_run == row.run_ns / row.runs > 0


def test_what_a_person_and_a_program_read(ns, made, capsys):
    netns.run_in(ns, load.load, "left", made, seconds=60)
    assert netns.run_in(ns, cli.main, ["program", "show", "left"]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    columns = "WHERE HOOK PROGRAM ID TAG LOADED UID LICENCE XLATED JITED LOCKED MAPS RUNS NS/RUN BY"
    assert heading.split() == columns.split(" ")
    assert line.split()[:4] == ["left", "xdp", "native", "a_name_that_the_kernel_cuts"]
    assert " hopline, until " in line
    assert netns.run_in(ns, cli.main, ["program", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["mode"], row["ours"]) for row in rows if row["device"] == "left"] == [("native", True)]
    assert netns.run_in(ns, cli.main, ["program", "show", "right"]) == 0
    assert capsys.readouterr().out == "no program is on right\n"


def test_what_only_root_is_told_is_missed(ns, made, capsys, monkeypatch):
    done = netns.run_in(ns, load.load, "left", made)

    def refuse(_):
        raise KernelError("open program", errno.EPERM)

    with monkeypatch.context() as others:
        others.setattr("hopline.host.program.show.query", lambda _: Attached("native", done.id, "", "", None))
        others.setattr(Program, "from_id", refuse)
        assert netns.run_in(ns, cli.main, ["program", "show", "left", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [(row["id"], row["name"]) for row in json.loads(out)] == [(done.id, "")]
    assert err.startswith("hopline: warning: what is attached has a name")
    assert netns.run_in(ns, cli.main, ["program", "show", "left"]) == 0
    assert capsys.readouterr().err == ""


def test_a_program_of_a_link_names_it(ns, made):
    from hopline.kernel import XdpLink

    with only_loaded(made) as program:
        assert program.type == XDP
        with netns.run_in(ns, lambda: XdpLink.attach(program, socket.if_nametoindex("left"))) as link:
            assert netns.run_in(ns, show, "left")[0].link_id == link.id
