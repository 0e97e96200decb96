/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * quoted: the flow that an ICMP error is about. A router on the way to a client tells the VIP, in whose name the backend
 * sends; the packet that it quotes says which client's flow that was, and so which backend should hear of it.
 */
#pragma once

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "icmp.h"
#include "layout.h"
#include "parse.h"

/* Where the flow is told: offsets in the frame, since what calls this has a short stack. */
struct quoted {
	__u16 client_offset; /* of the client's address, the quoted packet's destination */
	__u16 ports_offset; /* of the service's port, then the client's */
	__be16 service_port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
};

static __always_inline bool is_about_a_packet(const struct packet *packet)
{
	__u8 type = packet->icmp_type;

	if (!(packet->flags & PACKET_ICMP) || packet->flags & PACKET_FRAGMENT)
		return false;
	if (packet->family == 4)
		return packet->protocol == IPPROTO_ICMP &&
		       (type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM);
	return packet->protocol == IPPROTO_ICMPV6 && type >= ICMPV6_UNREACHABLE &&
	       type <= ICMPV6_PARAMETER_PROBLEM;
}

/* Where the L4 header of the quoted packet begins, 0 where it has none. Its lengths are of when it was whole. */
static __always_inline __u32 quoted4(void *data, void *data_end, __u32 offset, const struct packet *packet,
				     struct quoted *quoted)
{
	struct iphdr *ip = data + offset;

	if ((void *)(ip + 1) > data_end)
		return 0;
	__u32 version_and_length = *(__u8 *)ip, length = version_and_length % 16 * 4;

	if (version_and_length / 16 != 4 || length < sizeof(*ip) || ip->saddr != packet->destination.words[0] ||
	    ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET))
		return 0;
	quoted->client_offset = offset + offsetof(struct iphdr, daddr);
	quoted->protocol = ip->protocol;
	return offset + length;
}

static __always_inline __u32 quoted6(struct xdp_md *ctx, void *data, void *data_end, __u32 offset,
				     const struct packet *packet, struct quoted *quoted)
{
	struct ipv6hdr *ip = data + offset;

	if ((void *)(ip + 1) > data_end || ip->version != 6)
		return 0;
	ip6_t source = *(ip6_t *)&ip->saddr;

	if (source.halves[0] != packet->destination.halves[0] || source.halves[1] != packet->destination.halves[1])
		return 0;
	quoted->client_offset = offset + offsetof(struct ipv6hdr, daddr);
	__u32 end = packet->l3_offset + packet->l3_length;
	__u64 walked = walk_extension_headers(ctx, offset + sizeof(*ip), end, ip->nexthdr);

	quoted->protocol = walked >> 16;
	return walked & 0xffff; /* 0 for a later fragment, and where the quote ends first */
}

/*
 * Whether this packet, parsed to its L4 header, is an error about a TCP or UDP packet that its destination sent. Eight
 * octets of the L4 header, as RFC 792 quotes them, are enough: four of them are read.
 */
static __noinline bool quoted_flow(struct xdp_md *ctx, const struct packet *packet, struct quoted *quoted)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u32 offset = packet->l4_offset + sizeof(struct icmp_header), l4;

	if (!is_about_a_packet(packet) || offset > DEEPEST_HEADER)
		return false;
	l4 = packet->family == 4 ? quoted4(data, data_end, offset, packet, quoted) :
				   quoted6(ctx, data, data_end, offset, packet, quoted);
	if (!l4 || l4 > DEEPEST_HEADER || l4 + 4 > (__u32)packet->l3_offset + packet->l3_length)
		return false;
	if (quoted->protocol != IPPROTO_TCP && quoted->protocol != IPPROTO_UDP)
		return false;
	data = (void *)(long)ctx->data; /* a call with ctx may have moved it, for all the verifier knows */
	data_end = (void *)(long)ctx->data_end;
	__be16 *ports = data + l4;

	if ((void *)(ports + 2) > data_end)
		return false;
	quoted->ports_offset = l4;
	quoted->service_port = ports[0];
	return true;
}
