"""hopline program log: every text that a program prints, with the programs that it can be of."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clang import compile_bpf
from hopline.cli.program.stream import shown
from hopline.host.program.log import Format, Log, Lost, Places, split
from hopline.kernel import BpfObject
from hopline.kernel.tracefs import TracePipe
from hopline.lab.shell import hopline_command
from lab.netlink_room import needs_root

# every conversion, with arguments that the kernel prints in its own way
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define LENGTH (int)(ctx->data_end - ctx->data)
static const unsigned char octets[16] = {0xfd, 1, 2, 3};
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
numbers SEC(".maps");

SEC("xdp") int lengths(struct xdp_md *ctx) { bpf_printk("TAG length %d", LENGTH); return XDP_PASS; }
SEC("xdp") int sizes(struct xdp_md *ctx) { bpf_printk("TAG size %5u|\\n", LENGTH); return XDP_PASS; }
SEC("xdp") int numbered(struct xdp_md *ctx)
{ bpf_printk("TAG %i %lu %-6lld|%08x %X", -LENGTH, 1ul << 40, -1ll, LENGTH, 0xABC); return XDP_PASS; }
SEC("xdp") int pointed(struct xdp_md *ctx)
{
    __u32 key = 0;
    void *value = bpf_map_lookup_elem(&numbers, &key);
    bpf_printk("TAG %p %px %pB %ps 100%%", value, value, value, value);
    return XDP_PASS;
}
SEC("xdp") int addressed(struct xdp_md *ctx)
{ bpf_printk("TAG %pI4 %pi4 %pI6 %s %c", octets, octets, octets, "word", 'x'); return XDP_PASS; }
SEC("xdp") int lines(struct xdp_md *ctx) { bpf_printk("TAG first\\nsecond %d\\n", LENGTH); return XDP_PASS; }
SEC("xdp") int anything(struct xdp_md *ctx) { bpf_printk("%s", "TAG length 7 or so"); return XDP_PASS; }
SEC("xdp") int also_prints_lengths(struct xdp_md *ctx) { bpf_printk("TAG length %u", 1 + LENGTH); return XDP_PASS; }
char _license[] SEC("license") = "GPL";
"""
ALL = ("lengths", "sizes", "numbered", "pointed", "addressed", "lines")
# other tests of this host print too
TAG = f"tag{os.getpid()}"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return compile_bpf(tmp_path_factory.mktemp("log"), SOURCE.replace("TAG", TAG))


@contextlib.contextmanager
def loaded(file, *names):
    """A function that gives a loaded program by name."""
    with BpfObject.open(file) as opened, contextlib.ExitStack() as stack:
        opened.only(*names)
        opened.load()
        programs = {name: stack.enter_context(opened.program(name)) for name in names}
        yield programs.__getitem__


def read(log, count=1) -> list:
    """The next texts of this test's programs."""
    found, deadline = [], time.monotonic() + 5
    while len(found) < count and time.monotonic() < deadline:
        found += [entry for entry in log.read() if isinstance(entry, Lost) or TAG in entry.text]
    assert len(found) == count
    return found


def names(entry) -> set[str]:
    return {printer.name for printer in entry.programs}


@needs_root
@pytest.mark.parametrize("name", ALL)
def test_each_conversion_is_known_again_in_what_the_kernel_made_of_it(file, name):
    with loaded(file, *ALL) as program, Log() as log:
        program(name).test_run(bytes(64))
        (entry,) = read(log)
        assert [(one.name, one.id) for one in entry.programs] == [(name, program(name).id)]


@needs_root
def test_text_time_task_and_cpu_are_told(file):
    with loaded(file, "lengths") as program, Log() as log:
        before = time.time()
        program("lengths").test_run(bytes(77))
        after = time.time()
        (entry,) = read(log)
    assert entry.text == f"{TAG} length 77"
    assert before - 0.001 <= entry.when <= after + 0.001
    assert (entry.task, entry.pid) == (Path("/proc/thread-self/comm").read_text().strip(), os.getpid())
    assert 0 <= entry.cpu < os.cpu_count()


@needs_root
def test_a_text_of_several_lines_stays_one_and_the_end_of_a_line_is_not_of_it(file):
    with loaded(file, "lines", "sizes") as program, Log() as log:
        program("lines").test_run(bytes(60))
        program("sizes").test_run(bytes(60))
        texts = [entry.text for entry in read(log, 2)]
    assert texts == [f"{TAG} first\nsecond 60", f"{TAG} size    60|"]


