/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * answer: what a VIP itself says to who sent it a packet: ICMP echo replies, and that a packet was too big or had no hop
 * left. The frame becomes the answer and goes back by the device that it came in by. It is untagged, to our MAC, and
 * parsed to its L4 header. Where there is no answer to give, CONTINUE, and the frame is as it was.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "icmp.h"
#include "judge.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"

#define ANSWER_TTL 64
#define ANSWER_TOS 0xc0 /* internetwork control (RFC 1812 section 4.3.2.5) */
#define IPV4_DONT_FRAGMENT 0x4000
#define QUOTE4 (576 - 28) /* octets of a packet that its error quotes at most (RFC 1812 section 4.3.2.3) */
#define QUOTE6 (1280 - 48) /* RFC 4443 section 2.4 (c) */
#define SUM_BLOCK 64
#define MOST_OCTETS 0x7ff /* of a message */
#define MOST_BLOCKS (MOST_OCTETS & ~(SUM_BLOCK - 1))

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The checksum where one of the 16-bit words under it becomes another (RFC 1624, equation 3). */
static __always_inline __sum16 resummed(__sum16 check, __u16 old, __u16 new)
{
	return ~fold((__u32)(__u16)~check + (__u16)~old + new);
}

/* Whether there is a host to answer: not a group, nobody, or the address itself (RFC 1122 section 3.2.2). */
static __always_inline bool has_sender(const struct packet *packet)
{
	const ip6_t *source = &packet->source, *destination = &packet->destination;

	if (source->halves[0] == destination->halves[0] && source->halves[1] == destination->halves[1])
		return false;
	if (packet->family == 4)
		return is_plain(source->octets[0]);
	return source->octets[0] != 0xff && !is_loopback_or_unspecified(source);
}

static __always_inline void turn_around(struct ethernet_header *eth)
{
	struct ethernet_header was = *eth;

	__builtin_memcpy(eth->destination, was.source, sizeof(was.source));
	__builtin_memcpy(eth->source, was.destination, sizeof(was.destination));
}

static __always_inline bool reply4(void *data, void *data_end)
{
	struct iphdr *ip = data;
	struct icmp_header *icmp = (void *)(ip + 1);
	__be32 source;

	if ((void *)(icmp + 1) > data_end)
		return false;
	__be16 *hop = (__be16 *)&ip->ttl, was = *hop;

	source = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = source;
	ip->ttl = ANSWER_TTL;
	ip->check = resummed(ip->check, was, *hop);
	icmp->type = ICMP_REPLIED;
	icmp->check = resummed(icmp->check, bpf_htons(ICMP_ECHO_ASKED << 8), bpf_htons(ICMP_REPLIED << 8));
	if (!icmp->check)
		icmp->check = 0xffff; /* as right, and right too where the message is now nothing but zeros */
	return true;
}

static __always_inline bool reply6(void *data, void *data_end)
{
	struct ipv6hdr *ip = data;
	struct icmp_header *icmp = (void *)(ip + 1);
	struct in6_addr source;

	if ((void *)(icmp + 1) > data_end)
		return false;
	source = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = source;
	ip->hop_limit = ANSWER_TTL;
	icmp->type = ICMPV6_REPLIED;
	icmp->check = resummed(icmp->check, bpf_htons(ICMPV6_ECHO_ASKED << 8), bpf_htons(ICMPV6_REPLIED << 8));
	return true;
}

/*
 * ANSWERED_ECHO for an echo request, in place: all that it carries is as it came, and a wrong checksum stays wrong. With
 * options or extension headers it is left alone.
 */
