/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* parse: what the packet is. Reads headers once into struct packet; later steps read that. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "config.h"
#include "layout.h"

#define VLAN_TAGS 2
#define SHORT_BUFFER 1600 /* no driver splits a frame into buffers as short as this, but for its headers */
#define EXTENSION_HEADERS 6
#define DEEPEST_HEADER 0x3fff /* an offset that the verifier is sure of */
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV6_FRAGMENT_OFFSET_AND_MORE 0xfff9
#define IPV6_FRAGMENT_OFFSET 0xfff8

struct vlan_header {
	__be16 tci;
	__be16 ethertype;
};

struct extension_header {
	__u8 next;
	__u8 length; /* in 8 octets, the first not counted; of AH in 4, less two */
	__be16 fragment_offset; /* of a fragment header */
};

static __always_inline bool is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

static __always_inline bool is_extension_header(__u8 protocol)
{
	return protocol == IPPROTO_ROUTING || protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_AH || protocol == IPPROTO_HOPOPTS;
}

/* Ports or ICMP type, where the first fragment has them. Only needed by steps that look at flows, and by trace. */
static __always_inline void parse_l4(void *data, void *data_end, __u32 offset, struct packet *packet)
{
	__u8 *header = data + offset;

	if (packet->flags & PACKET_LATER_FRAGMENT)
		return;
	/* what follows the IP packet in the frame is padding, whatever it looks like */
	if (offset + 4 > packet->l3_offset + packet->l3_length || (void *)(header + 4) > data_end) {
		packet->flags |= PACKET_L4_TRUNCATED;
		return;
	}
	packet->l4_offset = offset;
	switch (packet->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		packet->source_port = *(__be16 *)header;
		packet->destination_port = *(__be16 *)(header + 2);
		packet->flags |= PACKET_PORTS;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		packet->icmp_type = header[0];
		packet->icmp_code = header[1];
		packet->flags |= PACKET_ICMP;
		break;
	}
}

/* RFC 791 section 3.1; the sum over a header with a right checksum is all ones. */
static __always_inline bool ipv4_checksum_right(const struct iphdr *ip)
{
	const __u32 *words = (const __u32 *)ip;
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 5; i++)
		sum += words[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static __always_inline enum verdict parse_ipv4(void *data, void *data_end, __u32 offset, struct packet *packet)
{
	struct iphdr *ip = data + offset;

	packet->l3_offset = offset;
	if ((void *)(ip + 1) > data_end || ip->version != 4 || ip->ihl < 5)
		return PASS_MALFORMED;
	__u32 header_length = ip->ihl * 4;
	__u16 fragment = bpf_ntohs(ip->frag_off);

	packet->family = 4;
	packet->protocol = ip->protocol;
	packet->ttl = ip->ttl;
	packet->tos = ip->tos;
	packet->l3_length = bpf_ntohs(ip->tot_len);
	packet->source.words[0] = ip->saddr;
	packet->destination.words[0] = ip->daddr;
	if (fragment & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET))
		packet->flags |= PACKET_FRAGMENT;
	if (fragment & IPV4_FRAGMENT_OFFSET)
		packet->flags |= PACKET_LATER_FRAGMENT;
	if (packet->l3_length < header_length || offset + packet->l3_length > packet->length)
		return PASS_MALFORMED;
	if (header_length > sizeof(*ip))
		packet->flags |= PACKET_OPTIONS; /* its checksum is left to the kernel, which gets the packet */
	else if (!ipv4_checksum_right(ip))
		return PASS_MALFORMED;
	if (trace)
		parse_l4(data, data_end, offset + header_length, packet);
	return CONTINUE;
}

/* Where a walk along extension headers ended: what follows, at which offset, and flags for the packet. */
static __always_inline __u64 walk_end(__u32 offset, __u8 protocol, __u8 flags)
{
	return (__u64)flags << 32 | (__u32)protocol << 16 | offset;
}

/*
 * RFC 8200 section 4. A router acts on hop-by-hop only; the others are walked for the L4 header behind them. A function
 * of its own, with numbers for arguments and result: the verifier checks it once, not once a way through it.
 */
