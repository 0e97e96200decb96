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
#define IPV4_NO_OPTIONS 0x45 /* version 4, a header of five words */
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV6_FRAGMENT_OFFSET_AND_MORE 0xfff9
#define IPV6_FRAGMENT_OFFSET 0xfff8

/* struct ethhdr is packed, so clang would take it apart into octets */
struct ethernet_header {
	__be16 destination[3];
	__be16 source[3];
	__be16 ethertype;
};

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

/*
 * RFC 791 section 3.1: the ones' complement sum over a header with a right checksum is all ones. That of five words has
 * 35 bits, so two folds leave at most 65,544, where only 65,535 is a multiple of 65,535.
 */
static __always_inline bool ipv4_checksum_right(const struct iphdr *ip)
{
	const __u32 *words = (const __u32 *)ip;
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 5; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static __always_inline enum verdict parse_ipv4(struct xdp_md *ctx, __u32 offset, struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + offset;

	packet->l3_offset = offset;
	if ((void *)(ip + 1) > data_end)
		return PASS_MALFORMED;
	__u32 version_and_length = *(__u8 *)ip, header_length = version_and_length % 16 * 4;

	packet->family = 4;
	packet->tos = ip->tos;
	packet->ttl = ip->ttl;
	packet->protocol = ip->protocol;
	packet->l3_length = bpf_ntohs(ip->tot_len);
	packet->source = (ip6_t){ .halves = { ip->saddr } };
	packet->destination = (ip6_t){ .halves = { ip->daddr } };
	if (ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET))
		packet->flags |= PACKET_FRAGMENT;
	if (ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET))
		packet->flags |= PACKET_LATER_FRAGMENT;
	if (version_and_length != IPV4_NO_OPTIONS)
		packet->flags |= PACKET_OPTIONS; /* its checksum is left to who gets the packet: the kernel, or a backend */
	if (version_and_length != IPV4_NO_OPTIONS && (version_and_length / 16 != 4 || header_length < sizeof(*ip)))
		return PASS_MALFORMED;
	if (packet->l3_length < header_length || offset + packet->l3_length > packet->length)
		return PASS_MALFORMED;
	return packet->flags & PACKET_OPTIONS || ipv4_checksum_right(ip) ? CONTINUE : PASS_MALFORMED;
}

static __always_inline void parse_l4_ipv4(struct xdp_md *ctx, struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u32 offset = packet->l3_offset;
	struct iphdr *ip = data + offset;

	if (offset <= DEEPEST_HEADER && (void *)(ip + 1) <= data_end)
		parse_l4(data, data_end, offset + ip->ihl * 4, packet);
}

/* Where a walk along extension headers ended: what follows, at which offset, and flags for the packet. */
static __always_inline __u64 walk_end(__u32 offset, __u8 protocol, __u16 flags)
{
	return (__u64)flags << 32 | (__u32)protocol << 16 | offset;
}

/*
 * RFC 8200 section 4. A router acts on hop-by-hop only; the others are walked for the L4 header behind them. A function
 * of its own, with numbers for arguments and result: the verifier checks it once, not once a way through it.
 */
__noinline __u64 walk_extension_headers(struct xdp_md *ctx, __u32 offset, __u32 end, __u8 protocol)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u16 flags = 0;

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

static __always_inline enum verdict parse_ipv6(struct xdp_md *ctx, __u32 offset, struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + offset;

	packet->l3_offset = offset;
	if ((void *)(ip + 1) > data_end)
		return PASS_MALFORMED;
	__u32 l3_length = sizeof(*ip) + bpf_ntohs(ip->payload_len);

	packet->family = 6;
	packet->protocol = ip->nexthdr;
	packet->ttl = ip->hop_limit;
	packet->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	packet->l3_length = l3_length;
	packet->source = *(ip6_t *)&ip->saddr;
	packet->destination = *(ip6_t *)&ip->daddr;
	if (ip->nexthdr == IPPROTO_HOPOPTS)
		packet->flags |= PACKET_HOP_BY_HOP;
	/* one of over 65,535 octets fits no frame that carries its length here; jumbograms are hop-by-hop */
	if (ip->version != 6 || l3_length > 0xffff || offset + l3_length > packet->length)
		return PASS_MALFORMED;
	return CONTINUE;
}

/* The frame's length and EtherType; returns whether it has one. */
static __always_inline bool parse_ethernet(struct xdp_md *ctx, const struct interface *ingress, struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethernet_header *eth = data;

	/* asking for the length of a frame in several buffers costs 9 ns, so only where it can be one */
	packet->length = data_end - data;
	if (frags && (packet->length > SHORT_BUFFER || !ingress || !(ingress->flags & INTERFACE_ONE_BUFFER))) {
		packet->length = bpf_xdp_get_buff_len(ctx);
		if (packet->length > data_end - data)
			packet->flags |= PACKET_SEVERAL_BUFFERS;
	}
	if ((void *)(eth + 1) > data_end)
		return false;
	packet->ethertype = eth->ethertype;
	return true;
}

/* Returns where the tags end, 0 where the frame ends first. */
static __always_inline __u32 parse_tags(struct xdp_md *ctx, struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	__u32 offset = sizeof(struct ethernet_header);

#pragma unroll
	for (int i = 0; i < VLAN_TAGS; i++) {
		struct vlan_header *tag = data + offset;

		if (!is_vlan(packet->ethertype))
			break;
		if ((void *)(tag + 1) > data_end)
			return 0;
		packet->tag[i] = tag->tci;
		packet->tags = i + 1;
		packet->ethertype = tag->ethertype;
		offset += sizeof(*tag);
	}
	return offset;
}

/* All of a packet, whatever it is. CONTINUE only for IP right behind the Ethernet header. */
static __noinline enum verdict parse(struct xdp_md *ctx, const struct interface *ingress,
				     struct packet *packet)
{
	enum verdict verdict = CONTINUE;
	__u32 offset = 0;

	__builtin_memset(packet, 0, sizeof(*packet));
	if (parse_ethernet(ctx, ingress, packet))
		offset = parse_tags(ctx, packet);
	if (!offset)
		return PASS_MALFORMED;
	if (packet->ethertype == bpf_htons(ETH_P_IP))
		verdict = parse_ipv4(ctx, offset, packet);
	else if (packet->ethertype == bpf_htons(ETH_P_IPV6))
		verdict = parse_ipv6(ctx, offset, packet);
	else if (!packet->tags)
		verdict = PASS_NOT_IP;
	return verdict == CONTINUE && packet->tags ? PASS_VLAN : verdict;
}

/* What is no IP packet right behind the Ethernet header. */
static __noinline enum verdict parse_other(struct xdp_md *ctx, const struct interface *ingress)
{
	struct packet packet;

	return parse(ctx, ingress, &packet);
}
