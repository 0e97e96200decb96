/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * decap: what is encapsulated for an address of ours, by a source that is accepted, loses its outer header and goes to
 * the host's stack. A GUE packet's UDP checksum is not looked at: what is inside has its own.
 */
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
#include "judge.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"
#include "trace.h"

#define ECN_MASK 3
#define ECN_NOT_CAPABLE 0
#define ECN_CONGESTION 3

/* A tunnel's packet. Rows of decap_count begin with 1. */
struct tunnelled {
	enum encapsulation encapsulation;
	__u32 row; /* of decap_count; 0: the source is not accepted */
	__u32 offset; /* of the inner header */
	__u32 room; /* octets that the outer header leaves for the inner packet */
	__u32 family; /* inner; 0: it is neither */
	__u8 tos; /* outer */
};

/*
 * RFC 6040 section 4.2, but for one case: congestion on the way of a packet that cannot say so. It would be dropped
 * there; here it is kept, as it was, since whoever marked it has already let it through.
 */
static __always_inline __u8 joined_ecn(__u8 outer, __u8 inner)
{
	if ((inner & ECN_MASK) == ECN_NOT_CAPABLE || (inner & ECN_MASK) == ECN_CONGESTION || !(outer & 1))
		return inner;
	return (inner & ~ECN_MASK) | (outer & ECN_MASK); /* ECT(1) or congestion */
}

static __always_inline struct decap_note *decap_note(void)
{
	struct trace_event *event = trace ? trace_slot() : NULL;

	return event ? &event->decap : NULL;
}

static __always_inline void note_outer(const struct tunnelled *tunnelled, __u32 family, const ip6_t *source,
				       const ip6_t *destination)
{
	struct decap_note *note = decap_note();

	if (!note)
		return;
	note->encapsulation = tunnelled->encapsulation;
	note->decap = tunnelled->row;
	note->accepted = tunnelled->row != 0;
	note->overhead = tunnelled->offset - sizeof(struct ethernet_header);
	note->outer_source = *source;
	note->outer_destination = *destination;
	note->outer_family = family;
}

static __always_inline void note_inner(__u32 family)
{
	struct decap_note *note = decap_note();

	if (note)
		note->inner_family = family;
}

static __always_inline void count_decap(__u32 row, __u32 length)
{
	struct counter *counter = dry_run ? NULL : bpf_map_lookup_elem(&decap_count, &row);

	if (counter) {
		counter->packets++;
		counter->bytes += length;
	}
}

static __always_inline bool is_gue_port(__be16 port)
{
	__u32 zero = 0;
	struct decap_ports *known = bpf_map_lookup_elem(&decap_ports, &zero);

	if (!known || !port)
		return false;
#pragma unroll
	for (int i = 0; i < DECAP_PORTS; i++)
		if (known->ports[i] == port)
			return true;
	return false;
}

static __always_inline bool is_ours(const __u32 *encapsulations, enum encapsulation encapsulation)
{
	return encapsulations && *encapsulations >> encapsulation & 1;
}

/* Fills in the row, 0 where the source is not accepted; false where nothing is decapsulated for the address. */
static __always_inline bool look_up_tunnel4(const struct iphdr *ip, struct tunnelled *tunnelled)
{
	struct decap_key4 key = { .length = 96, .encapsulation = bpf_htonl(tunnelled->encapsulation) };
	__u32 *row;

	key.local = ip->daddr;
	key.source = ip->saddr;
	if (!is_ours(bpf_map_lookup_elem(&decap_local4, &key.local), tunnelled->encapsulation))
		return false;
	row = bpf_map_lookup_elem(&decap4, &key);
	tunnelled->row = row ? *row : 0;
	tunnelled->tos = ip->tos;
	note_outer(tunnelled, 4, &(ip6_t){ .words = { key.source } }, &(ip6_t){ .words = { key.local } });
	return true;
}