__attribute__((noinline)) __u64 walk_extension_headers(struct xdp_md *ctx, __u32 offset, __u32 end, __u8 protocol)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u8 flags = 0;

	for (int i = 0; i < EXTENSION_HEADERS && is_extension_header(protocol); i++) {
		struct extension_header *header = data + offset;

		if (offset > DEEPEST_HEADER || offset + sizeof(*header) > end || (void *)(header + 1) > data_end)
			return walk_end(0, protocol, flags | PACKET_L4_TRUNCATED);
		flags |= PACKET_EXTENSION;
		if (protocol == IPPROTO_FRAGMENT) {
			__u16 fragment = bpf_ntohs(header->fragment_offset);

			if (fragment & IPV6_FRAGMENT_OFFSET_AND_MORE)
				flags |= PACKET_FRAGMENT;
			if (fragment & IPV6_FRAGMENT_OFFSET) /* what follows is payload, whatever it looks like */
				return walk_end(0, header->next, flags | PACKET_LATER_FRAGMENT);
			offset += 8;
		} else {
			offset += protocol == IPPROTO_AH ? (header->length + 2) * 4 : (header->length + 1) * 8;
		}
		protocol = header->next;
	}
	return walk_end(offset, protocol, flags);
}

static __always_inline void parse_extension_headers(struct xdp_md *ctx, __u32 offset, struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u32 end = packet->l3_offset + packet->l3_length;
	__u64 walked = walk_extension_headers(ctx, offset, end, packet->protocol);

	packet->flags |= walked >> 32;
	packet->protocol = walked >> 16;
	offset = walked & 0xffff;
	if (!is_extension_header(packet->protocol) && offset && offset <= DEEPEST_HEADER)
		parse_l4(data, data_end, offset, packet);
}

static __always_inline enum verdict parse_ipv6(struct xdp_md *ctx, void *data, void *data_end, __u32 offset,
					       struct packet *packet)
{
	struct ipv6hdr *ip = data + offset;

	packet->l3_offset = offset;
	if ((void *)(ip + 1) > data_end || ip->version != 6)
		return PASS_MALFORMED;
	__u32 l3_length = sizeof(*ip) + bpf_ntohs(ip->payload_len);

	packet->family = 6;
	packet->protocol = ip->nexthdr;
	packet->ttl = ip->hop_limit;
	packet->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	__builtin_memcpy(&packet->source, &ip->saddr, sizeof(ip6_t));
	__builtin_memcpy(&packet->destination, &ip->daddr, sizeof(ip6_t));
	if (ip->nexthdr == IPPROTO_HOPOPTS)
		packet->flags |= PACKET_HOP_BY_HOP;
	/* one of over 65,535 octets fits no frame that carries its length here; jumbograms are hop-by-hop */
	if (l3_length > 0xffff || offset + l3_length > packet->length)
		return PASS_MALFORMED;
	packet->l3_length = l3_length;
	if (trace)
		parse_extension_headers(ctx, offset + sizeof(*ip), packet);
	return CONTINUE;
}

static __always_inline enum verdict parse(struct xdp_md *ctx, const struct interface *ingress, struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u32 offset = sizeof(*eth);

	/* asking for the length of a frame in several buffers costs 9 ns, so only where it can be one */
	packet->length = data_end - data;
	if (frags && (packet->length > SHORT_BUFFER || !ingress || !(ingress->flags & INTERFACE_ONE_BUFFER)))
		packet->length = bpf_xdp_get_buff_len(ctx);
	if ((void *)(eth + 1) > data_end)
		return PASS_MALFORMED;
	__be16 ethertype = eth->h_proto;

#pragma unroll
	for (int i = 0; i < VLAN_TAGS; i++) {
		struct vlan_header *tag = data + offset;

		if (!is_vlan(ethertype))
			break;
		if ((void *)(tag + 1) > data_end)
			return PASS_MALFORMED;
		packet->tag[i] = tag->tci;
		packet->tags = i + 1;
		ethertype = tag->ethertype;
		offset += sizeof(*tag);
	}
	packet->ethertype = ethertype;
	if (ethertype == bpf_htons(ETH_P_IP))
		return parse_ipv4(data, data_end, offset, packet);
	if (ethertype == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(ctx, data, data_end, offset, packet);
	return packet->tags ? PASS_VLAN : PASS_NOT_IP;
}
