"""What is asked of `hopline program` and cannot be: one line, the right exit code, and nothing is there that was not.

One namespace for all: `left` bare, `right` with a program that is pinned, `br0` whose driver has no XDP, and a route
with a program. After each refusal it is as it was: attached, routed, pinned, on record and in the kernel.
"""

import subprocess

import pytest

from clang import compile_bpf
from hopline.cli import main as cli
from hopline.host.program import load, routes
from hopline.kernel import netns
from lab.leftovers import everything
from lab.loading import left_of
from lab.netlink_room import needs_root, room
from lab.traffic import wait_for

pytestmark = needs_root

# names that no other test's programs and maps have
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
typedef unsigned char mac_t[6];
struct totals { __u64 packets; __s16 change; enum xdp_action last; };
const volatile __u32 action = XDP_PASS;
const volatile __u8 small = 3;
const volatile mac_t next_hop = {};
const volatile enum xdp_action otherwise = XDP_PASS;
const __u32 fixed = 2;
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 5); __type(key, __u32);
         __type(value, __u64); } bi_verdicts SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 2); __type(key, __u16);
         __type(value, struct totals); } bi_ports SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } bi_ring SEC(".maps");

static __always_inline int count(__u32 verdict, __u16 port)
{
    __u64 *found = bpf_map_lookup_elem(&bi_verdicts, &verdict);

    if (found && bpf_map_lookup_elem(&bi_ports, &port))
        bpf_ringbuf_output(&bi_ring, (void *)&next_hop, 6, 0);
    return verdict;
}

