/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* pin: a map that has a name in the file system outlives the command, and even the program */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

typedef __u8 mac_t[6];

struct talker {
	__u64 packets;
	__u64 bytes;
};

/* who sent how much, by source MAC; when it is full, whoever was silent longest goes */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, mac_t);
	__type(value, struct talker);
} talkers SEC(".maps");

/* for `guard`: packets that each sender may send */
const volatile __u64 limit = 10;

/* One packet more of its sender: how many it has sent by now, 0 where that cannot be told. */
static __always_inline __u64 heard(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct talker first = {.packets = 1, .bytes = data_end - data}, *talker;

	if ((void *)(ethernet + 1) > data_end)
		return 0;
	talker = bpf_map_lookup_elem(&talkers, ethernet->h_source);
	if (!talker)
		return !bpf_map_update_elem(&talkers, ethernet->h_source, &first, BPF_NOEXIST);
	/* this element is shared by all CPUs, so these are atomic */
	__sync_fetch_and_add(&talker->packets, 1);
	__sync_fetch_and_add(&talker->bytes, first.bytes);
	return talker->packets;
}

SEC("xdp")
int watch(struct xdp_md *ctx)
{
	heard(ctx);
	return XDP_PASS;
}

SEC("xdp")
int guard(struct xdp_md *ctx)
{
	return heard(ctx) > limit ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
