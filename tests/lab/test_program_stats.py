"""hopline program stats: what it counts of frames of known number and length, and what it does when things change."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from clang import compile_bpf
from hopline.errors import NotFound
from hopline.host.program import stats
from hopline.kernel import BpfObject, XdpLink, bpffs, netns
from hopline.kernel.program import Program
from hopline.lab.shell import enter, hopline_command
from lab.net import send_frames, unique_tag
from lab.netlink_room import needs_root, room, shell

pytestmark = needs_root

# the last octet of a frame's destination says what becomes of it
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct record { __u64 rx_packets; __u64 rx_bytes; };
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 5); __type(key, __u32); __type(value, struct record);
} anything SEC(".maps");

static int decide(struct xdp_md *ctx)
{
    unsigned char *data = (void *)(long)ctx->data;
    return data + 6 > (unsigned char *)(long)ctx->data_end ? XDP_ABORTED : data[5];
}

SEC("xdp") int counts(struct xdp_md *ctx)
{
    __u32 action = decide(ctx);
    struct record *found = bpf_map_lookup_elem(&anything, &action);
    if (found) {
        found->rx_packets++;
        found->rx_bytes += ctx->data_end - ctx->data;
    }
    return action;
}
SEC("xdp") int does_not(struct xdp_md *ctx) { return decide(ctx) & XDP_PASS; }
char _license[] SEC("license") = "GPL";
"""
DROP, PASS, TX = 1, 2, 3
QUIET = """
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return compile_bpf(tmp_path_factory.mktemp("stats"), SOURCE)


@pytest.fixture
def ns():
    with room(QUIET) as name:
        yield name


@contextlib.contextmanager
def attached(ns, file, name="counts"):
    """A link that holds that program on v0."""

    def attach():
        with loaded(file, name) as program:
            return XdpLink.attach(program, socket.if_nametoindex("v0"))

    with netns.run_in(ns, attach) as link:
        yield link


@contextlib.contextmanager
def loaded(file, name="counts"):
    with BpfObject.open(file) as opened:
        opened.only(name)
        opened.load()
        with opened.program(name) as program:
            yield program


@contextlib.contextmanager
def reading(ns):
    """A function that takes one sample of v0."""
    with netns.run_in(ns, stats.Stats, "v0") as source:
        yield lambda: netns.run_in(ns, source.sample)


def send(ns, action, length, count=1):
    send_frames(ns, "v1", [bytes([2, 0, 0, 0, 0, action]) + bytes(length - 6)] * count)


def counted(sample) -> dict[str, tuple[int, int]]:
    return {one.verdict: (one.packets, one.bytes) for one in sample.verdicts if one.packets}


def test_packets_and_bytes_are_counted_by_verdict_and_rates_are_of_the_interval(ns, file):
    with attached(ns, file), reading(ns) as sample:
        first = sample()
        assert [one.verdict for one in first.verdicts] == list(stats.ACTIONS)
        assert (first.interval_s, {one.pps for one in first.verdicts}) == (None, {None})
        send(ns, PASS, 60, 7)
        send(ns, DROP, 1000, 3)
        send(ns, TX, 64)
        second = sample()
    assert counted(second) == {"XDP_DROP": (3, 3000), "XDP_PASS": (7, 420), "XDP_TX": (1, 64)}
    dropped = second.verdicts[DROP]
    assert dropped.pps == pytest.approx(3 / second.interval_s, rel=1e-3)
    assert dropped.mbit_s == pytest.approx(3000 * 8 / 1e6 / second.interval_s, rel=1e-2)
    assert (second.program, second.mode, second.map) == ("counts", "native", "anything")
    assert (second.packets_field, second.bytes_field) == ("rx_packets", "rx_bytes")
    assert abs(second.when - time.time()) < 5


def test_a_swap_that_replaces_the_map_begins_anew_and_no_rate_is_negative(ns, file):
    with attached(ns, file) as link, reading(ns) as sample:
        send(ns, PASS, 60, 9)
        before = sample()
        with loaded(file) as fresh:
            link.update(fresh)
        swapped = sample()
        assert swapped.program_id != before.program_id
        assert swapped.map_id != before.map_id
        assert (swapped.interval_s, counted(swapped), {one.pps for one in swapped.verdicts}) == (None, {}, {None})
        send(ns, PASS, 60, 2)
        after = sample()
        assert counted(after) == {"XDP_PASS": (2, 120)}
        assert after.verdicts[PASS].pps > 0


def test_a_swap_that_keeps_the_map_goes_on(ns, file):
    with BpfObject.open(file) as first:
        first.load()
        with attached(ns, file) as link, first.program("counts") as one, BpfObject.open(file) as second:
            link.update(one)
            with reading(ns) as sample, first.map("anything") as kept:
                before = sample()
                second.reuse("anything", kept)
                second.load()
                link.update(second.program("counts"))
                send(ns, PASS, 60, 4)
                after = sample()
    assert (after.map_id, after.interval_s is not None) == (before.map_id, True)
    assert after.program_id != before.program_id
    assert counted(after) == {"XDP_PASS": (4, 240)}


def test_counters_that_somebody_clears_begin_anew(ns, file):
    with BpfObject.open(file) as opened:
        opened.load()
        with attached(ns, file) as link, opened.program("counts") as program, opened.map("anything") as counters:
            link.update(program)
            with reading(ns) as sample:
                send(ns, PASS, 60, 5)
                sample()
                counters.set(PASS, (0, 0))
                cleared = sample()
    assert (cleared.interval_s, cleared.verdicts[PASS].pps, cleared.verdicts[PASS].packets) == (None, None, 0)


def test_a_program_without_counters_has_its_runs_counted_for_as_long_as_somebody_looks(ns, file):
    with attached(ns, file, "does_not") as link:
        send(ns, PASS, 60, 5)  # nobody looks
        with reading(ns) as sample:
            first = sample()
            send(ns, PASS, 60, 6)
            second = sample()
        assert (first.runs.runs, second.runs.runs) == (0, 6)
        assert first.runs.per_s is None
        assert second.runs.per_s == pytest.approx(6 / second.interval_s, rel=1e-3)
        assert second.runs.ns > 0
        assert (second.map, second.verdicts, second.note) == (None, (), stats.NO_COUNTERS)
        send(ns, PASS, 60, 5)
        with Program.from_id(link.program_id) as program:
            assert program.info().run_count == 6


def test_of_hoplines_own_pipeline_it_says_where_its_verdicts_are(ns, file):
    instance = unique_tag()
    place = bpffs.instance_dir(instance)
    with attached(ns, file, "does_not") as link, reading(ns) as sample:
        link.pin(place / f"link_{link.ifindex}")  # as the daemon has it
        try:
            first = sample()
        finally:
            link.unpin()
            place.rmdir()
    assert first.note == f"{stats.OURS} `hopline status --instance {instance}`"
    assert first.runs is not None


def test_a_device_without_a_program_is_told_and_one_that_loses_it_is_waited_with(ns, file):
    with pytest.raises(NotFound, match="stats of v0: no xdp program is attached: `hopline program load v0 FILE`"):
        netns.run_in(ns, stats.Stats, "v0")
    with pytest.raises(NotFound, match="interface gone"):
        netns.run_in(ns, stats.Stats, "gone")
    with contextlib.ExitStack() as stack:
        with attached(ns, file):
            sample = stack.enter_context(reading(ns))
            send(ns, PASS, 60, 3)
            assert counted(sample()) == {"XDP_PASS": (3, 180)}
        nothing = sample()
        assert (nothing.program, nothing.verdicts, nothing.runs) == (None, (), None)
        assert "no xdp program" in nothing.note
        with attached(ns, file):
            again = sample()
            assert (again.program, again.interval_s, counted(again)) == ("counts", None, {})


def test_a_device_that_vanishes_ends_it(ns, file):
    with attached(ns, file), reading(ns) as sample:
        sample()
        shell(ns, "ip link delete v0")
        with pytest.raises(NotFound, match="stats of v0: the device is gone"):
            sample()


# which map counts by action: its declaration, and the fields that are taken for packets and bytes, or None
U64, PAIR = "__u64", "struct { __u64 packets, bytes; }"
SHAPES = {
    "packets and bytes": (f"PERCPU_ARRAY, 5, __u32, {PAIR}", ("packets", "bytes")),
    "bytes first": ("PERCPU_ARRAY, 5, __u32, struct { __u64 total_bytes; __u64 seen; }", ("seen", "total_bytes")),
    "packets alone": (f"PERCPU_ARRAY, 5, __u32, {U64}", ("", None)),
    "one array for all cpus": (f"ARRAY, 5, __u32, {PAIR}", ("packets", "bytes")),
    "five numbers that may be anything": (f"ARRAY, 5, __u32, {U64}", None),
    "five pairs that may be anything": ("ARRAY, 5, __u32, struct { __u64 low, high; }", None),
    "other keys": (f"PERCPU_ARRAY, 9, __u32, {PAIR}", None),
    "a hash": (f"PERCPU_HASH, 5, __u32, {PAIR}", None),
    "room for more actions": (f"PERCPU_ARRAY, 8, __u32, {PAIR}", ("packets", "bytes")),
    "eight numbers that may be anything": (f"PERCPU_ARRAY, 8, __u32, {U64}", None),
    "keys that are actions": (f"ARRAY, 16, enum xdp_action, {U64}", ("", None)),
    "u32": ("PERCPU_ARRAY, 5, __u32, struct { __u32 packets; __u32 bytes; }", ("packets", "bytes")),
    "padding": (
        f"PERCPU_ARRAY, 6, __u32, struct {{ {U64} rx_packets, pad[6], rx_bytes; }}",
        ("rx_packets", "rx_bytes"),
    ),
    "nothing told": (f"PERCPU_ARRAY, 5, __u32, struct {{ {U64} low, middle, high; }}", None),
}
SHAPED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define MAP(kind, entries, index, ...) \\
struct { __uint(type, BPF_MAP_TYPE_##kind); __uint(max_entries, entries); __type(key, index); \\
__type(value, __typeof__(__VA_ARGS__)); }
MAP(%s) first SEC(".maps");
MAP(%s) second SEC(".maps");
SEC("xdp") int counts(struct xdp_md *ctx)
{
    enum xdp_action key = XDP_PASS;
    return bpf_map_lookup_elem(&first, &key) || bpf_map_lookup_elem(&second, &key) ? XDP_DROP : XDP_PASS;
}
char _license[] SEC("license") = "GPL";
"""


