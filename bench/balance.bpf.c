// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The harness of bench/balance.py: in front of a program under test it takes off the outer header that the one before
 * has pushed, makes the packet whole again and picks the next flow, then tail-calls it. None of this is shipped.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "encapsulated.h"
#include "walk.h"

#define PORTS_BITS 4 /* flows of one client */
#define FIRST_PORT 49152

const volatile __u32 octets; /* of a frame as it comes in */
const volatile __u32 first; /* what is walked, host order: an IPv4 address, or the last word of an IPv6 one */
const volatile __u32 shift; /* destinations: how far their numbers stand in the address from its end */
const volatile __u32 checksum; /* of the IPv4 header without check and what is walked, not folded; TTL is 64 */

/* The same work whether there is an outer header or not, so that the empty row has it too. */
static __always_inline void take_off(struct xdp_md *ctx)
{
	long length = (void *)(long)ctx->data_end - (void *)(long)ctx->data;

	asm volatile("" : "+r"(length)); /* else clang subtracts in 32 bits, which the verifier refuses of pointers */
	bpf_xdp_adjust_head(ctx, length - octets);
}

static __always_inline void put_ttl_and_check(struct iphdr *ip, __be32 walked)
{
	__u32 sum = checksum + (walked & 0xffff) + (walked >> 16);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
	*(__u32 *)&ip->ttl = sum << 16 | IPPROTO_TCP << 8 | 64;
}

static __always_inline int next(struct xdp_md *ctx, struct walk *walk)
{
	settle(walk);
	bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

/* The next flow to one and the same address: many clients, each with a few. */
SEC("xdp.frags")
int flow4(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct walk *walk = bpf_map_lookup_elem(&walked, &zero);

	take_off(ctx);
	void *frame = (void *)(long)ctx->data;
	struct iphdr *ip = frame + ETH_HLEN;
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > (void *)(long)ctx->data_end || !walk)
		return XDP_ABORTED;
	__u32 flow = scattered(walk->packets++);

	put_ethernet(frame);
	ip->saddr = bpf_htonl(first + (flow >> PORTS_BITS));
	put_ttl_and_check(ip, ip->saddr);
	tcp->source = bpf_htons(FIRST_PORT + (flow & ((1 << PORTS_BITS) - 1)));
	return next(ctx, walk);
}

SEC("xdp.frags")
int flow6(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct walk *walk = bpf_map_lookup_elem(&walked, &zero);

	take_off(ctx);
	void *frame = (void *)(long)ctx->data;
	struct ipv6hdr *ip = frame + ETH_HLEN;
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > (void *)(long)ctx->data_end || !walk)
		return XDP_ABORTED;
	__u32 flow = scattered(walk->packets++);

	put_ethernet(frame);
	ip->hop_limit = 64;
	ip->saddr.in6_u.u6_addr32[3] = bpf_htonl(first + (flow >> PORTS_BITS));
	tcp->source = bpf_htons(FIRST_PORT + (flow & ((1 << PORTS_BITS) - 1)));
	return next(ctx, walk);
}

/* The next destination, of which none is a service's. */
SEC("xdp.frags")
int other4(struct xdp_md *ctx)
{
	void *frame = (void *)(long)ctx->data;
	struct iphdr *ip = frame + ETH_HLEN;
	__u32 zero = 0;
	struct walk *walk = bpf_map_lookup_elem(&walked, &zero);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || !walk)
		return XDP_ABORTED;
	put_ethernet(frame);
	ip->daddr = bpf_htonl(first + (scattered(walk->packets++) << shift));
	put_ttl_and_check(ip, ip->daddr);
	return next(ctx, walk);
}

SEC("xdp.frags")
int other6(struct xdp_md *ctx)
{
	void *frame = (void *)(long)ctx->data;
	struct ipv6hdr *ip = frame + ETH_HLEN;
	__u32 zero = 0;
	struct walk *walk = bpf_map_lookup_elem(&walked, &zero);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || !walk)
		return XDP_ABORTED;
	put_ethernet(frame);
	ip->hop_limit = 64;
	ip->daddr.in6_u.u6_addr32[1] = bpf_htonl(first + (scattered(walk->packets++) << shift));
	return next(ctx, walk);
}

char _license[] SEC("license") = "Dual BSD/GPL";
