/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* judge: what no router forwards, or the kernel alone, whatever its destination. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "cache.h"
#include "config.h"
#include "layout.h"
#include "maps.h"
#include "parse.h"

/* The first octet of IPv4 addresses that are unicast, whatever follows. */
static __always_inline bool is_plain(__u32 octet)
{
	return octet - 1 < 223 && octet != 127;
}

/* What the kernel's ip_route_input would call martian, broadcast or multicast (net/ipv4/route.c). */
static __always_inline enum verdict judge_ipv4(const struct state *s, const struct packet *packet)
{
	if (!is_plain(packet->source.octets[0]) || !is_plain(packet->destination.octets[0])) {
		__u32 source = bpf_ntohl(packet->source.words[0]);
		__u32 destination = bpf_ntohl(packet->destination.words[0]);

		if (destination >> 28 == 14 || destination == 0xffffffff)
			return PASS_MULTICAST;
		if (source >> 28 == 14 || source == 0xffffffff || source >> 24 == 127 || source >> 24 == 0 ||
		    destination >> 24 == 127 || destination >> 24 == 0)
			return PASS_MARTIAN;
	}

	/* the kernel drops a packet that came in with one of its own addresses as its source */
	struct prefix4 sender = { .length = 32, .address = packet->source.words[0] };
	__u32 bit = local_bit(s, sender.address);

	if (s->local_bloom[bit / 64] >> (bit % 64) & 1 && bpf_map_lookup_elem(&local4, &sender))
		return PASS_MARTIAN;
	if (packet->flags & PACKET_OPTIONS)
		return PASS_OPTIONS;
	return CONTINUE;
}

static __always_inline bool is_loopback_or_unspecified(const ip6_t *address)
{
	return address->halves[0] == 0 && address->words[2] == 0 && bpf_ntohl(address->words[3]) <= 1;
}

/* What ip6_rcv and ip6_forward would not forward (net/ipv6/ip6_input.c, ip6_output.c). */
static __always_inline enum verdict judge_ipv6(const struct packet *packet)
{
	const ip6_t *source = &packet->source, *destination = &packet->destination;

	if (destination->octets[0] == 0xff)
		return PASS_MULTICAST;
	if (source->octets[0] == 0xff || is_loopback_or_unspecified(source) || is_loopback_or_unspecified(destination) ||
	    (source->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||
	    (destination->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000))
		return PASS_MARTIAN;
	if (packet->flags & PACKET_HOP_BY_HOP)
		return PASS_OPTIONS;
	return CONTINUE;
}

static __always_inline enum verdict judge_ethernet(struct xdp_md *ctx, const struct interface *ingress)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;

	if (data + sizeof(struct ethernet_header) > data_end)
		return PASS_MALFORMED;
	mac_word_t addressed = *(mac_word_t *)data & MAC_WORD_MAC;

	if (addressed != ingress->mac)
		return addressed & MAC_WORD_GROUP ? PASS_MULTICAST : PASS_OTHER_HOST;
	return CONTINUE;
}