@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_that_counts_by_action_is_found_by_its_types(tmp_path, shape):
    declared, fields = SHAPES[shape]
    with loaded(compile_bpf(tmp_path, SHAPED % (f"HASH, 5, __u32, {PAIR}", declared))) as program:
        found = stats.find_counters(program.id)
        assert (found and (found.map.name, found.packets, found.bytes)) == (fields and ("second", *fields))


def test_of_two_that_count_the_one_with_bytes_is_taken(tmp_path):
    for order in ((U64, PAIR), (PAIR, U64)):
        text = SHAPED % tuple(f"PERCPU_ARRAY, 5, __u32, {value}" for value in order)
        with loaded(compile_bpf(tmp_path, text)) as program:
            assert stats.find_counters(program.id).map.name == ("first", "second")[order.index(PAIR)]


def test_one_whose_key_is_an_action_is_taken_before_another(tmp_path):
    text = SHAPED % (f"PERCPU_ARRAY, 5, __u32, {PAIR}", f"PERCPU_ARRAY, 8, enum xdp_action, {U64}")
    with loaded(compile_bpf(tmp_path, text)) as program:
        assert stats.find_counters(program.id).map.name == "second"


def test_counters_by_an_action_beyond_the_last_are_left_out_and_names_are_whole(ns, tmp_path):
    text = SOURCE.replace("max_entries, 5", "max_entries, 6").replace("key, __u32", "key, enum xdp_action")
    text = text.replace("anything", "counted_by_xdp_action").replace("counts", "counts_what_it_decides")
    name = "counts_what_it_decides"
    with attached(ns, compile_bpf(tmp_path, text), name), reading(ns) as sample:
        send(ns, DROP, 60, 3)
        send(ns, 5, 60, 2)
        found = sample()
    assert (found.program, found.map, counted(found)) == (name, "counted_by_xdp_action", {"XDP_DROP": (3, 180)})


