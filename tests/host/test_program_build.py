"""`hopline program build` and `inspect`: what is compiled, what is said where it is not, what is seen in an object."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from clang import compile_bpf
from hopline.cli import main as cli
from hopline.errors import InvalidInput, KernelError, NotFound
from hopline.host.program import build
from hopline.host.program.build import CompilerRefusal, MapInside, ProgramInside, VariableInside, inspect
from hopline.kernel import elf

SOURCE = """
#include <linux/bpf.h>
#include <linux/icmp.h>
#include <bpf/bpf_helpers.h>
typedef __u8 mac_t[6];
struct totals { __u64 packets; __u64 bytes; };
#define ABOUT(text) __attribute__((btf_decl_tag(text)))
const volatile mac_t gateway ABOUT("who gets the packets") = {2, 0, 0, 0, 0, 1};
const volatile struct totals limit = {.bytes = 1500};
const int fixed = 7;
static volatile int hidden = 3;
__u32 hits = 5;
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 5); __type(key, __u32);
         __type(value, struct totals); } verdicts SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_DEVMAP); __uint(max_entries, 64); __uint(key_size, 4);
         __uint(value_size, 8); } ports SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
SEC("xdp.frags") int first(struct xdp_md *ctx)
{
    __u32 key = gateway[5] & 1;

    hits += hidden + fixed;
    return bpf_map_lookup_elem(&verdicts, &key) ? limit.bytes : XDP_PASS;
}
SEC("encap_gre") int second(struct __sk_buff *skb) { return 0; }
char _license[] SEC("license") = "Dual MIT/GPL";
"""


@pytest.fixture
def source(tmp_path):
    place = tmp_path / "count.bpf.c"
    place.write_text(SOURCE)
    return place


def test_what_is_built_is_what_is_seen(source, capsys):
    made = build.build(source)
    assert made == source.with_name("count.bpf.o")
    found = inspect(made)
    assert 10 < found.programs[0].instructions < 100
    assert found == build.Inside(
        str(made),
        "Dual MIT/GPL",
        [
            replace(found.programs[0], name="first", section="xdp.frags", type="xdp"),
            ProgramInside("second", "encap_gre", "", 2),
        ],
        [
            MapInside("verdicts", "percpu_array", "__u32", 4, "struct totals", 16, 5, 0),
            MapInside("ports", "devmap", "", 4, "", 8, 64, 0),
            MapInside("events", "ringbuf", "", 0, "", 0, 4096, 0),
        ],
        [
            VariableInside("hits", "__u32", 4, ".data", "5", True, ""),
            VariableInside("gateway", "mac_t", 6, ".rodata", "02:00:00:00:00:01", True, "who gets the packets"),
            VariableInside("limit", "struct totals", 16, ".rodata", "packets=0 bytes=1500", True, ""),
            VariableInside("fixed", "int", 4, ".rodata", "7", False, ""),
        ],
    )
    assert cli.main(["program", "inspect", str(made)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{made}: licence Dual MIT/GPL\n")
    assert "gateway   mac_t          02:00:00:00:00:01     yes       who gets the packets" in out
    assert "second   encap_gre  the hook's" in out
    assert "ports     devmap        4 octets  8 octets" in out


def test_two_builds_of_one_source_are_one_object(source, tmp_path):
    elsewhere = tmp_path / "deep"
    elsewhere.mkdir()
    other = elsewhere / source.name
    other.write_bytes(source.read_bytes())
    assert build.build(source).read_bytes() == build.build(other, elsewhere / "any.o").read_bytes()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["any.o", source.name], "nothing else is left"


def test_what_the_compiler_says_is_shown_as_it_is(source, capfd):
    made = build.build(source)
    before = made.read_bytes()
    source.write_text(SOURCE.replace("limit.bytes", "limit.octets"))
    capfd.readouterr()
    assert cli.main(["program", "build", str(source)]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{source}:" in err
    assert "error: no member named 'octets'" in err
    assert (
        err.splitlines()[-1] == f"hopline: build {source}: clang does not take it, see above: mend it and build again"
    )
    assert made.read_bytes() == before, "the object that was there stays"
    assert sorted(path.name for path in source.parent.iterdir()) == ["count.bpf.c", "count.bpf.o"]


@pytest.mark.parametrize(
    ("name", "out", "kind", "said"),
    [
        ("gone.bpf.c", None, NotFound, "gone.bpf.c: not there: name a source in C"),
        ("", None, NotFound, ": not a file: name a source in C"),
        ("count.txt", None, InvalidInput, "its name does not end with .c, so the object's is not known: name it by -o"),
        ("count.bpf.c", "count.bpf.c", InvalidInput, "is the source itself"),
        ("count.bpf.c", "gone/x.o", NotFound, "gone is no directory"),
        ("count.bpf.c", ".", KernelError, "name another place by -o"),
    ],
)
def test_what_cannot_be_built(source, name, out, kind, said):
    (source.parent / "count.txt").write_text(SOURCE)
    with pytest.raises(kind) as error:
        build.build(source.parent / name, None if out is None else source.parent / out)
    assert said in str(error.value)
    assert sorted(path.name for path in source.parent.iterdir()) == ["count.bpf.c", "count.txt"]


def test_without_clang(source, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotFound, match="clang is not installed: apt-get install clang libbpf-dev"):
        build.build(source)


def test_warnings_are_shown_and_stop_nothing(source, capfd):
    source.write_text(SOURCE.replace("hits += hidden", "int spare; hits += hidden"))
    assert build.build(source).exists()
    assert "unused variable 'spare'" in capfd.readouterr().err


def test_a_build_that_is_refused_is_of_its_own_kind(source):
    source.write_text("int x = ;")
    with pytest.raises(CompilerRefusal):
        build.build(source)


def test_an_object_without_a_program(tmp_path):
    made = compile_bpf(tmp_path, "int x = 1;")
    with pytest.raises(InvalidInput, match=r'no program is in it: give a function a section, as SEC\("xdp"\)'):
        inspect(made)


def test_a_damaged_object_is_one_line(source):
    whole = build.build(source).read_bytes()
    place = source.with_name("cut.o")
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        place.write_bytes(whole[:length])
        with pytest.raises((InvalidInput, KernelError)) as error:
            inspect(place)
        assert "\n" not in str(error.value)


def test_types_that_name_none_are_not_given_to_libbpf(source):
    """Of a map's or variable's it would read memory that is not there, and the process with it would end."""
    data = bytearray(Path(build.build(source)).read_bytes())
    section = elf.sections(bytes(data))[".BTF"]
    head, types_at = struct.unpack_from("=4xII", data, section.offset)
    # the first type of all is a pointer, a map's field; what it points to is the third word
    struct.pack_into("=I", data, section.offset + head + types_at + 8, 0xAE000005)
    damaged = source.with_name("damaged.o")
    damaged.write_bytes(data)
    with pytest.raises(InvalidInput, match="its btf cannot be read: compile it afresh"):
        inspect(damaged)


def test_a_licence_that_is_not_stated(source):
    source.write_text(SOURCE.replace('char _license[] SEC("license") = "Dual MIT/GPL";', ""))
    assert inspect(build.build(source)).licence == ""
