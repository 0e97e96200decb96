// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The harness: in front of a program under test it makes the packet whole again and picks the next destination, then
 * tail-calls it. Beside it stand the programs that a row is compared with. None of this is shipped.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FAMILY_INET 2
#define FAMILY_INET6 10

const volatile __u8 ethernet[ETH_HLEN]; /* as received */
const volatile __u32 first; /* destination, host order; of IPv6 the last word */
const volatile __u32 bits; /* of the number of destinations, a power of two */
const volatile __u32 checksum; /* of the header without destination and check, not folded; TTL is 64 */
const volatile __u32 lines_mask; /* of `lines` */

/* value: how many packets so far; page-aligned, so it shares its line with nothing */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} walked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

/* of the size of the cache beside it: what one random line of it costs is what any look-up must */
struct line {
	__u64 words[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct line);
} lines SEC(".maps");

/* an entry of the usual XDP forwarder: destination → device and addresses, learned ones evicting entered ones */
struct hop {
	__u32 ifindex;
	__u8 destination[ETH_ALEN];
	__u8 source[ETH_ALEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hop);
} lru SEC(".maps");

/* A permutation of 0 … 2^bits - 1: a walk in order would stride through memory, which the prefetcher foresees. */
static __always_inline __u32 scattered(__u32 i)
{
	__u32 mask = (1u << bits) - 1, half = (bits + 1) / 2;

	i &= mask;
	i ^= i >> half;
	i = i * 0x9e3779b1 & mask;
	i ^= i >> half;
	i = i * 0x85ebca6b & mask;
	return i ^ i >> half;
}

static __always_inline __u32 next_number(void)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&walked, &zero);

	return count ? scattered((*count)++) : 0;
}

static __always_inline void put_ethernet(struct ethhdr *eth)
{
	for (int i = 0; i < ETH_HLEN; i++)
		((__u8 *)eth)[i] = ethernet[i];
}

SEC("xdp.frags")
int restore4(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	put_ethernet(eth);
	ip->ttl = 64;
	ip->daddr = bpf_htonl(first + next_number());
	__u32 sum = checksum + (ip->daddr & 0xffff) + (ip->daddr >> 16);

	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~((sum & 0xffff) + (sum >> 16));
	bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int restore6(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct ipv6hdr *ip = (void *)(eth + 1);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	put_ethernet(eth);
	ip->hop_limit = 64;
	ip->daddr.in6_u.u6_addr32[3] = bpf_htonl(first + next_number());
	bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

/* the row that is subtracted from all others */
SEC("xdp.frags")
int empty(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

static __always_inline int rewrite4(struct xdp_md *ctx, const struct hop *hop)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	__u32 sum = ip->check + bpf_htons(0x0100);

	ip->check = sum + (sum >= 0xffff);
	ip->ttl--;
	__builtin_memcpy(eth->h_dest, hop->destination, ETH_ALEN);
	__builtin_memcpy(eth->h_source, hop->source, ETH_ALEN);
	return XDP_TX;
}

/* the least that forwarding is: TTL, checksum and two addresses, known beforehand */
SEC("xdp.frags")
int rewriter(struct xdp_md *ctx)
{
	struct hop hop = { .destination = { 2, 0, 0, 0, 0, 1 }, .source = { 2, 0, 0, 0, 0, 2 } };

	return rewrite4(ctx, &hop);
}

/* one random line of a table as large as the cache */
SEC("xdp.frags")
int one_line(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	__u32 at = bpf_ntohl(ip->daddr) * 0x9e3779b1;

	at = (at ^ at >> 15) & lines_mask;
	struct line *line = bpf_map_lookup_elem(&lines, &at);

	return line && line->words[at & 7] ? XDP_TX : XDP_PASS;
}

SEC("xdp.frags")
int lru_forward(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + ETH_HLEN;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	__u32 to = ip->daddr;
	struct hop *hop = bpf_map_lookup_elem(&lru, &to);

	if (!hop)
		return XDP_PASS;
	rewrite4(ctx, hop);
	return bpf_redirect(hop->ifindex, 0);
}

/* what every packet costs where the FIB is asked for each */
SEC("xdp.frags")
int fib_forward(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + ETH_HLEN;
	struct bpf_fib_lookup fib = { .family = FAMILY_INET, .ifindex = ctx->ingress_ifindex };

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	fib.l4_protocol = ip->protocol;
	fib.tot_len = bpf_ntohs(ip->tot_len);
	fib.tos = ip->tos;
	fib.ipv4_src = ip->saddr;
	fib.ipv4_dst = ip->daddr;
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	struct hop hop;

	__builtin_memcpy(hop.destination, fib.dmac, ETH_ALEN);
	__builtin_memcpy(hop.source, fib.smac, ETH_ALEN);
	rewrite4(ctx, &hop);
	return bpf_redirect(fib.ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
