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
#include "walk.h"

const volatile __u32 first; /* destination, host order; of IPv6 its second word */
const volatile __u32 shift; /* how far the destinations' numbers stand in the address from its end */
const volatile __u32 checksum; /* of the header without destination and check, not folded; TTL is 64 */

static __always_inline __be32 next_destination(struct walk *walk)
{
	return bpf_htonl(first + (scattered(walk->packets++) << shift));
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
