"""A load that is interrupted or killed between any two of its steps: what is left is whole, or nothing, or goes.

Children of this process load; one of the steps that change the kernel or the disk is told to send them a signal.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from clang import compile_bpf
from hopline.cli import main as cli
from hopline.errors import NotFound
from hopline.host.program import keep, load, pins, record, routes
from hopline.kernel import attach, bpffs, netns
from hopline.kernel.link import XdpLink, query
from hopline.kernel.map import Map
from hopline.kernel.netlink import encap
from hopline.kernel.program import Program
from lab.loading import left_of
from lab.netlink_room import needs_root, room, shell

pytestmark = needs_root

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32);
         __type(value, __u64); } seen SEC(".maps");
static __always_inline int look(int verdict)
{
    __u32 key = 0;
    return bpf_map_lookup_elem(&seen, &key) ? verdict : 1;
}
SEC("xdp") int in_first(struct xdp_md *ctx) { return look(XDP_PASS); }
SEC("lwt_xmit") int in_route(struct __sk_buff *skb) { return look(BPF_OK); }
char _license[] SEC("license") = "GPL";
"""
DEVICES = 12
SETUP = "; ".join(f"ip link add d{number} type veth peer name p{number}; ip link set d{number} up"
                  for number in range(DEVICES))  # fmt: skip
# what changes the kernel or the disk
STEPS = (
    (Program, "pin"),
    (Map, "pin"),
    (attach, "attach"),
    (attach, "replace"),
    (XdpLink, "attach"),
    (keep, "_start"),
    (record, "write"),
    (record, "forget"),
    (pins, "remove"),
    (encap, "create"),
)
ROUTE = "10.90.0.0/16"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return str(compile_bpf(tmp_path_factory.mktemp("interrupted"), SOURCE))


@pytest.fixture(scope="module")
def ns():
    with room(f"ip link set lo up; {SETUP}") as name:
        yield name


@pytest.fixture(autouse=True)
def _clean(ns):
    yield
    for device in (f"d{number}" for number in range(DEVICES)):
        with suppress(NotFound):
            netns.run_in(ns, load.unload, device, everything=True)
    netns.run_in(ns, load.clear)


def hit(number: int, which: int) -> None:
    """Have the step of that number, from 1, be followed by a signal to this process."""
    steps = [0]

    def counted(function, *arguments, **options):
        steps[0] += 1
        last = steps[0] == number
        done = function(*arguments, **options)
        if last:
            os.kill(os.getpid(), which)
        return done

    for owner, name in STEPS:
        real = getattr(owner, name)

        def wrapper(*arguments, _real=real, **options):
            return counted(_real, *arguments, **options)

        # what is bound to its class is called without it
        setattr(owner, name, staticmethod(wrapper) if hasattr(real, "__self__") else wrapper)


def child(ns: str, words, number: int, which: int) -> int:
    """Exit code of the command in a child; minus the signal that ended it."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 99
    with suppress(BaseException):
        quiet = os.open("/dev/null", os.O_RDWR)
        for descriptor in (1, 2):
            os.dup2(quiet, descriptor)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        hit(number, which)
        with netns.inside(ns):
            code = cli.main(["program", *words])
    os._exit(code)


def each_step(ns, words, which, prepare=lambda number: None):
    """Run a command again and again, the signal one step later each time, until it comes to its end: (words, code)."""
    for number in range(1, 100):
        prepare(number)
        asked = [word.replace("{n}", str(number)) for word in words]
        code = child(ns, asked, number, which)
        if code == 0:
            assert number > 2, "there are steps"
            return
        yield number, code
    pytest.fail("it never comes to its end")


def attached(ns, device):
    return netns.run_in(ns, lambda: query(socket.if_nametoindex(device)))


def freed(ns, device) -> bool:
    """Whether a device's program goes within a second or two."""
    deadline = time.monotonic() + 4
    while attached(ns, device) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return attached(ns, device) is None


