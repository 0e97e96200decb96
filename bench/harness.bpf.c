// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The harness: in front of a program under test it makes the packet whole again and picks the next destination, then
 * tail-calls it. None of this is shipped.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "compared.h"

const volatile __u64 ethernet[2]; /* as received, 14 octets */
const volatile __u32 first; /* destination, host order; of IPv6 its second word */
const volatile __u32 bits; /* of the number of destinations, a power of two */
const volatile __u32 shift; /* how far the destinations' numbers stand in the address from its end */
const volatile __u32 checksum; /* of the header without destination and check, not folded; TTL is 64 */

/* page-aligned, so it shares its line with nothing */
struct walk {
	__u64 packets; /* so far */
	__u64 settled; /* only ever added to, by locked instructions */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct walk);
} walked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

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

static __always_inline __be32 next_destination(struct walk *walk)
{
	return bpf_htonl(first + (scattered(walk->packets++) << shift));
}

static __always_inline void put_ethernet(void *frame)
{
	*(__u64 *)frame = ethernet[0];
	*(__u32 *)(frame + 8) = ethernet[1];
	*(__u16 *)(frame + 12) = ethernet[1] >> 32;
}

/*
 * A locked instruction retires only when all stores before it are in the first-level cache. Without one, the program
 * under test would read what still sits in the store buffer: a load that is wider than the store it needs, or spans
 * two of them, then has to wait, which no packet that a card has put into memory makes it do.
 */
static __always_inline void settle(struct walk *walk)
{
	__sync_fetch_and_add(&walk->settled, 1);
}

static __always_inline int restore_ipv4(struct xdp_md *ctx, bool settled)
{
	void *frame = (void *)(long)ctx->data;
	struct iphdr *ip = frame + ETH_HLEN;
	__u32 zero = 0;
	struct walk *walk = bpf_map_lookup_elem(&walked, &zero);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || !walk)
		return XDP_ABORTED;
	__be32 to = next_destination(walk);
	__u32 sum = checksum + (to & 0xffff) + (to >> 16);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
	put_ethernet(frame);
	*(__u32 *)&ip->ttl = sum << 16 | IPPROTO_UDP << 8 | 64;
	ip->daddr = to;
	if (settled)
		settle(walk);
	bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

static __always_inline int restore_ipv6(struct xdp_md *ctx, bool settled)
{
	void *frame = (void *)(long)ctx->data;
	struct ipv6hdr *ip = frame + ETH_HLEN;
	__u32 zero = 0;
	struct walk *walk = bpf_map_lookup_elem(&walked, &zero);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || !walk)
		return XDP_ABORTED;
	put_ethernet(frame);
	ip->hop_limit = 64;
	/* a network differs from the next in its first half, as a route's does */
	ip->daddr.in6_u.u6_addr32[1] = next_destination(walk);
	if (settled)
		settle(walk);
	bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int restore4(struct xdp_md *ctx)
{
	return restore_ipv4(ctx, true);
}

SEC("xdp.frags")
int restore6(struct xdp_md *ctx)
{
	return restore_ipv6(ctx, true);
}

/*
 * The kernel reads the clock behind an instruction that lets nothing later begin before all earlier is done. Without it
 * the CPU works on the next packet while it waits for memory that this one needs: the shorter a program, the more.
 */
SEC("xdp.frags")
int alone4(struct xdp_md *ctx)
{
	bpf_ktime_get_ns();
	return restore_ipv4(ctx, true);
}

SEC("xdp.frags")
int alone6(struct xdp_md *ctx)
{
	bpf_ktime_get_ns();
	return restore_ipv6(ctx, true);
}

/* with the packet's octets still on their way to the cache: what it would show to measure so */
SEC("xdp.frags")
int hasty4(struct xdp_md *ctx)
{
	return restore_ipv4(ctx, false);
}

SEC("xdp.frags")
int hasty6(struct xdp_md *ctx)
{
	return restore_ipv6(ctx, false);
}

char _license[] SEC("license") = "Dual BSD/GPL";