@needs_root
def test_every_program_that_may_have_printed_it_is_named_and_one_that_cannot_is_not(file):
    with loaded(file, "lengths", "also_prints_lengths", "anything", "sizes") as program, Log() as log:
        program("lengths").test_run(bytes(60))
        program("anything").test_run(bytes(60))
        first, second = read(log, 2)
    assert names(first) == {"lengths", "also_prints_lengths", "anything"}
    assert names(second) == {"anything"}


@needs_root
def test_programs_that_come_and_go_while_it_reads_are_known(file):
    with Log() as log:
        with loaded(file, "lengths") as program:
            program("lengths").test_run(bytes(60))
            first, first_id = read(log)[0], program("lengths").id
            program("lengths").test_run(bytes(60))
        # what was printed is read when its program has gone
        assert [one.id for one in read(log)[0].programs] == [first_id]
        with loaded(file, "lengths") as program:
            program("lengths").test_run(bytes(60))
            (later,) = read(log)
            later_id = program("lengths").id
    assert [one.id for one in first.programs] == [first_id]
    assert [one.id for one in later.programs] == [later_id]


@needs_root
def test_what_is_read_late_is_still_known(file):
    with Log() as log:
        with loaded(file, "lengths") as program:
            log.read(0)
            program("lengths").test_run(bytes(60), repeat=500)
        found = read(log, 500)
    assert {tuple(names(entry)) for entry in found} == {("lengths",)}


@needs_root
def test_a_text_that_no_loaded_program_prints_has_its_task(file):
    with Log() as log:
        with loaded(file, "lengths") as program:
            log.printers.refresh = lambda keep_gone: None  # it came and went between two looks
            program("lengths").test_run(bytes(60))
        (entry,) = read(log)
    assert (entry.programs, entry.pid) == ((), os.getpid())


