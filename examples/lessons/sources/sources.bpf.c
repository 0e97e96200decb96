/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* sources: a set of source addresses that user space fills while packets flow; theirs are dropped and counted */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* a typedef's name tells readers of the map that these bytes are an address */
typedef __be32 ip4_t;
typedef struct in6_addr ip6_t;

/* the value is how many packets of this source were dropped */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, ip4_t);
	__type(value, __u64);
} sources4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, ip6_t);
	__type(value, __u64);
} sources6 SEC(".maps");

SEC("xdp")
int deny(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip4 = (void *)(ethernet + 1);
	struct ipv6hdr *ip6 = (void *)(ethernet + 1);
	__u64 *dropped = NULL;

	if ((void *)(ethernet + 1) > data_end)
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP) && (void *)(ip4 + 1) <= data_end)
		dropped = bpf_map_lookup_elem(&sources4, &ip4->saddr);
	else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= data_end)
		dropped = bpf_map_lookup_elem(&sources6, &ip6->saddr);
	if (!dropped)
		return XDP_PASS;
	__sync_fetch_and_add(dropped, 1);
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
