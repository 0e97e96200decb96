"""Objects whose BTF puts a variable into the wrong section: taken as they are by nobody, and as they are repaired."""

import pytest

from clang import compile_bpf
from hopline.errors import KernelError
from hopline.host.program import objects
from hopline.kernel import BpfObject, elf
from hopline.kernel.map import Map
from hopline.kernel.object import ObjectFile
from hopline.kernel.program import XDP
from hopline.kernel.repair import repaired

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#ifdef BESIDE
const volatile int first = 3;
const volatile int last = 4;
#else
enum { first, last };
#endif
static const int pair[] = {30, 40};
static const long long four[] = {1, 2, 3, 4};
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 5); __type(key, __u32);
         __type(value, __u64); } counts SEC(".maps");
SEC("xdp") int answer(struct xdp_md *ctx)
{
    __u32 key = 0, number = ctx->rx_queue_index & 1;

    bpf_map_lookup_elem(&counts, &key);
    return pair[number] + four[number + 1] + first + last;
}
char _license[] SEC("license") = "GPL";
"""


def compiled(tmp_path, beside):
    text = ("#define BESIDE\n" if beside else "") + SOURCE
    return compile_bpf(tmp_path, text)


@pytest.mark.parametrize(("beside", "expected"), [(True, 30 + 2 + 3 + 4), (False, 30 + 2 + 0 + 1)])
def test_it_loads_with_its_types_and_says_the_same(tmp_path, beside, expected):
    file = compiled(tmp_path, beside)
    if not any(name.startswith(".rodata.cst") for name in elf.sections(file.read_bytes())):
        pytest.fail("this clang has no such sections any more: kernel/repair.py can go")
    assert types_as_it_is(file) in ((0, 0), None), "the kernel, or libbpf, takes it by now: kernel/repair.py can go"
    copy = ObjectFile(file, repaired(file.read_bytes()))
    with copy.open() as found:
        assert sorted(found.variables()) == (["first", "last"] if beside else [])
        found.load()
        with found.map("counts") as counts, found.program("answer") as program:
            with Map.from_id(counts.id) as same:
                assert min(same.btf_types) > 0
            assert program.test_run(bytes(64)).retval == expected
    copy.close()


def types_as_it_is(file):
    """Of the types of its map's key and value, what the kernel knows; None where the object is not even opened."""
    try:
        with BpfObject.open(file) as found:
            found.load()
            with found.map("counts") as counts, Map.from_id(counts.id) as same:
                return same.btf_types
    except KernelError:
        return None


def test_what_is_right_is_left_as_it_is(tmp_path):
    text = SOURCE.replace("static const int", "const int").replace("static const long", "const long")
    data = compile_bpf(tmp_path, "#define BESIDE\n" + text).read_bytes()
    assert repaired(data) == data


DECLARED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
extern int LINUX_KERNEL_VERSION __kconfig;
extern const void no_such_symbol __ksym __weak;
SEC("xdp") int p(struct xdp_md *ctx) { return LINUX_KERNEL_VERSION > 5 << 16 ? 2 + !!&no_such_symbol : 1; }
char _license[] SEC("license") = "GPL";
"""


def test_what_the_kernel_is_to_fill_in_is_left_as_it_is(tmp_path):
    """Such a variable lies in no section of the file: libbpf looks it up when the object is loaded."""
    file = compile_bpf(tmp_path, DECLARED)
    assert repaired(file.read_bytes()) == file.read_bytes()
    with objects.opened(file, XDP) as (_, program):
        assert program.test_run(bytes(64)).retval == 2


def test_damaged_files_are_left_to_who_opens_them(tmp_path):
    data = compiled(tmp_path, True).read_bytes()
    for length in range(0, len(data), 97):
        assert repaired(data[:length]) == data[:length]
    place = elf.sections(data)[".BTF"].offset
    for at in range(place, place + 400, 3):
        spoilt = bytearray(data)
        spoilt[at] ^= 0xFF
        assert len(repaired(bytes(spoilt))) == len(data)