static __noinline enum verdict answer_echo(struct xdp_md *ctx, const struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	const __u16 odd = PACKET_FRAGMENT | PACKET_OPTIONS | PACKET_HOP_BY_HOP | PACKET_EXTENSION;
	int padding = packet->length - packet->l3_length - sizeof(struct ethernet_header);
	__u8 asked = packet->family == 4 ? ICMP_ECHO_ASKED : ICMPV6_ECHO_ASKED;
	__u8 protocol = packet->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	struct ethernet_header *eth = data;
	bool done;

	if (!(packet->flags & PACKET_ICMP) || packet->flags & odd || packet->protocol != protocol)
		return CONTINUE;
	if (packet->icmp_type != asked || packet->icmp_code || !has_sender(packet) || (void *)(eth + 1) > data_end)
		return CONTINUE;
	if (packet->l4_offset + sizeof(struct icmp_header) > packet->l3_offset + packet->l3_length)
		return CONTINUE;
	done = packet->family == 4 ? reply4(eth + 1, data_end) : reply6(eth + 1, data_end);
	if (!done)
		return CONTINUE;
	turn_around(eth);
	if (padding > 0)
		bpf_xdp_adjust_tail(ctx, -padding);
	return ANSWERED_ECHO;
}

/* Whether an error may be sent in answer to it (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)). */
static __always_inline bool may_report(const struct packet *packet)
{
	__u8 type = packet->icmp_type;

	if (packet->flags & PACKET_LATER_FRAGMENT || !has_sender(packet))
		return false;
	if (packet->protocol != IPPROTO_ICMP && packet->protocol != IPPROTO_ICMPV6)
		return true;
	if (!(packet->flags & PACKET_ICMP))
		return false; /* it cannot be told whether it is one itself */
	if (packet->protocol == IPPROTO_ICMPV6)
		return type >= ICMPV6_ECHO_ASKED && type != ICMPV6_REDIRECTED;
	return type != ICMP_UNREACHABLE && type != ICMP_SOURCE_QUENCHED && type != ICMP_REDIRECTED &&
	       type != ICMP_TIME_EXCEEDED && type != ICMP_PARAMETER_PROBLEM && type <= ICMP_LAST_TYPE;
}

/*
 * The sum of all from an offset of less than 64 to the frame's end, as a ones' complement number of 16 bits. A function of
 * its own, and packet pointers taken anew behind the loop, so that the verifier has one state there and not one a turn.
 */
__noinline __u32 sum_to_end(struct xdp_md *ctx, __u32 offset)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end, *at = data + (offset &= 63);
	__u32 left;
	__u64 sum = 0;

	for (__u32 i = 0; i <= (sizeof(struct icmp_header) + QUOTE6) / SUM_BLOCK && at + SUM_BLOCK <= data_end; i++) {
		sum = (__u32)bpf_csum_diff(NULL, 0, at, SUM_BLOCK, sum);
		at += SUM_BLOCK;
	}
	data = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	left = data_end - data - offset;
	at = data + offset + (left & MOST_BLOCKS);
	asm volatile("" : "+r"(at)); /* clang else adds it up anew behind the check, and the verifier sees another pointer */
	for (__u32 i = 0; i < SUM_BLOCK / sizeof(__u16) && at + sizeof(__u16) <= data_end; i++) {
		sum += *(__u16 *)at;
		at += sizeof(__u16);
	}
	if (left & 1) {
		at = data + offset + (left & MOST_OCTETS & ~1);
		asm volatile("" : "+r"(at));
		if (at + 1 <= data_end)
			sum += bpf_htons(*(__u8 *)at << 8);
	}
	return fold(sum);
}

/* Room for `headers` octets behind the Ethernet header, whose MACs are turned, and nothing behind the quote. */
static __always_inline bool make_room(struct xdp_md *ctx, const struct packet *packet, int headers, __u32 most)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethernet_header *eth = data, macs;
	__u32 quote = data_end - data - sizeof(*eth);

	if ((void *)(eth + 1) > data_end)
		return false;
	macs = *eth;
	if (quote > packet->l3_length)
		quote = packet->l3_length;
	if (quote > most)
		quote = most;
	int surplus = packet->length - sizeof(*eth) - quote;

	if (bpf_xdp_adjust_head(ctx, -headers))
		return false;
	if (surplus > 0 && bpf_xdp_adjust_tail(ctx, -surplus)) {
		bpf_xdp_adjust_head(ctx, headers);
		return false;
	}
	data = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	eth = data;
	if ((void *)(eth + 1) > data_end)
		return false;
	*eth = macs;
	turn_around(eth);
	return true;
}