@pytest.mark.rootless
@pytest.mark.parametrize(
    ("names", "packets", "in_bytes"),
    [
        ("latency_ns packets bytes", "packets", "bytes"),
        ("octets frames", "frames", "octets"),
        ("pkts len", "pkts", "len"),
        ("drop_packets packet_bytes rx_packets", "rx_packets", "packet_bytes"),
        ("errors byte_count count", "count", "byte_count"),
        ("n errors ByteCount", None, "ByteCount"),
        ("latency_ns total_len", None, "total_len"),
        ("first other", "first", None),
        ("one two three", None, None),
    ],
)
def test_fields_are_taken_by_their_names(names, packets, in_bytes):
    value = np.dtype([(name, "u8") for name in names.split()])
    assert stats.fields_of(value)[:2] == (packets, in_bytes)
    narrow = np.dtype([(name, "u4") for name in names.split()])
    # of u32 the names alone tell
    assert stats.fields_of(narrow)[0] == (None if packets == "first" else packets)


# the command itself


def command(ns, *arguments) -> list[str]:
    # where the suite runs in the background, the interrupt is ignored, and a child inherits that
    return enter(ns, ["env", "--default-signal=INT", hopline_command(), "program", "stats", "v0", *arguments])


def test_the_command_prints_a_line_of_json_a_reading_and_ends_well_with_ctrl_c(ns, file):
    with attached(ns, file):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command(ns, "--interval", "0.1"), **pipes) as process:
            lines = [json.loads(process.stdout.readline()) for _ in range(2)]
            send(ns, DROP, 100, 8)
            while not (last := json.loads(process.stdout.readline()))["verdicts"][DROP]["packets"]:
                lines.append(last)
            process.send_signal(signal.SIGINT)
            assert (process.wait(10), process.stderr.read()) == (0, "")
    assert all(0.099 <= line["interval_s"] < 5 for line in lines)
    dropped = last["verdicts"][DROP]
    assert (dropped["verdict"], dropped["packets"], dropped["bytes"]) == ("XDP_DROP", 8, 800)
    assert dropped["pps"] > 8