static __always_inline bool look_up_tunnel6(const struct ipv6hdr *ip, struct tunnelled *tunnelled)
{
	struct decap_key6 key = { .length = 288, .encapsulation = bpf_htonl(tunnelled->encapsulation) };
	ip6_t local = *(ip6_t *)&ip->daddr, source = *(ip6_t *)&ip->saddr;
	__u32 *row;

	__builtin_memcpy(&key.local, &local, sizeof(local));
	__builtin_memcpy(&key.source, &source, sizeof(source));
	if (!is_ours(bpf_map_lookup_elem(&decap_local6, &local), tunnelled->encapsulation))
		return false;
	row = bpf_map_lookup_elem(&decap6, &key);
	tunnelled->row = row ? *row : 0;
	tunnelled->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	note_outer(tunnelled, 6, &source, &local);
	return true;
}

/*
 * The UDP header of GUE, and the version in what follows, which says variant 1 as well as the family (draft-ietf-intarea-gue
 * section 4). False where it is not for a port of ours; what is too short keeps no room for an inner packet.
 */
static __always_inline bool open_udp(void *data, void *data_end, struct tunnelled *tunnelled)
{
	struct udphdr *udp = data + tunnelled->offset;
	__u8 *first = (void *)(udp + 1);
	__u32 length;

	if (tunnelled->room < sizeof(*udp) || (void *)first > data_end || !is_gue_port(udp->dest))
		return false;
	length = bpf_ntohs(udp->len);
	tunnelled->room = length >= sizeof(*udp) && length <= tunnelled->room ? length - sizeof(*udp) : 0;
	tunnelled->offset += sizeof(*udp);
	if ((void *)(first + 1) <= data_end)
		tunnelled->family = *first >> 4 == 4 ? 4 : *first >> 4 == 6 ? 6 : 0;
	return true;
}

static __always_inline bool is_right_inner4(const struct iphdr *ip, __u32 room)
{
	__u32 version_and_length = *(__u8 *)ip, header = version_and_length % 16 * 4, length = bpf_ntohs(ip->tot_len);

	if (version_and_length / 16 != 4 || header < sizeof(*ip) || length < header || length > room)
		return false;
	/* with options the checksum is left to the kernel, which gets the packet */
	return version_and_length != IPV4_NO_OPTIONS || ipv4_checksum_right(ip);
}

static __always_inline bool is_right_inner6(const struct ipv6hdr *ip, __u32 room)
{
	return ip->version == 6 && sizeof(*ip) + bpf_ntohs(ip->payload_len) <= room;
}

/* As the sum of two ones' complement numbers changes with one of its 16-bit words (RFC 1624). */
static __always_inline void set_tos(struct iphdr *ip, __u8 tos)
{
	__u32 sum = (__u16)~ip->check + (__u16)~bpf_htons(ip->tos) + bpf_htons(tos);

	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~((sum & 0xffff) + (sum >> 16));
	ip->tos = tos;
}

static __always_inline void join_ecn(void *data, void *data_end, __u32 family, __u8 outer)
{
	struct ipv6hdr *ip6 = data;
	struct iphdr *ip4 = data;

	if (family == 4 && (void *)(ip4 + 1) <= data_end) {
		__u8 tos = joined_ecn(outer, ip4->tos);

		if (tos != ip4->tos)
			set_tos(ip4, tos);
	} else if (family == 6 && (void *)(ip6 + 1) <= data_end) {
		__u8 tos = joined_ecn(outer, ip6->priority << 4 | ip6->flow_lbl[0] >> 4);

		ip6->flow_lbl[0] = (ip6->flow_lbl[0] & 0x0f) | tos << 4; /* ECN is in the lower half of the class */
	}
}

/* The Ethernet header goes along, with the type of what is now behind it. CONTINUE with all as it was, or done. */
static __always_inline enum verdict take_off(struct xdp_md *ctx, const struct tunnelled *tunnelled)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethernet_header *eth = data, macs;

	if ((void *)(eth + 1) > data_end)
		return CONTINUE;
	macs = *eth;
	if (bpf_xdp_adjust_head(ctx, tunnelled->offset - sizeof(*eth)))
		return CONTINUE;
	data = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	eth = data;
	if ((void *)(eth + 1) > data_end)
		return DROP_MALFORMED;
	macs.ethertype = tunnelled->family == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	*eth = macs;
	join_ecn(eth + 1, data_end, tunnelled->family, tunnelled->tos);
	return DECAPSULATED;
}

