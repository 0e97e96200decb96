"""Format strings found in loaded programs, however their compiler has put them there."""

import pytest

from clang import compile_bpf
from hopline.kernel import BpfObject
from hopline.kernel.xlated import INSTRUCTION, formats, instructions

LONG = "a format that is too long to be stored by a few constants, so that clang copies it: %d, %u, %x and %s\\n"
SOURCE = f"""
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {{ __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }}
numbers SEC(".maps");
#define LENGTH (int)(ctx->data_end - ctx->data)

SEC("xdp") int read_only(struct xdp_md *ctx) {{ bpf_printk("kept read-only: %d", LENGTH); return XDP_PASS; }}
SEC("xdp") int variadic(struct xdp_md *ctx) {{ bpf_printk("%d %d %d %d of four", LENGTH, 1, 2, 3); return XDP_PASS; }}
SEC("xdp") int stack(struct xdp_md *ctx)
{{ char text[] = "on the stack: %d\\n"; bpf_trace_printk(text, sizeof(text), LENGTH); return XDP_PASS; }}
SEC("xdp") int copied(struct xdp_md *ctx)
{{ char text[] = "{LONG}"; bpf_trace_printk(text, sizeof(text), LENGTH, 1, 2); return XDP_PASS; }}
SEC("xdp") int branches(struct xdp_md *ctx)
{{
    char small[] = "small %d\\n", large[] = "large %d\\n";
    if (LENGTH < 100)
        bpf_trace_printk(small, sizeof(small), LENGTH);
    else
        bpf_trace_printk(large, sizeof(large), LENGTH);
    return XDP_PASS;
}}
static __attribute__((noinline)) int below(int length)
{{ char text[] = "below: %d"; bpf_trace_printk(text, sizeof(text), length); return length; }}
SEC("xdp") int subprogram(struct xdp_md *ctx) {{ return below(LENGTH) ? XDP_PASS : XDP_DROP; }}
SEC("xdp") int after_a_map(struct xdp_md *ctx)
{{
    __u32 key = 0;
    __u64 *found = bpf_map_lookup_elem(&numbers, &key);
    char text[] = "found %d";
    if (found)
        bpf_trace_printk(text, sizeof(text), (int)*found);
    return XDP_PASS;
}}
SEC("xdp") int silent(struct xdp_md *ctx)
{{
    static const char text[] = "is never printed";
    __u32 key = 0;
    __u64 *found = bpf_map_lookup_elem(&numbers, &key);
    if (found)
        *found = text[LENGTH & 15];
    return XDP_PASS;
}}
char _license[] SEC("license") = "GPL";
"""
TEXTS = {
    "read_only": {b"kept read-only: %d"},
    "variadic": {b"%d %d %d %d of four"},
    "stack": {b"on the stack: %d\n"},
    "copied": {LONG.replace("\\n", "\n").encode()},
    "branches": {b"small %d\n", b"large %d\n"},
    "subprogram": {b"below: %d"},
    "after_a_map": {b"found %d"},
    "silent": set(),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    with BpfObject.open(compile_bpf(tmp_path_factory.mktemp("xlated"), SOURCE)) as opened:
        opened.load()
        yield opened


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_program_prints_with_is_found_and_nothing_else(loaded, name):
    with loaded.program(name) as program:
        assert formats(program) == TEXTS[name]


def test_the_instructions_are_all_there_and_end_with_an_exit(loaded):
    with loaded.program("branches") as program:
        code = instructions(program)
        assert code.nbytes == program.info().xlated_bytes
        assert code.dtype == INSTRUCTION
    assert code["code"][-1] in (0x95, 0x05)