def test_it_ends_well_where_nobody_reads_on_and_where_nobody_ever_did(ns, file):
    with attached(ns, file):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command(ns, "--interval", "0.1"), **pipes) as process:
            assert json.loads(process.stdout.readline())["program"] == "counts"
            process.stdout.close()
            assert (process.wait(10), process.stderr.read()) == (0, "")
        closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command(ns, "--once", "--interval", "0.1")]
        done = subprocess.run(closed, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_on_a_terminal_it_is_a_table(ns, file):
    with attached(ns, file):
        send(ns, DROP, 100, 8)
        shown = on_a_terminal(command(ns, "--once", "--interval", "0.1"))
    lines = shown.splitlines()
    assert lines[0].startswith("v0: counts (id ")
    assert lines[1].split() == ["VERDICT", "PACKETS", "PPS", "BYTES", "MBIT/S"]
    assert ["XDP_DROP", "8", "0", "800", "0.000"] in [line.split() for line in lines]


def on_a_terminal(argv) -> str:
    """What a command that exits with 0 writes to a terminal."""
    ours, its = pty.openpty()
    with subprocess.Popen(argv, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        written = b""
        with contextlib.suppress(OSError):  # the kernel's way to say that the other end has gone
            while read := os.read(ours, 4096):
                written += read
    os.close(ours)
    assert process.returncode == 0, written
    return written.decode()


def test_what_cannot_be_counted_is_one_line_and_exit_1(ns):
    done = subprocess.run(command(ns, "--once"), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    done = subprocess.run(command(ns, "--interval", "0.05"), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
