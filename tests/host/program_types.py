"""A BPF object with a field of every kind, for what reads and writes keys and values by name."""

import functools
import tempfile
from pathlib import Path

from clang import compile_bpf
from hopline.host.program.shapes import Shape, from_btf
from hopline.kernel.btf import Btf, Kind

SOURCE = """
#include <linux/bpf.h>
#include <linux/in6.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
typedef __be32 ip4_t;
typedef struct { __u8 octet[16]; } ip6_t;
typedef struct { __u8 octet[6]; } mac_t;
enum weather { COLD = -1, MILD, WARM = 5 };
enum plain { NONE, SOME };
struct inner { __u8 a; __s16 b; };
union either { __be32 v4; struct in6_addr v6; };
struct numbers {
    __u8 u8; __s8 s8; __u16 u16; __s16 s16; __u32 u32; __s32 s32; __u64 u64; __s64 s64; __be16 be16; __be64 be64;
};
struct everything {
    struct numbers numbers;
    _Bool yes;
    enum weather weather;
    enum plain plain;
    __be32 address;
    ip4_t ip4;
    struct in6_addr six;
    ip6_t ip6;
    __be32 words[4];
    unsigned char mac[6];
    mac_t hw;
    __u8 octets[4];
    __u16 list[3];
    char name[8];
    struct inner inner;
    struct inner many[2];
    union either either;
    struct { __u8 one; union { __u16 two; __u8 three; }; };
    __u32 low : 4, middle : 25;
    __s32 negative : 5;
    _Bool bit : 1;
    double real;
    void *pointer;
};
struct flow { ip4_t from; __u16 port; __u8 pad[2]; struct inner inner; };
struct counter { __u64 packets; __u64 bytes; };
struct prefix { __u32 prefixlen; __u8 data[4]; };
struct prefix6 { __u32 prefixlen; struct in6_addr data; };
struct per_cpu { __u32 packets; enum weather weather; __u16 sizes[2]; };
struct one { __u32 field; };
struct egress { __u32 out_ifindex; __u32 other; };
struct egress *anchor_egress __attribute__((section("layout"), used));
const volatile struct counter start = {};
const volatile __u32 limit = 3;

#define MAP(name, kind, most, k, v, f) \\
    struct { __uint(type, BPF_MAP_TYPE_##kind); __uint(max_entries, most); __uint(map_flags, f); __type(key, k); \\
             __type(value, v); } name SEC(".maps")
MAP(hl_everything, HASH, 64, struct flow, struct everything, 0);
MAP(hl_numbers, ARRAY, 100, __u32, struct numbers, 0);
MAP(hl_flows, HASH, 2, struct flow, struct counter, 0);
MAP(hl_single, HASH, 8, struct one, __s32, 0);
MAP(hl_macs, HASH, 8, mac_t, __be32, 0);
MAP(hl_names, HASH, 8, char[16], _Bool, 0);
MAP(hl_prefixes, LPM_TRIE, 64, struct prefix, struct counter, 1);
MAP(hl_prefixes6, LPM_TRIE, 64, struct prefix6, __u64, 1);
MAP(hl_cpus, PERCPU_ARRAY, 4, __u32, struct per_cpu, 0);
MAP(hl_cpu_hash, PERCPU_HASH, 4, __u32, __u64, 0);
MAP(hl_devices, DEVMAP, 4, __u32, __u32, 0);
MAP(hl_dev_hash, DEVMAP_HASH, 4, __u32, struct bpf_devmap_val, 0);
typedef __u16 triple[3];
MAP(hl_lists, ARRAY, 2, __u32, triple, 0);
struct inner_map { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32);
                 } hl_inner SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS); __uint(max_entries, 2); __type(key, __u32);
         __array(values, struct inner_map); } hl_outer SEC(".maps") = { .values = { &hl_inner } };
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u32);
       } hl_calls SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } hl_events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 4); __type(value, __u32); } hl_queue SEC(".maps");

#define USE(name) bpf_map_lookup_elem(&name, &zero)
SEC("xdp") int hl_types(struct xdp_md *ctx)
{
    __u8 zero[64] = {};
    USE(hl_everything); USE(hl_numbers); USE(hl_flows); USE(hl_single); USE(hl_macs); USE(hl_names);
    USE(hl_prefixes); USE(hl_prefixes6); USE(hl_cpus); USE(hl_cpu_hash);
    bpf_redirect_map(&hl_devices, 0, 0); bpf_redirect_map(&hl_dev_hash, 0, 0); bpf_tail_call(ctx, &hl_calls, 0);
    return limit + start.packets;
}
SEC("xdp") int hl_other(struct xdp_md *ctx) { return XDP_PASS; }
char _license[] SEC("license") = "Dual BSD/GPL";
"""
_directory = tempfile.TemporaryDirectory(prefix="hl-types-")


@functools.cache
def compiled() -> Path:
    return compile_bpf(Path(_directory.name), SOURCE, "types")


@functools.cache
def btf() -> Btf:
    return Btf.from_elf(compiled())


def shape(name: str) -> Shape:
    """The shape of `struct NAME`, or of the typedef of that name."""
    found = btf().find(Kind.STRUCT, name) or btf().find(Kind.TYPEDEF, name)
    assert found is not None, name
    return from_btf(btf(), found.id)