@pytest.mark.parametrize("options", [("--pin",), ("--for", "60")], ids=" ".join)
def test_ctrl_c_leaves_a_load_whole_or_nothing(ns, made, options):
    """Whole is: attached, on record, pinned if asked; so that a plain unload takes all of it away."""
    for number, code in each_step(ns, ["load", "d0", made, "--program", "in_first", *options], signal.SIGINT):
        assert code == 130
        there, kept = attached(ns, "d0"), netns.run_in(ns, record.read, "d0")
        assert (there and there.program_id) == (kept and kept.program_id), f"step {number}"
        left = [path for path in left_of(ns) if path.startswith(str(bpffs.root()))]
        assert bool(left) == (there is not None and options == ("--pin",)), f"step {number}: {left}"
        if there is not None:
            netns.run_in(ns, load.unload, "d0")
        assert left_of(ns) == [], f"step {number}"
    netns.run_in(ns, load.unload, "d0")
    assert left_of(ns) == []


def test_ctrl_c_leaves_what_was_to_be_replaced_or_the_next(ns, made):
    def prepare(number):
        netns.run_in(ns, load.load, "d0", made, program="in_first", pin=True, replace=True)

    words = ["load", "d0", made, "--program", "in_first", "--pin", "--replace"]
    for number, code in each_step(ns, words, signal.SIGINT, prepare):
        assert code == 130
        there, kept = attached(ns, "d0"), netns.run_in(ns, record.read, "d0")
        assert there is not None
        assert kept is not None, f"step {number}: a plain unload must do"
        assert kept.program_id == there.program_id
        with Program.from_pin(Path(next(pin for pin in kept.pins if pin.endswith("/in_first")))) as pinned:
            assert pinned.id == there.program_id, f"step {number}"
    netns.run_in(ns, load.unload, "d0")
    assert left_of(ns) == []


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL], ids=lambda one: one.name)
def test_a_route_is_whole_or_not_there(ns, made, which):
    words = ["load", "--route", ROUTE, "--dev", "d0", "--hook", "xmit", made, "--program", "in_route", "--for", "60"]
    for number, code in each_step(ns, words, which):
        assert code == (130 if which is signal.SIGINT else -signal.SIGKILL)
        if "in_route" in shell(ns, "ip route"):
            netns.run_in(ns, routes.unload, ROUTE)
        netns.run_in(ns, load.clear)
        assert ROUTE not in shell(ns, "ip route"), f"step {number}"
        assert left_of(ns) == [], f"step {number}"
    netns.run_in(ns, routes.unload, ROUTE)


def test_after_a_kill_the_next_load_and_unload_leave_nothing(ns, made):
    for number, code in each_step(ns, ["load", "d0", made, "--program", "in_first", "--pin"], signal.SIGKILL):
        assert code == -signal.SIGKILL
        netns.run_in(ns, load.load, "d0", made, program="in_first", pin=True, replace=True)
        netns.run_in(ns, load.unload, "d0")
        assert attached(ns, "d0") is None
        assert left_of(ns) == [], f"step {number}"
    netns.run_in(ns, load.unload, "d0")


def test_a_load_for_a_time_that_is_killed_is_over_by_then(ns, made):
    """Whatever the command had done by then: the kernel detaches it with the command, or the keeper when it is time."""
    killed, began = 0, time.monotonic()
    words = ["load", "d{n}", made, "--program", "in_first", "--for", "1.5"]
    for killed, code in each_step(ns, words, signal.SIGKILL):  # noqa: B007
        assert code == -signal.SIGKILL
    assert all(freed(ns, f"d{number}") for number in range(1, killed + 2))
    assert time.monotonic() - began < 8
    for number in range(1, killed + 2):
        with suppress(NotFound):
            netns.run_in(ns, load.unload, f"d{number}")
    assert left_of(ns) == []