SEC("xdp") int bi_counts(struct xdp_md *ctx) { return count(small ? action : otherwise, small); }
SEC("xdp_old") int bi_pass(struct xdp_md *ctx) { return fixed; }
SEC("xdp") int bi_refused(struct xdp_md *ctx) { return *(int *)(long)ctx->data; }
SEC("lwt_xmit/capture") int bi_see(struct __sk_buff *skb) { return 0; }
char _license[] SEC("license") = "GPL";
"""
LEGACY = """
#include <linux/bpf.h>
struct bpf_map_def { unsigned int type, key_size, value_size, max_entries, map_flags; };
struct bpf_map_def __attribute__((section("maps"), used)) seen = { BPF_MAP_TYPE_HASH, 4, 8, 77, 0 };
__attribute__((section("xdp"), used)) int bi_pass(struct xdp_md *ctx) { return 2; }
"""
SETUP = """
sysctl -qw net.ipv6.conf.default.addr_gen_mode=1
ip link set lo up
ip link add left type veth peer name right
ip link set left up; ip link set right up
ip address add 10.77.0.1/24 dev left
ip link add br0 type bridge; ip link set br0 up
ip route add unreachable 10.78.0.0/16
"""
ROUTE = "10.79.0.0/16"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """What is loaded, by the word that the tables below have for it."""
    place = tmp_path_factory.mktemp("bad")
    good = compile_bpf(place, SOURCE, "good")
    octets = good.read_bytes()
    made = {
        "empty": b"",
        "text": b'SEC("xdp")\n',
        "cut20": octets[:20],
        "cut64": octets[:64],
        "half": octets[: len(octets) // 2],
        "almost": octets[:-1],
        "machine": octets[:18] + (62).to_bytes(2, "little") + octets[20:],
        "sections": octets[:40] + b"\xff" * 8 + octets[48:],
        "zeros": bytes(4096),
    }
    for name, content in made.items():
        (place / f"{name}.o").write_bytes(content)
    compile_bpf(place, LEGACY, "legacy")
    compile_bpf(place, "int bi_nothing = 3;", "nothing")
    compile_bpf(place, SOURCE.replace("max_entries, 5", "max_entries, 6"), "shape")
    bare = ["llvm-objcopy", "--remove-section=.BTF", "--remove-section=.BTF.ext", str(good), f"{place}/nobtf.bpf.o"]
    subprocess.run(bare, check=True)
    found = {path.name.partition(".")[0]: str(path) for path in place.iterdir() if path.suffix == ".o"}
    return found | {"gone": f"{place}/gone.o", "directory": str(place), "source": f"{place}/good.bpf.c"}


@pytest.fixture(scope="module")
def ns(files):
    with room(SETUP) as name:
        netns.run_in(name, load.load, "right", files["good"], program="bi_counts", pin=True)
        asked = routes.request(ROUTE, "xmit", dev="left")
        netns.run_in(name, routes.load, files["good"], asked, program="bi_see")
        yield name
        netns.run_in(name, load.clear)
        assert left_of(name) == []


@pytest.fixture(scope="module")
def before(ns):
    return everything(ns, "bi_")


@pytest.fixture
def unchanged(ns, before):
    """Whatever a test does, all is as it was."""
    yield
    # the kernel frees what nobody uses a moment later
    assert wait_for(lambda: everything(ns, "bi_") == before, 2) or everything(ns, "bi_") == before


def said(ns, capsys, words) -> tuple[int, str]:
    """Exit code and the one line of a command that fails."""
    with netns.inside(ns):
        code = cli.main(["program", *words])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hopline: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert len(err) < 600, "a line that a person reads"
    assert "fault of hopline's own" not in err
    assert err[:-1].isprintable(), "nothing that acts on a terminal"
    return code, err.removeprefix("hopline: ").rstrip("\n")


def check(ns, files, capsys, words, code, text) -> None:
    found, line = said(ns, capsys, [word.format(**files) for word in words])
    assert text.format(**files) in line
    assert found == code


BTF = "no btf in it, which says what its maps and variables are"
FILES = [
    ("gone", "open {gone}: no such file or directory (errno 2): name another file"),
    ("directory", "is a directory (errno 21): name another file"),
    ("source", "no bpf object: not a 64-bit elf file: build it first: `hopline program build {source}`"),
    ("empty", "no bpf object: not a 64-bit elf file"),
    ("text", "no bpf object: not a 64-bit elf file"),
    ("zeros", "no bpf object: not a 64-bit elf file"),
    ("cut20", "no bpf object: "),
    ("cut64", "no bpf object: damaged elf file"),
    ("half", "no bpf object: damaged elf file"),
    ("almost", "no bpf object: damaged elf file"),
    ("sections", "no bpf object: damaged elf file"),
    ("machine", "no bpf object: it is for another machine: compile it with clang -target bpf"),
    ("nobtf", f"{BTF}: compile it with clang -g"),
    ("legacy", 'maps of SEC("maps") (seen), which libbpf takes no more since 1.0: write it as `struct {{ '),
    ("nothing", 'no program is in it: give a function a section, as SEC("xdp")'),
]


@pytest.mark.parametrize(("file", "text"), FILES, ids=[name for name, _ in FILES])
def test_a_file_that_is_none(ns, files, capsys, unchanged, file, text):
    check(ns, files, capsys, ["load", "left", files[file], "--pin"], 1, text)
    check(ns, files, capsys, ["load", "--route", "10.80.0.0/16", "--hook", "in", "--dev", "left", files[file]], 1, text)
    if file != "directory":
        check(ns, files, capsys, ["inspect", files[file]], 1, text)


ONE = ("{good}", "--program", "bi_counts")
ANOTHER = ("{good}", "--program", "bi_pass")
HAS = "it has bi_counts, bi_refused, bi_pass, bi_see"
LOADS = [
    # what is in the file
    (("left", "{good}"), 1, "4 programs are in it: name one by --program: bi_counts (xdp), bi_refused (xdp), "),
    (("left", "{good}", "--program", "gone"), 1, f"no program gone: {HAS}"),
    (("left", "{good}", "--section", "tc"), 1, "no section tc: it has xdp, xdp_old, lwt_xmit/capture"),
    (("left", "{good}", "--section", "xdp"), 1, "2 programs are in it: name one by --program: bi_counts (xdp), bi_r"),
    (("left", "{good}", "--program", "bi_see", "--section", "xdp"), 1, "no program bi_see in section xdp: it has bi_c"),
    (("left", "{good}", "--program", "bi_refused"), 1, "offset is outside of the packet"),
    # where it goes
    (("gone0", *ONE), 1, "interface gone0: no such device here: see ip link"),
    (("", *ONE), 2, "an empty word is no device and no file"),
    (("../left", *ONE), 1, "no such device"),
    (("left\n", *ONE), 1, "no such device"),
    (("x" * 300, *ONE), 1, "no such device"),
    (("br0", *ONE, "--mode", "native"), 1, "br0: operation not supported (errno 95): the driver has no native xdp"),
    (("left", *ONE, "--mode", "offload"), 1, "load on left: the device cannot run programs itself: use --mode"),
    (("right", *ONE), 1, ", bi_counts) is attached: unload it or use --replace"),
    (("right", *ONE, "--for", "5"), 1, ", bi_counts) is attached: unload it or use --replace"),
    (("right", *ONE, "--for", "5", "--replace"), 1, "could not give it back: unload it first"),
    (("right", "{shape}", "--program", "bi_counts", "--replace", "--reuse-maps"), 1, "is 5, the object's is 6"),
    (("right", *ANOTHER, "--replace", "--set", "gone=1"), 1, "set gone: no such variable"),
    # its variables
    (("left", *ONE, "--set", "gone=1"), 1, "set gone: no such variable in"),
    (("left", *ONE, "--set", "action"), 1, "set: 'action' sets nothing: write NAME=VALUE"),
    (("left", *ONE, "--set", "=1"), 1, "set: '=1' sets nothing: write NAME=VALUE"),
    (("left", *ONE, "--set", ""), 1, "sets nothing: write NAME=VALUE"),
    (("left", *ONE, "--set", "small=256"), 1, "set small: 256 is out of range: give 0 to 255"),
    (("left", *ONE, "--set", "small=-1"), 1, "set small: -1 is out of range: give 0 to 255"),
    (("left", *ONE, "--set", "small="), 1, "set small: '' is not a whole number"),
    (("left", *ONE, "--set", "small=0x"), 1, "is not a whole number"),
    (("left", *ONE, "--set", "small=٣"), 1, "set small: "),
    (("left", *ONE, "--set", f"small={'9' * 5000}"), 1, "set small: "),
    (("left", *ONE, "--set", "next_hop=02:00:00:00:00"), 1, "set next_hop: "),
    (("left", *ONE, "--set", "otherwise=XDP_NONE"), 1, "is no member of its enum: write one of XDP_ABORTED, XDP_DROP"),
    (("left", *ONE, "--set", "fixed=1"), 1, "const volatile"),
    (("left", *ONE, "--set", "action=1", "--set", "action=\x1b[2J"), 1, "set action: "),
    # how
    (("left", *ONE, "--pin", "--for", "5"), 1, "a pinned program would outlive its time"),
    (("left", *ONE, "--for", "0"), 2, "'0' is not a span of time"),
    (("left", *ONE, "--for", "-5"), 2, "'-5' is not a span of time"),
    (("left", *ONE, "--for", "soon"), 2, "'soon' is not a span of time: write 60s, 5m or 1h"),
    (("left", *ONE, "--mode", "driver"), 2, "'driver' is not one of"),
    (("left", *ONE, "--hook", "in"), 2, "--hook is for routes: give --route too"),
    (("left", *ONE, "more"), 2, "give a device and a file, or --route and a file"),
    ((*ONE,), 2, "give a device and a file, or --route and a file"),
    ((), 2, "missing argument"),
]  # fmt: skip
XMIT = ("--hook", "xmit")
SEEN = ("{good}", "--program", "bi_see")
ROUTES = [
    (("nonsense", *XMIT, *SEEN), 1, "route: nonsense is not an IP address"),
    (("", *XMIT, *SEEN), 2, "--route is empty"),
    (("10.0.0.0/33", *XMIT, *SEEN), 1, "route: /33 is not a prefix length: give a number from 0 to 32"),
    (("::/129", *XMIT, *SEEN), 1, "route: /129 is not a prefix length"),
    (("10.0.0.1/24", *XMIT, *SEEN), 1, "route: 10.0.0.1/24 has host bits set: write 10.0.0.0/24"),
    (("127.0.0.0/8", *XMIT, *SEEN), 1, "route: 127.0.0.0/8 is loopback"),
    (("10.80.0.0/16", *XMIT, *SEEN), 1, "there is no such route: give --dev, and --via where there is a next hop"),
    (("10.80.0.0/16", *XMIT, "--dev", "gone0", *SEEN), 1, "interface gone0: no such device here"),
    (("10.80.0.0/16", *XMIT, "--via", "1.2.3.4", *SEEN), 1, "network is unreachable"),
    (("10.80.0.0/16", *XMIT, "--via", "nowhere", *SEEN), 1, "via: nowhere is not an IP address"),
    (("10.80.0.0/16", *XMIT, "--dev", "left", "{good}", "--program", "gone"), 1, f"no program gone: {HAS}"),
    (("10.80.0.0/16", *XMIT, "--dev", "left", "{good}", "--program", "bi_refused"), 1, "invalid "),
    (("10.80.0.0/16", *XMIT, "--dev", "left", *SEEN, "--set", "small=256"), 1, "set small: 256 is out of range"),
    (("10.80.0.0/16", "--hook", "seg6local", "--dev", "left", *SEEN), 1, "is IPv4, and seg6local is of IPv6"),
    (("fd80::/64", "--hook", "seg6local", "--dev", "left", "--headroom", "8", *SEEN), 1, "headroom: "),
    (("10.78.0.0/16", *XMIT, *SEEN), 1, "load on route 10.78.0.0/16: "),
    ((ROUTE, *XMIT, *SEEN), 1, "is at its xmit hook: unload it or use --replace"),
    ((ROUTE, *XMIT, "--via", "10.77.0.9", *SEEN), 1, "it is there and leads to dev left"),
    ((ROUTE, "--hook", "sideways", *SEEN), 2, "'sideways' is not one of"),
    ((ROUTE, *SEEN), 2, "give --hook with --route: in, out, xmit or seg6local"),
    ((ROUTE, *XMIT, "--headroom", "0", *SEEN), 2, "0 is not in the range"),
    ((ROUTE, *XMIT, "--headroom", "100000", *SEEN), 2, "100000 is not in the range"),
    ((ROUTE, *XMIT, "--pin", *SEEN), 2, "--pin is for devices: leave it out"),
    ((ROUTE, *XMIT, "left", *SEEN), 2, "with --route give no device but a file alone"),
]
OTHERS = [
    (("unload", "left"), 1, "unload from left: no xdp program is attached: see `hopline program show`"),
    (("unload", "left", "--all"), 1, "no xdp program is attached"),
    (("unload", "gone0"), 1, "interface gone0: no such device"),
    (("unload", "right", "--program", "other"), 1, "unload from right: other is not there, but id "),
    (("unload", "right", "--id", "1"), 1, "unload from right: program id 1 is not there, but id "),
    (("unload", "right", "--id", "0"), 2, "0 is not in the range"),
    (("unload", "right", "--id", "4294967296"), 1, "is not there, but id "),
    (("unload", "right", "--all", "--id", "1"), 2, "--all means more than --program or --id: give one"),
    (("unload",), 2, "give a device or --route, one of them"),
    (("unload", "right", "--route", ROUTE), 2, "give a device or --route, one of them"),
    (("unload", "--route", "10.80.0.0/16"), 1, "unload from route 10.80.0.0/16: no program is on it"),
    (("unload", "--route", "nonsense"), 1, "route: nonsense is not an IP address"),
    (("unload", "--route", ROUTE, "--program", "other"), 1, "other is not on it, but program bi_see (id "),
    (("show", "gone0"), 1, "interface gone0: no such device"),
    (("stats", "left", "--once"), 1, "stats of left: no xdp program is attached: `hopline program load left FILE` att"),
    (("stats", "gone0", "--once"), 1, "interface gone0: no such device"),
    (("stats", "right", "--once", "--interval", "0"), 2, "'0' is not a span of time"),
    (("stats", "right", "--once", "--interval", "0.001"), 2, "is too short: give 0.1 s or more"),
    (("build", "{gone}"), 1, "not there: name a source in C"),
    (("build", "{good}"), 1, "its name does not end with .c, so the object's is not known: name it by -o"),
    (("build", "{source}", "-o", "{source}"), 1, "is the source itself: name another file"),
    (("build", "{source}", "-o", "{directory}/gone/x.o"), 1, "is no directory: name another by -o"),
    (("nonsense",), 2, "no such command 'nonsense'"),
    (("log", "more"), 2, "got unexpected extra argument"),
]
VERDICTS, PORTS = "right/bi_verdicts", "right/bi_ports"
MAPS = [
    (("get", "gone", "1"), 1, "map gone: there is none of this name"),
    (("get", "right/gone", "1"), 1, "map right/gone: no map of "),
    (("get", "left/bi_ports", "1"), 1, "map left/bi_ports: "),
    (("get", "4294967295", "1"), 1, "map 4294967295: there is no such id"),
    (("get", "/sys/fs/bpf/gone", "1"), 1, "map /sys/fs/bpf/gone: there is no such pin"),
    (("get", "{good}", "1"), 1, "map {good}: "),
    (("get", VERDICTS, "5"), 1, "key: 5 is out of range: give 0 to 4"),
    (("get", VERDICTS, "-1"), 1, "key: -1 is out of range"),
    (("get", VERDICTS, "one"), 1, "key: one is not a whole number"),
    (("get", VERDICTS, "1", "2"), 1, "2"),
    (("set", VERDICTS, "1", "18446744073709551616"), 1, "value: 18446744073709551616 is out of range"),
    (("set", VERDICTS, "1", "-1"), 1, "value: -1 is out of range: give 0 to 18446744073709551615"),
    (("set", VERDICTS, "1", "1.5"), 1, "value: 1.5 is not a whole number"),
    (("set", VERDICTS, "1"), 1, "value: none given"),
    (("set", VERDICTS, "1", "packets=1"), 1, "value"),
    (("del", VERDICTS, "1"), 1, "an array has all its entries always: set it to zero"),
    (("get", PORTS, "1"), 1, "no entry 1: `hopline program map dump` shows all"),
    (("del", PORTS, "1"), 1, "no entry 1"),
    (("get", PORTS, "65536"), 1, "key: 65536 is out of range: give 0 to 65535"),
    (("set", PORTS, "1", "7"), 1, "does not say which field"),
    (("set", PORTS, "1", "gone=7"), 1, "no field gone: it has packets, change, last"),
    (("set", PORTS, "1", "packets="), 1, "value packets: '' is not a whole number"),
    (("set", PORTS, "1", "change=40000"), 1, "value change: 40000 is out of range: give -32768 to 32767"),
    (("set", PORTS, "1", "last=XDP_NONE"), 1, "value last: XDP_NONE is no member of its enum"),
    (("set", PORTS, "1", "packets=1", "packets=2"), 1, "value packets: is given twice"),
    (("set", PORTS, "1", "packets[0]=1"), 1, "packets"),
    (("set", PORTS, "1", "packets=1\x1b[2J"), 1, "is not a whole number"),
    (("dump", "right/bi_ring"), 1, "bi_ring"),
    (("dump", "gone"), 1, "map gone: there is none of this name"),
]


@pytest.mark.parametrize(("words", "code", "text"), LOADS)
def test_a_load_on_a_device(ns, files, capsys, unchanged, words, code, text):
    check(ns, files, capsys, ("load", *words), code, text)


@pytest.mark.parametrize(("words", "code", "text"), ROUTES)
def test_a_load_on_a_route(ns, files, capsys, unchanged, words, code, text):
    check(ns, files, capsys, ("load", "--route", *words), code, text)


def test_everything_else(ns, files, capsys, unchanged):
    for words, code, text in OTHERS:
        check(ns, files, capsys, words, code, text)


def test_maps(ns, files, capsys, unchanged):
    for words, code, text in MAPS:
        check(ns, files, capsys, ("map", *words), code, text)
    assert netns.run_in(ns, cli.main, ["program", "map", "dump", PORTS]) == 0
    assert capsys.readouterr().out == "", "none was written"