@needs_root
def test_others_who_read_what_is_printed_lose_nothing_and_take_nothing(file):
    with loaded(file, "lengths") as program, Log() as one, Log() as other:
        usual = os.open(one.pipe.root / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        program("lengths").test_run(bytes(61))
        seen = b""
        with contextlib.suppress(BlockingIOError):  # it has all that was printed since somebody read it last
            while read_now := os.read(usual, 1 << 16):
                seen += read_now
        os.close(usual)
        assert f"{TAG} length 61".encode() in seen
        texts = [entry.text for log in (one, other) for entry in read(log)]
    assert texts == [f"{TAG} length 61"] * 2


@needs_root
def test_what_was_lost_is_counted(file):
    with loaded(file, "lengths") as program, Log() as log:
        (log.pipe.place / "buffer_size_kb").write_text("4")
        program("lengths").test_run(bytes(60), repeat=2000)
        found, deadline = [], time.monotonic() + 5
        while sum(entry.lost if isinstance(entry, Lost) else 1 for entry in found) < 2000:
            assert time.monotonic() < deadline
            found += log.read()
    assert any(isinstance(entry, Lost) for entry in found)


@needs_root
def test_nothing_is_left_of_it_not_even_of_one_that_was_killed():
    with TracePipe() as pipe:
        instances = pipe.place.parent
        code = "from hopline.kernel.tracefs import TracePipe as T; t = T(); print(t.place.name, flush=True); input()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        child = subprocess.Popen([sys.executable, "-c", code], **pipes)
        left = child.stdout.readline().strip()
        child.kill()
        child.communicate()
        assert (instances / left).is_dir()
        with TracePipe() as later:
            ours = {pipe.place.name, later.place.name}
            there = {place.name for place in instances.iterdir()}
            assert left not in there
            assert ours <= there
    with TracePipe() as fresh:
        assert not ours & {place.name for place in fresh.place.parent.iterdir()}


@needs_root
def test_the_command_prints_lines_and_ends_well_with_ctrl_c_and_sigterm(file):
    with loaded(file, "lengths", "also_prints_lengths") as program:
        for options, number in (([], signal.SIGINT), (["--json"], signal.SIGTERM)):
            # where the suite runs in the background, the interrupt is ignored, and a child inherits that
            argv = ["env", "--default-signal=INT", hopline_command(), "program", "log", *options]
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                line = printed_meanwhile(process, program("lengths"))
                process.send_signal(number)
                assert (process.wait(10), process.stderr.read()) == (0, "")
            ids = [program(name).id for name in ("lengths", "also_prints_lengths")]
            if options:
                assert [one["id"] for one in json.loads(line)["programs"]] == ids
            else:
                who = f"lengths (id {ids[0]}) or also_prints_lengths (id {ids[1]})"
                assert line.partition("  ")[2] == f"{who}  {TAG} length 60\n"


def printed_meanwhile(process, program) -> str:
    """The first line of a reader, which takes a while to begin, while a program prints."""
    os.set_blocking(process.stdout.fileno(), False)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        program.test_run(bytes(60))
        time.sleep(0.05)
        for line in iter(process.stdout.readline, ""):
            if TAG in line:
                return line
    pytest.fail("nothing was printed")


# what needs no kernel


@pytest.mark.rootless
@pytest.mark.parametrize(
    ("text", "fits", "fits_not"),
    [
        (b"plain", ["plain"], ["plainer", "a plain", ""]),
        (b"line\n", ["line"], ["line\n!"]),
        (b"a.c (*)", ["a.c (*)"], ["abc (*)"]),
        (b"n=%d;", ["n=1;", "n=-20;"], ["n=;", "n=1", "n=x;"]),
        (b"[%-5u|%08x]", ["[12   |000000ff]", "[7|DEADBEEF0]"], ["[12   |xyz]", "[|0]"]),
        (b"%s: %llu%%", [": 1%", "a b: 18446744073709551615%"], ["a: 1", "a: -%"]),
        (b"%pI4>%pI6", ["10.0.0.1>fd00::1", "010.000.000.001>::"], ["10.0.0>fd00::1", "10.0.0.1>g::"]),
        (b"%c%c", ["ab", "\n!"], ["a", "abc", ""]),
        (b"%d%d ab%sb", ["12 abb", "1-2 ab ab", "10 20 abbab"], ["1 abb", "12 ab", "12 aab"]),
        (b"%s=%s;%pI4", ["a=b;1.2.3.4", "=;;=;10.0.0.1"], ["a=b1.2.3.4", "=;1.2.3", "a;b=1.2.3.4"]),
        (b"50%", ["50%"], ["50"]),
        (b"%s", ["", "whatever\nelse"], []),
    ],
)
def test_what_a_format_can_print_and_what_it_cannot(text, fits, fits_not):
    made = Format(text)
    assert [one for one in fits if not made.fits(Places(one))] == []
    assert [one for one in fits_not if made.fits(Places(one))] == []


@pytest.mark.rootless
@pytest.mark.parametrize(
    ("text", "fits", "fits_not"),
    [
        (b"%x%x%x%x%x%x%x%x", "0123456789abcdef" * 4, "0123456789abcdef" * 4 + "g"),
        (b"%d%d%d%d%d%d!", "7" * 60 + "!", "7" * 60),
        (b"%s %s %s %s end", "a " * 250 + "end", "a " * 250),
        (b"%s %s %d %s %s %x %s %s %s %s %s %s.", "1 " * 511 + ".", "1 " * 512),
    ],
)
def test_no_text_of_another_program_takes_long_whatever_a_format_says(text, fits, fits_not):
    began = time.monotonic()
    assert Format(text).fits(Places(fits))
    assert not Format(text).fits(Places(fits_not))
    assert time.monotonic() - began < 0.2  # two texts


@pytest.mark.rootless
def test_events_are_told_apart_whatever_tasks_are_called():
    text = (
        "          <idle>-0       [001] ..s2.    12.345678: bpf_trace_printk: one\n"
        "CPU:3 [LOST 17 EVENTS]\n"
        " Web-Server 1-2-4711    (   4711) [003] b.s3.    13.000001: bpf_trace_printk: two\nlines: a-1 [0] x\n\n"
    )
    (one, first), (lost, _), (two, second) = split(text)
    assert (one["task"], one["pid"], one["cpu"], one["at"], first) == ("<idle>", "0", "001", "12.345678", "one")
    assert (lost["on"], lost["lost"]) == ("3", "17")
    assert (two["task"], two["pid"], two["cpu"], second) == ("Web-Server 1-2", "4711", "003", "two\nlines: a-1 [0] x")


@pytest.mark.rootless
def test_a_text_cannot_act_on_the_terminal():
    assert shown("é \x1b[2J\n\u202e") == "é \\x1b[2J\\n\\u202e"
