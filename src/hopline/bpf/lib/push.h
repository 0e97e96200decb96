/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* push: an outer header in front of a packet. IPIP (RFC 2003, RFC 2473) and GUE variant 1, over IPv4 and IPv6. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"

#define OUTER_TTL 64
#define GUE_FIRST_PORT 0xc000 /* 49152: source ports are ephemeral ones (RFC 6335) */
#define FLOW_LABEL 0xfffff
#define IPV4_DONT_FRAGMENT 0x4000

/* What an outer header needs to know of the packet behind it. */
struct inner {
	__u16 length; /* octets of IP packet */
	__u8 tos; /* or traffic class */
	bool ipv6;
};

/* 20 of IPv4 (family 4) or 40 of IPv6 (6), and 8 more of GUE (encapsulation 2), without a branch. */
static __always_inline __u32 outer_length(const struct backend *backend)
{
	return 10 * backend->family - 20 + (backend->encapsulation - ENCAPSULATION_IPIP) * sizeof(struct udphdr);
}

static __always_inline __u8 outer_protocol(const struct inner *inner, bool gue)
{
	if (gue)
		return IPPROTO_UDP;
	return inner->ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
}

/* All in three stores; the words are in the packet's order. The sum of five words has 35 bits, so three folds do. */
static __always_inline void write_outer4(void *at, const struct backend *backend, __u64 hash,
					 const struct inner *inner, bool gue)
{
	__u32 length = inner->length + sizeof(struct iphdr) + (gue ? sizeof(struct udphdr) : 0);
	__u64 first = IPV4_NO_OPTIONS | inner->tos << 8 | (__u64)bpf_htons(length) << 16;
	__u64 second = (__u64)bpf_htons(IPV4_DONT_FRAGMENT) << 16;
	__u64 third = OUTER_TTL | outer_protocol(inner, gue) << 8;
	__u64 source = backend->source.words[0] | ((__u32)hash & backend->vary);
	__u64 destination = backend->destination.words[0];
	__u64 sum = first + second + third + source + destination;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(__u64 *)at = first | second << 32;
	*(__u64 *)(at + 8) = third | (~sum & 0xffff) << 16 | source << 32;
	*(__u32 *)(at + 16) = destination;
}

static __always_inline void write_outer6(void *at, const struct backend *backend, __u64 hash,
					 const struct inner *inner, bool gue)
{
	__u32 length = inner->length + (gue ? sizeof(struct udphdr) : 0);
	__u32 label = 6U << 28 | inner->tos << 20 | ((__u32)hash & FLOW_LABEL);

	*(__u32 *)at = bpf_htonl(label);
	*(__u32 *)(at + 4) = bpf_htons(length) | outer_protocol(inner, gue) << 16 | (__u32)OUTER_TTL << 24;
	*(__u64 *)(at + 8) = backend->source.halves[0];
	*(__u32 *)(at + 16) = backend->source.words[2];
	*(__u32 *)(at + 20) = backend->source.words[3] | ((__u32)hash & backend->vary);
	*(__u64 *)(at + 24) = backend->destination.halves[0];
	*(__u64 *)(at + 32) = backend->destination.halves[1];
}

/* No checksum: of IPv6 too, as RFC 6935 has it for tunnels. */
static __always_inline void write_gue(void *at, const struct backend *backend, __u64 hash, const struct inner *inner)
{
	__u32 source = GUE_FIRST_PORT | ((__u32)(hash >> 16) & (0xffff ^ GUE_FIRST_PORT));

	*(__u32 *)at = bpf_htons(source) | (__u32)backend->port << 16;
	*(__u32 *)(at + 4) = bpf_htons(inner->length + sizeof(struct udphdr));
}

static __always_inline bool write_ethernet(struct xdp_md *ctx, mac_word_t destination, mac_word_t source, bool ipv6)
{
	void *frame = (void *)(long)ctx->data;
	__u64 ethertype = ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);

	if (frame + sizeof(struct ethernet_header) > (void *)(long)ctx->data_end)
		return false;
	*(__u64 *)frame = (destination & MAC_WORD_MAC) | source << 48;
	*(__u64 *)(frame + 6) = (source & MAC_WORD_MAC) | ethertype << 48;
	return true;
}

/* The inner packet as a router leaves it: one hop less. */
static __always_inline void decrement_inner(void *at, bool ipv6)
{
	if (ipv6)
		((struct ipv6hdr *)at)->hop_limit--;
	else
		decrement_ttl(at);
}

/*
 * Puts the outer header of one kind on; returns false, and has written nothing, where the frame has no room for it.
 * Family and encapsulation are constants, so that every offset is.
 */
static __always_inline bool push(struct xdp_md *ctx, const struct backend *backend, __u64 hash,
				 const struct inner *inner, bool outer_ipv6, bool gue)
{
	const __u32 ip = outer_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 outer = ip + (gue ? sizeof(struct udphdr) : 0);

	if (bpf_xdp_adjust_head(ctx, -(int)outer))
		return false;
	void *at = (void *)(long)ctx->data + sizeof(struct ethernet_header);

	if (at + outer + sizeof(struct ipv6hdr) > (void *)(long)ctx->data_end &&
	    (inner->ipv6 || at + outer + sizeof(struct iphdr) > (void *)(long)ctx->data_end))
		return true; /* cannot be: the inner header was there before */
	decrement_inner(at + outer, inner->ipv6);
	if (outer_ipv6)
		write_outer6(at, backend, hash, inner, gue);
	else
		write_outer4(at, backend, hash, inner, gue);
	if (gue)
		write_gue(at + ip, backend, hash, inner);
	return true;
}