/* The outer header: which tunnel it is, and where the inner packet begins. False where it is none of ours. */
static __always_inline bool open_outer(struct xdp_md *ctx, __u32 protocol, struct tunnelled *tunnelled)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethernet_header *eth = data;
	struct iphdr *ip4 = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);

	if ((void *)(ip4 + 1) > data_end)
		return false;
	bool ipv4 = eth->ethertype == bpf_htons(ETH_P_IP);

	if (!ipv4 && (void *)(ip6 + 1) > data_end)
		return false;
	tunnelled->offset = sizeof(*eth) + (ipv4 ? sizeof(*ip4) : sizeof(*ip6));
	tunnelled->room = ipv4 ? bpf_ntohs(ip4->tot_len) - sizeof(*ip4) : bpf_ntohs(ip6->payload_len);
	tunnelled->family = protocol == IPPROTO_IPIP ? 4 : 6;
	tunnelled->encapsulation = protocol == IPPROTO_UDP ? ENCAPSULATION_GUE : ENCAPSULATION_IPIP;
	if (protocol == IPPROTO_UDP && !open_udp(data, data_end, tunnelled))
		return false;
	return ipv4 ? look_up_tunnel4(ip4, tunnelled) : look_up_tunnel6(ip6, tunnelled);
}

/*
 * A function of its own, with numbers for arguments: the verifier checks it once, and nothing is kept for it on the way
 * of other packets. The outer header has neither options nor extension headers. `cut`: the frame is in several buffers,
 * so that what is missing from the first may be in the next.
 */
__noinline __u32 open_tunnel(struct xdp_md *ctx, __u32 protocol, __u32 length, bool cut)
{
	struct tunnelled tunnelled = {};

	if (!open_outer(ctx, protocol, &tunnelled))
		return CONTINUE;
	if (!tunnelled.row)
		return DROP_NOT_ACCEPTED;
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	void *inner = data + tunnelled.offset;
	__u32 header = tunnelled.family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	bool right = false;

	if (!tunnelled.family || tunnelled.room < header)
		return DROP_MALFORMED;
	if (inner + sizeof(struct iphdr) <= data_end && tunnelled.family == 4)
		right = is_right_inner4(inner, tunnelled.room);
	else if (inner + sizeof(struct ipv6hdr) <= data_end && tunnelled.family == 6)
		right = is_right_inner6(inner, tunnelled.room);
	else if (cut)
		return CONTINUE;
	if (!right)
		return DROP_MALFORMED;
	enum verdict verdict = take_off(ctx, &tunnelled);

	if (verdict == DECAPSULATED) {
		note_inner(tunnelled.family);
		count_decap(tunnelled.row, length);
	}
	return verdict;
}

static __always_inline bool may_be_tunnel(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	struct ethernet_header *eth = data;
	struct iphdr *ip4 = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);
	__u8 protocol;

	if ((void *)(ip4 + 1) > data_end)
		return false;
	protocol = eth->ethertype == bpf_htons(ETH_P_IP) ? ip4->protocol : ip6->nexthdr;
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 || protocol == IPPROTO_UDP;
}

/*
 * A function of its own, that asks for little before it parses: most packets are no tunnel's. Returns the verdict and,
 * in the upper half, the length of the frame as it came.
 */
__noinline __u64 decapsulate(struct xdp_md *ctx)
{
	__u32 slot = interface_slot;
	struct interface *ingress = bpf_map_lookup_elem(&interfaces, &slot);
	struct packet packet;

	if (!ingress || !may_be_tunnel(ctx) || judge_ethernet(ctx, ingress) != CONTINUE)
		return CONTINUE;
	KEEP_IN_MEMORY(packet);
	if (parse(ctx, ingress, &packet) != CONTINUE || packet.flags & (PACKET_FRAGMENT | PACKET_OPTIONS))
		return CONTINUE;
	return open_tunnel(ctx, packet.protocol, packet.length, packet.flags & PACKET_SEVERAL_BUFFERS) |
	       (__u64)packet.length << 32;
}
