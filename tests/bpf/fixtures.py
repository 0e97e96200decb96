"""The BPF programs that the kernel tests load."""

import functools
import tempfile
from pathlib import Path

from clang import compile_bpf

PIPE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <linux/types.h>
typedef __be32 ip4_t;
struct counter { __u64 packets; __u64 bytes; };
struct cell { __u32 low; __u32 high; __u64 word; __u8 tail[4]; };
struct event { __u64 number; __u32 size; __u8 data[16]; };
struct prefix { __u32 length; ip4_t address; };
struct event *anchor_event __attribute__((section("layout"), used));

const volatile __u32 answer = 1;
const volatile _Bool strict = 0;
const volatile __u8 key[4] = {};
const volatile __s16 delta = 0;

struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 64); __type(key, __u32);
         __type(value, struct counter); } counters SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 200000); __uint(map_flags, 1); __type(key, ip4_t);
         __type(value, __u32); } table SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_HASH); __uint(max_entries, 64); __type(key, __u32);
         __type(value, struct counter); } per_key SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(max_entries, 4096); __uint(map_flags, 1);
         __type(key, struct prefix); __type(value, __u32); } routes SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_DEVMAP); __uint(max_entries, 64); __type(key, __u32);
         __type(value, __u32); } devices SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1000); __uint(map_flags, 1 << 10); __type(key, __u32);
         __type(value, struct cell); } cells SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 1 << 16); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32);
         __type(value, __u64); } sent SEC(".maps");

static __always_inline void count(struct xdp_md *ctx, __u32 slot)
{
    struct counter *found = bpf_map_lookup_elem(&counters, &slot);

    if (found) {
        found->packets++;
        found->bytes += bpf_xdp_get_buff_len(ctx);
    }
}

SEC("xdp.frags") int pipe(struct xdp_md *ctx)
{
    count(ctx, ctx->ingress_ifindex & 63);
    return strict ? XDP_DROP : answer + delta + key[3];
}

SEC("xdp") int other(struct xdp_md *ctx)
{
    count(ctx, 0);
    return XDP_PASS;
}

SEC("xdp") int shrink(struct xdp_md *ctx)
{
    return bpf_xdp_adjust_head(ctx, 4) ? XDP_ABORTED : XDP_TX;
}

SEC("xdp") int grow(struct xdp_md *ctx)
{
    return bpf_xdp_adjust_head(ctx, -20) ? XDP_ABORTED : XDP_TX;
}

/* one event a run; every seventh is a short one, every eleventh discarded after it was reserved */
SEC("xdp") int emit(struct xdp_md *ctx)
{
    __u32 zero = 0;
    __u64 *number = bpf_map_lookup_elem(&sent, &zero);
    struct event *event;

    if (!number)
        return XDP_ABORTED;
    if (*number % 7 == 6) {
        if (bpf_ringbuf_output(&events, number, 8, 0))
            return XDP_DROP;
        (*number)++;
        return XDP_PASS;
    }
    event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
    if (!event)
        return XDP_DROP;
    event->number = *number;
    event->size = sizeof(*event);
    __builtin_memset(event->data, *number & 255, sizeof(event->data));
    if (*number % 11 == 10)
        bpf_ringbuf_discard(event, 0);
    else
        bpf_ringbuf_submit(event, 0);
    (*number)++;
    return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
"""

BAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int careless(struct xdp_md *ctx)
{
    __u8 *data = (__u8 *)(long)ctx->data;
    return data[0] + data[11];
}
char _license[] SEC("license") = "GPL";
"""

_directory = tempfile.TemporaryDirectory(prefix="hl-bpf-")


@functools.cache
def compiled(name: str) -> Path:
    """The object of one of the sources above, compiled once a session."""
    return compile_bpf(Path(_directory.name), {"pipe": PIPE, "bad": BAD}[name], name)