static __always_inline enum verdict report4(struct xdp_md *ctx, const struct packet *packet, __u32 mtu)
{
	struct icmp_header error = { .type = mtu ? ICMP_UNREACHABLE : ICMP_TIME_EXCEEDED,
				     .code = mtu ? ICMP_UNREACHABLE_TOO_BIG : 0,
				     .rest = bpf_htonl(mtu) };
	struct iphdr header = { .version = 4, .ihl = 5, .tos = ANSWER_TOS, .ttl = ANSWER_TTL, .protocol = IPPROTO_ICMP };

	if (!make_room(ctx, packet, sizeof(header) + sizeof(error), QUOTE4))
		return CONTINUE;
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethernet_header);
	struct icmp_header *icmp = (void *)(ip + 1);

	if ((void *)(icmp + 1) > data_end)
		return DROP_MALFORMED;
	header.tot_len = bpf_htons(data_end - (void *)ip);
	header.frag_off = bpf_htons(IPV4_DONT_FRAGMENT);
	header.saddr = packet->destination.words[0];
	header.daddr = packet->source.words[0];
	*ip = header;
	__u64 sum = 0;

#pragma unroll
	for (__u32 i = 0; i < sizeof(header) / sizeof(__u32); i++)
		sum += ((__u32 *)ip)[i];
	ip->check = ~fold(sum);
	*icmp = error;
	icmp->check = ~sum_to_end(ctx, (void *)icmp - data);
	return ANSWERED_ERROR;
}

static __always_inline enum verdict report6(struct xdp_md *ctx, const struct packet *packet, __u32 mtu)
{
	struct icmp_header error = { .type = mtu ? ICMPV6_TOO_BIG : ICMPV6_TIME_EXCEEDED, .rest = bpf_htonl(mtu) };
	struct ipv6hdr header = { .version = 6, .hop_limit = ANSWER_TTL, .nexthdr = IPPROTO_ICMPV6 };

	if (!make_room(ctx, packet, sizeof(header) + sizeof(error), QUOTE6))
		return CONTINUE;
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + sizeof(struct ethernet_header);
	struct icmp_header *icmp = (void *)(ip + 1);

	if ((void *)(icmp + 1) > data_end)
		return DROP_MALFORMED;
	__u32 length = data_end - (void *)icmp;
	/* the pseudo-header: both addresses, the length, the protocol (RFC 8200 section 8.1) */
	__u64 sum = (__u64)bpf_htonl(length) + bpf_htonl(IPPROTO_ICMPV6);

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)packet->source.words[i] + packet->destination.words[i];
	header.payload_len = bpf_htons(length);
	*ip = header;
	*(ip6_t *)&ip->saddr = packet->destination;
	*(ip6_t *)&ip->daddr = packet->source;
	*icmp = error;
	icmp->check = ~fold(sum + sum_to_end(ctx, (void *)icmp - data));
	return ANSWERED_ERROR;
}

/* ANSWERED_ERROR: it is too big for `mtu` octets of IP packet, or, where that is 0, it has no hop left. */
static __noinline enum verdict answer_error(struct xdp_md *ctx, const struct packet *packet, __u32 mtu)
{
	if (!may_report(packet))
		return CONTINUE;
	return packet->family == 4 ? report4(ctx, packet, mtu) : report6(ctx, packet, mtu);
}

/*
 * The action that sends an answer back. A veth would do with XDP_TX what is of no use: the frame lies at its peer until
 * something else wakes that, unless it has a program too (veth_xdp_flush of drivers/net/veth.c does not ask for GRO). A
 * redirect to the device itself arrives; XDP_TX is for those that take none.
 */
static __always_inline int send_back(struct xdp_md *ctx)
{
	__u32 first_buffer = ctx->data_end - ctx->data, slot = interface_slot;

	if (generic_mode || (frags && bpf_xdp_get_buff_len(ctx) > first_buffer))
		return XDP_TX;
	return bpf_redirect_map(&egress_native, slot, XDP_TX);
}
